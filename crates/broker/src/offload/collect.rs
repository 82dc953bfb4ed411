//! Deletes what uploads have left in the bucket that are over and whose objects were never committed
//! (DESIGN §3 "Attempts"). Any replica may: what has become an orphan stays one, and is no manifest's. So
//! the leader does, and has it forgotten when it is gone. A crash between the two repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use railgun_cold::keys::Key;
use railgun_cold::{Bucket, BucketError};
use railgun_core::command::{CommandBody, SegmentCommand};
use railgun_core::shard::Orphan;
use railgun_types::ClusterUid;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::builtin_bug::{BuiltinBug, Planted};
use crate::replica::{NodeStopping, ProposeFailure};
use crate::shard::ShardHandle;

/// Orphans are looked for so many times while an upload may last.
const LOOKS_A_LEASE: u32 = 8;
/// Most objects that are deleted before they are forgotten, so that little is repeated.
const DELETED_MAX: usize = 64;

/// Why nothing could be deleted, or be forgotten. It is tried again.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    NodeStopping(#[from] NodeStopping),
    #[error("{0}")]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Propose(#[from] ProposeFailure),
}

/// See the module.
pub(crate) struct Collector {
    pub(crate) cluster: ClusterUid,
    pub(crate) shard: ShardHandle,
    pub(crate) bucket: Bucket,
    pub(crate) planted: Planted,
    /// How long an upload may write that the log has named.
    pub(crate) upload_lease: Duration,
}

impl Collector {
    /// Runs until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        // When each was first seen to be an orphan here, whoever led then: every upload of it had begun.
        let mut seen = BTreeMap::new();
        let mut is_failing = false;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.upload_lease / LOOKS_A_LEASE) => {}
            }
            let collected = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                collected = self.collect(&mut seen) => collected,
            };
            let shard = self.shard.id();
            match collected {
                Ok(()) => is_failing = false,
                Err(CollectError::NodeStopping(_)) => return,
                // Who leads now goes on.
                Err(CollectError::Propose(_)) => {}
                Err(CollectError::Bucket(error)) if !is_failing => {
                    is_failing = true;
                    tracing::warn!(%shard, %error, "what unfinished uploads left cannot be deleted");
                }
                Err(CollectError::Bucket(_)) => {}
            }
        }
    }

    async fn collect(&self, seen: &mut BTreeMap<u64, Instant>) -> Result<(), CollectError> {
        if self.planted.is(BuiltinBug::NeverDeleted) {
            return Ok(());
        }
        let orphans = self.shard.orphans().await?;
        let now = Instant::now();
        seen.retain(|attempt, _| orphans.attempts.contains(attempt));
        for attempt in orphans.attempts {
            seen.entry(attempt).or_insert(now);
        }
        if !orphans.serving {
            return Ok(());
        }
        let is_due = |since: &Instant| {
            // The uploads themselves have given up after one; what they had sent arrives within another.
            *since + self.upload_lease * 2 <= now || self.planted.is(BuiltinBug::DeletedAtOnce)
        };
        let due: BTreeSet<_> =
            seen.iter().filter(|(_, since)| is_due(since)).map(|(attempt, _)| *attempt).collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut stays = None;
        for orphans in self.shard.collectable(due).await?.chunks(DELETED_MAX) {
            let refused = self.delete(orphans).await?;
            stays = stays.or(refused);
        }
        stays.map_or(Ok(()), |refused| Err(refused.into()))
    }

    /// Those that were deleted are forgotten even if others could not be. One that the bucket refuses to
    /// delete (a legal hold, say) is in nobody's way: why the first of them stays.
    async fn delete(&self, orphans: &[Orphan]) -> Result<Option<BucketError>, CollectError> {
        let (mut gone, mut refused, mut away) = (Vec::with_capacity(orphans.len()), None, None);
        for Orphan { object, info, name, .. } in orphans {
            let key =
                Key::of_object(self.cluster, self.shard.id(), *object, info, name).to_string();
            match self.bucket.delete(&key).await {
                Ok(()) => {
                    let shard = self.shard.id();
                    tracing::debug!(%shard, %key, "an upload that is over has left nothing");
                    gone.push(info.attempt);
                }
                Err(error @ BucketError::Unavailable { .. }) => {
                    away = Some(error);
                    break;
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if !gone.is_empty() {
            let command = SegmentCommand::Collected(gone);
            self.shard.command(CommandBody::Segment(command)).await?;
        }
        away.map_or(Ok(refused), |error| Err(error.into()))
    }
}
