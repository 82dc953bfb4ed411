//! Stops a node: leads, clients, records, logs, in this order.

use std::time::Duration;

use railgun_core::command::{CommandBody, SealScope, SegmentCommand};
use railgun_log::ShardLog;
use railgun_types::ErrorCode;
use tokio::time::{Instant, timeout_at};

use super::Broker;
use crate::leads;
use crate::log_done::log_done;
use crate::session::{self, STOPPING};
use crate::shard::MirrorScope;

/// How long a stopping node may take at most for answering its clients and for the bucket together:
/// what [`Broker::shutdown`] bounds its `drain` by.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long clients are waited for that must be told that their connection is closed; the bucket
/// gets its records meanwhile.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long other nodes may take to lead what a stopping one leads.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

impl Broker {
    /// Stops the node: other nodes lead what it leads, no new clients, what is in flight is answered,
    /// records go to the bucket, all within `drain` (at most [`DRAIN_TIMEOUT`]); then, whatever came of
    /// that, Raft is stopped and the log is synced and marked. With a `drain` of zero, for a node that
    /// has failed, nothing is waited for.
    pub async fn shutdown(&self, drain: Duration) {
        let end = Instant::now() + drain.min(DRAIN_TIMEOUT);
        self.ready.send_replace(false);
        if !drain.is_zero() {
            self.hand_over_leads(end.min(Instant::now() + HAND_OVER_TIMEOUT)).await;
        }
        self.endpoint.refuse_new();
        self.stopping.cancel();
        self.sessions.close();
        let answered = end.min(Instant::now() + session::STOP_TIMEOUT);
        if timeout_at(answered, self.sessions.wait()).await.is_err() {
            tracing::warn!("clients did not finish in time");
        }
        self.endpoint.close(Some(ErrorCode::GoingAway), STOPPING);
        if !drain.is_zero() {
            let told =
                timeout_at(end.min(Instant::now() + CLOSE_TIMEOUT), self.endpoint.wait_idle());
            let (_, offloaded) = tokio::join!(told, timeout_at(end, self.offload_all()));
            if offloaded.is_err() {
                tracing::warn!("not everything is in the bucket; the log keeps the rest");
            }
        }
        let on_node = self.on_node.borrow().clone();
        for replica in on_node.values() {
            replica.raft.shutdown().await;
        }
        // Nothing is appended any more, and the writer, which may be an actor, still runs.
        for replica in on_node.values() {
            sync_mark(&replica.log).await;
        }
        if let Some(peers) = &self.peer_endpoint {
            peers.close(Some(ErrorCode::GoingAway), STOPPING);
        }
        self.cancel.cancel();
        self.actors.close();
        self.actors.wait().await;
    }

    /// Gives all leads to other nodes, so that clients find them there when they are told to go.
    async fn hand_over_leads(&self, end: Instant) {
        let view = self.view.borrow().clone();
        let alternatives = view.alternatives(self.node);
        self.farewell.send_modify(|farewell| farewell.alternatives = alternatives);
        let on_node = self.on_node.borrow().clone();
        let led = on_node.iter().filter(|(_, local)| local.raft.leader().state().serving);
        let moves = led.filter_map(|(&shard, local)| {
            let to = leads::successors(view.placements.get(&shard)?, &view, self.node);
            Some(async move { leads::hand_over(shard, &local.raft, &to).await })
        });
        if timeout_at(end, futures::future::join_all(moves)).await.is_err() {
            tracing::warn!("not every lead was handed over in time: others elect one");
        }
    }

    /// Seals everything and waits until it is in the bucket.
    async fn offload_all(&self) {
        let on_node = self.on_node.borrow().clone();
        // Where another node leads, that one does it.
        let led = on_node.values().filter(|replica| replica.raft.leader().state().serving);
        let drained = led.filter_map(|replica| replica.data()).map(|data| async move {
            let shard = &data.handle;
            let seal = CommandBody::Segment(SegmentCommand::Seal(SealScope::All));
            if shard.command(seal).await.is_ok() {
                shard.mirrored(MirrorScope::Shard).await.ok();
            }
        });
        futures::future::join_all(drained).await;
    }
}

/// Waits until the log is fsynced and says so on disk.
async fn sync_mark(log: &ShardLog) {
    if let Err(error) = log_done(|done| log.sync_mark(done)).await {
        tracing::error!(%error, "the log could not be marked as synced");
    }
}
