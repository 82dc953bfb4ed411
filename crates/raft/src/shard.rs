//! One replica of a shard: the handle through which its owner proposes, reads and maintains.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{AsyncRuntime, Config, Raft, ReadPolicy, SnapshotPolicy};
use railgun_log::{MAX_PAYLOAD_BYTES, ShardLog, Vote};
use railgun_types::{EntryId, ReplicaId, ShardId};
use tokio::sync::Semaphore;

use crate::applier::{Applier, Snapshots};
use crate::blocking_pool::BlockingPool;
use crate::error::{InitializeError, PromoteError, ProposeError, ReadIndexError, StartError};
use crate::leadership::{Fitness, LeaderWatch, Leadership, ShardStopped};
use crate::log_store::LogStore;
use crate::machine::{SnapshotSource, StateMachine};
use crate::metrics::ShardMetrics;
use crate::network::Network;
use crate::peers::PeerNetwork;
use crate::proposal::{Proposal, Responder, UnappliedSink};
use crate::raft_types::{Command, LogId, Peer, Types, to_entry_id, to_log_id, to_log_vote};
use crate::runtime::Runtime;
use crate::supervisor::{Failure, Supervisor};
use crate::watch::{self, Receiver};

/// A leader tells its followers this often that it is there. Above the slowest usual fsync: a
/// follower answers only when its earlier writes are durable.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// How often openraft looks whether something is due: what it makes of [`HEARTBEAT`].
pub(crate) const TICK: Duration = Duration::from_millis(HEARTBEAT.as_millis() as u64 * 13 / 64);
/// Without a word from the leader for this long, at the least and at the most, a follower stands
/// for election.
const ELECTION_MIN: Duration = Duration::from_millis(500);
const ELECTION_MAX: Duration = Duration::from_millis(1000);

/// A follower this far behind counts as caught up: it has the rest within a moment.
pub(crate) const CAUGHT_UP_ENTRIES: u64 = 64;

/// Proposals that an owner may have in flight without ever waiting in [`RaftShard::propose`].
pub const PROPOSALS_MAX: usize = 4096;
/// Commits that may wait for the applier; the core waits with the next one.
pub(crate) const MACHINE_QUEUE: usize = 256;
/// Other requests that may be on their way to the core besides.
const OTHERS_MAX: usize = 1024;

/// What a replica of a shard consists of.
pub struct ShardSpec {
    /// The shard, for logs.
    pub shard: ShardId,
    /// This replica. Never used again once its log is lost (CL-3).
    pub replica: ReplicaId,
    /// Where other nodes reach this one.
    pub address: String,
    /// The shard's log, opened.
    pub log: ShardLog,
    /// The shard's state.
    pub machine: Box<dyn StateMachine>,
    /// The promoted checkpoints of that state.
    pub snapshots: Arc<dyn SnapshotSource>,
    /// Where proposals end that do not reach apply with their ticket.
    pub unapplied: UnappliedSink,
    /// Where blocking work runs.
    pub pool: Arc<dyn BlockingPool>,
    /// Reaches the other replicas: [`NoPeers`](crate::NoPeers) where there are none. Their requests
    /// come in by [`RaftShard::answer`] and [`RaftShard::serve_stream`].
    pub peers: Arc<dyn PeerNetwork>,
    /// Whether the node may serve as the leader of several.
    pub fitness: Fitness,
}

/// A replica of a shard, running. Clones are handles of the same replica, which runs until
/// [`Self::shutdown`] or until the last handle is dropped.
#[derive(Clone)]
pub struct RaftShard {
    inner: Arc<Inner>,
}

struct Inner {
    shard: ShardId,
    replica: ReplicaId,
    address: String,
    raft: Raft<Types, Applier>,
    unapplied: UnappliedSink,
    leader: LeaderWatch,
    failure: Receiver<Option<Failure>>,
    /// Closes when the state machine is gone.
    machine: Receiver<()>,
    log: ShardLog,
    snapshots: Snapshots,
    /// One promotion at a time: openraft ignores a trigger while it "builds".
    promotions: Semaphore,
}

impl RaftShard {
    /// Restores the replica from its machine, snapshot and log, and takes part in the shard. When
    /// it returns, everything known to be committed at the last stop is applied. A replica that is
    /// the shard's only voter stands for election at once.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(spec: ShardSpec) -> Result<Self, StartError> {
        let (shard, replica) = (spec.shard, spec.replica);
        let snapshots = Snapshots::new(spec.snapshots, spec.log.clone(), Arc::clone(&spec.pool));
        let (leadership, leader) = Leadership::new(replica);
        let (alive, machine) = watch::channel(());
        let applier = Applier::new(
            spec.machine,
            snapshots.clone(),
            spec.log.clone(),
            leadership.clone(),
            alive,
        )
        .map_err(|source| StartError::Membership { shard, source })?;
        let storage = |error: &dyn fmt::Display| {
            let reason = error.to_string();
            StartError::Storage { shard, reason }
        };

