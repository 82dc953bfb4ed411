use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;
use proptest::prelude::*;
use railgun_types::StreamUid;

use super::*;
use crate::bucket::BucketOptions;
use crate::fixture::{
    self, Entry, Record, Run, Shelf, entry, noise, run, spec, told_by_batches, told_by_run,
};
use crate::segment::{EncodeSpec, SegmentKind};
use crate::testing::{Conditions, Fault, FaultyStore, Operation};

fn memory() -> Bucket {
    Bucket::open("memory://", &BucketOptions::new(1)).unwrap()
}

fn reader(bucket: &Bucket) -> ColdReader {
    ColdReader::new(bucket.clone(), &ReaderOptions::default())
}

/// A reader that fetches footers and row groups on their own, however small the object.
fn by_range(bucket: &Bucket) -> ColdReader {
    let options = ReaderOptions { whole_bytes: 0, ..ReaderOptions::default() };
    ColdReader::new(bucket.clone(), &options)
}

/// Small row groups, so that few records make many.
fn tight(kind: SegmentKind, row_group_bytes: usize) -> EncodeSpec {
    EncodeSpec { row_group_bytes, ..spec(kind) }
}

async fn read_all(
    reader: &ColdReader,
    shelf: &Shelf,
    stream: StreamUid,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<ColdBatch>, ColdReadError> {
    let (mut next, mut all) = (from, Vec::new());
    while let Some(part) = ColdPart::locate(&shelf.manifest, stream, next) {
        let batches = reader.read(&part, next, max_bytes).await?;
        assert_eq!(batches[0].base, next);
        next = batches.last().unwrap().end();
        all.extend(batches);
    }
    Ok(all)
}

/// Fetching and decoding may move between threads.
#[test]
fn readers_move_between_threads() {
    fn assert_send<T: Send + 'static>(_: T) {}
    fn assert_send_type<T: Send + 'static>() {}
    let bucket = memory();
    assert_send({
        let bucket = bucket.clone();
        async move { bucket.put_immutable("k", Bytes::new()).await }
    });
    assert_send(
        async move { crate::manifest::load(&bucket, fixture::CLUSTER, fixture::SHARD).await },
    );
    assert_send_type::<RowGroup>();
    assert_send_type::<ColdBatches>();
}

/// Objects of version 1 are read for ever.
#[tokio::test]
async fn the_golden_objects_are_read() {
    for (name, footer_bytes, runs) in [
        ("segment-v1.parquet", SEGMENT_FOOTER_BYTES, &fixture::golden_runs()[..1]),
        ("bundle-v1.parquet", BUNDLE_FOOTER_BYTES, &fixture::golden_runs()[..]),
    ] {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let bytes = Bytes::from(std::fs::read(path).unwrap());
        let bucket = memory();
        bucket.put_immutable("golden", bytes.clone()).await.unwrap();
        let object = ObjectRef {
            key: "golden".into(),
            cluster: fixture::CLUSTER,
            shard: fixture::SHARD,
            bytes: bytes.len() as u64,
            footer_bytes,
        };
        let footer = reader(&bucket).footers.get(&object, &()).await.unwrap();
        assert_eq!(footer.footer.parts.len(), runs.len(), "{name}");
        for (encoded, run) in footer.footer.parts.iter().zip(runs) {
            let part = &encoded.part;
            let range = railgun_core::manifest::ColdRange {
                base: part.base,
                count: part.count,
                min_ts: part.min_ts,
                max_ts: part.max_ts,
                record_bytes: part.record_bytes,
                object: railgun_core::manifest::ObjectId { seal_index: 0, part: 0 },
                first_row_group: part.first_row_group,
                first_row: part.first_row,
            };
            let part = ColdPart { stream: part.stream, range, object: object.clone() };
            for reader in [reader(&bucket), by_range(&bucket)] {
                let read = reader.read(&part, part.range.base, usize::MAX).await.unwrap();
                assert_eq!(told_by_batches(&read), told_by_run(run), "{name}");
            }
        }
    }
}

/// What a hostile manifest says of an object is no reason to fetch gigabytes.
#[tokio::test]
async fn a_footer_of_any_size_is_not_fetched() {
    let bucket = memory();
    let object = ObjectRef {
        key: "nowhere".into(),
        cluster: fixture::CLUSTER,
        shard: fixture::SHARD,
        bytes: 5 << 30,
        footer_bytes: 1 << 30,
    };
    let error = reader(&bucket).footers.get(&object, &()).await.unwrap_err();
    assert!(matches!(&error, ColdReadError::Corrupt { .. }), "{error}");
}

/// As its encoder told when the file was made.
const BUNDLE_FOOTER_BYTES: u32 = 2095;
/// Likewise.
const SEGMENT_FOOTER_BYTES: u32 = 1761;

fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// T-2: equal records come back, from any offset, whatever the sizes of row groups and reads.
    #[test]
    fn records_come_back_as_they_were(
        a in fixture::entries(),
        b in fixture::entries(),
        row_group_bytes in 1usize..2000,
        max_bytes in 1usize..2000,
        skip in 0u64..8,
    ) {
        let runs = [run(1, 100, a), run(2, 0, b)];
        block_on(async {
            let mut shelf = Shelf::new(memory());
            for (number, name) in [(1, "a"), (2, "b")] {
                shelf.stream(number, name);
            }
            shelf.add(1, tight(SegmentKind::Bundle, row_group_bytes), &runs).await;
            let reader = reader(&shelf.bucket);
            for run in &runs {
                let all = told_by_run(run);
                let skip = skip.min(all.len() as u64 - 1);
                let from = run.base.plus(skip);
                let read = read_all(&reader, &shelf, run.stream, from, max_bytes).await.unwrap();
                prop_assert_eq!(told_by_batches(&read), &all[skip as usize..]);
            }
            Ok(())
        })?;
    }

    /// The first record at or after any instant, equal log times included, whatever times the streams
    /// have that are in the same row groups. What is cached is found in the same place.
    #[test]
    fn time_is_sought_as_by_looking_at_every_record(
        before in fixture::entries(),
        entries in fixture::entries(),
        row_group_bytes in 1usize..600,
        later in -1i64..12,
    ) {
        let runs = [run(1, 0, before), run(2, 7, entries)];
        let run = &runs[1];
        let ts = Timestamp(run.entries[0].ts.0 + later);
        block_on(async {
            let mut shelf = Shelf::new(memory());
            for (number, name) in [(1, "a"), (2, "b")] {
                shelf.stream(number, name);
            }
            shelf.add(1, tight(SegmentKind::Bundle, row_group_bytes), &runs).await;
            let part = ColdPart::locate(&shelf.manifest, run.stream, run.base).unwrap();
            let all = told_by_run(run);
            let expected = all.iter().find(|told| told.1 >= ts.0).map_or(part.range.end().0, |told| told.0);
            let reader = by_range(&shelf.bucket);
            let is_known = ts <= part.range.min_ts || ts > part.range.max_ts;
            prop_assert_eq!(reader.seek_cached(&part, run.base, ts).unwrap().is_some(), is_known);
            prop_assert_eq!(reader.seek_time(&part, ts).await.unwrap(), Offset(expected));
            let mut from = run.base;
            let found = loop {
                match reader.seek_cached(&part, from, ts).unwrap() {
                    Some(Sought::At(offset)) => break offset,
                    Some(Sought::In(row_group)) => match row_group.seek_time(ts).unwrap() {
                        Some(offset) => break offset,
                        None => from = row_group.end(),
                    },
                    None => panic!("all that was looked at is cached"),
                }
            };
            prop_assert_eq!(found, Offset(expected));
            Ok(())
        })?;
    }
}

