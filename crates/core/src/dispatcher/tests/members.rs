//! How members come and go (G-9, G-10, G-14, G-15).

use super::*;

fn presented(count: u64, range: OffsetRange, attempt: u32) -> PresentedLease {
    let lease = lease::lease_id(1, count);
    PresentedLease {
        lease,
        range,
        attempt,
        epoch: 0,
        generation: 0,
        begun: false,
        message_bytes: 10,
    }
}

/// The leases, as the member that has them, the name, the messages and whether they have begun.
fn leases(desk: &Desk) -> Vec<(MemberId, u64, OffsetRange, bool)> {
    let leases = desk.dispatcher.leases.iter();
    leases.map(|(range, it)| (it.member, it.id, range, it.begun)).collect()
}

#[test]
fn what_a_member_leaves_comes_back_at_once_and_counts_where_it_had_begun() {
    // G-9, G-10
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    desk.settle(ANN, 1, range(1, 3), SettleKind::Begin);
    desk.leave(ANN, Left::Lost);
    desk.join(BOB, 9);
    let expected = [deliver(BOB, 2, range(0, 1)), deliver(BOB, 3, range(3, 4))];
    assert_eq!(desk.hand_out(), expected);
    let failed = vec![fail(FailCause::Disconnected, vec![range(1, 3)])];
    assert_eq!(desk.propose(), Some(failed.clone()));
    desk.apply(1, failed);
    assert_eq!(desk.hand_out(), [retry(BOB, 4, range(1, 3), 2)]);
    // The late end of a connection that is no member any more, and what comes from it.
    assert_eq!(desk.leave(ANN, Left::Closed), []);
    assert_eq!(desk.settle(ANN, 1, range(0, 1), SettleKind::Ack), []);
    assert_eq!((desk.dispatcher.leased(), desk.propose()), (4, None));
    // Who was drained has not failed.
    desk.settle(BOB, 4, range(1, 3), SettleKind::Begin);
    desk.leave(BOB, Left::Drained);
    assert!(!desk.dispatcher.has_members());
    assert_eq!((desk.propose(), desk.dispatcher.leased()), (None, 0));
}

#[test]
fn who_drains_gives_back_what_has_not_begun_and_settles_the_rest() {
    // G-9
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    desk.settle(ANN, 1, range(1, 3), SettleKind::Begin);
    desk.dispatcher.on_drain(desk.now, ANN, &mut desk.out);
    assert_eq!((desk.effects(), desk.hand_out()), (vec![], vec![]));
    desk.join(BOB, 9);
    let expected = [deliver(BOB, 2, range(0, 1)), deliver(BOB, 3, range(3, 4))];
    assert_eq!(desk.hand_out(), expected);
    assert_eq!(desk.settle(ANN, 1, range(1, 2), SettleKind::Ack), []);
    assert_eq!(desk.settle(ANN, 1, range(2, 3), nack()), []);
    assert_eq!(desk.commit(), [answered(ANN, 3), Effect::Drained { member: ANN }]);
    assert_eq!(desk.hand_out(), [retry(BOB, 4, range(2, 3), 2)]);
    // Who goes meanwhile is told nothing more.
    desk.settle(BOB, 4, range(2, 3), SettleKind::Begin);
    desk.dispatcher.on_drain(desk.now, BOB, &mut desk.out);
    assert_eq!((desk.effects(), desk.leave(BOB, Left::Closed)), (vec![], vec![]));
    // Who has nothing is drained at once.
    desk.join(CID, 9);
    desk.dispatcher.on_drain(desk.now, CID, &mut desk.out);
    assert_eq!(desk.effects(), [Effect::Drained { member: CID }]);
}

