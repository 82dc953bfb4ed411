//! How a client connects, and how long it is patient.

use std::time::Duration;

/// Shortest time that a server is given for an answer, however impatient the user: it may wait for
/// a disk.
pub(crate) const ANSWER_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// How to reach a cluster. [`ClientOptions::new`] has the usual values; change what differs.
#[derive(Clone)]
pub struct ClientOptions {
    /// `host:port` of any node.
    pub server: String,
    /// The authority that signed the server's certificate, as PEM. `None`: those this machine
    /// trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// The name in the server's certificate, if it is not the host of `server`.
    pub server_name: Option<String>,
    /// Shown to servers that are configured with tokens.
    pub token: Option<String>,
    /// Time for one attempt to connect, handshake included. 3 s.
    pub connect_timeout: Duration,
    /// How long a lost connection, or an error that the server calls temporary, is met with trying
    /// again before a message or a subscription fails; and how long they wait for a server that
    /// answers nothing. 60 s.
    pub give_up_after: Duration,
    /// Time for an administrative call, repeats included. 10 s.
    pub call_timeout: Duration,
    /// Text for the server's logs, at most 128 bytes.
    pub name: String,
    /// Makes identifiers and jitter repeatable, for simulations. `None`: drawn from the system.
    pub seed: Option<[u8; 16]>,
}

impl ClientOptions {
    /// The usual values for the node at `server` (`host:port`).
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            ca_pem: None,
            server_name: None,
            token: None,
            connect_timeout: railgun_net::CONNECT_TIMEOUT,
            give_up_after: Duration::from_secs(60),
            call_timeout: Duration::from_secs(10),
            name: concat!("railgun-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            seed: None,
        }
    }
}

impl std::fmt::Debug for ClientOptions {
    /// The token is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("server", &self.server)
            .field("server_name", &self.server_name)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("connect_timeout", &self.connect_timeout)
            .field("give_up_after", &self.give_up_after)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}
