//! Who listens where.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use quinn::VarInt;
use tokio::sync::watch;

use super::connection::{Link, Side, pair};
use crate::client_memory::ClientMemory;
use crate::connect::ConnectError;
use crate::connection::Connection;
use crate::endpoint::Endpoint;

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
    listeners: BTreeMap<SocketAddr, Listener>,
}

impl State {
    fn next_addr(&mut self) -> SocketAddr {
        let addr = (Ipv4Addr::LOCALHOST, self.next_port).into();
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        addr
    }
}

#[derive(Debug)]
struct Listener {
    queue: async_channel::Sender<Connection>,
    /// What its clients share, if they are not trusted.
    memory: Option<ClientMemory>,
    refuses: bool,
    links: Vec<Weak<Link>>,
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
        let state = State { next_port: FIRST_PORT, listeners: BTreeMap::new() };
        Self { state: Arc::new(watch::Sender::new(state)) }
    }

    /// Listens; port 0 takes a free one.
    ///
    /// # Errors
    /// [`AddrInUse`].
    pub fn listen(&self, addr: SocketAddr) -> Result<Endpoint, AddrInUse> {
        self.listen_with(addr, None)
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
        self.listen_with(addr, Some(memory))
    }

    fn listen_with(
        &self,
        addr: SocketAddr,
        memory: Option<ClientMemory>,
    ) -> Result<Endpoint, AddrInUse> {
        let (queue, ready) = async_channel::bounded(READY_MAX);
        let listener = Listener { queue, memory, refuses: false, links: Vec::new() };
        let addr = self.with(|state| {
            let mut addr = addr;
            if addr.port() == 0 {
                addr.set_port(state.next_addr().port());
            }
            if state.listeners.contains_key(&addr) {
                return Err(AddrInUse { addr });
            }
            state.listeners.insert(addr, listener);
            Ok(addr)
        })?;
        Ok(Endpoint::memory(MemoryListener { addr, ready, network: self.clone() }))
    }

    /// Connects, at once or not at all. Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// [`ConnectError::Timeout`] where nobody listens, [`ConnectError::Refused`] where no further
    /// connections are wanted.
    pub async fn connect(&self, addr: SocketAddr) -> Result<Connection, ConnectError> {
        let (queue, memory, dialling, accepting) = self.with(|state| {
            let local = state.next_addr();
            let nobody = ConnectError::Timeout { addr, timeout: Duration::ZERO };
            let listener = state.listeners.get_mut(&addr).ok_or(nobody)?;
            if listener.refuses {
                return Err(ConnectError::Refused { addr });
            }
            let (link, dialling, accepting) = pair(local, addr);
            listener.links.retain(|link| link.strong_count() > 0);
            listener.links.push(Arc::downgrade(&link));
            Ok((listener.queue.clone(), listener.memory.clone(), dialling, accepting))
        })?;
        let accepting = Connection::memory(accepting);
        let accepting = match memory {
            Some(memory) => accepting.distrusted(&memory),
            None => accepting,
        };
        match queue.send(accepting).await {
            Ok(()) => Ok(Connection::memory(dialling)),
            Err(_) => Err(ConnectError::Refused { addr }),
        }
    }

    /// Ends all connections to `addr` as if the network were gone: both sides time out, at once.
    pub fn cut(&self, addr: SocketAddr) {
        self.links(addr).iter().for_each(|link| link.cut());
    }

    fn links(&self, addr: SocketAddr) -> Vec<Arc<Link>> {
        self.with(|state| {
            let links = state.listeners.get(&addr).into_iter().flat_map(|l| &l.links);
            links.filter_map(Weak::upgrade).collect()
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.state.send_modify(|state| result = Some(change(state)));
        result.expect("send_modify calls its argument once")
    }
}

/// Who listens on an address; leaving it frees the address.
#[derive(Debug)]
pub(crate) struct MemoryListener {
    addr: SocketAddr,
    ready: async_channel::Receiver<Connection>,
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
        self.network.with(|state| {
            if let Some(listener) = state.listeners.get_mut(&self.addr) {
                listener.refuses = true;
            }
        });
    }

    pub(crate) fn close(&self, code: VarInt, reason: &str) {
        self.ready.close();
        for link in self.network.links(self.addr) {
            link.close(Side::Accepting, code, reason);
        }
    }

    pub(crate) async fn wait_idle(&self) {
        for link in self.network.links(self.addr) {
            link.ended().await;
        }
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.network.with(|state| state.listeners.remove(&self.addr));
    }
}
