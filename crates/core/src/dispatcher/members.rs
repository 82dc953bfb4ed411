//! Who takes messages, how many more, and what it waits to hear.

use std::collections::VecDeque;

use railgun_types::{Offset, OffsetRange};

use super::fetch::Fetching;
use super::lease::{Lease, Sizes, UNBEGUN_US_MAX, lease_term, short_term};
use super::proposal::FailureKind;
use super::{Credit, Dispatcher, Effect, Left, MemberId, PresentedLease, StaleSettle, Time};
use crate::group::HeldState;

/// A member of the group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) credit: Credit,
    /// Messages that it has, and their bytes.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// What it may still be given, where it fetches.
    pub(super) fetching: Option<Fetching>,
    pub(super) is_draining: bool,
    /// It was told that it has nothing any more.
    pub(super) knows_drained: bool,
    /// Bytes for which there is room on the way to it, where that is known; 0: it gets nothing.
    pub(super) room: u64,
    /// Which member of the group it was, counting from its first.
    pub(super) joined: u64,
    /// The number of the last delivery that went to it.
    pub(super) served: u64,
    pub(super) requests: VecDeque<Request>,
    /// What was found stale only when it was applied.
    pub(super) late_stale: Vec<StaleSettle>,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) number: u64,
    /// The proposal that must be applied before; 0: none.
    pub(super) waits_for: u64,
    /// Whether it tells of failures, which may have to wait for another entry than acks.
    pub(super) fails: bool,
    pub(super) stale: Vec<StaleSettle>,
}

impl Member {
    pub(super) fn new(credit: Credit, joined: u64) -> Self {
        Self {
            credit,
            messages: 0,
            bytes: 0,
            fetching: None,
            is_draining: false,
            knows_drained: false,
            room: u64::MAX,
            joined,
            served: 0,
            requests: VecDeque::new(),
            late_stale: Vec::new(),
        }
    }

    /// Whether it may be the active one.
    pub(super) fn is_willing(&self) -> bool {
        !self.is_draining && self.credit.messages > 0
    }

    /// How many more messages it may have, whatever their size.
    pub(super) fn free(&self) -> u64 {
        let free = self.credit.messages.saturating_sub(self.messages);
        free.min(self.fetching.map_or(u64::MAX, |fetching| fetching.free()))
    }

    /// Whether a message of that size may go to it (G-12). One alone may be larger than its credit: no
    /// other time will be better.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= self.credit.bytes || self.messages == 0;
        let is_fetched = self.fetching.is_none_or(|fetching| fetching.has_room(bytes));
        self.is_taker() && fits && is_fetched
    }

    /// Whether it takes another message, if that is small enough.
    pub(super) fn is_taker(&self) -> bool {
        self.is_willing() && self.room > 0 && self.free() > 0
    }

    /// What it fetches, if something may come of that now.
    pub(super) fn fetches(&self) -> Option<Fetching> {
        self.fetching.filter(|_| self.room > 0)
    }

    /// Whether it has nothing any more, and is to be told so.
    pub(super) fn is_drained(&self) -> bool {
        self.is_draining && !self.knows_drained && self.messages == 0 && self.requests.is_empty()
    }

    /// How much of its credit it uses, of 2^24.
    pub(super) fn share(&self) -> u64 {
        let share = |used: u64, of: u64| used.saturating_mul(1 << 24) / of.max(1);
        share(self.messages, self.credit.messages).max(share(self.bytes, self.credit.bytes))
    }

    pub(super) fn add(&mut self, messages: u64, bytes: u64) {
        self.messages += messages;
        self.bytes += bytes;
        if self.room > 0 {
            self.room = u64::MAX;
        }
        if let Some(fetching) = &mut self.fetching {
            fetching.add(messages, bytes);
        }
    }

    pub(super) fn subtract(&mut self, messages: u64, bytes: u64) {
        self.messages -= messages;
        self.bytes -= bytes;
    }
}

impl Dispatcher {
    /// Takes a member that has this credit, with what it has left from another connection, or from the
    /// leader before (G-14). What of that is still possible is leased to it again.
    pub fn on_join(
        &mut self,
        now: Time,
        id: MemberId,
        credit: Credit,
        presented: &[PresentedLease],
        out: &mut Vec<Effect>,
    ) {
        debug_assert!(!self.members.contains(id), "every life of a member has an id of its own");
        self.joined += 1;
        self.members.insert(id, Member::new(credit, self.joined));
        if self.may_present(presented) {
            for lease in presented {
                if self.is_of_epoch(lease.epoch) {
                    self.lease_again(now, id, lease);
                }
            }
            self.resume(id, out);
        }
        if self.is_stalled {
            out.push(Effect::Stalled { member: id, blocking: self.mirror.floor() });
        }
        if let Some(pause) = self.pause {
            out.push(Effect::Paused { member: id, pause });
        }
        self.conclude(now, out);
    }

