//! Sizes and times by which a node decides. Production has the defaults. A simulation has smaller ones:
//! a little traffic then goes every way that a lot of it goes elsewhere.

use std::time::Duration;

use railgun_core::shard::SEGMENT_BYTES_MIN;

/// See the module. The same for every life of a node, and for every node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Waiting record bytes from which a stream gets segments of its own.
    pub segment_bytes_min: u64,
    /// When checkpoints are written.
    pub checkpoints: CheckpointCadence,
    /// An upload that the log has named writes to the bucket for no longer than this; it may be named
    /// again. What one has left that is over is deleted after twice as long: so a request has as much time
    /// again to arrive when its sender has given it up.
    pub upload_lease: Duration,
}

/// When a checkpoint is written that nobody asks for (DESIGN §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointCadence {
    /// Log bytes after which one is due, if they are `size_factor` times its size.
    pub log_bytes: u64,
    /// See `log_bytes`.
    pub size_factor: u64,
    /// A quieter log is checkpointed after this time, if there is at least `quiet_bytes` of it.
    pub quiet: Duration,
    /// See `quiet`.
    pub quiet_bytes: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        let checkpoints = CheckpointCadence::default();
        // Enough for the largest object at the least speed that a PUT may have, and to read it once more.
        let upload_lease = Duration::from_secs(300);
        Self { segment_bytes_min: SEGMENT_BYTES_MIN, checkpoints, upload_lease }
    }
}

impl Default for CheckpointCadence {
    fn default() -> Self {
        Self {
            log_bytes: 64 << 20,
            size_factor: 16,
            quiet: Duration::from_secs(30),
            quiet_bytes: 1 << 20,
        }
    }
}
