//! A simulated node: its disk, bucket, clock and address outlive the lives that it is started for.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use railgun_broker::{Broker, BrokerSpec, ClusterSpec, LogDriver, NodeFailure, Seams, StartError};
use railgun_log::{CrashPlan, Disk, LogOptions, SimDisk, read_full_at};
use railgun_net::BindError;
use railgun_net::memory::{AddrInUse, Crash as HostCrash, Disturbance, MemoryNetwork};
use railgun_raft::{Failure, Inline};
use railgun_types::ShardId;
use tokio::sync::Notify;

use super::bucket::SimBucket;
use super::clock::{SimClock, SimEntropy};
use super::crowd::Crowd;
use super::cut::{Cut, Point};
use super::dial::SimDial;
use super::disk::{Hooks, LifeDisk};
use super::options::{Bug, Shape};
use super::random::Random;
use super::shared::Shared;
use super::trace::Trace;

/// Slowest step of a disk in good health.
const STEP_MAX_US: u64 = 2_000;

/// More replicas of a shard than a node has, one after the other.
const LIVES_MAX: u16 = 32;

/// Where nodes of a cluster listen to clients, and to each other.
const CLIENTS: u16 = 9_400;
const PEERS: u16 = 9_401;

/// A node's place among those of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// From 1.
    pub(super) number: u8,
    /// Nodes that form the cluster.
    pub(super) nodes: u8,
    pub(super) disturbance: Disturbance,
}

impl Place {
    /// The host of the node with this number.
    pub(super) fn host_of(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    /// Where the node with this number listens to clients.
    pub(super) fn clients_of(number: u8) -> SocketAddr {
        (Self::host_of(number), CLIENTS).into()
    }

    fn peers_of(number: u8) -> SocketAddr {
        (Self::host_of(number), PEERS).into()
    }

    pub(super) fn host(&self) -> IpAddr {
        Self::host_of(self.number)
    }

    /// Every connection with another node breaks.
    pub(super) fn cut_off(&self) {
        let others = (1..=self.nodes).filter(|number| *number != self.number);
        others.for_each(|other| self.disturbance.cut(self.host(), Self::host_of(other)));
    }

    fn cluster(&self, network: MemoryNetwork) -> ClusterSpec {
        let own = Self::peers_of(self.number);
        ClusterSpec {
            listen: Box::new(move || network.listen_peer(own).map_err(in_use)),
            peer_address: own.to_string(),
            seeds: (1..=self.nodes).map(|number| Self::peers_of(number).to_string()).collect(),
            bootstrap_expect: self.nodes.into(),
            replicas: self.nodes,
            ca: None,
            discovery: None,
        }
    }
}

fn in_use(taken: AddrInUse) -> BindError {
    BindError { addr: taken.addr, source: std::io::Error::other(taken) }
}

/// What every life of the node shares.
#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) disk: SimDisk,
    pub(super) bucket: SimBucket,
    pub(super) clock: SimClock,
    pub(super) dial: SimDial,
    pub(super) shape: Shape,
    pub(super) bug: Option<Bug>,
    pub(super) hooks: Hooks,
    /// The bucket that it is started with as long as nobody notices that it is another one's.
    mistyped: Shared<Option<SimBucket>>,
    /// Longest step of the disk in good health, in µs.
    usual_step_us: u64,
    /// Longest step of the disk now, in µs: a slow one has more.
    step_us: Shared<u64>,
    entropy: SimEntropy,
    random: Shared<Random>,
    trace: Trace,
}

/// A running node.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) broker: Arc<Broker>,
    disk: LifeDisk,
    ended: Arc<AtomicBool>,
    addr: SocketAddr,
    _crowd: Option<Crowd>,
}

impl SimNode {
    pub(super) fn new(
        shape: Shape,
        bug: Option<Bug>,
        bucket: SimBucket,
        dial: SimDial,
        mut random: Random,
        trace: Trace,
    ) -> Self {
        let hooks = Hooks {
            removed: Arc::default(),
            synced: Arc::default(),
            syncs_left: Shared::new(None),
            answers_left: Shared::new(None),
            replies_left: Shared::new(None),
            dial: dial.clone(),
            place: None,
            cut: bucket.cut.clone(),
        };
        Self {
            disk: SimDisk::default(),
            bucket,
            clock: SimClock::begin(),
            dial,
            shape,
            bug,
            hooks,
            mistyped: Shared::new(None),
            usual_step_us: STEP_MAX_US,
            step_us: Shared::new(STEP_MAX_US),
            entropy: SimEntropy::new(random.fork()),
            random: Shared::new(random),
            trace,
        }
    }

