//! Plans of clusters that come to nothing, because a founder is not what it was when it was seen.

use super::cluster_rig::{Cluster, PATIENCE, peers_of};
use super::*;
use crate::FormingError;

fn uid(number: u8) -> NodeUid {
    NodeUid([number; 16])
}

/// A plan of these data directories, each on the machine with its place in this.
fn plan(cluster: u8, uids: [NodeUid; 3], machines: [usize; 3]) -> Member {
    let founders = uids.iter().zip(machines).zip(1..).map(|((uid, machine), node)| Founder {
        uid: *uid,
        node: NodeId(node),
        peer_address: peers_of(machine),
        client_address: String::new(),
    });
    let (cluster, founders) = (ClusterUid([cluster; 16]), founders.collect());
    Member::new(NodeId(1), cluster, founders)
}

/// The node has agreed to the plan, or has made it.
fn bind(cluster: &Cluster, number: u8, plan: &Member) {
    let own = plan.founders.iter().find(|founder| founder.uid == uid(number));
    let member = Member { node: own.expect("it is a founder").node, ..plan.clone() };
    let bucket = cluster.bucket.url().to_string();
    let identity = Identity { uid: uid(number), bucket, member: Some(member) };
    identity.keep(&cluster.disks[usize::from(number) - 1]).unwrap();
}

async fn serves(cluster: &Cluster) {
    let ensured = cluster.node(3).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    ensured.unwrap();
    cluster.publish(2, "s", b"there").await;
}

/// Node 2 was there when the plan was made, and is another one now; node 3 has agreed.
fn with_one_made_anew() -> Cluster {
    let cluster = Cluster::new(3);
    let plan = plan(0xc, [uid(1), uid(0xee), uid(3)], [1, 2, 3]);
    bind(&cluster, 1, &plan);
    bind(&cluster, 3, &plan);
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_founder_that_was_made_anew_is_not_waited_for() {
    let mut cluster = with_one_made_anew();
    cluster.start(&[1, 2, 3]).await;
    serves(&cluster).await;
    assert_ne!(cluster.node(3).cluster_uid(), ClusterUid([0xc; 16]), "it is let go of");
}

#[tokio::test(start_paused = true)]
async fn power_may_be_cut_whenever_a_plan_is_let_go_of() {
    for moment in 0..40 {
        let mut cluster = with_one_made_anew();
        let early = timeout(Duration::from_millis(moment * 25), cluster.start(&[1, 2, 3])).await;
        drop(early);
        for number in [1, 2, 3] {
            cluster.kill(number).await;
        }
        cluster.start(&[1, 2, 3]).await;
        serves(&cluster).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_plans_for_the_same_nodes_are_none() {
    let mut cluster = Cluster::new(3);
    bind(&cluster, 1, &plan(0xc, [uid(1), uid(2), uid(3)], [1, 2, 3]));
    let other = plan(0xd, [uid(2), uid(1), uid(3)], [2, 1, 3]);
    bind(&cluster, 2, &other);
    bind(&cluster, 3, &other);
    cluster.start(&[1, 2, 3]).await;
    serves(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn founders_that_have_swapped_addresses_do_not_agree_for_each_other() {
    let mut cluster = Cluster::new(3);
    let plan = plan(0xc, [uid(1), uid(2), uid(3)], [1, 3, 2]);
    bind(&cluster, 1, &plan);
    cluster.start(&[1, 2, 3]).await;
    serves(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn who_agreed_with_a_founder_that_is_gone_says_what_to_empty() {
    let mut cluster = Cluster::new(3);
    let plan = plan(0xc, [uid(0xee), uid(2), uid(3)], [1, 2, 3]);
    bind(&cluster, 2, &plan);
    bind(&cluster, 3, &plan);
    let first = tokio::spawn(Broker::start(cluster.spec(1, 90)));
    let others = [2, 3].map(|number| Broker::start(cluster.spec(number, 90 + number as u64)));
    let ended = timeout(PATIENCE, futures::future::join_all(others)).await.expect("they end");
    for started in ended {
        let error = started.unwrap_err();
        let gone = matches!(&error, StartError::Forming(FormingError::FounderGone { .. }));
        assert!(gone && error.to_string().contains("empty this node's data directory"), "{error}");
    }
    for number in [2, 3] {
        cluster.kill(number).await;
        cluster.disks[number - 1] = SimDisk::default();
    }
    cluster.start(&[2, 3]).await;
    let first = timeout(PATIENCE, first).await.expect("it is one of them").unwrap();
    cluster.nodes[0] = Some(first.unwrap());
    serves(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn more_nodes_than_are_waited_for_are_one_cluster_whenever_power_is_cut() {
    for moment in 0..20 {
        let mut cluster = Cluster::new(5);
        cluster.seeds = vec![1, 2, 3, 4, 5];
        let all = [5, 4, 3, 2, 1];
        let early = timeout(Duration::from_millis(moment * 50), cluster.start(&all)).await;
        drop(early);
        for number in all {
            cluster.kill(number).await;
        }
        cluster.start(&all).await;
        serves(&cluster).await;
        let uids = cluster.nodes.iter().flatten().map(Broker::cluster_uid);
        let uids: std::collections::BTreeSet<_> = uids.collect();
        assert_eq!(uids.len(), 1, "{moment}");
    }
}
