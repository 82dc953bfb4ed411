//! Decides when an actor writes a checkpoint, and has it written once the log is durable up to it:
//! what is derived from apply must not outlive what it was derived from (DESIGN §3).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_log::{EntryId, ShardLog};
use railgun_raft::ReadPool;
use tokio::time::Instant;

use super::CheckpointStore;
use crate::actors::Actors;
use crate::seams::run_on;

/// Log bytes after which a checkpoint is due, if they are this many times its size.
const LOG_BYTES: u64 = 64 << 20;
const SIZE_FACTOR: u64 = 16;
/// A quieter log is checkpointed after this time, if there is at least this much.
const QUIET: Duration = Duration::from_secs(30);
const QUIET_BYTES: u64 = 1 << 20;
/// Pause after one that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A checkpoint has been written, or not.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) id: EntryId,
    /// Its size in bytes.
    pub(crate) result: Result<u64, String>,
}

/// See the module. One for each actor with state.
pub(crate) struct Schedule {
    store: Arc<CheckpointStore>,
    log: ShardLog,
    actors: Actors,
    pool: Arc<dyn ReadPool>,
    /// Index of the last checkpoint on disk.
    last: Option<u64>,
    last_at: Instant,
    last_bytes: u64,
    writing: bool,
    wanted: bool,
    /// The last one failed then.
    failed_at: Option<Instant>,
}

impl Schedule {
    pub(crate) fn new(
        store: Arc<CheckpointStore>,
        log: ShardLog,
        actors: Actors,
        pool: Arc<dyn ReadPool>,
        restored: Option<u64>,
    ) -> Self {
        let last_at = Instant::now();
        Self {
            store,
            log,
            actors,
            pool,
            last: restored,
            last_at,
            last_bytes: 0,
            writing: false,
            failed_at: None,
            wanted: false,
        }
    }

    /// A checkpoint is wanted as soon as possible, whatever the log's growth.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether a checkpoint on disk holds everything up to `applied`.
    pub(crate) fn covers(&self, applied: u64) -> bool {
        self.last.is_some_and(|last| last >= applied)
    }

    /// Whether a checkpoint of the state at `applied` should be encoded now.
    pub(crate) fn is_due(&self, applied: u64) -> bool {
        let failed = self.failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER);
        if self.writing || failed || self.covers(applied) {
            return false;
        }
        let grown = self.log.bytes_above(self.last.unwrap_or(0));
        self.wanted
            || grown >= LOG_BYTES.max(self.last_bytes.saturating_mul(SIZE_FACTOR))
            || (grown >= QUIET_BYTES && self.last_at.elapsed() >= QUIET)
    }

    /// Writes the encoded state; `report` is called when it is on disk.
    pub(crate) fn write<F>(
        &mut self,
        id: EntryId,
        pieces: Vec<Bytes>,
        report: impl FnOnce(Written) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        self.writing = true;
        self.wanted = false;
        self.last_at = Instant::now();
        let (store, log) = (Arc::clone(&self.store), self.log.clone());
        let pool = Arc::clone(&self.pool);
        self.actors.spawn("a checkpoint writer", async move {
            let result = write_durably(&log, &*pool, store, id, pieces).await;
            report(Written { id, result }).await;
        });
    }

    /// What became of the last write. After a failure the next one is wanted soon.
    pub(crate) fn on_written(&mut self, written: &Written) {
        self.writing = false;
        match &written.result {
            Ok(bytes) => {
                self.last = Some(written.id.index);
                self.last_bytes = *bytes;
            }
            Err(error) => {
                tracing::warn!(%error, "a checkpoint could not be written");
                self.failed_at = Some(Instant::now());
                self.wanted = true;
            }
        }
    }
}

async fn write_durably(
    log: &ShardLog,
    pool: &dyn ReadPool,
    store: Arc<CheckpointStore>,
    id: EntryId,
    pieces: Vec<Bytes>,
) -> Result<u64, String> {
    // Mostly it is: what is applied was committed. A mark would wait behind entries that wait for
    // room, which only a checkpoint may be able to make.
    if log.durable_index().is_none_or(|durable| durable < id.index) {
        let (done, synced) = tokio::sync::oneshot::channel();
        let on_done = Box::new(move |result: Result<(), _>| drop(done.send(result)));
        log.sync_mark(on_done).map_err(|error| error.to_string())?;
        match synced.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("the log has stopped".to_owned()),
        }
    }
    let written = run_on(pool, move || store.write(id, &pieces)).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
