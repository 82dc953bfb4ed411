//! One phase after another, each introduced by why; then the state beside a naive model.

use bytes::BytesMut;
use railgun_types::{ByteCursor, DlqSpec, GroupMode};

use super::model::{Model, Status};
use super::*;
use crate::command::{FailCause, GroupChange};

const TERM: u64 = 3;

fn range(start: u64, end: u64) -> OffsetRange {
    OffsetRange::new(Offset(start), Offset(end))
}

fn ack(start: u64, end: u64) -> GroupChange {
    GroupChange::Ack { epoch: 0, ranges: vec![range(start, end)] }
}

fn nack(start: u64, end: u64) -> GroupChange {
    failed(range(start, end), FailCause::Nack, None)
}

fn failed(range: OffsetRange, cause: FailCause, delay_ms: Option<u64>) -> GroupChange {
    GroupChange::Fail { epoch: 0, ranges: vec![range], cause, delay_ms, error: None }
}

fn reject(start: u64, end: u64) -> GroupChange {
    GroupChange::Reject { epoch: 0, ranges: vec![range(start, end)], error: Some("no".into()) }
}

fn reserve(upto: u64) -> GroupChange {
    GroupChange::Reserve { upto: Offset(upto) }
}

fn due(offset: u64) -> GroupChange {
    GroupChange::Due { offsets: vec![Offset(offset)] }
}

/// A group, its settings and its time.
struct Group {
    state: GroupState,
    spec: GroupSpec,
    now_ms: i64,
}

impl Group {
    /// Begins with 0; 1,000 messages may be out.
    fn new(spec: GroupSpec) -> Self {
        let mut group = Self { state: GroupState::new(Offset(0)), spec, now_ms: 0 };
        group.applied(&reserve(1_000));
        group
    }

    fn balanced() -> Self {
        Self::new(GroupSpec::default())
    }

    fn said_in(&mut self, term: u64, change: &GroupChange) -> ChangeOutcome {
        let log_time = Timestamp(self.now_ms * 1_000);
        let context = Context { spec: &self.spec, said_in: term, term: TERM, log_time };
        let outcome = self.state.apply(change, &context);
        assert!(self.state.is_sound(), "{change:?}");
        outcome
    }

    fn apply(&mut self, change: &GroupChange) -> ChangeOutcome {
        self.said_in(TERM, change)
    }

    fn applied(&mut self, change: &GroupChange) {
        assert_eq!(self.apply(change), ChangeOutcome::Applied, "{change:?}");
    }

    fn effects(&mut self, change: &GroupChange) -> ChangeEffects {
        match self.apply(change) {
            ChangeOutcome::Effects(effects) => *effects,
            other => panic!("{change:?}: {other:?}"),
        }
    }

    /// Which are dying by it.
    fn dying(&mut self, change: &GroupChange) -> Vec<u64> {
        let outcome = self.apply(change);
        let dying = outcome.effects().map(|it| it.dying.clone()).unwrap_or_default();
        dying.iter().map(|(offset, _)| offset.0).collect()
    }

    fn state_of(&self, offset: u64) -> Option<HeldState> {
        self.state.held(Offset(offset)).map(|held| held.state)
    }

    fn attempts(&self, offset: u64) -> u32 {
        self.state.held(Offset(offset)).map_or(0, |held| held.attempts)
    }

    fn ready(&self) -> Vec<u64> {
        self.state.ready().map(|offset| offset.0).collect()
    }
}

fn with_dlq(dlq: DlqSpec) -> GroupSpec {
    GroupSpec { dlq, ..GroupSpec::default() }
}

#[test]
fn the_floor_is_behind_what_is_settled_without_a_gap() {
    // G-1
    let mut group = Group::balanced();
    group.applied(&ack(2, 4));
    group.applied(&ack(6, 7));
    assert_eq!((group.state.floor(), group.state.highest_acked()), (Offset(0), Some(Offset(6))));
    let done: Vec<_> = (0..8).filter(|offset| group.state.is_done(Offset(*offset))).collect();
    assert_eq!(done, [2, 3, 6]);
    group.applied(&ack(0, 2));
    assert_eq!(group.state.floor(), Offset(4));
    group.applied(&ack(4, 6));
    assert_eq!((group.state.floor(), group.state.highest_acked()), (Offset(7), Some(Offset(6))));
    // What has failed keeps the floor; what is behind it may go on.
    group.applied(&nack(7, 8));
    group.applied(&ack(8, 10));
    assert_eq!((group.state.floor(), group.state.lag(Offset(12))), (Offset(7), 3));
    assert_eq!(group.state.next_pending(Offset(0)), Offset(10));
    assert_eq!(group.state.pending_run(Offset(0), 5), range(10, 15));
    group.applied(&ack(12, 13));
    assert_eq!(group.state.pending_run(Offset(3), 5), range(10, 12));
    group.applied(&nack(11, 12));
    assert_eq!(group.state.pending_run(Offset(3), 5), range(10, 11));
    assert_eq!(group.state.pending_run(Offset(11), 5), range(13, 18));
}

