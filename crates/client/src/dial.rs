//! Making a connection to one address: over QUIC, or as a test says.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use railgun_net::{ConnectSpec, Connection, Roots};

use crate::connect_error::ConnectError;
use crate::options::{ClientOptions, host_and_port};

/// What [`Dial::dial`] gives back.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Connection, ConnectError>> + Send + 'a>>;

/// What [`Dial::resolve`] gives back.
pub type Resolving<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<Target>, ConnectError>> + Send + 'a>>;

/// Where a connection is to be made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`: one of [`ClientOptions::servers`], or one that a server named when it went away.
    pub server: String,
    /// One of its addresses. `None` where a [`Dial`] does not tell them apart.
    pub addr: Option<SocketAddr>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            Some(addr) if addr.to_string() != self.server => {
                write!(f, "{} at {addr}", self.server)
            }
            _ => f.write_str(&self.server),
        }
    }
}

/// Makes connections to a cluster. The seam at which simulations put an in-process network under
/// the client; everyone else uses [`Client::connect`](crate::Client::connect).
pub trait Dial: Send + Sync + fmt::Debug + 'static {
    /// The addresses of a server, in the order in which to try them. By default it is tried as it is.
    fn resolve<'a>(&'a self, server: &'a str) -> Resolving<'a> {
        Box::pin(async { Ok(vec![Target { server: server.to_owned(), addr: None }]) })
    }

    /// Makes a new connection, in the time that a user is willing to wait.
    fn dial<'a>(&'a self, target: &'a Target) -> Dialling<'a>;

    /// A number that is another one whenever something was heard from the peer. `None`, the default,
    /// where nobody knows: then silence is no reason to leave a server.
    fn heard(&self, connection: &Connection) -> Option<u64> {
        let _ = connection;
        None
    }
}

/// Dials servers over QUIC. Names are resolved anew each time.
#[derive(Debug)]
pub(crate) struct QuicDial {
    server_name: Option<String>,
    roots: Roots,
    timeout: Duration,
}

impl QuicDial {
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, ConnectError> {
        options.check_servers()?;
        let roots = match (options.ca_sha256, &options.ca_pem) {
            (Some(sha256), _) => Roots::Sha256(sha256),
            (None, Some(pem)) => Roots::Pem(pem.clone()),
            (None, None) => Roots::System,
        };
        let server_name = options.server_name.clone();
        Ok(Self { server_name, roots, timeout: options.connect_timeout })
    }

    async fn lookup(&self, server: &str) -> Result<Vec<Target>, ConnectError> {
        let unresolved = |reason| ConnectError::Unresolved { server: server.to_owned(), reason };
        let found = tokio::time::timeout(self.timeout, tokio::net::lookup_host(server))
            .await
            .map_err(|_| unresolved(format!("no answer within {:?}", self.timeout)))?
            .map_err(|error| unresolved(error.to_string()))?;
        let target = |addr| Target { server: server.to_owned(), addr: Some(addr) };
        let targets: Vec<Target> = found.map(target).collect();
        if targets.is_empty() {
            return Err(unresolved("the name has no address".into()));
        }
        Ok(targets)
    }

    async fn connect(&self, target: &Target) -> Result<Connection, ConnectError> {
        let invalid = || ConnectError::InvalidServer { server: target.server.clone() };
        let (host, _) = host_and_port(&target.server).ok_or_else(invalid)?;
        let addr = target.addr.ok_or_else(invalid)?;
        let server_name = self.server_name.as_deref().unwrap_or(host);
        let mut spec = ConnectSpec::new(addr, server_name, self.roots.clone());
        spec.timeout = self.timeout;
        Ok(railgun_net::connect(spec).await?)
    }
}

impl Dial for QuicDial {
    fn resolve<'a>(&'a self, server: &'a str) -> Resolving<'a> {
        Box::pin(self.lookup(server))
    }

    fn dial<'a>(&'a self, target: &'a Target) -> Dialling<'a> {
        Box::pin(self.connect(target))
    }

    fn heard(&self, connection: &Connection) -> Option<u64> {
        Some(connection.stats().received_bytes)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use railgun_net::tls::DevCa;
    use railgun_net::{Endpoint, ListenSpec};
    use railgun_proto::{Frame, VERSION, v1};

    use super::*;
    use crate::Client;

    /// A server that welcomes everyone, and what its CA is.
    fn server() -> (Endpoint, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::load_or_create(dir.path()).unwrap();
        let tls = ca.issue(&["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let endpoint = Endpoint::bind(ListenSpec::new(([127, 0, 0, 1], 0).into(), tls)).unwrap();
        (endpoint, ca.pem().as_bytes().to_vec())
    }

    async fn welcome(endpoint: &Endpoint) {
        let connection = endpoint.accept().await.unwrap();
        let (mut writer, mut reader) = connection.accept().await.unwrap();
        reader.next().await.unwrap().unwrap();
        let cluster_uid = Bytes::from_static(&[1; 16]);
        let welcome = v1::Welcome { version: VERSION, cluster_uid, ..v1::Welcome::default() };
        writer.send(Frame::new(&welcome)).await.unwrap();
        connection.closed().await;
    }

    #[tokio::test]
    async fn a_silent_address_is_passed_by() {
        let (endpoint, ca_pem) = server();
        // Bound and never answered, so nobody else can answer there either.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = (silent.local_addr().unwrap(), silent);
        let there = format!("localhost:{}", endpoint.local_addr().port());
        for seed in 0..4 {
            let mut options = ClientOptions::new(format!("{},{there}", silent.0));
            (options.ca_pem, options.seed) = (Some(ca_pem.clone()), Some([seed; 16]));
            let connect = async {
                let client = Client::connect(options).await.unwrap();
                assert_eq!(client.server().as_deref(), Some(&*there));
                client.close().await;
            };
            tokio::join!(connect, welcome(&endpoint));
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_there_is_heard() {
        let (endpoint, ca_pem) = server();
        let mut options = ClientOptions::new(endpoint.local_addr().to_string());
        options.ca_pem = Some(ca_pem);
        let dial = QuicDial::new(&options).unwrap();
        let targets = dial.resolve(&options.servers[0]).await.unwrap();
        let addr = Some(endpoint.local_addr());
        assert_eq!(targets, [Target { server: options.servers[0].clone(), addr }]);
        let listen = async {
            let connection = dial.dial(&targets[0]).await.unwrap();
            let (mut writer, mut reader) = connection.open().await.unwrap();
            let before = dial.heard(&connection);
            writer.send(Frame::new(&v1::Hello::default())).await.unwrap();
            reader.next().await.unwrap().unwrap();
            assert!(before.is_some() && dial.heard(&connection) > before);
            connection.close(None, "");
        };
        tokio::join!(listen, welcome(&endpoint));
    }
}
