use railgun_log::{
    CrashPlan, DiskLock, Fault, LockError, RealDisk, SimDisk, SimDiskOptions, SimOp,
};

use super::*;
use crate::checkpoint::reserve::RESERVE;

fn id(index: u64) -> EntryId {
    EntryId { term: 1, index }
}

/// A store in which the content `bad` is damaged.
fn store() -> (tempfile::TempDir, CheckpointStore) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_in(&dir);
    (dir, store)
}

fn store_in(dir: &tempfile::TempDir) -> CheckpointStore {
    let disk = Arc::new(RealDisk::open(dir.path()).expect("a disk"));
    let check: Check = Arc::new(|bytes| match bytes {
        b"bad" => Err(CheckpointError::NotACheckpoint),
        other => Ok(Bytes::copy_from_slice(other)),
    });
    CheckpointStore::open(disk, "checkpoints".into(), u64::MAX, check).expect("opened")
}

/// Its check returns the content.
fn newest(store: &CheckpointStore) -> Option<(EntryId, Vec<u8>)> {
    let newest = store.newest(&*store.check).expect("read");
    newest.whole.map(|(id, content)| (id, content.to_vec()))
}

/// Indexes of the checkpoints that were set aside.
fn set_aside(store: &CheckpointStore) -> Vec<u64> {
    let names = store.disk.list(&store.dir).expect("listed");
    let names = names.iter().filter_map(|name| name.strip_suffix(".damaged"));
    names.map(|name| Entry::parse(name).expect("of a checkpoint").id.index).collect()
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
    assert_eq!(store.promote(0, 7).expect("the one before").applied.id, id(5));
    assert_eq!(indexes(&store), [5], "a damaged one is never promoted");
}

#[test]
fn what_only_its_owner_cannot_read_is_set_aside_before_it_can_be_promoted() {
    let (_dir, store) = store();
    for index in [3, 5, 7, 9] {
        store.write(id(index), &[index.to_string().into()]).expect("written");
    }
    let read = |bytes: &[u8]| match bytes {
        b"7" | b"9" => Err(CheckpointError::NotACheckpoint),
        other => Ok(other.to_vec()),
    };
    let newest = store.newest(read).expect("read");
    assert_eq!(newest.whole, Some((id(5), b"5".to_vec())));
    assert_eq!(indexes(&store), [3, 5, 7, 9], "somebody may still want to look at them");
    store.set_aside(&newest.damaged).expect("renamed");
    assert_eq!(indexes(&store), [3, 5]);
    assert_eq!(store.promote(0, 9).expect("promoted").applied.id, id(5));
    assert_eq!(set_aside(&store), [9], "one is kept");
    // Whatever comes in which order, it is the newest.
    store.write(id(11), &["bad".into()]).expect("written");
    store.write(id(13), &["bad".into()]).expect("written");
    assert_eq!(store.promote(0, 13).expect("the snapshot").applied.id, id(5));
    assert_eq!(set_aside(&store), [13]);
}

#[test]
fn what_the_disk_cannot_read_now_is_passed_over_and_stays() {
    let (disk, dir, store) = simulated();
    let unreadable = || disk.fail(Fault { op: SimOp::Read, after: 0, kind: io::ErrorKind::Other });
    for index in [3, 5, 7] {
        store.write(id(index), &[index.to_string().into()]).expect("written");
    }
    unreadable();
    let found = store.newest(&*store.check).expect("an older one");
    assert_eq!(found.whole.map(|(id, _)| id), Some(id(5)));
    assert!(found.damaged.is_empty());
    // It is not relied on before it was read in a life.
    assert_eq!(store.promote(0, 7).expect("promoted").applied.id, id(5));
    let store = reopen(&disk, &dir);
    assert_eq!(newest(&store).map(|(id, _)| id), Some(id(7)), "nothing is lost");
    for _ in [7, 5] {
        unreadable();
    }
    assert!(matches!(store.promote(0, 7), Err(SnapshotError::NoCheckpoint { .. })));
    assert_eq!(indexes(&store), [5, 7]);
    assert!(store.has_lost_newest(), "another is to be written");
    assert_eq!(newest(&reopen(&disk, &dir)).map(|(id, _)| id), Some(id(7)));
    // With another it is superfluous.
    store.write(id(9), &["9".into()]).expect("written");
    assert_eq!(indexes(&store), [5, 9]);
    // Written anew, it is as good as any.
    unreadable();
    assert_eq!(store.promote(0, 9).expect("the snapshot").applied.id, id(5));
    store.write(id(9), &["9".into()]).expect("written");
    assert_eq!(store.promote(0, 9).expect("promoted").applied.id, id(9));
    assert!(set_aside(&store).is_empty() && store.failure().is_none());
}