#[test]
fn who_comes_back_to_another_leader_keeps_what_it_has() {
    // G-14
    let mut desk = Desk::balanced().with(&[(ANN, 4), (BOB, 4)], 4);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.settle(BOB, 2, range(1, 2), SettleKind::Ack);
    desk.commit();
    desk.change_leader();
    desk.publish(1);
    let begun = PresentedLease { begun: true, ..presented(3, range(2, 3), 1) };
    // The first was settled, of the second this is not the attempt it would be, the last was never sent.
    let old =
        [presented(2, range(1, 2), 1), presented(1, range(0, 1), 1), presented(5, range(4, 9), 1)];
    desk.present(ANN, 4, &[&old[..], &[begun]].concat());
    let kept = (ANN, begun.lease, begun.range, true);
    assert_eq!(leases(&desk), [kept]);
    // Another one that claims it, one of a term that is to come, and one with a name that is ours.
    let of_term =
        |term| PresentedLease { lease: lease::lease_id(term, 4), ..presented(4, range(3, 4), 1) };
    desk.present(BOB, 4, &[presented(9, range(2, 3), 1), of_term(3), of_term(2)]);
    assert_eq!(leases(&desk), [kept]);
    desk.commit();
    // Whatever somebody makes up.
    let all = |lease: u64, attempt| {
        let range = range(0, u64::MAX);
        PresentedLease { lease, range, attempt, ..presented(1, range, 1) }
    };
    desk.present(CID, 0, &[all(0, 1)]);
    desk.leave(CID, Left::Lost);
    desk.present(CID, 9, &[all(u64::MAX, 1), all(lease::lease_id(2, 1), 1), all(0, 9)]);
    assert_eq!(leases(&desk), [kept]);
    desk.leave(CID, Left::Lost);
    // Nobody else is given what may be out, and what was published since is.
    let fresh = |count, range, attempt| {
        let lease = lease::lease_id(2, count);
        let (epoch, generation) = (0, 0);
        Effect::Deliver { member: BOB, lease, range, attempt, epoch, generation }
    };
    assert_eq!(desk.hand_out(), [fresh(1, range(4, 5), 1)]);
    desk.advance(GRACE_US_MAX - 1);
    assert_eq!(desk.hand_out(), []);
    desk.advance(1);
    // The others were not presented, and no attempt is counted.
    let rest = desk.hand_out();
    assert_eq!(rest[1], fresh(3, range(3, 4), 1));
    assert!(matches!(rest[0], Effect::Deliver { member: ANN, attempt: 2, .. }));
    assert_eq!((rest.len(), leases(&desk).len()), (2, 4));
    // The time that it has begun anew.
    assert_eq!(desk.dispatcher.next_deadline(), Some(desk.now.plus_us(20 * SECOND)));
}

#[test]
fn there_is_no_grace_where_nobody_can_have_anything() {
    // G-14
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 2);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    desk.commit();
    desk.change_leader();
    assert_eq!(desk.dispatcher.next_deadline(), None);
    desk.publish(2);
    desk.join(ANN, 4);
    desk.commit();
    assert_eq!(desk.hand_out().len(), 1);
    // Nor where this leader has led for longer.
    desk.now = desk.now.plus_us(GRACE_US_MAX);
    let since = Time(desk.now.0 - GRACE_US_MAX);
    let mut out = Vec::new();
    desk.dispatcher = desk.replica.dispatcher(2, desk.now, since, &mut out);
    desk.join(BOB, 4);
    desk.commit();
    assert_eq!(desk.hand_out().len(), 1);
}

#[test]
fn who_reconnects_keeps_what_nobody_else_got_meanwhile() {
    // G-14
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    // The end of the old connection has not been seen yet.
    desk.present(BOB, 4, &[presented(1, range(0, 3), 1)]);
    assert_eq!(
        leases(&desk),
        [
            (BOB, lease::lease_id(1, 1), range(0, 3), false),
            (ANN, lease::lease_id(1, 1), range(3, 4), false),
        ]
    );
    desk.leave(ANN, Left::Lost);
    desk.leave(BOB, Left::Lost);
    desk.join(CID, 2);
    assert_eq!(desk.hand_out(), [deliver(CID, 2, range(0, 2))]);
    desk.present(ANN, 4, &[presented(1, range(0, 4), 1)]);
    let its = |range| (ANN, lease::lease_id(1, 1), range, false);
    assert_eq!(leases(&desk)[1..], [its(range(2, 3)), its(range(3, 4))]);
    // No more than its credit.
    desk.leave(ANN, Left::Lost);
    desk.present(BOB, 1, &[presented(1, range(0, 4), 1)]);
    assert_eq!(leases(&desk)[1..], [(BOB, lease::lease_id(1, 1), range(2, 3), false)]);
}

