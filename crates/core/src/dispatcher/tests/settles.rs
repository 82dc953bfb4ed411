//! What counts of what members say (G-7, G-8, G-13).

use super::*;
use StaleReason::{AlreadySettled, Superseded, Unknown};

#[test]
fn what_is_said_is_proposed_in_one_piece_and_answered_in_order() {
    // G-13
    let mut desk = Desk::balanced().with(&[(ANN, 4), (BOB, 4)], 8);
    let expected = [
        deliver(ANN, 1, range(0, 1)),
        deliver(BOB, 2, range(1, 2)),
        deliver(ANN, 3, range(2, 3)),
        deliver(BOB, 4, range(3, 4)),
        deliver(ANN, 5, range(4, 5)),
        deliver(BOB, 6, range(5, 6)),
        deliver(ANN, 7, range(6, 7)),
        deliver(BOB, 8, range(7, 8)),
    ];
    assert_eq!(desk.hand_out(), expected);
    for (member, count, at) in [(ANN, 1, 0), (BOB, 2, 1), (BOB, 4, 3)] {
        assert_eq!(desk.settle(member, count, range(at, at + 1), SettleKind::Ack), []);
    }
    let acks = vec![GroupChange::Ack { epoch: 0, ranges: vec![range(0, 2), range(3, 4)] }];
    assert_eq!(desk.propose(), Some(acks.clone()));
    assert_eq!(desk.settle(ANN, 3, range(2, 3), SettleKind::Ack), []);
    // It is said at once, but behind what waits.
    let late = stale(ANN, 5, 1, range(9, 10), Unknown);
    assert_eq!(desk.settle(ANN, 1, range(9, 10), SettleKind::Ack), []);
    assert_eq!(desk.propose(), None, "one at a time");
    assert_eq!(desk.apply(1, acks), [answered(ANN, 1), answered(BOB, 3)]);
    assert_eq!(desk.commit(), [late]);
    assert_eq!(desk.replica.state.floor(), Offset(4));
    assert_eq!(desk.settle(ANN, 5, range(4, 5), SettleKind::Begin), [answered(ANN, 6)]);
}

#[test]
fn only_the_live_lease_or_the_last_one_counts() {
    // G-7
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 4))]);
    desk.settle(ANN, 1, range(0, 4), SettleKind::Begin);
    desk.advance(desk.dispatcher.ack_wait_us());
    let expired = fail(FailCause::Expired, vec![range(0, 4)]);
    // Before that is proposed it is taken back.
    desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    assert_eq!(desk.dispatcher.unsettled(), 3, "G-5");
    let rest = fail(FailCause::Expired, vec![range(1, 4)]);
    let changes = vec![GroupChange::Ack { epoch: 0, ranges: vec![range(0, 1)] }, rest];
    assert_ne!(changes[1], expired);
    assert_eq!(desk.propose(), Some(changes.clone()));
    desk.settle(ANN, 1, range(1, 2), SettleKind::Ack);
    let superseded = stale(ANN, 3, 1, range(1, 2), Superseded);
    assert_eq!(desk.apply(1, changes), [superseded]);
    // It has failed, and nobody has it: an ack counts, and no second failure.
    assert_eq!(desk.settle(ANN, 1, range(1, 2), SettleKind::Ack), []);
    assert_eq!(desk.settle(ANN, 1, range(2, 3), nack()), []);
    assert_eq!(desk.commit(), [answered(ANN, 5)]);
    assert_eq!(desk.replica.state.held(Offset(2)).map(|held| held.attempts), Some(1));
    desk.join(BOB, 1);
    assert_eq!(desk.hand_out()[0], retry(BOB, 2, range(2, 3), 2));
    // It was handed out again.
    let superseded = stale(ANN, 6, 1, range(2, 3), Superseded);
    assert_eq!(desk.settle(ANN, 1, range(2, 3), SettleKind::Ack), [superseded]);
    assert_eq!(desk.propose(), None);
}

