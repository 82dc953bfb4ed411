//! Clocks that are wrong (CL-6): their nodes lead nothing, and no log shows their time.

use super::cluster_rig::{Cluster, PATIENCE};
use super::*;

const SECOND: i64 = 1_000_000;
const YEAR: i64 = 365 * 86_400 * SECOND;

async fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    for number in 1..=4 {
        cluster.clocks.insert(number, Arc::default());
    }
    cluster.start(&[1, 2, 3]).await;
    let ensured = cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    ensured.unwrap();
    cluster
}

/// Shards that the node leads, as it knows.
fn leads(cluster: &Cluster, number: usize) -> usize {
    let on_node = cluster.node(number).on_node.borrow().clone();
    on_node.values().filter(|local| local.raft.leader().state().serving).count()
}

/// What the newest entry of any data shard says about the time, beyond what the time is, in µs.
fn log_time_ahead_us(cluster: &Cluster, number: usize, right: &dyn Clock) -> i64 {
    let figures = cluster.node(number).figures();
    let newest = figures.iter().map(|shard| shard.log_time.0).max().unwrap();
    newest - right.now().0
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_jumps_leads_nothing_and_stamps_nothing_wrong() {
    for jump in [YEAR, -YEAR] {
        let cluster = three().await;
        cluster.publish(1, "s", b"before").await;
        let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
        let wrong = cluster.leader(1, shard).expect("the shard has a leader");
        let other = if wrong == 1 { 2 } else { 1 };
        let right = cluster.right_clock();
        cluster.clocks[&wrong].store(jump, Relaxed);
        // It leads still.
        cluster.publish(wrong, "s", b"while nobody knows").await;
        let begun = Instant::now();
        eventually("it leads nothing", || leads(&cluster, wrong) == 0).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let off_us = cluster.node(wrong).clock_off_us().unwrap();
        assert!((off_us - jump).abs() < SECOND, "{off_us}");
        assert!(cluster.node(other).clock_off_us().unwrap().abs() < SECOND);

        cluster.publish(other, "s", b"without it").await;
        // Whoever is to lead by the catalog does not get its leads back meanwhile.
        for _ in 0..60 {
            sleep(Duration::from_millis(500)).await;
            assert_eq!(leads(&cluster, wrong), 0);
        }
        cluster.publish(wrong, "s", b"through it").await;
        for number in 1..=3 {
            let ahead_us = log_time_ahead_us(&cluster, number, &*right);
            assert!(ahead_us < 2 * SECOND, "node {number}: {ahead_us}");
            eventually("the last entry is applied", || {
                log_time_ahead_us(&cluster, number, &*right) > -20 * SECOND
            })
            .await;
        }

        cluster.clocks[&wrong].store(0, Relaxed);
        eventually("its clock is right", || cluster.node(wrong).clock_off_us() == Some(0)).await;
        let standing = cluster.node(wrong).clocks.as_ref().unwrap().borrow().clone();
        assert!(!standing.must_not_lead() && standing.unfit.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_with_a_wrong_clock_is_no_danger() {
    let mut cluster = three().await;
    cluster.publish(1, "s", b"before").await;
    for number in 1..=3 {
        cluster.kill(number).await;
    }
    cluster.clocks[&2].store(YEAR, Relaxed);
    // The others must elect somebody, and it might be this one.
    cluster.start(&[1, 2, 3]).await;
    cluster.publish(2, "s", b"after").await;
    let right = cluster.right_clock();
    eventually("it leads nothing", || leads(&cluster, 2) == 0).await;
    for number in 1..=3 {
        let ahead_us = log_time_ahead_us(&cluster, number, &*right);
        assert!(ahead_us < 2 * SECOND, "node {number}: {ahead_us}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_is_wrong_joins_when_it_is_right() {
    let mut cluster = three().await;
    cluster.add_host();
    cluster.clocks[&4].store(YEAR, Relaxed);
    let starting = Broker::start(cluster.spec(4, 99));
    let mut starting = Box::pin(starting);
    assert!(timeout(Duration::from_secs(5), &mut starting).await.is_err());
    assert_eq!(cluster.node(1).view.borrow().nodes.len(), 3);
    cluster.clocks[&4].store(0, Relaxed);
    let joined = timeout(PATIENCE, starting).await.expect("it is taken in").unwrap();
    assert_eq!(joined.node(), NodeId(4));
}

#[tokio::test(start_paused = true)]
async fn nodes_whose_clocks_are_apart_form_no_cluster() {
    let mut cluster = Cluster::new(3);
    cluster.clocks.insert(3, Arc::new(AtomicI64::new(-YEAR)));
    let starting = (1..=3).map(|number| Broker::start(cluster.spec(number, number as u64)));
    let mut starting = Box::pin(futures::future::join_all(starting));
    assert!(timeout(Duration::from_secs(5), &mut starting).await.is_err());
    cluster.clocks[&3].store(0, Relaxed);
    let started = timeout(PATIENCE, starting).await.expect("they come together");
    assert!(started.iter().all(Result::is_ok));
}
