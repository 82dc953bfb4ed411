//! Values that several formats of this crate share: texts, options, lists, specifications.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use railgun_types::{
    ByteCursor, DedupFull, DedupPatch, DedupSpec, DlqPatch, DlqSpec, EnsureMode, GroupMode,
    GroupName, GroupPatch, Malformed, ReplicaId, SpecPatch, StreamKind, StreamName, put_varint,
};

use crate::command::NodeState;

const VARINT_BYTES_MAX: usize = 10;

pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    put_varint(out, text.len() as u64);
    out.put_slice(text.as_bytes());
}

pub(crate) fn text(cursor: &mut ByteCursor<'_>) -> Result<String, Malformed> {
    let bytes = cursor.sized()?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

pub(crate) fn name(cursor: &mut ByteCursor<'_>) -> Result<StreamName, Malformed> {
    StreamName::new(&text(cursor)?).map_err(|_| Malformed)
}

/// As [`name`], or that of a companion, which nobody can ask for.
pub(crate) fn any_name(cursor: &mut ByteCursor<'_>) -> Result<StreamName, Malformed> {
    StreamName::parse_any(&text(cursor)?).map_err(|_| Malformed)
}

pub(crate) fn group_name(cursor: &mut ByteCursor<'_>) -> Result<GroupName, Malformed> {
    GroupName::new(&text(cursor)?).map_err(|_| Malformed)
}

pub(crate) fn put_bool(out: &mut BytesMut, value: bool) {
    out.put_u8(u8::from(value));
}

pub(crate) fn bool(cursor: &mut ByteCursor<'_>) -> Result<bool, Malformed> {
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

/// A presence byte, then the value.
pub(crate) fn put_option<T>(
    out: &mut BytesMut,
    value: Option<T>,
    put: impl FnOnce(&mut BytesMut, T),
) {
    put_bool(out, value.is_some());
    if let Some(value) = value {
        put(out, value);
    }
}

pub(crate) fn option<'a, T>(
    cursor: &mut ByteCursor<'a>,
    read: impl FnOnce(&mut ByteCursor<'a>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    if bool(cursor)? { read(cursor).map(Some) } else { Ok(None) }
}

/// The length of a list whose items follow.
pub(crate) fn put_count(out: &mut BytesMut, count: usize) {
    put_varint(out, count as u64);
}

/// A list: its length, its items.
pub(crate) fn put_list<T>(
    out: &mut BytesMut,
    items: impl ExactSizeIterator<Item = T>,
    mut put: impl FnMut(&mut BytesMut, T),
) {
    put_varint(out, items.len() as u64);
    items.for_each(|item| put(out, item));
}

/// Varints one behind the other. One write for all: a write costs more than the encoding.
pub(crate) fn put_varints<const N: usize>(out: &mut BytesMut, values: [u64; N]) {
    let mut bytes = [[0; VARINT_BYTES_MAX]; N];
    let bytes = bytes.as_flattened_mut();
    let mut len = 0;
    for mut value in values {
        while value >= 0x80 {
            bytes[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        len += 1;
    }
    out.put_slice(&bytes[..len]);
}

/// Reads the length of a list whose items take at least `item_bytes_min` each, which bounds what a
/// length can make us allocate.
pub(crate) fn count(
    cursor: &mut ByteCursor<'_>,
    item_bytes_min: usize,
) -> Result<usize, Malformed> {
    let count = usize::try_from(cursor.varint()?).map_err(|_| Malformed)?;
    if count > cursor.remaining() / item_bytes_min { Err(Malformed) } else { Ok(count) }
}

/// Reads a list; see [`count`].
pub(crate) fn list<'a, T>(
    cursor: &mut ByteCursor<'a>,
    item_bytes_min: usize,
    mut read: impl FnMut(&mut ByteCursor<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = count(cursor, item_bytes_min)?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(read(cursor)?);
    }
    Ok(items)
}

/// Reads a map: a list in strictly ascending order of its keys.
pub(crate) fn map<'a, K: Ord, V>(
    cursor: &mut ByteCursor<'a>,
    item_bytes_min: usize,
    read: impl FnMut(&mut ByteCursor<'a>) -> Result<(K, V), Malformed>,
) -> Result<BTreeMap<K, V>, Malformed> {
    let items = list(cursor, item_bytes_min, read)?;
    if items.is_sorted_by(|a, b| a.0 < b.0) {
        Ok(items.into_iter().collect())
    } else {
        Err(Malformed)
    }
}

pub(crate) fn put_narrow(out: &mut BytesMut, value: u32) {
    put_varint(out, u64::from(value));
}

/// A varint that fits a `u32`.
pub(crate) fn narrow(cursor: &mut ByteCursor<'_>) -> Result<u32, Malformed> {
    u32::try_from(cursor.varint()?).map_err(|_| Malformed)
}

pub(crate) fn kind(cursor: &mut ByteCursor<'_>) -> Result<StreamKind, Malformed> {
    StreamKind::from_u8(cursor.u8()?).ok_or(Malformed)
}

pub(crate) fn ensure_mode(cursor: &mut ByteCursor<'_>) -> Result<EnsureMode, Malformed> {
    EnsureMode::from_u8(cursor.u8()?).ok_or(Malformed)
}

pub(crate) fn put_patch(out: &mut BytesMut, patch: &SpecPatch) {
    put_option(out, patch.kind, |out, kind| out.put_u8(kind as u8));
    put_option(out, patch.max_message_bytes, |out, bytes| out.put_u32_le(bytes));
    put_option(out, patch.owner.as_deref(), put_text);
    put_dlq_patch(out, &patch.dlq);
    put_dedup_patch(out, &patch.dedup);
}

fn put_dedup_patch(out: &mut BytesMut, patch: &DedupPatch) {
    let DedupPatch { window_ms, require_id, max_ids, full } = patch;
    put_option(out, *window_ms, put_varint);
    put_option(out, *require_id, put_bool);
    put_option(out, *max_ids, put_varint);
    put_option(out, *full, |out, full| out.put_u8(full as u8));
}

fn dedup_patch(cursor: &mut ByteCursor<'_>) -> Result<DedupPatch, Malformed> {
    Ok(DedupPatch {
        window_ms: option(cursor, ByteCursor::varint)?,
        require_id: option(cursor, bool)?,
        max_ids: option(cursor, ByteCursor::varint)?,
        full: option(cursor, dedup_full)?,
    })
}

fn dedup_full(cursor: &mut ByteCursor<'_>) -> Result<DedupFull, Malformed> {
    DedupFull::from_u8(cursor.u8()?).ok_or(Malformed)
}

pub(crate) fn put_dedup(out: &mut BytesMut, spec: &DedupSpec) {
    let DedupSpec { window_ms, require_id, max_ids, full } = spec;
    put_varint(out, *window_ms);
    put_bool(out, *require_id);
    put_varint(out, *max_ids);
    out.put_u8(*full as u8);
}

pub(crate) fn dedup(cursor: &mut ByteCursor<'_>) -> Result<DedupSpec, Malformed> {
    Ok(DedupSpec {
        window_ms: cursor.varint()?,
        require_id: bool(cursor)?,
        max_ids: cursor.varint()?,
        full: dedup_full(cursor)?,
    })
}

pub(crate) fn patch(cursor: &mut ByteCursor<'_>) -> Result<SpecPatch, Malformed> {
    Ok(SpecPatch {
        kind: option(cursor, kind)?,
        max_message_bytes: option(cursor, ByteCursor::u32)?,
        owner: option(cursor, text)?,
        dlq: dlq_patch(cursor)?,
        dedup: dedup_patch(cursor)?,
    })
}

fn put_dlq_patch(out: &mut BytesMut, patch: &DlqPatch) {
    let DlqPatch { enabled, max_attempts, max_distance, max_age_ms, min_attempts } = *patch;
    put_option(out, enabled, put_bool);
    put_option(out, max_attempts, put_narrow);
    put_option(out, max_distance, put_varint);
    put_option(out, max_age_ms, put_varint);
    put_option(out, min_attempts, put_narrow);
}

fn dlq_patch(cursor: &mut ByteCursor<'_>) -> Result<DlqPatch, Malformed> {
    Ok(DlqPatch {
        enabled: option(cursor, bool)?,
        max_attempts: option(cursor, narrow)?,
        max_distance: option(cursor, ByteCursor::varint)?,
        max_age_ms: option(cursor, ByteCursor::varint)?,
        min_attempts: option(cursor, narrow)?,
    })
}

pub(crate) fn put_dlq(out: &mut BytesMut, dlq: &DlqSpec) {
    let DlqSpec { enabled, max_attempts, max_distance, max_age_ms, min_attempts } = *dlq;
    put_bool(out, enabled);
    put_narrow(out, max_attempts);
    put_varint(out, max_distance);
    put_varint(out, max_age_ms);
    put_narrow(out, min_attempts);
}

pub(crate) fn dlq(cursor: &mut ByteCursor<'_>) -> Result<DlqSpec, Malformed> {
    Ok(DlqSpec {
        enabled: bool(cursor)?,
        max_attempts: narrow(cursor)?,
        max_distance: cursor.varint()?,
        max_age_ms: cursor.varint()?,
        min_attempts: narrow(cursor)?,
    })
}

pub(crate) fn group_mode(cursor: &mut ByteCursor<'_>) -> Result<GroupMode, Malformed> {
    GroupMode::from_u8(cursor.u8()?).ok_or(Malformed)
}

pub(crate) fn put_backoff(out: &mut BytesMut, steps_ms: &[u64]) {
    put_list(out, steps_ms.iter(), |out, step_ms| put_varint(out, *step_ms));
}

pub(crate) fn backoff(cursor: &mut ByteCursor<'_>) -> Result<Vec<u64>, Malformed> {
    list(cursor, 1, ByteCursor::varint)
}

pub(crate) fn put_group_patch(out: &mut BytesMut, patch: &GroupPatch) {
    let GroupPatch {
        mode,
        ack_wait_ms,
        max_in_flight,
        max_in_flight_bytes,
        max_unsettled,
        window,
        backoff_ms,
        pin_retention,
        owner,
        dlq,
    } = patch;
    put_option(out, *mode, |out, mode| out.put_u8(mode as u8));
    put_option(out, *ack_wait_ms, put_varint);
    put_option(out, *max_in_flight, put_narrow);
    put_option(out, *max_in_flight_bytes, put_varint);
    put_option(out, *max_unsettled, put_narrow);
    put_option(out, *window, put_varint);
    put_option(out, backoff_ms.as_deref(), put_backoff);
    put_option(out, *pin_retention, put_bool);
    put_option(out, owner.as_deref(), put_text);
    put_dlq_patch(out, dlq);
}

pub(crate) fn group_patch(cursor: &mut ByteCursor<'_>) -> Result<GroupPatch, Malformed> {
    Ok(GroupPatch {
        mode: option(cursor, group_mode)?,
        ack_wait_ms: option(cursor, ByteCursor::varint)?,
        max_in_flight: option(cursor, narrow)?,
        max_in_flight_bytes: option(cursor, ByteCursor::varint)?,
        max_unsettled: option(cursor, narrow)?,
        window: option(cursor, ByteCursor::varint)?,
        backoff_ms: option(cursor, backoff)?,
        pin_retention: option(cursor, bool)?,
        owner: option(cursor, text)?,
        dlq: dlq_patch(cursor)?,
    })
}

pub(crate) fn node_state(cursor: &mut ByteCursor<'_>) -> Result<NodeState, Malformed> {
    NodeState::from_u8(cursor.u8()?).ok_or(Malformed)
}

pub(crate) fn put_replicas(out: &mut BytesMut, replicas: &[ReplicaId]) {
    put_list(out, replicas.iter(), |out, replica| out.put_u64_le(replica.0));
}

pub(crate) fn replicas(cursor: &mut ByteCursor<'_>) -> Result<Vec<ReplicaId>, Malformed> {
    list(cursor, size_of::<u64>(), |cursor| cursor.u64().map(ReplicaId))
}
