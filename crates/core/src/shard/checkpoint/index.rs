//! The hot index as bytes: about 8 a batch.
//!
//! ```text
//! index = map of: stream 16 │ first base v │ list of point
//! point = twice the count, plus one if there is a skip v │ [skip v] │ position v │ log index v │ ts v
//! ```
//!
//! A batch, or a run of its records, begins where the one before ends. Log index and ts are what they are above those of the
//! batch before, of which neither ever falls. Streams without a batch in the log are left out.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use railgun_types::{ByteCursor, Malformed, Offset, StreamUid, Timestamp, put_varint};

use super::Stream;
use crate::codec::{count, narrow, put_list, put_varints};
use crate::shard::IndexPoint;

/// Fewest bytes of a point.
const POINT_BYTES_MIN: usize = 4;
/// Fewest bytes of a stream with one point.
const STREAM_BYTES_MIN: usize = 18 + POINT_BYTES_MIN;

pub(super) fn encode_index(out: &mut BytesMut, streams: &BTreeMap<StreamUid, Stream>) {
    let held: Vec<_> = streams.iter().filter(|(_, stream)| !stream.index.is_empty()).collect();
    put_list(out, held.into_iter(), |out, (uid, stream)| {
        out.put_slice(&uid.0);
        put_varint(out, stream.index.first().unwrap_or_default().0);
        let (mut last_index, mut last_ts) = (0, 0);
        put_varint(out, stream.index.len() as u64);
        stream.index.iter().for_each(|point| {
            let IndexPoint { base: _, skip, count, position, log_index, ts } = point;
            let (entries, us) = (log_index.wrapping_sub(last_index), ts.0.wrapping_sub(last_ts));
            let (count, position) = (u64::from(count) << 1, u64::from(position));
            if skip == 0 {
                put_varints(out, [count, position, entries, us as u64]);
            } else {
                put_varints(out, [count | 1, skip.into(), position, entries, us as u64]);
            }
            (last_index, last_ts) = (log_index, ts.0);
        });
    });
}

/// Reads the index into `streams`. Each must end where its stream does, at or before `applied`.
/// Batch by batch: as a list they would take several times what they take in the index.
pub(super) fn decode_index(
    cursor: &mut ByteCursor<'_>,
    applied: Option<u64>,
    streams: &mut BTreeMap<StreamUid, Stream>,
) -> Result<(), Malformed> {
    let mut before = None;
    for _ in 0..count(cursor, STREAM_BYTES_MIN)? {
        let uid = StreamUid(cursor.array()?);
        if before.replace(uid).is_some_and(|before| before >= uid) {
            return Err(Malformed);
        }
        let stream = streams.get_mut(&uid).ok_or(Malformed)?;
        let mut end = cursor.varint()?;
        let (mut log_index, mut ts) = (0u64, 0i64);
        let points = count(cursor, POINT_BYTES_MIN)?;
        for _ in 0..points {
            let count = cursor.varint()?;
            let skip = if count & 1 == 1 { skip(cursor)? } else { 0 };
            let count = u32::try_from(count >> 1).map_err(|_| Malformed)?;
            let position = narrow(cursor)?;
            // What is counted from the first record of a batch on ends within it.
            skip.checked_add(count).ok_or(Malformed)?;
            let base = Offset(end);
            end = end.checked_add(u64::from(count)).ok_or(Malformed)?;
            log_index = log_index.checked_add(cursor.varint()?).ok_or(Malformed)?;
            ts = ts.checked_add_unsigned(cursor.varint()?).ok_or(Malformed)?;
            let point = IndexPoint { base, skip, count, position, log_index, ts: Timestamp(ts) };
            stream.index.push(point);
        }
        if points == 0 || end != stream.next.0 || Some(log_index) > applied {
            return Err(Malformed);
        }
    }
    Ok(())
}

/// A skip that is told is one.
fn skip(cursor: &mut ByteCursor<'_>) -> Result<u32, Malformed> {
    narrow(cursor).and_then(|skip| if skip == 0 { Err(Malformed) } else { Ok(skip) })
}
