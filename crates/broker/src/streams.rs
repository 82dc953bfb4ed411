//! What can be done with streams, over the catalog that owns names and the shards that own streams
//! (SEMANTICS §8). Holds no state of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_cold::Bucket;
use railgun_cold::reader::ColdReader;
use railgun_core::catalog::{CatalogEntry, CatalogOutcome, Phase};
use railgun_core::command::{
    CatalogCommand, CommandBody, EnsureStream, SealScope, SegmentCommand, StreamCommand,
};
use railgun_core::shard::{EnsureRefused, Ensured as ShardEnsured, Outcome};
use railgun_net::Member;
use railgun_proto::WireError;
use railgun_proto::convert::{EnsureOutcome, EnsureRequest, Ensured};
use railgun_raft::BlockingPool;
use railgun_types::{
    ClusterUid, EnsureMode, ErrorCode, GroupName, Offset, RequestId, Retry, ShardId, SpecPatch,
    StartPosition, StreamKind, StreamName, StreamUid,
};
use tokio_util::sync::CancellationToken;

use crate::catalog::CatalogHandle;
use crate::describe;
use crate::entropy::Entropy;
use crate::on_node::ShardOnNode;
use crate::reader::{ClientPlaces, ReadPlaces, ReadSources};
use crate::routing::Routing;
use crate::shard::{MirrorScope, SegmentPage, ShardHandle, StartResolved, StreamFacts};
use crate::wire_error::{self, not_found, stopping, unexpected};

/// How often names are looked through for creations and deletions that nobody finishes.
const RECONCILE_EVERY: Duration = Duration::from_secs(2);

/// How often it is looked for groups that nobody hands out and that have something to do.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// What sessions ask about streams, and have done with them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Streams {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("cluster", &self.cluster()).finish_non_exhaustive()
    }
}

struct Inner {
    catalog: CatalogHandle,
    routing: Routing,
    cold: ColdReader,
    bucket: Bucket,
    entropy: Arc<dyn Entropy>,
    pool: Arc<dyn BlockingPool>,
    places: Arc<ReadPlaces>,
}

/// A stream found by name.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) stream: StreamUid,
    pub(crate) shard: Place,
    pub(crate) facts: Box<StreamFacts>,
}

/// Where a stream's shard is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Here(ShardHandle),
    /// On other nodes only.
    Elsewhere(ShardId),
}

impl Place {
    pub(crate) fn id(&self) -> ShardId {
        match self {
            Self::Here(shard) => shard.id(),
            Self::Elsewhere(shard) => *shard,
        }
    }

