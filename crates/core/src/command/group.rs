//! Commands about the consumer groups of a data shard.
//!
//! ```text
//! command = tag u8 [1 ensure: stream 16 │ group text │ patch │ start u8 [1 earliest │ 2 latest
//!             │ 3 offset: v │ 4 last: v] │ mode u8 │ if revision? u8 [u64] │ allow destructive u8
//!             │ request? u8 [16]
//!           │ 2 delete: stream 16, group text
//!           │ 3 changes: list of: group v │ term v │ list of change]
//! change  = tag u8 [1 ack: epoch v, ranges │ 2 fail: epoch v, ranges, cause u8, delay? u8 [ms v],
//!             error? u8 [text] │ 3 reject: epoch v, ranges, error? u8 [text]
//!           │ 4 due: list of: how far above the one before v │ 5 reserve: up to v │ 6 activate
//!           │ 7 reset: to v, force u8 │ 8 pause │ 9 resume │ 10 redrive: ranges
//!           │ 11 discard: ranges │ 12 removed: up to v]
//! ranges  = list of: how far the start is above the end before v │ how many offsets v
//! ```

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use railgun_types::limits::{FAILURE_BYTES, FAILURES_PER_CHANGE};
use railgun_types::{
    ByteCursor, EnsureMode, GroupId, GroupName, GroupPatch, Malformed, Offset, OffsetRange,
    RequestId, StreamUid, put_varint,
};

use crate::codec::{self, list, narrow, put_list, put_text};

/// Creates, changes or deletes a group, or says what became of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupCommand {
    /// Make the group what the patch says, as the mode allows (SEMANTICS §8).
    Ensure(Box<EnsureGroup>),
    /// Delete the group. Its companion stays, to be read, for as long as its stream does.
    Delete {
        /// The stream.
        stream: StreamUid,
        /// The group.
        group: GroupName,
    },
    /// What there is to say of the shard's groups, of all of them in one entry (G-13).
    Changes(Arc<[GroupChanges]>),
}

/// See [`GroupCommand::Ensure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsureGroup {
    /// The stream.
    pub stream: StreamUid,
    /// The group.
    pub group: GroupName,
    /// The fields the user named.
    pub patch: GroupPatch,
    /// Where it begins, if it is made by this.
    pub start: GroupStart,
    /// What to do about a difference.
    pub mode: EnsureMode,
    /// Change only this revision.
    pub if_revision: Option<u64>,
    /// Changes that lose something are wanted.
    pub allow_destructive: bool,
    /// Which request it is: what it has changed already is not in its own way.
    pub request: Option<RequestId>,
}

/// Where a new group begins: evaluated once, when the entry that makes it is applied. An instant is
/// made an offset by who proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStart {
    /// With the first record that the stream still has.
    Earliest,
    /// Behind its last record.
    Latest,
    /// With this record, or the nearest that there is or will be.
    Offset(Offset),
    /// With the last so many records.
    Last(u64),
}

/// What there is to say of one group, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChanges {
    /// The group.
    pub group: GroupId,
    /// The Raft term of the dispatcher that says so; 0: an operator does.
    pub term: u64,
    /// What.
    pub changes: Vec<GroupChange>,
}

