//! Waiting for what a log does.

use railgun_log::{Flushed, LogError};
use tokio::sync::oneshot;

/// Queues an operation of a log and waits until it is done. Dropping the future leaves it going on.
pub(crate) async fn log_done(
    queue: impl FnOnce(Flushed) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let (done, result) = oneshot::channel();
    // A closed receiver: nobody waits for it any more.
    queue(Box::new(move |outcome| drop(done.send(outcome))))?;
    result.await.unwrap_or(Err(LogError::Closed))
}
