//! Makes true on this node, and where this node leads, what the catalog says about the cluster: again
//! and again, from whatever is half done. What other nodes ask is in `admission`, the moving of leads in
//! `leading`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_core::catalog::{NodeRecord, Placement};
use railgun_core::command::{CatalogCommand, ClusterSettings, NodeInfo};
use railgun_net::tls::ClusterCa;
use railgun_raft::{MembershipStep, WantedMembers};
use railgun_types::{NodeId, ReplicaId, ShardId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::admission::another;
use super::clocks::ClockStanding;
use super::damaged::Dead;
use super::setbacks::Setbacks;
use super::starter::{Begin, Starter};
use super::uploads::Uploads;
use super::{StartError, lives};
use crate::catalog::{CatalogHandle, ClusterView};
use crate::clock::Clock;
use crate::leads::LeadSpreader;
use crate::node_ask::NodeAsk;
use crate::on_node::LocalReplica;
use crate::on_node::ShardOnNode;
use crate::peers::{Listed, Listing, Refusals, RemovedNodes};
use crate::routing::{Placements, Routing};
use crate::session::Farewell;

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
    pub(super) listing: watch::Sender<Listing>,
    pub(super) placements: watch::Sender<Placements>,
    /// Who is let in no more.
    pub(super) removed: watch::Sender<RemovedNodes>,
    /// Who does not take this node for itself.
    pub(super) refusals: Refusals,
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
    /// Replicas that do not start, or are damaged and stay.
    pub(super) setbacks: Setbacks,
    /// Replicas that have died of a damaged log.
    pub(super) dead: BTreeMap<ShardId, Dead>,
}

/// What came of starting replicas.
#[derive(Default)]
struct Started {
    shards: Vec<ShardOnNode>,
    /// The first one that was not started, and is not replaced either.
    failure: Option<StartError>,
}

