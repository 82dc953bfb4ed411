//! `railgun bench`: what a cluster does, measured from a client.
//!
//! With `--rate` the loop is open: each message is due at its own time, and its latency counts from
//! then, whatever those before it took. What is read is checked byte by byte.

mod e2e;
mod group;
mod payload;
mod publish;
mod read;
mod report;

use std::time::Duration;

use railgun_client::limits::{MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_HARD, PUBLISHER_STREAMS};
use railgun_client::{Client, DedupFull, DedupPatch, StreamName};
use tokio::time::Instant;

use self::payload::Kind;
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::table::Listing;
use crate::rate::Rate;
use crate::runtime::block_on;
use crate::server::{LeaderArgs, ServerArgs};
use crate::span::Span;

/// Streams that are read at a time: each takes a QUIC stream, of which a connection may have 1,024
/// open.
const READ_AT_ONCE: u32 = 1_000;

/// How long ids are held where messages have some, in ms.
const IDS_WINDOW_MS: u64 = 120_000;

/// Measure a cluster: publish, read, consume, and end to end
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun bench publish --size 1024 --duration 10s
  railgun bench publish --size 1024 --depth 1 --count 10000
  railgun bench publish --size 1024 --streams 10000
  railgun bench read
  railgun bench group --members 4 --credit 2500
  railgun bench e2e --size 1024 --rate 20000 --duration 30s -o json")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    /// Publish as fast as the cluster takes it, or at a rate
    #[command(after_help = "Examples:
  railgun bench publish --size 100 --duration 30s
  railgun bench publish --size 1024 --depth 1 --count 10000
  railgun bench publish --size 1024 --streams 10000
  railgun bench publish --stream bench-ids --ids
  railgun bench publish --size 1024 --rate 20000 -o json")]
    Publish(publish::PublishArgs),
    /// Read everything there is, and check it
    #[command(after_help = "Examples:
  railgun bench read
  railgun bench read --stream bench --streams 16 --from 15m")]
    Read(read::ReadArgs),
    /// Deliver everything there is to a consumer group whose members ack it, until all acks are committed
    #[command(after_help = "Examples:
  railgun bench publish --count 1000000 && railgun bench group
  railgun bench group --members 4 --credit 2500 --exclusive -o json")]
    Group(group::GroupArgs),
    /// Publish at a rate and measure until a reader at the tail has each message
    #[command(after_help = "Examples:
  railgun bench e2e --rate 20000 --duration 30s
  railgun bench e2e --rate 100 --count 1000 -o json")]
    E2e(e2e::E2eArgs),
}

/// Where messages go and what they are.
#[derive(Clone, Debug, clap::Args)]
struct Workload {
    /// The stream; with --streams N, NAME.0 to NAME.N-1. Made if absent
    #[arg(long, value_name = "NAME", default_value = "bench")]
    stream: StreamName,
    /// Number of streams, written round robin
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=PUBLISHER_STREAMS as i64))]
    streams: u32,
    /// Bytes of a message's value: 16 to 8388607
    #[arg(long, value_name = "BYTES", default_value_t = 1024,
        value_parser = clap::value_parser!(u32)
            .range(payload::HEADER_BYTES as i64..MESSAGE_BYTES_HARD as i64))]
    size: u32,
    /// How well the messages compress
    #[arg(long, value_enum, default_value_t)]
    payload: Kind,
    /// Messages in all
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How long to send, if there is no --count
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    duration: Span,
    #[command(flatten)]
    leaders: LeaderArgs,
    #[command(flatten)]
    listing: Listing,
}

/// Runs `railgun bench …`.
pub(crate) fn run(args: BenchArgs, server: &ServerArgs) -> CommandResult {
    match args.command {
        BenchCommand::Publish(args) => args.run(server),
        BenchCommand::Read(args) => block_on(read::run(args, server)),
        BenchCommand::Group(args) => block_on(group::run(args, server)),
        BenchCommand::E2e(args) => block_on(e2e::run(args, server)),
    }
}

impl Workload {
    fn size(&self) -> usize {
        self.size as usize
    }

    fn names(&self) -> Result<Vec<StreamName>, Failure> {
        names(&self.stream, self.streams)
    }

    /// Makes the streams that are absent, with an ID time box if their messages have ids.
    async fn make_streams(&self, client: &Client, ids: bool) -> Result<Vec<StreamName>, Failure> {
        let names = self.names()?;
        let dedup = DedupPatch {
            window_ms: Some(IDS_WINDOW_MS),
            full: Some(DedupFull::EvictOldest),
            ..DedupPatch::default()
        };
        let patch = railgun_client::SpecPatch {
            dedup: if ids { dedup } else { DedupPatch::default() },
            max_message_bytes: (self.size() >= MESSAGE_BYTES_DEFAULT)
                .then_some(MESSAGE_BYTES_HARD as u32),
            ..railgun_client::SpecPatch::default()
        };
        let admin = client.admin();
        let ensure = |name: StreamName| {
            let (admin, patch) = (admin.clone(), patch.clone());
            async move {
                let options = railgun_client::EnsureOptions::default();
                let ensured = admin.ensure_stream(&name, patch, options).await;
                ensured.map(drop).map_err(|error| explain::admin(&error, Some(&name)))
            }
        };
        use futures::stream::{self, StreamExt as _, TryStreamExt as _};
        stream::iter(names.clone().into_iter().map(ensure))
            .buffer_unordered(16)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(names)
    }
}

/// The names of a benchmark's streams.
fn names(stream: &StreamName, streams: u32) -> Result<Vec<StreamName>, Failure> {
    if streams == 1 {
        return Ok(vec![stream.clone()]);
    }
    let name = |number| StreamName::new(&format!("{stream}.{number}"));
    (0..streams)
        .map(name)
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

/// When messages are due, and when the run ends.
#[derive(Clone, Debug)]
struct Schedule {
    began: Instant,
    rate: Option<Rate>,
    count: Option<u64>,
    duration: Duration,
}

impl Schedule {
    fn new(workload: &Workload, rate: Option<Rate>) -> Self {
        let (count, duration) = (workload.count, workload.duration.0);
        Self { began: Instant::now(), rate, count, duration }
    }

    /// When message `number` is due; `None` when the run is over. Without a rate, now.
    fn due(&self, number: u64) -> Option<Instant> {
        let due = match self.rate {
            Some(rate) => self.began + rate.due_after(number),
            None => Instant::now(),
        };
        let over = match self.count {
            Some(count) => number >= count,
            None => due.duration_since(self.began) >= self.duration,
        };
        (!over).then_some(due)
    }

    /// Waits until `due` with the precision of the operating system, which is finer than that of
    /// the runtime's timers. Blocks: for a thread that has nothing else to do.
    fn wait(&self, due: Instant) {
        let left = due.saturating_duration_since(Instant::now());
        if self.rate.is_some() && !left.is_zero() {
            std::thread::sleep(left);
        }
    }
}
