//! The way of a stream's records from the log to object storage, as replicated state: which ranges
//! are open, closed, planned, committed, mirrored, and the floor that follows from them.

use std::collections::{BTreeMap, VecDeque};

use railgun_types::{Offset, StreamUid, Timestamp};

use crate::manifest::{
    ContentHash, ManifestVersion, ObjectId, ObjectInfo, ObjectKind, SegmentKind,
};

/// Bytes of records and ids at which a range is closed, and most of a bundle.
pub const RANGE_BYTES_MAX: u64 = 64 << 20;
/// Records at which a range is closed, and most records of a bundle. A record costs an object some
/// tens of bytes beside its own, so that one of 64 MiB of the smallest records would pass the
/// 128 MiB that a PUT may have.
pub const RANGE_RECORDS_MAX: u64 = 1 << 20;
/// Waiting record bytes from which a stream gets segments of its own.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 20;
/// Most ranges of a bundle: its footer, its commit and the time to apply that grow with them.
pub const BUNDLE_RANGES_MAX: usize = 2_048;

/// Consecutive records of a stream that are not planned for an object yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotRange {
    /// First offset.
    pub base: Offset,
    /// The offset after the last record.
    pub end: Offset,
    /// Encoded bytes of the records, and those of their ids.
    pub record_bytes: u64,
    /// UTC day of all its records.
    pub day: i64,
    /// Log time of the first record.
    pub since: Timestamp,
    /// Entry of the first record.
    pub first_log_index: u64,
}

impl HotRange {
    /// Its records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.end.0 - self.base.0
    }
}

/// A range with its stream: part of a planned object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRange {
    /// The stream.
    pub stream: StreamUid,
    /// Its records.
    pub range: HotRange,
}

/// An object that a seal asked for. The plan outlives the leader who made it: whoever leads uploads
/// the identical range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedObject {
    /// Term of the seal; part of the key.
    pub term: u64,
    /// UTC day of its records.
    pub day: i64,
    /// Whether it holds records of one stream or of many.
    pub kind: SegmentKind,
    /// What it will hold, ordered by stream and offset.
    pub ranges: Vec<PlannedRange>,
    /// The upload that is under way, or may be.
    pub attempt: Option<Attempt>,
}

/// An upload of a planned object, named in the log before the bucket gets anything of it. Whoever leads
/// goes on with it where the content is the same, and names another one where it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Log index of the entry that named it.
    pub index: u64,
    /// Hash of what it uploads.
    pub hash: ContentHash,
}

impl PlannedObject {
    /// The object as the manifest will hold it, once its content is known.
    #[must_use]
    pub fn info(&self, attempt: Attempt, bytes: u64, footer_bytes: u32) -> ObjectInfo {
        let kind = match (self.kind, self.ranges.first()) {
            (SegmentKind::Segment, Some(only)) => ObjectKind::Segment {
                stream: only.stream,
                base: only.range.base,
                last: Offset(only.range.end.0.saturating_sub(1)),
            },
            _ => ObjectKind::Bundle,
        };
        let live_parts = self.ranges.len() as u32;
        let Attempt { index: attempt, hash } = attempt;
        let (day, term) = (self.day, self.term);
        ObjectInfo { kind, day, term, attempt, hash, bytes, footer_bytes, live_parts }
    }
}

/// Collects the ranges of one seal into objects.
#[derive(Debug)]
pub(super) struct Planner {
    seal_index: u64,
    term: u64,
    segment_bytes_min: u64,
    next_part: u32,
    objects: Vec<(ObjectId, PlannedObject)>,
    /// Bundles by day, the last of each day being filled.
    bundles: BTreeMap<i64, Vec<Bundle>>,
}

/// A bundle that is being filled.
#[derive(Debug)]
struct Bundle {
    object: PlannedObject,
    record_bytes: u64,
    records: u64,
}

impl Bundle {
    fn has_room(&self, range: &HotRange) -> bool {
        self.record_bytes + range.record_bytes <= RANGE_BYTES_MAX
            && self.records + range.records() <= RANGE_RECORDS_MAX
            && self.object.ranges.len() < BUNDLE_RANGES_MAX
    }

