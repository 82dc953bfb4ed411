//! Subscriptions with impossible wishes, and credit that lies.

use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::v1::subscribe::Start;
use railgun_proto::{FrameKind, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::ProtocolViolation;

use crate::attacker::{ANONYMOUS, Attacker, Line, subscribe};
use crate::bystander::Bystander;
use crate::raw_batch;

/// A stream of `times.len()` batches, one record each, with their log times.
struct Arena {
    _node: TestNode,
    bystander: Bystander,
    attacker: Attacker,
    times: Vec<i64>,
}

const BATCHES: u64 = 5;

impl Arena {
    async fn new() -> Self {
        let node = TestNode::start().await;
        let bystander = Bystander::join(&node).await;
        let attacker = Attacker::enter(&node).await;
        attacker.ensure("target", None).await;
        let mut line = attacker.publisher(&ANONYMOUS, "target").await;
        let mut times: Vec<i64> = Vec::new();
        for offset in 0..BATCHES {
            let result = line.publish_values(&[offset.to_string().as_bytes()]).await;
            assert_eq!((result.error, result.base_offset), (None, offset));
            assert!(times.last().is_none_or(|last| *last < result.ts_us), "a time of its own");
            times.push(result.ts_us);
        }
        Self { _node: node, bystander, attacker, times }
    }

    async fn retire(&self) {
        let seal = v1::SealStream { name: "target".into(), retire: true, timeout_ms: 20_000 };
        let answer = self.attacker.call(Call::SealStream(seal)).await;
        assert!(matches!(answer, Answer::StreamSealed(_)), "{answer:?}");
    }

    /// Where the subscription begins, the offsets that come, and where it says it ended.
    async fn read(&self, request: v1::Subscribe) -> (u64, Vec<u64>, u64) {
        let mut line = self.attacker.begin(&request).await;
        let subscribed: v1::Subscribed = line.expect().await;
        let mut offsets = Vec::new();
        let end = loop {
            let frame = line.next().await.expect("the end is told");
            match frame.kind() {
                FrameKind::Deliver => {
                    let deliver: v1::Deliver = frame.decode().expect("a delivery");
                    let values = raw_batch::values(&deliver, frame.blob());
                    assert!(values.iter().all(|(at, value)| *value == at.to_string()));
                    offsets.extend(values.iter().map(|(at, _)| at));
                }
                _ => break frame.decode::<v1::End>().expect("the end"),
            }
        };
        assert!(line.next().await.is_none(), "the server finishes after the end");
        (subscribed.resumed_at, offsets, end.next_offset)
    }

    async fn is_served(&mut self) {
        self.attacker.is_served().await;
        self.bystander.is_served().await;
    }
}

/// A frame that is not allowed makes the server say what it would do next: nothing may come before
/// the error, if it was waiting.
async fn is_waiting(line: &mut Line) {
    line.send(&v1::ClosePublisher {}).await;
    line.is_refused(ProtocolViolation).await;
}

fn until_end(start: Start) -> v1::Subscribe {
    subscribe("target", start, 1 << 20, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_at_the_ends_of_their_ranges() {
    let mut arena = Arena::new().await;
    let all = (0, (0..BATCHES).collect::<Vec<_>>(), BATCHES);
    let none = (BATCHES, Vec::new(), BATCHES);
    for tier in ["hot", "cold"] {
        println!("{tier}");
        assert_eq!(arena.read(until_end(Start::Last(0))).await, none);
        assert_eq!(arena.read(until_end(Start::Last(u64::MAX))).await, all);
        assert_eq!(arena.read(until_end(Start::Last(1))).await, (4, vec![4], 5));
        assert_eq!(arena.read(until_end(Start::TimeUs(i64::MIN))).await, all);
        assert_eq!(arena.read(until_end(Start::TimeUs(-1))).await, all);
        assert_eq!(arena.read(until_end(Start::TimeUs(i64::MAX))).await, none);
        let time = arena.times[2];
        assert_eq!(arena.read(until_end(Start::TimeUs(time))).await, (2, vec![2, 3, 4], 5));
        assert_eq!(arena.read(until_end(Start::TimeUs(time + 1))).await, (3, vec![3, 4], 5));
        // The booleans count by being there.
        assert_eq!(arena.read(until_end(Start::Earliest(false))).await, all);
        assert_eq!(arena.read(until_end(Start::Latest(false))).await, none);
        // Behind the end there is nothing, and it does not go back.
        for offset in [BATCHES + 1, u64::MAX - 1, u64::MAX] {
            let behind = arena.read(until_end(Start::Offset(offset))).await;
            assert_eq!(behind, (offset, Vec::new(), offset));
        }
        arena.is_served().await;
        arena.retire().await;
    }
    let missing = v1::Subscribe { start: None, ..until_end(Start::Last(1)) };
    arena.attacker.begin(&missing).await.is_refused(ProtocolViolation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_says_where_to_go_on() {
    let mut arena = Arena::new().await;
    let times = arena.times.clone();
    let offset = |start, until| v1::Subscribe {
        until_offset: Some(until),
        until_end: false,
        ..until_end(Start::Offset(start))
    };
    let time = |start, until| v1::Subscribe {
        until_time_us: Some(until),
        until_end: true,
        ..until_end(Start::Offset(start))
    };
    for tier in ["hot", "cold"] {
        println!("{tier}");
        assert_eq!(arena.read(offset(0, 3)).await, (0, vec![0, 1, 2], 3));
        assert_eq!(arena.read(offset(2, 2)).await, (2, vec![], 2));
        // An end before the start is an empty range: going on there must not go back.
        assert_eq!(arena.read(offset(3, 1)).await, (3, vec![], 3));
        assert_eq!(arena.read(offset(u64::MAX, 0)).await, (u64::MAX, vec![], u64::MAX));
        // Going on after an end by time must not leave out what was read ahead.
        assert_eq!(arena.read(time(0, times[2])).await, (0, vec![0, 1], 2));
        assert_eq!(arena.read(time(1, times[4])).await, (1, vec![1, 2, 3], 4));
        assert_eq!(arena.read(time(1, i64::MIN)).await, (1, vec![], 1));
        assert_eq!(arena.read(time(1, i64::MAX)).await, (1, vec![1, 2, 3, 4], 5));
        let both = v1::Subscribe { until_offset: Some(2), ..time(0, times[3]) };
        assert_eq!(arena.read(both).await, (0, vec![0, 1], 2));
        let far = v1::Subscribe { until_end: true, ..offset(4, u64::MAX) };
        assert_eq!(arena.read(far).await, (4, vec![4], 5));
        arena.is_served().await;
        arena.retire().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_without_credit() {
    let mut arena = Arena::new().await;
    for tier in ["hot", "cold"] {
        println!("{tier}");
        let follow = |credit| subscribe("target", Start::Earliest(true), credit, false);
        let mut line = arena.attacker.begin(&follow(0)).await;
        line.expect::<v1::Subscribed>().await;
        line.send(&v1::Credit { bytes: 0 }).await;
        is_waiting(&mut line).await;
        // The last blob may take the credit below 0; a second one may not come.
        let mut line = arena.attacker.begin(&follow(1)).await;
        line.expect::<v1::Subscribed>().await;
        line.expect::<v1::Deliver>().await;
        is_waiting(&mut line).await;
        arena.is_served().await;
        arena.retire().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_blob_is_paid_for() {
    let arena = Arena::new().await;
    let mut line =
        arena.attacker.begin(&subscribe("target", Start::Earliest(true), 1, false)).await;
    line.expect::<v1::Subscribed>().await;
    for offset in 0..BATCHES {
        let frame = line.next().await.expect("a delivery");
        assert_eq!(frame.decode::<v1::Deliver>().expect("a delivery").base_offset, offset);
        // Back to 0, which is not enough, and then to 1.
        let bytes = frame.blob_bytes() as u64 - 1;
        line.send(&v1::Credit { bytes }).await;
        line.send(&v1::Credit { bytes: 1 }).await;
    }
    is_waiting(&mut line).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_does_not_overflow() {
    let mut arena = Arena::new().await;
    let all = (0, (0..BATCHES).collect::<Vec<_>>(), BATCHES);
    let generous = subscribe("target", Start::Earliest(true), u64::MAX, true);
    assert_eq!(arena.read(generous).await, all);
    let behind = subscribe("target", Start::Offset(BATCHES), u64::MAX, false);
    let mut line = arena.attacker.begin(&behind).await;
    line.expect::<v1::Subscribed>().await;
    for bytes in [u64::MAX, i64::MAX as u64, 1, u64::MAX, 0] {
        line.send(&v1::Credit { bytes }).await;
    }
    let mut publisher = arena.attacker.publisher(&ANONYMOUS, "target").await;
    assert_eq!(publisher.publish_values(&[b"5"]).await.error, None);
    assert_eq!(line.expect::<v1::Deliver>().await.base_offset, BATCHES);
    arena.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_out_of_range_is_waited_for() {
    let mut arena = Arena::new().await;
    let request = |offset| subscribe("target", Start::Offset(offset), 1 << 20, false);
    let mut far = arena.attacker.begin(&request(u64::MAX)).await;
    assert_eq!(far.expect::<v1::Subscribed>().await.resumed_at, u64::MAX);
    let mut next = arena.attacker.begin(&request(BATCHES + 1)).await;
    next.expect::<v1::Subscribed>().await;
    // A batch across the offset that is waited for: only what was asked for comes.
    let mut publisher = arena.attacker.publisher(&ANONYMOUS, "target").await;
    assert_eq!(publisher.publish_values(&[b"5", b"6", b"7"]).await.error, None);
    let deliver: v1::Deliver = next.expect().await;
    assert_eq!((deliver.base_offset, deliver.skip, deliver.count), (BATCHES, 1, 2));
    is_waiting(&mut far).await;
    arena.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_is_forgotten() {
    let mut arena = Arena::new().await;
    for round in 0..50u64 {
        let mut line =
            arena.attacker.begin(&subscribe("target", Start::Last(1), 1 << 20, false)).await;
        line.expect::<v1::Subscribed>().await;
        match round % 3 {
            0 => line.finish(),
            1 => line.reset(),
            _ => drop(line),
        }
    }
    arena.is_served().await;
}
