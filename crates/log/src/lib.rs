//! The hot log: one durable, append-only log per shard, many of them on one disk, written by group commit.
//!
//! The crate knows nothing of Raft or streams. A log holds [`Entry`]s (opaque payloads with a term and an
//! index), the vote, and what is committed and purged. Its bytes on disk, and the rule by which a torn
//! write is told from rot, are described in [`format`](mod@format).
//!
//! | who | does what |
//! |---|---|
//! | [`LogThread`] | production's driver: one thread per disk |
//! | [`LogWriter`] | the same work as a machine that a simulation steps |
//! | [`LogOpener`] | opens logs and recovers what they hold |
//! | [`ShardLog`] | handle of one log: appends, reads, purges |
//! | [`Disk`] | what the log asks of the disk: [`RealDisk`], or the faulty [`SimDisk`] |
//!
//! An entry is visible to readers when [`ShardLog::append`] returns, and durable when its callback has
//! run. One batch of a log is un-synced at a time; each step of the writer takes all that is queued, so
//! batches grow as the disk gets slower.
#![warn(missing_docs)]

mod batch;
mod block_writer;
mod disk;
mod entry;
mod error;
mod extent;
mod files;
pub mod format;
mod guarded;
mod hub;
mod image;
mod new_file;
mod options;
mod reader;
mod recovery;
mod ring;
mod scan;
mod shard;
mod shard_writer;
#[cfg(test)]
mod tests;
mod thread;
mod window;
mod writer;

pub use block_writer::BlockWriter;
pub use disk::{
    CrashPlan, DirectFile, Disk, DiskFile, DiskLock, Fault, LockError, RealDisk, SimDisk,
    SimDiskOptions, SimOp, make_dir, read_full_at, write_all_vectored_at,
};
pub use entry::{Entry, Payload, Vote};
pub use error::{DiskFailure, LogError, OpenError, ReadError, SpawnError};
pub use files::FileInfo;
pub use hub::{LogOpener, UuidSource, Wake};
pub use options::{BuiltinBug, LogOptions, MAX_PAYLOAD_BYTES};
pub use railgun_types::EntryId;
pub use recovery::{RecoveryReport, TornTail};
pub use shard::{Flushed, LogState, ShardLog};
pub use thread::LogThread;
pub use writer::{LogWriter, Step};
