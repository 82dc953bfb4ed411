//! Harm to what lies on a disk: to that of one node at a time, while the others have all that was acked. The
//! node mends it by itself, and may be harmed again when it has.

use std::collections::BTreeSet;
use std::time::Duration;

use railgun_log::CrashPlan;
use railgun_net::memory::Crash as HostCrash;

use super::super::bucket::SimBucket;
use super::super::checker::Harm;
use super::faults::At;
use super::member::{Cause, Member};
use super::{ClusterWorld, DATA_SHARDS, NODES};

/// Time in which what was lost is replaced when nothing else is wrong and all nodes run.
pub(super) const MEND_PATIENCE: Duration = Duration::from_secs(30);
/// A replica is given up when damage is found, and another takes its place some time later, also where the
/// file with the damage was purged in between.
const REPLACED_LATE: Duration = Duration::from_secs(15);
/// Moments at which the others are asked whether they have everything: under load they lack what has just
/// been acked.
const ASKED_MAX: usize = 100;
/// How often whoever replaces a node gives it another bucket than the cluster's at first.
const MISTYPED_PERCENT: u64 = 50;

impl ClusterWorld {
    /// A node's shards are gone, and it is back after a while. Whether that was done; likewise below.
    pub(super) async fn lose_disk(&mut self, at: At, down: Duration) -> bool {
        if !self.may_be_harmed(at).await {
            return false;
        }
        self.be_harmed(at);
        let back_at = self.trace.elapsed() + down;
        self.crash(at, HostCrash::Silent, &CrashPlan::LoseAll, back_at).await;
        self.members[at].node.lose_shards();
        self.note(at, format_args!("has lost its shards"));
        true
    }

    /// What lies on a node's disk is not what was written, when it is back.
    pub(super) async fn damage_disk(&mut self, at: At, down: Duration) -> bool {
        if !self.may_be_harmed(at).await {
            return false;
        }
        self.be_harmed(at);
        let back_at = self.trace.elapsed() + down;
        self.crash(at, HostCrash::Silent, &CrashPlan::LoseAll, back_at).await;
        let Some(harm) = self.checker.find_harm(at, &mut self.random) else { return false };
        self.strike_disk(at, harm);
        true
    }

    /// A bit flips on a node's disk while it runs. Whoever reads it notices, or the node's next life.
    pub(super) async fn flip_bit(&mut self, at: At, down: Duration) -> bool {
        if !self.may_be_harmed(at).await {
            return false;
        }
        let Some(harm) = self.checker.find_flip(at, &mut self.random) else { return false };
        self.be_harmed(at);
        self.checker.writes_on_rot();
        // It may end itself.
        self.members[at].hurt(Cause::FlippedBit(harm.shard()), down);
        self.strike_disk(at, harm);
        true
    }

    fn strike_disk(&mut self, at: At, harm: Harm) {
        self.note(at, format_args!("is harmed: {harm:?}"));
        harm.strike(&self.members[at].node.disk);
        self.harm = Some(harm);
    }

    /// A node is gone for good. One that knows nothing has its address after a while, and it is removed.
    pub(super) async fn replace_node(&mut self, at: At, down: Duration, removed: Duration) -> bool {
        if !self.may_be_harmed(at).await {
            return false;
        }
        self.be_harmed(at);
        let back_at = self.trace.elapsed() + down;
        self.crash(at, HostCrash::Silent, &CrashPlan::LoseAll, back_at).await;
        self.members[at].node.lose_everything();
        self.note(at, format_args!("is gone for good"));
        if self.random.percent(MISTYPED_PERCENT) {
            let (conditions, random) = (self.bucket.conditions, self.random.fork());
            let other = SimBucket::new(conditions, Duration::ZERO, random, self.trace.clone());
            self.members[at].node.mistype(Some(other));
            self.note(at, format_args!("is to come back with another bucket"));
        }
        self.operator.remove(at, removed);
        true
    }

    fn be_harmed(&mut self, at: At) {
        (self.lost, self.harm) = (Some(at), None);
        self.checker.is_hurt(self.lost);
    }

    /// Waits until every node has everything again; whether the others have all that this one has.
    async fn may_be_harmed(&mut self, at: At) -> bool {
        self.be_quiet().await;
        self.mend(self.well_at, MEND_PATIENCE).await;
        for _ in 0..ASKED_MAX {
            if !self.history.is_sound() {
                return false;
            }
            let is_whole = self.lost.is_none() && self.is_whole();
            if is_whole && self.checker.can_lose(at).await {
                return true;
            }
            self.step().await;
        }
        self.note(at, format_args!("has what the others lack, and keeps it"));
        false
    }

    /// Soon after `since` every shard has all its replicas.
    pub(super) async fn mend(&mut self, since: Duration, patience: Duration) {
        let complaint = "nothing is wrong, and a shard lacks a replica";
        self.wait_since(since, complaint, patience, Self::is_whole).await;
    }

    /// Whether every node has a replica of every shard, and all of them vote.
    fn is_whole(&mut self) -> bool {
        let lives: Vec<_> = self.members.iter().filter_map(Member::up).collect();
        let states: Vec<_> = lives.iter().flat_map(|life| life.broker.replica_states()).collect();
        lives.len() == usize::from(NODES)
            && (0..=DATA_SHARDS).all(|shard| {
                let of_shard = || states.iter().filter(|state| state.shard.0 == shard);
                let replicas: BTreeSet<_> = of_shard().map(|state| state.replica).collect();
                let voters = |voters: &[_]| voters.iter().copied().collect::<BTreeSet<_>>();
                replicas.len() == usize::from(NODES)
                    && of_shard().all(|state| voters(&state.voters) == replicas)
            })
    }

    pub(super) fn look_for_what_was_lost(&mut self) {
        if let Some(at) = self.lost
            && self.is_whole()
            && !self.has_harm(at)
        {
            self.note(at, format_args!("has everything again"));
            // What was lost as a whole is replaced by then.
            self.mended = self.harm.take().map(|_| (at, self.trace.elapsed()));
            self.lost = None;
            self.checker.is_hurt(None);
        }
    }

    /// The node that has a reason to replace what it has: it has lost something, or had until a moment ago.
    pub(super) fn may_replace(&self) -> Option<At> {
        let is_new = |since: Duration| self.trace.elapsed() < since + REPLACED_LATE;
        self.lost.or_else(|| self.mended.filter(|(_, since)| is_new(*since)).map(|(at, _)| at))
    }

    /// Whether a replica of the node still has what was done to it: nobody may have read it yet.
    fn has_harm(&self, at: At) -> bool {
        let Some(harm) = &self.harm else { return false };
        let node = &self.members[at].node;
        harm.lies_in(&node.newest_log_dirs(&node.disk), &node.disk)
    }
}
