//! What entries of a data shard led to, as bytes. The frame is in [`crate::outcome`].
//!
//! ```text
//! appended  = list of: verdict u8 [0 appended │ 1 repeated, either: base v │ count v │ ts i64
//!             │ 2 … 8 and 11 … 16: refusal │ 9, 10 as 0, 1 and then: verdicts]
//! verdicts  = list of: record above the one before v, offset v, ts i64
//!             │ refused? u8 [refusal]
//! refusal   = u8 [2 stream not found │ 3 stream deleted │ 4 producer fenced: epoch u32
//!             │ 5 producer unknown │ 6 sequence gap: expected u64 │ 7 expected end: actual u64
//!             │ 8 forgotten sequence: sequence u64 │ 11 id required: record v
//!             │ 12 id conflict: record v, original v │ 13 ids full: record v
//!             │ 14 duplicate: record v, original v │ 15 companion │ 16 not dying]
//! ensured   = verdict u8 [0 created │ 1 unchanged: revision u64 │ 2 drift: revision u64, list of diff
//!             │ 3 updated: likewise │ 4 deleted │ 5 kind │ 6 immutable: path text, actual text
//!             │ 7 destructive: path text │ 8 revision: actual u64 │ 9 stream not found
//!             │ 10 group not found │ 11 too many groups: count u64]
//! diff      = path text │ actual text │ wanted text │ class u8
//! deleted   = bool u8
//! sealed    = objects v
//! committed = verdict u8 [0 committed │ 1 not planned: seal index u64, part u32
//!             │ 2 other range: stream 16 │ 3 not contiguous: stream 16, committed u64, base u64
//!             │ 4 other attempt: seal index u64, part u32, attempt u64]
//! attempted = attempt? u8 [u64]
//! changed   = list of: list of change outcome, as in `group::outcome`; a group's ensured and deleted as
//!             a stream's
//! ```

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use railgun_types::{
    ByteCursor, ChangeClass, FieldDiff, Malformed, Offset, StreamUid, Timestamp, put_varint,
};

use super::{
    AppendRefusal, Appended, CommitRefused, Duplicate, EnsureRefused, Ensured, Outcome, Verdicts,
};
use crate::codec::{self, list, narrow, put_list, put_text, text};
use crate::group::{change_outcome, put_change_outcome};
use crate::manifest::ObjectId;
use crate::outcome::{self, OutcomeError};

const APPENDED: u8 = 1;
const ENSURED: u8 = 2;
const DELETED: u8 = 3;
const RELEASED: u8 = 4;
const SEALED: u8 = 5;
const COMMITTED: u8 = 6;
const MIRRORED: u8 = 7;
const TICKED: u8 = 8;
const FOREIGN: u8 = 9;
const ATTEMPTED: u8 = 10;
const COLLECTED: u8 = 11;
const GROUP_ENSURED: u8 = 12;
const GROUP_DELETED: u8 = 13;
const GROUPS_CHANGED: u8 = 14;

/// The verdict of a batch of which not all records were added.
const WITH_VERDICTS: u8 = 9;
/// The same of a repeated one.
const REPEATED_WITH_VERDICTS: u8 = 10;
/// Fewest bytes of a duplicate.
const DUPLICATE_BYTES_MIN: usize = 10;

/// Fewest bytes of a difference.
pub(super) const DIFF_BYTES_MIN: usize = 4;

