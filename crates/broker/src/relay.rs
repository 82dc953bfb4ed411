//! Requests of clients for a shard whose leader is on another node: they go there on a stream of their
//! own, whose flow control is the back-pressure, and are answered in order.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use railgun_core::catalog::CatalogOutcome;
use railgun_core::command::{Append, AppendMode, CatalogCommand, Command, CommandBody};
use railgun_core::shard::Outcome;
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::{Frame, v1};
use railgun_raft::PeerError;
use railgun_types::batch::BatchError;
use railgun_types::limits::{ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS};
use railgun_types::{ByteCursor, Limits, ShardId, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::builtin_bug::BuiltinBug;
use crate::catalog::ChangeFailure;
use crate::on_node::{LocalReplica, Owner};
use crate::peers::{Line, OpenResult};
use crate::replica::{NodeStopping, ProposeFailure};
use crate::routing::{Leader, Routing};
use crate::shard::{AppendResult, Queueing, RequestFailure};

/// Requests of one relay that may be un-answered.
const UNANSWERED_MAX: usize = 64;

/// An answer begins with one of these.
const OUTCOME: u8 = 0;
const NOT_LEADING: u8 = 1;
const BUSY: u8 = 2;
const UNKNOWN: u8 = 3;
const HOT_TIER_FULL: u8 = 4;
const DISK_FULL: u8 = 5;
const TOO_MANY_STREAMS: u8 = 6;
const DAMAGED: u8 = 7;

/// What the leader's node says.
#[derive(Debug)]
enum Answer {
    Data(Result<Outcome, RequestFailure>),
    Catalog(Result<CatalogOutcome, ChangeFailure>),
}

impl Answer {
    fn encode(self) -> Frame {
        let mut blob = BytesMut::new();
        let mut head = BytesMut::new();
        match self {
            Self::Data(Ok(outcome)) => {
                head.put_u8(OUTCOME);
                outcome.encode(&mut blob);
            }
            Self::Catalog(Ok(outcome)) => {
                head.put_u8(OUTCOME);
                outcome.encode(&mut blob);
            }
            Self::Data(Err(failure)) => put_failure(&mut head, failure),
            Self::Catalog(Err(ChangeFailure::Proposal(failure))) => {
                put_failure(&mut head, failure.into());
            }
            Self::Catalog(Err(ChangeFailure::DiskFull)) => head.put_u8(DISK_FULL),
            Self::Catalog(Err(ChangeFailure::TooManyStreams { max })) => {
                head.put_u8(TOO_MANY_STREAMS);
                head.put_u64_le(max as u64);
            }
        }
        Frame::with_blob(&v1::PeerData { head: head.freeze() }, vec![blob.freeze()])
    }
}

fn put_failure(head: &mut BytesMut, failure: RequestFailure) {
    head.put_u8(match failure {
        RequestFailure::Proposal(ProposeFailure::NotLeading) => NOT_LEADING,
        RequestFailure::Proposal(ProposeFailure::Busy) => BUSY,
        RequestFailure::Proposal(ProposeFailure::Unknown) => UNKNOWN,
        RequestFailure::HotTierFull => HOT_TIER_FULL,
        RequestFailure::DiskFull => DISK_FULL,
        RequestFailure::Damaged => DAMAGED,
    });
}

/// What an answer's head says: nothing, where the outcome is in its blob.
fn failure(head: &Bytes) -> Option<ChangeOrRequest> {
    let mut cursor = ByteCursor::new(head);
    let failure = match cursor.u8().ok()? {
        OUTCOME => return None,
        NOT_LEADING => ProposeFailure::NotLeading.into(),
        BUSY => ProposeFailure::Busy.into(),
        HOT_TIER_FULL => RequestFailure::HotTierFull,
        DISK_FULL => RequestFailure::DiskFull,
        DAMAGED => RequestFailure::Damaged,
        TOO_MANY_STREAMS => {
            let max = usize::try_from(cursor.u64().ok()?).unwrap_or(usize::MAX);
            return Some(ChangeOrRequest::TooManyStreams { max });
        }
        // Of a newer release, too.
        _ => ProposeFailure::Unknown.into(),
    };
    Some(ChangeOrRequest::Request(failure))
}

enum ChangeOrRequest {
    Request(RequestFailure),
    TooManyStreams { max: usize },
}

impl From<ChangeOrRequest> for RequestFailure {
    fn from(failure: ChangeOrRequest) -> Self {
        match failure {
            ChangeOrRequest::Request(failure) => failure,
            ChangeOrRequest::TooManyStreams { .. } => ProposeFailure::Unknown.into(),
        }
    }
}

impl From<ChangeOrRequest> for ChangeFailure {
    fn from(failure: ChangeOrRequest) -> Self {
        match failure {
            ChangeOrRequest::Request(RequestFailure::Proposal(failure)) => failure.into(),
            ChangeOrRequest::Request(RequestFailure::DiskFull | RequestFailure::HotTierFull) => {
                Self::DiskFull
            }
            ChangeOrRequest::Request(RequestFailure::Damaged) => ProposeFailure::Unknown.into(),
            ChangeOrRequest::TooManyStreams { max } => Self::TooManyStreams { max },
        }
    }
}

/// The sessions of another node that have relays here, with their places in the queues of shards: one for
/// all relays of a session, for as long as it has any. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct RelayedSessions(watch::Sender<BTreeMap<u64, (Queueing, usize)>>);

/// A relay's share of its session's place.
#[derive(Debug)]
pub(crate) struct SessionPlace {
    queueing: Queueing,
    /// Which session of whose, if it is one of several relays.
    of: Option<(u64, RelayedSessions)>,
}

impl RelayedSessions {
    /// For a relay of this session; `number` gives the number of a place that is not there yet.
    pub(crate) fn place(&self, session: Option<u64>, number: impl FnOnce() -> u64) -> SessionPlace {
        let Some(session) = session else {
            return SessionPlace { queueing: Queueing::new(number()), of: None };
        };
        let mut place = None;
        self.0.send_modify(|sessions| {
            let known = sessions.entry(session);
            let (queueing, relays) = known.or_insert_with(|| (Queueing::new(number()), 0));
            *relays += 1;
            place = Some(queueing.clone());
        });
        let Some(queueing) = place else { unreachable!("send_modify calls its argument") };
        SessionPlace { queueing, of: Some((session, self.clone())) }
    }
}

impl SessionPlace {
    pub(crate) fn queueing(&self) -> &Queueing {
        &self.queueing
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let Some((session, sessions)) = &self.of else { return };
        sessions.0.send_modify(|sessions| {
            if let Some((_, relays)) = sessions.get_mut(session) {
                *relays -= 1;
                if *relays == 0 {
                    sessions.remove(session);
                }
            }
        });
    }
}

/// Serves another node's requests for this replica's shard, in the order in which they come, until the
/// other ends the stream.
pub(crate) async fn serve(
    replica: &LocalReplica,
    queueing: &Queueing,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) {
    let mut answers = FuturesOrdered::new();
    let mut ended = false;
    while !ended || !answers.is_empty() {
        let is_flushed = writer.is_flushed();
        tokio::select! {
            biased;
            flushed = writer.flush(), if !is_flushed => {
                if flushed.is_err() {
                    return;
                }
            }
            Some(answer) = answers.next(), if is_flushed => {
                let answer: Answer = answer;
                if writer.queue_all([answer.encode()]).is_err() {
                    return;
                }
            }
            frame = reader.next(), if !ended && answers.len() < UNANSWERED_MAX => {
                let Ok(Some(frame)) = frame else {
                    ended = true;
                    continue;
                };
                let Ok(command) = Command::decode(&[frame.blob()]) else { return };
                match take(replica, queueing, command.body).await {
                    Ok(answer) => answers.push_back(answer),
                    Err(NodeStopping) => return,
                }
            }
        }
    }
    if writer.flush().await.is_ok() {
        writer.finish();
        writer.stopped().await.ok();
    }
}

/// Begins what a request asks for, so that what comes behind it comes later.
async fn take(
    replica: &LocalReplica,
    queueing: &Queueing,
    body: CommandBody,
) -> Result<futures::future::BoxFuture<'static, Answer>, NodeStopping> {
    let unknown = RequestFailure::Proposal(ProposeFailure::Unknown);
    Ok(match (&replica.owner, body) {
        (Owner::Data(shard), CommandBody::Append(items)) => {
            if let Err(error) = check(&items) {
                let (shard, session) = (shard.handle.id(), queueing.session());
                tracing::error!(%shard, session, %error, "another node relayed damaged batches");
                return Ok(async { Answer::Data(Err(RequestFailure::Damaged)) }.boxed());
            }
            let result = shard.handle.append(queueing, items).await?;
            async move { Answer::Data(result.await.unwrap_or(Err(unknown)).map(Outcome::Appended)) }
                .boxed()
        }
        (Owner::Data(shard), body) => {
            let shard = shard.handle.clone();
            async move { Answer::Data(shard.request(body).await) }.boxed()
        }
        (Owner::Catalog(catalog), CommandBody::Catalog(command)) => {
            let catalog = catalog.clone();
            async move { Answer::Catalog(catalog.change(command).await) }.boxed()
        }
        (Owner::Catalog(_), _) => async move { Answer::Data(Ok(Outcome::Foreign)) }.boxed(),
    })
}

