//! What a node that is one of several has for the others: where they come in, and the ways to them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use railgun_cold::Bucket;
use railgun_log::Disk;
use railgun_net::BindError;
use railgun_net::peer::PeerEndpoint;
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_types::{ClusterUid, ErrorCode, NodeId, ReplicaId, ShardId};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ClusterSpec;
use super::clocks::Clocks;
use super::keeper::FEATURE_LEVEL;
use crate::actors::Actors;
use crate::clock::Clock;
use crate::discovery::{self, Seeds};
use crate::entropy::Entropy;
use crate::formation::{self, Formation, FormationAsk};
use crate::identity::Identity;
use crate::on_node::OnNodeWatch;
use crate::peers::{
    Dialler, IdentityRefused, Lives, PeerService, Peers, RemovedNodes, SelfPortrait, serve_peers,
};
use crate::session::ClientService;

/// How long another node may take to find a new replica for this one, and how long it is until they are
/// asked again.
const ASK_TIMEOUT: Duration = Duration::from_secs(6);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Requests of other nodes that may wait.
const ASKS: usize = 64;

/// See the module.
pub(super) struct Neighbours {
    pub(super) endpoint: Arc<PeerEndpoint>,
    pub(super) peers: Peers,
    pub(super) asks: mpsc::Receiver<FormationAsk>,
    pub(super) peer_address: String,
    pub(super) replicas: u8,
    /// What serves the others' clients, when it is there.
    pub(super) clients: watch::Sender<Option<ClientService>>,
    /// Whom it serves no more, once the catalog tells.
    pub(super) removed: watch::Sender<RemovedNodes>,
    about: watch::Sender<v1::NodeAbout>,
    clock: Arc<dyn Clock>,
    seeds: Seeds,
}

/// What the node serves others with.
pub(super) struct ServiceSpec {
    pub(super) client_address: String,
    /// Of this run of the node.
    pub(super) process: [u8; 16],
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// Where it is said that this node is known by another process.
    pub(super) refused: watch::Sender<Option<IdentityRefused>>,
    pub(super) on_node: OnNodeWatch,
    pub(super) next_session: Arc<AtomicU64>,
}

