//! A stream that lies partly in segments and partly in bundles, read without a broker, and with
//! one: equal to what was published, from every bound (T-2).

use railgun_client::{Client, Offset, StartPosition, Timestamp};
use railgun_cold::replay::ReplayBound;
use railgun_cold::testing::Conditions;
use railgun_testkit::TestNode;

use crate::bundles::kinds;
use crate::records::{Told, bulky, message, publish, read, replay, replay_all};
use crate::store::Store;
use crate::{publisher, retire};

/// Publishes to `stream` in parts that go to a bundle, a segment and another bundle.
pub(crate) async fn in_all_kinds_of_objects(client: &Client, stream: &str) -> Vec<Told> {
    let neighbour = publisher(client, "neighbour").await;
    let publisher = publisher(client, stream).await;
    let mut told = Vec::new();
    for part in 0..3 {
        publish(&neighbour, (0..20).map(message)).await;
        let messages = (part * 100..part * 100 + 100).map(|number| {
            // 100 times 50 KiB make a segment.
            let bulk = bulky(number, 50 << 10).value;
            let message = message(number);
            if part == 1 && number % 8 < 3 {
                railgun_client::Message { value: bulk, ..message }
            } else if part == 1 {
                message.with_header("bulk", bulk.slice(..15 << 10))
            } else {
                message
            }
        });
        let messages: Vec<_> = messages.collect();
        // In several batches, so that log times differ.
        for chunk in messages.chunks(10) {
            told.extend(publish(&publisher, chunk.iter().cloned()).await);
        }
        if part == 1 {
            told.extend(publish(&publisher, (0..60).map(|n| bulky(n, 70 << 10))).await);
        }
        retire(client, stream).await;
    }
    assert_eq!(kinds(client, stream).await, [true, false, true]);
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_all_kinds_of_objects_comes_back_as_it_was() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let told = in_all_kinds_of_objects(&client, "mixed").await;
    let seen = read(&client, "mixed", StartPosition::Earliest).await;
    assert_eq!(seen, (told.clone(), vec!["cold"]));
    client.close().await;
    drop(node);
    assert_eq!(replay_all(&store.bucket, "mixed").await, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bound_of_a_replay_and_every_start_is_exact() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let told = in_all_kinds_of_objects(&client, "mixed").await;
    let end = told.len() as u64;
    // Bounds at, before and behind the borders of objects (100 and 260) and of batches.
    let mut offsets: Vec<u64> = [0, 1, 55, 99, 100, 101, 180, 259, 260, 261, end - 1, end].into();
    offsets.push(end + 5);
    for &from in &offsets {
        let until = (from + 37).min(end);
        let bounds = (ReplayBound::Offset(Offset(from)), ReplayBound::Offset(Offset(until)));
        let seen = replay(&store.bucket, "mixed", bounds.0, bounds.1).await;
        assert_eq!(seen, told[from.min(end) as usize..until as usize], "{from} to {until}");
        if from <= end {
            let start = StartPosition::Offset(Offset(from));
            assert_eq!(read(&client, "mixed", start).await.0, told[from as usize..], "from {from}");
        }
        // The first record at or after a time, and what lies before that time.
        let Some(ts) = told.get(from as usize).map(|record| record.ts) else { continue };
        for ts in [ts - 1, ts, ts + 1] {
            let first = told.iter().position(|record| record.ts >= ts).unwrap_or(told.len());
            let time = ReplayBound::Time(Timestamp(ts));
            let after = replay(&store.bucket, "mixed", time, ReplayBound::Unbounded).await;
            assert_eq!(after, told[first..], "from time {ts}");
            let before = replay(&store.bucket, "mixed", ReplayBound::Unbounded, time).await;
            assert_eq!(before, told[..first], "until time {ts}");
            let start = StartPosition::Time(Timestamp(ts));
            let after = read(&client, "mixed", start).await.0;
            assert_eq!(after, told[first..], "start at {ts}");
        }
    }
    let last = read(&client, "mixed", StartPosition::Last(110)).await.0;
    assert_eq!(last, told[told.len() - 110..]);
}
