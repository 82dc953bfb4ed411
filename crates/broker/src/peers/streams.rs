//! A connection to one node for streams: Raft's entries on one, what is large on another, what clients
//! read on a third. Owns the connection, and hands its streams out.

use std::future::Future;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use railgun_net::{Connection, FrameReader, FrameWriter};
use railgun_proto::{Frame, v1};
use railgun_raft::PeerError;
use tokio::sync::mpsc;

use super::dial::DialTo;
use super::{Asked, OpenAsk, OpenResult};

pub(super) struct StreamLine {
    dial: DialTo,
    from: mpsc::Receiver<OpenAsk>,
}

impl StreamLine {
    pub(super) fn new(dial: DialTo, from: mpsc::Receiver<OpenAsk>) -> Self {
        Self { dial, from }
    }

    /// Connects whenever a stream is wanted and there is no connection, until none is wanted any more.
    pub(super) async fn run(mut self) {
        while let Some((dialled, first)) = self.dial.for_next(&mut self.from).await {
            // Its first stream is the connection's sign that both sides want it.
            let _first_stream = (dialled.writer, dialled.reader);
            if hand_out(&dialled.connection, first, &mut self.from).await {
                return;
            }
        }
    }
}

/// Opens streams as they are wanted, until the connection is lost, or, which it then says, until nobody
/// wants any more.
async fn hand_out(
    connection: &Connection,
    first: OpenAsk,
    from: &mut mpsc::Receiver<OpenAsk>,
) -> bool {
    let mut opening = FuturesUnordered::new();
    opening.push(open(connection.clone(), first));
    loop {
        tokio::select! {
            biased;
            _ = connection.closed() => {
                // They end with the connection.
                while opening.next().await.is_some() {}
                return false;
            }
            Some(()) = opening.next() => {}
            ask = from.recv() => match ask {
                Some(ask) => opening.push(open(connection.clone(), ask)),
                None => return true,
            },
        }
    }
}

fn open(connection: Connection, ask: OpenAsk) -> impl Future<Output = ()> {
    let Asked { wanted: open, mut reply } = ask;
    async move {
        let opened = tokio::select! {
            biased;
            () = reply.closed() => return,
            opened = begin(&connection, &open) => opened,
        };
        reply.send(opened).ok();
    }
}

async fn begin(connection: &Connection, open: &v1::PeerOpen) -> OpenResult {
    let broken = |error: &dyn std::fmt::Display| PeerError::Broken { reason: error.to_string() };
    let (mut writer, reader): (FrameWriter, FrameReader) =
        connection.open().await.map_err(|error| broken(&error))?;
    writer.send(Frame::new(open)).await.map_err(|error| broken(&error))?;
    Ok((writer, reader))
}
