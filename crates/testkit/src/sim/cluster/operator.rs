//! An operator at work: has shards led by other nodes, drains nodes, and takes that back.

use std::sync::Arc;
use std::time::Duration;

use railgun_client::{AdminError, Client, ClientOptions, NodeId, NodeState, ShardId};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::dial::SimDial;
use super::super::random::Random;
use super::super::trace::Trace;
use super::faults::At;

/// Who does not get what is asked for asks again after this time.
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// See the module. What it has begun ends with it.
#[derive(Debug)]
pub(super) struct Operator {
    dial: SimDial,
    random: Random,
    trace: Trace,
    /// The last change of a node that was asked for ends those before it.
    changes: JoinSet<()>,
    transfers: JoinSet<()>,
}

impl Operator {
    pub(super) fn new(dial: SimDial, random: Random, trace: Trace) -> Self {
        Self { dial, random, trace, changes: JoinSet::new(), transfers: JoinSet::new() }
    }

    /// Asks once; the answer matters to nobody.
    pub(super) fn transfer(&mut self, shard: u32, to: At) {
        let (connecting, trace) = (self.connect(), self.trace.clone());
        self.transfers.spawn(async move {
            let Some(client) = connecting.await else { return };
            let led = client.admin().transfer_leader(ShardId(shard), node(to)).await;
            match led {
                Ok((leader, term)) => {
                    trace.note(format_args!("{leader} leads shard {shard} in term {term}"));
                }
                Err(error) => trace.note(format_args!("shard {shard} is not handed over: {error}")),
            }
        });
    }

    /// Asks until it is so.
    pub(super) fn drain(&mut self, at: At, drains: bool) {
        self.changes.abort_all();
        let state = if drains { NodeState::Draining } else { NodeState::Active };
        let (dial, seed, trace) = (self.dial.clone(), self.random.bytes(), self.trace.clone());
        self.changes.spawn(async move {
            while let Err(error) = set_state(&dial, seed, at, state).await {
                trace.note(format_args!("node {} is not {state:?}: {error:?}", at + 1));
                sleep(AGAIN_AFTER).await;
            }
            trace.note(format_args!("node {} is {state:?}", at + 1));
        });
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
    at: At,
    state: NodeState,
) -> Result<(), Option<AdminError>> {
    let client = connect(dial.clone(), seed).await.ok_or(None)?;
    client.admin().set_node_state(node(at), state, false).await.map(drop).map_err(Some)
}

/// The nodes that found a cluster are numbered from 1.
fn node(at: At) -> NodeId {
    NodeId(at as u32 + 1)
}
