//! Checkpoints of a shard's state: files that make restarts fast, and of which Raft snapshots are
//! promoted (DESIGN §1.3).

mod reserve;
mod schedule;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod transfer;

pub(crate) use schedule::{Schedule, WriteError, Written};
pub(crate) use store::{Check, CheckpointStore, Newest, is_full};
pub(crate) use transfer::Install;
