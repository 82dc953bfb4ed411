//! Making a connection: over QUIC, or as a test says.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use railgun_net::{ConnectSpec, Connection, Roots};

use crate::connect_error::ConnectError;
use crate::options::ClientOptions;

/// What a [`Dial`] gives back.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Connection, ConnectError>> + Send + 'a>>;

/// Makes connections to a cluster. The seam at which simulations put an in-process network under
/// the client; everyone else uses [`Client::connect`](crate::Client::connect).
pub trait Dial: Send + Sync + std::fmt::Debug + 'static {
    /// Makes a new connection, in the time that a user is willing to wait.
    fn dial(&self) -> Dialling<'_>;
}

/// Dials a server over QUIC. Its name is resolved anew each time.
#[derive(Debug)]
pub(crate) struct QuicDial {
    server: String,
    server_name: String,
    roots: Roots,
    timeout: Duration,
}

impl QuicDial {
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, ConnectError> {
        let server = options.server.clone();
        let invalid = || ConnectError::InvalidServer { server: server.clone() };
        let (host, port) = server.rsplit_once(':').ok_or_else(invalid)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(invalid());
        }
        let server_name = options.server_name.clone().unwrap_or_else(|| host.to_owned());
        let roots = options.ca_pem.clone().map_or(Roots::System, Roots::Pem);
        Ok(Self { server, server_name, roots, timeout: options.connect_timeout })
    }

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let unresolved = |reason| ConnectError::Unresolved { server: self.server.clone(), reason };
        let found = tokio::time::timeout(self.timeout, tokio::net::lookup_host(&self.server))
            .await
            .map_err(|_| unresolved(format!("no answer within {:?}", self.timeout)))?
            .map_err(|error| unresolved(error.to_string()))?;
        let mut failure = unresolved("the name has no address".into());
        for addr in found {
            let mut spec = ConnectSpec::new(addr, &*self.server_name, self.roots.clone());
            spec.timeout = self.timeout;
            match railgun_net::connect(spec).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }
}

impl Dial for QuicDial {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(self.connect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        let name = |server: &str| {
            QuicDial::new(&ClientOptions::new(server)).map(|dial| dial.server_name).ok()
        };
        assert_eq!(name("localhost:7410").as_deref(), Some("localhost"));
        assert_eq!(name("[::1]:7410").as_deref(), Some("::1"));
        for bad in ["", "localhost", ":7410", "localhost:", "localhost:x", "localhost:70000"] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
