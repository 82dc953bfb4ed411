//! Proposals in flight: gives each a ticket and finds its owner again when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_core::command::{Command, CommandBody};
use railgun_log::Payload;
use railgun_raft::{LeaderState, Proposal, RaftShard, Unapplied, UnappliedSink};
use railgun_types::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::actors::Actors;
use crate::clock::Clock;

/// Most proposals in flight. Bounds the queue of unapplied ones, so that Raft's tasks never wait to report one;
/// and what Raft takes at once, so that an owner never waits for Raft, which may be waiting for it.
const IN_FLIGHT_MAX: usize = railgun_raft::PROPOSALS_MAX;

/// Why a proposal did not reach apply on this node with its ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeFailure {
    /// This node does not lead the shard, or cannot reach a majority. Nothing was written.
    #[error("the shard has no leader here now")]
    NotLeading,
    /// Too much is in flight. Nothing was written.
    #[error("too many requests are in flight on the shard")]
    Busy,
    /// The entry may be written or not.
    #[error("the outcome is not known: the shard's leader changed, or the node is stopping")]
    Unknown,
}

/// The entries one actor has proposed, each with a value of type `T` that waits for its end.
#[derive(Debug)]
pub(crate) struct Pipeline<T> {
    raft: Option<RaftShard>,
    clock: Arc<dyn Clock>,
    /// Log time of the last proposal.
    last_ts: Timestamp,
    next_ticket: u64,
    in_flight: BTreeMap<u64, InFlight<T>>,
}

#[derive(Debug)]
struct InFlight<T> {
    since: Instant,
    waiter: T,
}

/// Receives the proposals that did not reach apply.
pub(crate) type UnappliedQueue = mpsc::Receiver<Unapplied>;

/// The queue of what did not reach apply, and the sink that Raft reports it to.
pub(crate) fn unapplied_queue() -> (UnappliedSink, UnappliedQueue) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT_MAX);
    let sink = move |unapplied| {
        // Never full: there are at most as many of them as proposals in flight. Closed: the owner is gone.
        sender.try_send(unapplied).ok();
    };
    (Arc::new(sink), receiver)
}

impl<T> Pipeline<T> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            raft: None,
            clock,
            last_ts: Timestamp::default(),
            next_ticket: 0,
            in_flight: BTreeMap::new(),
        }
    }

    /// Proposals can be made from here on.
    pub(crate) fn connect(&mut self, raft: RaftShard) {
        self.raft = Some(raft);
    }

    pub(crate) fn leader(&self) -> LeaderState {
        self.raft.as_ref().map(|raft| raft.leader().state()).unwrap_or_default()
    }

    /// Tells `then` whether this replica leads still, so that what its state says now is what it says
    /// everywhere (CL-4). At once where nobody else could lead.
    pub(crate) fn confirm(&self, actors: &Actors, then: impl FnOnce(bool) + Send + 'static) {
        let Some(raft) = self.raft.clone() else { return then(false) };
        if self.is_alone() {
            return then(true);
        }
        actors.spawn("a question who leads", async move {
            then(raft.read_index().await.is_ok());
        });
    }

    /// Whether one more may be in flight.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// Proposals that have not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Log time must not fall behind what other leaders have given (SEMANTICS §0).
    pub(crate) fn observe(&mut self, ts: Timestamp) {
        self.last_ts = self.last_ts.max(ts);
    }

    /// Proposes a command; `waiter` comes back by [`Self::applied`] or [`Self::unapplied`]. Waits for no
    /// other task: there is room for all that may be in flight.
    ///
    /// # Errors
    /// Gives the waiter back where nothing was proposed.
    pub(crate) async fn propose(
        &mut self,
        body: CommandBody,
        waiter: T,
    ) -> Result<(), (T, ProposeFailure)> {
        let leader = self.leader();
        let Some(raft) = self.raft.clone().filter(|_| leader.serving) else {
            return Err((waiter, ProposeFailure::NotLeading));
        };
        if !self.has_room() {
            return Err((waiter, ProposeFailure::Busy));
        }
        self.observe(self.clock.now());
        let command = Command { ts: self.last_ts, body };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let payload = Payload::new(command.encode());
        // Apply on this node takes the command from memory instead of decoding it again.
        let companion = Some(Box::new(command) as railgun_raft::Companion);
        self.in_flight.insert(ticket, InFlight { since: Instant::now(), waiter });
        let proposal = Proposal { term: leader.term, payload, ticket, companion };
        match raft.propose(proposal).await {
            Ok(()) => Ok(()),
            Err(_) => match self.in_flight.remove(&ticket) {
                Some(ended) => Err((ended.waiter, ProposeFailure::NotLeading)),
                None => Ok(()),
            },
        }
    }

    /// The waiter of a proposal that was applied here.
    pub(crate) fn applied(&mut self, ticket: u64) -> Option<T> {
        self.in_flight.remove(&ticket).map(|ended| ended.waiter)
    }

    /// When the oldest proposal in flight will have waited for so long.
    pub(crate) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        self.in_flight.first_key_value().map(|(_, oldest)| oldest.since + patience)
    }

    /// The waiters of proposals that have waited for so long. They stay: the proposals have not ended.
    pub(crate) fn overdue(&mut self, patience: Duration) -> impl Iterator<Item = &mut T> {
        let proposals = self.in_flight.values_mut();
        // In the order of their tickets.
        proposals
            .take_while(move |proposal| proposal.since.elapsed() >= patience)
            .map(|proposal| &mut proposal.waiter)
    }

    /// Whether no other replica votes: nothing waits for others then.
    pub(crate) fn is_alone(&self) -> bool {
        self.raft.as_ref().is_none_or(|raft| raft.metrics().voters.len() <= 1)
    }

    /// The waiter of a proposal that ended otherwise.
    pub(crate) fn unapplied(&mut self, unapplied: Unapplied) -> Option<(T, ProposeFailure)> {
        let (ticket, failure) = match unapplied {
            Unapplied::NotLeader { ticket, .. } | Unapplied::NoQuorum { ticket } => {
                (ticket, ProposeFailure::NotLeading)
            }
            Unapplied::Unknown { ticket } => (ticket, ProposeFailure::Unknown),
        };
        self.in_flight.remove(&ticket).map(|ended| (ended.waiter, failure))
    }
}