#[test]
fn what_is_settled_stays_so_whatever_comes_late() {
    // G-3, G-7
    let mut group = Group::balanced();
    group.applied(&ack(0, 4));
    group.applied(&ack(6, 8));
    let known = group.state.clone();
    let already =
        |ranges: &[OffsetRange]| ChangeEffects { already: ranges.to_vec(), ..Default::default() };
    assert_eq!(group.effects(&ack(0, 4)), already(&[range(0, 4)]));
    assert_eq!(group.effects(&nack(2, 4)), already(&[range(2, 4)]));
    assert_eq!(group.effects(&reject(7, 8)), already(&[range(7, 8)]));
    assert_eq!(group.state, known);
    // Some of them were, and some were not.
    assert_eq!(group.effects(&ack(2, 10)), already(&[range(2, 4), range(6, 8)]));
    assert_eq!(group.state.floor(), Offset(10));
    // Nothing is settled that was not handed out.
    let unknown = ChangeEffects { unknown: vec![range(1_000, 1_002)], ..Default::default() };
    assert_eq!(group.effects(&ack(999, 1_002)), unknown);
    assert_eq!(group.effects(&nack(1_000, 1_002)), unknown);
    assert!(group.state.is_done(Offset(999)) && !group.state.is_done(Offset(1_000)));
}

#[test]
fn failures_are_counted_and_what_follows_them_waits_longer_and_longer() {
    // G-10, G-11
    let dlq = DlqSpec { max_attempts: 0, max_distance: 0, ..DlqSpec::default() };
    let backoff_ms = vec![0, 10, 20];
    let mut group = Group::new(GroupSpec { backoff_ms, ..with_dlq(dlq) });
    let delayed = |ms: i64| Some(HeldState::Delayed { until: Timestamp(ms * 1_000) });
    let causes = [FailCause::Nack, FailCause::Expired, FailCause::Disconnected, FailCause::Nack];
    let mut states = Vec::new();
    for (attempts, cause) in (1..).zip(causes) {
        group.applied(&failed(range(5, 6), cause, None));
        assert_eq!(group.attempts(5), attempts);
        states.push(group.state_of(5));
        // A late word about the same delivery is no other failure.
        if group.state_of(5) != Some(HeldState::Ready) {
            group.effects(&failed(range(5, 6), FailCause::Expired, None));
            assert_eq!(group.attempts(5), attempts);
        }
        group.applied(&due(5));
        assert_eq!(group.ready(), [5]);
    }
    assert_eq!(states, [Some(HeldState::Ready), delayed(10), delayed(20), delayed(20)]);
    // The consumer knows better.
    group.now_ms = 100;
    group.applied(&failed(range(5, 6), FailCause::Nack, Some(7)));
    assert_eq!(group.state_of(5), delayed(107));
    group.applied(&due(5));
    group.applied(&failed(range(5, 6), FailCause::Nack, Some(0)));
    assert_eq!(group.ready(), [5]);
    group.applied(&ack(5, 6));
    assert_eq!((group.state_of(5), group.state.held_iter().count()), (None, 0));
}

#[test]
fn what_waits_is_counted() {
    // G-5
    let mut group = Group::balanced();
    group.applied(&failed(range(0, 3), FailCause::Nack, Some(10)));
    group.applied(&nack(3, 5));
    assert_eq!(group.dying(&reject(5, 6)), [5]);
    group.spec.dlq.enabled = false;
    assert_eq!(group.effects(&reject(6, 8)).parked, [Offset(6), Offset(7)]);
    let unsettled = Unsettled { delayed: 3, dying: 1, parked: 2 };
    assert_eq!((group.state.unsettled_held(), unsettled.total()), (unsettled, 6));
    assert_eq!(group.ready(), [3, 4]);
}

#[test]
fn a_late_ack_counts_while_nobody_else_has_the_message() {
    // G-7
    let mut group = Group::balanced();
    group.applied(&failed(range(0, 2), FailCause::Expired, Some(10)));
    group.applied(&ack(0, 1));
    assert_eq!((group.state.floor(), group.state.unsettled_held().delayed), (Offset(1), 1));
    assert_eq!(group.dying(&reject(1, 2)), [1], "also a late word that it will never do");
    // Its dead letter is not written then.
    group.applied(&ack(1, 2));
    assert!(!group.state.bury(Offset(1), 0));
    assert_eq!((group.state.floor(), group.state.dead().len()), (Offset(2), 0));
}

#[test]
fn a_dispatcher_that_is_not_the_leaders_any_more_changes_nothing() {
    //
    let mut group = Group::balanced();
    let known = group.state.clone();
    let stale = ChangeOutcome::Refused(ChangeRefused::Stale { term: TERM });
    let changes =
        [ack(0, 1), nack(0, 1), reject(0, 1), due(0), reserve(5_000), GroupChange::Activate];
    for change in &changes {
        assert_eq!(group.said_in(TERM - 1, change), stale, "{change:?}");
        assert_eq!(group.said_in(0, change), stale, "an operator is no dispatcher: {change:?}");
    }
    assert_eq!(group.state, known);
    assert_eq!(group.said_in(0, &GroupChange::Pause), ChangeOutcome::Applied);
    assert_eq!(group.state.paused(), Some(Paused::Operator));
    assert_eq!(group.said_in(0, &GroupChange::Resume), ChangeOutcome::Applied);
    assert_eq!(group.state, known);
}

