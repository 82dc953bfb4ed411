//! Owns the directory of a shard's checkpoints. Blocking.
//!
//! `i{index}-t{term}.ckpt` is a checkpoint; promoted, it is renamed to `.snap`. These appear whole, by
//! rename, and never change. `damaged` is the last one that was found not to be whole: for people,
//! nothing reads it. The rest is [`Reserve`]'s.

use std::error::Error;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use railgun_core::checkpoint::CheckpointError;
use railgun_log::{Disk, DiskFile, make_dir, read_full_at, write_all_vectored_at};
use railgun_raft::{Applied, Snapshot, SnapshotError, SnapshotSource};
use railgun_types::EntryId;
use tokio::sync::watch;

use super::reserve::Reserve;

/// Checkpoints kept above the current snapshot.
const KEPT_MAX: usize = 16;

const DAMAGED: &str = "damaged";

/// Says whether a file's content is a checkpoint of this shard; returns the membership in it.
pub(crate) type Check = Box<dyn Fn(&[u8]) -> Result<Bytes, CheckpointError> + Send + Sync>;

/// A checkpoint that could not be written or listed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("checkpoint file {path} failed: {source}", path = path.display())]
pub(crate) struct StoreError {
    path: PathBuf,
    source: Arc<io::Error>,
}

impl StoreError {
    fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_owned(), source: Arc::new(source) }
    }
}

/// See the module.
pub(crate) struct CheckpointStore {
    disk: Arc<dyn Disk>,
    /// Relative to the disk's root.
    dir: PathBuf,
    check: Check,
    /// Bytes that the files kept for a choice may have.
    kept_bytes_max: u64,
    reserve: Reserve,
    failed: OnceLock<StoreError>,
    /// What this life has promoted: Raft need not have it read again.
    promoted: watch::Sender<Option<Snapshot>>,
    /// See [`Self::has_lost_newest`].
    lost_newest: AtomicBool,
}

/// A file in the directory, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    id: EntryId,
    promoted: bool,
}

/// What is found where the newest checkpoint should be.
#[derive(Debug)]
pub(crate) struct Newest<T> {
    /// The newest one that holds a checkpoint, and what is made of it.
    pub(crate) whole: Option<(EntryId, T)>,
    /// Newer ones, which do not, the oldest first.
    pub(crate) damaged: Vec<Entry>,
}

impl Entry {
    fn parse(name: &str) -> Option<Self> {
        let (name, promoted) = match (name.strip_suffix(".ckpt"), name.strip_suffix(".snap")) {
            (Some(name), _) => (name, false),
            (_, Some(name)) => (name, true),
            _ => return None,
        };
        let (index, term) = name.strip_prefix('i')?.split_once("-t")?;
        let id = EntryId { index: index.parse().ok()?, term: term.parse().ok()? };
        Some(Self { id, promoted })
    }

    fn name(&self) -> String {
        let suffix = if self.promoted { "snap" } else { "ckpt" };
        format!("i{:020}-t{:010}.{suffix}", self.id.index, self.id.term)
    }
}

