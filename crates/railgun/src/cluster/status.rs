//! `railgun cluster status`: nodes, shards and who leads.

use std::fmt::Write as _;

use railgun_client::{
    Client, ClusterStatus, DrainProgress, NodeState, NodeStatus, ReplicaId, ReplicaStatus,
    ShardStatus,
};
use serde_json::{Value, json};

use super::listed;
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::table::{Table, print, to_json};

/// Prints what the server knows. Fails where a shard cannot serve.
pub(super) async fn status(client: &Client, as_json: bool) -> CommandResult {
    let status = client.admin().cluster_status().await;
    let status = status.map_err(|error| explain::admin(&error, None))?;
    print(&if as_json { to_json(&json(&status)) } else { text(&status) })?;
    health(&status)
}

/// Fails, with what to do about it, if a shard has no leader or has lost its majority.
fn health(status: &ClusterStatus) -> CommandResult {
    let ill = |is_ill: fn(&ShardStatus) -> bool| -> Vec<String> {
        let shards = status.shards.iter().filter(|shard| is_ill(shard));
        shards.map(|shard| shard.shard.to_string()).collect()
    };
    let without_majority = ill(|shard| !shard.has_majority);
    let without_leader = ill(|shard| shard.has_majority && shard.leader.is_none());
    let silent = || listed(status.nodes.iter().filter(|it| !it.reachable).map(|it| it.node));
    if !without_majority.is_empty() {
        let what =
            format!("no majority of the voters answers: shards {}", listed(without_majority));
        return Err(Failure::new(Exit::Unavailable, what).next(format!(
            "start what does not answer again, or mend the network: nodes {}",
            silent()
        )));
    }
    if !without_leader.is_empty() {
        let what = format!("there is no leader: shards {}", listed(without_leader));
        return Err(Failure::new(Exit::Unavailable, what)
            .next("the same again: an election takes a second; then look into the nodes' logs"));
    }
    Ok(())
}

fn text(status: &ClusterStatus) -> String {
    let ClusterStatus { cluster, feature_level, data_shards, replicas, .. } = status;
    let mut text = format!(
        "cluster {cluster}, feature level {feature_level}, {data_shards} data shards of {replicas} \
         replicas, hot budget {} bytes; as node {} knows\n\n",
        status.hot_bytes_max, status.answered_by
    );
    let mut nodes = Table::new(&["node", "state", "heard", "peers", "clients", "level"]);
    for node in &status.nodes {
        nodes.row([
            Value::from(node.node.0),
            state(node).into(),
            heard(node.reachable).into(),
            node.peer_address.clone().into(),
            node.client_address.clone().into(),
            node.feature_level.into(),
        ]);
    }
    text += &nodes.to_text();
    text.push('\n');
    let mut shards = Table::new(&[
        "shard",
        "leader",
        "term",
        "voters",
        "others",
        "placement",
        "committed",
        "not in bucket",
        "health",
    ]);
    for shard in &status.shards {
        let committed = shard.replicas.iter().filter_map(|it| it.committed).max();
        let voters = shard.replicas.iter().filter(|it| it.votes);
        let others = shard.replicas.iter().filter(|it| !it.votes);
        let placement = match shard.settled {
            true => format!("{}", shard.placement_version),
            false => format!("{}, moving", shard.placement_version),
        };
        shards.row([
            Value::from(shard.shard.0),
            shard.leader.map(|it| it.to_string()).into(),
            shard.term.into(),
            replicas_shown(voters, committed).into(),
            Some(replicas_shown(others, committed)).filter(|it| !it.is_empty()).into(),
            placement.into(),
            committed.into(),
            shard.pending_log_bytes.into(),
            condition(shard).into(),
        ]);
    }
    text += &shards.to_text();
    for node in status.nodes.iter().filter(|node| node.state == NodeState::Draining) {
        if let Some(drain) = &node.drain {
            let left = super::nodes::left(drain);
            writeln!(text, "\nnode {} is being drained: {left}", node.node).unwrap_or_default();
        }
    }
    text
}

