//! Frames where the protocol does not allow them.

use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::subscribe::Start;
use railgun_proto::{Frame, FrameKind, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::ProtocolViolation;

use crate::attacker::{ANONYMOUS, Attacker, encode, hello, join, subscribe};
use crate::bystander::Bystander;

/// One frame of every kind, each good in its place.
fn every_frame() -> Vec<Frame> {
    let call = Call::DescribeStream(v1::DescribeStream { name: "target".into() });
    let frames = vec![
        Frame::new(&hello("")),
        Frame::new(&v1::Welcome { version: 1, ..Default::default() }),
        Frame::new(&v1::GoAway::default()),
        Frame::new(&v1::Error { code: 503, ..Default::default() }),
        Frame::new(&ANONYMOUS),
        Frame::new(&v1::PublisherOpened::default()),
        Frame::new(&v1::BindStream { alias: 1, stream: "target".into(), ..Default::default() }),
        Frame::new(&v1::StreamBound::default()),
        Frame::new(&v1::Publish::default()),
        Frame::new(&v1::PublishResult::default()),
        Frame::new(&v1::ClosePublisher {}),
        Frame::new(&v1::UnbindStreams { aliases: vec![1], forget: false }),
        Frame::new(&v1::StreamsUnbound::default()),
        Frame::new(&v1::LeaderHint::default()),
        Frame::new(&subscribe("target", Start::Latest(true), 1, false)),
        Frame::new(&v1::Subscribed::default()),
        Frame::with_blob(&v1::Deliver::default(), vec![vec![7; 10_000].into()]),
        Frame::new(&v1::Credit { bytes: 1 }),
        Frame::new(&v1::Removed::default()),
        Frame::new(&v1::End::default()),
        Frame::new(&v1::AdminRequest { id: 1, call: Some(call) }),
        Frame::new(&v1::AdminResponse::default()),
        Frame::new(&join("target", 1)),
        Frame::new(&v1::GroupJoined::default()),
        Frame::with_blob(&v1::GroupDeliver::default(), vec![vec![7; 10_000].into()]),
        Frame::new(&v1::Settle { number: 1, ..Default::default() }),
        Frame::new(&v1::Settled::default()),
        Frame::new(&v1::GroupNotice::default()),
        Frame::new(&v1::DrainMember {}),
        Frame::new(&v1::Fetch { number: 1, ..Default::default() }),
        Frame::new(&v1::PeerHello::default()),
        Frame::new(&v1::PeerWelcome::default()),
        Frame::new(&v1::PeerCall::default()),
        Frame::new(&v1::PeerReply::default()),
        Frame::new(&v1::PeerOpen::default()),
        Frame::new(&v1::PeerData::default()),
    ];
    assert!(frames.iter().map(Frame::kind).eq(FrameKind::ALL.iter().copied()));
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_takes_its_own_frames_only() {
    use FrameKind::{
        AdminRequest, BindStream, ClosePublisher, Credit, DrainMember, JoinGroup, OpenPublisher,
        Publish, Settle, Subscribe, UnbindStreams,
    };
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    attacker.ensure_group("target", Default::default()).await;
    let allowed: [(Option<FrameKind>, &[FrameKind]); 5] = [
        (None, &[OpenPublisher, Subscribe, JoinGroup, AdminRequest]),
        (Some(JoinGroup), &[Settle, DrainMember]),
        (Some(OpenPublisher), &[BindStream, Publish, ClosePublisher, UnbindStreams]),
        (Some(Subscribe), &[Credit]),
        (Some(AdminRequest), &[AdminRequest]),
    ];
    for (first, allowed) in allowed {
        for frame in every_frame().into_iter().filter(|frame| !allowed.contains(&frame.kind())) {
            println!("{} after {first:?}", frame.kind());
            let mut line = attacker.open().await;
            if let Some(first) = first {
                let frames = every_frame().into_iter();
                for first in frames.filter(|frame| frame.kind() == first) {
                    line.bytes(&encode(first)).await;
                    line.next().await.expect("the role begins");
                }
            }
            line.bytes(&encode(frame)).await;
            line.is_refused(ProtocolViolation).await;
        }
        attacker.is_served().await;
        bystander.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_counts_after_a_publisher_was_closed() {
    let node = TestNode::start().await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    let publish = crate::raw_batch::of_values(&[b"too late"]);
    line.send(&v1::ClosePublisher {}).await;
    let item = v1::PublishItem {
        alias: crate::attacker::ALIAS,
        batch_bytes: publish.len() as u32,
        ..Default::default()
    };
    line.send_publish(vec![item], publish).await;
    assert!(line.next().await.is_none(), "finished, and no result");
    assert_eq!(attacker.describe("target").await.next_offset, 0);
    attacker.is_served().await;
}
