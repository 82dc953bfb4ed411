use bytes::Bytes;
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};

use super::*;
use crate::fixture::{self, Record, batch, encode, entry, golden_runs, noise, run, sampler, spec};
use crate::segment::ChunkPool;

/// First bytes of the SHA-256 of the large object below, as it was when objects were one buffer.
const LARGE_OBJECT: ContentHash = [0x2c, 0x9f, 0x05, 0x94, 0xd8, 0x41, 0xb6, 0x58];

fn joined(encoded: &Encoded) -> Bytes {
    encoded.content.clone().into()
}

/// The golden objects and what they are called.
fn golden_objects() -> [(&'static str, Encoded); 2] {
    let [first, second] = golden_runs();
    [
        ("segment", encode(spec(SegmentKind::Segment), std::slice::from_ref(&first))),
        ("bundle", encode(spec(SegmentKind::Bundle), &[first, second])),
    ]
}

/// The bytes of version 1, forever. `REGENERATE_GOLDEN=1` writes them anew.
#[test]
fn the_bytes_of_version_1_do_not_change() {
    for ((name, encoded), (_, again)) in golden_objects().into_iter().zip(golden_objects()) {
        let (bytes, again) = (joined(&encoded), joined(&again));
        assert_eq!(bytes, again, "{name}: equal input, other bytes");
        fixture::assert_golden(&format!("{name}-v1.parquet"), &bytes);
        let sha = Sha256::digest(&bytes);
        assert_eq!(encoded.hash, sha[..8], "{name}: not the hash of the object");
    }
}

/// Of an object of many chunks and row groups, whose borders are elsewhere: the memory it is encoded
/// into does not show.
#[test]
fn a_large_object_is_the_same_in_new_and_in_used_memory() {
    let spec = || EncodeSpec { row_group_bytes: 3 << 19, ..spec(SegmentKind::Bundle) };
    let entries = |seed: u64| {
        let values = (0..30).map(|n| Record::of(noise(100 * seed + n, 90_000)));
        vec![entry(7, 2, values.collect())]
    };
    let runs = [run(1, 3, entries(1)), run(2, 0, entries(2))];
    let plain = encode(spec(), &runs);
    assert!(plain.content.content_length() > 5 << 20);
    assert!(plain.content.iter().all(|piece| piece.len() <= 1 << 20));
    assert_eq!(plain.hash, Sha256::digest(joined(&plain))[..8]);
    assert_eq!(plain.hash, LARGE_OBJECT, "version 1 does not change");
    let pool = ChunkPool::new(64 << 20);
    for _ in 0..2 {
        let pooled = fixture::encode_into(pool.clone(), spec(), &runs);
        assert_eq!(joined(&pooled), joined(&plain));
        assert_eq!(pooled.footer_bytes, plain.footer_bytes);
        drop(pooled);
        // All but the end, which is made anew.
        assert_eq!(pool.kept_bytes() >> 20, plain.content.iter().count() - 1);
    }
}

/// Rows are hashed in groups, row groups as they close: neither shows in a digest or a hash.
#[test]
fn digests_and_hashes_do_not_tell_how_they_were_made() {
    for rows in [1, 63, 64, 65, 128, 200] {
        let single = EncodeSpec { row_group_bytes: 4000, ..spec(SegmentKind::Bundle) };
        let entries = || vec![entry(7, 2, (0..rows).map(|n| Record::of(noise(n, 90))).collect())];
        let runs = [run(1, 3, entries()), run(2, 0, entries())];
        let encoded = encode(single, &runs);
        for (EncodedPart { part, .. }, run) in encoded.parts.iter().zip(&runs) {
            let mut digest = Sha256::new_with_prefix([9; 32]);
            for (offset, ts, .., crc, _, _, _) in fixture::told_by_run(run) {
                digest.update(offset.to_le_bytes());
                digest.update(ts.to_le_bytes());
                digest.update(crc.to_le_bytes());
            }
            assert_eq!(part.digest, <[u8; 32]>::from(digest.finalize()), "{rows}");
        }
        assert_eq!(encoded.hash, Sha256::digest(joined(&encoded))[..8], "{rows}");
    }
}

#[test]
fn parts_tell_where_their_records_are() {
    let [_, (_, encoded)] = golden_objects();
    let [first, second] = &encoded.parts[..] else { panic!("{:?}", encoded.parts) };
    let (first, second) = (&first.part, &second.part);
    assert_eq!((first.base, first.count), (Offset(5), 8));
    assert_eq!((second.first_row, second.first_row_group), (8, 0));
    assert_eq!(first.max_ts.since_us(first.min_ts), 1);
    assert_eq!(first.record_bytes, 2 * batch(&sampler()).body_bytes() as u64);

    // The digest is the documented function of offset, log time and checksum.
    let mut digest = Sha256::new_with_prefix([9; 32]);
    for (offset, ts, .., crc, _, _, _) in fixture::told_by_run(&run(
        1,
        5,
        vec![entry(first.min_ts.0, 3, sampler()), entry(first.max_ts.0, 4, sampler())],
    )) {
        digest.update(offset.to_le_bytes());
        digest.update(ts.to_le_bytes());
        digest.update(crc.to_le_bytes());
    }
    assert_eq!(first.digest, <[u8; 32]>::from(digest.finalize()));
}

/// A row group that is full is closed before the record that follows, not after the last.
#[test]
fn a_stream_begins_in_the_row_group_of_its_first_record() {
    let single = EncodeSpec { row_group_bytes: 1, ..spec(SegmentKind::Bundle) };
    let two = || vec![entry(1, 1, vec![Record::of("x"); 2])];
    let encoded = encode(single, &[run(1, 0, two()), run(2, 0, two())]);
    let places: Vec<_> =
        encoded.parts.iter().map(|p| (p.part.first_row_group, p.part.first_row)).collect();
    assert_eq!(places, [(0, 0), (2, 2)]);
}

/// Ids take space in a row group as records do.
#[test]
fn ids_count_for_the_end_of_a_row_group() {
    let row_groups = |id: Option<&[u8]>| {
        let mut builder = BatchBuilder::new(1 << 20);
        for _ in 0..100 {
            builder.push(&RecordDraft { value: b"x", id, ..RecordDraft::default() }).unwrap();
        }
        let batch = RecordBatch::verify(builder.finish().concat()).unwrap();
        let kind = SegmentKind::Segment;
        let mut encoder =
            SegmentEncoder::new(EncodeSpec { row_group_bytes: 100 * 100, ..spec(kind) });
        encoder.begin_stream(StreamUid([1; 16]), Offset(0), [0; 32]).unwrap();
        let (base, ts) = (Offset(0), Timestamp(1));
        let slice = StreamSlice { base, ts, term: 1, batch: &batch, records: 0..100 };
        encoder.push(&slice).unwrap();
        encoder.flush_row_group().unwrap();
        encoder.row_groups.len()
    };
    assert_eq!((row_groups(None), row_groups(Some(&[7; 128]))), (1, 2));
}

#[test]
fn slices_of_a_batch_are_the_batch() {
    let records = batch(&sampler());
    let push = |ranges: &[Range<usize>]| {
        let mut encoder = SegmentEncoder::new(spec(SegmentKind::Segment));
        encoder.begin_stream(StreamUid([1; 16]), Offset(0), [0; 32]).unwrap();
        for records_range in ranges {
            let base = Offset(records_range.start as u64);
            let (ts, term, records_range) = (Timestamp(1), 1, records_range.clone());
            let slice = StreamSlice { base, ts, term, batch: &records, records: records_range };
            encoder.push(&slice).unwrap();
        }
        joined(&encoder.finish().unwrap())
    };
    assert_eq!(push(&[0..2, 2..4]), push(&[0..1, 1..3, 3..4]));
}

#[test]
fn values_that_do_not_shrink_are_stored_as_they_are() {
    let object = |value: Vec<u8>| {
        let records = vec![Record::of(value); 4];
        joined(&encode(spec(SegmentKind::Segment), &[run(1, 0, vec![entry(1, 1, records)])]))
    };
    let holds = |object: &[u8], piece: &[u8]| object.windows(piece.len()).any(|w| w == piece);
    let noise = noise(7, 40_000);
    // Repeats of 40 kB are outside the sample's pieces.
    assert!(holds(&object(noise.clone()), &noise[..1000]));
    assert!(object(b"abcdefgh".repeat(5_000)).len() < 10_000);
}

#[test]
fn what_does_not_belong_is_refused() {
    let records = batch(&sampler());
    let uid = |n: u8| StreamUid([n; 16]);
    let slice = |base: u64, batch: &'static RecordBatch, records: Range<usize>| StreamSlice {
        base: Offset(base),
        ts: Timestamp(1),
        term: 1,
        batch,
        records,
    };
    let records: &'static RecordBatch = Box::leak(Box::new(records));
    let begun = |kind| {
        let mut encoder = SegmentEncoder::new(spec(kind));
        encoder.begin_stream(uid(2), Offset(5), [0; 32]).unwrap();
        encoder
    };
    let filled = |kind| {
        let mut encoder = begun(kind);
        encoder.push(&slice(5, records, 0..4)).unwrap();
        encoder
    };

    let empty = SegmentEncoder::new(spec(SegmentKind::Bundle)).finish();
    assert!(matches!(empty, Err(EncodeError::Empty)));
    assert!(matches!(begun(SegmentKind::Bundle).finish(), Err(EncodeError::Empty)));
    let gap = begun(SegmentKind::Bundle).push(&slice(6, records, 0..1));
    assert!(matches!(gap, Err(EncodeError::NotContiguous { .. })), "{gap:?}");
    let short = begun(SegmentKind::Bundle).push(&slice(5, records, 0..5));
    assert!(matches!(short, Err(EncodeError::Record { index: 4, .. })), "{short:?}");
    for (kind, next) in
        [(SegmentKind::Bundle, 1), (SegmentKind::Bundle, 2), (SegmentKind::Segment, 3)]
    {
        let second = filled(kind).begin_stream(uid(next), Offset(0), [0; 32]);
        assert!(matches!(second, Err(EncodeError::StreamOrder { .. })), "{kind:?} {next}");
    }
    let mut far = SegmentEncoder::new(spec(SegmentKind::Segment));
    far.begin_stream(uid(1), Offset(u64::MAX), [0; 32]).unwrap();
    let beyond = far.push(&slice(u64::MAX, records, 0..1));
    assert!(matches!(beyond, Err(EncodeError::OutOfColumn { .. })), "{beyond:?}");
}
