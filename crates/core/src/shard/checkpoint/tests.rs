use std::collections::VecDeque;
use std::sync::LazyLock;

use proptest::prelude::*;
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{
    DedupFull, DedupPatch, DlqPatch, EnsureMode, EntryId, GroupId, GroupMode, GroupName,
    GroupPatch, OffsetRange, RequestId, SpecPatch, StreamName,
};

use super::super::ensure::{CHANGES_REMEMBERED, Change};
use super::*;
use crate::checkpoint::{damage, sections};
use crate::command::{
    Append, AppendMode, Command, CommandBody, CommittedPart, DeadLetterOf, EnsureGroup,
    EnsureStream, ExpectedNext, FailCause, GroupChange, GroupChanges, GroupCommand, GroupStart,
    ObjectCommit, ProducerSequence, SealScope, SegmentCommand, StreamCommand, UploadAttempt,
};
use crate::group::GroupState;
use crate::shard::dedup::{HeldId, IdWindow, Slice};
use crate::shard::{Group, Outcome};

const CLUSTER: ClusterUid = ClusterUid([7; 16]);
const SHARD: ShardId = ShardId(2);
const DAY_US: i64 = 86_400_000_000;
const START: i64 = 1_700_000_000_000_000;

/// Small, several records, enough for a segment, an eighth of a full range. Then ids: one, with another content,
/// among others, twice.
static BATCHES: LazyLock<[RecordBatch; 8]> = LazyLock::new(|| {
    [
        batch(1, 10),
        batch(3, 10),
        batch(1, 5 << 20),
        batch(1, 8 << 20),
        with_ids(&[("b", "1")]),
        with_ids(&[("b", "2")]),
        with_ids(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]),
        with_ids(&[("e", "1"), ("e", "1"), ("a", "1"), ("f", "1")]),
    ]
});

fn batch(records: usize, bytes: usize) -> RecordBatch {
    let mut builder = BatchBuilder::new(8 << 20);
    let value = vec![0; bytes - 1];
    for _ in 0..records {
        builder.push(&RecordDraft { value: &value, ..RecordDraft::default() }).expect("small");
    }
    RecordBatch::verify(builder.finish().concat()).expect("our own")
}

/// Records of these ids and values.
fn with_ids(records: &[(&str, &str)]) -> RecordBatch {
    let mut builder = BatchBuilder::new(1 << 20);
    for (id, value) in records {
        let (id, value) = (Some(id.as_bytes()), value.as_bytes());
        builder.push(&RecordDraft { id, value, ..RecordDraft::default() }).expect("small");
    }
    RecordBatch::verify(builder.finish().concat()).expect("our own")
}

fn encode(state: &ShardState, with_index: bool) -> Vec<u8> {
    state.encode_checkpoint(b"voters", with_index).pieces().concat()
}

fn decode(bytes: &[u8]) -> Result<Restored, CheckpointError> {
    ShardState::decode_checkpoint(CLUSTER, SHARD, bytes)
}

fn restored(state: &ShardState, with_index: bool) -> ShardState {
    let Restored { state, membership } = decode(&encode(state, with_index)).expect("our own");
    assert_eq!(membership, &b"voters"[..]);
    state
}

fn without_index(state: &ShardState) -> ShardState {
    let mut state = state.clone();
    state.streams.values_mut().for_each(|stream| stream.index = HotIndex::default());
    state
}

/// Holds and waiting bytes are counted as ranges come and go; here they are counted from the ranges.
fn check_accounts(state: &ShardState) {
    let open: Vec<_> = state.streams.values().filter_map(|stream| stream.open.clone()).collect();
    let closed: Vec<_> = state.streams.values().flat_map(|s| s.closed.clone()).collect();
    let planned: Vec<_> =
        state.plans.values().flat_map(|p| p.ranges.iter().map(|r| r.range.clone())).collect();
    let bytes = |ranges: &[HotRange]| ranges.iter().map(|range| range.record_bytes).sum::<u64>();
    let waiting = Waiting { open: bytes(&open), closed: bytes(&closed), planned: bytes(&planned) };
    assert_eq!(state.waiting, waiting);

    let mut holds = BTreeMap::<u64, u32>::new();
    let ranges = [open, closed, planned].concat();
    let unmirrored = state.floor.unmirrored.iter().map(|(_, first)| *first);
    for first in ranges.iter().map(|range| range.first_log_index).chain(unmirrored) {
        *holds.entry(first).or_default() += 1;
    }
    assert_eq!(state.floor.holds, holds);

    // Every record is cold, planned, closed or open, in this order and without a gap.
    for (uid, stream) in state.streams() {
        let mut end = state.manifest.streams[&uid].end();
        let planned = state.plans.values().flat_map(|plan| &plan.ranges);
        let planned = planned.filter(|p| p.stream == uid).map(|p| &p.range);
        for range in planned.chain(&stream.closed).chain(&stream.open) {
            assert_eq!(range.base, end, "stream {uid}");
            end = range.end;
        }
        assert_eq!(stream.next, end, "stream {uid}");
    }
    let uses = &state.producers.by_use;
    assert_eq!(uses.len(), state.producers.states.len());
    assert!(state.producers.states.iter().all(|(key, p)| uses.contains_key(&(p.used, *key))));
    let duplicates: u64 = state.producers.states.values().map(Producer::duplicates).sum();
    assert_eq!(state.producers.duplicates, duplicates);
    assert_eq!(state.dedup.held, state.dedup.windows.values().map(IdWindow::held).sum::<u64>());
}

