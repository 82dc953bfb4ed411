//! Production's driver of the log writer: one thread per data disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::error::{OpenError, SpawnError};
use crate::{LogOpener, LogOptions, LogWriter, RecoveryReport, ShardLog, Step, UuidSource};

/// The thread that writes the logs of one disk. Dropping it stops it like [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct LogThread {
    opener: LogOpener,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Locks the disk and starts the thread.
    ///
    /// # Errors
    /// [`SpawnError::Lock`] if another process has the disk, [`SpawnError::Thread`],
    /// [`SpawnError::Random`].
    pub fn spawn(disk: Arc<dyn Disk>) -> Result<Self, SpawnError> {
        let writer = LogWriter::new(disk, uuids().map_err(SpawnError::Random)?)?;
        let opener = writer.opener();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("railgun-log".to_owned())
            .spawn(move || run(writer, &stopped))
            .map_err(SpawnError::Thread)?;
        let handle = thread.thread().clone();
        opener.hub.set_wake(Arc::new(move || handle.unpark()));
        Ok(Self { opener, stop, thread: Some(thread) })
    }

    /// Opens, or makes, the log in `dir`, relative to the disk's root. See [`LogOpener::open_shard`].
    pub fn open_shard(
        &self,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(ShardLog, RecoveryReport), OpenError> {
        self.opener.open_shard(dir, options)
    }

    /// Opens logs on this thread's writer.
    pub fn opener(&self) -> LogOpener {
        self.opener.clone()
    }

    /// Writes and syncs what is queued, then ends the thread and all handles. For a clean shutdown call
    /// [`ShardLog::sync_mark`] on each log before.
    pub fn shutdown(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.opener.hub.signal();
        let joined = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = joined {
            tracing::error!("log thread has panicked");
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.join();
        }
    }
}

/// Steps the writer until it is told to stop and idle.
fn run(mut writer: LogWriter, stop: &AtomicBool) {
    #[expect(
        clippy::disallowed_methods,
        reason = "production's driver is the seam of the log's clock"
    )]
    let clock = Instant::now;
    let start = clock();
    loop {
        let now = clock() - start;
        let Step::Idle { wake_at } = writer.step(now) else { continue };
        if writer.is_signalled() {
            continue;
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        // A wake-up between the look at the signal and here makes the thread not park at all.
        match wake_at {
            Some(at) => thread::park_timeout(at.saturating_sub(now).max(Duration::from_millis(1))),
            None => thread::park(),
        }
    }
}

/// Counts on from 128 random bits: never the same twice, on this disk or another.
#[expect(clippy::disallowed_methods, reason = "of a real disk; a simulated one is given its names")]
fn uuids() -> Result<UuidSource, getrandom::Error> {
    let mut base = [0; 16];
    getrandom::fill(&mut base)?;
    let mut next = u128::from_le_bytes(base);
    Ok(Box::new(move || {
        next = next.wrapping_add(1);
        next.to_le_bytes()
    }))
}
