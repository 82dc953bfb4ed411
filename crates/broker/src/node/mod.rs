//! Starts and stops a node: log (and with it the lock of the disk), identity, of a new cluster the bucket,
//! catalog, shards, offloaders, sessions, in this order.

mod clocks;
mod damaged;
mod error;
mod keeper;
mod lives;
mod neighbours;
mod setbacks;
mod spec;
mod starter;
#[cfg(test)]
mod tests;
mod uploads;
mod whereabouts;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use railgun_cold::Bucket;
use railgun_cold::owner;
use railgun_cold::reader::{ColdReader, ReaderOptions};
use railgun_core::command::{
    CatalogCommand, ClusterSettings, CommandBody, NodeInfo, SealScope, SegmentCommand,
};
use railgun_log::{LogError, ShardLog};
use railgun_net::peer::PeerEndpoint;
use railgun_net::{ClientFigures, Endpoint};
use railgun_raft::{Failure, LeaderState, NoPeers, PeerNetwork};
use railgun_types::{ClusterUid, ErrorCode, Limits, NodeId, NodeUid, ReplicaId, ShardId};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actors::Actors;
use crate::auth::Auth;
use crate::catalog::{CatalogHandle, ClusterView};
use crate::clock::Clock;
use crate::cluster_admin::ClusterAdmin;
use crate::cluster_bucket::{self, Standing};
use crate::identity::{Founder, Identity, Member};
use crate::inspection::{ReplicaState, StateDigest};
use crate::joining::Registrar;
use crate::leads::{self, LeadSpreader};
use crate::log_done::log_done;
use crate::offload::ObjectMemory;
use crate::on_node::{OnNode, OnNodeWatch};
use crate::peers::{Addresses, Findings, IdentityRefused, Listing, RaftPeers, Refusals};
use crate::routing::{self, Placements, Routing};
use crate::seams::{RunningLog, Seams};
use crate::session::{self, ClientService, Farewell, STOPPING, SessionContext};
use crate::shard::{MirrorScope, ShardFigures};
use crate::streams::Streams;
use clocks::ClockStanding;
pub use error::{NodeFailure, StartError};
use keeper::Keeper;
use neighbours::{Neighbours, ServiceSpec};
use setbacks::Setbacks;
pub use spec::{BrokerSpec, ClusterSpec, Listen, ListenForPeers};
use starter::{Begin, Starter};
use uploads::Uploads;

/// How long a shard may take to elect this node, which is alone.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stopping node may take at most for answering its clients and for the bucket together:
/// what [`Broker::shutdown`] bounds its `drain` by.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long clients are waited for that must be told that their connection is closed; the bucket
/// gets its records meanwhile.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long other nodes may take to lead what a stopping one leads.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node that starts waits for leaders before it takes clients.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a founder looks whether it is up to it to write down what the cluster is.
const LOOK_FOR_SETTINGS_EVERY: Duration = Duration::from_millis(100);

/// How often logs and checkpoints are asked whether their disk has failed: a log that fails while
/// nothing waits for it, at a mark or at preparing a file, tells nobody.
const LOOK_AT_LOGS_EVERY: Duration = Duration::from_millis(500);

/// A running node. Dropping it ends everything at once, as a crash of the process would; use
/// [`shutdown`](Self::shutdown) where clients should be answered first.
#[derive(Debug)]
pub struct Broker {
    cluster: ClusterUid,
    node: NodeId,
    listen: SocketAddr,
    endpoint: Arc<Endpoint>,
    /// Of a node that has others beside it.
    peer_endpoint: Option<Arc<PeerEndpoint>>,
    on_node: OnNodeWatch,
    view: watch::Receiver<Arc<ClusterView>>,
    /// What clients are told when the node stops.
    farewell: watch::Sender<Farewell>,
    /// Whether other nodes take another process for this node.
    refused: watch::Receiver<Option<IdentityRefused>>,
    /// Whether the bucket is known to be the cluster's.
    bucket: watch::Receiver<Standing>,
    /// What its clock is worth, of a node that has others beside it.
    clocks: Option<watch::Receiver<ClockStanding>>,
    /// Ends when dropped.
    _log: Arc<RunningLog>,
    ready: watch::Sender<bool>,
    /// No new work; finish what is in flight.
    stopping: CancellationToken,
    /// Everything ends.
    cancel: CancellationToken,
    sessions: TaskTracker,
    actors: Actors,
    #[cfg(test)]
    streams: Streams,
    #[cfg(test)]
    cluster_admin: ClusterAdmin,
    #[cfg(test)]
    memory: ObjectMemory,
}

