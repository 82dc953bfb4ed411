//! Starts a node in stages, each of which has what those before it have made: its log (and with it the lock
//! of the disk), identity, of a new cluster the bucket, catalog, shards, offloaders, sessions, in this order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use railgun_cold::reader::{ColdReader, ReaderOptions};
use railgun_cold::{Bucket, owner};
use railgun_core::command::{CatalogCommand, ClusterSettings, NodeInfo};
use railgun_log::Disk;
use railgun_net::Endpoint;
use railgun_raft::{BlockingPool, Fitness, LeaderState, NoPeers, PeerNetwork};
use railgun_types::{ClusterUid, Limits, NodeId, NodeUid, ReplicaId, ShardId};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clocks::ClockStanding;
use super::founding::{as_founding, first_members, founded};
use super::keeper::{self, Keeper};
use super::neighbours::{Neighbours, ServiceSpec};
use super::setbacks::Setbacks;
use super::spec::{BrokerSpec, ClusterSpec};
use super::starter::{self, Begin, Starter};
use super::uploads::Uploads;
use super::{Broker, StartError, lives};
use crate::actors::Actors;
use crate::auth::Auth;
use crate::builtin_bug::Planted;
use crate::catalog::CatalogHandle;
use crate::clock::Clock;
use crate::cluster_admin::ClusterAdmin;
use crate::cluster_bucket::{self, Standing};
use crate::entropy::Entropy;
use crate::identity::{Founder, Identity, Member};
use crate::joining::Registrar;
use crate::leaders::Leaders;
use crate::leads::LeadSpreader;
use crate::offload::ObjectMemory;
use crate::on_node::{OnNode, OnNodeWatch};
use crate::peers::{Addresses, Findings, IdentityRefused, Listing, RaftPeers, Refusals};
use crate::routing::{self, Placements, Routing};
use crate::seams::{RunningLog, Seams};
use crate::session::{self, ClientService, Farewell, SessionContext};
use crate::streams::Streams;
use crate::thresholds::Thresholds;

