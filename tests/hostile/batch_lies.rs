//! Batches whose lengths, counts, checksums or records do not hold.

use railgun_proto::v1;
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::{
    self, BatchCorrupt, BatchTooLarge, NonCanonicalRecord, ProtocolViolation,
};

use crate::attacker::{ALIAS, ANONYMOUS, Attacker, refusal};
use crate::bystander::Bystander;
use crate::raw_batch::{self, BODY_BYTES, COUNT, HEADER, Record, TABLE_BYTES, set_field};

/// Changes a good batch of three records.
fn lie(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut batch = raw_batch::of_values(&[b"one", b"two", b"three"]);
    change(&mut batch);
    batch
}

/// The same, with a true checksum over header and table.
fn sealed_lie(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut batch = lie(change);
    raw_batch::reseal(&mut batch);
    batch
}

/// The lies, and the record each is about.
fn corrupt() -> Vec<(&'static str, Vec<u8>, Option<u32>)> {
    // Table entries of a value have 9 bytes: length, checksum, flags.
    let second = HEADER + 9;
    let add = |batch: &mut [u8], at: usize, delta: i32| {
        let value = raw_batch::field(batch, at).wrapping_add_signed(delta);
        set_field(batch, at, value);
    };
    vec![
        ("no bytes", Vec::new(), None),
        ("half a header", lie(|b| b.truncate(HEADER - 1)), None),
        ("nothing behind the header", lie(|b| b.truncate(HEADER)), None),
        ("another magic", sealed_lie(|b| b[0] = b'X'), None),
        ("another version", sealed_lie(|b| b[3] = b'2'), None),
        ("codec lz4", sealed_lie(|b| b[4] = 1), None),
        ("an unknown codec", sealed_lie(|b| b[4] = 255), None),
        ("a flag", sealed_lie(|b| b[5] = 1), None),
        ("a reserved bit", sealed_lie(|b| b[7] = 0x80), None),
        ("a wrong header checksum", lie(|b| b[20] ^= 1), None),
        ("a changed count", lie(|b| b[COUNT] ^= 1), None),
        ("a changed table", lie(|b| b[second] ^= 1), None),
        ("no records", lie(|b| set_field(b, COUNT, 0)), None),
        ("a record too few", lie(|b| set_field(b, COUNT, 2)), Some(2)),
        ("a record too many", lie(|b| set_field(b, COUNT, 4)), Some(0)),
        ("many records too many", lie(|b| set_field(b, COUNT, u32::MAX)), Some(0)),
        ("a longer table", lie(|b| add(b, TABLE_BYTES, 1)), None),
        ("an endless table", lie(|b| set_field(b, TABLE_BYTES, u32::MAX)), None),
        ("a longer body", lie(|b| add(b, BODY_BYTES, 1)), None),
        ("an endless body", lie(|b| set_field(b, BODY_BYTES, u32::MAX)), None),
        (
            "lengths that wrap around",
            lie(|b| {
                let (table, body) =
                    (raw_batch::field(b, TABLE_BYTES), raw_batch::field(b, BODY_BYTES));
                set_field(b, BODY_BYTES, u32::MAX);
                set_field(b, TABLE_BYTES, table.wrapping_add(body).wrapping_add(1));
            }),
            None,
        ),
        ("a byte behind the end", lie(|b| b.push(0)), None),
        ("a byte short of the end", lie(|b| b.truncate(b.len() - 1)), None),
        ("a longer second record", sealed_lie(|b| b[second] += 1), Some(1)),
        ("an endless second record", sealed_lie(|b| b[second..second + 4].fill(0xff)), Some(1)),
        ("a changed record checksum", sealed_lie(|b| b[second + 4] ^= 1), Some(1)),
        ("a changed record", lie(|b| *b.last_mut().expect("a byte") ^= 1), Some(2)),
        ("an unknown record flag", sealed_lie(|b| b[second + 8] = 2), Some(1)),
        ("an id that is not there", sealed_lie(|b| b[second + 8] = 1), Some(1)),
        ("an empty id", raw_batch::of(&[Record::value(b"x").with_id(b"")]), Some(0)),
        ("an id of 129 bytes", raw_batch::of(&[Record::value(b"x").with_id(&[7; 129])]), Some(0)),
        ("an id of 255 bytes", raw_batch::of(&[Record::value(b"x").with_id(&[7; 255])]), Some(0)),
    ]
}

