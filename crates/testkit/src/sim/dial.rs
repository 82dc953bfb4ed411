//! How simulated clients reach whichever lives of the nodes listen now.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use railgun_client::{ConnectError, Dial, Dialling, Target};
use railgun_net::memory::MemoryNetwork;

use super::shared::Shared;

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct SimDial {
    network: MemoryNetwork,
    from: IpAddr,
    to: To,
}

/// Whom a client reaches.
#[derive(Clone, Debug)]
enum To {
    /// One node, whatever the server is called.
    Node(Shared<SocketAddr>),
    /// The server that it asks for, at first one of these.
    Servers(Arc<str>),
}

impl SimDial {
    /// To a single node.
    pub(super) fn new(network: MemoryNetwork) -> Self {
        Self::to_node(network, Ipv4Addr::LOCALHOST.into())
    }

    /// To a single node, from this host.
    pub(super) fn to_node(network: MemoryNetwork, from: IpAddr) -> Self {
        let nowhere = Shared::new(([127, 0, 0, 1], 1).into());
        Self { network, from, to: To::Node(nowhere) }
    }

    /// To several nodes, from this host.
    pub(super) fn to_servers(network: MemoryNetwork, from: IpAddr, servers: &[SocketAddr]) -> Self {
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        Self { network, from, to: To::Servers(servers.join(",").into()) }
    }

    pub(super) fn network(&self) -> &MemoryNetwork {
        &self.network
    }

    /// What a client is told that its servers are.
    pub(super) fn servers(&self) -> &str {
        match &self.to {
            To::Node(_) => "simulated:1",
            To::Servers(servers) => servers,
        }
    }

    /// Another life of the single node listens.
    pub(super) fn set(&self, addr: SocketAddr) {
        if let To::Node(listens) = &self.to {
            listens.with(|listens| *listens = addr);
        }
    }

    /// Where the single node listens.
    pub(super) fn addr(&self) -> Option<SocketAddr> {
        match &self.to {
            To::Node(listens) => Some(listens.with(|listens| *listens)),
            To::Servers(_) => None,
        }
    }
}

impl Dial for SimDial {
    fn dial<'a>(&'a self, target: &'a Target) -> Dialling<'a> {
        Box::pin(async {
            let invalid = || ConnectError::InvalidServer { server: target.server.clone() };
            let addr = match self.addr() {
                Some(addr) => addr,
                None => target.server.parse().map_err(|_| invalid())?,
            };
            let connected = self.network.connect_from(self.from, addr).await;
            connected.map_err(ConnectError::from)
        })
    }
}
