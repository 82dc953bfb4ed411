//! The same as the group's state, one message at a time and as the rules are written, for the tests.

use railgun_types::{GroupMode, Offset, OffsetRange};

use super::{
    ChangeEffects, ChangeOutcome, ChangeRefused, Context, DeathReason, Held, HeldState, Paused,
};
use crate::command::{FailCause, GroupChange};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    Ready,
    Delayed(i64),
    Dying(DeathReason),
    Parked(DeathReason),
    Acked,
    Dead,
    Removed,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) status: Status,
    attempts: u32,
    pub(super) generation: u32,
    first_failed: i64,
    cause: Option<FailCause>,
    error: Option<String>,
}

const FRESH: Message = Message {
    status: Status::Pending,
    attempts: 0,
    generation: 0,
    first_failed: 0,
    cause: None,
    error: None,
};

pub(super) struct Model {
    pub(super) messages: Vec<Message>,
    pub(super) floor: u64,
    pub(super) leased_upto: u64,
    pub(super) highest_acked: Option<u64>,
    pub(super) epoch: u32,
    pub(super) paused: Option<Paused>,
}

impl Message {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.status, Status::Parked(_) | Status::Acked | Status::Dead | Status::Removed)
    }

    pub(super) fn held(&self) -> Option<Held> {
        let state = match self.status {
            Status::Ready => HeldState::Ready,
            Status::Delayed(until) => HeldState::Delayed { until: railgun_types::Timestamp(until) },
            Status::Dying(reason) => HeldState::Dying { reason },
            Status::Parked(reason) => HeldState::Parked { reason },
            _ => return None,
        };
        Some(Held {
            attempts: self.attempts,
            generation: self.generation,
            first_failed: railgun_types::Timestamp(self.first_failed),
            cause: self.cause,
            error: self.error.as_deref().map(Into::into),
            state,
        })
    }
}

impl Model {
    pub(super) fn new(messages: usize, start: u64) -> Self {
        let removed = Message { status: Status::Removed, ..FRESH };
        let mut all = vec![FRESH; messages];
        all[..start as usize].fill(removed);
        Self {
            messages: all,
            floor: start,
            leased_upto: start,
            highest_acked: None,
            epoch: 0,
            paused: None,
        }
    }

    fn advance(&mut self) {
        while self.messages.get(self.floor as usize).is_some_and(Message::is_settled) {
            self.floor += 1;
        }
    }

    pub(super) fn bury(&mut self, offset: u64, generation: u32) -> bool {
        let message = &mut self.messages[offset as usize];
        let awaited =
            message.generation == generation && matches!(message.status, Status::Dying(_));
        if awaited {
            message.status = Status::Dead;
            self.advance();
        }
        awaited
    }

    pub(super) fn apply(&mut self, change: &GroupChange, context: &Context<'_>) -> ChangeOutcome {
        match self.try_apply(change, context) {
            Ok(effects) if effects == ChangeEffects::default() => ChangeOutcome::Applied,
            Ok(effects) => ChangeOutcome::Effects(Box::new(effects)),
            Err(refused) => ChangeOutcome::Refused(refused),
        }
    }

    fn try_apply(
        &mut self,
        change: &GroupChange,
        context: &Context<'_>,
    ) -> Result<ChangeEffects, ChangeRefused> {
        let (spec, now) = (context.spec, context.log_time.0);
        let mut effects = ChangeEffects::default();
        let by_term = || match context.said_in == context.term {
            true => Ok(()),
            false => Err(ChangeRefused::Stale { term: context.term }),
        };
        let exclusive = spec.mode == GroupMode::Exclusive;
        let by_epoch = |epoch: u32, own: u32| match !exclusive || epoch == own {
            true => Ok(()),
            false => Err(ChangeRefused::Fenced { epoch: own }),
        };
        match change {
            GroupChange::Ack { epoch, ranges } => {
                by_term()?;
                by_epoch(*epoch, self.epoch)?;
                for offset in offsets(ranges) {
                    if offset >= self.leased_upto {
                        add(&mut effects.unknown, offset);
                    } else if self.messages[offset as usize].is_settled() {
                        add(&mut effects.already, offset);
                    } else {
                        self.messages[offset as usize].status = Status::Acked;
                        self.highest_acked = self.highest_acked.max(Some(offset));
                    }
                }
            }
            GroupChange::Fail { epoch, ranges, cause, delay_ms, error } => {
                by_term()?;
                by_epoch(*epoch, self.epoch)?;
                for offset in offsets(ranges) {
                    self.fail(
                        offset,
                        Some((*cause, *delay_ms)),
                        error.as_deref(),
                        context,
                        &mut effects,
                    );
                }
            }
            GroupChange::Reject { epoch, ranges, error } => {
                by_term()?;
                by_epoch(*epoch, self.epoch)?;
                for offset in offsets(ranges) {
                    self.fail(offset, None, error.as_deref(), context, &mut effects);
                }
            }
            GroupChange::Due { offsets } => {
                by_term()?;
                for offset in offsets {
                    if matches!(self.messages[offset.0 as usize].status, Status::Delayed(_)) {
                        self.messages[offset.0 as usize].status = Status::Ready;
                        self.judge(offset.0, false, context, &mut effects);
                    }
                }
            }
            GroupChange::Reserve { upto } => {
                by_term()?;
                self.leased_upto = self.leased_upto.max(upto.0);
            }
            GroupChange::Activate => {
                by_term()?;
                if !exclusive {
                    return Err(ChangeRefused::NotExclusive);
                }
                self.epoch += 1;
            }
            GroupChange::Reset { to, force } => self.reset(to.0, *force)?,
            GroupChange::Pause => self.paused = self.paused.or(Some(Paused::Operator)),
            GroupChange::Resume => self.paused = None,
            GroupChange::Redrive { offsets: ranges } => {
                let wanted: Vec<_> = offsets(ranges).collect();
                for (offset, message) in (0..).zip(&mut self.messages) {
                    let redriven = match message.status {
                        Status::Dead | Status::Parked(_) => {
                            wanted.is_empty() || wanted.contains(&offset)
                        }
                        _ => false,
                    };
                    if redriven {
                        let generation = message.generation + 1;
                        *message = Message {
                            status: Status::Ready,
                            generation,
                            first_failed: now,
                            ..FRESH
                        };
                        effects.messages += 1;
                    }
                }
            }
            GroupChange::Discard { offsets: ranges } => {
                let all = [OffsetRange::new(Offset(0), Offset(self.messages.len() as u64))];
                for offset in offsets(if ranges.is_empty() { &all } else { ranges }) {
                    let message = &mut self.messages[offset as usize];
                    if matches!(message.status, Status::Parked(_) | Status::Dead) {
                        message.status = Status::Acked;
                        effects.messages += 1;
                    }
                }
            }
            GroupChange::Removed { upto } => {
                if spec.pin_retention {
                    return Err(ChangeRefused::Pinned);
                }
                for message in &mut self.messages[..upto.0 as usize] {
                    let is_gone = message.generation == 0
                        && !matches!(
                            message.status,
                            Status::Acked | Status::Dead | Status::Removed
                        );
                    if is_gone {
                        message.status = Status::Removed;
                        effects.messages += 1;
                    }
                }
                if upto.0 > self.floor {
                    effects.skipped = Some(OffsetRange::new(Offset(self.floor), *upto));
                    self.floor = upto.0;
                    self.leased_upto = self.leased_upto.max(upto.0);
                }
            }
        }
        self.advance();
        Ok(effects)
    }

