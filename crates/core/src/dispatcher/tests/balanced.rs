//! Who gets which message, in a balanced group.

use super::*;

const DAN: MemberId = MemberId(4);

fn nack_in(ms: u64) -> SettleKind {
    SettleKind::Nack { delay_ms: Some(ms), error: None }
}

#[test]
fn a_batch_goes_out_in_a_handful_of_runs_to_all_members() {
    // G-6, G-12: nobody takes what others could, and every lease has a name of its own.
    let members = [(ANN, 1_000), (BOB, 1_000), (CID, 1_000), (DAN, 1_000)];
    let mut desk = Desk::new(GroupSpec { max_in_flight: 10_000, ..GroupSpec::default() });
    desk.replica.tail = Offset(2_000);
    desk = desk.with(&members, 0);
    desk.commit();
    assert_eq!(desk.dispatcher.wants(), Want::Fresh(Offset(0)));
    let bytes = vec![10; 1_000];
    let offered = OfferedRun { base: Offset(0), bytes: &bytes };
    assert_eq!(desk.dispatcher.assign(desk.now, &offered, &mut desk.out), 1_000);
    let expected = [
        deliver(ANN, 1, range(0, 250)),
        deliver(BOB, 2, range(250, 500)),
        deliver(CID, 3, range(500, 750)),
        deliver(DAN, 4, range(750, 1_000)),
    ];
    assert_eq!(desk.effects(), expected);
    // Who uses least of its credit is next, and of those who use as much who waits longest.
    desk.settle(CID, 3, range(500, 501), SettleKind::Ack);
    assert_eq!(desk.dispatcher.leased(), 999);
    desk.commit();
    let bytes = vec![10; 2];
    let offered = OfferedRun { base: Offset(1_000), bytes: &bytes };
    desk.dispatcher.assign(desk.now, &offered, &mut desk.out);
    let all = [desk.effects(), desk.hand_out()].concat();
    assert_eq!(all[0], deliver(CID, 5, range(1_000, 1_002)));
}

#[test]
fn due_retries_come_first_and_both_in_the_order_of_offsets() {
    let mut desk = Desk::balanced().with(&[(ANN, 3)], 10);
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 3))]);
    desk.settle(ANN, 1, range(2, 3), nack());
    desk.settle(ANN, 1, range(0, 1), nack());
    // While they are on their way the next ones go out.
    assert_eq!(desk.hand_out(), [deliver(ANN, 2, range(3, 5))]);
    assert_eq!(desk.commit(), [answered(ANN, 2)]);
    assert_eq!(desk.dispatcher.wants(), Want::Nothing, "no credit");
    desk.settle(ANN, 2, range(3, 5), SettleKind::Ack);
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)));
    let retries = [retry(ANN, 3, range(0, 1), 2), retry(ANN, 4, range(2, 3), 2)];
    assert_eq!(desk.hand_out(), retries);
}

#[test]
fn retries_of_one_attempt_are_one_run() {
    let mut desk = Desk::balanced().with(&[(ANN, 10)], 6);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 6), nack());
    desk.commit();
    assert_eq!(desk.hand_out(), [retry(ANN, 2, range(0, 6), 2)]);
    desk.settle(ANN, 2, range(2, 4), nack_in(0));
    desk.commit();
    desk.leave(ANN, Left::Closed);
    desk.join(BOB, 10);
    // The two in the middle have failed once more.
    let expected = [
        retry(BOB, 3, range(0, 2), 2),
        retry(BOB, 4, range(2, 4), 3),
        retry(BOB, 5, range(4, 6), 2),
    ];
    assert_eq!(desk.hand_out(), expected);
}

#[test]
fn who_failed_gets_it_again_only_if_nobody_else_can() {
    // G-11: at once for the first failure, to another member.
    let mut desk = Desk::balanced().with(&[(ANN, 9)], 1);
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 1))]);
    desk.join(BOB, 9);
    desk.publish(1);
    assert_eq!(desk.hand_out(), [deliver(BOB, 2, range(1, 2))]);
    // Bob uses more of his credit, and gets it all the same.
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    assert_eq!(desk.hand_out(), [retry(BOB, 3, range(0, 1), 2)]);
    desk.settle(BOB, 3, range(0, 1), nack_in(0));
    desk.commit();
    assert_eq!(desk.hand_out(), [retry(ANN, 4, range(0, 1), 3)]);
    desk.leave(BOB, Left::Closed);
    assert_eq!(desk.hand_out(), [deliver(ANN, 5, range(1, 2))]);
    desk.settle(ANN, 4, range(0, 1), nack_in(0));
    desk.commit();
    assert_eq!(desk.hand_out(), [retry(ANN, 6, range(0, 1), 4)]);
}

