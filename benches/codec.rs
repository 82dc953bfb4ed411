//! The codecs on the way of a record: packing a batch, validating it, encoding and decoding the log
//! entry that carries it, encoding the segment it ends in.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use railgun_cold::{ChunkPool, EncodeSpec, SegmentEncoder, SegmentKind, StreamSlice};
use railgun_core::command::{Append, AppendMode, Command, CommandBody};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{ClusterUid, Limits, Offset, ShardId, StreamUid, Timestamp};

/// Bytes of records in each measured batch.
const BATCH_BYTES: usize = 512 << 10;
/// Batches of each measured segment.
const SEGMENT_BATCHES: u64 = 32;

fn pack(builder: &mut BatchBuilder, value: &[u8]) -> railgun_types::batch::BatchParts {
    for _ in 0..BATCH_BYTES / value.len() {
        builder.push(&RecordDraft { value, ..RecordDraft::default() }).expect("within limits");
    }
    builder.finish()
}

fn codec(c: &mut Criterion) {
    for size in [100, 1024, 65_536] {
        let value = vec![0xa5; size];
        let mut group = c.benchmark_group(format!("{size} B"));
        group.throughput(Throughput::Bytes(BATCH_BYTES as u64));
        let mut builder = BatchBuilder::new(1 << 20);
        group.bench_function("pack", |b| b.iter(|| pack(&mut builder, &value)));
        let bytes = pack(&mut builder, &value).concat();
        group.bench_function("validate", |b| {
            b.iter(|| RecordBatch::validate(bytes.clone(), &Limits::default(), 1 << 20));
        });
        let batch = RecordBatch::verify(bytes).expect("our own");
        // What a leader does with a batch that another node relays.
        group.bench_function("check", |b| b.iter(|| batch.check(&Limits::default(), 1 << 20)));
        let append = Append {
            stream: StreamUid([1; 16]),
            producer: None,
            mode: AppendMode::Each,
            expected_end: None,
            dead_letter: None,
            batch,
        };
        let command = Command { ts: Timestamp(1), body: CommandBody::Append(vec![append]) };
        group.bench_function("entry encode", |b| b.iter(|| command.encode()));
        let parts = command.encode();
        group.bench_function("entry decode", |b| {
            b.iter_batched(
                || parts.clone(),
                |parts| Command::decode(&parts),
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

/// Bytes that no compressor shrinks.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| step()).take(len).collect()
}

/// The memory of one object is used again for the next, as a node does.
fn encode(batch: &RecordBatch, pool: &ChunkPool) -> usize {
    let (cluster, stream) = (ClusterUid([1; 16]), StreamUid([1; 16]));
    let spec = EncodeSpec::new(cluster, ShardId(1), 1, SegmentKind::Segment);
    let mut encoder = SegmentEncoder::with_chunks(spec, pool.clone());
    encoder.begin_stream(stream, Offset(0), [0; 32]).expect("the first");
    let mut base = Offset(0);
    for ts in 0..SEGMENT_BATCHES {
        let (ts, records) = (Timestamp(ts.cast_signed()), 0..batch.count());
        encoder.push(&StreamSlice { base, ts, term: 1, batch, records }).expect("in order");
        base = base.plus(batch.count() as u64);
    }
    encoder.finish().expect("records").content.content_length()
}

fn segment(c: &mut Criterion) {
    let pool = ChunkPool::new(32 << 20);
    for (kind, bytes) in
        [("noise", noise(BATCH_BYTES)), ("text", b"abcdefgh".repeat(BATCH_BYTES / 8))]
    {
        let mut group = c.benchmark_group(format!("segment of {kind}"));
        group.throughput(Throughput::Bytes(SEGMENT_BATCHES * BATCH_BYTES as u64)).sample_size(10);
        for size in [100, 1024] {
            let mut builder = BatchBuilder::new(1 << 20);
            for value in bytes.chunks(size) {
                let draft = RecordDraft { value, ..RecordDraft::default() };
                builder.push(&draft).expect("within limits");
            }
            let batch = RecordBatch::verify(builder.finish().concat()).expect("our own");
            group.bench_function(format!("{size} B"), |b| b.iter(|| encode(&batch, &pool)));
        }
        group.finish();
    }
}

criterion_group!(benches, codec, segment);
criterion_main!(benches);
