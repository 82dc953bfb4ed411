//! Consumer groups where their shard is led. The shard's owner has what is replicated of them, and one
//! task for each group with members hands its messages out (`actor`), by the rules of
//! [`railgun_core::dispatcher`]. A member's session puts into its queue what the member says, and takes
//! from its own what is for the member.

mod actor;
mod feed;
mod letters;
mod told;

use std::sync::Arc;

use bytes::Bytes;
use railgun_core::dispatcher::{Credit, Fetch, MemberId, PresentedLease, SettleRequest};
use railgun_net::{Held, Member};
use railgun_proto::{Frame, WireError, v1};
use railgun_types::batch::{BatchParts, RecordBatch};
use railgun_types::{GroupId, GroupMode, GroupName, Offset, StreamUid, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::reader::{ReadSources, Source, wire_source};
use crate::wire_error;

pub(crate) use actor::{GroupFigures, GroupSpawn, GroupUpdate, LiveGroup};

/// What members say that may wait for a group.
pub(crate) const INPUTS: usize = 256;
/// Records that wait for a member keep no more than so many times as much in memory as they are.
const KEPT_TIMES_MAX: usize = 4;
/// What became of changes that may wait for a group: one of its own is on its way at a time, and others'
/// are few. A group that falls behind ends, and its members come again.
pub(crate) const UPDATES: usize = 256;

/// Somebody who wants to be a member.
pub(crate) struct Join {
    pub(crate) stream: StreamUid,
    pub(crate) group: GroupName,
    /// Only this one, not another that has got its name.
    pub(crate) group_id: Option<GroupId>,
    /// Only if it is of this mode.
    pub(crate) mode: Option<GroupMode>,
    pub(crate) member: MemberId,
    pub(crate) credit: Credit,
    pub(crate) held: Vec<PresentedLease>,
    /// Whether it gets only what it fetches.
    pub(crate) fetches: bool,
    pub(crate) to: Outbox,
    /// Where the group's messages are read, if nobody hands them out yet.
    pub(crate) sources: ReadSources,
}

/// The way to a member.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Has room for all that the credit allows, and some news. Who drops its other end has left.
    pub(crate) to: mpsc::Sender<MemberOutput>,
    /// The member has let it fill up: its session is to end.
    pub(crate) given_up: CancellationToken,
    /// For the records that go by it. `None`: as much as there is.
    memory: Option<Member>,
    /// Memory that was waited for.
    room: Option<Held>,
}

impl Outbox {
    pub(crate) fn new(
        to: mpsc::Sender<MemberOutput>,
        given_up: CancellationToken,
        memory: Option<Member>,
    ) -> Self {
        Self { to, given_up, memory, room: None }
    }

    /// Memory for so many bytes, if there is some now.
    fn take(&mut self, bytes: usize) -> Result<Option<Arc<Held>>, NoRoom> {
        let Some(memory) = &self.memory else { return Ok(None) };
        let waited_for = self.room.take().and_then(|mut room| room.split(bytes));
        let held = waited_for.or_else(|| memory.try_take(bytes)).ok_or(NoRoom)?;
        Ok(Some(Arc::new(held)))
    }
}

/// There is no memory for it now.
struct NoRoom;

/// The memory that there was not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lack {
    /// For the whole delivery, and for the first of its messages.
    pub(crate) bytes: usize,
    pub(crate) first: usize,
}

/// A member's place in a group.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) group: GroupId,
    pub(crate) mode: GroupMode,
    pub(crate) ack_wait_ms: u64,
    pub(crate) floor: Offset,
    /// The offset of the stream's next record.
    pub(crate) next: Offset,
    pub(crate) inputs: mpsc::Sender<MemberInput>,
}

/// What comes from sessions, and operators, to a group.
#[derive(Debug)]
pub(crate) enum MemberInput {
    Joined {
        member: MemberId,
        credit: Credit,
        held: Vec<PresentedLease>,
        fetches: bool,
        to: Outbox,
    },
    Settle {
        member: MemberId,
        request: SettleRequest,
    },
    Fetch {
        member: MemberId,
        fetch: Fetch,
    },
    Drain {
        member: MemberId,
    },
    /// An operator wants another member to be the active one. Answered with the number of messages that the
    /// present one still has.
    HandOver {
        reply: oneshot::Sender<Result<u64, WireError>>,
    },
    /// There is memory for its next delivery.
    Room {
        member: MemberId,
        held: Held,
    },
    /// It is sent away by the node.
    Released {
        member: MemberId,
    },
}

impl MemberInput {
    /// Nobody looks at it any more. Members learn that in their own way.
    pub(crate) fn refuse(self) {
        if let Self::HandOver { reply } = self {
            reply.send(Err(wire_error::group_busy())).ok();
        }
    }
}

/// What goes to a member, in order.
#[derive(Debug)]
pub(crate) enum MemberOutput {
    Deliver(Delivered),
    /// There was no memory for the next one: nothing comes before its session has found some.
    NoRoom(Lack),
    Settled(v1::Settled),
    Notice(v1::group_notice::Notice),
    /// Nothing comes behind it.
    End(WireError),
}

/// Consecutive records of one batch for a member.
#[derive(Debug)]
pub(crate) struct Delivered {
    records: Piece,
    /// The memory that they take.
    held: Option<Arc<Held>>,
    count: usize,
    base: Offset,
    ts: Timestamp,
    source: Source,
    lease: u64,
    attempt: u32,
    epoch: u32,
    generation: u32,
}

/// Some records of a batch.
#[derive(Debug)]
enum Piece {
    /// Of one that is kept as a whole.
    Of { batch: RecordBatch, skip: usize },
    /// Few enough of it that they are kept for themselves.
    Own(BatchParts),
}

impl Piece {
    fn new(batch: &RecordBatch, skip: usize, count: usize, bytes: usize) -> Self {
        if bytes * KEPT_TIMES_MAX >= batch.len() {
            return Self::Of { batch: batch.clone(), skip };
        }
        let BatchParts { head, body } = cut(batch, skip, count);
        Self::Own(BatchParts { head, body: Bytes::copy_from_slice(&body) })
    }
}

fn cut(batch: &RecordBatch, skip: usize, count: usize) -> BatchParts {
    batch.cut(skip, count).expect("records of the batch")
}

impl Delivered {
    /// The lease, what was delivered, which attempt it is, and where it came from.
    #[cfg(test)]
    pub(crate) fn told(&self) -> (u64, railgun_types::OffsetRange, u32, Source) {
        let end = self.base.plus(self.count as u64);
        (self.lease, railgun_types::OffsetRange::new(self.base, end), self.attempt, self.source)
    }

    /// A frame that holds just these records, and the memory that they take.
    pub(crate) fn frame(self) -> (Frame, Option<Arc<Held>>) {
        let head = v1::GroupDeliver {
            base_offset: self.base.0,
            // No more than a batch has.
            count: self.count as u32,
            ts_us: self.ts.0,
            source: wire_source(self.source).into(),
            lease: self.lease,
            attempt: self.attempt,
            epoch: self.epoch,
            redrive_generation: self.generation,
        };
        let parts = match self.records {
            Piece::Of { batch, skip } => cut(&batch, skip, self.count),
            Piece::Own(parts) => parts,
        };
        (Frame::with_blob(&head, vec![parts.head, parts.body]), self.held)
    }
}
