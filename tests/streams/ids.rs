//! Messages with ids: what comes again in its time is appended once, over every way that it is read.

use std::time::Duration;

use railgun_client::{
    Client, DedupFull, DedupPatch, EnsureMode, EnsureOptions, Message, Offset, OnDuplicate,
    PublishError, Published, Publisher, SpecPatch, StartPosition,
};
use railgun_testkit::{TestNode, records};

use crate::name;

async fn ensure(client: &Client, stream: &str, dedup: DedupPatch) {
    let patch = SpecPatch { dedup, ..SpecPatch::default() };
    let options = EnsureOptions { mode: EnsureMode::Overwrite, ..EnsureOptions::default() };
    client.admin().ensure_stream(&name(stream), patch, options).await.expect("ensured");
}

fn window() -> DedupPatch {
    DedupPatch { window_ms: Some(120_000), ..DedupPatch::default() }
}

/// One frame at a time, so that what is sent while it is under way is one batch.
async fn publisher(client: &Client, stream: &str) -> Publisher {
    client.publisher(name(stream)).max_in_flight(1).open().await.expect("opened")
}

fn message(id: &str, value: &str) -> Message {
    Message::new(value.to_owned()).with_id(id.to_owned())
}

/// Sends all at once: what became of each.
async fn publish(
    publisher: &Publisher,
    messages: &[(&str, &str)],
) -> Vec<Result<Published, PublishError>> {
    let mut tickets = Vec::new();
    for (id, value) in messages {
        tickets.push(publisher.send(message(id, value)).await.expect("sent"));
    }
    let mut told = Vec::new();
    for ticket in tickets {
        told.push(ticket.await);
    }
    told
}