impl Outcome {
    /// Writes the outcome behind what `out` holds.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Appended(results) => {
                outcome::put_head(out, APPENDED);
                put_list(out, results.iter(), put_appended);
            }
            Self::Ensured(result) => {
                outcome::put_head(out, ENSURED);
                put_ensured(out, result);
            }
            Self::Deleted(was_there) => {
                outcome::put_head(out, DELETED);
                codec::put_bool(out, *was_there);
            }
            Self::Released => outcome::put_head(out, RELEASED),
            Self::Sealed { objects } => {
                outcome::put_head(out, SEALED);
                put_varint(out, *objects as u64);
            }
            Self::Committed(result) => {
                outcome::put_head(out, COMMITTED);
                put_committed(out, result);
            }
            Self::Mirrored => outcome::put_head(out, MIRRORED),
            Self::Ticked => outcome::put_head(out, TICKED),
            Self::Foreign => outcome::put_head(out, FOREIGN),
            Self::Attempted(attempt) => {
                outcome::put_head(out, ATTEMPTED);
                codec::put_option(out, *attempt, |out, attempt| out.put_u64_le(attempt));
            }
            Self::Collected => outcome::put_head(out, COLLECTED),
            Self::GroupEnsured(result) => {
                outcome::put_head(out, GROUP_ENSURED);
                put_ensured(out, result);
            }
            Self::GroupDeleted(was_there) => {
                outcome::put_head(out, GROUP_DELETED);
                codec::put_bool(out, *was_there);
            }
            Self::GroupsChanged(groups) => {
                outcome::put_head(out, GROUPS_CHANGED);
                put_list(out, groups.iter(), |out, changes| {
                    put_list(out, changes.iter(), put_change_outcome);
                });
            }
        }
    }

    /// Reads an outcome, which takes all of `bytes`.
    ///
    /// # Errors
    /// [`OutcomeError`]; never panics, never allocates more than a small multiple of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, OutcomeError> {
        outcome::decode(bytes, |kind, cursor| match kind {
            APPENDED => list(cursor, 1, appended).map(Self::Appended),
            ENSURED => ensured(cursor).map(Self::Ensured),
            DELETED => codec::bool(cursor).map(Self::Deleted),
            RELEASED => Ok(Self::Released),
            SEALED => {
                let objects = usize::try_from(cursor.varint()?).map_err(|_| Malformed)?;
                Ok(Self::Sealed { objects })
            }
            COMMITTED => committed(cursor).map(Self::Committed),
            MIRRORED => Ok(Self::Mirrored),
            TICKED => Ok(Self::Ticked),
            FOREIGN => Ok(Self::Foreign),
            ATTEMPTED => codec::option(cursor, ByteCursor::u64).map(Self::Attempted),
            COLLECTED => Ok(Self::Collected),
            GROUP_ENSURED => ensured(cursor).map(Self::GroupEnsured),
            GROUP_DELETED => codec::bool(cursor).map(Self::GroupDeleted),
            GROUPS_CHANGED => {
                list(cursor, 1, |cursor| list(cursor, 1, change_outcome)).map(Self::GroupsChanged)
            }
            _ => Err(Malformed),
        })
    }
}

fn put_appended(out: &mut BytesMut, result: &Result<Appended, AppendRefusal>) {
    match result {
        Ok(Appended { base, count, ts, repeated, verdicts }) => {
            let with_verdicts = if verdicts.is_some() { WITH_VERDICTS } else { 0 };
            out.put_u8(with_verdicts + u8::from(*repeated));
            codec::put_varints(out, [base.0, u64::from(*count)]);
            out.put_i64_le(ts.0);
            if let Some(verdicts) = verdicts {
                put_verdicts(out, verdicts);
            }
        }
        Err(refusal) => put_refusal(out, refusal),
    }
}

fn appended(cursor: &mut ByteCursor<'_>) -> Result<Result<Appended, AppendRefusal>, Malformed> {
    let verdict = cursor.u8()?;
    let with_verdicts = match verdict {
        0 | 1 => false,
        WITH_VERDICTS | REPEATED_WITH_VERDICTS => true,
        other => return refusal(other, cursor).map(Err),
    };
    let (base, count) = (Offset(cursor.varint()?), narrow(cursor)?);
    let ts = Timestamp(cursor.i64()?);
    let repeated = verdict == 1 || verdict == REPEATED_WITH_VERDICTS;
    let verdicts = if with_verdicts { Some(Arc::new(verdicts(cursor)?)) } else { None };
    Ok(Ok(Appended { base, count, ts, repeated, verdicts }))
}

pub(super) fn put_verdicts(out: &mut BytesMut, verdicts: &Verdicts) {
    let Verdicts { duplicates, refused } = verdicts;
    let mut next = 0;
    put_list(out, duplicates.iter(), |out, Duplicate { record, offset, ts }| {
        codec::put_varints(out, [u64::from(record.wrapping_sub(next)), offset.0]);
        out.put_i64_le(ts.0);
        next = record.wrapping_add(1);
    });
    codec::put_option(out, refused.as_ref(), put_refusal);
}

