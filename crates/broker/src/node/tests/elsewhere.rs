//! A node that has no replica of any data shard: clients can use it as any other (CL-4).

use std::collections::BTreeSet;

use railgun_net::ReadError;
use railgun_proto::WireCode;
use railgun_types::ErrorCode;

use super::cluster_rig::{Cluster, PATIENCE, ip};
use super::*;
use crate::routing::{CARRIED_PART, Leader};
use crate::streams::Place;
use v1::admin_request::Call;
use v1::admin_response::Answer;

/// Three nodes with all shards, and the fourth.
async fn four() -> Cluster {
    let mut cluster = Cluster::new(4);
    cluster.start(&[1, 2, 3]).await;
    cluster.start(&[4]).await;
    assert!(cluster.node(4).streams.routing().locals().is_empty(), "it has data shards");
    cluster
}

/// What a node answers to a client.
async fn ask(cluster: &Cluster, number: usize, call: Call) -> Answer {
    let (connection, _control) = enter(&cluster.network, cluster.node(number)).await;
    let (mut writer, mut reader) = connection.open().await.unwrap();
    let request = v1::AdminRequest { id: 9, call: Some(call) };
    writer.send(Frame::new(&request)).await.unwrap();
    let answered = timeout(PATIENCE, reader.next_of::<v1::AdminResponse>()).await;
    let response = answered.expect("in time").unwrap().unwrap();
    assert_eq!(response.id, 9);
    response.answer.unwrap()
}

fn ensure(name: &str) -> Call {
    Call::EnsureStream(v1::EnsureStream {
        name: name.to_owned(),
        mode: v1::EnsureMode::EnsureWarn.into(),
        ..v1::EnsureStream::default()
    })
}

async fn list(cluster: &Cluster, number: usize) -> Vec<v1::StreamDescription> {
    match ask(cluster, number, Call::ListStreams(v1::ListStreams::default())).await {
        Answer::StreamList(list) => list.streams,
        other => panic!("{other:?}"),
    }
}

async fn describe(cluster: &Cluster, number: usize, name: &str) -> v1::StreamDescription {
    let call = Call::DescribeStream(v1::DescribeStream { name: name.to_owned() });
    match ask(cluster, number, call).await {
        Answer::StreamDescription(description) => description,
        other => panic!("{other:?}"),
    }
}

async fn seal(cluster: &Cluster, number: usize, name: &str, retire: bool) -> v1::StreamSealed {
    let seal = v1::SealStream { name: name.to_owned(), retire, timeout_ms: 0 };
    match ask(cluster, number, Call::SealStream(seal)).await {
        Answer::StreamSealed(sealed) => sealed,
        other => panic!("{other:?}"),
    }
}

async fn segments(cluster: &Cluster, number: usize, name: &str) -> v1::SegmentList {
    let list = v1::ListSegments { name: name.to_owned(), ..v1::ListSegments::default() };
    match ask(cluster, number, Call::ListSegments(list)).await {
        Answer::SegmentList(segments) => segments,
        other => panic!("{other:?}"),
    }
}

/// A subscription of a client of the fourth node.
struct Through {
    line: (FrameWriter, FrameReader),
    _connection: Connection,
    _control: (FrameWriter, FrameReader),
}

impl Through {
    async fn begin(cluster: &Cluster, start: v1::subscribe::Start, credit_bytes: u64) -> Self {
        let (_connection, _control) = enter(&cluster.network, cluster.node(4)).await;
        let mut line = _connection.open().await.unwrap();
        let stream = "s".to_owned();
        let start = Some(start);
        let subscribe = v1::Subscribe { stream, start, credit_bytes, ..v1::Subscribe::default() };
        line.0.send(Frame::new(&subscribe)).await.unwrap();
        let subscribed = timeout(PATIENCE, line.1.next_of::<v1::Subscribed>()).await;
        subscribed.expect("in time").unwrap().unwrap();
        Self { line, _connection, _control }
    }

    /// The next batch's offset and its record.
    async fn next(&mut self) -> (u64, Vec<u8>) {
        let frame = timeout(PATIENCE, self.line.1.next()).await.expect("in time");
        let frame = frame.unwrap().unwrap();
        let head: v1::Deliver = frame.decode().unwrap();
        let batch = RecordBatch::verify(frame.blob()).unwrap();
        let record = batch.records().next().unwrap();
        (head.base_offset, record.content().unwrap().value.to_vec())
    }

    async fn end(&mut self) -> WireError {
        let end = timeout(PATIENCE, self.line.1.next_of::<v1::Error>()).await;
        end.expect("in time").unwrap().expect("an error").into()
    }
}

