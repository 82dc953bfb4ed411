//! A group's state as bytes: part of its shard's checkpoint.
//!
//! ```text
//! group state = floor v │ leased up to v │ done, runs │ list of held │ dead, runs
//!               │ list of: offset v, generation v │ highest acked? u8 [v] │ epoch v
//!               │ paused u8 [0 not │ 1 by an operator │ 2 by the breaker] │ breaker
//! runs        = list of: how far the start is above the end before v │ how many offsets v
//! held        = how far it is above the one before v │ attempts v │ generation v │ first failed i64
//!               │ cause u8 [0 none │ as in a change] │ error? u8 [text]
//!               │ state u8 [0 ready │ 1 delayed: until i64 │ 2 dying: reason u8 │ 3 parked: reason u8]
//! breaker     = settled v │ list of: how many before the end v
//! ```
//!
//! The queues are made anew of what is held.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use railgun_types::{ByteCursor, Malformed, Offset, OffsetRange, Timestamp};

use super::breaker::Breaker;
use super::{DeathReason, GroupState, Held, HeldState, Paused};
use crate::builtin_bug::Planted;
use crate::codec::{self, list, map, narrow, put_list, put_narrow, put_varints};
use crate::command::{FailCause, failure};
use crate::ranges::OffsetSet;

const HELD_BYTES_MIN: usize = 14;
const GENERATION_BYTES_MIN: usize = 2;

const READY: u8 = 0;
const DELAYED: u8 = 1;
const DYING: u8 = 2;
const PARKED: u8 = 3;

impl GroupState {
    /// Writes the state behind what `out` holds. Equal states give equal bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        let Self {
            floor,
            done,
            held,
            dead,
            generations,
            highest_acked,
            leased_upto,
            epoch,
            paused,
            breaker,
            planted: _,
        } = self;
        put_varints(out, [floor.0, leased_upto.0]);
        done.encode(out);
        codec::put_count(out, held.len());
        let mut next = 0;
        for (offset, held) in held.iter() {
            put_held(out, offset.0 - next, held);
            next = offset.0 + 1;
        }
        dead.encode(out);
        put_list(out, generations.iter(), |out, (offset, generation)| {
            put_varints(out, [offset.0, u64::from(*generation)]);
        });
        codec::put_option(out, *highest_acked, |out, offset| put_varints(out, [offset.0]));
        put_narrow(out, *epoch);
        out.put_u8(paused.map_or(0, |paused| paused as u8));
        breaker.encode(out);
    }

    /// Reads a state.
    ///
    /// # Errors
    /// [`Malformed`]; never panics, never allocates more than a small multiple of what there is to read.
    pub fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let (floor, leased_upto) = (Offset(cursor.varint()?), Offset(cursor.varint()?));
        let done = OffsetSet::decode(cursor)?;
        let mut next = Some(0_u64);
        let held = list(cursor, HELD_BYTES_MIN, |cursor| {
            let offset = cursor.varint()?;
            let offset = next.and_then(|next| next.checked_add(offset)).ok_or(Malformed)?;
            next = offset.checked_add(1);
            Ok((Offset(offset), held(cursor)?))
        })?;
        let state = Self {
            floor,
            done,
            held: held.into_iter().collect(),
            dead: OffsetSet::decode(cursor)?,
            generations: map(cursor, GENERATION_BYTES_MIN, |cursor| {
                Ok((Offset(cursor.varint()?), narrow(cursor)?))
            })?,
            highest_acked: codec::option(cursor, ByteCursor::varint)?.map(Offset),
            leased_upto,
            epoch: narrow(cursor)?,
            paused: match cursor.u8()? {
                0 => None,
                paused => Some(Paused::from_u8(paused).ok_or(Malformed)?),
            },
            breaker: Breaker::decode(cursor)?,
            planted: Planted::default(),
        };
        if state.is_sound() { Ok(state) } else { Err(Malformed) }
    }

    /// Whether every offset is in one state, and where it can be (G-1).
    pub(super) fn is_sound(&self) -> bool {
        let is_settled = |offset| offset < self.floor || self.done.contains(offset);
        let held = |(offset, held): (Offset, &Held)| match held.is_parked() {
            true => is_settled(offset),
            false if offset < self.floor => held.generation > 0,
            false => !self.done.contains(offset),
        };
        let is_dead = |run: OffsetRange| {
            let above = run.and(OffsetRange::new(self.floor, Offset(u64::MAX)));
            self.done.missing(above).next().is_none() && self.held.range(run).next().is_none()
        };
        self.known_upto() <= self.leased_upto
            && self.held.last() != Some(Offset(u64::MAX))
            && self.highest_acked != Some(Offset(u64::MAX))
            && self.done.first().is_none_or(|first| first.start > self.floor)
            && self.held.iter().all(held)
            && self.dead.iter().all(is_dead)
            && self.generations.iter().all(|(offset, it)| *it > 0 && self.dead.contains(*offset))
    }

    /// Behind the last message of which something is known.
    pub(super) fn known_upto(&self) -> Offset {
        let ends = [
            self.done.iter().next_back().map(|run| run.end),
            self.dead.iter().next_back().map(|run| run.end),
            self.held.last().map(|offset| offset.plus(1)),
            self.highest_acked.map(|offset| offset.plus(1)),
        ];
        ends.into_iter().flatten().fold(self.floor, Offset::max)
    }
}

fn put_held(out: &mut BytesMut, above: u64, held: &Held) {
    let Held { attempts, generation, first_failed, cause, error, state } = held;
    put_varints(out, [above, u64::from(*attempts), u64::from(*generation)]);
    out.put_i64_le(first_failed.0);
    out.put_u8(cause.map_or(0, |cause| cause as u8));
    codec::put_option(out, error.as_deref(), codec::put_text);
    match state {
        HeldState::Ready => out.put_u8(READY),
        HeldState::Delayed { until } => {
            out.put_u8(DELAYED);
            out.put_i64_le(until.0);
        }
        HeldState::Dying { reason } => out.put_slice(&[DYING, *reason as u8]),
        HeldState::Parked { reason } => out.put_slice(&[PARKED, *reason as u8]),
    }
}

fn held(cursor: &mut ByteCursor<'_>) -> Result<Held, Malformed> {
    let reason = |cursor: &mut ByteCursor<'_>| DeathReason::from_u8(cursor.u8()?).ok_or(Malformed);
    Ok(Held {
        attempts: narrow(cursor)?,
        generation: narrow(cursor)?,
        first_failed: Timestamp(cursor.i64()?),
        cause: match cursor.u8()? {
            0 => None,
            cause => Some(FailCause::from_u8(cause).ok_or(Malformed)?),
        },
        error: failure(cursor)?.map(Arc::from),
        state: match cursor.u8()? {
            READY => HeldState::Ready,
            DELAYED => HeldState::Delayed { until: Timestamp(cursor.i64()?) },
            DYING => HeldState::Dying { reason: reason(cursor)? },
            PARKED => HeldState::Parked { reason: reason(cursor)? },
            _ => return Err(Malformed),
        },
    })
}
