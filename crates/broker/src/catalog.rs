//! Owns the catalog on this node: names, and on which shard each stream is. Inputs: committed
//! entries of shard 0, requests to change it, questions. Never: waits for disk or another actor.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use railgun_core::catalog::{
    Catalog, CatalogEntry, CatalogOutcome, NodeRecord, Placement, RestoredCatalog, TokenVerdict,
};
use railgun_core::command::{
    CatalogCommand, ClusterSettings, Command, CommandBody, NodeState, TokenHash,
};
use railgun_core::placement::{self, DrainState};
use railgun_log::ShardLog;
use railgun_raft::{RaftShard, Unapplied};
use railgun_types::{EntryId, NodeId, NodeUid, ReplicaId, ShardId, StreamName, StreamUid};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::actors::Actors;
use crate::checkpoint::{Schedule, Written};
use crate::clock::Clock;
use crate::inspection::StateDigest;
use crate::replica::{
    self, CommittedEntry, EntryContent, NodeStopping, Pipeline, ProposeFailure, UnappliedQueue,
};

/// Messages that may wait.
const QUEUE: usize = 256;

/// A message to the catalog's owner.
#[derive(Debug)]
pub(crate) enum Message {
    Started(RaftShard),
    Applied(Vec<CommittedEntry>),
    /// The state is that of a snapshot from here on.
    Installed {
        restored: Box<RestoredCatalog>,
        bytes: u64,
        reply: oneshot::Sender<()>,
    },
    Checkpointed(Written),
    /// What is applied is to be on disk besides the log.
    WriteCheckpoint,
    Change {
        command: CatalogCommand,
        reply: oneshot::Sender<Result<CatalogOutcome, ChangeFailure>>,
    },
    Get {
        name: StreamName,
        reply: oneshot::Sender<Option<CatalogEntry>>,
    },
    List {
        prefix: String,
        after: Option<StreamName>,
        limit: usize,
        reply: oneshot::Sender<Vec<(StreamName, CatalogEntry)>>,
    },
    HalfDone {
        reply: oneshot::Sender<Vec<(StreamName, CatalogEntry)>>,
    },
    Nameless {
        streams: Vec<(StreamName, StreamUid)>,
        reply: oneshot::Sender<Vec<(StreamName, StreamUid)>>,
    },
    /// What the leader is to change without being asked.
    NextChange {
        reply: oneshot::Sender<Option<CatalogCommand>>,
    },
    /// Whether a join token is kept, whatever it is worth.
    KnowsToken {
        hash: TokenHash,
        reply: oneshot::Sender<bool>,
    },
    /// What a join token would be worth for a node.
    TokenWorth {
        hash: TokenHash,
        uid: NodeUid,
        reply: oneshot::Sender<TokenVerdict>,
    },
    /// What is still on each node.
    Drains {
        reply: oneshot::Sender<BTreeMap<NodeId, DrainState>>,
    },
    Digest {
        reply: oneshot::Sender<StateDigest>,
    },
    View {
        reply: oneshot::Sender<Arc<ClusterView>>,
    },
}

impl Message {
    /// What a snapshot of so many bytes holds.
    pub(crate) fn installed(
        restored: RestoredCatalog,
        bytes: u64,
        reply: oneshot::Sender<()>,
    ) -> Self {
        Self::Installed { restored: Box::new(restored), bytes, reply }
    }
}

/// What the catalog says about the cluster, names aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterView {
    pub(crate) settings: Option<ClusterSettings>,
    /// At which all nodes work.
    pub(crate) feature_level: u32,
    pub(crate) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(crate) placements: BTreeMap<ShardId, Placement>,
}

impl ClusterView {
    fn of(catalog: &Catalog) -> Arc<Self> {
        let nodes = catalog.nodes().map(|(node, record)| (node, record.clone()));
        let placements = catalog.placements().map(|(shard, placement)| (shard, placement.clone()));
        Arc::new(Self {
            settings: catalog.settings(),
            feature_level: catalog.feature_level(),
            nodes: nodes.collect(),
            placements: placements.collect(),
        })
    }

