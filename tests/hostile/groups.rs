//! Members of consumer groups that lie about what they have, and take nothing.

use std::time::Duration;

use railgun_proto::{FrameKind, WireError, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::{self, InvalidName, InvalidSpec, ProtocolViolation, QuotaExceeded};
use railgun_types::Retry;
use railgun_types::limits::{FAILURE_BYTES, GROUP_CREDIT_MESSAGES, SETTLE_ITEMS};

use crate::arena;
use crate::attacker::{ALIAS, ANONYMOUS, Attacker, Line, join};
use crate::bystander::Bystander;
use crate::raw_batch;

/// A node with so many messages in the stream "target", whose group is "g".
async fn with_messages(count: usize) -> (TestNode, Bystander, Attacker) {
    let (node, bystander, attacker) = arena().await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    let values: Vec<_> = (0..count).map(|number| format!("m{number}")).collect();
    let values: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
    let batch = raw_batch::of_values(&values);
    let item =
        v1::PublishItem { alias: ALIAS, batch_bytes: batch.len() as u32, ..Default::default() };
    line.send_publish(vec![item], batch).await;
    let result: v1::PublishResult = line.expect().await;
    assert_eq!(result.items[0].published, count as u32);
    (node, bystander, attacker)
}

async fn member(attacker: &Attacker, credit: u32) -> Line {
    let mut line = attacker.begin(&join("target", credit)).await;
    line.expect::<v1::GroupJoined>().await;
    line
}

/// The next delivery.
async fn delivered(line: &mut Line) -> v1::GroupDeliver {
    loop {
        let frame = line.next().await.expect("a frame");
        match frame.kind() {
            FrameKind::GroupDeliver => return frame.decode().expect("a delivery"),
            FrameKind::GroupNotice | FrameKind::Settled => {}
            other => panic!("{other}"),
        }
    }
}

/// What the server says of a settle, but for news and deliveries.
async fn settled(line: &mut Line, number: u64, items: Vec<v1::SettleItem>) -> Vec<v1::StaleSettle> {
    line.send(&v1::Settle { number, items }).await;
    loop {
        let frame = line.next().await.expect("a frame");
        match frame.kind() {
            FrameKind::Settled => {
                let settled: v1::Settled = frame.decode().expect("an answer");
                assert_eq!(settled.through, number);
                return settled.stale;
            }
            FrameKind::GroupDeliver | FrameKind::GroupNotice => {}
            other => panic!("{other}: {:?}", frame.decode::<v1::Error>()),
        }
    }
}

fn ack(lease: u64, from: u64, count: u32) -> v1::SettleItem {
    let kind = v1::SettleKind::SettleAck.into();
    v1::SettleItem { lease, from, count, kind, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_settles_what_it_was_not_given() {
    // G-6, G-7
    let (_node, mut bystander, attacker) = with_messages(4).await;
    let (mut victim, mut thief) = (member(&attacker, 1).await, member(&attacker, 1).await);
    let (of_victim, of_thief) = (delivered(&mut victim).await, delivered(&mut thief).await);
    let floor = async || attacker.describe_group("target").await.floor;
    // Leases that never were, are another's, are to come; offsets of others, behind the stream, at the end.
    let lies = [
        ack(0, of_thief.base_offset, 1),
        ack(u64::MAX, of_thief.base_offset, 1),
        ack(of_thief.lease + 1_000, of_thief.base_offset, 1),
        ack(of_thief.lease, of_victim.base_offset, 1),
        ack(of_thief.lease, 3, 1),
        ack(of_thief.lease, 1 << 40, 1),
        ack(of_thief.lease, u64::MAX - 1, 1),
    ];
    for (number, lie) in (1..).zip(lies) {
        let stale = settled(&mut thief, number, vec![lie.clone()]).await;
        assert_eq!(stale.iter().map(|stale| u64::from(stale.count)).sum::<u64>(), 1, "{lie:?}");
        assert_eq!(floor().await, 0, "{lie:?}");
    }
    // With the truth among lies the truth counts, once.
    let truth = ack(of_thief.lease, of_thief.base_offset, 1);
    let mixed = vec![ack(9, 0, 1), truth.clone()];
    assert_eq!(settled(&mut thief, 20, mixed).await.len(), 1);
    assert_eq!(settled(&mut thief, 21, vec![truth]).await, [], "said again");
    let truth = ack(of_victim.lease, of_victim.base_offset, 1);
    assert_eq!(settled(&mut victim, 1, vec![truth]).await, []);
    assert_eq!(floor().await, 2);
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settles_that_nobody_can_mean_end_their_stream_alone() {
    let (_node, mut bystander, attacker) = with_messages(2).await;
    let begin = |count| v1::SettleItem {
        lease: 1,
        count,
        kind: v1::SettleKind::SettleBegin.into(),
        ..Default::default()
    };
    let reason = |bytes: usize| v1::SettleItem {
        kind: v1::SettleKind::SettleNack.into(),
        error: "x".repeat(bytes),
        ..begin(1)
    };
    let settle = |number, items| v1::Settle { number, items };
    let cases: [(v1::Settle, ErrorCode); 6] = [
        (settle(0, Vec::new()), ProtocolViolation),
        (settle(1, vec![begin(0)]), ProtocolViolation),
        (settle(1, vec![v1::SettleItem { from: u64::MAX, ..begin(1) }]), ProtocolViolation),
        (settle(1, vec![v1::SettleItem { kind: 99, ..begin(1) }]), ProtocolViolation),
        (settle(1, vec![begin(1); SETTLE_ITEMS + 1]), ProtocolViolation),
        (settle(1, vec![begin(2 * GROUP_CREDIT_MESSAGES + 1)]), ProtocolViolation),
    ];
    for (settle, code) in cases {
        let mut line = member(&attacker, 1).await;
        let first = delivered(&mut line).await;
        assert_eq!(first.base_offset, 0, "nothing was lost by those before");
        line.send(&settle).await;
        line.is_refused(code).await;
        attacker.is_served().await;
        bystander.is_served().await;
    }
    // No later try helps here, as it does with other quotas.
    let mut line = member(&attacker, 1).await;
    line.send(&settle(1, vec![reason(FAILURE_BYTES + 1)])).await;
    let error = loop {
        let frame = line.next().await.expect("a frame");
        if frame.kind() == FrameKind::Error {
            break WireError::from(frame.decode::<v1::Error>().expect("an error"));
        }
    };
    assert_eq!((error.code, error.retry), (QuotaExceeded.into(), Retry::Never));
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_cannot_be_are_told_why() {
    let (_node, mut bystander, attacker) = with_messages(1).await;
    let exclusive = v1::GroupMode::GroupExclusive.into();
    let held = v1::HeldLease {
        lease: 1,
        from: 0,
        count: 4 * GROUP_CREDIT_MESSAGES + 1,
        ..Default::default()
    };
    let cases: [(v1::JoinGroup, ErrorCode); 9] = [
        (join("target", 0), ProtocolViolation),
        (v1::JoinGroup { credit_bytes: 0, ..join("target", 1) }, ProtocolViolation),
        (v1::JoinGroup { mode: 99, ..join("target", 1) }, InvalidSpec),
        (v1::JoinGroup { mode: exclusive, ..join("target", 1) }, ErrorCode::GroupModeMismatch),
        (v1::JoinGroup { group: "absent".into(), ..join("target", 1) }, ErrorCode::GroupNotFound),
        (v1::JoinGroup { group_id: u64::MAX, ..join("target", 1) }, ErrorCode::GroupNotFound),
        (v1::JoinGroup { group: "a$b".into(), ..join("target", 1) }, InvalidName),
        (join("absent", 1), ErrorCode::StreamNotFound),
        (v1::JoinGroup { held: vec![held], ..join("target", 1) }, ProtocolViolation),
    ];
    for (join, code) in cases {
        attacker.begin(&join).await.is_refused(code).await;
    }
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_members_present_and_never_had_is_nothing() {
    // G-14
    let (_node, mut bystander, attacker) = with_messages(3).await;
    let mut honest = member(&attacker, 1).await;
    let had = delivered(&mut honest).await;
    let held =
        |lease, from, count| v1::HeldLease { lease, from, count, attempt: 1, ..Default::default() };
    let lies = vec![held(had.lease, 0, 3), held(u64::MAX, 1, 2), held(1, 1 << 50, 100_000 - 5)];
    let mut liar = attacker.begin(&v1::JoinGroup { held: lies, ..join("target", 10) }).await;
    liar.expect::<v1::GroupJoined>().await;
    // Whoever presents a lease that is, is taken for the member that has it, on another connection: that one
    // has room again. Of the rest there are two messages for two members.
    let (of_liar, of_honest) = (delivered(&mut liar).await, delivered(&mut honest).await);
    let mut got = [&of_liar, &of_honest].map(|it| (it.base_offset, it.count));
    got.sort_unstable();
    assert_eq!(got, [(1, 1), (2, 1)]);
    let truths = [&had, &of_honest].map(|it| ack(it.lease, it.base_offset, 1)).to_vec();
    assert_eq!(settled(&mut honest, 1, truths).await, [], "it had both");
    let truth = ack(of_liar.lease, of_liar.base_offset, 1);
    assert_eq!(settled(&mut liar, 1, vec![truth]).await, []);
    assert_eq!(attacker.describe_group("target").await.floor, 3);
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_reads_nothing_holds_up_nobody() {
    let (node, mut bystander, attacker) = with_messages(2_000).await;
    let lazy = Attacker::with_window(&node, 1_000).await;
    let mut line = lazy.begin(&join("target", 100_000)).await;
    // It says very much, and takes no answer.
    let speaking = async {
        for number in 1.. {
            line.send(&v1::Settle { number, items: vec![ack(1, 0, 1)] }).await;
        }
    };
    // The server reads no more of it after a while.
    assert!(tokio::time::timeout(Duration::from_secs(5), speaking).await.is_err());
    let mut busy = member(&attacker, 10).await;
    drop(lazy);
    let (mut floor, mut number) = (0, 0);
    while floor < 2_000 {
        let got = delivered(&mut busy).await;
        number += 1;
        say_ack(&mut busy, number, &got).await;
        floor += u64::from(got.count);
    }
    bystander.is_served().await;
}

async fn say_ack(line: &mut Line, number: u64, got: &v1::GroupDeliver) {
    let items = vec![ack(got.lease, got.base_offset, got.count)];
    line.send(&v1::Settle { number, items }).await;
}
