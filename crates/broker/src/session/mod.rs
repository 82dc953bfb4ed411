//! One client connection: the handshake, then one task per QUIC stream, by the role that its first
//! frame names.

mod admin;
mod aliases;
mod carried;
mod end;
mod hints;
mod member;
mod publisher;
mod sent;
mod subscription;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use railgun_net::{Connection, FrameReader, FrameWriter, Member, ReadError};
use railgun_proto::convert::Uid;
use railgun_proto::{Frame, FrameKind, Message, VERSION, WireError, v1};
use railgun_types::limits::ADMIN_STREAMS;
use railgun_types::{ErrorCode, JOIN_TOKEN_PREFIX, Limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Auth, Rights};
use crate::builtin_bug::Planted;
use crate::cluster_admin::ClusterAdmin;
use crate::leaders::LedWatch;
use crate::reader::ClientPlaces;
use crate::relay::Relays;
use crate::routing::CARRIED_PART;
use crate::shard::Queueing;
use crate::streams::Streams;

pub(crate) use carried::{ClientService, GUEST_ADMIN_STREAMS, GuestNode};
pub(crate) use end::SessionEnd;
#[cfg(test)]
pub(crate) use subscription::HELD_TIME;

/// A client that has not said hello by then is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client that was refused may take to read why and to close.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a client's name for itself that are kept for the log.
const CLIENT_NAME_BYTES: usize = 128;
/// How long an administrative QUIC stream waits for another to end where there are too many.
const ADMIN_SLOT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream may be open before its first frame begins.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client of a stopping node has for taking the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long the sessions of a stopping node have for what is in flight; clients are told so.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the clients of a drained node may take to leave; they are served meanwhile, and after it.
const DRAINED_TIME: Duration = Duration::from_secs(30);
/// The reason of a closed connection, for people.
pub(crate) const STOPPING: &str = "the node is stopping";

/// What every session of a node shares.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) streams: Streams,
    pub(crate) cluster: ClusterAdmin,
    /// Where clients are to go, and when.
    pub(crate) farewell: watch::Receiver<Farewell>,
    /// Where shards are led.
    pub(crate) led: LedWatch,
    pub(crate) auth: Auth,
    pub(crate) limits: Limits,
    pub(crate) node_id: u32,
    pub(crate) server: String,
    /// Tells sessions apart for fair queueing.
    pub(crate) next_session: Arc<AtomicU64>,
    pub(crate) planted: Planted,
}

/// What the clients of a node are told when it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// The node is drained: those that are connected are to leave.
    pub(crate) is_drained: bool,
    /// Where others of the cluster take clients.
    pub(crate) alternatives: Vec<String>,
}

impl Farewell {
    /// The word to a client. Each begins with another node, so that not all go to the first.
    fn go_away(&self, deadline: Duration, session: u64) -> v1::GoAway {
        let mut alternatives = self.alternatives.clone();
        if !alternatives.is_empty() {
            let first = session % alternatives.len() as u64;
            alternatives.rotate_left(first as usize);
        }
        v1::GoAway { deadline_ms: deadline.as_millis() as u32, alternatives }
    }
}

