//! Gives the local log's space back: promotes a checkpoint below the floor, lets Raft purge up to
//! it, and removes files when the hot budget wants the space or somebody asks (DESIGN §1.3).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use railgun_log::{LogError, ShardLog};
use railgun_raft::{BlockingPool, PromoteError, RaftShard, SnapshotError, run_on};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::builtin_bug::{BuiltinBug, Planted};
use crate::checkpoint::{self, CheckpointStore, WriteError};
use crate::log_done::log_done;
use crate::replica::NodeStopping;
use crate::shard::ShardHandle;

/// How often files are looked at that may go.
const SHRINK_EVERY: Duration = Duration::from_millis(500);
/// How often a checkpoint is looked for that may be promoted, while the disk is full, the log has
/// outgrown its budget, or other replicas wait for a snapshot in the place of one that is lost. The last one may have come to be only after the floor had risen, and nothing
/// raises that again: nobody may publish.
const PURGE_EVERY: Duration = Duration::from_secs(2);
/// How often otherwise. Where another node leads, the floor rises without a word to this one.
const PURGE_ANYWAY_EVERY: Duration = Duration::from_secs(30);

/// How long Raft may take to give up what it may. Sealing, uploads and manifests wait meanwhile.
const PURGE_PATIENCE: Duration = Duration::from_secs(2);

