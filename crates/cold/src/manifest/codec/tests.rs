use proptest::prelude::*;
use railgun_core::manifest::ShardManifest;

use super::*;
use crate::fixture::assert_golden;

fn object_ids() -> impl Strategy<Value = ObjectId> {
    (any::<u64>(), any::<u32>()).prop_map(|(seal_index, part)| ObjectId { seal_index, part })
}

fn uids() -> impl Strategy<Value = StreamUid> {
    any::<[u8; 16]>().prop_map(StreamUid)
}

fn ranges() -> impl Strategy<Value = ColdRange> {
    (any::<(u64, u64, i64, i64)>(), any::<(u64, u32, u64)>(), object_ids()).prop_map(
        |((base, count, min_ts, max_ts), (record_bytes, first_row_group, first_row), object)| {
            ColdRange {
                base: Offset(base),
                count,
                min_ts: Timestamp(min_ts),
                max_ts: Timestamp(max_ts),
                record_bytes,
                object,
                first_row_group,
                first_row,
            }
        },
    )
}

fn streams() -> impl Strategy<Value = StreamChange> {
    let ranges = proptest::collection::vec(ranges(), 0..4);
    ("[a-z]{1,9}(\\.[a-z]{1,9})?", any::<(i64, bool, [u8; 32], u64)>(), ranges).prop_map(
        |(name, (created, deleted, digest, kept), ranges)| {
            let name = StreamName::new(&name).unwrap();
            let created = Timestamp(created);
            StreamChange { stream: StreamManifest { name, created, deleted, ranges, digest }, kept }
        },
    )
}

fn objects() -> impl Strategy<Value = ObjectInfo> {
    let segment = (uids(), any::<(u64, u64)>()).prop_map(|(stream, (base, last))| {
        ObjectKind::Segment { stream, base: Offset(base), last: Offset(last) }
    });
    let kind = prop_oneof![Just(ObjectKind::Bundle), segment];
    (kind, any::<(i64, (u64, u64), [u8; 8], u64, u32, u32)>()).prop_map(
        |(kind, (day, (term, attempt), hash, bytes, footer_bytes, live_parts))| ObjectInfo {
            kind,
            day,
            term,
            attempt,
            hash,
            bytes,
            footer_bytes,
            live_parts,
        },
    )
}

fn files() -> impl Strategy<Value = ManifestFile> {
    let maps = (
        proptest::collection::btree_map(uids(), streams(), 0..4),
        proptest::collection::btree_map(object_ids(), objects(), 0..4),
        proptest::collection::vec(object_ids(), 0..4),
        proptest::collection::vec(uids(), 0..4),
    );
    (any::<([u8; 16], u32)>(), 1u64.., any::<(u64, Option<u64>)>(), maps).prop_map(
        |((cluster, shard), log_index, (term, extends), maps)| {
            let (streams, objects, removed_objects, removed_streams) = maps;
            let extends = extends.map(|term| ManifestVersion { log_index: log_index - 1, term });
            ManifestFile {
                cluster: ClusterUid(cluster),
                shard: ShardId(shard),
                version: ManifestVersion { log_index, term },
                extends,
                streams,
                objects,
                removed_objects,
                removed_streams,
            }
        },
    )
}

/// The bytes with a checksum that holds.
fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&content);
    content.extend(crc.to_le_bytes());
    content
}

proptest! {
    #[test]
    fn files_round_trip(file in files()) {
        prop_assert_eq!(decode(&encode(&file)), Ok(file));
    }

    #[test]
    fn a_flipped_byte_is_noticed(file in files(), position: proptest::sample::Index) {
        let mut bytes = encode(&file).to_vec();
        let position = position.index(bytes.len());
        bytes[position] ^= 0x40;
        prop_assert!(decode(&bytes).is_err());
    }

    /// Behind the checksum too: a file that decodes is the one encoding of what it tells.
    #[test]
    fn any_bytes_are_a_file_or_refused(
        file in files(),
        position: proptest::sample::Index,
        with: u8,
        cut: proptest::sample::Index,
    ) {
        let encoded = encode(&file);
        let content = &encoded[..encoded.len() - CRC_BYTES];
        let mut changed = content.to_vec();
        changed[position.index(content.len())] = with;
        for content in [changed, content[..cut.index(content.len())].to_vec()] {
            let bytes = sealed(content);
            if let Ok(file) = decode(&bytes) {
                prop_assert_eq!(&encode(&file)[..], bytes);
            }
        }
    }
}

