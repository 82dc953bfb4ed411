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

/// EN-6: whoever asks the others again, because the one that did it is gone, is told what it did.
#[tokio::test(start_paused = true)]
async fn a_change_that_is_asked_for_again_after_a_fail_over_is_not_in_its_own_way() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    let by = |request: u8, bytes: u32, if_revision: u64| EnsureRequest {
        if_revision: Some(if_revision),
        request: Some(RequestId([request; 16])),
        ..wish("s", bytes, EnsureMode::Overwrite)
    };
    let mut asked = 1;
    for (revision, bytes) in [(0, 10), (1, 20)] {
        let request = by(revision as u8, bytes, revision);
        let first = cluster.node(asked).streams.ensure(request.clone()).await.unwrap();
        assert_eq!(first.revision, revision + 1);
        let shard = cluster.node(asked).streams.resolve(&name("s")).await.unwrap().shard.id();
        let leader = cluster.leader(asked, shard).expect("the shard has a leader");
        cluster.kill(leader).await;
        let other = leader % 3 + 1;
        let again = cluster.node(other).streams.ensure(request).await.unwrap();
        assert_eq!(again, first);
        let late = cluster.node(other).streams.ensure(by(9, 30, revision)).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::RevisionConflict, "{late}");
        assert_eq!(late.actual, Some(revision + 1));
        cluster.start(&[leader]).await;
        asked = other;
    }
}
