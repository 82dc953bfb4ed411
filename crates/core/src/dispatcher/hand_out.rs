//! Which message is next, and who gets it.

use std::sync::Arc;

use railgun_types::{Offset, OffsetRange};

use super::lease::{Lease, Sizes, UNBEGUN_US_MAX, lease_id};
use super::members::Member;
use super::{Dispatcher, Effect, MemberId, OfferedRun, Time, Want};
use crate::builtin_bug::BuiltinBug;

/// Most messages of one delivery where others could take some, too.
const RUN_MAX: u64 = 256;

/// What is left of the stream for a run, whose first message is wanted.
#[derive(Clone, Copy)]
struct Next {
    want: Want,
    offset: Offset,
}

impl Dispatcher {
    /// Which record is to be offered next; its successors are probably wanted, too. Retries come first, then
    /// first deliveries, each in the order of offsets; in an exclusive group everything does.
    #[must_use]
    pub fn wants(&self) -> Want {
        let Some(next) = self.next() else { return Want::Nothing };
        let known = self.too_large.filter(|(offset, _)| *offset == next.offset);
        let bytes = known.map_or(0, |(_, bytes)| bytes);
        let is_possible = self.has_room(bytes) && self.receiver(bytes, None).is_some();
        if is_possible { next.want } else { Want::Nothing }
    }

    /// Hands out what it can of these records, from the first wanted one on. Returns how many of them are
    /// dealt with: ask [`Self::wants`] again, and offer the rest if it begins there.
    pub fn assign(&mut self, now: Time, offered: &OfferedRun<'_>, out: &mut Vec<Effect>) -> usize {
        let mut done = 0;
        while let Want::Retry(offset) | Want::Fresh(offset) = self.wants()
            && let Some(at) = offset.0.checked_sub(offered.base.0)
            && let Some(bytes) = offered.bytes.get(at as usize..)
            && !bytes.is_empty()
            && at as usize >= done
        {
            match self.hand_out(now, offset, bytes, out) {
                0 => break,
                count => done = at as usize + count,
            }
        }
        if done > 0 {
            self.tell_stall(out);
        }
        done
    }

    /// Hands out the message that is next, and as many behind it as go well with it. Returns how many.
    fn hand_out(
        &mut self,
        now: Time,
        offset: Offset,
        bytes: &[u32],
        out: &mut Vec<Effect>,
    ) -> usize {
        let first = u64::from(bytes[0]);
        self.end_fetches_without_room(first, out);
        let (holder, alike) = self.last_holder(offset);
        let receiver = self.receiver(first, holder).filter(|_| self.has_room(first));
        let Some((member, has_others)) = receiver else {
            self.too_large = Some((offset, first));
            return 0;
        };
        let most = self.members.get(member).map_or(1, Member::free);
        let run = self.run(offset, alike.min(bytes.len() as u64).min(most));
        let count = self.share_of(member, has_others, &bytes[..run.len() as usize]);
        if self.is_exclusive() && self.leases.at_or_behind(offset).is_some() {
            // It has come back by itself, while the member has later ones.
            self.rewind(offset, out);
        }
        let range = OffsetRange::new(offset, offset.plus(count as u64));
        let attempts = self.mirror.held(offset).map_or(0, |held| held.attempts);
        let (attempt, generation) = (attempts.saturating_add(1), self.generation(offset));
        self.delivered += 1;
        let id = self.new_lease(offset);
        let is_even = bytes[..count].iter().all(|size| *size == bytes[0]);
        let sizes = match is_even {
            true => Sizes::Even(bytes[0]),
            false => Sizes::Each(offset, Arc::from(&bytes[..count])),
        };
        let deadline = now.plus_us(UNBEGUN_US_MAX);
        let (granted, begun) = (now, false);
        self.lease(
            range,
            Lease { id, member, attempt, generation, begun, granted, deadline, sizes },
        );
        self.cursor = self.cursor.max(range.end);
        let served = self.delivered;
        self.members.update(member, |member| member.served = served);
        // Where nobody is the active one, there is no token.
        let epoch = if self.is_exclusive() { self.mirror.epoch() } else { 0 };
        out.push(Effect::Deliver { member, lease: id, range, attempt, epoch, generation });
        count
    }

