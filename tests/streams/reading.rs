use railgun_client::{Client, Event, Message, Offset, StartPosition, Timestamp};
use railgun_testkit::{TestNode, records};

use crate::{drain, name, publish_numbers, publisher};

#[tokio::test(flavor = "multi_thread")]
async fn every_start_begins_where_it_says() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "starts").await;
    publish_numbers(&publisher, 0..10).await;
    let later = publisher.send(Message::new("10")).await.expect("sent").await.expect("published");
    publish_numbers(&publisher, 11..20).await;
    let cases = [
        (StartPosition::Earliest, 0),
        (StartPosition::Offset(Offset(7)), 7),
        (StartPosition::Offset(Offset(19)), 19),
        (StartPosition::Last(3), 17),
        (StartPosition::Last(100), 0),
        (StartPosition::Time(later.ts), 10),
        (StartPosition::Time(Timestamp(0)), 0),
        (StartPosition::Latest, 20),
        (StartPosition::Offset(Offset(20)), 20),
    ];
    for (start, first) in cases {
        let reader = client.subscribe(name("starts")).start(start).until_end();
        let (offsets, ..) = drain(reader.open().await.expect("opened")).await;
        assert_eq!(offsets, (first..20).collect::<Vec<_>>(), "{start:?}");
    }
    let reader = client.subscribe(name("starts")).start(StartPosition::Earliest);
    let reader = reader.until_offset(Offset(5)).open().await.expect("opened");
    assert_eq!(drain(reader).await.0, [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_what_comes_later() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "live").await;
    let mut reader =
        client.subscribe(name("live")).start(StartPosition::Latest).open().await.expect("opened");
    publish_numbers(&publisher, 0..100).await;
    for number in 0..100 {
        let Some(Event::Data(record)) = reader.next().await.expect("readable") else {
            panic!("no record")
        };
        assert_eq!(record.offset, Offset(number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_credit_is_enough_for_large_batches() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "large").await;
    let mut tickets = Vec::new();
    for _ in 0..20 {
        tickets.push(publisher.send(Message::new(vec![7; 300_000])).await.expect("sent"));
    }
    for ticket in tickets {
        ticket.await.expect("published");
    }
    let reader = client.subscribe(name("large")).start(StartPosition::Earliest);
    let mut reader = reader.until_end().credit_bytes(1).open().await.expect("opened");
    let mut count = 0;
    while let Some(Event::Data(record)) = reader.next().await.expect("readable") {
        assert_eq!(record.value.len(), 300_000);
        count += 1;
    }
    assert_eq!(count, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_read_the_same_from_either_tier() {
    // T-2: the same records from the log, from a bundle by way of the broker, from both, and from
    // the bucket alone.
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "tiers").await;
    let mut tickets = Vec::new();
    for number in 0..500_u64 {
        // Every third has all there is.
        let mut message = Message::new(number.to_string());
        if number % 3 == 0 {
            message = message.with_key(format!("k{number}")).with_header("a", "1");
            message = message.with_header("a", "").with_id(format!("id-{number}"));
            message.producer_ts = Some(Timestamp(number as i64 - 7));
        }
        tickets.push(publisher.send(message).await.expect("sent"));
    }
    for ticket in tickets {
        ticket.await.expect("published");
    }
    let timeout = std::time::Duration::from_secs(20);
    let sealed = client.admin().seal_stream(&name("tiers"), false, timeout).await.expect("sealed");
    assert_eq!(sealed.cold_end, Offset(500));
    let segments = client.admin().list_segments(&name("tiers")).await.expect("listed");
    assert_eq!(segments.segments.iter().map(|s| s.count).sum::<u64>(), 500);
    let all = |client: Client| async move {
        let reader = client.subscribe(name("tiers")).start(StartPosition::Earliest).until_end();
        records::drain(reader.open().await.expect("opened")).await
    };
    let (from_the_log, sources) = all(client.clone()).await;
    assert_eq!(sources, ["ring"]);
    let sealed = client.admin().seal_stream(&name("tiers"), true, timeout).await.expect("sealed");
    assert!(sealed.files_retired > 0);
    let (from_the_bucket, sources) = all(client.clone()).await;
    assert_eq!(sources, ["cold"]);
    assert_eq!(from_the_bucket.len(), 500);
    assert_eq!(from_the_log, from_the_bucket);
    let values = from_the_bucket.iter().map(|record| &record.value[..]);
    assert!(values.eq((0..500).map(|number| number.to_string().into_bytes())));
    publish_numbers(&publisher, 500..600).await;
    let (from_both, sources) = all(client.clone()).await;
    assert_eq!(sources, ["cold", "ring"]);
    assert_eq!((from_both.len(), &from_both[..500]), (600, &from_the_log[..]));

    // Straight from the bucket, without the broker.
    let url = format!("file://{}", node.bucket_dir().display());
    let options = railgun_cold::BucketOptions::new(1);
    let bucket = railgun_cold::Bucket::open(&url, &options).expect("opened");
    let options = railgun_cold::ReaderOptions::default();
    let replay = railgun_cold::Replay::open(&bucket, None, &options).await.expect("one cluster");
    let stream = replay.stream(&name("tiers")).expect("in the manifest");
    assert_eq!(stream.uid, segments.stream_uid);
    let all = railgun_cold::replay::ReplayBound::Unbounded;
    let replayed = records::replay(&replay, stream, all, all).await;
    assert_eq!(replayed, from_the_log);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retired_is_read_from_the_bucket() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "old").await;
    publish_numbers(&publisher, 0..500).await;
    let timeout = std::time::Duration::from_secs(20);
    let sealed = client.admin().seal_stream(&name("old"), true, timeout).await.expect("sealed");
    assert_eq!((sealed.cold_end, sealed.files_retired), (Offset(500), 1));
    publish_numbers(&publisher, 500..510).await;
    let all = |client: railgun_client::Client| async move {
        let reader = client.subscribe(name("old")).start(StartPosition::Earliest).until_end();
        drain(reader.open().await.expect("opened")).await
    };
    let (offsets, values, sources) = all(client.clone()).await;
    assert_eq!(offsets, (0..510).collect::<Vec<_>>());
    assert!(values.iter().enumerate().all(|(i, value)| *value == i.to_string()));
    assert_eq!(sources, ["cold", "ring"]);
    // The same after a restart from the snapshot and the log above it.
    client.close().await;
    let node = node.restart(Default::default()).await;
    let client = node.client().await;
    let (offsets, values, sources) = all(client.clone()).await;
    assert_eq!(offsets, (0..510).collect::<Vec<_>>());
    assert!(values.iter().enumerate().all(|(i, value)| *value == i.to_string()));
    assert_eq!(sources[0], "cold");
    // A time that lies in the cold tier is found there.
    let reader = client.subscribe(name("old")).start(StartPosition::Time(Timestamp(0)));
    let (offsets, ..) = drain(reader.until_end().open().await.expect("opened")).await;
    assert_eq!(offsets.len(), 510);
}