#[test]
fn a_count_without_items_allocates_nothing() {
    let mut content = MAGIC.to_vec();
    content.extend([0; 16]);
    content.extend([0, 1, 1, 0]);
    // 2⁶⁴ − 1 streams.
    content.extend([0xff; 9]);
    content.push(1);
    assert_eq!(decode(&sealed(content)), Err(BadManifest::Malformed { field: "streams" }));
}

fn empty() -> ManifestFile {
    ManifestFile {
        cluster: ClusterUid::default(),
        shard: ShardId(1),
        version: ManifestVersion { log_index: 4, term: 4 },
        extends: None,
        streams: BTreeMap::new(),
        objects: BTreeMap::new(),
        removed_objects: vec![],
        removed_streams: vec![],
    }
}

#[test]
fn an_object_told_twice_is_refused() {
    let id = ObjectId { seal_index: 1, part: 0 };
    let (kind, hash) = (ObjectKind::Bundle, [0; 8]);
    let (day, term, attempt, bytes, footer_bytes, live_parts) = Default::default();
    let info = ObjectInfo { kind, day, term, attempt, hash, bytes, footer_bytes, live_parts };
    let file = ManifestFile { objects: BTreeMap::from([(id, info)]), ..empty() };
    let encoded = encode(&file);
    // Magic, cluster, shard, version, no base, no streams.
    let (before, rest) = encoded[..encoded.len() - CRC_BYTES].split_at(4 + 16 + 1 + 2 + 1 + 1);
    let (object, after) = rest[1..].split_at(rest.len() - 3);
    let twice = [before, &[2], object, object, after].concat();
    let refused = decode(&sealed(twice));
    assert_eq!(refused, Err(BadManifest::Malformed { field: "order of objects" }));
    assert_eq!(decode(&sealed([before, &[1], object, after].concat())), Ok(file));
}

#[test]
fn a_version_that_extends_itself_is_refused() {
    let file = empty();
    let file = ManifestFile { extends: Some(file.version), ..file };
    assert_eq!(decode(&encode(&file)), Err(BadManifest::Malformed { field: "extended version" }));
}

/// The bytes of version 1, forever. `REGENERATE_GOLDEN=1` writes them anew.
#[test]
fn the_bytes_of_version_1_do_not_change() {
    let id = |seal_index| ObjectId { seal_index, part: 1 };
    let object = |kind| ObjectInfo {
        kind,
        day: 19_675,
        term: 3,
        attempt: 70_000,
        hash: *b"hash-hex",
        bytes: 67_000_000,
        footer_bytes: 9_000,
        live_parts: 2,
    };
    let uid = StreamUid(*b"stream-uid-of-16");
    let range = ColdRange {
        base: Offset(300),
        count: 20,
        min_ts: Timestamp(1_700_000_000_000_000),
        max_ts: Timestamp(1_700_000_000_000_300),
        record_bytes: 4_000,
        object: id(8),
        first_row_group: 2,
        first_row: 70_000,
    };
    let stream = StreamManifest {
        name: StreamName::new("orders.eu").unwrap(),
        created: Timestamp(1_690_000_000_000_000),
        deleted: false,
        ranges: vec![range],
        digest: *b"digest-of-exactly-32-bytes-long.",
    };
    let segment = ObjectKind::Segment { stream: uid, base: Offset(300), last: Offset(319) };
    let file = ManifestFile {
        cluster: ClusterUid(*b"cluster-uid-of16"),
        shard: ShardId(2),
        version: ManifestVersion { log_index: 900, term: 4 },
        extends: Some(ManifestVersion { log_index: 800, term: 3 }),
        streams: BTreeMap::from([(uid, StreamChange { stream, kept: 5 })]),
        objects: BTreeMap::from([(id(7), object(ObjectKind::Bundle)), (id(8), object(segment))]),
        removed_objects: vec![id(6)],
        removed_streams: vec![StreamUid([1; 16])],
    };
    // What a shard begins with: nothing extended, nothing removed, nothing kept; a deleted stream
    // without records beside one that lives.
    let deleted = StreamManifest {
        name: StreamName::new("gone").unwrap(),
        created: Timestamp(-1),
        deleted: true,
        ranges: Vec::new(),
        digest: [0; 32],
    };
    let StreamChange { stream: living, .. } = file.streams[&uid].clone();
    let full = ManifestFile::full(
        file.version,
        &ShardManifest {
            cluster: file.cluster,
            shard: file.shard,
            streams: BTreeMap::from([(uid, living), (StreamUid([2; 16]), deleted)]),
            objects: file.objects.clone(),
        },
    );
    for (name, file) in [("manifest-v1.rgm", file), ("manifest-full-v1.rgm", full)] {
        let encoded = encode(&file);
        assert_golden(name, &encoded);
        assert_eq!(decode(&encoded), Ok(file), "{name}");
    }
}