fn uid(stream: u8) -> StreamUid {
    StreamUid([stream; 16])
}

fn ensure(stream: u8, patch: SpecPatch, mode: EnsureMode) -> CommandBody {
    CommandBody::Stream(StreamCommand::Ensure(EnsureStream {
        stream: uid(stream),
        name: StreamName::new(["a", "b.c", "orders", "x-1"][usize::from(stream) % 4])
            .expect("valid"),
        patch,
        mode,
        if_revision: None,
        allow_destructive: false,
        request: None,
    }))
}

/// The same, by a request that says which one it is.
fn ensure_by(request: u8, stream: u8, patch: SpecPatch, mode: EnsureMode) -> CommandBody {
    let mut body = ensure(stream, patch, mode);
    if let CommandBody::Stream(StreamCommand::Ensure(ensure)) = &mut body {
        ensure.request = Some(RequestId([request; 16]));
    }
    body
}

fn ensure_group(request: Option<u8>, stream: u8, name: &str, patch: GroupPatch) -> CommandBody {
    CommandBody::Group(GroupCommand::Ensure(Box::new(EnsureGroup {
        stream: uid(stream),
        group: GroupName::new(name).expect("valid"),
        patch,
        start: GroupStart::Last(3),
        mode: EnsureMode::Overwrite,
        if_revision: None,
        allow_destructive: false,
        request: request.map(|request| RequestId([request; 16])),
    })))
}

fn said_of(group: GroupId, term: u64, changes: Vec<GroupChange>) -> CommandBody {
    CommandBody::Group(GroupCommand::Changes([GroupChanges { group, term, changes }].into()))
}

fn dead_letter(state: &ShardState, group: GroupId, offset: Offset, generation: u32) -> Append {
    let companion = state.group(group).map_or(uid(99), Group::companion);
    let next = state.stream(companion).map_or(0, |stream| stream.next.0);
    Append {
        stream: companion,
        expected_end: Some(ExpectedNext(next)),
        dead_letter: Some(DeadLetterOf { group, offset, generation }),
        ..append(0, 0)
    }
}

/// As [`rich`], with streams that were changed by requests that said which they were.
fn richer() -> ShardState {
    let mut shard = Replica { state: rich(), next: EntryId { index: 300, term: 3 }, now: 0 };
    let owned = SpecPatch { owner: Some("eu".to_owned()), ..SpecPatch::default() };
    shard.apply(ensure_by(1, 4, SpecPatch::default(), EnsureMode::Warn));
    shard.apply(ensure_by(2, 1, owned.clone(), EnsureMode::Overwrite));
    shard.apply(ensure_by(7, 4, owned.clone(), EnsureMode::Overwrite));
    shard.apply(ensure_by(3, 5, SpecPatch::default(), EnsureMode::Warn));
    shard.apply(CommandBody::Stream(StreamCommand::Delete { stream: uid(5) }));
    let state = shard.state;
    let changes = |stream: u8| {
        let changes = state.streams[&uid(stream)].revisions.changes.iter();
        changes.map(|it| (it.request.0[0], it.revision, it.diff.as_ref().map(Vec::len)))
    };
    assert_eq!(changes(4).collect::<Vec<_>>(), [(1, 1, None), (7, 2, Some(1))]);
    assert_eq!(changes(1).collect::<Vec<_>>(), [(2, 3, Some(1))]);
    assert_eq!(changes(5).count(), 0, "nobody asks a tombstone");
    state
}

fn append(stream: u8, batch: usize) -> Append {
    Append {
        stream: uid(stream),
        producer: None,
        mode: AppendMode::Each,
        expected_end: None,
        dead_letter: None,
        batch: BATCHES[batch].clone(),
    }
}

/// Names an upload of the first plan, with this content.
fn attempt(state: &ShardState, hash: u8) -> Option<CommandBody> {
    let object = *state.plans.first_key_value()?.0;
    let upload = UploadAttempt { object, hash: [hash; 8] };
    Some(CommandBody::Segment(SegmentCommand::Attempt(upload)))
}

fn by(id: u8, epoch: u32, sequence: u64, append: Append) -> Append {
    let producer = ProducerSequence { id: ProducerId([id; 16]), epoch, sequence };
    Append { producer: Some(producer), ..append }
}

/// The commit that a faithful upload of the first plan would propose, if it is named.
fn first_plan(state: &ShardState) -> Option<ObjectCommit> {
    let (&object, plan) = state.plans.first_key_value()?;
    let Attempt { index: attempt, hash } = plan.attempt?;
    let part = |planned: &PlannedRange| CommittedPart {
        stream: planned.stream,
        base: planned.range.base,
        count: planned.range.end.0 - planned.range.base.0,
        min_ts: planned.range.since,
        max_ts: Timestamp(planned.range.since.0 + 5),
        record_bytes: planned.range.record_bytes,
        first_row_group: 1,
        first_row: 200,
        digest: [planned.range.end.0 as u8; 32],
    };
    let parts = plan.ranges.iter().map(part).collect();
    Some(ObjectCommit { object, attempt, hash, bytes: 1 << 20, footer_bytes: 300, parts })
}

