//! Golden files: the formats byte by byte. A change here is a change of the format: readers of what is on
//! disk need a new version. `REGENERATE_GOLDEN=1 cargo test -p railgun-log golden` writes them anew.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{BATCH_HEADER_BYTES, BatchHeader};
use super::file_header::{FIXED_BYTES, FileHeader, HeaderError, PreviousFile};
use super::frame::{self, FRAME_BYTES, FrameSeed, Record};
use super::positions::{self, Identity};
use crate::batch::Batch;
use crate::block_writer::BlockWriter;
use crate::disk::{Disk, SimDisk};
use crate::extent::{Extent, Point};
use crate::image::TermTable;
use crate::{Entry, EntryId, Payload, Vote};

const UUID: [u8; 16] = *b"0123456789abcdef";

fn check(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("REGENERATE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).expect("writes");
    }
    let golden = std::fs::read(&path).expect("golden file is there");
    assert_eq!(bytes, golden, "{name} has changed");
}

fn header() -> FileHeader {
    let mut terms = TermTable::default();
    for (term, first) in [(2, 901), (5, 1000), (6, 1004)] {
        terms.push_run(term, first).expect("ascends");
    }
    FileHeader {
        uuid: UUID,
        sequence: 4,
        first_index: 1007,
        incarnation: 3,
        previous: Some(PreviousFile { uuid: *b"fedcba9876543210", end: 67_108_000 }),
        first_batch: 77,
        previous_crc: 0xDEAD_BEEF,
        vote: Some(Vote { term: 6, node: 65_537, committed: true }),
        committed: Some(EntryId::new(6, 1005)),
        purged: Some(EntryId::new(2, 900)),
        file_bytes: 67_108_864,
        terms,
    }
}

#[test]
fn golden_file_header() {
    let bytes = header().encode();
    check("file-header.bin", &bytes);
    let start = bytes.first_chunk::<FIXED_BYTES>().expect("long enough");
    assert_eq!(FileHeader::length(start), Ok(bytes.len()));
    assert_eq!(FileHeader::decode(&bytes), Ok(header()));

    let mut terms = TermTable::default();
    let empty = FileHeader {
        previous: None,
        vote: None,
        committed: None,
        purged: None,
        terms: std::mem::take(&mut terms),
        ..header()
    };
    assert_eq!(FileHeader::decode(&empty.encode()), Ok(empty));
}

#[test]
fn every_flipped_byte_of_a_file_header_is_seen() {
    let bytes = header().encode();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let start = flipped.first_chunk::<FIXED_BYTES>().expect("long enough");
        let seen = match FileHeader::length(start) {
            Ok(length) if length <= flipped.len() => {
                FileHeader::decode(&flipped[..length]).map(|_| ())
            }
            Ok(_) => Err(HeaderError::Damaged("longer than the file")),
            Err(error) => Err(error),
        };
        assert!(seen.is_err(), "byte {at}");
    }
}

fn records() -> Vec<(Record, Bytes)> {
    let empty = Bytes::new();
    vec![
        (
            Record::Entry { id: EntryId::new(6, 1007), kind: 1, len: 5 },
            Bytes::from_static(b"hello"),
        ),
        (Record::Entry { id: EntryId::new(6, 1008), kind: 0, len: 0 }, empty.clone()),
        (Record::Vote(Vote { term: 7, node: 2, committed: false }), empty.clone()),
        (Record::Vote(Vote { term: 7, node: 2, committed: true }), empty.clone()),
        (Record::Committed(EntryId::new(6, 1007)), empty.clone()),
        (Record::Purged(EntryId::new(5, 1003)), empty.clone()),
        (Record::Truncate(Some(EntryId::new(6, 1006))), empty.clone()),
        (Record::Truncate(None), empty),
    ]
}

