use std::sync::Arc;

use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::limits::{FAILURE_BYTES, FAILURES_PER_CHANGE};
use railgun_types::{
    ClusterUid, DlqPatch, EnsureMode, GroupId, GroupMode, GroupName, GroupPatch, NodeId, NodeUid,
    Offset, OffsetRange, ProducerId, ReplicaId, RequestId, ShardId, SpecPatch, StreamName,
    StreamUid,
};

use super::*;
use crate::manifest::{ManifestVersion, ObjectId};

fn batch(values: &[&[u8]]) -> RecordBatch {
    let mut builder = BatchBuilder::new(1 << 20);
    for value in values {
        builder.push(&RecordDraft { value, ..RecordDraft::default() }).expect("small");
    }
    RecordBatch::verify(builder.finish().concat()).expect("our own")
}

fn appends() -> Vec<Append> {
    let plain = Append {
        stream: StreamUid([1; 16]),
        producer: None,
        mode: AppendMode::Each,
        expected_end: None,
        dead_letter: None,
        batch: batch(&[b"a", b"bc"]),
    };
    let full = Append {
        stream: StreamUid([2; 16]),
        producer: Some(ProducerSequence { id: ProducerId([3; 16]), epoch: 4, sequence: 5 }),
        mode: AppendMode::Atomic,
        expected_end: Some(ExpectedNext(6)),
        dead_letter: None,
        batch: batch(&[b"d"]),
    };
    let dead_letter = Append {
        producer: None,
        mode: AppendMode::Each,
        dead_letter: Some(DeadLetterOf { group: GroupId(7), offset: Offset(8), generation: 9 }),
        ..full.clone()
    };
    vec![plain, full, dead_letter]
}

fn others() -> Vec<CommandBody> {
    let stream = StreamUid([9; 16]);
    let name = || StreamName::new("orders.eu").expect("valid");
    let patch = SpecPatch { max_message_bytes: Some(7), ..SpecPatch::default() };
    vec![
        CommandBody::Stream(StreamCommand::Ensure(EnsureStream {
            stream,
            name: name(),
            patch: patch.clone(),
            mode: EnsureMode::Overwrite,
            if_revision: Some(3),
            allow_destructive: true,
            request: None,
        })),
        CommandBody::Stream(StreamCommand::Delete { stream }),
        CommandBody::Stream(StreamCommand::ReleaseProducer {
            producer: ProducerId([8; 16]),
            epoch: 2,
            streams: vec![stream, StreamUid([7; 16])],
        }),
        CommandBody::Segment(SegmentCommand::Seal(SealScope::OlderThan(Timestamp(-1)))),
        CommandBody::Segment(SegmentCommand::Seal(SealScope::Stream(stream))),
        CommandBody::Segment(SegmentCommand::Commit(ObjectCommit {
            object: ObjectId { seal_index: 11, part: 2 },
            attempt: 12,
            hash: [1; 8],
            bytes: 100,
            footer_bytes: 10,
            parts: vec![CommittedPart {
                stream,
                base: Offset(1),
                count: 2,
                min_ts: Timestamp(3),
                max_ts: Timestamp(4),
                record_bytes: 5,
                first_row_group: 6,
                first_row: 7,
                digest: [8; 32],
            }],
        })),
        CommandBody::Segment(SegmentCommand::Mirrored(ManifestVersion { log_index: 1, term: 2 })),
        CommandBody::Segment(SegmentCommand::Attempt(UploadAttempt {
            object: ObjectId { seal_index: 11, part: 2 },
            hash: [1; 8],
        })),
        CommandBody::Segment(SegmentCommand::Collected(vec![12, 1 << 40])),
        CommandBody::Catalog(CatalogCommand::Found {
            settings: ClusterSettings {
                cluster: ClusterUid([5; 16]),
                shards: 2,
                hot_bytes_max: 1 << 30,
                replicas: 1,
            },
            nodes: Vec::new(),
        }),
        CommandBody::Catalog(CatalogCommand::Reserve {
            name: name(),
            stream,
            patch,
            request: None,
        }),
        CommandBody::Catalog(CatalogCommand::Free { name: name(), stream }),
        CommandBody::Tick,
    ]
}

