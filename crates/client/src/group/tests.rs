//! A member against a server that does as a test says, in one process and without real time.

use std::future::{Future, IntoFuture};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::v1::group_notice::Notice;
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::batch::{BatchBuilder, RecordDraft};
use railgun_types::{ErrorCode, GroupName, GroupPatch, Offset, Retry, StartPosition};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::Client;
use crate::tests::{PATIENCE, client_of, orders};

fn billing() -> GroupName {
    GroupName::new("billing").expect("a valid name")
}

/// A place that a server has given to a member.
struct Seat {
    writer: FrameWriter,
    reader: FrameReader,
    join: v1::JoinGroup,
}

impl Seat {
    async fn joined(&mut self, group_id: u64) {
        self.joined_as(group_id, v1::GroupMode::GroupBalanced).await;
    }

    async fn joined_as(&mut self, group_id: u64, mode: v1::GroupMode) {
        let joined = v1::GroupJoined {
            stream_uid: Bytes::from_static(&[2; 16]),
            group_id,
            mode: mode.into(),
            ack_wait_ms: 30_000,
            ..v1::GroupJoined::default()
        };
        self.writer.send(Frame::new(&joined)).await.expect("the client listens");
    }

    async fn deliver(&mut self, lease: u64, base_offset: u64, count: u32, epoch: u32) {
        let mut builder = BatchBuilder::new(1 << 20);
        for at in 0..u64::from(count) {
            let value = (base_offset + at).to_string();
            let draft = RecordDraft { value: value.as_bytes(), ..RecordDraft::default() };
            builder.push(&draft).expect("within the limits");
        }
        let batch = vec![builder.finish().concat()];
        let deliver = v1::GroupDeliver {
            base_offset,
            count,
            lease,
            attempt: 1,
            epoch,
            ..v1::GroupDeliver::default()
        };
        let frame = Frame::with_blob(&deliver, batch);
        self.writer.send(frame).await.expect("the client listens");
    }

    async fn notice(&mut self, notice: Notice) {
        let notice = v1::GroupNotice { notice: Some(notice) };
        self.writer.send(Frame::new(&notice)).await.expect("the client listens");
    }

    /// What is said next; lease, offsets, kind.
    async fn heard(&mut self) -> Vec<(u64, u64, u32, v1::SettleKind)> {
        let settle = self.reader.next_of::<v1::Settle>().await.expect("a frame").expect("a settle");
        let items = settle.items.iter();
        items.map(|item| (item.lease, item.from, item.count, item.kind())).collect()
    }

    async fn settled(&mut self, through: u64) {
        let settled = v1::Settled { through, stale: Vec::new() };
        self.writer.send(Frame::new(&settled)).await.expect("the client listens");
    }
}

/// A client, and the members that ask its server for a place. Other streams are for `other`.
async fn client_and_seats<S, F>(other: S) -> (Client, mpsc::Receiver<Seat>)
where
    S: Fn(FrameWriter, Frame) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (seats, asked) = mpsc::channel(8);
    let client = client_of(move |writer, mut reader: FrameReader| {
        let (seats, other) = (seats.clone(), other.clone());
        async move {
            let first = reader.next().await.expect("a frame").expect("the first");
            if first.kind() == FrameKind::JoinGroup {
                let join = first.decode().expect("as its kind says");
                seats.send(Seat { writer, reader, join }).await.expect("the test goes on");
            } else {
                other(writer, first).await;
            }
        }
    });
    (client.await, asked)
}

async fn nothing(_: FrameWriter, first: Frame) {
    panic!("a {} frame", first.kind());
}

/// A member in the place that a server has given it, in group 9.
async fn member() -> (GroupSubscription, Seat, mpsc::Receiver<Seat>, Client) {
    member_as(v1::GroupMode::GroupBalanced).await
}

