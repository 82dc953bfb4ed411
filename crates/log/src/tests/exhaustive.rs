//! Every crash point, with every subset of what was not synced; every flipped byte; every operation
//! that finds the disk full.

use std::io::ErrorKind;
use std::time::Duration;

use super::naive::{Asked, Naive, recovered_prefix};
use super::rig::{Rig, entry, small_pages};
use crate::{
    BuiltinBug, CrashPlan, Entry, EntryId, Fault, LogOptions, OpenError, ReadError, SimDisk,
    SimDiskOptions, SimOp, Vote,
};

/// Files of a few batches, batches of a few pages.
pub(super) fn tiny() -> LogOptions {
    LogOptions { file_bytes: 4096, ring_bytes: 0, write_bytes_max: 1500, ..LogOptions::default() }
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId::new(term, index)
}

/// A life of a log: what was asked for, and how much of it was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub(super) asked: Vec<Asked>,
    pub(super) acked: usize,
    /// Something was told to have failed.
    failed: bool,
}

impl Life {
    fn ask(&mut self, rig: &Rig, asked: Asked) {
        // The tag of a callback is the number of changes it acknowledges.
        self.asked.push(asked.clone());
        let done = rig.callbacks.tagged(self.asked.len() as u64);
        let taken = match asked {
            Asked::Append(entry) => rig.log.append(vec![entry], done),
            Asked::Vote(vote) => rig.log.save_vote(vote, done),
            Asked::Truncate(kept) => rig.log.truncate_after(kept),
            Asked::Purge(upto) => rig.log.purge(upto),
        };
        if taken.is_err() {
            self.asked.pop();
        }
    }

    pub(super) fn drive(&mut self, rig: &mut Rig) {
        rig.drive();
        for (tag, outcome) in rig.callbacks.take() {
            match outcome {
                Ok(()) => self.acked = self.acked.max(tag as usize),
                Err(_) => self.failed = true,
            }
        }
    }

    /// Two files, appends one by one and in groups, a vote, a mark.
    pub(super) fn appends(&mut self, rig: &mut Rig) {
        for (index, bytes) in [(0, 10), (1, 700), (2, 1200)] {
            self.ask(rig, Asked::Append(entry(1, index, bytes)));
            self.drive(rig);
        }
        for index in 3..6 {
            self.ask(rig, Asked::Append(entry(1, index, 300)));
        }
        self.ask(rig, Asked::Vote(Vote { term: 2, node: 7, committed: true }));
        self.drive(rig);
        rig.log.save_committed(id(1, 3));
        rig.pass(Duration::from_secs(2));
        for index in 6..9 {
            self.ask(rig, Asked::Append(entry(2, index, 500)));
            self.drive(rig);
        }
    }

    /// Cuts, purges, rolls and recycled files.
    pub(super) fn turnover(&mut self, rig: &mut Rig) {
        for index in 0..4 {
            self.ask(rig, Asked::Append(entry(1, index, 600)));
        }
        self.drive(rig);
        self.ask(rig, Asked::Truncate(Some(id(1, 1))));
        self.ask(rig, Asked::Append(entry(2, 2, 600)));
        self.drive(rig);
        let _ = rig.log.roll(rig.ignored());
        self.ask(rig, Asked::Purge(id(1, 1)));
        let _ = rig.log.retire(u64::MAX, rig.ignored());
        self.ask(rig, Asked::Append(entry(2, 3, 100)));
        self.drive(rig);
        self.ask(rig, Asked::Purge(id(2, 3)));
        let _ = rig.log.roll(rig.ignored());
        let _ = rig.log.retire(u64::MAX, rig.ignored());
        self.drive(rig);
        self.ask(rig, Asked::Append(entry(2, 4, 900)));
        let _ = rig.log.roll(rig.ignored());
        self.ask(rig, Asked::Append(entry(2, 5, 900)));
        self.drive(rig);
        self.ask(rig, Asked::Purge(id(3, 20)));
        self.ask(rig, Asked::Append(entry(3, 21, 40)));
        self.drive(rig);
    }

    /// Entries that make their files longer.
    pub(super) fn long(&mut self, rig: &mut Rig) {
        for (index, bytes) in [(0, 10), (1, 5000), (2, 10), (3, 4500)] {
            self.ask(rig, Asked::Append(entry(1, index, bytes)));
            self.drive(rig);
        }
    }
}

