//! Bytes that are no frames, and frames that are no messages.

use bytes::Bytes;
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::subscribe::Start;
use railgun_proto::{Frame, FrameDecoder, FrameKind, v1};
use railgun_testkit::sim::Random;
use railgun_types::ErrorCode::{self, FrameTooLarge, ProtocolViolation};
use railgun_types::limits::BATCH_BYTES_HARD;

use crate::arena;
use crate::attacker::{ALIAS, ANONYMOUS, Attacker, Line, encode, header, join, subscribe};
use crate::raw_batch;

/// What a QUIC stream is when the bytes come.
#[derive(Clone, Copy, Debug)]
enum Role {
    Unnamed,
    Publisher,
    Subscription,
    Member,
    Requester,
}

const ROLES: [Role; 5] =
    [Role::Unnamed, Role::Publisher, Role::Subscription, Role::Member, Role::Requester];

impl Role {
    /// A stream of `attacker` that is waiting for the next frame, its answers read.
    async fn line(self, attacker: &Attacker) -> Line {
        match self {
            Self::Unnamed => attacker.open().await,
            Self::Publisher => attacker.publisher(&ANONYMOUS, "target").await,
            Self::Subscription => {
                let follow = subscribe("target", Start::Latest(true), 1 << 20, false);
                let mut line = attacker.begin(&follow).await;
                line.expect::<v1::Subscribed>().await;
                line
            }
            Self::Member => {
                let mut line = attacker.begin(&join("target", 1)).await;
                line.expect::<v1::GroupJoined>().await;
                line
            }
            Self::Requester => {
                let mut line = attacker.begin(&describe()).await;
                line.expect::<v1::AdminResponse>().await;
                line
            }
        }
    }

    /// A frame that is allowed now.
    fn frame(self) -> Frame {
        match self {
            Self::Unnamed => Frame::new(&subscribe("target", Start::Earliest(true), 1, true)),
            Self::Publisher => {
                let batch = raw_batch::of_values(&[b"a", b"b"]);
                let batch_bytes = batch.len() as u32;
                let item = v1::PublishItem { alias: ALIAS, batch_bytes, ..Default::default() };
                Frame::with_blob(&v1::Publish { items: vec![item] }, vec![batch.into()])
            }
            Self::Subscription => Frame::new(&v1::Credit { bytes: 1 << 20 }),
            Self::Member => {
                let kind = v1::SettleKind::SettleBegin.into();
                let item = v1::SettleItem { lease: 7, count: 1, kind, ..Default::default() };
                Frame::new(&v1::Settle { number: 1, items: vec![item] })
            }
            Self::Requester => Frame::new(&describe()),
        }
    }
}

