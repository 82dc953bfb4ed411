//! A host without Raft: what it does by itself when entries come and questions are asked.

use railgun_core::command::{
    Append, AppendMode, CommittedPart, EnsureStream, ObjectCommit, SealScope, SegmentCommand,
    UploadAttempt,
};
use railgun_core::manifest::ObjectId;
use railgun_core::shard::{Attempt, PlannedRange};
use railgun_log::{Entry, LogWriter, Payload, Step};
use railgun_raft::Inline;
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{ClusterUid, EnsureMode, EntryId, SpecPatch, StreamName, Timestamp};
use tokio::time::timeout;

use super::*;
use crate::checkpoint::testing::log_and_checkpoints;
use crate::clock::SystemClock;

/// Longer than anything here takes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
const SHARD: ShardId = ShardId(1);
const STREAM: StreamUid = StreamUid([1; 16]);
const DAY_US: i64 = 86_400_000_000;

struct Rig {
    handle: ShardHandle,
    to: mpsc::Sender<Message>,
    next: u64,
    /// Mostly nobody steps it: nothing here waits for the log.
    writer: LogWriter,
}

impl Rig {
    /// A shard with one stream, as of a checkpoint.
    fn start() -> Self {
        Self::with_spent(0)
    }

    /// So much of the hot budget is spent, in thousandths.
    fn with_spent(spent: u64) -> Self {
        let (writer, log, checkpoints) = log_and_checkpoints();
        let payload = Payload::from_bytes(vec![0; 1 << 20].into());
        let entry = Entry { id: EntryId { term: 1, index: 1 }, kind: 1, payload };
        log.append(vec![entry], Box::new(|_| ())).expect("queued");
        let hot_bytes_max = (log.bytes_above(0) * 1_000).checked_div(spent).unwrap_or(u64::MAX);
        let host = HostSpec {
            restored: Restored { state: state(), membership: Bytes::new() },
            shard: SHARD,
            log,
            checkpoints,
            pool: Arc::new(Inline),
            cadence: CheckpointCadence::default(),
            clock: Arc::new(SystemClock),
            hot_bytes_max,
            unapplied: crate::replica::unapplied_queue().1,
        };
        let (handle, to) = host.spawn(&Actors::new(), CancellationToken::new());
        Self { handle, to, next: 1, writer }
    }

    /// Has a command applied; returns when it is.
    async fn apply(&mut self, ts: i64, body: CommandBody) {
        let at = EntryId { index: self.next, term: 1 };
        self.next += 1;
        let content = EntryContent::Command(Command { ts: Timestamp(ts), body });
        let entry = CommittedEntry { at, content, ticket: None };
        self.to.send(Message::Applied(vec![entry])).await.expect("it runs");
        self.handle.describe(STREAM).await.expect("it runs");
    }

    async fn append(&mut self, ts: i64, bytes: usize) {
        self.apply(ts, append(bytes)).await;
    }
}

/// One record of so many bytes.
fn append(bytes: usize) -> CommandBody {
    let value = vec![0; bytes];
    let mut builder = BatchBuilder::new(8 << 20);
    builder.push(&RecordDraft { value: &value, ..RecordDraft::default() }).expect("small");
    let batch = RecordBatch::verify(builder.finish().concat()).expect("our own");
    let append = Append {
        stream: STREAM,
        producer: None,
        mode: AppendMode::Each,
        expected_end: None,
        dead_letter: None,
        batch,
    };
    CommandBody::Append(vec![append])
}

/// A shard with one stream, after entry 0.
fn state() -> ShardState {
    let mut state = ShardState::new(ClusterUid([7; 16]), SHARD);
    let ensure = EnsureStream {
        stream: STREAM,
        name: StreamName::new("s").expect("valid"),
        patch: SpecPatch::default(),
        mode: EnsureMode::Warn,
        if_revision: None,
        allow_destructive: false,
        request: None,
    };
    let body = CommandBody::Stream(StreamCommand::Ensure(ensure));
    state.apply(EntryId { index: 0, term: 1 }, &Command { ts: Timestamp(0), body });
    state
}

/// That the first object planned is in the bucket.
fn commit(state: &ShardState) -> CommandBody {
    let (&object, plan) = state.plans().first_key_value().expect("sealed");
    let Attempt { index: attempt, hash } = plan.attempt.expect("named");
    let part = |planned: &PlannedRange| CommittedPart {
        stream: planned.stream,
        base: planned.range.base,
        count: planned.range.end.0 - planned.range.base.0,
        min_ts: planned.range.since,
        max_ts: planned.range.since,
        record_bytes: planned.range.record_bytes,
        first_row_group: 0,
        first_row: 0,
        digest: [1; 32],
    };
    let parts = plan.ranges.iter().map(part).collect();
    let commit = ObjectCommit { object, attempt, hash, bytes: 1, footer_bytes: 1, parts };
    CommandBody::Segment(SegmentCommand::Commit(commit))
}

