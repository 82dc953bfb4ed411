//! Reads the records of a stream in order, wherever they are: ring, log file, bucket. No caller can
//! tell which, but by the `source` it may show (DESIGN §4.9).
//!
//! Records take memory of their client's part: what there is no room for is given up and read again.
//! Reads from files and from the bucket are so few at a time that what they take until it is known
//! how much they brought is bounded too.

use std::sync::Arc;

use railgun_cold::reader::{ColdBatch, ColdBatches, ColdReadError, ColdReader};
use railgun_core::command::PartsCursor;
use railgun_core::shard::IndexPoint;
use railgun_log::{Entry, ReadError as LogReadError};
use railgun_net::{Held, Member};
use railgun_raft::{BlockingPool, PoolStopped, run_on};
use railgun_types::batch::RecordBatch;
use railgun_types::{Offset, ShardId, StreamUid, Timestamp};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::builtin_bug::{BuiltinBug, Planted};
use crate::replica::NodeStopping;
use crate::shard::{Located, ReadQuery, ShardHandle};

/// Bytes of log entries that one step reads from files, at most, but one entry.
const HOT_BYTES: usize = 2 << 20;
/// Bytes of batches that one step decodes from an object, at most, but one batch.
const COLD_BYTES: usize = 1 << 20;
/// Records that are less than this part of the memory they were read with are copied out of it: they
/// may wait for a slow consumer, and what lies around them need not.
const PINNED_MAX: usize = 4;
/// What the row group that a reader is in counts as.
const ROW_GROUP_BYTES: usize = 8 << 20;
/// Reads from log files, and row groups being fetched or decoded, at a time on a node.
const HOT_READS: usize = 32;
const COLD_READS: usize = 16;

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
    /// Bytes of its batch.
    fn bytes(&self) -> usize {
        self.batch.len()
    }

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

/// The reads that a node may do at a time. Whoever has a place waits for disk or bucket, and never for
/// a client.
#[derive(Debug)]
pub(crate) struct ReadPlaces {
    hot: Semaphore,
    cold: Semaphore,
}

impl Default for ReadPlaces {
    fn default() -> Self {
        Self { hot: Semaphore::new(HOT_READS), cold: Semaphore::new(COLD_READS) }
    }
}

async fn place(places: &Semaphore) -> Result<SemaphorePermit<'_>, PoolStopped> {
    places.acquire().await.map_err(|_| PoolStopped)
}

/// The rest of the row group being read, and the memory for it.
struct RowGroup {
    batches: ColdBatches,
    /// `None`: there was none, and it is not kept.
    held: Option<Held>,
}

/// Where a client's readers get their records.
pub(crate) struct ReadSources {
    pub(crate) shard: ShardHandle,
    pub(crate) cold: ColdReader,
    pub(crate) pool: Arc<dyn BlockingPool>,
    pub(crate) places: Arc<ReadPlaces>,
    /// The client's part of the memory for records; `None`: as much as it wants.
    pub(crate) memory: Option<Member>,
}

/// A position in one stream. Reads ahead of nobody and holds at most one step's records.
pub(crate) struct StreamReader {
    from: ReadSources,
    stream: StreamUid,
    next: Offset,
    row_group: Option<RowGroup>,
    /// Where records were last asked for whose log file had gone.
    retired_at: Option<Offset>,
    /// The memory for the records that were returned last.
    held: Option<Held>,
    /// Memory that was waited for, and its bytes: for the next records.
    room: Option<(usize, Held)>,
    planted: Planted,
}

impl StreamReader {
    pub(crate) fn new(
        from: ReadSources,
        stream: StreamUid,
        next: Offset,
        planted: Planted,
    ) -> Self {
        Self {
            from,
            stream,
            next,
            row_group: None,
            retired_at: None,
            held: None,
            room: None,
            planted,
        }
    }