#[test]
fn only_the_active_member_of_an_exclusive_group_can_settle() {
    //
    let mut group = Group::new(GroupSpec { mode: GroupMode::Exclusive, ..GroupSpec::default() });
    group.applied(&GroupChange::Activate);
    group.applied(&GroupChange::Activate);
    assert_eq!(group.state.epoch(), 2);
    let known = group.state.clone();
    let of = |epoch| GroupChange::Ack { epoch, ranges: vec![range(0, 1)] };
    for epoch in [0, 1, 3] {
        let fenced = ChangeOutcome::Refused(ChangeRefused::Fenced { epoch: 2 });
        assert_eq!(group.apply(&of(epoch)), fenced);
    }
    for change in [nack(0, 1), reject(0, 1)] {
        assert!(group.apply(&change).refused().is_some(), "{change:?}");
    }
    assert_eq!(group.state, known);
    group.applied(&of(2));
    assert_eq!(group.state.floor(), Offset(1));
    // A balanced group looks at no epoch, and has no active member.
    let mut group = Group::balanced();
    group.applied(&of(7));
    let refused = ChangeOutcome::Refused(ChangeRefused::NotExclusive);
    assert_eq!(group.apply(&GroupChange::Activate), refused);
}

#[test]
fn a_message_that_fails_far_behind_what_is_acked_is_given_up() {
    // DL-1
    let dlq = DlqSpec { max_distance: 10, max_attempts: 0, ..DlqSpec::default() };
    let mut group = Group::new(GroupSpec { backoff_ms: vec![0], ..with_dlq(dlq) });
    // However far others have got it, if they have not acked it.
    assert_eq!(group.dying(&nack(0, 1)), [0; 0]);
    group.applied(&ack(10, 11));
    assert_eq!(group.dying(&nack(0, 1)), [0; 0], "not more than so far");
    assert_eq!(group.attempts(0), 2);
    // A lagging one is tried once more, so its first failure there is none that counts.
    group.applied(&ack(12, 13));
    assert_eq!(group.dying(&failed(range(1, 2), FailCause::Expired, Some(5))), [0; 0]);
    // Nothing cuts a delivery short, and what waits for its delay is judged when that is over.
    let reason = HeldState::Dying { reason: DeathReason::Distance };
    assert_eq!(group.dying(&failed(range(0, 1), FailCause::Nack, Some(5))), [0]);
    assert_eq!(group.state_of(0), Some(reason));
    group.applied(&due(1));
    assert_eq!(group.ready(), [1]);
    assert_eq!(group.dying(&failed(range(2, 3), FailCause::Nack, Some(5))), [0; 0]);
    group.applied(&due(2));
    assert_eq!(group.dying(&failed(range(2, 3), FailCause::Nack, Some(5))), [0; 0]);
    group.applied(&ack(13, 14));
    assert_eq!(group.dying(&due(2)), [2]);
    // Off.
    group.spec.dlq.max_distance = 0;
    assert_eq!(group.dying(&nack(1, 2)), [0; 0]);
}

#[test]
fn a_message_is_given_up_after_so_many_failures_or_so_long_or_when_it_is_rejected() {
    // DL-2
    let dlq = DlqSpec { max_attempts: 3, max_age_ms: 100, ..DlqSpec::default() };
    let mut group = Group::new(GroupSpec { backoff_ms: vec![0], ..with_dlq(dlq) });
    assert_eq!([nack(0, 1), nack(0, 1)].map(|it| group.dying(&it).len()), [0, 0]);
    assert_eq!(group.dying(&nack(0, 1)), [0]);
    assert_eq!(group.dying(&nack(1, 2)), [0; 0]);
    group.now_ms = 100;
    assert_eq!(group.dying(&nack(2, 3)), [0; 0]);
    group.now_ms = 101;
    assert_eq!(group.dying(&nack(1, 3)), [1]);
    assert_eq!(group.dying(&reject(3, 5)), [3, 4]);
    let reasons = [0, 1, 3].map(|offset| group.state_of(offset));
    let dying = |reason| Some(HeldState::Dying { reason });
    let wanted = [DeathReason::Attempts, DeathReason::Age, DeathReason::Rejected].map(dying);
    assert_eq!(reasons, wanted);
    let rejected = group.state.held(Offset(3)).expect("it is dying");
    assert_eq!((rejected.attempts, rejected.error.as_deref()), (1, Some("no")));
}

