//! The vocabulary of railgun: identifiers, names, limits, the record batch codec, checksums and
//! error codes. Everything that travels between client, wire, log and object storage is spelt here.
//!
//! This crate knows no runtime, no network and no generated code.
#![warn(missing_docs)]

pub mod batch;
mod cursor;
mod dedup_spec;
mod error_code;
mod group_spec;
mod ids;
pub mod limits;
mod names;
mod offset_range;
mod start;
mod stream_spec;

pub use cursor::{ByteCursor, Malformed, put_varint, unzigzag, varint_len, zigzag};
pub use dedup_spec::{DedupFull, DedupPatch, DedupSpec};
pub use error_code::{ErrorCode, Retry};
pub use group_spec::{DlqPatch, DlqSpec, GroupMode, GroupPatch, GroupSpec};
pub use ids::{
    ClusterUid, EntryId, GroupId, NodeId, NodeUid, Offset, ParseUidError, ProducerId, ReplicaId,
    RequestId, ShardId, StreamUid, Timestamp,
};
pub use limits::Limits;
pub use names::{GroupName, InvalidName, StreamName};
pub use offset_range::OffsetRange;
pub use start::StartPosition;
pub use stream_spec::{
    ChangeClass, EnsureMode, FieldDiff, InvalidSpec, SpecPatch, StreamKind, StreamSpec,
};

/// What a written join token begins with; behind it come 32 bytes of secret and, after a dot, the SHA-256
/// of the certificate of the cluster's authority, both in hexadecimal digits.
pub const JOIN_TOKEN_PREFIX: &str = "rgj1.";

/// CRC-32C (Castagnoli) of `bytes`, the checksum used in every format of railgun.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a CRC-32C over more bytes: `crc32c_append(crc32c(a), b) == crc32c(a ‖ b)`.
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}