#[test]
fn a_checkpoint_for_somebody_else_is_not_taken_for_a_damaged_one() {
    let (_dir, store) = store();
    for index in [3, 5] {
        store.write(id(index), &[index.to_string().into()]).expect("written");
    }
    let read = |bytes: &[u8]| match bytes {
        b"5" => Err(CheckpointError::UnknownVersion { version: 3 }),
        other => Ok(other.to_vec()),
    };
    let error = store.newest(read).expect_err("an older release cannot go on with it");
    assert!(matches!(error, NewestError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("another release wrote it"), "{error}");
    assert_eq!(indexes(&store), [3, 5]);
}

#[test]
fn a_damaged_checkpoint_that_finds_no_room_for_another_name_is_passed_over() {
    let (disk, _, mut store) = simulated();
    store.kept_bytes_max = 0;
    for index in [3, 5] {
        store.write(id(index), &[index.to_string().into()]).expect("written");
    }
    // Its owner only sees what is wrong with it.
    let read = |bytes: &[u8]| match bytes {
        b"5" => Err(CheckpointError::NotACheckpoint),
        other => Ok(other.to_vec()),
    };
    let found = store.newest(read).expect("read");
    disk.fail(Fault { op: SimOp::Rename, after: 0, kind: io::ErrorKind::StorageFull });
    store.set_aside(&found.damaged).expect("there is no harm in it");
    assert_eq!(store.promote(0, 9).expect("the other").applied.id, id(3));
    assert_eq!(indexes(&store), [3, 5]);
    store.write(id(7), &["7".into()]).expect("written");
    assert_eq!(indexes(&store), [3, 7]);
    assert!(store.failure().is_none());
}

#[test]
fn a_damaged_checkpoint_does_not_hold_promotions_up() {
    for rots in [true, false] {
        let (disk, _, mut store) = simulated();
        store.check = Arc::new(|bytes| match bytes {
            b"x" => Ok(Bytes::new()),
            _ => Err(CheckpointError::NotACheckpoint),
        });
        // As few as there can be: the snapshot, the one that the floor comes to, and the newest.
        store.kept_bytes_max = 0;
        let piece = ["x".into()];
        for index in [1, 2] {
            store.write(id(index), &piece).expect("written");
        }
        store.promote(0, 1).expect("promoted");
        let path = store.path(&Entry { id: id(2), promoted: false });
        assert!(!rots || disk.flip(path, 0, 1));
        let mut promoted = 1;
        for index in 3..20 {
            store.write(id(index), &piece).expect("written");
            if !rots && index == 3 {
                // One that the disk cannot read is no better.
                let kind = io::ErrorKind::Other;
                disk.fail(Fault { op: SimOp::Read, after: 0, kind });
            }
            promoted = store.promote(0, index - 1).expect("the snapshot at least").applied.id.index;
            // What could not be read stays until there is a newer one.
            assert!(!indexes(&store).contains(&2) || (!rots && index == 3));
        }
        assert!(promoted > 10, "{promoted}, {:?}", indexes(&store));
        assert_eq!(set_aside(&store), if rots { vec![2] } else { vec![] });
        assert!(!store.has_lost_newest() && store.failure().is_none());
    }
}

#[test]
fn promotion_takes_the_newest_at_or_below_and_drops_what_is_older() {
    let (_dir, store) = store();
    assert!(matches!(store.promote(0, 9), Err(SnapshotError::NoCheckpoint { upto: 9 })));
    for index in [3, 5, 7, 9] {
        store.write(id(index), &[index.to_string().into()]).expect("written");
    }
    assert!(matches!(store.promote(0, 2), Err(SnapshotError::NoCheckpoint { upto: 2 })));
    assert_eq!(store.promote(0, 8).expect("promoted").applied.id, id(7));
    assert_eq!(indexes(&store), [7, 9]);
    assert_eq!(store.promote(0, 8).expect("again").applied.id, id(7), "never falls");
    let current = store.current(0).expect("read").expect("there is one");
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
    let snapshot = store.promote(0, 3).expect("promoted");
    std::fs::write(dir.path().join(snapshot.path), "bad").expect("written");
    let store = store_in(&dir);
    assert!(store.current(0).expect("the checkpoint is whole").is_none());
    // Nothing is promoted that lies above what may be given up.
    let stand_in = store.stand_in(9).expect("the checkpoint");
    assert_eq!(stand_in.applied.id, id(5));
    assert!(!store.entries().expect("listed").iter().any(|e| e.promoted && e.id == id(5)));
    assert!(matches!(store.promote(0, 4), Err(SnapshotError::NoCheckpoint { upto: 4 })));
    // When it may, it takes the damaged one's place.
    assert_eq!(store.promote(0, 5).expect("promoted").applied.id, id(5));
    assert_eq!(indexes(&store), [5]);
    // Alone, a damaged snapshot is the loss of the state.
    std::fs::write(dir.path().join(store.path(&store.entries().expect("listed")[0])), "bad")
        .expect("written");
    let store = store_in(&dir);
    assert!(matches!(store.current(0), Err(SnapshotError::Damaged { .. })));
}

#[test]
fn an_older_snapshot_is_none_when_the_log_begins_above_it() {
    let (dir, store) = store();
    store.write(id(3), &["3".into()]).expect("written");
    let older = store.promote(0, 3).expect("promoted");
    store.write(id(5), &["5".into()]).expect("written");
    let snapshot = store.promote(0, 5).expect("promoted");
    store.write(id(7), &["7".into()]).expect("written");
    drop(store);
    // The removal was not durable, and what the log was given up for has rotted.
    std::fs::write(dir.path().join(&older.path), "3").expect("written");
    std::fs::write(dir.path().join(&snapshot.path), "bad").expect("written");

    let store = store_in(&dir);
    assert!(store.current(5).expect("the checkpoint is whole").is_none());
    assert_eq!(store.stand_in(9).expect("the checkpoint").applied.id, id(7));
    assert!(matches!(store.promote(5, 6), Err(SnapshotError::NoCheckpoint { upto: 6 })));
    assert!(store.has_lost_snapshot());
    assert_eq!(store.promote(5, 7).expect("promoted").applied.id, id(7));
}

#[test]
fn a_snapshot_that_rots_is_set_aside_when_it_is_to_be_sent_and_another_is_promoted() {
    let (dir, store) = store();
    for index in [3, 5] {
        store.write(id(index), &[index.to_string().into()]).expect("written");
    }
    let rot = |snapshot: &Snapshot| {
        std::fs::write(dir.path().join(&snapshot.path), "bad").expect("written");
    };
    let snapshot = store.promote(0, 3).expect("promoted");
    rot(&snapshot);
    assert_eq!(store.current(0).expect("read").as_ref(), Some(&snapshot), "nobody has looked");
    let opened = store.open(&snapshot.path).err();
    assert!(matches!(opened, Some(SnapshotError::Damaged { .. })), "{opened:?}");
    assert_eq!((set_aside(&store), indexes(&store)), (vec![3], vec![5]));
    assert!(store.current(0).expect("read").is_none(), "what is above it is not for others");
    assert!(store.has_lost_snapshot() && store.has_lost_newest());
    assert!(matches!(store.promote(0, 4), Err(SnapshotError::NoCheckpoint { .. })));
    assert!(store.has_lost_snapshot());
    // When the floor has come there.
    let snapshot = store.promote(0, 5).expect("promoted");
    assert_eq!(store.current(0).expect("read").as_ref(), Some(&snapshot));
    assert!(!store.has_lost_snapshot() && store.failure().is_none());

    // One that this life has only found is no different.
    let store = store_in(&dir);
    let snapshot = store.current(0).expect("read").expect("there is one");
    rot(&snapshot);
    assert!(store.open(&snapshot.path).is_err());
    assert!(store.current(0).expect("read").is_none() && store.has_lost_snapshot());
    assert_eq!(set_aside(&store), [5]);
    // Nor is one that had rotted before.
    store.write(id(7), &["7".into()]).expect("written");
    rot(&store.promote(0, 7).expect("promoted"));
    let store = store_in(&dir);
    store.write(id(9), &["9".into()]).expect("written");
    assert!(store.current(0).expect("read").is_none());
    store.stand_in(9).expect("the newest");
    assert!(store.has_lost_snapshot());
    assert_eq!(store.promote(0, 9).expect("promoted").applied.id, id(9));
    assert!(!store.has_lost_snapshot());
}

#[test]
fn what_a_disk_cannot_read_now_is_not_sent_and_stays() {
    let (disk, _, store) = simulated();
    store.write(id(3), &["3".into()]).expect("written");
    let snapshot = store.promote(0, 3).expect("promoted");
    disk.fail(Fault { op: SimOp::Read, after: 0, kind: io::ErrorKind::Other });
    assert!(store.open(&snapshot.path).is_err());
    assert!(store.has_lost_snapshot() && set_aside(&store).is_empty());
    assert_eq!(store.current(0).expect("read"), Some(snapshot), "it can be read again");
    assert!(!store.has_lost_snapshot() && store.failure().is_none());
}

#[test]
fn what_is_received_and_is_no_state_is_refused() {
    let (dir, store) = store();
    for (content, is_state) in [("bad", false), ("state", true)] {
        let mut sink = store.receive(content.len() as u64).expect("a place");
        sink.write(&content.into()).expect("written");
        let finished = sink.finish();
        assert_eq!(finished.is_ok(), is_state, "{finished:?}");
        drop(sink);
        let left = std::fs::read_dir(dir.path().join("checkpoints")).expect("a directory");
        let mut left = left.map(|file| file.expect("an entry").file_name());
        assert!(!left.any(|name| is_received(&name.to_string_lossy())), "nothing is left of it");
    }
}

fn simulated() -> (Arc<SimDisk>, PathBuf, CheckpointStore) {
    let disk = Arc::new(SimDisk::new(SimDiskOptions::default()));
    let dir = PathBuf::from("shards/1/checkpoints");
    let store = reopen(&disk, &dir);
    (disk, dir, store)
}

fn reopen(disk: &Arc<SimDisk>, dir: &Path) -> CheckpointStore {
    let check: Check = Arc::new(|bytes| Ok(Bytes::copy_from_slice(bytes)));
    CheckpointStore::open(Arc::clone(disk) as _, dir.to_owned(), u64::MAX, check).expect("opened")
}

#[test]
fn a_checkpoint_outlives_a_power_cut_with_all_its_directories() {
    let (disk, dir, store) = simulated();
    store.write(id(1), &["one".into()]).expect("written");
    disk.crash(&CrashPlan::LoseAll);
    assert_eq!(newest(&reopen(&disk, &dir)), Some((id(1), b"one".to_vec())));
}

/// A process may end after any operation, and another starts. What that one finds, the log is purged on
/// the strength of: it outlives a power cut.
#[test]
fn what_an_earlier_process_has_left_is_durable_when_the_next_one_finds_it() {
    let (mut found_new, mut found_promoted) = (0, 0);
    for more in 0.. {
        let (disk, dir, store) = simulated();
        store.write(id(1), &["one".into()]).expect("written");
        store.promote(0, 1).expect("promoted");
        disk.stop_after(Some(disk.operations() + more));
        let is_done = store.write(id(3), &["three".into()]).is_ok() && store.promote(0, 3).is_ok();
        disk.crash(&CrashPlan::ProcessOnly);
        let store = reopen(&disk, &dir);
        let found = newest(&store).expect("there is one");
        let promoted = store.promote(0, u64::MAX).expect("one is").applied.id;
        disk.crash(&CrashPlan::LoseAll);
        let store = reopen(&disk, &dir);
        assert_eq!(newest(&store), Some(found.clone()), "after {more} operations");
        let current = store.current(0).expect("read").expect("there is one");
        assert_eq!(current.applied.id, promoted, "after {more} operations");
        found_new += u32::from(found.0 == id(3));
        found_promoted += u32::from(promoted == id(3));
        if is_done {
            break;
        }
    }
    assert!(found_new > 2 && found_promoted > 2, "{found_new}, {found_promoted}");
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
    let check: Check = Arc::new(|bytes| Ok(Bytes::copy_from_slice(bytes)));
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
        let error = store.promote(0, 2).expect_err("what it holds is not known");
        assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
        store.write(id(3), &["three".into()]).expect_err("as above");
    }
    let (disk, _, store) = simulated();
    store.write(id(1), &["one".into()]).expect("written");
    disk.fail(Fault { op: SimOp::SyncDir, after: 0, kind: io::ErrorKind::Other });
    store.promote(0, 1).expect_err("refused by the disk");
    assert!(store.failure().is_some());
    // What was not begun has not failed.
    let (disk, _, store) = simulated();
    for op in [SimOp::Open, SimOp::Create] {
        disk.fail(Fault { op, after: 0, kind: io::ErrorKind::Other });
        store.write(id(1), &["one".into()]).expect_err("refused by the system");
    }
    disk.fail(Fault { op: SimOp::Open, after: 0, kind: io::ErrorKind::Other });
    store.promote(0, 1).expect_err("nothing to promote");
    assert!(store.failure().is_none());
    // A sync that finds no room has lost what was written.
    for op in [SimOp::Sync, SimOp::SyncDir] {
        let (disk, _, store) = simulated();
        disk.fail(Fault { op, after: 0, kind: io::ErrorKind::StorageFull });
        store.write(id(2), &["two".into()]).expect_err("lost");
        assert!(store.failure().is_some(), "{op:?}");
    }
    // A full disk has not failed.
    let (disk, _, store) = simulated();
    disk.fail(Fault { op: SimOp::Write, after: 0, kind: io::ErrorKind::StorageFull });
    store.write(id(2), &["two".into()]).expect_err("no room");
    assert!(store.failure().is_none());
    store.write(id(2), &["two".into()]).expect("there is room");
}

