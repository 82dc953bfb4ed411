//! Subscriptions: where they begin, what they hold, and how they end.

use std::ops::Range;

use futures::FutureExt;
use futures::future::join_all;
use railgun_cold::reader::{ColdPart, ObjectRef};
use railgun_cold::{EncodeSpec, SegmentEncoder, SegmentKind, StreamSlice};
use railgun_core::manifest::{ColdRange, ObjectId};
use railgun_net::{Member, ReadError};
use railgun_proto::WireCode;
use railgun_types::{ErrorCode, Limits, Offset, ShardId, StartPosition};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::reading::{MIB, PATIENCE, Rig, SOURCES, poll_once, with};
use super::*;
use crate::builtin_bug::Planted;
use crate::reader::{ClientPlaces, Step};
use crate::session::{Farewell, QuicStream, SessionContext};
use crate::streams::Resolved;

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
        rig.broker.streams.start_of(found, *start, true, places).await.unwrap().start
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
async fn a_start_by_time_of_what_is_cached_does_not_wait_for_the_bucket() {
    let rig = Rig::new(0).await;
    let (mut found, streams) = (Vec::new(), &rig.broker.streams);
    for (stream, ts) in timed(&rig, 5).await {
        found.push((streams.resolve(&name(&stream)).await.unwrap(), StartPosition::Time(ts)));
    }
    let (places, cached) = (rig.places(), found.split_off(4));
    assert_eq!(starts(&rig, &places, &cached).await, [Offset(1)]);
    rig.hangs.store(true, Relaxed);
    let mut hanging = std::pin::pin!(starts(&rig, &places, &found));
    assert!(timeout(Duration::from_secs(1), &mut hanging).await.is_err());
    assert_eq!(rig.hanging.load(Relaxed), 4, "all places of the client");
    let sought = timeout(Duration::from_secs(1), starts(&rig, &places, &cached)).await;
    assert_eq!(sought.unwrap(), [Offset(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_time_is_sought_behind_a_row_group_that_is_late_with_other_streams() {
    let rig = Rig::new(0).await;
    let (cluster, shard) = (ClusterUid([7; 16]), ShardId(1));
    let spec = EncodeSpec {
        row_group_bytes: 1_500,
        ..EncodeSpec::new(cluster, shard, 1, SegmentKind::Bundle)
    };
    let mut encoder = SegmentEncoder::new(spec);
    let batch = one_record(&[7; 1_000]);
    // The first row group has a record of either stream, and the second one another of the second.
    for (stream, times) in [(1, &[100][..]), (2, &[10, 20])] {
        encoder.begin_stream(StreamUid([stream; 16]), Offset(0), [0; 32]).unwrap();
        for (base, ts) in (0..).map(Offset).zip(times) {
            let ts = Timestamp(*ts);
            let slice = StreamSlice { base, ts, term: 1, batch: &batch, records: 0..1 };
            encoder.push(&slice).unwrap();
        }
    }
    let encoded = encoder.finish().unwrap();
    rig.bucket.put_immutable("bundle", encoded.content.clone()).await.unwrap();
    let part = &encoded.parts[1].part;
    let range = ColdRange {
        base: part.base,
        count: part.count,
        min_ts: part.min_ts,
        max_ts: part.max_ts,
        record_bytes: part.record_bytes,
        object: ObjectId { seal_index: 0, part: 0 },
        first_row_group: part.first_row_group,
        first_row: part.first_row,
    };
    let object = ObjectRef {
        key: "bundle".into(),
        cluster,
        shard,
        bytes: encoded.content.content_length() as u64,
        footer_bytes: encoded.footer_bytes,
    };
    let part = ColdPart { stream: part.stream, range, object };
    rig.publish("s", &[1]).await;
    let found = rig.broker.streams.resolve(&name("s")).await.unwrap();
    let from = rig.broker.streams.sources(found.shard.here().unwrap().clone(), rig.places(), None);
    for (ts, offset) in [(10, 0), (11, 1), (15, 1), (20, 1), (21, 2)] {
        let sought = timeout(PATIENCE, from.seek_time(&part, Timestamp(ts))).await;
        assert_eq!(sought.unwrap().unwrap(), Offset(offset), "{ts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_by_time_ends_with_its_request() {
    let rig = Rig::new(0).await;
    let (stream, ts) = timed(&rig, 1).await.remove(0);
    rig.hangs.store(true, Relaxed);
    let start = Some(v1::subscribe::Start::TimeUs(ts.0));
    let subscribe = v1::Subscribe { stream, start, ..v1::Subscribe::default() };
    let (line, served) = begin(&rig, &rig.memory.reader(), Frame::new(&subscribe)).await;
    while rig.hanging.load(Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(!served.is_finished());
    drop(line);
    timeout(Duration::from_secs(1), served).await.expect("the end").unwrap();
}

/// A subscription from the beginning of "s", whose records take this memory.
async fn subscribe(rig: &Rig, memory: &Member, credit_bytes: u64) -> (FrameWriter, FrameReader) {
    let start = Some(v1::subscribe::Start::Earliest(true));
    let stream = "s".to_owned();
    let subscribe = v1::Subscribe { stream, start, credit_bytes, ..v1::Subscribe::default() };
    let (mut line, _) = begin(rig, memory, Frame::new(&subscribe)).await;
    assert!(line.1.next_of::<v1::Subscribed>().await.unwrap().is_some());
    line
}

/// The same, of all that is there, with credit for that.
async fn subscribe_until_end(rig: &Rig, memory: &Member) -> (FrameWriter, FrameReader) {
    let start = Some(v1::subscribe::Start::Earliest(true));
    let (stream, credit_bytes) = ("s".to_owned(), u64::MAX);
    let until_end = true;
    let subscribe =
        v1::Subscribe { stream, start, credit_bytes, until_end, ..v1::Subscribe::default() };
    let (mut line, _) = begin(rig, memory, Frame::new(&subscribe)).await;
    assert!(line.1.next_of::<v1::Subscribed>().await.unwrap().is_some());
    line
}

/// Begins a stream with this frame, whose records take this memory; how it is served.
pub(super) async fn begin(
    rig: &Rig,
    memory: &Member,
    first: Frame,
) -> ((FrameWriter, FrameReader), JoinHandle<()>) {
    let network = MemoryNetwork::new();
    let endpoint = network.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let (near, far) =
        tokio::join!(network.connect(endpoint.local_addr()), endpoint.accept().map(Option::unwrap));
    let (near, context) = (
        near.unwrap(),
        SessionContext {
            streams: rig.broker.streams.clone(),
            cluster: rig.broker.cluster_admin.clone(),
            farewell: watch::channel(Farewell::default()).1,
            led: crate::leaders::LedWatch::default(),
            auth: crate::auth::Auth::default(),
            limits: Limits::default(),
            node_id: 1,
            server: "test".to_owned(),
            next_session: Arc::clone(&rig.sessions),
            planted: Planted::default(),
        },
    );
    let mut line = near.open().await.unwrap();
    line.0.send(first).await.unwrap();
    let (writer, reader) = far.accept().await.unwrap();
    let stream = QuicStream {
        read_places: context.streams.places(Some(memory)),
        context: Arc::new(context),
        writer,
        reader,
        queueing: Queueing::new(1),
        record_memory: Some(memory.clone()),
        relays: crate::relay::Relays::default(),
        carried: Arc::new(Semaphore::new(1)),
        rights: crate::auth::Rights::Client,
        is_carried: false,
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

/// Takes what comes, with pauses: how many records came before the end, or before the error.
async fn drain(reader: &mut FrameReader, pause: Duration) -> (u64, Result<Frame, ReadError>) {
    let mut next = 0;
    loop {
        match timeout(PATIENCE, reader.next()).await.expect("something comes") {
            Ok(frame) => {
                let frame = frame.expect("an end is told");
                if frame.kind() != FrameKind::Deliver {
                    return (next, Ok(frame));
                }
                let deliver: v1::Deliver = frame.decode().unwrap();
                assert_eq!(deliver.base_offset + u64::from(deliver.skip), next);
                next += u64::from(deliver.count);
            }
            Err(error) => return (next, Err(error)),
        }
        sleep(pause).await;
    }
}

fn reset_by(code: ErrorCode) -> Result<Frame, ReadError> {
    Err(ReadError::Reset { code: Some(WireCode::Known(code)) })
}

async fn within_seconds<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(seconds), future).await.expect("it goes on in time")
}

/// Waits until nothing goes on any more; what is taken then.
async fn settled(rig: &Rig) -> usize {
    sleep(PATIENCE).await;
    rig.taken()
}

#[tokio::test(start_paused = true)]
async fn who_breaks_the_protocol_has_nothing_on_its_way_any_more() {
    for (source, ring_bytes, sealed) in SOURCES {
        let rig = with(ring_bytes, sealed, &[20_000; 200]).await;
        let (mut writer, mut reader) = subscribe(&rig, &rig.memory.reader(), u64::MAX).await;
        assert!(settled(&rig).await >= MIB, "{source:?}");
        writer.send(Frame::new(&v1::ClosePublisher {})).await.unwrap();
        while rig.taken() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let (_, end) = drain(&mut reader, Duration::ZERO).await;
        assert_eq!(end, reset_by(ErrorCode::ProtocolViolation), "{source:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_breaks_the_protocol_with_nothing_on_its_way_is_told_in_words() {
    let rig = with(64 << 20, false, &[20_000; 2]).await;
    let (mut writer, mut reader) = subscribe(&rig, &rig.memory.reader(), u64::MAX).await;
    assert_eq!(settled(&rig).await, 0);
    writer.send(Frame::new(&v1::ClosePublisher {})).await.unwrap();
    let (count, end) = drain(&mut reader, Duration::ZERO).await;
    assert_eq!((count, end.unwrap().kind()), (2, FrameKind::Error));
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_read_is_told_behind_what_was_read() {
    let sizes = [20_000; 40];
    let rig = with(0, true, &sizes).await;
    rig.publish("s", &sizes).await;
    rig.seal("s").await;
    let client = rig.memory.reader();
    let mut first = rig.reader("s", &client, &rig.places()).await;
    assert!(matches!(first.step(false).await.unwrap(), Step::Records(some) if !some.is_empty()));
    drop(first);
    // The first object is cached; the second one cannot be had.
    rig.hangs.store(true, Relaxed);
    let (_writer, mut reader) = subscribe(&rig, &client, u64::MAX).await;
    sleep(PATIENCE).await;
    assert!(settled(&rig).await > 500_000, "what is on its way counts");
    let (count, end) = drain(&mut reader, Duration::ZERO).await;
    let error: WireError = end.unwrap().decode::<v1::Error>().unwrap().into();
    assert_eq!((count, error.code), (40, WireCode::Known(ErrorCode::ColdUnavailable)));
    assert_eq!(rig.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_records_that_are_not_taken_are_held_only_while_nobody_else_wants_their_memory() {
    for (source, ring_bytes, sealed) in SOURCES {
        for is_wanted in [false, true] {
            let rig = with(ring_bytes, sealed, &[20_000; 35]).await;
            let client = rig.memory.reader();
            let (_writer, mut reader) = subscribe_until_end(&rig, &client).await;
            let taken = settled(&rig).await;
            // All of them fit into a step; what more would need is given back.
            assert!((500_000..2 * MIB).contains(&taken), "{source:?}: {taken}");
            if is_wanted {
                drop(within_seconds(9, client.take(client.bytes_max())).await);
            }
            let (count, end) = drain(&mut reader, Duration::ZERO).await;
            if is_wanted {
                assert_eq!(end, reset_by(ErrorCode::QuotaExceeded), "{source:?}");
            } else {
                assert_eq!((count, end.unwrap().kind()), (35, FrameKind::End), "{source:?}");
            }
            assert_eq!(rig.taken(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_something_is_not_in_a_hurry_on_account_of_its_own_client() {
    // Two MiB in twenty seconds.
    let pause = Duration::from_millis(200);
    let rig = with(64 << 20, false, &[20_000; 300]).await;
    let (client, other) = (rig.memory.reader(), rig.memory.reader());
    let (_writer, mut reader) = subscribe_until_end(&rig, &client).await;
    let begin = Instant::now();
    let mut served = 0;
    let others = async {
        loop {
            drop(client.take(client.bytes_max()).await);
            served += 1;
            sleep(pause).await;
        }
    };
    let (count, end) = tokio::select! {
        () = others => unreachable!(),
        drained = drain(&mut reader, pause) => drained,
    };
    assert_eq!((count, end.unwrap().kind()), (300, FrameKind::End));
    let took = begin.elapsed();
    assert!(served > 2 && took > Duration::from_secs(50), "{served}, {took:?}");
    // Who takes nothing is.
    let (_writer, mut reader) = subscribe_until_end(&rig, &client).await;
    assert!(settled(&rig).await > MIB);
    drop(within_seconds(9, client.take(client.bytes_max())).await);
    assert_eq!(drain(&mut reader, pause).await.1, reset_by(ErrorCode::QuotaExceeded));
    // And on account of others it is in any case.
    let (_writer, mut reader) = subscribe_until_end(&rig, &client).await;
    while rig.taken() < MIB {
        sleep(Duration::from_millis(1)).await;
    }
    let _crowd = rig.crowd(0);
    let mut waits = std::pin::pin!(other.take(MIB));
    assert!(poll_once(waits.as_mut()).is_none());
    let (_, end) = within_seconds(9, drain(&mut reader, pause)).await;
    assert_eq!(end, reset_by(ErrorCode::QuotaExceeded));
}

#[tokio::test(start_paused = true)]
async fn who_reads_alone_has_all_the_time_there_is() {
    // What is read ahead waits for what is on its way.
    let rig = with(64 << 20, false, &[5 << 20; 3]).await;
    let client = rig.memory.reader();
    let (_writer, mut reader) = subscribe_until_end(&rig, &client).await;
    assert!(settled(&rig).await > 5 * MIB && client.is_wanted());
    let (count, end) = drain(&mut reader, Duration::ZERO).await;
    assert_eq!((count, end.unwrap().kind()), (3, FrameKind::End));
}
