//! The changes of a group, one function each.

use std::sync::Arc;

use railgun_types::limits::{DEAD_RUNS_PER_GROUP, REDRIVEN_PER_CHANGE};
use railgun_types::{GroupMode, Offset, OffsetRange, Timestamp};

use super::outcome::push;
use super::{
    ChangeEffects, ChangeOutcome, ChangeRefused, Context, DeathReason, GroupState, Held, HeldState,
    Paused,
};
use crate::builtin_bug::BuiltinBug;
use crate::command::{FailCause, GroupChange};

const US_PER_MS: u64 = 1_000;

/// How a delivery has ended that will not count as done.
#[derive(Clone, Copy)]
enum Failure {
    /// It may be tried again, after this delay, or the group's.
    Failed {
        cause: FailCause,
        delay_ms: Option<u64>,
    },
    Rejected,
}

impl GroupState {
    /// Applies what is said of the group.
    pub fn apply(&mut self, change: &GroupChange, context: &Context<'_>) -> ChangeOutcome {
        if let Some(refused) = self.refusal(change, context) {
            return ChangeOutcome::Refused(refused);
        }
        let mut effects = ChangeEffects::default();
        match change {
            GroupChange::Ack { ranges, .. } => {
                ranges.iter().for_each(|range| self.ack(*range, &mut effects));
            }
            GroupChange::Fail { ranges, cause, delay_ms, error, .. } => {
                let failure = Failure::Failed { cause: *cause, delay_ms: *delay_ms };
                let error = error.as_deref();
                ranges
                    .iter()
                    .for_each(|range| self.fail(*range, failure, error, context, &mut effects));
            }
            GroupChange::Reject { ranges, error, .. } => {
                let (failure, error) = (Failure::Rejected, error.as_deref());
                ranges
                    .iter()
                    .for_each(|range| self.fail(*range, failure, error, context, &mut effects));
            }
            GroupChange::Due { offsets } => {
                offsets.iter().for_each(|offset| self.due(*offset, context, &mut effects));
            }
            GroupChange::Reserve { upto } => self.leased_upto = self.leased_upto.max(*upto),
            GroupChange::Activate => self.begin_epoch(),
            GroupChange::Reset { to, .. } => self.reset(*to),
            GroupChange::Pause => self.paused = self.paused.or(Some(Paused::Operator)),
            GroupChange::Resume => {
                // What has stopped it would stop it again, by the next dead message.
                if self.paused.take() == Some(Paused::Breaker) {
                    self.breaker.clear();
                }
            }
            GroupChange::Redrive { offsets } => {
                effects.messages = self.redrive(offsets, context.log_time);
            }
            GroupChange::Discard { offsets } => effects.messages = self.discard(offsets),
            GroupChange::Removed { upto } => self.removed(*upto, &mut effects),
        }
        self.advance();
        effects.outcome()
    }

    /// Why nothing is to become of the change.
    fn refusal(&self, change: &GroupChange, context: &Context<'_>) -> Option<ChangeRefused> {
        let Context { spec, said_in, term, .. } = *context;
        let said_by_dispatcher = match change {
            GroupChange::Ack { .. }
            | GroupChange::Fail { .. }
            | GroupChange::Reject { .. }
            | GroupChange::Due { .. }
            | GroupChange::Reserve { .. }
            | GroupChange::Activate => true,
            GroupChange::Reset { .. }
            | GroupChange::Pause
            | GroupChange::Resume
            | GroupChange::Redrive { .. }
            | GroupChange::Discard { .. }
            | GroupChange::Removed { .. } => false,
        };
        // A dispatcher that is not the leader's any more has handed out what it does not own.
        if said_by_dispatcher && said_in != term {
            return Some(ChangeRefused::Stale { term });
        }
        let is_exclusive = spec.mode == GroupMode::Exclusive;
        match *change {
            GroupChange::Ack { epoch, .. }
            | GroupChange::Fail { epoch, .. }
            | GroupChange::Reject { epoch, .. }
                if is_exclusive && epoch != self.epoch =>
            {
                Some(ChangeRefused::Fenced { epoch: self.epoch })
            }
            GroupChange::Activate if !is_exclusive => Some(ChangeRefused::NotExclusive),
            GroupChange::Removed { .. } if spec.pin_retention => Some(ChangeRefused::Pinned),
            GroupChange::Reset { to, force: false } => {
                let given_up = self.held.iter().filter(|(offset, held)| {
                    let is_lost = *offset < to && held.generation == 0;
                    let is_awaited =
                        matches!(held.state, HeldState::Dying { .. } | HeldState::Parked { .. });
                    is_lost && is_awaited
                });
                let messages = given_up.count() as u64;
                (messages > 0).then_some(ChangeRefused::GivesUp { messages })
            }
            _ => None,
        }
    }

