//! Who listens where.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;

use quinn::VarInt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::{MemoryConnection, pair};
use super::disturbance::Disturbance;
use super::link::{Link, PerSide, Side, View, Wire};
use super::route::Route;
use crate::client_memory::ClientMemory;
use crate::connect::{CONNECT_TIMEOUT, ConnectError};
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::not_made::NotMade;
use crate::peer::{PeerConnectError, PeerEndpoint};
use crate::quic::{IDLE_TIMEOUT, PEER_IDLE_TIMEOUT, PEER_STREAMS_MAX, QUIC_STREAMS_MAX};

/// Connections that wait to be accepted.
const READY_MAX: usize = 64;
/// First port that is given to those who ask for any.
const FIRST_PORT: u16 = 49_152;

/// Somebody listens there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address {addr} of the in-memory network is in use")]
pub struct AddrInUse {
    /// The address.
    pub addr: SocketAddr,
}

/// A network inside the process. Cheap to clone: the clones are one network.
#[derive(Clone, Debug)]
pub struct MemoryNetwork {
    /// A watch that nobody watches: it lends its value to one task at a time.
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug)]
struct State {
    next_port: u16,
    next_listener: u64,
    listeners: BTreeMap<SocketAddr, Listener>,
    /// Where the network can be disturbed.
    wires: Option<Wires>,
}

/// What lies between hosts.
#[derive(Debug)]
struct Wires {
    seed: u64,
    /// Of routes that nobody has set otherwise.
    delay: RangeInclusive<Duration>,
    routes: BTreeMap<(IpAddr, IpAddr), Arc<Route>>,
    links: Vec<Weak<Link>>,
}

impl Wires {
    fn route(&mut self, from: IpAddr, to: IpAddr) -> Arc<Route> {
        let delay = if from == to { Duration::ZERO..=Duration::ZERO } else { self.delay.clone() };
        let new = || Arc::new(Route::new(self.seed, from, to, delay));
        Arc::clone(self.routes.entry((from, to)).or_insert_with(new))
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.links.iter().filter_map(Weak::upgrade).collect()
    }
}

impl State {
    fn next_addr(&mut self, host: IpAddr) -> SocketAddr {
        let addr = (host, self.next_port).into();
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        addr
    }

    /// Who dials `addr` gets there: makes a connection, unless nobody takes it.
    fn meet(&mut self, local: SocketAddr, addr: SocketAddr, wanted: Kind) -> Result<Met, NotMade> {
        let listener = self.listeners.get(&addr).ok_or(NotMade::TimedOut)?;
        if listener.kind != wanted {
            return Err(NotMade::WrongProtocol);
        }
        if listener.refuses {
            return Err(NotMade::Refused);
        }
        let hosts = PerSide::new(local.ip(), addr.ip());
        let link = match &mut self.wires {
            Some(wires) => {
                let there = wires.route(local.ip(), addr.ip());
                let routes = PerSide::new(there, wires.route(addr.ip(), local.ip()));
                let link = Link::new(Some(Wire::new(hosts, routes, wanted.idle_timeout())));
                wires.links.retain(|link| link.strong_count() > 0);
                wires.links.push(Arc::downgrade(&link));
                link
            }
            None => Link::new(None),
        };
        if wanted == Kind::Peers
            && let Some(dialling) = self.listeners.get_mut(&local)
        {
            dialling.keep(&link, Side::Dialling);
        }
        let listener = self.listeners.get_mut(&addr).ok_or(NotMade::TimedOut)?;
        listener.keep(&link, Side::Accepting);
        let (dialling, accepting) = pair(&link, local, addr, wanted.streams_max());
        let (queue, memory) = (listener.queue.clone(), listener.memory.clone());
        Ok(Met { queue, memory, link, dialling, accepting })
    }
}

/// A connection in the making.
struct Met {
    queue: async_channel::Sender<Connection>,
    memory: Option<ClientMemory>,
    link: Arc<Link>,
    dialling: MemoryConnection,
    accepting: MemoryConnection,
}

/// For whom an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Clients,
    Peers,
}

