//! Looks at disk and bucket as they are and compares them with the history (DESIGN §5): I1 to I5, I9,
//! I10, and PS-1 as far as it speaks of what a crash leaves.

mod attempts;
mod cold;
mod kept;
mod local;
mod promises;
mod quorum;
mod replay;
mod rot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use railgun_broker::ReplicaState;
use railgun_core::command::ClusterSettings;
use railgun_core::placement::shard_of;
use railgun_types::{ClusterUid, Offset, ShardId, StreamUid};
use tokio::task::JoinHandle;

use super::bucket::SimBucket;
use super::history::{History, MessageId};
use super::node::SimNode;
use super::random::Random;
use super::shared::Shared;
use super::trace::Trace;
use attempts::Attempts;
use cold::{Cold, Strays};
use kept::Kept;
use local::{Appends, Told};
use promises::Promises;

pub(super) use rot::Harm;

/// Entries with records that a shard may have on their way into its log.
const ENTRIES_IN_FLIGHT: usize = 8;
/// From here on no more are let in, in hundredths of the hot budget.
const HARD_PERCENT: u64 = 90;
/// What the clients of a run have on their way at most, by a generous measure.
const IN_FLIGHT_BYTES: u64 = 512 << 10;
/// The node knows its log bytes to within one step of a sparse index: so many, or an entry.
const INDEX_STEP_BYTES: u64 = 4 << 10;

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Checker {
    /// One, or those of a cluster.
    nodes: Vec<Arc<SimNode>>,
    history: History,
    cold: Shared<Option<Cold>>,
    attempts: Shared<Attempts>,
    kept: Shared<Kept>,
    promises: Shared<Promises>,
    /// The last entry of each shard that a replica of a cluster was seen to know as committed.
    committed: Shared<BTreeMap<ShardId, u64>>,
    trace: Trace,
    /// The disk is damaged on purpose for now, and no check would pass.
    looks_away: Shared<bool>,
    /// Messages that were seen in a shard's log more than once.
    repeated: Shared<BTreeSet<MessageId>>,
    /// The node whose disk was lost or damaged, as long as the others have what it had and it has not.
    hurt: Shared<Option<Hurt>>,
}

/// A node whose disk was lost or damaged.
#[derive(Clone, Debug)]
struct Hurt {
    at: usize,
    /// What was on its way then: what it and one other had, and the others not yet.
    underway: Arc<BTreeSet<MessageId>>,
    /// What was acked before it, where the node runs on and writes behind bytes that are not what was
    /// written: who reads its log never comes to what was acked since.
    readable: Option<Arc<BTreeSet<MessageId>>>,
}

impl Hurt {
    /// Whether one copy less may be left of it.
    fn may_lack(&self, id: MessageId) -> bool {
        self.underway.contains(&id) || self.readable.as_ref().is_some_and(|it| !it.contains(&id))
    }
}

impl Checker {
    /// Of these nodes, which share a bucket.
    pub(super) fn new(nodes: Vec<Arc<SimNode>>, history: History, trace: Trace) -> Self {
        let cold =
            Shared::new(Some(Cold::new(nodes[0].bucket.clone(), history.clone(), trace.clone())));
        let (attempts, kept) = (Shared::new(Attempts::default()), Shared::new(Kept::default()));
        let (promises, committed) =
            (Shared::new(Promises::default()), Shared::new(BTreeMap::new()));
        let (looks_away, hurt) = (Shared::new(false), Shared::new(None));
        let repeated = Shared::new(BTreeSet::new());
        Self {
            nodes,
            history,
            cold,
            attempts,
            kept,
            promises,
            committed,
            trace,
            looks_away,
            repeated,
            hurt,
        }
    }

