//! From the bytes of a row group to record batches. Pure computation: the caller chooses the thread.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch as Rows};
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::limits::BATCH_RECORDS;
use railgun_types::{Offset, StreamUid, Timestamp};

use super::error::ColdReadError;
use super::footers::CachedFooter;
use crate::segment::schema::column;

/// Size at which a rebuilt batch is closed, in bytes, if nobody asks for smaller ones. Larger is one of
/// a single record only, but for a few bytes.
pub const BATCH_BYTES: usize = 256 << 10;
/// Rows decoded at once.
const ROWS_AT_ONCE: usize = 4096;

/// Consecutive records of one log time and term. Equal to those that were published, record by
/// record; batch boundaries may differ (T-2).
#[derive(Clone, Debug)]
pub struct ColdBatch {
    /// Offset of the first record.
    pub base: Offset,
    /// Log time of all of them.
    pub ts: Timestamp,
    /// Raft term of all of them.
    pub term: u64,
    /// The records.
    pub batch: RecordBatch,
}

impl ColdBatch {
    /// The offset after the last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.base.plus(self.batch.count() as u64)
    }
}

/// The bytes of a row group, verified, and which rows of it belong to a part. Holds everything that
/// decoding needs, so that it can move to another thread.
#[derive(Clone, Debug)]
pub struct RowGroup {
    pub(super) object: Arc<str>,
    pub(super) footer: Arc<CachedFooter>,
    pub(super) number: usize,
    pub(super) bytes: Bytes,
    pub(super) stream: StreamUid,
    /// Rows of the part, counted in the row group.
    pub(super) rows: Range<usize>,
    /// Offset of the first of them.
    pub(super) base: Offset,
}

