//! Manifest files: what a shard has in the bucket, as a chain of differences back to a full one.

mod codec;
mod load;
mod newest;

pub use codec::{BadManifest, decode, encode};
pub use load::{LoadError, LoadWarning, Loaded, list_shards, load, store};
