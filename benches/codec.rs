//! The codecs on the way of a record: packing a batch, validating it, encoding and decoding the log
//! entry that carries it.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use railgun_core::command::{Append, AppendMode, Command, CommandBody};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{Limits, StreamUid, Timestamp};

/// Bytes of records in each measured batch.
const BATCH_BYTES: usize = 512 << 10;

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
        let append = Append {
            stream: StreamUid([1; 16]),
            producer: None,
            mode: AppendMode::Each,
            expected_end: None,
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

criterion_group!(benches, codec);
criterion_main!(benches);
