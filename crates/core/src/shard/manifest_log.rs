//! Which parts of the manifest the bucket does not have yet: what the next mirror must write.

use std::collections::BTreeMap;

use railgun_types::{Offset, StreamUid};

use super::ShardState;
use crate::manifest::{ManifestFile, ManifestVersion, ObjectId, StreamChange, StreamManifest};

/// Manifest files that extend another before a full one is due.
const DELTAS_MAX: u32 = 63;

/// See the module. Replicated, so that any leader goes on with the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ManifestLog {
    pub(super) newest: Option<ManifestVersion>,
    pub(super) deltas: u32,
    pub(super) streams: BTreeMap<StreamUid, StreamDirt>,
    /// Objects with the index of their last change.
    pub(super) objects: BTreeMap<ObjectId, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamDirt {
    /// Ranges that the newest mirror has at least.
    pub(super) kept: u64,
    pub(super) changed_at: u64,
}

impl ManifestLog {
    /// A stream of which `kept` ranges were there before the change.
    pub(super) fn stream_changed(&mut self, stream: StreamUid, kept: u64, index: u64) {
        self.streams.entry(stream).or_insert(StreamDirt { kept, changed_at: index }).changed_at =
            index;
    }

    pub(super) fn object_changed(&mut self, object: ObjectId, index: u64) {
        self.objects.insert(object, index);
    }

    pub(super) fn mirrored(&mut self, version: ManifestVersion) {
        if self.newest.is_some_and(|newest| newest >= version) {
            return;
        }
        self.deltas = if self.is_full_due() { 0 } else { self.deltas + 1 };
        self.newest = Some(version);
        self.streams.retain(|_, dirt| dirt.changed_at > version.log_index);
        self.objects.retain(|_, changed_at| *changed_at > version.log_index);
    }

    fn is_stream_dirty(&self, stream: StreamUid) -> bool {
        self.streams.contains_key(&stream)
    }

    fn is_full_due(&self) -> bool {
        self.newest.is_none() || self.deltas >= DELTAS_MAX
    }

    fn is_dirty(&self) -> bool {
        !self.streams.is_empty() || !self.objects.is_empty()
    }
}

impl ShardState {
    /// The manifest file that the bucket lacks: a pure function of the applied state. `None` if the
    /// newest one there says everything.
    #[must_use]
    pub fn manifest_file(&self) -> Option<ManifestFile> {
        let applied = self.applied?;
        if !self.manifest_log.is_dirty() && !self.floor.awaits_mirror() {
            return None;
        }
        let version = ManifestVersion { log_index: applied.index, term: applied.term };
        let log = &self.manifest_log;
        let Some(extends) = log.newest.filter(|_| !log.is_full_due()) else {
            return Some(ManifestFile::full(version, &self.manifest));
        };
        let change = |(stream, dirt): (&StreamUid, &StreamDirt)| {
            let manifest = self.manifest.streams.get(stream)?;
            let kept = (dirt.kept as usize).min(manifest.ranges.len());
            let ranges = manifest.ranges[kept..].to_vec();
            let changed = StreamManifest { ranges, ..manifest.without_ranges() };
            Some((*stream, StreamChange { stream: changed, kept: dirt.kept }))
        };
        let is_gone = |stream: &&StreamUid| !self.manifest.streams.contains_key(*stream);
        let known = |id: &ObjectId| Some((*id, self.manifest.objects.get(id)?.clone()));
        Some(ManifestFile {
            cluster: self.manifest.cluster,
            shard: self.manifest.shard,
            version,
            extends: Some(extends),
            streams: log.streams.iter().filter_map(change).collect(),
            objects: log.objects.keys().filter_map(known).collect(),
            removed_objects: Vec::new(),
            removed_streams: log.streams.keys().filter(is_gone).copied().collect(),
        })
    }

    /// Whether every record of the stream before `end` is in the bucket, and a manifest there says so.
    #[must_use]
    pub fn is_mirrored(&self, stream: StreamUid, end: Offset) -> bool {
        let committed = self.manifest.streams.get(&stream).map(StreamManifest::end);
        committed >= Some(end) && !self.manifest_log.is_stream_dirty(stream)
    }

    /// The newest manifest version known to be in the bucket.
    #[must_use]
    pub fn mirrored(&self) -> Option<ManifestVersion> {
        self.manifest_log.newest
    }
}
