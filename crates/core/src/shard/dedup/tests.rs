//! Each rule by itself, one phase after another; then all of them beside a naive model.

use proptest::prelude::*;
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::limits::PRODUCER_DUPLICATES_PER_SHARD;
use railgun_types::{
    ClusterUid, DedupPatch, EnsureMode, EntryId, Offset, ProducerId, ShardId, SpecPatch, StreamName,
};

use super::*;
use crate::command::{
    Append, AppendMode, Command, CommandBody, EnsureStream, ExpectedNext, ProducerSequence,
    StreamCommand,
};
use crate::shard::{AppendRefusal, Appended, EnsureRefused, Ensured, Outcome, ShardState};

const CLUSTER: ClusterUid = ClusterUid([7; 16]);
const SHARD: ShardId = ShardId(1);
const A: StreamUid = StreamUid([1; 16]);
const S: i64 = 1_000_000;

/// What became of a batch: the offset of its first new record, how many of its records are in the stream, which
/// of them are duplicates of which offsets, and why the rest is not.
type Became = Result<(u64, u32, Vec<(u32, u64)>, Option<AppendRefusal>), AppendRefusal>;

struct Shard {
    state: ShardState,
    now: i64,
    next: u64,
}

impl Shard {
    /// With one stream whose box is ten seconds long.
    fn new() -> Self {
        Self::with(window(10))
    }

    fn with(dedup: DedupPatch) -> Self {
        let mut shard = Self { state: ShardState::new(CLUSTER, SHARD), now: 100 * S, next: 0 };
        assert_eq!(shard.ensure(dedup, true), Ok(Ensured::Created));
        shard
    }

    fn apply(&mut self, body: CommandBody) -> Outcome {
        let at = EntryId { index: self.next, term: 1 };
        self.next += 1;
        self.state.apply(at, &Command { ts: Timestamp(self.now), body })
    }

    fn ensure(
        &mut self,
        dedup: DedupPatch,
        allow_destructive: bool,
    ) -> Result<Ensured, EnsureRefused> {
        let ensure = EnsureStream {
            stream: A,
            name: StreamName::new("s").expect("valid"),
            patch: SpecPatch { dedup, ..SpecPatch::default() },
            mode: EnsureMode::Overwrite,
            if_revision: None,
            allow_destructive,
            request: None,
        };
        match self.apply(CommandBody::Stream(StreamCommand::Ensure(ensure))) {
            Outcome::Ensured(ensured) => ensured,
            other => panic!("{other:?}"),
        }
    }

