//! What happens by itself when its time has come.

use railgun_types::{Offset, OffsetRange, Timestamp};

use super::proposal::FailureKind;
use super::{Dispatcher, Effect, Time, UNREADABLE_US};
use crate::group::HeldState;

impl Dispatcher {
    /// When [`Self::on_deadline`] is to be called at the latest, if no input comes before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.leases.first_deadline(),
            self.grace.map(|grace| grace.until),
            self.activity_deadline(),
            self.dead_letter_retries.first().map(|(at, _)| *at),
            self.unreadable.first().map(|(at, _)| *at),
            self.delays.first().map(|(at, ..)| *at),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Does what is to be done by now. `log_time` is what an entry would be stamped with that was made now.
    pub fn on_deadline(&mut self, now: Time, log_time: Timestamp, out: &mut Vec<Effect>) {
        self.log_clock = (now, log_time);
        self.end_leases(now, out);
        if self.grace.is_some_and(|grace| grace.until <= now) {
            self.end_grace();
        }
        self.collect_due(now);
        self.collect_unreadable(now);
        while let Some(&(at, offset)) = self.dead_letter_retries.first()
            && at <= now
        {
            self.dead_letter_retries.pop_first();
            self.dying.insert(offset, None);
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

    /// A message is delayed until this log time. From here on its delay runs by the clock that does not leap:
    /// log time stands still while the clock that stamps it is behind it.
    pub(super) fn delay(&mut self, offset: Offset, until: Timestamp) {
        let (now, log_time) = self.log_clock;
        let wait_us = u64::try_from(until.since_us(log_time)).unwrap_or(0);
        self.delays.insert((now.plus_us(wait_us), offset, until));
    }

    /// Proposes that delays that are over are.
    pub(super) fn collect_due(&mut self, now: Time) {
        while let Some(&(at, offset, until)) = self.delays.first()
            && at <= now
        {
            self.delays.pop_first();
            let state = self.mirror.held(offset).map(|held| held.state);
            // What is being settled tells what became of it.
            let is_delayed = matches!(state, Some(HeldState::Delayed { until: it }) if it == until);
            if is_delayed && !self.is_being_settled(offset) {
                self.waiting.due.insert(offset);
            }
        }
    }

    /// The record of a retry cannot be read: others go before it for a while. In an exclusive group nothing
    /// does.
    pub fn on_unreadable(&mut self, now: Time, offset: Offset) {
        if !self.is_exclusive() && self.retries.remove(OffsetRange::single(offset)) > 0 {
            self.unreadable.insert((now.plus_us(UNREADABLE_US), offset));
        }
    }

    fn collect_unreadable(&mut self, now: Time) {
        while let Some(&(at, offset)) = self.unreadable.first()
            && at <= now
        {
            self.unreadable.pop_first();
            let state = self.mirror.held(offset).map(|held| held.state);
            let is_free = self.leases.at(offset).is_none() && !self.is_being_settled(offset);
            if state == Some(HeldState::Ready) && is_free {
                self.retries.insert(OffsetRange::single(offset));
            }
        }
    }

    /// Whether that message is to become a dead letter.
    pub(super) fn is_dying(&self, offset: Offset) -> bool {
        let held = self.mirror.held(offset);
        held.is_some_and(|held| matches!(held.state, HeldState::Dying { .. }))
    }
}
