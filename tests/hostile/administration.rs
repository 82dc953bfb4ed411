//! Requesters that do not keep to the rules.

use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::{
    self, FeatureLevel, InvalidName, InvalidSpec, ProtocolViolation, QuotaExceeded,
    RevisionConflict, StreamNotFound, StreamStarting,
};

use crate::attacker::{Attacker, assert_refused, encode};
use crate::bystander::Bystander;

fn describe(name: &str) -> Option<Call> {
    Some(Call::DescribeStream(v1::DescribeStream { name: name.into() }))
}

fn ensure(name: &str, mode: i32, spec: v1::StreamPatch) -> v1::EnsureStream {
    v1::EnsureStream { name: name.into(), mode, spec: Some(spec), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_call_fails_alone() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let none = v1::StreamPatch::default();
    let kind = |kind| v1::StreamPatch { kind: Some(kind), ..Default::default() };
    let overwrite = v1::EnsureMode::EnsureOverwrite as i32;
    let cases: [(&str, Option<Call>, ErrorCode); 9] = [
        ("no call", None, ProtocolViolation),
        ("no mode", Some(Call::EnsureStream(ensure("a", 0, none.clone()))), ProtocolViolation),
        ("a later mode", Some(Call::EnsureStream(ensure("a", 9, none.clone()))), ProtocolViolation),
        ("no kind", Some(Call::EnsureStream(ensure("a", overwrite, kind(0)))), InvalidSpec),
        ("a later kind", Some(Call::EnsureStream(ensure("a", overwrite, kind(77)))), InvalidSpec),
        ("a kind to come", Some(Call::EnsureStream(ensure("a", overwrite, kind(2)))), FeatureLevel),
        (
            "another revision",
            Some(Call::EnsureStream(v1::EnsureStream {
                if_revision: Some(u64::MAX),
                ..ensure("target", overwrite, none)
            })),
            RevisionConflict,
        ),
        (
            "an impossible page",
            Some(Call::ListStreams(v1::ListStreams { after: "..".into(), ..Default::default() })),
            InvalidName,
        ),
        ("nothing there", describe("a"), StreamNotFound),
    ];
    let mut line = attacker.open().await;
    for (what, call, code) in cases {
        println!("{what}");
        for id in [0, 0, u64::MAX] {
            line.send(&v1::AdminRequest { id, call: call.clone() }).await;
            let response: v1::AdminResponse = line.expect().await;
            assert_eq!(response.id, id);
            match response.answer {
                Some(Answer::Error(error)) => assert_refused(&error.into(), code),
                other => panic!("{other:?}"),
            }
        }
    }
    line.send(&v1::AdminRequest { id: 1, call: describe("target") }).await;
    let response: v1::AdminResponse = line.expect().await;
    assert!(matches!(response.answer, Some(Answer::StreamDescription(_))));
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_bounded_whatever_is_asked() {
    let node = TestNode::start().await;
    let attacker = Attacker::enter(&node).await;
    for name in ["a", "b", "b.c"] {
        attacker.ensure(name, None).await;
    }
    let list = async |prefix: &str, after: &str, limit| {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        let call = Call::ListStreams(v1::ListStreams { prefix, after, limit });
        let Answer::StreamList(list) = attacker.call(call).await else { panic!("a list") };
        (list.streams.into_iter().map(|stream| stream.name).collect::<Vec<_>>(), list.more)
    };
    assert_eq!(list("", "", u32::MAX).await, (vec!["a".into(), "b".into(), "b.c".into()], false));
    assert_eq!(list("", "", 1).await, (vec!["a".into()], true));
    assert_eq!(list("b", "b", 1).await, (vec!["b.c".into()], false));
    assert_eq!(list("\0$..", "", 0).await, (vec![], false));
    assert_eq!(list(&"ä".repeat(8_000), "z", 0).await, (vec![], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_16_requesters_at_a_time() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let (attacker, other) = (Attacker::enter(&node).await, Attacker::enter(&node).await);
    let mut lines = Vec::new();
    for id in 0..16 {
        let mut line = attacker.begin(&v1::AdminRequest { id, call: None }).await;
        line.expect::<v1::AdminResponse>().await;
        lines.push(line);
    }
    // One more waits for one of them to end; but not for ever.
    let more = v1::AdminRequest { id: 16, call: describe("bystander") };
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(attacker.begin(&more).await);
    }
    lines.pop().expect("one of 16").finish();
    let mut served = None;
    for (at, line) in waiting.iter_mut().enumerate() {
        let answer = line.next().await.expect("an answer");
        if answer.kind() == FrameKind::AdminResponse {
            assert_eq!(served.replace(at), None, "two for one place");
        } else {
            let error: v1::Error = answer.decode().expect("an error");
            assert_eq!(ErrorCode::from_u32(error.code), Some(QuotaExceeded));
        }
    }
    lines.push(waiting.swap_remove(served.expect("one takes the place")));
    // Others have their own, and those that were there live.
    other.is_served().await;
    bystander.is_served().await;
    for line in &mut lines {
        line.send(&v1::AdminRequest { id: 1, call: describe("bystander") }).await;
        line.expect::<v1::AdminResponse>().await;
        line.finish();
        assert!(line.next().await.is_none());
    }
    attacker.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_are_all_answered() {
    let node = TestNode::start().await;
    let attacker = Attacker::enter(&node).await;
    attacker.ensure("target", None).await;
    let mut line = attacker.open().await;
    let request = |id| Frame::new(&v1::AdminRequest { id, call: describe("target") });
    let requests: Vec<u8> = (0..2_000).flat_map(|id| encode(request(id))).collect();
    line.bytes(&requests).await;
    line.finish();
    let mut ids = Vec::new();
    while let Some(frame) = line.next().await {
        ids.push(frame.decode::<v1::AdminResponse>().expect("an answer").id);
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..2_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_many_make_and_delete_at_once_stays_whole() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let attacker = Attacker::enter(&node).await;
    let mode = v1::EnsureMode::EnsureWarn as i32;
    let requests = async |call: fn(i32) -> Call| {
        let mut line = attacker.open().await;
        for id in 0..50 {
            line.send(&v1::AdminRequest { id, call: Some(call(mode)) }).await;
        }
        line.finish();
        for _ in 0..50 {
            let response: v1::AdminResponse = line.expect().await;
            if let Some(Answer::Error(error)) = response.answer {
                let error: WireError = error.into();
                let codes = [StreamNotFound, StreamStarting, ErrorCode::StreamDeleted];
                assert!(codes.iter().any(|code| error.code == *code), "{error}");
            }
        }
        assert!(line.next().await.is_none());
    };
    let make = |mode| Call::EnsureStream(ensure("contested", mode, Default::default()));
    let delete =
        |_| Call::DeleteStream(v1::DeleteStream { name: "contested".into(), ..Default::default() });
    tokio::join!(requests(make), requests(delete), requests(make), requests(delete));
    // Whatever came last: the name works.
    attacker.ensure("contested", None).await;
    attacker.describe("contested").await;
    attacker.delete("contested").await;
    attacker.is_served().await;
    bystander.is_served().await;
}
