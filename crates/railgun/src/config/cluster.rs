//! What a node must know to be one of several.

use std::net::SocketAddr;
use std::path::PathBuf;

use railgun_client::{ClientOptions, ConnectError};

use super::settings::{Origin, Settings, SettingsError, Sourced};

/// Most nodes that a new cluster waits for.
const BOOTSTRAP_MAX: u32 = 100;

/// A node's place among others, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterConfig {
    /// Nodes that must see each other before a new cluster forms (CL-3).
    pub(crate) bootstrap_expect: u32,
    /// `host:port` of the peer ports of nodes, this one's among them or not. Empty: it waits for others.
    pub(crate) peers: Vec<String>,
    /// The DNS name whose SRV records name further ones (CL-1).
    pub(crate) srv: Option<String>,
    /// The DNS server to ask; `None`: the machine's.
    pub(crate) dns_server: Option<SocketAddr>,
    /// Replicas of each data shard.
    pub(crate) replicas: u8,
    /// Where it listens for other nodes (UDP).
    pub(crate) peer_listen: SocketAddr,
    /// `host:port` at which other nodes reach it.
    pub(crate) peer_advertise: String,
    /// The authority of the cluster's nodes, a PEM file.
    pub(crate) ca: PathBuf,
    /// This node's certificate of it, which clients are shown too, and its key: PEM files.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// The directory of the authority, on a node that signs for those that join.
    pub(crate) ca_dir: Option<PathBuf>,
}

impl Settings {
    /// What makes this node one of several. `None`: it stays alone.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] when it is asked to be one and cannot.
    pub(crate) fn cluster(&self) -> Result<Option<ClusterConfig>, SettingsError> {
        let (expect, peers) = (self.bootstrap_expect.value, &self.peers.value);
        let advertise: Vec<_> = self.advertise.iter().map(|it| it.value.clone()).collect();
        if !(1..=BOOTSTRAP_MAX).contains(&expect) {
            return Err(SettingsError::OutOfRange {
                key: "cluster.bootstrap_expect",
                value: expect.to_string(),
                min: "1".to_owned(),
                max: BOOTSTRAP_MAX.to_string(),
            });
        }
        let alone = expect == 1
            && peers.is_empty()
            && self.peer_listen.origin == Origin::Default
            && self.peer_advertise.is_none()
            && self.srv.is_none()
            && self.ca_dir.is_none();
        check_addresses("advertise", &advertise)?;
        if self.srv.is_none() && self.dns_server.is_some() {
            return Err(SettingsError::DnsServerAlone);
        }
        if alone {
            return Ok(None);
        }
        let srv = self.srv.as_ref().map(|srv| srv.value.clone());
        if let Some(name) = srv.as_ref().filter(|name| !is_dns_name(name)) {
            return Err(SettingsError::NoDnsName { name: name.clone() });
        }
        if expect > 1 && peers.is_empty() && srv.is_none() {
            return Err(SettingsError::NoPeers { expect });
        }
        check_addresses("cluster.peers", peers)?;
        let listen = self.listen.value;
        if advertise.is_empty() && (listen.ip().is_unspecified() || listen.port() == 0) {
            return Err(SettingsError::NoClientAdvertise { listen });
        }
        let peer_listen = self.peer_listen.value;
        if peer_listen == self.listen.value && peer_listen.port() != 0 {
            return Err(SettingsError::SameAddress { address: peer_listen });
        }
        let peer_advertise = match &self.peer_advertise {
            Some(address) => {
                check_addresses("cluster.peer_advertise", std::slice::from_ref(&address.value))?;
                address.value.clone()
            }
            None if peer_listen.ip().is_unspecified() || peer_listen.port() == 0 => {
                return Err(SettingsError::NoAdvertise { peer_listen });
            }
            None => peer_listen.to_string(),
        };
        let file = |key, path: &Option<Sourced<PathBuf>>| {
            let path = path.as_ref().map(|path| path.value.clone());
            path.ok_or(SettingsError::NoNodeCertificate { missing: key })
        };
        let ca = file("tls.ca", &self.tls_ca)?;
        let cert = file("tls.cert", &self.tls_cert)?;
        let key = file("tls.key", &self.tls_key)?;
        Ok(Some(ClusterConfig {
            bootstrap_expect: expect,
            peers: peers.clone(),
            srv,
            dns_server: self.dns_server.as_ref().map(|server| server.value),
            replicas: u8::try_from(self.replicas.value).unwrap_or(u8::MAX),
            peer_listen,
            peer_advertise,
            ca,
            cert,
            key,
            ca_dir: self.ca_dir.as_ref().map(|dir| dir.value.clone()),
        }))
    }
}

impl ClusterConfig {
    /// What is allowed and probably not meant.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let expect = self.bootstrap_expect;
        if expect.is_multiple_of(2) {
            warnings.push(format!(
                "`cluster.bootstrap_expect` is {expect}: a cluster of {} survives the loss of as many nodes",
                expect - 1
            ));
        }
        let others = self.peers.iter().filter(|peer| **peer != self.peer_advertise).count();
        if expect > 1 && u32::from(self.replicas) > expect {
            warnings.push(format!(
                "`shards.replicas` is {}, and the cluster begins with {expect} nodes: its shards are \
                 under-replicated until others have joined",
                self.replicas
            ));
        }
        if self.srv.is_none() && others + 1 < expect as usize {
            warnings.push(format!(
                "`cluster.bootstrap_expect` is {expect}, and `cluster.peers` names {others} other nodes: \
                 the others must name this one, or the cluster does not form"
            ));
        }
        if self.peer_advertise.rsplit_once(':').is_some_and(|(_, port)| port == "0") {
            warnings.push(format!(
                "`cluster.peer_advertise` is {}, and nobody reaches port 0",
                self.peer_advertise
            ));
        }
        warnings
    }
}

/// By its letters; whether it is there is seen when it is asked for.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(is_part)
    };
    // `_railgun._udp.` comes in front.
    name.len() <= 239 && name.strip_suffix('.').unwrap_or(name).split('.').all(is_label)
}

fn check_addresses(key: &'static str, addresses: &[String]) -> Result<(), SettingsError> {
    if addresses.is_empty() {
        return Ok(());
    }
    let options = ClientOptions { servers: addresses.to_vec(), ..ClientOptions::new("") };
    match options.check_servers() {
        Err(ConnectError::InvalidServer { server }) => {
            Err(SettingsError::NoAddress { key, address: server })
        }
        _ => Ok(()),
    }
}
