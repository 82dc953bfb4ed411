//! A node with its clients in one thread, on paused time, from one seed (DESIGN §7): PS-1 … PS-5, PQ-1,
//! I1 … I5, I7, I9, I10 under crashes, faults of disk and bucket, and jumps of the clock. The seeds throw
//! dice; `every_point` goes through every point of one short life, and through points of the life after it.
//!
//! `cluster` has three of them, with partitions and all that befalls machines at the same time.
//!
//! `RAILGUN_SIM_SEEDS=n` runs n seeds, `RAILGUN_SIM_SEED=s` only that one, and `RAILGUN_SIM_TRACE=1`
//! prints every event. `RAILGUN_SIM_STEP=1` tries every point of a second life.

mod bugs;
mod cluster;
mod determinism;
mod every_point;
mod seeds;