#[tokio::test]
async fn who_reads_behind_a_snapshot_waits_for_the_entries_that_tell_of_the_bucket() {
    let mut rig = Rig::start();
    let mut state = state();
    let seal = CommandBody::Segment(SegmentCommand::Seal(SealScope::All));
    let object = ObjectId { seal_index: 2, part: 0 };
    let attempt = SegmentCommand::Attempt(UploadAttempt { object, hash: [0; 8] });
    for (index, body) in [(1, append(10)), (2, seal), (3, CommandBody::Segment(attempt))] {
        state.apply(EntryId { index, term: 1 }, &Command { ts: Timestamp(0), body });
    }
    let commit = commit(&state);
    let (reply, installed) = oneshot::channel();
    let restored = Restored { state, membership: Bytes::new() };
    rig.to.send(Message::installed(restored, 1, reply)).await.expect("it runs");
    installed.await.expect("it runs");
    rig.next = 4;
    // The record is in the bucket, as the snapshot was made behind it; but not by what is known here.
    let (reply, mut located) = oneshot::channel();
    let query = ReadQuery { stream: STREAM, from: Offset(0), wait: false, only_cold: false };
    rig.to.send(Message::Locate { query, reply }).await.expect("it runs");
    let (reply, mut resolved) = oneshot::channel();
    let start = StartPosition::Time(Timestamp(0));
    rig.to.send(Message::ResolveStart { stream: STREAM, start, reply }).await.expect("it runs");
    rig.handle.describe(STREAM).await.expect("it runs");
    assert!(located.try_recv().is_err(), "answered too early");
    assert!(resolved.try_recv().is_err(), "it began behind the record");
    rig.apply(1, commit).await;
    let located = timeout(PATIENCE, located).await.expect("woken").expect("it runs");
    assert!(matches!(located, Located::Cold(_)), "{located:?}");
    let resolved = timeout(PATIENCE, resolved).await.expect("woken").expect("it runs");
    assert!(matches!(resolved, StartResolved::ColdTime { .. }), "{resolved:?}");
}

/// A command that takes room.
fn ensure_new() -> CommandBody {
    let ensure = EnsureStream {
        stream: StreamUid([2; 16]),
        name: StreamName::new("new").expect("valid"),
        patch: SpecPatch::default(),
        mode: EnsureMode::Warn,
        if_revision: None,
        allow_destructive: false,
        request: None,
    };
    CommandBody::Stream(StreamCommand::Ensure(ensure))
}

#[tokio::test]
async fn a_spent_budget_takes_of_clients_what_makes_room() {
    let seal = || CommandBody::Segment(SegmentCommand::Seal(SealScope::All));
    let delete = |stream| CommandBody::Stream(StreamCommand::Delete { stream });
    // Nobody leads here: what gets so far is told that.
    let leaderless = Err(RequestFailure::Proposal(ProposeFailure::NotLeading));
    let full = Err(RequestFailure::HotTierFull);
    let rig = Rig::with_spent(899);
    assert_eq!(rig.handle.request(ensure_new()).await, leaderless);
    // However far a large entry has gone beyond what is spent: nothing else may ever make room.
    for spent in [900, 1_000, 3_000] {
        let rig = Rig::with_spent(spent);
        assert_eq!(rig.handle.request(ensure_new()).await, full);
        assert_eq!(rig.handle.request(seal()).await, leaderless);
        assert_eq!(rig.handle.request(delete(STREAM)).await, leaderless);
        // What is not there gives none back.
        assert_eq!(rig.handle.request(delete(StreamUid([2; 16]))).await, full);
        // The node's own is never held up.
        assert_eq!(rig.handle.command(seal()).await, Err(ProposeFailure::NotLeading));
    }
}