#[test]
fn a_retry_that_cannot_be_read_stands_aside() {
    let mut desk = Desk::balanced().with(&[(ANN, 2), (BOB, 2)], 2);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.settle(BOB, 2, range(1, 2), nack());
    desk.commit();
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)));
    desk.dispatcher.on_unreadable(desk.now, Offset(0));
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(1)));
    let again = desk.now.plus_us(UNREADABLE_US);
    assert_eq!(desk.dispatcher.next_deadline(), Some(again));
    desk.advance(UNREADABLE_US);
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)));

    // Unless it was acked late meanwhile (G-7).
    let mut desk = Desk::balanced().with(&[(ANN, 2)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Begin);
    desk.advance(desk.dispatcher.ack_wait_us());
    desk.commit();
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)));
    desk.dispatcher.on_unreadable(desk.now, Offset(0));
    assert_eq!(desk.settle(ANN, 1, range(0, 1), SettleKind::Ack), []);
    desk.advance(UNREADABLE_US);
    assert_eq!(desk.dispatcher.wants(), Want::Nothing);

    let mut desk = Desk::exclusive().with(&[(ANN, 9)], 2);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    desk.dispatcher.on_unreadable(desk.now, Offset(0));
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)), "X-3");
}

#[test]
fn what_is_new_goes_on_while_a_retry_is_being_read() {
    let mut desk = Desk::balanced().with(&[(ANN, 2), (BOB, 1)], 3);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)));
    desk.publish(1);
    desk.dispatcher.put_off_retries(true);
    assert_eq!(desk.dispatcher.wants(), Want::Fresh(Offset(3)));
    assert_eq!(desk.hand_out(), [deliver(ANN, 4, range(3, 4))]);
    desk.dispatcher.put_off_retries(false);
    assert_eq!(desk.dispatcher.wants(), Want::Nothing, "nobody has room");

    let mut desk = Desk::exclusive().with(&[(ANN, 9)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    desk.publish(1);
    desk.dispatcher.put_off_retries(true);
    assert_eq!(desk.dispatcher.wants(), Want::Retry(Offset(0)), "X-3");
}

#[test]
fn a_message_waits_for_its_delay_and_by_the_backoff() {
    // G-11
    let mut desk = Desk::balanced().with(&[(ANN, 9)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    desk.hand_out();
    desk.settle(ANN, 2, range(0, 1), nack());
    desk.commit();
    assert_eq!(desk.hand_out(), [], "the second failure waits a second");
    let due = desk.now.plus_us(SECOND);
    assert_eq!(desk.dispatcher.next_deadline(), Some(due));
    desk.advance(SECOND - 1);
    assert_eq!(desk.propose(), None);
    desk.advance(1);
    assert_eq!(desk.propose(), Some(vec![GroupChange::Due { offsets: vec![Offset(0)] }]));
    assert_eq!(desk.dispatcher.next_deadline(), None, "it is on its way");
    desk.apply(1, vec![GroupChange::Due { offsets: vec![Offset(0)] }]);
    assert_eq!(desk.hand_out(), [retry(ANN, 3, range(0, 1), 3)]);
}

#[test]
fn a_delay_ends_while_log_time_stands_still() {
    // G-11
    let spec = GroupSpec { backoff_ms: vec![1_000], ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 9)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    // The clock that stamps the log was set back.
    desk.now = desk.now.plus_us(SECOND);
    desk.advance(0);
    assert_eq!(desk.propose(), Some(vec![GroupChange::Due { offsets: vec![Offset(0)] }]));
    desk.apply(1, vec![GroupChange::Due { offsets: vec![Offset(0)] }]);
    assert_eq!(desk.hand_out(), [retry(ANN, 2, range(0, 1), 2)]);

    // Of the next leader, whose clock is the same, it lasts as long as is left by the log.
    desk.settle(ANN, 2, range(0, 1), nack());
    desk.commit();
    desk.now = desk.now.plus_us(SECOND / 2);
    desk.change_leader();
    assert_eq!(desk.dispatcher.next_deadline(), Some(desk.now.plus_us(SECOND)));
}

#[test]
fn nobody_has_more_than_its_credit_or_the_group_more_than_its_own() {
    // G-12
    let spec = GroupSpec { max_in_flight: 5, max_in_flight_bytes: 100, ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 3)], 10);
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 3))]);
    desk.join(BOB, 9);
    assert_eq!(desk.hand_out(), [deliver(BOB, 2, range(3, 5))]);
    desk.settle(BOB, 2, range(3, 5), SettleKind::Ack);
    // 30 of 100 bytes are out: one of 60 goes, a second does not, until there is room.
    let large = |_| 60;
    assert_eq!(desk.hand_out_sized(large), [deliver(BOB, 3, range(5, 6))]);
    assert_eq!(desk.dispatcher.wants(), Want::Nothing);
    desk.settle(BOB, 3, range(5, 6), SettleKind::Ack);
    assert_eq!(desk.dispatcher.wants(), Want::Fresh(Offset(6)));
    // One that is larger than everything goes when there is nothing else.
    assert_eq!(desk.hand_out_sized(|_| 1_000), []);
    desk.settle(ANN, 1, range(0, 3), SettleKind::Ack);
    assert_eq!(desk.hand_out_sized(|_| 1_000), [deliver(ANN, 4, range(6, 7))]);
    // Delayed ones do not count.
    desk.settle(ANN, 4, range(6, 7), nack_in(5_000));
    assert_eq!(desk.hand_out_sized(large), [deliver(BOB, 5, range(7, 8))]);
}

