//! openraft's state machine: gathers committed entries into batches for the owner's
//! [`StateMachine`], brings tickets back to it, and serves promoted checkpoints as snapshots.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use railgun_log::ShardLog;
use railgun_types::EntryId;
use tokio::sync::watch;

use crate::blocking_pool::{BlockingPool, PoolStopped, run_on};
use crate::leadership::Leadership;
use crate::machine::{
    Applied, ApplyItem, Proposed, Snapshot, SnapshotError, SnapshotFile, SnapshotSink,
    SnapshotSource, StateMachine,
};
use crate::membership::{self, InvalidMembership};
use crate::proposal::{Claim, Deposit};
use crate::raft_types::{
    Command, LogId, RaftPayload, SnapshotMeta, StoredMembership, Types, to_entry_id, to_log_id,
};

/// A batch for apply ends here even if more is ready, so that results leave in good time and the
/// memory that the batch holds is bounded.
const BATCH_ENTRIES_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 8 << 20;

pub(crate) type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotPlace>;

/// Where the file of a snapshot is, on its way through openraft.
pub(crate) enum SnapshotPlace {
    /// The current one, which its owner vouches for.
    Current(PathBuf),
    /// Of another replica. The sink removes the file, if nobody has moved it away.
    Received(PathBuf, Box<dyn SnapshotSink>),
    /// The current one is lost, and openraft must not hear that there is none: it would end the replica.
    Lost,
}

/// Owned by openraft's state machine task.
pub(crate) struct Applier {
    machine: Box<dyn StateMachine>,
    snapshots: Snapshots,
    log: ShardLog,
    leadership: Leadership,
    applied: Option<EntryId>,
    membership: StoredMembership,
    deposit: Deposit,
    batch: Batch,
    /// Closes when openraft is done with the state machine.
    _alive: crate::watch::Sender<()>,
}

/// Entries gathered for one call of the machine. The buffers are used again and again.
#[derive(Default)]
struct Batch {
    items: Vec<ApplyItem>,
    /// Tickets of `items`, settled when the machine has applied them.
    claims: Vec<Claim>,
    bytes: usize,
    /// Term of the last blank entry among `items`.
    blank_term: Option<u64>,
    /// The last entry gathered.
    last: Option<EntryId>,
}

impl Applier {
    /// # Errors
    /// The machine was restored with a membership that cannot be read.
    pub(crate) fn new(
        mut machine: Box<dyn StateMachine>,
        snapshots: Snapshots,
        log: ShardLog,
        leadership: Leadership,
        alive: crate::watch::Sender<()>,
    ) -> Result<Self, InvalidMembership> {
        let restored = machine.restored();
        let membership = restored.as_ref().map(stored_membership).transpose()?;
        Ok(Self {
            machine,
            snapshots,
            log,
            leadership,
            applied: restored.map(|applied| applied.id),
            membership: membership.unwrap_or_default(),
            deposit: Deposit::default(),
            batch: Batch::default(),
            _alive: alive,
        })
    }

    /// The last entry in the machine's state.
    pub(crate) fn applied(&self) -> Option<EntryId> {
        self.applied
    }

