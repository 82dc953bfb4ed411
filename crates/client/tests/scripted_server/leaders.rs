//! Servers that name the leader of a publisher's stream (CL-4): who goes there, when, and what comes of it.
//! The client is told of the first server alone.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, FAILOVER, NAMES, publisher, value};
use super::*;

/// Long enough for whoever follows a hint, and not for answers to be waited for in vain.
const SOON: Duration = Duration::from_millis(800);

/// The node of this number leads.
fn leads(node: u32) -> v1::LeaderHint {
    v1::LeaderHint { shard: SHARD, node_id: node, address: NAMES[node as usize - 1].to_owned() }
}

async fn connect(cluster: &Cluster) -> (Client, Session) {
    let (client, (place, session)) = tokio::join!(cluster.client(&NAMES[..1]), cluster.accept());
    assert_eq!(place, 0);
    (client.unwrap(), session)
}

/// The next one to connect, which goes to this node.
async fn comes_to(cluster: &Cluster, node: u32) -> Session {
    let (place, session) = timeout(SOON, cluster.accept()).await.expect("it follows the hint");
    assert_eq!(place as u32 + 1, node);
    session
}

async fn nothing_comes<T>(what: impl Future<Output = T>) {
    assert!(timeout(SOON, what).await.is_err());
}

