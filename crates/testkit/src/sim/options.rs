//! What a simulated run is made of.

use std::time::Duration;

use railgun_broker::{CheckpointCadence, Thresholds};

use super::random::Random;

/// How a run differs from the usual one.
#[derive(Clone, Debug)]
pub struct Options {
    /// Virtual time in which things go wrong; an outage of the bucket makes it longer. What comes
    /// after is time to heal, and the last checks.
    pub duration: Duration,
    /// A bug planted on purpose, to show that the run finds it.
    pub bug: Option<Bug>,
}

impl Default for Options {
    fn default() -> Self {
        Self { duration: Duration::from_secs(40), bug: None }
    }
}

/// Bugs that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An ack is sent when the entry is written, before it is fsynced (against PS-1).
    AckBeforeFsync,
    /// Recovery cuts the log at any damage, also at what was once durable (against PS-1).
    RotAsTorn,
    /// Raft gives up entries whose records are not in the bucket (against I2).
    PurgeAboveFloor,
    /// Log files go when their records are committed, before a manifest tells of them (against I2).
    DeleteBeforeMirrored,
    /// Objects are committed that were never uploaded (against I2).
    CommitBeforePut,
    /// Publishers are taken in whatever the log holds (against I10).
    NoAdmission,
    /// A manifest leaves a range out that others follow (against I1).
    HoleInManifest,
    /// An object is written again where there is one, without a look and without a condition
    /// (against I4).
    Overwrite,
    /// A reader that comes from one tier to the next misses a batch (against I7).
    GapBetweenTiers,
    /// What a publisher sends again is taken for new (against PQ-1).
    RepeatsAreNew,
}

impl Bug {
    pub(super) fn of_log(self) -> Option<railgun_log::BuiltinBug> {
        match self {
            Self::AckBeforeFsync => Some(railgun_log::BuiltinBug::CallbackBeforeSync),
            Self::RotAsTorn => Some(railgun_log::BuiltinBug::RotAsTorn),
            Self::PurgeAboveFloor
            | Self::DeleteBeforeMirrored
            | Self::CommitBeforePut
            | Self::NoAdmission
            | Self::HoleInManifest
            | Self::Overwrite
            | Self::GapBetweenTiers
            | Self::RepeatsAreNew => None,
        }
    }

    pub(super) fn of_broker(self) -> Option<railgun_broker::BuiltinBug> {
        match self {
            Self::AckBeforeFsync | Self::RotAsTorn | Self::Overwrite => None,
            Self::PurgeAboveFloor => Some(railgun_broker::BuiltinBug::PurgeAboveFloor),
            Self::DeleteBeforeMirrored => Some(railgun_broker::BuiltinBug::DeleteBeforeMirrored),
            Self::CommitBeforePut => Some(railgun_broker::BuiltinBug::CommitBeforePut),
            Self::NoAdmission => Some(railgun_broker::BuiltinBug::NoAdmission),
            Self::HoleInManifest => Some(railgun_broker::BuiltinBug::HoleInManifest),
            Self::GapBetweenTiers => Some(railgun_broker::BuiltinBug::GapBetweenTiers),
            Self::RepeatsAreNew => Some(railgun_broker::BuiltinBug::RepeatsAreNew),
        }
    }
}

/// Sizes and times of a run, drawn from its seed. Small, so that records cross every tier within
/// seconds.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) shards: u32,
    pub(super) streams: u64,
    pub(super) hot_bytes_max: u64,
    pub(super) file_bytes: u64,
    pub(super) ring_bytes: usize,
    pub(super) mark_after_ms: u64,
    pub(super) max_time_to_cold: Duration,
    pub(super) thresholds: Thresholds,
    /// Publisher handles with order, without, and over many streams.
    pub(super) publishers: [u64; 3],
    pub(super) readers: u64,
}

impl Shape {
    pub(super) fn draw(random: &mut Random) -> Self {
        let shards = random.within(1..3);
        Self {
            shards: shards as u32,
            streams: random.within(2..5),
            hot_bytes_max: (shards * random.within(384..1024)) << 10,
            file_bytes: *random.pick(&[16, 64, 256]) << 10,
            ring_bytes: *random.pick(&[8, 32, 128]) << 10,
            mark_after_ms: random.within(50..1000),
            max_time_to_cold: Duration::from_millis(random.within(500..6000)),
            thresholds: Thresholds {
                segment_bytes_min: *random.pick(&[8, 32, 128]) << 10,
                checkpoints: CheckpointCadence {
                    log_bytes: *random.pick(&[32, 128, 512]) << 10,
                    size_factor: random.within(1..4),
                    quiet: Duration::from_secs(random.within(1..8)),
                    quiet_bytes: *random.pick(&[256, 1024, 4096]),
                },
            },
            publishers: [random.within(1..4), random.within(1..3), random.within(0..2)],
            readers: random.within(1..4),
        }
    }
}
