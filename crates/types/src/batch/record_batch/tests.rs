use proptest::prelude::*;

use super::*;
use crate::batch::{BatchBuilder, RecordDraft, RecordRefused};

#[derive(Clone, Debug)]
struct Message {
    key: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    producer_ts: Option<i64>,
    value: Vec<u8>,
    id: Option<Vec<u8>>,
}

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..len)
}

fn message() -> impl Strategy<Value = Message> {
    (
        proptest::option::of(bytes(20)),
        proptest::collection::vec(("[a-z]{1,9}", bytes(9)), 0..4),
        proptest::option::of(any::<i64>()),
        bytes(300),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 1..20)),
    )
        .prop_map(|(key, headers, producer_ts, value, id)| Message {
            key,
            headers,
            producer_ts,
            value,
            id,
        })
}

fn pack(messages: &[Message]) -> Bytes {
    let mut builder = BatchBuilder::new(1 << 20);
    for m in messages {
        let headers: Vec<_> = m.headers.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        builder
            .push(&RecordDraft {
                key: m.key.as_deref(),
                headers: &headers,
                producer_ts: m.producer_ts,
                value: &m.value,
                id: m.id.as_deref(),
            })
            .expect("within limits");
    }
    let expected = builder.len();
    let parts = builder.finish();
    assert_eq!(parts.len(), expected);
    parts.concat()
}

fn validate(bytes: Bytes) -> Result<RecordBatch, BatchError> {
    RecordBatch::validate(bytes, &Limits::default(), 1 << 20)
}

fn one(value: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1 << 20);
    builder.push(&RecordDraft { value, ..RecordDraft::default() }).expect("small");
    builder.finish().concat().to_vec()
}

/// Repairs the header checksum after a test changed header or table.
fn reseal(batch: &mut [u8]) {
    let table = u32::from_le_bytes(batch[12..16].try_into().expect("four bytes")) as usize;
    let end = (HEADER_BYTES + table).min(batch.len());
    let crc = crc32c_append(crc32c(&batch[..CHECKED_HEADER_BYTES]), &batch[HEADER_BYTES..end]);
    batch[CHECKED_HEADER_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #[test]
    fn what_is_left_of_a_batch_is_as_if_the_rest_had_never_been_in_it(
        messages in proptest::collection::vec((message(), any::<bool>()), 1..20),
    ) {
        let all: Vec<_> = messages.iter().map(|(message, _)| message.clone()).collect();
        let kept: Vec<_> =
            messages.iter().filter(|(_, is_kept)| *is_kept).map(|(m, _)| m.clone()).collect();
        let batch = validate(pack(&all)).expect("our own batch");
        let places = (0u32..).zip(&messages).filter(|(_, (_, is_kept))| *is_kept);
        let selected = batch.select(places.map(|(at, _)| at..at + 1));
        if kept.is_empty() {
            prop_assert_eq!(selected, None);
        } else {
            prop_assert_eq!(selected.map(|it| it.as_bytes().clone()), Some(pack(&kept)));
        }
        let count = all.len() as u32;
        prop_assert_eq!(batch.select(std::iter::once(0..count)), Some(batch.clone()));
        // What is not there, or not in order.
        prop_assert_eq!(batch.select(std::iter::once(0..count + 1)), None);
        prop_assert_eq!(batch.select([count - 1..count, 0..1].into_iter()), None);
    }

    #[test]
    fn what_is_packed_comes_back(messages in proptest::collection::vec(message(), 1..20)) {
        let packed = pack(&messages);
        let batch = validate(packed).expect("our own batch");
        prop_assert_eq!(batch.count(), messages.len());
        for (record, m) in batch.records().zip(&messages) {
            let content = record.content().expect("validated");
            prop_assert_eq!(content.encoded_len(), record.bytes.len());
            prop_assert_eq!(content.key, m.key.as_deref());
            prop_assert_eq!(content.producer_ts, m.producer_ts);
            prop_assert_eq!(content.value, &m.value[..]);
            prop_assert_eq!(record.id, m.id.as_deref());
            prop_assert_eq!(record.payload_hash.is_some(), m.id.is_some());
            let headers: Vec<_> =
                content.headers.map(|(k, v)| (k.to_owned(), v.to_vec())).collect();
            prop_assert_eq!(&headers, &m.headers);
        }
    }

    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in bytes(200)) {
        let _ = validate(Bytes::from(bytes));
    }

    #[test]
    fn no_flipped_bit_passes(
        messages in proptest::collection::vec(message(), 1..4), at: prop::sample::Index, bit in 0u8..8
    ) {
        let mut damaged = pack(&messages).to_vec();
        let at = at.index(damaged.len());
        damaged[at] ^= 1 << bit;
        prop_assert!(RecordBatch::verify(Bytes::from(damaged)).is_err());
    }

    #[test]
    fn one_content_has_one_encoding(record in bytes(60)) {
        if let Ok(content) = Content::decode(&record) {
            let mut again = bytes::BytesMut::new();
            let headers: Vec<_> = content.headers.clone().collect();
            crate::batch::content::encode(
                &mut again, content.key, headers.into_iter(), content.producer_ts, content.value,
            );
            prop_assert_eq!(&again[..], &record[..]);
        }
    }
}

