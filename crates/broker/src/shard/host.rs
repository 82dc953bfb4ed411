//! Owns the state of one data shard. Inputs: committed entries in log order, requests to append or
//! to change something, questions. Outputs: proposals to Raft, answers. Never: waits for disk,
//! bucket or another actor.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_core::command::{Command, CommandBody, StreamCommand};
use railgun_core::manifest::ManifestFile;
use railgun_core::shard::{AppendRefusal, Appended, Orphan, Outcome, Restored, ShardState};
use railgun_log::ShardLog;
use railgun_raft::{BlockingPool, LeaderState, LeaderWatch, RaftShard, Unapplied};
use railgun_types::batch::RecordBatch;
use railgun_types::{Offset, ShardId, StartPosition, StreamName, StreamUid};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::appender::{Appender, EntryReplies};
use super::budget::{self, Admission};
use super::figures::{GroupTotals, ShardFigures};
use super::groups::{GroupMessage, LettersReply};
use super::live_groups::LiveGroups;
use super::query::{
    self, Located, NextPlan, OffloadStatus, Orphans, ReadQuery, SegmentPage, StartResolved,
    StreamFacts,
};
use super::tail_readers::TailReaders;
use super::{AppendRequest, QUEUE_BYTES, RequestFailure, ShardHandle};
use crate::actors::Actors;
use crate::checkpoint::{CheckpointStore, Schedule, WriteError, Written};
use crate::clock::Clock;
use crate::inspection::StateDigest;
use crate::replica::{
    self, CommittedEntry, EntryContent, Pipeline, ProposeFailure, UnappliedQueue,
};
use crate::thresholds::CheckpointCadence;

/// Messages that may wait. Appends are bounded by bytes besides.
const QUEUE: usize = 1024;
/// Figures are published at most this often: somebody reads them every some seconds, and entries come
/// by the thousand.
const FIGURES_EVERY: Duration = Duration::from_millis(100);
/// How long an entry may be on its way where a majority must take it. Publishers are told then that nobody
/// knows: this replica may be cut off from the others, who have another leader.
const ENTRY_PATIENCE: Duration = Duration::from_secs(2);
/// Messages handled before the next entry is built: what came together is written together.
const BATCH: usize = 256;

/// A message to the shard's owner.
#[derive(Debug)]
pub(crate) enum Message {
    /// The Raft replica runs.
    Started(RaftShard),
    Applied(Vec<CommittedEntry>),
    /// The state is that of a snapshot from here on.
    Installed {
        restored: Box<Restored>,
        bytes: u64,
        reply: oneshot::Sender<()>,
    },
    Append(AppendRequest),
    Command {
        body: Box<CommandBody>,
        reply: oneshot::Sender<Result<Outcome, ProposeFailure>>,
    },
    /// A command of a client.
    Request {
        body: Box<CommandBody>,
        reply: oneshot::Sender<Result<Outcome, RequestFailure>>,
    },
    Locate {
        query: ReadQuery,
        reply: oneshot::Sender<Located>,
    },
    ResolveStart {
        stream: StreamUid,
        start: StartPosition,
        reply: oneshot::Sender<StartResolved>,
    },
    Describe {
        stream: StreamUid,
        reply: oneshot::Sender<Option<Box<StreamFacts>>>,
    },
    Unused {
        reply: oneshot::Sender<Vec<(StreamName, StreamUid)>>,
    },
    Segments {
        stream: StreamUid,
        from: Offset,
        limit: usize,
        reply: oneshot::Sender<Option<SegmentPage>>,
    },
    WaitMirrored {
        scope: MirrorScope,
        reply: oneshot::Sender<()>,
    },
    OffloadStatus {
        reply: oneshot::Sender<OffloadStatus>,
    },
    NextPlan {
        reply: oneshot::Sender<Option<NextPlan>>,
    },
    Orphans {
        reply: oneshot::Sender<Orphans>,
    },
    Collectable {
        attempts: BTreeSet<u64>,
        reply: oneshot::Sender<Vec<Orphan>>,
    },
    ManifestFile {
        reply: oneshot::Sender<Option<ManifestFile>>,
    },
    OffloadReport {
        error: Option<String>,
    },
    WantCheckpoint {
        reply: oneshot::Sender<Result<(), WriteError>>,
    },
    TrimIndex {
        log_index: u64,
        reply: oneshot::Sender<()>,
    },
    Digest {
        reply: oneshot::Sender<StateDigest>,
    },
    Checkpointed(Written),
    Group(GroupMessage),
}

