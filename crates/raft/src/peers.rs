//! How replicas of a shard reach one another. Connections are somebody else's: this is the seam
//! behind which they lie, and behind which a simulation puts its network.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use railgun_types::{ReplicaId, ShardId};

/// The replica that a message is for. Whoever receives it refuses what is meant for another: a node
/// may have begun a new life, with another replica of the same shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its shard.
    pub shard: ShardId,
    /// The replica; its node is in its number.
    pub replica: ReplicaId,
    /// Where the shard's membership says that the node is reached, for who knows no better.
    pub address: String,
}

/// What a stream between replicas is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUse {
    /// Entries, as long as one leads and the other follows.
    Append,
    /// One snapshot.
    Snapshot,
}

/// One message on a stream.
#[derive(Clone, Default)]
pub struct PeerMessage {
    /// What it says, in some bytes.
    pub head: Bytes,
    /// The bytes of entries or of a file that belong to it, handed on without a copy. What is received has
    /// one part at the most.
    pub body: Vec<Bytes>,
}

impl PeerMessage {
    /// Bytes of head and body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.head.len() + self.body.iter().map(Bytes::len).sum::<usize>()
    }
}

impl fmt::Debug for PeerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerMessage({} bytes)", self.bytes())
    }
}

/// A stream between two replicas, in both directions. Dropping either half before its end breaks the
/// stream for the other side.
pub struct PeerStream {
    /// To the other replica.
    pub sender: Box<dyn PeerSender>,
    /// From it.
    pub receiver: Box<dyn PeerReceiver>,
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").finish_non_exhaustive()
    }
}

/// Why a replica was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection, and none can be made now. Nothing was sent.
    #[error("not reachable: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The connection or the stream broke; what was sent may have arrived.
    #[error("the connection broke: {reason}")]
    Broken {
        /// How.
        reason: String,
    },
    /// The other side has no such replica, or none that answers.
    #[error("refused: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
}

/// Reaches other replicas. Calls and streams of one pair of nodes share connections, and neither waits
/// for the other.
pub trait PeerNetwork: Send + Sync + 'static {
    /// Sends a small request, and waits for the answer for as long as the caller does. Many calls are
    /// under way at a time, and answered in any order. Cancel safe: the request may have arrived.
    fn call<'a>(
        &'a self,
        to: &'a Destination,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>>;

    /// Opens a stream. Cancel safe.
    fn open<'a>(
        &'a self,
        to: &'a Destination,
        what_for: StreamUse,
    ) -> BoxFuture<'a, Result<PeerStream, PeerError>>;
}

/// The sending half of a stream.
pub trait PeerSender: Send + Sync {
    /// Sends one message; waits while the other side does not read. Cancel safe: what is left of a
    /// message goes out with the next.
    fn send(&mut self, message: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>>;

    /// Says that this was all. The other side reads what was sent, and then the end.
    fn finish(&mut self);
}

/// The receiving half of a stream.
pub trait PeerReceiver: Send + Sync {
    /// The next message; `None` at the end. Cancel safe.
    fn receive(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>>;
}

/// Reaches nobody: for a shard that has a single replica.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl NoPeers {
    fn alone() -> PeerError {
        PeerError::Unreachable { reason: "this node has no connections to others".to_owned() }
    }
}

impl PeerNetwork for NoPeers {
    fn call<'a>(
        &'a self,
        _to: &'a Destination,
        _request: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(std::future::ready(Err(Self::alone())))
    }

    fn open<'a>(
        &'a self,
        _to: &'a Destination,
        _what_for: StreamUse,
    ) -> BoxFuture<'a, Result<PeerStream, PeerError>> {
        Box::pin(std::future::ready(Err(Self::alone())))
    }
}
