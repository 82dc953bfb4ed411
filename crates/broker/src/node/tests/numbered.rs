//! Three nodes with a stream of large records, each of which tells its number.

use super::cluster_rig::Cluster;
use super::*;

/// Records that are there at first.
pub(super) const RECORDS: usize = 12;

pub(super) fn value(number: usize) -> Vec<u8> {
    let mut value = format!("record {number:05} of those with numbers").into_bytes();
    value.resize(20_000, number as u8);
    value
}

pub(super) fn values(records: usize) -> Vec<Vec<u8>> {
    (0..records).map(value).collect()
}

pub(super) async fn publish(cluster: &Cluster, number: usize, records: std::ops::Range<usize>) {
    for record in records {
        assert_eq!(cluster.publish(number, "s", &value(record)).await, record as u64);
    }
}

pub(super) async fn with_records() -> (Cluster, ShardId) {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    publish(&cluster, 1, 0..RECORDS).await;
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    (cluster, shard)
}