    /// One of several nodes, of which whoever looks is told together.
    pub(super) fn in_cluster(
        self,
        place: Place,
        removed: Arc<Notify>,
        synced: Arc<Notify>,
    ) -> Self {
        // Points of a script are for a node alone; each counts the changes of its own disk.
        let hooks = Hooks { cut: Cut::new(), removed, synced, place: Some(place), ..self.hooks };
        Self { hooks, ..self }
    }

    /// Steps of its disk usually take up to so long.
    pub(super) fn with_usual_step(self, us: u64) -> Self {
        Self { usual_step_us: us, step_us: Shared::new(us), ..self }
    }

    /// The log's settings, without planted bugs.
    pub(super) fn log_options(&self) -> LogOptions {
        LogOptions {
            file_bytes: self.shape.file_bytes,
            ring_bytes: self.shape.ring_bytes,
            mark_after: Duration::from_millis(self.shape.mark_after_ms),
            write_bytes_max: 256 << 10,
            space_retry_after: Duration::from_millis(300),
            ..LogOptions::default()
        }
    }

    /// Directories of all logs: the catalog's, then those of the data shards.
    pub(super) fn log_dirs(&self) -> Vec<PathBuf> {
        (0..=self.shape.shards).map(Self::log_dir).collect()
    }

    pub(super) fn log_dir(shard: u32) -> PathBuf {
        Self::replica_dir(ShardId(shard), 1).join("log")
    }

    /// Where a replica of this incarnation lies.
    pub(super) fn replica_dir(shard: ShardId, incarnation: u16) -> PathBuf {
        match incarnation {
            0 | 1 => format!("shards/{shard}").into(),
            _ => format!("shards/{shard}.{incarnation}").into(),
        }
    }

    /// Directories of the logs of the newest replicas that have begun, as the catalog's, then those of the
    /// data shards.
    pub(super) fn newest_log_dirs(&self, disk: &SimDisk) -> Vec<PathBuf> {
        let has_files = |dir: &PathBuf| disk.list(dir).is_ok_and(|names| !names.is_empty());
        let newest = |shard: u32| {
            let dirs = (1..=LIVES_MAX).rev();
            let mut dirs = dirs.map(|life| Self::replica_dir(ShardId(shard), life).join("log"));
            dirs.find(has_files).unwrap_or_else(|| Self::log_dir(shard))
        };
        (0..=self.shape.shards).map(newest).collect()
    }

    /// How slow the disk is at most; `None`: as usual.
    pub(super) fn set_slowness(&self, us: Option<u64>) {
        self.step_us.with(|now| *now = us.unwrap_or(self.usual_step_us));
    }

    /// Starts the node on what is on its disk.
    pub(super) async fn start(&self) -> Result<Life, StartError> {
        let ended = Arc::new(AtomicBool::new(false));
        let disk = LifeDisk::new(self.disk.clone(), self.hooks.clone(), self.trace.clone());
        let on_failure = EndOnDrop(Some((disk.clone(), Arc::clone(&ended))));
        let network = self.dial.network().clone();
        let (crowd, memory) = match self.shape.is_crowded {
            true => {
                let (crowd, memory) =
                    Crowd::gather(self.random.with(Random::fork), &self.trace).await;
                (Some(crowd), Some(memory))
            }
            false => (None, None),
        };
        let (address, addr) = match &self.hooks.place {
            None => ("simulated".to_owned(), ([127, 0, 0, 1], 0).into()),
            Some(place) => {
                let addr = Place::clients_of(place.number);
                (addr.to_string(), addr)
            }
        };
        let cluster = self.hooks.place.as_ref().map(|place| place.cluster(network.clone()));
        let bucket = self.mistyped().unwrap_or_else(|| self.bucket.clone());
        let listen = Box::new(move || {
            let listening = match memory {
                Some(memory) => network.listen_within(addr, memory),
                None => network.listen(addr),
            };
            listening.map_err(in_use)
        });
        let broker = Broker::start(BrokerSpec {
            seams: self.seams(disk.clone()),
            bucket: bucket.of_life(Arc::clone(&ended), self.bug),
            listen,
            address,
            tokens: Vec::new(),
            admin_tokens: Vec::new(),
            hot_bytes_max: self.shape.hot_bytes_max,
            shards: self.shape.shards,
            max_time_to_cold: self.shape.max_time_to_cold,
            streams_max: 100_000,
            cluster,
        })
        .await?;
        on_failure.disarm();
        let addr = broker.listen_addr();
        self.dial.set(addr);
        Ok(Life { broker: Arc::new(broker), disk, ended, addr, _crowd: crowd })
    }

