//! Stops a group whose messages nearly all die (DL-9): a consumer that was badly deployed would make
//! dead letters of the whole stream in minutes.

use std::collections::VecDeque;

use bytes::BytesMut;
use railgun_types::{ByteCursor, Malformed, put_varint};

use crate::codec::{list, put_list};

/// The settled messages that are looked at: the last so many.
const LAST: u64 = 1_000;
/// More dead ones among them are too many.
const DEAD_MAX: usize = 500;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    /// Messages settled so far.
    settled: u64,
    /// Which of the last ones are dead, by their number: they are few.
    dead: VecDeque<u64>,
}

impl Breaker {
    /// So many messages were acked.
    pub(super) fn acked(&mut self, messages: u64) {
        self.settled = self.settled.saturating_add(messages);
        self.forget();
    }

    /// A message is dead; whether these are too many.
    #[must_use]
    pub(super) fn died(&mut self) -> bool {
        self.dead.push_back(self.settled);
        self.settled = self.settled.saturating_add(1);
        self.forget();
        self.dead.len() > DEAD_MAX
    }

    /// An operator has seen it.
    pub(super) fn clear(&mut self) {
        self.dead.clear();
    }

    fn forget(&mut self) {
        let first = self.settled.saturating_sub(LAST);
        while self.dead.front().is_some_and(|dead| *dead < first) {
            self.dead.pop_front();
        }
    }

    /// How many were settled, and how many of them before those that are dead.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.settled);
        put_list(out, self.dead.iter(), |out, dead| put_varint(out, self.settled - dead));
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let settled = cursor.varint()?;
        let dead = list(cursor, 1, |cursor| {
            let before = cursor.varint()?;
            if !(1..=LAST).contains(&before) {
                return Err(Malformed);
            }
            settled.checked_sub(before).ok_or(Malformed)
        })?;
        if dead.is_sorted_by(|a, b| a < b) {
            Ok(Self { settled, dead: dead.into() })
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_of_the_last_thousand_are_too_many() {
        // DL-9
        let mut breaker = Breaker::default();
        assert!(!(0..500).any(|_| breaker.died()), "half of them are not");
        breaker.acked(500);
        // The oldest one goes as a new one comes.
        assert!(!breaker.died());
        breaker.acked(1);
        assert!(!(0..2).any(|_| breaker.died()));
        let mut tripped = Breaker::default();
        assert!(!(0..500).any(|_| tripped.died()));
        tripped.acked(499);
        assert!(tripped.died());
        tripped.clear();
        assert!(!tripped.died());
        tripped.acked(u64::MAX);
        assert_eq!(tripped.dead.len(), 0);
    }
}
