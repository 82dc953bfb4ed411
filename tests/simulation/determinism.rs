//! The same seed gives the same run, event by event; another seed another one.

use std::collections::BTreeSet;
use std::time::Duration;

use railgun_testkit::sim::{self, Options, Report};

/// Runs each seed twice.
fn check<const N: usize>(seeds: [u64; N], run: impl Fn(u64) -> Report) {
    let mut hashes = BTreeSet::new();
    for seed in seeds {
        let [first, second] = [(); 2].map(|()| run(seed));
        let differs = first.trace.iter().zip(&second.trace).position(|(one, two)| one != two);
        if let Some(at) = differs {
            let around = at.saturating_sub(5)..(at + 3);
            panic!(
                "seed {seed} differs from event {at} on:\n{}\n--\n{}",
                first.trace[around.start..around.end.min(first.trace.len())].join("\n"),
                second.trace[around.start..around.end.min(second.trace.len())].join("\n"),
            );
        }
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        hashes.insert(first.trace_hash);
    }
    assert_eq!(hashes.len(), seeds.len(), "two seeds give the same trace");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let options = Options { duration: Duration::from_secs(15), ..Options::default() };
    check([3, 5, 8], |seed| sim::run(seed, &options));
}

#[test]
fn the_same_seed_gives_the_same_trace_of_a_cluster() {
    let options = Options { duration: Duration::from_secs(8), ..Options::default() };
    check([2, 3, 12], |seed| sim::run_cluster(seed, &options));
}
