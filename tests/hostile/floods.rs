//! Too much of everything: what a client takes must be bounded, and others must not feel it.

use std::cell::Cell;
use std::collections::VecDeque;

use railgun_proto::v1::subscribe::Start;
use railgun_proto::{Frame, FrameKind, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::{FrameTooLarge, ProtocolViolation};
use railgun_types::limits::BATCH_BYTES_HARD;

use crate::arena;
use crate::attacker::{ALIAS, ANONYMOUS, Attacker, Line, encode, header, subscribe};
use crate::bystander::Bystander;
use crate::raw_batch;

/// Growth that passes: far above what the suites beside this one take, far below what the attacks
/// would if they worked.
const GROWTH_MAX: usize = 512 << 20;

/// Memory of this process, which is the node's.
#[derive(Debug)]
struct Memory {
    reserved: usize,
    resident: usize,
}

impl Memory {
    fn now() -> Self {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let mut pages = statm.split(' ').map(|pages| pages.parse::<usize>().expect("a number"));
        let mut bytes = || pages.next().expect("a field") * 4_096;
        Self { reserved: bytes(), resident: bytes() }
    }

    /// Fails if more than [`GROWTH_MAX`] was taken since. Memory that is only reserved is told from
    /// what the allocator reserves for its threads, 64 MiB for each of at most 8 per core.
    fn has_not_grown(&self) {
        let now = Self::now();
        assert!(now.resident < self.resident + GROWTH_MAX, "{self:?}, now {now:?}");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores * 8 * (64 << 20);
        assert!(now.reserved < self.reserved + threads + 2 * GROWTH_MAX, "{self:?}, now {now:?}");
    }
}

/// Serves the bystander until the node holds nothing for any of its clients, which are so many.
async fn nothing_is_held(node: &TestNode, bystander: &mut Bystander, clients: usize) {
    crate::within("memory to be given back", async {
        loop {
            bystander.is_served().await;
            let figures = node.broker().clients();
            let pools = [figures.frames, figures.records];
            let is_free = pools.iter().all(|pool| pool.bytes == 0 && pool.waiting == 0);
            if is_free && (figures.connections, figures.strangers) == (clients, 0) {
                return;
            }
        }
    })
    .await;
}

fn publish(batch: &[u8]) -> Frame {
    let batch_bytes = batch.len() as u32;
    let item = v1::PublishItem { alias: ALIAS, batch_bytes, ..Default::default() };
    Frame::with_blob(&v1::Publish { items: vec![item] }, vec![batch.to_vec().into()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_batches_at_once_are_answered_in_order() {
    let (_node, mut bystander, attacker) = arena().await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    let frames: Vec<u8> = (0..100u64)
        .flat_map(|i| encode(publish(&raw_batch::of_values(&[&i.to_le_bytes()]))))
        .collect();
    line.bytes(&frames).await;
    line.finish();
    for offset in 0..100 {
        let result: v1::PublishResult = line.expect().await;
        assert_eq!((result.items[0].error.clone(), result.items[0].base_offset), (None, offset));
    }
    assert!(line.next().await.is_none(), "the server finishes what the client has finished");
    let read = attacker.read_all("target").await;
    assert!(read.iter().all(|(offset, value)| *value == offset.to_le_bytes()[..]));
    assert_eq!(read.len(), 100);
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_too_many_items_is_refused() {
    let (node, mut bystander, attacker) = arena().await;
    let before = Memory::now();
    // Two bytes each in a head of 1 MiB; each would take a hundred times that.
    let empty = v1::PublishItem::default();
    let flood = encode(Frame::new(&v1::Publish { items: vec![empty; 500_000] }));
    let mut lines = Vec::new();
    for _ in 0..8 {
        let mut line = attacker.publisher(&ANONYMOUS, "target").await;
        line.bytes(&flood).await;
        lines.push(line);
    }
    for line in &mut lines {
        line.is_refused(ProtocolViolation).await;
    }
    before.has_not_grown();
    // As many as are allowed are all told why they fail.
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    line.send(&v1::Publish { items: vec![empty; 8_193] }).await;
    line.is_refused(ProtocolViolation).await;
    let mut line = attacker.publisher(&ANONYMOUS, "target").await;
    line.send(&v1::Publish { items: vec![empty; 8_192] }).await;
    let result: v1::PublishResult = line.expect().await;
    assert_eq!(result.items.len(), 8_192);
    assert!(result.items.iter().all(|item| item.error.is_some()));
    attacker.is_served().await;
    nothing_is_held(&node, &mut bystander, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_lie_take_no_memory() {
    let (node, mut bystander, attacker) = arena().await;
    let before = Memory::now();
    let mut lines = Vec::new();
    for _ in 0..500 {
        // Announces 8 MiB and 1 MiB, sends a byte of the blob or of the head.
        let mut blob = attacker.open().await;
        blob.bytes(&header(FrameKind::Publish as u8, 0, BATCH_BYTES_HARD as u32)).await;
        blob.bytes(b"x").await;
        let mut head = attacker.open().await;
        head.bytes(&header(FrameKind::UnbindStreams as u8, 1 << 20, 0)).await;
        head.bytes(b"x").await;
        lines.extend([blob, head]);
    }
    attacker.is_served().await;
    nothing_is_held(&node, &mut bystander, 2).await;
    before.has_not_grown();
    for line in &mut lines {
        line.finish();
        line.is_refused(ProtocolViolation).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_abandoned_are_given_back() {
    let (node, mut bystander, attacker) = arena().await;
    let before = Memory::now();
    let follow = subscribe("target", Start::Latest(true), 1 << 20, false);
    for i in 0..2_000 {
        // Dropped in the middle of whatever it is: more than may be open at a time.
        let mut line = attacker.open().await;
        match i % 6 {
            0 => {}
            1 => line.bytes(&header(FrameKind::Publish as u8, 9, 9)[..5]).await,
            2 => line.send(&ANONYMOUS).await,
            3 => line.send(&follow).await,
            4 => line.send(&v1::AdminRequest { id: 1, call: None }).await,
            _ => drop(attacker.publisher(&ANONYMOUS, "target").await),
        }
    }
    attacker.is_served().await;
    nothing_is_held(&node, &mut bystander, 2).await;
    before.has_not_grown();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_end_at_their_limit() {
    let (node, mut bystander, attacker) = arena().await;
    let before = Memory::now();
    let follow = subscribe("target", Start::Latest(true), 1, false);
    let mut lines: VecDeque<Line> = VecDeque::new();
    // The control stream is one of the 1,024.
    for _ in 1..1_024 {
        lines.push_back(attacker.begin(&follow).await);
    }
    for line in &mut lines {
        line.expect::<v1::Subscribed>().await;
    }
    // For each that ends another one may come.
    for _ in 0..200 {
        let mut first = lines.pop_front().expect("open");
        first.send(&ANONYMOUS).await;
        first.is_refused(ProtocolViolation).await;
        drop(first);
        let mut line = attacker.begin(&follow).await;
        line.expect::<v1::Subscribed>().await;
        lines.push_back(line);
    }
    // But not without end: at some point there is a wait.
    loop {
        let opened = tokio::select! {
            biased;
            line = attacker.open() => line,
            () = bystander.is_served() => break,
        };
        lines.push_back(opened);
        assert!(lines.len() < 1_300, "more and more");
    }
    before.has_not_grown();
    // One record wakes all that follow.
    let other = Attacker::enter(&node).await;
    let mut publisher = other.publisher(&ANONYMOUS, "target").await;
    assert_eq!(publisher.publish_values(&[b"x"]).await.error, None);
    for line in lines.iter_mut().take(1_023) {
        line.expect::<v1::Deliver>().await;
    }
    nothing_is_held(&node, &mut bystander, 3).await;
}

/// Serves the bystander until `progress` has not changed for a while of that.
async fn settles(bystander: &mut Bystander, progress: impl Fn() -> u64) {
    let mut before = None;
    while before != Some(progress()) {
        before = Some(progress());
        for _ in 0..30 {
            bystander.is_served().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_results_is_not_read_either() {
    let (node, mut bystander, attacker) = arena().await;
    let before = Memory::now();
    // A client with room for a few results, which it never takes out.
    let deaf = Attacker::with_window(&node, 1 << 10).await;
    let mut line = deaf.publisher(&ANONYMOUS, "target").await;
    let frame = encode(publish(&raw_batch::of_values(&[&[7; 10_000]])));
    let taken = Cell::new(0);
    let flood = async {
        // What is on its way, un-answered, or answered and not read is less than half of it.
        while taken.get() < 2_000 {
            line.bytes_for_ever(&frame).await;
            taken.set(taken.get() + 1);
        }
    };
    tokio::select! {
        () = flood => panic!("{} batches were taken from a client that reads no results", taken.get()),
        () = settles(&mut bystander, || taken.get()) => {}
    }
    attacker.is_served().await;
    before.has_not_grown();
    drop(line);
    nothing_is_held(&node, &mut bystander, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_records_holds_up_nobody_else() {
    let (node, mut bystander, attacker) = arena().await;
    let mut publisher = attacker.publisher(&ANONYMOUS, "target").await;
    let value = vec![7; 1 << 19];
    for _ in 0..32 {
        assert_eq!(publisher.publish_values(&[&value]).await.error, None);
    }
    let before = Memory::now();
    // 200 times 16 MiB, if nobody held back.
    let deaf = Attacker::with_window(&node, 32 << 20).await;
    let mut lines = Vec::new();
    for _ in 0..200 {
        let all = subscribe("target", Start::Earliest(true), u64::MAX, true);
        lines.push(deaf.begin(&all).await);
    }
    settles(&mut bystander, || deaf.dialled.connection.stats().frame_rx.stream).await;
    attacker.is_served().await;
    before.has_not_grown();
    // Nothing is lost by waiting: the last one gets all, when it makes room for it.
    let mut last = lines.pop().expect("a subscription");
    drop(lines);
    last.expect::<v1::Subscribed>().await;
    for offset in 0..32 {
        assert_eq!(last.expect::<v1::Deliver>().await.base_offset, offset);
    }
    last.expect::<v1::End>().await;
    nothing_is_held(&node, &mut bystander, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_too_large_is_refused_before_it_comes() {
    let (node, mut bystander, attacker) = arena().await;
    let before = Memory::now();
    for _ in 0..64 {
        let mut line = attacker.publisher(&ANONYMOUS, "target").await;
        line.bytes(&header(FrameKind::Publish as u8, 0, u32::MAX)).await;
        // Whatever follows is thrown away.
        line.bytes(&[7; 100_000]).await;
        line.is_refused(FrameTooLarge).await;
    }
    before.has_not_grown();
    attacker.is_served().await;
    nothing_is_held(&node, &mut bystander, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_never_end_take_bounded_memory() {
    let (node, mut bystander, attacker) = arena().await;
    let before = Memory::now();
    let mut lines = Vec::new();
    for _ in 0..150 {
        lines.push(attacker.publisher(&ANONYMOUS, "target").await);
    }
    let all_but_one = &vec![7; BATCH_BYTES_HARD - 1];
    let floods = lines.iter_mut().map(|line| async move {
        line.bytes(&header(FrameKind::Publish as u8, 0, BATCH_BYTES_HARD as u32)).await;
        line.bytes_for_ever(all_but_one).await;
    });
    // Some come whole but for a byte; those behind them are not read, nor is what comes after them.
    tokio::select! {
        _ = futures::future::join_all(floods) => panic!("all of it was taken"),
        () = settles(&mut bystander, || attacker.dialled.connection.stats().frame_tx.stream) => {}
    }
    let frames = node.broker().clients().frames;
    assert!(frames.bytes > BATCH_BYTES_HARD && frames.bytes <= 32 << 20, "{frames:?}");
    assert_eq!(frames.waiting, 0, "it is in nobody's way but its own");
    before.has_not_grown();
    drop(lines);
    attacker.is_served().await;
    nothing_is_held(&node, &mut bystander, 2).await;
}
