//! The columns of segments and bundles: one envelope for every stream, with an opaque value
//! (DESIGN §3 "Parquet"). Field ids never change meaning.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

/// Positions of the columns.
pub(crate) mod column {
    pub(crate) const STREAM_UID: usize = 0;
    pub(crate) const OFFSET: usize = 1;
    pub(crate) const TS: usize = 2;
    pub(crate) const PRODUCER_TS: usize = 3;
    pub(crate) const MSG_ID: usize = 4;
    pub(crate) const KEY: usize = 5;
    pub(crate) const HEADERS: usize = 6;
    pub(crate) const VALUE: usize = 7;
    pub(crate) const CRC32C: usize = 8;
    pub(crate) const TERM: usize = 9;
    pub(crate) const FLAGS: usize = 10;
}

/// The schema as it is written: a stream's uid is there once for all its rows, which Parquet then
/// takes for the string that it is.
pub(crate) static WRITE: LazyLock<SchemaRef> = LazyLock::new(|| {
    let uid = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    schema(uid, DataType::Binary)
});

/// The schema as it is read: values are views into decompressed pages, not copies.
pub(crate) static READ: LazyLock<SchemaRef> =
    LazyLock::new(|| schema(DataType::Utf8, DataType::BinaryView));

/// `list<struct<key, value>>`: a map would promise unique keys, and its order to nobody.
pub(crate) static HEADER_FIELDS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        field(14, "key", DataType::Utf8, false),
        field(15, "value", DataType::Binary, false),
    ])
});

pub(crate) static HEADERS_ELEMENT: LazyLock<Arc<Field>> = LazyLock::new(|| {
    Arc::new(field(13, "element", DataType::Struct(HEADER_FIELDS.clone()), false))
});

fn schema(stream_uid: DataType, value: DataType) -> SchemaRef {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        field(1, "stream_uid", stream_uid, false),
        field(2, "offset", DataType::Int64, false),
        field(3, "ts", instant(), false),
        field(4, "producer_ts", instant(), true),
        field(5, "msg_id", DataType::Binary, true),
        field(6, "key", DataType::Binary, true),
        field(7, "headers", DataType::List(HEADERS_ELEMENT.clone()), false),
        field(8, "value", value, false),
        field(9, "crc32c", DataType::Int32, false),
        field(10, "term", DataType::Int64, false),
        field(11, "flags", DataType::Int32, false),
    ]))
}

fn field(id: u32, name: &str, kind: DataType, nullable: bool) -> Field {
    let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]);
    Field::new(name, kind, nullable).with_metadata(id)
}