#[test]
fn nothing_is_handed_out_beyond_the_window_and_that_is_told_once() {
    // G-5
    let spec = GroupSpec { window: 8, ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 100)], 20);
    let stalled = Effect::Stalled { member: ANN, blocking: Offset(0) };
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 8)), stalled.clone()]);
    desk.settle(ANN, 1, range(1, 8), SettleKind::Ack);
    assert_eq!(desk.commit(), [answered(ANN, 1)]);
    assert_eq!(desk.hand_out(), []);
    assert_eq!(desk.join(BOB, 100), [Effect::Stalled { member: BOB, blocking: Offset(0) }]);
    // Retries go on.
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    assert_eq!(desk.hand_out(), [retry(BOB, 2, range(0, 1), 2)]);
    desk.settle(BOB, 2, range(0, 1), SettleKind::Ack);
    let resumed = |member| Effect::Resumed { member };
    assert_eq!(desk.commit(), [answered(BOB, 3), resumed(ANN), resumed(BOB)]);
    assert_eq!(desk.hand_out()[0], deliver(ANN, 3, range(8, 16)));
}

#[test]
fn nothing_new_is_handed_out_while_too_much_is_unsettled() {
    // G-5: leased, delayed, dying and parked ones, and those about to be.
    let spec = GroupSpec { max_unsettled: 4, ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 100)], 20);
    let told = desk.hand_out();
    let stalled = Effect::Stalled { member: ANN, blocking: Offset(0) };
    assert_eq!(told, [deliver(ANN, 1, range(0, 4)), stalled.clone()]);
    desk.settle(ANN, 1, range(0, 2), nack_in(1_000));
    assert_eq!(desk.hand_out(), []);
    desk.settle(ANN, 1, range(2, 3), SettleKind::Reject { error: None });
    desk.commit();
    assert_eq!(desk.hand_out(), []);
    let resumed = desk.settle(ANN, 1, range(3, 4), SettleKind::Ack);
    assert_eq!(resumed, [Effect::Resumed { member: ANN }]);
    assert_eq!(desk.hand_out(), [deliver(ANN, 2, range(4, 5)), stalled]);
}

#[test]
fn only_what_is_reserved_is_handed_out() {
    let mut desk = Desk::balanced();
    desk.join(ANN, 10);
    desk.publish(5);
    assert_eq!(desk.dispatcher.wants(), Want::Nothing);
    assert_eq!(desk.propose(), Some(vec![GroupChange::Reserve { upto: Offset(1_000) }]));
    assert_eq!(desk.dispatcher.wants(), Want::Nothing, "it is not committed");
    desk.apply(1, vec![GroupChange::Reserve { upto: Offset(1_000) }]);
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 5))]);
    assert_eq!(desk.propose(), None);
    // More is reserved when half of it is used, and more at a time where that was too slow.
    desk.settle(ANN, 1, range(0, 5), SettleKind::Ack);
    desk.commit();
    desk.join(BOB, 10_000);
    desk.publish(495);
    desk.hand_out();
    assert_eq!(desk.propose(), Some(vec![GroupChange::Reserve { upto: Offset(2_000) }]));
    desk.publish(1_000);
    let last = desk.hand_out().pop();
    assert!(matches!(last, Some(Effect::Deliver { range, .. }) if range.end == Offset(1_000)));
    desk.apply(1, vec![GroupChange::Reserve { upto: Offset(2_000) }]);
}

