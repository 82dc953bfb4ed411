//! The seam through which the broker learns the time.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};

use railgun_types::Timestamp;
use tokio::time::Instant;

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

/// The clock that stamps what this node writes into logs. It goes on by itself and follows the wall
/// clock only where the other nodes' clocks have borne that out: a wall clock that jumps shows in no
/// log, whose time can never be taken back.
#[derive(Debug)]
pub(crate) struct LogClock {
    begun: Instant,
    /// The time at `begun`, in µs since 1970.
    base_us: AtomicI64,
    /// The same as others bore it out last; [`NEVER`] if they have not.
    borne_out_us: AtomicI64,
}

/// No time.
const NEVER: i64 = i64::MIN;

impl LogClock {
    pub(crate) fn new(now: Timestamp) -> Self {
        let (base_us, borne_out_us) = (AtomicI64::new(now.0), AtomicI64::new(NEVER));
        Self { begun: Instant::now(), base_us, borne_out_us }
    }

    /// For how long it has run, in µs.
    pub(crate) fn elapsed_us(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    pub(crate) fn set(&self, now_us: i64) {
        self.base_us.store(now_us.saturating_sub(self.elapsed_us()), Ordering::Relaxed);
    }

    /// What others bore it out last at, as the time when it had run for no time at all.
    pub(crate) fn borne_out_us(&self) -> Option<i64> {
        Some(self.borne_out_us.load(Ordering::Relaxed)).filter(|us| *us != NEVER)
    }

    /// See [`Self::borne_out_us`].
    pub(crate) fn bear_out(&self, base_us: Option<i64>) {
        self.borne_out_us.store(base_us.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

impl Clock for LogClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.base_us.load(Ordering::Relaxed).saturating_add(self.elapsed_us()))
    }
}
