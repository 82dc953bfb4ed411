//! openraft's own tests of a log store and a state machine, on ours.

use std::path::Path;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use railgun_types::ReplicaId;
use tempfile::TempDir;

use super::disk_log::DiskLog;
use super::recorder::{Checkpoints, Recorder, State};
use crate::applier::{Applier, Snapshots};
use crate::blocking_pool::BlockingThreads;
use crate::leadership::Leadership;
use crate::log_store::LogStore;
use crate::machine::{Snapshot, SnapshotError, SnapshotFile, SnapshotSink, SnapshotSource};
use crate::raft_types::Types;
use crate::watch;

/// The suite sends what stands in for a snapshot: here its owner vouches for everything.
struct Vouched(Checkpoints);

impl SnapshotSource for Vouched {
    fn current(&self, from: u64) -> Result<Option<Snapshot>, SnapshotError> {
        self.0.current(from)
    }

    fn promote(&self, from: u64, upto: u64) -> Result<Snapshot, SnapshotError> {
        self.0.promote(from, upto)
    }

    fn stand_in(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        self.0.promote(0, upto)
    }

    fn open(&self, snapshot: &Path) -> Result<Box<dyn SnapshotFile>, SnapshotError> {
        self.0.open(snapshot)
    }

    fn receive(&self, bytes: u64) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        self.0.receive(bytes)
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, Applier, (TempDir, DiskLog)> for Builder {
    async fn build(&self) -> Result<((TempDir, DiskLog), LogStore, Applier), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a directory");
        let (disk_log, log) = DiskLog::open(dir.path());
        let (machine, _seen) = Recorder::empty(dir.path());
        let source = Checkpoints::new(dir.path());
        // The suite purges logs of which nothing was applied, and wants a snapshot then.
        source.write(&State::default());
        let snapshots =
            Snapshots::new(Arc::new(Vouched(source)), log.clone(), Arc::new(BlockingThreads));
        let (leadership, _watch) = Leadership::new(ReplicaId(0));
        let (alive, _gone) = watch::channel(());
        let applier = Applier::new(machine, snapshots, log.clone(), leadership.clone(), alive)
            .expect("nothing to restore");
        let store = LogStore::new(log, Arc::new(BlockingThreads), leadership);
        Ok(((dir, disk_log), store, applier))
    }
}

// Paused: the suite sleeps for seconds in all, to let stores purge in the background.
#[tokio::test(start_paused = true)]
async fn openraft_accepts_the_log_store_and_the_state_machine() {
    Suite::test_all(Builder).await.expect("the suite passes");
}
