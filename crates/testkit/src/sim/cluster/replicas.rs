//! What replicas say of themselves, compared: at most one leads in a term, and those that have applied
//! the same entries are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use railgun_broker::StateDigest;
use railgun_core::checkpoint::Section;
use railgun_log::Vote;
use railgun_types::{EntryId, ReplicaId, ShardId};

use super::super::history::History;
use super::super::node::Life;
use super::super::trace::Trace;

/// Replicas are compared this often.
const COMPARE_EVERY: Duration = Duration::from_millis(500);
/// Digests that are kept to compare with.
const KEPT: usize = 1_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Replicas {
    history: History,
    trace: Trace,
    /// Those that vote in the place of earlier ones on their nodes.
    reborn: BTreeSet<(ShardId, ReplicaId)>,
    /// The replica of each shard that was seen last on each node.
    present: BTreeMap<(ShardId, usize), ReplicaId>,
    /// Who was seen to lead.
    leaders: BTreeMap<(ShardId, u64), ReplicaId>,
    /// The last durable vote on each node.
    votes: BTreeMap<(ShardId, usize), Option<Vote>>,
    /// By the last entry in the state, and on which node that was seen first.
    digests: BTreeMap<(ShardId, EntryId), (StateDigest, usize)>,
    /// As each node said last.
    last: BTreeMap<(ShardId, usize), StateDigest>,
    compared_at: Duration,
}

impl Replicas {
    pub(super) fn new(history: History, trace: Trace) -> Self {
        Self {
            history,
            trace,
            reborn: BTreeSet::new(),
            present: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            digests: BTreeMap::new(),
            last: BTreeMap::new(),
            compared_at: Duration::ZERO,
        }
    }

    /// Who leads, and who says who leads. The nodes on which a vote has become durable since. Node `lost` may
    /// have another replica take the place of one.
    pub(super) fn look(&mut self, lives: &[Option<&Life>], lost: Option<usize>) -> BTreeSet<usize> {
        self.present.retain(|(_, at), _| lost != Some(*at));
        let mut voted = BTreeSet::new();
        for (at, life) in lives.iter().enumerate() {
            for state in life.iter().flat_map(|life| life.broker.replica_states()) {
                if lost != Some(at) {
                    self.is_present(state.shard, at, state.replica);
                }
                let votes = state.voters.contains(&state.replica);
                if votes && state.replica.incarnation() > 1 {
                    self.reborn.insert((state.shard, state.replica));
                    let reborn = self.reborn.len() as u64;
                    self.trace.count(|counts| counts.reborn = reborn);
                }
                if let Some(leader) = state.leader {
                    self.leads(state.shard, state.term, leader);
                }
                let vote = state.flushed.map(|(vote, _)| vote);
                if self.votes.insert((state.shard, at), vote) != Some(vote) {
                    voted.insert(at);
                }
            }
        }
        voted
    }

    /// None takes the place of another on its node for no reason (CL-3).
    fn is_present(&mut self, shard: ShardId, at: usize, replica: ReplicaId) {
        let before = self.present.insert((shard, at), replica);
        if let Some(before) = before.filter(|before| *before != replica) {
            let how = format_args!(
                "node {} has lost nothing, and its replica of shard {shard} is {replica} after {before}",
                at + 1
            );
            self.history.violated("CL-3", how);
        }
    }

    fn leads(&mut self, shard: ShardId, term: u64, leader: ReplicaId) {
        let known = *self.leaders.entry((shard, term)).or_insert(leader);
        if known != leader {
            let how =
                format_args!("shard {shard} has two leaders in term {term}: {known} and {leader}");
            self.history.violated("one leader", how);
        }
    }

    /// States, if they have not just been compared.
    pub(super) async fn compare(&mut self, now: Duration, lives: &[Option<&Life>]) {
        if now < self.compared_at + COMPARE_EVERY {
            return;
        }
        self.compared_at = now;
        self.last.clear();
        for (at, life) in lives.iter().enumerate() {
            let Some(life) = life else { continue };
            for (shard, digest) in life.broker.state_digests().await {
                self.is(shard, at, digest);
            }
        }
        while self.digests.len() > KEPT {
            self.digests.pop_first();
        }
    }

