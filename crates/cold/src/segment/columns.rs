//! Records turned into columns, one row group at a time. No allocation per record.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StructArray,
    TimestampMicrosecondArray,
};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::ArrowError;
use railgun_types::batch::{Content, RecordEntry};

use super::schema;

/// What a row costs besides its bytes; keeps row groups of tiny records small.
const ROW_BYTES: usize = 32;

/// The row group in the making.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// The streams of this row group, and which of them each row is of.
    uids: StringBuilder,
    uid: Vec<i32>,
    /// The stream begun last, and whether it has a row in this row group.
    stream: String,
    stream_has_rows: bool,
    offset: Vec<i64>,
    ts: Vec<i64>,
    producer_ts: TimestampMicrosecondBuilder,
    msg_id: BinaryBuilder,
    key: BinaryBuilder,
    header_ends: Vec<i32>,
    header_key: StringBuilder,
    header_value: BinaryBuilder,
    value: BinaryBuilder,
    crc32c: Vec<i32>,
    term: Vec<i64>,
    flags: Vec<i32>,
    bytes: usize,
}

/// Position of a record, in the types of the columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: i64,
    pub(super) ts: i64,
    pub(super) term: i64,
}

impl Columns {
    pub(super) fn rows(&self) -> usize {
        self.offset.len()
    }

    /// Bytes of the records and their ids, and a little for each.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Rows from here on are of the stream called `uid`.
    pub(super) fn begin_stream(&mut self, uid: &str) {
        self.stream.clear();
        self.stream.push_str(uid);
        self.stream_has_rows = false;
    }

    pub(super) fn push(&mut self, place: Place, record: &RecordEntry<'_>, content: &Content<'_>) {
        self.bytes += record.bytes.len() + record.id.map_or(0, <[u8]>::len) + ROW_BYTES;
        if !self.stream_has_rows {
            self.uids.append_value(&self.stream);
            self.stream_has_rows = true;
        }
        // Not more streams than rows, so it fits.
        self.uid.push(self.uids.len() as i32 - 1);
        self.offset.push(place.offset);
        self.ts.push(place.ts);
        self.producer_ts.append_option(content.producer_ts);
        self.msg_id.append_option(record.id);
        self.key.append_option(content.key);
        for (key, value) in content.headers.clone() {
            self.header_key.append_value(key);
            self.header_value.append_value(value);
        }
        // Less than the bytes of a row group, so far below 2³¹.
        self.header_ends.push(self.header_key_count());
        self.value.append_value(content.value);
        self.crc32c.push(record.crc.cast_signed());
        self.term.push(place.term);
        self.flags.push(i32::from(record.flags));
    }

    fn header_key_count(&self) -> i32 {
        self.header_key.len() as i32
    }

    /// All values one after the other, for a sample.
    pub(super) fn values(&self) -> &[u8] {
        self.value.values_slice()
    }

    /// The rows so far; none remain.
    pub(super) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let next = Self { bytes: 0, ..Self::with_capacity_of(self) };
        let mut full = std::mem::replace(self, next);
        let mut offsets = Vec::with_capacity(full.header_ends.len() + 1);
        offsets.push(0);
        offsets.append(&mut full.header_ends);
        let headers = StructArray::try_new(
            schema::HEADER_FIELDS.clone(),
            vec![Arc::new(full.header_key.finish()), Arc::new(full.header_value.finish())],
            None,
        )?;
        let headers = ListArray::try_new(
            schema::HEADERS_ELEMENT.clone(),
            OffsetBuffer::new(ScalarBuffer::from(offsets)),
            Arc::new(headers),
            None,
        )?;
        let uids = DictionaryArray::<Int32Type>::try_new(
            Int32Array::from(full.uid),
            Arc::new(full.uids.finish()),
        )?;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(uids),
            Arc::new(Int64Array::from(full.offset)),
            Arc::new(TimestampMicrosecondArray::from(full.ts).with_timezone("UTC")),
            Arc::new(full.producer_ts.finish().with_timezone("UTC")),
            Arc::new(full.msg_id.finish()),
            Arc::new(full.key.finish()),
            Arc::new(headers),
            Arc::new(full.value.finish()),
            Arc::new(Int32Array::from(full.crc32c)),
            Arc::new(Int64Array::from(full.term)),
            Arc::new(Int32Array::from(full.flags)),
        ];
        RecordBatch::try_new(schema::WRITE.clone(), columns)
    }

    /// Empty, with room for about as much as `full` holds: row groups resemble one another.
    fn with_capacity_of(full: &Self) -> Self {
        let rows = full.rows();
        Self {
            uid: Vec::with_capacity(rows),
            stream: full.stream.clone(),
            offset: Vec::with_capacity(rows),
            ts: Vec::with_capacity(rows),
            header_ends: Vec::with_capacity(rows),
            value: BinaryBuilder::with_capacity(rows, full.value.values_slice().len()),
            crc32c: Vec::with_capacity(rows),
            term: Vec::with_capacity(rows),
            flags: Vec::with_capacity(rows),
            ..Self::default()
        }
    }
}
