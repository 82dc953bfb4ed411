//! The way of publishers to shards that other nodes lead: a stream for each shard and client's connection,
//! for as long as something goes that way.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::time::Duration;

use railgun_core::command::{Append, CommandBody};
use railgun_core::shard::Outcome;
use railgun_net::{FrameReader, FrameWriter};
use railgun_types::ShardId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ways::{Way, WayRoom};
use super::{UNANSWERED_MAX, ask, failure, hear, open};
use crate::builtin_bug::BuiltinBug;
use crate::peers::Line;
use crate::replica::{NodeStopping, ProposeFailure};
use crate::routing::{Leader, Routing};
use crate::shard::{AppendResult, Queueing, RequestFailure};

/// How long a relay is kept for which there is nothing to do.
const IDLE_TIME: Duration = Duration::from_secs(2);
/// How long a relay that is kept busy goes on where others wait for its place.
const TURN: Duration = Duration::from_secs(1);
/// How long a node that leads no more may take to answer what it has taken.
const LATE_ANSWERS: Duration = Duration::from_millis(100);
/// How long what is to be relayed waits for a place, and for the stream.
const BEGIN_TIME: Duration = Duration::from_secs(5);

/// The relays of a client's connection. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relays(watch::Sender<BTreeMap<ShardId, Relay>>);

/// A stream to another node, kept by a task of its own.
#[derive(Debug)]
struct Relay {
    address: String,
    to: mpsc::Sender<RelayedAppend>,
}

#[derive(Debug)]
struct RelayedAppend {
    items: Vec<Append>,
    bytes: usize,
    reply: oneshot::Sender<AppendResult>,
    /// Of what the client may have on its way.
    room: OwnedSemaphorePermit,
}

impl RelayedAppend {
    /// Nothing was sent.
    fn refuse(self) {
        self.reply.send(Err(ProposeFailure::NotLeading.into())).ok();
    }
}

impl Relays {
    /// The one to the node that leads the shard, begun if there is none.
    fn to(
        &self,
        routing: &Routing,
        shard: ShardId,
        address: &str,
        session: u64,
    ) -> mpsc::Sender<RelayedAppend> {
        let is_it = |relay: &&Relay| relay.address == address && !relay.to.is_closed();
        if let Some(relay) = self.0.borrow().get(&shard).filter(is_it) {
            return relay.to.clone();
        }
        let (mut to, from) = mpsc::channel(1);
        let new = Relay { address: address.to_owned(), to: to.clone() };
        let is_new = self.0.send_if_modified(|relays| {
            // Another publisher may have been faster.
            match relays.get(&shard).filter(is_it) {
                Some(there) => {
                    to = there.to.clone();
                    false
                }
                None => {
                    relays.retain(|_, relay| !relay.to.is_closed());
                    relays.insert(shard, new);
                    true
                }
            }
        });
        if is_new {
            let address = address.to_owned();
            let carrier = Carrier { routing: routing.clone(), shard, session, address };
            routing.actors.spawn("a relay of publishers", carrier.run(from));
        }
        to
    }

    /// Nothing more goes to another node: this one leads the shard.
    fn leave(&self, shard: ShardId) {
        self.0.send_modify(|relays| drop(relays.remove(&shard)));
    }
}

/// A publisher's way to one shard, wherever its leader is.
#[derive(Debug)]
pub(crate) struct ShardLink {
    shard: ShardId,
    routing: Routing,
    relays: Relays,
    /// The last batches went to another node.
    is_elsewhere: bool,
}

impl ShardLink {
    pub(crate) fn new(shard: ShardId, routing: Routing, relays: Relays) -> Self {
        Self { shard, routing, relays, is_elsewhere: false }
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
                Some(data) => {
                    if std::mem::take(&mut self.is_elsewhere) {
                        self.relays.leave(self.shard);
                    }
                    data.handle.append(queueing, items).await
                }
                None => Ok(refused()),
            },
            Leader::At(address) => self.relay(&address, queueing, items).await,
            Leader::Unknown => Ok(refused()),
        }
    }

    async fn relay(
        &mut self,
        address: &str,
        queueing: &Queueing,
        items: Vec<Append>,
    ) -> Result<oneshot::Receiver<AppendResult>, NodeStopping> {
        let bytes = items.iter().map(Append::encoded_len).sum();
        let room = queueing.room(bytes).await?;
        let (reply, result) = oneshot::channel();
        let mut append = RelayedAppend { items, bytes, reply, room };
        self.is_elsewhere = true;
        // One that ends meanwhile takes nothing; another is begun then, but not for ever.
        for _ in 0..2 {
            let to = self.relays.to(&self.routing, self.shard, address, queueing.session());
            match to.send(append).await {
                Ok(()) => return Ok(result),
                Err(mpsc::error::SendError(back)) => append = back,
            }
        }
        append.refuse();
        Ok(result)
    }
}

/// Nothing is appended: there is no leader.
fn refused() -> oneshot::Receiver<AppendResult> {
    let (reply, result) = oneshot::channel();
    reply.send(Err(ProposeFailure::NotLeading.into())).ok();
    result
}

/// Brings batches to a node, and answers back.
struct Carrier {
    routing: Routing,
    shard: ShardId,
    session: u64,
    address: String,
}

/// What was sent and is not answered.
struct Sent {
    reply: oneshot::Sender<AppendResult>,
    _room: OwnedSemaphorePermit,
    _way: WayRoom,
}

impl Carrier {
    /// Goes on until no more come, it has nothing to do, others want its place, or the stream breaks.
    async fn run(self, mut from: mpsc::Receiver<RelayedAppend>) {
        let way = self.routing.others.as_ref().map(|others| others.ways.to(&self.address));
        // Nobody is at any address without others.
        let begun = match &way {
            Some(way) => self.begin(way).await,
            None => None,
        };
        if let (Some(way), Some((_place, writer, reader))) = (&way, begun) {
            self.carry(way, writer, reader, &mut from).await;
        }
        // Nothing of the rest was sent.
        from.close();
        while let Some(append) = from.recv().await {
            append.refuse();
        }
    }

