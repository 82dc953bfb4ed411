//! The cold tier under whole nodes: what is published, sealed and mirrored comes back record by
//! record, by the broker, without it, and by engines that know nothing of it; and neither a crash
//! nor a failing bucket leaves a hole.

mod brokerless;
mod bundles;
mod crashes;
mod cutting;
mod damage;
mod engines;
mod manifests;
mod outages;
mod records;
mod retired;
mod s3;
mod store;
mod wrong_bucket;

use std::time::Duration;

use railgun_client::{Client, Publisher, StreamName};
use railgun_cold::Bucket;

use records::{Told, replay_all};

/// Time for what happens by itself, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn name(name: &str) -> StreamName {
    StreamName::new(name).expect("a valid name")
}

/// A stream that is there, and a publisher for it.
async fn publisher(client: &Client, stream: &str) -> Publisher {
    client.admin().create_if_absent(&name(stream)).await.expect("ensured");
    client.publisher(name(stream)).open().await.expect("opened")
}

/// Looks until `look` says yes; panics when it has not within [`LIMIT`].
async fn eventually<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let looking = async {
        while !look().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(LIMIT, looking).await;
    found.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

/// Waits until the bucket alone tells `told` of `stream`. Whatever it tells before that must be the
/// beginning of it: a hole or another record is wrong at any time.
async fn replays_in_the_end(bucket: &Bucket, stream: &str, told: &[Told]) {
    eventually("the bucket alone tells it", || async {
        let there = replay_all(bucket, stream).await;
        let beginning = told.get(..there.len());
        assert_eq!(Some(&there[..]), beginning, "{stream}: the bucket tells something else");
        there.len() == told.len()
    })
    .await;
}

/// Brings everything of the shards of `stream` into the bucket, and frees the local log.
async fn retire(client: &Client, stream: &str) {
    let sealed = client.admin().seal_stream(&name(stream), true, LIMIT).await;
    assert!(sealed.expect("sealed").files_retired > 0, "{stream}: the log is still there");
}

/// Brings `stream` into the bucket.
async fn seal(client: &Client, stream: &str) {
    client.admin().seal_stream(&name(stream), false, LIMIT).await.expect("sealed");
}

/// Waits until all of `stream` counts as cold.
async fn drained(client: &Client, stream: &str) {
    let (admin, stream) = (&client.admin(), &name(stream));
    eventually("the stream is in the bucket", || async move {
        let told = admin.describe_stream(stream).await.expect("described");
        told.pending_bytes == 0 && told.cold_end == told.next_offset && told.offload_error.is_none()
    })
    .await;
}
