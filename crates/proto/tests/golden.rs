//! A frame of every kind, byte by byte: what is on the wire must never change its meaning. A line
//! of the golden file may be added, never changed.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use railgun_proto::v1::{self, admin_request::Call, admin_response::Answer, subscribe::Start};
use railgun_proto::{Frame, FrameDecoder, FrameKind};

const GOLDEN: &str = include_str!("golden/frames-v1.txt");
const GOLDEN_CLUSTER: &str = include_str!("golden/cluster-v1.txt");
const GOLDEN_GROUPS: &str = include_str!("golden/groups-v1.txt");
const GOLDEN_SETTINGS: &str = include_str!("golden/settings-v1.txt");

fn uid() -> Bytes {
    (0u8..16).collect()
}

fn error() -> v1::Error {
    v1::Error {
        code: 303,
        message: "gap".to_owned(),
        retry: v1::Retry::After.into(),
        retry_after_ms: 100,
        record: Some(0),
        actual: Some(7),
        leader: "n2:9400".to_owned(),
    }
}

fn about() -> v1::NodeAbout {
    v1::NodeAbout {
        uid: uid(),
        process: uid(),
        cluster_uid: uid(),
        node_id: 2,
        bootstrap_expect: 3,
        peer_address: "n2:9401".to_owned(),
        client_address: "n2:9400".to_owned(),
        feature_level: 1,
        clock_us: -1,
        sees: vec![uid()],
        forming: true,
        bucket: "s3://b/p".to_owned(),
        log_clock_us: None,
    }
}

fn replica() -> v1::ReplicaAddress {
    v1::ReplicaAddress { cluster_uid: uid(), shard: 3, replica: 2 << 16 | 1 }
}

