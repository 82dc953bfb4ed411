//! Requests of clients for a shard whose leader is on another node: they go there on a stream of their
//! own, whose flow control is the back-pressure, and are answered in order.

mod publishers;
mod sessions;
mod ways;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::StreamExt;
use futures::future::OptionFuture;
use futures::stream::FuturesOrdered;
use railgun_core::catalog::CatalogOutcome;
use railgun_core::command::{Append, AppendMode, CatalogCommand, Command, CommandBody};
use railgun_core::shard::Outcome;
use railgun_net::peer::PEER_STREAMS_MAX;
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::{Frame, v1};
use railgun_raft::PeerError;
use railgun_types::batch::BatchError;
use railgun_types::limits::{ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS};
use railgun_types::{ByteCursor, Limits, ShardId, Timestamp};
use tokio::time::timeout;

use crate::catalog::ChangeFailure;
use crate::on_node::{LocalReplica, Owner};
use crate::peers::{Line, OpenResult};
use crate::replica::{NodeStopping, ProposeFailure};
use crate::routing::Routing;
use crate::shard::{Queueing, RequestFailure};
pub(crate) use publishers::{Relays, ShardLink};
pub(crate) use sessions::RelayedSessions;
pub(crate) use ways::Ways;

/// Requests of one relay that may be un-answered: of all publishers of a connection.
const UNANSWERED_MAX: usize = 256;
/// Requests that other nodes may have un-answered, besides relays: a part of what a connection between nodes
/// carries, on which snapshots go, too.
pub(crate) const REQUESTS_MAX: usize = PEER_STREAMS_MAX as usize / 4;
/// How long a request waits for one of these places, and for a stream.
const BEGIN_TIME: Duration = Duration::from_secs(3);

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

/// Serves another node's requests for this replica's shard, in the order in which they come, until the
/// other ends the stream.
pub(crate) async fn serve(
    replica: &LocalReplica,
    queueing: &Queueing,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) {
    let mut answers = FuturesOrdered::new();
    // What waits for a place in the shard's queue, while earlier ones are answered.
    let mut taking: OptionFuture<_> = None.into();
    let (mut is_taking, mut ended) = (false, false);
    while !ended || is_taking || !answers.is_empty() {
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
            Some(taken) = &mut taking, if is_taking => {
                is_taking = false;
                match taken {
                    Ok(answer) => answers.push_back(answer),
                    Err(NodeStopping) => return,
                }
            }
            frame = reader.next(), if !ended && !is_taking && answers.len() < UNANSWERED_MAX => {
                let Ok(Some(frame)) = frame else {
                    ended = true;
                    continue;
                };
                let Ok(command) = Command::decode(&[frame.blob()]) else { return };
                taking = Some(Box::pin(take(replica, queueing, command.body))).into();
                is_taking = true;
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
    let begun = async {
        let place = Arc::clone(&routing.others.as_ref()?.requests).acquire_owned().await.ok()?;
        let (writer, reader) = open(routing, address, shard, Line::Bulk, None).await.ok()?;
        Some((place, writer, reader))
    };
    // Without a stream nothing was sent.
    let begun = timeout(BEGIN_TIME, begun).await.ok().flatten();
    let (_place, mut writer, mut reader) = begun.ok_or(ProposeFailure::NotLeading)?;
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
    line: Line,
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
    others.peers.open(address, line, open).await
}

fn ask(body: CommandBody) -> Frame {
    // Its time is given by who proposes it.
    let command = Command { ts: Timestamp::default(), body };
    Frame::with_blob(&v1::PeerData::default(), command.encode())
}
