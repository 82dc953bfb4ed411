//! What can be wrong with a batch from outside.

use crate::ErrorCode;

/// Why bytes are not a record batch that may be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Shorter than its header or its lengths say, or longer.
    #[error("a batch of {len} bytes does not have the lengths its header tells")]
    Length {
        /// Bytes given.
        len: usize,
    },
    /// Not a batch, or of a version or codec this build does not know.
    #[error("the batch header has an unknown {field}")]
    Unknown {
        /// The header field.
        field: &'static str,
    },
    /// The checksum over header and table does not hold.
    #[error("the checksum of the batch header and table does not hold")]
    HeaderChecksum,
    /// The table is cut short, has unknown flags, or its lengths do not add up to the body.
    #[error("entry {index} of the batch's record table is malformed")]
    Table {
        /// Index of the record in the batch.
        index: usize,
    },
    /// A record's checksum does not hold.
    #[error("the checksum of record {index} does not hold")]
    RecordChecksum {
        /// Index of the record in the batch.
        index: usize,
    },
    /// A record is not in the one encoding of its content.
    #[error("record {index} is not in its canonical encoding")]
    NonCanonical {
        /// Index of the record in the batch.
        index: usize,
    },
    /// A batch without records.
    #[error("the batch has no records")]
    Empty,
    /// More records or bytes than allowed.
    #[error("a batch of {records} records and {bytes} bytes is over the limit")]
    TooLarge {
        /// Records in the batch.
        records: usize,
        /// Bytes of the batch.
        bytes: usize,
    },
    /// A message over the stream's limit.
    #[error("record {index} has {bytes} bytes; the limit is {limit}")]
    MessageTooLarge {
        /// Index of the record in the batch.
        index: usize,
        /// Its encoded bytes.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Headers that break a rule.
    #[error("record {index}: {reason}")]
    InvalidHeader {
        /// Index of the record in the batch.
        index: usize,
        /// The rule.
        reason: &'static str,
    },
}

impl BatchError {
    /// The number this error has on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Length { .. }
            | Self::Unknown { .. }
            | Self::HeaderChecksum
            | Self::Table { .. }
            | Self::RecordChecksum { .. }
            | Self::Empty => ErrorCode::BatchCorrupt,
            Self::NonCanonical { .. } => ErrorCode::NonCanonicalRecord,
            Self::TooLarge { .. } => ErrorCode::BatchTooLarge,
            Self::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::InvalidHeader { .. } => ErrorCode::InvalidHeader,
        }
    }
}
