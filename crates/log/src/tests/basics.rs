//! What a caller sees when nothing fails.

use std::time::Duration;

use super::rig::{DIR, Rig, entry, small, small_pages};
use crate::{EntryId, LogError, LogOptions, OpenError, ReadError, Vote};

fn id(term: u64, index: u64) -> EntryId {
    EntryId::new(term, index)
}

#[test]
fn an_entry_is_visible_at_once_and_durable_after_its_callback() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, LogOptions::default());
    assert!(rig.report.created);
    rig.log.append(vec![entry(1, 0, 300), entry(1, 1, 0)], rig.callbacks.tagged(7)).expect("fits");
    assert_eq!(rig.log.read(0, 9, usize::MAX).expect("reads"), [entry(1, 0, 300), entry(1, 1, 0)]);
    assert_eq!(rig.log.state().last, Some(id(1, 1)));
    assert_eq!(rig.log.durable_index(), None);
    assert!(rig.callbacks.take().is_empty(), "nothing ran before a step");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [7]);
    assert_eq!(rig.log.durable_index(), Some(1));
    assert_eq!(rig.log.queued_bytes(), 0);
}

#[test]
fn everything_is_there_after_reopening() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    let vote = Vote { term: 3, node: 9, committed: true };
    rig.append(2, 0..40, 200);
    rig.append(3, 40..50, 900);
    rig.log.save_vote(vote, rig.callbacks.tagged(99)).expect("saves");
    rig.log.save_committed(id(3, 44));
    rig.log.purge(id(2, 5)).expect("purges");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), (0..50).chain([99]).collect::<Vec<_>>());
    let (state, files) = (rig.log.state(), rig.log.files());
    assert!(files.len() > 3, "{files:?}");

    let rig = rig.reopen(small());
    assert_eq!(rig.log.state(), state);
    assert_eq!(rig.log.files(), files);
    assert_eq!(rig.report.scanned, 1, "closed files have their position index");
    assert_eq!(rig.report.torn, None);
    let expected: Vec<_> =
        (0..50).map(|i| if i < 40 { entry(2, i, 200) } else { entry(3, i, 900) }).collect();
    assert_eq!(read_all(&rig, 0), expected);
    assert_eq!(rig.log.entry_id(39), Some(id(2, 39)));
    assert_eq!(rig.log.entry_id(40), Some(id(3, 40)));
    assert_eq!(rig.log.entry_id(5), Some(id(2, 5)), "the purge point itself");
    assert_eq!(rig.log.entry_id(4), None);
    assert_eq!(rig.log.entry_id(50), None);
}

/// All entries from `start` on, however many reads it takes.
pub(super) fn read_all(rig: &Rig, start: u64) -> Vec<crate::Entry> {
    let mut entries: Vec<crate::Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(start, |last| last.id.index + 1);
        let more = rig.log.read(from, u64::MAX, 1000).expect("reads");
        if more.is_empty() {
            return entries;
        }
        entries.extend(more);
    }
}

#[test]
fn a_read_stops_at_its_bounds_but_gives_one_entry() {
    for ring_bytes in [0, 1 << 20] {
        let disk = small_pages();
        let mut rig = Rig::new(&disk, LogOptions { ring_bytes, ..small() });
        rig.append(1, 0..20, 500);
        rig.log.set_applied(19);
        assert_eq!(rig.log.read_ring(3, 4, 1).is_some(), ring_bytes > 0);
        let indices = |start, end, bytes| {
            let entries = rig.log.read(start, end, bytes).expect("reads");
            entries.iter().map(|entry| entry.id.index).collect::<Vec<_>>()
        };
        assert_eq!(indices(3, 10, 0), [3]);
        assert_eq!(indices(3, 10, 999), [3]);
        assert_eq!(indices(3, 10, 1000), [3, 4]);
        assert_eq!(indices(3, 6, usize::MAX), [3, 4, 5]);
        assert_eq!(indices(18, 99, usize::MAX), [18, 19]);
        assert!(indices(20, 99, usize::MAX).is_empty());
        assert!(indices(5, 5, usize::MAX).is_empty());
    }
}

