//! Brings one shard's records into the bucket: decides when to seal, uploads planned objects in
//! order, commits them, mirrors the manifest (DESIGN §4.8). Owns nothing that a crash could lose:
//! plans, attempts, commits and mirrors are replicated state, and a repeated upload writes the same bytes
//! to the same key, or other ones to a key of its own.

mod collect;
mod gather;
mod reclaim;

use std::sync::Arc;
use std::time::Duration;

use railgun_cold::keys::Key;
use railgun_cold::segment::{ChunkPool, EncodeSpec};
use railgun_cold::{Bucket, BucketError, manifest};
use railgun_core::command::{CommandBody, ObjectCommit, SealScope, SegmentCommand, UploadAttempt};
use railgun_core::manifest::{ContentHash, ManifestFile, ObjectId};
use railgun_core::shard::{Attempt, CommitRefused, Outcome};
use railgun_raft::{BlockingPool, PoolStopped, run_on};
use railgun_types::{ClusterUid, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::builtin_bug::{BuiltinBug, Planted};
use crate::clock::Clock;
use crate::replica::{NodeStopping, ProposeFailure};
use crate::shard::{NextPlan, OffloadStatus, ShardHandle};
use gather::GatherError;

pub(crate) use collect::Collector;
pub(crate) use reclaim::{ReclaimError, Reclaimer};

/// How often an idle shard is looked at that this node leads, or one that waits for others.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A manifest that only tells of new or deleted streams is written at most this often, and one that
/// committed objects wait for is put off no longer than this while there are others to upload: one
/// is enough for all of a short queue, and a long one moves the floor as it goes.
const MIRROR_EVERY: Duration = Duration::from_secs(5);
/// Where other replicas wait for a snapshot, everything is sealed this often at the most, so that the
/// floor comes to a checkpoint.
const SNAPSHOT_SEAL_EVERY: Duration = Duration::from_secs(5);
/// Log time this far ahead of the wall clock is told: the clock was set back (CL-6).
const CLOCK_BEHIND_US: i64 = 10_000_000;
/// Objects in the making at a time, over all shards of the node, from when the first record is read
/// until the bucket has it: each takes its records and what they are encoded to.
const OBJECTS_MAX: usize = 4;
/// Memory of these that is kept for the next ones: all that is encoded at a time, which has records
/// of 64 MiB an object and their framing; larger ones, of many tiny records, are rare.
const KEPT_BYTES: usize = OBJECTS_MAX * (80 << 20);
/// How long the log may take to name an upload, which holds a place among all shards' meanwhile.
const NAMING_TIMEOUT: Duration = Duration::from_secs(5);
/// A shard that has uploaded nothing for so long frees what is kept.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Pauses after a failure: doubled from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The memory that the objects of all shards are made in. A clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct ObjectMemory {
    chunks: ChunkPool,
    places: Arc<Semaphore>,
}

impl ObjectMemory {
    pub(crate) fn new() -> Self {
        let places = Arc::new(Semaphore::new(OBJECTS_MAX));
        Self { chunks: ChunkPool::new(KEPT_BYTES), places }
    }

    /// Bytes that are kept and not in use.
    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> usize {
        self.chunks.kept_bytes()
    }

    /// Waits until one more object may be made.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, NodeStopping> {
        // Nobody closes it.
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| NodeStopping)
    }
}

/// What an offloader is made of.
pub(crate) struct OffloadSpec {
    pub(crate) cluster: ClusterUid,
    pub(crate) shard: ShardHandle,
    pub(crate) bucket: Bucket,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pool: Arc<dyn BlockingPool>,
    pub(crate) memory: ObjectMemory,
    pub(crate) reclaimer: Reclaimer,
    pub(crate) planted: Planted,
    /// No record waits longer than this to be sealed.
    pub(crate) max_time_to_cold: Duration,
    /// Log bytes above the last cut that make a new one due.
    pub(crate) cut_bytes: u64,
    /// Record bytes in closed ranges that are worth an object.
    pub(crate) segment_bytes_min: u64,
    /// How long an upload may write that the log has named.
    pub(crate) upload_lease: Duration,
}

