//! The ID time boxes as bytes: 40 an id. Slice by slice as they are in memory, so that whoever restores
//! them cuts the next ones where all others do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use railgun_types::limits::DEDUP_IDS_PER_SHARD;
use railgun_types::{ByteCursor, Malformed, Offset, StreamUid, Timestamp, put_varint};

use super::Stream;
use crate::codec::{self, list, map, put_list};
use crate::shard::dedup::{Dedup, HeldId, IDS_MAX, IdHash, IdWindow, Slice};

const ID_BYTES: usize = 40;
/// Fewest bytes of a slice, with one id.
const SLICE_BYTES_MIN: usize = 1 + ID_BYTES;
/// Fewest bytes of a window, without a slice.
const WINDOW_BYTES_MIN: usize = 20;

pub(super) fn encode_ids(out: &mut BytesMut, windows: &BTreeMap<StreamUid, IdWindow>) {
    put_list(out, windows.iter(), |out, (uid, window)| {
        out.put_slice(&uid.0);
        put_varint(out, window.forgotten as u64);
        put_varint(out, window.evicted);
        codec::put_option(out, window.evicted_ts, |out, ts| out.put_i64_le(ts.0));
        put_list(out, window.slices.iter(), |out, slice| {
            out.reserve(slice.ids().len() * ID_BYTES);
            put_list(out, slice.ids().iter(), put_id);
        });
    });
}

fn put_id(out: &mut BytesMut, id: &HeldId) {
    let HeldId { hash, offset, ts, payload } = id;
    let mut bytes = [0; ID_BYTES];
    bytes[..16].copy_from_slice(&hash.0);
    bytes[16..24].copy_from_slice(&offset.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&ts.0.to_le_bytes());
    bytes[32..].copy_from_slice(&payload.to_le_bytes());
    out.put_slice(&bytes);
}

/// Reads the windows of `streams`, which are at `log_time`.
pub(super) fn decode_ids(
    cursor: &mut ByteCursor<'_>,
    log_time: Timestamp,
    streams: &BTreeMap<StreamUid, Stream>,
) -> Result<Dedup, Malformed> {
    let windows = map(cursor, WINDOW_BYTES_MIN, |cursor| {
        let uid = StreamUid(cursor.array()?);
        let forgotten = usize::try_from(cursor.varint()?).map_err(|_| Malformed)?;
        let evicted = cursor.varint()?;
        let evicted_ts = codec::option(cursor, |cursor| cursor.i64().map(Timestamp))?;
        let slices: VecDeque<_> = list(cursor, SLICE_BYTES_MIN, slice)?.into();
        let window = IdWindow::restored(slices, forgotten, evicted, evicted_ts);
        let stream = streams.get(&uid).filter(|it| !it.deleted && it.spec.dedup.is_on());
        let is_valid = stream.is_some_and(|stream| window.is_valid(stream.next, log_time));
        if is_valid { Ok((uid, window)) } else { Err(Malformed) }
    })?;
    let held = windows.values().map(IdWindow::held).sum();
    if held > DEDUP_IDS_PER_SHARD { Err(Malformed) } else { Ok(Dedup { windows, held }) }
}

fn slice(cursor: &mut ByteCursor<'_>) -> Result<Arc<Slice>, Malformed> {
    let ids = list(cursor, ID_BYTES, |cursor| {
        Ok(HeldId {
            hash: IdHash(cursor.array()?),
            offset: Offset(cursor.u64()?),
            ts: Timestamp(cursor.i64()?),
            payload: cursor.u64()?,
        })
    })?;
    if ids.len() > IDS_MAX { Err(Malformed) } else { Ok(Arc::new(Slice::closed(ids))) }
}
