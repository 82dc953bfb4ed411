//! What the footer tells beside Parquet's own metadata, and the checksum over all of it.
//!
//! ```text
//! object = "PAR1" ‖ row groups ‖ page indexes ‖ check ‖ Parquet footer
//! check  = "RGF1" │ crc32c u32 over the Parquet footer                       8 bytes, little-endian
//! Parquet footer = metadata │ its length u32 │ "PAR1"
//! ```
//!
//! The check lies where no Parquet reader looks. With it the footer is verified, with the footer's
//! row-group checksums every row group is: so no flipped bit anywhere is ever served (I9).

use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use railgun_core::command::CommittedPart;
use railgun_core::manifest::Digest;
use railgun_types::{ClusterUid, Offset, ShardId, Timestamp, crc32c};
use serde::{Deserialize, Serialize};

use crate::keys::{Hex, parse_hex};

/// Version of the objects this build writes and reads.
const FORMAT: &str = "1";
/// First four bytes of the check.
const CHECK_MAGIC: [u8; 4] = *b"RGF1";
/// Bytes of the check.
const CHECK_BYTES: usize = 8;
/// Length and magic that end every Parquet file.
const TAIL_BYTES: usize = 8;
const PARQUET_MAGIC: &[u8; 4] = b"PAR1";

mod name {
    pub(super) const FORMAT: &str = "railgun.format";
    pub(super) const CLUSTER: &str = "railgun.cluster_uid";
    pub(super) const SHARD: &str = "railgun.shard";
    pub(super) const TERM: &str = "railgun.term";
    pub(super) const MIN_TS: &str = "railgun.min_ts_us";
    pub(super) const MAX_TS: &str = "railgun.max_ts_us";
    pub(super) const PARTS: &str = "railgun.streams";
    pub(super) const ROW_GROUPS: &str = "railgun.row_groups";
}

/// A row group's place in the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowGroupPlace {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32C of these bytes.
    pub crc32c: u32,
    /// Rows.
    pub rows: u64,
}

/// The range of one stream in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPart {
    /// What the stream's manifest tells of it.
    pub part: CommittedPart,
    /// The stream's chained digest before the first record.
    pub previous_digest: Digest,
}

/// A part as the footer spells it.
#[derive(Serialize, Deserialize)]
struct PartText {
    sid: String,
    base: u64,
    count: u64,
    min_ts_us: i64,
    max_ts_us: i64,
    record_bytes: u64,
    first_row_group: u32,
    first_row: u64,
    previous_digest: String,
    digest: String,
}

/// What the footer says about the object.
#[derive(Clone, Debug)]
pub struct Footer {
    /// The cluster life.
    pub cluster: ClusterUid,
    /// The shard.
    pub shard: ShardId,
    /// Raft term of the seal.
    pub term: u64,
    /// The ranges of streams, in the order of the rows.
    pub parts: Vec<EncodedPart>,
    /// Where the row groups lie.
    pub row_groups: Vec<RowGroupPlace>,
}

/// A footer that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the footer {what}")]
pub struct BadFooter {
    pub(crate) what: String,
}

fn bad(what: impl Into<String>) -> BadFooter {
    BadFooter { what: what.into() }
}

impl Footer {
    pub(super) fn key_values(&self) -> Result<Vec<KeyValue>, serde_json::Error> {
        let parts: Vec<PartText> = self.parts.iter().map(PartText::from).collect();
        let least =
            self.parts.iter().map(|encoded| encoded.part.min_ts.0).min().unwrap_or_default();
        let most = self.parts.iter().map(|encoded| encoded.part.max_ts.0).max().unwrap_or_default();
        Ok([
            (name::FORMAT, FORMAT.to_owned()),
            (name::CLUSTER, self.cluster.to_string()),
            (name::SHARD, self.shard.to_string()),
            (name::TERM, self.term.to_string()),
            (name::MIN_TS, least.to_string()),
            (name::MAX_TS, most.to_string()),
            (name::PARTS, serde_json::to_string(&parts)?),
            (name::ROW_GROUPS, serde_json::to_string(&self.row_groups)?),
        ]
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .into())
    }

    /// Checks and parses the last bytes of an object of `object_bytes` bytes: exactly the
    /// `footer_bytes` that its encoder told.
    pub(crate) fn parse(
        tail: &[u8],
        object_bytes: u64,
    ) -> Result<(Self, ParquetMetaData), BadFooter> {
        let (check, parquet) =
            tail.split_at_checked(CHECK_BYTES).ok_or_else(|| bad("is cut short"))?;
        let (magic, crc) = check.split_at(CHECK_MAGIC.len());
        if magic != CHECK_MAGIC {
            return Err(bad("has no check before it"));
        }
        if crc != crc32c(parquet).to_le_bytes() {
            return Err(bad("does not match its checksum"));
        }
        let thrift = parquet
            .split_last_chunk::<TAIL_BYTES>()
            .filter(|(thrift, tail)| {
                tail[..4] == (thrift.len() as u32).to_le_bytes() && &tail[4..] == PARQUET_MAGIC
            })
            .map(|(thrift, _)| thrift)
            .ok_or_else(|| bad("is not that of a Parquet file"))?;
        let meta = ParquetMetaDataReader::decode_metadata(thrift)
            .map_err(|error| bad(format!("cannot be read: {error}")))?;
        let footer = Self::from_key_values(&meta)?;
        footer.check_row_groups(&meta, object_bytes.saturating_sub(tail.len() as u64))?;
        Ok((footer, meta))
    }

