//! Logs that turn out to be damaged while their replicas run: no wrong byte is served, readers go on with
//! another replica, and the damaged one is replaced by itself.

use std::path::Path;

use railgun_log::Disk;

use super::cluster_rig::{Cluster, PATIENCE};
use super::numbered::{RECORDS, publish, value, values, with_records};
use super::*;

/// The one that rots.
const ROTTEN: usize = 5;

/// Changes one byte of a record in a node's log, wherever that has it.
fn rot(cluster: &Cluster, number: usize, shard: ShardId, record: usize) {
    let (disk, value) = (&cluster.disks[number - 1], value(record));
    let dir = format!("shards/{shard}/log");
    let mut rotten = 0;
    for name in disk.list(dir.as_ref()).unwrap() {
        let path = Path::new(&dir).join(name);
        let bytes = disk.contents(&path).unwrap();
        if let Some(at) = bytes.windows(40).position(|window| *window == value[..40]) {
            assert!(disk.flip(&path, at + 10_000, 4));
            rotten += 1;
        }
    }
    assert!(rotten > 0, "the record is in no file");
}

/// Everything in the stream, read from a node by a client that asks again where it is told to.
async fn read(cluster: &Cluster, number: usize) -> Vec<Vec<u8>> {
    let (mut values, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let (connection, _control) = enter(&cluster.network, cluster.node(number)).await;
        let mut line = connection.open().await.unwrap();
        let subscribe = v1::Subscribe {
            stream: "s".to_owned(),
            start: Some(v1::subscribe::Start::Offset(values.len() as u64)),
            until_end: true,
            credit_bytes: u64::MAX,
            ..v1::Subscribe::default()
        };
        line.0.send(Frame::new(&subscribe)).await.unwrap();
        loop {
            let frame = timeout(PATIENCE, line.1.next()).await.unwrap().unwrap().unwrap();
            match frame.kind() {
                FrameKind::Subscribed => {}
                FrameKind::Deliver => {
                    let head: v1::Deliver = frame.decode().unwrap();
                    assert_eq!((head.base_offset, head.skip), (values.len() as u64, 0));
                    let batch = RecordBatch::verify(frame.blob()).unwrap();
                    values.extend(batch.records().map(|r| r.content().unwrap().value.to_vec()));
                }
                FrameKind::End => return values,
                _ => {
                    let error = WireError::from(frame.decode::<v1::Error>().unwrap());
                    let Retry::After(after) = error.retry else { panic!("{error}") };
                    refused.push(error.to_string());
                    sleep(after).await;
                    break;
                }
            }
        }
    }
    panic!("it is refused again and again: {refused:?}");
}

fn incarnation(cluster: &Cluster, number: usize, shard: ShardId) -> Option<u16> {
    Some(cluster.node(number).on_node.borrow().get(&shard)?.replica.incarnation())
}

