//! Lanes that nobody holds any more: what is sent for them, and what is kept of them.

use super::*;
use crate::publish::machine::leaving::LEFT_MAX;

impl Rig {
    fn unbind(&mut self) -> (Vec<u32>, bool) {
        match self.poll() {
            Transmit::Unbind(unbind) => (unbind.aliases, unbind.forget),
            other => panic!("{other:?}"),
        }
    }

    fn unbound(&mut self, error: Option<ErrorCode>) {
        let error = error.map(|code| WireError::new(code, "").into());
        self.machine.on_unbound(&v1::StreamsUnbound { error }, self.now).expect("asked for");
    }

    /// Answers the binding that was asked for last.
    fn bound(&mut self, alias: u32, uid: u8) {
        let bound = v1::StreamBound {
            alias,
            stream_uid: Bytes::copy_from_slice(&[uid; 16]),
            message_bytes_max: 1 << 20,
            error: None,
            shard: 0,
        };
        self.machine.on_bound(bound, self.now, &mut self.out).expect("asked for");
    }

    fn new_producer(&mut self) {
        assert_eq!(self.poll(), Transmit::NewProducer);
        self.disconnect();
        assert!(self.machine.wants_new_producer());
        self.machine.on_new_producer();
    }

    /// Publishes one message and has it answered; the sequence it went out under.
    fn publish(&mut self, lane: LaneId, value: &[u8]) -> u64 {
        self.push(lane, value);
        let [(_, sequence, _)] = &self.frame()[..] else { panic!("one batch") };
        let sequence = *sequence;
        self.answer(vec![published(0, 1)]);
        sequence
    }

    fn lanes(&self) -> usize {
        self.machine.lanes.counts().1
    }
}

#[test]
fn a_stream_that_is_bound_twice_has_one_sequence() {
    // PQ-1: with two, the second batch would be answered with the result of the first.
    let (mut rig, first) = Rig::with_lane(true);
    let second = rig.unbound_lane("orders");
    assert_eq!(first, second);
    assert_eq!(rig.publish(first, b"a"), 0);
    assert_eq!(rig.publish(second, b"b"), 1);
    rig.machine.release(first);
    assert_eq!(rig.expect_wait(), None);
    assert_eq!(rig.publish(second, b"c"), 2);
    rig.machine.release(second);
    assert_eq!(rig.unbind(), (vec![0], true));
}

#[test]
fn a_lane_leaves_when_everything_of_it_is_answered_and_its_number_is_used_again() {
    let mut rig = Rig::new(true);
    let (a, b) = (rig.lane("a"), rig.lane("b"));
    let value = vec![7; FRAME_BYTES_WORTH];
    let (flying, _) = rig.push(a, &value);
    rig.frame();
    let (waiting, _) = rig.push(a, b"waiting");
    rig.machine.release(a);
    assert_eq!(rig.frame()[0].2, ["waiting"]);
    assert_eq!(rig.expect_wait(), None);
    rig.answer(vec![published(0, 1)]);
    assert_eq!(rig.expect_wait(), None);
    rig.answer(vec![published(1, 1)]);
    assert_eq!((result(&flying), result(&waiting)), (Some(Ok(0)), Some(Ok(1))));
    assert_eq!(rig.machine.answer_due(), None);
    assert_eq!(rig.unbind(), (vec![0], true));
    assert_eq!(rig.machine.answer_due(), Some(rig.now + GIVE_UP), "an answer is owed");

    // Until it is answered its number is taken.
    let c = rig.unbound_lane("c");
    assert_eq!(c, LaneId(2));
    assert_eq!(rig.publish_beside(b), 0);
    rig.unbound(None);
    assert_eq!(rig.unbound_lane("d"), LaneId(0));
    assert_eq!(rig.lanes(), 3);
}

impl Rig {
    /// Publishes on a lane while another stream is being bound.
    fn publish_beside(&mut self, lane: LaneId) -> u64 {
        assert!(matches!(self.poll(), Transmit::Bind(_)));
        self.publish(lane, b"beside")
    }
}

