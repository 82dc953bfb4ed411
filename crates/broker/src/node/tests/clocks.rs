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

/// Nobody is there for so long that the first goes on without having been told anything; and then the second
/// votes for it.
#[tokio::test(start_paused = true)]
async fn who_leads_before_another_has_told_its_clock_stamps_nothing() {
    for later_ms in (3_000..4_200).step_by(200) {
        let mut cluster = three().await;
        for number in 1..=3 {
            cluster.kill(number).await;
        }
        cluster.clocks[&1].store(YEAR, Relaxed);
        let second = cluster.spec(2, 102);
        let second = tokio::spawn(async move {
            sleep(Duration::from_millis(later_ms)).await;
            Broker::start(second).await
        });
        let first = timeout(PATIENCE, Broker::start(cluster.spec(1, 101))).await;
        cluster.nodes[0] = Some(first.expect("it starts").unwrap());
        cluster.publish(1, "s", b"as soon as there is a leader").await;
        cluster.nodes[1] = Some(second.await.unwrap().unwrap());
        log_time_is_right(&cluster, [1, 2]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_in_which_nobody_else_votes_waits_for_no_clock() {
    let mut cluster = Cluster::new(3);
    let start = async |cluster: &mut Cluster, numbers: &[usize], life: u64| {
        let specs = numbers.iter().map(|&number| {
            let mut spec = cluster.spec(number, life + number as u64);
            spec.cluster.as_mut().unwrap().replicas = 1;
            Broker::start(spec)
        });
        let specs: Vec<_> = specs.collect();
        let started = timeout(PATIENCE, futures::future::join_all(specs)).await;
        for (number, broker) in numbers.iter().zip(started.expect("they start")) {
            cluster.nodes[number - 1] = Some(broker.unwrap());
        }
    };
    start(&mut cluster, &[1, 2, 3], 100).await;
    let ensured = cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
    ensured.unwrap();
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    let owner = (1..=3).find(|number| cluster.node(*number).on_node.borrow().contains_key(&shard));
    let owner = owner.expect("somebody has it");
    for number in 1..=3 {
        cluster.kill(number).await;
    }
    start(&mut cluster, &[owner], 200).await;
    let on_node = cluster.node(owner).on_node.borrow();
    let serves = |shard| on_node[&shard].raft.leader().state().serving;
    assert!(serves(shard) && !serves(ShardId::CATALOG));
}

/// Publishes through both of two nodes; neither's log has a time that is still to come, nor does it stand
/// still.
async fn log_time_is_right(cluster: &Cluster, numbers: [usize; 2]) {
    let right = cluster.right_clock();
    for number in numbers {
        cluster.publish(number, "s", b"one of two").await;
        eventually("the entry is applied with the right time", || {
            let ahead_us = log_time_ahead_us(cluster, number, &*right);
            assert!(ahead_us < 2 * SECOND, "node {number}: {ahead_us}");
            ahead_us > -5 * SECOND
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_that_are_left_no_clock_is_followed_that_jumps() {
    for (jump, other_jumps) in [(YEAR, false), (-YEAR, false), (YEAR, true)] {
        let mut cluster = three().await;
        let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
        cluster.kill(3).await;
        // Longer than what it told of its clock counts.
        sleep(Duration::from_secs(40)).await;
        eventually("one of the two leads", || {
            cluster.leader(1, shard).is_some_and(|leader| leader != 3)
        })
        .await;
        let wrong = cluster.leader(1, shard).expect("the shard has a leader");
        let other = 3 - wrong;
        cluster.clocks[&wrong].store(jump, Relaxed);
        if other_jumps {
            cluster.clocks[&other].store(-jump, Relaxed);
        }
        let standing =
            |number: usize| cluster.node(number).clocks.as_ref().unwrap().borrow().clone();
        eventually("it says so", || standing(wrong).doubt_us.is_some()).await;
        for _ in 0..3 {
            sleep(Duration::from_secs(20)).await;
            log_time_is_right(&cluster, [wrong, other]).await;
        }
        assert!(!standing(wrong).must_not_lead(), "two that differ still serve");

        // A small step is one that clocks make.
        cluster.clocks[&wrong].store(9 * SECOND, Relaxed);
        cluster.clocks[&other].store(0, Relaxed);
        eventually("it is followed", || standing(wrong).doubt_us.is_none()).await;

        // The third one's clock tells which is wrong.
        cluster.clocks[&wrong].store(jump, Relaxed);
        cluster.start(&[3]).await;
        eventually("it leads nothing", || leads(&cluster, wrong) == 0).await;
        let right = cluster.right_clock();
        cluster.publish(other, "s", b"by the median").await;
        for number in 1..=3 {
            let ahead_us = log_time_ahead_us(&cluster, number, &*right);
            assert!(ahead_us < 11 * SECOND, "node {number}: {ahead_us}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_beside_only_one_goes_by_the_log_of_that() {
    // Its own clock is wrong, or the other's is, which has stood by what it knew.
    for (own, others) in [(YEAR, 0), (-YEAR, 0), (0, YEAR), (0, -YEAR)] {
        let mut cluster = three().await;
        cluster.kill(3).await;
        sleep(Duration::from_secs(40)).await;
        cluster.clocks[&1].store(others, Relaxed);
        cluster.kill(2).await;
        cluster.clocks[&2].store(own, Relaxed);
        cluster.start(&[2]).await;
        for _ in 0..3 {
            log_time_is_right(&cluster, [1, 2]).await;
            sleep(Duration::from_secs(20)).await;
        }
    }
}

/// Of two that start at the same time, neither knows what the time was: whoever agrees with one of them
/// makes the majority, so a new node is taken in all the same.
#[tokio::test(start_paused = true)]
async fn a_new_node_decides_between_two_that_cannot() {
    for jump in [YEAR, -YEAR] {
        let mut cluster = three().await;
        cluster.add_host();
        for number in 1..=3 {
            cluster.kill(number).await;
        }
        cluster.clocks[&2].store(jump, Relaxed);
        cluster.start(&[1, 2]).await;
        cluster.publish(1, "s", b"nobody knows when").await;
        cluster.clocks[&4].store(2 * jump, Relaxed);
        let mut starting = Box::pin(Broker::start(cluster.spec(4, 99)));
        assert!(timeout(Duration::from_secs(10), &mut starting).await.is_err());
        cluster.clocks[&4].store(0, Relaxed);
        let joined = timeout(PATIENCE, starting).await.expect("it is taken in").unwrap();
        eventually("the three know which is wrong", || leads(&cluster, 2) == 0).await;
        drop(joined);
        let right = cluster.right_clock();
        for number in 1..=2 {
            let ahead_us = log_time_ahead_us(&cluster, number, &*right);
            assert!(ahead_us < 2 * SECOND, "node {number}: {ahead_us}");
        }
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
