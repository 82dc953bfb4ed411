//! Raft's connections to other replicas, over whatever [`PeerNetwork`] the shard was given.
//!
//! Entries go over one stream for each follower ([`append`]), a snapshot over one of its own
//! ([`snapshot`]); votes, heartbeats and the transfer of the lead are calls. openraft decides when to
//! try again: a follower that is not reached costs an attempt every [`RETRY_MAX`], one that breaks off
//! is tried again at once.

mod append;
mod snapshot;

use std::future::{Future, ready};
use std::iter;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use railgun_types::{ReplicaId, ShardId};
use tokio::time::timeout;

use crate::applier::{RaftSnapshot, SnapshotPlace, Snapshots};
use crate::peers::{Destination, PeerError, PeerNetwork};
use crate::raft_types::{Peer, RaftVote, Types};
use crate::wire::{self, Append, Appended, InvalidMessage, Transfer};

/// The waits between attempts to reach a follower double from the first to the second. The second is
/// how late a follower that comes back is served at the most.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_millis(400);
/// A stream that is not open by then counts as not reachable.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);

type AppendResult = Result<Appended, RPCError<Types>>;

/// Makes clients for the replicas of one shard.
pub(crate) struct Network {
    pub(crate) shard: ShardId,
    pub(crate) own: ReplicaId,
    pub(crate) peers: Arc<dyn PeerNetwork>,
    pub(crate) snapshots: Snapshots,
}

/// A client of one replica.
pub(crate) struct Client {
    own: ReplicaId,
    to: Destination,
    peers: Arc<dyn PeerNetwork>,
    snapshots: Snapshots,
    /// Appends are single heartbeats, which are calls.
    heartbeats: bool,
}

impl Network {
    fn client(&self, target: u64, peer: &Peer, heartbeats: bool) -> Client {
        let replica = ReplicaId(target);
        let to = Destination { shard: self.shard, replica, address: peer.address.clone() };
        let peers = Arc::clone(&self.peers);
        Client { own: self.own, to, peers, snapshots: self.snapshots.clone(), heartbeats }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Client {
        self.client(target, peer, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> Client {
        self.client(target, peer, true)
    }
}

impl Client {
    /// Asks and waits for the answer as long as openraft does.
    async fn call<T>(
        &self,
        action: RPCTypes,
        request: Bytes,
        option: &RPCOption,
        decode: fn(&Bytes) -> Result<T, InvalidMessage>,
    ) -> Result<T, RPCError<Types>> {
        let (own, target) = (self.own.0, self.to.replica.0);
        let patience = option.hard_ttl();
        match timeout(patience, self.peers.call(&self.to, request)).await {
            Ok(answer) => decode(&answer.map_err(rpc_error)?).map_err(invalid),
            Err(_) => Err(Timeout { action, id: own, target, timeout: patience }.into()),
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotPlace;

    async fn append_entries(
        &mut self,
        request: Append,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let mut answers = self.stream_append(stream::once(ready(request)), option).await?;
        let answer = answers.next().await.unwrap_or_else(|| Err(broken("no answer")));
        answer.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Types>>>
    where
        S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
    {
        // All that takes time is done within the stream: openraft gives up a stream at once when it
        // stops to lead, but waits for this future.
        let answers = if self.heartbeats {
            let client = &*self;
            let beat = move |append: Append| {
                let option = option.clone();
                async move {
                    let request = wire::encode_append(append).head;
                    client
                        .call(RPCTypes::AppendEntries, request, &option, wire::decode_appended)
                        .await
                }
            };
            input.then(beat).boxed()
        } else {
            append::session(Arc::clone(&self.peers), self.to.clone(), input)
        };
        Box::pin(ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = wire::encode_vote(&request);
        self.call(RPCTypes::Vote, request, &option, wire::decode_voted).await
    }

    // The default of this one grants the vote.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = wire::encode_pre_vote(&request);
        self.call(RPCTypes::Vote, request, &option, wire::decode_voted).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending =
            snapshot::Sending { peers: &*self.peers, to: &self.to, snapshots: &self.snapshots };
        match select(pin!(cancel), pin!(sending.send(vote, snapshot))).await {
            Either::Left((closed, _)) => Err(closed.into()),
            Either::Right((Ok(answer), _)) => Ok(answer),
            // Until its owner has promoted another.
            Either::Right((Err(error @ snapshot::SendError::Lost), _)) => {
                tracing::debug!(shard = %self.to.shard, to = %self.to.replica, %error);
                Err(Unreachable::new(&error).into())
            }
            Either::Right((Err(error), _)) => {
                tracing::warn!(shard = %self.to.shard, to = %self.to.replica, %error,
                    "a snapshot did not arrive; it is sent again");
                Err(match error {
                    snapshot::SendError::Peer(error) => streaming_error(error),
                    error => NetworkError::new(&error).into(),
                })
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: Transfer,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = wire::encode_transfer(&request);
        self.call(RPCTypes::TransferLeader, request, &option, wire::decode_transferred).await
    }

    fn backoff(&self) -> Option<Backoff> {
        let next = |wait: &Duration| Some((*wait * 2).min(RETRY_MAX));
        Some(Backoff::new(iter::successors(Some(RETRY_MIN), next)))
    }
}

/// openraft tries again at once after a break, and after a pause where nothing was reached.
fn rpc_error(error: PeerError) -> RPCError<Types> {
    match error {
        PeerError::Broken { .. } => NetworkError::new(&error).into(),
        PeerError::Unreachable { .. } | PeerError::Refused { .. } => {
            Unreachable::new(&error).into()
        }
    }
}

fn streaming_error(error: PeerError) -> StreamingError<Types> {
    match error {
        PeerError::Broken { .. } => NetworkError::new(&error).into(),
        PeerError::Unreachable { .. } | PeerError::Refused { .. } => {
            Unreachable::new(&error).into()
        }
    }
}

/// The other side speaks differently: no use to ask again at once.
fn invalid(error: InvalidMessage) -> RPCError<Types> {
    Unreachable::new(&error).into()
}

fn broken(reason: &str) -> RPCError<Types> {
    rpc_error(PeerError::Broken { reason: reason.to_owned() })
}
