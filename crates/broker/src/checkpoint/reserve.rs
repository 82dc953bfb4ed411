//! Owns the file that a checkpoint is written to, and the room held back for it: without a checkpoint
//! no log file can go, and a full disk would stay full (DESIGN §1.7). Blocking.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use railgun_log::{Disk, DiskFile};
use tokio::sync::Semaphore;

use super::store::{is_full, is_gone, unless_gone};

/// The reserve is twice the last checkpoint, which the next may have outgrown; this at the least.
/// Where there is no room for that, half of it is better than nothing, and so on down to what the
/// last one took.
const RESERVE_BYTES_MIN: u64 = 1 << 20;
pub(super) const RESERVE: &str = "reserve";
const NEW: &str = "new";

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    /// Where checkpoints are.
    dir: PathBuf,
    /// For who changes or takes it. Nobody waits for it: there is another time.
    turn: Semaphore,
}

impl Reserve {
    /// Of the directory, where a crash may have left a file that was not finished.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        let reserve = Self { disk, dir, turn: Semaphore::new(1) };
        if let Err(error) = reserve.give_back() {
            tracing::warn!(%error, "what is left of a checkpoint stays");
        }
        reserve
    }

    /// The file that is written to, until it gets its name.
    pub(super) fn new_path(&self) -> PathBuf {
        self.dir.join(NEW)
    }

    /// Makes that file, of so many bytes at least: of the reserve where there is no other room.
    pub(super) fn make(&self, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.give_back()?;
        match self.disk.create(&self.new_path(), bytes) {
            Err(full) if is_full(&full) => self.take(bytes, full),
            created => created,
        }
    }

    /// What is left of a checkpoint that was not finished is the reserve again if there is none: it
    /// may have been that.
    fn give_back(&self) -> io::Result<()> {
        let (new, reserve) = (self.new_path(), self.dir.join(RESERVE));
        let given = match self.disk.open(&reserve) {
            Err(error) if is_gone(&error) => self.disk.rename(&new, &reserve),
            opened => opened.and_then(|_| self.disk.remove(&new)),
        };
        given.or_else(unless_gone)
    }

    /// The reserve as the file to write to. It changes its name, so that nobody else gets its room
    /// meanwhile. If there is none, the disk is `full`.
    fn take(&self, bytes: u64, full: io::Error) -> io::Result<Arc<dyn DiskFile>> {
        let Ok(_turn) = self.turn.try_acquire() else { return Err(full) };
        let new = self.new_path();
        match self.disk.rename(&self.dir.join(RESERVE), &new) {
            Err(gone) if is_gone(&gone) => return Err(full),
            renamed => renamed?,
        }
        let file = self.disk.open(&new)?;
        if file.size()? < bytes {
            file.allocate(bytes)?;
        }
        Ok(file)
    }

    /// Holds room for a checkpoint like one of so many bytes, as far as there is some. Its loss in a
    /// crash does no harm.
    pub(super) fn hold(&self, checkpoint: u64) {
        let Ok(_turn) = self.turn.try_acquire() else { return };
        let mut bytes = RESERVE_BYTES_MIN.max(checkpoint.saturating_mul(2));
        while let Err(error) = self.extend(bytes) {
            bytes /= 2;
            if !is_full(&error) || bytes <= checkpoint {
                tracing::warn!(%error, "no space can be held back for checkpoints");
                return;
            }
        }
    }

    fn extend(&self, bytes: u64) -> io::Result<()> {
        let path = self.dir.join(RESERVE);
        match self.disk.create(&path, bytes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.open(&path)?.allocate(bytes)
            }
            created => created.map(drop),
        }
    }
}
