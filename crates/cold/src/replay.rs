//! Reading a stream straight from the bucket: no broker, no name service. Names come from the
//! manifests.

use std::collections::BTreeMap;

use railgun_core::manifest::{ShardManifest, StreamManifest};
use railgun_types::{ClusterUid, Offset, ShardId, StreamName, StreamUid, Timestamp};
use tokio::task::JoinHandle;

use crate::bucket::{Bucket, BucketError};
use crate::manifest::{self, LoadError, LoadWarning};
use crate::owner;
use crate::reader::{ColdBatch, ColdPart, ColdReadError, ColdReader, ReaderOptions, RowGroup};

/// The manifests of a cluster life, and a reader over its objects.
#[derive(Clone, Debug)]
pub struct Replay {
    cluster: ClusterUid,
    reader: ColdReader,
    manifests: BTreeMap<ShardId, ShardManifest>,
    warnings: Vec<LoadWarning>,
}

/// Why a bucket cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum OpenReplayError {
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A manifest cannot be loaded.
    #[error(transparent)]
    Manifest(#[from] LoadError),
    /// Nothing of ours lies there.
    #[error("{bucket} holds no cluster")]
    NoCluster {
        /// The bucket.
        bucket: String,
    },
    /// One must be chosen.
    #[error("{bucket} holds {} clusters; choose one with --cluster: {}", clusters.len(),
        clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    SeveralClusters {
        /// The bucket.
        bucket: String,
        /// Those that are there.
        clusters: Vec<ClusterUid>,
    },
    /// The one chosen is not there.
    #[error("{bucket} does not hold cluster {cluster}")]
    UnknownCluster {
        /// The bucket.
        bucket: String,
        /// The one chosen.
        cluster: ClusterUid,
    },
}

/// A stream that has records in the bucket, or had.
#[derive(Clone, Copy, Debug)]
pub struct ReplayStream<'a> {
    /// The shard it is placed on.
    pub shard: ShardId,
    /// Its uid.
    pub uid: StreamUid,
    /// What the manifest of its shard says of it.
    pub told: &'a StreamManifest,
    /// The manifest of its shard.
    pub manifest: &'a ShardManifest,
}

/// Where a replay begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayBound {
    /// The first, or behind the last, record in the bucket.
    Unbounded,
    /// This record. A start in front of the first record begins there.
    Offset(Offset),
    /// The first record with a log time at or after this instant.
    Time(Timestamp),
}

impl Replay {
    /// Loads the manifests of `cluster`, or of the only cluster there is.
    ///
    /// # Errors
    /// [`OpenReplayError`]; lists the clusters where one must be chosen.
    pub async fn open(
        bucket: &Bucket,
        cluster: Option<ClusterUid>,
        options: &ReaderOptions,
    ) -> Result<Self, OpenReplayError> {
        let clusters = owner::clusters(bucket).await?;
        let name = || bucket.to_string();
        let cluster = match (cluster, clusters.as_slice()) {
            (Some(cluster), there) if there.contains(&cluster) => cluster,
            (Some(cluster), _) => {
                return Err(OpenReplayError::UnknownCluster { bucket: name(), cluster });
            }
            (None, [only]) => *only,
            (None, []) => return Err(OpenReplayError::NoCluster { bucket: name() }),
            (None, _) => {
                return Err(OpenReplayError::SeveralClusters { bucket: name(), clusters });
            }
        };
        let (mut manifests, mut warnings) = (BTreeMap::new(), Vec::new());
        for shard in manifest::list_shards(bucket, cluster).await? {
            if let Some(loaded) = manifest::load(bucket, cluster, shard).await? {
                manifests.insert(shard, loaded.manifest);
                warnings.extend(loaded.warnings);
            }
        }
        let reader = ColdReader::new(bucket.clone(), options);
        Ok(Self { cluster, reader, manifests, warnings })
    }

    /// The cluster life.
    #[must_use]
    pub fn cluster(&self) -> ClusterUid {
        self.cluster
    }

    /// Manifest versions that could not be used: what they added is not replayed.
    #[must_use]
    pub fn warnings(&self) -> &[LoadWarning] {
        &self.warnings
    }

