//! The simulation finds bugs: each is planted, and found within a bounded number of seeds; the same
//! seeds pass without it.

use railgun_testkit::sim::{self, Bug, Options};

use crate::seeds::describe;

/// Runs the seeds until the bug shows, and each of them without the bug.
fn is_found(bug: Bug, seeds: std::ops::Range<u64>, rules: &[&str]) {
    for seed in seeds.clone() {
        let found = sim::run(seed, &Options { bug: Some(bug), ..Options::default() });
        let clean = sim::run(seed, &Options::default());
        assert!(clean.violations.is_empty(), "without the bug, {}", describe(&clean));
        if let Some(first) = found.violations.first() {
            println!("seed {seed} finds {bug:?}: {first}");
            let expected = rules.iter().any(|rule| first.starts_with(&format!("{rule}:")));
            assert!(expected, "{bug:?} shows as something else: {}", describe(&found));
            return;
        }
    }
    panic!("{bug:?} is not found with any of the seeds {seeds:?}");
}

#[test]
fn an_ack_before_fsync_is_found() {
    is_found(Bug::AckBeforeFsync, 1..6, &["I2", "PS-1"]);
}

#[test]
fn rot_taken_for_a_torn_write_is_found() {
    is_found(Bug::RotAsTorn, 1..6, &["torn/rot"]);
}

#[test]
fn a_purge_above_the_floor_is_found() {
    is_found(Bug::PurgeAboveFloor, 1..6, &["I2", "PS-5", "reading"]);
}

#[test]
fn deletion_before_the_mirror_is_found() {
    is_found(Bug::DeleteBeforeMirrored, 1..6, &["I2"]);
}

#[test]
fn a_commit_of_what_was_never_uploaded_is_found() {
    is_found(Bug::CommitBeforePut, 1..6, &["I2", "reading"]);
}

/// While the bucket is away, as with this seed, publishers are taken in for ever.
#[test]
fn a_log_without_bounds_is_found() {
    is_found(Bug::NoAdmission, 2..3, &["I10"]);
}
