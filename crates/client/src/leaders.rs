//! Owns the sessions that lead straight to nodes which servers have named as leaders (CL-4), beside the one of
//! the link: at most one for a node, made when somebody wants it, closed when nobody does. Inputs: who wants
//! which node, the fate of each connection. Output: a watched state for each node. Never: decides who goes where.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_proto::v1;
use railgun_types::ClusterUid;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::{Backoff, Randomness};
use crate::dial::Dial;
use crate::link::silence;
use crate::options::{ClientOptions, host_and_port};
use crate::session::{ControlStream, LEADERLESS_LEADER_MAX, Session};

/// Nodes that a client has sessions with, or tries to, beside that of its link.
const NODES_MAX: usize = 64;
/// Addresses of one name that are tried, one after the other.
const ADDRESSES_MAX: usize = 4;
/// How long a session that nobody uses is kept.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// A session, or a stay with a leader, that was this long is no sign that the next one will be short.
const CALM: Duration = Duration::from_secs(60);

/// A node that leads, and where it takes clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedAt {
    /// As its Welcome says.
    pub(crate) node: u32,
    pub(crate) address: String,
}

impl LedAt {
    /// `None`: nobody can go there.
    pub(crate) fn of(hint: v1::LeaderHint) -> Option<Self> {
        let v1::LeaderHint { node_id: node, address, .. } = hint;
        (node != 0 && host_and_port(&address).is_some()).then_some(Self { node, address })
    }
}

/// A session with a node, which is kept for as long as this lives.
#[derive(Debug)]
pub(crate) struct Direct {
    pub(crate) session: Arc<Session>,
    _node: watch::Receiver<NodeState>,
}

/// When somebody may follow a leader again: soon at first, more and more seldom where leads move, or sessions
/// with leaders fail, one after the other.
#[derive(Debug)]
pub(crate) struct Pace {
    backoff: Backoff,
    not_before: Instant,
    last: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { backoff: Backoff::of_moves(), not_before: now, last: now }
    }

    /// It went to another server, or came back, or would have.
    pub(crate) fn moved(&mut self, randomness: &Randomness) {
        if self.last.elapsed() >= CALM {
            self.backoff.reset();
        }
        self.last = Instant::now();
        self.not_before = self.last + self.backoff.next(randomness.next());
    }

    /// Waits for the next turn; a moment in any case, so that not everybody who was told of a leader comes
    /// there at the same time, and nobody who is about to leave anyway. A relay is no reason to be in a hurry.
    pub(crate) async fn turn(&self, randomness: &Randomness) {
        let moment = Duration::from_millis(100 + randomness.next() % 400);
        tokio::time::sleep_until(self.not_before.max(Instant::now() + moment)).await;
    }
}

#[derive(Clone, Debug)]
enum NodeState {
    /// No session, or not for long.
    Away,
    Up(Arc<Session>),
}

#[derive(Debug)]
struct Node {
    address: String,
    state: watch::Sender<NodeState>,
}

type Nodes = watch::Sender<BTreeMap<u32, Arc<Node>>>;

/// See the module. Dropping it closes the sessions.
#[derive(Debug)]
pub(crate) struct Leaders {
    nodes: Nodes,
    way: Arc<Way>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// How sessions are made.
#[derive(Debug)]
struct Way {
    dial: Arc<dyn Dial>,
    options: Arc<ClientOptions>,
    randomness: Arc<Randomness>,
    cluster_uid: ClusterUid,
}

impl Leaders {
    pub(crate) fn new(
        dial: Arc<dyn Dial>,
        options: Arc<ClientOptions>,
        randomness: Arc<Randomness>,
        cluster_uid: ClusterUid,
    ) -> Self {
        let (nodes, stop) = (watch::Sender::default(), CancellationToken::new());
        let way = Arc::new(Way { dial, options, randomness, cluster_uid });
        Self { nodes, way, _stop_on_drop: stop.clone().drop_guard(), stop }
    }

    /// A session with the node, however long it takes: for ever, where it cannot be reached. Cancel-safe.
    pub(crate) async fn reach(&self, at: &LedAt) -> Direct {
        let Some(mut node) = self.node(at) else { return std::future::pending().await };
        let up = |state: &NodeState| match state {
            NodeState::Up(session) => !session.going_away.is_cancelled(),
            NodeState::Away => false,
        };
        let session = match node.wait_for(up).await.map(|state| state.clone()) {
            Ok(NodeState::Up(session)) => session,
            // The client is closed.
            _ => return std::future::pending().await,
        };
        Direct { session, _node: node }
    }

