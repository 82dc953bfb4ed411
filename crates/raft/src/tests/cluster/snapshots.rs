//! A follower that needs what the leader has given up.

use super::*;

/// A leader whose log begins above what `behind` has.
async fn purged(seed: u64) -> (Cluster, ReplicaId, ReplicaId) {
    let mut cluster = Cluster::voters(seed, 3).await;
    cluster.fill(10).await;
    let leader = cluster.leader().await;
    let behind = cluster.ids().into_iter().find(|id| *id != leader).expect("three");
    cluster.kill(behind, CrashPlan::LoseAll).await;
    for number in 0..30u8 {
        cluster.put(vec![number; 100_000]).await;
    }
    for id in cluster.running() {
        cluster
            .shard(id)
            .applied(cluster.run(leader).log.state().last.expect("entries").index)
            .await
            .expect("running");
        let upto = cluster.checkpoint(id).await.index;
        cluster.shard(id).promote_snapshot(upto).await.expect("promoted");
        cluster.shard(id).purged(upto).await.expect("purged");
    }
    cluster.fill(5).await;
    (cluster, leader, behind)
}

fn received(cluster: &Cluster, id: ReplicaId) -> usize {
    let is_received = |path: &&PathBuf| path.starts_with("received");
    cluster.replicas[&id].store.0.with(|files| files.all.keys().filter(is_received).count())
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_the_snapshot_and_then_the_log() {
    with_seed(30, async {
        let (mut cluster, _, behind) = purged(30).await;
        assert_eq!(cluster.net.snapshots(), 0);
        cluster.start(behind).await;
        cluster.settle().await;
        assert!(cluster.net.snapshots() > 0);
        cluster.check_settled();
        assert_eq!(cluster.commands(behind).len(), 45);
        assert_eq!(received(&cluster, behind), 0, "nothing is left at the temporary place");
        assert!(cluster.replicas[&behind].store.current().expect("read").is_some());

        // It takes part, and starts with what it was given.
        cluster.kill(behind, CrashPlan::LoseAll).await;
        cluster.fill(5).await;
        cluster.start(behind).await;
        cluster.settle().await;
        assert_eq!(cluster.commands(behind).len(), 50);
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_sent_again() {
    with_seed(31, async {
        let (mut cluster, _, behind) = purged(31).await;
        cluster.net.damage_pieces(1);
        cluster.start(behind).await;
        cluster.settle().await;
        assert!(cluster.net.snapshots() >= 2);
        cluster.check_settled();
        assert_eq!(received(&cluster, behind), 0);
        cluster.stop().await;
    })
    .await;
}

/// The follower would lack what lies above the floor, and vouch for it: it waits until the leader's owner
/// promotes another.
#[tokio::test(start_paused = true)]
async fn where_the_snapshot_is_lost_a_follower_waits_for_the_next_one() {
    with_seed(35, async {
        let (mut cluster, leader, behind) = purged(35).await;
        let above = cluster.checkpoint(leader).await;
        for id in cluster.running() {
            cluster.replicas[&id].store.0.with(|files| files.current = None);
        }
        cluster.start(behind).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(cluster.leader().await, leader, "it is as well as before");
        assert_eq!((cluster.net.snapshots(), received(&cluster, behind)), (0, 0));
        let promoted = cluster.shard(leader).promote_snapshot(above.index).await.expect("promoted");
        assert_eq!(promoted, above);
        cluster.settle().await;
        cluster.check_settled();
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_sender_is_killed_comes_from_the_next_leader() {
    with_seed(32, async {
        let (mut cluster, leader, behind) = purged(32).await;
        cluster.start(behind).await;
        until("a snapshot under way", || (cluster.net.snapshots() > 0).then_some(())).await;
        until("its first piece", || (received(&cluster, behind) > 0).then_some(())).await;
        cluster.kill(leader, CrashPlan::LoseAll).await;
        let next = cluster.leader_after(leader).await;
        assert_ne!(next, behind);
        cluster.settle().await;
        assert_eq!(cluster.commands(behind).len(), 45);
        until("removed", || (received(&cluster, behind) == 0).then_some(())).await;
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_stream_that_swallows_everything_is_noticed() {
    with_seed(33, async {
        let (mut cluster, leader, behind) = purged(33).await;
        cluster.start(behind).await;
        until("its first piece", || (received(&cluster, behind) > 0).then_some(())).await;
        cluster.net.half_kill(leader, behind);
        let start = Instant::now();
        cluster.settle().await;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        cluster.check_settled();
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_may_take_long_to_take_a_snapshot_over() {
    with_seed(34, async {
        let (mut cluster, _, behind) = purged(34).await;
        cluster.install_takes = Duration::from_secs(30);
        cluster.start(behind).await;
        cluster.settle().await;
        assert_eq!(cluster.net.snapshots(), 1, "it is not sent again meanwhile");
        cluster.stop().await;
    })
    .await;
}