/// The client has left the stream, and did not say that it is done.
async fn is_left(mut stream: Stream) {
    assert_eq!(stream.reader.next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_goes_to_the_leader_when_all_is_answered() {
    let cluster = Cluster::new(3);
    let (client, session) = connect(&cluster).await;
    let (publisher, mut old, producer) = publisher(&client, &session).await;
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(old.published().await, value(0, "a"));
    old.send(&leads(2)).await;
    let leader = comes_to(&cluster, 2).await;
    // What is owed is waited for, and nothing else is sent meanwhile, there or here.
    sleep(Duration::from_millis(10)).await;
    let b = publisher.send(Message::new("b")).await.unwrap();
    nothing_comes(old.reader.next()).await;
    nothing_comes(leader.stream()).await;
    old.answer(0, 1).await;
    let (mut stream, again) = timeout(SOON, leader.publisher()).await.unwrap();
    assert_eq!(again, producer);
    assert_eq!(stream.published().await, value(1, "b"));
    stream.answer(1, 1).await;
    assert_eq!((a.await.unwrap().offset, b.await.unwrap().offset), (Offset(0), Offset(1)));
    is_left(old).await;
    assert_eq!(client.server().as_deref(), Some(NAMES[0]), "calls still go to the first");
    // All was sent once, so the producer may be forgotten where it is known.
    let closing = tokio::spawn(publisher.close());
    let _: v1::ClosePublisher = stream.receive().await;
    drop(stream);
    closing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_late_are_not_waited_for_for_long() {
    let cluster = Cluster::new(2);
    let (client, session) = connect(&cluster).await;
    let (publisher, mut old, _) = publisher(&client, &session).await;
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(old.published().await, value(0, "a"));
    old.send(&leads(2)).await;
    let leader = comes_to(&cluster, 2).await;
    sleep(SOON).await;
    let b = publisher.send(Message::new("b")).await.unwrap();
    // It goes on where it is.
    assert_eq!(timeout(Duration::from_secs(3), old.published()).await.unwrap(), value(1, "b"));
    old.answer(0, 1).await;
    old.answer(1, 1).await;
    assert_eq!((a.await.unwrap().offset, b.await.unwrap().offset), (Offset(0), Offset(1)));
    // And tries it again.
    let (mut stream, _) = timeout(SOON, leader.publisher()).await.unwrap();
    let _c = publisher.send(Message::new("c")).await.unwrap();
    assert_eq!(stream.published().await, value(2, "c"));
}

#[tokio::test(start_paused = true)]
async fn a_publisher_goes_back_when_its_server_leads_and_idle_sessions_are_closed() {
    let cluster = Cluster::new(3);
    let (client, session) = connect(&cluster).await;
    let (_publisher, mut stream, producer) = publisher(&client, &session).await;
    stream.send(&leads(2)).await;
    let second = comes_to(&cluster, 2).await;
    let (mut stream, _) = timeout(SOON, second.publisher()).await.unwrap();
    stream.send(&leads(3)).await;
    let third = comes_to(&cluster, 3).await;
    let (mut stream, _) = timeout(SOON, third.publisher()).await.unwrap();
    stream.send(&leads(1)).await;
    let (mut stream, again) = timeout(SOON, session.publisher()).await.unwrap();
    assert_eq!(again, producer);
    // Who leads here is followed by staying.
    stream.send(&leads(1)).await;
    for left in [second, third] {
        timeout(Duration::from_secs(12), left.connection.closed()).await.expect("nobody uses it");
    }
    nothing_comes(cluster.accept()).await;
    nothing_comes(stream.reader.next()).await;
}

#[tokio::test(start_paused = true)]
async fn publishers_share_the_session_with_a_leader() {
    let cluster = Cluster::new(2);
    let (client, session) = connect(&cluster).await;
    let mut publishers = Vec::new();
    for _ in 0..10 {
        let (publisher, mut stream, _) = publisher(&client, &session).await;
        stream.send(&leads(2)).await;
        publishers.push((publisher, stream));
    }
    let leader = comes_to(&cluster, 2).await;
    for _ in 0..10 {
        timeout(SOON, leader.publisher()).await.unwrap();
    }
    nothing_comes(cluster.accept()).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_out_of_reach_costs_nothing_and_is_tried_ever_more_seldom() {
    let cluster = Cluster::new(2);
    let (client, session) = connect(&cluster).await;
    let (publisher, mut stream, _) = publisher(&client, &session).await;
    cluster.darken(1);
    stream.send(&leads(2)).await;
    let before = cluster.dials.load(Relaxed);
    for sequence in 0..600 {
        let ticket = publisher.send(Message::new("x")).await.unwrap();
        assert_eq!(stream.published().await.0, sequence);
        stream.answer(sequence, 1).await;
        ticket.await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let tried = cluster.dials.load(Relaxed) - before;
    assert!((5..20).contains(&tried), "{tried} attempts");
    cluster.dark[1].store(false, Relaxed);
    let (place, leader) = timeout(Duration::from_secs(125), cluster.accept()).await.unwrap();
    assert_eq!(place, 1);
    timeout(SOON, leader.publisher()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_answers_where_the_leader_is_to_be_must_be_the_leader() {
    let cluster = Cluster::new(3);
    let (client, session) = connect(&cluster).await;
    let (_publisher, mut stream, _) = publisher(&client, &session).await;
    stream.send(&v1::LeaderHint { address: NAMES[2].to_owned(), ..leads(2) }).await;
    let wrong = comes_to(&cluster, 3).await;
    timeout(SOON, wrong.connection.closed()).await.expect("it is another");
    nothing_comes(stream.reader.next()).await;
    // Another cluster may be there, too.
    stream.send(&leads(2)).await;
    let connection = timeout(SOON, cluster.servers[1].endpoint.accept()).await.unwrap().unwrap();
    let other = Session::welcome(connection, [8; 16], 2).await;
    timeout(SOON, other.connection.closed()).await.expect("it is another");
    nothing_comes(stream.reader.next()).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_falls_silent_is_left_for_the_first_server() {
    let cluster = Cluster::new(2);
    let (client, session) = connect(&cluster).await;
    let (publisher, mut stream, producer) = publisher(&client, &session).await;
    stream.send(&leads(2)).await;
    let leader = comes_to(&cluster, 2).await;
    let (mut stream, _) = timeout(SOON, leader.publisher()).await.unwrap();
    let a = publisher.send(Message::new("a")).await.unwrap();
    assert_eq!(stream.published().await, value(0, "a"));
    cluster.darken(1);
    let (mut stream, again) = timeout(FAILOVER, session.publisher()).await.unwrap();
    timeout(Duration::ZERO, leader.connection.closed()).await.expect("it is closed before");
    assert_eq!(again, producer);
    // What was sent is sent again, under its sequence (PQ-1).
    assert_eq!(stream.published().await, value(0, "a"));
    stream.answer(0, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_moves_all_the_time_is_followed_now_and_then() {
    let cluster = Cluster::new(3);
    let opened = Arc::new(AtomicU64::new(0));
    let serve = async {
        let mut sessions = tokio::task::JoinSet::new();
        loop {
            let (place, session) = cluster.accept().await;
            let opened = Arc::clone(&opened);
            sessions.spawn(async move {
                loop {
                    // Wherever it is, another leads.
                    let (mut stream, _) = session.publisher().await;
                    opened.fetch_add(1, Relaxed);
                    stream.send(&leads((place as u32 + 1) % 3 + 1)).await;
                    tokio::spawn(is_left(stream));
                }
            });
        }
    };
    let publish = async {
        let client = cluster.client(&NAMES[..1]).await.unwrap();
        let publisher = client.publisher(orders()).open().await.unwrap();
        sleep(Duration::from_secs(600)).await;
        drop((publisher, client));
    };
    tokio::select! {
        () = serve => unreachable!("it never ends"),
        () = publish => {}
    }
    let opened = opened.load(Relaxed);
    assert!((10..50).contains(&opened), "{opened} publishers");
    assert!(cluster.dials.load(Relaxed) < 50);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_follow_leaders_asks_for_no_hints() {
    let cluster = Cluster::new(2);
    for follow_leaders in [true, false] {
        let mut options = ClientOptions { follow_leaders, ..Server::options() };
        options.servers = vec![NAMES[0].to_owned()];
        let (client, (_, session)) = tokio::join!(cluster.client_with(options), cluster.accept());
        let _publisher = client.unwrap().multi_publisher().open();
        let open: v1::OpenPublisher = session.stream().await.receive().await;
        assert_eq!(open.leader_hints, follow_leaders);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leads_no_more_and_knows_no_other_is_left_for_the_first_server() {
    let cluster = Cluster::new(2);
    let (client, session) = connect(&cluster).await;
    let (publisher, mut stream, producer) = publisher(&client, &session).await;
    stream.send(&leads(2)).await;
    let leader = comes_to(&cluster, 2).await;
    let (mut stream, _) = timeout(SOON, leader.publisher()).await.unwrap();
    let a = publisher.send(Message::new("a")).await.unwrap();
    let refuse = async {
        while let Ok(Some(_)) = stream.reader.next().await {
            let error = Some(error(ErrorCode::Unavailable));
            let items = vec![v1::ItemResult { error, ..v1::ItemResult::default() }];
            stream.writer.send(Frame::new(&v1::PublishResult { items })).await.ok();
        }
        std::future::pending::<()>().await;
    };
    let (mut stream, again) = tokio::select! {
        () = refuse => unreachable!("it waits for ever"),
        opened = timeout(FAILOVER, session.publisher()) => opened.unwrap(),
    };
    assert_eq!(again, producer);
    assert_eq!(stream.published().await, value(0, "a"));
    stream.answer(0, 1).await;
    assert_eq!(a.await.unwrap().offset, Offset(0));
}
