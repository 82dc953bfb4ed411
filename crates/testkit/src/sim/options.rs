//! What a simulated run is made of.

use std::time::Duration;

use railgun_broker::{BuiltinBug as BrokerBug, CheckpointCadence, Thresholds};
use railgun_cold::testing::Conditions;
use railgun_log::BuiltinBug as LogBug;

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

/// Bugs that can be planted, each in the part of the node that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// In the log.
    Log(LogBug),
    /// In the broker.
    Broker(BrokerBug),
    /// An object is written again where there is one, without a look and without a condition
    /// (against I4).
    Overwrite,
}

/// Bugs that a simulated cluster finds, with what they do.
pub const CLUSTER_BUGS: [(Bug, &str); 19] = [
    (Bug::Log(LogBug::CallbackBeforeSync), "ack before fsync"),
    (Bug::Broker(BrokerBug::SnapshotAboveFloor), "snapshot above the floor"),
    (Bug::Broker(BrokerBug::PurgeAboveFloor), "purge above the floor"),
    (Bug::Broker(BrokerBug::StaleRead), "stale leader read"),
    (Bug::Log(LogBug::VoteNotWritten), "vote not persisted"),
    (Bug::Log(LogBug::VoteOvertakes), "vote not ordered behind appends"),
    (Bug::Log(LogBug::CallbackOfLater), "flush callback out of order"),
    (Bug::Broker(BrokerBug::DeleteBeforeMirrored), "delete before mirrored"),
    (Bug::Broker(BrokerBug::StaleCommit), "commit of a stale term accepted"),
    (Bug::Log(LogBug::SyncErrorIgnored), "EIO ignored"),
    (Bug::Log(LogBug::RotAsTorn), "rot taken for torn"),
    (Bug::Broker(BrokerBug::IncarnationReused), "incarnation reused"),
    (Bug::Broker(BrokerBug::AnsweredTwice), "relay answered twice"),
    (Bug::Broker(BrokerBug::LoneClockFollowed), "lone clock followed"),
    (Bug::Broker(BrokerBug::CommitBeforePut), "commit of what was never uploaded"),
    (Bug::Broker(BrokerBug::HoleInManifest), "hole in a manifest"),
    (Bug::Broker(BrokerBug::GapBetweenTiers), "gap between the tiers"),
    (Bug::Broker(BrokerBug::RepeatsAreNew), "repeat appended again"),
    (Bug::Broker(BrokerBug::NoAdmission), "log without bounds"),
];

impl Bug {
    pub(super) fn of_log(self) -> Option<LogBug> {
        match self {
            Self::Log(bug) => Some(bug),
            Self::Broker(_) | Self::Overwrite => None,
        }
    }

    pub(super) fn of_broker(self) -> Option<BrokerBug> {
        match self {
            Self::Broker(bug) => Some(bug),
            Self::Log(_) | Self::Overwrite => None,
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
    /// What the store makes of conditional PUTs.
    pub(super) conditions: Conditions,
    /// Clients have hardly any memory to read with, but for a little of their own.
    pub(super) is_crowded: bool,
}

impl Shape {
    /// Log bytes that a shard may hold.
    pub(super) fn shard_budget(&self) -> u64 {
        self.hot_bytes_max / u64::from(self.shards)
    }

    /// Of `seed`, whose other chance is `random`: four seeds in a row have every kind of store and clients.
    pub(super) fn draw(seed: u64, random: &mut Random) -> Self {
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
            conditions: match seed % 2 {
                0 => Conditions::Honoured,
                _ => Conditions::Ignored,
            },
            is_crowded: (seed / 2).is_multiple_of(2),
        }
    }
}