    /// Whether the change would change nothing, whoever says it.
    pub(crate) fn is_idle(&self, change: &GroupChange) -> bool {
        match change {
            GroupChange::Reserve { upto } => *upto <= self.leased_upto,
            GroupChange::Pause => self.paused.is_some(),
            GroupChange::Resume => self.paused.is_none(),
            GroupChange::Ack { ranges, .. }
            | GroupChange::Fail { ranges, .. }
            | GroupChange::Reject { ranges, .. } => ranges.is_empty(),
            GroupChange::Due { offsets } => offsets.is_empty(),
            GroupChange::Activate
            | GroupChange::Reset { .. }
            | GroupChange::Redrive { .. }
            | GroupChange::Discard { .. }
            | GroupChange::Removed { .. } => false,
        }
    }

    /// The dead letter of this message is in the companion: in the same entry, so once (DL-3). `false`:
    /// it is not awaited, and nothing changes.
    pub fn bury(&mut self, offset: Offset, generation: u32) -> bool {
        if !self.is_dying(offset, generation) {
            return false;
        }
        self.held.remove(offset);
        let message = OffsetRange::single(offset);
        if offset >= self.floor {
            self.done.insert(message);
        }
        self.dead.insert(message);
        if generation > 0 {
            self.generations.insert(offset, generation);
        }
        if self.dead.runs() > DEAD_RUNS_PER_GROUP
            && let Some(forgotten) = self.dead.pop_first()
        {
            self.forget_generations(forgotten);
        }
        if self.breaker.died() {
            self.paused = self.paused.or(Some(Paused::Breaker));
        }
        self.advance();
        true
    }

    /// Moves the floor over what is settled.
    fn advance(&mut self) {
        while let Some(first) = self.done.first()
            && first.start <= self.floor
        {
            self.floor = self.floor.max(first.end);
            self.done.pop_first();
        }
    }

    /// The parts of a range below the floor, and those above that may have been handed out. What is
    /// beyond is noted.
    fn parts(&self, range: OffsetRange, effects: &mut ChangeEffects) -> [OffsetRange; 2] {
        push(&mut effects.unknown, range.and(OffsetRange::new(self.leased_upto, Offset(u64::MAX))));
        let below = range.and(OffsetRange::new(Offset(0), self.floor));
        [below, range.and(OffsetRange::new(self.floor, self.leased_upto))]
    }

    fn ack(&mut self, range: OffsetRange, effects: &mut ChangeEffects) {
        let [below, above] = self.parts(range, effects);
        if !below.is_empty() {
            self.ack_below(below, effects);
        }
        if above.is_empty() {
            return;
        }
        let mut last = Some(Offset(above.end.0 - 1));
        if self.done.within(above).next().is_some() {
            self.done.within(above).for_each(|done| push(&mut effects.already, done));
            last = self.done.missing(above).last().map(|missing| Offset(missing.end.0 - 1));
        }
        if !self.held.is_empty() {
            self.held.remove_unparked(above);
        }
        let acked = self.done.insert(above);
        self.breaker.acked(acked);
        // Never back: what is acked late lies far below.
        self.highest_acked = self.highest_acked.max(last);
    }

    /// Below the floor only what was made pending again can be acked.
    fn ack_below(&mut self, range: OffsetRange, effects: &mut ChangeEffects) {
        let acked = self.held.remove_unparked(range);
        self.breaker.acked(acked.len() as u64);
        self.highest_acked = self.highest_acked.max(acked.last().copied());
        let mut from = range.start;
        for offset in acked {
            push(&mut effects.already, OffsetRange::new(from, offset));
            from = offset.plus(1);
        }
        push(&mut effects.already, OffsetRange::new(from, range.end));
    }