#[test]
fn an_ack_that_the_end_of_its_message_overtakes_does_not_count() {
    // G-3, G-7, DL-3
    let dlq = DlqSpec { max_distance: 1, min_attempts: 1, ..DlqSpec::default() };
    let spec = GroupSpec { dlq, backoff_ms: vec![1_000], ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 9)], 9);
    desk.hand_out();
    // Two have expired and wait for their delay, while the group goes far ahead of them.
    desk.settle(ANN, 1, range(0, 2), SettleKind::Begin);
    desk.advance(desk.dispatcher.ack_wait_us());
    desk.commit();
    desk.settle(ANN, 1, range(2, 9), SettleKind::Ack);
    desk.commit();
    // Their delay is over, which is on its way, and an ack comes: nobody has them again, so it counts, if it
    // comes first.
    desk.advance(1_000_000);
    let due = desk.propose().expect("they are due");
    assert_eq!(due, [GroupChange::Due { offsets: vec![Offset(0), Offset(1)] }]);
    assert_eq!(desk.settle(ANN, 1, range(0, 2), SettleKind::Ack), []);
    let dying = [0, 1].map(|it| Effect::Dying { offset: Offset(it), generation: 0 });
    assert_eq!(desk.apply(1, due), dying);
    let changes = desk.propose().expect("an ack");
    assert_eq!(changes, [GroupChange::Ack { epoch: 0, ranges: vec![range(0, 2)] }]);
    assert!(desk.replica.state.bury(Offset(0), 0));
    desk.dispatcher.on_dead_letter(desk.now, Offset(0), 0, &mut desk.out);
    assert_eq!(desk.effects(), []);
    let settled = stale(ANN, 3, 1, range(0, 1), AlreadySettled);
    assert_eq!(desk.apply(1, changes), [settled]);
    assert_eq!(desk.replica.state.floor(), Offset(9));
    let again = stale(ANN, 4, 1, range(0, 1), AlreadySettled);
    assert_eq!(desk.settle(ANN, 1, range(0, 1), SettleKind::Ack), [again]);
    assert_eq!(desk.settle(ANN, 1, range(1, 2), SettleKind::Ack), [answered(ANN, 5)]);
}

#[test]
fn a_settle_that_is_repeated_is_settled_and_another_one_is_not() {
    // G-7
    let mut desk = Desk::balanced().with(&[(ANN, 9)], 9);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    desk.settle(ANN, 1, range(2, 3), SettleKind::Nack { delay_ms: Some(9_000), error: None });
    // Both while it is on its way, and when it is there.
    assert_eq!(desk.settle(ANN, 1, range(0, 1), SettleKind::Ack), []);
    assert_eq!(desk.commit(), [answered(ANN, 3)]);
    let repeated = [(range(0, 2), SettleKind::Ack), (range(2, 3), nack())];
    for (number, (range, kind)) in (4..).zip(repeated) {
        assert_eq!(desk.settle(ANN, 1, range, kind), [answered(ANN, number)]);
    }
    let already = stale(ANN, 6, 1, range(0, 2), AlreadySettled);
    assert_eq!(desk.settle(ANN, 1, range(0, 2), nack()), [already]);
    let already = stale(ANN, 7, 1, range(2, 3), AlreadySettled);
    assert_eq!(desk.settle(ANN, 1, range(2, 3), SettleKind::Ack), [already]);
    // By a lease that nobody has had.
    let unknown = stale(ANN, 8, 77, range(0, 2), AlreadySettled);
    assert_eq!(desk.settle(ANN, 77, range(0, 2), SettleKind::Ack), [unknown]);
    assert_eq!(desk.propose(), None);
}

#[test]
fn an_ack_that_counted_is_no_stale_one_where_its_lease_is_forgotten() {
    // G-7
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    desk.commit();
    desk.dispatcher.forget_past();
    assert_eq!(desk.settle(ANN, 1, range(0, 2), SettleKind::Ack), [answered(ANN, 2)]);
    let already = stale(ANN, 3, 1, range(0, 2), AlreadySettled);
    assert_eq!(desk.settle(ANN, 1, range(0, 2), nack()), [already]);
    assert_eq!(desk.propose(), None);
}

