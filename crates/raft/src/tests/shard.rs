//! A replica over its life: proposals and their tickets, leadership, restart, failure.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use railgun_log::{MAX_PAYLOAD_BYTES, Payload, ShardLog};
use railgun_types::{EntryId, NodeId, ReplicaId, ShardId};
use tempfile::TempDir;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::sync::watch;
use tokio::time::timeout;

use super::disk_log::DiskLog;
use super::recorder::{Checkpoints, PANIC, POISON, Recorder, Seen, State};
use crate::blocking_pool::BlockingThreads;
use crate::machine::{Applied, ApplyError, ApplyItem, Snapshot, SnapshotError, StateMachine};
use crate::shard::MACHINE_QUEUE;
use crate::{
    Companion, Failure, Fitness, LeaderState, NoPeers, PROPOSALS_MAX, Proposal, ProposeError,
    RaftShard, ShardSpec, ShardStopped, StartError, Unapplied,
};

/// Longer than anything here takes; not a measure of speed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A replica with its log, its events and the proposals that came back unapplied.
pub(super) struct Replica {
    pub(super) shard: RaftShard,
    pub(super) log: ShardLog,
    pub(super) seen: mpsc::Receiver<Seen>,
    unapplied: mpsc::Receiver<Unapplied>,
    disk_log: DiskLog,
}

pub(super) fn replica_id() -> ReplicaId {
    ReplicaId::new(NodeId(3), 1)
}

pub(super) fn spec(
    dir: &Path,
    log: ShardLog,
    machine: Box<dyn StateMachine>,
) -> (ShardSpec, mpsc::Receiver<Unapplied>) {
    let (sink, unapplied) = mpsc::channel(1 << 16);
    let spec = ShardSpec {
        shard: ShardId(1),
        replica: replica_id(),
        address: "here:1".to_owned(),
        log,
        machine,
        snapshots: Arc::new(Checkpoints::new(dir)),
        unapplied: Arc::new(move |unapplied| sink.try_send(unapplied).unwrap_or_default()),
        pool: Arc::new(BlockingThreads),
        peers: Arc::new(NoPeers),
        fitness: Fitness::new(true),
    };
    (spec, unapplied)
}

impl Replica {
    pub(super) async fn start(
        dir: &Path,
        (machine, seen): (Box<Recorder>, mpsc::Receiver<Seen>),
    ) -> Self {
        let (disk_log, log) = DiskLog::open(dir);
        let (spec, unapplied) = spec(dir, log.clone(), machine);
        let shard = RaftShard::start(spec).await.expect("started");
        Self { shard, log, seen, unapplied, disk_log }
    }

    /// A new shard that serves.
    pub(super) async fn create(dir: &Path) -> Self {
        let replica = Self::start(dir, Recorder::empty(dir)).await;
        replica.shard.initialize_single().await.expect("initialized");
        replica.serving().await;
        replica
    }

    pub(super) async fn serving(&self) -> LeaderState {
        let mut leader = self.shard.leader();
        timeout(PATIENCE, leader.serving()).await.expect("in time").expect("running")
    }

    pub(super) async fn propose(&self, ticket: u64, bytes: impl Into<Bytes>) {
        let companion: Companion = Box::new(ticket * 10);
        let proposal = Proposal {
            term: self.shard.leader().state().term,
            payload: Payload::from_bytes(bytes.into()),
            ticket,
            companion: Some(companion),
        };
        self.shard.propose(proposal).await.expect("taken");
    }

    pub(super) async fn next_seen(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.expect("in time").expect("running")
    }

    async fn next_unapplied(&mut self) -> Unapplied {
        timeout(PATIENCE, self.unapplied.recv()).await.expect("in time").expect("running")
    }

    /// Proposes and awaits `count` commands, one at a time, so that each is a batch of its own and
    /// has a checkpoint.
    pub(super) async fn fill(&mut self, count: u64) {
        for ticket in 0..count {
            self.propose(ticket, format!("command {ticket}")).await;
            assert_eq!(self.next_seen().await.ticket, Some(ticket));
        }
    }

