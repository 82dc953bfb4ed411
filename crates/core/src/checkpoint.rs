//! The frame of a checkpoint: replicated state at one log index, as bytes. What the sections hold is
//! in [`shard`](crate::shard) and [`catalog`](crate::catalog).
//!
//! ```text
//! checkpoint = header │ its sections, each once, in the order in which their module lists them
//! header     = magic "rgunckp\n" │ version u16: 2 │ flags u16: 1 INDEX │ shard u32
//!              │ crc32c u32 over all before │ cluster? u8 [16 bytes]
//!              │ applied? u8 [index u64 │ term u64] │ log time i64
//!              │ membership: length v, bytes │ crc32c u32 over all before
//! section    = tag u8 │ content bytes u64 │ content │ crc32c u32 over all of the section before
//! ```
//!
//! Integers are little-endian; v is a minimal varint, z one of the zigzag of a signed number. Lists
//! begin with their length v, maps are lists in ascending order of their keys. There is one encoding
//! of each value, so equal states are equal bytes.
//!
//! A header begins in this way in every version from here on, up to the first checksum: what is damaged is never taken
//! for what a newer release wrote.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::{
    ByteCursor, ClusterUid, EntryId, Malformed, ShardId, Timestamp, crc32c, crc32c_append,
    put_varint,
};

use crate::codec;

const MAGIC: [u8; 8] = *b"rgunckp\n";
const VERSION: u16 = 2;
/// The header up to its first checksum.
const BEGIN_BYTES: usize = 16;
const FLAG_INDEX: u16 = 1;
/// Tag and length of a section.
const SECTION_HEAD_BYTES: usize = 9;
const CRC_BYTES: usize = 4;
/// Most bytes of one piece of an encoded checkpoint, so that its writing can be spread.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// The parts of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    /// Where the state stands, and the Raft membership.
    Header = 0,
    /// A shard's streams.
    Streams = 1,
    /// A shard's producers.
    Producers = 2,
    /// What lies in object storage.
    Manifest = 3,
    /// What object storage has not been told yet.
    ManifestLog = 4,
    /// What is on its way to object storage.
    Offload = 5,
    /// Where in the log the batches of a shard's streams are.
    Index = 6,
    /// The catalog's names.
    Names = 7,
    /// The catalog's nodes, placements and join tokens.
    Nodes = 8,
    /// A shard's consumer groups.
    Groups = 9,
    /// The message ids that a shard's streams hold.
    Ids = 10,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Streams => "streams",
            Self::Producers => "producers",
            Self::Manifest => "manifest",
            Self::ManifestLog => "manifest log",
            Self::Offload => "offload",
            Self::Index => "index",
            Self::Names => "names",
            Self::Nodes => "nodes",
            Self::Groups => "groups",
            Self::Ids => "ids",
        })
    }
}

/// Why bytes are not the checkpoint that was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Another format.
    #[error("it is no checkpoint")]
    NotACheckpoint,
    /// A version this build does not know.
    #[error("the checkpoint has the unknown version {version}: another release wrote it")]
    UnknownVersion {
        /// Its version.
        version: u16,
    },
    /// The bytes end too early.
    #[error("the checkpoint ends within its {section} section")]
    Truncated {
        /// Where.
        section: Section,
    },
    /// A checksum does not hold.
    #[error("the checksum of the checkpoint's {section} section does not hold")]
    Checksum {
        /// Where.
        section: Section,
    },
    /// The checksum holds, but the content cannot be: a fault of whoever wrote it.
    #[error("the checkpoint's {section} section is malformed")]
    Malformed {
        /// Where.
        section: Section,
    },
    /// Bytes follow the last section.
    #[error("{bytes} bytes follow the end of the checkpoint")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// It is of another cluster, or of none yet.
    #[error("the checkpoint is not of cluster {wanted}")]
    WrongCluster {
        /// The cluster it was to be of.
        wanted: ClusterUid,
        /// The one it is of.
        found: Option<ClusterUid>,
    },
    /// It is of another shard.
    #[error("the checkpoint is of shard {found}, not {wanted}")]
    WrongShard {
        /// The shard it was to be of.
        wanted: ShardId,
        /// The one it is of.
        found: ShardId,
    },
}

