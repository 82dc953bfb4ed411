//! What other nodes ask of this one's part in the cluster: of who brings it to one, and then of its
//! keeper.

use railgun_proto::{WireError, v1};
use railgun_types::{NodeUid, ReplicaId, ShardId};
use tokio::sync::oneshot;

/// See the module.
#[derive(Debug)]
pub(crate) enum NodeAsk {
    /// A node tells of itself.
    Greet { about: v1::NodeAbout },
    /// Be one of the founders of a cluster.
    Form { form: v1::FormCluster, reply: oneshot::Sender<Result<(), WireError>> },
    /// Put another replica in the place of one that lost its log.
    Reincarnate {
        /// Who asks: the node that it is of.
        from: NodeUid,
        shard: ShardId,
        lost: ReplicaId,
        reply: oneshot::Sender<Result<ReplicaId, WireError>>,
    },
    /// Take a node into the cluster.
    Join { join: v1::JoinCluster, reply: oneshot::Sender<Result<v1::Joined, WireError>> },
    /// Sign the certificate of a node; `None`: there is no key here.
    Sign { sign: v1::SignNode, reply: oneshot::Sender<Result<Option<v1::NodeSigned>, WireError>> },
}

impl NodeAsk {
    /// Says that it cannot be done here, for now.
    pub(crate) fn refuse(self, why: WireError) {
        match self {
            Self::Greet { .. } => {}
            Self::Form { reply, .. } => drop(reply.send(Err(why))),
            Self::Reincarnate { reply, .. } => drop(reply.send(Err(why))),
            Self::Join { reply, .. } => drop(reply.send(Err(why))),
            Self::Sign { reply, .. } => drop(reply.send(Ok(None))),
        }
    }
}
