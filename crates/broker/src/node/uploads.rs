//! Starts what brings a shard's records to the bucket.

use std::sync::Arc;
use std::time::Duration;

use railgun_cold::Bucket;
use railgun_raft::BlockingPool;
use railgun_types::ClusterUid;
use tokio::runtime::Handle;

use crate::actors::Actors;
use crate::builtin_bug::Planted;
use crate::clock::Clock;
use crate::cluster_bucket::{self, Standing};
use crate::offload::{Collector, ObjectMemory, OffloadSpec};
use crate::on_node::ShardOnNode;

/// What all shards of the node have in common there.
pub(super) struct Uploads {
    pub(super) cluster: ClusterUid,
    pub(super) bucket: Bucket,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pool: Arc<dyn BlockingPool>,
    pub(super) memory: ObjectMemory,
    pub(super) planted: Planted,
    pub(super) max_time_to_cold: Duration,
    /// Log bytes above the floor at which everything is sealed.
    pub(super) cut_bytes: u64,
    pub(super) segment_bytes_min: u64,
    pub(super) upload_lease: Duration,
    pub(super) actors: Actors,
    pub(super) background: Handle,
    /// Whether the bucket is known to be the cluster's.
    pub(super) standing: Standing,
}

impl Uploads {
    /// Begins for one shard. Requests to the bucket wait until it is known to be the right one: what is
    /// uploaded to a wrong one is committed, and then given up here. Nothing is given up before, either:
    /// where the bucket was emptied, the log may hold the last copy.
    pub(super) fn begin(&self, ShardOnNode { handle, reclaimer, stop }: &ShardOnNode) {
        let offload = OffloadSpec {
            cluster: self.cluster,
            shard: handle.clone(),
            bucket: self.bucket.clone(),
            clock: Arc::clone(&self.clock),
            pool: Arc::clone(&self.pool),
            memory: self.memory.clone(),
            reclaimer: reclaimer.clone(),
            planted: self.planted,
            max_time_to_cold: self.max_time_to_cold,
            cut_bytes: self.cut_bytes,
            segment_bytes_min: self.segment_bytes_min,
            upload_lease: self.upload_lease,
        };
        let offload = offload.run(stop.clone());
        self.actors.spawn_on("an offloader", offload, &self.background);
        let collector = Collector {
            cluster: self.cluster,
            shard: handle.clone(),
            bucket: self.bucket.clone(),
            planted: self.planted,
            upload_lease: self.upload_lease,
        };
        let collector = collector.run(stop.clone());
        self.actors.spawn_on("a collector", collector, &self.background);
        let (standing, reclaimer, stop) =
            (Arc::clone(&self.standing), reclaimer.clone(), stop.clone());
        self.actors.spawn("a reclaimer", async move {
            let is_ours = stop.run_until_cancelled(cluster_bucket::is_ours(standing)).await;
            if is_ours.is_some() {
                reclaimer.run(stop.clone()).await;
            }
        });
    }
}
