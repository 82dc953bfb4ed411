//! Several replicas of a shard in one process, on paused time, each with a log on a simulated disk:
//! a seed decides about every delay, so that a run can be repeated.

mod changes;
mod failover;
mod net;
mod random;
mod snapshots;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::AsyncRuntime;
use railgun_log::{CrashPlan, LogOptions, Payload, ShardLog, SimDisk};
use railgun_types::{EntryId, NodeId, ReplicaId, ShardId};
use tokio::time::{Instant, sleep};

use self::net::{Link, Net};
use super::recorder::State;
use super::simulation::{SimLogs, moody, sim_logs};
use crate::blocking_pool::Inline;
use crate::machine::{
    Applied, ApplyError, ApplyItem, Snapshot, SnapshotError, SnapshotFile, SnapshotSink,
    SnapshotSource, StateMachine,
};
use crate::runtime::Runtime;
use crate::watch::{self, Sender};
use crate::{Fitness, Proposal, RaftShard, ShardSpec, Unapplied, seeded};

/// What several tasks of a test know. Everything runs on one thread.
struct Shared<T>(Sender<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        Self(watch::channel(T::default()).0)
    }
}

impl<T> Shared<T> {
    fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut result = None;
        self.0.send_if_modified(|value| {
            result = Some(change(value));
            false
        });
        result.expect("was called")
    }
}

/// The end of a proposal: applied as this entry, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Applied(EntryId),
    Unapplied(Unapplied),
}

/// Of every ticket.
type Ends = Shared<BTreeMap<u64, Vec<End>>>;
/// What was applied first by any replica in any life: all others apply the same.
type History = Shared<Vec<(EntryId, Bytes)>>;
/// Who led in which term, as far as any replica has told.
type Leaders = Shared<BTreeMap<u64, BTreeSet<ReplicaId>>>;

/// Snapshots and checkpoints of a replica; they outlive a crash.
#[derive(Clone, Default)]
struct Store(Shared<Files>);

#[derive(Default)]
struct Files {
    all: BTreeMap<PathBuf, Bytes>,
    current: Option<PathBuf>,
    received: u64,
}

fn applied_in(bytes: &[u8]) -> Applied {
    State::decode(bytes).expect("a state").applied
}

impl Files {
    fn newest(&self, upto: u64) -> Option<Snapshot> {
        let whole = self.all.iter().filter(|(path, _)| path.starts_with("whole"));
        let snapshots =
            whole.map(|(path, bytes)| Snapshot { applied: applied_in(bytes), path: path.clone() });
        snapshots.filter(|it| it.applied.id.index <= upto).max_by_key(|it| it.applied.id)
    }

    fn insert(&mut self, state: &State) -> PathBuf {
        let path = Path::new("whole").join(state.applied.id.to_string());
        self.all.insert(path.clone(), state.encode().into());
        path
    }
}

impl SnapshotSource for Store {
    fn current(&self, _from: u64) -> Result<Option<Snapshot>, SnapshotError> {
        Ok(self.0.with(|files| {
            let path = files.current.clone()?;
            Some(Snapshot { applied: applied_in(&files.all[&path]), path })
        }))
    }

    fn promote(&self, from: u64, upto: u64) -> Result<Snapshot, SnapshotError> {
        let current = self.current(from)?;
        let newest = self.0.with(|files| files.newest(upto));
        let id = |it: &Option<Snapshot>| it.as_ref().map(|it| it.applied.id);
        let best = if id(&newest) > id(&current) { newest } else { current };
        let best = best.ok_or(SnapshotError::NoCheckpoint { upto })?;
        self.0.with(|files| files.current = Some(best.path.clone()));
        Ok(best)
    }

    fn stand_in(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        let newest = self.0.with(|files| files.newest(upto));
        newest.ok_or(SnapshotError::NoCheckpoint { upto })
    }

    fn open(&self, snapshot: &Path) -> Result<Box<dyn SnapshotFile>, SnapshotError> {
        Ok(Box::new(Sent(self.0.with(|files| files.all[snapshot].clone()))))
    }

    fn receive(&self, _bytes: u64) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        let path = self.0.with(|files| {
            files.received += 1;
            let path = Path::new("received").join(files.received.to_string());
            files.all.insert(path.clone(), Bytes::new());
            path
        });
        Ok(Box::new(Received { store: self.clone(), path }))
    }
}

