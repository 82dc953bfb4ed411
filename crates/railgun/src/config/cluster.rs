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
    /// Where it listens for other nodes (UDP).
    pub(crate) peer_listen: SocketAddr,
    /// `host:port` at which other nodes reach it.
    pub(crate) peer_advertise: String,
    /// The authority of the cluster's nodes, a PEM file.
    pub(crate) ca: PathBuf,
    /// This node's certificate of it, which clients are shown too, and its key: PEM files.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Settings {
    /// What makes this node one of several. `None`: it stays alone.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] when it is asked to be one and cannot.
    pub(crate) fn cluster(&self) -> Result<Option<ClusterConfig>, SettingsError> {
        let (expect, peers) = (self.bootstrap_expect.value, &self.peers.value);
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
            && self.peer_advertise.is_none();
        if alone {
            return Ok(None);
        }
        if expect > 1 && peers.is_empty() {
            return Err(SettingsError::NoPeers { expect });
        }
        check_addresses("cluster.peers", peers)?;
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
            peer_listen,
            peer_advertise,
            ca,
            cert,
            key,
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
        if others + 1 < expect as usize {
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