/// Runs `script` with a stop after each number of disk operations, and recovers from every subset of what was
/// not synced. The first thing that is not as it must be is the error; else the number of recoveries.
///
/// A page has fewer bytes than 4 KiB, so that a small log has several: what subsets of them there are,
/// and what a log makes of each, does not depend on that.
fn every_crash(
    options: &LogOptions,
    (page_bytes, direct): (usize, bool),
    script: impl Fn(&mut Life, &mut Rig),
) -> Result<u64, String> {
    let mut recoveries = 0;
    for stop in 0.. {
        let disk = SimDisk::new(SimDiskOptions { page_bytes, direct, ..SimDiskOptions::default() });
        disk.stop_after(Some(stop));
        let mut life = Life::default();
        let rig = Rig::open(&disk, options.clone()).map(|mut rig| {
            script(&mut life, &mut rig);
            life.drive(&mut rig);
        });
        let finished = rig.is_ok() && disk.operations() < stop;
        let states = Naive::prefixes(&life.asked);
        let (pages, names) = disk.at_stake();
        assert!(pages <= 9, "{pages} pages at stake are too many to be exhaustive");
        for pages in 0..1 << pages {
            for names in 0..=names {
                let plan = CrashPlan::Explicit { pages, names };
                let again = disk.fork();
                again.crash(&plan);
                let context = |why| format!("stopped after {stop} operations, {plan:?}: {why}");
                recover_twice(&again, options, &states, life.acked).map_err(context)?;
                recoveries += 1;
            }
        }
        let killed = disk.fork();
        killed.crash(&CrashPlan::ProcessOnly);
        recover_twice(&killed, options, &states, life.acked)
            .map_err(|why| format!("killed after {stop} operations: {why}"))?;
        if finished {
            break;
        }
    }
    Ok(recoveries)
}

/// Recovers, writes on, crashes again at once. What the first recovery showed must still be there.
pub(super) fn recover_twice(
    disk: &SimDisk,
    options: &LogOptions,
    states: &[Naive],
    acked: usize,
) -> Result<(), String> {
    let opened = Rig::open(disk, options.clone());
    let length = recovered_prefix(states, acked, &opened)?;
    let mut rig = opened.map_err(|error| error.to_string())?;
    let before = states[length].clone();

    // Power is lost: all that was shown as recovered was durable.
    let lost = disk.fork();
    lost.crash(&CrashPlan::LoseAll);
    let again = Rig::open(&lost, options.clone());
    recovered_prefix(std::slice::from_ref(&before), 0, &again)
        .map_err(|why| format!("after recovery and loss of power: {why}"))?;

    let files = rig.log.files();
    if let [.., _, newest] = &files[..] {
        let missing = disk.fork();
        missing.crash(&CrashPlan::LoseAll);
        missing.lose(&newest.path);
        let opened = Rig::open(&missing, options.clone()).map(|rig| rig.log.state());
        if !matches!(opened, Err(OpenError::Rot { .. })) {
            return Err(format!("nothing tells that the newest file is missing: {opened:?}"));
        }
    }

    // One more entry, acknowledged, over whatever the crash left behind the end.
    let mut life = Life::default();
    life.ask(&rig, Asked::Append(entry(9, before.next(), 60)));
    life.drive(&mut rig);
    let mut after = before;
    life.asked.iter().for_each(|asked| after.apply(asked));
    disk.crash(&CrashPlan::LoseAll);
    let again = Rig::open(disk, options.clone());
    recovered_prefix(&[after], 0, &again).map_err(|why| format!("after writing on: {why}"))?;
    Ok(())
}

#[test]
fn no_crash_loses_an_acknowledged_entry() {
    for direct in [false, true] {
        let recoveries = every_crash(&tiny(), (256, direct), Life::appends).expect("recovers");
        assert!(recoveries > 300, "{recoveries}");
    }
}

#[test]
fn no_crash_confuses_cuts_purges_and_recycled_files() {
    for direct in [false, true] {
        let recoveries = every_crash(&tiny(), (256, direct), Life::turnover).expect("recovers");
        assert!(recoveries > 300, "{recoveries}");
    }
}

#[test]
fn no_crash_confuses_files_that_are_made_longer() {
    for direct in [false, true] {
        let recoveries = every_crash(&tiny(), (1024, direct), Life::long).expect("recovers");
        assert!(recoveries > 300, "{recoveries}");
    }
}