/// One of many replicas' states, and where the next entry goes.
struct Replica {
    state: ShardState,
    next: EntryId,
    now: i64,
}

impl Replica {
    fn new() -> Self {
        let state = ShardState::new(CLUSTER, SHARD);
        Self { state, next: EntryId { index: 0, term: 1 }, now: START }
    }

    fn apply(&mut self, body: CommandBody) -> Outcome {
        let outcome = self.state.apply(self.next, &Command { ts: Timestamp(self.now), body });
        self.next.index += 1;
        check_accounts(&self.state);
        outcome
    }

    fn attempt(&mut self, hash: u8) {
        let body = attempt(&self.state, hash).expect("a plan");
        assert!(matches!(self.apply(body), Outcome::Attempted(Some(_))));
    }

    fn commit(&mut self) {
        self.attempt(9);
        let commit = first_plan(&self.state).expect("a plan");
        let outcome = self.apply(CommandBody::Segment(SegmentCommand::Commit(commit)));
        assert_eq!(outcome, Outcome::Committed(Ok(())));
    }

    fn mirror(&mut self) {
        let version = self.state.manifest_file().expect("something to mirror").version;
        self.apply(CommandBody::Segment(SegmentCommand::Mirrored(version)));
    }
}

/// A shard with something in every field.
fn rich() -> ShardState {
    let mut shard = Replica::new();
    let seal = |scope| CommandBody::Segment(SegmentCommand::Seal(scope));
    for stream in 0..4 {
        shard.apply(ensure(stream, SpecPatch::default(), EnsureMode::Warn));
    }
    let owned = SpecPatch { owner: Some("ops".to_owned()), ..SpecPatch::default() };
    shard.apply(ensure(1, owned, EnsureMode::Overwrite));
    // A segment of 0, a bundle of 1 and 3: mirrored.
    shard.apply(CommandBody::Append(vec![append(0, 2), append(1, 1), append(3, 0)]));
    shard.apply(seal(SealScope::All));
    shard.commit();
    shard.commit();
    shard.mirror();
    // Committed, not mirrored; the rest planned. Then 3 is deleted.
    shard.now += 2_000_000;
    shard.apply(CommandBody::Append(vec![append(0, 2), append(1, 1), append(3, 1)]));
    shard.apply(seal(SealScope::All));
    shard.commit();
    // Of the two uploads of the rest one is over.
    shard.attempt(1);
    shard.attempt(2);
    shard.apply(CommandBody::Stream(StreamCommand::Delete { stream: uid(3) }));
    // Closed at midnight and open, by two producers, one of them with a full window.
    shard.next = EntryId { index: 200, term: 3 };
    for sequence in 0..10 {
        shard.now += if sequence == 5 { DAY_US } else { 400_000 };
        let first = by(1, 0, sequence * 3, append(1, 1));
        let second = by(2, 300, sequence, append(2, 0));
        shard.apply(CommandBody::Append(vec![first, second]));
    }
    // Ids, of which one was forgotten for another; results with duplicates, and with a refusal.
    let dedup = DedupPatch {
        window_ms: Some(120_000),
        max_ids: Some(5),
        full: Some(DedupFull::EvictOldest),
        ..DedupPatch::default()
    };
    shard.apply(ensure(0, SpecPatch { dedup, ..SpecPatch::default() }, EnsureMode::Overwrite));
    shard.apply(CommandBody::Append(vec![
        by(1, 0, 0, append(0, 4)),
        by(1, 0, 1, append(0, 6)),
        by(1, 0, 5, append(0, 7)),
        by(2, 0, 0, append(0, 6)),
    ]));
    // A group with a dead message, one pending again, one delayed, one dying; another one, where all is
    // well.
    let exclusive = GroupPatch { mode: Some(GroupMode::Exclusive), ..GroupPatch::default() };
    shard.apply(ensure_group(None, 1, "billing", exclusive));
    let (id, term) = (shard.state.groups().next().expect("one").id(), shard.next.term);
    shard.apply(ensure_group(Some(3), 1, "audit", GroupPatch::default()));
    let floor = shard.state.group(id).expect("there").state().floor();
    let ranges = |start, end| vec![OffsetRange::new(floor.plus(start), floor.plus(end))];
    let (epoch, error) = (1, || Some("why".into()));
    let (cause, delay_ms) = (FailCause::Expired, Some(1_000));
    let said = vec![
        GroupChange::Activate,
        GroupChange::Reserve { upto: Offset(1_000) },
        GroupChange::Ack { epoch, ranges: ranges(2, 4) },
        GroupChange::Reject { epoch, ranges: ranges(5, 8), error: error() },
        GroupChange::Fail { epoch, ranges: ranges(8, 9), cause, delay_ms, error: error() },
    ];
    shard.apply(said_of(id, term, said));
    for offset in [5, 6] {
        let letter = dead_letter(&shard.state, id, floor.plus(offset), 0);
        let outcome = shard.apply(CommandBody::Append(vec![letter]));
        assert!(matches!(&outcome, Outcome::Appended(all) if all[0].is_ok()), "{outcome:?}");
    }
    shard.apply(said_of(id, 0, vec![GroupChange::Redrive { offsets: ranges(6, 7) }]));
    let state = shard.state;
    assert_eq!((state.groups.len(), state.companions.len()), (2, 1));
    let window = &state.dedup.windows[&uid(0)];
    assert!(window.held() == 5 && window.forgotten > 0 && window.evicted_ts.is_some());
    assert_eq!(state.producers.duplicates, 6);
    assert!(state.streams[&uid(1)].open.is_some() && !state.streams[&uid(1)].closed.is_empty());
    assert!(state.streams[&uid(3)].deleted && !state.plans.is_empty());
    assert!(!state.floor.unmirrored.is_empty() && state.manifest.objects.len() == 3);
    assert!(!state.manifest_log.streams.is_empty() && !state.manifest_log.objects.is_empty());
    assert!(state.orphans.len() == 1 && state.plans.values().all(|plan| plan.attempt.is_some()));
    assert!(state.manifest_log.newest.is_some() && state.producers.len() == 4);
    state
}