/// What became of some of a group's messages, or is to become of the group. Ranges are ascending, disjoint
/// and not empty, offsets ascend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// These were acked.
    Ack {
        /// Of the activation by which they were handed out; an exclusive group's.
        epoch: u32,
        /// The messages.
        ranges: Vec<OffsetRange>,
    },
    /// The deliveries of these had begun, and have failed (G-10). At most 100,000 messages.
    Fail {
        /// As for [`Self::Ack`].
        epoch: u32,
        /// The messages.
        ranges: Vec<OffsetRange>,
        /// How.
        cause: FailCause,
        /// How long until they may be delivered again, in ms; `None`: as the group's back-off says (G-11).
        delay_ms: Option<u64>,
        /// What the consumer says about it, at most 1 KiB.
        error: Option<Box<str>>,
    },
    /// The consumer will never take these (DL-2). At most 100,000 messages.
    Reject {
        /// As for [`Self::Ack`].
        epoch: u32,
        /// The messages.
        ranges: Vec<OffsetRange>,
        /// What the consumer says about it, at most 1 KiB.
        error: Option<Box<str>>,
    },
    /// The delays of these are over.
    Due {
        /// The messages.
        offsets: Vec<Offset>,
    },
    /// What is below may be handed out from here on.
    Reserve {
        /// The first offset that may not.
        upto: Offset,
    },
    /// Another member of an exclusive group becomes the active one: its epoch goes up by one.
    Activate,
    /// An operator's: go on from here. Everything from there on is pending, whatever it was before, and
    /// what is below is done, but what was made pending again by an operator.
    Reset {
        /// The offset, at most the stream's next one.
        to: Offset,
        /// Also if messages that are to become dead letters, or wait for an operator, are given up by it.
        force: bool,
    },
    /// An operator's: deliver nothing.
    Pause,
    /// An operator's: go on, whoever has paused the group.
    Resume,
    /// An operator's: messages that are dead or parked become pending again, in this group only (DL-7).
    Redrive {
        /// Which; empty: all that are dead.
        offsets: Vec<OffsetRange>,
    },
    /// An operator's: messages that are dead or parked are not made pending again any more. None named: all.
    Discard {
        /// Which.
        offsets: Vec<OffsetRange>,
    },
    /// The stream has lost what is below this offset.
    Removed {
        /// The first offset that it has.
        upto: Offset,
    },
}

/// How the delivery of a message that had begun has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailCause {
    /// The consumer says so.
    Nack = 1,
    /// It took longer than the group allows.
    Expired = 2,
    /// The consumer is gone.
    Disconnected = 3,
}

impl FailCause {
    /// The cause of this number.
    #[must_use]
    pub fn from_u8(cause: u8) -> Option<Self> {
        match cause {
            1 => Some(Self::Nack),
            2 => Some(Self::Expired),
            3 => Some(Self::Disconnected),
            _ => None,
        }
    }
}

const ENSURE: u8 = 1;
const DELETE: u8 = 2;
const CHANGES: u8 = 3;

const EARLIEST: u8 = 1;
const LATEST: u8 = 2;
const OFFSET: u8 = 3;
const LAST: u8 = 4;

const ACK: u8 = 1;
const FAIL: u8 = 2;
const REJECT: u8 = 3;
const DUE: u8 = 4;
const RESERVE: u8 = 5;
const ACTIVATE: u8 = 6;
const RESET: u8 = 7;
const PAUSE: u8 = 8;
const RESUME: u8 = 9;
const REDRIVE: u8 = 10;
const DISCARD: u8 = 11;
const REMOVED: u8 = 12;

/// Fewest bytes of what is said of one group, and of one range.
const GROUP_BYTES_MIN: usize = 3;
const RANGE_BYTES_MIN: usize = 2;

impl GroupChanges {
    /// Encoded bytes, at most.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        const FIXED: usize = 48;
        const RANGE: usize = 20;
        let of_change = |change: &GroupChange| match change {
            GroupChange::Ack { ranges, .. } => ranges.len() * RANGE,
            GroupChange::Fail { ranges, error, .. } | GroupChange::Reject { ranges, error, .. } => {
                ranges.len() * RANGE + error.as_ref().map_or(0, |error| error.len())
            }
            GroupChange::Due { offsets } => offsets.len() * RANGE,
            GroupChange::Redrive { offsets } | GroupChange::Discard { offsets } => {
                offsets.len() * RANGE
            }
            GroupChange::Reserve { .. }
            | GroupChange::Activate
            | GroupChange::Reset { .. }
            | GroupChange::Pause
            | GroupChange::Resume
            | GroupChange::Removed { .. } => 0,
        };
        let changes = self.changes.iter();
        FIXED + changes.map(|change| FIXED + of_change(change)).sum::<usize>()
    }
}

