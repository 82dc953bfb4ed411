//! Readers whose clients have little memory, and how many reads they do at a time.

use futures::FutureExt;
use futures::future::join_all;
use object_store::memory::InMemory;
use railgun_cold::reader::ReaderOptions;
use railgun_cold::testing::{Conditions, Fault, FaultyStore, Operation, Request};
use railgun_net::{ClientMemory, Held, Member};
use railgun_proto::convert::EnsureGroupRequest;
use railgun_types::limits::BATCH_BYTES_HARD;
use railgun_types::{GroupName, GroupPatch, Offset, StartPosition};

use super::retired::Gate;
use super::*;
use crate::groups::Groups;
use crate::reader::{ClientPlaces, Delivery, Source, Step, StreamReader};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const MIB: usize = 1 << 20;

/// A node with a stream "s", its bucket, and the memory of its clients.
pub(super) struct Rig {
    pub(super) broker: Broker,
    pub(super) pool: Arc<Gate>,
    pub(super) bucket: Bucket,
    /// Requests for content.
    pub(super) gets: Arc<AtomicUsize>,
    pub(super) hangs: Arc<AtomicBool>,
    /// Requests that hang, or did.
    pub(super) hanging: Arc<AtomicUsize>,
    pub(super) memory: ClientMemory,
    /// How many connections there were.
    pub(super) sessions: Arc<AtomicU64>,
}

impl Rig {
    /// 16 MiB that readers share, 9 MiB of them for one client at most, and 16 KiB of its own for each.
    pub(super) async fn new(ring_bytes: usize) -> Self {
        let (pool, hangs) = (Arc::<Gate>::default(), Arc::<AtomicBool>::default());
        let (hanging, gets) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let pace = || Duration::from_micros(100);
        let spec = spec_with(&MemoryNetwork::new(), Arc::clone(&pool) as _, Box::new(pace));
        let plan = {
            let (hangs, hanging) = (Arc::clone(&hangs), Arc::clone(&hanging));
            let gets = Arc::clone(&gets);
            move |request: &Request<'_>| {
                gets.fetch_add(usize::from(request.operation == Operation::Get), Relaxed);
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
        let sessions = Arc::default();
        Self { broker, pool, bucket, gets, hangs, hanging, memory, sessions }
    }

    /// A stream whose records are of these sizes, each with its number, batches of one record.
    pub(super) async fn publish(&self, stream: &str, sizes: &[usize]) {
        self.publish_values(stream, sizes, value).await;
    }

    /// The same, of values by number and size.
    pub(super) async fn publish_values(
        &self,
        stream: &str,
        sizes: &[usize],
        value: impl Fn(u64, usize) -> Vec<u8>,
    ) {
        let wish = wish(stream, 6 << 20, EnsureMode::Warn);
        let uid = self.broker.streams.ensure(wish).await.unwrap().stream_uid;
        let shard =
            self.broker.streams.resolve(&name(stream)).await.unwrap().shard.here().unwrap().clone();
        let append = |number: usize| Append {
            stream: uid,
            producer: None,
            mode: AppendMode::Each,
            expected_end: None,
            dead_letter: None,
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

    /// The group "g" of the stream "s", from its beginning.
    pub(super) async fn ensure_group(&self, patch: GroupPatch) {
        let groups = Groups::of(&self.broker.streams, &name("s")).await.unwrap();
        let ensure = EnsureGroupRequest {
            stream: name("s"),
            group: GroupName::new("g").unwrap(),
            patch,
            start: StartPosition::Earliest,
            mode: EnsureMode::Overwrite,
            if_revision: None,
            allow_destructive: false,
            request: None,
        };
        groups.ensure(ensure).await.unwrap();
    }

    /// Has the stream in the bucket and nowhere else.
    pub(super) async fn seal(&self, stream: &str) {
        let sealed = self.broker.streams.seal(&name(stream), true).await.unwrap();
        assert!(sealed.files_retired > 0, "{sealed:?}");
    }

    pub(super) async fn reader(
        &self,
        stream: &str,
        memory: &Member,
        places: &ClientPlaces,
    ) -> StreamReader {
        let found = self.broker.streams.resolve(&name(stream)).await.unwrap();
        let (places, memory) = (places.clone(), Some(memory.clone()));
        let from = self.broker.streams.sources(found.shard.here().unwrap().clone(), places, memory);
        StreamReader::new(from, found.stream, Offset(0))
    }

    pub(super) fn places(&self) -> ClientPlaces {
        self.broker.streams.places(Some(&self.memory.reader()))
    }

    /// Takes all that is shared but this much.
    pub(super) fn crowd(&self, left: usize) -> Vec<Held> {
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

    pub(super) fn taken(&self) -> usize {
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
pub(super) const SOURCES: [(Source, usize, bool); 3] =
    [(Source::Ring, 64 << 20, false), (Source::Hot, 0, false), (Source::Cold, 0, true)];

pub(super) async fn with(ring_bytes: usize, sealed: bool, sizes: &[usize]) -> Rig {
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
async fn the_last_bytes_of_its_own_are_no_reason_to_read() {
    let sizes = [1_000; 300];
    for (source, ring_bytes, sealed) in SOURCES {
        let rig = with(ring_bytes, sealed, &sizes).await;
        // What is in the bucket is cached from here on.
        read_all(&mut rig.reader("s", &rig.memory.reader(), &rig.places()).await, &sizes).await;
        sleep(PATIENCE).await;
        let (client, crowd) = (rig.memory.reader(), rig.crowd(0));
        let own = client.try_take(client.own_bytes_max() - 1_500).unwrap();
        let mut reader = rig.reader("s", &client, &rig.places()).await;
        let before = rig.pool.jobs.load(Relaxed);
        {
            let mut step = std::pin::pin!(reader.step(false));
            // What is in the ring needs no read.
            let is_ring = source == Source::Ring;
            assert_eq!(timeout(PATIENCE, &mut step).await.is_ok(), is_ring, "{source:?}");
            assert_eq!(rig.pool.jobs.load(Relaxed), before, "{source:?}");
        }
        reader.rewind(Offset(0));
        // When that is its own again it is enough.
        drop(own);
        let told = read_all(&mut reader, &sizes).await;
        assert!(told.source == source && told.steps < 100, "{source:?}: {}", told.steps);
        drop(crowd);
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
    for bytes in [[200_000; 2], [360_000; 2], [600_000; 2], [780_000; 2], [600_000, 1_500_000]] {
        let sizes = bytes.repeat(12);
        let rig = with(0, true, &sizes).await;
        let mut reader = rig.reader("s", &rig.memory.reader(), &rig.places()).await;
        let Told { steps, last, .. } = read_all(&mut reader, &sizes).await;
        assert!(last <= 3, "{bytes:?} bytes: {last} of {steps} steps were not read on from");
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
            let mut from = rig.broker.streams.sources(
                found.shard.here().unwrap().clone(),
                rig.places(),
                memory,
            );
            from.cold = cold.clone();
            StreamReader::new(from, found.stream, Offset(0))
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

/// Polls a future that is waited for later.
pub(super) fn poll_once<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    future.now_or_never()
}
