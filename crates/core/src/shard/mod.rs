//! The replicated state of one data shard and the only place that changes it: `apply`.
//!
//! Inputs: committed entries in log order. Output: one [`Outcome`] each, for whoever proposed it.
//! Everything here is a pure function of the entries: equal on all replicas.

mod append;
mod checkpoint;
mod dedup;
mod ensure;
mod groups;
mod hot_index;
mod manifest_log;
mod offload;
mod orphans;
mod outcome;
mod producers;
mod seal;
mod stream;

use std::collections::{BTreeMap, BTreeSet};

use railgun_types::{ClusterUid, EntryId, GroupId, GroupName, ShardId, StreamUid, Timestamp};

pub use append::{AppendRefusal, Appended, Duplicate, Verdicts};
pub use checkpoint::Restored;
pub use dedup::DedupFigures;
pub use ensure::{EnsureRefused, Ensured};
pub use groups::Group;
pub use hot_index::{HotIndex, InLog, IndexPoint};
pub use offload::{
    Attempt, BUNDLE_RANGES_MAX, HotRange, PlannedObject, PlannedRange, RANGE_BYTES_MAX,
    RANGE_RECORDS_MAX, SEGMENT_BYTES_MIN,
};
pub use orphans::{ORPHANS_MAX, Orphan};
pub use seal::CommitRefused;
pub use stream::Stream;

use crate::builtin_bug::{BuiltinBug, Planted};
use crate::command::{Command, CommandBody, GroupCommand, SegmentCommand, StreamCommand};
use crate::group::ChangeOutcome;
use crate::manifest::{ObjectId, ShardManifest};
use dedup::Dedup;
use manifest_log::ManifestLog;
use offload::Floor;
use producers::Producers;

/// What an entry led to, for its proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One result per batch, in order.
    Appended(Vec<Result<Appended, AppendRefusal>>),
    /// See [`Ensured`].
    Ensured(Result<Ensured, EnsureRefused>),
    /// The stream is deleted; `false`: it never was, or was deleted before.
    Deleted(bool),
    /// The producer is forgotten.
    Released,
    /// Planned objects of this seal; none if nothing waited.
    Sealed {
        /// How many.
        objects: usize,
    },
    /// The attempt by which the object may be uploaded from here on; `None`: nothing is to be.
    Attempted(Option<u64>),
    /// The object counts as part of the cold tier from here on, or why not.
    Committed(Result<(), CommitRefused>),
    /// The manifest version is noted.
    Mirrored,
    /// The orphans are forgotten.
    Collected,
    /// As [`Self::Ensured`], of a group.
    GroupEnsured(Result<Ensured, EnsureRefused>),
    /// The group is deleted; `false`: it was not there.
    GroupDeleted(bool),
    /// One list for each group that something was said of, of one outcome for each change.
    GroupsChanged(Vec<Vec<ChangeOutcome>>),
    /// Log time has passed.
    Ticked,
    /// An entry for another kind of shard: nothing changed.
    Foreign,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    log_time: Timestamp,
    applied: Option<EntryId>,
    streams: BTreeMap<StreamUid, Stream>,
    /// The deleted ones among them by the log time of their deletion.
    tombstones: BTreeSet<(Timestamp, StreamUid)>,
    producers: Producers,
    groups: BTreeMap<GroupId, Group>,
    /// Those that are not deleted, by their streams and names.
    group_names: BTreeMap<StreamUid, BTreeMap<GroupName, GroupId>>,
    /// Streams that are not deleted and hold dead letters, behind those that these are of.
    companions: BTreeSet<(StreamUid, StreamUid)>,
    dedup: Dedup,
    manifest: ShardManifest,
    manifest_log: ManifestLog,
    plans: BTreeMap<ObjectId, PlannedObject>,
    /// By the attempt.
    orphans: BTreeMap<u64, Orphan>,
    floor: Floor,
    waiting: Waiting,
    segment_bytes_min: u64,
    planted: Planted,
}

/// Bytes of records and their ids that are not in the bucket yet, by how far they got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// In open ranges.
    pub open: u64,
    /// In closed ranges that no seal has planned yet.
    pub closed: u64,
    /// In planned objects.
    pub planned: u64,
}