    /// The lease of a delivery whose first message this is.
    fn new_lease(&self, offset: Offset) -> u64 {
        if self.mirror.planted().is(BuiltinBug::LeaseReused)
            && let Some((run, past)) = self.past.at_or_behind(offset)
            && run.contains(offset)
        {
            return past.lease;
        }
        lease_id(self.term, self.first_lease + self.delivered)
    }

    /// The message that is to go out next, if any may.
    fn next(&self) -> Option<Next> {
        if self.mirror.paused().is_some() || self.is_unclear || self.members.is_empty() {
            return None;
        }
        let upto = self.mirror.leased_upto();
        let retry = self.retries.first().map(|range| range.start);
        let retry = retry.filter(|offset| *offset < upto && *offset < self.tail);
        let retry = retry.map(|offset| Next { want: Want::Retry(offset), offset });
        let fresh = self.next_fresh();
        if self.is_exclusive() {
            let offsets = [retry.map(|it| it.offset), fresh, self.first_blocker()];
            let first = offsets.into_iter().flatten().min()?;
            if self.grace.is_some() || self.first_blocker() == Some(first) {
                return None;
            }
            if retry.is_none_or(|retry| first < retry.offset) {
                return fresh.filter(|it| self.may_be_fresh(*it)).map(Next::fresh);
            }
            return retry;
        }
        let retry = retry.filter(|_| !self.puts_off_retries);
        retry.or_else(|| fresh.filter(|it| self.may_be_fresh(*it)).map(Next::fresh))
    }

    /// Whether what is new goes before retries: while the record of the next retry is being read, which may
    /// take long. An exclusive group keeps its order.
    pub fn put_off_retries(&mut self, puts_off: bool) {
        self.puts_off_retries = puts_off;
    }

    /// Its offset.
    pub(super) fn next_offset(&self) -> Option<Offset> {
        self.next().map(|next| next.offset)
    }

    /// The first message that was not tried, whether it may be handed out or not.
    pub(super) fn next_fresh(&self) -> Option<Offset> {
        let returned = self.returned.first().map(|range| range.start);
        let next = returned.unwrap_or_else(|| self.mirror.next_pending(self.cursor));
        (next < self.tail).then_some(next)
    }

    /// The first message that an exclusive group waits for.
    pub(super) fn first_blocker(&self) -> Option<Offset> {
        self.blockers.first().map(|range| range.start)
    }

    fn may_be_fresh(&self, offset: Offset) -> bool {
        offset < self.mirror.leased_upto() && !self.is_beyond(offset)
    }

    /// Whether the group's bounds forbid a first delivery of that message (G-5).
    pub(super) fn is_beyond(&self, offset: Offset) -> bool {
        self.unsettled() >= u64::from(self.spec.max_unsettled)
            || offset >= self.mirror.floor().plus(self.spec.window)
    }

    /// Messages that are leased, delayed, dying or parked, or about to be.
    pub(super) fn unsettled(&self) -> u64 {
        self.leases.messages() + self.failing + self.mirror.unsettled_held().total()
    }

    /// Whether the group may have a message of that size more in flight (G-12). As with a member, one alone
    /// may be larger.
    fn has_room(&self, bytes: u64) -> bool {
        let (messages, used) = (self.leases.messages(), self.leases.bytes());
        let fits = used.saturating_add(bytes) <= self.spec.max_in_flight_bytes || messages == 0;
        messages < u64::from(self.spec.max_in_flight) && fits
    }

    /// Who gets a message of that size, and whether others could: who uses least of its credit, and of those
    /// who got something longest ago. Who had it last gets it only if nobody else can (G-11).
    fn receiver(&self, bytes: u64, last: Option<MemberId>) -> Option<(MemberId, bool)> {
        if self.is_exclusive() {
            let only = self.activity.receiver()?;
            return self.members.get(only)?.takes(bytes).then_some((only, false));
        }
        let takers = self.members.takers().filter(|(_, member)| member.takes(bytes));
        let mut takers = takers.map(|(id, _)| id);
        let first = takers.next()?;
        match takers.next() {
            Some(second) if last == Some(first) => Some((second, true)),
            second => Some((first, second.is_some())),
        }
    }