/// Looks at batches as at those of a client: the node between has validated them, but its memory or its
/// software may have done them harm since, which all replicas would keep.
fn check(items: &[Append]) -> Result<(), BatchError> {
    let limits = Limits::default();
    for Append { mode, batch, .. } in items {
        let is_over = batch.count() > ATOMIC_BATCH_RECORDS || batch.len() > ATOMIC_BATCH_BYTES;
        if *mode == AppendMode::Atomic && is_over {
            return Err(BatchError::TooLarge { records: batch.count(), bytes: batch.len() });
        }
        batch.check(&limits, limits.message_bytes)?;
    }
    Ok(())
}

/// Has the node at `address`, which leads the shard, do what a client wants.
pub(crate) async fn request(
    routing: &Routing,
    address: &str,
    shard: ShardId,
    body: CommandBody,
) -> Result<Outcome, RequestFailure> {
    let unknown = RequestFailure::Proposal(ProposeFailure::Unknown);
    let (head, blob) = one(routing, address, shard, body).await?;
    match failure(&head) {
        Some(failure) => Err(failure.into()),
        None => Outcome::decode(&blob).map_err(|_| unknown),
    }
}

/// The same of the catalog.
pub(crate) async fn change(
    routing: &Routing,
    address: &str,
    command: CatalogCommand,
) -> Result<CatalogOutcome, ChangeFailure> {
    let body = CommandBody::Catalog(command);
    let (head, blob) = one(routing, address, ShardId::CATALOG, body).await?;
    match failure(&head) {
        Some(failure) => Err(failure.into()),
        None => CatalogOutcome::decode(&blob).map_err(|_| ProposeFailure::Unknown.into()),
    }
}

