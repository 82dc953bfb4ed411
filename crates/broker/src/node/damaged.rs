//! Replicas whose logs turn out to be damaged while they run. Each is replaced by another incarnation, which
//! learns everything from the others, as soon as these can do without it; until then it goes on with what
//! is whole. The catalog, of which nothing waits for the bucket, is whole again without its log.

use std::sync::Arc;

use railgun_core::catalog::{CatalogOutcome, Placement};
use railgun_core::command::CatalogCommand;
use railgun_raft::run_on;
use railgun_types::{ReplicaId, ShardId};
use tokio::time::Instant;

use super::keeper::Keeper;
use crate::catalog::ClusterView;
use crate::cluster_admin::ask_replicas;
use crate::on_node::LocalReplica;

/// A replica that has died of its damaged log.
#[derive(Clone, Debug)]
pub(super) struct Dead {
    pub(super) replica: ReplicaId,
    /// An entry that cannot be read.
    pub(super) entry: u64,
    /// What it knew to be committed.
    pub(super) committed: Option<u64>,
    pub(super) reason: String,
}

impl Keeper {
    /// Stops replicas that have died because their logs are damaged: a leader that was just elected may need
    /// an entry to find out where its followers are. The others elect, and another takes its place as soon as
    /// they can do without it; until then it is started again. This node's other shards have nothing to do
    /// with it.
    pub(super) async fn stop_dead(&mut self, view: &ClusterView) {
        if self.starter.is_alone {
            return;
        }
        let on_node = self.starter.on_node.borrow().clone();
        for (&shard, local) in on_node.iter() {
            let Some(failure) = local.death_by_damage() else { continue };
            let log = local.log.clone();
            // It may have been the way from the disk.
            let damage = run_on(&*self.starter.pool, move || log.check_damaged()).await;
            let entry = local.log.damaged().filter(|_| !matches!(damage, Ok(None)));
            let (replica, reason) = (local.replica, failure.to_string());
            let committed = local.committed();
            self.starter.stop(shard).await;
            if let Some(placement) = view.placements.get(&shard) {
                self.setbacks.note(shard, placement, reason.clone(), Instant::now());
            }
            match entry {
                Some(entry) => {
                    drop(self.dead.insert(shard, Dead { replica, entry, committed, reason }));
                }
                None => drop(self.dead.remove(&shard)),
            }
        }
    }

    /// Reads what a replica that was started again has died of: it is damaged from now on, not only when it
    /// needs that entry.
    pub(super) async fn look_at_damage(&self, shard: ShardId, dead: &Dead) {
        let local = self.routing.on_node.borrow().get(&shard).cloned();
        let Some((log, entry)) = local.map(|local| (local.log.clone(), dead.entry)) else { return };
        let read = move || drop(log.read(entry, entry + 1, 1));
        // The node stops where it is not.
        run_on(&*self.starter.pool, read).await.ok();
    }

    /// Has replicas of this node that are damaged replaced. A lead is given away before
    /// ([`Self::move_leads`]).
    pub(super) async fn replace_damaged(&mut self, view: &ClusterView) {
        if self.starter.is_alone {
            return;
        }
        let on_node = self.routing.on_node.borrow().clone();
        let is_damaged = |(shard, local): &(&ShardId, &Arc<LocalReplica>)| {
            **shard != ShardId::CATALOG && local.log.damaged().is_some()
        };
        for (&shard, local) in on_node.iter().filter(is_damaged) {
            let Some(placement) = view.placements.get(&shard) else { continue };
            let leads = local.raft.leader().state().leader == Some(local.replica);
            let is_due = self.setbacks.is_due(shard, placement, Instant::now());
            let votes = placement.is_settled() && placement.voters.contains(&local.replica);
            if leads || !votes || !is_due {
                continue;
            }
            let log = local.log.clone();
            // It may have been the way from the disk; or the files are gone meanwhile.
            let Ok(Some(damage)) = run_on(&*self.starter.pool, move || log.check_damaged()).await
            else {
                continue;
            };
            let replica = local.replica;
            let here = (shard, replica);
            let stays = if self.others_suffice(here, local.committed(), placement, view).await {
                let placed = self.place_another(shard, replica, placement).await;
                placed.err().map(|error| format!("no other is placed: {error}"))
            } else {
                Some("the others lack a majority, or something that it has".to_owned())
            };
            let Some(stays) = stays else {
                tracing::error!(%shard, %replica, error = %damage, "a damaged replica is given up");
                continue;
            };
            if self.setbacks.note(shard, placement, format!("{damage}; {stays}"), Instant::now()) {
                tracing::error!(%shard, %replica, error = %damage, "a damaged replica stays: {stays}");
            }
        }
    }

    /// Has what the catalog's replica here has applied take the place of its log, where that is damaged. A
    /// start before the file is gone finds the damage, and another replica takes the place of this one.
    pub(super) async fn mend_catalog(&mut self, view: &ClusterView) {
        let local = self.routing.on_node.borrow().get(&ShardId::CATALOG).cloned();
        let damaged = |local: &Arc<LocalReplica>| local.log.damaged().is_some();
        let Some(local) = local.filter(damaged) else { return };
        let log = local.log.clone();
        let Ok(Some(damage)) = run_on(&*self.starter.pool, move || log.check_damaged()).await
        else {
            return;
        };
        let (shard, now) = (ShardId::CATALOG, Instant::now());
        if let Some(placement) = view.placements.get(&shard)
            && self.setbacks.note(shard, placement, damage.to_string(), now)
        {
            let replica = local.replica;
            tracing::error!(%shard, %replica, error = %damage, "a damaged log is given up");
        }
        self.catalog.write_checkpoint().await.ok();
    }

    /// Whether the others are a majority by themselves, all of them answer, and each has everything that is
    /// known to be committed here.
    pub(super) async fn others_suffice(
        &self,
        (shard, replica): (ShardId, ReplicaId),
        committed: Option<u64>,
        placement: &Placement,
        view: &ClusterView,
    ) -> bool {
        let others: Vec<_> = placement.voters.iter().filter(|it| **it != replica).collect();
        if others.len() <= placement.voters.len() / 2 {
            return false;
        }
        let asked = others.into_iter().map(|other| async move {
            let told = ask_replicas(&self.routing, view, other.node()).await?;
            let replica = told.replicas.into_iter().find(|it| it.shard == shard.0)?;
            (replica.replica == other.0 && replica.applied >= committed).then_some(())
        });
        futures::future::join_all(asked).await.iter().all(Option::is_some)
    }

    /// The next incarnation in the place of this one, if nobody has changed the placement meanwhile: of two
    /// that are damaged one goes first.
    async fn place_another(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        placement: &Placement,
    ) -> Result<(), String> {
        let incarnation = replica.incarnation().checked_add(1);
        let incarnation = incarnation.ok_or("it was the last that there may be")?;
        let fresh = ReplicaId::new(replica.node(), incarnation);
        let place = |&it: &ReplicaId| if it == replica { fresh } else { it };
        let replicas = placement.voters.iter().map(place).collect();
        let place = CatalogCommand::Place { shard, replicas, if_version: placement.version };
        match self.routing.change(place).await {
            Ok(CatalogOutcome::Placed { .. }) => Ok(()),
            Ok(other) => Err(format!("the catalog answered {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