#[test]
fn what_cannot_be_removed_is_removed_the_next_time() {
    let (disk, _, mut store) = simulated();
    store.kept_bytes_max = 0;
    for index in [1, 2] {
        store.write(id(index), &["x".into()]).expect("written");
    }
    // After what a crash may have left.
    disk.fail(Fault { op: SimOp::Remove, after: 1, kind: io::ErrorKind::StorageFull });
    store.write(id(3), &["x".into()]).expect("it is there");
    assert_eq!(indexes(&store), [1, 2, 3]);
    store.write(id(4), &["x".into()]).expect("written");
    assert_eq!(indexes(&store), [1, 4]);
    assert!(store.failure().is_none());
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
    let check: Check = Arc::new(|bytes| Ok(Bytes::copy_from_slice(bytes)));
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
            promoted.extend(store.promote(0, floor).ok().map(|found| found.applied.id.index));
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
    for index in 0..6 {
        disk.set_capacity(disk.used());
        store.write(id(index), std::slice::from_ref(&piece)).expect("the reserve gives way");
    }
    // None is held that the next one does not fit in.
    assert!(!disk.list(&dir).expect("listed").contains(&RESERVE.to_owned()));
    disk.set_capacity(disk.used() + 150_000);
    store.hold_reserve();
    disk.set_capacity(disk.used());
    store.write(id(6), &[piece]).expect("the reserve gives way");
}

