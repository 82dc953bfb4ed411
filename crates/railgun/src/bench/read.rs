//! `railgun bench read`.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use railgun_client::limits::MESSAGE_BYTES_HARD;
use railgun_client::{Client, Event, RecordRun, StartPosition, StreamName};
use tokio::time::Instant;

use super::payload::{Payloads, Sequence};
use super::report::Report;
use super::{READ_AT_ONCE, names};
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::table::Listing;
use crate::position::Start;
use crate::server::ServerArgs;

#[derive(Debug, clap::Args)]
pub(super) struct ReadArgs {
    /// The stream; with --streams N, NAME.0 to NAME.N-1
    #[arg(long, value_name = "NAME", default_value = "bench")]
    stream: StreamName,
    /// Number of streams, read at once, or 1000 at a time
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    streams: u32,
    /// Where to begin
    #[arg(long, value_name = "WHERE", default_value = "earliest")]
    from: Start,
    /// Do not check the contents, only the checksums
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    listing: Listing,
}

/// Messages and bytes of values.
type Totals = (u64, u64);

pub(super) async fn run(args: ReadArgs, server: &ServerArgs) -> CommandResult {
    server.with_client(async |client| measure(args, client).await).await
}

async fn measure(args: ReadArgs, client: &Client) -> CommandResult {
    let names = names(&args.stream, args.streams)?;
    let streams = names.len();
    let payloads = (!args.no_verify).then(|| Payloads::new(MESSAGE_BYTES_HARD));
    let start = args.from.start(jiff::Timestamp::now());
    let began = Instant::now();
    let readers = names.into_iter().map(|name| read(client, name, start, payloads.as_ref()));
    let readers = stream::iter(readers).buffer_unordered(READ_AT_ONCE as usize);
    let totals = readers.try_collect::<Vec<Totals>>().await?;
    let elapsed = began.elapsed();
    let (messages, bytes) = totals.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let report = Report { workload: "read", streams, messages, bytes, elapsed, latencies: None };
    report.print(args.listing)
}

async fn read(
    client: &Client,
    stream: StreamName,
    start: StartPosition,
    payloads: Option<&Payloads>,
) -> Result<Totals, Failure> {
    let subscription = client.subscribe(stream).start(start).until_end().open().await;
    let mut subscription = subscription.map_err(|error| explain::subscribe(&error))?;
    let mut totals = (0, 0);
    let mut sequence = Sequence::default();
    while let Some(event) =
        subscription.next_batch().await.map_err(|error| explain::subscribe(&error))?
    {
        if let Event::Data(run) = event {
            totals.0 += run.len() as u64;
            totals.1 += check(&run, payloads, &mut sequence)?;
        }
    }
    Ok(totals)
}

/// Checks a run of records; its value bytes.
pub(super) fn check(
    run: &RecordRun,
    payloads: Option<&Payloads>,
    sequence: &mut Sequence,
) -> Result<u64, Failure> {
    let mut bytes = 0;
    for record in run.records() {
        bytes += record.value.len() as u64;
        let Some(payloads) = payloads else { continue };
        let checked = payloads.check(record.value);
        checked.and_then(|stamp| sequence.check(stamp.sequence)).map_err(|error| {
            let text = format!("the record at offset {} is wrong: {error}", record.offset);
            Failure::new(Exit::Failed, text)
                .next("the same with --no-verify, if the stream holds other data")
        })?;
    }
    Ok(bytes)
}
