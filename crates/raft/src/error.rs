//! Errors, one enum per operation of a shard.

use std::io;

use railgun_types::{EntryId, ReplicaId, ShardId};

use crate::leadership::ShardStopped;
use crate::machine::SnapshotError;
use crate::membership::InvalidMembership;

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine was restored with a membership that cannot be read.
    #[error("the checkpoint of shard {shard} holds no membership")]
    Membership {
        /// The shard.
        shard: ShardId,
        /// What is wrong with it.
        source: InvalidMembership,
    },
    /// The log lost entries that were durable, for a checkpoint contains them. The replica must not
    /// take part under this id again.
    #[error("the log of shard {shard} ends at {last:?}, before its checkpoint at {checkpoint}")]
    LogBehindCheckpoint {
        /// The shard.
        shard: ShardId,
        /// The last entry of the log.
        last: Option<EntryId>,
        /// The last entry in the checkpoint.
        checkpoint: EntryId,
    },
    /// The log, the state machine or the snapshots failed.
    #[error("could not restore shard {shard}: {reason}")]
    Storage {
        /// The shard.
        shard: ShardId,
        /// What failed.
        reason: String,
    },
}

/// Why a proposal was not taken. Its ticket does not come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// A log entry cannot hold that much.
    #[error("an entry of {bytes} bytes is larger than the log takes ({max})")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// The most that fits.
        max: usize,
    },
    /// The shard was shut down or has failed.
    #[error(transparent)]
    Stopped(#[from] ShardStopped),
}

/// Why a read could not be ordered after all earlier writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// Ask the leader.
    #[error("this replica does not lead its shard")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<ReplicaId>,
    },
    /// This replica leads but cannot reach a majority.
    #[error("the leader of the shard has no majority")]
    NoQuorum,
    /// The shard was shut down or has failed.
    #[error(transparent)]
    Stopped(#[from] ShardStopped),
}

/// Why no checkpoint was promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The source refused; nothing has changed.
    #[error(transparent)]
    Source(#[from] SnapshotError),
    /// The source was not asked.
    #[error("could not ask for a snapshot")]
    Pool(#[source] io::Error),
    /// The shard was shut down or has failed.
    #[error(transparent)]
    Stopped(#[from] ShardStopped),
}
