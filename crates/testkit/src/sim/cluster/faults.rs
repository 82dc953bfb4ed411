//! What goes wrong in a cluster, and for how long.

use std::time::Duration;

use super::super::bucket::Weather;
use super::super::faults::failing_op;
use super::super::random::Random;

/// What everything that strikes a cluster is counted under.
pub const CLUSTER_FAULTS: [&str; 23] = [
    "crash",
    "crash before a sync",
    "power cut of all",
    "power cut of all before a sync",
    "restart",
    "partition",
    "one-way partition",
    "clients cut off",
    "delays",
    "cut connections",
    "lost answers",
    "stormy bucket",
    "no bucket",
    "full disk",
    "disk error",
    "lost disk",
    "slow disk",
    "clock jump",
    "clock jump while one is away",
    "transfer",
    "drained node",
    "damaged disk",
    "replaced node",
];

/// A roll of the dice for each.
const ROLLS: [u64; 23] = [
    0, 10, 20, 23, 28, 32, 42, 52, 57, 64, 68, 71, 79, 83, 88, 91, 96, 101, 105, 113, 116, 120, 124,
];
/// Behind the last of them.
const ROLLS_END: u64 = 129;

/// A year, in µs.
const YEAR_US: i64 = 365 * 24 * 3_600 * 1_000_000;

/// A node, from 0.
pub(super) type At = usize;

/// Something that befalls a cluster. What lasts, lasts for `time`.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// A machine loses power; it is back after a while. The others learn it at once, or by silence.
    Crash { node: At, told: bool, down: Duration },
    /// The same when a batch is written to a log and not yet synced, after so many that were.
    CrashAtSync { node: At, syncs: u64, down: Duration },
    /// All machines lose power, and come back one after the other.
    PowerCut { down: [Duration; 3] },
    /// Each machine loses power when a batch is written to one of its logs and not yet synced, after so
    /// many that were: what is acked then and not synced is gone from most disks.
    PowerCutAtSync { syncs: u64, down: [Duration; 3] },
    /// An operator stops a node and starts it again.
    Restart { node: At, drain: Duration },
    /// Nothing goes between a node and the others, or one other of them.
    Partition { node: At, other: Option<At>, time: Duration },
    /// Nothing goes from a node to the others, or one other of them, or `back` to it from them.
    OneWay { node: At, other: Option<At>, back: bool, time: Duration },
    /// Nothing goes between a node and clients, or only one way.
    ClientsCutOff { node: At, there: bool, back: bool, time: Duration },
    /// Everything takes so long, but nothing within a host.
    Delays { ms: (u64, u64), time: Duration },
    /// Every connection of clients to a node breaks.
    Cut { node: At },
    /// The same when a batch is durable and its answers are not sent, after so many that were.
    LostAnswers { node: At, syncs: u64 },
    /// The bucket is like this, for all.
    Bucket { weather: Weather, time: Duration },
    /// A disk takes nothing more. One at a time: a majority has room.
    DiskFull { node: At, time: Duration },
    /// An operation of this kind fails.
    DiskError { node: At, op: railgun_log::SimOp, after: u64, down: Duration },
    /// A node is back without its shards; not before the others have everything that it had.
    LostDisk { node: At, down: Duration },
    /// A node is back with a file of a shard that is not what was written, on the same condition.
    DamagedDisk { node: At, down: Duration },
    /// A node is gone for good, on the same condition. Another that knows nothing takes its address, and
    /// an operator removes the old one, before the new one joins or after.
    ReplacedNode { node: At, down: Duration, removed: Duration },
    /// Steps of a disk take this long.
    SlowDisk { node: At, us: u64, time: Duration },
    /// A node's clock is set to this much beside the truth. One at a time: the others are set right.
    Clock { node: At, us: i64 },
    /// A node loses power, for so long that the others forget what its clock was, or the `other` starts anew
    /// and never learns it; and the other's clock is wrong.
    LoneClock { node: At, other: At, us: i64, down: Duration, starts_anew: bool },
    /// An operator has a shard led by a node.
    Transfer { shard: u32, node: At },
    /// An operator drains a node, and takes that back.
    Drained { node: At, time: Duration },
}

