use railgun_client::WireError;

use super::*;

const STREAM: StreamUid = StreamUid([1; 16]);
const TS: Timestamp = Timestamp(7);

fn history() -> History {
    History::new(Trace::begin())
}

/// Messages of one lane.
fn sent(history: &History, ordered: bool, count: usize) -> Vec<(MessageId, Message)> {
    let lane = history.lane(ordered);
    (0..count).map(|_| history.message(STREAM, lane, 20)).collect()
}

fn broken(history: &History) -> Vec<String> {
    let rule = |text: String| text.split(':').next().unwrap_or_default().to_owned();
    history.violations().into_iter().map(rule).collect()
}

#[test]
fn an_undisturbed_history_is_sound() {
    let history = history();
    for (at, (id, value)) in (0..).zip(sent(&history, true, 3)) {
        history.ended(id, End::Published(Offset(at), TS));
        history.read(STREAM, Offset(at), TS, &(&value).into(), "a reader");
    }
    history.check_whole();
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!((history.acked_end(STREAM), history.counts()), (Offset(3), (3, 3)));
}

#[test]
fn what_was_acked_stays_where_it_was() {
    let history = history();
    let messages = sent(&history, true, 2);
    history.ended(messages[0].0, End::Published(Offset(0), TS));
    history.read(STREAM, Offset(0), TS, &(&messages[1].1).into(), "a reader");
    assert_eq!(broken(&history), ["PS-1"], "another record is there");
    history.read(STREAM, Offset(0), Timestamp(8), &(&messages[0].1).into(), "a reader");
    assert_eq!(broken(&history), ["PS-1", "PS-1"], "it has another log time");
}

#[test]
fn a_retried_message_is_appended_once() {
    let history = history();
    let (_, value) = &sent(&history, true, 1)[0];
    history.read(STREAM, Offset(0), TS, &value.into(), "a reader");
    history.read(STREAM, Offset(1), TS, &value.into(), "a reader");
    assert_eq!(broken(&history), ["PQ-1"]);
}

#[test]
fn a_definite_error_is_definite() {
    let history = history();
    let messages = sent(&history, false, 3);
    history.read(STREAM, Offset(0), TS, &(&messages[0].1).into(), "a reader");
    history.ended(messages[0].0, End::Refused);
    assert_eq!(broken(&history), ["PS-3"], "seen, then refused");
    history.ended(messages[1].0, End::Refused);
    history.read(STREAM, Offset(1), TS, &(&messages[1].1).into(), "a reader");
    assert_eq!(broken(&history), ["PS-3", "PS-3"], "refused, then seen");
    history.ended(messages[2].0, End::Unknown);
    history.read(STREAM, Offset(2), TS, &(&messages[2].1).into(), "a reader");
    assert_eq!(broken(&history).len(), 2, "what is unknown may be there");
}

#[test]
fn order_atomicity_and_density_are_judged_at_the_end() {
    let judge = |ordered, places: &[(usize, u64)], atomic: bool| {
        let history = history();
        let messages = sent(&history, ordered, 3);
        if atomic {
            history.atomic(messages.iter().map(|(id, _)| *id).collect());
        }
        for (message, offset) in places {
            history.read(STREAM, Offset(*offset), TS, &(&messages[*message].1).into(), "a reader");
        }
        history.check_whole();
        broken(&history)
    };
    assert_eq!(judge(true, &[(0, 0), (1, 1)], false), [""; 0]);
    assert_eq!(judge(true, &[(1, 0), (0, 1)], false), ["PS-2"], "out of order");
    assert_eq!(judge(true, &[(0, 0), (2, 1)], false), ["PS-2"], "behind one that failed");
    assert_eq!(judge(false, &[(2, 0), (0, 1)], false), [""; 0], "no order was asked for");
    assert_eq!(judge(false, &[(0, 0), (1, 2)], false), ["PS-2"], "a hole");
    assert_eq!(judge(false, &[(0, 0), (1, 1)], true), ["PS-4"], "a part of a batch");
}