#[test]
fn golden_frames() {
    let seed = FrameSeed::new(&UUID);
    let mut bytes = Vec::new();
    for (record, payload) in records() {
        let start = bytes.len();
        frame::append(&mut bytes, &record, &payload, seed);
        let head = bytes[start..].first_chunk::<FRAME_BYTES>().expect("long enough");
        let decoded = frame::decode(head).expect("decodes");
        assert_eq!(decoded.record, record);
        assert_eq!(decoded.crc, crc32c::crc32c_append(seed.header_sum(head), &payload));
    }
    check("frames.bin", &bytes);
}

#[test]
fn golden_batch() {
    let disk = SimDisk::default();
    let file = disk.create("batches".as_ref(), 0).expect("creates");
    let mut batch = Batch::new();
    let mut position = 0;
    let mut previous_crc = 0;
    for number in 77..79 {
        batch.clear(FrameSeed::new(&UUID));
        if number == 77 {
            let parts = vec![Bytes::from_static(b"he"), Bytes::from(vec![b'l'; 1500])];
            let payload = Payload::new(parts);
            batch.push_entry(&Entry { id: EntryId::new(6, 1007), kind: 1, payload });
            batch.push_record(&Record::Vote(Vote { term: 7, node: 2, committed: false }));
        }
        let header = BatchHeader {
            uuid: UUID,
            number,
            synced_through: number - 1,
            length: 0,
            frames: 0,
            previous_crc,
            frames_crc: 0,
        };
        previous_crc = batch.seal(header);
        batch.write(&mut BlockWriter::new(Arc::clone(&file)), position).expect("writes");
        position += batch.file_bytes();
    }
    let bytes = disk.contents("batches").expect("is there");
    check("batch-and-mark.bin", &bytes);
    let head = bytes.first_chunk::<BATCH_HEADER_BYTES>().expect("long enough");
    let (header, _) = BatchHeader::decode(head, &UUID).expect("decodes");
    assert_eq!((header.number, header.synced_through, header.frames), (77, 76, 2));
    assert_eq!(header.length, 28 + 1502 + 28);
    assert!(BatchHeader::decode(head, &[1; 16]).is_err(), "a batch of another file");
    for at in 0..BATCH_HEADER_BYTES {
        let mut flipped = *head;
        flipped[at] ^= 1 << (at % 8);
        assert!(BatchHeader::decode(&flipped, &UUID).is_err(), "byte {at}");
    }
}

#[test]
fn golden_seal() {
    let seal = BatchHeader::seal(UUID, 79, 0xDEAD_BEEF);
    let (bytes, _) = seal.encode();
    check("seal.bin", &bytes);
    let (decoded, _) = BatchHeader::decode(&bytes, &UUID).expect("decodes");
    assert!(decoded == seal && decoded.is_seal());
}

#[test]
fn golden_positions() {
    let points = vec![Point { index: 0, position: 208 }, Point { index: 3, position: 9000 }];
    let extent = Extent::from_parts((1007, 1012), true, 12_000, points, vec![3]);
    let identity = Identity { uuid: UUID, end: 12_000, last_crc: 0xABCD_EF01 };
    let bytes = positions::encode(&identity, &extent);
    check("positions.bin", &bytes);
    assert_eq!(positions::decode(&bytes, &identity), Some(extent));
    let other = Identity { uuid: [7; 16], ..identity };
    assert_eq!(positions::decode(&bytes, &other), None, "of another life of the file");
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(positions::decode(&flipped, &identity), None, "byte {at}");
        assert_eq!(positions::decode(&bytes[..at], &identity), None, "cut at {at}");
    }
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn give_an_error_or_a_value(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = FileHeader::decode(&bytes);
            let _ = positions::decode(&bytes, &Identity { uuid: UUID, end: 0, last_crc: 0 });
            if let Some(head) = bytes.first_chunk() {
                let _ = frame::decode(head);
            }
            if let Some(head) = bytes.first_chunk() {
                let _ = BatchHeader::decode(head, &UUID);
            }
            // The same with a sum that is right, so that the fields themselves are looked at.
            let mut summed = bytes;
            summed.extend_from_slice(&crc32c::crc32c(&summed).to_le_bytes());
            let _ = FileHeader::decode(&summed);
        }
    }
}
