//! On which replicas each shard is to be, and which incarnations were ever given out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, BytesMut};
use railgun_types::limits::VOTERS;
use railgun_types::{ByteCursor, Malformed, NodeId, ReplicaId, ShardId, put_varint};

use super::CatalogOutcome;
use super::nodes::Nodes;
use crate::codec::{self, map, narrow, put_list};
use crate::command::ClusterSettings;
use crate::placement;

/// Where a shard is to be. Whoever leads it makes its Raft membership so, at its own pace, and tells
/// the catalog when it is ([`Settled`](crate::command::CatalogCommand::Settled)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Counts changes, from 1.
    pub version: u64,
    /// The replicas that are to vote; the one that is to lead comes first.
    pub voters: Vec<ReplicaId>,
    /// The replicas that are to have the log without a vote, by node: of the catalog only.
    pub learners: Vec<ReplicaId>,
    /// The voters of the version that was last told to be the Raft membership; before any was, those
    /// of the first version. Only they found the Raft group, and only while `settled` is 0: all with
    /// the same members, whatever came between. A node keeps the log of a replica that is here, even
    /// if it is to be one no longer.
    pub in_force: Vec<ReplicaId>,
    /// The version that `in_force` is of; 0: none was told yet.
    pub settled: u64,
}

/// Fewest bytes of a placement in a checkpoint.
const PLACEMENT_BYTES_MIN: usize = 6;
/// Fewest bytes of an incarnation in a checkpoint.
const INCARNATION_BYTES_MIN: usize = 4;

impl Placement {
    fn founding(voters: Vec<ReplicaId>, learners: Vec<ReplicaId>) -> Self {
        Self { version: 1, in_force: voters.clone(), voters, learners, settled: 0 }
    }

    /// Whether the Raft membership is what the placement says.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled == self.version
    }

    /// Voters, then learners.
    pub fn members(&self) -> impl Iterator<Item = ReplicaId> {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Voters in force that are to be replicas no longer.
    pub fn leaving(&self) -> impl Iterator<Item = ReplicaId> {
        self.in_force.iter().copied().filter(|replica| !self.members().any(|it| it == *replica))
    }

    /// The voter or learner that is to be on this node.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.members().find(|replica| replica.node() == node)
    }

    /// Whether a replica is to be on this node, or has not left it yet.
    #[must_use]
    pub fn uses(&self, node: NodeId) -> bool {
        self.members().chain(self.leaving()).any(|replica| replica.node() == node)
    }

    /// Whether the others have what a replica that lost its log had: whether more than half of the voters in
    /// force are others that are there still, on nodes that are members and are not to have another
    /// replica. So of several that say that they are lost only so many are given up as the rest can do
    /// without.
    fn outlives(&self, lost: ReplicaId, nodes: &Nodes) -> bool {
        let is_present = |replica: &&ReplicaId| {
            let node = replica.node();
            **replica != lost
                && nodes.is_member(node)
                && self.replica_on(node).is_none_or(|present| present == **replica)
        };
        self.in_force.iter().filter(is_present).count() > self.in_force.len() / 2
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let Self { version, voters, learners, in_force, settled } = self;
        put_varint(out, *version);
        codec::put_replicas(out, voters);
        codec::put_replicas(out, learners);
        codec::put_replicas(out, in_force);
        put_varint(out, *settled);
    }

    pub(crate) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            version: cursor.varint()?,
            voters: codec::replicas(cursor)?,
            learners: codec::replicas(cursor)?,
            in_force: codec::replicas(cursor)?,
            settled: cursor.varint()?,
        })
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replicas {
    placements: BTreeMap<ShardId, Placement>,
    /// The last one given out.
    incarnations: BTreeMap<(ShardId, NodeId), u16>,
}