    fn seams(&self, disk: LifeDisk) -> Seams {
        let mut options = self.log_options();
        options.builtin_bug = self.bug.and_then(Bug::of_log);
        let (mut uuids, mut pace) = self.random.with(|random| (random.fork(), random.fork()));
        let step_us = self.step_us.clone();
        let pace = move || {
            let longest = step_us.with(|us| *us);
            Duration::from_micros(pace.within(1..longest.max(2)))
        };
        Seams {
            disk: Arc::new(disk),
            log_driver: LogDriver::Task(options, Box::new(move || uuids.bytes()), Box::new(pace)),
            pool: Arc::new(Inline),
            background: None,
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(self.entropy.clone()),
            thresholds: self.shape.thresholds,
            builtin_bug: self.bug.and_then(Bug::of_broker),
        }
    }

    /// Loses every shard; the node knows who it is.
    pub(super) fn lose_shards(&self) {
        self.disk.lose("shards");
    }

    /// Whether it belongs to a cluster, by what is on its disk.
    pub(super) fn is_member(&self) -> bool {
        let Ok(file) = self.disk.open(Path::new("node.toml")) else { return false };
        let mut text = [0; 16 << 10];
        let read = read_full_at(&*file, &mut text, 0).unwrap_or(0);
        String::from_utf8_lossy(&text[..read]).contains("cluster = ")
    }

    /// It is started with another bucket than the cluster's; `None`: that is corrected.
    pub(super) fn mistype(&self, other: Option<SimBucket>) {
        self.mistyped.with(|mistyped| *mistyped = other);
    }

    /// The bucket that it is started with, if that is another than the cluster's.
    pub(super) fn mistyped(&self) -> Option<SimBucket> {
        self.mistyped.with(|mistyped| mistyped.clone())
    }

    /// Another machine has its address from now on, with an empty disk.
    pub(super) fn lose_everything(&self) {
        self.disk.lose("");
    }

    /// Plans where the next life is cut short.
    pub(super) fn cut_at(&self, point: Point) {
        let so_far = self.disk.operations();
        if let Point::Disk(changes) = point {
            self.disk.stop_after(Some(so_far + changes));
        }
        self.hooks.cut.plan(Some(point), so_far);
    }

    /// The node's host is gone from the network; to be called before its tasks end.
    pub(super) fn leave_network(&self, how: HostCrash) {
        if let Some(place) = &self.hooks.place {
            place.disturbance.crash(place.host(), how);
        }
    }

    /// Ends a life between two of its instructions; the disk keeps what `plan` says.
    pub(super) fn crash(&self, life: Option<Life>, plan: &CrashPlan) {
        if let Some(Life { broker, disk, ended, addr, _crowd }) = life {
            disk.end();
            ended.store(true, Ordering::Relaxed);
            self.dial.network().cut(addr);
            drop(broker);
        }
        self.hooks.syncs_left.with(|left| *left = None);
        self.hooks.set_answers_left(None, None);
        self.hooks.cut.plan(None, self.disk.operations());
        self.disk.crash(plan);
    }
}

impl Life {
    /// Resolves when the node has to end, with its reason.
    pub(super) async fn failed(&self) -> NodeFailure {
        self.broker.failed().await
    }

    /// Cuts every connection.
    pub(super) fn cut(&self, node: &SimNode) {
        node.dial.network().cut(self.addr);
    }

    /// Stops the node as an operator does.
    pub(super) async fn shutdown(&self, drain: Duration) {
        self.broker.shutdown(drain).await;
    }
}

/// Whether the disk may be the reason why a node has to end.
pub(super) fn is_of_disk(failure: &NodeFailure) -> bool {
    matches!(failure, NodeFailure::Disk { .. } | NodeFailure::Shard(Failure::Storage { .. }))
}

/// What a start that failed or was given up still does has no effect.
struct EndOnDrop(Option<(LifeDisk, Arc<AtomicBool>)>);

impl EndOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some((disk, ended)) = &self.0 {
            disk.end();
            ended.store(true, Ordering::Relaxed);
        }
    }
}