impl Message {
    /// What a snapshot of so many bytes holds.
    pub(crate) fn installed(restored: Restored, bytes: u64, reply: oneshot::Sender<()>) -> Self {
        Self::Installed { restored: Box::new(restored), bytes, reply }
    }
}

/// What somebody waits for to be in the bucket, told by a manifest there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MirrorScope {
    /// A stream's records before `end`.
    Stream { stream: StreamUid, end: Offset },
    /// Everything.
    Shard,
}

/// What a shard's owner is made of.
pub(crate) struct HostSpec {
    /// As of a checkpoint, or before the first entry.
    pub(crate) restored: Restored,
    pub(crate) shard: ShardId,
    pub(crate) log: ShardLog,
    pub(crate) checkpoints: Arc<CheckpointStore>,
    pub(crate) pool: Arc<dyn BlockingPool>,
    pub(crate) cadence: CheckpointCadence,
    pub(crate) clock: Arc<dyn Clock>,
    /// The hot budget of the shard: log bytes that are not in the bucket yet, as `budget` judges them.
    pub(crate) hot_bytes_max: u64,
    pub(crate) unapplied: UnappliedQueue,
}

/// Who waits for an entry of this node.
#[derive(Debug)]
pub(super) enum Waiter {
    Append(EntryReplies),
    Command(oneshot::Sender<Result<Outcome, ProposeFailure>>),
    Request(oneshot::Sender<Result<Outcome, RequestFailure>>),
    /// What groups that are handed out here have to say.
    Groups,
    /// Who wants dead letters appended.
    DeadLetters(LettersReply),
}

pub(super) struct Host {
    pub(super) state: ShardState,
    pub(super) log: ShardLog,
    pub(super) actors: Actors,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pipeline: Pipeline<Waiter>,
    appender: Appender,
    pub(super) groups: LiveGroups,
    unapplied: UnappliedQueue,
    /// Who leads, once the replica runs.
    leader: Option<LeaderWatch>,
    hot_bytes_max: u64,
    /// The hot budget allows no entry before.
    slowed_until: Option<Instant>,
    readers: TailReaders<Located>,
    /// Of the records up to this entry, the log may hold none: the state began with a snapshot or a
    /// checkpoint of it.
    restored: u64,
    /// Who wants records that the log does not hold, and that are in the bucket by an entry which is not
    /// applied here yet.
    early_readers: Vec<(ReadQuery, oneshot::Sender<Located>)>,
    /// Who wants to begin with a time that may be among these records.
    early_starts: Vec<(StreamUid, StartPosition, oneshot::Sender<StartResolved>)>,
    mirror_waits: Vec<(MirrorScope, oneshot::Sender<()>)>,
    offload: watch::Sender<u64>,
    /// The offloader has been told that there is something to do, and has not done it yet.
    offload_due: bool,
    offload_error: Option<String>,
    figures: ShardFigures,
    published: watch::Sender<ShardFigures>,
    /// The newest membership, for checkpoints.
    membership: Bytes,
    checkpoints: Schedule,
    /// Who waits for a checkpoint at this index or later.
    checkpoint_waits: Vec<(u64, oneshot::Sender<Result<(), WriteError>>)>,
    /// To itself, for what spawned work reports.
    to_self: mpsc::WeakSender<Message>,
}

