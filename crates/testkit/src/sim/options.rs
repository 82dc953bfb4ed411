//! What a simulated run is made of.

use std::time::Duration;

use railgun_broker::{BuiltinBug as BrokerBug, CheckpointCadence, Thresholds};
use railgun_cold::testing::Conditions;
use railgun_core::builtin_bug::BuiltinBug as CoreBug;
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

/// A bug that a simulated cluster finds.
#[derive(Clone, Copy, Debug)]
pub struct ClusterBug {
    /// What is planted.
    pub bug: Bug,
    /// What it does.
    pub name: &'static str,
    /// The rules that it is against. Where it shows, one of them is broken.
    against: &'static [&'static str],
    /// What else may be broken then, by what follows from it.
    besides: &'static [&'static str],
}

impl ClusterBug {
    /// Whether a run with it, in which these rules were broken, shows it: by one that it is against, or as
    /// something else, which is an error. `None`: it does not show.
    #[must_use]
    pub fn shown(&self, violations: &[String]) -> Option<Result<String, String>> {
        let first = violations.first()?;
        let is_of = |rules: &[&str], violation: &str| {
            violation.split_once(':').is_some_and(|(rule, _)| rules.contains(&rule))
        };
        let against = violations.iter().find(|violation| is_of(self.against, violation));
        let is_other = |it: &&String| !is_of(self.against, it) && !is_of(self.besides, it);
        let other = violations.iter().find(is_other);
        Some(match (against, other) {
            (Some(against), None) => Ok(against.clone()),
            (_, Some(other)) => Err(format!("'{}' shows as something else: {other}", self.name)),
            (None, None) => Err(format!("'{}' shows by what follows only: {first}", self.name)),
        })
    }
}