fn fetching(number: u64) -> Vec<Effect> {
    vec![Effect::Fetching { member: ANN, number }]
}

impl Desk {
    /// ANN asks for so much, and waits for it.
    fn fetch(&mut self, number: u64, messages: u64, bytes: u64) -> Vec<Effect> {
        let fetch = Fetch { number, messages, bytes, waits: true };
        self.dispatcher.on_fetch(self.now, ANN, fetch, &mut self.out);
        self.effects()
    }
}

#[test]
fn who_fetches_gets_what_it_asks_for() {
    // G-15
    let mut desk = Desk::balanced();
    desk.join(ANN, 9);
    assert_eq!(desk.fetch(1, 0, 0), fetching(1));
    desk.commit();
    desk.publish(9);
    assert_eq!(desk.hand_out(), []);
    assert_eq!(desk.fetch(2, 2, 1_000), fetching(2));
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 2))]);
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    assert_eq!(desk.hand_out(), []);
    // No more than its credit, however much it asks for.
    desk.fetch(3, u64::MAX, u64::MAX);
    desk.publish(9);
    assert_eq!(desk.hand_out(), [deliver(ANN, 2, range(2, 11))]);
    desk.settle(ANN, 2, range(2, 11), SettleKind::Ack);
    assert_eq!(desk.hand_out(), [deliver(ANN, 3, range(11, 18))]);
    // Of somebody who is gone.
    desk.leave(ANN, Left::Closed);
    assert_eq!(desk.fetch(4, 1, 1), []);
}

#[test]
fn what_is_left_of_a_fetch_ends_with_the_next_one() {
    // G-15
    let mut desk = Desk::balanced().with(&[(ANN, 9)], 2);
    desk.fetch(1, 5, 1_000);
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 2))]);
    // The application has begun with the first; the second was on its way when it gave up.
    desk.settle(ANN, 1, range(0, 1), SettleKind::Begin);
    assert_eq!(desk.fetch(2, 0, 0), fetching(2));
    desk.publish(2);
    assert_eq!(desk.hand_out(), []);
    desk.join(BOB, 9);
    // Nothing has failed.
    let expected = [deliver(BOB, 2, range(1, 2)), deliver(BOB, 3, range(2, 4))];
    assert_eq!((desk.hand_out(), desk.propose()), (expected.to_vec(), None));
    desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    assert_eq!(desk.commit(), [answered(ANN, 2)]);
}

#[test]
fn a_fetch_is_over_when_the_next_message_does_not_go_into_its_bytes() {
    // G-15
    let mut desk = Desk::balanced().with(&[(ANN, 9)], 6);
    let over = |number| Effect::Fetched { member: ANN, number };
    let size = |offset: Offset| if offset.0 == 3 { 500 } else { 10 };
    desk.fetch(1, 6, 25);
    let expected = [deliver(ANN, 1, range(0, 2)), over(1)];
    assert_eq!(desk.hand_out_sized(size), expected);
    // It is over, whatever fits.
    desk.settle(ANN, 1, range(0, 2), SettleKind::Ack);
    assert_eq!(desk.hand_out_sized(size), []);
    desk.fetch(2, 6, 25);
    assert_eq!(desk.hand_out_sized(size), [deliver(ANN, 2, range(2, 3)), over(2)]);
    // A larger one comes alone.
    desk.fetch(3, 6, 25);
    let expected = [deliver(ANN, 3, range(2, 3)), over(3)];
    assert_eq!(desk.hand_out_sized(size), expected, "it was not begun");
    desk.settle(ANN, 3, range(2, 3), SettleKind::Begin);
    desk.fetch(4, 6, 25);
    assert_eq!(desk.hand_out_sized(size), [deliver(ANN, 4, range(3, 4)), over(4)]);
}

