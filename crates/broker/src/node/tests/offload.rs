//! How a node's records come to the bucket while there are very many of them, or one shard of several.

use super::cluster_rig::{Cluster, SETTLED};
use super::site::until;
use super::*;

const DAY_US: i64 = 86_400_000_000;
/// Objects to upload; each takes [`READ_TIME`], for a slow pool encodes it.
const OBJECTS: i64 = 30;

/// Time stands still but for the days that the test lets pass.
#[derive(Debug, Default)]
struct Days(AtomicI64);

impl Clock for Days {
    fn now(&self) -> Timestamp {
        Timestamp(1_772_409_570_000_000 + self.0.load(Relaxed) * DAY_US)
    }
}

#[tokio::test(start_paused = true)]
async fn the_floor_rises_while_objects_are_still_to_be_uploaded() {
    let (network, pool, days) =
        (MemoryNetwork::new(), Arc::<Pool>::default(), Arc::<Days>::default());
    let spec = spec_with(&network, Arc::clone(&pool) as _, Box::new(|| Duration::from_micros(100)));
    // Nothing is sealed by itself.
    let max_time_to_cold = Duration::from_secs(1_000 * 86_400);
    let seams = Seams { clock: Arc::clone(&days) as _, ..spec.seams };
    let broker = Broker::start(BrokerSpec { seams, shards: 1, max_time_to_cold, ..spec });
    let broker = broker.await.unwrap();
    // A range for each day, and an object for each range.
    for day in 0..OBJECTS {
        days.0.store(day, Relaxed);
        publish(&broker, 1, b"x").await;
    }
    pool.slow.store(true, Relaxed);
    let stream = name("s");
    let shard = broker.streams.resolve(&stream).await.unwrap().shard.here().unwrap().clone();
    let first = shard.offload_status().await.unwrap().floor;
    let sealed = broker.streams.seal(&stream, false);
    tokio::pin!(sealed);
    let (mut floors, mut begin) = (vec![first], None);
    loop {
        tokio::select! {
            sealed = &mut sealed => {
                sealed.unwrap();
                break;
            }
            () = sleep(Duration::from_millis(100)) => {}
        }
        let status = shard.offload_status().await.unwrap();
        if status.has_plans {
            begin.get_or_insert_with(Instant::now);
            floors.push(status.floor);
        }
    }
    let took = begin.expect("there were plans").elapsed();
    assert!(took >= READ_TIME * (OBJECTS as u32 - 2), "{took:?}");
    floors.dedup();
    assert!(floors.is_sorted(), "{floors:?}");
    // A manifest for what some seconds have brought, not one for each object.
    let moves = floors.len() as u64 - 1;
    assert!((2..=took.as_secs() / 5).contains(&moves), "{floors:?} in {took:?}");
    assert!(shard.offload_status().await.unwrap().floor > floors.last().copied().flatten());
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_objects_is_kept_for_the_next_ones_and_not_for_long() {
    let broker = start(&MemoryNetwork::new()).await;
    publish(&broker, 1, b"x").await;
    assert_eq!(broker.memory.kept_bytes(), 0);
    broker.streams.seal(&name("s"), false).await.unwrap();
    let kept = broker.memory.kept_bytes();
    assert!(kept > 0, "nothing is used again");
    publish(&broker, 1, b"x").await;
    broker.streams.seal(&name("s"), false).await.unwrap();
    assert_eq!(broker.memory.kept_bytes(), kept, "the same memory was used again");
    sleep(Duration::from_secs(11)).await;
    assert_eq!(broker.memory.kept_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_shard_whose_object_waits_for_those_of_others_is_sealed_meanwhile() {
    let network = MemoryNetwork::new();
    let spec = spec_with(&network, Arc::<Pool>::default(), Box::new(|| Duration::from_micros(100)));
    let max_time_to_cold = Duration::from_secs(20);
    let broker = Broker::start(BrokerSpec { max_time_to_cold, ..spec }).await.unwrap();
    let mut others = Vec::new();
    while let Ok(place) = timeout(READ_TIME, broker.memory.place()).await {
        others.push(place.unwrap());
    }
    for _ in 0..2 {
        publish(&broker, 1, b"x").await;
        let shard = broker.streams.resolve(&name("s")).await.unwrap().shard.here().unwrap().clone();
        until("it waited for as long as records may", async || {
            let status = shard.offload_status().await.unwrap();
            status.has_plans && status.oldest_unsealed.is_none()
        })
        .await;
    }
    drop(others);
    timeout(READ_TIME * 2, broker.streams.seal(&name("s"), true)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_shard_has_its_part_of_the_hot_budget() {
    let broker = start(&MemoryNetwork::new()).await;
    let budgets: Vec<_> = broker.figures().iter().map(|figures| figures.hot_bytes_max).collect();
    assert_eq!(budgets, [32 << 20, 32 << 20]);
}

#[tokio::test(start_paused = true)]
async fn whoever_begins_to_lead_a_shard_uploads_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    cluster.publish(1, "s", b"first").await;
    sleep(SETTLED).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    for _ in 0..3 {
        let leader = cluster.leader(1, shard).expect("somebody leads");
        let to = leader % 3 + 1;
        let transfer = v1::TransferLeader { shard: shard.0, node_id: to as u32 };
        cluster.node(to).cluster_admin.transfer_leader(transfer).await.unwrap();
        cluster.publish(to, "s", b"one more").await;
        let begin = Instant::now();
        cluster.node(to).streams.seal(&name("s"), false).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}
