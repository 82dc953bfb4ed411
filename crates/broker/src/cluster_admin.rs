//! What operators ask about the cluster and its nodes, answered by whichever node they ask. Holds no
//! state of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_core::catalog::{CatalogOutcome, Placement};
use railgun_core::command::{CatalogCommand, ClusterSettings, NodeState};
use railgun_core::placement::DrainState;
use railgun_net::tls::ClusterCa;
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_raft::TransferError;
use railgun_types::limits::VOTERS;
use railgun_types::{ErrorCode, NodeId, ReplicaId, ShardId};
use tokio::time::{sleep, timeout};

use crate::catalog::{CatalogHandle, ClusterView};
use crate::joining::{self, Registrar};
use crate::leads;
use crate::on_node::{LocalReplica, OnNode};
use crate::routing::{Leader, Routing};
use crate::wire_error::change_failure;

/// What has not answered by then is not known.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the lead of a shard may take to move, with all that is repeated.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What each node that answers has, by its number.
type Heard = BTreeMap<NodeId, v1::NodeReplicas>;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClusterAdmin {
    pub(crate) catalog: CatalogHandle,
    pub(crate) routing: Routing,
    pub(crate) registrar: Registrar,
}

impl ClusterAdmin {
    /// What this node knows of the cluster, and what the others tell within 2 s. Changes nothing, and
    /// asks no majority: it is for when there is none, too.
    pub(crate) async fn describe(&self) -> Result<v1::ClusterDescription, WireError> {
        let (view, settings) = self.view()?;
        let (drains, heard) = tokio::join!(self.drains(), self.hear(&view));
        let nodes = view.nodes.iter().filter(|(_, record)| record.is_member());
        let nodes = nodes.map(|(node, record)| v1::ClusterNode {
            node_id: node.0,
            uid: record.uid.to_wire(),
            state: state_to_wire(record.state).into(),
            peer_address: record.peer_address.clone(),
            client_address: record.client_address.clone(),
            feature_level: record.feature_level,
            reachable: heard.contains_key(node),
            drain: drains.get(node).map(drain_to_wire),
        });
        let shards = view.placements.iter().map(|(shard, placement)| {
            describe_shard(*shard, placement, voters_wanted(*shard, &view, &settings), &heard)
        });
        Ok(v1::ClusterDescription {
            cluster_uid: self.routing.cluster.to_wire(),
            feature_level: view.feature_level,
            data_shards: settings.shards,
            replicas: settings.replicas.into(),
            hot_bytes_max: settings.hot_bytes_max,
            node_id: self.routing.own.0,
            nodes: nodes.collect(),
            shards: shards.collect(),
        })
    }

    /// Drains a node, takes that back, or removes it for good. Tells what is still on it.
    pub(crate) async fn set_node_state(
        &self,
        set: v1::SetNodeState,
    ) -> Result<v1::NodeStateSet, WireError> {
        let (view, _) = self.view()?;
        let node = NodeId(set.node_id);
        let state = match set.state() {
            v1::NodeState::Active => NodeState::Active,
            v1::NodeState::Draining => NodeState::Draining,
            v1::NodeState::Removed => NodeState::Removed,
            v1::NodeState::Unspecified => {
                let message = "the request does not say what the node is to be";
                return Err(WireError::new(ErrorCode::ProtocolViolation, message));
            }
        };
        if state == NodeState::Removed && view.member(node).is_some() {
            self.may_remove(&view, node, set.force).await?;
        }
        let change = CatalogCommand::SetNodeState { node, state };
        let outcome = self.routing.change(change).await.map_err(change_failure)?;
        let drain = match outcome {
            CatalogOutcome::Node { .. } if state == NodeState::Removed => None,
            CatalogOutcome::Node { .. } => self.drain_after(node, state).await,
            // It was asked for before.
            CatalogOutcome::NodeRemoved { .. } if state == NodeState::Removed => None,
            CatalogOutcome::NodeRemoved { node } => {
                let message = format!("node {node} was removed, for ever: let it join anew");
                return Err(WireError::new(ErrorCode::NodeNotFound, message));
            }
            CatalogOutcome::NoSuchNode { node } => return Err(no_such_node(node)),
            CatalogOutcome::LastNode { node } => {
                let message = format!("node {node} is the last one of the cluster");
                return Err(WireError::new(ErrorCode::UnsafeChange, message));
            }
            other => {
                let message = format!("the catalog answered {other:?}");
                return Err(WireError::new(ErrorCode::Internal, message));
            }
        };
        Ok(v1::NodeStateSet { drain: drain.as_ref().map(drain_to_wire) })
    }

