//! Raft for railgun's shards, and the only crate that names openraft. It brings entries whose
//! meaning it does not know through a shard's log into the shard owner's state machine.
//!
//! - [`RaftShard`] is a running replica: propose, follow the leadership, read, promote a snapshot,
//!   purge, shut down.
//! - [`StateMachine`] and [`SnapshotSource`] are what its owner implements.
//! - The log is a `railgun_log::ShardLog`: entries are durable before they count, and are kept
//!   once, in the log's files.
//!
//! A proposal's ticket comes back exactly once, with its entry in apply or as an [`Unapplied`].
//! Nothing of openraft shows in this interface.
#![warn(missing_docs)]

mod applier;
mod blocking_pool;
mod entry;
mod error;
mod leadership;
mod log_store;
mod machine;
mod membership;
mod metrics;
mod network;
mod peers;
mod proposal;
mod raft_types;
mod runtime;
mod shard;
mod supervisor;
#[cfg(test)]
mod tests;
mod watch;

pub use blocking_pool::{BlockingJob, BlockingPool, BlockingThreads, Inline, PoolStopped, run_on};
pub use error::{PromoteError, ProposeError, ReadIndexError, StartError};
pub use leadership::{LeaderState, LeaderWatch, ShardStopped};
pub use machine::{
    Applied, ApplyError, ApplyItem, Proposed, Snapshot, SnapshotError, SnapshotSource, StateMachine,
};
pub use membership::InvalidMembership;
pub use metrics::ShardMetrics;
pub use peers::{
    Destination, NoPeers, PeerError, PeerMessage, PeerNetwork, PeerReceiver, PeerSender,
    PeerStream, StreamUse,
};
pub use proposal::{Companion, Proposal, Unapplied, UnappliedSink};
pub use runtime::seeded;
pub use shard::{PROPOSALS_MAX, RaftShard, ShardSpec};
pub use supervisor::Failure;
