//! How much of what is published waits, and whose turn it is. The disk stands still meanwhile.

use railgun_types::limits::PUBLISH_ITEMS;
use tokio::time::timeout;

use super::*;

/// Bytes of one batch: two fit into a log entry.
const VALUE_BYTES: usize = 400_000;
/// More than a stream of the in-memory network and its reader take when nobody asks for a frame.
const LARGE_BYTES: usize = 1_000_000;
/// For so long a disk does nothing when it stands still.
const STILL: Duration = Duration::from_secs(5);
/// Long enough for all that happens without a disk.
const A_WHILE: Duration = Duration::from_secs(1);
const ALIAS: u32 = 1;
/// As a publisher's results may have, and a shard's queue.
const QUEUE_BYTES: usize = 32 << 20;

/// A node with the stream "s", whose disk can be made to stand still.
struct Node {
    network: MemoryNetwork,
    broker: Broker,
    still: Arc<AtomicBool>,
}

impl Node {
    async fn start() -> Self {
        let (network, still) = (MemoryNetwork::new(), Arc::<AtomicBool>::default());
        let stands = Arc::clone(&still);
        let pace = move || if stands.load(Relaxed) { STILL } else { Duration::from_micros(100) };
        let broker = start_on(&network, Arc::<Pool>::default(), Box::new(pace)).await;
        broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
        Self { network, broker, still }
    }

    /// Nothing is written any more, for [`STILL`] at least.
    async fn stand_still(&self) {
        // What it has begun is done by then.
        sleep(A_WHILE).await;
        self.still.store(true, Relaxed);
    }

    /// What was begun is written soon.
    fn go_on(&self) {
        self.still.store(false, Relaxed);
    }

    async fn enter(&self) -> (Connection, (FrameWriter, FrameReader)) {
        enter(&self.network, &self.broker).await
    }
}

/// A publisher that has bound the stream.
pub(super) async fn open(connection: &Connection) -> (FrameWriter, FrameReader) {
    let (mut writer, mut reader) = connection.open().await.unwrap();
    writer.send(Frame::new(&v1::OpenPublisher::default())).await.unwrap();
    assert!(reader.next_of::<v1::PublisherOpened>().await.unwrap().is_some());
    let bind = v1::BindStream { alias: ALIAS, stream: "s".to_owned(), ..Default::default() };
    writer.send(Frame::new(&bind)).await.unwrap();
    let bound = reader.next_of::<v1::StreamBound>().await.unwrap().unwrap();
    assert_eq!(bound.error, None);
    (writer, reader)
}

pub(super) fn frame(value: &[u8]) -> Frame {
    let batch = one_record(value);
    let batch_bytes = batch.len() as u32;
    let item = v1::PublishItem { alias: ALIAS, batch_bytes, ..Default::default() };
    Frame::with_blob(&v1::Publish { items: vec![item] }, vec![batch.as_bytes().clone()])
}

/// Sends what the node reads at once.
async fn is_read(writer: &mut FrameWriter, frame: Frame) {
    timeout(A_WHILE, writer.send(frame)).await.expect("the frame is read").unwrap();
}

/// Sends what the node reads no more.
async fn is_not_read(writer: &mut FrameWriter, frame: Frame) {
    let begin = Instant::now();
    let sent = timeout(A_WHILE, writer.send(frame)).await;
    assert!(sent.is_err(), "the frame was read: {sent:?} after {:?}", begin.elapsed());
}

pub(super) async fn results(reader: &mut FrameReader) -> Vec<v1::ItemResult> {
    reader.next_of::<v1::PublishResult>().await.unwrap().unwrap().items
}

#[tokio::test(start_paused = true)]
async fn the_ninth_unanswered_frame_is_not_read() {
    let node = Node::start().await;
    let (connection, _control) = node.enter().await;
    let (mut writer, mut reader) = open(&connection).await;
    node.stand_still().await;
    for _ in 0..8 {
        is_read(&mut writer, frame(&[7; LARGE_BYTES])).await;
    }
    is_not_read(&mut writer, frame(&[7; LARGE_BYTES])).await;
    node.go_on();
    writer.flush().await.unwrap();
    for offset in 0..9 {
        let result = results(&mut reader).await.remove(0);
        assert_eq!((result.error, result.base_offset), (None, offset));
    }
}

