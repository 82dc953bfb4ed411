//! A node that is started on a bucket which is not the one its records went to: it ends, and nothing goes
//! there. What would be uploaded to it counts as safe from then on.

use railgun_broker::{NodeFailure, StartError};
use railgun_client::{Client, StartPosition};
use railgun_cold::testing::{Conditions, Fault, Operation};
use railgun_testkit::{NodeOptions, TestNode};

use crate::records::{Told, message, publish, read};
use crate::store::{DATA, MANIFESTS, Rule, Store};
use crate::{LIMIT, drained, eventually, name, publisher, replays_in_the_end};

/// Enough to have some on each shard.
const STREAMS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn node_on(store: &Store) -> NodeOptions {
    NodeOptions { shards: 3, ..store.node() }
}

async fn publish_to_all(client: &Client, from: u64) -> Vec<Told> {
    let mut told = Vec::new();
    for stream in STREAMS {
        told.extend(
            publish(&publisher(client, stream).await, (from..from + 10).map(message)).await,
        );
    }
    told
}

/// Begins to seal every stream; none ends.
fn begin_to_seal(client: &Client) {
    for stream in STREAMS {
        let client = client.clone();
        tokio::spawn(async move { client.admin().seal_stream(&name(stream), false, LIMIT).await });
    }
}

/// Waits until every shard's upload has failed: its plan is in the log.
async fn all_fail(client: &Client) {
    for stream in STREAMS {
        eventually("the upload fails", || async {
            let told = client.admin().describe_stream(&name(stream)).await.expect("described");
            told.offload_error.is_some()
        })
        .await;
    }
}

/// Starts the node that was dropped on an empty bucket of the same address, then on its own.
async fn is_refused(node: TestNode, store: &Store, told: &[Told]) {
    let dir = node.end();
    let empty = Store::new(Conditions::Honoured);
    let node = TestNode::start_in(dir, node_on(&empty)).await.expect("the bucket may be away");
    let failure = tokio::time::timeout(LIMIT, node.broker().failed()).await.expect("it is noticed");
    assert!(matches!(failure, NodeFailure::WrongBucket(_)), "{failure:?}");
    let dir = node.end();
    assert_eq!(empty.puts(""), 0, "nothing goes to a bucket that is not known to be the right one");

    // On the right one everything is there, and what waited goes there.
    let node = TestNode::start_in(dir, node_on(store)).await.expect("it is there again");
    let client = node.client().await;
    let mut seen = Vec::new();
    for stream in STREAMS {
        drained(&client, stream).await;
        let (hot, _) = read(&client, stream, StartPosition::Earliest).await;
        replays_in_the_end(&store.bucket, stream, &hot).await;
        seen.extend(hot);
    }
    let sorted = |told: &[Told]| {
        let mut told: Vec<_> = told.iter().map(|told| format!("{told:?}")).collect();
        told.sort_unstable();
        told
    };
    assert_eq!(sorted(&seen), sorted(told));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_waits_is_not_uploaded_to_an_emptied_bucket() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(node_on(&store)).await;
    let client = node.client().await;
    let mut told = publish_to_all(&client, 0).await;
    for stream in STREAMS {
        crate::seal(&client, stream).await;
    }
    told.extend(publish_to_all(&client, 10).await);
    store.fail([Rule::new(Operation::Put, DATA, Fault::Denied)]);
    begin_to_seal(&client);
    all_fail(&client).await;
    client.close().await;
    store.heal();
    is_refused(node, &store, &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_no_manifest_tells_of_yet_make_a_bucket_the_right_one_too() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(node_on(&store)).await;
    let client = node.client().await;
    store.fail([Rule::new(Operation::Put, MANIFESTS, Fault::Denied)]);
    let told = publish_to_all(&client, 0).await;
    begin_to_seal(&client);
    for stream in STREAMS {
        eventually("it is committed", || async {
            let told = client.admin().describe_stream(&name(stream)).await.expect("described");
            told.cold_end == told.next_offset
        })
        .await;
    }
    client.close().await;
    store.heal();
    is_refused(node, &store, &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_on_a_bucket_that_is_not_there_leaves_the_data_directory_free() {
    let dir = std::sync::Arc::new(tempfile::tempdir().expect("a directory"));
    let denied = Store::new(Conditions::Honoured);
    denied.fail([Rule::all(Fault::Denied)]);
    let refused = TestNode::start_in(dir.clone(), denied.node()).await.expect_err("denied");
    assert!(matches!(refused, StartError::Probe(_)), "{refused:?}");
    // The address was mistyped; this is the right one.
    let node = TestNode::start_in(dir, NodeOptions::default()).await.expect("it starts");
    let client = node.client().await;
    publish(&publisher(&client, "a").await, (0..3).map(message)).await;
}
