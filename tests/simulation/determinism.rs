//! The same seed gives the same run, event by event; another seed another one.

use std::time::Duration;

use railgun_testkit::sim::{self, Options};

#[test]
fn the_same_seed_gives_the_same_trace() {
    let options = Options { duration: Duration::from_secs(15), ..Options::default() };
    for seed in [3, 5, 8] {
        let [first, second] = [(); 2].map(|()| sim::run(seed, &options));
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
    }
    let other = sim::run(4, &options);
    assert_ne!(other.trace_hash, sim::run(5, &options).trace_hash);
}
