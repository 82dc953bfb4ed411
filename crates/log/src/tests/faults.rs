//! Disks that fail.

use std::io::ErrorKind;

use super::rig::{DIR, Rig, entry, small, small_pages};
use crate::{
    Disk, EntryId, Fault, LogError, LogOptions, OpenError, ReadError, SimDisk, SimDiskOptions,
    SimOp, Step,
};

fn fail(disk: &SimDisk, op: SimOp, after: u64) {
    disk.fail(Fault { op, after, kind: ErrorKind::Other });
}

#[test]
fn a_failed_write_or_sync_ends_the_writer_and_everyone_is_told() {
    for op in [SimOp::Write, SimOp::Sync] {
        let disk = small_pages();
        let mut rig = Rig::new(&disk, small());
        rig.append(1, 0..2, 900);
        assert_eq!(rig.callbacks.take_ok(), [0, 1]);
        fail(&disk, op, 0);
        for index in 2..5 {
            rig.log
                .append(vec![entry(1, index, 900)], rig.callbacks.tagged(index))
                .expect("queues");
        }
        rig.drive();
        let told = rig.callbacks.take();
        assert_eq!(told.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(told.iter().all(|(_, told)| matches!(told, Err(LogError::Failed(_)))), "{told:?}");
        assert_eq!(rig.log.durable_index(), Some(1));
        // Sticky: the disk works again, and still nothing is acknowledged.
        let late = rig.log.append(vec![entry(1, 5, 9)], rig.callbacks.tagged(5));
        assert!(matches!(late, Err(LogError::Failed(_))));
        assert!(matches!(rig.log.truncate_after(None), Err(LogError::Failed(_))));
        assert_eq!(rig.writer.step(rig.now), Step::Idle { wake_at: None });
        assert!(matches!(rig.callbacks.take()[..], [(5, Err(LogError::Failed(_)))]));
        // What is in memory and on disk can be read all the same.
        assert_eq!(rig.log.read(0, 5, usize::MAX).expect("reads").len(), 2 + 3);
    }
}

#[test]
fn a_failure_of_one_log_ends_all_logs_of_the_disk() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    let other = rig.writer.opener().open_shard("shards/2/log".as_ref(), small()).expect("opens").0;
    rig.drive();
    fail(&disk, SimOp::Sync, 0);
    rig.log.append(vec![entry(1, 0, 9)], rig.callbacks.tagged(1)).expect("queues");
    other.append(vec![entry(1, 0, 9)], rig.callbacks.tagged(2)).expect("queues");
    rig.drive();
    let mut told: Vec<_> = rig.callbacks.take().into_iter().map(|(t, o)| (t, o.is_err())).collect();
    told.sort_unstable();
    assert_eq!(told, [(1, true), (2, true)]);
}

#[test]
fn failures_while_rolling_and_retiring_are_fatal_too() {
    for op in [SimOp::Rename, SimOp::SyncDir, SimOp::Create] {
        let disk = small_pages();
        let mut rig = Rig::new(&disk, small());
        rig.append(1, 0..1, 100);
        fail(&disk, op, 0);
        rig.log.roll(rig.callbacks.tagged(77)).expect("queues");
        rig.drive();
        let told = rig.callbacks.take();
        assert!(matches!(told.last(), Some((77, Err(LogError::Failed(_))))), "{op:?}: {told:?}");
    }
}

#[test]
fn partial_writes_are_completed() {
    let disk = SimDisk::new(SimDiskOptions { write_bytes_max: 7, ..SimDiskOptions::default() });
    let mut rig = Rig::new(&disk, LogOptions::default());
    let many: Vec<_> = (0..50).map(|index| entry(1, index, 4000)).collect();
    rig.log.append(many.clone(), rig.callbacks.tagged(1)).expect("queues");
    disk.fail(Fault { op: SimOp::Write, after: 3, kind: ErrorKind::Interrupted });
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [1]);
    let rig = rig.reopen(LogOptions::default());
    assert_eq!(rig.log.read(0, 99, usize::MAX).expect("reads"), many);
}