fn non_canonical() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("an empty record", vec![]),
        ("an unknown attribute", vec![8, b'x']),
        ("all attributes", vec![0xff]),
        ("a key that is not there", vec![1]),
        ("a key that ends behind the record", vec![1, 5, b'k']),
        ("an endless key", [&[1][..], &[0xff; 9], &[1]].concat()),
        ("a long varint", vec![1, 0x81, 0x00, b'k']),
        ("a varint of 65 bits", [&[4][..], &[0xff; 9], &[2]].concat()),
        ("a varint without end", [&[4][..], &[0x80; 20]].concat()),
        ("a header count of 0", vec![2, 0]),
        ("headers that are not there", vec![2, 3, 1, b'h', 0]),
        ("an endless header count", [&[2][..], &[0xff; 9], &[1]].concat()),
        ("a header key that is not UTF-8", vec![2, 1, 1, 0xff, 0]),
        ("a time that is not there", vec![4]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_hold_is_refused_alone() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    let records = [Record::value(b"good"), Record::value(b"")];
    let mut appended = 0;
    let non_canonical = non_canonical().into_iter().map(|(what, record)| {
        let batch = raw_batch::of(&[&records[..], &[Record::raw(record)]].concat());
        (what, batch, Some(2), NonCanonicalRecord)
    });
    let corrupt = corrupt().into_iter().map(|(what, batch, at)| (what, batch, at, BatchCorrupt));
    for (what, batch, record, code) in corrupt.chain(non_canonical).collect::<Vec<_>>() {
        println!("{what}");
        let error = refusal(line.publish_batch(batch).await, code);
        // For some lies there is no record that is more at fault than others.
        assert!(record.is_none() || error.record == record, "{error:?}");
        // The publisher lives.
        let result = line.publish_batch(raw_batch::of(&records)).await;
        assert_eq!((result.error, result.base_offset), (None, appended));
        appended += 2;
    }
    let read = attacker.read_all("target").await;
    assert_eq!(read.len() as u64, appended, "nothing of them was appended");
    assert!(read.iter().all(|(offset, value)| (offset % 2 == 0) == (value == "good")));
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_records_than_a_batch_may_have_are_refused() {
    let node = TestNode::start().await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    let records = vec![Record::value(b""); 65_537];
    refusal(line.publish_batch(raw_batch::of(&records)).await, BatchTooLarge);
    let result = line.publish_batch(raw_batch::of(&records[..65_536])).await;
    assert_eq!((result.error, result.published), (None, 65_536));
    assert_eq!(attacker.describe("target").await.next_offset, 65_536);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_do_not_add_up_to_the_blob_end_the_publisher() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let batch = raw_batch::of_values(&[b"x"]);
    let len = batch.len() as u32;
    let cases: [&[u32]; 8] = [
        &[],
        &[len - 1],
        &[len + 1],
        &[u32::MAX],
        &[len, 1],
        &[u32::MAX, len],
        &[len / 2, len / 2 - 1],
        &[0, 0, 0],
    ];
    for lengths in cases {
        println!("{lengths:?} for {len}");
        let mut line = attacker.publisher(&ANONYMOUS, "target").await;
        let item =
            |&batch_bytes| v1::PublishItem { alias: ALIAS, batch_bytes, ..Default::default() };
        line.send_publish(lengths.iter().map(item).collect(), batch.clone()).await;
        line.is_refused(ProtocolViolation).await;
        attacker.is_served().await;
    }
    assert_eq!(attacker.describe("target").await.next_offset, 0, "not even the first item");
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_one_frame_fail_alone() {
    let node = TestNode::start().await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    let good = raw_batch::of_values(&[b"x"]);
    let bad = lie(|b| b[20] ^= 1);
    let item = |alias, batch: &[u8]| v1::PublishItem {
        alias,
        batch_bytes: batch.len() as u32,
        ..Default::default()
    };
    let items = vec![
        item(ALIAS, &good),
        item(ALIAS, &bad),
        item(77, &good),
        item(ALIAS, &[]),
        item(ALIAS, &good),
    ];
    line.send_publish(items, [&good[..], &bad, &good, &good].concat()).await;
    let result: v1::PublishResult = line.expect().await;
    let codes = result.items.iter().map(|item| item.error.as_ref().map(|error| error.code));
    let expected = [None, Some(BatchCorrupt), Some(ProtocolViolation), Some(BatchCorrupt), None];
    assert!(codes.eq(expected.map(|code: Option<ErrorCode>| code.map(|code| code as u32))));
    let offsets = [&result.items[0], &result.items[4]].map(|item| item.base_offset);
    assert_eq!(offsets, [0, 1]);
    // A frame without items is a frame.
    line.send_publish(Vec::new(), Vec::new()).await;
    assert!(line.expect::<v1::PublishResult>().await.items.is_empty());
}
