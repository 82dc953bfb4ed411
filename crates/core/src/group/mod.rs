//! What is known of a consumer group's messages, as replicated state: which are settled, which have
//! failed, and how far they may have been handed out (SEMANTICS §3, §4). Changed by [`GroupState::apply`]
//! and [`GroupState::bury`] only; it knows no member, no lease and no clock.
//!
//! An offset is in one of these states (G-1). *Settled* is what is below the floor or in `done`, but for
//! what was made pending again: acked, dead, parked or removed. *Held* is what has a history: ready to be
//! tried again, delayed, dying, or parked. All others are *pending*, leased or not.

mod apply;
mod breaker;
mod checkpoint;
mod histories;
mod outcome;

use std::collections::BTreeMap;

use railgun_types::{GroupSpec, Offset, OffsetRange, Timestamp};

pub use histories::{DeathReason, Held, HeldState};
pub use outcome::{ChangeEffects, ChangeOutcome, ChangeRefused};

pub(crate) use outcome::{change_outcome, put_change_outcome};

use crate::builtin_bug::{BuiltinBug, Planted};
use crate::ranges::OffsetSet;
use breaker::Breaker;
use histories::Histories;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// All below are settled, but what was made pending again; this one is not.
    floor: Offset,
    /// Settled ones above the floor.
    done: OffsetSet,
    held: Histories,
    dead: OffsetSet,
    /// How often those of the dead that were made pending again have been.
    generations: BTreeMap<Offset, u32>,
    highest_acked: Option<Offset>,
    leased_upto: Offset,
    epoch: u32,
    paused: Option<Paused>,
    breaker: Breaker,
    planted: Planted,
}

/// Who keeps a group from getting anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Paused {
    /// An operator.
    Operator = 1,
    /// Too many of its last messages are dead (DL-9).
    Breaker = 2,
}

impl Paused {
    fn from_u8(paused: u8) -> Option<Self> {
        match paused {
            1 => Some(Self::Operator),
            2 => Some(Self::Breaker),
            _ => None,
        }
    }
}

/// What holds where changes are applied.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The group's settings.
    pub spec: &'a GroupSpec,
    /// The Raft term of the dispatcher that has said it; 0: an operator has.
    pub said_in: u64,
    /// The Raft term of the entry.
    pub term: u64,
    /// Log time of the entry.
    pub log_time: Timestamp,
}

/// How many messages of a group wait, in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// For the end of a delay.
    pub delayed: u64,
    /// To become dead letters.
    pub dying: u64,
    /// For an operator.
    pub parked: u64,
}

impl Unsettled {
    /// All of them: what counts for `max_unsettled` beside what is leased (G-5).
    #[must_use]
    pub fn total(&self) -> u64 {
        self.delayed + self.dying + self.parked
    }
}

impl GroupState {
    /// A group that begins with `start`.
    #[must_use]
    pub fn new(start: Offset) -> Self {
        Self { floor: start, leased_upto: start, ..Self::default() }
    }