        let current = snapshots.current().await.map_err(|error| storage(&error))?;
        let current = current.map_err(|error| storage(&error))?.map(|current| current.applied.id);
        let last = spec.log.state().last;
        // A snapshot may be ahead of the log: the replica stopped between installing it and
        // emptying the log. A checkpoint of its own must not be.
        if let Some(checkpoint) = applier.applied()
            && (last.is_none_or(|last| last.index < checkpoint.index)
                || contradicts(&spec.log, checkpoint))
            && current < Some(checkpoint)
        {
            return Err(StartError::LogBehindCheckpoint { shard, last, checkpoint });
        }
        if let Some(snapshot) = current.filter(|snapshot| contradicts(&spec.log, *snapshot)) {
            // The cut of the log, for which openraft does not wait, was not durable when the snapshot was.
            tracing::warn!(%shard, %snapshot, ?last, "the log is emptied: it contradicts the snapshot");
            let cut = spec.log.truncate_after(spec.log.state().last_purged);
            cut.map_err(|error| storage(&error))?;
        }

        let network =
            Network { shard, own: replica, peers: spec.peers, snapshots: snapshots.clone() };
        let store = LogStore::new(spec.log.clone(), spec.pool, leadership.clone());
        let raft = Raft::new(replica.0, Arc::new(config(shard)), network, store, applier)
            .await
            .map_err(|error| storage(&error))?;
        let supervisor = Supervisor {
            server: raft.server_metrics(),
            all: raft.metrics(),
            leadership,
            fitness: spec.fitness,
        };
        let inner = Inner {
            shard,
            replica,
            address: spec.address,
            failure: supervisor.spawn(),
            raft,
            unapplied: spec.unapplied,
            leader,
            machine,
            log: spec.log,
            snapshots,
            promotions: Semaphore::new(1),
        };
        let started = Self { inner: Arc::new(inner) };
        started.campaign_if_alone().await;
        Ok(started)
    }

    /// Makes this replica the only member of a new shard, whose leader it becomes. Does nothing if
    /// the replica belongs to a shard already.
    ///
    /// # Errors
    /// [`ShardStopped`]; see [`Self::failure`].
    pub async fn initialize_single(&self) -> Result<(), ShardStopped> {
        let members = BTreeMap::from([(self.inner.replica, self.inner.address.clone())]);
        match self.initialize(members).await {
            // It is a member.
            Ok(()) | Err(InitializeError::NotMember { .. }) => Ok(()),
            Err(InitializeError::Stopped(stopped)) => Err(stopped),
        }
    }

    /// Begins a new shard whose voters are `members`, each with the address of its node. To be called
    /// on one of them, and on that one as often as one likes: it does nothing if the replica belongs to
    /// a shard already. The others run and wait to be found.
    ///
    /// # Errors
    /// [`InitializeError`]; nothing has begun then.
    pub async fn initialize(
        &self,
        members: BTreeMap<ReplicaId, String>,
    ) -> Result<(), InitializeError> {
        let replica = self.inner.replica;
        if !members.contains_key(&replica) {
            return Err(InitializeError::NotMember { replica });
        }
        let members = members.into_iter().map(|(id, address)| (id.0, Peer { address }));
        match self.inner.raft.initialize(members.collect::<BTreeMap<_, _>>()).await {
            // Refused if the replica has a log or a vote.
            Ok(()) | Err(RaftError::APIError(_)) => Ok(()),
            Err(RaftError::Fatal(_)) => Err(ShardStopped.into()),
        }
    }

    pub(crate) fn raft(&self) -> &Raft<Types, Applier> {
        &self.inner.raft
    }

    pub(crate) fn own(&self) -> ReplicaId {
        self.inner.replica
    }

    pub(crate) fn log(&self) -> &ShardLog {
        &self.inner.log
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// Resolves when the replica has ended, in whichever way. Cancel safe.
    pub(crate) async fn stopped(&self) {
        let mut machine = self.inner.machine.clone();
        while machine.changed().await.is_ok() {}
    }

    /// The only voter has nobody to wait for. openraft would notice that at its next tick.
    async fn campaign_if_alone(&self) {
        let own = self.inner.replica.0;
        let alone = self
            .inner
            .raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([own]));
        if alone.await.is_ok_and(|alone| alone) {
            // Fails only if the replica has died, which the supervisor reports.
            drop(self.inner.raft.trigger().elect(false).await);
        }
    }

    /// Hands over a proposal; entries are appended in the order of these calls. Returns as soon as
    /// Raft has it, so that any number may be in flight: the caller bounds their number and bytes.
    /// Waits for nothing while there are no more than [`PROPOSALS_MAX`].
    ///
    /// After `Ok` the ticket comes back exactly once: in [`StateMachine::apply`] or as an
    /// [`Unapplied`](crate::Unapplied). After an error it does not. Dropping the future either takes
    /// the proposal back, which is reported as [`Unapplied::Unknown`](crate::Unapplied::Unknown), or
    /// has no effect.
    ///
    /// # Errors
    /// [`ProposeError`]; the entry was not and will not be written.
    pub async fn propose(&self, proposal: Proposal) -> Result<(), ProposeError> {
        let Proposal { term, payload, ticket, companion } = proposal;
        let bytes = payload.len();
        if bytes > MAX_PAYLOAD_BYTES {
            return Err(ProposeError::TooLarge { bytes, max: MAX_PAYLOAD_BYTES });
        }
        if self.inner.failure.borrow().is_some() {
            return Err(ShardStopped.into());
        }
        let responder = Responder::new(ticket, companion, Arc::clone(&self.inner.unapplied));
        let write = self.inner.raft.write(Command(payload)).responder(responder).with_leader(term);
        // On an error the responder was dropped, so the ticket has come back as unknown.
        drop(write.await);
        Ok(())
    }

    /// Follows who leads and whether this replica may serve.
    #[must_use]
    pub fn leader(&self) -> LeaderWatch {
        self.inner.leader.clone()
    }

    /// Waits until the state contains everything that was committed before the call, and confirms
    /// with a majority that this replica leads. Returns the last entry this is true for. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`ReadIndexError`]; nothing can be said about the state then.
    pub async fn read_index(&self) -> Result<EntryId, ReadIndexError> {
        let read = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await;
        read.map(|read| to_entry_id(read.log_id())).map_err(read_index_error)
    }

    /// As [`Self::read_index`], but without waiting for the state of this replica: another one asks,
    /// and reads when its own has come that far ([`Self::applied`]). Cancel safe.
    ///
    /// # Errors
    /// [`ReadIndexError`]; ask the leader, or again.
    pub async fn read_index_for_followers(&self) -> Result<EntryId, ReadIndexError> {
        let read = self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex).await;
        read.map(|(read, _applied)| to_entry_id(read.log_id())).map_err(read_index_error)
    }

    /// Waits until the state of this replica contains log index `index`. Returns the last entry in it.
    /// Waits for ever if the replica is cut off: the caller bounds it. Cancel safe.
    ///
    /// # Errors
    /// [`ShardStopped`]; see [`Self::failure`].
    pub async fn applied(&self, index: u64) -> Result<EntryId, ShardStopped> {
        let mut applied = self.inner.raft.watch_apply_progress();
        loop {
            if let Some(id) = applied.get().as_ref().map(to_entry_id).filter(|id| id.index >= index)
            {
                return Ok(id);
            }
            applied.changed().await.map_err(|_| ShardStopped)?;
        }
    }

    /// Makes the newest checkpoint at or below log index `upto` the shard's snapshot, and lets Raft
    /// give up the entries in it that are at or below `upto`. Returns the last entry in the current
    /// snapshot: above `upto` if that was promoted by another call. Purging follows at once unless
    /// a follower that keeps up still reads those entries.
    ///
    /// The caller vouches that every record at or below `upto` is in the bucket (I2). Goes on if
    /// the future is dropped.
    ///
    /// # Errors
    /// [`PromoteError`]; unless the shard stopped, its snapshot and its log are what they were.
    pub async fn promote_snapshot(&self, upto: u64) -> Result<EntryId, PromoteError> {
        let shard = self.clone();
        let promotion = async move {
            let _turn = shard.inner.promotions.acquire().await.map_err(|_| ShardStopped)?;
            let promoted =
                shard.inner.snapshots.promote(upto).await.map_err(PromoteError::Pool)??;
            let id = promoted.applied.id;
            shard.publish_snapshot(to_log_id(id)).await?;
            // Whatever is current: nobody vouches for what lies above.
            shard.purge(id.index.min(upto)).await?;
            Ok(id)
        };
        Runtime::spawn(promotion).await.map_err(|_| ShardStopped)?
    }

    /// Tells openraft of the current snapshot, which is at `id` or after it.
    async fn publish_snapshot(&self, id: LogId) -> Result<(), ShardStopped> {
        let mut published = self.inner.raft.watch_snapshot_progress();
        if published.get() >= Some(id) {
            return Ok(());
        }
        self.inner.raft.trigger().snapshot().await.map_err(|_| ShardStopped)?;
        published.wait_until_ge(&Some(id)).await.map_err(|_| ShardStopped)?;
        Ok(())
    }

    /// Lets Raft give up entries up to log index `upto`, at most those in the current snapshot.
    /// Returns when this is asked for; [`Self::purged`] waits for it.
    ///
    /// # Errors
    /// [`ShardStopped`]; see [`Self::failure`].
    pub async fn purge(&self, upto: u64) -> Result<(), ShardStopped> {
        self.inner.raft.trigger().purge_log(upto).await.map_err(|_| ShardStopped)
    }

    /// Waits until Raft has given up the entries up to log index `upto`. Cancel safe.
    ///
    /// # Errors
    /// [`ShardStopped`]; see [`Self::failure`].
    pub async fn purged(&self, upto: u64) -> Result<EntryId, ShardStopped> {
        let mut metrics = self.inner.raft.metrics();
        loop {
            let purged = metrics.borrow_and_update().purged.as_ref().map(to_entry_id);
            if let Some(id) = purged.filter(|id| id.index >= upto) {
                return Ok(id);
            }
            metrics.changed().await.map_err(|_| ShardStopped)?;
        }
    }

    /// What Raft was told is durable: a vote, and with it the last entry that was appended under it, if
    /// one was. `None` before there was anything. For tests that look at the disk.
    #[must_use]
    pub fn flushed(&self) -> Option<(Vote, Option<EntryId>)> {
        let flushed = self.inner.raft.watch_log_progress().get()?;
        Some((to_log_vote(&flushed.vote), flushed.last_log_id.as_ref().map(to_entry_id)))
    }

    /// Where the replica stands. May be a moment behind what other methods have just told.
    #[must_use]
    pub fn metrics(&self) -> ShardMetrics {
        ShardMetrics::new(&self.inner.raft.metrics().borrow())
    }

    /// Resolves when the replica has died; never after an orderly shutdown. Cancel safe.
    pub async fn failure(&self) -> Failure {
        let mut failure = self.inner.failure.clone();
        loop {
            if let Some(failure) = failure.borrow_and_update().clone() {
                return failure;
            }
            if failure.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Stops the replica. When it returns, the state machine is dropped and every ticket has come
    /// back. What was appended stays queued in the log, whose owner syncs it. May be called again.
    pub async fn shutdown(&self) {
        // The error type is that of a task that cannot fail.
        drop(self.inner.raft.shutdown().await);
        self.stopped().await;
    }
}

impl fmt::Debug for RaftShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftShard")
            .field("shard", &self.inner.shard)
            .field("replica", &self.inner.replica)
            .field("leader", &self.inner.leader.state())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ShardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardSpec")
            .field("shard", &self.shard)
            .field("replica", &self.replica)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Whether the log has another entry in the place of the last one that a state holds, or ends before it
/// with one that cannot precede it. Nothing of it from there on was ever committed.
fn contradicts(log: &ShardLog, applied: EntryId) -> bool {
    match log.entry_id(applied.index) {
        Some(id) => id != applied,
        None => log
            .state()
            .last
            .is_some_and(|last| last.index < applied.index && last.term > applied.term),
    }
}

fn read_index_error(error: RaftError<Types, LinearizableReadError<Types>>) -> ReadIndexError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            ReadIndexError::NotLeader { leader: forward.leader_id.map(ReplicaId) }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadIndexError::NoQuorum,
        RaftError::Fatal(_) => ShardStopped.into(),
    }
}

fn config(shard: ShardId) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: format!("shard-{shard}"),
        heartbeat_interval: millis(HEARTBEAT),
        // A follower that has just answered entries needs none.
        heartbeat_min_interval: Some(millis(HEARTBEAT / 2)),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        enable_pre_vote: Some(true),
        // A restarted leader may have been replaced: it stands for election like any other.
        enable_leader_restore: Some(false),
        // Snapshots and purges happen when the owner says so, never by count (DESIGN §1.3).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: 60_000,
        // Entries may have a megabyte each; the reader also stops at a byte budget.
        max_payload_entries: 64,
        max_append_entries: Some(256),
        replication_lag_threshold: CAUGHT_UP_ENTRIES,
        // Its owner would wait for a place while the core waits for the applier, and the applier for
        // the owner: there is always one.
        api_channel_size: Some((PROPOSALS_MAX + OTHERS_MAX) as u64),
        state_machine_channel_size: Some(MACHINE_QUEUE as u64),
        // Replication starts when an entry is queued for the disk, not a loop turn later.
        broadcast_submitted_on_append: Some(true),
        ..Config::default()
    };
    debug_assert!(config.clone().validate().is_ok(), "openraft refuses the configuration");
    config
}
