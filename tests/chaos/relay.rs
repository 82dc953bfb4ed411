//! Stands between the nodes as the network does: every datagram from one to another passes here, and may
//! be lost or late. Each node is known to the others by a port of the relay.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use railgun_testkit::sim::Random;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Datagrams that may be late at a time, on one way; more are lost, as they are in routers.
const LATE_MAX: usize = 1024;
/// No datagram is longer.
const DATAGRAM_BYTES: usize = 1 << 16;

/// What happens to datagrams from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    /// So many of a hundred are lost.
    pub(crate) lost_percent: u64,
    /// Each is late by up to so much, and overtaken by others.
    pub(crate) late_max: Duration,
}

impl Way {
    /// Nothing gets through.
    pub(crate) const CLOSED: Self = Self { lost_percent: 100, late_max: Duration::ZERO };
}

/// The ways between nodes: from the first index to the second.
type Ways = Vec<Vec<Way>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Relay {
    fronts: Vec<SocketAddr>,
    ways: watch::Sender<Ways>,
    _carriers: JoinSet<()>,
}

impl Relay {
    /// Between the nodes that listen, and send, at `nodes`.
    pub(crate) async fn start(nodes: &[SocketAddr], mut random: Random) -> Self {
        let ways = watch::channel(vec![vec![Way::default(); nodes.len()]; nodes.len()]).0;
        let (mut fronts, mut carriers) = (Vec::new(), JoinSet::new());
        for (to, &node) in nodes.iter().enumerate() {
            let front = bind().await;
            fronts.push(front.local_addr().expect("bound"));
            // To the node, each other one comes from a socket of its own.
            let mut backs = Vec::new();
            for (from, &other) in nodes.iter().enumerate() {
                let back = bind().await;
                backs.push(Arc::clone(&back));
                let answers = Carrier {
                    receive: Arc::clone(&back),
                    known: vec![(node, Path { socket: Arc::clone(&front), to: other })],
                    ends: vec![(to, from)],
                    ways: ways.subscribe(),
                    random: random.fork(),
                };
                carriers.spawn(answers.run());
            }
            let others = nodes.iter().zip(backs);
            let path = |(&other, socket)| (other, Path { socket, to: node });
            let calls = Carrier {
                receive: front,
                known: others.map(path).collect(),
                ends: (0..nodes.len()).map(|from| (from, to)).collect(),
                ways: ways.subscribe(),
                random: random.fork(),
            };
            carriers.spawn(calls.run());
        }
        Self { fronts, ways, _carriers: carriers }
    }

    /// Where others reach the node with this index.
    pub(crate) fn front(&self, node: usize) -> SocketAddr {
        self.fronts[node]
    }

    /// What happens from now on to what goes from one node to another.
    pub(crate) fn set(&self, from: usize, to: usize, way: Way) {
        self.ways.send_modify(|ways| ways[from][to] = way);
    }

    /// Everything gets through at once.
    pub(crate) fn heal(&self) {
        self.ways
            .send_modify(|ways| ways.iter_mut().flatten().for_each(|way| *way = Way::default()));
    }
}

async fn bind() -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port"))
}

/// Where a datagram goes, and from which socket.
#[derive(Clone, Debug)]
struct Path {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
}

/// Owns what comes to one socket.
struct Carrier {
    receive: Arc<UdpSocket>,
    /// Who sends here, and where that goes.
    known: Vec<(SocketAddr, Path)>,
    /// The nodes at both ends of each of these.
    ends: Vec<(usize, usize)>,
    ways: watch::Receiver<Ways>,
    random: Random,
}

impl Carrier {
    async fn run(mut self) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        let late = Arc::new(Semaphore::new(LATE_MAX));
        loop {
            // A node that is down is no error of the socket: it is bound to no peer.
            let Ok((bytes, sender)) = self.receive.recv_from(&mut buffer).await else { continue };
            let known = self.known.iter().zip(&self.ends).find(|((from, _), _)| *from == sender);
            let Some(((_, path), &(from, to))) = known else { continue };
            let way = self.ways.borrow()[from][to];
            if self.random.percent(way.lost_percent) {
                continue;
            }
            let datagram = &buffer[..bytes];
            if way.late_max.is_zero() {
                path.socket.send_to(datagram, path.to).await.ok();
            } else if let Ok(place) = Arc::clone(&late).try_acquire_owned() {
                let us = self.random.below(way.late_max.as_micros() as u64 + 1);
                let (datagram, path) = (datagram.to_vec(), path.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(us)).await;
                    path.socket.send_to(&datagram, path.to).await.ok();
                    drop(place);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_carries_both_ways_and_closes_one() {
        let nodes = [bind().await, bind().await];
        let addresses = [0, 1].map(|node| nodes[node].local_addr().expect("bound"));
        let relay = Relay::start(&addresses, Random::new(1)).await;
        let mut buffer = [0; 16];
        nodes[0].send_to(b"call", relay.front(1)).await.expect("sent");
        let (bytes, caller) = nodes[1].recv_from(&mut buffer).await.expect("received");
        assert_eq!(&buffer[..bytes], b"call");
        nodes[1].send_to(b"answer", caller).await.expect("sent");
        let (bytes, from) = nodes[0].recv_from(&mut buffer).await.expect("received");
        assert_eq!((&buffer[..bytes], from), (&b"answer"[..], relay.front(1)));

        // What is lost never comes, and what is sent after it does.
        relay.set(1, 0, Way::CLOSED);
        nodes[1].send_to(b"lost", caller).await.expect("sent");
        nodes[0].send_to(b"on", relay.front(1)).await.expect("sent");
        let (bytes, _) = nodes[1].recv_from(&mut buffer).await.expect("received");
        assert_eq!(&buffer[..bytes], b"on");
        relay.heal();
        nodes[1].send_to(b"again", caller).await.expect("sent");
        let (bytes, _) = nodes[0].recv_from(&mut buffer).await.expect("received");
        assert_eq!(&buffer[..bytes], b"again");
    }
}
