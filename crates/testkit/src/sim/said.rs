//! Everything a record says, wherever it was read: two are the same to the last byte, or differ (T-2).

use railgun_client::{Message, Record, RecordRef};
use railgun_types::batch::RecordEntry;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
    pub(super) producer_ts: Option<i64>,
    pub(super) value: &'a [u8],
    pub(super) id: Option<&'a [u8]>,
}

impl<'a> From<&'a Message> for Said<'a> {
    fn from(message: &'a Message) -> Self {
        let Message { key, headers, producer_ts, value, id } = message;
        Self {
            key: key.as_deref(),
            headers: headers.iter().map(|(key, value)| (key.as_str(), &value[..])).collect(),
            producer_ts: producer_ts.map(|ts| ts.0),
            value,
            id: id.as_deref(),
        }
    }
}

impl<'a> From<&'a Record> for Said<'a> {
    fn from(record: &'a Record) -> Self {
        let headers = record.headers.iter();
        Self {
            key: record.key.as_deref(),
            headers: headers.map(|(key, value)| (key.as_str(), &value[..])).collect(),
            producer_ts: record.producer_ts.map(|ts| ts.0),
            value: &record.value,
            id: record.id.as_deref(),
        }
    }
}

impl<'a> From<RecordRef<'a>> for Said<'a> {
    fn from(record: RecordRef<'a>) -> Self {
        Self {
            key: record.key,
            headers: record.headers.collect(),
            producer_ts: record.producer_ts.map(|ts| ts.0),
            value: record.value,
            id: record.id,
        }
    }
}

/// Bytes that are no record say nothing.
impl<'a> From<RecordEntry<'a>> for Said<'a> {
    fn from(record: RecordEntry<'a>) -> Self {
        let Some(content) = record.content() else { return Self::default() };
        Self {
            key: content.key,
            headers: content.headers.collect(),
            producer_ts: content.producer_ts,
            value: content.value,
            id: record.id,
        }
    }
}
