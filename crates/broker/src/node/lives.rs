//! The lives of this node's replicas (CL-3). Each is noted when its log has come to be; one whose log is
//! lost or damaged afterwards never speaks for its shard again, and the catalog puts another in its
//! place, which learns everything from those that have it.

use std::path::{Path, PathBuf};

use railgun_log::Disk;
use railgun_types::{ReplicaId, ShardId};

use super::StartError;
use super::starter::Starter;
use crate::identity::{IdentityError, Member};

/// Where the files of a replica lie, relative to the data directory.
pub(super) fn dir(shard: ShardId, replica: ReplicaId) -> PathBuf {
    match replica.incarnation() {
        // As they lay when there was one life only.
        0 | 1 => format!("shards/{shard}").into(),
        incarnation => format!("shards/{shard}.{incarnation}").into(),
    }
}

impl Starter {
    /// The replica of the shard that has begun here, if any, and has not ended.
    pub(super) fn begun(&self, shard: ShardId) -> Option<ReplicaId> {
        let member = self.identity.member.as_ref()?;
        let last = *member.replicas.get(&shard)?;
        (!member.ended.contains(&shard)).then_some(ReplicaId::new(member.node, last))
    }

    /// Whether the replica has had its life here, or a later one has.
    pub(super) fn is_past(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let member = self.identity.member.as_ref();
        let last = member.and_then(|member| member.replicas.get(&shard));
        last.is_some_and(|last| replica.incarnation() <= *last)
            && self.begun(shard) != Some(replica)
    }

    /// Notes, durably, that the replica has begun.
    pub(super) fn note_life(
        &mut self,
        shard: ShardId,
        replica: ReplicaId,
    ) -> Result<(), IdentityError> {
        self.note(|member| {
            member.replicas.insert(shard, replica.incarnation());
            member.ended.remove(&shard);
        })
    }

    /// The cluster is formed: nobody founds it again.
    pub(super) fn is_founded(&mut self) -> Result<(), IdentityError> {
        self.note(|member| member.founders.clear())
    }

    /// Removes the files of the shard, which has no replica here any more, and notes that its life has
    /// ended: it does not begin again, whatever an old view of the catalog says.
    pub(super) fn end_life(&mut self, shard: ShardId) -> Result<(), IdentityError> {
        let Some(replica) = self.begun(shard) else { return Ok(()) };
        remove_files(&*self.disk, &dir(shard, replica));
        self.note(|member| {
            member.ended.insert(shard);
        })
    }

    /// Changes what is noted: nothing counts here that was not kept.
    fn note(&mut self, change: impl FnOnce(&mut Member)) -> Result<(), IdentityError> {
        let mut changed = self.identity.clone();
        if let Some(member) = &mut changed.member {
            change(member);
        }
        changed.keep(&*self.disk)?;
        self.identity = changed;
        Ok(())
    }

    /// Removes what earlier lives have left, when the present one is as good as any.
    pub(super) fn remove_earlier_lives(&self, shard: ShardId) {
        let Some(replica) = self.begun(shard) else { return };
        for incarnation in 1..replica.incarnation() {
            let earlier = ReplicaId::new(replica.node(), incarnation);
            remove_files(&*self.disk, &dir(shard, earlier));
        }
    }
}

/// Whether a replica that does not start may be replaced by another: its log or its state is not what it
/// was. Whatever else is wrong, a new life does not mend.
pub(super) fn is_lost(error: &StartError) -> bool {
    match error {
        StartError::LostLog { .. } | StartError::DamagedLog { .. } | StartError::Restore { .. } => {
            true
        }
        StartError::OpenLog { source, .. } => matches!(
            source,
            railgun_log::OpenError::Rot { .. } | railgun_log::OpenError::MissingFile { .. }
        ),
        StartError::Raft(error) => {
            matches!(error, railgun_raft::StartError::LogBehindCheckpoint { .. })
        }
        _ => false,
    }
}

/// The directories stay, and cost nothing. What cannot be removed is told.
fn remove_files(disk: &dyn Disk, dir: &Path) {
    for part in ["log", "checkpoints"] {
        let dir = dir.join(part);
        let names = disk.list(&dir).unwrap_or_default();
        if names.is_empty() {
            continue;
        }
        for name in names {
            if let Err(error) = disk.remove(&dir.join(&name)) {
                tracing::warn!(file = %dir.join(name).display(), %error, "a superfluous file stays");
            }
        }
        // Else they come back after a power cut, and nobody knows of them any more.
        if let Err(error) = disk.sync_dir(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "superfluous files may come back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_types::NodeId;

    #[test]
    fn each_life_has_a_directory_of_its_own() {
        let dir = |incarnation| dir(ShardId(3), ReplicaId::new(NodeId(2), incarnation));
        assert_eq!(dir(1), Path::new("shards/3"));
        assert_eq!(dir(2), Path::new("shards/3.2"));
    }
}
