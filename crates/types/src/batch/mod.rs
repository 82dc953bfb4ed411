//! The record batch: the unit that goes from client to wire to log to consumer and is never
//! re-encoded on that way (DESIGN §3).
//!
//! ```text
//! batch  = header ‖ table ‖ body                                      integers little-endian
//! header = magic "RGB1" u32 │ codec u8 │ flags u8 │ reserved u16 │ count u32 │ table bytes u32
//!          │ body bytes u32 │ crc32c u32                              24 bytes
//! table  = count × { record bytes u32 │ record crc32c u32 │ flags u8
//!                    │ if flags.HAS_ID: id length u8 │ id │ payload hash 16 bytes }
//! body   = count × record
//! record = attributes u8
//!          │ if KEY: varint length, key
//!          │ if HEADERS: varint count ≥ 1, count × { varint length, key, varint length, value }
//!          │ if PRODUCER_TS: varint zigzag(µs)
//!          │ value: all that remains of the record's length
//! ```
//!
//! The header's checksum covers its first 20 bytes and the table; the table's record checksums cover
//! the body. So one pass verifies everything, and a single record can be verified by itself.
//! A content has exactly one encoding (minimal varints, no unknown bit, no empty header list):
//! equal contents are equal bytes.

mod builder;
mod content;
mod error;
mod record_batch;

pub use builder::{BatchBuilder, BatchParts, RecordDraft, RecordRefused};
pub use content::{Content, ContentHeaders, payload_hash};
pub use error::BatchError;
pub use record_batch::{RecordBatch, RecordEntry, RecordPlace, Records};

/// First four bytes of every batch: format and version.
pub const MAGIC: [u8; 4] = *b"RGB1";
/// Bytes of the batch header.
pub const HEADER_BYTES: usize = 24;
/// Bytes of the header that its checksum covers; the checksum follows.
const CHECKED_HEADER_BYTES: usize = 20;
/// Bytes of a table entry without id.
const ENTRY_BYTES: usize = 9;
/// Bytes of a payload hash.
pub const PAYLOAD_HASH_BYTES: usize = 16;
/// The body is not compressed: the only codec of this version (1 and 2 are reserved for lz4, zstd).
pub const CODEC_NONE: u8 = 0;

/// Table flag: the record has an id and a payload hash.
const HAS_ID: u8 = 1;

/// Record attribute: a key follows.
const ATTR_KEY: u8 = 1;
/// Record attribute: headers follow.
const ATTR_HEADERS: u8 = 2;
/// Record attribute: the producer's own timestamp follows.
const ATTR_PRODUCER_TS: u8 = 4;
