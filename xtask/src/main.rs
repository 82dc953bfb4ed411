//! `cargo xtask`: what takes longer than the tests do.

mod chaos;
mod sim;

use std::process::ExitCode;

use clap::Parser;

/// What takes longer than the tests do.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Runs the simulation from many seeds. Ends with 1 where one breaks a rule.
    Sim(sim::Args),
    /// Hurts a cluster of three processes, again and again, and checks what it promised. Ends with 1
    /// where it broke a promise.
    Chaos(chaos::Args),
}

fn main() -> ExitCode {
    match Task::parse() {
        Task::Sim(args) => sim::run(&args),
        Task::Chaos(args) => chaos::run(&args),
    }
}
