//! What can be done with streams, over the catalog that owns names and the shards that own streams
//! (SEMANTICS §8). Holds no state of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use railgun_cold::Bucket;
use railgun_cold::reader::ColdReader;
use railgun_core::catalog::{CatalogEntry, CatalogOutcome, Phase};
use railgun_core::command::{
    CatalogCommand, CommandBody, EnsureStream, SealScope, SegmentCommand, StreamCommand,
};
use railgun_core::shard::{Ensured as ShardEnsured, Outcome};
use railgun_proto::WireError;
use railgun_proto::convert::{EnsureOutcome, EnsureRequest, Ensured};
use railgun_raft::ReadPool;
use railgun_types::{
    ClusterUid, EnsureMode, ErrorCode, Offset, ShardId, StartPosition, StreamKind, StreamName,
    StreamUid,
};

use crate::catalog::CatalogHandle;
use crate::entropy::Entropy;
use crate::offload::Reclaimer;
use crate::reader::ReadFailure;
use crate::session::failure;
use crate::shard::{Extent, SegmentPage, ShardHandle, StartResolved, StreamFacts};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Streams {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("cluster", &self.inner.cluster).finish_non_exhaustive()
    }
}

struct Inner {
    cluster: ClusterUid,
    catalog: CatalogHandle,
    shards: BTreeMap<ShardId, ShardOnNode>,
    cold: ColdReader,
    bucket: Bucket,
    entropy: Arc<dyn Entropy>,
    pool: Arc<dyn ReadPool>,
}

/// A shard whose replica is on this node.
#[derive(Clone, Debug)]
pub(crate) struct ShardOnNode {
    pub(crate) handle: ShardHandle,
    pub(crate) reclaimer: Reclaimer,
}

/// A stream found by name.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) stream: StreamUid,
    pub(crate) shard: ShardHandle,
    pub(crate) facts: Box<StreamFacts>,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) start: Offset,
    pub(crate) next: Offset,
}

/// What a seal has brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    pub(crate) cold_end: Offset,
    pub(crate) files_retired: u32,
}

impl Streams {
    pub(crate) fn new(
        cluster: ClusterUid,
        catalog: CatalogHandle,
        shards: BTreeMap<ShardId, ShardOnNode>,
        cold: ColdReader,
        bucket: Bucket,
        entropy: Arc<dyn Entropy>,
        pool: Arc<dyn ReadPool>,
    ) -> Self {
        Self { inner: Arc::new(Inner { cluster, catalog, shards, cold, bucket, entropy, pool }) }
    }

    pub(crate) fn cluster(&self) -> ClusterUid {
        self.inner.cluster
    }

    pub(crate) fn cold(&self) -> ColdReader {
        self.inner.cold.clone()
    }

    /// Where blocking reads run.
    pub(crate) fn pool(&self) -> Arc<dyn ReadPool> {
        Arc::clone(&self.inner.pool)
    }

    pub(crate) fn bucket_url(&self) -> String {
        self.inner.bucket.url().to_string()
    }

    fn on_node(&self, id: ShardId) -> Result<&ShardOnNode, WireError> {
        self.inner.shards.get(&id).ok_or_else(|| {
            WireError::new(ErrorCode::Unavailable, format!("shard {id} is not on this node"))
        })
    }

    fn shard(&self, id: ShardId) -> Result<&ShardHandle, WireError> {
        Ok(&self.on_node(id)?.handle)
    }

    async fn entry(&self, name: &StreamName) -> Result<Option<CatalogEntry>, WireError> {
        self.inner.catalog.get(name.clone()).await.map_err(|gone| stopping(&gone))
    }

    /// Finds an active stream.
    pub(crate) async fn resolve(&self, name: &StreamName) -> Result<Resolved, WireError> {
        let entry = self.entry(name).await?.ok_or_else(|| not_found(name))?;
        match entry.phase {
            Phase::Active => {}
            Phase::Creating { .. } => {
                let message = format!("stream '{name}' is being created");
                return Err(WireError::new(ErrorCode::StreamStarting, message));
            }
            Phase::Deleting => return Err(not_found(name)),
        }
        self.resolve_entry(name, &entry).await
    }

    async fn resolve_entry(
        &self,
        name: &StreamName,
        entry: &CatalogEntry,
    ) -> Result<Resolved, WireError> {
        let shard = self.shard(entry.shard)?.clone();
        let facts = shard.describe(entry.stream).await.map_err(|gone| stopping(&gone))?;
        let facts = facts.ok_or_else(|| not_found(name))?;
        Ok(Resolved { stream: entry.stream, shard, facts })
    }