#[test]
fn many_that_leave_are_told_of_at_once_and_those_to_be_forgotten_apart() {
    let mut rig = Rig::new(true);
    let lanes = ["a", "b", "c", "d"].map(|name| rig.lane(name));
    rig.publish(lanes[0], b"used");
    rig.machine.release(lanes[0]);
    assert_eq!(rig.unbind(), (vec![0], true));
    rig.publish(lanes[2], b"used");
    for lane in &lanes[1..] {
        rig.machine.release(*lane);
    }
    assert_eq!(rig.expect_wait(), None, "one frame at a time");
    rig.unbound(None);
    let mut told = Vec::new();
    while let Transmit::Unbind(unbind) = rig.poll() {
        told.push((unbind.aliases, unbind.forget));
        rig.unbound(None);
    }
    assert_eq!(told, [(vec![1], false), (vec![2], true), (vec![3], false)]);
    assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 0));
}

#[test]
fn a_stream_that_is_bound_again_in_time_keeps_its_lane() {
    let (mut rig, lane) = Rig::with_lane(true);
    rig.publish(lane, b"a");
    rig.machine.release(lane);
    assert_eq!(rig.unbound_lane("orders"), lane);
    assert_eq!(rig.expect_wait(), None);
    assert_eq!(rig.publish(lane, b"b"), 1);
    // While messages of before are on their way, too.
    rig.push(lane, b"c");
    rig.machine.release(lane);
    assert_eq!(rig.unbound_lane("orders"), lane);
    assert_eq!(rig.frame(), one(2, &["c"]));
    rig.answer(vec![published(2, 1)]);
    assert_eq!(rig.expect_wait(), None);
}

#[test]
fn a_stream_that_is_bound_again_too_late_waits_for_its_end_and_begins_anew() {
    let (mut rig, lane) = Rig::with_lane(true);
    rig.publish(lane, b"a");
    rig.machine.release(lane);
    assert_eq!(rig.unbind(), (vec![0], true));
    let again = rig.unbound_lane("orders");
    assert_eq!(again, LaneId(1));
    assert_eq!(rig.unbound_lane("orders"), again, "one lane waits for it, not two");
    assert_eq!(rig.expect_wait(), None);
    rig.unbound(None);
    rig.bind(again, 1);
    assert_eq!(rig.publish(again, b"b"), 0, "the server has forgotten");

    // It leaves as well if nobody waited that long.
    rig.machine.release(again);
    rig.machine.release(again);
    assert_eq!(rig.unbind(), (vec![1], true));
    let third = rig.unbound_lane("orders");
    rig.machine.release(third);
    assert_eq!(rig.expect_wait(), None);
    rig.unbound(None);
    assert_eq!(rig.expect_wait(), None);
    assert_eq!(rig.lanes(), 0);
}

#[test]
fn a_server_does_not_forget_where_copies_may_come_and_the_next_lane_goes_on() {
    // PQ-1: what was repeated may come late, and would be appended again.
    let (mut rig, lane) = Rig::with_lane(true);
    rig.push(lane, b"a");
    rig.frame();
    rig.disconnect();
    rig.bind(lane, 1);
    assert_eq!(rig.frame(), one(0, &["a"]));
    rig.answer(vec![published(0, 1)]);
    rig.machine.release(lane);
    assert_eq!(rig.unbind(), (vec![0], false));
    rig.unbound(None);
    assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 1));

    // A binding that fails does not lose it.
    for _ in 0..2 {
        let again = rig.unbound_lane("orders");
        assert_eq!((again, rig.machine.left.len()), (lane, 0));
        rig.machine.release(again);
        assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 1));
    }
    let again = rig.lane("orders");
    assert_eq!(rig.publish(again, b"b"), 1);
    rig.machine.release(again);
    assert_eq!(rig.unbind(), (vec![0], false), "the copies are no less for that");
    rig.unbound(None);
    rig.machine.close();
    assert_eq!(rig.poll(), Transmit::Close { forget: false });
}

