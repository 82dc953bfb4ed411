//! Makes true on this node, and where this node leads, what the catalog says about the cluster: again
//! and again, from whatever is half done. Also takes nodes into the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_cold::Bucket;
use railgun_cold::owner::Owner;
use railgun_core::catalog::{CatalogOutcome, NodeRecord, Placement};
use railgun_core::command::{CatalogCommand, ClusterSettings, NodeInfo};
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_raft::{MembershipStep, WantedMembers};
use railgun_types::{ErrorCode, NodeId, NodeUid, ReplicaId, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::starter::{Begin, Starter};
use super::uploads::Uploads;
use crate::catalog::{CatalogHandle, ClusterView};
use crate::formation::{self, FormationAsk};
use crate::on_node::LocalReplica;
use crate::peers::Addresses;
use crate::routing::{Leader, Placements, Routing};
use crate::streams::ShardOnNode;
use crate::wire_error;

/// How often it is looked what is not yet as the catalog says, besides whenever the catalog changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long one step of a shard's membership may take before the others have their turn.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// The feature level that this release works at.
pub(super) const FEATURE_LEVEL: u32 = 1;

/// See the module.
pub(super) struct Keeper {
    pub(super) starter: Starter,
    pub(super) uploads: Uploads,
    pub(super) catalog: CatalogHandle,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) routing: Routing,
    /// What this node tells of itself.
    pub(super) own: NodeInfo,
    pub(super) node: NodeId,
    /// Where peers are, for those who call them.
    pub(super) addresses: watch::Sender<Addresses>,
    pub(super) placements: watch::Sender<Placements>,
}

impl Keeper {
    /// Tends the cluster until cancelled. `asks` are those of other nodes.
    pub(super) async fn run(
        mut self,
        mut asks: mpsc::Receiver<FormationAsk>,
        cancel: CancellationToken,
    ) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut view = self.view.clone();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                ask = asks.recv() => match ask {
                    Some(ask) => {
                        self.on_ask(ask);
                        continue;
                    }
                    None => return,
                },
                changed = view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = look.tick() => {}
            }
            view.mark_unchanged();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.tend() => {}
            }
        }
    }

    fn on_ask(&self, ask: FormationAsk) {
        match ask {
            FormationAsk::Greet { .. } => {}
            FormationAsk::Form { form, reply } => {
                reply.send(formation::is_bound(&form, self.routing.cluster)).ok();
            }
            FormationAsk::Join { join, reply } => {
                let joined = join_cluster(self.routing.clone(), join, reply);
                self.starter.actors.spawn("a node that joins", joined);
            }
        }
    }

    async fn tend(&mut self) {
        let view = self.view.borrow().clone();
        let Some(settings) = view.settings else { return };
        self.publish(&view);
        self.tell_of_itself(&view).await;
        match self.start_placed(&settings, &view).await {
            Ok(started) => started.iter().for_each(|shard| self.uploads.begin(shard)),
            Err(error) => {
                tracing::error!(%error, "a replica that belongs here cannot be started");
            }
        }
        self.reconcile_memberships(&view).await;
        if self.routing.leads_catalog()
            && let Ok(Some(change)) = self.catalog.next_placement_change().await
        {
            tracing::info!(?change, "placing");
            drop(self.routing.change(change).await);
        }
    }

    /// Starts what is to be on this node, makes sure that the bucket is the cluster's, and begins to
    /// upload.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) async fn start_all(
        &self,
        settings: &ClusterSettings,
        bucket: &Bucket,
        owner: &Owner,
    ) -> Result<(), StartError> {
        let view = self.view.borrow().clone();
        self.publish(&view);
        let started = self.start_placed(settings, &view).await?;
        super::claim(bucket, owner, &started).await?;
        // Not before: what is uploaded to a wrong bucket is committed, and then given up here.
        started.iter().for_each(|shard| self.uploads.begin(shard));
        Ok(())
    }

    fn publish(&self, view: &ClusterView) {
        let members = view.nodes.iter().filter(|(_, record)| record.is_member());
        let addresses: BTreeMap<_, _> =
            members.map(|(node, record)| (*node, record.peer_address.clone())).collect();
        self.addresses.send_if_modified(|known| {
            let changes = **known != addresses;
            *known = Arc::new(addresses);
            changes
        });
        let nodes = |placement: &Placement| placement.voters.iter().map(|r| r.node()).collect();
        let placements: BTreeMap<_, _> =
            view.placements.iter().map(|(shard, placement)| (*shard, nodes(placement))).collect();
        self.placements.send_if_modified(|known| {
            let changes = **known != placements;
            *known = Arc::new(placements);
            changes
        });
    }

    /// A node that has moved, or is of a newer release, says so.
    async fn tell_of_itself(&self, view: &ClusterView) {
        let Some(record) = view.nodes.get(&self.node) else { return };
        if !self.own.peer_address.is_empty() && !is_told(record, &self.own) {
            let update = CatalogCommand::UpdateNode { node: self.node, info: self.own.clone() };
            drop(self.routing.change(update).await);
        }
    }

    /// Starts what is to be on this node and is not.
    async fn start_placed(
        &self,
        settings: &ClusterSettings,
        view: &ClusterView,
    ) -> Result<Vec<ShardOnNode>, StartError> {
        let mut all = Vec::new();
        for (&shard, placement) in &view.placements {
            let Some(replica) = replica_here(placement, self.node) else { continue };
            let is_there = self.starter.on_node.borrow().contains_key(&shard);
            if is_there || shard == ShardId::CATALOG {
                continue;
            }
            let begin = self.begin(placement, replica, view);
            let started = self.starter.shard((shard, replica), settings, begin).await?;
            tracing::info!(%shard, %replica, "replica started");
            all.push(started);
        }
        Ok(all)
    }

    /// How a replica of this placement begins.
    fn begin(&self, placement: &Placement, replica: ReplicaId, view: &ClusterView) -> Begin {
        let is_first = placement.settled == 0 && placement.in_force.contains(&replica);
        if self.starter.is_alone {
            return Begin::Alone;
        }
        if !is_first {
            return Begin::Later;
        }
        let members = placement.in_force.iter().map(|replica| (*replica, view.address(*replica)));
        Begin::With(members.collect())
    }

    /// Takes each shard that this node leads one step nearer to where it is to be.
    async fn reconcile_memberships(&self, view: &ClusterView) {
        if self.starter.is_alone {
            return;
        }
        let on_node = self.routing.on_node.borrow().clone();
        let steps = on_node.iter().map(|(shard, local)| async move {
            let Some(placement) = view.placements.get(shard) else { return };
            if !local.raft.leader().state().serving {
                return;
            }
            let step = self.step(*shard, local, placement, view);
            if timeout(STEP_TIMEOUT, step).await.is_err() {
                tracing::debug!(%shard, "a step of the membership takes long");
            }
        });
        futures::future::join_all(steps).await;
    }

    async fn step(
        &self,
        shard: ShardId,
        local: &LocalReplica,
        placement: &Placement,
        view: &ClusterView,
    ) {
        let addressed = |replicas: &[ReplicaId]| -> BTreeMap<ReplicaId, String> {
            replicas.iter().map(|replica| (*replica, view.address(*replica))).collect()
        };
        let wanted = WantedMembers {
            voters: addressed(&placement.voters),
            learners: addressed(&placement.learners),
        };
        match local.raft.reconcile_membership(&wanted).await {
            Ok(MembershipStep::Settled) => {
                if !placement.is_settled() {
                    let version = placement.version;
                    drop(self.routing.change(CatalogCommand::Settled { shard, version }).await);
                }
            }
            Ok(MembershipStep::Waiting(wait)) => tracing::debug!(%shard, ?wait, "membership"),
            Ok(step) => tracing::info!(%shard, ?step, "membership"),
            Err(error) => tracing::debug!(%shard, %error, "the membership stays for now"),
        }
    }
}

