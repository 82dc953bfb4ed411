//! One phase after another, each introduced by why.

mod groups;
mod uploads;

use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::limits::TOMBSTONES_PER_SHARD;
use railgun_types::{EnsureMode, Offset, SpecPatch, StreamName};

use super::ensure::CHANGES_REMEMBERED;
use super::*;
use crate::command::{
    Append, AppendMode, CommittedPart, EnsureStream, ExpectedNext, ObjectCommit, ProducerSequence,
    SealScope, UploadAttempt,
};
use crate::manifest::{ManifestVersion, ObjectId, SegmentKind};

const A: StreamUid = StreamUid([1; 16]);
const B: StreamUid = StreamUid([2; 16]);
const DAY_US: i64 = 86_400_000_000;

/// A shard and the index of its next entry.
struct Shard {
    state: ShardState,
    next: u64,
    term: u64,
}

impl Shard {
    fn new() -> Self {
        let state = ShardState::new(ClusterUid([7; 16]), ShardId(1));
        let mut shard = Self { state, next: 0, term: 1 };
        for uid in [A, B] {
            assert!(matches!(
                shard.ensure(uid, SpecPatch::default(), EnsureMode::Warn),
                Ok(Ensured::Created)
            ));
        }
        shard
    }

    fn apply(&mut self, ts: i64, body: CommandBody) -> Outcome {
        let at = EntryId { index: self.next, term: self.term };
        self.next += 1;
        self.state.apply(at, &Command { ts: Timestamp(ts), body })
    }

