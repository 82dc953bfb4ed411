//! What goes wrong, and when.

use std::time::Duration;

use railgun_log::SimOp;

use super::bucket::Weather;
use super::random::Random;

/// What everything that strikes is counted under.
pub const FAULTS: [&str; 14] = [
    "power loss",
    "power loss at a change of the disk",
    "power loss before a sync",
    "kill",
    "restart",
    "cut connections",
    "lost answers",
    "stormy bucket",
    "no bucket",
    "full disk",
    "disk error",
    "slow disk",
    "clock jump",
    "look",
];

/// A roll of the dice for each.
const ROLLS: [u64; 13] = [0, 6, 20, 34, 38, 42, 45, 50, 66, 72, 77, 84, 92];

/// Something that befalls the world.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// The machine loses power at once.
    PowerLoss,
    /// The disk answers nothing more after so many changes, then the machine loses power.
    PowerLossAtDisk { operations: u64 },
    /// The disk stops when a batch is written to a log and not yet synced, after so many that were; then
    /// the machine loses power.
    PowerLossAtSync { syncs: u64 },
    /// The process is killed; the machine goes on.
    Kill,
    /// An operator stops the node and starts it again.
    Restart { drain: Duration },
    /// Every connection breaks.
    Cut,
    /// Every connection breaks when a batch is durable and its answers are not sent, after so many that
    /// were: publishers repeat it.
    LostAnswers { syncs: u64 },
    /// The bucket is like this for a while.
    Bucket { weather: Weather, time: Duration },
    /// The disk takes nothing more for a while.
    DiskFull { time: Duration },
    /// An operation of this kind fails.
    DiskError { op: SimOp, after: u64 },
    /// Steps of the disk take this long, for a while.
    SlowDisk { us: u64, time: Duration },
    /// The wall clock jumps.
    Clock { us: i64 },
    /// Nothing; the world is looked at.
    Look,
}

impl Fault {
    /// The bucket is gone for minutes: longer than any client is patient.
    pub(super) fn outage(random: &mut Random) -> Self {
        let weather = *random.pick(&[Weather::Away, Weather::Throttling, Weather::Denied]);
        Self::Bucket { weather, time: Duration::from_secs(random.within(130..180)) }
    }

    /// Whether the node goes on and the disk is as it was, so that it needs no start, for which it
    /// would need its bucket.
    pub(super) fn is_mild(&self) -> bool {
        matches!(
            self,
            Self::Cut
                | Self::LostAnswers { .. }
                | Self::SlowDisk { .. }
                | Self::Clock { .. }
                | Self::Look
        )
    }

    /// Under which it is counted.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::PowerLoss => "power loss",
            Self::PowerLossAtDisk { .. } => "power loss at a change of the disk",
            Self::PowerLossAtSync { .. } => "power loss before a sync",
            Self::Kill => "kill",
            Self::Restart { .. } => "restart",
            Self::Cut => "cut connections",
            Self::LostAnswers { .. } => "lost answers",
            Self::Bucket { weather: Weather::Stormy(_), .. } => "stormy bucket",
            Self::Bucket { .. } => "no bucket",
            Self::DiskFull { .. } => "full disk",
            Self::DiskError { .. } => "disk error",
            Self::SlowDisk { .. } => "slow disk",
            Self::Clock { .. } => "clock jump",
            Self::Look => "look",
        }
    }

    pub(super) fn draw(random: &mut Random) -> Self {
        let roll = random.within(0..100);
        Self::of(roll, random)
    }

    /// The first ones of a run, so that a few runs with consecutive seeds see everything.
    pub(super) fn first(seed: u64, random: &mut Random) -> [Self; 2] {
        let place = |at: u64| (seed.wrapping_mul(2).wrapping_add(at) % ROLLS.len() as u64) as usize;
        [0, 1].map(|at| Self::of(ROLLS[place(at)], random))
    }

    fn of(roll: u64, random: &mut Random) -> Self {
        let ms = |random: &mut Random, most| Duration::from_millis(random.within(100..most));
        match roll {
            0..6 => Self::PowerLoss,
            6..20 => Self::PowerLossAtSync { syncs: random.within(0..5) },
            20..34 => Self::PowerLossAtDisk { operations: random.within(0..40) },
            34..38 => Self::Kill,
            38..42 => Self::Restart { drain: ms(random, 10_000) },
            42..45 => Self::Cut,
            45..50 => Self::LostAnswers { syncs: random.within(0..5) },
            50..66 => {
                let storm = Weather::Stormy(random.within(2..12));
                let choices =
                    [Weather::Denied, Weather::Throttling, Weather::Away, storm, storm, storm];
                let weather = *random.pick(&choices);
                // Half a minute, now and then. For what lasts longer, see `outage`.
                let most = if random.percent(20) { 30_000 } else { 12_000 };
                Self::Bucket { weather, time: ms(random, most) }
            }
            66..72 => Self::DiskFull { time: ms(random, 5_000) },
            72..77 => {
                let op = failing_op(random);
                Self::DiskError { op, after: random.within(0..20) }
            }
            77..84 => Self::SlowDisk { us: random.within(5_000..150_000), time: ms(random, 5_000) },
            84..92 => {
                let us =
                    random.within(1..*random.clone().pick(&[100_000, 20_000_000, 90_000_000_000]));
                let us = i64::try_from(us).unwrap_or(i64::MAX);
                Self::Clock { us: if random.percent(50) { us } else { -us } }
            }
            _ => Self::Look,
        }
    }
}

/// What a disk refuses to do.
pub(super) fn failing_op(random: &mut Random) -> SimOp {
    use SimOp::{Create, Read, Remove, Rename, Sync, SyncDir, Write};
    *random.pick(&[Write, Sync, Sync, Read, Create, Rename, Remove, SyncDir])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_is_drawn_sooner_or_later_and_has_a_name() {
        let mut random = Random::new(1);
        let drawn: BTreeSet<_> = (0..2_000).map(|_| Fault::draw(&mut random).name()).collect();
        assert_eq!(drawn, BTreeSet::from(FAULTS));
        let bucket = ["no bucket", "stormy bucket"];
        let first = (1..8).flat_map(|seed| Fault::first(seed, &mut random)).map(|f| f.name());
        let first: BTreeSet<_> = first.chain(bucket).collect();
        assert_eq!(first, BTreeSet::from(FAULTS), "seven runs see all");
    }
}