#[test]
fn what_nobody_published_is_wrong() {
    let history = history();
    // One that has everything a message may have.
    let sent = sent(&history, true, 40);
    let (id, message) = sent.iter().find(|(_, message)| message.id.is_some()).expect("one in five");
    let whole = Said::from(message);
    let mut damaged = message.value.to_vec();
    damaged[19] ^= 1;
    let mut turned = whole.headers.clone();
    turned.reverse();
    let wrong = [
        Said { value: &damaged, ..whole.clone() },
        Said { key: None, ..whole.clone() },
        Said { key: Some(b"another"), ..whole.clone() },
        Said { headers: turned, ..whole.clone() },
        Said { headers: Vec::new(), ..whole.clone() },
        Said { producer_ts: None, ..whole.clone() },
        Said { id: Some(b"another"), ..whole.clone() },
        Said::default(),
    ];
    for said in &wrong {
        assert_eq!(history.read(STREAM, Offset(0), TS, said, "a reader"), None, "{said:?}");
    }
    history.read(StreamUid([2; 16]), Offset(0), TS, &whole, "a reader");
    assert_eq!(broken(&history), ["I9"; 9]);
    assert_eq!(history.read(STREAM, Offset(0), TS, &whole, "a reader"), Some(*id));
    assert_eq!(broken(&history).len(), 9, "it is what was published");
}

#[test]
fn records_come_one_after_the_other() {
    let history = history();
    let mut next = Offset(3);
    history.follows("PS-5", STREAM, &mut next, Offset(3));
    assert_eq!((next, broken(&history)), (Offset(4), Vec::new()));
    history.follows("PS-5", STREAM, &mut next, Offset(3));
    history.follows("I7", STREAM, &mut next, Offset(5));
    assert_eq!(broken(&history), ["PS-5", "I7"], "one twice, then one left out");
}

#[test]
fn nothing_at_the_end_of_a_stream_is_lost() {
    let history = history();
    let messages = sent(&history, true, 2);
    history.ended(messages[0].0, End::Published(Offset(0), TS));
    history.read(STREAM, Offset(1), TS, &(&messages[1].1).into(), "a reader");
    history.check_end(STREAM, Offset(2));
    assert_eq!(broken(&history), [""; 0]);
    history.check_end(STREAM, Offset(1));
    assert_eq!(broken(&history), ["PS-5"], "seen, never acked, gone");
    history.check_end(STREAM, Offset(0));
    assert_eq!(broken(&history), ["PS-5", "PS-1"]);
    history.deleted(STREAM);
    history.check_end(STREAM, Offset(0));
    assert_eq!(broken(&history).len(), 2, "nothing is promised of a deleted stream");
}

#[test]
fn what_has_not_ended_is_open() {
    let history = history();
    let messages = sent(&history, true, 4);
    let ends = [End::Published(Offset(0), TS), End::Refused, End::Unknown];
    ends.into_iter().zip(&messages).for_each(|(end, message)| history.ended(message.0, end));
    assert!(history.open().into_iter().eq([messages[3].0]));
}

