//! Between nodes: a UDP port of their own, so that no crowd of clients takes the sockets or windows of
//! replication, and the port can be closed to clients by a firewall. Both sides show a certificate of the
//! cluster's CA that says it is a node's.
//!
//! The dialling side opens streams, the accepting side accepts them. Once both have verified the other,
//! the accepting side opens and ends one empty stream of its own: without that welcome, who dials would
//! not learn in the handshake that its certificate was refused.

mod endpoint;
mod error;
mod tls;

pub use endpoint::{PeerEndpoint, PeerListenSpec, RefusedPeers};
pub use error::{CertificateFault, PeerConnectError};
pub use tls::NodeTls;

pub use crate::quic::{PEER_IDLE_TIMEOUT, PEER_STREAMS_MAX, PEER_WINDOW_BYTES};

/// The protocol's name in the TLS handshake (ALPN).
pub const PEER_ALPN: &[u8] = b"railgun-peer/1";
/// The DNS name that the certificates of nodes have besides those of their hosts, and no others: who
/// dials a node verifies it whatever address is dialled, who is dialled demands it.
pub const NODE_NAME: &str = "node.railgun.internal";