#[test]
fn a_state_comes_back_as_it_was() {
    for state in [ShardState::new(CLUSTER, SHARD), rich(), richer()] {
        assert_eq!(restored(&state, true), state);
        assert_eq!(restored(&state, false), without_index(&state));
    }
}

#[test]
fn another_owner_is_named() {
    let bytes = encode(&rich(), false);
    let read = |cluster, shard| ShardState::decode_checkpoint(cluster, shard, &bytes).map(|_| ());
    let wanted = ClusterUid([8; 16]);
    let error = CheckpointError::WrongCluster { wanted, found: Some(CLUSTER) };
    assert_eq!(read(wanted, SHARD), Err(error));
    let error = CheckpointError::WrongShard { wanted: ShardId(3), found: SHARD };
    assert_eq!(read(CLUSTER, ShardId(3)), Err(error));
}

#[test]
fn what_is_not_understood_is_named() {
    assert_eq!(decode(b"PAR1 and so on"), Err(CheckpointError::NotACheckpoint));
    let mut newer = encode(&rich(), false);
    newer[8] = 3;
    let error = decode(&newer);
    assert!(error.is_err_and(|error| error.is_damage()), "its checksum is of another version");
    let sum = railgun_types::crc32c(&newer[..16]);
    newer[16..20].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(decode(&newer), Err(CheckpointError::UnknownVersion { version: 3 }));
    let mut rotten = encode(&rich(), false);
    *rotten.last_mut().expect("not empty") ^= 1;
    assert!(matches!(decode(&rotten), Err(CheckpointError::Checksum { .. })));
}

#[test]
fn what_two_states_differ_in_is_told() {
    let state = rich();
    let mut other = state.clone();
    other.dedup.lose_newest();
    let mut leased = state.clone();
    let group = leased.groups.values_mut().next().expect("it has one");
    group.state = GroupState::new(Offset(7));
    let of = |state: &ShardState| sections(&encode(state, false)).expect("our own");
    let differ = |other: &ShardState| -> Vec<_> {
        let pairs = of(&state).into_iter().zip(of(other));
        pairs.filter(|(one, other)| one != other).map(|((section, _), _)| section).collect()
    };
    assert_eq!(differ(&state), []);
    assert_eq!(differ(&other), [Section::Ids]);
    assert_eq!(differ(&leased), [Section::Groups]);
}

#[test]
fn damage_is_refused() {
    for with_index in [false, true] {
        damage::check(&encode(&richer(), with_index), |damaged| {
            let decoded = decode(damaged);
            damage::check_check(
                Some(CLUSTER),
                SHARD,
                damaged,
                decoded.as_ref().map(|it| &it.membership),
            );
            let Restored { state, membership } = decoded?;
            let has_index = CheckpointReader::new(damaged)?.0.has_index;
            Ok(state.encode_checkpoint(&membership, has_index).pieces().concat())
        });
    }
}

