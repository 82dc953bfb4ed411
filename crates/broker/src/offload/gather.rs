//! Reads the records of a planned object out of the log and encodes them. Blocking: runs on a pool.

use bytes::Bytes;
use railgun_cold::segment::{
    ChunkPool, EncodeError, EncodeSpec, Encoded, SegmentEncoder, StreamSlice,
};
use railgun_core::command::PartsCursor;
use railgun_core::shard::{InLog, IndexPoint, PlannedRange};
use railgun_log::{Entry, ReadError, ShardLog};
use railgun_types::batch::{BatchError, RecordBatch};
use railgun_types::{Offset, StreamUid};

use crate::shard::PlanPart;

/// Bytes of log entries read at a time, but one entry.
const READ_BYTES: usize = 8 << 20;

/// Why the records of a plan cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum GatherError {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error("the log does not hold offset {offset} of stream {stream} where its index points")]
    Index { stream: StreamUid, offset: Offset },
    #[error("offset {offset} of stream {stream} is damaged: {source}")]
    Damaged { stream: StreamUid, offset: Offset, source: BatchError },
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// One batch of a plan, or a run of its records.
struct Wanted {
    part: usize,
    point: IndexPoint,
}

/// A batch as it was found in the log, without what was left out of it.
struct Found {
    part: usize,
    /// Its first run.
    point: IndexPoint,
    term: u64,
    batch: RecordBatch,
}

/// Encodes the object that `ranges` and `parts`, pairwise, describe, into memory of the pool.
pub(super) fn encode(
    log: &ShardLog,
    spec: EncodeSpec,
    chunks: ChunkPool,
    ranges: &[PlannedRange],
    parts: &[PlanPart],
) -> Result<Encoded, GatherError> {
    let mut encoder = SegmentEncoder::with_chunks(spec, chunks);
    if let ([range], [part]) = (ranges, parts) {
        // One stream: log order is offset order, so records go straight through.
        encoder.begin_stream(range.stream, range.range.base, part.digest)?;
        let wanted = part.points().map(|point| Wanted { part: 0, point }).collect();
        read(log, ranges, wanted, |found| Ok(encoder.push(&slice(&found))?))?;
        return Ok(encoder.finish()?);
    }
    // Many streams: each log entry is read once, then batches are put in order. They are copied, so
    // that a few small ones do not keep whole entries in memory.
    let points = parts
        .iter()
        .enumerate()
        .flat_map(|(part, of)| of.points().map(move |point| Wanted { part, point }));
    let mut wanted: Vec<_> = points.collect();
    wanted.sort_by_key(|wanted| (wanted.point.log_index, wanted.point.position));
    let mut batches = Vec::with_capacity(wanted.len());
    read(log, ranges, wanted, |mut found| {
        let copy = Bytes::copy_from_slice(found.batch.as_bytes());
        found.batch = RecordBatch::open(copy).map_err(|source| damaged(ranges, &found, source))?;
        batches.push(found);
        Ok(())
    })?;
    batches.sort_by_key(|found| (found.part, found.point.base));
    let mut batches = batches.into_iter().peekable();
    for (at, (range, part)) in ranges.iter().zip(parts).enumerate() {
        encoder.begin_stream(range.stream, range.range.base, part.digest)?;
        while let Some(found) = batches.next_if(|found| found.part == at) {
            encoder.push(&slice(&found))?;
        }
    }
    Ok(encoder.finish()?)
}

fn slice(found: &Found) -> StreamSlice<'_> {
    StreamSlice {
        base: found.point.base,
        ts: found.point.ts,
        term: found.term,
        batch: &found.batch,
        records: 0..found.batch.count(),
    }
}

fn damaged(ranges: &[PlannedRange], found: &Found, source: BatchError) -> GatherError {
    let stream = ranges[found.part].stream;
    GatherError::Damaged { stream, offset: found.point.base, source }
}

/// Hands out the batches that `wanted` names, which is in log order. Each is verified, its table by
/// decoding the entry: what goes to the bucket outlives the log.
fn read(
    log: &ShardLog,
    ranges: &[PlannedRange],
    wanted: Vec<Wanted>,
    mut each: impl FnMut(Found) -> Result<(), GatherError>,
) -> Result<(), GatherError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut wanted = wanted.into_iter().peekable();
    while let Some(&Wanted { part, point }) = wanted.peek() {
        let holds = |entries: &[Entry]| {
            let first = entries.first()?.id.index;
            let at = usize::try_from(point.log_index.checked_sub(first)?).ok()?;
            (at < entries.len()).then_some(at)
        };
        let at = match holds(&entries) {
            Some(at) => Some(at),
            None => {
                entries = log.read(point.log_index, point.log_index + 64, READ_BYTES)?;
                holds(&entries)
            }
        };
        let stream = ranges[part].stream;
        let misplaced = || GatherError::Index { stream, offset: point.base };
        let entry = &entries[at.ok_or_else(misplaced)?];
        // One walk through the entry finds all that is wanted of it.
        let mut cursor = PartsCursor::new(entry.payload.parts());
        let here = |wanted: &Wanted| wanted.point.log_index == entry.id.index;
        while let Some(Wanted { part, point }) = wanted.next_if(here) {
            let (stream, offset) = (ranges[part].stream, point.base);
            let mut runs = vec![point];
            while let Some(next) = wanted.next_if(|next| point.is_of_batch_of(&next.point)) {
                runs.push(next.point);
            }
            let found = IndexPoint::find(&runs, &mut cursor, stream);
            let InLog { batch, .. } = found.ok_or(GatherError::Index { stream, offset })?;
            let damaged = |source| GatherError::Damaged { stream, offset, source };
            let batch = batch.verified().map_err(damaged)?;
            each(Found { part, point, term: entry.id.term, batch })?;
        }
    }
    Ok(())
}
