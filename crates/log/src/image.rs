//! The state of a log without its payloads, as a fold over its records.
//!
//! The same fold runs in three places: on what callers have asked for ([`ShardLog`](crate::ShardLog)),
//! on what is written (the writer, for the next file's header), and on what is found (recovery).

use crate::format::file_header::FileHeader;
use crate::{EntryId, Vote};

/// Entries of one term, from `first` up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TermRun {
    pub(crate) term: u64,
    pub(crate) first: u64,
}

/// Term of each entry, as runs ascending in index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermTable {
    runs: Vec<TermRun>,
}

impl TermTable {
    pub(crate) fn runs(&self) -> &[TermRun] {
        &self.runs
    }

    /// Appends a run as read from a header; none if it does not ascend.
    pub(crate) fn push_run(&mut self, term: u64, first: u64) -> Option<()> {
        if self.runs.last().is_some_and(|run| run.first >= first) {
            return None;
        }
        self.runs.push(TermRun { term, first });
        Some(())
    }

    fn push(&mut self, id: EntryId) {
        if self.runs.last().is_none_or(|run| run.term != id.term) {
            self.runs.push(TermRun { term: id.term, first: id.index });
        }
    }

    /// Term of the entry `index`, which must not be beyond the last.
    fn term(&self, index: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.first <= index);
        Some(self.runs[after.checked_sub(1)?].term)
    }

    /// Forgets the entries from `next` on.
    fn cut(&mut self, next: u64) {
        let kept = self.runs.partition_point(|run| run.first < next);
        self.runs.truncate(kept);
    }

    /// Forgets the entries below `first`.
    fn drop_below(&mut self, first: u64) {
        let after = self.runs.partition_point(|run| run.first <= first);
        if let Some(run) = after.checked_sub(1) {
            self.runs.drain(..run);
            self.runs[0].first = first;
        }
    }
}

/// State of a log without its payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) vote: Option<Vote>,
    /// As saved; may be ahead of what is on disk.
    pub(crate) committed: Option<EntryId>,
    pub(crate) purged: Option<EntryId>,
    /// Index of the next entry; none while the log never held anything: then any index may come first.
    next: Option<u64>,
    terms: TermTable,
}

impl Image {
    pub(crate) fn restore(header: &FileHeader) -> Self {
        let used = header.previous.is_some() || header.purged.is_some() || header.first_index > 0;
        Self {
            vote: header.vote,
            committed: header.committed,
            purged: header.purged,
            next: used.then_some(header.first_index),
            terms: header.terms.clone(),
        }
    }

    pub(crate) fn terms(&self) -> &TermTable {
        &self.terms
    }

    /// Index of the next entry. 0 for a log that never held anything.
    pub(crate) fn next_index(&self) -> u64 {
        self.next.unwrap_or(0)
    }

    /// Index that must come next; none if any may.
    pub(crate) fn expected(&self) -> Option<u64> {
        self.next
    }

    /// First index that is not purged.
    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// The last entry, or the last purged one of an empty log.
    pub(crate) fn last(&self) -> Option<EntryId> {
        self.entry_id(self.next?.checked_sub(1)?)
    }

    /// Id of an entry at or above the last purged one.
    pub(crate) fn entry_id(&self, index: u64) -> Option<EntryId> {
        if self.purged.is_some_and(|purged| purged.index == index) {
            return self.purged;
        }
        if index < self.first_index() || index >= self.next? {
            return None;
        }
        Some(EntryId { term: self.terms.term(index)?, index })
    }

    /// min(saved, last): what may be told to be committed.
    pub(crate) fn committed(&self) -> Option<EntryId> {
        let (saved, last) = (self.committed?, self.last()?);
        Some(if saved.index <= last.index { saved } else { last })
    }

    /// Takes the next entry; gives back the expected index if it is not the next.
    pub(crate) fn append(&mut self, id: EntryId) -> Result<(), u64> {
        if let Some(expected) = self.next.filter(|next| *next != id.index) {
            return Err(expected);
        }
        // The last index there is has no successor, so no entry may have it.
        self.next = Some(id.index.checked_add(1).ok_or(self.next_index())?);
        self.terms.push(id);
        Ok(())
    }

    /// Index after the cut that `kept` asks for: not below what is purged.
    pub(crate) fn cut_at(&self, kept: Option<EntryId>) -> u64 {
        kept.map_or(0, |id| id.index.saturating_add(1)).max(self.first_index())
    }

    /// Cuts the log so that `next` is the next index; nothing happens if it is that short.
    pub(crate) fn truncate(&mut self, next: u64) {
        if self.next.is_some_and(|old| next < old) {
            self.next = Some(next);
            self.terms.cut(next);
        }
    }

    /// Purges up to `upto`. True if that emptied the log.
    pub(crate) fn purge(&mut self, upto: EntryId) -> Purge {
        if self.purged.is_some_and(|purged| upto.index <= purged.index) {
            return Purge::Nothing;
        }
        self.purged = Some(upto);
        let first = upto.index.saturating_add(1);
        if self.next.is_some_and(|next| first < next) {
            self.terms.drop_below(first);
            return Purge::Part;
        }
        let jumped = self.next != Some(first);
        self.next = Some(first);
        self.terms = TermTable::default();
        if jumped { Purge::Jump } else { Purge::Part }
    }
}

/// What a purge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purge {
    /// It was purged already.
    Nothing,
    /// Entries up to the purge point are gone from Raft's view.
    Part,
    /// The log continues behind indices it never held.
    Jump,
}
