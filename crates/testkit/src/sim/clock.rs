//! The clock of a simulated node: virtual time, and jumps in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use railgun_broker::{Clock, Entropy};
use railgun_types::Timestamp;
use tokio::time::Instant;

use super::random::Random;
use super::shared::Shared;

/// 2026-03-01T23:59:30Z: half a minute before midnight, so that every run crosses into another day.
const BEGIN_US: i64 = 1_772_409_570_000_000;

/// Tells virtual time plus what it was set off by. Clones are one clock.
#[derive(Clone, Debug)]
pub(super) struct SimClock {
    start: Instant,
    offset_us: Arc<AtomicI64>,
}

impl SimClock {
    pub(super) fn begin() -> Self {
        Self { start: Instant::now(), offset_us: Arc::new(AtomicI64::new(0)) }
    }

    /// Jumps, forward or back.
    pub(super) fn jump(&self, us: i64) {
        self.offset_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How much it tells beside virtual time, in µs.
    pub(super) fn off_us(&self) -> i64 {
        self.offset_us.load(Ordering::Relaxed)
    }

    /// From now on it tells this much beside virtual time.
    pub(super) fn set_off(&self, us: i64) {
        self.offset_us.store(us, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp(BEGIN_US + passed + self.off_us())
    }
}

/// Identifiers out of the seed.
#[derive(Clone, Debug)]
pub(super) struct SimEntropy(Shared<Random>);

impl SimEntropy {
    pub(super) fn new(random: Random) -> Self {
        Self(Shared::new(random))
    }
}

impl Entropy for SimEntropy {
    fn uid(&self) -> [u8; 16] {
        self.0.with(Random::bytes)
    }
}
