//! One connection: two sides that share a link.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::VarInt;

use super::link::{Hold, Link, Side, View};
use super::pipe::{PipeReader, PipeWriter, pipe};
use crate::connection::ConnectionLost;

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

/// A connection: its dialling and its accepting side, on which so many streams can wait to be accepted.
pub(super) fn pair(
    link: &Arc<Link>,
    dialling_addr: SocketAddr,
    accepting_addr: SocketAddr,
    streams_max: u32,
) -> (MemoryConnection, MemoryConnection) {
    let (queue, streams) = async_channel::bounded(streams_max as usize);
    let side = |side, peer_addr, streams| MemoryConnection {
        hold: Arc::new(Hold(View::new(link, side))),
        peer_addr,
        streams,
    };
    let dialling = side(Side::Dialling, accepting_addr, Streams::Make(queue));
    let accepting = side(Side::Accepting, dialling_addr, Streams::Take(streams));
    (dialling, accepting)
}

impl MemoryConnection {
    pub(crate) async fn open(&self) -> Result<(PipeWriter, PipeReader), ConnectionLost> {
        let Streams::Make(queue) = &self.streams else {
            return Err(self.closed().await);
        };
        let ours = &self.hold.0;
        let theirs = ours.other();
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
        self.hold.0.close(code, reason);
    }

    pub(crate) async fn closed(&self) -> ConnectionLost {
        self.hold.0.lost().await
    }

    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.peer_addr
    }
}
