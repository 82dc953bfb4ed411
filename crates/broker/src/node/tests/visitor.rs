//! What a node does for others, asked by one that does as it likes.

use bytes::Bytes;
use railgun_core::command::{Command, CommandBody};
use railgun_core::shard::{Appended, Outcome};
use railgun_net::peer::PeerEndpoint;
use railgun_proto::convert::Uid;
use railgun_types::Offset;

use super::cluster_rig::{Cluster, PATIENCE, SETTLED, ip};
use super::*;
use v1::peer_call::Call;
use v1::peer_reply::Answer;

/// The other one's uid, number and host.
const UID: [u8; 16] = [77; 16];
const NUMBER: usize = 77;

/// A connection to a node.
struct Visit {
    connection: Connection,
    /// Its first stream.
    line: (FrameWriter, FrameReader),
    _endpoint: PeerEndpoint,
}

impl Visit {
    /// As a node with this uid.
    async fn begin(cluster: &Cluster, number: usize, line_use: v1::PeerUse, uid: &[u8]) -> Self {
        let (here, there) =
            (SocketAddr::from((ip(NUMBER), 0)), SocketAddr::from((ip(number), 9_401)));
        let endpoint = cluster.network.listen_peer(here).unwrap();
        let connection = endpoint.connect(there).await.unwrap();
        let mut line = connection.open().await.unwrap();
        let from = v1::NodeAbout {
            uid: Bytes::copy_from_slice(uid),
            process: vec![1; 16].into(),
            cluster_uid: cluster.node(number).streams.cluster().to_wire(),
            node_id: NUMBER as u32,
            peer_address: here.to_string(),
            ..v1::NodeAbout::default()
        };
        let hello = v1::PeerHello {
            version_min: 1,
            version_max: 1,
            r#use: line_use.into(),
            from: Some(from),
        };
        line.0.send(Frame::new(&hello)).await.unwrap();
        assert!(line.1.next_of::<v1::PeerWelcome>().await.unwrap().is_some());
        Self { connection, line, _endpoint: endpoint }
    }

    /// Makes calls, with numbers from here on.
    async fn call(&mut self, first: u64, calls: impl IntoIterator<Item = Call>) {
        let call = |(id, call)| Frame::new(&v1::PeerCall { id, call: Some(call) });
        self.line.0.send_all((first..).zip(calls).map(call)).await.unwrap();
    }

    async fn answer(&mut self) -> (u64, Answer) {
        let reply = timeout(PATIENCE, self.line.1.next_of::<v1::PeerReply>()).await;
        let reply = reply.expect("in time").unwrap().unwrap();
        (reply.id, reply.answer.unwrap())
    }

    /// A stream on which commands are relayed to a shard.
    async fn relay(&self, cluster: &Cluster, shard: ShardId) -> (FrameWriter, FrameReader) {
        let cluster_uid = cluster.node(1).streams.cluster().to_wire();
        let open = v1::PeerOpen {
            to: Some(v1::ReplicaAddress { cluster_uid, shard: shard.0, replica: 0 }),
            r#use: v1::PeerStreamUse::PeerStreamRelay.into(),
            session: None,
        };
        let mut stream = self.connection.open().await.unwrap();
        stream.0.send(Frame::new(&open)).await.unwrap();
        stream
    }
}

/// Three nodes with the stream "s", its shard, and the node that leads this.
async fn with_stream() -> (Cluster, StreamUid, ShardId, usize) {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    cluster.publish(1, "s", b"first").await;
    sleep(SETTLED).await;
    let found = cluster.node(1).streams.resolve(&name("s")).await.unwrap();
    let (stream, shard) = (found.stream, found.shard.id());
    let leader = cluster.leader(1, shard).expect("somebody leads");
    (cluster, stream, shard, leader)
}