#[test]
fn a_part_that_is_stale_does_not_harm_the_others() {
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    let (lease, epoch) = (lease::lease_id(1, 1), 0);
    let ack = |range| Settle { lease, epoch, range, kind: SettleKind::Ack };
    let other = Settle { lease: lease + 1, ..ack(range(1, 3)) };
    assert_eq!(desk.say(ANN, vec![ack(range(0, 1)), other, ack(range(3, 6))]), []);
    let stale = vec![
        StaleSettle { lease: lease + 1, range: range(1, 3), reason: Superseded },
        StaleSettle { lease, range: range(4, 6), reason: Unknown },
    ];
    let answer = Effect::Settled { member: ANN, through: 1, stale };
    assert_eq!(desk.commit(), [answer]);
    assert!(desk.replica.state.is_done(Offset(3)) && !desk.replica.state.is_done(Offset(1)));
    // Of any range that somebody makes up.
    let made_up = ack(range(0, u64::MAX));
    desk.say(ANN, vec![made_up]);
    desk.commit();
    assert_eq!(desk.replica.state.floor(), Offset(4));
}

#[test]
fn time_runs_from_the_beginning_of_a_message() {
    // G-8
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    let wait = desk.dispatcher.ack_wait_us();
    desk.hand_out();
    let since = desk.now;
    desk.settle(ANN, 1, range(0, 2), SettleKind::Begin);
    assert_eq!(desk.dispatcher.next_deadline(), Some(since.plus_us(wait)));
    desk.advance(wait - 1);
    // Saying it again changes nothing; extending does, for what is named.
    desk.settle(ANN, 1, range(0, 2), SettleKind::Begin);
    desk.settle(ANN, 1, range(1, 2), SettleKind::Extend);
    desk.advance(1);
    assert_eq!(desk.propose(), Some(vec![fail(FailCause::Expired, vec![range(0, 1)])]));
    desk.apply(1, vec![fail(FailCause::Expired, vec![range(0, 1)])]);
    assert_eq!(desk.hand_out(), [retry(ANN, 2, range(0, 1), 2)]);
    // What has not begun comes back without an attempt, after a while.
    desk.settle(ANN, 1, range(1, 2), SettleKind::Ack);
    desk.commit();
    desk.advance(UNBEGUN_US_MAX - wait - 1);
    assert_eq!(desk.dispatcher.leased(), 3);
    desk.advance(1);
    assert_eq!((desk.dispatcher.leased(), desk.propose()), (1, None));
    assert_eq!(desk.dispatcher.wants(), Want::Fresh(Offset(2)));
    // Its application goes on with it, and nobody else has got it.
    assert_eq!(desk.settle(ANN, 1, range(2, 3), SettleKind::Begin), [answered(ANN, 5)]);
    assert_eq!(desk.dispatcher.wants(), Want::Fresh(Offset(3)));
    assert_eq!(desk.settle(ANN, 1, range(2, 3), SettleKind::Ack), []);
}

#[test]
fn no_lease_lasts_longer_than_twelve_hours() {
    // G-8
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 1);
    let since = desk.now;
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Begin);
    let step = desk.dispatcher.ack_wait_us() / 2;
    while desk.now.plus_us(step) < since.plus_us(LEASE_US_MAX) {
        desk.advance(step);
        desk.settle(ANN, 1, range(0, 1), SettleKind::Extend);
        assert_eq!(desk.dispatcher.leased(), 1);
    }
    assert_eq!(desk.dispatcher.next_deadline(), Some(since.plus_us(LEASE_US_MAX)));
    desk.advance(step);
    assert_eq!(desk.dispatcher.leased(), 0);
}

#[test]
fn after_a_reset_nothing_of_before_counts() {
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 8);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    let proposed = desk.propose().expect("acks");
    desk.settle(ANN, 1, range(2, 3), SettleKind::Ack);
    // The reset is applied before what was proposed.
    let reset = GroupChange::Reset { to: Offset(1), force: false };
    assert_eq!(desk.operator(reset), []);
    assert_eq!(desk.dispatcher.wants(), Want::Nothing, "nobody knows what the proposal finds");
    let stale = |start, end| {
        let (lease, range) = (lease::lease_id(1, 1), range(start, end));
        StaleSettle { lease, range, reason: Superseded }
    };
    let answer = |stale| Effect::Settled { member: ANN, through: 2, stale };
    assert_eq!(desk.apply(1, proposed), [answer(vec![stale(2, 3), stale(0, 2)])]);
    assert_eq!(desk.replica.state.floor(), Offset(1));
    let late = desk.settle(ANN, 1, range(3, 4), SettleKind::Ack);
    assert_eq!(late, [super::stale(ANN, 3, 1, range(3, 4), Unknown)]);
    desk.commit();
    assert_eq!(desk.hand_out(), [deliver(ANN, 2, range(1, 5))]);
    let late = desk.settle(ANN, 1, range(3, 4), SettleKind::Ack);
    assert_eq!(late, [super::stale(ANN, 4, 1, range(3, 4), Superseded)]);
}