impl Replicas {
    /// The first placement of everything.
    pub(super) fn founding(settings: &ClusterSettings, nodes: &Nodes) -> Self {
        let nodes: Vec<_> = nodes.iter().map(|(node, _)| node).collect();
        let first = |node: &NodeId| ReplicaId::new(*node, 1);
        let (voters, learners) = nodes.split_at(nodes.len().min(VOTERS));
        let catalog = Placement::founding(
            voters.iter().map(first).collect(),
            learners.iter().map(first).collect(),
        );
        let mut placements = BTreeMap::from([(ShardId::CATALOG, catalog)]);
        let replicas = usize::from(settings.replicas);
        for (shard, nodes) in placement::place(settings.data_shards(), &nodes, replicas) {
            let voters = nodes.iter().map(first).collect();
            placements.insert(shard, Placement::founding(voters, Vec::new()));
        }
        let given = placements.iter().flat_map(|(&shard, placement)| {
            placement.members().map(move |replica| ((shard, replica.node()), 1))
        });
        Self { incarnations: given.collect(), placements }
    }

    pub(super) fn get(&self, shard: ShardId) -> Option<&Placement> {
        self.placements.get(&shard)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ShardId, &Placement)> {
        self.placements.iter().map(|(&shard, placement)| (shard, placement))
    }

    /// The replica that a node gets next; `None` where it has had all there are.
    pub(super) fn next(&self, shard: ShardId, node: NodeId) -> Option<ReplicaId> {
        let last = self.incarnations.get(&(shard, node)).copied().unwrap_or(0);
        last.checked_add(1).map(|incarnation| ReplicaId::new(node, incarnation))
    }

    /// A node has joined: it gets a replica of the catalog, with a vote while there are few.
    pub(super) fn join(&mut self, node: NodeId) {
        let shard = ShardId::CATALOG;
        let Some(replica) = self.next(shard, node) else { return };
        let Some(placement) = self.placements.get_mut(&shard) else { return };
        if placement.replica_on(node).is_some() {
            return;
        }
        placement.version += 1;
        if placement.voters.len() < VOTERS {
            placement.voters.push(replica);
        } else {
            placement.learners.push(replica);
        }
        self.incarnations.insert((shard, node), replica.incarnation());
    }

    /// See [`CatalogCommand::Place`](crate::command::CatalogCommand::Place).
    pub(super) fn place(
        &mut self,
        shard: ShardId,
        voters: &[ReplicaId],
        if_version: u64,
        nodes: &Nodes,
    ) -> CatalogOutcome {
        let Some(placement) = self.get(shard) else { return CatalogOutcome::NoSuchShard { shard } };
        if placement.version != if_version {
            return CatalogOutcome::Placed { shard, placement: placement.clone() };
        }
        let distinct: BTreeSet<_> = voters.iter().map(|replica| replica.node()).collect();
        let is_possible = |replica: &ReplicaId| {
            let node = replica.node();
            let is_fresh = self.next(shard, node) == Some(*replica) && nodes.is_member(node);
            placement.members().any(|member| member == *replica) || is_fresh
        };
        if !(1..=VOTERS).contains(&voters.len())
            || distinct.len() != voters.len()
            || !voters.iter().all(is_possible)
        {
            return CatalogOutcome::Refused;
        }
        let mut learners = Vec::new();
        if shard == ShardId::CATALOG {
            let members = placement.members().map(|replica| (replica.node(), replica));
            learners.extend(members.filter(|(node, _)| nodes.is_member(*node)));
            learners.retain(|(node, _)| !distinct.contains(node));
            learners.sort_unstable();
        }
        let learners = learners.into_iter().map(|(_, replica)| replica).collect();
        for replica in voters {
            self.incarnations.insert((shard, replica.node()), replica.incarnation());
        }
        self.set(shard, voters.to_vec(), learners)
    }