#[test]
fn what_is_left_of_a_stream_does_not_count_for_another_of_its_name() {
    let (mut rig, lane) = Rig::with_lane(true);
    rig.publish(lane, b"a");
    rig.disconnect();
    rig.machine.release(lane);
    assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 1));
    let again = rig.unbound_lane("orders");
    rig.bind(again, 2);
    assert_eq!(rig.publish(again, b"b"), 0);
}

#[test]
fn a_lane_that_nobody_holds_is_not_bound_on_the_next_connection_unless_something_waits() {
    let mut rig = Rig::new(true);
    let (idle, busy, held) = (rig.lane("idle"), rig.lane("busy"), rig.lane("held"));
    rig.publish(idle, b"x");
    let (message, _) = rig.push(busy, b"y");
    rig.machine.release(idle);
    rig.machine.release(busy);
    rig.disconnect();
    assert!(matches!(rig.poll(), Transmit::Bind(bind) if bind.stream == "busy"));
    rig.bound(1, 1);
    assert!(matches!(rig.poll(), Transmit::Bind(bind) if bind.stream == "held"));
    rig.bound(2, 1);
    rig.frame();
    rig.answer(vec![published(0, 1)]);
    assert_eq!(result(&message), Some(Ok(0)));
    assert_eq!(rig.unbind(), (vec![1], true));
    rig.unbound(None);
    assert_eq!(rig.lanes(), 1);
    // The server still knows what was published before the connection was lost.
    let again = rig.lane("idle");
    assert_eq!(rig.publish(again, b"z"), 1);
    assert_eq!(rig.publish(held, b"z"), 0);
}

#[test]
fn a_server_that_may_forget_at_any_time_gets_another_producer() {
    // PQ-1: if it did so while batches are un-answered, it would append their repetition.
    for lost in [true, false] {
        let (mut rig, lane) = Rig::with_lane(true);
        rig.publish(lane, b"a");
        rig.machine.release(lane);
        assert_eq!(rig.unbind(), (vec![0], true));
        if lost {
            rig.disconnect();
            assert!(rig.machine.wants_new_producer());
            rig.machine.on_new_producer();
        } else {
            rig.unbound(Some(ErrorCode::OutcomeUnknown));
            rig.new_producer();
        }
        assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 0));
        let again = rig.lane("orders");
        assert_eq!(rig.publish(again, b"b"), 0);
    }
}

#[test]
fn a_server_that_had_no_room_to_forget_goes_on_knowing_the_producer() {
    let (mut rig, lane) = Rig::with_lane(true);
    for (code, next) in [(ErrorCode::HotTierFull, 1), (ErrorCode::Unavailable, 2)] {
        assert_eq!(rig.publish(lane, b"a"), next - 1);
        rig.machine.release(lane);
        assert_eq!(rig.unbind(), (vec![0], true));
        rig.unbound(Some(code));
        assert!(!rig.machine.wants_new_producer());
        assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 1));
        assert_eq!(rig.lane("orders"), lane);
    }
    assert_eq!(rig.publish(lane, b"a"), 2);
    rig.machine.release(lane);
    assert_eq!(rig.unbind(), (vec![0], true));
    rig.unbound(None);
    assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 0));
    assert_eq!(rig.lane("orders"), lane);
    assert_eq!(rig.publish(lane, b"a"), 0);
}

#[test]
fn a_publisher_that_has_left_too_much_behind_begins_again() {
    let mut rig = Rig::new(true);
    let lane = rig.lane("kept");
    rig.publish(lane, b"a");
    for n in 0..=LEFT_MAX {
        let lane = rig.lane(&format!("s{n}"));
        rig.push(lane, b"x");
        rig.frame();
        rig.disconnect();
        rig.bind(LaneId(0), 1);
        rig.bind(lane, 1);
        rig.frame();
        rig.answer(vec![published(0, 1)]);
        rig.machine.release(lane);
        assert!(!rig.machine.wants_new_producer(), "{n}");
        rig.unbind();
        rig.unbound(None);
    }
    rig.new_producer();
    assert!(rig.machine.left.is_empty());
    rig.bind(lane, 1);
    assert_eq!(rig.publish(lane, b"b"), 0);
    rig.machine.close();
    assert_eq!(rig.poll(), Transmit::Close { forget: true });
}