impl Broker {
    /// Starts a node. When it returns, clients can connect. A node that is one of several waits until
    /// there is a cluster that it belongs to, as long as it takes. One that belongs to a cluster needs no
    /// bucket to start.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(spec: BrokerSpec) -> Result<Self, StartError> {
        let refused = watch::Sender::new(None);
        let mut is_refused = refused.subscribe();
        let bucket = watch::Sender::new(Standing::Unknown);
        tokio::select! {
            biased;
            refused = is_refused.wait_for(Option::is_some) => {
                let refused = refused.ok().and_then(|refused| refused.clone());
                let IdentityRefused { by, reason } = refused.unwrap_or_default();
                Err(StartError::IdentityConflict { by, reason })
            }
            wrong = cluster_bucket::is_wrong(bucket.subscribe()) => Err(wrong.into()),
            started = Box::pin(Self::start_as(spec, refused.clone(), bucket.clone())) => started,
        }
    }

    /// As [`start`](Self::start), and says in `refused` if this node is not to be itself any more, in
    /// `standing_of_bucket` whose the bucket is.
    async fn start_as(
        spec: BrokerSpec,
        refused: watch::Sender<Option<IdentityRefused>>,
        standing_of_bucket: watch::Sender<Standing>,
    ) -> Result<Self, StartError> {
        let cancel = CancellationToken::new();
        let on_failure = cancel.clone().drop_guard();
        let (actors, sessions) = (Actors::new(), TaskTracker::new());
        let planted = spec.seams.planted();
        let Seams { disk, log_driver, pool, background, clock, entropy, thresholds, .. } =
            spec.seams;
        let background = background.unwrap_or_else(Handle::current);
        // The writer locks the disk: a second process stops here.
        let log = log_driver.start(Arc::clone(&disk), &actors, cancel.clone())?;
        let log = Arc::new(log);
        let bucket = spec.bucket;
        let url = bucket.url().to_string();
        let known = Identity::load(&*disk, &url)?;
        if known.as_ref().is_none_or(|known| known.member.is_none()) {
            // Later it may be away, which says nothing about the settings.
            bucket.probe().await?;
        }
        let identity = match known {
            Some(identity) => identity,
            None => {
                let fresh = Identity { uid: NodeUid(entropy.uid()), bucket: url, member: None };
                fresh.keep(&*disk)?;
                fresh
            }
        };
        let (on_node_tx, on_node) = watch::channel(OnNode::default());
        let next_session = Arc::new(AtomicU64::new(0));
        let ca = spec.cluster.as_ref().and_then(|cluster| cluster.ca.clone());
        let is_refused = refused.subscribe();
        let mut others = match spec.cluster {
            None => None,
            Some(cluster) => {
                let service = ServiceSpec {
                    client_address: spec.address.clone(),
                    process: entropy.uid(),
                    clock: Arc::clone(&clock),
                    entropy: Arc::clone(&entropy),
                    refused,
                    on_node: on_node.clone(),
                    next_session: Arc::clone(&next_session),
                };
                Some(Neighbours::meet(cluster, &identity, service, &actors, &cancel)?)
            }
        };
        let is_alone = others.is_none();
        let identity = match &mut others {
            None if identity.member.is_some() => identity,
            None => {
                let cluster = ClusterUid(entropy.uid());
                let own = Founder {
                    uid: identity.uid,
                    node: NodeId(1),
                    peer_address: String::new(),
                    client_address: spec.address.clone(),
                };
                let member = Member::new(NodeId(1), cluster, vec![own]);
                let founded = Identity { member: Some(member), ..identity };
                founded.keep(&*disk)?;
                founded
            }
            Some(others) => {
                let formation =
                    others.formation(Arc::clone(&disk), Arc::clone(&entropy), bucket.clone());
                formation.come_to_cluster(identity, &mut others.asks).await?
            }
        };
        let Some(member) = identity.member.clone() else {
            unreachable!("a node that has come here belongs to a cluster")
        };
        let Member { node, cluster, founders, .. } = member;
        let is_first = node == NodeId(1) && !founders.is_empty();
        if is_first {
            cluster_bucket::claim(&bucket, cluster, clock.now()).await?;
            standing_of_bucket.send_replace(Standing::Ours);
        } else {
            let standing = standing_of_bucket.clone();
            let looking = Box::pin(cluster_bucket::look_at(bucket.clone(), cluster, standing));
            let looking = cancel.clone().run_until_cancelled_owned(looking);
            actors.spawn("the look at the bucket", async {
                looking.await;
            });
        }
        let bucket = bucket.behind(cluster_bucket::is_ours(standing_of_bucket.subscribe()));
        let (listing, listing_watch) = watch::channel(Listing::default());
        let clocks = match others.as_mut() {
            None => None,
            Some(others) => Some(others.clocks(cluster, node, listing_watch.clone()).await),
        };
        let findings = clocks.as_ref().map(|(_, whereabouts)| whereabouts.findings.subscribe());
        let findings = findings.unwrap_or_else(|| watch::channel(Findings::default()).1);
        let addresses = Addresses::new(listing_watch, findings);
        // Whatever is written into logs is stamped by this one.
        let clock =
            clocks.as_ref().map_or(clock, |(clocks, _)| clocks.log_clock() as Arc<dyn Clock>);
        let standing = clocks.as_ref().map(|(clocks, _)| clocks.standing());
        let registrar = Registrar { ca, entropy: Arc::clone(&entropy), clock: Arc::clone(&clock) };
        let (placements_tx, placements) = watch::channel(Placements::default());
        let peers: Arc<dyn PeerNetwork> = match &others {
            None => Arc::new(NoPeers),
            Some(others) => {
                let peers = others.peers.clone();
                Arc::new(RaftPeers { peers, cluster, addresses: addresses.clone() })
            }
        };
        let routing = Routing {
            own: node,
            cluster,
            on_node: on_node.clone(),
            actors: actors.clone(),
            others: others.as_ref().map(|others| {
                routing::Others::new(others.peers.clone(), addresses.clone(), placements)
            }),
            planted,
        };
        if let Some((clocks, whereabouts)) = clocks {
            let asking = cancel.clone().run_until_cancelled_owned(clocks.run(whereabouts));
            actors.spawn("the look at other clocks", async {
                asking.await;
            });
        }
        let mut starter = Starter {
            identity,
            log: Arc::clone(&log),
            disk: Arc::clone(&disk),
            address: others.as_ref().map_or_else(String::new, |o| o.peer_address.clone()),
            peers,
            is_alone,
            clock: Arc::clone(&clock),
            pool: Arc::clone(&pool),
            thresholds,
            planted,
            actors: actors.clone(),
            cancel: cancel.clone(),
            streams_max: spec.streams_max,
            on_node: on_node_tx,
        };
        let replicas = others.as_ref().map_or(1, |others| others.replicas);
        let wish = ClusterSettings {
            cluster,
            shards: spec.shards,
            replicas,
            hot_bytes_max: spec.hot_bytes_max,
        };
        let begin = match is_alone {
            true => Begin::Alone,
            false if is_first => Begin::With(first_members(&founders)),
            false => Begin::Later,
        };
        let replica = starter.begun(ShardId::CATALOG).unwrap_or(ReplicaId::new(node, 1));
        let hot_bytes = wish.hot_bytes_per_shard();
        let started = starter.catalog(replica, hot_bytes, begin).await;
        let catalog = match (started, others.as_mut()) {
            (Err(error), Some(others)) if lives::is_lost(&error) => {
                tracing::error!(%error, "this node's copy of the catalog is lost: it gets another");
                let replica = others.another_replica(cluster, ShardId::CATALOG, replica).await;
                starter.catalog(replica, hot_bytes, Begin::Later).await?
            }
            (started, _) => started?,
        };
        if let Some(others) = &others {
            others.has_begun();
        }
        let own = NodeInfo {
            uid: starter.identity.uid,
            peer_address: starter.address.clone(),
            client_address: spec.address,
            feature_level: keeper::FEATURE_LEVEL,
        };
        let founding = match (is_alone, founders.is_empty()) {
            (true, _) => Some(vec![(node, own.clone())]),
            (false, false) => Some(founders.iter().map(as_founding).collect()),
            // It joined, or the cluster was founded before.
            (false, true) => None,
        };
        let founding = founding.map(|nodes| CatalogCommand::Found { settings: wish, nodes });
        let own_uid = starter.identity.uid;
        let founded = founded(&catalog, &routing, founding.as_ref());
        let settings = match others.as_mut() {
            None => founded.await?,
            Some(others) => tokio::select! {
                biased;
                settings = founded => settings?,
                () = Neighbours::answer_meanwhile(&mut others.asks, cluster, own_uid) => {
                    unreachable!("other nodes may ask for as long as this one listens")
                }
            },
        };
        for ignored in starter::ignored(&wish, &settings) {
            tracing::warn!("{ignored}");
        }
        if !founders.is_empty() {
            starter.is_founded()?;
        }
        let memory = ObjectMemory::new();
        let uploads = Uploads {
            cluster,
            bucket: bucket.clone(),
            clock: Arc::clone(&clock),
            pool: Arc::clone(&pool),
            memory: memory.clone(),
            planted,
            max_time_to_cold: spec.max_time_to_cold,
            cut_bytes: settings.hot_bytes_per_shard() / 4,
            segment_bytes_min: thresholds.segment_bytes_min,
            actors: actors.clone(),
            background,
            standing: standing_of_bucket.subscribe(),
        };
        let farewell = watch::Sender::new(Farewell::default());
        let mut keeper = Keeper {
            starter,
            uploads,
            view: catalog.view(),
            catalog: catalog.clone(),
            routing: routing.clone(),
            own,
            node,
            listing,
            placements: placements_tx,
            removed: others.as_ref().map_or_else(watch::Sender::default, |o| o.removed.clone()),
            refusals: others.as_ref().map_or_else(Refusals::default, |o| o.refusals.clone()),
            farewell: farewell.clone(),
            ca: registrar.ca.clone(),
            spreader: LeadSpreader::default(),
            clocks: standing.clone().unwrap_or_else(|| watch::channel(ClockStanding::default()).1),
            clock,
            drained_since: None,
            setbacks: Setbacks::default(),
        };
        keeper.start_all(&settings).await?;
        let (peer_endpoint, others_clients) = others
            .map(|Neighbours { endpoint, asks, clients, .. }| {
                let kept = railgun_raft::inheriting(keeper.run(asks, cancel.clone()));
                actors.spawn("the keeper of the cluster", kept);
                (endpoint, clients)
            })
            .unzip();
        if !is_alone {
            // Whoever comes at once should find them; but a majority may be away for long.
            tokio::time::timeout(LEADERS_TIMEOUT, wait_for_leaders(&on_node)).await.ok();
        }
        let looked = tell_of_others(bucket.clone(), cluster);
        let looked = cancel.clone().run_until_cancelled_owned(looked);
        actors.spawn("the look at other clusters", async move {
            looked.await;
        });
        let cold = ColdReader::new(bucket.clone(), &ReaderOptions::default());
        let view = catalog.view();
        let cluster_admin =
            ClusterAdmin { catalog: catalog.clone(), routing: routing.clone(), registrar };
        let streams = Streams::new(catalog, routing, cold, bucket, entropy, pool);
        if is_alone && let Err(error) = streams.reconcile().await {
            tracing::warn!(%error, "half-done creations or deletions are left for the next start");
        }
        let stopping = CancellationToken::new();
        actors.spawn("the reconciler", streams.clone().keep_reconciled(stopping.clone()));
        let endpoint = Arc::new((spec.listen)()?);
        let context = Arc::new(SessionContext {
            streams: streams.clone(),
            cluster: cluster_admin.clone(),
            farewell: farewell.subscribe(),
            auth: Auth::new(spec.tokens),
            limits: Limits::default(),
            node_id: node.0,
            server: format!("railgun/{}", env!("CARGO_PKG_VERSION")),
            next_session,
            planted,
        });
        if let Some(clients) = others_clients {
            let (context, endpoint) = (Arc::clone(&context), Arc::clone(&endpoint));
            let (tasks, stopping) = (sessions.clone(), stopping.clone());
            clients.send_replace(Some(ClientService { context, endpoint, tasks, stopping }));
        }
        let accept = accept(Arc::clone(&endpoint), context, sessions.clone(), stopping.clone());
        sessions.spawn(accept);
        on_failure.disarm();
        Ok(Self {
            cluster,
            node,
            listen: endpoint.local_addr(),
            endpoint,
            peer_endpoint,
            on_node,
            view,
            farewell,
            refused: is_refused,
            clocks: standing,
            bucket: standing_of_bucket.subscribe(),
            _log: log,
            ready: watch::channel(true).0,
            stopping,
            cancel,
            sessions,
            actors,
            #[cfg(test)]
            streams,
            #[cfg(test)]
            cluster_admin,
            #[cfg(test)]
            memory,
        })
    }

    /// The address clients connect to.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// This life of the cluster.
    #[must_use]
    pub fn cluster_uid(&self) -> ClusterUid {
        self.cluster
    }

    /// The node's number in it.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Follows whether the node takes requests.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The figures of every data shard, in order.
    #[must_use]
    pub fn figures(&self) -> Vec<ShardFigures> {
        let on_node = self.on_node.borrow();
        let data = on_node.values().filter_map(|replica| replica.data());
        data.map(|data| data.handle.figures()).collect()
    }

    /// Where every replica of the node stands, for who compares them. Cancel safe.
    #[doc(hidden)]
    #[must_use]
    pub fn replica_states(&self) -> Vec<ReplicaState> {
        let on_node = self.on_node.borrow();
        on_node.iter().map(|(shard, local)| ReplicaState::of(*shard, local)).collect()
    }

    /// What tells the state of every replica of the node from that of others; replicas that are about
    /// to stop are left out. Encodes all of it: for tests. Cancel safe.
    #[doc(hidden)]
    pub async fn state_digests(&self) -> Vec<(ShardId, StateDigest)> {
        let on_node = self.on_node.borrow().clone();
        let mut digests = Vec::new();
        for (shard, local) in on_node.iter() {
            digests.extend(local.digest().await.map(|digest| (*shard, digest)));
        }
        digests
    }

    /// This node's clock less the median of the cluster's, in µs: 0 where that cannot be told. `None`: it
    /// has no others beside it.
    #[must_use]
    pub fn clock_off_us(&self) -> Option<i64> {
        self.clocks.as_ref().map(|standing| standing.borrow().off_us)
    }

    /// Whether the bucket has said, since the node was started, that it is the cluster's. Until then nothing
    /// is uploaded, and only what is in the log is read.
    #[must_use]
    pub fn knows_bucket(&self) -> bool {
        *self.bucket.borrow() == Standing::Ours
    }

    /// What clients take of the node's memory.
    #[must_use]
    pub fn clients(&self) -> ClientFigures {
        self.endpoint.clients()
    }

    /// Resolves when the disk has failed, a shard has died on this node, another process is this node, the
    /// bucket is not the cluster's or a bug has ended one of its tasks, with the reason: the process must end.
    /// Cancel safe.
    pub async fn failed(&self) -> NodeFailure {
        tokio::select! {
            biased;
            actor = self.actors.panicked() => NodeFailure::Panicked { actor },
            failure = self.disk_failed() => failure,
            failure = self.identity_refused() => failure,
            wrong = cluster_bucket::is_wrong(self.bucket.clone()) => NodeFailure::WrongBucket(wrong),
            // A shard dies of its log as a rule, which knows more about it.
            failure = self.replica_failed() => {
                self.disk_failure().unwrap_or_else(|| failure.into())
            }
        }
    }

    async fn replica_failed(&self) -> Failure {
        let mut on_node = self.on_node.clone();
        loop {
            let replicas = on_node.borrow_and_update().clone();
            let failures = replicas.values().map(|replica| Box::pin(replica.raft.failure()));
            let failures: Vec<_> = failures.collect();
            tokio::select! {
                biased;
                (failure, ..) = futures::future::select_all(failures) => return failure,
                changed = on_node.changed() => {
                    if changed.is_err() {
                        // No further ones come; those that are there may still fail.
                        let failures =
                            replicas.values().map(|replica| Box::pin(replica.raft.failure()));
                        return futures::future::select_all(failures).await.0;
                    }
                }
            }
        }
    }

    async fn identity_refused(&self) -> NodeFailure {
        let mut refused = self.refused.clone();
        let refused = refused.wait_for(Option::is_some).await.ok().and_then(|it| it.clone());
        match refused {
            Some(IdentityRefused { by, reason }) => NodeFailure::IdentityConflict { by, reason },
            // Nobody refuses a node that has no others.
            None => std::future::pending().await,
        }
    }

    async fn disk_failed(&self) -> NodeFailure {
        loop {
            if let Some(failure) = self.disk_failure() {
                return failure;
            }
            tokio::time::sleep(LOOK_AT_LOGS_EVERY).await;
        }
    }

    fn disk_failure(&self) -> Option<NodeFailure> {
        let on_node = self.on_node.borrow();
        let log = on_node.values().find_map(|replica| replica.log.failure());
        let log = log.map(|failed| match failed {
            LogError::Failed(failure) => format!("{failure}: {}", failure.source),
            other => other.to_string(),
        });
        let checkpoints = || {
            on_node.values().find_map(|replica| Some(replica.checkpoints.failure()?.to_string()))
        };
        Some(NodeFailure::Disk { reason: log.or_else(checkpoints)? })
    }

    /// Stops the node: other nodes lead what it leads, no new clients, what is in flight is answered,
    /// records go to the bucket, all within `drain` (at most [`DRAIN_TIMEOUT`]); then, whatever came of
    /// that, Raft is stopped and the log is synced and marked. With a `drain` of zero, for a node that
    /// has failed, nothing is waited for.
    pub async fn shutdown(&self, drain: Duration) {
        let end = Instant::now() + drain.min(DRAIN_TIMEOUT);
        self.ready.send_replace(false);
        if !drain.is_zero() {
            self.hand_over_leads(end.min(Instant::now() + HAND_OVER_TIMEOUT)).await;
        }
        self.endpoint.refuse_new();
        self.stopping.cancel();
        self.sessions.close();
        let answered = end.min(Instant::now() + session::STOP_TIMEOUT);
        if timeout_at(answered, self.sessions.wait()).await.is_err() {
            tracing::warn!("clients did not finish in time");
        }
        self.endpoint.close(Some(ErrorCode::GoingAway), STOPPING);
        if !drain.is_zero() {
            let told =
                timeout_at(end.min(Instant::now() + CLOSE_TIMEOUT), self.endpoint.wait_idle());
            let (_, offloaded) = tokio::join!(told, timeout_at(end, self.offload_all()));
            if offloaded.is_err() {
                tracing::warn!("not everything is in the bucket; the log keeps the rest");
            }
        }
        let on_node = self.on_node.borrow().clone();
        for replica in on_node.values() {
            replica.raft.shutdown().await;
        }
        // Nothing is appended any more, and the writer, which may be an actor, still runs.
        for replica in on_node.values() {
            sync_mark(&replica.log).await;
        }
        if let Some(peers) = &self.peer_endpoint {
            peers.close(Some(ErrorCode::GoingAway), STOPPING);
        }
        self.cancel.cancel();
        self.actors.close();
        self.actors.wait().await;
    }

    /// Gives all leads to other nodes, so that clients find them there when they are told to go.
    async fn hand_over_leads(&self, end: Instant) {
        let view = self.view.borrow().clone();
        let alternatives = view.alternatives(self.node);
        self.farewell.send_modify(|farewell| farewell.alternatives = alternatives);
        let on_node = self.on_node.borrow().clone();
        let led = on_node.iter().filter(|(_, local)| local.raft.leader().state().serving);
        let moves = led.filter_map(|(&shard, local)| {
            let to = leads::successors(view.placements.get(&shard)?, &view, self.node);
            Some(async move { leads::hand_over(shard, &local.raft, &to).await })
        });
        if timeout_at(end, futures::future::join_all(moves)).await.is_err() {
            tracing::warn!("not every lead was handed over in time: others elect one");
        }
    }

    /// Seals everything and waits until it is in the bucket.
    async fn offload_all(&self) {
        let on_node = self.on_node.borrow().clone();
        // Where another node leads, that one does it.
        let led = on_node.values().filter(|replica| replica.raft.leader().state().serving);
        let drained = led.filter_map(|replica| replica.data()).map(|data| async move {
            let shard = &data.handle;
            let seal = CommandBody::Segment(SegmentCommand::Seal(SealScope::All));
            if shard.command(seal).await.is_ok() {
                shard.mirrored(MirrorScope::Shard).await.ok();
            }
        });
        futures::future::join_all(drained).await;
    }
}

