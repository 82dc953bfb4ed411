//! How a client connects, and how long it is patient.

use std::time::Duration;

use crate::connect_error::ConnectError;

/// Shortest time that a server is given for an answer, however impatient the user: it may wait for
/// a disk.
pub(crate) const ANSWER_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// How to reach a cluster. [`ClientOptions::new`] has the usual values; change what differs.
#[derive(Clone)]
pub struct ClientOptions {
    /// Nodes of one cluster, `host:port` each; one that can be reached is enough. All are tried, and all
    /// addresses that their names have, beginning with one at random, so that clients spread.
    pub servers: Vec<String>,
    /// The authority that signed the server's certificate, as PEM. `None`: those this machine
    /// trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// SHA-256 of the certificate of the one authority that is believed; the server must show that
    /// certificate beside its own, as nodes do. Counts instead of `ca_pem`.
    pub ca_sha256: Option<[u8; 32]>,
    /// The name in the servers' certificates, if it is not the host of each.
    pub server_name: Option<String>,
    /// Shown to servers that are configured with tokens.
    pub token: Option<String>,
    /// Time for one attempt to connect to one address, handshake included. 3 s.
    pub connect_timeout: Duration,
    /// How long a lost connection, or an error that the server calls temporary, is met with trying
    /// again before a message or a subscription fails; and how long they wait for a server that
    /// answers nothing. 60 s.
    pub give_up_after: Duration,
    /// Time for an administrative call, repeats included. 10 s.
    pub call_timeout: Duration,
    /// Whether publishers go straight to the node that leads their streams when a server names it, as the
    /// clients of most systems do, and stay with their server while that node cannot be reached. `false`:
    /// everything goes by the servers given, which relay it, as where only these can be reached. `true`.
    pub follow_leaders: bool,
    /// Text for the server's logs, at most 128 bytes.
    pub name: String,
    /// Makes identifiers and jitter repeatable, for simulations. `None`: drawn from the system.
    pub seed: Option<[u8; 16]>,
}

impl ClientOptions {
    /// The usual values for the node at `servers` (`host:port`), or for several, separated by commas.
    #[must_use]
    pub fn new(servers: impl AsRef<str>) -> Self {
        Self {
            servers: servers.as_ref().split(',').map(|server| server.trim().to_owned()).collect(),
            ca_pem: None,
            ca_sha256: None,
            server_name: None,
            token: None,
            connect_timeout: railgun_net::CONNECT_TIMEOUT,
            give_up_after: Duration::from_secs(60),
            call_timeout: Duration::from_secs(10),
            follow_leaders: true,
            name: concat!("railgun-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            seed: None,
        }
    }
}

impl ClientOptions {
    /// Whether every one of `servers` is `host:port`, and there is one.
    ///
    /// # Errors
    /// [`ConnectError::InvalidServer`], which names the first that is not.
    pub fn check_servers(&self) -> Result<(), ConnectError> {
        let invalid = |server: &str| ConnectError::InvalidServer { server: server.to_owned() };
        if self.servers.is_empty() {
            return Err(invalid(""));
        }
        match self.servers.iter().find(|server| host_and_port(server).is_none()) {
            Some(server) => Err(invalid(server)),
            None => Ok(()),
        }
    }
}

/// The host, without the brackets of an IPv6 address, and the port.
pub(crate) fn host_and_port(server: &str) -> Option<(&str, u16)> {
    let (host, port) = server.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok()?;
    (!host.is_empty()).then_some((host, port))
}

impl std::fmt::Debug for ClientOptions {
    /// The token is not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("servers", &self.servers)
            .field("server_name", &self.server_name)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("connect_timeout", &self.connect_timeout)
            .field("give_up_after", &self.give_up_after)
            .field("call_timeout", &self.call_timeout)
            .field("follow_leaders", &self.follow_leaders)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_and_ports_and_the_bad_one_is_named() {
        let bad = |servers: &str| match ClientOptions::new(servers).check_servers() {
            Ok(()) => None,
            Err(ConnectError::InvalidServer { server }) => Some(server),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(bad("localhost:7410"), None);
        assert_eq!(bad("a:1, [::1]:7410,10.0.0.1:65535"), None);
        assert_eq!(host_and_port("[::1]:7410"), Some(("::1", 7410)));
        for one in ["", "localhost", ":7410", "localhost:", "localhost:x", "localhost:70000"] {
            assert_eq!(bad(one).as_deref(), Some(one));
            assert_eq!(bad(&format!("a:1,{one},b:2")).as_deref(), Some(one));
        }
    }
}
