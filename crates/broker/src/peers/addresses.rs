//! Where the other nodes of the cluster are reached: as the catalog says, or, of one that is not there,
//! where it was found (CL-1).

use std::collections::BTreeMap;
use std::sync::Arc;

use railgun_core::command::NodeInfo;
use railgun_types::{NodeId, NodeUid};
use tokio::sync::watch;

/// The members of the cluster, as the catalog says; empty while it is not known.
pub(crate) type Listing = Arc<BTreeMap<NodeId, Listed>>;
/// Nodes that were found elsewhere than the catalog says.
pub(crate) type Findings = Arc<BTreeMap<NodeId, Found>>;

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) uid: NodeUid,
    pub(crate) address: String,
}

/// A node that was not where the catalog says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it was not; `None`: that was not known yet. What the catalog says next is newer than this.
    pub(crate) instead_of: Option<String>,
    /// What it has told.
    pub(crate) info: NodeInfo,
}

impl Found {
    fn counts(&self, listed: &str) -> bool {
        self.instead_of.as_ref().is_none_or(|there| there == listed)
    }
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    listing: watch::Receiver<Listing>,
    findings: watch::Receiver<Findings>,
}

impl Addresses {
    pub(crate) fn new(
        listing: watch::Receiver<Listing>,
        findings: watch::Receiver<Findings>,
    ) -> Self {
        Self { listing, findings }
    }

    /// Where a node is reached. `None`: it is no member, as far as this node knows.
    pub(crate) fn of(&self, node: NodeId) -> Option<String> {
        let (listing, findings) = (self.listing.borrow(), self.findings.borrow());
        let found = findings.get(&node);
        match listing.get(&node) {
            Some(Listed { address, .. }) => {
                let found = found.filter(|found| found.counts(address));
                Some(found.map_or(address, |found| &found.info.peer_address).clone())
            }
            None if listing.is_empty() => Some(found?.info.peer_address.clone()),
            None => None,
        }
    }

    /// Whether a node is a member, as far as this node knows.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.listing.borrow().contains_key(&node)
    }

    /// What a member has told that is elsewhere than the catalog says.
    pub(crate) fn found(&self, node: NodeId) -> Option<NodeInfo> {
        let (listing, findings) = (self.listing.borrow(), self.findings.borrow());
        let listed = listing.get(&node)?;
        let found = findings.get(&node).filter(|found| found.counts(&listed.address))?;
        Some(found.info.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_counts_until_the_catalog_says_something_else() {
        let (listing, listing_watch) = watch::channel(Listing::default());
        let (findings, findings_watch) = watch::channel(Findings::default());
        let addresses = Addresses::new(listing_watch, findings_watch);
        let node = NodeId(2);
        assert_eq!(addresses.of(node), None);
        let find = |instead_of: Option<&str>, address: &str| {
            let (peer_address, client_address) = (address.to_owned(), String::new());
            let info =
                NodeInfo { uid: NodeUid([2; 16]), peer_address, client_address, feature_level: 1 };
            let found = Found { instead_of: instead_of.map(str::to_owned), info };
            findings.send_replace(Arc::new(BTreeMap::from([(node, found)])));
        };
        let list = |address: &str| {
            let listed = Listed { uid: NodeUid([2; 16]), address: address.to_owned() };
            listing.send_replace(Arc::new(BTreeMap::from([(node, listed)])));
        };
        find(None, "b:1");
        assert_eq!(addresses.of(node).as_deref(), Some("b:1"), "nothing else is known");
        assert_eq!(addresses.found(node), None, "it is no member yet");
        list("a:1");
        assert_eq!(addresses.of(node).as_deref(), Some("b:1"));
        find(Some("a:1"), "c:1");
        assert_eq!(addresses.of(node).as_deref(), Some("c:1"));
        assert_eq!(addresses.found(node).unwrap().peer_address, "c:1");
        list("d:1");
        assert_eq!(addresses.of(node).as_deref(), Some("d:1"), "it is newer");
        assert_eq!(addresses.found(node), None);
        assert_eq!(addresses.of(NodeId(3)), None, "it is no member");
    }
}
