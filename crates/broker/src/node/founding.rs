//! What a new cluster begins with.

use std::collections::BTreeMap;
use std::time::Duration;

use railgun_core::command::{CatalogCommand, ClusterSettings, NodeInfo};
use railgun_types::{NodeId, ReplicaId};

use super::StartError;
use super::keeper::FEATURE_LEVEL;
use crate::catalog::CatalogHandle;
use crate::identity::Founder;
use crate::routing::Routing;

/// How often a founder looks whether it is up to it to write down what the cluster is.
const LOOK_FOR_SETTINGS_EVERY: Duration = Duration::from_millis(100);

/// What the cluster is, as soon as the catalog says so. Whoever of its founders leads writes it down;
/// the first one counts.
pub(super) async fn founded(
    catalog: &CatalogHandle,
    routing: &Routing,
    founding: Option<&CatalogCommand>,
) -> Result<ClusterSettings, StartError> {
    let mut view = catalog.view();
    loop {
        if let Some(settings) = view.borrow_and_update().settings {
            return Ok(settings);
        }
        if let Some(founding) = founding.filter(|_| routing.leads_catalog()) {
            let change = routing.change(founding.clone()).await;
            if routing.others.is_none()
                && let Err(error) = change
            {
                return Err(StartError::Catalog { reason: error.to_string() });
            }
        }
        tokio::select! {
            biased;
            changed = view.changed() => if changed.is_err() {
                let reason = "its owner has ended".to_owned();
                return Err(StartError::Catalog { reason });
            },
            () = tokio::time::sleep(LOOK_FOR_SETTINGS_EVERY) => {}
        }
    }
}

/// The catalog's first members.
pub(super) fn first_members(founders: &[Founder]) -> BTreeMap<ReplicaId, String> {
    let replica = |founder: &Founder| ReplicaId::new(founder.node, 1);
    founders.iter().map(|founder| (replica(founder), founder.peer_address.clone())).collect()
}

pub(super) fn as_founding(founder: &Founder) -> (NodeId, NodeInfo) {
    let info = NodeInfo {
        uid: founder.uid,
        peer_address: founder.peer_address.clone(),
        client_address: founder.client_address.clone(),
        feature_level: FEATURE_LEVEL,
    };
    (founder.node, info)
}
