//! What the group's state says, once entries are applied, and what is to be said to it next.

use railgun_types::{Offset, OffsetRange};

use super::lease::Fate;
use super::members::Request;
use super::proposal::Proposal;
use super::{DEAD_LETTER_RETRY_US, Dispatcher, Effect, StaleReason, StaleSettle, Time};
use crate::builtin_bug::BuiltinBug;
use crate::command::{GroupChange, GroupChanges};
use crate::group::{ChangeOutcome, Context, HeldState};
use crate::ranges::OffsetSet;

impl Dispatcher {
    /// What is to be proposed now, as of this dispatcher's term: everything that waits, in as few changes as
    /// can be (G-13). `None` while nothing does, or the proposal before is not applied.
    pub fn take_proposal(&mut self) -> Option<Vec<GroupChange>> {
        if self.in_flight.is_some() {
            return None;
        }
        self.waiting.reserve = self.reserve();
        if self.waiting.is_empty() {
            return None;
        }
        let proposal = self.waiting.take();
        self.taken += 1;
        if !self.waiting.is_empty() {
            // Who waits for this one may wait for what is left behind, which are failures.
            let taken = self.taken;
            self.each_request(|request| {
                if request.waits_for == taken && request.fails {
                    request.waits_for += 1;
                }
            });
        }
        let changes = proposal.changes(self.mirror.epoch());
        self.in_flight = Some(proposal);
        Some(changes)
    }

    /// An entry was applied that changes the group: the dispatcher's own proposal, or anybody's.
    pub fn on_applied(
        &mut self,
        now: Time,
        context: &Context<'_>,
        applied: &GroupChanges,
        out: &mut Vec<Effect>,
    ) {
        self.log_clock = (now, context.log_time);
        let own = if applied.term == self.term { self.in_flight.take() } else { None };
        for change in &applied.changes {
            let floor = self.mirror.floor();
            let is_redrive = matches!(change, GroupChange::Redrive { .. });
            let ready = is_redrive.then(|| self.ready());
            let outcome = self.mirror.apply(change, context);
            if outcome.refused().is_some() {
                continue;
            }
            match change {
                GroupChange::Activate => self.activated(out),
                GroupChange::Reset { .. } => self.was_reset(floor, out),
                GroupChange::Removed { .. } => self.was_removed(floor, &outcome, out),
                GroupChange::Redrive { offsets } | GroupChange::Discard { offsets } => {
                    offsets.iter().for_each(|range| self.forget_dead(*range));
                }
                _ => {}
            }
            if let Some(before) = ready {
                self.were_redriven(&before);
            }
        }
        if let Some(own) = own {
            self.was_applied(&own, out);
        }
        self.collect_due(now);
        self.answer_all(out);
        self.conclude(now, out);
    }

    /// The dead letter of a message was appended, in an entry that says nothing else of the group.
    pub fn on_dead_letter(
        &mut self,
        now: Time,
        offset: Offset,
        generation: u32,
        out: &mut Vec<Effect>,
    ) {
        if self.mirror.bury(offset, generation) {
            self.came_back(offset, out);
        }
        self.conclude(now, out);
    }

    /// The dead letter of a message could not be made: it is told again after a while.
    pub fn on_dead_letter_failed(&mut self, now: Time, offset: Offset) {
        self.forget_dying(offset);
        if self.is_dying(offset) {
            let at = now.plus_us(DEAD_LETTER_RETRY_US);
            self.dying.insert(offset, Some(at));
            self.dead_letter_retries.insert((at, offset));
        }
    }

    fn answer_all(&mut self, out: &mut Vec<Effect>) {
        for id in self.members.asking().collect::<Vec<_>>() {
            self.answer(id, out);
        }
    }

    /// All that are not answered.
    fn each_request(&mut self, mut change: impl FnMut(&mut Request)) {
        for id in self.members.asking().collect::<Vec<_>>() {
            self.members.update(id, |member| member.requests.iter_mut().for_each(&mut change));
        }
    }

