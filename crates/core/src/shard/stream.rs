//! One persistent stream as its shard knows it.

use std::collections::VecDeque;
use std::collections::btree_map::Entry;

use bytes::BytesMut;
use railgun_types::limits::TOMBSTONES_PER_SHARD;
use railgun_types::{
    EntryId, Offset, SpecPatch, StreamKind, StreamName, StreamSpec, StreamUid, Timestamp, crc32c,
};

use super::ensure::{EnsureRefused, Ensured, Revisions, Wish};
use super::offload::{Floor, HotRange, RANGE_BYTES_MAX, RANGE_RECORDS_MAX};
use super::{HotIndex, IndexPoint, ShardState, Waiting};
use crate::codec;
use crate::command::EnsureStream;
use crate::manifest::StreamManifest;

/// See the module. A deleted stream stays as a tombstone for a while: whoever comes late must not make
/// it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub(super) name: StreamName,
    pub(super) spec: StreamSpec,
    pub(super) revisions: Revisions,
    pub(super) created: Timestamp,
    pub(super) deleted: bool,
    pub(super) next: Offset,
    pub(super) last_ts: Timestamp,
    pub(super) record_bytes: u64,
    pub(super) index: HotIndex,
    pub(super) open: Option<HotRange>,
    pub(super) closed: Vec<HotRange>,
    /// The stream whose dead letters it holds (DL-5).
    pub(super) parent: Option<StreamUid>,
}

impl Stream {
    /// The name it was created under.
    #[must_use]
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// Its effective settings.
    #[must_use]
    pub fn spec(&self) -> &StreamSpec {
        &self.spec
    }

    /// Raised by each change of the settings; from 1.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revisions.current
    }

    /// Log time of its creation.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// The offset its next record gets.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// Log time of its last record, or of its deletion; 0 before the first.
    #[must_use]
    pub fn last_ts(&self) -> Timestamp {
        self.last_ts
    }

    /// Encoded bytes of all its records, both tiers.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// Its batches in the log.
    #[must_use]
    pub fn index(&self) -> &HotIndex {
        &self.index
    }

    /// The stream whose dead letters it holds, if it is a companion (DL-5).
    #[must_use]
    pub fn parent(&self) -> Option<StreamUid> {
        self.parent
    }

    /// The range that takes the next record.
    #[must_use]
    pub fn open(&self) -> Option<&HotRange> {
        self.open.as_ref()
    }

    /// Closed ranges that no seal has planned yet.
    #[must_use]
    pub fn closed(&self) -> &[HotRange] {
        &self.closed
    }

    /// The tombstone of a stream that was deleted before it was made. It has no name, so none can
    /// be said; nobody asks a tombstone for it.
    fn unborn(at: Timestamp) -> Self {
        let name = StreamName::new("deleted").expect("a valid name");
        let spec = SpecPatch::default().over_defaults();
        Self { deleted: true, last_ts: at, ..Self::new(name, spec, at) }
    }

    /// A stream without records.
    pub(super) fn new(name: StreamName, spec: StreamSpec, created: Timestamp) -> Self {
        Self {
            name,
            spec,
            revisions: Revisions::new(),
            created,
            deleted: false,
            next: Offset(0),
            last_ts: Timestamp(0),
            record_bytes: 0,
            index: HotIndex::default(),
            open: None,
            closed: Vec::new(),
            parent: None,
        }
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted
    }

    pub(super) fn trim_index_below(&mut self, log_index: u64) {
        self.index.trim_below(log_index);
    }

    /// Appends the runs of one batch, if there are any. A range never crosses a UTC day and is closed when
    /// it is full, by apply itself, so that all replicas cut alike (DESIGN §3 "Ranges"), and never within a
    /// batch. Ids count for that, as an object holds them too.
    pub(super) fn append(
        &mut self,
        runs: impl Iterator<Item = IndexPoint>,
        bytes: u64,
        id_bytes: u64,
        floor: &mut Floor,
        waiting: &mut Waiting,
    ) {
        let mut runs = runs.peekable();
        let Some(&IndexPoint { ts, log_index, base, .. }) = runs.peek() else { return };
        let day = ts.utc_day();
        if self.open.as_ref().is_some_and(|open| open.day != day) {
            self.close(waiting);
        }
        for run in runs {
            self.next = run.end();
            self.index.push(run);
        }
        let open = self.open.get_or_insert_with(|| {
            floor.hold(log_index);
            HotRange {
                base,
                end: base,
                record_bytes: 0,
                day,
                since: ts,
                first_log_index: log_index,
            }
        });
        open.end = self.next;
        open.record_bytes += bytes + id_bytes;
        waiting.open += bytes + id_bytes;
        self.last_ts = ts;
        self.record_bytes += bytes;
        let is_full = |open: &HotRange| {
            open.record_bytes >= RANGE_BYTES_MAX || open.records() >= RANGE_RECORDS_MAX
        };
        if self.open.as_ref().is_some_and(is_full) {
            self.close(waiting);
        }
    }

    /// Closes the open range, if there is one.
    pub(super) fn close(&mut self, waiting: &mut Waiting) {
        if let Some(range) = self.open.take() {
            waiting.open -= range.record_bytes;
            waiting.closed += range.record_bytes;
            self.closed.push(range);
        }
    }

    pub(super) fn take_closed(&mut self, waiting: &mut Waiting) -> Vec<HotRange> {
        let ranges = std::mem::take(&mut self.closed);
        let bytes: u64 = ranges.iter().map(|range| range.record_bytes).sum();
        waiting.closed -= bytes;
        waiting.planned += bytes;
        ranges
    }
}