    /// What is on a node, as soon as this one knows of its new state, or what it knows after a while.
    async fn drain_after(&self, node: NodeId, state: NodeState) -> Option<DrainState> {
        let mut view = self.catalog.view();
        let is_so = |view: &Arc<ClusterView>| {
            view.nodes.get(&node).is_some_and(|record| record.state == state)
        };
        timeout(ANSWER_TIMEOUT, view.wait_for(is_so)).await.ok()?.ok()?;
        self.drains().await.remove(&node)
    }

    /// Refuses what would lose the majority of a shard, and the removal of a node that is in use unless
    /// it is forced.
    async fn may_remove(
        &self,
        view: &ClusterView,
        node: NodeId,
        force: bool,
    ) -> Result<(), WireError> {
        let (drains, heard) = tokio::join!(self.drains(), self.hear(view));
        let refused = |message: String| Err(WireError::new(ErrorCode::UnsafeChange, message));
        let lost: Vec<ShardId> = view
            .placements
            .iter()
            .filter(|(shard, placement)| loses_majority(**shard, placement, node, view, &heard))
            .map(|(shard, _)| *shard)
            .collect();
        if !lost.is_empty() {
            return refused(format!(
                "without node {node} no majority of the voters of {} is left that answers: bring back \
                 another node first, or let one join that takes its place",
                shards_of(&lost)
            ));
        }
        let is_drained = drains.get(&node).is_some_and(|drain| drain.is_drained);
        let is_draining = view.member(node).is_some_and(|it| it.state == NodeState::Draining);
        if heard.contains_key(&node) && !(is_draining && is_drained) && !force {
            return refused(format!(
                "node {node} is alive and not drained: drain it first (railgun cluster drain {node} \
                 --wait), or remove it by force"
            ));
        }
        Ok(())
    }