#[test]
fn without_dead_letters_what_is_given_up_waits_for_an_operator() {
    // DL-2
    let mut group = Group::new(with_dlq(DlqSpec { enabled: false, ..DlqSpec::default() }));
    assert_eq!(group.effects(&reject(1, 4)).parked, [Offset(1), Offset(2), Offset(3)]);
    assert!(group.state.is_done(Offset(1)));
    group.applied(&ack(0, 1));
    assert_eq!(group.state.floor(), Offset(4), "it does not keep the floor");
    assert_eq!(group.state.parked_in(range(0, u64::MAX)).count(), 3);
    // Whoever had them cannot settle them any more.
    assert_eq!(group.effects(&ack(1, 2)).already, [range(1, 2)]);
    assert_eq!(group.effects(&GroupChange::Discard { offsets: vec![range(0, 2)] }).messages, 1);
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: vec![range(2, 3)] }).messages, 1);
    assert_eq!((group.ready(), group.state.lag(Offset(4))), (vec![2], 1));
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: vec![] }).messages, 1, "all");
    assert_eq!((group.ready(), group.state.parked_in(range(0, u64::MAX)).count()), (vec![2, 3], 0));
    assert_eq!((group.state.floor(), group.state.lag(Offset(4))), (Offset(4), 2));
}

#[test]
fn what_was_discarded_is_not_redriven_any_more() {
    // DL-7
    let mut group = Group::balanced();
    group.apply(&reject(0, 3));
    for offset in 0..3 {
        assert!(group.state.bury(Offset(offset), 0));
    }
    let discard = |offsets| GroupChange::Discard { offsets };
    assert_eq!(group.effects(&discard(vec![range(1, 2)])).messages, 1);
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: vec![range(0, 2)] }).messages, 1);
    assert_eq!(group.ready(), [0]);
    assert_eq!(group.effects(&discard(vec![])).messages, 1, "all that are dead");
    assert_eq!((group.state.dead().len(), group.state.is_done(Offset(2))), (0, true));
}

#[test]
fn a_dead_letter_is_written_once() {
    // DL-3
    let mut group = Group::balanced();
    assert_eq!(group.dying(&reject(0, 1)), [0]);
    assert_eq!(group.state.dying().collect::<Vec<_>>(), [(Offset(0), 0)]);
    assert!(!group.state.bury(Offset(0), 1), "of another generation");
    assert!(!group.state.bury(Offset(1), 0), "it is not dying");
    assert_eq!(group.state.floor(), Offset(0), "it keeps the floor");
    assert!(group.state.bury(Offset(0), 0));
    assert!(!group.state.bury(Offset(0), 0), "once more");
    assert_eq!((group.state.floor(), group.state.dead().len()), (Offset(1), 1));
    assert_eq!(group.effects(&ack(0, 1)).already, [range(0, 1)]);
}

#[test]
fn redriven_messages_are_pending_again_without_a_past() {
    // DL-7
    let dlq = DlqSpec { max_distance: 10, ..DlqSpec::default() };
    let mut group = Group::new(GroupSpec { backoff_ms: vec![0], ..with_dlq(dlq) });
    let redrive = |ranges: &[OffsetRange]| GroupChange::Redrive { offsets: ranges.to_vec() };
    assert_eq!(group.dying(&reject(0, 3)), [0, 1, 2]);
    (0..3).for_each(|offset| assert!(group.state.bury(Offset(offset), 0)));
    group.applied(&ack(3, 500));
    group.now_ms = 50;
    assert_eq!(group.effects(&redrive(&[range(1, 400)])).messages, 2);
    // The floor stays, and they are below.
    let redriven = group.state.held(Offset(1)).expect("pending again").clone();
    assert_eq!((redriven.attempts, redriven.generation, redriven.error), (0, 1, None));
    assert_eq!((group.state.floor(), group.state.lag(Offset(500))), (Offset(500), 2));
    assert!(!group.state.is_done(Offset(1)) && group.state.is_done(Offset(0)));
    assert_eq!((group.ready(), group.state.next_pending(Offset(0))), (vec![1, 2], Offset(500)));
    // They are far behind, and do not die of that.
    assert_eq!([nack(1, 3), nack(1, 3), nack(1, 3)].map(|it| group.dying(&it).len()), [0; 3]);
    group.applied(&ack(2, 3));
    assert_eq!(group.state.highest_acked(), Some(Offset(499)));
    assert_eq!(group.effects(&ack(2, 3)).already, [range(2, 3)]);
    // One dies again, in its new generation, and once more.
    assert_eq!(group.effects(&reject(1, 2)).dying, [(Offset(1), 1)]);
    assert!(!group.state.bury(Offset(1), 0), "of the first time");
    assert!(group.state.bury(Offset(1), 1));
    assert_eq!((group.state.generation(Offset(1)), group.state.lag(Offset(500))), (1, 0));
    assert_eq!(group.effects(&redrive(&[])).messages, 2, "all that are dead");
    let generations = [0, 1].map(|offset| group.state.generation(Offset(offset)));
    assert_eq!((generations, group.state.dead().len()), ([1, 2], 0));
    assert_eq!(group.apply(&redrive(&[])), ChangeOutcome::Applied, "there are none");
}

#[test]
fn a_redriven_message_above_the_floor_keeps_it() {
    // DL-7
    let mut group = Group::balanced();
    assert_eq!(group.dying(&reject(5, 6)), [5]);
    assert!(group.state.bury(Offset(5), 0));
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: vec![range(5, 6)] }).messages, 1);
    group.applied(&ack(0, 5));
    group.applied(&ack(6, 10));
    assert_eq!(group.state.floor(), Offset(5));
    group.applied(&ack(5, 6));
    assert_eq!(group.state.floor(), Offset(10));
}

