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

/// Why a shard was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitializeError {
    /// Only one of its members can begin a shard.
    #[error("replica {replica} is no member of the shard it is to begin")]
    NotMember {
        /// This replica.
        replica: ReplicaId,
    },
    /// The shard was shut down or has failed.
    #[error(transparent)]
    Stopped(#[from] ShardStopped),
}

/// Why the lead was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Ask the leader.
    #[error("this replica does not lead its shard")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<ReplicaId>,
    },
    /// Only voters lead.
    #[error("replica {to} is no voter of the shard")]
    NotVoter {
        /// Who was to lead.
        to: ReplicaId,
    },
    /// It would have to catch up first, while nobody leads. Try again later.
    #[error("replica {to} is {entries} entries behind")]
    Behind {
        /// Who was to lead.
        to: ReplicaId,
        /// How far.
        entries: u64,
    },
    /// It has not answered for a while. Choose another, or try again later.
    #[error("replica {to} does not answer")]
    Unreachable {
        /// Who was to lead.
        to: ReplicaId,
    },
    /// It was asked to lead and has not done so in time. Whoever is elected leads.
    #[error("replica {to} has not taken the lead over")]
    NotTaken {
        /// Who was to lead.
        to: ReplicaId,
        /// Who leads instead, as far as known.
        leader: Option<ReplicaId>,
    },
    /// The shard was shut down or has failed.
    #[error(transparent)]
    Stopped(#[from] ShardStopped),
}

/// Why no step towards the members wanted was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// Ask the leader.
    #[error("this replica does not lead its shard")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<ReplicaId>,
    },
    /// This replica leads but has not heard from a majority lately.
    #[error("the leader of the shard has no majority")]
    NoQuorum,
    /// Nobody would decide anything.
    #[error("a shard without voters is wanted")]
    NoVoters,
    /// It cannot be both.
    #[error("replica {replica} is wanted as a voter and as a learner")]
    VoterAndLearner {
        /// Which.
        replica: ReplicaId,
    },
    /// The step was begun and may yet be done: too few voters have confirmed it.
    #[error("the change of members was not confirmed in time")]
    TimedOut,
    /// openraft does not take the step: a bug of the plan.
    #[error("the change of members was refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The shard was shut down or has failed.
    #[error(transparent)]
    Stopped(#[from] ShardStopped),
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