impl Kind {
    fn idle_timeout(self) -> Duration {
        match self {
            Self::Clients => IDLE_TIMEOUT,
            Self::Peers => PEER_IDLE_TIMEOUT,
        }
    }

    fn streams_max(self) -> u32 {
        match self {
            Self::Clients => QUIC_STREAMS_MAX,
            Self::Peers => PEER_STREAMS_MAX,
        }
    }
}

#[derive(Debug)]
struct Listener {
    /// Of all that listened on the address, this one.
    id: u64,
    kind: Kind,
    queue: async_channel::Sender<Connection>,
    /// What its clients share, if they are not trusted.
    memory: Option<ClientMemory>,
    refuses: bool,
    links: Vec<(Weak<Link>, Side)>,
}

impl Listener {
    fn keep(&mut self, link: &Arc<Link>, side: Side) {
        self.links.retain(|(link, _)| link.strong_count() > 0);
        self.links.push((Arc::downgrade(link), side));
    }
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryNetwork {
    /// With nobody on it.
    #[must_use]
    pub fn new() -> Self {
        Self::with_wires(None)
    }

    /// With nobody on it, and what disturbs it. Hosts are IP addresses, whatever the port; between them
    /// nothing takes time until it is told. The same seed, and the same calls, give the same delays.
    /// Everything is counted in tokio's time, in steps of a millisecond.
    ///
    /// Different from a plain one, too, is that it takes some round trips to connect, and a time-out
    /// where nobody listens; that a close gets to the other side as anything else does, or not at all;
    /// and that what is on its way then is dropped.
    #[must_use]
    pub fn disturbed(seed: u64) -> (Self, Disturbance) {
        let network = Self::with_wires(Some(Wires {
            seed,
            delay: Duration::ZERO..=Duration::ZERO,
            routes: BTreeMap::new(),
            links: Vec::new(),
        }));
        (network.clone(), Disturbance::new(network))
    }

    fn with_wires(wires: Option<Wires>) -> Self {
        let listeners = BTreeMap::new();
        let state = State { next_port: FIRST_PORT, next_listener: 0, listeners, wires };
        Self { state: Arc::new(watch::Sender::new(state)) }
    }

    /// Listens; port 0 takes a free one.
    ///
    /// # Errors
    /// [`AddrInUse`].
    pub fn listen(&self, addr: SocketAddr) -> Result<Endpoint, AddrInUse> {
        self.listen_with(addr, Kind::Clients, None).map(Endpoint::memory)
    }

    /// As [`listen`](Self::listen), where clients share `memory` as those over QUIC do.
    ///
    /// # Errors
    /// [`AddrInUse`].
    pub fn listen_within(
        &self,
        addr: SocketAddr,
        memory: ClientMemory,
    ) -> Result<Endpoint, AddrInUse> {
        self.listen_with(addr, Kind::Clients, Some(memory)).map(Endpoint::memory)
    }

    /// Listens to other nodes, and dials them from this address; port 0 takes a free one. There are no
    /// certificates: whoever dials is a node.
    ///
    /// # Errors
    /// [`AddrInUse`].
    pub fn listen_peer(&self, addr: SocketAddr) -> Result<PeerEndpoint, AddrInUse> {
        let listener = self.listen_with(addr, Kind::Peers, None)?;
        Ok(PeerEndpoint::memory(MemoryPeer(listener)))
    }

    fn listen_with(
        &self,
        addr: SocketAddr,
        kind: Kind,
        memory: Option<ClientMemory>,
    ) -> Result<MemoryListener, AddrInUse> {
        let (queue, ready) = async_channel::bounded(READY_MAX);
        let _open = queue.clone();
        let (addr, id) = self.with(|state| {
            let mut addr = addr;
            if addr.port() == 0 {
                addr.set_port(state.next_addr(addr.ip()).port());
            }
            if state.listeners.contains_key(&addr) {
                return Err(AddrInUse { addr });
            }
            let id = state.next_listener;
            state.next_listener += 1;
            let listener = Listener { id, kind, queue, memory, refuses: false, links: Vec::new() };
            state.listeners.insert(addr, listener);
            Ok((addr, id))
        })?;
        Ok(MemoryListener { addr, id, ready, _open, network: self.clone() })
    }

    /// Connects, from the host 127.0.0.1; on a network that is not disturbed, at once or not at all.
    /// Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// [`ConnectError::Timeout`] where nobody listens, [`ConnectError::Refused`] where no further
    /// connections are wanted, [`ConnectError::WrongProtocol`] where nodes are listened to.
    pub async fn connect(&self, addr: SocketAddr) -> Result<Connection, ConnectError> {
        self.connect_from(Ipv4Addr::LOCALHOST.into(), addr).await
    }

    /// As [`connect`](Self::connect), from this host.
    ///
    /// # Errors
    /// Likewise.
    pub async fn connect_from(
        &self,
        host: IpAddr,
        addr: SocketAddr,
    ) -> Result<Connection, ConnectError> {
        let local = self.with(|state| state.next_addr(host));
        let (timeout, made) = self.dial(local, addr, Kind::Clients).await;
        made.map_err(|error| match error {
            NotMade::TimedOut => ConnectError::Timeout { addr, timeout },
            NotMade::WrongProtocol => ConnectError::WrongProtocol { addr },
            // In memory there are no certificates, and what is lost times out.
            NotMade::Refused | NotMade::Certificate { .. } | NotMade::Lost(_) => {
                ConnectError::Refused { addr }
            }
        })
    }

    /// The connection, and how long it was waited for at the most.
    async fn dial(
        &self,
        local: SocketAddr,
        addr: SocketAddr,
        wanted: Kind,
    ) -> (Duration, Result<Connection, NotMade>) {
        let routes = self.with(|state| {
            let wires = state.wires.as_mut()?;
            let there = wires.route(local.ip(), addr.ip());
            Some(PerSide::new(there, wires.route(addr.ip(), local.ip())))
        });
        let Some(routes) = routes else {
            let made = match self.with(|state| state.meet(local, addr, wanted)) {
                Ok(met) => met.hand_over().await,
                Err(error) => Err(error),
            };
            return (Duration::ZERO, made);
        };
        let handshake = Box::pin(self.shake_hands(local, addr, wanted, &routes));
        let made = timeout(CONNECT_TIMEOUT, handshake).await;
        (CONNECT_TIMEOUT, made.unwrap_or(Err(NotMade::TimedOut)))
    }

    /// With as many messages to and fro as QUIC has before each side can use the connection.
    async fn shake_hands(
        &self,
        local: SocketAddr,
        addr: SocketAddr,
        wanted: Kind,
        routes: &PerSide<Arc<Route>>,
    ) -> Result<Connection, NotMade> {
        let message = async |from| {
            let route = routes.of(from);
            route.arrival(route.depart()).await;
        };
        message(Side::Dialling).await;
        let met = match self.with(|state| state.meet(local, addr, wanted)) {
            Ok(met) => met,
            Err(NotMade::TimedOut) => return std::future::pending().await,
            Err(error) => {
                message(Side::Accepting).await;
                return Err(error);
            }
        };
        message(Side::Accepting).await;
        message(Side::Dialling).await;
        let link = Arc::clone(&met.link);
        let made = met.hand_over().await;
        if wanted == Kind::Peers {
            // The welcome.
            message(Side::Accepting).await;
        }
        if link.is_dead(Side::Accepting) {
            return std::future::pending().await;
        }
        made
    }

    /// Ends all connections to `addr` as if the network were gone: both sides time out, at once. Where
    /// nodes are listened to, those from it, too.
    pub fn cut(&self, addr: SocketAddr) {
        let links = self.with(|state| state.listeners.get(&addr).map(links_of));
        links.unwrap_or_default().iter().for_each(|(link, _)| link.cut());
    }

    /// The route, and all connections; `None` on a plain network.
    pub(super) fn route(&self, from: IpAddr, to: IpAddr) -> Option<(Arc<Route>, Vec<Arc<Link>>)> {
        self.with(|state| {
            let wires = state.wires.as_mut()?;
            Some((wires.route(from, to), wires.links()))
        })
    }

    /// All routes and connections there are.
    pub(super) fn routes(&self) -> (Vec<Arc<Route>>, Vec<Arc<Link>>) {
        self.with(|state| match &state.wires {
            Some(wires) => (wires.routes.values().cloned().collect(), wires.links()),
            None => (Vec::new(), Vec::new()),
        })
    }

    /// The delay of all routes between different hosts, now and later.
    pub(super) fn set_delays(&self, delay: &RangeInclusive<Duration>) {
        self.with(|state| {
            let Some(wires) = &mut state.wires else { return };
            wires.delay = delay.clone();
            for ((from, to), route) in &wires.routes {
                if from != to {
                    route.set_delay(delay.clone());
                }
            }
        });
    }

    /// Nobody listens on this host any more; all connections there are.
    pub(super) fn forget(&self, host: IpAddr) -> Vec<Arc<Link>> {
        self.with(|state| {
            state.listeners.retain(|addr, _| addr.ip() != host);
            state.wires.as_ref().map(Wires::links).unwrap_or_default()
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.state.send_modify(|state| result = Some(change(state)));
        result.expect("send_modify calls its argument once")
    }
}

impl Met {
    /// The accepting side to whoever listens, the dialling side to whoever dialled.
    async fn hand_over(self) -> Result<Connection, NotMade> {
        let accepting = Connection::memory(self.accepting);
        let accepting = match self.memory {
            Some(memory) => accepting.distrusted(&memory),
            None => accepting,
        };
        match self.queue.send(accepting).await {
            Ok(()) => Ok(Connection::memory(self.dialling)),
            Err(_) => Err(NotMade::Refused),
        }
    }
}

fn links_of(listener: &Listener) -> Vec<(Arc<Link>, Side)> {
    let links = listener.links.iter();
    links.filter_map(|(link, side)| Some((link.upgrade()?, *side))).collect()
}

/// Who listens on an address; leaving it frees the address.
#[derive(Debug)]
pub(crate) struct MemoryListener {
    addr: SocketAddr,
    id: u64,
    ready: async_channel::Receiver<Connection>,
    /// Only [`close`](Self::close) ends the queue, not that the host is gone.
    _open: async_channel::Sender<Connection>,
    network: MemoryNetwork,
}

impl MemoryListener {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) async fn accept(&self) -> Option<Connection> {
        self.ready.recv().await.ok()
    }

    pub(crate) fn refuse_new(&self) {
        self.with(|listener| listener.refuses = true);
    }

    pub(crate) fn close(&self, code: VarInt, reason: &str) {
        self.ready.close();
        for (link, side) in self.links() {
            link.close(side, code, reason);
        }
    }

    pub(crate) async fn wait_idle(&self) {
        for (link, side) in self.links() {
            View::new(&link, side).lost().await;
        }
    }

    fn links(&self) -> Vec<(Arc<Link>, Side)> {
        self.with(|listener| links_of(listener)).unwrap_or_default()
    }

    /// `None` once its host was gone, and maybe another one listens there.
    fn with<T>(&self, change: impl FnOnce(&mut Listener) -> T) -> Option<T> {
        self.network.with(|state| {
            let listener = state.listeners.get_mut(&self.addr);
            listener.filter(|listener| listener.id == self.id).map(change)
        })
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        let is_there = self.with(|_| ()).is_some();
        if is_there {
            self.network.with(|state| state.listeners.remove(&self.addr));
        }
    }
}

/// A node's endpoint for others.
#[derive(Debug)]
pub(crate) struct MemoryPeer(MemoryListener);

impl MemoryPeer {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    pub(crate) async fn accept(&self) -> Option<Connection> {
        self.0.accept().await
    }

    pub(crate) async fn connect(&self, addr: SocketAddr) -> Result<Connection, PeerConnectError> {
        if self.0.ready.is_closed() {
            return Err(PeerConnectError::Closed { addr });
        }
        let (timeout, made) = self.0.network.dial(self.addr(), addr, Kind::Peers).await;
        made.map_err(|error| PeerConnectError::not_made(addr, timeout, error))
    }

    pub(crate) fn close(&self, code: VarInt, reason: &str) {
        self.0.close(code, reason);
    }

    pub(crate) async fn wait_idle(&self) {
        self.0.wait_idle().await;
    }
}