/// Of groups; what came last.
fn of_groups() -> Vec<CommandBody> {
    let stream = StreamUid([9; 16]);
    let group = || GroupName::new("billing").expect("valid");
    let range = |start, end| OffsetRange::new(Offset(start), Offset(end));
    let ensure = EnsureGroup {
        stream,
        group: group(),
        patch: GroupPatch::default(),
        start: GroupStart::Latest,
        mode: EnsureMode::Warn,
        if_revision: None,
        allow_destructive: false,
        request: None,
    };
    let full = EnsureGroup {
        patch: GroupPatch {
            mode: Some(GroupMode::Exclusive),
            ack_wait_ms: Some(300),
            max_in_flight: Some(301),
            max_in_flight_bytes: Some(1 << 20),
            max_unsettled: Some(302),
            window: Some(303),
            backoff_ms: Some(vec![0, 304]),
            pin_retention: Some(true),
            owner: Some("shop".to_owned()),
            dlq: DlqPatch {
                enabled: Some(false),
                max_attempts: Some(305),
                max_distance: Some(306),
                max_age_ms: Some(307),
                min_attempts: Some(308),
            },
        },
        start: GroupStart::Offset(Offset(309)),
        if_revision: Some(3),
        allow_destructive: true,
        request: Some(RequestId([3; 16])),
        ..ensure.clone()
    };
    let of_dispatcher = vec![
        GroupChange::Ack { epoch: 300, ranges: vec![range(0, 1), range(1, 300), range(500, 501)] },
        GroupChange::Fail {
            epoch: 0,
            ranges: vec![range(301, 302)],
            cause: FailCause::Expired,
            delay_ms: None,
            error: None,
        },
        GroupChange::Fail {
            epoch: 0,
            ranges: vec![range(302, 303)],
            cause: FailCause::Nack,
            delay_ms: Some(400),
            error: Some("no".into()),
        },
        GroupChange::Reject { epoch: 1, ranges: vec![range(1, 2)], error: Some("never".into()) },
        GroupChange::Due { offsets: vec![Offset(0), Offset(1), Offset(500)] },
        GroupChange::Reserve { upto: Offset(1_000) },
        GroupChange::Activate,
        GroupChange::Removed { upto: Offset(7) },
    ];
    let of_operator = vec![
        GroupChange::Reset { to: Offset(5), force: true },
        GroupChange::Pause,
        GroupChange::Resume,
        GroupChange::Redrive { offsets: Vec::new() },
        GroupChange::Discard { offsets: vec![range(5, 6)] },
    ];
    let start = |start| Box::new(EnsureGroup { start, ..ensure.clone() });
    let commands = vec![
        GroupCommand::Ensure(full.into()),
        GroupCommand::Ensure(start(GroupStart::Earliest)),
        GroupCommand::Ensure(start(GroupStart::Last(310))),
        GroupCommand::Ensure(ensure.into()),
        GroupCommand::Delete { stream, group: group() },
        GroupCommand::Changes(Arc::new([
            GroupChanges { group: GroupId(300), term: 301, changes: of_dispatcher },
            GroupChanges { group: GroupId(1), term: 0, changes: of_operator },
        ])),
    ];
    commands.into_iter().map(CommandBody::Group).collect()
}