    /// The offset of the next record.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next
    }

    /// Whether it holds records that no step has returned yet, or memory for some.
    pub(crate) fn holds_records(&self) -> bool {
        self.row_group.is_some() || self.room.is_some()
    }

    /// The memory for the records that the last step returned: for whoever has them.
    pub(crate) fn take_held(&mut self) -> Option<Held> {
        self.held.take()
    }

    /// Goes back to `next`, and lets go of what was read.
    pub(crate) fn rewind(&mut self, next: Offset) {
        self.next = next;
        self.row_group = None;
        self.held = None;
        self.room = None;
    }

    /// The next records; waits for them if `wait`, and none where they were given up to wait for
    /// memory. Cancel safe: a step that was not returned is read again.
    pub(crate) async fn step(&mut self, wait: bool) -> Result<Step, ReadFailure> {
        self.held = None;
        let mut from_bucket = false;
        if let Some(row_group) = self.row_group.take() {
            let place = place(&self.from.places.cold).await?;
            let decoded = decode(&*self.from.pool, row_group).await?;
            drop(place);
            if let Some((deliveries, row_group)) = decoded {
                return Ok(self.keep(deliveries, Some(row_group)).await);
            }
            from_bucket = true;
        }
        let query = ReadQuery { stream: self.stream, from: self.next, wait };
        match self.from.shard.locate(query).await? {
            Located::End => Ok(Step::End),
            Located::Deleted => Ok(Step::Deleted),
            Located::Missing => {
                Err(ReadFailure::Missing { stream: self.stream, offset: self.next })
            }
            Located::Hot(points) => match self.read_hot(points).await? {
                Some(mut deliveries) => {
                    let gap = from_bucket && self.planted.is(BuiltinBug::GapBetweenTiers);
                    if gap && deliveries.len() > 1 {
                        deliveries.remove(0);
                    }
                    Ok(self.keep(deliveries, None).await)
                }
                // The file was given up between the answer and the read: the bucket has it. The
                // index forgets a file before it goes, so this happens once, or the index is wrong.
                None if self.retired_at.replace(self.next) == Some(self.next) => {
                    let (shard, stream) = (self.from.shard.id(), self.stream);
                    Err(ReadFailure::Index { shard, stream, offset: self.next })
                }
                None => Ok(Step::Records(Vec::new())),
            },
            Located::Cold(part) => {
                let place = place(&self.from.places.cold).await?;
                let fetched = self.from.cold.fetch(&part, self.next).await?;
                let batches = fetched.batches(self.next, Offset(u64::MAX));
                let memory = self.from.memory.as_ref();
                let held = memory.and_then(|memory| memory.try_take(ROW_GROUP_BYTES));
                let decoded = decode(&*self.from.pool, RowGroup { batches, held }).await?;
                drop(place);
                match decoded {
                    Some((deliveries, row_group)) => {
                        Ok(self.keep(deliveries, Some(row_group)).await)
                    }
                    None => Ok(Step::Records(Vec::new())),
                }
            }
        }
    }

    /// Keeps as much of what was read as there is memory for, and at least the first batch, unless
    /// that has to wait: then it is given up, and read again when there is memory. Few enough bytes
    /// find some whatever other clients hold.
    async fn keep(&mut self, mut deliveries: Vec<Delivery>, row_group: Option<RowGroup>) -> Step {
        let (first, wanted) = (deliveries.first().map(Delivery::bytes), deliveries.len());
        if let (Some(memory), Some(first)) = (&self.from.memory, first) {
            self.held = match self.room.take() {
                Some((room, held)) => {
                    cut(&mut deliveries, room);
                    Some(held)
                }
                None => memory.try_take(bytes_of(&deliveries)),
            };
            let own = memory.own_bytes();
            // Where it is the client itself that takes nothing, or not fast enough, it waits: a
            // small part of what was read costs as much as all of it.
            let is_short = self.held.is_none() && memory.is_short(bytes_of(&deliveries));
            if is_short && first <= own {
                cut(&mut deliveries, own);
                self.held = memory.try_take(bytes_of(&deliveries));
            }
            if self.held.is_none() {
                let bytes = bytes_of(&deliveries);
                drop((deliveries, row_group));
                self.room = Some((bytes, memory.take(bytes).await));
                return Step::Records(Vec::new());
            }
        }
        if let Some(last) = deliveries.last() {
            self.next = last.end();
        }
        // What was cut off is behind the place where the row group goes on.
        let is_whole = deliveries.len() == wanted;
        let has_memory = |group: &RowGroup| self.from.memory.is_none() || group.held.is_some();
        self.row_group = row_group.filter(|group| is_whole && has_memory(group));
        Step::Records(deliveries)
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
        if let Some(entries) = self.from.shard.log().read_ring(start, end, HOT_BYTES)
            && !entries.is_empty()
        {
            return Ok((entries, Source::Ring));
        }
        let log = self.from.shard.log().clone();
        let shard = self.from.shard.id();
        let _place = place(&self.from.places.hot).await?;
        let read = move || match log.read(start, end, HOT_BYTES) {
            // What lies before the damage is whole.
            Err(LogReadError::Corrupt { index, .. }) if index > start => {
                log.read(start, index, HOT_BYTES)
            }
            read => read,
        };
        let read = run_on(&*self.from.pool, read).await;
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
            shard: self.from.shard.id(),
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
}

/// The next records of a row group, decoded where that delays nobody, and its rest. `None` at its end.
async fn decode(
    pool: &dyn BlockingPool,
    row_group: RowGroup,
) -> Result<Option<(Vec<Delivery>, RowGroup)>, ReadFailure> {
    let RowGroup { mut batches, held } = row_group;
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
    let worked = run_on(pool, work).await?;
    let (decoded, batches) = worked?;
    if decoded.is_empty() {
        return Ok(None);
    }
    let deliveries = decoded.into_iter().map(cold_delivery).collect();
    Ok(Some((deliveries, RowGroup { batches, held })))
}

/// Bytes of the batches.
fn bytes_of(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(Delivery::bytes).sum()
}

/// Leaves so many of the first that they take at most `room` bytes, but at least one.
fn cut(deliveries: &mut Vec<Delivery>, room: usize) {
    let mut bytes = 0;
    let fitting = deliveries.iter().take_while(|delivery| {
        bytes += delivery.bytes();
        bytes <= room
    });
    let fitting = fitting.count().max(1);
    deliveries.truncate(fitting);
}

/// Copies the batches, if they are a small part of the `read` bytes that they keep in memory.
fn copy_out_of(deliveries: &mut [Delivery], read: usize) {
    let bytes = bytes_of(deliveries);
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
    fn what_is_cut_to_some_memory_keeps_one_batch_at_least() {
        let mut builder = BatchBuilder::new(1 << 20);
        builder.push(&RecordDraft { value: b"x", ..RecordDraft::default() }).unwrap();
        let batch = RecordBatch::open(builder.finish().concat()).unwrap();
        let bytes = batch.len();
        let delivery = |n| Delivery {
            base: Offset(n),
            skip: 0,
            count: 1,
            ts: Timestamp(0),
            source: Source::Ring,
            batch: batch.clone(),
        };
        for (room, left) in [(0, 1), (bytes, 1), (bytes * 2 - 1, 1), (bytes * 2, 2), (1 << 20, 3)] {
            let mut deliveries: Vec<_> = (0..3).map(delivery).collect();
            cut(&mut deliveries, room);
            assert_eq!(deliveries.len(), left, "{room}");
        }
        let mut none = Vec::new();
        cut(&mut none, 1);
        assert!(none.is_empty());
    }

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
