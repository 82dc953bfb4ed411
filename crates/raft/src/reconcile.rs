//! Bringing the members of a shard to what is wanted, a safe step at a time. Called again and again
//! by the leader's node, it needs no memory: whatever an earlier leader left half done is found in the
//! membership itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use railgun_types::ReplicaId;
use tokio::time::timeout;

use crate::error::{ReconcileError, TransferError};
use crate::leadership::ShardStopped;
use crate::metrics::{self, FollowerProgress};
use crate::raft_types::{Membership, Peer, Types};
use crate::shard::{CAUGHT_UP_ENTRIES, RaftShard};
use crate::transfer::SILENCE_MAX;

/// A learner that has at most so many bytes to come is caught up, as far as bytes go.
const CAUGHT_UP_BYTES: u64 = 8 << 20;
/// How long a step may take: two entries, each confirmed by a majority.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// The members a shard is to have, each with the address of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedMembers {
    /// Replicas that count for a majority.
    pub voters: BTreeMap<ReplicaId, String>,
    /// Replicas that only follow.
    pub learners: BTreeMap<ReplicaId, String>,
}

/// What a call has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipStep {
    /// The members are those wanted.
    Settled,
    /// Nothing can be done yet.
    Waiting(MembershipWait),
    /// A change that somebody had begun is finished.
    ChangeFinished,
    /// A replica follows now.
    LearnerAdded(ReplicaId),
    /// Another address is known for a replica.
    AddressChanged(ReplicaId),
    /// These are the voters now; those that are none any more still follow.
    VotersChanged(BTreeSet<ReplicaId>),
    /// This replica is not wanted as a voter: another one leads now and goes on.
    LeaderMoved(ReplicaId),
    /// A replica does not belong to the shard any more.
    Removed(ReplicaId),
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipWait {
    /// An earlier change is not confirmed by a majority yet.
    ChangeUnderWay,
    /// A replica has not caught up, or does not answer: it is no voter yet, and nobody it replaces goes.
    Learner(ReplicaId),
    /// A majority of the next voters does not answer.
    Majority,
}

/// How the leader sees another replica.
#[derive(Clone, Copy, Debug, Default)]
struct Follower {
    answers: bool,
    caught_up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Wait(MembershipWait),
    FinishChange,
    AddLearner(u64, Peer),
    SetAddress(u64, Peer),
    ChangeVoters(BTreeSet<u64>),
    MoveLeader(u64),
    Remove(u64),
}

impl RaftShard {
    /// Makes at most one step towards the members wanted, and waits until it is confirmed. Every step
    /// leaves a shard that works: a replica becomes a voter only when it has caught up and answers, a
    /// voter goes only when those wanted in its place are there, never do a majority of the voters go
    /// at once, and the voters that stay must answer.
    ///
    /// To be called on the leader until it says [`MembershipStep::Settled`]. Dropping the future may
    /// leave a step half done, which the next call finishes.
    ///
    /// # Errors
    /// [`ReconcileError`]
    pub async fn reconcile_membership(
        &self,
        wanted: &WantedMembers,
    ) -> Result<MembershipStep, ReconcileError> {
        wanted.check()?;
        let leader = self.leader().state();
        if !leader.serving {
            return Err(ReconcileError::NotLeader { leader: leader.leader });
        }
        let members = self.raft().with_raft_state(|state| {
            let members = &state.membership_state;
            let is_confirmed = members.effective().log_id() == members.committed().log_id();
            is_confirmed.then(|| members.effective().membership().clone())
        });
        let Some(members) = members.await.map_err(|_| ShardStopped)? else {
            return Ok(MembershipStep::Waiting(MembershipWait::ChangeUnderWay));
        };
        let plan = plan(self.own().0, &members, wanted, &self.followers());
        match timeout(STEP_PATIENCE, self.carry_out(plan)).await {
            Ok(done) => done,
            Err(_) => Err(ReconcileError::TimedOut),
        }
    }

