//! Two and three servers: what a client does when one is lost, dark, slow, or going away, and when a
//! shard has no leader.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::*;

pub(crate) const NAMES: [&str; 3] = ["n1:1", "n2:1", "n3:1"];
/// Time in which a client must have found another server than one that is dark: silence of some 1.2 s,
/// and how often it looks.
pub(crate) const FAILOVER: Duration = Duration::from_millis(1_500);

/// Servers of one cluster, by their names.
pub(crate) struct Cluster {
    network: MemoryNetwork,
    pub(crate) servers: Vec<Server>,
    pub(crate) dark: Arc<[AtomicBool]>,
    /// Attempts of clients to connect.
    pub(crate) dials: Arc<AtomicU64>,
}

impl Cluster {
    pub(crate) fn new(count: usize) -> Self {
        let network = MemoryNetwork::new();
        let servers = (0..count).map(|_| {
            let endpoint = network.listen("127.0.0.1:0".parse().unwrap()).unwrap();
            Server { network: network.clone(), endpoint }
        });
        let servers = servers.collect();
        let dark = (0..count).map(|_| AtomicBool::new(false)).collect();
        Self { network, servers, dark, dials: Arc::default() }
    }

    /// A client that is told of the servers of these names; the others are there.
    pub(crate) async fn client(&self, names: &[&str]) -> Result<Client, ConnectError> {
        let servers = ClientOptions::new(names.join(",")).servers;
        self.client_with(ClientOptions { servers, ..Server::options() }).await
    }

    pub(crate) async fn client_with(&self, options: ClientOptions) -> Result<Client, ConnectError> {
        let addrs = self.servers.iter().map(|server| server.endpoint.local_addr());
        let dial = MemoryDial {
            network: self.network.clone(),
            servers: NAMES.into_iter().zip(addrs).collect(),
            dark: Arc::clone(&self.dark),
            packets: AtomicU64::new(0),
            dials: Arc::clone(&self.dials),
        };
        Client::connect_over(Arc::new(dial), options).await
    }

    /// A client of all servers, and the one that it has found.
    async fn connect(&self) -> (Client, usize, Session) {
        let names = &NAMES[..self.servers.len()];
        let (client, (place, session)) = tokio::join!(self.client(names), self.accept());
        (client.unwrap(), place, session)
    }

    /// The next connection to any of them.
    pub(crate) async fn accept(&self) -> (usize, Session) {
        let accepting = self.servers.iter().map(|server| Box::pin(server.endpoint.accept()));
        let (connection, place, _) = futures::future::select_all(accepting).await;
        (place, Session::welcome(connection.unwrap(), [9; 16], place as u32 + 1).await)
    }

    pub(crate) fn darken(&self, place: usize) {
        self.dark[place].store(true, Relaxed);
    }

    /// The process dies: nobody listens there, and its connections are lost.
    pub(crate) fn kill(&self, place: usize) {
        self.darken(place);
        self.servers[place].cut();
    }
}

pub(crate) async fn publisher(
    client: &Client,
    session: &Session,
) -> (railgun_client::Publisher, Stream, Bytes) {
    let opening = client.publisher(orders()).open();
    let (publisher, (stream, producer)) = tokio::join!(opening, session.publisher());
    (publisher.unwrap(), stream, producer)
}