/// Serves a connection until the client or the node ends it.
pub(crate) async fn serve(
    context: Arc<SessionContext>,
    connection: Connection,
    tasks: TaskTracker,
    stopping: CancellationToken,
) {
    let remote = connection.remote_addr();
    let greeted = tokio::select! {
        biased;
        () = stopping.cancelled() => return connection.close(Some(ErrorCode::GoingAway), STOPPING),
        greeted = tokio::time::timeout(HELLO_TIMEOUT, handshake(&context, &connection)) => greeted,
    };
    let (control, guest) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(refused)) => {
            tracing::debug!(%remote, %refused, "session refused");
            // The client reads the error from the stream; then it closes.
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                _ = tokio::time::timeout(REFUSED_TIMEOUT, connection.closed()) => {}
            }
            return connection.close(Some(refused.code()), "");
        }
        Err(_) => return connection.close(Some(ErrorCode::ProtocolViolation), "no hello in time"),
    };
    tracing::debug!(%remote, client = guest.name, "session opened");
    let number = context.next_session.fetch_add(1, Ordering::Relaxed);
    let queueing = Queueing::new(number);
    let ended = CancellationToken::new();
    let goodbye = Goodbye { session: number, farewell: context.farewell.clone() };
    let held = hold_control(control, connection.clone(), goodbye, stopping.clone());
    let control = tasks.spawn(held);
    let streams = TaskTracker::new();
    let admin_slots = Arc::new(tokio::sync::Semaphore::new(ADMIN_STREAMS));
    let record_memory = connection.record_memory();
    let read_places = context.streams.places(record_memory.as_ref());
    let relays = Relays::default();
    let carried = Arc::new(tokio::sync::Semaphore::new(CARRIED_PART));
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = connection.accept() => match accepted {
                Ok((writer, reader)) => {
                    let stream = QuicStream {
                        context: Arc::clone(&context),
                        writer,
                        reader,
                        queueing: queueing.clone(),
                        record_memory: record_memory.clone(),
                        read_places: read_places.clone(),
                        relays: relays.clone(),
                        carried: Arc::clone(&carried),
                        rights: guest.rights,
                        is_carried: false,
                        tasks: tasks.clone(),
                        ended: ended.clone(),
                        stopping: stopping.clone(),
                    };
                    streams.spawn(stream.serve(Arc::clone(&admin_slots)));
                }
                Err(_) => break,
            },
        }
    }
    if stopping.is_cancelled() {
        // What is in flight is answered before the connection goes; then it is the node that closes
        // it, for the client waits for what the node may still owe.
        streams.close();
        let answered = async { tokio::join!(streams.wait(), control) };
        tokio::select! {
            biased;
            _ = answered => {}
            _ = connection.closed() => {}
        }
        connection.close(Some(ErrorCode::GoingAway), STOPPING);
    }
    ended.cancel();
    tracing::debug!(%remote, "session closed");
}

/// Resolves when the node has been stopping for long enough that a client which takes nothing is
/// not waited for.
async fn overdue(stopping: &CancellationToken) {
    stopping.cancelled().await;
    tokio::time::sleep(LAST_ANSWERS).await;
}

/// Who has been let in.
#[derive(Debug)]
struct Guest {
    /// What the client calls itself.
    name: String,
    rights: Rights,
}

/// Hello and Welcome on the first stream of the connection, and whom it is with.
async fn handshake(
    context: &SessionContext,
    connection: &Connection,
) -> Result<((FrameWriter, FrameReader), Guest), SessionEnd> {
    let (mut writer, mut reader) = connection.accept().await?;
    let guest = match let_in(context, &mut reader).await {
        Ok(guest) => guest,
        Err(refused) => {
            end::tell(&mut writer, &refused).await;
            return Err(refused);
        }
    };
    // In front of the Welcome: who has read that may go on at once.
    connection.admit();
    let limits = &context.limits;
    let welcome = v1::Welcome {
        version: VERSION,
        server: context.server.clone(),
        cluster_uid: context.streams.cluster().to_wire(),
        node_id: context.node_id,
        message_bytes_max: limits.message_bytes as u64,
        batch_bytes_max: limits.batch_bytes as u64,
        batch_records_max: limits.batch_records as u32,
        unanswered_max: limits.unanswered_batches as u32,
        feature_level: context.cluster.feature_level(),
    };
    writer.send(Frame::new(&welcome)).await?;
    Ok(((writer, reader), guest))
}

/// Reads and checks the Hello; returns who it is. Whoever has not shown a token
/// yet can make us neither read anything else nor keep it.
async fn let_in(context: &SessionContext, reader: &mut FrameReader) -> Result<Guest, SessionEnd> {
    let Some(hello) = reader.next_of::<v1::Hello>().await? else {
        return Err(SessionEnd::ClientLeft);
    };
    if hello.version_min > VERSION || hello.version_max < VERSION {
        let message = format!(
            "the client speaks protocol versions {} to {}, this server version {VERSION}",
            hello.version_min, hello.version_max
        );
        return Err(WireError::new(ErrorCode::UnsupportedVersion, message).into());
    }
    let rights = match context.auth.check(&hello.token) {
        Ok(rights) => rights,
        Err(_) if hello.token.starts_with(JOIN_TOKEN_PREFIX) => {
            let known = context.cluster.knows_join_token(&hello.token).await;
            Rights::Join(known.ok_or_else(|| {
                let message = "the join token is none of this cluster, or expired long ago";
                WireError::new(ErrorCode::TokenExpired, message)
            })?)
        }
        Err(refused) => return Err(refused.into()),
    };
    Ok(Guest { name: cut(&hello.client, CLIENT_NAME_BYTES).to_owned(), rights })
}

