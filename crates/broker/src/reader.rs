//! Reads the records of a stream in order, wherever they are: ring, log file, bucket. No caller can
//! tell which, but by the `source` it may show (DESIGN §4.9).

use std::sync::Arc;

use railgun_cold::reader::{ColdBatch, ColdBatches, ColdReadError, ColdReader};
use railgun_core::command::PartsCursor;
use railgun_core::shard::IndexPoint;
use railgun_log::{Entry, ReadError as LogReadError};
use railgun_raft::{BlockingPool, PoolStopped, run_on};
use railgun_types::batch::RecordBatch;
use railgun_types::{Offset, ShardId, StreamUid, Timestamp};

use crate::replica::NodeStopping;
use crate::shard::{Located, ReadQuery, ShardHandle};

/// Bytes of log entries that one step reads from files, at most, but one entry.
const HOT_BYTES: usize = 2 << 20;
/// Bytes of batches that one step decodes from an object, at most, but one batch.
const COLD_BYTES: usize = 1 << 20;
/// Records that are less than this part of the memory they were read with are copied out of it: they
/// may wait for a slow consumer, and what lies around them need not.
const PINNED_MAX: usize = 4;

/// Where records came from, for people who look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The memory of recent entries.
    Ring,
    /// A log file.
    Hot,
    /// The bucket.
    Cold,
}

/// Records of one batch.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// Offset of the batch's first record.
    pub(crate) base: Offset,
    /// Records at its beginning that were not asked for.
    pub(crate) skip: u32,
    /// Records after those that are.
    pub(crate) count: u32,
    pub(crate) ts: Timestamp,
    pub(crate) source: Source,
    pub(crate) batch: RecordBatch,
}

impl Delivery {
    /// The offset after the last record delivered.
    pub(crate) fn end(&self) -> Offset {
        self.base.plus(u64::from(self.skip) + u64::from(self.count))
    }
}

/// What a step of a reader brought.
#[derive(Debug)]
pub(crate) enum Step {
    /// The next records, in order, at least one batch.
    Records(Vec<Delivery>),
    /// Nothing yet at this offset.
    End,
    /// The stream is gone.
    Deleted,
}

