//! `railgun cluster drain | undrain | remove | transfer-leader`.

use std::time::Duration;

use railgun_client::{Client, DrainProgress, NodeId, NodeState, ShardId, ShardStatus};

use super::listed;
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::table::print;

/// How often it is looked how far a drain is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Drains a node, and waits for the end where that is wanted.
pub(super) async fn drain(client: &Client, node: u32, wait: bool) -> CommandResult {
    let node = NodeId(node);
    let mut drain = set(client, node, NodeState::Draining, false).await?.unwrap_or_default();
    let stays: Vec<ShardId> =
        drain.stuck.iter().copied().filter(|shard| *shard != ShardId(0)).collect();
    let no_substitute = format!(
        "node {node}: no other active node can take its replicas of shards {}",
        listed(&stays)
    );
    let what_to_do =
        format!("railgun cluster join-token, for one more node; or railgun cluster undrain {node}");
    if !wait {
        print(&format!("node {node}: draining; {}\n", left(&drain)))?;
        if !stays.is_empty() {
            eprintln!("warning: {no_substitute}\n next: {what_to_do}");
        }
        return Ok(());
    }
    let mut shown = None;
    loop {
        if drain.is_drained && drain.leads.is_empty() {
            let next = "when it is stopped, or before, it can be removed";
            return print(&format!(
                "node {node}: drained; {next}: railgun cluster remove {node}\n"
            ));
        }
        let progress = format!("node {node}: {}", left(&drain));
        if shown.as_ref() != Some(&progress) {
            eprintln!("{progress}");
            shown = Some(progress);
        }
        // What can go is given away first: the node serves on with the rest.
        if drain.is_stuck() && drain.leads.is_empty() {
            return Err(Failure::new(Exit::Failed, no_substitute).next(what_to_do));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        drain = look(client, node).await?.unwrap_or(drain);
    }
}

/// What is on a node, as far as it is known.
async fn look(client: &Client, node: NodeId) -> Result<Option<DrainProgress>, Failure> {
    let status = client.admin().cluster_status().await;
    let status = status.map_err(|error| explain::admin(&error, None))?;
    let gone = |what: &str| {
        let what = format!("node {node} {what}: it is not drained any more");
        Err(Failure::new(Exit::Failed, what).next("railgun cluster status"))
    };
    let leads = |shard: &&ShardStatus| shard.leader.is_some_and(|leader| leader.node() == node);
    let led: Vec<ShardId> = status.shards.iter().filter(leads).map(|it| it.shard).collect();
    match status.nodes.into_iter().find(|it| it.node == node) {
        // Whoever is to lead may not do so yet.
        Some(found) if found.state == NodeState::Draining => Ok(found.drain.map(|mut drain| {
            drain.leads.extend(led);
            drain.leads.sort();
            drain.leads.dedup();
            drain
        })),
        Some(_) => gone("was made active meanwhile"),
        None => gone("was removed meanwhile"),
    }
}

/// Takes a drain back.
pub(super) async fn undrain(client: &Client, node: u32) -> CommandResult {
    set(client, NodeId(node), NodeState::Active, false).await?;
    print(&format!("node {node}: active\n"))
}

/// Removes a node for good.
pub(super) async fn remove(client: &Client, node: u32, force: bool) -> CommandResult {
    set(client, NodeId(node), NodeState::Removed, force).await?;
    print(&format!(
        "node {node}: removed; its data directory cannot join again, and its certificate is to be \
         destroyed\n"
    ))
}

async fn set(
    client: &Client,
    node: NodeId,
    state: NodeState,
    force: bool,
) -> Result<Option<DrainProgress>, Failure> {
    let set = client.admin().set_node_state(node, state, force).await;
    set.map_err(|error| explain::admin(&error, None))
}

/// Has another node lead a shard.
pub(super) async fn transfer_leader(client: &Client, shard: u32, node: u32) -> CommandResult {
    let led = client.admin().transfer_leader(ShardId(shard), NodeId(node)).await;
    let (leader, term) = led.map_err(|error| explain::admin(&error, None))?;
    print(&format!("shard {shard}: led by node {}, term {term}\n", leader.node()))
}

/// What is still on a node, in words.
pub(super) fn left(drain: &DrainProgress) -> String {
    if drain.is_drained && drain.leads.is_empty() {
        return "nothing is left on it".to_owned();
    }
    let mut parts = Vec::new();
    if !drain.leads.is_empty() {
        parts.push(format!("leads of shards {} are left", listed(&drain.leads)));
    }
    let votes: Vec<&ShardId> = drain.votes.iter().chain(&drain.leaving).collect();
    if !votes.is_empty() && !drain.is_drained {
        parts.push(format!("replicas of shards {} are left", listed(votes)));
    }
    if !drain.stuck.is_empty() && !drain.is_drained {
        parts.push(format!("no other active node can take those of {}", listed(&drain.stuck)));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_words() {
        let drained = DrainProgress {
            votes: vec![ShardId(0)],
            stuck: vec![ShardId(0)],
            is_drained: true,
            ..DrainProgress::default()
        };
        assert_eq!(left(&drained), "nothing is left on it");
        let begun = DrainProgress {
            leads: vec![ShardId(1)],
            votes: vec![ShardId(1), ShardId(2)],
            leaving: vec![ShardId(3)],
            ..DrainProgress::default()
        };
        assert_eq!(left(&begun), "leads of shards 1 are left; replicas of shards 1, 2, 3 are left");
    }
}
