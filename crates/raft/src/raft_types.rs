//! The types this crate gives openraft, spelt once.

use std::fmt;

use openraft::impls::{BoxedErrorSource, InlineBatch, leader_id_std};
use openraft::type_config::alias;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};
use railgun_log::{Payload, Vote};
use railgun_types::EntryId;

use crate::proposal::{Deposit, Responder};
use crate::runtime::Runtime;

/// openraft's type configuration of a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Command;
    type R = Deposit;
    /// A `ReplicaId`: node and incarnation.
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    /// One leader per term, so that an entry's identity is (term, index) as in the log's frames.
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = RaftPayload;
    type Entry = openraft::Entry<alias::CommittedLeaderIdOf<Self>, RaftPayload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Responder<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type RaftPayload = EntryPayload<Command, u64, Peer>;
pub(crate) type RaftEntry = alias::EntryOf<Types>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type RaftVote = alias::VoteOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// What a normal entry carries: bytes of the shard's owner, in the parts they came in.
pub(crate) struct Command(pub(crate) Payload);

// openraft formats commands when it traces: lengths only, for they may hold megabytes and secrets.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({self})")
    }
}

/// What a membership says about a replica besides its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Where the replica's node can be reached by other nodes.
    pub(crate) address: String,
}

/// openraft's name for an entry of the log.
pub(crate) fn to_log_id(id: EntryId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

/// The log's name for an entry of openraft.
pub(crate) fn to_entry_id(id: &LogId) -> EntryId {
    EntryId { term: *id.leader_id, index: id.index }
}

/// openraft's form of a vote read from the log.
pub(crate) fn to_raft_vote(vote: Vote) -> RaftVote {
    let leader_id = leader_id_std::LeaderId { term: vote.term, voted_for: vote.node };
    RaftVote { leader_id, committed: vote.committed }
}

/// The log's form of a vote of openraft.
pub(crate) fn to_log_vote(vote: &RaftVote) -> Vote {
    let leader = vote.leader_id;
    Vote { term: leader.term, node: leader.voted_for, committed: vote.committed }
}
