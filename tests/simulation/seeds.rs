use railgun_testkit::sim::{self, Options, Report};

/// Runs unless the environment says otherwise: well below a minute in a development build.
const SEEDS: u64 = 8;

/// Prints what is needed to look at a failed run again.
pub(crate) fn describe(report: &Report) -> String {
    let lines = report.trace.len();
    let tail = if traced() { 0 } else { lines.min(40) };
    format!(
        "seed {} breaks: {:#?}\nlast events:\n{}\nrun it again with: RAILGUN_SIM_SEED={} cargo test \
         -p railgun-tests --test simulation seeds",
        report.seed,
        report.violations,
        report.trace[lines - tail..].join("\n"),
        report.seed,
    )
}

/// Whether every event is to be printed.
fn traced() -> bool {
    std::env::var_os("RAILGUN_SIM_TRACE").is_some()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is '{text}', not a number")))
}

#[test]
fn every_rule_holds_under_faults() {
    let seeds = match number("RAILGUN_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("RAILGUN_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let report = sim::run(seed, &Options::default());
        println!(
            "seed {seed}: {} of {} messages acked, {} lives, {:?} of virtual time, {} events, trace \
             {:016x}",
            report.acked,
            report.sent,
            report.lives,
            report.virtual_time,
            report.trace.len(),
            report.trace_hash,
        );
        if traced() {
            println!("{}", report.trace.join("\n"));
        }
        assert!(report.violations.is_empty(), "{}", describe(&report));
    }
}
