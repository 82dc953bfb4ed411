use railgun_client::{Client, ErrorCode, ExpectedEnd, Message, Offset, PublishError, Timestamp};
use railgun_testkit::TestNode;

use crate::{drain, name, publish_numbers, publisher};

#[tokio::test(flavor = "multi_thread")]
async fn offsets_are_dense_and_in_send_order() {
    // PS-1, PS-2
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "orders").await;
    let mut tickets = Vec::new();
    for number in 0..5_000u64 {
        let message = Message::new(number.to_string());
        tickets.push(publisher.send(message).await.expect("sent"));
    }
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await.expect("published").offset, Offset(number as u64));
    }
    let reader = client.subscribe(name("orders")).start(railgun_client::StartPosition::Earliest);
    let (offsets, values, _) = drain(reader.until_end().open().await.expect("opened")).await;
    assert_eq!(offsets, (0..5_000).collect::<Vec<_>>());
    assert!(values.iter().enumerate().all(|(i, value)| *value == i.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expected_end_is_compared_at_apply() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "log").await;
    let first =
        publisher.send_expecting(Message::new("a"), ExpectedEnd::Empty).await.expect("sent");
    assert_eq!(first.await.expect("published").offset, Offset(0));
    let wrong =
        publisher.send_expecting(Message::new("b"), ExpectedEnd::Empty).await.expect("sent");
    match wrong.await {
        Err(PublishError::Refused(error)) => {
            assert_eq!(error.code, ErrorCode::ExpectedOffsetMismatch);
            assert_eq!(error.actual, Some(1));
        }
        other => panic!("{other:?}"),
    }
    publisher.resume().await;
    let right =
        publisher.send_expecting(Message::new("b"), ExpectedEnd::LastOffset(Offset(0))).await;
    assert_eq!(right.expect("sent").await.expect("published").offset, Offset(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_given_up_and_bound_again_loses_and_repeats_nothing() {
    // PQ-1: what is published next must not be taken for a repetition of what went before.
    let node = TestNode::start().await;
    let client = node.client().await;
    for stream in ["a", "b"] {
        client.admin().create_if_absent(&name(stream)).await.expect("ensured");
    }
    let all = client.multi_publisher().open();
    for number in 0..300u64 {
        let stream = ["a", "b"][number as usize % 2];
        let publisher = all.bind(name(stream)).await.expect("bound");
        let ticket = publisher.send(Message::new(number.to_string())).await.expect("sent");
        // Given up while it is un-answered, and when it is not.
        drop(publisher);
        if number % 3 == 0 {
            ticket.await.expect("published");
        }
    }
    all.flush().await;
    for (first, stream) in (0..).zip(["a", "b"]) {
        let reader = client.subscribe(name(stream)).start(railgun_client::StartPosition::Earliest);
        let (_, values, _) = drain(reader.until_end().open().await.expect("opened")).await;
        let numbers = (first..300).step_by(2).map(|number: u64| number.to_string());
        assert_eq!(values, numbers.collect::<Vec<_>>());
    }
    all.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_handles_of_one_stream_publish_beside_one_another() {
    // PQ-1, PS-2
    let node = TestNode::start().await;
    let client = node.client().await;
    client.admin().create_if_absent(&name("orders")).await.expect("ensured");
    let all = client.multi_publisher().open();
    let first = all.bind(name("orders")).await.expect("bound");
    let second = all.bind(name("orders")).await.expect("bound");
    for (offset, publisher) in (0..).zip([&first, &second, &first]) {
        let ticket = publisher.send(Message::new("x")).await.expect("sent");
        assert_eq!(ticket.await.expect("published").offset, Offset(offset));
    }
    drop(first);
    let ticket = second.send(Message::new("x")).await.expect("sent");
    assert_eq!(ticket.await.expect("published").offset, Offset(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_about_a_record_comes_back() {
    // T-2
    let node = TestNode::start().await;
    let client = node.client().await;
    let publisher = publisher(&client, "full").await;
    let mut message = Message::new("value")
        .with_key("")
        .with_header("b", "2")
        .with_header("a", "1")
        .with_header("b", "3")
        .with_id("id-1");
    message.producer_ts = Some(Timestamp(-5));
    publisher.send(message).await.expect("sent").await.expect("published");
    publisher.send(Message::new("")).await.expect("sent").await.expect("published");
    // From memory, and after it has left the log, from the bucket.
    all_comes_back(&client, "ring").await;
    let timeout = std::time::Duration::from_secs(20);
    let sealed = client.admin().seal_stream(&name("full"), true, timeout).await.expect("sealed");
    assert!(sealed.files_retired > 0);
    all_comes_back(&client, "cold").await;
}

async fn all_comes_back(client: &Client, source: &str) {
    let mut reader = client
        .subscribe(name("full"))
        .start(railgun_client::StartPosition::Earliest)
        .until_end()
        .open()
        .await
        .expect("opened");
    let Ok(Some(railgun_client::Event::Data(record))) = reader.next().await else {
        panic!("no record")
    };
    assert_eq!(record.source.name(), source);
    assert_eq!(record.key.as_deref(), Some(&b""[..]));
    assert_eq!(&record.value[..], b"value");
    assert_eq!(record.producer_ts, Some(Timestamp(-5)));
    assert_eq!(record.id.as_deref(), Some(&b"id-1"[..]));
    let headers: Vec<_> = record.headers.iter().map(|(k, v)| (k.as_str(), &v[..])).collect();
    assert_eq!(headers, [("b", &b"2"[..]), ("a", &b"1"[..]), ("b", &b"3"[..])]);
    let Ok(Some(railgun_client::Event::Data(record))) = reader.next().await else {
        panic!("no record")
    };
    assert_eq!(record.source.name(), source);
    assert_eq!((record.key, record.headers.len(), record.value.len()), (None, 0, 0));
    assert_eq!((record.producer_ts, record.id), (None, None));
    assert!(matches!(reader.next().await, Ok(None)), "two records");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_is_there_after_a_restart() {
    let node = TestNode::start().await;
    let client = node.client().await;
    publish_numbers(&publisher(&client, "kept").await, 0..1_000).await;
    client.close().await;
    let node = node.restart(Default::default()).await;
    let client = node.client().await;
    publish_numbers(&publisher(&client, "kept").await, 1_000..1_100).await;
    let reader = client.subscribe(name("kept")).start(railgun_client::StartPosition::Earliest);
    let (offsets, values, _) = drain(reader.until_end().open().await.expect("opened")).await;
    assert_eq!(offsets, (0..1_100).collect::<Vec<_>>());
    assert!(values.iter().enumerate().all(|(i, value)| *value == i.to_string()));
}