/// Lets each operation of a kind find no space, one a run, and looks again once there is some. Whether
/// each run went on as if nothing had been, and how many there were.
fn every_full(
    op: SimOp,
    kind: ErrorKind,
    script: impl Fn(&mut Life, &mut Rig),
) -> Result<(bool, u64), String> {
    let mut goes_on = None;
    for after in 0.. {
        let disk = SimDisk::new(SimDiskOptions { page_bytes: 256, ..SimDiskOptions::default() });
        let mut rig = Rig::new(&disk, tiny());
        disk.fail(Fault { op, after, kind });
        let mut life = Life::default();
        script(&mut life, &mut rig);
        for _ in 0..3 {
            rig.pass(Duration::from_secs(5));
            life.drive(&mut rig);
        }
        if disk.faults_left() > 0 {
            let goes_on = goes_on.ok_or_else(|| format!("the script has no {op:?}"))?;
            return Ok((goes_on, after));
        }
        let context = |why| format!("{op:?} {after}: {why}");
        // What nobody waited for, such as a mark.
        life.failed |= rig.log.roll(rig.ignored()).is_err();
        // The last thing that a script asks for is an append.
        let went_on = !life.failed && life.acked == life.asked.len();
        if !life.failed && !went_on {
            return Err(context(format!("{} of {} acked", life.acked, life.asked.len())));
        }
        if goes_on.is_some_and(|goes_on| goes_on != went_on) {
            return Err(context(format!("it went on: {went_on}, unlike the runs before")));
        }
        goes_on = Some(went_on);
        drop(rig);
        disk.crash(&CrashPlan::LoseAll);
        recover_twice(&disk, &tiny(), &Naive::prefixes(&life.asked), life.acked)
            .map_err(context)?;
    }
    unreachable!("a script has an end")
}

#[test]
fn a_disk_that_is_full_anywhere_loses_nothing_that_was_accepted() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        let mut runs = 0;
        for op in [SimOp::Write, SimOp::Create] {
            let (goes_on, places) = every_full(op, kind, Life::appends).expect("holds");
            assert!(goes_on, "{op:?}");
            runs += places;
        }
        for op in [SimOp::Write, SimOp::Create, SimOp::Rename, SimOp::Remove] {
            let (goes_on, places) = every_full(op, kind, Life::turnover).expect("holds");
            assert!(goes_on, "{op:?}");
            runs += places;
        }
        // What a sync did not bring to the disk is nowhere.
        for op in [SimOp::Sync, SimOp::SyncDir] {
            let (goes_on, places) = every_full(op, kind, Life::turnover).expect("holds");
            assert!(!goes_on, "{op:?}");
            runs += places;
        }
        assert!(runs > 60, "{runs}");
    }
}

pub(super) fn with(bug: BuiltinBug) -> LogOptions {
    LogOptions { builtin_bug: Some(bug), ..tiny() }
}

#[test]
fn the_crash_test_catches_planted_bugs() {
    for bug in [BuiltinBug::CallbackBeforeSync, BuiltinBug::OpenWithoutSync] {
        let caught = every_crash(&with(bug), (256, true), Life::appends);
        assert!(caught.is_err(), "{bug:?} went unseen through {caught:?} recoveries");
    }
}

/// Flips every byte of every file of a finished log; the first wrong answer is the error. `undecidable`
/// counts damage that looks like a torn last batch.
fn every_flip(options: &LogOptions, mark: bool) -> Result<Flips, String> {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, options.clone());
    let mut life = Life::default();
    life.appends(&mut rig);
    if mark {
        rig.log.sync_mark(rig.ignored()).expect("marks");
    }
    rig.drive();
    let files = rig.log.files();
    drop(rig);
    disk.crash(&CrashPlan::KeepAll);
    let states = Naive::prefixes(&life.asked);
    let whole = &states[states.len() - 1];
    let mut flips = Flips::default();
    for file in &files {
        for path in [file.path.clone(), file.path.with_extension("pos")] {
            let bytes = if path == file.path { file.bytes } else { u64::MAX };
            for position in 0.. {
                let mask = if position % 16 == 0 { 0xFF } else { 1 << (position % 8) };
                let fork = disk.fork();
                if position as u64 >= bytes || !fork.flip(&path, position, mask) {
                    break;
                }
                flips.tried += 1;
                judge(&fork, options, whole, &mut flips)
                    .map_err(|why| format!("byte {position} of {}: {why}", path.display()))?;
            }
        }
    }
    Ok(flips)
}

