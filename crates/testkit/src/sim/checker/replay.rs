//! Reads every stream as `railgun replay` does: manifests and objects, no broker.

use std::collections::BTreeMap;

use railgun_cold::replay::ReplayBound;
use railgun_cold::{ReaderOptions, Replay};
use railgun_types::{Offset, StreamUid};

use super::super::history::History;
use super::super::node::SimNode;

/// Where each stream ends in the bucket. Its records are compared on the way.
pub(super) async fn ends(node: &SimNode, history: &History) -> BTreeMap<StreamUid, Offset> {
    let mut ends = BTreeMap::new();
    let bucket = node.bucket.in_fair_weather();
    let replay = match Replay::open(&bucket, None, &ReaderOptions::default()).await {
        Ok(replay) => replay,
        Err(error) => {
            history.violated("replay", format_args!("the bucket cannot be replayed: {error}"));
            return ends;
        }
    };
    if let Some(warning) = replay.warnings().first() {
        history.violated("replay", format_args!("{warning}"));
    }
    for stream in replay.streams() {
        let uid = stream.uid;
        let mut cursor =
            match replay.read(stream, ReplayBound::Unbounded, ReplayBound::Unbounded).await {
                Ok(cursor) => cursor,
                Err(error) => {
                    history.violated("replay", format_args!("stream {uid}: {error}"));
                    continue;
                }
            };
        let mut next = Offset(0);
        while let Some(batches) = cursor.next().await {
            let batches = match batches {
                Ok(batches) => batches,
                Err(error) => {
                    history.violated("replay", format_args!("stream {uid} at {next}: {error}"));
                    break;
                }
            };
            for batch in batches {
                if batch.base != next {
                    let how = format_args!("{uid} goes on at {}, not at {next}", batch.base);
                    history.violated("replay", how);
                }
                for (at, record) in batch.batch.records().enumerate() {
                    let offset = batch.base.plus(at as u64);
                    history.read(uid, offset, batch.ts, &record.into(), "replay");
                }
                next = batch.end();
            }
        }
        ends.insert(uid, next);
    }
    ends
}
