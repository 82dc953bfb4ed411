//! A member that fetches (G-15).

use super::*;

impl Member {
    fn pulling() -> Self {
        let mut machine = Machine::new(100, 1 << 20).pulling();
        machine.on_joined(false);
        Self { machine, now: Instant::now() }
    }

    fn fetch(&mut self, messages: u32) {
        self.machine.fetch(Demand { messages, bytes: 1_000, no_wait: false });
    }

    /// The next frame asks for so many messages.
    fn asks(&mut self, number: u64, messages: u32) {
        match self.machine.poll_transmit(self.now) {
            Transmit::Fetch(fetch) => {
                assert_eq!((fetch.number, fetch.messages), (number, messages))
            }
            other => panic!("{other:?}"),
        }
    }

    fn answered(&mut self, number: u64) {
        self.notice(v1::group_notice::Notice::Fetching(number));
    }

    fn fetched(&mut self) -> Vec<OffsetRange> {
        self.machine.take_fetched().0.iter().map(Run::range).collect()
    }
}

#[test]
fn a_fetch_is_done_with_what_it_asked_for() {
    let mut member = Member::pulling();
    member.answered(0);
    member.waits();
    assert!(member.machine.is_fetched(), "nothing was asked for");
    member.fetch(3);
    member.asks(1, 3);
    member.waits();
    member.answered(1);
    member.deliver(1, range(5, 7));
    assert!(!member.machine.is_fetched());
    member.deliver(2, range(9, 10));
    assert!(member.machine.is_fetched());
    assert_eq!(member.fetched(), [range(5, 7), range(9, 10)]);
    assert_eq!(member.machine.buffer_bytes, 0);
    // The server has nothing to withdraw.
    assert_eq!(member.frame(), [(1, 5, 2, BEGIN), (2, 9, 1, BEGIN)]);
    member.waits();
    // What is acked makes room for what is fetched.
    member.machine.ack(tag(2), range(9, 10), None);
    member.fetch(1);
    assert_eq!(member.frame(), [(2, 9, 1, ACK)]);
    member.asks(2, 1);
}

#[test]
fn what_comes_behind_the_end_of_a_fetch_is_nobodys() {
    let mut member = Member::pulling();
    member.fetch(3);
    member.asks(1, 3);
    member.answered(1);
    member.deliver(1, range(0, 2));
    // Its time is over.
    assert_eq!(member.fetched(), [range(0, 2)]);
    member.deliver(2, range(2, 3));
    assert_eq!(member.frame(), [(1, 0, 2, BEGIN)]);
    member.asks(2, 0);
    // The next one begins before the server has heard that.
    member.fetch(1);
    member.asks(3, 1);
    member.answered(2);
    member.deliver(3, range(2, 4));
    assert!(!member.machine.is_fetched(), "the server takes it back");
    member.answered(3);
    member.deliver(4, range(2, 3));
    assert_eq!(member.fetched(), [range(2, 3)]);
    assert_eq!(member.frame(), [(4, 2, 1, BEGIN)]);
    member.waits();
    assert_eq!(member.machine.buffer.len(), 0);
}

#[test]
fn what_was_said_before_is_told_before_a_fetch() {
    // G-8, G-12
    let mut member = Member::pulling();
    member.fetch(5);
    member.asks(1, 5);
    member.answered(1);
    member.deliver(1, range(0, 5));
    member.fetched();
    for offset in 0..4 {
        member.machine.ack(tag(1), range(offset, offset + 1), None);
        member.frame();
    }
    member.machine.ack(tag(1), range(4, 5), None);
    member.fetch(1);
    // Nothing more may be un-answered: the ack, which makes room for what is fetched, waits, and so does that.
    member.waits();
    member.settled(1, &[]);
    assert_eq!(member.frame(), [(1, 4, 1, ACK)]);
    member.asks(2, 1);
}

