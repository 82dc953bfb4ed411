//! The way of publishers to shards that other nodes lead.

use std::collections::VecDeque;

use railgun_core::command::{Append, CommandBody};
use railgun_core::shard::Outcome;
use railgun_types::ShardId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{UNANSWERED_MAX, ask, failure, hear, open};
use crate::builtin_bug::BuiltinBug;
use crate::replica::{NodeStopping, ProposeFailure};
use crate::routing::{Leader, Routing};
use crate::shard::{AppendResult, Queueing, RequestFailure};

/// A publisher's way to one shard, wherever its leader is.
#[derive(Debug)]
pub(crate) struct ShardLink {
    shard: ShardId,
    routing: Routing,
    /// To where the last batches went, if not to this node.
    relay: Option<Relay>,
}

/// A stream to another node, kept by a task of its own.
#[derive(Debug)]
struct Relay {
    address: String,
    to: mpsc::Sender<RelayedAppend>,
}

#[derive(Debug)]
struct RelayedAppend {
    items: Vec<Append>,
    reply: oneshot::Sender<AppendResult>,
    /// Of what the client may have on its way.
    room: OwnedSemaphorePermit,
}

impl ShardLink {
    pub(crate) fn new(shard: ShardId, routing: Routing) -> Self {
        Self { shard, routing, relay: None }
    }

    pub(crate) fn id(&self) -> ShardId {
        self.shard
    }

    /// For requests about the same shard.
    pub(crate) fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Queues batches to be appended at the leader, as a shard on this node does. Who that is may
    /// change from one call to the next: what is under way then fails or not, and the producer's
    /// sequence sees to it that the order is kept.
    pub(crate) async fn append(
        &mut self,
        queueing: &Queueing,
        items: Vec<Append>,
    ) -> Result<oneshot::Receiver<AppendResult>, NodeStopping> {
        match self.routing.leader(self.shard, 0) {
            Leader::Here(here) => match here.data() {
                Some(data) => data.handle.append(queueing, items).await,
                None => Ok(refused()),
            },
            Leader::At(address) => self.relay(address, queueing, items).await,
            Leader::Unknown => Ok(refused()),
        }
    }

    async fn relay(
        &mut self,
        address: String,
        queueing: &Queueing,
        items: Vec<Append>,
    ) -> Result<oneshot::Receiver<AppendResult>, NodeStopping> {
        let bytes = items.iter().map(Append::encoded_len).sum();
        let room = queueing.room(bytes).await?;
        let (reply, result) = oneshot::channel();
        let append = RelayedAppend { items, reply, room };
        let relay = match self.relay.take() {
            Some(relay) if relay.address == address && !relay.to.is_closed() => relay,
            _ => self.connect(address, queueing.session()),
        };
        if let Err(mpsc::error::SendError(append)) = relay.to.send(append).await {
            // It has just ended: nothing was sent.
            append.reply.send(Err(ProposeFailure::NotLeading.into())).ok();
        }
        self.relay = Some(relay);
        Ok(result)
    }

    fn connect(&self, address: String, session: u64) -> Relay {
        let (to, from) = mpsc::channel(1);
        let (routing, shard, node) = (self.routing.clone(), self.shard, address.clone());
        self.routing.actors.spawn("a relay of a publisher", async move {
            carry(&routing, shard, session, &node, from).await;
        });
        Relay { address, to }
    }
}

/// Nothing is appended: there is no leader.
fn refused() -> oneshot::Receiver<AppendResult> {
    let (reply, result) = oneshot::channel();
    reply.send(Err(ProposeFailure::NotLeading.into())).ok();
    result
}

/// Brings batches to a node, and answers back, until no more come or the stream breaks.
async fn carry(
    routing: &Routing,
    shard: ShardId,
    session: u64,
    address: &str,
    mut from: mpsc::Receiver<RelayedAppend>,
) {
    let mut unanswered: VecDeque<(oneshot::Sender<AppendResult>, OwnedSemaphorePermit)> =
        VecDeque::new();
    let (mut writer, mut reader) = match open(routing, address, shard, Some(session)).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%shard, address, %error, "no relay to the shard's leader");
            routing.was_wrong(shard, address);
            from.close();
            while let Some(append) = from.recv().await {
                append.reply.send(Err(ProposeFailure::NotLeading.into())).ok();
            }
            return;
        }
    };
    let mut closing = false;
    let failed = loop {
        if closing && unanswered.is_empty() {
            writer.finish();
            return;
        }
        let is_flushed = writer.is_flushed();
        tokio::select! {
            biased;
            frame = reader.next() => {
                let (head, blob) = match hear(frame) {
                    Ok(answer) => answer,
                    Err(failed) => break failed,
                };
                // An answer to nothing: the other side is wrong.
                let Some((reply, room)) = unanswered.pop_front() else {
                    break ProposeFailure::Unknown;
                };
                let result = match failure(&head) {
                    Some(failure) => {
                        let failure: RequestFailure = failure.into();
                        if failure == ProposeFailure::NotLeading.into() {
                            // The next relay may go to one that does.
                            routing.was_wrong(shard, address);
                            from.close();
                        }
                        Err(failure)
                    }
                    None => match Outcome::decode(&blob) {
                        Ok(Outcome::Appended(results)) => Ok(results),
                        _ => Err(ProposeFailure::Unknown.into()),
                    },
                };
                if routing.planted.is(BuiltinBug::AnsweredTwice)
                    && let Some((next, _room)) = unanswered.pop_front()
                {
                    next.send(result.clone()).ok();
                }
                reply.send(result).ok();
                drop(room);
            }
            flushed = writer.flush(), if !is_flushed => {
                if flushed.is_err() {
                    break ProposeFailure::Unknown;
                }
            }
            append = from.recv(), if is_flushed && !closing && unanswered.len() < UNANSWERED_MAX => {
                let Some(RelayedAppend { items, reply, room }) = append else {
                    closing = true;
                    continue;
                };
                unanswered.push_back((reply, room));
                if writer.queue_all([ask(CommandBody::Append(items))]).is_err() {
                    break ProposeFailure::Unknown;
                }
            }
        }
    };
    routing.was_wrong(shard, address);
    from.close();
    for (reply, _room) in unanswered {
        reply.send(Err(failed.into())).ok();
    }
    while let Ok(append) = from.try_recv() {
        append.reply.send(Err(ProposeFailure::NotLeading.into())).ok();
    }
}