#[test]
fn whatever_a_checkpoint_fits_in_is_held_for_the_next_one() {
    let (disk, _, store) = simulated();
    let piece = Bytes::from(vec![7; 3 << 20]);
    store.write(id(1), std::slice::from_ref(&piece)).expect("written");
    for (index, room) in [(2, 4 << 20), (3, 3 << 20)] {
        let reserve = store.dir.join(RESERVE);
        disk.remove(&reserve).expect("removed");
        disk.set_capacity(disk.used() + room);
        store.hold_reserve();
        disk.set_capacity(disk.used());
        store.write(id(index), std::slice::from_ref(&piece)).expect("the reserve gives way");
        disk.set_capacity(u64::MAX);
        store.hold_reserve();
    }
}

#[test]
fn a_damaged_checkpoint_goes_where_there_is_no_room_for_another() {
    let piece = Bytes::from(vec![7; 3 << 20]);
    let damaged = || {
        let (disk, _, mut store) = simulated();
        store.check = Arc::new(|_| Err(CheckpointError::NotACheckpoint));
        store.write(id(1), std::slice::from_ref(&piece)).expect("written");
        store.promote(0, 1).expect_err("it is damaged");
        assert_eq!(set_aside(&store), [1]);
        disk.set_capacity(disk.used());
        (disk, store)
    };
    // To make one with.
    let (disk, store) = damaged();
    disk.remove(&store.dir.join(RESERVE)).expect("removed");
    disk.set_capacity(disk.used());
    store.write(id(2), std::slice::from_ref(&piece)).expect("it gives way");
    assert!(set_aside(&store).is_empty());
    // To hold room for the next one.
    let (disk, store) = damaged();
    store.write(id(2), std::slice::from_ref(&piece)).expect("the reserve gives way");
    assert!(set_aside(&store).is_empty());
    disk.set_capacity(disk.used());
    store.write(id(3), std::slice::from_ref(&piece)).expect("the reserve gives way");
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
