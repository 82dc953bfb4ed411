//! What ends a node that runs.

use std::sync::Arc;
use std::time::Duration;

use railgun_log::LogError;
use railgun_raft::Failure;

use super::{Broker, NodeFailure};
use crate::cluster_bucket;
use crate::on_node::LocalReplica;
use crate::peers::IdentityRefused;

/// How often logs and checkpoints are asked whether their disk has failed: a log that fails while
/// nothing waits for it, at a mark or at preparing a file, tells nobody.
const LOOK_AT_LOGS_EVERY: Duration = Duration::from_millis(500);

impl Broker {
    /// Resolves when the disk has failed, a shard has died on this node (but of a damaged log that others can
    /// replace), another process is this node, the bucket is not the cluster's or a bug has ended one of its
    /// tasks, with the reason: the process must end. Cancel safe.
    pub async fn failed(&self) -> NodeFailure {
        tokio::select! {
            biased;
            actor = self.actors.panicked() => NodeFailure::Panicked { actor },
            failure = self.disk_failed() => failure,
            failure = self.identity_refused() => failure,
            wrong = cluster_bucket::is_wrong(Arc::clone(&self.bucket)) => NodeFailure::WrongBucket(wrong),
            // A shard dies of its log as a rule, which knows more about it.
            failure = self.replica_failed() => {
                self.disk_failure().unwrap_or_else(|| failure.into())
            }
        }
    }

    /// Of a replica whose place no other takes (see `Keeper::stop_dead`).
    async fn replica_failed(&self) -> Failure {
        let has_others = self.clocks.is_some();
        let failure = async |replica: &LocalReplica| {
            let failure = replica.raft.failure().await;
            match has_others && replica.death_by_damage().is_some() {
                true => std::future::pending().await,
                false => failure,
            }
        };
        let mut on_node = self.on_node.clone();
        loop {
            let replicas = on_node.borrow_and_update().clone();
            let failures: Vec<_> =
                replicas.values().map(|replica| Box::pin(failure(replica))).collect();
            tokio::select! {
                biased;
                (failure, ..) = futures::future::select_all(failures) => return failure,
                changed = on_node.changed() => {
                    if changed.is_err() {
                        // No further ones come; those that are there may still fail.
                        let failures = replicas.values().map(|replica| Box::pin(failure(replica)));
                        return futures::future::select_all(failures).await.0;
                    }
                }
            }
        }
    }

    async fn identity_refused(&self) -> NodeFailure {
        let mut refused = self.refused.clone();
        let refused = refused.wait_for(Option::is_some).await.ok().and_then(|it| it.clone());
        match refused {
            Some(IdentityRefused { by, reason }) => NodeFailure::IdentityConflict { by, reason },
            // Nobody refuses a node that has no others.
            None => std::future::pending().await,
        }
    }

    async fn disk_failed(&self) -> NodeFailure {
        loop {
            if let Some(failure) = self.disk_failure() {
                return failure;
            }
            tokio::time::sleep(LOOK_AT_LOGS_EVERY).await;
        }
    }

    fn disk_failure(&self) -> Option<NodeFailure> {
        let on_node = self.on_node.borrow();
        let log = on_node.values().find_map(|replica| replica.log.failure());
        let log = log.map(|failed| match failed {
            LogError::Failed(failure) => format!("{failure}: {}", failure.source),
            other => other.to_string(),
        });
        let checkpoints = || {
            on_node.values().find_map(|replica| Some(replica.checkpoints.failure()?.to_string()))
        };
        Some(NodeFailure::Disk { reason: log.or_else(checkpoints)? })
    }
}
