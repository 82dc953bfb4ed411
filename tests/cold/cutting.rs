//! When records are cut without anybody asking: time, the hot budget, a new day.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use railgun_broker::Clock;
use railgun_client::{Offset, StartPosition, Timestamp};
use railgun_cold::testing::Conditions;
use railgun_testkit::{NodeOptions, TestNode};

use crate::records::{bulky, message, publish, read, replay_all};
use crate::store::{BUNDLES, DATA, SEGMENTS, Store};
use crate::{drained, name, publisher, replays_in_the_end, retire};

/// 2026-03-01T23:59:59Z.
const BEFORE_MIDNIGHT_US: i64 = 1_772_409_599_000_000;
const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// Stands still until it is set.
#[derive(Clone, Debug)]
struct SetClock(Arc<AtomicI64>);

impl SetClock {
    fn at(us: i64) -> Self {
        Self(Arc::new(AtomicI64::new(us)))
    }

    fn pass(&self, us: i64) {
        self.0.fetch_add(us, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_due_when_the_oldest_record_is_old_enough() {
    let (store, clock) = (Store::new(Conditions::Honoured), SetClock::at(SECOND_US));
    let max_time_to_cold = Duration::from_secs(600);
    let clock_of_node: Option<Arc<dyn Clock>> = Some(Arc::new(clock.clone()));
    let options = NodeOptions { max_time_to_cold, clock: clock_of_node, ..store.node() };
    let node = TestNode::start_with(options).await;
    let client = node.client().await;
    let old = publish(&publisher(&client, "old").await, (0..20).map(message)).await;
    // A second before it is due, only what somebody asks for is cut.
    clock.pass(599 * SECOND_US);
    let young = publish(&publisher(&client, "young").await, (0..10).map(message)).await;
    let asked = publish(&publisher(&client, "asked").await, (0..10).map(message)).await;
    crate::seal(&client, "asked").await;
    assert_eq!(store.puts(DATA), 1);
    let told = client.admin().describe_stream(&name("old")).await.expect("described");
    assert!(told.pending_bytes > 0 && told.pending_since == Some(Timestamp(SECOND_US)), "{told:?}");
    // Then it takes all that waits with it.
    clock.pass(SECOND_US);
    drained(&client, "old").await;
    drained(&client, "young").await;
    assert_eq!((store.puts(BUNDLES), store.puts(SEGMENTS)), (2, 0));
    for (stream, told) in [("old", old), ("young", young), ("asked", asked)] {
        assert_eq!(read(&client, stream, StartPosition::Earliest).await.0, told, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_holds_up_no_cut() {
    let (store, clock) = (Store::new(Conditions::Honoured), SetClock::at(DAY_US));
    let clock_of_node: Option<Arc<dyn Clock>> = Some(Arc::new(clock.clone()));
    let max_time_to_cold = Duration::from_millis(700);
    let options = NodeOptions { max_time_to_cold, clock: clock_of_node, ..store.node() };
    let node = TestNode::start_with(options).await;
    let client = node.client().await;
    let early = publisher(&client, "early").await;
    // Log time stays a day ahead of the clock from here on.
    let mut told = publish(&early, (0..10).map(message)).await;
    clock.pass(-DAY_US + SECOND_US);
    drained(&client, "early").await;
    told.extend(publish(&early, (10..20).map(message)).await);
    assert!(told.iter().all(|told| told.ts == DAY_US));
    drained(&client, "early").await;
    assert_eq!(store.puts(DATA), 2);
    replays_in_the_end(&store.bucket, "early", &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_due_at_a_quarter_of_the_hot_budget() {
    const MESSAGE_BYTES: usize = 256 << 10;
    let store = Store::new(Conditions::Honoured);
    let options = NodeOptions { hot_bytes_max: 32 << 20, ..store.node() };
    let node = TestNode::start_with(options).await;
    let client = node.client().await;
    // 9 MiB over streams that are small each; a quarter of the budget is 8 MiB.
    let mut told = Vec::new();
    for stream in ["a", "b", "c"] {
        let publisher = publisher(&client, stream).await;
        told.push((stream, publish(&publisher, (0..12).map(|n| bulky(n, MESSAGE_BYTES))).await));
    }
    crate::eventually("most of it is in the bucket", || async {
        let mut cold = 0;
        for stream in ["a", "b", "c"] {
            let told = client.admin().describe_stream(&name(stream)).await.expect("described");
            cold += told.cold_end.0;
        }
        cold >= 30
    })
    .await;
    assert_eq!((store.puts(BUNDLES), store.puts(SEGMENTS)), (1, 0));
    for (stream, told) in told {
        assert_eq!(read(&client, stream, StartPosition::Earliest).await.0, told, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_holds_records_of_two_days() {
    let (store, clock) = (Store::new(Conditions::Honoured), SetClock::at(BEFORE_MIDNIGHT_US));
    let clock_of_node: Option<Arc<dyn Clock>> = Some(Arc::new(clock.clone()));
    let options = NodeOptions { clock: clock_of_node, ..store.node() };
    let node = TestNode::start_with(options).await;
    let client = node.client().await;
    let both = publisher(&client, "both").await;
    let mut told = publish(&both, (0..30).map(message)).await;
    let large = publisher(&client, "large").await;
    let mut bulk = publish(&large, (0..3).map(|n| bulky(n, 900 << 10))).await;
    clock.pass(SECOND_US);
    told.extend(publish(&both, (30..50).map(message)).await);
    bulk.extend(publish(&large, (3..6).map(|n| bulky(n, 900 << 10))).await);
    retire(&client, "both").await;

    let days = |keys: Vec<String>| {
        let day = |key: &String| key.split("dt=").nth(1).map(|rest| rest[..10].to_owned());
        let mut days: Vec<_> = keys.iter().filter_map(day).collect();
        days.sort_unstable();
        days
    };
    let two = ["2026-03-01", "2026-03-02"];
    assert_eq!(days(store.keys(BUNDLES).await), two);
    assert_eq!(days(store.keys(SEGMENTS).await), two);
    for (stream, told, first_day) in [("both", told, 30), ("large", bulk, 3)] {
        let listed = client.admin().list_segments(&name(stream)).await.expect("listed").segments;
        let counts: Vec<_> = listed.iter().map(|segment| segment.count).collect();
        assert_eq!(counts, [first_day, told.len() as u64 - first_day], "{stream}");
        // The same in pages of one; a page begins with the object that holds its offset.
        let end = told.len() as u64;
        for (from, expected) in [
            (0, Some((0, true))),
            (first_day - 1, Some((0, true))),
            (first_day, Some((1, false))),
            (end - 1, Some((1, false))),
            (end, None),
        ] {
            let page = client.admin().list_segments_from(&name(stream), Offset(from), 1).await;
            let page = page.expect("listed");
            let found = expected.map(|(at, more)| (vec![listed[at].clone()], more));
            assert_eq!((page.list.segments, page.more), found.unwrap_or_default(), "{from}");
        }
        let seen = read(&client, stream, StartPosition::Earliest).await;
        assert_eq!(seen, (told.clone(), vec!["cold"]), "{stream}");
        assert_eq!(replay_all(&store.bucket, stream).await, told, "{stream}");
        // The first record of the second day is found by its time.
        let midnight = StartPosition::Time(Timestamp(BEFORE_MIDNIGHT_US + SECOND_US));
        let (seen, _) = read(&client, stream, midnight).await;
        assert_eq!(seen, told[first_day as usize..], "{stream}");
    }
}
