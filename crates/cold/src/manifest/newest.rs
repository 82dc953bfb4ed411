//! Finding the newest of very many manifests. A busy shard writes one every second or so: to list
//! them all takes longer than a listing has after some days.

use railgun_core::manifest::ManifestVersion;
use railgun_types::{ClusterUid, ShardId};

use crate::bucket::{Bucket, BucketError, BucketUrl, Listed};
use crate::keys::{self, Key};

/// Keys a look at the end of the listing asks for: a page of S3.
const PAGE_KEYS: usize = 1000;
/// Versions that are enough: full manifests are written much more often.
const ENOUGH: usize = 200;

/// Some versions of a shard's manifest, with none newer than the last.
#[derive(Debug)]
pub(super) struct Newest {
    /// Ascending.
    pub(super) versions: Vec<ManifestVersion>,
    /// Whether there are no others.
    pub(super) complete: bool,
}

/// The newest versions: [`ENOUGH`] of them, some more, or all there are.
pub(super) async fn newest(
    bucket: &Bucket,
    cluster: ClusterUid,
    shard: ShardId,
) -> Result<Newest, BucketError> {
    let folder = keys::manifests(cluster, shard);
    if matches!(bucket.url(), BucketUrl::File { .. }) {
        // A directory cannot be entered in the middle: each look would walk all of it.
        let keys = bucket.list_greatest(&folder, ENOUGH).await?;
        let complete = keys.len() < ENOUGH;
        return Ok(Newest { versions: versions(cluster, shard, &keys), complete });
    }
    let page = |index: u64| {
        let after = format!("{folder}/{}", keys::version_prefix(index));
        let folder = &folder;
        async move { bucket.list_after(folder, &after, PAGE_KEYS).await }
    };
    let tail = tail(page, |key| version(cluster, shard, key), PAGE_KEYS, ENOUGH).await?;
    match tail {
        Some(newest) => Ok(newest),
        None => all(bucket, cluster, shard).await,
    }
}

/// Every version.
pub(super) async fn all(
    bucket: &Bucket,
    cluster: ClusterUid,
    shard: ShardId,
) -> Result<Newest, BucketError> {
    let listed = bucket.list(&keys::manifests(cluster, shard)).await?;
    Ok(Newest { versions: versions(cluster, shard, &listed), complete: true })
}

fn versions(cluster: ClusterUid, shard: ShardId, keys: &[Listed]) -> Vec<ManifestVersion> {
    let mut versions: Vec<ManifestVersion> =
        keys.iter().filter_map(|listed| version(cluster, shard, listed)).collect();
    versions.sort_unstable();
    versions
}

fn version(cluster: ClusterUid, shard: ShardId, listed: &Listed) -> Option<ManifestVersion> {
    match listed.key.parse() {
        Ok(Key::Manifest { cluster: c, shard: s, version }) if (c, s) == (cluster, shard) => {
            Some(version)
        }
        _ => None,
    }
}

/// Finds the end of the listing. `page` lists up to `page_keys` keys from a log index on. Keys are
/// dense or sparse as the log went, so the search leaps ahead in growing steps until it is behind
/// the last key, then halves. `None` where no page ends the listing with enough keys before its end:
/// hundreds of versions at one index, or a store that does not begin where it is asked to.
async fn tail<F>(
    page: impl Fn(u64) -> F,
    version: impl Fn(&Listed) -> Option<ManifestVersion>,
    page_keys: usize,
    enough: usize,
) -> Result<Option<Newest>, BucketError>
where
    F: Future<Output = Result<Vec<Listed>, BucketError>>,
{
    // Pages from here do not reach the end of the listing; those from `short` do, with too few keys.
    let (mut full, mut short) = (0, None);
    let (mut at, mut step) = (0, 1);
    loop {
        let listed = page(at).await?;
        let mut versions: Vec<ManifestVersion> = listed.iter().filter_map(&version).collect();
        versions.sort_unstable();
        let ends = listed.len() < page_keys;
        if ends && (versions.len() >= enough || at == 0) {
            return Ok(Some(Newest { versions, complete: at == 0 }));
        }
        if ends {
            short = Some(at);
        } else {
            // Whatever the page begins with, its last key is one that exists.
            let last = versions.last().map_or(at, |version| version.log_index);
            step = step.max(last.saturating_sub(at)).saturating_mul(2);
            full = at;
        }
        at = match short {
            Some(short) if short - full <= 1 => return Ok(None),
            Some(short) => full + (short - full) / 2,
            None if full == u64::MAX => return Ok(None),
            None => full.saturating_add(step),
        };
    }
}

#[cfg(test)]
mod tests;
