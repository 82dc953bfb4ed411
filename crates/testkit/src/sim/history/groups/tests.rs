use railgun_client::{DeadOffsets, GroupName, Message};

use super::super::super::said::Said;
use super::super::super::trace::Trace;
use super::super::{End, MessageId};
use super::*;

const STREAM: StreamUid = StreamUid([1; 16]);
const COMPANION: StreamUid = StreamUid([2; 16]);

fn group(is_exclusive: bool) -> (History, GroupNumber) {
    let history = History::new(Trace::begin());
    let group = history.group(STREAM, GroupName::new("crew").expect("a name"), is_exclusive);
    (history, group)
}

fn broken(history: &History) -> Vec<String> {
    let rule = |text: String| text.split(':').next().unwrap_or_default().to_owned();
    history.violations().into_iter().map(rule).collect()
}

/// The first attempt with a message.
fn first(offset: u64) -> Handed {
    Handed { offset: Offset(offset), attempt: 1, generation: 0, token: None }
}

fn with_token(offset: u64, token: u32) -> Handed {
    Handed { token: Some(token), ..first(offset) }
}

async fn later() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn ack(history: &History, by: MemberNumber, handed: Handed) {
    history.handed(by, handed);
    history.acked_for_good(by, handed, history.trace.elapsed());
}

fn dead(range: std::ops::Range<u64>) -> DeadOffsets {
    let range = OffsetRange::new(Offset(range.start), Offset(range.end));
    DeadOffsets { dead: vec![range], ..DeadOffsets::default() }
}

/// A message, and its dead letter with this redrive generation.
fn letter(history: &History, offset: u64, generation: u32) -> (MessageId, Message) {
    let (id, message) = history.message(STREAM, history.lane(false), 8);
    let headers = [
        ("rg-dlq-uid", STREAM.to_string()),
        ("rg-dlq-group", "crew".to_owned()),
        ("rg-dlq-offset", offset.to_string()),
        ("rg-dlq-redrive-gen", generation.to_string()),
    ];
    let letter = |message: Message, (key, value)| message.with_header(key, value);
    (id, headers.into_iter().fold(message, letter))
}

fn read(history: &History, at: u64, letter: &Message) {
    let said = Said::from(letter);
    history.read(COMPANION, Offset(at), railgun_client::Timestamp(7), &said, "a reader");
}

#[tokio::test(start_paused = true)]
async fn what_was_acked_for_good_does_not_come_again() {
    // G-3
    let (history, group) = group(false);
    let [one, two] = [(); 2].map(|()| history.joins(group));
    later().await;
    ack(&history, one, first(4));
    let again = Handed { attempt: 2, ..first(4) };
    history.handed(two, again);
    assert_eq!(broken(&history), [""; 0], "it lay in a buffer");
    later().await;
    let three = history.joins(group);
    history.handed(three, again);
    assert_eq!(broken(&history), ["G-3"]);
    history.handed(one, again);
    assert_eq!(broken(&history), ["G-3", "G-3"], "to who has acked it");
}

#[tokio::test(start_paused = true)]
async fn no_attempt_is_counted_that_nobody_began() {
    // G-10
    let (history, group) = group(false);
    let member = history.joins(group);
    history.handed(member, first(4));
    history.handed(member, Handed { attempt: 2, ..first(4) });
    history.handed(member, first(5));
    assert_eq!(broken(&history), [""; 0]);
    history.handed(member, Handed { attempt: 3, ..first(5) });
    assert_eq!(broken(&history), ["G-10"]);
    history.redrives(group);
    history.handed(member, Handed { generation: 1, ..first(4) });
    history.handed(member, Handed { generation: 2, ..first(4) });
    assert_eq!(broken(&history), ["G-10", "DL-7"], "one redrive, two generations");
}

#[tokio::test(start_paused = true)]
async fn tokens_go_up_from_member_to_member() {
    //
    let (history, group) = group(true);
    let [one, two] = [(); 2].map(|()| history.joins(group));
    history.handed(one, with_token(1, 1));
    later().await;
    history.handed(two, with_token(2, 2));
    history.handed(one, with_token(3, 1));
    assert_eq!(broken(&history), [""; 0], "it does not know yet");
    history.handed(one, with_token(4, 2));
    assert_eq!(broken(&history), ["X-1"], "of another");
    later().await;
    let three = history.joins(group);
    history.handed(three, with_token(4, 1));
    assert_eq!(broken(&history), ["X-1", "X-1"], "it joined when there was a newer one");
    history.handed(two, first(9));
    assert_eq!(broken(&history).len(), 3, "without a token");
    history.handed(three, with_token(10, 4));
    history.handed(three, with_token(11, 3));
    assert_eq!(broken(&history).len(), 4, "back");
}

#[tokio::test(start_paused = true)]
async fn an_ack_with_an_old_token_does_not_count() {
    //
    let (history, group) = group(true);
    let [one, two] = [(); 2].map(|()| history.joins(group));
    history.handed(one, with_token(1, 1));
    let asked = history.trace.elapsed();
    later().await;
    ack(&history, two, with_token(2, 2));
    history.acked_for_good(one, with_token(1, 1), asked);
    assert_eq!(broken(&history), [""; 0], "its answer was late");
    later().await;
    history.acked_for_good(one, with_token(1, 1), history.trace.elapsed());
    assert_eq!(broken(&history), ["X-2"]);
}

