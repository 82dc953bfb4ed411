//! Why a cold read fails.

use std::sync::Arc;
use std::time::Duration;

use railgun_types::Offset;

use crate::bucket::{BucketError, RetryClass};

/// Why records cannot be read from the bucket. Cheap to clone: everyone who waited for the same
/// bytes gets the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ColdReadError {
    /// The bucket does not answer, throttles, or denies access; the records are most likely there.
    #[error("object {object} cannot be read now: {reason}")]
    Unavailable {
        /// Key of the object.
        object: Arc<str>,
        /// The store's words.
        reason: Arc<str>,
        /// When another try is reasonable.
        retry_after: Duration,
    },
    /// The object is not in the bucket.
    #[error("object {object} is missing from the bucket")]
    Missing {
        /// Key of the object.
        object: Arc<str>,
    },
    /// The object is there but is not what was written.
    #[error("object {object} is corrupt: {what}")]
    Corrupt {
        /// Key of the object.
        object: Arc<str>,
        /// Where it shows.
        what: Arc<str>,
    },
    /// The caller asks for an offset outside the range.
    #[error("offset {from} is not in the range from {base} to {end} of object {object}")]
    OutOfRange {
        /// Key of the object.
        object: Arc<str>,
        /// The offset asked for.
        from: Offset,
        /// First offset of the range.
        base: Offset,
        /// The offset after its last.
        end: Offset,
    },
}

impl ColdReadError {
    pub(crate) fn corrupt(object: &Arc<str>, what: impl Into<Arc<str>>) -> Self {
        Self::Corrupt { object: object.clone(), what: what.into() }
    }

    pub(crate) fn from_bucket(object: &Arc<str>, error: &BucketError) -> Self {
        let object = object.clone();
        let retry_after = match (error, error.retry_class()) {
            (BucketError::NotFound { .. }, _) => return Self::Missing { object },
            (BucketError::OutOfRange { end, .. }, _) => {
                return Self::corrupt(&object, format!("it ends before byte {end}"));
            }
            (_, RetryClass::Transient) => Duration::from_secs(1),
            (_, RetryClass::Throttled) => Duration::from_secs(5),
            // Somebody has to change something first; readers wait for it.
            (_, RetryClass::Permanent) => Duration::from_secs(30),
        };
        Self::Unavailable { object, reason: error.to_string().into(), retry_after }
    }
}