/// A reader that has little memory does not make the disk read much.
#[test]
fn a_read_reads_little_more_than_it_may_return() {
    const STEP_BYTES: u64 = crate::extent::POINT_EVERY;
    const BLOCK_BYTES: u64 = 4096;
    let disk = crate::SimDisk::default();
    let options = LogOptions { file_bytes: 1 << 20, ring_bytes: 0, ..LogOptions::default() };
    let mut rig = Rig::new(&disk, options);
    let entries = (0..600).map(|index| entry(1, index, 1_000)).collect();
    rig.log.append(entries, rig.callbacks.tagged(1)).expect("fits");
    rig.drive();
    rig.log.set_applied(599);
    assert_eq!(rig.log.files().len(), 1);
    for room in [1, 1_500, 40_000, 200_000] {
        for from in [0, 77, 350] {
            let before = disk.read_bytes();
            let entries = rig.log.read(from, u64::MAX, room).expect("reads");
            assert_eq!(entries.len(), (room / 1_000).max(1));
            let read = disk.read_bytes() - before;
            // Where one chunk ends and the next begins a block is read twice.
            let most = room as u64 / 16 * 17 + 2 * STEP_BYTES + 2 * BLOCK_BYTES;
            assert!(read > 0 && read <= most, "{room} from {from}: {read}");
        }
    }
}

#[test]
fn a_log_that_was_closed_is_whole_and_can_be_opened_again_by_the_same_writer() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.log.append(vec![entry(1, 0, 40), entry(1, 1, 40)], rig.callbacks.tagged(1)).expect("taken");
    rig.log.close(rig.callbacks.tagged(2)).expect("taken");
    rig.log.append(vec![entry(1, 2, 40)], rig.callbacks.tagged(3)).expect("taken, and too late");
    let again = rig.writer.opener().open_shard(DIR.as_ref(), small());
    assert!(matches!(again, Err(crate::OpenError::AlreadyOpen { .. })), "not before it has ended");
    rig.drive();
    let ended = rig.callbacks.take();
    let outcomes: Vec<_> = ended.iter().map(|(tag, outcome)| (*tag, outcome.is_ok())).collect();
    assert_eq!(outcomes, [(1, true), (3, false), (2, true)]);
    assert!(matches!(rig.log.failure(), Some(crate::LogError::Closed)));

    let (log, report) = rig.writer.opener().open_shard(DIR.as_ref(), small()).expect("free again");
    assert_eq!((report.created, log.state().last), (false, Some(id(1, 1))));
    log.append(vec![entry(1, 2, 40)], rig.callbacks.tagged(4)).expect("taken");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [4]);
}

#[test]
fn a_gap_is_refused_and_changes_nothing() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..3, 10);
    rig.callbacks.take_ok();
    let refused = rig.log.append(vec![entry(1, 4, 10)], rig.callbacks.tagged(4));
    assert!(matches!(refused, Err(LogError::Gap { expected: 3, .. })), "{refused:?}");
    let refused = rig.log.append(vec![entry(1, 3, 10), entry(1, 3, 10)], rig.callbacks.tagged(5));
    assert!(matches!(refused, Err(LogError::Gap { expected: 4, .. })), "{refused:?}");
    let told: Vec<_> =
        rig.callbacks.take().into_iter().map(|(tag, told)| (tag, told.is_err())).collect();
    assert_eq!(told, [(4, true), (5, true)]);
    assert_eq!(rig.log.state().last, Some(id(1, 2)));
}

#[test]
fn a_log_that_never_held_anything_begins_anywhere() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 7..60, 100);
    let rig = rig.reopen(small());
    assert_eq!(rig.log.first_file_index(), Some(7));
    assert_eq!(read_all(&rig, 7).len(), 53);
    assert!(matches!(rig.log.read(6, 9, 1), Err(ReadError::Retired { first: 7 })));
}

