//! Replicas that lost their logs, and nodes that missed much: what comes back is whole, and nobody votes
//! twice.

use std::path::Path;

use railgun_core::catalog::Placement;
use railgun_core::command::{Command, NodeState};
use railgun_log::{Disk, SimOp};
use railgun_types::EntryId;

use super::cluster_rig::{Cluster, PATIENCE, ip};
use super::*;
use crate::replica::{CommittedEntry, EntryContent};

/// A cluster of three with the stream "s" and some records in it.
async fn with_records(records: usize) -> (Cluster, Vec<Vec<u8>>) {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    let mut values = Vec::new();
    publish(&cluster, 1, &mut values, records).await;
    (cluster, values)
}

async fn publish(cluster: &Cluster, number: usize, values: &mut Vec<Vec<u8>>, records: usize) {
    for _ in 0..records {
        let value = format!("record {}", values.len()).into_bytes();
        assert_eq!(cluster.publish(number, "s", &value).await, values.len() as u64);
        values.push(value);
    }
}

/// Removes a node's log of a shard, as if somebody had.
fn lose_log(cluster: &Cluster, number: usize, shard: ShardId) {
    let disk = &cluster.disks[number - 1];
    let dir = format!("shards/{shard}/log");
    for name in disk.list(dir.as_ref()).unwrap() {
        disk.remove(&Path::new(&dir).join(name)).unwrap();
    }
}

/// The log files of a node's first replicas of the data shards.
fn log_files(cluster: &Cluster, number: usize) -> Vec<String> {
    let list = |shard| cluster.disks[number - 1].list(format!("shards/{shard}/log").as_ref());
    [1, 2].into_iter().flat_map(|shard| list(shard).unwrap()).collect()
}

async fn set_state(cluster: &Cluster, number: usize, node: u32, state: NodeState) {
    let set = CatalogCommand::SetNodeState { node: NodeId(node), state };
    cluster.node(number).streams.routing().change(set).await.unwrap();
}

/// Waits until this holds.
async fn until(holds: impl Fn() -> bool) {
    let looked = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, looked).await.expect("it comes to that");
}

#[tokio::test(start_paused = true)]
async fn a_life_that_ended_does_not_begin_again_by_an_old_view() {
    let (mut cluster, mut values) = with_records(5).await;
    cluster.add_host();
    cluster.start(&[4]).await;
    set_state(&cluster, 1, 3, NodeState::Draining).await;
    // As soon as nothing is left there: what the catalog's log has of it is not yet known to be committed
    // when the node starts again.
    let data = |cluster: &Cluster| cluster.node(3).figures().len();
    until(|| data(&cluster) == 0 && log_files(&cluster, 3).is_empty()).await;
    cluster.kill(3).await;
    for other in [1, 2, 4] {
        cluster.disturbance.partition(ip(3), ip(other));
    }
    cluster.start(&[3]).await;
    let view = cluster.node(3).view.borrow().clone();
    let is_placed = |placement: &Placement| placement.uses(NodeId(3));
    let placed = view.placements.values().skip(1).filter(|it| is_placed(it)).count();
    assert!(placed > 0, "the view is not old: {view:?}");
    assert_eq!((data(&cluster), log_files(&cluster, 3)), (0, Vec::new()));
    for other in [1, 2, 4] {
        cluster.disturbance.heal(ip(3), ip(other));
    }
    publish(&cluster, 3, &mut values, 2).await;
    assert_eq!(cluster.read(3, "s").await, values);
    assert_eq!((data(&cluster), log_files(&cluster, 3)), (0, Vec::new()));
    // It comes back as another.
    set_state(&cluster, 1, 3, NodeState::Active).await;
    set_state(&cluster, 1, 4, NodeState::Draining).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    cluster.votes_again(3, shard, 2).await;
    assert_eq!(cluster.read(3, "s").await, values);
}

#[tokio::test(start_paused = true)]
async fn the_view_as_of_now_has_what_was_handed_over_before() {
    let broker = start(&MemoryNetwork::new()).await;
    let catalog = broker.cluster_admin.catalog.clone();
    let set = CatalogCommand::SetNodeState { node: NodeId(1), state: NodeState::Draining };
    let at = EntryId { term: 1_000, index: 1_000 };
    let command = Command { ts: Timestamp(1), body: CommandBody::Catalog(set) };
    let content = EntryContent::Command(command);
    catalog.hand_over(vec![CommittedEntry { at, content, ticket: None }]).await;
    let state = |view: &ClusterView| view.nodes[&NodeId(1)].state;
    assert_eq!(state(&catalog.view().borrow()), NodeState::Active, "its owner had no turn yet");
    assert_eq!(state(&catalog.view_now().await.unwrap()), NodeState::Draining);
}