    /// Looks at what has become of what this dispatcher had proposed.
    fn was_applied(&mut self, own: &Proposal, out: &mut Vec<Effect>) {
        self.failing -= own.failures.values().map(OffsetSet::len).sum::<u64>();
        if self.is_unclear {
            self.is_unclear = false;
            self.begin_anew(out);
            return;
        }
        for range in own.acks.iter() {
            self.blockers.remove(range);
            self.forget_dead(range);
            // It may have died meanwhile, or been reset.
            let lost: Vec<_> = self.not_done(range).collect();
            for range in lost {
                self.tell_stale(range, StaleReason::Superseded);
                range.iter().for_each(|offset| self.came_back(offset, out));
            }
            // Its dead letter was in front: who acked it must not believe that it is done (G-3).
            for range in self.given_up(range) {
                self.tell_stale(range, StaleReason::AlreadySettled);
                // Said again, it is no repeat of something that counted.
                self.past.remove(range);
            }
        }
        let failed = own.failures.values().flat_map(OffsetSet::iter);
        for offset in failed.flat_map(|range| range.iter()).chain(own.due.iter().copied()) {
            self.came_back(offset, out);
        }
    }

    /// The group's state has said what becomes of a message that nobody has.
    fn came_back(&mut self, offset: Offset, out: &mut Vec<Effect>) {
        let range = OffsetRange::single(offset);
        let held = self.mirror.held(offset).map(|held| (held.state, held.generation));
        let (blocks, is_pending) = match held {
            Some((HeldState::Delayed { until }, _)) => {
                self.delay(offset, until);
                (true, false)
            }
            Some((HeldState::Dying { .. }, generation)) => {
                if self.is_new_dying(offset) {
                    out.push(Effect::Dying { offset, generation });
                }
                (true, false)
            }
            Some((HeldState::Parked { .. }, _)) => (false, false),
            Some((HeldState::Ready, _)) => (false, true),
            None => (false, !self.mirror.is_done(offset)),
        };
        if !matches!(held, Some((HeldState::Dying { .. }, _))) {
            self.forget_dying(offset);
        }
        let is_settled = self.is_being_settled(offset);
        if self.is_exclusive() && blocks {
            self.blockers.insert(range);
        } else if !is_settled {
            self.blockers.remove(range);
        }
        if is_pending && !is_settled {
            let pool = if held.is_some() { &mut self.retries } else { &mut self.returned };
            pool.insert(range);
        }
    }

    /// Tells who settled these messages that it did not count.
    fn tell_stale(&mut self, range: OffsetRange, reason: StaleReason) {
        let mut rest = range;
        while let Some((run, past)) = self.past.at_or_behind(rest.start) {
            let range = run.and(rest);
            if range.is_empty() {
                return;
            }
            if !matches!(past.fate, Fate::Failed | Fate::Returned) {
                let stale = StaleSettle { lease: past.lease, range, reason };
                self.members.update(past.member, |member| member.late_stale.push(stale));
            }
            rest.start = range.end;
        }
    }

    /// What may be tried again at once, whether it is leased or not.
    fn ready(&self) -> OffsetSet {
        self.mirror.ready().map(OffsetRange::single).collect()
    }

    /// An operator has made messages pending again. What was ready before may be at members, and what was
    /// acked late, before it died, is about to be settled.
    fn were_redriven(&mut self, before: &OffsetSet) {
        let new = self.mirror.ready().filter(|offset| !before.contains(*offset));
        let new: Vec<_> = new.filter(|offset| !self.is_being_settled(*offset)).collect();
        for offset in new {
            self.retries.insert(OffsetRange::single(offset));
        }
    }

    /// An operator has set the group to another place: what was handed out is void.
    fn was_reset(&mut self, floor: Offset, out: &mut Vec<Effect>) {
        let first = self.leases.at_or_behind(Offset(0)).map(|(run, _)| run.start);
        if self.is_exclusive()
            && let Some(first) = first
        {
            self.rewind(first.min(floor).min(self.mirror.floor()), out);
        }
        let all = OffsetRange::new(Offset(0), Offset(u64::MAX));
        while self.end_first(all).is_some() {}
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting.activates = waiting.activates;
        self.failing -= waiting.failures.values().map(OffsetSet::len).sum::<u64>();
        let in_flight = self.in_flight.iter().flat_map(Proposal::ranges);
        let settled: Vec<_> = waiting.ranges().chain(in_flight).collect();
        for range in settled {
            self.tell_stale(range, StaleReason::Superseded);
        }
        let taken = self.taken;
        self.each_request(|request| request.waits_for = request.waits_for.min(taken));
        self.past = super::RangeMap::default();
        self.is_unclear = self.in_flight.is_some();
        self.begin_anew(out);
    }