    /// A node that is part of the cluster.
    pub(crate) fn member(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node).filter(|record| record.is_member())
    }

    /// The node that is part of the cluster and reached by others at this address.
    pub(crate) fn member_at(&self, peer_address: &str) -> Option<NodeId> {
        let is_there =
            |record: &NodeRecord| record.is_member() && record.peer_address == peer_address;
        let there = self.nodes.iter().find(|(_, record)| is_there(record));
        there.map(|(node, _)| *node)
    }

    /// Where clients reach the nodes that take some, other than this one.
    pub(crate) fn alternatives(&self, own: NodeId) -> Vec<String> {
        let others = self.nodes.iter().filter(|(node, record)| {
            **node != own && record.state == NodeState::Active && !record.client_address.is_empty()
        });
        others.map(|(_, record)| record.client_address.clone()).collect()
    }

    /// Where the node of a replica is reached.
    pub(crate) fn address(&self, replica: ReplicaId) -> String {
        let record = self.nodes.get(&replica.node());
        record.map_or_else(String::new, |record| record.peer_address.clone())
    }
}

/// Why a change of the catalog was not made, or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeFailure {
    /// See [`ProposeFailure`].
    #[error(transparent)]
    Proposal(#[from] ProposeFailure),
    /// No further name may be reserved. Nothing was written.
    #[error(
        "there are as many streams as `streams.max_count` of the server allows, {max}: delete some, \
         or raise it"
    )]
    TooManyStreams { max: usize },
    /// The disk has no room for further names, or hardly any at all. Nothing was written.
    #[error("the disk is full: free space or add some")]
    DiskFull,
}

/// What the owner of the catalog is made of.
pub(crate) struct CatalogSpec {
    pub(crate) restored: RestoredCatalog,
    /// Names that there may be.
    pub(crate) streams_max: usize,
    pub(crate) checkpoints: Schedule,
    pub(crate) log: ShardLog,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) unapplied: UnappliedQueue,
}

/// The handle of the catalog. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct CatalogHandle {
    to: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<ClusterView>>,
}

impl CatalogHandle {
    /// Proposes a change and waits until it is applied here.
    pub(crate) async fn change(
        &self,
        command: CatalogCommand,
    ) -> Result<CatalogOutcome, ChangeFailure> {
        let (reply, result) = oneshot::channel();
        let sent = self.to.send(Message::Change { command, reply }).await;
        sent.map_err(|_| ProposeFailure::NotLeading)?;
        result.await.unwrap_or(Err(ProposeFailure::Unknown.into()))
    }

    pub(crate) async fn get(&self, name: StreamName) -> Result<Option<CatalogEntry>, NodeStopping> {
        self.ask(|reply| Message::Get { name, reply }).await
    }

    /// Names that begin with `prefix` and come after `after`, in order.
    pub(crate) async fn list(
        &self,
        prefix: String,
        after: Option<StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, CatalogEntry)>, NodeStopping> {
        self.ask(|reply| Message::List { prefix, after, limit, reply }).await
    }

    /// Names whose stream is being created or deleted.
    pub(crate) async fn half_done(&self) -> Result<Vec<(StreamName, CatalogEntry)>, NodeStopping> {
        self.ask(|reply| Message::HalfDone { reply }).await
    }

    /// Of streams and the names that they were made with, those whose name is free or another's.
    pub(crate) async fn nameless(
        &self,
        streams: Vec<(StreamName, StreamUid)>,
    ) -> Result<Vec<(StreamName, StreamUid)>, NodeStopping> {
        self.ask(|reply| Message::Nameless { streams, reply }).await
    }

    /// What the leader is to change without being asked, as the catalog is here: the feature level, once
    /// all nodes can, else where replicas are placed.
    pub(crate) async fn next_change(&self) -> Result<Option<CatalogCommand>, NodeStopping> {
        self.ask(|reply| Message::NextChange { reply }).await
    }

    /// Whether a join token is kept here, whatever it is worth.
    pub(crate) async fn knows_token(&self, hash: TokenHash) -> Result<bool, NodeStopping> {
        self.ask(|reply| Message::KnowsToken { hash, reply }).await
    }

