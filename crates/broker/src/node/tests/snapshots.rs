//! Snapshots of shards on their way from one node to another.

use std::path::PathBuf;

use railgun_log::Disk;

use super::cluster_rig::{Cluster, PATIENCE, ip};
use super::numbered::{RECORDS, publish, values, with_records};
use super::*;
use crate::on_node::LocalReplica;

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn with_stream() -> (Cluster, ShardId) {
    let (cluster, shard) = with_records().await;
    // Until leads stay where they are.
    sleep(Duration::from_secs(15)).await;
    (cluster, shard)
}

fn replica(cluster: &Cluster, number: usize, shard: ShardId) -> Arc<LocalReplica> {
    Arc::clone(&cluster.node(number).on_node.borrow()[&shard])
}

/// The files of a node whose names end so.
fn checkpoints(cluster: &Cluster, number: usize, shard: ShardId, end: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(format!("shards/{shard}/checkpoints"));
    let names = cluster.disks[number - 1].list(&dir).unwrap().into_iter();
    names.filter(|name| name.ends_with(end)).map(|name| dir.join(name)).collect()
}

/// Changes a byte of what a node would send, in one of its sections.
fn rot(cluster: &Cluster, number: usize, shard: ShardId) {
    let snapshots = checkpoints(cluster, number, shard, ".snap");
    let [snapshot] = &snapshots[..] else { panic!("node {number} has {snapshots:?}") };
    let bytes = cluster.disks[number - 1].contents(snapshot).unwrap();
    let at = bytes.len() / 2;
    assert!(cluster.disks[number - 1].flip(snapshot, at, 0x10));
}

/// What a node that was away would need is given up by the others, whose snapshots have rotted. `are_new`:
/// they have started again since.
async fn a_node_comes_back(are_new: bool) {
    let (mut cluster, shard) = with_stream().await;
    let leader = cluster.leader(1, shard).unwrap();
    let (other, behind) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.kill(behind).await;
    publish(&cluster, leader, RECORDS..2 * RECORDS).await;
    let last = replica(&cluster, leader, shard).log.state().last.unwrap().index;
    cluster.node(leader).streams.seal(&name("s"), false).await.unwrap();
    for number in [leader, other] {
        let log = replica(&cluster, number, shard).log.clone();
        let gives_up = || log.state().last_purged.is_some_and(|purged| purged.index >= last);
        sleep(Duration::from_secs(40)).await;
        until("it is given up", gives_up).await;
    }
    // In the log only, and in a checkpoint above the floor.
    publish(&cluster, leader, 2 * RECORDS..2 * RECORDS + 3).await;
    for number in [leader, other] {
        let found = cluster.node(number).streams.resolve(&name("s")).await.unwrap();
        found.shard.here().unwrap().checkpoint().await.unwrap().unwrap();
    }
    for number in [leader, other] {
        rot(&cluster, number, shard);
        if are_new {
            cluster.kill(number).await;
            cluster.start(&[number]).await;
            sleep(Duration::from_secs(15)).await;
        }
    }
    cluster.start(&[behind]).await;
    let all = values(2 * RECORDS + 3);
    let caught_up = async {
        let committed = replica(&cluster, leader, shard).log.state().last.unwrap();
        while replica(&cluster, behind, shard).raft.metrics().applied < Some(committed) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, caught_up).await.expect("it has everything");
    for number in 1..=3 {
        let alive = timeout(Duration::from_secs(1), cluster.node(number).failed()).await;
        assert!(alive.is_err(), "node {number} has ended: {alive:?}");
        assert_eq!(cluster.read(number, "s").await, all, "node {number}");
        assert_eq!(replica(&cluster, number, shard).replica.incarnation(), 1, "node {number}");
    }
    // What was sent holds nothing that is only in the logs of others.
    for number in 1..=3 {
        let found = cluster.node(number).streams.resolve(&name("s")).await.unwrap();
        let floor = found.shard.here().unwrap().offload_status().await.unwrap().floor;
        let snapshot = replica(&cluster, number, shard).raft.metrics().snapshot;
        assert!(number != behind || snapshot.is_some());
        assert!(
            snapshot.map(|id| id.index) <= floor,
            "node {number}: {snapshot:?} above {floor:?}"
        );
    }
    // Whoever sent one has found out, and has another.
    let now = cluster.leader(1, shard).unwrap();
    let snapshots = checkpoints(&cluster, now, shard, ".snap");
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    if !are_new {
        assert_eq!(checkpoints(&cluster, leader, shard, ".damaged").len(), 1);
    }
    // It counts: without it there is no majority.
    cluster.kill(other).await;
    publish(&cluster, behind, all.len()..all.len() + 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_rots_ends_nobody_and_another_is_sent() {
    a_node_comes_back(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_with_a_rotten_snapshot_sends_the_next_one() {
    a_node_comes_back(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_follower_does_not_hold_up_what_goes_to_the_bucket() {
    let (cluster, shard) = with_stream().await;
    let leader = cluster.leader(1, shard).unwrap();
    let slow = leader % 3 + 1;
    let delay = Duration::from_millis(4_500);
    cluster.disturbance.set_delay(ip(leader), ip(slow), delay..=delay);
    publish(&cluster, leader, RECORDS..RECORDS + 3).await;
    let streams = cluster.node(leader).streams.clone();
    let (name, log) = (name("s"), replica(&cluster, leader, shard).log.clone());
    let last = log.state().last.unwrap().index;
    streams.seal(&name, false).await.unwrap();
    // Raft gives nothing up before the follower has it.
    publish(&cluster, leader, RECORDS + 3..RECORDS + 6).await;
    timeout(Duration::from_millis(3_500), streams.seal(&name, false)).await.expect("soon").unwrap();
    assert!(log.state().last_purged.is_none_or(|purged| purged.index < last), "not yet");
    until("it is given up", || log.state().last_purged.is_some_and(|it| it.index >= last)).await;
}
