//! One data shard on this node: the actor that owns its state, and the handle to it.

mod appender;
mod budget;
mod figures;
mod groups;
mod host;
mod live_groups;
mod query;
mod tail_readers;

use std::collections::BTreeSet;
use std::sync::Arc;

use railgun_core::command::{CommandBody, GroupChanges};
use railgun_core::manifest::ManifestFile;
use railgun_core::shard::{AppendRefusal, Appended, Orphan, Outcome};
use railgun_log::ShardLog;
use railgun_proto::WireError;
use railgun_types::limits::{PUBLISH_ITEMS, PUBLISHER_STREAMS};
use railgun_types::{GroupName, Offset, ShardId, StartPosition, StreamName, StreamUid};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::checkpoint::WriteError;
use crate::group::{Join, MemberInput, Newcomer, Seat};
use crate::inspection::StateDigest;
use crate::reader::ReadSources;
use crate::replica::{NodeStopping, ProposeFailure};
use crate::wire_error;
use appender::Room;
pub(crate) use appender::{AppendRequest, AppendResult, RequestFailure};
pub use figures::{GroupTotals, ShardFigures};
pub(crate) use groups::{DeadPage, GroupFacts, GroupMessage, GroupPage};
pub(crate) use host::{HostSpec, Message, MirrorScope};
pub(crate) use query::{
    Located, NextPlan, OffloadStatus, Orphans, PlanPart, ReadQuery, SegmentFacts, SegmentPage,
    StartResolved, StreamFacts,
};

/// Bytes of batches that may wait in a shard's queue or be in flight. A session that finds no room
/// stops reading from its client: QUIC flow control carries the pressure on.
const QUEUE_BYTES: usize = 32 << 20;
/// The part of it that one session may take, over all shards: whoever waits for room has at most so
/// much of each other session in front of it.
pub(crate) const SESSION_BYTES: usize = QUEUE_BYTES / 2;

/// Batches of one session whose results were not taken, over all its publishers: several of the frames
/// with the most of them.
pub(crate) const SESSION_ITEMS: usize = 8 * PUBLISH_ITEMS;

/// A client's place in the queues of shards, the same for all that one connection publishes: whoever
/// opens many publishers gets no more turns by that, no more bindings and no more results. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub(crate) struct Queueing {
    session: u64,
    bytes: Arc<Semaphore>,
    bindings: Arc<Semaphore>,
    items: Arc<Semaphore>,
}

impl Queueing {
    /// For a session of this number, which no other has.
    pub(crate) fn new(session: u64) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        let (bytes, bindings) = (places(SESSION_BYTES), places(PUBLISHER_STREAMS));
        Self { session, bytes, bindings, items: places(SESSION_ITEMS) }
    }

    /// The session's number.
    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Room for batches of so many bytes on their way to a shard elsewhere; waits for it. Cancel safe.
    pub(crate) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, NodeStopping> {
        acquire(&self.bytes, bytes.min(SESSION_BYTES)).await
    }

    /// Room for one more stream that is bound, for as long as it is. `None`: there are as many.
    pub(crate) fn bind(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.bindings).try_acquire_owned().ok()
    }

    /// Room for the results of so many batches, until they are sent. `None`: it must be waited for.
    pub(crate) fn try_count(&self, items: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.items).try_acquire_many_owned(u32::try_from(items).ok()?).ok()
    }

    /// As [`Self::try_count`], and waits. Must not be called by who has some of it.
    pub(crate) async fn count(&self, items: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.items).acquire_many_owned(u32::try_from(items).ok()?).await.ok()
    }
}

/// The handle of a shard. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    id: ShardId,
    to: mpsc::Sender<Message>,
    queue_bytes: Arc<Semaphore>,
    log: ShardLog,
    /// Raised whenever there may be something to upload.
    offload: watch::Receiver<u64>,
    figures: watch::Receiver<ShardFigures>,
}

impl ShardHandle {
    pub(crate) fn id(&self) -> ShardId {
        self.id
    }

    /// The log, for reading what the index points at.
    pub(crate) fn log(&self) -> &ShardLog {
        &self.log
    }

    /// Queues batches to be appended; waits for room, first among those of its own session. The
    /// result comes by the receiver; a dropped one means that the outcome is not known. Cancel safe:
    /// a request is queued whole or not.
    pub(crate) async fn append(
        &self,
        queueing: &Queueing,
        items: Vec<railgun_core::command::Append>,
    ) -> Result<oneshot::Receiver<AppendResult>, NodeStopping> {
        let bytes: usize = items.iter().map(railgun_core::command::Append::encoded_len).sum();
        let room = Room {
            _session: queueing.room(bytes).await?,
            _queue: acquire(&self.queue_bytes, bytes.min(QUEUE_BYTES)).await?,
        };
        let (reply, result) = oneshot::channel();
        let request = AppendRequest { session: queueing.session, items, bytes, reply, room };
        self.send(Message::Append(request)).await?;
        Ok(result)
    }

