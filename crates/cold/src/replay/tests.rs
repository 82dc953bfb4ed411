use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;
use railgun_types::NodeId;

use super::*;
use crate::bucket::BucketOptions;
use crate::fixture::{
    CLUSTER, Record, Run, Shelf, Told, entry, noise, run, spec, told_by_batches, told_by_run,
};
use crate::owner::{FORMAT, Owner};
use crate::segment::{EncodeSpec, SegmentKind};
use crate::testing::{Conditions, Fault, FaultyStore, Operation, Request};

/// Ten records at each of `times`.
fn records(stream: u8, base: u64, times: std::ops::Range<i64>) -> Run {
    let records = |ts: i64| (0..10).map(|n| Record::of(noise((ts * 10 + n) as u64, 500))).collect();
    run(stream, base, times.map(|ts| entry(ts, 1, records(ts))).collect())
}

/// Stream 1 in a segment and then in a bundle that it shares with stream 2.
async fn mixed(bucket: Bucket) -> (Shelf, Vec<Told>) {
    let mut shelf = Shelf::new(bucket);
    claim(&shelf.bucket, CLUSTER).await;
    shelf.stream(1, "orders");
    shelf.stream(2, "other");
    let tight = |kind| EncodeSpec { row_group_bytes: 20_000, ..spec(kind) };
    let (first, second) = (records(1, 50, 100..120), records(1, 250, 119..125));
    shelf.add(1, tight(SegmentKind::Segment), std::slice::from_ref(&first)).await;
    let bundle = [second.clone(), records(2, 0, 100..110)];
    shelf.add(2, tight(SegmentKind::Bundle), &bundle).await;
    shelf.mirror(10).await;
    let told = told_by_run(&first).into_iter().chain(told_by_run(&second)).collect();
    (shelf, told)
}

async fn claim(bucket: &Bucket, cluster: ClusterUid) {
    let owner = Owner { cluster, created: Timestamp(1), format: FORMAT, node: NodeId(1) };
    owner::claim(bucket, &owner).await.unwrap();
}

fn memory() -> Bucket {
    Bucket::open("memory://", &BucketOptions::new(1)).unwrap()
}

async fn open(bucket: &Bucket) -> Replay {
    Replay::open(bucket, None, &ReaderOptions::default()).await.unwrap()
}

async fn collect(mut cursor: ReplayCursor) -> Vec<Told> {
    let mut all = Vec::new();
    while let Some(batches) = cursor.next().await {
        all.extend(told_by_batches(&batches.unwrap()));
    }
    assert_eq!(cursor.position(), cursor.end().max(cursor.position()));
    all
}