impl Keeper {
    /// Tends the cluster until cancelled. `asks` are those of other nodes.
    pub(super) async fn run(
        mut self,
        mut asks: mpsc::Receiver<NodeAsk>,
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

    async fn tend(&mut self) {
        let mut view = self.view.borrow().clone();
        let Some(settings) = view.settings else { return };
        self.publish(&view);
        self.tell_of_itself(&view).await;
        self.remove_earlier_lives(&view);
        let now = self.view_of_lives(&view).await;
        let is_now = now.is_some();
        view = now.unwrap_or(view);
        if is_now {
            self.stop_unplaced(&view).await;
        }
        self.stop_dead(&view).await;
        let started = self.start_placed(&settings, &view, is_now).await;
        started.shards.iter().for_each(|shard| self.uploads.begin(shard));
        self.replace_damaged(&view).await;
        self.mend_catalog(&view).await;
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
        let now = self.view_of_lives(&view).await;
        let is_now = now.is_some();
        let started = self.start_placed(settings, &now.unwrap_or(view), is_now).await;
        if let Some(failure) = started.failure {
            return Err(failure);
        }
        let started = started.shards;
        started.iter().for_each(|shard| self.uploads.begin(shard));
        Ok(())
    }

    fn publish(&self, view: &ClusterView) {
        let members = view.nodes.iter().filter(|(_, record)| record.is_member());
        let listed =
            |record: &NodeRecord| Listed { uid: record.uid, address: record.peer_address.clone() };
        let listing: BTreeMap<_, _> =
            members.map(|(node, record)| (*node, listed(record))).collect();
        // Who knows itself to be removed needs no second word for it.
        let others = listing.keys().filter(|node| **node != self.node).count();
        let is_removed = view.nodes.get(&self.node).is_some_and(|own| !own.is_member());
        self.refusals.others_are(if is_removed { 1 } else { others });
        self.listing.send_if_modified(|known| {
            let changes = **known != listing;
            *known = Arc::new(listing);
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
            drop(self.routing.change(self.moved(view)).await);
        }
    }

    /// Where this node is now, with those that were there and are elsewhere, as they have told.
    fn moved(&self, view: &ClusterView) -> CatalogCommand {
        let mut told = vec![(self.node, self.own.clone())];
        let found = |node| self.routing.others.as_ref()?.addresses.found(node);
        while let Some((_, last)) = told.last()
            && let Some(there) = view.member_at(&last.peer_address)
            && told.iter().all(|(node, _)| *node != there)
            && let Some(info) = found(there)
        {
            told.push((there, info));
        }
        match told.len() {
            1 => CatalogCommand::UpdateNode { node: self.node, info: self.own.clone() },
            _ => CatalogCommand::UpdateNodes(told),
        }
    }

    /// What the catalog says now, if the life of a replica here would begin or end by `view`, which may be
    /// old.
    async fn view_of_lives(&self, view: &ClusterView) -> Option<Arc<ClusterView>> {
        let changes = view.placements.iter().any(|(&shard, placement)| {
            let here = replica_here(placement, self.node);
            let begun = self.starter.begun(shard);
            let is_past = here.is_some_and(|here| self.starter.is_past(shard, here));
            shard != ShardId::CATALOG && here != begun && (begun.is_some() || !is_past)
        });
        if self.starter.is_alone || !changes {
            return None;
        }
        self.routing.catch_up(ShardId::CATALOG).await.ok()?;
        // What has been caught up with lies in the owner's queue, at least.
        self.catalog.view_now().await.ok()
    }

    /// Removes what earlier replicas have left, once others do not need it: once the one that is here was a
    /// voter in force, in whatever view.
    fn remove_earlier_lives(&self, view: &ClusterView) {
        let on_node = self.starter.on_node.borrow().clone();
        for (&shard, local) in on_node.iter() {
            let Some(placement) = view.placements.get(&shard) else { continue };
            let is_present = self.starter.begun(shard) == Some(local.replica)
                && placement.replica_on(self.node) == Some(local.replica);
            if is_present && placement.is_settled() && placement.in_force.contains(&local.replica) {
                self.starter.remove_earlier_lives(shard);
            }
        }
    }

    /// Stops what is not to be on this node any more, or is to be another replica, as the catalog says
    /// now.
    async fn stop_unplaced(&mut self, now: &ClusterView) {
        for (&shard, placement) in &now.placements {
            let here = replica_here(placement, self.node);
            let begun = self.starter.begun(shard);
            if shard == ShardId::CATALOG || begun.is_none() || here == begun {
                continue;
            }
            self.starter.stop(shard).await;
            if here.is_none()
                && let Err(error) = self.starter.end_life(shard)
            {
                tracing::warn!(%shard, %error, "what is left of a replica stays for now");
            }
        }
    }

    /// Starts what is to be on this node and is not: a replica that has begun here by any view, another only
    /// if the view is what the catalog says now. What cannot be started because its log is lost gets another
    /// replica in its place.
    async fn start_placed(
        &mut self,
        settings: &ClusterSettings,
        view: &ClusterView,
        is_now: bool,
    ) -> Started {
        let mut all = Started::default();
        let is_now = is_now || self.starter.is_alone;
        for (&shard, placement) in &view.placements {
            let Some(replica) = replica_here(placement, self.node) else { continue };
            let is_there = self.starter.on_node.borrow().contains_key(&shard);
            let has_begun = self.starter.begun(shard) == Some(replica);
            let may_start = has_begun || is_now && !self.starter.is_past(shard, replica);
            let is_due = self.setbacks.is_due(shard, placement, Instant::now());
            if is_there || !may_start || !is_due || shard == ShardId::CATALOG {
                continue;
            }
            let begin = self.begin(placement, replica, view);
            let here = (shard, replica);
            let dead = self.dead.get(&shard).filter(|dead| dead.replica == replica).cloned();
            if let Some(dead) = &dead
                && self.others_suffice(here, dead.committed, placement, view).await
            {
                let reason = dead.reason.clone();
                let error = StartError::DamagedLog { shard, replica, reason };
                self.replace(here, placement, &error).await;
                continue;
            }
            match self.starter.shard(here, settings, begin).await {
                Ok(started) => {
                    tracing::info!(%shard, %replica, "replica started");
                    match &dead {
                        // It may die again.
                        Some(dead) => self.look_at_damage(shard, dead).await,
                        None => self.setbacks.clear(shard),
                    }
                    all.shards.push(started);
                }
                Err(error)
                    if lives::is_lost(&error) && dead.is_none() && !self.starter.is_alone =>
                {
                    self.replace(here, placement, &error).await;
                }
                Err(error) => {
                    let what = error.to_string();
                    if self.setbacks.note(shard, placement, what, Instant::now()) {
                        let what = "a replica that belongs here cannot be started";
                        tracing::error!(%shard, %replica, %error, "{what}");
                    }
                    all.failure.get_or_insert(error);
                }
            }
        }
        all
    }

    /// Has another replica put in the place of one that cannot be started because its log is lost. The
    /// catalog's next word is what comes of it.
    async fn replace(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        placement: &Placement,
        error: &StartError,
    ) {
        let stays = match another(&self.routing, shard, replica).await {
            Ok(other) if other != replica => {
                tracing::error!(%shard, %replica, %other, %error, "a replica is replaced by another");
                return;
            }
            Ok(_) => "the others are no majority: this one stays as it is".to_owned(),
            Err(failed) => format!("it is not replaced yet: {failed}"),
        };
        if self.setbacks.note(shard, placement, format!("{error}; {stays}"), Instant::now()) {
            tracing::error!(%shard, %replica, %error, "{stays}");
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
