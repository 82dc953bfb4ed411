//! Handing the lead over to another voter: for a drain, or to spread leaders.

use std::time::Duration;

use railgun_types::ReplicaId;
use tokio::time::timeout;

use crate::error::TransferError;
use crate::leadership::{LeaderState, ShardStopped};
use crate::metrics;
use crate::shard::{CAUGHT_UP_ENTRIES, RaftShard};

/// A follower that has said nothing for this long is not counted on: five heartbeats.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(1);
/// Longer than an election takes in which the one who was asked does not stand.
const TAKEN_PATIENCE: Duration = Duration::from_secs(3);

impl RaftShard {
    /// Hands the lead over to `to`, and waits until it leads. From the call on this replica refuses
    /// proposals ([`Unapplied::NotLeader`](crate::Unapplied)); what it has taken before is replicated
    /// first. If `to` does not stand for election after all, the shard has no leader until the next
    /// election. Dropping the future does not take it back.
    ///
    /// # Errors
    /// [`TransferError`]; but for `NotTaken`, this replica leads on.
    pub async fn transfer_leader(&self, to: ReplicaId) -> Result<(), TransferError> {
        let mut leader = self.leader();
        let before = leader.state();
        if before.leader == Some(to) {
            return Ok(());
        }
        if before.leader != Some(self.own()) {
            return Err(TransferError::NotLeader { leader: before.leader });
        }
        self.check_successor(to)?;
        self.raft().trigger().transfer_leader(to.0).await.map_err(|_| ShardStopped)?;
        let next = async {
            loop {
                let state = leader.changed().await?;
                if state.leader.is_some() && state.term > before.term {
                    return Ok::<_, ShardStopped>(state);
                }
            }
        };
        match timeout(TAKEN_PATIENCE, next).await {
            Ok(Ok(LeaderState { leader, .. })) if leader == Some(to) => Ok(()),
            Ok(Ok(LeaderState { leader, .. })) => Err(TransferError::NotTaken { to, leader }),
            Ok(Err(stopped)) => Err(stopped.into()),
            Err(_) => Err(TransferError::NotTaken { to, leader: self.leader().state().leader }),
        }
    }

    /// Whether `to` could lead at once, as this leader sees it. A leader refuses everything from the moment
    /// it hands over, so its successor must be ready.
    ///
    /// # Errors
    /// `NotVoter`, `Unreachable` or `Behind`.
    pub fn check_successor(&self, to: ReplicaId) -> Result<(), TransferError> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow();
        if !metrics.membership_config.voter_ids().any(|id| id == to.0) {
            return Err(TransferError::NotVoter { to });
        }
        let progress = metrics::followers(&metrics).into_iter().find(|it| it.replica == to);
        let Some(progress) = progress.filter(|it| it.silent.is_some_and(|it| it < SILENCE_MAX))
        else {
            return Err(TransferError::Unreachable { to });
        };
        let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let matched = next(progress.matched.map(|id| id.index));
        let entries = next(metrics.last_log_index).saturating_sub(matched);
        if entries > CAUGHT_UP_ENTRIES {
            return Err(TransferError::Behind { to, entries });
        }
        Ok(())
    }
}
