//! Owns the directory of a shard's checkpoints. Blocking.
//!
//! `i{index}-t{term}.ckpt` is a checkpoint; promoted, it is renamed to `.snap`. Files appear whole,
//! by rename, and never change.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use railgun_log::{Disk, make_dir, read_full_at, write_all_vectored_at};
use railgun_raft::{Applied, Snapshot, SnapshotError, SnapshotSource};
use railgun_types::EntryId;

/// Checkpoints kept above the current snapshot.
const KEPT_MAX: usize = 16;

/// Space held back for a checkpoint on a full disk: without one no log file can go, and the disk
/// would stay full (DESIGN §1.7). Twice the last one, which the next may have outgrown; this at the
/// least. Where there is no room for that, half of it is better than nothing, and so on down to what
/// the last one took.
const RESERVE_BYTES_MIN: u64 = 1 << 20;
const RESERVE: &str = "reserve";

/// Says whether a file's content is a checkpoint of this shard; returns the membership in it.
pub(crate) type Check =
    Box<dyn Fn(&[u8]) -> Result<Bytes, railgun_core::checkpoint::CheckpointError> + Send + Sync>;

/// A checkpoint that could not be written or listed.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint file {path} failed: {source}", path = path.display())]
pub(crate) struct StoreError {
    path: PathBuf,
    source: io::Error,
}

/// See the module.
pub(crate) struct CheckpointStore {
    disk: Arc<dyn Disk>,
    /// Relative to the disk's root.
    dir: PathBuf,
    check: Check,
}