/// Replicas as node and incarnation, and how many entries each is behind in its state.
fn replicas_shown<'a>(
    replicas: impl Iterator<Item = &'a ReplicaStatus>,
    committed: Option<u64>,
) -> String {
    let shown = |it: &ReplicaStatus| {
        let behind = committed.zip(it.applied).map(|(to, at)| to.saturating_sub(at));
        let note = match (it.reachable, it.wanted, behind) {
            (false, _, _) => "?".to_owned(),
            (true, false, _) => " leaving".to_owned(),
            (true, true, Some(1..)) => format!("-{}", behind.unwrap_or_default()),
            (true, true, _) => String::new(),
        };
        format!("{}{note}", it.replica)
    };
    replicas.map(shown).collect::<Vec<_>>().join(" ")
}

fn state(node: &NodeStatus) -> &'static str {
    match node.state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Removed => "removed",
    }
}

fn heard(reachable: bool) -> &'static str {
    if reachable { "yes" } else { "unknown" }
}

fn condition(shard: &ShardStatus) -> &'static str {
    match shard {
        ShardStatus { has_majority: false, .. } => "no majority",
        ShardStatus { leader: None, .. } => "no leader",
        ShardStatus { under_replicated: true, .. } => "under-replicated",
        _ => "ok",
    }
}

/// The object that `--json` prints. Fields are added, never changed.
fn json(status: &ClusterStatus) -> Value {
    json!({
        "cluster": status.cluster.to_string(),
        "feature_level": status.feature_level,
        "data_shards": status.data_shards,
        "replicas": status.replicas,
        "hot_bytes_max": status.hot_bytes_max,
        "answered_by": status.answered_by.0,
        "available": status.is_available(),
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "shards": status.shards.iter().map(shard_json).collect::<Vec<_>>(),
    })
}

fn node_json(node: &NodeStatus) -> Value {
    json!({
        "node": node.node.0,
        "uid": node.uid.to_string(),
        "state": state(node),
        "reachable": node.reachable,
        "peer_address": node.peer_address,
        "client_address": node.client_address,
        "feature_level": node.feature_level,
        "drain": node.drain.as_ref().map(drain_json),
    })
}

fn drain_json(drain: &DrainProgress) -> Value {
    let numbers = |shards: &[railgun_client::ShardId]| -> Vec<u32> {
        shards.iter().map(|shard| shard.0).collect()
    };
    json!({
        "leads": numbers(&drain.leads),
        "votes": numbers(&drain.votes),
        "stuck": numbers(&drain.stuck),
        "leaving": numbers(&drain.leaving),
        "drained": drain.is_drained,
    })
}

fn shard_json(shard: &ShardStatus) -> Value {
    json!({
        "shard": shard.shard.0,
        "leader": shard.leader.map(replica_json),
        "term": shard.term,
        "placement_version": shard.placement_version,
        "settled": shard.settled,
        "voters_wanted": shard.voters_wanted,
        "under_replicated": shard.under_replicated,
        "has_majority": shard.has_majority,
        "pending_log_bytes": shard.pending_log_bytes,
        "replicas": shard.replicas.iter().map(|it| {
            let mut replica = replica_json(it.replica);
            replica["votes"] = it.votes.into();
            replica["wanted"] = it.wanted.into();
            replica["reachable"] = it.reachable.into();
            replica["committed"] = it.committed.into();
            replica["applied"] = it.applied.into();
            replica
        }).collect::<Vec<_>>(),
    })
}

fn replica_json(replica: ReplicaId) -> Value {
    json!({ "node": replica.node().0, "incarnation": replica.incarnation() })
}

#[cfg(test)]
mod tests {
    use railgun_client::{ClusterUid, NodeId, NodeUid, ShardId};

    use super::*;

