//! Raft for railgun's shards, and the only crate that names openraft. It brings entries whose
//! meaning it does not know through a shard's log into the shard owner's state machine.
//!
//! - [`RaftShard`] is a running replica: propose, follow the leadership, read, promote a snapshot,
//!   purge, hand the lead over, change the members, shut down.
//! - [`StateMachine`] and [`SnapshotSource`] are what its owner implements.
//! - [`PeerNetwork`] is how it reaches the other replicas; what they ask of this one comes in by
//!   [`RaftShard::answer`] and [`RaftShard::serve_stream`].
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
mod reconcile;
mod runtime;
mod serve;
mod shard;
mod supervisor;
#[cfg(test)]
mod tests;
mod transfer;
mod watch;
mod wire;

pub use blocking_pool::{BlockingJob, BlockingPool, BlockingThreads, Inline, PoolStopped, run_on};
pub use error::{
    InitializeError, PromoteError, ProposeError, ReadIndexError, ReconcileError, StartError,
    TransferError,
};
pub use leadership::{Fitness, LeaderState, LeaderWatch, ShardStopped};
pub use machine::{
    Applied, ApplyError, ApplyItem, Proposed, Snapshot, SnapshotError, SnapshotFile, SnapshotSink,
    SnapshotSource, StateMachine,
};
pub use membership::InvalidMembership;
pub use metrics::{FollowerProgress, ShardMetrics};
pub use peers::{
    Destination, NoPeers, PeerError, PeerMessage, PeerNetwork, PeerReceiver, PeerSender,
    PeerStream, StreamUse,
};
pub use proposal::{Companion, Proposal, Unapplied, UnappliedSink};
pub use reconcile::{MembershipStep, MembershipWait, WantedMembers};
pub use runtime::{inheriting, seeded};
pub use serve::ServeError;
pub use shard::{PROPOSALS_MAX, RaftShard, ShardSpec};
pub use supervisor::Failure;
pub use wire::InvalidMessage;
