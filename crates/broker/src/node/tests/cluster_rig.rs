//! Nodes that are one cluster, for tests: their disks, their bucket and the network between them.

use std::net::IpAddr;

use railgun_net::memory::{Crash, Disturbance};

use super::*;

/// Long enough for an election, and for a node to learn that another is gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// After this the leads are where they are to be, and stay there.
pub(super) const SETTLED: Duration = crate::leads::QUIET.saturating_add(Duration::from_secs(3));
const CLIENTS: u16 = 9_400;
const PEERS: u16 = 9_401;

/// A cluster in the making, and what outlives its nodes.
pub(super) struct Cluster {
    pub(super) network: MemoryNetwork,
    pub(super) disturbance: Disturbance,
    pub(super) bucket: Bucket,
    pub(super) disks: Vec<SimDisk>,
    pub(super) nodes: Vec<Option<Broker>>,
    lives: u64,
    begun: Instant,
    /// The key of the authority, on the nodes that have it.
    pub(super) authorities: BTreeMap<usize, Arc<ClusterCa>>,
    /// What clients must show one of.
    pub(super) tokens: Vec<TokenHash>,
    /// What operators must, if there are any.
    pub(super) admin_tokens: Vec<TokenHash>,
    /// How far the clock of each node is off, in µs.
    pub(super) clocks: BTreeMap<usize, Arc<AtomicI64>>,
    /// The machines of nodes that have been put on another than the one with their number.
    pub(super) moved: BTreeMap<usize, usize>,
    /// The machines that nodes are told of.
    pub(super) seeds: Vec<usize>,
}

/// The time that tokio's has, and as far off as it is set.
#[derive(Debug)]
struct ShiftedClock {
    begun: Instant,
    off_us: Arc<AtomicI64>,
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.begun.elapsed().as_micros() as i64;
        Timestamp(1_772_409_570_000_000 + elapsed + self.off_us.load(Relaxed))
    }
}

pub(super) fn ip(number: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, number as u8])
}

/// Where nodes reach the one on this machine.
pub(super) fn peers_of(host: usize) -> String {
    SocketAddr::from((ip(host), PEERS)).to_string()
}

impl Cluster {
    pub(super) fn new(nodes: usize) -> Self {
        let (network, disturbance) = MemoryNetwork::disturbed(7);
        let bucket = Bucket::open("memory://", &BucketOptions::new(1)).unwrap();
        let disks = (0..nodes).map(|_| SimDisk::default()).collect();
        let nodes = (0..nodes).map(|_| None).collect();
        let authorities = BTreeMap::new();
        let (clocks, begun) = (BTreeMap::new(), Instant::now());
        Self {
            network,
            disturbance,
            bucket,
            disks,
            nodes,
            lives: 0,
            begun,
            authorities,
            tokens: Vec::new(),
            admin_tokens: Vec::new(),
            clocks,
            moved: BTreeMap::new(),
            seeds: vec![1, 2, 3],
        }
    }

    /// Starts the nodes with these numbers, from 1, at the same time.
    pub(super) async fn start(&mut self, numbers: &[usize]) {
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

    pub(super) fn spec(&self, number: usize, life: u64) -> BrokerSpec {
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
        let host = self.host(number);
        let address = move |port| SocketAddr::from((host, port));
        BrokerSpec {
            seams: Seams {
                disk: Arc::new(self.disks[number - 1].clone()),
                log_driver: LogDriver::Task(options, Box::new(uuids), pace),
                clock: Arc::new(ShiftedClock {
                    begun: self.begun,
                    off_us: self.clocks.get(&number).cloned().unwrap_or_default(),
                }),
                entropy: counted,
                ..spec.seams
            },
            bucket: self.bucket.clone(),
            listen: Box::new(move || clients.listen(address(CLIENTS)).map_err(taken)),
            address: address(CLIENTS).to_string(),
            tokens: self.tokens.clone(),
            admin_tokens: self.admin_tokens.clone(),
            cluster: Some(ClusterSpec {
                listen: Box::new(move || peers.listen_peer(address(PEERS)).map_err(taken)),
                peer_address: address(PEERS).to_string(),
                seeds: self.seeds.iter().map(|host| peers_of(*host)).collect(),
                bootstrap_expect: 3,
                replicas: 3,
                ca: self.authorities.get(&number).cloned(),
                discovery: None,
            }),
            ..spec
        }
    }

    /// The machine that a node is on.
    fn host(&self, number: usize) -> IpAddr {
        ip(self.moved.get(&number).copied().unwrap_or(number))
    }

    pub(super) fn node(&self, number: usize) -> &Broker {
        self.nodes[number - 1].as_ref().expect("it runs")
    }

    /// Ends a node as a power cut does.
    pub(super) async fn kill(&mut self, number: usize) {
        self.disturbance.crash(self.host(number), Crash::Silent);
        drop(self.nodes[number - 1].take());
        sleep(Duration::from_millis(1)).await;
        self.disks[number - 1].crash(&railgun_log::CrashPlan::LoseAll);
    }

    /// What the time is.
    pub(super) fn right_clock(&self) -> Arc<dyn Clock> {
        Arc::new(ShiftedClock { begun: self.begun, off_us: Arc::default() })
    }

    /// A further machine, with an empty disk.
    pub(super) fn add_host(&mut self) {
        self.disks.push(SimDisk::default());
        self.nodes.push(None);
    }

    /// Who leads the shard of the stream, as this node knows.
    pub(super) fn leader(&self, number: usize, shard: ShardId) -> Option<usize> {
        let on_node = self.node(number).on_node.borrow();
        let leader = on_node.get(&shard)?.raft.leader().state().leader?;
        Some(leader.node().0 as usize)
    }

    /// Waits until a node's replica of the shard is this incarnation, and one of three voters in force.
    pub(super) async fn votes_again(&self, number: usize, shard: ShardId, incarnation: u16) {
        let replica = ReplicaId::new(NodeId(number as u32), incarnation);
        let votes = async {
            loop {
                let there = self.node(number).on_node.borrow().get(&shard).cloned();
                if let Some(local) = there.filter(|local| local.replica == replica)
                    && local.raft.metrics().voters.contains(&replica)
                    && local.raft.metrics().voters.len() == 3
                {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, votes).await.expect("the replica votes");
    }

    /// Publishes through a node until that is acknowledged; the offset.
    pub(super) async fn publish(&self, number: usize, stream: &str, value: &[u8]) -> u64 {
        let attempt = async || -> Option<u64> {
            let (connection, _control) = enter(&self.network, self.node(number)).await;
            let (mut writer, mut reader) = connection.open().await.ok()?;
            writer.send(Frame::new(&v1::OpenPublisher::default())).await.ok()?;
            reader.next_of::<v1::PublisherOpened>().await.ok()??;
            let bind = v1::BindStream { alias: 1, stream: stream.to_owned(), ..Default::default() };
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
    pub(super) async fn read(&self, number: usize, stream: &str) -> Vec<Vec<u8>> {
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