#[test]
fn ranges_of_a_change_are_disjoint_and_not_too_many() {
    let encode = |change| {
        let changes = [GroupChanges { group: GroupId(1), term: 1, changes: vec![change] }];
        let body = CommandBody::Group(GroupCommand::Changes(changes.into()));
        Command { ts: Timestamp(1), body }.encode()
    };
    let range = |start, end| OffsetRange::new(Offset(start), Offset(end));
    let fail = |ranges| GroupChange::Fail {
        epoch: 0,
        ranges,
        cause: FailCause::Nack,
        delay_ms: None,
        error: None,
    };
    let refused = |change| Command::decode(&encode(change)).is_err();
    assert!(refused(GroupChange::Ack { epoch: 0, ranges: vec![range(5, 5)] }), "an empty one");
    assert!(refused(GroupChange::Ack { epoch: 0, ranges: vec![range(5, 7), range(6, 8)] }));
    assert!(refused(GroupChange::Due { offsets: vec![Offset(5), Offset(5)] }));
    assert!(!refused(GroupChange::Ack { epoch: 0, ranges: vec![range(0, u64::MAX)] }));
    // What has a history of its own for each message is bounded.
    assert!(!refused(fail(vec![range(0, 1), range(1, FAILURES_PER_CHANGE)])));
    assert!(refused(fail(vec![range(0, 1), range(1, FAILURES_PER_CHANGE + 1)])));
    assert!(refused(fail(vec![range(0, 1), range(1, u64::MAX)])));
    let error = |bytes| GroupChange::Reject {
        epoch: 0,
        ranges: vec![range(0, 1)],
        error: Some("x".repeat(bytes).into()),
    };
    assert!(!refused(error(FAILURE_BYTES)));
    assert!(refused(error(FAILURE_BYTES + 1)));
}

/// Of nodes and where replicas are; what came after the others.
fn of_nodes() -> Vec<CommandBody> {
    let (node, shard, uid) = (NodeId(300), ShardId(200), NodeUid([4; 16]));
    let info = NodeInfo {
        uid,
        peer_address: "a.example:7401".to_owned(),
        client_address: "a.example:7400".to_owned(),
        feature_level: 7,
    };
    let settings = ClusterSettings {
        cluster: ClusterUid([5; 16]),
        shards: 2,
        hot_bytes_max: 1 << 30,
        replicas: 3,
    };
    let replicas = vec![ReplicaId::new(node, 2), ReplicaId::new(NodeId(1), 1)];
    let commands = [
        CatalogCommand::Found {
            settings,
            nodes: vec![(node, info.clone()), (NodeId(1), info.clone())],
        },
        CatalogCommand::AddNode(info.clone()),
        CatalogCommand::UpdateNode { node, info: info.clone() },
        CatalogCommand::SetNodeState { node, state: NodeState::Draining },
        CatalogCommand::SetFeatureLevel(3),
        CatalogCommand::Place { shard, replicas, if_version: 1_000 },
        CatalogCommand::Settled { shard, version: 9 },
        CatalogCommand::Reincarnate { shard, lost: ReplicaId::new(node, 1) },
        CatalogCommand::AddToken { hash: [6; 32], expires: Timestamp(5) },
        CatalogCommand::UseToken { hash: [6; 32], uid },
        CatalogCommand::UpdateNodes(vec![(node, info.clone()), (NodeId(1), info)]),
    ];
    commands.map(CommandBody::Catalog).into()
}

/// Of requests that say which they are; what came last.
fn of_requests() -> Vec<CommandBody> {
    let requested = Some(RequestId([3; 16]));
    let mut bodies = others();
    bodies.retain_mut(|body| match body {
        CommandBody::Stream(StreamCommand::Ensure(ensure)) => {
            ensure.request = requested;
            true
        }
        CommandBody::Catalog(CatalogCommand::Reserve { request, .. }) => {
            *request = requested;
            true
        }
        _ => false,
    });
    bodies
}

fn concat(parts: &[Bytes]) -> Bytes {
    parts.concat().into()
}

#[test]
fn commands_round_trip_whole_and_in_parts() {
    let mut bodies = others();
    bodies.extend(of_nodes());
    bodies.extend(of_requests());
    bodies.extend(of_groups());
    bodies.push(CommandBody::Append(appends()));
    for body in bodies {
        let command = Command { ts: Timestamp(1_700_000_000_000_000), body };
        let parts = command.encode();
        for parts in [parts.clone(), vec![concat(&parts)]] {
            let again = Command::decode(&parts).expect("our own");
            assert_eq!(format!("{again:?}"), format!("{command:?}"));
        }
    }
}

