//! Exactly-once append of messages with ids: which ids a shard's streams hold (DD-1 … DD-6). Part of the
//! replicated state: an id is held iff its message was appended, whatever becomes of the message later.

mod id_hash;
mod ids;
mod slice;
mod window;

use std::collections::BTreeMap;

use railgun_types::limits::DEDUP_IDS_PER_SHARD;
use railgun_types::{DedupFull, DedupSpec, StreamUid, Timestamp};

pub(super) use id_hash::IdHash;
pub(super) use ids::HeldId;
pub(super) use slice::{IDS_MAX, Slice, SortedHashes};
pub(super) use window::IdWindow;

use super::Stream;

/// Ids whose time is over take memory for as long as nothing is appended to their stream, but not beyond
/// the end of such a period of log time, in µs.
const SWEEP_US: i64 = 10_000_000;

/// The ID time boxes of a shard's streams, of those that hold or held something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dedup {
    pub(super) windows: BTreeMap<StreamUid, IdWindow>,
    /// Ids of all of them.
    pub(super) held: u64,
}

/// What a stream's ID time box holds, for people who look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupFigures {
    /// Ids held.
    pub ids: u64,
    /// How far back an id is known, in ms of log time: the window, or less where ids were forgotten before
    /// their time (DD-5).
    pub effective_window_ms: u64,
    /// Ids that were forgotten before their time, ever.
    pub evicted: u64,
}

impl Dedup {
    /// Forgets what a stream holds for longer than its settings say.
    pub(super) fn expire(&mut self, stream: StreamUid, now: Timestamp, spec: &DedupSpec) {
        if let Some(window) = self.windows.get_mut(&stream) {
            self.held -= window.expire(now, spec);
        }
    }

    /// The same for all streams, when log time comes into another period.
    pub(super) fn pass(
        &mut self,
        before: Timestamp,
        now: Timestamp,
        streams: &BTreeMap<StreamUid, Stream>,
    ) {
        if before.0.div_euclid(SWEEP_US) == now.0.div_euclid(SWEEP_US) {
            return;
        }
        for (uid, window) in &mut self.windows {
            if let Some(stream) = streams.get(uid) {
                self.held -= window.expire(now, &stream.spec.dedup);
            }
        }
    }

    /// What a stream holds, if its time is not over. What is over must have expired before.
    pub(super) fn window(&self, stream: StreamUid) -> Option<&IdWindow> {
        self.windows.get(&stream)
    }

    /// How many more ids the stream may hold.
    pub(super) fn room(&self, stream: StreamUid, spec: &DedupSpec) -> u64 {
        let own = self.windows.get(&stream).map_or(0, IdWindow::held);
        match spec.full {
            DedupFull::Reject => {
                let of_shard = DEDUP_IDS_PER_SHARD.saturating_sub(self.held);
                spec.max_ids.saturating_sub(own).min(of_shard)
            }
            // It forgets its own, never another stream's.
            DedupFull::EvictOldest if self.held - own < DEDUP_IDS_PER_SHARD => u64::MAX,
            DedupFull::EvictOldest => 0,
        }
    }

    /// Holds the ids of messages that were just appended at one time, for which there is room.
    pub(super) fn hold(&mut self, stream: StreamUid, spec: &DedupSpec, ids: &[HeldId]) {
        if ids.is_empty() {
            return;
        }
        let window = self.windows.entry(stream).or_default();
        let others = self.held - window.held();
        let max = spec.max_ids.min(DEDUP_IDS_PER_SHARD.saturating_sub(others)).max(1);
        let at_a_time = usize::try_from(max).unwrap_or(usize::MAX);
        for ids in ids.chunks(at_a_time) {
            while window.held() + ids.len() as u64 > max && window.evict() {}
            window.extend(ids, spec);
        }
        self.held = others + window.held();
    }

    /// Forgets all ids of a stream.
    pub(super) fn forget(&mut self, stream: StreamUid) {
        if let Some(window) = self.windows.remove(&stream) {
            self.held -= window.held();
        }
    }

    /// See [`BuiltinBug::SliceMissing`](crate::builtin_bug::BuiltinBug::SliceMissing).
    pub(super) fn lose_newest(&mut self) {
        self.windows.values_mut().for_each(IdWindow::lose_newest);
        self.windows.retain(|_, window| window.held() > 0);
        self.held = self.windows.values().map(IdWindow::held).sum();
    }

    /// The least part that is left of a stream's window; 1 where no id was forgotten before its time.
    pub(super) fn least_window(
        &self,
        now: Timestamp,
        streams: &BTreeMap<StreamUid, Stream>,
    ) -> f64 {
        let of_stream = |(uid, window): (&StreamUid, &IdWindow)| {
            let spec = &streams.get(uid)?.spec.dedup;
            Some(window.effective_us(now, spec) as f64 / spec.window_us() as f64)
        };
        let shortened = self.windows.iter().filter(|(_, window)| window.evicted > 0);
        shortened.filter_map(of_stream).filter(|part| part.is_finite()).fold(1.0, f64::min)
    }

    pub(super) fn figures(
        &self,
        stream: StreamUid,
        now: Timestamp,
        spec: &DedupSpec,
    ) -> DedupFigures {
        let unused = IdWindow::default();
        let window = self.windows.get(&stream).unwrap_or(&unused);
        DedupFigures {
            ids: window.held(),
            effective_window_ms: (window.effective_us(now, spec) / 1_000) as u64,
            evicted: window.evicted,
        }
    }
}

#[cfg(test)]
mod tests;
