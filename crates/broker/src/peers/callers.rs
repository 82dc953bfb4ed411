//! Nodes of the cluster that have called, and where they say that they are: somebody may miss them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_proto::v1;
use railgun_types::NodeId;
use railgun_types::limits::{NODE_ADDRESS_BYTES, NODES};
use tokio::sync::watch;
use tokio::time::Instant;

/// Whoever runs calls again before this is over.
const NEWS_LAST: Duration = Duration::from_secs(5);

/// See the module. Cheap to clone; all clones know the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Callers {
    known: Arc<watch::Sender<BTreeMap<NodeId, (String, Instant)>>>,
}

impl Callers {
    /// Hears of a node, which counts if it is of the same cluster as `own`.
    pub(super) fn note(&self, about: &v1::NodeAbout, own: &v1::NodeAbout) {
        let is_of_cluster = !own.cluster_uid.is_empty() && about.cluster_uid == own.cluster_uid;
        let is_other = about.node_id != 0 && about.node_id != own.node_id;
        if !is_of_cluster || !is_other || about.peer_address.len() > NODE_ADDRESS_BYTES {
            return;
        }
        let now = Instant::now();
        self.known.send_modify(|known| {
            known.retain(|_, (_, at)| now - *at < NEWS_LAST);
            if known.len() < NODES {
                known.insert(NodeId(about.node_id), (about.peer_address.clone(), now));
            }
        });
    }

    /// Where those are that have called of late.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let known = self.known.borrow();
        let fresh = known.values().filter(|(_, at)| at.elapsed() < NEWS_LAST);
        fresh.map(|(address, _)| address.clone()).collect()
    }
}
