//! The socket on which a node speaks with others: it accepts them, and dials them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connecting, ConnectionError, Incoming, TransportConfig};
use railgun_types::ErrorCode;
use railgun_types::limits::{NODES, PEER_LINES};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{NODE_NAME, NodeTls, PeerConnectError};
use crate::connect::CONNECT_TIMEOUT;
use crate::connection::Connection;
use crate::endpoint::{BindError, endpoint_config, server_config};
use crate::guests::{Guests, Hosts};
use crate::memory::MemoryPeer;
use crate::not_made::NotMade;
use crate::runtime::OnTokio;
use crate::{close_code, quic};

/// Connections that are ready and wait to be accepted.
const READY_MAX: usize = 64;
/// Handshakes at a time, unless it is said otherwise.
const HANDSHAKES_MAX: usize = 256;
/// Connections at a time, unless it is said otherwise: those of the largest cluster, which each of two
/// nodes makes to the other. They count twice, for those of a node that was restarted come while its
/// old ones have not fallen silent for long enough; and who is not verified yet has places of its own.
const CONNECTIONS_MAX: usize = (NODES - 1) * PEER_LINES * 2 * 2 + HANDSHAKES_MAX;
/// How often the log tells of those who were refused.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Where a node listens to others, and as whom.
#[derive(Clone, Debug)]
pub struct PeerListenSpec {
    /// UDP address; port 0 takes a free one. Connections to other nodes come from it, too.
    pub addr: SocketAddr,
    /// Who this node is.
    pub tls: NodeTls,
    /// Time for a connection to be made, by either side.
    pub handshake_timeout: Duration,
    /// Handshakes of those who dial at a time; beyond it they are refused. Where half of these are
    /// taken, they must first prove their address, which costs them a round trip, and none gets a further
    /// one whose host, an IPv4 address or the /64 of an IPv6 address, has a sixteenth of them: a host
    /// that shows no certificate keeps no node out.
    pub handshakes_max: usize,
    /// Connections at a time, those that this node dialled and handshakes included; beyond it who dials
    /// is refused.
    pub connections_max: usize,
}

impl PeerListenSpec {
    /// With the usual limits.
    #[must_use]
    pub fn new(addr: SocketAddr, tls: NodeTls) -> Self {
        Self {
            addr,
            tls,
            handshake_timeout: CONNECT_TIMEOUT,
            handshakes_max: HANDSHAKES_MAX,
            connections_max: CONNECTIONS_MAX,
        }
    }
}

/// Those who dialled this node and got no connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedPeers {
    /// How many, since the endpoint was made.
    pub total: u64,
    /// Why the last of them got none.
    pub last: Option<PeerConnectError>,
}

/// Accepts other nodes, and dials them. Dropping it stops both; connections that were handed out live on.
pub struct PeerEndpoint(Peer);

enum Peer {
    Quic {
        endpoint: quinn::Endpoint,
        local_addr: SocketAddr,
        dialling: ClientConfig,
        /// The transport of connections for clients.
        for_clients: Arc<TransportConfig>,
        handshake_timeout: Duration,
        ready: async_channel::Receiver<Connection>,
        refused: watch::Receiver<RefusedPeers>,
        /// The task that shakes hands; it ends with this set.
        _greeter: JoinSet<()>,
    },
    Memory(MemoryPeer),
}