impl RowGroup {
    /// The offset after the last record of the part in this row group.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.base.plus(self.rows.len() as u64)
    }

    /// Decodes from `from` up to `until`, exclusive, as far as the part has them in this row group.
    #[must_use]
    pub fn batches(self, from: Offset, until: Offset) -> ColdBatches {
        let place = |offset: Offset| {
            // At most the number of rows, so it fits.
            offset.0.saturating_sub(self.base.0).min(self.rows.len() as u64) as usize
        };
        let (skip, end) = (place(from), place(until).max(place(from)));
        let rows = self.rows.start + skip..self.rows.start + end;
        let next = self.base.plus(skip as u64);
        let stream_uid = self.stream.to_string();
        let state = match self.decoder(rows.clone(), ProjectionMask::all()) {
            Ok(decoder) => State::Reading(Box::new(decoder)),
            Err(error) => State::Failed(error),
        };
        ColdBatches {
            source: self,
            stream_uid,
            state,
            rows: None,
            left: rows.len(),
            next,
            builder: BatchBuilder::system(),
            batch_bytes: BATCH_BYTES,
            crcs: Vec::new(),
        }
    }

    /// The offset of the first record of the part with a log time at or after `ts`; `None` if it
    /// has none here. Reads the one column.
    ///
    /// # Errors
    /// [`ColdReadError::Corrupt`].
    pub fn seek_time(&self, ts: Timestamp) -> Result<Option<Offset>, ColdReadError> {
        let parquet = self.footer.arrow.metadata().file_metadata().schema_descr();
        let only_ts = ProjectionMask::roots(parquet, [column::TS]);
        let mut decoder = self.decoder(self.rows.clone(), only_ts)?;
        let mut next = self.base;
        while let Some(rows) = self.decode(&mut decoder)? {
            let times = rows
                .columns()
                .first()
                .and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>())
                .ok_or_else(|| self.corrupt("its log times are of another type"))?;
            let before = times.values().partition_point(|&time| time < ts.0);
            next = next.plus(before as u64);
            if before < times.len() {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    fn corrupt(&self, what: &str) -> ColdReadError {
        ColdReadError::corrupt(&self.object, format!("row group {}: {what}", self.number))
    }

    fn decoder(
        &self,
        rows: Range<usize>,
        columns: ProjectionMask,
    ) -> Result<ParquetPushDecoder, ColdReadError> {
        let selection = RowSelection::from(vec![
            RowSelector::skip(rows.start),
            RowSelector::select(rows.len()),
        ]);
        ParquetPushDecoderBuilder::new_with_metadata(self.footer.arrow.clone())
            .with_row_groups(vec![self.number])
            .with_projection(columns)
            .with_row_selection(selection)
            .with_batch_size(ROWS_AT_ONCE)
            .build()
            .map_err(|error| self.corrupt(&error.to_string()))
    }

    fn decode(&self, decoder: &mut ParquetPushDecoder) -> Result<Option<Rows>, ColdReadError> {
        let start = self.footer.footer.row_groups[self.number].start;
        loop {
            let step = decoder.try_decode().map_err(|error| self.corrupt(&error.to_string()))?;
            let ranges = match step {
                DecodeResult::Data(rows) => return Ok(Some(rows)),
                DecodeResult::Finished => return Ok(None),
                DecodeResult::NeedsData(ranges) => ranges,
            };
            for range in ranges {
                let outside = || self.corrupt("its columns lie outside of it");
                let first = range.start.checked_sub(start).ok_or_else(outside)?;
                let last = range.end.checked_sub(start).ok_or_else(outside)?;
                if first > last || last > self.bytes.len() as u64 {
                    return Err(outside());
                }
                let piece = self.bytes.slice(first as usize..last as usize);
                decoder
                    .push_range(range, piece)
                    .map_err(|error| self.corrupt(&error.to_string()))?;
            }
        }
    }
}

/// Iterator over the batches of a part in a row group. Ends after the first error.
#[derive(Debug)]
pub struct ColdBatches {
    source: RowGroup,
    stream_uid: String,
    state: State,
    /// Decoded rows, and the first that is not yet in a batch.
    rows: Option<(Rows, usize)>,
    /// Rows of the part not yet in a batch.
    left: usize,
    next: Offset,
    builder: BatchBuilder,
    batch_bytes: usize,
    /// Stored checksums and flags of the records in `builder`.
    crcs: Vec<(u32, i32)>,
}

#[derive(Debug)]
enum State {
    Reading(Box<ParquetPushDecoder>),
    Failed(ColdReadError),
    Ended,
}

impl Iterator for ColdBatches {
    type Item = Result<ColdBatch, ColdReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut decoder = match std::mem::replace(&mut self.state, State::Ended) {
            State::Reading(decoder) => decoder,
            State::Failed(error) => return Some(Err(error)),
            State::Ended => return None,
        };
        match self.next_batch(&mut decoder) {
            Ok(Some(batch)) => {
                self.state = State::Reading(decoder);
                Some(Ok(batch))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl ColdBatches {
    /// Closes the batches from here on at so many bytes, at most [`BATCH_BYTES`].
    pub fn set_batch_bytes(&mut self, bytes: usize) {
        self.batch_bytes = bytes.min(BATCH_BYTES);
    }

    fn next_batch(
        &mut self,
        decoder: &mut ParquetPushDecoder,
    ) -> Result<Option<ColdBatch>, ColdReadError> {
        let mut run: Option<Run> = None;
        loop {
            let Some((rows, first)) = self.rows.take() else {
                match self.source.decode(decoder)? {
                    Some(rows) => self.rows = Some((rows, 0)),
                    None if self.left > 0 => {
                        return Err(self.source.corrupt("it has too few rows"));
                    }
                    None => return run.map(|run| self.close(&run)).transpose(),
                }
                continue;
            };
            let taken = self.append(&rows, first, &mut run)?;
            let whole = taken == rows.num_rows();
            if !whole {
                self.rows = Some((rows, taken));
                return run.map(|run| self.close(&run)).transpose();
            }
        }
    }

    /// Appends rows from `first` on while they belong to one run and there is room. Returns the row
    /// after the last one taken.
    fn append(
        &mut self,
        rows: &Rows,
        first: usize,
        run: &mut Option<Run>,
    ) -> Result<usize, ColdReadError> {
        let columns =
            Columns::of(rows).ok_or_else(|| self.source.corrupt("a column has another type"))?;
        let mut headers = Vec::new();
        for row in first..rows.num_rows() {
            let ts = Timestamp(columns.ts.value(row));
            let term = columns.term.value(row).cast_unsigned();
            match run {
                None => *run = Some(Run { base: self.next, ts, term }),
                Some(run) if (run.ts, run.term) != (ts, term) => return Ok(row),
                Some(_) => {}
            }
            if columns.stream_uid.value(row) != self.stream_uid {
                return Err(self.source.corrupt("a row is of another stream"));
            }
            if u64::try_from(columns.offset.value(row)) != Ok(self.next.0) || self.left == 0 {
                return Err(self.source.corrupt("a row has another offset than its place"));
            }
            headers.clear();
            let header_rows = columns.headers.value_offsets();
            let (start, end) = (header_rows[row] as usize, header_rows[row + 1] as usize);
            headers.extend((start..end).map(|header| {
                (columns.header_key.value(header), columns.header_value.value(header))
            }));
            let draft = RecordDraft {
                key: columns.key.is_valid(row).then(|| columns.key.value(row)),
                headers: &headers,
                producer_ts: columns
                    .producer_ts
                    .is_valid(row)
                    .then(|| columns.producer_ts.value(row)),
                value: columns.value.value(row),
                id: columns.msg_id.is_valid(row).then(|| columns.msg_id.value(row)),
            };
            // A record alone always fits: it was published.
            let full = self.builder.len() + bytes_of(&draft) > self.batch_bytes
                || self.builder.count() >= BATCH_RECORDS;
            if full && !self.builder.is_empty() {
                return Ok(row);
            }
            self.builder.push(&draft).map_err(|error| self.source.corrupt(&error.to_string()))?;
            self.crcs.push((columns.crc32c.value(row).cast_unsigned(), columns.flags.value(row)));
            self.next = self.next.plus(1);
            self.left -= 1;
        }
        Ok(rows.num_rows())
    }

    /// Finishes the batch of `run` and holds each record against its checksum from the day it was
    /// published: no wrong byte is served.
    fn close(&mut self, run: &Run) -> Result<ColdBatch, ColdReadError> {
        let batch = RecordBatch::open(self.builder.finish().concat())
            .map_err(|error| self.source.corrupt(&error.to_string()))?;
        let stored = std::mem::take(&mut self.crcs);
        let mut matching = 0;
        for (record, (crc, flags)) in batch.records().zip(&stored) {
            if record.crc != *crc || i32::from(record.flags) != *flags {
                let offset = run.base.plus(matching as u64);
                let what = format!("the record at offset {offset} does not match its checksum");
                return Err(self.source.corrupt(&what));
            }
            matching += 1;
        }
        if matching != batch.count() {
            return Err(self.source.corrupt("a batch lost records"));
        }
        Ok(ColdBatch { base: run.base, ts: run.ts, term: run.term, batch })
    }
}

/// What a record adds to a batch, but for a few bytes of lengths: each part of it may be almost all
/// of the largest message.
fn bytes_of(draft: &RecordDraft<'_>) -> usize {
    let headers = draft.headers.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    len(draft.key) + headers + draft.value.len() + len(draft.id)
}

/// What the records of a batch have in common.
#[derive(Clone, Copy, Debug)]
struct Run {
    base: Offset,
    ts: Timestamp,
    term: u64,
}

/// The columns of decoded rows, by their types.
struct Columns<'a> {
    stream_uid: &'a arrow_array::StringArray,
    offset: &'a arrow_array::Int64Array,
    ts: &'a arrow_array::TimestampMicrosecondArray,
    producer_ts: &'a arrow_array::TimestampMicrosecondArray,
    msg_id: &'a arrow_array::BinaryArray,
    key: &'a arrow_array::BinaryArray,
    headers: &'a arrow_array::ListArray,
    header_key: &'a arrow_array::StringArray,
    header_value: &'a arrow_array::BinaryArray,
    value: &'a arrow_array::BinaryViewArray,
    crc32c: &'a arrow_array::Int32Array,
    term: &'a arrow_array::Int64Array,
    flags: &'a arrow_array::Int32Array,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a Rows) -> Option<Self> {
        let at = |column: usize| rows.columns().get(column);
        let headers = at(column::HEADERS)?.as_list_opt::<i32>()?;
        let header = headers.values().as_struct_opt()?;
        Some(Self {
            stream_uid: at(column::STREAM_UID)?.as_string_opt()?,
            offset: at(column::OFFSET)?.as_primitive_opt::<Int64Type>()?,
            ts: at(column::TS)?.as_primitive_opt::<TimestampMicrosecondType>()?,
            producer_ts: at(column::PRODUCER_TS)?.as_primitive_opt::<TimestampMicrosecondType>()?,
            msg_id: at(column::MSG_ID)?.as_binary_opt()?,
            key: at(column::KEY)?.as_binary_opt()?,
            headers,
            header_key: header.columns().first()?.as_string_opt()?,
            header_value: header.columns().get(1)?.as_binary_opt()?,
            value: at(column::VALUE)?.as_binary_view_opt()?,
            crc32c: at(column::CRC32C)?.as_primitive_opt::<Int32Type>()?,
            term: at(column::TERM)?.as_primitive_opt::<Int64Type>()?,
            flags: at(column::FLAGS)?.as_primitive_opt::<Int32Type>()?,
        })
    }
}
