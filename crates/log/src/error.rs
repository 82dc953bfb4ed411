//! Errors of the log, one enum per operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::EntryId;
use crate::disk::LockError;

/// A disk operation that failed.
#[derive(Debug, Error)]
#[error("could not {operation} {}", path.display())]
pub struct DiskFailure {
    /// What was attempted, as a verb: "sync", "rename" …
    pub operation: &'static str,
    /// The file or directory, relative to the disk's root.
    pub path: PathBuf,
    /// What the disk answered.
    pub source: io::Error,
}

impl DiskFailure {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self { operation, path: path.to_owned(), source }
    }

    /// Whether the disk had no room, and nothing that was written is in doubt: the operation may be
    /// repeated. A sync that ends so is not of this kind; it has lost data.
    pub fn is_full(&self) -> bool {
        self.operation != "sync"
            && matches!(
                self.source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
    }
}

/// Attaches what was attempted to an I/O error.
pub(crate) trait Attempt<T> {
    fn attempt(self, operation: &'static str, path: &Path) -> Result<T, DiskFailure>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, operation: &'static str, path: &Path) -> Result<T, DiskFailure> {
        self.map_err(|source| DiskFailure::new(operation, path, source))
    }
}

/// Why a log refused a change, or could not make it durable.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// The entry does not follow the last one.
    #[error("entry {found} does not follow: the next index is {expected}")]
    Gap {
        /// Index the log expects.
        expected: u64,
        /// Entry it was given.
        found: EntryId,
    },
    /// The payload is longer than a frame can hold.
    #[error("entry {id} has {bytes} bytes of payload, more than {max}")]
    EntryTooLarge {
        /// The entry.
        id: EntryId,
        /// Bytes of its payload.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// What is purged cannot be cut.
    #[error("cannot truncate after {kept}: purged up to {purged}")]
    TruncateBelowPurge {
        /// The last entry that was to stay.
        kept: EntryId,
        /// Where the log begins.
        purged: EntryId,
    },
    /// What was queued before waits for space, so it could not be marked as synced.
    #[error("the disk is full, and entries wait for space")]
    Full,
    /// The disk failed; the log takes no more changes until it is opened again.
    #[error("log has failed: {0}")]
    Failed(#[source] Arc<DiskFailure>),
    /// The log writer is gone.
    #[error("log writer has shut down")]
    Closed,
}

/// Why entries could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file that held the entry is gone.
    #[error("entries below {first} are no longer on disk")]
    Retired {
        /// First index that can be read.
        first: u64,
    },
    /// The file's bytes are not those that were written.
    #[error("log file {} is damaged at byte {position} ({what}): entry {index} cannot be read", file.display())]
    Corrupt {
        /// The file, relative to the disk's root.
        file: PathBuf,
        /// Byte at which the damaged frame begins.
        position: u64,
        /// Entry that was wanted there.
        index: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] DiskFailure),
}

/// Why a log could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Bytes that were once durable are damaged. Nothing was changed on disk.
    #[error("log file {} is damaged at byte {position} ({what}): entries from {index} on cannot be trusted", file.display())]
    Rot {
        /// The file, relative to the disk's root.
        file: PathBuf,
        /// Byte at which the damage begins.
        position: u64,
        /// First index that may be lost.
        index: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A file of the log is not there.
    #[error("log {} misses files: it needs entry {needed}, its first file begins at {found}", log.display())]
    MissingFile {
        /// The log's directory.
        log: PathBuf,
        /// First index that must be there.
        needed: u64,
        /// First index that is there.
        found: u64,
    },
    /// The file was written by a later version.
    #[error("log file {} has format version {found}, this version reads up to {known}", file.display())]
    Version {
        /// The file, relative to the disk's root.
        file: PathBuf,
        /// Its version.
        found: u16,
        /// The newest version known here.
        known: u16,
    },
    /// An option is out of range.
    #[error("option {option} is {value}, outside {min}..={max}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// This writer has the log open already.
    #[error("log {} is already open", log.display())]
    AlreadyOpen {
        /// The log's directory.
        log: PathBuf,
    },
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] DiskFailure),
    /// The log writer is gone.
    #[error("log writer has shut down")]
    Closed,
}

/// Why a log writer could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// Another process, or another writer of this one, works on the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The operating system gives no random bytes.
    #[error("could not draw the names of files")]
    Random(#[source] getrandom::Error),
    /// The operating system refused a thread.
    #[error("could not start the log thread")]
    Thread(#[source] io::Error),
}
