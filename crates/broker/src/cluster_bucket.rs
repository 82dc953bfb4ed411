//! The cluster's bucket, which is one for all nodes and all times (I2): the node that makes up the cluster
//! claims it before anybody hears of the cluster (`owner.json`). Every other node, and every later start,
//! looks whether the bucket that it was given is that one, and never makes it so: what is uploaded to
//! another one counts as safe, and the log gives it up.

use std::sync::Arc;
use std::time::Duration;

use railgun_cold::Bucket;
use railgun_cold::bucket::ProbeError;
use railgun_cold::keys::Key;
use railgun_cold::owner::{self, Owner, OwnerError};
use railgun_types::{ClusterUid, NodeId, Timestamp};
use tokio::sync::SetOnce;
use tokio::time::{Instant, sleep, timeout};

use crate::node::StartError;

/// How long the bucket has to let itself be claimed.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it has to say whose it is, each time it is asked.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// What speaks against a bucket is believed when it has done so for as long: a store that is in trouble
/// says of what it has that it is not there.
const WRONG_FOR: Duration = Duration::from_secs(10);
/// Who waits for an answer at most so long gets one, unless the bucket does not answer.
pub(crate) const ANSWER_TIME: Duration =
    Duration::from_secs(WRONG_FOR.as_secs() + 2 * LOOK_TIMEOUT.as_secs());
/// Until it is asked again: doubles each time.
const AGAIN_MIN: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(2);
/// How often the log says that the bucket is waited for.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The bucket that a node was given is not its cluster's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given} is not the bucket of cluster {cluster}: {reason}{}",
    theirs.as_ref().map(|theirs| format!("; {theirs}")).unwrap_or_default()
)]
pub struct WrongBucket {
    /// The cluster.
    pub cluster: ClusterUid,
    /// The bucket that the node was given.
    pub given: String,
    /// What speaks against it.
    pub reason: String,
    /// Which bucket another node of the cluster has, in words, where that is known.
    pub theirs: Option<String>,
}

/// Whether the bucket is the cluster's, once it has said so since the node was started. Whoever waits goes on
/// in the order of waiting.
pub(crate) type Standing = Arc<SetOnce<Result<(), WrongBucket>>>;

/// Finds out whether the bucket is the cluster's, as long as that takes, and says so in `standing`.
pub(crate) async fn look_at(bucket: Bucket, cluster: ClusterUid, standing: Standing) {
    standing.set(recognise(&bucket, cluster).await).ok();
}

/// Resolves when the bucket is known to be the cluster's.
pub(crate) async fn is_ours(standing: Standing) {
    if standing.wait().await.is_err() {
        // The node ends.
        std::future::pending().await
    }
}

/// Resolves when it is known not to be.
pub(crate) async fn is_wrong(standing: Standing) -> WrongBucket {
    match standing.wait().await {
        Err(wrong) => wrong.clone(),
        Ok(()) => std::future::pending().await,
    }
}

/// Makes the bucket the cluster's: to be called by the node that makes up the cluster only, again after
/// each start until the cluster is founded.
///
/// # Errors
/// The bucket does not answer in time, or holds something else in the owner's place.
pub(crate) async fn claim(
    bucket: &Bucket,
    cluster: ClusterUid,
    created: Timestamp,
) -> Result<(), StartError> {
    let owner = Owner { cluster, created, format: owner::FORMAT, node: NodeId(1) };
    if in_time(bucket, owner::read(bucket, cluster)).await??.is_some() {
        return Ok(());
    }
    if let Err(error) = in_time(bucket, owner::claim(bucket, &owner)).await? {
        // What an earlier start has sent may have arrived just now.
        in_time(bucket, owner::read(bucket, cluster)).await??.ok_or(error)?;
    }
    Ok(())
}

/// Takes back the claim of a cluster that did not come to be, if the bucket lets it be taken in time: one that
/// stays says nothing to anybody.
pub(crate) async fn disclaim(bucket: &Bucket, cluster: ClusterUid) {
    let disclaimed = timeout(CLAIM_TIMEOUT, owner::disclaim(bucket, cluster)).await;
    if !matches!(disclaimed, Ok(Ok(()))) {
        tracing::warn!(%bucket, %cluster, "the claim of a cluster that did not come to be stays");
    }
}

/// What the bucket answers, unless it takes too long: a start that hangs tells nobody why.
async fn in_time<T>(bucket: &Bucket, answer: impl Future<Output = T>) -> Result<T, ProbeError> {
    timeout(CLAIM_TIMEOUT, answer).await.map_err(|_| ProbeError::Unreachable {
        bucket: bucket.to_string(),
        reason: format!("it did not say whose its keys are within {CLAIM_TIMEOUT:?}").into(),
    })
}

/// Asks the bucket whether it is the cluster's until it says so, however long it is away.
///
/// # Errors
/// It is not, and says so for [`WRONG_FOR`].
pub(crate) async fn recognise(bucket: &Bucket, cluster: ClusterUid) -> Result<(), WrongBucket> {
    let mut again = AGAIN_MIN;
    let (mut wrong_since, mut told_at) = (None, None);
    loop {
        let reason = match look(bucket, cluster).await {
            Look::Ours => {
                if told_at.is_some() {
                    tracing::info!(%bucket, "the bucket answers, and is the cluster's");
                }
                return Ok(());
            }
            Look::Wrong(reason) => {
                let since: Instant = *wrong_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= WRONG_FOR {
                    let given = bucket.to_string();
                    return Err(WrongBucket { cluster, given, reason, theirs: None });
                }
                reason
            }
            Look::Silent(reason) => {
                wrong_since = None;
                reason
            }
        };
        if told_at.is_none_or(|at: Instant| at.elapsed() >= TELL_EVERY) {
            told_at = Some(Instant::now());
            tracing::warn!(
                %bucket,
                reason,
                "it is not known yet whether the bucket is the cluster's: nothing is uploaded, and only \
                 what is in the log is read"
            );
        }
        sleep(again).await;
        again = (again * 2).min(AGAIN_MAX);
    }
}

/// What the bucket says of itself.
enum Look {
    Ours,
    Wrong(String),
    Silent(String),
}

async fn look(bucket: &Bucket, cluster: ClusterUid) -> Look {
    match timeout(LOOK_TIMEOUT, owner::read(bucket, cluster)).await {
        Ok(Ok(Some(_))) => Look::Ours,
        Ok(Ok(None)) => Look::Wrong(format!("it has no {}", Key::Owner { cluster })),
        Ok(Err(OwnerError::Bucket(error))) => Look::Silent(error.to_string()),
        Ok(Err(error)) => Look::Wrong(error.to_string()),
        Err(_) => Look::Silent(format!("it does not answer within {LOOK_TIMEOUT:?}")),
    }
}
