//! A shard's log on the real disk.

use std::path::Path;
use std::sync::Arc;

use railgun_log::{LogOptions, LogThread, RealDisk, ShardLog};

/// The thread that serves a log.
pub(super) struct DiskLog(LogThread);

impl DiskLog {
    /// Opens or makes the log in `dir`.
    pub(super) fn open(dir: &Path) -> (Self, ShardLog) {
        let disk = Arc::new(RealDisk::open(dir).expect("a disk"));
        // Little memory, so that replays read files.
        let options =
            LogOptions { file_bytes: 1 << 20, ring_bytes: 4 << 10, ..LogOptions::default() };
        let thread = LogThread::spawn(disk).expect("a thread");
        let (log, _report) = thread.open_shard(Path::new("log"), options).expect("a log");
        (Self(thread), log)
    }

    pub(super) fn close(self) {
        self.0.shutdown();
    }
}
