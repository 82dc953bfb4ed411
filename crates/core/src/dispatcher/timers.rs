//! What happens by itself when its time has come.

use railgun_types::{Offset, Timestamp};

use super::proposal::FailureKind;
use super::{Dispatcher, Effect, Time};

impl Dispatcher {
    /// When [`Self::on_deadline`] is to be called at the latest, if no input comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.leases.first_deadline(),
            self.grace.map(|grace| grace.until),
            self.activity_deadline(),
            self.dead_letter_retries.first().map(|(at, _)| *at),
            self.next_due(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The first delay that ends, by this clock. While delays that are over are proposed nothing of that is
    /// to be done: their apply looks at the others again.
    fn next_due(&self) -> Option<Time> {
        let in_flight = self.in_flight.as_ref();
        if !self.waiting.due.is_empty() || in_flight.is_some_and(|it| !it.due.is_empty()) {
            return None;
        }
        let (until, _) =
            self.mirror.delayed().find(|(_, offset)| !self.is_being_settled(*offset))?;
        let (now, log_time) = self.log_clock;
        let wait_us = u64::try_from(until.since_us(log_time)).unwrap_or(0);
        Some(now.plus_us(wait_us.max(1)))
    }

    /// Does what is to be done by now. `log_time` is what an entry would be stamped with that was made now.
    pub fn on_deadline(&mut self, now: Time, log_time: Timestamp, out: &mut Vec<Effect>) {
        self.log_clock = (now, log_time);
        self.end_leases(now, out);
        if self.grace.is_some_and(|grace| grace.until <= now) {
            self.end_grace();
        }
        self.collect_due(log_time);
        while let Some(&(at, offset)) = self.dead_letter_retries.first()
            && at <= now
        {
            self.dead_letter_retries.pop_first();
            let generation = self.generation(offset);
            if self.is_dying(offset) {
                out.push(Effect::Dying { offset, generation });
            }
        }
        self.conclude(now, out);
    }

    /// Takes back what members have had for too long (G-8).
    fn end_leases(&mut self, now: Time, out: &mut Vec<Effect>) {
        let mut first = None;
        while let Some(range) = self.leases.first_over(now) {
            first = Some(first.map_or(range.start, |first| range.start.min(first)));
            while let Some(ended) = self.end_first(range) {
                if ended.lease.begun {
                    self.fail(&ended, FailureKind::Expired);
                } else {
                    self.give_back(&ended);
                }
            }
        }
        if let Some(first) = first.filter(|_| self.is_exclusive()) {
            self.rewind(first, out);
        }
    }

    /// Proposes that delays that are over are.
    pub(super) fn collect_due(&mut self, log_time: Timestamp) {
        let is_due = |offset| self.in_flight.as_ref().is_some_and(|it| it.due.contains(&offset));
        let over = self.mirror.delayed().take_while(|(until, _)| *until <= log_time);
        let over = over.map(|(_, offset)| offset);
        let due: Vec<_> = over.filter(|it| !is_due(*it) && !self.is_being_settled(*it)).collect();
        self.waiting.due.extend(due);
    }

    /// Whether that message is to become a dead letter.
    pub(super) fn is_dying(&self, offset: Offset) -> bool {
        let held = self.mirror.held(offset);
        held.is_some_and(|held| matches!(held.state, super::HeldState::Dying { .. }))
    }
}
