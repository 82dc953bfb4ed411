//! What came about in a run. A rule that holds in a run of nothing says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that certainly are not in their stream.
    pub refused: u64,
    /// Of these, because the log had taken all that it may hold, or the disk had no room.
    pub refused_full: u64,
    /// Handles of publishers to many streams that were dropped, and bound again.
    pub unbound: u64,
    /// Records that readers got from the node's memory.
    pub read_ring: u64,
    /// Records that they got from its log.
    pub read_hot: u64,
    /// Records that they got from the bucket.
    pub read_cold: u64,
    /// Times that memory was given back to readers who waited for it.
    pub waited: u64,
    /// Seals that somebody asked for and that ended well.
    pub sealed: u64,
    /// Objects in the bucket that hold one stream each.
    pub segments: u64,
    /// Objects in the bucket that hold many.
    pub bundles: u64,
    /// Manifest files in the bucket.
    pub manifests: u64,
    /// Objects that were seen in the bucket and are gone.
    pub collected: u64,
    /// Checkpoints that were written.
    pub checkpoints: u64,
    /// Checkpoints that became Raft snapshots, and snapshots that came from elsewhere.
    pub promotions: u64,
    /// The same, of the catalog.
    pub catalog_promotions: u64,
    /// Snapshots that replicas got from others.
    pub installed: u64,
    /// Replicas that came to vote in the place of earlier ones on their nodes.
    pub reborn: u64,
    /// Messages that are in a shard's log more than once.
    pub repeated: u64,
    /// Log files that were given up.
    pub retired: u64,
    /// Streams that were made or changed as an ensure says.
    pub ensured_changes: u64,
    /// Ensures that had nothing to do, or only to say what is not as it says.
    pub ensured_nothing: u64,
    /// Ensures that were refused as they had to be.
    pub ensure_refused: u64,
    /// Times the node ended itself, with a reason.
    pub ended_itself: u64,
    /// Starts on rot that were refused.
    pub rot_refused: u64,
    /// What struck, by its name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Nodes that began to serve while their bucket did not answer.
    pub served_without_bucket: u64,
    /// Nodes with another bucket than the cluster's that were told so.
    pub mistyped_told: u64,
    /// The longest time that one life of the node went on without its bucket.
    pub outage: Duration,
    /// Messages that members of groups were handed.
    pub handed: u64,
    /// Of these, after an attempt that failed.
    pub handed_again: u64,
    /// Of these, after they were dead.
    pub redriven: u64,
    /// Acks that were confirmed.
    pub acked_for_good: u64,
    /// Settles that came too late.
    pub stale: u64,
    /// Dead letters at the end.
    pub dead_letters: u64,
    /// Messages whose ids were known.
    pub duplicates: u64,
    /// Publishers that were told meanwhile that the log is full.
    pub refused_in_outage: u64,
    /// Most bytes in the files of a shard's log, in hundredths of its budget.
    pub log_percent_max: u64,
    /// Most log bytes above a shard's purge point, in hundredths of its budget.
    pub unpurged_percent_max: u64,
    /// The longest time until every shard of a cluster had a leader, when nothing was wrong any more.
    pub leaders_after: Duration,
    /// The longest time until all replicas were the same, when nothing was asked any more.
    pub agreed_after: Duration,
}

impl Counts {
    /// Both runs together.
    pub fn add(&mut self, other: &Self) {
        // Named one by one, so that a new field cannot be forgotten.
        let Self {
            refused,
            refused_full,
            unbound,
            read_ring,
            read_hot,
            read_cold,
            waited,
            sealed,
            segments,
            bundles,
            manifests,
            collected,
            checkpoints,
            promotions,
            catalog_promotions,
            installed,
            reborn,
            repeated,
            retired,
            ensured_changes,
            ensured_nothing,
            ensure_refused,
            ended_itself,
            rot_refused,
            faults,
            served_without_bucket,
            mistyped_told,
            outage,
            handed,
            handed_again,
            redriven,
            acked_for_good,
            stale,
            dead_letters,
            duplicates,
            refused_in_outage,
            log_percent_max,
            unpurged_percent_max,
            leaders_after,
            agreed_after,
        } = other;
        self.leaders_after = self.leaders_after.max(*leaders_after);
        self.agreed_after = self.agreed_after.max(*agreed_after);
        self.refused += refused;
        self.refused_full += refused_full;
        self.unbound += unbound;
        self.read_ring += read_ring;
        self.read_hot += read_hot;
        self.read_cold += read_cold;
        self.waited += waited;
        self.sealed += sealed;
        self.segments += segments;
        self.bundles += bundles;
        self.manifests += manifests;
        self.collected += collected;
        self.checkpoints += checkpoints;
        self.promotions += promotions;
        self.catalog_promotions += catalog_promotions;
        self.installed += installed;
        self.reborn += reborn;
        self.repeated += repeated;
        self.retired += retired;
        self.ensured_changes += ensured_changes;
        self.ensured_nothing += ensured_nothing;
        self.ensure_refused += ensure_refused;
        self.ended_itself += ended_itself;
        self.rot_refused += rot_refused;
        for (fault, times) in faults {
            *self.faults.entry(fault).or_default() += times;
        }
        self.served_without_bucket += served_without_bucket;
        self.mistyped_told += mistyped_told;
        self.outage = self.outage.max(*outage);
        self.handed += handed;
        self.handed_again += handed_again;
        self.redriven += redriven;
        self.acked_for_good += acked_for_good;
        self.stale += stale;
        self.dead_letters += dead_letters;
        self.duplicates += duplicates;
        self.refused_in_outage += refused_in_outage;
        self.log_percent_max = self.log_percent_max.max(*log_percent_max);
        self.unpurged_percent_max = self.unpurged_percent_max.max(*unpurged_percent_max);
    }
}
