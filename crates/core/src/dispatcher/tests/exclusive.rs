//! One active member, in strict order (X-1 … X-5).

use super::*;
use StaleReason::Fenced;

fn active(member: MemberId, epoch: u32) -> Effect {
    Effect::Active { member, epoch }
}

fn rewind(member: MemberId, to: u64, generation: u64) -> Effect {
    Effect::Rewind { member, to: Offset(to), generation }
}

fn sent(member: MemberId, count: u64, range: OffsetRange, attempt: u32, epoch: u32) -> Effect {
    let lease = lease::lease_id(1, count);
    Effect::Deliver { member, lease, range, attempt, epoch, generation: 0 }
}

fn nack_in(ms: u64) -> SettleKind {
    SettleKind::Nack { delay_ms: Some(ms), error: None }
}

/// Ann is active, Bob waits.
fn desk() -> Desk {
    let desk = Desk::exclusive().with(&[(ANN, 5), (BOB, 5)], 10);
    assert_eq!(desk.dispatcher.active(), Some(ANN));
    desk
}

#[test]
fn nobody_gets_anything_before_its_activation_is_committed() {
    //
    let mut desk = Desk::exclusive();
    desk.publish(10);
    // Who takes nothing is never active.
    assert_eq!(desk.join(CID, 0), []);
    assert_eq!(desk.propose(), Some(vec![GroupChange::Reserve { upto: Offset(1_000) }]));
    desk.apply(1, vec![GroupChange::Reserve { upto: Offset(1_000) }]);
    assert_eq!(desk.join(ANN, 5), []);
    assert_eq!(desk.join(BOB, 5), []);
    assert_eq!(desk.hand_out(), []);
    assert_eq!(desk.propose(), Some(vec![GroupChange::Activate]));
    assert_eq!(desk.hand_out(), []);
    assert_eq!(desk.apply(1, vec![GroupChange::Activate]), [active(ANN, 1)]);
    assert_eq!(desk.hand_out(), [sent(ANN, 1, range(0, 5), 1, 1)]);
    desk.settle(ANN, 1, range(0, 5), SettleKind::Ack);
    assert_eq!(desk.hand_out(), [sent(ANN, 2, range(5, 10), 1, 1)]);
}

#[test]
fn who_is_there_takes_the_epoch_of_one_that_was_to_be_active() {
    //
    let mut desk = Desk::exclusive();
    desk.join(ANN, 5);
    let proposed = desk.propose().expect("an activation");
    desk.join(BOB, 5);
    desk.leave(ANN, Left::Lost);
    assert_eq!(desk.apply(1, proposed), [active(BOB, 1)]);
    // Nobody is there to be active: the next one is activated anew.
    desk.leave(BOB, Left::Lost);
    assert_eq!(desk.propose(), None);
    desk.join(CID, 5);
    desk.leave(CID, Left::Lost);
    assert_eq!(desk.propose(), None, "no epoch is used up for nobody");
    desk.join(CID, 5);
    assert_eq!(desk.propose(), Some(vec![GroupChange::Activate]));
}

#[test]
fn nothing_behind_a_failed_message_is_delivered_before_it_is_settled() {
    //
    let mut desk = desk();
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    desk.settle(ANN, 1, range(0, 4), SettleKind::Begin);
    assert_eq!(desk.settle(ANN, 1, range(2, 3), nack_in(0)), [rewind(ANN, 2, 1)]);
    assert_eq!(desk.hand_out(), []);
    desk.commit();
    // 1 is still out; 3 and 4 come once more, and count as not tried.
    let again = [
        sent(ANN, 2, range(2, 3), 2, 1),
        sent(ANN, 3, range(3, 5), 1, 1),
        sent(ANN, 4, range(5, 6), 1, 1),
    ];
    assert_eq!(desk.hand_out(), again);
    // An ack that was under way when they were taken back.
    let late = desk.settle(ANN, 1, range(3, 4), SettleKind::Ack);
    let superseded = stale(ANN, 4, 1, range(3, 4), StaleReason::Superseded);
    assert_eq!(late, [superseded]);
    // One that is before others in the same request leads.
    let epoch = 1;
    let settle =
        |count, range, kind| Settle { lease: lease::lease_id(1, count), epoch, range, kind };
    let settles = vec![settle(3, range(4, 5), nack_in(0)), settle(2, range(2, 3), nack_in(0))];
    assert_eq!(desk.say(ANN, settles), [rewind(ANN, 2, 2)]);
}