pub(super) fn verdicts(cursor: &mut ByteCursor<'_>) -> Result<Verdicts, Malformed> {
    let mut next = 0u32;
    let duplicates = list(cursor, DUPLICATE_BYTES_MIN, |cursor| {
        let record = next.checked_add(narrow(cursor)?).ok_or(Malformed)?;
        next = record.checked_add(1).ok_or(Malformed)?;
        Ok(Duplicate { record, offset: Offset(cursor.varint()?), ts: Timestamp(cursor.i64()?) })
    })?;
    let refused = codec::option(cursor, |cursor| refusal(cursor.u8()?, cursor))?;
    Ok(Verdicts { duplicates, refused })
}

fn put_refusal(out: &mut BytesMut, refusal: &AppendRefusal) {
    let mut put = |kind: u8, fields: &[u64]| {
        out.put_u8(kind);
        fields.iter().for_each(|field| put_varint(out, *field));
    };
    match *refusal {
        AppendRefusal::StreamNotFound => put(2, &[]),
        AppendRefusal::StreamDeleted => put(3, &[]),
        AppendRefusal::ProducerFenced { epoch } => {
            out.put_u8(4);
            out.put_u32_le(epoch);
        }
        AppendRefusal::ProducerUnknown => put(5, &[]),
        AppendRefusal::SequenceGap { expected } => {
            out.put_u8(6);
            out.put_u64_le(expected);
        }
        AppendRefusal::ExpectedEnd { actual } => {
            out.put_u8(7);
            out.put_u64_le(actual.0);
        }
        AppendRefusal::ForgottenSequence { sequence } => {
            out.put_u8(8);
            out.put_u64_le(sequence);
        }
        AppendRefusal::IdRequired { record } => put(11, &[record.into()]),
        AppendRefusal::IdConflict { record, original } => put(12, &[record.into(), original.0]),
        AppendRefusal::IdsFull { record } => put(13, &[record.into()]),
        AppendRefusal::Duplicate { record, original } => put(14, &[record.into(), original.0]),
        AppendRefusal::Companion => put(15, &[]),
        AppendRefusal::NotDying => put(16, &[]),
    }
}

fn refusal(kind: u8, cursor: &mut ByteCursor<'_>) -> Result<AppendRefusal, Malformed> {
    Ok(match kind {
        2 => AppendRefusal::StreamNotFound,
        3 => AppendRefusal::StreamDeleted,
        4 => AppendRefusal::ProducerFenced { epoch: cursor.u32()? },
        5 => AppendRefusal::ProducerUnknown,
        6 => AppendRefusal::SequenceGap { expected: cursor.u64()? },
        7 => AppendRefusal::ExpectedEnd { actual: Offset(cursor.u64()?) },
        8 => AppendRefusal::ForgottenSequence { sequence: cursor.u64()? },
        11 => AppendRefusal::IdRequired { record: narrow(cursor)? },
        12 => AppendRefusal::IdConflict {
            record: narrow(cursor)?,
            original: Offset(cursor.varint()?),
        },
        13 => AppendRefusal::IdsFull { record: narrow(cursor)? },
        14 => {
            AppendRefusal::Duplicate { record: narrow(cursor)?, original: Offset(cursor.varint()?) }
        }
        15 => AppendRefusal::Companion,
        16 => AppendRefusal::NotDying,
        _ => return Err(Malformed),
    })
}

