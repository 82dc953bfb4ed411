use railgun_types::Timestamp;
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use tokio::time::Duration;

use super::*;
use crate::subscribe::Source;

mod pull;

const EPOCH: u32 = 0;

fn range(start: u64, end: u64) -> OffsetRange {
    OffsetRange::new(Offset(start), Offset(end))
}

fn tag(lease: u64) -> Tag {
    Tag { lease, attempt: 1, epoch: EPOCH, generation: 0 }
}

fn run_of(tag: Tag, range: OffsetRange) -> Run {
    let mut builder = BatchBuilder::new(1 << 20);
    for offset in range.iter() {
        let value = offset.to_string();
        let draft = RecordDraft { value: value.as_bytes(), ..RecordDraft::default() };
        builder.push(&draft).expect("within the limits");
    }
    let batch = RecordBatch::verify(builder.finish().concat()).expect("just built");
    let count = range.len() as usize;
    let records = RecordRun::new(batch, 0, count, range.start, Timestamp(1), Source::Hot);
    Run { tag, records: records.expect("all of the batch") }
}

/// A machine with a server that a test plays.
struct Member {
    machine: Machine,
    now: Instant,
}

impl Member {
    fn joined() -> Self {
        let mut machine = Machine::new(100, 1 << 20);
        machine.on_joined(false);
        Self { machine, now: Instant::now() }
    }

    fn deliver(&mut self, lease: u64, range: OffsetRange) {
        self.machine.on_delivered(run_of(tag(lease), range));
    }

    /// Takes a run from the buffer and begins with all that is left of it.
    fn begin(&mut self) -> OffsetRange {
        let Taken::Run(run) = self.machine.take() else { panic!("no run") };
        self.machine.begin(run.tag.lease, run.range()).0
    }

    fn delivered(&mut self, lease: u64, range: OffsetRange) {
        self.deliver(lease, range);
        assert_eq!(self.begin(), range);
    }