fn is_told(record: &NodeRecord, own: &NodeInfo) -> bool {
    let NodeInfo { uid, peer_address, client_address, feature_level } = own;
    record.uid == *uid
        && record.peer_address == *peer_address
        && record.client_address == *client_address
        && record.feature_level == *feature_level
}

/// The replica of a shard that is to be on a node, or has not left it yet.
fn replica_here(placement: &Placement, node: NodeId) -> Option<ReplicaId> {
    let staying = placement.replica_on(node);
    staying.or_else(|| placement.leaving().find(|replica| replica.node() == node))
}

/// Gives a node its place in the cluster.
async fn join_cluster(
    routing: Routing,
    join: v1::JoinCluster,
    reply: oneshot::Sender<Result<v1::Joined, WireError>>,
) {
    let joined = try_join(&routing, join).await;
    reply.send(joined).ok();
}

async fn try_join(routing: &Routing, join: v1::JoinCluster) -> Result<v1::Joined, WireError> {
    let node = join.node.ok_or_else(|| {
        WireError::new(ErrorCode::ProtocolViolation, "the node does not say who it is")
    })?;
    let info = NodeInfo {
        uid: NodeUid::from_wire("uid", &node.uid)?,
        peer_address: node.peer_address,
        client_address: node.client_address,
        feature_level: node.feature_level,
    };
    if matches!(routing.leader(ShardId::CATALOG, 0), Leader::Unknown) {
        let message = "the cluster has no leader now";
        return Err(WireError::new(ErrorCode::Unavailable, message));
    }
    let address = info.peer_address.clone();
    let outcome = routing.change(CatalogCommand::AddNode(info)).await;
    match outcome.map_err(wire_error::change_failure)? {
        CatalogOutcome::Node { node, catalog_replica: Some(replica), .. } => Ok(v1::Joined {
            cluster_uid: routing.cluster.to_wire(),
            node_id: node.0,
            catalog_replica: replica.0,
        }),
        CatalogOutcome::AddressTaken { by } => {
            let message = format!(
                "node {by} of the cluster is reached at {address} already: if it is lost, remove it \
                 first (railgun cluster remove {by})"
            );
            Err(WireError::new(ErrorCode::NodeIdentityConflict, message))
        }
        CatalogOutcome::NodeRemoved { node } => {
            let message = format!(
                "this data directory was node {node}, which was removed: start with an empty one"
            );
            Err(WireError::new(ErrorCode::NodeIdentityConflict, message))
        }
        CatalogOutcome::FeatureLevelTooLow { needed } => {
            let message = format!(
                "the cluster works at feature level {needed}: install a newer release on this node"
            );
            Err(WireError::new(ErrorCode::FeatureLevel, message))
        }
        other => {
            let message = format!("the catalog answered {other:?}");
            Err(WireError::new(ErrorCode::Unavailable, message))
        }
    }
}