    /// Leases again what is still possible of what a member says it has.
    fn lease_again(&mut self, now: Time, member: MemberId, presented: &PresentedLease) {
        let mut rest = presented.range;
        rest.end = rest.end.min(self.cursor);
        while !rest.is_empty() {
            let end = match self.leases.at_or_behind(rest.start) {
                Some((run, lease)) if run.start <= rest.start => {
                    let part = run.and(rest);
                    if (lease.id, lease.attempt) != (presented.lease, presented.attempt) {
                        rest.start = part.end;
                        continue;
                    }
                    // Another connection of the same member has it, and its end was not noticed yet.
                    while let Some(ended) = self.end_first(part) {
                        self.give_back(&ended);
                    }
                    part.end
                }
                next => next.map_or(rest.end, |(run, _)| run.start.min(rest.end)),
            };
            let free = OffsetRange::new(rest.start, end);
            let room = self.within_credit(free, member, presented.message_bytes.into());
            if room.is_empty() {
                return;
            }
            rest.start = match self.presentable(room, presented) {
                Ok(part) => {
                    self.lease_presented(now, member, part, presented);
                    part.end
                }
                Err(next) => next,
            };
        }
    }

    fn lease_presented(
        &mut self,
        now: Time,
        member: MemberId,
        part: OffsetRange,
        presented: &PresentedLease,
    ) {
        let mut lease = Lease {
            id: presented.lease,
            member,
            attempt: presented.attempt,
            generation: self.generation(part.start),
            begun: false,
            granted: now,
            deadline: now.plus_us(UNBEGUN_US_MAX),
            sizes: Sizes::Even(presented.message_bytes),
        };
        if presented.begun {
            lease.begin(now, self.ack_wait_us());
        }
        self.lease(part, lease);
    }

    /// The first messages of `range`, which nobody has, if they can be what the member says: as many as are
    /// alike. If they cannot, the next one that might: whatever range a member makes up is walked through
    /// quickly.
    fn presentable(
        &self,
        range: OffsetRange,
        presented: &PresentedLease,
    ) -> Result<OffsetRange, Offset> {
        let past = self.past.at_or_behind(range.start);
        let (end, past) = match past {
            Some((run, past)) if run.start <= range.start => (run.end, Some(past)),
            Some((run, _)) => (run.start, None),
            None => (range.end, None),
        };
        let range = OffsetRange::new(range.start, range.end.min(end));
        // Whoever had it last is the one who may have it still; of our own we know who that is.
        let is_ours = self.is_own(presented.lease);
        let fits = past.map_or(!is_ours, |past| past.lease == presented.lease);
        if !fits || lease_term(presented.lease) > short_term(self.term) {
            return Err(range.end);
        }
        let mut part = match self.mirror.held(range.start) {
            None if self.mirror.is_done(range.start) => {
                return Err(self.mirror.next_unsettled(range));
            }
            None => {
                let run = self.mirror.pending_run(range.start, range.len());
                if (presented.attempt, presented.generation) != (1, 0) {
                    return Err(run.end);
                }
                run
            }
            Some(held) => {
                let is_ready = held.state == HeldState::Ready;
                let is_this = held.attempts.saturating_add(1) == presented.attempt
                    && held.generation == presented.generation;
                if !is_ready || !is_this {
                    return Err(range.start.plus(1));
                }
                OffsetRange::single(range.start)
            }
        };
        if let Some(settled) = part.iter().find(|offset| self.is_being_settled(*offset)) {
            part.end = settled;
        }
        if part.is_empty() { Err(range.start.plus(1)) } else { Ok(part) }
    }

    /// The first messages of `range` that member and group have room for.
    pub(super) fn within_credit(
        &self,
        range: OffsetRange,
        member: MemberId,
        bytes: u64,
    ) -> OffsetRange {
        let Some(member) = self.members.get(member) else { return range };
        let room = u64::from(self.spec.max_in_flight).saturating_sub(self.leases.messages());
        let bytes_room = (member.credit.bytes.saturating_sub(member.bytes))
            .min(self.spec.max_in_flight_bytes.saturating_sub(self.leases.bytes()));
        let of_size = bytes_room.checked_div(bytes).unwrap_or(u64::MAX);
        // As with what is delivered, one alone may be larger.
        let is_first = member.messages == 0 && self.leases.messages() == 0;
        let count = member.free().min(room).min(of_size.max(u64::from(is_first)));
        OffsetRange::new(range.start, range.end.min(range.start.plus(count)))
    }

