//! Readers whose clients have little memory, and how many reads they do at a time.

use std::ops::Range;

use futures::FutureExt;
use futures::future::join_all;
use object_store::memory::InMemory;
use railgun_cold::reader::ReaderOptions;
use railgun_cold::testing::{Conditions, Fault, FaultyStore, Operation, Request};
use railgun_net::{ClientMemory, Held, Member};
use railgun_types::limits::BATCH_BYTES_HARD;
use railgun_types::{Limits, Offset, StartPosition};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::retired::Gate;
use super::*;
use crate::builtin_bug::Planted;
use crate::reader::{ClientPlaces, Delivery, Source, Step, StreamReader};
use crate::session::{QuicStream, SessionContext};
use crate::streams::Resolved;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

/// A node with a stream "s", its bucket, and the memory of its clients.
struct Rig {
    broker: Broker,
    pool: Arc<Gate>,
    bucket: Bucket,
    hangs: Arc<AtomicBool>,
    /// Requests that hang, or did.
    hanging: Arc<AtomicUsize>,
    memory: ClientMemory,
}

impl Rig {
    /// 16 MiB that readers share, 9 MiB of them for one client at most, and 16 KiB of its own for each.
    async fn new(ring_bytes: usize) -> Self {
        let (pool, hangs) = (Arc::<Gate>::default(), Arc::<AtomicBool>::default());
        let hanging = Arc::<AtomicUsize>::default();
        let pace = || Duration::from_micros(100);
        let spec = spec_with(&MemoryNetwork::new(), Arc::clone(&pool) as _, Box::new(pace));
        let plan = {
            let (hangs, hanging) = (Arc::clone(&hangs), Arc::clone(&hanging));
            move |request: &Request<'_>| {
                let hangs = hangs.load(Relaxed) && request.operation == Operation::Get;
                hanging.fetch_add(usize::from(hangs), Relaxed);
                hangs.then_some(Fault::Hangs)
            }
        };
        let store = FaultyStore::new(Arc::new(InMemory::new()), Conditions::Honoured, plan);
        let options = BucketOptions::new(1);
        let bucket = Bucket::with_store(Arc::new(store), "p", "test", &options).unwrap();
        let log = LogOptions { file_bytes: 32 << 20, ring_bytes, ..LogOptions::default() };
        let mut files = 0_u128;
        let uuids = move || {
            files += 1;
            files.to_be_bytes()
        };
        let log_driver = LogDriver::Task(log, Box::new(uuids), Box::new(pace));
        let seams = Seams { log_driver, ..spec.seams };
        let hot_bytes_max = 1 << 30;
        let spec = BrokerSpec { seams, bucket: bucket.clone(), shards: 1, hot_bytes_max, ..spec };
        let broker = Broker::start(spec).await.unwrap();
        let memory = ClientMemory::new(64 << 20, 1_000);
        Self { broker, pool, bucket, hangs, hanging, memory }
    }

    /// A stream whose records are of these sizes, each with its number, batches of one record.
    async fn publish(&self, stream: &str, sizes: &[usize]) {
        let wish = wish(stream, 6 << 20, EnsureMode::Warn);
        let uid = self.broker.streams.ensure(wish).await.unwrap().stream_uid;
        let shard = self.broker.streams.resolve(&name(stream)).await.unwrap().shard;
        let append = |number: usize| Append {
            stream: uid,
            producer: None,
            mode: AppendMode::Each,
            expected_end: None,
            batch: one_record(&value(number as u64, sizes[number])),
        };
        let mut numbers = 0..sizes.len();
        while !numbers.is_empty() {
            // As many as come into one entry.
            let mut bytes = 0;
            let entry: Vec<_> = numbers
                .clone()
                .take_while(|number| {
                    let is_first = bytes == 0;
                    bytes += sizes[*number] + 100;
                    is_first || bytes < 500_000
                })
                .collect();
            numbers.start += entry.len();
            let appends = entry.into_iter().map(append).collect();
            let appended = shard.append(&Queueing::new(u64::MAX), appends).await.unwrap();
            assert!(appended.await.unwrap().unwrap().iter().all(Result::is_ok));
        }
    }

    /// Has the stream in the bucket and nowhere else.
    async fn seal(&self, stream: &str) {
        let sealed = self.broker.streams.seal(&name(stream), true).await.unwrap();
        assert!(sealed.files_retired > 0, "{sealed:?}");
    }

    async fn reader(&self, stream: &str, memory: &Member, places: &ClientPlaces) -> StreamReader {
        let found = self.broker.streams.resolve(&name(stream)).await.unwrap();
        let (places, memory) = (places.clone(), Some(memory.clone()));
        let from = self.broker.streams.sources(found.shard, places, memory);
        StreamReader::new(from, found.stream, Offset(0), Planted::default())
    }

    fn places(&self) -> ClientPlaces {
        self.broker.streams.places(Some(&self.memory.reader()))
    }

    /// Takes all that is shared but this much.
    fn crowd(&self, left: usize) -> Vec<Held> {
        let mut taken = Vec::new();
        for bytes in [8 * MIB, MIB, 1 << 10, 1] {
            while let records = self.memory.figures().records
                && records.bytes_max - records.bytes >= left + bytes
            {
                let other = self.memory.reader();
                // What is its own first.
                let own = other.try_take(other.own_bytes());
                taken.extend(other.try_take(bytes));
                taken.extend(own);
            }
        }
        taken
    }

    fn taken(&self) -> usize {
        self.memory.figures().records.bytes
    }
}

fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(bytes.max(8), number as u8);
    value
}

/// Checks that these are the next records, and counts their bytes.
fn check(deliveries: &[Delivery], next: &mut u64, sizes: &[usize]) -> usize {
    for delivery in deliveries {
        assert_eq!(delivery.base.0 + u64::from(delivery.skip), *next, "a gap");
        let records = delivery.batch.records().skip(delivery.skip as usize);
        for record in records.take(delivery.count as usize) {
            let expected = value(*next, sizes[*next as usize]);
            assert!(record.content().unwrap().value == expected, "record {next}");
            *next += 1;
        }
    }
    deliveries.iter().map(|delivery| delivery.batch.len()).sum()
}

/// How a stream was read.
struct Told {
    source: Source,
    steps: usize,
    /// Bytes of the largest step.
    largest: usize,
    /// Steps that left nothing of a row group.
    last: usize,
}

/// Reads to the end.
async fn read_all(reader: &mut StreamReader, sizes: &[usize]) -> Told {
    let (mut next, mut source, mut steps, mut largest, mut last) = (0, None, 0, 0, 0);
    let mut before = None;
    loop {
        // What came before is on its way for a while, as with a subscription.
        let step = {
            let mut step = std::pin::pin!(reader.step(false));
            tokio::select! {
                biased;
                step = &mut step => step,
                () = sleep(Duration::from_millis(1)) => {
                    before = None;
                    timeout(PATIENCE, step).await.expect("it goes on")
                }
            }
        };
        drop(before.take());
        match step.unwrap() {
            Step::Records(deliveries) => {
                let bytes = check(&deliveries, &mut next, sizes);
                let held = reader.take_held();
                assert!(held.as_ref().map_or(0, |held| held.bytes()) >= bytes, "{bytes}");
                assert!(held.is_none() || !deliveries.is_empty());
                for delivery in &deliveries {
                    assert_eq!(delivery.source, *source.get_or_insert(delivery.source));
                }
                largest = largest.max(bytes);
                steps += usize::from(!deliveries.is_empty());
                last += usize::from(!deliveries.is_empty() && !reader.holds_records());
                before = held;
            }
            Step::End => break,
            Step::Deleted => panic!("it is there"),
        }
    }
    assert_eq!(next, sizes.len() as u64);
    Told { source: source.unwrap(), steps, largest, last }
}

/// Where records come from, the bytes of the ring, and whether they are sealed.
const SOURCES: [(Source, usize, bool); 3] =
    [(Source::Ring, 64 << 20, false), (Source::Hot, 0, false), (Source::Cold, 0, true)];

