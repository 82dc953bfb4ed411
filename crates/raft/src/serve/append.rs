//! A leader's entries. Requests are handed to Raft as they come, answers go back in their order.

use std::collections::VecDeque;
use std::pin::pin;

use futures::StreamExt;
use futures::stream;
use openraft::Raft;
use tokio::sync::mpsc;

use super::ServeError;
use crate::applier::Applier;
use crate::leadership::ShardStopped;
use crate::peers::{PeerMessage, PeerStream};
use crate::raft_types::Types;
use crate::wire;

/// What may wait for the disk at a time: bytes (or one request), and requests. A leader sends no more.
const PENDING_BYTES_MAX: usize = 8 << 20;
const PENDING_MAX: usize = 64;

pub(super) async fn serve(
    raft: &Raft<Types, Applier>,
    stream: PeerStream,
) -> Result<(), ServeError> {
    let PeerStream { mut sender, mut receiver } = stream;
    let (requests, queue) = mpsc::channel(PENDING_MAX);
    let queue = stream::unfold(queue, |mut queue: mpsc::Receiver<_>| async move {
        Some((queue.recv().await?, queue))
    });
    let mut answers = pin!(raft.stream_append(queue));
    // Gone at the end of the stream.
    let mut requests = Some(requests);
    let mut pending = VecDeque::new();
    let mut pending_bytes = 0;
    loop {
        let has_room = pending.len() < PENDING_MAX
            && (pending.is_empty() || pending_bytes < PENDING_BYTES_MAX);
        tokio::select! {
            biased;
            answer = answers.next() => {
                // The end: every request was answered.
                let Some(answer) = answer else {
                    sender.finish();
                    return Ok(());
                };
                let answer = answer.map_err(|_| ShardStopped)?;
                pending_bytes -= pending.pop_front().unwrap_or(0);
                let head = wire::encode_appended(&answer);
                sender.send(PeerMessage { head, body: Vec::new() }).await?;
                if answer.is_err() {
                    // The leader begins anew, elsewhere in the log, or leads no more.
                    sender.finish();
                    return Ok(());
                }
            }
            message = receiver.receive(), if has_room && requests.is_some() => {
                match (message?, &requests) {
                    (Some(message), Some(to)) => {
                        let bytes = message.bytes();
                        let request = wire::decode_append(message)?;
                        pending.push_back(bytes);
                        pending_bytes += bytes;
                        // There is room, for no more than that are pending.
                        to.send(request).await.map_err(|_| ShardStopped)?;
                    }
                    _ => requests = None,
                }
            }
        }
    }
}
