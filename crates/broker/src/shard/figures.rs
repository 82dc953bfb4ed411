//! What a shard tells about itself, for metrics.

use railgun_core::shard::{ShardState, Waiting};
use railgun_types::{ShardId, Timestamp};

/// A shard's figures at one moment. Totals count since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardFigures {
    /// The shard.
    pub shard: ShardId,
    /// Whether this node leads it and takes requests.
    pub serving: bool,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Log index at and below which everything is in the bucket.
    pub floor: u64,
    /// Log bytes above the floor.
    pub hot_bytes: u64,
    /// The shard's hot budget.
    pub hot_bytes_max: u64,
    /// Record bytes on their way to the bucket.
    pub waiting: Waiting,
    /// Log time of the last entry.
    pub log_time: Timestamp,
    /// Streams.
    pub streams: u64,
    /// Producers whose last results are kept.
    pub producers: u64,
    /// Objects in the bucket.
    pub objects: u64,
    /// Entries with records applied.
    pub entries_total: u64,
    /// Records appended.
    pub records_total: u64,
    /// Their encoded bytes.
    pub record_bytes_total: u64,
    /// Records that were not appended, as they had been before under the same id (DD-2).
    pub duplicates_total: u64,
    /// Message ids held.
    pub ids: u64,
    /// Append requests refused because of the hot budget or a full disk.
    pub refused_total: u64,
    /// Uploads have failed since the last one that worked.
    pub offload_failing: bool,
}

impl ShardFigures {
    /// Takes over what the state tells.
    pub(super) fn update(&mut self, state: &ShardState) {
        self.applied = state.applied().map_or(0, |at| at.index);
        self.floor = state.floor().unwrap_or(0);
        self.waiting = state.waiting();
        self.log_time = state.log_time();
        self.streams = state.stream_count() as u64;
        self.producers = state.producers() as u64;
        self.ids = state.ids_held();
        self.objects = state.manifest().objects.len() as u64;
    }
}
