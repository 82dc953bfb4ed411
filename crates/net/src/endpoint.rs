//! The accepting side.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, Incoming, ServerConfig};
use quinn_proto::HashedConnectionIdGenerator;
use railgun_types::ErrorCode;
use tokio::task::JoinSet;

use crate::client_memory::{ClientMemory, Member, PoolFigures};
use crate::connection::Connection;
use crate::guests::{Guests, Hosts};
use crate::memory::MemoryListener;
use crate::runtime::OnTokio;
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
    /// Handshakes at a time; beyond it clients are refused.
    pub handshakes_max: usize,
    /// Connections at a time, handshakes included; beyond it clients are refused.
    pub connections_max: usize,
    /// Connections at a time that have not been [admitted](Connection::admit), handshakes included;
    /// beyond it clients are refused. Whoever cannot say who he is has no more places than these.
    ///
    /// Where half of these, or of the handshakes, are taken, clients must first prove their address,
    /// which costs them a round trip, and none gets a further place whose host, an IPv4 address or the
    /// /64 of an IPv6 address, has a sixteenth of them.
    pub strangers_max: usize,
    /// The memory of all clients together.
    pub memory: ClientMemory,
}

/// What clients take, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFigures {
    /// Connections, those included that have not said who they are.
    pub connections: usize,
    /// Connections that have not said who they are, handshakes included.
    pub strangers: usize,
    /// Clients that were refused because there were too many, since the node started.
    pub refused_total: usize,
    /// Memory for frames that come in.
    pub frames: PoolFigures,
    /// Memory for records that are read.
    pub records: PoolFigures,
}

/// Connections at a time, unless it is said otherwise or the memory is too small for them.
pub const CONNECTIONS_DEFAULT: usize = 10_000;
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
            connections_max: CONNECTIONS_DEFAULT,
            strangers_max: 1_024,
            memory: ClientMemory::new(MEMORY_BYTES, CONNECTIONS_DEFAULT),
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
        guests: Arc<Guests>,
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
pub(crate) fn endpoint_config(secret: [u8; 32]) -> EndpointConfig {
    let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    let id_key = secret.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    quic::receiving(config)
}

/// What is common to those who accept: clients that have not been looked at are few, and their packets.
pub(crate) fn server_config(crypto: Arc<QuicServerConfig>) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(crypto);
    server
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    server
}

impl Endpoint {
    /// Listens. Must be called inside a tokio runtime; the handshakes run there.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(spec: ListenSpec) -> Result<Self, BindError> {
        let failed = |source| BindError { addr: spec.addr, source };
        let socket = quic::bind(spec.addr).map_err(failed)?;
        let server = server_config(spec.tls.quic());
        let config = endpoint_config(spec.tls.reset_secret());
        let endpoint =
            quinn::Endpoint::new(config, Some(server.clone()), socket, Arc::new(OnTokio))
                .map_err(failed)?;
        let local_addr = endpoint.local_addr().map_err(failed)?;
        let (queue, ready) = async_channel::bounded(READY_MAX);
        let refuses = Arc::new(AtomicBool::new(false));
        let memory = spec.memory.clone();
        let guests = Guests::new(spec.strangers_max, memory.windows_bytes());
        let greeter = Greeter {
            endpoint: endpoint.clone(),
            server,
            spec,
            queue,
            refuses: Arc::clone(&refuses),
            guests: Arc::clone(&guests),
            hosts: Hosts::new(Arc::clone(&guests)),
            handshakes: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(greeter.run());
        let _greeter = tasks;
        Ok(Self(Listener::Quic { endpoint, local_addr, ready, memory, guests, refuses, _greeter }))
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

    /// A part of the memory for records, as each connection has one: for readers that come another way.
    /// `None` in memory, where nothing is counted.
    #[must_use]
    pub fn reader(&self) -> Option<Member> {
        match &self.0 {
            Listener::Quic { memory, .. } => Some(memory.reader()),
            Listener::Memory(_) => None,
        }
    }

    /// What clients take of the node's memory. In memory nothing is counted.
    #[must_use]
    pub fn clients(&self) -> ClientFigures {
        match &self.0 {
            Listener::Quic { memory, guests, .. } => {
                let taken = memory.figures();
                ClientFigures {
                    connections: guests.connections(),
                    strangers: guests.strangers(),
                    refused_total: guests.refused_total(),
                    frames: taken.frames,
                    records: taken.records,
                }
            }
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
    /// What connections have in common.
    server: ServerConfig,
    spec: ListenSpec,
    queue: async_channel::Sender<Connection>,
    refuses: Arc<AtomicBool>,
    guests: Arc<Guests>,
    hosts: Hosts,
    handshakes: JoinSet<()>,
}

impl Greeter {
    async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                Some(_) = self.handshakes.join_next() => {}
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.on_incoming(incoming),
                    None => return,
                },
            }
        }
    }

    fn on_incoming(&mut self, incoming: Incoming) {
        let peer = incoming.remote_address();
        let busy = self.handshakes.len();
        let full = self.refuses.load(Ordering::Relaxed)
            || self.endpoint.open_connections() >= self.spec.connections_max
            || self.guests.is_full()
            || busy >= self.spec.handshakes_max;
        let scarce = busy >= self.spec.handshakes_max / 2 || self.guests.is_scarce();
        if !full && scarce && incoming.may_retry() {
            // Fails only where `may_retry` says no.
            return drop(incoming.retry());
        }
        // An address is believed once it is proven.
        if full || scarce && self.hosts.is_greedy(peer.ip()) {
            tracing::debug!(%peer, busy, full, "client refused");
            self.guests.note_refused();
            return incoming.refuse();
        }
        let mut server = self.server.clone();
        server.transport_config(Arc::new(quic::accepting(self.guests.stream_window())));
        let connecting = match incoming.accept_with(Arc::new(server)) {
            Ok(connecting) => connecting,
            Err(error) => return tracing::debug!(%peer, %error, "client not accepted"),
        };
        let guest = self.hosts.welcome(peer.ip());
        let timeout = self.spec.handshake_timeout;
        let (queue, memory) = (self.queue.clone(), self.spec.memory.join());
        self.handshakes.spawn(async move {
            // TLS refuses a client without our protocol name, so what comes of this speaks it.
            match tokio::time::timeout(timeout, connecting).await {
                // Fails only if the endpoint was dropped: then so is the connection.
                Ok(Ok(connection)) => {
                    drop(queue.send(Connection::accepted(connection, guest, memory)).await);
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "handshake failed"),
                Err(_) => tracing::debug!(%peer, ?timeout, "handshake took too long"),
            }
        });
    }
}