impl ShardState {
    /// A shard before its first entry.
    #[must_use]
    pub fn new(cluster: ClusterUid, shard: ShardId) -> Self {
        Self {
            log_time: Timestamp::default(),
            applied: None,
            streams: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            producers: Producers::default(),
            groups: BTreeMap::new(),
            group_names: BTreeMap::new(),
            companions: BTreeSet::new(),
            dedup: Dedup::default(),
            manifest: ShardManifest {
                cluster,
                shard,
                streams: BTreeMap::new(),
                objects: BTreeMap::new(),
            },
            manifest_log: ManifestLog::default(),
            plans: BTreeMap::new(),
            orphans: BTreeMap::new(),
            floor: Floor::default(),
            waiting: Waiting::default(),
            segment_bytes_min: SEGMENT_BYTES_MIN,
            planted: Planted::default(),
        }
    }

    /// The same with another least size of a segment, in record bytes, than [`SEGMENT_BYTES_MIN`].
    /// Apply decides by it: it must be the same on all replicas, and after every restart.
    #[must_use]
    pub fn with_segment_bytes_min(mut self, bytes: u64) -> Self {
        self.segment_bytes_min = bytes;
        self
    }

    /// The same, just made or restored, with a bug, or none.
    #[must_use]
    pub fn with_planted(mut self, planted: Planted) -> Self {
        self.planted = planted;
        if planted.is(BuiltinBug::SliceMissing) {
            self.dedup.lose_newest();
        }
        self.groups.values_mut().for_each(|group| group.state.plant(planted));
        self
    }

    /// Waiting record bytes from which a stream gets segments of its own.
    #[must_use]
    pub fn segment_bytes_min(&self) -> u64 {
        self.segment_bytes_min
    }

    /// Applies a committed command. Entries without a command (a new leader's first, membership) are
    /// told by [`Self::skip`].
    pub fn apply(&mut self, at: EntryId, command: &Command) -> Outcome {
        self.skip(at);
        let before = self.log_time;
        self.log_time = before.max(command.ts);
        self.dedup.pass(before, self.log_time, &self.streams);
        match &command.body {
            CommandBody::Append(items) => self.append(at, items),
            CommandBody::Stream(StreamCommand::Ensure(ensure)) => {
                Outcome::Ensured(self.ensure(at, ensure))
            }
            CommandBody::Stream(StreamCommand::Delete { stream }) => {
                Outcome::Deleted(!self.is_written_by_group(*stream) && self.delete(at, *stream))
            }
            CommandBody::Stream(StreamCommand::ReleaseProducer { producer, epoch, streams }) => {
                for stream in streams {
                    self.producers.release(*stream, *producer, *epoch);
                }
                Outcome::Released
            }
            CommandBody::Segment(SegmentCommand::Seal(scope)) => {
                Outcome::Sealed { objects: self.seal(at, *scope) }
            }
            CommandBody::Segment(SegmentCommand::Attempt(attempt)) => {
                Outcome::Attempted(self.attempt(at, *attempt))
            }
            CommandBody::Segment(SegmentCommand::Commit(commit)) => {
                Outcome::Committed(self.commit(at, commit))
            }
            CommandBody::Segment(SegmentCommand::Mirrored(version)) => {
                self.manifest_log.mirrored(*version);
                self.floor.mirrored(*version);
                Outcome::Mirrored
            }
            CommandBody::Segment(SegmentCommand::Collected(attempts)) => {
                attempts.iter().for_each(|attempt| drop(self.orphans.remove(attempt)));
                Outcome::Collected
            }
            CommandBody::Tick => Outcome::Ticked,
            CommandBody::Group(GroupCommand::Ensure(ensure)) => {
                Outcome::GroupEnsured(self.ensure_group(at, ensure))
            }
            CommandBody::Group(GroupCommand::Delete { stream, group }) => {
                Outcome::GroupDeleted(self.delete_group(*stream, group))
            }
            CommandBody::Group(GroupCommand::Changes(groups)) => {
                Outcome::GroupsChanged(self.change_groups(at, groups))
            }
            CommandBody::Catalog(_) => Outcome::Foreign,
        }
    }

