//! A bucket that misbehaves on demand, for tests and the simulation; and what only tests look at.

mod faulty;

pub use faulty::{Conditions, Fault, FaultyStore, Operation, Request};

use crate::bucket::Bucket;
use crate::reader::{ColdReadError, ObjectRef};
use crate::segment::Footer;

/// What an object says of itself.
///
/// # Errors
/// [`ColdReadError`].
pub async fn footer(bucket: &Bucket, object: &ObjectRef) -> Result<Footer, ColdReadError> {
    let start = object.bytes.saturating_sub(object.footer_bytes.into());
    let tail = bucket.get_range(&object.key, start..object.bytes).await;
    let tail = tail.map_err(|error| ColdReadError::from_bucket(&object.key, &error))?;
    let parsed = Footer::parse(&tail, object.bytes);
    let (footer, _) =
        parsed.map_err(|error| ColdReadError::corrupt(&object.key, error.to_string()))?;
    Ok(footer)
}