#[test]
fn a_fetch_that_nobody_waits_for_gives_back_what_it_has() {
    let mut member = Member::pulling();
    member.fetch(2);
    member.asks(1, 2);
    member.answered(1);
    member.deliver(1, range(0, 2));
    member.machine.fetch(Demand::default());
    member.asks(2, 0);
    member.answered(2);
    member.waits();
    assert_eq!((member.fetched(), hold(&mut member.machine)), (vec![], vec![]));
    // Nobody has asked for that.
    let unasked = v1::GroupNotice { notice: Some(v1::group_notice::Notice::Fetching(3)) };
    let fault = Fault::Unfetched { number: 3, sent: 2 };
    assert_eq!(member.machine.on_notice(&unasked), Err(fault));
}

#[test]
fn the_server_may_say_that_no_more_comes() {
    let mut member = Member::pulling();
    member.fetch(9);
    member.asks(1, 9);
    member.notice(v1::group_notice::Notice::Fetched(1));
    assert!(!member.machine.is_fetched(), "it has not begun");
    member.answered(1);
    member.deliver(1, range(0, 2));
    member.notice(v1::group_notice::Notice::Fetched(0));
    assert!(!member.machine.is_fetched(), "of the one before");
    member.notice(v1::group_notice::Notice::Skipped(range(2, 4).into()));
    member.notice(v1::group_notice::Notice::Fetched(1));
    assert!(member.machine.is_fetched());
    assert_eq!(member.fetched(), [range(0, 2)]);
    assert_eq!(member.machine.take_news(), Some(News::Skipped(range(2, 4))));
    assert_eq!(member.machine.take_news(), None);
    member.frame();
    member.waits();
}

#[test]
fn what_is_rewound_is_waited_for_again() {
    //
    let mut member = Member::pulling();
    member.fetch(3);
    member.asks(1, 3);
    member.answered(1);
    member.deliver(1, range(4, 7));
    assert!(member.machine.is_fetched());
    member.notice(v1::group_notice::Notice::RewindTo(5));
    assert!(!member.machine.is_fetched());
    member.deliver(2, range(5, 7));
    assert!(member.machine.is_fetched());
    assert_eq!(member.fetched(), [range(4, 5), range(5, 7)]);
}

#[test]
fn of_a_run_of_which_parts_were_handed_out_anew_the_rest_is_fetched() {
    let mut member = Member::pulling();
    member.fetch(6);
    member.asks(1, 6);
    member.answered(1);
    member.deliver(1, range(0, 6));
    member.deliver(2, range(0, 1));
    member.deliver(3, range(2, 4));
    let wanted = [range(1, 2), range(4, 6), range(0, 1), range(2, 4)];
    assert_eq!(member.fetched(), wanted);
}

#[test]
fn another_server_is_asked_again_and_told_what_was_begun() {
    // G-14
    let mut member = Member::pulling();
    member.fetch(2);
    member.asks(1, 2);
    member.answered(1);
    member.deliver(1, range(0, 1));
    assert_eq!(member.fetched(), [range(0, 1)]);
    member.frame();
    member.asks(2, 0);
    member.answered(2);
    member.fetch(2);
    member.asks(3, 2);
    member.answered(3);
    member.deliver(2, range(1, 2));
    member.machine.on_disconnected();
    assert_eq!(hold(&mut member.machine), [held(1, range(0, 1), true)]);
    member.machine.on_joined(false);
    assert!(!member.machine.is_fetched());
    member.asks(1, 2);
    member.answered(1);
    member.deliver(7, range(1, 3));
    assert_eq!(member.fetched(), [range(1, 3)]);
    member.frame();
    // Between two fetches there is nothing to ask for.
    member.machine.on_disconnected();
    member.machine.on_joined(false);
    member.waits();
    // Who drains fetches nothing.
    member.machine.drain();
    member.fetch(2);
    assert!(member.machine.is_fetched());
    assert_eq!(member.machine.poll_transmit(member.now), Transmit::Drain);
    member.waits();
    // Nor does who has no place.
    member.machine.end(None);
    assert!(!member.machine.is_fetched() && member.machine.over().is_some());
}