struct Sent(Bytes);

impl SnapshotFile for Sent {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, max: usize) -> Result<Bytes, SnapshotError> {
        Ok(self.0.split_to(max.min(self.0.len())))
    }
}

struct Received {
    store: Store,
    path: PathBuf,
}

impl SnapshotSink for Received {
    fn write(&mut self, chunk: &Bytes) -> Result<(), SnapshotError> {
        self.store.0.with(|files| {
            let file = files.all.get_mut(&self.path).expect("still there");
            *file = [&file[..], chunk].concat().into();
        });
        Ok(())
    }

    fn finish(&mut self) -> Result<PathBuf, SnapshotError> {
        Ok(self.path.clone())
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.store.0.with(|files| files.all.remove(&self.path));
    }
}

/// Keeps its state in memory only, so that every life begins with the snapshot and the log.
struct Memory {
    state: Shared<State>,
    store: Store,
    ends: Ends,
    history: History,
    install_takes: Duration,
}

/// Two replicas that have applied different commands fail the test.
fn agree(history: &History, from: usize, commands: &[(EntryId, Bytes)]) {
    history.with(|history| {
        let known = history.len().min(commands.len());
        assert_eq!(commands[from.min(known)..known], history[from.min(known)..known]);
        history.extend_from_slice(&commands[known..]);
    });
}

impl StateMachine for Memory {
    fn restored(&mut self) -> Option<Applied> {
        None
    }

    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        for item in items.drain(..) {
            let id = item.id();
            self.state.with(|state| {
                let before = state.applied.id;
                let is_first = state.commands.is_empty() && before.index == 0;
                assert!(id.index == before.index + 1 || is_first, "{id} after {before}");
                assert!(id.term >= before.term, "{id} after {before}");
                state.applied.id = id;
            });
            match item {
                ApplyItem::Blank { .. } => {}
                ApplyItem::Membership { membership, .. } => {
                    self.state.with(|state| state.applied.membership = membership);
                }
                ApplyItem::Command { payload, proposed, .. } => {
                    self.state.with(|state| {
                        state.commands.push((id, payload.to_bytes()));
                        agree(&self.history, state.commands.len() - 1, &state.commands);
                    });
                    if let Some(proposed) = proposed {
                        end(&self.ends, proposed.ticket, End::Applied(id));
                    }
                }
            }
        }
        Ok(())
    }

    fn install<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(async {
            // The owner may be another actor.
            sleep(self.install_takes).await;
            let bytes = self.store.0.with(|files| files.all[&snapshot.path].clone());
            let state = State::decode(&bytes).expect("a state");
            assert_eq!(state.applied, snapshot.applied);
            agree(&self.history, 0, &state.commands);
            self.store.0.with(|files| files.current = Some(files.insert(&state)));
            self.state.with(|own| *own = state);
            Ok(())
        })
    }
}

fn end(ends: &Ends, ticket: u64, end: End) {
    ends.with(|ends| ends.entry(ticket).or_default().push(end));
}

struct Running {
    shard: RaftShard,
    log: ShardLog,
    logs: SimLogs,
    state: Shared<State>,
}

/// A replica's disk, and the replica when it runs.
struct Replica {
    disk: SimDisk,
    store: Store,
    fitness: Fitness,
    running: Option<Running>,
}

struct Cluster {
    net: Net,
    seed: u64,
    replicas: BTreeMap<ReplicaId, Replica>,
    ends: Ends,
    history: History,
    leaders: Leaders,
    tickets: u64,
    /// How long the owners of replicas started from now on take to install a snapshot.
    install_takes: Duration,
}

fn id(node: u32) -> ReplicaId {
    ReplicaId::new(NodeId(node), 1)
}

fn address(id: ReplicaId) -> String {
    format!("node-{id}")
}

fn addresses(ids: &[ReplicaId]) -> BTreeMap<ReplicaId, String> {
    ids.iter().map(|id| (*id, address(*id))).collect()
}

/// Longer than anything takes, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `ready` gives something.
async fn until<T>(what: impl Debug, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what:?}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Runs `test` so that `seed` decides about everything.
async fn with_seed<T>(seed: u64, test: impl Future<Output = T>) -> T {
    seeded(seed, test).await
}

