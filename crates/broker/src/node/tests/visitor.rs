//! What a node does for others, asked by one that does as it likes.

use bytes::Bytes;
use railgun_core::command::{Command, CommandBody};
use railgun_core::shard::{Appended, Outcome};
use railgun_net::peer::PeerEndpoint;
use railgun_proto::convert::Uid;
use railgun_types::Offset;

use super::cluster_rig::{Cluster, PATIENCE, ip};
use super::*;

/// The other one's uid, number and host.
const UID: [u8; 16] = [77; 16];
const NUMBER: usize = 77;

/// A connection to a node.
struct Visit {
    connection: Connection,
    /// Its first stream.
    _line: (FrameWriter, FrameReader),
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
        Self { connection, _line: line, _endpoint: endpoint }
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
            Append { stream, producer: None, mode, expected_end: None, batch }
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