fn name(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

#[tokio::test]
async fn a_stream_is_read_across_its_objects() {
    let (shelf, told) = mixed(memory()).await;
    let replay = open(&shelf.bucket).await;
    assert_eq!(replay.cluster(), CLUSTER);
    assert!(replay.stream(&name("unknown")).is_none());
    let stream = replay.stream(&name("orders")).unwrap();
    use ReplayBound::{Offset as At, Time, Unbounded};
    let at = |offset| At(Offset(offset));
    let time = |ts| Time(Timestamp(ts));
    for (from, until) in [
        (Unbounded, Unbounded),
        (at(0), at(u64::MAX)),
        (at(51), at(52)),
        (at(249), at(251)),
        (at(60), at(60)),
        (at(309), Unbounded),
        (at(310), Unbounded),
        (at(400), at(10)),
        (time(0), time(i64::MAX)),
        (time(119), time(120)),
        (time(111), at(255)),
        (time(125), Unbounded),
        (Unbounded, time(100)),
    ] {
        let inside = |told: &&Told| {
            let after = match from {
                Unbounded => true,
                At(offset) => told.0 >= offset.0,
                Time(ts) => told.1 >= ts.0,
            };
            let before = match until {
                Unbounded => true,
                At(offset) => told.0 < offset.0,
                Time(ts) => told.1 < ts.0,
            };
            after && before
        };
        let expected: Vec<_> = told.iter().filter(inside).cloned().collect();
        let cursor = replay.read(stream, from, until).await.unwrap();
        assert_eq!(collect(cursor).await, expected, "{from:?} {until:?}");
    }
}

#[tokio::test]
async fn one_of_several_clusters_must_be_chosen() {
    let bucket = memory();
    let error = Replay::open(&bucket, None, &ReaderOptions::default()).await.unwrap_err();
    assert!(matches!(error, OpenReplayError::NoCluster { .. }), "{error}");

    let (shelf, _) = mixed(bucket).await;
    let other = ClusterUid([1; 16]);
    claim(&shelf.bucket, other).await;
    let error = Replay::open(&shelf.bucket, None, &ReaderOptions::default()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--cluster") && text.contains(&CLUSTER.to_string()), "{text}");

    let chosen = Replay::open(&shelf.bucket, Some(CLUSTER), &ReaderOptions::default()).await;
    assert!(chosen.unwrap().stream(&name("orders")).is_some());
    let unknown = Some(ClusterUid([2; 16]));
    let error = Replay::open(&shelf.bucket, unknown, &ReaderOptions::default()).await.unwrap_err();
    assert!(matches!(error, OpenReplayError::UnknownCluster { .. }), "{error}");
}

#[tokio::test]
async fn of_two_lives_of_a_name_the_living_is_read() {
    let mut shelf = Shelf::new(memory());
    claim(&shelf.bucket, CLUSTER).await;
    // Created in the order of their numbers.
    for (number, deleted) in [(1, true), (2, false), (3, true)] {
        let uid = shelf.stream(number, "orders");
        shelf.manifest.streams.get_mut(&uid).unwrap().deleted = deleted;
    }
    shelf.mirror(1).await;
    let replay = open(&shelf.bucket).await;
    assert_eq!(replay.stream(&name("orders")).unwrap().uid, StreamUid([2; 16]));
}

/// The next row group is under way while the caller has the one before, and an error can be tried
/// again.
#[tokio::test(start_paused = true)]
async fn a_replay_reads_ahead_and_survives_an_outage() {
    let (gets, broken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let plan = {
        let (gets, broken) = (gets.clone(), broken.clone());
        move |request: &Request<'_>| {
            if request.operation != Operation::Get || !request.path.ends_with(".parquet") {
                return None;
            }
            gets.fetch_add(1, Ordering::Relaxed);
            (broken.load(Ordering::Relaxed) == 1).then_some(Fault::SlowDown)
        }
    };
    let store = FaultyStore::new(Arc::new(InMemory::new()), Conditions::Honoured, plan);
    let options = BucketOptions::new(1);
    let bucket = Bucket::with_store(Arc::new(store), "", "test", &options).unwrap();
    let (shelf, told) = mixed(bucket).await;
    // Small as they are, these objects are to be read piece by piece.
    let ranged = ReaderOptions { whole_bytes: 0, ..ReaderOptions::default() };
    let replay = Replay::open(&shelf.bucket, None, &ranged).await.unwrap();
    let stream = replay.stream(&name("orders")).unwrap();
    let unbounded = ReplayBound::Unbounded;
    let mut cursor = replay.read(stream, unbounded, unbounded).await.unwrap();
    gets.store(0, Ordering::Relaxed);
    let mut read = cursor.next().await.unwrap().unwrap();
    // Let the task of the next fetch run; it needs no more than turns.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gets.load(Ordering::Relaxed), 3, "a footer and two row groups");

    read.extend(cursor.next().await.unwrap().unwrap());
    broken.store(1, Ordering::Relaxed);
    let at = cursor.position();
    let mut errors = 0;
    while let Some(next) = cursor.next().await {
        match next {
            Ok(batches) => read.extend(batches),
            Err(error) => {
                assert!(matches!(error, ColdReadError::Unavailable { .. }), "{error}");
                assert!(cursor.position() >= at);
                errors += 1;
                broken.store(0, Ordering::Relaxed);
            }
        }
    }
    assert_eq!((errors, told_by_batches(&read)), (1, told));
}
