use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use railgun_core::manifest::{ObjectId, ShardManifest};

use super::*;
use crate::bucket::BucketOptions;
use crate::fixture::{CLUSTER, Record, SHARD, Shelf, entry, overwrite, run, spec};
use crate::segment::SegmentKind;
use crate::testing::{Conditions, Fault, FaultyStore, Operation};

fn version(log_index: u64) -> ManifestVersion {
    ManifestVersion { log_index, term: 7 }
}

fn key(log_index: u64) -> String {
    Key::Manifest { cluster: CLUSTER, shard: SHARD, version: version(log_index) }.to_string()
}

/// Versions 10, 20, … 10·`count`, one range each, a full one every `full_every`.
async fn history(shelf: &mut Shelf, count: u64, full_every: u64) -> Vec<ShardManifest> {
    shelf.stream(1, "a");
    let mut states: Vec<ShardManifest> = Vec::new();
    for n in 0..count {
        let records = vec![Record::of(n.to_le_bytes())];
        let run = run(1, n, vec![entry(n as i64, 1, records)]);
        shelf.add(n, spec(SegmentKind::Segment), &[run]).await;
        let version = version(10 * (n + 1));
        let file = match states.last() {
            Some(old) if n % full_every != 0 => {
                let extends = ManifestVersion { log_index: 10 * n, term: 7 };
                ManifestFile::difference(version, extends, old, &shelf.manifest)
            }
            _ => ManifestFile::full(version, &shelf.manifest),
        };
        store(&shelf.bucket, &file).await.unwrap();
        states.push(shelf.manifest.clone());
    }
    states
}

fn memory() -> Shelf {
    Shelf::new(Bucket::open("memory://", &BucketOptions::new(1)).unwrap())
}

#[tokio::test]
async fn the_newest_is_found_along_its_chain() {
    let mut shelf = memory();
    assert!(load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().is_none());
    let states = history(&mut shelf, 40, 64).await;
    let loaded = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().unwrap();
    assert_eq!(loaded.version, version(400));
    assert_eq!(loaded.manifest, states[39]);
    assert!(loaded.warnings.is_empty());
    assert_eq!(list_shards(&shelf.bucket, CLUSTER).await.unwrap(), [SHARD]);
}

#[tokio::test]
async fn a_broken_chain_is_passed_over_with_a_warning() {
    let mut shelf = memory();
    let states = history(&mut shelf, 9, 4).await;
    let newest = |loaded: &Loaded| (loaded.version.log_index, loaded.warnings.len());

    // Corrupt newest file, which is a full one.
    overwrite(&shelf.bucket, &key(90), b"RGM1 but no more".to_vec()).await;
    let loaded = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().unwrap();
    assert_eq!(newest(&loaded), (80, 1));
    assert_eq!(loaded.manifest, states[7]);
    assert!(loaded.warnings[0].to_string().contains("corrupt"), "{}", loaded.warnings[0]);

    // A file from the middle of the chain is gone: 60, 70, 80 rest on it.
    shelf.bucket.delete(&key(60)).await.unwrap();
    let loaded = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().unwrap();
    assert_eq!(newest(&loaded), (50, 3));
    assert_eq!(loaded.manifest, states[4]);

    // A file under a key of another version.
    let other = shelf.bucket.get(&key(40), 1 << 20).await.unwrap();
    overwrite(&shelf.bucket, &key(50), other.to_vec()).await;
    let loaded = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().unwrap();
    assert_eq!(newest(&loaded), (40, 4));

    // Nothing left to stand on.
    overwrite(&shelf.bucket, &key(10), vec![]).await;
    let error = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap_err();
    assert!(matches!(&error, LoadError::NoneUsable { warnings, .. } if warnings.len() == 8));
}

/// What does not fit together is not believed, though every checksum holds.
#[tokio::test]
async fn a_manifest_that_is_not_contiguous_is_passed_over() {
    let mut shelf = memory();
    history(&mut shelf, 3, 1).await;
    let mut wrong = shelf.manifest.clone();
    for stream in wrong.streams.values_mut() {
        stream.ranges.remove(1);
    }
    store(&shelf.bucket, &ManifestFile::full(version(40), &wrong)).await.unwrap();
    let mut nowhere = shelf.manifest.clone();
    nowhere.objects.remove(&ObjectId { seal_index: 0, part: 0 });
    store(&shelf.bucket, &ManifestFile::full(version(50), &nowhere)).await.unwrap();
    let loaded = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().unwrap();
    assert_eq!((loaded.version, loaded.warnings.len()), (version(30), 2));
}

#[tokio::test]
async fn a_version_is_stored_once() {
    let mut shelf = memory();
    history(&mut shelf, 1, 1).await;
    let file = ManifestFile::full(version(10), &shelf.manifest);
    assert_eq!(store(&shelf.bucket, &file).await.unwrap(), Put::Existed);
    let other = ManifestFile { removed_streams: vec![Default::default()], ..file };
    let refused = store(&shelf.bucket, &other).await;
    assert!(matches!(refused, Err(BucketError::Conflict { .. })), "{refused:?}");
}

/// A bucket that does not answer is no reason to fall back to an older state.
#[tokio::test(start_paused = true)]
async fn an_outage_is_not_taken_for_corruption() {
    let inner = Arc::new(InMemory::new());
    let newest = key(30);
    let plan = move |request: &crate::testing::Request<'_>| {
        (request.operation == Operation::Get && request.path.ends_with(&newest))
            .then_some(Fault::SlowDown)
    };
    let store = FaultyStore::new(inner, Conditions::Honoured, plan);
    let options = BucketOptions::new(1);
    let bucket = Bucket::with_store(Arc::new(store), "", "test", &options).unwrap();
    let mut shelf = Shelf::new(bucket);
    // Small objects are read back when they are written, which fails here.
    shelf.stream(1, "a");
    for n in [10, 20] {
        shelf.mirror(n).await;
    }
    let file = ManifestFile::full(version(30), &shelf.manifest);
    super::store(&shelf.bucket, &file).await.unwrap_err();
    let error = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap_err();
    assert!(matches!(error, LoadError::Bucket(BucketError::Unavailable { .. })), "{error}");
}

/// Hundreds of versions that are of no use do not hide the good ones before them.
#[tokio::test]
async fn versions_far_back_are_found_where_all_newer_ones_are_broken() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("file://{}", directory.path().display());
    // A directory syncs each file: a few hundred must do.
    for (url, broken) in [(file.as_str(), 300), ("memory://", 1300)] {
        let mut shelf = Shelf::new(Bucket::open(url, &BucketOptions::new(1)).unwrap());
        let states = history(&mut shelf, 5, 3).await;
        for n in 6..6 + broken {
            shelf.bucket.put_immutable(&key(10 * n), Bytes::from_static(b"RGM1")).await.unwrap();
        }
        let loaded = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().unwrap();
        assert_eq!(
            (loaded.version, loaded.warnings.len()),
            (version(50), broken as usize),
            "{url}"
        );
        assert_eq!(loaded.manifest, states[4], "{url}");
    }
}

/// A chain may begin before the versions that are looked at first.
#[tokio::test]
async fn a_long_chain_is_followed_beyond_the_newest_versions() {
    let mut shelf = memory();
    let states = history(&mut shelf, 1300, 1300).await;
    let loaded = load(&shelf.bucket, CLUSTER, SHARD).await.unwrap().unwrap();
    assert_eq!((loaded.version, loaded.warnings.len()), (version(13_000), 0));
    assert_eq!(Some(&loaded.manifest), states.last());
}
