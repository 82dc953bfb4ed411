//! Owns the directory of a shard's checkpoints. Blocking.
//!
//! `i{index}-t{term}.ckpt` is a checkpoint; promoted, it is renamed to `.snap`. These appear whole, by
//! rename, and never change. One whose content turns out to be another gets `.damaged` behind its name:
//! the newest of these stays, for people, nothing reads it. The rest is [`Reserve`]'s.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use railgun_core::checkpoint::CheckpointError;
use railgun_log::{BlockWriter, Disk, DiskFile, make_dir, read_full_at};
use railgun_raft::{Applied, Snapshot, SnapshotError, SnapshotFile, SnapshotSink, SnapshotSource};
use railgun_types::EntryId;
use tokio::sync::watch;

use super::reserve::Reserve;
use super::transfer::{Received, Sent, failed, is_received, received_name};
use crate::builtin_bug::{BuiltinBug, Planted};

/// Checkpoints kept above the current snapshot.
const KEPT_MAX: usize = 16;
/// What direct writes are whole multiples of, mostly.
const BLOCK_BYTES: u64 = 4_096;

/// What the name of a damaged one ends with.
const DAMAGED: &str = "damaged";

/// Says whether a file's content is a checkpoint of this shard; returns the membership in it.
pub(crate) type Check = Arc<dyn Fn(&[u8]) -> Result<Bytes, CheckpointError> + Send + Sync>;

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

    /// Whether there was no room for it: it may be tried again.
    pub(crate) fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Why a file is none that can be relied on.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// It could not even be opened, which says nothing about it.
    #[error(transparent)]
    Closed(StoreError),
    /// The disk cannot read it, now at least.
    #[error("checkpoint file {path} cannot be read: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The bytes are not what was written, or are another's.
    #[error("checkpoint file {path}: {source}", path = path.display())]
    Content { path: PathBuf, source: CheckpointError },
}

