//! What goes into a dispatcher and comes out of it.

use railgun_types::{Offset, OffsetRange, Timestamp};

/// Microseconds of a clock that never goes back, from any beginning. What runs by it is not replicated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The time `us` microseconds later.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }
}

/// A subscription to a group: one life of it, on one connection. Whoever comes back is another member, so
/// that the late end of a connection takes nothing from the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// Most that a member has un-settled at a time (G-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Messages; a member with none gets nothing, and is never the active one.
    pub messages: u64,
    /// Encoded bytes of these. A single message that is larger is delivered when the member has nothing
    /// else.
    pub bytes: u64,
}

/// What a member wants that fetches (G-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Ascending within a member.
    pub number: u64,
    /// Most messages, within the member's credit; 0 ends what was fetched before.
    pub messages: u64,
    /// Most encoded bytes of these. The first one may be larger.
    pub bytes: u64,
    /// Whether it waits for messages that are not there yet.
    pub waits: bool,
}

/// A delivery that a member says it still has, as it was told to it (G-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentedLease {
    /// The lease.
    pub lease: u64,
    /// What of it is not settled.
    pub range: OffsetRange,
    /// Which attempt it was.
    pub attempt: u32,
    /// The group's epoch then.
    pub epoch: u32,
    /// How often its messages had been redriven.
    pub generation: u32,
    /// Whether the application has begun it.
    pub begun: bool,
    /// Encoded bytes of one of its messages, on average; 0 where that is not known.
    pub message_bytes: u32,
}

/// What a member says about deliveries, to be answered under one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettleRequest {
    /// Ascending within a member.
    pub number: u64,
    /// Each by itself: one that is stale does not harm the others.
    pub settles: Vec<Settle>,
}

/// What a member says about a part of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The lease of the delivery's tag.
    pub lease: u64,
    /// The epoch of the delivery's tag.
    pub epoch: u32,
    /// What of the delivery is meant.
    pub range: OffsetRange,
    /// What is said.
    pub kind: SettleKind,
}

/// What is said about messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleKind {
    /// They are handled.
    Ack,
    /// They are not, and are to be tried again.
    Nack {
        /// When, in ms from apply; `None`: by the group's backoff.
        delay_ms: Option<u64>,
        /// Why.
        error: Option<Box<str>>,
    },
    /// They never will be (DL-2).
    Reject {
        /// Why.
        error: Option<Box<str>>,
    },
    /// The application goes on with them: `ack_wait` starts again (G-8).
    Extend,
    /// The application has taken them: `ack_wait` starts (G-8).
    Begin,
}

/// How a member goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It, or its connection, was closed.
    Closed,
    /// Nothing was heard of it any more.
    Lost,
    /// It was drained: what it has begun and not settled comes back without an attempt, too.
    Drained,
}

/// Why an exclusive group is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverRefused {
    /// It is not an exclusive one.
    #[error("the group is not exclusive: it has no active member")]
    NotExclusive,
    /// There is no other member that takes messages.
    #[error("no other member could take over")]
    NobodyElse,
    /// One is about to be made active.
    #[error("no member is active yet")]
    NobodyActive,
}

/// Which message is to be offered next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: nobody may get one, or there is none that may be handed out.
    Nothing,
    /// One that has failed before, or was redriven.
    Retry(Offset),
    /// One that nobody has tried; the ones behind it are most probably wanted, too.
    Fresh(Offset),
}

/// Consecutive records that are offered for delivery.
#[derive(Clone, Copy, Debug)]
pub struct OfferedRun<'a> {
    /// The offset of the first.
    pub base: Offset,
    /// Encoded bytes of each.
    pub bytes: &'a [u32],
}

/// What a dispatcher wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send these records to the member, under this tag (G-6).
    Deliver {
        /// To whom.
        member: MemberId,
        /// New for each delivery, and unique in the group.
        lease: u64,
        /// Which.
        range: OffsetRange,
        /// From 1; the same for all of them.
        attempt: u32,
        /// The group's, which in an exclusive group is a fencing token.
        epoch: u32,
        /// How often they were redriven (DL-7).
        generation: u32,
    },
    /// All requests up to this number are answered: what they settle is committed, but for this.
    Settled {
        /// To whom.
        member: MemberId,
        /// The number of the last request that is answered.
        through: u64,
        /// What did not count (G-7).
        stale: Vec<StaleSettle>,
    },
    /// The member is to forget what it was sent from this offset on and has not settled. What is
    /// delivered behind this, in the order of effects, counts.
    Rewind {
        /// Who.
        member: MemberId,
        /// From which offset on.
        to: Offset,
        /// The number of this rewind in this dispatcher, from 1.
        generation: u64,
    },
    /// The member is the active one from here on.
    Active {
        /// Who.
        member: MemberId,
        /// The epoch of its deliveries.
        epoch: u32,
    },
    /// The member is not the active one any more.
    Inactive {
        /// Who.
        member: MemberId,
    },
    /// Nothing new is handed out until messages at this offset and behind it are settled (G-5).
    Stalled {
        /// Who is to be told.
        member: MemberId,
        /// The group's floor.
        blocking: Offset,
    },
    /// The stall is over.
    Resumed {
        /// Who is to be told.
        member: MemberId,
    },
    /// Nothing is handed out.
    Paused {
        /// Who is to be told.
        member: MemberId,
        /// Why.
        pause: Pause,
    },
    /// It is again.
    Unpaused {
        /// Who is to be told.
        member: MemberId,
    },
    /// The stream has lost what was not settled of this (G-2).
    Skipped {
        /// Who is to be told.
        member: MemberId,
        /// From the floor as it was to what is still there.
        range: OffsetRange,
    },
    /// The member that was to be drained has nothing any more, and all of its requests are answered.
    Drained {
        /// Who.
        member: MemberId,
    },
    /// What is delivered behind this, in the order of effects, is of that fetch; what came before it and was
    /// not begun is taken back.
    Fetching {
        /// Who.
        member: MemberId,
        /// The fetch.
        number: u64,
    },
    /// Nothing more comes of the fetch, which wanted more: the next message does not go into its bytes, or it
    /// does not wait.
    Fetched {
        /// Who.
        member: MemberId,
        /// The fetch.
        number: u64,
    },
    /// The dead letter of this message is to be proposed (DL-3).
    Dying {
        /// Which.
        offset: Offset,
        /// In this generation.
        generation: u32,
    },
}

/// Why a whole group gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// An operator has paused it.
    Operator,
    /// Too many messages died (DL-9).
    Breaker,
    /// In an exclusive group the next message is delayed until then.
    Delayed {
        /// In log time.
        until: Timestamp,
    },
}

/// A part of a settle that did not count, and changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleSettle {
    /// The lease that it named.
    pub lease: u64,
    /// Which messages.
    pub range: OffsetRange,
    /// Why.
    pub reason: StaleReason,
}

/// Why a settle did not count (G-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The lease is over, and the message goes its way without it.
    Superseded,
    /// The message was settled otherwise, or is gone.
    AlreadySettled,
    /// Its epoch is over.
    Fenced,
    /// No such delivery can have been.
    Unknown,
}
