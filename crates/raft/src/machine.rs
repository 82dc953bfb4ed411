//! What the owner of a shard's state implements.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::future::BoxFuture;
use railgun_log::Payload;
use railgun_types::EntryId;

use crate::proposal::Companion;

/// The replicated state of a shard. All methods run on one task, in log order.
pub trait StateMachine: Send + Sync + 'static {
    /// Up to where the state was restored from a checkpoint; `None` means that it is empty and the
    /// log is replayed from its first entry. Asked once, before anything else.
    ///
    /// The checkpoint must have been made when the log was durable up to it: a checkpoint ahead of
    /// its log is refused as lost data.
    fn restored(&mut self) -> Option<Applied>;

    /// Waits until the machine can take a batch. Called before each [`Self::apply`]; a machine that
    /// hands its entries on waits for room here. May be dropped and called again.
    fn room(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Applies committed entries in order. Every index comes exactly once after [`Self::restored`],
    /// except those a snapshot jumped over. What is left in `items` is dropped afterwards; taking
    /// all or nothing out of it are both fine.
    ///
    /// Results leave by the machine's own means, for instance through the companions. Runs on an
    /// async worker: it must not block.
    ///
    /// # Errors
    /// An error, or a panic, ends the shard on this node ([`Failure`](crate::Failure)). The tickets
    /// of the batch then come back as [`Unapplied::Unknown`](crate::Unapplied), also those the machine
    /// has already answered.
    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError>;

    /// Replaces the state by that of `snapshot` and makes the snapshot the current one of the
    /// shard's [`SnapshotSource`], both durably. Nothing is applied meanwhile, and the log is given up
    /// up to the snapshot afterwards. The file is the current one already, or comes from
    /// [`SnapshotSource::receive`] and is to be moved away: it is removed when this returns. Runs on an
    /// async worker: it must not block. Not cancelled unless the shard ends.
    ///
    /// # Errors
    /// Ends the shard on this node, as in [`Self::apply`].
    fn install<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<(), SnapshotError>>;
}

/// Gives out a shard's snapshots, which are promoted checkpoints (DESIGN §1.3). Methods may block;
/// they run on the [`BlockingPool`](crate::BlockingPool).
pub trait SnapshotSource: Send + Sync + 'static {
    /// The snapshot promoted or installed last, if any. Its index never falls, but that it may be lost:
    /// then there is none until another is promoted. Entries below log index `from` are given up: what
    /// does not reach them is none.
    ///
    /// # Errors
    /// Keeps the shard from being started on this node. Later it is as if there were none.
    fn current(&self, from: u64) -> Result<Option<Snapshot>, SnapshotError>;

    /// Makes the newest checkpoint at or below log index `upto` the current snapshot, durably, if
    /// it is newer than the current one, and returns the current one. `from`: see [`Self::current`].
    ///
    /// # Errors
    /// [`SnapshotError::NoCheckpoint`] if there is none and no current snapshot either.
    fn promote(&self, from: u64, upto: u64) -> Result<Snapshot, SnapshotError>;

    /// The newest checkpoint at or below log index `upto`, current or not, left as it is: for a
    /// replica whose log begins above its first entry and whose current snapshot is lost. It is not sent
    /// to others, which are to wait until one is promoted.
    ///
    /// # Errors
    /// [`SnapshotError::NoCheckpoint`] if there is none.
    fn stand_in(&self, upto: u64) -> Result<Snapshot, SnapshotError>;

    /// Opens a snapshot that [`Self::current`] gave, to send it to another replica. It stays readable
    /// when another becomes the current one, or reads fail.
    ///
    /// # Errors
    /// The file is gone, cannot be read, or is not what it was. The replica that needs it is sent what is
    /// current then.
    fn open(&self, snapshot: &Path) -> Result<Box<dyn SnapshotFile>, SnapshotError>;

    /// Begins to receive a snapshot of `bytes` bytes from another replica, at a temporary place. What
    /// such places hold from an earlier life of the process is removed by the owner.
    ///
    /// # Errors
    /// There is no place for it. The other replica tries again.
    fn receive(&self, bytes: u64) -> Result<Box<dyn SnapshotSink>, SnapshotError>;
}

