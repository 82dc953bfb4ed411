//! `railgun`: the one binary. A node (`serve`), and every command that talks to one.

mod apply;
mod bench;
mod cluster;
mod config;
mod context;
mod dlq;
mod dlq_patch;
mod exit;
mod explain;
mod group;
mod interrupt;
mod lines;
mod member;
mod on_drift;
mod output;
mod position;
mod publish;
mod rate;
mod replay;
mod runtime;
mod segment;
mod serve;
mod server;
mod span;
mod stream;
mod subscribe;

use std::process::ExitCode;

use clap::Parser as _;

use crate::exit::{CommandResult, Exit};
use crate::runtime::block_on;

/// Streams that are durable at once and kept in object storage
#[derive(Debug, clap::Parser)]
#[command(version, after_help = Exit::table(), arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    server: server::ServerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Stream(stream::StreamArgs),
    Group(group::GroupArgs),
    Dlq(dlq::DlqArgs),
    Apply(apply::ApplyArgs),
    Pub(publish::PubArgs),
    Sub(subscribe::SubArgs),
    Replay(replay::ReplayArgs),
    Segment(segment::SegmentArgs),
    Bench(bench::BenchArgs),
    Cluster(cluster::ClusterArgs),
    Context(context::ContextArgs),
    Config(config::ConfigArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::report(run(cli))
}

fn run(cli: Cli) -> CommandResult {
    let server = &cli.server;
    match cli.command {
        Command::Serve(args) => {
            server.refuse_for("serve")?;
            serve::run(args)
        }
        Command::Config(args) => {
            server.refuse_for("config")?;
            config::run(args)
        }
        Command::Context(args) => context::run(&args, server),
        Command::Stream(args) => block_on(stream::run(args, server)),
        Command::Group(args) => block_on(group::run(args, server)),
        Command::Dlq(args) => block_on(dlq::run(args, server)),
        Command::Apply(args) => block_on(apply::run(args, server)),
        Command::Pub(args) => block_on(publish::run(args, server)),
        Command::Sub(args) => block_on(subscribe::run(args, server)),
        Command::Replay(args) => {
            server.refuse_for("replay")?;
            block_on(replay::run(args))
        }
        Command::Segment(args) => block_on(segment::run(args, server)),
        Command::Bench(args) => bench::run(args, server),
        Command::Cluster(args) => cluster::run(args, server),
    }
}

#[cfg(test)]
mod help_tests {
    use std::fmt::Write as _;
    use std::{env, fs};

    use clap::CommandFactory as _;

    use super::*;

    /// The help pages as they were reviewed. `UPDATE_HELP=1 cargo test -p railgun help` writes them
    /// anew.
    const REVIEWED: &str = include_str!("help.txt");
    /// Their pages change with the settings of a node, and are tested with those.
    const NODE_COMMANDS: [&str; 3] = ["serve", "config", "help"];

    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands() {
                if NODE_COMMANDS.contains(&sub.get_name()) {
                    continue;
                }
                let examples = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(examples.starts_with("Examples:\n"), "{}", sub.get_name());
                walk(sub);
            }
        }
        walk(&Cli::command());
    }

    #[test]
    fn the_help_pages_are_as_reviewed() {
        fn pages(command: &mut clap::Command, path: &str, out: &mut String) {
            writeln!(out, "==== {path}\n{}", command.render_help()).unwrap();
            for sub in command.get_subcommands_mut() {
                let name = sub.get_name().to_owned();
                if !NODE_COMMANDS.contains(&name.as_str()) {
                    pages(sub, &format!("{path} {name}"), out);
                }
            }
        }
        let mut cli = Cli::command().term_width(100);
        cli.build();
        let mut now = String::new();
        pages(&mut cli, "railgun", &mut now);
        if env::var_os("UPDATE_HELP").is_some() {
            fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/help.txt"), &now).unwrap();
        } else {
            assert!(now == REVIEWED, "the help has changed: run with UPDATE_HELP=1 and review");
        }
    }
}
