//! One connection: two sides that share a link.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::VarInt;
use tokio::sync::SetOnce;

use super::pipe::{PipeReader, PipeWriter, pipe};
use crate::close_code;
use crate::connection::ConnectionLost;
use crate::quic::QUIC_STREAMS_MAX;

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialling,
    Accepting,
}

/// How a link came to its end.
#[derive(Clone, Debug)]
enum End {
    Closed { by: Side, code: VarInt, reason: String },
    Cut,
}

/// What both sides share: whether the connection lives. The first end counts. Those who wait for it
/// learn of it in the order of their waiting, which tokio's watch does not promise.
#[derive(Debug)]
pub(super) struct Link {
    end: SetOnce<End>,
}

impl Link {
    /// Ends the connection as if the network were gone.
    pub(super) fn cut(&self) {
        self.end_with(End::Cut);
    }

    pub(super) fn close(&self, by: Side, code: VarInt, reason: &str) {
        self.end_with(End::Closed { by, code, reason: reason.to_owned() });
    }

    fn end_with(&self, end: End) {
        self.end.set(end).ok();
    }

    pub(super) async fn ended(&self) {
        self.end.wait().await;
    }
}

/// One side's view of the link.
#[derive(Clone, Debug)]
pub(super) struct View {
    link: Arc<Link>,
    side: Side,
}

impl View {
    pub(super) async fn lost(&self) -> ConnectionLost {
        match self.link.end.wait().await {
            End::Closed { by, .. } if *by == self.side => ConnectionLost::ClosedLocally,
            End::Closed { code, reason, .. } => ConnectionLost::ClosedByPeer {
                code: close_code::from_wire(*code),
                reason: reason.clone(),
            },
            End::Cut => ConnectionLost::TimedOut,
        }
    }
}

/// One side's hold on the link: the connection closes when the side's last handle and stream are
/// gone. Streams that wait to be accepted hold nothing.
#[derive(Debug)]
pub(super) struct Hold(View);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.link.close(self.0.side, VarInt::from_u32(0), "");
    }
}

/// One side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct MemoryConnection {
    hold: Arc<Hold>,
    peer_addr: SocketAddr,
    streams: Streams,
}

/// The dialling side makes streams, the accepting side takes them.
#[derive(Clone, Debug)]
enum Streams {
    Make(async_channel::Sender<(PipeWriter, PipeReader)>),
    Take(async_channel::Receiver<(PipeWriter, PipeReader)>),
}

/// A connection: the link, the dialling and the accepting side.
pub(super) fn pair(
    dialling_addr: SocketAddr,
    accepting_addr: SocketAddr,
) -> (Arc<Link>, MemoryConnection, MemoryConnection) {
    let link = Arc::new(Link { end: SetOnce::new() });
    let (queue, streams) = async_channel::bounded(QUIC_STREAMS_MAX as usize);
    let side = |side, peer_addr, streams| MemoryConnection {
        hold: Arc::new(Hold(View { link: Arc::clone(&link), side })),
        peer_addr,
        streams,
    };
    let dialling = side(Side::Dialling, accepting_addr, Streams::Make(queue));
    let accepting = side(Side::Accepting, dialling_addr, Streams::Take(streams));
    (link, dialling, accepting)
}

impl MemoryConnection {
    pub(crate) async fn open(&self) -> Result<(PipeWriter, PipeReader), ConnectionLost> {
        let Streams::Make(queue) = &self.streams else {
            return Err(self.closed().await);
        };
        let ours = &self.hold.0;
        let theirs = View { link: Arc::clone(&ours.link), side: Side::Accepting };
        let (mut writer, their_reader) = pipe(ours.clone(), theirs.clone());
        let (their_writer, mut reader) = pipe(theirs, ours.clone());
        tokio::select! {
            biased;
            lost = self.closed() => Err(lost),
            sent = queue.send((their_writer, their_reader)) => match sent {
                Ok(()) => {
                    writer.hold(Arc::clone(&self.hold));
                    reader.hold(Arc::clone(&self.hold));
                    Ok((writer, reader))
                }
                Err(_) => Err(self.closed().await),
            },
        }
    }

    pub(crate) async fn accept(&self) -> Result<(PipeWriter, PipeReader), ConnectionLost> {
        let Streams::Take(streams) = &self.streams else {
            return Err(self.closed().await);
        };
        tokio::select! {
            biased;
            lost = self.closed() => Err(lost),
            stream = streams.recv() => match stream {
                Ok((mut writer, mut reader)) => {
                    writer.hold(Arc::clone(&self.hold));
                    reader.hold(Arc::clone(&self.hold));
                    Ok((writer, reader))
                }
                Err(_) => Err(self.closed().await),
            },
        }
    }

    pub(crate) fn close(&self, code: VarInt, reason: &str) {
        self.hold.0.link.close(self.hold.0.side, code, reason);
    }

    pub(crate) async fn closed(&self) -> ConnectionLost {
        self.hold.0.lost().await
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.peer_addr
    }
}
