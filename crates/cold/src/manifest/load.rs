//! Finding the newest manifest that can be trusted.

use std::collections::BTreeMap;

use futures::StreamExt;
use railgun_core::manifest::{ApplyManifestError, ManifestFile, ManifestVersion, ShardManifest};
use railgun_types::{ClusterUid, ShardId};

use super::codec::{self, BadManifest};
use super::newest::{self, Newest};
use crate::bucket::{Bucket, BucketError, Put};
use crate::keys::{self, Key};

/// Largest file that is read, in bytes: tens of millions of ranges, whose state no node keeps.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Files fetched at once along a chain.
const FETCH_AHEAD: usize = 16;

/// A shard's manifest as of its newest readable version.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The version.
    pub version: ManifestVersion,
    /// What it tells.
    pub manifest: ShardManifest,
    /// Newer versions that could not be used, newest first, and why.
    pub warnings: Vec<LoadWarning>,
}

/// A manifest version that was passed over.
#[derive(Clone, Debug, thiserror::Error)]
#[error("manifest version {version:?} of shard {shard} is passed over: {reason}")]
pub struct LoadWarning {
    /// The shard.
    pub shard: ShardId,
    /// The version that is not used.
    pub version: ManifestVersion,
    /// Which file of its chain fails, and how.
    pub reason: String,
}

/// Why no manifest can be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bucket failed; what lies there may be fine.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// There are manifests, but none that can be used.
    #[error("none of the {} manifest versions of shard {shard} can be used: {}", warnings.len(),
        warnings.first().map_or("", |newest| &newest.reason))]
    NoneUsable {
        /// The shard.
        shard: ShardId,
        /// What is wrong with each, newest first.
        warnings: Vec<LoadWarning>,
    },
}

/// Why one file of a chain cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
enum BadFile {
    #[error("file {key} is missing")]
    Missing { key: String },
    #[error("file {key} is corrupt: {error}")]
    Corrupt { key: String, error: BadManifest },
    #[error("file {key} has {bytes} bytes, more than the {FILE_BYTES_MAX} it may have")]
    TooLarge { key: String, bytes: u64 },
    #[error("file {key} tells another version than its key")]
    Misplaced { key: String },
    #[error(transparent)]
    Apply(#[from] ApplyManifestError),
}

/// Writes `file` under its key. Idempotent.
///
/// # Errors
/// [`BucketError::Conflict`] if the key holds another content: a bug, or a foreign writer.
pub async fn store(bucket: &Bucket, file: &ManifestFile) -> Result<Put, BucketError> {
    let ManifestFile { cluster, shard, version, .. } = *file;
    let key = Key::Manifest { cluster, shard, version }.to_string();
    bucket.put_immutable(&key, codec::encode(file)).await
}

/// The shards of `cluster` that have manifests, ascending.
///
/// # Errors
/// [`BucketError`].
pub async fn list_shards(
    bucket: &Bucket,
    cluster: ClusterUid,
) -> Result<Vec<ShardId>, BucketError> {
    let folders = bucket.list_folders(&keys::all_manifests(cluster)).await?;
    let mut shards: Vec<ShardId> =
        folders.iter().filter_map(|folder| keys::shard_of_folder(folder)).collect();
    shards.sort_unstable();
    Ok(shards)
}

/// The greatest version of a shard's manifest with an unbroken chain to a full one; `None` if the
/// shard has no manifest. Versions with a broken chain are passed over with a warning.
///
/// # Errors
/// [`LoadError`].
pub async fn load(
    bucket: &Bucket,
    cluster: ClusterUid,
    shard: ShardId,
) -> Result<Option<Loaded>, LoadError> {
    let Newest { versions, complete } = newest::newest(bucket, cluster, shard).await?;
    let oldest = versions.first().copied();
    let mut chains = Chains { bucket, cluster, shard, versions, files: BTreeMap::new() };
    let mut warnings = Vec::new();
    if let Some(loaded) = chains.greatest(&mut warnings).await? {
        return Ok(Some(loaded));
    }
    if !complete {
        // Hundreds of versions in a row are of no use: worth to look at every one there is.
        let mut versions = newest::all(bucket, cluster, shard).await?.versions;
        versions.retain(|version| oldest.is_none_or(|oldest| *version < oldest));
        chains.versions = versions;
        if let Some(loaded) = chains.greatest(&mut warnings).await? {
            return Ok(Some(loaded));
        }
    }
    if warnings.is_empty() { Ok(None) } else { Err(LoadError::NoneUsable { shard, warnings }) }
}

/// Files of a shard, fetched as they are needed.
struct Chains<'a> {
    bucket: &'a Bucket,
    cluster: ClusterUid,
    shard: ShardId,
    /// Candidates, ascending.
    versions: Vec<ManifestVersion>,
    files: BTreeMap<ManifestVersion, Result<ManifestFile, BadFile>>,
}

