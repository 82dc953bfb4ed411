//! The other end of [`crate::network`]: what other replicas ask of this one. Whoever holds the
//! connections has checked that the request is meant for this replica.

mod append;
mod snapshot;

use std::time::Duration;

use bytes::Bytes;
use openraft::raft::AppendEntriesResponse;
use railgun_types::{NodeId, ReplicaId};

use crate::blocking_pool::PoolStopped;
use crate::leadership::ShardStopped;
use crate::machine::SnapshotError;
use crate::peers::{PeerError, PeerStream, StreamUse};
use crate::shard::RaftShard;
use crate::wire::{self, Append, Appended, InvalidMessage, Request};

/// Why another replica was not served. The shard is as well as before.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The bytes are no message, or not one that belongs here. The connection is of no use.
    #[error("another replica sent what cannot be understood: {0}")]
    Invalid(#[from] InvalidMessage),
    /// The caller is not on the node that it says.
    #[error("node {node} speaks for replica {speaker}, which is on another")]
    Impostor {
        /// Who called.
        node: NodeId,
        /// Who it says it is.
        speaker: ReplicaId,
    },
    /// The stream broke.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The other replica sends a snapshot and stopped in the middle.
    #[error("another replica sent nothing of its snapshot for {after:?}")]
    Silent {
        /// For how long.
        after: Duration,
    },
    /// A snapshot arrived damaged, and is not used.
    #[error("a snapshot arrived damaged: its checksum is {found:#010x}, not {expected:#010x}")]
    Damaged {
        /// What was sent.
        expected: u32,
        /// What arrived.
        found: u32,
    },
    /// A snapshot cannot be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot was not written.
    #[error(transparent)]
    Pool(#[from] PoolStopped),
    /// The shard was shut down or has failed.
    #[error(transparent)]
    Stopped(#[from] ShardStopped),
}

impl RaftShard {
    /// Answers a call of another replica of the shard ([`PeerNetwork::call`](crate::PeerNetwork)), which is
    /// on node `from`, if that is known: nobody asks for votes in another's name.
    /// Takes as long as a sync of the log, or half a second for a transfer of the lead. Cancel safe: the
    /// request may have had its effect.
    ///
    /// # Errors
    /// [`ServeError`]: the caller gets no answer.
    pub async fn answer(&self, from: Option<NodeId>, request: Bytes) -> Result<Bytes, ServeError> {
        let raft = self.raft();
        let request = wire::decode_request(&request)?;
        let speaker = request.speaker();
        if let Some(node) = from.filter(|node| *node != speaker.node()) {
            return Err(ServeError::Impostor { node, speaker });
        }
        Ok(match request {
            Request::Vote(request) => {
                wire::encode_voted(&raft.vote(request).await.map_err(|_| ShardStopped)?)
            }
            Request::PreVote(request) => {
                wire::encode_voted(&raft.pre_vote(request).await.map_err(|_| ShardStopped)?)
            }
            Request::Heartbeat(append) => wire::encode_appended(&self.beat(append).await?),
            Request::Transfer(request) => {
                let answer = raft.handle_transfer_leader(request).await;
                wire::encode_transferred(&answer.map_err(|_| ShardStopped)?)
            }
        })
    }

    async fn beat(&self, append: Append) -> Result<Appended, ServeError> {
        let previous = append.prev_log_id;
        let answer = self.raft().append_entries(append).await.map_err(|_| ShardStopped)?;
        if matches!(answer, AppendEntriesResponse::Conflict) && previous.is_none() {
            return Err(InvalidMessage::Inconsistent("a conflict with nothing").into());
        }
        Ok(answer.into_stream_result(previous, previous))
    }

    /// Serves a stream that another replica of the shard has opened
    /// ([`PeerNetwork::open`](crate::PeerNetwork)), until it ends. Dropping the future ends the stream;
    /// what was received of entries stays, what was received of a snapshot does not.
    ///
    /// # Errors
    /// [`ServeError`]; the stream is dropped.
    pub async fn serve_stream(
        &self,
        what_for: StreamUse,
        stream: PeerStream,
    ) -> Result<(), ServeError> {
        let serve = async {
            match what_for {
                StreamUse::Append => append::serve(self.raft(), stream).await,
                StreamUse::Snapshot => snapshot::serve(self.raft(), self.snapshots(), stream).await,
            }
        };
        tokio::select! {
            biased;
            () = self.stopped() => Err(ShardStopped.into()),
            served = serve => served,
        }
    }
}
