//! What lies in object storage, as the shard that owns it knows it: which objects exist, and which
//! range of which stream lies where in them. Part of the replicated state; changed only by apply.

mod file;

use std::collections::BTreeMap;

use railgun_types::{ClusterUid, Offset, ShardId, StreamName, StreamUid, Timestamp};

pub use file::ApplyManifestError;

/// Names one object of a shard: the log index of the `Seal` that asked for it, and its place among
/// the objects of that seal. Never reused, because a log index never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Log index of the seal.
    pub seal_index: u64,
    /// 0-based among the objects of that seal.
    pub part: u32,
}

/// First 8 bytes of the SHA-256 of an object's content; 16 hex digits in its key, so that repeating
/// an upload writes the same bytes to the same key.
pub type ContentHash = [u8; 8];

/// SHA-256 over `(offset, log time, record CRC)` of every record of a stream up to a point, chained
/// from range to range: proof that a rewrite kept every record.
pub type Digest = [u8; 32];

/// What an object is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// Records of one stream, under that stream's key.
    Segment,
    /// Records of many streams, in ascending order of their uids.
    Bundle,
}

/// What an object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Records of one stream.
    Segment {
        /// The stream.
        stream: StreamUid,
        /// Its first offset.
        base: Offset,
        /// Its last offset, inclusive.
        last: Offset,
    },
    /// Records of many streams, ordered by stream and offset.
    Bundle,
}

/// A committed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// What it holds.
    pub kind: ObjectKind,
    /// UTC day of its records, as days since the Unix epoch (`dt=` of its key).
    pub day: i64,
    /// Raft term in which it was sealed.
    pub term: u64,
    /// Log index of the entry that named the upload which it is of. Part of its key: no other upload
    /// ever writes to that.
    pub attempt: u64,
    /// Hash of its content.
    pub hash: ContentHash,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of its footer with the trailing length and magic: what a reader fetches first.
    pub footer_bytes: u32,
    /// Ranges of the manifest that still lie in it; at 0 it may go.
    pub live_parts: u32,
}

/// A contiguous range of one stream inside one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColdRange {
    /// First offset.
    pub base: Offset,
    /// Records.
    pub count: u64,
    /// Log time of the first record; log time never falls within a stream.
    pub min_ts: Timestamp,
    /// Log time of the last record.
    pub max_ts: Timestamp,
    /// Encoded bytes of the records, before compression.
    pub record_bytes: u64,
    /// Where they are.
    pub object: ObjectId,
    /// Row group of the first record.
    pub first_row_group: u32,
    /// Row of the first record within the object, counted over all its row groups.
    pub first_row: u64,
}

impl ColdRange {
    /// The offset after the last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.base.plus(self.count)
    }
}

/// The cold part of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamManifest {
    /// The name at creation; kept after deletion, because it is part of object keys.
    pub name: StreamName,
    /// Log time of creation.
    pub created: Timestamp,
    /// Whether the stream was deleted; its objects stay until they are collected.
    pub deleted: bool,
    /// Contiguous and ascending (I1).
    pub ranges: Vec<ColdRange>,
    /// Chained digest up to the end of the last range; zeros before the first.
    pub digest: Digest,
}

impl StreamManifest {
    /// The offset after the last cold record: the stream's cold floor.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.ranges.last().map_or(Offset(0), ColdRange::end)
    }

    /// The range that holds `offset`.
    #[must_use]
    pub fn range_of(&self, offset: Offset) -> Option<&ColdRange> {
        let after = self.ranges.partition_point(|range| range.end() <= offset);
        self.ranges.get(after).filter(|range| range.base <= offset)
    }

    /// The first range with a record at or after `ts`.
    #[must_use]
    pub fn range_at_time(&self, ts: Timestamp) -> Option<&ColdRange> {
        self.ranges.get(self.ranges.partition_point(|range| range.max_ts < ts))
    }
}

/// Everything a shard has in object storage as of one log index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardManifest {
    /// The cluster life.
    pub cluster: ClusterUid,
    /// The shard.
    pub shard: ShardId,
    /// Every stream that has, or may get, cold ranges.
    pub streams: BTreeMap<StreamUid, StreamManifest>,
    /// Every committed object.
    pub objects: BTreeMap<ObjectId, ObjectInfo>,
}

/// Place of a manifest file in the order of its shard: a greater one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestVersion {
    /// Log index of the state it tells.
    pub log_index: u64,
    /// Raft term of that entry.
    pub term: u64,
}

/// What changed since another version, or everything: the content of one manifest file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// The cluster life.
    pub cluster: ClusterUid,
    /// The shard.
    pub shard: ShardId,
    /// The state it tells.
    pub version: ManifestVersion,
    /// The version this one extends; `None` for a full one.
    pub extends: Option<ManifestVersion>,
    /// Streams that are new or changed, by uid.
    pub streams: BTreeMap<StreamUid, StreamChange>,
    /// Objects that are new or changed.
    pub objects: BTreeMap<ObjectId, ObjectInfo>,
    /// Objects that are gone.
    pub removed_objects: Vec<ObjectId>,
    /// Streams that are gone.
    pub removed_streams: Vec<StreamUid>,
}

/// A stream in a manifest file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamChange {
    /// Name, creation, deletion and digest as of this version; `ranges` holds only those after the
    /// `kept` ones.
    pub stream: StreamManifest,
    /// How many ranges of the extended version come before.
    pub kept: u64,
}