    /// What a join token would be worth for a node, as the catalog is here.
    pub(crate) async fn token_worth(
        &self,
        hash: TokenHash,
        uid: NodeUid,
    ) -> Result<TokenVerdict, NodeStopping> {
        self.ask(|reply| Message::TokenWorth { hash, uid, reply }).await
    }

    /// What is still on each node that is part of the cluster, as the catalog is here.
    pub(crate) async fn drains(&self) -> Result<BTreeMap<NodeId, DrainState>, NodeStopping> {
        self.ask(|reply| Message::Drains { reply }).await
    }

    /// Has what is applied written to disk, so that the log can be given up.
    pub(crate) async fn write_checkpoint(&self) -> Result<(), NodeStopping> {
        self.to.send(Message::WriteCheckpoint).await.map_err(|_| NodeStopping)
    }

    /// What tells this replica's state from others.
    pub(crate) async fn digest(&self) -> Result<StateDigest, NodeStopping> {
        self.ask(|reply| Message::Digest { reply }).await
    }

    /// What the catalog says about the cluster with all that was handed over to its owner before this is
    /// asked. [`Self::view`] may be behind that.
    pub(crate) async fn view_now(&self) -> Result<Arc<ClusterView>, NodeStopping> {
        self.ask(|reply| Message::View { reply }).await
    }

    /// What Raft has committed, as its machine hands it over.
    #[cfg(test)]
    pub(crate) async fn hand_over(&self, entries: Vec<CommittedEntry>) {
        self.to.send(Message::Applied(entries)).await.unwrap();
    }

    /// Follows what the catalog says about the cluster.
    pub(crate) fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, NodeStopping> {
        let (reply, answer) = oneshot::channel();
        self.to.send(message(reply)).await.map_err(|_| NodeStopping)?;
        answer.await.map_err(|_| NodeStopping)
    }
}

struct Host {
    catalog: Catalog,
    view: watch::Sender<Arc<ClusterView>>,
    streams_max: usize,
    applied: Option<EntryId>,
    /// The newest membership, for checkpoints.
    membership: Bytes,
    checkpoints: Schedule,
    raft: Option<RaftShard>,
    log: ShardLog,
    actors: Actors,
    /// To itself, for what spawned work reports.
    to_self: mpsc::WeakSender<Message>,
    pipeline: Pipeline<Waiter>,
    /// Names that are being reserved.
    reserving: usize,
    unapplied: UnappliedQueue,
}

/// Who waits for an entry of this node.
#[derive(Debug)]
struct Waiter {
    /// The entry takes a name that was free.
    reserves: bool,
    reply: oneshot::Sender<Result<CatalogOutcome, ChangeFailure>>,
}

impl CatalogSpec {
    /// Starts the owner. The handle of the catalog, and the sender for its Raft machine.
    pub(crate) fn spawn(
        self,
        actors: &Actors,
        cancel: CancellationToken,
    ) -> (CatalogHandle, mpsc::Sender<Message>) {
        let (to, from) = mpsc::channel(QUEUE);
        let RestoredCatalog { catalog, applied, membership } = self.restored;
        let (view, view_watch) = watch::channel(ClusterView::of(&catalog));
        let host = Host {
            catalog,
            view,
            streams_max: self.streams_max,
            applied,
            membership,
            checkpoints: self.checkpoints,
            raft: None,
            log: self.log,
            actors: actors.clone(),
            to_self: to.downgrade(),
            pipeline: Pipeline::new(self.clock),
            reserving: 0,
            unapplied: self.unapplied,
        };
        actors.spawn("the catalog", host.run(from, cancel));
        (CatalogHandle { to: to.clone(), view: view_watch }, to)
    }
}