#[test]
fn a_delay_pauses_the_group_and_an_ack_that_crosses_a_rewind_counts() {
    //
    let mut desk = desk();
    desk.hand_out();
    assert_eq!(desk.settle(ANN, 1, range(1, 2), nack_in(700)), [rewind(ANN, 1, 1)]);
    assert_eq!(desk.settle(ANN, 1, range(2, 3), SettleKind::Ack), []);
    let until = Timestamp(desk.replica.ts.0 + 700_000);
    let pause = Pause::Delayed { until };
    let paused = |member| Effect::Paused { member, pause };
    assert_eq!(desk.commit(), [answered(ANN, 2), paused(ANN), paused(BOB)]);
    assert_eq!(desk.hand_out(), []);
    assert_eq!(desk.join(CID, 5), [paused(CID)]);
    desk.advance(700_000);
    let unpaused = [ANN, BOB, CID].map(|member| Effect::Unpaused { member });
    assert_eq!(desk.commit(), unpaused);
    let again = [
        sent(ANN, 2, range(1, 2), 2, 1),
        sent(ANN, 3, range(3, 5), 1, 1),
        sent(ANN, 4, range(5, 6), 1, 1),
    ];
    assert_eq!(desk.hand_out(), again);
}

#[test]
fn a_message_that_is_given_up_blocks_until_it_is_dead() {
    // X-3, DL-3
    let mut desk = desk();
    desk.hand_out();
    let reject = SettleKind::Reject { error: None };
    assert_eq!(desk.settle(ANN, 1, range(0, 1), reject), [rewind(ANN, 0, 1)]);
    let dying = Effect::Dying { offset: Offset(0), generation: 0 };
    assert_eq!(desk.commit(), [dying, answered(ANN, 1)]);
    assert_eq!(desk.hand_out(), []);
    desk.replica.state.bury(Offset(0), 0);
    desk.dispatcher.on_dead_letter(desk.now, Offset(0), 0, &mut desk.out);
    assert_eq!(desk.hand_out(), [sent(ANN, 2, range(1, 5), 1, 1), sent(ANN, 3, range(5, 6), 1, 1)]);
}

#[test]
fn what_has_not_begun_for_too_long_is_delivered_again_in_order() {
    // X-3, G-8
    let mut desk = desk();
    desk.hand_out();
    desk.advance(UNBEGUN_US_MAX - 1);
    desk.settle(ANN, 1, range(3, 4), SettleKind::Begin);
    assert_eq!(desk.advance(1), [rewind(ANN, 0, 1)]);
    assert_eq!(desk.hand_out(), [sent(ANN, 2, range(0, 5), 1, 1)]);
    assert_eq!(desk.propose(), None, "none has failed");
}

#[test]
fn another_member_takes_over_at_once_and_the_old_epoch_is_fenced() {
    // G-10
    let mut desk = desk();
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Begin);
    desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    assert_eq!(desk.leave(ANN, Left::Lost), []);
    let failed = GroupChange::Fail {
        epoch: 1,
        ranges: vec![range(1, 2)],
        cause: FailCause::Disconnected,
        delay_ms: None,
        error: None,
    };
    let acked = GroupChange::Ack { epoch: 1, ranges: vec![range(0, 1)] };
    let changes = vec![acked, failed, GroupChange::Activate];
    assert_eq!(desk.propose(), Some(changes.clone()));
    // Fenced from here on, as the entry will be before whatever is said now.
    let fenced = stale(BOB, 3, 1, range(2, 3), Fenced);
    let epoch = 1;
    let settle = |kind| Settle { lease: lease::lease_id(1, 1), epoch, range: range(2, 3), kind };
    assert_eq!(desk.say(BOB, vec![settle(SettleKind::Ack)]), [fenced]);
    assert_eq!(desk.apply(1, changes), [active(BOB, 2)]);
    let again = [
        sent(BOB, 2, range(1, 2), 2, 2),
        sent(BOB, 3, range(2, 5), 1, 2),
        sent(BOB, 4, range(5, 6), 1, 2),
    ];
    assert_eq!(desk.hand_out(), again);
    let (lease, range) = (lease::lease_id(1, 3), range(2, 3));
    let by_old_epoch = Settle { lease, epoch, range, kind: SettleKind::Ack };
    assert_eq!(desk.say(BOB, vec![by_old_epoch]), [stale(BOB, 4, 3, range, Fenced)]);
    assert_eq!(desk.propose(), None);
}