    /// Closes the sessions.
    pub(crate) fn close(&self) {
        self.stop.cancel();
        for node in self.nodes.borrow().values() {
            if let NodeState::Up(session) = &*node.state.borrow() {
                session.connection.close(None, "");
            }
        }
    }

    /// `None`: there are too many.
    fn node(&self, at: &LedAt) -> Option<watch::Receiver<NodeState>> {
        let (mut found, mut new) = (None, None);
        // Nobody waits for this, and nobody leaves meanwhile.
        self.nodes.send_if_modified(|nodes| {
            let known = nodes.get(&at.node);
            if let Some(node) = known.filter(|node| node.address == at.address) {
                found = Some(node.state.subscribe());
            } else if known.is_some() || nodes.len() < NODES_MAX {
                let (state, watch) = watch::channel(NodeState::Away);
                let node = Arc::new(Node { address: at.address.clone(), state });
                found = Some(watch);
                nodes.insert(at.node, Arc::clone(&node));
                new = Some(node);
            }
            false
        });
        if let Some(node) = new {
            let (nodes, way) = (self.nodes.clone(), Arc::clone(&self.way));
            let keeper = Keeper { number: at.node, node, nodes, way, stop: self.stop.clone() };
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(keeper.run()));
        }
        found
    }
}

/// Keeps the session with one node.
struct Keeper {
    number: u32,
    node: Arc<Node>,
    nodes: Nodes,
    way: Arc<Way>,
    stop: CancellationToken,
}

impl Keeper {
    async fn run(self) {
        let mut backoff = Backoff::of_nodes();
        loop {
            if let Some((session, control)) = self.connect().await {
                let (session, began) = (Arc::new(session), Instant::now());
                let serving = Arc::clone(&session);
                let serve = async move { control.run(&serving).await };
                tokio::spawn(self.stop.clone().run_until_cancelled_owned(serve));
                self.node.state.send_replace(NodeState::Up(Arc::clone(&session)));
                tokio::select! {
                    biased;
                    _ = session.connection.closed() => {}
                    // Who uses it still gets its answers.
                    () = session.going_away.cancelled() => {}
                    _ = silence(&*self.way.dial, &session) => {
                        tracing::debug!(server = %session.target, "the leader owes an answer and is silent");
                        session.connection.close(None, "no answer");
                    }
                    () = self.idle() => return session.connection.close(None, ""),
                }
                self.node.state.send_replace(NodeState::Away);
                if began.elapsed() >= CALM {
                    backoff.reset();
                }
            }
            tokio::time::sleep(backoff.next(self.way.randomness.next())).await;
            if self.leave() {
                return;
            }
        }
    }

    /// Resolves when nobody has wanted the session for a while, and nobody can have it any more.
    async fn idle(&self) {
        loop {
            self.node.state.closed().await;
            tokio::time::sleep(IDLE_TIME).await;
            if self.leave() {
                return;
            }
        }
    }

    /// Whether nobody wants the node: then whoever wants it next begins anew.
    fn leave(&self) -> bool {
        let mut leaves = false;
        self.nodes.send_if_modified(|nodes| {
            leaves = self.node.state.receiver_count() == 0;
            if leaves && nodes.get(&self.number).is_some_and(|node| Arc::ptr_eq(node, &self.node)) {
                nodes.remove(&self.number);
            }
            false
        });
        leaves
    }

    /// `None`: the node is not to be reached from here.
    async fn connect(&self) -> Option<(Session, ControlStream)> {
        let Way { dial, options, cluster_uid, .. } = &*self.way;
        let (node, address) = (self.number, &self.node.address);
        let targets = dial.resolve(address).await;
        let targets = targets.inspect_err(|error| {
            tracing::debug!(node, %error, "the leader is not found");
        });
        for target in targets.ok()?.into_iter().take(ADDRESSES_MAX) {
            match Session::begin(&**dial, target.clone(), options, 0).await {
                // An address may mean another host here than there.
                Ok((mut session, control))
                    if session.cluster_uid == *cluster_uid && session.node_id == node =>
                {
                    tracing::debug!(node, server = %target, "connected to the leader");
                    session.leaderless_max = Some(LEADERLESS_LEADER_MAX);
                    return Some((session, control));
                }
                Ok((session, _)) => {
                    tracing::debug!(node, server = %target, "somebody else is where the leader is to be");
                    session.connection.close(None, "");
                }
                Err(error) => tracing::debug!(node, %error, "the leader is not reached"),
            }
        }
        None
    }
}