    fn append(&mut self, item: Append) -> Result<Appended, AppendRefusal> {
        match self.apply(CommandBody::Append(vec![item])) {
            Outcome::Appended(mut results) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn became(&mut self, item: Append) -> Became {
        let appended = self.append(item)?;
        let duplicates = appended.duplicates().iter().map(|it| (it.record, it.offset.0)).collect();
        Ok((appended.base.0, appended.count, duplicates, appended.refused()))
    }

    fn publish(&mut self, records: &[(&str, &str)]) -> Became {
        self.became(item(records))
    }

    /// Whether these ids are known, each by itself.
    fn known(&self, ids: &[&str]) -> Vec<bool> {
        let known = |id: &&str| {
            let mut copy = Self { state: self.state.clone(), ..*self };
            matches!(copy.publish(&[(id, "1")]), Ok((_, _, duplicates, _)) if !duplicates.is_empty())
        };
        ids.iter().map(known).collect()
    }

    fn next_offset(&self) -> u64 {
        self.state.stream(A).expect("there").next_offset().0
    }

    /// As another replica gets it.
    fn restored(&self) -> ShardState {
        let bytes = self.state.encode_checkpoint(b"", true).pieces().concat();
        ShardState::decode_checkpoint(CLUSTER, SHARD, &bytes).expect("our own").state
    }
}

fn window(seconds: u64) -> DedupPatch {
    DedupPatch { window_ms: Some(seconds * 1_000), ..DedupPatch::default() }
}

fn full(max_ids: u64, full: DedupFull) -> DedupPatch {
    DedupPatch { max_ids: Some(max_ids), full: Some(full), ..window(10) }
}

/// Records with ids and values; an empty id is none.
fn batch(records: &[(&str, &str)]) -> RecordBatch {
    let mut builder = BatchBuilder::new(1 << 20);
    for (id, value) in records {
        let id = Some(id.as_bytes()).filter(|id| !id.is_empty());
        let value = value.as_bytes();
        builder.push(&RecordDraft { id, value, ..RecordDraft::default() }).expect("small");
    }
    RecordBatch::verify(builder.finish().concat()).expect("our own")
}

fn item(records: &[(&str, &str)]) -> Append {
    let (mode, batch) = (AppendMode::Each, batch(records));
    Append { stream: A, producer: None, mode, expected_end: None, dead_letter: None, batch }
}

fn by(producer: u8, sequence: u64, item: Append) -> Append {
    let id = ProducerId([producer; 16]);
    Append { producer: Some(ProducerSequence { id, epoch: 0, sequence }), ..item }
}

#[test]
fn an_id_that_comes_again_in_its_time_is_appended_once() {
    // DD-1: up to the end of the window and not a microsecond longer.
    let mut shard = Shard::new();
    assert_eq!(shard.publish(&[("a", "1")]), Ok((0, 1, vec![], None)));
    shard.now += 10 * S;
    assert_eq!(shard.publish(&[("a", "1")]), Ok((1, 1, vec![(0, 0)], None)));
    assert_eq!(shard.next_offset(), 1);
    // DD-2: that does not make its time longer.
    shard.now += 1;
    assert_eq!(shard.publish(&[("a", "1")]), Ok((1, 1, vec![], None)));
    assert_eq!(shard.publish(&[("a", "1")]), Ok((2, 1, vec![(0, 1)], None)));
    // Two proposals in one entry: the first in the log is the one.
    let two = CommandBody::Append(vec![item(&[("b", "1")]), item(&[("b", "1")])]);
    let Outcome::Appended(results) = shard.apply(two) else { panic!("batches") };
    let of = |at: usize| results[at].as_ref().map(|it| it.duplicates().len());
    assert_eq!((of(0), of(1)), (Ok(0), Ok(1)));
    // Without an id nothing is compared, and the same id on another stream is another one.
    assert_eq!(shard.publish(&[("", "1"), ("", "1")]), Ok((3, 2, vec![], None)));
    assert_eq!(shard.state.dedup_figures(A).ids, 2);
}

#[test]
fn each_record_of_a_batch_is_judged_and_offsets_stay_dense() {
    // DD-1, PS-2
    let mut shard = Shard::new();
    assert_eq!(shard.publish(&[("a", "1"), ("b", "1")]), Ok((0, 2, vec![], None)));
    let mixed = [("c", "1"), ("a", "1"), ("d", "1"), ("c", "1"), ("b", "1"), ("", "x"), ("e", "1")];
    assert_eq!(shard.publish(&mixed), Ok((2, 7, vec![(1, 0), (3, 2), (4, 1)], None)));
    assert_eq!(shard.next_offset(), 6);
    // The records that were added, as whoever reads or uploads them finds them.
    let stream = shard.state.stream(A).expect("there");
    let points: Vec<_> = stream.index().from(Offset(2)).collect();
    let runs: Vec<_> = points.iter().map(|it| (it.base.0, it.skip, it.count)).collect();
    assert_eq!(runs, [(2, 0, 1), (3, 2, 1), (4, 5, 2)]);
    let added = batch(&[("c", "1"), ("d", "1"), ("", "x"), ("e", "1")]);
    let bytes = |of: &RecordBatch| (of.body_bytes() + of.id_bytes()) as u64;
    let open = stream.open().expect("records").record_bytes;
    assert_eq!(open, bytes(&batch(&[("a", "1"), ("b", "1")])) + bytes(&added));
    // Of a batch that adds nothing there is nothing to read.
    assert_eq!(shard.publish(&[("a", "1"), ("e", "1")]), Ok((6, 2, vec![(0, 0), (1, 5)], None)));
    assert_eq!(shard.state.stream(A).expect("there").index().len(), 4);
}

#[test]
fn another_message_under_the_same_id_is_a_conflict() {
    // DD-2
    let mut shard = Shard::new();
    assert_eq!(shard.publish(&[("a", "1")]), Ok((0, 1, vec![], None)));
    let conflict = |record| AppendRefusal::IdConflict { record, original: Offset(0) };
    assert_eq!(shard.publish(&[("a", "2")]), Err(conflict(0)));
    // PS-2: it takes with it what is behind it, and not what is before; a duplicate does not.
    let partly = shard.publish(&[("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")]);
    assert_eq!(partly, Ok((1, 2, vec![(0, 0)], Some(conflict(2)))));
    assert_eq!((shard.next_offset(), shard.known(&["a", "b", "c"])), (2, vec![true, true, false]));
    // Also within one batch.
    let own = AppendRefusal::IdConflict { record: 1, original: Offset(2) };
    assert_eq!(shard.publish(&[("d", "1"), ("d", "2")]), Ok((2, 1, vec![], Some(own))));
}

#[test]
fn a_message_without_an_id_is_refused_where_one_is_required() {
    let mut shard = Shard::with(DedupPatch { require_id: Some(true), ..window(10) });
    assert_eq!(shard.publish(&[("", "1")]), Err(AppendRefusal::IdRequired { record: 0 }));
    let refused = Some(AppendRefusal::IdRequired { record: 1 });
    assert_eq!(shard.publish(&[("a", "1"), ("", "1")]), Ok((0, 1, vec![], refused)));
    // Whether or not ids are compared.
    let mut shard = Shard::with(DedupPatch { require_id: Some(true), ..window(0) });
    assert_eq!(shard.publish(&[("", "1")]), Err(AppendRefusal::IdRequired { record: 0 }));
    assert_eq!(shard.publish(&[("a", "1"), ("a", "1")]), Ok((0, 2, vec![], None)));
}

#[test]
fn an_atomic_batch_is_added_as_a_whole_or_refused_with_the_record_that_is_to_blame() {
    // PS-4
    let atomic = |records: &[(&str, &str)]| Append { mode: AppendMode::Atomic, ..item(records) };
    let mut shard = Shard::new();
    assert_eq!(shard.became(atomic(&[("a", "1"), ("b", "1")])), Ok((0, 2, vec![], None)));
    let duplicate =
        |record, original| Err(AppendRefusal::Duplicate { record, original: Offset(original) });
    assert_eq!(shard.became(atomic(&[("c", "1"), ("b", "1")])), duplicate(1, 1));
    assert_eq!(shard.became(atomic(&[("c", "1"), ("c", "1")])), duplicate(1, 2));
    let conflict = AppendRefusal::IdConflict { record: 1, original: Offset(0) };
    assert_eq!(shard.became(atomic(&[("c", "1"), ("a", "2")])), Err(conflict));
    // DD-3: nothing of what was refused is held.
    assert_eq!((shard.next_offset(), shard.known(&["c"])), (2, vec![false]));
}

#[test]
fn what_was_not_appended_is_not_held() {
    // DD-3
    let mut shard = Shard::new();
    let expected = |end| Append { expected_end: Some(ExpectedNext(end)), ..item(&[("a", "1")]) };
    assert_eq!(shard.became(expected(7)), Err(AppendRefusal::ExpectedEnd { actual: Offset(0) }));
    let gap = by(1, 4, item(&[("a", "1")]));
    assert_eq!(shard.became(gap), Err(AppendRefusal::ProducerUnknown));
    assert_eq!(shard.known(&["a"]), [false]);
    assert_eq!(shard.became(expected(0)), Ok((0, 1, vec![], None)));
    // PQ-1: the end that is expected comes first, also for a duplicate.
    assert_eq!(shard.became(expected(0)), Err(AppendRefusal::ExpectedEnd { actual: Offset(1) }));
}

#[test]
fn a_repeated_batch_is_told_what_became_of_it_first() {
    // PQ-1: and nothing else is looked at, not even ids whose time is over.
    let mut shard = Shard::new();
    assert_eq!(shard.publish(&[("a", "1")]), Ok((0, 1, vec![], None)));
    let records = [("b", "1"), ("a", "1"), ("c", "1"), ("a", "2"), ("d", "1")];
    let conflict = Some(AppendRefusal::IdConflict { record: 3, original: Offset(0) });
    let first = shard.append(by(1, 0, item(&records))).expect("appended");
    assert_eq!((first.base.0, first.count, first.refused()), (1, 3, conflict));
    shard.now += 60 * S;
    shard.state = shard.restored();
    let again = shard.append(by(1, 0, item(&records))).expect("repeated");
    assert_eq!(again, Appended { repeated: true, ..first });
    assert_eq!(shard.next_offset(), 3);
    // PS-2: the sequence has advanced by what is in the stream. What was in flight behind it meets a gap.
    let behind = shard.became(by(1, 5, item(&[("e", "1")])));
    assert_eq!(behind, Err(AppendRefusal::SequenceGap { expected: 3 }));
    assert_eq!(shard.became(by(1, 3, item(&[("e", "1")]))), Ok((3, 1, vec![], None)));
    // A batch of duplicates only advances it, too; one that is refused as a whole does not.
    assert_eq!(shard.became(by(1, 4, item(&[("e", "1")]))), Ok((4, 1, vec![(0, 3)], None)));
    assert!(shard.became(by(1, 5, item(&[("e", "2")]))).is_err());
    assert_eq!(shard.became(by(1, 5, item(&[("f", "1")]))), Ok((4, 1, vec![], None)));
}

#[test]
fn only_so_many_duplicates_are_kept_for_repeats() {
    let mut shard = Shard::new();
    shard.publish(&[("a", "1")]).expect("appended");
    let duplicate = || by(1, 0, item(&[("a", "1"), ("a", "1")]));
    shard.state.producers.duplicates = PRODUCER_DUPLICATES_PER_SHARD - 1;
    shard.append(duplicate()).expect("appended before");
    let lost = Err(AppendRefusal::ForgottenSequence { sequence: 0 });
    assert_eq!(shard.append(duplicate()), lost);
    shard.state.producers.duplicates -= 1;
    shard.append(by(2, 0, item(&[("a", "1"), ("a", "1")]))).expect("appended before");
    assert_eq!(shard.state.producers.duplicates, PRODUCER_DUPLICATES_PER_SHARD);
    assert!(shard.append(by(2, 0, item(&[("a", "1"), ("a", "1")]))).is_ok_and(|it| it.repeated));
    // What is forgotten makes room.
    for sequence in 1..9 {
        shard.append(by(2, sequence * 2, item(&[("", "1"), ("", "1")]))).expect("appended");
    }
    assert_eq!(shard.state.producers.duplicates, PRODUCER_DUPLICATES_PER_SHARD - 2);
}

#[test]
fn ids_outlive_their_messages_and_not_their_stream() {
    // DD-4
    let mut shard = Shard::new();
    shard.publish(&[("a", "1")]).expect("appended");
    shard.state.trim_index_below(u64::MAX);
    assert_eq!(shard.state.stream(A).expect("there").index().len(), 0);
    shard.state = shard.restored();
    assert_eq!(shard.known(&["a"]), [true]);
    shard.apply(CommandBody::Stream(StreamCommand::Delete { stream: A }));
    assert_eq!(shard.state.dedup, Dedup::default());
}

#[test]
fn a_full_box_refuses_what_is_new_until_there_is_room() {
    // DD-5
    let mut shard = Shard::with(full(2, DedupFull::Reject));
    let no_room = |record| AppendRefusal::IdsFull { record };
    let three = shard.publish(&[("a", "1"), ("b", "1"), ("c", "1")]);
    assert_eq!(three, Ok((0, 2, vec![], Some(no_room(2)))));
    assert_eq!(shard.publish(&[("c", "1")]), Err(no_room(0)));
    // What is known needs no room, nor does what has no id.
    assert_eq!(shard.publish(&[("a", "1"), ("", "1")]), Ok((2, 2, vec![(0, 0)], None)));
    shard.now += 10 * S + 1;
    assert_eq!(shard.publish(&[("c", "1")]), Ok((3, 1, vec![], None)));
    let figures = DedupFigures { ids: 1, effective_window_ms: 10_000, evicted: 0 };
    assert_eq!(shard.state.dedup_figures(A), figures);
}

#[test]
fn a_full_box_may_forget_its_oldest_ids_instead() {
    // DD-5
    let mut shard = Shard::with(full(2, DedupFull::EvictOldest));
    shard.publish(&[("a", "1")]).expect("appended");
    shard.now += 2 * S;
    shard.publish(&[("b", "1")]).expect("appended");
    shard.now += S;
    assert_eq!(shard.publish(&[("c", "1"), ("a", "1")]), Ok((2, 2, vec![(1, 0)], None)));
    assert_eq!(shard.known(&["a", "b", "c"]), [false, true, true]);
    // How far back it reaches is shown: `a` of 3 s ago is not known any more.
    let figures =
        |ids, effective_window_ms, evicted| DedupFigures { ids, effective_window_ms, evicted };
    assert_eq!(shard.state.dedup_figures(A), figures(2, 3_000, 1));
    assert!((shard.state.ids_window() - 0.3).abs() < 1e-9, "of 10 s");
    // With time the box is whole again.
    shard.now += 8 * S;
    shard.apply(CommandBody::Tick);
    assert_eq!(shard.state.dedup_figures(A).effective_window_ms, 10_000);
    assert!((shard.state.ids_window() - 1.0).abs() < 1e-9);
    // Until another one is forgotten, `b` of 9 s ago.
    assert_eq!(shard.publish(&[("x", "1")]), Ok((3, 1, vec![], None)));
    assert_eq!(shard.state.dedup_figures(A), figures(2, 9_000, 2));
    // More ids in a batch than may be held.
    let many = [("d", "1"), ("e", "1"), ("f", "1")];
    assert_eq!(shard.publish(&many), Ok((4, 3, vec![], None)));
    assert_eq!(shard.known(&["d", "e", "f"]), [false, true, true]);
}

#[test]
fn all_streams_of_a_shard_share_its_room() {
    // DD-5
    for (policy, refusal) in [
        (DedupFull::Reject, Some(AppendRefusal::IdsFull { record: 1 })),
        (DedupFull::EvictOldest, None),
    ] {
        let mut shard = Shard::with(full(100, policy));
        // What others hold.
        shard.state.dedup.held = DEDUP_IDS_PER_SHARD - 1;
        let count = if refusal.is_some() { 1 } else { 2 };
        let both = shard.publish(&[("a", "1"), ("b", "1")]);
        assert_eq!(both, Ok((0, count, vec![], refusal)));
        assert_eq!(shard.state.dedup.held, DEDUP_IDS_PER_SHARD);
        // It has no id of its own that it could forget.
        shard.state.dedup = Dedup { held: DEDUP_IDS_PER_SHARD, ..Dedup::default() };
        assert_eq!(shard.publish(&[("c", "1")]), Err(AppendRefusal::IdsFull { record: 0 }));
    }
}

#[test]
fn what_nobody_appends_to_gives_back_its_room_all_the_same() {
    let mut shard = Shard::new();
    shard.publish(&[("a", "1"), ("b", "1")]).expect("appended");
    // Nothing is looked at but when log time comes into another period.
    shard.now += 10 * S - 1;
    shard.apply(CommandBody::Tick);
    assert_eq!(shard.state.dedup.held, 2);
    shard.now += 10 * S;
    shard.apply(CommandBody::Tick);
    assert_eq!(shard.state.dedup.held, 0);
}

#[test]
fn another_window_counts_at_once_and_brings_nothing_back() {
    // DD-6
    let mut shard = Shard::new();
    shard.publish(&[("a", "1")]).expect("appended");
    shard.now += 8 * S;
    shard.publish(&[("b", "1")]).expect("appended");
    shard.ensure(window(20), false).expect("live");
    shard.now += 12 * S;
    assert_eq!(shard.known(&["a", "b"]), [true, true]);
    shard.ensure(window(12), false).expect("live");
    assert_eq!(shard.known(&["a", "b"]), [false, true]);
    shard.ensure(window(60), false).expect("live");
    assert_eq!(shard.known(&["a", "b"]), [false, true]);
    // EN-4: off is only what was allowed to be, and forgets.
    let path = "dedup.window".to_owned();
    assert_eq!(shard.ensure(window(0), false), Err(EnsureRefused::Destructive { path }));
    shard.ensure(window(0), true).expect("allowed");
    assert_eq!(shard.state.dedup, Dedup::default());
    shard.ensure(window(60), false).expect("live");
    assert_eq!(shard.known(&["b"]), [false]);
}

#[test]
fn clones_share_what_is_closed() {
    let mut shard = Shard::new();
    for id in 0..20 {
        shard.publish(&[(&id.to_string(), "1")]).expect("appended");
        shard.now += S / 2;
    }
    let copy = shard.state.clone();
    let slices = |state: &ShardState| state.dedup.windows[&A].slices.clone();
    let shared = slices(&shard.state).into_iter().zip(slices(&copy));
    assert!(
        shared.clone().count() > 5
            && shared.into_iter().all(|(a, b)| std::sync::Arc::ptr_eq(&a, &b))
    );
    // And what is open is copied when it changes.
    shard.publish(&[("x", "1")]).expect("appended");
    assert_eq!(copy.dedup.windows[&A].held() + 1, shard.state.dedup.windows[&A].held());
}

/// What a box does, in so many words.
#[derive(Default)]
struct Naive {
    spec: DedupSpec,
    /// Id, value, offset, log time.
    held: Vec<(u8, u8, u64, i64)>,
    next: u64,
}

impl Naive {
    fn expire(&mut self, now: i64) {
        let window = self.spec.window_us();
        self.held.retain(|(.., ts)| now - ts <= window);
    }

    fn ensure(&mut self, spec: DedupSpec, now: i64) {
        self.expire(now);
        self.spec = spec;
        if !spec.is_on() {
            self.held.clear();
        }
    }

    fn append(&mut self, records: &[(u8, u8)], mode: AppendMode, now: i64) -> Became {
        self.expire(now);
        let (mut duplicates, mut new, mut refused) = (vec![], vec![], None);
        let (mut next, mut count) = (self.next, 0);
        for (at, &(id, value)) in (0u32..).zip(records) {
            if id == 0 && self.spec.require_id {
                refused = Some(AppendRefusal::IdRequired { record: at });
            } else if id > 0 && self.spec.is_on() {
                let first = new.iter().chain(&self.held).find(|held| held.0 == id);
                let held = self.held.len() as u64 + new.len() as u64;
                match first {
                    Some((_, of, offset, _)) if *of == value => duplicates.push((at, *offset)),
                    Some((_, _, offset, _)) => {
                        let original = Offset(*offset);
                        refused = Some(AppendRefusal::IdConflict { record: at, original });
                    }
                    None if self.spec.full == DedupFull::Reject && held >= self.spec.max_ids => {
                        refused = Some(AppendRefusal::IdsFull { record: at });
                    }
                    None => {
                        new.push((id, value, next, now));
                        next += 1;
                    }
                }
            } else {
                next += 1;
            }
            if refused.is_some() {
                break;
            }
            count += 1;
        }
        if mode == AppendMode::Atomic
            && let Some((record, offset)) = duplicates.first()
        {
            let original = Offset(*offset);
            return Err(AppendRefusal::Duplicate { record: *record, original });
        }
        if let Some(refused) = refused
            && (mode == AppendMode::Atomic || count == 0)
        {
            return Err(refused);
        }
        let is_held = !new.is_empty();
        self.held.append(&mut new);
        if is_held && self.spec.full == DedupFull::EvictOldest {
            let most = self.spec.max_ids as usize;
            self.held.drain(..self.held.len().saturating_sub(most));
        }
        let base = std::mem::replace(&mut self.next, next);
        Ok((base, count, duplicates, refused))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        records: Vec<(u8, u8)>,
        mode: AppendMode,
    },
    Ensure(DedupPatch),
    Pass {
        us: i64,
    },
    /// Another replica goes on, with or without an index of its own log (DD-4).
    Restore,
    Trim,
}

fn step() -> impl Strategy<Value = Step> {
    let record = (0u8..8, prop_oneof![6 => Just(1u8), 1 => Just(2u8)]);
    let mode = prop_oneof![4 => Just(AppendMode::Each), 1 => Just(AppendMode::Atomic)];
    let policy = prop_oneof![Just(DedupFull::Reject), Just(DedupFull::EvictOldest)];
    let patch = (
        proptest::option::of(prop_oneof![
            1 => Just(0),
            6 => (1u64..8).prop_map(|seconds| seconds * 1_000),
        ]),
        proptest::option::weighted(0.1, any::<bool>()),
        proptest::option::weighted(0.4, 1u64..6),
        proptest::option::weighted(0.4, policy),
    );
    prop_oneof![
        6 => (proptest::collection::vec(record, 1..6), mode)
            .prop_map(|(records, mode)| Step::Append { records, mode }),
        2 => patch.prop_map(|(window_ms, require_id, max_ids, full)| {
            Step::Ensure(DedupPatch { window_ms, require_id, max_ids, full })
        }),
        3 => prop_oneof![0i64..3_000_000, Just(1_000_000), Just(30_000_000)]
            .prop_map(|us| Step::Pass { us }),
        1 => Just(Step::Restore),
        1 => Just(Step::Trim),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// DD-1, DD-2, DD-3, DD-4, DD-5, DD-6, PS-4
    #[test]
    fn a_box_does_what_a_naive_one_does(steps in proptest::collection::vec(step(), 1..24)) {
        let mut shard = Shard::new();
        let spec = shard.state.stream(A).expect("there").spec().dedup;
        let mut naive = Naive { spec, ..Naive::default() };
        for step in steps {
            match step {
                Step::Append { records, mode } => {
                    let text = |n: u8| if n == 0 { String::new() } else { n.to_string() };
                    let texts: Vec<_> =
                        records.iter().map(|(id, value)| (text(*id), text(*value))).collect();
                    let texts: Vec<_> =
                        texts.iter().map(|(id, value)| (id.as_str(), value.as_str())).collect();
                    let became = shard.became(Append { mode, ..item(&texts) });
                    prop_assert_eq!(became, naive.append(&records, mode, shard.now));
                    let ids = shard.state.dedup_figures(A).ids;
                    if naive.spec.is_on() {
                        prop_assert_eq!(ids, naive.held.len() as u64);
                    }
                }
                Step::Ensure(patch) => {
                    shard.ensure(patch, true).expect("allowed");
                    naive.ensure(shard.state.stream(A).expect("there").spec().dedup, shard.now);
                }
                Step::Pass { us } => {
                    shard.now += us;
                    shard.apply(CommandBody::Tick);
                }
                Step::Restore => {
                    let restored = shard.restored();
                    prop_assert_eq!(&restored, &shard.state);
                    shard.state = restored;
                }
                Step::Trim => shard.state.trim_index_below(u64::MAX),
            }
            prop_assert_eq!(shard.next_offset(), naive.next);
            let held: u64 = shard.state.dedup.windows.values().map(IdWindow::held).sum();
            prop_assert_eq!(shard.state.dedup.held, held);
        }
    }
}
