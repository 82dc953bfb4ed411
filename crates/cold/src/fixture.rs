//! A shard with streams in a bucket, for the tests of this crate.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use railgun_core::manifest::{
    ColdRange, ManifestFile, ManifestVersion, ObjectId, ObjectInfo, ObjectKind, ShardManifest,
    StreamManifest,
};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{ClusterUid, Offset, ShardId, StreamName, StreamUid, Timestamp};

use crate::bucket::Bucket;
use crate::keys::Key;
use crate::manifest;
use crate::reader::ColdBatch;
use crate::segment::{
    ChunkPool, EncodeSpec, Encoded, EncodedPart, SegmentEncoder, SegmentKind, StreamSlice,
};

pub(crate) const CLUSTER: ClusterUid = ClusterUid([0xc1; 16]);
pub(crate) const SHARD: ShardId = ShardId(3);

/// An owned record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) producer_ts: Option<i64>,
    pub(crate) value: Vec<u8>,
    pub(crate) id: Option<Vec<u8>>,
}

impl Record {
    pub(crate) fn of(value: impl Into<Vec<u8>>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }
}

pub(crate) fn batch(records: &[Record]) -> RecordBatch {
    let mut builder = BatchBuilder::system();
    for record in records {
        let headers: Vec<(&str, &[u8])> =
            record.headers.iter().map(|(key, value)| (key.as_str(), &value[..])).collect();
        let draft = RecordDraft {
            key: record.key.as_deref(),
            headers: &headers,
            producer_ts: record.producer_ts,
            value: &record.value,
            id: record.id.as_deref(),
        };
        builder.push(&draft).unwrap();
    }
    RecordBatch::verify(builder.finish().concat()).unwrap()
}

/// Records of one stream under one log time and term.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) ts: Timestamp,
    pub(crate) term: u64,
    pub(crate) records: Vec<Record>,
}

pub(crate) fn entry(ts: i64, term: u64, records: Vec<Record>) -> Entry {
    Entry { ts: Timestamp(ts), term, records }
}

/// Consecutive entries of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) stream: StreamUid,
    pub(crate) base: Offset,
    pub(crate) entries: Vec<Entry>,
}

pub(crate) fn run(stream: u8, base: u64, entries: Vec<Entry>) -> Run {
    Run { stream: StreamUid([stream; 16]), base: Offset(base), entries }
}

pub(crate) fn spec(kind: SegmentKind) -> EncodeSpec {
    EncodeSpec::new(CLUSTER, SHARD, 7, kind)
}

pub(crate) fn encode(spec: EncodeSpec, runs: &[Run]) -> Encoded {
    encode_into(ChunkPool::default(), spec, runs)
}

pub(crate) fn encode_into(chunks: ChunkPool, spec: EncodeSpec, runs: &[Run]) -> Encoded {
    let mut encoder = SegmentEncoder::with_chunks(spec, chunks);
    for run in runs {
        encoder.begin_stream(run.stream, run.base, [9; 32]).unwrap();
        let mut base = run.base;
        for entry in &run.entries {
            let batch = batch(&entry.records);
            let records = 0..batch.count();
            let (ts, term) = (entry.ts, entry.term);
            encoder.push(&StreamSlice { base, ts, term, batch: &batch, records }).unwrap();
            base = base.plus(batch.count() as u64);
        }
    }
    encoder.finish().unwrap()
}

/// One record with everything a reader may rely on.
pub(crate) type Told = (u64, i64, u64, Vec<u8>, u32, u8, Option<Vec<u8>>, Option<[u8; 16]>);

pub(crate) fn told(base: Offset, ts: Timestamp, term: u64, batch: &RecordBatch) -> Vec<Told> {
    let tell = |(index, record): (usize, railgun_types::batch::RecordEntry<'_>)| {
        let offset = base.0 + index as u64;
        let id = record.id.map(<[u8]>::to_vec);
        let bytes = record.bytes.to_vec();
        (offset, ts.0, term, bytes, record.crc, record.flags, id, record.payload_hash.copied())
    };
    batch.records().enumerate().map(tell).collect()
}

pub(crate) fn told_by_run(run: &Run) -> Vec<Told> {
    let mut base = run.base;
    let mut all = Vec::new();
    for entry in &run.entries {
        let batch = batch(&entry.records);
        all.extend(told(base, entry.ts, entry.term, &batch));
        base = base.plus(batch.count() as u64);
    }
    all
}

pub(crate) fn told_by_batches(batches: &[ColdBatch]) -> Vec<Told> {
    batches.iter().flat_map(|b| told(b.base, b.ts, b.term, &b.batch)).collect()
}

/// What a shard has in a bucket, put there object by object.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) bucket: Bucket,
    pub(crate) manifest: ShardManifest,
}

impl Shelf {
    pub(crate) fn new(bucket: Bucket) -> Self {
        let (streams, objects) = (BTreeMap::new(), BTreeMap::new());
        let manifest = ShardManifest { cluster: CLUSTER, shard: SHARD, streams, objects };
        Self { bucket, manifest }
    }

    /// Names a stream.
    pub(crate) fn stream(&mut self, stream: u8, name: &str) -> StreamUid {
        let uid = StreamUid([stream; 16]);
        let name = StreamName::new(name).unwrap();
        let created = Timestamp(i64::from(stream));
        let told =
            StreamManifest { name, created, deleted: false, ranges: Vec::new(), digest: [0; 32] };
        self.manifest.streams.insert(uid, told);
        uid
    }