/// Five entries of ten records of 2 kB, some of them compressible.
fn sizeable() -> Vec<Entry> {
    let record = |n: u64| {
        let value = if n.is_multiple_of(3) { vec![n as u8; 2000] } else { noise(n + 1, 2000) };
        Record { key: Some(n.to_le_bytes().to_vec()), id: Some(vec![1]), ..Record::of(value) }
    };
    (0..5)
        .map(|e| entry(1000 + e, 2, (0..10).map(|n| record(e as u64 * 10 + n)).collect()))
        .collect()
}

/// A segment of `sizeable` behind a plan, in row groups of about 20 kB.
async fn sizeable_behind(
    plan: impl Fn(&crate::testing::Request<'_>) -> Option<Fault> + Send + Sync + 'static,
) -> (Shelf, Run, StreamUid) {
    faulty(plan, tight(SegmentKind::Segment, 20_000), sizeable()).await
}

/// A segment behind a plan.
async fn faulty(
    plan: impl Fn(&crate::testing::Request<'_>) -> Option<Fault> + Send + Sync + 'static,
    spec: EncodeSpec,
    entries: Vec<Entry>,
) -> (Shelf, Run, StreamUid) {
    let store = FaultyStore::new(Arc::new(InMemory::new()), Conditions::Honoured, plan);
    let bucket = Bucket::with_store(Arc::new(store), "p", "test", &BucketOptions::new(1)).unwrap();
    let mut shelf = Shelf::new(bucket);
    let uid = shelf.stream(1, "a");
    let run = run(1, 0, entries);
    shelf.add(1, spec, std::slice::from_ref(&run)).await;
    (shelf, run, uid)
}

/// Flips `positions` of the only object one after the other. I9: what is read is refused, what is
/// not read (Parquet's first magic, the page indexes) does no harm.
async fn flip(spec: EncodeSpec, entries: Vec<Entry>, step: usize) {
    let flipped = Arc::new(AtomicU64::new(u64::MAX));
    let plan = {
        let flipped = flipped.clone();
        move |request: &crate::testing::Request<'_>| {
            let position = flipped.load(Ordering::Relaxed);
            (request.operation == Operation::Get && position != u64::MAX)
                .then_some(Fault::FlippedByte(position))
        }
    };
    let (shelf, run, uid) = faulty(plan, spec, entries).await;
    let object = ColdPart::locate(&shelf.manifest, uid, Offset(0)).unwrap().object;
    let footer = reader(&shelf.bucket).footers.get(&object, &()).await.unwrap();
    let places = &footer.footer.row_groups;
    assert!(places.len() > 1);
    for position in (0..object.bytes).step_by(step) {
        flipped.store(position, Ordering::Relaxed);
        let in_row_group = places.iter().any(|p| (p.start..p.start + p.bytes).contains(&position));
        let in_footer = position >= object.bytes - u64::from(object.footer_bytes);
        for reader in [by_range(&shelf.bucket), reader(&shelf.bucket)] {
            match read_all(&reader, &shelf, uid, Offset(0), usize::MAX).await {
                Ok(batches) => {
                    assert!(!in_row_group && !in_footer, "byte {position} was not looked at");
                    assert_eq!(told_by_batches(&batches), told_by_run(&run), "byte {position}");
                }
                Err(ColdReadError::Corrupt { .. }) => assert!(in_row_group || in_footer),
                Err(error) => panic!("byte {position}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn no_flipped_byte_is_ever_served() {
    flip(tight(SegmentKind::Segment, 20_000), sizeable(), 97).await;
    let small = (0..4).map(|n| entry(n, 1, vec![Record::of([n as u8]); 2])).collect();
    flip(tight(SegmentKind::Segment, 120), small, 1).await;
}

/// Should a wrong record ever get into an object whose checksums hold, it goes no further.
#[tokio::test]
async fn a_record_that_does_not_match_its_checksum_is_refused() {
    let mut bytes = fixture::batch(&[Record::of("right")]).as_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    // Looks at header and table only, as readers of verified bytes do.
    let batch = railgun_types::batch::RecordBatch::open(bytes.into()).unwrap();
    let (stream, base) = (StreamUid([1; 16]), Offset(0));
    let mut encoder = crate::segment::SegmentEncoder::new(spec(SegmentKind::Segment));
    encoder.begin_stream(stream, base, [0; 32]).unwrap();
    let (ts, term) = (Timestamp(1), 1);
    let slice = crate::segment::StreamSlice { base, ts, term, batch: &batch, records: 0..1 };
    encoder.push(&slice).unwrap();
    let mut shelf = Shelf::new(memory());
    shelf.stream(1, "a");
    let key = shelf.note(1, &spec(SegmentKind::Segment), encoder.finish().unwrap()).await;
    let error = read_all(&reader(&shelf.bucket), &shelf, stream, base, 1).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("at offset 0 does not match its checksum"), "{text}");
    assert!(text.contains(&key), "{text}");
}

#[tokio::test]
async fn a_cut_object_is_corrupt_wherever_it_ends() {
    let end = Arc::new(AtomicU64::new(u64::MAX));
    let plan = {
        let end = end.clone();
        move |request: &crate::testing::Request<'_>| {
            let end = end.load(Ordering::Relaxed);
            (request.operation == Operation::Get && end != u64::MAX).then_some(Fault::CutAt(end))
        }
    };
    let (shelf, _, uid) = sizeable_behind(plan).await;
    let bytes = ColdPart::locate(&shelf.manifest, uid, Offset(0)).unwrap().object.bytes;
    for cut in (0..bytes).step_by(997).chain([bytes - 1]) {
        end.store(cut, Ordering::Relaxed);
        for reader in [by_range(&shelf.bucket), reader(&shelf.bucket)] {
            let read = read_all(&reader, &shelf, uid, Offset(0), usize::MAX).await;
            assert!(matches!(read, Err(ColdReadError::Corrupt { .. })), "cut at {cut}: {read:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_bucket_have_their_own_errors() {
    let fault = Arc::new(AtomicU64::new(0));
    let plan = {
        let fault = fault.clone();
        move |request: &crate::testing::Request<'_>| {
            let fault = match fault.load(Ordering::Relaxed) {
                1 => Fault::Denied,
                2 => Fault::Missing,
                3 => Fault::SlowDown,
                4 => Fault::Hangs,
                _ => return None,
            };
            (request.operation == Operation::Get).then_some(fault)
        }
    };
    let (shelf, run, uid) = sizeable_behind(plan).await;
    let part = ColdPart::locate(&shelf.manifest, uid, Offset(0)).unwrap();
    let reader = reader(&shelf.bucket);
    for (number, missing) in [(1, false), (2, true), (3, false), (4, false)] {
        fault.store(number, Ordering::Relaxed);
        match reader.read(&part, Offset(0), 1).await.unwrap_err() {
            ColdReadError::Missing { .. } => assert!(missing, "{number}"),
            ColdReadError::Unavailable { .. } => assert!(!missing, "{number}"),
            other => panic!("{number}: {other}"),
        }
    }
    // No failure was cached.
    fault.store(0, Ordering::Relaxed);
    let read = read_all(&reader, &shelf, uid, Offset(0), usize::MAX).await.unwrap();
    assert_eq!(told_by_batches(&read), told_by_run(&run));
}

/// Lets every request pass, and counts the GETs.
fn counting(
    gets: &Arc<AtomicU64>,
) -> impl Fn(&crate::testing::Request<'_>) -> Option<Fault> + Clone + Send + Sync + 'static {
    let gets = Arc::clone(gets);
    move |request| {
        gets.fetch_add(u64::from(request.operation == Operation::Get), Ordering::Relaxed);
        None
    }
}

#[tokio::test]
async fn many_readers_of_one_row_group_make_one_request() {
    let gets = Arc::new(AtomicU64::new(0));
    let plan = counting(&gets);
    let (shelf, _, uid) = sizeable_behind(plan).await;
    let part = ColdPart::locate(&shelf.manifest, uid, Offset(0)).unwrap();
    let reader = by_range(&shelf.bucket);
    let before = gets.load(Ordering::Relaxed);
    let reads = (0..16).map(|n| reader.read(&part, Offset(n % 4), 1));
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
    assert_eq!(gets.load(Ordering::Relaxed) - before, 2, "one footer, one row group");
}

/// A seek into a small object is one round trip, and so is everything that follows in it.
#[tokio::test]
async fn a_small_object_is_fetched_whole_and_once() {
    let gets = Arc::new(AtomicU64::new(0));
    let plan = counting(&gets);
    for (row_group_bytes, row_groups) in [(20_000, 5), (1 << 20, 1)] {
        let spec = tight(SegmentKind::Segment, row_group_bytes);
        let (shelf, run, uid) = faulty(plan.clone(), spec, sizeable()).await;
        let part = ColdPart::locate(&shelf.manifest, uid, Offset(0)).unwrap();
        let before = gets.load(Ordering::Relaxed);
        let reader = reader(&shelf.bucket);
        let sought = reader.seek_time(&part, Timestamp(1003)).await.unwrap();
        assert_eq!(sought, Offset(30));
        let read = read_all(&reader, &shelf, uid, sought, usize::MAX).await.unwrap();
        assert_eq!(told_by_batches(&read), &told_by_run(&run)[30..]);
        assert_eq!(gets.load(Ordering::Relaxed) - before, 1);
        let footer = reader.footers.get(&part.object, &()).await.unwrap();
        assert_eq!(footer.footer.row_groups.len(), row_groups);

        // The size decides, to the byte.
        for (spare, requests) in [(0, 1), (1, 2)] {
            let whole_bytes = part.object.bytes - spare;
            let options = ReaderOptions { whole_bytes, ..ReaderOptions::default() };
            let before = gets.load(Ordering::Relaxed);
            ColdReader::new(shelf.bucket.clone(), &options).fetch(&part, Offset(0)).await.unwrap();
            assert_eq!(gets.load(Ordering::Relaxed) - before, requests);
        }
    }
}

/// A batch must fit a frame, whichever part of its records the bytes are in.
#[tokio::test]
async fn a_rebuilt_batch_fits_a_frame_whatever_its_records_are_made_of() {
    use railgun_types::limits::{BATCH_BYTES_HARD, HEADERS, MESSAGE_BYTES_HARD};

    let small = || Record::of(noise(1, 100 << 10));
    let key = Record { key: Some(vec![7; MESSAGE_BYTES_HARD - 64]), ..Record::of("v") };
    let value = Record::of(vec![7; MESSAGE_BYTES_HARD - 64]);
    let header = |n: usize| (format!("h{n}"), vec![n as u8; 200]);
    let headed = Record { headers: (0..HEADERS).map(header).collect(), ..Record::of("v") };
    let named = Record { id: Some(vec![7; 128]), ..Record::of("") };
    let mut records = vec![small(), key.clone(), small(), value, key];
    records.extend(vec![headed; 60]);
    records.extend(vec![named; 4000]);
    let run = run(1, 0, vec![entry(1, 1, records)]);
    let mut shelf = Shelf::new(memory());
    let uid = shelf.stream(1, "a");
    shelf.add(1, spec(SegmentKind::Segment), std::slice::from_ref(&run)).await;
    let read = read_all(&reader(&shelf.bucket), &shelf, uid, Offset(0), usize::MAX).await.unwrap();
    assert_eq!(told_by_batches(&read), told_by_run(&run));
    for batch in &read {
        let (bytes, count) = (batch.batch.len(), batch.batch.count());
        assert!(bytes <= BATCH_BYTES_HARD && (count == 1 || bytes < 320 << 10), "{count}: {bytes}");
    }
}

/// A byte that was damaged on its way, not in the bucket.
#[tokio::test]
async fn a_passing_damage_is_healed_by_another_fetch() {
    let gets = Arc::new(AtomicU64::new(0));
    let plan = {
        let gets = gets.clone();
        move |request: &crate::testing::Request<'_>| {
            let get = request.operation == Operation::Get;
            // The first is the footer's.
            (get && gets.fetch_add(1, Ordering::Relaxed) == 1).then_some(Fault::FlippedByte(500))
        }
    };
    let (shelf, run, uid) = sizeable_behind(plan).await;
    let reader = by_range(&shelf.bucket);
    let read = read_all(&reader, &shelf, uid, Offset(0), usize::MAX).await.unwrap();
    assert_eq!(told_by_batches(&read), told_by_run(&run));
}

#[tokio::test]
async fn offsets_outside_the_range_and_foreign_objects_are_refused() {
    let (shelf, _, uid) = sizeable_behind(|_| None).await;
    let part = ColdPart::locate(&shelf.manifest, uid, Offset(0)).unwrap();
    let reader = reader(&shelf.bucket);
    let behind = reader.read(&part, part.range.end(), 1).await;
    assert!(matches!(behind, Err(ColdReadError::OutOfRange { .. })), "{behind:?}");

    let other_stream = ColdPart { stream: StreamUid([2; 16]), ..part.clone() };
    let read = reader.read(&other_stream, Offset(0), 1).await;
    assert!(matches!(read, Err(ColdReadError::Corrupt { .. })), "{read:?}");

    let mut shifted = part.clone();
    shifted.range.first_row = 1;
    let read = reader.read(&shifted, Offset(0), 1).await;
    assert!(matches!(read, Err(ColdReadError::Corrupt { .. })), "{read:?}");

    let mut longer = part.clone();
    longer.range.count += 1;
    let read = reader.fetch(&longer, Offset(50)).await;
    assert!(matches!(read, Err(ColdReadError::Corrupt { .. })), "{read:?}");

    let mut other_shard = part;
    other_shard.object.shard = railgun_types::ShardId(99);
    other_shard.object.footer_bytes -= 1;
    let read = ColdReader::new(shelf.bucket.clone(), &ReaderOptions::default())
        .read(&other_shard, Offset(0), 1)
        .await;
    assert!(matches!(read, Err(ColdReadError::Corrupt { .. })), "{read:?}");
}
