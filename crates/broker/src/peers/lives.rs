//! Which process each node's identity belongs to (CL-2). A data directory that was copied, and that runs
//! twice, is one identity in two processes: the later one is refused while the first lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_types::{ErrorCode, NodeUid};
use tokio::sync::watch;
use tokio::time::timeout;

use super::dial::Dialler;

/// How long the process that was known first has to show that it lives.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes that are remembered. All have shown a certificate of the cluster.
const LIVES_MAX: usize = 1_024;

/// The processes that peers run as. Cheap to clone; all clones know the same.
#[derive(Clone, Debug)]
pub(crate) struct Lives {
    known: Arc<watch::Sender<BTreeMap<NodeUid, Life>>>,
    dialler: Dialler,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Life {
    process: Bytes,
    address: String,
}

impl Lives {
    pub(crate) fn new(dialler: Dialler) -> Self {
        Self { known: Arc::new(watch::Sender::new(BTreeMap::new())), dialler }
    }

    /// Hears of a process. Where another one was known of the same node, that one is looked for: who
    /// was restarted is not there any more, or is this one.
    ///
    /// # Errors
    /// The other one lives.
    pub(super) async fn admit(&self, from: &v1::NodeAbout) -> Result<(), NotWelcome> {
        // Who only looks does not say who it is.
        let Ok(uid) = NodeUid::from_wire("uid", &from.uid) else { return Ok(()) };
        let life = Life { process: from.process.clone(), address: from.peer_address.clone() };
        let known = self.known.borrow().get(&uid).cloned();
        if let Some(known) = known.filter(|known| known.process != life.process) {
            let look = timeout(LOOK_TIMEOUT, self.dialler.look(&known.address)).await;
            let there = look.ok().and_then(Result::ok);
            if there.is_some_and(|it| it.uid == from.uid && it.process == known.process) {
                return Err(NotWelcome::double(&from.peer_address, known.address));
            }
        }
        self.known.send_if_modified(|lives| {
            if lives.get(&uid) != Some(&life) {
                while lives.len() >= LIVES_MAX && lives.pop_first().is_some() {}
                lives.insert(uid, life);
            }
            false
        });
        Ok(())
    }
}

/// Why a peer is not let in.
#[derive(Clone, Debug)]
pub(super) struct NotWelcome {
    pub(super) error: WireError,
    /// Where the process is that is the same node.
    pub(super) elsewhere: Option<String>,
}

impl From<WireError> for NotWelcome {
    fn from(error: WireError) -> Self {
        Self { error, elsewhere: None }
    }
}

impl NotWelcome {
    /// Two processes are one node.
    pub(super) fn double(later: &str, first: String) -> Self {
        let message = format!(
            "the node at {later} is one that runs at {first} already: was its data directory copied? \
             Start it with an empty one"
        );
        let error = WireError::new(ErrorCode::NodeIdentityConflict, message);
        Self { error, elsewhere: Some(first) }
    }
}
