//! What goes wrong, and when.

use std::time::Duration;

use super::bucket::Weather;
use super::random::Random;

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
    /// The bucket is like this for a while.
    Bucket { weather: Weather, time: Duration },
    /// The disk takes nothing more for a while.
    DiskFull { time: Duration },
    /// An operation of this kind fails.
    DiskError { op: railgun_log::SimOp, after: u64 },
    /// Steps of the disk take this long, for a while.
    SlowDisk { us: u64, time: Duration },
    /// The wall clock jumps.
    Clock { us: i64 },
    /// Nothing; the world is looked at.
    Look,
}

impl Fault {
    pub(super) fn draw(random: &mut Random) -> Self {
        let ms = |random: &mut Random, most| Duration::from_millis(random.within(100..most));
        match random.within(0..100) {
            0..6 => Self::PowerLoss,
            6..20 => Self::PowerLossAtSync { syncs: random.within(0..5) },
            20..34 => Self::PowerLossAtDisk { operations: random.within(0..40) },
            34..38 => Self::Kill,
            38..42 => Self::Restart { drain: ms(random, 10_000) },
            42..46 => Self::Cut,
            46..66 => {
                let storm = Weather::Stormy(random.within(2..12));
                let choices =
                    [Weather::Denied, Weather::Throttling, Weather::Away, storm, storm, storm];
                let weather = *random.pick(&choices);
                // Minutes, now and then: longer than anybody is patient.
                let most = if random.percent(20) { 180_000 } else { 12_000 };
                Self::Bucket { weather, time: ms(random, most) }
            }
            66..72 => Self::DiskFull { time: ms(random, 5_000) },
            72..77 => {
                use railgun_log::SimOp::{Create, Read, Remove, Rename, Sync, SyncDir, Write};
                let op = *random.pick(&[Write, Sync, Sync, Read, Create, Rename, Remove, SyncDir]);
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