impl From<&EnsureStream> for Wish {
    fn from(ensure: &EnsureStream) -> Self {
        let EnsureStream { patch, mode, if_revision, allow_destructive, request, .. } = ensure;
        let mut bytes = BytesMut::new();
        codec::put_patch(&mut bytes, patch);
        Self {
            mode: *mode,
            if_revision: *if_revision,
            allow_destructive: *allow_destructive,
            request: *request,
            sum: crc32c(&bytes),
        }
    }
}

impl ShardState {
    pub(super) fn ensure(
        &mut self,
        at: EntryId,
        ensure: &EnsureStream,
    ) -> Result<Ensured, EnsureRefused> {
        if let Some(as_is) = self.ensured_as_is(ensure) {
            return as_is;
        }
        let Some(stream) = self.streams.get_mut(&ensure.stream) else {
            return self.create(at, ensure);
        };
        let diff = ensure.patch.diff(&stream.spec);
        // What the window that was has forgotten, a longer one does not bring back (DD-6).
        self.dedup.expire(ensure.stream, self.log_time, &stream.spec.dedup);
        ensure.patch.apply_to(&mut stream.spec);
        if !stream.spec.dedup.is_on() {
            self.dedup.forget(ensure.stream);
        }
        Ok(stream.revisions.update(&ensure.into(), diff))
    }

    /// What it leads to, if the stream is here and stays as it is.
    pub(super) fn ensured_as_is(
        &self,
        ensure: &EnsureStream,
    ) -> Option<Result<Ensured, EnsureRefused>> {
        let stream = self.streams.get(&ensure.stream)?;
        if stream.deleted {
            return Some(Err(EnsureRefused::Deleted));
        }
        stream.revisions.as_is(&ensure.into(), || ensure.patch.diff(&stream.spec))
    }

    fn create(&mut self, at: EntryId, ensure: &EnsureStream) -> Result<Ensured, EnsureRefused> {
        // Its tombstone may be forgotten; the manifest knows it for as long as the bucket does.
        if self.manifest.streams.contains_key(&ensure.stream) {
            return Err(EnsureRefused::Deleted);
        }
        let spec = ensure.patch.over_defaults();
        if spec.kind != StreamKind::Persistent {
            return Err(EnsureRefused::Kind);
        }
        let mut stream = Stream::new(ensure.name.clone(), spec, self.log_time);
        stream.revisions.note(&ensure.into(), None);
        self.place(at, ensure.stream, stream);
        Ok(Ensured::Created)
    }

    /// Takes a new stream in.
    pub(super) fn place(&mut self, at: EntryId, uid: StreamUid, stream: Stream) {
        let manifest = StreamManifest {
            name: stream.name.clone(),
            created: stream.created,
            deleted: false,
            ranges: Vec::new(),
            digest: [0; 32],
        };
        self.streams.insert(uid, stream);
        self.manifest.streams.insert(uid, manifest);
        self.manifest_log.stream_changed(uid, 0, at.index);
    }

    /// Leaves a tombstone, also of a stream that was never here: its creator may be on the way, and
    /// what it made would have no name. What was not offloaded is gone and no longer holds the floor.
    pub(super) fn delete(&mut self, at: EntryId, uid: StreamUid) -> bool {
        let stream = match self.streams.entry(uid) {
            Entry::Occupied(stream) => stream.into_mut(),
            Entry::Vacant(_) if self.manifest.streams.contains_key(&uid) => return false,
            Entry::Vacant(place) => {
                place.insert(Stream::unborn(self.log_time));
                self.bury(at, uid);
                return false;
            }
        };
        if stream.deleted {
            return false;
        }
        stream.deleted = true;
        stream.revisions.changes = VecDeque::new();
        let parent = stream.parent;
        stream.last_ts = self.log_time;
        stream.index = HotIndex::default();
        if let Some(open) = stream.open.take() {
            self.waiting.open -= open.record_bytes;
            self.floor.release(open.first_log_index);
        }
        for range in std::mem::take(&mut stream.closed) {
            self.waiting.closed -= range.record_bytes;
            self.floor.release(range.first_log_index);
        }
        let name = stream.name.clone();
        let mut over = Vec::new();
        self.plans.retain(|&object, plan| {
            let is_over = plan.ranges.iter().all(|planned| planned.stream == uid);
            over.extend(plan.attempt.filter(|_| is_over).map(|it| (object, plan.info(it, 0, 0))));
            plan.ranges.retain(|planned| {
                let dropped = planned.stream == uid;
                if dropped {
                    self.waiting.planned -= planned.range.record_bytes;
                    self.floor.release(planned.range.first_log_index);
                }
                !dropped
            });
            !plan.ranges.is_empty()
        });
        for (object, info) in over {
            self.orphan(at, object, info, name.clone());
        }
        self.producers.release_stream(uid);
        self.dedup.forget(uid);
        if let Some(manifest) = self.manifest.streams.get_mut(&uid) {
            manifest.deleted = true;
            self.manifest_log.stream_changed(uid, manifest.ranges.len() as u64, at.index);
        }
        self.bury(at, uid);
        self.delete_groups(at, uid, parent);
        true
    }

    /// Notes a new tombstone, and forgets the oldest where there are too many: nobody is that late.
    /// The manifest goes on to tell what the bucket holds of the stream, if it holds anything.
    fn bury(&mut self, at: EntryId, uid: StreamUid) {
        self.tombstones.insert((self.log_time, uid));
        if self.tombstones.len() <= TOMBSTONES_PER_SHARD {
            return;
        }
        let Some((_, oldest)) = self.tombstones.pop_first() else { return };
        self.streams.remove(&oldest);
        if self.manifest.streams.get(&oldest).is_some_and(|manifest| manifest.ranges.is_empty()) {
            self.manifest.streams.remove(&oldest);
            self.manifest_log.stream_changed(oldest, 0, at.index);
        }
    }
}
