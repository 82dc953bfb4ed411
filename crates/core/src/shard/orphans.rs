//! Which upload of a planned object counts, and what those that do not may have left in the bucket.
//!
//! An upload is an *attempt*, named by the log index of the entry that a leader has had committed before
//! the first byte goes out. The index is part of the object's key, so no two attempts write to one key,
//! and what an attempt that is over has written is no manifest's object, nor ever will be: its commit is
//! refused (I5). Until the bucket is known not to have it, it is an *orphan*.

use std::collections::{BTreeMap, BTreeSet};

use railgun_types::{EntryId, StreamName};

use super::ShardState;
use super::offload::Attempt;
use crate::command::UploadAttempt;
use crate::manifest::{ObjectId, ObjectInfo};

/// Most orphans a shard remembers. Of more, which a bucket that lets nobody delete may bring about, the
/// oldest is forgotten and stays where it is: uploads go on.
pub const ORPHANS_MAX: usize = 1_024;

/// What an upload that is over may have left in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The object that was planned.
    pub object: ObjectId,
    /// What tells its key. It has no live parts.
    pub info: ObjectInfo,
    /// Name of the first stream in it, part of the key of a segment.
    pub name: StreamName,
    /// Log index of the entry by which the attempt was over.
    pub over_at: u64,
}

impl ShardState {
    /// The attempt by which the object may be uploaded: the one under way if that uploads the same, or
    /// else a new one, and the one before is over. `None`: the object is committed, or nobody wants it
    /// any more.
    pub(super) fn attempt(&mut self, at: EntryId, upload: UploadAttempt) -> Option<u64> {
        let UploadAttempt { object, hash } = upload;
        let plan = self.plans.get_mut(&object)?;
        if let Some(before) = plan.attempt {
            if before.hash == hash {
                return Some(before.index);
            }
            // Of other content: a stream was deleted that had a part in it, or another release makes it.
            let info = plan.info(before, 0, 0);
            let first = plan.ranges.first().and_then(|first| self.streams.get(&first.stream));
            if let Some(name) = first.map(|stream| stream.name.clone()) {
                self.orphan(at, object, info, name);
            }
        }
        let plan = self.plans.get_mut(&object)?;
        plan.attempt = Some(Attempt { index: at.index, hash });
        Some(at.index)
    }

    /// An attempt is over, and its object is not committed.
    pub(super) fn orphan(
        &mut self,
        at: EntryId,
        object: ObjectId,
        info: ObjectInfo,
        name: StreamName,
    ) {
        let info = ObjectInfo { live_parts: 0, ..info };
        let orphan = Orphan { object, info, name, over_at: at.index };
        self.orphans.insert(orphan.info.attempt, orphan);
        if self.orphans.len() > ORPHANS_MAX {
            self.orphans.pop_first();
        }
    }

    /// What may lie in the bucket and is no manifest's, by the attempt that wrote it.
    #[must_use]
    pub fn orphans(&self) -> &BTreeMap<u64, Orphan> {
        &self.orphans
    }

    /// Those orphans among the ones of `attempts` that may be deleted: a manifest was written after they
    /// came to be, so that the newest in the bucket does not know them either. None is what an object was
    /// committed by, which is checked once more here, because what is deleted does not come back.
    #[must_use]
    pub fn collectable(&self, attempts: &BTreeSet<u64>) -> Vec<Orphan> {
        let Some(mirrored) = self.mirrored() else { return Vec::new() };
        let committed: BTreeSet<_> = self.manifest.objects.values().map(|it| it.attempt).collect();
        let may_go = |(attempt, orphan): &(&u64, &Orphan)| {
            attempts.contains(attempt)
                && orphan.over_at <= mirrored.log_index
                && !committed.contains(attempt)
        };
        self.orphans.iter().filter(may_go).map(|(_, orphan)| orphan.clone()).collect()
    }
}
