//! One connection after its handshake.

use std::sync::Arc;
use std::time::Duration;

use railgun_net::{Connection, FrameReader, FrameWriter, QUIC_STREAMS_MAX};
use railgun_proto::convert::Uid;
use railgun_proto::{Frame, FrameKind, Message, VERSION, WireError, v1};
use railgun_types::{ClusterUid, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::connect_error::{ConnectError, StreamLost};
use crate::dial::Dial;
use crate::options::ClientOptions;

/// Streams of a connection beside the first.
const STREAMS_BESIDE_CONTROL: usize = QUIC_STREAMS_MAX as usize - 1;

/// A connection on which the server said Welcome.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    /// Counts the sessions of a client.
    pub(crate) number: u64,
    pub(crate) cluster_uid: ClusterUid,
    pub(crate) unanswered_max: usize,
    /// The server stops: finish what is in flight, begin nothing.
    pub(crate) going_away: CancellationToken,
    /// Streams that may still be opened. Beyond them QUIC would wait, for as long as no other ends.
    slots: Arc<Semaphore>,
}

/// A QUIC stream of a session.
#[derive(Debug)]
pub(crate) struct SessionStream {
    pub(crate) writer: FrameWriter,
    pub(crate) reader: FrameReader,
    /// Its place among those that a connection may have open.
    _slot: OwnedSemaphorePermit,
}

/// The first stream of a connection. The session lives while it is open.
#[derive(Debug)]
pub(crate) struct ControlStream {
    _writer: FrameWriter,
    reader: FrameReader,
}

impl Session {
    /// Dials, and introduces this client.
    pub(crate) async fn begin(
        dial: &dyn Dial,
        options: &ClientOptions,
        number: u64,
    ) -> Result<(Self, ControlStream), ConnectError> {
        let connection = dial.dial().await?;
        let handshake = |reason| ConnectError::Handshake { server: options.server.clone(), reason };
        let greeting = tokio::time::timeout(options.connect_timeout, greet(&connection, options));
        let (welcome, control) = match greeting.await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(StreamLost::Refused(error))) => {
                return Err(ConnectError::Refused { server: options.server.clone(), error });
            }
            Ok(Err(lost)) => return Err(handshake(lost.to_string())),
            Err(_) => return Err(handshake(no_answer(options.connect_timeout))),
        };
        let cluster_uid = ClusterUid::from_wire("cluster_uid", &welcome.cluster_uid)
            .map_err(|invalid| handshake(invalid.to_string()))?;
        if welcome.version != VERSION {
            let text = format!("the server chose version {}", welcome.version);
            let error = WireError::new(ErrorCode::UnsupportedVersion, text);
            return Err(ConnectError::Refused { server: options.server.clone(), error });
        }
        let unanswered_max = welcome.unanswered_max.max(1) as usize;
        let going_away = CancellationToken::new();
        let slots = Arc::new(Semaphore::new(STREAMS_BESIDE_CONTROL));
        let session = Self { connection, number, cluster_uid, unanswered_max, going_away, slots };
        Ok((session, control))
    }

    /// A new QUIC stream that begins with `first`.
    pub(crate) async fn open<M: Message>(&self, first: &M) -> Result<SessionStream, StreamLost> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_| StreamLost::AllInUse { streams: STREAMS_BESIDE_CONTROL })?;
        let (mut writer, reader) = self.connection.open().await?;
        writer.send(Frame::new(first)).await?;
        Ok(SessionStream { writer, reader, _slot: slot })
    }
}

fn no_answer(after: Duration) -> String {
    format!("no answer within {after:?}")
}

async fn greet(
    connection: &Connection,
    options: &ClientOptions,
) -> Result<(v1::Welcome, ControlStream), StreamLost> {
    let (mut writer, mut reader) = connection.open().await?;
    let hello = v1::Hello {
        version_min: VERSION,
        version_max: VERSION,
        client: options.name.clone(),
        token: options.token.clone().unwrap_or_default(),
    };
    writer.send(Frame::new(&hello)).await?;
    let welcome = expect(&mut reader).await?;
    Ok((welcome, ControlStream { _writer: writer, reader }))
}

impl ControlStream {
    /// Serves the stream until the connection is no more.
    pub(crate) async fn run(mut self, session: &Session) {
        loop {
            tokio::select! {
                biased;
                lost = session.connection.closed() => {
                    tracing::debug!(%lost, "session ended");
                    return;
                }
                frame = self.reader.next() => match frame {
                    Ok(Some(frame)) if frame.kind() == FrameKind::GoAway => {
                        tracing::debug!("the server is going away");
                        session.going_away.cancel();
                    }
                    // A later version may say more here than this one understands.
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        // The server has ended the session; what it owes comes before it closes.
                        session.going_away.cancel();
                        session.connection.closed().await;
                        return;
                    }
                },
            }
        }
    }
}

/// The next frame, which must be an `M`; an Error frame ends the stream.
pub(crate) async fn expect<M: Message>(reader: &mut FrameReader) -> Result<M, StreamLost> {
    let frame = reader.next().await?.ok_or(StreamLost::Ended)?;
    if frame.kind() == FrameKind::Error {
        return Err(StreamLost::Refused(frame.decode::<v1::Error>()?.into()));
    }
    Ok(frame.decode()?)
}
