//! A crash at every point of one short life of a node, one by one: after each change of its disk,
//! before and after each request to its bucket. Where it is cut short does not matter: what was acked is
//! there once, and the life can be led again, to its end (PS-1, PS-2, PS-5, PQ-1, I1 to I7, I9, I10). And
//! a second crash, at points of the life that goes on after a first one.

use railgun_testkit::sim::script::{self, Led, SEALED, Shown};
use railgun_testkit::sim::{BrokerBug, Bug, CrashPlan, LogBug, Point};

use crate::seeds::number;

/// Lines of a trace that tell how it came to a failure.
const LAST_LINES: usize = 60;

/// The life that nothing cuts short.
fn whole() -> Led {
    let mut shown = script::run(&[], None);
    assert!(shown.violations.is_empty(), "{:#?}", shown.violations);
    shown.lives.remove(0)
}

/// Before the first change of the disk, and after each of so many.
fn at_the_disk(changes: u64) -> impl DoubleEndedIterator<Item = Point> {
    (0..=changes).map(Point::Disk)
}

/// Before and after each of so many requests to the bucket.
fn at_the_bucket(requests: u64) -> impl Iterator<Item = Point> {
    (0..requests).flat_map(|number| [Point::BucketBefore(number), Point::BucketAfter(number)])
}

/// The point for people.
fn place(life: &Led, point: Point) -> String {
    let of = |all: &[String], at: u64| {
        let what = all.get(at as usize).map_or("", String::as_str);
        format!("{} of {} ({what})", at + 1, all.len())
    };
    match point {
        Point::Disk(0) => "before the disk was changed".to_owned(),
        Point::Disk(changes) => format!("after change {}", of(&life.changes, changes - 1)),
        Point::BucketBefore(number) => format!("before request {}", of(&life.requests, number)),
        Point::BucketAfter(number) => format!("after request {}", of(&life.requests, number)),
    }
}

/// A life that is known to its end, where it is cut short, and what the disk keeps.
type Cut<'a> = (&'a Led, Point, CrashPlan);

/// What has failed, for people.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    /// Leads lives up to points, and on. Each is the same up to its point as the one that it came from.
    fn hold(&mut self, cuts: &[Cut<'_>]) -> Shown {
        let points: Vec<_> = cuts.iter().map(|(_, point, plan)| (*point, plan.clone())).collect();
        let shown = script::run(&points, None);
        let at = |(life, point, plan): &Cut<'_>| format!("{}, {plan:?}", place(life, *point));
        let place = cuts.iter().map(at).collect::<Vec<_>>().join("; then ");
        if shown.violations.is_empty() {
            assert_eq!(shown.lives.len(), cuts.len() + 1, "{place}");
        } else {
            let lines = shown.trace.len().saturating_sub(LAST_LINES);
            let tail = shown.trace[lines..].join("\n");
            self.0.push(format!("{place}: {:#?}\nlast events:\n{tail}", shown.violations));
        }
        for ((known, point, _), led) in cuts.iter().zip(&shown.lives) {
            assert!(led.reached, "not reached: {place}");
            let (done, told, what) = match *point {
                Point::Disk(changes) => (changes, [&known.changes, &led.changes], "changes"),
                Point::BucketBefore(number) | Point::BucketAfter(number) => {
                    (number, [&known.requests, &led.requests], "requests")
                }
            };
            let [known, this] = told.map(|all| &all[..done as usize]);
            assert_eq!(known, this, "other {what}: {place}");
        }
        shown
    }

    fn judge(&self) {
        if let Some(first) = self.0.first() {
            panic!("{} points do not hold; the first: {first}", self.0.len());
        }
    }
}

/// Leads the life up to each point, and on.
fn hold(whole: &Led, points: impl Iterator<Item = Point>, plan: impl Fn(u64) -> CrashPlan) {
    let mut failures = Failures::default();
    for (number, point) in (0..).zip(points) {
        failures.hold(&[(whole, point, plan(number))]);
    }
    failures.judge();
}

/// What the points are between: a life without a checkpoint has no point around one.
#[test]
fn the_life_has_all_that_a_crash_may_come_between() {
    let shown = script::run(&[], None);
    assert!(shown.violations.is_empty(), "{:#?}", shown.violations);
    let Led { changes, requests, counts, purged, .. } = &shown.lives[0];
    println!("{} changes:\n{}", changes.len(), changes.join("\n"));
    println!("{} requests:\n{}", requests.len(), requests.join("\n"));
    println!("{counts:?}\n{purged:?}");
    assert!(changes.len() > 100, "{changes:#?}");
    assert!(requests.len() > 20, "{requests:#?}");
    let disk = |what: &str, whose: &str| {
        changes.iter().any(|change| change.starts_with(what) && change.contains(whose))
    };
    for shard in ["shards/0/", "shards/1/"] {
        assert!(disk("rename to", &format!("{shard}checkpoints/i")), "{shard}: {changes:#?}");
        let promoted = changes.iter().any(|c| c.contains(shard) && c.ends_with(".snap"));
        assert!(promoted, "{shard}: {changes:#?}");
    }
    assert!(counts.checkpoints > 3 && counts.promotions > 2, "{counts:?}");
    assert!(counts.retired > 1, "{counts:?}");
    assert_eq!(purged.len(), 2, "both logs give entries up: {purged:?}");
    let bucket = |what: &str, key: &str| {
        requests.iter().filter(|asked| asked.starts_with(what) && asked.contains(key)).count()
    };
    for key in ["/data/stream=", "/data/bundle/", "/manifest/"] {
        assert!(bucket("Put", key) > 0 && bucket("Head", key) > 0, "{key}: {requests:#?}");
    }
    assert!(bucket("Put", "/manifest/") > 1, "{requests:#?}");
    let hot = counts.read_hot + counts.read_ring;
    assert!(
        counts.read_cold > 0 && hot > 0,
        "the followers come from one tier to the next: {counts:?}"
    );
}