/// How long a node that starts waits for leaders before it takes clients.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a node, and says in `refused` if it is not to be itself any more, in `standing` whose the
/// bucket is.
pub(super) async fn start(
    spec: BrokerSpec,
    refused: watch::Sender<Option<IdentityRefused>>,
    standing: Standing,
) -> Result<Broker, StartError> {
    let ground = Ground::lay(spec.seams)?;
    let on_failure = ground.cancel.clone().drop_guard();
    let identity = ground.identity(&spec.bucket).await?;
    let ca = spec.cluster.as_ref().and_then(|cluster| cluster.ca.clone());
    let is_refused = refused.subscribe();
    let mut others = match spec.cluster {
        None => None,
        Some(cluster) => Some(ground.meet(cluster, &identity, spec.address.clone(), refused)?),
    };
    let is_alone = others.is_none();
    let identity = match &mut others {
        None => ground.alone(identity, spec.address.clone())?,
        Some(others) => {
            let (disk, entropy) = (Arc::clone(&ground.disk), Arc::clone(&ground.entropy));
            let formation = others.formation(disk, entropy, spec.bucket.clone());
            formation.come_to_cluster(identity, &mut others.asks).await?
        }
    };
    let Some(member) = identity.member.clone() else {
        unreachable!("a node that has come here belongs to a cluster")
    };
    let (node, cluster) = (member.node, member.cluster);
    let bucket = ground.bucket(spec.bucket, &member, &standing).await?;

    let Surroundings { clock, clocks, fitness, listing, placements, peers, routing } =
        ground.surroundings(others.as_mut(), node, cluster).await;
    let registrar =
        Registrar { ca, entropy: Arc::clone(&ground.entropy), clock: Arc::clone(&clock) };
    let mut starter = Starter {
        log: Arc::clone(&ground.log),
        disk: Arc::clone(&ground.disk),
        address: others.as_ref().map_or_else(String::new, |others| others.peer_address.clone()),
        peers,
        is_alone,
        clock: Arc::clone(&clock),
        fitness,
        pool: Arc::clone(&ground.pool),
        thresholds: ground.thresholds,
        planted: ground.planted,
        actors: ground.actors.clone(),
        cancel: ground.cancel.clone(),
        identity,
        streams_max: spec.streams_max,
        on_node: ground.on_node.clone(),
    };
    let wish = ClusterSettings {
        cluster,
        shards: spec.shards,
        replicas: others.as_ref().map_or(1, |others| others.replicas),
        hot_bytes_max: spec.hot_bytes_max,
    };
    let catalog = catalog(&mut starter, others.as_mut(), &member, &wish).await?;
    let own = NodeInfo {
        uid: starter.identity.uid,
        peer_address: starter.address.clone(),
        client_address: spec.address,
        feature_level: keeper::FEATURE_LEVEL,
    };
    let founding = match (is_alone, member.founders.is_empty()) {
        (true, _) => Some(vec![(node, own.clone())]),
        (false, false) => Some(member.founders.iter().map(as_founding).collect()),
        // It joined, or the cluster was founded before.
        (false, true) => None,
    };
    let founding = founding.map(|nodes| CatalogCommand::Found { settings: wish, nodes });
    let founded = Box::pin(founded(&catalog, &routing, founding.as_ref()));
    let settings = match others.as_mut() {
        None => founded.await?,
        Some(others) => Box::pin(others.answer_during(cluster, founded)).await?,
    };
    for ignored in starter::ignored(&wish, &settings) {
        tracing::warn!("{ignored}");
    }
    if !member.founders.is_empty() {
        starter.is_founded()?;
    }

    let memory = ObjectMemory::new();
    let uploads = Uploads {
        cluster,
        bucket: bucket.clone(),
        clock: Arc::clone(&clock),
        pool: Arc::clone(&ground.pool),
        memory: memory.clone(),
        planted: ground.planted,
        max_time_to_cold: spec.max_time_to_cold,
        cut_bytes: settings.hot_bytes_per_shard() / 4,
        segment_bytes_min: ground.thresholds.segment_bytes_min,
        upload_lease: ground.thresholds.upload_lease,
        actors: ground.actors.clone(),
        background: ground.background.clone(),
        standing: Arc::clone(&standing),
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
        placements,
        removed: others.as_ref().map_or_else(watch::Sender::default, |o| o.removed.clone()),
        refusals: others.as_ref().map_or_else(Refusals::default, |o| o.refusals.clone()),
        farewell: farewell.clone(),
        ca: registrar.ca.clone(),
        spreader: LeadSpreader::default(),
        clocks: clocks.clone().unwrap_or_else(|| watch::channel(ClockStanding::default()).1),
        clock,
        drained_since: None,
        setbacks: Setbacks::default(),
        dead: BTreeMap::new(),
    };
    keeper.start_all(&settings).await?;
    let on_node = ground.on_node.subscribe();
    let (peer_endpoint, others_clients) = others
        .map(|Neighbours { endpoint, asks, clients, .. }| {
            let kept = railgun_raft::inheriting(keeper.run(asks, ground.cancel.clone()));
            ground.actors.spawn("the keeper of the cluster", kept);
            (endpoint, clients)
        })
        .unzip();
    if !is_alone {
        // Whoever comes at once should find them; but a majority may be away for long.
        tokio::time::timeout(LEADERS_TIMEOUT, wait_for_leaders(&on_node)).await.ok();
    }
    ground.spawn("the look at other clusters", tell_of_others(bucket.clone(), cluster));

    let view = catalog.view();
    let (leaders, led) = Leaders::new(routing.clone(), view.clone());
    if !is_alone {
        ground.spawn("what clients are told of leaders", leaders.run());
    }
    let cluster_admin =
        ClusterAdmin { catalog: catalog.clone(), routing: routing.clone(), registrar };
    let cold = ColdReader::new(bucket.clone(), &ReaderOptions::default());
    let (entropy, pool) = (Arc::clone(&ground.entropy), Arc::clone(&ground.pool));
    let streams = Streams::new(catalog, routing, cold, bucket, entropy, pool);
    if is_alone && let Err(error) = streams.reconcile().await {
        tracing::warn!(%error, "half-done creations or deletions are left for the next start");
    }
    let stopping = CancellationToken::new();
    ground.actors.spawn("the reconciler", streams.clone().keep_reconciled(stopping.clone()));
    ground
        .actors
        .spawn("the tending of groups", streams.clone().keep_groups_tended(stopping.clone()));
    let context = SessionContext {
        streams: streams.clone(),
        cluster: cluster_admin.clone(),
        farewell: farewell.subscribe(),
        led,
        auth: Auth::new(spec.tokens, spec.admin_tokens),
        limits: Limits::default(),
        node_id: node.0,
        server: format!("railgun/{}", env!("CARGO_PKG_VERSION")),
        next_session: Arc::clone(&ground.next_session),
        planted: ground.planted,
    };
    let endpoint = Arc::new((spec.listen)()?);
    ground.serve_clients(&endpoint, Arc::new(context), others_clients, &stopping);
    on_failure.disarm();
    Ok(Broker {
        cluster,
        node,
        listen: endpoint.local_addr(),
        endpoint,
        peer_endpoint,
        on_node,
        view,
        farewell,
        refused: is_refused,
        bucket: standing,
        clocks,
        _log: ground.log,
        ready: watch::channel(true).0,
        stopping,
        cancel: ground.cancel,
        sessions: ground.sessions,
        actors: ground.actors,
        #[cfg(test)]
        streams,
        #[cfg(test)]
        cluster_admin,
        #[cfg(test)]
        memory,
    })
}