impl HostSpec {
    /// The handle of the shard, and the sender for its Raft machine.
    pub(crate) fn spawn(
        self,
        actors: &Actors,
        cancel: CancellationToken,
    ) -> (ShardHandle, mpsc::Sender<Message>) {
        let (to, from) = mpsc::channel(QUEUE);
        let (offload, offload_watch) = watch::channel(0);
        let figures = ShardFigures {
            shard: self.shard,
            hot_bytes_max: self.hot_bytes_max,
            ..ShardFigures::default()
        };
        let (published, figures_watch) = watch::channel(figures);
        let handle = ShardHandle {
            id: self.shard,
            to: to.clone(),
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            log: self.log.clone(),
            offload: offload_watch,
            figures: figures_watch,
        };
        let restored = self.restored.state.applied().map(|at| at.index);
        let (store, log) = (self.checkpoints, self.log.clone());
        let host = Host {
            checkpoints: Schedule::new(
                store,
                log,
                actors.clone(),
                self.pool,
                self.cadence,
                restored,
            ),
            checkpoint_waits: Vec::new(),
            membership: self.restored.membership,
            to_self: to.downgrade(),
            state: self.restored.state,
            log: self.log,
            actors: actors.clone(),
            clock: Arc::clone(&self.clock),
            pipeline: Pipeline::new(self.clock),
            appender: Appender::default(),
            groups: LiveGroups::default(),
            unapplied: self.unapplied,
            leader: None,
            hot_bytes_max: self.hot_bytes_max,
            slowed_until: None,
            readers: TailReaders::default(),
            restored: restored.unwrap_or(0),
            early_readers: Vec::new(),
            early_starts: Vec::new(),
            mirror_waits: Vec::new(),
            offload,
            offload_due: false,
            offload_error: None,
            figures,
            published,
        };
        actors.spawn("a shard host", host.run(from, cancel));
        (handle, to)
    }
}

