//! Three nodes that are one cluster: they come together, replicate, and go on without one of them.

use std::net::IpAddr;

use railgun_net::memory::{Crash, Disturbance};

use super::*;

/// Long enough for an election, and for a node to learn that another is gone.
const PATIENCE: Duration = Duration::from_secs(20);
const CLIENTS: u16 = 9_400;
const PEERS: u16 = 9_401;

/// A cluster in the making, and what outlives its nodes.
struct Cluster {
    network: MemoryNetwork,
    disturbance: Disturbance,
    bucket: Bucket,
    disks: Vec<SimDisk>,
    nodes: Vec<Option<Broker>>,
    lives: u64,
}

fn ip(number: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, number as u8])
}

impl Cluster {
    fn new(nodes: usize) -> Self {
        let (network, disturbance) = MemoryNetwork::disturbed(7);
        let bucket = Bucket::open("memory://", &BucketOptions::new(1)).unwrap();
        let disks = (0..nodes).map(|_| SimDisk::default()).collect();
        let nodes = (0..nodes).map(|_| None).collect();
        Self { network, disturbance, bucket, disks, nodes, lives: 0 }
    }

    /// Starts the nodes with these numbers, from 1, at the same time.
    async fn start(&mut self, numbers: &[usize]) {
        let starting = numbers.iter().map(|&number| {
            self.lives += 1;
            Broker::start(self.spec(number, self.lives))
        });
        let starting: Vec<_> = starting.collect();
        let started = timeout(PATIENCE, futures::future::join_all(starting)).await;
        for (number, broker) in numbers.iter().zip(started.expect("the nodes come together")) {
            self.nodes[number - 1] = Some(broker.unwrap());
        }
    }

    fn spec(&self, number: usize, life: u64) -> BrokerSpec {
        let spec = spec_with(
            &self.network,
            Arc::<Pool>::default(),
            Box::new(|| Duration::from_micros(100)),
        );
        let counted = Arc::new(Counted(AtomicI64::new(0), AtomicU64::new(life << 32)));
        let options = LogOptions { file_bytes: 1 << 20, ..LogOptions::default() };
        let mut files = u128::from(life) << 64;
        let uuids = move || {
            files += 1;
            files.to_be_bytes()
        };
        let pace: Pace = Box::new(|| Duration::from_micros(100));
        let (clients, peers) = (self.network.clone(), self.network.clone());
        let taken = |taken: railgun_net::memory::AddrInUse| BindError {
            addr: taken.addr,
            source: std::io::Error::other(taken),
        };
        let address = move |port| SocketAddr::from((ip(number), port));
        BrokerSpec {
            seams: Seams {
                disk: Arc::new(self.disks[number - 1].clone()),
                log_driver: LogDriver::Task(options, Box::new(uuids), pace),
                clock: Arc::clone(&counted) as _,
                entropy: counted,
                ..spec.seams
            },
            bucket: self.bucket.clone(),
            listen: Box::new(move || clients.listen(address(CLIENTS)).map_err(taken)),
            address: address(CLIENTS).to_string(),
            cluster: Some(ClusterSpec {
                listen: Box::new(move || peers.listen_peer(address(PEERS)).map_err(taken)),
                peer_address: address(PEERS).to_string(),
                seeds: (1..=3).map(|n| SocketAddr::from((ip(n), PEERS)).to_string()).collect(),
                bootstrap_expect: 3,
                replicas: 3,
            }),
            ..spec
        }
    }

    fn node(&self, number: usize) -> &Broker {
        self.nodes[number - 1].as_ref().expect("it runs")
    }

    /// Ends a node as a power cut does.
    async fn kill(&mut self, number: usize) {
        self.disturbance.crash(ip(number), Crash::Silent);
        drop(self.nodes[number - 1].take());
        sleep(Duration::from_millis(1)).await;
        self.disks[number - 1].crash(&railgun_log::CrashPlan::LoseAll);
    }

