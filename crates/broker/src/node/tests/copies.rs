//! A data directory that was copied is one node in two places: the later one goes (CL-2).

use super::cluster_rig::{Cluster, PATIENCE};
use super::*;

/// Node 2's data directory on a fourth machine, which is told of nodes 1 and 3 only.
fn copy_of_node_2(cluster: &mut Cluster, life: u64) -> BrokerSpec {
    cluster.disks[3] = cluster.disks[1].fork();
    let mut spec = cluster.spec(4, life);
    let others = spec.cluster.as_mut().unwrap();
    others.seeds.remove(1);
    spec
}

async fn three() -> Cluster {
    let mut cluster = Cluster::new(4);
    cluster.start(&[1, 2, 3]).await;
    let ensured = cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    ensured.unwrap();
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_refused_while_the_first_lives_and_takes_its_place_when_it_is_gone() {
    let mut cluster = three().await;
    cluster.publish(2, "s", b"before").await;
    let spec = copy_of_node_2(&mut cluster, 90);
    let started = timeout(PATIENCE, Broker::start(spec)).await.expect("it is told at once");
    let refused = started.unwrap_err();
    assert!(matches!(refused, StartError::IdentityConflict { .. }), "{refused}");
    let told = refused.to_string();
    assert!(told.contains("the node at 10.0.0.4:9401 is one that runs at 10.0.0.2:9401"), "{told}");
    assert!(timeout(Duration::from_secs(5), cluster.node(2).failed()).await.is_err());
    cluster.publish(2, "s", b"after").await;

    // The same node, moved.
    cluster.kill(2).await;
    let spec = copy_of_node_2(&mut cluster, 91);
    let moved = timeout(PATIENCE, Broker::start(spec)).await.expect("it is taken for node 2");
    assert_eq!(moved.unwrap().node(), NodeId(2));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_place_was_taken_while_nobody_heard_it_ends() {
    let mut cluster = three().await;
    let [one, two, three] = [1, 2, 3].map(cluster_rig::ip);
    for other in [one, three] {
        cluster.disturbance.partition(two, other);
    }
    sleep(Duration::from_secs(5)).await;
    let spec = copy_of_node_2(&mut cluster, 90);
    let taken = timeout(PATIENCE, Broker::start(spec)).await.expect("nobody else is node 2");
    let _taken = taken.unwrap();
    for other in [one, three] {
        cluster.disturbance.heal(two, other);
    }
    let failure = timeout(PATIENCE, cluster.node(2).failed()).await.expect("it is told");
    assert!(matches!(failure, NodeFailure::IdentityConflict { .. }), "{failure}");
}
