//! Records that are in the bucket.

use std::sync::Arc;
use std::time::Duration;

use railgun_cold::reader::{
    BATCH_BYTES, ColdBatch, ColdBatches, ColdPart, ColdReadError, RowGroup as Fetched,
};
use railgun_net::crowded_time;
use railgun_raft::run_on;
use railgun_types::Offset;
use tokio::time::{Instant, timeout};

use super::places::Work;
use super::turns::{COLD_BYTES, ROW_GROUP_BYTES, RowGroupMemory};
use super::{Delivery, Found, ReadFailure, Source, Step, StreamReader};

/// How long a reader waits for its turn where its client reads more row groups at once than it has
/// memory for. Then it goes on step by step, at the price of the way to its place in the row group.
const TURN_TIME: Duration = Duration::from_secs(2);
/// How long a reader that waited for memory keeps it while a row group comes that is not cached any
/// more. Without it, another one might have it each time.
const KEPT_TIME: Duration = Duration::from_secs(5);

/// The rest of the row group being read.
pub(super) struct RowGroup {
    rest: Rest,
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

/// Batches that no step has returned.
struct Rest {
    /// Decoded already, for a step that it did not fit into. It counts from the next step on, which asks
    /// for memory for it or lets go of it.
    first: Option<Delivery>,
    batches: ColdBatches,
}

impl Rest {
    fn of(fetched: Fetched, next: Offset) -> Self {
        Self { first: None, batches: fetched.batches(next, Offset(u64::MAX)) }
    }

    fn next(&mut self) -> Result<Option<Delivery>, ColdReadError> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => Ok(self.batches.next().transpose()?.map(delivery)),
        }
    }
}

impl StreamReader {
    /// Reads on in a row group, with the memory that it has. `None`: it is at its end.
    pub(super) async fn next_of(
        &mut self,
        row_group: RowGroup,
    ) -> Result<Option<Step>, ReadFailure> {
        let RowGroup { rest, memory, since } = row_group;
        let mut held = None;
        if let Some(memory) = &memory {
            held = memory.free();
            if held.is_none() {
                return Ok(None);
            }
        }
        let (found, rest) = self.decode(rest, COLD_BYTES).await?;
        if found.is_empty() {
            return Ok(None);
        }
        if let Some(client) = &self.from.memory
            && found.pinned() > COLD_BYTES
        {
            let bytes = found.pinned();
            held = client.try_take(bytes).map(Arc::new);
            if held.is_none() {
                drop((found, rest, memory));
                return Ok(Some(self.wait_for(bytes).await));
            }
        }
        self.row_group = Some(RowGroup { rest, memory, since });
        Ok(Some(self.returned(found, held)))
    }

    /// Reads from the object that has the next record.
    pub(super) async fn read_cold(&mut self, part: &ColdPart) -> Result<Step, ReadFailure> {
        let next = self.next;
        // Mostly the row group is still here.
        if let Some(room) = self.room.take()
            && let Ok(fetched) = timeout(KEPT_TIME, self.fetch(part)).await
        {
            let (found, _) = self.decode(Rest::of(fetched?, next), room.bytes).await?;
            return Ok(self.keep(found, Some(room)).await);
        }
        let Some(memory) = self.from.memory.clone() else {
            let fetched = self.fetch(part).await?;
            return self.enter(fetched, None).await;
        };
        let patience = if next < self.no_turn_before { Duration::ZERO } else { TURN_TIME };
        let turn = self.from.places.turn(patience).await;
        let fetched = self.fetch(part).await?;
        let held = turn.and_then(|turn| RowGroupMemory::try_take(&memory, turn));
        if held.is_some() {
            return self.enter(fetched, held).await;
        }
        // A step of it, then, and the others behind that.
        self.no_turn_before = fetched.end();
        let Some(room) = self.room(COLD_BYTES) else {
            drop(fetched);
            return Ok(self.wait_for_room(COLD_BYTES).await);
        };
        let (found, _) = self.decode(Rest::of(fetched, next), room.bytes).await?;
        Ok(self.keep(found, Some(room)).await)
    }

    /// Begins to read a row group.
    async fn enter(
        &mut self,
        fetched: Fetched,
        memory: Option<RowGroupMemory>,
    ) -> Result<Step, ReadFailure> {
        let rest = Rest::of(fetched, self.next);
        let step = self.next_of(RowGroup { rest, memory, since: Instant::now() }).await?;
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

    /// The next batches, of so many bytes but at least one, decoded where that delays nobody, and those
    /// behind them.
    async fn decode(
        &mut self,
        mut rest: Rest,
        bytes_max: usize,
    ) -> Result<(Found, Rest), ReadFailure> {
        // A batch may be a few bytes larger than was said.
        let batch_bytes = BATCH_BYTES.min(bytes_max - bytes_max / 8);
        rest.batches.set_batch_bytes(batch_bytes);
        let place = self.from.places.take(Work::Decode).await?;
        let work = move || {
            let _place = place;
            let (mut decoded, mut bytes) = (Vec::new(), 0);
            while (decoded.is_empty() || bytes + batch_bytes <= bytes_max)
                && let Some(delivery) = rest.next()?
            {
                bytes += delivery.batch.len();
                // A single record may be any size.
                if bytes > bytes_max && !decoded.is_empty() {
                    rest.first = Some(delivery);
                    break;
                }
                decoded.push(delivery);
            }
            Ok::<_, ColdReadError>((Found::own(decoded), rest))
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
