//! The accepting side.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::{EndpointConfig, Incoming, ServerConfig, TokioRuntime};
use quinn_proto::HashedConnectionIdGenerator;
use railgun_types::ErrorCode;
use tokio::task::JoinSet;

use crate::budget::{ClientFigures, ClientMemory};
use crate::connection::Connection;
use crate::memory::MemoryListener;
use crate::tls::ServerTls;
use crate::{close_code, quic};

/// Clients that are known by a first packet only, and wait to be looked at.
const INCOMING_MAX: usize = 1_024;
/// Bytes of early packets kept for one such client, and for all.
const INCOMING_BYTES: u64 = 64 << 10;
const INCOMING_BYTES_TOTAL: u64 = 8 << 20;
/// Connections that are ready and wait to be accepted.
const READY_MAX: usize = 64;

/// What an endpoint listens on.
#[derive(Clone, Debug)]
pub struct ListenSpec {
    /// UDP address; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Certificate and key.
    pub tls: ServerTls,
    /// Time for TLS, from a client's first packet to its last.
    pub handshake_timeout: Duration,
    /// Handshakes at a time. From half of it on, clients must first prove their address, which
    /// costs them a round trip; beyond it they are refused.
    pub handshakes_max: usize,
    /// Connections at a time, handshakes included; beyond it clients are refused.
    pub connections_max: usize,
    /// Connections at a time that have not been [admitted](Connection::admit), handshakes left out;
    /// beyond it clients are refused. Whoever cannot say who he is has no more places than these.
    pub strangers_max: usize,
    /// The memory of all clients together.
    pub memory: ClientMemory,
}

/// Connections at a time, unless it is said otherwise.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Memory of all clients, unless it is said otherwise.
const MEMORY_BYTES: usize = 1 << 30;

impl ListenSpec {
    /// With the usual limits.
    #[must_use]
    pub fn new(addr: SocketAddr, tls: ServerTls) -> Self {
        Self {
            addr,
            tls,
            handshake_timeout: Duration::from_secs(3),
            handshakes_max: 256,
            connections_max: CONNECTIONS_MAX,
            strangers_max: 1_024,
            memory: ClientMemory::new(MEMORY_BYTES, CONNECTIONS_MAX),
        }
    }
}

/// The endpoint cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on UDP {addr}: {source}")]
pub struct BindError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// Accepts connections. Dropping it stops accepting; connections that were handed out live on.
pub struct Endpoint(Listener);

enum Listener {
    Quic {
        endpoint: quinn::Endpoint,
        local_addr: SocketAddr,
        ready: async_channel::Receiver<Connection>,
        memory: ClientMemory,
        /// Tells the greeter to refuse whoever comes. Without its server configuration QUIC would
        /// stay silent, and clients would wait for their time-out.
        refuses: Arc<AtomicBool>,
        /// The task that shakes hands; it ends with this set.
        _greeter: JoinSet<()>,
    },
    Memory(MemoryListener),
}

/// Connection ids and reset tokens that the server's next life recognises: a client that still
/// sends to this one learns at once, not after its idle time-out, that its connection is gone.
fn endpoint_config(secret: [u8; 32]) -> EndpointConfig {
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    let id_key = secret.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    config
}