    /// Proposes a command of the node's own and waits until it is applied here.
    pub(crate) async fn command(&self, body: CommandBody) -> Result<Outcome, ProposeFailure> {
        let (reply, result) = oneshot::channel();
        let sent = self.send(Message::Command { body: Box::new(body), reply }).await;
        sent.map_err(|NodeStopping| ProposeFailure::NotLeading)?;
        result.await.unwrap_or(Err(ProposeFailure::Unknown))
    }

    /// Has done what a client wants: proposes it and waits until it is applied here, or refuses it
    /// where the room that is left is for what brings records to the bucket. What changes nothing
    /// is answered without an entry.
    pub(crate) async fn request(&self, body: CommandBody) -> Result<Outcome, RequestFailure> {
        let (reply, result) = oneshot::channel();
        let sent = self.send(Message::Request { body: Box::new(body), reply }).await;
        sent.map_err(|NodeStopping| ProposeFailure::NotLeading)?;
        result.await.unwrap_or(Err(ProposeFailure::Unknown.into()))
    }

    /// Finds records; waits for them where the query says so.
    pub(crate) async fn locate(&self, query: ReadQuery) -> Result<Located, NodeStopping> {
        self.ask(|reply| Message::Locate { query, reply }).await
    }

    /// Evaluates where a reader begins.
    pub(crate) async fn resolve_start(
        &self,
        stream: StreamUid,
        start: StartPosition,
    ) -> Result<StartResolved, NodeStopping> {
        self.ask(|reply| Message::ResolveStart { stream, start, reply }).await
    }

    /// What there is to tell about a stream; `None` if it is not here.
    pub(crate) async fn describe(
        &self,
        stream: StreamUid,
    ) -> Result<Option<Box<StreamFacts>>, NodeStopping> {
        self.ask(|reply| Message::Describe { stream, reply }).await
    }

    /// Streams that nothing was ever published to, with the names that they were made with.
    pub(crate) async fn unused(&self) -> Result<Vec<(StreamName, StreamUid)>, NodeStopping> {
        self.ask(|reply| Message::Unused { reply }).await
    }

    /// Up to `limit` of the stream's ranges in the bucket, those before `from` left out; `None` if
    /// the stream is not here.
    pub(crate) async fn segments(
        &self,
        stream: StreamUid,
        from: Offset,
        limit: usize,
    ) -> Result<Option<SegmentPage>, NodeStopping> {
        self.ask(|reply| Message::Segments { stream, from, limit, reply }).await
    }

    /// Takes a member into a group that is handed out here. It waits for its turn behind what other members
    /// say: where a group has much to do, it is not the helping hands that are sent away.
    pub(crate) async fn join_group(
        &self,
        join: Join,
        newcomer: Newcomer,
    ) -> Result<Result<Seat, WireError>, NodeStopping> {
        let join = Box::new(join);
        let found = self.ask(|reply| Message::Group(GroupMessage::Join { join, reply })).await?;
        let Ok(seat) = found else { return Ok(found) };
        let joined = seat.inputs.send(MemberInput::Joined(newcomer)).await;
        Ok(joined.map_or_else(|_| Err(wire_error::group_busy()), |()| Ok(seat)))
    }

    /// Has changes of a group that is handed out here made in the next entry of their kind.
    pub(crate) async fn change_group(
        &self,
        actor: u64,
        changes: GroupChanges,
    ) -> Result<(), NodeStopping> {
        self.send(Message::Group(GroupMessage::Change { actor, changes })).await
    }

    /// Appends the dead letters of messages in one entry, each if the group still wants it. `None`: there was
    /// no room for them, or nobody knows what came of them.
    pub(crate) async fn append_dead_letters(
        &self,
        items: Vec<railgun_core::command::Append>,
    ) -> Option<Vec<Result<Appended, AppendRefusal>>> {
        self.ask(|reply| Message::Group(GroupMessage::DeadLetters { items, reply })).await.ok()
    }

    /// Has groups handed out whose messages are to become dead letters, if this replica leads.
    pub(crate) async fn tend_groups(&self, sources: ReadSources) {
        let sources = Box::new(sources);
        self.send(Message::Group(GroupMessage::Tend { sources })).await.ok();
    }

    /// Up to `limit` groups of a stream, behind this name.
    pub(crate) async fn groups(
        &self,
        stream: StreamUid,
        after: Option<GroupName>,
        limit: usize,
    ) -> Result<GroupPage, NodeStopping> {
        self.ask(|reply| Message::Group(GroupMessage::List { stream, after, limit, reply })).await
    }

