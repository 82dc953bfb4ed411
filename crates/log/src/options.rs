//! Settings of a log.

use std::time::Duration;

/// Longest payload of one entry in bytes. Above what the layers above send (8 MiB plus framing), and
/// the bound for every length read from a file.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

/// Bounds of [`LogOptions::file_bytes`]: positions inside a file are held in 32 bits.
pub(crate) const FILE_BYTES_MIN: u64 = 4 << 10;
pub(crate) const FILE_BYTES_MAX: u64 = 2 << 30;

/// How a log is laid out and paced.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size to which a file is preallocated, and at which the next one is begun. 4 KiB to 2 GiB. A
    /// single entry that does not fit makes its file longer.
    pub file_bytes: u64,
    /// Entries kept in memory beyond those that are not yet durable and applied, in bytes of payload.
    pub ring_bytes: usize,
    /// Idle time after which an fsynced batch is marked as such on disk, so that later damage to it is
    /// told apart from a torn write.
    pub mark_after: Duration,
    /// Upper bound of one write batch in bytes; a single longer entry is a batch of its own.
    pub write_bytes_max: usize,
    /// Pause between attempts to preallocate a file while the disk is full.
    pub space_retry_after: Duration,
    /// Life of the replica that owns the log, noted in the header of each file that is begun. Opaque to
    /// the log.
    pub incarnation: u64,
    /// A bug planted on purpose, to show that a test suite catches it.
    #[cfg(any(test, feature = "builtin-bugs"))]
    pub builtin_bug: Option<BuiltinBug>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            ring_bytes: 64 << 20,
            mark_after: Duration::from_secs(1),
            write_bytes_max: 4 << 20,
            space_retry_after: Duration::from_secs(1),
            incarnation: 0,
            #[cfg(any(test, feature = "builtin-bugs"))]
            builtin_bug: None,
        }
    }
}

impl LogOptions {
    #[cfg(any(test, feature = "builtin-bugs"))]
    pub(crate) fn has_bug(&self, bug: BuiltinBug) -> bool {
        self.builtin_bug == Some(bug)
    }

    #[cfg(not(any(test, feature = "builtin-bugs")))]
    pub(crate) const fn has_bug(&self, _: BuiltinBug) -> bool {
        false
    }
}

/// Bugs that can be planted where the feature `builtin-bugs` is on. Without it nothing can set one,
/// and every check for one is constant false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuiltinBug {
    /// Callbacks run after the write, before the fdatasync.
    CallbackBeforeSync,
    /// With those of a synced batch run the callbacks of appends that wait behind it.
    CallbackOfLater,
    /// A vote is called back and never written.
    VoteNotWritten,
    /// A vote goes into a batch of its own, before what was queued ahead of it.
    VoteOvertakes,
    /// An fdatasync that fails is taken for one that succeeds.
    SyncErrorIgnored,
    /// Recovery cuts at any bad spot, without asking whether it was once synced.
    RotAsTorn,
    /// Recovery leaves the header of a torn batch in place.
    KeepTornHeader,
    /// Recovery does not sync what it found.
    OpenWithoutSync,
    /// Recovery syncs what it found, and does not write it again.
    OpenWithoutWrite,
}