#[test]
fn a_binding_that_nobody_waits_for_leaves_nothing() {
    let mut rig = Rig::new(true);
    // Before it is asked for.
    let lane = rig.unbound_lane("orders");
    rig.machine.release(lane);
    assert_eq!((rig.lanes(), rig.expect_wait()), (0, None));
    // Before it is answered, well or not.
    for found in [true, false] {
        let lane = rig.unbound_lane("orders");
        assert!(matches!(rig.poll(), Transmit::Bind(_)));
        rig.machine.release(lane);
        assert_eq!((rig.lanes(), rig.expect_wait()), (1, None));
        if found {
            rig.bound(0, 1);
            assert_eq!(rig.unbind(), (vec![0], false));
            rig.unbound(None);
        } else {
            let absent = WireError::new(ErrorCode::StreamNotFound, "");
            let error = Some(absent.into());
            let refusal = v1::StreamBound { error, ..v1::StreamBound::default() };
            rig.machine.on_bound(refusal, rig.now, &mut rig.out).expect("asked for");
        }
        assert_eq!((rig.lanes(), rig.expect_wait()), (0, None));
    }
    // Between two attempts.
    let lane = rig.unbound_lane("orders");
    assert!(matches!(rig.poll(), Transmit::Bind(_)));
    let starting = WireError::new(ErrorCode::StreamStarting, "");
    let refusal = v1::StreamBound { error: Some(starting.into()), ..v1::StreamBound::default() };
    rig.machine.on_bound(refusal, rig.now, &mut rig.out).expect("asked for");
    rig.machine.release(lane);
    assert_eq!((rig.lanes(), rig.expect_wait()), (0, None));
    // Without a connection.
    let lane = rig.unbound_lane("orders");
    assert!(matches!(rig.poll(), Transmit::Bind(_)));
    rig.machine.release(lane);
    rig.disconnect();
    assert_eq!((rig.lanes(), rig.expect_wait()), (0, None));
}

#[test]
fn a_lane_that_was_abandoned_when_it_broke_is_not_taken_up_again() {
    let (mut rig, lane) = Rig::with_lane(true);
    let value = vec![7; FRAME_BYTES_WORTH];
    rig.push(lane, &value);
    rig.frame();
    let (behind, _) = rig.push(lane, &value);
    rig.frame();
    rig.machine.release(lane);
    rig.answer(vec![refused(WireError::new(ErrorCode::InvalidHeader, ""))]);
    let again = rig.unbound_lane("orders");
    assert_ne!(again, lane);
    assert_eq!(rig.expect_wait(), None);
    rig.answer(vec![refused(WireError::new(ErrorCode::OrderBroken, ""))]);
    assert_eq!(result(&behind), Some(Err(PublishError::OrderBroken)));
    assert_eq!(rig.unbind(), (vec![0], true));
    rig.unbound(None);
    rig.bind(again, 1);
    assert_eq!(rig.publish(again, b"again"), 0);
}

#[test]
fn a_dead_lane_makes_room_for_another_while_it_has_handles() {
    let (mut rig, lane) = Rig::with_lane(true);
    rig.publish(lane, b"a");
    rig.disconnect();
    // The server could not tell for so long that this lane gave up; the stream is the same.
    assert!(matches!(rig.poll(), Transmit::Bind(_)));
    let refusal = |code| {
        let error = WireError::new(code, "").with_retry(Retry::Never);
        v1::StreamBound { error: Some(error.into()), ..v1::StreamBound::default() }
    };
    let unavailable = refusal(ErrorCode::Unavailable);
    rig.machine.on_bound(unavailable, rig.now, &mut rig.out).expect("asked for");
    assert!(rig.machine.lane(lane).dead().is_some());
    let again = rig.unbound_lane("orders");
    assert_ne!(again, lane);
    rig.bind(again, 1);
    assert_eq!(rig.publish(again, b"b"), 1);
    rig.machine.release(lane);
    assert_eq!((rig.lanes(), rig.machine.left.len()), (1, 0));
    assert_eq!(rig.unbound_lane("orders"), again);

    // What is known of a stream that is gone went with it.
    rig.machine.release(again);
    rig.disconnect();
    assert!(matches!(rig.poll(), Transmit::Bind(_)));
    let gone = v1::StreamBound { alias: again.0, ..refusal(ErrorCode::StreamNotFound) };
    rig.machine.on_bound(gone, rig.now, &mut rig.out).expect("asked for");
    rig.machine.release(again);
    assert_eq!((rig.lanes(), rig.machine.left.len()), (0, 0));
    assert_eq!(rig.expect_wait(), None);
}

