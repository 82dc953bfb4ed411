//! Three nodes that are one cluster: they come together, replicate, and go on without one of them.

use super::cluster_rig::Cluster;
use super::*;

#[tokio::test(start_paused = true)]
async fn three_nodes_come_together_replicate_and_go_on_without_one() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    let uids: Vec<_> = (1..=3).map(|n| cluster.node(n).cluster_uid()).collect();
    assert!(uids.iter().all(|uid| *uid == uids[0]), "{uids:?}");

    let ensured = cluster.node(2).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    ensured.unwrap();
    // Through every node, whoever leads.
    let mut values = Vec::new();
    for number in [1, 2, 3, 1, 2, 3] {
        let value = format!("{} through {number}", values.len()).into_bytes();
        assert_eq!(cluster.publish(number, "s", &value).await, values.len() as u64);
        values.push(value);
    }
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
    }

    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    let leader = cluster.leader(1, shard).expect("the shard has a leader");
    cluster.kill(leader).await;
    let others: Vec<_> = (1..=3).filter(|n| *n != leader).collect();
    let value = b"without the leader".to_vec();
    assert_eq!(cluster.publish(others[0], "s", &value).await, values.len() as u64);
    values.push(value);
    for &number in &others {
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
    }

    cluster.start(&[leader]).await;
    assert_eq!(cluster.read(leader, "s").await, values, "the node that is back");
}
