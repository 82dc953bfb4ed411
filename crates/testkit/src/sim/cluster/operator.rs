//! An operator at work: has shards led by other nodes, drains nodes and takes that back, removes those that
//! are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_client::{AdminError, Client, ClientOptions, ErrorCode, NodeId, NodeState, ShardId};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::dial::SimDial;
use super::super::random::Random;
use super::super::trace::Trace;
use super::faults::{At, DRAINED, TRANSFER};

/// Who does not get what is asked for asks again after this time.
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// See the module. What it has begun ends with it.
#[derive(Debug)]
pub(super) struct Operator {
    dial: SimDial,
    random: Random,
    trace: Trace,
    /// Who is where.
    nodes: BTreeMap<At, NodeId>,
    /// The last change of a node that was asked for ends those before it.
    changes: JoinSet<()>,
    transfers: JoinSet<()>,
    removals: JoinSet<()>,
}

impl Operator {
    pub(super) fn new(dial: SimDial, random: Random, trace: Trace) -> Self {
        let nodes = BTreeMap::new();
        let [changes, transfers, removals] = [(); 3].map(|()| JoinSet::new());
        Self { dial, random, trace, nodes, changes, transfers, removals }
    }

    pub(super) fn knows(&mut self, at: At, node: NodeId) {
        self.nodes.insert(at, node);
    }

    /// Asks once; the answer matters to nobody.
    pub(super) fn transfer(&mut self, shard: u32, to: At) {
        let Some(&node) = self.nodes.get(&to) else { return };
        let (connecting, trace) = (self.connect(), self.trace.clone());
        self.transfers.spawn(async move {
            let Some(client) = connecting.await else { return };
            let led = client.admin().transfer_leader(ShardId(shard), node).await;
            match led {
                Ok((leader, term)) => {
                    trace.count_fault(TRANSFER);
                    trace.note(format_args!("{leader} leads shard {shard} in term {term}"));
                }
                Err(error) => trace.note(format_args!("shard {shard} is not handed over: {error}")),
            }
        });
    }

    /// Asks until it is so.
    pub(super) fn drain(&mut self, at: At, drains: bool) {
        self.changes.abort_all();
        let Some(&node) = self.nodes.get(&at) else { return };
        let state = if drains { NodeState::Draining } else { NodeState::Active };
        let bringing = self.bring(node, state, Duration::ZERO);
        self.changes.spawn(bringing);
    }

    /// Asks until it is so, from a while on, for the node that was there.
    pub(super) fn remove(&mut self, at: At, after: Duration) {
        let Some(node) = self.nodes.remove(&at) else { return };
        let bringing = self.bring(node, NodeState::Removed, after);
        self.removals.spawn(bringing);
    }

    fn bring(
        &mut self,
        node: NodeId,
        state: NodeState,
        after: Duration,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (dial, seed, trace) = (self.dial.clone(), self.random.bytes(), self.trace.clone());
        async move {
            sleep(after).await;
            while let Err(error) = set_state(&dial, seed, node, state).await {
                trace.note(format_args!("node {node} is not {state:?}: {error:?}"));
                if error.is_some_and(|error| is_gone(&error)) {
                    return;
                }
                sleep(AGAIN_AFTER).await;
            }
            if state == NodeState::Draining {
                trace.count_fault(DRAINED);
            }
            trace.note(format_args!("node {node} is {state:?}"));
        }
    }

    fn connect(&mut self) -> impl Future<Output = Option<Client>> + Send + use<> {
        connect(self.dial.clone(), self.random.bytes())
    }
}

async fn connect(dial: SimDial, seed: [u8; 16]) -> Option<Client> {
    let options = ClientOptions { seed: Some(seed), ..ClientOptions::new(dial.servers()) };
    Client::connect_over(Arc::new(dial), options).await.ok()
}

/// `None`: nobody can be reached.
async fn set_state(
    dial: &SimDial,
    seed: [u8; 16],
    node: NodeId,
    state: NodeState,
) -> Result<(), Option<AdminError>> {
    let client = connect(dial.clone(), seed).await.ok_or(None)?;
    let is_lost = state == NodeState::Removed;
    client.admin().set_node_state(node, state, is_lost).await.map(drop).map_err(Some)
}

/// Whether there is no such node any more.
fn is_gone(error: &AdminError) -> bool {
    matches!(error, AdminError::Refused(error) if error.code == ErrorCode::NodeNotFound)
}