    /// Gives a bug, or none, to a state that was just made or restored.
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
        if planted.is(BuiltinBug::ReservedLost) {
            self.leased_upto = self.known_upto();
        }
    }

    pub(crate) fn planted(&self) -> Planted {
        self.planted
    }

    /// The floor F: everything below is acked, dead, parked or removed, but for what was made pending
    /// again by an operator.
    #[must_use]
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// The highest offset that was acked, from which the distance of a message counts (DL-1).
    #[must_use]
    pub fn highest_acked(&self) -> Option<Offset> {
        self.highest_acked
    }

    /// Nothing at or above it was ever handed out, since the last reset.
    #[must_use]
    pub fn leased_upto(&self) -> Offset {
        self.leased_upto
    }

    /// Activations of members of an exclusive group so far.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What was handed out before counts for nobody's who is the active member from here on: another one is, or
    /// the group has another mode.
    pub(crate) fn begin_epoch(&mut self) {
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Who keeps the group from getting anything, if anybody does.
    #[must_use]
    pub fn paused(&self) -> Option<Paused> {
        self.paused
    }

    /// Whether the message is settled: acked, dead, parked or removed.
    #[must_use]
    pub fn is_done(&self, offset: Offset) -> bool {
        match self.held.get(offset) {
            Some(held) => held.is_parked(),
            None => offset < self.floor || self.done.contains(offset),
        }
    }

    /// What is known of a message that has failed, or was made pending again.
    #[must_use]
    pub fn held(&self, offset: Offset) -> Option<&Held> {
        self.held.get(offset)
    }

    /// All messages with a history, in order.
    pub fn held_iter(&self) -> impl DoubleEndedIterator<Item = (Offset, &Held)> {
        self.held.iter()
    }

    /// Those that may be tried again at once, in order.
    pub fn ready(&self) -> impl DoubleEndedIterator<Item = Offset> {
        self.held.ready()
    }

    /// Those whose dead letters are to be written, with their generations, in order (DL-3).
    pub fn dying(&self) -> impl Iterator<Item = (Offset, u32)> {
        self.held.dying().filter_map(|offset| Some((offset, self.held.get(offset)?.generation)))
    }

    /// Those of a range that wait for an operator, in order.
    pub fn parked_in(&self, range: OffsetRange) -> impl Iterator<Item = Offset> {
        self.held.parked_in(range)
    }

    /// Those that are dead and can be made pending again.
    #[must_use]
    pub fn dead(&self) -> &OffsetSet {
        &self.dead
    }

    /// How often a message that is not settled, or dead, was made pending again.
    #[must_use]
    pub fn generation(&self, offset: Offset) -> u32 {
        match self.held.get(offset) {
            Some(held) => held.generation,
            None => self.generations.get(&offset).copied().unwrap_or(0),
        }
    }

    /// How many messages wait, in which way.
    #[must_use]
    pub fn unsettled_held(&self) -> Unsettled {
        self.held.unsettled()
    }

    /// The first offset at or behind `from` that is neither settled nor has a history.
    #[must_use]
    pub fn next_pending(&self, from: Offset) -> Offset {
        let mut next = from.max(self.floor);
        loop {
            let behind = self.done.first_gap(next);
            if self.held.get(behind).is_none() {
                return behind;
            }
            next = behind.plus(1);
        }
    }

    /// The first offset of `range` that is not settled; its end, if all are.
    #[must_use]
    pub fn next_unsettled(&self, range: OffsetRange) -> Offset {
        let below = OffsetRange::new(range.start, range.end.min(self.floor));
        let redriven = self.held.range(below).find(|(_, held)| !held.is_parked());
        let first = redriven.map(|(offset, _)| offset);
        first.unwrap_or_else(|| self.done.first_gap(range.start.max(self.floor)).min(range.end))
    }

    /// The first offset of `range` that is settled; its end, if none is.
    #[must_use]
    pub fn next_settled(&self, range: OffsetRange) -> Offset {
        let below = OffsetRange::new(range.start, range.end.min(self.floor));
        let mut next = range.start;
        for (offset, held) in self.held.range(below) {
            if next < offset || held.is_parked() {
                return next;
            }
            next = offset.plus(1);
        }
        if next < below.end {
            return next;
        }
        let from = next.max(self.floor);
        let run = self.done.run_of(from).or_else(|| self.done.run_from(from));
        run.map_or(range.end, |run| run.start.max(from).min(range.end))
    }

    /// The offsets from the next one that is neither settled nor has a history, as far as they follow one
    /// another, at most `limit` of them. There may be no records at them yet.
    #[must_use]
    pub fn pending_run(&self, from: Offset, limit: u64) -> OffsetRange {
        let start = self.next_pending(from);
        let done = self.done.run_from(start).map(|run| run.start);
        let ends = [Some(start.plus(limit)), done, self.held.next_from(start)];
        OffsetRange::new(start, ends.into_iter().flatten().min().unwrap_or(start))
    }

    /// Messages before `next`, the stream's next offset, that are not settled.
    #[must_use]
    pub fn lag(&self, next: Offset) -> u64 {
        let below = OffsetRange::new(Offset(0), self.floor);
        let redriven = self.held.range(below).filter(|(_, held)| !held.is_parked()).count();
        self.lag_above_floor(next) + redriven as u64
    }

    /// The same, but for what was made pending again below the floor; at no cost.
    #[must_use]
    pub fn lag_above_floor(&self, next: Offset) -> u64 {
        next.0.saturating_sub(self.floor.0).saturating_sub(self.done.len())
    }

    /// Whether the group awaits the dead letter of this message in this generation (DL-3).
    #[must_use]
    pub fn is_dying(&self, offset: Offset, generation: u32) -> bool {
        self.held.get(offset).is_some_and(|held| {
            held.generation == generation && matches!(held.state, HeldState::Dying { .. })
        })
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
