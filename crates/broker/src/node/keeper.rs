//! Makes true on this node, and where this node leads, what the catalog says about the cluster: again
//! and again, from whatever is half done. Also takes nodes into the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use railgun_core::catalog::{CatalogOutcome, NodeRecord, Placement};
use railgun_core::command::{CatalogCommand, ClusterSettings, NodeInfo, NodeState};
use railgun_net::tls::ClusterCa;
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_raft::{MembershipStep, WantedMembers};
use railgun_types::{ErrorCode, NodeId, NodeUid, ReplicaId, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::clocks::ClockStanding;
use super::starter::{Begin, Starter};
use super::uploads::Uploads;
use super::{StartError, lives};
use crate::catalog::{CatalogHandle, ClusterView};
use crate::clock::Clock;
use crate::formation::{self, FormationAsk};
use crate::joining;
use crate::leads::{self, LeadSpreader};
use crate::on_node::LocalReplica;
use crate::peers::{self, Addresses, RemovedNodes};
use crate::routing::{Leader, Placements, Routing};
use crate::session::Farewell;
use crate::streams::ShardOnNode;
use crate::wire_error;

/// How often it is looked what is not yet as the catalog says, besides whenever the catalog changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long one step of a shard's membership may take before the others have their turn.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the catalog's leader may take to say who leads instead of a node that is drained.
const PLACING_TIME: Duration = Duration::from_secs(2);
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
    /// Who is let in no more.
    pub(super) removed: watch::Sender<RemovedNodes>,
    /// Where clients are to go, and when.
    pub(super) farewell: watch::Sender<Farewell>,
    /// The cluster's authority, where this node has its key.
    pub(super) ca: Option<Arc<ClusterCa>>,
    pub(super) spreader: LeadSpreader,
    /// What the clocks of the nodes are worth.
    pub(super) clocks: watch::Receiver<ClockStanding>,
    /// The one that stamps logs.
    pub(super) clock: Arc<dyn Clock>,
    /// Since when this node is drained, as far as it has noticed.
    pub(super) drained_since: Option<Instant>,
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
        let mut clocks = self.clocks.clone();
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
                // Whoever tells of the clocks may have ended already.
                Ok(()) = clocks.changed() => {}
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
                let now_us = self.clock.now().0;
                let joined = join_cluster(self.routing.clone(), join, now_us, reply);
                self.starter.actors.spawn("a node that joins", joined);
            }
            FormationAsk::Reincarnate { shard, lost, reply } => {
                let routing = self.routing.clone();
                self.starter.actors.spawn("a replica that lost its log", async move {
                    reply.send(another(&routing, shard, lost).await).ok();
                });
            }
            FormationAsk::Sign { sign, reply } => {
                let Some(ca) = self.ca.clone() else { return drop(reply.send(Ok(None))) };
                let routing = self.routing.clone();
                self.starter.actors.spawn("a certificate of a node", async move {
                    let signed = joining::sign_here(&routing, &ca, &sign).await;
                    reply.send(signed.map(Some)).ok();
                });
            }
        }
    }

    async fn tend(&mut self) {
        let view = self.view.borrow().clone();
        let Some(settings) = view.settings else { return };
        self.publish(&view);
        self.tell_of_itself(&view).await;
        self.stop_unplaced(&view).await;
        match self.start_placed(&settings, &view).await {
            Ok(started) => started.iter().for_each(|shard| self.uploads.begin(shard)),
            Err(error) => {
                tracing::error!(%error, "a replica that belongs here cannot be started");
            }
        }
        self.replace_damaged(&view).await;
        self.move_leads(&view).await;
        self.say_farewell(&view).await;
        self.reconcile_memberships(&view).await;
        if self.routing.leads_catalog()
            && let Ok(Some(change)) = self.catalog.next_change().await
        {
            tracing::info!(?change, "the cluster changes");
            drop(self.routing.change(change).await);
        }
    }

    /// Starts what is to be on this node, and begins to upload.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) async fn start_all(&mut self, settings: &ClusterSettings) -> Result<(), StartError> {
        let view = self.view.borrow().clone();
        self.publish(&view);
        let started = self.start_placed(settings, &view).await?;
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
        let removed = view.nodes.iter().filter(|(_, record)| !record.is_member());
        let removed: BTreeMap<_, _> = removed.map(|(node, record)| (record.uid, *node)).collect();
        self.removed.send_if_modified(|known| {
            let changes = **known != removed;
            *known = Arc::new(removed);
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

    /// Stops what is not to be on this node any more, or is to be another replica; and removes what earlier
    /// ones have left, once others do not need it.
    async fn stop_unplaced(&mut self, view: &ClusterView) {
        for (&shard, placement) in &view.placements {
            let here = replica_here(placement, self.node);
            let is_in_force = here.is_some_and(|replica| placement.in_force.contains(&replica));
            if placement.is_settled() && is_in_force {
                self.starter.remove_earlier_lives(shard);
            }
        }
        let is_superfluous = |keeper: &Self, view: &ClusterView, shard: ShardId| {
            let placement = view.placements.get(&shard);
            let here = placement.and_then(|placement| replica_here(placement, keeper.node));
            let begun = keeper.starter.begun(shard);
            shard != ShardId::CATALOG && begun.is_some() && here != begun
        };
        let shards = view.placements.keys().copied();
        let superfluous: Vec<_> =
            shards.filter(|shard| is_superfluous(self, view, *shard)).collect();
        // What the catalog says here may be old.
        if superfluous.is_empty() || self.routing.catch_up(ShardId::CATALOG).await.is_err() {
            return;
        }
        let view = self.view.borrow().clone();
        for shard in superfluous {
            if !is_superfluous(self, &view, shard) {
                continue;
            }
            self.starter.stop(shard).await;
            let placement = view.placements.get(&shard);
            if placement.is_none_or(|placement| replica_here(placement, self.node).is_none())
                && let Err(error) = self.starter.end_life(shard)
            {
                tracing::warn!(%shard, %error, "what is left of a replica stays for now");
            }
        }
    }

    /// Starts what is to be on this node and is not. What cannot be started because its log is lost gets
    /// another replica in its place.
    async fn start_placed(
        &mut self,
        settings: &ClusterSettings,
        view: &ClusterView,
    ) -> Result<Vec<ShardOnNode>, StartError> {
        let mut all = Vec::new();
        for (&shard, placement) in &view.placements {
            let Some(replica) = replica_here(placement, self.node) else { continue };
            let is_there = self.starter.on_node.borrow().contains_key(&shard);
            // An earlier one than has begun here: the catalog has more to tell.
            let is_past = self.starter.begun(shard).is_some_and(|begun| begun > replica);
            if is_there || is_past || shard == ShardId::CATALOG {
                continue;
            }
            let begin = self.begin(placement, replica, view);
            let here = (shard, replica);
            let started = match self.starter.shard(here, settings, begin).await {
                Err(error) if lives::is_lost(&error) && !self.starter.is_alone => {
                    self.replace(here, &error).await;
                    continue;
                }
                started => started?,
            };
            tracing::info!(%shard, %replica, "replica started");
            all.push(started);
        }
        Ok(all)
    }

    /// Has another replica put in the place of one that cannot be started because its log is lost. The
    /// catalog's next word is what comes of it.
    async fn replace(&self, (shard, replica): (ShardId, ReplicaId), error: &StartError) {
        match another(&self.routing, shard, replica).await {
            Ok(other) if other != replica => {
                tracing::error!(%shard, %replica, %other, %error, "a replica is replaced by another");
            }
            Ok(_) => tracing::error!(
                %shard, %replica, %error, "no other replica has the log: this one stays as it is"
            ),
            Err(failed) => {
                tracing::error!(%shard, %replica, %error, %failed, "a replica is not replaced yet");
            }
        }
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

    /// Gives away leads: all where this node is drained or its clock is far off, else those that another
    /// node is to have.
    async fn move_leads(&mut self, view: &ClusterView) {
        let now = Instant::now();
        let is_draining =
            view.nodes.get(&self.node).is_some_and(|record| record.state != NodeState::Active);
        match is_draining {
            true => drop(self.drained_since.get_or_insert(now)),
            false => self.drained_since = None,
        }
        let on_node = self.routing.on_node.borrow().clone();
        let clocks = self.clocks.borrow().clone();
        let mut moves = Vec::new();
        for (&shard, local) in on_node.iter() {
            let state = local.raft.leader().state();
            let Some(placement) = view.placements.get(&shard).filter(|_| state.serving) else {
                continue;
            };
            let mut to = match self.drained_since {
                _ if clocks.must_not_lead() => leads::successors(placement, view, self.node),
                Some(since) => self.successors(placement, view, now - since),
                None => {
                    let shard = (shard, state.term);
                    self.preferred(shard, local, placement, view, &clocks.unfit, now)
                }
            };
            if let Some(index) = local.log.damaged() {
                // What it cannot read, it cannot send: to nobody who is behind that.
                to = leads::successors(placement, view, self.node);
                to.retain(|replica| leads::has_entry(&local.raft, *replica, index));
            }
            to.retain(|replica| !clocks.unfit.contains(&replica.node()));
            if !to.is_empty() {
                let raft = local.raft.clone();
                moves.push(async move {
                    if let Err(error) = leads::hand_over(shard, &raft, &to).await {
                        tracing::info!(%shard, %error, "the lead stays here for now");
                    }
                });
            }
        }
        futures::future::join_all(moves).await;
    }

    /// Who can lead a shard instead of this node, which is drained.
    fn successors(
        &self,
        placement: &Placement,
        view: &ClusterView,
        drained_for: Duration,
    ) -> Vec<ReplicaId> {
        let is_own = placement.voters.first().is_some_and(|first| first.node() == self.node);
        if is_own && drained_for < PLACING_TIME {
            // The catalog is about to say who is to lead: else the lead would move twice.
            return Vec::new();
        }
        leads::successors(placement, view, self.node)
    }

    /// The one who is to lead a shard that this node leads, if it is another and its turn has come.
    fn preferred(
        &mut self,
        (shard, term): (ShardId, u64),
        local: &LocalReplica,
        placement: &Placement,
        view: &ClusterView,
        unfit: &BTreeSet<NodeId>,
        now: Instant,
    ) -> Vec<ReplicaId> {
        let Some(&first) = placement.voters.first().filter(|first| **first != local.replica) else {
            return Vec::new();
        };
        let is_active =
            view.nodes.get(&first.node()).is_some_and(|it| it.state == NodeState::Active);
        let is_fit = is_active
            && !unfit.contains(&first.node())
            && placement.is_settled()
            && leads::is_fit(&local.raft, first);
        if !self.spreader.is_due(shard, term, is_fit, now) {
            return Vec::new();
        }
        self.spreader.tried(shard, now);
        vec![first]
    }

    /// Tells clients where to go, as soon as this node is drained.
    async fn say_farewell(&self, view: &ClusterView) {
        let leads = |local: &Arc<LocalReplica>| {
            local.raft.leader().state().leader.is_some_and(|leader| leader.node() == self.node)
        };
        let mut is_drained = false;
        if self.drained_since.is_some() && !self.routing.on_node.borrow().values().any(leads) {
            let drains = self.catalog.drains().await.unwrap_or_default();
            is_drained = drains.get(&self.node).is_some_and(|drain| drain.is_drained);
        }
        let farewell = Farewell { is_drained, alternatives: view.alternatives(self.node) };
        self.farewell.send_if_modified(|known| {
            let changes = *known != farewell;
            *known = farewell;
            changes
        });
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

/// The replica that is to be in the place of one that lost its log; that one itself, where no other has
/// the log.
async fn another(
    routing: &Routing,
    shard: ShardId,
    lost: ReplicaId,
) -> Result<ReplicaId, WireError> {
    let outcome = routing.change(CatalogCommand::Reincarnate { shard, lost }).await;
    match outcome.map_err(wire_error::change_failure)? {
        CatalogOutcome::Replica { replica: Some(replica), .. } => Ok(replica),
        other => {
            let message = format!("shard {shard} has no place for another replica: {other:?}");
            Err(WireError::new(ErrorCode::Unavailable, message))
        }
    }
}

/// Gives a node its place in the cluster.
async fn join_cluster(
    routing: Routing,
    join: v1::JoinCluster,
    now_us: i64,
    reply: oneshot::Sender<Result<v1::Joined, WireError>>,
) {
    let joined = try_join(&routing, join, now_us).await;
    reply.send(joined).ok();
}

async fn try_join(
    routing: &Routing,
    join: v1::JoinCluster,
    now_us: i64,
) -> Result<v1::Joined, WireError> {
    let node = join.node.ok_or_else(|| {
        WireError::new(ErrorCode::ProtocolViolation, "the node does not say who it is")
    })?;
    let off_us = node.clock_us.saturating_sub(now_us);
    if formation::is_far_off_when_joining(off_us) {
        let message = format!(
            "the clock of the node is {} of the cluster's: set it right, and it is taken in",
            formation::off_in_words(off_us)
        );
        return Err(WireError::new(ErrorCode::Unavailable, message));
    }
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
            Err(WireError::new(ErrorCode::NodeIdentityConflict, peers::was_removed(node)))
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
