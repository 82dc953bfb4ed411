//! What goes wrong in a round, and for how long.

use std::fmt;
use std::fs;
use std::time::Duration;

use railgun_client::{Client, NodeState, ShardId};
use railgun_testkit::sim::Random;

use crate::LOOK_EVERY;
use crate::cluster::{Cluster, NODES, SHARDS};
use crate::harm::{Harm, Refusal, To};
use crate::kind::{Kind, LinkKind};
use crate::links::{Lan, Links};
use crate::relay::{Relay, Way};

/// How long calls to the cluster may take while nothing else is wrong.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// Between two transfers of a lead.
const TRANSFER_EVERY: Duration = Duration::from_secs(1);
/// What a network that is no good does.
const LOST_PERCENT: u64 = 5;
const LATE_MAX: Duration = Duration::from_millis(40);
/// A link that comes and goes does so as often, and as fast.
const FLAPS: u32 = 10;
const FLAP: Duration = Duration::from_millis(200);

/// A fault, with all that is drawn about it. Nodes are told by their index.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// SIGKILL, and another life after a while.
    Kill { node: usize, down: Duration },
    /// SIGSTOP, and SIGCONT after a while.
    Pause { node: usize, time: Duration },
    /// SIGKILL of all at once.
    KillAll { down: [Duration; NODES] },
    /// Between one node and both others, nothing comes in, or goes out, or both.
    Cut { node: usize, into: bool, out: bool, time: Duration },
    /// Everything between nodes is lost at times, and late.
    Rough { time: Duration },
    /// The lead of a shard goes from node to node.
    Transfer { shard: u32, times: u64 },
    /// A node gives up its leads, and takes some again.
    Drain { node: usize },
    /// The last node's disk has no byte of room.
    FullDisk { time: Duration },
    /// All of this, for so long, and again after as long, so many times.
    Harmed { harms: Vec<Harm>, time: Duration, times: u32 },
    /// A node is killed, and its next life begins without a link to other nodes.
    StartAlone { node: usize, time: Duration },
}

impl Fault {
    /// Draws what is to be drawn about a kind, which can be here.
    pub(crate) async fn draw(kind: Kind, cluster: &Cluster, random: &mut Random) -> Self {
        let mut ms = |range| Duration::from_millis(random.within(range));
        let (down, time, rough) = (ms(0..5_000), ms(1_000..8_000), ms(3_000..6_000));
        let downs = [down, ms(0..5_000), ms(0..5_000)];
        let node = random.below(NODES as u64) as usize;
        // One that publishers need.
        let shard = random.within(1..u64::from(SHARDS) + 1) as u32;
        let into = random.percent(50);
        match kind {
            Kind::KillLeader => Self::Kill { node: leader(cluster, shard).await, down },
            Kind::KillCatalogLeader => {
                let node = leader(cluster, ShardId::CATALOG.0).await;
                Self::Kill { node, down }
            }
            Kind::KillNode => Self::Kill { node, down },
            Kind::Pause => Self::Pause { node, time },
            Kind::PauseLeader => Self::Pause { node: leader(cluster, shard).await, time },
            Kind::KillAll => Self::KillAll { down: downs },
            Kind::Cut => Self::Cut { node, into: true, out: true, time },
            Kind::CutOneWay => Self::Cut { node, into, out: !into, time },
            Kind::Rough => Self::Rough { time: rough },
            Kind::Transfer => Self::Transfer { shard, times: 3 },
            Kind::Drain => Self::Drain { node },
            Kind::FullDisk => Self::FullDisk { time },
            Kind::Links(kind) => Self::of_links(kind, node, time, random),
        }
    }

