//! A crash at every point of one short life of a node, one by one: after each change of its disk,
//! before and after each request to its bucket. Where it is cut short does not matter: what was acked is
//! there once, and the life can be led again, to its end (PS-1, PS-2, PQ-1, I1 to I7, I9, I10).

use railgun_testkit::sim::script::{self, Shown};
use railgun_testkit::sim::{Bug, CrashPlan, Point};

/// Lines of a trace that tell how it came to a failure.
const LAST_LINES: usize = 60;

/// The life that nothing cuts short.
fn whole() -> Shown {
    script::run(None, &CrashPlan::LoseAll, None)
}

/// After each change of the disk, and before the first.
fn at_the_disk(whole: &Shown) -> impl DoubleEndedIterator<Item = Point> {
    (0..=whole.changes.len() as u64).map(Point::Disk)
}

/// Before and after each request to the bucket.
fn at_the_bucket(whole: &Shown) -> impl Iterator<Item = Point> {
    let requests = 0..whole.requests.len() as u64;
    requests.flat_map(|number| [Point::BucketBefore(number), Point::BucketAfter(number)])
}

/// The point for people.
fn place(whole: &Shown, point: Point) -> String {
    let of = |all: &[String], at: u64| {
        let what = all.get(at as usize).map_or("", String::as_str);
        format!("{} of {} ({what})", at + 1, all.len())
    };
    match point {
        Point::Disk(0) => "before the disk was changed".to_owned(),
        Point::Disk(changes) => format!("after change {}", of(&whole.changes, changes - 1)),
        Point::BucketBefore(number) => format!("before request {}", of(&whole.requests, number)),
        Point::BucketAfter(number) => format!("after request {}", of(&whole.requests, number)),
    }
}

/// Leads the life up to each point, and on. Every run is the same life up to there.
fn hold(whole: &Shown, points: impl Iterator<Item = Point>, plan: impl Fn(u64) -> CrashPlan) {
    let mut failures = Vec::new();
    for (number, point) in (0..).zip(points) {
        let plan = plan(number);
        let shown = script::run(Some(point), &plan, None);
        let place = format!("{}, {plan:?}", place(whole, point));
        assert!(shown.reached, "not reached: {place}");
        let (done, told, what) = match point {
            Point::Disk(changes) => (changes, [&whole.changes, &shown.changes], "changes"),
            Point::BucketBefore(number) | Point::BucketAfter(number) => {
                (number, [&whole.requests, &shown.requests], "requests")
            }
        };
        let [of_whole, of_this] = told.map(|all| &all[..done as usize]);
        assert_eq!(of_whole, of_this, "other {what}: {place}");
        if !shown.violations.is_empty() {
            let lines = shown.trace.len().saturating_sub(LAST_LINES);
            let tail = shown.trace[lines..].join("\n");
            failures.push(format!("{place}: {:#?}\nlast events:\n{tail}", shown.violations));
        }
    }
    if let Some(first) = failures.first() {
        panic!("{} points do not hold; the first: {first}", failures.len());
    }
}

/// What the points are between: a life without a checkpoint has no point around one.
#[test]
fn the_life_has_all_that_a_crash_may_come_between() {
    let whole = whole();
    assert!(whole.violations.is_empty(), "{:#?}", whole.violations);
    let Shown { changes, requests, counts, counts_of_all, purged, .. } = &whole;
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
    let read = counts_of_all;
    assert!(read.read_cold > 0 && read.read_hot + read.read_ring > 0, "{read:?}");
}

#[test]
fn a_power_failure_after_any_change_of_the_disk() {
    let whole = whole();
    hold(&whole, at_the_disk(&whole), |_| CrashPlan::LoseAll);
}

#[test]
fn a_power_failure_after_any_change_that_keeps_some_of_what_was_not_synced() {
    let whole = whole();
    hold(&whole, at_the_disk(&whole), CrashPlan::Seeded);
}

#[test]
fn the_end_of_the_process_after_any_change_of_the_disk() {
    let whole = whole();
    hold(&whole, at_the_disk(&whole), |_| CrashPlan::ProcessOnly);
}

#[test]
fn a_power_failure_at_any_request_to_the_bucket() {
    let whole = whole();
    hold(&whole, at_the_bucket(&whole), |_| CrashPlan::LoseAll);
}

#[test]
fn the_end_of_the_process_at_any_request_to_the_bucket() {
    let whole = whole();
    hold(&whole, at_the_bucket(&whole), |_| CrashPlan::ProcessOnly);
}

/// Leads a life with a bug up to each point, and on, until it shows: by the rule that it is against.
fn is_found(bug: Bug, points: impl Iterator<Item = Point>, rule: &str) {
    for point in points {
        let shown = script::run(Some(point), &CrashPlan::LoseAll, Some(bug));
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
    is_found(Bug::AckBeforeFsync, at_the_disk(&whole).filter(is_written), "PS-1");
    is_found(Bug::Overwrite, at_the_bucket(&whole), "I4");
    is_found(Bug::RepeatsAreNew, at_the_disk(&whole).rev(), "PQ-1");
}