impl Host {
    async fn run(mut self, mut from: mpsc::Receiver<Message>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(unapplied) = self.unapplied.recv() => self.on_unapplied(unapplied),
                message = from.recv() => match message {
                    Some(message) => self.on_message(message).await,
                    None => return,
                },
            }
            self.write_checkpoint();
        }
    }

    /// Nothing in the catalog waits for the bucket: what a checkpoint holds, the log may give up.
    fn on_checkpointed(&mut self, written: &Written) {
        self.checkpoints.on_written(written);
        let Some(raft) = self.raft.clone().filter(|_| written.result.is_ok()) else { return };
        let (log, upto) = (self.log.clone(), written.id.index);
        self.actors.spawn("the promotion of the catalog's checkpoint", async move {
            let purged = match raft.promote_snapshot(upto).await {
                Ok(promoted) => raft.purged(promoted.index).await,
                Err(error) => return tracing::warn!(%error, "the catalog keeps its log"),
            };
            if let Ok(purged) = purged
                && let Err(error) = log.retire(purged.index, Box::new(|_| ()))
            {
                tracing::warn!(%error, "the catalog keeps its log files");
            }
        });
    }

    /// Encodes a checkpoint if one is due; it is written elsewhere.
    fn write_checkpoint(&mut self) {
        let Some(at) = self.applied.filter(|at| self.checkpoints.is_due(at.index, || false)) else {
            return;
        };
        let state = self.catalog.encode_checkpoint(self.applied, &self.membership);
        let to_self = self.to_self.clone();
        self.checkpoints.write(at, state, |written| async move {
            if let Some(to) = to_self.upgrade() {
                to.send(Message::Checkpointed(written)).await.ok();
            }
        });
    }

    async fn on_message(&mut self, message: Message) {
        match message {
            Message::Started(raft) => {
                self.raft = Some(raft.clone());
                self.pipeline.connect(raft);
            }
            Message::Applied(entries) => entries.into_iter().for_each(|e| self.on_applied(e)),
            Message::Installed { restored, bytes, reply } => {
                self.on_installed(*restored, bytes);
                reply.send(()).ok();
            }
            Message::Checkpointed(written) => self.on_checkpointed(&written),
            Message::WriteCheckpoint => self.checkpoints.want(),
            Message::Change { command, reply } => self.on_change(command, reply).await,
            Message::Get { name, reply } => drop(reply.send(self.catalog.get(&name).cloned())),
            Message::List { prefix, after, limit, reply } => {
                let names = self.catalog.names_with_prefix(&prefix, after.as_ref());
                let names = names.take(limit).map(|(name, entry)| (name.clone(), entry.clone()));
                drop(reply.send(names.collect()));
            }
            Message::HalfDone { reply } => {
                let names = self.catalog.half_done();
                let names = names.map(|(name, entry)| (name.clone(), entry.clone()));
                drop(reply.send(names.collect()));
            }
            Message::Nameless { mut streams, reply } => {
                // Whoever does not lead may not know all names.
                let leads = self.pipeline.leader().serving;
                let has_name = |name: &StreamName, stream: StreamUid| {
                    self.catalog.get(name).is_some_and(|entry| entry.stream == stream)
                };
                streams.retain(|(name, stream)| leads && !has_name(name, *stream));
                drop(reply.send(streams));
            }
            Message::NextChange { reply } => {
                let raise = self.catalog.feature_level_due().map(CatalogCommand::SetFeatureLevel);
                let placed = || placement::next_placement_change(&self.catalog);
                drop(reply.send(raise.or_else(placed)));
            }
            Message::KnowsToken { hash, reply } => {
                reply.send(self.catalog.knows_token(&hash)).ok();
            }
            Message::TokenWorth { hash, uid, reply } => {
                reply.send(self.catalog.token_worth(&hash, uid)).ok();
            }
            Message::Drains { reply } => {
                let members = self.catalog.nodes().filter(|(_, record)| record.is_member());
                let drain = |(node, _)| (node, placement::drain_state(&self.catalog, node));
                drop(reply.send(members.map(drain).collect()));
            }
            Message::Digest { reply } => {
                let state = self.catalog.encode_checkpoint(self.applied, &self.membership);
                reply.send(StateDigest::of(self.applied, &state.pieces())).ok();
            }
            Message::View { reply } => drop(reply.send(ClusterView::of(&self.catalog))),
        }
    }

    /// Proposes a change, unless it is none, or there is no room for it.
    async fn on_change(
        &mut self,
        command: CatalogCommand,
        reply: oneshot::Sender<Result<CatalogOutcome, ChangeFailure>>,
    ) {
        if self.pipeline.leader().serving
            && let Some(outcome) = self.catalog.as_it_is(&command)
        {
            return self.pipeline.confirm(&self.actors, move |is_confirmed| {
                let not_leading = ChangeFailure::from(ProposeFailure::NotLeading);
                reply.send(is_confirmed.then_some(outcome).ok_or(not_leading)).ok();
            });
        }
        let reserves = matches!(command, CatalogCommand::Reserve { .. });
        if let Err(failure) = self.has_room_for(&command) {
            return drop(reply.send(Err(failure)));
        }
        self.reserving += usize::from(reserves);
        let waiter = Waiter { reserves, reply };
        let proposed = self.pipeline.propose(CommandBody::Catalog(command), waiter).await;
        if let Err((waiter, failure)) = proposed {
            self.answer(waiter, Err(failure.into()));
        }
    }

    /// Whether there is room for what makes a name or begins to free one; what ends either always has
    /// some, as no more of that can be asked for.
    fn has_room_for(&self, command: &CatalogCommand) -> Result<(), ChangeFailure> {
        match command {
            CatalogCommand::Reserve { .. } => self.has_room(),
            CatalogCommand::Delete { .. } => {
                let has_relief = replica::has_relief(&self.log, self.pipeline.in_flight());
                has_relief.then_some(()).ok_or(ChangeFailure::DiskFull)
            }
            _ => Ok(()),
        }
    }

    /// Whether one more name may be reserved. Those that are being reserved count, so that there are
    /// never more than is allowed; but some of them may be the same.
    fn has_room(&self) -> Result<(), ChangeFailure> {
        if self.log.disk_full() {
            return Err(ChangeFailure::DiskFull);
        }
        if self.catalog.len() >= self.streams_max {
            return Err(ChangeFailure::TooManyStreams { max: self.streams_max });
        }
        if self.catalog.len() + self.reserving >= self.streams_max {
            return Err(ProposeFailure::Busy.into());
        }
        Ok(())
    }

    fn answer(&mut self, waiter: Waiter, result: Result<CatalogOutcome, ChangeFailure>) {
        self.reserving -= usize::from(waiter.reserves);
        drop(waiter.reply.send(result));
    }

    fn on_applied(&mut self, entry: CommittedEntry) {
        self.applied = Some(entry.at);
        let command = match entry.content {
            EntryContent::Command(command) => command,
            EntryContent::Blank => return,
            EntryContent::Membership(membership) => {
                self.membership = membership;
                return;
            }
        };
        let outcome = self.catalog.apply(&command);
        if is_about_cluster(&command) {
            self.publish_view();
        }
        self.pipeline.observe(self.catalog.log_time());
        if let Some(waiter) = entry.ticket.and_then(|ticket| self.pipeline.applied(ticket)) {
            self.answer(waiter, Ok(outcome));
        }
    }

    fn publish_view(&self) {
        let view = ClusterView::of(&self.catalog);
        self.view.send_if_modified(|known| {
            let changes = **known != *view;
            *known = view;
            changes
        });
    }

    /// Goes on from where another replica was.
    fn on_installed(&mut self, restored: RestoredCatalog, bytes: u64) {
        let RestoredCatalog { catalog, applied, membership } = restored;
        (self.catalog, self.applied, self.membership) = (catalog, applied, membership);
        self.pipeline.observe(self.catalog.log_time());
        self.checkpoints.on_installed(applied.map_or(0, |at| at.index), bytes);
        self.publish_view();
    }

    fn on_unapplied(&mut self, unapplied: Unapplied) {
        if let Some((waiter, failure)) = self.pipeline.unapplied(unapplied) {
            self.answer(waiter, Err(failure.into()));
        }
    }
}

/// Whether a command is about more than names.
fn is_about_cluster(command: &Command) -> bool {
    let CommandBody::Catalog(command) = &command.body else { return false };
    !matches!(
        command,
        CatalogCommand::Reserve { .. }
            | CatalogCommand::Activate { .. }
            | CatalogCommand::Delete { .. }
            | CatalogCommand::Free { .. }
            | CatalogCommand::AddToken { .. }
            | CatalogCommand::UseToken { .. }
    )
}
