//! Runs of the whole simulation, each from a seed: no rule is broken in any, and together they see
//! everything that the rules speak of.

use std::io::Write as _;
use std::time::Duration;

use railgun_testkit::sim::{self, Counts, FAULTS, Options, Report};

/// Runs unless the environment says otherwise: about a minute in a development build.
pub(crate) const SEEDS: u64 = 8;

/// Prints what is needed to look at a failed run again.
pub(crate) fn describe(report: &Report) -> String {
    format!(
        "seed {} breaks: {:#?}\nlast events:\n{}\nrun it again with: RAILGUN_SIM_SEED={} cargo test \
         -p railgun-tests --test simulation seeds",
        report.seed,
        report.violations,
        tail(report),
        report.seed,
    )
}

/// The last events, unless all are printed.
pub(crate) fn tail(report: &Report) -> String {
    let lines = report.trace.len();
    let tail = if traced() { 0 } else { lines.min(40) };
    report.trace[lines - tail..].join("\n")
}

/// Tells of a seed before it is run, past the harness, which keeps what tests print until they end: one that
/// never ends is known.
pub(crate) fn announce(whose: &str, seed: u64) {
    std::io::stderr().write_all(format!("{whose} seed {seed}\n").as_bytes()).ok();
}

/// Every event, if the environment says so.
pub(crate) fn print_trace(report: &Report) {
    if traced() {
        println!("{}", report.trace.join("\n"));
    }
}

/// Whether every event is to be printed.
fn traced() -> bool {
    std::env::var_os("RAILGUN_SIM_TRACE").is_some()
}

/// What the environment says, if it says something.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is '{text}', not a number")))
}

#[test]
fn every_rule_holds_under_faults() {
    let only = number("RAILGUN_SIM_SEED");
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("RAILGUN_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut all, mut runs) = (Counts::default(), 0);
    for seed in seeds {
        announce("node", seed);
        let report = sim::run(seed, &Options::default());
        println!(
            "seed {seed}: {} of {} messages acked, {} lives, {:?} of virtual time, {} events, trace \
             {:016x}\n{:?}",
            report.acked,
            report.sent,
            report.lives,
            report.virtual_time,
            report.trace.len(),
            report.trace_hash,
            report.counts,
        );
        print_trace(&report);
        assert!(report.violations.is_empty(), "{}", describe(&report));
        check_run(&report);
        all.add(&report.counts);
        runs += 1;
    }
    if runs >= SEEDS {
        check_all(&all);
    }
}

/// Rules that hold in a run in which nothing happens say nothing.
fn check_run(report: &Report) {
    let Report { seed, sent, acked, counts, .. } = report;
    assert!(*acked > 100 && *acked > sent / 4, "seed {seed}: {acked} of {sent} acked");
    assert!(report.lives > 1, "seed {seed}: the node was never started again");
    assert!(counts.segments + counts.bundles > 0, "seed {seed}: nothing in the bucket: {counts:?}");
    assert!(counts.read_cold > 0, "seed {seed}: nothing read from it: {counts:?}");
    assert!(counts.retired > 0, "seed {seed}: no log file was given up: {counts:?}");
}

/// Over all runs everything came about that the rules speak of.
fn check_all(counts: &Counts) {
    for fault in FAULTS {
        assert!(counts.faults.contains_key(fault), "no run has seen: {fault}: {counts:?}");
    }
    let at_least = [
        ("refused messages", counts.refused, 10),
        ("refusals by a full log or disk", counts.refused_full, 10),
        ("refusals while the bucket was away for minutes", counts.refused_in_outage, 10),
        ("streams that a publisher has left and come back to", counts.unbound, 10),
        ("records from memory", counts.read_ring, 100),
        ("records from the log", counts.read_hot, 100),
        ("records from the bucket", counts.read_cold, 100),
        ("readers who waited for memory", counts.waited, 10),
        ("seals", counts.sealed, 10),
        ("segments", counts.segments, 10),
        ("bundles", counts.bundles, 10),
        ("manifests", counts.manifests, 10),
        ("checkpoints", counts.checkpoints, 10),
        ("promotions", counts.promotions, 10),
        ("promotions of the catalog", counts.catalog_promotions, 1),
        ("log files given up", counts.retired, 10),
        ("streams made or changed", counts.ensured_changes, 10),
        ("ensures with nothing to do", counts.ensured_nothing, 10),
        ("ensures that had to be refused", counts.ensure_refused, 3),
        ("ends of the node by itself", counts.ended_itself, 3),
        ("starts refused for rot", counts.rot_refused, 1),
    ];
    for (what, count, least) in at_least {
        assert!(count >= least, "{what}: {count}, and {least} are the least: {counts:?}");
    }
    let outage = counts.outage;
    assert!(outage >= Duration::from_secs(120), "no longer outage than {outage:?}: {counts:?}");
}