#[test]
fn a_paused_group_gets_nothing_and_settles_all_the_same() {
    // DL-9
    let mut desk = Desk::balanced().with(&[(ANN, 2)], 10);
    desk.hand_out();
    let pause = Pause::Operator;
    let paused = |member| Effect::Paused { member, pause };
    assert_eq!(desk.operator(GroupChange::Pause), [paused(ANN)]);
    assert_eq!(desk.operator(GroupChange::Pause), []);
    assert_eq!(desk.join(BOB, 2), [paused(BOB)]);
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    assert_eq!(desk.commit(), [answered(ANN, 1)]);
    assert_eq!(desk.dispatcher.wants(), Want::Nothing);
    let unpaused = [ANN, BOB].map(|member| Effect::Unpaused { member });
    assert_eq!(desk.operator(GroupChange::Resume), unpaused);
    assert_eq!(desk.dispatcher.wants(), Want::Fresh(Offset(2)));
}

#[test]
fn what_the_stream_has_lost_is_told_and_not_handed_out() {
    // G-2
    let mut desk = Desk::balanced().with(&[(ANN, 3)], 10);
    desk.hand_out();
    let removed = desk.operator(GroupChange::Removed { upto: Offset(5) });
    assert_eq!(removed, [Effect::Skipped { member: ANN, range: range(0, 5) }]);
    assert_eq!(desk.dispatcher.leased(), 0);
    let late = desk.settle(ANN, 1, range(0, 3), SettleKind::Ack);
    assert_eq!(late, [stale(ANN, 1, 1, range(0, 3), StaleReason::AlreadySettled)]);
    assert_eq!(desk.hand_out(), [deliver(ANN, 2, range(5, 8))]);
}

#[test]
fn an_operator_has_messages_delivered_once_more() {
    // DL-7
    let mut desk = Desk::balanced().with(&[(ANN, 3)], 3);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 3), SettleKind::Reject { error: Some("never".into()) });
    let dying = [0, 1, 2].map(|it| Effect::Dying { offset: Offset(it), generation: 0 });
    assert_eq!(desk.commit(), [&dying[..], &[answered(ANN, 1)]].concat());
    for offset in [0, 1, 2].map(Offset) {
        assert!(desk.replica.state.bury(offset, 0));
        desk.dispatcher.on_dead_letter(desk.now, offset, 0, &mut desk.out);
    }
    assert_eq!(desk.effects(), []);
    assert_eq!(desk.operator(GroupChange::Redrive { offsets: vec![range(1, 3)] }), []);
    let (lease, range) = (lease::lease_id(1, 2), range(1, 3));
    let (attempt, epoch, generation) = (1, 0, 1);
    let again = Effect::Deliver { member: ANN, lease, range, attempt, epoch, generation };
    assert_eq!(desk.hand_out(), [again]);
    desk.settle(ANN, 2, range, SettleKind::Ack);
    desk.commit();
    assert_eq!((desk.hand_out(), desk.replica.state.lag(Offset(3))), (vec![], 0));
}

#[test]
fn a_dead_letter_is_told_once_until_it_fails() {
    // DL-3
    let mut desk = Desk::balanced().with(&[(ANN, 3)], 3);
    desk.hand_out();
    desk.settle(ANN, 1, range(1, 2), SettleKind::Reject { error: None });
    let dying = Effect::Dying { offset: Offset(1), generation: 0 };
    assert_eq!(desk.commit(), [dying.clone(), answered(ANN, 1)]);
    assert_eq!(desk.advance(DEAD_LETTER_RETRY_US), []);
    desk.dispatcher.on_dead_letter_failed(desk.now, Offset(1));
    assert_eq!(desk.advance(DEAD_LETTER_RETRY_US - 1), []);
    assert_eq!(desk.advance(1), std::slice::from_ref(&dying));
    assert_eq!(desk.advance(DEAD_LETTER_RETRY_US), []);
    // Once it is dead nothing is told any more, though it dies once more.
    desk.dispatcher.on_dead_letter_failed(desk.now, Offset(1));
    assert!(desk.replica.state.bury(Offset(1), 0));
    desk.dispatcher.on_dead_letter(desk.now, Offset(1), 0, &mut desk.out);
    desk.operator(GroupChange::Redrive { offsets: vec![] });
    desk.hand_out();
    desk.settle(ANN, 2, range(1, 2), SettleKind::Reject { error: None });
    let dying = Effect::Dying { offset: Offset(1), generation: 1 };
    assert_eq!(desk.commit(), [dying.clone(), answered(ANN, 2)]);
    assert_eq!(desk.advance(DEAD_LETTER_RETRY_US), []);
    // Another leader starts again for all of them.
    assert_eq!(desk.change_leader(), [dying]);
}
