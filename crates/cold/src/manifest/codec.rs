//! The bytes of a manifest file.
//!
//! ```text
//! file    = magic "RGM1" │ cluster 16 bytes │ shard v │ version │ extends? u8 [version]
//!           │ n v, n × stream │ n v, n × object │ n v, n × object id │ n v, n × stream uid 16 bytes
//!           │ crc32c u32 over all before
//! version = log index v │ term v
//! stream  = uid 16 bytes │ name (length v, bytes) │ created z │ deleted u8 │ digest 32 bytes │ kept v
//!           │ n v, n × range
//! range   = base v │ count v │ min ts z │ max ts − min ts v │ record bytes v │ object id
//!           │ first row group v │ first row v
//! object  = object id │ kind u8 [0: stream uid 16 bytes, base v, last v | 1] │ day z │ term v
//!           │ attempt v │ hash 8 bytes │ bytes v │ footer bytes v │ live parts v
//! object id = seal index v │ part v
//! ```
//!
//! v is a minimal varint, z one of the zigzag of a signed number; integers are little-endian. The
//! magic carries the version. Maps are in the order of their keys: equal content is equal bytes.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use railgun_core::manifest::{
    ColdRange, ManifestFile, ManifestVersion, ObjectId, ObjectInfo, ObjectKind, StreamChange,
    StreamManifest,
};
use railgun_types::{
    ByteCursor, ClusterUid, Malformed, Offset, ShardId, StreamName, StreamUid, Timestamp, crc32c,
    put_varint, unzigzag, zigzag,
};

/// Format and version.
const MAGIC: [u8; 4] = *b"RGM1";
/// Bytes of the checksum at the end.
const CRC_BYTES: usize = 4;

/// Why bytes are not a manifest file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    /// Another format, or a version this build does not know.
    #[error("it is no manifest of a version that this build reads")]
    Unknown,
    /// The checksum does not hold.
    #[error("its checksum does not hold")]
    Checksum,
    /// The checksum holds, but the content cannot be read.
    #[error("its {field} cannot be read")]
    Malformed {
        /// What was being read.
        field: &'static str,
    },
}

/// The bytes of `file`.
#[must_use]
pub fn encode(file: &ManifestFile) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(&MAGIC);
    out.put_slice(&file.cluster.0);
    put_varint(&mut out, u64::from(file.shard.0));
    put_version(&mut out, file.version);
    out.put_u8(u8::from(file.extends.is_some()));
    if let Some(extends) = file.extends {
        put_version(&mut out, extends);
    }
    put_varint(&mut out, file.streams.len() as u64);
    for (uid, change) in &file.streams {
        put_stream(&mut out, *uid, change);
    }
    put_varint(&mut out, file.objects.len() as u64);
    for (id, object) in &file.objects {
        put_object(&mut out, *id, object);
    }
    put_varint(&mut out, file.removed_objects.len() as u64);
    for id in &file.removed_objects {
        put_object_id(&mut out, *id);
    }
    put_varint(&mut out, file.removed_streams.len() as u64);
    for uid in &file.removed_streams {
        out.put_slice(&uid.0);
    }
    out.put_u32_le(crc32c(&out));
    out.freeze()
}

/// Reads a manifest file.
///
/// # Errors
/// [`BadManifest`]; never panics, never allocates more than a small multiple of `bytes`.
pub fn decode(bytes: &[u8]) -> Result<ManifestFile, BadManifest> {
    let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(BadManifest::Unknown)?;
    if !content.starts_with(&MAGIC) {
        return Err(BadManifest::Unknown);
    }
    if crc32c(content) != u32::from_le_bytes(*crc) {
        return Err(BadManifest::Checksum);
    }
    let mut at = ByteCursor::new(&content[MAGIC.len()..]);
    let bad = |field| move |_: Malformed| BadManifest::Malformed { field };
    let cluster = ClusterUid(at.array().map_err(bad("cluster"))?);
    let shard = ShardId(narrow(&mut at).map_err(bad("shard"))?);
    let version = version(&mut at).map_err(bad("version"))?;
    let extends = extends(&mut at).map_err(bad("extended version"))?;
    let streams = many(&mut at, stream).map_err(bad("streams"))?;
    let objects = many(&mut at, object).map_err(bad("objects"))?;
    let removed_objects = many(&mut at, object_id).map_err(bad("removed objects"))?;
    let removed_streams = many(&mut at, |at| Ok(StreamUid(at.array()?)));
    let removed_streams = removed_streams.map_err(bad("removed streams"))?;
    if at.remaining() > 0 {
        return Err(BadManifest::Malformed { field: "end" });
    }
    let file = ManifestFile {
        cluster,
        shard,
        version,
        extends,
        streams: ascending(streams).ok_or(BadManifest::Malformed { field: "order of streams" })?,
        objects: ascending(objects).ok_or(BadManifest::Malformed { field: "order of objects" })?,
        removed_objects,
        removed_streams,
    };
    // A chain of versions must come to an end.
    if file.extends.is_some_and(|extends| extends >= file.version) {
        return Err(BadManifest::Malformed { field: "extended version" });
    }
    Ok(file)
}

fn put_version(out: &mut BytesMut, version: ManifestVersion) {
    put_varint(out, version.log_index);
    put_varint(out, version.term);
}

