//! Random sequences of everything a caller can do, beside the naive log.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::naive::{Asked, Naive};
use super::rig::{Rig, entry};
use crate::{CrashPlan, EntryId, LogOptions, SimDisk, SimDiskOptions, Vote};

#[derive(Clone, Debug)]
enum Act {
    /// This many entries of about this length, in one call.
    Append(u8, u16),
    /// Keep this share (of 256) of what is not purged; the term goes up.
    Truncate(u8),
    Vote(u8),
    /// Purge this share of what there is.
    Purge(u8),
    /// Purge this far beyond the end.
    Jump(u8),
    Retire,
    Roll,
    Mark,
    Step,
    Drive,
    Reopen,
    /// The process ends with work queued.
    Kill,
    /// Removes a position index, if there is one.
    ForgetPositions(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..6_u8, 0..900_u16).prop_map(|(count, bytes)| Act::Append(count, bytes)),
        2 => any::<u8>().prop_map(Act::Truncate),
        1 => any::<u8>().prop_map(Act::Vote),
        2 => any::<u8>().prop_map(Act::Purge),
        1 => (0..9_u8).prop_map(Act::Jump),
        2 => Just(Act::Retire),
        1 => Just(Act::Roll),
        1 => Just(Act::Mark),
        3 => Just(Act::Step),
        3 => Just(Act::Drive),
        1 => Just(Act::Reopen),
        1 => Just(Act::Kill),
        1 => any::<u8>().prop_map(Act::ForgetPositions),
    ]
}

fn share(range: Range<u64>, of_256: u8) -> u64 {
    range.start + (range.end - range.start) * u64::from(of_256) / 256
}

/// The log beside its model.
struct Pair {
    rig: Rig,
    options: LogOptions,
    naive: Naive,
    term: u64,
    /// What was asked since all was durable, and the state then.
    asked: Vec<Asked>,
    settled: Naive,
}

impl Pair {
    fn ask(&mut self, asked: Asked) {
        self.naive.apply(&asked);
        self.asked.push(asked);
    }

    fn drive(&mut self) {
        self.rig.drive();
        self.settled = self.naive.clone();
        self.asked.clear();
    }

    fn run(&mut self, act: Act) -> Result<(), String> {
        let first = self.naive.purged.map_or(0, |purged| purged.index + 1);
        let next = self.naive.next();
        match act {
            Act::Append(count, bytes) => {
                let entries: Vec<_> = (0..u64::from(count))
                    .map(|n| entry(self.term, next + n, usize::from(bytes) + n as usize))
                    .collect();
                self.rig
                    .log
                    .append(entries.clone(), self.rig.ignored())
                    .map_err(|e| e.to_string())?;
                entries.into_iter().for_each(|entry| self.ask(Asked::Append(entry)));
            }
            Act::Truncate(of_256) => {
                let cut = share(first..next, of_256);
                let kept = cut.checked_sub(1).map(|last| self.id(last));
                self.rig.log.truncate_after(kept).map_err(|e| e.to_string())?;
                self.ask(Asked::Truncate(kept));
                self.term += 1;
            }
            Act::Vote(node) => {
                let vote = Vote { term: self.term, node: node.into(), committed: node % 2 == 0 };
                self.rig.log.save_vote(vote, self.rig.ignored()).map_err(|e| e.to_string())?;
                self.ask(Asked::Vote(vote));
            }
            Act::Purge(of_256) if next > first => {
                let upto = self.id(share(first..next, of_256));
                self.rig.log.purge(upto).map_err(|e| e.to_string())?;
                self.ask(Asked::Purge(upto));
            }
            Act::Purge(_) => {}
            Act::Jump(by) => {
                let upto = EntryId::new(self.term, next + u64::from(by));
                self.rig.log.purge(upto).map_err(|e| e.to_string())?;
                self.ask(Asked::Purge(upto));
            }
            Act::Retire => {
                self.rig.log.retire(u64::MAX, self.rig.ignored()).map_err(|e| e.to_string())?;
            }
            Act::Roll => self.rig.log.roll(self.rig.ignored()).map_err(|e| e.to_string())?,
            Act::Mark => self.rig.log.sync_mark(self.rig.ignored()).map_err(|e| e.to_string())?,
            Act::Step => {
                self.rig.writer.step(self.rig.now);
            }
            Act::Drive => self.drive(),
            Act::Reopen => {
                self.drive();
                self.reopen()?;
                self.naive.agrees(&self.rig.log)?;
            }
            Act::Kill => {
                self.rig.disk.crash(&CrashPlan::ProcessOnly);
                self.reopen()?;
                self.recover()?;
            }
            Act::ForgetPositions(which) => {
                let files = self.rig.log.files();
                let file = &files[usize::from(which) % files.len()];
                let _ = crate::Disk::remove(&self.rig.disk, &file.path.with_extension("pos"));
            }
        }
        self.naive.agrees(&self.rig.log)
    }

    fn id(&self, index: u64) -> EntryId {
        let entry = self.naive.entries.get(&index).map(|entry| entry.id);
        entry.or(self.naive.purged).expect("an index of the log, or the purge point")
    }

    fn reopen(&mut self) -> Result<(), String> {
        let disk = self.rig.disk.clone();
        // The old writer gives back the disk's lock before the new one asks for it.
        self.rig = {
            let placeholder = Rig::new(&SimDisk::default(), self.options.clone());
            drop(std::mem::replace(&mut self.rig, placeholder));
            Rig::open(&disk, self.options.clone()).map_err(|error| error.to_string())?
        };
        Ok(())
    }

    /// Goes on from the state that the log was recovered to: some prefix of what was asked.
    fn recover(&mut self) -> Result<(), String> {
        let mut state = self.settled.clone();
        let mut found = None;
        let mut why = String::new();
        for asked in [None].into_iter().chain(self.asked.iter().map(Some)) {
            if let Some(asked) = asked {
                state.apply(asked);
            }
            match state.agrees(&self.rig.log) {
                Ok(()) => found = Some(state.clone()),
                Err(differs) => why = differs,
            }
        }
        self.naive = found.ok_or(why)?;
        self.settled = self.naive.clone();
        self.asked.clear();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_the_naive_one_does(
        acts in vec(act(), 1..60),
        ring_bytes in prop_oneof![Just(0_usize), Just(3000), Just(1 << 20)],
        write_bytes_max in prop_oneof![Just(1_usize), Just(2000), Just(1 << 20)],
        pieces in prop_oneof![Just(usize::MAX), Just(300)],
    ) {
        let disk = SimDisk::new(SimDiskOptions { write_bytes_max: pieces, ..SimDiskOptions::default() });
        let options =
            LogOptions { file_bytes: 4096, ring_bytes, write_bytes_max, ..LogOptions::default() };
        let rig = Rig::new(&disk, options.clone());
        let (naive, settled) = (Naive::default(), Naive::default());
        let mut pair = Pair { rig, options, naive, term: 1, asked: Vec::new(), settled };
        for (at, act) in acts.into_iter().enumerate() {
            let shown = format!("{act:?}");
            // Applied is what was purged: the ring must hold the rest, so half of the reads go to files.
            if let Some(purged) = pair.naive.purged {
                pair.rig.log.set_applied(purged.index);
            }
            if at % 2 == 0 {
                pair.rig.log.set_applied(pair.naive.next());
            }
            pair.run(act).map_err(|why| TestCaseError::fail(format!("act {at}, {shown}: {why}")))?;
        }
        pair.drive();
        pair.reopen().map_err(TestCaseError::fail)?;
        pair.naive.agrees(&pair.rig.log).map_err(TestCaseError::fail)?;
    }
}