    /// Everything acked is on the disk, as a power failure would leave it now, or in the bucket
    /// behind a manifest (PS-1, I2). Of several nodes, on the disks of a majority.
    pub(super) async fn check(&self) {
        if self.looks_away.with(|away| *away) {
            return;
        }
        // Another check is under way; it will see at least as much as was acked before.
        let Some(mut cold) = self.cold.with(Option::take) else { return };
        let acked = self.history.acked();
        // Before the bucket: what goes from a log meanwhile is in the bucket then.
        let hurt = self.hurt.with(|hurt| hurt.clone());
        let told = |(at, node): (usize, &Arc<SimNode>)| match &hurt {
            Some(hurt) if hurt.at == at => local::told_by_hurt(node, &self.history),
            _ => local::told(node, &self.history),
        };
        let told: Vec<_> = self.nodes.iter().enumerate().map(told).collect();
        cold.look().await;
        let in_bucket: BTreeSet<_> = cold.messages().collect();
        if let [node] = &self.nodes[..] {
            self.check_alone(node, &cold, &acked, &in_bucket, &told[0]);
        } else {
            let copies = self.nodes.len() / 2 + 1;
            let (fewer, rest): (Vec<_>, Vec<_>) = acked
                .iter()
                .copied()
                .partition(|(_, _, id)| hurt.as_ref().is_some_and(|hurt| hurt.may_lack(*id)));
            quorum::check(&self.history, &rest, &in_bucket, &told, copies);
            quorum::check(&self.history, &fewer, &in_bucket, &told, copies - 1);
            quorum::check_floors(&self.history, &acked, &in_bucket, &told);
            cold.manifests().for_each(|m| quorum::check_seals(&self.history, m, &told));
            self.attempts.with(|attempts| {
                for shard in (0..=self.node().shape.shards).map(ShardId) {
                    // It has all that was ever committed, in its place.
                    let newest = quorum::newest(shard, &told);
                    let last = self.committed.with(|all| all.get(&shard).copied());
                    if let (Some(newest), Some(last)) = (newest, last) {
                        attempts.take(shard, newest, last);
                    }
                }
                cold.manifests().for_each(|manifest| attempts.check(manifest, &self.history));
            });
            // What stays is not judged: where a node does not lead, it gives up its log every two seconds,
            // in which a log as small as these takes in many times its budget.
            let (held, budget) = (held(&acked, &in_bucket), self.node().shape.shard_budget());
            for shard in (1..=self.node().shape.shards).map(ShardId) {
                let Some(newest) = quorum::newest(shard, &told) else { continue };
                self.count_repeated(&newest.appends);
                let appends = quorum::as_sent_last(&newest.appends);
                check_admission(&self.history, shard, budget, &appends, &held);
            }
        }
        self.cold.with(|place| *place = Some(cold));
    }

    fn count_repeated(&self, appends: &[Appends]) {
        let mut once = BTreeSet::new();
        let again = appends.iter().flat_map(|it| &it.messages).filter(|id| !once.insert(**id));
        let repeated = self.repeated.with(|repeated| {
            repeated.extend(again);
            repeated.len() as u64
        });
        self.trace.count(|counts| counts.repeated = repeated);
    }

    /// What can be said of a log of which there is only one.
    fn check_alone(
        &self,
        node: &SimNode,
        cold: &Cold,
        acked: &[(StreamUid, Offset, MessageId)],
        in_bucket: &BTreeSet<MessageId>,
        told: &BTreeMap<ShardId, Told>,
    ) {
        self.kept.with(|kept| kept.check(&self.history, acked, in_bucket, told));
        self.attempts.with(|attempts| {
            told.iter().for_each(|(shard, told)| attempts.take(*shard, told, u64::MAX));
            cold.manifests().for_each(|manifest| attempts.check(manifest, &self.history));
        });
        self.check_budget(node, acked, in_bucket, told);
    }

    /// The disk of this node is lost or damaged; `None`: all are whole.
    pub(super) fn is_hurt(&self, at: Option<usize>) {
        let underway = Arc::new(self.history.open());
        self.hurt.with(|hurt| *hurt = at.map(|at| Hurt { at, underway, readable: None }));
    }

    /// The node whose disk is damaged runs on.
    pub(super) fn writes_on_rot(&self) {
        let acked: BTreeSet<_> = self.history.acked().into_iter().map(|(_, _, id)| id).collect();
        self.hurt.with(|hurt| {
            if let Some(hurt) = hurt {
                hurt.readable = Some(Arc::new(acked));
            }
        });
    }

