//! What lies in the bucket behind manifests. Objects never change, so each is read once.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use railgun_cold::keys::Key;
use railgun_cold::reader::{ColdPart, ColdReadError, ColdReader, ReaderOptions};
use railgun_cold::testing::Conditions;
use railgun_cold::{Bucket, manifest, owner};
use railgun_core::manifest::{ColdRange, ObjectId, ObjectInfo, ObjectKind, ShardManifest};
use railgun_types::{Offset, ShardId, StreamName, StreamUid};

use super::super::bucket::SimBucket;
use super::super::history::{History, MessageId};
use super::super::trace::{Trace, digest};

/// See the module.
#[derive(Debug)]
pub(super) struct Cold {
    bucket: SimBucket,
    fair: Bucket,
    reader: ColdReader,
    history: History,
    /// Ranges that were read, by stream.
    ranges: BTreeMap<StreamUid, Vec<ColdRange>>,
    messages: BTreeSet<MessageId>,
    /// Every object that was there at the last look.
    objects: Objects,
    trace: Trace,
    /// What was found under a tag of the store.
    contents: BTreeMap<String, String>,
    /// The newest manifest of each shard.
    manifests: BTreeMap<ShardId, ShardManifest>,
}

/// See [`Cold::strays`].
#[derive(Debug, Default)]
pub(in super::super) struct Strays {
    pub(in super::super) unnamed: Vec<String>,
    pub(in super::super) missing: Vec<String>,
}

/// Keys in the bucket, with what tells one content from another.
pub(super) type Objects = BTreeMap<String, (u64, Option<String>)>;

impl Cold {
    pub(super) fn new(bucket: SimBucket, history: History, trace: Trace) -> Self {
        let fair = bucket.in_fair_weather();
        let options = ReaderOptions {
            cache_bytes: 1 << 20,
            footer_bytes: 1 << 20,
            ..ReaderOptions::default()
        };
        let reader = ColdReader::new(fair.clone(), &options);
        Self {
            bucket,
            fair,
            reader,
            history,
            ranges: BTreeMap::new(),
            messages: BTreeSet::new(),
            objects: BTreeMap::new(),
            trace,
            contents: BTreeMap::new(),
            manifests: BTreeMap::new(),
        }
    }

    /// The newest manifest of each shard.
    pub(super) fn manifests(&self) -> impl Iterator<Item = &ShardManifest> {
        self.manifests.values()
    }

    /// Keys in the bucket.
    pub(super) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Messages in the bucket.
    pub(super) fn messages(&self) -> impl Iterator<Item = MessageId> {
        self.messages.iter().copied()
    }

    pub(super) fn end(&self, stream: StreamUid) -> Offset {
        self.ranges.get(&stream).and_then(|r| r.last()).map_or(Offset(0), ColdRange::end)
    }

    /// Takes in what is new, and checks that nothing old has changed.
    pub(super) async fn look(&mut self) {
        self.check_objects().await;
        if let Err(error) = self.load().await {
            self.history.violated("I1", format_args!("manifests cannot be loaded: {error}"));
        }
    }

    /// What is in the bucket and no manifest names, and what one names and is not there, as of the last
    /// look.
    pub(super) fn strays(&self) -> Strays {
        let named = self.named();
        let is_there = |key: &&String| self.objects.contains_key(*key);
        let missing = named.iter().filter(|key| !is_there(key)).cloned().collect();
        let is_unnamed = |key: &&String| is_data(key) && !named.contains(*key);
        let unnamed = self.objects.keys().filter(is_unnamed).cloned().collect();
        Strays { unnamed, missing }
    }

    /// Keys of all objects that a manifest has named.
    fn named(&self) -> BTreeSet<String> {
        let keys = |manifest: &ShardManifest| -> Vec<String> {
            let nameless = StreamName::new("none").expect("a valid name");
            let key = |(id, info): (&ObjectId, &ObjectInfo)| {
                let name = match info.kind {
                    ObjectKind::Segment { stream, .. } => &manifest.streams.get(&stream)?.name,
                    ObjectKind::Bundle => &nameless,
                };
                let (cluster, shard) = (manifest.cluster, manifest.shard);
                Some(Key::of_object(cluster, shard, *id, info, name).to_string())
            };
            manifest.objects.iter().filter_map(key).collect()
        };
        self.manifests.values().flat_map(keys).collect()
    }

