//! A crash at every step from the seal to the mirror: the next life goes on where the last one
//! stopped, nothing is lost, and the bucket never has a hole (I1, I2, I4).

use railgun_client::{Client, StartPosition};
use railgun_cold::testing::{Conditions, Fault, Operation};
use railgun_testkit::TestNode;

use crate::records::{Told, bulky, message, publish, read, replay_all};
use crate::store::{BUNDLES, DATA, MANIFESTS, Rule, SEGMENTS, Store};
use crate::{LIMIT, drained, name, publisher, replays_in_the_end};

/// Two streams that one cut brings into two objects.
const LARGE: &str = "large";
const SMALL: &str = "small";

/// Publishes, begins a cut, crashes when `stop` has made the upload hang, and looks at what is left.
async fn crash_at(stop: Rule, conditions: Conditions) {
    let store = Store::new(conditions);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let bulk = (0..5).map(|n| bulky(n, 900 << 10));
    let large = publish(&publisher(&client, LARGE).await, bulk).await;
    let small = publish(&publisher(&client, SMALL).await, (0..100).map(message)).await;

    store.fail([stop.clone()]);
    let sealing = tokio::spawn({
        let client = client.clone();
        async move { client.admin().seal_stream(&name(SMALL), true, LIMIT).await }
    });
    store.struck(&stop).await;
    // What hangs hangs on; the next life finds a bucket that works, as others do at this moment.
    store.heal();
    for (stream, told) in [(LARGE, &large), (SMALL, &small)] {
        let there = replay_all(&store.bucket, stream).await;
        assert_eq!(there, told[..there.len()], "{stop:?}: {stream} in the bucket");
    }
    let node = node.crash(store.node()).await;
    sealing.abort();
    client.close().await;

    let client = node.client().await;
    check(&client, &store, LARGE, &large).await;
    check(&client, &store, SMALL, &small).await;
    // The second life's upload is the first one's: the same bytes under the same key.
    assert_eq!(store.keys(SEGMENTS).await.len(), 1, "{stop:?}");
    assert_eq!(store.keys(BUNDLES).await.len(), 1, "{stop:?}");

    let more = publish(&publisher(&client, SMALL).await, (100..120).map(message)).await;
    crate::retire(&client, SMALL).await;
    let small = [small, more].concat();
    check(&client, &store, SMALL, &small).await;
}

async fn check(client: &Client, store: &Store, stream: &str, told: &[Told]) {
    drained(client, stream).await;
    assert_eq!(read(client, stream, StartPosition::Earliest).await.0, told, "{stream}");
    let listed = client.admin().list_segments(&name(stream)).await.expect("listed").segments;
    let mut next = 0;
    for segment in &listed {
        assert_eq!(segment.base_offset.0, next, "{stream}: {listed:?}");
        next += segment.count;
    }
    assert_eq!(next, told.len() as u64, "{stream}: {listed:?}");
    // Committed is not mirrored: the mirror follows by itself.
    replays_in_the_end(&store.bucket, stream, told).await;
}

macro_rules! crash {
    ($name:ident, $stop:expr) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            crash_at($stop, Conditions::Honoured).await;
        }
    };
}

crash!(after_the_seal, Rule::new(Operation::Head, DATA, Fault::Hangs));
crash!(in_the_first_upload, Rule::new(Operation::Put, SEGMENTS, Fault::Hangs));
crash!(in_the_second_upload, Rule::new(Operation::Put, BUNDLES, Fault::Hangs));
crash!(
    after_an_upload_before_its_commit,
    Rule::new(Operation::Head, DATA, Fault::Hangs).once_put()
);
crash!(after_the_commits_before_the_mirror, Rule::new(Operation::Head, MANIFESTS, Fault::Hangs));
crash!(in_the_upload_of_the_mirror, Rule::new(Operation::Put, MANIFESTS, Fault::Hangs));
crash!(
    after_the_mirror_before_it_is_noted,
    Rule::new(Operation::Head, MANIFESTS, Fault::Hangs).once_put()
);

#[tokio::test(flavor = "multi_thread")]
async fn before_a_commit_on_a_store_that_ignores_conditions() {
    let stop = Rule::new(Operation::Head, DATA, Fault::Hangs).once_put();
    crash_at(stop, Conditions::Ignored).await;
}
