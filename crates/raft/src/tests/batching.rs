//! How much is read and applied at a time.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use railgun_log::Payload;
use railgun_types::{EntryId, ReplicaId};
use tokio::sync::{mpsc, oneshot};

use super::disk_log::DiskLog;
use super::recorder::Checkpoints;
use super::shard::tempdir;
use crate::applier::{Applier, Snapshots};
use crate::blocking_pool::{BlockingThreads, Inline};
use crate::leadership::Leadership;
use crate::log_store::LogStore;
use crate::machine::{Applied, ApplyError, ApplyItem, Snapshot, SnapshotError, StateMachine};
use crate::raft_types::{Command, RaftEntry, RaftPayload, Types, to_log_id};
use crate::watch;

/// Tells the size of each batch.
struct Counter(mpsc::Sender<usize>);

impl StateMachine for Counter {
    fn restored(&mut self) -> Option<Applied> {
        None
    }

    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        self.0.try_send(items.len()).expect("room");
        Ok(())
    }

    fn install<'a>(&'a mut self, _: &'a Snapshot) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn command(index: u64, bytes: usize) -> RaftEntry {
    let payload = Payload::from_bytes(Bytes::from(vec![index as u8; bytes]));
    RaftEntry {
        log_id: to_log_id(EntryId { term: 1, index }),
        payload: RaftPayload::Normal(Command(payload)),
    }
}

#[tokio::test]
async fn what_is_ready_is_applied_together_within_bounds() {
    let dir = tempdir();
    let (disk_log, log) = DiskLog::open(dir.path());
    let (sender, mut batches) = mpsc::channel(100);
    let snapshots =
        Snapshots::new(Arc::new(Checkpoints::new(dir.path())), log.clone(), Arc::new(Inline));
    let (leadership, _watch) = Leadership::new(ReplicaId(1));
    let (alive, _gone) = watch::channel(());
    let machine = Box::new(Counter(sender));
    let mut applier =
        Applier::new(machine, snapshots, log, leadership, alive).expect("nothing to restore");
    let mut sizes = || std::iter::from_fn(|| batches.try_recv().ok()).collect::<Vec<_>>();

    let small = stream::iter((0..2500).map(|index| Ok((command(index, 10), None))));
    applier.apply(small).await.expect("applied");
    assert_eq!(sizes(), [1024, 1024, 452]);
    assert_eq!(applier.applied(), Some(EntryId { term: 1, index: 2499 }));

    let large = stream::iter((2500..2503).map(|index| Ok((command(index, 4 << 20), None))));
    applier.apply(large).await.expect("applied");
    assert_eq!(sizes(), [2, 1]);

    // What has to be waited for does not hold up what is there.
    let (ready, wait) = oneshot::channel();
    let first = stream::iter([Ok((command(2503, 1), None))]);
    let second = stream::once(async move {
        wait.await.expect("sent");
        Ok((command(2504, 1), None))
    });
    let both = Box::pin(first.chain(second));
    let mut applying = Box::pin(applier.apply(both));
    assert!(futures::poll!(&mut applying).is_pending());
    assert_eq!(sizes(), [1]);
    ready.send(()).expect("waited for");
    applying.await.expect("applied");
    assert_eq!(sizes(), [1]);
    disk_log.close();
}

#[tokio::test]
async fn a_read_for_replication_stops_at_its_budget() {
    let dir = tempdir();
    let (disk_log, log) = DiskLog::open(dir.path());
    let mut store =
        LogStore::new(log.clone(), Arc::new(BlockingThreads), Leadership::new(ReplicaId(1)).0);
    let entries = [1 << 20, 1 << 20, 1 << 20, 3 << 20, 10, 10];
    let entries = (0..).zip(entries).map(|(index, bytes)| command(index, bytes));
    let (done, flushed) = Types::oneshot();
    let entries = entries.collect::<Vec<_>>();
    store.append(entries, IOFlushed::signal(done)).await.expect("appended");
    flushed.await.expect("answered").expect("flushed");
    // From memory, and then from the file.
    for applied in [None, Some(5)] {
        applied.into_iter().for_each(|index| log.set_applied(index));
        let mut lens = Vec::new();
        for start in 0..6 {
            let some = store.limited_get_log_entries(start, 6).await.expect("readable");
            assert_eq!(some[0].log_id.index, start);
            lens.push(some.len());
        }
        assert_eq!(lens, [2, 2, 1, 1, 2, 1], "applied: {applied:?}");
        let all = store.entries_stream(0..6).await.map(|entry| entry.expect("readable"));
        let indexes = all.map(|entry| entry.log_id.index).collect::<Vec<_>>().await;
        assert_eq!(indexes, [0, 1, 2, 3, 4, 5]);
    }
    disk_log.close();
}