#[test]
fn the_format_is_fixed() {
    let mut builder = BatchBuilder::new(1 << 20);
    builder
        .push(&RecordDraft {
            key: Some(b"k"),
            headers: &[("h", b"v")],
            producer_ts: Some(-1),
            value: b"value",
            id: Some(b"id"),
        })
        .expect("small");
    builder.push(&RecordDraft::default()).expect("small");
    let packed = builder.finish().concat();
    assert_eq!(
        packed[..],
        include_bytes!("../../../tests/golden/batch-v1.bin")[..],
        "the batch format changed: {:02x?}",
        &packed[..]
    );
}

#[test]
fn lies_about_lengths_and_counts_are_found() {
    for cut in 0..one(b"abc").len() {
        let short = Bytes::from(one(b"abc")[..cut].to_vec());
        assert!(validate(short).is_err(), "cut at {cut}");
    }
    let mut longer = one(b"abc");
    longer.push(0);
    assert!(matches!(validate(longer.into()), Err(BatchError::Length { .. })));

    // A count of two over a table of one entry, correctly sealed.
    let mut lie = one(b"abc");
    lie[8] = 2;
    reseal(&mut lie);
    assert_eq!(validate(lie.into()), Err(BatchError::Table { index: 0 }));

    // A record length that does not fill the body.
    let mut lie = one(b"abc");
    lie[HEADER_BYTES] -= 1;
    reseal(&mut lie);
    assert!(validate(lie.into()).is_err());

    let mut none = one(b"abc");
    none[8] = 0;
    reseal(&mut none);
    assert_eq!(validate(none.into()), Err(BatchError::Empty));
}

#[test]
fn unknown_versions_codecs_and_flags_are_refused() {
    for (at, field) in [(0, "magic number or version"), (4, "codec"), (5, "flag"), (7, "flag")] {
        let mut other = one(b"abc");
        other[at] ^= 1;
        reseal(&mut other);
        assert_eq!(validate(other.into()), Err(BatchError::Unknown { field }));
    }
    let mut other = one(b"abc");
    other[HEADER_BYTES + 8] = 0x80;
    reseal(&mut other);
    assert_eq!(validate(other.into()), Err(BatchError::Table { index: 0 }));
}