#[test]
fn an_endless_number_of_messages_is_redriven_in_parts() {
    let mut group = Group::balanced();
    let messages = railgun_types::limits::REDRIVEN_PER_CHANGE + 10;
    group.applied(&reserve(messages));
    (group.state.floor, group.state.dead) =
        (Offset(messages), [range(0, messages)].into_iter().collect());
    let all = GroupChange::Redrive { offsets: Vec::new() };
    assert_eq!(
        [(); 3].map(|()| group.apply(&all).effects().map_or(0, |it| it.messages)),
        [messages - 10, 10, 0]
    );
}

#[test]
fn lowered_limits_hold_from_the_next_failure_or_the_end_of_the_delay_on() {
    // DL-8
    let mut group = Group::new(GroupSpec { backoff_ms: vec![0], ..GroupSpec::default() });
    for _ in 0..3 {
        assert_eq!(group.dying(&nack(0, 1)), [0; 0]);
        assert_eq!(group.dying(&failed(range(1, 2), FailCause::Nack, Some(5))), [0; 0]);
        assert_eq!(group.dying(&due(1)), [0; 0]);
    }
    assert_eq!(group.dying(&failed(range(2, 3), FailCause::Nack, Some(5))), [0; 0]);
    assert_eq!(group.dying(&failed(range(1, 2), FailCause::Nack, Some(5))), [0; 0]);
    group.spec.dlq.max_attempts = 2;
    assert_eq!(group.ready(), [0], "nothing happens to it by itself");
    assert_eq!(group.dying(&due(1)), [1]);
    assert_eq!(group.dying(&due(2)), [0; 0], "it has failed once");
    assert_eq!(group.dying(&nack(0, 1)), [0]);
}

#[test]
fn a_group_whose_messages_nearly_all_die_is_paused() {
    // DL-9
    let mut group = Group::balanced();
    group.applied(&ack(0, 490));
    assert_eq!(group.dying(&reject(490, 1_000)).len(), 510);
    let mut buried = 490;
    while group.state.paused().is_none() {
        assert!(group.state.bury(Offset(buried), 0));
        buried += 1;
    }
    assert_eq!((buried - 490, group.state.paused()), (501, Some(Paused::Breaker)));
    // An operator is not overruled by it, nor it by one.
    group.applied(&GroupChange::Pause);
    assert_eq!(group.state.paused(), Some(Paused::Breaker));
    group.applied(&GroupChange::Resume);
    assert!(group.state.bury(Offset(buried), 0));
    assert_eq!(group.state.paused(), None, "it is not stopped again by the next one");
    let mut group = Group::balanced();
    assert_eq!(group.dying(&reject(0, 501)).len(), 501);
    group.applied(&GroupChange::Pause);
    (0..501).for_each(|offset| assert!(group.state.bury(Offset(offset), 0)));
    assert_eq!(group.state.paused(), Some(Paused::Operator));
}

#[test]
fn what_is_acked_once_it_was_redriven_counts_against_what_is_dead() {
    // DL-7, DL-9
    let mut group = Group::balanced();
    assert_eq!(group.dying(&reject(0, 501)).len(), 501);
    (0..500).for_each(|offset| assert!(group.state.bury(Offset(offset), 0)));
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: Vec::new() }).messages, 500);
    group.applied(&ack(0, 500));
    assert!(group.state.bury(Offset(500), 0));
    assert_eq!(group.state.paused(), None, "500 of the last 1,000 are dead");
}

#[test]
fn a_reset_goes_on_from_anywhere() {
    // G-1
    let mut group = Group::balanced();
    let reset = |to, force| GroupChange::Reset { to: Offset(to), force };
    group.applied(&ack(0, 100));
    group.applied(&failed(range(120, 121), FailCause::Nack, Some(5)));
    group.applied(&ack(150, 200));
    group.applied(&reset(50, false));
    assert_eq!((group.state.floor(), group.state.highest_acked()), (Offset(50), Some(Offset(49))));
    assert_eq!((group.state.lag(Offset(200)), group.state_of(120)), (150, None));
    // What was handed out before is not settled by anybody any more.
    assert_eq!(group.effects(&ack(50, 60)).unknown, [range(50, 60)]);
    group.applied(&reserve(1_000));
    group.applied(&ack(50, 60));
    // Forward, what is to become a dead letter is not given up unless that is wanted.
    assert_eq!(group.dying(&reject(60, 62)), [60, 61]);
    let refused = ChangeOutcome::Refused(ChangeRefused::GivesUp { messages: 2 });
    assert_eq!(group.apply(&reset(900, false)), refused);
    assert_eq!(group.dying(&reset(61, true)), [0; 0]);
    assert_eq!((group.state.floor(), group.state.dying().count()), (Offset(61), 0));
    group.applied(&reset(0, false));
    assert_eq!((group.state.floor(), group.state.highest_acked()), (Offset(0), None));
}