    fn gather(&mut self, (entry, responder): EntryResponder<Types>) {
        let id = to_entry_id(&entry.log_id);
        let mut claim = responder.and_then(|responder| {
            responder.send(self.deposit.clone());
            self.deposit.take()
        });
        let item = match entry.payload {
            RaftPayload::Blank => {
                self.batch.blank_term = Some(id.term);
                ApplyItem::Blank { id }
            }
            RaftPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                let membership = membership::encode_stored(&self.membership);
                ApplyItem::Membership { id, membership }
            }
            RaftPayload::Normal(Command(payload)) => {
                self.batch.bytes += payload.len();
                let proposed = claim.as_mut().map(|claim| Proposed {
                    ticket: claim.ticket(),
                    companion: claim.take_companion(),
                });
                ApplyItem::Command { id, payload, proposed }
            }
        };
        self.batch.items.push(item);
        self.batch.claims.extend(claim);
        self.batch.last = Some(id);
    }

    /// Lets the machine apply what was gathered. On an error the claims are dropped unsettled.
    fn apply_batch(&mut self) -> io::Result<()> {
        let Some(last) = self.batch.last.take() else {
            return Ok(());
        };
        let mut claims = std::mem::take(&mut self.batch.claims);
        // openraft would not notice a panic of this task until its next command. The machine is
        // never used again after one, so no broken invariant of it can be seen.
        let machine = &mut self.machine;
        let items = &mut self.batch.items;
        match catch_unwind(AssertUnwindSafe(|| machine.apply(items))) {
            Ok(result) => result.map_err(io::Error::other)?,
            Err(_) => {
                let message = format!("the state machine panicked in a batch that ends at {last}");
                return Err(io::Error::other(message));
            }
        }
        claims.drain(..).for_each(Claim::settle);
        self.batch.claims = claims;
        self.batch.items.clear();
        self.batch.bytes = 0;
        self.applied = Some(last);
        self.log.set_applied(last.index);
        if let Some(term) = self.batch.blank_term.take() {
            self.leadership.set_blank_applied(term);
        }
        Ok(())
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.items.len() >= BATCH_ENTRIES_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotData = SnapshotPlace;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.map(to_log_id), self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            self.gather(entry?);
            // Whatever else is there without waiting joins the batch.
            while !self.batch.is_full() {
                match entries.next().now_or_never() {
                    Some(Some(entry)) => self.gather(entry?),
                    Some(None) => {
                        self.machine.room().await;
                        return self.apply_batch();
                    }
                    None => break,
                }
            }
            self.machine.room().await;
            self.apply_batch()?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        // Forced: entries are purged, so there must be a snapshot, for a follower may need it. What is
        // promoted is up to the owner, who knows what may be given up on its strength; until then there
        // is none.
        let stand_in = force.then(|| self.applied.map_or(0, |id| id.index));
        Some(SnapshotBuilder { snapshots: self.snapshots.clone(), stand_in })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { snapshots: self.snapshots.clone(), stand_in: None }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        place: SnapshotPlace,
    ) -> io::Result<()> {
        let id = meta.last_log_id.as_ref().map(to_entry_id);
        let id =
            id.ok_or_else(|| io::Error::other("the snapshot to install is of an empty log"))?;
        let membership = membership::encode_stored(&meta.last_membership);
        let (path, received) = match place {
            SnapshotPlace::Current(path) => (path, None),
            SnapshotPlace::Received(path, sink) => (path, Some(sink)),
            SnapshotPlace::Lost => return Err(io::Error::other("the snapshot to install is lost")),
        };
        let snapshot = Snapshot { applied: Applied { id, membership }, path };
        self.machine.install(&snapshot).await.map_err(io::Error::other)?;
        drop(received);
        self.snapshots.told.send_replace(Some(snapshot.applied));
        self.applied = Some(id);
        self.membership = meta.last_membership.clone();
        self.log.set_applied(id.index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let told = self.snapshots.to_tell().await?;
        told.map(|(applied, place)| to_raft(&applied, place)).transpose()
    }
}

/// The shard's snapshots, asked where blocking is allowed.
#[derive(Clone)]
pub(crate) struct Snapshots {
    source: Arc<dyn SnapshotSource>,
    log: ShardLog,
    pool: Arc<dyn BlockingPool>,
    /// What openraft was told of last. It may be above what others may be sent, which is the current one
    /// or nothing.
    told: watch::Sender<Option<Applied>>,
}

impl Snapshots {
    pub(crate) fn new(
        source: Arc<dyn SnapshotSource>,
        log: ShardLog,
        pool: Arc<dyn BlockingPool>,
    ) -> Self {
        Self { source, log, pool, told: watch::channel(None).0 }
    }

    /// The last index that the log has given up.
    fn purged(&self) -> u64 {
        self.log.state().last_purged.map_or(0, |id| id.index)
    }