    /// What there is to tell about a group; `None` if there is none of the name.
    pub(crate) async fn group(
        &self,
        stream: StreamUid,
        group: GroupName,
    ) -> Result<Option<Box<GroupFacts>>, NodeStopping> {
        self.ask(|reply| Message::Group(GroupMessage::Describe { stream, group, reply })).await
    }

    /// The stream of a group's dead letters, if there is one.
    pub(crate) async fn companion(
        &self,
        stream: StreamUid,
        group: GroupName,
    ) -> Result<Option<StreamUid>, NodeStopping> {
        self.ask(|reply| Message::Group(GroupMessage::Companion { stream, group, reply })).await
    }

    /// Has an exclusive group begin to hand over; messages that its active member still has.
    pub(crate) async fn hand_over(
        &self,
        stream: StreamUid,
        group: GroupName,
    ) -> Result<Result<u64, WireError>, NodeStopping> {
        self.ask(|reply| Message::Group(GroupMessage::HandOver { stream, group, reply })).await
    }

    /// What of a group is dead or parked, from an offset on.
    pub(crate) async fn dead(
        &self,
        stream: StreamUid,
        group: GroupName,
        from: Offset,
    ) -> Result<Option<DeadPage>, NodeStopping> {
        self.ask(|reply| Message::Group(GroupMessage::Dead { stream, group, from, reply })).await
    }

    /// Waits until it is in the bucket, and a manifest there says so.
    pub(crate) async fn mirrored(&self, scope: MirrorScope) -> Result<(), NodeStopping> {
        self.ask(|reply| Message::WaitMirrored { scope, reply }).await
    }

    /// How far the way into the bucket is gone.
    pub(crate) async fn offload_status(&self) -> Result<OffloadStatus, NodeStopping> {
        self.ask(|reply| Message::OffloadStatus { reply }).await
    }

    /// What is to be uploaded next.
    pub(crate) async fn next_plan(&self) -> Result<Option<NextPlan>, NodeStopping> {
        self.ask(|reply| Message::NextPlan { reply }).await
    }

    /// What uploads that are over may have left in the bucket.
    pub(crate) async fn orphans(&self) -> Result<Orphans, NodeStopping> {
        self.ask(|reply| Message::Orphans { reply }).await
    }

    /// What of these attempts may be deleted, as far as the bucket knows of it.
    pub(crate) async fn collectable(
        &self,
        attempts: BTreeSet<u64>,
    ) -> Result<Vec<Orphan>, NodeStopping> {
        self.ask(|reply| Message::Collectable { attempts, reply }).await
    }

    /// The manifest file that the bucket lacks.
    pub(crate) async fn manifest_file(&self) -> Result<Option<ManifestFile>, NodeStopping> {
        self.ask(|reply| Message::ManifestFile { reply }).await
    }

    /// Waits until a checkpoint holds everything applied when this is asked, or was not written.
    pub(crate) async fn checkpoint(&self) -> Result<Result<(), WriteError>, NodeStopping> {
        self.ask(|reply| Message::WantCheckpoint { reply }).await
    }

    /// Readers find nothing below this log index in the log any more: its files are about to go.
    pub(crate) async fn trim_index_below(&self, log_index: u64) -> Result<(), NodeStopping> {
        self.ask(|reply| Message::TrimIndex { log_index, reply }).await
    }

    /// What tells this replica's state from others.
    pub(crate) async fn digest(&self) -> Result<StateDigest, NodeStopping> {
        self.ask(|reply| Message::Digest { reply }).await
    }

    /// Tells the shard how its uploads fare, for `stream info`.
    pub(crate) async fn report_offload(&self, error: Option<String>) {
        self.send(Message::OffloadReport { error }).await.ok();
    }

    /// Follows whether there may be something to upload.
    pub(crate) fn offload_watch(&self) -> watch::Receiver<u64> {
        self.offload.clone()
    }

    /// The shard's figures, at most 100 ms old.
    pub(crate) fn figures(&self) -> ShardFigures {
        *self.figures.borrow()
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, NodeStopping> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply)).await?;
        answer.await.map_err(|_| NodeStopping)
    }

    async fn send(&self, message: Message) -> Result<(), NodeStopping> {
        self.to.send(message).await.map_err(|_| NodeStopping)
    }
}

async fn acquire(
    room: &Arc<Semaphore>,
    bytes: usize,
) -> Result<OwnedSemaphorePermit, NodeStopping> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Arc::clone(room).acquire_many_owned(bytes).await.map_err(|_| NodeStopping)
}