/// Waits until each shard that has a replica on the node has a leader.
async fn wait_for_leaders(on_node: &OnNodeWatch) {
    let replicas = on_node.borrow().clone();
    for replica in replicas.values() {
        let mut leader = replica.raft.leader();
        let has_leader = |state: LeaderState| match state.leader {
            Some(leader) => state.serving || leader != replica.replica,
            None => false,
        };
        while !has_leader(leader.state()) {
            if leader.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What the cluster is, as soon as the catalog says so. Whoever of its founders leads writes it down;
/// the first one counts.
async fn founded(
    catalog: &CatalogHandle,
    routing: &Routing,
    founding: Option<&CatalogCommand>,
) -> Result<ClusterSettings, StartError> {
    let mut view = catalog.view();
    loop {
        if let Some(settings) = view.borrow_and_update().settings {
            return Ok(settings);
        }
        if let Some(founding) = founding.filter(|_| routing.leads_catalog()) {
            let change = routing.change(founding.clone()).await;
            if routing.others.is_none()
                && let Err(error) = change
            {
                return Err(StartError::Catalog { reason: error.to_string() });
            }
        }
        tokio::select! {
            biased;
            changed = view.changed() => if changed.is_err() {
                let reason = "its owner has ended".to_owned();
                return Err(StartError::Catalog { reason });
            },
            () = tokio::time::sleep(LOOK_FOR_SETTINGS_EVERY) => {}
        }
    }
}

/// The catalog's first members.
fn first_members(founders: &[Founder]) -> BTreeMap<ReplicaId, String> {
    let replica = |founder: &Founder| ReplicaId::new(founder.node, 1);
    founders.iter().map(|founder| (replica(founder), founder.peer_address.clone())).collect()
}

fn as_founding(founder: &Founder) -> (NodeId, NodeInfo) {
    let info = NodeInfo {
        uid: founder.uid,
        peer_address: founder.peer_address.clone(),
        client_address: founder.client_address.clone(),
        feature_level: keeper::FEATURE_LEVEL,
    };
    (founder.node, info)
}

/// Says how the clusters that lie in the bucket besides this one can be read.
async fn tell_of_others(bucket: Bucket, own: ClusterUid) {
    let Ok(clusters) = owner::clusters(&bucket).await else { return };
    for cluster in clusters.into_iter().filter(|cluster| *cluster != own) {
        let url = bucket.url();
        tracing::info!(
            "the bucket also holds cluster {cluster}; read it with `railgun replay {url} --cluster \
             {cluster} --stream NAME`"
        );
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.cancel.cancel();
    }
}

/// Waits until the log is fsynced and says so on disk.
async fn sync_mark(log: &ShardLog) {
    if let Err(error) = log_done(|done| log.sync_mark(done)).await {
        tracing::error!(%error, "the log could not be marked as synced");
    }
}

async fn accept(
    endpoint: Arc<Endpoint>,
    context: Arc<SessionContext>,
    sessions: TaskTracker,
    stopping: CancellationToken,
) {
    loop {
        let connection = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = endpoint.accept() => match accepted {
                Some(connection) => connection,
                None => return,
            },
        };
        let served =
            session::serve(Arc::clone(&context), connection, sessions.clone(), stopping.clone());
        sessions.spawn(served);
    }
}