    /// The items of the next frame: lease, offsets, kind.
    fn frame(&mut self) -> Vec<(u64, u64, u32, v1::SettleKind)> {
        match self.machine.poll_transmit(self.now) {
            Transmit::Settle(settle) => {
                assert_eq!(settle.number, self.machine.number);
                let item = |item: &v1::SettleItem| (item.lease, item.from, item.count, item.kind());
                settle.items.iter().map(item).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn waits(&mut self) {
        assert_eq!(self.machine.poll_transmit(self.now), Transmit::Wait);
    }

    fn settled(&mut self, through: u64, stale: &[(u64, u64, u32, v1::StaleReason)]) {
        let stale = stale.iter().map(|&(lease, from, count, reason)| v1::StaleSettle {
            lease,
            from,
            count,
            reason: reason.into(),
        });
        let settled = v1::Settled { through, stale: stale.collect() };
        self.machine.on_settled(&settled, self.now).expect("it was asked");
    }

    fn notice(&mut self, notice: v1::group_notice::Notice) {
        self.machine.on_notice(&v1::GroupNotice { notice: Some(notice) }).expect("it is allowed");
    }

    fn ack_confirmed(
        &mut self,
        lease: u64,
        range: OffsetRange,
    ) -> oneshot::Receiver<Result<(), Unsettled>> {
        let (reply, answer) = oneshot::channel();
        self.machine.ack(tag(lease), range, Some(reply));
        answer
    }

    fn news(&mut self) -> News {
        match self.machine.take() {
            Taken::News(news) => news,
            other => panic!("{other:?}"),
        }
    }
}

const ACK: v1::SettleKind = v1::SettleKind::SettleAck;
const NACK: v1::SettleKind = v1::SettleKind::SettleNack;
const BEGIN: v1::SettleKind = v1::SettleKind::SettleBegin;

#[test]
fn what_waits_is_told_in_ranges_and_an_ack_stands_for_its_beginning() {
    // G-8
    let mut member = Member::joined();
    member.waits();
    member.deliver(7, range(10, 16));
    member.waits();
    assert_eq!(member.begin(), range(10, 16));
    // Out of order, as workers are done.
    for offset in [12, 10, 11, 14] {
        member.machine.ack(tag(7), OffsetRange::single(Offset(offset)), None);
    }
    let frame = member.frame();
    assert_eq!(frame, [(7, 10, 3, ACK), (7, 13, 1, BEGIN), (7, 14, 1, ACK), (7, 15, 1, BEGIN)]);
    member.waits();
    assert!(!member.machine.is_settled());
    member.machine.ack(tag(7), range(13, 14), None);
    assert_eq!(member.frame(), [(7, 13, 1, ACK)]);
    member.settled(1, &[]);
    assert!(!member.machine.is_settled(), "the second frame is not answered");
    member.settled(2, &[]);
    assert!(member.machine.is_settled());
    // The last one is still the application's.
    assert_eq!(hold(&mut member.machine), [held(7, range(15, 16), true)]);
}

/// What is presented, but for the bytes.
fn hold(machine: &mut Machine) -> Vec<Held> {
    let mut held = machine.hold();
    for held in &mut held {
        assert!(held.message_bytes > 0);
        held.message_bytes = 0;
    }
    held
}

fn held(lease: u64, range: OffsetRange, begun: bool) -> Held {
    Held { lease, range, attempt: 1, epoch: EPOCH, begun, generation: 0, message_bytes: 0 }
}

#[test]
fn four_frames_are_unanswered_at_most_and_what_waits_meanwhile_is_one() {
    let mut member = Member::joined();
    member.delivered(1, range(0, 50));
    member.frame();
    for offset in 0..3 {
        member.machine.ack(tag(1), range(offset, offset + 1), None);
        assert_eq!(member.frame(), [(1, offset, 1, ACK)]);
    }
    for offset in 3..40 {
        assert!(
            !member.machine.ack(tag(1), range(offset, offset + 1), None),
            "no room to wake for"
        );
        member.waits();
    }
    member.settled(1, &[]);
    assert_eq!(member.frame(), [(1, 3, 37, ACK)]);
    member.waits();
    member.settled(5, &[]);
    member.waits();
    // Who sleeps is woken once.
    assert!(member.machine.ack(tag(1), range(40, 41), None));
    assert!(!member.machine.ack(tag(1), range(41, 42), None));
    assert_eq!(member.frame(), [(1, 40, 2, ACK)]);
}

#[test]
fn failures_of_the_same_kind_go_together_with_their_reasons() {
    let mut member = Member::joined();
    member.delivered(3, range(0, 5));
    member.frame();
    let nack = |error: &str, delay_ms| What::Nack { delay_ms, error: error.into() };
    member.machine.say(tag(3), range(0, 1), nack("down", None));
    member.machine.say(tag(3), range(1, 2), nack("down", None));
    member.machine.say(tag(3), range(2, 3), nack("down", Some(50)));
    member.machine.say(tag(3), range(3, 4), What::Reject { error: "no JSON".into() });
    member.machine.say(tag(3), range(4, 5), What::Extend);
    member.machine.say(tag(3), range(4, 5), What::Extend);
    let Transmit::Settle(settle) = member.machine.poll_transmit(member.now) else { panic!() };
    let item = |from, count, kind: v1::SettleKind, delay_ms, error: &str| v1::SettleItem {
        lease: 3,
        from,
        count,
        epoch: EPOCH,
        kind: kind.into(),
        delay_ms,
        error: error.to_owned(),
    };
    let items = vec![
        item(0, 2, NACK, None, "down"),
        item(2, 1, NACK, Some(50), "down"),
        item(3, 1, v1::SettleKind::SettleReject, None, "no JSON"),
        item(4, 1, v1::SettleKind::SettleExtend, None, ""),
    ];
    assert_eq!(settle, v1::Settle { number: 2, items });
    member.settled(2, &[]);
    // The one that goes on is held.
    assert_eq!(hold(&mut member.machine), [held(3, range(4, 5), true)]);
}

#[test]
fn whoever_waits_for_an_ack_is_told_when_it_counts_and_when_not() {
    // G-7
    let mut member = Member::joined();
    member.delivered(1, range(0, 6));
    let mut first = member.ack_confirmed(1, range(0, 1));
    let mut batch = member.ack_confirmed(1, range(1, 4));
    member.machine.ack(tag(1), range(4, 5), None);
    assert_eq!(member.frame(), [(1, 0, 5, ACK), (1, 5, 1, BEGIN)]);
    assert!(first.try_recv().is_err(), "it is not committed");
    let stale = v1::StaleReason::StaleSuperseded;
    let fenced = v1::StaleReason::StaleFenced;
    member.settled(1, &[(1, 2, 1, stale), (1, 3, 1, fenced), (1, 4, 2, stale)]);
    assert!(matches!(first.try_recv(), Ok(Ok(()))));
    let told = batch.try_recv().expect("it is answered");
    let Err(Unsettled::Stale(part, StaleReason::Superseded)) = told else { panic!("{told:?}") };
    assert_eq!(part, range(2, 3), "the first one of them");
    // Nobody waits for the other one: it is news. That the server took no notice of a beginning is none.
    assert_eq!(member.news(), News::Stale(range(4, 5), StaleReason::Superseded));
    assert!(matches!(member.machine.take(), Taken::Nothing));
    assert_eq!(hold(&mut member.machine), [], "the last one is another's");
    // What the application says of it is still asked: the server knows best.
    let mut late = member.ack_confirmed(1, range(5, 6));
    assert_eq!(member.frame(), [(1, 5, 1, ACK)]);
    member.settled(2, &[(1, 5, 1, v1::StaleReason::StaleFenced)]);
    assert!(matches!(late.try_recv(), Ok(Err(Unsettled::Stale(_, StaleReason::Fenced)))));
    assert!(member.machine.is_settled());
}

#[test]
fn what_is_told_in_two_frames_counts_when_both_are_answered() {
    // G-13
    let mut member = Member::joined();
    member.delivered(1, range(0, 6));
    member.frame();
    let nack = |letter: &str| What::Nack { delay_ms: None, error: letter.repeat(200 << 10).into() };
    member.machine.say(tag(1), range(3, 4), nack("x"));
    member.machine.say(tag(1), range(4, 5), nack("y"));
    let mut waiting = member.ack_confirmed(1, range(0, 3));
    // This one was handed out anew: what is said of it is told apart, behind reasons that fill a frame.
    member.deliver(2, range(1, 2));
    assert_eq!(member.frame(), [(1, 0, 1, ACK), (1, 2, 1, ACK), (1, 3, 1, NACK), (1, 4, 1, NACK)]);
    assert_eq!(member.frame(), [(1, 1, 1, ACK)]);
    member.settled(2, &[]);
    assert!(waiting.try_recv().is_err(), "a part is not answered");
    member.settled(3, &[]);
    assert!(matches!(waiting.try_recv(), Ok(Ok(()))));
}

#[test]
fn an_ack_of_messages_of_which_some_are_anothers_is_told_of_all_of_them() {
    // G-7
    let mut member = Member::joined();
    member.delivered(1, range(0, 3));
    member.frame();
    member.deliver(2, range(1, 2));
    let mut waiting = member.ack_confirmed(1, range(0, 3));
    assert_eq!(member.frame(), [(1, 0, 3, ACK)]);
    member.settled(2, &[(1, 1, 1, v1::StaleReason::StaleSuperseded)]);
    let told = waiting.try_recv();
    assert!(matches!(told, Ok(Err(Unsettled::Stale(_, StaleReason::Superseded)))), "{told:?}");
    assert_eq!(hold(&mut member.machine), [held(2, range(1, 2), false)]);
}

#[test]
fn what_is_too_much_for_one_frame_is_told_in_the_next() {
    let mut member = Member::joined();
    member.delivered(1, range(0, 6));
    member.frame();
    for offset in [0, 2, 3, 5] {
        member.machine.ack(tag(1), range(offset, offset + 1), None);
    }
    let mut told = || {
        let mut said = Vec::new();
        member.machine.leases.tell(2, &mut said);
        said.iter().map(|said| said.range).collect::<Vec<_>>()
    };
    assert_eq!(told(), [range(0, 1), range(2, 4)]);
    assert_eq!(told(), [range(5, 6)]);
    assert_eq!(told(), []);
}

#[test]
fn of_too_many_to_present_those_that_were_begun_come_first() {
    // G-14
    let mut member = Member::joined();
    for lease in 1..4 {
        member.deliver(lease, range(2 * lease, 2 * lease + 2));
    }
    assert_eq!(member.machine.begin(2, range(4, 6)).0, range(4, 6));
    let mut leases = |most| {
        let held = member.machine.leases.hold(most);
        held.iter().map(|held| held.lease).collect::<Vec<_>>()
    };
    assert_eq!((leases(1), leases(2)), (vec![2], vec![1, 2]));
    assert_eq!(leases(3), [1, 2, 3]);
}

#[test]
fn all_is_settled_when_nothing_is_said_that_is_not_answered() {
    let mut member = Member::joined();
    member.delivered(1, range(0, 2));
    member.frame();
    member.settled(1, &[]);
    assert!(member.machine.is_settled());
    member.machine.ack(tag(1), range(0, 1), None);
    assert!(!member.machine.is_settled(), "it is not told");
    member.frame();
    member.settled(2, &[]);
    assert!(member.machine.is_settled());
    // Also of what was handed out anew meanwhile.
    member.delivered(2, range(1, 2));
    member.frame();
    member.settled(3, &[]);
    member.machine.ack(tag(1), range(1, 2), None);
    assert!(!member.machine.is_settled(), "it is not told");
    assert_eq!(member.frame(), [(1, 1, 1, ACK)]);
    assert!(!member.machine.is_settled(), "it is not answered");
    member.settled(4, &[]);
    assert!(member.machine.is_settled());
}

#[test]
fn what_was_never_told_is_not_settled_when_the_place_is_lost() {
    let mut member = Member::joined();
    for (lease, number) in [(1, 1), (2, 2)] {
        member.delivered(lease, range(0, 1));
        member.frame();
        member.settled(number, &[]);
    }
    member.machine.ack(tag(1), range(0, 1), None);
    member.machine.end(None);
    assert!(!member.machine.is_settled());
}

#[test]
fn an_answer_is_to_those_who_had_the_delivery_that_it_names() {
    // G-7
    let mut member = Member::joined();
    member.delivered(1, range(0, 1));
    let mut older = member.ack_confirmed(1, range(0, 1));
    member.delivered(2, range(0, 1));
    let mut newer = member.ack_confirmed(2, range(0, 1));
    assert_eq!(member.frame(), [(2, 0, 1, ACK), (1, 0, 1, ACK)]);
    member.settled(1, &[(1, 0, 1, v1::StaleReason::StaleSuperseded)]);
    assert!(matches!(older.try_recv(), Ok(Err(Unsettled::Stale(_, StaleReason::Superseded)))));
    assert!(matches!(newer.try_recv(), Ok(Ok(()))));
}

#[test]
fn what_is_unsettled_is_presented_again_and_what_was_unanswered_said_again() {
    // G-14
    let mut member = Member::joined();
    member.delivered(1, range(0, 6));
    member.deliver(2, range(10, 13));
    member.machine.ack(tag(1), range(0, 2), None);
    member.machine.say(tag(1), range(2, 3), What::Nack { delay_ms: None, error: "x".into() });
    member.machine.say(tag(1), range(4, 5), What::Extend);
    member.frame();
    let mut waiting = member.ack_confirmed(1, range(3, 4));
    member.machine.on_disconnected();
    let presented = [held(1, range(0, 6), true), held(2, range(10, 13), false)];
    assert_eq!(hold(&mut member.machine), presented);
    assert_eq!(
        hold(&mut member.machine),
        presented,
        "an attempt that came to nothing takes nothing"
    );
    // It goes on meanwhile.
    let Taken::Run(run) = member.machine.take() else { panic!("no run") };
    assert_eq!(member.machine.begin(run.tag.lease, range(10, 11)).0, range(10, 11));
    member.machine.on_joined(false);
    assert_eq!(
        member.frame(),
        [(1, 3, 1, ACK), (2, 10, 1, BEGIN), (1, 0, 2, ACK), (1, 2, 1, NACK)],
        "numbers begin anew"
    );
    assert_eq!(member.machine.number, 1);
    // The first time, it was committed, and the answer was lost.
    member.settled(1, &[(1, 2, 1, v1::StaleReason::StaleAlreadySettled)]);
    assert!(matches!(waiting.try_recv(), Ok(Ok(()))));
    assert!(matches!(member.machine.take(), Taken::Nothing), "no news");
    let left =
        [held(1, range(4, 6), true), held(2, range(10, 11), true), held(2, range(11, 13), false)];
    assert_eq!(hold(&mut member.machine), left);
}

#[test]
fn only_a_failure_that_is_said_again_was_settled_by_itself() {
    // G-7
    let mut member = Member::joined();
    member.delivered(1, range(0, 3));
    member.frame();
    let nack = || What::Nack { delay_ms: None, error: "".into() };
    let already = v1::StaleReason::StaleAlreadySettled;
    member.machine.say(tag(1), range(0, 1), nack());
    member.frame();
    member.settled(2, &[(1, 0, 1, already)]);
    assert_eq!(member.news(), News::Stale(range(0, 1), StaleReason::AlreadySettled));
    member.machine.say(tag(1), range(1, 2), nack());
    member.frame();
    member.machine.on_disconnected();
    // The same of the next one, for the first time.
    member.machine.say(tag(1), range(2, 3), nack());
    member.machine.on_joined(false);
    assert_eq!(member.frame(), [(1, 1, 1, NACK), (1, 2, 1, NACK)]);
    member.settled(1, &[(1, 1, 2, already)]);
    assert_eq!(member.news(), News::Stale(range(2, 3), StaleReason::AlreadySettled));
}

#[test]
fn an_ack_that_is_said_again_is_not_confirmed_where_the_message_was_given_up() {
    // G-3, G-7
    let mut member = Member::joined();
    member.delivered(1, range(0, 2));
    let mut waiting = member.ack_confirmed(1, range(0, 1));
    assert_eq!(member.frame(), [(1, 0, 1, ACK), (1, 1, 1, BEGIN)]);
    member.machine.on_disconnected();
    hold(&mut member.machine);
    member.machine.on_joined(false);
    assert_eq!(member.frame(), [(1, 0, 1, ACK)]);
    member.settled(1, &[(1, 0, 1, v1::StaleReason::StaleAlreadySettled)]);
    let told = waiting.try_recv();
    assert!(matches!(told, Ok(Err(Unsettled::Stale(_, StaleReason::AlreadySettled)))), "{told:?}");
}

#[test]
fn a_rewind_takes_back_what_the_application_has_not_begun() {
    //
    let mut member = Member::joined();
    member.deliver(1, range(0, 4));
    member.deliver(2, range(4, 8));
    let Taken::Run(run) = member.machine.take() else { panic!("no run") };
    let begin = |member: &mut Member, from, to| member.machine.begin(1, range(from, to)).0;
    assert_eq!(run.range(), range(0, 4));
    assert_eq!(begin(&mut member, 0, 1), range(0, 1));
    assert_eq!(begin(&mut member, 2, 3), range(2, 3));
    member.notice(v1::group_notice::Notice::RewindTo(1));
    // Of the run that the application is in.
    assert_eq!(begin(&mut member, 1, 4), range(4, 4));
    assert!(matches!(member.machine.take(), Taken::Nothing));
    assert_eq!(member.machine.buffer_bytes, 0);
    member.delivered(3, range(1, 8));
    // The message that was begun is of the newer delivery now, and what is said of the older one is told
    // all the same.
    assert_eq!(hold(&mut member.machine), [held(1, range(0, 1), true), held(3, range(1, 8), true)]);
    member.machine.ack(tag(1), range(2, 3), None);
    assert_eq!(member.frame(), [(1, 2, 1, ACK)]);
}

#[test]
fn what_is_behind_a_failure_waits_for_what_comes_of_it() {
    //
    let mut member = Member::joined();
    member.machine.on_joined(true);
    member.deliver(1, range(0, 4));
    member.deliver(2, range(4, 8));
    assert_eq!(member.begin(), range(0, 4));
    let nack = || What::Nack { delay_ms: None, error: "".into() };
    // Also where it can never be done: its dead letter comes first.
    member.machine.say(tag(1), range(0, 1), What::Reject { error: "".into() });
    assert!(member.machine.is_held_back());
    member.frame();
    member.settled(1, &[]);
    assert!(!member.machine.is_held_back());
    member.machine.say(tag(1), range(1, 2), nack());
    assert!(matches!(member.machine.take(), Taken::Nothing) && member.machine.is_held_back());
    member.frame();
    // Of two that failed the second one is not answered.
    member.machine.say(tag(1), range(2, 3), nack());
    member.frame();
    member.settled(2, &[]);
    assert!(member.machine.is_held_back());
    // Also at another server, which is told again.
    member.machine.on_disconnected();
    member.machine.on_joined(true);
    assert!(matches!(member.machine.take(), Taken::Nothing));
    member.frame();
    member.notice(v1::group_notice::Notice::RewindTo(0));
    member.settled(1, &[]);
    assert!(!member.machine.is_held_back());
    assert!(matches!(member.machine.take(), Taken::Nothing), "it was taken back");
    member.deliver(3, range(0, 8));
    assert_eq!(member.begin(), range(0, 8));
    // Nobody waits in a group without an order.
    member.machine.on_joined(false);
    member.deliver(4, range(8, 9));
    member.machine.say(tag(3), range(0, 1), nack());
    assert_eq!(member.begin(), range(8, 9));
    // Nor for an answer that never comes.
    member.machine.on_joined(true);
    assert!(member.machine.is_held_back());
    member.machine.end(None);
    assert!(!member.machine.is_held_back());
}

#[test]
fn of_two_deliveries_of_a_message_the_newer_one_counts() {
    let mut member = Member::joined();
    member.delivered(1, range(0, 2));
    // Of the first of these nothing is left.
    member.deliver(5, range(5, 7));
    member.deliver(2, range(2, 10));
    member.machine.ack(tag(1), range(0, 1), None);
    // The one was expired, of the others the server has taken some back.
    member.deliver(3, range(0, 2));
    member.deliver(4, range(5, 7));
    let Taken::Run(older) = member.machine.take() else { panic!("no run") };
    assert_eq!(older.tag.lease, 2);
    assert_eq!(member.machine.begin(2, range(2, 10)).0, range(2, 5));
    assert_eq!(member.machine.begin(2, range(5, 10)).0, range(7, 10));
    assert_eq!(member.begin(), range(0, 2));
    assert_eq!(member.begin(), range(5, 7));
    // An ack that was not told yet may still count (G-7).
    let mut frame = member.frame();
    frame.sort_unstable_by_key(|item| (item.0, item.1));
    let wanted =
        [(1, 0, 1, ACK), (2, 2, 3, BEGIN), (2, 7, 3, BEGIN), (3, 0, 2, BEGIN), (4, 5, 2, BEGIN)];
    assert_eq!(frame, wanted);
}

#[test]
fn a_buffer_holds_no_more_than_the_credit() {
    // G-12
    let mut member = Member::joined();
    member.deliver(1, range(0, 60));
    member.deliver(2, range(60, 100));
    // After five minutes the server takes back what was not begun, and offers others.
    member.deliver(3, range(100, 130));
    let Taken::Run(run) = member.machine.take() else { panic!("no run") };
    assert_eq!((run.tag.lease, run.range()), (2, range(60, 100)));
    assert_eq!(member.machine.begin(1, range(0, 60)).0.len(), 0);
    // A delivery that is larger than all credit comes alone.
    let mut small = Machine::new(10, 1);
    small.on_joined(false);
    small.on_delivered(run_of(tag(1), range(0, 20)));
    assert!(matches!(small.take(), Taken::Run(_)));
}

#[test]
fn a_member_that_drains_gives_back_what_it_has_not_begun_and_is_done_when_the_server_says_so() {
    // G-9
    let mut member = Member::joined();
    member.delivered(1, range(0, 2));
    member.deliver(2, range(2, 4));
    member.waits_after_frame();
    assert!(member.machine.drain());
    assert_eq!(member.machine.poll_transmit(member.now), Transmit::Drain);
    member.waits();
    member.deliver(3, range(4, 6));
    assert!(matches!(member.machine.take(), Taken::Nothing), "it takes nothing new");
    // Another server is told, too; and of what was begun before it is told to give the rest back.
    member.machine.on_disconnected();
    assert_eq!(hold(&mut member.machine), [held(1, range(0, 2), true)]);
    member.machine.on_joined(false);
    member.machine.ack(tag(1), range(0, 2), None);
    assert_eq!(member.frame(), [(1, 0, 2, ACK)]);
    assert_eq!(member.machine.poll_transmit(member.now), Transmit::Drain);
    member.settled(1, &[]);
    assert!(!member.machine.is_drained());
    member.notice(v1::group_notice::Notice::Drained(true));
    assert!(member.machine.is_drained() && member.machine.is_settled());
    assert!(matches!(member.machine.take(), Taken::Over(None)));
}

#[test]
fn what_was_begun_is_told_before_a_member_drains() {
    // G-9
    let mut member = Member::joined();
    member.delivered(1, range(0, 4));
    for offset in 0..4 {
        member.machine.ack(tag(1), range(offset, offset + 1), None);
        member.frame();
    }
    member.delivered(2, range(4, 5));
    member.machine.drain();
    // There is no room for the beginning, without which the server would give the message to others.
    member.waits();
    member.settled(1, &[]);
    assert_eq!(member.frame(), [(2, 4, 1, BEGIN)]);
    assert_eq!(member.machine.poll_transmit(member.now), Transmit::Drain);
}

impl Member {
    fn waits_after_frame(&mut self) {
        self.frame();
        self.settled(1, &[]);
        self.waits();
    }
}

#[test]
fn nobody_is_left_waiting_when_all_is_over() {
    let mut member = Member::joined();
    member.delivered(1, range(0, 3));
    member.frame();
    let mut waiting = member.ack_confirmed(1, range(0, 1));
    member.machine.end(None);
    let told = waiting.try_recv();
    assert!(matches!(told, Ok(Err(Unsettled::Over(GroupError::Closed)))), "{told:?}");
    let mut late = member.ack_confirmed(1, range(1, 2));
    assert!(matches!(late.try_recv(), Ok(Err(Unsettled::Over(_)))));
    assert!(!member.machine.ack(tag(1), range(2, 3), None));
    assert!(matches!(member.machine.take(), Taken::Over(None)));
}

#[test]
fn a_place_is_given_up_when_all_is_said_and_answered() {
    let mut member = Member::joined();
    member.delivered(1, range(0, 3));
    member.frame();
    member.machine.ack(tag(1), range(0, 1), None);
    member.machine.close();
    assert_eq!(member.frame(), [(1, 0, 1, ACK)]);
    member.waits();
    member.settled(2, &[]);
    assert_eq!(member.machine.poll_transmit(member.now), Transmit::Close);
}

#[test]
fn news_that_nobody_takes_are_few_and_a_new_term_of_office_fences_the_buffer() {
    use v1::group_notice::Notice;
    //
    let mut member = Member::joined();
    let old = Tag { lease: 1, attempt: 1, epoch: 4, generation: 0 };
    member.machine.on_delivered(run_of(old, range(0, 3)));
    member.notice(Notice::ActiveEpoch(5));
    assert_eq!(member.news(), News::Active(5));
    for offset in 0..5_000 {
        member.notice(Notice::StalledAt(offset));
        member.notice(Notice::Resumed(true));
        let (from, to) = (offset, offset + 1);
        member.notice(Notice::Skipped(v1::OffsetSpan { from, to }));
        member.notice(Notice::Skipped(v1::OffsetSpan { from: to, to: to + 1 }));
    }
    assert_eq!(member.machine.news, NEWS_MAX);
    assert_eq!(member.news(), News::Resumed);
    assert_eq!(member.news(), News::Skipped(range(4_488, 4_490)));
    let of_now = Tag { epoch: 5, ..old };
    member.machine.on_delivered(run_of(of_now, range(0, 3)));
    // Who was the active one goes on with what it has, on another connection.
    member.notice(Notice::ActiveEpoch(5));
    while member.machine.take_news().is_some() {}
    assert_eq!(member.begin(), range(0, 3));
    member.machine.on_delivered(run_of(of_now, range(3, 6)));
    member.notice(Notice::Inactive(true));
    while let Taken::News(_) = member.machine.take() {}
    assert!(matches!(member.machine.take(), Taken::Nothing), "another one delivers them");
}

#[test]
fn an_answer_to_what_was_not_said_and_impossible_spans_are_faults() {
    let mut member = Member::joined();
    let settled = v1::Settled { through: 1, stale: Vec::new() };
    let now = member.now;
    assert!(member.machine.on_settled(&settled, now).is_err());
    let part = v1::StaleSettle { lease: 1, from: u64::MAX, count: 2, reason: 0 };
    let settled = v1::Settled { through: 0, stale: vec![part] };
    assert!(member.machine.on_settled(&settled, now).is_err());
    let span = v1::OffsetSpan { from: 4, to: 4 };
    let notice = Some(v1::group_notice::Notice::Skipped(span));
    assert!(member.machine.on_notice(&v1::GroupNotice { notice }).is_err());
    assert!(member.machine.on_notice(&v1::GroupNotice { notice: None }).is_err());
}

#[test]
fn a_server_is_silent_from_the_first_frame_that_it_does_not_answer() {
    let mut member = Member::joined();
    member.delivered(1, range(0, 3));
    let begun = member.now;
    member.frame();
    member.now += Duration::from_secs(3);
    member.machine.ack(tag(1), range(0, 1), None);
    member.frame();
    assert_eq!(member.machine.silent_since(), Some(begun));
    member.settled(1, &[]);
    assert_eq!(member.machine.silent_since(), Some(member.now));
    member.settled(2, &[]);
    assert_eq!(member.machine.silent_since(), None);
}

mod model {
    //! The lease table beside a map of offsets.

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Deliver(u64, u64),
        Begin(u64),
        Ack(u64, u64),
        Rewind(u64),
        Tell,
        Answer,
        Disconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (offset, len) = (0..40u64, 1..9u64);
        prop_oneof![
            (offset.clone(), len.clone()).prop_map(|(from, len)| Step::Deliver(from, len)),
            offset.clone().prop_map(Step::Begin),
            (offset.clone(), len).prop_map(|(from, len)| Step::Ack(from, len)),
            offset.prop_map(Step::Rewind),
            Just(Step::Tell),
            Just(Step::Answer),
            Just(Step::Disconnect),
        ]
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Is {
        Buffered,
        Begun,
        Said,
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_was_delivered_and_not_answered(
            steps in proptest::collection::vec(step(), 1..60),
        ) {
            let mut machine = Machine::new(1_000, 1 << 30);
            machine.on_joined(false);
            // Offset to the newest delivery that this member has of it.
            let mut model: BTreeMap<u64, (u64, Is)> = BTreeMap::new();
            let (mut lease, now) = (0, Instant::now());
            for step in steps {
                match step {
                    Step::Deliver(from, len) => {
                        lease += 1;
                        machine.on_delivered(run_of(tag(lease), range(from, from + len)));
                        model.extend((from..from + len).map(|at| (at, (lease, Is::Buffered))));
                    }
                    Step::Begin(at) => {
                        let of = model.get(&at).map_or(0, |(lease, _)| *lease);
                        let (begun, _) = machine.begin(of, range(at, at + 1));
                        let is_new = model.get(&at).is_some_and(|(_, is)| *is == Is::Buffered);
                        prop_assert_eq!(!begun.is_empty(), is_new);
                        if is_new {
                            model.insert(at, (of, Is::Begun));
                        }
                    }
                    Step::Ack(from, len) => {
                        // Applications say something of what they have begun, once.
                        let of = model.get(&from).map_or(0, |(lease, _)| *lease);
                        let all = from..from + len;
                        if all.clone().all(|at| model.get(&at) == Some(&(of, Is::Begun))) {
                            machine.ack(tag(of), range(from, from + len), None);
                            model.extend(all.map(|at| (at, (of, Is::Said))));
                        }
                    }
                    Step::Rewind(to) => {
                        let notice = Some(v1::group_notice::Notice::RewindTo(to));
                        machine.on_notice(&v1::GroupNotice { notice }).unwrap();
                        model.retain(|at, (_, is)| *at < to || *is != Is::Buffered);
                    }
                    Step::Tell => while let Transmit::Settle(_) = machine.poll_transmit(now) {},
                    Step::Answer => {
                        while let Transmit::Settle(_) = machine.poll_transmit(now) {
                            let settled = v1::Settled { through: machine.number, stale: vec![] };
                            machine.on_settled(&settled, now).unwrap();
                        }
                        let settled = v1::Settled { through: machine.number, stale: vec![] };
                        machine.on_settled(&settled, now).unwrap();
                        while let Transmit::Settle(_) = machine.poll_transmit(now) {
                            let settled = v1::Settled { through: machine.number, stale: vec![] };
                            machine.on_settled(&settled, now).unwrap();
                        }
                        model.retain(|_, (_, is)| *is != Is::Said);
                        prop_assert!(machine.is_settled());
                    }
                    Step::Disconnect => {
                        machine.on_disconnected();
                        machine.on_joined(false);
                    }
                }
                let held: BTreeMap<u64, (u64, bool)> = machine
                    .hold()
                    .iter()
                    .flat_map(|held| held.range.iter().map(|at| (at.0, (held.lease, held.begun))))
                    .collect();
                let wanted: BTreeMap<u64, (u64, bool)> =
                    model.iter().map(|(at, (lease, is))| (*at, (*lease, *is != Is::Buffered))).collect();
                prop_assert_eq!(held, wanted);
                let buffered = model.values().filter(|(_, is)| *is == Is::Buffered).count();
                prop_assert_eq!(machine.leases.buffered(), buffered);
            }
        }
    }
}
