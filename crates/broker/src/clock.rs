//! The seam through which the broker learns the time.

use std::fmt::Debug;

use railgun_types::Timestamp;

/// Tells the wall clock. Injected at the root, so that a simulation tells its own.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, by this node's clock; may jump in both directions.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since_epoch.map_or(0, |us| i64::try_from(us.as_micros()).unwrap_or(i64::MAX)))
    }
}
