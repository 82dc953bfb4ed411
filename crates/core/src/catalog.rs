//! The catalog: which names exist, which stream each means, on which shard; which nodes there are, and
//! on which of them each shard is. Replicated by shard 0.
//!
//! Voters of the catalog are all nodes while there are at most five, and five of them then; the rest
//! learn. An even number of voters stands no more failures than one fewer, but no fewer either, and
//! needs nobody to decide who has none.

mod checkpoint;
mod nodes;
mod outcome;
mod replicas;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use railgun_types::limits::SHARDS;
use railgun_types::{
    NodeId, NodeUid, ReplicaId, RequestId, ShardId, SpecPatch, StreamName, StreamUid, Timestamp,
};

use crate::command::{CatalogCommand, ClusterSettings, Command, CommandBody, NodeInfo, TokenHash};
use crate::placement;
use nodes::Nodes;
use replicas::Replicas;
use tokens::Tokens;

pub use checkpoint::RestoredCatalog;
pub use nodes::NodeRecord;
pub use replicas::Placement;
pub use tokens::TokenVerdict;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The stream.
    pub stream: StreamUid,
    /// The shard that owns it.
    pub shard: ShardId,
    /// How far its creation or deletion is.
    pub phase: Phase,
    /// Log time of the reservation.
    pub since: Timestamp,
}

/// The life of a name (SEMANTICS §8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reserved; the shard may or may not know the stream yet.
    Creating {
        /// What the creator asked for.
        patch: SpecPatch,
        /// By which request.
        request: Option<RequestId>,
    },
    /// In use.
    Active,
    /// The shard may or may not have its tombstone yet.
    Deleting,
}

/// What a catalog command led to, for its proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogOutcome {
    /// The cluster's settings, whoever founded it.
    Founded(ClusterSettings),
    /// The name as it is now; `None`: it is free.
    Entry(Option<Box<CatalogEntry>>),
    /// No cluster is founded yet, the entry is none for the catalog, or it asks for what cannot be: a
    /// node without a uid, an address that is too long, another node's uid, two replicas of a shard on
    /// one node, an incarnation out of turn.
    Refused,
    /// The node as it is now.
    Node {
        /// Its number.
        node: NodeId,
        /// What is known of it.
        record: NodeRecord,
        /// The replica of the catalog that it is to have; `None` if it is to have none any more.
        catalog_replica: Option<ReplicaId>,
    },
    /// Another node is at this peer address; while it is not removed, no other can be there.
    AddressTaken {
        /// Its number.
        by: NodeId,
    },
    /// The node was removed: its data directory cannot join again.
    NodeRemoved {
        /// Its number.
        node: NodeId,
    },
    /// No node has this number.
    NoSuchNode {
        /// The number.
        node: NodeId,
    },
    /// The last node cannot be removed.
    LastNode {
        /// Its number.
        node: NodeId,
    },
    /// The cluster works at a feature level that the node does not have: it is too old.
    FeatureLevelTooLow {
        /// The level it must have.
        needed: u32,
    },
    /// There is no room for one more node; see [`NODES`](railgun_types::limits::NODES) and
    /// [`NODES_EVER`](railgun_types::limits::NODES_EVER).
    TooManyNodes,
    /// The feature level at which all nodes work from here on.
    FeatureLevel(u32),
    /// The placement as it is now, whoever made it.
    Placed {
        /// The shard.
        shard: ShardId,
        /// Where it is to be.
        placement: Placement,
    },
    /// There is no such shard.
    NoSuchShard {
        /// The shard.
        shard: ShardId,
    },
    /// The replica of the shard that the node is to have now. It is the lost one still where the others are
    /// no majority: nothing could take its place.
    Replica {
        /// The shard.
        shard: ShardId,
        /// The replica; `None` if the node is to have none.
        replica: Option<ReplicaId>,
    },
    /// The join token is kept.
    TokenKept,
    /// So many tokens wait to be used that there is no room; see
    /// [`JOIN_TOKENS`](railgun_types::limits::JOIN_TOKENS).
    TooManyTokens,
    /// What a join token was worth.
    Token(TokenVerdict),
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    settings: Option<ClusterSettings>,
    names: BTreeMap<StreamName, CatalogEntry>,
    /// Those among them that are being created or deleted.
    half_done: BTreeSet<StreamName>,
    nodes: Nodes,
    replicas: Replicas,
    tokens: Tokens,
    log_time: Timestamp,
}

