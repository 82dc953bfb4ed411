//! What the local log no longer holds is read from the bucket, whenever the node went down.

use railgun_client::StartPosition;
use railgun_cold::testing::Conditions;
use railgun_testkit::TestNode;

use crate::records::{message, publish, read, replay_all};
use crate::store::Store;
use crate::{publisher, retire};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_right_after_its_log_files_went_reads_on_from_the_bucket() {
    // The log then holds no entry at all, while the checkpoint still points into the old files.
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let mut told = publish(&publisher(&client, "old").await, (0..100).map(message)).await;
    retire(&client, "old").await;
    client.close().await;

    let node = node.crash(store.node()).await;
    let client = node.client().await;
    let (seen, sources) = read(&client, "old", StartPosition::Earliest).await;
    assert_eq!((seen, sources), (told.clone(), vec!["cold"]));
    told.extend(publish(&publisher(&client, "old").await, (100..110).map(message)).await);
    let (seen, sources) = read(&client, "old", StartPosition::Earliest).await;
    assert_eq!((seen, sources), (told.clone(), vec!["cold", "ring"]));
    assert_eq!(replay_all(&store.bucket, "old").await, told[..100]);
}
