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
        assert!(cluster.replicas[&behind].store.current(0).expect("read").is_some());

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

/// It stops when a snapshot has become its own, and its log still has what that contradicts.
#[tokio::test(start_paused = true)]
async fn a_replica_that_has_a_snapshot_and_not_yet_cut_its_log_starts() {
    with_seed(36, async {
        let mut cluster = Cluster::voters(36, 3).await;
        cluster.fill(5).await;
        cluster.settle().await;
        let old = cluster.leader().await;
        let behind = cluster.ids().into_iter().find(|id| *id != old).expect("three");
        cluster.kill(behind, CrashPlan::LoseAll).await;
        let disk = cluster.replicas[&behind].disk.clone();
        // So far above the snapshot, and not even so far.
        for bogus in [20, 3] {
            append_what_nobody_has(&disk, bogus).await;
            let leader = cluster.leader().await;
            cluster.kill(leader, CrashPlan::ProcessOnly).await;
            cluster.start(leader).await;
            cluster.fill(8).await;
            let leader = cluster.leader().await;
            let state = cluster.run(leader).state.with(|state| state.clone());
            cluster.checkpoint(leader).await;
            cluster.shard(leader).promote_snapshot(state.applied.id.index).await.expect("promoted");
            let store = &cluster.replicas[&behind].store.0;
            store.with(|files| files.current = Some(files.insert(&state)));
            cluster.start(behind).await;
            cluster.settle().await;
            cluster.put("and goes on").await;
            cluster.settle().await;
            cluster.check_settled();
            cluster.kill(behind, CrashPlan::LoseAll).await;
        }
        cluster.stop().await;
    })
    .await;
}

/// Entries of the last term behind the end of the log on this disk, durably.
async fn append_what_nobody_has(disk: &SimDisk, count: u64) {
    let logs = sim_logs(disk.clone(), || Duration::from_millis(1));
    let (log, _) = logs.opener.open_shard(Path::new("log"), LogOptions::default()).expect("a log");
    let EntryId { term, index } = log.state().last.expect("entries");
    let entry = |index| railgun_log::Entry {
        id: EntryId { term, index },
        kind: 1,
        payload: Payload::from_bytes(Bytes::from_static(b"of a leader that nobody heard")),
    };
    let (done, flushed) = tokio::sync::oneshot::channel();
    let entries = (index + 1..=index + count).map(entry).collect();
    log.append(entries, Box::new(move |result| drop(done.send(result)))).expect("taken");
    flushed.await.expect("an answer").expect("durable");
    logs.stop().await;
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