    fn is(&mut self, shard: ShardId, at: usize, digest: StateDigest) {
        self.last.insert((shard, at), digest.clone());
        let Some(applied) = digest.applied else { return };
        let (known, first) =
            self.digests.entry((shard, applied)).or_insert_with(|| (digest.clone(), at));
        if known.hash == digest.hash {
            return;
        }
        let pairs = known.sections.iter().zip(&digest.sections);
        let differ: Vec<_> =
            pairs.filter(|(known, it)| known != it).map(|((section, _), _)| *section).collect();
        let rules: BTreeSet<_> = differ.iter().map(|section| rule_of(*section)).collect();
        for rule in if rules.is_empty() { BTreeSet::from(["PS-2"]) } else { rules } {
            let how = format_args!(
                "the state of shard {shard} after entry {applied} is {:016x} on node {}, and {:016x} on \
                 node {}: they differ in {differ:?}",
                known.hash,
                *first + 1,
                digest.hash,
                at + 1
            );
            self.history.violated(rule, how);
        }
    }

    /// Whether all replicas of all shards were the same when they were compared last.
    pub(super) fn are_same(&self, nodes: usize, data_shards: u32) -> bool {
        (0..=data_shards).map(ShardId).all(|shard| {
            let digests: Vec<_> = (0..nodes).map(|at| self.last.get(&(shard, at))).collect();
            digests.iter().all(|digest| digest.is_some() && *digest == digests[0])
        })
    }
}

/// What is broken where replicas that have applied the same entries differ in this.
fn rule_of(section: Section) -> &'static str {
    match section {
        Section::Groups => "G-1",
        Section::Ids => "DD-4",
        _ => "PS-2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn nothing() -> (History, Replicas) {
        let trace = Trace::begin();
        let history = History::new(trace.clone());
        (history.clone(), Replicas::new(history, trace))
    }

    fn digest(index: u64, hash: u64) -> StateDigest {
        let sections = vec![(Section::Streams, 1), (Section::Ids, hash as u32)];
        StateDigest { applied: Some(EntryId { term: 1, index }), hash, sections }
    }

    #[tokio::test(start_paused = true)]
    async fn two_leaders_in_a_term_are_noticed() {
        let (history, mut replicas) = nothing();
        let one = ReplicaId(1);
        replicas.leads(SHARD, 1, one);
        replicas.leads(SHARD, 1, one);
        replicas.leads(SHARD, 2, ReplicaId(2));
        replicas.leads(ShardId(2), 1, ReplicaId(2));
        assert!(history.is_sound());
        replicas.leads(SHARD, 1, ReplicaId(2));
        assert!(!history.is_sound());
    }

    #[tokio::test(start_paused = true)]
    async fn another_replica_on_a_node_that_has_lost_nothing_is_noticed() {
        let (history, mut replicas) = nothing();
        let first = ReplicaId(1);
        replicas.is_present(SHARD, 0, first);
        replicas.is_present(SHARD, 0, first);
        replicas.is_present(ShardId(2), 0, ReplicaId(2));
        replicas.look(&[None], Some(0));
        replicas.is_present(SHARD, 0, ReplicaId(2));
        assert!(history.is_sound());
        replicas.look(&[None], Some(1));
        replicas.is_present(SHARD, 0, first);
        assert!(!history.is_sound());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_entries_make_the_same_state() {
        let (history, mut replicas) = nothing();
        replicas.is(SHARD, 0, digest(5, 10));
        replicas.is(SHARD, 1, digest(6, 11));
        replicas.is(SHARD, 0, digest(6, 11));
        assert!(history.is_sound());
        replicas.is(SHARD, 2, digest(5, 11));
        let broken = history.violations();
        assert!(broken.len() == 1 && broken[0].starts_with("DD-4"), "{broken:?}");
        replicas.is(SHARD, 2, StateDigest { sections: Vec::new(), ..digest(6, 12) });
        let broken = history.violations();
        assert!(broken.len() == 2 && broken[1].starts_with("PS-2"), "{broken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_are_the_same_when_all_are() {
        let (_, mut replicas) = nothing();
        for shard in [0, 1].map(ShardId) {
            replicas.is(shard, 0, digest(5, 10));
            replicas.is(shard, 1, digest(5, 10));
        }
        assert!(replicas.are_same(2, 1));
        assert!(!replicas.are_same(3, 1), "one was not asked");
        assert!(!replicas.are_same(2, 2), "a shard is not there");
        replicas.is(ShardId(0), 1, digest(6, 11));
        assert!(!replicas.are_same(2, 1));
    }
}
