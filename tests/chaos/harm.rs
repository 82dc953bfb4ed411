//! What can be wrong with networks of namespaces, and how it comes and goes.

use std::fmt;
use std::net::Ipv4Addr;

use crate::links::{CLIENTS, Lan, MTU};

/// The smallest that IPv6 permits; QUIC needs 1,228 bytes of it.
const NARROW_MTU: u32 = 1280;

/// See the module. Nodes are told by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The node's end of a link is down: it has no route, the others hear nothing.
    Down { lan: Lan, node: usize },
    /// The switch's end is down: the node sees no carrier, nobody is told of it.
    Unplugged { lan: Lan, node: usize },
    /// The node has its address no more, and no route.
    AddressLost { lan: Lan, node: usize },
    /// The node cannot send to another, or to clients, and hears what they say.
    NoRoute { from: usize, to: To, refusal: Refusal },
    /// Two nodes do not hear each other; the third hears both.
    Apart { one: usize, other: usize },
    /// Nobody hears anybody.
    SwitchOff { lan: Lan },
    /// Long packets cannot be sent by the node, and are lost on their way to it.
    Narrow { lan: Lan, node: usize },
}

/// Who is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Node(usize),
    Clients,
}

/// A route's way to say no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// EINVAL.
    Blackhole,
    /// EHOSTUNREACH.
    Unreachable,
    /// EACCES.
    Prohibit,
}

impl Refusal {
    pub(crate) const ALL: [Self; 3] = [Self::Blackhole, Self::Unreachable, Self::Prohibit];

    fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        }
    }
}

impl To {
    fn address(self) -> Ipv4Addr {
        match self {
            Self::Node(node) => Lan::Peers.address(node),
            Self::Clients => CLIENTS,
        }
    }
}

/// Arguments of `ip` that do harm, and those that undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) place: Place,
    pub(crate) harm: String,
    pub(crate) mend: String,
}

/// Where a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Node(usize),
    Switch,
}

impl Harm {
    pub(crate) fn steps(self) -> Vec<Step> {
        let step = |place, harm, mend| vec![Step { place, harm, mend }];
        let set = |place, link: &str, harm, mend| {
            let to = |what| format!("link set {link} {what}");
            step(place, to(harm), to(mend))
        };
        match self {
            Self::Down { lan, node } => set(Place::Node(node), lan.name(), "down", "up"),
            Self::Unplugged { lan, node } => set(Place::Switch, &lan.port(node), "down", "up"),
            Self::SwitchOff { lan } => set(Place::Switch, lan.name(), "down", "up"),
            Self::AddressLost { lan, node } => {
                let address = |what| format!("address {what} {}", lan.assigned(node));
                step(Place::Node(node), address("delete"), address("add"))
            }
            Self::NoRoute { from, to, refusal } => {
                let (refusal, to) = (refusal.name(), to.address());
                let route = |what| format!("route {what} {refusal} {to}/32");
                step(Place::Node(from), route("add"), route("delete"))
            }
            Self::Apart { one, other } => {
                let isolated = |node| {
                    let port = Lan::Peers.port(node);
                    let to = |what| format!("link set {port} type bridge_slave isolated {what}");
                    step(Place::Switch, to("on"), to("off"))
                };
                [isolated(one), isolated(other)].concat()
            }
            Self::Narrow { lan, node } => {
                let mtu = |bytes| format!("link set {} mtu {bytes}", lan.name());
                step(Place::Node(node), mtu(NARROW_MTU), mtu(MTU))
            }
        }
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Down { lan, node } => {
                write!(f, "the link of node {} to {} is down", node + 1, lan.name())
            }
            Self::Unplugged { lan, node } => {
                write!(f, "the port for node {} to {} is down", node + 1, lan.name())
            }
            Self::AddressLost { lan, node } => {
                write!(f, "node {} has no address for {}", node + 1, lan.name())
            }
            Self::NoRoute { from, to, refusal } => {
                let (from, refusal) = (from + 1, refusal.name());
                match to {
                    To::Node(to) => write!(f, "from node {from} to node {} is {refusal}", to + 1),
                    To::Clients => write!(f, "from node {from} to clients is {refusal}"),
                }
            }
            Self::Apart { one, other } => {
                write!(f, "nodes {} and {} do not hear each other", one + 1, other + 1)
            }
            Self::SwitchOff { lan } => write!(f, "the switch for {} is off", lan.name()),
            Self::Narrow { lan, node } => {
                let lan = lan.name();
                write!(f, "node {}: {NARROW_MTU} bytes at most to {lan}", node + 1)
            }
        }
    }
}
