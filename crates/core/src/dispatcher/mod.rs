//! Hands the messages of one consumer group out to its members (SEMANTICS §3). Only the leader has one: what
//! it knows beyond the group's state (members, leases, timers) is gone with its lead. No clock, no
//! randomness, no records: times and sizes come in as arguments, what is to be done is pushed as effects.
//!
//! | kind | what |
//! |---|---|
//! | inputs | [`Dispatcher::on_join`], [`on_leave`](Dispatcher::on_leave), [`on_drain`](Dispatcher::on_drain), [`on_fetch`](Dispatcher::on_fetch), [`on_settle`](Dispatcher::on_settle), [`on_hand_over`](Dispatcher::on_hand_over), [`on_tail`](Dispatcher::on_tail), [`on_applied`](Dispatcher::on_applied), [`on_dead_letter`](Dispatcher::on_dead_letter), [`on_dead_letter_failed`](Dispatcher::on_dead_letter_failed), [`on_spec`](Dispatcher::on_spec), [`on_unreadable`](Dispatcher::on_unreadable), [`on_deadline`](Dispatcher::on_deadline) |
//! | commands | [`Dispatcher::assign`], [`put_off_retries`](Dispatcher::put_off_retries), [`end_fetches`](Dispatcher::end_fetches) |
//! | outputs | effects, [`Dispatcher::wants`], [`take_proposal`](Dispatcher::take_proposal), [`next_deadline`](Dispatcher::next_deadline) |
//!
//! After each input, in this order: do the effects; while [`wants`](Dispatcher::wants) names a record, read it
//! with those behind it and [`assign`](Dispatcher::assign) them, and when it names none any more
//! [`end_fetches`](Dispatcher::end_fetches); propose what
//! [`take_proposal`](Dispatcher::take_proposal) gives; and sleep until the next input, or until
//! [`next_deadline`](Dispatcher::next_deadline).
//!
//! Everything that changes the group's state must come in by `on_applied` and its kin, in the order of the
//! log: proposals of this dispatcher, and what others say. A proposal that failed, or whose fate nobody
//! knows, is none of them: the lead is over then, and so is the dispatcher. It is dropped, and its members
//! come back to the next one with what they have. The same goes for a change of the group's mode.

mod applied;
mod effects;
mod exclusive;
mod fetch;
mod hand_out;
mod lease;
mod members;
mod proposal;
mod range_map;
mod roster;
mod settle;
mod timers;

use std::collections::{BTreeMap, BTreeSet};

use railgun_types::{GroupMode, GroupSpec, Offset, OffsetRange, Timestamp};

pub use effects::{
    Credit, Effect, Fetch, HandOverRefused, Left, MemberId, OfferedRun, Pause, PresentedLease,
    Settle, SettleKind, SettleRequest, StaleReason, StaleSettle, Time, Want,
};
pub use lease::{LEASE_US_MAX, UNBEGUN_US_MAX};

use self::exclusive::Activity;
use self::lease::{Ended, Fate, Lease, Leases, Past, lease_id, lease_term, short_term};
use self::proposal::{Failure, FailureKind, Proposal};
use self::range_map::RangeMap;
use self::roster::Roster;
use crate::group::{GroupState, HeldState, Paused};
use crate::ranges::OffsetSet;

/// For how long members may come back with what they have, at most, in µs (G-14).
pub const GRACE_US_MAX: u64 = 10_000_000;
/// How long an exclusive group that may have an active member waits for it to come back, in µs. It must
/// have one within a second.
pub const ACTIVATION_WAIT_US: u64 = 500_000;
/// How long a member may take to hand an exclusive group over, in µs.
pub const HAND_OVER_US: u64 = 30_000_000;
/// How long a dead letter that failed waits for its next attempt, in µs.
pub const DEAD_LETTER_RETRY_US: u64 = 1_000_000;
/// How long a message whose record could not be read stands aside for others, in µs.
pub const UNREADABLE_US: u64 = 1_000_000;
/// Runs of deliveries whose end is remembered, to know a settle that is repeated from one that is stale.
const PAST_RUNS_MAX: usize = 10_000;

