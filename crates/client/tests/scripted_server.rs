//! The SDK against a server that does what each test says, over the in-memory network, on paused
//! time: lost connections at the moments that matter, and what is sent again after them. Several
//! servers of one cluster are in [`cluster`], and those that name leaders in [`leaders`].

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use bytes::Bytes;
use railgun_client::{
    AdminError, Client, ClientOptions, ConnectError, Dial, Dialling, ErrorCode, Event, Message,
    MultiPublisher, OpenError, PublishError, Removed, RemovedReason, SendError, StartPosition,
    StreamName, SubscribeError, Target, TransportError, WireError,
};
use railgun_net::memory::MemoryNetwork;
use railgun_net::{Connection, Endpoint, FrameReader, FrameWriter};
use railgun_proto::{Frame, FrameKind, v1};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{Offset, Timestamp};

#[path = "scripted_server/cluster.rs"]
mod cluster;
#[path = "scripted_server/leaders.rs"]
mod leaders;

const UID: [u8; 16] = [7; 16];
/// Of every stream.
const SHARD: u32 = 3;

/// Reaches servers by name. One that is dark takes in whatever is sent, and nothing is heard of it.
#[derive(Debug)]
struct MemoryDial {
    network: MemoryNetwork,
    servers: Vec<(&'static str, SocketAddr)>,
    dark: Arc<[AtomicBool]>,
    packets: AtomicU64,
    /// Attempts to connect.
    dials: Arc<AtomicU64>,
}

impl MemoryDial {
    fn is_dark(&self, addr: SocketAddr) -> bool {
        let place = self.servers.iter().position(|(_, server)| *server == addr);
        self.dark[place.unwrap()].load(Relaxed)
    }
}

impl Dial for MemoryDial {
    fn dial<'a>(&'a self, target: &'a Target) -> Dialling<'a> {
        self.dials.fetch_add(1, Relaxed);
        Box::pin(async {
            let named = |(name, _): &&(&str, _)| *name == target.server;
            let (_, addr) = self.servers.iter().find(named).unwrap();
            if self.is_dark(*addr) {
                let timeout = Duration::from_secs(3);
                tokio::time::sleep(timeout).await;
                return Err(TransportError::Timeout { addr: *addr, timeout }.into());
            }
            Ok(self.network.connect(*addr).await?)
        })
    }

    fn heard(&self, connection: &Connection) -> Option<u64> {
        // One that is there acknowledges signs of life, if nothing else.
        let sent = u64::from(!self.is_dark(connection.remote_addr()));
        Some(self.packets.fetch_add(sent, Relaxed) + sent)
    }
}

/// A network with one server on it.
struct Server {
    network: MemoryNetwork,
    endpoint: Endpoint,
}

/// A connection that was welcomed.
struct Session {
    connection: Connection,
    control: (FrameWriter, FrameReader),
}

/// A QUIC stream of a session, from the server's side.
struct Stream {
    writer: FrameWriter,
    reader: FrameReader,
}

impl Server {
    fn new() -> Self {
        let network = MemoryNetwork::new();
        let endpoint = network.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { network, endpoint }
    }

    fn options() -> ClientOptions {
        let mut options = ClientOptions::new("memory:1");
        options.seed = Some([1; 16]);
        options.give_up_after = Duration::from_secs(5);
        options
    }

    async fn connect(&self) -> (Client, Session) {
        let dial = MemoryDial {
            network: self.network.clone(),
            servers: vec![("memory:1", self.endpoint.local_addr())],
            dark: Arc::new([AtomicBool::new(false)]),
            packets: AtomicU64::new(0),
            dials: Arc::default(),
        };
        let (client, session) =
            tokio::join!(Client::connect_over(Arc::new(dial), Self::options()), self.accept());
        (client.unwrap(), session)
    }

    async fn accept(&self) -> Session {
        self.accept_as([9; 16]).await
    }

    async fn accept_as(&self, cluster: [u8; 16]) -> Session {
        Session::welcome(self.endpoint.accept().await.unwrap(), cluster, 1).await
    }

