//! What can be seen of a node's replicas from outside, for tests that compare them.

use bytes::Bytes;
use railgun_core::checkpoint::{self, Section};
use railgun_log::Vote;
use railgun_types::{EntryId, ReplicaId, ShardId};
use sha2::{Digest, Sha256};

use crate::on_node::{LocalReplica, Owner};

/// Where a replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// Of this shard.
    pub shard: ShardId,
    /// Which one.
    pub replica: ReplicaId,
    /// The term of its leader, or the last one known if there is none.
    pub term: u64,
    /// Who leads, as far as this replica knows.
    pub leader: Option<ReplicaId>,
    /// It leads, and serves clients.
    pub serving: bool,
    /// The last entry in its state.
    pub applied: Option<EntryId>,
    /// The last entry that is known to be committed.
    pub committed: Option<EntryId>,
    /// What Raft was told is durable: a vote, and the last entry that was appended under it.
    pub flushed: Option<(Vote, Option<EntryId>)>,
    /// The last vote, durable or not.
    pub vote: Option<Vote>,
    /// The last entry of the log, durable or not.
    pub last: Option<EntryId>,
    /// Replicas that count for a majority.
    pub voters: Vec<ReplicaId>,
}

impl ReplicaState {
    pub(crate) fn of(shard: ShardId, local: &LocalReplica) -> Self {
        let (leader, metrics) = (local.raft.leader().state(), local.raft.metrics());
        let log = local.log.state();
        Self {
            shard,
            replica: local.replica,
            term: leader.term,
            leader: leader.leader,
            serving: leader.serving,
            applied: metrics.applied,
            committed: metrics.committed,
            flushed: local.raft.flushed(),
            vote: log.vote,
            last: log.last,
            voters: metrics.voters,
        }
    }
}

/// What tells one state of a shard from another: replicas that have applied the same entries have the
/// same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// The last entry in the state.
    pub applied: Option<EntryId>,
    /// The beginning of the SHA-256 of the whole state, as a snapshot has it.
    pub hash: u64,
    /// Its sections, with their checksums.
    pub sections: Vec<(Section, u32)>,
}

impl StateDigest {
    pub(crate) fn of(applied: Option<EntryId>, pieces: &[Bytes]) -> Self {
        let whole = pieces.concat();
        let hash = Sha256::digest(&whole);
        let hash = hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        let sections = checkpoint::sections(&whole).expect("just encoded");
        Self { applied, hash, sections }
    }
}

impl LocalReplica {
    /// `None` where the replica is about to stop.
    pub(crate) async fn digest(&self) -> Option<StateDigest> {
        let digest = match &self.owner {
            Owner::Catalog(catalog) => catalog.digest().await,
            Owner::Data(shard) => shard.handle.digest().await,
        };
        digest.ok()
    }
}