#[test]
fn log_time_of_a_stream_never_falls() {
    let history = history();
    let messages = sent(&history, false, 2);
    history.read(STREAM, Offset(0), Timestamp(8), &(&messages[0].1).into(), "a reader");
    history.read(STREAM, Offset(1), Timestamp(7), &(&messages[1].1).into(), "a reader");
    history.check_whole();
    assert_eq!(broken(&history), ["log time"]);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_looks_late_is_told_what_was_wrong_before() {
    let history = history();
    let refused = |code| PublishError::Refused(WireError::new(code, "so it is"));
    let unavailable = refused(ErrorCode::Unavailable);
    let (early, _) = sent(&history, true, 1).remove(0);
    history.node_is_ill(true);
    history.node_is_ill(false);
    tokio::time::advance(2 * EXCUSED).await;
    let (late, _) = sent(&history, true, 1).remove(0);
    assert!(history.excuses_end(early, &unavailable));
    assert!(!history.excuses_end(late, &unavailable), "all was well when it was sent");
    assert!(!history.excuses_end(early, &refused(ErrorCode::Internal)));
}

#[tokio::test(start_paused = true)]
async fn log_time_that_is_still_to_come_is_noticed() {
    let history = history();
    let right = SimClock::begin();
    let messages = sent(&history, false, 2);
    let ahead = |us| Timestamp(right.now().0 + us);
    history.compare_log_time(right.clone());
    let (first, second) = (ahead(LOG_OFF_US_MAX), ahead(LOG_OFF_US_MAX + 1));
    history.read(STREAM, Offset(0), first, &(&messages[0].1).into(), "a reader");
    assert!(history.is_sound());
    history.read(STREAM, Offset(1), second, &(&messages[1].1).into(), "a reader");
    assert_eq!(broken(&history), ["CL-6"]);
}

#[tokio::test(start_paused = true)]
async fn log_time_that_is_long_over_is_noticed() {
    let history = history();
    let right = SimClock::begin();
    let behind = |us| Timestamp(right.now().0 - us);
    history.is_of_now(STREAM, Offset(0), behind(LOG_OFF_US_MAX + 1));
    assert!(history.is_sound(), "the time is not known");
    history.compare_log_time(right.clone());
    history.is_of_now(STREAM, Offset(0), behind(LOG_OFF_US_MAX));
    assert!(history.is_sound());
    history.is_of_now(STREAM, Offset(0), behind(LOG_OFF_US_MAX + 1));
    assert_eq!(broken(&history), ["CL-6"]);
}

#[test]
fn nothing_is_promised_about_a_deleted_stream() {
    let history = history();
    let (id, _) = sent(&history, true, 1)[0];
    history.ended(id, End::Published(Offset(0), TS));
    assert_eq!(history.acked().len(), 1);
    history.deleted(STREAM);
    assert!(history.acked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_an_excuse_for_a_while() {
    let history = history();
    let excused = || {
        [ErrorCode::ColdCorrupt, ErrorCode::Unavailable, ErrorCode::ProtocolViolation]
            .map(|code| history.excuses(WireCode::Known(code)))
    };
    history.bucket_is_ill(false);
    history.node_is_ill(false);
    assert_eq!(excused(), [false; 3], "nothing was ever wrong");
    history.node_is_ill(true);
    tokio::time::advance(10 * EXCUSED).await;
    assert_eq!(excused(), [false, true, false], "the bucket is well");
    history.node_is_ill(false);
    assert_eq!(excused(), [false, true, false], "it was ill until now");
    assert!(history.excuses_silence());
    tokio::time::advance(EXCUSED).await;
    assert_eq!(excused(), [false; 3]);
    assert!(!history.excuses_silence());
    history.bucket_is_ill(true);
    assert_eq!(excused(), [true, false, false], "a node needs no bucket to serve");
    assert!(history.excuses_silence(), "but it may run out of room");
    history.bucket_is_ill(false);
    tokio::time::advance(EXCUSED).await;
    assert_eq!(excused(), [false; 3]);
}

#[test]
fn what_is_sent_again_with_its_id_is_there_once() {
    // DD-1, DD-2
    let history = history();
    let (id, value) = history.boxed_message(STREAM, history.lane(false), 20);
    assert_eq!(history.again(id), value);
    let told = |offset, duplicate| Published { offset: Offset(offset), ts: TS, duplicate };
    history.boxed_ended(id, Ok(told(0, true)));
    history.boxed_ended(id, Ok(told(0, false)));
    assert_eq!(broken(&history), [""; 0], "the answer to the first may come last");
    history.again(id);
    history.boxed_ended(id, Ok(told(1, true)));
    assert_eq!(broken(&history), ["DD-2"], "elsewhere");
    history.again(id);
    history.boxed_ended(id, Ok(told(0, false)));
    assert_eq!(broken(&history), ["DD-2", "DD-2"], "the first again");
    history.read(STREAM, Offset(2), TS, &(&value).into(), "a reader");
    assert_eq!(broken(&history)[2..], ["DD-2"], "it is there twice");
}

#[test]
fn a_message_is_refused_when_none_of_its_sends_may_arrive() {
    let history = history();
    let (id, value) = history.boxed_message(STREAM, history.lane(false), 20);
    let refused = PublishError::OrderBroken;
    history.again(id);
    history.boxed_ended(id, Err(&refused));
    assert!(history.open().contains(&id), "the other one may arrive");
    history.boxed_ended(id, Err(&refused));
    assert!(history.open().is_empty());
    history.again(id);
    history.read(STREAM, Offset(0), TS, &(&value).into(), "a reader");
    assert_eq!(broken(&history), [""; 0], "it was sent once more");
}
