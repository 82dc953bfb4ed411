//! A running node, behind one handle. `start`, `stop` and `failures` are its beginning and its ends;
//! `keeper` is what it does meanwhile.

mod admission;
mod clocks;
mod damaged;
mod error;
mod failures;
mod founding;
mod keeper;
mod leading;
mod lives;
mod neighbours;
mod setbacks;
mod spec;
mod start;
mod starter;
mod stop;
#[cfg(test)]
mod tests;
mod uploads;
mod whereabouts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use railgun_net::peer::PeerEndpoint;
use railgun_net::{ClientFigures, Endpoint};
use railgun_types::{ClusterUid, NodeId, ShardId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actors::Actors;
use crate::catalog::ClusterView;
#[cfg(test)]
use crate::cluster_admin::ClusterAdmin;
use crate::cluster_bucket::{self, Standing};
use crate::inspection::{ReplicaState, StateDigest};
#[cfg(test)]
use crate::offload::ObjectMemory;
use crate::on_node::OnNodeWatch;
use crate::peers::IdentityRefused;
use crate::seams::RunningLog;
use crate::session::Farewell;
use crate::shard::ShardFigures;
#[cfg(test)]
use crate::streams::Streams;
use clocks::ClockStanding;
pub use error::{NodeFailure, StartError};
pub use spec::{BrokerSpec, ClusterSpec, Listen, ListenForPeers};
pub use stop::DRAIN_TIMEOUT;

/// How long a shard may take to elect this node, which is alone.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A running node. Dropping it ends everything at once, as a crash of the process would; use
/// [`shutdown`](Self::shutdown) where clients should be answered first.
#[derive(Debug)]
pub struct Broker {
    cluster: ClusterUid,
    node: NodeId,
    listen: SocketAddr,
    endpoint: Arc<Endpoint>,
    /// Of a node that has others beside it.
    peer_endpoint: Option<Arc<PeerEndpoint>>,
    on_node: OnNodeWatch,
    view: watch::Receiver<Arc<ClusterView>>,
    /// What clients are told when the node stops.
    farewell: watch::Sender<Farewell>,
    /// Whether other nodes take another process for this node.
    refused: watch::Receiver<Option<IdentityRefused>>,
    /// Whether the bucket is known to be the cluster's.
    bucket: Standing,
    /// What its clock is worth, of a node that has others beside it.
    clocks: Option<watch::Receiver<ClockStanding>>,
    /// Ends when dropped.
    _log: Arc<RunningLog>,
    ready: watch::Sender<bool>,
    /// No new work; finish what is in flight.
    stopping: CancellationToken,
    /// Everything ends.
    cancel: CancellationToken,
    sessions: TaskTracker,
    actors: Actors,
    #[cfg(test)]
    streams: Streams,
    #[cfg(test)]
    cluster_admin: ClusterAdmin,
    #[cfg(test)]
    memory: ObjectMemory,
}

impl Broker {
    /// Starts a node. When it returns, clients can connect. A node that is one of several waits until
    /// there is a cluster that it belongs to, as long as it takes. One that belongs to a cluster needs no
    /// bucket to start.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(spec: BrokerSpec) -> Result<Self, StartError> {
        let refused = watch::Sender::new(None);
        let mut is_refused = refused.subscribe();
        let bucket = Standing::default();
        tokio::select! {
            biased;
            refused = is_refused.wait_for(Option::is_some) => {
                let refused = refused.ok().and_then(|refused| refused.clone());
                let IdentityRefused { by, reason } = refused.unwrap_or_default();
                Err(StartError::IdentityConflict { by, reason })
            }
            wrong = cluster_bucket::is_wrong(Arc::clone(&bucket)) => Err(wrong.into()),
            started = Box::pin(start::start(spec, refused.clone(), Arc::clone(&bucket))) => started,
        }
    }

    /// The address clients connect to.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// This life of the cluster.
    #[must_use]
    pub fn cluster_uid(&self) -> ClusterUid {
        self.cluster
    }

    /// The node's number in it.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Follows whether the node takes requests.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The figures of every data shard, in order.
    #[must_use]
    pub fn figures(&self) -> Vec<ShardFigures> {
        let on_node = self.on_node.borrow();
        let data = on_node.values().filter_map(|replica| replica.data());
        data.map(|data| data.handle.figures()).collect()
    }

    /// Where every replica of the node stands, for who compares them. Cancel safe.
    #[doc(hidden)]
    #[must_use]
    pub fn replica_states(&self) -> Vec<ReplicaState> {
        let on_node = self.on_node.borrow();
        on_node.iter().map(|(shard, local)| ReplicaState::of(*shard, local)).collect()
    }

    /// What tells the state of every replica of the node from that of others; replicas that are about
    /// to stop are left out. Encodes all of it: for tests. Cancel safe.
    #[doc(hidden)]
    pub async fn state_digests(&self) -> Vec<(ShardId, StateDigest)> {
        let on_node = self.on_node.borrow().clone();
        let mut digests = Vec::new();
        for (shard, local) in on_node.iter() {
            digests.extend(local.digest().await.map(|digest| (*shard, digest)));
        }
        digests
    }

    /// This node's clock less the median of the cluster's, in µs: 0 where that cannot be told. `None`: it
    /// has no others beside it.
    #[must_use]
    pub fn clock_off_us(&self) -> Option<i64> {
        self.clocks.as_ref().map(|standing| standing.borrow().off_us)
    }

    /// Whether the bucket has said, since the node was started, that it is the cluster's. Until then nothing
    /// is uploaded, and only what is in the log is read.
    #[must_use]
    pub fn knows_bucket(&self) -> bool {
        self.bucket.get().is_some_and(Result::is_ok)
    }

    /// What clients take of the node's memory.
    #[must_use]
    pub fn clients(&self) -> ClientFigures {
        self.endpoint.clients()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.cancel.cancel();
    }
}