#[test]
fn a_reset_leaves_what_an_operator_has_made_pending_again() {
    let mut group = Group::balanced();
    assert_eq!(group.dying(&reject(0, 4)).len(), 4);
    (0..4).for_each(|offset| assert!(group.state.bury(Offset(offset), 0)));
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: vec![range(0, 3)] }).messages, 3);
    group.applied(&GroupChange::Reset { to: Offset(2), force: false });
    assert_eq!((group.ready(), group.state.dead().len()), (vec![0, 1], 0));
    assert_eq!((group.state.floor(), group.state.generation(Offset(2))), (Offset(2), 0));
}

#[test]
fn what_the_stream_has_lost_is_skipped_and_said() {
    // G-2
    let mut group = Group::balanced();
    group.applied(&ack(0, 2));
    group.applied(&ack(4, 6));
    group.applied(&failed(range(3, 4), FailCause::Nack, Some(5)));
    assert_eq!(group.dying(&reject(7, 8)), [7]);
    group.applied(&nack(12, 13));
    let skipped = group.effects(&GroupChange::Removed { upto: Offset(10) });
    // 2, 3, 6, 7, 8, 9
    assert_eq!((skipped.messages, skipped.skipped), (6, Some(range(2, 10))));
    assert_eq!((group.state.floor(), group.state.held_iter().count()), (Offset(10), 1));
    assert_eq!(group.apply(&GroupChange::Removed { upto: Offset(9) }), ChangeOutcome::Applied);
    let beyond = group.effects(&GroupChange::Removed { upto: Offset(2_000) });
    assert_eq!((beyond.messages, group.state.leased_upto()), (1_990, Offset(2_000)));
    // Unless the group keeps it.
    group.spec.pin_retention = true;
    let pinned = ChangeOutcome::Refused(ChangeRefused::Pinned);
    assert_eq!(group.apply(&GroupChange::Removed { upto: Offset(3_000) }), pinned);
    assert_eq!(group.state.floor(), Offset(2_000));
}

#[test]
fn a_removed_message_that_was_redriven_is_still_delivered() {
    // DL-7
    let mut group = Group::balanced();
    assert_eq!(group.dying(&reject(0, 2)).len(), 2);
    (0..2).for_each(|offset| assert!(group.state.bury(Offset(offset), 0)));
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: vec![range(0, 1)] }).messages, 1);
    assert_eq!(group.effects(&GroupChange::Removed { upto: Offset(5) }).messages, 3);
    assert_eq!((group.ready(), group.state.dead().len()), (vec![0], 1));
}

#[test]
fn of_too_many_dead_messages_the_lowest_is_forgotten() {
    let mut group = Group::balanced();
    let runs = railgun_types::limits::DEAD_RUNS_PER_GROUP as u64;
    group.applied(&reserve(3 * runs));
    let dead: OffsetSet = (0..runs).map(|n| OffsetRange::single(Offset(2 * n))).collect();
    let settled = range(0, 2 * runs);
    (group.state.dead, group.state.floor) = (dead, settled.end);
    group.state.generations.insert(Offset(0), 3);
    assert_eq!(group.dying(&reject(2 * runs, 2 * runs + 1)).len(), 1);
    assert!(group.state.bury(settled.end, 0));
    assert_eq!(
        (group.state.dead().runs() as u64, group.state.dead().contains(Offset(0))),
        (runs, false)
    );
    assert_eq!((group.state.generation(Offset(0)), group.state.is_sound()), (0, true));
}

fn encoded(state: &GroupState) -> BytesMut {
    let mut out = BytesMut::new();
    state.encode(&mut out);
    out
}

fn decoded(bytes: &[u8]) -> Result<GroupState, railgun_types::Malformed> {
    let mut cursor = ByteCursor::new(bytes);
    let state = GroupState::decode(&mut cursor)?;
    if cursor.remaining() == 0 { Ok(state) } else { Err(railgun_types::Malformed) }
}

/// One of everything.
fn rich() -> GroupState {
    let mut group = Group::balanced();
    group.spec.mode = GroupMode::Exclusive;
    group.applied(&ack(0, 4));
    group.applied(&GroupChange::Pause);
    assert_eq!(group.dying(&reject(4, 7)).len(), 3);
    (4..7).for_each(|offset| assert!(group.state.bury(Offset(offset), 0)));
    assert_eq!(group.effects(&GroupChange::Redrive { offsets: vec![range(4, 6)] }).messages, 2);
    assert_eq!(group.dying(&reject(4, 5)).len(), 1);
    assert!(group.state.bury(Offset(4), 1));
    group.applied(&ack(7, 10));
    group.applied(&ack(12, 300));
    group.now_ms = 1_700_000_000_000;
    group.applied(&failed(range(10, 11), FailCause::Expired, Some(5)));
    assert_eq!(group.dying(&reject(300, 301)).len(), 1);
    group.spec.dlq.enabled = false;
    assert_eq!(group.effects(&reject(301, 302)).parked.len(), 1);
    group.applied(&GroupChange::Activate);
    group.state
}