#[test]
fn a_power_failure_after_any_change_of_the_disk() {
    let whole = whole();
    hold(&whole, at_the_disk(whole.changes.len() as u64), |_| CrashPlan::LoseAll);
}

#[test]
fn a_power_failure_after_any_change_that_keeps_some_of_what_was_not_synced() {
    let whole = whole();
    hold(&whole, at_the_disk(whole.changes.len() as u64), CrashPlan::Seeded);
}

#[test]
fn the_end_of_the_process_after_any_change_of_the_disk() {
    let whole = whole();
    hold(&whole, at_the_disk(whole.changes.len() as u64), |_| CrashPlan::ProcessOnly);
}

#[test]
fn a_power_failure_at_any_request_to_the_bucket() {
    let whole = whole();
    hold(&whole, at_the_bucket(whole.requests.len() as u64), |_| CrashPlan::LoseAll);
}

#[test]
fn the_end_of_the_process_at_any_request_to_the_bucket() {
    let whole = whole();
    hold(&whole, at_the_bucket(whole.requests.len() as u64), |_| CrashPlan::ProcessOnly);
}

/// Where a second crash is worth its time: what a start finds half done there, it goes on with.
fn half_done(whole: &Led) -> [Point; 7] {
    let change = |what: &str| {
        let at = whole.changes.iter().position(|change| change.starts_with(what));
        Point::Disk(at.unwrap_or_else(|| panic!("no change: {what}")) as u64 + 1)
    };
    let put = |key: &str| {
        let is_it = |asked: &String| asked.starts_with("Put ") && asked.contains(key);
        let at = whole.requests.iter().position(is_it);
        at.unwrap_or_else(|| panic!("no object: {key}")) as u64
    };
    let written_after = |event: &str| {
        let (changes, _) = whole.before(event).unwrap_or_else(|| panic!("no event: {event}"));
        Point::Disk(changes + 1)
    };
    [
        // A seal is in the log, and nothing in the bucket.
        Point::BucketBefore(put("/data/")),
        // The object is there, and not committed.
        Point::BucketAfter(put("/data/")),
        // All is committed, and no manifest tells of it.
        Point::BucketBefore(put("/manifest/")),
        // A checkpoint has its name, and is not promoted.
        change("rename to shards/1/checkpoints/i"),
        // A log file is given up, and others are to follow.
        change("rename to shards/1/log/spare"),
        // That a producer is to be forgotten, or a stream deleted, is written, and not synced.
        written_after("the producer leaves"),
        written_after("the second stream is deleted"),
    ]
}

/// One in so many points of a second life is tried with each pair of crashes, unless the environment says
/// otherwise. Each pair begins at another one: with all three, three in eight are tried, each with one of
/// them, and every run tries the same.
const STEP: usize = 8;

/// A crash, and another one while the node starts again and takes up what is half done.
#[test]
fn a_second_crash_while_a_node_takes_up_its_work() {
    let whole = whole();
    let step = number("RAILGUN_SIM_STEP").map_or(STEP, |step| step as usize);
    let (mut failures, mut turns) = (Failures::default(), 0..);
    for first in half_done(&whole) {
        let pairs = [
            [CrashPlan::LoseAll, CrashPlan::LoseAll],
            [CrashPlan::Seeded(1), CrashPlan::Seeded(2)],
            // What is only in the cache of a machine that goes on is lost when that stops.
            [CrashPlan::ProcessOnly, CrashPlan::LoseAll],
        ];
        for ([plan, then], turn) in pairs.into_iter().zip(&mut turns) {
            let once = failures.hold(&[(&whole, first, plan.clone())]);
            let Some(second) = once.lives.get(1) else { continue };
            let Some((changes, requests)) = second.before(SEALED) else { continue };
            let points = at_the_disk(changes).chain(at_the_bucket(requests));
            for point in points.skip(turn % step).step_by(step) {
                let first = (&whole, first, plan.clone());
                failures.hold(&[first, (second, point, then.clone())]);
            }
        }
    }
    failures.judge();
}

/// Leads a life with a bug up to each point, and on, until it shows: by the rule that it is against.
fn is_found(bug: Bug, points: impl Iterator<Item = Point>, rule: &str) {
    for point in points {
        let shown = script::run(&[(point, CrashPlan::LoseAll)], Some(bug));
        if let Some(first) = shown.violations.first() {
            println!("{point:?} finds {bug:?}: {first}");
            let broken = first.split(':').next();
            assert_eq!(broken, Some(rule), "{bug:?} at {point:?}: {:#?}", shown.violations);
            return;
        }
    }
    panic!("{bug:?} is not found at any point");
}

#[test]
fn the_points_find_bugs() {
    let whole = whole();
    let is_written = |point: &Point| match *point {
        Point::Disk(changes @ 1..) => {
            whole.changes[changes as usize - 1].starts_with("write shards/1/log/")
        }
        _ => false,
    };
    is_found(
        Bug::Log(LogBug::CallbackBeforeSync),
        at_the_disk(whole.changes.len() as u64).filter(is_written),
        "PS-1",
    );
    // The followers take what comes, so it is the history that finds it.
    let gap = Bug::Broker(BrokerBug::GapBetweenTiers);
    is_found(gap, [Point::Disk(whole.changes.len() as u64)].into_iter(), "I7");
    is_found(Bug::Overwrite, at_the_bucket(whole.requests.len() as u64), "I4");
    is_found(
        Bug::Broker(BrokerBug::RepeatsAreNew),
        at_the_disk(whole.changes.len() as u64).rev(),
        "PQ-1",
    );
}