#[test]
fn a_length_alone_allocates_nothing() {
    let bytes = encode(&rich(), true);
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    for section in
        [Section::Streams, Section::Producers, Section::Manifest, Section::Ids, Section::Index]
    {
        let error = CheckpointError::Malformed { section };
        assert_eq!(decode(&damage::with_content(&bytes, section, &huge)), Err(error));
    }
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    // Apply would go on from these as no other replica does, or overflow.
    let refused = |section, change: fn(&mut ShardState)| {
        let mut state = rich();
        change(&mut state);
        assert_eq!(decode(&encode(&state, true)), Err(CheckpointError::Malformed { section }));
    };
    fn stream(state: &mut ShardState) -> &mut Stream {
        state.streams.get_mut(&uid(1)).expect("there")
    }
    refused(Section::Streams, |state| stream(state).closed[0].end = Offset(0));
    refused(Section::Producers, |state| {
        let mut producers = state.producers.states.values_mut();
        let full = producers.find(|it| it.results.len() == PRODUCER_WINDOW);
        let results = &mut full.expect("two").results;
        results.push_back(results[0].clone());
    });
    refused(Section::Offload, |state| state.floor.unmirrored.push_back((1, 1)));
    refused(Section::Offload, |state| {
        let range = stream(state).closed[0].clone();
        stream(state).closed = vec![HotRange { record_bytes: u64::MAX, ..range }; 2];
    });
    // What is deleted must not be what is, or will be, committed; nor another key than it is known by.
    refused(Section::Offload, |state| {
        let committed = state.manifest.objects.values_mut().next().expect("some");
        committed.attempt = *state.orphans.first_key_value().expect("one").0;
    });
    refused(Section::Offload, |state| {
        let index = *state.orphans.first_key_value().expect("one").0;
        let plan = state.plans.values_mut().next().expect("one");
        plan.attempt = Some(Attempt { index, hash: [0; 8] });
    });
    refused(Section::Offload, |state| {
        state.orphans.values_mut().next().expect("one").info.attempt += 1;
    });
    // Of a stream that is not there, under a name that another one has, or with an identity to come.
    fn group(state: &mut ShardState) -> &mut Group {
        state.groups.values_mut().next().expect("two")
    }
    refused(Section::Groups, |state| group(state).stream = uid(3));
    refused(Section::Groups, |state| group(state).stream = uid(77));
    refused(Section::Groups, |state| {
        group(state).name = GroupName::new("audit").expect("valid");
    });
    refused(Section::Groups, |state| {
        let id = GroupId(state.applied.expect("some").index + 1);
        let group = Group { id, stream: uid(2), ..group(state).clone() };
        state.groups.insert(id, group);
    });
    // A companion is known by its name.
    refused(Section::Streams, |state| stream(state).parent = Some(uid(2)));
    refused(Section::Streams, |state| {
        stream(state).name = StreamName::parse_any("a$dlq.b").expect("valid");
    });
    // Ids of a stream that holds none, of messages that it does not have, or will have; forgotten ones that
    // are not there.
    fn ids(state: &mut ShardState) -> &mut IdWindow {
        state.dedup.windows.get_mut(&uid(0)).expect("there")
    }
    refused(Section::Ids, |state| {
        let window = ids(state).clone();
        state.dedup.windows.insert(uid(1), window);
    });
    refused(Section::Ids, |state| {
        state.streams.get_mut(&uid(0)).expect("there").spec.dedup.window_ms = 0;
    });
    refused(Section::Ids, |state| state.log_time = Timestamp(START));
    refused(Section::Ids, |state| {
        let ids = ids(state);
        let slice = ids.slices[0].ids().iter().copied().collect();
        ids.slices.push_back(Arc::new(Slice::closed(slice)));
    });
    fn add_id(state: &mut ShardState, change: fn(&mut HeldId, Offset)) {
        let next = state.streams[&uid(0)].next;
        let slices = &mut ids(state).slices;
        let mut id = *slices.back().and_then(|last| last.ids().last()).expect("some");
        change(&mut id, next);
        slices.push_back(Arc::new(Slice::closed(vec![id])));
    }
    refused(Section::Ids, |state| add_id(state, |id, next| id.offset = next));
    refused(Section::Ids, |state| {
        state.streams.get_mut(&uid(0)).expect("there").next.0 += 1;
        add_id(state, |id, next| {
            (id.offset, id.ts) = (Offset(next.0 - 1), Timestamp(id.ts.0 - 1));
        });
    });
    refused(Section::Ids, |state| ids(state).slices.push_back(Arc::default()));
    refused(Section::Ids, |state| ids(state).forgotten = ids(state).slices[0].ids().len());
    refused(Section::Index, |state| {
        let mut points: Vec<_> = stream(state).index.iter().collect();
        points[1].log_index = 0;
        stream(state).index = points.into_iter().collect();
    });
}

#[test]
fn an_index_that_does_not_fit_its_stream_is_refused() {
    // The index ends where the stream does, at or before the last entry applied: else a read would
    // be told of records that are not there.
    let whole = rich();
    let mut index = BytesMut::new();
    index::encode_index(&mut index, &whole.streams);
    let refused = |change: fn(&mut ShardState)| {
        let mut state = whole.clone();
        change(&mut state);
        let bytes = damage::with_content(&encode(&state, true), Section::Index, &index);
        assert_eq!(decode(&bytes), Err(CheckpointError::Malformed { section: Section::Index }));
    };
    refused(|state| state.streams.get_mut(&uid(2)).expect("there").next.0 += 1);
    refused(|state| {
        state.groups.clear();
        state.applied = Some(EntryId { index: 208, term: 3 });
    });
    refused(|state| drop(state.streams.remove(&uid(2))));
}

#[test]
fn what_changed_a_stream_is_written_behind_it() {
    let mut plain = richer();
    plain.streams.values_mut().for_each(|stream| stream.revisions.changes.clear());
    let added = encode(&richer(), false).len() - encode(&plain, false).len();
    // Each is an id, a sum and a revision. One that created: and no. Two that updated: yes, how many fields, and of
    // one its path, both values and its class.
    let texts = |texts: [&str; 3]| texts.iter().map(|text| 1 + text.len()).sum::<usize>();
    let diffs = texts(["owner", "ops", "eu"]) + texts(["owner", "", "eu"]) + 2;
    assert_eq!(added, 3 * 21 + 1 + 2 * 2 + diffs);
}

#[test]
fn changes_that_cannot_have_been_are_refused() {
    let refused = |change: fn(&mut VecDeque<Change>)| {
        let mut state = richer();
        change(&mut state.streams.get_mut(&uid(4)).expect("there").revisions.changes);
        let bytes = encode(&state, true);
        let section = Section::Streams;
        assert_eq!(decode(&bytes), Err(CheckpointError::Malformed { section }));
    };
    refused(|changes| changes[1].revision = 3);
    refused(|changes| {
        let first = changes[0].clone();
        changes.resize(CHANGES_REMEMBERED + 1, first);
    });
}

