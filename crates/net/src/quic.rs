//! How we use QUIC: windows, timers, sockets. Every bound is set here: quinn's own defaults leave the
//! window of a client's connection open and send no signs of life.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

/// Streams that a dialling side may have open at a time on one connection.
pub const QUIC_STREAMS_MAX: u32 = 1_024;
/// Streams that the accepting side grants. quinn gives back those that have ended in steps of an
/// eighth of this; with an eighth held back, [`QUIC_STREAMS_MAX`] can be open at any time.
const STREAMS_GRANTED: u32 = QUIC_STREAMS_MAX * 8 / 7;
/// Streams of a client that has not been admitted: the one on which it says who it is.
const STREAMS_BEFORE: u32 = 1;
/// Silence after which a connection is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Silence after which the dialling side sends a sign of life. A node that was killed and has
/// started again tells so only in answer to a packet: who waits for an answer learns it by this.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Streams that a node may have open at a time on one connection to another.
pub const PEER_STREAMS_MAX: u32 = 4_096;
/// As [`STREAMS_GRANTED`].
const PEER_STREAMS_GRANTED: u32 = PEER_STREAMS_MAX * 8 / 7;
/// Silence after which a connection between nodes is lost. Short: whoever waits for a dead node's answer
/// elects no other leader.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of a connection between nodes that are received before they are read, and those that are kept
/// until they are acknowledged.
pub const PEER_WINDOW_BYTES: u32 = 64 << 20;

/// Bytes that are received before they are read, of each stream that another node serves for clients.
pub(crate) const PEER_CLIENT_WINDOW_BYTES: u32 = 128 << 10;

/// Bytes of one stream that are received before they are read. A stream carries no more than this in a
/// round trip. Of all streams of the dialling side together there is no bound but that: it asked for
/// what comes on each, and one that it leaves alone must not hold up the others.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same of a client at least, of whom it is less where there are many (`guests`): a frame of the
/// usual size at the most, on its way while the one before it is looked at.
pub(crate) const STREAM_WINDOW_BYTES_MIN: u32 = 1 << 20;
/// The same for all streams of a client's connection together. Bounds the memory of a connection; this
/// is less, too, where there are many.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// The same of a client that has not been admitted: twice the largest greeting. Anybody can have so
/// much kept, for as long as the greeting may take.
const WINDOW_BEFORE_BYTES: u32 = 32 << 10;
/// Bytes of a connection that are kept until the peer has acknowledged them; likewise less of a client
/// where there are many.
const SEND_WINDOW_BYTES: u64 = 32 << 20;
/// What may be under way before the path is known, sent at the pace of the round trips: some 32 packets
/// of the usual size. With less, a probe for large packets is enough to block what follows it, such as
/// the word that the connection is closed.
const INITIAL_WINDOW_BYTES: u64 = 48 << 10;
/// What we ask the kernel for, in each direction.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Largest UDP payload, where the path takes it: half of what QUIC costs is paid per packet, and on
/// loopback or between hosts with jumbo frames it need not be paid for every 1,452 bytes. Ten of
/// these, the most that quinn sends as one segmented write, still fit a UDP datagram of 65,507 bytes:
/// more would make every such write fail.
pub(crate) const PACKET_BYTES: u16 = 6_500;

/// The transport of an accepting side, for a client that nobody knows yet, with this window for each of
/// its streams: QUIC lets no one change it later.
pub(crate) fn accepting(stream_window: u32) -> TransportConfig {
    let mut transport = common();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_BEFORE))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(WINDOW_BEFORE_BYTES));
    transport
}

/// Grants a client all the streams of a connection, and this window.
pub(crate) fn admit(connection: &quinn::Connection, window: u32) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS_GRANTED));
    widen(connection, window);
}

/// Grants a client this window: what it may send before it is read, and what is kept until it has
/// acknowledged it. Never less than before: quinn adds a growth to what was granted at once, and takes
/// back a shrinkage only from what is read.
pub(crate) fn widen(connection: &quinn::Connection, window: u32) {
    connection.set_receive_window(VarInt::from_u32(window));
    connection.set_send_window(window.into());
}

/// The transport of a dialling side, which opens all streams.
pub(crate) fn dialling(keep_alive: Duration) -> TransportConfig {
    let mut transport = common();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::MAX)
        .keep_alive_interval(Some(keep_alive));
    transport
}

/// The transport of a node that dials another. It opens all streams but the one that welcomes it.
pub(crate) fn peer_dialling() -> TransportConfig {
    let mut transport = peer();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .keep_alive_interval(Some(KEEP_ALIVE));
    transport
}

/// The same of a connection for clients, each of which leaves unread what it likes: the connection's window
/// holds that of all streams that there can be, so that none of them stops another.
pub(crate) fn peer_dialling_for_clients() -> TransportConfig {
    let mut transport = peer_dialling();
    transport
        .stream_receive_window(VarInt::from_u32(PEER_CLIENT_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(PEER_STREAMS_MAX * PEER_CLIENT_WINDOW_BYTES));
    transport
}

/// The transport of a node that was dialled by another.
pub(crate) fn peer_accepting() -> TransportConfig {
    let mut transport = peer();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(PEER_STREAMS_GRANTED));
    transport
}

fn peer() -> TransportConfig {
    let mut transport = common();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(PEER_WINDOW_BYTES))
        .send_window(PEER_WINDOW_BYTES.into())
        .max_idle_timeout(Some(idle(PEER_IDLE_TIMEOUT)));
    transport
}

fn idle(timeout: Duration) -> IdleTimeout {
    IdleTimeout::from(VarInt::from_u32(timeout.as_millis() as u32))
}

fn common() -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(PACKET_BYTES);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(congestion))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(idle(IDLE_TIMEOUT)))
        .datagram_receive_buffer_size(None);
    transport
}

/// The same endpoint, which receives packets as large as [`PACKET_BYTES`].
pub(crate) fn receiving(mut endpoint: EndpointConfig) -> EndpointConfig {
    // Refuses sizes below 1,200 and above 65,527 only.
    endpoint.max_udp_payload_size(PACKET_BYTES).ok();
    endpoint
}

/// A UDP socket with large buffers.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    match enlarge(&socket) {
        Ok(None) => {}
        // Whoever listens has many at the other end.
        Ok(Some(bytes)) if addr.port() != 0 => tracing::warn!(
            %addr,
            bytes,
            asked = SOCKET_BUFFER_BYTES,
            "the kernel gives the UDP socket small buffers, and bursts may be lost: \
             sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} net.core.wmem_max={SOCKET_BUFFER_BYTES}"
        ),
        Ok(Some(bytes)) => tracing::debug!(bytes, "the kernel gives the UDP socket small buffers"),
        Err(error) => tracing::debug!(%error, "the UDP socket's buffers cannot be sized"),
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// A socket of any port, in the family of `peer`.
pub(crate) fn bind_any(peer: SocketAddr) -> io::Result<UdpSocket> {
    match peer {
        SocketAddr::V4(_) => bind((Ipv4Addr::UNSPECIFIED, 0).into()),
        SocketAddr::V6(_) => bind((Ipv6Addr::UNSPECIFIED, 0).into()),
    }
}

/// Small buffers cost throughput, not correctness: what the kernel gives is told. It has given what was
/// asked for, or so much in bytes.
fn enlarge(socket: &Socket) -> io::Result<Option<usize>> {
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let got = socket.recv_buffer_size()?.min(socket.send_buffer_size()?);
    Ok((got < SOCKET_BUFFER_BYTES).then_some(got))
}