impl Endpoint {
    /// Listens. Must be called inside a tokio runtime; the handshakes run there.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(spec: ListenSpec) -> Result<Self, BindError> {
        let failed = |source| BindError { addr: spec.addr, source };
        let socket = quic::bind(spec.addr).map_err(failed)?;
        let mut server = ServerConfig::with_crypto(spec.tls.quic());
        server
            .transport_config(Arc::new(quic::accepting()))
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
        let config = quic::receiving(endpoint_config(spec.tls.reset_secret()));
        let endpoint = quinn::Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
            .map_err(failed)?;
        let local_addr = endpoint.local_addr().map_err(failed)?;
        let (queue, ready) = async_channel::bounded(READY_MAX);
        let refuses = Arc::new(AtomicBool::new(false));
        let memory = spec.memory.clone();
        let greeter =
            Greeter { endpoint: endpoint.clone(), spec, queue, refuses: Arc::clone(&refuses) };
        let mut tasks = JoinSet::new();
        tasks.spawn(greeter.run());
        let _greeter = tasks;
        Ok(Self(Listener::Quic { endpoint, local_addr, ready, memory, refuses, _greeter }))
    }

    pub(crate) fn memory(listener: MemoryListener) -> Self {
        Self(Listener::Memory(listener))
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            Listener::Quic { local_addr, .. } => *local_addr,
            Listener::Memory(listener) => listener.addr(),
        }
    }

    /// What clients take of the node's memory. In memory nothing is counted.
    #[must_use]
    pub fn clients(&self) -> ClientFigures {
        match &self.0 {
            Listener::Quic { memory, .. } => memory.figures(),
            Listener::Memory(_) => ClientFigures::default(),
        }
    }

    /// The next connection, with TLS done and the protocol agreed. Clients that fail in this, or
    /// take too long, never show. It has one stream until it is [admitted](Connection::admit). `None`
    /// after [`close`](Self::close). Cancel-safe.
    pub async fn accept(&self) -> Option<Connection> {
        match &self.0 {
            Listener::Quic { ready, .. } => ready.recv().await.ok(),
            Listener::Memory(listener) => listener.accept().await,
        }
    }

    /// Refuses clients from now on; connections live on. For a server that is about to stop.
    pub fn refuse_new(&self) {
        match &self.0 {
            Listener::Quic { refuses, .. } => refuses.store(true, Ordering::Relaxed),
            Listener::Memory(listener) => listener.refuse_new(),
        }
    }

    /// Closes all connections at once and accepts no more. `reason` is for people.
    pub fn close(&self, code: Option<ErrorCode>, reason: &str) {
        let code = close_code::to_wire(code);
        match &self.0 {
            Listener::Quic { endpoint, .. } => endpoint.close(code, reason.as_bytes()),
            Listener::Memory(listener) => listener.close(code, reason),
        }
    }

    /// Waits until no connection is left and the peers were told, which takes up to a few round
    /// trips after [`close`](Self::close). Give it a deadline: a peer that went away is waited for.
    /// Cancel-safe.
    pub async fn wait_idle(&self) {
        match &self.0 {
            Listener::Quic { endpoint, .. } => endpoint.wait_idle().await,
            Listener::Memory(listener) => listener.wait_idle().await,
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("local_addr", &self.local_addr()).finish()
    }
}

/// Owns the handshakes under way. Input: clients from the QUIC endpoint. Output: connections that
/// are ready. A handshake that is done waits in its own task for room in the queue, so the number
/// of both together is bounded.
struct Greeter {
    endpoint: quinn::Endpoint,
    spec: ListenSpec,
    queue: async_channel::Sender<Connection>,
    refuses: Arc<AtomicBool>,
}

impl Greeter {
    async fn run(self) {
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = handshakes.join_next() => {}
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.on_incoming(incoming, &mut handshakes),
                    None => return,
                },
            }
        }
    }

    fn on_incoming(&self, incoming: Incoming, handshakes: &mut JoinSet<()>) {
        let busy = handshakes.len();
        let full = self.refuses.load(Ordering::Relaxed)
            || self.endpoint.open_connections() >= self.spec.connections_max
            || self.spec.memory.strangers() >= self.spec.strangers_max;
        if full || busy >= self.spec.handshakes_max {
            tracing::debug!(peer = %incoming.remote_address(), busy, full, "client refused");
            self.spec.memory.note_refused();
            return incoming.refuse();
        }
        if busy >= self.spec.handshakes_max / 2 && incoming.may_retry() {
            // Fails only where `may_retry` says no.
            return drop(incoming.retry());
        }
        let peer = incoming.remote_address();
        let connecting = match incoming.accept() {
            Ok(connecting) => connecting,
            Err(error) => return tracing::debug!(%peer, %error, "client not accepted"),
        };
        let timeout = self.spec.handshake_timeout;
        let (queue, memory) = (self.queue.clone(), self.spec.memory.clone());
        handshakes.spawn(async move {
            // TLS refuses a client without our protocol name, so what comes of this speaks it.
            match tokio::time::timeout(timeout, connecting).await {
                // Fails only if the endpoint was dropped: then so is the connection.
                Ok(Ok(connection)) => {
                    drop(queue.send(Connection::accepted(connection, memory.join())).await);
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "handshake failed"),
                Err(_) => tracing::debug!(%peer, ?timeout, "handshake took too long"),
            }
        });
    }
}
