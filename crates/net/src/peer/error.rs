//! Why two nodes do not speak.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::NODE_NAME;
use crate::connection::ConnectionLost;
use crate::not_made::{
    BAD_CERTIFICATE, CERTIFICATE_EXPIRED, CERTIFICATE_REQUIRED, DECRYPT_ERROR, NotMade, UNKNOWN_CA,
    UNSUPPORTED_CERTIFICATE,
};

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// Signed by none of the authorities that are trusted.
    ForeignCa,
    /// None was shown.
    Missing,
    /// Of the right CA, but not a node's: a client's, or a server's.
    NotANode,
    /// Today is not between its dates.
    Expired,
    /// Anything else.
    Unusable,
}

impl CertificateFault {
    /// As the alert of TLS tells it, which is all that the other side learns.
    pub(crate) fn of_alert(alert: u64) -> Self {
        match alert {
            UNKNOWN_CA | DECRYPT_ERROR => Self::ForeignCa,
            CERTIFICATE_REQUIRED => Self::Missing,
            BAD_CERTIFICATE | UNSUPPORTED_CERTIFICATE => Self::NotANode,
            CERTIFICATE_EXPIRED => Self::Expired,
            _ => Self::Unusable,
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignCa => f.write_str("it is signed by another CA"),
            Self::Missing => f.write_str("none was shown"),
            Self::NotANode => write!(f, "it is not a node's, which has the name {NODE_NAME}"),
            Self::Expired => {
                f.write_str("it has expired or is not valid yet, unless a clock is wrong")
            }
            Self::Unusable => f.write_str("it cannot be used"),
        }
    }
}

/// Why there is no connection to, or from, another node. The messages say what to look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerConnectError {
    /// No answer.
    #[error(
        "no answer from {addr} within {timeout:?}: is a node running there, and does UDP get \
         through to the port of its peers?"
    )]
    Timeout {
        /// The other node's address.
        addr: SocketAddr,
        /// How long.
        timeout: Duration,
    },
    /// The other side has not shown that it is a node of this cluster (CL-2 `UntrustedPeer`).
    #[error(
        "{addr} is not to be trusted as a node of this cluster, by its certificate: {fault} \
         ({reason}); every node needs one made with `railgun cluster issue-node` by the same CA"
    )]
    UntrustedPeer {
        /// The other side's address.
        addr: SocketAddr,
        /// What is wrong with its certificate.
        fault: CertificateFault,
        /// What the verifier says.
        reason: String,
    },
    /// The other side does not take this one for a node of its cluster (CL-2 `UntrustedPeer`).
    #[error(
        "{addr} does not trust this node, by its certificate: {fault}; every node needs one made with \
         `railgun cluster issue-node` by the same CA"
    )]
    Distrusted {
        /// The other side's address.
        addr: SocketAddr,
        /// What the other side finds wrong with this node's certificate.
        fault: CertificateFault,
    },
    /// A QUIC endpoint that is not of this kind or version, such as that for clients.
    #[error(
        "{addr} does not speak railgun-peer/1: is it the port for peers, and of a node of this version?"
    )]
    WrongProtocol {
        /// The other side's address.
        addr: SocketAddr,
    },
    /// The node takes no further connections now.
    #[error("the node at {addr} refused the connection: it is full or stopping; try again later")]
    Refused {
        /// The node's address.
        addr: SocketAddr,
    },
    /// This node takes no further connections now.
    #[error("the connection from {addr} was refused: there are as many as this node takes")]
    Full {
        /// The other side's address.
        addr: SocketAddr,
    },
    /// An address that nothing can be sent to from this endpoint.
    #[error("{addr} is not an address that this node can reach: {reason}")]
    InvalidAddress {
        /// The address.
        addr: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// This side's endpoint was closed.
    #[error("the connection to {addr} was not made: this node is stopping")]
    Closed {
        /// The other node's address.
        addr: SocketAddr,
    },
    /// The connection broke while it was made.
    #[error("the connection with {addr} was not made: {source}")]
    Lost {
        /// The other side's address.
        addr: SocketAddr,
        /// What happened.
        source: ConnectionLost,
    },
}

impl PeerConnectError {
    pub(crate) fn not_made(addr: SocketAddr, timeout: Duration, error: NotMade) -> Self {
        match error {
            NotMade::TimedOut => Self::Timeout { addr, timeout },
            NotMade::Refused => Self::Refused { addr },
            NotMade::WrongProtocol => Self::WrongProtocol { addr },
            NotMade::Certificate { alert, reason, by_us } => {
                let fault = CertificateFault::of_alert(alert);
                match by_us {
                    true => Self::UntrustedPeer { addr, fault, reason },
                    false => Self::Distrusted { addr, fault },
                }
            }
            NotMade::Lost(ConnectionLost::ClosedLocally) => Self::Closed { addr },
            NotMade::Lost(source) => Self::Lost { addr, source },
        }
    }
}