/// What everything on the node stands on.
struct Ground {
    /// Its writer runs, and holds the lock of the disk.
    log: Arc<RunningLog>,
    disk: Arc<dyn Disk>,
    pool: Arc<dyn BlockingPool>,
    background: Handle,
    /// The wall clock.
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    thresholds: Thresholds,
    planted: Planted,
    actors: Actors,
    sessions: TaskTracker,
    /// Ends everything.
    cancel: CancellationToken,
    on_node: watch::Sender<OnNode>,
    next_session: Arc<AtomicU64>,
}

impl Ground {
    fn lay(seams: Seams) -> Result<Self, StartError> {
        let planted = seams.planted();
        let Seams { disk, log_driver, pool, background, clock, entropy, thresholds, .. } = seams;
        let (cancel, actors) = (CancellationToken::new(), Actors::new());
        // The writer locks the disk: a second process stops here.
        let log = log_driver.start(Arc::clone(&disk), &actors, cancel.clone())?;
        Ok(Self {
            log: Arc::new(log),
            disk,
            pool,
            background: background.unwrap_or_else(Handle::current),
            clock,
            entropy,
            thresholds,
            planted,
            actors,
            sessions: TaskTracker::new(),
            cancel,
            on_node: watch::Sender::new(OnNode::default()),
            next_session: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Runs `task` until it or the node ends.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.cancel.clone().run_until_cancelled_owned(task);
        self.actors.spawn(name, async {
            task.await;
        });
    }

    /// Who this node is: as it is kept on its disk, or a new one.
    async fn identity(&self, bucket: &Bucket) -> Result<Identity, StartError> {
        let url = bucket.url().to_string();
        let known = Identity::load(&*self.disk, &url)?;
        if known.as_ref().is_none_or(|known| known.member.is_none()) {
            // Later it may be away, which says nothing about the settings.
            bucket.probe().await?;
        }
        if let Some(known) = known {
            return Ok(known);
        }
        let fresh = Identity { uid: NodeUid(self.entropy.uid()), bucket: url, member: None };
        fresh.keep(&*self.disk)?;
        Ok(fresh)
    }

    /// Begins to listen for other nodes.
    fn meet(
        &self,
        cluster: ClusterSpec,
        identity: &Identity,
        client_address: String,
        refused: watch::Sender<Option<IdentityRefused>>,
    ) -> Result<Neighbours, StartError> {
        let service = ServiceSpec {
            client_address,
            process: self.entropy.uid(),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            refused,
            on_node: self.on_node.subscribe(),
            next_session: Arc::clone(&self.next_session),
        };
        Ok(Neighbours::meet(cluster, identity, service, &self.actors, &self.cancel)?)
    }

    /// A node that has no others beside it is a cluster at once.
    fn alone(&self, identity: Identity, client_address: String) -> Result<Identity, StartError> {
        if identity.member.is_some() {
            return Ok(identity);
        }
        let cluster = ClusterUid(self.entropy.uid());
        let (uid, node) = (identity.uid, NodeId(1));
        let own = Founder { uid, node, peer_address: String::new(), client_address };
        let member = Member::new(node, cluster, vec![own]);
        let founded = Identity { member: Some(member), ..identity };
        founded.keep(&*self.disk)?;
        Ok(founded)
    }

    /// Claims the bucket where this node makes the cluster; otherwise it is looked whose it is, and
    /// what is asked of it waits until that is known.
    async fn bucket(
        &self,
        bucket: Bucket,
        member: &Member,
        standing: &Standing,
    ) -> Result<Bucket, StartError> {
        if makes_cluster(member) {
            cluster_bucket::claim(&bucket, member.cluster, self.clock.now()).await?;
            standing.set(Ok(())).ok();
        } else {
            let looking =
                cluster_bucket::look_at(bucket.clone(), member.cluster, Arc::clone(standing));
            self.spawn("the look at the bucket", Box::pin(looking));
        }
        Ok(bucket.behind(cluster_bucket::is_ours(Arc::clone(standing))))
    }

    /// What the node knows of other nodes, their clocks and the ways to them.
    async fn surroundings(
        &self,
        mut others: Option<&mut Neighbours>,
        node: NodeId,
        cluster: ClusterUid,
    ) -> Surroundings {
        let (listing, listing_watch) = watch::channel(Listing::default());
        let clocks = match others.as_mut() {
            None => None,
            Some(others) => {
                Some(others.clocks(cluster, node, listing_watch.clone(), self.planted).await)
            }
        };
        let findings = clocks.as_ref().map(|(_, whereabouts)| whereabouts.findings.subscribe());
        let findings = findings.unwrap_or_else(|| watch::channel(Findings::default()).1);
        let addresses = Addresses::new(listing_watch, findings);
        let (placements, placements_watch) = watch::channel(Placements::default());
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
            on_node: self.on_node.subscribe(),
            actors: self.actors.clone(),
            others: others.as_ref().map(|others| {
                routing::Others::new(others.peers.clone(), addresses, placements_watch)
            }),
            planted: self.planted,
        };
        let (mut clock, mut standing) = (Arc::clone(&self.clock), None);
        let mut fitness = Fitness::new(true);
        if let Some((clocks, whereabouts)) = clocks {
            fitness = clocks.fitness();
            clock = clocks.log_clock();
            standing = Some(clocks.standing());
            self.spawn("the look at other clocks", clocks.run(whereabouts));
        }
        Surroundings { clock, clocks: standing, fitness, listing, placements, peers, routing }
    }

    fn serve_clients(
        &self,
        endpoint: &Arc<Endpoint>,
        context: Arc<SessionContext>,
        of_others: Option<watch::Sender<Option<ClientService>>>,
        stopping: &CancellationToken,
    ) {
        if let Some(clients) = of_others {
            let (context, endpoint) = (Arc::clone(&context), Arc::clone(endpoint));
            let (tasks, stopping) = (self.sessions.clone(), stopping.clone());
            clients.send_replace(Some(ClientService { context, endpoint, tasks, stopping }));
        }
        let (endpoint, tasks) = (Arc::clone(endpoint), self.sessions.clone());
        self.sessions.spawn(accept(endpoint, context, tasks, stopping.clone()));
    }
}

/// What there is around a node.
struct Surroundings {
    /// Whatever is written into logs is stamped by this one.
    clock: Arc<dyn Clock>,
    /// What it is worth, of a node that has others beside it.
    clocks: Option<watch::Receiver<ClockStanding>>,
    /// Whether that is known well enough to lead others.
    fitness: Fitness,
    /// What the catalog says of the nodes.
    listing: watch::Sender<Listing>,
    placements: watch::Sender<Placements>,
    peers: Arc<dyn PeerNetwork>,
    routing: Routing,
}

/// Whether this node is the one of its founders that makes the cluster.
fn makes_cluster(member: &Member) -> bool {
    member.node == NodeId(1) && !member.founders.is_empty()
}

/// Starts the node's replica of the catalog; another one where it is lost.
async fn catalog(
    starter: &mut Starter,
    others: Option<&mut Neighbours>,
    member: &Member,
    wish: &ClusterSettings,
) -> Result<CatalogHandle, StartError> {
    let begin = match &others {
        None => Begin::Alone,
        Some(_) if makes_cluster(member) => Begin::With(first_members(&member.founders)),
        Some(_) => Begin::Later,
    };
    let hot_bytes = wish.hot_bytes_per_shard();
    let replica = starter.begun(ShardId::CATALOG).unwrap_or(ReplicaId::new(member.node, 1));
    let started = starter.catalog(replica, hot_bytes, begin).await;
    let Some(others) = others else { return started };
    let catalog = match started {
        Err(error) if lives::is_lost(&error) => {
            tracing::error!(%error, "this node's copy of the catalog is lost: it gets another");
            let shard = ShardId::CATALOG;
            let replica = others.another_replica(member.cluster, shard, replica).await;
            starter.catalog(replica, hot_bytes, Begin::Later).await?
        }
        started => started?,
    };
    others.has_begun();
    Ok(catalog)
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
