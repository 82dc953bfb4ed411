//! Looks at disk and bucket as they are and compares them with the history (DESIGN §5): I1 to I5, I9,
//! I10, and PS-1 as far as it speaks of what a crash leaves.

mod cold;
mod local;
mod replay;
mod rot;

use std::collections::BTreeSet;
use std::sync::Arc;

use railgun_core::command::ClusterSettings;
use railgun_core::placement::shard_of;
use railgun_types::{ClusterUid, Offset, StreamUid};

use super::history::History;
use super::node::SimNode;
use super::random::Random;
use super::shared::Shared;
use cold::Cold;

pub(super) use rot::Damage;

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Checker {
    node: Arc<SimNode>,
    history: History,
    cold: Shared<Option<Cold>>,
    /// The disk is damaged on purpose for now, and no check would pass.
    looks_away: Shared<bool>,
}

impl Checker {
    pub(super) fn new(node: Arc<SimNode>, history: History) -> Self {
        let cold = Cold::new(node.bucket.clone(), history.clone());
        Self { node, history, cold: Shared::new(Some(cold)), looks_away: Shared::new(false) }
    }

    /// Everything acked is on the disk, as a power failure would leave it now, or in the bucket
    /// behind a manifest (PS-1, I2).
    pub(super) async fn check(&self) {
        if self.looks_away.with(|away| *away) {
            return;
        }
        // Another check is under way; it will see at least as much as was acked before.
        let Some(mut cold) = self.cold.with(Option::take) else { return };
        let acked = self.history.acked();
        cold.look().await;
        let local = local::messages(&self.node, &self.history);
        let kept: BTreeSet<_> = local.into_iter().chain(cold.messages()).collect();
        for (stream, offset, id) in acked {
            if !kept.contains(&id) {
                let how = format_args!(
                    "message {id}, acked at offset {offset} of {stream}, is neither in the durable \
                     log nor in the bucket behind a manifest"
                );
                self.history.violated("I2", how);
                break;
            }
        }
        self.check_budget();
        self.cold.with(|place| *place = Some(cold));
    }

    /// Whether checks are left out, while the disk is damaged on purpose.
    pub(super) fn look_away(&self, away: bool) {
        self.looks_away.with(|now| *now = away);
    }

    /// Recovery never takes damage for a torn write.
    pub(super) fn check_verdict(&self, random: &mut Random) {
        rot::check(&self.node, &self.history, random);
    }

    /// Damage to the disk as it is on which the node must not start.
    pub(super) fn find_rot(&self, random: &mut Random) -> Option<Damage> {
        rot::find(&self.node, random)
    }

    /// Everything that was published is in the bucket, and a replay without a broker gives it back.
    pub(super) async fn check_replay(&self, ends: &[(StreamUid, Offset)]) {
        let replayed = replay::ends(&self.node, &self.history).await;
        for (stream, end) in ends {
            let found = replayed.get(stream).copied().unwrap_or_default();
            if found != *end {
                let how = format_args!("replay of {stream} ends at {found}, the stream at {end}");
                self.history.violated("replay", how);
            }
        }
    }

    /// What stays in a log when everything is in the bucket and retired is what the next entries
    /// need (I10). Shards without a stream were not asked to retire.
    pub(super) fn check_drained(&self, streams: &[(StreamUid, Offset)]) {
        let shape = &self.node.shape;
        let settings = ClusterSettings {
            cluster: ClusterUid::default(),
            shards: shape.shards,
            hot_bytes_max: shape.hot_max_bytes,
        };
        let used = |(uid, _): &(StreamUid, Offset)| shard_of(*uid, &settings);
        let used: BTreeSet<_> = streams.iter().map(used).collect();
        for shard in used {
            let dir = SimNode::log_dir(shard.0);
            let bytes = local::log_bytes(&self.node, &dir);
            if bytes > 4 * self.node.shape.file_bytes {
                let how = format_args!("{bytes} bytes are left in {}", dir.display());
                self.history.violated("I10", how);
            }
        }
    }

    /// Behind the last record of a stream that a manifest in the bucket tells of.
    pub(super) async fn cold_end(&self, stream: StreamUid) -> Option<Offset> {
        let mut cold = self.cold.with(Option::take)?;
        cold.look().await;
        let end = cold.end(stream);
        self.cold.with(|place| *place = Some(cold));
        Some(end)
    }

    /// Log bytes are bounded, whatever the bucket does (I10).
    fn check_budget(&self) {
        let shape = &self.node.shape;
        let budget = shape.hot_max_bytes / u64::from(shape.shards);
        // What was in flight when the mark was passed, the file being written and the next one.
        let slack = (1 << 20) + 3 * shape.file_bytes;
        for dir in self.node.log_dirs() {
            let bytes = local::log_bytes(&self.node, &dir);
            if bytes > budget + slack {
                let how = format_args!(
                    "the log in {} has {bytes} bytes, the budget is {budget}",
                    dir.display()
                );
                self.history.violated("I10", how);
            }
        }
    }
}
