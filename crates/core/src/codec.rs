//! Values that several formats of this crate share: texts, options, lists, specifications.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use railgun_types::{
    ByteCursor, EnsureMode, Malformed, ReplicaId, SpecPatch, StreamKind, StreamName, put_varint,
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
}

pub(crate) fn patch(cursor: &mut ByteCursor<'_>) -> Result<SpecPatch, Malformed> {
    Ok(SpecPatch {
        kind: option(cursor, kind)?,
        max_message_bytes: option(cursor, ByteCursor::u32)?,
        owner: option(cursor, text)?,
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