#[test]
fn a_cut_is_forgotten_nowhere() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..30, 300);
    rig.log.truncate_after(Some(id(1, 4))).expect("cuts");
    assert_eq!(rig.log.state().last, Some(id(1, 4)));
    assert_eq!(rig.log.durable_index(), Some(4));
    rig.append(2, 5..9, 300);
    rig.log.truncate_after(Some(id(2, 6))).expect("cuts");
    rig.append(3, 7..30, 300);
    let expected: Vec<_> = (0..30)
        .map(|i| {
            entry(
                if i < 5 {
                    1
                } else if i < 7 {
                    2
                } else {
                    3
                },
                i,
                300,
            )
        })
        .collect();
    assert_eq!(read_all(&rig, 0), expected);
    let mut rig = rig.reopen(small());
    assert_eq!(read_all(&rig, 0), expected);
    // Without the position indices the scan comes to the same.
    let files = rig.log.files();
    drop(rig);
    for file in &files {
        let _ = crate::Disk::remove(&disk, &file.path.with_extension("pos"));
    }
    rig = Rig::new(&disk, small());
    assert_eq!(rig.report.scanned, files.len());
    assert_eq!(rig.log.files(), files);
    assert_eq!(read_all(&rig, 0), expected);

    rig.log.truncate_after(None).expect("cuts");
    assert_eq!(rig.log.state().last, None);
    rig.append(4, 0..2, 10);
    let rig = rig.reopen(small());
    assert_eq!(read_all(&rig, 0), [entry(4, 0, 10), entry(4, 1, 10)]);
}

#[test]
fn a_cut_while_the_entries_are_on_their_way_leaves_them_not_durable() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    for index in 0..6 {
        rig.log.append(vec![entry(1, index, 400)], rig.callbacks.tagged(index)).expect("fits");
    }
    rig.log.truncate_after(Some(id(1, 1))).expect("cuts");
    rig.log.append(vec![entry(2, 2, 400)], rig.callbacks.tagged(12)).expect("fits");
    // One batch holds two such entries: the first step makes only old ones durable.
    rig.writer.step(rig.now);
    assert_eq!(rig.log.durable_index(), Some(1));
    rig.writer.step(rig.now);
    assert_eq!(rig.log.durable_index(), Some(1), "the new entry 2 is not on disk yet");
    rig.drive();
    assert_eq!(rig.log.durable_index(), Some(2));
    assert_eq!(rig.callbacks.take_ok(), [0, 1, 2, 3, 4, 5, 12]);
    let rig = rig.reopen(small());
    assert_eq!(read_all(&rig, 0), [entry(1, 0, 400), entry(1, 1, 400), entry(2, 2, 400)]);
}

#[test]
fn a_purge_beyond_the_end_empties_the_log() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..10, 300);
    rig.log.purge(id(5, 99)).expect("purges");
    assert_eq!(rig.log.state().last, Some(id(5, 99)));
    rig.drive();
    assert_eq!(rig.log.durable_index(), Some(99));
    rig.append(5, 100..104, 300);
    for _ in 0..2 {
        assert_eq!(read_all(&rig, 100).len(), 4);
        assert!(matches!(rig.log.read(5, 200, 9), Err(ReadError::Retired { first: 100 })));
        assert_eq!(rig.log.state().last_purged, Some(id(5, 99)));
        rig = rig.reopen(small());
    }
}

#[test]
fn what_is_cut_stays_cut_behind_a_purge_that_lands_on_the_old_end() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..30, 300);
    let next = rig.log.files().last().expect("a file").first_index;
    rig.log.truncate_after(Some(id(1, 4))).expect("cuts");
    // The purge makes the log go on at the very index at which the newest file once began.
    rig.log.purge(id(2, next - 1)).expect("purges");
    rig.append(2, next..next + 2, 300);
    for _ in 0..2 {
        let read = rig.log.read(next - 1, next, 1);
        assert!(matches!(read, Err(ReadError::Retired { .. })), "{read:?}");
        assert_eq!(read_all(&rig, next).len(), 2);
        rig = rig.reopen(small());
    }
}