/// Why a step of the offload did not succeed. It is tried again.
#[derive(Debug, thiserror::Error)]
enum OffloadError {
    #[error(transparent)]
    NodeStopping(#[from] NodeStopping),
    #[error("{0}")]
    Bucket(#[from] BucketError),
    #[error("cannot read the records to upload: {0}")]
    Gather(#[from] GatherError),
    #[error(transparent)]
    Stopped(#[from] PoolStopped),
    #[error(transparent)]
    Propose(#[from] ProposeFailure),
    #[error("an upload took longer than the {} s that one may", .lease.as_secs())]
    TooLong { lease: Duration },
    #[error("the log has not named an upload within {} s", NAMING_TIMEOUT.as_secs())]
    Unnamed,
    #[error("an uploaded object was refused: {0}")]
    Refused(#[from] CommitRefused),
    #[error(transparent)]
    Reclaim(#[from] ReclaimError),
}

struct Offloader {
    spec: OffloadSpec,
    /// Log index of the last cut: what lies above has not been sealed.
    cut_at: u64,
    /// The oldest record that no cut has taken, by its log time, and when it was first seen.
    unsealed: Option<(Timestamp, Instant)>,
    /// That the clock was set back has been told.
    clock_behind: bool,
    /// When everything was last sealed for want of a snapshot.
    snapshot_seal_at: Option<Instant>,
    mirrored_at: Option<Instant>,
    /// Since when committed objects have been seen to wait for a manifest.
    awaiting_mirror: Option<Instant>,
    pause: Duration,
    /// When an object was last encoded.
    encoded_at: Option<Instant>,
    lease: Option<Lease>,
}

/// An upload that the log has named for this node, which may write until then. Others count on it: what
/// it has left, should it be over, goes when nothing of it can arrive any more.
#[derive(Clone, Copy, Debug)]
struct Lease {
    object: ObjectId,
    attempt: Attempt,
    until: Instant,
}

/// What a step did.
enum Progress {
    /// There may be more to do at once.
    More,
    /// Other shards have all places for objects.
    Crowded,
    Idle,
    /// Another replica leads.
    Follows,
}

impl OffloadSpec {
    /// Runs until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut wake = self.shard.offload_watch();
        let mut leader = self.reclaimer.raft.leader();
        let mut offloader = Offloader::new(self);
        loop {
            let step = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                step = offloader.step() => step,
            };
            let mut follows = false;
            let wait = match step {
                Ok(Progress::More) => {
                    offloader.succeeded().await;
                    continue;
                }
                Ok(Progress::Crowded) => continue,
                Ok(Progress::Idle) => {
                    offloader.succeeded().await;
                    LOOK_EVERY
                }
                Ok(Progress::Follows) => {
                    offloader.succeeded().await;
                    follows = !leader.state().serving;
                    if follows { KEPT_FOR } else { LOOK_EVERY }
                }
                Err(OffloadError::NodeStopping(_)) => return,
                Err(error) => offloader.failed(&error).await,
            };
            let paused = offloader.pause > PAUSE_MIN;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                Ok(_) = leader.changed(), if follows => {}
                changed = wake.changed(), if !paused && !follows => if changed.is_err() { return },
            }
        }
    }
}

impl Offloader {
    fn new(spec: OffloadSpec) -> Self {
        Self {
            spec,
            cut_at: 0,
            unsealed: None,
            clock_behind: false,
            snapshot_seal_at: None,
            mirrored_at: None,
            awaiting_mirror: None,
            pause: PAUSE_MIN,
            encoded_at: None,
            lease: None,
        }
    }

    /// Tells that the offload works again.
    async fn succeeded(&mut self) {
        if self.pause > PAUSE_MIN {
            self.pause = PAUSE_MIN;
            tracing::info!(shard = %self.spec.shard.id(), "the offload works again");
            self.spec.shard.report_offload(None).await;
        }
    }

    /// Tells of a failure; returns how long to wait.
    async fn failed(&mut self, error: &OffloadError) -> Duration {
        let wait = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        tracing::warn!(shard = %self.spec.shard.id(), %error, retry_in = ?wait, "the offload failed");
        self.spec.shard.report_offload(Some(error.to_string())).await;
        wait
    }

    /// The first thing that is due.
    async fn step(&mut self) -> Result<Progress, OffloadError> {
        if self.encoded_at.is_some_and(|at| at.elapsed() >= KEPT_FOR) {
            self.spec.memory.chunks.clear();
            self.encoded_at = None;
        }
        let status = self.spec.shard.offload_status().await?;
        if !status.serving {
            return Ok(Progress::Follows);
        }
        self.watch_clock();
        if let Some(scope) = self.seal_due(&status) {
            let last = self.spec.shard.log().state().last.map_or(0, |last| last.index);
            self.propose(SegmentCommand::Seal(scope)).await?;
            // Not before it is known to be done: one that was refused has cut nothing.
            if scope == SealScope::All {
                (self.cut_at, self.unsealed) = (last, None);
            }
            return Ok(Progress::More);
        }
        if self.is_mirror_due(&status)
            && let Some(mut file) = self.spec.shard.manifest_file().await?
        {
            if self.spec.planted.is(BuiltinBug::HoleInManifest) {
                leave_a_hole(&mut file);
            }
            self.mirror(&file).await?;
            return Ok(Progress::More);
        }
        if status.has_plans {
            // Others may have them for as long as a request to the bucket takes, and a seal or a
            // manifest may be due meanwhile.
            let Ok(place) = tokio::time::timeout(LOOK_EVERY, self.spec.memory.place()).await else {
                return Ok(Progress::Crowded);
            };
            let place = place?;
            if let Some(next) = self.spec.shard.next_plan().await? {
                self.upload(next, place).await?;
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Idle)
    }

    /// Whether a manifest must be written now, if there is one to write.
    fn is_mirror_due(&mut self, status: &OffloadStatus) -> bool {
        let is_long_ago = |at: Instant| at.elapsed() >= MIRROR_EVERY;
        if !status.awaits_mirror {
            self.awaiting_mirror = None;
            return !status.has_plans && self.mirrored_at.is_none_or(is_long_ago);
        }
        let since = *self.awaiting_mirror.get_or_insert_with(Instant::now);
        !status.has_plans || is_long_ago(since)
    }

    /// What must be sealed now: everything when the oldest record has waited long enough or the log
    /// has grown enough, so that all small streams share one cut (DESIGN §1.4); closed ranges
    /// earlier, once they are worth an object. Those that a new day has closed are small, and come
    /// one by one as each stream goes on: they wait for the others.
    fn seal_due(&mut self, status: &OffloadStatus) -> Option<SealScope> {
        let log = self.spec.shard.log();
        let above = log.bytes_above(self.cut_at.max(status.floor.unwrap_or(0)));
        let is_old = self.is_oldest_due(status.oldest_unsealed);
        let waiting = status.waiting;
        let is_needed = above >= self.spec.cut_bytes || is_old || status.keeps_too_much;
        let lacks_snapshot = self.spec.reclaimer.checkpoints.has_lost_snapshot()
            && self.snapshot_seal_at.is_none_or(|at| at.elapsed() >= SNAPSHOT_SEAL_EVERY);
        if waiting.open + waiting.closed > 0 && (is_needed || lacks_snapshot) {
            if lacks_snapshot {
                self.snapshot_seal_at = Some(Instant::now());
            }
            return Some(SealScope::All);
        }
        (waiting.closed >= self.spec.segment_bytes_min).then_some(SealScope::Closed)
    }

    /// Whether the oldest record has waited long enough. Log time outlives restarts, but says nothing
    /// after the clock was set back, until the clock has come there again; so the time since the
    /// record was first seen counts as well.
    fn is_oldest_due(&mut self, oldest: Option<Timestamp>) -> bool {
        let Some(since) = oldest else {
            self.unsealed = None;
            return false;
        };
        let seen = match self.unsealed {
            Some((known, seen)) if known == since => seen,
            _ => Instant::now(),
        };
        self.unsealed = Some((since, seen));
        let max_wait = self.spec.max_time_to_cold;
        let max_wait_us = i64::try_from(max_wait.as_micros()).unwrap_or(i64::MAX);
        self.spec.clock.now().since_us(since) >= max_wait_us || seen.elapsed() >= max_wait
    }

    /// Tells when the wall clock is behind log time, once each time.
    fn watch_clock(&mut self) {
        let behind_us = self.spec.shard.figures().log_time.since_us(self.spec.clock.now());
        let is_behind = behind_us > CLOCK_BEHIND_US;
        if is_behind && !self.clock_behind {
            let seconds = behind_us / 1_000_000;
            tracing::warn!(
                shard = %self.spec.shard.id(),
                "the clock is {seconds} s behind the newest record: it was set back, and records \
                 get the time of that one until it has come there again"
            );
        }
        self.clock_behind = is_behind;
    }

    async fn upload(
        &mut self,
        next: NextPlan,
        place: OwnedSemaphorePermit,
    ) -> Result<(), OffloadError> {
        let NextPlan { id, plan, parts } = next;
        let (cluster, shard) = (self.spec.cluster, self.spec.shard.id());
        let name = parts.first().map(|part| part.name.clone());
        let Some(name) = name.filter(|_| parts.len() == plan.ranges.len()) else {
            // A stream was deleted a moment ago; the plan follows.
            return Ok(());
        };
        let log = self.spec.shard.log().clone();
        let spec = EncodeSpec::new(cluster, shard, plan.term, plan.kind);
        let (chunks, ranges) = (self.spec.memory.chunks.clone(), plan.ranges.clone());
        self.encoded_at = Some(Instant::now());
        let encode = move || gather::encode(&log, spec, chunks, &ranges, &parts);
        let encoded = run_on(&*self.spec.pool, encode).await??;
        let size = encoded.content.content_length() as u64;
        let Some(lease) = self.lease(id, plan.attempt, encoded.hash).await? else {
            // Nobody wants it any more.
            return Ok(());
        };
        let info = plan.info(lease.attempt, size, encoded.footer_bytes);
        let key = Key::of_object(cluster, shard, id, &info, &name).to_string();
        if !self.spec.planted.is(BuiltinBug::CommitBeforePut) {
            let put = self.spec.bucket.put_immutable(&key, encoded.content);
            let put = tokio::time::timeout_at(lease.until, put).await;
            let too_long = OffloadError::TooLong { lease: self.spec.upload_lease };
            if let Err(error) = put.map_err(|_| too_long).and_then(|put| Ok(put?)) {
                self.give_up(&key).await;
                return Err(error);
            }
        }
        drop(place);
        let commit = ObjectCommit {
            object: id,
            attempt: lease.attempt.index,
            hash: encoded.hash,
            bytes: info.bytes,
            footer_bytes: encoded.footer_bytes,
            parts: encoded.parts.into_iter().map(|encoded| encoded.part).collect(),
        };
        tracing::debug!(%shard, %key, bytes = info.bytes, "uploaded");
        let committed = match self.spec.planted.is(BuiltinBug::StaleCommit) {
            true => self.commit_in_any_term(commit).await,
            false => match self.propose(SegmentCommand::Commit(commit)).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.give_up(&key).await;
                    return Err(error);
                }
            },
        };
        if let Outcome::Committed(result) = committed {
            result?;
        }
        if self.spec.planted.is(BuiltinBug::DeleteBeforeMirrored) {
            self.spec.reclaimer.reclaim(id.seal_index).await?;
        }
        Ok(())
    }

    /// Has the log name the upload before the bucket gets anything of it, unless it has named the same one
    /// a moment ago; `current` is what it has named last. `None`: nobody wants the object any more.
    async fn lease(
        &mut self,
        object: ObjectId,
        current: Option<Attempt>,
        hash: ContentHash,
    ) -> Result<Option<Lease>, OffloadError> {
        let (now, time) = (Instant::now(), self.spec.upload_lease);
        let holds = |lease: &Lease| {
            lease.object == object
                && lease.attempt.hash == hash
                && current == Some(lease.attempt)
                && lease.until >= now + time / 2
        };
        if let Some(lease) = self.lease.filter(holds) {
            return Ok(Some(lease));
        }
        // From before it is proposed: whoever ends it does so behind that entry.
        let until = now + time;
        let named = self.propose(SegmentCommand::Attempt(UploadAttempt { object, hash }));
        // Without a majority nobody answers, and other shards want the place among the uploads.
        let named = tokio::time::timeout(NAMING_TIMEOUT, named).await;
        let named = named.map_err(|_| OffloadError::Unnamed)??;
        self.lease = match named {
            Outcome::Attempted(Some(index)) => {
                Some(Lease { object, attempt: Attempt { index, hash }, until })
            }
            _ => None,
        };
        Ok(self.lease)
    }

    /// What is uploaded and not known to be committed stays: whoever leads next may go on with it, or has
    /// committed it. See [`BuiltinBug::UnfinishedDeleted`].
    async fn give_up(&self, key: &str) {
        if self.spec.planted.is(BuiltinBug::UnfinishedDeleted) {
            self.spec.bucket.delete(key).await.ok();
        }
    }

    /// See [`BuiltinBug::StaleCommit`].
    async fn commit_in_any_term(&self, commit: ObjectCommit) -> Outcome {
        loop {
            match self.propose(SegmentCommand::Commit(commit.clone())).await {
                Ok(outcome) => return outcome,
                Err(_) => tokio::time::sleep(PAUSE_MIN).await,
            }
        }
    }

    async fn mirror(&mut self, file: &ManifestFile) -> Result<(), OffloadError> {
        manifest::store(&self.spec.bucket, file).await?;
        self.propose(SegmentCommand::Mirrored(file.version)).await?;
        (self.mirrored_at, self.awaiting_mirror) = (Some(Instant::now()), None);
        let floor = self.spec.shard.offload_status().await?.floor;
        self.spec.reclaimer.reclaim(floor.unwrap_or(0)).await?;
        Ok(())
    }

    async fn propose(&self, command: SegmentCommand) -> Result<Outcome, OffloadError> {
        Ok(self.spec.shard.command(CommandBody::Segment(command)).await?)
    }
}

/// See [`BuiltinBug::HoleInManifest`].
fn leave_a_hole(file: &mut ManifestFile) {
    for change in file.streams.values_mut().filter(|change| change.stream.ranges.len() > 1) {
        change.stream.ranges.remove(0);
    }
}