    /// Who had a message last, and for how many from there on that is so. In an exclusive group it does not
    /// matter.
    fn last_holder(&self, offset: Offset) -> (Option<MemberId>, u64) {
        if self.is_exclusive() || self.cursor <= offset {
            return (None, u64::MAX);
        }
        match self.past.at_or_behind(offset) {
            Some((run, past)) if run.start <= offset => (Some(past.member), run.end.0 - offset.0),
            Some((run, _)) => (None, run.start.0 - offset.0),
            None => (None, u64::MAX),
        }
    }

    /// The messages from `offset` on that can go out as one delivery: of one attempt, and within all bounds
    /// that do not depend on who gets them.
    fn run(&self, offset: Offset, max: u64) -> OffsetRange {
        let upto = self.mirror.leased_upto().min(self.tail);
        let upto = if self.is_exclusive() {
            self.first_blocker().map_or(upto, |blocker| upto.min(blocker))
        } else {
            upto
        };
        let range = OffsetRange::new(offset, offset.plus(max).min(upto));
        if self.retries.first().is_some_and(|retries| retries.start == offset) {
            return self.retries_alike(range);
        }
        let beyond = self.mirror.floor().plus(self.spec.window);
        let unsettled = u64::from(self.spec.max_unsettled).saturating_sub(self.unsettled());
        let end = range.end.min(beyond).min(offset.plus(unsettled));
        match self.returned.first() {
            Some(returned) => OffsetRange::new(offset, end.min(returned.end)),
            None => self.mirror.pending_run(offset, end.0.saturating_sub(offset.0)),
        }
    }

    fn retries_alike(&self, range: OffsetRange) -> OffsetRange {
        let end = self.retries.first().map_or(range.start, |retries| retries.end.min(range.end));
        let tag = |offset| self.mirror.held(offset).map(|held| (held.attempts, held.generation));
        let first = tag(range.start);
        let alike = OffsetRange::new(range.start, end).iter();
        let count = alike.take_while(|offset| tag(*offset) == first).count();
        OffsetRange::new(range.start, range.start.plus(count as u64))
    }

    /// How many of these messages the member gets at once: at least one, which it is known to have room for.
    fn share_of(&self, id: MemberId, has_others: bool, bytes: &[u32]) -> usize {
        let Some(member) = self.members.get(id) else { return 1 };
        let room = u64::from(self.spec.max_in_flight).saturating_sub(self.leases.messages());
        let mut max = member.free().min(room).min(bytes.len() as u64);
        if has_others {
            max = max.min(RUN_MAX).min(member.free() / 4);
        }
        let bytes_room = (member.credit.bytes.saturating_sub(member.bytes))
            .min(self.spec.max_in_flight_bytes.saturating_sub(self.leases.bytes()))
            .min(member.fetching.map_or(u64::MAX, |fetching| fetching.free_bytes()))
            .min(member.room);
        let mut used = 0;
        let fits = bytes.iter().take(max as usize).take_while(|size| {
            used += u64::from(**size);
            used <= bytes_room
        });
        fits.count().max(1)
    }

    /// Up to where messages are to be reserved, if more are: ahead, so that nobody waits for it. A group that
    /// had to wait reserves more at a time.
    pub(super) fn reserve(&mut self) -> Option<Offset> {
        if self.members.is_empty() {
            return None;
        }
        let upto = self.mirror.leased_upto();
        if self.cursor.plus(RESERVE_BLOCK * self.reserve_blocks / 2) < upto {
            return None;
        }
        let had_to_wait = self.cursor >= upto && self.delivered > 0 && self.cursor < self.tail;
        if had_to_wait {
            self.reserve_blocks = (self.reserve_blocks * 2).min(RESERVE_BLOCKS_MAX);
        }
        let ahead = self.cursor.plus(RESERVE_BLOCK * self.reserve_blocks);
        Some(Offset(ahead.0.checked_next_multiple_of(RESERVE_BLOCK).unwrap_or(u64::MAX)))
    }
}

/// Messages that are reserved at a time, and the most such blocks at once.
pub(super) const RESERVE_BLOCK: u64 = 1_000;
const RESERVE_BLOCKS_MAX: u64 = 64;

impl Next {
    fn fresh(offset: Offset) -> Self {
        Self { want: Want::Fresh(offset), offset }
    }
}
