//! Owns what clients are told of where shards are led (CL-4). Inputs: who leads the shards that are on this
//! node, which nodes have the others, and where nodes take clients. Output: a watched map. Never: asks another
//! node.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use railgun_core::command::NodeState;
use railgun_raft::LeaderWatch;
use railgun_types::{NodeId, ReplicaId, ShardId};
use tokio::sync::{Notify, watch};

use crate::catalog::ClusterView;
use crate::on_node::OnNode;
use crate::routing::{Others, Routing};

/// A node to go to, and where it takes clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedAt {
    pub(crate) node: NodeId,
    pub(crate) address: String,
}

/// For each data shard the node that leads it; where this one does not have it, one that does. Nothing while
/// nobody leads.
pub(crate) type Led = BTreeMap<ShardId, LedAt>;

/// Follows the map. Of a node that is alone, and by default, it stays empty.
#[derive(Clone, Debug)]
pub(crate) struct LedWatch {
    led: watch::Receiver<Arc<Led>>,
    /// Wakes who waits in the order of coming: the watch would not, and no simulated run would be like the
    /// one before it.
    changes: Arc<Notify>,
}

impl Default for LedWatch {
    fn default() -> Self {
        Self { led: watch::channel(Arc::default()).1, changes: Arc::default() }
    }
}

impl LedWatch {
    /// As it is now, which counts as seen.
    pub(crate) fn now(&mut self) -> Arc<Led> {
        Arc::clone(&self.led.borrow_and_update())
    }

    /// Waits for what was not seen yet. Cancel safe.
    pub(crate) async fn changed(&self) {
        let mut changed = pin!(self.changes.notified());
        // Before the look, so that nothing falls between.
        changed.as_mut().enable();
        if !self.led.has_changed().unwrap_or(false) {
            changed.await;
        }
    }
}

pub(crate) struct Leaders {
    routing: Routing,
    view: watch::Receiver<Arc<ClusterView>>,
    led: watch::Sender<Arc<Led>>,
    changes: Arc<Notify>,
    /// Of the replicas that are here.
    here: BTreeMap<ShardId, (ReplicaId, LeaderWatch)>,
}

impl Leaders {
    pub(crate) fn new(
        routing: Routing,
        view: watch::Receiver<Arc<ClusterView>>,
    ) -> (Self, LedWatch) {
        let ((led, watch), changes) = (watch::channel(Arc::default()), Arc::<Notify>::default());
        let watch = LedWatch { led: watch, changes: Arc::clone(&changes) };
        (Self { routing, view, led, changes, here: BTreeMap::new() }, watch)
    }

    /// Goes on until the node ends.
    pub(crate) async fn run(mut self) {
        let Some(others) = self.routing.others.clone() else { return };
        let mut on_node = self.routing.on_node.clone();
        let (mut placements, mut guesses) = (others.placements.clone(), others.guesses());
        loop {
            self.attend(&on_node.borrow_and_update().clone());
            placements.mark_unchanged();
            guesses.mark_unchanged();
            self.tell(&others);
            let is_over = tokio::select! {
                biased;
                changed = on_node.changed() => changed.is_err(),
                changed = self.view.changed() => changed.is_err(),
                changed = placements.changed() => changed.is_err(),
                changed = guesses.changed() => changed.is_err(),
                () = any_changed(&mut self.here) => false,
            };
            if is_over {
                return;
            }
        }
    }

    /// Follows the leads of what is on the node now.
    fn attend(&mut self, on_node: &OnNode) {
        self.here.retain(|shard, (replica, _)| {
            on_node.get(shard).is_some_and(|local| local.replica == *replica)
        });
        for (shard, local) in on_node.iter().filter(|(_, local)| local.data().is_some()) {
            self.here.entry(*shard).or_insert_with(|| (local.replica, local.raft.leader()));
        }
    }

    fn tell(&mut self, others: &Others) {
        let view = Arc::clone(&self.view.borrow_and_update());
        let own = self.routing.own;
        let led_by = |shard: ShardId| match self.here.get(&shard) {
            Some((_, watch)) => {
                let state = watch.state();
                let node = state.leader?.node();
                (node != own || state.serving).then_some(node)
            }
            None => others.holder(shard, own, 0),
        };
        let led_at = |shard: ShardId| {
            let node = led_by(shard)?;
            let takes_clients = |record: &&railgun_core::catalog::NodeRecord| {
                record.state == NodeState::Active && !record.client_address.is_empty()
            };
            let record = view.member(node).filter(takes_clients)?;
            Some((shard, LedAt { node, address: record.client_address.clone() }))
        };
        let shards = view.placements.keys().filter(|shard| **shard != ShardId::CATALOG);
        let led = shards.filter_map(|shard| led_at(*shard)).collect::<Led>();
        if **self.led.borrow() != led {
            self.led.send_replace(Arc::new(led));
            self.changes.notify_waiters();
        }
    }
}

/// Waits until somebody else leads one of them. Cancel safe.
async fn any_changed(here: &mut BTreeMap<ShardId, (ReplicaId, LeaderWatch)>) {
    let mut changes: FuturesUnordered<_> =
        here.values_mut().map(|(_, watch)| watch.changed()).collect();
    while let Some(changed) = changes.next().await {
        // One that has stopped leaves the node in a moment.
        if changed.is_ok() {
            return;
        }
    }
    std::future::pending().await
}