    /// Active streams in order of their names, and whether there are more.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        after: Option<StreamName>,
        limit: usize,
    ) -> Result<(Vec<Resolved>, bool), WireError> {
        let names = self.inner.catalog.list(prefix.to_owned(), after, limit + 1).await;
        let names = names.map_err(|gone| stopping(&gone))?;
        let more = names.len() > limit;
        let mut found = Vec::with_capacity(names.len().min(limit));
        for (name, entry) in names.into_iter().take(limit) {
            // One that vanishes meanwhile is not listed.
            if entry.phase == Phase::Active
                && let Ok(resolved) = self.resolve_entry(&name, &entry).await
            {
                found.push(resolved);
            }
        }
        Ok((found, more))
    }

    /// Where a reader of `found` begins. Looks into one object for a time in the cold tier.
    pub(crate) async fn start_of(
        &self,
        found: &Resolved,
        start: StartPosition,
    ) -> Result<Start, WireError> {
        let resolved = found.shard.resolve_start(found.stream, start).await;
        match resolved.map_err(|gone| stopping(&gone))? {
            StartResolved::At { start, next } => Ok(Start { start, next }),
            StartResolved::ColdTime { part, ts, next } => {
                let sought = self.inner.cold.seek_time(&part, ts).await;
                let start = sought.map_err(|e| failure::read_failure(&ReadFailure::Cold(e)))?;
                Ok(Start { start, next })
            }
            StartResolved::Deleted => {
                Err(WireError::new(ErrorCode::StreamDeleted, "the stream was deleted"))
            }
        }
    }

    pub(crate) async fn segments(
        &self,
        found: &Resolved,
        from: Offset,
        limit: usize,
    ) -> Result<SegmentPage, WireError> {
        let page = found.shard.segments(found.stream, from, limit);
        Ok(page.await.map_err(|gone| stopping(&gone))?.unwrap_or_default())
    }

    /// Makes a stream what the request says: the catalog reserves the name, the shard decides, the
    /// catalog turns it active. Safe to repeat at any point.
    pub(crate) async fn ensure(&self, request: EnsureRequest) -> Result<Ensured, WireError> {
        let entry = match self.entry(&request.name).await? {
            None if request.mode == EnsureMode::Check => return Err(not_found(&request.name)),
            None => self.reserve(&request).await?,
            Some(entry) => entry,
        };
        if entry.phase == Phase::Deleting {
            let message = format!("stream '{}' is being deleted", request.name);
            return Err(WireError::new(ErrorCode::StreamStarting, message));
        }
        self.ensure_on_shard(&entry, request).await
    }

    async fn reserve(&self, request: &EnsureRequest) -> Result<CatalogEntry, WireError> {
        if request.patch.kind == Some(StreamKind::Ephemeral) {
            let message = "this release has persistent streams only";
            return Err(WireError::new(ErrorCode::FeatureLevel, message));
        }
        let reserve = CatalogCommand::Reserve {
            name: request.name.clone(),
            stream: StreamUid(self.inner.entropy.uid()),
            patch: request.patch.clone(),
        };
        self.change(reserve)
            .await?
            .ok_or_else(|| WireError::new(ErrorCode::Unavailable, "the catalog is not ready"))
    }

    async fn change(&self, command: CatalogCommand) -> Result<Option<CatalogEntry>, WireError> {
        match self.inner.catalog.change(command).await.map_err(failure::propose_failure)? {
            CatalogOutcome::Entry(entry) => Ok(entry),
            CatalogOutcome::Founded(_) | CatalogOutcome::Refused => Ok(None),
        }
    }

    async fn ensure_on_shard(
        &self,
        entry: &CatalogEntry,
        request: EnsureRequest,
    ) -> Result<Ensured, WireError> {
        let EnsureRequest { name, patch, mode, if_revision, allow_destructive } = request;
        let stream = entry.stream;
        let creating = matches!(entry.phase, Phase::Creating { .. });
        let ensure = EnsureStream {
            stream,
            name: name.clone(),
            patch,
            mode,
            if_revision,
            allow_destructive,
        };
        let body = CommandBody::Stream(StreamCommand::Ensure(ensure));
        let outcome = self.shard(entry.shard)?.command(body).await;
        let ensured = match outcome.map_err(failure::propose_failure)? {
            Outcome::Ensured(Ok(ensured)) => ensured,
            Outcome::Ensured(Err(refused)) => {
                if creating {
                    // A definite refusal: nobody else should wait for this name.
                    self.change(CatalogCommand::Free { name, stream }).await?;
                }
                return Err(failure::ensure_refused(&refused));
            }
            other => return Err(unexpected(&other)),
        };
        if creating {
            self.change(CatalogCommand::Activate { name, stream }).await?;
        }
        let (outcome, revision) = match ensured {
            ShardEnsured::Created => (EnsureOutcome::Created, 1),
            ShardEnsured::Unchanged { revision } => (EnsureOutcome::Unchanged, revision),
            ShardEnsured::Drift { revision, diff } => (EnsureOutcome::Drift(diff), revision),
            ShardEnsured::Updated { revision, diff } => (EnsureOutcome::Updated(diff), revision),
        };
        Ok(Ensured { outcome, stream_uid: stream, revision })
    }

    /// Deletes a stream: the name is blocked, the shard leaves a tombstone, the name is free.
    pub(crate) async fn delete(&self, name: &StreamName) -> Result<StreamUid, WireError> {
        let entry = self.entry(name).await?.ok_or_else(|| not_found(name))?;
        self.change(CatalogCommand::Delete { name: name.clone(), stream: entry.stream }).await?;
        self.finish_delete(name, &entry).await?;
        Ok(entry.stream)
    }

    async fn finish_delete(
        &self,
        name: &StreamName,
        entry: &CatalogEntry,
    ) -> Result<(), WireError> {
        let stream = entry.stream;
        let body = CommandBody::Stream(StreamCommand::Delete { stream });
        self.shard(entry.shard)?.command(body).await.map_err(failure::propose_failure)?;
        self.change(CatalogCommand::Free { name: name.clone(), stream }).await?;
        Ok(())
    }

    /// Finishes creations and deletions that a stopped node left half done.
    pub(crate) async fn reconcile(&self) -> Result<(), WireError> {
        let names = self.inner.catalog.list(String::new(), None, usize::MAX).await;
        for (name, entry) in names.map_err(|gone| stopping(&gone))? {
            match entry.phase.clone() {
                Phase::Active => {}
                Phase::Creating { patch } => {
                    tracing::info!(stream = %name, "finishing the creation of a stream");
                    let request = EnsureRequest {
                        name,
                        patch,
                        mode: EnsureMode::Warn,
                        if_revision: None,
                        allow_destructive: false,
                    };
                    if let Err(refused) = self.ensure_on_shard(&entry, request).await {
                        tracing::warn!(%refused, "the creation of a stream was refused");
                    }
                }
                Phase::Deleting => {
                    tracing::info!(stream = %name, "finishing the deletion of a stream");
                    self.finish_delete(&name, &entry).await?;
                }
            }
        }
        Ok(())
    }

    /// Brings everything published to the stream so far into the bucket.
    pub(crate) async fn seal(&self, name: &StreamName, retire: bool) -> Result<Sealed, WireError> {
        let found = self.resolve(name).await?;
        let end = found.facts.next;
        let scope = if retire { SealScope::All } else { SealScope::Stream(found.stream) };
        let body = CommandBody::Segment(SegmentCommand::Seal(scope));
        found.shard.command(body).await.map_err(failure::propose_failure)?;
        let extent = Extent::Stream { stream: found.stream, end };
        found.shard.mirrored(extent).await.map_err(|gone| stopping(&gone))?;
        let files_retired = if retire {
            let retired = self.on_node(found.shard.id())?.reclaimer.retire().await;
            retired.map_err(|failed| WireError::new(ErrorCode::Internal, failed.to_string()))?
        } else {
            0
        };
        Ok(Sealed { cold_end: end, files_retired })
    }
}

fn not_found(name: &StreamName) -> WireError {
    let message = format!("there is no stream '{name}'");
    WireError::new(ErrorCode::StreamNotFound, message)
}

fn stopping(gone: &crate::shard::ShardGone) -> WireError {
    WireError::new(ErrorCode::GoingAway, gone.to_string())
}

fn unexpected(outcome: &Outcome) -> WireError {
    WireError::new(ErrorCode::Internal, format!("the shard answered {outcome:?}"))
}
