//! What a node cannot do about its replicas for now: told once, and tried again less and less often.

use std::collections::BTreeMap;
use std::time::Duration;

use railgun_core::catalog::Placement;
use railgun_types::ShardId;
use tokio::time::Instant;

/// How long it is until the second attempt, and at most until the next one.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Setbacks(BTreeMap<ShardId, Setback>);

#[derive(Debug)]
struct Setback {
    /// The placement's version, and the one in force: with others it may be another matter.
    of: (u64, u64),
    what: String,
    pause: Duration,
    until: Instant,
}

impl Setbacks {
    /// Whether it may be tried.
    pub(super) fn is_due(&self, shard: ShardId, placement: &Placement, now: Instant) -> bool {
        let of = (placement.version, placement.settled);
        self.0.get(&shard).is_none_or(|setback| setback.of != of || setback.until <= now)
    }

    /// It did not succeed; whether that is to be told.
    pub(super) fn note(
        &mut self,
        shard: ShardId,
        placement: &Placement,
        what: String,
        now: Instant,
    ) -> bool {
        let of = (placement.version, placement.settled);
        let before = self.0.remove(&shard).filter(|before| before.of == of);
        let is_new = before.as_ref().is_none_or(|before| before.what != what);
        let pause = before.map_or(PAUSE, |before| (before.pause * 2).min(PAUSE_MAX));
        self.0.insert(shard, Setback { of, what, pause, until: now + pause });
        is_new
    }

    /// It did.
    pub(super) fn clear(&mut self, shard: ShardId) {
        self.0.remove(&shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_setback_is_told_once_and_tried_less_often_until_something_changes() {
        let (mut setbacks, shard, start) = (Setbacks::default(), ShardId(1), Instant::now());
        let mut placement = Placement {
            version: 1,
            voters: Vec::new(),
            learners: Vec::new(),
            in_force: Vec::new(),
            settled: 1,
        };
        let (mut now, mut attempts, mut told) = (start, 0, 0);
        while now < start + Duration::from_secs(60) {
            if setbacks.is_due(shard, &placement, now) {
                attempts += 1;
                told += u32::from(setbacks.note(shard, &placement, "no".to_owned(), now));
            }
            now += PAUSE;
        }
        // After 0.5, 1.5, 3.5, 7.5 s, then each 8 s.
        assert_eq!((attempts, told), (1 + 4 + 6, 1));
        assert!(setbacks.is_due(ShardId(2), &placement, now), "it is another's");
        assert!(setbacks.note(shard, &placement, "another reason".to_owned(), now));
        assert!(!setbacks.is_due(shard, &placement, now));
        placement.settled = 2;
        assert!(setbacks.is_due(shard, &placement, now));
        assert!(setbacks.note(shard, &placement, "another reason".to_owned(), now));
        assert!(setbacks.is_due(shard, &placement, now + PAUSE));
        setbacks.clear(shard);
        assert!(setbacks.note(shard, &placement, "another reason".to_owned(), now));
    }
}
