//! Raft's connections to other replicas. A shard has a single replica for now: there is nobody to
//! reach, and every attempt says so. Connections over QUIC take the place of [`NoPeers`] alone.

use std::future::Future;
use std::path::PathBuf;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use railgun_types::ReplicaId;

use crate::raft_types::{Peer, RaftVote, Types};

/// Makes clients that reach nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoPeers;

/// A client of one replica.
#[derive(Debug)]
pub(crate) struct NoPeer {
    target: ReplicaId,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable<Types> {
        Unreachable::from_string(format!("there is no connection to replica {}", self.target))
    }
}

impl RaftNetworkFactory<Types> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: u64, _peer: &Peer) -> NoPeer {
        NoPeer { target: ReplicaId(target) }
    }
}

impl RaftNetworkV2<Types> for NoPeer {
    type SnapshotData = PathBuf;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    // The default of this one grants the vote.
    async fn pre_vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: SnapshotOf<Types, PathBuf>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(self.unreachable().into())
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }
}