    /// `None`: there is no place for it, or no node.
    async fn begin(&self, way: &Way) -> Option<(OwnedSemaphorePermit, FrameWriter, FrameReader)> {
        let Self { routing, shard, session, address } = self;
        let begun = async {
            let place = way.place().await?;
            let opened = open(routing, address, *shard, Line::Clients, Some(*session)).await;
            let opened = opened.inspect_err(|error| {
                tracing::debug!(%shard, address, %error, "no relay to the shard's leader");
                routing.was_wrong(*shard, address);
            });
            let (writer, reader) = opened.ok()?;
            Some((place, writer, reader))
        };
        timeout(BEGIN_TIME, begun).await.unwrap_or_else(|_| {
            tracing::debug!(%shard, address, "no place for a relay to the shard's leader");
            None
        })
    }

    async fn carry(
        &self,
        way: &Way,
        mut writer: FrameWriter,
        mut reader: FrameReader,
        from: &mut mpsc::Receiver<RelayedAppend>,
    ) {
        let mut unanswered: VecDeque<Sent> = VecDeque::new();
        // The next one, and its room on the way.
        let mut next: Option<(oneshot::Receiver<WayRoom>, RelayedAppend)> = None;
        let begun = Instant::now();
        let mut last = begun;
        let mut closing = false;
        let mut superseded = pin!(self.superseded());
        let failed = loop {
            let is_idle = unanswered.is_empty() && next.is_none();
            if closing && is_idle {
                writer.finish();
                return;
            }
            if way.is_short() && (is_idle || begun.elapsed() >= TURN) {
                // What has come until now still goes.
                from.close();
            }
            let is_flushed = writer.is_flushed();
            let may_send = is_flushed && unanswered.len() < UNANSWERED_MAX;
            tokio::select! {
                biased;
                frame = reader.next() => {
                    last = Instant::now();
                    if let Err(failed) = self.on_answer(hear(frame), &mut unanswered, from) {
                        break failed;
                    }
                }
                flushed = writer.flush(), if !is_flushed => {
                    if flushed.is_err() {
                        break ProposeFailure::Unknown;
                    }
                }
                Ok(room) = turn(&mut next), if may_send => {
                    let Some((_, append)) = next.take() else { continue };
                    let RelayedAppend { items, reply, room: own, .. } = append;
                    unanswered.push_back(Sent { reply, _room: own, _way: room });
                    if writer.queue_all([ask(CommandBody::Append(items))]).is_err() {
                        break ProposeFailure::Unknown;
                    }
                }
                append = from.recv(), if may_send && next.is_none() && !closing => {
                    last = Instant::now();
                    closing = append.is_none();
                    next = append.map(|append| (way.room(self.shard, append.bytes), append));
                }
                () = sleep_until(last + IDLE_TIME), if is_idle => from.close(),
                // Its connection may last for seconds longer than it does.
                () = &mut superseded => break ProposeFailure::Unknown,
            }
        };
        self.routing.was_wrong(self.shard, &self.address);
        for sent in unanswered {
            sent.reply.send(Err(failed.into())).ok();
        }
        if let Some((_, next)) = next {
            next.refuse();
        }
    }

    /// Resolves when another node leads the shard, as far as this node's replica knows, and the one that did
    /// has had its time to answer.
    async fn superseded(&self) {
        let local = self.routing.on_node.borrow().get(&self.shard).cloned();
        let (Some(local), Some(others)) = (local, &self.routing.others) else {
            return std::future::pending().await;
        };
        let is_here = |node| others.addresses.of(node).as_ref() == Some(&self.address);
        let mut leader = local.raft.leader();
        let mut state = leader.state();
        while state.leader.is_none_or(|leader| is_here(leader.node())) {
            state = match leader.changed().await {
                Ok(state) => state,
                Err(_) => return std::future::pending().await,
            };
        }
        sleep(LATE_ANSWERS).await;
    }

    /// Gives the first of them its answer.
    fn on_answer(
        &self,
        heard: Result<(bytes::Bytes, bytes::Bytes), ProposeFailure>,
        unanswered: &mut VecDeque<Sent>,
        from: &mut mpsc::Receiver<RelayedAppend>,
    ) -> Result<(), ProposeFailure> {
        let (head, blob) = heard?;
        // An answer to nothing: the other side is wrong.
        let first = unanswered.pop_front().ok_or(ProposeFailure::Unknown)?;
        let result = match failure(&head) {
            Some(failure) => {
                let failure: RequestFailure = failure.into();
                if failure == ProposeFailure::NotLeading.into() {
                    // The next relay may go to one that does.
                    self.routing.was_wrong(self.shard, &self.address);
                    from.close();
                }
                Err(failure)
            }
            None => match Outcome::decode(&blob) {
                Ok(Outcome::Appended(results)) => Ok(results),
                _ => Err(ProposeFailure::Unknown.into()),
            },
        };
        if self.routing.planted.is(BuiltinBug::AnsweredTwice)
            && let Some(next) = unanswered.pop_front()
        {
            next.reply.send(result.clone()).ok();
        }
        first.reply.send(result).ok();
        Ok(())
    }
}

/// When the room of the next one is there. Cancel safe.
async fn turn(
    next: &mut Option<(oneshot::Receiver<WayRoom>, RelayedAppend)>,
) -> Result<WayRoom, oneshot::error::RecvError> {
    match next {
        Some((room, _)) => room.await,
        None => std::future::pending().await,
    }
}
