//! A node that is cut off from the others: it serves what it has applied, and nothing else (CL-4).

use bytes::Bytes;
use railgun_proto::convert::Uid;
use railgun_types::ErrorCode;

use super::cluster_rig::{Cluster, PATIENCE, ip};
use super::*;
use v1::subscribe::Start;

/// Longer than a node asks for a leader, or waits for one.
const LONG: Duration = Duration::from_secs(15);

/// A subscription at one node.
struct Reader {
    line: (FrameWriter, FrameReader),
    uid: Bytes,
    _connection: Connection,
    _control: (FrameWriter, FrameReader),
}

impl Reader {
    async fn begin(
        cluster: &Cluster,
        number: usize,
        subscribe: v1::Subscribe,
    ) -> Result<Self, WireError> {
        let (connection, control) = enter(&cluster.network, cluster.node(number)).await;
        let mut line = connection.open().await.unwrap();
        let stream = "s".to_owned();
        let subscribe = v1::Subscribe { stream, credit_bytes: u64::MAX, ..subscribe };
        line.0.send(Frame::new(&subscribe)).await.unwrap();
        let frame = timeout(PATIENCE, line.1.next()).await.expect("an answer").unwrap().unwrap();
        if frame.kind() == FrameKind::Error {
            return Err(frame.decode::<v1::Error>().unwrap().into());
        }
        let uid = frame.decode::<v1::Subscribed>().unwrap().stream_uid;
        Ok(Self { line, uid, _connection: connection, _control: control })
    }

    /// The next batch's offset and its record.
    async fn next(&mut self) -> (u64, Vec<u8>) {
        let frame = timeout(PATIENCE, self.line.1.next()).await.expect("in time");
        let frame = frame.unwrap().unwrap();
        let head: v1::Deliver = frame.decode().unwrap();
        let batch = RecordBatch::verify(frame.blob()).unwrap();
        (head.base_offset, batch.records().next().unwrap().content().unwrap().value.to_vec())
    }

    async fn is_silent(&mut self) {
        let more = timeout(LONG, self.line.1.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

fn from(start: Start) -> v1::Subscribe {
    v1::Subscribe { start: Some(start), ..v1::Subscribe::default() }
}

/// A cluster of three with a stream of three records that all have, and its uid.
async fn with_records() -> (Cluster, StreamUid) {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    let ensured = cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    for offset in 0..3 {
        let value = format!("record {offset}").into_bytes();
        assert_eq!(cluster.publish(1, "s", &value).await, offset);
    }
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await.len(), 3);
    }
    (cluster, ensured.unwrap().stream_uid)
}

async fn cut_off(cluster: &Cluster, number: usize) {
    for other in (1..=3).filter(|other| *other != number) {
        cluster.disturbance.partition(ip(number), ip(other));
    }
    // What is sent at the same moment may have gone before.
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_serves_what_it_has_applied_and_nothing_that_may_not_stay() {
    for leads in [false, true] {
        let (cluster, _) = with_records().await;
        let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
        let leader = cluster.leader(1, shard).expect("the shard has a leader");
        let alone = if leads { leader } else { leader % 3 + 1 };
        cut_off(&cluster, alone).await;
        // A leader takes it for a while, and cannot know what becomes of it.
        let (connection, _control) = enter(&cluster.network, cluster.node(alone)).await;
        let mut lost = match leads {
            true => Some(publishers::open(&connection).await),
            false => None,
        };
        if let Some((writer, _)) = &mut lost {
            writer.send(publishers::frame(b"perhaps never")).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        let other = alone % 3 + 1;
        cluster.publish(other, "s", b"record 3").await;
        // Once more, perhaps, where nobody knew what had become of it.
        assert_eq!(cluster.read(other, "s").await[3], b"record 3");

        let mut all = Reader::begin(&cluster, alone, from(Start::Earliest(true))).await.unwrap();
        for offset in 0..3 {
            assert_eq!(all.next().await, (offset, format!("record {offset}").into_bytes()));
        }
        let mut some = Reader::begin(&cluster, alone, from(Start::Offset(2))).await.unwrap();
        assert_eq!(some.next().await, (2, b"record 2".to_vec()));
        let mut later = Reader::begin(&cluster, alone, from(Start::Offset(3))).await.unwrap();
        all.is_silent().await;
        some.is_silent().await;
        later.is_silent().await;
        // These ask for what it cannot know.
        let until_end = v1::Subscribe { until_end: true, ..from(Start::Earliest(true)) };
        for unknown in [from(Start::Latest(true)), from(Start::Last(1)), until_end] {
            let refused = Reader::begin(&cluster, alone, unknown).await.map(drop).unwrap_err();
            assert_eq!(refused.code, ErrorCode::Unavailable, "{refused}");
        }

        cluster.disturbance.heal_all();
        for reader in [&mut all, &mut some, &mut later] {
            assert_eq!(reader.next().await, (3, b"record 3".to_vec()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_stream_of_the_name_is_not_taken_for_the_one_that_is_asked_for() {
    let (cluster, old) = with_records().await;
    cut_off(&cluster, 3).await;
    sleep(Duration::from_secs(5)).await;
    let streams = &cluster.node(1).streams;
    streams.delete(&name("s")).await.unwrap();
    let new = streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap().stream_uid;
    assert_ne!(new, old);
    assert_eq!(cluster.publish(1, "s", b"new").await, 0);
    let only =
        |uid: StreamUid| v1::Subscribe { stream_uid: uid.to_wire(), ..from(Start::Earliest(true)) };
    // Who knows the new one is not told of the old one, nor that its own is gone.
    let refused = Reader::begin(&cluster, 3, only(new)).await.map(drop).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable, "{refused}");
    for asked in [only(old), from(Start::Earliest(true))] {
        let mut reader = Reader::begin(&cluster, 3, asked).await.unwrap();
        assert_eq!(reader.uid, old.to_wire());
        assert_eq!(reader.next().await, (0, b"record 0".to_vec()));
    }

    cluster.disturbance.heal_all();
    for number in 1..=3 {
        let mut reader = Reader::begin(&cluster, number, only(new)).await.unwrap();
        assert_eq!(
            (reader.uid.clone(), reader.next().await),
            (new.to_wire(), (0, b"new".to_vec()))
        );
        let refused = Reader::begin(&cluster, number, only(old)).await.map(drop).unwrap_err();
        assert_eq!(refused.code, ErrorCode::StreamDeleted, "node {number}: {refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_has_no_later_stream_of_the_name_deleted() {
    let (cluster, old) = with_records().await;
    cut_off(&cluster, 3).await;
    sleep(Duration::from_secs(5)).await;
    // It looks for whoever knows which stream has the name now.
    let (connection, _control) = enter(&cluster.network, cluster.node(3)).await;
    let mut line = connection.open().await.unwrap();
    let delete = v1::DeleteStream { name: "s".to_owned(), ..Default::default() };
    let call = Some(v1::admin_request::Call::DeleteStream(delete));
    line.0.send(Frame::new(&v1::AdminRequest { id: 1, call })).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    connection.close(None, "the client has had enough");

    let streams = &cluster.node(1).streams;
    assert_eq!(streams.delete(&name("s")).await.unwrap(), old);
    streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    // Nor has who says which one is meant.
    let refused = streams.to_delete(&name("s"), Some(old)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::StreamDeleted);
    assert_eq!(cluster.publish(1, "s", b"new").await, 0);
    cluster.disturbance.heal_all();
    sleep(LONG).await;
    assert_eq!(cluster.read(1, "s").await, [b"new"]);
}