#[test]
fn what_is_applied_and_durable_leaves_the_memory_whichever_came_last() {
    for applied_first in [false, true] {
        let mut rig = Rig::new(&small_pages(), small());
        rig.log.append(vec![entry(1, 0, 300)], rig.callbacks.tagged(0)).expect("queues");
        if applied_first {
            rig.log.set_applied(0);
            assert!(rig.log.read_ring(0, 1, 1).is_some(), "it is nowhere else");
            rig.drive();
        } else {
            rig.drive();
            rig.log.set_applied(0);
        }
        assert_eq!(rig.log.read_ring(0, 1, 1), None, "applied first: {applied_first}");
        assert_eq!(rig.log.read(0, 1, 1).expect("reads"), [entry(1, 0, 300)]);
    }
}

#[test]
fn purged_entries_are_read_until_their_file_is_retired() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..40, 300);
    rig.log.purge(id(1, 30)).expect("purges");
    rig.drive();
    assert_eq!(rig.log.read(0, 1, 1).expect("still there"), [entry(1, 0, 300)]);
    rig.log.set_applied(39);
    let before = rig.log.files();
    let bound = before[1].next_index - 1;
    rig.log.retire(bound, rig.callbacks.tagged(1000)).expect("retires");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok().last(), Some(&1000));
    assert_eq!(rig.log.files(), before[2..]);
    assert_eq!(rig.log.first_file_index(), Some(bound + 1));
    assert!(
        matches!(rig.log.read(bound, 40, 1), Err(ReadError::Retired { first }) if first == bound + 1)
    );
    // Not beyond the purge point, and never the file that is written to.
    rig.log.retire(u64::MAX, rig.ignored()).expect("retires");
    rig.drive();
    assert!(rig.log.files()[0].next_index > 31);
    let (state, files) = (rig.log.state(), rig.log.files());
    let rig = rig.reopen(small());
    assert_eq!((rig.log.state(), rig.log.files()), (state, files));
}

#[test]
fn retired_files_are_recycled_and_their_old_bytes_are_nothing() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    let mut next = 0;
    let mut used = 0;
    for round in 0..30 {
        rig.append(1, next..next + 9, 300);
        next += 9;
        rig.log.purge(id(1, next - 1)).expect("purges");
        rig.log.retire(next - 1, rig.ignored()).expect("retires");
        rig.drive();
        assert!(rig.log.files().len() <= 2);
        used = used.max(disk.used());
        if round % 7 == 0 {
            rig = rig.reopen(small());
            assert_eq!(rig.report.torn, None);
        }
    }
    assert!(used <= 5 * 4096, "{used} bytes");
}

#[test]
fn roll_lets_retire_free_everything_and_no_state_is_lost() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    let vote = Vote { term: 8, node: 2, committed: false };
    rig.append(8, 0..5, 100);
    rig.log.save_vote(vote, rig.ignored()).expect("saves");
    rig.log.save_committed(id(8, 4));
    rig.log.roll(rig.callbacks.tagged(50)).expect("rolls");
    rig.log.purge(id(8, 4)).expect("purges");
    rig.log.retire(4, rig.callbacks.tagged(51)).expect("retires");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [0, 1, 2, 3, 4, 50, 51]);
    assert_eq!(rig.log.files().len(), 1);
    assert_eq!(rig.log.first_file_index(), None);
    // A file without a batch is not rolled again.
    let mut rig = rig.reopen(small());
    let state = rig.log.state();
    assert_eq!(
        (state.vote, state.last_purged, state.last),
        (Some(vote), Some(id(8, 4)), Some(id(8, 4)))
    );
    assert_eq!(state.committed, Some(id(8, 4)));
    rig.append(8, 5..7, 100);
    assert_eq!(read_all(&rig, 5).len(), 2);
}