#[test]
fn the_format_is_fixed() {
    let mut state = rich();
    // When that was written, a deleted stream kept the time of its last record.
    state.streams.get_mut(&uid(3)).expect("a tombstone").last_ts = Timestamp(START);
    let bytes = encode(&state, true);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/checkpoint-shard-v2.bin");
    if std::env::var_os("REGENERATE_GOLDEN").is_some() {
        std::fs::write(path, &bytes).expect("it can be written");
    }
    let golden = std::fs::read(path).expect("golden file is there");
    assert!(bytes == golden, "the format changed; now {} bytes", bytes.len());
}

#[test]
fn a_large_state_comes_in_small_pieces_and_an_index_point_in_few_bytes() {
    let mut shard = Replica::new();
    shard.apply(ensure(0, SpecPatch::default(), EnsureMode::Warn));
    let small = encode(&shard.state, true).len();
    let points = 300_000;
    for entry in 0..points / 10 {
        shard.now += 3_000;
        let items = (0..10).map(|_| append(0, 1)).collect();
        let at = EntryId { index: 10 + entry, term: 1 };
        shard
            .state
            .apply(at, &Command { ts: Timestamp(shard.now), body: CommandBody::Append(items) });
    }
    let pieces = shard.state.encode_checkpoint(b"voters", true).pieces();
    assert!(pieces.iter().all(|piece| piece.len() <= 1 << 20));
    let bytes = pieces.concat();
    assert!(bytes.len() > 1 << 20, "several pieces of one section");
    assert!((bytes.len() - small) as u64 <= 8 * points, "{} bytes", bytes.len());
    assert!(decode(&bytes).expect("our own").state == shard.state);
}

/// What one entry does, in terms of the state it meets.
#[derive(Clone, Debug)]
enum Step {
    Ensure {
        stream: u8,
        patch: SpecPatch,
        mode: EnsureMode,
        request: Option<u8>,
    },
    Append(Vec<Item>),
    Seal(SealScope),
    /// An upload of the first plan.
    Attempt {
        hash: u8,
    },
    /// Some orphans are gone.
    Collect {
        most: usize,
    },
    /// The first plan, or not quite.
    Commit {
        faithful: bool,
    },
    Mirror,
    Delete(u8),
    Release {
        stream: u8,
        producer: u8,
    },
    EnsureGroup {
        stream: u8,
        name: &'static str,
        patch: GroupPatch,
    },
    DeleteGroup {
        stream: u8,
        name: &'static str,
    },
    /// Of some group, by its dispatcher or by an operator.
    Changes {
        nth: usize,
        by_operator: bool,
        changes: Vec<GroupChange>,
    },
    /// Of a group that awaits one, or of none.
    DeadLetter {
        nth: usize,
    },
    Tick,
    /// An entry without a command, in a new term.
    Skip,
}

