//! `owner.json`: which cluster life a part of the bucket belongs to. Written once, before anything
//! else; advisory where the store has no conditional PUT (DESIGN §3).

use bytes::Bytes;
use railgun_types::{ClusterUid, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::bucket::{Bucket, BucketError, Put};
use crate::keys::{self, Key};

/// Version of the layout of keys and files that this build writes and reads.
pub const FORMAT: u32 = 1;

/// Who owns the keys of a cluster life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster life.
    pub cluster: ClusterUid,
    /// When it began.
    pub created: Timestamp,
    /// Version of the layout.
    pub format: u32,
    /// The node that made it.
    pub node: NodeId,
}

/// Why an owner cannot be claimed or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OwnerError {
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The file is not one of ours.
    #[error("owner file {key} cannot be read: {reason}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by a newer version.
    #[error("{key} has format {found}, this version reads up to {FORMAT}")]
    TooNew {
        /// Its key.
        key: String,
        /// Its format.
        found: u32,
    },
}

/// Largest file that is read. One of ours has a few hundred bytes.
const OWNER_BYTES_MAX: u64 = 64 << 10;

/// The file as it is written. `created` is microseconds; the text beside it is for people.
#[derive(Serialize, Deserialize)]
struct OwnerFile {
    format: u32,
    cluster_uid: String,
    created_us: i64,
    created: String,
    node: u32,
}

/// Claims the keys of `owner.cluster`. Idempotent: the same owner again is a success.
///
/// # Errors
/// [`BucketError::Conflict`] if somebody else claimed them.
pub async fn claim(bucket: &Bucket, owner: &Owner) -> Result<Put, OwnerError> {
    let key = Key::Owner { cluster: owner.cluster }.to_string();
    let created = jiff::Timestamp::from_microsecond(owner.created.0);
    let file = OwnerFile {
        format: owner.format,
        cluster_uid: owner.cluster.to_string(),
        created_us: owner.created.0,
        created: created.map_or_else(|_| String::new(), |created| created.to_string()),
        node: owner.node.0,
    };
    let mut json = serde_json::to_vec_pretty(&file)
        .map_err(|error| OwnerError::Corrupt { key: key.clone(), reason: error.to_string() })?;
    json.push(b'\n');
    Ok(bucket.put_immutable(&key, Bytes::from(json)).await?)
}

/// Takes the claim of a cluster back that came to nothing: nobody else has heard of it. Idempotent.
///
/// # Errors
/// [`BucketError`].
pub async fn disclaim(bucket: &Bucket, cluster: ClusterUid) -> Result<(), BucketError> {
    bucket.delete(&Key::Owner { cluster }.to_string()).await
}

/// Reads the owner of a cluster life's keys; `None` if nobody claimed them.
///
/// # Errors
/// [`OwnerError`]; a file of a newer format is refused, not guessed at.
pub async fn read(bucket: &Bucket, cluster: ClusterUid) -> Result<Option<Owner>, OwnerError> {
    let key = Key::Owner { cluster }.to_string();
    let json = match bucket.get(&key, OWNER_BYTES_MAX).await {
        Ok(json) => json,
        Err(BucketError::NotFound { .. }) => return Ok(None),
        Err(error @ BucketError::TooLarge { .. }) => {
            return Err(OwnerError::Corrupt { reason: error.to_string(), key });
        }
        Err(error) => return Err(error.into()),
    };
    let corrupt = |reason: String| OwnerError::Corrupt { key: key.clone(), reason };
    let file: OwnerFile =
        serde_json::from_slice(&json).map_err(|error| corrupt(error.to_string()))?;
    if file.format > FORMAT {
        return Err(OwnerError::TooNew { key, found: file.format });
    }
    let named: ClusterUid = file
        .cluster_uid
        .parse()
        .map_err(|error: railgun_types::ParseUidError| corrupt(error.to_string()))?;
    if named != cluster {
        return Err(corrupt(format!("it names cluster {named}")));
    }
    let (created, node) = (Timestamp(file.created_us), NodeId(file.node));
    Ok(Some(Owner { cluster, created, format: file.format, node }))
}