impl Catalog {
    /// Applies a committed command.
    pub fn apply(&mut self, command: &Command) -> CatalogOutcome {
        self.log_time = self.log_time.max(command.ts);
        let CommandBody::Catalog(command) = &command.body else { return CatalogOutcome::Refused };
        if let CatalogCommand::Found { settings, nodes } = command {
            return self.found(settings, nodes);
        }
        let Some(settings) = self.settings else { return CatalogOutcome::Refused };
        match command {
            CatalogCommand::Found { .. } => CatalogOutcome::Founded(settings),
            CatalogCommand::Reserve { name, stream, patch, request } => {
                let since = self.log_time;
                self.names.entry(name.clone()).or_insert_with(|| CatalogEntry {
                    stream: *stream,
                    shard: placement::shard_of(*stream, &settings),
                    phase: Phase::Creating { patch: patch.clone(), request: *request },
                    since,
                });
                self.changed(name)
            }
            CatalogCommand::Activate { name, stream } => {
                if let Some(entry) = self.entry_mut(name, *stream)
                    && matches!(entry.phase, Phase::Creating { .. })
                {
                    entry.phase = Phase::Active;
                }
                self.changed(name)
            }
            CatalogCommand::Delete { name, stream } => {
                if let Some(entry) = self.entry_mut(name, *stream) {
                    entry.phase = Phase::Deleting;
                }
                self.changed(name)
            }
            CatalogCommand::Free { name, stream } => {
                if self.entry_mut(name, *stream).is_some_and(|e| e.phase != Phase::Active) {
                    self.names.remove(name);
                }
                self.changed(name)
            }
            CatalogCommand::AddNode(info) => self.add_node(info),
            CatalogCommand::UpdateNode { node, info } => {
                let updated = self.nodes.update(&[(*node, info.clone())]);
                updated.map_or_else(|refused| refused, |()| self.node_outcome(*node))
            }
            CatalogCommand::UpdateNodes(told) => match (told.first(), self.nodes.update(told)) {
                (Some((node, _)), Ok(())) => self.node_outcome(*node),
                (None, _) => CatalogOutcome::Refused,
                (_, Err(refused)) => refused,
            },
            CatalogCommand::SetNodeState { node, state } => {
                let set = self.nodes.set_state(*node, *state);
                set.map_or_else(|refused| refused, |()| self.node_outcome(*node))
            }
            CatalogCommand::SetFeatureLevel(level) => {
                CatalogOutcome::FeatureLevel(self.nodes.raise_feature_level(*level))
            }
            CatalogCommand::Place { shard, replicas, if_version } => {
                self.replicas.place(*shard, replicas, *if_version, &self.nodes)
            }
            CatalogCommand::Settled { shard, version } => self.replicas.settled(*shard, *version),
            CatalogCommand::Reincarnate { shard, lost } => {
                self.replicas.reincarnate(*shard, *lost, &self.nodes)
            }
            CatalogCommand::AddToken { hash, expires } => {
                self.tokens.add(self.log_time, *hash, *expires)
            }
            CatalogCommand::UseToken { hash, uid } => {
                CatalogOutcome::Token(self.tokens.spend(self.log_time, *hash, *uid))
            }
        }
    }

    fn found(&mut self, wish: &ClusterSettings, nodes: &[(NodeId, NodeInfo)]) -> CatalogOutcome {
        if let Some(settings) = self.settings {
            return CatalogOutcome::Founded(settings);
        }
        let Some(nodes) = Nodes::founding(nodes).filter(|_| wish.shards <= SHARDS) else {
            return CatalogOutcome::Refused;
        };
        self.settings = Some(*wish);
        self.replicas = Replicas::founding(wish, &nodes);
        self.nodes = nodes;
        CatalogOutcome::Founded(*wish)
    }

    fn add_node(&mut self, info: &NodeInfo) -> CatalogOutcome {
        match self.nodes.add(info) {
            Ok(node) => {
                self.replicas.join(node);
                self.node_outcome(node)
            }
            Err(refused) => refused,
        }
    }

    fn node_outcome(&self, node: NodeId) -> CatalogOutcome {
        match self.nodes.get(node) {
            Some(record) => CatalogOutcome::Node {
                node,
                record: record.clone(),
                catalog_replica: self.catalog_replica(node),
            },
            None => CatalogOutcome::NoSuchNode { node },
        }
    }

    /// What a name is after a command about it.
    fn changed(&mut self, name: &StreamName) -> CatalogOutcome {
        let entry = self.names.get(name).cloned();
        match &entry {
            Some(entry) if entry.phase != Phase::Active => self.half_done.insert(name.clone()),
            _ => self.half_done.remove(name),
        };
        CatalogOutcome::Entry(entry.map(Box::new))
    }

