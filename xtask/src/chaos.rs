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

/// How long publishers may wait at most for an ack, by what happens to the cluster.
const GAPS_MAX: [(&str, Duration); 3] = [
    ("kill-leader", Duration::from_secs(5)),
    ("transfer", Duration::from_millis(500)),
    ("drain", Duration::from_millis(500)),
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
    let breaches = breaches(&told);
    breaches.iter().for_each(|breach| println!("{breach}"));
    let rounds = told.lines().count();
    println!("{rounds} rounds, {} with a gap that is too long", breaches.len());
    rounds > 0 && breaches.is_empty()
}

/// Of lines with a network, a kind of fault and a gap in milliseconds each.
fn breaches(figures: &str) -> Vec<String> {
    let breach = |line: &str| {
        let [network, kind, ms] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Some(format!("this is no figure: {line}"));
        };
        let (_, longest) = GAPS_MAX.into_iter().find(|(of, _)| *of == kind)?;
        let gap = Duration::from_millis(ms.parse().unwrap_or(u64::MAX));
        let how = format!("{kind} on {network}: {gap:?} without an ack, {longest:?} is the most");
        (gap > longest).then_some(how)
    };
    figures.lines().filter_map(breach).collect()
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

    #[test]
    fn what_is_too_long_is_told() {
        let fine = "loopback kill-leader 5000\nnamespaces drain 500\nloopback cut 9000\n";
        assert_eq!(breaches(fine), Vec::<String>::new());
        let told = breaches("loopback kill-leader 5001\nloopback transfer 501\nloopback drain\n");
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0], "kill-leader on loopback: 5.001s without an ack, 5s is the most");
    }

    #[test]
    fn no_round_is_a_failure() {
        assert!(!are_in_bounds(Path::new("/nowhere/at/all")));
    }
}