fn frames() -> Vec<Frame> {
    let item = v1::PublishItem {
        alias: 1,
        batch_bytes: 3,
        sequence: 300,
        mode: v1::PublishMode::PublishAtomic.into(),
        on_duplicate: v1::DuplicateHandling::DuplicateError.into(),
        expected_last_offset: Some(-1),
    };
    let result = v1::ItemResult {
        base_offset: 9,
        ts_us: -1,
        published: 2,
        duplicates: vec![v1::Duplicate { record: 1, offset: 4, ts_us: 5 }],
        error: Some(error()),
    };
    let patch = v1::StreamPatch {
        kind: Some(v1::StreamKind::StreamPersistent.into()),
        max_message_bytes: Some(0),
        owner: None,
        dlq: None,
        dedup: None,
    };
    let diff = v1::FieldDiff {
        path: "owner".to_owned(),
        actual: "a".to_owned(),
        wanted: "b".to_owned(),
        class: v1::ChangeClass::ChangeLive.into(),
    };
    let admin = |call| Frame::new(&v1::AdminRequest { id: 1, call: Some(call) });
    let answer = |answer| Frame::new(&v1::AdminResponse { id: 1, answer: Some(answer) });
    vec![
        Frame::new(&v1::Hello {
            version_min: 1,
            version_max: 2,
            client: "test".to_owned(),
            token: "secret".to_owned(),
        }),
        Frame::new(&v1::Welcome {
            version: 1,
            server: "railgun/0.1.0".to_owned(),
            cluster_uid: uid(),
            node_id: 3,
            message_bytes_max: 8 << 20,
            batch_bytes_max: (8 << 20) + (64 << 10),
            batch_records_max: 65_536,
            unanswered_max: 8,
            feature_level: 1,
        }),
        Frame::new(&v1::GoAway { deadline_ms: 5_000, alternatives: vec!["n2:9400".to_owned()] }),
        Frame::new(&error()),
        Frame::new(&v1::OpenPublisher {
            producer_id: uid(),
            epoch: 2,
            ordered: true,
            leader_hints: true,
        }),
        Frame::new(&v1::PublisherOpened { credit_bytes: 4 << 20 }),
        Frame::new(&v1::BindStream { alias: 1, stream: "orders".to_owned(), ..Default::default() }),
        Frame::new(&v1::StreamBound {
            alias: 1,
            stream_uid: uid(),
            message_bytes_max: 1 << 20,
            error: Some(error()),
            shard: 5,
        }),
        Frame::with_blob(&v1::Publish { items: vec![item] }, vec![Bytes::from_static(b"RGB")]),
        Frame::new(&v1::PublishResult { items: vec![result] }),
        Frame::new(&v1::ClosePublisher {}),
        Frame::new(&v1::UnbindStreams { aliases: vec![1, 300], forget: true }),
        Frame::new(&v1::StreamsUnbound { error: Some(error()) }),
        Frame::new(&v1::LeaderHint { shard: 5, node_id: 2, address: "n2:9400".to_owned() }),
        Frame::new(&v1::Subscribe {
            stream: "orders".to_owned(),
            until_offset: Some(0),
            until_time_us: Some(-2),
            until_end: true,
            credit_bytes: 1 << 20,
            start: Some(Start::Last(3)),
            stream_uid: Bytes::new(),
        }),
        Frame::new(&v1::Subscribed { stream_uid: uid(), resumed_at: 1, head: 0, next_offset: 128 }),
        Frame::with_blob(
            &v1::Deliver {
                base_offset: 1,
                skip: 2,
                count: 3,
                ts_us: 4,
                source: v1::Source::Cold.into(),
            },
            vec![Bytes::from_static(b"R"), Bytes::from_static(b"GB")],
        ),
        Frame::new(&v1::Credit { bytes: u64::MAX }),
        Frame::new(&v1::Removed { from: 1, to: 2, reason: v1::RemovedReason::RemovedLost.into() }),
        Frame::new(&v1::End { next_offset: 1 << 40 }),
        admin(Call::EnsureStream(v1::EnsureStream {
            name: "orders".to_owned(),
            spec: Some(patch),
            mode: v1::EnsureMode::EnsureOverwrite.into(),
            if_revision: Some(1),
            request_id: Bytes::new(),
            allow_destructive: true,
        })),
        answer(Answer::StreamEnsured(v1::StreamEnsured {
            outcome: v1::EnsureOutcome::EnsureUpdated.into(),
            stream_uid: uid(),
            revision: 2,
            diff: vec![diff],
        })),
        Frame::new(&v1::JoinGroup {
            stream: "orders".to_owned(),
            group: "billing".to_owned(),
            stream_uid: uid(),
            credit_messages: 2_500,
            credit_bytes: 16 << 20,
            mode: v1::GroupMode::GroupExclusive.into(),
            held: vec![v1::HeldLease {
                lease: 3 << 32 | 1,
                from: 300,
                count: 2,
                attempt: 1,
                epoch: 4,
                begun: true,
                redrive_generation: 0,
                message_bytes: 0,
            }],
            group_id: 77,
            fetches: false,
        }),
        Frame::new(&v1::GroupJoined {
            stream_uid: uid(),
            group_id: 77,
            mode: v1::GroupMode::GroupBalanced.into(),
            floor: 299,
            head: 1,
            next_offset: 400,
            ack_wait_ms: 30_000,
        }),
        Frame::with_blob(
            &v1::GroupDeliver {
                base_offset: 300,
                count: 2,
                ts_us: -1,
                source: v1::Source::Ring.into(),
                lease: 3 << 32 | 1,
                attempt: 2,
                epoch: 4,
                redrive_generation: 1,
            },
            vec![Bytes::from_static(b"R"), Bytes::from_static(b"GB")],
        ),
        Frame::new(&v1::Settle {
            number: 5,
            items: vec![v1::SettleItem {
                lease: 3 << 32 | 1,
                from: 300,
                count: 2,
                epoch: 4,
                kind: v1::SettleKind::SettleNack.into(),
                delay_ms: Some(0),
                error: "later".to_owned(),
            }],
        }),
        Frame::new(&v1::Settled {
            through: 5,
            stale: vec![v1::StaleSettle {
                lease: 3 << 32 | 1,
                from: 300,
                count: 1,
                reason: v1::StaleReason::StaleFenced.into(),
            }],
        }),
        Frame::new(&v1::GroupNotice { notice: Some(v1::group_notice::Notice::RewindTo(300)) }),
        Frame::new(&v1::DrainMember {}),
        Frame::new(&v1::Fetch { number: 3, messages: 300, bytes: 1 << 20, no_wait: true }),
        Frame::new(&v1::PeerHello {
            version_min: 1,
            version_max: 1,
            r#use: v1::PeerUse::Log.into(),
            from: Some(about()),
        }),
        Frame::new(&v1::PeerWelcome {
            version: 1,
            from: Some(about()),
            refused: Some(error()),
            elsewhere: "n3:9401".to_owned(),
        }),
        Frame::new(&v1::PeerCall { id: 300, call: Some(v1::peer_call::Call::Raft(replica())) }),
        Frame::new(&v1::PeerReply {
            id: 300,
            answer: Some(v1::peer_reply::Answer::RaftAnswered(v1::Done {})),
        }),
        Frame::new(&v1::PeerOpen {
            to: Some(replica()),
            r#use: v1::PeerStreamUse::PeerStreamRelay.into(),
            session: None,
        }),
        Frame::new(&v1::PeerData { head: uid() }),
    ]
}

