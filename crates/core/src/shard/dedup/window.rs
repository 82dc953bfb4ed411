//! The ID time box of one stream.

use std::collections::VecDeque;
use std::sync::Arc;

use railgun_types::{DedupSpec, Offset, Timestamp};

use super::ids::HeldId;
use super::slice::{IDS_MAX, Slice, SortedHashes};

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
        self.slices.front().map(|slice| slice.ids().get(self.forgotten))
    }

    /// The messages that some of these ids came with, each with the index of its hash, in their order.
    pub(in crate::shard) fn find_all(&self, wanted: &SortedHashes) -> Vec<(usize, HeldId)> {
        let (mut held, mut possible) = (Vec::new(), Vec::new());
        // What came last counts.
        for (place, slice) in self.slices.iter().enumerate().rev() {
            slice.find_all(wanted, &mut possible, |index, at| {
                if place > 0 || at >= self.forgotten {
                    held.push((index, *slice.ids().get(at)));
                }
            });
        }
        held.sort_by_key(|(index, _)| *index);
        held.dedup_by_key(|(index, _)| *index);
        held
    }

    /// Holds ids of messages that were just appended at one time. None is held under their hashes.
    pub(super) fn extend(&mut self, mut ids: &[HeldId], spec: &DedupSpec) {
        self.held += ids.len() as u64;
        while let Some(HeldId { ts, .. }) = ids.first() {
            let fits = |slice: &Slice| {
                let span = slice.ids().first().map_or(0, |first| ts.since_us(first.ts));
                slice.ids().len() < IDS_MAX && span <= spec.window_us() / SLICES_PER_WINDOW
            };
            if !self.slices.back().is_some_and(|open| fits(open)) {
                self.open_next(*ts);
            }
            let Some(open) = self.slices.back_mut() else { return };
            let room = IDS_MAX - open.ids().len();
            let (now, later) = ids.split_at(room.min(ids.len()));
            Arc::make_mut(open).extend(now);
            ids = later;
        }
    }

    /// Closes the last slice, if there is one, and begins another.
    fn open_next(&mut self, now: Timestamp) {
        let mut next = Slice::default();
        if let Some(last) = self.slices.back_mut() {
            // Where ids are that many, it is not the last one to be full.
            if last.ids().len() == IDS_MAX {
                next = Slice::with_room(now);
            }
            Arc::make_mut(last).close();
        }
        self.slices.push_back(Arc::new(next));
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
        let ids = || self.slices.iter().flat_map(|slice| slice.ids().iter());
        let first = self.slices.front().map_or(1, |slice| slice.ids().len());
        ids().is_sorted_by(|a, b| a.offset < b.offset && a.ts <= b.ts)
            && ids().last().is_none_or(|last| last.offset < next && last.ts <= now)
            && self.slices.iter().all(|slice| !slice.ids().is_empty())
            && self.forgotten < first
    }
}