#[tokio::test]
async fn what_the_log_cannot_give_up_is_bounded_whatever_is_in_the_bucket() {
    let leaderless = Err(RequestFailure::Proposal(ProposeFailure::NotLeading));
    for (spent, answer) in
        [(1_000, &leaderless), (1_799, &leaderless), (1_800, &Err(RequestFailure::HotTierFull))]
    {
        let mut rig = Rig::with_spent(spent);
        while rig.writer.step(std::time::Duration::ZERO) == Step::Progressed {}
        let at = EntryId { index: 1, term: 1 };
        let nothing = CommittedEntry { at, content: EntryContent::Blank, ticket: None };
        rig.to.send(Message::Applied(vec![nothing])).await.expect("it runs");
        let status = rig.handle.offload_status().await.expect("it runs");
        assert_eq!(status.floor, Some(1), "nothing below has to be in the bucket");
        assert_eq!(&rig.handle.request(ensure_new()).await, answer, "{spent}");
        // What is left waits for nothing else, so that the floor comes to the next checkpoint.
        assert_eq!(status.keeps_too_much, answer != &leaderless, "{spent}");
    }
}

#[tokio::test]
async fn who_wants_a_checkpoint_that_is_there_is_answered_at_once() {
    let rig = Rig::start();
    for _ in 0..2 {
        let done = timeout(PATIENCE, rig.handle.checkpoint()).await.expect("in time");
        done.expect("it runs").expect("written");
    }
}

#[tokio::test]
async fn the_offloader_is_woken_when_something_becomes_due_and_not_by_each_entry() {
    let mut rig = Rig::start();
    let mut wake = rig.handle.offload_watch();
    wake.mark_unchanged();
    // A new day closes a small range, which waits for the others.
    rig.append(1, 10).await;
    rig.append(DAY_US, 10).await;
    rig.append(DAY_US, 10).await;
    assert!(!wake.has_changed().expect("it runs"));
    // Closed ranges are worth an object.
    rig.append(DAY_US, 5 << 20).await;
    rig.append(2 * DAY_US, 10).await;
    assert!(wake.has_changed().expect("it runs"));
    wake.mark_unchanged();
    // Told is told: the offloader does all there is before it rests.
    rig.append(2 * DAY_US, 10).await;
    let seal = CommandBody::Segment(SegmentCommand::Seal(SealScope::All));
    rig.apply(2 * DAY_US, seal.clone()).await;
    assert!(!wake.has_changed().expect("it runs"));
    // Deleted with its plans: nothing is due. The next plan is told again.
    let mut rig = Rig::start();
    let mut wake = rig.handle.offload_watch();
    rig.append(1, 10).await;
    rig.apply(1, seal).await;
    assert!(wake.has_changed().expect("it runs"));
    wake.mark_unchanged();
    let delete = CommandBody::Stream(StreamCommand::Delete { stream: STREAM });
    rig.apply(1, delete).await;
    assert!(!wake.has_changed().expect("it runs"));
}

#[tokio::test]
async fn a_reader_at_the_end_gets_the_next_record_and_those_behind_it_wait() {
    let mut rig = Rig::start();
    let ask = |from| {
        let handle = rig.handle.clone();
        let query = ReadQuery { stream: STREAM, from: Offset(from), wait: true, only_cold: false };
        tokio::spawn(async move { handle.locate(query).await })
    };
    let (first, later) = (ask(0), ask(1 << 40));
    rig.handle.describe(STREAM).await.expect("it runs");
    tokio::task::yield_now().await;
    rig.append(1, 10).await;
    let found = timeout(PATIENCE, first).await.expect("in time").expect("no panic");
    assert!(matches!(found, Ok(Located::Hot(points)) if points.len() == 1));
    assert!(!later.is_finished());
    rig.apply(2, CommandBody::Stream(StreamCommand::Delete { stream: STREAM })).await;
    let gone = timeout(PATIENCE, later).await.expect("in time").expect("no panic");
    assert!(matches!(gone, Ok(Located::Deleted)));
}

#[tokio::test(start_paused = true)]
async fn figures_are_published_so_often_and_the_last_ones_are_told() {
    let mut rig = Rig::start();
    rig.append(1, 10).await;
    tokio::time::sleep(FIGURES_EVERY * 3).await;
    let mut figures = rig.handle.figures.clone();
    for round in 1..4 {
        figures.mark_unchanged();
        // The first change is told at once, those that follow together.
        rig.append(1, 10).await;
        let told = figures.borrow_and_update().records_total;
        rig.append(1, 10).await;
        rig.append(1, 10).await;
        assert!(!figures.has_changed().expect("it runs"), "round {round}");
        tokio::time::sleep(FIGURES_EVERY * 3).await;
        assert_eq!(figures.borrow_and_update().records_total, told + 2, "round {round}");
        tokio::time::sleep(FIGURES_EVERY * 10).await;
        assert!(!figures.has_changed().expect("it runs"), "an idle shard has nothing to tell");
    }
}
