//! Many connections at once, each within its own bounds: what they take together is bounded, and who
//! wants little is served as before.

use futures::future::join_all;
use railgun_net::ClientMemory;
use railgun_proto::FrameKind;
use railgun_proto::v1::subscribe::Start;
use railgun_testkit::{NodeOptions, TestNode};
use railgun_types::ErrorCode::QuotaExceeded;
use railgun_types::limits::BATCH_BYTES_HARD;

use crate::attacker::{ANONYMOUS, Attacker, header, subscribe};
use crate::bystander::Bystander;

/// A node whose clients share 16 MiB for frames and 16 MiB for records: one of the largest frames.
async fn scarce() -> (TestNode, Bystander, ClientMemory) {
    let memory = ClientMemory::new(64 << 20, 1_000);
    let options = NodeOptions { memory: Some(memory.clone()), ..NodeOptions::default() };
    let node = TestNode::start_with(options).await;
    let bystander = Bystander::join(&node).await;
    (node, bystander, memory)
}

/// Serves the bystander until `is_so`.
async fn until(bystander: &mut Bystander, is_so: impl Fn() -> bool) {
    crate::within("the crowd", async {
        while !is_so() {
            bystander.is_served().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_of_each_of_many_holds_up_no_small_frame() {
    let (node, mut bystander, memory) = scarce().await;
    let honest = Attacker::enter(&node).await;
    honest.ensure("target", None).await;
    let crowd = join_all((0..40).map(|_| Attacker::enter(&node))).await;
    let mut lines =
        join_all(crowd.iter().map(|it| async move { it.publisher(&ANONYMOUS, "target").await }))
            .await;
    let all_but_one = &vec![7; BATCH_BYTES_HARD - 1];
    let floods = lines.iter_mut().map(|line| async move {
        line.bytes(&header(FrameKind::Publish as u8, 0, BATCH_BYTES_HARD as u32)).await;
        line.bytes_for_ever(all_but_one).await;
    });
    let served = async {
        until(&mut bystander, || memory.figures().frames.waiting == 39).await;
        let frames = memory.figures().frames;
        assert!(frames.bytes >= BATCH_BYTES_HARD && frames.bytes <= frames.bytes_max, "{frames:?}");
        assert_eq!(node.broker().clients().frames.bytes_max, 16 << 20);
        let mut line = honest.publisher(&ANONYMOUS, "target").await;
        for _ in 0..10 {
            // More than comes with one datagram: it needs memory, and has its own.
            assert_eq!(line.publish_values(&[&[7; 15_000]]).await.error, None);
            bystander.is_served().await;
        }
        honest.is_served().await;
    };
    tokio::select! {
        _ = join_all(floods) => panic!("all of it was taken"),
        () = served => {}
    }
    // What they took is given back when they leave.
    drop((lines, crowd));
    until(&mut bystander, || memory.figures().frames.bytes == 0).await;
    let mut line = honest.publisher(&ANONYMOUS, "target").await;
    assert_eq!(line.publish_values(&[&vec![7; 1_000_000]]).await.error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_hold_up_no_small_read_and_large_ones_for_a_while() {
    let (node, mut bystander, memory) = scarce().await;
    let honest = Attacker::enter(&node).await;
    honest.ensure("target", None).await;
    let mut publisher = honest.publisher(&ANONYMOUS, "target").await;
    for _ in 0..8 {
        assert_eq!(publisher.publish_values(&[&vec![7; 1 << 19]]).await.error, None);
    }
    // Five are given 3 MiB each, which they have credit for and never take; another one waits.
    let all = subscribe("target", Start::Earliest(true), u64::MAX, false);
    let crowd = join_all((0..6).map(|_| Attacker::with_window(&node, 1 << 10))).await;
    let mut lines = join_all(crowd.iter().map(|deaf| deaf.begin(&all))).await;
    until(&mut bystander, || memory.figures().records.waiting > 0).await;
    let records = memory.figures().records;
    assert!(records.bytes <= records.bytes_max, "{records:?}");
    for _ in 0..10 {
        bystander.is_served().await;
    }
    // Large records wait their turn, until those who do not take theirs have lost them.
    assert_eq!(honest.read_all("target").await.len(), 8);
    let mut resets = 0;
    for line in &mut lines {
        if line.is_reset_by(QuotaExceeded).await {
            resets += 1;
        }
    }
    assert!(resets > 0, "nobody was asked to hurry");
    drop((lines, crowd));
    until(&mut bystander, || memory.figures().records.bytes == 0).await;
}
