//! Exactly-once append of retries: what the last batches of each producer became (PQ-1).

use std::collections::{BTreeMap, VecDeque};

use railgun_types::limits::{PRODUCER_WINDOW, PRODUCERS_PER_SHARD};
use railgun_types::{Offset, ProducerId, StreamUid, Timestamp};

use super::{AppendRefusal, Appended};
use crate::command::ProducerSequence;

/// Log time after its last use at which a producer is forgotten, in µs: 7 days.
const PRODUCER_TTL_US: i64 = 7 * 86_400_000_000;
/// A use is noted for eviction at most once in this span of log time, in µs.
const USE_GRAIN_US: i64 = 1_000_000;

pub(super) type ProducerKey = (StreamUid, ProducerId);

/// Every producer of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producers {
    pub(super) states: BTreeMap<ProducerKey, Producer>,
    /// Producers by the last noted use, oldest first.
    pub(super) by_use: BTreeMap<(Timestamp, ProducerKey), ()>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: u32,
    pub(super) next: u64,
    pub(super) used: Timestamp,
    pub(super) results: VecDeque<StoredResult>,
}

/// What one batch became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredResult {
    pub(super) sequence: u64,
    pub(super) count: u32,
    pub(super) base: Offset,
    pub(super) ts: Timestamp,
}

/// What a producer's claim means for a batch.
pub(super) enum Verdict {
    /// Append it, if nothing else forbids.
    Fresh,
    /// It was appended before; this is the result it had.
    Repeated(Appended),
}

impl Producers {
    /// Judges a batch of `count` records, before anything else is looked at but the stream.
    pub(super) fn check(
        &self,
        stream: StreamUid,
        claim: ProducerSequence,
        count: u32,
    ) -> Result<Verdict, AppendRefusal> {
        let Some(producer) = self.states.get(&(stream, claim.id)) else {
            let known = claim.sequence == 0;
            return if known { Ok(Verdict::Fresh) } else { Err(AppendRefusal::ProducerUnknown) };
        };
        if claim.epoch < producer.epoch {
            return Err(AppendRefusal::ProducerFenced { epoch: producer.epoch });
        }
        // A newer epoch begins again at 0.
        let expected = if claim.epoch > producer.epoch { 0 } else { producer.next };
        if claim.sequence == expected {
            return Ok(Verdict::Fresh);
        }
        if claim.sequence > expected {
            return Err(AppendRefusal::SequenceGap { expected });
        }
        let stored =
            producer.results.iter().find(|r| r.sequence == claim.sequence && r.count == count);
        match stored {
            Some(result) => Ok(Verdict::Repeated(Appended {
                base: result.base,
                count: result.count,
                ts: result.ts,
                repeated: true,
            })),
            None => Err(AppendRefusal::ForgottenSequence { sequence: claim.sequence }),
        }
    }

    /// Notes that a batch judged fresh was appended.
    pub(super) fn record(&mut self, stream: StreamUid, claim: ProducerSequence, result: Appended) {
        let key = (stream, claim.id);
        let producer = self.states.entry(key).or_default();
        if claim.epoch > producer.epoch {
            *producer = Producer { epoch: claim.epoch, used: producer.used, ..Producer::default() };
        }
        producer.next = claim.sequence + u64::from(result.count);
        if producer.results.len() == PRODUCER_WINDOW {
            producer.results.pop_front();
        }
        producer.results.push_back(StoredResult {
            sequence: claim.sequence,
            count: result.count,
            base: result.base,
            ts: result.ts,
        });
        let fresh = producer.results.len() == 1;
        if fresh || result.ts.since_us(producer.used) >= USE_GRAIN_US {
            self.by_use.remove(&(producer.used, key));
            producer.used = result.ts;
            self.by_use.insert((result.ts, key), ());
            self.evict(result.ts, key);
        }
    }

    /// Forgets the longest unused while there are too many, and all that were unused too long, but
    /// not `newest`: its result was only just noted.
    fn evict(&mut self, now: Timestamp, newest: ProducerKey) {
        while let Some(oldest) = self.by_use.first_entry() {
            let &(used, key) = oldest.key();
            if key == newest {
                return;
            }
            let expired = now.since_us(used) > PRODUCER_TTL_US;
            if !expired && self.states.len() <= PRODUCERS_PER_SHARD {
                return;
            }
            oldest.remove();
            self.states.remove(&key);
        }
    }

