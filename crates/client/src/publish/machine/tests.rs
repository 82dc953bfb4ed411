use railgun_proto::convert::ExpectedEnd;
use railgun_types::batch::RecordBatch;
use railgun_types::limits::PUBLISHER_STREAMS;
use railgun_types::{ErrorCode, Offset, Retry, Timestamp};

use super::*;
use crate::publish::lane::BindStatus;
use crate::publish::outcome::{BatchResult, Published};

mod leaving;

const GIVE_UP: Duration = Duration::from_secs(10);

/// A machine with a connection, and a list of what the tickets were told.
struct Rig {
    machine: Machine,
    now: Instant,
    out: Vec<Completion>,
}

type Slot = (BatchOutcome, u32);

impl Rig {
    fn new(ordered: bool) -> Self {
        Self::telling(ordered, OnDuplicate::default())
    }

    fn telling(ordered: bool, on_duplicate: OnDuplicate) -> Self {
        let settings =
            Settings { ordered, unanswered_max: 8, give_up_after: GIVE_UP, on_duplicate, seed: 7 };
        let mut machine = Machine::new(settings);
        machine.on_connected(64 << 20, 8);
        Self { machine, now: Instant::now(), out: Vec::new() }
    }

    fn with_lane(ordered: bool) -> (Self, LaneId) {
        let mut rig = Self::new(ordered);
        let lane = rig.lane("orders");
        (rig, lane)
    }

    fn lane(&mut self, name: &str) -> LaneId {
        let lane = self.unbound_lane(name);
        self.bind(lane, 1);
        lane
    }

    fn unbound_lane(&mut self, name: &str) -> LaneId {
        let name = StreamName::new(name).expect("a valid name");
        self.machine.add_lane(&name).expect("few streams")
    }

    /// Asks for the binding of a lane and answers it.
    fn bind(&mut self, lane: LaneId, uid: u8) {
        let Transmit::Bind(bind) = self.poll() else { panic!("no bind") };
        assert_eq!(bind.alias, lane.0);
        let bound = v1::StreamBound {
            alias: lane.0,
            stream_uid: Bytes::copy_from_slice(&[uid; 16]),
            message_bytes_max: 1 << 20,
            error: None,
            shard: 0,
        };
        self.machine.on_bound(bound, self.now, &mut self.out).expect("asked for");
    }

    fn push(&mut self, lane: LaneId, value: &[u8]) -> (Slot, bool) {
        let draft = RecordDraft { value, ..RecordDraft::default() };
        let bytes = value.len() + 16;
        let pushed = self.machine.push(lane, &draft, bytes, bytes, BatchOptions::default());
        let (outcome, index, wake) = pushed.expect("the lane takes messages");
        ((outcome, index), wake)
    }

    fn poll(&mut self) -> Transmit {
        self.machine.poll_transmit(self.now, &mut self.out)
    }

    /// The next frame as (alias, sequence, values) of each of its batches.
    fn frame(&mut self) -> Vec<(u32, u64, Vec<String>)> {
        let Transmit::Publish(publish, blob) = self.poll() else { panic!("no frame") };
        let mut blob = Bytes::from(blob.concat());
        let batches = publish.items.iter().map(|item| {
            let batch = blob.split_to(item.batch_bytes as usize);
            let batch = RecordBatch::verify(batch).expect("a batch");
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let values = batch.records().filter_map(|r| r.content()).map(|c| text(c.value));
            (item.alias, item.sequence, values.collect())
        });
        let batches = batches.collect();
        assert!(blob.is_empty());
        batches
    }