/// Waits until somebody leads, as this node knows.
async fn leader(cluster: &Cluster, number: usize, shard: ShardId) -> usize {
    let led = async {
        loop {
            if let Some(leader) = cluster.leader(number, shard) {
                return leader;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, led).await.expect("somebody leads")
}

/// What a node has read before is in its memory: after this it is in files only.
async fn restart(cluster: &mut Cluster, number: usize) {
    cluster.kill(number).await;
    cluster.start(&[number]).await;
    // Until leads stay where they are: what is published while one moves may be published twice.
    sleep(Duration::from_secs(15)).await;
}

/// A stream of which one node, which is down, lacks the second half, while the others have it in files only;
/// with its shard, and that node.
async fn with_one_behind() -> (Cluster, ShardId, usize) {
    let (mut cluster, shard) = with_records().await;
    let behind = leader(&cluster, 1, shard).await % 3 + 1;
    cluster.kill(behind).await;
    let up = behind % 3 + 1;
    publish(&cluster, up, RECORDS..2 * RECORDS).await;
    for other in (1..=3).filter(|other| *other != behind) {
        restart(&mut cluster, other).await;
    }
    (cluster, shard, behind)
}

#[tokio::test(start_paused = true)]
async fn a_reader_goes_on_with_another_replica_and_the_damaged_one_is_replaced_by_itself() {
    let (mut cluster, shard) = with_records().await;
    let follower = leader(&cluster, 1, shard).await % 3 + 1;
    restart(&mut cluster, follower).await;
    publish(&cluster, follower, RECORDS..RECORDS + 1).await;
    rot(&cluster, follower, shard, ROTTEN);
    assert_eq!(cluster.read(follower, "s").await, values(RECORDS + 1));
    cluster.votes_again(follower, shard, 2).await;
    assert_eq!(cluster.read(follower, "s").await, values(RECORDS + 1));
    // It counts: without it there is no majority.
    let other = follower % 3 + 1;
    cluster.kill(other).await;
    publish(&cluster, follower, RECORDS + 1..RECORDS + 3).await;
    assert_eq!(cluster.read(follower, "s").await, values(RECORDS + 3));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_leader_gives_the_lead_away_and_is_replaced() {
    let (mut cluster, shard) = with_records().await;
    for number in 1..=3 {
        restart(&mut cluster, number).await;
    }
    publish(&cluster, 1, RECORDS..RECORDS + 1).await;
    let damaged = leader(&cluster, 1, shard).await;
    rot(&cluster, damaged, shard, ROTTEN);
    assert_eq!(cluster.read(damaged, "s").await, values(RECORDS + 1));
    cluster.votes_again(damaged, shard, 2).await;
    publish(&cluster, damaged, RECORDS + 1..RECORDS + 2).await;
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values(RECORDS + 2), "node {number}");
        assert_eq!(incarnation(&cluster, number, shard), Some(1 + u16::from(number == damaged)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_from_another_leader_what_is_damaged_with_the_first() {
    let (mut cluster, shard, behind) = with_one_behind().await;
    let up = behind % 3 + 1;
    publish(&cluster, up, 2 * RECORDS..2 * RECORDS + 1).await;
    let damaged = leader(&cluster, up, shard).await;
    rot(&cluster, damaged, shard, RECORDS + ROTTEN);
    cluster.start(&[behind]).await;
    cluster.votes_again(damaged, shard, 2).await;
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values(2 * RECORDS + 1), "node {number}");
    }
    assert_eq!(incarnation(&cluster, behind, shard), Some(1));
    assert!(timeout(Duration::from_secs(1), cluster.node(damaged).failed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_is_elected_and_cannot_read_its_log_dies_without_its_node() {
    let (mut cluster, shard, behind) = with_one_behind().await;
    let up = behind % 3 + 1;
    let whole = leader(&cluster, up, shard).await;
    let damaged = 6 - behind - whole;
    rot(&cluster, damaged, shard, RECORDS + ROTTEN);
    // Only the damaged one can be elected then, and must send the other what it cannot read.
    cluster.kill(whole).await;
    cluster.start(&[behind]).await;
    let failed = timeout(Duration::from_secs(20), cluster.node(damaged).failed()).await;
    assert!(failed.is_err(), "the node ended: {failed:?}");
    // It has died, and what it alone knows to be committed may still be read: nobody takes its place yet.
    assert_ne!(incarnation(&cluster, damaged, shard), Some(2));
    cluster.start(&[whole]).await;
    cluster.votes_again(damaged, shard, 2).await;
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values(2 * RECORDS), "node {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn damage_that_is_found_when_a_node_applies_its_log_again_is_mended_likewise() {
    let (mut cluster, shard) = with_records().await;
    // So that the damage is not in the newest file, which is read at each start.
    publish(&cluster, 1, RECORDS..80).await;
    cluster.kill(2).await;
    rot(&cluster, 2, shard, ROTTEN);
    cluster.start(&[2]).await;
    cluster.votes_again(2, shard, 2).await;
    assert_eq!(cluster.read(2, "s").await, values(80));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_replica_stays_while_the_others_cannot_do_without_it() {
    let (mut cluster, shard) = with_records().await;
    for number in 1..=3 {
        restart(&mut cluster, number).await;
    }
    publish(&cluster, 1, RECORDS..RECORDS + 1).await;
    let whole = leader(&cluster, 1, shard).await;
    let (damaged, other) = (whole % 3 + 1, (whole + 1) % 3 + 1);
    cluster.kill(other).await;
    rot(&cluster, damaged, shard, ROTTEN);
    assert!(read(&cluster, damaged).await == values(RECORDS + 1));
    sleep(Duration::from_secs(30)).await;
    assert_eq!(incarnation(&cluster, damaged, shard), Some(1));
    publish(&cluster, whole, RECORDS + 1..RECORDS + 2).await;
    cluster.start(&[other]).await;
    cluster.votes_again(damaged, shard, 2).await;
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values(RECORDS + 2), "node {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_damaged_replicas_one_goes_after_the_other() {
    let (mut cluster, shard) = with_records().await;
    for number in 1..=3 {
        restart(&mut cluster, number).await;
    }
    publish(&cluster, 1, RECORDS..RECORDS + 1).await;
    let whole = leader(&cluster, 1, shard).await;
    let damaged: Vec<_> = (1..=3).filter(|number| *number != whole).collect();
    rot(&cluster, damaged[0], shard, ROTTEN);
    rot(&cluster, damaged[1], shard, ROTTEN + 3);
    let both = tokio::join!(read(&cluster, damaged[0]), read(&cluster, damaged[1]));
    assert!(both == (values(RECORDS + 1), values(RECORDS + 1)));
    for &number in &damaged {
        cluster.votes_again(number, shard, 2).await;
    }
    publish(&cluster, damaged[0], RECORDS + 1..RECORDS + 2).await;
    for number in 1..=3 {
        assert_eq!(cluster.read(number, "s").await, values(RECORDS + 2), "node {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_catalog_whose_log_rots_gives_it_up_and_may_lead_again() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    let catalog = ShardId::CATALOG;
    for number in 1..=3 {
        restart(&mut cluster, number).await;
    }
    let streams: Vec<_> = (0..40).map(|number| format!("stream-{number:05}")).collect();
    for stream in &streams {
        let wish = wish(stream, 10, EnsureMode::Warn);
        cluster.node(1).streams.ensure(wish).await.unwrap();
    }
    let damaged = leader(&cluster, 1, catalog).await;
    // So that it is in the file only.
    cluster.kill(damaged).await;
    cluster.start(&[damaged]).await;
    let local = cluster.node(damaged).on_node.borrow()[&catalog].clone();
    let (disk, name) = (&cluster.disks[damaged - 1], streams[20].as_bytes());
    let mut rotten = 0;
    for file in disk.list("shards/0/log".as_ref()).unwrap() {
        let path = Path::new("shards/0/log").join(file);
        let bytes = disk.contents(&path).unwrap();
        if let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            assert!(disk.flip(&path, at, 4));
            rotten += 1;
        }
    }
    assert!(rotten > 0, "the name is in no file");
    let state = local.log.state();
    let first = state.last_purged.map_or(0, |purged| purged.index + 1);
    let read = local.log.read(first, state.last.unwrap().index + 1, usize::MAX);
    assert!(local.log.damaged().is_some(), "{read:?}");

    let whole = async {
        while local.log.damaged().is_some() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(30), whole).await.expect("the log is given up");
    assert_eq!(incarnation(&cluster, damaged, catalog), Some(1));
    // It has everything, and leads if it is asked to.
    let to = v1::TransferLeader { shard: catalog.0, node_id: damaged as u32 };
    if leader(&cluster, 1, catalog).await != damaged {
        cluster.node(1).cluster_admin.transfer_leader(to).await.unwrap();
    }
    for stream in &streams {
        cluster.node(damaged).streams.resolve(&super::name(stream)).await.unwrap();
    }
}
