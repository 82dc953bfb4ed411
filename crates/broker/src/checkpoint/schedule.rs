//! Decides when an actor writes a checkpoint, and has it written once the log is durable up to it:
//! what is derived from apply must not outlive what it was derived from (DESIGN §3).

use std::sync::Arc;
use std::time::Duration;

use railgun_core::checkpoint::Unwritten;
use railgun_log::{LogError, ShardLog};
use railgun_raft::{BlockingPool, PoolStopped, run_on};
use railgun_types::EntryId;
use tokio::time::Instant;

use super::CheckpointStore;
use super::store::StoreError;
use crate::actors::Actors;
use crate::log_done::log_done;
use crate::thresholds::CheckpointCadence;

/// A quiet log is not checkpointed before it has grown by the last one's size divided by this.
const QUIET_PART: u64 = 4;
/// Pause after one that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A checkpoint has been written, or not.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) id: EntryId,
    /// Its size in bytes.
    pub(crate) result: Result<u64, WriteError>,
}

/// Why a checkpoint was not written. It is tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the log could not be synced up to it: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pool(#[from] PoolStopped),
}

impl WriteError {
    /// Whether there was no room for it.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Log(error) => matches!(error, LogError::Full),
            Self::Store(error) => error.is_full(),
            Self::Pool(_) => false,
        }
    }
}