    fn replica(node: u32, applied: Option<u64>) -> ReplicaStatus {
        ReplicaStatus {
            replica: ReplicaId::new(NodeId(node), 1),
            votes: true,
            wanted: true,
            reachable: applied.is_some(),
            committed: applied,
            applied,
        }
    }

    fn example() -> ClusterStatus {
        let node = |number: u32, state, reachable| NodeStatus {
            node: NodeId(number),
            uid: NodeUid([number as u8; 16]),
            state,
            peer_address: format!("n{number}:7412"),
            client_address: format!("n{number}:7410"),
            feature_level: 1,
            reachable,
            drain: Some(DrainProgress {
                votes: vec![ShardId(1)],
                stuck: vec![ShardId(1)],
                ..DrainProgress::default()
            }),
        };
        let shard = |number: u32, replicas| ShardStatus {
            shard: ShardId(number),
            placement_version: 3,
            settled: number == 0,
            leader: Some(ReplicaId::new(NodeId(1), 1)),
            term: 4,
            voters_wanted: 3,
            under_replicated: number == 1,
            has_majority: true,
            pending_log_bytes: (number == 1).then_some(4_096),
            replicas,
        };
        let new = ReplicaStatus { votes: false, ..replica(2, Some(9)) };
        ClusterStatus {
            cluster: ClusterUid([0x0a; 16]),
            feature_level: 1,
            data_shards: 1,
            replicas: 3,
            hot_bytes_max: 1_000,
            answered_by: NodeId(1),
            nodes: vec![
                node(1, NodeState::Active, true),
                node(2, NodeState::Draining, true),
                node(3, NodeState::Active, false),
            ],
            shards: vec![
                shard(0, vec![replica(1, Some(7)), replica(2, Some(7)), replica(3, Some(7))]),
                shard(1, vec![replica(1, Some(12)), replica(3, None), new]),
            ],
        }
    }

    #[test]
    fn people_see_what_is_wrong() {
        let expected = "\
cluster 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a, feature level 1, 1 data shards of 3 replicas, hot budget 1000 bytes; as node 1 knows

NODE  STATE     HEARD    PEERS    CLIENTS  LEVEL
   1  active    yes      n1:7412  n1:7410      1
   2  draining  yes      n2:7412  n2:7410      1
   3  active    unknown  n3:7412  n3:7410      1

SHARD  LEADER  TERM  VOTERS       OTHERS  PLACEMENT  COMMITTED  NOT IN BUCKET  HEALTH
    0  1.1        4  1.1 2.1 3.1  -       3                  7  -              ok
    1  1.1        4  1.1 3.1?     2.1-3   3, moving         12  4096           under-replicated

node 2 is being drained: replicas of shards 1 are left; no other active node can take those of 1
";
        assert_eq!(text(&example()), expected);
    }

    #[test]
    fn programs_find_everything_under_its_name() {
        let json = json(&example());
        assert_eq!(json["available"], true);
        assert_eq!(json["nodes"][2]["reachable"], false);
        assert_eq!(json["nodes"][1]["drain"]["stuck"], json!([1]));
        assert_eq!(json["shards"][1]["leader"], json!({ "node": 1, "incarnation": 1 }));
        assert_eq!(json["shards"][0]["pending_log_bytes"], Value::Null);
        assert_eq!(json["shards"][1]["replicas"][1]["applied"], Value::Null);
        assert_eq!(json["shards"][1]["replicas"][2]["votes"], false);
    }

    #[test]
    fn a_cluster_that_cannot_serve_has_an_exit_code_of_its_own() {
        let mut status = example();
        assert_eq!(health(&status), Ok(()), "under-replicated is not lost");
        status.shards[1].leader = None;
        let failure = health(&status).unwrap_err();
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert!(failure.to_string().contains("no leader: shards 1"), "{failure}");
        status.shards[0].has_majority = false;
        let failure = health(&status).unwrap_err().to_string();
        assert!(failure.contains("shards 0") && failure.contains("nodes 3"), "{failure}");
    }
}
