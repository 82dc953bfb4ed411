//! The cold tier: streams as Parquet in object storage. Writes segments and bundles, keeps the
//! manifests that say what lies where, and reads records back, with or without a broker
//! (DESIGN §3 "Bucket", §5).
//!
//! Every object is immutable. Every byte handed out has passed a checksum (I9).
#![warn(missing_docs)]

pub mod bucket;
#[cfg(test)]
mod fixture;
pub mod keys;
pub mod manifest;
pub mod owner;
pub mod reader;
pub mod replay;
pub mod segment;
pub mod sql;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use bucket::{Bucket, BucketError, BucketOptions, BucketUrl};
pub use reader::{ColdBatch, ColdPart, ColdReadError, ColdReader, ReaderOptions};
pub use replay::Replay;
pub use segment::{ChunkPool, EncodeSpec, Encoded, SegmentEncoder, SegmentKind, StreamSlice};
