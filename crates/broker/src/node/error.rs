//! Why a node does not start, or cannot go on.

use railgun_cold::bucket::ProbeError;
use railgun_cold::owner::OwnerError;
use railgun_log::{LogError, OpenError, SpawnError};
use railgun_net::BindError;
use railgun_raft::Failure;
use railgun_types::{ReplicaId, ShardId};

use super::LEADER_TIMEOUT;
use crate::cluster_bucket::WrongBucket;
use crate::identity::IdentityError;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log's disk is in use by another process, or the log thread cannot start.
    #[error("{0}")]
    Log(#[from] SpawnError),
    /// See [`IdentityError`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The bucket does not answer as it should.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The bucket's keys belong to somebody else.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The log of a shard is damaged.
    #[error("cannot open the log of shard {shard}: {source}")]
    OpenLog {
        /// The shard.
        shard: ShardId,
        /// What is wrong with it.
        source: OpenError,
    },
    /// The first thing in a new log was not written.
    #[error("cannot begin the log of shard {shard}: {source}")]
    NewLog {
        /// The shard.
        shard: ShardId,
        /// What the log says.
        source: LogError,
    },
    /// A replica had a log, and has none any more.
    #[error(
        "the log of shard {shard} is lost: replica {replica} has begun on this node, and its log \
         holds nothing"
    )]
    LostLog {
        /// The shard.
        shard: ShardId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The log of a replica that others have, too, turns out to be damaged when it is read.
    #[error("cannot start replica {replica} of shard {shard}: {reason}")]
    DamagedLog {
        /// The shard.
        shard: ShardId,
        /// The replica.
        replica: ReplicaId,
        /// Where it is damaged.
        reason: String,
    },
    /// A shard's replica does not start.
    #[error("{0}")]
    Raft(#[from] railgun_raft::StartError),
    /// A shard of a node that is alone, and so its only voter, has no leader; or its replica here has
    /// ended while the node started.
    #[error("shard {shard} did not elect a leader within {LEADER_TIMEOUT:?}")]
    NoLeader {
        /// The shard.
        shard: ShardId,
    },
    /// The catalog does not take its first entry.
    #[error("the catalog cannot be written: {reason}")]
    Catalog {
        /// Why.
        reason: String,
    },
    /// The bucket is not the cluster's.
    #[error(transparent)]
    WrongBucket(#[from] WrongBucket),
    /// A shard's checkpoints cannot be read, or none of them is whole.
    #[error("cannot restore shard {shard}: {reason}")]
    Restore {
        /// The shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Another process is this node already, or the node was removed from the cluster.
    #[error("refused by the node at {by}: {reason}")]
    IdentityConflict {
        /// Where the node is that said so.
        by: String,
        /// In its words.
        reason: String,
    },
}

/// Why a node cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeFailure {
    /// The disk failed, and what it holds is not known: nothing may be acknowledged any more.
    #[error("the disk failed: {reason}")]
    Disk {
        /// What could not be done to which file, and what the disk answered.
        reason: String,
    },
    /// A shard has died.
    #[error(transparent)]
    Shard(#[from] Failure),
    /// Another process is this node, too, and other nodes know that one; or the node was removed from the
    /// cluster.
    #[error("refused by the node at {by}: {reason}")]
    IdentityConflict {
        /// Where the node is that said so.
        by: String,
        /// In its words.
        reason: String,
    },
    /// The bucket is not the cluster's, or not any more.
    #[error(transparent)]
    WrongBucket(WrongBucket),
    /// A bug: one of the node's tasks is gone, and what it owned with it.
    #[error("a task of the node panicked: {actor}")]
    Panicked {
        /// Which one.
        actor: &'static str,
    },
}