/// A snapshot's file, read from its beginning. Methods may block.
pub trait SnapshotFile: Send + 'static {
    /// Bytes of the file.
    fn bytes(&self) -> u64;

    /// The next bytes, at most `max`; none at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read(&mut self, max: usize) -> Result<Bytes, SnapshotError>;
}

/// Takes a snapshot's file from another replica. Methods may block. Dropping it removes the file if it
/// is still at its temporary place; that happens on an async worker and must not take long.
pub trait SnapshotSink: Send + 'static {
    /// Appends to the file.
    ///
    /// # Errors
    /// The file cannot be written. Nothing is called after that.
    fn write(&mut self, chunk: &Bytes) -> Result<(), SnapshotError>;

    /// All was written, and is what the other replica sent: makes it durable, looks whether it is a state
    /// and tells where it is. [`StateMachine::install`] may move it away from there, or nobody needs it.
    ///
    /// # Errors
    /// The file is not durable, or not a state of this shard: the other replica has read what is not what
    /// it wrote, and tries again.
    fn finish(&mut self) -> Result<PathBuf, SnapshotError>;
}

/// How far a state has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The last entry in it.
    pub id: EntryId,
    /// The last membership in it, as handed to the machine by [`ApplyItem::Membership`]. Empty if
    /// there was none.
    pub membership: Bytes,
}

/// A file that holds the state of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What the state contains.
    pub applied: Applied,
    /// The file. Must stay as it is while it is the current snapshot.
    pub path: PathBuf,
}

/// One committed entry.
pub enum ApplyItem {
    /// Bytes of the shard's owner.
    Command {
        /// The entry.
        id: EntryId,
        /// Its bytes, in the parts they were proposed in or in one.
        payload: Payload,
        /// Present on the node that proposed the entry and has not restarted since.
        proposed: Option<Proposed>,
    },
    /// The first entry of a new leader. Entries after it are of its term.
    Blank {
        /// The entry.
        id: EntryId,
    },
    /// The replicas of the shard changed. A checkpoint carries the newest of these.
    Membership {
        /// The entry.
        id: EntryId,
        /// Opaque; versioned by this crate.
        membership: Bytes,
    },
}

/// What a proposal left in memory for its own apply.
pub struct Proposed {
    /// [`Proposal::ticket`](crate::Proposal::ticket).
    pub ticket: u64,
    /// [`Proposal::companion`](crate::Proposal::companion).
    pub companion: Option<Companion>,
}

impl ApplyItem {
    /// Term and index of the entry.
    #[must_use]
    pub fn id(&self) -> EntryId {
        match self {
            Self::Command { id, .. } | Self::Blank { id } | Self::Membership { id, .. } => *id,
        }
    }
}

impl fmt::Debug for ApplyItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { id, payload, proposed } => f
                .debug_struct("Command")
                .field("id", id)
                .field("bytes", &payload.len())
                .field("ticket", &proposed.as_ref().map(|proposed| proposed.ticket))
                .finish(),
            Self::Blank { id } => f.debug_struct("Blank").field("id", id).finish(),
            Self::Membership { id, .. } => f.debug_struct("Membership").field("id", id).finish(),
        }
    }
}

impl fmt::Debug for Proposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposed").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// An entry that the state machine could not apply.
#[derive(Debug, thiserror::Error)]
#[error("could not apply entry {id}: {source}")]
pub struct ApplyError {
    /// The entry.
    pub id: EntryId,
    /// What was wrong with it.
    pub source: Box<dyn Error + Send + Sync>,
}

/// A snapshot that could not be made, found or installed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is nothing to promote.
    #[error("no checkpoint at or below log index {upto}")]
    NoCheckpoint {
        /// The index asked for.
        upto: u64,
    },
    /// The file cannot be read or written.
    #[error("snapshot file {path} failed: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's content is not a state.
    #[error("snapshot file {path} is damaged: {source}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
}