    /// Whether the disks of all other nodes have everything that was acked and is not in the bucket.
    pub(super) async fn can_lose(&self, at: usize) -> bool {
        let Some(mut cold) = self.cold.with(Option::take) else { return false };
        cold.look().await;
        let in_bucket: BTreeSet<_> = cold.messages().collect();
        self.cold.with(|place| *place = Some(cold));
        // Nothing comes between this and the loss.
        let acked = self.history.acked();
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != at);
        let told: Vec<_> = others.map(|(_, node)| local::told(node, &self.history)).collect();
        quorum::has_few(&acked, &in_bucket, &told, told.len()).is_none()
    }

    /// What the replicas of a node were told is durable is on its disk, and was not more before.
    pub(super) fn check_promises(&self, at: usize, states: &[ReplicaState]) {
        self.committed.with(|committed| {
            for state in states {
                let last = committed.entry(state.shard).or_default();
                *last = (*last).max(state.committed.map_or(0, |entry| entry.index));
            }
        });
        let replicas: Vec<_> = states.iter().map(|state| (state.shard, state.replica)).collect();
        let marks = local::marks(&self.nodes[at], &replicas);
        self.promises.with(|promises| {
            for state in states {
                if let Some(mark) = marks.get(&state.shard) {
                    promises.check(&self.history, at, state, *mark);
                }
            }
        });
    }

    /// The only node; of several, the first.
    fn node(&self) -> &SimNode {
        &self.nodes[0]
    }

    /// That of all nodes.
    pub(super) fn bucket(&self) -> &SimBucket {
        &self.node().bucket
    }

    /// The last look at a run, whose `watching` task looked all the time.
    pub(super) async fn conclude(&self, watching: JoinHandle<()>) {
        self.rest().await;
        watching.abort();
        if !self.history.is_sound() {
            // A reader may have noticed first: this tells why.
            self.check().await;
        }
        self.count_objects().await;
        // Such a run says nothing.
        if self.history.is_sound() && self.history.counts().1 == 0 {
            self.history.violated("liveness", format_args!("nothing was acknowledged"));
        }
    }

    /// Waits for the end of a check that is under way, unless somebody gave it up.
    async fn rest(&self) {
        let under_way = async {
            while self.cold.with(|cold| cold.is_none()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), under_way).await.ok();
    }

    /// Whether checks are left out, while the disk is damaged on purpose.
    pub(super) fn look_away(&self, away: bool) {
        self.looks_away.with(|now| *now = away);
    }

    /// Recovery of this node never takes damage for a torn write.
    pub(super) fn check_verdict(&self, at: usize, random: &mut Random) {
        if self.hurt.with(|hurt| hurt.as_ref().map(|hurt| hurt.at)) != Some(at) {
            rot::check(&self.nodes[at], &self.history, random);
        }
    }

    /// Harm to the disk as it is on which the node must not start.
    pub(super) fn find_rot(&self, random: &mut Random) -> Option<Harm> {
        rot::find(self.node(), random)
    }

    /// Harm to the disk of a node that is down, which it is to mend.
    pub(super) fn find_harm(&self, at: usize, random: &mut Random) -> Option<Harm> {
        rot::find_harm(&self.nodes[at], random)
    }

    /// A bit to flip on the disk of a node that runs, which it is to mend.
    pub(super) fn find_flip(&self, at: usize, random: &mut Random) -> Option<Harm> {
        rot::find_flip(&self.nodes[at], random)
    }

    /// Everything that was published is in the bucket, and a replay without a broker gives it back.
    pub(super) async fn check_replay(&self, ends: &[(StreamUid, Offset)]) {
        check_ends(&self.history, &replay::ends(self.node(), &self.history).await, ends);
    }

    /// How long what uploads have left in the bucket that are over may stay, when nothing goes wrong: until
    /// nothing of them can arrive, and whoever looks for it has looked.
    pub(super) fn strays_for(&self) -> Duration {
        self.node().shape.thresholds.upload_lease * 5 / 2 + Duration::from_secs(15)
    }

    /// Whether the bucket has what manifests name, and nothing else. What is missing is told at once, what
    /// is too much if that is so `at_last`.
    pub(super) async fn is_tidy(&self, at_last: bool) -> bool {
        self.rest().await;
        let Some(mut cold) = self.cold.with(Option::take) else { return true };
        cold.look().await;
        let Strays { unnamed, missing } = cold.strays();
        self.cold.with(|place| *place = Some(cold));
        for key in missing {
            self.history.violated("I2", format_args!("a manifest names {key}, which is not there"));
        }
        if at_last && let Some(key) = unnamed.first() {
            let count = unnamed.len();
            let how = format_args!("no manifest names {key}, nor {} others", count - 1);
            self.history.violated("orphans", how);
        }
        unnamed.is_empty()
    }

    /// Counts what lies in the bucket.
    async fn count_objects(&self) {
        let Some(mut cold) = self.cold.with(Option::take) else { return };
        cold.look().await;
        self.trace.count(|counts| {
            for key in cold.objects().keys() {
                let count = match key {
                    key if key.contains("/data/bundle/") => &mut counts.bundles,
                    key if key.contains("/data/stream=") => &mut counts.segments,
                    key if key.contains("/manifest/") => &mut counts.manifests,
                    _ => continue,
                };
                *count += 1;
            }
        });
        self.cold.with(|place| *place = Some(cold));
    }

    /// What stays in a log when everything is in the bucket and retired is what the next entries
    /// need (I10). Shards without a stream were not asked to retire.
    pub(super) fn check_drained(&self, streams: &[(StreamUid, Offset)]) {
        let shape = &self.node().shape;
        let settings = ClusterSettings {
            cluster: ClusterUid::default(),
            shards: shape.shards,
            hot_bytes_max: shape.hot_bytes_max,
            replicas: 1,
        };
        let used = |(uid, _): &(StreamUid, Offset)| shard_of(*uid, &settings);
        let used: BTreeSet<_> = streams.iter().map(used).collect();
        for shard in used {
            let dir = SimNode::log_dir(shard.0);
            let bytes = local::log_bytes(self.node(), &dir);
            if bytes > 4 * self.node().shape.file_bytes {
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

    /// The last entry that the durable log of a shard has given up.
    pub(super) fn purged(&self, shard: ShardId) -> Option<u64> {
        local::told(self.node(), &self.history).get(&shard)?.purged
    }

    /// Log bytes are bounded, whatever the bucket does (I10): what is let in, and what stays.
    fn check_budget(
        &self,
        node: &SimNode,
        acked: &[(StreamUid, Offset, MessageId)],
        in_bucket: &BTreeSet<MessageId>,
        told: &BTreeMap<ShardId, Told>,
    ) {
        let shape = &node.shape;
        let (budget, held) = (shape.shard_budget(), held(acked, in_bucket));
        for (&shard, told) in told.iter().filter(|(shard, _)| **shard != ShardId::CATALOG) {
            check_admission(&self.history, shard, budget, &told.appends, &held);
            let files = local::log_bytes(node, &SimNode::log_dir(shard.0));
            self.trace.count(|counts| {
                let percent = |bytes: u64| bytes * 100 / budget;
                counts.log_percent_max = counts.log_percent_max.max(percent(files));
                let unpurged = percent(told.unpurged_bytes);
                counts.unpurged_percent_max = counts.unpurged_percent_max.max(unpurged);
            });
            check_stays(&self.history, shard, budget, shape.file_bytes, told, files);
        }
    }
}

/// What is acked and not in the bucket.
fn held(
    acked: &[(StreamUid, Offset, MessageId)],
    in_bucket: &BTreeSet<MessageId>,
) -> BTreeSet<MessageId> {
    acked.iter().map(|(_, _, id)| *id).filter(|id| !in_bucket.contains(id)).collect()
}

/// When the last entry was let in, those before it from the first on that holds what is not in the
/// bucket took less than the hard mark, but for those that were on their way into the log. Entries
/// that carry no records count for the node, and are left out here: the bound is exact.
fn check_admission(
    history: &History,
    shard: ShardId,
    budget: u64,
    appends: &[Appends],
    held: &BTreeSet<MessageId>,
) {
    let holds = |entry: &Appends| entry.messages.iter().any(|id| held.contains(id));
    let Some(first) = appends.iter().position(holds) else { return };
    // The last one itself, those on their way, and one that an index step may hide.
    let seen = appends.len().saturating_sub(ENTRIES_IN_FLIGHT + 2).max(first);
    let bytes: u64 = appends[first..seen].iter().map(|entry| entry.bytes).sum();
    if bytes > budget * HARD_PERCENT / 100 + INDEX_STEP_BYTES {
        let how = format_args!(
            "shard {shard} let an entry in with {bytes} bytes in its log that are not in the bucket, of {budget}"
        );
        history.violated("I10", how);
    }
}

/// What Raft has not given up stays within twice the budget, whether checkpoints come to be or not, but
/// for what was in flight when the mark was passed. Files may stay with what is in the bucket besides: as
/// long as all of them together are within the budget when they are looked at, which is twice a second,
/// with the file being written and the next one.
fn check_stays(
    history: &History,
    shard: ShardId,
    budget: u64,
    file_bytes: u64,
    told: &Told,
    files: u64,
) {
    let slack = IN_FLIGHT_BYTES + 3 * file_bytes;
    if files > 2 * budget + slack {
        let how =
            format_args!("the log of shard {shard} has {files} bytes, the budget is {budget}");
        history.violated("I10", how);
    }
    let unpurged = told.unpurged_bytes;
    if unpurged > 2 * budget * HARD_PERCENT / 100 + IN_FLIGHT_BYTES {
        let how = format_args!("shard {shard} keeps {unpurged} bytes, the budget is {budget}");
        history.violated("I10", how);
    }
}

/// A replay of every stream ends where the stream does.
fn check_ends(
    history: &History,
    replayed: &BTreeMap<StreamUid, Offset>,
    ends: &[(StreamUid, Offset)],
) {
    for (stream, end) in ends {
        let found = replayed.get(stream).copied().unwrap_or_default();
        if found != *end {
            let how = format_args!("replay of {stream} ends at {found}, the stream at {end}");
            history.violated("replay", how);
        }
    }
}