/// What is said about groups, in every variant.
fn group_frames() -> Vec<Frame> {
    use v1::control_group::Action;
    use v1::group_notice::Notice;
    let admin = |call| Frame::new(&v1::AdminRequest { id: 1, call: Some(call) });
    let answer = |answer| Frame::new(&v1::AdminResponse { id: 1, answer: Some(answer) });
    let notice = |notice| Frame::new(&v1::GroupNotice { notice: Some(notice) });
    let names = || ("orders".to_owned(), "billing".to_owned());
    let span = || v1::OffsetSpan { from: 3, to: 300 };
    let control = |action| {
        let (stream, group) = names();
        admin(Call::ControlGroup(v1::ControlGroup {
            stream,
            group,
            action: Some(action),
            ..Default::default()
        }))
    };
    let spec = v1::GroupPatch {
        mode: Some(v1::GroupMode::GroupExclusive.into()),
        ack_wait_ms: Some(30_000),
        max_in_flight: Some(1_000),
        max_in_flight_bytes: Some(64 << 20),
        max_unsettled: Some(10_000),
        window: Some(1_000_000),
        backoff: Some(v1::Backoff { delays_ms: vec![0, 1_000] }),
        pin_retention: Some(true),
        owner: Some("shop".to_owned()),
        dlq: Some(v1::DlqPatch {
            enabled: Some(true),
            max_attempts: Some(5),
            max_distance: Some(10_000),
            max_age_ms: Some(0),
            min_attempts: Some(2),
        }),
    };
    let (stream, group) = names();
    let description = v1::GroupDescription {
        group: "billing".to_owned(),
        group_id: 77,
        spec: Some(spec.clone()),
        revision: 2,
        created_us: -1,
        floor: 3,
        next_offset: 300,
        lag: 297,
        lag_since_us: 5,
        highest_acked: Some(2),
        delayed: 1,
        dying: 2,
        parked: 3,
        dead: 4,
        epoch: 5,
        paused: v1::GroupPause::GroupPausedByBreaker.into(),
        companion: "orders$dlq.billing".to_owned(),
        dead_letters: 6,
        members: 7,
        leased: 8,
        lag_bytes: 9,
        stalled: false,
    };
    let start = Some(v1::reset_group::Start::TimeUs(-1));
    vec![
        notice(Notice::StalledAt(1)),
        notice(Notice::Resumed(true)),
        notice(Notice::Paused(v1::GroupPause::GroupPausedByOperator.into())),
        notice(Notice::Unpaused(true)),
        notice(Notice::ActiveEpoch(2)),
        notice(Notice::Inactive(true)),
        notice(Notice::Skipped(span())),
        notice(Notice::Drained(true)),
        notice(Notice::Fetching(5)),
        notice(Notice::Fetched(5)),
        notice(Notice::PausedUntilUs(-1)),
        admin(Call::EnsureGroup(v1::EnsureGroup {
            stream,
            group,
            spec: Some(spec),
            start: Some(v1::ensure_group::Start::Offset(7)),
            mode: v1::EnsureMode::EnsureWarn.into(),
            if_revision: Some(1),
            allow_destructive: true,
            request_id: uid(),
        })),
        answer(Answer::GroupEnsured(v1::GroupEnsured {
            outcome: v1::EnsureOutcome::EnsureCreated.into(),
            group_id: 77,
            revision: 1,
            diff: Vec::new(),
            warnings: vec!["small".to_owned()],
        })),
        admin(Call::ListGroups(v1::ListGroups {
            stream: "orders".to_owned(),
            after: "a".to_owned(),
            limit: 10,
        })),
        answer(Answer::GroupList(v1::GroupList { groups: vec![description.clone()], more: true })),
        admin(Call::DescribeGroup(v1::DescribeGroup { stream: names().0, group: names().1 })),
        answer(Answer::GroupDescription(description)),
        admin(Call::DeleteGroup(v1::DeleteGroup { stream: names().0, group: names().1 })),
        answer(Answer::GroupDeleted(v1::GroupDeleted { was_there: true })),
        control(Action::Reset(v1::ResetGroup { force: true, start })),
        control(Action::Pause(true)),
        control(Action::HandOver(true)),
        control(Action::Resume(true)),
        control(Action::Redrive(v1::OffsetSpans { spans: vec![span()] })),
        control(Action::Discard(v1::OffsetSpans::default())),
        control(Action::ListDead(v1::ListDead { from: 300 })),
        answer(Answer::GroupControlled(v1::GroupControlled {
            messages: 4,
            floor: 3,
            dead: vec![span()],
            parked: vec![span()],
            more: true,
        })),
        answer(Answer::GroupDescription(v1::GroupDescription {
            stalled: true,
            ..v1::GroupDescription::default()
        })),
    ]
}

