//! How long a commit takes on this machine: one replica on the real disk, next to bare fdatasync.
//!
//! ```text
//! cargo run -p railgun-raft --release --example commit_latency [DIRECTORY]
//! ```

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use railgun_log::{LogOptions, LogThread, Payload, RealDisk};
use railgun_raft::{
    Applied, ApplyError, ApplyItem, BlockingThreads, Fitness, NoPeers, Proposal, RaftShard,
    ShardSpec, Snapshot, SnapshotError, SnapshotFile, SnapshotSink, SnapshotSource, StateMachine,
};
use railgun_types::{NodeId, ReplicaId, ShardId};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Tells of each ticket as soon as its entry is applied.
struct Echo(mpsc::Sender<u64>);

impl StateMachine for Echo {
    fn restored(&mut self) -> Option<Applied> {
        None
    }

    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        for item in items.drain(..) {
            if let ApplyItem::Command { id, proposed: Some(proposed), .. } = item {
                let sent = self.0.try_send(proposed.ticket);
                sent.map_err(|error| ApplyError { id, source: error.into() })?;
            }
        }
        Ok(())
    }

    fn install<'a>(&'a mut self, _: &'a Snapshot) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn current(&self, _: u64) -> Result<Option<Snapshot>, SnapshotError> {
        Ok(None)
    }

    fn promote(&self, _: u64, upto: u64) -> Result<Snapshot, SnapshotError> {
        Err(SnapshotError::NoCheckpoint { upto })
    }

    fn stand_in(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        Err(SnapshotError::NoCheckpoint { upto })
    }

    fn open(&self, _: &Path) -> Result<Box<dyn SnapshotFile>, SnapshotError> {
        Err(SnapshotError::NoCheckpoint { upto: 0 })
    }

    fn receive(&self, _: u64) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        Err(SnapshotError::NoCheckpoint { upto: 0 })
    }
}

/// A replica and the tickets it has applied.
struct Bench {
    shard: RaftShard,
    term: u64,
    applied: mpsc::Receiver<u64>,
}

impl Bench {
    async fn propose(&self, body: &Bytes) -> Result<(), Box<dyn Error>> {
        let payload = Payload::from_bytes(body.clone());
        let proposal = Proposal { term: self.term, payload, ticket: 0, companion: None };
        Ok(self.shard.propose(proposal).await?)
    }

    async fn applied(&mut self) -> Result<(), Box<dyn Error>> {
        self.applied.recv().await.map(drop).ok_or_else(|| "the replica stopped".into())
    }

    /// Keeps `window` proposals of `bytes` bytes in flight until `count` are applied.
    async fn run(
        &mut self,
        count: usize,
        bytes: usize,
        window: usize,
    ) -> Result<(), Box<dyn Error>> {
        let body = Bytes::from(vec![7; bytes]);
        let mut latencies = Vec::with_capacity(count);
        let mut started = std::collections::VecDeque::new();
        let begin = Instant::now();
        for _ in 0..count {
            if started.len() == window {
                self.applied().await?;
                latencies.extend(started.pop_front().map(|at: Instant| at.elapsed()));
            }
            started.push_back(Instant::now());
            self.propose(&body).await?;
        }
        while let Some(at) = started.pop_front() {
            self.applied().await?;
            latencies.push(at.elapsed());
        }
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        let name = format!("{count} entries of {bytes} bytes, {window} in flight");
        report(&name, rate, latencies);
        Ok(())
    }
}

fn report(name: &str, rate: f64, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies.get(place.min(latencies.len() - 1)).map_or(0, Duration::as_micros)
    };
    println!("{name:<50} {rate:>8.0}/s  p50 {:>6} µs  p99 {:>6} µs", at(0.5), at(0.99));
}

/// The floor: overwriting `bytes` bytes of an allocated file and waiting for the disk.
fn bare_fdatasync(dir: &Path, count: usize, bytes: usize) -> Result<(), Box<dyn Error>> {
    let file = File::create(dir.join("bare"))?;
    let body = vec![7; bytes];
    let position = |turn: usize| (turn % 32 * bytes) as u64;
    for turn in 0..32 {
        file.write_all_at(&body, position(turn))?;
    }
    file.sync_all()?;
    let mut latencies = Vec::with_capacity(count);
    let begin = Instant::now();
    for turn in 0..count {
        let at = Instant::now();
        file.write_all_at(&body, position(turn))?;
        file.sync_data()?;
        latencies.push(at.elapsed());
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    report(&format!("bare: {count} fdatasyncs of {bytes} bytes"), rate, latencies);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;

    let disk = Arc::new(RealDisk::open(dir.path())?);
    let log_thread = LogThread::spawn(disk)?;
    let (log, _) = log_thread.open_shard(Path::new("log"), LogOptions::default())?;
    let (sender, applied) = mpsc::channel(1 << 16);
    let spec = ShardSpec {
        shard: ShardId(1),
        replica: ReplicaId::new(NodeId(1), 0),
        address: String::new(),
        log,
        machine: Box::new(Echo(sender)),
        snapshots: Arc::new(NoSnapshots),
        unapplied: Arc::new(|outcome| eprintln!("{outcome:?}")),
        pool: Arc::new(BlockingThreads),
        peers: Arc::new(NoPeers),
        fitness: Fitness::new(true),
    };
    let begin = Instant::now();
    let shard = RaftShard::start(spec).await?;
    shard.initialize_single().await?;
    let term = shard.leader().serving().await?.term;
    println!("first election: {:?}", begin.elapsed());
    let mut bench = Bench { shard, term, applied };

    bare_fdatasync(dir.path(), 2000, 1024)?;
    bench.run(2000, 1024, 1).await?;
    bench.run(20_000, 1024, 64).await?;
    bare_fdatasync(dir.path(), 200, 1 << 20)?;
    bench.run(200, 1 << 20, 1).await?;
    bench.run(1000, 1 << 20, 8).await?;

    bench.shard.shutdown().await;
    log_thread.shutdown();
    Ok(())
}
