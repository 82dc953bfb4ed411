//! Records that are in the bucket.

use std::sync::Arc;
use std::time::Duration;

use railgun_cold::reader::{
    BATCH_BYTES, ColdBatch, ColdBatches, ColdPart, ColdReadError, RowGroup as Fetched,
};
use railgun_net::{Held, Reserved, crowded_time};
use railgun_raft::run_on;
use railgun_types::Offset;
use tokio::time::{Instant, timeout};

use super::places::Work;
use super::{Delivery, Found, ReadFailure, Source, Step, StreamReader};

/// Bytes of batches that one step decodes from an object, at most, but one batch.
const COLD_BYTES: usize = 1 << 20;
/// What a reader that is in a row group takes: the row group, and two steps of its records, one on its
/// way to the client and one read ahead.
const ROW_GROUP_BYTES: usize = (8 << 20) + 2 * COLD_BYTES;
/// How long a reader waits for its turn where its client reads more row groups at once than it has
/// memory for. Then it goes on step by step, at the price of the way to its place in the row group.
const TURN_TIME: Duration = Duration::from_secs(2);

/// The rest of the row group being read.
pub(super) struct RowGroup {
    batches: ColdBatches,
    /// `None` for a client that has as much as it wants.
    memory: Option<RowGroupMemory>,
    since: Instant,
}

impl RowGroup {
    /// Whether a client that takes what it reads would have read it by now.
    pub(super) fn is_old(&self) -> bool {
        self.memory.is_some() && self.since.elapsed() >= crowded_time(ROW_GROUP_BYTES)
    }
}

/// What is taken for a row group.
struct RowGroupMemory {
    steps: [Arc<Held>; 2],
    _row_group: Held,
}

impl RowGroupMemory {
    fn new(mut held: Held) -> Option<Self> {
        let mut step = || held.split(COLD_BYTES).map(Arc::new);
        Some(Self { steps: [step()?, step()?], _row_group: held })
    }

    /// That of a step whose records are gone.
    fn free(&self) -> Option<Arc<Held>> {
        self.steps.iter().find(|step| Arc::strong_count(step) == 1).cloned()
    }
}

impl StreamReader {
    /// Reads on in a row group, with the memory that it has. `None`: it is at its end.
    pub(super) async fn next_of(
        &mut self,
        row_group: RowGroup,
    ) -> Result<Option<Step>, ReadFailure> {
        let RowGroup { batches, memory, since } = row_group;
        let mut held = None;
        if let Some(memory) = &memory {
            held = memory.free();
            if held.is_none() {
                return Ok(None);
            }
        }
        let (mut found, batches) = self.decode(batches, COLD_BYTES).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let wanted = found.len();
        found.cut_to(COLD_BYTES);
        if let Some(client) = &self.from.memory
            && found.pinned() > COLD_BYTES
        {
            let bytes = found.pinned();
            held = client.try_take(bytes).map(Arc::new);
            if held.is_none() {
                drop((found, batches, memory));
                return Ok(Some(self.wait_for(bytes).await));
            }
        }
        // What was cut off is behind the place where the row group goes on.
        let is_whole = found.len() == wanted;
        self.row_group = is_whole.then_some(RowGroup { batches, memory, since });
        Ok(Some(self.returned(found, held)))
    }

    /// Reads from the object that has the next record.
    pub(super) async fn read_cold(&mut self, part: &ColdPart) -> Result<Step, ReadFailure> {
        let next = self.next;
        // Who has memory does not wait for the bucket. Mostly the row group is still here.
        if let Some(room) = self.room.take()
            && let Some(fetched) = self.from.cold.cached(part, next)?
        {
            let batches = fetched.batches(next, Offset(u64::MAX));
            let (found, _) = self.decode(batches, room.bytes).await?;
            return Ok(self.keep(found, Some(room)).await);
        }
        let Some(memory) = self.from.memory.clone() else {
            let fetched = self.fetch(part).await?;
            return self.enter(fetched, None).await;
        };
        // Keeps its turn among the readers of its client, and nothing from others, until it is here.
        let turn = timeout(TURN_TIME, memory.reserve(ROW_GROUP_BYTES)).await.ok();
        let fetched = self.fetch(part).await?;
        let held = turn.and_then(Reserved::try_take).and_then(RowGroupMemory::new);
        if held.is_some() {
            return self.enter(fetched, held).await;
        }
        // A step of it, then.
        let Some(room) = self.room(COLD_BYTES) else {
            drop(fetched);
            return Ok(self.wait_for(COLD_BYTES).await);
        };
        let (found, _) = self.decode(fetched.batches(next, Offset(u64::MAX)), room.bytes).await?;
        Ok(self.keep(found, Some(room)).await)
    }

    /// Begins to read a row group.
    async fn enter(
        &mut self,
        fetched: Fetched,
        memory: Option<RowGroupMemory>,
    ) -> Result<Step, ReadFailure> {
        let batches = fetched.batches(self.next, Offset(u64::MAX));
        let row_group = RowGroup { batches, memory, since: Instant::now() };
        let step = self.next_of(row_group).await?;
        Ok(step.unwrap_or(Step::Records(Vec::new())))
    }

    /// The row group of the next record. A place is for who asks the bucket for it.
    async fn fetch(&mut self, part: &ColdPart) -> Result<Fetched, ReadFailure> {
        let cold = &self.from.cold;
        if let Some(fetched) = cold.cached(part, self.next)? {
            return Ok(fetched);
        }
        let place = Arc::new(self.from.places.take(Work::Fetch).await?);
        Ok(cold.fetch_with(part, self.next, &place).await?)
    }

    /// The next batches, of so many bytes but at least one, decoded where that delays nobody.
    async fn decode(
        &mut self,
        mut batches: ColdBatches,
        bytes_max: usize,
    ) -> Result<(Found, ColdBatches), ReadFailure> {
        // A batch may be a few bytes larger than was said.
        let batch_bytes = BATCH_BYTES.min(bytes_max - bytes_max / 8);
        batches.set_batch_bytes(batch_bytes);
        let place = self.from.places.take(Work::Decode).await?;
        let work = move || {
            let _place = place;
            let (mut decoded, mut bytes) = (Vec::new(), 0);
            while (decoded.is_empty() || bytes + batch_bytes <= bytes_max)
                && let Some(batch) = batches.next()
            {
                let delivery = delivery(batch?);
                bytes += delivery.batch.len();
                decoded.push(delivery);
            }
            Ok::<_, ColdReadError>((Found::own(decoded), batches))
        };
        let worked = run_on(&*self.from.pool, work).await?;
        Ok(worked?)
    }
}

/// Batches out of a row group begin where they were asked to.
fn delivery(cold: ColdBatch) -> Delivery {
    Delivery {
        base: cold.base,
        skip: 0,
        count: cold.batch.count() as u32,
        ts: cold.ts,
        source: Source::Cold,
        batch: cold.batch,
    }
}
