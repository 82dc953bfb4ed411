//! A snapshot to one follower: its description, the file in pieces, its checksum. The follower confirms
//! each piece that it has written, and says at times that it is still there while it takes the whole
//! over; so silence means that it is gone, whatever its connection says.

use std::time::Duration;

use openraft::raft::SnapshotResponse;
use railgun_types::crc32c_append;
use tokio::time::timeout;

use super::OPEN_PATIENCE;
use crate::applier::{RaftSnapshot, SnapshotPlace, Snapshots};
use crate::blocking_pool::{PoolStopped, run_on};
use crate::machine::{SnapshotError, SnapshotFile};
use crate::peers::{
    Destination, PeerError, PeerMessage, PeerNetwork, PeerReceiver, PeerSender, PeerStream,
    StreamUse,
};
use crate::raft_types::{RaftVote, Types};
use crate::wire::{self, InvalidMessage, SnapshotAnswer, SnapshotHead};

/// Bytes of the file read and sent at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Pieces that may be under way without a word about them.
const AHEAD_MAX: u32 = 4;
/// A follower that takes nothing and says nothing for this long is gone. Longer than a disk takes for
/// the slowest usual write.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is needed to send one.
pub(super) struct Sending<'a> {
    pub(super) peers: &'a dyn PeerNetwork,
    pub(super) to: &'a Destination,
    pub(super) snapshots: &'a Snapshots,
}

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the snapshot is lost, and none is promoted yet in its place")]
    Lost,
    #[error("the snapshot cannot be read: {0}")]
    Read(#[from] SnapshotError),
    #[error(transparent)]
    Pool(#[from] PoolStopped),
    #[error("the snapshot has fewer bytes than its file had")]
    Short,
    #[error("the answer is no answer: {0}")]
    Answer(#[from] InvalidMessage),
}

impl Sending<'_> {
    pub(super) async fn send(
        self,
        vote: RaftVote,
        snapshot: RaftSnapshot,
    ) -> Result<SnapshotResponse<Types>, SendError> {
        let SnapshotPlace::Current(path) = snapshot.snapshot else { return Err(SendError::Lost) };
        let file = self.snapshots.open(path).await??;
        let opened = timeout(OPEN_PATIENCE, self.peers.open(self.to, StreamUse::Snapshot)).await;
        let PeerStream { mut sender, mut receiver } =
            opened.map_err(|_| PeerError::Unreachable { reason: silence(OPEN_PATIENCE) })??;
        let head = SnapshotHead { vote, meta: snapshot.meta, bytes: file.bytes() };
        match self.send_file(&mut *sender, &mut *receiver, head, file).await {
            // A follower that does not want it says so and ends the stream.
            Err(SendError::Peer(error)) => {
                last_answer(&mut *receiver).await.map_err(|_| SendError::Peer(error))
            }
            Err(error) => Err(error),
            Ok(Some(early)) => Ok(early),
            Ok(None) => last_answer(&mut *receiver).await,
        }
    }

    /// Gives the answer if it comes before the end.
    async fn send_file(
        &self,
        sender: &mut dyn PeerSender,
        receiver: &mut dyn PeerReceiver,
        head: SnapshotHead,
        mut file: Box<dyn SnapshotFile>,
    ) -> Result<Option<SnapshotResponse<Types>>, SendError> {
        let mut left = head.bytes;
        send(sender, wire::encode_snapshot(&head)).await?;
        let mut crc = 0;
        let mut ahead = 0;
        while left > 0 {
            let max = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let read = move || {
                let chunk = file.read(max);
                (file, chunk)
            };
            let chunk;
            (file, chunk) = run_on(self.snapshots.pool(), read).await?;
            let chunk = chunk?;
            if chunk.is_empty() || chunk.len() > max {
                return Err(SendError::Short);
            }
            left -= chunk.len() as u64;
            crc = crc32c_append(crc, &chunk);
            send(sender, wire::encode_chunk(chunk)).await?;
            ahead += 1;
            if ahead > AHEAD_MAX {
                match answer(receiver).await? {
                    SnapshotAnswer::Taken => ahead -= 1,
                    SnapshotAnswer::Installed(early) => return Ok(Some(early)),
                }
            }
        }
        send(sender, wire::encode_file_end(crc)).await?;
        sender.finish();
        Ok(None)
    }
}

async fn send(sender: &mut dyn PeerSender, message: PeerMessage) -> Result<(), PeerError> {
    let sent = timeout(PATIENCE, sender.send(message)).await;
    sent.unwrap_or_else(|_| Err(PeerError::Broken { reason: silence(PATIENCE) }))
}

async fn answer(receiver: &mut dyn PeerReceiver) -> Result<SnapshotAnswer, SendError> {
    let received = timeout(PATIENCE, receiver.receive()).await;
    let received =
        received.unwrap_or_else(|_| Err(PeerError::Broken { reason: silence(PATIENCE) }));
    let ended = || PeerError::Broken { reason: "the follower has ended the stream".to_owned() };
    Ok(wire::decode_snapshot_answer(&received?.ok_or_else(ended)?.head)?)
}

async fn last_answer(
    receiver: &mut dyn PeerReceiver,
) -> Result<SnapshotResponse<Types>, SendError> {
    loop {
        if let SnapshotAnswer::Installed(answer) = answer(receiver).await? {
            return Ok(answer);
        }
    }
}

fn silence(patience: Duration) -> String {
    format!("the follower does nothing for {patience:?}")
}