impl std::fmt::Debug for CheckpointStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckpointStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl CheckpointStore {
    /// Opens, or makes, the directory, durably: the log is purged on the strength of what is in it.
    /// `kept_bytes_max`: see [`Self::thin`].
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        kept_bytes_max: u64,
        check: Check,
    ) -> Result<Self, StoreError> {
        make_dir(&*disk, &dir).map_err(|source| StoreError::new(&dir, source))?;
        let reserve = Reserve::open(Arc::clone(&disk), dir.clone());
        let store = Self {
            disk,
            dir,
            check,
            kept_bytes_max,
            reserve,
            failed: OnceLock::new(),
            promoted: watch::channel(None).0,
            lost_newest: AtomicBool::new(false),
        };
        store.hold_reserve();
        Ok(store)
    }

    /// The first change of a checkpoint that failed for another reason than want of room. What the
    /// disk holds is not known then: nothing is changed here any more, and the node must end. One that
    /// could not be opened, or not removed, is what it was.
    pub(crate) fn failure(&self) -> Option<&StoreError> {
        self.failed.get()
    }

    fn check_failure(&self) -> Result<(), StoreError> {
        self.failed.get().map_or(Ok(()), |failed| Err(failed.clone()))
    }

    /// Makes a change which the log may be purged on the strength of.
    fn change<T>(
        &self,
        path: &Path,
        change: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        self.check_failure()?;
        change().map_err(|source| {
            // A file that was removed at the same time says nothing about the disk.
            let passes = is_full(&source) || is_gone(&source);
            let error = StoreError::new(path, source);
            if passes { error } else { self.failed.get_or_init(|| error).clone() }
        })
    }

    /// Checkpoints and snapshots, the oldest first.
    fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let names = self.disk.list(&self.dir);
        let names = names.map_err(|source| StoreError::new(&self.dir, source))?;
        let mut entries: Vec<_> = names.iter().filter_map(|name| Entry::parse(name)).collect();
        entries.sort_by_key(|entry| (entry.id.index, entry.promoted));
        Ok(entries)
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        self.dir.join(entry.name())
    }

    /// What `read` makes of the newest file that holds a checkpoint; older ones stand in for damaged
    /// ones, which are told.
    pub(crate) fn newest<T>(
        &self,
        read: impl Fn(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<Newest<T>, StoreError> {
        let mut newest = Newest { whole: None, damaged: Vec::new() };
        for entry in self.entries()?.into_iter().rev() {
            let path = self.path(&entry);
            let bytes = self.disk.open(&path).and_then(|file| content(&*file));
            match read(&bytes.map_err(|source| StoreError::new(&path, source))?) {
                Ok(content) => {
                    newest.whole = Some((entry.id, content));
                    break;
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "checkpoint is damaged");
                    newest.damaged.insert(0, entry);
                }
            }
        }
        Ok(newest)
    }

    /// Takes damaged ones out of what may be promoted; the last of them is kept for people.
    pub(crate) fn set_aside(&self, damaged: &[Entry]) -> Result<(), StoreError> {
        let aside = self.dir.join(DAMAGED);
        for entry in damaged {
            let path = self.path(entry);
            self.change(&path, || self.disk.rename(&path, &aside).or_else(unless_gone))?;
            tracing::error!(path = %path.display(), to = %aside.display(), "checkpoint is set aside");
        }
        match damaged {
            [] => Ok(()),
            _ => self.change(&self.dir, || self.disk.sync_dir(&self.dir)),
        }
    }

    /// Whether the newest one was set aside, and none was written since.
    pub(crate) fn has_lost_newest(&self) -> bool {
        self.lost_newest.load(Ordering::Relaxed)
    }

    /// Bytes of the newest file; 0 if there is none.
    pub(crate) fn newest_bytes(&self) -> u64 {
        let newest = self.entries().ok().and_then(|mut entries| entries.pop());
        newest.map_or(0, |newest| self.bytes(&newest))
    }

    fn bytes(&self, entry: &Entry) -> u64 {
        self.disk.open(&self.path(entry)).and_then(|file| file.size()).unwrap_or(0)
    }

    /// Writes a checkpoint, durably. The log must be durable up to it.
    pub(crate) fn write(&self, id: EntryId, pieces: &[Bytes]) -> Result<u64, StoreError> {
        self.check_failure()?;
        let path = self.path(&Entry { id, promoted: false });
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let new = self.reserve.new_path();
        let file = self.reserve.make(bytes).map_err(|source| StoreError::new(&new, source))?;
        self.change(&path, || {
            fill(&*file, pieces, bytes)?;
            self.disk.rename(&new, &path)?;
            self.disk.sync_dir(&self.dir)
        })?;
        self.lost_newest.store(false, Ordering::Relaxed);
        self.thin();
        self.hold_reserve();
        Ok(bytes)
    }

    /// Holds the reserve for a checkpoint like the newest one, as far as there is room.
    pub(crate) fn hold_reserve(&self) {
        self.reserve.hold(self.newest_bytes());
    }

    /// Removes what nobody needs: everything below the newest snapshot, and of those above it, while
    /// they are more than [`KEPT_MAX`] or have more than `kept_bytes_max`, the one closest to its
    /// neighbours. But the newest one stays, and the first one above the snapshot: the cold floor
    /// comes to that one first, however far it is behind the newest. What cannot be removed is told:
    /// the next time does it.
    fn thin(&self) {
        match self.entries() {
            Ok(entries) => self.remove_superfluous(&entries),
            Err(error) => tracing::warn!(%error, "no superfluous checkpoint is removed"),
        }
    }

    fn remove_superfluous(&self, entries: &[Entry]) {
        let snapshot = entries.iter().rposition(|entry| entry.promoted);
        let (below, from) = entries.split_at(snapshot.unwrap_or(0));
        let mut superfluous = below.to_vec();
        let mut kept: Vec<_> = from.iter().map(|entry| (entry, self.bytes(entry))).collect();
        let mut bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        let stay = if snapshot.is_some() { 2 } else { 1 };
        while kept.len() > KEPT_MAX + 1 || bytes > self.kept_bytes_max {
            let gap = |at: &usize| kept[at + 1].0.id.index - kept[at - 1].0.id.index;
            let Some(closest) = (stay..kept.len().saturating_sub(1)).min_by_key(gap) else { break };
            let (entry, entry_bytes) = kept.remove(closest);
            bytes -= entry_bytes;
            superfluous.push(entry.clone());
        }
        for entry in superfluous {
            let path = self.path(&entry);
            // A promotion may do the same at the same time.
            if let Err(error) = self.disk.remove(&path).or_else(unless_gone) {
                tracing::warn!(path = %path.display(), %error, "a superfluous checkpoint stays");
            }
        }
    }

    fn rename_promoted(&self, entry: &Entry, snapshot: Snapshot) -> Result<Snapshot, StoreError> {
        let path = self.path(&Entry { promoted: true, ..entry.clone() });
        self.change(&path, || {
            self.disk.rename(&snapshot.path, &path)?;
            self.disk.sync_dir(&self.dir)
        })?;
        self.thin();
        Ok(Snapshot { path, ..snapshot })
    }

    fn snapshot(&self, entry: &Entry) -> Result<Snapshot, SnapshotError> {
        let path = self.path(entry);
        let file = self.disk.open(&path);
        let file = file.map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        // What the disk cannot read any more is as lost as what has changed.
        let checked: Result<_, Box<dyn Error + Send + Sync>> = match content(&*file) {
            Ok(bytes) => (self.check)(&bytes).map_err(Into::into),
            Err(error) => Err(error.into()),
        };
        let membership =
            checked.map_err(|source| SnapshotError::Damaged { path: path.clone(), source })?;
        Ok(Snapshot { applied: Applied { id: entry.id, membership }, path })
    }
}

