//! Small streams share objects, large ones have their own (DESIGN §1.4).

use railgun_client::{Client, StartPosition};
use railgun_cold::replay::{Replay, ReplayBound};
use railgun_cold::testing::Conditions;
use railgun_cold::{Bucket, ReaderOptions};
use railgun_testkit::TestNode;

use crate::records::{Told, bulky, message, publish, read, replay_all};
use crate::store::{BUNDLES, DATA, SEGMENTS, Store};
use crate::{name, publisher, retire};

/// Kinds of the objects that hold a stream, in order: whether each is a bundle.
pub(crate) async fn kinds(client: &Client, stream: &str) -> Vec<bool> {
    let listed = client.admin().list_segments(&name(stream)).await.expect("listed");
    listed.segments.iter().map(|segment| segment.bundle).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_small_streams_cost_one_put_and_each_is_read_back() {
    const STREAMS: u64 = 1_000;
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let all = client.multi_publisher().open();
    let mut told = Vec::new();
    for number in 0..STREAMS {
        let stream = format!("small.{number:04}");
        client.admin().create_if_absent(&name(&stream)).await.expect("ensured");
        let publisher = all.bind(name(&stream)).await.expect("bound");
        // Every stream has some that its neighbours have not.
        let messages = (number..number + 2 + number % 3).map(message);
        told.push((stream, publish(&publisher, messages).await));
    }
    retire(&client, "small.0000").await;
    assert_eq!((store.puts(BUNDLES), store.puts(SEGMENTS)), (1, 0));
    for (stream, told) in &told {
        let seen = read(&client, stream, StartPosition::Earliest).await;
        assert_eq!(seen, (told.clone(), vec!["cold"]), "{stream}");
    }
    assert_eq!(kinds(&client, "small.0000").await, [true]);
    assert_eq!(kinds(&client, "small.0999").await, [true]);
    replays_each(&store.bucket, &told).await;
}

/// One look at the manifests, then every stream.
async fn replays_each(bucket: &Bucket, told: &[(String, Vec<Told>)]) {
    let replay = Replay::open(bucket, None, &ReaderOptions::default()).await.expect("a cluster");
    for (stream, told) in told {
        let found = replay.stream(&name(stream)).expect("in the manifest");
        let (from, until) = (ReplayBound::Unbounded, ReplayBound::Unbounded);
        let mut cursor = replay.read(found, from, until).await.expect("readable");
        let mut values = Vec::new();
        while let Some(batches) = cursor.next().await {
            for batch in batches.expect("readable") {
                let contents = batch.batch.records().map(|entry| entry.content().expect("decodes"));
                values.extend(contents.map(|content| content.value.to_vec()));
            }
        }
        let published: Vec<_> = told.iter().map(|told| told.value.clone()).collect();
        assert_eq!(values, published, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_stream_has_segments_of_its_own_beside_a_bundle() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let large = publisher(&client, "large").await;
    let large = publish(&large, (0..5).map(|n| bulky(n, 900 << 10))).await;
    let mut small = Vec::new();
    for stream in ["small.a", "small.b", "small.c"] {
        let publisher = publisher(&client, stream).await;
        small.push((stream, publish(&publisher, (0..20).map(message)).await));
    }
    retire(&client, "large").await;
    assert_eq!((store.puts(SEGMENTS), store.puts(BUNDLES)), (1, 1));
    assert_eq!(kinds(&client, "large").await, [false]);
    assert_eq!(read(&client, "large", StartPosition::Earliest).await, (large, vec!["cold"]));
    for (stream, told) in small {
        assert_eq!(kinds(&client, stream).await, [true], "{stream}");
        let seen = read(&client, stream, StartPosition::Earliest).await;
        assert_eq!(seen, (told.clone(), vec!["cold"]), "{stream}");
        assert_eq!(replay_all(&store.bucket, stream).await, told, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_cut_each_for_itself() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(railgun_testkit::NodeOptions { shards: 2, ..store.node() });
    let node = node.await;
    let client = node.client().await;
    let mut told = Vec::new();
    for number in 0..20 {
        let stream = format!("s{number}");
        let publisher = publisher(&client, &stream).await;
        told.push((stream, publish(&publisher, (number..number + 5).map(message)).await));
    }
    client.close().await;
    // A node that is told to stop cuts everything.
    let node = node.restart(store.node()).await;
    assert_eq!(store.puts(DATA), 2);
    let client = node.client().await;
    for (stream, told) in told {
        assert_eq!(replay_all(&store.bucket, &stream).await, told, "{stream}");
        assert_eq!(read(&client, &stream, StartPosition::Earliest).await.0, told, "{stream}");
    }
}