impl Cluster {
    /// `nodes` replicas that run and know nothing.
    async fn idle(seed: u64, nodes: u32) -> Self {
        let net = Net::new(seed, Duration::from_millis(3));
        let mut cluster = Self {
            net,
            seed,
            replicas: BTreeMap::new(),
            ends: Ends::default(),
            history: History::default(),
            leaders: Leaders::default(),
            tickets: 0,
            install_takes: Duration::from_millis(3),
        };
        for node in 1..=nodes {
            cluster.add(id(node)).await;
        }
        cluster
    }

    /// A shard whose voters are `nodes` replicas, with a leader.
    async fn voters(seed: u64, nodes: u32) -> Self {
        let cluster = Self::idle(seed, nodes).await;
        let first = cluster.shard(id(1));
        first.initialize(addresses(&cluster.ids())).await.expect("initialized");
        cluster.leader().await;
        cluster
    }

    /// Whether all may lead others.
    fn set_fit(&self, are_fit: bool) {
        self.replicas.values().for_each(|replica| replica.fitness.set(are_fit));
    }

    async fn add(&mut self, id: ReplicaId) {
        let replica = Replica {
            disk: SimDisk::default(),
            store: Store::default(),
            fitness: Fitness::new(true),
            running: None,
        };
        self.replicas.insert(id, replica);
        self.start(id).await;
    }

    async fn start(&mut self, id: ReplicaId) {
        let replica = self.replicas.get_mut(&id).expect("known");
        assert!(replica.running.is_none(), "{id} runs");
        self.seed += 1;
        let logs = sim_logs(replica.disk.clone(), moody(self.seed));
        let options =
            LogOptions { file_bytes: 64 << 10, ring_bytes: 32 << 10, ..LogOptions::default() };
        let (log, _report) = logs.opener.open_shard(Path::new("log"), options).expect("a log");
        let state = Shared::<State>::default();
        let machine = Memory {
            state: state.clone(),
            store: replica.store.clone(),
            ends: self.ends.clone(),
            history: self.history.clone(),
            install_takes: self.install_takes,
        };
        let ends = self.ends.clone();
        let spec = ShardSpec {
            shard: ShardId(1),
            replica: id,
            address: address(id),
            log: log.clone(),
            machine: Box::new(machine),
            snapshots: Arc::new(replica.store.clone()),
            unapplied: Arc::new(move |unapplied| {
                let (Unapplied::NotLeader { ticket, .. }
                | Unapplied::NoQuorum { ticket }
                | Unapplied::Unknown { ticket }) = unapplied;
                end(&ends, ticket, End::Unapplied(unapplied));
            }),
            pool: Arc::new(Inline),
            peers: self.net.port(id),
            fitness: replica.fitness.clone(),
        };
        let shard = RaftShard::start(spec).await.expect("started");
        self.net.join(id, shard.clone());
        drop(Runtime::spawn(note_leaders(shard.leader(), id, self.leaders.clone())));
        replica.running = Some(Running { shard, log, logs, state });
    }

    /// Ends the process: what was not synced may be lost, as `plan` says.
    async fn kill(&mut self, id: ReplicaId, plan: CrashPlan) {
        let replica = self.replicas.get_mut(&id).expect("known");
        let Some(Running { shard, log, logs, .. }) = replica.running.take() else { return };
        drop(self.net.leave(id));
        logs.stop().await;
        replica.disk.crash(&plan);
        drop(log);
        shard.shutdown().await;
    }

    fn ids(&self) -> Vec<ReplicaId> {
        self.replicas.keys().copied().collect()
    }

    fn running(&self) -> Vec<ReplicaId> {
        let running = self.replicas.iter().filter(|(_, replica)| replica.running.is_some());
        running.map(|(id, _)| *id).collect()
    }

    fn run(&self, id: ReplicaId) -> &Running {
        self.replicas[&id].running.as_ref().expect("running")
    }

    fn shard(&self, id: ReplicaId) -> &RaftShard {
        &self.run(id).shard
    }

    fn commands(&self, id: ReplicaId) -> Vec<(EntryId, Bytes)> {
        self.run(id).state.with(|state| state.commands.clone())
    }

    /// Whoever serves in the latest term.
    fn serving(&self) -> Option<ReplicaId> {
        let states = self.running().into_iter().map(|id| (self.shard(id).leader().state(), id));
        let serving = states.filter(|(state, _)| state.serving);
        serving.max_by_key(|(state, _)| state.term).map(|(_, id)| id)
    }