/// What operators and nodes that join ask, and what nodes ask one another for that.
fn cluster_frames() -> Vec<Frame> {
    let admin = |call| Frame::new(&v1::AdminRequest { id: 1, call: Some(call) });
    let answer = |answer| Frame::new(&v1::AdminResponse { id: 1, answer: Some(answer) });
    let asks = |call| Frame::new(&v1::PeerCall { id: 300, call: Some(call) });
    let tells = |answer| Frame::new(&v1::PeerReply { id: 300, answer: Some(answer) });
    let drain = v1::DrainProgress {
        leads: vec![0, 300],
        votes: vec![1],
        stuck: vec![2],
        leaving: vec![3],
        drained: true,
    };
    let node = v1::ClusterNode {
        node_id: 2,
        uid: uid(),
        state: v1::NodeState::Draining.into(),
        peer_address: "n2:9401".to_owned(),
        client_address: "n2:9400".to_owned(),
        feature_level: 1,
        reachable: true,
        drain: Some(drain.clone()),
    };
    let shard = v1::ClusterShard {
        shard: 3,
        placement_version: 4,
        settled: true,
        leader: 2 << 16 | 1,
        term: 5,
        voters_wanted: 3,
        under_replicated: true,
        has_majority: true,
        pending_log_bytes: Some(0),
        replicas: vec![v1::ClusterReplica {
            replica: 2 << 16 | 1,
            votes: true,
            wanted: true,
            reachable: true,
            committed: Some(0),
            applied: None,
        }],
    };
    let description = v1::ClusterDescription {
        cluster_uid: uid(),
        feature_level: 1,
        data_shards: 3,
        replicas: 3,
        hot_bytes_max: 1 << 30,
        node_id: 1,
        nodes: vec![node],
        shards: vec![shard],
    };
    let sign = v1::SignNode {
        secret: uid(),
        csr_pem: "csr".to_owned(),
        hosts: vec!["n4.example.com".to_owned()],
    };
    let signed = v1::NodeSigned { chain_pem: "chain".to_owned(), ca_pem: "ca".to_owned() };
    let told = v1::NodeReplica {
        shard: 3,
        replica: 2 << 16 | 1,
        term: 5,
        leader: 1 << 16 | 1,
        serving: true,
        committed: Some(7),
        applied: Some(0),
        pending_log_bytes: Some(8),
        voters: vec![1 << 16 | 1],
        learners: vec![2 << 16 | 1],
    };
    let transfer = v1::TransferLeader { shard: 3, node_id: 2 };
    let led = v1::LeaderTransferred { leader: 2 << 16 | 1, term: 6 };
    let state = v1::NodeState::Removed.into();
    let made = v1::JoinToken { secret: uid(), expires_us: -1, ca_sha256: uid() };
    let (from, error) = (Some(replica()), Some(error()));
    use v1::{peer_call::Call as Ask, peer_reply::Answer as Reply};
    vec![
        admin(Call::DescribeCluster(v1::DescribeCluster {})),
        answer(Answer::ClusterDescription(description)),
        admin(Call::SetNodeState(v1::SetNodeState { node_id: 2, state, force: true })),
        answer(Answer::NodeStateSet(v1::NodeStateSet { drain: Some(drain) })),
        admin(Call::TransferLeader(transfer)),
        answer(Answer::LeaderTransferred(led)),
        admin(Call::MakeJoinToken(v1::MakeJoinToken { valid_for_ms: 3_600_000 })),
        answer(Answer::JoinToken(made)),
        admin(Call::SignNode(sign.clone())),
        answer(Answer::NodeSigned(signed.clone())),
        asks(Ask::Describe(v1::DescribeReplicas { cluster_uid: uid() })),
        tells(Reply::ReplicasTold(v1::NodeReplicas { replicas: vec![told], ca_sha256: uid() })),
        asks(Ask::MoveLead(v1::MoveLead { from, node_id: 2 })),
        tells(Reply::LeadMoved(v1::LeadMoved { error: error.clone() })),
        asks(Ask::Sign(sign)),
        tells(Reply::CertificateSigned(v1::CertificateSigned { signed: Some(signed), error })),
        asks(Ask::Greet(v1::NodeAbout { log_clock_us: Some(-2), ..about() })),
        admin(Call::EnsureStream(v1::EnsureStream {
            name: "orders".to_owned(),
            request_id: uid(),
            ..v1::EnsureStream::default()
        })),
    ]
}

