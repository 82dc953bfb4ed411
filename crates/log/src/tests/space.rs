//! A disk that is full.

use std::io::ErrorKind;
use std::time::Duration;

use super::rig::{Rig, entry, small, small_pages};
use crate::{EntryId, Fault, LogError, LogOptions, ReadError, SimOp, Step, Vote};

/// A log whose first file is more than half full, on a disk without space for another.
fn full() -> Rig {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    disk.set_capacity(disk.used());
    rig.append(1, 0..4, 500);
    assert_eq!(rig.callbacks.take_ok(), [0, 1, 2, 3]);
    rig
}

#[test]
fn the_log_says_so_before_it_is_out_of_room_and_then_lets_wait() {
    let mut rig = full();
    assert!(rig.log.state().disk_full);
    // What is preallocated is still taken: votes, control entries, what was on its way.
    rig.append(1, 4..5, 500);
    assert_eq!(rig.callbacks.take_ok(), [4]);
    let bytes = rig.log.files()[0].bytes;
    assert_eq!(rig.log.file_bytes(), small().file_bytes);
    assert_eq!(rig.log.room(), small().file_bytes - bytes);
    rig.log.append(vec![entry(1, 5, 3000)], rig.callbacks.tagged(5)).expect("queues");
    assert_eq!(rig.log.room(), (small().file_bytes - bytes).saturating_sub(rig.log.queued_bytes()));
    rig.log
        .save_vote(Vote { term: 2, ..Vote::default() }, rig.callbacks.tagged(6))
        .expect("queues");
    rig.pass(Duration::from_secs(5));
    assert!(rig.callbacks.take().is_empty(), "both wait");
    assert_eq!(rig.log.files()[0].bytes, bytes, "nothing was written");
    assert_eq!(rig.log.state().durable, Some(4));
    rig.disk.set_capacity(u64::MAX);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.callbacks.take_ok(), [5, 6]);
    assert_eq!(rig.log.state().last, Some(EntryId::new(1, 5)));
}

#[test]
fn it_goes_on_when_space_returns() {
    let mut rig = full();
    rig.callbacks.take();
    rig.disk.set_capacity(u64::MAX);
    let Step::Idle { wake_at: Some(wake_at) } = rig.writer.step(rig.now) else {
        panic!("the writer must look again by itself")
    };
    assert!(wake_at <= rig.now + Duration::from_secs(1));
    rig.pass(Duration::from_secs(1));
    assert!(!rig.log.state().disk_full);
    rig.append(1, 4..20, 500);
    assert_eq!(rig.callbacks.take_ok().len(), 16);
}

#[test]
fn what_was_accepted_waits_for_space_and_is_not_failed() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    disk.set_capacity(disk.used());
    // Accepted before the writer knew that the disk is full.
    for index in 0..12 {
        rig.log.append(vec![entry(1, index, 500)], rig.callbacks.tagged(index)).expect("queues");
    }
    rig.drive();
    let done = rig.callbacks.take_ok().len();
    assert!((1..12).contains(&done), "{done}");
    rig.pass(Duration::from_secs(5));
    assert!(rig.callbacks.take().is_empty());
    disk.set_capacity(u64::MAX);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.callbacks.take_ok().len(), 12 - done);
    assert_eq!(rig.reopen(small()).log.state().last, Some(EntryId::new(1, 11)));
}

#[test]
fn space_is_freed_past_work_that_waits_for_space() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..20, 500);
    rig.log.set_applied(19);
    let files = rig.log.files().len();
    assert!(files >= 3);
    disk.set_capacity(disk.used());
    rig.callbacks.take();
    for index in 20..50 {
        rig.log.append(vec![entry(1, index, 500)], rig.callbacks.tagged(index)).expect("queues");
    }
    rig.drive();
    assert!(rig.log.state().durable < Some(49), "it is stuck");
    let stuck_at = rig.log.state().durable;
    // Both queue behind the appends that wait.
    rig.log.purge(EntryId::new(1, 19)).expect("purges");
    rig.log.retire(19, rig.callbacks.tagged(100)).expect("retires");
    rig.drive();
    assert!(rig.callbacks.take_ok().contains(&100));
    assert!(matches!(rig.log.read(0, 1, 1), Err(ReadError::Retired { .. })));
    let durable = rig.log.state().durable;
    assert!(durable > stuck_at, "the freed file is written to: {durable:?}");
}