impl CheckpointError {
    /// Whether the bytes are not what was once written. If not, they may well be: a checkpoint of a
    /// newer release, of another cluster or of another shard, for whoever knows that.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::NotACheckpoint
            | Self::Truncated { .. }
            | Self::Checksum { .. }
            | Self::Malformed { .. }
            | Self::TrailingBytes { .. } => true,
            Self::UnknownVersion { .. } | Self::WrongCluster { .. } | Self::WrongShard { .. } => {
                false
            }
        }
    }
}

/// What every checkpoint begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) shard: ShardId,
    pub(crate) cluster: Option<ClusterUid>,
    pub(crate) applied: Option<EntryId>,
    pub(crate) log_time: Timestamp,
    pub(crate) has_index: bool,
    /// Opaque: Raft's own, as of `applied`.
    pub(crate) membership: &'a [u8],
}

impl<'a> Header<'a> {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(80 + self.membership.len());
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(if self.has_index { FLAG_INDEX } else { 0 });
        out.put_u32_le(self.shard.0);
        out.put_u32_le(crc32c(&out));
        codec::put_option(&mut out, self.cluster, |out, cluster| out.put_slice(&cluster.0));
        codec::put_option(&mut out, self.applied, |out, applied| {
            out.put_u64_le(applied.index);
            out.put_u64_le(applied.term);
        });
        out.put_i64_le(self.log_time.0);
        put_varint(&mut out, self.membership.len() as u64);
        out.put_slice(self.membership);
        out.put_u32_le(crc32c(&out));
        out.freeze()
    }

    fn decode(cursor: &mut ByteCursor<'a>) -> Result<Self, CheckpointError> {
        const SECTION: Section = Section::Header;
        let truncated = |_: Malformed| CheckpointError::Truncated { section: SECTION };
        let whole = cursor.rest();
        if !whole.starts_with(&MAGIC[..whole.len().min(MAGIC.len())]) {
            return Err(CheckpointError::NotACheckpoint);
        }
        cursor.take(MAGIC.len()).map_err(truncated)?;
        let version = cursor.u16().map_err(truncated)?;
        let flags = cursor.u16().map_err(truncated)?;
        let shard = ShardId(cursor.u32().map_err(truncated)?);
        if cursor.u32().map_err(truncated)? != crc32c(&whole[..BEGIN_BYTES]) {
            return Err(CheckpointError::Checksum { section: SECTION });
        }
        if version != VERSION {
            return Err(CheckpointError::UnknownVersion { version });
        }
        // Read before it is known to be sound: only to find the checksum.
        let fields = |cursor: &mut ByteCursor<'a>| {
            Ok(Self {
                shard,
                cluster: codec::option(cursor, ByteCursor::array)?.map(ClusterUid),
                applied: codec::option(cursor, |cursor| {
                    Ok(EntryId { index: cursor.u64()?, term: cursor.u64()? })
                })?,
                log_time: Timestamp(cursor.i64()?),
                has_index: flags & FLAG_INDEX != 0,
                membership: cursor.sized()?,
            })
        };
        let header = fields(cursor).map_err(truncated)?;
        let summed = whole.len() - cursor.remaining();
        if cursor.u32().map_err(truncated)? != crc32c(&whole[..summed]) {
            return Err(CheckpointError::Checksum { section: SECTION });
        }
        if flags & !FLAG_INDEX != 0 {
            return Err(CheckpointError::Malformed { section: SECTION });
        }
        Ok(header)
    }

    /// What follows, in order.
    fn sections(&self) -> impl Iterator<Item = Section> + use<> {
        use Section::{
            Groups, Ids, Index, Manifest, ManifestLog, Names, Nodes, Offload, Producers, Streams,
        };
        let sections: &[_] = match (self.shard == ShardId::CATALOG, self.has_index) {
            (true, _) => &[Names, Nodes],
            (false, false) => &[Streams, Producers, Manifest, ManifestLog, Offload, Groups, Ids],
            (false, true) => {
                &[Streams, Producers, Manifest, ManifestLog, Offload, Groups, Ids, Index]
            }
        };
        sections.iter().copied()
    }

    /// Checks that the checkpoint is of this shard, and of this cluster if one is named.
    pub(crate) fn check_owner(
        &self,
        cluster: Option<ClusterUid>,
        shard: ShardId,
    ) -> Result<(), CheckpointError> {
        if let Some(wanted) = cluster
            && self.cluster != cluster
        {
            return Err(CheckpointError::WrongCluster { wanted, found: self.cluster });
        }
        if self.shard != shard {
            return Err(CheckpointError::WrongShard { wanted: shard, found: self.shard });
        }
        Ok(())
    }
}