/// Ends a node, with a checkpoint of the shard as of now.
async fn kill_with_checkpoint(cluster: &mut Cluster, number: usize, shard: ShardId) {
    let local = cluster.node(number).streams.routing().local(shard).unwrap();
    local.handle.checkpoint().await.unwrap().unwrap();
    cluster.kill(number).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_and_may_be_whole_is_no_reason_to_give_a_replica_up() {
    let (mut cluster, values) = with_records(20).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    for number in [1, 2, 3] {
        cluster.node(number).streams.routing().catch_up(shard).await.unwrap();
    }
    for number in [1, 2, 3] {
        kill_with_checkpoint(&mut cluster, number, shard).await;
    }
    // A newer release ran on all of them.
    let another_version = |cluster: &Cluster| {
        for disk in &cluster.disks {
            let dir = format!("shards/{shard}/checkpoints");
            let names = disk.list(dir.as_ref()).unwrap();
            let checkpoints = names.iter().filter(|name| name.ends_with(".ckpt"));
            let changed = checkpoints.map(|name| {
                let path = Path::new(&dir).join(name);
                assert!(disk.flip(&path, 9, 0x40));
                // Its checksum says so, too.
                let bytes = disk.contents(&path).unwrap();
                let sums = railgun_types::crc32c(&bytes[..16]).to_le_bytes();
                for (at, sum) in (16..20).zip(sums) {
                    disk.flip(&path, at, bytes[at] ^ sum);
                }
            });
            assert!(changed.count() > 0);
        }
    };
    another_version(&cluster);
    let starting = [1, 2, 3].map(|number| Broker::start(cluster.spec(number, 100 + number as u64)));
    for refused in futures::future::join_all(starting).await {
        let refused = refused.map(drop);
        let is_told =
            matches!(&refused, Err(StartError::Checkpoints { shard: of, .. }) if *of == shard);
        assert!(is_told, "{refused:?}");
    }
    for number in [1, 2, 3] {
        cluster.kill(number).await;
    }
    another_version(&cluster);
    cluster.start(&[1, 2, 3]).await;
    for number in [1, 2, 3] {
        cluster.votes_again(number, shard, 1).await;
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_of_a_replica_that_is_given_up_does_not_stay_open() {
    let (mut cluster, mut values) = with_records(5).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    let dir = Path::new("shards").join(shard.to_string()).join("log");
    cluster.kill(2).await;
    let before = cluster.disks[1].fork();
    cluster.start(&[2]).await;
    publish(&cluster, 1, &mut values, 20).await;
    cluster.node(2).streams.routing().catch_up(shard).await.unwrap();
    kill_with_checkpoint(&mut cluster, 2, shard).await;
    // Somebody brings an older log back: it ends before the checkpoint.
    let disk = &cluster.disks[1];
    disk.list(&dir).unwrap().iter().for_each(|file| disk.remove(&dir.join(file)).unwrap());
    for file in before.list(&dir).unwrap() {
        let bytes = before.contents(dir.join(&file)).unwrap();
        let copy = disk.create(&dir.join(&file), bytes.len() as u64).unwrap();
        railgun_log::write_all_vectored_at(&*copy, &mut [std::io::IoSlice::new(&bytes)], 0)
            .unwrap();
        copy.sync_data().unwrap();
    }
    disk.sync_dir(&dir).unwrap();
    cluster.start(&[2]).await;
    cluster.votes_again(2, shard, 2).await;
    assert_eq!(cluster.read(2, "s").await, values);
    let log = &cluster.node(2)._log;
    let opened = log.opener.open_shard(&dir, log.options.clone());
    assert!(opened.is_ok(), "{opened:?}");
}

/// A fourth node, on a disk that can be made to fail, in a cluster of three.
async fn with_fourth(cluster: &mut Cluster) -> scarce::Scarce {
    cluster.add_host();
    let spec = cluster.spec(4, 100);
    let disk = scarce::Scarce::new(cluster.disks[3].clone());
    let seams = Seams { disk: Arc::new(disk.clone()), ..spec.seams };
    cluster.nodes[3] = Some(Broker::start(BrokerSpec { seams, ..spec }).await.unwrap());
    disk
}

#[tokio::test(start_paused = true)]
async fn a_life_counts_as_begun_when_it_is_kept() {
    let (mut cluster, _) = with_records(1).await;
    let disk = with_fourth(&mut cluster).await;
    // The first data shard's is kept, the second's is not at first.
    disk.fail_after(SimOp::Rename, 1, |path| path.starts_with("node.new"));
    set_state(&cluster, 1, 3, NodeState::Draining).await;
    for shard in [ShardId(1), ShardId(2)] {
        cluster.votes_again(4, shard, 1).await;
    }
    assert!(disk.has_failed());
    let kept = Identity::load(&cluster.disks[3], &cluster.bucket.url().to_string());
    let kept = kept.unwrap().unwrap().member.unwrap().replicas;
    let all = BTreeMap::from([(ShardId::CATALOG, 1), (ShardId(1), 1), (ShardId(2), 1)]);
    assert_eq!(kept, all);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_start_keeps_nothing_from_the_others() {
    let (mut cluster, _) = with_records(1).await;
    // A stream on the first data shard, which starts before the other.
    let on = async |stream: &str| {
        let streams = &cluster.node(1).streams;
        streams.ensure(wish(stream, 1 << 20, EnsureMode::Warn)).await.unwrap();
        streams.resolve(&name(stream)).await.unwrap().shard.id()
    };
    let mut stream = "a".to_owned();
    while on(&stream).await != ShardId(1) {
        stream.push('a');
    }
    let disk = with_fourth(&mut cluster).await;
    disk.fail_after(SimOp::SyncDir, 0, |dir| dir.starts_with("shards/2/checkpoints"));
    // It hears of both shards at once.
    for other in [1, 2, 3] {
        cluster.disturbance.partition(ip(4), ip(other));
    }
    set_state(&cluster, 1, 3, NodeState::Draining).await;
    let is_placed = |it: &Placement| it.replica_on(NodeId(4)).is_some();
    until(|| cluster.node(1).view.borrow().placements.values().all(is_placed)).await;
    for other in [1, 2, 3] {
        cluster.disturbance.heal(ip(4), ip(other));
    }
    cluster.votes_again(4, ShardId(1), 1).await;
    assert!(disk.has_failed());
    cluster.votes_again(4, ShardId(2), 1).await;
    // What it leads, as it is to, comes to the bucket.
    let placement = cluster.node(1).view.borrow().placements[&ShardId(1)].clone();
    let (mut replicas, own) = (placement.voters, ReplicaId::new(NodeId(4), 1));
    replicas.sort_by_key(|replica| *replica != own);
    let if_version = placement.version;
    let place = CatalogCommand::Place { shard: ShardId(1), replicas, if_version };
    cluster.node(1).streams.routing().change(place).await.unwrap();
    until(|| cluster.leader(1, ShardId(1)) == Some(4)).await;
    cluster.publish(4, &stream, b"x").await;
    let name = name(&stream);
    let sealed = timeout(PATIENCE, cluster.node(4).streams.seal(&name, true)).await;
    sealed.expect("it is uploaded").unwrap();
    assert_eq!(cluster.leader(1, ShardId(1)), Some(4));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lost_its_log_is_replaced_by_another_by_itself() {
    let (mut cluster, mut values) = with_records(20).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    cluster.kill(2).await;
    lose_log(&cluster, 2, shard);
    publish(&cluster, 1, &mut values, 1).await;
    cluster.start(&[2]).await;
    cluster.votes_again(2, shard, 2).await;
    assert_eq!(cluster.read(2, "s").await, values);
    // It counts: without it there is no majority.
    cluster.kill(3).await;
    publish(&cluster, 2, &mut values, 3).await;
    assert_eq!(cluster.read(2, "s").await, values);
    // And it is the same after a restart, of all.
    cluster.start(&[3]).await;
    for number in [1, 2, 3] {
        cluster.kill(number).await;
    }
    cluster.start(&[1, 2, 3]).await;
    for number in [1, 2, 3] {
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
    }
    cluster.votes_again(2, shard, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_copy_of_the_catalog_is_replaced_by_another_by_itself() {
    let (mut cluster, mut values) = with_records(3).await;
    cluster.kill(2).await;
    lose_log(&cluster, 2, ShardId::CATALOG);
    cluster.start(&[2]).await;
    cluster.votes_again(2, ShardId::CATALOG, 2).await;
    cluster.kill(1).await;
    cluster.node(2).streams.ensure(wish("t", 1 << 20, EnsureMode::Warn)).await.unwrap();
    publish(&cluster, 3, &mut values, 2).await;
    assert_eq!(cluster.read(2, "s").await, values);
}

#[tokio::test(start_paused = true)]
async fn power_may_be_cut_whenever_a_cluster_is_being_formed() {
    for moment in 0..40 {
        let mut cluster = Cluster::new(3);
        let early = timeout(Duration::from_millis(moment * 25), cluster.start(&[1, 2, 3])).await;
        for number in [1, 2, 3] {
            cluster.kill(number).await;
        }
        cluster.start(&[1, 2, 3]).await;
        let ensured = cluster.node(3).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await;
        assert!(ensured.is_ok(), "{moment} ({}): {ensured:?}", early.is_ok());
        publish(&cluster, 2, &mut Vec::new(), 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_missed_what_the_others_have_given_up_gets_a_snapshot() {
    let (mut cluster, mut values) = with_records(5).await;
    cluster.kill(3).await;
    publish(&cluster, 1, &mut values, 30).await;
    // The others keep none of it in their logs.
    for number in [1, 2] {
        cluster.node(number).streams.seal(&name("s"), true).await.unwrap();
    }
    publish(&cluster, 1, &mut values, 5).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    let log = cluster.node(1).on_node.borrow()[&shard].log.clone();
    // Raft waits a moment for the one that is not there.
    let purged = timeout(PATIENCE, async {
        loop {
            if let Some(purged) = log.state().last_purged {
                break purged.index;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    let purged = purged.await.expect("something was given up");
    cluster.start(&[3]).await;
    assert_eq!(cluster.read(3, "s").await, values);
    let behind = cluster.node(3).on_node.borrow()[&shard].log.clone();
    assert!(behind.state().last_purged.is_some_and(|id| id.index >= purged), "it got a snapshot");
    // It is as good as any.
    cluster.kill(1).await;
    publish(&cluster, 3, &mut values, 2).await;
    cluster.kill(3).await;
    cluster.start(&[1, 3]).await;
    assert_eq!(cluster.read(3, "s").await, values);
    assert_eq!(cluster.read(1, "s").await, values);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_tells_its_publishers_and_the_others_go_on() {
    let (cluster, mut values) = with_records(3).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    let leader = cluster.leader(1, shard).expect("the shard has a leader");
    let others: Vec<_> = (1..=3).filter(|n| *n != leader).collect();
    // Its client reaches it, and it reaches nobody.
    let (connection, _control) = enter(&cluster.network, cluster.node(leader)).await;
    let (mut writer, mut reader) = publishers::open(&connection).await;
    for &other in &others {
        cluster.disturbance.partition(ip(leader), ip(other));
    }
    // What is sent at the same moment may have gone before.
    sleep(Duration::from_millis(1)).await;
    writer.send(publishers::frame(b"cut off")).await.unwrap();
    let told = timeout(Duration::from_secs(4), publishers::results(&mut reader)).await.unwrap();
    let error = WireError::from(told[0].error.clone().expect("it is not acknowledged"));
    assert_eq!(error.code, ErrorCode::OutcomeUnknown);
    // What comes later is refused.
    writer.send(publishers::frame(b"too late")).await.unwrap();
    let told = timeout(Duration::from_secs(4), publishers::results(&mut reader)).await.unwrap();
    let error = WireError::from(told[0].error.clone().expect("it is not acknowledged"));
    assert_eq!(error.code, ErrorCode::Unavailable);
    publish(&cluster, others[0], &mut values, 3).await;
    for &other in &others {
        cluster.disturbance.heal(ip(leader), ip(other));
    }
    publish(&cluster, leader, &mut values, 1).await;
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values, "node {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fourth_node_joins_and_serves() {
    let (mut cluster, mut values) = with_records(5).await;
    cluster.add_host();
    cluster.start(&[4]).await;
    assert_eq!(cluster.node(4).node(), NodeId(4));
    assert_eq!(cluster.node(4).cluster_uid(), cluster.node(1).cluster_uid());
    publish(&cluster, 4, &mut values, 3).await;
    assert_eq!(cluster.read(1, "s").await, values);
    cluster.node(4).streams.ensure(wish("t", 1 << 20, EnsureMode::Warn)).await.unwrap();
    // The same one after a restart.
    cluster.kill(4).await;
    cluster.start(&[4]).await;
    assert_eq!(cluster.node(4).node(), NodeId(4));
    publish(&cluster, 4, &mut values, 1).await;
}