impl GroupCommand {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Ensure(ensure) => {
                out.put_u8(ENSURE);
                out.put_slice(&ensure.stream.0);
                put_text(out, ensure.group.as_str());
                codec::put_group_patch(out, &ensure.patch);
                match ensure.start {
                    GroupStart::Earliest => out.put_u8(EARLIEST),
                    GroupStart::Latest => out.put_u8(LATEST),
                    GroupStart::Offset(offset) => {
                        out.put_u8(OFFSET);
                        put_varint(out, offset.0);
                    }
                    GroupStart::Last(count) => {
                        out.put_u8(LAST);
                        put_varint(out, count);
                    }
                }
                out.put_u8(ensure.mode as u8);
                codec::put_option(out, ensure.if_revision, |out, r| out.put_u64_le(r));
                codec::put_bool(out, ensure.allow_destructive);
                codec::put_option(out, ensure.request, |out, it| out.put_slice(&it.0));
            }
            Self::Delete { stream, group } => {
                out.put_u8(DELETE);
                out.put_slice(&stream.0);
                put_text(out, group.as_str());
            }
            Self::Changes(groups) => {
                out.put_u8(CHANGES);
                put_list(out, groups.iter(), |out, GroupChanges { group, term, changes }| {
                    codec::put_varints(out, [group.0, *term]);
                    put_list(out, changes.iter(), put_change);
                });
            }
        }
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        match cursor.u8()? {
            ENSURE => Ok(Self::Ensure(Box::new(EnsureGroup {
                stream: StreamUid(cursor.array()?),
                group: codec::group_name(cursor)?,
                patch: codec::group_patch(cursor)?,
                start: match cursor.u8()? {
                    EARLIEST => GroupStart::Earliest,
                    LATEST => GroupStart::Latest,
                    OFFSET => GroupStart::Offset(Offset(cursor.varint()?)),
                    LAST => GroupStart::Last(cursor.varint()?),
                    _ => return Err(Malformed),
                },
                mode: codec::ensure_mode(cursor)?,
                if_revision: codec::option(cursor, ByteCursor::u64)?,
                allow_destructive: codec::bool(cursor)?,
                request: codec::option(cursor, ByteCursor::array)?.map(RequestId),
            }))),
            DELETE => Ok(Self::Delete {
                stream: StreamUid(cursor.array()?),
                group: codec::group_name(cursor)?,
            }),
            CHANGES => list(cursor, GROUP_BYTES_MIN, |cursor| {
                Ok(GroupChanges {
                    group: GroupId(cursor.varint()?),
                    term: cursor.varint()?,
                    changes: list(cursor, 1, change)?,
                })
            })
            .map(|groups| Self::Changes(groups.into())),
            _ => Err(Malformed),
        }
    }
}

fn put_change(out: &mut BytesMut, change: &GroupChange) {
    match change {
        GroupChange::Ack { epoch, ranges } => {
            out.put_u8(ACK);
            put_varint(out, u64::from(*epoch));
            put_ranges(out, ranges);
        }
        GroupChange::Fail { epoch, ranges, cause, delay_ms, error } => {
            out.put_u8(FAIL);
            put_varint(out, u64::from(*epoch));
            put_ranges(out, ranges);
            out.put_u8(*cause as u8);
            codec::put_option(out, *delay_ms, put_varint);
            codec::put_option(out, error.as_deref(), put_text);
        }
        GroupChange::Reject { epoch, ranges, error } => {
            out.put_u8(REJECT);
            put_varint(out, u64::from(*epoch));
            put_ranges(out, ranges);
            codec::put_option(out, error.as_deref(), put_text);
        }
        GroupChange::Due { offsets } => {
            out.put_u8(DUE);
            let mut next = 0;
            put_list(out, offsets.iter(), |out, offset| {
                put_varint(out, offset.0.wrapping_sub(next));
                next = offset.0.wrapping_add(1);
            });
        }
        GroupChange::Reserve { upto } => {
            out.put_u8(RESERVE);
            put_varint(out, upto.0);
        }
        GroupChange::Activate => out.put_u8(ACTIVATE),
        GroupChange::Reset { to, force } => {
            out.put_u8(RESET);
            put_varint(out, to.0);
            codec::put_bool(out, *force);
        }
        GroupChange::Pause => out.put_u8(PAUSE),
        GroupChange::Resume => out.put_u8(RESUME),
        GroupChange::Redrive { offsets } => {
            out.put_u8(REDRIVE);
            put_ranges(out, offsets);
        }
        GroupChange::Discard { offsets } => {
            out.put_u8(DISCARD);
            put_ranges(out, offsets);
        }
        GroupChange::Removed { upto } => {
            out.put_u8(REMOVED);
            put_varint(out, upto.0);
        }
    }
}

