//! Many connections at once, each within its own bounds: what they take together is bounded, and who
//! wants little is served as before.

use futures::future::join_all;
use railgun_client::{Event, Message, Offset, StartPosition, StreamName};
use railgun_net::ClientMemory;
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::subscribe::Start;
use railgun_proto::{Frame, FrameKind, v1};
use railgun_testkit::{NodeOptions, TestNode};
use railgun_types::ErrorCode::{ProtocolViolation, QuotaExceeded, Timeout};
use railgun_types::limits::BATCH_BYTES_HARD;

use crate::attacker::{ALIAS, ANONYMOUS, Attacker, encode, header, subscribe};
use crate::bystander::Bystander;
use crate::raw_batch;

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
    let served = async {
        while !is_so() {
            bystander.is_served().await;
        }
    };
    crate::within("the crowd", Box::pin(served)).await;
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
    // They have credit for all of it and never take it: each keeps half a MiB at least, so there is not
    // enough for all of them, and the last wait.
    let all = subscribe("target", Start::Earliest(true), u64::MAX, false);
    let crowd = join_all((0..40).map(|_| Attacker::with_window(&node, 1 << 10))).await;
    let mut lines = join_all(crowd.iter().map(|deaf| deaf.begin(&all))).await;
    until(&mut bystander, || memory.figures().records.waiting >= 16).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_answer_holds_no_memory_of_frames() {
    let (node, mut bystander, memory) = scarce().await;
    let honest = Attacker::enter(&node).await;
    honest.ensure("target", None).await;
    // Each answer is longer than what may be sent on a stream before it is read.
    let crowd = join_all((0..8).map(|_| Attacker::with_windows(&node, 4, 1 << 20))).await;
    let mut refused = Vec::new();
    let mut asking = Vec::new();
    let blob = vec![vec![7; BATCH_BYTES_HARD].into()];
    let misplaced = &encode(Frame::with_blob(&v1::Publish::default(), blob));
    for deaf in &crowd {
        asking.push(deaf.begin(&subscribe("target", Start::Earliest(true), 1 << 20, false)).await);
        asking.push(deaf.begin(&ANONYMOUS).await);
        let describe = Call::DescribeStream(v1::DescribeStream { name: "target".into() });
        asking.push(deaf.begin(&v1::AdminRequest { id: 1, call: Some(describe) }).await);
        // There is room for one of these at a time: all come whole, one after another.
        let mut line = deaf.open().await;
        line.bytes(misplaced).await;
        refused.push(line);
    }
    until(&mut bystander, || {
        let frames = memory.figures().frames;
        frames.bytes == 0 && frames.waiting == 0
    })
    .await;
    let mut line = honest.publisher(&ANONYMOUS, "target").await;
    assert_eq!(line.publish_values(&[&vec![7; 1_000_000]]).await.error, None);
    // Nor does it hold its streams.
    for line in &mut refused {
        line.reset_by(ProtocolViolation).await;
    }
    for line in &mut asking {
        line.reset_by(Timeout).await;
    }
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_results_is_told_no_more_than_some_and_not_for_ever() {
    let (node, mut bystander, _memory) = scarce().await;
    // The results of each frame are far longer than the window: each says why.
    let deaf = Attacker::with_windows(&node, 1 << 10, 1 << 20).await;
    deaf.ensure("target", None).await;
    let flood = encode(Frame::new(&v1::Publish { items: vec![v1::PublishItem::default(); 8_192] }));
    let mut full = Vec::new();
    for _ in 0..8 {
        let mut line = deaf.publisher(&ANONYMOUS, "target").await;
        line.bytes(&flood).await;
        line.begins_to_answer().await;
        full.push(line);
    }
    // The connection has as many results as it may: what is published on it now is not looked at.
    let mut next = deaf.publisher(&ANONYMOUS, "target").await;
    let small = raw_batch::of_values(&[b"x"]);
    let item =
        v1::PublishItem { alias: ALIAS, batch_bytes: small.len() as u32, ..Default::default() };
    next.send_publish(vec![item], small).await;
    let served = async {
        for _ in 0..50 {
            bystander.is_served().await;
        }
    };
    tokio::select! {
        biased;
        result = next.expect::<v1::PublishResult>() => panic!("{result:?}"),
        () = served => {}
    }
    // Until it has lost them.
    for line in &mut full {
        line.reset_by(Timeout).await;
    }
    assert_eq!(next.expect::<v1::PublishResult>().await.items[0].error, None);
}

/// Opens so many subscriptions of one client and reads none of them, while others of it go on.
async fn are_not_read(node: &TestNode, bystander: &mut Bystander, subscriptions: usize) {
    let client = node.client().await;
    let name = StreamName::new("large").expect("a valid name");
    client.admin().create_if_absent(&name).await.expect("ensured");
    let publisher = client.publisher(name.clone()).open().await.expect("opened");
    let publish = async |value: Vec<u8>| {
        let ticket = publisher.send(Message::new(value)).await.expect("sent");
        ticket.await.expect("published")
    };
    for _ in 0..16 {
        publish(vec![7; 1 << 19]).await;
    }
    // Each has more to take than one stream may bring before it is read; with an end, or without.
    let all = || client.subscribe(name.clone()).start(StartPosition::Earliest);
    let unread = (0..subscriptions).map(|number| match number % 2 {
        0 => all().open(),
        _ => all().until_end().open(),
    });
    let unread = join_all(unread).await;
    let unread: Vec<_> = unread.into_iter().map(|opened| opened.expect("opened")).collect();
    for round in 0..2 {
        let read = async {
            let mut reader = all().until_end().open().await.expect("opened");
            let mut count = 0;
            while let Some(event) = reader.next().await.expect("readable") {
                assert!(matches!(event, Event::Data(_)), "{event:?}");
                count += 1;
            }
            count
        };
        assert_eq!(crate::in_the_end("the reader", read).await, 16 + round);
        crate::within("the publisher", publish(vec![7; 1 << 19])).await;
    }
    // And they lose nothing.
    for mut reader in unread {
        let first = crate::in_the_end("a record", reader.next()).await.expect("readable");
        assert!(matches!(&first, Some(Event::Data(record)) if record.offset == Offset(0)));
    }
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_are_not_read_hold_up_nothing_else_of_their_client() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    are_not_read(&node, &mut bystander, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_are_not_read_lose_the_memory_that_others_of_their_client_need() {
    let (node, mut bystander, _memory) = scarce().await;
    are_not_read(&node, &mut bystander, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_results_loses_the_memory_of_the_next_frame() {
    let (node, mut bystander, memory) = scarce().await;
    let honest = Attacker::enter(&node).await;
    honest.ensure("target", None).await;
    let deaf = Attacker::with_windows(&node, 64, 1 << 20).await;
    // A frame with more results than may be sent before they are read, and the beginning of a large one.
    let small = raw_batch::of_values(&[&[7; 40_000]]);
    let item = |batch: &[u8]| v1::PublishItem {
        alias: ALIAS,
        batch_bytes: batch.len() as u32,
        ..Default::default()
    };
    let items = vec![item(&small); 20];
    let whole = Frame::with_blob(&v1::Publish { items }, vec![small.repeat(20).into()]);
    let begun = header(FrameKind::Publish as u8, 0, BATCH_BYTES_HARD as u32);
    let frames = [&encode(whole)[..], &begun, &[7; 200_000]].concat();
    // It is read only if it comes before the first answer is there.
    let reading = async {
        loop {
            let mut line = deaf.publisher(&ANONYMOUS, "target").await;
            line.bytes(&frames).await;
            for _ in 0..10 {
                bystander.is_served().await;
            }
            if memory.figures().frames.bytes >= BATCH_BYTES_HARD {
                return line;
            }
        }
    };
    let mut line = crate::in_the_end("a large frame behind it to be read", reading).await;
    let mut other = honest.publisher(&ANONYMOUS, "target").await;
    let large = raw_batch::of_values(&[&vec![7; 1_047_000]]);
    other.send_publish(vec![item(&large); 8], large.repeat(8)).await;
    let result: v1::PublishResult = other.expect().await;
    assert!(result.items.iter().all(|item| item.error.is_none()), "{result:?}");
    line.reset_by(Timeout).await;
    until(&mut bystander, || memory.figures().frames.bytes == 0).await;
}