    /// Keys are never overwritten or reused (I4), and nothing is deleted yet (I3, I6) but what no manifest
    /// names.
    async fn check_objects(&mut self) {
        let listed: Vec<_> = self.bucket.store().list(None).try_collect().await.unwrap_or_default();
        let mut now = Objects::new();
        for object in listed {
            let tag = match self.bucket.conditions {
                Conditions::Ignored | Conditions::Refused => self.content(&object).await,
                Conditions::Honoured => object.e_tag,
            };
            now.insert(object.location.to_string(), (object.size, tag));
        }
        let gone = check_objects(&self.history, &self.named(), &self.objects, &now);
        self.trace.count(|counts| counts.collected += gone);
        self.objects = now;
    }

    /// What tells the content of an object from another. Where the store knows no condition of a PUT, one that comes late, or after a look that was told a lie, writes the same once more.
    async fn content(&mut self, object: &ObjectMeta) -> Option<String> {
        let tag = object.e_tag.clone()?;
        if let Some(known) = self.contents.get(&tag) {
            return Some(known.clone());
        }
        let read = self.bucket.store().get(&object.location).await.ok()?.bytes().await.ok()?;
        let content = format!("{:016x}", digest(read.into_iter()));
        self.contents.insert(tag, content.clone());
        Some(content)
    }

    async fn load(&mut self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        for cluster in owner::clusters(&self.fair).await.map_err(|e| text(&e))? {
            let shards = manifest::list_shards(&self.fair, cluster).await.map_err(|e| text(&e))?;
            for shard in shards {
                let loaded = manifest::load(&self.fair, cluster, shard).await;
                if let Some(loaded) = loaded.map_err(|e| text(&e))? {
                    if let Some(warning) = loaded.warnings.first() {
                        return Err(warning.to_string());
                    }
                    self.take(&loaded.manifest).await;
                    self.manifests.insert(shard, loaded.manifest);
                }
            }
        }
        Ok(())
    }

    async fn take(&mut self, manifest: &ShardManifest) {
        for (&stream, told) in &manifest.streams {
            let known = self.ranges.entry(stream).or_default();
            let fresh = fresh_ranges(&self.history, stream, known, &told.ranges).to_vec();
            known.extend(fresh.iter().cloned());
            for range in fresh {
                let read = match ColdPart::new(manifest, stream, &range) {
                    Some(part) => self.read(&part).await.map_err(|error| error.to_string()),
                    None => Err("the manifest does not tell its object".to_owned()),
                };
                if let Err(error) = read {
                    let how = format_args!("range {range:?} of {stream} cannot be read: {error}");
                    self.history.violated("I2", how);
                }
            }
        }
    }

    /// Every record of a range, each a message that was published there (I9).
    async fn read(&mut self, part: &ColdPart) -> Result<(), ColdReadError> {
        let mut next = part.range.base;
        while next < part.range.end() {
            for batch in self.reader.fetch(part, next).await?.batches(next, part.range.end()) {
                let batch = batch?;
                for (at, record) in batch.batch.records().enumerate() {
                    let offset = batch.base.plus(at as u64);
                    self.history.follows("I7", part.stream, &mut next, offset);
                    let (said, by) = (record.into(), "the bucket's reader");
                    let id = self.history.read(part.stream, offset, batch.ts, &said, by);
                    self.messages.extend(id);
                }
            }
        }
        Ok(())
    }
}

/// Whether it is the key of an object with records.
fn is_data(key: &str) -> bool {
    matches!(key.parse(), Ok(Key::Segment(_) | Key::Bundle(_)))
}

/// No object has become another one, or is gone that a manifest names. How many others are gone.
pub(super) fn check_objects(
    history: &History,
    named: &BTreeSet<String>,
    known: &Objects,
    now: &Objects,
) -> u64 {
    let mut gone = 0;
    for (key, known) in known {
        match now.get(key) {
            None if is_data(key) && !named.contains(key) => gone += 1,
            None => history.violated("I3", format_args!("object {key} is gone")),
            Some(found) if found != known => {
                history.violated("I4", format_args!("object {key} was overwritten"));
            }
            Some(_) => {}
        }
    }
    gone
}

/// The ranges that a manifest tells besides those `known`: it tells those too, and what is new goes on
/// where they end.
pub(super) fn fresh_ranges<'r>(
    history: &History,
    stream: StreamUid,
    known: &[ColdRange],
    told: &'r [ColdRange],
) -> &'r [ColdRange] {
    let Some(fresh) = told.strip_prefix(known) else {
        let how = format_args!("committed ranges of stream {stream} have changed");
        history.violated("I3", how);
        return &[];
    };
    let mut end = known.last().map_or(Offset(0), ColdRange::end);
    for range in fresh {
        if range.base != end {
            let base = range.base;
            history.violated("I1", format_args!("{stream} goes on at {base}, not at {end}"));
        }
        end = range.end();
    }
    fresh
}