/// See the module. One for each actor with state.
pub(crate) struct Schedule {
    store: Arc<CheckpointStore>,
    log: ShardLog,
    actors: Actors,
    pool: Arc<dyn BlockingPool>,
    cadence: CheckpointCadence,
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
        pool: Arc<dyn BlockingPool>,
        cadence: CheckpointCadence,
        restored: Option<u64>,
    ) -> Self {
        let (last_at, last_bytes) = (Instant::now(), store.newest_bytes());
        Self {
            store,
            log,
            actors,
            pool,
            cadence,
            last: restored,
            last_at,
            last_bytes,
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
        !self.is_below(applied) && !self.store.has_lost_newest()
    }

    /// Whether the last one does not hold everything up to this index.
    pub(crate) fn is_below(&self, index: u64) -> bool {
        self.last.is_none_or(|last| last < index)
    }

    /// Whether a checkpoint of the state at `applied` should be encoded now. `is_short`: whether the log
    /// is in need of one, if none is due yet.
    pub(crate) fn is_due(&self, applied: u64, is_short: impl FnOnce() -> bool) -> bool {
        let failed = self.failed_at.is_some_and(|at| at.elapsed() < RETRY_AFTER);
        if self.writing || failed || self.covers(applied) {
            return false;
        }
        let grown = self.log.bytes_above(self.last.unwrap_or(0));
        let CheckpointCadence { log_bytes, size_factor, quiet, quiet_bytes } = self.cadence;
        self.wanted
            || self.store.has_lost_newest()
            || grown >= log_bytes.max(self.last_bytes.saturating_mul(size_factor))
            || (grown >= quiet_bytes.max(self.last_bytes / QUIET_PART)
                && self.last_at.elapsed() >= quiet)
            || is_short()
    }

    /// Writes the state; `report` is called when it is on disk.
    pub(crate) fn write<F>(
        &mut self,
        id: EntryId,
        state: Unwritten,
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
            let result = write_durably(&log, &*pool, store, id, state).await;
            report(Written { id, result }).await;
        });
    }

    /// The state was replaced by that of a snapshot at this index, which is on disk.
    pub(crate) fn on_installed(&mut self, index: u64, bytes: u64) {
        self.last = Some(index);
        self.last_bytes = bytes;
        self.last_at = Instant::now();
    }

    /// What became of the last write. After a failure the next one is wanted soon.
    pub(crate) fn on_written(&mut self, written: &Written) {
        self.writing = false;
        match &written.result {
            // A snapshot may have come in between.
            Ok(_) if self.last >= Some(written.id.index) => {}
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
    pool: &dyn BlockingPool,
    store: Arc<CheckpointStore>,
    id: EntryId,
    state: Unwritten,
) -> Result<u64, WriteError> {
    // Mostly it is: what is applied was committed. A mark would wait behind entries that wait for
    // room, which only a checkpoint may be able to make.
    if log.durable_index().is_none_or(|durable| durable < id.index) {
        log_done(|done| log.sync_mark(done)).await?;
    }
    let written = run_on(pool, move || store.write(id, &state.pieces())).await;
    Ok(written??)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use railgun_core::catalog::Catalog;
    use railgun_core::checkpoint::CheckpointError;
    use railgun_log::{Entry, LogWriter, Payload, SimDisk, Step};
    use railgun_raft::{Inline, SnapshotSource};
    use tokio::time::advance;

    use super::*;
    use crate::checkpoint::testing::log_and_checkpoints;

    const CADENCE: CheckpointCadence = CheckpointCadence {
        log_bytes: 100_000,
        size_factor: 16,
        quiet: Duration::from_secs(30),
        quiet_bytes: 10_000,
    };

    /// A log whose writer is stepped by hand, and the schedule of its checkpoints.
    struct Rig {
        writer: LogWriter,
        log: ShardLog,
        store: Arc<CheckpointStore>,
        schedule: Schedule,
        next: u64,
    }

    impl Rig {
        fn start() -> Self {
            let (writer, log, store) = log_and_checkpoints();
            let (actors, pool) = (Actors::new(), Arc::new(Inline));
            let schedule =
                Schedule::new(Arc::clone(&store), log.clone(), actors, pool, CADENCE, None);
            let mut rig = Self { writer, log, store, schedule, next: 0 };
            // What is above it is counted.
            rig.append(1);
            rig.drive();
            rig
        }

        /// Appends an entry of about so many bytes; it is queued, and not yet durable.
        fn append(&mut self, bytes: usize) -> EntryId {
            let id = EntryId { term: 1, index: self.next };
            self.next += 1;
            let payload = Payload::from_bytes(vec![7; bytes].into());
            let entry = Entry { id, kind: 0, payload };
            self.log.append(vec![entry], Box::new(|_| ())).expect("taken");
            id
        }

        fn drive(&mut self) {
            while self.writer.step(Duration::ZERO) == Step::Progressed {}
        }

        fn is_due(&self) -> bool {
            self.schedule.is_due(self.next - 1, || false)
        }

        /// Notes that a checkpoint of everything was written, of so many bytes.
        fn written(&mut self, bytes: u64) {
            let id = EntryId { term: 1, index: self.next - 1 };
            self.schedule.last_at = Instant::now();
            self.schedule.on_written(&Written { id, result: Ok(bytes) });
        }

        /// After one of so many bytes, however long ago, a quarter of them must have been appended.
        async fn is_due_for_a_quarter_of_100_000_bytes(&mut self) {
            self.append(20_000);
            self.drive();
            advance(CADENCE.quiet * 2).await;
            assert!(!self.is_due());
            self.append(10_000);
            self.drive();
            assert!(self.is_due());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_due_after_so_much_log() {
        let mut rig = Rig::start();
        rig.append(60_000);
        rig.drive();
        assert!(!rig.is_due(), "not enough yet");
        rig.append(60_000);
        rig.drive();
        assert!(rig.is_due());
        rig.written(10_000);
        assert!(!rig.is_due(), "nothing is new");
        // Now as much log as 16 of its size.
        rig.append(120_000);
        rig.drive();
        assert!(!rig.is_due());
        rig.append(50_000);
        rig.drive();
        assert!(rig.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_a_quiet_log_is_due_after_a_while() {
        let mut rig = Rig::start();
        rig.append(5_000);
        rig.drive();
        advance(CADENCE.quiet * 2).await;
        assert!(!rig.is_due(), "too little to be worth one");
        rig.append(20_000);
        rig.drive();
        assert!(rig.is_due());
        rig.written(10);
        rig.append(20_000);
        rig.drive();
        assert!(!rig.is_due(), "not so soon after the last one");
        advance(CADENCE.quiet).await;
        assert!(rig.is_due());
        // A large one is not written for each little that comes.
        rig.written(100_000);
        rig.is_due_for_a_quarter_of_100_000_bytes().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_size_of_the_last_one_is_known_after_a_restart() {
        let mut rig = Rig::start();
        let pieces = [vec![7; 100_000].into()];
        rig.store.write(EntryId { term: 1, index: 0 }, &pieces).expect("written");
        let (store, log) = (Arc::clone(&rig.store), rig.log.clone());
        rig.schedule = Schedule::new(store, log, Actors::new(), Arc::new(Inline), CADENCE, Some(0));
        rig.is_due_for_a_quarter_of_100_000_bytes().await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_failed_is_tried_again_after_a_pause() {
        let mut rig = Rig::start();
        let id = rig.append(10);
        rig.drive();
        assert!(!rig.is_due());
        rig.schedule.want();
        assert!(rig.is_due(), "whatever the log's growth");
        rig.schedule.on_written(&Written { id, result: Err(PoolStopped.into()) });
        assert!(!rig.is_due());
        advance(RETRY_AFTER).await;
        assert!(rig.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_due_where_the_newest_was_set_aside() {
        let (disk, mut rig) = (Arc::<SimDisk>::default(), Rig::start());
        let check = |bytes: &[u8]| match bytes {
            b"good" => Ok(Bytes::new()),
            _ => Err(CheckpointError::NotACheckpoint),
        };
        let dir = "checkpoints".into();
        rig.store = CheckpointStore::open(disk, dir, u64::MAX, Arc::new(check)).unwrap().into();
        rig.schedule.store = Arc::clone(&rig.store);
        let first = rig.append(10);
        let id = rig.append(10);
        rig.drive();
        rig.store.write(first, &["good".into()]).expect("written");
        rig.store.write(id, &["bad".into()]).expect("written");
        rig.written(3);
        assert!(!rig.is_due() && rig.schedule.covers(id.index));
        let promoted = rig.store.promote(0, id.index).expect("the other");
        assert_eq!(promoted.applied.id, first);
        assert!(rig.is_due() && !rig.schedule.covers(id.index), "nothing else may ever come");
        rig.store.write(id, &["good".into()]).expect("written");
        rig.written(4);
        assert!(!rig.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_written_before_the_log_is_durable_up_to_it() {
        let mut rig = Rig::start();
        let id = rig.append(10);
        let (to, mut from) = tokio::sync::mpsc::channel(1);
        let state = Catalog::default().encode_checkpoint(None, b"voters");
        let bytes = Catalog::default().encode_checkpoint(None, b"voters").pieces().concat();
        rig.schedule.write(id, state, move |written| async move {
            to.send(written).await.expect("the test listens");
        });
        assert!(!rig.is_due(), "one at a time");
        // Time passes when nothing else can go on.
        advance(Duration::from_secs(60)).await;
        assert_eq!(rig.store.newest_bytes(), 0, "the entry is not durable");
        rig.drive();
        let written = from.recv().await.expect("written");
        assert_eq!((written.id, written.result.ok()), (id, Some(bytes.len() as u64)));
        let content = |bytes: &[u8]| Ok(bytes.to_vec());
        assert_eq!(rig.store.newest(content).expect("read").whole, Some((id, bytes)));
    }
}