pub(crate) fn value(sequence: u64, text: &str) -> (u64, Vec<String>) {
    (sequence, vec![text.to_owned()])
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_killed_costs_a_publisher_neither_messages_nor_order() {
    let cluster = Cluster::new(3);
    let (client, first, session) = cluster.connect().await;
    let (publisher, mut stream, producer) = publisher(&client, &session).await;
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(stream.published().await, value(0, "a"));
    let b = publisher.send(Message::new("b")).await.unwrap();
    assert_eq!(stream.published().await, value(1, "b"));
    cluster.kill(first);
    let c = publisher.send(Message::new("c")).await.unwrap();

    let (second, session) = timeout(FAILOVER, cluster.accept()).await.unwrap();
    assert_ne!(second, first);
    let (mut stream, again) = session.publisher().await;
    assert_eq!(client.server().as_deref(), Some(NAMES[second]));
    assert_eq!(again, producer);
    // The first was appended, which the second server knows; it loses its leader before it takes the next.
    assert_eq!(stream.published().await, value(0, "a"));
    assert_eq!(stream.published().await, value(1, "b"));
    stream.answer(10, 1).await;
    stream.refuse([ErrorCode::OutcomeUnknown]).await;
    assert_eq!(a.await.unwrap().offset, Offset(10));
    loop {
        // "c" may be on its way behind it.
        match stream.published().await {
            sent if sent == value(2, "c") => stream.refuse([ErrorCode::OrderBroken]).await,
            sent => break assert_eq!(sent, value(1, "b")),
        }
    }
    stream.answer(11, 1).await;
    assert_eq!(b.await.unwrap().offset, Offset(11));
    assert_eq!(stream.published().await, value(2, "c"));
    stream.answer(12, 1).await;
    assert_eq!(c.await.unwrap().offset, Offset(12));
}

#[tokio::test(start_paused = true)]
async fn a_dark_server_is_closed_before_anything_is_published_elsewhere() {
    let cluster = Cluster::new(3);
    let (client, first, old) = cluster.connect().await;
    let (publisher, mut stream, producer) = publisher(&client, &old).await;
    cluster.darken(first);
    // Nothing is owed yet, so nothing happens.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(stream.published().await, value(0, "a"));
    let (second, session) = cluster.accept().await;
    assert_ne!(second, first);
    assert!((Duration::from_secs(1)..FAILOVER).contains(&began.elapsed()), "{:?}", began.elapsed());
    let (mut stream, again) = timeout(FAILOVER, session.publisher()).await.unwrap();
    timeout(Duration::ZERO, old.connection.closed()).await.unwrap();
    assert_eq!(again, producer);
    assert_eq!(stream.published().await, value(0, "a"));
    stream.answer(0, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_that_is_there_is_not_left() {
    let cluster = Cluster::new(2);
    let (client, _, session) = cluster.connect().await;
    let (publisher, mut stream, _) = publisher(&client, &session).await;
    let a = publisher.send(Message::new("a")).await.unwrap();
    stream.published().await;
    timeout(Duration::from_secs(4), cluster.accept()).await.map(drop).unwrap_err();
    stream.answer(0, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_heard_again_in_time_keeps_its_client() {
    let cluster = Cluster::new(2);
    let (client, first, session) = cluster.connect().await;
    let (publisher, mut stream, _) = publisher(&client, &session).await;
    cluster.darken(first);
    let a = publisher.send(Message::new("a")).await.unwrap();
    stream.published().await;
    // The other one takes its time to say welcome.
    let other = cluster.servers[1 - first].endpoint.accept().await.unwrap();
    cluster.dark[first].store(false, Relaxed);
    timeout(Duration::from_millis(200), other.closed()).await.unwrap();
    stream.answer(0, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_on_a_dark_server_goes_on_elsewhere_though_nothing_else_is_asked() {
    let cluster = Cluster::new(2);
    let (client, first, session) = cluster.connect().await;
    let (mut subscription, mut stream) = subscription(&client, &session).await;
    stream.deliver(0, &["zero"]).await;
    assert_eq!(next(&mut subscription).await, "0:zero");
    cluster.darken(first);
    let serve = async {
        let (_, session) = timeout(FAILOVER, cluster.accept()).await.unwrap();
        // The shard has no leader yet.
        for _ in 0..3 {
            let mut stream = session.stream().await;
            let _: v1::Subscribe = stream.receive().await;
            stream.send(&error(ErrorCode::Unavailable)).await;
        }
        let mut stream = session.stream().await;
        let request: v1::Subscribe = stream.receive().await;
        assert_eq!(request.start, Some(v1::subscribe::Start::Offset(1)));
        stream.send(&subscribed(UID, 1, 0, 1)).await;
        stream.deliver(1, &["one"]).await;
        (session, stream)
    };
    let (read, _served) = tokio::join!(next(&mut subscription), serve);
    assert_eq!(read, "1:one");
}

#[tokio::test(start_paused = true)]
async fn a_dark_server_holds_up_who_connects_for_no_longer_than_its_head_start() {
    let cluster = Cluster::new(3);
    let (_client, first, _session) = cluster.connect().await;
    cluster.darken(first);
    // The same seed begins with the same server.
    let began = Instant::now();
    let (_client, second, _session) = cluster.connect().await;
    assert_ne!(second, first);
    assert_eq!(began.elapsed(), Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn the_first_that_says_welcome_is_taken_and_the_others_are_closed() {
    let cluster = Cluster::new(2);
    let (_client, first, _session) = cluster.connect().await;
    let serve = async {
        let slow = cluster.servers[first].endpoint.accept().await.unwrap();
        let _greeting = slow.accept().await.unwrap();
        let quick = cluster.servers[1 - first].accept().await;
        timeout(Duration::from_millis(1), slow.closed()).await.unwrap();
        quick
    };
    let (client, _session) = tokio::join!(cluster.client(&NAMES[..2]), serve);
    assert_eq!(client.unwrap().server().as_deref(), Some(NAMES[1 - first]));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_is_left_for_one_that_it_names() {
    let cluster = Cluster::new(3);
    let (client, mut old) = {
        let (client, session) = tokio::join!(cluster.client(&NAMES[..1]), cluster.accept());
        (client.unwrap(), session.1)
    };
    let (publisher, mut stream, producer) = publisher(&client, &old).await;
    let a = publisher.send(Message::new("a")).await.unwrap();
    stream.published().await;
    let alternatives = vec!["what is this".to_owned(), NAMES[2].to_owned()];
    let go_away = v1::GoAway { deadline_ms: 5_000, alternatives };
    old.control.0.send(Frame::new(&go_away)).await.unwrap();

    // The next connection is made while the first one is still served.
    let (place, session) = timeout(Duration::from_millis(1), cluster.accept()).await.unwrap();
    assert_eq!(place, 2);
    let (mut new, again, b) = {
        let b = publisher.send(Message::new("b")).await.unwrap();
        // What is in flight is answered before anything is published elsewhere.
        timeout(Duration::from_secs(1), session.stream()).await.map(drop).unwrap_err();
        stream.answer(0, 1).await;
        let (new, again) = session.publisher().await;
        (new, again, b)
    };
    assert_eq!(a.await.unwrap().offset, Offset(0));
    assert_eq!(again, producer);
    assert_eq!(new.published().await, value(1, "b"));
    new.answer(1, 1).await;
    assert_eq!(b.await.unwrap().offset, Offset(1));
    assert_eq!(client.server().as_deref(), Some(NAMES[2]));
    // One that does not close in time is left.
    drop(stream);
    timeout(Duration::from_secs(5), old.connection.closed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_shard_without_a_leader_refuses_is_repeated_in_order_and_the_waits_grow() {
    let cluster = Cluster::new(1);
    let (client, _, session) = cluster.connect().await;
    let (publisher, mut stream, _) = publisher(&client, &session).await;
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(stream.published().await, value(0, "a"));
    let b = publisher.send(Message::new("b")).await.unwrap();
    assert_eq!(stream.published().await, value(1, "b"));
    let mut waits = Vec::new();
    // To a shard that has not heard of the producer, what is behind its first batch means nothing.
    for behind in [ErrorCode::OrderBroken, ErrorCode::SequenceGap, ErrorCode::ProducerUnknown] {
        stream.refuse([ErrorCode::NotLeader, behind]).await;
        let began = Instant::now();
        assert_eq!(stream.published().await, value(0, "a"));
        waits.push(began.elapsed());
        assert_eq!(stream.published().await, value(1, "b"));
    }
    assert!(waits[0] >= Duration::from_millis(10), "{waits:?}");
    assert!(waits[1] >= Duration::from_millis(20) && waits[2] >= Duration::from_millis(40));
    stream.refuse([ErrorCode::Unavailable, ErrorCode::OrderBroken]).await;
    assert_eq!(stream.published().await, value(0, "a"));
    assert_eq!(stream.published().await, value(1, "b"));
    stream.answer(0, 1).await;
    stream.answer(1, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(0));
    assert_eq!(b.await.unwrap().offset, Offset(1));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_finds_no_leader_in_time_fails_messages_as_definitely_as_it_refused_them() {
    for (code, is_definite) in [(ErrorCode::NotLeader, true), (ErrorCode::OutcomeUnknown, false)] {
        let cluster = Cluster::new(1);
        let (client, _, session) = cluster.connect().await;
        let (publisher, mut stream, _) = publisher(&client, &session).await;
        let began = Instant::now();
        let a = publisher.send(Message::new("a")).await.unwrap();
        let refuse = async {
            loop {
                stream.published().await;
                stream.refuse([code]).await;
            }
        };
        let ended = tokio::select! {
            biased;
            ended = a => ended.unwrap_err(),
            () = refuse => unreachable!("refuses for ever"),
        };
        assert_eq!(ended.is_definite(), is_definite, "{ended}");
        let patience = Duration::from_secs(5)..Duration::from_secs(6);
        assert!(patience.contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_administrative_call_waits_for_a_leader_and_moves_to_another_server() {
    use v1::admin_response::Answer;
    let cluster = Cluster::new(3);
    let (client, first, session) = cluster.connect().await;
    let serve = async {
        session.answers(Answer::Error(error(ErrorCode::NotLeader))).await;
        session.answers(Answer::Error(error(ErrorCode::Unavailable))).await;
        session.answers(Answer::Error(error(ErrorCode::OutcomeUnknown))).await;
        // The server stops, and says so here before it does on the first stream.
        session.answers(Answer::Error(error(ErrorCode::GoingAway))).await;
        let (second, session) = cluster.accept().await;
        assert_ne!(second, first);
        let mut stream = session.stream().await;
        let _: v1::AdminRequest = stream.receive().await;
        cluster.darken(second);
        let (third, session) = timeout(FAILOVER, cluster.accept()).await.unwrap();
        assert_ne!(third, second);
        session.answers(Answer::StreamList(v1::StreamList::default())).await;
        session
    };
    let admin = client.admin();
    let (listed, _session) = tokio::join!(admin.list_streams("", None), serve);
    assert_eq!(listed.unwrap().streams, []);
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_server_is_told_what_was_tried_and_why_each_failed() {
    let cluster = Cluster::new(3);
    cluster.darken(0);
    cluster.servers[1].endpoint.refuse_new();
    let serve = async {
        let connection = cluster.servers[2].endpoint.accept().await.unwrap();
        let (mut writer, _reader) = connection.accept().await.unwrap();
        writer.send(Frame::new(&error(ErrorCode::Unauthenticated))).await.unwrap();
        connection.closed().await;
    };
    let (connected, ()) = tokio::join!(cluster.client(&NAMES), serve);
    let Err(ConnectError::NoneReachable { attempts }) = &connected else { panic!("{connected:?}") };
    assert_eq!(attempts.len(), 3);
    let told = connected.unwrap_err().to_string();
    for needle in [
        "no session with any server: ",
        "n1:1 (no answer within 3s)",
        "n2:1 (full or stopping)",
        "n3:1 (refused: because (Unauthenticated))",
    ] {
        assert!(told.contains(needle), "{told}");
    }
}
