//! The schedules: what happens in the world, drawn by seeds.

use std::collections::BTreeMap;

use super::world::World;
use super::*;

/// Steps in which anything may happen, before all goes well.
const STEPS: u64 = 100;

/// One of what `consumer` has, or has had, to say something about.
fn any_settles(world: &mut World, at: usize) -> Vec<Settle> {
    let mut settles = Vec::new();
    for _ in 0..1 + world.dice.below(3) {
        let consumer = &world.consumers[at];
        if world.dice.one_in(6) && !consumer.said.is_empty() {
            // Once more, by the same tag.
            let said = world.dice.below(consumer.said.len() as u64) as usize;
            settles.push(world.consumers[at].said[said].clone());
            continue;
        }
        if consumer.has.is_empty() {
            continue;
        }
        let nth = world.dice.below(consumer.has.len() as u64) as usize;
        let (&first, &tag) = consumer.has.iter().nth(nth).expect("it is there");
        let mut range = OffsetRange::single(first);
        while world.dice.below(4) > 0
            && world.consumers[at].has.get(&range.end).is_some_and(|it| it.lease == tag.lease)
        {
            range.end = range.end.plus(1);
        }
        let kind = match world.dice.below(12) {
            0..5 => SettleKind::Ack,
            5 | 6 => {
                let delay_ms = [None, Some(0), Some(300)][world.dice.below(3) as usize];
                SettleKind::Nack { delay_ms, error: Some("no".into()) }
            }
            7 => SettleKind::Reject { error: None },
            8 => SettleKind::Extend,
            _ => SettleKind::Begin,
        };
        for offset in range.iter() {
            let has = &mut world.consumers[at].has;
            match kind {
                SettleKind::Begin | SettleKind::Extend => {
                    has.entry(offset).and_modify(|tag| tag.begun = true);
                }
                _ => drop(has.remove(&offset)),
            }
        }
        let settle = Settle { lease: tag.lease, epoch: tag.epoch, range, kind };
        let said = &mut world.consumers[at].said;
        said.push_back(settle.clone());
        if said.len() > 12 {
            said.pop_front();
        }
        settles.push(settle);
    }
    settles
}

fn step(world: &mut World) {
    let at = world.dice.below(4) as usize;
    match world.dice.below(46) {
        0..4 => {
            let credit = world.dice.below(12);
            world.join(at, credit);
        }
        4..7 => {
            let count = 1 + world.dice.below(12);
            world.publish(count);
        }
        7..20 => {
            let settles = any_settles(world, at);
            world.settle(at, settles);
        }
        20..27 => world.propose(),
        27..33 => world.commit(),
        33 | 34 => {
            let us = [1_000, 300_000, 1_000_000, 20_000_000][world.dice.below(4) as usize];
            let us = if world.dice.one_in(8) { UNBEGUN_US_MAX } else { us };
            world.advance(us);
        }
        35 => match world.dice.below(4) {
            0 | 1 => world.leave(at, Left::Lost),
            2 => world.leave(at, Left::Drained),
            _ => world.drain(at),
        },
        36 => world.bury(),
        37 => {
            if world.dice.one_in(3) {
                world.change_leader();
            }
        }
        38..41 => operate(world),
        41 | 42 => {
            // Whoever fetches once gets nothing else any more: most of them are to go on.
            let messages = world.dice.below(6);
            let bytes = world.dice.below(300);
            let waits = !world.dice.one_in(3);
            if world.consumers[at].fetch.is_some() || world.dice.one_in(3) {
                world.fetch(at, messages, bytes, waits);
            }
        }
        43 | 44 => world.give_room(),
        _ => {
            let to = world.consumers[at].id.filter(|_| world.dice.one_in(2));
            world.input(|dispatcher, now, out| {
                // Refused, it changes nothing.
                dispatcher.on_hand_over(now, to, out).ok();
            });
        }
    }
}

fn operate(world: &mut World) {
    if world.dice.one_in(6) {
        let spec = &mut world.replica.spec;
        spec.max_in_flight = 3 + world.dice.below(20) as u32;
        spec.max_unsettled = 5 + world.dice.below(30) as u32;
        spec.window = 10 + world.dice.below(40);
        let spec = spec.clone();
        return world.input(|dispatcher, now, out| dispatcher.on_spec(now, spec, out));
    }
    let next = world.replica.tail.0 + 1;
    let offset = Offset(world.dice.below(next));
    let change = match world.dice.below(20) {
        0 => GroupChange::Pause,
        1..4 => GroupChange::Resume,
        4 => GroupChange::Reset { to: offset, force: true },
        5..12 => GroupChange::Redrive { offsets: vec![] },
        12..17 => {
            GroupChange::Redrive { offsets: vec![OffsetRange::new(Offset(0), offset.plus(1))] }
        }
        17 => GroupChange::Discard { offsets: vec![OffsetRange::new(Offset(0), offset.plus(1))] },
        _ => GroupChange::Removed { upto: offset },
    };
    world.apply(0, vec![change]);
}