    /// Has a shard led by its replica on a node, and waits until that one serves.
    pub(crate) async fn transfer_leader(
        &self,
        transfer: v1::TransferLeader,
    ) -> Result<v1::LeaderTransferred, WireError> {
        let (shard, node) = (ShardId(transfer.shard), NodeId(transfer.node_id));
        let (view, _) = self.view()?;
        check_successor(&view, shard, node)?;
        let moved = async {
            self.move_lead(shard, node).await?;
            loop {
                let told = self.ask_node(&view, node).await.unwrap_or_default();
                let serving = told.replicas.iter().find(|it| it.shard == shard.0 && it.serving);
                if let Some(replica) = serving {
                    let (leader, term) = (replica.replica, replica.term);
                    return Ok(v1::LeaderTransferred { leader, term });
                }
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(TRANSFER_TIMEOUT, moved).await.unwrap_or_else(|_| {
            let message = format!(
                "node {node} does not lead shard {shard} after {TRANSFER_TIMEOUT:?}: see who does \
                 (railgun cluster status)"
            );
            Err(WireError::new(ErrorCode::Timeout, message))
        })
    }

    /// Asks the leader, wherever it is, until it has handed the lead over or refuses for good.
    async fn move_lead(&self, shard: ShardId, node: NodeId) -> Result<(), WireError> {
        for attempt in 0.. {
            let moved = match self.routing.leader(shard, attempt) {
                Leader::Here(local) => move_lead_of(shard, &local, node).await,
                Leader::At(address) => self.move_lead_at(&address, shard, node).await,
                Leader::Unknown => Err(no_leader(shard)),
            };
            match moved {
                Err(error) if error.retry != railgun_types::Retry::Never => sleep(LOOK_EVERY).await,
                ended => return ended,
            }
        }
        Err(no_leader(shard))
    }

    async fn move_lead_at(
        &self,
        address: &str,
        shard: ShardId,
        node: NodeId,
    ) -> Result<(), WireError> {
        let from = Some(self.routing.replica_address(shard));
        let call = v1::peer_call::Call::MoveLead(v1::MoveLead { from, node_id: node.0 });
        let Some(others) = &self.routing.others else { return Err(no_leader(shard)) };
        match others.peers.call(address, call, Bytes::new()).await {
            Ok((v1::peer_reply::Answer::LeadMoved(moved), _)) => {
                moved.error.map_or(Ok(()), |error| Err(error.into()))
            }
            Ok(_) | Err(_) => Err(no_leader(shard)),
        }
    }

    /// The level at which all nodes work, as far as this one knows.
    pub(crate) fn feature_level(&self) -> u32 {
        self.catalog.view().borrow().feature_level
    }

    fn view(&self) -> Result<(Arc<ClusterView>, ClusterSettings), WireError> {
        let view = self.catalog.view().borrow().clone();
        let settings = view
            .settings
            .ok_or_else(|| WireError::new(ErrorCode::Unavailable, "the cluster is being formed"))?;
        Ok((view, settings))
    }

    /// What is still on each node; nothing if the catalog does not say.
    async fn drains(&self) -> BTreeMap<NodeId, DrainState> {
        let drains = timeout(ANSWER_TIMEOUT, self.catalog.drains()).await;
        drains.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// What every node that answers in time has.
    async fn hear(&self, view: &ClusterView) -> Heard {
        let members = view.nodes.iter().filter(|(_, record)| record.is_member());
        let asked =
            members.map(|(&node, _)| async move { Some((node, self.ask_node(view, node).await?)) });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Where the nodes are that have the key of the cluster's authority, and the hash of its certificate.
    pub(crate) async fn signers(&self) -> Vec<(String, Bytes)> {
        let Ok((view, _)) = self.view() else { return Vec::new() };
        let heard = self.hear(&view).await;
        let signers = heard.into_iter().filter(|(_, told)| !told.ca_sha256.is_empty());
        let addressed = signers.filter_map(|(node, told)| {
            Some((address(&self.routing, &view, node)?, told.ca_sha256))
        });
        addressed.collect()
    }

    async fn ask_node(&self, view: &ClusterView, node: NodeId) -> Option<v1::NodeReplicas> {
        if node == self.routing.own {
            let ca = self.registrar.ca.as_deref();
            return Some(replicas_here(&self.routing.on_node.borrow(), ca));
        }
        ask_replicas(&self.routing, view, node).await
    }
}

/// Where a node is reached that was a member a moment ago.
fn address(routing: &Routing, view: &ClusterView, node: NodeId) -> Option<String> {
    let known = routing.others.as_ref().and_then(|others| others.addresses.of(node));
    known.or_else(|| Some(view.nodes.get(&node)?.peer_address.clone()))
}

/// What another node has of each shard, if it answers in time.
pub(crate) async fn ask_replicas(
    routing: &Routing,
    view: &ClusterView,
    node: NodeId,
) -> Option<v1::NodeReplicas> {
    let others = routing.others.as_ref()?;
    let address = &address(routing, view, node)?;
    let cluster_uid = routing.cluster.to_wire();
    let call = v1::peer_call::Call::Describe(v1::DescribeReplicas { cluster_uid });
    let answer = timeout(ANSWER_TIMEOUT, others.peers.call(address, call, Bytes::new())).await;
    match answer.ok()? {
        Ok((v1::peer_reply::Answer::ReplicasTold(told), _)) => Some(told),
        _ => None,
    }
}

/// What a node has of each shard.
pub(crate) fn replicas_here(on_node: &OnNode, ca: Option<&ClusterCa>) -> v1::NodeReplicas {
    let describe = |(shard, local): (&ShardId, &Arc<LocalReplica>)| {
        let (metrics, state) = (local.raft.metrics(), local.raft.leader().state());
        let numbers = |replicas: &[ReplicaId]| replicas.iter().map(|it| it.0).collect();
        v1::NodeReplica {
            shard: shard.0,
            replica: local.replica.0,
            term: state.term,
            leader: state.leader.map_or(0, |leader| leader.0),
            serving: state.serving,
            committed: metrics.committed.map(|id| id.index),
            applied: metrics.applied.map(|id| id.index),
            pending_log_bytes: local.data().map(|data| data.handle.figures().hot_bytes),
            voters: numbers(&metrics.voters),
            learners: numbers(&metrics.learners),
        }
    };
    v1::NodeReplicas {
        replicas: on_node.iter().map(describe).collect(),
        ca_sha256: ca.map(joining::fingerprint).unwrap_or_default(),
    }
}

/// Hands the lead of a shard over, if it is here.
pub(crate) async fn move_lead_of(
    shard: ShardId,
    local: &LocalReplica,
    node: NodeId,
) -> Result<(), WireError> {
    let voters = local.raft.metrics().voters;
    let Some(to) = voters.into_iter().find(|voter| voter.node() == node) else {
        let message = format!("node {node} has no voter of shard {shard}, or not yet");
        return Err(WireError::new(ErrorCode::NodeNotFound, message));
    };
    let moved = leads::hand_over(shard, &local.raft, &[to]).await;
    moved.map(drop).map_err(|error| match error {
        TransferError::NotLeader { .. } | TransferError::Stopped(_) => no_leader(shard),
        // It catches up as a rule, and nobody has noticed anything.
        TransferError::Behind { .. } => WireError::new(ErrorCode::Unavailable, error.to_string()),
        TransferError::NotTaken { .. }
        | TransferError::NotVoter { .. }
        | TransferError::Unreachable { .. } => {
            let message = format!("shard {shard} is not led by node {node}: {error}");
            WireError::new(ErrorCode::UnsafeChange, message)
        }
    })
}

fn no_leader(shard: ShardId) -> WireError {
    let message = format!("shard {shard} has no leader now that answers");
    WireError::new(ErrorCode::Unavailable, message)
}

fn no_such_node(node: NodeId) -> WireError {
    WireError::new(ErrorCode::NodeNotFound, format!("the cluster has no node {node}"))
}

/// Whether a node may be asked to lead a shard.
fn check_successor(view: &ClusterView, shard: ShardId, node: NodeId) -> Result<(), WireError> {
    let refused = |message: String| Err(WireError::new(ErrorCode::NodeNotFound, message));
    if view.member(node).is_none() {
        return Err(no_such_node(node));
    }
    let Some(placement) = view.placements.get(&shard) else {
        return refused(format!("there is no shard {shard}"));
    };
    let nodes: BTreeSet<NodeId> = placement.voters.iter().map(|voter| voter.node()).collect();
    if !nodes.contains(&node) {
        let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        return refused(format!(
            "node {node} has no voter of shard {shard}: nodes {} have one",
            nodes.join(", ")
        ));
    }
    Ok(())
}

fn voters_wanted(shard: ShardId, view: &ClusterView, settings: &ClusterSettings) -> usize {
    match shard {
        ShardId::CATALOG => {
            let members = view.nodes.values().filter(|record| record.is_member());
            members.count().min(VOTERS)
        }
        _ => settings.replicas.into(),
    }
}

/// The voters of a shard, as whoever knows best among those that were heard tells, or else the catalog.
fn voters_of(shard: ShardId, placement: &Placement, heard: &Heard) -> BTreeSet<ReplicaId> {
    match best(shard, heard).filter(|best| !best.voters.is_empty()) {
        Some(best) => best.voters.iter().copied().map(ReplicaId).collect(),
        None => placement.in_force.iter().copied().collect(),
    }
}

/// The replica that has seen the newest term, the one that leads in it before others.
fn best(shard: ShardId, heard: &Heard) -> Option<&v1::NodeReplica> {
    told(shard, heard).max_by_key(|it| (it.term, it.serving))
}

fn told(shard: ShardId, heard: &Heard) -> impl Iterator<Item = &v1::NodeReplica> {
    heard.values().flat_map(|told| &told.replicas).filter(move |it| it.shard == shard.0)
}

/// Whether the voters that stay when a node goes, and answer, would be no majority.
fn loses_majority(
    shard: ShardId,
    placement: &Placement,
    node: NodeId,
    view: &ClusterView,
    heard: &Heard,
) -> bool {
    let voters = voters_of(shard, placement, heard);
    if !voters.iter().any(|voter| voter.node() == node) {
        return false;
    }
    let stays = |voter: &&ReplicaId| {
        voter.node() != node
            && view.member(voter.node()).is_some()
            && told(shard, heard).any(|it| it.replica == voter.0)
    };
    voters.iter().filter(stays).count() * 2 <= voters.len()
}

fn describe_shard(
    shard: ShardId,
    placement: &Placement,
    voters_wanted: usize,
    heard: &Heard,
) -> v1::ClusterShard {
    let voters = voters_of(shard, placement, heard);
    let told: BTreeMap<ReplicaId, &v1::NodeReplica> =
        told(shard, heard).map(|it| (ReplicaId(it.replica), it)).collect();
    let best = best(shard, heard);
    let learners = best.iter().flat_map(|best| &best.learners).copied().map(ReplicaId);
    let learners: BTreeSet<ReplicaId> = learners.collect();
    // A node that is alone tells nobody that its shards are as placed.
    let is_as_placed = best.is_some()
        && voters == placement.voters.iter().copied().collect()
        && learners == placement.learners.iter().copied().collect();
    let all: BTreeSet<ReplicaId> = (voters.iter().copied())
        .chain(learners)
        .chain(placement.members())
        .chain(told.keys().copied())
        .collect();
    let answering = voters.iter().filter(|voter| told.contains_key(voter)).count();
    // One that is heard must say itself that it serves.
    let leader = best
        .map(|best| ReplicaId(best.leader))
        .filter(|leader| leader.0 != 0 && told.get(leader).is_none_or(|it| it.serving));
    let leading = leader.and_then(|leader| told.get(&leader));
    let replica = |&replica: &ReplicaId| {
        let told = told.get(&replica);
        v1::ClusterReplica {
            replica: replica.0,
            votes: voters.contains(&replica),
            wanted: placement.members().any(|member| member == replica),
            reachable: told.is_some(),
            committed: told.and_then(|it| it.committed),
            applied: told.and_then(|it| it.applied),
        }
    };
    v1::ClusterShard {
        shard: shard.0,
        placement_version: placement.version,
        settled: placement.is_settled() || is_as_placed,
        leader: leader.map_or(0, |leader| leader.0),
        term: best.map_or(0, |best| best.term),
        voters_wanted: voters_wanted as u32,
        under_replicated: answering < voters_wanted,
        has_majority: answering * 2 > voters.len(),
        pending_log_bytes: leading.copied().or(best).and_then(|it| it.pending_log_bytes),
        replicas: all.iter().map(replica).collect(),
    }
}

fn state_to_wire(state: NodeState) -> v1::NodeState {
    match state {
        NodeState::Active => v1::NodeState::Active,
        NodeState::Draining => v1::NodeState::Draining,
        NodeState::Removed => v1::NodeState::Removed,
    }
}

fn drain_to_wire(drain: &DrainState) -> v1::DrainProgress {
    let numbers = |shards: &[ShardId]| shards.iter().map(|shard| shard.0).collect();
    v1::DrainProgress {
        leads: numbers(&drain.leads),
        votes: numbers(&drain.votes),
        stuck: numbers(&drain.stuck),
        leaving: numbers(&drain.leaving),
        drained: drain.is_drained,
    }
}

/// For people: `shard 1`, `shards 1, 2`.
fn shards_of(shards: &[ShardId]) -> String {
    let numbers: Vec<String> = shards.iter().map(ToString::to_string).collect();
    let plural = if shards.len() == 1 { "" } else { "s" };
    format!("shard{plural} {}", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use railgun_core::catalog::NodeRecord;
    use railgun_types::NodeUid;

    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn replica(node: u32) -> ReplicaId {
        ReplicaId::new(NodeId(node), 1)
    }

    fn placement(nodes: &[u32]) -> Placement {
        let voters: Vec<_> = nodes.iter().copied().map(replica).collect();
        Placement { version: 1, in_force: voters.clone(), voters, learners: vec![], settled: 1 }
    }

    fn sees(node: u32, term: u64, leader: u32, voters: &[u32]) -> (NodeId, v1::NodeReplicas) {
        let told = v1::NodeReplica {
            shard: SHARD.0,
            replica: replica(node).0,
            term,
            leader: if leader == 0 { 0 } else { replica(leader).0 },
            serving: node == leader,
            applied: Some(u64::from(node)),
            voters: voters.iter().map(|node| replica(*node).0).collect(),
            ..v1::NodeReplica::default()
        };
        (NodeId(node), v1::NodeReplicas { replicas: vec![told], ..Default::default() })
    }

    fn view(nodes: &[u32]) -> ClusterView {
        let record = NodeRecord {
            uid: NodeUid::default(),
            peer_address: String::new(),
            client_address: String::new(),
            feature_level: 1,
            state: NodeState::Active,
        };
        let nodes = nodes.iter().map(|node| (NodeId(*node), record.clone()));
        ClusterView { nodes: nodes.collect(), ..ClusterView::default() }
    }

    #[test]
    fn the_newest_term_counts() {
        // Node 1 is cut off from the others, and has not noticed yet that it leads no more.
        let heard = Heard::from([
            sees(1, 3, 1, &[1, 2, 3]),
            sees(2, 4, 3, &[1, 2, 3]),
            sees(3, 4, 3, &[1, 2, 3]),
        ]);
        let shard = describe_shard(SHARD, &placement(&[1, 2, 3]), 3, &heard);
        assert_eq!((shard.leader, shard.term), (replica(3).0, 4));
        assert!(shard.has_majority && !shard.under_replicated && shard.settled);
        assert_eq!(shard.replicas[1].applied, Some(2));
    }

    #[test]
    fn what_does_not_answer_is_missing() {
        let heard = Heard::from([sees(2, 4, 3, &[1, 2, 3])]);
        let shard = describe_shard(SHARD, &placement(&[1, 2, 3]), 3, &heard);
        assert!(!shard.has_majority && shard.under_replicated);
        assert_eq!(shard.leader, replica(3).0, "as the only one that is heard believes");
        let reachable: Vec<_> = shard.replicas.iter().map(|it| it.reachable).collect();
        assert_eq!(reachable, [false, true, false]);

        let heard = Heard::from([sees(1, 5, 0, &[1, 2, 3]), sees(2, 4, 1, &[1, 2, 3])]);
        let shard = describe_shard(SHARD, &placement(&[1, 2, 3]), 3, &heard);
        assert!(shard.has_majority);
        assert_eq!(shard.leader, 0, "an election is under way");
        assert_eq!(describe_shard(SHARD, &placement(&[1]), 1, &Heard::new()).leader, 0);
    }

    #[test]
    fn what_is_as_placed_is_not_moving_though_nobody_has_told_the_catalog() {
        let mut placement = Placement { settled: 0, ..placement(&[1]) };
        let settled = |placement: &Placement, heard: &Heard| {
            describe_shard(SHARD, placement, 1, heard).settled
        };
        let heard = Heard::from([sees(1, 2, 1, &[1])]);
        assert!(settled(&placement, &heard));
        assert!(!settled(&placement, &Heard::new()));
        placement.learners = vec![replica(2)];
        assert!(!settled(&placement, &heard));
    }

    #[test]
    fn a_shard_under_change_shows_who_comes_and_who_goes() {
        let mut placement = placement(&[1, 2, 3]);
        placement.voters[2] = replica(4);
        placement.version = 2;
        let heard = Heard::from([sees(1, 1, 1, &[1, 2, 3]), sees(2, 1, 1, &[1, 2, 3])]);
        let shard = describe_shard(SHARD, &placement, 3, &heard);
        assert!(!shard.settled && shard.under_replicated && shard.has_majority);
        let shown: Vec<_> = shard.replicas.iter().map(|it| (it.votes, it.wanted)).collect();
        assert_eq!(shown, [(true, true), (true, true), (true, false), (false, true)]);
    }

    #[test]
    fn the_last_majority_is_not_given_up() {
        let loses = |nodes: &[u32], placed: &[u32], answering: &[u32], goes: u32| {
            let heard = answering.iter().map(|node| sees(*node, 1, answering[0], placed)).collect();
            loses_majority(SHARD, &placement(placed), NodeId(goes), &view(nodes), &heard)
        };
        assert!(!loses(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], 3));
        assert!(!loses(&[1, 2, 3], &[1, 2, 3], &[1, 2], 3), "it is dead");
        assert!(loses(&[1, 2, 3], &[1, 2, 3], &[1, 3], 3), "another one is dead");
        assert!(loses(&[1, 2], &[1, 2, 3], &[1, 2], 2), "another one was removed");
        assert!(loses(&[1, 2, 3], &[3], &[1, 2, 3], 3), "the only copy");
        assert!(!loses(&[1, 2, 3, 4], &[1, 2, 3], &[1, 4], 4), "it has none");
    }

    #[test]
    fn only_a_voter_is_asked_to_lead() {
        let mut view = view(&[1, 2, 3, 4]);
        view.placements.insert(SHARD, placement(&[1, 2, 3]));
        let check = |shard: u32, node: u32| {
            check_successor(&view, ShardId(shard), NodeId(node)).map_err(|error| error.message)
        };
        assert_eq!(check(1, 3), Ok(()));
        let message = "node 4 has no voter of shard 1: nodes 1, 2, 3 have one";
        assert_eq!(check(1, 4), Err(message.to_owned()));
        assert_eq!(check(1, 5), Err("the cluster has no node 5".to_owned()));
        assert_eq!(check(9, 1), Err("there is no shard 9".to_owned()));
    }
}