    /// The shard's replica on this node.
    ///
    /// # Errors
    /// `Unavailable`: it is on others, as whoever asked did not know yet.
    pub(crate) fn here(&self) -> Result<&ShardHandle, WireError> {
        match self {
            Self::Here(shard) => Ok(shard),
            Self::Elsewhere(shard) => Err(not_here(*shard)),
        }
    }
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
        catalog: CatalogHandle,
        routing: Routing,
        cold: ColdReader,
        bucket: Bucket,
        entropy: Arc<dyn Entropy>,
        pool: Arc<dyn BlockingPool>,
    ) -> Self {
        let places = Arc::default();
        let inner = Inner { catalog, routing, cold, bucket, entropy, pool, places };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn cluster(&self) -> ClusterUid {
        self.inner.routing.cluster
    }

    /// The way to the leaders of shards.
    pub(crate) fn routing(&self) -> &Routing {
        &self.inner.routing
    }

    /// The reads that a client with this part of the memory may do at a time.
    pub(crate) fn places(&self, memory: Option<&Member>) -> ClientPlaces {
        ClientPlaces::new(Arc::clone(&self.inner.places), memory)
    }

    /// Where a client reads what is in a shard, with its places and its part of the memory.
    pub(crate) fn sources(
        &self,
        shard: ShardHandle,
        places: ClientPlaces,
        memory: Option<Member>,
    ) -> ReadSources {
        let (cold, pool) = (self.inner.cold.clone(), Arc::clone(&self.inner.pool));
        let planted = self.inner.routing.planted;
        ReadSources { shard, cold, pool, places, memory, planted }
    }

    pub(crate) fn bucket_url(&self) -> String {
        self.inner.bucket.url().to_string()
    }

    fn on_node(&self, id: ShardId) -> Result<ShardOnNode, WireError> {
        self.inner.routing.local(id).ok_or_else(|| not_here(id))
    }

    fn has_others(&self) -> bool {
        self.inner.routing.others.is_some()
    }

    /// Waits until this node knows of the shard what its leader does, if that may be another.
    async fn catch_up(&self, shard: ShardId) -> Result<(), WireError> {
        if !self.has_others() {
            return Ok(());
        }
        let caught_up = self.inner.routing.catch_up(shard).await;
        caught_up.map_err(|error| WireError::new(ErrorCode::Unavailable, error.to_string()))
    }

    pub(crate) async fn entry(&self, name: &StreamName) -> Result<Option<CatalogEntry>, WireError> {
        self.inner.catalog.get(name.clone()).await.map_err(|gone| stopping(&gone))
    }

    /// Finds an active stream. What this node does not know, it asks about.
    pub(crate) async fn resolve(&self, name: &StreamName) -> Result<Resolved, WireError> {
        match self.look_up(name, false).await {
            Err(error) if self.has_others() && may_be_behind(&error) => {
                self.catch_up(ShardId::CATALOG).await?;
                self.look_up(name, true).await
            }
            found => found,
        }
    }

    /// Finds an active stream by the name as the catalog has it now: not one that had the name and was
    /// deleted, which this node may not have heard of yet.
    pub(crate) async fn resolve_newest(&self, name: &StreamName) -> Result<Resolved, WireError> {
        self.catch_up(ShardId::CATALOG).await?;
        self.resolve(name).await
    }

    /// Finds an active stream as catalog and shard are now: what was published before this is asked
    /// counts, by way of whichever node that was.
    pub(crate) async fn resolve_current(&self, name: &StreamName) -> Result<Resolved, WireError> {
        self.catch_up(ShardId::CATALOG).await?;
        self.look_up(name, true).await
    }

    /// Finds an active stream, where one is meant that one and no other of its name: a node that lags behind
    /// may know an earlier one, which is no word about the one that is asked for.
    pub(crate) async fn resolve_meant(
        &self,
        name: &StreamName,
        meant: Option<StreamUid>,
    ) -> Result<Resolved, WireError> {
        let is_another = |found: &Resolved| meant.is_some_and(|meant| meant != found.stream);
        let mut found = self.resolve(name).await?;
        if is_another(&found) {
            found = self.resolve_newest(name).await?;
        }
        if is_another(&found) {
            return Err(another_in_its_place(name));
        }
        Ok(found)
    }

    /// As this node knows its name; its shard as of now, or as of a moment ago.
    async fn look_up(&self, name: &StreamName, current: bool) -> Result<Resolved, WireError> {
        if let Some((parent, group)) = name.split_companion() {
            return self.look_up_dead_letters(name, &parent, group, current).await;
        }
        let entry = self.entry(name).await?.ok_or_else(|| not_found(name))?;
        match entry.phase {
            Phase::Active => {}
            Phase::Creating { .. } => {
                let message = format!("stream '{name}' is being created");
                return Err(WireError::new(ErrorCode::StreamStarting, message));
            }
            Phase::Deleting => return Err(not_found(name)),
        }
        let (shard, streams) = (entry.shard, [entry.stream]);
        let (place, mut told) = self.describe(shard, &streams, current).await?;
        let facts = told.remove(&entry.stream).ok_or_else(|| not_found(name))?;
        Ok(Resolved { stream: entry.stream, shard: place, facts })
    }

    /// The stream of a group's dead letters, which has no name of its own in the catalog (DL-5).
    async fn look_up_dead_letters(
        &self,
        name: &StreamName,
        parent: &StreamName,
        group: GroupName,
        current: bool,
    ) -> Result<Resolved, WireError> {
        let entry = self.entry(parent).await?.filter(|entry| entry.phase == Phase::Active);
        let entry = entry.ok_or_else(|| not_found(parent))?;
        let shard = entry.shard;
        let (place, told) = match self.inner.routing.local(shard) {
            Some(ShardOnNode { handle, .. }) => {
                if current {
                    self.catch_up(shard).await?;
                }
                let stopped = |gone| stopping(&gone);
                let stream = handle.companion(entry.stream, group).await.map_err(stopped)?;
                let stream = stream.ok_or_else(|| not_found(name))?;
                let facts = handle.describe(stream).await.map_err(stopped)?;
                (Place::Here(handle), facts.map(|facts| (stream, facts)))
            }
            None if !self.has_others() => return Err(not_here(shard)),
            None => {
                let routing = &self.inner.routing;
                let of = [entry.stream];
                let mut told = describe::ask(routing, shard, &of, Some(&group), current).await?;
                (Place::Elsewhere(shard), told.pop_first())
            }
        };
        let (stream, facts) = told.ok_or_else(|| not_found(name))?;
        Ok(Resolved { stream, shard: place, facts })
    }

    /// Those of these streams that are on the shard, wherever that is; as of now, or as of a moment ago.
    async fn describe(
        &self,
        shard: ShardId,
        streams: &[StreamUid],
        current: bool,
    ) -> Result<(Place, BTreeMap<StreamUid, Box<StreamFacts>>), WireError> {
        let Some(ShardOnNode { handle, .. }) = self.inner.routing.local(shard) else {
            if !self.has_others() {
                return Err(not_here(shard));
            }
            let told = describe::ask(&self.inner.routing, shard, streams, None, current).await?;
            return Ok((Place::Elsewhere(shard), told));
        };
        if current {
            self.catch_up(shard).await?;
        }
        let mut told = BTreeMap::new();
        for &stream in streams {
            if let Some(facts) = handle.describe(stream).await.map_err(|gone| stopping(&gone))? {
                told.insert(stream, facts);
            }
        }
        Ok((Place::Here(handle), told))
    }

    /// All of these streams that are on the shard: as of a moment ago where that tells of every one, else
    /// as of now.
    async fn describe_all(
        &self,
        shard: ShardId,
        streams: Vec<StreamUid>,
    ) -> Result<(Place, BTreeMap<StreamUid, Box<StreamFacts>>), WireError> {
        let (place, told) = self.describe(shard, &streams, false).await?;
        if told.len() == streams.len() || !self.has_others() {
            return Ok((place, told));
        }
        self.describe(shard, &streams, true).await
    }

    /// Active streams in order of their names, and whether there are more.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        after: Option<StreamName>,
        limit: usize,
    ) -> Result<(Vec<Resolved>, bool), WireError> {
        self.catch_up(ShardId::CATALOG).await?;
        let names = self.inner.catalog.list(prefix.to_owned(), after, limit + 1).await;
        let names = names.map_err(|gone| stopping(&gone))?;
        let more = names.len() > limit;
        let active = names.into_iter().take(limit).map(|(_, entry)| entry);
        let active: Vec<_> = active.filter(|entry| entry.phase == Phase::Active).collect();
        let mut by_shard: BTreeMap<ShardId, Vec<StreamUid>> = BTreeMap::new();
        for entry in &active {
            by_shard.entry(entry.shard).or_default().push(entry.stream);
        }
        let described = by_shard.into_iter().map(async |(shard, streams)| {
            Ok::<_, WireError>((shard, self.describe_all(shard, streams).await?))
        });
        let described = futures::future::try_join_all(described).await?;
        let mut described: BTreeMap<_, _> = described.into_iter().collect();
        // One that vanishes meanwhile is not listed.
        let resolved = active.into_iter().filter_map(|entry| {
            let (place, told) = described.get_mut(&entry.shard)?;
            let facts = told.remove(&entry.stream)?;
            Some(Resolved { stream: entry.stream, shard: place.clone(), facts })
        });
        let found = resolved.collect();
        Ok((found, more))
    }

    /// Where a reader of `found`, which is here, begins, and where the stream ends. What was published
    /// before counts, wherever that was, for starts that depend on it and if `end_is_wanted`; else
    /// what this node has applied will do, if it is cut off or not (CL-4). Looks into one object for a
    /// time in the cold tier, with these places.
    pub(crate) async fn start_of(
        &self,
        found: &Resolved,
        start: StartPosition,
        end_is_wanted: bool,
        places: &ClientPlaces,
    ) -> Result<Start, WireError> {
        let shard = found.shard.here()?;
        let depends = match start {
            StartPosition::Earliest | StartPosition::Offset(_) => end_is_wanted,
            StartPosition::Latest | StartPosition::Time(_) | StartPosition::Last(_) => true,
        };
        if depends {
            self.catch_up(shard.id()).await?;
        }
        let resolved = shard.resolve_start(found.stream, start).await;
        match resolved.map_err(|gone| stopping(&gone))? {
            StartResolved::At { start, next } => Ok(Start { start, next }),
            StartResolved::ColdTime { part, ts, next } => {
                let from = self.sources(shard.clone(), places.clone(), None);
                let sought = from.seek_time(&part, ts).await;
                let start = sought.map_err(|failed| wire_error::read_failure(&failed))?;
                Ok(Start { start, next })
            }
            StartResolved::Deleted => {
                Err(WireError::new(ErrorCode::StreamDeleted, "the stream was deleted"))
            }
        }
    }

    /// Ranges of `found`, which is here, in the bucket.
    pub(crate) async fn segments(
        &self,
        found: &Resolved,
        from: Offset,
        limit: usize,
    ) -> Result<SegmentPage, WireError> {
        let page = found.shard.here()?.segments(found.stream, from, limit);
        Ok(page.await.map_err(|gone| stopping(&gone))?.unwrap_or_default())
    }

    /// Makes a stream what the request says: the catalog reserves the name, the shard decides, the
    /// catalog turns it active. Safe to repeat at any point, and not in its own way then (EN-6); dropped
    /// in the midst of it, it leaves a name that [`Self::keep_reconciled`] finishes.
    pub(crate) async fn ensure(&self, mut request: EnsureRequest) -> Result<Ensured, WireError> {
        // Who does not repeat it needs no name for it, but the steps of it do.
        request.request.get_or_insert_with(|| RequestId(self.inner.entropy.uid()));
        self.catch_up(ShardId::CATALOG).await?;
        let (entry, own) = match self.entry(&request.name).await? {
            None => self.reserve(&request).await?,
            Some(entry) => (entry, false),
        };
        match &entry.phase {
            Phase::Active => self.ensure_on_shard(&entry, request).await,
            Phase::Creating { .. } if request.mode == EnsureMode::Check => {
                // It is not there yet, and looking must not make it (EN-1).
                let message = format!("stream '{}' is being created", request.name);
                Err(WireError::new(ErrorCode::StreamStarting, message))
            }
            Phase::Creating { patch, request: creator } => {
                // Whoever reserved the name said what the stream is; all others compare with that.
                let wanted = (patch.clone(), *creator);
                let created = self.create(&request.name, &entry, wanted, own).await?;
                if own && created.outcome == EnsureOutcome::Created {
                    return Ok(created);
                }
                self.ensure_on_shard(&entry, request).await
            }
            Phase::Deleting => {
                let message = format!("stream '{}' is being deleted", request.name);
                Err(WireError::new(ErrorCode::StreamStarting, message))
            }
        }
    }

    /// Takes a name that is free; says whether nobody else had taken it meanwhile.
    async fn reserve(&self, request: &EnsureRequest) -> Result<(CatalogEntry, bool), WireError> {
        if request.mode == EnsureMode::Check {
            return Err(not_found(&request.name));
        }
        if request.if_revision.is_some_and(|revision| revision != 0) {
            // EN-6: what is not there is at no revision.
            return Err(wire_error::ensure_refused(&EnsureRefused::Revision { actual: 0 }));
        }
        if request.patch.kind == Some(StreamKind::Ephemeral) {
            let message = "this release has persistent streams only";
            return Err(WireError::new(ErrorCode::FeatureLevel, message));
        }
        let stream = StreamUid(self.inner.entropy.uid());
        let (name, patch) = (request.name.clone(), request.patch.clone());
        let reserve = CatalogCommand::Reserve { name, stream, patch, request: request.request };
        let reserved = self.change(reserve).await?;
        let entry = reserved
            .ok_or_else(|| WireError::new(ErrorCode::Unavailable, "the catalog is not ready"))?;
        let own = entry.stream == stream;
        Ok((entry, own))
    }

    pub(crate) async fn change(
        &self,
        command: CatalogCommand,
    ) -> Result<Option<CatalogEntry>, WireError> {
        match self.inner.routing.change(command).await.map_err(wire_error::change_failure)? {
            CatalogOutcome::Entry(entry) => Ok(entry.map(|entry| *entry)),
            _ => Ok(None),
        }
    }

    /// Finishes the creation of a reserved stream, as its creator wanted it by this request. Several may do so at once: one of them is told
    /// that it was created, the others that it is there. Only who has reserved the name gives it up
    /// where there is no room for the stream: others do not know what its owner was told.
    pub(crate) async fn create(
        &self,
        name: &StreamName,
        entry: &CatalogEntry,
        (patch, creator): (SpecPatch, Option<RequestId>),
        own: bool,
    ) -> Result<Ensured, WireError> {
        let stream = entry.stream;
        let request = EnsureRequest {
            name: name.clone(),
            patch,
            mode: EnsureMode::Warn,
            if_revision: None,
            allow_destructive: false,
            request: creator,
        };
        let ensured = self.propose_ensure(entry, request).await;
        let is_definite = match &ensured {
            Ok(Ok(_)) => false,
            Ok(Err(_)) => true,
            Err(failure) => own && failure.code == ErrorCode::HotTierFull,
        };
        if is_definite {
            // It was not for the sake of a stream that lives: nobody else should wait for this name,
            // nor find later what was refused.
            self.change(CatalogCommand::Free { name: name.clone(), stream }).await?;
        }
        let ensured = match ensured? {
            Ok(ensured) => ensured,
            Err(EnsureRefused::Deleted) => return Err(lost_name(name, own)),
            Err(refused) => return Err(wire_error::ensure_refused(&refused)),
        };
        let activate = CatalogCommand::Activate { name: name.clone(), stream };
        let now = self.change(activate).await?;
        if now.is_none_or(|now| now.stream != stream || now.phase != Phase::Active) {
            // The name went between its reservation and this; the shard may have been asked to delete
            // the stream before there was one. Without a name nobody finds it.
            self.delete_on_shard(entry).await?;
            return Err(lost_name(name, own));
        }
        Ok(ensured)
    }

    async fn ensure_on_shard(
        &self,
        entry: &CatalogEntry,
        request: EnsureRequest,
    ) -> Result<Ensured, WireError> {
        let ensured = self.propose_ensure(entry, request).await?;
        ensured.map_err(|refused| wire_error::ensure_refused(&refused))
    }

    async fn propose_ensure(
        &self,
        entry: &CatalogEntry,
        request: EnsureRequest,
    ) -> Result<Result<Ensured, EnsureRefused>, WireError> {
        let EnsureRequest { name, patch, mode, if_revision, allow_destructive, request } = request;
        let stream = entry.stream;
        let ensure =
            EnsureStream { stream, name, patch, mode, if_revision, allow_destructive, request };
        let body = CommandBody::Stream(StreamCommand::Ensure(ensure));
        let outcome = self.inner.routing.request(entry.shard, body).await;
        let ensured = match outcome.map_err(wire_error::request_failure)? {
            Outcome::Ensured(Ok(ensured)) => ensured,
            Outcome::Ensured(Err(refused)) => return Ok(Err(refused)),
            other => return Err(unexpected(&other)),
        };
        let (outcome, revision) = match ensured {
            ShardEnsured::Created => (EnsureOutcome::Created, 1),
            ShardEnsured::Unchanged { revision } => (EnsureOutcome::Unchanged, revision),
            ShardEnsured::Drift { revision, diff } => (EnsureOutcome::Drift(diff), revision),
            ShardEnsured::Updated { revision, diff } => (EnsureOutcome::Updated(diff), revision),
        };
        Ok(Ok(Ensured { outcome, stream_uid: stream, revision }))
    }

    /// The stream that has the name now, if it is the one that is meant.
    pub(crate) async fn to_delete(
        &self,
        name: &StreamName,
        meant: Option<StreamUid>,
    ) -> Result<CatalogEntry, WireError> {
        self.catch_up(ShardId::CATALOG).await?;
        let entry = self.entry(name).await?.ok_or_else(|| not_found(name))?;
        match meant.is_none_or(|meant| meant == entry.stream) {
            true => Ok(entry),
            false => Err(another_in_its_place(name)),
        }
    }

    /// Deletes the stream that has the name now.
    #[cfg(test)]
    pub(crate) async fn delete(&self, name: &StreamName) -> Result<StreamUid, WireError> {
        self.delete_entry(name, self.to_delete(name, None).await?).await
    }

    /// Deletes a stream: the name is blocked, the shard leaves a tombstone, the name is free.
    pub(crate) async fn delete_entry(
        &self,
        name: &StreamName,
        entry: CatalogEntry,
    ) -> Result<StreamUid, WireError> {
        self.change(CatalogCommand::Delete { name: name.clone(), stream: entry.stream }).await?;
        self.finish_delete(name, &entry).await.map_err(|error| {
            if error.code != ErrorCode::HotTierFull {
                return error;
            }
            // Nobody finds the stream any more, and whenever there is room it is deleted.
            let message = format!("the deletion of stream '{name}' goes on later: {error}");
            WireError::new(ErrorCode::Timeout, message).with_retry(Retry::After(RECONCILE_EVERY))
        })?;
        Ok(entry.stream)
    }

    async fn finish_delete(
        &self,
        name: &StreamName,
        entry: &CatalogEntry,
    ) -> Result<(), WireError> {
        self.delete_on_shard(entry).await?;
        let free = CatalogCommand::Free { name: name.clone(), stream: entry.stream };
        self.change(free).await?;
        Ok(())
    }

    async fn delete_on_shard(&self, entry: &CatalogEntry) -> Result<(), WireError> {
        let body = CommandBody::Stream(StreamCommand::Delete { stream: entry.stream });
        let deleted = self.inner.routing.request(entry.shard, body).await;
        deleted.map_err(wire_error::request_failure)?;
        Ok(())
    }

    /// Finishes creations and deletions that a stopped node left half done.
    pub(crate) async fn reconcile(&self) -> Result<(), WireError> {
        let half_done = self.inner.catalog.half_done().await.map_err(|gone| stopping(&gone))?;
        self.finish(half_done.iter()).await;
        self.delete_nameless().await
    }

    /// Deletes streams whose creator lost their name ([`Self::create`]) and did not come to delete them.
    /// Nobody can have published to them, so whatever holds records is left.
    async fn delete_nameless(&self) -> Result<(), WireError> {
        for ShardOnNode { handle, .. } in self.inner.routing.locals() {
            // Names are looked at later: they are reserved before a shard hears of a stream, so what
            // has none then has lost it for good.
            let unused = handle.unused().await.map_err(|gone| stopping(&gone))?;
            let nameless = self.inner.catalog.nameless(unused).await;
            for (name, stream) in nameless.map_err(|gone| stopping(&gone))? {
                let body = CommandBody::Stream(StreamCommand::Delete { stream });
                let deleted = self.inner.routing.request(handle.id(), body).await;
                deleted.map_err(wire_error::request_failure)?;
                tracing::info!(stream = %name, %stream, "deleted a stream that had no name any more");
            }
        }
        Ok(())
    }

    /// Finishes, until the node stops, what failed half way while it runs: whatever is in the same
    /// phase at two looks. What is merely slow loses nothing by being done twice.
    pub(crate) async fn keep_reconciled(self, stopping: CancellationToken) {
        let passes = async {
            let mut before: BTreeMap<StreamName, CatalogEntry> = BTreeMap::new();
            loop {
                tokio::time::sleep(RECONCILE_EVERY).await;
                if !self.inner.routing.leads_catalog() {
                    // Others do it.
                    before.clear();
                    continue;
                }
                let Ok(half_done) = self.inner.catalog.half_done().await else { return };
                let stale =
                    half_done.iter().filter(|(name, entry)| before.get(name) == Some(entry));
                self.finish(stale).await;
                before = half_done.into_iter().collect();
            }
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = passes => {}
        }
    }

    /// Tries each once. What fails is told in one line: on a full disk they may be very many.
    async fn finish(&self, half_done: impl Iterator<Item = &(StreamName, CatalogEntry)>) {
        let (mut failed, mut last) = (0_u64, None);
        for (name, entry) in half_done {
            let (what, finished) = match entry.phase.clone() {
                Phase::Active => continue,
                Phase::Creating { patch, request } => {
                    ("creation", self.create(name, entry, (patch, request), false).await.map(drop))
                }
                Phase::Deleting => ("deletion", self.finish_delete(name, entry).await),
            };
            match finished {
                Ok(()) => {
                    tracing::info!(stream = %name, "finished a {what} that was left half done");
                }
                Err(error) => {
                    failed += 1;
                    last = Some((name, what, error));
                }
            }
        }
        if let Some((name, what, error)) = last {
            tracing::warn!(failed, stream = %name, %error, "streams stay half done, one a {what}");
        }
    }

    /// Has messages that are to become dead letters looked after on the shards that this node leads, whether
    /// their groups have members or not.
    pub(crate) async fn keep_groups_tended(self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(TEND_EVERY) => {}
            }
            for ShardOnNode { handle, .. } in self.inner.routing.locals() {
                let sources = self.sources(handle.clone(), self.places(None), None);
                handle.tend_groups(sources).await;
            }
        }
    }

    /// Brings everything published to the stream, which is here, so far into the bucket.
    pub(crate) async fn seal(&self, name: &StreamName, retire: bool) -> Result<Sealed, WireError> {
        let found = self.resolve(name).await?;
        found.shard.here()?;
        let found = self.look_up(name, true).await?;
        let shard = found.shard.here()?;
        let end = found.facts.next;
        let scope = if retire { SealScope::All } else { SealScope::Stream(found.stream) };
        let body = CommandBody::Segment(SegmentCommand::Seal(scope));
        let sealed = self.inner.routing.request(shard.id(), body).await;
        sealed.map_err(wire_error::request_failure)?;
        let scope = MirrorScope::Stream { stream: found.stream, end };
        shard.mirrored(scope).await.map_err(|gone| stopping(&gone))?;
        let files_retired = if retire {
            let retired = self.on_node(shard.id())?.reclaimer.retire().await;
            retired.map_err(|failed| wire_error::reclaim_failure(&failed))?
        } else {
            0
        };
        Ok(Sealed { cold_end: end, files_retired })
    }
}

pub(crate) fn another_in_its_place(name: &StreamName) -> WireError {
    let message = format!("stream '{name}' was deleted, and another made in its place");
    WireError::new(ErrorCode::StreamDeleted, message)
}

fn not_here(shard: ShardId) -> WireError {
    WireError::new(ErrorCode::Unavailable, format!("shard {shard} is not on this node"))
}

/// Whether a node may say so of a stream only because it has not heard of it yet.
fn may_be_behind(error: &WireError) -> bool {
    error.code == ErrorCode::StreamNotFound || error.code == ErrorCode::StreamStarting
}

/// A name went while its stream was created. Who had reserved it is told that it was deleted. For
/// others it may have been given up where there was no room, which is nothing to give up for.
fn lost_name(name: &StreamName, own: bool) -> WireError {
    if own {
        let message = format!("stream '{name}' was deleted while it was created");
        WireError::new(ErrorCode::StreamDeleted, message)
    } else {
        let message = format!("the creation of stream '{name}' was given up, and may begin anew");
        WireError::new(ErrorCode::StreamStarting, message)
    }
}
