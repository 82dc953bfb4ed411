//! `railgun cluster`: how it is, what its nodes are to do, and how further ones come in.

mod certificates;
mod join;
mod nodes;
mod status;

use std::path::PathBuf;

use crate::exit::{CommandResult, Exit, Failure};
use crate::runtime::block_on;
use crate::server::ServerArgs;
use crate::span::Span;
pub(crate) use certificates::explain_authority;
use certificates::{NODE_VALID_DAYS, init_ca, issue_node};

/// Look after a cluster of several nodes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun cluster status
  railgun cluster drain 2 --wait
  railgun cluster remove 2
  railgun cluster join-token")]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ClusterCommand {
    /// Show nodes, shards and who leads; ends with 7 if a shard has no leader or no majority
    ///
    /// It is what the node that is asked knows: what another has not told it within 2 s is unknown.
    #[command(after_help = "Examples:
  railgun cluster status
  railgun cluster status --json
  railgun cluster status --server n2.example.com:7410")]
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Move leads and replicas off a node, and send its clients to others
    ///
    /// Leads go first. A replica goes where another active node can take it; else it stays, and the
    /// node must not be stopped for good before one has joined.
    #[command(after_help = "Examples:
  railgun cluster drain 2 --wait
  railgun cluster drain 2 && railgun cluster status")]
    Drain {
        /// The node's number, as `railgun cluster status` shows it
        node: u32,
        /// Wait until nothing is left on it, and show what is
        #[arg(long)]
        wait: bool,
    },
    /// Let a node that is drained take leads and replicas again
    #[command(after_help = "Examples:
  railgun cluster undrain 2")]
    Undrain {
        /// The node's number
        node: u32,
    },
    /// Make a node no part of the cluster any more, for ever
    ///
    /// A node that is alive must be drained before. Never removes one without which a shard would have
    /// no majority: it would lose what was acknowledged.
    #[command(after_help = "Examples:
  railgun cluster drain 2 --wait && railgun cluster remove 2
  railgun cluster remove 3 --force")]
    Remove {
        /// The node's number
        node: u32,
        /// Even if it is alive and not drained
        #[arg(long)]
        force: bool,
    },
    /// Have a shard led by its replica on another node, and wait until that one serves
    ///
    /// After a while the lead goes back to whoever is to have it: the first voter of the placement.
    #[command(after_help = "Examples:
  railgun cluster transfer-leader 1 2")]
    TransferLeader {
        /// The shard; 0 is the catalog
        shard: u32,
        /// The node's number
        node: u32,
    },
    /// Make a token by which one node gets its certificate
    ///
    /// It is printed once, and is a secret: whoever has it can bring a node into the cluster. One node
    /// must have the key of the cluster's CA (`cluster.ca_dir`).
    #[command(after_help = "Examples:
  railgun cluster join-token
  railgun cluster join-token --valid-for 10m")]
    JoinToken {
        /// How long it is valid; 30 days at the most
        #[arg(long, value_name = "TIME", default_value = "1h")]
        valid_for: Span,
    },
    /// Get the certificate of a new node, on that machine, by a join token
    ///
    /// The key is made here and stays here. The server is believed if its CA is the one in the token.
    #[command(after_help = "Examples:
  railgun cluster join --server n1.example.com:7410 --token rgj1.… --out /etc/railgun/tls
  railgun cluster join --server 10.0.0.1:7410 --token rgj1.… --out tls --host n4.example.com --host 10.0.0.4")]
    Join {
        /// Directory for certificate (node.pem), key (node-key.pem) and ca.pem; made if need be
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// DNS name or IP address by which clients reach the node; may be given several times
        /// [default: this machine's name]
        #[arg(long = "host", value_name = "NAME")]
        hosts: Vec<String>,
    },
    /// Make the authority that signs the certificates of a cluster's nodes
    ///
    /// Whoever has its key can make nodes: keep the directory off the nodes, or on one that gives out
    /// join tokens, and keep a copy.
    #[command(after_help = "Examples:
  railgun cluster init-ca --dir ca")]
    InitCa {
        /// Directory for its certificate (ca.pem) and its key (ca-key.pem); made if need be
        #[arg(long)]
        dir: PathBuf,
    },
    /// Make the certificate of one node, for its clients and for the other nodes
    #[command(after_help = "Examples:
  railgun cluster issue-node --ca ca --out n1 --host n1.example.com --host 10.0.0.1
  railgun cluster issue-node --ca ca --out n2 --host n2.example.com --days 90")]
    IssueNode {
        /// Directory of the cluster's authority, made by `railgun cluster init-ca`
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Directory for certificate (node.pem), key (node-key.pem) and ca.pem; made if need be
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// DNS name or IP address by which clients reach the node; may be given several times
        #[arg(long = "host", value_name = "NAME", required = true)]
        hosts: Vec<String>,
        /// How long it is valid; make a new one before that, in another directory
        #[arg(
            long,
            default_value_t = NODE_VALID_DAYS,
            value_parser = clap::value_parser!(u32).range(1..=36_500)
        )]
        days: u32,
    },
}

/// Runs `railgun cluster …`.
pub(crate) fn run(args: ClusterArgs, server: &ServerArgs) -> CommandResult {
    match args.command {
        ClusterCommand::Status { json } => {
            block_on(server.with_client(async |client| status::status(client, json).await))
        }
        ClusterCommand::Drain { node, wait } => {
            block_on(server.with_client(async |client| nodes::drain(client, node, wait).await))
        }
        ClusterCommand::Undrain { node } => {
            block_on(server.with_client(async |client| nodes::undrain(client, node).await))
        }
        ClusterCommand::Remove { node, force } => {
            block_on(server.with_client(async |client| nodes::remove(client, node, force).await))
        }
        ClusterCommand::TransferLeader { shard, node } => block_on(
            server.with_client(async |client| nodes::transfer_leader(client, shard, node).await),
        ),
        ClusterCommand::JoinToken { valid_for } => {
            block_on(server.with_client(async |client| join::make_token(client, valid_for).await))
        }
        ClusterCommand::Join { out, hosts } => block_on(join::join(server, &out, hosts)),
        ClusterCommand::InitCa { dir } => {
            refuse_server(server)?;
            init_ca(&dir)
        }
        ClusterCommand::IssueNode { ca, out, hosts, days } => {
            refuse_server(server)?;
            issue_node(&ca, &out, &hosts, days)
        }
    }
}

/// These commands connect to nothing. (`--ca` is another thing here than for those that do.)
fn refuse_server(server: &ServerArgs) -> CommandResult {
    let (addr, _, token) = server.parts();
    let given = [(addr.is_some(), "--server"), (token.is_some(), "--token")];
    match given.into_iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => Err(Failure::new(
            Exit::Usage,
            format!("{flag} means nothing to this command, which connects to no server"),
        )
        .next(format!("the same without {flag}; or railgun cluster --help"))),
    }
}

/// For people: `1, 2`.
fn listed<T: ToString>(things: impl IntoIterator<Item = T>) -> String {
    let things: Vec<String> = things.into_iter().map(|thing| thing.to_string()).collect();
    things.join(", ")
}
