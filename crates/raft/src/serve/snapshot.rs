//! A leader's snapshot: written to a temporary place, checked, and handed to Raft, which installs it.

use std::pin::pin;
use std::time::Duration;

use openraft::Raft;
use openraft::raft::SnapshotResponse;
use railgun_types::crc32c_append;
use tokio::time::timeout;

use super::ServeError;
use crate::applier::{Applier, RaftSnapshot, SnapshotPlace, Snapshots};
use crate::blocking_pool::run_on;
use crate::leadership::ShardStopped;
use crate::machine::SnapshotSink;
use crate::peers::{PeerError, PeerMessage, PeerReceiver, PeerSender, PeerStream};
use crate::raft_types::Types;
use crate::wire::{self, InvalidMessage, SnapshotAnswer, SnapshotPart};

/// A leader that sends nothing for this long is gone.
const PIECE_PATIENCE: Duration = Duration::from_secs(15);
/// While a snapshot is taken over, its sender is told this often that somebody is at work.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

pub(super) async fn serve(
    raft: &Raft<Types, Applier>,
    snapshots: &Snapshots,
    stream: PeerStream,
) -> Result<(), ServeError> {
    let PeerStream { mut sender, mut receiver } = stream;
    let head = wire::decode_snapshot(next(&mut *receiver).await?)?;
    let vote = raft.with_raft_state(|state| *state.vote_ref()).await.map_err(|_| ShardStopped)?;
    let answer = if head.vote >= vote {
        let sink = receive(&mut *sender, &mut *receiver, snapshots, head.bytes).await?;
        let take_over = async {
            let snapshot = finish(snapshots, sink).await?;
            let snapshot = RaftSnapshot { meta: head.meta, snapshot };
            let installed = raft.install_full_snapshot(head.vote, snapshot).await;
            Ok::<_, ServeError>(installed.map_err(|_| ShardStopped)?)
        };
        let mut take_over = pin!(take_over);
        loop {
            match timeout(SIGN_OF_LIFE, &mut take_over).await {
                Ok(installed) => break installed?,
                Err(_) => sender.send(taken()).await?,
            }
        }
    } else {
        // Its sender leads no more. What it sends need not be received to say so.
        SnapshotResponse { vote }
    };
    sender.send(wire::encode_snapshot_answer(&SnapshotAnswer::Installed(answer))).await?;
    sender.finish();
    Ok(())
}

fn taken() -> PeerMessage {
    wire::encode_snapshot_answer(&SnapshotAnswer::Taken)
}

/// Writes `left` bytes, confirms each piece, and compares the checksum.
async fn receive(
    sender: &mut dyn PeerSender,
    receiver: &mut dyn PeerReceiver,
    snapshots: &Snapshots,
    mut left: u64,
) -> Result<Box<dyn SnapshotSink>, ServeError> {
    let mut sink = snapshots.receive(left).await??;
    let mut crc = 0;
    loop {
        match wire::decode_snapshot_part(next(receiver).await?)? {
            SnapshotPart::Chunk(chunk) => {
                let rest = left.checked_sub(chunk.len() as u64).filter(|_| !chunk.is_empty());
                left = rest.ok_or(InvalidMessage::Inconsistent("more bytes than the file has"))?;
                crc = crc32c_append(crc, &chunk);
                let write = move || {
                    let written = sink.write(&chunk);
                    (sink, written)
                };
                let written;
                (sink, written) = run_on(snapshots.pool(), write).await?;
                written?;
                sender.send(taken()).await?;
            }
            SnapshotPart::End { .. } if left > 0 => {
                return Err(InvalidMessage::Inconsistent("fewer bytes than the file has").into());
            }
            SnapshotPart::End { crc: expected } if expected != crc => {
                return Err(ServeError::Damaged { expected, found: crc });
            }
            SnapshotPart::End { .. } => return Ok(sink),
        }
    }
}

async fn finish(
    snapshots: &Snapshots,
    mut sink: Box<dyn SnapshotSink>,
) -> Result<SnapshotPlace, ServeError> {
    let finish = move || {
        let path = sink.finish()?;
        Ok(SnapshotPlace::Received(path, sink))
    };
    run_on(snapshots.pool(), finish).await?
}

async fn next(receiver: &mut dyn PeerReceiver) -> Result<PeerMessage, ServeError> {
    let received = timeout(PIECE_PATIENCE, receiver.receive()).await;
    let received = received.map_err(|_| ServeError::Silent { after: PIECE_PATIENCE })??;
    let ended = || PeerError::Broken { reason: "it ends within a snapshot".to_owned() };
    Ok(received.ok_or_else(ended)?)
}
