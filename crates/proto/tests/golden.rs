//! A frame of every kind, byte by byte: what is on the wire must never change its meaning. A line
//! of the golden file may be added, never changed.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use railgun_proto::v1::{self, admin_request::Call, admin_response::Answer, subscribe::Start};
use railgun_proto::{Frame, FrameDecoder, FrameKind};

const GOLDEN: &str = include_str!("golden/frames-v1.txt");

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
        Frame::new(&v1::OpenPublisher { producer_id: uid(), epoch: 2, ordered: true }),
        Frame::new(&v1::PublisherOpened { credit_bytes: 4 << 20 }),
        Frame::new(&v1::BindStream { alias: 1, stream: "orders".to_owned() }),
        Frame::new(&v1::StreamBound {
            alias: 1,
            stream_uid: uid(),
            message_bytes_max: 1 << 20,
            error: Some(error()),
        }),
        Frame::with_blob(&v1::Publish { items: vec![item] }, vec![Bytes::from_static(b"RGB")]),
        Frame::new(&v1::PublishResult { items: vec![result] }),
        Frame::new(&v1::ClosePublisher {}),
        Frame::new(&v1::UnbindStreams { aliases: vec![1, 300], forget: true }),
        Frame::new(&v1::StreamsUnbound { error: Some(error()) }),
        Frame::new(&v1::Subscribe {
            stream: "orders".to_owned(),
            until_offset: Some(0),
            until_time_us: Some(-2),
            until_end: true,
            credit_bytes: 1 << 20,
            start: Some(Start::Last(3)),
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
        Frame::new(&v1::PeerWelcome { version: 1, from: Some(about()) }),
        Frame::new(&v1::PeerCall { id: 300, call: Some(v1::peer_call::Call::Raft(replica())) }),
        Frame::new(&v1::PeerReply {
            id: 300,
            answer: Some(v1::peer_reply::Answer::RaftAnswered(v1::Done {})),
        }),
        Frame::new(&v1::PeerOpen {
            to: Some(replica()),
            r#use: v1::PeerStreamUse::PeerStreamRelay.into(),
        }),
        Frame::new(&v1::PeerData { head: uid() }),
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
    let mut lines = String::new();
    for frame in &frames {
        write!(lines, "{:>3} {} ", frame.kind() as u8, frame.kind()).unwrap();
        encode(frame).iter().for_each(|byte| write!(lines, "{byte:02x}").unwrap());
        lines.push('\n');
    }
    assert!(lines == GOLDEN, "the golden file has\n{GOLDEN}\nthe code makes\n{lines}");
}

#[test]
fn golden_bytes_decode() {
    let expected = frames();
    for (line, frame) in GOLDEN.lines().zip(&expected) {
        let digits = line.split(' ').next_back().unwrap();
        let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
        let mut bytes: Bytes = (0..digits.len()).step_by(2).map(byte).collect();
        assert_eq!(FrameDecoder::new().feed(&mut bytes), Ok(Some(frame.clone())), "{line}");
        assert!(bytes.is_empty(), "{line}");
    }
    assert_eq!(GOLDEN.lines().count(), expected.len());
}
