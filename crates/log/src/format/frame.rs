//! Frames: the records inside a write batch. Layout in [`super`].

use bytes::Bytes;
use crc32c::crc32c_append;

#[cfg(test)]
use super::fields::Fields;
use super::fields::Parse;
use super::{Damage, FileUuid};
use crate::{EntryId, MAX_PAYLOAD_BYTES, Vote};

/// Bytes of a frame's header.
pub(crate) const FRAME_BYTES: usize = 28;

/// Bytes of the header before its CRC.
const SUMMED_BYTES: usize = 24;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Entry { id: EntryId, kind: u8, len: u32 },
    Vote(Vote),
    Committed(EntryId),
    Purged(EntryId),
    Truncate(Option<EntryId>),
}

impl Record {
    /// Bytes of the payload that follows the header.
    pub(crate) const fn payload_len(&self) -> usize {
        match self {
            Self::Entry { len, .. } => *len as usize,
            _ => 0,
        }
    }

    /// tag, kind, length, term, index.
    fn fields(&self) -> (u8, u8, u32, u64, u64) {
        match *self {
            Self::Entry { id, kind, len } => (1, kind, len, id.term, id.index),
            Self::Vote(vote) => (2, vote.committed.into(), 0, vote.term, vote.node),
            Self::Committed(id) => (3, 0, 0, id.term, id.index),
            Self::Purged(id) => (4, 0, 0, id.term, id.index),
            Self::Truncate(Some(id)) => (5, 1, 0, id.term, id.index),
            Self::Truncate(None) => (5, 0, 0, 0, 0),
        }
    }
}

/// The sum over the file's uuid, with which each frame's CRC begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameSeed(u32);

impl FrameSeed {
    pub(crate) fn new(uuid: &FileUuid) -> Self {
        Self(crc32c::crc32c(uuid))
    }

    /// Sum over the uuid and the header; the payload is appended to it.
    pub(crate) fn header_sum(self, header: &[u8; FRAME_BYTES]) -> u32 {
        crc32c_append(self.0, &header[..SUMMED_BYTES])
    }
}

/// Encodes the header of `record`, summing `parts` as its payload.
pub(crate) fn encode(record: &Record, parts: &[Bytes], seed: FrameSeed) -> [u8; FRAME_BYTES] {
    let (tag, kind, len, term, index) = record.fields();
    let mut header = [0; FRAME_BYTES];
    header[0] = tag;
    header[1] = kind;
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..16].copy_from_slice(&term.to_le_bytes());
    header[16..24].copy_from_slice(&index.to_le_bytes());
    let sum = parts.iter().fold(seed.header_sum(&header), |sum, part| crc32c_append(sum, part));
    header[SUMMED_BYTES..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// The CRC in an encoded header: what the batch sums.
pub(crate) fn crc_bytes(header: &[u8; FRAME_BYTES]) -> &[u8] {
    &header[SUMMED_BYTES..]
}

/// A frame's header as read, and the CRC its bytes must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) record: Record,
    pub(crate) crc: u32,
}

/// Reads a header. The CRC is the caller's to check: it covers the payload.
pub(crate) fn decode(header: &[u8; FRAME_BYTES]) -> Result<FrameHeader, Damage> {
    parse(header).unwrap_or(Err("frame header is cut short"))
}

fn parse(header: &[u8; FRAME_BYTES]) -> Option<Result<FrameHeader, Damage>> {
    let mut parse = Parse(header);
    let (tag, kind, zero, len) = (parse.u8()?, parse.u8()?, parse.u16()?, parse.u32()?);
    let (term, index, crc) = (parse.u64()?, parse.u64()?, parse.u32()?);
    let id = EntryId { term, index };
    let record = match (tag, kind) {
        (1, kind) => Record::Entry { id, kind, len },
        (2, 0 | 1) => Record::Vote(Vote { term, node: index, committed: kind == 1 }),
        (3, 0) => Record::Committed(id),
        (4, 0) => Record::Purged(id),
        (5, 1) => Record::Truncate(Some(id)),
        (5, 0) => Record::Truncate(None),
        _ => return Some(Err("unknown frame")),
    };
    if zero != 0 {
        return Some(Err("reserved bytes of a frame are set"));
    }
    if record.payload_len() != len as usize || len as usize > MAX_PAYLOAD_BYTES {
        return Some(Err("impossible frame length"));
    }
    Some(Ok(FrameHeader { record, crc }))
}

/// Appends the frame to `out`; for tests and golden files.
#[cfg(test)]
pub(crate) fn append(out: &mut Vec<u8>, record: &Record, payload: &Bytes, seed: FrameSeed) {
    Fields(out).bytes(&encode(record, std::slice::from_ref(payload), seed)).bytes(payload);
}