    pub(super) async fn stop(self) {
        timeout(PATIENCE, self.shard.shutdown()).await.expect("in time");
        drop((self.shard, self.log));
        self.disk_log.close();
    }
}

pub(super) fn tempdir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_are_applied_in_order_with_ticket_and_companion() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    let term = replica.shard.leader().state().term;
    for ticket in 0..500 {
        replica.propose(ticket, format!("command {ticket}")).await;
    }
    let mut last = 0;
    for ticket in 0..500 {
        let seen = replica.next_seen().await;
        assert_eq!(seen.bytes, format!("command {ticket}"));
        assert_eq!((seen.ticket, seen.companion), (Some(ticket), Some(ticket * 10)));
        assert_eq!(seen.id.term, term);
        assert!(ticket == 0 || seen.id.index == last + 1, "an entry per command, no gap");
        last = seen.id.index;
    }
    let read =
        timeout(PATIENCE, replica.shard.read_index()).await.expect("in time").expect("leads");
    assert_eq!(read, EntryId { term, index: last });
    let reported = async {
        while replica.shard.metrics().applied != Some(read) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, reported).await.expect("the metrics follow");
    assert_eq!(replica.shard.metrics().voters, [replica_id()]);
    // What is applied and durable has left the memory of the log, but for its small ring.
    assert_eq!(replica.log.read_ring(0, 1, 1), None);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_applies_the_log_again_without_tickets() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(100).await;
    let before = State::newest(dir.path());
    replica.stop().await;

    let mut replica = Replica::start(dir.path(), Recorder::empty(dir.path())).await;
    replica.serving().await;
    for (id, bytes) in before.commands() {
        let seen = replica.next_seen().await;
        assert_eq!((seen.id, &seen.bytes), (*id, bytes));
        assert_eq!((seen.ticket, seen.companion), (None, None));
    }
    // Again `initialize`: nothing happens to a shard that has a life.
    replica.shard.initialize_single().await.expect("no effect");
    replica.propose(7, "after").await;
    assert_eq!(replica.next_seen().await.ticket, Some(7));
    replica.stop().await;

    // From a checkpoint: only what follows it.
    let mut replica = Replica::start(dir.path(), Recorder::restored(dir.path())).await;
    replica.serving().await;
    replica.propose(8, "the next").await;
    assert_eq!(replica.next_seen().await.ticket, Some(8));
    replica.stop().await;
    let commands = State::newest(dir.path());
    assert_eq!(commands.commands().len(), before.commands().len() + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_begins_with_the_first_entry_of_the_own_term() {
    let dir = tempdir();
    let replica = Replica::start(dir.path(), Recorder::empty(dir.path())).await;
    let mut leader = replica.shard.leader();
    assert_eq!(leader.state(), LeaderState::default());
    replica.shard.initialize_single().await.expect("initialized");
    let first = replica.serving().await;
    assert_eq!(first.leader, Some(replica_id()));
    // The first entry of the term is the newest, and applied.
    let last = replica.log.state().last.expect("entries");
    assert_eq!(last.term, first.term);
    assert_eq!(State::newest(dir.path()).commands(), []);
    replica.stop().await;
    loop {
        match timeout(PATIENCE, leader.changed()).await.expect("in time") {
            Ok(state) if state.leader.is_none() => assert!(!state.serving),
            Ok(_) => {}
            Err(ShardStopped) => break,
        }
    }
    assert_eq!(leader.state().leader, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_of_another_term_is_refused() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    let term = replica.shard.leader().state().term;
    for other in [term - 1, term + 1] {
        let payload = Payload::from_bytes(Bytes::from_static(b"stale"));
        let proposal = Proposal { term: other, payload, ticket: other, companion: None };
        replica.shard.propose(proposal).await.expect("taken");
        let refused = Unapplied::NotLeader { ticket: other, leader: Some(replica_id()) };
        assert_eq!(replica.next_unapplied().await, refused);
    }
    replica.fill(1).await;
    replica.stop().await;
    assert_eq!(State::newest(dir.path()).commands().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_leads_a_replica_refuses() {
    let dir = tempdir();
    let mut replica = Replica::start(dir.path(), Recorder::empty(dir.path())).await;
    replica.propose(1, "early").await;
    assert_eq!(replica.next_unapplied().await, Unapplied::NotLeader { ticket: 1, leader: None });
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_proposal_is_refused_and_does_no_harm() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    let bytes = MAX_PAYLOAD_BYTES + 1;
    let payload = Payload::from_bytes(vec![0; bytes].into());
    let term = replica.shard.leader().state().term;
    let proposal = Proposal { term, payload, ticket: 1, companion: None };
    let refused = ProposeError::TooLarge { bytes, max: MAX_PAYLOAD_BYTES };
    assert_eq!(replica.shard.propose(proposal).await, Err(refused));
    replica.fill(1).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_shutdown_every_ticket_has_come_back_exactly_once() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    const COUNT: u64 = 600;
    for ticket in 0..COUNT {
        replica.propose(ticket, vec![0; 2000]).await;
    }
    replica.shard.shutdown().await;
    let mut back = BTreeSet::new();
    loop {
        match replica.seen.try_recv() {
            Ok(seen) => assert!(back.insert(seen.ticket.expect("proposed here"))),
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => panic!("the state machine is still there"),
        }
    }
    while let Ok(end) = replica.unapplied.try_recv() {
        let Unapplied::Unknown { ticket } = end else { panic!("{end:?}") };
        assert!(back.insert(ticket), "{ticket} came back twice");
    }
    assert!(back.into_iter().eq(0..COUNT));
    assert_eq!(replica.shard.read_index().await, Err(ShardStopped.into()));
    replica.stop().await;
}

/// Stops in apply until told to go on.
struct Gate(Arc<Barrier>);

impl StateMachine for Gate {
    fn restored(&mut self) -> Option<Applied> {
        None
    }

    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        if items.iter().any(|item| matches!(item, ApplyItem::Command { .. })) {
            self.0.wait(); // entered
            self.0.wait(); // may leave
        }
        Ok(())
    }

    fn install<'a>(&'a mut self, _: &'a Snapshot) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shutdown_waits_for_the_state_machine() {
    let dir = tempdir();
    let (disk_log, log) = DiskLog::open(dir.path());
    let gate = Arc::new(Barrier::new(2));
    let (spec, _unapplied) = spec(dir.path(), log, Box::new(Gate(Arc::clone(&gate))));
    let shard = RaftShard::start(spec).await.expect("started");
    shard.initialize_single().await.expect("initialized");
    let term = shard.leader().serving().await.expect("running").term;
    let payload = Payload::from_bytes(Bytes::from_static(b"slow"));
    let proposal = Proposal { term, payload, ticket: 1, companion: None };
    shard.propose(proposal).await.expect("taken");
    gate.wait();
    let early = timeout(Duration::from_millis(100), shard.shutdown()).await;
    // Opened before anything can fail: a worker stuck here would hang the test's runtime.
    gate.wait();
    assert!(early.is_err(), "shutdown left the machine at work");
    timeout(PATIENCE, shard.shutdown()).await.expect("in time");
    assert_eq!(Arc::strong_count(&gate), 1, "the machine is gone");
    disk_log.close();
}

/// Counts commands; takes batches while its gate is open.
struct Gated {
    open: watch::Receiver<bool>,
    applied: mpsc::Sender<usize>,
}

impl StateMachine for Gated {
    fn restored(&mut self) -> Option<Applied> {
        None
    }

    fn room(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(self.open.wait_for(|open| *open).await) })
    }

    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        let commands = items.iter().filter(|item| matches!(item, ApplyItem::Command { .. }));
        self.applied.try_send(commands.count()).expect("room");
        Ok(())
    }

    fn install<'a>(&'a mut self, _: &'a Snapshot) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_makes_no_room_can_propose_all_it_may_have_in_flight() {
    let dir = tempdir();
    let (disk_log, log) = DiskLog::open(dir.path());
    let (gate, open) = watch::channel(true);
    let (sender, mut applied) = mpsc::channel(1 << 16);
    let (spec, _unapplied) =
        spec(dir.path(), log.clone(), Box::new(Gated { open, applied: sender }));
    let shard = RaftShard::start(spec).await.expect("started");
    shard.initialize_single().await.expect("initialized");
    let term = shard.leader().serving().await.expect("running").term;
    gate.send_replace(false);
    let before = log.state().last.expect("entries").index;
    // One commit each, until the core waits for the machine and looks at nothing any more. The
    // machine has one in hand.
    let commits = u64::try_from(MACHINE_QUEUE).expect("small") + 2;
    for ticket in 0..PROPOSALS_MAX as u64 {
        let payload = Payload::from_bytes(Bytes::from_static(b"x"));
        let proposal = Proposal { term, payload, ticket, companion: None };
        let taken = timeout(PATIENCE, shard.propose(proposal)).await;
        taken.unwrap_or_else(|_| panic!("{ticket} waits")).expect("taken");
        let committed = || log.state().committed.map_or(0, |id| id.index);
        let reached = async {
            while ticket < commits && committed() < before + 1 + ticket {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.expect("committed");
    }
    gate.send_replace(true);
    let mut left = PROPOSALS_MAX;
    while left > 0 {
        left -= timeout(PATIENCE, applied.recv()).await.expect("in time").expect("running");
    }
    timeout(PATIENCE, shard.shutdown()).await.expect("in time");
    disk_log.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_ends_with_its_last_handle() {
    let dir = tempdir();
    let Replica { shard, log: _log, disk_log, .. } = Replica::create(dir.path()).await;
    let mut leader = shard.leader();
    let other = shard.clone();
    drop(shard);
    other.read_index().await.expect("still leads");
    drop(other);
    let gone = async { while leader.changed().await.is_ok() {} };
    timeout(PATIENCE, gone).await.expect("in time");
    disk_log.close();
}

/// What the machine cannot apply ends the replica and brings back all that is in flight.
async fn dies_of(bytes: &'static [u8]) -> Failure {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(3).await;
    replica.propose(100, bytes).await;
    let failure = timeout(PATIENCE, replica.shard.failure()).await.expect("in time");
    assert_eq!(replica.next_unapplied().await, Unapplied::Unknown { ticket: 100 });
    let mut leader = replica.shard.leader();
    while leader.changed().await.is_ok() {}
    assert_eq!((leader.state().leader, leader.state().serving), (None, false));
    let payload = Payload::from_bytes(Bytes::from_static(b"late"));
    let late = Proposal { term: leader.state().term, payload, ticket: 101, companion: None };
    assert_eq!(replica.shard.propose(late).await, Err(ShardStopped.into()));
    replica.stop().await;
    failure
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_applied_ends_the_replica() {
    let Failure::Storage { reason } = dies_of(POISON).await else { panic!("not storage") };
    assert!(reason.contains("poison"), "{reason}");
    let Failure::Storage { reason } = dies_of(PANIC).await else { panic!("not storage") };
    assert!(reason.contains("panicked"), "{reason}");
}

/// A machine with a checkpoint that its log knows nothing of.
struct Ahead(Option<Applied>);

impl StateMachine for Ahead {
    fn restored(&mut self) -> Option<Applied> {
        self.0.take()
    }

    fn apply(&mut self, _items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn install<'a>(&'a mut self, _: &'a Snapshot) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_its_checkpoint_is_lost_data() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(5).await;
    let last = replica.log.state().last;
    replica.stop().await;

    let (disk_log, log) = DiskLog::open(dir.path());
    let checkpoint = EntryId { term: 1, index: 1000 };
    let ahead = |membership| Ahead(Some(Applied { id: checkpoint, membership }));
    let (spec_ahead, _unapplied) = spec(dir.path(), log.clone(), Box::new(ahead(Bytes::new())));
    match RaftShard::start(spec_ahead).await {
        Err(StartError::LogBehindCheckpoint { last: found, checkpoint: id, .. }) => {
            assert_eq!((found, id), (last, checkpoint));
        }
        other => panic!("{other:?}"),
    }
    let garbage = Box::new(ahead(Bytes::from_static(b"\x07")));
    let (spec_garbage, _unapplied) = spec(dir.path(), log, garbage);
    let refused = RaftShard::start(spec_garbage).await;
    assert!(matches!(refused, Err(StartError::Membership { .. })), "{refused:?}");
    disk_log.close();
}
