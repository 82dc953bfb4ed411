//! Exactly at a limit, and one beyond it.

use railgun_proto::v1;
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::{
    BatchTooLarge, ExpectedOffsetMismatch, InvalidHeader, InvalidSpec, MessageTooLarge,
    ProtocolViolation,
};
use railgun_types::limits::{
    ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS, MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_HARD,
};

use crate::attacker::{ALIAS, ANONYMOUS, Attacker, Line, assert_refused, refusal};
use crate::bystander::Bystander;
use crate::raw_batch::{self, Record};

async fn arena() -> (TestNode, Bystander, Attacker, Line) {
    let (node, bystander, attacker) = crate::arena().await;
    let line = attacker.publisher(&ANONYMOUS, "target").await;
    (node, bystander, attacker, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_end_at_the_limit_of_their_stream() {
    let (_node, mut bystander, attacker, _) = arena().await;
    let limits = [1, 2, 1_000, MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_HARD];
    for limit in limits {
        let stream = format!("limit-{limit}");
        attacker.ensure(&stream, Some(limit as u32)).await;
        let mut line = attacker.begin(&ANONYMOUS).await;
        line.expect::<v1::PublisherOpened>().await;
        let bound = line.bind(ALIAS, &stream).await.expect("bound");
        assert_eq!(bound.message_bytes_max as usize, limit);
        // A value behind its byte of attributes.
        let too_large = raw_batch::of(&[Record::value(&vec![7; limit])]);
        let error = refusal(line.publish_batch(too_large).await, MessageTooLarge);
        assert_eq!((error.record, error.actual), (Some(0), Some(limit as u64)));
        let exact = raw_batch::of(&[Record::value(&vec![7; limit - 1])]);
        assert_eq!(line.publish_batch(exact).await.error, None);
        assert_eq!(attacker.describe(&stream).await.record_bytes, limit as u64);
    }
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_may_have_impossible_settings() {
    let (_node, mut bystander, attacker, _) = arena().await;
    let patches = [
        v1::StreamPatch { max_message_bytes: Some(0), ..Default::default() },
        v1::StreamPatch { max_message_bytes: Some(u32::MAX), ..Default::default() },
        v1::StreamPatch {
            max_message_bytes: Some(MESSAGE_BYTES_HARD as u32 + 1),
            ..Default::default()
        },
        v1::StreamPatch { owner: Some("x".repeat(129)), ..Default::default() },
        v1::StreamPatch { owner: Some("x".repeat(16_000)), ..Default::default() },
    ];
    for patch in patches {
        for name in ["target", "new"] {
            let ensure = v1::EnsureStream {
                name: name.into(),
                spec: Some(patch.clone()),
                mode: v1::EnsureMode::EnsureOverwrite.into(),
                ..Default::default()
            };
            match attacker.call(Call::EnsureStream(ensure)).await {
                Answer::Error(error) => assert_refused(&error.into(), InvalidSpec),
                other => panic!("{other:?}"),
            }
        }
    }
    let found = attacker.call(Call::ListStreams(v1::ListStreams::default())).await;
    let Answer::StreamList(list) = found else { panic!("{found:?}") };
    assert!(list.streams.iter().all(|stream| stream.name != "new"), "no name is left behind");
    bystander.is_served().await;
}

type Headers<'a> = Vec<(&'a [u8], &'a [u8])>;

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_ids_end_at_their_limits() {
    let (_node, mut bystander, attacker, mut line) = arena().await;
    let (key, long_key) = ([b'k'; 128], [b'k'; 129]);
    // Keys and values together: 16 KiB less what the rest takes.
    let (full, over) = (vec![0; (16 << 10) - 1], vec![0; 16 << 10]);
    let many: Headers<'_> = vec![(b"h", b""); 65];
    let refused: [(&str, Headers<'_>); 12] = [
        ("65 headers", many.clone()),
        ("16 KiB and a byte in one", vec![(b"h", &over)]),
        ("16 KiB and a byte in two", vec![(b"h", &full[1..]), (b"i", b"x")]),
        ("an empty key", vec![(b"", b"v")]),
        ("a key of 129 bytes", vec![(&long_key, b"")]),
        ("the server's key", vec![(b"good", b""), (b"rg-dlq-reason", b"v")]),
        ("the server's key in capitals", vec![(b"RG-x", b"v")]),
        ("the server's prefix", vec![(b"rG-", b"")]),
        ("a key that is not ASCII", vec![("schlüssel".as_bytes(), b"v")]),
        ("a key with a space", vec![(b"a b", b"v")]),
        ("a key with a line feed", vec![(b"a\n", b"v")]),
        ("a key with a DEL", vec![(b"a\x7f", b"v")]),
    ];
    for (what, headers) in &refused {
        println!("{what}");
        let batch = raw_batch::of(&[Record::value(b"good"), Record::with_headers(headers)]);
        let error = refusal(line.publish_batch(batch).await, InvalidHeader);
        assert_eq!(error.record, Some(1));
    }
    let allowed: [Headers<'_>; 6] = [
        many[..64].to_vec(),
        vec![(b"h", &full)],
        vec![(&key, b"")],
        vec![(b"rg", b""), (b"r", b""), (b"rgx-", b""), (b"x-rg-", b"")],
        vec![(b"!~", b"\xff\0")],
        vec![(b"a", b"1"), (b"a", b"1")],
    ];
    for headers in &allowed {
        let batch = raw_batch::of(&[Record::with_headers(headers)]);
        assert_eq!(line.publish_batch(batch).await.error, None);
    }
    for bytes in [1, 128] {
        let batch = raw_batch::of(&[Record::value(b"v").with_id(&vec![0; bytes])]);
        assert_eq!(line.publish_batch(batch).await.error, None);
    }
    let next = attacker.describe("target").await.next_offset;
    assert_eq!(next, allowed.len() as u64 + 2, "nothing of what was refused");
    assert_eq!(attacker.read_all("target").await.len() as u64, next);
    attacker.is_served().await;
    bystander.is_served().await;
}

fn atomic() -> v1::PublishItem {
    let mode = v1::PublishMode::PublishAtomic.into();
    v1::PublishItem { alias: ALIAS, mode, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_batches_end_at_their_limits() {
    let (_node, mut bystander, attacker, mut line) = arena().await;
    let records = vec![Record::value(b"x"); ATOMIC_BATCH_RECORDS + 1];
    let result = line.publish(atomic(), raw_batch::of(&records)).await;
    refusal(result, BatchTooLarge);
    let result = line.publish(atomic(), raw_batch::of(&records[1..])).await;
    assert_eq!((result.error, result.published), (None, 1_000));
    // Four messages under the message's limit that are together at the batch's, or a byte over.
    let batch = |bytes: usize| {
        // A header, then for each a table entry and a byte of attributes.
        let values = bytes - raw_batch::HEADER - 5 * (9 + 1);
        let part = vec![7; values / 5];
        let rest = vec![7; values - 4 * part.len()];
        let batch = raw_batch::of_values(&[&part, &part, &part, &part, &rest]);
        assert_eq!(batch.len(), bytes);
        batch
    };
    refusal(line.publish(atomic(), batch(ATOMIC_BATCH_BYTES + 1)).await, BatchTooLarge);
    let result = line.publish(atomic(), batch(ATOMIC_BATCH_BYTES)).await;
    assert_eq!((result.error, result.base_offset, result.published), (None, 1_000, 5));
    // What is not atomic may be more.
    assert_eq!(line.publish_batch(batch(ATOMIC_BATCH_BYTES + 1)).await.error, None);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expected_offsets_may_be_any_number() {
    let (_node, mut bystander, attacker, mut line) = arena().await;
    let expecting = |last| v1::PublishItem {
        alias: ALIAS,
        expected_last_offset: Some(last),
        ..Default::default()
    };
    let batch = || raw_batch::of_values(&[b"x"]);
    for next in 0..2 {
        for last in [i64::MIN, -3, -2] {
            refusal(line.publish(expecting(last), batch()).await, ProtocolViolation);
        }
        for last in [next, next + 1, i64::MAX - 1, i64::MAX] {
            let error =
                refusal(line.publish(expecting(last), batch()).await, ExpectedOffsetMismatch);
            assert_eq!(error.actual, Some(next as u64));
        }
        assert_eq!(line.publish(expecting(next - 1), batch()).await.error, None);
    }
    let error = refusal(line.publish(expecting(-1), batch()).await, ExpectedOffsetMismatch);
    assert_eq!(error.actual, Some(2));
    // All or nothing, and nothing that follows is harmed.
    let result = line.publish(v1::PublishItem { mode: 1, ..expecting(0) }, batch()).await;
    refusal(result, ExpectedOffsetMismatch);
    assert_eq!(line.publish_values(&[b"y"]).await.base_offset, 2);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_binds_65_536_streams_at_most() {
    const ALIASES: u32 = 65_536;
    const STEP: u32 = 8_192;
    let (_node, mut bystander, attacker, _) = arena().await;
    let mut line = attacker.begin(&ANONYMOUS).await;
    line.expect::<v1::PublisherOpened>().await;
    for first in (0..ALIASES).step_by(STEP as usize) {
        let bind = |alias| v1::BindStream { alias, stream: "target".into(), ..Default::default() };
        let binds = (first..first + STEP)
            .flat_map(|alias| crate::attacker::encode(railgun_proto::Frame::new(&bind(alias))));
        line.bytes(&binds.collect::<Vec<_>>()).await;
        for alias in first..first + STEP {
            let bound: v1::StreamBound = line.expect().await;
            assert_eq!((bound.alias, bound.error), (alias, None));
        }
        bystander.is_served().await;
    }
    // Each can be used, and bound again.
    line.bind(0, "target").await.expect("bound again");
    let last = v1::PublishItem { alias: ALIASES - 1, ..Default::default() };
    assert_eq!(line.publish(last, raw_batch::of_values(&[b"x"])).await.error, None);
    // Its connection has no room for another publisher's.
    let mut other = attacker.begin(&ANONYMOUS).await;
    other.expect::<v1::PublisherOpened>().await;
    let error = other.bind(0, "target").await.expect_err("there is no room");
    assert_eq!(error.code, railgun_types::ErrorCode::QuotaExceeded, "{error}");
    line.send(&v1::BindStream { alias: ALIASES, stream: "target".into(), ..Default::default() })
        .await;
    line.is_refused(ProtocolViolation).await;
    attacker.is_served().await;
    bystander.is_served().await;
}