impl Chains<'_> {
    /// The greatest of the candidates with an unbroken chain, which may lead to others. Each that
    /// has none adds a warning.
    async fn greatest(
        &mut self,
        warnings: &mut Vec<LoadWarning>,
    ) -> Result<Option<Loaded>, BucketError> {
        for at in (0..self.versions.len()).rev() {
            let (shard, version) = (self.shard, self.versions[at]);
            match self.resolve(version).await? {
                Ok(manifest) => {
                    return Ok(Some(Loaded {
                        version,
                        manifest,
                        warnings: std::mem::take(warnings),
                    }));
                }
                Err(bad) => {
                    warnings.push(LoadWarning { shard, version, reason: bad.to_string() });
                }
            }
        }
        Ok(None)
    }

    /// The manifest at `version`. The outer error: the bucket; the inner: the chain is broken.
    async fn resolve(
        &mut self,
        version: ManifestVersion,
    ) -> Result<Result<ShardManifest, BadFile>, BucketError> {
        let mut chain = Vec::new();
        let mut next = Some(version);
        // Each file extends an older one, so this ends.
        while let Some(version) = next {
            match self.file(version).await? {
                Ok(file) => {
                    next = file.extends;
                    chain.push(file);
                }
                Err(bad) => return Ok(Err(bad)),
            }
        }
        let mut base = None;
        while let Some(file) = chain.pop() {
            let version = file.version;
            match file.apply_to(base) {
                Ok(manifest) => base = Some((version, manifest)),
                Err(error) => return Ok(Err(error.into())),
            }
        }
        // A chain has one file at least.
        let missing = || BadFile::Missing { key: self.key(version) };
        Ok(base.map(|(_, manifest)| manifest).ok_or_else(missing))
    }

    /// One file, and with the same round trip those listed just before it, which it likely extends.
    async fn file(
        &mut self,
        version: ManifestVersion,
    ) -> Result<Result<ManifestFile, BadFile>, BucketError> {
        if let Some(file) = self.files.get(&version) {
            return Ok(file.clone());
        }
        let end = self.versions.partition_point(|listed| *listed < version);
        let before = &self.versions[end.saturating_sub(FETCH_AHEAD - 1)..end];
        let wanted: Vec<ManifestVersion> = before
            .iter()
            .copied()
            .filter(|version| !self.files.contains_key(version))
            .chain([version])
            .collect();
        let mut fetched = futures::stream::iter(wanted)
            .map(|version| {
                let read = self.fetch(version);
                async move { (version, read.await) }
            })
            .buffered(FETCH_AHEAD)
            .collect::<Vec<_>>()
            .await;
        let asked = fetched.pop().map(|(_, file)| file);
        // Those that were not asked for may fail; they are asked for again when they are needed.
        let others = fetched.into_iter().filter_map(|(version, file)| Some((version, file.ok()?)));
        self.files.extend(others);
        let missing = Ok(Err(BadFile::Missing { key: self.key(version) }));
        let file = asked.unwrap_or(missing)?;
        self.files.insert(version, file.clone());
        Ok(file)
    }

    async fn fetch(
        &self,
        version: ManifestVersion,
    ) -> Result<Result<ManifestFile, BadFile>, BucketError> {
        let key = self.key(version);
        let bytes = match self.bucket.get(&key, FILE_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(BucketError::NotFound { .. }) => return Ok(Err(BadFile::Missing { key })),
            Err(BucketError::TooLarge { bytes, .. }) => {
                return Ok(Err(BadFile::TooLarge { key, bytes }));
            }
            Err(error) => return Err(error),
        };
        Ok(match codec::decode(&bytes) {
            Err(error) => Err(BadFile::Corrupt { key, error }),
            Ok(file)
                if (file.cluster, file.shard, file.version)
                    == (self.cluster, self.shard, version) =>
            {
                Ok(file)
            }
            Ok(_) => Err(BadFile::Misplaced { key }),
        })
    }

    fn key(&self, version: ManifestVersion) -> String {
        Key::Manifest { cluster: self.cluster, shard: self.shard, version }.to_string()
    }
}

#[cfg(test)]
mod tests;
