//! A shard's consumer groups, and the streams that hold their dead letters.

use std::collections::BTreeMap;

use bytes::BytesMut;
use railgun_types::limits::{GROUPS_PER_SHARD, MESSAGE_BYTES_HARD};
use railgun_types::{
    ChangeClass, DlqSpec, EnsureMode, EntryId, FieldDiff, GroupId, GroupName, GroupPatch,
    GroupSpec, Offset, StreamName, StreamSpec, StreamUid, Timestamp, crc32c,
};
use sha2::{Digest, Sha256};

use super::ensure::{EnsureRefused, Ensured, Revisions, Wish};
use super::{AppendRefusal, Appended, IndexPoint, ShardState, Stream};
use crate::codec;
use crate::command::{Append, DeadLetterOf, EnsureGroup, ExpectedNext, GroupChanges, GroupStart};
use crate::group::{ChangeOutcome, ChangeRefused, Context, GroupState};

/// One consumer group as its shard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub(super) id: GroupId,
    pub(super) stream: StreamUid,
    pub(super) name: GroupName,
    pub(super) spec: GroupSpec,
    pub(super) revisions: Revisions,
    pub(super) created: Timestamp,
    pub(super) state: GroupState,
}

impl Group {
    /// Which life of the group it is.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The stream that it consumes.
    #[must_use]
    pub fn stream(&self) -> StreamUid {
        self.stream
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &GroupName {
        &self.name
    }

    /// Its effective settings.
    #[must_use]
    pub fn spec(&self) -> &GroupSpec {
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

    /// What is known of its messages.
    #[must_use]
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// The stream that holds its dead letters, which is there from the first one on (DL-5).
    #[must_use]
    pub fn companion(&self) -> StreamUid {
        let mut hash = Sha256::new();
        hash.update(self.stream.0);
        hash.update(self.id.0.to_le_bytes());
        hash.update(self.name.as_str());
        let hash: [u8; 32] = hash.finalize().into();
        StreamUid(std::array::from_fn(|byte| hash[byte]))
    }

    /// How a wish differs from what is. A change of the mode loses something only where members may have
    /// messages, or some wait: with what is settled it goes on.
    fn diff(&self, patch: &GroupPatch, next: Offset) -> Vec<FieldDiff> {
        let mut diff = patch.diff(&self.spec);
        let handed_out = next.min(self.state.leased_upto());
        let is_at_rest =
            self.state.lag(handed_out) == 0 && self.state.unsettled_held().total() == 0;
        if is_at_rest {
            diff.iter_mut().for_each(|field| field.class = ChangeClass::Live);
        }
        diff
    }
}

impl From<&EnsureGroup> for Wish {
    fn from(ensure: &EnsureGroup) -> Self {
        let EnsureGroup { patch, mode, if_revision, allow_destructive, request, .. } = ensure;
        let mut bytes = BytesMut::new();
        codec::put_group_patch(&mut bytes, patch);
        Self {
            mode: *mode,
            if_revision: *if_revision,
            allow_destructive: *allow_destructive,
            request: *request,
            sum: crc32c(&bytes),
        }
    }
}

/// Where a new group of a stream that ends with `next` begins. A stream has all its records yet.
fn start_of(start: GroupStart, next: Offset) -> Offset {
    match start {
        GroupStart::Earliest => Offset(0),
        GroupStart::Latest => next,
        GroupStart::Offset(offset) => offset.min(next),
        GroupStart::Last(count) => Offset(next.0.saturating_sub(count)),
    }
}

impl ShardState {
    pub(super) fn ensure_group(
        &mut self,
        at: EntryId,
        ensure: &EnsureGroup,
    ) -> Result<Ensured, EnsureRefused> {
        if let Some(as_is) = self.group_ensured_as_is(ensure) {
            return as_is;
        }
        let Some(stream) = self.streams.get(&ensure.stream) else {
            return Err(EnsureRefused::StreamNotFound);
        };
        let names = self.group_names.entry(ensure.stream).or_default();
        if let Some(group) = names.get(&ensure.group).and_then(|id| self.groups.get_mut(id)) {
            let diff = group.diff(&ensure.patch, stream.next);
            let mode = group.spec.mode;
            ensure.patch.apply_to(&mut group.spec);
            if group.spec.mode != mode {
                group.state.begin_epoch();
            }
            return Ok(group.revisions.update(&ensure.into(), diff));
        }
        let mut spec = ensure.patch.over_defaults(&stream.spec.dlq);
        spec.dlq.enabled &= stream.parent.is_none();
        let mut revisions = Revisions::new();
        revisions.note(&ensure.into(), None);
        let id = GroupId(at.index);
        let mut state = GroupState::new(start_of(ensure.start, stream.next));
        state.plant(self.planted);
        let group = Group {
            id,
            stream: ensure.stream,
            name: ensure.group.clone(),
            spec,
            revisions,
            created: self.log_time,
            state,
        };
        self.groups.insert(id, group);
        names.insert(ensure.group.clone(), id);
        Ok(Ensured::Created)
    }

    /// What it leads to, if no group is made or changed by it.
    pub(super) fn group_ensured_as_is(
        &self,
        ensure: &EnsureGroup,
    ) -> Option<Result<Ensured, EnsureRefused>> {
        let Some(stream) = self.streams.get(&ensure.stream) else {
            return Some(Err(EnsureRefused::StreamNotFound));
        };
        if stream.deleted {
            return Some(Err(EnsureRefused::Deleted));
        }
        // Dead letters have none themselves (DL-5): what is given up there waits for an operator.
        if stream.parent.is_some() && ensure.patch.dlq.enabled == Some(true) {
            let (path, actual) = ("dlq.enabled".to_owned(), false.to_string());
            return Some(Err(EnsureRefused::Immutable { path, actual }));
        }
        if let Some(group) = self.group_named(ensure.stream, &ensure.group) {
            let diff = || group.diff(&ensure.patch, stream.next);
            return group.revisions.as_is(&ensure.into(), diff);
        }
        if ensure.mode == EnsureMode::Check {
            return Some(Err(EnsureRefused::GroupNotFound));
        }
        if ensure.if_revision.is_some_and(|wanted| wanted != 0) {
            return Some(Err(EnsureRefused::Revision { actual: 0 }));
        }
        let count = self.groups.len();
        let is_full = count >= GROUPS_PER_SHARD;
        is_full.then_some(Err(EnsureRefused::TooManyGroups { count: count as u64 }))
    }

    /// Forgets a group. What it has given up stays in its companion.
    pub(super) fn delete_group(&mut self, stream: StreamUid, name: &GroupName) -> bool {
        let Some(names) = self.group_names.get_mut(&stream) else { return false };
        let removed = names.remove(name).and_then(|id| self.groups.remove(&id)).is_some();
        if names.is_empty() {
            self.group_names.remove(&stream);
        }
        removed
    }

    /// A stream was deleted: nobody consumes it any more, and its dead letters go with it.
    pub(super) fn delete_groups(&mut self, at: EntryId, uid: StreamUid, parent: Option<StreamUid>) {
        for id in self.group_names.remove(&uid).unwrap_or_default().into_values() {
            self.groups.remove(&id);
        }
        if let Some(parent) = parent {
            self.companions.remove(&(parent, uid));
        }
        let companions: Vec<_> = self.companions_of(uid).collect();
        for companion in companions {
            self.delete(at, companion);
        }
    }

    /// Whether a group still writes to this stream: it goes with the group's stream only.
    pub(super) fn is_written_by_group(&self, uid: StreamUid) -> bool {
        let written = || {
            let stream = self.stream(uid)?;
            let (_, name) = stream.name.split_companion()?;
            self.group_named(stream.parent?, &name)
        };
        written().is_some_and(|group| group.companion() == uid)
    }

    pub(super) fn change_groups(
        &mut self,
        at: EntryId,
        groups: &[GroupChanges],
    ) -> Vec<Vec<ChangeOutcome>> {
        let log_time = self.log_time;
        let mut of_group = |said: &GroupChanges| {
            let Some(group) = self.groups.get_mut(&said.group) else { return not_found(said) };
            let (said_in, term) = (said.term, at.term);
            let context = Context { spec: &group.spec, said_in, term, log_time };
            said.changes.iter().map(|change| group.state.apply(change, &context)).collect()
        };
        groups.iter().map(&mut of_group).collect()
    }

    /// What changes of groups lead to, if nothing changes by any of them.
    pub(super) fn groups_as_are(&self, groups: &[GroupChanges]) -> Option<Vec<Vec<ChangeOutcome>>> {
        let of_group = |said: &GroupChanges| match self.groups.get(&said.group) {
            None => Some(not_found(said)),
            Some(group) => {
                let is_idle = said.changes.iter().all(|change| group.state.is_idle(change));
                is_idle.then(|| vec![ChangeOutcome::Applied; said.changes.len()])
            }
        };
        groups.iter().map(of_group).collect()
    }

    /// Appends the dead letter of a message and marks that as dead, both or nothing (DL-3).
    pub(super) fn append_dead_letter(
        &mut self,
        at: EntryId,
        position: u32,
        item: &Append,
        of: DeadLetterOf,
    ) -> Result<Appended, AppendRefusal> {
        let group = self.groups.get(&of.group).filter(|group| {
            let is_letter = item.producer.is_none() && item.batch.count() == 1;
            is_letter
                && item.stream == group.companion()
                && group.state.is_dying(of.offset, of.generation)
        });
        let group = group.ok_or(AppendRefusal::NotDying)?;
        let next = match self.streams.get(&item.stream) {
            Some(companion) if companion.deleted => return Err(AppendRefusal::StreamDeleted),
            Some(companion) => companion.next,
            None => Offset(0),
        };
        // Its place is also its number (DL-4): a letter that is written late has another one.
        if item.expected_end != Some(ExpectedNext(next.0)) {
            return Err(AppendRefusal::ExpectedEnd { actual: next });
        }
        if !self.streams.contains_key(&item.stream) {
            let parent = self.streams.get(&group.stream).ok_or(AppendRefusal::StreamNotFound)?;
            let companion = companion_of(parent, group, self.log_time);
            self.companions.insert((group.stream, item.stream));
            self.place(at, item.stream, companion);
        }
        let (Some(companion), Some(group)) =
            (self.streams.get_mut(&item.stream), self.groups.get_mut(&of.group))
        else {
            return Err(AppendRefusal::StreamNotFound);
        };
        let (ts, log_index) = (self.log_time, at.index);
        let point = IndexPoint { base: next, skip: 0, count: 1, position, log_index, ts };
        let (bytes, id_bytes) = (item.batch.body_bytes() as u64, item.batch.id_bytes() as u64);
        companion.append([point].into_iter(), bytes, id_bytes, &mut self.floor, &mut self.waiting);
        group.state.bury(of.offset, of.generation);
        Ok(Appended { base: next, count: 1, ts, repeated: false, verdicts: None })
    }

    /// The group of this life, unless it is deleted.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id)
    }

    /// The group of this name.
    #[must_use]
    pub fn group_named(&self, stream: StreamUid, name: &GroupName) -> Option<&Group> {
        self.groups.get(self.group_names.get(&stream)?.get(name)?)
    }

    /// The groups of a stream, by name.
    pub fn groups_of(&self, stream: StreamUid) -> impl Iterator<Item = &Group> {
        let ids = self.group_names.get(&stream).into_iter().flat_map(BTreeMap::values);
        ids.filter_map(|id| self.groups.get(id))
    }

    /// Every group, by the age of its life.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The streams that hold the dead letters of a stream's groups, also of those that are deleted.
    pub fn companions_of(&self, stream: StreamUid) -> impl Iterator<Item = StreamUid> {
        let all = (stream, StreamUid([0; 16]))..=(stream, StreamUid([0xff; 16]));
        self.companions.range(all).map(|(_, companion)| *companion)
    }
}

fn not_found(said: &GroupChanges) -> Vec<ChangeOutcome> {
    vec![ChangeOutcome::Refused(ChangeRefused::GroupNotFound); said.changes.len()]
}

/// The stream of a group's dead letters, before the first one (DL-5).
fn companion_of(parent: &Stream, group: &Group, created: Timestamp) -> Stream {
    let spec = StreamSpec {
        // A message of any size can become one.
        max_message_bytes: MESSAGE_BYTES_HARD as u32,
        owner: parent.spec.owner.clone(),
        dlq: DlqSpec { enabled: false, ..DlqSpec::default() },
        ..StreamSpec::default()
    };
    let name = StreamName::companion(&parent.name, &group.name);
    Stream { parent: Some(group.stream), ..Stream::new(name, spec, created) }
}