/// Why space could not be given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReclaimError {
    #[error(transparent)]
    NodeStopping(#[from] NodeStopping),
    #[error("no checkpoint could be written: {0}")]
    Checkpoint(#[from] WriteError),
    #[error("no snapshot could be promoted: {0}")]
    Promote(#[from] PromoteError),
    #[error("the shard has stopped")]
    Stopped,
    #[error("the log could not free its files: {0}")]
    Log(#[from] LogError),
}

impl ReclaimError {
    /// Whether the disk had no room for what gives room: it may be tried again.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Checkpoint(error) => error.is_full(),
            Self::Promote(PromoteError::Source(SnapshotError::Io { source, .. })) => {
                checkpoint::is_full(source)
            }
            _ => false,
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Reclaimer {
    pub(crate) shard: ShardHandle,
    pub(crate) raft: RaftShard,
    /// Gets room before anybody else when there is some.
    pub(crate) checkpoints: Arc<CheckpointStore>,
    /// Where the checkpoints' files are touched.
    pub(crate) pool: Arc<dyn BlockingPool>,
    /// Bytes of log files that may stay as a cache of what is in the bucket.
    pub(crate) hot_bytes_max: u64,
    pub(crate) planted: Planted,
}

impl fmt::Debug for Reclaimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reclaimer").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl Reclaimer {
    fn log(&self) -> &ShardLog {
        self.shard.log()
    }

    /// Keeps the log files within the budget until cancelled, whatever the offloader is waiting for:
    /// an upload may take minutes.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut failing = false;
        let mut purged_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(SHRINK_EVERY) => {}
            }
            let shrunk = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                shrunk = self.tend(&mut purged_at) => shrunk,
            };
            match shrunk {
                Err(ReclaimError::NodeStopping(_)) => return,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(shard = %self.shard.id(), %error, "log files cannot be freed");
                }
                Err(_) => {}
                Ok(_) => failing = false,
            }
        }
    }

    async fn tend(&self, purged_at: &mut Instant) -> Result<u32, ReclaimError> {
        let needs_space =
            self.log().disk_full() || self.log().unpurged_bytes() > self.hot_bytes_max;
        let is_urgent = needs_space || self.checkpoints.has_lost_snapshot();
        let every = if is_urgent { PURGE_EVERY } else { PURGE_ANYWAY_EVERY };
        if purged_at.elapsed() >= every {
            *purged_at = Instant::now();
            let status = self.shard.offload_status().await?;
            // Whoever leads does it when the floor rises.
            if is_urgent || !status.serving {
                self.purge(status.floor.unwrap_or(0)).await?;
            }
        }
        self.shrink().await
    }

    /// Lets Raft give up what lies at or below `floor`, and frees files while they take more than
    /// the budget. Returns how many went.
    pub(crate) async fn reclaim(&self, floor: u64) -> Result<u32, ReclaimError> {
        self.purge(floor).await?;
        self.shrink().await
    }

    /// Frees files that Raft has given up while all files take more than the budget, or the disk is
    /// full: what cannot be given up grows while the bucket is away. Returns how many went.
    pub(crate) async fn shrink(&self) -> Result<u32, ReclaimError> {
        let Some(purged) = self.log().state().last_purged.map(|id| id.index) else { return Ok(0) };
        // On a full disk no file is worth keeping as a cache.
        let bytes_max = if self.log().disk_full() { 0 } else { self.hot_bytes_max };
        let files = self.log().files();
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let mut upto = None;
        for file in files.iter().filter(|file| file.closed && file.next_index <= purged + 1) {
            if bytes <= bytes_max {
                break;
            }
            bytes -= file.bytes;
            upto = file.next_index.checked_sub(1);
        }
        match upto {
            Some(upto) => self.free(upto).await,
            None => Ok(0),
        }
    }

    /// Frees every file up to the floor, whatever the budget: writes a checkpoint, promotes it,
    /// begins a new file. Returns how many went.
    pub(crate) async fn retire(&self) -> Result<u32, ReclaimError> {
        self.shard.checkpoint().await??;
        let floor = self.shard.offload_status().await?.floor;
        let Some(purged) = self.purge(floor.unwrap_or(0)).await? else { return Ok(0) };
        log_done(|done| self.log().roll(done)).await?;
        self.free(purged).await
    }

    /// Promotes the newest checkpoint at or below `floor`; returns the last index Raft has given up.
    async fn purge(&self, floor: u64) -> Result<Option<u64>, ReclaimError> {
        let floor = if self.planted.is(BuiltinBug::PurgeAboveFloor) { u64::MAX } else { floor };
        let promoted = match self.raft.promote_snapshot(floor).await {
            Ok(promoted) => promoted,
            Err(PromoteError::Source(SnapshotError::NoCheckpoint { .. })) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if promoted.index > floor {
            // Of an earlier life, or made current by Raft itself: it frees nothing above the floor.
            tracing::warn!(shard = %self.shard.id(), %promoted, floor, "snapshot above the floor");
        }
        let upto = promoted.index.min(floor);
        // Raft gives nothing up that a follower is just being sent, however slowly that takes it. Whoever
        // looks next sees what has gone.
        let purged = match timeout(PURGE_PATIENCE, self.raft.purged(upto)).await {
            Ok(purged) => Some(purged.map_err(|_| ReclaimError::Stopped)?),
            Err(_) => self.log().state().last_purged,
        };
        Ok(purged.map(|purged| purged.index.min(floor)))
    }

    /// Removes closed files whose entries are all at or below `upto`.
    async fn free(&self, upto: u64) -> Result<u32, ReclaimError> {
        let before = self.log().files();
        let free = |file: &&railgun_log::FileInfo| file.closed && file.next_index <= upto + 1;
        let Some(last) = before.iter().filter(free).map(|file| file.next_index).max() else {
            return Ok(0);
        };
        // Readers turn to the bucket before the files go.
        self.shard.trim_index_below(last).await?;
        log_done(|done| self.log().retire(upto, done)).await?;
        let left = self.log().files();
        let gone = before.iter().filter(|old| left.iter().all(|new| new.sequence != old.sequence));
        let gone = u32::try_from(gone.count()).unwrap_or(u32::MAX);
        if gone > 0 {
            let checkpoints = Arc::clone(&self.checkpoints);
            run_on(&*self.pool, move || checkpoints.hold_reserve()).await.ok();
        }
        Ok(gone)
    }
}
