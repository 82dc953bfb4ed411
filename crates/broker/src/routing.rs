//! Where a shard's leader is, and how it is asked: on this node directly, on another by a relay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use railgun_core::catalog::CatalogOutcome;
use railgun_core::command::{CatalogCommand, CommandBody};
use railgun_core::shard::Outcome;
use railgun_net::peer::PEER_STREAMS_MAX;
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_raft::PeerError;
use railgun_types::{ClusterUid, ErrorCode, NodeId, ShardId};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::actors::Actors;
use crate::builtin_bug::{BuiltinBug, Planted};
use crate::catalog::ChangeFailure;
use crate::on_node::ShardOnNode;
use crate::on_node::{LocalReplica, OnNodeWatch};
use crate::peers::{Addresses, Peers};
use crate::relay::{self, REQUESTS_MAX, Ways};
use crate::replica::ProposeFailure;
use crate::session::GUEST_ADMIN_STREAMS;
use crate::shard::RequestFailure;

/// How long a request looks for a leader that takes it: longer than an election as a rule.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a leader may take to do something: one that is cut off from the others never does.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a read may take to learn what it has to wait for, and to wait.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node with a replica has for an answer before the next one is asked.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Streams of clients that other nodes serve for this one, at a time: half of what a connection between
/// nodes carries.
const CARRIED_MAX: usize = PEER_STREAMS_MAX as usize / 2;
/// The part of them that the subscriptions of one client's connection may take.
pub(crate) const CARRIED_PART: usize = CARRIED_MAX / 8;
/// Seals that other nodes wait for on behalf of this one, which may take an hour each: half of the
/// administrative streams that each of them serves.
const SEALS_MAX: usize = GUEST_ADMIN_STREAMS / 2;

/// Where each shard has its replicas, as the catalog says.
pub(crate) type Placements = Arc<BTreeMap<ShardId, Vec<NodeId>>>;

/// Finds the leader of each shard, or a node that has a replica, and asks it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    pub(crate) own: NodeId,
    pub(crate) cluster: ClusterUid,
    pub(crate) on_node: OnNodeWatch,
    pub(crate) actors: Actors,
    /// Of a node that is not alone.
    pub(crate) others: Option<Others>,
    pub(crate) planted: Planted,
}

/// The way to other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Others {
    pub(crate) peers: Peers,
    pub(crate) addresses: Addresses,
    pub(crate) placements: watch::Receiver<Placements>,
    /// Of shards that have no replica here: the node to ask first, as those before it did not answer or did
    /// not lead. A hint.
    first: watch::Sender<BTreeMap<ShardId, NodeId>>,
    /// Places for streams of clients that others serve.
    pub(crate) carried: Arc<Semaphore>,
    /// Among these, places for seals.
    pub(crate) seals: Arc<Semaphore>,
    /// Places for requests that others answer.
    pub(crate) requests: Arc<Semaphore>,
    /// What relays share.
    pub(crate) ways: Ways,
}

impl Others {
    pub(crate) fn new(
        peers: Peers,
        addresses: Addresses,
        placements: watch::Receiver<Placements>,
    ) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            peers,
            addresses,
            placements,
            first: watch::Sender::default(),
            carried: places(CARRIED_MAX),
            seals: places(SEALS_MAX),
            requests: places(REQUESTS_MAX),
            ways: Ways::default(),
        }
    }

    /// Follows which nodes are asked first about shards that are not here.
    pub(crate) fn guesses(&self) -> watch::Receiver<BTreeMap<ShardId, NodeId>> {
        self.first.subscribe()
    }

    /// The node to ask about a shard that is not here: the first one, or so many behind it in their circle.
    pub(crate) fn holder(&self, shard: ShardId, own: NodeId, behind: usize) -> Option<NodeId> {
        let placements = self.placements.borrow();
        let nodes = placements.get(&shard)?.iter().copied();
        let nodes = nodes.filter(|node| *node != own && self.addresses.knows(*node));
        let first = self.first.borrow().get(&shard).copied();
        let first = first.and_then(|first| nodes.clone().position(|node| node == first));
        nodes.cycle().nth(first.unwrap_or(0) + behind)
    }
}

/// Who leads a shard, as far as this node knows.
#[derive(Debug)]
pub(crate) enum Leader {
    Here(Arc<LocalReplica>),
    At(String),
    Unknown,
}

/// What came of asking a shard's leader.
#[derive(Debug)]
pub(crate) enum AskedLeader<T> {
    /// It is this node.
    Here(Arc<LocalReplica>),
    /// Another's answer.
    Answered(T),
}

/// A read that cannot be as new as it should be: the shard has no leader now, or none that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard has no leader now, or none that answers")]
pub(crate) struct NotCurrent;

impl Routing {
    /// The replica of a data shard on this node.
    pub(crate) fn local(&self, shard: ShardId) -> Option<ShardOnNode> {
        self.on_node.borrow().get(&shard)?.data().cloned()
    }

    /// Every data shard that is on this node.
    pub(crate) fn locals(&self) -> Vec<ShardOnNode> {
        self.on_node.borrow().values().filter_map(|replica| replica.data()).cloned().collect()
    }