#[test]
fn a_state_has_one_encoding() {
    let state = rich();
    let bytes = encoded(&state);
    assert_eq!(decoded(&bytes), Ok(state));
    let check = |bytes: &[u8], what: &str, at: usize| {
        if let Ok(other) = decoded(bytes) {
            assert!(encoded(&other)[..] == *bytes, "{what} at {at}: {other:?}");
            assert!(other.is_sound());
        }
    };
    for at in 0..bytes.len() {
        assert!(decoded(&bytes[..at]).is_err(), "cut at {at}");
        for mask in 1..=255 {
            let mut changed = bytes.to_vec();
            changed[at] ^= mask;
            check(&changed, "changed", at);
        }
        check(&[&bytes[..at], &bytes[at + 1..]].concat(), "removed", at);
        for byte in [0, 1, 0x7f, 0xff] {
            check(&[&bytes[..at], &[byte], &bytes[at..]].concat(), "added", at);
        }
    }
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    // G-1
    let known = rich();
    let refused = |change: fn(&mut GroupState)| {
        let mut state = known.clone();
        change(&mut state);
        assert_ne!(state, known);
        assert_eq!(decoded(&encoded(&state)), Err(railgun_types::Malformed), "{state:?}");
    };
    let held = |state: &mut GroupState, offset: u64, change: fn(&mut Held)| {
        let mut held = state.held.remove(Offset(offset)).expect("it has a history");
        change(&mut held);
        state.held.insert(Offset(offset), held);
    };
    // 4 is dead, 5 redriven, 6 dead, 10 delayed, 11 pending, 300 dying, 301 parked.
    refused(|state| {
        state.dead.insert(range(5, 6));
    });
    refused(|state| {
        state.dead.insert(range(11, 12));
    });
    refused(|state| {
        state.generations.insert(Offset(9), 1);
    });
    refused(|state| {
        state.generations.insert(Offset(6), 0);
    });
    refused(|state| {
        state.done.insert(range(10, 12));
    });
    refused(|state| {
        state.done.insert(range(300, 301));
    });
    refused(|state| {
        state.done.remove(range(301, 302));
    });
    refused(|state| state.floor = Offset(12));
    refused(|state| state.leased_upto = Offset(301));
    refused(|state| state.highest_acked = Some(Offset(1_000)));
    let mut state = known.clone();
    held(&mut state, 5, |held| held.generation = 0);
    assert!(
        decoded(&encoded(&state)).is_err(),
        "below the floor only what was redriven is pending"
    );
}

/// SplitMix64: as good as any here, and fast.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

const MESSAGES: u64 = 24;

impl Draw {
    fn ranges(&mut self) -> Vec<OffsetRange> {
        let (mut ranges, mut from) = (Vec::new(), 0);
        for _ in 0..1 + self.below(3) {
            let start = from + self.below(MESSAGES / 2);
            let end = (start + 1 + self.below(6)).min(MESSAGES);
            if start < end {
                ranges.push(range(start, end));
            }
            from = end;
        }
        ranges
    }

    fn error(&mut self) -> Option<Box<str>> {
        self.one_in(2).then(|| "no".into())
    }

    fn change(&mut self, state: &GroupState) -> GroupChange {
        // Mostly of now; an old one is refused, which leads nowhere.
        let epoch = if self.one_in(10) { 0 } else { state.epoch() };
        let ranges = self.ranges();
        let offset = Offset(self.below(MESSAGES + 1));
        match self.below(30) {
            0..8 => GroupChange::Ack { epoch, ranges },
            8..15 => {
                let causes = [FailCause::Nack, FailCause::Expired, FailCause::Disconnected];
                let cause = causes[self.below(3) as usize];
                let delay_ms = self.one_in(3).then(|| self.below(3));
                GroupChange::Fail { epoch, ranges, cause, delay_ms, error: self.error() }
            }
            15..17 => GroupChange::Reject { epoch, ranges, error: self.error() },
            17..21 => {
                let offsets = (0..MESSAGES).filter(|_| self.one_in(2)).map(Offset).collect();
                GroupChange::Due { offsets }
            }
            21..24 => GroupChange::Reserve { upto: offset },
            24 => GroupChange::Activate,
            25 => GroupChange::Reset { to: offset, force: self.one_in(2) },
            26 if self.one_in(2) => GroupChange::Pause,
            26 => GroupChange::Resume,
            27 if self.one_in(2) => GroupChange::Redrive { offsets: Vec::new() },
            27 => GroupChange::Redrive { offsets: ranges },
            28 if self.one_in(4) => GroupChange::Discard { offsets: Vec::new() },
            28 => GroupChange::Discard { offsets: ranges },
            _ => GroupChange::Removed { upto: offset },
        }
    }

    fn spec(&mut self) -> GroupSpec {
        let mode = if self.one_in(3) { GroupMode::Exclusive } else { GroupMode::Balanced };
        let dlq = DlqSpec {
            enabled: !self.one_in(3),
            max_attempts: self.below(4) as u32,
            max_distance: self.below(8),
            max_age_ms: self.below(6),
            min_attempts: 1 + self.below(3) as u32,
        };
        GroupSpec {
            mode,
            backoff_ms: vec![self.below(2), 2, 1],
            pin_retention: self.one_in(4),
            dlq,
            ..GroupSpec::default()
        }
    }
}

