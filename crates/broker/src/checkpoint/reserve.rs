//! Owns the file that a checkpoint is written to, and the room held back for it: without a checkpoint
//! no log file can go, and a full disk would stay full (DESIGN §1.7). Blocking.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use railgun_log::{Disk, DiskFile};
use tokio::sync::Semaphore;

use super::store::{is_full, is_gone, unless_gone};

/// The reserve is twice the last checkpoint, which the next may have outgrown; this at the least.
/// Where there is no room for that, some less is better than nothing, down to what the last one took.
const RESERVE_BYTES_MIN: u64 = 1 << 20;
/// And this at the least.
const RESERVE_BYTES_LEAST: u64 = 64 << 10;
pub(super) const RESERVE: &str = "reserve";
const NEW: &str = "new";

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    /// Where checkpoints are.
    dir: PathBuf,
    /// For who changes, takes or makes it. Nobody waits for it: there is another time.
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
        // A reserve that is just being made, and may not come to be, says nothing about what is left.
        let turn = self.turn.try_acquire();
        if turn.is_ok() {
            self.give_back()?;
        }
        match self.disk.create(&self.new_path(), bytes) {
            Err(full) if is_full(&full) && turn.is_ok() => self.take(bytes, full),
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
    /// crash does no harm. `make_room` is asked once, where there is too little, and says whether
    /// there is more now.
    pub(super) fn hold(&self, checkpoint: u64, make_room: impl FnOnce() -> bool) {
        let Ok(_turn) = self.turn.try_acquire() else { return };
        let most = RESERVE_BYTES_MIN.max(checkpoint.saturating_mul(2));
        let least = RESERVE_BYTES_LEAST.max(checkpoint);
        let (mut bytes, mut make_room) = (most, Some(make_room));
        while let Err(error) = self.extend(bytes) {
            if is_full(&error) && make_room.take().is_some_and(|make_room| make_room()) {
                continue;
            }
            if !is_full(&error) || bytes <= least {
                tracing::warn!(%error, "no space can be held back for checkpoints");
                return;
            }
            bytes = (bytes / 4 * 3).max(least);
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

#[cfg(test)]
mod tests {
    use railgun_log::SimDisk;

    use super::*;

    #[test]
    fn what_is_left_of_a_checkpoint_stays_while_somebody_makes_a_reserve() {
        let disk = Arc::new(SimDisk::default());
        disk.create_dir_all("ckpt".as_ref()).expect("made");
        let reserve = Reserve::open(Arc::clone(&disk) as _, "ckpt".into());
        reserve.hold(0, || false);
        reserve.make(10).expect("made");
        // Where it is made again there may be no room for it in the end.
        let turn = reserve.turn.try_acquire().expect("free");
        reserve.make(10).expect_err("what is there may be all the room that there is");
        assert!(disk.open(&reserve.new_path()).is_ok());
        drop(turn);
        reserve.make(10).expect("there is another time");
    }
}