impl Host {
    async fn run(mut self, mut from: mpsc::Receiver<Message>, cancel: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        // What changes while they are paced is published when it fires.
        let pace = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(pace);
        let (mut is_paced, mut is_stale) = (false, false);
        let mut looked_at = Instant::now();
        loop {
            let slowed_until = self.slowed_until;
            let overdue_at = self.pipeline.overdue_at(ENTRY_PATIENCE);
            // Those that were told so stay the oldest.
            let overdue_at = overdue_at.map(|at| at.max(looked_at + ENTRY_PATIENCE / 4));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(unapplied) = self.unapplied.recv() => self.on_unapplied(unapplied),
                leader = changed(&mut self.leader) => self.groups.follow(leader),
                () = tokio::time::sleep_until(slowed_until.unwrap_or_else(Instant::now)),
                    if slowed_until.is_some() => self.slowed_until = None,
                () = tokio::time::sleep_until(overdue_at.unwrap_or_else(Instant::now)),
                    if overdue_at.is_some() =>
                {
                    looked_at = Instant::now();
                    self.leave_overdue();
                    continue;
                }
                () = &mut pace, if is_paced => {
                    is_paced = false;
                    if !is_stale {
                        continue;
                    }
                }
                received = from.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    for message in batch.drain(..) {
                        self.on_message(message).await;
                    }
                }
            }
            self.propose_waiting().await;
            self.write_checkpoint();
            is_stale = is_paced;
            if !is_paced {
                let begun = Instant::now();
                self.publish_figures();
                // Of thousands of groups it takes its time: a hundredth of all is what it may have.
                let pause = FIGURES_EVERY.max(begun.elapsed() * 100);
                pace.as_mut().reset(Instant::now() + pause);
                is_paced = true;
            }
        }
    }

    async fn on_message(&mut self, message: Message) {
        match message {
            Message::Started(raft) => {
                self.leader = Some(raft.leader());
                self.pipeline.connect(raft);
            }
            Message::Applied(entries) => self.on_applied(entries),
            Message::Installed { restored, bytes, reply } => {
                self.on_installed(*restored, bytes);
                reply.send(()).ok();
            }
            Message::Append(request) => self.appender.push(request),
            Message::Command { body, reply } => {
                let waiter = Waiter::Command(reply);
                if let Err((waiter, failure)) = self.pipeline.propose(*body, waiter).await {
                    self.fail(waiter, failure);
                }
            }
            Message::Request { body, reply } => self.on_request(*body, reply).await,
            Message::Locate { query, reply } => self.on_locate(query, reply),
            Message::ResolveStart { stream, start, reply } => {
                self.on_resolve_start(stream, start, reply);
            }
            Message::Describe { stream, reply } => {
                let mut facts = query::describe(&self.state, stream).map(Box::new);
                if let Some(facts) = &mut facts {
                    facts.offload_error.clone_from(&self.offload_error);
                }
                drop(reply.send(facts));
            }
            Message::Unused { reply } => drop(reply.send(query::unused(&self.state))),
            Message::Segments { stream, from, limit, reply } => {
                drop(reply.send(query::segments(&self.state, stream, from, limit)));
            }
            Message::WaitMirrored { scope, reply } => {
                self.mirror_waits.push((scope, reply));
                self.answer_mirror_waits();
            }
            Message::OffloadStatus { reply } => {
                let serving = self.pipeline.leader().serving;
                let keeps_too_much = self.keeps_too_much();
                reply.send(query::offload_status(&self.state, serving, keeps_too_much)).ok();
            }
            Message::NextPlan { reply } => drop(reply.send(query::next_plan(&self.state))),
            Message::Orphans { reply } => {
                let serving = self.pipeline.leader().serving;
                let attempts = self.state.orphans().keys().copied().collect();
                reply.send(Orphans { serving, attempts }).ok();
            }
            Message::Collectable { attempts, reply } => {
                drop(reply.send(self.state.collectable(&attempts)));
            }
            Message::ManifestFile { reply } => drop(reply.send(self.state.manifest_file())),
            Message::OffloadReport { error } => self.offload_error = error,
            Message::WantCheckpoint { reply } => {
                let applied = self.state.applied().map_or(0, |at| at.index);
                if self.checkpoints.covers(applied) {
                    reply.send(Ok(())).ok();
                } else {
                    self.checkpoint_waits.push((applied, reply));
                    self.checkpoints.want();
                }
            }
            Message::TrimIndex { log_index, reply } => {
                self.state.trim_index_below(log_index);
                reply.send(()).ok();
            }
            Message::Digest { reply } => {
                let state = self.state.encode_checkpoint(&self.membership, false);
                reply.send(StateDigest::of(self.state.applied(), &state.pieces())).ok();
            }
            Message::Checkpointed(written) => self.on_checkpointed(written),
            Message::Group(message) => self.on_group(message).await,
        }
    }

    /// Proposes what a client wants, unless it changes nothing, or there is no room for it.
    async fn on_request(
        &mut self,
        mut body: CommandBody,
        reply: oneshot::Sender<Result<Outcome, RequestFailure>>,
    ) {
        // Whoever does not lead may not know what was changed elsewhere.
        let leads = self.pipeline.leader().serving;
        if let Some(outcome) = leads.then(|| self.state.prune(&mut body)).flatten() {
            return self.pipeline.confirm(&self.actors, move |is_confirmed| {
                let not_leading = RequestFailure::from(ProposeFailure::NotLeading);
                reply.send(is_confirmed.then_some(outcome).ok_or(not_leading)).ok();
            });
        }
        if let Err(full) = self.admission()
            && !(replica::makes_room(&self.state, &body)
                && replica::has_relief(&self.log, self.pipeline.in_flight()))
        {
            return drop(reply.send(Err(full)));
        }
        if let Err((waiter, failure)) = self.pipeline.propose(body, Waiter::Request(reply)).await {
            self.fail(waiter, failure);
        }
    }

    fn on_locate(&mut self, query: ReadQuery, reply: oneshot::Sender<Located>) {
        match query::locate(&self.state, query) {
            Some(Located::Missing) if self.is_early() => {
                self.early_readers.push((query, reply));
            }
            Some(located) => drop(reply.send(located)),
            None => self.readers.wait(query.stream, query.from, reply),
        }
    }

    fn on_resolve_start(
        &mut self,
        stream: StreamUid,
        start: StartPosition,
        reply: oneshot::Sender<StartResolved>,
    ) {
        match query::resolve_start(&self.state, stream, start, self.is_early()) {
            Some(resolved) => drop(reply.send(resolved)),
            None => self.early_starts.push((stream, start, reply)),
        }
    }

    /// Whether entries that tell of the bucket, which come behind the one the state began with, are still to
    /// be applied.
    fn is_early(&self) -> bool {
        self.state.floor().unwrap_or(0) < self.restored
    }

    /// More is known to be in the bucket.
    fn wake_early_readers(&mut self) {
        for (stream, start, reply) in std::mem::take(&mut self.early_starts) {
            if !reply.is_closed() {
                self.on_resolve_start(stream, start, reply);
            }
        }
        for (query, reply) in std::mem::take(&mut self.early_readers) {
            if !reply.is_closed() {
                self.on_locate(query, reply);
            }
        }
    }

    fn on_applied(&mut self, entries: Vec<CommittedEntry>) {
        for entry in entries {
            let command = match entry.content {
                EntryContent::Command(command) => command,
                EntryContent::Blank => {
                    self.groups.led_since(entry.at.term);
                    self.state.skip(entry.at);
                    continue;
                }
                EntryContent::Membership(membership) => {
                    self.state.skip(entry.at);
                    self.membership = membership;
                    continue;
                }
            };
            let outcome = self.state.apply(entry.at, &command);
            self.pipeline.observe(self.state.log_time());
            self.wake_readers(&command);
            self.groups.applied(&self.state, entry.at.term, &command, &outcome);
            if matches!(outcome, Outcome::Sealed { objects: 1.. }) {
                // The floor will rise to just here: a checkpoint that can be promoted then.
                self.checkpoints.want();
            }
            let waiter = entry.ticket.and_then(|ticket| self.pipeline.applied(ticket));
            match (waiter, outcome) {
                (Some(Waiter::DeadLetters(reply)), Outcome::Appended(results)) => {
                    self.count(&command, &results);
                    reply.send(results).ok();
                }
                (waiter, Outcome::Appended(results)) => {
                    self.count(&command, &results);
                    let Some(Waiter::Append(replies)) = waiter else { continue };
                    self.appender.entry_ended(&replies);
                    replies.applied(results);
                }
                (Some(Waiter::Groups), _) => self.groups.ended(),
                (Some(Waiter::DeadLetters(_)), _) => {}
                (Some(Waiter::Append(replies)), _) => {
                    self.appender.entry_ended(&replies);
                    replies.failed(ProposeFailure::Unknown.into());
                }
                (Some(Waiter::Command(reply)), outcome) => drop(reply.send(Ok(outcome))),
                (Some(Waiter::Request(reply)), outcome) => drop(reply.send(Ok(outcome))),
                (None, _) => {}
            }
            if matches!(command.body, CommandBody::Segment(_)) {
                self.answer_mirror_waits();
                self.wake_early_readers();
            }
        }
        self.wake_offloader();
    }

    /// Goes on from where another replica was. Of the records up to there nothing is in this replica's
    /// log: they are in the bucket.
    fn on_installed(&mut self, restored: Restored, bytes: u64) {
        self.state = restored.state;
        self.membership = restored.membership;
        let index = self.state.applied().map_or(0, |at| at.index);
        self.state.trim_index_below(index + 1);
        self.restored = index;
        self.pipeline.observe(self.state.log_time());
        self.checkpoints.on_installed(index, bytes);
        self.wake_early_readers();
        for stream in self.readers.streams() {
            self.wake_readers_of(stream);
        }
        self.answer_mirror_waits();
        self.wake_offloader();
    }

    /// Tells the offloader when something becomes due that should not wait for its next look. It
    /// does all that is due before it rests, so once is enough.
    fn wake_offloader(&mut self) {
        let (closed, plans) = (self.state.waiting().closed, self.state.plans());
        let due = closed >= self.state.segment_bytes_min() || !plans.is_empty();
        if due && !std::mem::replace(&mut self.offload_due, due) {
            self.offload.send_modify(|version| *version += 1);
        }
        self.offload_due = due;
    }

    /// Answers readers whose stream has new records or is gone.
    fn wake_readers(&mut self, command: &Command) {
        if self.readers.is_empty() {
            return;
        }
        match &command.body {
            CommandBody::Append(items) => {
                // Once for each stream, not for each of thousands of batches.
                let streams = items.iter().map(|item| item.stream);
                let waited: BTreeSet<_> =
                    streams.filter(|stream| self.readers.any_of(*stream)).collect();
                waited.into_iter().for_each(|stream| self.wake_readers_of(stream));
            }
            CommandBody::Stream(StreamCommand::Delete { stream }) => {
                self.wake_readers_of(*stream);
            }
            _ => {}
        }
    }

    fn wake_readers_of(&mut self, stream: StreamUid) {
        let next = self.state.stream(stream).map(|stream| stream.next_offset());
        for (from, reply) in self.readers.take(stream, next) {
            self.on_locate(ReadQuery { stream, from, wait: true, only_cold: false }, reply);
        }
    }

    fn answer_mirror_waits(&mut self) {
        let state = &self.state;
        let done = |(scope, reply): &mut (MirrorScope, oneshot::Sender<()>)| match *scope {
            _ if reply.is_closed() => true,
            MirrorScope::Shard => state.is_drained(),
            MirrorScope::Stream { stream, end } => {
                state.is_mirrored(stream, end) || state.stream(stream).is_none()
            }
        };
        for (_, reply) in self.mirror_waits.extract_if(.., done) {
            reply.send(()).ok();
        }
    }

    fn on_unapplied(&mut self, unapplied: Unapplied) {
        if let Some((waiter, failure)) = self.pipeline.unapplied(unapplied) {
            if let Waiter::Append(replies) = &waiter {
                self.appender.entry_ended(replies);
            }
            self.fail(waiter, failure);
        }
    }

    /// Tells publishers whose entries a majority has not taken for long that nobody knows.
    fn leave_overdue(&mut self) {
        if self.pipeline.is_alone() {
            return;
        }
        for waiter in self.pipeline.overdue(ENTRY_PATIENCE) {
            if let Waiter::Append(replies) = waiter
                && !replies.is_left()
            {
                replies.leave();
            }
        }
    }

    pub(super) fn fail(&mut self, waiter: Waiter, failure: ProposeFailure) {
        match waiter {
            Waiter::Append(replies) => replies.failed(failure.into()),
            Waiter::Command(reply) => drop(reply.send(Err(failure))),
            Waiter::Request(reply) => drop(reply.send(Err(failure.into()))),
            Waiter::Groups => match failure {
                ProposeFailure::Unknown => self.groups.lost(),
                ProposeFailure::NotLeading => self.groups.refused(),
                ProposeFailure::Busy => self.groups.clear(),
            },
            Waiter::DeadLetters(_) => {}
        }
    }

    /// Sends out as many entries as may be in flight, as far as the disk and the hot budget allow.
    async fn propose_waiting(&mut self) {
        self.propose_groups().await;
        while self.appender.has_entry(|| self.log.file_bytes()) {
            match self.admission() {
                Ok(None) => {}
                Ok(Some(pause)) => {
                    let now = Instant::now();
                    if self.slowed_until.is_some_and(|until| until > now) {
                        return;
                    }
                    self.slowed_until = Some(now + pause);
                }
                Err(full) => return self.refuse_waiting(full),
            }
            self.propose_entry().await;
        }
    }

    /// Whether the disk and the hot budget have room for what clients want: at once, so long after
    /// the entry before, or not.
    pub(super) fn admission(&self) -> Result<Option<Duration>, RequestFailure> {
        if self.log.disk_full() {
            return Err(RequestFailure::DiskFull);
        }
        match budget::admission(self.spent_bytes(), self.hot_bytes_max) {
            Admission::Free => Ok(None),
            Admission::Slowed(pause) => Ok(Some(pause)),
            Admission::Refused => Err(RequestFailure::HotTierFull),
        }
    }

    /// Looks after so long at the latest whether there is room for what waits.
    pub(super) fn look_again_after(&mut self, pause: Duration) {
        self.slowed_until.get_or_insert(Instant::now() + pause);
    }

    fn refuse_waiting(&mut self, failure: RequestFailure) {
        let refused = self.appender.drain();
        self.figures.refused_total += refused.len() as u64;
        refused.failed(failure);
    }

    fn count(&mut self, command: &Command, results: &[Result<Appended, AppendRefusal>]) {
        let CommandBody::Append(items) = &command.body else { return };
        self.figures.entries_total += 1;
        for (item, result) in items.iter().zip(results) {
            if let Ok(appended) = result
                && !appended.repeated
            {
                let duplicates = appended.duplicates().len() as u64;
                self.figures.records_total += u64::from(appended.count) - duplicates;
                self.figures.duplicates_total += duplicates;
                self.figures.record_bytes_total += added_bytes(&item.batch, appended);
            }
        }
    }

    async fn propose_entry(&mut self) {
        let next = self.appender.next_entry(self.log.file_bytes());
        let Some((items, replies)) = next else { return };
        let body = CommandBody::Append(items);
        let waiter = Waiter::Append(replies);
        if let Err((waiter, failure)) = self.pipeline.propose(body, waiter).await {
            if let Waiter::Append(replies) = &waiter {
                self.appender.entry_ended(replies);
            }
            self.fail(waiter, failure);
            self.appender.drain().failed(failure.into());
        }
    }

    /// Encodes a checkpoint if one is due; it is written elsewhere.
    fn write_checkpoint(&mut self) {
        let Some(at) = self.state.applied() else { return };
        // With one from here on, so much more could be given up.
        let is_short = || {
            self.state.floor().is_some_and(|floor| self.checkpoints.is_below(floor))
                && self.log.unpurged_bytes() > self.hot_bytes_max
        };
        if !self.checkpoints.is_due(at.index, is_short) {
            return;
        }
        let state = self.state.encode_checkpoint(&self.membership, true);
        let to_self = self.to_self.clone();
        self.checkpoints.write(at, state, |written| async move {
            if let Some(to) = to_self.upgrade() {
                to.send(Message::Checkpointed(written)).await.ok();
            }
        });
    }

    fn publish_figures(&mut self) {
        self.figures.update(&self.state);
        self.figures.groups = GroupTotals::of(&self.state, self.groups.all_figures());
        self.figures.hot_bytes = self.hot_bytes();
        self.figures.serving = self.pipeline.leader().serving;
        self.figures.offload_failing = self.offload_error.is_some();
        self.published.send_replace(self.figures);
    }

    fn on_checkpointed(&mut self, written: Written) {
        self.checkpoints.on_written(&written);
        let (index, result) = (written.id.index, written.result.map(|_| ()));
        for (_, reply) in self.checkpoint_waits.extract_if(.., |(wanted, _)| *wanted <= index) {
            reply.send(result.clone()).ok();
        }
        if !self.checkpoint_waits.is_empty() {
            self.checkpoints.want();
        }
    }

    /// What the hot budget is judged by.
    fn spent_bytes(&self) -> u64 {
        self.hot_bytes().max(self.kept_bytes())
    }

    /// What the log cannot give up, as the budget counts it. Where no checkpoint comes to be that is
    /// everything, whatever is in the bucket: it may have as much again of that.
    fn kept_bytes(&self) -> u64 {
        self.log.unpurged_bytes() / 2
    }

    /// Whether nobody may publish on account of what is in the bucket already.
    fn keeps_too_much(&self) -> bool {
        budget::admission(self.kept_bytes(), self.hot_bytes_max) == Admission::Refused
    }

    /// Log bytes that are not in the bucket yet and cannot be given up.
    fn hot_bytes(&self) -> u64 {
        match self.state.floor() {
            Some(floor) => self.log.bytes_above(floor),
            None => self.log.bytes_above(0),
        }
    }
}

/// Encoded bytes of the records that a batch has added.
fn added_bytes(batch: &RecordBatch, appended: &Appended) -> u64 {
    if appended.verdicts.is_none() {
        return batch.body_bytes() as u64;
    }
    let mut duplicates = appended.duplicates().iter().map(|it| it.record).peekable();
    let records = (0..appended.count).zip(batch.records());
    let added = records.filter(|(at, _)| duplicates.next_if_eq(at).is_none());
    added.map(|(_, record)| record.bytes.len() as u64).sum()
}

/// Who leads from now on; never ends before the replica runs. Cancel safe.
async fn changed(leader: &mut Option<LeaderWatch>) -> LeaderState {
    let Some(watch) = leader else { return pending().await };
    let state = watch.changed().await;
    state.unwrap_or_else(|_| {
        // Nobody here will, for ever.
        *leader = None;
        LeaderState::default()
    })
}

#[cfg(test)]
mod tests;