/// Why records could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFailure {
    #[error(transparent)]
    NodeStopping(#[from] NodeStopping),
    #[error("the log of shard {shard} cannot be read: {source}")]
    Log { shard: ShardId, source: LogReadError },
    #[error(
        "the log of shard {shard} does not hold offset {offset} of stream {stream} where its index points"
    )]
    Index { shard: ShardId, stream: StreamUid, offset: Offset },
    #[error(transparent)]
    Cold(#[from] ColdReadError),
    #[error("offset {offset} of stream {stream} is in neither tier")]
    Missing { stream: StreamUid, offset: Offset },
    #[error(transparent)]
    Stopped(#[from] PoolStopped),
}

/// A position in one stream. Reads ahead of nobody and holds at most one step's records.
pub(crate) struct StreamReader {
    shard: ShardHandle,
    cold: ColdReader,
    pool: Arc<dyn BlockingPool>,
    stream: StreamUid,
    next: Offset,
    /// The rest of the row group being read.
    row_group: Option<ColdBatches>,
    /// Where records were last asked for whose log file had gone.
    retired_at: Option<Offset>,
}

impl StreamReader {
    pub(crate) fn new(
        shard: ShardHandle,
        cold: ColdReader,
        pool: Arc<dyn BlockingPool>,
        stream: StreamUid,
        next: Offset,
    ) -> Self {
        Self { shard, cold, pool, stream, next, row_group: None, retired_at: None }
    }

    /// The offset of the next record.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next
    }

    /// Whether it holds records that no step has returned yet.
    pub(crate) fn holds_records(&self) -> bool {
        self.row_group.is_some()
    }

    /// Goes back to `next`, and lets go of what was read.
    pub(crate) fn rewind(&mut self, next: Offset) {
        self.next = next;
        self.row_group = None;
    }

    /// The next records; waits for them if `wait`. Cancel safe: a step that was not returned is
    /// read again.
    pub(crate) async fn step(&mut self, wait: bool) -> Result<Step, ReadFailure> {
        if let Some(row_group) = self.row_group.take()
            && let Some(step) = self.decode(row_group).await?
        {
            return Ok(step);
        }
        let query = ReadQuery { stream: self.stream, from: self.next, wait };
        let deliveries = match self.shard.locate(query).await? {
            Located::End => return Ok(Step::End),
            Located::Deleted => return Ok(Step::Deleted),
            Located::Missing => {
                return Err(ReadFailure::Missing { stream: self.stream, offset: self.next });
            }
            Located::Hot(points) => match self.read_hot(points).await? {
                Some(deliveries) => deliveries,
                // The file was given up between the answer and the read: the bucket has it. The
                // index forgets a file before it goes, so this happens once, or the index is wrong.
                None if self.retired_at.replace(self.next) == Some(self.next) => {
                    let (shard, stream) = (self.shard.id(), self.stream);
                    return Err(ReadFailure::Index { shard, stream, offset: self.next });
                }
                None => return Ok(Step::Records(Vec::new())),
            },
            Located::Cold(part) => {
                let row_group = self.cold.fetch(&part, self.next).await?;
                let batches = row_group.batches(self.next, Offset(u64::MAX));
                let step = self.decode(batches).await?;
                return Ok(step.unwrap_or(Step::Records(Vec::new())));
            }
        };
        if let Some(last) = deliveries.last() {
            self.next = last.end();
        }
        Ok(Step::Records(deliveries))
    }

    /// Reads the entries that the points lie in. `None`: they are no longer in the log.
    async fn read_hot(
        &mut self,
        points: Vec<IndexPoint>,
    ) -> Result<Option<Vec<Delivery>>, ReadFailure> {
        let mut deliveries = Vec::with_capacity(points.len());
        let mut bytes = 0;
        let mut rest = points.as_slice();
        while let Some(first) = rest.first() {
            // A run of consecutive entries is one read.
            let mut last = first.log_index;
            let run = rest
                .iter()
                .take_while(|point| {
                    let joins = point.log_index <= last + 1;
                    last = last.max(if joins { point.log_index } else { last });
                    joins
                })
                .count();
            let (entries, source) = match self.read_entries(first.log_index, last + 1).await {
                Ok(read) => read,
                Err(ReadFailure::Log { source: LogReadError::Retired { .. }, .. }) => {
                    return Ok(if deliveries.is_empty() { None } else { Some(deliveries) });
                }
                // Told to who reads on from here.
                Err(_) if !deliveries.is_empty() => break,
                Err(failure) => return Err(failure),
            };
            let read_to = entries.last().map_or(first.log_index, |entry| entry.id.index + 1);
            let here = rest[..run].iter().take_while(|point| point.log_index < read_to).count();
            let begun = deliveries.len();
            // The one walk through the entry that the last point was in.
            let mut walk = None;
            for point in &rest[..here] {
                let delivery = self.slice(&entries, first.log_index, *point, source, &mut walk)?;
                bytes += delivery.batch.len();
                deliveries.push(delivery);
            }
            let read: usize = entries.iter().map(|entry| entry.payload.len()).sum();
            copy_out_of(&mut deliveries[begun..], read);
            if bytes >= HOT_BYTES || here == 0 {
                break;
            }
            rest = &rest[here..];
        }
        Ok(Some(deliveries))
    }

    /// Consecutive entries from `start`, from memory if they are there.
    async fn read_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<(Vec<Entry>, Source), ReadFailure> {
        if let Some(entries) = self.shard.log().read_ring(start, end, HOT_BYTES)
            && !entries.is_empty()
        {
            return Ok((entries, Source::Ring));
        }
        let log = self.shard.log().clone();
        let shard = self.shard.id();
        let read = move || match log.read(start, end, HOT_BYTES) {
            // What lies before the damage is whole.
            Err(LogReadError::Corrupt { index, .. }) if index > start => {
                log.read(start, index, HOT_BYTES)
            }
            read => read,
        };
        let read = run_on(&*self.pool, read).await;
        let entries = read?;
        entries
            .map(|entries| (entries, Source::Hot))
            .map_err(|source| ReadFailure::Log { shard, source })
    }

    /// Takes one batch out of the entries read, and checks that it is the one the index means.
    /// `walk` is where it stands in the entry that it was called for last.
    fn slice<'e>(
        &self,
        entries: &'e [Entry],
        first_index: u64,
        point: IndexPoint,
        source: Source,
        walk: &mut Option<(u64, PartsCursor<'e>)>,
    ) -> Result<Delivery, ReadFailure> {
        let misplaced = || ReadFailure::Index {
            shard: self.shard.id(),
            stream: self.stream,
            offset: point.base,
        };
        let at = usize::try_from(point.log_index - first_index).map_err(|_| misplaced())?;
        let entry = entries.get(at).filter(|entry| entry.id.index == point.log_index);
        let parts = entry.ok_or_else(misplaced)?.payload.parts();
        let begun = walk.take().filter(|(index, _)| *index == point.log_index);
        let (_, cursor) = walk.insert(begun.unwrap_or((point.log_index, PartsCursor::new(parts))));
        let batch = point.find(cursor, self.stream).ok_or_else(misplaced)?;
        let skip = u32::try_from(self.next.0.saturating_sub(point.base.0)).unwrap_or(0);
        Ok(Delivery {
            base: point.base,
            skip,
            count: point.count - skip,
            ts: point.ts,
            source,
            batch,
        })
    }

    /// The next records of a row group, decoded where that delays nobody. `None` at its end.
    async fn decode(&mut self, mut batches: ColdBatches) -> Result<Option<Step>, ReadFailure> {
        let work = move || {
            let (mut decoded, mut bytes) = (Vec::new(), 0);
            while bytes < COLD_BYTES
                && let Some(batch) = batches.next()
            {
                let batch = batch?;
                bytes += batch.batch.len();
                decoded.push(batch);
            }
            Ok::<_, ColdReadError>((decoded, batches))
        };
        let worked = run_on(&*self.pool, work).await?;
        let (decoded, batches) = worked?;
        let deliveries: Vec<_> = decoded.into_iter().map(cold_delivery).collect();
        let Some(last) = deliveries.last() else { return Ok(None) };
        self.next = last.end();
        self.row_group = Some(batches);
        Ok(Some(Step::Records(deliveries)))
    }
}