    fn expect_wait(&mut self) -> Option<Instant> {
        match self.poll() {
            Transmit::Wait(at) => at,
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, results: Vec<v1::ItemResult>) {
        let result = v1::PublishResult { items: results };
        self.machine.on_result(result, self.now, &mut self.out).expect("a lawful answer");
        self.tell();
    }

    /// Does what `Shared::complete` does.
    fn tell(&mut self) {
        for completion in self.out.drain(..) {
            completion.outcome.set(completion.result).expect("told once");
        }
    }

    fn disconnect(&mut self) {
        self.machine.on_disconnected(self.now, &mut self.out);
        self.machine.on_connected(64 << 20, 8);
        self.tell();
    }
}

fn result((outcome, index): &Slot) -> Option<Result<u64, PublishError>> {
    outcome.get().map(|batch: &BatchResult| {
        batch.record(*index).map(|Published { offset: Offset(offset), .. }| offset)
    })
}

fn published(base: u64, count: u32) -> v1::ItemResult {
    v1::ItemResult { base_offset: base, ts_us: 1, published: count, ..v1::ItemResult::default() }
}

fn refused(error: WireError) -> v1::ItemResult {
    v1::ItemResult { error: Some(error.into()), ..v1::ItemResult::default() }
}

fn gap(expected: u64) -> v1::ItemResult {
    refused(WireError::new(ErrorCode::SequenceGap, "").with_actual(expected))
}

fn one(sequence: u64, values: &[&str]) -> Vec<(u32, u64, Vec<String>)> {
    vec![(0, sequence, values.iter().map(|v| (*v).to_owned()).collect())]
}

#[test]
fn a_lone_message_goes_out_at_once_and_those_behind_coalesce() {
    let (mut rig, lane) = Rig::with_lane(true);
    assert_eq!(rig.expect_wait(), None);

    // Parked: the first message wakes the sender, those that join it before it looks do not.
    let (a, wake) = rig.push(lane, b"a");
    assert!(wake);
    let (_, wake) = rig.push(lane, b"b");
    assert!(!wake);
    assert_eq!(rig.frame(), one(0, &["a", "b"]));

    // One un-answered: a second small frame is still allowed, a third is not.
    rig.push(lane, b"c");
    assert_eq!(rig.frame(), one(2, &["c"]));
    assert_eq!(rig.expect_wait(), None);
    let (d, wake) = rig.push(lane, b"d");
    assert!(!wake);
    rig.push(lane, b"e");
    assert_eq!(rig.expect_wait(), None);

    // An answer lets what waited go, as one batch.
    rig.answer(vec![published(10, 2)]);
    assert_eq!(result(&a), Some(Ok(10)));
    assert_eq!(result(&d), None);
    assert_eq!(rig.frame(), one(3, &["d", "e"]));
    rig.answer(vec![published(12, 1)]);
    rig.answer(vec![published(13, 2)]);
    assert_eq!(result(&d), Some(Ok(13)));
    assert!(rig.machine.is_idle());
}

#[test]
fn a_full_frame_goes_out_up_to_the_window() {
    let (mut rig, lane) = Rig::with_lane(true);
    let value = vec![7; FRAME_BYTES_WORTH];
    for sequence in 0..8 {
        rig.push(lane, &value);
        assert_eq!(rig.frame()[0].1, sequence);
    }
    rig.push(lane, &value);
    assert_eq!(rig.expect_wait(), None);
    rig.answer(vec![published(0, 1)]);
    assert_eq!(rig.frame()[0].1, 8);
}

#[test]
fn batches_close_at_one_mebibyte_and_frames_stay_within_credit() {
    let (mut rig, lane) = Rig::with_lane(true);
    let value = vec![7; 400_000];
    for _ in 0..5 {
        rig.push(lane, &value);
    }
    rig.machine.on_connected(1_700_000, 8);
    // Two fit into a batch, and two batches are within the credit.
    assert_eq!(rig.frame()[0].2.len(), 2);
    assert_eq!(rig.frame()[0].2.len(), 2);
    assert_eq!(rig.expect_wait(), None);
    rig.answer(vec![published(0, 2)]);
    assert_eq!(rig.frame()[0].2.len(), 1);
}

#[test]
fn a_frame_carries_one_batch_of_each_stream_that_waits() {
    let mut rig = Rig::new(true);
    let (a, b) = (rig.lane("a"), rig.lane("b"));
    rig.push(a, b"a0");
    rig.push(b, b"b0");
    rig.push(a, b"a1");
    let text = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    assert_eq!(rig.frame(), [(0, 0, text(&["a0", "a1"])), (1, 0, text(&["b0"]))]);
    rig.push(b, b"b1");
    assert_eq!(rig.frame(), [(1, 1, text(&["b1"]))]);
}

#[test]
fn what_was_unanswered_is_repeated_under_its_own_sequence() {
    // PQ-1: a lost connection, the same batches again, in order, before what is new.
    let (mut rig, lane) = Rig::with_lane(true);
    let (a, _) = rig.push(lane, b"a");
    rig.frame();
    let (b, _) = rig.push(lane, b"b");
    rig.frame();
    rig.push(lane, b"c");
    rig.answer(vec![published(0, 1)]);
    rig.disconnect();
    assert_eq!(result(&a), Some(Ok(0)));
    rig.bind(lane, 1);
    assert_eq!(rig.frame(), one(1, &["b"]));
    assert_eq!(rig.frame(), one(2, &["c"]));
    rig.answer(vec![published(1, 1)]);
    assert_eq!(result(&b), Some(Ok(1)));
}

#[test]
fn a_temporary_refusal_is_repeated_in_order_when_its_time_has_come() {
    let (mut rig, lane) = Rig::with_lane(true);
    let (a, _) = rig.push(lane, b"a");
    rig.frame();
    let (b, _) = rig.push(lane, b"b");
    rig.frame();
    let wait = Duration::from_millis(300);
    let full = WireError::new(ErrorCode::HotTierFull, "").with_retry(Retry::After(wait));
    rig.answer(vec![refused(full)]);
    // b is still un-answered, and new messages wait behind.
    rig.push(lane, b"c");
    assert_eq!(rig.expect_wait(), None);
    rig.answer(vec![gap(0)]);
    assert_eq!(rig.expect_wait(), Some(rig.now + wait));
    rig.now += wait;
    assert_eq!(rig.frame(), one(0, &["a"]));
    assert_eq!(rig.frame(), one(1, &["b"]));
    rig.answer(vec![published(0, 1)]);
    assert_eq!(rig.frame(), one(2, &["c"]));
    rig.answer(vec![published(1, 1)]);
    assert_eq!((result(&a), result(&b)), (Some(Ok(0)), Some(Ok(1))));
}

#[test]
fn waits_grow_until_the_server_takes_something_and_one_is_for_all_that_were_in_flight() {
    let (mut rig, lane) = Rig::with_lane(true);
    let no_leader = || refused(WireError::new(ErrorCode::NotLeader, ""));
    let refuse = |rig: &mut Rig| {
        rig.frame();
        rig.frame();
        rig.answer(vec![no_leader()]);
        rig.answer(vec![no_leader()]);
        let at = rig.expect_wait().expect("a time to go on");
        let wait = at.duration_since(rig.now);
        rig.now = at;
        wait
    };
    let full = |ms| Duration::from_millis(ms);
    rig.push(lane, b"a");
    rig.frame();
    rig.push(lane, b"b");
    rig.frame();
    rig.answer(vec![no_leader()]);
    rig.answer(vec![no_leader()]);
    rig.now = rig.expect_wait().expect("a time to go on");
    for full_ms in [40, 80, 160, 320, 500, 500] {
        let wait = refuse(&mut rig);
        assert!((full(full_ms) / 2..full(full_ms)).contains(&wait), "{full_ms}: {wait:?}");
    }
    assert_eq!(rig.frame(), one(0, &["a"]));
    assert_eq!(rig.frame(), one(1, &["b"]));
    rig.answer(vec![published(0, 1)]);
    rig.answer(vec![no_leader()]);
    let wait = rig.expect_wait().expect("a time to go on").duration_since(rig.now);
    assert!((full(10)..full(20)).contains(&wait), "{wait:?}");
}

#[test]
fn what_is_behind_something_that_nobody_was_told_of_is_repeated() {
    // As a server says that still notes what it has refused before, which was repeated and appended since.
    let (mut rig, lane) = Rig::with_lane(true);
    let (a, _) = rig.push(lane, b"a");
    rig.frame();
    rig.answer(vec![refused(WireError::new(ErrorCode::OrderBroken, ""))]);
    rig.now = rig.expect_wait().expect("a time to go on");
    assert_eq!(rig.frame(), one(0, &["a"]));
    rig.answer(vec![published(0, 1)]);
    assert_eq!(result(&a), Some(Ok(0)));
}

#[test]
fn a_temporary_refusal_becomes_final_when_patience_ends() {
    let (mut rig, lane) = Rig::with_lane(true);
    let (a, _) = rig.push(lane, b"a");
    let full = WireError::new(ErrorCode::HotTierFull, "full").with_retry(Retry::Now);
    for _ in 0..2 {
        rig.frame();
        rig.answer(vec![refused(full.clone())]);
        assert_eq!(result(&a), None);
        rig.now += GIVE_UP / 2;
    }
    rig.frame();
    rig.answer(vec![refused(full.clone())]);
    // Definite: each attempt was refused.
    assert_eq!(result(&a), Some(Err(PublishError::Refused(full))));
}

#[test]
fn one_failure_breaks_the_order_until_it_is_seen() {
    // PS-2, ordered.
    let (mut rig, lane) = Rig::with_lane(true);
    let (good, _) = rig.push(lane, b"good");
    let (bad, _) = rig.push(lane, b"bad");
    let (rest, _) = rig.push(lane, b"rest");
    rig.frame();
    let (flying, _) = rig.push(lane, b"flying");
    rig.frame();
    let (waiting, _) = rig.push(lane, b"waiting");
    let error = WireError { record: Some(1), ..WireError::new(ErrorCode::IdRequired, "") };
    let partial = v1::ItemResult { error: Some(error.clone().into()), ..published(5, 1) };
    rig.answer(vec![partial]);
    assert_eq!(result(&good), Some(Ok(5)));
    assert_eq!(result(&bad), Some(Err(PublishError::Refused(error.clone()))));
    assert_eq!(result(&rest), Some(Err(PublishError::OrderBroken)));
    assert_eq!(result(&waiting), Some(Err(PublishError::OrderBroken)));
    let draft = RecordDraft::default();
    let pushed = rig.machine.push(lane, &draft, 16, 16, BatchOptions::default());
    assert!(matches!(pushed, Err(SendError::OrderBroken { .. })));

    // Not before everything of before is answered can the user go on.
    assert_eq!(rig.machine.resume(lane), None);
    rig.answer(vec![refused(WireError::new(ErrorCode::OrderBroken, ""))]);
    assert_eq!(result(&flying), Some(Err(PublishError::OrderBroken)));
    assert_eq!(rig.machine.resume(lane), Some(Some(PublishError::Refused(error))));

    // The sequence has advanced by what is in the stream (PQ-1).
    let (again, _) = rig.push(lane, b"again");
    assert_eq!(rig.frame(), one(1, &["again"]));
    rig.answer(vec![published(6, 1)]);
    assert_eq!(result(&again), Some(Ok(6)));
}

#[test]
fn an_id_that_is_taken_fails_its_own_message_and_a_duplicate_only_where_it_is_to() {
    // DD-2
    let known = v1::Duplicate { record: 1, offset: 3, ts_us: 7 };
    for on_duplicate in [OnDuplicate::Report, OnDuplicate::Error] {
        let mut rig = Rig::telling(true, on_duplicate);
        let lane = rig.lane("orders");
        let tickets = ["new", "known", "newer"].map(|value| rig.push(lane, value.as_bytes()).0);
        rig.frame();
        rig.answer(vec![v1::ItemResult { duplicates: vec![known], ..published(5, 3) }]);
        let told: Vec<_> = tickets.iter().map(result).collect();
        let duplicate = PublishError::Duplicate { offset: Offset(3), ts: Timestamp(7) };
        let (as_known, failure) = match on_duplicate {
            OnDuplicate::Report => (Ok(3), None),
            OnDuplicate::Error => (Err(duplicate.clone()), Some(duplicate)),
        };
        // It breaks no order, and whoever only flushes hears of it.
        assert_eq!(told, [Some(Ok(5)), Some(as_known), Some(Ok(6))]);
        assert_eq!(rig.machine.lane(lane).failure, failure);
        let tickets = ["taken", "behind"].map(|value| rig.push(lane, value.as_bytes()).0);
        assert_eq!(rig.frame(), one(3, &["taken", "behind"]));
        let taken = WireError::new(ErrorCode::DuplicateIdConflict, "").with_actual(2);
        rig.answer(vec![refused(WireError { record: Some(0), ..taken })]);
        let conflict = PublishError::IdConflict { original: Offset(2) };
        let told: Vec<_> = tickets.iter().map(result).collect();
        assert_eq!(told, [Some(Err(conflict)), Some(Err(PublishError::OrderBroken))]);
    }
}

#[test]
fn without_order_those_behind_a_failure_are_numbered_anew() {
    let (mut rig, lane) = Rig::with_lane(false);
    let (bad, _) = rig.push(lane, b"bad");
    rig.frame();
    let (b, _) = rig.push(lane, b"b");
    rig.frame();
    rig.push(lane, b"c");
    let error = WireError::new(ErrorCode::InvalidHeader, "");
    rig.answer(vec![refused(error.clone())]);
    assert_eq!(result(&bad), Some(Err(PublishError::Refused(error))));
    rig.answer(vec![gap(0)]);
    assert_eq!(rig.frame(), one(0, &["b"]));
    assert_eq!(rig.frame(), one(1, &["c"]));
    rig.answer(vec![published(0, 1)]);
    assert_eq!(result(&b), Some(Ok(0)));
}

#[test]
fn an_unknown_outcome_takes_another_producer_before_anything_follows() {
    // The sequence of a message whose fate is unknown may be in use: under it, the server would
    // answer a later message with the result of that one.
    let (mut rig, lane) = Rig::with_lane(true);
    rig.push(lane, b"before");
    rig.frame();
    rig.answer(vec![published(0, 1)]);
    let (a, _) = rig.push(lane, b"a");
    rig.frame();
    rig.disconnect();
    rig.machine.fail_all("no connection", &mut rig.out);
    rig.tell();
    assert!(matches!(result(&a), Some(Err(PublishError::Unknown { .. }))));
    assert!(rig.machine.resume(lane).is_some());
    rig.bind(lane, 1);
    rig.push(lane, b"b");
    assert_eq!(rig.poll(), Transmit::NewProducer);
    rig.disconnect();
    rig.machine.on_new_producer();
    rig.bind(lane, 1);
    assert_eq!(rig.frame(), one(0, &["b"]));
}

#[test]
fn without_order_one_unknown_outcome_ends_all_whose_number_depends_on_it() {
    // PS-3: three on a connection that was lost; the first is refused for good afterwards.
    let (mut rig, lane) = Rig::with_lane(false);
    let (slots, values) = (["a", "b", "c"], vec![7; FRAME_BYTES_WORTH]);
    let slots = slots.map(|_| {
        let (slot, _) = rig.push(lane, &values);
        rig.frame();
        slot
    });
    rig.disconnect();
    rig.bind(lane, 1);
    let (later, _) = rig.push(lane, b"later");
    for _ in 0..3 {
        rig.frame();
    }
    rig.answer(vec![refused(WireError::new(ErrorCode::ExpectedOffsetMismatch, ""))]);
    rig.answer(vec![gap(0)]);
    rig.answer(vec![gap(0)]);
    // None of them can be repeated under its number, and under another it might be there twice.
    assert_eq!(rig.poll(), Transmit::NewProducer);
    rig.tell();
    for slot in &slots {
        assert!(matches!(result(slot), Some(Err(PublishError::Unknown { .. }))));
    }
    rig.disconnect();
    rig.machine.on_new_producer();
    rig.bind(lane, 1);
    assert_eq!(rig.frame(), one(0, &["later"]));
    rig.answer(vec![published(0, 1)]);
    assert_eq!(result(&later), Some(Ok(0)));
}

#[test]
fn what_is_ambiguous_behind_a_refused_batch_is_still_repeated_when_another_stream_is_tainted() {
    let mut rig = Rig::new(false);
    let (a, b) = (rig.lane("a"), rig.lane("b"));
    let (lost, _) = rig.push(a, b"lost");
    rig.frame();
    rig.disconnect();
    rig.bind(a, 1);
    rig.bind(b, 1);
    let (first, _) = rig.push(b, b"first");
    assert_eq!(rig.frame().len(), 2);
    let (second, _) = rig.push(b, b"second");
    rig.frame();
    // Stream a is done with this producer. In stream b, the first is refused for now, and nothing
    // is known of the second.
    let mismatch = refused(WireError::new(ErrorCode::ExpectedOffsetMismatch, ""));
    rig.answer(vec![mismatch, refused(WireError::new(ErrorCode::HotTierFull, ""))]);
    rig.answer(vec![refused(WireError::new(ErrorCode::OutcomeUnknown, ""))]);
    assert!(matches!(result(&lost), Some(Err(PublishError::Unknown { .. }))));
    rig.now += Duration::from_secs(1);
    assert_eq!(rig.frame()[0].2, ["first"]);
    assert_eq!(rig.frame()[0].2, ["second"]);
    rig.answer(vec![published(0, 1)]);
    rig.answer(vec![published(1, 1)]);
    assert_eq!((result(&first), result(&second)), (Some(Ok(0)), Some(Ok(1))));
    assert_eq!(rig.poll(), Transmit::NewProducer);
}

#[test]
fn a_forgotten_producer_begins_again_only_with_nothing_ambiguous() {
    // PQ-1, ProducerUnknown. With everything answered before, the message was not appended.
    let unknown = || refused(WireError::new(ErrorCode::ProducerUnknown, ""));
    let (mut rig, lane) = Rig::with_lane(true);
    rig.push(lane, b"a");
    rig.frame();
    rig.answer(vec![published(0, 1)]);
    let (b, _) = rig.push(lane, b"b");
    assert_eq!(rig.frame(), one(1, &["b"]));
    rig.answer(vec![unknown()]);
    assert_eq!(result(&b), None);
    assert_eq!(rig.frame(), one(0, &["b"]));

    // Sent on a connection that was lost, it may have been appended before it was forgotten.
    rig.disconnect();
    rig.bind(lane, 1);
    assert_eq!(rig.frame(), one(0, &["b"]));
    rig.answer(vec![unknown()]);
    assert!(matches!(result(&b), Some(Err(PublishError::Unknown { .. }))));
}

#[test]
fn a_stream_made_again_under_the_same_name_is_another_stream() {
    let (mut rig, lane) = Rig::with_lane(true);
    let (sent, _) = rig.push(lane, b"sent");
    rig.frame();
    let (waiting, _) = rig.push(lane, b"waiting");
    rig.disconnect();
    rig.bind(lane, 2);
    rig.tell();
    assert!(matches!(result(&sent), Some(Err(PublishError::Unknown { .. }))));
    assert!(
        matches!(result(&waiting), Some(Err(PublishError::Refused(e))) if e.code == ErrorCode::StreamDeleted)
    );
}

#[test]
fn an_answer_that_does_not_fit_is_refused() {
    let (mut rig, lane) = Rig::with_lane(true);
    let answer = |rig: &mut Rig, items| {
        rig.machine.on_result(v1::PublishResult { items }, rig.now, &mut rig.out)
    };
    assert_eq!(answer(&mut rig, vec![]), Err(ProtocolError::UnaskedResult));
    let (a, _) = rig.push(lane, b"a");
    rig.frame();
    assert_eq!(
        answer(&mut rig, vec![]),
        Err(ProtocolError::ResultCount { results: 0, batches: 1 })
    );
    // More published than sent, or fewer without an error.
    for lie in [2, 0] {
        assert_eq!(
            answer(&mut rig, vec![published(0, lie)]),
            Err(ProtocolError::PublishedCount { published: lie, records: 1 })
        );
        assert_eq!(result(&a), None);
        rig.disconnect();
        rig.bind(lane, 1);
        assert_eq!(rig.frame(), one(0, &["a"]));
    }
    rig.answer(vec![published(0, 1)]);
    assert_eq!(result(&a), Some(Ok(0)));
}

#[test]
fn a_second_answer_to_a_refused_binding_is_refused() {
    let mut rig = Rig::new(true);
    rig.unbound_lane("absent");
    assert!(matches!(rig.poll(), Transmit::Bind(_)));
    let absent = WireError::new(ErrorCode::StreamNotFound, "");
    let refusal = v1::StreamBound { error: Some(absent.into()), ..v1::StreamBound::default() };
    rig.machine.on_bound(refusal.clone(), rig.now, &mut rig.out).expect("asked for");
    let again = rig.machine.on_bound(refusal, rig.now, &mut rig.out);
    assert_eq!(again, Err(ProtocolError::UnknownAlias { alias: 0 }));
    // Nothing is owed, and what is dead is not bound on the next connection.
    assert_eq!(rig.machine.answer_due(), None);
    rig.disconnect();
    assert_eq!(rig.expect_wait(), None);
}

#[test]
fn a_publisher_takes_as_many_streams_as_a_server_binds() {
    let mut rig = Rig::new(true);
    let name = |n: usize| StreamName::new(&format!("s{n}")).expect("a valid name");
    for n in 0..PUBLISHER_STREAMS {
        assert!(rig.machine.add_lane(&name(n)).is_some());
    }
    assert_eq!(rig.machine.add_lane(&name(PUBLISHER_STREAMS)), None);
    assert!(!rig.machine.awaits_places());
    // One that was never bound leaves its place at once.
    rig.machine.release(LaneId(7));
    assert_eq!(rig.machine.add_lane(&name(PUBLISHER_STREAMS)), Some(LaneId(7)));
}

#[test]
fn a_server_that_answers_nothing_is_given_up_and_what_it_was_sent_is_unknown() {
    // PS-3, time-out: the connection lives, the disk behind it does not.
    let (mut rig, lane) = Rig::with_lane(true);
    assert_eq!(rig.machine.answer_due(), None);
    let (a, _) = rig.push(lane, b"a");
    rig.frame();
    let due = rig.now + GIVE_UP;
    assert_eq!(rig.machine.answer_due(), Some(due));
    rig.now += GIVE_UP / 2;
    let (b, _) = rig.push(lane, b"b");
    rig.frame();
    let (waiting, _) = rig.push(lane, b"waiting");
    assert_eq!(rig.machine.answer_due(), Some(due), "more that is owed is no answer");
    rig.now = due;
    rig.disconnect();
    assert_eq!(rig.machine.answer_due(), None);
    for sent in [a, b] {
        assert!(matches!(result(&sent), Some(Err(PublishError::Unknown { .. }))));
    }
    assert_eq!(result(&waiting), Some(Err(PublishError::OrderBroken)));
    assert!(rig.machine.is_idle());
}

#[test]
fn every_answer_gives_a_slow_server_more_time() {
    let mut rig = Rig::new(true);
    let lane = rig.unbound_lane("orders");
    rig.poll();
    assert_eq!(rig.machine.answer_due(), Some(rig.now + GIVE_UP), "a binding is owed too");
    let bound = v1::StreamBound {
        stream_uid: Bytes::copy_from_slice(&[1; 16]),
        message_bytes_max: 1 << 20,
        ..v1::StreamBound::default()
    };
    rig.machine.on_bound(bound, rig.now, &mut rig.out).expect("asked for");
    assert_eq!(rig.machine.answer_due(), None);
    let (a, _) = rig.push(lane, b"a");
    rig.frame();
    let (b, _) = rig.push(lane, b"b");
    rig.frame();
    rig.now += GIVE_UP - Duration::from_secs(1);
    rig.answer(vec![published(0, 1)]);
    assert_eq!(rig.machine.answer_due(), Some(rig.now + GIVE_UP));
    // A connection that was lost soon after an answer is worth another, however old the message.
    rig.now += Duration::from_secs(2);
    rig.disconnect();
    assert_eq!((result(&a), result(&b)), (Some(Ok(0)), None));
    rig.bind(lane, 1);
    assert_eq!(rig.frame(), one(1, &["b"]));
    rig.answer(vec![published(1, 1)]);
    assert_eq!(result(&b), Some(Ok(1)));
    assert_eq!(rig.machine.answer_due(), None);
}

#[test]
fn a_message_that_loses_every_connection_ends() {
    // PS-3: it may be what kills the server, whenever it comes.
    let (mut rig, lane) = Rig::with_lane(false);
    let started = rig.now;
    let (a, _) = rig.push(lane, b"a");
    while rig.now < started + GIVE_UP {
        assert_eq!(result(&a), None);
        assert_eq!(rig.frame(), one(0, &["a"]));
        rig.now += Duration::from_secs(3);
        rig.disconnect();
        rig.bind(lane, 1);
    }
    assert!(matches!(result(&a), Some(Err(PublishError::Unknown { .. }))));
    let (b, _) = rig.push(lane, b"b");
    assert_eq!(rig.poll(), Transmit::NewProducer);
    rig.disconnect();
    rig.machine.on_new_producer();
    rig.bind(lane, 1);
    assert_eq!(rig.frame(), one(0, &["b"]));
    rig.answer(vec![published(0, 1)]);
    assert_eq!(result(&b), Some(Ok(0)));
}

#[test]
fn a_stream_that_no_connection_lives_to_bind_ends_what_waits_for_it() {
    let (mut rig, lane) = Rig::with_lane(true);
    let fresh = rig.unbound_lane("fresh");
    rig.disconnect();
    let (waiting, _) = rig.push(lane, b"waiting");
    let started = rig.now;
    while rig.now < started + GIVE_UP {
        assert_eq!(result(&waiting), None);
        assert_eq!(rig.machine.lane(fresh).bind_status(), BindStatus::Pending);
        assert!(matches!(rig.poll(), Transmit::Bind(_)));
        assert!(matches!(rig.poll(), Transmit::Bind(_)));
        rig.now += Duration::from_secs(3);
        rig.disconnect();
    }
    assert!(matches!(result(&waiting), Some(Err(PublishError::NotSent { .. }))));
    let status = rig.machine.lane(fresh).bind_status();
    assert!(matches!(status, BindStatus::Unreachable(_)), "{status:?}");

    // What is pushed afterwards has its own time, with a server that is up again but not ready.
    assert!(rig.machine.resume(lane).is_some());
    let (next, _) = rig.push(lane, b"next");
    assert!(matches!(rig.poll(), Transmit::Bind(_)));
    let starting = WireError::new(ErrorCode::StreamStarting, "");
    let refusal = v1::StreamBound { error: Some(starting.into()), ..v1::StreamBound::default() };
    rig.machine.on_bound(refusal, rig.now, &mut rig.out).expect("asked for");
    rig.now += Duration::from_secs(1);
    rig.bind(lane, 1);
    rig.frame();
    rig.answer(vec![published(0, 1)]);
    assert_eq!(result(&next), Some(Ok(0)));
}

#[test]
fn a_stream_knows_its_own_batches_wherever_they_are() {
    let mut rig = Rig::new(false);
    let (a, b) = (rig.lane("a"), rig.lane("b"));
    let value = vec![7; FRAME_BYTES_WORTH];
    let full = WireError::new(ErrorCode::HotTierFull, "").with_retry(Retry::Now);
    // One in flight, one to be repeated behind it, one that is closed, one that is open.
    rig.push(b, &value);
    rig.push(a, &value);
    rig.frame();
    rig.push(a, &value);
    rig.frame();
    rig.answer(vec![published(0, 1), refused(full)]);
    let options = BatchOptions { atomic: true, ..BatchOptions::default() };
    let draft = || [RecordDraft::default()].into_iter();
    rig.machine.push_atomic(a, draft(), 16, options).expect("taken");
    rig.push(a, b"open");
    assert_eq!(rig.machine.outcomes_of(a).len(), 4);
    assert_eq!(rig.machine.outcomes_of(b).len(), 0);
    assert_eq!(rig.machine.outcomes().len(), 4);
}

#[test]
fn closing_waits_for_every_answer() {
    let (mut rig, lane) = Rig::with_lane(true);
    rig.push(lane, b"a");
    rig.machine.close();
    let draft = RecordDraft::default();
    let pushed = rig.machine.push(lane, &draft, 16, 16, BatchOptions::default());
    assert_eq!(pushed.err(), Some(SendError::Closed));
    rig.frame();
    assert_eq!(rig.expect_wait(), None);
    rig.answer(vec![published(0, 1)]);
    assert_eq!(rig.poll(), Transmit::Close { forget: true });
}

#[test]
fn a_server_does_not_forget_a_producer_of_whose_batches_copies_may_come() {
    // PQ-1: the first batch of a lane that the server does not know is appended whenever it comes.
    let mut rig = Rig::new(true);
    let (a, b) = (rig.lane("a"), rig.lane("b"));
    rig.push(a, b"a");
    rig.frame();
    rig.push(b, b"b");
    rig.frame();
    rig.answer(vec![published(0, 1)]);
    rig.disconnect();
    rig.bind(a, 1);
    rig.bind(b, 1);
    assert_eq!(rig.frame()[0].2, ["b"]);
    rig.answer(vec![published(0, 1)]);
    rig.machine.close();
    assert_eq!(rig.poll(), Transmit::Close { forget: false });
}

#[test]
fn a_new_producer_and_a_connection_lost_while_all_was_answered_leave_no_copies() {
    let (mut rig, lane) = Rig::with_lane(true);
    rig.push(lane, b"lost");
    rig.frame();
    rig.disconnect();
    rig.machine.fail_all("no connection", &mut rig.out);
    rig.tell();
    assert!(rig.machine.resume(lane).is_some());
    rig.bind(lane, 1);
    assert_eq!(rig.poll(), Transmit::NewProducer);
    rig.disconnect();
    rig.machine.on_new_producer();
    rig.bind(lane, 1);
    rig.push(lane, b"next");
    rig.frame();
    rig.answer(vec![published(0, 1)]);
    rig.disconnect();
    rig.bind(lane, 1);
    rig.machine.close();
    assert_eq!(rig.poll(), Transmit::Close { forget: true });
}

#[test]
fn an_expected_end_makes_a_batch_of_its_own() {
    let (mut rig, lane) = Rig::with_lane(true);
    rig.push(lane, b"a");
    let options = BatchOptions {
        expected_end: Some(ExpectedEnd::LastOffset(Offset(0))),
        ..BatchOptions::default()
    };
    let draft = RecordDraft { value: b"b", ..RecordDraft::default() };
    rig.machine.push(lane, &draft, 16, 16, options).expect("taken");
    rig.push(lane, b"c");
    let Transmit::Publish(first, _) = rig.poll() else { panic!("no frame") };
    let Transmit::Publish(second, _) = rig.poll() else { panic!("no frame") };
    assert_eq!(first.items[0].expected_last_offset, None);
    assert_eq!(second.items[0].expected_last_offset, Some(0));
    assert_eq!(second.items[0].sequence, 1);
}

#[test]
fn every_byte_permit_comes_back() {
    let (mut rig, lane) = Rig::with_lane(true);
    let mut given = 0;
    for size in [1, 1000, 700_000, 700_000, 5] {
        rig.push(lane, &vec![0; size]);
        given += size + 16;
    }
    let mut back = 0;
    while let Transmit::Publish(publish, blob) = rig.poll() {
        let batch = RecordBatch::verify(blob.concat().into()).expect("a batch");
        assert_eq!(publish.items.len(), 1);
        let result = v1::PublishResult { items: vec![published(0, batch.count() as u32)] };
        rig.machine.on_result(result, rig.now, &mut rig.out).expect("lawful");
        back += rig.out.drain(..).map(|completion| completion.permits).sum::<usize>();
    }
    assert_eq!(back, given);
}
