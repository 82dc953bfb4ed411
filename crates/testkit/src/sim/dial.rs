//! How simulated clients reach whichever life of the node listens now.

use std::net::SocketAddr;

use railgun_client::{ConnectError, Dial, Dialling, Target};
use railgun_net::memory::MemoryNetwork;

use super::shared::Shared;

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct SimDial {
    network: MemoryNetwork,
    listens: Shared<SocketAddr>,
}

impl SimDial {
    pub(super) fn new(network: MemoryNetwork) -> Self {
        Self { network, listens: Shared::new(([127, 0, 0, 1], 1).into()) }
    }

    pub(super) fn network(&self) -> &MemoryNetwork {
        &self.network
    }

    /// Another life listens.
    pub(super) fn set(&self, addr: SocketAddr) {
        self.listens.with(|listens| *listens = addr);
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.listens.with(|listens| *listens)
    }
}

impl Dial for SimDial {
    fn dial<'a>(&'a self, _: &'a Target) -> Dialling<'a> {
        Box::pin(async {
            let connected = self.network.connect(self.addr()).await;
            connected.map_err(ConnectError::from)
        })
    }
}
