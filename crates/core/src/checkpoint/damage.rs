//! Every small way to damage a checkpoint, for the tests of those who make them.

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::{ClusterUid, ShardId, crc32c};

use super::{BEGIN_BYTES, CheckpointError, CheckpointReader, Section};

const SECTION_HEAD_BYTES: usize = 9;

/// Damages `whole` and hands it to `read`, which decodes and says what the value encodes to.
///
/// Bytes whose checksums do not hold must be refused. Content that is changed under a checksum that
/// holds must be refused too, or be what its value encodes to: there is one encoding of each value.
pub(crate) fn check(whole: &[u8], read: impl Fn(&[u8]) -> Result<Vec<u8>, CheckpointError>) {
    assert!(read(whole).as_deref() == Ok(whole), "the checkpoint itself");
    for cut in 0..whole.len() {
        let error = read(&whole[..cut]).expect_err("cut short");
        assert!(matches!(error, CheckpointError::Truncated { .. }), "cut at {cut}: {error}");
    }
    let mut damaged = whole.to_vec();
    for at in 0..whole.len() {
        for mask in [0x01, 0x10, 0x80, 0xff] {
            damaged[at] = whole[at] ^ mask;
            let error = read(&damaged).expect_err("changed");
            assert!(error.is_damage(), "byte {at} changed by {mask:#x}: {error}");
        }
        damaged[at] = whole[at];
    }
    damaged.push(0);
    assert_eq!(read(&damaged), Err(CheckpointError::TrailingBytes { bytes: 1 }));

    let check_sealed = |sealed: &[u8], what: &str, at: usize| {
        if let Ok(again) = read(sealed) {
            assert!(again == sealed, "{what} at {at}: another value was made of it");
        }
    };
    let (header, sections) = split(whole);
    for at in 0..header.len() {
        for mask in [0x01, 0x10, 0x80, 0xff] {
            let mut header = header.to_vec();
            header[at] ^= mask;
            check_sealed(&join(&header, &sections), "header byte changed", at);
        }
    }
    for changed in 0..sections.len() {
        let mut renamed = sections.clone();
        renamed[changed].0 ^= 1;
        check_sealed(&join(&header, &renamed), "tag changed of section", changed);
        let with = |content: Vec<u8>, what: &str, at: usize| {
            let mut sections = sections.clone();
            sections[changed].1 = content.into();
            check_sealed(&join(&header, &sections), what, at);
        };
        let content = sections[changed].1.clone();
        for at in 0..content.len() {
            for mask in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut content = content.to_vec();
                content[at] ^= mask;
                with(content, "byte changed", at);
            }
            with([&content[..at], &content[at + 1..]].concat(), "byte removed", at);
            for byte in [0, 1, 0xff] {
                with([&content[..at], &[byte], &content[at..]].concat(), "byte added", at);
            }
        }
    }
}

/// The look at checksums alone finds what decoding finds, but content that cannot be.
pub(crate) fn check_check(
    cluster: Option<ClusterUid>,
    shard: ShardId,
    damaged: &[u8],
    decoded: Result<&Bytes, &CheckpointError>,
) {
    let checked = super::check(cluster, shard, damaged);
    match decoded {
        Err(CheckpointError::Malformed { .. }) => {}
        decoded => assert_eq!(checked.as_ref(), decoded),
    }
}

/// `whole` with the content of one section replaced, and every checksum right.
pub(crate) fn with_content(whole: &[u8], section: Section, content: &[u8]) -> Vec<u8> {
    let (header, mut sections) = split(whole);
    let replaced = sections.iter_mut().find(|(tag, _)| *tag == section as u8).expect("present");
    replaced.1 = Bytes::copy_from_slice(content);
    join(&header, &sections)
}

/// The header without its checksum, and the tag and content of each section.
fn split(whole: &[u8]) -> (Bytes, Vec<(u8, Bytes)>) {
    let (_, reader) = CheckpointReader::new(whole).expect("our own");
    let mut rest = reader.cursor.rest();
    let header = Bytes::copy_from_slice(&whole[..whole.len() - rest.len() - 4]);
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at(SECTION_HEAD_BYTES);
        let length = u64::from_le_bytes(head[1..].try_into().expect("eight")) as usize;
        sections.push((head[0], Bytes::copy_from_slice(&after[..length])));
        rest = &after[length + 4..];
    }
    (header, sections)
}

fn join(header: &[u8], sections: &[(u8, Bytes)]) -> Vec<u8> {
    let mut out = header.to_vec();
    let begin = crc32c(&out[..BEGIN_BYTES]);
    out[BEGIN_BYTES..BEGIN_BYTES + 4].copy_from_slice(&begin.to_le_bytes());
    out.put_u32_le(crc32c(&out));
    for (tag, content) in sections {
        let mut section = BytesMut::new();
        section.put_u8(*tag);
        section.put_u64_le(content.len() as u64);
        section.put_slice(content);
        section.put_u32_le(crc32c(&section));
        out.extend_from_slice(&section);
    }
    out
}