/// That both say the same of everything.
fn compare(state: &GroupState, model: &Model) {
    let Model { messages, floor, leased_upto, highest_acked, epoch, paused } = model;
    assert_eq!((state.floor().0, state.leased_upto().0), (*floor, *leased_upto));
    assert_eq!(state.highest_acked().map(|offset| offset.0), *highest_acked);
    assert_eq!((state.epoch(), state.paused()), (*epoch, *paused));
    let all = || (0..).map(Offset).zip(messages);
    for (offset, message) in all() {
        assert_eq!(state.is_done(offset), message.is_settled(), "{offset}: {message:?}");
        assert_eq!(state.held(offset), message.held().as_ref(), "{offset}");
        assert_eq!(state.dead().contains(offset), message.status == Status::Dead, "{offset}");
        if !message.is_settled() || message.status == Status::Dead {
            assert_eq!(state.generation(offset), message.generation, "{offset}");
        }
    }
    let in_status = |wanted: fn(&Status) -> bool| {
        all().filter(move |(_, message)| wanted(&message.status)).map(|(offset, _)| offset)
    };
    assert!(state.ready().eq(in_status(|status| *status == Status::Ready)));
    let dying = in_status(|status| matches!(status, Status::Dying(_)));
    assert!(state.dying().map(|(offset, _)| offset).eq(dying));
    assert!(
        state
            .parked_in(range(0, u64::MAX))
            .eq(in_status(|status| matches!(status, Status::Parked(_))))
    );
    let delayed = in_status(|status| matches!(status, Status::Delayed(_)));
    assert_eq!(state.unsettled_held().delayed, delayed.count() as u64);
    // As a dispatcher walks through what is pending.
    let pending = in_status(|status| *status == Status::Pending).collect::<Vec<_>>();
    let (mut walked, mut from) = (Vec::new(), Offset(0));
    while from.0 < MESSAGES {
        let run = state.pending_run(from, 3);
        assert_eq!(run.start, state.next_pending(from));
        walked.extend(run.iter().filter(|offset| offset.0 < MESSAGES));
        from = run.end;
    }
    assert_eq!(walked, pending);
    for from in 0..MESSAGES {
        for end in [from, from + 3, MESSAGES] {
            let end = end.min(MESSAGES);
            let first = |is_settled| {
                let mut behind = from..end;
                let found = behind.find(|at| messages[*at as usize].is_settled() == is_settled);
                Offset(found.unwrap_or(end))
            };
            assert_eq!(state.next_settled(range(from, end)), first(true));
            assert_eq!(state.next_unsettled(range(from, end)), first(false));
        }
    }
    let open = messages.iter().filter(|message| !message.is_settled()).count() as u64;
    let beyond = floor.saturating_sub(MESSAGES);
    assert_eq!((state.lag(Offset(MESSAGES)), beyond), (open, 0));
}

#[test]
fn it_is_what_the_rules_say_of_each_message() {
    // G-1, G-3, G-10, DL-1, DL-2, DL-3, DL-7, DL-8, X-2
    for seed in 0..10_000 {
        let mut draw = Draw(seed);
        let start = if draw.one_in(2) { 0 } else { draw.below(5) };
        let (mut state, mut model) =
            (GroupState::new(Offset(start)), Model::new(MESSAGES as usize, start));
        let (mut spec, mut now, mut trace) = (draw.spec(), 0, Vec::new());
        for _ in 0..10 + draw.below(30) {
            now += draw.below(3) as i64 * 1_000;
            if draw.one_in(12) {
                spec = draw.spec();
            }
            if draw.one_in(8) {
                state = decoded(&encoded(&state)).expect("our own");
            }
            let said_in = if draw.one_in(20) { TERM - 1 } else { TERM };
            let context = Context { spec: &spec, said_in, term: TERM, log_time: Timestamp(now) };
            let before = (state.floor(), state.highest_acked());
            let (real, naive, resets) = if draw.one_in(4) {
                let dying = state.dying().next().filter(|_| !draw.one_in(4));
                let (offset, generation) =
                    dying.unwrap_or((Offset(draw.below(MESSAGES)), draw.below(2) as u32));
                trace.push(format!("bury {offset} of {generation}"));
                let (real, naive) =
                    (state.bury(offset, generation), model.bury(offset.0, generation));
                (format!("{real}"), format!("{naive}"), false)
            } else {
                let change = draw.change(&state);
                trace.push(format!("{change:?} in {said_in}"));
                let (real, naive) =
                    (state.apply(&change, &context), model.apply(&change, &context));
                let resets = matches!(change, GroupChange::Reset { .. });
                (format!("{real:?}"), format!("{naive:?}"), resets)
            };
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                assert_eq!(real, naive);
                assert!(state.is_sound());
                compare(&state, &model);
                assert!(resets || before <= (state.floor(), state.highest_acked()));
                assert!(resets || before.1 <= state.highest_acked());
            }));
            assert!(checked.is_ok(), "seed {seed} with {spec:?}:\n{}", trace.join("\n"));
        }
    }
}