impl PeerEndpoint {
    /// Listens. Must be called inside a tokio runtime; the handshakes run there.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(spec: PeerListenSpec) -> Result<Self, BindError> {
        let failed = |source| BindError { addr: spec.addr, source };
        let socket = quic::bind(spec.addr).map_err(failed)?;
        let mut server = server_config(spec.tls.accepting());
        server.transport_config(Arc::new(quic::peer_accepting()));
        let config = endpoint_config(spec.tls.reset_secret());
        let endpoint = quinn::Endpoint::new(config, Some(server), socket, Arc::new(OnTokio))
            .map_err(failed)?;
        let local_addr = endpoint.local_addr().map_err(failed)?;
        let mut dialling = ClientConfig::new(spec.tls.dialling());
        dialling.transport_config(Arc::new(quic::peer_dialling()));
        let handshake_timeout = spec.handshake_timeout;
        let (queue, ready) = async_channel::bounded(READY_MAX);
        let (refusals, refused) = watch::channel(RefusedPeers::default());
        // Who dials is a stranger until it is verified.
        let guests = Guests::new(spec.handshakes_max, 0);
        let greeter = Greeter {
            endpoint: endpoint.clone(),
            spec,
            hosts: Hosts::new(Arc::clone(&guests)),
            guests,
            queue,
            refusals,
            warned: None,
            handshakes: JoinSet::new(),
        };
        let mut _greeter = JoinSet::new();
        _greeter.spawn(greeter.run());
        Ok(Self(Peer::Quic {
            endpoint,
            local_addr,
            dialling,
            for_clients: Arc::new(quic::peer_dialling_for_clients()),
            handshake_timeout,
            ready,
            refused,
            _greeter,
        }))
    }

    pub(crate) fn memory(peer: MemoryPeer) -> Self {
        Self(Peer::Memory(peer))
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match &self.0 {
            Peer::Quic { local_addr, .. } => *local_addr,
            Peer::Memory(peer) => peer.addr(),
        }
    }

    /// The next connection that another node made; both sides have verified the other. Those who fail
    /// in this, or take too long, never show but in [`refused`](Self::refused). `None` after
    /// [`close`](Self::close). Cancel-safe.
    pub async fn accept(&self) -> Option<Connection> {
        match &self.0 {
            Peer::Quic { ready, .. } => ready.recv().await.ok(),
            Peer::Memory(peer) => peer.accept().await,
        }
    }

    /// Connects to the node at `addr`: both sides have verified the other. Cancelling leaves nothing
    /// behind.
    ///
    /// # Errors
    /// [`PeerConnectError`], within the time for handshakes.
    pub async fn connect(&self, addr: SocketAddr) -> Result<Connection, PeerConnectError> {
        match &self.0 {
            Peer::Quic { endpoint, dialling, handshake_timeout, .. } => {
                dial(endpoint, dialling.clone(), addr, *handshake_timeout).await
            }
            Peer::Memory(peer) => peer.connect(addr).await,
        }
    }

    /// The same for what clients read: however many of the streams are left unread, and for how long, the
    /// others go on. For this, less of each stream is on its way at a time.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_for_clients(
        &self,
        addr: SocketAddr,
    ) -> Result<Connection, PeerConnectError> {
        match &self.0 {
            Peer::Quic { endpoint, dialling, for_clients, handshake_timeout, .. } => {
                let mut dialling = dialling.clone();
                dialling.transport_config(Arc::clone(for_clients));
                dial(endpoint, dialling, addr, *handshake_timeout).await
            }
            Peer::Memory(peer) => peer.connect(addr).await,
        }
    }

    /// Those who dialled this node and got no connection, until now. In memory nobody is counted.
    #[must_use]
    pub fn refused(&self) -> RefusedPeers {
        match &self.0 {
            Peer::Quic { refused, .. } => refused.borrow().clone(),
            Peer::Memory(_) => RefusedPeers::default(),
        }
    }

    /// Closes all connections at once, whoever made them; accepts and dials no more. `reason` is for
    /// people.
    pub fn close(&self, code: Option<ErrorCode>, reason: &str) {
        let code = close_code::to_wire(code);
        match &self.0 {
            Peer::Quic { endpoint, .. } => endpoint.close(code, reason.as_bytes()),
            Peer::Memory(peer) => peer.close(code, reason),
        }
    }

    /// Waits until no connection is left and the peers were told, which takes up to a few round trips
    /// after [`close`](Self::close). Give it a deadline: a peer that went away is waited for.
    /// Cancel-safe.
    pub async fn wait_idle(&self) {
        match &self.0 {
            Peer::Quic { endpoint, .. } => endpoint.wait_idle().await,
            Peer::Memory(peer) => peer.wait_idle().await,
        }
    }
}

impl fmt::Debug for PeerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerEndpoint").field("local_addr", &self.local_addr()).finish()
    }
}

async fn dial(
    endpoint: &quinn::Endpoint,
    config: ClientConfig,
    addr: SocketAddr,
    handshake_timeout: Duration,
) -> Result<Connection, PeerConnectError> {
    let connecting = endpoint
        .connect_with(config, addr, NODE_NAME)
        .map_err(|error| not_started(addr, &error))?;
    within(addr, handshake_timeout, dialled(connecting)).await
}