    /// Changes a placement. Another order alone changes no membership.
    fn set(
        &mut self,
        shard: ShardId,
        voters: Vec<ReplicaId>,
        learners: Vec<ReplicaId>,
    ) -> CatalogOutcome {
        let Some(placement) = self.placements.get_mut(&shard) else {
            return CatalogOutcome::NoSuchShard { shard };
        };
        if (&placement.voters, &placement.learners) != (&voters, &learners) {
            let set = |replicas: &[ReplicaId]| replicas.iter().copied().collect::<BTreeSet<_>>();
            let is_settled = placement.is_settled()
                && set(&placement.voters) == set(&voters)
                && set(&placement.learners) == set(&learners);
            placement.version += 1;
            placement.voters = voters;
            placement.learners = learners;
            if is_settled {
                placement.settle();
            }
        }
        CatalogOutcome::Placed { shard, placement: placement.clone() }
    }

    /// See [`CatalogCommand::Settled`](crate::command::CatalogCommand::Settled).
    pub(super) fn settled(&mut self, shard: ShardId, version: u64) -> CatalogOutcome {
        let Some(placement) = self.placements.get_mut(&shard) else {
            return CatalogOutcome::NoSuchShard { shard };
        };
        if placement.version == version {
            placement.settle();
        }
        CatalogOutcome::Placed { shard, placement: placement.clone() }
    }

    /// See [`CatalogCommand::Reincarnate`](crate::command::CatalogCommand::Reincarnate).
    pub(super) fn reincarnate(
        &mut self,
        shard: ShardId,
        lost: ReplicaId,
        nodes: &Nodes,
    ) -> CatalogOutcome {
        if let Some(fresh) = self.instead_of(shard, lost, nodes)
            && let Some(placement) = self.get(shard)
        {
            let replace = |replicas: &[ReplicaId]| {
                let replaced = |replica| if replica == lost { fresh } else { replica };
                replicas.iter().copied().map(replaced).collect()
            };
            let (voters, learners) = (replace(&placement.voters), replace(&placement.learners));
            self.incarnations.insert((shard, lost.node()), fresh.incarnation());
            self.set(shard, voters, learners);
        }
        self.replica_outcome(shard, lost.node())
    }

    /// The replica that takes the place of a lost one now; `None`: another has, or none can.
    pub(super) fn instead_of(
        &self,
        shard: ShardId,
        lost: ReplicaId,
        nodes: &Nodes,
    ) -> Option<ReplicaId> {
        let placement = self.get(shard)?;
        let is_there = placement.replica_on(lost.node()) == Some(lost);
        let fresh = self.next(shard, lost.node())?;
        (is_there && placement.outlives(lost, nodes)).then_some(fresh)
    }

    /// The replica that a node is to have.
    pub(super) fn replica_outcome(&self, shard: ShardId, node: NodeId) -> CatalogOutcome {
        let Some(placement) = self.get(shard) else { return CatalogOutcome::NoSuchShard { shard } };
        CatalogOutcome::Replica { shard, replica: placement.replica_on(node) }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let Self { placements, incarnations } = self;
        put_list(out, placements.iter(), |out, (shard, placement)| {
            put_varint(out, u64::from(shard.0));
            placement.encode(out);
        });
        put_list(out, incarnations.iter(), |out, ((shard, node), incarnation)| {
            put_varint(out, u64::from(shard.0));
            put_varint(out, u64::from(node.0));
            out.put_u16_le(*incarnation);
        });
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            placements: map(cursor, PLACEMENT_BYTES_MIN, |cursor| {
                Ok((ShardId(narrow(cursor)?), Placement::decode(cursor)?))
            })?,
            incarnations: map(cursor, INCARNATION_BYTES_MIN, |cursor| {
                let key = (ShardId(narrow(cursor)?), NodeId(narrow(cursor)?));
                Ok((key, cursor.u16()?))
            })?,
        })
    }
}

impl Placement {
    fn settle(&mut self) {
        self.settled = self.version;
        self.in_force.clone_from(&self.voters);
    }
}