fn version(at: &mut ByteCursor<'_>) -> Result<ManifestVersion, Malformed> {
    Ok(ManifestVersion { log_index: at.varint()?, term: at.varint()? })
}

fn extends(at: &mut ByteCursor<'_>) -> Result<Option<ManifestVersion>, Malformed> {
    if flag(at)? { Ok(Some(version(at)?)) } else { Ok(None) }
}

fn put_object_id(out: &mut BytesMut, id: ObjectId) {
    put_varint(out, id.seal_index);
    put_varint(out, u64::from(id.part));
}

fn object_id(at: &mut ByteCursor<'_>) -> Result<ObjectId, Malformed> {
    Ok(ObjectId { seal_index: at.varint()?, part: narrow(at)? })
}

fn put_stream(out: &mut BytesMut, uid: StreamUid, change: &StreamChange) {
    let StreamManifest { name, created, deleted, ranges, digest } = &change.stream;
    out.put_slice(&uid.0);
    put_varint(out, name.as_str().len() as u64);
    out.put_slice(name.as_str().as_bytes());
    put_varint(out, zigzag(created.0));
    out.put_u8(u8::from(*deleted));
    out.put_slice(digest);
    put_varint(out, change.kept);
    put_varint(out, ranges.len() as u64);
    for range in ranges {
        put_varint(out, range.base.0);
        put_varint(out, range.count);
        put_varint(out, zigzag(range.min_ts.0));
        put_varint(out, range.max_ts.0.wrapping_sub(range.min_ts.0).cast_unsigned());
        put_varint(out, range.record_bytes);
        put_object_id(out, range.object);
        put_varint(out, u64::from(range.first_row_group));
        put_varint(out, range.first_row);
    }
}

fn stream(at: &mut ByteCursor<'_>) -> Result<(StreamUid, StreamChange), Malformed> {
    let uid = StreamUid(at.array()?);
    let name = std::str::from_utf8(at.sized()?).map_err(|_| Malformed)?;
    let name = StreamName::parse_any(name).map_err(|_| Malformed)?;
    let created = Timestamp(unzigzag(at.varint()?));
    let deleted = flag(at)?;
    let digest = at.array()?;
    let kept = at.varint()?;
    let ranges = many(at, |at| {
        let (base, count) = (Offset(at.varint()?), at.varint()?);
        let min_ts = unzigzag(at.varint()?);
        let max_ts = min_ts.wrapping_add(at.varint()?.cast_signed());
        Ok(ColdRange {
            base,
            count,
            min_ts: Timestamp(min_ts),
            max_ts: Timestamp(max_ts),
            record_bytes: at.varint()?,
            object: object_id(at)?,
            first_row_group: narrow(at)?,
            first_row: at.varint()?,
        })
    })?;
    let stream = StreamManifest { name, created, deleted, ranges, digest };
    Ok((uid, StreamChange { stream, kept }))
}

fn put_object(out: &mut BytesMut, id: ObjectId, object: &ObjectInfo) {
    put_object_id(out, id);
    match object.kind {
        ObjectKind::Segment { stream, base, last } => {
            out.put_u8(0);
            out.put_slice(&stream.0);
            put_varint(out, base.0);
            put_varint(out, last.0);
        }
        ObjectKind::Bundle => out.put_u8(1),
    }
    put_varint(out, zigzag(object.day));
    put_varint(out, object.term);
    put_varint(out, object.attempt);
    out.put_slice(&object.hash);
    put_varint(out, object.bytes);
    put_varint(out, u64::from(object.footer_bytes));
    put_varint(out, u64::from(object.live_parts));
}

fn object(at: &mut ByteCursor<'_>) -> Result<(ObjectId, ObjectInfo), Malformed> {
    let id = object_id(at)?;
    let kind = match at.u8()? {
        0 => ObjectKind::Segment {
            stream: StreamUid(at.array()?),
            base: Offset(at.varint()?),
            last: Offset(at.varint()?),
        },
        1 => ObjectKind::Bundle,
        _ => return Err(Malformed),
    };
    let info = ObjectInfo {
        kind,
        day: unzigzag(at.varint()?),
        term: at.varint()?,
        attempt: at.varint()?,
        hash: at.array()?,
        bytes: at.varint()?,
        footer_bytes: narrow(at)?,
        live_parts: narrow(at)?,
    };
    Ok((id, info))
}

fn narrow(at: &mut ByteCursor<'_>) -> Result<u32, Malformed> {
    u32::try_from(at.varint()?).map_err(|_| Malformed)
}

fn flag(at: &mut ByteCursor<'_>) -> Result<bool, Malformed> {
    match at.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

/// A count and that many items. Grows with what is read: a count alone allocates nothing.
fn many<'a, T>(
    at: &mut ByteCursor<'a>,
    mut item: impl FnMut(&mut ByteCursor<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = at.varint()?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(at)?);
    }
    Ok(items)
}

/// A map of pairs whose keys ascend; `None` if they do not.
fn ascending<K: Ord, V>(pairs: Vec<(K, V)>) -> Option<BTreeMap<K, V>> {
    pairs.is_sorted_by(|a, b| a.0 < b.0).then(|| pairs.into_iter().collect())
}

#[cfg(test)]
mod tests;
