//! Reads the records of a stream in order, wherever they are: ring, log file, bucket. No caller can
//! tell which, but by the `source` it may show (DESIGN §4.9).
//!
//! Records take memory of their client's part. It is asked for when it is known that there are some and
//! before they are read, and no more is read than there is memory for, but for a record of the bucket that
//! turns out to be larger than what is left of a step: it counts from the next one on. Whoever holds
//! memory that other clients share does not wait for more of it, nor for the bucket, unless it waited for
//! that memory: then for a few seconds. What cannot go on without (one batch that is larger than a step)
//! lets go of everything, waits, and is read again.

mod cold;
mod found;
mod hot;
mod places;
mod room;
mod seek;
mod turns;

use std::sync::Arc;

use railgun_cold::reader::{ColdReadError, ColdReader};
use railgun_log::ReadError as LogReadError;
use railgun_net::{Held, Member};
use railgun_proto::v1;
use railgun_raft::{BlockingPool, PoolStopped};
use railgun_types::batch::RecordBatch;
use railgun_types::{Offset, ShardId, StreamUid, Timestamp};

use crate::builtin_bug::Planted;
use crate::replica::NodeStopping;
use crate::shard::{Located, ReadQuery, ShardHandle};

use cold::RowGroup;
use found::Found;
pub(crate) use places::{ClientPlaces, ReadPlaces};
use room::Room;

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

/// The same on the wire.
pub(crate) fn wire_source(source: Source) -> v1::Source {
    match source {
        Source::Ring => v1::Source::Ring,
        Source::Hot => v1::Source::Hot,
        Source::Cold => v1::Source::Cold,
    }
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
    /// The next records, in order; none where it has to be asked again.
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

impl ReadFailure {
    /// Whether bytes in the log are not those that were written: other replicas have them.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Log { source: LogReadError::Corrupt { .. }, .. })
    }
}

/// Where a client's readers get their records.
#[derive(Clone)]
pub(crate) struct ReadSources {
    pub(crate) shard: ShardHandle,
    pub(crate) cold: ColdReader,
    pub(crate) pool: Arc<dyn BlockingPool>,
    pub(crate) places: ClientPlaces,
    /// The client's part of the memory for records; `None`: as much as it wants.
    pub(crate) memory: Option<Member>,
    pub(crate) planted: Planted,
}

/// A position in one stream. Reads ahead of nobody and holds at most one step's records.
pub(crate) struct StreamReader {
    from: ReadSources,
    stream: StreamUid,
    next: Offset,
    row_group: Option<RowGroup>,
    /// The end of the row group that it waited in vain to be in.
    no_turn_before: Offset,
    /// Where records were last asked for whose log file had gone.
    retired_at: Option<Offset>,
    /// The memory for the records that were returned last.
    held: Option<Arc<Held>>,
    /// Memory that was waited for: for the next records.
    room: Option<Room>,
}

impl StreamReader {
    pub(crate) fn new(from: ReadSources, stream: StreamUid, next: Offset) -> Self {
        Self {
            from,
            stream,
            next,
            row_group: None,
            no_turn_before: Offset(0),
            retired_at: None,
            held: None,
            room: None,
        }
    }

    pub(crate) fn stream(&self) -> StreamUid {
        self.stream
    }

    /// The offset of the next record.
    pub(crate) fn next_offset(&self) -> Offset {
        self.next
    }

    /// Whether it holds records that no step has returned yet, or memory for some.
    pub(crate) fn holds_records(&self) -> bool {
        self.row_group.is_some() || self.room.is_some()
    }

    /// Whether it has held such for long, while others wait for the memory or the turn.
    pub(crate) fn is_overdue(&self) -> bool {
        let ReadSources { memory, places, .. } = &self.from;
        let is_wanted = || memory.as_ref().is_some_and(Member::is_wanted);
        self.row_group.as_ref().is_some_and(RowGroup::is_old)
            && (is_wanted() || places.is_turn_wanted())
    }

    /// The memory for the records that the last step returned: for whoever has them.
    pub(crate) fn take_held(&mut self) -> Option<Arc<Held>> {
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
            if let Some(step) = self.next_of(row_group).await? {
                return Ok(step);
            }
            from_bucket = true;
        }
        let query = ReadQuery { stream: self.stream, from: self.next, wait, only_cold: false };
        match self.from.shard.locate(query).await? {
            Located::End => Ok(Step::End),
            Located::Deleted => Ok(Step::Deleted),
            Located::Missing => {
                Err(ReadFailure::Missing { stream: self.stream, offset: self.next })
            }
            Located::Hot(points) => match self.read_hot(&points, from_bucket).await {
                Err(failure) if failure.is_damage() => self.read_instead(failure).await,
                read => read,
            },
            Located::Cold(part) => self.read_cold(&part).await,
        }
    }

    /// Reads from the bucket what is damaged in the log, if it is there.
    async fn read_instead(&mut self, failure: ReadFailure) -> Result<Step, ReadFailure> {
        let query =
            ReadQuery { stream: self.stream, from: self.next, wait: false, only_cold: true };
        match self.from.shard.locate(query).await? {
            Located::Cold(part) => self.read_cold(&part).await,
            Located::Deleted => Ok(Step::Deleted),
            Located::Hot(_) | Located::End | Located::Missing => Err(failure),
        }
    }

    /// Goes on behind what was found.
    fn returned(&mut self, found: Found, held: Option<Arc<Held>>) -> Step {
        if let Some(last) = found.last() {
            self.next = last.end();
        }
        self.held = held;
        Step::Records(found.into_deliveries())
    }
}
