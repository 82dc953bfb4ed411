//! Many rounds of the suite `chaos`, with the release build.

use std::process::{Command, ExitCode};

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

pub(crate) fn run(args: &Args) -> ExitCode {
    // In one go, so that both are built with the same features.
    let build = ["build", "--release", "-p", "railgun", "-p", "railgun-tests"];
    let mut built = cargo();
    built.args(build).args(["--bin", "railgun", "--test", "chaos"]);
    let mut test = cargo();
    test.args(["test", "--release", "-p", "railgun", "-p", "railgun-tests"]);
    test.args(["--test", "chaos", "--", "--nocapture", "--test-threads=1", "a_cluster_keeps"]);
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
        Network::Both => {}
    }
    if succeeds(&mut built) && succeeds(&mut test) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
