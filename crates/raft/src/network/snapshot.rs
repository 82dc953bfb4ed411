//! A snapshot to one follower: its description, the file in pieces, its checksum; then the answer,
//! when the follower has taken it over.

use std::time::Duration;

use openraft::raft::SnapshotResponse;
use railgun_types::crc32c_append;
use tokio::time::timeout;

use super::OPEN_PATIENCE;
use crate::applier::{RaftSnapshot, Snapshots};
use crate::blocking_pool::{PoolStopped, run_on};
use crate::machine::{SnapshotError, SnapshotFile};
use crate::peers::{
    Destination, PeerError, PeerMessage, PeerNetwork, PeerReceiver, PeerSender, PeerStream,
    StreamUse,
};
use crate::raft_types::{RaftVote, Types};
use crate::wire::{self, InvalidMessage, SnapshotHead};

/// Bytes of the file read and sent at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// A follower that takes no piece for this long is gone.
const PIECE_PATIENCE: Duration = Duration::from_secs(10);

/// What is needed to send one.
pub(super) struct Sending<'a> {
    pub(super) peers: &'a dyn PeerNetwork,
    pub(super) to: &'a Destination,
    pub(super) snapshots: &'a Snapshots,
    /// How long the follower may take to take it over.
    pub(super) answer_patience: Duration,
}

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Peer(#[from] PeerError),
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
        let file = self.snapshots.open(snapshot.snapshot.path).await??;
        let opened = timeout(OPEN_PATIENCE, self.peers.open(self.to, StreamUse::Snapshot)).await;
        let PeerStream { mut sender, mut receiver } =
            opened.map_err(|_| PeerError::Unreachable { reason: silence(OPEN_PATIENCE) })??;
        let head = SnapshotHead { vote, meta: snapshot.meta, bytes: file.bytes() };
        match self.send_file(&mut *sender, head, file).await {
            // A follower that does not want it says so and ends the stream.
            Err(SendError::Peer(error)) => {
                let refusal = answer(&mut *receiver, PIECE_PATIENCE).await;
                refusal.map_err(|_| SendError::Peer(error))
            }
            Err(error) => Err(error),
            Ok(()) => answer(&mut *receiver, self.answer_patience).await,
        }
    }

    async fn send_file(
        &self,
        sender: &mut dyn PeerSender,
        head: SnapshotHead,
        mut file: Box<dyn SnapshotFile>,
    ) -> Result<(), SendError> {
        let mut left = head.bytes;
        piece(sender, wire::encode_snapshot(&head)).await?;
        let mut crc = 0;
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
            piece(sender, wire::encode_chunk(chunk)).await?;
        }
        piece(sender, wire::encode_file_end(crc)).await?;
        sender.finish();
        Ok(())
    }
}

async fn piece(sender: &mut dyn PeerSender, message: PeerMessage) -> Result<(), PeerError> {
    let sent = timeout(PIECE_PATIENCE, sender.send(message)).await;
    sent.unwrap_or_else(|_| Err(PeerError::Broken { reason: silence(PIECE_PATIENCE) }))
}

async fn answer(
    receiver: &mut dyn PeerReceiver,
    patience: Duration,
) -> Result<SnapshotResponse<Types>, SendError> {
    let received = timeout(patience, receiver.receive()).await;
    let received =
        received.unwrap_or_else(|_| Err(PeerError::Broken { reason: silence(patience) }));
    let ended = || PeerError::Broken { reason: "the follower has ended the stream".to_owned() };
    Ok(wire::decode_installed(&received?.ok_or_else(ended)?.head)?)
}

fn silence(patience: Duration) -> String {
    format!("the follower does nothing for {patience:?}")
}