/// The beginning of `text`, of at most so many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// What a session is to say at its end.
struct Goodbye {
    session: u64,
    farewell: watch::Receiver<Farewell>,
}

impl Goodbye {
    /// Resolves when the node is drained. One that is so already when the client comes serves it: the
    /// client may know no other.
    async fn drained(&mut self) {
        let mut was_drained = self.farewell.borrow_and_update().is_drained;
        while self.farewell.changed().await.is_ok() {
            let is_drained = self.farewell.borrow_and_update().is_drained;
            if is_drained && !was_drained {
                return;
            }
            was_drained = is_drained;
        }
        std::future::pending().await
    }

    fn go_away(&self, deadline: Duration) -> Frame {
        Frame::new(&self.farewell.borrow().go_away(deadline, self.session))
    }
}

/// Keeps the control stream: the client ends the session by closing it, the node says goodbye on it.
async fn hold_control(
    (mut writer, mut reader): (FrameWriter, FrameReader),
    connection: Connection,
    mut goodbye: Goodbye,
    stopping: CancellationToken,
) {
    let drained = tokio::select! {
        biased;
        () = stopping.cancelled() => false,
        () = goodbye.drained() => true,
        end = reader.next() => return close(&connection, end),
    };
    if drained {
        // The session goes on until the client has left.
        let said = writer.send(goodbye.go_away(DRAINED_TIME));
        drop(tokio::time::timeout(LAST_ANSWERS, said).await);
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            end = reader.next() => return close(&connection, end),
        }
    }
    let said = async {
        if writer.send(goodbye.go_away(STOP_TIMEOUT)).await.is_ok() {
            writer.finish();
            drop(writer.stopped().await);
        }
    };
    drop(tokio::time::timeout(LAST_ANSWERS, said).await);
}

/// The client has ended the session: nothing else may come on its control stream.
fn close(connection: &Connection, end: Result<Option<Frame>, ReadError>) {
    let code = match end {
        Ok(None) => None,
        Ok(Some(_)) => Some(ErrorCode::ProtocolViolation),
        Err(error) => error.code(),
    };
    connection.close(code, "");
}

/// One QUIC stream of a client.
pub(crate) struct QuicStream {
    pub(crate) context: Arc<SessionContext>,
    pub(crate) writer: FrameWriter,
    pub(crate) reader: FrameReader,
    /// The connection's place in the queues of shards.
    pub(crate) queueing: Queueing,
    /// The connection's part of the memory for records.
    pub(crate) record_memory: Option<Member>,
    /// The reads that the connection may do at a time.
    pub(crate) read_places: ClientPlaces,
    /// The connection's relays to other nodes.
    pub(crate) relays: Relays,
    /// The connection's places for subscriptions that other nodes serve.
    pub(crate) carried: Arc<tokio::sync::Semaphore>,
    /// What its client may do.
    pub(crate) rights: Rights,
    /// It comes from another node, which does not have the shard: it is served here or not at all.
    pub(crate) is_carried: bool,
    /// For what must go on without the client.
    pub(crate) tasks: TaskTracker,
    /// The connection is gone.
    pub(crate) ended: CancellationToken,
    /// The node is stopping: finish what is in flight.
    pub(crate) stopping: CancellationToken,
}