    /// Who leads. `attempt` chooses among the nodes that may know, where this one does not.
    pub(crate) fn leader(&self, shard: ShardId, attempt: usize) -> Leader {
        let local = self.on_node.borrow().get(&shard).cloned();
        let Some(local) = local else { return self.somebody(shard, attempt) };
        let state = local.raft.leader().state();
        match state.leader {
            Some(_) if state.serving => Leader::Here(local),
            Some(leader) if leader.node() != self.own => self.at(leader.node()),
            _ => Leader::Unknown,
        }
    }

    /// Whether this node leads the catalog, as far as it knows.
    pub(crate) fn leads_catalog(&self) -> bool {
        matches!(self.leader(ShardId::CATALOG, 0), Leader::Here(_))
    }

    fn at(&self, node: NodeId) -> Leader {
        let address = self.others.as_ref().and_then(|others| others.addresses.of(node));
        address.map_or(Leader::Unknown, Leader::At)
    }

    /// A node with a replica, of a shard that has none here.
    fn somebody(&self, shard: ShardId, attempt: usize) -> Leader {
        let Some(others) = &self.others else { return Leader::Unknown };
        let node = others.holder(shard, self.own, attempt);
        node.map_or(Leader::Unknown, |node| self.at(node))
    }

    /// The node at this address, which was asked first about a shard that is not here, did not answer or does
    /// not lead: from here on another is asked first.
    pub(crate) fn was_wrong(&self, shard: ShardId, address: &str) {
        let Some(others) = &self.others else { return };
        let is_first =
            matches!(self.somebody(shard, 0), Leader::At(first) if first.as_str() == address);
        if is_first && let Some(next) = others.holder(shard, self.own, 1) {
            others.first.send_modify(|first| {
                first.insert(shard, next);
            });
        }
    }

    /// Whichever node is asked first about a shard that is not here could not serve: from here on another is
    /// asked first.
    pub(crate) fn pass_over(&self, shard: ShardId) {
        if let Leader::At(address) = self.somebody(shard, 0) {
            self.was_wrong(shard, &address);
        }
    }