/// When a dispatcher begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The Raft term in which this node leads.
    pub term: u64,
    /// At least as many leases as were given in this term before.
    pub leases_before: u64,
    /// Now.
    pub now: Time,
    /// Log time, if an entry were made now.
    pub log_time: Timestamp,
    /// Since when this node leads, or was left by who handed the group out here before: members have until soon
    /// after that to come back.
    pub leading_since: Time,
    /// The stream's next offset.
    pub tail: Offset,
}

/// The time in which what may be at a member that has not come back yet is kept for it.
#[derive(Clone, Copy, Debug)]
struct Grace {
    until: Time,
    /// When an exclusive group stops to wait for its active member.
    activate_at: Time,
}

/// See the module.
#[derive(Debug)]
pub struct Dispatcher {
    mirror: GroupState,
    spec: GroupSpec,
    term: u64,
    /// The leases of this term up to here are of who was in its place before.
    first_lease: u64,
    tail: Offset,
    grace: Option<Grace>,

    members: Roster,
    /// Members so far, deliveries so far, and rewinds.
    joined: u64,
    delivered: u64,
    rewinds: u64,
    activity: Activity,

    leases: Leases,
    /// What became of deliveries that are over, of messages that were not delivered again.
    past: RangeMap<Past>,
    /// What may be delivered again now: messages that have a history in the group's state, and others.
    retries: OffsetSet,
    returned: OffsetSet,
    /// Retries whose records cannot be read now, and when that is tried again.
    unreadable: BTreeSet<(Time, Offset)>,
    /// See [`Dispatcher::put_off_retries`].
    puts_off_retries: bool,
    /// From here on nothing was ever handed out.
    cursor: Offset,
    /// What an exclusive group waits for: nothing behind it is delivered.
    blockers: OffsetSet,

    waiting: Proposal,
    in_flight: Option<Proposal>,
    /// The number of the proposal that was taken last; they are applied in order.
    taken: u64,
    /// Messages whose failure waits, or is proposed.
    failing: u64,
    /// Blocks reserved ahead.
    reserve_blocks: u64,
    /// The group was reset while a proposal was in flight, of which nobody knows what it still finds.
    is_unclear: bool,

    /// Dying messages that were told, with when those that failed are told again.
    dying: BTreeMap<Offset, Option<Time>>,
    dead_letter_retries: BTreeSet<(Time, Offset)>,
    /// What log time was when.
    log_clock: (Time, Timestamp),
    /// When delays end, and the log time until which they were to last.
    delays: BTreeSet<(Time, Offset, Timestamp)>,
    /// A message that was too large for all members, and its bytes.
    too_large: Option<(Offset, u64)>,
    is_stalled: bool,
    pause: Option<Pause>,
}

impl Dispatcher {
    /// The dispatcher of a group whose state is `mirror`, as of an entry of this term or later: its leader
    /// has applied all that was committed before it (so that nobody has what lies behind the tail). Tells
    /// what is dying.
    #[must_use]
    pub fn new(mirror: GroupState, spec: GroupSpec, start: Start, out: &mut Vec<Effect>) -> Self {
        let Start { term, leases_before, now, log_time, leading_since, tail } = start;
        let mut dispatcher = Self {
            term,
            first_lease: leases_before,
            tail,
            grace: None,
            members: Roster::default(),
            joined: 0,
            delivered: 0,
            rewinds: 0,
            activity: Activity::default(),
            leases: Leases::default(),
            past: RangeMap::default(),
            retries: OffsetSet::default(),
            returned: OffsetSet::default(),
            unreadable: BTreeSet::new(),
            puts_off_retries: false,
            cursor: mirror.leased_upto().min(tail).max(mirror.floor()),
            blockers: OffsetSet::default(),
            waiting: Proposal::default(),
            in_flight: None,
            taken: 0,
            failing: 0,
            reserve_blocks: 1,
            is_unclear: false,
            dying: BTreeMap::new(),
            dead_letter_retries: BTreeSet::new(),
            log_clock: (now, log_time),
            delays: BTreeSet::new(),
            too_large: None,
            is_stalled: false,
            pause: None,
            mirror,
            spec,
        };
        dispatcher.look_at_held(out);
        let wait_us = dispatcher.ack_wait_us().min(GRACE_US_MAX);
        let until = leading_since.plus_us(wait_us);
        let activate_at = until.min(now.plus_us(ACTIVATION_WAIT_US));
        dispatcher.grace = Some(Grace { until, activate_at });
        if until <= now || !dispatcher.may_be_leased() {
            dispatcher.end_grace();
        }
        dispatcher.collect_due(now);
        dispatcher
    }

