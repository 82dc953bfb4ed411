//! On which shard a new stream is put, on which nodes a shard, and what is to be changed about that
//! where nodes come and go.

use std::collections::BTreeMap;

use railgun_types::limits::VOTERS;
use railgun_types::{NodeId, ReplicaId, ShardId, StreamUid, crc32c, crc32c_append};

use crate::catalog::{Catalog, Placement};
use crate::command::{CatalogCommand, ClusterSettings, NodeState};

/// The shard of a new stream: rendezvous hashing over the data shards, so that adding shards moves
/// no choice but those that the new shard wins. Existing streams stay where they are.
#[must_use]
pub fn shard_of(stream: StreamUid, settings: &ClusterSettings) -> ShardId {
    let weight = |shard: &ShardId| {
        // CRC-32C is linear; the multiplication breaks the ties it would make between shards.
        let mixed = crc32c_append(crc32c(&stream.0), &shard.0.to_le_bytes());
        (u64::from(mixed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16, shard.0)
    };
    settings.data_shards().max_by_key(weight).unwrap_or(ShardId(1))
}

/// What a node has of the data shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    replicas: usize,
    /// Of those that it is to lead.
    leads: usize,
}

/// The candidates for replicas, and what they have already.
type Loads = BTreeMap<NodeId, Load>;

