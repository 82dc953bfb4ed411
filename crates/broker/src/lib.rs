//! The broker: actors that bring clients, shards, log and bucket together on one node. Everything is
//! reached through one [`Broker`] handle.
#![warn(missing_docs)]

mod actors;
mod auth;
mod builtin_bug;
mod catalog;
mod checkpoint;
mod clock;
mod cluster_admin;
mod cluster_bucket;
mod describe;
mod discovery;
mod entropy;
mod formation;
mod group;
mod groups;
mod identity;
mod inspection;
mod joining;
mod leaders;
mod leads;
mod log_done;
mod node;
mod node_ask;
mod offload;
mod on_node;
mod peers;
mod reader;
mod relay;
mod replica;
mod routing;
mod seams;
mod session;
mod shard;
mod streams;
mod thresholds;
mod wire_error;

pub use auth::{InvalidTokenHash, TokenHash};
pub use builtin_bug::BuiltinBug;
pub use clock::{Clock, SystemClock};
pub use cluster_bucket::WrongBucket;
pub use discovery::{Discovery, DiscoveryError};
pub use entropy::{Entropy, SystemEntropy};
pub use formation::FormingError;
pub use identity::{Founder, Identity, IdentityError, Member};
#[doc(hidden)]
pub use inspection::{ReplicaState, StateDigest};
pub use node::{
    Broker, BrokerSpec, ClusterSpec, DRAIN_TIMEOUT, Listen, ListenForPeers, NodeFailure, StartError,
};
pub use seams::{LogDriver, Pace, Seams};
pub use shard::{GroupTotals, ShardFigures};
pub use thresholds::{CheckpointCadence, Thresholds};
