//! A node in one thread, on paused time, from one seed (DESIGN §7): its disk, bucket, clock, network and
//! randomness are simulated, and everything that may go wrong with them does. A history of what clients
//! asked and got, and checkers of disk and bucket, say whether SEMANTICS §1, §2 and DESIGN §5 hold.
//!
//! The same seed gives the same trace. [`run`] is the whole of it, [`run_cluster`] has three nodes that
//! are one cluster, on a network that fails. What the seeds only sample, [`script`] goes through: a crash
//! at every point of one short life.

mod audit;
mod bucket;
#[cfg(test)]
mod catalog_tests;
mod checker;
mod clock;
mod cluster;
mod counts;
mod crowd;
mod cut;
mod dial;
mod disk;
mod faults;
mod history;
mod node;
mod options;
mod panics;
mod random;
mod said;
pub mod script;
mod settling;
mod shared;
mod trace;
mod workload;
mod world;

pub use cluster::{CLUSTER_FAULTS, run_cluster};
pub use counts::Counts;
pub use cut::Point;
pub use faults::FAULTS;
pub use history::{End, GroupNumber, Handed, History, LaneId, MemberNumber, MessageId};
pub use options::{Bug, CLUSTER_BUGS, ClusterBug, Options};
pub use panics::panics;
pub use railgun_broker::BuiltinBug as BrokerBug;
pub use railgun_log::{BuiltinBug as LogBug, CrashPlan};
pub use random::Random;
pub use said::Said;
pub use settling::{Group, Settling};
pub use trace::Trace;
pub use world::{Report, World, run};
