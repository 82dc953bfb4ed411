//! Where a reader begins.

use crate::{Offset, Timestamp};

/// Where a reader begins, evaluated once when it subscribes (SEMANTICS §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPosition {
    /// The first retained record, hot or cold.
    Earliest,
    /// Behind the last record.
    Latest,
    /// This record; behind the end means: wait for it.
    Offset(Offset),
    /// The first record whose log time is at or after this instant.
    Time(Timestamp),
    /// The last `n` records.
    Last(u64),
}
