//! One client connection: the handshake, then one task per QUIC stream, by the role that its first
//! frame names.

mod admin;
mod aliases;
pub(crate) mod failure;
mod publisher;
mod subscription;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use railgun_net::{Connection, FrameReader, FrameWriter};
use railgun_proto::convert::Uid;
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::{ErrorCode, Limits};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::streams::Streams;

pub(crate) use failure::SessionEnd;

/// The protocol version this release speaks.
const PROTOCOL_VERSION: u32 = 1;
/// A client that has not said hello by then is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Administrative QUIC streams a connection may have open at once.
const ADMIN_STREAMS: usize = 16;

/// What every session of a node shares.
#[derive(Debug)]
pub(crate) struct SessionContext {
    pub(crate) streams: Streams,
    pub(crate) auth: Auth,
    pub(crate) limits: Limits,
    pub(crate) node_id: u32,
    pub(crate) server: String,
    /// Tells sessions apart for fair queueing.
    pub(crate) next_session: AtomicU64,
}

/// Serves a connection until the client or the node ends it.
pub(crate) async fn serve(
    context: Arc<SessionContext>,
    connection: Connection,
    tasks: TaskTracker,
    stopping: CancellationToken,
) {
    let remote = connection.remote_addr();
    let control = match tokio::time::timeout(HELLO_TIMEOUT, handshake(&context, &connection)).await
    {
        Ok(Ok(control)) => control,
        Ok(Err(refused)) => {
            tracing::debug!(%remote, %refused, "session refused");
            // The client reads the error from the stream; then it closes.
            drop(tokio::time::timeout(HELLO_TIMEOUT, connection.closed()).await);
            return connection.close(Some(refused.code()), "");
        }
        Err(_) => return connection.close(Some(ErrorCode::ProtocolViolation), "no hello in time"),
    };
    tracing::debug!(%remote, "session opened");
    let ended = CancellationToken::new();
    tasks.spawn(hold_control(control, connection.clone(), stopping.clone()));
    let streams = TaskTracker::new();
    let admin_slots = Arc::new(tokio::sync::Semaphore::new(ADMIN_STREAMS));
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
        // What is in flight is answered before the connection goes.
        streams.close();
        streams.wait().await;
    }
    ended.cancel();
    tracing::debug!(%remote, "session closed");
}

/// Hello and Welcome on the first stream of the connection.
async fn handshake(
    context: &SessionContext,
    connection: &Connection,
) -> Result<(FrameWriter, FrameReader), SessionEnd> {
    let (mut writer, mut reader) = connection.accept().await?;
    if let Err(refused) = let_in(context, &mut reader).await {
        failure::tell(&mut writer, &refused).await;
        return Err(refused);
    }
    let limits = &context.limits;
    let welcome = v1::Welcome {
        version: PROTOCOL_VERSION,
        server: context.server.clone(),
        cluster_uid: context.streams.cluster().to_wire(),
        node_id: context.node_id,
        message_bytes_max: limits.message_bytes as u64,
        batch_bytes_max: limits.batch_bytes as u64,
        batch_records_max: limits.batch_records as u32,
        unanswered_max: limits.unanswered_batches as u32,
        feature_level: 1,
    };
    writer.send(Frame::new(&welcome)).await?;
    Ok((writer, reader))
}

/// Reads and checks the Hello. Whoever has not shown a token yet cannot make us read anything else.
async fn let_in(context: &SessionContext, reader: &mut FrameReader) -> Result<(), SessionEnd> {
    let Some(hello) = reader.next_of::<v1::Hello>().await? else {
        return Err(SessionEnd::ClientLeft);
    };
    if hello.version_min > PROTOCOL_VERSION || hello.version_max < PROTOCOL_VERSION {
        let message = format!(
            "the client speaks protocol versions {} to {}, this server version {PROTOCOL_VERSION}",
            hello.version_min, hello.version_max
        );
        return Err(WireError::new(ErrorCode::UnsupportedVersion, message).into());
    }
    Ok(context.auth.check(&hello.token)?)
}

/// Keeps the control stream: the client ends the session by closing it, the node says goodbye on it.
async fn hold_control(
    (mut writer, mut reader): (FrameWriter, FrameReader),
    connection: Connection,
    stopping: CancellationToken,
) {
    tokio::select! {
        biased;
        () = stopping.cancelled() => {
            let goaway = v1::GoAway { deadline_ms: 10_000, alternatives: Vec::new() };
            drop(writer.send(Frame::new(&goaway)).await);
            connection.closed().await;
        }
        // Nothing but the end may come.
        end = reader.next() => {
            let code = match end {
                Ok(None) => None,
                Ok(Some(_)) => Some(ErrorCode::ProtocolViolation),
                Err(error) => error.code(),
            };
            connection.close(code, "");
        }
    }
}

/// One QUIC stream of a client.
pub(crate) struct QuicStream {
    pub(crate) context: Arc<SessionContext>,
    pub(crate) writer: FrameWriter,
    pub(crate) reader: FrameReader,
    /// The connection is gone.
    pub(crate) ended: CancellationToken,
    /// The node is stopping: finish what is in flight.
    pub(crate) stopping: CancellationToken,
}

impl QuicStream {
    /// Serves the stream in the role its first frame names. A failure ends this stream alone.
    async fn serve(mut self, admin_slots: Arc<tokio::sync::Semaphore>) {
        let ended = self.ended.clone();
        let work = async {
            let served = match self.reader.next().await {
                Ok(Some(frame)) => self.serve_role(frame, &admin_slots).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            match served {
                Ok(()) => self.writer.finish(),
                Err(end) => {
                    tracing::debug!(%end, "stream ended");
                    failure::tell(&mut self.writer, &end).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = work => {}
        }
    }

    async fn serve_role(
        &mut self,
        first: Frame,
        admin_slots: &tokio::sync::Semaphore,
    ) -> Result<(), SessionEnd> {
        match first.kind() {
            FrameKind::OpenPublisher => publisher::serve(self, &first).await,
            FrameKind::Subscribe => subscription::serve(self, &first).await,
            FrameKind::AdminRequest => {
                let slot = admin_slots.try_acquire().map_err(|_| {
                    let message = format!("more than {ADMIN_STREAMS} administrative streams");
                    WireError::new(ErrorCode::ProtocolViolation, message)
                })?;
                let served = admin::serve(self, first).await;
                drop(slot);
                served
            }
            other => Err(SessionEnd::unexpected(other)),
        }
    }

    /// A number for a queueing session of this stream.
    pub(crate) fn session_number(&self) -> u64 {
        self.context.next_session.fetch_add(1, Ordering::Relaxed)
    }
}

fn going_away() -> SessionEnd {
    WireError::new(ErrorCode::GoingAway, "the node is stopping").into()
}
