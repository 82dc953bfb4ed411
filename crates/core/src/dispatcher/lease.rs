//! Which member has which messages, and until when.

use std::collections::BTreeSet;
use std::sync::Arc;

use railgun_types::{Offset, OffsetRange};

use super::range_map::RangeMap;
use super::{MemberId, Time};

/// How long a member may keep a message that its application has not begun, in µs (G-8).
pub const UNBEGUN_US_MAX: u64 = 5 * 60 * 1_000_000;
/// How long a member may keep a message in all, in µs (G-8).
pub const LEASE_US_MAX: u64 = 12 * 3_600 * 1_000_000;

/// Bits of a lease's id that count the leases of one term. A group that gives a lease to every single
/// message would use up 32 of them within a day.
const COUNTER_BITS: u32 = 40;

/// The id of the lease number `count` of a term. The dispatchers of a group are of different terms, or count on
/// from where the one before cannot have come to, so that no new lease is named like one that a member presents.
pub(super) fn lease_id(term: u64, count: u64) -> u64 {
    term << COUNTER_BITS | count & ((1 << COUNTER_BITS) - 1)
}

/// The term that a lease is of, as far as its id tells.
pub(super) fn lease_term(id: u64) -> u64 {
    id >> COUNTER_BITS
}

/// The term as far as the id of a lease tells it.
pub(super) fn short_term(term: u64) -> u64 {
    lease_term(lease_id(term, 0))
}

/// Encoded bytes of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sizes {
    /// Of each one, from this offset on.
    Each(Offset, Arc<[u32]>),
    /// Every one has as many.
    Even(u32),
}

impl Sizes {
    /// Of these messages, which it must know.
    fn of(&self, range: OffsetRange) -> u64 {
        match self {
            Self::Each(base, bytes) => {
                let index = |offset: Offset| (offset.0 - base.0) as usize;
                bytes[index(range.start)..index(range.end)].iter().map(|&it| u64::from(it)).sum()
            }
            Self::Even(bytes) => range.len() * u64::from(*bytes),
        }
    }
}

/// That a member has messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: u64,
    pub(super) member: MemberId,
    pub(super) attempt: u32,
    pub(super) generation: u32,
    /// Whether the application has them.
    pub(super) begun: bool,
    pub(super) granted: Time,
    pub(super) deadline: Time,
    pub(super) sizes: Sizes,
}

impl Lease {
    /// Whether its messages have a history in the group's state.
    pub(super) fn is_retry(&self) -> bool {
        self.attempt > 1 || self.generation > 0
    }

    /// Starts the time that the application has.
    pub(super) fn begin(&mut self, now: Time, ack_wait_us: u64) {
        self.begun = true;
        self.deadline = now.plus_us(ack_wait_us).min(self.granted.plus_us(LEASE_US_MAX));
    }
}

/// A lease, or a part of one, that has just ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) range: OffsetRange,
    pub(super) bytes: u64,
    pub(super) lease: Lease,
}

/// All leases that are live: at most one for each message (G-6).
#[derive(Debug, Default)]
pub(super) struct Leases {
    runs: RangeMap<Lease>,
    /// The deadline of each run, with its end.
    timers: BTreeSet<(Time, Offset)>,
    /// The end of each run, by who has it.
    by_member: BTreeSet<(MemberId, Offset)>,
    messages: u64,
    bytes: u64,
}

impl Leases {
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (OffsetRange, &Lease)> {
        self.runs.iter()
    }

    /// The one that holds `offset`, or the first behind it.
    pub(super) fn at_or_behind(&self, offset: Offset) -> Option<(OffsetRange, &Lease)> {
        self.runs.at_or_behind(offset)
    }

    pub(super) fn at(&self, offset: Offset) -> Option<(OffsetRange, &Lease)> {
        self.runs.at(offset)
    }

    /// Those of a member, in order.
    pub(super) fn of(&self, member: MemberId) -> impl Iterator<Item = OffsetRange> {
        let ends = self.by_member.range((member, Offset(0))..=(member, Offset(u64::MAX)));
        let run = |end: Offset| self.runs.at(Offset(end.0.saturating_sub(1))).map(|(run, _)| run);
        ends.filter_map(move |(_, end)| run(*end))
    }

    /// Gives messages to a member, that nobody has. Returns their bytes.
    pub(super) fn insert(&mut self, range: OffsetRange, lease: Lease) -> u64 {
        let bytes = lease.sizes.of(range);
        self.messages += range.len();
        self.bytes += bytes;
        self.timers.insert((lease.deadline, range.end));
        self.by_member.insert((lease.member, range.end));
        self.runs.insert(range, lease);
        bytes
    }

    /// Ends the first part that lies in `range`; again and again, until nothing does.
    pub(super) fn end_first(&mut self, range: OffsetRange) -> Option<Ended> {
        let cut = self.runs.cut_first(range)?;
        let (deadline, member) = (cut.value.deadline, cut.value.member);
        if cut.part.end == cut.run.end {
            self.timers.remove(&(deadline, cut.run.end));
            self.by_member.remove(&(member, cut.run.end));
        }
        if cut.run.start < cut.part.start {
            self.timers.insert((deadline, cut.part.start));
            self.by_member.insert((member, cut.part.start));
        }
        let bytes = cut.value.sizes.of(cut.part);
        self.messages -= cut.part.len();
        self.bytes -= bytes;
        Some(Ended { range: cut.part, bytes, lease: cut.value })
    }

    /// When the first one ends by itself.
    pub(super) fn first_deadline(&self) -> Option<Time> {
        self.timers.first().map(|(deadline, _)| *deadline)
    }

    /// The first one that is over at `now`.
    pub(super) fn first_over(&self, now: Time) -> Option<OffsetRange> {
        let &(deadline, end) = self.timers.first()?;
        let last = Offset(end.0.saturating_sub(1));
        (deadline <= now).then(|| self.runs.at(last).map(|(run, _)| run))?
    }
}

/// What became of the last delivery of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) lease: u64,
    /// Who had it.
    pub(super) member: MemberId,
    pub(super) fate: Fate,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Acked,
    Nacked,
    Rejected,
    /// It came back by itself, and counts as a failure.
    Failed,
    /// It came back by itself, as if it had never been given away.
    Returned,
}
