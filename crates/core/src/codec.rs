//! Values that several formats of this crate share: texts, options, specifications.

use bytes::{BufMut, BytesMut};
use railgun_types::{
    ByteCursor, EnsureMode, Malformed, SpecPatch, StreamKind, StreamName, put_varint,
};

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