fn not_started(addr: SocketAddr, error: &quinn::ConnectError) -> PeerConnectError {
    match error {
        quinn::ConnectError::EndpointStopping => PeerConnectError::Closed { addr },
        error => PeerConnectError::InvalidAddress { addr, reason: error.to_string() },
    }
}

/// A connection is made once the accepting side has said welcome: it verifies the dialling side's
/// certificate last, when TLS is done for the other.
async fn dialled(connecting: Connecting) -> Result<quinn::Connection, ConnectionError> {
    let connection = connecting.await?;
    let mut welcome = connection.accept_uni().await?;
    // An error is one of the connection, on which it is seen soon enough.
    drop(welcome.read_to_end(0).await);
    Ok(connection)
}

async fn accepted(connecting: Connecting) -> Result<quinn::Connection, ConnectionError> {
    let connection = connecting.await?;
    // Fails only for a stream that has ended.
    drop(connection.open_uni().await?.finish());
    Ok(connection)
}

async fn within(
    addr: SocketAddr,
    time: Duration,
    handshake: impl Future<Output = Result<quinn::Connection, ConnectionError>>,
) -> Result<Connection, PeerConnectError> {
    let made = timeout(time, handshake).await;
    made.map_or(Err(NotMade::TimedOut), |made| made.map_err(NotMade::from))
        .map(Connection::peer)
        .map_err(|error| PeerConnectError::not_made(addr, time, error))
}

/// Owns the handshakes of those who dial. Input: whoever comes to the QUIC endpoint. Output: connections
/// that are ready. A handshake that is done waits in its own task for room in the queue, so the number of
/// both together is bounded.
struct Greeter {
    endpoint: quinn::Endpoint,
    spec: PeerListenSpec,
    queue: async_channel::Sender<Connection>,
    refusals: watch::Sender<RefusedPeers>,
    warned: Option<Instant>,
    /// Those who have not been verified.
    guests: Arc<Guests>,
    hosts: Hosts,
    handshakes: JoinSet<Option<PeerConnectError>>,
}

impl Greeter {
    async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(error)) = done {
                        self.on_refused(error);
                    }
                }
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.on_incoming(incoming),
                    None => return,
                },
            }
        }
    }

    fn on_incoming(&mut self, incoming: Incoming) {
        let addr = incoming.remote_address();
        let busy = self.handshakes.len();
        let full = busy >= self.spec.handshakes_max
            || self.endpoint.open_connections() >= self.spec.connections_max;
        let scarce = busy >= self.spec.handshakes_max / 2 || self.guests.is_scarce();
        if !full && scarce && incoming.may_retry() {
            // Fails only where `may_retry` says no.
            return drop(incoming.retry());
        }
        // An address is believed once it is proven.
        if full || scarce && self.hosts.is_greedy(addr.ip()) {
            incoming.refuse();
            return self.on_refused(PeerConnectError::Full { addr });
        }
        let timeout = self.spec.handshake_timeout;
        let connecting = match incoming.accept() {
            Ok(connecting) => connecting,
            Err(error) => {
                return self.on_refused(PeerConnectError::not_made(addr, timeout, error.into()));
            }
        };
        let (queue, guest) = (self.queue.clone(), self.hosts.welcome(addr.ip()));
        self.handshakes.spawn(async move {
            let made = within(addr, timeout, accepted(connecting)).await;
            drop(guest);
            match made {
                // Fails only if the endpoint was dropped: then so is the connection.
                Ok(connection) => drop(queue.send(connection).await),
                Err(error) => return Some(error),
            }
            None
        });
    }

    /// A node that is refused comes again and again, and so may anybody: the log tells of some.
    fn on_refused(&mut self, error: PeerConnectError) {
        let now = Instant::now();
        if self.warned.is_none_or(|warned| now - warned >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(%error, "a connection from another node was not made");
        } else {
            tracing::debug!(%error, "a connection from another node was not made");
        }
        self.refusals.send_modify(|refused| {
            refused.total += 1;
            refused.last = Some(error);
        });
    }
}
