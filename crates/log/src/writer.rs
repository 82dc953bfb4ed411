//! The log writer as a sans-IO machine: one per data disk, serving many logs.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Disk, DiskLock, LockError};
use crate::error::{DiskFailure, LogError};
use crate::hub::{Hub, LogOpener, UuidSource, Wake};
use crate::shard_writer::{ShardWriter, Wrote};

/// Lock file that keeps a second writer off a disk.
const LOCK: &str = "railgun-log.lock";

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to do. Step again when woken, or at this time.
    Idle {
        /// When time alone makes work.
        wake_at: Option<Duration>,
    },
    /// Work was done; there may be more.
    Progressed,
}

/// Group commit for all logs on a disk.
///
/// Calling order: [`new`](Self::new), [`set_wake`](Self::set_wake), then [`step`](Self::step) whenever woken, until it
/// is idle. Logs are opened through [`opener`](Self::opener), from any thread, at any time. Dropping it calls
/// back everything that is queued with [`LogError::Closed`], and ends all handles.
#[derive(Debug)]
pub struct LogWriter {
    hub: Arc<Hub>,
    shards: Vec<ShardWriter>,
    failed: Option<LogError>,
    _lock: Box<dyn DiskLock>,
}

impl LogWriter {
    /// A writer for `disk`, which it locks as long as it lives. `uuids` names the lives of files.
    ///
    /// # Errors
    /// [`LockError::Held`] if another writer has the disk.
    pub fn new(disk: Arc<dyn Disk>, uuids: UuidSource) -> Result<Self, LockError> {
        let lock = disk.lock(LOCK.as_ref())?;
        let hub = Arc::new(Hub::new(disk, uuids));
        Ok(Self { hub, shards: Vec::new(), failed: None, _lock: lock })
    }

    /// Sets what is told that there is work. Once; false, and nothing is changed, if it was set before.
    pub fn set_wake(&self, wake: Wake) -> bool {
        self.hub.set_wake(wake)
    }

    /// Opens logs on this writer.
    pub fn opener(&self) -> LogOpener {
        LogOpener { hub: Arc::clone(&self.hub) }
    }

    /// Whether there may be work that no step has looked at: ask before waiting to be woken.
    pub fn is_signalled(&self) -> bool {
        self.hub.is_signalled()
    }

    /// Takes what is queued, up to the bounds of one batch per log; writes one batch per log; syncs the
    /// files written to; runs the callbacks of each log in order after its own sync.
    ///
    /// `now` is any clock that does not go back.
    pub fn step(&mut self, now: Duration) -> Step {
        self.hub.take_signal();
        self.shards.extend(self.hub.take_opened());
        if let Some(error) = self.failed.clone() {
            self.shards.iter_mut().for_each(|shard| shard.fail(&error));
            return Step::Idle { wake_at: None };
        }
        match self.commit(now) {
            Ok(true) => Step::Progressed,
            Ok(false) => {
                let wake_at = self.shards.iter().filter_map(ShardWriter::wake_at).min();
                Step::Idle { wake_at }
            }
            Err(failure) => {
                self.fail(failure);
                Step::Idle { wake_at: None }
            }
        }
    }

    /// True if anything was done.
    fn commit(&mut self, now: Duration) -> Result<bool, DiskFailure> {
        let mut written = Vec::new();
        let mut progressed = false;
        for (place, shard) in self.shards.iter_mut().enumerate() {
            match shard.write(now)? {
                Wrote::Nothing => {}
                Wrote::Chore => progressed = true,
                Wrote::Batch => written.push(place),
            }
        }
        progressed |= !written.is_empty();
        for place in written {
            self.shards[place].sync(now)?;
        }
        for shard in &mut self.shards {
            shard.prepare(now)?;
        }
        self.shards.extract_if(.., |shard| shard.is_closing()).for_each(ShardWriter::close);
        Ok(progressed)
    }

    /// The disk failed, and what it holds is unknown: no log on it may acknowledge anything any more.
    fn fail(&mut self, failure: DiskFailure) {
        tracing::error!(error = %failure, source = %failure.source, "log writer has failed");
        let error = LogError::Failed(Arc::new(failure));
        self.shards.iter_mut().for_each(|shard| shard.fail(&error));
        self.failed = Some(error);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.shards.extend(self.hub.close());
        self.shards.iter_mut().for_each(|shard| shard.fail(&LogError::Closed));
    }
}
