//! Producers that lie about who they are and what they have sent (PQ-1, PS-2).

use railgun_proto::v1;
use railgun_types::ErrorCode::{
    BatchCorrupt, OrderBroken, OutcomeUnknown, ProducerFenced, ProducerUnknown, ProtocolViolation,
    SequenceGap,
};

use crate::arena;
use crate::attacker::{ALIAS, ANONYMOUS, Line, refusal};
use crate::raw_batch;

pub(crate) fn producer(id: u8, epoch: u32) -> v1::OpenPublisher {
    let producer_id = vec![id; 16].into();
    v1::OpenPublisher { producer_id, epoch, ordered: true, leader_hints: false }
}

/// Publishes `count` records at `sequence`.
pub(crate) async fn publish(line: &mut Line, sequence: u64, count: usize) -> v1::ItemResult {
    let batch = raw_batch::of_values(&vec![&b"x"[..]; count]);
    line.publish(v1::PublishItem { alias: ALIAS, sequence, ..Default::default() }, batch).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_id_has_16_bytes() {
    let (_node, mut bystander, attacker) = arena().await;
    for bytes in [0, 1, 15, 17, 16_000] {
        let open = v1::OpenPublisher { producer_id: vec![7; bytes].into(), ..producer(7, 0) };
        attacker.begin(&open).await.is_refused(ProtocolViolation).await;
        if bytes > 0 {
            let open = v1::OpenPublisher { ordered: false, ..open };
            attacker.begin(&open).await.is_refused(ProtocolViolation).await;
        }
    }
    // Without an id nothing is in sequence, whatever the numbers.
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    for sequence in [5, 0, u64::MAX] {
        assert_eq!(publish(&mut line, sequence, 1).await.error, None);
    }
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_that_jump_append_nothing() {
    let (_node, mut bystander, attacker) = arena().await;
    let mut line = attacker.publisher(&producer(1, 0), "target").await;
    for sequence in [1, 8, u64::MAX] {
        refusal(publish(&mut line, sequence, 1).await, ProducerUnknown);
    }
    assert_eq!(attacker.describe("target").await.next_offset, 0);
    // Ten batches of two, of which the server remembers eight.
    let mut line = attacker.publisher(&producer(2, 0), "target").await;
    for batch in 0..10 {
        let result = publish(&mut line, batch * 2, 2).await;
        assert_eq!((result.error, result.base_offset), (None, batch * 2));
    }
    for sequence in [21, 22, u64::MAX - 1, u64::MAX] {
        // A second gap would be the fault of the first: each on a QUIC stream of its own.
        let mut other = attacker.publisher(&producer(2, 0), "target").await;
        let error = refusal(publish(&mut other, sequence, 2).await, SequenceGap);
        assert_eq!(error.actual, Some(20));
        let error = refusal(publish(&mut other, sequence, 2).await, OrderBroken);
        assert_eq!(error.actual, Some(20));
    }
    for (sequence, count) in [(0, 2), (2, 2), (1, 2), (4, 1), (18, 3), (19, 1)] {
        println!("{count} at {sequence}");
        refusal(publish(&mut line, sequence, count).await, OutcomeUnknown);
    }
    for batch in 2..10 {
        let result = publish(&mut line, batch * 2, 2).await;
        assert_eq!((result.error, result.base_offset), (None, batch * 2), "the first result again");
    }
    assert_eq!(attacker.describe("target").await.next_offset, 20);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_epoch_is_fenced() {
    let (_node, mut bystander, attacker) = arena().await;
    let mut old = attacker.publisher(&producer(1, 3), "target").await;
    assert_eq!(publish(&mut old, 0, 1).await.error, None);
    let mut older = attacker.publisher(&producer(1, 2), "target").await;
    for sequence in [0, 1, u64::MAX] {
        refusal(publish(&mut older, sequence, 1).await, ProducerFenced);
    }
    let mut new = attacker.publisher(&producer(1, u32::MAX), "target").await;
    let error = refusal(publish(&mut new, 1, 1).await, SequenceGap);
    assert_eq!(error.actual, Some(0), "a new epoch begins again");
    assert_eq!(publish(&mut old, 1, 1).await.error, None, "and fences with its first batch");
    assert_eq!(publish(&mut new, 0, 1).await.error, None);
    for sequence in [0, 1, 2] {
        refusal(publish(&mut old, sequence, 1).await, ProducerFenced);
    }
    assert_eq!(publish(&mut new, 0, 1).await.base_offset, 2, "its own first batch, repeated");
    assert_eq!(attacker.describe("target").await.next_offset, 3);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_refused_batch_breaks_order() {
    let (_node, mut bystander, attacker) = arena().await;
    let mut line = attacker.publisher(&producer(1, 0), "target").await;
    // A producer that the server does not know yet, then one that it does.
    for round in 0..2 {
        let good = raw_batch::of_values(&[b"x"]);
        let mut bad = good.clone();
        *bad.last_mut().expect("a byte") ^= 1;
        for (at, batch) in [bad, good.clone(), good].into_iter().enumerate() {
            let item = v1::PublishItem {
                alias: ALIAS,
                batch_bytes: batch.len() as u32,
                sequence: round + at as u64,
                ..Default::default()
            };
            line.send_publish(vec![item], batch).await;
        }
        for code in [BatchCorrupt, OrderBroken, OrderBroken] {
            refusal(line.expect::<v1::PublishResult>().await.items.remove(0), code);
        }
        // The sequence of the refused batch is still free.
        let result = publish(&mut line, round, 1).await;
        assert_eq!((result.error, result.base_offset), (None, round));
    }
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_producer_id_appends_nothing_twice() {
    // Two holders of one id and epoch: who comes second repeats, or is out of order.
    let (_node, mut bystander, attacker) = arena().await;
    let thief = attacker.publisher(&producer(1, 0), "target").await;
    let owner = attacker.publisher(&producer(1, 0), "target").await;
    let mut lines = [owner, thief];
    for sequence in 0..20u64 {
        for line in &mut lines {
            let result = publish(line, sequence, 1).await;
            assert_eq!((result.error, result.base_offset), (None, sequence));
        }
    }
    // A clean close forgets the producer: the other one's next batch is unknown, not appended.
    let [mut owner, mut thief] = lines;
    thief.send(&v1::ClosePublisher {}).await;
    assert!(thief.next().await.is_none());
    refusal(publish(&mut owner, 20, 1).await, ProducerUnknown);
    assert_eq!(attacker.describe("target").await.next_offset, 20);
    bystander.is_served().await;
}