    fn fail(
        &mut self,
        offset: u64,
        failed: Option<(FailCause, Option<u64>)>,
        error: Option<&str>,
        context: &Context<'_>,
        effects: &mut ChangeEffects,
    ) {
        if offset >= self.leased_upto {
            return add(&mut effects.unknown, offset);
        }
        let message = &mut self.messages[offset as usize];
        match (message.status, failed) {
            (Status::Pending | Status::Ready, _) | (Status::Delayed(_), None) => {}
            _ => return add(&mut effects.already, offset),
        }
        if message.attempts == 0 {
            message.first_failed = context.log_time.0;
        }
        message.attempts += 1;
        message.error = error.map(str::to_owned);
        message.cause = failed.map(|(cause, _)| cause);
        let Some((_, delay_ms)) = failed else {
            return self.give_up(offset, DeathReason::Rejected, context, effects);
        };
        let backoff = &context.spec.backoff_ms;
        let nth = (message.attempts as usize).min(backoff.len());
        let delay_ms = delay_ms.unwrap_or(backoff[nth - 1]) as i64;
        message.status = match delay_ms {
            0 => Status::Ready,
            _ => Status::Delayed(context.log_time.0 + delay_ms * 1_000),
        };
        self.judge(offset, true, context, effects);
    }

    fn judge(
        &mut self,
        offset: u64,
        is_failure: bool,
        context: &Context<'_>,
        effects: &mut ChangeEffects,
    ) {
        let (message, dlq) = (&self.messages[offset as usize], &context.spec.dlq);
        let lags = self.highest_acked.is_some_and(|highest| highest > offset + dlq.max_distance);
        let age_us = context.log_time.0 - message.first_failed;
        let reason = if dlq.max_attempts > 0 && message.attempts >= dlq.max_attempts {
            DeathReason::Attempts
        } else if dlq.max_distance > 0
            && lags
            && message.generation == 0
            && message.attempts >= dlq.min_attempts
        {
            DeathReason::Distance
        } else if is_failure && dlq.max_age_ms > 0 && age_us > dlq.max_age_ms as i64 * 1_000 {
            DeathReason::Age
        } else {
            return;
        };
        self.give_up(offset, reason, context, effects);
    }

    fn give_up(
        &mut self,
        offset: u64,
        reason: DeathReason,
        context: &Context<'_>,
        effects: &mut ChangeEffects,
    ) {
        let message = &mut self.messages[offset as usize];
        if context.spec.dlq.enabled {
            message.status = Status::Dying(reason);
            effects.dying.push((Offset(offset), message.generation));
        } else {
            message.status = Status::Parked(reason);
            effects.parked.push(Offset(offset));
        }
    }

    fn reset(&mut self, to: u64, force: bool) -> Result<(), ChangeRefused> {
        let below = &mut self.messages[..to as usize];
        let awaited = |message: &&Message| {
            message.generation == 0
                && matches!(message.status, Status::Dying(_) | Status::Parked(_))
        };
        let messages = below.iter().filter(awaited).count() as u64;
        if messages > 0 && !force {
            return Err(ChangeRefused::GivesUp { messages });
        }
        for message in below {
            let stays = message.generation > 0 || message.status == Status::Dead;
            if !stays {
                *message = Message { status: Status::Removed, ..FRESH };
            }
        }
        self.messages[to as usize..].fill(FRESH);
        (self.floor, self.leased_upto) = (to, to);
        self.highest_acked = self.highest_acked.min(to.checked_sub(1));
        Ok(())
    }
}

fn offsets(ranges: &[OffsetRange]) -> impl Iterator<Item = u64> {
    ranges.iter().flat_map(OffsetRange::iter).map(|offset| offset.0)
}

fn add(ranges: &mut Vec<OffsetRange>, offset: u64) {
    match ranges.last_mut() {
        Some(last) if last.end.0 == offset => last.end.0 += 1,
        _ => ranges.push(OffsetRange::single(Offset(offset))),
    }
}