#[test]
fn a_record_with_two_encodings_is_refused() {
    // Attribute KEY with a key length of one, written in two bytes.
    let record = [1, 0x81, 0x00, b'k', b'v'];
    let mut batch = one(&[0; 4]);
    let body = batch.len() - record.len();
    batch[body..].copy_from_slice(&record);
    batch[HEADER_BYTES + 4..HEADER_BYTES + 8].copy_from_slice(&crc32c(&record).to_le_bytes());
    reseal(&mut batch);
    assert_eq!(validate(batch.into()), Err(BatchError::NonCanonical { index: 0 }));
}

#[test]
fn limits_are_enforced_on_both_sides() {
    let mut builder = BatchBuilder::new(10);
    let large = RecordDraft { value: &[0; 10], ..RecordDraft::default() };
    assert_eq!(builder.push(&large), Err(RecordRefused::TooLarge { bytes: 11, limit: 10 }));
    assert!(builder.is_empty());
    let no_id = RecordDraft { id: Some(b""), ..RecordDraft::default() };
    assert_eq!(builder.push(&no_id), Err(RecordRefused::Id { bytes: 0 }));
    for key in ["", "rg-x", "Rg-x", "a b", "ä", &"k".repeat(129)] {
        let headers = [(key, &b""[..])];
        let draft = RecordDraft { headers: &headers, ..RecordDraft::default() };
        assert!(matches!(builder.push(&draft), Err(RecordRefused::Header { .. })), "{key}");
        // A client that skips its own check meets the server's.
        let mut system = BatchBuilder::system();
        if system.push(&draft).is_ok() {
            let refused = validate(system.finish().concat());
            assert!(matches!(refused, Err(BatchError::InvalidHeader { .. })), "{key}");
        }
    }
    let many = vec![("k", &b""[..]); 65];
    let draft = RecordDraft { headers: &many, ..RecordDraft::default() };
    assert!(builder.push(&draft).is_err());

    let batch = one(&[0; 10]);
    assert_eq!(
        RecordBatch::validate(batch.clone().into(), &Limits::default(), 10),
        Err(BatchError::MessageTooLarge { index: 0, bytes: 11, limit: 10 })
    );
    let tight = Limits { batch_bytes: batch.len() - 1, ..Limits::default() };
    assert!(matches!(
        RecordBatch::validate(batch.into(), &tight, 100),
        Err(BatchError::TooLarge { .. })
    ));
}

#[test]
fn the_payload_hash_ignores_what_a_retry_may_change() {
    let hash = |headers: &[(&str, &[u8])], producer_ts| {
        let mut builder = BatchBuilder::system();
        let draft = RecordDraft { headers, producer_ts, id: Some(b"i"), ..RecordDraft::default() };
        builder.push(&draft).expect("small");
        let batch = RecordBatch::verify(builder.finish().concat()).expect("ours");
        batch.records().next().and_then(|r| r.payload_hash.copied()).expect("an id")
    };
    let plain = hash(&[("a", b"1")], None);
    assert_eq!(plain, hash(&[("traceparent", b"x"), ("a", b"1"), ("rg-y", b"z")], Some(3)));
    assert_ne!(plain, hash(&[("a", b"2")], None));
}

proptest! {
    #[test]
    fn a_cut_batch_is_what_its_records_packed_anew_are(
        messages in proptest::collection::vec(message(), 1..12),
        skip in 0..14usize,
        count in 0..14usize,
    ) {
        let batch = validate(pack(&messages)).expect("just packed");
        // However it was found.
        let start = RecordPlace::default();
        let half = batch.place(start, skip / 2);
        let place = half.and_then(|half| batch.place(half, skip - skip / 2));
        prop_assert_eq!(place, batch.place(start, skip));
        prop_assert_eq!(place.is_some(), skip <= messages.len());
        let cut = place.and_then(|place| batch.cut(place, count));
        match messages.get(skip..skip + count).filter(|wanted| !wanted.is_empty()) {
            Some(wanted) => prop_assert_eq!(cut.map(|parts| parts.concat()), Some(pack(wanted))),
            None => prop_assert!(cut.is_none()),
        }
    }
}
