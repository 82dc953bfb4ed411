//! Where a replica stands, for operators and tests.

use openraft::RaftMetrics;
use railgun_types::{EntryId, ReplicaId};

use crate::raft_types::{Types, to_entry_id};

/// Where a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMetrics {
    /// The greatest term seen.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<ReplicaId>,
    /// Index of the last entry, durable or not.
    pub last_log: Option<u64>,
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
}

impl ShardMetrics {
    pub(crate) fn new(raft: &RaftMetrics<Types>) -> Self {
        let membership = raft.membership_config.membership();
        Self {
            term: raft.current_term,
            leader: raft.current_leader.map(ReplicaId),
            last_log: raft.last_log_index,
            committed: raft.local_committed.as_ref().map(to_entry_id),
            applied: raft.last_applied.as_ref().map(to_entry_id),
            snapshot: raft.snapshot.as_ref().map(to_entry_id),
            purged: raft.purged.as_ref().map(to_entry_id),
            voters: membership.voter_ids().map(ReplicaId).collect(),
            learners: membership.learner_ids().map(ReplicaId).collect(),
        }
    }
}