/// A file in the directory, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    id: EntryId,
    promoted: bool,
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
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        check: Check,
    ) -> Result<Self, StoreError> {
        let made = make_dir(&*disk, &dir);
        made.map_err(|source| StoreError { path: dir.clone(), source })?;
        let store = Self { disk, dir, check };
        store.hold_reserve();
        Ok(store)
    }

    /// Checkpoints and snapshots, the oldest first.
    fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let names = self.disk.list(&self.dir);
        let names = names.map_err(|source| StoreError { path: self.dir.clone(), source })?;
        let mut entries: Vec<_> = names.iter().filter_map(|name| Entry::parse(name)).collect();
        entries.sort_by_key(|entry| (entry.id.index, entry.promoted));
        Ok(entries)
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        self.dir.join(entry.name())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path)?;
        let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        let read = read_full_at(&*file, &mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The newest file that holds a checkpoint; older ones stand in for damaged ones, which are
    /// told. `None`: there is no file, or none is whole.
    pub(crate) fn newest(&self) -> Result<Option<(EntryId, Vec<u8>)>, StoreError> {
        for entry in self.entries()?.iter().rev() {
            let path = self.path(entry);
            let bytes =
                self.read(&path).map_err(|source| StoreError { path: path.clone(), source })?;
            match (self.check)(&bytes) {
                Ok(_) => return Ok(Some((entry.id, bytes))),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "checkpoint is damaged");
                }
            }
        }
        Ok(None)
    }

    /// Writes a checkpoint, durably. The log must be durable up to it.
    pub(crate) fn write(&self, id: EntryId, pieces: &[Bytes]) -> Result<u64, StoreError> {
        let entry = Entry { id, promoted: false };
        let path = self.path(&entry);
        let temporary = self.dir.join("new");
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let written = self.write_file(&temporary, pieces, bytes as u64).and_then(|()| {
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(&self.dir)
        });
        written.map_err(|source| StoreError { path, source })?;
        self.thin()?;
        self.hold_reserve();
        Ok(bytes as u64)
    }

    /// Holds the reserve for a checkpoint like the newest one, as far as there is room. Its loss in a
    /// crash does no harm.
    pub(crate) fn hold_reserve(&self) {
        let newest = self.entries().ok().and_then(|mut entries| entries.pop());
        let size = newest.map(|entry| self.disk.open(&self.path(&entry)).and_then(|f| f.size()));
        let checkpoint = size.and_then(Result::ok).unwrap_or(0);
        let mut bytes = RESERVE_BYTES_MIN.max(checkpoint.saturating_mul(2));
        while let Err(error) = self.reserve(bytes) {
            bytes /= 2;
            if !is_full(&error) || bytes <= checkpoint {
                tracing::warn!(%error, "no space can be held back for checkpoints");
                return;
            }
        }
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let path = self.dir.join(RESERVE);
        match self.disk.create(&path, bytes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.open(&path)?.allocate(bytes)
            }
            created => created.map(drop),
        }
    }

    fn write_file(&self, path: &Path, pieces: &[Bytes], bytes: u64) -> io::Result<()> {
        // Left behind by a crash.
        if let Err(error) = self.disk.remove(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let file = match self.disk.create(path, bytes) {
            Err(error) if is_full(&error) => {
                match self.disk.remove(&self.dir.join(RESERVE)) {
                    // None is held: the disk is full, and that is what to tell.
                    Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Err(error),
                    removed => removed?,
                }
                self.disk.create(path, bytes)?
            }
            created => created?,
        };
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        write_all_vectored_at(&*file, &mut slices, 0)?;
        file.sync_data()
    }

    /// Removes what nobody needs: everything below the newest snapshot, and where more than
    /// [`KEPT_MAX`] are left, those closest to their neighbours.
    fn thin(&self) -> Result<(), StoreError> {
        let entries = self.entries()?;
        let snapshot = entries.iter().rposition(|entry| entry.promoted);
        let (below, from) = entries.split_at(snapshot.unwrap_or(0));
        let mut kept = from.to_vec();
        let mut superfluous = below.to_vec();
        while kept.len() > KEPT_MAX + 1 {
            // The first and the newest stay.
            let gap = |at: &usize| kept[at + 1].id.index - kept[at - 1].id.index;
            let Some(closest) = (1..kept.len() - 1).min_by_key(gap) else { break };
            superfluous.push(kept.remove(closest));
        }
        for entry in superfluous {
            let path = self.path(&entry);
            self.disk.remove(&path).map_err(|source| StoreError { path, source })?;
        }
        Ok(())
    }

    fn snapshot(&self, entry: &Entry) -> Result<Snapshot, SnapshotError> {
        let path = self.path(entry);
        let io = |source| SnapshotError::Io { path: path.clone(), source };
        let bytes = self.read(&path).map_err(io)?;
        let membership = (self.check)(&bytes).map_err(|error| SnapshotError::Damaged {
            path: path.clone(),
            source: Box::new(error),
        })?;
        Ok(Snapshot { applied: Applied { id: entry.id, membership }, path })
    }
}

impl SnapshotSource for CheckpointStore {
    /// A snapshot that is damaged is told and passed over while another file holds the state: the
    /// next promotion replaces it.
    fn current(&self) -> Result<Option<Snapshot>, SnapshotError> {
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
            Some(damaged) if self.newest().map_err(as_snapshot_error)?.is_none() => Err(damaged),
            _ => Ok(None),
        }
    }

    fn promote(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        let entries = self.entries().map_err(as_snapshot_error)?;
        let below = |entry: &&Entry| entry.promoted || entry.id.index <= upto;
        let mut found = None;
        for entry in entries.iter().rev().filter(below) {
            // Read and checked before it is relied on.
            match self.snapshot(entry) {
                // See `current`.
                Err(SnapshotError::Damaged { .. }) if entry.promoted => {}
                whole => {
                    found = Some((entry, whole?));
                    break;
                }
            }
        }
        let Some((newest, snapshot)) = found else {
            return Err(SnapshotError::NoCheckpoint { upto });
        };
        if newest.promoted {
            return Ok(snapshot);
        }
        let promoted = Entry { promoted: true, ..newest.clone() };
        let path = self.path(&promoted);
        let renamed = self.disk.rename(&snapshot.path, &path);
        let durable = renamed.and_then(|()| self.disk.sync_dir(&self.dir));
        durable.map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        self.thin().map_err(as_snapshot_error)?;
        Ok(Snapshot { path, ..snapshot })
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

/// Whether the disk, or the quota on it, has no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn as_snapshot_error(error: StoreError) -> SnapshotError {
    SnapshotError::Io { path: error.path, source: error.source }
}