    pub(crate) async fn current(&self) -> io::Result<Result<Option<Snapshot>, SnapshotError>> {
        let (source, from) = (Arc::clone(&self.source), self.purged());
        Ok(run_on(&*self.pool, move || source.current(from)).await?)
    }

    /// What openraft is to hear. Once it was told of a snapshot there is one for ever, for all it knows.
    async fn to_tell(&self) -> io::Result<Option<(Applied, SnapshotPlace)>> {
        let error = match self.current().await? {
            Ok(Some(Snapshot { applied, path })) => {
                self.told.send_replace(Some(applied.clone()));
                return Ok(Some((applied, SnapshotPlace::Current(path))));
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        match (self.told.borrow().clone(), error) {
            (Some(told), error) => {
                if let Some(error) = error {
                    tracing::error!(%error, "there is no snapshot for other replicas now");
                }
                Ok(Some((told, SnapshotPlace::Lost)))
            }
            (None, Some(error)) => Err(io::Error::other(error)),
            (None, None) => Ok(None),
        }
    }

    pub(crate) async fn promote(&self, upto: u64) -> io::Result<Result<Snapshot, SnapshotError>> {
        let (source, from) = (Arc::clone(&self.source), self.purged());
        let promoted = run_on(&*self.pool, move || source.promote(from, upto)).await?;
        if let Ok(promoted) = &promoted {
            self.told.send_replace(Some(promoted.applied.clone()));
        }
        Ok(promoted)
    }

    /// The snapshot's file, to be sent.
    pub(crate) async fn open(
        &self,
        path: PathBuf,
    ) -> Result<Result<Box<dyn SnapshotFile>, SnapshotError>, PoolStopped> {
        let source = Arc::clone(&self.source);
        run_on(&*self.pool, move || source.open(&path)).await
    }

    /// A place for a snapshot of `bytes` bytes.
    pub(crate) async fn receive(
        &self,
        bytes: u64,
    ) -> Result<Result<Box<dyn SnapshotSink>, SnapshotError>, PoolStopped> {
        let source = Arc::clone(&self.source);
        run_on(&*self.pool, move || source.receive(bytes)).await
    }

    /// Where files are read and written.
    pub(crate) fn pool(&self) -> &dyn BlockingPool {
        &*self.pool
    }

    /// What openraft is told of a replica whose current snapshot is lost.
    async fn stand_in(&self, upto: u64) -> io::Result<Applied> {
        let source = Arc::clone(&self.source);
        let read = move || source.stand_in(upto);
        let found = run_on(&*self.pool, read).await?.map_err(io::Error::other)?;
        self.told.send_replace(Some(found.applied.clone()));
        Ok(found.applied)
    }
}

/// Does not build anything: what is current was promoted before openraft was asked to "build".
pub(crate) struct SnapshotBuilder {
    snapshots: Snapshots,
    /// Instead of the current one, the newest checkpoint up to this index.
    stand_in: Option<u64>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotPlace;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        if let Some(upto) = self.stand_in {
            // Nobody vouches for what is in it: what lies above the cold floor must not go to a replica
            // whose log then ends below that.
            return to_raft(&self.snapshots.stand_in(upto).await?, SnapshotPlace::Lost);
        }
        let none = || io::Error::other("no snapshot was promoted");
        let (applied, place) = self.snapshots.to_tell().await?.ok_or_else(none)?;
        to_raft(&applied, place)
    }
}

fn to_raft(applied: &Applied, place: SnapshotPlace) -> io::Result<RaftSnapshot> {
    let last_membership = stored_membership(applied)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let meta = SnapshotMeta { last_log_id: Some(to_log_id(applied.id)), last_membership };
    Ok(RaftSnapshot { meta, snapshot: place })
}

fn stored_membership(applied: &Applied) -> Result<StoredMembership, InvalidMembership> {
    if applied.membership.is_empty() {
        return Ok(StoredMembership::default());
    }
    membership::decode_stored(&applied.membership)
}
