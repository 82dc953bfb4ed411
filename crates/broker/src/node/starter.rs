//! Starts the Raft replica of each shard with the state its checkpoints hold.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use railgun_core::catalog::{Catalog, CatalogOutcome, RestoredCatalog};
use railgun_core::checkpoint::{self, CheckpointError};
use railgun_core::command::{CatalogCommand, ClusterSettings};
use railgun_core::shard::{Restored, ShardState};
use railgun_log::{Disk, ShardLog};
use railgun_raft::{
    Applied, BlockingPool, LeaderWatch, RaftShard, ShardSpec, StateMachine, UnappliedSink,
};
use railgun_types::{ClusterUid, EntryId, ReplicaId, ShardId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{LEADER_TIMEOUT, StartError};
use crate::actors::Actors;
use crate::builtin_bug::{BuiltinBug, Planted};
use crate::catalog::{self, CatalogHandle, CatalogSpec};
use crate::checkpoint::{Check, CheckpointStore, Newest, Schedule};
use crate::clock::Clock;
use crate::replica::{self, Handover};
use crate::seams::RunningLog;
use crate::shard::{self, HostSpec, ShardHandle};
use crate::thresholds::Thresholds;

/// A shard's Raft replica and its log.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) raft: RaftShard,
    pub(super) log: ShardLog,
    pub(super) checkpoints: Arc<CheckpointStore>,
}

/// What starting a replica of any shard needs.
pub(super) struct Starter {
    pub(super) log: RunningLog,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) replica: ReplicaId,
    pub(super) address: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pool: Arc<dyn BlockingPool>,
    pub(super) thresholds: Thresholds,
    pub(super) planted: Planted,
    pub(super) actors: Actors,
    pub(super) cancel: CancellationToken,
    pub(super) replicas: Vec<Replica>,
}

/// Checkpoints that are kept for a choice have this part of a shard's hot budget.
const KEPT_PART: u64 = 20;

/// The files of one replica.
struct Files<T> {
    log: ShardLog,
    store: Arc<CheckpointStore>,
    /// What the newest checkpoint holds.
    restored: Option<T>,
}