impl Neighbours {
    /// Begins to listen for other nodes, and to serve those that come.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(super) fn meet(
        cluster: ClusterSpec,
        identity: &Identity,
        service: ServiceSpec,
        actors: &Actors,
        cancel: &CancellationToken,
    ) -> Result<Self, BindError> {
        let ServiceSpec { client_address, process, clock, entropy, refused, on_node, next_session } =
            service;
        let endpoint = Arc::new((cluster.listen)()?);
        let about = v1::NodeAbout {
            uid: identity.uid.to_wire(),
            process: process.to_vec().into(),
            bootstrap_expect: cluster.bootstrap_expect,
            peer_address: cluster.peer_address.clone(),
            client_address,
            feature_level: FEATURE_LEVEL,
            sees: vec![identity.uid.to_wire()],
            bucket: identity.bucket.clone(),
            ..v1::NodeAbout::default()
        };
        let about = watch::Sender::new(about);
        let portrait = SelfPortrait { about: about.subscribe(), clock: Arc::clone(&clock) };
        let dialler = Dialler::new(Arc::clone(&endpoint), portrait.clone(), refused);
        let (formation, asks) = mpsc::channel(ASKS);
        let (clients, removed) = (watch::Sender::default(), watch::Sender::default());
        let (ca, lives) = (cluster.ca, Lives::new(dialler.clone()));
        let serving = PeerService {
            portrait,
            on_node,
            clients: clients.subscribe(),
            formation,
            next_session,
            ca,
            lives,
            removed: removed.subscribe(),
        };
        let serving = serve_peers(Arc::clone(&endpoint), serving, actors.clone(), cancel.clone());
        actors.spawn("whoever welcomes peers", serving);
        let peers = Peers::spawn(dialler, actors, cancel.clone());
        let found = cluster.discovery.map(|discovery| {
            let (found, found_watch) = watch::channel(Vec::new());
            let asking = discovery::keep_asking(discovery, entropy, about.subscribe(), found);
            let asking = cancel.clone().run_until_cancelled_owned(asking);
            actors.spawn("the search for nodes", async {
                asking.await;
            });
            found_watch
        });
        let seeds = Seeds::new(cluster.seeds, found);
        let (peer_address, replicas) = (cluster.peer_address, cluster.replicas);
        Ok(Self {
            endpoint,
            peers,
            asks,
            peer_address,
            replicas,
            clients,
            removed,
            about,
            clock,
            seeds,
        })
    }

    /// What brings the node to a cluster.
    pub(super) fn formation(
        &self,
        disk: Arc<dyn Disk>,
        entropy: Arc<dyn Entropy>,
        bucket: Bucket,
    ) -> Formation {
        let (peers, seeds) = (self.peers.clone(), self.seeds.clone());
        let clock = Arc::clone(&self.clock);
        Formation { disk, entropy, bucket, peers, clock, seeds, about: self.about.clone() }
    }

    /// What learns of the other nodes' clocks; it has asked them once.
    pub(super) async fn clocks(&mut self, cluster: ClusterUid, own: NodeId) -> Clocks {
        let (about, clock) = (self.about.subscribe(), Arc::clone(&self.clock));
        let portrait = SelfPortrait { about, clock };
        let mut clocks = Clocks::new(self.peers.clone(), portrait, cluster, own);
        let seeds = self.seeds.now();
        let (_, nobody) = mpsc::channel(1);
        let mut asks = std::mem::replace(&mut self.asks, nobody);
        tokio::select! {
            biased;
            () = clocks.ask_first(seeds) => {}
            () = Self::answer_meanwhile(&mut asks, cluster) => {
                unreachable!("other nodes may ask for as long as this one listens")
            }
        }
        self.asks = asks;
        clocks
    }

    /// Has the cluster put another replica in the place of one of this node's that lost its log. Asks
    /// whoever answers, as long as it takes.
    pub(super) async fn reincarnate(
        &self,
        cluster: ClusterUid,
        shard: ShardId,
        lost: ReplicaId,
    ) -> ReplicaId {
        let to =
            v1::ReplicaAddress { cluster_uid: cluster.to_wire(), shard: shard.0, replica: lost.0 };
        loop {
            for seed in &self.seeds.now() {
                let call = v1::peer_call::Call::Reincarnate(to.clone());
                let asked = self.peers.call(seed, call, Bytes::new());
                match timeout(ASK_TIMEOUT, asked).await {
                    Ok(Ok((v1::peer_reply::Answer::Reincarnated(replica), _)))
                        if replica.replica != lost.0 =>
                    {
                        return ReplicaId(replica.replica);
                    }
                    Ok(Ok(_)) => tracing::warn!(
                        %shard, %lost, peer = seed, "nobody else has the log of this replica"
                    ),
                    Ok(Err(error)) => tracing::debug!(peer = seed, %error, "no other replica yet"),
                    Err(_) => {}
                }
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// As [`Self::reincarnate`], and answers what others ask meanwhile.
    pub(super) async fn another_replica(
        &mut self,
        cluster: ClusterUid,
        shard: ShardId,
        lost: ReplicaId,
    ) -> ReplicaId {
        let (_, nobody) = mpsc::channel(1);
        let mut asks = std::mem::replace(&mut self.asks, nobody);
        let replica = tokio::select! {
            biased;
            replica = self.reincarnate(cluster, shard, lost) => replica,
            () = Self::answer_meanwhile(&mut asks, cluster) => {
                unreachable!("other nodes may ask for as long as this one listens")
            }
        };
        self.asks = asks;
        replica
    }

    /// From here on the others are told so.
    pub(super) fn belongs_to(&self, cluster: ClusterUid, node: NodeId) {
        self.about.send_modify(|about| {
            about.cluster_uid = cluster.to_wire();
            about.node_id = node.0;
            about.sees.clear();
        });
    }

    /// Answers what others ask while the cluster is not there yet, until cancelled.
    pub(super) async fn answer_meanwhile(
        asks: &mut mpsc::Receiver<FormationAsk>,
        cluster: ClusterUid,
    ) {
        while let Some(ask) = asks.recv().await {
            match ask {
                FormationAsk::Greet { .. } => {}
                FormationAsk::Form { form, reply } => {
                    reply.send(formation::is_bound(&form, cluster)).ok();
                }
                FormationAsk::Join { reply, .. } => {
                    let message = "the cluster is being formed";
                    reply.send(Err(WireError::new(ErrorCode::Unavailable, message))).ok();
                }
                FormationAsk::Sign { reply, .. } => drop(reply.send(Ok(None))),
                FormationAsk::Reincarnate { reply, .. } => {
                    reply.send(Err(formation::no_cluster())).ok();
                }
            }
        }
    }
}