impl Desk {
    fn hand_over(&mut self, to: Option<MemberId>) -> Result<(), HandOverRefused> {
        self.dispatcher.on_hand_over(self.now, to, &mut self.out)
    }
}

#[test]
fn an_operator_hands_over_when_what_is_out_is_settled() {
    //
    let mut desk = desk();
    desk.join(CID, 5);
    assert_eq!(desk.hand_out(), [sent(ANN, 1, range(0, 5), 1, 1)]);
    desk.settle(ANN, 1, range(0, 4), SettleKind::Ack);
    assert_eq!(desk.hand_over(Some(CID)), Ok(()));
    assert_eq!(desk.hand_out(), [], "nothing new for her");
    let settled = desk.settle(ANN, 1, range(4, 5), SettleKind::Ack);
    assert_eq!(settled, [Effect::Inactive { member: ANN }]);
    let acks = GroupChange::Ack { epoch: 1, ranges: vec![range(0, 5)] };
    assert_eq!(desk.propose(), Some(vec![acks.clone(), GroupChange::Activate]));
    let applied = desk.apply(1, vec![acks, GroupChange::Activate]);
    assert_eq!(applied, [active(CID, 2), answered(ANN, 2)]);
    // Not to itself, to nobody, or to who is not there.
    for to in [Some(CID), Some(MemberId(9))] {
        assert_eq!(desk.hand_over(to), Err(HandOverRefused::NobodyElse));
    }
    desk.leave(ANN, Left::Closed);
    desk.leave(BOB, Left::Closed);
    assert_eq!(desk.hand_over(None), Err(HandOverRefused::NobodyElse));
    desk.leave(CID, Left::Closed);
    desk.join(BOB, 5);
    assert_eq!(desk.hand_over(None), Err(HandOverRefused::NobodyActive));
    assert_eq!(Desk::balanced().hand_over(None), Err(HandOverRefused::NotExclusive));
}

#[test]
fn a_hand_over_waits_for_thirty_seconds_at_most() {
    // X-4, G-10
    let mut desk = desk();
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Begin);
    assert_eq!(desk.hand_over(None), Ok(()));
    desk.settle(ANN, 1, range(0, 1), SettleKind::Extend);
    assert_eq!(desk.advance(HAND_OVER_US - 1), []);
    assert_eq!(desk.hand_over(None), Ok(()), "asked again, it takes no longer");
    desk.settle(ANN, 1, range(0, 2), SettleKind::Extend);
    assert_eq!(desk.advance(1), [Effect::Inactive { member: ANN }]);
    assert_eq!(desk.commit(), [active(BOB, 2)]);
    assert_eq!(desk.hand_out(), [sent(BOB, 2, range(0, 5), 1, 2)], "no attempt is counted");
}

#[test]
fn a_member_that_drains_hands_over() {
    // X-5, G-9
    let mut desk = desk();
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Begin);
    desk.dispatcher.on_drain(desk.now, ANN, &mut desk.out);
    assert_eq!((desk.effects(), desk.hand_out()), (vec![], vec![]));
    let inactive = Effect::Inactive { member: ANN };
    assert_eq!(desk.settle(ANN, 1, range(0, 1), SettleKind::Ack), [inactive]);
    let drained = Effect::Drained { member: ANN };
    assert_eq!(desk.commit(), [active(BOB, 2), answered(ANN, 2), drained]);
    // With nobody to hand over to.
    desk.dispatcher.on_drain(desk.now, BOB, &mut desk.out);
    assert_eq!(desk.effects(), [Effect::Drained { member: BOB }]);
    desk.join(CID, 5);
    assert_eq!(desk.commit(), [active(CID, 3)]);
}

