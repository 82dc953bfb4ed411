//! `railgun segment`: what of a stream lies in the bucket, and bringing it there.

use std::fmt::Write as _;

use railgun_client::{Client, SegmentList, StreamName};
use railgun_cold::BucketUrl;
use railgun_cold::sql::Committed;
use serde_json::Value;

use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::format::rfc3339;
use crate::output::progress;
use crate::output::table::{Listing, Table, print};
use crate::server::ServerArgs;
use crate::span::Span;

/// See and make the objects in the bucket
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun segment ls orders
  duckdb -c \"$(railgun segment ls orders --sql)\"
  railgun segment seal orders --timeout 5m")]
pub(crate) struct SegmentArgs {
    #[command(subcommand)]
    command: SegmentCommand,
}

#[derive(Debug, clap::Subcommand)]
enum SegmentCommand {
    /// List the objects that hold a stream's records
    #[command(after_help = "Examples:
  railgun segment ls orders
  railgun segment ls orders --files
  duckdb -c \"$(railgun segment ls orders --sql)\"")]
    Ls {
        /// The stream
        #[arg(value_parser = StreamName::parse_any)]
        stream: StreamName,
        /// Print only where the objects are, for Parquet readers
        #[arg(long, conflicts_with = "sql")]
        files: bool,
        /// Print the query that reads every record once, in DuckDB's dialect
        #[arg(long)]
        sql: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Bring everything published so far into the bucket; returns when it is there
    #[command(after_help = "Examples:
  railgun segment seal orders
  railgun segment seal orders --retire --timeout 5m")]
    Seal {
        /// The stream
        #[arg(value_parser = StreamName::parse_any)]
        stream: StreamName,
        /// Also free the local log up to there
        #[arg(long)]
        retire: bool,
        /// How long to wait; it goes on after that
        #[arg(long, value_name = "SPAN", default_value = "60s")]
        timeout: Span,
    },
}

/// Runs `railgun segment …`.
pub(crate) async fn run(args: SegmentArgs, server: &ServerArgs) -> CommandResult {
    server.with_client(async |client| answer(args.command, client).await).await
}

async fn answer(command: SegmentCommand, client: &Client) -> CommandResult {
    let admin = client.admin();
    match command {
        SegmentCommand::Ls { stream, files, sql, listing } => {
            let list = admin.list_segments(&stream).await;
            let list = list.map_err(|error| explain::admin(&error, Some(&stream)))?;
            match (files, sql) {
                (true, _) => print(&locations(&list)?),
                (_, true) => print(&query(&stream, &list)?),
                _ => table(&list, listing),
            }
        }
        SegmentCommand::Seal { stream, retire, timeout } => {
            let waiting = progress::waiting(format!("{stream}: on its way to the bucket,"));
            let sealed = admin.seal_stream(&stream, retire, timeout.0).await;
            waiting.finish_and_clear();
            let sealed = sealed.map_err(|error| explain::admin(&error, Some(&stream)))?;
            let mut text = format!("{stream}: in the bucket up to offset {}", sealed.cold_end);
            if retire {
                let _ = write!(text, ", {} log files freed", sealed.files_retired);
            }
            print(&format!("{text}\n"))
        }
    }
}

fn table(list: &SegmentList, listing: Listing) -> CommandResult {
    let columns = ["base", "last", "records", "bytes", "from", "to", "kind", "object bytes", "key"];
    let mut table = Table::new(&columns);
    for segment in &list.segments {
        table.row([
            Value::from(segment.base_offset.0),
            segment.last_offset().0.into(),
            segment.count.into(),
            segment.record_bytes.into(),
            rfc3339(segment.min_ts.0).into(),
            rfc3339(segment.max_ts.0).into(),
            if segment.bundle { "bundle" } else { "segment" }.into(),
            segment.object_bytes.into(),
            segment.key.as_str().into(),
        ]);
    }
    listing.print(&table)
}

/// Where an engine finds the objects, one a line.
fn locations(list: &SegmentList) -> Result<String, Failure> {
    let bucket = bucket(list)?;
    let files = committed(list, &bucket).map(|committed| committed.files()).unwrap_or_default();
    Ok(files.iter().map(|file| format!("{file}\n")).collect())
}

fn query(stream: &StreamName, list: &SegmentList) -> Result<String, Failure> {
    let bucket = bucket(list)?;
    committed(list, &bucket).map(|committed| committed.query()).ok_or_else(|| {
        let text = format!("stream '{stream}' has nothing in the bucket yet");
        Failure::new(Exit::NotFound, text).next(format!("railgun segment seal {stream}"))
    })
}

/// `None` if nothing is.
fn committed<'a>(list: &'a SegmentList, bucket: &'a BucketUrl) -> Option<Committed<'a>> {
    let (first, last) = (list.segments.first()?, list.segments.last()?);
    Some(Committed {
        bucket,
        stream: list.stream_uid,
        keys: list.segments.iter().map(|segment| segment.key.as_str()).collect(),
        first: first.base_offset,
        last: last.last_offset(),
    })
}

fn bucket(list: &SegmentList) -> Result<BucketUrl, Failure> {
    list.bucket.parse().map_err(|error| {
        Failure::new(Exit::Failed, format!("the server's bucket cannot be named: {error}"))
            .next("railgun segment ls STREAM, which lists the keys")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_client::{Offset, StreamUid, Timestamp};

    fn list() -> SegmentList {
        let segment = |base, count, key: &str| railgun_client::Segment {
            base_offset: Offset(base),
            count,
            min_ts: Timestamp(0),
            max_ts: Timestamp(0),
            record_bytes: 1,
            key: key.into(),
            object_bytes: 1,
            bundle: false,
        };
        SegmentList {
            stream_uid: StreamUid([1; 16]),
            bucket: "file:///b".into(),
            segments: vec![
                segment(0, 5, "a.parquet"),
                segment(5, 5, "it's.parquet"),
                segment(10, 2, "it's.parquet"),
            ],
        }
    }

    #[test]
    fn a_query_covers_all_segments_and_needs_one() {
        let stream = StreamName::new("orders").unwrap();
        let sql = query(&stream, &list()).unwrap();
        assert!(sql.contains("'/b/a.parquet',\n  '/b/it''s.parquet'\n"), "{sql}");
        assert!(sql.contains("BETWEEN 0 AND 11"), "{sql}");
        assert_eq!(locations(&list()).unwrap(), "/b/a.parquet\n/b/it's.parquet\n");
        let empty = SegmentList { segments: Vec::new(), ..list() };
        assert_eq!(query(&stream, &empty).unwrap_err().exit(), Exit::NotFound);
        assert_eq!(locations(&empty).unwrap(), "");
    }
}