    fn push(&mut self, planned: PlannedRange) {
        self.record_bytes += planned.range.record_bytes;
        self.records += planned.range.records();
        self.object.ranges.push(planned);
    }
}

impl Planner {
    pub(super) fn new(seal_index: u64, term: u64, segment_bytes_min: u64) -> Self {
        Self {
            seal_index,
            term,
            segment_bytes_min,
            next_part: 0,
            objects: Vec::new(),
            bundles: BTreeMap::new(),
        }
    }

    /// Places the closed ranges of one stream. Streams come in ascending order.
    pub(super) fn place(&mut self, stream: StreamUid, ranges: Vec<HotRange>) {
        let waiting: u64 = ranges.iter().map(|range| range.record_bytes).sum();
        for range in ranges {
            let (term, day) = (self.term, range.day);
            let planned = PlannedRange { stream, range };
            if waiting >= self.segment_bytes_min {
                let kind = SegmentKind::Segment;
                let ranges = vec![planned];
                self.emit(PlannedObject { term, day, kind, ranges, attempt: None });
                continue;
            }
            let bundles = self.bundles.entry(day).or_default();
            match bundles.last_mut().filter(|bundle| bundle.has_room(&planned.range)) {
                Some(bundle) => bundle.push(planned),
                None => {
                    let kind = SegmentKind::Bundle;
                    let ranges = Vec::new();
                    let object = PlannedObject { term, day, kind, ranges, attempt: None };
                    let mut bundle = Bundle { object, record_bytes: 0, records: 0 };
                    bundle.push(planned);
                    bundles.push(bundle);
                }
            }
        }
    }

    fn emit(&mut self, object: PlannedObject) {
        let id = ObjectId { seal_index: self.seal_index, part: self.next_part };
        self.next_part += 1;
        self.objects.push((id, object));
    }

    /// The objects in the order in which they must be committed: bundles day by day, because a small
    /// stream may have a range in each.
    pub(super) fn finish(mut self) -> Vec<(ObjectId, PlannedObject)> {
        for bundle in std::mem::take(&mut self.bundles).into_values().flatten() {
            self.emit(bundle.object);
        }
        self.objects
    }
}

/// The entries that must stay because a record in them is not safe in the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Floor {
    /// First entries of ranges that are open, closed or planned, with how many begin there.
    pub(super) holds: BTreeMap<u64, u32>,
    /// Ranges committed but not mirrored: (index of the commit, first entry of the range).
    pub(super) unmirrored: VecDeque<(u64, u64)>,
}

impl Floor {
    pub(super) fn hold(&mut self, first_log_index: u64) {
        *self.holds.entry(first_log_index).or_default() += 1;
    }

    pub(super) fn release(&mut self, first_log_index: u64) {
        if let Some(count) = self.holds.get_mut(&first_log_index) {
            *count -= 1;
            if *count == 0 {
                self.holds.remove(&first_log_index);
            }
        }
    }

    /// The range is in the bucket, but its manifest is not.
    pub(super) fn committed(&mut self, commit_index: u64, first_log_index: u64) {
        self.unmirrored.push_back((commit_index, first_log_index));
    }

    pub(super) fn mirrored(&mut self, version: ManifestVersion) {
        while let Some(&(commit, first)) = self.unmirrored.front()
            && commit <= version.log_index
        {
            self.unmirrored.pop_front();
            self.release(first);
        }
    }

    /// The greatest index at and below which nothing is needed, given what is applied. `None`: the
    /// very first entry is needed.
    pub(super) fn index(&self, applied: u64) -> Option<u64> {
        match self.holds.first_key_value() {
            Some((&first, _)) => first.checked_sub(1).map(|below| below.min(applied)),
            None => Some(applied),
        }
    }

