//! The disk as one life of the node sees it: when that life ends, nothing it still does reaches the
//! disk that the next life finds.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use railgun_log::{Disk, DiskFile, DiskLock, LockError, SimDisk};
use tokio::sync::Notify;

use super::cut::Cut;
use super::dial::SimDial;
use super::node::Place;
use super::shared::Shared;
use super::trace::{Trace, digest};

/// A write of more than this to a log carries records.
const MARK_BYTES_MAX: usize = 400;

/// The catalog's directory.
const CATALOG: &str = "shards/0";

/// What those outside want to know of a disk, or make it do, through every life.
#[derive(Clone, Debug)]
pub(super) struct Hooks {
    /// Rung when a log file is given up: removed, or renamed to be used again.
    pub(super) removed: Arc<Notify>,
    /// Rung when a log file was synced.
    pub(super) synced: Arc<Notify>,
    /// Syncs of log files that still succeed; the machine stops before the next one, when the batch is
    /// written. Those of mere marks do not count.
    pub(super) syncs_left: Shared<Option<u64>>,
    /// Syncs of batches whose answers still reach clients; when the next one is durable, every connection
    /// with them breaks.
    pub(super) answers_left: Shared<Option<u64>>,
    /// The same of other nodes.
    pub(super) replies_left: Shared<Option<u64>>,
    pub(super) dial: SimDial,
    /// Of a node that is one of several.
    pub(super) place: Option<Place>,
    /// Told of every change.
    pub(super) cut: Cut,
}

impl Hooks {
    /// Answers to clients and to other nodes that still get there.
    pub(super) fn set_answers_left(&self, to_clients: Option<u64>, to_nodes: Option<u64>) {
        self.answers_left.with(|left| *left = to_clients);
        self.replies_left.with(|left| *left = to_nodes);
    }
}

/// See the module. Notes every change in the trace, one line each.
#[derive(Clone, Debug)]
pub(super) struct LifeDisk {
    disk: SimDisk,
    ended: Arc<AtomicBool>,
    hooks: Hooks,
    trace: Trace,
}

impl LifeDisk {
    pub(super) fn new(disk: SimDisk, hooks: Hooks, trace: Trace) -> Self {
        Self { disk, ended: Arc::default(), hooks, trace }
    }

    /// From now on everything fails.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(io::Error::other("this life of the simulated node has ended"));
        }
        Ok(())
    }

    fn noted<T>(&self, what: &str, path: &Path, result: io::Result<T>) -> io::Result<T> {
        let path = path.display();
        match &result {
            Ok(_) => self.note(format_args!("{what} {path}")),
            Err(error) => self.note(format_args!("{what} {path} failed: {error}")),
        }
        result
    }

    fn note(&self, change: std::fmt::Arguments<'_>) {
        self.trace.note(format_args!("disk {change}"));
        self.hooks.cut.on_change(self.disk.operations());
    }

    fn retired(&self) {
        self.trace.count(|counts| counts.retired += 1);
        self.hooks.removed.notify_one();
    }

    fn count_rename(&self, from: &Path, to: &Path) {
        if is_log(from) {
            self.retired();
        }
        match to.extension().and_then(|extension| extension.to_str()) {
            Some("ckpt") => self.trace.count(|counts| counts.checkpoints += 1),
            Some("snap") => self.trace.count(|counts| {
                counts.promotions += 1;
                counts.catalog_promotions += u64::from(to.starts_with(CATALOG));
                counts.installed += u64::from(from.extension() != Some("ckpt".as_ref()));
            }),
            _ => {}
        }
    }

    /// A batch is about to be synced.
    fn count_sync(&self) {
        if count_down(&self.hooks.syncs_left) {
            self.disk.stop_after(Some(self.disk.operations()));
        }
    }

    /// A batch is durable, and nobody knows yet.
    fn count_answer(&self) {
        if count_down(&self.hooks.answers_left) {
            self.trace.note(format_args!("the answers to a durable batch are lost"));
            if let Some(addr) = self.hooks.dial.addr() {
                self.hooks.dial.network().cut(addr);
            }
        }
        if count_down(&self.hooks.replies_left) {
            self.trace.note(format_args!("the replies to a durable batch are lost"));
            if let Some(place) = &self.hooks.place {
                place.cut_off();
            }
        }
    }

    fn wrap(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let (path, disk) = (path.to_owned(), self.clone());
        Arc::new(LifeFile { file, path, unsynced: AtomicUsize::new(0), disk })
    }
}

/// Whether nothing is left; from then on nothing is counted.
fn count_down(left: &Shared<Option<u64>>) -> bool {
    left.with(|left| {
        let none = *left == Some(0);
        *left = left.and_then(|left| left.checked_sub(1));
        none
    })
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

impl Disk for LifeDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.check()?;
        self.noted("create directory", dir, self.disk.create_dir_all(dir))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.check()?;
        let file = self.noted("create", path, self.disk.create(path, bytes))?;
        Ok(self.wrap(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.check()?;
        Ok(self.wrap(path, self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        let renamed = self.noted("rename to", to, self.disk.rename(from, to));
        if renamed.is_ok() {
            self.count_rename(from, to);
        }
        renamed
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        let removed = self.noted("remove", path, self.disk.remove(path));
        if removed.is_ok() && is_log(path) {
            self.retired();
        }
        removed
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.check()?;
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.check()?;
        self.noted("sync directory", dir, self.disk.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, LockError> {
        self.disk.lock(path)
    }
}

#[derive(Debug)]
struct LifeFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// Bytes written since the last sync.
    unsynced: AtomicUsize,
    disk: LifeDisk,
}

impl DiskFile for LifeFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.disk.check()?;
        let written = self.file.write_vectored_at(parts, position);
        let path = self.path.display();
        match &written {
            Ok(bytes) => {
                self.unsynced.fetch_add(*bytes, Ordering::Relaxed);
                let digest = digest(parts.iter().flat_map(|part| part.iter().copied()));
                self.disk
                    .note(format_args!("write {path} at {position}: {bytes} bytes, {digest:016x}"));
            }
            Err(error) => {
                self.disk.note(format_args!("write {path} at {position} failed: {error}"));
            }
        }
        written
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.disk.check()?;
        self.file.read_at(buffer, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.check()?;
        let unsynced = self.unsynced.swap(0, Ordering::Relaxed);
        let is_batch = is_log(&self.path) && unsynced > MARK_BYTES_MAX;
        if is_batch {
            self.disk.count_sync();
        }
        let synced = self.disk.noted("sync", &self.path, self.file.sync_data());
        if is_batch && synced.is_ok() {
            self.disk.count_answer();
        }
        if is_log(&self.path) {
            self.disk.hooks.synced.notify_one();
        }
        synced
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.check()?;
        self.file.size()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.disk.check()?;
        self.disk.noted("allocate", &self.path, self.file.allocate(bytes))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.check()?;
        self.disk.noted("set length of", &self.path, self.file.set_len(bytes))
    }
}