#[test]
fn what_is_too_much_for_one_entry_is_said_in_two_and_answered_then() {
    // G-13
    let count = proposal::FAILURES_MAX as u64 + 1;
    let mut desk = Desk::balanced().with(&[(ANN, 999)], count);
    desk.hand_out();
    let settles = range(0, count).iter().map(|offset| {
        let error = Some(format!("failure {:04}", offset.0).into());
        let kind = SettleKind::Nack { delay_ms: None, error };
        Settle { lease: lease::lease_id(1, 1), epoch: 0, range: OffsetRange::single(offset), kind }
    });
    let settles = settles.collect();
    desk.say(ANN, settles);
    assert_eq!(desk.commit(), []);
    assert_eq!(desk.commit(), [answered(ANN, 1)]);
    assert_eq!(desk.replica.state.ready().count() as u64, count);
}

#[test]
fn an_ack_that_the_leader_before_has_taken_is_settled() {
    // G-7: its answer was lost, and nobody knows any more by which tag it was settled.
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    desk.settle(ANN, 1, range(2, 3), SettleKind::Reject { error: None });
    desk.commit();
    desk.replica.state.bury(Offset(2), 0);
    desk.change_leader();
    desk.join(ANN, 4);
    let lease = lease::lease_id(1, 1);
    let settle = |range, kind| Settle { lease, epoch: 0, range, kind };
    let again = desk.say(ANN, vec![settle(range(0, 2), SettleKind::Ack)]);
    assert_eq!(again, [answered(ANN, 3)]);
    // It was never nacked, a dead one never acked, and what was not presented has no lease.
    let settles = vec![
        settle(range(0, 1), nack()),
        settle(range(1, 4), SettleKind::Ack),
        settle(range(4, 5), SettleKind::Ack),
    ];
    let stale = |start, end, reason| StaleSettle { lease, range: range(start, end), reason };
    let stale = vec![
        stale(0, 1, AlreadySettled),
        stale(2, 3, AlreadySettled),
        stale(3, 4, Superseded),
        stale(4, 5, Unknown),
    ];
    assert_eq!(desk.say(ANN, settles), [Effect::Settled { member: ANN, through: 4, stale }]);
    // By a tag of a leader that is yet to come.
    let lease = lease::lease_id(9, 1);
    let made_up = Settle { lease, ..settle(range(0, 2), SettleKind::Ack) };
    let stale = vec![StaleSettle { lease, range: range(0, 2), reason: Unknown }];
    let answer = Effect::Settled { member: ANN, through: 5, stale };
    assert_eq!(desk.say(ANN, vec![made_up]), [answer]);
}

#[test]
fn an_ack_that_is_repeated_on_another_connection_is_answered_when_it_is_committed() {
    // G-3, G-13
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    desk.leave(ANN, Left::Lost);
    desk.join(BOB, 4);
    assert_eq!(desk.settle(BOB, 1, range(0, 1), SettleKind::Ack), [], "it waits");
    let acks = desk.propose().expect("an ack");
    desk.join(CID, 4);
    assert_eq!(desk.settle(CID, 1, range(0, 1), SettleKind::Ack), [], "it is on its way");
    assert_eq!(desk.apply(1, acks), [answered(BOB, 2), answered(CID, 3)]);
}

#[test]
fn what_is_given_up_when_its_time_is_over_cannot_be_acked_any_more() {
    // G-7, DL-3
    let dlq = DlqSpec { max_attempts: 1, ..DlqSpec::default() };
    let mut desk = Desk::new(GroupSpec { dlq, ..GroupSpec::default() }).with(&[(ANN, 4)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Begin);
    desk.advance(desk.dispatcher.ack_wait_us());
    assert_eq!(desk.commit(), [Effect::Dying { offset: Offset(0), generation: 0 }]);
    let settled = stale(ANN, 2, 1, range(0, 1), AlreadySettled);
    assert_eq!(desk.settle(ANN, 1, range(0, 1), SettleKind::Ack), [settled]);
    assert_eq!(desk.propose(), None);
}

#[test]
fn failures_that_wait_are_void_after_a_reset() {
    // G-5
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 8);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Begin);
    desk.advance(desk.dispatcher.ack_wait_us());
    assert_eq!(desk.dispatcher.unsettled(), 4);
    desk.operator(GroupChange::Reset { to: Offset(0), force: false });
    assert_eq!(desk.dispatcher.unsettled(), 0);
    // Nobody had said anything of these, so nobody is told that it does not count.
    let late = desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    assert_eq!(late, [stale(ANN, 2, 1, range(0, 1), Unknown)]);
}

