//! What every transport must do (`suite`), run over all, for clients and between nodes; what only QUIC
//! has (`quic`, `peer`), what only the network in memory has (`disturbed`), how long a frame is waited for
//! (`patience`), and certificates (`cluster_ca`).

mod cluster_ca;
mod disturbed;
mod patience;
mod peer;
mod quic;
mod suite;

use std::any::Any;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use railgun_proto::{Frame, v1};

use crate::memory::MemoryNetwork;
use crate::peer::PeerEndpoint;
use crate::tls::DevCa;
use crate::{ConnectSpec, Connection, Endpoint, ListenSpec, Roots};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Two ends of one connection.
struct Pair {
    client: Connection,
    server: Connection,
    /// Who accepted, and between nodes who dialled.
    _endpoint: Box<dyn Any + Send>,
}

impl Pair {
    fn new(client: Connection, server: Connection, endpoint: impl Any + Send) -> Self {
        Self { client, server, _endpoint: Box::new(endpoint) }
    }
}

async fn memory_pair() -> Pair {
    memory_pair_on(MemoryNetwork::new()).await
}

/// On a network that could be disturbed.
async fn disturbed_pair() -> Pair {
    memory_pair_on(MemoryNetwork::disturbed(1).0).await
}

async fn memory_pair_on(network: MemoryNetwork) -> Pair {
    let endpoint = network.listen(ANY_PORT).unwrap();
    let client = network.connect(endpoint.local_addr()).await.unwrap();
    let server = endpoint.accept().await.unwrap();
    Pair::new(client, server, endpoint)
}

async fn quic_pair() -> Pair {
    let (endpoint, spec) = listening();
    let client = crate::connect(spec).await.unwrap();
    let server = endpoint.accept().await.unwrap();
    server.admit();
    Pair::new(client, server, endpoint)
}

async fn peer_memory_pair() -> Pair {
    let network = MemoryNetwork::new();
    let [one, other] = [(); 2].map(|()| network.listen_peer(ANY_PORT).unwrap());
    peer_pair(one, other).await
}

async fn peer_quic_pair() -> Pair {
    let ca = peer::Ca::new();
    peer_pair(ca.endpoint(), ca.endpoint()).await
}

async fn peer_pair(one: PeerEndpoint, other: PeerEndpoint) -> Pair {
    let addr = other.local_addr();
    let (client, server) = tokio::join!(one.connect(addr), other.accept());
    Pair::new(client.unwrap(), server.unwrap(), (one, other))
}

/// A QUIC endpoint, and how to reach it.
fn listening() -> (Endpoint, ConnectSpec) {
    listening_as(|_| ())
}

/// The same, with other settings than the usual ones.
fn listening_as(set: impl FnOnce(&mut ListenSpec)) -> (Endpoint, ConnectSpec) {
    let dir = tempfile::tempdir().unwrap();
    let ca = DevCa::load_or_create(dir.path()).unwrap();
    let tls = ca.issue(&["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let mut listen = ListenSpec::new(ANY_PORT, tls);
    set(&mut listen);
    let endpoint = Endpoint::bind(listen).unwrap();
    let roots = Roots::Pem(ca.pem().into());
    let spec = ConnectSpec::new(endpoint.local_addr(), "localhost", roots);
    (endpoint, spec)
}

/// Drives `future` until it waits for the other side.
pub(crate) fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A deadline, so that a test that hangs fails.
async fn within_deadline<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test hangs")
}

fn credit(bytes: u64) -> Frame {
    Frame::new(&v1::Credit { bytes })
}

/// A `Publish` frame that can be told from others.
fn publish(sequence: u64, parts: Vec<Bytes>) -> Frame {
    let item = v1::PublishItem { sequence, ..v1::PublishItem::default() };
    Frame::with_blob(&v1::Publish { items: vec![item] }, parts)
}

fn sequence(frame: &Frame) -> u64 {
    frame.decode::<v1::Publish>().unwrap().items[0].sequence
}

/// Bytes that differ from place to place.
fn pattern(len: usize, seed: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(31) ^ i >> 8 ^ seed) as u8).collect()
}
