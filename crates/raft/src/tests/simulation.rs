//! A replica in one thread, on paused time and an in-memory disk: the same seed, the same course.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_log::{LogOpener, LogOptions, LogWriter, SimDisk, Step};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::recorder::{Recorder, Seen};
use super::shard::{replica_id, spec, tempdir};
use crate::blocking_pool::Inline;
use crate::{LeaderState, Proposal, RaftShard, Unapplied, seeded};

/// What happened, and when.
type Trace = Vec<(Duration, String)>;

/// Opens logs on `disk`, each of whose steps takes as long as `pause` says. The task is the log
/// thread: aborting it closes the logs.
pub(super) fn sim_logs(disk: SimDisk, pause: impl FnMut() -> Duration + Send + 'static) -> SimLogs {
    let mut uuid = 0u128;
    let uuids = Box::new(move || {
        uuid += 1;
        uuid.to_le_bytes()
    });
    let writer = LogWriter::new(Arc::new(disk), uuids).expect("a disk of its own");
    let woken = Arc::new(Notify::new());
    let wake = Arc::clone(&woken);
    assert!(writer.set_wake(Arc::new(move || wake.notify_one())));
    let opener = writer.opener();
    SimLogs { opener, driver: tokio::spawn(drive(writer, woken, pause)) }
}

pub(super) struct SimLogs {
    pub(super) opener: LogOpener,
    driver: JoinHandle<()>,
}

async fn drive(mut writer: LogWriter, woken: Arc<Notify>, mut pause: impl FnMut() -> Duration) {
    let start = Instant::now();
    loop {
        tokio::time::sleep(pause()).await;
        match writer.step(start.elapsed()) {
            Step::Progressed => {}
            Step::Idle { .. } if writer.is_signalled() => {}
            Step::Idle { wake_at: None } => woken.notified().await,
            Step::Idle { wake_at: Some(at) } => {
                drop(tokio::time::timeout_at(start + at, woken.notified()).await);
            }
        }
    }
}

impl SimLogs {
    async fn start(&self, dir: &Path) -> (RaftShard, Receiver<Seen>, Receiver<Unapplied>) {
        let options = LogOptions { file_bytes: 64 << 10, ..LogOptions::default() };
        let (log, _report) = self.opener.open_shard(Path::new("log"), options).expect("a log");
        let (machine, seen) = Recorder::empty(dir);
        let (mut spec, unapplied) = spec(dir, log, machine);
        spec.pool = Arc::new(Inline);
        (RaftShard::start(spec).await.expect("started"), seen, unapplied)
    }

    pub(super) async fn stop(self) {
        self.driver.abort();
        assert!(self.driver.await.expect_err("aborted").is_cancelled());
    }
}

/// A disk that is as slow as it likes, between 0.2 and 5.2 ms.
pub(super) fn moody(seed: u64) -> impl FnMut() -> Duration {
    let mut state = seed;
    move || {
        // A linear congruential generator is random enough for a disk.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_micros(200 + (state >> 33) % 5000)
    }
}

async fn life(seed: u64) -> Trace {
    let dir = tempdir();
    let start = Instant::now();
    let mut trace = Trace::new();
    let logs = sim_logs(SimDisk::default(), moody(seed));
    let (shard, mut seen, mut unapplied) = logs.start(dir.path()).await;
    shard.initialize_single().await.expect("initialized");
    let LeaderState { term, leader, .. } = shard.leader().serving().await.expect("running");
    assert_eq!(leader, Some(replica_id()));
    trace.push((start.elapsed(), format!("serving in term {term}")));
    for ticket in 0..50 {
        let payload = Bytes::from(vec![0; 1000]).into();
        let proposal = Proposal { term, payload, ticket, companion: None };
        shard.propose(proposal).await.expect("taken");
        if ticket % 7 == 0 {
            let seen = seen.recv().await.expect("running");
            trace.push((start.elapsed(), format!("{seen:?}")));
        }
    }
    let id = shard.promote_snapshot(20).await.expect("promoted");
    trace.push((start.elapsed(), format!("promoted {id}")));
    shard.shutdown().await;
    while let Some(seen) = seen.recv().await {
        trace.push((start.elapsed(), format!("{seen:?}")));
    }
    while let Ok(end) = unapplied.try_recv() {
        assert!(matches!(end, Unapplied::Unknown { .. }));
        trace.push((start.elapsed(), format!("{end:?}")));
    }
    logs.stop().await;
    trace
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_course() {
    let first = seeded(1, life(1)).await;
    assert!(first.len() > 50, "each ticket came back");
    assert_eq!(first, seeded(1, life(1)).await);
    assert_ne!(first, seeded(2, life(2)).await);
}

#[tokio::test(start_paused = true)]
async fn the_only_voter_waits_for_its_disk_alone() {
    let dir = tempdir();
    let disk = SimDisk::default();
    let pause = || Duration::from_millis(1);
    let logs = sim_logs(disk.clone(), pause);
    let (shard, ..) = logs.start(dir.path()).await;
    shard.initialize_single().await.expect("initialized");
    let first = shard.leader().serving().await.expect("running").term;
    shard.shutdown().await;
    drop(shard);
    logs.stop().await;

    let logs = sim_logs(disk, pause);
    let restart = Instant::now();
    let (shard, ..) = logs.start(dir.path()).await;
    assert!(shard.leader().serving().await.expect("running").term > first);
    // Two votes and an entry are a few milliseconds of this disk; openraft's tick is 40 ms, its
    // election timeout 500 ms and more.
    assert!(restart.elapsed() < Duration::from_millis(20), "{:?}", restart.elapsed());
    shard.shutdown().await;
    logs.stop().await;
}
