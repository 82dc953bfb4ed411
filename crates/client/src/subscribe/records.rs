//! What a subscription hands out.

use bytes::Bytes;
use railgun_proto::v1;
use railgun_types::batch::{ContentHeaders, RecordBatch};
use railgun_types::{Offset, Timestamp};

/// What comes next in a stream: records, or the news that there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// A record, or a batch of them.
    Data(T),
    /// Offsets that are gone and will not come (PS-5).
    Removed(Removed),
}

/// Offsets `from ..to` (`to` excluded) that will not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The first one.
    pub from: Offset,
    /// The one after the last.
    pub to: Offset,
    /// Why they are gone.
    pub reason: RemovedReason,
}

/// Why records are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedReason {
    /// They were too old, or too many.
    Retention,
    /// Somebody removed them.
    Purge,
    /// They were erased one by one.
    Erased,
    /// They were lost in a disaster and the stream was recovered without them.
    Lost,
    /// For a reason that this version does not know.
    Unknown,
}

/// Where bytes came from. For people who look; nothing may depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The memory of the server.
    Ring,
    /// The server's log.
    Hot,
    /// Object storage.
    Cold,
    /// The server does not say.
    Unknown,
}

impl Source {
    /// In lower case, as the CLI shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::Unknown => "unknown",
        }
    }
}

impl From<v1::Source> for Source {
    fn from(source: v1::Source) -> Self {
        match source {
            v1::Source::Ring => Self::Ring,
            v1::Source::Hot => Self::Hot,
            v1::Source::Cold => Self::Cold,
            v1::Source::Unknown => Self::Unknown,
        }
    }
}

/// Consecutive records of one batch. Every record's checksum was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRun {
    batch: RecordBatch,
    skip: usize,
    count: usize,
    first: Offset,
    ts: Timestamp,
    source: Source,
}

impl RecordRun {
    /// `None` if the batch has fewer records, or one that cannot be decoded.
    pub(crate) fn new(
        batch: RecordBatch,
        skip: usize,
        count: usize,
        first: Offset,
        ts: Timestamp,
        source: Source,
    ) -> Option<Self> {
        let whole = skip.checked_add(count).is_some_and(|end| end <= batch.count());
        let sound = whole && count > 0 && batch.records().all(|entry| entry.content().is_some());
        sound.then_some(Self { batch, skip, count, first, ts, source })
    }

    /// Offset of its first record.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.first
    }

    /// Offset after its last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.first.plus(self.count as u64)
    }

    /// Number of records; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Log time of its records.
    #[must_use]
    pub fn ts(&self) -> Timestamp {
        self.ts
    }

    /// Where it came from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// The records in order, borrowed: the way to read at speed.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let entries = self.batch.records().skip(self.skip).take(self.count);
        entries.enumerate().filter_map(move |(at, entry)| {
            // Every content was decoded once when the run was made.
            let content = entry.content()?;
            Some(RecordRef {
                offset: self.first.plus(at as u64),
                ts: self.ts,
                source: self.source,
                key: content.key,
                headers: content.headers,
                producer_ts: content.producer_ts.map(Timestamp),
                value: content.value,
                id: entry.id,
            })
        })
    }

    /// Bytes of the records of the batch that it is a part of, as a credit counts them.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.body_bytes()
    }

    /// Some of the records; `None` for none, and where there are not as many.
    pub(crate) fn part(&self, skip: usize, count: usize) -> Option<Self> {
        let is_within = skip.checked_add(count).is_some_and(|end| end <= self.count);
        (is_within && count > 0).then(|| Self {
            skip: self.skip + skip,
            count,
            first: self.first.plus(skip as u64),
            ..self.clone()
        })
    }

    /// The records as values of their own, which share the batch's memory.
    pub(crate) fn take_records(&self) -> Vec<Record> {
        let bytes = self.batch.as_bytes();
        self.records().map(|record| record.to_owned_in(bytes)).collect()
    }
}

/// A record, borrowed from its run.
#[derive(Clone, Debug)]
pub struct RecordRef<'a> {
    /// Its position.
    pub offset: Offset,
    /// Log time of the entry that holds it.
    pub ts: Timestamp,
    /// Where it came from.
    pub source: Source,
    /// Absent is not the same as empty.
    pub key: Option<&'a [u8]>,
    /// An iterator over key and value, in the publisher's order.
    pub headers: ContentHeaders<'a>,
    /// The publisher's own time.
    pub producer_ts: Option<Timestamp>,
    /// The payload.
    pub value: &'a [u8],
    /// The message id.
    pub id: Option<&'a [u8]>,
}

impl RecordRef<'_> {
    /// A value of its own that shares `batch`, in which all slices lie.
    fn to_owned_in(&self, batch: &Bytes) -> Record {
        let headers = self.headers.clone();
        Record {
            offset: self.offset,
            ts: self.ts,
            source: self.source,
            key: self.key.map(|key| batch.slice_ref(key)),
            headers: headers.map(|(key, value)| (key.to_owned(), batch.slice_ref(value))).collect(),
            producer_ts: self.producer_ts,
            value: batch.slice_ref(self.value),
            id: self.id.map(|id| batch.slice_ref(id)),
        }
    }
}

/// A record. Its bytes share the memory of the batch it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub offset: Offset,
    /// Log time of the entry that holds it.
    pub ts: Timestamp,
    /// Where it came from.
    pub source: Source,
    /// Absent is not the same as empty.
    pub key: Option<Bytes>,
    /// In the publisher's order.
    pub headers: Vec<(String, Bytes)>,
    /// The publisher's own time.
    pub producer_ts: Option<Timestamp>,
    /// The payload.
    pub value: Bytes,
    /// The message id.
    pub id: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_types::batch::{BatchBuilder, RecordDraft};

    fn batch(values: &[&[u8]]) -> RecordBatch {
        let mut builder = BatchBuilder::new(1 << 20);
        for value in values {
            let headers: &[(&str, &[u8])] = &[("h", b"1")];
            let draft = RecordDraft { value, headers, key: Some(b"k"), ..RecordDraft::default() };
            builder.push(&draft).expect("within the limits");
        }
        RecordBatch::verify(builder.finish().concat()).expect("just built")
    }

    #[test]
    fn a_run_gives_its_part_of_the_batch_with_offsets() {
        let batch = batch(&[b"a", b"b", b"c", b"d"]);
        let make = |skip, count| {
            RecordRun::new(batch.clone(), skip, count, Offset(11), Timestamp(5), Source::Hot)
        };
        let run = make(1, 2).expect("inside the batch");
        let seen: Vec<_> = run.records().map(|r| (r.offset.0, r.value.to_vec())).collect();
        assert_eq!(seen, [(11, b"b".to_vec()), (12, b"c".to_vec())]);
        assert_eq!(run.next_offset(), Offset(13));
        let owned = run.take_records();
        assert_eq!(owned[1].value, "c");
        assert_eq!(owned[1].headers, [("h".to_owned(), Bytes::from_static(b"1"))]);
        for (skip, count) in [(0, 0), (0, 5), (4, 1), (usize::MAX, 1)] {
            assert_eq!(make(skip, count), None, "{skip} {count}");
        }
    }
}
