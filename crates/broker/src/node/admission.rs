//! Takes nodes, and other replicas of nodes, into the cluster that this node belongs to.

use railgun_core::catalog::CatalogOutcome;
use railgun_core::command::{CatalogCommand, NodeInfo};
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_types::{ErrorCode, NodeUid, ReplicaId, ShardId};
use tokio::sync::oneshot;

use super::clocks::ClockStanding;
use super::keeper::Keeper;
use crate::node_ask::NodeAsk;
use crate::routing::{Leader, Routing};
use crate::{formation, joining, peers, wire_error};

impl Keeper {
    pub(super) fn on_ask(&self, ask: NodeAsk) {
        match ask {
            NodeAsk::Greet { .. } => {}
            NodeAsk::Form { form, reply } => {
                reply.send(formation::is_bound(&form, self.routing.cluster, self.own.uid)).ok();
            }
            NodeAsk::Join { join, reply } => {
                let now_us = self.clock.now().0;
                let clocks = self.clocks.borrow().clone();
                let joined = join_cluster(self.routing.clone(), join, clocks, now_us, reply);
                self.starter.actors.spawn("a node that joins", joined);
            }
            NodeAsk::Reincarnate { from, shard, lost, reply } => {
                let view = self.view.borrow().clone();
                if view.nodes.get(&lost.node()).is_none_or(|record| record.uid != from) {
                    let message = format!(
                        "replica {lost} is not known to be of the node that wants another in its place"
                    );
                    return drop(reply.send(Err(WireError::new(ErrorCode::Unavailable, message))));
                }
                let routing = self.routing.clone();
                self.starter.actors.spawn("a replica that lost its log", async move {
                    reply.send(another(&routing, shard, lost).await).ok();
                });
            }
            NodeAsk::Sign { sign, reply } => {
                let Some(ca) = self.ca.clone() else { return drop(reply.send(Ok(None))) };
                let routing = self.routing.clone();
                self.starter.actors.spawn("a certificate of a node", async move {
                    let signed = joining::sign_here(&routing, &ca, &sign).await;
                    reply.send(signed.map(Some)).ok();
                });
            }
        }
    }
}

/// The replica that is to be in the place of one that lost its log; that one itself, where no other has
/// the log.
pub(super) async fn another(
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
    clocks: ClockStanding,
    now_us: i64,
    reply: oneshot::Sender<Result<v1::Joined, WireError>>,
) {
    let joined = try_join(&routing, join, &clocks, now_us).await;
    reply.send(joined).ok();
}

async fn try_join(
    routing: &Routing,
    join: v1::JoinCluster,
    clocks: &ClockStanding,
    now_us: i64,
) -> Result<v1::Joined, WireError> {
    let node = join.node.ok_or_else(|| {
        WireError::new(ErrorCode::ProtocolViolation, "the node does not say who it is")
    })?;
    let off_us = clocks.off_by_the_best_us(node.clock_us.saturating_sub(now_us));
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