async fn member_as(mode: v1::GroupMode) -> (GroupSubscription, Seat, mpsc::Receiver<Seat>, Client) {
    let (client, mut seats) = client_and_seats(nothing).await;
    let opening = client.subscribe(orders()).group(billing()).credit(50).open();
    let seating = async {
        let mut seat = seats.recv().await.expect("somebody asks");
        seat.joined_as(9, mode).await;
        seat
    };
    let (subscription, seat) = tokio::join!(opening, seating);
    (subscription.expect("there is a place"), seat, seats, client)
}

async fn delivery(subscription: &mut GroupSubscription) -> Delivery {
    match subscription.next().await {
        Ok(Some(GroupEvent::Delivery(delivery))) => delivery,
        other => panic!("{other:?}"),
    }
}

const ACK: v1::SettleKind = v1::SettleKind::SettleAck;
const BEGIN: v1::SettleKind = v1::SettleKind::SettleBegin;

#[tokio::test(start_paused = true)]
async fn a_member_takes_messages_and_says_what_came_of_them() {
    let (mut member, mut seat, _seats, _client) = member().await;
    assert_eq!((seat.join.stream.as_str(), seat.join.group.as_str()), ("orders", "billing"));
    assert_eq!((seat.join.credit_messages, seat.join.credit_bytes), (50, 16 << 20));
    assert_eq!((seat.join.group_id, seat.join.held.len()), (0, 0));
    assert_eq!(member.ack_wait(), Duration::from_secs(30));
    seat.deliver(1, 5, 3, 4).await;
    let first = delivery(&mut member).await;
    assert_eq!((first.offset(), first.attempt(), first.redriven()), (Offset(5), 1, 0));
    assert_eq!((first.fencing_token(), &first.record.value[..]), (Some(4), &b"5"[..]));
    assert_eq!(seat.heard().await, [(1, 5, 1, BEGIN)]);
    let acking = tokio::spawn(first.ack_confirmed());
    assert_eq!(seat.heard().await, [(1, 5, 1, ACK)]);
    assert!(!acking.is_finished());
    seat.settled(2).await;
    acking.await.expect("no panic").expect("it counts");

    // The rest of the run as a batch, of which a part fails.
    let Ok(Some(GroupEvent::Delivery(mut batch))) = member.next_batch().await else { panic!() };
    assert_eq!((batch.range().to_string().as_str(), batch.len()), ("6-7", 2));
    let behind = batch.split_off(1).expect("there is one behind");
    assert!(batch.split_off(1).is_none() && batch.split_off(0).is_none());
    behind.nack_after(Duration::from_millis(1_500));
    batch.ack();
    let settle = seat.reader.next_of::<v1::Settle>().await.expect("a frame").expect("a settle");
    let item = |at: usize| (settle.items[at].from, settle.items[at].delay_ms);
    assert_eq!((settle.items.len(), item(0), item(1)), (2, (6, None), (7, Some(1_500))));
    seat.settled(3).await;
    member.close().await.expect("all counts");
    assert!(seat.reader.next().await.expect("its end").is_none());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_answer_is_said_when_that_comes() {
    // G-13
    let (mut member, mut seat, _seats, _client) = member().await;
    seat.deliver(1, 0, 10, 0).await;
    for offset in 0..4 {
        delivery(&mut member).await.ack();
        assert_eq!(seat.heard().await, [(1, offset, 1, ACK)]);
    }
    for _ in 4..10 {
        delivery(&mut member).await.ack();
    }
    let more = timeout(Duration::from_secs(1), seat.heard()).await;
    assert!(more.is_err(), "four are not answered: {more:?}");
    seat.settled(1).await;
    let more = timeout(Duration::from_secs(1), seat.heard()).await;
    assert_eq!(more.expect("there is room for one"), [(1, 4, 6, ACK)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_behind_a_failure_in_an_exclusive_group_waits_for_the_answer() {
    //
    let (mut member, mut seat, _seats, _client) = member_as(v1::GroupMode::GroupExclusive).await;
    seat.deliver(1, 0, 4, 1).await;
    delivery(&mut member).await.nack();
    let next = timeout(Duration::from_secs(1), delivery(&mut member)).await;
    assert!(next.is_err(), "it failed before: {next:?}");
    seat.heard().await;
    seat.notice(Notice::RewindTo(0)).await;
    seat.settled(1).await;
    seat.deliver(2, 0, 4, 1).await;
    assert_eq!(delivery(&mut member).await.offset(), Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_dropped_is_not_settled_and_keeps_the_place_until_then() {
    let (mut member, mut seat, _seats, _client) = member().await;
    seat.deliver(1, 0, 4, 0).await;
    let (first, second) = (delivery(&mut member).await, delivery(&mut member).await);
    assert_eq!(seat.heard().await, [(1, 0, 2, BEGIN)]);
    seat.settled(1).await;
    drop(member);
    assert!(seat.reader.next_of::<v1::DrainMember>().await.expect("a frame").is_some());
    // It can still be settled.
    tokio::time::sleep(Duration::from_secs(20)).await;
    drop(first);
    second.ack();
    assert_eq!(seat.heard().await, [(1, 1, 1, ACK)]);
    seat.settled(2).await;
    assert!(seat.reader.next().await.expect("its end").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_stream_is_lost_presents_what_it_has() {
    // G-14
    let (mut member, mut seat, mut seats, _client) = member().await;
    seat.deliver(1, 0, 4, 0).await;
    let (first, second) = (delivery(&mut member).await, delivery(&mut member).await);
    seat.heard().await;
    let acking = tokio::spawn(first.ack_confirmed());
    assert_eq!(seat.heard().await, [(1, 0, 1, ACK)]);
    drop(seat);
    let mut seat = seats.recv().await.expect("it asks again");
    let held = |from, count, begun| v1::HeldLease {
        lease: 1,
        from,
        count,
        attempt: 1,
        begun,
        ..Default::default()
    };
    let mut presented = std::mem::take(&mut seat.join.held);
    for held in &mut presented {
        assert!(held.message_bytes > 0, "{held:?}");
        held.message_bytes = 0;
    }
    assert_eq!(presented, [held(0, 2, true), held(2, 2, false)]);
    assert_eq!((seat.join.group_id, &seat.join.stream_uid[..]), (9, &[2; 16][..]));
    seat.joined(9).await;
    assert_eq!(seat.heard().await, [(1, 0, 1, ACK)], "it is said again");
    seat.settled(1).await;
    acking.await.expect("no panic").expect("it counts");
    second.ack();
    assert_eq!(seat.heard().await, [(1, 1, 1, ACK)]);
    // The server gives the rest to somebody else, and then to this member.
    seat.notice(Notice::RewindTo(2)).await;
    seat.deliver(2, 3, 1, 0).await;
    // Time goes on when there is nothing else to do: both were read.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(delivery(&mut member).await.offset(), Offset(3));
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_stream_is_lost_after_a_long_silence_comes_back_when_it_may() {
    // G-14
    let (mut member, seat, mut seats, _client) = member().await;
    tokio::time::sleep(2 * PATIENCE).await;
    drop(seat);
    let again = timeout(PATIENCE, seats.recv()).await;
    let mut seat = again.expect("it has not given up").expect("it asks again");
    // A server that takes nobody now says when it might.
    let wait = PATIENCE / 2;
    let busy = WireError::new(ErrorCode::Unavailable, "nobody leads");
    let busy = v1::Error::from(busy.with_retry(Retry::After(wait)));
    seat.writer.send(Frame::new(&busy)).await.expect("the client listens");
    seat.writer.finish();
    let refused = Instant::now();
    let mut seat = seats.recv().await.expect("it asks again");
    assert!(refused.elapsed() >= wait, "{:?}", refused.elapsed());
    seat.joined(9).await;
    seat.deliver(1, 0, 1, 0).await;
    assert_eq!(delivery(&mut member).await.offset(), Offset(0));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_another_one_by_now_is_not_joined_again() {
    for tells_id in [true, false] {
        let (mut member, mut seat, mut seats, _client) = member().await;
        seat.deliver(1, 0, 1, 0).await;
        let first = delivery(&mut member).await;
        drop(seat);
        let mut seat = seats.recv().await.expect("it asks again");
        if tells_id {
            seat.joined(10).await;
        } else {
            let gone = WireError::new(ErrorCode::GroupNotFound, "there is no such group");
            let gone = v1::Error::from(gone);
            seat.writer.send(Frame::new(&gone)).await.expect("the client listens");
        }
        let error = member.next().await.expect_err("the group is gone");
        assert!(matches!(error, GroupError::Deleted { .. }), "{error}");
        assert!(matches!(first.ack_confirmed().await, Err(GroupError::Deleted { .. })));
        assert!(member.next().await.expect("it was told").is_none());
        member.closed().await;
        assert!(member.settled().await.is_err() || member.drain().await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_group_is_not_made_unless_asked_for() {
    let (client, mut seats) = client_and_seats(nothing).await;
    let refusing = async {
        let mut seat = seats.recv().await.expect("somebody asks");
        let absent = WireError::new(ErrorCode::GroupNotFound, "there is no such group");
        seat.writer.send(Frame::new(&v1::Error::from(absent))).await.expect("the client listens");
    };
    let opening = client.subscribe(orders()).group(billing()).open();
    let (opened, ()) = tokio::join!(opening, refusing);
    let error = opened.expect_err("there is no group");
    assert!(matches!(error, GroupError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("`Admin::ensure_group`"), "{error}");

    let (client, mut seats) =
        client_and_seats(|mut writer: FrameWriter, first: Frame| async move {
            let request: v1::AdminRequest = first.decode().expect("a call");
            let Some(Call::EnsureGroup(ensure)) = request.call else { panic!("another call") };
            assert_eq!(ensure.mode(), v1::EnsureMode::EnsureWarn);
            assert_eq!(ensure.start, Some(v1::ensure_group::Start::Earliest(true)));
            let mode = ensure.spec.expect("a wish").mode;
            assert_eq!(mode, Some(v1::GroupMode::GroupExclusive.into()));
            let outcome = v1::EnsureOutcome::EnsureCreated.into();
            let ensured = v1::GroupEnsured { outcome, revision: 1, ..v1::GroupEnsured::default() };
            let answer = Some(Answer::GroupEnsured(ensured));
            let response = v1::AdminResponse { id: request.id, answer };
            writer.send(Frame::new(&response)).await.expect("the client listens");
        })
        .await;
    let builder = client.subscribe(orders()).group(billing()).exclusive();
    let opening = builder.start(StartPosition::Earliest).create(GroupPatch::default()).open();
    let seating = async {
        let mut seat = seats.recv().await.expect("somebody asks");
        assert_eq!(seat.join.mode(), v1::GroupMode::GroupExclusive);
        seat.joined(9).await;
    };
    let (opened, ()) = tokio::join!(opening, seating);
    assert_eq!(opened.expect("there is a place").ensured().map(|made| made.revision), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_drains_waits_for_what_was_handed_out() {
    // G-9
    let (mut member, mut seat, _seats, _client) = member().await;
    seat.deliver(1, 0, 4, 0).await;
    let first = delivery(&mut member).await;
    assert_eq!(seat.heard().await, [(1, 0, 1, BEGIN)]);
    seat.settled(1).await;
    {
        let mut draining = std::pin::pin!(member.drain());
        let working = async {
            assert!(seat.reader.next_of::<v1::DrainMember>().await.expect("a frame").is_some());
            first.ack();
            assert_eq!(seat.heard().await, [(1, 0, 1, ACK)]);
            seat.settled(2).await;
        };
        tokio::select! {
            biased;
            _ = &mut draining => panic!("the server has not said so"),
            () = working => {}
        }
        let waited = timeout(Duration::from_secs(5), &mut draining).await;
        assert!(waited.is_err(), "the server has not said so");
        seat.notice(Notice::Drained(true)).await;
        draining.await.expect("all is settled");
    }
    assert!(member.next().await.expect("no failure").is_none());
}

#[tokio::test(start_paused = true)]
async fn as_a_stream_there_are_messages_alone() {
    let (mut member, mut seat, _seats, _client) = member().await;
    seat.notice(Notice::StalledAt(7)).await;
    seat.deliver(1, 0, 2, 0).await;
    seat.notice(Notice::Paused(v1::GroupPause::GroupPausedByBreaker.into())).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = member.next().await.expect("no failure");
        if let Some(GroupEvent::Delivery(delivery)) = delivery {
            seen.push(delivery.offset().0);
            delivery.ack();
        } else {
            assert!(
                matches!(delivery, Some(GroupEvent::Stalled { blocking: Offset(7) })),
                "{delivery:?}"
            );
        }
    }
    let second = StreamExt::next(&mut member).await.expect("one more").expect("no failure");
    seen.push(second.offset().0);
    second.ack();
    assert_eq!(seen, [0, 1]);
    let event = member.next().await;
    assert!(
        matches!(event, Ok(Some(GroupEvent::Paused(PauseReason::Breaker)))),
        "in order: {event:?}"
    );
    // One more of what the protocol does not allow ends it.
    seat.writer.send(Frame::new(&v1::End { next_offset: 1 })).await.expect("the client listens");
    let error = StreamExt::next(&mut member).await.expect("a failure").expect_err("it ends");
    assert!(matches!(error, GroupError::Protocol { .. }), "{error}");
    assert!(StreamExt::next(&mut member).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_no_settle_is_left_and_patience_ends() {
    let (mut member, mut seat, mut seats, _client) = member().await;
    let begun = Instant::now();
    seat.deliver(1, 0, 1, 0).await;
    delivery(&mut member).await.ack();
    seat.heard().await;
    let again = seats.recv().await.expect("it asks again");
    assert!(begun.elapsed() >= PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(again.join.held.len(), 1);
    // From here on nobody is taken.
    let refusing = tokio::spawn(async move {
        let mut next = Some(again);
        while let Some(mut seat) = next {
            let away = WireError::new(ErrorCode::Unavailable, "nobody leads");
            drop(seat.writer.send(Frame::new(&v1::Error::from(away))).await);
            seat.writer.finish();
            next = seats.recv().await;
        }
    });
    let left = Instant::now();
    let error = member.next().await.expect_err("nobody leads");
    assert!(
        matches!(&error, GroupError::Refused { error, .. } if error.code == ErrorCode::Unavailable)
    );
    let took = left.elapsed();
    assert!(took >= PATIENCE && took < PATIENCE + Duration::from_secs(2), "{took:?}");
    refusing.abort();
}

/// A member that fetches, in the place that a server has given it.
async fn pulling() -> (PullSubscription, Seat, mpsc::Receiver<Seat>, Client) {
    let (client, mut seats) = client_and_seats(nothing).await;
    let opening = client.subscribe(orders()).group(billing()).credit(50).pull();
    let seating = async {
        let mut seat = seats.recv().await.expect("somebody asks");
        assert!(seat.join.fetches);
        seat.joined(9).await;
        seat.notice(Notice::Fetching(0)).await;
        seat
    };
    let (member, seat) = tokio::join!(opening, seating);
    (member.expect("there is a place"), seat, seats, client)
}

impl Seat {
    /// The next frame asks for this, which is answered.
    async fn asked(&mut self) -> v1::Fetch {
        let fetch = self.reader.next_of::<v1::Fetch>().await.expect("a frame").expect("a fetch");
        self.notice(Notice::Fetching(fetch.number)).await;
        fetch
    }
}

fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.offset().0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_fetch_returns_when_it_is_full_and_when_its_time_is_over() {
    // G-15
    let (mut member, mut seat, _seats, _client) = pulling().await;
    let begin = Instant::now();
    let serve = async {
        let fetch = seat.asked().await;
        assert_eq!((fetch.number, fetch.messages, fetch.bytes), (1, 3, 1_000));
        seat.deliver(1, 4, 2, 0).await;
        seat.deliver(2, 8, 1, 0).await;
    };
    let wait = Duration::from_secs(60);
    let (fetched, ()) = tokio::join!(member.fetch(3).wait(wait).max_bytes(1_000), serve);
    let fetched = fetched.expect("it is served");
    assert_eq!((offsets(&fetched), begin.elapsed()), (vec![4, 5, 8], Duration::ZERO));
    assert_eq!(seat.heard().await, [(1, 4, 2, BEGIN), (2, 8, 1, BEGIN)]);
    fetched.into_iter().for_each(Delivery::ack);
    assert_eq!(seat.heard().await, [(1, 4, 2, ACK), (2, 8, 1, ACK)]);
    seat.settled(2).await;

    // Not as many come. No more than the credit can.
    let serve = async {
        assert_eq!(seat.asked().await.messages, 50);
        seat.deliver(3, 9, 1, 0).await;
    };
    let (fetched, ()) = tokio::join!(member.fetch(usize::MAX).wait(wait), serve);
    assert_eq!((offsets(&fetched.expect("in time")), begin.elapsed()), (vec![9], wait));
    assert_eq!(seat.heard().await, [(3, 9, 1, BEGIN)]);
    seat.settled(3).await;
    assert_eq!(seat.asked().await.messages, 0);

    // Cancelled, it leaves nothing behind.
    let cancelled = timeout(Duration::from_secs(1), member.fetch(2).into_future());
    let serve = async {
        seat.asked().await;
        seat.deliver(4, 10, 1, 0).await;
    };
    let (cancelled, ()) = tokio::join!(cancelled, serve);
    assert!(cancelled.is_err());
    assert_eq!(seat.asked().await.messages, 0);

    // What is there now.
    let serve = async {
        let fetch = seat.asked().await;
        assert!(fetch.no_wait);
        seat.notice(Notice::Fetched(fetch.number)).await;
    };
    let (fetched, ()) = tokio::join!(member.fetch(2).wait(Duration::ZERO), serve);
    assert!(fetched.expect("it is served").is_empty());
    assert!(member.fetch(0).await.expect("nothing is asked for").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_goes_on_when_the_connection_is_lost_and_fails_with_the_place() {
    // G-14, G-15
    let (mut member, mut seat, mut seats, _client) = pulling().await;
    let serve = async {
        seat.asked().await;
        seat.deliver(1, 0, 1, 0).await;
        drop(seat);
        let mut seat = seats.recv().await.expect("it comes back");
        assert!(seat.join.fetches && seat.join.held.is_empty());
        seat.joined(9).await;
        assert_eq!(seat.asked().await.messages, 2);
        seat.deliver(7, 0, 2, 0).await;
        seat
    };
    let (fetched, mut seat) = tokio::join!(member.fetch(2).wait(Duration::from_secs(60)), serve);
    assert_eq!(offsets(&fetched.expect("it is served")), [0, 1]);
    let refuse = async {
        let error = WireError::new(ErrorCode::GroupNotFound, "it is gone");
        while let Ok(Some(frame)) = seat.reader.next().await {
            if frame.kind() == FrameKind::Fetch {
                break;
            }
        }
        let error = v1::Error::from(error);
        seat.writer.send(Frame::new(&error)).await.expect("the client listens");
    };
    let (fetched, ()) = tokio::join!(member.fetch(2), refuse);
    assert!(matches!(fetched, Err(GroupError::Deleted { .. })), "{fetched:?}");
}