    /// Forgets one producer of a stream: its handle was closed cleanly.
    pub(super) fn release(&mut self, stream: StreamUid, id: ProducerId) {
        if let Some(producer) = self.states.remove(&(stream, id)) {
            self.by_use.remove(&(producer.used, (stream, id)));
        }
    }

    /// Forgets every producer of a deleted stream.
    pub(super) fn release_stream(&mut self, stream: StreamUid) {
        let (first, last) = (ProducerId([0; 16]), ProducerId([0xff; 16]));
        let ids: Vec<_> =
            self.states.range((stream, first)..=(stream, last)).map(|((_, id), _)| *id).collect();
        ids.into_iter().for_each(|id| self.release(stream, id));
    }

    /// Producers known.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamUid = StreamUid([1; 16]);

    fn claim(id: u8, epoch: u32, sequence: u64) -> ProducerSequence {
        ProducerSequence { id: ProducerId([id; 16]), epoch, sequence }
    }

    fn result(base: u64, count: u32, ts: i64) -> Appended {
        Appended { base: Offset(base), count, ts: Timestamp(ts), repeated: false }
    }

    fn verdict(
        p: &Producers,
        claim: ProducerSequence,
        count: u32,
    ) -> Result<Option<u64>, AppendRefusal> {
        p.check(STREAM, claim, count).map(|verdict| match verdict {
            Verdict::Fresh => None,
            Verdict::Repeated(result) => Some(result.base.0),
        })
    }

    #[test]
    fn a_retry_of_any_unanswered_batch_gets_its_first_result() {
        let mut producers = Producers::default();
        for batch in 0..9u64 {
            assert_eq!(verdict(&producers, claim(1, 0, batch * 2), 2), Ok(None));
            producers.record(STREAM, claim(1, 0, batch * 2), result(100 + batch * 2, 2, 0));
        }
        for batch in 1..9u64 {
            assert_eq!(verdict(&producers, claim(1, 0, batch * 2), 2), Ok(Some(100 + batch * 2)));
        }
        // The ninth back is no longer known, and another cut of the same records never was.
        let forgotten = |sequence| Err(AppendRefusal::ForgottenSequence { sequence });
        assert_eq!(verdict(&producers, claim(1, 0, 0), 2), forgotten(0));
        assert_eq!(verdict(&producers, claim(1, 0, 4), 1), forgotten(4));
        assert_eq!(
            verdict(&producers, claim(1, 0, 20), 1),
            Err(AppendRefusal::SequenceGap { expected: 18 })
        );
    }

    #[test]
    fn epochs_fence_and_begin_again() {
        let mut producers = Producers::default();
        producers.record(STREAM, claim(1, 3, 0), result(0, 5, 0));
        assert_eq!(
            verdict(&producers, claim(1, 2, 5), 1),
            Err(AppendRefusal::ProducerFenced { epoch: 3 })
        );
        assert_eq!(
            verdict(&producers, claim(1, 4, 5), 1),
            Err(AppendRefusal::SequenceGap { expected: 0 })
        );
        assert_eq!(verdict(&producers, claim(1, 4, 0), 1), Ok(None));
        producers.record(STREAM, claim(1, 4, 0), result(5, 1, 0));
        assert_eq!(
            verdict(&producers, claim(1, 3, 5), 1),
            Err(AppendRefusal::ProducerFenced { epoch: 4 })
        );
    }

    #[test]
    fn the_unknown_begin_at_zero_only() {
        let producers = Producers::default();
        assert_eq!(verdict(&producers, claim(1, 0, 0), 1), Ok(None));
        assert_eq!(verdict(&producers, claim(1, 0, 1), 1), Err(AppendRefusal::ProducerUnknown));
    }

    #[test]
    fn the_unused_are_forgotten_after_seven_days_of_log_time() {
        let mut producers = Producers::default();
        producers.record(STREAM, claim(1, 0, 0), result(0, 1, 0));
        producers.record(STREAM, claim(2, 0, 0), result(1, 1, 5 * USE_GRAIN_US));
        let later = PRODUCER_TTL_US + 5 * USE_GRAIN_US;
        producers.record(STREAM, claim(3, 0, 0), result(2, 1, later));
        assert_eq!(producers.len(), 2, "producer 1 is forgotten, 2 is just in time");
        assert_eq!(verdict(&producers, claim(1, 0, 1), 1), Err(AppendRefusal::ProducerUnknown));
        producers.release_stream(STREAM);
        assert_eq!((producers.states.len(), producers.by_use.len()), (0, 0));
    }
}
