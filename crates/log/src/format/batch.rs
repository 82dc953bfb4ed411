//! Headers of write batches. Layout in [`super`].

use super::fields::{Fields, Parse};
use super::{Damage, FileUuid};

/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 64;

/// First bytes of each write batch, other than those of a record batch. The first of them is neither a
/// frame's tag nor padding.
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"RGW1";

/// Bytes of the header before its CRC.
const SUMMED_BYTES: usize = 60;

/// Number of frames in the header of a seal.
const SEAL: u32 = u32::MAX;

/// What a batch says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) uuid: FileUuid,
    pub(crate) number: u64,
    /// Every batch up to this number was fsynced before this one was written.
    pub(crate) synced_through: u64,
    /// Bytes of the frames, without padding.
    pub(crate) length: u64,
    pub(crate) frames: u32,
    /// Header CRC of the batch before.
    pub(crate) previous_crc: u32,
    /// CRC of the frames' CRCs.
    pub(crate) frames_crc: u32,
}

impl BatchHeader {
    /// What stands behind the last batch of a closed file, in the place of batch `number`.
    pub(crate) const fn seal(uuid: FileUuid, number: u64, previous_crc: u32) -> Self {
        let synced_through = number - 1;
        Self { uuid, number, synced_through, length: 0, frames: SEAL, previous_crc, frames_crc: 0 }
    }

    pub(crate) const fn is_seal(&self) -> bool {
        self.frames == SEAL
    }

    /// The header's bytes and its CRC, which the next batch names.
    pub(crate) fn encode(&self) -> ([u8; BATCH_HEADER_BYTES], u32) {
        let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES);
        Fields(&mut bytes)
            .bytes(&BATCH_MAGIC)
            .u32(self.frames)
            .bytes(&self.uuid)
            .u64(self.number)
            .u64(self.synced_through)
            .u64(self.length)
            .u32(self.previous_crc)
            .u32(self.frames_crc)
            .u32(0);
        let crc = crc32c::crc32c(&bytes);
        let mut header = [0; BATCH_HEADER_BYTES];
        header[..SUMMED_BYTES].copy_from_slice(&bytes);
        header[SUMMED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        (header, crc)
    }

    /// Reads a header, whole and of the file `uuid`, and its CRC.
    pub(crate) fn decode(
        header: &[u8; BATCH_HEADER_BYTES],
        uuid: &FileUuid,
    ) -> Result<(Self, u32), Damage> {
        let (decoded, zero, crc) = Self::parse(header).ok_or("batch header is cut short")?;
        if header[..4] != BATCH_MAGIC {
            return Err("no batch header");
        }
        if decoded.uuid != *uuid {
            return Err("batch of another file");
        }
        if zero != 0 || crc != crc32c::crc32c(&header[..SUMMED_BYTES]) {
            return Err("batch header checksum does not match");
        }
        Ok((decoded, crc))
    }

    fn parse(header: &[u8; BATCH_HEADER_BYTES]) -> Option<(Self, u32, u32)> {
        let mut parse = Parse(header);
        parse.u32()?;
        let frames = parse.u32()?;
        let uuid = parse.array()?;
        let (number, synced_through, length) = (parse.u64()?, parse.u64()?, parse.u64()?);
        let (previous_crc, frames_crc) = (parse.u32()?, parse.u32()?);
        let decoded =
            Self { uuid, number, synced_through, length, frames, previous_crc, frames_crc };
        Some((decoded, parse.u32()?, parse.u32()?))
    }
}
