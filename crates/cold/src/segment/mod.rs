//! Segments and bundles: ranges of streams as one Parquet object (DESIGN §3 "Parquet").

mod chunks;
mod columns;
mod encode;
mod footer;
pub(crate) mod schema;

pub use chunks::ChunkPool;
pub use encode::{EncodeError, EncodeSpec, Encoded, SegmentEncoder, StreamSlice};
pub use footer::{BadFooter, EncodedPart, Footer, RowGroupPlace};
pub use railgun_core::manifest::SegmentKind;
