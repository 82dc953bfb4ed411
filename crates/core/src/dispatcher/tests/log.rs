//! The world's log: what is proposed, applied and lost, by whom.

use super::world::World;
use super::*;

impl World {
    pub(super) fn propose(&mut self) {
        if self.in_flight.is_none() {
            self.in_flight = self.dispatcher.take_proposal();
            self.trace.extend(
                self.is_traced.then(|| format!("{:?} propose {:?}", self.now, self.in_flight)),
            );
        } else {
            // G-13
            assert_eq!(self.dispatcher.take_proposal(), None);
        }
    }

    pub(super) fn commit(&mut self) {
        if let Some(changes) = self.in_flight.take() {
            self.apply(self.replica.term, changes);
        }
    }

    /// An entry, of the dispatcher or (term 0) of an operator.
    pub(super) fn apply(&mut self, term: u64, changes: Vec<GroupChange>) {
        self.trace.extend(self.is_traced.then(|| format!("{:?} apply {changes:?}", self.now)));
        let changes = GroupChanges { group: GROUP, term, changes };
        for change in &changes.changes {
            self.note(change);
        }
        let (replica, now) = (&mut self.replica, self.now);
        let floor = replica.state.floor();
        replica.apply(&changes);
        let mut out = Vec::new();
        self.dispatcher.on_applied(now, &replica.context(term), &changes, &mut out);
        let is_reset = changes.changes.iter().any(|it| matches!(it, GroupChange::Reset { .. }));
        if is_reset && self.is_exclusive() {
            // A rewind is told with it.
            self.unfetch(|_, _| true);
        }
        let state = &self.replica.state;
        if is_reset {
            *self
                .seen
                .entry(if self.dispatcher.is_unclear { "reset in flight" } else { "reset" })
                .or_default() += 1;
            self.live.clear();
            self.acked.clear();
            self.open.clear();
            self.kept.0.clear();
            self.failures.retain(|offset, _| state.held(*offset).is_some());
            self.acks_confirmed.retain(|offset| state.is_done(*offset));
            self.letters.retain(|(offset, _)| {
                state.held(*offset).is_some_and(|it| matches!(it.state, HeldState::Dying { .. }))
            });
            // What it was sent counts no more.
        } else {
            assert!(state.floor() >= floor, "G-1");
        }
        self.live.retain(|offset, _| !state.is_done(*offset));
        self.forget_settled();
        self.take(out);
        self.hand_out();
        self.check();
    }

    /// What an entry is going to do, message by message.
    fn note(&mut self, change: &GroupChange) {
        match change {
            GroupChange::Ack { ranges, epoch } => {
                for offset in ranges.iter().flat_map(OffsetRange::iter) {
                    // X-2, G-7: somebody has said so by a tag that counted, or it was reset since.
                    let is_void = self.dispatcher.is_unclear;
                    assert!(self.acked.remove(&offset) || is_void, "{offset} of {epoch}");
                    if !is_void {
                        self.acks_confirmed.insert(offset);
                    }
                }
            }
            GroupChange::Redrive { .. } => {
                let state = &self.replica.state;
                let is_redriven = |offset: &Offset| {
                    let is_parked = state
                        .held(*offset)
                        .is_some_and(|it| matches!(it.state, HeldState::Parked { .. }));
                    state.dead().contains(*offset) || is_parked
                };
                self.failures.retain(|offset, _| !is_redriven(offset));
            }
            _ => {}
        }
    }

    /// What is done, or pending, has not failed.
    fn forget_settled(&mut self) {
        let state = &self.replica.state;
        self.open.retain(|offset| !state.is_done(*offset));
    }

    pub(super) fn bury(&mut self) {
        let Some(&(offset, generation)) = self.letters.first() else { return };
        self.trace.extend(
            self.is_traced.then(|| format!("{:?} dead letter {offset} {generation}", self.now)),
        );
        self.letters.remove(&(offset, generation));
        if self.dice.one_in(5) {
            self.dispatcher.on_dead_letter_failed(self.now, offset);
            return;
        }
        self.replica.state.bury(offset, generation);
        let mut out = Vec::new();
        self.dispatcher.on_dead_letter(self.now, offset, generation, &mut out);
        self.forget_settled();
        self.take(out);
        self.hand_out();
        self.check();
    }

    pub(super) fn publish(&mut self, count: u64) {
        self.replica.tail = self.replica.tail.plus(count);
        let tail = self.replica.tail;
        self.input(|dispatcher, _, out| dispatcher.on_tail(tail, out));
    }

    /// Another leader: connections end, and what was proposed is lost, or is not.
    pub(super) fn change_leader(&mut self) {
        self.trace.extend(self.is_traced.then(|| format!("{:?} another leader", self.now)));
        if let Some(changes) = self.in_flight.take()
            && self.dice.one_in(2)
        {
            changes.iter().for_each(|change| self.note(change));
            let changes = GroupChanges { group: GROUP, term: self.replica.term, changes };
            self.replica.apply(&changes);
            self.forget_settled();
        }
        if self.dice.one_in(3) {
            // The same one, who begins anew.
            self.replica.leases_before += 1 << 20;
        } else {
            self.replica.term += 1;
        }
        for consumer in &mut self.consumers {
            (consumer.id, consumer.willing_since) = (None, None);
        }
        // G-10: no attempt is counted, and what was said and not committed is lost.
        self.live.clear();
        self.acked.clear();
        self.open.clear();
        self.letters.clear();
        self.cut_off.clear();
        self.active = None;
        let mut out = Vec::new();
        let since = self.now;
        let state = &self.replica.state;
        let may_be_leased = |offset: &Offset| {
            let is_ready = |held: &crate::group::Held| held.state == HeldState::Ready;
            !state.is_done(*offset) && state.held(*offset).is_none_or(is_ready)
        };
        let handed_out = OffsetRange::new(Offset(0), state.leased_upto().min(self.replica.tail));
        // G-14
        let until = since.plus_us(self.replica.spec.ack_wait_ms * 1_000);
        self.kept = (handed_out.iter().filter(may_be_leased).collect(), until);
        self.dispatcher = self.replica.dispatcher(self.replica.term, self.now, since, &mut out);
        self.take(out);
        self.check();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.letters.is_empty() && self.live.is_empty()
    }
}
