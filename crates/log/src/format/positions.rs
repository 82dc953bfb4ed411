//! The position index beside a closed file. Derived data: where it is missing, damaged or of another
//! life of the file, the file is scanned instead.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `"rgunpos1"` |
//! | 8 | 16 | uuid of the file |
//! | 24 | 8 | first index held |
//! | 32 | 8 | index after the last one held |
//! | 40 | 8 | length of the file's valid part |
//! | 48 | 4 | header CRC of the last batch |
//! | 52 | 4 | 1 if nothing in earlier files is part of the log |
//! | 56 | 4 | number P of points |
//! | 60 | 4 | number B of breaks |
//! | 64 | 8 P | points: index relative to the first, position |
//! | … | 4 B | breaks: index relative to the first |
//! | … | 4 | CRC of the bytes before |

use super::FileUuid;
use super::fields::{Fields, Parse};
use crate::extent::{Extent, Point};

const MAGIC: [u8; 8] = *b"rgunpos1";

/// Bytes of an index without points.
const FIXED_BYTES: usize = 64;

/// What an index must say to be that of a given file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: FileUuid,
    pub(crate) end: u64,
    /// Header CRC of the file's last batch.
    pub(crate) last_crc: u32,
}

/// Longest index of a file of `file_bytes`: points are at least a frame apart, breaks as well.
pub(crate) const fn bytes_max(file_bytes: u64) -> u64 {
    FIXED_BYTES as u64 + 4 + file_bytes
}

pub(crate) fn encode(identity: &Identity, extent: &Extent) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIXED_BYTES + 8 * extent.points.len() + 8);
    let mut fields = Fields(&mut bytes);
    fields.bytes(&MAGIC).bytes(&identity.uuid).u64(extent.start).u64(extent.next);
    fields.u64(identity.end).u32(identity.last_crc).u32(extent.severed.into());
    fields.u32(extent.points.len() as u32).u32(extent.breaks.len() as u32);
    for point in &extent.points {
        fields.u32(point.index).u32(point.position);
    }
    for index in &extent.breaks {
        fields.u32(*index);
    }
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// The extent of the file `identity`, if the bytes are intact and speak of it.
pub(crate) fn decode(bytes: &[u8], identity: &Identity) -> Option<Extent> {
    let (summed, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(summed) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut parse = Parse(summed);
    if parse.array::<8>()? != MAGIC {
        return None;
    }
    let uuid = parse.array()?;
    let range = (parse.u64()?, parse.u64()?);
    let (end, last_crc, severed) = (parse.u64()?, parse.u32()?, parse.u32()? != 0);
    if (Identity { uuid, end, last_crc }) != *identity || range.0 > range.1 {
        return None;
    }
    let (points, breaks) = (parse.u32()? as usize, parse.u32()? as usize);
    if parse.0.len() != points.checked_mul(8)?.checked_add(breaks.checked_mul(4)?)? {
        return None;
    }
    let mut extent =
        Extent::from_parts(range, severed, end, Vec::with_capacity(points), Vec::new());
    for _ in 0..points {
        extent.points.push(Point { index: parse.u32()?, position: parse.u32()? });
    }
    for _ in 0..breaks {
        extent.breaks.push(parse.u32()?);
    }
    Some(extent)
}