fn change(cursor: &mut ByteCursor<'_>) -> Result<GroupChange, Malformed> {
    Ok(match cursor.u8()? {
        ACK => GroupChange::Ack { epoch: narrow(cursor)?, ranges: ranges(cursor)? },
        FAIL => GroupChange::Fail {
            epoch: narrow(cursor)?,
            ranges: failed_ranges(cursor)?,
            cause: FailCause::from_u8(cursor.u8()?).ok_or(Malformed)?,
            delay_ms: codec::option(cursor, ByteCursor::varint)?,
            error: failure(cursor)?,
        },
        REJECT => GroupChange::Reject {
            epoch: narrow(cursor)?,
            ranges: failed_ranges(cursor)?,
            error: failure(cursor)?,
        },
        DUE => {
            let mut next = Some(0_u64);
            let offsets = list(cursor, 1, |cursor| {
                let offset = next.and_then(|next| next.checked_add(cursor.varint().ok()?));
                next = offset.and_then(|offset| offset.checked_add(1));
                offset.map(Offset).ok_or(Malformed)
            })?;
            GroupChange::Due { offsets }
        }
        RESERVE => GroupChange::Reserve { upto: Offset(cursor.varint()?) },
        ACTIVATE => GroupChange::Activate,
        RESET => GroupChange::Reset { to: Offset(cursor.varint()?), force: codec::bool(cursor)? },
        PAUSE => GroupChange::Pause,
        RESUME => GroupChange::Resume,
        REDRIVE => GroupChange::Redrive { offsets: ranges(cursor)? },
        DISCARD => GroupChange::Discard { offsets: ranges(cursor)? },
        REMOVED => GroupChange::Removed { upto: Offset(cursor.varint()?) },
        _ => return Err(Malformed),
    })
}

/// What a consumer says of its failure.
pub(crate) fn failure(cursor: &mut ByteCursor<'_>) -> Result<Option<Box<str>>, Malformed> {
    codec::option(cursor, |cursor| {
        let text = codec::text(cursor)?;
        if text.len() > FAILURE_BYTES { Err(Malformed) } else { Ok(text.into_boxed_str()) }
    })
}

/// Ascending, disjoint ranges that are not empty.
pub(crate) fn put_ranges(out: &mut BytesMut, ranges: &[OffsetRange]) {
    let mut end = 0;
    put_list(out, ranges.iter(), |out, range| {
        codec::put_varints(out, [range.start.0.wrapping_sub(end), range.len()]);
        end = range.end.0;
    });
}

pub(crate) fn ranges(cursor: &mut ByteCursor<'_>) -> Result<Vec<OffsetRange>, Malformed> {
    let mut before = 0_u64;
    list(cursor, RANGE_BYTES_MIN, |cursor| {
        let start = before.checked_add(cursor.varint()?).ok_or(Malformed)?;
        let end = start.checked_add(cursor.varint()?).ok_or(Malformed)?;
        if end == start {
            return Err(Malformed);
        }
        before = end;
        Ok(OffsetRange::new(Offset(start), Offset(end)))
    })
}

/// Ranges whose every message gets a history of its own: of not too many.
fn failed_ranges(cursor: &mut ByteCursor<'_>) -> Result<Vec<OffsetRange>, Malformed> {
    let ranges = ranges(cursor)?;
    // Disjoint: the sum is one of a part of the offsets.
    let messages: u64 = ranges.iter().map(OffsetRange::len).sum();
    if messages > FAILURES_PER_CHANGE { Err(Malformed) } else { Ok(ranges) }
}
