//! What a node is made of.

use std::sync::Arc;
use std::time::Duration;

use railgun_cold::Bucket;
use railgun_net::peer::PeerEndpoint;
use railgun_net::tls::ClusterCa;
use railgun_net::{BindError, Endpoint};

use crate::auth::TokenHash;
use crate::discovery::Discovery;
use crate::seams::Seams;

/// Begins to listen, when everything else runs.
pub type Listen = Box<dyn FnOnce() -> Result<Endpoint, BindError> + Send>;

/// What a node is made of.
pub struct BrokerSpec {
    /// Disk, clock, randomness, threads.
    pub seams: Seams,
    /// The cold tier.
    pub bucket: Bucket,
    /// Where clients come in.
    pub listen: Listen,
    /// The address other nodes and clients are told.
    pub address: String,
    /// Who may connect; empty: everybody.
    pub tokens: Vec<TokenHash>,
    /// Who may change the cluster's nodes, and everything else; empty: whoever may connect.
    pub admin_tokens: Vec<TokenHash>,
    /// Log bytes above the cold floor that all shards may hold together. Decided when the cluster is
    /// made.
    pub hot_bytes_max: u64,
    /// Data shards. Decided when the cluster is made.
    pub shards: u32,
    /// No record waits longer than this to be sealed.
    pub max_time_to_cold: Duration,
    /// Streams that there may be; no further one is created by this node.
    pub streams_max: usize,
    /// The other nodes; `None`: there are none, and never will be.
    pub cluster: Option<ClusterSpec>,
}

/// What a node needs to be one of several.
pub struct ClusterSpec {
    /// Where other nodes come in.
    pub listen: ListenForPeers,
    /// The address that other nodes are told: host and port.
    pub peer_address: String,
    /// Addresses where other nodes may be; its own may be among them.
    pub seeds: Vec<String>,
    /// Nodes that form the cluster together. 1 with seeds other than itself: join the cluster that they
    /// have.
    pub bootstrap_expect: u32,
    /// Replicas of each data shard: 1, 3 or 5. Decided when the cluster is made.
    pub replicas: u8,
    /// The authority that signs the certificates of nodes, on a node that is to do so (CL-2).
    pub ca: Option<Arc<ClusterCa>>,
    /// Finds further addresses where other nodes may be (CL-1).
    pub discovery: Option<Arc<dyn Discovery>>,
}

impl std::fmt::Debug for ClusterSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterSpec")
            .field("peer_address", &self.peer_address)
            .field("seeds", &self.seeds)
            .field("bootstrap_expect", &self.bootstrap_expect)
            .finish_non_exhaustive()
    }
}

/// Begins to listen for other nodes.
pub type ListenForPeers = Box<dyn FnOnce() -> Result<PeerEndpoint, BindError> + Send>;

impl std::fmt::Debug for BrokerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerSpec")
            .field("seams", &self.seams)
            .field("bucket", &self.bucket)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
