//! The dialling side.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, EndpointConfig};

use crate::connection::{Connection, ConnectionLost};
use crate::not_made::NotMade;
use crate::quic;
use crate::runtime::OnTokio;
use crate::tls::{self, TlsError};

/// Time for a connection to be made, unless the caller says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// These authorities only, as PEM.
    Pem(Vec<u8>),
    /// The one authority whose certificate has this SHA-256. The server shows it beside its own.
    Sha256([u8; 32]),
    /// The authorities this machine trusts.
    System,
}

/// Whom to connect to.
#[derive(Clone, Debug)]
pub struct ConnectSpec {
    /// UDP address of the server.
    pub addr: SocketAddr,
    /// The name or IP address that must be in the server's certificate.
    pub server_name: String,
    /// Whose certificates are believed.
    pub roots: Roots,
    /// Time for all of it.
    pub timeout: Duration,
    /// Silence after which a sign of life is sent; less than [`IDLE_TIMEOUT`](crate::IDLE_TIMEOUT).
    pub keep_alive: Duration,
}

impl ConnectSpec {
    /// With the usual times.
    #[must_use]
    pub fn new(addr: SocketAddr, server_name: impl Into<String>, roots: Roots) -> Self {
        Self {
            addr,
            server_name: server_name.into(),
            roots,
            timeout: CONNECT_TIMEOUT,
            keep_alive: quic::KEEP_ALIVE,
        }
    }
}

/// Why there is no connection. The messages say what to look at.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No answer.
    #[error(
        "no answer from {addr} within {timeout:?}: is a server running there, and does UDP get \
         through?"
    )]
    Timeout {
        /// The address that was tried.
        addr: SocketAddr,
        /// How long.
        timeout: Duration,
    },
    /// The server is not to be believed.
    #[error(
        "the certificate of {addr} is not to be trusted for '{server_name}' ({reason}): was the \
         right CA given, and is the name in the certificate?"
    )]
    UntrustedCertificate {
        /// The server's address.
        addr: SocketAddr,
        /// The name that was asked for.
        server_name: String,
        /// What the verifier says.
        reason: String,
    },
    /// A QUIC server that is not of this kind or version.
    #[error(
        "the server at {addr} does not speak railgun/1: is it a railgun server, and of this \
         version?"
    )]
    WrongProtocol {
        /// The server's address.
        addr: SocketAddr,
    },
    /// The server takes no further connections now.
    #[error("the server at {addr} refused the connection: it is full or stopping; try again later")]
    Refused {
        /// The server's address.
        addr: SocketAddr,
    },
    /// A name that no certificate can have.
    #[error("'{server_name}' is neither a DNS name nor an IP address")]
    InvalidServerName {
        /// The name.
        server_name: String,
    },
    /// The CA cannot be used.
    #[error("the certificate authorities to trust cannot be used: {0}")]
    Roots(#[source] TlsError),
    /// No socket to send from.
    #[error("no UDP socket to reach {addr}: {source}")]
    Socket {
        /// The server's address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// An address that nothing can be sent to.
    #[error("{addr} is not an address to connect to: {reason}")]
    InvalidAddress {
        /// The address.
        addr: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection broke while it was made.
    #[error("the connection to {addr} was not made: {source}")]
    Lost {
        /// The server's address.
        addr: SocketAddr,
        /// What happened.
        source: ConnectionLost,
    },
}

/// Connects over QUIC: TLS done, protocol agreed. Must be called inside a tokio runtime. Cancelling
/// leaves nothing behind.
///
/// # Errors
/// [`ConnectError`], within `spec.timeout`.
pub async fn connect(spec: ConnectSpec) -> Result<Connection, ConnectError> {
    let addr = spec.addr;
    let crypto = tls::client(&spec.roots).map_err(ConnectError::Roots)?;
    let mut config = ClientConfig::new(crypto);
    config.transport_config(Arc::new(quic::dialling(spec.keep_alive)));
    let no_socket = |source| ConnectError::Socket { addr, source };
    let socket = quic::bind_any(addr).map_err(no_socket)?;
    let config_of_endpoint = quic::receiving(EndpointConfig::default());
    let endpoint = quinn::Endpoint::new(config_of_endpoint, None, socket, Arc::new(OnTokio))
        .map_err(no_socket)?;
    let connecting = endpoint
        .connect_with(config, addr, &spec.server_name)
        .map_err(|error| not_started(&spec, &error))?;
    match tokio::time::timeout(spec.timeout, connecting).await {
        Ok(Ok(connection)) => Ok(Connection::dialled(connection, endpoint)),
        Ok(Err(error)) => Err(not_made(spec, error)),
        Err(_) => Err(ConnectError::Timeout { addr, timeout: spec.timeout }),
    }
}

fn not_started(spec: &ConnectSpec, error: &quinn::ConnectError) -> ConnectError {
    match error {
        quinn::ConnectError::InvalidServerName(_) => {
            ConnectError::InvalidServerName { server_name: spec.server_name.clone() }
        }
        error => ConnectError::InvalidAddress { addr: spec.addr, reason: error.to_string() },
    }
}

fn not_made(spec: ConnectSpec, error: quinn::ConnectionError) -> ConnectError {
    let addr = spec.addr;
    match NotMade::from(error) {
        NotMade::TimedOut => ConnectError::Timeout { addr, timeout: spec.timeout },
        NotMade::Refused => ConnectError::Refused { addr },
        NotMade::WrongProtocol => ConnectError::WrongProtocol { addr },
        NotMade::Certificate { reason, .. } => {
            ConnectError::UntrustedCertificate { addr, server_name: spec.server_name, reason }
        }
        NotMade::Lost(source) => ConnectError::Lost { addr, source },
    }
}
