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
use railgun_proto::v1;
use railgun_types::{ClusterUid, NodeId, NodeUid, ReplicaId, ShardId};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ClusterSpec;
use super::clocks::Clocks;
use super::keeper::FEATURE_LEVEL;
use super::whereabouts::Whereabouts;
use crate::actors::Actors;
use crate::builtin_bug::Planted;
use crate::clock::{Clock, LogClock};
use crate::discovery::{self, Looking, Seeds};
use crate::entropy::Entropy;
use crate::formation::{Formation, answered_during};
use crate::identity::Identity;
use crate::node_ask::NodeAsk;
use crate::on_node::OnNodeWatch;
use crate::peers::{
    Callers, Dialler, Findings, IdentityRefused, Listing, Lives, PeerService, Peers, Refusals,
    RemovedNodes, SelfPortrait, serve_peers,
};
use crate::session::ClientService;

/// How long another node may take to find a new replica for this one, and how long it is until they are
/// asked again, at first and at most.
const ASK_TIMEOUT: Duration = Duration::from_secs(6);
const ASK_AGAIN: Duration = Duration::from_millis(500);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(4);
/// Requests of other nodes that may wait.
const ASKS: usize = 64;

/// See the module.
pub(super) struct Neighbours {
    pub(super) endpoint: Arc<PeerEndpoint>,
    pub(super) peers: Peers,
    pub(super) asks: mpsc::Receiver<NodeAsk>,
    pub(super) peer_address: String,
    pub(super) replicas: u8,
    /// What serves the others' clients, when it is there.
    pub(super) clients: watch::Sender<Option<ClientService>>,
    /// Whom it serves no more, once the catalog tells.
    pub(super) removed: watch::Sender<RemovedNodes>,
    uid: NodeUid,
    about: watch::Sender<v1::NodeAbout>,
    portrait: SelfPortrait,
    seeds: Seeds,
    callers: Callers,
    pub(super) refusals: Refusals,
    /// Whether too few of the others are where they are looked for.
    is_cut_off: watch::Sender<bool>,
}

/// What the node serves others with.
pub(super) struct ServiceSpec {
    pub(super) client_address: String,
    /// Of this run of the node.
    pub(super) process: [u8; 16],
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// Where it is said that this node is not to be itself any more.
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
        let mut about = v1::NodeAbout {
            uid: identity.uid.to_wire(),
            process: process.to_vec().into(),
            bootstrap_expect: cluster.bootstrap_expect,
            peer_address: cluster.peer_address.clone(),
            client_address,
            feature_level: FEATURE_LEVEL,
            bucket: identity.bucket.clone(),
            ..v1::NodeAbout::default()
        };
        identity.tell(&mut about);
        let about = watch::Sender::new(about);
        let log_clock = Arc::new(LogClock::new(clock.now()));
        let portrait = SelfPortrait { about: about.subscribe(), clock, log_clock };
        let refusals = Refusals::default();
        let dialler = Dialler::new(Arc::clone(&endpoint), portrait.clone(), refusals.clone());
        let judging = {
            let dialler = dialler.clone();
            let judged =
                async move { drop(refused.send_replace(Some(dialler.is_refused().await))) };
            cancel.clone().run_until_cancelled_owned(judged)
        };
        actors.spawn("whoever hears that this node is another", async {
            judging.await;
        });
        let (asks_tx, asks) = mpsc::channel(ASKS);
        let (clients, removed) = (watch::Sender::default(), watch::Sender::default());
        let (ca, lives) = (cluster.ca, Lives::new(dialler.clone()));
        let (callers, is_cut_off) = (Callers::default(), watch::Sender::new(false));
        let serving = PeerService {
            portrait: portrait.clone(),
            on_node,
            clients: clients.subscribe(),
            asks: asks_tx,
            next_session,
            ca,
            callers: callers.clone(),
            lives,
            removed: removed.subscribe(),
        };
        let serving = serve_peers(Arc::clone(&endpoint), serving, actors.clone(), cancel.clone());
        actors.spawn("whoever welcomes peers", serving);
        let peers = Peers::spawn(dialler, actors, cancel.clone());
        let found = cluster.discovery.map(|discovery| {
            let (found, found_watch) = watch::channel(Vec::new());
            let (about, is_cut_off) = (about.subscribe(), is_cut_off.subscribe());
            let looking = Looking { about, is_cut_off };
            let asking = discovery::keep_asking(discovery, entropy, looking, found);
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
            uid: identity.uid,
            about,
            portrait,
            seeds,
            callers,
            refusals,
            is_cut_off,
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
        let clock = Arc::clone(&self.portrait.clock);
        Formation { disk, entropy, bucket, peers, clock, seeds, about: self.about.clone() }
    }

    /// What learns of the other nodes' clocks, and where they are; it has asked them once. `listing` is
    /// what the catalog says.
    pub(super) async fn clocks(
        &mut self,
        cluster: ClusterUid,
        own: NodeId,
        listing: watch::Receiver<Listing>,
        planted: Planted,
    ) -> (Clocks, Whereabouts) {
        let mut clocks =
            Clocks::new(self.peers.clone(), self.portrait.clone(), cluster, own, planted);
        let whereabouts = Whereabouts {
            own,
            seeds: self.seeds.clone(),
            callers: self.callers.clone(),
            listing,
            findings: watch::Sender::new(Findings::default()),
            is_cut_off: self.is_cut_off.clone(),
        };
        self.answer_during(cluster, clocks.ask_first(&whereabouts)).await;
        (clocks, whereabouts)
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
        let (mut pause, mut is_told) = (ASK_AGAIN, false);
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
                    Ok(Ok(_)) if !is_told => {
                        is_told = true;
                        tracing::warn!(
                            %shard, %lost, peer = seed,
                            "the others are no majority: this replica is not replaced yet"
                        );
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::debug!(peer = seed, %error, "no other replica yet"),
                    Err(_) => {}
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN_MAX);
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
        let replaced = self.reincarnate(cluster, shard, lost);
        let replica = answered_during(&mut asks, (cluster, self.uid), replaced).await;
        self.asks = asks;
        replica
    }

    /// Waits for `done` and answers meanwhile what others ask while the cluster is not there yet.
    pub(super) async fn answer_during<T>(
        &mut self,
        cluster: ClusterUid,
        done: impl Future<Output = T>,
    ) -> T {
        answered_during(&mut self.asks, (cluster, self.uid), done).await
    }

    /// There is a replica of the catalog here: the others that formed the cluster may begin.
    pub(super) fn has_begun(&self) {
        self.about.send_modify(|about| about.forming = false);
    }
}