#[test]
fn two_files_may_begin_at_the_same_index() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    for node in 0..3 {
        rig.log.save_vote(Vote { term: 1, node, committed: false }, rig.ignored()).expect("saves");
        rig.log.roll(rig.ignored()).expect("rolls");
        rig.drive();
    }
    let names: Vec<_> = rig.log.files().iter().map(|file| file.path.clone()).collect();
    let name = |name: &str| std::path::Path::new(DIR).join(name);
    assert_eq!(names[0], name("00000000000000000000.log"));
    assert_eq!(names[2], name("00000000000000000000.2.log"));
    rig.append(1, 0..3, 10);
    let rig = rig.reopen(small());
    assert_eq!(rig.log.state().vote.map(|vote| vote.node), Some(2));
    assert_eq!(read_all(&rig, 0).len(), 3);
}

#[test]
fn the_mark_follows_when_the_log_is_idle() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..1, 100);
    let bytes = rig.log.files()[0].bytes;
    rig.pass(Duration::from_millis(999));
    assert_eq!(rig.log.files()[0].bytes, bytes, "not yet");
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.log.files()[0].bytes, bytes + 64, "a header without frames");
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.log.files()[0].bytes, bytes + 64, "one is enough");
    // What is committed goes with the next one, and asks for it.
    rig.log.save_committed(id(1, 0));
    rig.drive();
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.log.files()[0].bytes, bytes + 160);
    let rig = rig.reopen(small());
    assert_eq!(rig.log.state().committed, Some(id(1, 0)));
}

#[test]
fn committed_is_never_told_beyond_the_last_entry() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..3, 10);
    rig.log.save_committed(id(2, 17));
    assert_eq!(rig.log.state().committed, Some(id(1, 2)));
    rig.log.sync_mark(rig.callbacks.tagged(70)).expect("marks");
    rig.drive();
    assert_eq!(rig.callbacks.take_ok(), [0, 1, 2, 70]);
    let rig = rig.reopen(small());
    assert_eq!(rig.log.state().committed, Some(id(1, 2)));
}

#[test]
fn an_entry_longer_than_a_file_gets_a_long_file() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, small());
    rig.append(1, 0..2, 10);
    rig.append(1, 2..3, 20_000);
    rig.append(1, 3..5, 10);
    let rig = rig.reopen(small());
    assert_eq!(read_all(&rig, 0).len(), 5);
    assert_eq!(rig.log.read(2, 3, 1).expect("reads"), [entry(1, 2, 20_000)]);
}

#[test]
fn bytes_above_is_right_to_one_step() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, LogOptions { file_bytes: 64 << 10, ..small() });
    rig.append(1, 0..300, 500);
    let all = rig.log.bytes_above(0) as i64;
    assert!((all - 300 * 592).abs() < 6000, "{all}");
    let half = rig.log.bytes_above(149) as i64;
    assert!((half - 150 * 592).abs() < 6000, "{half}");
    assert_eq!(rig.log.bytes_above(299), 0);
}

#[test]
fn a_log_is_open_once() {
    let disk = small_pages();
    let rig = Rig::new(&disk, small());
    let again = rig.writer.opener().open_shard(DIR.as_ref(), small());
    assert!(matches!(again, Err(OpenError::AlreadyOpen { .. })));
    let second = crate::LogWriter::new(std::sync::Arc::new(disk), Box::new(|| [0; 16]));
    assert!(matches!(second, Err(crate::LockError::Held { .. })));
}

#[test]
fn dropping_the_writer_calls_everything_back() {
    let disk = small_pages();
    let rig = Rig::new(&disk, small());
    rig.log.append(vec![entry(1, 0, 10)], rig.callbacks.tagged(0)).expect("fits");
    drop(rig.writer);
    assert!(matches!(rig.callbacks.take()[..], [(0, Err(LogError::Closed))]));
    let late = rig.log.append(vec![entry(1, 1, 10)], rig.callbacks.tagged(1));
    assert!(matches!(late, Err(LogError::Closed)));
    assert!(matches!(rig.callbacks.take()[..], [(1, Err(LogError::Closed))]));
}