    fn fail(
        &mut self,
        range: OffsetRange,
        failure: Failure,
        error: Option<&str>,
        context: &Context<'_>,
        effects: &mut ChangeEffects,
    ) {
        let parts = self.parts(range, effects);
        // One text for all of them.
        let error: Option<Arc<str>> = error.map(Arc::from);
        for offset in parts.iter().flat_map(OffsetRange::iter) {
            let is_out = match self.held.get(offset) {
                None => !self.is_done(offset),
                Some(held) => match (held.state, failure) {
                    (HeldState::Ready, _) => true,
                    // The lease had ended before, and it was not handed out again (G-7).
                    (HeldState::Delayed { .. }, Failure::Rejected) => true,
                    _ => false,
                },
            };
            if !is_out {
                push(&mut effects.already, OffsetRange::single(offset));
                continue;
            }
            let now = context.log_time;
            let mut held = self.held.remove(offset).unwrap_or_else(|| Held::new(0, now));
            if held.attempts == 0 {
                held.first_failed = now;
            }
            held.attempts = held.attempts.saturating_add(1);
            held.error.clone_from(&error);
            let verdict = match failure {
                Failure::Rejected => {
                    held.cause = None;
                    Err(DeathReason::Rejected)
                }
                Failure::Failed { cause, delay_ms } => {
                    held.cause = Some(cause);
                    let backoff = || context.spec.backoff_after_ms(held.attempts);
                    let delay_ms = delay_ms.unwrap_or_else(backoff);
                    let reason = self.death(offset, &held, context).or_else(|| age(&held, context));
                    reason.map_or(Ok(delay_ms), Err)
                }
            };
            self.hold(offset, held, verdict, context, effects);
        }
    }

    /// Why a message is given up when it is released, or its delay is over, if it is. It is judged by what
    /// is set now (DL-8).
    fn death(&self, offset: Offset, held: &Held, context: &Context<'_>) -> Option<DeathReason> {
        let dlq = &context.spec.dlq;
        if dlq.max_attempts != 0 && held.attempts >= dlq.max_attempts {
            return Some(DeathReason::Attempts);
        }
        // What was made pending again is far behind from the start (DL-7).
        let distance = self.highest_acked.map_or(0, |acked| acked.0.saturating_sub(offset.0));
        let lags = dlq.max_distance != 0 && held.generation == 0 && distance > dlq.max_distance;
        (lags && held.attempts >= dlq.min_attempts).then_some(DeathReason::Distance)
    }

    /// Keeps a message for another try after so many ms, or for its end.
    fn hold(
        &mut self,
        offset: Offset,
        mut held: Held,
        verdict: Result<u64, DeathReason>,
        context: &Context<'_>,
        effects: &mut ChangeEffects,
    ) {
        held.state = match verdict {
            Ok(0) => HeldState::Ready,
            Ok(delay_ms) => {
                let delay_us = i64::try_from(delay_ms.saturating_mul(US_PER_MS));
                let until = context.log_time.0.saturating_add(delay_us.unwrap_or(i64::MAX));
                HeldState::Delayed { until: Timestamp(until) }
            }
            Err(reason) if context.spec.dlq.enabled => {
                effects.dying.push((offset, held.generation));
                HeldState::Dying { reason }
            }
            Err(reason) => {
                effects.parked.push(offset);
                if offset >= self.floor {
                    self.done.insert(OffsetRange::single(offset));
                }
                HeldState::Parked { reason }
            }
        };
        self.held.insert(offset, held);
    }

    fn due(&mut self, offset: Offset, context: &Context<'_>, effects: &mut ChangeEffects) {
        if !matches!(self.held.get(offset).map(|it| it.state), Some(HeldState::Delayed { .. })) {
            return;
        }
        let Some(held) = self.held.remove(offset) else { return };
        let verdict = self.death(offset, &held, context).map_or(Ok(0), Err);
        self.hold(offset, held, verdict, context, effects);
    }