impl SnapshotSource for CheckpointStore {
    /// A snapshot that is damaged is told and passed over while another file holds the state: the
    /// next promotion replaces it.
    fn current(&self) -> Result<Option<Snapshot>, SnapshotError> {
        let promoted = self.promoted.borrow().clone();
        if promoted.is_some() {
            return Ok(promoted);
        }
        let entries = self.entries().map_err(as_snapshot_error)?;
        let mut damaged = None;
        for entry in entries.iter().rev().filter(|entry| entry.promoted) {
            match self.snapshot(entry) {
                Err(error @ SnapshotError::Damaged { .. }) => {
                    tracing::error!(%error, "looking for another that is whole");
                    damaged = damaged.or(Some(error));
                }
                whole => return whole.map(Some),
            }
        }
        match damaged {
            Some(damaged) => {
                let newest = self.newest(&self.check).map_err(as_snapshot_error)?;
                if newest.whole.is_none() { Err(damaged) } else { Ok(None) }
            }
            None => Ok(None),
        }
    }

    fn promote(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        // A name that may not be durable is nothing to purge a log on.
        self.check_failure().map_err(as_snapshot_error)?;
        let entries = self.entries().map_err(as_snapshot_error)?;
        let below = |entry: &&Entry| entry.promoted || entry.id.index <= upto;
        let mut found = None;
        for entry in entries.iter().rev().filter(below) {
            // Read and checked before it is relied on.
            match self.snapshot(entry) {
                Ok(snapshot) => {
                    found = Some((entry, snapshot));
                    break;
                }
                // See `current`.
                Err(SnapshotError::Damaged { .. }) if entry.promoted => {}
                // While it stays, it is the one that the floor comes to: nothing could be promoted.
                Err(error @ SnapshotError::Damaged { .. }) => {
                    tracing::error!(%error, "an older one is promoted");
                    self.set_aside(std::slice::from_ref(entry)).map_err(as_snapshot_error)?;
                    if entries.last() == Some(entry) {
                        self.lost_newest.store(true, Ordering::Relaxed);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let Some((newest, snapshot)) = found else {
            return Err(SnapshotError::NoCheckpoint { upto });
        };
        let snapshot = match newest.promoted {
            true => snapshot,
            false => self.rename_promoted(newest, snapshot).map_err(as_snapshot_error)?,
        };
        self.promoted.send_replace(Some(snapshot.clone()));
        Ok(snapshot)
    }

    fn stand_in(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        let entries = self.entries().map_err(as_snapshot_error)?;
        for entry in entries.iter().rev().filter(|entry| entry.id.index <= upto) {
            match self.snapshot(entry) {
                Err(error @ SnapshotError::Damaged { .. }) => {
                    tracing::error!(%error, "looking for another that is whole");
                }
                whole => return whole,
            }
        }
        Err(SnapshotError::NoCheckpoint { upto })
    }
}

fn content(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    let read = read_full_at(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Makes the file those bytes, durably.
fn fill(file: &dyn DiskFile, pieces: &[Bytes], bytes: u64) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    write_all_vectored_at(file, &mut slices, 0)?;
    if file.size()? > bytes {
        // What the reserve had more of.
        file.set_len(bytes)?;
    }
    file.sync_data()
}

/// Whether the disk, or the quota on it, has no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// What is gone already need not be removed.
pub(super) fn unless_gone(error: io::Error) -> io::Result<()> {
    if is_gone(&error) { Ok(()) } else { Err(error) }
}

fn as_snapshot_error(error: StoreError) -> SnapshotError {
    let source = io::Error::new(error.source.kind(), error.source);
    SnapshotError::Io { path: error.path, source }
}

#[cfg(test)]
mod tests;
