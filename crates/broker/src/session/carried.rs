//! Streams of clients whose shard this node does not have: they are carried to a node that has it, which
//! serves them as it serves its own clients. A node is one client there, whatever it brings.

use std::sync::Arc;
use std::time::Duration;

use railgun_net::{Endpoint, FrameReader, FrameWriter, Member, ReadError};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_raft::PeerError;
use railgun_types::limits::ADMIN_STREAMS;
use railgun_types::{ErrorCode, ShardId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{QuicStream, SessionContext, SessionEnd, going_away};
use crate::auth::Rights;
use crate::on_node::LocalReplica;
use crate::peers::{Line, Peers};
use crate::reader::ClientPlaces;
use crate::relay::Relays;
use crate::routing::{AskedLeader, Routing};
use crate::shard::Queueing;

/// How long a client may take nothing of what it gave credit for: it has one of the places that all clients
/// of this node share.
const TAKE_TIME: Duration = Duration::from_secs(10);
/// Administrative streams of another node that are served at a time, as those of so many clients.
pub(crate) const GUEST_ADMIN_STREAMS: usize = 16 * ADMIN_STREAMS;

/// What serves the clients of other nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClientService {
    pub(crate) context: Arc<SessionContext>,
    /// Whose memory they share with this node's own.
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
}

/// A node whose clients are served here, with its part of what clients share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct GuestNode {
    service: ClientService,
    queueing: Queueing,
    record_memory: Option<Member>,
    read_places: ClientPlaces,
    admin_slots: Arc<Semaphore>,
}

impl ClientService {
    pub(crate) fn routing(&self) -> &Routing {
        self.context.streams.routing()
    }

    /// For a node that has connected.
    pub(crate) fn welcome(&self) -> GuestNode {
        let number = self.context.next_session.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let record_memory = self.endpoint.reader();
        let read_places = self.context.streams.places(record_memory.as_ref());
        GuestNode {
            service: self.clone(),
            queueing: Queueing::new(number),
            record_memory,
            read_places,
            admin_slots: Arc::new(Semaphore::new(GUEST_ADMIN_STREAMS)),
        }
    }
}

impl GuestNode {
    /// Serves one stream of its clients, until either side ends it.
    pub(crate) async fn serve(self, mut writer: FrameWriter, reader: FrameReader) {
        // Whoever waits for it knows that this node is there.
        if writer.send(Frame::new(&v1::PeerData::default())).await.is_err() {
            return;
        }
        let ClientService { context, tasks, stopping, .. } = self.service;
        let stream = QuicStream {
            context,
            writer,
            reader,
            queueing: self.queueing,
            record_memory: self.record_memory,
            read_places: self.read_places,
            relays: Relays::default(),
            carried: Arc::new(Semaphore::new(0)),
            // What changes the cluster is never carried: the node that the client is at judges.
            rights: Rights::Client,
            is_carried: true,
            tasks,
            ended: CancellationToken::new(),
            stopping,
        };
        stream.serve(self.admin_slots).await;
    }
}

/// A stream to the node that serves.
struct Carried {
    writer: FrameWriter,
    reader: FrameReader,
    _part: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
}

/// A part of the node's places.
struct Part<'p> {
    places: &'p Arc<Semaphore>,
    /// What who finds none left is told.
    none_left: &'static str,
}

impl Part<'_> {
    fn take(&self) -> Result<OwnedSemaphorePermit, WireError> {
        let taken = Arc::clone(self.places).try_acquire_owned();
        taken.map_err(|_| WireError::new(ErrorCode::QuotaExceeded, self.none_left))
    }
}

/// Which node is to serve.
#[derive(Clone, Copy, Debug)]
enum Server {
    /// Any that has the shard.
    Holder,
    /// The one that leads it.
    Leader,
}

