//! Moves leads away from this node, and its clients after them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use railgun_core::catalog::Placement;
use railgun_core::command::NodeState;
use railgun_types::{NodeId, ReplicaId, ShardId};
use tokio::time::Instant;

use super::clocks::ClockStanding;
use super::keeper::Keeper;
use crate::builtin_bug::BuiltinBug;
use crate::catalog::ClusterView;
use crate::leads;
use crate::on_node::LocalReplica;
use crate::session::Farewell;

/// How long the catalog's leader may take to say who leads instead of a node that is drained.
const PLACING_TIME: Duration = Duration::from_secs(2);

impl Keeper {
    /// Gives away leads: all where this node is drained or its clock is far off, else those that another
    /// node is to have.
    pub(super) async fn move_leads(&mut self, view: &ClusterView) {
        let now = Instant::now();
        let is_draining =
            view.nodes.get(&self.node).is_some_and(|record| record.state != NodeState::Active);
        match is_draining {
            true => drop(self.drained_since.get_or_insert(now)),
            false => self.drained_since = None,
        }
        let on_node = self.routing.on_node.borrow().clone();
        let mut clocks = self.clocks.borrow().clone();
        if self.starter.planted.is(BuiltinBug::WrongClockLeads) {
            clocks = ClockStanding::default();
        }
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
            && local.raft.check_successor(first).is_ok();
        if !self.spreader.is_due(shard, term, is_fit, now) {
            return Vec::new();
        }
        self.spreader.tried(shard, now);
        vec![first]
    }

    /// Tells clients where to go, as soon as this node is drained.
    pub(super) async fn say_farewell(&self, view: &ClusterView) {
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
}