#[test]
fn a_fetch_that_does_not_wait_ends_with_what_is_there() {
    // G-15
    let mut desk = Desk::balanced();
    desk.join(ANN, 9);
    let over = |number| vec![Effect::Fetched { member: ANN, number }];
    let no_wait = |desk: &mut Desk, number| {
        let fetch = Fetch { number, messages: 3, bytes: 1_000, waits: false };
        desk.dispatcher.on_fetch(desk.now, ANN, fetch, &mut desk.out);
        assert_eq!(desk.effects(), fetching(number));
    };
    no_wait(&mut desk, 1);
    assert_eq!(desk.hand_out(), over(1));
    desk.publish(2);
    no_wait(&mut desk, 2);
    // What is there can be handed out only when that is reserved.
    assert_eq!(desk.hand_out(), []);
    desk.commit();
    assert_eq!(desk.hand_out(), [vec![deliver(ANN, 1, range(0, 2))], over(2)].concat());
    assert_eq!(desk.hand_out(), []);
    // Whoever waits does not end, nor does one that has got all it wanted.
    desk.fetch(3, 9, 1_000);
    assert_eq!(desk.hand_out(), [deliver(ANN, 2, range(0, 2))]);
    desk.publish(1);
    no_wait(&mut desk, 4);
    assert!(!desk.hand_out().contains(&over(4)[0]));
}

#[test]
fn what_a_rewind_takes_back_is_fetched_once_more() {
    // G-15, X-3
    let mut desk = Desk::exclusive().with(&[(ANN, 9)], 0);
    desk.commit();
    desk.publish(9);
    desk.effects();
    desk.fetch(1, 3, 1_000);
    let fetched = |count, range, attempt| {
        let lease = lease::lease_id(1, count);
        Effect::Deliver { member: ANN, lease, range, attempt, epoch: 1, generation: 0 }
    };
    assert_eq!(desk.hand_out(), [fetched(1, range(0, 3), 1)]);
    let rewound = [Effect::Rewind { member: ANN, to: Offset(0), generation: 1 }];
    assert_eq!(desk.settle(ANN, 1, range(0, 1), nack()), rewound);
    assert_eq!((desk.hand_out(), desk.commit()), (vec![], vec![answered(ANN, 1)]));
    // The one that failed was fetched before.
    assert_eq!(desk.hand_out(), [fetched(2, range(0, 1), 2), fetched(3, range(1, 2), 1)]);
}

#[test]
fn what_was_delivered_before_a_redrive_is_not_leased_again() {
    // G-10, G-14: whatever becomes of it, no attempt counts that was made before.
    let mut desk = Desk::balanced().with(&[(ANN, 1)], 1);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Reject { error: None });
    desk.commit();
    desk.replica.state.bury(Offset(0), 0);
    desk.change_leader();
    desk.operator(GroupChange::Redrive { offsets: vec![] });
    assert_eq!(desk.dispatcher.state().held(Offset(0)).map(|it| it.generation), Some(1));
    desk.present(BOB, 1, &[presented(1, range(0, 1), 1)]);
    assert_eq!(desk.dispatcher.leased(), 0);
    let again = PresentedLease { generation: 1, ..presented(1, range(0, 1), 1) };
    desk.present(CID, 1, &[again]);
    assert_eq!(desk.dispatcher.leased(), 1);
}

#[test]
fn who_takes_the_place_of_another_in_the_same_term_takes_nothing_of_its_for_its_own() {
    // G-6, G-7, G-14
    let mut desk = Desk::balanced().with(&[(ANN, 4)], 4);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    desk.commit();
    desk.begin_anew();
    desk.join(BOB, 9);
    desk.commit();
    assert_eq!(desk.hand_out(), [], "they may be at a member");
    desk.present(ANN, 4, &[presented(1, range(1, 3), 1)]);
    assert_eq!(leases(&desk), [(ANN, lease::lease_id(1, 1), range(1, 3), false)]);
    // The ack that was taken, and one that was not.
    let answer = desk.settle(ANN, 1, range(0, 1), SettleKind::Ack);
    assert!(
        matches!(&answer[..], [Effect::Settled { stale, .. }] if stale.is_empty()),
        "{answer:?}"
    );
    desk.advance(GRACE_US_MAX);
    let id = lease::lease_id(1, 1_001);
    let rest = Effect::Deliver {
        member: BOB,
        lease: id,
        range: range(3, 4),
        attempt: 1,
        epoch: 0,
        generation: 0,
    };
    assert_eq!(desk.hand_out(), [rest], "no tag is used twice");
}

