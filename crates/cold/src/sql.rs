//! The query with which any engine reads a stream from the bucket: over exactly the committed
//! objects, because a plain glob may find an object that a crash left behind (DESIGN §3).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use railgun_types::{Offset, StreamUid};

use crate::bucket::BucketUrl;

/// What has to be said to DuckDB before it reads from S3. Comments, so that the text stays one
/// query; and placeholders, because the endpoint and the credentials are those of whoever reads.
const S3_PREPARATION: &str = "\
-- DuckDB reads s3:// with its httpfs extension. Before this query, once per session:
--   INSTALL httpfs; LOAD httpfs;
--   SET s3_region = 'REGION'; SET s3_access_key_id = 'KEY'; SET s3_secret_access_key = 'SECRET';
-- and for another store than Amazon's (s3_use_ssl = false where it speaks plain http):
--   SET s3_endpoint = 'HOST:PORT'; SET s3_url_style = 'path'; SET s3_use_ssl = true;
";

/// The records of one stream that are in the bucket.
#[derive(Clone, Debug)]
pub struct Committed<'a> {
    /// The bucket.
    pub bucket: &'a BucketUrl,
    /// The stream.
    pub stream: StreamUid,
    /// Keys of the objects in the order of the stream's ranges; those of neighbouring ranges may be
    /// the same.
    pub keys: Vec<&'a str>,
    /// The first record.
    pub first: Offset,
    /// The last record, inclusive.
    pub last: Offset,
}

impl Committed<'_> {
    /// The objects as an engine opens them, each once: file paths or `s3://` URLs.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let keys = self.keys.iter().filter(|key| seen.insert(**key));
        keys.map(|key| self.bucket.locate(key)).collect()
    }

    /// The query that returns every record once, in order. In DuckDB's dialect; on S3 comments in
    /// front of it say what DuckDB needs.
    #[must_use]
    pub fn query(&self) -> String {
        let mut sql = match self.bucket {
            BucketUrl::S3 { .. } => S3_PREPARATION.to_owned(),
            BucketUrl::File { .. } | BucketUrl::Memory => String::new(),
        };
        let quoted = |file: &String| format!("  '{}'", file.replace('\'', "''"));
        let files: Vec<_> = self.files().iter().map(quoted).collect();
        // Writing to a string cannot fail.
        let _ = write!(
            sql,
            "SELECT \"offset\", ts, producer_ts, msg_id, key, headers, value, crc32c, term, flags\n\
             FROM read_parquet([\n{}\n])\n\
             WHERE stream_uid = '{}' AND \"offset\" BETWEEN {} AND {}\n\
             ORDER BY \"offset\"\n",
            files.join(",\n"),
            self.stream,
            self.first,
            self.last,
        );
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(bucket: &BucketUrl) -> Committed<'_> {
        Committed {
            bucket,
            stream: StreamUid([1; 16]),
            keys: vec!["a.parquet", "it's.parquet", "it's.parquet"],
            first: Offset(0),
            last: Offset(11),
        }
    }

    const QUERY: &str = "\
SELECT \"offset\", ts, producer_ts, msg_id, key, headers, value, crc32c, term, flags
FROM read_parquet([
  '/b/a.parquet',
  '/b/it''s.parquet'
])
WHERE stream_uid = '01010101010101010101010101010101' AND \"offset\" BETWEEN 0 AND 11
ORDER BY \"offset\"
";

    #[test]
    fn the_query_names_each_object_once_and_the_exact_range() {
        let bucket = "file:///b".parse().unwrap();
        assert_eq!(committed(&bucket).query(), QUERY);
        assert_eq!(committed(&bucket).files(), ["/b/a.parquet", "/b/it's.parquet"]);
    }

    #[test]
    fn on_s3_the_query_is_the_same_behind_what_duckdb_needs() {
        let bucket = "s3://logs/prefix".parse().unwrap();
        let sql = committed(&bucket).query();
        let (comments, query) = sql.split_at(sql.find("SELECT").unwrap());
        assert_eq!(query, QUERY.replace("'/b/", "'s3://logs/prefix/"));
        assert!(comments.lines().all(|line| line.starts_with("--")), "{comments}");
        assert!(comments.contains("LOAD httpfs"), "{comments}");
    }
}