    fn followers(&self) -> BTreeMap<u64, Follower> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow();
        let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let last = next(metrics.last_log_index);
        let follower = |progress: FollowerProgress| {
            let matched = next(progress.matched.map(|id| id.index));
            let follower = Follower {
                answers: progress.silent.is_some_and(|silent| silent < SILENCE_MAX),
                caught_up: matched > 0
                    && last.saturating_sub(matched) <= CAUGHT_UP_ENTRIES
                    && self.log().bytes_above(matched - 1) <= CAUGHT_UP_BYTES,
            };
            (progress.replica.0, follower)
        };
        metrics::followers(&metrics).into_iter().map(follower).collect()
    }

    async fn carry_out(&self, plan: Plan) -> Result<MembershipStep, ReconcileError> {
        let (change, step) = match plan {
            Plan::Nothing => return Ok(MembershipStep::Settled),
            Plan::Wait(wait) => return Ok(MembershipStep::Waiting(wait)),
            Plan::MoveLeader(to) => return self.move_leader(ReplicaId(to)).await,
            // Adding nobody: openraft leaves a joint configuration by any change.
            Plan::FinishChange => {
                (ChangeMembers::AddVoterIds(BTreeSet::new()), MembershipStep::ChangeFinished)
            }
            Plan::AddLearner(id, peer) => (
                ChangeMembers::AddNodes(BTreeMap::from([(id, peer)])),
                MembershipStep::LearnerAdded(ReplicaId(id)),
            ),
            Plan::SetAddress(id, peer) => (
                ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])),
                MembershipStep::AddressChanged(ReplicaId(id)),
            ),
            Plan::ChangeVoters(voters) => {
                let step = voters.iter().copied().map(ReplicaId).collect();
                (ChangeMembers::ReplaceAllVoters(voters), MembershipStep::VotersChanged(step))
            }
            Plan::Remove(id) => (
                ChangeMembers::RemoveNodes(BTreeSet::from([id])),
                MembershipStep::Removed(ReplicaId(id)),
            ),
        };
        // Voters that go are retained as learners: they are removed last.
        match self.raft().change_membership(change, true).await {
            Ok(_) => Ok(step),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => Ok(MembershipStep::Waiting(MembershipWait::ChangeUnderWay)),
            Err(RaftError::APIError(error)) => Err(refused(&error)),
            Err(RaftError::Fatal(_)) => Err(ShardStopped.into()),
        }
    }

    async fn move_leader(&self, to: ReplicaId) -> Result<MembershipStep, ReconcileError> {
        match self.transfer_leader(to).await {
            Ok(()) => Ok(MembershipStep::LeaderMoved(to)),
            Err(TransferError::Stopped(stopped)) => Err(stopped.into()),
            Err(TransferError::NotLeader { leader } | TransferError::NotTaken { leader, .. }) => {
                Err(ReconcileError::NotLeader { leader })
            }
            Err(
                TransferError::NotVoter { .. }
                | TransferError::Behind { .. }
                | TransferError::Unreachable { .. },
            ) => Ok(MembershipStep::Waiting(MembershipWait::Learner(to))),
        }
    }
}

fn refused(error: &ClientWriteError<Types>) -> ReconcileError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => match forward.reason {
            ForwardReason::LeaseExpired => ReconcileError::NoQuorum,
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                ReconcileError::NotLeader { leader: forward.leader_id.map(ReplicaId) }
            }
        },
        ClientWriteError::LogEntryDiscarded(forward) => {
            ReconcileError::NotLeader { leader: forward.leader_id.map(ReplicaId) }
        }
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ReconcileError::Refused { reason: error.to_string() }
        }
    }
}

impl WantedMembers {
    fn check(&self) -> Result<(), ReconcileError> {
        if self.voters.is_empty() {
            return Err(ReconcileError::NoVoters);
        }
        match self.learners.keys().find(|replica| self.voters.contains_key(replica)) {
            Some(replica) => Err(ReconcileError::VoterAndLearner { replica: *replica }),
            None => Ok(()),
        }
    }

    fn all(&self) -> impl Iterator<Item = (u64, Peer)> {
        let all = self.voters.iter().chain(&self.learners);
        all.map(|(replica, address)| (replica.0, Peer { address: address.clone() }))
    }
}

/// The next step. `own` leads.
fn plan(
    own: u64,
    members: &Membership,
    wanted: &WantedMembers,
    followers: &BTreeMap<u64, Follower>,
) -> Plan {
    let [voters] = &members.get_joint_config()[..] else { return Plan::FinishChange };
    for (id, peer) in wanted.all() {
        match members.get_node(&id) {
            None => return Plan::AddLearner(id, peer),
            Some(known) if *known != peer => return Plan::SetAddress(id, peer),
            Some(_) => {}
        }
    }
    let view = |id: &u64| followers.get(id).copied().unwrap_or_default();
    let target: BTreeSet<u64> = wanted.voters.keys().map(|replica| replica.0).collect();
    let is_ready = |id: &&u64| view(id).answers && view(id).caught_up;
    let with_new: BTreeSet<u64> =
        voters.iter().chain(target.difference(voters).filter(is_ready)).copied().collect();

    // Replaced rather than lost: as many stay as are wanted. And never does a majority go at once.
    let may_go = with_new.len().saturating_sub(target.len()).min(voters.len() / 2);
    let mut going: Vec<u64> = voters.difference(&target).copied().collect();
    // First those that do not answer. The leader does not remove itself: it leaves the lead first.
    going.sort_by_key(|id| (view(id).answers, *id));
    going.retain(|id| *id != own);
    going.truncate(may_go);
    let next: BTreeSet<u64> = with_new.into_iter().filter(|id| !going.contains(id)).collect();

    if next != *voters {
        let answering = next.iter().filter(|id| **id == own || view(id).answers).count();
        return match answering > next.len() / 2 {
            true => Plan::ChangeVoters(next),
            false => Plan::Wait(MembershipWait::Majority),
        };
    }
    if let Some(missing) = target.difference(voters).next() {
        return Plan::Wait(MembershipWait::Learner(ReplicaId(*missing)));
    }
    if !target.contains(&own) {
        let successor = target.iter().find(is_ready).or(target.first());
        return successor.map_or(Plan::Nothing, |id| Plan::MoveLeader(*id));
    }
    let is_extra = |id: &u64| !wanted.all().any(|(wanted, _)| wanted == *id);
    match members.learner_ids().find(is_extra) {
        Some(id) => Plan::Remove(id),
        None => Plan::Nothing,
    }
}

#[cfg(test)]
mod tests;
