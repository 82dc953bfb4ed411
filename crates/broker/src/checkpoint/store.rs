//! Owns the directory of a shard's checkpoints. Blocking.
//!
//! `i{index}-t{term}.ckpt` is a checkpoint; promoted, it is renamed to `.snap`. These appear whole, by
//! rename, and never change. `new` is one in the making. `reserve` is space held back for one on a
//! full disk: without a checkpoint no log file can go, and the disk would stay full (DESIGN §1.7).

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use railgun_core::checkpoint::CheckpointError;
use railgun_log::{Disk, DiskFile, make_dir, read_full_at, write_all_vectored_at};
use railgun_raft::{Applied, Snapshot, SnapshotError, SnapshotSource};
use railgun_types::EntryId;
use tokio::sync::Semaphore;

/// Checkpoints kept above the current snapshot.
const KEPT_MAX: usize = 16;

/// The reserve is twice the last checkpoint, which the next may have outgrown; this at the least.
/// Where there is no room for that, half of it is better than nothing, and so on down to what the
/// last one took.
const RESERVE_BYTES_MIN: u64 = 1 << 20;
const RESERVE: &str = "reserve";
const NEW: &str = "new";

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
    /// For who changes or takes the reserve. Nobody waits for it: there is another time.
    reserve_turn: Semaphore,
    failed: OnceLock<StoreError>,
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
    /// `kept_bytes_max`: see [`Self::thin`].
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        kept_bytes_max: u64,
        check: Check,
    ) -> Result<Self, StoreError> {
        make_dir(&*disk, &dir).map_err(|source| StoreError::new(&dir, source))?;
        let (reserve_turn, failed) = (Semaphore::new(1), OnceLock::new());
        let store = Self { disk, dir, check, kept_bytes_max, reserve_turn, failed };
        if let Err(error) = store.give_back() {
            tracing::warn!(%error, "what is left of a checkpoint stays");
        }
        store.hold_reserve();
        Ok(store)
    }

    /// The first change that failed for another reason than want of room. What the disk holds is not
    /// known then: nothing is changed here any more, and the node must end.
    pub(crate) fn failure(&self) -> Option<&StoreError> {
        self.failed.get()
    }

    /// Makes a change which the log may be purged on the strength of.
    fn change<T>(
        &self,
        path: &Path,
        change: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        if let Some(failed) = self.failed.get() {
            return Err(failed.clone());
        }
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

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path)?;
        let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        let read = read_full_at(&*file, &mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// What `read` makes of the newest file that holds a checkpoint; older ones stand in for damaged
    /// ones, which are told. `None`: there is no file, or none is whole.
    pub(crate) fn newest<T>(
        &self,
        read: impl Fn(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<Option<(EntryId, T)>, StoreError> {
        for entry in self.entries()?.iter().rev() {
            let path = self.path(entry);
            let bytes = self.read(&path).map_err(|source| StoreError::new(&path, source))?;
            match read(&bytes) {
                Ok(content) => return Ok(Some((entry.id, content))),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "checkpoint is damaged");
                }
            }
        }
        Ok(None)
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
        let path = self.path(&Entry { id, promoted: false });
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.change(&path, || {
            self.write_new(pieces, bytes)?;
            self.disk.rename(&self.dir.join(NEW), &path)?;
            self.disk.sync_dir(&self.dir)
        })?;
        self.thin()?;
        self.hold_reserve();
        Ok(bytes)
    }

    fn write_new(&self, pieces: &[Bytes], bytes: u64) -> io::Result<()> {
        self.give_back()?;
        let file = match self.disk.create(&self.dir.join(NEW), bytes) {
            Err(full) if is_full(&full) => self.take_reserve(bytes, full)?,
            created => created?,
        };
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        write_all_vectored_at(&*file, &mut slices, 0)?;
        if file.size()? > bytes {
            // What the reserve had more of.
            file.set_len(bytes)?;
        }
        file.sync_data()
    }

    /// What is left of a checkpoint that was not finished is the reserve again if there is none: it
    /// may have been that.
    fn give_back(&self) -> io::Result<()> {
        let (new, reserve) = (self.dir.join(NEW), self.dir.join(RESERVE));
        let given = match self.disk.open(&reserve) {
            Err(error) if is_gone(&error) => self.disk.rename(&new, &reserve),
            opened => opened.and_then(|_| self.disk.remove(&new)),
        };
        given.or_else(unless_gone)
    }

    /// The reserve as the file to write to, of so many bytes at least. It changes its name, so that
    /// nobody else gets its room meanwhile. If there is none, the disk is `full`.
    fn take_reserve(&self, bytes: u64, full: io::Error) -> io::Result<Arc<dyn DiskFile>> {
        let Ok(_turn) = self.reserve_turn.try_acquire() else { return Err(full) };
        let new = self.dir.join(NEW);
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

    /// Holds the reserve for a checkpoint like the newest one, as far as there is room. Its loss in a
    /// crash does no harm.
    pub(crate) fn hold_reserve(&self) {
        let Ok(_turn) = self.reserve_turn.try_acquire() else { return };
        let checkpoint = self.newest_bytes();
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

    /// Removes what nobody needs: everything below the newest snapshot, and of those above it, while
    /// they are more than [`KEPT_MAX`] or have more than `kept_bytes_max`, the one closest to its
    /// neighbours. But the newest one stays, and the first one above the snapshot: the cold floor
    /// comes to that one first, however far it is behind the newest.
    fn thin(&self) -> Result<(), StoreError> {
        let entries = self.entries()?;
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
            self.change(&path, || self.disk.remove(&path).or_else(unless_gone))?;
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
            Some(damaged) => {
                let whole = self.newest(&self.check).map_err(as_snapshot_error)?;
                if whole.is_none() { Err(damaged) } else { Ok(None) }
            }
            None => Ok(None),
        }
    }

    fn promote(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        // A name that may not be durable is nothing to purge a log on.
        if let Some(failed) = self.failed.get() {
            return Err(as_snapshot_error(failed.clone()));
        }
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
        let renamed = self.change(&path, || {
            self.disk.rename(&snapshot.path, &path)?;
            self.disk.sync_dir(&self.dir)
        });
        renamed.map_err(as_snapshot_error)?;
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

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// What is gone already need not be removed.
fn unless_gone(error: io::Error) -> io::Result<()> {
    if is_gone(&error) { Ok(()) } else { Err(error) }
}

fn as_snapshot_error(error: StoreError) -> SnapshotError {
    let source = io::Error::new(error.source.kind(), error.source);
    SnapshotError::Io { path: error.path, source }
}

#[cfg(test)]
mod tests {
    use railgun_log::{
        CrashPlan, DiskLock, Fault, LockError, RealDisk, SimDisk, SimDiskOptions, SimOp,
    };

    use super::*;

    fn id(index: u64) -> EntryId {
        EntryId { term: 1, index }
    }

    /// A store in which the content `bad` is damaged.
    fn store() -> (tempfile::TempDir, CheckpointStore) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(RealDisk::open(dir.path()).expect("a disk"));
        let check: Check = Box::new(|bytes| match bytes {
            b"bad" => Err(CheckpointError::NotACheckpoint),
            other => Ok(Bytes::copy_from_slice(other)),
        });
        (dir, CheckpointStore::open(disk, "checkpoints".into(), u64::MAX, check).expect("opened"))
    }

    /// Its check returns the content.
    fn newest(store: &CheckpointStore) -> Option<(EntryId, Vec<u8>)> {
        let newest = store.newest(&store.check).expect("read");
        newest.map(|(id, content)| (id, content.to_vec()))
    }

    fn indexes(store: &CheckpointStore) -> Vec<u64> {
        store.entries().expect("listed").iter().map(|entry| entry.id.index).collect()
    }

    #[test]
    fn a_damaged_checkpoint_is_stood_in_for_by_the_one_before() {
        let (_dir, store) = store();
        assert_eq!(newest(&store), None);
        store.write(id(5), &["one".into()]).expect("written");
        store.write(id(7), &["b".into(), "ad".into()]).expect("written");
        assert_eq!(newest(&store), Some((id(5), b"one".to_vec())));
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
        assert_eq!(newest(&store).map(|(id, _)| id), Some(id(9)));
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
        CheckpointStore::open(Arc::clone(disk) as _, dir.to_owned(), u64::MAX, check)
            .expect("opened")
    }

    #[test]
    fn a_checkpoint_outlives_a_power_cut_with_all_its_directories() {
        let (disk, dir, store) = simulated();
        store.write(id(1), &["one".into()]).expect("written");
        disk.crash(&CrashPlan::LoseAll);
        assert_eq!(newest(&reopen(&disk, &dir)), Some((id(1), b"one".to_vec())));
    }

    #[test]
    fn a_full_disk_still_takes_a_checkpoint() {
        let (disk, dir, store) = simulated();
        disk.set_capacity(disk.used());
        let piece = Bytes::from(vec![7; 100_000]);
        store.write(id(1), std::slice::from_ref(&piece)).expect("the reserve gives way");
        assert_eq!(newest(&store), Some((id(1), piece.to_vec())));
        // With room again the reserve is held again.
        disk.set_capacity(u64::MAX);
        store.write(id(2), &[piece]).expect("written");
        assert!(disk.list(&dir).expect("listed").contains(&RESERVE.to_owned()));
    }

    /// A disk whose freed room somebody else takes at once.
    #[derive(Debug)]
    struct Contended(SimDisk);

    impl Disk for Contended {
        fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
            self.0.create_dir_all(dir)
        }

        fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
            self.0.create(path, bytes)
        }

        fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
            self.0.open(path)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.0.rename(from, to)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            let before = self.0.used();
            self.0.remove(path)?;
            if self.0.used() < before {
                self.0.set_capacity(self.0.used());
            }
            Ok(())
        }

        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            self.0.list(dir)
        }

        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.0.sync_dir(dir)
        }

        fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, LockError> {
            self.0.lock(path)
        }
    }

    #[test]
    fn nobody_else_gets_the_room_of_the_reserve() {
        let sim = SimDisk::default();
        let disk = Arc::new(Contended(sim.clone()));
        let check: Check = Box::new(|bytes| Ok(Bytes::copy_from_slice(bytes)));
        let store = CheckpointStore::open(disk, "ckpt".into(), u64::MAX, check).expect("opened");
        sim.set_capacity(sim.used());
        let piece = Bytes::from(vec![7; 100_000]);
        store.write(id(1), std::slice::from_ref(&piece)).expect("written to the reserve");
        assert_eq!(newest(&store), Some((id(1), piece.to_vec())));
    }

    #[test]
    fn a_crash_at_a_checkpoint_on_a_full_disk_leaves_room_for_the_next_one() {
        let piece = Bytes::from(vec![7; 100_000]);
        for (step, plan) in
            (0..).flat_map(|step| [(step, CrashPlan::ProcessOnly), (step, CrashPlan::LoseAll)])
        {
            let (disk, dir, store) = simulated();
            disk.set_capacity(disk.used());
            disk.stop_after(Some(disk.operations() + step));
            let done = store.write(id(1), std::slice::from_ref(&piece)).is_ok();
            disk.crash(&plan);
            let store = reopen(&disk, &dir);
            disk.set_capacity(disk.used());
            let written = store.write(id(2), std::slice::from_ref(&piece));
            written.unwrap_or_else(|error| panic!("cut after {step}, {plan:?}: {error}"));
            assert_eq!(newest(&store), Some((id(2), piece.to_vec())));
            if done {
                assert!(step > 4, "{step}");
                break;
            }
        }
    }

    #[test]
    fn after_a_change_that_failed_nothing_is_relied_on() {
        for op in [SimOp::Write, SimOp::Sync, SimOp::Rename, SimOp::SyncDir] {
            let (disk, _, store) = simulated();
            store.write(id(1), &["one".into()]).expect("written");
            assert!(store.failure().is_none());
            disk.fail(Fault { op, after: 0, kind: io::ErrorKind::Other });
            store.write(id(2), &["two".into()]).expect_err("refused by the disk");
            assert!(store.failure().is_some(), "{op:?}");
            // The disk tells of a failure once.
            let error = store.promote(2).expect_err("what it holds is not known");
            assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
            store.write(id(3), &["three".into()]).expect_err("as above");
        }
        let (disk, _, store) = simulated();
        store.write(id(1), &["one".into()]).expect("written");
        disk.fail(Fault { op: SimOp::SyncDir, after: 0, kind: io::ErrorKind::Other });
        store.promote(1).expect_err("refused by the disk");
        assert!(store.failure().is_some());
        // A full disk has not failed.
        let (disk, _, store) = simulated();
        disk.fail(Fault { op: SimOp::Write, after: 0, kind: io::ErrorKind::StorageFull });
        store.write(id(2), &["two".into()]).expect_err("no room");
        assert!(store.failure().is_none());
        store.write(id(2), &["two".into()]).expect("there is room");
    }

    #[test]
    fn what_somebody_else_has_removed_needs_no_removal() {
        let (disk, _, store) = simulated();
        for index in 0..20 {
            // First what a crash left, then what is superfluous.
            disk.fail(Fault { op: SimOp::Remove, after: 1, kind: io::ErrorKind::NotFound });
            store.write(id(index), &["x".into()]).expect("written");
        }
        assert!(store.failure().is_none());
    }

    /// With `bytes_max` for those that are kept.
    fn small(bytes_max: u64) -> CheckpointStore {
        let check: Check = Box::new(|bytes| Ok(Bytes::copy_from_slice(bytes)));
        CheckpointStore::open(Arc::new(SimDisk::default()), "ckpt".into(), bytes_max, check)
            .expect("opened")
    }

    #[test]
    fn large_checkpoints_are_few_and_the_floor_comes_to_one_of_them() {
        let piece = Bytes::from(vec![7; 1_000]);
        let store = small(5_500);
        for index in 0..100 {
            store.write(id(index), std::slice::from_ref(&piece)).expect("written");
        }
        let left = indexes(&store);
        assert_eq!((left.len(), left[0], left[4]), (5, 0, 99), "{left:?}");
        // Where not even two fit, the newest is kept, and one that the floor can come to: it is
        // always so far behind.
        let store = small(0);
        let mut promoted = Vec::new();
        for index in 0..100 {
            store.write(id(index), std::slice::from_ref(&piece)).expect("written");
            if let Some(floor) = u64::checked_sub(index, 10) {
                promoted.extend(store.promote(floor).ok().map(|found| found.applied.id.index));
            }
            assert!(indexes(&store).len() <= 3, "{:?}", indexes(&store));
        }
        promoted.dedup();
        assert!(promoted.len() > 5 && promoted.last() > Some(&70), "{promoted:?}");
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
