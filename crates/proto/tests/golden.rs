//! A frame of every kind, byte by byte: what is on the wire must never change its meaning. A line
//! of the golden file may be added, never changed.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use railgun_proto::v1::{self, admin_request::Call, admin_response::Answer, subscribe::Start};
use railgun_proto::{Frame, FrameDecoder, FrameKind};

const GOLDEN: &str = include_str!("golden/frames-v1.txt");
const GOLDEN_CLUSTER: &str = include_str!("golden/cluster-v1.txt");

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