    fn cut(&self) {
        self.network.cut(self.endpoint.local_addr());
    }
}

impl Session {
    async fn welcome(connection: Connection, cluster: [u8; 16], node_id: u32) -> Self {
        let (mut writer, mut reader) = connection.accept().await.unwrap();
        let hello: v1::Hello = reader.next().await.unwrap().unwrap().decode().unwrap();
        assert_eq!((hello.version_min, hello.version_max), (1, 1));
        let welcome = v1::Welcome {
            version: 1,
            cluster_uid: Bytes::copy_from_slice(&cluster),
            unanswered_max: 8,
            node_id,
            ..v1::Welcome::default()
        };
        writer.send(Frame::new(&welcome)).await.unwrap();
        Self { connection, control: (writer, reader) }
    }

    async fn stream(&self) -> Stream {
        let (writer, reader) = self.connection.accept().await.unwrap();
        Stream { writer, reader }
    }

    /// Answers the next administrative call.
    async fn answers(&self, answer: v1::admin_response::Answer) {
        let mut stream = self.stream().await;
        let request: v1::AdminRequest = stream.receive().await;
        stream.send(&v1::AdminResponse { id: request.id, answer: Some(answer) }).await;
    }

    /// A publisher that was opened and bound to one stream; its producer id.
    async fn publisher(&self) -> (Stream, Bytes) {
        let mut stream = self.stream().await;
        let open: v1::OpenPublisher = stream.receive().await;
        stream.send(&v1::PublisherOpened { credit_bytes: 64 << 20 }).await;
        stream.bind(UID).await;
        (stream, open.producer_id)
    }
}

impl Stream {
    async fn receive<M: railgun_proto::Message>(&mut self) -> M {
        self.reader.next().await.unwrap().unwrap().decode().unwrap()
    }

    async fn send<M: railgun_proto::Message>(&mut self, message: &M) {
        self.writer.send(Frame::new(message)).await.unwrap();
    }

    async fn bind(&mut self, uid: [u8; 16]) {
        let bind: v1::BindStream = self.receive().await;
        let bound = v1::StreamBound {
            alias: bind.alias,
            stream_uid: Bytes::copy_from_slice(&uid),
            message_bytes_max: 1 << 20,
            error: None,
            shard: SHARD,
        };
        self.send(&bound).await;
    }

    /// The next Publish of one batch: its sequence and values.
    async fn published(&mut self) -> (u64, Vec<String>) {
        let frame = self.reader.next().await.unwrap().unwrap();
        let publish: v1::Publish = frame.decode().unwrap();
        assert_eq!(publish.items.len(), 1);
        let batch = RecordBatch::verify(frame.blob()).unwrap();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let values = batch.records().map(|record| text(record.content().unwrap().value));
        (publish.items[0].sequence, values.collect())
    }

    /// Refuses the batches of as many frames, for this reason each.
    async fn refuse<const N: usize>(&mut self, codes: [ErrorCode; N]) {
        for code in codes {
            let item = v1::ItemResult { error: Some(error(code)), ..v1::ItemResult::default() };
            self.send(&v1::PublishResult { items: vec![item] }).await;
        }
    }

    async fn answer(&mut self, base_offset: u64, published: u32) {
        let item = v1::ItemResult { base_offset, published, ..v1::ItemResult::default() };
        self.send(&v1::PublishResult { items: vec![item] }).await;
    }

