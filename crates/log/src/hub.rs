//! What the writer, the handles and those who open logs share.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::FileUuid;
use crate::guarded::Guarded;
use crate::shard_writer::ShardWriter;
use crate::{LogOptions, RecoveryReport, ShardLog, recovery};

/// Gives the uuid of each file's life: random bytes, never the same twice. Drawn from the seed in a
/// simulation.
pub type UuidSource = Box<dyn FnMut() -> [u8; 16] + Send>;

/// Told that there is work for [`LogWriter::step`](crate::LogWriter::step). Called from any thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// Shared by a writer and all that belongs to it.
pub(crate) struct Hub {
    pub(crate) disk: Arc<dyn Disk>,
    uuids: Guarded<UuidSource>,
    inbox: Guarded<Inbox>,
    wake: OnceLock<Wake>,
    signalled: AtomicBool,
}

/// Logs that were opened and not yet adopted by the writer.
#[derive(Debug, Default)]
struct Inbox {
    opened: Vec<ShardWriter>,
    /// Directories of all logs that are open or being opened.
    dirs: BTreeSet<PathBuf>,
    /// The writer is gone.
    closed: bool,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Hub {
    pub(crate) fn new(disk: Arc<dyn Disk>, uuids: UuidSource) -> Self {
        Self {
            disk,
            uuids: Guarded::new(uuids),
            inbox: Guarded::new(Inbox::default()),
            wake: OnceLock::new(),
            signalled: AtomicBool::new(false),
        }
    }

    pub(crate) fn draw_uuid(&self) -> FileUuid {
        (self.uuids.lock())()
    }

    /// Sets the hook; false if it was set before.
    pub(crate) fn set_wake(&self, wake: Wake) -> bool {
        self.wake.set(wake).is_ok()
    }

    /// There is work.
    pub(crate) fn signal(&self) {
        let signalled = self.signalled.swap(true, Ordering::AcqRel);
        if !signalled && let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// Takes the signal: what was queued before it will be seen by a look at the queues after this.
    pub(crate) fn take_signal(&self) -> bool {
        self.signalled.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::Acquire)
    }

    pub(crate) fn take_opened(&self) -> Vec<ShardWriter> {
        std::mem::take(&mut self.inbox.lock().opened)
    }

    /// The writer ends: nothing can be opened any more. Gives what it had not adopted.
    pub(crate) fn close(&self) -> Vec<ShardWriter> {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        std::mem::take(&mut inbox.opened)
    }

    fn reserve(&self, dir: &Path) -> Result<(), OpenError> {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err(OpenError::Closed);
        }
        if !inbox.dirs.insert(dir.to_owned()) {
            return Err(OpenError::AlreadyOpen { log: dir.to_owned() });
        }
        Ok(())
    }

    /// The log in `dir` has ended.
    pub(crate) fn release(&self, dir: &Path) {
        self.inbox.lock().dirs.remove(dir);
    }

    fn adopt(&self, writer: ShardWriter) -> Result<(), OpenError> {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err(OpenError::Closed);
        }
        inbox.opened.push(writer);
        Ok(())
    }
}

/// Opens logs on a running writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogOpener {
    pub(crate) hub: Arc<Hub>,
}

impl LogOpener {
    /// Opens, or makes, the log in `dir` (relative to the disk's root), and recovers what it holds.
    /// Reads, writes and syncs on the calling thread.
    ///
    /// # Errors
    /// [`OpenError`]. After [`OpenError::Rot`] nothing was changed on disk.
    pub fn open_shard(
        &self,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(ShardLog, RecoveryReport), OpenError> {
        self.hub.reserve(dir)?;
        let opened = recovery::open(&self.hub, dir, options).and_then(|(writer, report)| {
            let log = writer.handle();
            self.hub.adopt(writer)?;
            Ok((log, report))
        });
        if opened.is_err() {
            self.hub.inbox.lock().dirs.remove(dir);
        }
        // The writer plans the first mark.
        self.hub.signal();
        opened
    }
}
