//! Which object, and which rows of it, hold a range of a stream.

use std::sync::Arc;

use railgun_core::manifest::{ColdRange, ShardManifest};
use railgun_types::{ClusterUid, Offset, ShardId, StreamUid};

use crate::keys::Key;

/// An object as a reader needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its key.
    pub key: Arc<str>,
    /// The cluster life that wrote it.
    pub cluster: ClusterUid,
    /// The shard that wrote it.
    pub shard: ShardId,
    /// Its size.
    pub bytes: u64,
    /// Bytes of its footer, as its encoder told.
    pub footer_bytes: u32,
}

/// A range of a stream and the object it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdPart {
    /// The stream.
    pub stream: StreamUid,
    /// The range.
    pub range: ColdRange,
    /// The object.
    pub object: ObjectRef,
}

impl ColdPart {
    /// The part that holds `range` of `stream`; `None` if the manifest does not know the stream or
    /// the range's object.
    #[must_use]
    pub fn new(manifest: &ShardManifest, stream: StreamUid, range: &ColdRange) -> Option<Self> {
        let name = &manifest.streams.get(&stream)?.name;
        let info = manifest.objects.get(&range.object)?;
        let (cluster, shard) = (manifest.cluster, manifest.shard);
        let key = Key::of_object(cluster, shard, range.object, info, name).to_string().into();
        let (bytes, footer_bytes) = (info.bytes, info.footer_bytes);
        let object = ObjectRef { key, cluster, shard, bytes, footer_bytes };
        Some(Self { stream, range: range.clone(), object })
    }

    /// The part that holds `offset` of `stream`.
    #[must_use]
    pub fn locate(manifest: &ShardManifest, stream: StreamUid, offset: Offset) -> Option<Self> {
        let range = manifest.streams.get(&stream)?.range_of(offset)?;
        Self::new(manifest, stream, range)
    }
}