/// The cluster lives that have keys in the bucket, sorted.
///
/// # Errors
/// [`BucketError`].
pub async fn clusters(bucket: &Bucket) -> Result<Vec<ClusterUid>, BucketError> {
    let folders = bucket.list_folders(keys::ROOT).await?;
    Ok(folders.iter().filter_map(|folder| folder.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::BucketOptions;

    fn owner(cluster: u8) -> Owner {
        Owner {
            cluster: ClusterUid([cluster; 16]),
            created: Timestamp(1_700_000_000_000_001),
            format: FORMAT,
            node: NodeId(3),
        }
    }

    #[tokio::test]
    async fn the_first_claim_wins_and_repeats_itself() {
        let bucket = Bucket::open("memory://", &BucketOptions::new(1)).unwrap();
        let ours = owner(1);
        assert_eq!(read(&bucket, ours.cluster).await.unwrap(), None);
        assert_eq!(claim(&bucket, &ours).await.unwrap(), Put::Stored);
        assert_eq!(claim(&bucket, &ours).await.unwrap(), Put::Existed);
        let other = Owner { node: NodeId(4), ..ours.clone() };
        let refused = claim(&bucket, &other).await.unwrap_err();
        assert!(matches!(refused, OwnerError::Bucket(BucketError::Conflict { .. })), "{refused}");
        assert_eq!(read(&bucket, ours.cluster).await.unwrap(), Some(ours.clone()));

        let vain = owner(9);
        claim(&bucket, &vain).await.unwrap();
        disclaim(&bucket, vain.cluster).await.unwrap();
        disclaim(&bucket, vain.cluster).await.unwrap();
        assert_eq!(read(&bucket, vain.cluster).await.unwrap(), None);

        claim(&bucket, &owner(0)).await.unwrap();
        assert_eq!(clusters(&bucket).await.unwrap(), [ClusterUid([0; 16]), ours.cluster]);
    }

    /// The bytes of version 1, forever. `REGENERATE_GOLDEN=1` writes them anew.
    #[tokio::test]
    async fn the_bytes_of_version_1_do_not_change() {
        let bucket = Bucket::open("memory://", &BucketOptions::new(1)).unwrap();
        let ours = owner(0xc1);
        claim(&bucket, &ours).await.unwrap();
        let key = Key::Owner { cluster: ours.cluster }.to_string();
        let file = bucket.get(&key, OWNER_BYTES_MAX).await.unwrap();
        crate::fixture::assert_golden("owner-v1.json", &file);
        assert_eq!(read(&bucket, ours.cluster).await.unwrap(), Some(ours));
    }

    /// A bucket that others write to may hold anything.
    #[tokio::test]
    async fn a_file_of_any_size_costs_no_memory() {
        let bucket = Bucket::open("memory://", &BucketOptions::new(1)).unwrap();
        let key = Key::Owner { cluster: ClusterUid([5; 16]) }.to_string();
        let huge = Bytes::from(vec![b' '; OWNER_BYTES_MAX as usize + 1]);
        bucket.put_immutable(&key, huge).await.unwrap();
        let error = read(&bucket, ClusterUid([5; 16])).await.unwrap_err().to_string();
        assert!(error.contains("65537 bytes"), "{error}");
    }

    #[tokio::test]
    async fn files_that_are_newer_foreign_or_broken_are_told_apart() {
        let bucket = Bucket::open("memory://", &BucketOptions::new(1)).unwrap();
        let newer = Owner { format: FORMAT + 1, ..owner(1) };
        claim(&bucket, &newer).await.unwrap();
        let error = read(&bucket, newer.cluster).await.unwrap_err();
        assert!(matches!(error, OwnerError::TooNew { found: 2, .. }), "{error}");

        let misplaced = owner(3);
        claim(&bucket, &misplaced).await.unwrap();
        let key = |n| Key::Owner { cluster: ClusterUid([n; 16]) }.to_string();
        let file = bucket.get(&key(3), OWNER_BYTES_MAX).await.unwrap();
        bucket.put_immutable(&key(4), file).await.unwrap();
        let error = read(&bucket, ClusterUid([4; 16])).await.unwrap_err();
        assert!(matches!(error, OwnerError::Corrupt { .. }), "{error}");

        bucket.put_immutable(&key(2), Bytes::from_static(b"{}")).await.unwrap();
        let error = read(&bucket, ClusterUid([2; 16])).await.unwrap_err();
        assert!(matches!(error, OwnerError::Corrupt { .. }), "{error}");
    }
}
