//! What goes wrong in a cluster, and for how long.

use std::time::Duration;

use super::super::bucket::Weather;
use super::super::faults::failing_op;
use super::super::random::Random;

/// What everything that strikes a cluster is counted under.
pub const CLUSTER_FAULTS: [&str; KINDS.len()] = names();

const fn names() -> [&'static str; KINDS.len()] {
    let (mut names, mut at) = ([""; KINDS.len()], 0);
    while at < names.len() {
        names[at] = KINDS[at].1;
        at += 1;
    }
    names
}

/// What an operator does.
pub(super) const TRANSFER: &str = "transfer";
pub(super) const DRAINED: &str = "drained node";
const NO_BUCKET: &str = "no bucket";

/// How likely each is, what it is counted under, and what it is.
type Kind = (u64, &'static str, fn(Dice<'_>) -> Fault);

const KINDS: [Kind; 28] = [
    (10, "crash", |dice| Fault::Crash {
        node: dice.node,
        told: dice.random.percent(50),
        down: dice.down,
    }),
    (10, "crash before a sync", |dice| Fault::CrashAtSync {
        node: dice.node,
        syncs: dice.random.within(0..5),
        down: dice.down,
    }),
    (3, "power cut of all", |mut dice| Fault::PowerCut { down: dice.each_down(), clock: None }),
    (3, "power cut that sets a clock", |mut dice| Fault::PowerCut {
        down: dice.each_down(),
        clock: Some((dice.node, a_year(dice.random))),
    }),
    (5, "power cut of all before a sync", |mut dice| Fault::PowerCutAtSync {
        syncs: dice.random.within(0..3),
        down: dice.each_down(),
    }),
    (4, "restart", |dice| Fault::Restart { node: dice.node, drain: some_ms(dice.random, 10_000) }),
    (10, "partition", |mut dice| Fault::Partition {
        node: dice.node,
        other: dice.other(),
        time: dice.time,
    }),
    (10, "one-way partition", |mut dice| Fault::OneWay {
        node: dice.node,
        other: dice.other(),
        back: dice.random.percent(50),
        time: dice.time,
    }),
    (5, "clients cut off", |dice| {
        let (there, back) = *dice.random.pick(&[(true, true), (true, false), (false, true)]);
        Fault::ClientsCutOff { node: dice.node, there, back, time: dice.time }
    }),
    (7, "delays", |dice| {
        let most = *dice.random.pick(&[5, 30, 200]);
        let least = dice.random.within(0..most);
        Fault::Delays { ms: (least, dice.random.within(least..most + 1)), time: dice.time }
    }),
    (3, "cut connections", |dice| Fault::Cut { node: dice.node, other: None }),
    (4, "cut connections between nodes", |mut dice| Fault::Cut {
        node: dice.node,
        other: Some(dice.another()),
    }),
    (2, "lost answers", |dice| Fault::LostAnswers {
        node: dice.node,
        syncs: dice.random.within(0..5),
        to_nodes: false,
    }),
    (2, "lost answers to nodes", |dice| Fault::LostAnswers {
        node: dice.node,
        syncs: dice.random.within(0..5),
        to_nodes: true,
    }),
    (8, "stormy bucket", |dice| {
        let weather = Weather::Stormy(dice.random.within(2..12));
        Fault::Bucket { weather, time: dice.time }
    }),
    (4, "slow bucket", |dice| {
        let weather = Weather::Slow(*dice.random.pick(&[500, 5_000, 20_000]));
        Fault::Bucket { weather, time: some_ms(dice.random, 30_000) }
    }),
    (4, NO_BUCKET, |dice| {
        let weather = *dice.random.pick(&[Weather::Denied, Weather::Throttling, Weather::Away]);
        // Half a minute, now and then.
        let long = dice.random.percent(25);
        Fault::Bucket { weather, time: if long { some_ms(dice.random, 30_000) } else { dice.time } }
    }),
    (5, "full disk", |dice| Fault::DiskFull { node: dice.node, time: some_ms(dice.random, 6_000) }),
    (3, "disk error", |dice| Fault::DiskError {
        node: dice.node,
        op: failing_op(dice.random),
        after: dice.random.within(0..20),
        down: dice.down,
    }),
    (5, "slow disk", |dice| Fault::SlowDisk {
        node: dice.node,
        us: dice.random.within(5_000..150_000),
        time: dice.time,
    }),
    (5, "clock jump", |dice| {
        let most = *dice.random.pick(&[100_000, 20_000_000, YEAR_US.unsigned_abs()]);
        let us = i64::try_from(dice.random.within(1..most)).unwrap_or(i64::MAX);
        Fault::Clock { node: dice.node, us: if dice.random.percent(50) { us } else { -us } }
    }),
    (5, "clock jump while one is away", |mut dice| {
        let us = a_year(dice.random);
        let starts_anew = dice.random.percent(70);
        let least = if starts_anew { 10_000 } else { 40_000 };
        let down = Duration::from_millis(dice.random.within(least..least + 10_000));
        Fault::LoneClock { node: dice.node, other: dice.another(), us, down, starts_anew }
    }),
    (4, "lost disk", |dice| Fault::LostDisk { node: dice.node, down: some_ms(dice.random, 3_000) }),
    (8, TRANSFER, |dice| Fault::Transfer {
        shard: dice.random.within(0..3) as u32,
        node: dice.node,
    }),
    (3, DRAINED, |dice| Fault::Drained { node: dice.node, time: dice.time }),
    (4, "damaged disk", |dice| Fault::DamagedDisk {
        node: dice.node,
        down: some_ms(dice.random, 3_000),
    }),
    (4, "replaced node", |dice| {
        let removed = some_ms(dice.random, 6_000);
        Fault::ReplacedNode { node: dice.node, down: some_ms(dice.random, 3_000), removed }
    }),
    (4, "flipped bit", |dice| Fault::FlippedBit {
        node: dice.node,
        down: some_ms(dice.random, 3_000),
    }),
];