/// Begins a stream at a node with the shard, with the client's first frame.
async fn begin(
    routing: &Routing,
    part: Option<Part<'_>>,
    (shard, server): (ShardId, Server),
    first: &Frame,
) -> Result<AskedLeader<Carried>, WireError> {
    let unavailable = |message: &str| WireError::new(ErrorCode::Unavailable, message);
    let others = routing.others.as_ref();
    let others = others.ok_or_else(|| unavailable("this node has no connections to others"))?;
    let part = part.map(|part| part.take()).transpose()?;
    let place = Arc::clone(&others.carried).try_acquire_owned();
    let place = place.map_err(|_| {
        unavailable("this node carries too many streams to others: connect to another node")
    })?;
    let open = v1::PeerOpen {
        to: Some(routing.replica_address(shard)),
        r#use: v1::PeerStreamUse::PeerStreamClient.into(),
        session: None,
    };
    let ask = |peers: Peers, address: String| {
        let (open, first) = (open.clone(), first.clone());
        async move {
            let broken =
                |error: &dyn std::fmt::Display| PeerError::Broken { reason: error.to_string() };
            let (mut writer, mut reader) = peers.open(&address, Line::Clients, open).await?;
            match reader.next().await.map_err(|error| broken(&error))? {
                Some(frame) if frame.kind() == FrameKind::PeerData => {}
                Some(frame) => {
                    let error: v1::Error = frame.decode().map_err(|error| broken(&error))?;
                    return Err(PeerError::Refused { reason: WireError::from(error).to_string() });
                }
                None => return Err(broken(&"it ended the stream")),
            }
            writer.send(first).await.map_err(|error| broken(&error))?;
            Ok((writer, reader))
        }
    };
    let (writer, reader) = match server {
        Server::Holder => routing.ask_holder(shard, ask).await?,
        Server::Leader => match routing.ask_leader(shard, ask).await? {
            AskedLeader::Answered(begun) => begun,
            AskedLeader::Here(leader) => return Ok(AskedLeader::Here(leader)),
        },
    };
    Ok(AskedLeader::Answered(Carried { writer, reader, _part: part, _place: place }))
}

/// As [`begin`], at any node with the shard.
async fn begin_at_holder(
    routing: &Routing,
    part: Option<Part<'_>>,
    shard: ShardId,
    first: &Frame,
) -> Result<Carried, WireError> {
    match begin(routing, part, (shard, Server::Holder), first).await? {
        AskedLeader::Answered(carried) => Ok(carried),
        AskedLeader::Here(_) => Err(lost()),
    }
}

/// Has another node answer a request about a stream of its.
pub(super) async fn request(
    routing: &Routing,
    shard: ShardId,
    call: v1::admin_request::Call,
    time: Duration,
) -> Result<v1::admin_response::Answer, WireError> {
    let is_seal = matches!(call, v1::admin_request::Call::SealStream(_));
    let part = routing.others.as_ref().filter(|_| is_seal).map(|others| Part {
        places: &others.seals,
        none_left: "as many seals are waited for by way of this node as can be: ask a node that has \
                    the stream's shard",
    });
    let first = Frame::new(&v1::AdminRequest { id: 0, call: Some(call) });
    let carried = begin_at_holder(routing, part, shard, &first).await?;
    answer_of(carried, shard, time).await
}

/// Has the node that leads a shard answer a request. `None`: that is this one.
pub(super) async fn request_of_leader(
    routing: &Routing,
    shard: ShardId,
    call: v1::admin_request::Call,
    time: Duration,
) -> Result<Option<v1::admin_response::Answer>, WireError> {
    let first = Frame::new(&v1::AdminRequest { id: 0, call: Some(call) });
    match begin(routing, None, (shard, Server::Leader), &first).await? {
        AskedLeader::Here(_) => Ok(None),
        AskedLeader::Answered(carried) => answer_of(carried, shard, time).await.map(Some),
    }
}

