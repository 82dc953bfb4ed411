//! Finds the members of the cluster that are not where the catalog says (CL-1): they, or all of them, may
//! have been restarted elsewhere, and the catalog learns nothing without a leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use railgun_core::command::NodeInfo;
use railgun_proto::convert::Uid;
use railgun_proto::v1;
use railgun_types::{NodeId, NodeUid};
use tokio::sync::watch;

use crate::discovery::Seeds;
use crate::peers::{Callers, Findings, Found, Listed, Listing};

/// A node of the cluster that has answered, and where it was asked.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) at: String,
    pub(super) about: v1::NodeAbout,
}

/// See the module. Sends nothing itself.
pub(super) struct Whereabouts {
    pub(super) own: NodeId,
    pub(super) seeds: Seeds,
    pub(super) callers: Callers,
    pub(super) listing: watch::Receiver<Listing>,
    pub(super) findings: watch::Sender<Findings>,
    /// Whether so many nodes are missed that no majority is left.
    pub(super) is_cut_off: watch::Sender<bool>,
}

impl Whereabouts {
    /// The other members, each wherever it may be.
    pub(super) fn others(&self) -> Vec<(NodeId, String)> {
        let (listing, findings) = (self.listing.borrow(), self.findings.borrow());
        let listed = listing.iter().map(|(node, listed)| (*node, listed.address.clone()));
        let found = findings.iter().map(|(node, found)| (*node, found.info.peer_address.clone()));
        let found = found.filter(|(node, _)| listing.contains_key(node));
        let all: BTreeSet<_> = listed.chain(found).filter(|(node, _)| *node != self.own).collect();
        all.into_iter().collect()
    }

    /// Whether this node knows who the members are.
    pub(super) fn knows_members(&self) -> bool {
        !self.listing.borrow().is_empty()
    }

    /// Whether this node is known to be the only member.
    pub(super) fn is_alone(&self) -> bool {
        self.knows_members() && self.others().is_empty()
    }

    /// Whether a node is a member, as far as is known.
    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.listing.borrow().contains_key(&node)
    }

    /// Where nodes may be that are missed.
    pub(super) fn elsewhere(&self) -> Vec<String> {
        let mut addresses = self.seeds.now();
        let callers = self.callers.addresses();
        addresses.extend(callers.into_iter().filter(|at| !self.seeds.now().contains(at)));
        addresses
    }

    /// Takes in who has answered of [`Self::others`]. Who is missed.
    pub(super) fn note_others(&self, heard: &[Heard]) -> BTreeSet<NodeId> {
        let listing = Listing::clone(&self.listing.borrow());
        let mut missed = BTreeSet::new();
        self.change(|findings| {
            findings.retain(|node, _| listing.is_empty() || listing.contains_key(node));
            for (&node, listed) in listing.iter().filter(|(node, _)| **node != self.own) {
                let answered: BTreeSet<&str> = heard
                    .iter()
                    .filter(|heard| is_it(node, listed, &heard.about))
                    .map(|heard| heard.at.as_str())
                    .collect();
                // Where both answer, one is a copy: the catalog knows the other.
                if answered.contains(listed.address.as_str()) {
                    findings.remove(&node);
                    continue;
                }
                let found = findings.get_mut(&node);
                match found.filter(|it| answered.contains(it.info.peer_address.as_str())) {
                    Some(found) => found.instead_of = Some(listed.address.clone()),
                    None => drop(missed.insert(node)),
                }
            }
        });
        // Without the own node, half of the others are enough.
        let is_cut_off = listing.is_empty() || missed.len() * 2 > listing.len().saturating_sub(1);
        self.is_cut_off
            .send_if_modified(|known| std::mem::replace(known, is_cut_off) != is_cut_off);
        missed
    }

    /// Takes in who has answered at [`Self::elsewhere`]: those that are missed are there.
    pub(super) fn note_elsewhere(&self, missed: &BTreeSet<NodeId>, heard: &[Heard]) {
        let listing = Listing::clone(&self.listing.borrow());
        self.change(|findings| {
            for Heard { about, .. } in heard {
                let node = NodeId(about.node_id);
                let Some(info) = info(about).filter(|_| node != self.own) else { continue };
                let instead_of = match listing.get(&node) {
                    Some(listed) if !missed.contains(&node) || !is_it(node, listed, about) => {
                        continue;
                    }
                    Some(Listed { address, .. }) if *address == info.peer_address => {
                        findings.remove(&node);
                        continue;
                    }
                    Some(listed) => Some(listed.address.clone()),
                    None if listing.is_empty() => None,
                    None => continue,
                };
                let at = info.peer_address.clone();
                let was = findings.insert(node, Found { instead_of: instead_of.clone(), info });
                if let Some(from) = instead_of
                    && was.is_none_or(|was| was.info.peer_address != at)
                {
                    tracing::info!(%node, from, at, "a node is elsewhere than the catalog says");
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<NodeId, Found>)) {
        self.findings.send_if_modified(|known| {
            let mut findings = BTreeMap::clone(known);
            change(&mut findings);
            let changes = findings != **known;
            *known = Arc::new(findings);
            changes
        });
    }
}

/// Whether it is this node that tells.
fn is_it(node: NodeId, listed: &Listed, about: &v1::NodeAbout) -> bool {
    about.node_id == node.0 && listed.uid.to_wire() == about.uid
}

fn info(about: &v1::NodeAbout) -> Option<NodeInfo> {
    Some(NodeInfo {
        uid: NodeUid::from_wire("uid", &about.uid).ok()?,
        peer_address: about.peer_address.clone(),
        client_address: about.client_address.clone(),
        feature_level: about.feature_level,
    })
}
