//! What a change of a group led to, and its bytes.
//!
//! ```text
//! change outcome = verdict u8 [0 applied │ 1 applied, and: already, ranges │ unknown, ranges
//!                  │ dying, list of: offset v, generation v │ parked, list of offset v │ messages v
//!                  │ skipped? u8 [start v, offsets v]
//!                  │ 2 no such group │ 3 stale: term v │ 4 fenced: epoch v │ 5 not exclusive
//!                  │ 6 pinned │ 7 gives up: messages v]
//! ```

use bytes::{BufMut, BytesMut};
use railgun_types::{ByteCursor, Malformed, Offset, OffsetRange, put_varint};

use crate::codec::{self, list, narrow, put_list, put_varints};
use crate::command::{put_ranges, ranges};

/// What a change led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// All that it says is so from here on.
    Applied,
    /// It is so, as far as it could be, and this came of it.
    Effects(Box<ChangeEffects>),
    /// Nothing changed.
    Refused(ChangeRefused),
}

/// What came of a change beside what it says. Ranges and offsets ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeEffects {
    /// Of the settled or failed messages those that were before: nothing became of them (G-7).
    pub already: Vec<OffsetRange>,
    /// Those that cannot have been handed out, since a reset or ever: nothing became of them.
    pub unknown: Vec<OffsetRange>,
    /// Messages to become dead letters, with their generations (DL-3).
    pub dying: Vec<(Offset, u32)>,
    /// Messages that wait for an operator (DL-2).
    pub parked: Vec<Offset>,
    /// How many messages an operator has made pending again, or given up, or the group has lost.
    pub messages: u64,
    /// What the group has lost lies here (G-2).
    pub skipped: Option<OffsetRange>,
}

/// Why a change was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// The shard has no such group.
    #[error("the group does not exist")]
    GroupNotFound,
    /// The dispatcher is of another term than the entry.
    #[error("it was said in another term than {term}")]
    Stale {
        /// The term of the entry.
        term: u64,
    },
    /// Another member of an exclusive group is active since (X-2).
    #[error("another member is active in epoch {epoch}")]
    Fenced {
        /// The newest epoch.
        epoch: u32,
    },
    /// A balanced group has no active member.
    #[error("the group is not exclusive")]
    NotExclusive,
    /// The group keeps what it has not settled (G-2).
    #[error("the group pins what it has not settled")]
    Pinned,
    /// Messages that are dying or parked would be given up, which was not asked for.
    #[error("{messages} messages that are dying or parked would be given up")]
    GivesUp {
        /// How many.
        messages: u64,
    },
}

impl ChangeEffects {
    /// Does not allocate where nothing came of the change.
    pub(super) fn outcome(self) -> ChangeOutcome {
        if self == Self::default() {
            ChangeOutcome::Applied
        } else {
            ChangeOutcome::Effects(Box::new(self))
        }
    }
}

/// Adds a range behind those there are.
pub(super) fn push(ranges: &mut Vec<OffsetRange>, range: OffsetRange) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

impl ChangeOutcome {
    /// What came of the change beside what it says; `None`: nothing.
    #[must_use]
    pub fn effects(&self) -> Option<&ChangeEffects> {
        match self {
            Self::Effects(effects) => Some(effects),
            Self::Applied | Self::Refused(_) => None,
        }
    }

    /// Why it was refused, if it was.
    #[must_use]
    pub fn refused(&self) -> Option<ChangeRefused> {
        match self {
            Self::Refused(refused) => Some(*refused),
            Self::Applied | Self::Effects(_) => None,
        }
    }
}

pub(crate) fn put_change_outcome(out: &mut BytesMut, outcome: &ChangeOutcome) {
    match outcome {
        ChangeOutcome::Applied => out.put_u8(0),
        ChangeOutcome::Effects(effects) => {
            let ChangeEffects { already, unknown, dying, parked, messages, skipped } = &**effects;
            out.put_u8(1);
            put_ranges(out, already);
            put_ranges(out, unknown);
            put_list(out, dying.iter(), |out, (offset, generation)| {
                put_varints(out, [offset.0, u64::from(*generation)]);
            });
            put_list(out, parked.iter(), |out, offset| put_varint(out, offset.0));
            put_varint(out, *messages);
            codec::put_option(out, *skipped, |out, range| {
                put_varints(out, [range.start.0, range.len()]);
            });
        }
        ChangeOutcome::Refused(ChangeRefused::GroupNotFound) => out.put_u8(2),
        ChangeOutcome::Refused(ChangeRefused::Stale { term }) => {
            out.put_u8(3);
            put_varint(out, *term);
        }
        ChangeOutcome::Refused(ChangeRefused::Fenced { epoch }) => {
            out.put_u8(4);
            codec::put_narrow(out, *epoch);
        }
        ChangeOutcome::Refused(ChangeRefused::NotExclusive) => out.put_u8(5),
        ChangeOutcome::Refused(ChangeRefused::Pinned) => out.put_u8(6),
        ChangeOutcome::Refused(ChangeRefused::GivesUp { messages }) => {
            out.put_u8(7);
            put_varint(out, *messages);
        }
    }
}

pub(crate) fn change_outcome(cursor: &mut ByteCursor<'_>) -> Result<ChangeOutcome, Malformed> {
    let refused = match cursor.u8()? {
        0 => return Ok(ChangeOutcome::Applied),
        1 => {
            return Ok(ChangeOutcome::Effects(Box::new(ChangeEffects {
                already: ranges(cursor)?,
                unknown: ranges(cursor)?,
                dying: list(cursor, 2, |cursor| Ok((Offset(cursor.varint()?), narrow(cursor)?)))?,
                parked: list(cursor, 1, |cursor| cursor.varint().map(Offset))?,
                messages: cursor.varint()?,
                skipped: codec::option(cursor, |cursor| {
                    let start = cursor.varint()?;
                    let end = start.checked_add(cursor.varint()?).ok_or(Malformed)?;
                    Ok(OffsetRange::new(Offset(start), Offset(end)))
                })?,
            })));
        }
        2 => ChangeRefused::GroupNotFound,
        3 => ChangeRefused::Stale { term: cursor.varint()? },
        4 => ChangeRefused::Fenced { epoch: narrow(cursor)? },
        5 => ChangeRefused::NotExclusive,
        6 => ChangeRefused::Pinned,
        7 => ChangeRefused::GivesUp { messages: cursor.varint()? },
        _ => return Err(Malformed),
    };
    Ok(ChangeOutcome::Refused(refused))
}