async fn answer_of(
    mut carried: Carried,
    shard: ShardId,
    time: Duration,
) -> Result<v1::admin_response::Answer, WireError> {
    carried.writer.finish();
    let answered = timeout(time, carried.reader.next()).await.map_err(|_| {
        let message = format!("the node with shard {shard} did not answer within {time:?}");
        WireError::new(ErrorCode::Timeout, message)
    })?;
    let frame = heard(answered)?.ok_or_else(lost)?;
    let response: v1::AdminResponse = frame.decode()?;
    match response.answer {
        Some(v1::admin_response::Answer::Error(error)) => Err(as_of_here(error.into())),
        Some(answer) => Ok(answer),
        None => Err(lost()),
    }
}

/// Carries a subscription: credit there, records back, a frame at a time. Flow control of either stream
/// stops the other.
pub(super) async fn subscription(
    stream: &mut QuicStream,
    shard: ShardId,
    subscribe: &v1::Subscribe,
) -> Result<(), SessionEnd> {
    carry_subscription(stream, shard, subscribe, false).await
}

/// The same of a subscription that was begun here: the client was told where it begins.
pub(super) async fn rest(
    stream: &mut QuicStream,
    shard: ShardId,
    subscribe: &v1::Subscribe,
) -> Result<(), SessionEnd> {
    carry_subscription(stream, shard, subscribe, true).await
}

/// Carries a member of a group to the node that leads the shard. `Some`: that is this one.
pub(super) async fn member(
    stream: &mut QuicStream,
    shard: ShardId,
    join: &v1::JoinGroup,
) -> Result<Option<Arc<LocalReplica>>, SessionEnd> {
    let first = Frame::new(join);
    let part = part_of(&stream.carried);
    let carried = tokio::select! {
        biased;
        () = stream.stopping.cancelled() => return Err(going_away()),
        carried = begin(stream.context.streams.routing(), Some(part), (shard, Server::Leader), &first)
            => carried?,
    };
    let carried = match carried {
        AskedLeader::Here(leader) => return Ok(Some(leader)),
        AskedLeader::Answered(carried) => carried,
    };
    const TAKES: [FrameKind; 3] = [FrameKind::Settle, FrameKind::DrainMember, FrameKind::Fetch];
    carry(stream, shard, carried, Freight { takes: &TAKES, skips: None, last: None }).await?;
    Ok(None)
}

fn part_of(places: &Arc<Semaphore>) -> Part<'_> {
    Part {
        places,
        none_left: "a connection has as many subscriptions by way of this node as it may: make some on \
                    a node that has the stream's shard",
    }
}

async fn carry_subscription(
    stream: &mut QuicStream,
    shard: ShardId,
    subscribe: &v1::Subscribe,
    is_begun: bool,
) -> Result<(), SessionEnd> {
    let first = Frame::new(subscribe);
    let part = part_of(&stream.carried);
    let carried = tokio::select! {
        biased;
        () = stream.stopping.cancelled() => return Err(going_away()),
        carried = begin_at_holder(stream.context.streams.routing(), Some(part), shard, &first)
            => carried?,
    };
    let freight = Freight {
        takes: &[FrameKind::Credit],
        skips: is_begun.then_some(FrameKind::Subscribed),
        last: Some(FrameKind::End),
    };
    carry(stream, shard, carried, freight).await
}

/// What is carried.
struct Freight {
    /// What the client may send.
    takes: &'static [FrameKind],
    /// What the client has heard already.
    skips: Option<FrameKind>,
    /// What the other node ends with.
    last: Option<FrameKind>,
}

