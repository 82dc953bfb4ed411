//! How long to wait before trying again, and the randomness that keeps clients apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Waits that double from `first` up to `max`, each shortened by up to a half at random, so that
/// clients that lost the same server do not come back in step and load it all at once.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Between rounds in which no server could be reached: each costs both sides a handshake.
    pub(crate) fn of_rounds() -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(2), failures: 0 }
    }

    /// Of requests that a server refused for now: a shard has another leader within a second or two, and
    /// whoever waits for it should go on soon after.
    pub(crate) fn of_requests() -> Self {
        Self { first: Duration::from_millis(20), max: Duration::from_millis(500), failures: 0 }
    }

    /// Between moves of a publisher to the leader of its streams: the first is worth
    /// something to whoever stays, and a lead that moves often is not worth following each time.
    pub(crate) fn of_moves() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(30), failures: 0 }
    }

    /// Between attempts to reach a node beside the server that was given: it may be out of reach for good.
    pub(crate) fn of_nodes() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(120), failures: 0 }
    }

    /// The wait after one more failure. `random` is any 64 random bits.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let full = doubled.min(self.max);
        // 0.5 … 1.0 of the full wait, in steps of 1/1024.
        full * (512 + (random % 512) as u32) / 1024
    }

    /// Something worked: the next failure is the first again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Random bits for identifiers and jitter: two SplitMix64 generators (Steele, Lea, Flood 2014).
/// Seeded by the operating system, or by a number where runs must repeat. Not for secrets.
#[derive(Debug)]
pub(crate) struct Randomness {
    states: [AtomicU64; 2],
}

impl Randomness {
    /// From 16 random bytes.
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let half = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&seed[at..at + 8]);
            AtomicU64::new(u64::from_le_bytes(bytes))
        };
        Self { states: [half(0), half(8)] }
    }

    /// 64 random bits.
    pub(crate) fn next(&self) -> u64 {
        self.step(0)
    }

    /// 128 random bits, for an identifier.
    pub(crate) fn identifier(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.step(0).to_le_bytes());
        id[8..].copy_from_slice(&self.step(1).to_le_bytes());
        id
    }

    fn step(&self, generator: usize) -> u64 {
        mix(self.states[generator].fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA))
    }
}

/// Random bits of one owner, as of [`Randomness`].
#[derive(Clone, Debug)]
pub(crate) struct Bits(u64);

impl Bits {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_between_half_and_full_up_to_the_maximum() {
        let (mut least, mut most) = (Backoff::of_rounds(), Backoff::of_rounds());
        let mut full_ms = 50;
        for _ in 0..20 {
            let (low, high) = (least.next(0), most.next(511));
            assert_eq!(low, Duration::from_millis(full_ms) / 2);
            assert!(high > low && high < Duration::from_millis(full_ms), "{high:?}");
            full_ms = (full_ms * 2).min(2_000);
        }
        least.reset();
        assert_eq!(least.next(0), Duration::from_millis(25));
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_another_gives_others() {
        let draw = |seed| {
            let random = Randomness::new([seed; 16]);
            (random.next(), random.identifier(), random.identifier())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(1).1, draw(1).2);
    }
}