    /// The member is gone: what it had comes back at once (G-9), and counts as a failure where its
    /// application had begun it (G-10). Nothing is answered any more.
    pub fn on_leave(&mut self, now: Time, id: MemberId, how: Left, out: &mut Vec<Effect>) {
        if !self.members.remove(id) {
            return;
        }
        for range in self.leased_by(id) {
            while let Some(ended) = self.end_first(range) {
                if ended.lease.begun && how != Left::Drained {
                    self.fail(&ended, FailureKind::Disconnected);
                } else {
                    self.give_back(&ended);
                }
            }
        }
        self.activity.left(id);
        self.conclude(now, out);
    }

    /// The member wants no more (G-9): what its application has not begun comes back at once, and it is told
    /// when the rest is settled.
    pub fn on_drain(&mut self, now: Time, id: MemberId, out: &mut Vec<Effect>) {
        let drain = |member: &mut Member| (member.is_draining, member.fetching) = (true, None);
        let Some(()) = self.members.update(id, drain) else { return };
        self.give_back_unbegun(id);
        self.conclude(now, out);
    }

    /// What was just handed out to a member finds no room on the way to it: it may go to others, as if it had
    /// not been handed out, and the member gets nothing before [`Self::on_room`].
    pub fn on_unsent(&mut self, id: MemberId, range: OffsetRange) {
        while let Some(ended) = self.end_first(range) {
            self.give_back(&ended);
        }
        self.members.update(id, |member| {
            member.room = 0;
            if let Some(fetching) = &mut member.fetching {
                // What it was to get may be what it was found to have all of.
                fetching.is_over = false;
            }
        });
    }

    /// There is room on the way to a member again: for so many bytes of what is next, or a single message.
    pub fn on_room(&mut self, id: MemberId, bytes: u64) {
        self.members.update(id, |member| member.room = bytes.max(1));
    }

    /// What the member's application has not begun may go to others.
    pub(super) fn give_back_unbegun(&mut self, id: MemberId) {
        for range in self.leased_by(id) {
            if self.leases.at(range.start).is_some_and(|(_, lease)| !lease.begun) {
                while let Some(ended) = self.end_first(range) {
                    self.give_back(&ended);
                }
            }
        }
    }

    pub(super) fn leased_by(&self, id: MemberId) -> Vec<OffsetRange> {
        self.leases.of(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fetch;
    use super::*;

    #[test]
    fn a_message_larger_than_the_whole_credit_goes_to_who_has_nothing() {
        // G-12
        let mut member = Member::new(Credit { messages: 2, bytes: 100 }, 0);
        assert!(member.takes(101));
        member.add(1, 60);
        assert!(member.takes(40) && !member.takes(41));
        assert_eq!((member.free(), member.share()), (1, (60 << 24) / 100));
        member.add(1, 0);
        assert!(!member.takes(0));
        member.subtract(2, 60);
        member.is_draining = true;
        assert!(!member.takes(1));
        assert!(!Member::new(Credit { messages: 0, bytes: 100 }, 0).is_willing());
    }

    #[test]
    fn who_had_to_wait_for_room_gets_no_more_than_that_at_first() {
        let mut member = Member::new(Credit { messages: 10, bytes: 100 }, 0);
        member.room = 0;
        assert!(member.is_willing() && !member.takes(1));
        member.room = 5;
        // A single message may be larger: whether it finds room is seen then.
        assert!(member.takes(6));
        member.add(1, 6);
        assert_eq!(member.room, u64::MAX);
    }

    #[test]
    fn who_fetches_gets_no_more_than_that() {
        // G-15
        let mut member = Member::new(Credit { messages: 10, bytes: 100 }, 0);
        let fetch = Fetch { number: 1, messages: 2, bytes: 50, waits: true };
        member.fetching = Some(Fetching::new(fetch));
        // One alone may be larger, as with the credit.
        assert!(member.takes(51));
        member.add(1, 20);
        assert!(member.takes(30) && !member.takes(31));
        member.add(1, 20);
        member.subtract(2, 40);
        assert_eq!(member.free(), 0);
        assert!(!member.takes(1));
    }
}
