//! Commands of shard 0, the owner of names and placement.

use bytes::{BufMut, BytesMut};
use railgun_types::{ByteCursor, ClusterUid, Malformed, ShardId, SpecPatch, StreamName, StreamUid};

use crate::codec;

/// Changes the catalog. Each is idempotent, so that whoever finishes a half-done creation or
/// deletion may repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogCommand {
    /// Fix what holds for the cluster's whole life; the first one counts.
    Found(ClusterSettings),
    /// Hold a name for a stream under creation.
    Reserve {
        /// The name.
        name: StreamName,
        /// The uid drawn by the proposer.
        stream: StreamUid,
        /// What the creator asked for, so that anyone can finish.
        patch: SpecPatch,
    },
    /// The shard has created the stream.
    Activate {
        /// The name.
        name: StreamName,
        /// The stream it must belong to.
        stream: StreamUid,
    },
    /// The stream is being deleted: nobody may use the name any more.
    Delete {
        /// The name.
        name: StreamName,
        /// The stream it must belong to.
        stream: StreamUid,
    },
    /// The shard refused the creation, or has its tombstone: the name is free.
    Free {
        /// The name.
        name: StreamName,
        /// The stream it must belong to.
        stream: StreamUid,
    },
}

/// What is decided once, when a cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// This life of the cluster.
    pub cluster: ClusterUid,
    /// Data shards, numbered from 1.
    pub shards: u32,
    /// Log bytes above the purge point that all shards of a node may hold together.
    pub hot_bytes_max: u64,
}

impl ClusterSettings {
    /// The data shards.
    pub fn data_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..=self.shards).map(ShardId)
    }

    /// Each shard's part of the hot budget, in bytes; the catalog's records are too few to count.
    #[must_use]
    pub fn hot_bytes_per_shard(&self) -> u64 {
        self.hot_bytes_max / u64::from(self.shards.max(1))
    }
}

const FOUND: u8 = 1;
const RESERVE: u8 = 2;
const ACTIVATE: u8 = 3;
const DELETE: u8 = 4;
const FREE: u8 = 5;

impl CatalogCommand {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let put = |out: &mut BytesMut, kind, name: &StreamName, stream: &StreamUid| {
            out.put_u8(kind);
            codec::put_text(out, name.as_str());
            out.put_slice(&stream.0);
        };
        match self {
            Self::Found(settings) => {
                out.put_u8(FOUND);
                settings.encode(out);
            }
            Self::Reserve { name, stream, patch } => {
                put(out, RESERVE, name, stream);
                codec::put_patch(out, patch);
            }
            Self::Activate { name, stream } => put(out, ACTIVATE, name, stream),
            Self::Delete { name, stream } => put(out, DELETE, name, stream),
            Self::Free { name, stream } => put(out, FREE, name, stream),
        }
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let kind = cursor.u8()?;
        if kind == FOUND {
            return ClusterSettings::decode(cursor).map(Self::Found);
        }
        let name = codec::name(cursor)?;
        let stream = StreamUid(cursor.array()?);
        match kind {
            RESERVE => Ok(Self::Reserve { name, stream, patch: codec::patch(cursor)? }),
            ACTIVATE => Ok(Self::Activate { name, stream }),
            DELETE => Ok(Self::Delete { name, stream }),
            FREE => Ok(Self::Free { name, stream }),
            _ => Err(Malformed),
        }
    }
}

impl ClusterSettings {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.cluster.0);
        out.put_u32_le(self.shards);
        out.put_u64_le(self.hot_bytes_max);
    }

    pub(crate) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: ClusterUid(cursor.array()?),
            shards: cursor.u32()?,
            hot_bytes_max: cursor.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_budget_is_divided_over_the_shards() {
        let per_shard = |shards, hot_bytes_max| {
            let cluster = ClusterUid([7; 16]);
            ClusterSettings { cluster, shards, hot_bytes_max }.hot_bytes_per_shard()
        };
        assert_eq!((per_shard(1, 1_000), per_shard(3, 1_000)), (1_000, 333));
        assert_eq!(per_shard(0, 1_000), 1_000, "no shard has no share, and nothing to divide by");
    }
}