fn put_ensured(out: &mut BytesMut, result: &Result<Ensured, EnsureRefused>) {
    match result {
        Ok(Ensured::Created) => out.put_u8(0),
        Ok(Ensured::Unchanged { revision }) => {
            out.put_u8(1);
            out.put_u64_le(*revision);
        }
        Ok(Ensured::Drift { revision, diff }) => {
            out.put_u8(2);
            out.put_u64_le(*revision);
            put_list(out, diff.iter(), put_diff);
        }
        Ok(Ensured::Updated { revision, diff }) => {
            out.put_u8(3);
            out.put_u64_le(*revision);
            put_list(out, diff.iter(), put_diff);
        }
        Err(EnsureRefused::Deleted) => out.put_u8(4),
        Err(EnsureRefused::Kind) => out.put_u8(5),
        Err(EnsureRefused::Immutable { path, actual }) => {
            out.put_u8(6);
            put_text(out, path);
            put_text(out, actual);
        }
        Err(EnsureRefused::Destructive { path }) => {
            out.put_u8(7);
            put_text(out, path);
        }
        Err(EnsureRefused::Revision { actual }) => {
            out.put_u8(8);
            out.put_u64_le(*actual);
        }
        Err(EnsureRefused::StreamNotFound) => out.put_u8(9),
        Err(EnsureRefused::GroupNotFound) => out.put_u8(10),
        Err(EnsureRefused::TooManyGroups { count }) => {
            out.put_u8(11);
            out.put_u64_le(*count);
        }
    }
}

fn ensured(cursor: &mut ByteCursor<'_>) -> Result<Result<Ensured, EnsureRefused>, Malformed> {
    let diffs = |cursor: &mut ByteCursor<'_>| list(cursor, DIFF_BYTES_MIN, diff);
    Ok(match cursor.u8()? {
        0 => Ok(Ensured::Created),
        1 => Ok(Ensured::Unchanged { revision: cursor.u64()? }),
        2 => Ok(Ensured::Drift { revision: cursor.u64()?, diff: diffs(cursor)? }),
        3 => Ok(Ensured::Updated { revision: cursor.u64()?, diff: diffs(cursor)? }),
        4 => Err(EnsureRefused::Deleted),
        5 => Err(EnsureRefused::Kind),
        6 => Err(EnsureRefused::Immutable { path: text(cursor)?, actual: text(cursor)? }),
        7 => Err(EnsureRefused::Destructive { path: text(cursor)? }),
        8 => Err(EnsureRefused::Revision { actual: cursor.u64()? }),
        9 => Err(EnsureRefused::StreamNotFound),
        10 => Err(EnsureRefused::GroupNotFound),
        11 => Err(EnsureRefused::TooManyGroups { count: cursor.u64()? }),
        _ => return Err(Malformed),
    })
}

pub(super) fn put_diff(out: &mut BytesMut, diff: &FieldDiff) {
    let FieldDiff { path, actual, wanted, class } = diff;
    put_text(out, path);
    put_text(out, actual);
    put_text(out, wanted);
    out.put_u8(*class as u8);
}

pub(super) fn diff(cursor: &mut ByteCursor<'_>) -> Result<FieldDiff, Malformed> {
    Ok(FieldDiff {
        path: text(cursor)?,
        actual: text(cursor)?,
        wanted: text(cursor)?,
        class: ChangeClass::from_u8(cursor.u8()?).ok_or(Malformed)?,
    })
}

fn put_committed(out: &mut BytesMut, result: &Result<(), CommitRefused>) {
    match result {
        Ok(()) => out.put_u8(0),
        Err(CommitRefused::NotPlanned { object }) => {
            out.put_u8(1);
            out.put_u64_le(object.seal_index);
            out.put_u32_le(object.part);
        }
        Err(CommitRefused::OtherRange { stream }) => {
            out.put_u8(2);
            out.put_slice(&stream.0);
        }
        Err(CommitRefused::NotContiguous { stream, committed, base }) => {
            out.put_u8(3);
            out.put_slice(&stream.0);
            out.put_u64_le(committed.0);
            out.put_u64_le(base.0);
        }
        Err(CommitRefused::OtherAttempt { object, attempt }) => {
            out.put_u8(4);
            out.put_u64_le(object.seal_index);
            out.put_u32_le(object.part);
            out.put_u64_le(*attempt);
        }
    }
}

fn committed(cursor: &mut ByteCursor<'_>) -> Result<Result<(), CommitRefused>, Malformed> {
    Ok(Err(match cursor.u8()? {
        0 => return Ok(Ok(())),
        1 => {
            let object = ObjectId { seal_index: cursor.u64()?, part: cursor.u32()? };
            CommitRefused::NotPlanned { object }
        }
        2 => CommitRefused::OtherRange { stream: StreamUid(cursor.array()?) },
        3 => CommitRefused::NotContiguous {
            stream: StreamUid(cursor.array()?),
            committed: Offset(cursor.u64()?),
            base: Offset(cursor.u64()?),
        },
        4 => CommitRefused::OtherAttempt {
            object: ObjectId { seal_index: cursor.u64()?, part: cursor.u32()? },
            attempt: cursor.u64()?,
        },
        _ => return Err(Malformed),
    }))
}