#[derive(Clone, Debug)]
struct Item {
    stream: u8,
    batch: usize,
    claim: Option<(u8, u32, Claim)>,
    expects: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Claim {
    Next,
    Again(usize),
    Gap,
}

impl Item {
    fn append(&self, state: &ShardState) -> Append {
        let next = state.stream(uid(self.stream)).map_or(0, |stream| stream.next.0);
        let expected_end = self.expects.map(|above| ExpectedNext(next + above));
        let append = Append { expected_end, ..append(self.stream, self.batch) };
        let Some((id, epoch, claim)) = self.claim else { return append };
        let known = state.producers.states.get(&(uid(self.stream), ProducerId([id; 16])));
        let next = known.filter(|known| known.epoch >= epoch).map_or(0, |known| known.next);
        let sequence = match claim {
            Claim::Next => next,
            Claim::Again(nth) => {
                known.and_then(|known| known.results.get(nth)).map_or(0, |result| result.sequence)
            }
            Claim::Gap => next + 1,
        };
        by(id, epoch, sequence, append)
    }
}

impl Step {
    fn body(&self, state: &ShardState, term: u64) -> Option<CommandBody> {
        Some(match self {
            Self::Ensure { stream, patch, mode, request } => match request {
                None => ensure(*stream, patch.clone(), *mode),
                Some(request) => ensure_by(*request, *stream, patch.clone(), *mode),
            },
            Self::Append(items) => {
                CommandBody::Append(items.iter().map(|item| item.append(state)).collect())
            }
            Self::Seal(scope) => CommandBody::Segment(SegmentCommand::Seal(*scope)),
            Self::Attempt { hash } => attempt(state, *hash)?,
            Self::Collect { most } => {
                let attempts = state.orphans.keys().copied().take(*most).collect();
                CommandBody::Segment(SegmentCommand::Collected(attempts))
            }
            Self::Commit { faithful } => {
                let mut commit = first_plan(state)?;
                if !faithful && let Some(part) = commit.parts.first_mut() {
                    part.count += 1;
                }
                CommandBody::Segment(SegmentCommand::Commit(commit))
            }
            Self::Mirror => {
                CommandBody::Segment(SegmentCommand::Mirrored(state.manifest_file()?.version))
            }
            Self::Delete(stream) => {
                CommandBody::Stream(StreamCommand::Delete { stream: uid(*stream) })
            }
            Self::Release { stream, producer } => {
                CommandBody::Stream(StreamCommand::ReleaseProducer {
                    producer: ProducerId([*producer; 16]),
                    epoch: 0,
                    streams: vec![uid(*stream)],
                })
            }
            Self::EnsureGroup { stream, name, patch } => {
                ensure_group(None, *stream, name, patch.clone())
            }
            Self::DeleteGroup { stream, name } => CommandBody::Group(GroupCommand::Delete {
                stream: uid(*stream),
                group: GroupName::new(name).expect("valid"),
            }),
            Self::Changes { nth, by_operator, changes } => {
                let group = state.groups().nth(nth % state.groups.len().max(1));
                let id = group.map_or(GroupId(u64::MAX), Group::id);
                said_of(id, if *by_operator { 0 } else { term }, changes.clone())
            }
            Self::DeadLetter { nth } => {
                let dying = state.groups().flat_map(|group| {
                    group.state().dying().map(|(offset, it)| (group.id(), offset, it))
                });
                let dying: Vec<_> = dying.collect();
                let (group, offset, generation) = match dying.len() {
                    0 => (GroupId(*nth as u64), Offset(0), 0),
                    all => dying[nth % all],
                };
                CommandBody::Append(vec![dead_letter(state, group, offset, generation)])
            }
            Self::Tick => CommandBody::Tick,
            Self::Skip => return None,
        })
    }
}

fn item() -> impl Strategy<Value = Item> {
    let batch = prop_oneof![6 => 0usize..2, 1 => 2usize..4, 8 => 4usize..8];
    let claim = prop_oneof![
        8 => Just(Claim::Next),
        2 => (0usize..8).prop_map(Claim::Again),
        1 => Just(Claim::Gap),
    ];
    let epoch = prop_oneof![8 => Just(0u32), 1 => 1u32..3];
    let claim = proptest::option::weighted(0.7, (0u8..3, epoch, claim));
    let expects = proptest::option::weighted(0.1, 0u64..2);
    (0u8..4, batch, claim, expects).prop_map(|(stream, batch, claim, expects)| Item {
        stream,
        batch,
        claim,
        expects,
    })
}

fn change() -> impl Strategy<Value = GroupChange> {
    let range = (0u64..20, 1u64..9)
        .prop_map(|(start, len)| vec![OffsetRange::new(Offset(start), Offset(start + len))]);
    let (epoch, cause, error) = (0, FailCause::Nack, None);
    prop_oneof![
        6 => range.clone().prop_map(move |ranges| GroupChange::Ack { epoch, ranges }),
        3 => (range.clone(), proptest::option::of(0u64..2)).prop_map(move |(ranges, delay_ms)| {
            GroupChange::Fail { epoch, ranges, cause, delay_ms, error: error.clone() }
        }),
        3 => range.clone().prop_map(move |ranges| {
            GroupChange::Reject { epoch, ranges, error: Some("no".into()) }
        }),
        1 => Just(GroupChange::Due { offsets: (0..20).map(Offset).collect() }),
        4 => (0u64..40).prop_map(|upto| GroupChange::Reserve { upto: Offset(upto) }),
        1 => range.clone().prop_map(|offsets| GroupChange::Redrive { offsets }),
        1 => range.prop_map(|offsets| GroupChange::Discard { offsets }),
        1 => (0u64..20, any::<bool>())
            .prop_map(|(to, force)| GroupChange::Reset { to: Offset(to), force }),
        1 => (0u64..20).prop_map(|upto| GroupChange::Removed { upto: Offset(upto) }),
        1 => prop_oneof![
            Just(GroupChange::Activate),
            Just(GroupChange::Pause),
            Just(GroupChange::Resume)
        ],
    ]
}

fn dedup() -> impl Strategy<Value = DedupPatch> {
    let window = proptest::option::weighted(0.8, prop_oneof![Just(1_000), Just(60_000)]);
    let ids = proptest::option::weighted(0.3, 1u64..6);
    let full = prop_oneof![Just(DedupFull::Reject), Just(DedupFull::EvictOldest)];
    (window, ids, proptest::option::of(full)).prop_map(|(window_ms, max_ids, full)| DedupPatch {
        window_ms,
        require_id: None,
        max_ids,
        full,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let name = || prop_oneof![Just("audit"), Just("billing")];
    let group_patch = (any::<bool>(), proptest::option::of(1u32..3)).prop_map(|(parks, most)| {
        let enabled = Some(!parks);
        let dlq = DlqPatch { enabled, max_attempts: most, ..DlqPatch::default() };
        GroupPatch { dlq, ..GroupPatch::default() }
    });
    let changes = (0usize..9, any::<bool>(), proptest::collection::vec(change(), 1..5));
    let patch = (proptest::option::of(1u32..4), proptest::option::of("[a-z]{0,3}"), dedup());
    let patch = patch.prop_map(|(max_message_bytes, owner, dedup)| SpecPatch {
        max_message_bytes,
        owner,
        dedup,
        ..SpecPatch::default()
    });
    let mode = prop_oneof![Just(EnsureMode::Warn), Just(EnsureMode::Overwrite)];
    let scope = prop_oneof![
        Just(SealScope::Closed),
        (0i64..1 << 38).prop_map(|us| SealScope::OlderThan(Timestamp(START + us))),
        (0u8..4).prop_map(|stream| SealScope::Stream(uid(stream))),
        Just(SealScope::All),
    ];
    let full = (0u8..3).prop_map(|stream| {
        let item = Item { stream, batch: 3, claim: None, expects: None };
        Step::Append(vec![item; 9])
    });
    prop_oneof![
        2 => (0u8..4, patch, mode, proptest::option::of(0u8..4)).prop_map(
            |(stream, patch, mode, request)| Step::Ensure { stream, patch, mode, request }
        ),
        10 => proptest::collection::vec(item(), 1..6).prop_map(Step::Append),
        1 => full,
        4 => scope.prop_map(Step::Seal),
        8 => proptest::bool::weighted(0.9).prop_map(|faithful| Step::Commit { faithful }),
        6 => (0u8..2).prop_map(|hash| Step::Attempt { hash }),
        1 => (0usize..4).prop_map(|most| Step::Collect { most }),
        3 => Just(Step::Mirror),
        1 => (0u8..4).prop_map(Step::Delete),
        1 => (0u8..4, 0u8..3).prop_map(|(stream, producer)| Step::Release { stream, producer }),
        2 => (0u8..4, name(), group_patch)
            .prop_map(|(stream, name, patch)| Step::EnsureGroup { stream, name, patch }),
        1 => (0u8..4, name()).prop_map(|(stream, name)| Step::DeleteGroup { stream, name }),
        8 => changes
            .prop_map(|(nth, by_operator, changes)| Step::Changes { nth, by_operator, changes }),
        5 => (0usize..9).prop_map(|nth| Step::DeadLetter { nth }),
        1 => Just(Step::Tick),
        1 => Just(Step::Skip),
    ]
}

/// µs from one entry to the next: the same instant, a backward clock, within and beyond the grain of
/// a producer's use, over midnight, over a producer's life.
fn pause() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => Just(0),
        1 => Just(-1_500_000),
        8 => 1i64..3_000_000,
        2 => Just(DAY_US / 2),
        1 => Just(8 * DAY_US),
    ]
}

proptest! {
    /// The property that matters: a replica that was restored, even at every entry, answers as one
    /// that never was, and its state is equal, in memory and as bytes.
    #[test]
    fn a_restored_replica_never_diverges(
        steps in proptest::collection::vec((step(), pause(), any::<bool>()), 1..80)
    ) {
        let mut origin = Replica::new();
        for stream in 0..3 {
            origin.apply(ensure(stream, SpecPatch::default(), EnsureMode::Warn));
        }
        let mut restarted = origin.state.clone();
        let mut installed = origin.state.clone();
        for (step, pause, checkpoint) in steps {
            if checkpoint {
                restarted = restored(&restarted, true);
                installed = restored(&installed, false);
            }
            origin.now += pause;
            let at = origin.next;
            if let Some(body) = step.body(&origin.state, at.term) {
                let command = Command { ts: Timestamp(origin.now), body: body.clone() };
                let outcome = origin.apply(body);
                prop_assert_eq!(restarted.apply(at, &command), outcome.clone());
                prop_assert_eq!(installed.apply(at, &command), outcome);
            } else {
                origin.next = EntryId { index: at.index + 1, term: at.term + 1 };
                [&mut origin.state, &mut restarted, &mut installed]
                    .into_iter()
                    .for_each(|state| state.skip(at));
            }
            prop_assert_eq!(&restarted, &origin.state);
            prop_assert_eq!(without_index(&installed), without_index(&origin.state));
            prop_assert_eq!(installed.manifest_file(), origin.state.manifest_file());
            prop_assert_eq!(installed.floor(), origin.state.floor());
            prop_assert!(encode(&restarted, true) == encode(&origin.state, true));
            prop_assert!(encode(&installed, false) == encode(&origin.state, false));
        }
    }
}

/// What goes to another replica is the checkpoint that this state would have without its index; whatever else
/// it is made of, nothing is made up.
#[test]
fn without_its_index_a_checkpoint_is_one_for_another_replica() {
    use crate::checkpoint::{WithoutIndex, without_index};

    let cut = |bytes: &[u8]| {
        let read = |at: u64, most: usize| {
            let rest = bytes.get(at as usize..).unwrap_or_default();
            Ok::<_, std::convert::Infallible>(rest[..rest.len().min(most)].to_vec())
        };
        let Ok(found) = without_index(read);
        found.map(|WithoutIndex { header, sections }| {
            let rest = bytes.get(sections.start as usize..sections.end as usize);
            [&header, rest.unwrap_or_default()].concat()
        })
    };
    let (with, without) = (encode(&rich(), true), encode(&rich(), false));
    assert_ne!(with, without);
    for bytes in [&with, &without] {
        assert_eq!(cut(bytes).as_ref(), Ok(&without));
    }
    // Damage that is not noticed here is noticed by who gets it.
    for at in 0..with.len() {
        let mut damaged = with.clone();
        damaged[at] ^= 0x10;
        if let Ok(bytes) = cut(&damaged)
            && bytes != without
        {
            assert!(decode(&bytes).is_err(), "byte {at}");
        }
    }
    for length in 0..with.len() {
        if let Ok(bytes) = cut(&with[..length])
            && bytes != without
        {
            assert!(decode(&bytes).is_err(), "{length} bytes");
        }
    }
}
