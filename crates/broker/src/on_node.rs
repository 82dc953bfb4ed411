//! The replicas that this node has, by their shards: who serves requests for a shard looks here.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use railgun_log::ShardLog;
use railgun_raft::{Failure, RaftShard};
use railgun_types::{ReplicaId, ShardId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::CatalogHandle;
use crate::checkpoint::CheckpointStore;
use crate::offload::Reclaimer;
use crate::shard::ShardHandle;

/// What is on the node at a moment.
pub(crate) type OnNode = Arc<BTreeMap<ShardId, Arc<LocalReplica>>>;

/// Follows what is on the node.
pub(crate) type OnNodeWatch = watch::Receiver<OnNode>;

/// A replica on this node. Looked up for every frame of a publisher, so it is shared, not cloned.
#[derive(Debug)]
pub(crate) struct LocalReplica {
    pub(crate) replica: ReplicaId,
    pub(crate) raft: RaftShard,
    pub(crate) log: ShardLog,
    pub(crate) checkpoints: Arc<CheckpointStore>,
    pub(crate) owner: Owner,
    /// Ends what belongs to it.
    pub(crate) stop: CancellationToken,
}

/// What serves a shard for records whose replica is on this node.
#[derive(Clone, Debug)]
pub(crate) struct ShardOnNode {
    pub(crate) handle: ShardHandle,
    pub(crate) reclaimer: Reclaimer,
    /// Ends what belongs to it.
    pub(crate) stop: CancellationToken,
}

/// Who owns a replica's state.
#[derive(Debug)]
pub(crate) enum Owner {
    Catalog(CatalogHandle),
    Data(ShardOnNode),
}

impl LocalReplica {
    /// Why it has died, if it has for a log that is damaged, though others may have what it lacks.
    pub(crate) fn death_by_damage(&self) -> Option<Failure> {
        let is_damaged = self.data().is_some() && self.log.damaged().is_some();
        is_damaged.then(|| self.raft.failure().now_or_never()).flatten()
    }

    /// Index of the last entry that it knows to be committed.
    pub(crate) fn committed(&self) -> Option<u64> {
        self.raft.metrics().committed.map(|id| id.index)
    }

    pub(crate) fn data(&self) -> Option<&ShardOnNode> {
        match &self.owner {
            Owner::Data(shard) => Some(shard),
            Owner::Catalog(_) => None,
        }
    }

    pub(crate) fn catalog(&self) -> Option<&CatalogHandle> {
        match &self.owner {
            Owner::Catalog(catalog) => Some(catalog),
            Owner::Data(_) => None,
        }
    }
}
