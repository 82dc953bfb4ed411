//! The ID time box of one stream.

use std::collections::VecDeque;
use std::sync::Arc;

use railgun_types::{DedupSpec, Offset, Timestamp};

use super::IdHash;
use super::slice::{HeldId, IDS_MAX, Slice};

/// A slice spans this part of the window, at most: so much longer than their time ids may take memory.
const SLICES_PER_WINDOW: i64 = 8;

/// The ids that a stream holds, in the order in which their messages were appended.
///
/// Slices but the last never change, and clones share them. Where one ends is not seen: ids are forgotten
/// one by one, by the oldest slice's first ones not counting any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::shard) struct IdWindow {
    pub(in crate::shard) slices: VecDeque<Arc<Slice>>,
    /// Ids at the beginning of the first slice that are forgotten; never all of them.
    pub(in crate::shard) forgotten: usize,
    /// Ids that count.
    held: u64,
    /// Ids that were forgotten before their time, to make room (DD-5).
    pub(in crate::shard) evicted: u64,
    /// Log time of the last of them.
    pub(in crate::shard) evicted_ts: Option<Timestamp>,
}

impl IdWindow {
    /// A window as it was, of which `is_valid` says whether it can be.
    pub(in crate::shard) fn restored(
        slices: VecDeque<Arc<Slice>>,
        forgotten: usize,
        evicted: u64,
        evicted_ts: Option<Timestamp>,
    ) -> Self {
        let ids: usize = slices.iter().map(|slice| slice.ids().len()).sum();
        let held = ids.saturating_sub(forgotten) as u64;
        Self { slices, forgotten, held, evicted, evicted_ts }
    }

    /// Ids that count.
    pub(in crate::shard) fn held(&self) -> u64 {
        self.held
    }

    fn oldest(&self) -> Option<&HeldId> {
        self.slices.front().map(|slice| &slice.ids()[self.forgotten])
    }

    /// The message that each of these ids came with.
    pub(in crate::shard) fn find_all(&self, hashes: &[Option<IdHash>]) -> Vec<Option<HeldId>> {
        let mut held = vec![None; hashes.len()];
        let mut entries = Vec::with_capacity(hashes.len());
        for (place, slice) in self.slices.iter().enumerate() {
            slice.find_all(hashes, &mut entries, |index, at| {
                // What came last counts.
                if place > 0 || at >= self.forgotten {
                    held[index] = Some(slice.ids()[at]);
                }
            });
        }
        held
    }

    /// Holds the id of a message that was just appended. None is held under its hash.
    pub(super) fn push(&mut self, id: HeldId, spec: &DedupSpec) {
        self.held += 1;
        let fits = |slice: &Slice| {
            let span = slice.ids().first().map_or(0, |first| id.ts.since_us(first.ts));
            slice.ids().len() < IDS_MAX && span <= spec.window_us() / SLICES_PER_WINDOW
        };
        match self.slices.back_mut() {
            Some(open) if fits(open) => Arc::make_mut(open).push(id),
            full => {
                if let Some(full) = full {
                    Arc::make_mut(full).close();
                }
                let mut open = Slice::default();
                open.push(id);
                self.slices.push_back(Arc::new(open));
            }
        }
    }

    /// Forgets the ids whose time is over, and says how many (DD-1).
    pub(super) fn expire(&mut self, now: Timestamp, spec: &DedupSpec) -> u64 {
        let mut expired = 0;
        while self.oldest().is_some_and(|id| now.since_us(id.ts) > spec.window_us()) {
            self.forget_oldest();
            expired += 1;
        }
        expired
    }

    /// Forgets the oldest id before its time; `false`: none is held.
    pub(super) fn evict(&mut self) -> bool {
        let Some(ts) = self.oldest().map(|id| id.ts) else { return false };
        self.evicted += 1;
        self.evicted_ts = Some(ts);
        self.forget_oldest();
        true
    }

    fn forget_oldest(&mut self) {
        self.held -= 1;
        self.forgotten += 1;
        if self.slices.front().is_some_and(|slice| slice.ids().len() == self.forgotten) {
            self.slices.pop_front();
            self.forgotten = 0;
        }
    }

    /// See [`BuiltinBug::SliceMissing`](crate::builtin_bug::BuiltinBug::SliceMissing).
    pub(super) fn lose_newest(&mut self) {
        self.slices.pop_back();
        let forgotten = if self.slices.is_empty() { 0 } else { self.forgotten };
        let slices = std::mem::take(&mut self.slices);
        *self = Self::restored(slices, forgotten, self.evicted, self.evicted_ts);
    }

    /// How far back an id is known, in µs of log time: less than the window where some were forgotten
    /// before their time.
    pub(super) fn effective_us(&self, now: Timestamp, spec: &DedupSpec) -> i64 {
        let known = self.evicted_ts.map_or(i64::MAX, |ts| now.since_us(ts));
        known.clamp(0, spec.window_us())
    }

    /// Whether all that was read is in order, and of a stream that ends at `next`.
    pub(in crate::shard) fn is_valid(&self, next: Offset, now: Timestamp) -> bool {
        let ids = || self.slices.iter().flat_map(|slice| slice.ids());
        let first = self.slices.front().map_or(1, |slice| slice.ids().len());
        ids().is_sorted_by(|a, b| a.offset < b.offset && a.ts <= b.ts)
            && ids().last().is_none_or(|last| last.offset < next && last.ts <= now)
            && self.slices.iter().all(|slice| !slice.ids().is_empty())
            && self.forgotten < first
    }
}