    /// The outcome of a command about a name or a lost replica that changes nothing as the catalog is, or of a
    /// token that lets nobody in: it needs no entry. `None` for every command about anything else.
    #[must_use]
    pub fn as_it_is(&self, command: &CatalogCommand) -> Option<CatalogOutcome> {
        if let CatalogCommand::UseToken { hash, uid } = command {
            // Whether one that lets a node in has expired meanwhile, the time of an entry says.
            let verdict = self.tokens.worth(self.log_time, hash, *uid);
            return (!verdict.lets_in()).then_some(CatalogOutcome::Token(verdict));
        }
        let phase = |name: &StreamName, stream: &StreamUid| {
            self.names.get(name).filter(|entry| entry.stream == *stream).map(|entry| &entry.phase)
        };
        let (name, changes) = match command {
            CatalogCommand::Found { .. }
            | CatalogCommand::AddNode(_)
            | CatalogCommand::UpdateNode { .. }
            | CatalogCommand::UpdateNodes(_)
            | CatalogCommand::SetNodeState { .. }
            | CatalogCommand::SetFeatureLevel(_)
            | CatalogCommand::Place { .. }
            | CatalogCommand::Settled { .. }
            | CatalogCommand::AddToken { .. }
            | CatalogCommand::UseToken { .. } => return None,
            CatalogCommand::Reincarnate { shard, lost } => {
                let changes = self.replicas.instead_of(*shard, *lost, &self.nodes).is_some();
                let is_founded = self.settings.is_some();
                let as_is = || self.replicas.replica_outcome(*shard, lost.node());
                return (is_founded && !changes).then(as_is);
            }
            CatalogCommand::Reserve { name, .. } => (name, !self.names.contains_key(name)),
            CatalogCommand::Activate { name, stream } => {
                (name, matches!(phase(name, stream), Some(Phase::Creating { .. })))
            }
            CatalogCommand::Delete { name, stream } => {
                (name, phase(name, stream).is_some_and(|phase| *phase != Phase::Deleting))
            }
            CatalogCommand::Free { name, stream } => {
                (name, phase(name, stream).is_some_and(|phase| *phase != Phase::Active))
            }
        };
        (!changes).then(|| CatalogOutcome::Entry(self.names.get(name).cloned().map(Box::new)))
    }

    /// The entry of this name, if it still means this stream.
    fn entry_mut(&mut self, name: &StreamName, stream: StreamUid) -> Option<&mut CatalogEntry> {
        self.names.get_mut(name).filter(|entry| entry.stream == stream)
    }

    /// What was decided when the cluster was made.
    #[must_use]
    pub fn settings(&self) -> Option<ClusterSettings> {
        self.settings
    }

    /// What a name stands for.
    #[must_use]
    pub fn get(&self, name: &StreamName) -> Option<&CatalogEntry> {
        self.names.get(name)
    }

    /// Names that are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Every name that is being created or deleted, in order. Looks at no others.
    pub fn half_done(&self) -> impl Iterator<Item = (&StreamName, &CatalogEntry)> {
        self.half_done.iter().filter_map(|name| self.names.get_key_value(name))
    }

    /// Every name that begins with `prefix` and comes after `after`, in order. Looks at no others.
    pub fn names_with_prefix<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a StreamName>,
    ) -> impl Iterator<Item = (&'a StreamName, &'a CatalogEntry)> {
        use std::ops::Bound;
        let from = match after.map(StreamName::as_str) {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let names = self.names.range::<str, _>((from, Bound::Unbounded));
        names.take_while(move |(name, _)| name.as_str().starts_with(prefix))
    }

    /// The nodes there are or were, by number.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter()
    }

    /// A node, also a removed one.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(node)
    }

    /// The feature level at which all nodes work.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.nodes.feature_level()
    }

    /// The higher one at which all nodes can work by now, for [`CatalogCommand::SetFeatureLevel`].
    #[must_use]
    pub fn feature_level_due(&self) -> Option<u32> {
        let common = self.nodes.common_feature_level();
        (common > self.feature_level()).then_some(common)
    }

    /// Where a shard is to be.
    #[must_use]
    pub fn placement(&self, shard: ShardId) -> Option<&Placement> {
        self.replicas.get(shard)
    }

    /// Where every shard is to be, the catalog first.
    pub fn placements(&self) -> impl Iterator<Item = (ShardId, &Placement)> {
        self.replicas.iter()
    }

    /// The shards of which a node is to have a replica, and which.
    pub fn shards_of(&self, node: NodeId) -> impl Iterator<Item = (ShardId, ReplicaId)> {
        let on =
            move |(shard, placement): (_, &Placement)| Some((shard, placement.replica_on(node)?));
        self.placements().filter_map(on)
    }

    /// The replica of the catalog that a node is to have.
    #[must_use]
    pub fn catalog_replica(&self, node: NodeId) -> Option<ReplicaId> {
        self.placement(ShardId::CATALOG)?.replica_on(node)
    }

    /// The replica of a shard that a node would get next; `None` where it has had as many as there are
    /// numbers for.
    #[must_use]
    pub fn next_replica(&self, shard: ShardId, node: NodeId) -> Option<ReplicaId> {
        self.replicas.next(shard, node)
    }

    /// Whether a join token of this hash is kept, used and expired ones included.
    #[must_use]
    pub fn knows_token(&self, hash: &TokenHash) -> bool {
        self.tokens.knows(hash)
    }

    /// What a join token would be worth for a node.
    #[must_use]
    pub fn token_worth(&self, hash: &TokenHash, uid: NodeUid) -> TokenVerdict {
        self.tokens.worth(self.log_time, hash, uid)
    }

    /// Log time of the last entry.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }
}
