//! One task per replica that watches openraft from outside: it publishes who leads, and notices
//! when openraft has ended and why.

use openraft::errors::Fatal;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{AsyncRuntime, RaftMetrics, ServerState};
use railgun_types::ReplicaId;

use crate::leadership::{Fitness, Leadership};
use crate::raft_types::Types;
use crate::runtime::Runtime;
use crate::watch::{self, Receiver, Sender};

/// Why a replica died. It does not heal itself: its owner takes the node down, or the replica out
/// of its shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The log, the state machine or a snapshot failed.
    #[error("storage of the shard failed: {reason}")]
    Storage {
        /// What failed.
        reason: String,
    },
    /// A bug.
    #[error("the shard's Raft task panicked")]
    Panicked,
}

type ServerMetrics = openraft::metrics::RaftServerMetrics<Types>;

pub(crate) struct Supervisor {
    /// Changes with votes and memberships only, not with every entry.
    pub(crate) server: WatchReceiverOf<Types, ServerMetrics>,
    /// Holds the reason of the end.
    pub(crate) all: WatchReceiverOf<Types, RaftMetrics<Types>>,
    pub(crate) leadership: Leadership,
    pub(crate) fitness: Fitness,
}

impl Supervisor {
    /// Starts the task, which ends with openraft. The channel holds the failure, if it was one.
    pub(crate) fn spawn(self) -> Receiver<Option<Failure>> {
        let (failed, failure) = watch::channel(None);
        drop(Runtime::spawn(self.run(failed)));
        failure
    }

    async fn run(mut self, failed: Sender<Option<Failure>>) {
        let mut fitness = self.fitness.follow();
        let mut term;
        loop {
            self.leadership.set_fit(*fitness.borrow_and_update());
            let (leader, is_alone);
            (leader, term, is_alone) = leader_of(&self.server.borrow_and_update());
            self.leadership.set_leader(leader, term, is_alone);
            tokio::select! {
                biased;
                changed = self.server.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                // It does not close: this one has it, too.
                Ok(()) = fitness.changed() => {}
            }
        }
        self.leadership.set_leader(None, term, false);
        let failure = match &self.all.borrow().running_state {
            Err(Fatal::Stopped) => None,
            Err(Fatal::StorageError(error)) => Some(Failure::Storage { reason: error.to_string() }),
            // Without a word of farewell.
            Err(Fatal::Panicked) | Ok(()) => Some(Failure::Panicked),
        };
        if let Some(failure) = failure {
            tracing::error!(%failure, "shard replica has died");
            failed.send_if_modified(|current| {
                *current = Some(failure);
                true
            });
        }
    }
}

/// The leader and its term, and whether this replica votes alone. The vote in the metrics is the last durable one; between an election
/// and the fsync of its vote there is no leader to tell of. A leader that was removed from its shard
/// gives up the lead, but not the vote that made it one.
fn leader_of(metrics: &ServerMetrics) -> (Option<ReplicaId>, u64, bool) {
    let vote = &metrics.vote;
    let is_elected = |id: &u64| vote.committed && *id == vote.leader_id.voted_for;
    let is_leading = |id: &u64| *id != metrics.id || metrics.state == ServerState::Leader;
    let leader = metrics.current_leader.filter(is_elected).filter(is_leading);
    let is_alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
    (leader.map(ReplicaId), vote.leader_id.term, is_alone)
}
