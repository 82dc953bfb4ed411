//! What a publisher asks for.

use railgun_types::Offset;

/// What a publisher expects at the end of a stream before its message is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedEnd {
    /// The stream has no record.
    Empty,
    /// The stream's last record has this offset.
    LastOffset(Offset),
}

impl ExpectedEnd {
    /// From the value of `expected_last_offset`; `None` if no stream can end so.
    #[must_use]
    pub fn from_wire(last: i64) -> Option<Self> {
        match last {
            -1 => Some(Self::Empty),
            _ => u64::try_from(last).ok().map(|last| Self::LastOffset(Offset(last))),
        }
    }

    /// The value of `expected_last_offset`.
    #[must_use]
    pub fn to_wire(self) -> i64 {
        match self {
            Self::Empty => -1,
            Self::LastOffset(offset) => i64::try_from(offset.0).unwrap_or(i64::MAX),
        }
    }

    /// The offset that the next record of such a stream gets.
    #[must_use]
    pub fn next_offset(self) -> Offset {
        match self {
            Self::Empty => Offset(0),
            Self::LastOffset(offset) => offset.plus(1),
        }
    }
}
