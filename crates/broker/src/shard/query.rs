//! What readers, administrators and the offloader ask of a shard, and how its state answers.

use std::collections::BTreeSet;
use std::ops::Range;

use railgun_cold::reader::ColdPart;
use railgun_core::manifest::{Digest, ObjectId, ObjectKind, StreamManifest};
use railgun_core::shard::{
    DedupFigures, HotIndex, IndexPoint, PlannedObject, PlannedRange, ShardState, Waiting,
};
use railgun_types::{Offset, StartPosition, StreamName, StreamSpec, StreamUid, Timestamp};

/// Batches of one answer, at most.
const POINTS_MAX: usize = 512;
/// Log entries that one answer points into, at most: bounds what a reader holds.
const ENTRIES_MAX: usize = 8;

/// Asks for records of a stream from an offset on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadQuery {
    pub(crate) stream: StreamUid,
    pub(crate) from: Offset,
    /// Answer only when there is a record at `from`, or never will be.
    pub(crate) wait: bool,
    /// What the log has is of no use.
    pub(crate) only_cold: bool,
}

/// Where the records are.
#[derive(Debug)]
pub(crate) enum Located {
    /// In the log, in this order; the first one holds the offset asked for.
    Hot(Vec<IndexPoint>),
    /// In the bucket.
    Cold(Box<ColdPart>),
    /// Not published yet.
    End,
    /// The stream is deleted or was never here.
    Deleted,
    /// Neither tier holds the record: a broken invariant, never expected.
    Missing,
}

/// Where a reader begins.
#[derive(Clone, Debug)]
pub(crate) enum StartResolved {
    At {
        start: Offset,
        next: Offset,
    },
    /// In a cold range; the exact offset needs a look into the object.
    ColdTime {
        part: Box<ColdPart>,
        ts: Timestamp,
        next: Offset,
    },
    Deleted,
}

/// What there is to tell about a stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamFacts {
    pub(crate) name: StreamName,
    pub(crate) spec: StreamSpec,
    pub(crate) revision: u64,
    pub(crate) created: Timestamp,
    pub(crate) next: Offset,
    pub(crate) last_ts: Timestamp,
    pub(crate) record_bytes: u64,
    pub(crate) cold_end: Offset,
    /// Bytes of records and ids not in the bucket yet, and log time of the first record of them.
    pub(crate) pending_bytes: u64,
    pub(crate) pending_since: Option<Timestamp>,
    pub(crate) cold_ranges: u64,
    pub(crate) offload_error: Option<String>,
    pub(crate) dedup: DedupFigures,
}

/// One range of a stream in the bucket.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFacts {
    pub(crate) part: ColdPart,
    /// Whether its object holds other streams too.
    pub(crate) bundle: bool,
}

/// Some of a stream's ranges in the bucket, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct SegmentPage {
    pub(crate) segments: Vec<SegmentFacts>,
    /// Whether there are others behind the last one.
    pub(crate) more: bool,
}

/// How far the way into the bucket is gone. Cheap: asked for again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OffloadStatus {
    /// This replica leads the shard and may propose.
    pub(crate) serving: bool,
    pub(crate) waiting: Waiting,
    /// Log time of the oldest record that no seal has planned yet.
    pub(crate) oldest_unsealed: Option<Timestamp>,
    /// Objects are planned that are not committed.
    pub(crate) has_plans: bool,
    /// Committed objects wait for a manifest file, and the floor with them: write it soon.
    pub(crate) awaits_mirror: bool,
    /// Everything at and below this log index is in the bucket.
    pub(crate) floor: Option<u64>,
    /// Nobody may publish on account of what is in the bucket already: the log can give none of it up
    /// before the floor has come to a checkpoint.
    pub(crate) keeps_too_much: bool,
}

/// What uploads that are over may have left in the bucket.
#[derive(Debug)]
pub(crate) struct Orphans {
    /// This replica leads the shard and may propose.
    pub(crate) serving: bool,
    /// The attempts that they are of.
    pub(crate) attempts: BTreeSet<u64>,
}

/// The first planned object that is not committed, with what its upload needs.
#[derive(Debug)]
pub(crate) struct NextPlan {
    pub(crate) id: ObjectId,
    pub(crate) plan: PlannedObject,
    /// One for each of its ranges, but those of streams that were deleted a moment ago.
    pub(crate) parts: Vec<PlanPart>,
}

/// One range of a planned object.
#[derive(Debug)]
pub(crate) struct PlanPart {
    pub(crate) name: StreamName,
    /// The stream's digest before the range.
    pub(crate) digest: Digest,
    range: Range<Offset>,
    /// As the stream has them: a range may have a million batches, which whoever uploads it decodes,
    /// and not the owner of the state.
    index: HotIndex,
}

impl PlanPart {
    /// Where the batches of the range are in the log.
    pub(crate) fn points(&self) -> impl Iterator<Item = IndexPoint> {
        let end = self.range.end;
        self.index.from(self.range.start).take_while(move |point| point.base < end)
    }
}

