use std::cell::Cell;

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::bucket::BucketOptions;
use crate::fixture::{CLUSTER, SHARD};

fn at(log_index: u64, term: u64) -> ManifestVersion {
    ManifestVersion { log_index, term }
}

fn listed(version: ManifestVersion) -> Listed {
    let key = Key::Manifest { cluster: CLUSTER, shard: SHARD, version }.to_string();
    Listed { key, bytes: 1 }
}

/// What [`tail`] finds among `versions`, ascending, and how many pages it looked at. `shuffled`:
/// the store lists in no order, and cuts its pages so, too.
fn search(
    versions: &[ManifestVersion],
    page_keys: usize,
    enough: usize,
    shuffled: bool,
) -> (Option<Newest>, usize) {
    let pages = Cell::new(0);
    let page = |index: u64| {
        pages.set(pages.get() + 1);
        let behind = &versions[versions.partition_point(|version| version.log_index < index)..];
        let count = behind.len().min(page_keys);
        let mut keys: Vec<Listed> = if shuffled {
            // The last ones first: as bad as it gets.
            behind[behind.len() - count..].iter().rev().copied().map(listed).collect()
        } else {
            behind[..count].iter().copied().map(listed).collect()
        };
        keys.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        std::future::ready(Ok(keys))
    };
    let read = |listed: &Listed| version(CLUSTER, SHARD, listed);
    let found = tail(page, read, page_keys, enough).now_or_never().unwrap().unwrap();
    (found, pages.get())
}

proptest! {
    /// However the versions lie: the newest are found, with none missing among them.
    #[test]
    fn the_newest_are_found_without_a_gap(
        first in prop_oneof![0u64..50, any::<u64>()],
        gaps in proptest::collection::vec(prop_oneof![1u64..4, 0u64..400_000, any::<u64>()], 0..300),
        page_keys in 3usize..40,
        shuffled: bool,
    ) {
        let enough = page_keys / 3;
        let mut versions = vec![at(first, 1)];
        for gap in gaps {
            let last = versions[versions.len() - 1];
            match last.log_index.checked_add(gap) {
                Some(next) if gap > 0 => versions.push(at(next, last.term)),
                // A few at one index, of different terms.
                Some(next) if last.term < 3 => versions.push(at(next, last.term + 1)),
                _ => {}
            }
        }
        let (found, pages) = search(&versions, page_keys, enough, shuffled);
        prop_assert!(pages < 140, "{pages}");
        if let Some(found) = found {
            prop_assert!(found.versions.len() >= enough.min(versions.len()));
            let behind = versions.len() - found.versions.len();
            prop_assert_eq!(&found.versions, &versions[behind..]);
            prop_assert_eq!(found.complete, behind == 0);
        } else {
            // Only where too many share an index.
            prop_assert!(versions.windows(page_keys - enough).any(|w| w[0].log_index == w[w.len() - 1].log_index));
        }
    }
}

#[test]
fn of_a_million_versions_few_pages_are_read() {
    let every = |gap: u64, count: u64| (0..count).map(|n| at(n * gap, 7)).collect::<Vec<_>>();
    for (gap, count) in [(1, 1_000_000), (60, 1_000_000), (100_000, 300_000), (1_000_003, 5_000)] {
        let versions = every(gap, count);
        let (found, pages) = search(&versions, PAGE_KEYS, ENOUGH, false);
        let found = found.unwrap();
        assert_eq!(found.versions.last(), versions.last());
        assert!(found.versions.len() >= ENOUGH && !found.complete);
        assert!(pages <= 32, "{count} versions {gap} apart: {pages} pages");
    }
    assert_eq!(search(&every(3, 999), PAGE_KEYS, ENOUGH, false).1, 1);
    assert_eq!(search(&[], PAGE_KEYS, ENOUGH, false).1, 1);
}

/// Too many versions at one index for any page to hold: nothing is guessed.
#[test]
fn a_crowd_at_one_index_is_left_to_a_whole_listing() {
    let crowd: Vec<_> = (0..50).map(|term| at(1 << 40, term)).collect();
    assert!(search(&crowd, 20, 5, false).0.is_none());
    let highest: Vec<_> = (0..50).map(|term| at(u64::MAX, term)).collect();
    assert!(search(&highest, 20, 5, false).0.is_none());
}

/// A store that does not know where to begin a listing, and sends its first page each time.
#[test]
fn a_store_that_begins_anywhere_is_left_to_a_whole_listing() {
    let first: Vec<Listed> = (0..20).map(|n| listed(at(n * 9, 1))).collect();
    let page = |_| std::future::ready(Ok(first.clone()));
    let read = |listed: &Listed| version(CLUSTER, SHARD, listed);
    assert!(tail(page, read, 20, 5).now_or_never().unwrap().unwrap().is_none());
}

#[tokio::test]
async fn buckets_of_each_kind_tell_their_newest() {
    let directory = tempfile::tempdir().unwrap();
    let file = format!("file://{}", directory.path().display());
    // A directory syncs each file: enough of them must do.
    for (url, count) in [(file.as_str(), 300), ("memory://", 1500)] {
        let bucket = Bucket::open(url, &BucketOptions::new(1)).unwrap();
        assert!(newest(&bucket, CLUSTER, SHARD).await.unwrap().complete);
        for n in 1..=count {
            let key = listed(at(n * 7, 2)).key;
            bucket.put_immutable(&key, Bytes::from_static(b"x")).await.unwrap();
        }
        let foreign = format!("{}/zz-notes.txt", keys::manifests(CLUSTER, SHARD));
        bucket.put_immutable(&foreign, Bytes::from_static(b"x")).await.unwrap();
        let found = newest(&bucket, CLUSTER, SHARD).await.unwrap();
        assert_eq!(found.versions.last(), Some(&at(count * 7, 2)), "{url}");
        assert!(!found.complete && found.versions.len() >= ENOUGH - 1, "{url}");
        assert!(found.versions.windows(2).all(|pair| pair[1].log_index - pair[0].log_index == 7));
        assert_eq!(all(&bucket, CLUSTER, SHARD).await.unwrap().versions.len() as u64, count);
    }
}