#[test]
fn an_answer_that_frees_what_nobody_asked_for_is_refused() {
    let (mut rig, _) = Rig::with_lane(true);
    let unasked = rig.machine.on_unbound(&v1::StreamsUnbound::default(), rig.now);
    assert_eq!(unasked, Err(ProtocolError::UnaskedUnbound));
    assert_eq!(rig.lanes(), 1);
}

#[test]
fn places_that_will_be_free_are_waited_for() {
    let (mut rig, lane) = Rig::with_lane(true);
    let name = |n: usize| StreamName::new(&format!("s{n}")).expect("a valid name");
    for n in 1..PUBLISHER_STREAMS {
        rig.machine.add_lane(&name(n)).expect("a place");
    }
    rig.machine.release(lane);
    assert_eq!(rig.machine.add_lane(&name(0)), None);
    assert!(rig.machine.awaits_places());
    while let Transmit::Bind(_) = rig.poll() {}
    rig.unbound(None);
    assert_eq!(rig.machine.add_lane(&name(0)), Some(lane));
    assert!(!rig.machine.awaits_places());
}

#[test]
fn a_publisher_binds_200_000_streams_in_its_life_and_keeps_none_of_them() {
    let mut rig = Rig::new(true);
    let kept = rig.lane("kept");
    for n in 0..200_000 {
        let name = StreamName::new(&format!("s{n}")).expect("a valid name");
        let lane = rig.machine.add_lane(&name).expect("a place");
        rig.bind(lane, 1);
        let used = n % 8 == 0;
        if used {
            rig.push(lane, b"x");
            rig.frame();
            rig.answer(vec![published(0, 1)]);
        }
        rig.machine.release(lane);
        assert_eq!(rig.unbind(), (vec![1], used));
        rig.unbound(None);
    }
    assert_eq!(rig.machine.lanes.counts(), (2, 1));
    let machine = &rig.machine;
    let lists = [machine.ready.capacity(), machine.unbound.len(), machine.leaving.capacity()];
    assert!(lists.iter().all(|capacity| *capacity < 16), "{lists:?}");
    assert_eq!((machine.left.len(), machine.rewinding.len(), machine.to_unbind.len()), (0, 0, 0));
    assert_eq!(rig.publish(kept, b"x"), 0);
}

#[test]
fn a_lane_leaves_every_queue_before_its_number_is_used_again() {
    let mut rig = Rig::new(true);
    let (a, b) = (rig.lane("a"), rig.lane("b"));
    rig.push(a, b"x");
    rig.frame();
    for _ in 0..2 {
        rig.push(b, &vec![7; FRAME_BYTES_WORTH]);
        rig.frame();
    }
    // It stands in the queue of those that send when its first message is refused, and no frame may
    // go out meanwhile.
    let (waiting, _) = rig.push(a, b"waiting");
    rig.answer(vec![refused(WireError::new(ErrorCode::InvalidHeader, ""))]);
    assert_eq!(result(&waiting), Some(Err(PublishError::OrderBroken)));
    rig.machine.release(a);
    assert_eq!(rig.unbind(), (vec![0], true));
    rig.unbound(None);
    let c = rig.lane("c");
    assert_eq!(c, a);
    // Were it there twice, it would have two batches in one frame.
    for _ in 0..2 {
        let draft = [RecordDraft { value: b"y", ..RecordDraft::default() }].into_iter();
        let options = BatchOptions { atomic: true, ..BatchOptions::default() };
        rig.machine.push_atomic(c, draft, 16, options).expect("taken");
    }
    rig.answer(vec![published(0, 1)]);
    assert_eq!(rig.frame().len(), 1);
}