#[test]
fn the_active_member_comes_back_to_another_leader_and_goes_on() {
    // G-14, X-5
    let mut desk = desk();
    desk.hand_out();
    let presented = |epoch| PresentedLease {
        lease: lease::lease_id(1, 1),
        range: range(0, 5),
        attempt: 1,
        epoch,
        generation: 0,
        begun: false,
        message_bytes: 10,
    };
    desk.change_leader();
    // Somebody else is first, and the group waits a little for the one that was active.
    assert_eq!(desk.join(CID, 5), []);
    desk.commit();
    assert_eq!(desk.hand_out(), []);
    assert_eq!(desk.present(ANN, 5, &[presented(0)]), [], "it was of another epoch");
    desk.leave(ANN, Left::Lost);
    assert_eq!(desk.present(BOB, 5, &[presented(1)]), [active(BOB, 1)]);
    assert_eq!((desk.dispatcher.leased(), desk.propose()), (5, None));
    // The same connection once more, whose end nobody has seen yet.
    let again = desk.present(ANN, 5, &[presented(1)]);
    assert_eq!(again, [Effect::Inactive { member: BOB }, active(ANN, 1)]);
    assert_eq!(desk.dispatcher.leased(), 5);
    // And one that says so, and is not.
    let other = PresentedLease { lease: lease::lease_id(1, 9), ..presented(1) };
    assert_eq!(desk.present(MemberId(7), 5, &[other]), []);
    assert_eq!(desk.dispatcher.active(), Some(ANN));
    // Nobody comes back.
    desk.change_leader();
    desk.join(CID, 5);
    let reserve = desk.propose();
    assert!(!format!("{reserve:?}").contains("Activate"));
    desk.apply(3, reserve.unwrap_or_default());
    assert_eq!(desk.dispatcher.next_deadline(), Some(desk.now.plus_us(ACTIVATION_WAIT_US)));
    desk.advance(ACTIVATION_WAIT_US);
    assert_eq!(desk.commit(), [active(CID, 2)]);
    assert!(matches!(desk.hand_out()[0], Effect::Deliver { member: CID, attempt: 1, .. }));
}

#[test]
fn a_reset_takes_back_what_is_out() {
    let mut desk = desk();
    desk.hand_out();
    let reset = GroupChange::Reset { to: Offset(2), force: false };
    assert_eq!(desk.operator(reset), [rewind(ANN, 0, 1)]);
    assert_eq!(desk.hand_out(), [], "nothing is reserved any more");
    desk.commit();
    assert_eq!(desk.hand_out(), [sent(ANN, 2, range(2, 7), 1, 1)]);
}

#[test]
fn who_comes_back_gets_what_failed_before_what_it_had_behind_it() {
    // X-3, G-14
    let mut desk = desk();
    desk.leave(BOB, Left::Lost);
    assert_eq!(desk.hand_out(), [sent(ANN, 1, range(0, 5), 1, 1)]);
    desk.settle(ANN, 1, range(1, 2), nack_in(1_000));
    desk.commit();
    desk.hand_out();
    let behind = PresentedLease {
        lease: lease::lease_id(1, 1),
        range: range(0, 5),
        attempt: 1,
        epoch: 1,
        generation: 0,
        begun: false,
        message_bytes: 10,
    };
    desk.leave(ANN, Left::Lost);
    let back = desk.present(ANN, 5, &[behind]);
    assert_eq!(back[..2], [active(ANN, 1), rewind(ANN, 1, 2)], "{back:?}");
    assert_eq!((desk.dispatcher.leased(), desk.hand_out()), (1, vec![]));
}

#[test]
fn who_comes_back_to_another_leader_gets_what_is_behind_at_once() {
    // G-14, X-5: nobody else can have anything.
    let mut desk = desk();
    desk.hand_out();
    desk.change_leader();
    let has = PresentedLease {
        lease: lease::lease_id(1, 1),
        range: range(0, 2),
        attempt: 1,
        epoch: 1,
        generation: 0,
        begun: false,
        message_bytes: 10,
    };
    assert_eq!(desk.present(ANN, 5, &[has]), [active(ANN, 1)]);
    let behind = desk.hand_out();
    assert!(
        matches!(&behind[0], Effect::Deliver { range: it, .. } if *it == range(2, 5)),
        "{behind:?}"
    );
}