#[test]
fn an_item_is_found_at_its_position() {
    let items = appends();
    let command = Command { ts: Timestamp(1), body: CommandBody::Append(items.clone()) };
    let parts = command.encode();
    let second = u64::from(Command::ITEMS_AT) + items[0].encoded_len() as u64;
    for parts in [parts.clone(), vec![concat(&parts)]] {
        let mut cursor = PartsCursor::new(&parts);
        cursor.seek(second).expect("inside");
        let item = Append::decode(&mut cursor).expect("an item");
        assert_eq!((item.stream, item.batch), (items[1].stream, items[1].batch.clone()));
        assert_eq!(cursor.position(), second + items[1].encoded_len() as u64);
        let third = Append::decode(&mut cursor).expect("an item");
        assert_eq!(third.dead_letter, items[2].dead_letter);
        assert_eq!(cursor.remaining(), 0);
        assert_eq!(
            cursor.position(),
            second + (items[1].encoded_len() + items[2].encoded_len()) as u64
        );
        assert!(cursor.seek(cursor.position() + 1).is_err());
        // From anywhere to anywhere, also from behind the end.
        let total = cursor.position();
        let whole = concat(&parts);
        for (from, to) in (0..=total).flat_map(|from| [0, second, total].map(|to| (from, to))) {
            for (at, reached) in [(from, true), (u64::MAX, false), (to, true)] {
                assert_eq!(cursor.seek(at).is_ok(), reached, "{from} to {to}: {at}");
                let at = at.min(total);
                assert_eq!(cursor.position(), at);
                assert_eq!(cursor.remaining() as u64, total - at);
                assert!(whole[at as usize..].starts_with(cursor.peek()));
            }
        }
    }
}

#[test]
fn damaged_or_cut_commands_are_refused() {
    let bodies = others().into_iter().chain(of_nodes()).chain(of_requests()).chain(of_groups());
    for body in bodies {
        let whole = concat(&Command { ts: Timestamp(1), body }.encode());
        for cut in 0..whole.len() {
            assert!(Command::decode(&[whole.slice(..cut)]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 0x10;
            assert!(Command::decode(&[flipped.into()]).is_err(), "flipped at {at}");
        }
    }
    // Items: their headers are checked here, batches by their own checksums and the log's.
    let body = CommandBody::Append(appends());
    let whole = concat(&Command { ts: Timestamp(1), body }.encode());
    let header = Command::ITEMS_AT as usize;
    for at in header..header + 25 {
        let mut flipped = whole.to_vec();
        flipped[at] ^= 0x10;
        assert!(Command::decode(&[flipped.into()]).is_err(), "flipped at {at}");
    }
}

#[test]
fn what_a_newer_release_wrote_is_named() {
    let mut newer =
        concat(&Command { ts: Timestamp(1), body: CommandBody::Tick }.encode()).to_vec();
    newer[0] = 2;
    assert_eq!(
        Command::decode(&[newer.into()]).map(|_| ()),
        Err(CommandError::Unknown { what: "version", value: 2 })
    );
}

#[test]
fn the_format_is_fixed() {
    let appended = [CommandBody::Append(appends())];
    let bodies = others().into_iter().chain(appended).chain(of_nodes()).chain(of_requests());
    let bodies = bodies.chain(of_groups());
    let encode = |body| concat(&Command { ts: Timestamp(2), body }.encode());
    let bytes = bodies.map(encode).collect::<Vec<_>>().concat();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/commands-v1.bin");
    if std::env::var_os("REGENERATE_GOLDEN").is_some() {
        std::fs::write(path, &bytes).expect("it can be written");
    }
    let golden = std::fs::read(path).expect("golden file is there");
    assert!(bytes == golden, "the format changed; now {} bytes", bytes.len());
}
