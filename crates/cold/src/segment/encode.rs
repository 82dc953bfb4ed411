//! Encoding a segment or a bundle. Pure computation: the caller chooses the thread.

use std::ops::Range;

use arrow_schema::ArrowError;
use object_store::PutPayload;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use railgun_core::command::CommittedPart;
use railgun_core::manifest::{ContentHash, Digest, SegmentKind};
use railgun_types::batch::RecordBatch;
use railgun_types::{ClusterUid, Offset, ShardId, StreamUid, Timestamp, crc32c_append};
use sha2::{Digest as _, Sha256};

use super::chunks::{ChunkPool, Pieces};
use super::columns::{Columns, Place};
use super::footer::{self, EncodedPart, Footer, RowGroupPlace};
use super::schema;

/// What to encode, and how.
#[derive(Clone, Debug)]
pub struct EncodeSpec {
    /// The cluster life.
    pub cluster: ClusterUid,
    /// The shard.
    pub shard: ShardId,
    /// Raft term of the seal.
    pub term: u64,
    /// One stream or many.
    pub kind: SegmentKind,
    /// Level of compression, 1 to 22.
    pub zstd_level: i32,
    /// Bytes of records and ids after which a row group closes: the unit of GET, cache and checksum.
    pub row_group_bytes: usize,
}

impl EncodeSpec {
    /// The settings of DESIGN §3: ZSTD-1; row groups a little under 8 MiB, so that one with its
    /// framing fits an 8 MiB block of a disk cache.
    #[must_use]
    pub fn new(cluster: ClusterUid, shard: ShardId, term: u64, kind: SegmentKind) -> Self {
        Self { cluster, shard, term, kind, zstd_level: 1, row_group_bytes: 15 << 19 }
    }
}

/// Consecutive records of one stream under one log time and term.
#[derive(Clone, Debug)]
pub struct StreamSlice<'a> {
    /// Offset of the first of them.
    pub base: Offset,
    /// Log time of their entry.
    pub ts: Timestamp,
    /// Raft term of their entry.
    pub term: u64,
    /// The batch they are in.
    pub batch: &'a RecordBatch,
    /// Which of its records. A batch with refused duplicates is pushed in pieces.
    pub records: Range<usize>,
}

/// A finished object.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Its content, in pieces.
    pub content: PutPayload,
    /// First bytes of the content's SHA-256, for its key.
    pub hash: ContentHash,
    /// Bytes from the check before the footer to the end: what a reader fetches first.
    pub footer_bytes: u32,
    /// The range of each stream, in the order of the rows.
    pub parts: Vec<EncodedPart>,
}