    /// Asks the nodes that have a replica of a shard, which this one does not have, one after the other, until
    /// one answers. `ask` gets the address; what it does may be begun at several.
    ///
    /// # Errors
    /// `Unavailable`: none of them answers.
    pub(crate) async fn ask_holder<T, F>(
        &self,
        shard: ShardId,
        ask: impl Fn(Peers, String) -> F,
    ) -> Result<T, WireError>
    where
        F: Future<Output = Result<T, PeerError>>,
    {
        let patience = Patience::new(self.others.is_some());
        let mut last = "none is known".to_owned();
        loop {
            if let Some(others) = &self.others
                && let Leader::At(address) = self.somebody(shard, 0)
            {
                let asked = timeout(ANSWER_TIMEOUT, ask(others.peers.clone(), address.clone()));
                match asked.await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => last = error.to_string(),
                    Err(_) => last = format!("no answer from {address} within {ANSWER_TIMEOUT:?}"),
                }
                self.was_wrong(shard, &address);
            }
            if !patience.wait().await {
                let message = format!("no node with shard {shard} answers; the last one: {last}");
                return Err(WireError::new(ErrorCode::Unavailable, message));
            }
        }
    }

    /// Asks the node that leads a shard, or says that it is this one. Looks for one for a while where others
    /// may be. `ask` gets the address; what it does may be begun at several.
    ///
    /// # Errors
    /// `Unavailable`: nobody leads it now, or the leader does not answer.
    pub(crate) async fn ask_leader<T, F>(
        &self,
        shard: ShardId,
        ask: impl Fn(Peers, String) -> F,
    ) -> Result<AskedLeader<T>, WireError>
    where
        F: Future<Output = Result<T, PeerError>>,
    {
        let patience = Patience::new(self.others.is_some());
        let mut last = "none is known".to_owned();
        loop {
            match (self.leader(shard, 0), &self.others) {
                (Leader::Here(here), _) => return Ok(AskedLeader::Here(here)),
                (Leader::At(address), Some(others)) => {
                    let asked = timeout(ANSWER_TIMEOUT, ask(others.peers.clone(), address.clone()));
                    match asked.await {
                        Ok(Ok(answer)) => return Ok(AskedLeader::Answered(answer)),
                        Ok(Err(error)) => last = error.to_string(),
                        Err(_) => {
                            last = format!("no answer from {address} within {ANSWER_TIMEOUT:?}");
                        }
                    }
                    self.was_wrong(shard, &address);
                }
                (Leader::At(_) | Leader::Unknown, _) => {}
            }
            if !patience.wait().await {
                let message = format!("no leader of shard {shard} answers; the last one: {last}");
                return Err(WireError::new(ErrorCode::Unavailable, message));
            }
        }
    }

    /// Has the shard's leader do what a client wants. Looks for one for a while where others may be.
    pub(crate) async fn request(
        &self,
        shard: ShardId,
        body: CommandBody,
    ) -> Result<Outcome, RequestFailure> {
        let not_leading = RequestFailure::from(ProposeFailure::NotLeading);
        let ask = || async {
            match self.leader(shard, 0) {
                Leader::Here(here) => match here.data() {
                    Some(data) => self.in_time(data.handle.request(body.clone())).await,
                    None => Err(not_leading),
                },
                Leader::At(address) => {
                    let asked = relay::request(self, &address, shard, body.clone());
                    let result = self.in_time(asked).await;
                    let is_wrong = |failure| {
                        failure == not_leading || failure == ProposeFailure::Unknown.into()
                    };
                    if result.as_ref().is_err_and(|failure| is_wrong(*failure)) {
                        self.was_wrong(shard, &address);
                    }
                    result
                }
                Leader::Unknown => Err(not_leading),
            }
        };
        self.until_led(not_leading, ask).await
    }

    /// Has the catalog's leader make a change. Looks for one for a while where others may be.
    pub(crate) async fn change(
        &self,
        command: CatalogCommand,
    ) -> Result<CatalogOutcome, ChangeFailure> {
        let not_leading = ChangeFailure::from(ProposeFailure::NotLeading);
        let ask = || async {
            match self.leader(ShardId::CATALOG, 0) {
                Leader::Here(here) => match here.catalog() {
                    Some(catalog) => self.in_time(catalog.change(command.clone())).await,
                    None => Err(not_leading),
                },
                Leader::At(address) => {
                    self.in_time(relay::change(self, &address, command.clone())).await
                }
                Leader::Unknown => Err(not_leading),
            }
        };
        self.until_led(not_leading, ask).await
    }

    /// Asks again while nobody leads, for a while where others may.
    async fn until_led<T, E: PartialEq, F>(
        &self,
        not_leading: E,
        ask: impl Fn() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let patience = Patience::new(self.others.is_some());
        loop {
            match ask().await {
                Err(failure) if failure == not_leading => {
                    if !patience.wait().await {
                        return Err(failure);
                    }
                }
                ended => return ended,
            }
        }
    }

    /// What is answered; where others may lead, nobody knows after a while.
    async fn in_time<T, E: From<ProposeFailure>>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if self.others.is_none() {
            return answer.await;
        }
        timeout(ANSWER_PATIENCE, answer).await.unwrap_or(Err(ProposeFailure::Unknown.into()))
    }

    /// Waits until this node's copy of a shard has everything that was committed when this is asked
    /// (CL-4): its leader says up to where that is, and that it still leads.
    ///
    /// # Errors
    /// [`NotCurrent`] where nobody can tell for a while.
    pub(crate) async fn catch_up(&self, shard: ShardId) -> Result<(), NotCurrent> {
        let end = Instant::now() + CATCH_UP_TIMEOUT;
        let caught_up = async {
            let patience = Patience::new(self.others.is_some());
            loop {
                if self.try_catch_up(shard).await.is_ok() {
                    return Ok(());
                }
                if !patience.wait().await {
                    return Err(NotCurrent);
                }
            }
        };
        timeout_at(end, caught_up).await.unwrap_or(Err(NotCurrent))
    }

    async fn try_catch_up(&self, shard: ShardId) -> Result<(), NotCurrent> {
        let local = self.on_node.borrow().get(&shard).cloned().ok_or(NotCurrent)?;
        if self.planted.is(BuiltinBug::StaleRead) {
            return Ok(());
        }
        match self.leader(shard, 0) {
            Leader::Here(here) => here.raft.read_index().await.map(drop).map_err(|_| NotCurrent),
            Leader::At(address) => {
                let others = self.others.as_ref().ok_or(NotCurrent)?;
                let to = self.replica_address(shard);
                let call = v1::peer_call::Call::ReadIndex(to);
                match others.peers.call(&address, call, bytes::Bytes::new()).await {
                    Ok((v1::peer_reply::Answer::ReadIndexIs(entry), _)) => {
                        let applied = local.raft.applied(entry.index).await;
                        applied.map(drop).map_err(|_| NotCurrent)
                    }
                    _ => Err(NotCurrent),
                }
            }
            Leader::Unknown => Err(NotCurrent),
        }
    }

    /// Whichever replica of the shard a node has.
    pub(crate) fn replica_address(&self, shard: ShardId) -> v1::ReplicaAddress {
        v1::ReplicaAddress { cluster_uid: self.cluster.to_wire(), shard: shard.0, replica: 0 }
    }
}

/// How long a leader is looked for.
struct Patience {
    /// `None`: not at all, for there is nobody else who could lead.
    until: Option<Instant>,
}

impl Patience {
    fn new(has_others: bool) -> Self {
        Self { until: has_others.then(|| Instant::now() + LEADER_PATIENCE) }
    }

    /// Waits a moment for the next attempt; `false`: it was long enough.
    async fn wait(&self) -> bool {
        let goes_on = self.until.is_some_and(|until| Instant::now() < until);
        if goes_on {
            sleep(LOOK_EVERY).await;
        }
        goes_on
    }
}