    fn ensure(
        &mut self,
        stream: StreamUid,
        patch: SpecPatch,
        mode: EnsureMode,
    ) -> Result<Ensured, EnsureRefused> {
        let ensure = EnsureStream {
            stream,
            name: StreamName::new("s").expect("valid"),
            patch,
            mode,
            if_revision: None,
            allow_destructive: false,
            request: None,
        };
        match self.apply(0, CommandBody::Stream(StreamCommand::Ensure(ensure))) {
            Outcome::Ensured(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn append(&mut self, ts: i64, items: Vec<Append>) -> Vec<Result<Appended, AppendRefusal>> {
        match self.apply(ts, CommandBody::Append(items)) {
            Outcome::Appended(results) => results,
            other => panic!("{other:?}"),
        }
    }

    fn result(&mut self, ts: i64, item: Append) -> Result<Appended, AppendRefusal> {
        self.append(ts, vec![item]).remove(0)
    }

    fn one(&mut self, ts: i64, item: Append) -> Result<u64, AppendRefusal> {
        self.result(ts, item).map(|appended| appended.base.0)
    }

    fn seal(&mut self, scope: SealScope) -> usize {
        match self.apply(0, CommandBody::Segment(SegmentCommand::Seal(scope))) {
            Outcome::Sealed { objects } => objects,
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, commit: ObjectCommit) -> Result<(), CommitRefused> {
        match self.apply(0, CommandBody::Segment(SegmentCommand::Commit(commit))) {
            Outcome::Committed(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// Names an upload of this content.
    fn attempt(&mut self, object: ObjectId, hash: u8) -> Option<u64> {
        let upload = UploadAttempt { object, hash: [hash; 8] };
        match self.apply(0, CommandBody::Segment(SegmentCommand::Attempt(upload))) {
            Outcome::Attempted(attempt) => attempt,
            other => panic!("{other:?}"),
        }
    }

    /// The commit that a faithful upload of the first plan would propose, once it is named.
    fn first_plan(&mut self) -> ObjectCommit {
        let object = *self.state.plans().first_key_value().expect("a plan").0;
        let attempt = self.attempt(object, 0).expect("it is planned");
        self.first_plan_as(attempt)
    }

    /// The same for an upload of this name.
    fn first_plan_as(&self, attempt: u64) -> ObjectCommit {
        let (&object, plan) = self.state.plans().first_key_value().expect("a plan");
        let part = |planned: &PlannedRange| CommittedPart {
            stream: planned.stream,
            base: planned.range.base,
            count: planned.range.end.0 - planned.range.base.0,
            min_ts: planned.range.since,
            max_ts: planned.range.since,
            record_bytes: planned.range.record_bytes,
            first_row_group: 0,
            first_row: 0,
            digest: [planned.range.end.0 as u8; 32],
        };
        let parts = plan.ranges.iter().map(part).collect();
        ObjectCommit { object, attempt, hash: [0; 8], bytes: 1, footer_bytes: 1, parts }
    }

    fn mirror(&mut self) -> ManifestVersion {
        let version = self.state.manifest_file().expect("something to mirror").version;
        self.apply(0, CommandBody::Segment(SegmentCommand::Mirrored(version)));
        version
    }
}

fn batch(records: usize, bytes: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new(8 << 20);
    let value = vec![0; bytes - 1];
    for _ in 0..records {
        builder.push(&RecordDraft { value: &value, ..RecordDraft::default() }).expect("small");
    }
    RecordBatch::verify(builder.finish().concat()).expect("our own")
}

fn item(stream: StreamUid, records: usize) -> Append {
    Append {
        stream,
        producer: None,
        mode: AppendMode::Each,
        expected_end: None,
        dead_letter: None,
        batch: batch(records, 10),
    }
}

fn by(producer: u8, sequence: u64, item: Append) -> Append {
    let id = railgun_types::ProducerId([producer; 16]);
    Append { producer: Some(ProducerSequence { id, epoch: 0, sequence }), ..item }
}

#[test]
fn offsets_are_dense_over_entries_and_items() {
    // PS-2
    let mut shard = Shard::new();
    let bases = |results: Vec<Result<Appended, AppendRefusal>>| {
        results.into_iter().map(|r| r.map(|a| a.base.0)).collect::<Vec<_>>()
    };
    let first = shard.append(1, vec![item(A, 3), item(B, 1), item(A, 2)]);
    assert_eq!(bases(first), [Ok(0), Ok(0), Ok(3)]);
    assert_eq!(bases(shard.append(2, vec![item(A, 1)])), [Ok(5)]);
    let unknown = item(StreamUid([9; 16]), 1);
    assert_eq!(shard.one(3, unknown), Err(AppendRefusal::StreamNotFound));
    let stream = shard.state.stream(A).expect("there");
    assert_eq!((stream.next_offset(), stream.index().len()), (Offset(6), 3));
}

#[test]
fn log_time_never_falls() {
    let mut shard = Shard::new();
    assert_eq!(shard.result(100, item(A, 1)).map(|a| a.ts.0), Ok(100));
    assert_eq!(shard.result(50, item(A, 1)).map(|a| a.ts.0), Ok(100));
}

#[test]
fn an_expected_end_that_is_not_refuses_the_batch() {
    let mut shard = Shard::new();
    let at = |end| Append { expected_end: Some(ExpectedNext(end)), ..item(A, 1) };
    assert_eq!(shard.one(1, at(1)), Err(AppendRefusal::ExpectedEnd { actual: Offset(0) }));
    assert_eq!(shard.one(1, at(0)), Ok(0));
    // PQ-1: a repeated batch is answered before the expectation is looked at.
    let claimed = |end| Append { expected_end: Some(ExpectedNext(end)), ..by(1, 0, item(A, 1)) };
    assert_eq!(shard.one(1, claimed(1)), Ok(1));
    assert_eq!(shard.one(1, claimed(1)), Ok(1));
}

#[test]
fn a_retried_batch_is_appended_once() {
    // PQ-1
    let mut shard = Shard::new();
    assert_eq!(shard.one(1, by(1, 0, item(A, 2))), Ok(0));
    assert_eq!(shard.one(2, by(1, 2, item(A, 1))), Ok(2));
    let again = shard.result(3, by(1, 0, item(A, 2))).expect("repeated");
    assert_eq!((again.base.0, again.ts.0, again.repeated), (0, 1, true));
    assert_eq!(shard.state.stream(A).map(Stream::next_offset), Some(Offset(3)));
    // A refused batch does not advance the sequence, so what is behind it meets a gap.
    let refused = Append { expected_end: Some(ExpectedNext(9)), ..by(1, 3, item(A, 1)) };
    assert!(shard.one(4, refused).is_err());
    assert_eq!(shard.one(4, by(1, 4, item(A, 1))), Err(AppendRefusal::SequenceGap { expected: 3 }));
    // The sequence is per stream.
    assert_eq!(shard.one(5, by(1, 0, item(B, 1))), Ok(0));
    // After a clean close the producer is unknown, on each stream that it names.
    shard.apply(6, release(1, 0, vec![A, B]));
    assert_eq!(shard.one(7, by(1, 3, item(A, 1))), Err(AppendRefusal::ProducerUnknown));
    assert_eq!(shard.one(8, by(1, 1, item(B, 1))), Err(AppendRefusal::ProducerUnknown));
}

fn release(producer: u8, epoch: u32, streams: Vec<StreamUid>) -> CommandBody {
    let producer = railgun_types::ProducerId([producer; 16]);
    CommandBody::Stream(StreamCommand::ReleaseProducer { producer, epoch, streams })
}

#[test]
fn a_late_goodbye_does_not_forget_what_a_newer_epoch_has_written() {
    let mut shard = Shard::new();
    let of_epoch = |epoch, sequence| {
        let id = railgun_types::ProducerId([1; 16]);
        Append { producer: Some(ProducerSequence { id, epoch, sequence }), ..item(A, 1) }
    };
    assert_eq!(shard.one(1, of_epoch(3, 0)), Ok(0));
    assert_eq!(shard.one(2, of_epoch(4, 0)), Ok(1));
    assert_eq!(shard.state.prune(&mut release(1, 3, vec![A])), Some(Outcome::Released));
    shard.apply(3, release(1, 3, vec![A]));
    let again = shard.result(4, of_epoch(4, 0)).expect("repeated");
    assert_eq!((again.base.0, again.repeated), (1, true));
    shard.apply(5, release(1, 4, vec![A]));
    assert_eq!(shard.one(6, of_epoch(4, 1)), Err(AppendRefusal::ProducerUnknown));
}

#[test]
fn what_would_change_nothing_is_left_out_and_has_the_outcome_that_an_entry_would_have() {
    let stream = |command| CommandBody::Stream(command);
    let seal = |scope| CommandBody::Segment(SegmentCommand::Seal(scope));
    let ensure = |uid, bytes, mode, if_revision| {
        let patch = SpecPatch { max_message_bytes: bytes, ..SpecPatch::default() };
        let name = StreamName::new("s").expect("valid");
        let ensure = EnsureStream {
            stream: uid,
            name,
            patch,
            mode,
            if_revision,
            allow_destructive: false,
            request: None,
        };
        CommandBody::Stream(StreamCommand::Ensure(ensure))
    };
    let mut shard = Shard::new();
    assert_eq!(shard.one(1, by(1, 0, item(A, 2))), Ok(0));
    shard.apply(2, stream(StreamCommand::Delete { stream: B }));
    let unknown = StreamUid([77; 16]);
    let overwrite = EnsureMode::Overwrite;
    // Whether it changes something.
    let commands = [
        (ensure(A, None, EnsureMode::Warn, None), false),
        (ensure(A, Some(5), EnsureMode::Warn, None), false),
        (ensure(A, Some(5), overwrite, Some(9)), false),
        (ensure(B, None, EnsureMode::Warn, None), false),
        (ensure(unknown, None, EnsureMode::Warn, None), true),
        (ensure(A, Some(5), overwrite, None), true),
        (ensure(A, Some(5), overwrite, None), false),
        (stream(StreamCommand::Delete { stream: B }), false),
        (stream(StreamCommand::Delete { stream: StreamUid([78; 16]) }), true),
        (release(2, 0, vec![A, B]), false),
        (release(1, 0, vec![B]), false),
        (release(1, 0, vec![A]), true),
        (release(1, 0, vec![A]), false),
        (seal(SealScope::Closed), false),
        (seal(SealScope::Stream(B)), false),
        (seal(SealScope::Stream(A)), true),
        (seal(SealScope::Stream(A)), false),
        (seal(SealScope::All), false),
        (CommandBody::Tick, true),
    ];
    for (ts, (body, changes)) in (3..).zip(commands) {
        let pruned = shard.state.prune(&mut body.clone());
        let text = format!("{body:?}");
        let outcome = shard.apply(ts, body);
        assert_eq!(pruned, (!changes).then_some(outcome), "{text}");
    }
    // What is left of one is what somebody knows.
    assert_eq!(shard.one(30, by(1, 0, item(A, 1))), Ok(2));
    let mut part = release(1, 0, vec![unknown, A, B]);
    assert_eq!(shard.state.prune(&mut part), None);
    assert_eq!(format!("{part:?}"), format!("{:?}", release(1, 0, vec![A])));
}

#[test]
fn ensure_compares_reports_and_changes() {
    // EN-1 … EN-4, EN-6
    let mut shard = Shard::new();
    let wish = |bytes| SpecPatch { max_message_bytes: Some(bytes), ..SpecPatch::default() };
    assert_eq!(
        shard.ensure(A, SpecPatch::default(), EnsureMode::Warn),
        Ok(Ensured::Unchanged { revision: 1 })
    );
    let drift = shard.ensure(A, wish(5), EnsureMode::Warn).expect("a drift");
    assert!(matches!(&drift, Ensured::Drift { revision: 1, diff } if diff.len() == 1), "{drift:?}");
    let updated = shard.ensure(A, wish(5), EnsureMode::Overwrite).expect("an update");
    assert!(matches!(updated, Ensured::Updated { revision: 2, .. }));
    assert_eq!(shard.ensure(A, wish(5), EnsureMode::Check), Ok(Ensured::Unchanged { revision: 2 }));
    let ephemeral =
        SpecPatch { kind: Some(railgun_types::StreamKind::Ephemeral), ..SpecPatch::default() };
    assert!(matches!(
        shard.ensure(A, ephemeral.clone(), EnsureMode::Overwrite),
        Err(EnsureRefused::Immutable { .. })
    ));
    assert_eq!(
        shard.ensure(StreamUid([5; 16]), ephemeral, EnsureMode::Warn),
        Err(EnsureRefused::Kind)
    );
}

#[test]
fn a_request_that_is_repeated_is_not_in_its_own_way() {
    // EN-6
    let mut shard = Shard::new();
    let stream = StreamUid([5; 16]);
    let mut ensure = |request: Option<u8>, owner: &str, if_revision| {
        let body = CommandBody::Stream(StreamCommand::Ensure(EnsureStream {
            stream,
            name: StreamName::new("s").expect("valid"),
            patch: SpecPatch { owner: Some(owner.to_owned()), ..SpecPatch::default() },
            mode: EnsureMode::Overwrite,
            if_revision: Some(if_revision),
            allow_destructive: false,
            request: request.map(|request| railgun_types::RequestId([request; 16])),
        }));
        // Where it needs no entry it has the same outcome.
        let pruned = shard.state.prune(&mut body.clone());
        let outcome = shard.apply(0, body);
        assert!(pruned.is_none_or(|pruned| pruned == outcome), "{outcome:?}");
        match outcome {
            Outcome::Ensured(result) => result,
            other => panic!("{other:?}"),
        }
    };
    let conflict = |actual| Err(EnsureRefused::Revision { actual });
    assert_eq!(ensure(Some(1), "a", 0), Ok(Ensured::Created));
    assert_eq!(ensure(Some(1), "a", 0), Ok(Ensured::Created), "its answer was lost");
    assert_eq!(ensure(Some(2), "a", 0), conflict(1), "another creator");
    assert_eq!(ensure(None, "a", 0), conflict(1));
    let updated = ensure(Some(3), "b", 1);
    assert!(matches!(&updated, Ok(Ensured::Updated { revision: 2, diff }) if diff.len() == 1));
    assert_eq!(ensure(Some(3), "b", 1), updated);
    assert_eq!(ensure(Some(3), "b", 1), updated);
    // Whoever takes the same identifier for something else is not told what that one did.
    assert_eq!(ensure(Some(3), "z", 1), conflict(2));
    assert_eq!(ensure(Some(3), "b", 1), updated);
    // It comes late, by way of a server that was silent: it takes nothing back.
    assert_eq!(ensure(Some(1), "a", 0), Ok(Ensured::Created));
    // One that changes nothing, or is refused, takes nobody's place.
    assert_eq!(ensure(Some(4), "b", 2), Ok(Ensured::Unchanged { revision: 2 }));
    assert_eq!(ensure(Some(5), "c", 9), conflict(2));
    assert_eq!(ensure(Some(3), "b", 1), updated);
    // Who does not say which request it is has made the last change all the same.
    assert!(matches!(ensure(None, "c", 2), Ok(Ensured::Updated { revision: 3, .. })));
    assert_eq!(ensure(Some(3), "b", 1), updated);
    assert_eq!(ensure(None, "c", 2), conflict(3));
    // Of each stream so many changes are known.
    let last = CHANGES_REMEMBERED as u8 + 5;
    for (request, revision) in (6..=last).zip(3..) {
        let owner = request.to_string();
        assert!(matches!(ensure(Some(request), &owner, revision), Ok(Ensured::Updated { .. })));
    }
    let present = 3 + CHANGES_REMEMBERED as u64;
    assert_eq!(ensure(Some(3), "b", 1), conflict(present), "forgotten");
    assert!(matches!(ensure(Some(6), "6", 3), Ok(Ensured::Updated { revision: 4, .. })));
    assert_eq!(
        ensure(Some(last + 1), &last.to_string(), present),
        Ok(Ensured::Unchanged { revision: present })
    );
}

#[test]
fn the_floor_rises_when_the_mirror_is_there_and_not_before() {
    let mut shard = Shard::new();
    assert_eq!(shard.state.floor(), Some(1), "no records: all that is applied");
    let first = shard.next;
    shard.one(1, item(A, 2)).expect("appended");
    shard.one(2, item(B, 1)).expect("appended");
    assert_eq!(shard.state.floor(), Some(first - 1));
    // Both streams are small: one bundle.
    assert_eq!(shard.seal(SealScope::All), 1);
    assert_eq!(shard.seal(SealScope::All), 0, "nothing waits any more");
    assert_eq!(shard.state.floor(), Some(first - 1), "planned");
    let upload = shard.first_plan();
    shard.commit(upload).expect("as planned");
    assert_eq!(shard.state.waiting(), Waiting::default());
    assert_eq!(shard.state.floor(), Some(first - 1), "committed");
    shard.mirror();
    assert_eq!(shard.state.floor(), Some(shard.next - 1));
    assert_eq!(shard.state.manifest_file(), None, "the bucket has everything");
    let manifest = &shard.state.manifest().streams[&A];
    assert_eq!((manifest.end(), manifest.digest), (Offset(2), [2; 32]));
}

#[test]
fn a_commit_must_be_the_plan_and_continue_the_stream() {
    // I1, I5
    let mut shard = Shard::new();
    shard.one(1, item(A, 2)).expect("appended");
    shard.seal(SealScope::Stream(A));
    let first = shard.first_plan();
    shard.one(1, item(A, 3)).expect("appended");
    shard.seal(SealScope::Stream(A));
    let second = {
        let object = *shard.state.plans().last_key_value().expect("two plans").0;
        let part = CommittedPart { base: Offset(2), count: 3, ..first.parts[0].clone() };
        let attempt = shard.attempt(object, 0).expect("it is planned");
        ObjectCommit { object, attempt, parts: vec![part], ..first.clone() }
    };
    let hole = shard.commit(second.clone());
    assert!(matches!(hole, Err(CommitRefused::NotContiguous { .. })), "{hole:?}");
    let mut short = first.clone();
    short.parts[0].count = 1;
    assert_eq!(shard.commit(short), Err(CommitRefused::OtherRange { stream: A }));
    shard.commit(first.clone()).expect("as planned");
    let object = first.object;
    assert_eq!(shard.commit(first), Err(CommitRefused::NotPlanned { object }), "only once");
    shard.commit(second).expect("now it continues");
    assert_eq!(shard.state.manifest().streams[&A].end(), Offset(5));
}

#[test]
fn a_deleted_stream_holds_nothing_back() {
    let mut shard = Shard::new();
    shard.one(1, item(A, 1)).expect("appended");
    shard.one(1, item(B, 1)).expect("appended");
    shard.seal(SealScope::All);
    let upload = shard.first_plan();
    shard.one(1, item(A, 1)).expect("appended");
    let delete = || CommandBody::Stream(StreamCommand::Delete { stream: A });
    assert!(matches!(shard.apply(2, delete()), Outcome::Deleted(true)));
    assert!(matches!(shard.apply(2, delete()), Outcome::Deleted(false)));
    assert_eq!(shard.one(3, item(A, 1)), Err(AppendRefusal::StreamDeleted));
    assert_eq!(
        shard.ensure(A, SpecPatch::default(), EnsureMode::Overwrite),
        Err(EnsureRefused::Deleted)
    );
    // The upload that was under way still counts, for the stream that is left.
    shard.commit(upload).expect("the rest of the plan");
    assert_eq!(shard.state.manifest().streams[&A].ranges, []);
    assert_eq!(shard.state.manifest().streams[&B].ranges.len(), 1);
    let object = *shard.state.manifest().objects.first_key_value().expect("one").0;
    assert_eq!(shard.state.manifest().objects[&object].live_parts, 1);
    shard.mirror();
    assert_eq!(shard.state.floor(), Some(shard.next - 1));
    assert_eq!(shard.state.waiting(), Waiting::default());
}

#[test]
fn the_oldest_tombstones_are_forgotten_and_the_bucket_told() {
    let mut shard = Shard::new();
    shard.one(1, item(A, 1)).expect("appended");
    shard.seal(SealScope::All);
    let upload = shard.first_plan();
    shard.commit(upload).expect("as planned");
    shard.mirror();
    let mut told = shard.state.manifest().clone();
    let delete = |stream| CommandBody::Stream(StreamCommand::Delete { stream });
    // A has an object, B has none.
    assert_eq!(shard.apply(2, delete(A)), Outcome::Deleted(true));
    assert_eq!(shard.apply(3, delete(B)), Outcome::Deleted(true));
    let count = shard.state.stream_count();
    let others = TOMBSTONES_PER_SHARD - 2;
    let other = |n: usize| StreamUid((n as u128 + (1 << 100)).to_be_bytes());
    for n in 0..others {
        assert_eq!(shard.apply(4, delete(other(n))), Outcome::Deleted(false));
    }
    assert_eq!(shard.state.stream_count(), count + others);
    assert!(shard.state.is_deleted(A) && shard.state.is_deleted(B));
    // The same after a restart: the order is that of deletion, whatever the uids.
    let pieces = shard.state.encode_checkpoint(&[], true).pieces().concat();
    let restored = ShardState::decode_checkpoint(ClusterUid([7; 16]), ShardId(1), &pieces);
    assert_eq!(restored.as_ref().map(|restored| &restored.state), Ok(&shard.state));
    // The bucket is told of the deletions before anything is forgotten.
    let before = shard.state.mirrored().expect("told before");
    let file = shard.state.manifest_file().expect("two were deleted");
    assert_eq!(file.removed_streams, []);
    told = file.apply_to(Some((before, told))).expect("extends what was told");
    let version = shard.mirror();
    for n in others..others + 2 {
        assert_eq!(shard.apply(5, delete(other(n))), Outcome::Deleted(false));
    }
    assert_eq!(shard.state.stream_count(), count + others);
    assert!(!shard.state.is_deleted(A) && !shard.state.is_deleted(B));
    assert!(shard.state.is_deleted(other(0)));
    // What has an object cannot come back, and the manifest goes on to tell of it.
    let late = shard.ensure(A, SpecPatch::default(), EnsureMode::Warn);
    assert_eq!(late, Err(EnsureRefused::Deleted));
    assert_eq!(shard.apply(5, delete(A)), Outcome::Deleted(false));
    assert!(!shard.state.is_deleted(A), "no second tombstone");
    let manifest = shard.state.manifest();
    assert!(manifest.streams[&A].deleted && manifest.streams[&A].ranges.len() == 1);
    assert!(!manifest.streams.contains_key(&B));
    let file = shard.state.manifest_file().expect("there is something to tell");
    assert_eq!(file.removed_streams, [B]);
    told = file.apply_to(Some((version, told))).expect("extends what was told");
    assert_eq!(&told, shard.state.manifest());
    shard.mirror();
    assert_eq!(shard.state.manifest_file(), None);
}

#[test]
fn a_stream_deleted_before_it_was_made_is_never_made() {
    let mut shard = Shard::new();
    let early = StreamUid([9; 16]);
    let count = shard.state.stream_count();
    for _ in 0..2 {
        let delete = CommandBody::Stream(StreamCommand::Delete { stream: early });
        assert_eq!(shard.apply(1, delete), Outcome::Deleted(false));
    }
    assert_eq!(shard.state.stream_count(), count + 1, "one tombstone");
    // Not even after a restart, by the creator who comes late.
    let pieces = shard.state.encode_checkpoint(&[], true).pieces().concat();
    let restored = ShardState::decode_checkpoint(ClusterUid([7; 16]), ShardId(1), &pieces);
    assert_eq!(restored.as_ref().map(|restored| &restored.state), Ok(&shard.state));
    let late = shard.ensure(early, SpecPatch::default(), EnsureMode::Warn);
    assert_eq!(late, Err(EnsureRefused::Deleted));
    assert_eq!(shard.one(2, item(early, 1)), Err(AppendRefusal::StreamDeleted));
    assert_eq!(shard.state.stream(early), None);
    // Nobody who reads the bucket hears of it.
    shard.mirror();
    assert!(!shard.state.manifest().streams.contains_key(&early));
}

#[test]
fn ids_count_for_the_end_of_a_range() {
    let mut shard = Shard::new();
    let most = railgun_types::limits::BATCH_RECORDS;
    let id = [7; railgun_types::limits::MESSAGE_ID_BYTES];
    let mut builder = BatchBuilder::new(8 << 20);
    for _ in 0..most {
        let draft = RecordDraft { value: b"x", id: Some(&id), ..RecordDraft::default() };
        builder.push(&draft).expect("small");
    }
    let batch = RecordBatch::verify(builder.finish().concat()).expect("our own");
    let (bytes, id_bytes) = (batch.body_bytes() as u64, batch.id_bytes() as u64);
    assert!(id_bytes >= (most * id.len()) as u64);
    let batches = RANGE_BYTES_MAX.div_ceil(bytes + id_bytes);
    assert!(batches * (most as u64) < RANGE_RECORDS_MAX, "not ended by their number");
    for sent in 0..batches {
        assert_eq!(shard.state.stream(A).expect("there").closed(), [], "after {sent}");
        shard.one(1, Append { batch: batch.clone(), ..item(A, 1) }).expect("appended");
    }
    let stream = shard.state.stream(A).expect("there");
    assert_eq!((stream.closed().len(), stream.open()), (1, None));
    assert_eq!(stream.record_bytes(), batches * bytes, "what a user reads of is records");
    assert_eq!(shard.state.waiting().closed, stream.closed()[0].record_bytes);
}

#[test]
fn ranges_end_at_midnight_and_when_full() {
    let mut shard = Shard::new();
    shard.one(DAY_US - 1, item(A, 1)).expect("appended");
    shard.one(DAY_US, item(A, 1)).expect("appended");
    let stream = shard.state.stream(A).expect("there");
    assert_eq!((stream.closed().len(), stream.closed()[0].day), (1, 0));
    assert_eq!(stream.open().map(|open| open.day), Some(1));
    let large = || Append { batch: batch(1, 8 << 20), ..item(B, 1) };
    for _ in 0..8 {
        shard.one(DAY_US, large()).expect("appended");
    }
    let stream = shard.state.stream(B).expect("there");
    assert_eq!((stream.closed().len(), stream.open()), (1, None));
    assert_eq!(stream.closed()[0].record_bytes, RANGE_BYTES_MAX);
    // Only what is closed; the open range of A stays.
    assert_eq!(shard.seal(SealScope::Closed), 2);
    assert!(shard.state.stream(A).expect("there").open().is_some());
    assert_eq!(shard.seal(SealScope::OlderThan(Timestamp(DAY_US - 1))), 0);
    assert_eq!(shard.seal(SealScope::OlderThan(Timestamp(DAY_US))), 1);
}

#[test]
fn a_range_of_tiny_records_ends_at_their_number() {
    let mut shard = Shard::new();
    let many = |records| Append { batch: batch(records, 2), ..item(A, 1) };
    let most = railgun_types::limits::BATCH_RECORDS as u64;
    for _ in 0..RANGE_RECORDS_MAX.div_ceil(most) {
        shard.one(1, many(most as usize)).expect("appended");
    }
    let stream = shard.state.stream(A).expect("there");
    assert_eq!((stream.closed().len(), stream.open()), (1, None));
    assert!(stream.closed()[0].record_bytes < RANGE_BYTES_MAX);
}

#[test]
fn a_commit_names_the_ranges_of_its_plan_in_order_and_may_name_others() {
    let mut shard = Shard::new();
    let uids: Vec<_> = (10..14_u8).map(|n| StreamUid([n; 16])).collect();
    for &uid in &uids {
        shard.ensure(uid, SpecPatch::default(), EnsureMode::Warn).expect("created");
        shard.one(1, item(uid, 1)).expect("appended");
    }
    shard.seal(SealScope::All);
    let upload = shard.first_plan();
    // Deleted while it was uploaded: its part belongs to nobody.
    let delete = CommandBody::Stream(StreamCommand::Delete { stream: uids[1] });
    assert_eq!(shard.apply(2, delete), Outcome::Deleted(true));
    let mut turned = upload.clone();
    turned.parts.swap(0, 3);
    assert_eq!(shard.commit(turned), Err(CommitRefused::OtherRange { stream: uids[2] }));
    let mut short = upload.clone();
    short.parts.pop();
    assert_eq!(shard.commit(short), Err(CommitRefused::OtherRange { stream: uids[3] }));
    shard.commit(upload).expect("as planned");
    let ends = uids.iter().map(|uid| shard.state.manifest().streams[uid].end().0);
    assert_eq!(ends.collect::<Vec<_>>(), [1, 0, 1, 1]);
}

#[test]
fn manifest_files_extend_each_other_and_then_begin_anew() {
    let mut shard = Shard::new();
    let mut before = None;
    let mut fulls = 0;
    for round in 0..130 {
        shard.one(1, item(A, 1)).expect("appended");
        shard.seal(SealScope::All);
        let upload = shard.first_plan();
        shard.commit(upload).expect("as planned");
        let file = shard.state.manifest_file().expect("dirty");
        match file.extends {
            None => fulls += 1,
            extends => {
                assert_eq!(extends, before);
                assert_eq!(file.streams[&A].kept, round);
                assert_eq!(file.streams[&A].stream.ranges.len(), 1);
                assert_eq!(file.objects.len(), 1);
            }
        }
        before = Some(shard.mirror());
    }
    assert_eq!(fulls, 3, "one in 64");
}

#[test]
fn a_commit_of_another_attempt_changes_nothing() {
    let mut shard = Shard::new();
    shard.one(1, item(A, 2)).expect("appended");
    shard.seal(SealScope::All);
    let first = shard.first_plan();
    shard.commit(first.clone()).expect("as planned");
    // In another term: the same stream goes on, and is sealed again.
    shard.term = 2;
    shard.one(2, item(A, 3)).expect("appended");
    shard.seal(SealScope::All);
    let second = shard.first_plan();
    assert_eq!(shard.state.plans()[&second.object].term, 2);
    let before = |shard: &Shard| (shard.state.manifest().clone(), shard.state.plans().clone());
    let known = before(&shard);
    // What the leader of the older term still had on its way, once more or under another name.
    let late = ObjectCommit { hash: [9; 8], ..first.clone() };
    assert_eq!(shard.commit(late), Err(CommitRefused::NotPlanned { object: first.object }));
    let (object, attempt) = (second.object, first.attempt);
    let renamed = ObjectCommit { object, ..first.clone() };
    assert_eq!(shard.commit(renamed), Err(CommitRefused::OtherAttempt { object, attempt }));
    let renamed = ObjectCommit { object, attempt: second.attempt, ..first };
    assert_eq!(shard.commit(renamed), Err(CommitRefused::OtherRange { stream: A }));
    // What no seal has asked for: of an entry that is none, and of a part that its seal has not.
    for object in [
        ObjectId { seal_index: second.object.seal_index - 1, part: 0 },
        ObjectId { part: second.object.part + 1, ..second.object },
    ] {
        let foreign = ObjectCommit { object, ..second.clone() };
        assert_eq!(shard.commit(foreign), Err(CommitRefused::NotPlanned { object }));
    }
    assert_eq!(before(&shard), known);
    shard.commit(second).expect("as planned");
    assert_eq!(shard.state.manifest().streams[&A].end(), Offset(5));
}

#[test]
fn the_least_size_of_a_segment_can_be_another() {
    let mut shard = Shard::new();
    shard.state = shard.state.with_segment_bytes_min(100);
    shard.one(1, item(A, 1)).expect("appended");
    shard.one(1, item(B, 40)).expect("appended");
    let bytes = shard.state.waiting().open;
    assert!(bytes > 100, "{bytes}");
    shard.seal(SealScope::All);
    let kinds = shard.state.plans().values().map(|plan| (plan.kind, plan.ranges[0].stream));
    assert_eq!(kinds.collect::<Vec<_>>(), [(SegmentKind::Segment, B), (SegmentKind::Bundle, A)]);
}
