//! Commands that move ranges of records to object storage (DESIGN §4.8).

use bytes::{BufMut, BytesMut};
use railgun_types::{ByteCursor, Malformed, Offset, StreamUid, Timestamp, put_varint};

use crate::manifest::{ContentHash, Digest, ManifestVersion, ObjectId};

/// A step of the way from the hot to the cold tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentCommand {
    /// Close open ranges and plan objects for all that is closed.
    Seal(SealScope),
    /// An object of a plan is about to be uploaded.
    Attempt(UploadAttempt),
    /// It is uploaded and verified.
    Commit(ObjectCommit),
    /// A manifest file with this version is in the bucket.
    Mirrored(ManifestVersion),
    /// What uploads that are over had left in the bucket is gone: those of these attempts.
    Collected(Vec<u64>),
}

/// See [`SegmentCommand::Attempt`]. Its entry's index is the attempt's name, unless an attempt with the
/// same content is under way, which goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadAttempt {
    /// The planned object.
    pub object: ObjectId,
    /// Hash of the content.
    pub hash: ContentHash,
}

/// Which open ranges a seal closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealScope {
    /// Only what is closed already.
    Closed,
    /// Those whose first record is at or before this log time. Nobody proposes it yet.
    OlderThan(Timestamp),
    /// One stream's.
    Stream(StreamUid),
    /// All.
    All,
}

/// See [`SegmentCommand::Commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectCommit {
    /// The planned object.
    pub object: ObjectId,
    /// The attempt by which it was uploaded.
    pub attempt: u64,
    /// Hash of its content.
    pub hash: ContentHash,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of its footer.
    pub footer_bytes: u32,
    /// What it holds, in the order of the plan.
    pub parts: Vec<CommittedPart>,
}

/// One stream's range in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedPart {
    /// The stream.
    pub stream: StreamUid,
    /// First offset.
    pub base: Offset,
    /// Records.
    pub count: u64,
    /// Log time of the first record.
    pub min_ts: Timestamp,
    /// Log time of the last record.
    pub max_ts: Timestamp,
    /// Encoded bytes before compression.
    pub record_bytes: u64,
    /// Row group of the first record.
    pub first_row_group: u32,
    /// Row of the first record in the object.
    pub first_row: u64,
    /// The stream's chained digest at the end of the range.
    pub digest: Digest,
}

const SEAL: u8 = 1;
const COMMIT: u8 = 2;
const MIRRORED: u8 = 3;
const ATTEMPT: u8 = 4;
const COLLECTED: u8 = 5;

impl SegmentCommand {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Seal(scope) => {
                out.put_u8(SEAL);
                match scope {
                    SealScope::Closed => out.put_u8(0),
                    SealScope::OlderThan(ts) => {
                        out.put_u8(1);
                        out.put_i64_le(ts.0);
                    }
                    SealScope::Stream(stream) => {
                        out.put_u8(2);
                        out.put_slice(&stream.0);
                    }
                    SealScope::All => out.put_u8(3),
                }
            }
            Self::Attempt(UploadAttempt { object, hash }) => {
                out.put_u8(ATTEMPT);
                out.put_u64_le(object.seal_index);
                out.put_u32_le(object.part);
                out.put_slice(hash);
            }
            Self::Commit(commit) => {
                out.put_u8(COMMIT);
                out.put_u64_le(commit.object.seal_index);
                out.put_u32_le(commit.object.part);
                out.put_u64_le(commit.attempt);
                out.put_slice(&commit.hash);
                out.put_u64_le(commit.bytes);
                out.put_u32_le(commit.footer_bytes);
                put_varint(out, commit.parts.len() as u64);
                commit.parts.iter().for_each(|part| part.encode(out));
            }
            Self::Mirrored(version) => {
                out.put_u8(MIRRORED);
                out.put_u64_le(version.log_index);
                out.put_u64_le(version.term);
            }
            Self::Collected(attempts) => {
                out.put_u8(COLLECTED);
                put_varint(out, attempts.len() as u64);
                attempts.iter().for_each(|attempt| out.put_u64_le(*attempt));
            }
        }
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        match cursor.u8()? {
            SEAL => Ok(Self::Seal(match cursor.u8()? {
                0 => SealScope::Closed,
                1 => SealScope::OlderThan(Timestamp(cursor.i64()?)),
                2 => SealScope::Stream(StreamUid(cursor.array()?)),
                3 => SealScope::All,
                _ => return Err(Malformed),
            })),
            ATTEMPT => {
                let object = ObjectId { seal_index: cursor.u64()?, part: cursor.u32()? };
                Ok(Self::Attempt(UploadAttempt { object, hash: cursor.array()? }))
            }
            COMMIT => {
                let object = ObjectId { seal_index: cursor.u64()?, part: cursor.u32()? };
                let attempt = cursor.u64()?;
                let hash = cursor.array()?;
                let bytes = cursor.u64()?;
                let footer_bytes = cursor.u32()?;
                let count = cursor.varint()?;
                let parts =
                    (0..count).map(|_| CommittedPart::decode(cursor)).collect::<Result<_, _>>()?;
                Ok(Self::Commit(ObjectCommit { object, attempt, hash, bytes, footer_bytes, parts }))
            }
            MIRRORED => Ok(Self::Mirrored(ManifestVersion {
                log_index: cursor.u64()?,
                term: cursor.u64()?,
            })),
            COLLECTED => {
                let count = cursor.varint()?;
                let attempts = (0..count).map(|_| cursor.u64()).collect::<Result<_, _>>()?;
                Ok(Self::Collected(attempts))
            }
            _ => Err(Malformed),
        }
    }
}

impl CommittedPart {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.stream.0);
        out.put_u64_le(self.base.0);
        out.put_u64_le(self.count);
        out.put_i64_le(self.min_ts.0);
        out.put_i64_le(self.max_ts.0);
        out.put_u64_le(self.record_bytes);
        out.put_u32_le(self.first_row_group);
        out.put_u64_le(self.first_row);
        out.put_slice(&self.digest);
    }

    fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            stream: StreamUid(cursor.array()?),
            base: Offset(cursor.u64()?),
            count: cursor.u64()?,
            min_ts: Timestamp(cursor.i64()?),
            max_ts: Timestamp(cursor.i64()?),
            record_bytes: cursor.u64()?,
            first_row_group: cursor.u32()?,
            first_row: cursor.u64()?,
            digest: cursor.array()?,
        })
    }
}