#[cfg(test)]
mod tests {
    use railgun_types::OffsetRange;

    use super::*;
    use crate::group::{ChangeEffects, ChangeOutcome, ChangeRefused};
    use proptest::prelude::*;

    fn diffs() -> Vec<FieldDiff> {
        let diff = |path: &str, actual: &str, class| FieldDiff {
            path: path.to_owned(),
            actual: actual.to_owned(),
            wanted: "Größe".to_owned(),
            class,
        };
        vec![
            diff("max_message_bytes", "7", ChangeClass::Live),
            diff("", "", ChangeClass::Destructive),
        ]
    }

    /// One of each.
    fn changes() -> Vec<ChangeOutcome> {
        let range = |start, end| OffsetRange::new(Offset(start), Offset(end));
        let effects = ChangeEffects {
            already: vec![range(1, 3), range(500, 501)],
            unknown: vec![range(600, 601)],
            dying: vec![(Offset(300), 301)],
            parked: vec![Offset(302)],
            messages: 303,
            skipped: Some(range(304, 310)),
        };
        let refused = [
            ChangeRefused::GroupNotFound,
            ChangeRefused::Stale { term: 300 },
            ChangeRefused::Fenced { epoch: 301 },
            ChangeRefused::NotExclusive,
            ChangeRefused::Pinned,
            ChangeRefused::GivesUp { messages: 302 },
        ];
        let refused = refused.map(ChangeOutcome::Refused);
        let applied = [
            ChangeOutcome::Applied,
            ChangeOutcome::Effects(Box::default()),
            ChangeOutcome::Effects(effects.into()),
        ];
        applied.into_iter().chain(refused).collect()
    }