#[test]
fn a_damaged_frame_of_an_old_file_is_told_when_it_is_read_and_others_are_served() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..20, 500);
    rig.log.set_applied(19);
    let path = rig.log.files()[0].path.clone();
    // In the body of entry 2.
    let at = 160 + 2 * 592 + 64 + 28 + 100;
    assert!(disk.flip(&path, at, 4));
    let read = rig.log.read(2, 3, usize::MAX);
    match read {
        Err(ReadError::Corrupt { file, index: 2, position, .. }) => {
            assert_eq!(file, path);
            assert!(position < at as u64);
        }
        read => panic!("{read:?}"),
    }
    assert_eq!(rig.log.damaged(), Some(2));
    assert!(matches!(rig.log.check_damaged(), Some(ReadError::Corrupt { index: 2, .. })));
    assert_eq!(rig.log.read(1, 2, 1).expect("reads"), [entry(1, 1, 500)]);
    assert_eq!(rig.log.read(19, 20, 1).expect("reads"), [entry(1, 19, 500)]);
    let failing = |disk: &SimDisk| fail(disk, SimOp::Read, 0);
    failing(&disk);
    assert!(matches!(rig.log.read(1, 2, 1), Err(ReadError::Io(_))));
    // As it was after all; or gone.
    assert!(disk.flip(&path, at, 4));
    assert!(rig.log.check_damaged().is_none() && rig.log.damaged().is_none());
    assert!(disk.flip(&path, at, 4));
    rig.log.read(2, 3, 1).expect_err("damaged");
    rig.log.purge(EntryId::new(1, 19)).expect("purges");
    rig.log.retire(19, rig.ignored()).expect("retires");
    rig.drive();
    assert!(rig.log.check_damaged().is_none() && rig.log.damaged().is_none());
}

#[test]
fn a_missing_file_is_told() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..30, 500);
    let files = rig.log.files();
    drop(rig);
    for missing in [0, 1] {
        let fork = disk.fork();
        fork.remove(&files[missing].path).expect("is there");
        let opened = Rig::open(&fork, small());
        assert!(matches!(opened, Err(OpenError::MissingFile { .. })), "{opened:?}");
    }
    let [.., closed, newest] = &files[..] else { panic!("{files:?}") };
    disk.remove(&newest.path).expect("is there");
    match Rig::open(&disk, small()) {
        Err(OpenError::Rot { file, position, index, .. }) => {
            let known = (closed.path.clone(), closed.bytes, closed.next_index);
            assert_eq!((file, position, index), known);
        }
        opened => panic!("{opened:?}"),
    }
}

#[test]
fn options_and_versions_are_checked() {
    let disk = small_pages();
    let tiny = LogOptions { file_bytes: 100, ..LogOptions::default() };
    assert!(matches!(Rig::open(&disk, tiny), Err(OpenError::Option { option: "file_bytes", .. })));
    let path = Rig::new(&disk, small()).log.files()[0].path.clone();
    assert!(disk.flip(&path, 8, 1));
    let opened = Rig::open(&disk, small());
    assert!(matches!(opened, Err(OpenError::Rot { position: 0, .. })), "{opened:?}");
    // Now its checksum says so, too.
    let bytes = disk.contents(&path).expect("is there");
    let end = u32::from_le_bytes(bytes[12..16].try_into().expect("four")) as usize;
    let (header, sum) = bytes[..end].split_last_chunk::<4>().expect("a checksum");
    for (at, (now, then)) in crc32c::crc32c(header).to_le_bytes().iter().zip(sum).enumerate() {
        disk.flip(&path, end - 4 + at, now ^ then);
    }
    let opened = Rig::open(&disk, small());
    assert!(matches!(opened, Err(OpenError::Version { found: 2, known: 3, .. })), "{opened:?}");
}

#[test]
fn a_reader_that_holds_a_recycled_file_is_told_so() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..20, 500);
    rig.log.set_applied(19);
    let held = rig.log.files()[0].path.clone();
    let before = disk.contents(&held).expect("is there");
    rig.log.purge(EntryId::new(1, 19)).expect("purges");
    rig.log.retire(19, rig.ignored()).expect("retires");
    rig.append(1, 20..40, 500);
    let names = disk.list(DIR.as_ref()).expect("lists");
    assert!(names.len() <= 9, "{names:?}");
    let kept =
        rig.log.files().iter().any(|file| {
            disk.contents(&file.path).is_some_and(|bytes| bytes[..1000] == before[..1000])
        });
    assert!(!kept, "a recycled file begins with a new header");
    assert!(matches!(rig.log.read(0, 9, 9), Err(ReadError::Retired { .. })));
}