/// How much a shard likes a node: the same for ever, and for every pair another.
fn weight(shard: ShardId, node: NodeId) -> u64 {
    let mut mixed = u64::from(shard.0) << 32 | u64::from(node.0);
    for _ in 0..3 {
        mixed = (mixed ^ mixed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    mixed ^ mixed >> 32
}

/// The node that a shard likes best among those that have at most one replica more than the one that
/// has fewest. So a shard finds its node again where it can, and nobody has more than two replicas
/// more than another.
fn pick(shard: ShardId, loads: &Loads, excluded: impl Fn(NodeId) -> bool) -> Option<NodeId> {
    let candidates = || loads.iter().filter(|(node, _)| !excluded(**node));
    let fewest = candidates().map(|(_, load)| load.replicas).min()?;
    let roomy = candidates().filter(|(_, load)| load.replicas <= fewest + 1);
    roomy.map(|(&node, _)| node).max_by_key(|&node| (weight(shard, node), node))
}

/// Which of these nodes is to lead: the one that leads fewest.
fn leader(shard: ShardId, loads: &Loads, nodes: &[NodeId]) -> Option<NodeId> {
    let leads = |node: &NodeId| loads.get(node).map_or(0, |load| load.leads);
    let order = |node: &NodeId| (leads(node), u64::MAX - weight(shard, *node), *node);
    nodes.iter().copied().min_by_key(order)
}

/// Places shards on nodes, none of which has any yet: each on `replicas` of them, or on all if there
/// are fewer. The first node of each list is to lead. No node gets more than ⌈all replicas ÷ nodes⌉
/// + 1. The same arguments give the same result, in every release: the catalog's apply decides by it.
///
/// It is for a cluster's beginning. A node that comes later takes what is missing, and what others
/// must give away ([`next_placement_change`]): it moves nothing else.
#[must_use]
pub fn place(
    shards: impl IntoIterator<Item = ShardId>,
    nodes: &[NodeId],
    replicas: usize,
) -> BTreeMap<ShardId, Vec<NodeId>> {
    let mut loads: Loads = nodes.iter().map(|&node| (node, Load::default())).collect();
    let place_one = |shard| {
        let mut placed: Vec<NodeId> = Vec::new();
        while placed.len() < replicas.clamp(1, VOTERS)
            && let Some(node) = pick(shard, &loads, |node| placed.contains(&node))
        {
            placed.push(node);
            loads.entry(node).or_default().replicas += 1;
        }
        if let Some(leader) = leader(shard, &loads, &placed) {
            loads.entry(leader).or_default().leads += 1;
            lead(&mut placed, |node| *node == leader);
        }
        (shard, placed)
    };
    shards.into_iter().map(place_one).collect()
}

/// Puts the one that is to lead first; the others keep their order.
fn lead<T>(voters: &mut [T], is_leader: impl Fn(&T) -> bool) {
    if let Some(at) = voters.iter().position(is_leader) {
        voters[..=at].rotate_right(1);
    }
}

/// The next change of a placement that the catalog's leader is to propose; `None` while nothing is to
/// be changed. It looks only at the catalog, so it can be asked again after every change, from any
/// half-done state. In this order, each time for the first shard that needs it:
///
/// 1. A shard that is to be led by a node that is drained or removed gets another leader, among its
///    voters in force on active nodes.
/// 2. A replica on a removed node gives its place to one on an active node. Where there is none, it
///    gives it up, but only if the voters on nodes that are members are more than half of all: they
///    alone can commit the change, and one of them has everything that was acknowledged. Otherwise the
///    placement stays as it is, until a node comes.
/// 3. A shard with fewer voters than it should have gets one more, where there is an active node for it.
/// 4. A replica on a draining node gives its place to one on an active node, if the shard's Raft
///    membership is what its placement says: one replica of a shard moves at a time. Without an active
///    node it stays.
/// 5. A shard whose membership is settled is to be led by another of its voters, if the node that is
///    to lead it leads two more shards than that one.
///
/// Nothing else moves. A removed node's replica has no say in that: only the shard's leader changes
/// its Raft membership, if a majority of the one in force agrees.
#[must_use]
pub fn next_placement_change(catalog: &Catalog) -> Option<CatalogCommand> {
    let planner = Planner::new(catalog)?;
    let steps = [
        Planner::lead_elsewhere,
        Planner::replace_removed,
        Planner::fill_up,
        Planner::replace_draining,
        Planner::spread_leaders,
    ];
    steps.iter().find_map(|step| {
        catalog.placements().find_map(|(shard, placement)| {
            let replicas = step(&planner, shard, placement)?;
            Some(CatalogCommand::Place { shard, replicas, if_version: placement.version })
        })
    })
}

/// The catalog, and what its nodes have.
struct Planner<'a> {
    catalog: &'a Catalog,
    settings: ClusterSettings,
    /// Of the active nodes.
    loads: Loads,
}

impl<'a> Planner<'a> {
    fn new(catalog: &'a Catalog) -> Option<Self> {
        let settings = catalog.settings()?;
        let active = catalog.nodes().filter(|(_, record)| record.state == NodeState::Active);
        let mut loads: Loads = active.map(|(node, _)| (node, Load::default())).collect();
        let data_shards = catalog.placements().filter(|(shard, _)| *shard != ShardId::CATALOG);
        for (_, placement) in data_shards {
            for (at, replica) in placement.voters.iter().enumerate() {
                if let Some(load) = loads.get_mut(&replica.node()) {
                    load.replicas += 1;
                    load.leads += usize::from(at == 0);
                }
            }
        }
        Some(Self { catalog, settings, loads })
    }

    fn state(&self, replica: ReplicaId) -> NodeState {
        self.catalog.node(replica.node()).map_or(NodeState::Removed, |record| record.state)
    }

    fn has_state(&self, state: NodeState) -> impl Fn(&ReplicaId) -> bool {
        move |replica| self.state(*replica) == state
    }

    /// A replica on an active node that could vote and does not yet.
    fn substitute(&self, shard: ShardId, placement: &Placement) -> Option<ReplicaId> {
        if shard == ShardId::CATALOG {
            // Every node has one.
            return placement.learners.iter().copied().find(self.has_state(NodeState::Active));
        }
        let excluded =
            |node| placement.uses(node) || self.catalog.next_replica(shard, node).is_none();
        let node = pick(shard, &self.loads, excluded)?;
        self.catalog.next_replica(shard, node)
    }

    /// The voters with another one that is to lead, among those for which `may_lead` holds.
    fn led_by(
        &self,
        shard: ShardId,
        placement: &Placement,
        may_lead: impl Fn(&ReplicaId) -> bool,
    ) -> Option<Vec<ReplicaId>> {
        let mut voters = placement.voters.clone();
        let candidates = voters.iter().filter(|replica| may_lead(replica));
        let nodes: Vec<_> = candidates.map(|replica| replica.node()).collect();
        let leader = leader(shard, &self.loads, &nodes)?;
        lead(&mut voters, |replica| replica.node() == leader);
        Some(voters)
    }

    fn lead_elsewhere(&self, shard: ShardId, placement: &Placement) -> Option<Vec<ReplicaId>> {
        if self.state(*placement.voters.first()?) == NodeState::Active {
            return None;
        }
        self.led_by(shard, placement, |replica| {
            self.state(*replica) == NodeState::Active && placement.in_force.contains(replica)
        })
    }

    fn replace_removed(&self, shard: ShardId, placement: &Placement) -> Option<Vec<ReplicaId>> {
        let is_removed = self.has_state(NodeState::Removed);
        // Learners just go, whenever the placement is said again.
        let unchanged =
            || placement.learners.iter().any(&is_removed).then(|| placement.voters.clone());
        let Some(at) = placement.voters.iter().position(&is_removed) else { return unchanged() };
        let mut voters = placement.voters.clone();
        if let Some(substitute) = self.substitute(shard, placement) {
            voters[at] = substitute;
            return Some(voters);
        }
        let left = voters.iter().filter(|replica| !is_removed(replica)).count();
        if left * 2 <= voters.len() {
            return unchanged();
        }
        voters.remove(at);
        Some(voters)
    }

    fn fill_up(&self, shard: ShardId, placement: &Placement) -> Option<Vec<ReplicaId>> {
        let wanted = match shard {
            ShardId::CATALOG => VOTERS,
            _ => usize::from(self.settings.replicas).clamp(1, VOTERS),
        };
        if placement.voters.len() >= wanted {
            return None;
        }
        let mut voters = placement.voters.clone();
        voters.push(self.substitute(shard, placement)?);
        Some(voters)
    }

    fn replace_draining(&self, shard: ShardId, placement: &Placement) -> Option<Vec<ReplicaId>> {
        let at = placement.voters.iter().position(self.has_state(NodeState::Draining))?;
        if !placement.is_settled() {
            return None;
        }
        let mut voters = placement.voters.clone();
        voters[at] = self.substitute(shard, placement)?;
        Some(voters)
    }

    fn spread_leaders(&self, shard: ShardId, placement: &Placement) -> Option<Vec<ReplicaId>> {
        if shard == ShardId::CATALOG || !placement.is_settled() {
            return None;
        }
        let leads = |replica: &ReplicaId| Some(self.loads.get(&replica.node())?.leads);
        let most = leads(placement.voters.first()?)?;
        self.led_by(shard, placement, |replica| {
            leads(replica).is_some_and(|leads| leads + 2 <= most)
        })
    }
}

/// What is still on a node that is drained or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainState {
    /// Shards that it is to lead still.
    pub leads: Vec<ShardId>,
    /// Shards of which it is to have a voter still, the catalog among them. It has a learner of the
    /// catalog until it is removed: that needs nobody to take its place.
    pub votes: Vec<ShardId>,
    /// Those of them for which no active node is there that could take them: another one must join.
    pub stuck: Vec<ShardId>,
    /// Shards whose Raft membership has, as far as was told, a voter on the node that is to be none:
    /// others are taking its place.
    pub leaving: Vec<ShardId>,
    /// Whether the node can be removed, and go: no data shard needs it, and if it votes in the catalog
    /// still, the other voters there are a majority without it. The catalog gives such a vote up when
    /// the node is removed.
    pub is_drained: bool,
}