#[test]
fn members_may_come_back_for_as_long_as_the_group_waits_for_an_ack() {
    // G-14
    let spec = GroupSpec { ack_wait_ms: 2_000, ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 4)], 4);
    desk.hand_out();
    desk.change_leader();
    assert_eq!(desk.dispatcher.next_deadline(), Some(desk.now.plus_us(2 * SECOND)));
}

#[test]
fn nobody_comes_back_with_what_waits_for_its_delay_or_has_no_room() {
    // G-12, G-14
    let spec = GroupSpec { max_in_flight_bytes: 100, ..GroupSpec::default() };
    let mut desk = Desk::new(spec).with(&[(ANN, 4)], 4);
    desk.hand_out();
    let nack_in = |ms| SettleKind::Nack { delay_ms: Some(ms), error: None };
    desk.settle(ANN, 1, range(0, 1), nack_in(60_000));
    desk.commit();
    desk.change_leader();
    desk.present(BOB, 4, &[presented(2, range(0, 1), 2)]);
    assert_eq!(leases(&desk), []);
    // A large one alone is more than the group may have out, but not beside others.
    let large = |count, range| PresentedLease { message_bytes: 200, ..presented(count, range, 1) };
    desk.present(ANN, 4, &[large(1, range(1, 2))]);
    desk.present(CID, 4, &[large(1, range(2, 3))]);
    assert_eq!(leases(&desk), [(ANN, lease::lease_id(1, 1), range(1, 2), false)]);
}

#[test]
fn what_was_begun_and_is_taken_back_was_fetched() {
    // G-15, X-3
    let mut desk = Desk::exclusive().with(&[(ANN, 9)], 0);
    desk.commit();
    desk.publish(9);
    desk.fetch(1, 3, 1_000);
    desk.hand_out();
    desk.settle(ANN, 1, range(0, 2), SettleKind::Begin);
    desk.settle(ANN, 1, range(0, 1), nack());
    desk.commit();
    let ranges: Vec<_> = desk.hand_out().iter().filter_map(range_of).collect();
    assert_eq!(ranges, [range(0, 1)], "in place of the one that it has not seen");
}

fn range_of(effect: &Effect) -> Option<OffsetRange> {
    match effect {
        Effect::Deliver { range, .. } => Some(*range),
        _ => None,
    }
}

#[test]
fn a_fetch_whose_messages_could_not_be_sent_goes_on() {
    // G-15
    let mut desk = Desk::balanced().with(&[(ANN, 9)], 6);
    let over = Effect::Fetched { member: ANN, number: 1 };
    desk.fetch(1, 6, 25);
    assert_eq!(desk.hand_out(), [deliver(ANN, 1, range(0, 2)), over.clone()]);
    desk.dispatcher.on_unsent(ANN, range(0, 2));
    assert_eq!(desk.hand_out(), [], "there is no room on the way");
    desk.dispatcher.on_room(ANN, 1_000);
    assert_eq!(desk.hand_out(), [deliver(ANN, 2, range(0, 2)), over]);
}

#[test]
fn a_fetch_that_does_not_wait_waits_for_its_member_to_be_active() {
    // G-15, X-1
    let mut desk = Desk::exclusive();
    desk.publish(2);
    desk.join(ANN, 9);
    let reserve = GroupChange::Reserve { upto: Offset(1_000) };
    desk.apply(1, vec![reserve]);
    let fetch = Fetch { number: 1, messages: 3, bytes: 1_000, waits: false };
    desk.dispatcher.on_fetch(desk.now, ANN, fetch, &mut desk.out);
    assert_eq!((desk.effects(), desk.hand_out()), (fetching(1), vec![]));
    desk.commit();
    let told = desk.hand_out();
    assert_eq!(told.iter().filter_map(range_of).collect::<Vec<_>>(), [range(0, 2)]);
    assert_eq!(told.last(), Some(&Effect::Fetched { member: ANN, number: 1 }));
}
