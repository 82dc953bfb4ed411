//! How the nodes of a cluster reach one another, and how clients reach them.

use std::net::SocketAddr;
use std::process::Command;

use railgun_testkit::sim::Random;

use crate::cluster::NODES;
use crate::links::{Lan, Links};
use crate::namespace::Namespace;
use crate::not_tested;
use crate::relay::Relay;
use crate::site::{Process, free_address};

/// Where a node that has its addresses for itself listens for clients, and for nodes.
const PORTS: [u16; 2] = [7410, 7411];

/// What there is to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// All on one machine's loopback, with a relay between the nodes.
    Loopback,
    /// As if each node, and all clients, were on machines of their own.
    Namespaces,
}

impl Wiring {
    pub(crate) const ALL: [Self; 2] = [Self::Loopback, Self::Namespaces];

    /// The one that users call so.
    pub(crate) fn named(name: &str) -> Self {
        let named = Self::ALL.into_iter().find(|wiring| wiring.name() == name);
        named.unwrap_or_else(|| panic!("no network is called '{name}'"))
    }

    /// As users call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Namespaces => "namespaces",
        }
    }

    /// Does it where clients are: what it starts stays there. Not at all where this machine has none.
    pub(crate) fn within(self, test: impl FnOnce() + Send) {
        match self {
            Self::Loopback => test(),
            Self::Namespaces => match Namespace::new() {
                Ok(clients) => clients.within(test),
                Err(reason) => not_tested("nodes in namespaces", &reason),
            },
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Network {
    addresses: Vec<Addresses>,
    ways: Ways,
}

#[derive(Debug)]
enum Ways {
    Loopback(Relay),
    Namespaces(Links),
}

/// Of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// For clients.
    pub(crate) listen: SocketAddr,
    /// For other nodes.
    pub(crate) peer_listen: SocketAddr,
    /// By which other nodes know it.
    pub(crate) advertise: SocketAddr,
}

impl Network {
    /// `None` where this machine has none of this kind; to be made within the wiring.
    pub(crate) async fn start(wiring: Wiring, random: Random) -> Option<Self> {
        match wiring {
            Wiring::Loopback => Some(Self::loopback(random).await),
            Wiring::Namespaces => match Links::new(NODES) {
                Ok(links) => Some(Self::namespaces(links)),
                Err(reason) => {
                    not_tested("nodes in namespaces", &reason);
                    None
                }
            },
        }
    }

    async fn loopback(random: Random) -> Self {
        let mut free = Vec::new();
        while free.len() < 2 * NODES {
            let address = free_address();
            if !free.contains(&address) {
                free.push(address);
            }
        }
        let (listen, peer_listen) = free.split_at(NODES);
        let relay = Relay::start(peer_listen, random).await;
        let addresses = (0..NODES).map(|node| Addresses {
            listen: listen[node],
            peer_listen: peer_listen[node],
            advertise: relay.front(node),
        });
        Self { addresses: addresses.collect(), ways: Ways::Loopback(relay) }
    }

    fn namespaces(links: Links) -> Self {
        let [clients, peers] = PORTS;
        let addresses = (0..NODES).map(|node| {
            let peer = SocketAddr::from((Lan::Peers.address(node), peers));
            let listen = SocketAddr::from((Lan::Clients.address(node), clients));
            Addresses { listen, peer_listen: peer, advertise: peer }
        });
        Self { addresses: addresses.collect(), ways: Ways::Namespaces(links) }
    }

    pub(crate) fn of(&self, node: usize) -> Addresses {
        self.addresses[node]
    }

    /// Where other nodes reach each.
    pub(crate) fn seeds(&self) -> Vec<String> {
        self.addresses.iter().map(|of| of.advertise.to_string()).collect()
    }

    /// Starts a node's process where the node is.
    pub(crate) fn spawn(&self, node: usize, command: &mut Command) -> Process {
        match &self.ways {
            Ways::Loopback(_) => Process::start(command),
            Ways::Namespaces(links) => links.node(node).within(|| Process::start(command)),
        }
    }

    /// What is between nodes on loopback.
    pub(crate) fn relay(&self) -> Option<&Relay> {
        match &self.ways {
            Ways::Loopback(relay) => Some(relay),
            Ways::Namespaces(_) => None,
        }
    }

    /// What connects namespaces.
    pub(crate) fn links(&self) -> Option<&Links> {
        match &self.ways {
            Ways::Loopback(_) => None,
            Ways::Namespaces(links) => Some(links),
        }
    }
}