    /// The group's state, as this dispatcher has seen it change.
    #[must_use]
    pub fn state(&self) -> &GroupState {
        &self.mirror
    }

    /// The group's settings.
    #[must_use]
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// Whether it has a member.
    #[must_use]
    pub fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// What is most probably wanted next, once somebody has room: what is to be read before it is wanted.
    #[must_use]
    pub fn reads_ahead_at(&self) -> Offset {
        self.next_fresh().unwrap_or(self.cursor)
    }

    /// Whether nothing new is handed out before what is un-settled is settled (G-5).
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// How many messages members have.
    #[must_use]
    pub fn leased(&self) -> u64 {
        self.leases.messages()
    }

    fn is_exclusive(&self) -> bool {
        self.spec.mode == GroupMode::Exclusive
    }

    fn ack_wait_us(&self) -> u64 {
        self.spec.ack_wait_ms.saturating_mul(1_000)
    }

    /// The stream's next offset is this one.
    pub fn on_tail(&mut self, tail: Offset, out: &mut Vec<Effect>) {
        self.tail = self.tail.max(tail);
        self.tell_stall(out);
    }

    /// The group has other settings, of the same mode.
    pub fn on_spec(&mut self, now: Time, spec: GroupSpec, out: &mut Vec<Effect>) {
        debug_assert_eq!(spec.mode, self.spec.mode, "another mode is another dispatcher");
        self.spec = spec;
        self.too_large = None;
        self.conclude(now, out);
    }

    /// Whether this dispatcher has given that lease, and not one before it.
    fn is_own(&self, lease: u64) -> bool {
        lease_term(lease) == short_term(self.term) && lease > lease_id(self.term, self.first_lease)
    }

    /// Whether it was settled, and that waits to be proposed or applied.
    fn is_being_settled(&self, offset: Offset) -> bool {
        let in_flight = self.in_flight.as_ref();
        self.waiting.settles(offset) || in_flight.is_some_and(|it| it.settles(offset))
    }

    /// How often that message was redriven.
    fn generation(&self, offset: Offset) -> u32 {
        self.mirror.held(offset).map_or(0, |held| held.generation)
    }

    /// Gives messages to a member.
    fn lease(&mut self, range: OffsetRange, lease: Lease) {
        let member = lease.member;
        if range.start < self.cursor {
            self.past.remove(range);
            self.retries.remove(range);
            self.returned.remove(range);
        }
        let bytes = self.leases.insert(range, lease);
        self.members.update(member, |member| member.add(range.len(), bytes));
    }

    /// Ends the first part of a lease that lies in `range`.
    fn end_first(&mut self, range: OffsetRange) -> Option<Ended> {
        let ended = self.leases.end_first(range)?;
        let (messages, bytes) = (ended.range.len(), ended.bytes);
        self.members.update(ended.lease.member, |member| member.subtract(messages, bytes));
        Some(ended)
    }

    /// Messages may be delivered again as if they had not been.
    fn give_back(&mut self, ended: &Ended) {
        self.remember(ended, Fate::Returned);
        if !ended.lease.begun {
            self.members.update(ended.lease.member, |member| {
                if let Some(fetching) = &mut member.fetching {
                    fetching.subtract(ended.range.len(), ended.bytes);
                }
            });
        }
        let pool = if ended.lease.is_retry() { &mut self.retries } else { &mut self.returned };
        pool.insert(ended.range);
    }

    /// A delivery has failed by itself, and the group's state is to say what becomes of the messages.
    fn fail(&mut self, ended: &Ended, kind: FailureKind) {
        self.remember(ended, Fate::Failed);
        self.propose_failure(ended.range, Failure::without_error(kind));
    }

    fn propose_failure(&mut self, range: OffsetRange, failure: Failure) {
        self.failing += range.len();
        self.waiting.fail(failure, range);
        if self.is_exclusive() {
            self.blockers.insert(range);
        }
    }