/// From here on all goes well: whoever is there acks what it gets. G-2, X-5: everything ends acked or dead.
fn finish(world: &mut World) {
    world.is_scarce = false;
    world.give_room();
    world.apply(0, vec![GroupChange::Resume]);
    for at in 0..4 {
        let consumer = &world.consumers[at];
        if consumer.is_draining || consumer.credit == 0 || consumer.fetch.is_some() {
            world.leave(at, Left::Drained);
        }
    }
    world.join(0, 10);
    world.join(1, 10);
    for round in 0.. {
        assert!(round < 400, "it does not come to an end: {:?}", world.dispatcher);
        for at in 0..4 {
            let has = std::mem::take(&mut world.consumers[at].has);
            let settles = has.into_iter().map(|(offset, tag)| Settle {
                lease: tag.lease,
                epoch: tag.epoch,
                range: OffsetRange::single(offset),
                kind: SettleKind::Ack,
            });
            let settles: Vec<_> = settles.collect();
            if !settles.is_empty() {
                world.settle(at, settles);
            }
        }
        while !world.letters.is_empty() {
            world.bury();
        }
        world.propose();
        world.commit();
        world.advance(100_000);
        if world.replica.state.paused().is_some() {
            world.apply(0, vec![GroupChange::Resume]);
        }
        if world.replica.state.unsettled_held().parked > 0 {
            // They count for the group's bound until somebody looks at them.
            let offsets = vec![OffsetRange::new(Offset(0), world.replica.tail)];
            world.apply(0, vec![GroupChange::Discard { offsets }]);
        }
        let is_over = world.replica.state.lag(world.replica.tail) == 0;
        if is_over && world.is_idle() {
            break;
        }
        if round > 200 {
            // What nobody settles any more comes back only then.
            world.advance(UNBEGUN_US_MAX);
        }
    }
    world.propose();
    world.commit();
    for consumer in world.consumers.iter().filter(|it| it.id.is_some()) {
        assert_eq!(consumer.answered, consumer.asked, "everything is answered");
    }
}

fn run(seed: u64, mode: GroupMode) -> BTreeMap<&'static str, u64> {
    let play = |world: &mut World| {
        let steps = || {
            (0..STEPS).for_each(|_| step(world));
            finish(world);
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(steps))
    };
    let mut world = World::new(seed, mode, false);
    if let Err(panic) = play(&mut world) {
        let mut again = World::new(seed, mode, true);
        let _ = play(&mut again);
        let from = again.trace.len().saturating_sub(60);
        let (spec, trace) = (&again.replica.spec, again.trace[from..].join("\n"));
        eprintln!("seed {seed} {mode:?} {spec:?}\n{trace}");
        std::panic::resume_unwind(panic);
    }
    world.seen
}

/// Runs schedules of 5,000 seeds, in which all of this must happen, and not just once.
fn run_all(mode: GroupMode, happen: &[&str]) {
    let mut seen = BTreeMap::new();
    for seed in 0..5_000 {
        for (what, count) in run(seed, mode) {
            *seen.entry(what).or_insert(0) += count;
        }
    }
    for what in happen {
        let count = seen.get(what).copied().unwrap_or(0);
        assert!(count >= 10, "{what} happened {count} times: {seen:?}");
    }
}

const IN_ANY_GROUP: [&str; 22] = [
    "cut off",
    "delivered",
    "tried again",
    "redriven",
    "leased again",
    "expired",
    "acked late",
    "failed late",
    "superseded",
    "already settled",
    "dying",
    "drained",
    "stalled",
    "resumed",
    "paused",
    "unpaused",
    "skipped",
    "fetched",
    "fetch is full",
    "fetch is over",
    "reset",
    "reset in flight",
];

#[test]
fn a_balanced_group_keeps_its_rules_whatever_happens() {
    // G-1, G-2, G-3, G-5, G-6, G-7, G-9, G-10, G-12, G-13, G-14
    run_all(GroupMode::Balanced, &[&IN_ANY_GROUP[..], &["went on"]].concat());
}

#[test]
fn an_exclusive_group_keeps_its_rules_whatever_happens() {
    //
    let happen = ["rewound", "active", "inactive", "fenced", "paused by a delay"];
    run_all(GroupMode::Exclusive, &[&IN_ANY_GROUP[..], &happen].concat());
}
