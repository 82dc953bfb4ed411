//! Consecutive offsets.

use std::fmt;

use crate::Offset;

/// The offsets from `start` up to, but not with, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OffsetRange {
    /// The first one.
    pub start: Offset,
    /// The one behind the last one.
    pub end: Offset,
}

impl OffsetRange {
    /// The offsets from `start` up to, but not with, `end`.
    #[must_use]
    pub const fn new(start: Offset, end: Offset) -> Self {
        Self { start, end }
    }

    /// This one offset.
    #[must_use]
    pub fn single(offset: Offset) -> Self {
        Self { start: offset, end: offset.plus(1) }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether `offset` is among them.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }

    /// Those that are in both, which may be none.
    #[must_use]
    pub fn and(&self, other: Self) -> Self {
        Self { start: self.start.max(other.start), end: self.end.min(other.end) }
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Offset> + use<> {
        (self.start.0..self.end.0).map(Offset)
    }
}

/// With its last offset, as users count: `5`, `5-9`.
impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len() {
            0 | 1 => self.start.fmt(f),
            _ => write!(f, "{}-{}", self.start, self.end.0 - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_before_its_end() {
        let range = |start, end| OffsetRange::new(Offset(start), Offset(end));
        let five = range(5, 8);
        assert_eq!((five.len(), five.is_empty()), (3, false));
        assert!(five.contains(Offset(7)) && !five.contains(Offset(8)) && !five.contains(Offset(4)));
        assert_eq!(five.iter().map(|offset| offset.0).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(five.and(range(7, 9)), OffsetRange::single(Offset(7)));
        let nothing = five.and(range(9, 12));
        assert_eq!((nothing.len(), nothing.is_empty(), nothing.iter().count()), (0, true, 0));
        assert_eq!(five.to_string(), "5-7");
        assert_eq!(OffsetRange::single(Offset(5)).to_string(), "5");
    }
}
