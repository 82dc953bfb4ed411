//! One connection to a peer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use railgun_proto::WireCode;
use railgun_types::ErrorCode;
use tokio::time::timeout;

use crate::client_memory::{ConnectionMemory, Member};
use crate::close_code;
use crate::guests::Guest;
use crate::memory::MemoryConnection;
use crate::quic;
use crate::reader::{FrameReader, RawReader};
use crate::writer::{FrameWriter, RawWriter};

/// How often it is looked whether a client that opens no streams may have more than it has. Tests of real
/// connections cannot turn the clock.
const GROWTH_CHECK: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 60_000 });

/// Why a connection is no more. Everything on it ends with this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionLost {
    /// The peer closed it.
    #[error("the connection was closed by the peer{}{}{reason}", close_code::suffix(code), if reason.is_empty() { "" } else { ": " })]
    ClosedByPeer {
        /// Why, unless all is well.
        code: Option<WireCode>,
        /// The peer's words.
        reason: String,
    },
    /// This side closed it.
    #[error("the connection was closed by this side")]
    ClosedLocally,
    /// Nothing was heard from the peer for the idle time.
    #[error("the connection was lost: nothing was heard from the peer for too long")]
    TimedOut,
    /// The peer has forgotten the connection: it was probably restarted.
    #[error("the connection was reset by the peer, which has probably restarted")]
    Reset,
    /// QUIC or TLS failed.
    #[error("the connection failed: {reason}")]
    Failed {
        /// What the transport says.
        reason: String,
    },
}

impl From<quinn::ConnectionError> for ConnectionLost {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::ApplicationClosed(close) => Self::ClosedByPeer {
                code: close_code::from_wire(close.error_code),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            E::LocallyClosed => Self::ClosedLocally,
            E::TimedOut => Self::TimedOut,
            E::Reset => Self::Reset,
            E::VersionMismatch
            | E::TransportError(_)
            | E::ConnectionClosed(_)
            | E::CidsExhausted => Self::Failed { reason: error.to_string() },
        }
    }
}

/// What the transport knows about a connection, for people who look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    /// Round trip time, smoothed. Zero in memory.
    pub rtt: Duration,
    /// Bytes of UDP payload received. Zero in memory.
    pub received_bytes: u64,
    /// Packets sent and lost. Zero in memory.
    pub lost_packets: u64,
}

/// A connection to a peer. Cheap to clone; when the last clone and the last stream are dropped it
/// is closed without error.
#[derive(Clone)]
pub struct Connection {
    transport: Transport,
    memory: ConnectionMemory,
}

#[derive(Clone)]
enum Transport {
    Quic {
        connection: quinn::Connection,
        /// The socket of a dialled connection, which it has for itself.
        socket: Option<quinn::Endpoint>,
        /// The place of one that a client made.
        guest: Option<Arc<Guest>>,
    },
    Memory(MemoryConnection),
}

impl Connection {
    fn new(transport: Transport, memory: ConnectionMemory) -> Self {
        Self { transport, memory }
    }

    pub(crate) fn accepted(
        connection: quinn::Connection,
        guest: Guest,
        memory: ConnectionMemory,
    ) -> Self {
        let guest = Some(Arc::new(guest));
        Self::new(Transport::Quic { connection, socket: None, guest }, memory)
    }

    pub(crate) fn dialled(connection: quinn::Connection, socket: quinn::Endpoint) -> Self {
        let transport = Transport::Quic { connection, socket: Some(socket), guest: None };
        Self::new(transport, ConnectionMemory::default())
    }

    /// Between nodes, which trust each other with their memory; either side's.
    pub(crate) fn peer(connection: quinn::Connection) -> Self {
        let transport = Transport::Quic { connection, socket: None, guest: None };
        Self::new(transport, ConnectionMemory::default())
    }

    pub(crate) fn memory(connection: MemoryConnection) -> Self {
        Self::new(Transport::Memory(connection), ConnectionMemory::default())
    }

    /// The same with the bounds of a connection that a client made over QUIC.
    pub(crate) fn distrusted(self, memory: &crate::ClientMemory) -> Self {
        Self { memory: memory.join(), ..self }
    }

