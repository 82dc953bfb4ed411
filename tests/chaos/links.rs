//! Nodes in namespaces of their own. The namespace of the test is that of the clients, and holds the
//! switches of two networks: one for clients, in which they have an address, and one for nodes, in which
//! they have none. Each node has a link to both, so that each can be cut alone.

use std::fs;
use std::net::Ipv4Addr;

use crate::harm::{Harm, Place};
use crate::namespace::{Namespace, ip};

/// Where clients are.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// Of every link.
pub(crate) const MTU: u32 = 1500;

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lan {
    Clients,
    Peers,
}

impl Lan {
    pub(crate) const ALL: [Self; 2] = [Self::Clients, Self::Peers];

    /// Of its switch, and of each node's end of a link to it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Peers => "peers",
        }
    }

    /// The switch's end of a node's link.
    pub(crate) fn port(self, node: usize) -> String {
        format!("{}{}", self.name(), node + 1)
    }

    /// A node's address.
    pub(crate) fn address(self, node: usize) -> Ipv4Addr {
        let number = u8::try_from(node + 1).expect("a handful of nodes");
        Ipv4Addr::new(10, 0, self as u8, number)
    }

    /// What says to `ip` that a node has its address.
    pub(crate) fn assigned(self, node: usize) -> String {
        format!("{}/24 dev {}", self.address(node), self.name())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Links {
    nodes: Vec<Namespace>,
}

impl Links {
    /// Of so many nodes, to the namespace of this thread. Fails where the kernel has no such links.
    pub(crate) fn new(nodes: usize) -> Result<Self, String> {
        ip("link set lo up")?;
        for lan in Lan::ALL {
            ip(&format!("link add {} type bridge", lan.name()))?;
            ip(&format!("link set {} up", lan.name()))?;
        }
        ip(&format!("address add {CLIENTS}/24 dev {}", Lan::Clients.name()))?;
        let nodes = (0..nodes).map(linked).collect::<Result<_, _>>()?;
        Ok(Self { nodes })
    }

    /// The namespace of a node.
    pub(crate) fn node(&self, node: usize) -> &Namespace {
        &self.nodes[node]
    }

    pub(crate) fn harm(&self, harm: Harm) {
        harm.steps().iter().for_each(|step| self.take(step.place, &step.harm));
    }

    pub(crate) fn mend(&self, harm: Harm) {
        harm.steps().iter().for_each(|step| self.take(step.place, &step.mend));
    }

    fn take(&self, place: Place, step: &str) {
        let taken = match place {
            Place::Node(node) => self.nodes[node].within(|| ip(step)),
            Place::Switch => ip(step),
        };
        taken.expect("what is set up here can be changed");
    }
}

/// A node's namespace, with a link to each switch in that of this thread.
fn linked(node: usize) -> Result<Namespace, String> {
    let namespace = Namespace::new()?;
    namespace.within(|| {
        // A route that refuses is for what is sent: it must not make the kernel drop what comes.
        for of in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
            fs::write(&path, "0").map_err(|error| format!("{path}: {error}"))?;
        }
        ip("link set lo up")
    })?;
    for lan in Lan::ALL {
        let (name, port, inside) = (lan.name(), lan.port(node), namespace.path());
        ip(&format!(
            "link add {port} mtu {MTU} type veth peer name {name} mtu {MTU} netns {inside}"
        ))?;
        ip(&format!("link set {port} master {name} up"))?;
        namespace.within(|| {
            ip(&format!("address add {}", lan.assigned(node)))?;
            ip(&format!("link set {name} up"))
        })?;
    }
    Ok(namespace)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use rustix::io::Errno;
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

    use super::*;
    use crate::harm::{Refusal, To};
    use crate::not_tested;

    const LAN: Lan = Lan::Peers;
    const PORT: u16 = 7000;
    /// How long what is not lost may take.
    const LIMIT: Duration = Duration::from_secs(10);
    const LOST: &[u8] = b"lost";

    /// Three nodes, each with a socket among them.
    struct Net {
        links: Links,
        sockets: Vec<UdpSocket>,
    }

    impl Net {
        /// With a new one, in which everyone hears everyone.
        fn with(test: impl FnOnce(Net) + Send) {
            let made = Namespace::new().and_then(|here| {
                here.within(|| {
                    let net = Self::new()?;
                    net.is_whole();
                    test(net);
                    Ok(())
                })
            });
            if let Err(reason) = made {
                not_tested("links that fail", &reason);
            }
        }

        fn new() -> Result<Self, String> {
            let links = Links::new(3)?;
            let bound = |node| {
                let socket = UdpSocket::bind((LAN.address(node), PORT)).expect("its address");
                socket.set_read_timeout(Some(LIMIT)).expect("a time");
                // As quinn does: nothing is cut into pieces.
                set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE).expect("an option");
                socket
            };
            let sockets = (0..3).map(|node| links.node(node).within(|| bound(node))).collect();
            Ok(Self { links, sockets })
        }

        fn send(&self, from: usize, to: usize, what: &[u8]) -> Result<(), Errno> {
            let sent = self.sockets[from].send_to(what, (LAN.address(to), PORT));
            sent.map(drop).map_err(|error| Errno::from_io_error(&error).expect("of the system"))
        }

        fn received(&self, node: usize) -> Vec<u8> {
            let mut buffer = vec![0; 2048];
            let bytes = self.sockets[node].recv(&mut buffer).expect("something arrives");
            buffer[..bytes].to_vec()
        }

        /// What is sent now arrives; so may what was lost, if its sender had kept it.
        fn carries(&self, from: usize, to: usize) {
            let said = format!("{from} to {to}").into_bytes();
            assert_eq!(self.send(from, to, &said), Ok(()));
            let received = std::iter::repeat_with(|| self.received(to));
            assert_eq!(received.into_iter().find(|received| received != LOST), Some(said));
        }

        /// What is sent now does not arrive.
        fn loses(&self, from: usize, to: usize, what: &[u8]) {
            let third = 3 - from - to;
            assert_eq!(self.send(from, to, what), Ok(()));
            assert_eq!(self.send(third, to, b"on"), Ok(()));
            assert_eq!(self.received(to), b"on");
        }

        fn is_whole(&self) {
            for from in 0..3 {
                (0..3).filter(|to| *to != from).for_each(|to| self.carries(from, to));
            }
        }

        fn during(&self, harm: Harm, look: impl FnOnce()) {
            println!("{harm}");
            self.links.harm(harm);
            look();
            self.links.mend(harm);
            self.is_whole();
        }
    }

    #[test]
    fn a_node_is_told_that_it_cannot_send() {
        Net::with(|net| {
            let fails = |error| assert_eq!(net.send(0, 1, LOST), Err(error));
            net.during(Harm::Down { lan: LAN, node: 0 }, || fails(Errno::NETUNREACH));
            net.during(Harm::AddressLost { lan: LAN, node: 0 }, || fails(Errno::NETUNREACH));
            for (refusal, error) in [
                (Refusal::Blackhole, Errno::INVAL),
                (Refusal::Unreachable, Errno::HOSTUNREACH),
                (Refusal::Prohibit, Errno::ACCESS),
            ] {
                net.during(Harm::NoRoute { from: 0, to: To::Node(1), refusal }, || {
                    fails(error);
                    net.carries(1, 0);
                    net.carries(0, 2);
                });
            }
        });
    }

    #[test]
    fn what_a_link_loses_is_told_to_nobody() {
        Net::with(|net| {
            net.during(Harm::Apart { one: 0, other: 1 }, || {
                net.loses(0, 1, LOST);
                net.loses(1, 0, LOST);
            });
            net.during(Harm::Unplugged { lan: LAN, node: 0 }, || net.loses(0, 1, LOST));
            net.during(Harm::SwitchOff { lan: LAN }, || {
                assert_eq!(net.send(0, 1, LOST), Ok(()));
            });
        });
    }

    #[test]
    fn a_narrow_link_loses_what_is_long() {
        Net::with(|net| {
            let long = vec![1; 1400];
            net.during(Harm::Narrow { lan: LAN, node: 0 }, || {
                assert_eq!(net.send(0, 1, &long), Err(Errno::MSGSIZE));
                net.loses(1, 0, &long);
                net.carries(0, 1);
            });
        });
    }
}
