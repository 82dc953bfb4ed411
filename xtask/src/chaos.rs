//! Many rounds of the suite `chaos`, with the release build.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// How many, and from which seed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many rounds.
    #[arg(long, default_value_t = 100)]
    rounds: u64,
    /// What is drawn in them; something else each time if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Kinds of faults, separated by commas, such as kill-leader,cut; all if absent.
    #[arg(long)]
    faults: Option<String>,
    /// How the nodes are connected.
    #[arg(long, value_enum, default_value_t = Network::Both)]
    network: Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Network {
    /// On this machine's loopback, with a relay between them.
    Loopback,
    /// Each in a network namespace of its own, which needs root and `ip`.
    Namespaces,
    /// On one after the other, with as many rounds.
    Both,
}

/// How long publishers may wait for an ack, by what happens to the cluster: half of the times at most, and
/// ever.
const GAPS_MAX: [(&str, Duration, Duration); 3] = [
    ("kill-leader", Duration::from_millis(2_500), Duration::from_secs(5)),
    ("transfer", Duration::from_millis(500), Duration::from_millis(500)),
    ("drain", Duration::from_millis(500), Duration::from_millis(500)),
];

pub(crate) fn run(args: &Args) -> ExitCode {
    // In one go, so that both are built with the same features.
    let build = ["build", "--release", "-p", "railgun", "-p", "railgun-tests"];
    let mut built = cargo();
    built.args(build).args(["--bin", "railgun", "--test", "chaos"]);
    let figures = std::env::temp_dir().join(format!("railgun-chaos-{}", std::process::id()));
    let mut test = cargo();
    test.args(["test", "--release", "-p", "railgun", "-p", "railgun-tests"]);
    test.args(["--test", "chaos", "--", "--nocapture", "--test-threads=1", "a_cluster_keeps"]);
    // What cannot be tested here fails.
    test.env("CI", "1").env("RAILGUN_CHAOS_FIGURES", &figures);
    test.env("RAILGUN_CHAOS_ROUNDS", args.rounds.to_string());
    if let Some(seed) = args.seed {
        test.env("RAILGUN_CHAOS_SEED", seed.to_string());
    }
    if let Some(faults) = &args.faults {
        test.env("RAILGUN_CHAOS_FAULTS", faults);
    }
    match args.network {
        Network::Loopback => drop(test.env("RAILGUN_CHAOS_NETWORK", "loopback")),
        Network::Namespaces => drop(test.env("RAILGUN_CHAOS_NETWORK", "namespaces")),
        Network::Both => drop(test.env_remove("RAILGUN_CHAOS_NETWORK")),
    }
    let is_sound = succeeds(&mut built) && succeeds(&mut test);
    let is_fast = is_sound && are_in_bounds(&figures);
    std::fs::remove_file(&figures).ok();
    if is_fast { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether there was a round, and no gap of any was longer than it may be.
fn are_in_bounds(figures: &Path) -> bool {
    let told = std::fs::read_to_string(figures).unwrap_or_default();
    let rounds = told.lines().count();
    let Some(gaps) = told.lines().map(gap).collect::<Option<Vec<_>>>() else {
        println!("these are no figures: {told}");
        return false;
    };
    let (told, is_fine) = judged(&gaps);
    told.iter().for_each(|line| println!("{line}"));
    println!("{rounds} rounds");
    rounds > 0 && is_fine
}

/// Of a line with a network, a kind of fault and a gap in milliseconds the last two.
fn gap(line: &str) -> Option<(&str, Duration)> {
    let [_network, kind, ms] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    Some((kind, Duration::from_millis(ms.parse().ok()?)))
}

/// A line for each kind whose gaps are bounded, and whether they are within their bounds.
fn judged(gaps: &[(&str, Duration)]) -> (Vec<String>, bool) {
    let (mut told, mut is_fine) = (Vec::new(), true);
    for (kind, half, ever) in GAPS_MAX {
        let of_kind = gaps.iter().filter(|(of, _)| *of == kind);
        let mut of_kind: Vec<_> = of_kind.map(|(_, gap)| *gap).collect();
        of_kind.sort_unstable();
        let Some(&longest) = of_kind.last() else { continue };
        let median = of_kind[of_kind.len() / 2];
        let is_in_bounds = median <= half && longest <= ever;
        is_fine &= is_in_bounds;
        let verdict = if is_in_bounds { "" } else { ": TOO LONG" };
        told.push(format!(
            "{kind}: {} gaps between acks, median {median:?} (at most {half:?}), longest {longest:?} (at most {ever:?}){verdict}",
            of_kind.len(),
        ));
    }
    (told, is_fine)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn succeeds(command: &mut Command) -> bool {
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            println!("{} does not run: {error}", command.get_program().display());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, ms: &[u64]) -> (Vec<String>, bool) {
        let gaps: Vec<_> = ms.iter().map(|ms| (kind, Duration::from_millis(*ms))).collect();
        judged(&gaps)
    }

    #[test]
    fn what_is_too_long_is_told() {
        assert_eq!(of("cut", &[90_000]), (vec![], true));
        let (told, is_fine) = of("kill-leader", &[5_000, 2_500, 1_000]);
        assert!(is_fine && told[0].starts_with("kill-leader: 3 gaps"), "{told:?}");
        for ms in [&[5_001, 10, 10][..], &[2_501, 2_501, 10]] {
            let (told, is_fine) = of("kill-leader", ms);
            assert!(!is_fine && told[0].ends_with(": TOO LONG"), "{told:?}");
        }
        assert!(!of("transfer", &[501]).1 && !of("drain", &[1, 501]).1);
    }

    #[test]
    fn a_figure_is_a_network_a_kind_and_milliseconds() {
        let ms = Duration::from_millis;
        assert_eq!(gap("loopback drain 12"), Some(("drain", ms(12))));
        assert_eq!((gap("loopback drain"), gap("loopback drain x")), (None, None));
    }

    #[test]
    fn no_round_is_a_failure() {
        assert!(!are_in_bounds(Path::new("/nowhere/at/all")));
    }
}
