//! Names that are none, and names of nothing.

use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::v1::subscribe::Start;
use railgun_proto::{WireError, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::{self, InvalidName, StreamNotFound};

use crate::attacker::{ALIAS, ANONYMOUS, Attacker, assert_refused, refusal, subscribe};
use crate::bystander::Bystander;
use crate::raw_batch;

/// Every call that names one stream.
fn calls(name: &str) -> [Call; 5] {
    let name = name.to_owned();
    [
        Call::EnsureStream(v1::EnsureStream {
            name: name.clone(),
            mode: v1::EnsureMode::EnsureCheck.into(),
            ..Default::default()
        }),
        Call::DescribeStream(v1::DescribeStream { name: name.clone() }),
        Call::DeleteStream(v1::DeleteStream { name: name.clone(), ..Default::default() }),
        Call::SealStream(v1::SealStream { name: name.clone(), ..Default::default() }),
        Call::ListSegments(v1::ListSegments { name, ..Default::default() }),
    ]
}

/// Whatever is done with such a name is refused so, and nothing else ends.
async fn is_refused_everywhere(attacker: &Attacker, name: &str, code: ErrorCode) {
    println!("{name:?}");
    for call in calls(name) {
        match attacker.call(call).await {
            Answer::Error(error) => assert_refused(&error.into(), code),
            other => panic!("{other:?}"),
        }
    }
    let mut line = attacker.begin(&subscribe(name, Start::Earliest(true), 1, false)).await;
    line.is_refused(code).await;
    let mut line = attacker.begin(&ANONYMOUS).await;
    line.expect::<v1::PublisherOpened>().await;
    assert_refused(&line.bind(ALIAS, name).await.expect_err("no such stream"), code);
    // The alias is free, the publisher lives.
    refusal(line.publish_values(&[b"x"]).await, ErrorCode::ProtocolViolation);
    line.bind(ALIAS, "target").await.expect("bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_names_are_refused() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let (long, huge) = ("x".repeat(129), "ä".repeat(8_000));
    let forbidden = [
        "",
        ".",
        "..",
        ".a",
        "a.",
        "a..b",
        "a b",
        " a",
        "a\n",
        "a\0",
        "a/b",
        "../a",
        "a\\b",
        "$sys",
        "a$dlqg",
        "a$dlq.",
        "$dlq.g",
        "a$dlq.g$dlq.h",
        "ä",
        "a\u{202e}b",
        "a*",
        "#",
        "a,b",
        "a:b",
        "%61",
        long.as_str(),
        huge.as_str(),
    ];
    for name in forbidden {
        is_refused_everywhere(&attacker, name, InvalidName).await;
        let ensure = v1::EnsureStream {
            name: name.to_owned(),
            mode: v1::EnsureMode::EnsureOverwrite.into(),
            ..Default::default()
        };
        match attacker.call(Call::EnsureStream(ensure)).await {
            Answer::Error(error) => assert_refused(&error.into(), InvalidName),
            other => panic!("{other:?}"),
        }
    }
    let longest = "x".repeat(128);
    attacker.ensure(&longest, None).await;
    assert_eq!(attacker.describe(&longest).await.name, longest);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_streams_are_not_found() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    is_refused_everywhere(&attacker, "nowhere", StreamNotFound).await;
    attacker.ensure("gone", None).await;
    attacker.delete("gone").await;
    is_refused_everywhere(&attacker, "gone", StreamNotFound).await;
    is_refused_everywhere(&attacker, "Target", StreamNotFound).await;
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_deletes_or_writes_to_what_holds_dead_letters() {
    // DL-5
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    attacker.ensure_group("target", Default::default()).await;
    let name = "target$dlq.g";
    for call in calls(name) {
        let code = match &call {
            Call::EnsureStream(_) | Call::DeleteStream(_) => InvalidName,
            // There are no dead letters yet.
            _ => StreamNotFound,
        };
        match attacker.call(call).await {
            Answer::Error(error) => assert_refused(&error.into(), code),
            other => panic!("{other:?}"),
        }
    }
    let mut line = attacker.begin(&subscribe(name, Start::Earliest(true), 1, false)).await;
    line.is_refused(StreamNotFound).await;
    let mut line = attacker.begin(&ANONYMOUS).await;
    line.expect::<v1::PublisherOpened>().await;
    assert_refused(&line.bind(ALIAS, name).await.expect_err("not for users"), InvalidName);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_fails_leaves_its_alias_unbound() {
    let node = TestNode::start().await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    attacker.ensure("other", None).await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    assert_eq!(line.publish_values(&[b"a"]).await.error, None);
    // The same number again stands for the new stream…
    line.bind(ALIAS, "other").await.expect("bound");
    assert_eq!(line.publish_values(&[b"b"]).await.error, None);
    // …and after a failure for none: what was meant for "nowhere" must not go to "other".
    let error = line.bind(ALIAS, "nowhere").await.expect_err("no such stream");
    assert_refused(&error, StreamNotFound);
    refusal(line.publish_values(&[b"c"]).await, ErrorCode::ProtocolViolation);
    for stream in ["target", "other"] {
        assert_eq!(attacker.describe(stream).await.next_offset, 1);
    }
    let unbound = v1::PublishItem { alias: 99, ..Default::default() };
    refusal(
        line.publish(unbound, raw_batch::of_values(&[b"d"])).await,
        ErrorCode::ProtocolViolation,
    );
    line.bind(u32::MAX, "target").await.expect("any number will do");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_stream_in_use_tells_its_users() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let (attacker, deleter) = (Attacker::enter(&node).await, Attacker::enter(&node).await);
    attacker.ensure("target", None).await;
    let mut publisher = attacker.publisher(&ANONYMOUS, "target").await;
    assert_eq!(publisher.publish_values(&[b"a", b"b"]).await.error, None);
    let mut readers = Vec::new();
    for credit in [1 << 20, 0] {
        // One waits for more, one for credit.
        let follow = subscribe("target", Start::Offset(1), credit, false);
        let mut reader = attacker.begin(&follow).await;
        reader.expect::<v1::Subscribed>().await;
        readers.push(reader);
    }
    readers[0].expect::<v1::Deliver>().await;
    // As many batches as the server takes, with the deletion somewhere among them.
    for _ in 0..50 {
        let batch = raw_batch::of_values(&[b"c"]);
        let batch_bytes = batch.len() as u32;
        let item = v1::PublishItem { alias: ALIAS, batch_bytes, ..Default::default() };
        publisher.send_publish(vec![item], batch).await;
    }
    deleter.delete("target").await;
    let mut deleted = false;
    for _ in 0..50 {
        let result = publisher.expect::<v1::PublishResult>().await.items.remove(0);
        deleted |= result.error.is_some();
        if deleted {
            refusal(result, ErrorCode::StreamDeleted);
        }
    }
    refusal(publisher.publish_values(&[b"d"]).await, ErrorCode::StreamDeleted);
    let mut waits_for_credit = readers.remove(1);
    waits_for_credit.send(&v1::Credit { bytes: 1 << 20 }).await;
    waits_for_credit.is_refused(ErrorCode::StreamDeleted).await;
    let error: WireError = loop {
        let frame = readers[0].next().await.expect("the reader is told");
        if let Ok(error) = frame.decode::<v1::Error>() {
            break error.into();
        }
    };
    assert_refused(&error, ErrorCode::StreamDeleted);
    // The name is free, and what comes under it is another stream.
    attacker.ensure("target", None).await;
    assert_eq!(attacker.describe("target").await.next_offset, 0);
    refusal(publisher.publish_values(&[b"e"]).await, ErrorCode::StreamDeleted);
    publisher.bind(ALIAS, "target").await.expect("bound");
    assert_eq!(publisher.publish_values(&[b"e"]).await.error, None);
    attacker.is_served().await;
    bystander.is_served().await;
}