    fn remember(&mut self, ended: &Ended, fate: Fate) {
        let Lease { id, member, .. } = ended.lease;
        self.past.insert_joined(ended.range, Past { lease: id, member, fate });
        if self.past.len() > PAST_RUNS_MAX {
            self.forget_past();
        }
    }

    /// Forgets first what the group's state knows as well: what was acked. A message that many others have
    /// passed by is the one that is still to be heard of.
    fn forget_past(&mut self) {
        self.past.retain(|past| past.fate != Fate::Acked);
        while self.past.len() > PAST_RUNS_MAX / 2 {
            self.past.pop_first();
        }
    }

    /// Whether somebody may have something that was not presented yet.
    fn may_be_leased(&self) -> bool {
        self.mirror.next_pending(self.mirror.floor()) < self.cursor
            || self.mirror.ready().next().is_some()
    }

    /// What nobody has come back with may be delivered.
    fn end_grace(&mut self) {
        if self.grace.take().is_none() {
            return;
        }
        let mut at = self.mirror.next_pending(self.mirror.floor());
        while at < self.cursor {
            let run = self.mirror.pending_run(at, self.cursor.0 - at.0);
            self.returned.insert(run);
            at = self.mirror.next_pending(run.end);
        }
        self.collect_ready();
    }

    /// Takes up all that is to be delivered again and is not on its way already.
    fn collect_ready(&mut self) {
        for offset in self.mirror.ready() {
            self.retries.insert(OffsetRange::single(offset));
        }
        for (range, _) in self.leases.iter() {
            self.retries.remove(range);
            self.returned.remove(range);
        }
        for proposal in [Some(&self.waiting), self.in_flight.as_ref()].into_iter().flatten() {
            for range in proposal.ranges() {
                self.retries.remove(range);
                self.returned.remove(range);
            }
        }
    }

    /// What follows from any input.
    fn conclude(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.is_exclusive() {
            self.keep_active(now, out);
        }
        self.tell_drained(now, out);
        self.tell_pause(out);
        self.tell_stall(out);
    }

    fn tell_drained(&mut self, now: Time, out: &mut Vec<Effect>) {
        while let Some(id) = self.members.drained() {
            self.members.update(id, |member| member.knows_drained = true);
            out.push(Effect::Drained { member: id });
            if self.activity.active == Some(id) {
                self.activity.active = None;
                self.keep_active(now, out);
            }
        }
    }

    /// Why nothing is handed out.
    fn paused(&self) -> Option<Pause> {
        match self.mirror.paused() {
            Some(Paused::Operator) => return Some(Pause::Operator),
            Some(Paused::Breaker) => return Some(Pause::Breaker),
            None => {}
        }
        match self.mirror.held(self.first_blocker()?)?.state {
            HeldState::Delayed { until } => Some(Pause::Delayed { until }),
            _ => None,
        }
    }

    fn tell_pause(&mut self, out: &mut Vec<Effect>) {
        let pause = self.paused();
        if pause == self.pause {
            return;
        }
        self.pause = pause;
        let tell = |member| match pause {
            Some(pause) => Effect::Paused { member, pause },
            None => Effect::Unpaused { member },
        };
        out.extend(self.members.ids().map(tell));
    }

    /// Tells a stall once, and its end only when there is some room again, so that a group at its limit
    /// does not tell them with every message.
    fn tell_stall(&mut self, out: &mut Vec<Effect>) {
        let is_stalled = match self.next_fresh() {
            None => false,
            Some(next) if self.is_stalled => {
                let max = u64::from(self.spec.max_unsettled);
                let window = self.spec.window;
                self.unsettled() > max - max / 8 - 1
                    || next >= self.mirror.floor().plus(window - window / 8)
            }
            Some(next) => self.is_beyond(next),
        };
        if is_stalled == self.is_stalled {
            return;
        }
        self.is_stalled = is_stalled;
        let blocking = self.mirror.floor();
        let tell = |member| match is_stalled {
            true => Effect::Stalled { member, blocking },
            false => Effect::Resumed { member },
        };
        out.extend(self.members.ids().map(tell));
    }
}

#[cfg(test)]
mod tests;