    /// Every stream, by shard and uid.
    pub fn streams(&self) -> impl Iterator<Item = ReplayStream<'_>> {
        self.manifests.iter().flat_map(|(&shard, manifest)| {
            let streams = manifest.streams.iter();
            streams.map(move |(&uid, told)| ReplayStream { shard, uid, told, manifest })
        })
    }

    /// The stream called `name`: the one that is not deleted, else the one created last.
    #[must_use]
    pub fn stream(&self, name: &StreamName) -> Option<ReplayStream<'_>> {
        self.streams()
            .filter(|stream| stream.told.name == *name)
            .max_by_key(|stream| (!stream.told.deleted, stream.told.created, stream.uid))
    }

    /// Reads `stream` from `from` on, up to `until`, exclusive.
    ///
    /// # Errors
    /// [`ColdReadError`] if the object that decides where a bound in time lies cannot be read.
    pub async fn read(
        &self,
        stream: ReplayStream<'_>,
        from: ReplayBound,
        until: ReplayBound,
    ) -> Result<ReplayCursor, ColdReadError> {
        let ranges = stream.told.ranges.iter();
        let parts: Vec<ColdPart> =
            ranges.filter_map(|range| ColdPart::new(stream.manifest, stream.uid, range)).collect();
        let first = parts.first().map_or(Offset(0), |part| part.range.base);
        let end = parts.last().map_or(Offset(0), |part| part.range.end());
        let next = self.resolve(&parts, from, first).await?.max(first);
        let end = self.resolve(&parts, until, end).await?.min(end);
        Ok(ReplayCursor { reader: self.reader.clone(), parts, next, end, ahead: None })
    }

    async fn resolve(
        &self,
        parts: &[ColdPart],
        bound: ReplayBound,
        unbounded: Offset,
    ) -> Result<Offset, ColdReadError> {
        match bound {
            ReplayBound::Unbounded => Ok(unbounded),
            ReplayBound::Offset(offset) => Ok(offset),
            ReplayBound::Time(ts) => {
                let behind = parts.last().map_or(Offset(0), |part| part.range.end());
                match parts.iter().find(|part| part.range.max_ts >= ts) {
                    Some(part) => self.reader.seek_time(part, ts).await,
                    None => Ok(behind),
                }
            }
        }
    }
}

/// Position of a replay. Fetches the next row group while the caller decodes the one before.
#[derive(Debug)]
pub struct ReplayCursor {
    reader: ColdReader,
    /// Ascending and contiguous.
    parts: Vec<ColdPart>,
    next: Offset,
    end: Offset,
    ahead: Option<Ahead>,
}

/// A row group on its way.
#[derive(Debug)]
struct Ahead {
    from: Offset,
    fetch: JoinHandle<Result<RowGroup, ColdReadError>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.fetch.abort();
    }
}

impl ReplayCursor {
    /// The offset of the next record.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.next
    }

    /// The offset at which it ends.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The batches of the next row group, from [`Self::position`] and never past [`Self::end`];
    /// `None` at the end. After an error the same row group is tried again.
    ///
    /// Cancel safe: nothing is skipped. Decodes where it is called.
    ///
    /// # Errors
    /// [`ColdReadError`].
    pub async fn next(&mut self) -> Option<Result<Vec<ColdBatch>, ColdReadError>> {
        if self.next >= self.end {
            return None;
        }
        let from = self.next;
        let group = match self.ahead.take().filter(|ahead| ahead.from == from) {
            Some(ahead) => self.wait(ahead).await,
            None => self.fetch(from).await,
        };
        let group = match group {
            Ok(group) => group,
            Err(error) => return Some(Err(error)),
        };
        let behind = group.end();
        self.begin_fetch(behind);
        let batches: Result<_, _> = group.batches(from, self.end).collect();
        if batches.is_ok() {
            self.next = behind.min(self.end);
        }
        Some(batches)
    }

    async fn wait(&mut self, ahead: Ahead) -> Result<RowGroup, ColdReadError> {
        let ahead = self.ahead.insert(ahead);
        let (fetched, from) = ((&mut ahead.fetch).await, ahead.from);
        self.ahead = None;
        match fetched {
            Ok(group) => group,
            // The task was lost, not the data.
            Err(_) => self.fetch(from).await,
        }
    }

    async fn fetch(&self, from: Offset) -> Result<RowGroup, ColdReadError> {
        let part = self.part(from).ok_or_else(|| ColdReadError::OutOfRange {
            object: "".into(),
            from,
            base: self.next,
            end: self.end,
        })?;
        self.reader.fetch(part, from).await
    }

    fn begin_fetch(&mut self, from: Offset) {
        if from >= self.end {
            return;
        }
        let Some(part) = self.part(from).cloned() else { return };
        let reader = self.reader.clone();
        let fetch = tokio::spawn(async move { reader.fetch(&part, from).await });
        self.ahead = Some(Ahead { from, fetch });
    }

    fn part(&self, offset: Offset) -> Option<&ColdPart> {
        let after = self.parts.partition_point(|part| part.range.end() <= offset);
        self.parts.get(after).filter(|part| part.range.base <= offset)
    }
}

#[cfg(test)]
mod tests;