    fn reset(&mut self, to: Offset) {
        self.floor = to;
        // Settles of what was handed out before are none of what is handed out from here on.
        self.leased_upto = to;
        self.done.clear();
        self.held.retain(|offset, held| offset < to && held.generation > 0);
        self.dead.remove(OffsetRange::new(to, Offset(u64::MAX)));
        self.generations.split_off(&to);
        let below = to.0.checked_sub(1).map(Offset);
        self.highest_acked = self.highest_acked.min(below);
    }

    /// Makes dead and parked messages pending again, the lowest first; how many.
    fn redrive(&mut self, ranges: &[OffsetRange], now: Timestamp) -> u64 {
        let all = [OffsetRange::new(Offset(0), Offset(u64::MAX))];
        let mut left = REDRIVEN_PER_CHANGE;
        for range in if ranges.is_empty() { &all } else { ranges } {
            let parked = self.held.parked_in(*range).map(OffsetRange::single);
            let mut runs: Vec<_> = self.dead.within(*range).chain(parked).collect();
            runs.sort_unstable();
            for run in runs {
                let run = OffsetRange::new(run.start, run.end.min(run.start.plus(left)));
                left -= run.len();
                self.dead.remove(run);
                self.done.remove(run);
                for offset in run.iter() {
                    let parked = self.held.remove(offset).map(|held| held.generation);
                    let before = parked.or_else(|| self.generations.remove(&offset));
                    let generation = before.unwrap_or(0).saturating_add(1);
                    self.held.insert(offset, Held::new(generation, now));
                }
            }
        }
        if self.planted.is(BuiltinBug::RedriveMovesFloor)
            && let Some(first) = self.held.ready().next()
        {
            self.floor = self.floor.min(first);
        }
        REDRIVEN_PER_CHANGE - left
    }

    /// Dead and parked messages cannot be made pending again any more; how many.
    fn discard(&mut self, ranges: &[OffsetRange]) -> u64 {
        let all = [OffsetRange::new(Offset(0), Offset(u64::MAX))];
        let mut messages = 0;
        for range in if ranges.is_empty() { &all } else { ranges } {
            let parked: Vec<_> = self.held.parked_in(*range).collect();
            messages += parked.len() as u64;
            parked.iter().for_each(|offset| drop(self.held.remove(*offset)));
            messages += self.dead.remove(*range);
            self.forget_generations(*range);
        }
        messages
    }

    fn forget_generations(&mut self, range: OffsetRange) {
        let gone = self.generations.range(range.start..range.end.max(range.start));
        let gone: Vec<_> = gone.map(|(offset, _)| *offset).collect();
        for offset in gone {
            self.generations.remove(&offset);
        }
    }

    fn removed(&mut self, upto: Offset, effects: &mut ChangeEffects) {
        let parked = self.held.parked_in(OffsetRange::new(Offset(0), upto));
        let is_original =
            |offset: &Offset| self.held.get(*offset).is_some_and(|it| it.generation == 0);
        effects.messages = parked.filter(is_original).count() as u64;
        // What was made pending again is delivered from its dead letter (DL-7).
        self.held.retain(|offset, held| offset >= upto || held.generation > 0);
        if upto <= self.floor {
            return;
        }
        let gone = OffsetRange::new(self.floor, upto);
        let lost: u64 = self.done.missing(gone).map(|range| range.len()).sum();
        let kept = self.held.range(gone).filter(|(_, held)| !held.is_parked()).count() as u64;
        effects.messages += lost - kept;
        effects.skipped = Some(gone);
        self.done.remove(gone);
        self.floor = upto;
        self.leased_upto = self.leased_upto.max(upto);
    }
}

/// Whether a message that fails is too old by then (DL-2).
fn age(held: &Held, context: &Context<'_>) -> Option<DeathReason> {
    let max_age_ms = context.spec.dlq.max_age_ms;
    let age_us = context.log_time.since_us(held.first_failed);
    let max_us = i64::try_from(max_age_ms.saturating_mul(US_PER_MS)).unwrap_or(i64::MAX);
    (max_age_ms != 0 && age_us > max_us).then_some(DeathReason::Age)
}
