//! `railgun segment`: what of a stream lies in the bucket, and bringing it there.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use railgun_client::{SegmentList, StreamName};
use railgun_cold::BucketUrl;
use serde_json::Value;

use crate::exit::{CommandResult, Exit, Failure};
use crate::failure;
use crate::output::format::rfc3339;
use crate::output::table::{Listing, Table, print};
use crate::position::Span;
use crate::server::ServerArgs;

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
    let client = server.connect().await?;
    let admin = client.admin();
    let result = match args.command {
        SegmentCommand::Ls { stream, files, sql, listing } => {
            let list = admin.list_segments(&stream).await;
            let list = list.map_err(|error| failure::admin(&error, Some(&stream)))?;
            match (files, sql) {
                (true, _) => print(&lines(&paths(&list)?)),
                (_, true) => print(&query(&stream, &list)?),
                _ => table(&list, listing),
            }
        }
        SegmentCommand::Seal { stream, retire, timeout } => {
            let sealed = admin.seal_stream(&stream, retire, timeout.0).await;
            let sealed = sealed.map_err(|error| failure::admin(&error, Some(&stream)))?;
            let mut text = format!("{stream}: in the bucket up to offset {}", sealed.cold_end);
            if retire {
                let _ = write!(text, ", {} log files freed", sealed.files_retired);
            }
            print(&format!("{text}\n"))
        }
    };
    client.close().await;
    result
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

fn lines(paths: &[String]) -> String {
    paths.iter().map(|path| format!("{path}\n")).collect()
}

/// Where an engine finds the objects, each once, in the order of their records.
fn paths(list: &SegmentList) -> Result<Vec<String>, Failure> {
    let bucket: BucketUrl = list.bucket.parse().map_err(|error| {
        Failure::new(Exit::Failed, format!("the server's bucket cannot be named: {error}"))
    })?;
    let mut seen = BTreeSet::new();
    let keys = list.segments.iter().map(|segment| segment.key.as_str());
    Ok(keys.filter(|key| seen.insert(*key)).map(|key| bucket.locate(key)).collect())
}

/// The query over exactly the committed objects; a glob may find one that a crash left behind.
fn query(stream: &StreamName, list: &SegmentList) -> Result<String, Failure> {
    let (Some(first), Some(last)) = (list.segments.first(), list.segments.last()) else {
        let text = format!("stream '{stream}' has nothing in the bucket yet");
        return Err(
            Failure::new(Exit::NotFound, text).next(format!("railgun segment seal {stream}"))
        );
    };
    let quoted = |path: &String| format!("  '{}'", path.replace('\'', "''"));
    let files: Vec<String> = paths(list)?.iter().map(quoted).collect();
    Ok(format!(
        "SELECT \"offset\", ts, producer_ts, msg_id, key, headers, value, crc32c, term, flags\n\
         FROM read_parquet([\n{}\n])\n\
         WHERE stream_uid = '{}' AND \"offset\" BETWEEN {} AND {}\n\
         ORDER BY \"offset\"\n",
        files.join(",\n"),
        list.stream_uid,
        first.base_offset,
        last.last_offset(),
    ))
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
    fn the_query_names_each_object_once_and_the_exact_range() {
        let stream = StreamName::new("orders").unwrap();
        let sql = query(&stream, &list()).unwrap();
        assert_eq!(
            sql,
            "SELECT \"offset\", ts, producer_ts, msg_id, key, headers, value, crc32c, term, flags\n\
             FROM read_parquet([\n  '/b/a.parquet',\n  '/b/it''s.parquet'\n])\n\
             WHERE stream_uid = '01010101010101010101010101010101' AND \"offset\" BETWEEN 0 AND 11\n\
             ORDER BY \"offset\"\n"
        );
        let empty = SegmentList { segments: Vec::new(), ..list() };
        assert_eq!(query(&stream, &empty).unwrap_err().exit(), Exit::NotFound);
    }
}