#[tokio::test(start_paused = true)]
async fn what_another_node_has_damaged_is_not_appended() {
    let (cluster, stream, shard, leader) = with_stream().await;
    let visit = Visit::begin(&cluster, leader, v1::PeerUse::Bulk, &UID).await;
    let (mut writer, mut reader) = visit.relay(&cluster, shard).await;
    let batch = one_record(b"a value");
    let mut damaged = batch.as_bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 4;
    // Header and table do not tell.
    let damaged = RecordBatch::open(damaged.into()).unwrap();
    assert!(damaged.clone().verified().is_err());
    let mut relayed = async |batches: &[&RecordBatch]| {
        let append = |batch: &&RecordBatch| {
            let (batch, mode) = (RecordBatch::clone(batch), AppendMode::Each);
            Append { stream, producer: None, mode, expected_end: None, dead_letter: None, batch }
        };
        let body = CommandBody::Append(batches.iter().map(append).collect());
        let command = Command { ts: Timestamp::default(), body }.encode();
        writer.send(Frame::with_blob(&v1::PeerData::default(), command)).await.unwrap();
        let answer = timeout(PATIENCE, reader.next()).await.expect("in time").unwrap().unwrap();
        let head = answer.decode::<v1::PeerData>().unwrap().head;
        (head.to_vec(), Outcome::decode(&answer.blob()).ok())
    };
    // Nothing of it is, and it is told so.
    assert_eq!(relayed(&[&batch, &damaged]).await, (vec![7], None));
    // What comes behind it is.
    let (head, outcome) = relayed(&[&batch]).await;
    let Some(Outcome::Appended(results)) = outcome else { panic!("{head:?}: {outcome:?}") };
    assert!(matches!(results[..], [Ok(Appended { base: Offset(1), .. })]), "{results:?}");
    assert_eq!(cluster.read(1, "s").await, [&b"first"[..], b"a value"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_clients_never_stands_before_what_the_cluster_needs() {
    let (mut cluster, stream, shard, _) = with_stream().await;
    let mut visit = Visit::begin(&cluster, 1, v1::PeerUse::Control, &UID).await;
    let of = v1::ReplicaAddress {
        cluster_uid: cluster.node(1).streams.cluster().to_wire(),
        shard: shard.0,
        replica: 0,
    };
    // Alone, it waits for others before it says what is newest.
    cluster.kill(2).await;
    cluster.kill(3).await;
    sleep(SETTLED).await;
    let describe = v1::DescribeStreams {
        of: Some(of.clone()),
        stream_uids: vec![stream.to_wire()],
        current: true,
        dead_letters_of: String::new(),
    };
    let asked = vec![Call::DescribeStreams(describe); 1_000];
    let reads = vec![Call::ReadIndex(of); 1_000];
    visit.call(0, asked.into_iter().chain(reads)).await;
    visit.call(2_000, [Call::Greet(v1::NodeAbout::default())]).await;
    let begin = Instant::now();
    let mut answered = 0;
    while !matches!(visit.answer().await, (2_000, Answer::Greeted(_))) {
        answered += 1;
    }
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    assert!((1_000..2_000).contains(&answered), "{answered} are refused, and some are tried");
    // Each gets its answer in the end, and there is a place for the next one.
    for _ in answered..2_000 {
        assert!(matches!(visit.answer().await, (_, Answer::Error(_))));
    }
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_has_no_replica_of_another_replaced() {
    let (cluster, _, shard, _) = with_stream().await;
    let mut visit = Visit::begin(&cluster, 1, v1::PeerUse::Control, &UID).await;
    let first = |node: usize| ReplicaId::new(NodeId(node as u32), 1);
    let address = |uid: Bytes, node| v1::ReplicaAddress {
        cluster_uid: uid,
        shard: shard.0,
        replica: first(node).0,
    };
    let ours = cluster.node(1).streams.cluster().to_wire();
    let wrong = Call::Reincarnate(address(vec![1; 16].into(), 2));
    let others = [2, NUMBER].map(|node| Call::Reincarnate(address(ours.clone(), node)));
    visit.call(0, [wrong].into_iter().chain(others)).await;
    let mut codes = BTreeMap::new();
    for _ in 0..3 {
        match visit.answer().await {
            (id, Answer::Error(error)) => codes.insert(id, WireError::from(error).code),
            other => panic!("{other:?}"),
        };
    }
    let expected = [ErrorCode::WrongCluster, ErrorCode::Unavailable, ErrorCode::Unavailable];
    assert!(codes.into_values().eq(expected));
    sleep(SETTLED).await;
    assert_eq!(cluster.node(2).on_node.borrow()[&shard].replica, first(2));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_who_it_is_is_shown_round_and_no_more() {
    let (cluster, _, shard, leader) = with_stream().await;
    for line_use in [v1::PeerUse::Control, v1::PeerUse::Bulk, v1::PeerUse::Clients] {
        let mut visit = Visit::begin(&cluster, leader, line_use, &[]).await;
        visit.call(0, [Call::Greet(v1::NodeAbout::default())]).await;
        let (_writer, mut reader) = visit.relay(&cluster, shard).await;
        for reader in [&mut reader, &mut visit.line.1] {
            let said = timeout(PATIENCE, reader.next()).await.expect("in time");
            assert!(!matches!(said, Ok(Some(_))), "{said:?}");
        }
    }
}