#[cfg(test)]
mod tests {
    use railgun_log::{CrashPlan, RealDisk, SimDisk, SimDiskOptions};

    use super::*;

    fn id(index: u64) -> EntryId {
        EntryId { term: 1, index }
    }

    /// A store in which the content `bad` is damaged.
    fn store() -> (tempfile::TempDir, CheckpointStore) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(RealDisk::open(dir.path()).expect("a disk"));
        let check: Check = Box::new(|bytes| match bytes {
            b"bad" => Err(railgun_core::checkpoint::CheckpointError::NotACheckpoint),
            other => Ok(Bytes::copy_from_slice(other)),
        });
        (dir, CheckpointStore::open(disk, "checkpoints".into(), check).expect("opened"))
    }

    fn indexes(store: &CheckpointStore) -> Vec<u64> {
        store.entries().expect("listed").iter().map(|entry| entry.id.index).collect()
    }

    #[test]
    fn a_damaged_checkpoint_is_stood_in_for_by_the_one_before() {
        let (_dir, store) = store();
        assert_eq!(store.newest().expect("read"), None);
        store.write(id(5), &["one".into()]).expect("written");
        store.write(id(7), &["b".into(), "ad".into()]).expect("written");
        assert_eq!(store.newest().expect("read"), Some((id(5), b"one".to_vec())));
        assert!(matches!(store.promote(7), Err(SnapshotError::Damaged { .. })));
        assert!(store.current().expect("read").is_none(), "a damaged one is never promoted");
    }

    #[test]
    fn promotion_takes_the_newest_at_or_below_and_drops_what_is_older() {
        let (_dir, store) = store();
        assert!(matches!(store.promote(9), Err(SnapshotError::NoCheckpoint { upto: 9 })));
        for index in [3, 5, 7, 9] {
            store.write(id(index), &[index.to_string().into()]).expect("written");
        }
        assert!(matches!(store.promote(2), Err(SnapshotError::NoCheckpoint { upto: 2 })));
        assert_eq!(store.promote(8).expect("promoted").applied.id, id(7));
        assert_eq!(indexes(&store), [7, 9]);
        assert_eq!(store.promote(8).expect("again").applied.id, id(7), "never falls");
        let current = store.current().expect("read").expect("there is one");
        assert_eq!(current.applied, Applied { id: id(7), membership: "7".into() });
        // The snapshot still serves a restart when newer checkpoints are gone.
        assert_eq!(store.newest().expect("read").map(|(id, _)| id), Some(id(9)));
    }

    #[test]
    fn a_damaged_snapshot_is_passed_over_while_a_checkpoint_is_whole() {
        let (dir, store) = store();
        for index in [3, 5] {
            store.write(id(index), &[index.to_string().into()]).expect("written");
        }
        let snapshot = store.promote(3).expect("promoted");
        std::fs::write(dir.path().join(snapshot.path), "bad").expect("written");
        assert!(store.current().expect("the checkpoint is whole").is_none());
        // Nothing is promoted that lies above what may be given up.
        let stand_in = store.stand_in(9).expect("the checkpoint");
        assert_eq!(stand_in.applied.id, id(5));
        assert!(!store.entries().expect("listed").iter().any(|e| e.promoted && e.id == id(5)));
        assert!(matches!(store.promote(4), Err(SnapshotError::NoCheckpoint { upto: 4 })));
        // When it may, it takes the damaged one's place.
        assert_eq!(store.promote(5).expect("promoted").applied.id, id(5));
        assert_eq!(indexes(&store), [5]);
        // Alone, a damaged snapshot is the loss of the state.
        std::fs::write(dir.path().join(store.path(&store.entries().expect("listed")[0])), "bad")
            .expect("written");
        assert!(matches!(store.current(), Err(SnapshotError::Damaged { .. })));
    }

    fn simulated() -> (Arc<SimDisk>, PathBuf, CheckpointStore) {
        let disk = Arc::new(SimDisk::new(SimDiskOptions::default()));
        let dir = PathBuf::from("shards/1/checkpoints");
        let store = reopen(&disk, &dir);
        (disk, dir, store)
    }

    fn reopen(disk: &Arc<SimDisk>, dir: &Path) -> CheckpointStore {
        let check: Check = Box::new(|bytes| Ok(Bytes::copy_from_slice(bytes)));
        CheckpointStore::open(Arc::clone(disk) as _, dir.to_owned(), check).expect("opened")
    }

    #[test]
    fn a_checkpoint_outlives_a_power_cut_with_all_its_directories() {
        let (disk, dir, store) = simulated();
        store.write(id(1), &["one".into()]).expect("written");
        disk.crash(&CrashPlan::LoseAll);
        let newest = reopen(&disk, &dir).newest().expect("read");
        assert_eq!(newest, Some((id(1), b"one".to_vec())));
    }

    #[test]
    fn a_full_disk_still_takes_a_checkpoint() {
        let (disk, dir, store) = simulated();
        disk.set_capacity(disk.used());
        let piece = Bytes::from(vec![7; 100_000]);
        store.write(id(1), std::slice::from_ref(&piece)).expect("the reserve gives way");
        assert_eq!(store.newest().expect("read"), Some((id(1), piece.to_vec())));
        // With room again the reserve is held again.
        disk.set_capacity(u64::MAX);
        store.write(id(2), &[piece]).expect("written");
        assert!(disk.list(&dir).expect("listed").contains(&RESERVE.to_owned()));
    }

    #[test]
    fn where_there_is_little_room_a_smaller_reserve_is_held() {
        let (disk, dir, store) = simulated();
        let piece = Bytes::from(vec![7; 100_000]);
        // Whatever room a checkpoint leaves, somebody else takes.
        for index in 0..4 {
            disk.set_capacity(disk.used());
            store.write(id(index), std::slice::from_ref(&piece)).expect("the reserve gives way");
        }
        // None is held that the next one does not fit in.
        assert!(!disk.list(&dir).expect("listed").contains(&RESERVE.to_owned()));
        disk.set_capacity(disk.used() + 150_000);
        store.hold_reserve();
        disk.set_capacity(disk.used());
        store.write(id(4), &[piece]).expect("the reserve gives way");
    }

    #[test]
    fn the_reserve_grows_with_the_checkpoints() {
        let (disk, dir, store) = simulated();
        let piece = |bytes| Bytes::from(vec![7; bytes]);
        store.write(id(1), &[piece(3 << 20)]).expect("written");
        disk.set_capacity(disk.used());
        store.write(id(2), &[piece(5 << 20)]).expect("the reserve was as large");
        // Only part of it can be held now, and the next checkpoint is told what is wrong.
        let error = store.write(id(3), &[piece(8 << 20)]).expect_err("no room");
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        let error = store.write(id(3), &[piece(8 << 20)]).expect_err("no room");
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull, "{error}");
        // A restart holds as much again.
        disk.set_capacity(u64::MAX);
        drop(store);
        reopen(&disk, &dir);
        disk.set_capacity(disk.used());
        reopen(&disk, &dir).write(id(4), &[piece(9 << 20)]).expect("the reserve gives way");
    }

    #[test]
    fn many_checkpoints_are_thinned_evenly() {
        let (_dir, store) = store();
        for index in 0..100 {
            store.write(id(index), &["x".into()]).expect("written");
        }
        let left = indexes(&store);
        assert_eq!(left.len(), KEPT_MAX + 1);
        assert_eq!((left[0], left[KEPT_MAX]), (0, 99));
        let widest = left.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest <= Some(16), "{left:?}");
    }
}