    /// Begins with the group's state, when nothing is leased.
    fn begin_anew(&mut self, out: &mut Vec<Effect>) {
        self.grace = None;
        self.retries = OffsetSet::default();
        self.returned = OffsetSet::default();
        self.blockers = OffsetSet::default();
        self.cursor = self.mirror.floor();
        self.look_at_held(out);
        self.collect_ready();
    }

    /// Takes up what is delayed or dying.
    pub(super) fn look_at_held(&mut self, out: &mut Vec<Effect>) {
        self.forget_dead(OffsetRange::new(Offset(0), Offset(u64::MAX)));
        self.delays.clear();
        let held: Vec<_> =
            self.mirror.held_iter().map(|(at, it)| (at, it.state, it.generation)).collect();
        for (offset, state, generation) in held {
            match state {
                HeldState::Delayed { until } => self.delay(offset, until),
                HeldState::Dying { .. } => {
                    let is_forgotten = self.mirror.planted().is(BuiltinBug::DyingForgotten);
                    if self.is_new_dying(offset) && !is_forgotten {
                        out.push(Effect::Dying { offset, generation });
                    }
                }
                HeldState::Ready | HeldState::Parked { .. } => continue,
            }
            if self.is_exclusive() {
                self.blockers.insert(OffsetRange::single(offset));
            }
        }
    }

    /// The stream has lost what was below the floor as it is now.
    fn was_removed(&mut self, floor: Offset, outcome: &ChangeOutcome, out: &mut Vec<Effect>) {
        let lost = OffsetRange::new(floor, self.mirror.floor());
        let mut rest = lost;
        while !rest.is_empty() {
            let done = OffsetRange::new(rest.start, self.mirror.next_unsettled(rest));
            // Said later, an ack of it is no repeat of one that counted.
            while let Some(ended) = self.end_first(done) {
                self.remember(&ended, Fate::Returned);
            }
            self.retries.remove(done);
            self.returned.remove(done);
            self.blockers.remove(done);
            rest.start = done.end.max(rest.start.plus(1));
        }
        self.forget_dead(OffsetRange::new(Offset(0), self.mirror.floor()));
        self.cursor = self.cursor.max(self.mirror.floor());
        if let Some(range) = outcome.effects().and_then(|effects| effects.skipped) {
            out.extend(self.members.ids().map(|member| Effect::Skipped { member, range }));
        }
    }

    /// Whether that dying message was not told yet. From here on it is.
    fn is_new_dying(&mut self, offset: Offset) -> bool {
        let is_new = !self.dying.contains_key(&offset);
        if is_new {
            self.dying.insert(offset, None);
        }
        is_new
    }

    /// Forgets which messages of a range were dying and are not any more.
    fn forget_dead(&mut self, range: OffsetRange) {
        let told = self.dying.range(range.start..range.end.max(range.start));
        let told = told.map(|(offset, _)| *offset);
        let dead: Vec<_> = told.filter(|offset| !self.is_dying(*offset)).collect();
        dead.into_iter().for_each(|offset| self.forget_dying(offset));
    }

    fn forget_dying(&mut self, offset: Offset) {
        if let Some(Some(at)) = self.dying.remove(&offset) {
            self.dead_letter_retries.remove(&(at, offset));
        }
    }

    /// What of `range` is not done.
    fn not_done(&self, range: OffsetRange) -> impl Iterator<Item = OffsetRange> {
        let mut rest = range;
        std::iter::from_fn(move || {
            rest.start = self.mirror.next_unsettled(rest);
            let found = OffsetRange::new(rest.start, self.mirror.next_settled(rest));
            rest.start = found.end;
            (!found.is_empty()).then_some(found)
        })
    }
}