/// Copies the batches, if they are a small part of the `read` bytes that they keep in memory.
fn copy_out_of(deliveries: &mut [Delivery], read: usize) {
    let bytes = deliveries.iter().map(|delivery| delivery.batch.len()).sum();
    let batches = deliveries.iter_mut().map(|delivery| &mut delivery.batch);
    RecordBatch::copy_out(batches, bytes, read, PINNED_MAX);
}

/// Batches out of a row group begin where they were asked to.
fn cold_delivery(cold: ColdBatch) -> Delivery {
    Delivery {
        base: cold.base,
        skip: 0,
        count: cold.batch.count() as u32,
        ts: cold.ts,
        source: Source::Cold,
        batch: cold.batch,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use railgun_types::batch::{BatchBuilder, RecordDraft};

    use super::*;

    #[test]
    fn a_few_records_do_not_keep_what_was_read_around_them() {
        let mut builder = BatchBuilder::new(1 << 20);
        builder.push(&RecordDraft { value: b"x", ..RecordDraft::default() }).unwrap();
        let batch = builder.finish().concat();
        let entry = Bytes::from([&batch[..], &[0; 1_000]].concat());
        let delivered = || {
            let batch = RecordBatch::open(entry.slice(..batch.len())).unwrap();
            let (base, ts) = (Offset(0), Timestamp(0));
            [Delivery { base, skip: 0, count: 1, ts, source: Source::Ring, batch }]
        };
        let mut few = delivered();
        copy_out_of(&mut few, entry.len());
        assert!(entry.is_unique());
        assert_eq!(few[0].batch.as_bytes(), &batch);
        let mut most = delivered();
        copy_out_of(&mut most, batch.len() * PINNED_MAX);
        assert!(!entry.is_unique());
    }
}