/// Whether `bytes` are a checkpoint of this shard, and of this cluster if one is named: whole, and as
/// it was written, by its checksums. What it holds is not decoded but for the Raft membership, which
/// is returned: opaque, as it was given.
///
/// # Errors
/// [`CheckpointError`]; never panics.
pub fn check(
    cluster: Option<ClusterUid>,
    shard: ShardId,
    bytes: &[u8],
) -> Result<Bytes, CheckpointError> {
    let (header, mut reader) = CheckpointReader::new(bytes)?;
    header.check_owner(cluster, shard)?;
    for section in header.sections() {
        reader.section(section, |content| content.take(content.remaining()).map(drop))?;
    }
    reader.finish()?;
    Ok(Bytes::copy_from_slice(header.membership))
}

/// The sections of a checkpoint, each with the checksum of its content: what two states differ in.
///
/// # Errors
/// [`CheckpointError`]; never panics.
pub fn sections(bytes: &[u8]) -> Result<Vec<(Section, u32)>, CheckpointError> {
    let (header, mut reader) = CheckpointReader::new(bytes)?;
    let sum = |content: &mut ByteCursor<'_>| content.take(content.remaining()).map(crc32c);
    let section = |section| Ok((section, reader.section(section, sum)?));
    header.sections().map(section).collect()
}

/// A checkpoint as it goes to another replica: without the index, which tells where batches are in the
/// log of the one that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithoutIndex {
    /// What it begins with.
    pub header: Bytes,
    /// What follows: this part of the checkpoint, as it is.
    pub sections: std::ops::Range<u64>,
}

/// Bytes in which the header of any checkpoint is: a membership has few members.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Finds what of a checkpoint goes to another replica. `read` gives so many bytes of it from a place on, or
/// as many as there are. The sections are not looked into.
///
/// # Errors
/// Those of `read`; inside, [`CheckpointError`].
pub fn without_index<E>(
    mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
) -> Result<Result<WithoutIndex, CheckpointError>, E> {
    let start = read(0, HEADER_BYTES_MAX)?;
    let mut cursor = ByteCursor::new(&start);
    let header = match Header::decode(&mut cursor) {
        Ok(header) => Header { has_index: false, ..header },
        Err(error) => return Ok(Err(error)),
    };
    let begin = (start.len() - cursor.remaining()) as u64;
    let mut end = begin;
    for section in header.sections() {
        let head = read(end, SECTION_HEAD_BYTES)?;
        let mut fields = ByteCursor::new(&head);
        let (Ok(tag), Ok(content)) = (fields.u8(), fields.u64()) else {
            return Ok(Err(CheckpointError::Truncated { section }));
        };
        let bytes = content.checked_add((SECTION_HEAD_BYTES + CRC_BYTES) as u64);
        let Some(next) = bytes.and_then(|bytes| end.checked_add(bytes)) else {
            return Ok(Err(CheckpointError::Truncated { section }));
        };
        if tag != section as u8 {
            return Ok(Err(CheckpointError::Malformed { section }));
        }
        end = next;
    }
    Ok(Ok(WithoutIndex { header: header.encode(), sections: begin..end }))
}

