//! Seal and commit: planning objects and taking them into the manifest (DESIGN §4.8).

use railgun_types::{EntryId, Offset, StreamUid};

use super::manifest_log::ManifestLog;
use super::offload::{Attempt, PlannedRange, Planner};
use super::{ShardState, Stream};
use crate::builtin_bug::BuiltinBug;
use crate::command::{CommittedPart, ObjectCommit, SealScope};
use crate::manifest::{ColdRange, ObjectId, ShardManifest};

/// Why an uploaded object was not taken into the manifest. Its plan stays, if there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitRefused {
    /// No plan asks for this object, or it is committed already (I5).
    #[error("no plan asks for object {}.{}", .object.seal_index, .object.part)]
    NotPlanned {
        /// The object.
        object: ObjectId,
    },
    /// The plan is uploaded by another attempt by now (I5).
    #[error("object {}.{} is not uploaded by attempt {attempt} any more", .object.seal_index, .object.part)]
    OtherAttempt {
        /// The object.
        object: ObjectId,
        /// The attempt that is over.
        attempt: u64,
    },
    /// A planned range is missing or has other records.
    #[error("the object's part of stream {stream} is not the planned range")]
    OtherRange {
        /// The stream.
        stream: StreamUid,
    },
    /// The range does not continue what is committed: it would leave a hole or an overlap (I1).
    #[error("stream {stream} is committed up to {committed}, and the object begins at {base}")]
    NotContiguous {
        /// The stream.
        stream: StreamUid,
        /// The offset the next range must begin at.
        committed: Offset,
        /// The offset this one begins at.
        base: Offset,
    },
}

/// Whether a seal closes the open range of this stream.
fn is_in_scope(scope: SealScope, uid: StreamUid, stream: &Stream) -> bool {
    match scope {
        SealScope::Closed => false,
        SealScope::OlderThan(ts) => stream.open().is_some_and(|open| open.since <= ts),
        SealScope::Stream(only) => only == uid,
        SealScope::All => true,
    }
}

/// The part counts as its stream's next range in the bucket.
fn take_part(
    manifest: &mut ShardManifest,
    manifest_log: &mut ManifestLog,
    at: EntryId,
    object: ObjectId,
    part: &CommittedPart,
) {
    let Some(stream) = manifest.streams.get_mut(&part.stream) else { return };
    let kept = stream.ranges.len() as u64;
    manifest_log.stream_changed(part.stream, kept, at.index);
    stream.digest = part.digest;
    stream.ranges.push(ColdRange {
        base: part.base,
        count: part.count,
        min_ts: part.min_ts,
        max_ts: part.max_ts,
        record_bytes: part.record_bytes,
        object,
        first_row_group: part.first_row_group,
        first_row: part.first_row,
    });
}

impl ShardState {
    /// Whether a seal finds anything to plan.
    pub(super) fn seals_anything(&self, scope: SealScope) -> bool {
        self.streams.iter().any(|(&uid, stream)| {
            let closes = stream.open().is_some() && is_in_scope(scope, uid, stream);
            closes || !stream.closed().is_empty()
        })
    }

    /// Closes the ranges in scope and plans objects for all that is closed. Returns how many.
    pub(super) fn seal(&mut self, at: EntryId, scope: SealScope) -> usize {
        let mut planner = Planner::new(at.index, at.term, self.segment_bytes_min);
        for (&uid, stream) in &mut self.streams {
            if is_in_scope(scope, uid, stream) {
                stream.close(&mut self.waiting);
            }
            let ranges = stream.take_closed(&mut self.waiting);
            if !ranges.is_empty() {
                planner.place(uid, ranges);
            }
        }
        let objects = planner.finish();
        let count = objects.len();
        self.plans.extend(objects);
        count
    }

    /// Takes an uploaded object into the manifest, or refuses it whole.
    pub(super) fn commit(
        &mut self,
        at: EntryId,
        commit: &ObjectCommit,
    ) -> Result<(), CommitRefused> {
        let object = commit.object;
        let takes_unplanned = self.planted.is(BuiltinBug::UnplannedCommits);
        let Some(plan) = self.plans.get(&object) else {
            if takes_unplanned {
                self.take_unplanned(at, commit);
                return Ok(());
            }
            return Err(CommitRefused::NotPlanned { object });
        };
        let attempt = Attempt { index: commit.attempt, hash: commit.hash };
        if plan.attempt != Some(attempt) && !takes_unplanned {
            return Err(CommitRefused::OtherAttempt { object, attempt: attempt.index });
        }
        // A stream deleted since the seal is no longer in the plan; its part is not looked at.
        // Both are in the order of streams and offsets, so that one walk finds all.
        let mut parts = commit.parts.iter();
        let parts = plan
            .ranges
            .iter()
            .map(|planned| self.check_part(planned, &mut parts))
            .collect::<Result<Vec<_>, _>>()?;
        let info = plan.info(attempt, commit.bytes, commit.footer_bytes);
        for (planned, part) in plan.ranges.iter().zip(parts) {
            self.floor.committed(at.index, planned.range.first_log_index);
            self.waiting.planned -= planned.range.record_bytes;
            take_part(&mut self.manifest, &mut self.manifest_log, at, object, part);
        }
        self.manifest.objects.insert(object, info);
        self.manifest_log.object_changed(object, at.index);
        self.plans.remove(&object);
        Ok(())
    }

    /// See [`BuiltinBug::UnplannedCommits`].
    fn take_unplanned(&mut self, at: EntryId, commit: &ObjectCommit) {
        for part in &commit.parts {
            take_part(&mut self.manifest, &mut self.manifest_log, at, commit.object, part);
        }
        self.manifest_log.object_changed(commit.object, at.index);
    }

    /// Finds the part for a planned range, behind those found before, and checks that it is that
    /// range, next in its stream.
    fn check_part<'c>(
        &self,
        planned: &PlannedRange,
        parts: &mut std::slice::Iter<'c, CommittedPart>,
    ) -> Result<&'c CommittedPart, CommitRefused> {
        let (stream, range) = (planned.stream, &planned.range);
        let part = parts
            .find(|part| part.stream == stream && part.base == range.base)
            .filter(|part| part.base.plus(part.count) == range.end)
            .ok_or(CommitRefused::OtherRange { stream })?;
        // A seal finds at most one range of a small stream for each day, so that parts of one stream
        // never depend on each other within one bundle.
        let committed = self.manifest.streams.get(&stream).map(|manifest| manifest.end());
        if committed != Some(part.base) {
            let committed = committed.unwrap_or_default();
            return Err(CommitRefused::NotContiguous { stream, committed, base: part.base });
        }
        Ok(part)
    }
}
