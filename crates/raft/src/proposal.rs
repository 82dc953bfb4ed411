//! A proposal and what becomes of it. Its ticket comes back exactly once: with its entry in
//! [`StateMachine::apply`](crate::StateMachine::apply), or as an [`Unapplied`].

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use railgun_log::Payload;
use railgun_types::ReplicaId;

use crate::raft_types::{LogId, Types};

/// A value of the proposer's own, kept in memory beside its entry and handed to
/// [`StateMachine::apply`](crate::StateMachine::apply) on this node only.
pub type Companion = Box<dyn Any + Send + Sync>;

/// Where proposals end that do not reach apply. Called on Raft's own tasks, so it must not block: it
/// sends a message.
pub type UnappliedSink = Arc<dyn Fn(Unapplied) + Send + Sync>;

/// One entry to be appended to the shard's log.
pub struct Proposal {
    /// The term in which the proposer believes to lead, from [`LeaderState`](crate::LeaderState).
    /// In any other term the proposal is refused as [`Unapplied::NotLeader`], so a stale proposer
    /// cannot write in a later term of the same node.
    pub term: u64,
    /// The entry's bytes.
    pub payload: Payload,
    /// Names the proposal when it comes back. Need not be unique for this crate.
    pub ticket: u64,
    /// Comes back in apply; dropped where that is not reached.
    pub companion: Option<Companion>,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposal")
            .field("term", &self.term)
            .field("bytes", &self.payload.len())
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// The end of a proposal that did not reach apply with its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unapplied {
    /// The entry was not written: this replica does not lead, or leads in another term than the
    /// proposal names.
    NotLeader {
        /// The proposal.
        ticket: u64,
        /// Who leads, as far as known. May be this replica, in a later term.
        leader: Option<ReplicaId>,
    },
    /// The entry was not written: this replica leads but has not heard from a majority lately.
    /// Retry here, not elsewhere.
    NoQuorum {
        /// The proposal.
        ticket: u64,
    },
    /// The entry may be in the log or not, and may be applied or not: the leader changed, the shard
    /// was shut down or failed. Deduplication must decide a retry (PQ-1).
    Unknown {
        /// The proposal.
        ticket: u64,
    },
}

/// A ticket on its way through openraft. Dropped anywhere, it reports [`Unapplied::Unknown`].
pub(crate) struct Claim {
    ticket: u64,
    companion: Option<Companion>,
    sink: UnappliedSink,
    settled: bool,
}

impl Claim {
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    pub(crate) fn take_companion(&mut self) -> Option<Companion> {
        self.companion.take()
    }

    /// The state machine has seen the ticket: nothing to report.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }

    fn report(mut self, unapplied: Unapplied) {
        self.settled = true;
        (self.sink)(unapplied);
    }

    fn refuse(self, forward: &ForwardToLeader<Types>) {
        let ticket = self.ticket;
        self.report(match forward.reason {
            ForwardReason::LeaseExpired => Unapplied::NoQuorum { ticket },
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                Unapplied::NotLeader { ticket, leader: forward.leader_id.map(ReplicaId) }
            }
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            (self.sink)(Unapplied::Unknown { ticket: self.ticket });
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim({})", self.ticket)
    }
}

/// What the state machine "answers" to a proposal: an empty place in which the responder, called on
/// the spot, leaves the claim. This is how a ticket finds its entry without a shared table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deposit(Arc<OnceLock<Claim>>);

impl Deposit {
    /// The claim left here. Makes the place empty again.
    pub(crate) fn take(&mut self) -> Option<Claim> {
        if let Some(place) = Arc::get_mut(&mut self.0) {
            return place.take();
        }
        // The answer went to a caller inside openraft (a membership change) that keeps it.
        *self = Self::default();
        None
    }
}

/// openraft's way to end a proposal. A plain value: no channel and no waiting task per proposal.
pub(crate) struct Responder<T> {
    claim: Claim,
    /// Knows what `T` is; the trait's method does not.
    complete: fn(Claim, T),
}

impl Responder<ClientWriteResult<Types>> {
    pub(crate) fn new(ticket: u64, companion: Option<Companion>, sink: UnappliedSink) -> Self {
        let claim = Claim { ticket, companion, sink, settled: false };
        Self { claim, complete }
    }
}

fn complete(claim: Claim, result: ClientWriteResult<Types>) {
    match result {
        // A claim that does not fit is dropped by `set`, and so reported as unknown.
        Ok(response) => drop(response.data.0.set(claim)),
        Err(ClientWriteError::ForwardToLeader(forward)) => claim.refuse(&forward),
        // The entry was cut from the log or purged under a snapshot; another leader may have
        // committed it. The other two belong to membership changes.
        Err(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        ) => drop(claim),
    }
}

impl<T: Send + 'static> openraft::raft::responder::Responder<Types, T> for Responder<T> {
    fn on_commit(&mut self, _id: LogId) {}

    fn on_complete(self, result: T) {
        (self.complete)(self.claim, result);
    }
}