    /// Whether anything committed waits for a mirror.
    pub(super) fn awaits_mirror(&self) -> bool {
        !self.unmirrored.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(base: u64, bytes: u64, day: i64) -> HotRange {
        HotRange {
            base: Offset(base),
            end: Offset(base + 1),
            record_bytes: bytes,
            day,
            since: Timestamp(0),
            first_log_index: base,
        }
    }

    fn uid(n: u8) -> StreamUid {
        StreamUid([n; 16])
    }

    #[test]
    fn small_streams_share_bundles_by_day_and_large_ones_get_segments() {
        let mut planner = Planner::new(7, 2, SEGMENT_BYTES_MIN);
        planner.place(uid(1), vec![range(0, 10, 1), range(1, 10, 2)]);
        planner.place(uid(2), vec![range(0, SEGMENT_BYTES_MIN - 1, 1), range(1, 1, 2)]);
        planner.place(uid(3), vec![range(0, 20, 1)]);
        let objects = planner.finish();
        let shape: Vec<_> = objects
            .iter()
            .map(|(id, object)| {
                let streams: Vec<_> = object.ranges.iter().map(|r| r.stream.0[0]).collect();
                (id.seal_index, id.part, object.term, object.day, object.kind, streams)
            })
            .collect();
        assert_eq!(
            shape,
            [
                (7, 0, 2, 1, SegmentKind::Segment, vec![2]),
                (7, 1, 2, 2, SegmentKind::Segment, vec![2]),
                (7, 2, 2, 1, SegmentKind::Bundle, vec![1, 3]),
                (7, 3, 2, 2, SegmentKind::Bundle, vec![1]),
            ]
        );
    }

    #[test]
    fn a_full_bundle_is_followed_by_another() {
        let mut planner = Planner::new(1, 1, SEGMENT_BYTES_MIN);
        for stream in 0..40 {
            planner.place(uid(stream), vec![range(0, SEGMENT_BYTES_MIN - 1, 1)]);
        }
        let sizes: Vec<_> =
            planner.finish().iter().map(|(_, object)| object.ranges.len()).collect();
        assert_eq!(sizes, [16, 16, 8]);
    }

    #[test]
    fn a_bundle_of_tiny_records_is_bounded_by_their_number() {
        let mut planner = Planner::new(1, 1, SEGMENT_BYTES_MIN);
        let half = HotRange { end: Offset(RANGE_RECORDS_MAX / 2), ..range(0, 10, 1) };
        (0..5).for_each(|stream| planner.place(uid(stream), vec![half.clone()]));
        let sizes: Vec<_> =
            planner.finish().iter().map(|(_, object)| object.ranges.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn a_bundle_holds_so_many_streams_and_no_more() {
        let mut planner = Planner::new(1, 1, SEGMENT_BYTES_MIN);
        for stream in 0..5_000_u128 {
            planner.place(StreamUid(stream.to_be_bytes()), vec![range(0, 10, 1)]);
        }
        let sizes: Vec<_> =
            planner.finish().iter().map(|(_, object)| object.ranges.len()).collect();
        assert_eq!(sizes, [BUNDLE_RANGES_MAX, BUNDLE_RANGES_MAX, 5_000 - 2 * BUNDLE_RANGES_MAX]);
    }

    #[test]
    fn a_stream_in_two_days_is_committed_in_order() {
        let mut planner = Planner::new(1, 1, SEGMENT_BYTES_MIN);
        for stream in 0..20 {
            let half = SEGMENT_BYTES_MIN - 2;
            planner.place(uid(stream), vec![range(0, 1, 1), range(1, half, 2)]);
        }
        let days: Vec<_> = planner.finish().iter().map(|(id, o)| (id.part, o.day)).collect();
        assert_eq!(days, [(0, 1), (1, 2), (2, 2)]);
    }

    #[test]
    fn the_floor_waits_for_the_mirror() {
        let mut floor = Floor::default();
        assert_eq!(floor.index(9), Some(9), "nothing held: all that is applied");
        floor.hold(3);
        floor.hold(3);
        floor.hold(5);
        assert_eq!(floor.index(9), Some(2));
        floor.committed(10, 3);
        floor.committed(12, 3);
        assert_eq!(floor.index(12), Some(2), "committed is not mirrored");
        floor.mirrored(ManifestVersion { log_index: 11, term: 1 });
        assert_eq!(floor.index(12), Some(2), "one of two is mirrored");
        floor.mirrored(ManifestVersion { log_index: 12, term: 1 });
        assert_eq!(floor.index(12), Some(4));
        floor.hold(0);
        assert_eq!(floor.index(12), None);
    }
}