/// Why records cannot be encoded. The encoder is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Streams out of order, one twice, or a second one in a segment.
    #[error("stream {stream} may not follow in this object")]
    StreamOrder {
        /// The stream.
        stream: StreamUid,
    },
    /// Records before any stream was begun, or a stream without records.
    #[error("the object has no stream, or a stream without records")]
    Empty,
    /// Records that do not follow the ones before.
    #[error("offset {found} of stream {stream} follows where {expected} should")]
    NotContiguous {
        /// The stream.
        stream: StreamUid,
        /// The offset that should follow.
        expected: Offset,
        /// The one that came.
        found: Offset,
    },
    /// An offset or term above 2⁶³ − 1.
    #[error("offset or term of a record of stream {stream} has no place in a 64-bit column")]
    OutOfColumn {
        /// The stream.
        stream: StreamUid,
    },
    /// The batch has fewer records than asked for, or one that cannot be decoded.
    #[error("record {index} of the batch at offset {base} of stream {stream} cannot be decoded")]
    Record {
        /// The stream.
        stream: StreamUid,
        /// Offset of the slice.
        base: Offset,
        /// Index in the batch.
        index: usize,
    },
    /// More than 4 GiB of footer or 2³² row groups.
    #[error("the object is too large")]
    TooLarge,
    /// The columns do not fit the schema.
    #[error("the columns do not fit the schema: {0}")]
    Arrow(#[from] ArrowError),
    /// The Parquet writer failed.
    #[error("the Parquet writer failed: {0}")]
    Parquet(#[from] ParquetError),
    /// The footer cannot be spelt.
    #[error("the footer cannot be spelt: {0}")]
    Footer(#[from] serde_json::Error),
}

/// Turns records into one Parquet object. For each stream [`Self::begin_stream`], then
/// [`Self::push`] for each of its slices; at last [`Self::finish`]. Equal input gives equal bytes.
#[derive(Debug)]
pub struct SegmentEncoder {
    spec: EncodeSpec,
    columns: Columns,
    /// Made with the first row group, which decides whether values are compressed.
    writer: Option<ArrowWriter<Pieces>>,
    /// What it is to write to.
    chunks: ChunkPool,
    row_groups: Vec<RowGroupPlace>,
    rows_written: u64,
    parts: Vec<EncodedPart>,
    /// The stream in the making.
    open: Option<OpenPart>,
    /// Of the object so far, and how much of it that is: row groups are hashed while they are still
    /// in the processor's cache.
    content: Sha256,
    hashed: usize,
}

#[derive(Debug)]
struct OpenPart {
    part: CommittedPart,
    previous: Digest,
    digest: RowDigest,
}

/// The chained digest of a stream's rows: SHA-256 over what went before, then offset, log time and
/// checksum of each row. Rows are gathered first: hashing them one by one costs more than hashing.
#[derive(Debug)]
struct RowDigest {
    hash: Sha256,
    rows: [u8; RowDigest::ROW_BYTES * RowDigest::ROWS],
    filled: usize,
}

impl RowDigest {
    const ROW_BYTES: usize = 20;
    const ROWS: usize = 64;

    fn new(previous: Digest) -> Self {
        let rows = [0; Self::ROW_BYTES * Self::ROWS];
        Self { hash: Sha256::new_with_prefix(previous), rows, filled: 0 }
    }

    fn push(&mut self, offset: i64, ts: i64, crc: u32) {
        let row = &mut self.rows[self.filled..self.filled + Self::ROW_BYTES];
        row[..8].copy_from_slice(&offset.to_le_bytes());
        row[8..16].copy_from_slice(&ts.to_le_bytes());
        row[16..].copy_from_slice(&crc.to_le_bytes());
        self.filled += Self::ROW_BYTES;
        if self.filled == self.rows.len() {
            self.hash.update(self.rows);
            self.filled = 0;
        }
    }

    fn finish(mut self) -> Digest {
        self.hash.update(&self.rows[..self.filled]);
        self.hash.finalize().into()
    }
}

impl SegmentEncoder {
    /// An empty object, in new memory.
    #[must_use]
    pub fn new(spec: EncodeSpec) -> Self {
        Self::with_chunks(spec, ChunkPool::default())
    }

    /// An empty object, in memory of the pool as far as that goes.
    #[must_use]
    pub fn with_chunks(spec: EncodeSpec, chunks: ChunkPool) -> Self {
        Self {
            spec,
            columns: Columns::default(),
            writer: None,
            chunks,
            row_groups: Vec::new(),
            rows_written: 0,
            parts: Vec::new(),
            open: None,
            content: Sha256::new(),
            hashed: 0,
        }
    }

    /// Begins the range of `stream` at `base`. `previous` is the stream's digest before it.
    ///
    /// # Errors
    /// [`EncodeError`] if the stream may not follow, or the one before has no records.
    pub fn begin_stream(
        &mut self,
        stream: StreamUid,
        base: Offset,
        previous: Digest,
    ) -> Result<(), EncodeError> {
        self.close_stream()?;
        let follows = match (self.parts.last(), self.spec.kind) {
            (None, _) => true,
            (Some(last), SegmentKind::Bundle) => last.part.stream < stream,
            (Some(_), SegmentKind::Segment) => false,
        };
        if !follows {
            return Err(EncodeError::StreamOrder { stream });
        }
        let part = CommittedPart {
            stream,
            base,
            count: 0,
            min_ts: Timestamp(i64::MAX),
            max_ts: Timestamp(i64::MIN),
            record_bytes: 0,
            first_row_group: self.row_group()?,
            first_row: self.rows_written + self.columns.rows() as u64,
            digest: previous,
        };
        self.columns.begin_stream(&stream.to_string());
        self.open = Some(OpenPart { part, previous, digest: RowDigest::new(previous) });
        Ok(())
    }

    /// Appends records to the stream begun last.
    ///
    /// # Errors
    /// [`EncodeError`]; the encoder is of no use then.
    pub fn push(&mut self, slice: &StreamSlice<'_>) -> Result<(), EncodeError> {
        let open = self.open.as_mut().ok_or(EncodeError::Empty)?;
        let stream = open.part.stream;
        let expected = open.part.base.plus(open.part.count);
        if slice.base != expected {
            let found = slice.base;
            return Err(EncodeError::NotContiguous { stream, expected, found });
        }
        let out_of_column = |_| EncodeError::OutOfColumn { stream };
        let count = slice.records.len() as u64;
        i64::try_from(slice.base.0.saturating_add(count)).map_err(out_of_column)?;
        let term = i64::try_from(slice.term).map_err(out_of_column)?;
        let first = i64::try_from(slice.base.0).map_err(out_of_column)?;
        let mut records = slice.batch.records().skip(slice.records.start);
        for (index, offset) in slice.records.clone().zip(first..) {
            let bad = || EncodeError::Record { stream, base: slice.base, index };
            let record = records.next().ok_or_else(bad)?;
            let content = record.content().ok_or_else(bad)?;
            // Row groups close before a record, so that a stream never begins behind an empty one.
            if self.columns.bytes() >= self.spec.row_group_bytes {
                self.flush_row_group()?;
            }
            let open = self.open.as_mut().ok_or(EncodeError::Empty)?;
            if open.part.count == 0 {
                open.part.first_row_group =
                    u32::try_from(self.row_groups.len()).map_err(|_| EncodeError::TooLarge)?;
            }
            let place = Place { offset, ts: slice.ts.0, term };
            self.columns.push(place, &record, &content);
            open.digest.push(offset, slice.ts.0, record.crc);
            open.part.count += 1;
            open.part.record_bytes += record.bytes.len() as u64;
        }
        if count > 0
            && let Some(open) = &mut self.open
        {
            open.part.min_ts = open.part.min_ts.min(slice.ts);
            open.part.max_ts = open.part.max_ts.max(slice.ts);
        }
        Ok(())
    }

    /// Encoded bytes of the records so far, before compression.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |open| open.part.record_bytes);
        open + self.parts.iter().map(|encoded| encoded.part.record_bytes).sum::<u64>()
    }

    /// Closes the object.
    ///
    /// # Errors
    /// [`EncodeError`]; an object without records is none.
    pub fn finish(mut self) -> Result<Encoded, EncodeError> {
        self.close_stream()?;
        self.flush_row_group()?;
        let footer = Footer {
            cluster: self.spec.cluster,
            shard: self.spec.shard,
            term: self.spec.term,
            parts: self.parts,
            row_groups: self.row_groups,
        };
        let mut writer = self.writer.ok_or(EncodeError::Empty)?;
        for pair in footer.key_values()? {
            writer.append_key_value_metadata(pair);
        }
        // All that is before the footer has been hashed; the check comes in between.
        writer.inner_mut().begin_end();
        writer.finish()?;
        let (mut pieces, mut end) = writer.inner_mut().take();
        let footer_bytes = footer::insert_check(&mut end).ok_or(EncodeError::TooLarge)?;
        self.content.update(&end);
        pieces.push(end.into());
        let sha: [u8; 32] = self.content.finalize().into();
        let mut hash = ContentHash::default();
        hash.copy_from_slice(&sha[..8]);
        let content = pieces.into_iter().collect();
        Ok(Encoded { content, hash, footer_bytes, parts: footer.parts })
    }

    fn row_group(&self) -> Result<u32, EncodeError> {
        u32::try_from(self.row_groups.len()).map_err(|_| EncodeError::TooLarge)
    }

    fn close_stream(&mut self) -> Result<(), EncodeError> {
        let Some(OpenPart { mut part, previous, digest }) = self.open.take() else { return Ok(()) };
        if part.count == 0 {
            return Err(EncodeError::Empty);
        }
        part.digest = digest.finish();
        self.parts.push(EncodedPart { part, previous_digest: previous });
        Ok(())
    }

    fn flush_row_group(&mut self) -> Result<(), EncodeError> {
        let rows = self.columns.rows() as u64;
        if rows == 0 {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let compress = shrinks(self.columns.values(), self.spec.zstd_level);
                let options = ArrowWriterOptions::new()
                    .with_properties(properties(self.spec.zstd_level, compress)?)
                    .with_skip_arrow_metadata(true);
                let schema = schema::WRITE.clone();
                let pieces = Pieces::new(std::mem::take(&mut self.chunks));
                let writer = ArrowWriter::try_new_with_options(pieces, schema, options)?;
                self.writer.insert(writer)
            }
        };
        writer.write(&self.columns.take()?)?;
        writer.flush()?;
        // Through the writer's own buffer, into ours.
        writer.sync().map_err(ParquetError::from)?;
        let group = writer.flushed_row_groups().last().ok_or(EncodeError::Empty)?;
        let (start, bytes) = footer::place_of(group).ok_or(EncodeError::Empty)?;
        let file = writer.inner();
        if start.checked_add(bytes) != Some(file.len() as u64) {
            return Err(EncodeError::TooLarge);
        }
        let crc = |crc, piece: &[u8]| crc32c_append(crc, piece);
        let crc32c = file.since(start as usize).fold(0, crc);
        self.row_groups.push(RowGroupPlace { start, bytes, crc32c, rows });
        // Nothing but the footer is still to come, and the check goes before it.
        file.since(self.hashed).for_each(|piece| self.content.update(piece));
        self.hashed = file.len();
        self.rows_written += rows;
        Ok(())
    }
}