#[derive(Debug, Default)]
struct Flips {
    tried: u64,
    rot: u64,
    corrupt: u64,
    undecidable: u64,
}

fn judge(
    disk: &SimDisk,
    options: &LogOptions,
    whole: &Naive,
    flips: &mut Flips,
) -> Result<(), String> {
    let rig = match Rig::open(disk, options.clone()) {
        Ok(rig) => rig,
        Err(OpenError::Rot { .. }) => {
            flips.rot += 1;
            return Ok(());
        }
        Err(error) => return Err(format!("wrong error: {error}")),
    };
    if rig.log.state().last != whole.last {
        if rig.report.torn.is_some() && rig.log.state().last == Some(id(2, 7)) {
            // The last batch is gone, and nothing said that it was synced.
            flips.undecidable += 1;
            return Ok(());
        }
        return Err(format!("silently lost entries: {:?}", rig.log.state()));
    }
    let mut corrupt = false;
    for (index, entry) in &whole.entries {
        match rig.log.read(*index, index + 1, 1) {
            Ok(read) if read == [entry.clone()] => {}
            Err(ReadError::Corrupt { .. }) => corrupt = true,
            read => return Err(format!("entry {index} reads as {read:?}")),
        }
    }
    flips.corrupt += u64::from(corrupt);
    Ok(())
}

#[test]
fn no_flipped_byte_is_served_or_taken_for_a_torn_write() {
    let flips = every_flip(&tiny(), true).expect("told");
    assert!(flips.tried > 4000 && flips.rot > 1000 && flips.corrupt > 1000, "{flips:?}");
    assert_eq!(flips.undecidable, 0, "{flips:?}");
}

#[test]
fn only_the_last_batch_before_its_mark_is_undecidable() {
    let flips = every_flip(&tiny(), false).expect("told");
    let last_batch = 2 * (64 + 28 + 500);
    assert!((1..=last_batch).contains(&flips.undecidable), "{flips:?}");
}

#[test]
fn the_flip_test_catches_rot_taken_for_torn() {
    every_flip(&with(BuiltinBug::RotAsTorn), true).expect_err("the bug goes unseen");
}

/// The worst case for a cut: the same bytes are written again at the same place under another header, and
/// a crash keeps the new body and loses the new header.
fn cut_batch_returns(options: &LogOptions, first: usize, sync_fails: bool) -> Vec<Entry> {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, options.clone());
    // The next batch has its header and its frame's in one page, its body behind.
    rig.append(1, 0..1, first);
    let written = |term: u64, disk: &SimDisk, rig: &mut Rig| {
        let again = Entry { id: id(term, 1), ..entry(1, 1, 1400) };
        rig.log.append(vec![again], rig.ignored()).expect("fits");
        disk.stop_after(Some(disk.operations() + 1));
        rig.drive();
    };
    written(1, &disk, &mut rig);
    let (pages, _) = disk.at_stake();
    assert!(pages > 2);
    // The first page, which holds the header, outlives the crash.
    disk.crash(&CrashPlan::Explicit { pages: 1, names: 0 });
    if sync_fails {
        disk.fail(Fault { op: SimOp::Sync, after: 0, kind: ErrorKind::Other });
        Rig::open(&disk, options.clone()).expect_err("the cut is not durable");
        disk.crash(&CrashPlan::ProcessOnly);
    }
    let mut rig = Rig::new(&disk, options.clone());
    assert_eq!(rig.log.state().last, Some(id(1, 0)));
    assert_eq!(rig.report.torn.is_some(), !sync_fails);
    written(5, &disk, &mut rig);
    disk.crash(&CrashPlan::Explicit { pages: !1, names: 0 });
    let rig = Rig::new(&disk, options.clone());
    rig.log.read(0, 9, usize::MAX).expect("reads")
}

#[test]
fn a_batch_that_was_cut_never_returns() {
    // It begins in the page that the one before ends in, or in the next one.
    for first in [100, 268] {
        for sync_fails in [false, true] {
            let found = cut_batch_returns(&tiny(), first, sync_fails);
            assert_eq!(found, [entry(1, 0, first)], "{sync_fails}");
        }
    }
    let returned = cut_batch_returns(&with(BuiltinBug::KeepTornHeader), 100, false);
    assert_eq!(returned.len(), 2, "the planted bug lets it return");
}