/// The node that the fourth asks first about the shard of "s".
async fn server(cluster: &Cluster) -> usize {
    let found = cluster.node(4).streams.resolve(&name("s")).await.unwrap();
    assert!(matches!(found.shard, Place::Elsewhere(_)));
    match cluster.node(4).streams.routing().leader(found.shard.id(), 0) {
        Leader::At(address) => {
            let is_there = |number: &usize| address == format!("{}:9401", ip(*number));
            (1..=3).find(is_there).expect("one of the nodes")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_a_client_wants_a_node_without_the_shard_does() {
    let cluster = four().await;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        let ensured = ask(&cluster, 4, ensure(name)).await;
        assert!(matches!(ensured, Answer::StreamEnsured(_)), "{ensured:?}");
        assert_eq!(describe(&cluster, 4, name).await.next_offset, 0);
    }
    let shards: BTreeSet<_> = list(&cluster, 4).await.iter().map(|it| it.shard).collect();
    assert_eq!(shards, [1, 2].into(), "streams on all shards");
    for name in names {
        let values: Vec<_> = (0..3).map(|n| format!("{name} {n}").into_bytes()).collect();
        for (offset, value) in values.iter().enumerate() {
            assert_eq!(cluster.publish(4, name, value).await, offset as u64);
        }
        assert_eq!(cluster.read(4, name).await, values);
        assert_eq!(cluster.read(1, name).await, values);
        assert!(segments(&cluster, 4, name).await.segments.is_empty());
        assert_eq!(seal(&cluster, 4, name, name == "f").await.cold_end, 3);
        let there = segments(&cluster, 4, name).await;
        assert_eq!(there.segments.iter().map(|it| it.count).sum::<u64>(), 3);
        assert_eq!(cluster.read(4, name).await, values, "from the bucket");
        let description = describe(&cluster, 4, name).await;
        assert_eq!((description.next_offset, description.cold_end), (3, 3));
    }
    let listed: Vec<_> = list(&cluster, 4).await.into_iter().map(|it| it.name).collect();
    assert_eq!(listed, names);

    // What another node has done a moment ago is known here.
    ask(&cluster, 2, ensure("g")).await;
    assert_eq!(list(&cluster, 4).await.len(), names.len() + 1);
    let delete = v1::DeleteStream { name: "a".to_owned(), ..Default::default() };
    assert!(matches!(ask(&cluster, 4, Call::DeleteStream(delete)).await, Answer::StreamDeleted(_)));
    for number in [4, 1] {
        let asked = v1::DescribeStream { name: "a".to_owned() };
        match ask(&cluster, number, Call::DescribeStream(asked)).await {
            Answer::Error(error) => {
                assert_eq!(WireError::from(error).code, ErrorCode::StreamNotFound);
            }
            other => panic!("{other:?}"),
        }
    }
    let seal = v1::SealStream { name: "a".to_owned(), ..v1::SealStream::default() };
    let refused = ask(&cluster, 4, Call::SealStream(seal)).await;
    assert!(matches!(refused, Answer::Error(_)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn batches_find_the_leader_whoever_it_is() {
    let cluster = four().await;
    ask(&cluster, 4, ensure("s")).await;
    let shard = cluster.node(4).streams.resolve(&name("s")).await.unwrap().shard.id();
    let mut published = 0;
    for leader in [1, 2, 3] {
        let transfer = v1::TransferLeader { shard: shard.0, node_id: leader };
        cluster.node(1).cluster_admin.transfer_leader(transfer).await.unwrap();
        // Far less than the time after which the lead goes back by itself.
        for _ in 0..3 {
            let publish = cluster.publish(4, "s", b"for the leader");
            let offset = timeout(Duration::from_secs(1), publish).await;
            assert_eq!(offset.expect("it finds the leader"), published);
            published += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_waits_at_the_end_and_for_credit_wherever_it_is_served() {
    let cluster = four().await;
    ask(&cluster, 4, ensure("s")).await;
    let latest = v1::subscribe::Start::Latest(true);
    let mut tail = Through::begin(&cluster, latest, u64::MAX).await;
    sleep(Duration::from_secs(120)).await;
    for (offset, value) in [b"first", b"again"].into_iter().enumerate() {
        cluster.publish(2, "s", value).await;
        assert_eq!(tail.next().await, (offset as u64, value.to_vec()));
        sleep(Duration::from_secs(120)).await;
    }

    let earliest = v1::subscribe::Start::Earliest(true);
    let mut slow = Through::begin(&cluster, earliest, 1).await;
    assert_eq!(slow.next().await.0, 0);
    let more = timeout(Duration::from_secs(60), slow.line.1.next()).await;
    assert!(more.is_err(), "it has no credit: {more:?}");
    slow.line.0.send(Frame::new(&v1::Credit { bytes: 1_000 })).await.unwrap();
    assert_eq!(slow.next().await.0, 1);
    // What is no credit is not carried anywhere.
    slow.line.0.send(Frame::new(&v1::End::default())).await.unwrap();
    assert_eq!(slow.end().await.code, ErrorCode::ProtocolViolation);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_whose_server_dies_is_told_so_and_goes_on_elsewhere() {
    let mut cluster = four().await;
    ask(&cluster, 4, ensure("s")).await;
    for offset in 0..3 {
        assert_eq!(cluster.publish(4, "s", b"before").await, offset);
    }
    let earliest = v1::subscribe::Start::Earliest(true);
    let mut reading = Through::begin(&cluster, earliest, u64::MAX).await;
    for offset in 0..3 {
        assert_eq!(reading.next().await.0, offset);
    }
    let served = server(&cluster).await;
    cluster.kill(served).await;
    let end = reading.end().await;
    assert_eq!(end.code, WireCode::Known(ErrorCode::Unavailable), "{end}");
    assert!(matches!(end.retry, Retry::After(_)), "{end:?}");

    assert_eq!(cluster.publish(4, "s", b"after").await, 3);
    let mut again = Through::begin(&cluster, v1::subscribe::Start::Offset(3), u64::MAX).await;
    assert_eq!(again.next().await, (3, b"after".to_vec()));
    assert_eq!(describe(&cluster, 4, "s").await.next_offset, 4);
    assert_ne!(server(&cluster).await, served);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_sends_nobody_away_from_the_node_between() {
    let cluster = four().await;
    ask(&cluster, 4, ensure("s")).await;
    let latest = v1::subscribe::Start::Latest(true);
    let mut tail = Through::begin(&cluster, latest, u64::MAX).await;
    let served = server(&cluster).await;
    let shutdown = cluster.node(served).shutdown(DRAIN_TIMEOUT);
    let (end, ()) = tokio::join!(tail.end(), shutdown);
    // `GoingAway` would be about the client's own node.
    assert_eq!(end.code, ErrorCode::Unavailable, "{end}");
    assert_eq!(cluster.publish(4, "s", b"after").await, 0);
    let earliest = v1::subscribe::Start::Earliest(true);
    let mut again = Through::begin(&cluster, earliest, u64::MAX).await;
    assert_eq!(again.next().await, (0, b"after".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_loses_the_subscription_and_holds_up_no_other() {
    let cluster = four().await;
    ask(&cluster, 4, ensure("s")).await;
    let values: Vec<_> = (0..40).map(|n| vec![n; 50_000]).collect();
    for value in &values {
        cluster.publish(1, "s", value).await;
    }
    let earliest = v1::subscribe::Start::Earliest(true);
    let mut stuck = Through::begin(&cluster, earliest, u64::MAX).await;
    assert_eq!(cluster.read(4, "s").await, values);
    sleep(Duration::from_secs(60)).await;
    let end = loop {
        match timeout(PATIENCE, stuck.line.1.next()).await.expect("in time") {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    let code = Some(WireCode::Known(ErrorCode::Timeout));
    assert_eq!(end, Err(ReadError::Reset { code }));
    assert_eq!(cluster.read(4, "s").await, values);
}

#[tokio::test(start_paused = true)]
async fn a_client_has_a_part_of_the_streams_that_are_carried() {
    let cluster = four().await;
    ask(&cluster, 4, ensure("s")).await;
    let (connection, _control) = enter(&cluster.network, cluster.node(4)).await;
    let subscribe = v1::Subscribe {
        stream: "s".to_owned(),
        start: Some(v1::subscribe::Start::Latest(true)),
        credit_bytes: 1_000,
        ..v1::Subscribe::default()
    };
    let begin = async || {
        let mut line = connection.open().await.unwrap();
        line.0.send(Frame::new(&subscribe)).await.unwrap();
        let first = timeout(PATIENCE, line.1.next()).await.expect("in time").unwrap().unwrap();
        (line, first)
    };
    let mut lines = Vec::new();
    for _ in 0..CARRIED_PART {
        let (line, first) = begin().await;
        assert_eq!(first.kind(), FrameKind::Subscribed);
        lines.push(line);
    }
    let (_line, refused) = begin().await;
    let error = WireError::from(refused.decode::<v1::Error>().unwrap());
    assert_eq!(error.code, ErrorCode::QuotaExceeded, "{error}");
    // Others have theirs, and it has again what it gives back.
    Through::begin(&cluster, v1::subscribe::Start::Latest(true), 1_000).await;
    lines.pop();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(begin().await.1.kind(), FrameKind::Subscribed);
}

#[tokio::test(start_paused = true)]
async fn seals_leave_places_for_other_requests() {
    let cluster = four().await;
    ask(&cluster, 4, ensure("s")).await;
    cluster.publish(1, "s", b"x").await;
    let seals = cluster.node(4).streams.routing().others.clone().unwrap().seals;
    let taken = seals.acquire_many(seals.available_permits() as u32).await.unwrap();
    let seal_s = v1::SealStream { name: "s".to_owned(), ..v1::SealStream::default() };
    match ask(&cluster, 4, Call::SealStream(seal_s)).await {
        Answer::Error(error) => {
            assert_eq!(WireError::from(error).code, ErrorCode::QuotaExceeded);
        }
        other => panic!("{other:?}"),
    }
    assert!(segments(&cluster, 4, "s").await.segments.is_empty());
    drop(taken);
    assert_eq!(seal(&cluster, 4, "s", false).await.cold_end, 1);
}