/// A log of several files with entries that wait for space; all before 20 are applied.
fn stuck() -> Rig {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..20, 500);
    rig.log.set_applied(19);
    disk.set_capacity(disk.used());
    rig.append(1, 20..50, 500);
    assert!(rig.log.state().durable < Some(49), "it is stuck");
    rig.callbacks.take_ok();
    rig
}

#[test]
fn freeing_space_may_find_none_itself() {
    for op in [SimOp::Write, SimOp::Remove, SimOp::Rename] {
        let mut rig = stuck();
        let stuck_at = rig.log.state().durable;
        rig.disk.fail(Fault { op, after: 0, kind: ErrorKind::StorageFull });
        rig.log.purge(EntryId::new(1, 19)).expect("purges");
        rig.log.retire(19, rig.callbacks.tagged(100)).expect("retires");
        rig.drive();
        assert_eq!(rig.log.state().durable, stuck_at, "{op:?}");
        // It is tried again.
        rig.pass(Duration::from_secs(5));
        assert!(rig.callbacks.take_ok().contains(&100), "{op:?}");
        assert!(rig.log.state().durable > stuck_at, "{op:?}");
        rig.disk.set_capacity(u64::MAX);
        rig.pass(Duration::from_secs(1));
        assert_eq!(rig.log.state().durable, Some(49), "{op:?}");
        assert_eq!(rig.reopen(small()).log.state().last, Some(EntryId::new(1, 49)), "{op:?}");
    }
}

#[test]
fn a_disk_is_not_full_when_what_found_no_room_is_done_and_nothing_else_waits() {
    for op in [SimOp::Remove, SimOp::Rename] {
        let disk = small_pages();
        let mut rig = Rig::new(&disk, small());
        rig.append(1, 0..20, 500);
        rig.log.set_applied(19);
        disk.fail(Fault { op, after: 0, kind: ErrorKind::StorageFull });
        rig.log.purge(EntryId::new(1, 10)).expect("purges");
        rig.log.retire(10, rig.callbacks.tagged(100)).expect("retires");
        rig.log.roll(rig.callbacks.tagged(101)).expect("queues");
        rig.drive();
        assert_eq!(disk.faults_left(), 0, "{op:?}");
        for _ in 0..2 {
            rig.pass(Duration::from_secs(5));
        }
        let done = rig.callbacks.take_ok();
        assert!(done.contains(&100) && done.contains(&101), "{op:?}: {done:?}");
        // Whoever looks before it appends would find it full for ever.
        assert!(!rig.log.disk_full(), "{op:?}");
    }
}

#[test]
fn files_that_cannot_be_freed_hold_nothing_up_that_has_room() {
    for op in [SimOp::Remove, SimOp::Rename] {
        let disk = small_pages();
        let mut rig = Rig::new(&disk, small());
        rig.append(1, 0..20, 500);
        rig.log.set_applied(19);
        rig.callbacks.take_ok();
        disk.fail(Fault { op, after: 0, kind: ErrorKind::StorageFull });
        rig.log.purge(EntryId::new(1, 10)).expect("purges");
        rig.log.retire(10, rig.callbacks.tagged(100)).expect("retires");
        let vote = Vote { term: 2, ..Vote::default() };
        rig.log.save_vote(vote, rig.callbacks.tagged(101)).expect("queues");
        rig.append(2, 20..21, 10);
        assert_eq!(disk.faults_left(), 0, "{op:?}");
        assert_eq!(rig.callbacks.take_ok(), [101, 20], "{op:?}");
        assert!(rig.log.disk_full(), "{op:?}");
        rig.pass(Duration::from_secs(1));
        assert_eq!(rig.callbacks.take_ok(), [100], "{op:?}");
        assert!(!rig.log.disk_full(), "{op:?}");
    }
    // Whoever waits is told when the log ends.
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..20, 500);
    rig.callbacks.take_ok();
    disk.fail(Fault { op: SimOp::Remove, after: 0, kind: ErrorKind::StorageFull });
    rig.log.purge(EntryId::new(1, 10)).expect("purges");
    rig.log.retire(10, rig.callbacks.tagged(100)).expect("retires");
    rig.drive();
    disk.fail(Fault { op: SimOp::Sync, after: 0, kind: ErrorKind::Other });
    rig.append(1, 20..21, 10);
    let told = rig.callbacks.take();
    assert!(told.iter().any(|(tag, told)| *tag == 100 && told.is_err()), "{told:?}");
}

