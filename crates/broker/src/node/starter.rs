//! Starts the Raft replica of each shard with the state its checkpoints hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use railgun_core::catalog::{Catalog, RestoredCatalog};
use railgun_core::checkpoint::{self, CheckpointError};
use railgun_core::command::ClusterSettings;
use railgun_core::shard::{Restored, ShardState};
use railgun_log::{Disk, RecoveryReport, ShardLog, Vote};
use railgun_raft::{
    Applied, BlockingPool, Fitness, LeaderWatch, PeerNetwork, RaftShard, ShardSpec, StateMachine,
    UnappliedSink,
};
use railgun_types::{ClusterUid, EntryId, ReplicaId, ShardId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::lives;
use super::{LEADER_TIMEOUT, StartError};
use crate::actors::Actors;
use crate::builtin_bug::{BuiltinBug, Planted};
use crate::catalog::{self, CatalogHandle, CatalogSpec};
use crate::checkpoint::{Check, CheckpointStore, Install, Newest, Schedule};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::log_done::log_done;
use crate::offload::Reclaimer;
use crate::on_node::ShardOnNode;
use crate::on_node::{LocalReplica, OnNode, Owner};
use crate::replica::{self, Handover};
use crate::seams::RunningLog;
use crate::shard::{self, HostSpec};
use crate::thresholds::Thresholds;

/// What starting a replica of any shard needs.
pub(super) struct Starter {
    pub(super) log: Arc<RunningLog>,
    pub(super) disk: Arc<dyn Disk>,
    /// Where other nodes reach this one.
    pub(super) address: String,
    pub(super) peers: Arc<dyn PeerNetwork>,
    /// This node has no others beside it.
    pub(super) is_alone: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fitness: Fitness,
    pub(super) pool: Arc<dyn BlockingPool>,
    pub(super) thresholds: Thresholds,
    pub(super) planted: Planted,
    pub(super) actors: Actors,
    pub(super) cancel: CancellationToken,
    /// What is kept about this node.
    pub(super) identity: Identity,
    /// Names that there may be.
    pub(super) streams_max: usize,
    /// Who serves others is told of each replica here.
    pub(super) on_node: watch::Sender<OnNode>,
}

/// How a replica comes to its shard.
#[derive(Clone, Debug)]
pub(super) enum Begin {
    /// It is the shard's only one.
    Alone,
    /// It is one of the first, all of which begin with these and their addresses. One that has begun
    /// before goes on.
    With(BTreeMap<ReplicaId, String>),
    /// Those that are there take it in.
    Later,
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
    /// Opens the files of a shard, of this cluster if it is known yet. What is wrong with them leaves
    /// nothing open.
    async fn open<T>(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        cluster: Option<ClusterUid>,
        hot_bytes_max: u64,
        decode: impl Fn(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<Files<T>, StartError> {
        let log = self.open_log((shard, replica)).await?;
        let restored = self.restore((shard, replica), &log, cluster, hot_bytes_max, decode);
        match restored {
            Ok((store, restored)) => Ok(Files { log, store, restored }),
            Err(error) => {
                log_done(|done| log.close(done)).await.ok();
                Err(error)
            }
        }
    }

    /// Opens the log of a replica, which begins its life if it has not (CL-3): the log has something in it
    /// before that is noted, and that is noted before anybody hears of the replica. So one that was noted
    /// and whose log holds nothing is lost.
    async fn open_log(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
    ) -> Result<ShardLog, StartError> {
        if self.is_past(shard, replica) {
            return Err(StartError::PastLife { shard, replica });
        }
        let dir = lives::dir(shard, replica).join("log");
        let mut options = self.log.options.clone();
        options.incarnation = replica.incarnation().into();
        let opened = self.log.opener.open_shard(&dir, options);
        let (log, report) = opened.map_err(|source| StartError::OpenLog { shard, source })?;
        let RecoveryReport { created, files, scanned, torn, incarnation: _ } = report;
        let torn = torn.map(tracing::field::display);
        tracing::info!(%shard, %replica, created, files, scanned, torn, "log opened");
        if self.is_alone {
            return Ok(log);
        }
        let begun = match (self.begun(shard) == Some(replica), log.state().vote) {
            (true, None) if self.planted.is(BuiltinBug::IncarnationReused) => Ok(()),
            (true, None) => Err(StartError::LostLog { shard, replica }),
            (true, Some(_)) => Ok(()),
            (false, vote) => self.begin_life(&log, (shard, replica), vote.is_some()).await,
        };
        if let Err(error) = begun {
            log_done(|done| log.close(done)).await.ok();
            return Err(error);
        }
        Ok(log)
    }

    async fn begin_life(
        &mut self,
        log: &ShardLog,
        (shard, replica): (ShardId, ReplicaId),
        has_vote: bool,
    ) -> Result<(), StartError> {
        if !has_vote {
            // For nobody: as if there were none.
            let vote = Vote { term: 0, node: 0, committed: false };
            let saved = log_done(|done| log.save_vote(vote, done)).await;
            saved.map_err(|source| StartError::NewLog { shard, source })?;
        }
        Ok(self.note_life(shard, replica)?)
    }

    /// What the newest checkpoint holds, and where they are kept.
    fn restore<T>(
        &self,
        (shard, replica): (ShardId, ReplicaId),
        log: &ShardLog,
        cluster: Option<ClusterUid>,
        hot_bytes_max: u64,
        decode: impl Fn(&[u8]) -> Result<T, CheckpointError>,
    ) -> Result<(Arc<CheckpointStore>, Option<T>), StartError> {
        let home = lives::dir(shard, replica);
        let dir = home.join("checkpoints");
        // None of these says that anything is lost.
        let unusable = |error: &dyn std::fmt::Display| StartError::Checkpoints {
            shard,
            reason: error.to_string(),
        };
        let check: Check = Arc::new(move |bytes| checkpoint::check(cluster, shard, bytes));
        let (disk, kept_bytes_max) = (Arc::clone(&self.disk), hot_bytes_max / KEPT_PART);
        let store = CheckpointStore::open(disk, dir.clone(), kept_bytes_max, check);
        let store = store.map_err(|error| unusable(&error))?.with_planted(self.planted);
        let Newest { whole: newest, damaged } =
            store.newest(decode).map_err(|error| unusable(&error))?;
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
        store.set_aside(&damaged).map_err(|error| unusable(&error))?;
        let restored = newest.map(|(_, restored)| restored);
        Ok((Arc::new(store), restored))
    }

    /// Starts the Raft replica of a shard, and waits until it serves where it is alone.
    async fn replica(
        &self,
        (shard, replica): (ShardId, ReplicaId),
        (log, checkpoints): (ShardLog, Arc<CheckpointStore>),
        machine: Box<dyn StateMachine>,
        sink: UnappliedSink,
        begin: Begin,
    ) -> Result<RaftShard, StartError> {
        let raft = RaftShard::start(ShardSpec {
            shard,
            replica,
            address: self.address.clone(),
            log,
            machine,
            snapshots: checkpoints as _,
            unapplied: sink,
            pool: Arc::clone(&self.pool),
            peers: Arc::clone(&self.peers),
            fitness: self.fitness.clone(),
        })
        .await?;
        match begin {
            Begin::Alone => {
                let lead = async {
                    // A stopped replica shows as one that never leads, and one that cannot write does
                    // not even answer.
                    raft.initialize_single().await.ok();
                    wait_serving(raft.leader()).await;
                };
                let led = tokio::time::timeout(LEADER_TIMEOUT, lead).await;
                led.map_err(|_| StartError::NoLeader { shard })?;
            }
            // One that is stopped shows as that.
            Begin::With(members) => drop(raft.initialize(members).await),
            Begin::Later => {}
        }
        Ok(raft)
    }

    /// A replica that was started. Where it was not, nothing of it stays open if it may be tried again; a
    /// node that is alone ends with it.
    async fn opened(
        &self,
        (shard, replica): (ShardId, ReplicaId),
        log: &ShardLog,
        stop: &CancellationToken,
        started: Result<RaftShard, StartError>,
    ) -> Result<RaftShard, StartError> {
        let error = match started {
            Ok(raft) => return Ok(raft),
            Err(error) => error,
        };
        stop.cancel();
        if self.is_alone {
            return Err(error);
        }
        let is_damaged = log.damaged().is_some();
        log_done(|done| log.close(done)).await.ok();
        let reason = error.to_string();
        Err(if is_damaged { StartError::DamagedLog { shard, replica, reason } } else { error })
    }

    /// Stops a replica that is to be here no longer. Its files stay.
    pub(super) async fn stop(&self, shard: ShardId) {
        let mut stopped = None;
        self.on_node.send_modify(|on_node| stopped = Arc::make_mut(on_node).remove(&shard));
        let Some(replica) = stopped else { return };
        replica.raft.shutdown().await;
        replica.stop.cancel();
        if let Err(error) = log_done(|done| replica.log.close(done)).await {
            tracing::warn!(%shard, %error, "the log of a replica that was stopped");
        }
        tracing::info!(%shard, replica = %replica.replica, "replica stopped");
    }

    fn put_on_node(&self, shard: ShardId, replica: LocalReplica) {
        self.on_node.send_modify(|on_node| {
            Arc::make_mut(on_node).insert(shard, Arc::new(replica));
        });
    }

    /// Starts this node's replica of the catalog.
    pub(super) async fn catalog(
        &mut self,
        replica: ReplicaId,
        hot_bytes: u64,
        begin: Begin,
    ) -> Result<CatalogHandle, StartError> {
        let shard = ShardId::CATALOG;
        let decode = |bytes: &[u8]| Catalog::decode_checkpoint(None, bytes);
        let Files { log, store, restored } =
            self.open((shard, replica), None, hot_bytes, decode).await?;
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
        let schedule = Schedule::new(Arc::clone(&store), log.clone(), actors, pool, cadence, at);
        let (sink, unapplied) = replica::unapplied_queue();
        let stopping = self.cancel.child_token();
        let spec = CatalogSpec {
            restored,
            streams_max: self.streams_max,
            checkpoints: schedule,
            log: log.clone(),
            clock: Arc::clone(&self.clock),
            unapplied,
        };
        let stop = stopping.clone();
        let (catalog, to) = spec.spawn(&self.actors, stopping.clone());
        let install = Install {
            store: Arc::clone(&store),
            pool: Arc::clone(&self.pool),
            decode: Arc::new(|bytes: &[u8]| Catalog::decode_checkpoint(None, bytes)),
            to: to.clone(),
            wrap: catalog::Message::installed,
        };
        let machine = Handover::new(
            to.clone(),
            catalog::Message::Applied,
            applied,
            Box::new(install),
            stopping,
        );
        let started = self.replica((shard, replica), files, Box::new(machine), sink, begin).await;
        let raft = self.opened((shard, replica), &log, &stop, started).await?;
        send(&to, catalog::Message::Started(raft.clone())).await;
        let owner = Owner::Catalog(catalog.clone());
        let checkpoints = store;
        self.put_on_node(shard, LocalReplica { replica, raft, log, checkpoints, owner, stop });
        Ok(catalog)
    }

    /// Starts this node's replica of a data shard.
    pub(super) async fn shard(
        &mut self,
        (shard, replica): (ShardId, ReplicaId),
        settings: &ClusterSettings,
        begin: Begin,
    ) -> Result<ShardOnNode, StartError> {
        let cluster = settings.cluster;
        let decode = move |bytes: &[u8]| ShardState::decode_checkpoint(cluster, shard, bytes);
        let hot_bytes = settings.hot_bytes_per_shard();
        let Files { log, store, restored } =
            self.open((shard, replica), Some(cluster), hot_bytes, decode).await?;
        let mut restored = restored.unwrap_or_else(|| Restored {
            state: ShardState::new(cluster, shard),
            membership: Bytes::new(),
        });
        // Files may have gone since the checkpoint was written; none at all holds an entry if the
        // node died right after they went. One that was received has no index, or, from an earlier
        // release, that of another replica's log; this one's does not reach there if the node died right
        // after that.
        let last = log.state().last.map(|last| last.index);
        let reaches = last >= restored.state.applied().map(|at| at.index);
        let first = log.first_file_index().filter(|_| reaches);
        restored.state.trim_index_below(first.unwrap_or(u64::MAX));
        restored.state = restored.state.with_segment_bytes_min(self.thresholds.segment_bytes_min);
        restored.state = self.planted.plant(restored.state);
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
            hot_bytes_max: if admits_all { u64::MAX } else { hot_bytes },
            unapplied,
        };
        let stopping = self.cancel.child_token();
        let stop = stopping.clone();
        let (handle, to) = host.spawn(&self.actors, stopping.clone());
        let (segment_bytes_min, planted) = (self.thresholds.segment_bytes_min, self.planted);
        let install = Install {
            store: Arc::clone(&store),
            pool: Arc::clone(&self.pool),
            decode: Arc::new(move |bytes: &[u8]| {
                let mut restored = decode(bytes)?;
                let state = restored.state.with_segment_bytes_min(segment_bytes_min);
                restored.state = planted.plant(state);
                Ok(restored)
            }),
            to: to.clone(),
            wrap: shard::Message::installed,
        };
        let machine = Handover::new(
            to.clone(),
            shard::Message::Applied,
            applied,
            Box::new(install),
            stopping,
        );
        let files = (log.clone(), Arc::clone(&store));
        let started = self.replica((shard, replica), files, Box::new(machine), sink, begin).await;
        let raft = self.opened((shard, replica), &log, &stop, started).await?;
        send(&to, shard::Message::Started(raft.clone())).await;
        let reclaimer = Reclaimer {
            shard: handle.clone(),
            raft: raft.clone(),
            checkpoints: Arc::clone(&store),
            pool: Arc::clone(&self.pool),
            hot_bytes_max: hot_bytes,
            planted: self.planted,
        };
        let on_node = ShardOnNode { handle, reclaimer, stop: stop.clone() };
        let owner = Owner::Data(on_node.clone());
        let checkpoints = store;
        self.put_on_node(shard, LocalReplica { replica, raft, log, checkpoints, owner, stop });
        Ok(on_node)
    }
}

/// What of `wish` is not in force, because it was decided when the cluster was made.
pub(super) fn ignored(wish: &ClusterSettings, in_force: &ClusterSettings) -> Vec<String> {
    let settings = [
        ("shards.count", u64::from(wish.shards), u64::from(in_force.shards)),
        ("shards.replicas", u64::from(wish.replicas), u64::from(in_force.replicas)),
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
        let in_force = ClusterSettings { cluster, shards: 4, replicas: 1, hot_bytes_max: 100 };
        assert_eq!(ignored(&in_force, &in_force), [""; 0]);
        let wish = ClusterSettings { shards: 8, replicas: 3, hot_bytes_max: 200, ..in_force };
        assert_eq!(
            ignored(&wish, &in_force),
            [
                "shards.count = 8 is ignored: it was decided when the cluster was made, and is 4",
                "shards.replicas = 3 is ignored: it was decided when the cluster was made, and is 1",
                "hot.max_bytes = 200 is ignored: it was decided when the cluster was made, and is 100",
            ]
        );
    }
}
