//! `railgun replay`: reads a stream straight from the bucket, without a server.

use std::io;

use railgun_client::StreamName;
use railgun_cold::replay::{OpenReplayError, ReplayBound};
use railgun_cold::{Bucket, BucketOptions, BucketUrl, ColdBatch, ReaderOptions, Replay};
use railgun_types::{ClusterUid, Offset};

use crate::exit::{CommandResult, Exit, Failure};
use crate::output::format::Shown;
use crate::output::progress;
use crate::output::records::{Printed, RecordFormat, RecordPrinter};
use crate::output::table::or_closed;
use crate::position::{End, Start, Until};

/// Read a stream straight from the bucket, without a server
///
/// Settings of S3 stores come from the usual AWS_* variables.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun replay s3://bucket/prefix --stream orders --raw
  railgun replay file:///var/lib/railgun/bucket --stream orders --from 12345 --limit 10
  railgun replay s3://bucket --stream orders --from 2h --until 1h")]
pub(crate) struct ReplayArgs {
    /// The bucket: file:///DIRECTORY or s3://BUCKET/PREFIX
    url: BucketUrl,
    /// The stream
    #[arg(long, value_name = "NAME", value_parser = StreamName::parse_any)]
    stream: StreamName,
    /// Where to begin: earliest, an offset, a time (RFC 3339), an age (15m) or last:N
    #[arg(long, value_name = "WHERE", default_value = "earliest")]
    from: Start,
    /// Where to end, exclusive: an offset, a time or an age
    #[arg(long, value_name = "WHERE")]
    until: Option<Until>,
    /// Which cluster, if the bucket holds several
    #[arg(long, value_name = "UID")]
    cluster: Option<ClusterUid>,
    /// End after this many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    format: RecordFormat,
}

/// Runs `railgun replay`.
pub(crate) async fn run(args: ReplayArgs) -> CommandResult {
    let now = jiff::Timestamp::now();
    let place = args.url.to_string();
    let bucket = open(&args.url).await?;
    let replay = Replay::open(&bucket, args.cluster, &ReaderOptions::default()).await;
    let replay = replay.map_err(|error| not_opened(&error, &args))?;
    for warning in replay.warnings() {
        eprintln!("warning: {warning}");
    }
    let Some(stream) = replay.stream(&args.stream) else {
        return Err(no_stream(&replay, &args.stream).at(place));
    };
    let from = match start(args.from, now) {
        Bound::At(bound) => bound,
        Bound::FromEnd(count) => {
            ReplayBound::Offset(Offset(stream.told.end().0.saturating_sub(count)))
        }
    };
    let until = match args.until.map(|until| until.end(now)) {
        None => ReplayBound::Unbounded,
        Some(End::Offset(offset)) => ReplayBound::Offset(offset),
        Some(End::Time(time)) => ReplayBound::Time(time),
    };
    let failed = |error: railgun_cold::ColdReadError| {
        Failure::new(Exit::Failed, error.to_string())
            .at(place.clone())
            .next("the same with --from behind the damage; or try again, if the bucket was away")
    };
    let mut cursor = replay.read(stream, from, until).await.map_err(failed)?;
    let progress = progress::records();
    let mut printer = RecordPrinter::new(io::stdout().lock(), args.format, args.limit);
    while !printer.is_full() {
        let batches = match cursor.next().await {
            Some(Ok(batches)) => batches,
            Some(Err(error)) => {
                or_closed(printer.flush())?;
                return Err(failed(error));
            }
            None => break,
        };
        let records: u64 = batches.iter().map(|batch| batch.batch.count() as u64).sum();
        progress.inc(records);
        let printed = batches.iter().try_for_each(|batch| print(&mut printer, batch));
        if printed.is_err() {
            return or_closed(printed);
        }
    }
    or_closed(printer.flush())
}

async fn open(url: &BucketUrl) -> Result<Bucket, Failure> {
    let place = url.to_string();
    if let BucketUrl::File { root } = url
        && !root.is_dir()
    {
        return Err(Failure::new(Exit::NotFound, "there is no such directory")
            .at(place)
            .next("pass the URL that the node was started with: railgun config show"));
    }
    // Only spreads the retries of processes that were started together.
    let seed = u64::from(std::process::id());
    let bucket = Bucket::open(&place, &BucketOptions::new(seed)).map_err(|error| {
        Failure::new(Exit::Usage, error.to_string()).at(&place).next("railgun replay --help")
    })?;
    bucket.probe().await.map_err(|error| {
        Failure::new(Exit::CannotConnect, error.to_string())
            .at(place)
            .next("check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    })?;
    Ok(bucket)
}

/// Where to begin, once the end of the stream is known.
#[derive(Debug, PartialEq, Eq)]
enum Bound {
    At(ReplayBound),
    /// This many records in front of the end.
    FromEnd(u64),
}

fn start(from: Start, now: jiff::Timestamp) -> Bound {
    use railgun_client::StartPosition as Position;
    match from.start(now) {
        Position::Earliest => Bound::At(ReplayBound::Unbounded),
        Position::Latest => Bound::FromEnd(0),
        Position::Last(count) => Bound::FromEnd(count),
        Position::Offset(offset) => Bound::At(ReplayBound::Offset(offset)),
        Position::Time(time) => Bound::At(ReplayBound::Time(time)),
    }
}

fn not_opened(error: &OpenReplayError, args: &ReplayArgs) -> Failure {
    let (exit, next) = match error {
        OpenReplayError::NoCluster { .. } => (
            Exit::NotFound,
            "check the prefix: it is the one that the node was started with".into(),
        ),
        OpenReplayError::SeveralClusters { clusters, .. } => {
            let first = clusters.first().map(ToString::to_string).unwrap_or_default();
            let (url, stream) = (&args.url, &args.stream);
            (Exit::Usage, format!("railgun replay {url} --stream {stream} --cluster {first}"))
        }
        OpenReplayError::UnknownCluster { .. } => {
            (Exit::NotFound, "the same without --cluster, which lists those there are".into())
        }
        OpenReplayError::Bucket(_) => {
            (Exit::CannotConnect, "try again, and check the AWS_* variables".into())
        }
        OpenReplayError::Manifest(_) => {
            (Exit::Failed, "restore the object that is named, or read through the node".into())
        }
    };
    Failure::new(exit, error.to_string()).at(args.url.to_string()).next(next)
}

fn no_stream(replay: &Replay, stream: &StreamName) -> Failure {
    let mut names: Vec<String> =
        replay.streams().map(|stream| stream.told.name.to_string()).collect();
    names.sort_unstable();
    names.dedup();
    let failure = Failure::new(Exit::NotFound, format!("no stream '{stream}' is in the bucket"));
    if names.is_empty() {
        return failure.next(format!("railgun segment seal {stream}, on the node that has it"));
    }
    /// More names than this help nobody.
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { ", …" } else { "" };
    names.truncate(SHOWN);
    failure.next(format!("one of those that are: {}{more}", names.join(", ")))
}

fn print<W: io::Write>(printer: &mut RecordPrinter<W>, batch: &ColdBatch) -> io::Result<()> {
    for (index, entry) in batch.batch.records().enumerate() {
        // A batch that was read back holds only records that can be decoded.
        let Some(content) = entry.content() else { continue };
        let shown = Shown {
            offset: batch.base.0 + index as u64,
            ts_us: batch.ts.0,
            source: "cold",
            key: content.key,
            headers: content.headers.into(),
            value: content.value,
            id: entry.id,
        };
        if printer.print(&shown)? == Printed::Enough {
            break;
        }
    }
    Ok(())
}
