//! The decisions of railgun, as machines without input and output: no clock, no randomness, no
//! runtime, no files. Entries and times come in as arguments, outcomes are returned (DESIGN §1.6).
#![warn(missing_docs)]

pub mod builtin_bug;
pub mod catalog;
pub mod checkpoint;
pub mod cluster_clock;
mod codec;
pub mod command;
pub mod dispatcher;
pub mod group;
pub mod manifest;
pub mod outcome;
pub mod placement;
pub mod ranges;
pub mod shard;