    /// About this node, for so long.
    fn of_links(kind: LinkKind, node: usize, time: Duration, random: &mut Random) -> Self {
        let (other, lan) = ((node + 1 + random.below(2) as usize) % NODES, Lan::Peers);
        let down = Harm::Down { lan, node };
        let refusal = *random.pick(&Refusal::ALL);
        let no_route = |to| Harm::NoRoute { from: node, to, refusal };
        let harms = match kind {
            LinkKind::StartAlone => return Self::StartAlone { node, time },
            LinkKind::Flapping => {
                return Self::Harmed { harms: vec![down], time: FLAP, times: FLAPS };
            }
            LinkKind::Down => vec![down],
            LinkKind::Alone => vec![down, Harm::Down { lan: Lan::Clients, node }],
            LinkKind::Unplugged => vec![Harm::Unplugged { lan, node }],
            LinkKind::AddressLost => vec![Harm::AddressLost { lan, node }],
            LinkKind::NoRoute if random.percent(50) => vec![no_route(To::Node(other))],
            LinkKind::NoRoute => {
                let others = (0..NODES).filter(|other| *other != node);
                others.map(|other| no_route(To::Node(other))).collect()
            }
            LinkKind::Apart => vec![Harm::Apart { one: node, other }],
            LinkKind::SwitchOff => vec![Harm::SwitchOff { lan }],
            LinkKind::Narrow => vec![Harm::Narrow { lan: *random.pick(&Lan::ALL), node }],
            LinkKind::ClientsCut => {
                let lan = Lan::Clients;
                let cuts = [
                    Harm::Down { lan, node },
                    Harm::Unplugged { lan, node },
                    Harm::AddressLost { lan, node },
                    no_route(To::Clients),
                ];
                vec![*random.pick(&cuts)]
            }
        };
        Self::Harmed { harms, time, times: 1 }
    }

