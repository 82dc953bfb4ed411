//! Publishers that give up streams which they do not have, or which they go on using (PQ-1, PS-2).

use railgun_proto::{Frame, v1};
use railgun_types::ErrorCode::{
    BatchCorrupt, OrderBroken, ProducerUnknown, ProtocolViolation, SequenceGap,
};

use crate::arena;
use crate::attacker::{ALIAS, ANONYMOUS, Line, encode, refusal};
use crate::raw_batch;
use crate::sequences::{producer, publish};

/// Aliases that one frame may free.
const ALIASES_MAX: u32 = 8_192;

fn unbind(aliases: Vec<u32>, forget: bool) -> v1::UnbindStreams {
    v1::UnbindStreams { aliases, forget }
}

impl Line {
    async fn unbind(&mut self, forget: bool) {
        self.send(&unbind(vec![ALIAS], forget)).await;
        assert_eq!(self.expect::<v1::StreamsUnbound>().await.error, None);
    }
}

/// One record at `sequence`, without waiting for its result.
fn one_at(sequence: u64) -> Vec<u8> {
    let batch = raw_batch::of_values(&[b"x"]);
    let batch_bytes = batch.len() as u32;
    let item = v1::PublishItem { alias: ALIAS, batch_bytes, sequence, ..Default::default() };
    encode(Frame::with_blob(&v1::Publish { items: vec![item] }, vec![batch.into()]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_stands_for_nothing_cannot_be_freed() {
    let (_node, mut bystander, attacker) = arena().await;
    for (at, aliases) in [
        vec![99],
        vec![ALIAS, 99],
        vec![ALIAS, ALIAS],
        vec![u32::MAX],
        vec![ALIAS; ALIASES_MAX as usize + 1],
        (0..=ALIASES_MAX).collect(),
    ]
    .into_iter()
    .enumerate()
    {
        println!("{} aliases", aliases.len());
        let open = producer(at as u8, 0);
        let mut line = attacker.publisher(&open, "target").await;
        let mut frames = one_at(0);
        frames.extend(encode(Frame::new(&unbind(aliases, true))));
        line.bytes(&frames).await;
        // What was sent before is answered.
        let result: v1::PublishResult = line.expect().await;
        assert_eq!(result.items[0].error, None);
        line.is_refused(ProtocolViolation).await;
        // The producer is as known as before.
        let mut again = attacker.publisher(&open, "target").await;
        assert_eq!(publish(&mut again, 0, 1).await.base_offset, at as u64);
        assert_eq!(attacker.describe("target").await.next_offset, at as u64 + 1);
    }
    // And twice, one behind the other.
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    line.unbind(true).await;
    line.send(&unbind(vec![ALIAS], true)).await;
    line.is_refused(ProtocolViolation).await;
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_was_freed_takes_nothing_until_it_is_bound_again() {
    let (_node, mut bystander, attacker) = arena().await;
    attacker.ensure("other", None).await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    line.send(&unbind(Vec::new(), true)).await;
    assert_eq!(line.expect::<v1::StreamsUnbound>().await.error, None);
    assert_eq!(line.publish_values(&[b"a"]).await.error, None);
    line.unbind(false).await;
    for _ in 0..2 {
        refusal(line.publish_values(&[b"b"]).await, ProtocolViolation);
    }
    line.bind(ALIAS, "other").await.expect("bound");
    assert_eq!(line.publish_values(&[b"c"]).await.error, None);
    for stream in ["target", "other"] {
        assert_eq!(attacker.describe(stream).await.next_offset, 1);
    }
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_forgotten_where_that_was_asked_for_and_nowhere_else() {
    let (_node, mut bystander, attacker) = arena().await;
    attacker.ensure("other", None).await;
    let mut line = attacker.publisher(&producer(1, 0), "target").await;
    line.bind(ALIAS + 1, "other").await.expect("bound");
    let beside = v1::PublishItem { alias: ALIAS + 1, ..Default::default() };
    assert_eq!(line.publish(beside, raw_batch::of_values(&[b"x"])).await.error, None);
    assert_eq!(publish(&mut line, 0, 2).await.error, None);

    line.unbind(false).await;
    line.bind(ALIAS, "target").await.expect("bound");
    assert_eq!(publish(&mut line, 0, 2).await.base_offset, 0, "the first result again");
    assert_eq!(publish(&mut line, 2, 1).await.base_offset, 2);

    // Nothing was sent to it since it was bound: the producer is known from before.
    line.unbind(false).await;
    line.bind(ALIAS, "target").await.expect("bound");
    line.unbind(true).await;
    line.bind(ALIAS, "target").await.expect("bound");
    refusal(publish(&mut line, 3, 1).await, ProducerUnknown);
    assert_eq!(publish(&mut line, 0, 2).await.base_offset, 3, "appended, not repeated");

    let beside = v1::PublishItem { alias: ALIAS + 1, sequence: 1, ..Default::default() };
    let result = line.publish(beside, raw_batch::of_values(&[b"x"])).await;
    assert_eq!((result.error, result.base_offset), (None, 1));
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_given_up_behind_what_is_under_way() {
    const ROUNDS: u64 = 20;
    const BATCHES: u64 = 5;
    let (_node, mut bystander, attacker) = arena().await;
    let mut line = attacker.publisher(&producer(1, 0), "target").await;
    // All at once: each round is forgotten before the next begins again at 0.
    let bind = v1::BindStream { alias: ALIAS, stream: "target".into(), ..Default::default() };
    let mut frames = Vec::new();
    for _ in 0..ROUNDS {
        (0..BATCHES).for_each(|sequence| frames.extend(one_at(sequence)));
        frames.extend(encode(Frame::new(&unbind(vec![ALIAS], true))));
        frames.extend(encode(Frame::new(&bind)));
    }
    line.bytes(&frames).await;
    for round in 0..ROUNDS {
        for batch in 0..BATCHES {
            let result = line.expect::<v1::PublishResult>().await.items.remove(0);
            let (error, base) = (result.error, result.base_offset);
            assert_eq!((error, base), (None, round * BATCHES + batch));
        }
        assert_eq!(line.expect::<v1::StreamsUnbound>().await.error, None);
        assert_eq!(line.expect::<v1::StreamBound>().await.error, None);
    }
    assert_eq!(attacker.describe("target").await.next_offset, ROUNDS * BATCHES);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_order_ends_with_its_alias() {
    let (_node, mut bystander, attacker) = arena().await;
    let mut line = attacker.publisher(&producer(1, 0), "target").await;
    let mut bad = raw_batch::of_values(&[b"x"]);
    *bad.last_mut().expect("a byte") ^= 1;
    let item = v1::PublishItem { alias: ALIAS, ..Default::default() };
    refusal(line.publish(item, bad).await, BatchCorrupt);
    refusal(publish(&mut line, 1, 1).await, OrderBroken);
    line.unbind(false).await;
    line.bind(ALIAS, "target").await.expect("bound");
    assert_eq!(publish(&mut line, 0, 1).await.error, None);
    refusal(publish(&mut line, 2, 1).await, SequenceGap);
    attacker.is_served().await;
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_binds_any_number_of_streams_in_its_life() {
    const ROUNDS: u32 = 9;
    let (_node, mut bystander, attacker) = arena().await;
    let mut line = attacker.begin(&ANONYMOUS).await;
    line.expect::<v1::PublisherOpened>().await;
    for round in 0..ROUNDS {
        // Numbers that never come again.
        let aliases: Vec<u32> = (0..ALIASES_MAX).map(|n| round * ALIASES_MAX + n).collect();
        let bind =
            |&alias: &u32| v1::BindStream { alias, stream: "target".into(), ..Default::default() };
        let frames = aliases.iter().flat_map(|alias| encode(Frame::new(&bind(alias))));
        line.bytes(&frames.collect::<Vec<_>>()).await;
        for alias in &aliases {
            let bound: v1::StreamBound = line.expect().await;
            assert_eq!((bound.alias, bound.error), (*alias, None));
        }
        line.send(&unbind(aliases, true)).await;
        assert_eq!(line.expect::<v1::StreamsUnbound>().await.error, None);
    }
    attacker.is_served().await;
    bystander.is_served().await;
}