#[tokio::test(start_paused = true)]
async fn an_ack_of_an_earlier_attempt_does_not_count() {
    // G-7
    let (history, group) = group(false);
    let [one, two] = [(); 2].map(|()| history.joins(group));
    [4, 5, 6, 7].into_iter().for_each(|offset| history.handed(one, first(offset)));
    let asked = history.trace.elapsed();
    later().await;
    let again = |offset| Handed { attempt: 2, ..first(offset) };
    [4, 5, 6].into_iter().for_each(|offset| history.handed(two, again(offset)));
    history.handed(one, again(7));
    later().await;
    history.acked_for_good(one, first(4), asked);
    history.says_acked(two, again(5));
    history.acked_for_good(one, first(5), history.trace.elapsed());
    history.says_acked(one, again(7));
    history.acked_for_good(one, first(7), history.trace.elapsed());
    assert_eq!(broken(&history), [""; 0], "said before, and said by who has it");
    history.acked_for_good(one, first(6), history.trace.elapsed());
    assert_eq!(broken(&history), ["G-7"]);
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_was_told_is_kept() {
    // G-1
    let (history, group) = group(false);
    history.floor_told(group, Offset(5));
    history.floor_told(group, Offset(3));
    history.check_floor(group, Offset(5));
    assert_eq!(broken(&history), [""; 0], "one that did not lead any more told the other");
    history.check_floor(group, Offset(4));
    assert_eq!(broken(&history), ["G-1"]);
}

#[tokio::test(start_paused = true)]
async fn the_active_member_has_messages_in_order() {
    //
    let (history, group) = group(true);
    let member = history.joins(group);
    for offset in [3, 4, 7] {
        history.handed(member, with_token(offset, 1));
    }
    history.handed(member, Handed { attempt: 2, ..with_token(4, 1) });
    history.redrives(group);
    history.handed(member, Handed { generation: 1, ..with_token(2, 1) });
    assert_eq!(broken(&history), [""; 0], "rewound and redriven");
    history.handed(member, with_token(5, 1));
    assert_eq!(broken(&history), ["X-3"]);
}

#[tokio::test(start_paused = true)]
async fn each_message_is_acked_or_dead_in_the_end() {
    // G-2, DL-3, DL-7
    let (history, group) = group(false);
    let member = history.joins(group);
    ack(&history, member, first(0));
    history.handed(member, first(1));
    history.says_acked(member, first(1));
    history.handed(member, first(2));
    let (_, two) = letter(&history, 2, 0);
    read(&history, 0, &two);
    history.check_settled(group, Offset(3), &dead(2..3));
    assert_eq!(broken(&history), [""; 0]);
    history.check_settled(group, Offset(4), &dead(2..3));
    assert_eq!(broken(&history), ["G-2"], "nobody has acked the fourth");
    history.check_settled(group, Offset(4), &dead(2..4));
    assert_eq!(broken(&history)[1..], ["DL-3"], "it has no letter");
    history.check_settled(group, Offset(3), &dead(0..3));
    assert_eq!(broken(&history)[2..], ["G-3"], "the first was acked");
    history.says_acked(member, first(2));
    history.check_settled(group, Offset(3), &DeadOffsets::default());
    assert_eq!(broken(&history)[3..], ["DL-7"], "nobody has redriven it");
    later().await;
    history.redrives(group);
    history.check_settled(group, Offset(3), &DeadOffsets::default());
    assert_eq!(broken(&history).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_was_acked_for_good_does_not_die() {
    // DL-3, G-3
    let (history, group) = group(false);
    let member = history.joins(group);
    [0, 1].into_iter().for_each(|offset| ack(&history, member, first(offset)));
    history.check_settled(group, Offset(2), &dead(0..1));
    assert_eq!(broken(&history), ["G-3"]);
    later().await;
    history.redrives(group);
    history.check_settled(group, Offset(2), &DeadOffsets::default());
    assert_eq!(broken(&history).len(), 1);
    let (_, one) = letter(&history, 1, 0);
    read(&history, 0, &one);
    history.check_settled(group, Offset(2), &DeadOffsets::default());
    assert_eq!(broken(&history)[1..], ["DL-3"], "before it was redriven");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_the_whole_message_once() {
    // DL-3, DL-4
    let (history, _) = group(false);
    let (id, dead) = letter(&history, 4, 0);
    read(&history, 0, &dead);
    read(&history, 0, &dead);
    let again = history.inner.with(|inner| inner.messages[id as usize].end);
    assert_eq!((again, broken(&history)), (End::Open, Vec::new()), "it is no message itself");
    read(&history, 1, &dead);
    assert_eq!(broken(&history), ["DL-3"]);
    let mut other = letter(&history, 5, 0).1;
    other.value = "something else, and long enough".into();
    read(&history, 2, &other);
    assert_eq!(broken(&history)[1..], ["DL-4"]);
}
