//! What disturbs a network.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::network::MemoryNetwork;

/// How the peers of a host that crashes learn of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// By silence: they time out, after 3 s on a connection between nodes, after 15 s on a client's.
    Silent,
    /// At once, as when it has started again and knows nothing of their connections.
    Told,
}

/// Delays, blocks and ends what goes between the hosts of a
/// [disturbed network](MemoryNetwork::disturbed). Cheap to clone.
///
/// A connection over which nothing comes for its idle time, 3 s between nodes and 15 s of a client, ends
/// as timed out, on each side for itself: the dialling side sends signs of life, and hears the answers if
/// both directions are open; the accepting side hears them if the one to it is. So where only the way
/// back is blocked, the accepting side learns of it an idle time after the dialling side.
#[derive(Clone, Debug)]
pub struct Disturbance(MemoryNetwork);

impl Disturbance {
    pub(super) fn new(network: MemoryNetwork) -> Self {
        Self(network)
    }

    /// How long it takes from each host to each other: drawn anew for each piece of up to 16 KiB that is
    /// sent from now on. What is sent on one stream stays in order; streams overtake one another.
    pub fn set_delays(&self, delay: RangeInclusive<Duration>) {
        self.0.set_delays(&delay);
    }

    /// The same from one host to another. Within a host nothing takes time unless this says so.
    pub fn set_delay(&self, from: IpAddr, to: IpAddr, delay: RangeInclusive<Duration>) {
        if let Some((route, _)) = self.0.route(from, to) {
            route.set_delay(delay);
        }
    }

    /// Nothing gets from one host to another, what is on its way included, until it is unblocked; then
    /// it takes its time anew. The other way stays as it is.
    pub fn block(&self, from: IpAddr, to: IpAddr) {
        self.set_blocked(from, to, true);
    }

    /// Undoes [`block`](Self::block).
    pub fn unblock(&self, from: IpAddr, to: IpAddr) {
        self.set_blocked(from, to, false);
    }

    /// [Blocks](Self::block) both ways between two hosts.
    pub fn partition(&self, one: IpAddr, other: IpAddr) {
        self.block(one, other);
        self.block(other, one);
    }

    /// Unblocks both ways between two hosts.
    pub fn heal(&self, one: IpAddr, other: IpAddr) {
        self.unblock(one, other);
        self.unblock(other, one);
    }

    /// Unblocks all ways.
    pub fn heal_all(&self) {
        let (routes, links) = self.0.routes();
        routes.iter().for_each(|route| route.unblock());
        links.iter().for_each(|link| link.settle());
    }

    fn set_blocked(&self, from: IpAddr, to: IpAddr, blocked: bool) {
        let Some((route, links)) = self.0.route(from, to) else { return };
        match blocked {
            true => route.block(),
            false => route.unblock(),
        }
        links.iter().for_each(|link| link.settle());
    }

    /// Ends all connections between two hosts as if the network were gone: both sides time out, at once.
    pub fn cut(&self, one: IpAddr, other: IpAddr) {
        for link in self.0.routes().1 {
            let is_between = link.wire().is_some_and(|wire| wire.is_between(one, other));
            if is_between {
                link.cut();
            }
        }
    }

    /// A host is gone: nobody listens there any more, and its side of every connection ends without a
    /// word. What it had sent still arrives. To be called before its tasks are dropped, which would
    /// close their connections properly. It can listen and dial again at once. Where a silent crash is
    /// followed by one with [`Crash::Told`], before it does, those who have not noticed learn it then.
    pub fn crash(&self, host: IpAddr, crash: Crash) {
        for link in self.0.forget(host) {
            link.crash(host, crash == Crash::Told);
        }
    }
}