    async fn deliver(&mut self, base_offset: u64, values: &[&str]) -> usize {
        let mut builder = BatchBuilder::new(1 << 20);
        for value in values {
            let draft = RecordDraft { value: value.as_bytes(), ..RecordDraft::default() };
            builder.push(&draft).unwrap();
        }
        let parts = builder.finish();
        let len = parts.len();
        let (skip, count) = (0, values.len() as u32);
        let deliver = v1::Deliver { base_offset, skip, count, ..v1::Deliver::default() };
        self.writer.send(Frame::with_blob(&deliver, vec![parts.head, parts.body])).await.unwrap();
        len
    }
}

fn orders() -> StreamName {
    StreamName::new("orders").unwrap()
}

fn error(code: ErrorCode) -> v1::Error {
    WireError::new(code, "because").into()
}

#[tokio::test(start_paused = true)]
async fn what_was_not_answered_is_sent_again_under_the_same_producer_and_sequence() {
    // PQ-1: the server appended both, and the connection died before it could say so.
    let server = Server::new();
    let (client, session) = server.connect().await;
    let opening = client.publisher(orders()).open();
    let (publisher, (mut stream, producer)) = tokio::join!(opening, session.publisher());
    let publisher = publisher.unwrap();
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(stream.published().await, (0, vec!["a".to_owned()]));
    let b = publisher.send(Message::new("b")).await.unwrap();
    assert_eq!(stream.published().await, (1, vec!["b".to_owned()]));
    server.cut();

    let session = server.accept().await;
    let (mut stream, again) = session.publisher().await;
    assert_eq!(again, producer);
    assert_eq!(stream.published().await, (0, vec!["a".to_owned()]));
    stream.answer(10, 1).await;
    assert_eq!(stream.published().await, (1, vec!["b".to_owned()]));
    stream.answer(11, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(10));
    assert_eq!(b.await.unwrap().offset, Offset(11));
    assert_eq!(publisher.progress().published, 2);

    // The server is not told to forget the producer: what it got first may not be in its log yet.
    let closing = tokio::spawn(publisher.close());
    assert!(stream.reader.next().await.unwrap().is_none());
    drop(stream);
    closing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_repeated_nothing_has_its_producer_forgotten() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let opening = client.publisher(orders()).open();
    let (publisher, (mut stream, _)) = tokio::join!(opening, session.publisher());
    let publisher = publisher.unwrap();
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(stream.published().await, (0, vec!["a".to_owned()]));
    stream.answer(10, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(10));
    let closing = tokio::spawn(publisher.close());
    let _: v1::ClosePublisher = stream.receive().await;
    drop(stream);
    closing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_away_leaves_the_sent_unknown_and_the_unsent_not_sent() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let opening = client.publisher(orders()).max_in_flight(1).open();
    let (publisher, (mut stream, _)) = tokio::join!(opening, session.publisher());
    let publisher = publisher.unwrap();
    let sent = publisher.send(Message::new("sent")).await.unwrap();
    stream.published().await;
    let waiting = publisher.send(Message::new("waiting")).await.unwrap();
    server.endpoint.close(None, "");
    drop((stream, session));
    assert!(matches!(sent.await, Err(PublishError::Unknown { .. })));
    assert!(matches!(waiting.await, Err(PublishError::NotSent { .. })));
    let next = publisher.send(Message::new("next")).await;
    assert!(matches!(next, Err(SendError::OrderBroken { .. })));
    assert!(publisher.resume().await.is_some());
    assert!(publisher.send(Message::new("next")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_producer_with_an_unknown_outcome_is_left_but_not_released() {
    // PQ-1: a copy of the message may still be on its way to the log. A server that was told to
    // forget the producer would append it beside one that it has appended already.
    let server = Server::new();
    let (client, session) = server.connect().await;
    let opening = client.publisher(orders()).open();
    let (publisher, (mut stream, first)) = tokio::join!(opening, session.publisher());
    let publisher = publisher.unwrap();
    let lost = publisher.send(Message::new("lost")).await.unwrap();
    stream.published().await;
    server.cut();
    let session = server.accept().await;
    let (mut stream, again) = session.publisher().await;
    assert_eq!(again, first);
    stream.published().await;
    let refusal = v1::ItemResult {
        error: Some(error(ErrorCode::ExpectedOffsetMismatch)),
        ..v1::ItemResult::default()
    };
    stream.send(&v1::PublishResult { items: vec![refusal] }).await;
    assert!(matches!(lost.await, Err(PublishError::Unknown { .. })));

    // The old stream ends without a word; the new one has another producer.
    assert!(stream.reader.next().await.unwrap().is_none());
    let (mut stream, second) = session.publisher().await;
    assert_ne!(second, first);
    assert!(publisher.resume().await.is_some());
    let next = publisher.send(Message::new("next")).await.unwrap();
    assert_eq!(stream.published().await, (0, vec!["next".to_owned()]));
    stream.answer(0, 1).await;
    assert_eq!(next.await.unwrap().offset, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_left_and_its_messages_end() {
    // PS-3: the connection lives all the time.
    let server = Server::new();
    let (client, session) = server.connect().await;
    let opening = client.publisher(orders()).open();
    let (publisher, (mut stream, first)) = tokio::join!(opening, session.publisher());
    let publisher = publisher.unwrap();
    let started = tokio::time::Instant::now();
    // More than the server takes in, so that the client is stuck in sending too.
    let mut tickets = Vec::new();
    for _ in 0..8 {
        tickets.push(publisher.send(Message::new(vec![b'x'; 1_000_000])).await.unwrap());
    }
    stream.published().await;
    for (index, ticket) in tickets.into_iter().enumerate() {
        let ended = tokio::time::timeout(Duration::from_secs(60), ticket).await.unwrap();
        assert!(matches!(ended, Err(PublishError::Unknown { .. })), "{index}: {ended:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());

    // The same connection, another stream and producer on it.
    let (mut stream, second) = session.publisher().await;
    assert_ne!(second, first);
    assert!(publisher.resume().await.is_some());
    let next = publisher.send(Message::new("next")).await.unwrap();
    assert_eq!(stream.published().await, (0, vec!["next".to_owned()]));
    stream.answer(0, 1).await;
    assert_eq!(next.await.unwrap().offset, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_never_opened_or_never_bound_fails_to_open() {
    for opened_by_server in [false, true] {
        let server = Server::new();
        let (client, session) = server.connect().await;
        let started = tokio::time::Instant::now();
        let serve = async {
            let mut streams = Vec::new();
            loop {
                let mut stream = session.stream().await;
                if opened_by_server {
                    let _: v1::OpenPublisher = stream.receive().await;
                    stream.send(&v1::PublisherOpened { credit_bytes: 1 << 20 }).await;
                }
                streams.push(stream);
            }
        };
        let opened = tokio::select! {
            opened = client.publisher(orders()).open() => opened,
            () = serve => unreachable!("serves for ever"),
            () = tokio::time::sleep(Duration::from_secs(12)) => panic!("still opening"),
        };
        assert!(matches!(opened, Err(OpenError::Unreachable { .. })), "{opened:?}");
        assert!(started.elapsed() >= Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_flushes_its_own_stream_and_a_multi_publisher_all() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let multi = client.multi_publisher().open();
    let serve = async {
        let mut stream = session.stream().await;
        let _: v1::OpenPublisher = stream.receive().await;
        stream.send(&v1::PublisherOpened { credit_bytes: 1 << 20 }).await;
        stream.bind(UID).await;
        stream.bind([8; 16]).await;
        stream
    };
    let bind = async {
        let bills = multi.bind(StreamName::new("bills").unwrap()).await.unwrap();
        (multi.bind(orders()).await.unwrap(), bills)
    };
    let (mut stream, (orders, bills)) = tokio::join!(serve, bind);
    let patience = Duration::from_secs(1);
    drop(orders.send(Message::new("a")).await.unwrap());
    stream.published().await;
    drop(bills.send(Message::new("b")).await.unwrap());
    stream.published().await;
    tokio::time::timeout(patience, orders.flush()).await.unwrap_err();
    stream.answer(0, 1).await;
    tokio::time::timeout(patience, orders.flush()).await.unwrap().unwrap();
    tokio::time::timeout(patience, bills.flush()).await.unwrap_err();
    tokio::time::timeout(patience, multi.flush()).await.unwrap_err();
    stream.answer(0, 1).await;
    tokio::time::timeout(patience, multi.flush()).await.unwrap();
    bills.flush().await.unwrap();
}

/// A publisher of many streams that the server has opened.
async fn multi_publisher(client: &Client, session: &Session) -> (MultiPublisher, Stream) {
    let multi = client.multi_publisher().open();
    let mut stream = session.stream().await;
    let _: v1::OpenPublisher = stream.receive().await;
    stream.send(&v1::PublisherOpened { credit_bytes: 1 << 20 }).await;
    (multi, stream)
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_handle_is_dropped_is_given_up_when_all_of_it_is_answered() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let (multi, mut stream) = multi_publisher(&client, &session).await;
    let (orders_handle, ()) = tokio::join!(multi.bind(orders()), stream.bind(UID));
    let orders_handle = orders_handle.unwrap();
    let a = orders_handle.send(Message::new("a")).await.unwrap();
    assert_eq!(stream.published().await, (0, vec!["a".to_owned()]));
    let b = orders_handle.send(Message::new("b")).await.unwrap();
    drop(orders_handle);
    assert_eq!(stream.published().await, (1, vec!["b".to_owned()]));
    stream.answer(0, 1).await;
    stream.answer(1, 1).await;
    let unbind: v1::UnbindStreams = stream.receive().await;
    assert_eq!((unbind.aliases, unbind.forget), (vec![0], true));
    assert_eq!(a.await.unwrap().offset, Offset(0));
    assert_eq!(b.await.unwrap().offset, Offset(1));

    // Bound again meanwhile, it waits for the answer, and begins anew.
    let serve = async {
        stream.send(&v1::StreamsUnbound::default()).await;
        stream.bind(UID).await;
    };
    let (again, ()) = tokio::join!(multi.bind(orders()), serve);
    let c = again.unwrap().send(Message::new("c")).await.unwrap();
    assert_eq!(stream.published().await, (0, vec!["c".to_owned()]));
    stream.answer(2, 1).await;
    assert_eq!(c.await.unwrap().offset, Offset(2));
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_binds_only_streams_that_somebody_holds() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let (multi, mut stream) = multi_publisher(&client, &session).await;
    let kept = async {
        drop(multi.bind(StreamName::new("bills").unwrap()).await.unwrap());
        multi.bind(orders()).await.unwrap()
    };
    let serve = async {
        stream.bind([8; 16]).await;
        stream.bind(UID).await;
        let unbind: v1::UnbindStreams = stream.receive().await;
        assert_eq!((unbind.aliases, unbind.forget), (vec![0], false));
        // It is never answered.
    };
    let (kept, ()) = tokio::join!(kept, serve);
    server.cut();
    let session = server.accept().await;
    let mut stream = session.stream().await;
    let _: v1::OpenPublisher = stream.receive().await;
    stream.send(&v1::PublisherOpened { credit_bytes: 1 << 20 }).await;
    stream.bind(UID).await;
    let ticket = kept.send(Message::new("x")).await.unwrap();
    assert_eq!(stream.published().await, (0, vec!["x".to_owned()]));
    stream.answer(0, 1).await;
    assert_eq!(ticket.await.unwrap().offset, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_nobody_waits_for_any_more_is_given_up() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let (multi, mut stream) = multi_publisher(&client, &session).await;
    let bind: v1::BindStream = tokio::select! {
        bound = multi.bind(orders()) => panic!("{bound:?}"),
        bind = stream.receive() => bind,
    };
    let alias = bind.alias;
    let bound = v1::StreamBound { alias, stream_uid: UID.to_vec().into(), ..Default::default() };
    stream.send(&bound).await;
    let unbind: v1::UnbindStreams = stream.receive().await;
    assert_eq!((unbind.aliases, unbind.forget), (vec![alias], false));
    multi.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_absent_stream_is_told_when_the_publisher_opens() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let serve = async {
        let mut stream = session.stream().await;
        let _: v1::OpenPublisher = stream.receive().await;
        stream.send(&v1::PublisherOpened { credit_bytes: 1 << 20 }).await;
        let bind: v1::BindStream = stream.receive().await;
        let alias = bind.alias;
        let refusal = Some(error(ErrorCode::StreamNotFound));
        stream.send(&v1::StreamBound { alias, error: refusal, ..Default::default() }).await;
        stream
    };
    let (opened, _stream) = tokio::join!(client.publisher(orders()).open(), serve);
    let Err(OpenError::Refused { error, .. }) = opened else { panic!("{opened:?}") };
    assert_eq!(error.code, ErrorCode::StreamNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_waits_for_room_and_keeps_within_its_buffer() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let opening = client.publisher(orders()).buffer_bytes(1000).open();
    let (publisher, (mut stream, _)) = tokio::join!(opening, session.publisher());
    let publisher = publisher.unwrap();
    let message = || Message::new(vec![b'x'; 500]);
    let first = publisher.send(message()).await.unwrap();
    assert!(matches!(publisher.try_send(&message()), Err(SendError::Full)));
    let waiting = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.send(message()).await.unwrap().await }
    });
    stream.published().await;
    stream.answer(0, 1).await;
    first.await.unwrap();
    assert_eq!(stream.published().await.0, 1);
    stream.answer(1, 1).await;
    assert_eq!(waiting.await.unwrap().unwrap().offset, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_goes_on_at_the_next_offset_and_its_end_is_decided_once() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let opening = client.subscribe(orders()).start(StartPosition::Earliest).until_end().open();
    let serve = async {
        let mut stream = session.stream().await;
        let request: v1::Subscribe = stream.receive().await;
        assert_eq!(request.start, Some(v1::subscribe::Start::Earliest(true)));
        assert!(request.until_end);
        stream.send(&subscribed(UID, 3, 3, 8)).await;
        stream.deliver(3, &["three", "four"]).await;
        stream
    };
    let (subscription, _stream) = tokio::join!(opening, serve);
    let mut subscription = subscription.unwrap();
    assert_eq!(subscription.bounds_at_open(), (Offset(3), Offset(8)));
    assert_eq!(next(&mut subscription).await, "3:three");
    assert_eq!(next(&mut subscription).await, "4:four");
    server.cut();

    let serve = async {
        let session = server.accept().await;
        let mut stream = session.stream().await;
        let request: v1::Subscribe = stream.receive().await;
        assert_eq!(request.start, Some(v1::subscribe::Start::Offset(5)));
        assert_eq!((request.until_end, request.until_offset), (false, Some(8)));
        // Retention has passed by meanwhile.
        stream.send(&subscribed(UID, 6, 6, 90)).await;
        stream.deliver(6, &["six", "seven"]).await;
        stream.send(&v1::End { next_offset: 8 }).await;
        (session, stream)
    };
    let read = async {
        let gone = subscription.next().await.unwrap().unwrap();
        let reason = RemovedReason::Unknown;
        assert_eq!(gone, Event::Removed(Removed { from: Offset(5), to: Offset(6), reason }));
        assert_eq!(next(&mut subscription).await, "6:six");
        assert_eq!(next(&mut subscription).await, "7:seven");
        assert_eq!(subscription.next().await.unwrap(), None);
        assert_eq!(subscription.next().await.unwrap(), None);
    };
    tokio::join!(serve, read);
}

async fn next(subscription: &mut railgun_client::Subscription) -> String {
    match subscription.next().await.unwrap() {
        Some(Event::Data(record)) => {
            format!("{}:{}", record.offset, String::from_utf8_lossy(&record.value))
        }
        other => panic!("{other:?}"),
    }
}

fn subscribed(uid: [u8; 16], resumed_at: u64, head: u64, next_offset: u64) -> v1::Subscribed {
    let stream_uid = Bytes::copy_from_slice(&uid);
    v1::Subscribed { stream_uid, resumed_at, head, next_offset }
}

/// A subscription from offset 0 and the server's side of it.
async fn subscription(
    client: &Client,
    session: &Session,
) -> (railgun_client::Subscription, Stream) {
    let serve = async {
        let mut stream = session.stream().await;
        let _: v1::Subscribe = stream.receive().await;
        stream.send(&subscribed(UID, 0, 0, 0)).await;
        stream
    };
    let (subscription, stream) = tokio::join!(client.subscribe(orders()).open(), serve);
    (subscription.unwrap(), stream)
}

#[tokio::test(start_paused = true)]
async fn credit_comes_back_as_batches_are_consumed() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let (mut subscription, mut stream) = subscription(&client, &session).await;
    let value = "x".repeat(900_000);
    let values = [value.as_str()];
    let mut sent = 0;
    for offset in 0..5 {
        let (len, read) = tokio::join!(stream.deliver(offset, &values), subscription.next_batch());
        read.unwrap();
        sent += len;
    }
    // A quarter of 16 MiB is consumed: the credit goes out before the reader waits again.
    let waiting = tokio::spawn(async move { subscription.next_batch().await.map(drop) });
    let credit: v1::Credit = stream.receive().await;
    assert_eq!(credit.bytes, sent as u64);
    stream.send(&v1::End { next_offset: 5 }).await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_and_wrong_offsets_are_not_handed_out() {
    let server = Server::new();
    let (client, session) = server.connect().await;

    let (mut damaged, mut stream) = subscription(&client, &session).await;
    let mut builder = BatchBuilder::new(1 << 20);
    builder.push(&RecordDraft { value: b"value", ..RecordDraft::default() }).unwrap();
    let mut bytes = builder.finish().concat().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let deliver = v1::Deliver { count: 1, ..v1::Deliver::default() };
    stream.writer.send(Frame::with_blob(&deliver, vec![bytes.into()])).await.unwrap();
    assert!(matches!(damaged.next().await, Err(SubscribeError::Damaged { .. })));
    assert!(matches!(damaged.next().await, Ok(None)), "it is over");

    let (mut gap, mut stream) = subscription(&client, &session).await;
    stream.deliver(1, &["one"]).await;
    assert!(matches!(gap.next().await, Err(SubscribeError::Protocol { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_leaves_out_records_is_an_error() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    // Of five records two have come, and the third one is asked for.
    for (until, until_time, next_offset, is_right) in [
        (Some(5), None, 5, false),
        (Some(5), None, 2, false),
        (Some(5), None, 1, false),
        (Some(2), None, 2, true),
        (None, None, 5, false),
        (None, None, 2, false),
        (None, Some(7), 2, true),
        (None, Some(7), 5, false),
    ] {
        let mut opening = client.subscribe(orders()).start(StartPosition::Earliest).until_end();
        if let Some(until) = until {
            opening = opening.until_offset(Offset(until));
        }
        if let Some(until) = until_time {
            opening = opening.until_time(Timestamp(until));
        }
        let serve = async {
            let mut stream = session.stream().await;
            let _: v1::Subscribe = stream.receive().await;
            stream.send(&subscribed(UID, 0, 0, 5)).await;
            stream.deliver(0, &["zero", "one"]).await;
            stream.send(&v1::End { next_offset }).await;
            stream
        };
        let (subscription, _stream) = tokio::join!(opening.open(), serve);
        let mut subscription = subscription.unwrap();
        assert_eq!(next(&mut subscription).await, "0:zero");
        assert_eq!(next(&mut subscription).await, "1:one");
        let end = subscription.next().await;
        let case = (until, until_time, next_offset);
        match end {
            Ok(None) => assert!(is_right, "{case:?}"),
            Err(SubscribeError::Protocol { .. }) => assert!(!is_right, "{case:?}"),
            other => panic!("{case:?}: {other:?}"),
        }
        assert_eq!(subscription.position(), Offset(2));
    }
}

#[tokio::test(start_paused = true)]
async fn another_stream_under_the_same_name_is_not_read_on() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let (mut subscription, _stream) = subscription(&client, &session).await;
    server.cut();
    let serve = async {
        let session = server.accept().await;
        let mut stream = session.stream().await;
        let _: v1::Subscribe = stream.receive().await;
        stream.send(&subscribed([8; 16], 0, 0, 0)).await;
        (session, stream)
    };
    let (read, _session) = tokio::join!(subscription.next(), serve);
    let Err(SubscribeError::Refused { error, .. }) = read else { panic!("{read:?}") };
    assert_eq!(error.code, ErrorCode::StreamDeleted);
}

#[tokio::test(start_paused = true)]
async fn a_stream_error_is_tried_again_only_if_it_is_temporary() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let (mut subscription, mut stream) = subscription(&client, &session).await;
    stream.send(&error(ErrorCode::ColdUnavailable)).await;
    let serve = async {
        let mut stream = session.stream().await;
        let _: v1::Subscribe = stream.receive().await;
        stream.send(&subscribed(UID, 0, 0, 0)).await;
        stream.send(&error(ErrorCode::StreamDeleted)).await;
        stream
    };
    let (read, _stream) = tokio::join!(subscription.next(), serve);
    let Err(SubscribeError::Refused { error, .. }) = read else { panic!("{read:?}") };
    assert_eq!(error.code, ErrorCode::StreamDeleted);
}

#[tokio::test(start_paused = true)]
async fn another_cluster_is_not_taken_for_the_first() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    server.cut();
    drop(session);
    let describe = async { client.admin().describe_stream(&orders()).await };
    let (described, _session) = tokio::join!(describe, server.accept_as([1; 16]));
    let Err(AdminError::Connection(ConnectError::OtherCluster { .. })) = described else {
        panic!("{described:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_unless_that_could_do_harm() {
    let server = Server::new();
    let (client, session) = server.connect().await;
    let admin = client.admin();
    let ask = |client: Client| async move { client.admin().list_streams("", None).await };
    let serve = async {
        let mut stream = session.stream().await;
        let _: v1::AdminRequest = stream.receive().await;
        server.cut();
        let session = server.accept().await;
        let mut stream = session.stream().await;
        let request: v1::AdminRequest = stream.receive().await;
        let answer = v1::admin_response::Answer::StreamList(v1::StreamList::default());
        stream.send(&v1::AdminResponse { id: request.id, answer: Some(answer) }).await;
        (session, stream)
    };
    let (listed, (mut session, _stream)) = tokio::join!(ask(client.clone()), serve);
    assert_eq!(listed.unwrap().streams, []);

    // A delete that was done would be answered with "not found", or hit a new stream: it is looked.
    let described = |uid: [u8; 16]| {
        let description = v1::StreamDescription {
            name: "orders".into(),
            stream_uid: Bytes::copy_from_slice(&uid),
            spec: Some(v1::StreamPatch {
                kind: Some(v1::StreamKind::StreamPersistent.into()),
                ..v1::StreamPatch::default()
            }),
            ..v1::StreamDescription::default()
        };
        v1::admin_response::Answer::StreamDescription(description)
    };
    let other = described([8; 16]);
    for end in [v1::admin_response::Answer::Error(error(ErrorCode::StreamNotFound)), other] {
        let serve = async {
            session.answers(described(UID)).await;
            // It is not done, and then it is; both times nobody hears of it.
            let mut stream = session.stream().await;
            let request: v1::AdminRequest = stream.receive().await;
            let Some(v1::admin_request::Call::DeleteStream(delete)) = request.call else {
                panic!("{request:?}");
            };
            assert_eq!(delete.stream_uid[..], UID, "no other of the name is meant");
            server.cut();
            let again = server.accept().await;
            again.answers(described(UID)).await;
            let unknown = v1::admin_response::Answer::Error(error(ErrorCode::OutcomeUnknown));
            again.answers(unknown).await;
            again.answers(end).await;
            again
        };
        let name = orders();
        let (deleted, again) = tokio::join!(admin.delete_stream(&name), serve);
        assert_eq!(deleted.unwrap().0, UID);
        session = again;
    }
    let _ = &session.control;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_gets_nothing_new_and_everything_again_elsewhere() {
    let server = Server::new();
    let (client, mut session) = server.connect().await;
    let opening = client.publisher(orders()).open();
    let (publisher, (mut stream, _)) = tokio::join!(opening, session.publisher());
    let publisher = publisher.unwrap();
    let a = publisher.send(Message::new("a")).await.unwrap();
    stream.published().await;
    let go_away = v1::GoAway { deadline_ms: 1000, alternatives: Vec::new() };
    session.control.0.send(Frame::new(&go_away)).await.unwrap();
    // Whatever order the client hears of it in, what was in flight is answered first.
    stream.answer(0, 1).await;
    a.await.unwrap();
    let b = publisher.send(Message::new("b")).await.unwrap();
    let serve = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        session.connection.close(None, "stopping");
        let session = server.accept().await;
        let (mut stream, _) = session.publisher().await;
        assert_eq!(stream.published().await, (1, vec!["b".to_owned()]));
        stream.answer(1, 1).await;
        (session, stream)
    };
    let (b, _session) = tokio::join!(b, serve);
    assert_eq!(b.unwrap().offset, Offset(1));
    assert_eq!(FrameKind::GoAway as u8, 3);
}