/// Whether a sample of `values` shrinks by a tenth at least. Compressing what does not is work for
/// nothing, now and at every read.
fn shrinks(values: &[u8], level: i32) -> bool {
    const PIECE: usize = 16 << 10;
    const PIECES: usize = 16;
    let step = (values.len() / PIECES).max(PIECE);
    // One context and one buffer for all pieces: making them costs more than packing a piece.
    let Ok(mut packer) = zstd::bulk::Compressor::new(level) else { return false };
    let mut buffer = vec![0; zstd::zstd_safe::compress_bound(PIECE)];
    let (mut plain, mut packed) = (0, 0);
    for start in (0..values.len()).step_by(step).take(PIECES) {
        let piece = &values[start..values.len().min(start + PIECE)];
        plain += piece.len();
        packed += packer.compress_to_buffer(piece, &mut buffer[..]).unwrap_or(piece.len());
    }
    packed * 10 < plain * 9
}

fn properties(zstd_level: i32, compress_values: bool) -> Result<WriterProperties, ParquetError> {
    let path = |column: &str| ColumnPath::from(column);
    let mut properties = WriterProperties::builder()
        .set_created_by("railgun".to_owned())
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(zstd_level)?))
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(None)
        .set_column_dictionary_enabled(path("stream_uid"), true)
        // Noise by nature.
        .set_column_compression(path("crc32c"), Compression::UNCOMPRESSED);
    for column in ["offset", "ts", "producer_ts", "term", "flags"] {
        properties = properties.set_column_encoding(path(column), Encoding::DELTA_BINARY_PACKED);
    }
    for column in ["stream_uid", "offset", "ts"] {
        properties =
            properties.set_column_statistics_enabled(path(column), EnabledStatistics::Page);
    }
    if !compress_values {
        properties = properties.set_column_compression(path("value"), Compression::UNCOMPRESSED);
    }
    Ok(properties.build())
}

#[cfg(test)]
mod tests;