    /// One of each.
    fn outcomes() -> Vec<Outcome> {
        let plain = Appended {
            base: Offset(300),
            count: 200,
            ts: Timestamp(-2),
            repeated: false,
            verdicts: None,
        };
        let duplicate = |record| Duplicate { record, offset: Offset(77), ts: Timestamp(-3) };
        let original = Offset(1 << 40);
        let verdicts = |duplicates: &[u32], refused| {
            let duplicates = duplicates.iter().copied().map(duplicate).collect();
            Some(Arc::new(Verdicts { duplicates, refused }))
        };
        let conflict = AppendRefusal::IdConflict { record: 300, original };
        let (stream, path) = (StreamUid([9; 16]), || "kind".to_owned());
        let object = ObjectId { seal_index: 1 << 40, part: 3 };
        let (committed, base) = (Offset(5), Offset(6));
        let refused = CommitRefused::NotContiguous { stream, committed, base };
        vec![
            Outcome::Appended(vec![
                Ok(plain.clone()),
                Ok(Appended { repeated: true, ..plain.clone() }),
                Err(AppendRefusal::StreamNotFound),
                Err(AppendRefusal::StreamDeleted),
                Err(AppendRefusal::ProducerFenced { epoch: 4 }),
                Err(AppendRefusal::ProducerUnknown),
                Err(AppendRefusal::SequenceGap { expected: 5 }),
                Err(AppendRefusal::ExpectedEnd { actual: Offset(6) }),
                Err(AppendRefusal::ForgottenSequence { sequence: 7 }),
            ]),
            Outcome::Appended(Vec::new()),
            Outcome::Ensured(Ok(Ensured::Created)),
            Outcome::Ensured(Ok(Ensured::Unchanged { revision: 1 })),
            Outcome::Ensured(Ok(Ensured::Drift { revision: 2, diff: diffs() })),
            Outcome::Ensured(Ok(Ensured::Updated { revision: 3, diff: Vec::new() })),
            Outcome::Ensured(Err(EnsureRefused::Deleted)),
            Outcome::Ensured(Err(EnsureRefused::Kind)),
            Outcome::Ensured(Err(EnsureRefused::Immutable {
                path: path(),
                actual: "x".to_owned(),
            })),
            Outcome::Ensured(Err(EnsureRefused::Destructive { path: path() })),
            Outcome::Ensured(Err(EnsureRefused::Revision { actual: 4 })),
            Outcome::Deleted(true),
            Outcome::Deleted(false),
            Outcome::Released,
            Outcome::Sealed { objects: 1_000 },
            Outcome::Committed(Ok(())),
            Outcome::Committed(Err(CommitRefused::NotPlanned { object })),
            Outcome::Committed(Err(CommitRefused::OtherRange { stream })),
            Outcome::Committed(Err(refused)),
            Outcome::Mirrored,
            Outcome::Ticked,
            Outcome::Foreign,
            Outcome::Committed(Err(CommitRefused::OtherAttempt { object, attempt: 300 })),
            Outcome::Attempted(Some(77)),
            Outcome::Attempted(None),
            Outcome::Collected,
            Outcome::Appended(vec![Err(AppendRefusal::Companion), Err(AppendRefusal::NotDying)]),
            Outcome::GroupEnsured(Ok(Ensured::Created)),
            Outcome::GroupEnsured(Err(EnsureRefused::StreamNotFound)),
            Outcome::GroupEnsured(Err(EnsureRefused::GroupNotFound)),
            Outcome::GroupEnsured(Err(EnsureRefused::TooManyGroups { count: 300 })),
            Outcome::GroupDeleted(true),
            Outcome::GroupsChanged(vec![Vec::new(), changes()]),
            Outcome::Appended(vec![
                Ok(Appended { verdicts: verdicts(&[0, 1, 300], None), ..plain.clone() }),
                Ok(Appended {
                    repeated: true,
                    verdicts: verdicts(&[9], Some(conflict)),
                    ..plain.clone()
                }),
                Ok(Appended { verdicts: verdicts(&[], Some(conflict)), ..plain }),
                Err(AppendRefusal::IdRequired { record: 7 }),
                Err(AppendRefusal::IdConflict { record: 8, original }),
                Err(AppendRefusal::IdsFull { record: 9 }),
                Err(AppendRefusal::Duplicate { record: 10, original }),
            ]),
        ]
    }

    #[test]
    fn every_outcome_comes_back_and_its_format_is_fixed() {
        let golden = "outcomes-shard-v1.bin";
        outcome::check(&outcomes(), golden, Outcome::encode, Outcome::decode);
        let huge = [1, APPENDED, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(Outcome::decode(&huge), Err(OutcomeError::Malformed));
    }

    proptest! {
        #[test]
        fn results_round_trip(
            results in proptest::collection::vec((0..4u8, any::<u64>(), any::<u32>(), any::<i64>()), 0..50),
            diff in proptest::collection::vec((".*", ".*", ".*", 1..=3u8), 0..5),
        ) {
            let result = |(kind, n, count, ts): &(u8, u64, u32, i64)| match kind {
                0 => Err(AppendRefusal::SequenceGap { expected: *n }),
                1 => Err(AppendRefusal::ProducerFenced { epoch: *count }),
                kind => Ok(Appended {
                    base: Offset(*n),
                    count: *count,
                    ts: Timestamp(*ts),
                    repeated: *kind == 2,
                    verdicts: None,
                }),
            };
            let diff = diff.into_iter().map(|(path, actual, wanted, class)| FieldDiff {
                path,
                actual,
                wanted,
                class: ChangeClass::from_u8(class).expect("one of three"),
            });
            for outcome in [
                Outcome::Appended(results.iter().map(result).collect()),
                Outcome::Ensured(Ok(Ensured::Drift { revision: 1, diff: diff.collect() })),
            ] {
                let mut out = BytesMut::new();
                outcome.encode(&mut out);
                prop_assert_eq!(Outcome::decode(&out), Ok(outcome));
            }
        }

        #[test]
        fn any_bytes_are_an_error_or_a_value(kind in 0..17u8, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = [&[1, kind], &bytes[..]].concat();
            if let Ok(outcome) = Outcome::decode(&bytes) {
                let mut out = BytesMut::new();
                outcome.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..]);
            }
        }
    }
}
