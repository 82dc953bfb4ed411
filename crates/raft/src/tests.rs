//! Tests of the whole: a real log on a real disk under openraft, with a state machine that records.

mod batching;
mod cluster;
mod disk_log;
mod recorder;
mod shard;
mod simulation;
mod snapshots;
mod storage_suite;
