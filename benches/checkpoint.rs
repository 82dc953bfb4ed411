//! A shard with a million message ids and a thousand consumer groups, as a checkpoint: what applying waits
//! for, what is left to whoever writes it, and what a restart takes.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use railgun_core::command::{
    Append, AppendMode, Command, CommandBody, EnsureGroup, EnsureStream, GroupChange, GroupChanges,
    GroupCommand, GroupStart, StreamCommand,
};
use railgun_core::group::ChangeOutcome;
use railgun_core::shard::{Outcome, ShardState};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{
    ClusterUid, DedupFull, DedupPatch, EnsureMode, EntryId, GroupName, GroupPatch, Offset,
    OffsetRange, ShardId, SpecPatch, StreamName, StreamUid, Timestamp,
};

const CLUSTER: ClusterUid = ClusterUid([1; 16]);
const SHARD: ShardId = ShardId(1);
const STREAM: StreamUid = StreamUid([2; 16]);
const IDS: u64 = 1_000_000;
const IDS_PER_BATCH: u64 = 1_000;
const GROUPS: u64 = 1_000;
/// Of each group, messages that have failed and are tried again, and ranges that are acked between others.
const FAILED_PER_GROUP: u64 = 10;
const RANGES_PER_GROUP: u64 = 100;

struct Shard {
    state: ShardState,
    next: u64,
}

impl Shard {
    fn apply(&mut self, body: CommandBody) -> Outcome {
        self.next += 1;
        let at = EntryId { term: 1, index: self.next };
        let ts = Timestamp(self.next.cast_signed());
        self.state.apply(at, &Command { ts, body })
    }

    fn new() -> Self {
        let mut shard = Self { state: ShardState::new(CLUSTER, SHARD), next: 0 };
        let dedup = DedupPatch {
            window_ms: Some(3_600_000),
            max_ids: Some(IDS),
            full: Some(DedupFull::EvictOldest),
            ..DedupPatch::default()
        };
        let ensure = EnsureStream {
            stream: STREAM,
            name: StreamName::new("orders").expect("valid"),
            patch: SpecPatch { dedup, ..SpecPatch::default() },
            mode: EnsureMode::Overwrite,
            if_revision: None,
            allow_destructive: false,
            request: None,
        };
        let made = shard.apply(CommandBody::Stream(StreamCommand::Ensure(ensure)));
        assert!(matches!(made, Outcome::Ensured(Ok(_))), "{made:?}");
        for first in (0..IDS).step_by(IDS_PER_BATCH as usize) {
            shard.publish(first);
        }
        assert_eq!(shard.state.dedup_figures(STREAM).ids, IDS);
        (0..GROUPS).for_each(|group| shard.add_group(group));
        shard
    }

    fn publish(&mut self, first: u64) {
        let mut builder = BatchBuilder::new(1 << 20);
        for id in first..first + IDS_PER_BATCH {
            let id = id.to_le_bytes();
            builder.push(&RecordDraft { id: Some(&id), ..RecordDraft::default() }).expect("small");
        }
        let item = Append {
            stream: STREAM,
            producer: None,
            mode: AppendMode::Each,
            expected_end: None,
            dead_letter: None,
            batch: RecordBatch::verify(builder.finish().concat()).expect("our own"),
        };
        let appended = self.apply(CommandBody::Append(vec![item]));
        assert!(matches!(&appended, Outcome::Appended(it) if it[0].is_ok()), "{appended:?}");
    }

    /// A group that has acked some, and of which others have failed.
    fn add_group(&mut self, number: u64) {
        let name = GroupName::new(&format!("group-{number}")).expect("valid");
        let ensure = EnsureGroup {
            stream: STREAM,
            group: name.clone(),
            patch: GroupPatch::default(),
            start: GroupStart::Earliest,
            mode: EnsureMode::Overwrite,
            if_revision: None,
            allow_destructive: false,
            request: None,
        };
        self.apply(CommandBody::Group(GroupCommand::Ensure(Box::new(ensure))));
        let group = self.state.group_named(STREAM, &name).expect("just made").id();
        let ranges = |every: u64, count: u64| {
            let single = |at| OffsetRange::single(Offset(at * every + 1));
            (0..count).map(single).collect::<Vec<_>>()
        };
        let changes = vec![
            GroupChange::Reserve { upto: Offset(10_000) },
            GroupChange::Fail {
                epoch: 0,
                ranges: ranges(50, FAILED_PER_GROUP),
                cause: railgun_core::command::FailCause::Nack,
                delay_ms: Some(60_000),
                error: Some("cannot now".into()),
            },
            GroupChange::Ack { epoch: 0, ranges: ranges(3, RANGES_PER_GROUP) },
        ];
        let changes = GroupChanges { group, term: 1, changes };
        let changed = self.apply(CommandBody::Group(GroupCommand::Changes([changes].into())));
        let Outcome::GroupsChanged(outcomes) = changed else { panic!("{changed:?}") };
        let applied = |it: &ChangeOutcome| it.refused().is_none();
        assert!(outcomes[0].iter().all(applied), "{outcomes:?}");
    }
}

fn checkpoint(c: &mut Criterion) {
    let shard = Shard::new();
    let bytes = shard.state.encode_checkpoint(b"", true).pieces().concat();
    println!("a checkpoint of {} bytes", bytes.len());
    let mut group = c.benchmark_group("1 M ids, 1,000 groups");
    group.sample_size(20);
    // Applying goes on when this is done, and what follows runs elsewhere.
    group.bench_function("applying waits", |b| {
        b.iter(|| drop(black_box(shard.state.encode_checkpoint(b"", true))));
    });
    group.bench_function("encoded elsewhere", |b| {
        b.iter_batched(
            || shard.state.encode_checkpoint(b"", true),
            |state| state.pieces(),
            criterion::BatchSize::PerIteration,
        );
    });
    group.bench_function("restored", |b| {
        b.iter(|| ShardState::decode_checkpoint(CLUSTER, SHARD, &bytes).expect("our own"));
    });
    // Whoever shares the open slice, the next id makes a copy of it.
    group.bench_function("1,000 ids while it is written", |b| {
        b.iter_batched(
            || Shard { state: shard.state.clone(), next: shard.next },
            |mut shard| {
                shard.publish(IDS);
                shard
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, checkpoint);
criterion_main!(benches);
