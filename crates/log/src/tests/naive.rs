//! What a log must hold, kept in the plainest way, and the check of a recovered log against it.

use std::collections::BTreeMap;

use super::rig::Rig;
use crate::{Entry, EntryId, OpenError, ReadError, ShardLog, Vote};

/// A change asked for, in the order of asking.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    Append(Entry),
    Vote(Vote),
    Truncate(Option<EntryId>),
    Purge(EntryId),
}

/// A log without a disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Naive {
    /// Every entry that is part of the log, those below the purge point included.
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<EntryId>,
    pub(super) last: Option<EntryId>,
}

impl Naive {
    pub(super) fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    pub(super) fn apply(&mut self, asked: &Asked) {
        match asked {
            Asked::Append(entry) => {
                self.last = Some(entry.id);
                self.entries.insert(entry.id.index, entry.clone());
            }
            Asked::Vote(vote) => self.vote = Some(*vote),
            Asked::Truncate(kept) => {
                let next = kept.map_or(0, |kept| kept.index + 1);
                let next = next.max(self.purged.map_or(0, |purged| purged.index + 1));
                if next < self.next() {
                    self.entries.split_off(&next);
                    let last = next.checked_sub(1).and_then(|last| self.entries.get(&last));
                    self.last = last.map(|entry| entry.id).or(self.purged);
                }
            }
            Asked::Purge(upto) => {
                if self.purged.is_none_or(|purged| upto.index > purged.index) {
                    self.purged = Some(*upto);
                    if upto.index >= self.next() {
                        self.last = Some(*upto);
                        if !self.entries.contains_key(&upto.index) {
                            self.entries.clear();
                        }
                    } else if self.next() == upto.index + 1 {
                        self.last = Some(*upto);
                    }
                }
            }
        }
    }

    /// State after each prefix of `asked`: `states[n]` after n changes.
    pub(super) fn prefixes(asked: &[Asked]) -> Vec<Self> {
        let mut states = vec![Self::default()];
        for change in asked {
            let mut next = states[states.len() - 1].clone();
            next.apply(change);
            states.push(next);
        }
        states
    }

    /// Whether the log says the same as this, in everything but `committed` and the disk's own matters.
    pub(super) fn agrees(&self, log: &ShardLog) -> Result<(), String> {
        let state = log.state();
        if (state.vote, state.last_purged, state.last) != (self.vote, self.purged, self.last) {
            return Err(format!("state is {state:?}"));
        }
        if state.committed > state.last {
            return Err(format!("committed beyond the end: {state:?}"));
        }
        let above = self.purged.map_or(0, |purged| purged.index + 1);
        for (index, entry) in &self.entries {
            match log.read(*index, index + 1, 1) {
                Ok(read) if read == [entry.clone()] => {}
                Err(ReadError::Retired { first }) if *index < above && *index < first => {}
                read => return Err(format!("entry {index} reads as {read:?}")),
            }
            if *index >= above && log.entry_id(*index) != Some(entry.id) {
                return Err(format!("entry {index} has the id {:?}", log.entry_id(*index)));
            }
        }
        // All at once, over the borders of files and of the ring.
        let all: Vec<Entry> = self.entries.range(above..).map(|(_, entry)| entry.clone()).collect();
        match log.read(
            above.max(all.first().map_or(0, |first| first.id.index)),
            u64::MAX,
            usize::MAX,
        ) {
            Ok(read) if all.starts_with(&read) && read.is_empty() == all.is_empty() => Ok(()),
            read => Err(format!("all entries read as {read:?}")),
        }
    }
}

/// After a crash the log must be what it was after some prefix of what was asked, at least the first
/// `acked` changes. Gives the length of that prefix.
pub(super) fn recovered_prefix(
    states: &[Naive],
    acked: usize,
    opened: &Result<Rig, OpenError>,
) -> Result<usize, String> {
    let rig = match opened {
        Ok(rig) => rig,
        Err(error) => return Err(format!("does not open: {error}")),
    };
    let mut why = String::new();
    for (length, state) in states.iter().enumerate().skip(acked).rev() {
        match state.agrees(&rig.log) {
            Ok(()) => return Ok(length),
            Err(differs) => why = differs,
        }
    }
    Err(format!("it is no prefix with the {acked} acknowledged changes: {why}"))
}
