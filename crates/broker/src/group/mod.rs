//! Consumer groups where their shard is led. The shard's owner has what is replicated of them, and one
//! task for each group with members hands its messages out (`actor`), by the rules of
//! [`railgun_core::dispatcher`]. A member's session puts into its queue what the member says, and takes
//! from its own what is for the member.

mod actor;
mod delivered;
mod feed;
mod letters;
mod live;
mod obituary;
mod outbox;
mod told;

use railgun_core::dispatcher::{Credit, Fetch, MemberId, PresentedLease, SettleRequest};
use railgun_net::Held;
use railgun_proto::{WireError, v1};
use railgun_types::{GroupId, GroupMode, GroupName, Offset, StreamUid};
use tokio::sync::{mpsc, oneshot};

use crate::reader::ReadSources;
use crate::wire_error;

pub(crate) use actor::GroupSpawn;
pub(crate) use delivered::Delivered;
pub(crate) use live::{GroupFigures, GroupUpdate, LiveGroup};
pub(crate) use outbox::{Lack, Outbox};

/// What members say that may wait for a group.
pub(crate) const INPUTS: usize = 256;
/// What became of changes that may wait for a group: one of its own is on its way at a time, and others'
/// are few. A group that falls behind ends, and its members come again.
pub(crate) const UPDATES: usize = 256;

/// The group that somebody wants to be a member of.
pub(crate) struct Join {
    pub(crate) stream: StreamUid,
    pub(crate) group: GroupName,
    /// Only this one, not another that has got its name.
    pub(crate) group_id: Option<GroupId>,
    /// Only if it is of this mode.
    pub(crate) mode: Option<GroupMode>,
    /// Where the group's messages are read, if nobody hands them out yet.
    pub(crate) sources: ReadSources,
}

/// Somebody who wants to be a member.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) member: MemberId,
    pub(crate) credit: Credit,
    pub(crate) held: Vec<PresentedLease>,
    /// Whether it gets only what it fetches.
    pub(crate) fetches: bool,
    pub(crate) to: Outbox,
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
    Joined(Newcomer),
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