async fn carry(
    stream: &mut QuicStream,
    shard: ShardId,
    mut carried: Carried,
    freight: Freight,
) -> Result<(), SessionEnd> {
    if let Some(memory) = &stream.record_memory {
        carried.reader.charge(Member::of_stream(memory));
    }
    let QuicStream { context, writer, reader, stopping, .. } = stream;
    let routing = context.streams.routing();
    let mut back = Back { from: &mut carried.reader, to: writer, since: Instant::now(), taken: 0 };
    let there = &mut carried.writer;
    let mut is_whole = false;
    loop {
        let is_given = there.is_flushed();
        tokio::select! {
            biased;
            () = stopping.cancelled() => {
                // It is not the client that goes.
                there.reset(ErrorCode::GoingAway);
                return Err(going_away());
            }
            given = there.flush(), if !is_given => given.map_err(|_| lost())?,
            frame = reader.next(), if is_given => match frame? {
                Some(frame) if freight.takes.contains(&frame.kind()) => there.queue_all([frame])?,
                Some(frame) => return Err(SessionEnd::unexpected(frame.kind())),
                None => return Err(SessionEnd::ClientLeft),
            },
            step = back.step() => match step.inspect_err(|end| pass_over_damaged(routing, shard, end))? {
                Step::Taken => {}
                Step::Came(frame) if freight.skips == Some(frame.kind()) => {}
                Step::Came(frame) => {
                    is_whole = freight.last == Some(frame.kind());
                    back.queue(frame)?;
                }
                Step::Ended if is_whole => return Ok(()),
                Step::Ended => return Err(lost().into()),
            },
        }
    }
}

/// Whoever asks again is served by another node where the replica of this one is damaged.
fn pass_over_damaged(routing: &Routing, shard: ShardId, end: &SessionEnd) {
    if end.code() == ErrorCode::HotCorrupt {
        routing.pass_over(shard);
    }
}

/// The way back to the client.
struct Back<'s> {
    from: &'s mut FrameReader,
    to: &'s mut FrameWriter,
    /// When the client took something the last time, or had nothing to take.
    since: Instant,
    /// How much it had taken then.
    taken: u64,
}

enum Step {
    /// All that was queued is gone.
    Taken,
    Came(Frame),
    Ended,
}

impl Back<'_> {
    fn queue(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        self.since = Instant::now();
        Ok(self.to.queue_all([frame])?)
    }

    /// Sends what is queued; with nothing queued, waits for the next frame. Cancel safe.
    async fn step(&mut self) -> Result<Step, SessionEnd> {
        if self.to.is_flushed() {
            return Ok(match heard(self.from.next().await)? {
                Some(frame) => Step::Came(frame),
                None => Step::Ended,
            });
        }
        loop {
            let taking = timeout_at(self.since + TAKE_TIME, self.to.flush());
            match self.from.meanwhile(taking).await {
                Ok(Ok(taken)) => return Ok(taken.map(|()| Step::Taken)?),
                Ok(Err(_)) if self.to.taken() != self.taken => {
                    (self.taken, self.since) = (self.to.taken(), Instant::now());
                }
                // Who does not read cannot be told; what is on its way is given up.
                Ok(Err(_)) => {
                    self.to.reset(ErrorCode::Timeout);
                    return Err(SessionEnd::NotTaken);
                }
                Err(_) => {
                    self.to.reset(ErrorCode::QuotaExceeded);
                    let message = "records were not taken while others waited for the memory";
                    return Err(WireError::new(ErrorCode::QuotaExceeded, message).into());
                }
            }
        }
    }
}

/// What the other node sends; its refusal as the client is told.
fn heard(frame: Result<Option<Frame>, ReadError>) -> Result<Option<Frame>, WireError> {
    match frame {
        Ok(Some(frame)) if frame.kind() == FrameKind::Error => {
            let error: v1::Error = frame.decode()?;
            Err(as_of_here(error.into()))
        }
        Ok(frame) => Ok(frame),
        // There was no room for it here.
        Err(ReadError::NoRoom { .. }) => {
            let message = "there was no memory for the records: others take what there is";
            Err(WireError::new(ErrorCode::QuotaExceeded, message))
        }
        Err(_) => Err(lost()),
    }
}

/// It is not this node that goes: the client may stay.
fn as_of_here(error: WireError) -> WireError {
    if error.code == ErrorCode::GoingAway || error.code == ErrorCode::ReplicaNotHere {
        return WireError::new(ErrorCode::Unavailable, error.message);
    }
    error
}

fn lost() -> WireError {
    let message = "the node that has the stream's shard is gone or does not answer: ask again";
    WireError::new(ErrorCode::Unavailable, message)
}