#[tokio::test(start_paused = true)]
async fn behind_many_unanswered_items_no_frame_is_read_and_each_is_told_why_it_was_refused() {
    let node = Node::start().await;
    let (connection, _control) = node.enter().await;
    let (mut writer, mut reader) = open(&connection).await;
    node.stand_still().await;
    // No result may go out before that of the first frame.
    is_read(&mut writer, frame(b"x")).await;
    let unbound = v1::PublishItem { alias: 9, ..Default::default() };
    let mut items = vec![unbound; PUBLISH_ITEMS / 2];
    items[0].batch_bytes = LARGE_BYTES as u32;
    let refused = Frame::with_blob(&v1::Publish { items }, vec![vec![7; LARGE_BYTES].into()]);
    for _ in 0..2 {
        is_read(&mut writer, refused.clone()).await;
    }
    is_not_read(&mut writer, refused).await;
    node.go_on();
    let read = async {
        assert_eq!(results(&mut reader).await[0].error, None);
        for _ in 0..3 {
            let results = results(&mut reader).await;
            assert_eq!(results.len(), PUBLISH_ITEMS / 2);
            for result in results {
                let error = WireError::from(result.error.unwrap());
                assert_eq!(error.code, ErrorCode::ProtocolViolation);
                assert_eq!(error.message, "no stream is bound to alias 9");
            }
        }
    };
    let (sent, ()) = tokio::join!(writer.flush(), read);
    sent.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_given_up_holds_up_no_other_and_answers_keep_their_order() {
    let node = Node::start().await;
    node.broker.streams.ensure(wish("t", 1 << 20, EnsureMode::Warn)).await.unwrap();
    let (connection, _control) = node.enter().await;
    let producer_id: bytes::Bytes = vec![1; 16].into();
    let open = v1::OpenPublisher { producer_id, ..v1::OpenPublisher::default() };
    let (mut writer, mut reader) = connection.open().await.unwrap();
    writer.send(Frame::new(&open)).await.unwrap();
    assert!(reader.next_of::<v1::PublisherOpened>().await.unwrap().is_some());
    let bind = |alias, stream: &str| v1::BindStream {
        alias,
        stream: stream.to_owned(),
        ..Default::default()
    };
    // Two aliases of one stream, and one of another.
    for bind in [bind(1, "s"), bind(2, "s"), bind(3, "t")] {
        writer.send(Frame::new(&bind)).await.unwrap();
        let bound = reader.next_of::<v1::StreamBound>().await.unwrap().unwrap();
        assert_eq!((bound.alias, bound.error), (bind.alias, None));
    }
    let frame = |alias, sequence, value: &[u8]| {
        let batch = one_record(value);
        let batch_bytes = batch.len() as u32;
        let item = v1::PublishItem { alias, batch_bytes, sequence, ..Default::default() };
        Frame::with_blob(&v1::Publish { items: vec![item] }, vec![batch.as_bytes().clone()])
    };
    node.stand_still().await;
    is_read(&mut writer, frame(1, 0, b"x")).await;
    let unbind = v1::UnbindStreams { aliases: vec![1], forget: true };
    is_read(&mut writer, Frame::new(&unbind)).await;
    // Others go on while nothing is written.
    is_read(&mut writer, frame(3, 0, &[7; LARGE_BYTES])).await;
    is_read(&mut writer, frame(3, 1, &[7; LARGE_BYTES])).await;
    is_read(&mut writer, Frame::new(&bind(4, "t"))).await;
    is_read(&mut writer, frame(1, 1, b"to nowhere")).await;
    // The sequence begins again, by whatever alias, and nothing is taken for a repetition.
    is_read(&mut writer, frame(2, 0, b"y")).await;
    node.go_on();
    let published = async |reader: &mut FrameReader| {
        let result = results(reader).await.remove(0);
        result.error.map_or(Ok(result.base_offset), |error| Err(WireError::from(error).code))
    };
    assert_eq!(published(&mut reader).await, Ok(0));
    let unbound = reader.next_of::<v1::StreamsUnbound>().await.unwrap().unwrap();
    assert_eq!(unbound.error, None);
    assert_eq!(published(&mut reader).await, Ok(0));
    assert_eq!(published(&mut reader).await, Ok(1));
    let bound = reader.next_of::<v1::StreamBound>().await.unwrap().unwrap();
    assert_eq!((bound.alias, bound.error), (4, None));
    assert_eq!(published(&mut reader).await, Err(ErrorCode::ProtocolViolation.into()));
    assert_eq!(published(&mut reader).await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn who_had_a_stream_is_bound_to_no_other_of_its_name() {
    let node = Node::start().await;
    let (connection, _control) = node.enter().await;
    let (mut writer, mut reader) = connection.open().await.unwrap();
    let producer_id: bytes::Bytes = vec![1; 16].into();
    let open = v1::OpenPublisher { producer_id, ..v1::OpenPublisher::default() };
    writer.send(Frame::new(&open)).await.unwrap();
    assert!(reader.next_of::<v1::PublisherOpened>().await.unwrap().is_some());
    let mut bound = async |stream_uid: &[u8]| {
        let stream_uid = bytes::Bytes::copy_from_slice(stream_uid);
        let bind = v1::BindStream { alias: 1, stream: "s".to_owned(), stream_uid };
        writer.send(Frame::new(&bind)).await.unwrap();
        let bound = reader.next_of::<v1::StreamBound>().await.unwrap().unwrap();
        match bound.error {
            None => Ok(bound.stream_uid),
            Some(error) => Err(WireError::from(error)),
        }
    };
    let first = bound(&[]).await.unwrap();
    assert_eq!(bound(&first).await.as_ref(), Ok(&first));
    assert_eq!(bound(&first[1..]).await.unwrap_err().code, ErrorCode::ProtocolViolation);
    node.broker.streams.delete(&name("s")).await.unwrap();
    node.broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    let refused = bound(&first).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::StreamDeleted);
    assert_eq!(refused.retry, Retry::Never);
    assert_ne!(bound(&[]).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_shard_is_bounded_in_bytes_and_half_of_it_for_each_session() {
    let node = Node::start().await;
    let found = node.broker.streams.resolve(&name("s")).await.unwrap();
    let (stream, mode) = (found.stream, AppendMode::Each);
    let batch = one_record(&[7; VALUE_BYTES]);
    let append =
        Append { stream, producer: None, mode, expected_end: None, dead_letter: None, batch };
    let queue = async |queueing: &Queueing| {
        timeout(A_WHILE, found.shard.here().unwrap().append(queueing, vec![append.clone()])).await
    };
    node.stand_still().await;
    let mut waiting = Vec::new();
    let greedy = Queueing::new(u64::MAX);
    while let Ok(queued) = queue(&greedy).await {
        waiting.push(queued.unwrap());
        assert!(waiting.len() * VALUE_BYTES <= QUEUE_BYTES / 2, "{}", waiting.len());
    }
    assert!(waiting.len() * VALUE_BYTES > QUEUE_BYTES / 2 - 2 * VALUE_BYTES);
    while let Ok(queued) = queue(&Queueing::new(waiting.len() as u64)).await {
        waiting.push(queued.unwrap());
        assert!(waiting.len() * VALUE_BYTES <= QUEUE_BYTES, "{}", waiting.len());
    }
    assert!(waiting.len() * VALUE_BYTES > QUEUE_BYTES - 2 * VALUE_BYTES);
    // Whatever ends makes room, in both.
    node.go_on();
    for waits in waiting {
        waits.await.unwrap().ok();
    }
    assert!(queue(&greedy).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_room_holds_back_no_result_of_an_earlier_frame() {
    let node = Node::start().await;
    let (connection, _control) = node.enter().await;
    let (mut writer, mut reader) = open(&connection).await;
    let found = node.broker.streams.resolve(&name("s")).await.unwrap();
    let (stream, mode) = (found.stream, AppendMode::Each);
    let batch = one_record(&[7; VALUE_BYTES]);
    let append =
        Append { stream, producer: None, mode, expected_end: None, dead_letter: None, batch };
    let shard = found.shard.here().unwrap();
    let queue = |session: u64| {
        let (shard, append) = (shard.clone(), append.clone());
        async move { shard.append(&Queueing::new(session), vec![append]).await.is_ok() }
    };
    node.stand_still().await;
    is_read(&mut writer, frame(b"first")).await;
    sleep(Duration::from_millis(10)).await;
    let mut session = 1_000;
    while timeout(Duration::from_millis(10), queue(session)).await.is_ok() {
        session += 1;
    }
    // They have their turn at the room before the next frame.
    let others: Vec<_> = (0..20).map(|other| tokio::spawn(queue(2_000 + other))).collect();
    sleep(Duration::from_millis(10)).await;
    is_read(&mut writer, frame(b"second")).await;
    sleep(Duration::from_millis(10)).await;
    node.go_on();
    assert_eq!(results(&mut reader).await.remove(0).error, None);
    let last = others.last().expect("there are some");
    assert!(!last.is_finished(), "the result was held back until there was room");
    assert_eq!(results(&mut reader).await.remove(0).error, None);
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_one_turn_however_many_publishers_it_opens() {
    let node = Node::start().await;
    let (greedy, _control) = node.enter().await;
    let mut lines = Vec::new();
    for _ in 0..100 {
        lines.push(open(&greedy).await);
    }
    let (neighbour, _control) = node.enter().await;
    let (mut writer, mut reader) = open(&neighbour).await;
    node.stand_still().await;
    // More than a shard's queue takes.
    for (writer, _) in &mut lines {
        is_read(writer, frame(&[7; VALUE_BYTES])).await;
    }
    is_read(&mut writer, frame(b"x")).await;
    sleep(A_WHILE).await;
    node.go_on();
    let result = results(&mut reader).await.remove(0);
    assert_eq!(result.error, None);
    // Eight entries of two batches were on their way already; then it is one here, one there.
    assert!(result.base_offset <= 2 * 8 + 2, "{} were first", result.base_offset);
}
