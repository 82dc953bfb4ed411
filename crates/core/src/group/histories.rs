//! Messages of a group that have failed, or were made pending again, and what they wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use railgun_types::{Offset, OffsetRange, Timestamp};

use super::Unsettled;
use crate::command::FailCause;

/// What is known of a message that has failed, or was made pending again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Deliveries that have failed since it was made pending last (G-10).
    pub attempts: u32,
    /// How often it was made pending again (DL-7).
    pub generation: u32,
    /// Log time of the first failure, or of being made pending again.
    pub first_failed: Timestamp,
    /// How it failed last; `None`: it was rejected, or has not failed yet.
    pub cause: Option<FailCause>,
    /// What the consumer said about it then.
    pub error: Option<Arc<str>>,
    /// What it waits for.
    pub state: HeldState,
}

/// What a message with a history waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// To be tried again, at once.
    Ready,
    /// To be tried again, at this log time.
    Delayed {
        /// When.
        until: Timestamp,
    },
    /// To become a dead letter.
    Dying {
        /// Why.
        reason: DeathReason,
    },
    /// For an operator: the group has no dead letters. It does not keep the floor.
    Parked {
        /// Why.
        reason: DeathReason,
    },
}

/// Why a message is given up (DL-1, DL-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeathReason {
    /// Too many of its deliveries failed.
    Attempts = 1,
    /// The group has acked too far beyond it.
    Distance = 2,
    /// Its first failure is too long ago.
    Age = 3,
    /// A consumer will never take it.
    Rejected = 4,
}

impl DeathReason {
    /// The reason of this number.
    #[must_use]
    pub fn from_u8(reason: u8) -> Option<Self> {
        match reason {
            1 => Some(Self::Attempts),
            2 => Some(Self::Distance),
            3 => Some(Self::Age),
            4 => Some(Self::Rejected),
            _ => None,
        }
    }

    /// As users read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Distance => "distance",
            Self::Age => "age",
            Self::Rejected => "rejected",
        }
    }
}

impl Held {
    /// Of a message that is pending since `now`.
    pub(super) fn new(generation: u32, now: Timestamp) -> Self {
        Self {
            attempts: 0,
            generation,
            first_failed: now,
            cause: None,
            error: None,
            state: HeldState::Ready,
        }
    }

    /// Whether it waits for an operator.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        matches!(self.state, HeldState::Parked { .. })
    }
}

/// See the module. Each message is also in the queue of what it waits for, or counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Histories {
    all: BTreeMap<Offset, Held>,
    ready: BTreeSet<Offset>,
    delayed: u64,
    dying: BTreeSet<Offset>,
    parked: BTreeSet<Offset>,
}

impl Histories {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, offset: Offset) -> Option<&Held> {
        self.all.get(&offset)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (Offset, &Held)> {
        self.all.iter().map(|(offset, held)| (*offset, held))
    }

    pub(super) fn range(&self, range: OffsetRange) -> impl Iterator<Item = (Offset, &Held)> {
        let end = range.end.max(range.start);
        self.all.range(range.start..end).map(|(offset, held)| (*offset, held))
    }

    /// The first one at or behind `from`.
    pub(super) fn next_from(&self, from: Offset) -> Option<Offset> {
        self.all.range(from..).next().map(|(offset, _)| *offset)
    }

    /// The last one.
    pub(super) fn last(&self) -> Option<Offset> {
        self.all.last_key_value().map(|(offset, _)| *offset)
    }

    pub(super) fn ready(&self) -> impl DoubleEndedIterator<Item = Offset> {
        self.ready.iter().copied()
    }

    pub(super) fn dying(&self) -> impl Iterator<Item = Offset> {
        self.dying.iter().copied()
    }

    /// The parked ones of a range.
    pub(super) fn parked_in(&self, range: OffsetRange) -> impl Iterator<Item = Offset> {
        self.parked.range(range.start..range.end.max(range.start)).copied()
    }

    pub(super) fn unsettled(&self) -> Unsettled {
        Unsettled {
            delayed: self.delayed,
            dying: self.dying.len() as u64,
            parked: self.parked.len() as u64,
        }
    }

    /// Must not be there.
    pub(super) fn insert(&mut self, offset: Offset, held: Held) {
        if let Some(queue) = self.queue(held.state) {
            queue.insert(offset);
        } else {
            self.delayed += 1;
        }
        let before = self.all.insert(offset, held);
        debug_assert!(before.is_none(), "{offset} was in two queues");
    }

    pub(super) fn remove(&mut self, offset: Offset) -> Option<Held> {
        let held = self.all.remove(&offset)?;
        if let Some(queue) = self.queue(held.state) {
            queue.remove(&offset);
        } else {
            self.delayed -= 1;
        }
        Some(held)
    }

    /// Where messages of a state are; `None`: they are only counted.
    fn queue(&mut self, state: HeldState) -> Option<&mut BTreeSet<Offset>> {
        match state {
            HeldState::Ready => Some(&mut self.ready),
            HeldState::Delayed { .. } => None,
            HeldState::Dying { .. } => Some(&mut self.dying),
            HeldState::Parked { .. } => Some(&mut self.parked),
        }
    }

    /// Takes those of a range out that are not parked; which they were.
    pub(super) fn remove_unparked(&mut self, range: OffsetRange) -> Vec<Offset> {
        let unparked = self.range(range).filter(|(_, held)| !held.is_parked());
        let unparked: Vec<_> = unparked.map(|(offset, _)| offset).collect();
        unparked.iter().for_each(|offset| drop(self.remove(*offset)));
        unparked
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(Offset, &Held) -> bool) {
        let gone = self.iter().filter(|(offset, held)| !keeps(*offset, held));
        let gone: Vec<_> = gone.map(|(offset, _)| offset).collect();
        gone.iter().for_each(|offset| drop(self.remove(*offset)));
    }
}

/// Each offset once.
impl FromIterator<(Offset, Held)> for Histories {
    fn from_iter<I: IntoIterator<Item = (Offset, Held)>>(all: I) -> Self {
        let mut histories = Self::default();
        all.into_iter().for_each(|(offset, held)| histories.insert(offset, held));
        histories
    }
}
