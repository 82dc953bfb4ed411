//! Raft's way to other replicas, over the connections to their nodes.

use bytes::Bytes;
use futures::future::BoxFuture;
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::convert::Uid;
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_raft::{
    Destination, PeerError, PeerMessage, PeerNetwork, PeerReceiver, PeerSender, PeerStream,
    StreamUse,
};
use railgun_types::ClusterUid;

use super::calls::unexpected;
use super::{Addresses, Line, Peers};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RaftPeers {
    pub(crate) peers: Peers,
    pub(crate) cluster: ClusterUid,
    pub(crate) addresses: Addresses,
}

impl RaftPeers {
    /// A node may have moved since the shard's membership was written.
    fn address(&self, to: &Destination) -> String {
        self.addresses.of(to.replica.node()).unwrap_or_else(|| to.address.clone())
    }

    fn replica(&self, to: &Destination) -> v1::ReplicaAddress {
        v1::ReplicaAddress {
            cluster_uid: self.cluster.to_wire(),
            shard: to.shard.0,
            replica: to.replica.0,
        }
    }
}

impl PeerNetwork for RaftPeers {
    fn call<'a>(
        &'a self,
        to: &'a Destination,
        request: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(async move {
            let call = v1::peer_call::Call::Raft(self.replica(to));
            match self.peers.call(&self.address(to), call, request).await? {
                (v1::peer_reply::Answer::RaftAnswered(_), answer) => Ok(answer),
                (_, blob) => Err(unexpected(&blob)),
            }
        })
    }

    fn open<'a>(
        &'a self,
        to: &'a Destination,
        what_for: StreamUse,
    ) -> BoxFuture<'a, Result<PeerStream, PeerError>> {
        Box::pin(async move {
            let (line, stream_use) = match what_for {
                StreamUse::Append => (Line::Log, v1::PeerStreamUse::PeerStreamAppend),
                StreamUse::Snapshot => (Line::Bulk, v1::PeerStreamUse::PeerStreamSnapshot),
            };
            let open = v1::PeerOpen {
                to: Some(self.replica(to)),
                r#use: stream_use.into(),
                session: None,
            };
            let (writer, reader) = self.peers.open(&self.address(to), line, open).await?;
            Ok(raft_stream(writer, reader))
        })
    }
}

/// A stream of frames as Raft knows one.
pub(super) fn raft_stream(writer: FrameWriter, reader: FrameReader) -> PeerStream {
    PeerStream { sender: Box::new(Sender(writer)), receiver: Box::new(Receiver(reader)) }
}

struct Sender(FrameWriter);

struct Receiver(FrameReader);

impl PeerSender for Sender {
    fn send(&mut self, message: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>> {
        let PeerMessage { head, body } = message;
        let frame = Frame::with_blob(&v1::PeerData { head }, body);
        Box::pin(async move { self.0.send(frame).await.map_err(|error| broken(&error)) })
    }

    fn finish(&mut self) {
        self.0.finish();
    }
}

impl PeerReceiver for Receiver {
    fn receive(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>> {
        Box::pin(async move {
            let Some(frame) = self.0.next().await.map_err(|error| broken(&error))? else {
                return Ok(None);
            };
            if frame.kind() == FrameKind::Error {
                let error: v1::Error = frame.decode().map_err(|error| broken(&error))?;
                let reason = WireError::from(error).to_string();
                return Err(PeerError::Refused { reason });
            }
            let data: v1::PeerData = frame.decode().map_err(|error| broken(&error))?;
            Ok(Some(PeerMessage { head: data.head, body: vec![frame.blob()] }))
        })
    }
}

fn broken(error: &dyn std::fmt::Display) -> PeerError {
    PeerError::Broken { reason: error.to_string() }
}