impl Starter {
    /// Opens the files of a shard, of this cluster if it is known yet.
    fn open<T>(
        &self,
        shard: ShardId,
        cluster: Option<ClusterUid>,
        hot_bytes_max: u64,
        decode: impl Fn(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<Files<T>, StartError> {
        let dir = format!("shards/{shard}/log");
        let mut options = self.log.options.clone();
        options.incarnation = self.replica.incarnation().into();
        let opened = self.log.opener.open_shard(dir.as_ref(), options);
        let (log, report) = opened.map_err(|source| StartError::OpenLog { shard, source })?;
        tracing::info!(%shard, ?report, "log opened");
        let dir = PathBuf::from(format!("shards/{shard}/checkpoints"));
        let restore = |error: &dyn std::fmt::Display| StartError::Restore {
            shard,
            reason: error.to_string(),
        };
        let check: Check = Box::new(move |bytes| checkpoint::check(cluster, shard, bytes));
        let (disk, kept_bytes_max) = (Arc::clone(&self.disk), hot_bytes_max / KEPT_PART);
        let store = CheckpointStore::open(disk, dir.clone(), kept_bytes_max, check);
        let store = store.map_err(|error| restore(&error))?;
        let Newest { whole: newest, damaged } =
            store.newest(decode).map_err(|error| restore(&error))?;
        let (whole, purged) = (newest.as_ref().map(|(id, _)| *id), log.state().last_purged);
        if let Some(purged) = purged.filter(|purged| whole.is_none_or(|id| id.index < purged.index))
        {
            // What the log has given up is in checkpoints only.
            let reason = match whole {
                Some(id) => format!("the newest checkpoint that is whole ends at entry {id}"),
                None => "no checkpoint is whole and can be read".to_owned(),
            };
            let dir = dir.display();
            let reason = format!("its log begins after entry {purged}, and in {dir} {reason}");
            return Err(StartError::Restore { shard, reason });
        }
        // Whoever promotes looks at checksums only, which may be right. Not before it is certain that
        // nothing of them is needed.
        store.set_aside(&damaged).map_err(|error| restore(&error))?;
        let restored = newest.map(|(_, restored)| restored);
        Ok(Files { log, store: Arc::new(store), restored })
    }

    /// Starts the Raft replica of a shard and waits until it serves.
    async fn replica(
        &mut self,
        shard: ShardId,
        (log, checkpoints): (ShardLog, Arc<CheckpointStore>),
        machine: Box<dyn StateMachine>,
        sink: UnappliedSink,
    ) -> Result<RaftShard, StartError> {
        let raft = RaftShard::start(ShardSpec {
            shard,
            replica: self.replica,
            address: self.address.clone(),
            log: log.clone(),
            machine,
            snapshots: Arc::clone(&checkpoints) as _,
            unapplied: sink,
            pool: Arc::clone(&self.pool),
        })
        .await?;
        let lead = async {
            // A stopped replica shows as one that never leads, and one that cannot write does not
            // even answer.
            raft.initialize_single().await.ok();
            wait_serving(raft.leader()).await;
        };
        let led = tokio::time::timeout(LEADER_TIMEOUT, lead).await;
        led.map_err(|_| StartError::NoLeader { shard })?;
        self.replicas.push(Replica { raft: raft.clone(), log, checkpoints });
        Ok(raft)
    }

    /// Starts the catalog; founds the cluster if nobody has.
    pub(super) async fn catalog(
        &mut self,
        cluster: ClusterUid,
        shards: u32,
        hot_bytes_max: u64,
        streams_max: usize,
    ) -> Result<(CatalogHandle, ClusterSettings), StartError> {
        let shard = ShardId::CATALOG;
        let wish = ClusterSettings { cluster, shards, hot_bytes_max };
        let decode = |bytes: &[u8]| Catalog::decode_checkpoint(None, bytes);
        let Files { log, store, restored } =
            self.open(shard, None, wish.hot_bytes_per_shard(), decode)?;
        let restored = restored.unwrap_or_else(|| RestoredCatalog {
            catalog: Catalog::default(),
            applied: None,
            membership: Bytes::new(),
        });
        let applied = applied(restored.applied, &restored.membership);
        let at = restored.applied.map(|at| at.index);
        let files = (log.clone(), Arc::clone(&store));
        let cadence = self.thresholds.checkpoints;
        let (actors, pool) = (self.actors.clone(), Arc::clone(&self.pool));
        let schedule = Schedule::new(store, log.clone(), actors, pool, cadence, at);
        let (sink, unapplied) = replica::unapplied_queue();
        let stopping = self.cancel.clone();
        let spec = CatalogSpec {
            restored,
            streams_max,
            checkpoints: schedule,
            log,
            clock: Arc::clone(&self.clock),
            unapplied,
        };
        let (catalog, to) = spec.spawn(&self.actors, stopping.clone());
        let machine = Handover::new(to.clone(), catalog::Message::Applied, applied, stopping);
        let raft = self.replica(shard, files, Box::new(machine), sink).await?;
        send(&to, catalog::Message::Started(raft)).await;
        if let Ok(Some(settings)) = catalog.settings().await {
            for ignored in ignored(&wish, &settings) {
                tracing::warn!("{ignored}");
            }
            return Ok((catalog, settings));
        }
        match catalog.change(CatalogCommand::Found(wish)).await {
            Ok(CatalogOutcome::Founded(settings)) => Ok((catalog, settings)),
            other => Err(StartError::Catalog { reason: format!("{other:?}") }),
        }
    }

    /// Starts a data shard.
    pub(super) async fn shard(
        &mut self,
        shard: ShardId,
        settings: &ClusterSettings,
    ) -> Result<(ShardHandle, RaftShard, Arc<CheckpointStore>), StartError> {
        let cluster = settings.cluster;
        let decode = move |bytes: &[u8]| ShardState::decode_checkpoint(cluster, shard, bytes);
        let Files { log, store, restored } =
            self.open(shard, Some(cluster), settings.hot_bytes_per_shard(), decode)?;
        let mut restored = restored.unwrap_or_else(|| Restored {
            state: ShardState::new(cluster, shard),
            membership: Bytes::new(),
        });
        // Files may have gone since the checkpoint was written; none at all holds an entry if the
        // node died right after they went.
        restored.state.trim_index_below(log.first_file_index().unwrap_or(u64::MAX));
        restored.state = restored.state.with_segment_bytes_min(self.thresholds.segment_bytes_min);
        let applied = applied(restored.state.applied(), &restored.membership);
        let (sink, unapplied) = replica::unapplied_queue();
        let admits_all = self.planted.is(BuiltinBug::NoAdmission);
        let host = HostSpec {
            restored,
            shard,
            log: log.clone(),
            checkpoints: Arc::clone(&store),
            clock: Arc::clone(&self.clock),
            pool: Arc::clone(&self.pool),
            cadence: self.thresholds.checkpoints,
            hot_bytes_max: if admits_all { u64::MAX } else { settings.hot_bytes_per_shard() },
            unapplied,
        };
        let stopping = self.cancel.clone();
        let (handle, to) = host.spawn(&self.actors, stopping.clone());
        let machine = Handover::new(to.clone(), shard::Message::Applied, applied, stopping);
        let raft = self.replica(shard, (log, Arc::clone(&store)), Box::new(machine), sink).await?;
        send(&to, shard::Message::Started(raft.clone())).await;
        Ok((handle, raft, store))
    }
}

/// What of `wish` is not in force, because it was decided when the cluster was made.
fn ignored(wish: &ClusterSettings, in_force: &ClusterSettings) -> Vec<String> {
    let settings = [
        ("shards.count", u64::from(wish.shards), u64::from(in_force.shards)),
        ("hot.max_bytes", wish.hot_bytes_max, in_force.hot_bytes_max),
    ];
    let differs = settings.into_iter().filter(|(_, wish, in_force)| wish != in_force);
    let told = differs.map(|(name, wish, in_force)| {
        format!(
            "{name} = {wish} is ignored: it was decided when the cluster was made, and is {in_force}"
        )
    });
    told.collect()
}

fn applied(at: Option<EntryId>, membership: &Bytes) -> Option<Applied> {
    Some(Applied { id: at?, membership: membership.clone() })
}

async fn wait_serving(mut leader: LeaderWatch) {
    while !leader.state().serving {
        if leader.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// To an actor that was just started and ends only with the node.
async fn send<M>(to: &mpsc::Sender<M>, message: M) {
    drop(to.send(message).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_not_in_force_are_told_with_those_that_are() {
        let cluster = ClusterUid([1; 16]);
        let in_force = ClusterSettings { cluster, shards: 4, hot_bytes_max: 100 };
        assert_eq!(ignored(&in_force, &in_force), [""; 0]);
        let wish = ClusterSettings { shards: 8, hot_bytes_max: 200, ..in_force };
        assert_eq!(
            ignored(&wish, &in_force),
            [
                "shards.count = 8 is ignored: it was decided when the cluster was made, and is 4",
                "hot.max_bytes = 200 is ignored: it was decided when the cluster was made, and is 100",
            ]
        );
    }
}