    /// Lets it happen. Afterwards all nodes run, and nothing is wrong any more.
    pub(crate) async fn happen(self, cluster: &mut Cluster) -> Result<(), String> {
        // Sleeps are how long a fault lasts; nothing is waited for by them.
        match self {
            Self::Kill { node, down } => {
                cluster.kill(node);
                tokio::time::sleep(down).await;
                cluster.spawn(node);
            }
            Self::Pause { node, time } => {
                cluster.pause(node);
                tokio::time::sleep(time).await;
                cluster.go_on(node);
            }
            Self::KillAll { down } => {
                (0..NODES).for_each(|node| cluster.kill(node));
                let mut order: Vec<_> = (0..NODES).collect();
                order.sort_by_key(|node| down[*node]);
                let mut since = Duration::ZERO;
                for node in order {
                    tokio::time::sleep(down[node] - since).await;
                    since = down[node];
                    cluster.spawn(node);
                }
            }
            Self::Cut { node, into, out, time } => {
                let relay = relay(cluster);
                for other in (0..NODES).filter(|other| *other != node) {
                    if into {
                        relay.set(other, node, Way::CLOSED);
                    }
                    if out {
                        relay.set(node, other, Way::CLOSED);
                    }
                }
                tokio::time::sleep(time).await;
                relay.heal();
            }
            Self::Rough { time } => {
                let way = Way { lost_percent: LOST_PERCENT, late_max: LATE_MAX };
                let relay = relay(cluster);
                for from in 0..NODES {
                    (0..NODES).for_each(|to| relay.set(from, to, way));
                }
                tokio::time::sleep(time).await;
                relay.heal();
            }
            Self::Transfer { shard, times } => {
                for _ in 0..times {
                    transfer(cluster, shard).await?;
                    tokio::time::sleep(TRANSFER_EVERY).await;
                }
            }
            Self::Drain { node } => drain(cluster, node).await?,
            Self::FullDisk { time } => {
                let disk = cluster.disk().expect("of a kind only where there is one");
                tokio::task::block_in_place(|| disk.fill());
                tokio::time::sleep(time).await;
                fs::remove_file(disk.path().join("filler")).expect("it filled the disk");
            }
            Self::Harmed { harms, time, times } => {
                for again in 0..times {
                    if again > 0 {
                        tokio::time::sleep(time).await;
                    }
                    harm(cluster, &harms);
                    tokio::time::sleep(time).await;
                    mend(cluster, &harms);
                }
            }
            Self::StartAlone { node, time } => {
                let harms = [Harm::Down { lan: Lan::Peers, node }];
                cluster.kill(node);
                harm(cluster, &harms);
                cluster.spawn(node);
                tokio::time::sleep(time).await;
                mend(cluster, &harms);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { node, down } => write!(f, "node {} is killed for {down:?}", node + 1),
            Self::Pause { node, time } => write!(f, "node {} stands still for {time:?}", node + 1),
            Self::KillAll { down } => write!(f, "all nodes are killed, for {down:?}"),
            Self::Cut { node, into, out, time } => {
                let way = match (*into, *out) {
                    (true, true) => "to or from",
                    (true, false) => "to",
                    _ => "from",
                };
                write!(f, "nothing gets {way} node {} for {time:?}", node + 1)
            }
            Self::Rough { time } => write!(f, "datagrams are lost and late for {time:?}"),
            Self::Transfer { shard, times } => {
                write!(f, "the lead of shard {shard} moves {times} times")
            }
            Self::Drain { node } => write!(f, "node {} is drained", node + 1),
            Self::FullDisk { time } => write!(f, "the disk of node {NODES} is full for {time:?}"),
            Self::Harmed { harms, time, times } => {
                let harms: Vec<_> = harms.iter().map(ToString::to_string).collect();
                write!(f, "{}, {times} times for {time:?}", harms.join(", "))
            }
            Self::StartAlone { node, time } => {
                write!(f, "node {} starts anew, without others for {time:?}", node + 1)
            }
        }
    }
}

const ALL: [usize; NODES] = [0, 1, 2];

fn harm(cluster: &Cluster, harms: &[Harm]) {
    tokio::task::block_in_place(|| harms.iter().for_each(|harm| links(cluster).harm(*harm)));
}

fn mend(cluster: &Cluster, harms: &[Harm]) {
    tokio::task::block_in_place(|| harms.iter().for_each(|harm| links(cluster).mend(*harm)));
}

fn relay(cluster: &Cluster) -> &Relay {
    cluster.network.relay().expect("drawn only where there is one")
}

fn links(cluster: &Cluster) -> &Links {
    cluster.network.links().expect("drawn only where there are some")
}

/// The node that leads a shard, as soon as one does.
async fn leader(cluster: &Cluster, shard: u32) -> usize {
    let leading = async {
        loop {
            let status = cluster.status(&ALL, CALL_LIMIT).await;
            let it = status.shards.iter().find(|it| it.shard == ShardId(shard));
            let leader = it.and_then(|it| it.leader).map(|replica| replica.node());
            if let Some(node) = leader.and_then(|id| cluster.index_of(&status, id)) {
                return node;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let leading = tokio::time::timeout(CALL_LIMIT, leading).await;
    leading.unwrap_or_else(|_| panic!("nobody leads shard {shard}"))
}

/// From the node that leads to the next, by the command for it.
async fn transfer(cluster: &Cluster, shard: u32) -> Result<(), String> {
    let next = (leader(cluster, shard).await + 1) % NODES;
    let status = cluster.status(&ALL, CALL_LIMIT).await;
    let id = cluster.id_of(&status, next).ok_or("the node has no number")?;
    let (shard, id) = (shard.to_string(), id.to_string());
    let moved = cluster.command(&["cluster", "transfer-leader", &shard, &id]).await;
    moved.map_err(|error| format!("the lead of shard {shard} was not moved to node {id}: {error}"))
}

/// Until the node leads nothing; then it may again. Three replicas have nowhere to go among two nodes.
async fn drain(cluster: &Cluster, node: usize) -> Result<(), String> {
    let client = cluster.client(&ALL, CALL_LIMIT).await;
    let status = cluster.status(&ALL, CALL_LIMIT).await;
    let id = cluster.id_of(&status, node).ok_or("the node has no number")?;
    let draining = async {
        client.admin().set_node_state(id, NodeState::Draining, false).await?;
        while leads(&client, id).await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        client.admin().set_node_state(id, NodeState::Active, false).await
    };
    match tokio::time::timeout(CALL_LIMIT, draining).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("node {id} was not drained: {error}")),
        Err(_) => return Err(format!("node {id} still leads after {CALL_LIMIT:?} of draining")),
    }
    client.close().await;
    Ok(())
}

/// Whether a node leads anything, or that is not known.
async fn leads(client: &Client, id: railgun_client::NodeId) -> bool {
    let Ok(status) = client.admin().cluster_status().await else { return true };
    status.shards.iter().any(|shard| shard.leader.is_none_or(|leader| leader.node() == id))
}
