//! Owns the catalog on this node: names, and on which shard each stream is. Inputs: committed
//! entries of shard 0, requests to change it, questions. Never: waits for disk or another actor.

use std::sync::Arc;

use bytes::Bytes;
use railgun_core::catalog::{Catalog, CatalogEntry, CatalogOutcome, Phase, RestoredCatalog};
use railgun_core::command::{CatalogCommand, ClusterSettings, CommandBody};
use railgun_log::ShardLog;
use railgun_raft::{RaftShard, Unapplied};
use railgun_types::{EntryId, StreamName, StreamUid};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::actors::Actors;
use crate::checkpoint::{Schedule, Written};
use crate::clock::Clock;
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
    Checkpointed(Written),
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
    Settings {
        reply: oneshot::Sender<Option<ClusterSettings>>,
    },
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

    pub(crate) async fn settings(&self) -> Result<Option<ClusterSettings>, NodeStopping> {
        self.ask(|reply| Message::Settings { reply }).await
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
        let host = Host {
            catalog,
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
        (CatalogHandle { to: to.clone() }, to)
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
        let pieces = self.catalog.encode_checkpoint(self.applied, &self.membership);
        let to_self = self.to_self.clone();
        self.checkpoints.write(at, pieces, |written| async move {
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
            Message::Checkpointed(written) => self.on_checkpointed(&written),
            Message::Change { command, reply } => self.on_change(command, reply).await,
            Message::Get { name, reply } => drop(reply.send(self.catalog.get(&name).cloned())),
            Message::List { prefix, after, limit, reply } => {
                let names = self.catalog.names_with_prefix(&prefix, after.as_ref());
                let names = names.take(limit).map(|(name, entry)| (name.clone(), entry.clone()));
                drop(reply.send(names.collect()));
            }
            Message::HalfDone { reply } => {
                let names = self.catalog.names_after(None);
                let names = names.filter(|(_, entry)| entry.phase != Phase::Active);
                drop(
                    reply.send(names.map(|(name, entry)| (name.clone(), entry.clone())).collect()),
                );
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
            Message::Settings { reply } => drop(reply.send(self.catalog.settings())),
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
            return drop(reply.send(Ok(outcome)));
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
            CatalogCommand::Found(_)
            | CatalogCommand::Activate { .. }
            | CatalogCommand::Free { .. } => Ok(()),
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
        self.pipeline.observe(self.catalog.log_time());
        if let Some(waiter) = entry.ticket.and_then(|ticket| self.pipeline.applied(ticket)) {
            self.answer(waiter, Ok(outcome));
        }
    }

    fn on_unapplied(&mut self, unapplied: Unapplied) {
        if let Some((waiter, failure)) = self.pipeline.unapplied(unapplied) {
            self.answer(waiter, Err(failure.into()));
        }
    }
}