/// Whom it strikes, and for how long.
struct Dice<'r> {
    node: At,
    time: Duration,
    down: Duration,
    random: &'r mut Random,
}

impl Dice<'_> {
    fn another(&mut self) -> At {
        (self.node + self.random.within(1..3) as At) % 3
    }

    /// One other node, or all others.
    fn other(&mut self) -> Option<At> {
        self.random.percent(50).then(|| self.another())
    }

    fn each_down(&mut self) -> [Duration; 3] {
        [(); 3].map(|()| some_ms(self.random, 4_000))
    }
}

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
    /// All machines lose power, and come back one after the other, with a clock that is this much off, in µs,
    /// where one has lost the time.
    PowerCut { down: [Duration; 3], clock: Option<(At, i64)> },
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
    /// Every connection of clients to a node breaks, or every one between it and another node: nothing is
    /// blocked, and both sides learn it at once.
    Cut { node: At, other: Option<At> },
    /// Those of clients break when a batch is durable and its answers are not sent, after so many that
    /// were; or those of other nodes, too.
    LostAnswers { node: At, syncs: u64, to_nodes: bool },
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
    /// A bit flips in a file of a shard while the node runs, on the same condition. It is down for so long if
    /// it ends itself.
    FlippedBit { node: At, down: Duration },
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
    /// The bucket away for so long that everything which waits for it is full, or given up.
    pub(super) fn outage(random: &mut Random) -> (&'static str, Self) {
        let weather = *random.pick(&[Weather::Denied, Weather::Throttling, Weather::Away]);
        let time = Duration::from_millis(random.within(130_000..180_000));
        (NO_BUCKET, Self::Bucket { weather, time })
    }

    /// Whether it may strike while the bucket is away for minutes: those for which everything must be well
    /// before end that.
    pub(super) fn is_mild(&self) -> bool {
        !matches!(
            self,
            Self::LostDisk { .. }
                | Self::DamagedDisk { .. }
                | Self::FlippedBit { .. }
                | Self::ReplacedNode { .. }
                | Self::Bucket { .. }
        )
    }

    /// What befalls the cluster, and under which it is counted.
    pub(super) fn draw(random: &mut Random) -> (&'static str, Self) {
        let mut roll = random.below(KINDS.iter().map(|(weight, ..)| weight).sum());
        let struck = KINDS.iter().find(|(weight, ..)| {
            let is_it = roll < *weight;
            roll = roll.saturating_sub(*weight);
            is_it
        });
        Self::of(struck.expect("the dice show one of the kinds"), random)
    }

    /// The first ones of a run, so that a few runs with consecutive seeds see everything.
    pub(super) fn first(seed: u64, random: &mut Random) -> [(&'static str, Self); 7] {
        let place = |at: u64| (seed.wrapping_mul(7).wrapping_add(at) % KINDS.len() as u64) as usize;
        [0, 1, 2, 3, 4, 5, 6].map(|at| Self::of(&KINDS[place(at)], random))
    }

    fn of((_, name, make): &Kind, random: &mut Random) -> (&'static str, Self) {
        let node = random.within(0..3) as At;
        let (time, down) = (some_ms(random, 12_000), some_ms(random, 8_000));
        (name, make(Dice { node, time, down, random }))
    }
}

/// As much as a clock is off that has lost its time, in µs: ahead or behind.
fn a_year(random: &mut Random) -> i64 {
    if random.percent(50) { YEAR_US } else { -YEAR_US }
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
        let drawn: BTreeSet<_> = (0..3_000).map(|_| Fault::draw(&mut random).0).collect();
        assert_eq!(drawn, BTreeSet::from(CLUSTER_FAULTS));
        let first = (1..5).flat_map(|seed| Fault::first(seed, &mut random)).map(|drawn| drawn.0);
        assert_eq!(first.collect::<BTreeSet<_>>(), BTreeSet::from(CLUSTER_FAULTS), "four see all");
    }
}