#[test]
fn the_size_of_a_file_is_the_one_it_was_made_with() {
    let mut rig = Rig::new(&small_pages(), small());
    rig.append(1, 0..1, 500);
    let larger = LogOptions { file_bytes: 4 * small().file_bytes, ..small() };
    let mut rig = rig.reopen(larger);
    assert_eq!(rig.log.file_bytes(), small().file_bytes);
    assert!(rig.log.room() < small().file_bytes);
    rig.log.roll(rig.ignored()).expect("queues");
    rig.drive();
    assert_eq!(rig.log.file_bytes(), 4 * small().file_bytes);
    assert!(rig.log.room() > 3 * small().file_bytes);
    // What does not fit into one lengthens it.
    rig.append(1, 1..2, 20_000);
    assert!(rig.log.file_bytes() > 20_000, "{}", rig.log.file_bytes());
}

#[test]
fn a_sync_that_finds_no_space_has_lost_data() {
    // Of the header of a file that is begun, and of a purge that is to free space.
    let rolling = |rig: &mut Rig| rig.log.roll(rig.callbacks.tagged(100)).expect("queues");
    let begun = {
        let mut rig = Rig::new(&small_pages(), small());
        rig.append(1, 0..2, 500);
        rolling(&mut rig);
        rig
    };
    let relieved = {
        let rig = stuck();
        rig.log.purge(EntryId::new(1, 19)).expect("purges");
        rig.log.retire(19, rig.callbacks.tagged(100)).expect("retires");
        rig
    };
    for mut rig in [begun, relieved] {
        rig.callbacks.take_ok();
        rig.disk.fail(Fault { op: SimOp::Sync, after: 0, kind: ErrorKind::StorageFull });
        rig.drive();
        let told = rig.callbacks.take();
        let lost = |told: &Result<(), LogError>| matches!(told, Err(LogError::Failed(_)));
        assert!(told.iter().any(|(tag, _)| *tag == 100), "{told:?}");
        assert!(told.iter().all(|(_, told)| lost(told)), "{told:?}");
        assert!(lost(&rig.log.truncate_after(None)), "nothing is taken any more");
    }
}

#[test]
fn a_new_file_that_finds_no_space_is_given_up_and_holds_up_nobody() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..1, 500);
    disk.set_capacity(disk.used());
    rig.log.roll(rig.callbacks.tagged(100)).expect("queues");
    rig.append(1, 1..2, 500);
    assert_eq!(rig.callbacks.take_ok(), [0, 100, 1]);
    assert_eq!(rig.log.files().len(), 1);
    assert!(!rig.log.disk_full(), "the file has room");
    // With space it is begun.
    disk.set_capacity(u64::MAX);
    rig.log.roll(rig.callbacks.tagged(100)).expect("queues");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [100]);
    assert_eq!(rig.log.files().len(), 2);
}

#[test]
fn a_mark_behind_entries_that_wait_for_space_is_refused_at_once() {
    let mut rig = stuck();
    rig.log.sync_mark(rig.callbacks.tagged(100)).expect("queues");
    rig.log.roll(rig.callbacks.tagged(101)).expect("queues");
    rig.drive();
    let told = rig.callbacks.take();
    assert!(matches!(told[..], [(100, Err(LogError::Full)), (101, Ok(()))]), "{told:?}");
    // Those that wait, wait on.
    rig.disk.set_capacity(u64::MAX);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.callbacks.take_ok().last(), Some(&49));
    rig.log.sync_mark(rig.callbacks.tagged(100)).expect("queues");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [100]);
}

#[test]
fn a_failed_creation_leaves_no_log_behind() {
    let disk = small_pages();
    disk.set_capacity(1000);
    assert!(Rig::open(&disk, small()).is_err());
    disk.set_capacity(u64::MAX);
    let rig = Rig::open(&disk, LogOptions::default()).expect("opens");
    assert!(rig.report.created);
}

#[test]
fn an_entry_that_lengthens_a_file_waits_for_space_too() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..5, 500);
    disk.set_capacity(disk.used());
    rig.log.append(vec![entry(1, 5, 9000)], rig.callbacks.tagged(5)).expect("queues");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [0, 1, 2, 3, 4]);
    assert!(rig.log.state().disk_full);
    rig.pass(Duration::from_secs(3));
    assert!(rig.callbacks.take().is_empty());
    disk.set_capacity(u64::MAX);
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.callbacks.take_ok(), [5]);
    assert!(!rig.log.state().disk_full);
    assert_eq!(rig.log.read(5, 6, 1).expect("reads"), [entry(1, 5, 9000)]);
}