/// What is still on a node, whether it is drained or not.
#[must_use]
pub fn drain_state(catalog: &Catalog, node: NodeId) -> DrainState {
    let mut drain = DrainState::default();
    let Some(planner) = Planner::new(catalog) else { return drain };
    let is_on_node = |replica: &ReplicaId| replica.node() == node;
    for (shard, placement) in catalog.placements() {
        if placement.voters.first().is_some_and(is_on_node) {
            drain.leads.push(shard);
        }
        if placement.voters.iter().any(is_on_node) {
            drain.votes.push(shard);
            if planner.substitute(shard, placement).is_none() {
                drain.stuck.push(shard);
            }
        } else if placement.in_force.iter().any(is_on_node) {
            drain.leaving.push(shard);
        }
    }
    let is_spared = |shard: &ShardId| {
        let placement = catalog.placement(*shard).filter(|_| *shard == ShardId::CATALOG);
        placement.is_some_and(|placement| {
            let stays =
                |it: &&ReplicaId| !is_on_node(it) && planner.state(**it) != NodeState::Removed;
            placement.voters.iter().filter(stays).count() * 2 > placement.voters.len()
        })
    };
    drain.is_drained = drain.leaving.is_empty() && drain.votes.iter().all(is_spared);
    drain
}

#[cfg(test)]
mod tests;