/// Offset, value and id of all records, and where they came from.
async fn read(client: &Client, stream: &str) -> (Vec<(u64, String, String)>, Vec<&'static str>) {
    let reader = client.subscribe(name(stream)).start(StartPosition::Earliest).until_end();
    let (told, sources) = records::drain(reader.open().await.expect("opened")).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let told = told.into_iter();
    let told = told.map(|it| (it.offset, text(it.value), text(it.id.unwrap_or_default())));
    (told.collect(), sources)
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_within_a_batch_are_nowhere_read() {
    // DD-1, DD-2, PS-2, T-2
    let node = TestNode::start().await;
    let client = node.client().await;
    ensure(&client, "orders", window()).await;
    let first = publisher(&client, "orders").await;
    let told = publish(
        &first,
        &[
            ("k", "known"),
            // One batch: the first message is under way.
            ("a", "1"),
            ("k", "known"),
            ("b", "2"),
            ("a", "1"),
            ("k", "known"),
            ("c", "3"),
        ],
    )
    .await;
    let told: Vec<_> = told
        .into_iter()
        .map(|it| it.map(|it| (it.offset.0, it.duplicate)).expect("published"))
        .collect();
    let expected =
        [(0, false), (1, false), (0, true), (2, false), (1, true), (0, true), (3, false)];
    assert_eq!(told, expected);
    let expected: Vec<_> = [("known", "k"), ("1", "a"), ("2", "b"), ("3", "c")]
        .into_iter()
        .zip(0u64..)
        .map(|((value, id), offset)| (offset, value.to_owned(), id.to_owned()))
        .collect();
    assert_eq!(read(&client, "orders").await, (expected.clone(), vec!["ring"]));
    // From the middle of the batch.
    let reader = client.subscribe(name("orders")).start(StartPosition::Offset(Offset(2)));
    let (told, _) = records::drain(reader.until_end().open().await.expect("opened")).await;
    assert_eq!(told.iter().map(|it| it.offset).collect::<Vec<_>>(), [2, 3]);
    // In the bucket, and out of it when the log has nothing of it any more.
    let timeout = Duration::from_secs(20);
    let sealed = client.admin().seal_stream(&name("orders"), true, timeout).await.expect("sealed");
    assert_eq!((sealed.cold_end, sealed.files_retired), (Offset(4), 1));
    assert_eq!(read(&client, "orders").await, (expected.clone(), vec!["cold"]));
    // DD-4: the ids are known all the same, and after a restart.
    let again = publish(&first, &[("b", "2")]).await.remove(0).expect("published");
    assert_eq!((again.offset, again.duplicate), (Offset(2), true));
    client.close().await;
    let node = node.restart(Default::default()).await;
    let client = node.client().await;
    let other = publisher(&client, "orders").await;
    let again = publish(&other, &[("c", "3"), ("d", "4")]).await;
    let again: Vec<_> = again.into_iter().map(|it| it.expect("published").offset.0).collect();
    assert_eq!(again, [3, 4]);
    assert_eq!(read(&client, "orders").await.0[..4], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_crash_is_known_behind_it() {
    // DD-3, DD-4: by another client, which has no producer sequence of the first.
    let node = TestNode::start().await;
    let client = node.client().await;
    ensure(&client, "orders", window()).await;
    let messages: Vec<_> = (0..500).map(|n| (n.to_string(), format!("v{n}"))).collect();
    let messages: Vec<_> = messages.iter().map(|(id, v)| (id.as_str(), v.as_str())).collect();
    let first = publish(&publisher(&client, "orders").await, &messages).await;
    client.close().await;
    let node = node.crash(Default::default()).await;
    let client = node.client().await;
    let again = publish(&publisher(&client, "orders").await, &messages).await;
    for (first, again) in first.into_iter().zip(again) {
        let (first, again) = (first.expect("published"), again.expect("published"));
        assert_eq!(again, Published { duplicate: true, ..first });
    }
    let (records, sources) = read(&client, "orders").await;
    assert_eq!((records.len(), sources), (500, vec!["hot"]));
    let described = client.admin().describe_stream(&name("orders")).await.expect("described");
    assert_eq!((described.dedup_ids, described.dedup_effective_window_ms), (500, 120_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_id_may_not_be_used_for_is_told() {
    // DD-2, DD-5, PS-4
    let node = TestNode::start().await;
    let client = node.client().await;
    let dedup = DedupPatch {
        require_id: Some(true),
        max_ids: Some(2),
        full: Some(DedupFull::Reject),
        ..window()
    };
    ensure(&client, "orders", dedup).await;
    let strict = client.publisher(name("orders")).on_duplicate(OnDuplicate::Error);
    let strict = strict.give_up_after(Duration::from_millis(300)).open().await.expect("opened");
    let one = async |id, value| publish(&strict, &[(id, value)]).await.remove(0);
    assert!(one("a", "1").await.is_ok_and(|it| it.offset == Offset(0)));
    let duplicate = one("a", "1").await;
    assert!(
        matches!(duplicate, Err(PublishError::Duplicate { offset: Offset(0), .. })),
        "{duplicate:?}"
    );
    // That broke no order; these do.
    assert!(one("b", "1").await.is_ok_and(|it| it.offset == Offset(1)));
    assert_eq!(one("a", "2").await, Err(PublishError::IdConflict { original: Offset(0) }));
    strict.resume().await;
    let code = |told: Result<Published, PublishError>| match told {
        Err(PublishError::Refused(error)) => error.code.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(one("c", "1").await), "DedupIndexFull");
    strict.resume().await;
    let without = strict.send(Message::new("x")).await.expect("sent").await;
    assert_eq!(code(without), "IdRequired");
    strict.resume().await;
    let atomic = vec![message("b", "1"), message("a", "1")];
    let atomic = strict.send_atomic(&atomic, None).await.expect("sent").await;
    assert!(matches!(atomic, Err(PublishError::Duplicate { offset: Offset(1), .. })), "{atomic:?}");
    assert_eq!(read(&client, "orders").await.0.len(), 2);
}