/// Bugs that a simulated cluster finds.
pub const CLUSTER_BUGS: [ClusterBug; 30] = {
    use BrokerBug as Broker;
    use CoreBug as Core;
    use LogBug as Log;
    const fn log(
        bug: LogBug,
        name: &'static str,
        against: &'static [&'static str],
        besides: &'static [&'static str],
    ) -> ClusterBug {
        ClusterBug { bug: Bug::Log(bug), name, against, besides }
    }
    const fn broker(
        bug: BrokerBug,
        name: &'static str,
        against: &'static [&'static str],
        besides: &'static [&'static str],
    ) -> ClusterBug {
        ClusterBug { bug: Bug::Broker(bug), name, against, besides }
    }
    const fn core(
        bug: CoreBug,
        name: &'static str,
        against: &'static [&'static str],
        besides: &'static [&'static str],
    ) -> ClusterBug {
        ClusterBug { bug: Bug::Broker(Broker::Core(bug)), name, against, besides }
    }
    // What is neither in a log nor in the bucket is not read, and nothing is where it belongs.
    const LOST: &[&str] =
        &["I1", "I2", "I7", "I11", "PS-1", "PS-5", "CL-4", "start", "seal", "reading", "replay"];
    // Where a log is not what it was, Raft notices, and its node ends; and an upload that it named leaves
    // what nobody knows of.
    const RAFT: &[&str] = &["openraft", "liveness", "orphans"];
    // What was told to be durable is not; with it goes what was acked.
    const ACKED: &[&str] = &["durable", "PS-1"];
    [
        log(Log::CallbackBeforeSync, "ack before fsync", ACKED, RAFT),
        broker(Broker::SnapshotAboveFloor, "snapshot above the floor", &["I11"], LOST),
        broker(Broker::PurgeAboveFloor, "purge above the floor", &["I11"], LOST),
        // A reader that is told a stale end stops there, before what was acked when it asked.
        broker(Broker::StaleRead, "stale leader read", &["CL-4", "PS-5"], &["start"]),
        log(Log::VoteNotWritten, "vote not persisted", &["durable"], RAFT),
        log(Log::VoteOvertakes, "vote not ordered behind appends", &["durable"], RAFT),
        log(Log::CallbackOfLater, "flush callback out of order", ACKED, RAFT),
        broker(Broker::DeleteBeforeMirrored, "delete before mirrored", &["I11"], LOST),
        broker(Broker::StaleCommit, "commit of a stale term accepted", &["I5", "I1"], LOST),
        log(Log::SyncErrorIgnored, "EIO ignored", ACKED, RAFT),
        log(
            Log::RotAsTorn,
            "rot taken for torn",
            &["durable", "torn/rot"],
            &["PS-1", "openraft", "liveness"],
        ),
        broker(
            Broker::IncarnationReused,
            "incarnation reused",
            &["durable", "openraft"],
            &["PS-1", "liveness"],
        ),
        broker(Broker::AnsweredTwice, "relay answered twice", &["PQ-1", "PS-1"], &[]),
        broker(Broker::LoneClockFollowed, "lone clock followed", &["CL-6"], &[]),
        broker(Broker::ClockNotAwaited, "clock not awaited", &["CL-6"], &[]),
        broker(Broker::WrongClockLeads, "wrong clock leads on", &["CL-6"], &[]),
        broker(Broker::CommitBeforePut, "commit of what was never uploaded", &["I2"], LOST),
        broker(Broker::HoleInManifest, "hole in a manifest", &["I1"], LOST),
        broker(Broker::GapBetweenTiers, "gap between the tiers", &["I7"], &["PS-1", "PS-5"]),
        broker(Broker::RepeatsAreNew, "repeat appended again", &["PQ-1"], &[]),
        broker(Broker::NoAdmission, "log without bounds", &["I10"], &[]),
        // The upload may go on, and write where something was.
        broker(
            Broker::UnfinishedDeleted,
            "what may be committed deleted",
            &["I2", "I3", "I4"],
            LOST,
        ),
        broker(Broker::NeverDeleted, "orphan never deleted", &["orphans"], &[]),
        broker(
            Broker::DeletedAtOnce,
            "orphan deleted before its upload has ended",
            &["orphans"],
            &[],
        ),
        core(Core::SettleNotFenced, "settle not fenced", &["X-2", "G-7"], &[]),
        // Settled by a tag of before, it may lie in a buffer; and the SDK takes deliveries of one lease for one.
        core(Core::LeaseReused, "lease reused", &["G-7", "G-3"], &["X-3"]),
        // Whoever was restored appends what others do not.
        core(
            Core::SliceMissing,
            "slice missing in a checkpoint",
            &["DD-4", "DD-2"],
            &["PS-2", "PS-1"],
        ),
        // Whoever was restored leaves out what others settle, and has no dead letter of what they give up.
        core(Core::ReservedLost, "reserved messages forgotten", &["G-1", "G-3"], &["PS-2"]),
        core(Core::DyingForgotten, "dying forgotten by a new leader", &["DL-3"], &[]),
        // What is behind the floor again comes again from the next leader, and from none until then.
        core(Core::RedriveMovesFloor, "redrive moves the floor", &["G-1", "G-2", "G-3"], &[]),
    ]
};

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
                // Shorter than what the bucket may take, or longer.
                upload_lease: Duration::from_secs([3, 8, 20][(seed / 3 % 3) as usize]),
            },
            publishers: [random.within(1..4), random.within(1..3), random.within(0..2)],
            readers: random.within(1..4),
            conditions: match seed % 3 {
                0 => Conditions::Honoured,
                1 => Conditions::Ignored,
                _ => Conditions::Refused,
            },
            is_crowded: (seed / 2).is_multiple_of(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_shows_by_the_rules_that_it_is_against() {
        let bug = ClusterBug {
            bug: Bug::Overwrite,
            name: "overwrite",
            against: &["I4", "I5"],
            besides: &["PS-1"],
        };
        let shown = |rules: &[&str]| {
            let violations: Vec<_> = rules.iter().map(|rule| format!("{rule}: so it is")).collect();
            bug.shown(&violations).map(|shown| shown.is_ok())
        };
        assert_eq!(shown(&[]), None);
        assert_eq!(shown(&["I5"]), Some(true));
        assert_eq!(
            shown(&["PS-1", "I4"]),
            Some(true),
            "the order in which it is noticed is chance"
        );
        assert_eq!(shown(&["PS-1"]), Some(false), "by what follows alone");
        assert_eq!(shown(&["I4", "liveness"]), Some(false), "something else, too");
        assert_eq!(shown(&["I44"]), Some(false));
    }
}
