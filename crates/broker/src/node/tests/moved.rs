//! Nodes that come back under other addresses (CL-1): what finds them needs no leader.

use super::cluster_rig::{Cluster, PATIENCE, peers_of};
use super::*;

async fn with_a_record() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    cluster.publish(2, "s", b"before").await;
    cluster
}

/// Kills these nodes, and starts them on these machines.
async fn move_to(cluster: &mut Cluster, moves: &[(usize, usize)]) {
    for (number, _) in moves {
        cluster.kill(*number).await;
    }
    cluster.moved.extend(moves.iter().copied());
    let numbers: Vec<_> = moves.iter().map(|(number, _)| *number).collect();
    cluster.start(&numbers).await;
}

/// Waits until the catalog, as every node has it, says which machine each node is on.
async fn says(cluster: &Cluster, hosts: [usize; 3]) {
    let expected = hosts.map(peers_of);
    for node in cluster.nodes.iter().flatten() {
        let mut view = node.view.clone();
        let is_told = view.wait_for(|view| {
            let told = view.nodes.values().map(|record| &record.peer_address);
            told.eq(expected.iter())
        });
        let told = timeout(PATIENCE, is_told).await;
        assert!(told.is_ok(), "node {}: {:?}", node.node(), node.view.borrow().nodes);
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_all_come_back_elsewhere_find_one_another() {
    let mut cluster = with_a_record().await;
    cluster.seeds = vec![4, 5, 6];
    move_to(&mut cluster, &[(1, 4), (2, 5), (3, 6)]).await;
    cluster.publish(3, "s", b"after").await;
    says(&cluster, [4, 5, 6]).await;
    // And so they are after a restart, whoever they are told of.
    cluster.seeds = vec![4];
    move_to(&mut cluster, &[(2, 5), (3, 6)]).await;
    cluster.publish(2, "s", b"again").await;
    let expected = [b"before".to_vec(), b"after".to_vec(), b"again".to_vec()];
    let mut read = cluster.read(1, "s").await;
    read.dedup();
    assert_eq!(read, expected);
}

#[tokio::test(start_paused = true)]
async fn nodes_may_swap_addresses() {
    let mut cluster = with_a_record().await;
    move_to(&mut cluster, &[(1, 2), (2, 1)]).await;
    cluster.publish(1, "s", b"swapped").await;
    says(&cluster, [2, 1, 3]).await;
    // All at once, so that nobody is where anybody looks.
    move_to(&mut cluster, &[(1, 3), (2, 2), (3, 1)]).await;
    cluster.publish(2, "s", b"all").await;
    says(&cluster, [3, 2, 1]).await;
    move_to(&mut cluster, &[(1, 1), (2, 3), (3, 2)]).await;
    says(&cluster, [1, 3, 2]).await;
    let expected = [b"before".to_vec(), b"swapped".to_vec(), b"all".to_vec()];
    let mut read = cluster.read(3, "s").await;
    // What was not acknowledged in time was published again.
    read.dedup();
    assert_eq!(read, expected);
}

#[tokio::test(start_paused = true)]
async fn one_that_has_moved_is_found_by_who_is_not_told_of_it() {
    let mut cluster = with_a_record().await;
    cluster.kill(2).await;
    // Node 1 alone has these, and must lead; it knows nothing of the other machine but by node 3's calls.
    cluster.kill(3).await;
    cluster.moved.insert(3, 6);
    cluster.start(&[3]).await;
    cluster.publish(1, "s", b"after").await;
    says(&cluster, [1, 2, 6]).await;
}