/// Ann has had the one message, which died and was redriven.
fn redriven() -> Desk {
    let mut desk = Desk::balanced().with(&[(ANN, 3)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Reject { error: None });
    desk.commit();
    assert!(desk.replica.state.bury(Offset(0), 0));
    desk.dispatcher.on_dead_letter(desk.now, Offset(0), 0, &mut desk.out);
    desk.operator(GroupChange::Redrive { offsets: Vec::new() });
    desk
}

#[test]
fn what_was_redriven_and_comes_back_is_a_retry() {
    // G-5, DL-7: retries go on in a group that is stalled.
    let mut desk = redriven();
    desk.hand_out();
    desk.leave(ANN, Left::Drained);
    desk.join(BOB, 1);
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)));
}

#[test]
fn a_message_that_is_redriven_while_its_late_ack_is_on_its_way_is_not_handed_out() {
    // G-7, DL-7
    let dlq = DlqSpec { max_distance: 1, min_attempts: 1, ..DlqSpec::default() };
    let spec = GroupSpec { dlq, backoff_ms: vec![1_000], ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 9)], 9);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Begin);
    desk.advance(desk.dispatcher.ack_wait_us());
    desk.commit();
    desk.settle(ANN, 1, range(1, 9), SettleKind::Ack);
    desk.commit();
    desk.advance(SECOND);
    let due = desk.propose().expect("it is due");
    desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    desk.apply(1, due);
    let acks = desk.propose().expect("an ack");
    assert!(desk.replica.state.bury(Offset(0), 0));
    desk.dispatcher.on_dead_letter(desk.now, Offset(0), 0, &mut desk.out);
    desk.operator(GroupChange::Redrive { offsets: Vec::new() });
    assert_eq!(desk.dispatcher.wants(), Want::Nothing);
    assert_eq!(desk.apply(1, acks), [answered(ANN, 3)]);
    assert_eq!(desk.hand_out(), []);
}

#[test]
fn a_delay_that_is_no_more_does_not_end_the_next_one() {
    // G-11
    let spec = GroupSpec { backoff_ms: vec![5_000], ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 1)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Begin);
    desk.advance(desk.dispatcher.ack_wait_us());
    desk.commit();
    // It is rejected late, redriven, and fails once more.
    desk.settle(ANN, 1, range(0, 1), SettleKind::Reject { error: None });
    desk.commit();
    assert!(desk.replica.state.bury(Offset(0), 0));
    desk.dispatcher.on_dead_letter(desk.now, Offset(0), 0, &mut desk.out);
    desk.operator(GroupChange::Redrive { offsets: Vec::new() });
    desk.hand_out();
    desk.settle(ANN, 2, range(0, 1), SettleKind::Nack { delay_ms: Some(20_000), error: None });
    desk.commit();
    desk.advance(5 * SECOND);
    assert_eq!(desk.propose(), None);
    desk.advance(15 * SECOND);
    assert_eq!(desk.propose(), Some(vec![GroupChange::Due { offsets: vec![Offset(0)] }]));
}

#[test]
fn of_too_many_deliveries_that_are_over_the_acked_ones_are_forgotten_first() {
    // G-7
    let mut desk = Desk::balanced();
    let now = desk.now;
    let mut remember = |at: u64, fate| {
        let lease = Lease {
            id: 1,
            member: ANN,
            attempt: 1,
            generation: 0,
            begun: false,
            granted: now,
            deadline: now,
            sizes: lease::Sizes::Even(0),
        };
        desk.dispatcher.remember(&Ended { range: range(at, at + 1), bytes: 0, lease }, fate);
    };
    remember(0, Fate::Nacked);
    (1..=PAST_RUNS_MAX as u64).for_each(|at| remember(2 * at, Fate::Acked));
    let past: Vec<_> = desk.dispatcher.past.iter().map(|(range, _)| range).collect();
    assert_eq!(past, [range(0, 1)]);
}
