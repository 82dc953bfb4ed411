//! The simulation finds bugs: each is planted, and found within a bounded number of seeds, by the rule
//! that it is against; the same seeds pass without it. That an object is written again takes a crash at
//! just the right moment: `every_point` finds it.

use std::collections::BTreeSet;
use std::ops::Range;

use railgun_testkit::sim::{self, BrokerBug, Bug, LogBug, Options};

use crate::seeds::{SEEDS, describe};

/// Runs the seeds until the bug shows; without it, `seeds` runs them all. It must show as what it is: by
/// the rule that it is against. The rules in `besides` may be broken as well, by what follows from it: what
/// is in neither tier is lost to who was told that it is published (PS-1), and Raft panics where its log is
/// not what it was.
fn is_found(bug: Bug, seeds: Range<u64>, rule: &str, besides: &[&str]) {
    assert!(seeds.end <= SEEDS + 1, "nobody knows whether the others pass without the bug");
    for seed in seeds.clone() {
        let found = sim::run(seed, &Options { bug: Some(bug), ..Options::default() });
        let Some(first) = found.violations.first() else { continue };
        println!("seed {seed} finds {bug:?}: {first}");
        let rule_of = |violation: &String| violation.split(':').next().map(str::to_owned);
        let broken: BTreeSet<String> = found.violations.iter().filter_map(rule_of).collect();
        if broken.iter().all(|broken| besides.contains(&broken.as_str())) {
            // Only what follows from it has shown, and has ended the run.
            continue;
        }
        assert!(broken.contains(rule), "{bug:?} does not break {rule}: {}", describe(&found));
        let other =
            broken.iter().find(|other| *other != rule && !besides.contains(&other.as_str()));
        assert_eq!(other, None, "{bug:?} shows as something else: {}", describe(&found));
        return;
    }
    panic!("{bug:?} is not found with any of the seeds {seeds:?}");
}

#[test]
fn an_ack_before_fsync_is_found() {
    // An upload that was named in an entry that is lost leaves what nobody knows of.
    is_found(Bug::Log(LogBug::CallbackBeforeSync), 1..6, "PS-1", &["openraft", "orphans"]);
}

#[test]
fn rot_taken_for_a_torn_write_is_found() {
    is_found(Bug::Log(LogBug::RotAsTorn), 1..6, "torn/rot", &["openraft"]);
}

#[test]
fn a_purge_above_the_floor_is_found() {
    is_found(Bug::Broker(BrokerBug::PurgeAboveFloor), 1..6, "I2", &["reading", "PS-1"]);
}

#[test]
fn deletion_before_the_mirror_is_found() {
    is_found(Bug::Broker(BrokerBug::DeleteBeforeMirrored), 1..6, "I2", &["PS-1"]);
}

#[test]
fn a_commit_of_what_was_never_uploaded_is_found() {
    // What is not in the bucket holds nobody back either.
    is_found(Bug::Broker(BrokerBug::CommitBeforePut), 1..6, "I2", &["reading", "I10", "PS-1"]);
}

/// While the bucket is away, as with this seed, publishers are taken in for ever.
#[test]
fn a_log_without_bounds_is_found() {
    is_found(Bug::Broker(BrokerBug::NoAdmission), 2..3, "I10", &[]);
}

#[test]
fn a_hole_in_a_manifest_is_found() {
    // What is behind the hole is nowhere, when the log has given it up.
    is_found(Bug::Broker(BrokerBug::HoleInManifest), 1..6, "I1", &["seal", "I2", "PS-1"]);
}

#[test]
fn a_gap_between_the_tiers_is_found() {
    // Where it shows at last only, the stream is not read to its end.
    is_found(Bug::Broker(BrokerBug::GapBetweenTiers), 1..6, "I7", &["PS-1"]);
}

#[test]
fn a_repeat_that_is_appended_again_is_found() {
    is_found(Bug::Broker(BrokerBug::RepeatsAreNew), 1..6, "PQ-1", &[]);
}