impl QuicStream {
    /// Serves the stream in the role its first frame names. A failure ends this stream alone.
    pub(crate) async fn serve(mut self, admin_slots: Arc<tokio::sync::Semaphore>) {
        let (ended, stopping) = (self.ended.clone(), self.stopping.clone());
        let work = async {
            let served = match self.first_frame().await {
                Ok(Some(frame)) => self.serve_role(frame, &admin_slots).await,
                Ok(None) => Ok(()),
                Err(end) => Err(end),
            };
            if let Err(end) = &served {
                tracing::debug!(%end, "stream ended");
            }
            // Whatever was read last is gone.
            self.reader.release();
            let last = async {
                match &served {
                    Ok(()) => self.writer.finish(),
                    Err(end) => end::tell(&mut self.writer, end).await,
                }
                if stopping.is_cancelled() {
                    // The connection is closed behind this, which throws away what is on its way.
                    drop(self.writer.stopped().await);
                }
            };
            tokio::select! {
                biased;
                () = last => {}
                () = overdue(&stopping) => {}
            }
        };
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = work => {}
        }
    }

    /// `None`: the client finished the stream without one.
    async fn first_frame(&mut self) -> Result<Option<Frame>, SessionEnd> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(going_away()),
            first = tokio::time::timeout(FIRST_FRAME_TIMEOUT, self.reader.next()) => match first {
                Ok(first) => Ok(first?),
                Err(_) => {
                    let message = "the stream's first frame did not come in time";
                    Err(WireError::new(ErrorCode::Timeout, message).into())
                }
            },
        }
    }

    async fn serve_role(
        &mut self,
        first: Frame,
        admin_slots: &tokio::sync::Semaphore,
    ) -> Result<(), SessionEnd> {
        match first.kind() {
            FrameKind::OpenPublisher | FrameKind::Subscribe | FrameKind::JoinGroup
                if matches!(self.rights, Rights::Join(_)) =>
            {
                Err(only_joins())
            }
            // Nodes have relays for that.
            FrameKind::OpenPublisher if self.is_carried => {
                Err(SessionEnd::unexpected(FrameKind::OpenPublisher))
            }
            FrameKind::OpenPublisher => {
                let open = self.open(first)?;
                publisher::serve(self, open).await
            }
            FrameKind::Subscribe => {
                let subscribe = self.open(first)?;
                subscription::serve(self, subscribe).await
            }
            FrameKind::JoinGroup => {
                let join = self.open(first)?;
                member::serve(self, join).await
            }
            FrameKind::AdminRequest => {
                let request = self.open(first)?;
                let slot = self.admin_slot(admin_slots).await?;
                let served = admin::serve(self, request).await;
                drop(slot);
                served
            }
            other => Err(SessionEnd::unexpected(other)),
        }
    }

    /// The message of the frame that was read last, which takes no memory of frames from here on:
    /// nobody waits for that until the client has taken an answer.
    pub(crate) fn open<M: Message>(&mut self, frame: Frame) -> Result<M, SessionEnd> {
        let message = frame.decode()?;
        drop(frame);
        self.reader.release();
        Ok(message)
    }

    /// Sends an answer, and reads nothing meanwhile.
    pub(crate) async fn answer(&mut self, answer: &impl Message) -> Result<(), SessionEnd> {
        end::answer(&mut self.writer, Frame::new(answer)).await
    }

    /// Waits for one of the connection's administrative streams to end, if there are too many.
    async fn admin_slot<'s>(
        &self,
        slots: &'s tokio::sync::Semaphore,
    ) -> Result<tokio::sync::SemaphorePermit<'s>, SessionEnd> {
        let too_many = || {
            let message = format!("more than {ADMIN_STREAMS} administrative streams");
            SessionEnd::from(WireError::new(ErrorCode::QuotaExceeded, message))
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(going_away()),
            slot = slots.acquire() => slot.map_err(|_| too_many()),
            () = tokio::time::sleep(ADMIN_SLOT_TIMEOUT) => Err(too_many()),
        }
    }
}

/// Of whoever has a join token, and wants more than a certificate.
fn only_joins() -> SessionEnd {
    let message = "a join token is for `railgun cluster join` only: use a token for clients";
    WireError::new(ErrorCode::Unauthorized, message).into()
}

fn going_away() -> SessionEnd {
    WireError::new(ErrorCode::GoingAway, STOPPING).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_two_letters() {
        assert_eq!(cut("railgun-rust/0.1.0", CLIENT_NAME_BYTES), "railgun-rust/0.1.0");
        assert_eq!(cut(&"x".repeat(129), CLIENT_NAME_BYTES), "x".repeat(128));
        assert_eq!(cut(&"\u{20ac}".repeat(100), CLIENT_NAME_BYTES), "\u{20ac}".repeat(42));
    }
}