/// A checkpoint that is not all bytes yet: what is large, and can be shared with the state, is encoded only
/// when it is asked for, by whoever writes it.
#[must_use]
pub struct Unwritten {
    parts: Vec<Part>,
}

enum Part {
    Piece(Bytes),
    Later(Section, PutLater),
}

type PutLater = Box<dyn FnOnce(&mut BytesMut) + Send>;

impl fmt::Debug for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwritten").field("parts", &self.parts.len()).finish()
    }
}

impl Unwritten {
    /// The checkpoint in pieces of at most 1 MiB, to be written one behind the other.
    #[must_use]
    pub fn pieces(self) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            match part {
                Part::Piece(piece) => pieces.push(piece),
                Part::Later(section, put) => pieces.extend(split(encode_section(section, put))),
            }
        }
        pieces
    }
}

/// Builds a checkpoint, section by section.
pub(crate) struct CheckpointWriter {
    parts: Vec<Part>,
}

impl CheckpointWriter {
    pub(crate) fn new(header: &Header<'_>) -> Self {
        Self { parts: vec![Part::Piece(header.encode())] }
    }

    pub(crate) fn section(&mut self, section: Section, put: impl FnOnce(&mut BytesMut)) {
        self.parts.extend(split(encode_section(section, put)).map(Part::Piece));
    }

    /// A section that is encoded when its bytes are asked for.
    pub(crate) fn section_later(
        &mut self,
        section: Section,
        put: impl FnOnce(&mut BytesMut) + Send + 'static,
    ) {
        self.parts.push(Part::Later(section, Box::new(put)));
    }

    pub(crate) fn finish(self) -> Unwritten {
        Unwritten { parts: self.parts }
    }
}

fn encode_section(section: Section, put: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(section as u8);
    let length_at = out.len();
    out.put_u64_le(0);
    let content_at = out.len();
    put(&mut out);
    let content_bytes = (out.len() - content_at) as u64;
    out[length_at..content_at].copy_from_slice(&content_bytes.to_le_bytes());
    out.put_u32_le(crc32c(&out));
    out.freeze()
}

/// In pieces of at most 1 MiB.
fn split(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
        (!piece.is_empty()).then_some(piece)
    })
}

/// Reads a checkpoint, section by section.
#[derive(Debug)]
pub(crate) struct CheckpointReader<'a> {
    cursor: ByteCursor<'a>,
}

impl<'a> CheckpointReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<(Header<'a>, Self), CheckpointError> {
        let mut cursor = ByteCursor::new(bytes);
        let header = Header::decode(&mut cursor)?;
        Ok((header, Self { cursor }))
    }

    /// Hands the content of the next section, whose checksum holds, to `read`, which must take all.
    pub(crate) fn section<T>(
        &mut self,
        section: Section,
        read: impl FnOnce(&mut ByteCursor<'a>) -> Result<T, Malformed>,
    ) -> Result<T, CheckpointError> {
        let truncated = |_| CheckpointError::Truncated { section };
        let head = self.cursor.take(SECTION_HEAD_BYTES).map_err(truncated)?;
        let mut fields = ByteCursor::new(head);
        let tag = fields.u8().map_err(truncated)?;
        let content_bytes = fields.u64().map_err(truncated)?;
        let content_bytes = usize::try_from(content_bytes).map_err(|_| truncated(Malformed))?;
        let content = self.cursor.take(content_bytes).map_err(truncated)?;
        let crc = self.cursor.u32().map_err(truncated)?;
        if crc32c_append(crc32c(head), content) != crc {
            return Err(CheckpointError::Checksum { section });
        }
        let malformed = CheckpointError::Malformed { section };
        if tag != section as u8 {
            return Err(malformed);
        }
        let mut content = ByteCursor::new(content);
        let value = read(&mut content).map_err(|_| malformed)?;
        if content.remaining() > 0 { Err(malformed) } else { Ok(value) }
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), CheckpointError> {
        match self.cursor.remaining() {
            0 => Ok(()),
            bytes => Err(CheckpointError::TrailingBytes { bytes }),
        }
    }
}

#[cfg(test)]
pub(crate) mod damage;