    /// Leaves out of a command what would change nothing as the state is. The outcome, if nothing is
    /// left of it: it needs no entry.
    pub fn prune(&self, body: &mut CommandBody) -> Option<Outcome> {
        match body {
            CommandBody::Stream(StreamCommand::Ensure(ensure)) => {
                self.ensured_as_is(ensure).map(Outcome::Ensured)
            }
            CommandBody::Stream(StreamCommand::Delete { stream }) => {
                let is_not = self.is_deleted(*stream) || self.is_written_by_group(*stream);
                is_not.then_some(Outcome::Deleted(false))
            }
            CommandBody::Stream(StreamCommand::ReleaseProducer { producer, epoch, streams }) => {
                streams.retain(|stream| self.producers.knows(*stream, *producer, *epoch));
                streams.is_empty().then_some(Outcome::Released)
            }
            CommandBody::Segment(SegmentCommand::Seal(scope)) => {
                (!self.seals_anything(*scope)).then_some(Outcome::Sealed { objects: 0 })
            }
            CommandBody::Segment(SegmentCommand::Collected(attempts)) => {
                attempts.retain(|attempt| self.orphans.contains_key(attempt));
                attempts.is_empty().then_some(Outcome::Collected)
            }
            CommandBody::Group(GroupCommand::Ensure(ensure)) => {
                self.group_ensured_as_is(ensure).map(Outcome::GroupEnsured)
            }
            CommandBody::Group(GroupCommand::Delete { stream, group }) => {
                let is_absent = self.group_named(*stream, group).is_none();
                is_absent.then_some(Outcome::GroupDeleted(false))
            }
            CommandBody::Group(GroupCommand::Changes(groups)) => {
                self.groups_as_are(groups).map(Outcome::GroupsChanged)
            }
            _ => None,
        }
    }

    /// Notes an entry that carries no command.
    pub fn skip(&mut self, at: EntryId) {
        debug_assert!(self.applied.is_none_or(|applied| applied.index < at.index));
        self.applied = Some(at);
    }

    /// The log file holding entries below `log_index` is gone.
    pub fn trim_index_below(&mut self, log_index: u64) {
        self.streams.values_mut().for_each(|stream| stream.trim_index_below(log_index));
    }

    /// The stream, unless it never was or is deleted.
    #[must_use]
    pub fn stream(&self, uid: StreamUid) -> Option<&Stream> {
        self.streams.get(&uid).filter(|stream| !stream.is_deleted())
    }

    /// Whether the shard holds the tombstone of this stream.
    #[must_use]
    pub fn is_deleted(&self, uid: StreamUid) -> bool {
        self.streams.get(&uid).is_some_and(Stream::is_deleted)
    }

    /// Streams that are not deleted, by uid.
    pub fn streams(&self) -> impl Iterator<Item = (StreamUid, &Stream)> {
        self.streams.iter().filter(|(_, s)| !s.is_deleted()).map(|(uid, s)| (*uid, s))
    }

    /// Streams and tombstones.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Log time of the last entry.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Option<EntryId> {
        self.applied
    }

    /// The greatest log index at and below which every record is committed, verified and mirrored
    /// (DESIGN §1.3). `None` while even the first entry is needed.
    #[must_use]
    pub fn floor(&self) -> Option<u64> {
        self.floor.index(self.applied?.index)
    }

    /// What lies in object storage.
    #[must_use]
    pub fn manifest(&self) -> &ShardManifest {
        &self.manifest
    }

    /// Objects to be uploaded, in the order in which they must be committed.
    #[must_use]
    pub fn plans(&self) -> &BTreeMap<ObjectId, PlannedObject> {
        &self.plans
    }

    /// Whether every record is in the bucket, and a manifest there says so.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.waiting == Waiting::default() && !self.floor.awaits_mirror()
    }

    /// Whether committed objects wait for a manifest that names them.
    #[must_use]
    pub fn awaits_mirror(&self) -> bool {
        self.floor.awaits_mirror()
    }

    /// Bytes of records and their ids that are not in the bucket yet.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Log time of the oldest record that no seal has planned yet.
    #[must_use]
    pub fn oldest_unsealed(&self) -> Option<Timestamp> {
        // A stream's closed ranges are older than its open one.
        let oldest = |stream: &Stream| Some(stream.closed().first().or(stream.open())?.since);
        self.streams.values().filter_map(oldest).min()
    }

    /// What the stream's ID time box holds.
    #[must_use]
    pub fn dedup_figures(&self, uid: StreamUid) -> DedupFigures {
        let Some(stream) = self.stream(uid) else { return DedupFigures::default() };
        self.dedup.figures(uid, self.log_time, &stream.spec.dedup)
    }

    /// Message ids that all streams hold.
    #[must_use]
    pub fn ids_held(&self) -> u64 {
        self.dedup.held
    }

    /// The least part that is left of the ID time box of a stream; 1 where no id was forgotten before its time
    /// (DD-5).
    #[must_use]
    pub fn ids_window(&self) -> f64 {
        self.dedup.least_window(self.log_time, &self.streams)
    }

    /// Producers known.
    #[must_use]
    pub fn producers(&self) -> usize {
        self.producers.len()
    }
}

#[cfg(test)]
mod tests;
