//! Attempts, deadlines and pauses between them.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};

use super::error::{Failure, RetryClass};

/// Time and chance for the retry loop: the seam through which a simulation runs it.
pub trait Pacer: fmt::Debug + Send + Sync + 'static {
    /// Completes after `pause`.
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()>;
    /// A fresh random number.
    fn random(&self) -> u64;
}

/// The pacer of production: tokio's timer, and a generator that is seeded once.
#[derive(Debug)]
pub struct TokioPacer {
    state: AtomicU64,
}

impl TokioPacer {
    /// A pacer whose jitter follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Pacer for TokioPacer {
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(pause))
    }

    fn random(&self) -> u64 {
        // A Weyl sequence, mixed: spreads retries, needs no quality beyond that.
        let step = 0x9e37_79b9_7f4a_7c15;
        let x = self.state.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        let x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ x >> 31
    }
}

/// How often and how patiently a request is tried.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts, at least one.
    pub attempts: u32,
    /// Pause after the first failed attempt; doubles with each.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// Time an attempt has whatever its size.
    pub attempt_min: Duration,
    /// Bytes per second below which an attempt is given up as stalled.
    pub bytes_per_second_min: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
            attempt_min: Duration::from_secs(10),
            bytes_per_second_min: 1 << 20,
        }
    }
}

impl RetryPolicy {
    /// The deadline of one attempt that moves `bytes`.
    pub(super) fn attempt_deadline(&self, bytes: u64) -> Duration {
        self.attempt_min + Duration::from_secs(bytes / self.bytes_per_second_min.max(1))
    }

    /// The pause after failed attempt number `attempt` (from 1): between half and all of the doubled
    /// minimum. A store that throttles gets four times as long.
    pub(super) fn pause(&self, attempt: u32, class: RetryClass, pacer: &dyn Pacer) -> Duration {
        let factor = if class == RetryClass::Throttled { 4 } else { 1 };
        let doubled = self.pause_min.saturating_mul(factor << attempt.saturating_sub(1).min(16));
        let pause = doubled.min(self.pause_max).as_micros() as u64;
        Duration::from_micros(pause / 2 + pacer.random() % (pause / 2 + 1))
    }
}

/// Runs one attempt under `deadline`.
pub(super) async fn attempt<T>(
    pacer: &dyn Pacer,
    deadline: Duration,
    request: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, Failure> {
    match select(pin!(request), pacer.sleep(deadline)).await {
        Either::Left((answer, _)) => answer.map_err(Failure::from),
        Either::Right(((), _)) => Err(Failure::stalled(deadline.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_are_spread() {
        let (policy, pacer) = (RetryPolicy::default(), TokioPacer::new(1));
        let mut seen = std::collections::BTreeSet::new();
        for attempt in 1..40 {
            let pause = policy.pause(attempt, RetryClass::Transient, &pacer);
            let full = (policy.pause_min * (1 << (attempt - 1).min(10))).min(policy.pause_max);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?} of {full:?}");
            seen.insert(pause);
        }
        assert!(seen.len() > 30, "jitter repeats itself");
        let throttled = policy.pause(1, RetryClass::Throttled, &pacer);
        assert!(throttled >= policy.pause_min * 2);
    }
}
