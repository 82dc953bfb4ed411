//! Who is to lead a shard, and how the lead is handed over: by a node that leaves, and so that the nodes
//! share the work (DESIGN §6 "Leads").

use std::collections::BTreeMap;
use std::time::Duration;

use railgun_core::catalog::Placement;
use railgun_core::command::NodeState;
use railgun_raft::{RaftShard, TransferError};
use railgun_types::{NodeId, ReplicaId, ShardId};
use tokio::time::Instant;

use crate::catalog::ClusterView;

/// A lead moves to whoever is to have it only after the shard has been led by one node for so long, and
/// the other was fit to lead all that time.
pub(crate) const QUIET: Duration = Duration::from_secs(10);
/// A lead that comes back each time moves this seldom at last, and after so long it is as if it never had.
const QUIET_MAX: Duration = Duration::from_secs(600);

/// Decides when a lead moves to whoever is to have it, so that none moves to and fro: of one that comes
/// back the wait is doubled each time. Its time is handed in.
#[derive(Debug, Default)]
pub(crate) struct LeadSpreader {
    shards: BTreeMap<ShardId, Watched>,
}

#[derive(Debug)]
struct Watched {
    term: u64,
    /// Since when nothing speaks against a move.
    since: Instant,
    /// When it was tried last, in this term or an earlier one.
    moved: Option<Instant>,
    wait: Duration,
}

impl LeadSpreader {
    /// Whether a shard that this node leads in `term`, and another is to lead, is to be handed over now.
    /// `is_fit`: the other could lead at once. To be asked often.
    pub(crate) fn is_due(&mut self, shard: ShardId, term: u64, is_fit: bool, now: Instant) -> bool {
        let fresh = || Watched { term, since: now, moved: None, wait: QUIET };
        let watched = self.shards.entry(shard).or_insert_with(fresh);
        if watched.term != term {
            (watched.term, watched.since) = (term, now);
            // It was given away, and has come back.
            if let Some(moved) = watched.moved.take() {
                watched.wait = match now - moved < QUIET_MAX {
                    true => (watched.wait * 2).min(QUIET_MAX),
                    false => QUIET,
                };
            }
        }
        if !is_fit {
            watched.since = now;
        }
        now - watched.since >= watched.wait
    }

    /// A move was tried, whatever came of it.
    pub(crate) fn tried(&mut self, shard: ShardId, now: Instant) {
        if let Some(watched) = self.shards.get_mut(&shard) {
            (watched.since, watched.moved) = (now, Some(now));
        }
    }
}

/// Whether a replica has the log up to entry `index`, as its leader knows.
pub(crate) fn has_entry(raft: &RaftShard, replica: ReplicaId, index: u64) -> bool {
    raft.metrics().followers.iter().any(|follower| {
        follower.replica == replica && follower.matched.is_some_and(|id| id.index >= index)
    })
}

/// Who could lead a shard instead of `own`, the best first: voters on nodes that stay before those on
/// nodes that are drained, too.
pub(crate) fn successors(placement: &Placement, view: &ClusterView, own: NodeId) -> Vec<ReplicaId> {
    let state = |replica: &ReplicaId| view.nodes.get(&replica.node()).map(|record| record.state);
    let voters = placement.voters.iter().chain(&placement.in_force).copied();
    let mut others: Vec<ReplicaId> = Vec::new();
    for voter in voters.filter(|voter| voter.node() != own) {
        if !others.contains(&voter) && state(&voter).is_some_and(|it| it != NodeState::Removed) {
            others.push(voter);
        }
    }
    // Stable: the one that is to lead stays in front of its like.
    others.sort_by_key(|voter| state(voter) != Some(NodeState::Active));
    others
}

/// Hands the lead of a shard to the first of `successors` that takes it.
///
/// # Errors
/// What the last of them said; nobody has taken it then.
pub(crate) async fn hand_over(
    shard: ShardId,
    raft: &RaftShard,
    successors: &[ReplicaId],
) -> Result<ReplicaId, TransferError> {
    let mut failed = TransferError::NotLeader { leader: raft.leader().state().leader };
    for &to in successors {
        match raft.transfer_leader(to).await {
            Ok(()) => {
                tracing::info!(%shard, %to, "the lead was handed over");
                return Ok(to);
            }
            Err(error @ (TransferError::NotLeader { .. } | TransferError::Stopped(_))) => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!(%shard, %to, %error, "the lead was not handed over");
                failed = error;
            }
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use railgun_core::catalog::NodeRecord;
    use railgun_types::NodeUid;

    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn replica(node: u32) -> ReplicaId {
        ReplicaId::new(NodeId(node), 1)
    }

    #[test]
    fn a_lead_moves_after_ten_quiet_seconds_in_which_the_other_was_fit() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut spreader = LeadSpreader::default();
        assert!(!spreader.is_due(SHARD, 1, true, at(0)));
        assert!(!spreader.is_due(SHARD, 1, true, at(9)));
        assert!(!spreader.is_due(SHARD, 1, false, at(10)), "it does not answer");
        assert!(!spreader.is_due(SHARD, 1, true, at(19)));
        assert!(spreader.is_due(SHARD, 1, true, at(20)));
        assert!(!spreader.is_due(SHARD, 2, true, at(20)), "there was an election");
        assert!(spreader.is_due(SHARD, 2, true, at(30)));
    }

    #[test]
    fn a_lead_that_comes_back_moves_more_and_more_seldom() {
        let mut now = Instant::now();
        let mut spreader = LeadSpreader::default();
        let mut waits = Vec::new();
        for term in 1..=9 {
            let mut waited = 0;
            while !spreader.is_due(SHARD, term, true, now) {
                now += Duration::from_secs(1);
                waited += 1;
            }
            spreader.tried(SHARD, now);
            waits.push(waited);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        // One that was held for long is as new.
        now += QUIET_MAX;
        assert!(!spreader.is_due(SHARD, 10, true, now));
        assert!(spreader.is_due(SHARD, 10, true, now + QUIET));
    }

    #[test]
    fn an_attempt_that_failed_is_not_repeated_at_once() {
        let begin = Instant::now();
        let mut spreader = LeadSpreader::default();
        assert!(!spreader.is_due(SHARD, 1, true, begin));
        assert!(spreader.is_due(SHARD, 1, true, begin + QUIET));
        spreader.tried(SHARD, begin + QUIET);
        assert!(!spreader.is_due(SHARD, 1, true, begin + QUIET + Duration::from_millis(500)));
        assert!(spreader.is_due(SHARD, 1, true, begin + QUIET * 2));
    }

    #[test]
    fn who_leaves_prefers_nodes_that_stay() {
        let node = |state| NodeRecord {
            uid: NodeUid::default(),
            peer_address: String::new(),
            client_address: String::new(),
            feature_level: 1,
            state,
        };
        let states =
            [NodeState::Draining, NodeState::Draining, NodeState::Active, NodeState::Removed];
        let nodes = (1..).map(NodeId).zip(states.map(node));
        let view = ClusterView { nodes: nodes.collect(), ..ClusterView::default() };
        let placement = Placement {
            version: 2,
            voters: [1, 2, 3].map(replica).to_vec(),
            learners: Vec::new(),
            in_force: [1, 2, 4].map(replica).to_vec(),
            settled: 1,
        };
        let successors = successors(&placement, &view, NodeId(1));
        assert_eq!(successors, [replica(3), replica(2)]);
    }
}