fn describe() -> v1::AdminRequest {
    let call = Call::DescribeStream(v1::DescribeStream { name: "target".into() });
    v1::AdminRequest { id: u64::MAX, call: Some(call) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_ends_its_stream_alone() {
    let (_node, mut bystander, attacker) = arena().await;
    let blob_max = BATCH_BYTES_HARD as u32;
    let cases: [(&str, [u8; 8], ErrorCode); 11] = [
        ("kind 0", header(0, 0, 0), ProtocolViolation),
        ("an unknown kind", header(5, 0, 0), ProtocolViolation),
        ("the last kind", header(255, 0xff_ffff, u32::MAX), ProtocolViolation),
        ("a long head", header(FrameKind::Credit as u8, (16 << 10) + 1, 0), FrameTooLarge),
        ("a long request", header(FrameKind::AdminRequest as u8, (16 << 10) + 1, 0), FrameTooLarge),
        ("a longer head", header(FrameKind::UnbindStreams as u8, (1 << 20) + 1, 0), FrameTooLarge),
        ("the longest head", header(FrameKind::Publish as u8, 0xff_ffff, 0), FrameTooLarge),
        ("a blob where none is", header(FrameKind::BindStream as u8, 0, 1), FrameTooLarge),
        ("a long blob", header(FrameKind::Publish as u8, 0, blob_max + 1), FrameTooLarge),
        ("the longest blob", header(FrameKind::Publish as u8, 0, u32::MAX), FrameTooLarge),
        ("a long hello", header(FrameKind::Hello as u8, 16_385, 0), FrameTooLarge),
    ];
    for role in ROLES {
        for (what, bytes, code) in cases {
            println!("{what} on {role:?}");
            let mut line = role.line(&attacker).await;
            line.bytes(&bytes).await;
            line.is_refused(code).await;
        }
        attacker.is_served().await;
        bystander.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_inside_a_frame_is_told() {
    let (_node, mut bystander, attacker) = arena().await;
    for role in ROLES {
        let whole = encode(role.frame());
        // In the header, behind it, in the middle, before the last byte.
        for cut in [1, 7, 8, whole.len() / 2, whole.len() - 1] {
            println!("{role:?} cut at {cut}");
            let mut line = role.line(&attacker).await;
            line.bytes(&whole[..cut]).await;
            line.finish();
            line.is_refused(ProtocolViolation).await;
        }
        // Reset instead of finished: nobody is left to be told anything.
        let mut line = role.line(&attacker).await;
        line.bytes(&whole[..whole.len() - 1]).await;
        line.reset();
        assert!(line.next().await.is_none());
        attacker.is_served().await;
        bystander.is_served().await;
    }
    assert_eq!(attacker.describe("target").await.next_offset, 0, "half a publish is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_no_message_ends_its_stream_alone() {
    let (_node, mut bystander, attacker) = arena().await;
    let heads: [&[u8]; 5] = [
        // A field cut short, a wire type that does not exist, a length beyond the end, a varint
        // without end, and the field number 0.
        &[0x08],
        &[0x0f, 1],
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x00, 0x00],
    ];
    for role in ROLES {
        let kind = encode(role.frame())[0];
        for head in heads {
            let mut line = role.line(&attacker).await;
            line.bytes(&header(kind, head.len() as u32, 0)).await;
            line.bytes(head).await;
            line.is_refused(ProtocolViolation).await;
        }
        attacker.is_served().await;
        bystander.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_later_version_are_ignored() {
    let (_node, _, attacker) = arena().await;
    for role in ROLES {
        let frame = encode(role.frame());
        let head_bytes = u32::from_le_bytes([frame[1], frame[2], frame[3], 0]);
        let (head, blob) = frame[8..].split_at(head_bytes as usize);
        // Field 1,000 as a varint.
        let newer = [head, &[0xc0, 0x3e, 42]].concat();
        let mut line = role.line(&attacker).await;
        line.bytes(&header(frame[0], newer.len() as u32, blob.len() as u32)).await;
        line.bytes(&newer).await;
        line.bytes(blob).await;
        line.finish();
        while let Some(answer) = line.next().await {
            assert_ne!(answer.kind(), FrameKind::Error, "{role:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_end_their_stream_alone() {
    let (_node, mut bystander, attacker) = arena().await;
    let mut random = Random::new(1);
    for role in ROLES {
        for round in 0..40 {
            let mut bytes: Vec<u8> =
                (0..1 + random.below(300)).map(|_| random.next() as u8).collect();
            if round % 2 == 0 {
                // A kind that is known, and lengths that are allowed: random where it matters.
                let kinds = FrameKind::ALL;
                bytes[0] = kinds[random.below(kinds.len() as u64) as usize] as u8;
                bytes.resize(bytes.len().max(8), 0);
                bytes[2..8].fill(0);
            }
            let mut line = role.line(&attacker).await;
            line.bytes(&bytes).await;
            line.finish();
            fails_by_the_client(&mut line, &bytes, &format!("{role:?}: {bytes:x?}")).await;
        }
        attacker.is_served().await;
        bystander.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_with_flipped_bytes_end_their_stream_alone() {
    let (_node, mut bystander, attacker) = arena().await;
    let mut random = Random::new(2);
    for role in ROLES {
        let whole = encode(role.frame());
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            let mut line = role.line(&attacker).await;
            line.bytes(&bytes).await;
            line.finish();
            fails_by_the_client(&mut line, &bytes, &format!("{role:?}: {bytes:x?}")).await;
        }
        attacker.is_served().await;
        bystander.is_served().await;
    }
}

/// Reads the stream to its end, which must be an error if the bytes do not begin with a whole frame:
/// whatever comes, the server does not take the blame.
async fn fails_by_the_client(line: &mut Line, sent: &[u8], what: &str) {
    let mut told = None;
    while let Some(frame) = line.next().await {
        assert_eq!(told, None, "{what}: an error ends the stream");
        if frame.kind() == FrameKind::Error {
            let error: v1::Error = frame.decode().expect("an error");
            let code = ErrorCode::from_u32(error.code).expect("a documented code");
            assert!((code as u32) < 500, "{what}: {error:?}");
            told = Some(code);
        }
    }
    let mut sent = Bytes::copy_from_slice(sent);
    let is_frame = matches!(FrameDecoder::new().feed(&mut sent), Ok(Some(_)));
    assert!(told.is_some() || is_frame, "{what}: nothing was said");
}