impl Fault {
    /// Under which it is counted.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::CrashAtSync { .. } => "crash before a sync",
            Self::PowerCut { .. } => "power cut of all",
            Self::PowerCutAtSync { .. } => "power cut of all before a sync",
            Self::Restart { .. } => "restart",
            Self::Partition { .. } => "partition",
            Self::OneWay { .. } => "one-way partition",
            Self::ClientsCutOff { .. } => "clients cut off",
            Self::Delays { .. } => "delays",
            Self::Cut { .. } => "cut connections",
            Self::LostAnswers { .. } => "lost answers",
            Self::Bucket { weather: Weather::Stormy(_), .. } => "stormy bucket",
            Self::Bucket { .. } => "no bucket",
            Self::DiskFull { .. } => "full disk",
            Self::DiskError { .. } => "disk error",
            Self::SlowDisk { .. } => "slow disk",
            Self::LostDisk { .. } => "lost disk",
            Self::Clock { .. } => "clock jump",
            Self::LoneClock { .. } => "clock jump while one is away",
            Self::Transfer { .. } => "transfer",
            Self::Drained { .. } => "drained node",
            Self::DamagedDisk { .. } => "damaged disk",
            Self::ReplacedNode { .. } => "replaced node",
        }
    }

    pub(super) fn draw(random: &mut Random) -> Self {
        let roll = random.within(0..ROLLS_END);
        Self::of(roll, random)
    }

    /// The first ones of a run, so that a few runs with consecutive seeds see everything.
    pub(super) fn first(seed: u64, random: &mut Random) -> [Self; 6] {
        let place = |at: u64| (seed.wrapping_mul(6).wrapping_add(at) % ROLLS.len() as u64) as usize;
        [0, 1, 2, 3, 4, 5].map(|at| Self::of(ROLLS[place(at)], random))
    }

    fn of(roll: u64, random: &mut Random) -> Self {
        let node = random.within(0..3) as At;
        let other = random.percent(50).then(|| (node + random.within(1..3) as At) % 3);
        let time = some_ms(random, 12_000);
        let down = some_ms(random, 8_000);
        match roll {
            0..10 => Self::Crash { node, told: random.percent(50), down },
            10..20 => Self::CrashAtSync { node, syncs: random.within(0..5), down },
            20..23 => Self::PowerCut { down: [(); 3].map(|()| some_ms(random, 4_000)) },
            23..28 => {
                let down = [(); 3].map(|()| some_ms(random, 4_000));
                Self::PowerCutAtSync { syncs: random.within(0..3), down }
            }
            28..32 => Self::Restart { node, drain: some_ms(random, 10_000) },
            32..42 => Self::Partition { node, other, time },
            42..52 => Self::OneWay { node, other, back: random.percent(50), time },
            52..57 => {
                let (there, back) = *random.pick(&[(true, true), (true, false), (false, true)]);
                Self::ClientsCutOff { node, there, back, time }
            }
            57..64 => {
                let most = *random.pick(&[5, 30, 200]);
                let least = random.within(0..most);
                Self::Delays { ms: (least, random.within(least..most + 1)), time }
            }
            64..68 => Self::Cut { node },
            68..71 => Self::LostAnswers { node, syncs: random.within(0..5) },
            71..79 => Self::Bucket { weather: Weather::Stormy(random.within(2..12)), time },
            79..83 => {
                let weather = *random.pick(&[Weather::Denied, Weather::Throttling, Weather::Away]);
                // Half a minute, now and then.
                let time = if random.percent(25) { some_ms(random, 30_000) } else { time };
                Self::Bucket { weather, time }
            }
            83..88 => Self::DiskFull { node, time: some_ms(random, 6_000) },
            88..91 => {
                let op = failing_op(random);
                Self::DiskError { node, op, after: random.within(0..20), down }
            }
            91..96 => Self::SlowDisk { node, us: random.within(5_000..150_000), time },
            96..101 => {
                let most = *random.pick(&[100_000, 20_000_000, YEAR_US.unsigned_abs()]);
                let us = i64::try_from(random.within(1..most)).unwrap_or(i64::MAX);
                Self::Clock { node, us: if random.percent(50) { us } else { -us } }
            }
            101..105 => Self::LostDisk { node, down: some_ms(random, 3_000) },
            105..113 => Self::Transfer { shard: random.within(0..3) as u32, node },
            113..116 => Self::Drained { node, time },
            116..120 => Self::DamagedDisk { node, down: some_ms(random, 3_000) },
            120..124 => {
                let removed = some_ms(random, 6_000);
                Self::ReplacedNode { node, down: some_ms(random, 3_000), removed }
            }
            _ => {
                let other = (node + random.within(1..3) as At) % 3;
                let us = if random.percent(50) { YEAR_US } else { -YEAR_US };
                let starts_anew = random.percent(70);
                let least = if starts_anew { 10_000 } else { 40_000 };
                let down = Duration::from_millis(random.within(least..least + 10_000));
                Self::LoneClock { node, other, us, down, starts_anew }
            }
        }
    }
}

fn some_ms(random: &mut Random, most: u64) -> Duration {
    Duration::from_millis(random.within(50..most))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_is_drawn_sooner_or_later_and_has_a_name() {
        let mut random = Random::new(1);
        let drawn: BTreeSet<_> = (0..3_000).map(|_| Fault::draw(&mut random).name()).collect();
        assert_eq!(drawn, BTreeSet::from(CLUSTER_FAULTS));
        let first = (1..5).flat_map(|seed| Fault::first(seed, &mut random)).map(|f| f.name());
        assert_eq!(first.collect::<BTreeSet<_>>(), BTreeSet::from(CLUSTER_FAULTS), "four see all");
    }
}