    /// Encodes `runs` as the object of seal `seal_index`, stores it and notes it in the manifest.
    pub(crate) async fn add(&mut self, seal_index: u64, spec: EncodeSpec, runs: &[Run]) -> String {
        let encoded = encode(spec.clone(), runs);
        self.note(seal_index, &spec, encoded).await
    }

    /// Stores an encoded object and notes it in the manifest.
    pub(crate) async fn note(
        &mut self,
        seal_index: u64,
        spec: &EncodeSpec,
        encoded: Encoded,
    ) -> String {
        let (key, id, info) = self.describe(seal_index, spec, &encoded);
        self.bucket.put_immutable(&key, encoded.content.clone()).await.unwrap();
        self.manifest.objects.insert(id, info);
        for EncodedPart { part, .. } in &encoded.parts {
            let told = self.manifest.streams.get_mut(&part.stream).unwrap();
            told.digest = part.digest;
            told.ranges.push(ColdRange {
                base: part.base,
                count: part.count,
                min_ts: part.min_ts,
                max_ts: part.max_ts,
                record_bytes: part.record_bytes,
                object: id,
                first_row_group: part.first_row_group,
                first_row: part.first_row,
            });
        }
        key
    }

    fn describe(
        &self,
        seal_index: u64,
        spec: &EncodeSpec,
        encoded: &Encoded,
    ) -> (String, ObjectId, ObjectInfo) {
        let first = &encoded.parts[0].part;
        let kind = match spec.kind {
            SegmentKind::Segment => ObjectKind::Segment {
                stream: first.stream,
                base: first.base,
                last: Offset(first.base.0 + first.count - 1),
            },
            SegmentKind::Bundle => ObjectKind::Bundle,
        };
        let info = ObjectInfo {
            kind,
            day: first.min_ts.utc_day(),
            term: spec.term,
            attempt: seal_index + 1,
            hash: encoded.hash,
            bytes: encoded.content.content_length() as u64,
            footer_bytes: encoded.footer_bytes,
            live_parts: encoded.parts.len() as u32,
        };
        let id = ObjectId { seal_index, part: 0 };
        let name = &self.manifest.streams[&first.stream].name;
        (Key::of_object(CLUSTER, SHARD, id, &info, name).to_string(), id, info)
    }

    /// Writes the whole manifest as of `log_index`.
    pub(crate) async fn mirror(&self, log_index: u64) -> ManifestVersion {
        let version = ManifestVersion { log_index, term: 7 };
        manifest::store(&self.bucket, &ManifestFile::full(version, &self.manifest)).await.unwrap();
        version
    }
}

/// One record of each kind: with all, with nothing, with everything empty.
pub(crate) fn sampler() -> Vec<Record> {
    vec![
        Record {
            key: Some(b"key".to_vec()),
            headers: vec![
                ("b".into(), b"2".to_vec()),
                ("a".into(), vec![]),
                ("b".into(), b"1".to_vec()),
            ],
            producer_ts: Some(-1),
            value: b"value".to_vec(),
            id: Some(b"id-1".to_vec()),
        },
        Record::default(),
        Record { key: Some(vec![]), producer_ts: Some(0), ..Record::default() },
        Record { id: Some(vec![0]), ..Record::of("x".repeat(300)) },
    ]
}

/// What the golden bundle holds.
pub(crate) fn golden_runs() -> [Run; 2] {
    let day = 1_700_000_000_000_000;
    [
        run(1, 5, vec![entry(day, 3, sampler()), entry(day + 1, 4, sampler())]),
        run(2, 0, vec![entry(day + 1, 4, vec![Record::of("second stream")])]),
    ]
}

/// Bytes that no compressor shrinks.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| step()).take(len).collect()
}

/// Any record, small.
pub(crate) fn records() -> impl Strategy<Value = Record> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    let headers = proptest::collection::vec(("[a-z -é-]{0,6}", bytes(6)), 0..4);
    let id = proptest::option::of(proptest::collection::vec(any::<u8>(), 1..9));
    (proptest::option::of(bytes(9)), headers, any::<Option<i64>>(), bytes(40), id).prop_map(
        |(key, headers, producer_ts, value, id)| Record { key, headers, producer_ts, value, id },
    )
}

/// Any entries with log times that do not fall.
pub(crate) fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (0i64..3, 0u64..2, proptest::collection::vec(records(), 1..6));
    proptest::collection::vec(one, 1..8).prop_map(|steps| {
        let (mut ts, mut term) = (1_700_000_000_000_000, 5);
        steps
            .into_iter()
            .map(|(later, newer, records)| {
                ts += later;
                term += newer;
                entry(ts, term, records)
            })
            .collect()
    })
}

/// Replaces an object, which only a fault does.
pub(crate) async fn overwrite(bucket: &Bucket, key: &str, content: Vec<u8>) {
    bucket.delete(key).await.unwrap();
    bucket.put_immutable(key, Bytes::from(content)).await.unwrap();
}

/// Holds `bytes` against the golden file `name`: what a release wrote stays readable for ever.
/// `REGENERATE_GOLDEN=1` writes the file anew.
pub(crate) fn assert_golden(name: &str, bytes: &[u8]) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("REGENERATE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == bytes, "the format of {name} changed");
}