    /// Who leads the shard of the stream, as this node knows.
    fn leader(&self, number: usize, shard: ShardId) -> Option<usize> {
        let on_node = self.node(number).on_node.borrow();
        let leader = on_node.get(&shard)?.raft.leader().state().leader?;
        Some(leader.node().0 as usize)
    }

    /// Publishes through a node until that is acknowledged; the offset.
    async fn publish(&self, number: usize, stream: &str, value: &[u8]) -> u64 {
        let attempt = async || -> Option<u64> {
            let (connection, _control) = enter(&self.network, self.node(number)).await;
            let (mut writer, mut reader) = connection.open().await.ok()?;
            writer.send(Frame::new(&v1::OpenPublisher::default())).await.ok()?;
            reader.next_of::<v1::PublisherOpened>().await.ok()??;
            let bind = v1::BindStream { alias: 1, stream: stream.to_owned() };
            writer.send(Frame::new(&bind)).await.ok()?;
            let bound = reader.next_of::<v1::StreamBound>().await.ok()??;
            if bound.error.is_some() {
                return None;
            }
            let batch = one_record(value);
            let batch_bytes = batch.len() as u32;
            let item = v1::PublishItem { alias: 1, batch_bytes, ..Default::default() };
            let publish = v1::Publish { items: vec![item] };
            let frame = Frame::with_blob(&publish, vec![batch.as_bytes().clone()]);
            writer.send(frame).await.ok()?;
            let result = reader.next_of::<v1::PublishResult>().await.ok()??.items.remove(0);
            result.error.is_none().then_some(result.base_offset)
        };
        let published = async {
            loop {
                if let Some(offset) = attempt().await {
                    return offset;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, published).await.expect("it is published")
    }

    /// Everything in the stream, read from a node.
    async fn read(&self, number: usize, stream: &str) -> Vec<Vec<u8>> {
        let (connection, _control) = enter(&self.network, self.node(number)).await;
        let mut line = connection.open().await.unwrap();
        let subscribe = v1::Subscribe {
            stream: stream.to_owned(),
            start: Some(v1::subscribe::Start::Earliest(true)),
            until_end: true,
            credit_bytes: u64::MAX,
            ..v1::Subscribe::default()
        };
        line.0.send(Frame::new(&subscribe)).await.unwrap();
        let mut values = Vec::new();
        loop {
            let frame = timeout(PATIENCE, line.1.next()).await.unwrap().unwrap().unwrap();
            match frame.kind() {
                FrameKind::Subscribed => {}
                FrameKind::Deliver => {
                    let batch = RecordBatch::verify(frame.blob()).unwrap();
                    values.extend(batch.records().map(|r| r.content().unwrap().value.to_vec()));
                }
                FrameKind::End => return values,
                other => panic!("{other:?}: {:?}", frame.decode::<v1::Error>()),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_nodes_come_together_replicate_and_go_on_without_one() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    let uids: Vec<_> = (1..=3).map(|n| cluster.node(n).cluster_uid()).collect();
    assert!(uids.iter().all(|uid| *uid == uids[0]), "{uids:?}");

    let ensured = cluster.node(2).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    ensured.unwrap();
    // Through every node, whoever leads.
    let mut values = Vec::new();
    for number in [1, 2, 3, 1, 2, 3] {
        let value = format!("{} through {number}", values.len()).into_bytes();
        assert_eq!(cluster.publish(number, "s", &value).await, values.len() as u64);
        values.push(value);
    }
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
    }

    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    let leader = cluster.leader(1, shard).expect("the shard has a leader");
    cluster.kill(leader).await;
    let others: Vec<_> = (1..=3).filter(|n| *n != leader).collect();
    let value = b"without the leader".to_vec();
    assert_eq!(cluster.publish(others[0], "s", &value).await, values.len() as u64);
    values.push(value);
    for &number in &others {
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
    }

    cluster.start(&[leader]).await;
    assert_eq!(cluster.read(leader, "s").await, values, "the node that is back");
}