/// `None`: there is nothing yet, and the query wants to wait.
pub(super) fn locate(state: &ShardState, query: ReadQuery) -> Option<Located> {
    let Some(stream) = state.stream(query.stream) else { return Some(Located::Deleted) };
    let next = stream.next_offset();
    if query.from >= next {
        return if query.wait { None } else { Some(Located::End) };
    }
    let mut points: Vec<IndexPoint> = Vec::new();
    let mut entries = 0;
    let most = if query.only_cold { 0 } else { POINTS_MAX };
    for point in stream.index().from(query.from).take(most) {
        if points.last().is_none_or(|last| last.log_index != point.log_index) {
            entries += 1;
            if entries > ENTRIES_MAX {
                break;
            }
        }
        points.push(point);
    }
    if !points.is_empty() {
        return Some(Located::Hot(points));
    }
    // Neither in the log nor in the manifest: impossible while I1 and I2 hold, unless the log does not count.
    let part = ColdPart::locate(state.manifest(), query.stream, query.from);
    Some(part.map_or(Located::Missing, |part| Located::Cold(Box::new(part))))
}

/// `None`: between the tiers lie records of which it is not known here yet that they are in the bucket
/// (`is_early`), and one of these may be the first of the time that is wanted.
pub(super) fn resolve_start(
    state: &ShardState,
    uid: StreamUid,
    start: StartPosition,
    is_early: bool,
) -> Option<StartResolved> {
    let Some(stream) = state.stream(uid) else { return Some(StartResolved::Deleted) };
    let next = stream.next_offset();
    let at = |start| StartResolved::At { start, next };
    Some(match start {
        StartPosition::Earliest => at(Offset(0)),
        StartPosition::Latest => at(next),
        StartPosition::Offset(offset) => at(offset),
        StartPosition::Last(count) => at(Offset(next.0.saturating_sub(count))),
        StartPosition::Time(ts) => {
            let hot_from = stream.index().first();
            let manifest = state.manifest();
            let told = manifest.streams.get(&uid);
            let cold_end = told.map_or(Offset(0), StreamManifest::end);
            let cold = told
                .and_then(|cold| cold.range_at_time(ts))
                .filter(|range| hot_from.is_none_or(|hot| range.base < hot))
                .and_then(|range| ColdPart::new(manifest, uid, range));
            match cold {
                Some(part) => StartResolved::ColdTime { part: Box::new(part), ts, next },
                None if is_early && cold_end < hot_from.unwrap_or(next) => return None,
                None => at(stream.index().at_time(ts).unwrap_or(next)),
            }
        }
    })
}

pub(super) fn unused(state: &ShardState) -> Vec<(StreamName, StreamUid)> {
    // A companion has no name in the catalog, nor a creator that could have lost it.
    let unused = state
        .streams()
        .filter(|(_, stream)| stream.next_offset() == Offset(0) && stream.parent().is_none());
    unused.map(|(uid, stream)| (stream.name().clone(), uid)).collect()
}

pub(super) fn describe(state: &ShardState, uid: StreamUid) -> Option<StreamFacts> {
    let stream = state.stream(uid)?;
    let manifest = state.manifest().streams.get(&uid)?;
    let planned = state.plans().values().flat_map(|plan| &plan.ranges);
    let planned = planned.filter(|range| range.stream == uid).map(|planned| &planned.range);
    let pending: Vec<_> = planned.chain(stream.closed()).chain(stream.open()).collect();
    Some(StreamFacts {
        name: stream.name().clone(),
        spec: stream.spec().clone(),
        revision: stream.revision(),
        created: stream.created(),
        next: stream.next_offset(),
        last_ts: stream.last_ts(),
        record_bytes: stream.record_bytes(),
        cold_end: manifest.end(),
        pending_bytes: pending.iter().map(|range| range.record_bytes).sum(),
        pending_since: pending.iter().map(|range| range.since).min(),
        cold_ranges: manifest.ranges.len() as u64,
        offload_error: None,
        dedup: state.dedup_figures(uid),
    })
}

/// Up to `limit` ranges, beginning with the one that holds `from` or the first one behind it.
pub(super) fn segments(
    state: &ShardState,
    uid: StreamUid,
    from: Offset,
    limit: usize,
) -> Option<SegmentPage> {
    state.stream(uid)?;
    let manifest = state.manifest();
    let facts = |range| {
        let part = ColdPart::new(manifest, uid, range)?;
        let kind = &manifest.objects.get(&range.object)?.kind;
        Some(SegmentFacts { part, bundle: matches!(kind, ObjectKind::Bundle) })
    };
    let ranges = &manifest.streams.get(&uid)?.ranges;
    let ranges = &ranges[ranges.partition_point(|range| range.end() <= from)..];
    let page = &ranges[..ranges.len().min(limit)];
    let more = page.len() < ranges.len();
    Some(SegmentPage { segments: page.iter().filter_map(facts).collect(), more })
}

pub(super) fn offload_status(
    state: &ShardState,
    serving: bool,
    keeps_too_much: bool,
) -> OffloadStatus {
    OffloadStatus {
        serving,
        waiting: state.waiting(),
        oldest_unsealed: state.oldest_unsealed(),
        has_plans: !state.plans().is_empty(),
        awaits_mirror: state.awaits_mirror(),
        floor: state.floor(),
        keeps_too_much,
    }
}

pub(super) fn next_plan(state: &ShardState) -> Option<NextPlan> {
    let (id, plan) = state.plans().first_key_value()?;
    let part = |planned: &PlannedRange| {
        let stream = state.stream(planned.stream)?;
        let digest = state.manifest().streams.get(&planned.stream)?.digest;
        let range = planned.range.base..planned.range.end;
        let index = stream.index().around(range.clone());
        Some(PlanPart { name: stream.name().clone(), digest, range, index })
    };
    let parts = plan.ranges.iter().filter_map(part).collect();
    Some(NextPlan { id: *id, plan: plan.clone(), parts })
}