    fn from_key_values(meta: &ParquetMetaData) -> Result<Self, BadFooter> {
        let pairs = meta.file_metadata().key_value_metadata();
        let text = |key: &str| {
            pairs
                .and_then(|pairs| pairs.iter().find(|pair| pair.key == key)?.value.as_deref())
                .ok_or_else(|| bad(format!("has no {key}")))
        };
        let odd = |key: &str| bad(format!("has a malformed {key}"));
        let format = text(name::FORMAT)?;
        if format != FORMAT {
            return Err(bad(format!("is of format {format}, this version reads {FORMAT}")));
        }
        let parts: Vec<PartText> =
            serde_json::from_str(text(name::PARTS)?).map_err(|_| odd(name::PARTS))?;
        let parts = parts.iter().map(EncodedPart::from_text).collect::<Option<_>>();
        Ok(Self {
            cluster: text(name::CLUSTER)?.parse().map_err(|_| odd(name::CLUSTER))?,
            shard: ShardId(text(name::SHARD)?.parse().map_err(|_| odd(name::SHARD))?),
            term: text(name::TERM)?.parse().map_err(|_| odd(name::TERM))?,
            parts: parts.ok_or_else(|| odd(name::PARTS))?,
            row_groups: serde_json::from_str(text(name::ROW_GROUPS)?)
                .map_err(|_| odd(name::ROW_GROUPS))?,
        })
    }

    /// Our index and Parquet's metadata must tell the same, within the object.
    fn check_row_groups(&self, meta: &ParquetMetaData, end: u64) -> Result<(), BadFooter> {
        let agrees = self.row_groups.len() == meta.num_row_groups()
            && self.row_groups.iter().zip(meta.row_groups()).all(|(ours, parquets)| {
                ours.start.checked_add(ours.bytes).is_some_and(|last| last <= end)
                    && u64::try_from(parquets.num_rows()) == Ok(ours.rows)
                    && place_of(parquets) == Some((ours.start, ours.bytes))
            });
        if agrees { Ok(()) } else { Err(bad("tells two different places of its row groups")) }
    }
}

/// First byte and length of a row group by Parquet's metadata.
pub(super) fn place_of(group: &parquet::file::metadata::RowGroupMetaData) -> Option<(u64, u64)> {
    let mut span: Option<(u64, u64)> = None;
    for column in group.columns() {
        // `byte_range` asserts what a malformed footer may break.
        let first = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let start = u64::try_from(first).ok()?;
        let end = start.checked_add(u64::try_from(column.compressed_size()).ok()?)?;
        span = Some(span.map_or((start, end), |(low, high)| (low.min(start), high.max(end))));
    }
    span.map(|(start, end)| (start, end - start))
}

/// Puts the check before the Parquet footer of a finished file. Returns the bytes from the check to
/// the end.
pub(super) fn insert_check(file: &mut Vec<u8>) -> Option<u32> {
    let (_, tail) = file.split_last_chunk::<TAIL_BYTES>()?;
    let thrift = u32::from_le_bytes(*tail.first_chunk()?) as usize;
    let start = file.len().checked_sub(TAIL_BYTES)?.checked_sub(thrift)?;
    let mut check = [0; CHECK_BYTES];
    check[..4].copy_from_slice(&CHECK_MAGIC);
    check[4..].copy_from_slice(&crc32c(&file[start..]).to_le_bytes());
    file.splice(start..start, check);
    u32::try_from(file.len() - start).ok()
}

impl From<&EncodedPart> for PartText {
    fn from(encoded: &EncodedPart) -> Self {
        let EncodedPart { part, previous_digest } = encoded;
        Self {
            sid: part.stream.to_string(),
            base: part.base.0,
            count: part.count,
            min_ts_us: part.min_ts.0,
            max_ts_us: part.max_ts.0,
            record_bytes: part.record_bytes,
            first_row_group: part.first_row_group,
            first_row: part.first_row,
            previous_digest: Hex(*previous_digest).to_string(),
            digest: Hex(part.digest).to_string(),
        }
    }
}

impl EncodedPart {
    fn from_text(text: &PartText) -> Option<Self> {
        let part = CommittedPart {
            stream: text.sid.parse().ok()?,
            base: Offset(text.base),
            count: text.count,
            min_ts: Timestamp(text.min_ts_us),
            max_ts: Timestamp(text.max_ts_us),
            record_bytes: text.record_bytes,
            first_row_group: text.first_row_group,
            first_row: text.first_row,
            digest: parse_hex(&text.digest)?,
        };
        Some(Self { part, previous_digest: parse_hex(&text.previous_digest)? })
    }
}