fn encode(frame: &Frame) -> Bytes {
    let mut bytes = BytesMut::new();
    for part in frame.clone().write_to(&mut bytes).expect("within limits") {
        bytes.extend_from_slice(&part);
    }
    bytes.freeze()
}

#[test]
fn every_kind_has_its_golden_bytes() {
    let frames = frames();
    let kinds: Vec<FrameKind> = frames.iter().map(Frame::kind).collect();
    assert_eq!(kinds, FrameKind::ALL);
    is_golden(&frames, GOLDEN);
}

#[test]
fn calls_about_the_cluster_have_their_golden_bytes() {
    is_golden(&cluster_frames(), GOLDEN_CLUSTER);
}

#[test]
fn what_is_said_about_groups_has_its_golden_bytes() {
    is_golden(&group_frames(), GOLDEN_GROUPS);
}

#[test]
fn settings_that_came_later_have_their_golden_bytes() {
    let dedup = v1::StreamDedup {
        window_ms: Some(120_000),
        require_id: Some(false),
        max_ids: Some(7),
        full: Some(v1::DedupFull::DedupEvictOldest.into()),
    };
    let spec = Some(v1::StreamPatch { dedup: Some(dedup), ..Default::default() });
    let ensure = v1::EnsureStream { name: "s".to_owned(), spec, ..Default::default() };
    let description = v1::StreamDescription {
        dedup_ids: 1,
        dedup_effective_window_ms: 2,
        dedup_evicted: 3,
        ..Default::default()
    };
    let call = v1::admin_request::Call::EnsureStream(ensure);
    let answer = v1::admin_response::Answer::StreamDescription(description);
    let frames = [
        Frame::new(&v1::AdminRequest { id: 1, call: Some(call) }),
        Frame::new(&v1::AdminResponse { id: 1, answer: Some(answer) }),
    ];
    is_golden(&frames, GOLDEN_SETTINGS);
}

fn is_golden(frames: &[Frame], golden: &str) {
    let mut lines = String::new();
    for frame in frames {
        write!(lines, "{:>3} {} ", frame.kind() as u8, frame.kind()).expect("memory");
        encode(frame).iter().for_each(|byte| write!(lines, "{byte:02x}").expect("memory"));
        lines.push('\n');
    }
    assert!(lines == golden, "the golden file has\n{golden}\nthe code makes\n{lines}");
}

#[test]
fn golden_bytes_decode() {
    decodes(GOLDEN, &frames());
    decodes(GOLDEN_CLUSTER, &cluster_frames());
    decodes(GOLDEN_GROUPS, &group_frames());
}

fn decodes(golden: &str, expected: &[Frame]) {
    for (line, frame) in golden.lines().zip(expected) {
        let digits = line.split(' ').next_back().expect("a word");
        let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).expect("a digit");
        let mut bytes: Bytes = (0..digits.len()).step_by(2).map(byte).collect();
        assert_eq!(FrameDecoder::new().feed(&mut bytes), Ok(Some(frame.clone())), "{line}");
        assert!(bytes.is_empty(), "{line}");
    }
    assert_eq!(golden.lines().count(), expected.len());
}