    async fn leader(&self) -> ReplicaId {
        until("a leader", || self.serving()).await
    }

    /// A leader other than `old`.
    async fn leader_after(&self, old: ReplicaId) -> ReplicaId {
        until("another leader", || self.serving().filter(|id| *id != old)).await
    }

    /// Proposes at `to`. The ticket says how it ends.
    async fn propose(&mut self, to: ReplicaId, bytes: impl Into<Bytes>) -> u64 {
        let ticket = self.tickets;
        self.tickets += 1;
        let term = self.shard(to).leader().state().term;
        let payload = Payload::from_bytes(bytes.into());
        let proposal = Proposal { term, payload, ticket, companion: None };
        self.shard(to).propose(proposal).await.expect("taken");
        ticket
    }

    fn end_of(&self, ticket: u64) -> Option<End> {
        self.ends.with(|ends| ends.get(&ticket).map(|ends| ends[0]))
    }

    /// Proposes at the leader, as often as it takes.
    async fn put(&mut self, bytes: impl Into<Bytes>) -> EntryId {
        let bytes = bytes.into();
        let start = Instant::now();
        loop {
            let leader = self.leader().await;
            let ticket = self.propose(leader, bytes.clone()).await;
            match until("an end", || self.end_of(ticket)).await {
                End::Applied(id) => return id,
                End::Unapplied(_) => assert!(start.elapsed() < PATIENCE, "never taken"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn fill(&mut self, count: u64) {
        for number in 0..count {
            self.put(format!("command {number}")).await;
        }
    }

    /// Waits until all that run have applied the same, and everything.
    async fn settle(&self) -> EntryId {
        until("one state", || {
            let leader = self.serving()?;
            let last = self.run(leader).log.state().last?;
            let applied = |id: &ReplicaId| self.run(*id).state.with(|state| state.applied.id);
            self.running().iter().all(|id| applied(id) == last).then_some(last)
        })
        .await
    }

    /// Keeps a checkpoint of what `id` has applied, when its log is durable up to there.
    async fn checkpoint(&self, id: ReplicaId) -> EntryId {
        let running = self.run(id);
        let state = running.state.with(|state| state.clone());
        let index = state.applied.id.index;
        until("durable", || (running.log.durable_index() >= Some(index)).then_some(())).await;
        self.replicas[&id].store.0.with(|files| files.insert(&state));
        state.applied.id
    }

    /// What must hold at any time: a term has one leader, no ticket has come back twice, and what was
    /// told to be applied is in the one history.
    fn check(&self) {
        self.leaders.with(|leaders| {
            for (term, leaders) in leaders {
                assert!(leaders.len() <= 1, "{leaders:?} lead in term {term}");
            }
        });
        let history = self.history.with(|history| history.clone());
        self.ends.with(|ends| {
            for (ticket, ends) in ends {
                assert_eq!(ends.len(), 1, "ticket {ticket} came back more than once: {ends:?}");
                if let End::Applied(id) = ends[0] {
                    let kept = history.binary_search_by_key(&id.index, |(id, _)| id.index);
                    assert!(kept.is_ok_and(|at| history[at].0 == id), "entry {id} is lost");
                }
            }
        });
    }

    /// After [`Self::settle`]: all that run hold the whole history.
    fn check_settled(&self) {
        self.check();
        let history = self.history.with(|history| history.clone());
        for id in self.running() {
            assert_eq!(self.commands(id), history, "{id}");
        }
    }

    /// Ends all replicas. Then every ticket has come back.
    async fn stop(mut self) {
        self.check();
        for id in self.ids() {
            self.kill(id, CrashPlan::KeepAll).await;
        }
        let back = self.ends.with(|ends| ends.len() as u64);
        assert_eq!(back, self.tickets, "not every ticket came back");
    }
}

async fn note_leaders(mut watch: crate::LeaderWatch, own: ReplicaId, leaders: Leaders) {
    loop {
        let state = watch.state();
        let serving = state.serving.then_some(own);
        leaders.with(|leaders| {
            leaders.entry(state.term).or_default().extend(state.leader.into_iter().chain(serving));
        });
        if watch.changed().await.is_err() {
            return;
        }
    }
}