/// One request on a stream of its own.
async fn one(
    routing: &Routing,
    address: &str,
    shard: ShardId,
    body: CommandBody,
) -> Result<(Bytes, Bytes), ProposeFailure> {
    let (mut writer, mut reader) = match open(routing, address, shard, None).await {
        Ok(stream) => stream,
        // Nothing was sent.
        Err(_) => return Err(ProposeFailure::NotLeading),
    };
    writer.send(ask(body)).await.map_err(|_| ProposeFailure::Unknown)?;
    writer.finish();
    hear(reader.next().await)
}

fn hear(
    frame: Result<Option<Frame>, railgun_net::ReadError>,
) -> Result<(Bytes, Bytes), ProposeFailure> {
    let Ok(Some(frame)) = frame else { return Err(ProposeFailure::Unknown) };
    if frame.decode::<v1::Error>().is_ok() {
        // It has no such replica, so it has done nothing.
        return Err(ProposeFailure::NotLeading);
    }
    let data: v1::PeerData = frame.decode().map_err(|_| ProposeFailure::Unknown)?;
    Ok((data.head, frame.blob()))
}

async fn open(
    routing: &Routing,
    address: &str,
    shard: ShardId,
    session: Option<u64>,
) -> OpenResult {
    let others = routing.others.as_ref().ok_or_else(|| PeerError::Unreachable {
        reason: "this node has no connections to others".to_owned(),
    })?;
    let open = v1::PeerOpen {
        to: Some(routing.replica_address(shard)),
        r#use: v1::PeerStreamUse::PeerStreamRelay.into(),
        session,
    };
    others.peers.open(address, Line::Bulk, open).await
}

fn ask(body: CommandBody) -> Frame {
    // Its time is given by who proposes it.
    let command = Command { ts: Timestamp::default(), body };
    Frame::with_blob(&v1::PeerData::default(), command.encode())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_of_a_session_share_its_place_until_the_last_has_ended() {
        let sessions = RelayedSessions::default();
        let first = sessions.place(Some(7), || 70);
        let second = sessions.place(Some(7), || 71);
        let other = sessions.place(Some(8), || 72);
        let alone = sessions.place(None, || 73);
        let numbers = [&first, &second, &other, &alone].map(|place| place.queueing().session());
        assert_eq!(numbers, [70, 70, 72, 73]);
        drop(first);
        assert_eq!(sessions.place(Some(7), || 74).queueing().session(), 70);
        drop(second);
        assert_eq!(sessions.place(Some(7), || 75).queueing().session(), 75);
        drop(other);
        assert!(sessions.0.borrow().is_empty());
    }
}
