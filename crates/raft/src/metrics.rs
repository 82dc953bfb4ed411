//! Where a replica stands, for operators and tests.

use std::time::Duration;

use openraft::{Instant, RaftMetrics};
use railgun_types::{EntryId, ReplicaId};

use crate::raft_types::{LogId, Types, to_entry_id};

/// Where a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMetrics {
    /// The greatest term seen.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<ReplicaId>,
    /// The last entry known to be on a majority.
    pub committed: Option<EntryId>,
    /// The last entry in the state.
    pub applied: Option<EntryId>,
    /// The last entry in the current snapshot.
    pub snapshot: Option<EntryId>,
    /// The last entry that Raft has given up; its file may still be there.
    pub purged: Option<EntryId>,
    /// Replicas that count for a majority.
    pub voters: Vec<ReplicaId>,
    /// Replicas that only follow.
    pub learners: Vec<ReplicaId>,
    /// On the leader, how far each of the others is.
    pub followers: Vec<FollowerProgress>,
}

/// What a leader knows of another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerProgress {
    /// The replica.
    pub replica: ReplicaId,
    /// The last entry of the leader's log that is durable there, as far as known.
    pub matched: Option<EntryId>,
    /// For how long it has said nothing; `None` if it has not said anything to this leader.
    pub silent: Option<Duration>,
}

impl ShardMetrics {
    pub(crate) fn new(raft: &RaftMetrics<Types>) -> Self {
        let membership = raft.membership_config.membership();
        Self {
            term: raft.current_term,
            leader: raft.current_leader.map(ReplicaId),
            committed: raft.local_committed.as_ref().map(to_entry_id),
            applied: raft.last_applied.as_ref().map(to_entry_id),
            snapshot: raft.snapshot.as_ref().map(to_entry_id),
            purged: raft.purged.as_ref().map(to_entry_id),
            voters: membership.voter_ids().map(ReplicaId).collect(),
            learners: membership.learner_ids().map(ReplicaId).collect(),
            followers: followers(raft),
        }
    }
}

pub(crate) fn followers(raft: &RaftMetrics<Types>) -> Vec<FollowerProgress> {
    let heard = |id: &u64| raft.heartbeat.as_ref()?.get(id)?.map(|heard| heard.elapsed());
    let others = raft.replication.iter().flatten().filter(|(id, _)| **id != raft.id);
    let progress = |(id, matched): (&u64, &Option<LogId>)| FollowerProgress {
        replica: ReplicaId(*id),
        matched: matched.as_ref().map(to_entry_id),
        silent: heard(id),
    };
    others.map(progress).collect()
}