async fn with(ring_bytes: usize, sealed: bool, sizes: &[usize]) -> Rig {
    let rig = Rig::new(ring_bytes).await;
    rig.publish("s", sizes).await;
    if sealed {
        rig.seal("s").await;
    }
    rig
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_nothing_but_its_own_reads_small_pieces_and_skips_nothing() {
    let sizes = [1_000; 300];
    for (source, ring_bytes, sealed) in SOURCES {
        let rig = with(ring_bytes, sealed, &sizes).await;
        let crowd = rig.crowd(0);
        let taken = rig.taken();
        assert_eq!(taken, 16 * MIB);
        let client = rig.memory.reader();
        let own = client.own_bytes();
        let mut reader = rig.reader("s", &client, &rig.places()).await;
        let told = read_all(&mut reader, &sizes).await;
        assert_eq!(told.source, source);
        assert!(told.largest <= own, "{source:?}: {}", told.largest);
        // Not one by one, though half of it may be on its way.
        assert!(told.steps < 100, "{source:?}: {}", told.steps);
        assert_eq!((client.own_bytes(), rig.taken()), (own, taken), "{source:?}");
        drop(crowd);
        assert_eq!(rig.taken(), 0);
        // When others have left.
        reader.rewind(Offset(0));
        let Told { largest, .. } = read_all(&mut reader, &sizes).await;
        assert!(largest > 200_000, "{source:?}: {largest}");
        drop(reader);
        assert_eq!((client.own_bytes(), rig.taken()), (own, 0), "{source:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn large_records_wait_for_memory_and_come_when_there_is_some() {
    let sizes = [300_000; 20];
    for (source, ring_bytes, sealed) in SOURCES {
        for by_others in [true, false] {
            let rig = with(ring_bytes, sealed, &sizes).await;
            let client = rig.memory.reader();
            let taken = if by_others {
                rig.crowd(0)
            } else {
                client.try_take(BATCH_BYTES_HARD + MIB).into_iter().collect()
            };
            let before = rig.taken();
            let mut reader = rig.reader("s", &client, &rig.places()).await;
            {
                let mut step = std::pin::pin!(reader.step(false));
                assert!(timeout(PATIENCE, &mut step).await.is_err(), "{source:?}");
                assert_eq!(rig.taken(), before, "it holds some while it waits");
                assert_eq!(rig.memory.figures().records.waiting, usize::from(by_others));
                assert!(client.is_wanted());
            }
            let mut reading = Box::pin(read_all(&mut reader, &sizes));
            assert!(poll_once(reading.as_mut()).is_none());
            drop(taken);
            assert_eq!(reading.as_mut().await.source, source);
            drop(reading);
            drop(reader);
            assert_eq!(rig.taken(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn records_larger_than_a_step_come_in_order_among_small_ones() {
    let sizes = [[400_000, 900_000, 10, 10], [5 << 20, 30_000, 700_000, 1_200_000]].concat();
    let sizes = sizes.repeat(2);
    for (source, ring_bytes, sealed) in SOURCES {
        let rig = with(ring_bytes, sealed, &sizes).await;
        for left in [16 * MIB, 6 * MIB, 5 * MIB + 500_000] {
            let crowd = rig.crowd(left);
            let before = rig.taken();
            let mut reader = rig.reader("s", &rig.memory.reader(), &rig.places()).await;
            let told = read_all(&mut reader, &sizes).await;
            assert_eq!(told.source, source);
            assert!(told.largest < 6 << 20, "{source:?}: {}", told.largest);
            drop(reader);
            assert_eq!(rig.taken(), before);
            drop(crowd);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_group_is_read_on_in_by_a_client_that_has_memory_for_no_more_than_one() {
    let sizes = [20_000; 1_000];
    let rig = with(0, true, &sizes).await;
    let client = rig.memory.reader();
    let mut reader = rig.reader("s", &client, &rig.places()).await;
    let Told { source, last, .. } = read_all(&mut reader, &sizes).await;
    // What it has read is held in front of each row group but the first, as the client takes it.
    assert!(source == Source::Cold && last <= 1, "{last} steps were not read on from");
}

#[tokio::test(start_paused = true)]
async fn a_row_group_is_read_on_in_though_its_records_do_not_fill_a_step() {
    for bytes in [200_000, 360_000, 600_000, 780_000] {
        let sizes = vec![bytes; 24];
        let rig = with(0, true, &sizes).await;
        let mut reader = rig.reader("s", &rig.memory.reader(), &rig.places()).await;
        let Told { steps, last, .. } = read_all(&mut reader, &sizes).await;
        assert!(last <= 3, "{bytes} bytes: {last} of {steps} steps were not read on from");
    }
}

#[tokio::test(start_paused = true)]
async fn entries_are_read_from_files_once() {
    let sizes = [1_000_000; 20];
    let rig = with(0, false, &sizes).await;
    let mut reader = rig.reader("s", &rig.memory.reader(), &rig.places()).await;
    let before = rig.pool.jobs.load(Relaxed);
    let Told { source, steps, .. } = read_all(&mut reader, &sizes).await;
    assert_eq!((source, steps), (Source::Hot, 10));
    assert_eq!(rig.pool.jobs.load(Relaxed) - before, steps);
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_memory_reads_with_it_though_the_row_group_has_gone() {
    let sizes = [300_000; 4];
    let rig = with(0, true, &sizes).await;
    rig.publish("t", &sizes).await;
    rig.seal("t").await;
    for hangs in [false, true] {
        // In the cache is what came last.
        let options = ReaderOptions { cache_bytes: 1, whole_bytes: 0, ..Default::default() };
        let cold = ColdReader::new(rig.bucket.clone(), &options);
        let reader = async |stream: &str, memory| {
            let found = rig.broker.streams.resolve(&name(stream)).await.unwrap();
            let mut from = rig.broker.streams.sources(found.shard, rig.places(), memory);
            from.cold = cold.clone();
            StreamReader::new(from, found.stream, Offset(0), Planted::default())
        };
        let other = rig.memory.reader();
        let mut last = reader("t", None).await;
        let mut reader = reader("s", Some(rig.memory.reader())).await;
        let crowd = rig.crowd(0);
        {
            let mut step = std::pin::pin!(reader.step(false));
            assert!(timeout(Duration::from_secs(1), &mut step).await.is_err());
            drop(crowd);
            assert!(matches!(step.await.unwrap(), Step::Records(none) if none.is_empty()));
        }
        assert!(matches!(last.step(false).await.unwrap(), Step::Records(some) if some.len() == 3));
        // All else is taken, and what it gives back is, too.
        let _crowd = rig.crowd(0);
        let mut waits = std::pin::pin!(other.take(sizes[0]));
        assert!(poll_once(waits.as_mut()).is_none());
        rig.hangs.store(hangs, Relaxed);
        {
            let mut step = std::pin::pin!(reader.step(false));
            let stepped = timeout(Duration::from_secs(10), &mut step).await;
            if hangs {
                // Not for as long as the bucket takes.
                assert!(stepped.is_err());
                assert!(poll_once(waits.as_mut()).is_some());
            } else {
                let Step::Records(read) = stepped.unwrap().unwrap() else { panic!("there are") };
                assert_eq!(read.len(), 1);
                assert!(poll_once(waits.as_mut()).is_none());
            }
        }
        rig.hangs.store(false, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_client_take_turns_at_row_groups_and_none_waits_for_ever() {
    let sizes = [20_000; 200];
    let rig = with(0, true, &sizes).await;
    let (client, places) = (rig.memory.reader(), rig.places());
    let mut first = rig.reader("s", &client, &places).await;
    let Step::Records(_) = first.step(false).await.unwrap() else { panic!("there are some") };
    assert!(first.holds_records());
    // The second one waits for the first, that lets go of what it has.
    let mut second = rig.reader("s", &client, &places).await;
    assert!(poll_once(std::pin::pin!(second.step(false))).is_none());
    assert!(!client.is_crowded());
    let begin = Instant::now();
    let mut reading = Box::pin(read_all(&mut second, &sizes));
    assert!(poll_once(reading.as_mut()).is_none());
    first.rewind(Offset(0));
    assert_eq!(reading.as_mut().await.last, 0);
    assert!(begin.elapsed() < Duration::from_secs(1));
    drop(reading);
    drop(second);
    // One that has its turn and no memory gets what is left.
    let some = client.try_take(5 * MIB).unwrap();
    let Told { largest, last, .. } = read_all(&mut first, &sizes).await;
    assert!(largest > MIB / 2 && last >= 4, "{largest}, {last}");
    drop(some);
    // One that has no turn has waited for it once.
    first.rewind(Offset(0));
    let Step::Records(_) = first.step(false).await.unwrap() else { panic!("there are some") };
    let mut second = rig.reader("s", &client, &places).await;
    let begin = Instant::now();
    let Told { largest, last, .. } = read_all(&mut second, &sizes).await;
    assert!(largest > MIB / 2 && last >= 4, "{largest}, {last}");
    let waited = begin.elapsed();
    assert!((2..3).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_row_group_that_others_wait_for_is_not_held_for_long() {
    let sizes = [20_000; 200];
    let rig = with(0, true, &sizes).await;
    let (client, places) = (rig.memory.reader(), rig.places());
    let mut reader = rig.reader("s", &client, &places).await;
    let Step::Records(_) = reader.step(false).await.unwrap() else { panic!("there are some") };
    drop(reader.take_held());
    sleep(PATIENCE).await;
    assert!(!reader.is_overdue(), "nobody waits");
    let mut second = rig.reader("s", &client, &places).await;
    {
        let mut step = std::pin::pin!(second.step(false));
        assert!(timeout(Duration::from_secs(1), &mut step).await.is_err());
        assert!(reader.is_overdue(), "another one waits for its turn");
    }
    assert!(!reader.is_overdue());
    reader.rewind(Offset(0));
    let Step::Records(_) = reader.step(false).await.unwrap() else { panic!("there are some") };
    drop(reader.take_held());
    let (other, _crowd) = (rig.memory.reader(), rig.crowd(MIB));
    let mut waits = std::pin::pin!(other.take(3 * MIB));
    assert!(poll_once(waits.as_mut()).is_none());
    sleep(Duration::from_secs(10)).await;
    assert!(!reader.is_overdue(), "it has begun a little ago");
    sleep(Duration::from_secs(6)).await;
    assert!(reader.is_overdue());
    reader.rewind(Offset(0));
    assert!(poll_once(waits.as_mut()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_hangs_takes_neither_memory_nor_the_places_of_those_who_do_not_need_it() {
    let sizes = [1_000; 100];
    let rig = with(0, true, &sizes).await;
    rig.publish("t", &sizes).await;
    rig.seal("t").await;
    let client = rig.memory.reader();
    read_all(&mut rig.reader("s", &client, &rig.places()).await, &sizes).await;
    rig.hangs.store(true, Relaxed);
    let mut readers = Vec::new();
    for _ in 0..10 {
        let (client, places) = (rig.memory.reader(), rig.places());
        for _ in 0..5 {
            readers.push(rig.reader("t", &client, &places).await);
        }
    }
    {
        let steps = join_all(readers.iter_mut().map(|reader| reader.step(false)));
        let mut steps = std::pin::pin!(steps);
        assert!(timeout(Duration::from_secs(3), &mut steps).await.is_err());
        assert_eq!(rig.taken(), 0);
        let mut reader = rig.reader("s", &client, &rig.places()).await;
        read_all(&mut reader, &sizes).await;
    }
    rig.hangs.store(false, Relaxed);
    for reader in &mut readers {
        read_all(reader, &sizes).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_hangs_stops_no_other_reader_of_the_client() {
    let sizes = [100_000; 30];
    let rig = with(0, true, &sizes).await;
    for stream in ["c", "d"] {
        rig.publish(stream, &[1_000]).await;
        rig.seal(stream).await;
    }
    rig.publish("h", &sizes).await;
    let (client, places) = (rig.memory.reader(), rig.places());
    read_all(&mut rig.reader("s", &client, &places).await, &sizes).await;
    rig.hangs.store(true, Relaxed);
    let mut cold =
        [rig.reader("c", &client, &places).await, rig.reader("d", &client, &places).await];
    let mut steps = std::pin::pin!(join_all(cold.iter_mut().map(|reader| reader.step(false))));
    assert!(poll_once(steps.as_mut()).is_none());
    for (stream, source, seconds) in [("h", Source::Hot, 0), ("s", Source::Cold, 2)] {
        let begin = Instant::now();
        let mut reader = rig.reader(stream, &client, &places).await;
        let mut reading = std::pin::pin!(read_all(&mut reader, &sizes));
        let told = tokio::select! {
            _ = &mut steps => panic!("the bucket hangs"),
            told = &mut reading => told,
        };
        assert_eq!((told.source, begin.elapsed().as_secs()), (source, seconds));
        assert!(told.largest > MIB / 2);
    }
    assert_eq!(rig.hanging.load(Relaxed), 2);
}

/// Streams in the bucket, each with the time of its second record.
async fn timed(rig: &Rig, count: usize) -> Vec<(String, Timestamp)> {
    let mut streams = Vec::new();
    for number in 0..count {
        let (stream, sizes) = (format!("t{number}"), [300_000; 2]);
        rig.publish(&stream, &sizes).await;
        let mut reader = rig.reader(&stream, &rig.memory.reader(), &rig.places()).await;
        let Step::Records(read) = reader.step(false).await.unwrap() else { panic!("two") };
        assert!(read[0].ts < read[1].ts);
        streams.push((stream.clone(), read[1].ts));
        rig.seal(&stream).await;
    }
    streams
}

/// Where readers of these begin.
async fn starts(
    rig: &Rig,
    places: &ClientPlaces,
    found: &[(Resolved, StartPosition)],
) -> Vec<Offset> {
    let start_of = async |(found, start): &(Resolved, StartPosition)| {
        rig.broker.streams.start_of(found, *start, places).await.unwrap().start
    };
    join_all(found.iter().map(start_of)).await
}

#[tokio::test(start_paused = true)]
async fn a_start_by_time_takes_the_places_of_other_reads() {
    let rig = Rig::new(0).await;
    let (mut found, streams) = (Vec::new(), &rig.broker.streams);
    for (stream, ts) in timed(&rig, 6).await {
        found.push((streams.resolve(&name(&stream)).await.unwrap(), StartPosition::Time(ts)));
    }
    let places = rig.places();
    rig.hangs.store(true, Relaxed);
    for _ in 0..2 {
        let all = starts(&rig, &places, &found);
        assert!(timeout(Duration::from_secs(1), all).await.is_err());
        assert_eq!(rig.hanging.load(Relaxed), 4, "also when nobody waits for them any more");
        found.reverse();
    }
    rig.hangs.store(false, Relaxed);
    assert_eq!(starts(&rig, &places, &found).await, [Offset(1); 6]);
    rig.pool.holds.store(true, Relaxed);
    let before = rig.pool.held.load(Relaxed);
    let all = starts(&rig, &places, &found);
    assert!(timeout(Duration::from_secs(1), all).await.is_err());
    assert_eq!(rig.pool.held.load(Relaxed) - before, 4);
}

#[tokio::test(start_paused = true)]
async fn a_start_by_time_ends_with_its_request() {
    let rig = Rig::new(0).await;
    let (stream, ts) = timed(&rig, 1).await.remove(0);
    rig.hangs.store(true, Relaxed);
    let start = Some(v1::subscribe::Start::TimeUs(ts.0));
    let subscribe = v1::Subscribe { stream, start, ..v1::Subscribe::default() };
    let (line, served) = begin(&rig, &rig.memory.reader(), subscribe).await;
    while rig.hanging.load(Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(!served.is_finished());
    drop(line);
    timeout(Duration::from_secs(1), served).await.expect("the end").unwrap();
}

#[tokio::test(start_paused = true)]
async fn reads_that_nobody_waits_for_any_more_count_as_long_as_they_run() {
    let sizes = [1_000; 100];
    for sealed in [false, true] {
        let rig = with(0, sealed, &sizes).await;
        let (client, places) = (rig.memory.reader(), rig.places());
        // The offloader has its own places in the pool, and nothing to do.
        sleep(PATIENCE).await;
        rig.pool.holds.store(true, Relaxed);
        for _ in 0..20 {
            let mut reader = rig.reader("s", &client, &places).await;
            drop(timeout(Duration::from_millis(1), reader.step(false)).await);
        }
        assert_eq!(rig.pool.held.load(Relaxed), if sealed { 4 } else { 8 });
        let (other, places) = (rig.memory.reader(), rig.places());
        let mut reader = rig.reader("s", &other, &places).await;
        drop(timeout(Duration::from_millis(1), reader.step(false)).await);
        assert_eq!(rig.pool.held.load(Relaxed), if sealed { 5 } else { 9 });
        rig.pool.holds.store(false, Relaxed);
        rig.pool.opened.cancel();
        read_all(&mut reader, &sizes).await;
    }
}

/// A subscription from the beginning of "s", whose records take this memory.
async fn subscribe(rig: &Rig, memory: &Member, credit_bytes: u64) -> (FrameWriter, FrameReader) {
    let start = Some(v1::subscribe::Start::Earliest(true));
    let stream = "s".to_owned();
    let subscribe = v1::Subscribe { stream, start, credit_bytes, ..v1::Subscribe::default() };
    let (mut line, _) = begin(rig, memory, subscribe).await;
    assert!(line.1.next_of::<v1::Subscribed>().await.unwrap().is_some());
    line
}

/// Asks for a subscription; how it is served.
async fn begin(
    rig: &Rig,
    memory: &Member,
    subscribe: v1::Subscribe,
) -> ((FrameWriter, FrameReader), JoinHandle<()>) {
    let network = MemoryNetwork::new();
    let endpoint = network.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let (near, far) =
        tokio::join!(network.connect(endpoint.local_addr()), endpoint.accept().map(Option::unwrap));
    let (near, context) = (
        near.unwrap(),
        SessionContext {
            streams: rig.broker.streams.clone(),
            auth: crate::auth::Auth::new(Vec::new()),
            limits: Limits::default(),
            node_id: 1,
            server: "test".to_owned(),
            next_session: AtomicU64::new(0),
            planted: Planted::default(),
        },
    );
    let mut line = near.open().await.unwrap();
    line.0.send(Frame::new(&subscribe)).await.unwrap();
    let (writer, reader) = far.accept().await.unwrap();
    let stream = QuicStream {
        read_places: context.streams.places(Some(memory)),
        context: Arc::new(context),
        writer,
        reader,
        queueing: Queueing::new(1),
        record_memory: Some(memory.clone()),
        tasks: TaskTracker::new(),
        ended: CancellationToken::new(),
        stopping: CancellationToken::new(),
    };
    let served = tokio::spawn(async move {
        stream.serve(Arc::new(Semaphore::new(1))).await;
        drop((network, endpoint, near, far));
    });
    (line, served)
}

/// Takes records as they come, and gives credit for one batch each time.
async fn trickle(line: &mut (FrameWriter, FrameReader), numbers: Range<u64>, pause: Duration) {
    let mut next = numbers.start;
    while next < numbers.end {
        let frame = timeout(PATIENCE, line.1.next()).await.expect("a record").unwrap().unwrap();
        let deliver: v1::Deliver = frame.decode().unwrap();
        assert_eq!(deliver.base_offset + u64::from(deliver.skip), next);
        next += u64::from(deliver.count);
        sleep(pause).await;
        let bytes = frame.blob().len() as u64;
        line.0.send(Frame::new(&v1::Credit { bytes })).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn credit_that_trickles_does_not_hold_memory_that_others_wait_for() {
    let sizes = [20_000; 390];
    for (source, ring_bytes, sealed) in SOURCES {
        let rig = with(ring_bytes, sealed, &sizes).await;
        let client = rig.memory.reader();
        let mut line = subscribe(&rig, &client, 1).await;
        let pause = Duration::from_millis(900);
        // Batches of one record; those of the bucket are of thirteen.
        let begun = if sealed { 13 } else { 1 };
        trickle(&mut line, 0..begun, pause).await;
        assert!(rig.taken() > MIB, "{source:?}: it has read on");
        let (other, crowd) = (rig.memory.reader(), rig.crowd(MIB));
        let begin = Instant::now();
        let waits = async {
            let held = other.take(MIB + 100_000).await;
            drop((held, crowd));
            begin.elapsed()
        };
        let (waited, ()) = tokio::join!(waits, trickle(&mut line, begun..390, pause));
        // A step of the log; a row group.
        let most = Duration::from_secs(if sealed { 17 } else { 8 });
        assert!(waited < most, "{source:?}: {waited:?}");
    }
}

/// Polls a future that is waited for later.
fn poll_once<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    future.now_or_never()
}