/// Why the newest checkpoint was not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewestError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is whole, and not for this release, cluster or shard.
    #[error("checkpoint file {path}: {source}", path = path.display())]
    Foreign { path: PathBuf, source: CheckpointError },
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
    /// The snapshot, as this life has promoted, installed or read it. Looked into again before it is sent.
    promoted: watch::Sender<Option<Snapshot>>,
    /// See [`Self::has_lost_snapshot`].
    lost_snapshot: AtomicBool,
    /// See [`Self::has_lost_newest`].
    lost_newest: AtomicBool,
    /// Those that could not be read, or not be set aside, in this life: they are not promoted, nor kept
    /// when there is a newer one.
    passed_over: watch::Sender<BTreeSet<EntryId>>,
    /// Snapshots of other replicas that were begun to be received in this life.
    received: AtomicU64,
    planted: Planted,
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
        // What is in it, too: a process may have died, or failed, before it had synced a name.
        let made = make_dir(&*disk, &dir).and_then(|()| disk.sync_dir(&dir));
        made.map_err(|source| StoreError::new(&dir, source))?;
        let reserve = Reserve::open(Arc::clone(&disk), dir.clone());
        let store = Self {
            disk,
            dir,
            check,
            kept_bytes_max,
            reserve,
            failed: OnceLock::new(),
            promoted: watch::channel(None).0,
            lost_snapshot: AtomicBool::new(false),
            lost_newest: AtomicBool::new(false),
            passed_over: watch::channel(BTreeSet::new()).0,
            received: AtomicU64::new(0),
            planted: Planted::default(),
        };
        store.remove_received();
        store.hold_reserve();
        Ok(store)
    }

    pub(crate) fn with_planted(self, planted: Planted) -> Self {
        Self { planted, ..self }
    }

    fn remove_received(&self) {
        let names = self.disk.list(&self.dir).unwrap_or_default();
        let received = names.iter().filter(|name| is_received(name));
        received.for_each(|name| self.remove(&self.dir.join(name)));
    }

    /// Makes a snapshot that was received the current one, and gives what `read` makes of it, with its
    /// size in bytes. Whatever is older goes.
    pub(crate) fn install<T>(
        &self,
        received: &Snapshot,
        read: &(dyn Fn(&[u8]) -> Result<T, CheckpointError> + Send + Sync),
    ) -> Result<(T, u64), SnapshotError> {
        let entry = Entry { id: received.applied.id, promoted: true };
        let path = self.path(&entry);
        if received.path != path {
            // Read before it gets the name that says that it is whole.
            self.content_of(&received.path, &*self.check)?;
            self.change(&path, || {
                self.disk.rename(&received.path, &path)?;
                synced(self.disk.sync_dir(&self.dir))
            })
            .map_err(as_snapshot_error)?;
        }
        let content = self.read(&entry, read)?;
        self.has_snapshot(Snapshot { path, ..received.clone() });
        self.lost_newest.store(false, Ordering::Relaxed);
        self.thin();
        Ok((content, self.bytes(&entry)))
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

    /// What `read` makes of the file's content.
    fn read<T>(
        &self,
        entry: &Entry,
        read: impl FnOnce(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<T, Unusable> {
        self.content_of(&self.path(entry), read)
    }

    fn content_of<T>(
        &self,
        path: &Path,
        read: impl FnOnce(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<T, Unusable> {
        let file = self.disk.open(path);
        let file = file.map_err(|source| Unusable::Closed(StoreError::new(path, source)))?;
        let path = path.to_owned();
        let bytes = content(&*file);
        let bytes = bytes.map_err(|source| Unusable::Unreadable { path: path.clone(), source })?;
        read(&bytes).map_err(|source| Unusable::Content { path, source })
    }

    /// What `read` makes of the newest file that holds a checkpoint; older ones stand in for those that
    /// are damaged or cannot be read, which are told.
    pub(crate) fn newest<T>(
        &self,
        read: impl Fn(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<Newest<T>, NewestError> {
        let mut newest = Newest { whole: None, damaged: Vec::new() };
        for entry in self.entries()?.into_iter().rev() {
            match self.read(&entry, &read) {
                Ok(content) => {
                    newest.whole = Some((entry.id, content));
                    break;
                }
                Err(Unusable::Closed(error)) => return Err(error.into()),
                Err(Unusable::Content { path, source }) if !source.is_damage() => {
                    return Err(NewestError::Foreign { path, source });
                }
                Err(error @ Unusable::Content { .. }) => {
                    tracing::error!(%error, "looking for an older checkpoint");
                    newest.damaged.insert(0, entry);
                }
                Err(error @ Unusable::Unreadable { .. }) => {
                    tracing::error!(%error, "looking for an older checkpoint");
                    self.pass_over(entry.id);
                }
            }
        }
        Ok(newest)
    }

    /// See the field.
    fn pass_over(&self, id: EntryId) {
        self.passed_over.send_modify(|ids| {
            ids.insert(id);
        });
    }

    fn is_passed_over(&self, entry: &Entry) -> bool {
        !entry.promoted && self.passed_over.borrow().contains(&entry.id)
    }

    /// Takes damaged ones out of what may be promoted; the newest of them is kept for people.
    pub(crate) fn set_aside(&self, damaged: &[Entry]) -> Result<(), StoreError> {
        if damaged.is_empty() {
            return Ok(());
        }
        for entry in damaged {
            let path = self.path(entry);
            let aside = self.dir.join(format!("{}.{DAMAGED}", entry.name()));
            match self.change(&path, || self.disk.rename(&path, &aside).or_else(unless_gone)) {
                Ok(()) => {
                    tracing::error!(path = %path.display(), to = %aside.display(), "checkpoint is set aside");
                }
                Err(error) if error.is_full() => {
                    tracing::error!(%error, "a damaged checkpoint is not set aside");
                    self.pass_over(entry.id);
                }
                Err(error) => return Err(error),
            }
        }
        self.change(&self.dir, || synced(self.disk.sync_dir(&self.dir)))?;
        self.remove_damaged(1);
        Ok(())
    }

    /// Removes those that were set aside but for so many, the newest. Whether there were any.
    fn remove_damaged(&self, kept: usize) -> bool {
        let mut damaged = self.disk.list(&self.dir).unwrap_or_default();
        damaged.retain(|name| name.ends_with(DAMAGED));
        damaged.sort();
        let superfluous = damaged.len().saturating_sub(kept);
        damaged[..superfluous].iter().for_each(|name| self.remove(&self.dir.join(name)));
        superfluous > 0
    }

    /// Removes what nobody needs. What cannot be removed is told: the next time does it.
    fn remove(&self, path: &Path) {
        // A promotion may do the same at the same time.
        if let Err(error) = self.disk.remove(path).or_else(unless_gone) {
            tracing::warn!(path = %path.display(), %error, "a superfluous checkpoint stays");
        }
    }

    fn has_snapshot(&self, snapshot: Snapshot) {
        self.promoted.send_replace(Some(snapshot));
        self.lost_snapshot.store(false, Ordering::Relaxed);
    }

    /// The snapshot at this path is not what it was, or cannot be read. Another takes its place, as soon as
    /// one may be promoted; until then there is none for other replicas.
    fn lose_snapshot(&self, path: &Path, error: &Unusable) -> Result<(), StoreError> {
        tracing::error!(%error, "the snapshot is lost, and another is to be promoted");
        let is_it = |snapshot: &mut Snapshot| snapshot.path == path;
        if self.promoted.send_if_modified(|promoted| promoted.take_if(is_it).is_some()) {
            self.lost_snapshot.store(true, Ordering::Relaxed);
            // Nothing else may ever come for the floor to come to.
            self.lost_newest.store(true, Ordering::Relaxed);
        }
        let name = path.file_name().and_then(|name| name.to_str());
        match (error, name.and_then(Entry::parse)) {
            // It was whole in this life: whatever is wrong with it now is damage.
            (Unusable::Content { .. }, Some(entry)) => self.set_aside(&[entry]),
            _ => Ok(()),
        }
    }

    /// Whether the snapshot turned out to be lost, and none was promoted since. A replica that needs it
    /// waits.
    pub(crate) fn has_lost_snapshot(&self) -> bool {
        self.lost_snapshot.load(Ordering::Relaxed)
    }

    /// Whether the newest one, or the snapshot, turned out to be lost, and none was written since.
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
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let new = self.reserve.new_path();
        // The last block is written as a whole.
        let room = bytes.next_multiple_of(BLOCK_BYTES);
        let made = match self.reserve.make(room) {
            Err(full) if is_full(&full) && self.remove_damaged(0) => self.reserve.make(room),
            made => made,
        };
        let file = made.map_err(|source| StoreError::new(&new, source))?;
        self.change(&path, || {
            fill(&file, pieces, bytes)?;
            self.disk.rename(&new, &path)?;
            synced(self.disk.sync_dir(&self.dir))
        })?;
        self.lost_newest.store(false, Ordering::Relaxed);
        self.passed_over.send_modify(|ids| {
            ids.remove(&id);
        });
        self.thin();
        self.hold_reserve();
        Ok(bytes)
    }

    /// Holds the reserve for a checkpoint like the newest one, as far as there is room.
    pub(crate) fn hold_reserve(&self) {
        self.reserve.hold(self.newest_bytes(), || self.remove_damaged(0));
    }

    /// Removes what nobody needs: everything below the newest snapshot, and of those above it, while
    /// they are more than [`KEPT_MAX`] or have more than `kept_bytes_max`, the one closest to its
    /// neighbours. But the newest one stays, and the first one above the snapshot: the cold floor
    /// comes to that one first, however far it is behind the newest. One that was passed over is no
    /// choice, and goes first.
    fn thin(&self) {
        match self.entries() {
            Ok(entries) => self.remove_superfluous(&entries),
            Err(error) => tracing::warn!(%error, "no superfluous checkpoint is removed"),
        }
    }

    fn remove_superfluous(&self, entries: &[Entry]) {
        let snapshot = entries.iter().rposition(|entry| entry.promoted);
        let (below, from) = entries.split_at(snapshot.unwrap_or(0));
        let is_lost = |entry: &&Entry| Some(*entry) != from.last() && self.is_passed_over(entry);
        let (lost, from): (Vec<_>, Vec<_>) = from.iter().partition(is_lost);
        let mut superfluous: Vec<_> = below.iter().chain(lost).cloned().collect();
        let mut kept: Vec<_> = from.into_iter().map(|entry| (entry, self.bytes(entry))).collect();
        let mut bytes: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
        let stay = if snapshot.is_some() { 2 } else { 1 };
        while kept.len() > KEPT_MAX + 1 || bytes > self.kept_bytes_max {
            let gap = |at: &usize| kept[at + 1].0.id.index - kept[at - 1].0.id.index;
            let Some(closest) = (stay..kept.len().saturating_sub(1)).min_by_key(gap) else { break };
            let (entry, entry_bytes) = kept.remove(closest);
            bytes -= entry_bytes;
            superfluous.push(entry.clone());
        }
        superfluous.iter().for_each(|entry| self.remove(&self.path(entry)));
    }

    fn rename_promoted(&self, entry: &Entry, snapshot: Snapshot) -> Result<Snapshot, StoreError> {
        let path = self.path(&Entry { promoted: true, ..entry.clone() });
        self.change(&path, || {
            self.disk.rename(&snapshot.path, &path)?;
            synced(self.disk.sync_dir(&self.dir))
        })?;
        self.thin();
        Ok(Snapshot { path, ..snapshot })
    }

    /// The file as a snapshot: read and checked before it is relied on.
    fn snapshot(&self, entry: &Entry) -> Result<Snapshot, Unusable> {
        let membership = self.read(entry, &*self.check)?;
        Ok(Snapshot { applied: Applied { id: entry.id, membership }, path: self.path(entry) })
    }
}

impl SnapshotSource for CheckpointStore {
    /// A snapshot that is damaged is told and passed over while another file holds the state: the
    /// next promotion replaces it. An older one, which a power cut has brought back, may not reach to
    /// where the log begins.
    fn current(&self, from: u64) -> Result<Option<Snapshot>, SnapshotError> {
        let promoted = self.promoted.borrow().clone();
        if promoted.is_some() {
            return Ok(promoted);
        }
        let entries = self.entries().map_err(as_snapshot_error)?;
        let mut damaged = None;
        let reaches = |entry: &&Entry| entry.promoted && entry.id.index >= from;
        for entry in entries.iter().rev().filter(reaches) {
            match self.snapshot(entry) {
                Ok(whole) => {
                    self.has_snapshot(whole.clone());
                    return Ok(Some(whole));
                }
                Err(Unusable::Closed(error)) => return Err(as_snapshot_error(error)),
                Err(error) => {
                    tracing::error!(%error, "looking for another that is whole");
                    damaged.get_or_insert(error);
                }
            }
        }
        let Some(damaged) = damaged else { return Ok(None) };
        match self.stand_in(u64::MAX) {
            Ok(_) => Ok(None),
            Err(SnapshotError::NoCheckpoint { .. }) => Err(damaged.into()),
            Err(error) => Err(error),
        }
    }

    fn promote(&self, from: u64, upto: u64) -> Result<Snapshot, SnapshotError> {
        let upto = if self.planted.is(BuiltinBug::SnapshotAboveFloor) { u64::MAX } else { upto };
        // A name that may not be durable is nothing to purge a log on.
        self.check_failure().map_err(as_snapshot_error)?;
        let entries = self.entries().map_err(as_snapshot_error)?;
        let below = |entry: &&Entry| {
            let is_choice = entry.id.index <= upto && !self.is_passed_over(entry);
            entry.id.index >= from && (entry.promoted || is_choice)
        };
        let promoted = self.promoted.borrow().clone();
        let mut found = None;
        for entry in entries.iter().rev().filter(below) {
            if let Some(same) = promoted.as_ref().filter(|it| it.path == self.path(entry)) {
                return Ok(same.clone());
            }
            match self.snapshot(entry) {
                Ok(snapshot) => {
                    found = Some((entry, snapshot));
                    break;
                }
                Err(Unusable::Closed(error)) => return Err(as_snapshot_error(error)),
                // See `current`.
                Err(_) if entry.promoted => {}
                // While it counts, it is the one that the floor comes to: nothing could be promoted.
                Err(error) => {
                    tracing::error!(%error, "an older one is promoted");
                    match error {
                        Unusable::Content { source, .. } if source.is_damage() => {
                            self.set_aside(std::slice::from_ref(entry))
                                .map_err(as_snapshot_error)?;
                        }
                        _ => self.pass_over(entry.id),
                    }
                    if entries.last() == Some(entry) {
                        self.lost_newest.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        let Some((newest, snapshot)) = found else {
            return Err(SnapshotError::NoCheckpoint { upto });
        };
        let snapshot = match newest.promoted {
            true => snapshot,
            false => self.rename_promoted(newest, snapshot).map_err(as_snapshot_error)?,
        };
        self.has_snapshot(snapshot.clone());
        Ok(snapshot)
    }

    fn stand_in(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        self.lost_snapshot.store(true, Ordering::Relaxed);
        let entries = self.entries().map_err(as_snapshot_error)?;
        for entry in entries.iter().rev().filter(|entry| entry.id.index <= upto) {
            match self.snapshot(entry) {
                Ok(whole) => return Ok(whole),
                Err(Unusable::Closed(error)) => return Err(as_snapshot_error(error)),
                Err(error) => tracing::error!(%error, "looking for another that is whole"),
            }
        }
        Err(SnapshotError::NoCheckpoint { upto })
    }

    fn open(&self, snapshot: &Path) -> Result<Box<dyn SnapshotFile>, SnapshotError> {
        if let Err(error) = self.content_of(snapshot, &*self.check) {
            if !matches!(error, Unusable::Closed(_)) {
                self.lose_snapshot(snapshot, &error).map_err(as_snapshot_error)?;
            }
            return Err(error.into());
        }
        Ok(Box::new(Sent::open(&*self.disk, snapshot)?))
    }

    fn receive(&self, bytes: u64) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        self.check_failure().map_err(as_snapshot_error)?;
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(received_name(number));
        let file = self.disk.create(&path, bytes).map_err(|source| failed(&path, source))?;
        let (disk, check) = (Arc::clone(&self.disk), Arc::clone(&self.check));
        Ok(Box::new(Received { disk, check, path, file, position: 0 }))
    }
}

pub(super) fn content(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    let read = read_full_at(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Makes the file those bytes, durably.
fn fill(file: &Arc<dyn DiskFile>, pieces: &[Bytes], bytes: u64) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    BlockWriter::new(Arc::clone(file)).append(&mut slices, 0)?;
    if file.size()? > bytes {
        // What the reserve had more of.
        file.set_len(bytes)?;
    }
    synced(file.sync_data())
}

/// A sync that found no room has lost what it was to keep, as in the log: there is nothing to wait for.
fn synced(done: io::Result<()>) -> io::Result<()> {
    done.map_err(|error| if is_full(&error) { io::Error::other(error) } else { error })
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

impl From<Unusable> for SnapshotError {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Closed(error) => as_snapshot_error(error),
            Unusable::Unreadable { path, source } => Self::Damaged { path, source: source.into() },
            Unusable::Content { path, source } => Self::Damaged { path, source: source.into() },
        }
    }
}

fn as_snapshot_error(error: StoreError) -> SnapshotError {
    let source = io::Error::new(error.source.kind(), error.source);
    SnapshotError::Io { path: error.path, source }
}

#[cfg(test)]
mod tests;
