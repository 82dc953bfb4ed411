//! The newest entries of a log, in memory.

use std::collections::VecDeque;

use crate::Entry;

/// Contiguous newest entries. Holds every entry that is not yet durable and applied, and beyond them
/// as many as fit the byte bound.
#[derive(Debug)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

/// What an entry costs in memory beside its payload.
const ENTRY_BYTES: usize = size_of::<Entry>();

fn cost(entry: &Entry) -> usize {
    entry.payload.len() + ENTRY_BYTES
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Index of the oldest entry held.
    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.id.index)
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
    }

    /// Forgets the entries from `next` on.
    pub(crate) fn truncate(&mut self, next: u64) {
        while self.entries.back().is_some_and(|entry| entry.id.index >= next) {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, cost);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Brings the ring down to its byte bound, giving up only entries up to `settled`, which are
    /// durable and applied.
    pub(crate) fn evict(&mut self, settled: Option<u64>) {
        let Some(settled) = settled else { return };
        let settles = |entry: &Entry| entry.id.index <= settled;
        while self.bytes > self.bytes_max && self.entries.front().is_some_and(settles) {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, cost);
        }
    }

    /// Entries `[start, end)` that are held, up to `bytes_max` of payload but at least one. None if
    /// `start` is not held.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.first()?;
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        if skip >= self.entries.len() {
            return None;
        }
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let before = bytes;
            bytes += entry.payload.len();
            entry.id.index < end && (before == 0 && entry.id.index == start || bytes <= bytes_max)
        };
        Some(self.entries.iter().skip(skip).take_while(fits).cloned().collect())
    }
}