    /// Lets the client open as many streams as the protocol tells, and send its part of what all
    /// clients may before it is read; for the accepting side, as soon as it knows whom it serves.
    /// Before that a client has one stream and 32 KiB, and waits. Its part is never less later, and
    /// more when others have left: see [`accept`](Self::accept). In memory there are no strangers, and
    /// no bound for a connection.
    pub fn admit(&self) {
        if let Transport::Quic { connection, guest: Some(guest), .. } = &self.transport
            && let Some(window) = guest.admit()
        {
            quic::admit(connection, window);
        }
    }

    /// The peer's part of the memory for records that are read; `None` for a peer that is trusted
    /// with ours.
    #[must_use]
    pub fn record_memory(&self) -> Option<Member> {
        self.memory.records.clone()
    }

    /// Opens a stream; for the dialling side. Waits while the peer allows no further one. The peer
    /// may notice the stream only with its first frame. On an accepted connection nothing can be
    /// opened: the call ends with the connection.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn open(&self) -> Result<(FrameWriter, FrameReader), ConnectionLost> {
        let (writer, reader) = match &self.transport {
            Transport::Quic { connection, .. } => {
                let (send, receive) = connection.open_bi().await?;
                (RawWriter::Quic(send), RawReader::Quic(receive))
            }
            Transport::Memory(connection) => {
                let (writer, reader) = connection.open().await?;
                (RawWriter::Memory(Box::new(writer)), RawReader::Memory(Box::new(reader)))
            }
        };
        Ok((FrameWriter::new(writer), FrameReader::new(reader, self.memory.frames.clone())))
    }

    /// The next stream that the peer opened, in the order of opening. Several tasks may wait. Who waits
    /// sees to it that a client has more of the windows within a minute where others have left.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn accept(&self) -> Result<(FrameWriter, FrameReader), ConnectionLost> {
        let (writer, reader) = match &self.transport {
            Transport::Quic { connection, guest, .. } => {
                let (send, receive) = loop {
                    let accepted = timeout(GROWTH_CHECK, connection.accept_bi()).await;
                    if let Some(window) = guest.as_ref().and_then(|guest| guest.grow()) {
                        quic::widen(connection, window);
                    }
                    if let Ok(accepted) = accepted {
                        break accepted?;
                    }
                };
                (RawWriter::Quic(send), RawReader::Quic(receive))
            }
            Transport::Memory(connection) => {
                let (writer, reader) = connection.accept().await?;
                (RawWriter::Memory(Box::new(writer)), RawReader::Memory(Box::new(reader)))
            }
        };
        Ok((FrameWriter::new(writer), FrameReader::new(reader, self.memory.frames.clone())))
    }

    /// Closes the connection at once, on both sides. Bytes on their way are dropped: finish the
    /// streams that matter and wait for answers first. `reason` is for people.
    pub fn close(&self, code: Option<ErrorCode>, reason: &str) {
        let code = close_code::to_wire(code);
        match &self.transport {
            Transport::Quic { connection, .. } => connection.close(code, reason.as_bytes()),
            Transport::Memory(connection) => connection.close(code, reason),
        }
    }

    /// Waits until the connection is no more. Cancel-safe.
    pub async fn closed(&self) -> ConnectionLost {
        match &self.transport {
            Transport::Quic { connection, .. } => connection.closed().await.into(),
            Transport::Memory(connection) => connection.closed().await,
        }
    }

    /// For the dialling side, after [`close`](Self::close) and before the process ends: waits until
    /// the peer was told, so that it need not find out by silence. Takes a few round trips; returns
    /// at once on an accepted connection and on one between nodes, where `wait_idle` of the endpoint does
    /// this for all. Cancel-safe.
    pub async fn wait_drained(&self) {
        if let Transport::Quic { socket: Some(socket), .. } = &self.transport {
            socket.wait_idle().await;
        }
    }

    /// Where the peer is now. It may move.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        match &self.transport {
            Transport::Quic { connection, .. } => connection.remote_address(),
            Transport::Memory(connection) => connection.remote_addr(),
        }
    }

    /// Figures for people who look.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        match &self.transport {
            Transport::Quic { connection, .. } => {
                let stats = connection.stats();
                ConnectionStats {
                    rtt: stats.path.rtt,
                    received_bytes: stats.udp_rx.bytes,
                    lost_packets: stats.path.lost_packets,
                }
            }
            Transport::Memory(_) => ConnectionStats::default(),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("remote_addr", &self.remote_addr()).finish()
    }
}
