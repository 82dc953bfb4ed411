//! The query with which any engine reads a stream from the bucket: over exactly the committed
//! objects, because a plain glob may find an object that a crash left behind (DESIGN §3).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use railgun_core::manifest::ShardManifest;
use railgun_types::StreamUid;

use crate::bucket::BucketUrl;
use crate::reader::ColdPart;

/// The committed objects of `stream`, as an engine opens them: file paths or `s3://` URLs, in the
/// order of their records. Empty if the stream has nothing in the bucket.
#[must_use]
pub fn files(bucket: &BucketUrl, manifest: &ShardManifest, stream: StreamUid) -> Vec<String> {
    let ranges = manifest.streams.get(&stream).map_or(&[][..], |stream| &stream.ranges);
    let mut seen = BTreeSet::new();
    ranges
        .iter()
        .filter_map(|range| ColdPart::new(manifest, stream, range))
        .filter(|part| seen.insert(part.object.key.clone()))
        .map(|part| bucket.locate(&part.object.key))
        .collect()
}

/// The query that returns every committed record of `stream` once, in order. In DuckDB's dialect;
/// `None` if the stream has nothing in the bucket.
#[must_use]
pub fn query(bucket: &BucketUrl, manifest: &ShardManifest, stream: StreamUid) -> Option<String> {
    let told = manifest.streams.get(&stream)?;
    let (first, last) = (told.ranges.first()?.base.0, told.end().0.checked_sub(1)?);
    let mut sql = String::from(
        "SELECT \"offset\", ts, producer_ts, msg_id, key, headers, value, crc32c, term, flags\n\
         FROM read_parquet([\n",
    );
    let files = files(bucket, manifest, stream);
    for (number, file) in files.iter().enumerate() {
        let comma = if number + 1 < files.len() { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(sql, "  '{}'{comma}", file.replace('\'', "''"));
    }
    let _ = write!(
        sql,
        "])\nWHERE stream_uid = '{stream}' AND \"offset\" BETWEEN {first} AND {last}\n\
         ORDER BY \"offset\""
    );
    Some(sql)
}
