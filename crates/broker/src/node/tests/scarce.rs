//! A disk that has no room from a given change on, until it is given some; or on which a given
//! operation on some of its files fails.

use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use railgun_log::{Disk, DiskFile, DiskLock, Fault, LockError, SimDisk, SimOp};
use tokio::sync::Notify;

/// What a disk without room refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// What takes more bytes than there are. Files keep what they have, and what is freed is used
    /// again.
    More,
    /// Every change, as where even what frees room takes some.
    All,
}

/// Which files a failure is planned for.
pub(super) type Among = fn(&Path) -> bool;

/// See the module. A clone is another handle of the same disk.
#[derive(Clone, Debug)]
pub(super) struct Scarce {
    sim: SimDisk,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    full: OnceLock<Full>,
    /// Changes that it still takes.
    left: AtomicU64,
    is_full: AtomicBool,
    was_full: AtomicBool,
    refused: Notify,
    fault: OnceLock<(SimOp, Among)>,
    /// Such operations that still succeed.
    sound: AtomicU64,
    has_failed: AtomicBool,
}

impl Scarce {
    /// With room for everything.
    pub(super) fn new(sim: SimDisk) -> Self {
        let state = State {
            full: OnceLock::new(),
            left: AtomicU64::new(u64::MAX),
            is_full: AtomicBool::new(false),
            was_full: AtomicBool::new(false),
            refused: Notify::new(),
            fault: OnceLock::new(),
            sound: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
        };
        Self { sim, state: Arc::new(state) }
    }

    /// After so many more changes it is full. Once.
    pub(super) fn fill_after(&self, changes: u64, full: Full) {
        self.state.full.set(full).unwrap();
        self.state.left.store(changes, Relaxed);
    }

    /// After so many more of these operations on one of these files, one fails. Once.
    pub(super) fn fail_after(&self, op: SimOp, after: u64, among: Among) {
        self.state.sound.store(after, Relaxed);
        self.state.fault.set((op, among)).unwrap();
    }

    /// None fails any more.
    pub(super) fn mend(&self) {
        self.state.sound.store(u64::MAX, Relaxed);
    }

    /// Whether it has.
    pub(super) fn has_failed(&self) -> bool {
        self.state.has_failed.load(Relaxed)
    }

    /// An operation begins.
    fn begin(&self, op: SimOp, path: &Path) {
        let State { fault, sound, has_failed, .. } = &*self.state;
        let meant = fault.get().is_some_and(|(meant, among)| *meant == op && among(path));
        if !meant || has_failed.load(Relaxed) {
            return;
        }
        if sound.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            has_failed.store(true, Relaxed);
            // It is the next one of its kind.
            self.sim.fail(Fault { op, after: 0, kind: ErrorKind::Other });
        }
    }

    /// There is room for everything again.
    pub(super) fn make_room(&self) {
        self.state.left.store(u64::MAX, Relaxed);
        self.state.is_full.store(false, Relaxed);
        self.sim.set_capacity(u64::MAX);
    }

    pub(super) fn is_full(&self) -> bool {
        self.state.is_full.load(Relaxed)
    }

    /// Whether it ever was.
    pub(super) fn was_full(&self) -> bool {
        self.state.was_full.load(Relaxed)
    }

    /// Waits until something found no room.
    pub(super) async fn refused(&self) {
        self.state.refused.notified().await;
    }

    fn change<T>(&self, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let State { full, left, is_full, was_full, refused, .. } = &*self.state;
        let is_over = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err();
        if is_over && !is_full.swap(true, Relaxed) {
            was_full.store(true, Relaxed);
            self.sim.set_capacity(self.sim.used());
        }
        let done = if is_over && full.get() == Some(&Full::All) {
            Err(ErrorKind::StorageFull.into())
        } else {
            change()
        };
        if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull) {
            refused.notify_one();
        }
        done
    }

    fn handle(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(ScarceFile { file, path: path.to_owned(), disk: self.clone() })
    }
}

impl Disk for Scarce {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.sim.create_dir_all(dir)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        if self.sim.open(path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        self.begin(SimOp::Create, path);
        Ok(self.handle(path, self.change(|| self.sim.create(path, bytes))?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.begin(SimOp::Open, path);
        Ok(self.handle(path, self.sim.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        // What is not there is told so, whatever room there is.
        self.sim.open(from)?;
        self.begin(SimOp::Rename, from);
        self.change(|| self.sim.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // As above.
        self.sim.open(path)?;
        self.begin(SimOp::Remove, path);
        self.change(|| self.sim.remove(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.sim.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.begin(SimOp::SyncDir, dir);
        self.sim.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, LockError> {
        self.sim.lock(path)
    }
}

#[derive(Debug)]
struct ScarceFile {
    file: Arc<dyn DiskFile>,
    /// By which it was opened.
    path: PathBuf,
    disk: Scarce,
}

impl DiskFile for ScarceFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.disk.begin(SimOp::Write, &self.path);
        self.disk.change(|| self.file.write_vectored_at(parts, position))
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.begin(SimOp::Sync, &self.path);
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.disk.begin(SimOp::Resize, &self.path);
        self.disk.change(|| self.file.allocate(bytes))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.begin(SimOp::Resize, &self.path);
        self.disk.change(|| self.file.set_len(bytes))
    }
}
