//! Exactly-once append of retries: what the last batches of each producer became (PQ-1).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use railgun_types::limits::{PRODUCER_DUPLICATES_PER_SHARD, PRODUCER_WINDOW, PRODUCERS_PER_SHARD};
use railgun_types::{Offset, ProducerId, StreamUid, Timestamp};

use super::{AppendRefusal, Appended, Verdicts};
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
    /// Duplicates in all results.
    pub(super) duplicates: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: u32,
    pub(super) next: u64,
    pub(super) used: Timestamp,
    pub(super) results: VecDeque<StoredResult>,
}

impl Producer {
    pub(super) fn duplicates(&self) -> u64 {
        self.results.iter().map(StoredResult::duplicates).sum()
    }
}

/// What one batch became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredResult {
    pub(super) sequence: u64,
    /// Its records.
    pub(super) count: u32,
    /// The first of them that are in the stream: what the sequence advanced by.
    pub(super) taken: u32,
    pub(super) base: Offset,
    pub(super) ts: Timestamp,
    pub(super) verdicts: StoredVerdicts,
}

/// What is kept of records that a batch did not add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredVerdicts {
    /// There were none.
    AllAdded,
    Kept(Arc<Verdicts>),
    /// There was no room for so many duplicates: what the batch became is not known any more.
    Lost,
}

impl StoredResult {
    fn duplicates(&self) -> u64 {
        match &self.verdicts {
            StoredVerdicts::Kept(verdicts) => verdicts.duplicates.len() as u64,
            StoredVerdicts::AllAdded | StoredVerdicts::Lost => 0,
        }
    }

    /// As whoever repeats the batch is told.
    fn told(&self) -> Option<Appended> {
        let verdicts = match &self.verdicts {
            StoredVerdicts::AllAdded => None,
            StoredVerdicts::Kept(verdicts) => Some(Arc::clone(verdicts)),
            StoredVerdicts::Lost => return None,
        };
        let Self { base, taken: count, ts, .. } = *self;
        Some(Appended { base, count, ts, repeated: true, verdicts })
    }
}

/// What a producer's claim means for a batch.
#[derive(Debug)]
pub(super) enum Claim<'p> {
    /// Append it, if nothing else forbids, and record that in the slot. Dropped unused, the slot
    /// leaves the producer as it was.
    Fresh(Slot<'p>),
    /// It was appended before; this is the result it had.
    Repeated(Appended),
}

/// Where the result of a batch goes: found once, when the batch is judged.
#[derive(Debug)]
pub(super) struct Slot<'p> {
    producer: Entry<'p, ProducerKey, Producer>,
    claim: ProducerSequence,
    /// Duplicates for which there is room.
    room: u64,
}

/// A result that was recorded, and what must be noted of it.
#[derive(Debug)]
#[must_use]
pub(super) struct Recorded {
    key: ProducerKey,
    /// Where the producer counts as used anew, for eviction: since when, and since when before.
    used: Option<(Timestamp, Timestamp)>,
    /// Duplicates in its results, now and before.
    duplicates: (u64, u64),
}

impl Producers {
    /// Judges a batch of `count` records, before anything else is looked at but the stream.
    pub(super) fn claim(
        &mut self,
        stream: StreamUid,
        claim: ProducerSequence,
        count: u32,
    ) -> Result<Claim<'_>, AppendRefusal> {
        let room = PRODUCER_DUPLICATES_PER_SHARD.saturating_sub(self.duplicates);
        let producer = match self.states.entry((stream, claim.id)) {
            Entry::Occupied(known) => known,
            unknown if claim.sequence == 0 => {
                return Ok(Claim::Fresh(Slot { producer: unknown, claim, room }));
            }
            Entry::Vacant(_) => return Err(AppendRefusal::ProducerUnknown),
        };
        let Producer { epoch, next, results, .. } = producer.get();
        if claim.epoch < *epoch {
            return Err(AppendRefusal::ProducerFenced { epoch: *epoch });
        }
        // A newer epoch begins again at 0.
        let expected = if claim.epoch > *epoch { 0 } else { *next };
        if claim.sequence == expected {
            return Ok(Claim::Fresh(Slot { producer: Entry::Occupied(producer), claim, room }));
        }
        if claim.sequence > expected {
            return Err(AppendRefusal::SequenceGap { expected });
        }
        let stored = results.iter().find(|r| r.sequence == claim.sequence && r.count == count);
        match stored.and_then(StoredResult::told) {
            Some(first) => Ok(Claim::Repeated(first)),
            None => Err(AppendRefusal::ForgottenSequence { sequence: claim.sequence }),
        }
    }

    /// Notes what was recorded, and forgets producers for it.
    pub(super) fn note(&mut self, Recorded { key, used, duplicates }: Recorded) {
        let (now, before) = duplicates;
        self.duplicates = self.duplicates + now - before;
        if let Some((now, before)) = used {
            self.by_use.remove(&(before, key));
            self.by_use.insert((now, key), ());
            self.evict(now, key);
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
            self.forget_state(key);
        }
    }

    /// Whether a handle of this epoch has a producer of the stream to forget.
    pub(super) fn knows(&self, stream: StreamUid, id: ProducerId, epoch: u32) -> bool {
        self.states.get(&(stream, id)).is_some_and(|producer| producer.epoch <= epoch)
    }

    /// Forgets one producer of a stream: its handle was closed cleanly. A newer handle's stays.
    pub(super) fn release(&mut self, stream: StreamUid, id: ProducerId, epoch: u32) {
        if self.knows(stream, id, epoch) {
            self.remove(stream, id);
        }
    }

    fn remove(&mut self, stream: StreamUid, id: ProducerId) {
        if let Some(used) = self.forget_state((stream, id)) {
            self.by_use.remove(&(used, (stream, id)));
        }
    }

    /// Says when it was used last.
    fn forget_state(&mut self, key: ProducerKey) -> Option<Timestamp> {
        let producer = self.states.remove(&key)?;
        self.duplicates -= producer.duplicates();
        Some(producer.used)
    }

    /// Forgets every producer of a deleted stream.
    pub(super) fn release_stream(&mut self, stream: StreamUid) {
        let (first, last) = (ProducerId([0; 16]), ProducerId([0xff; 16]));
        let ids: Vec<_> =
            self.states.range((stream, first)..=(stream, last)).map(|((_, id), _)| *id).collect();
        ids.into_iter().for_each(|id| self.remove(stream, id));
    }

    /// Producers known.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }
}

impl Slot<'_> {
    /// Notes that of the batch judged fresh, of `count` records, some are in the stream now. The sequence
    /// advances by these: what is behind them, and in flight, meets a gap (PS-2).
    pub(super) fn record(self, count: u32, result: &Appended) -> Recorded {
        let Self { producer, claim, room } = self;
        let key = *producer.key();
        let producer = producer.or_default();
        let duplicates = producer.duplicates();
        if claim.epoch > producer.epoch {
            *producer = Producer { epoch: claim.epoch, used: producer.used, ..Producer::default() };
        }
        producer.next = claim.sequence + u64::from(result.count);
        if producer.results.len() == PRODUCER_WINDOW {
            producer.results.pop_front();
        }
        let room = room + duplicates - producer.duplicates();
        let verdicts = match &result.verdicts {
            None => StoredVerdicts::AllAdded,
            Some(verdicts) if verdicts.duplicates.len() as u64 <= room => {
                StoredVerdicts::Kept(Arc::clone(verdicts))
            }
            Some(_) => StoredVerdicts::Lost,
        };
        let Appended { base, count: taken, ts, .. } = *result;
        let sequence = claim.sequence;
        producer.results.push_back(StoredResult { sequence, count, taken, base, ts, verdicts });
        let is_first = producer.results.len() == 1;
        let before = producer.used;
        let is_noted = is_first || ts.since_us(before) >= USE_GRAIN_US;
        if is_noted {
            producer.used = ts;
        }
        let used = is_noted.then_some((ts, before));
        Recorded { key, used, duplicates: (producer.duplicates(), duplicates) }
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
        let (base, ts) = (Offset(base), Timestamp(ts));
        Appended { base, count, ts, repeated: false, verdicts: None }
    }

    /// What a claim would mean, and that asking changes nothing.
    fn verdict(
        p: &mut Producers,
        claim: ProducerSequence,
        count: u32,
    ) -> Result<Option<u64>, AppendRefusal> {
        let before = p.clone();
        let verdict = p.claim(STREAM, claim, count).map(|claimed| match claimed {
            Claim::Fresh(_) => None,
            Claim::Repeated(result) => Some(result.base.0),
        });
        assert_eq!(*p, before, "a batch that is not appended leaves no trace");
        verdict
    }

    fn record(p: &mut Producers, claim: ProducerSequence, result: Appended) {
        let Ok(Claim::Fresh(slot)) = p.claim(STREAM, claim, result.count) else {
            panic!("{claim:?} is not fresh")
        };
        let recorded = slot.record(result.count, &result);
        p.note(recorded);
    }

    #[test]
    fn a_retry_of_any_unanswered_batch_gets_its_first_result() {
        let mut producers = Producers::default();
        for batch in 0..9u64 {
            assert_eq!(verdict(&mut producers, claim(1, 0, batch * 2), 2), Ok(None));
            record(&mut producers, claim(1, 0, batch * 2), result(100 + batch * 2, 2, 0));
        }
        for batch in 1..9u64 {
            assert_eq!(
                verdict(&mut producers, claim(1, 0, batch * 2), 2),
                Ok(Some(100 + batch * 2))
            );
        }
        // The ninth back is no longer known, and another cut of the same records never was.
        let forgotten = |sequence| Err(AppendRefusal::ForgottenSequence { sequence });
        assert_eq!(verdict(&mut producers, claim(1, 0, 0), 2), forgotten(0));
        assert_eq!(verdict(&mut producers, claim(1, 0, 4), 1), forgotten(4));
        assert_eq!(
            verdict(&mut producers, claim(1, 0, 20), 1),
            Err(AppendRefusal::SequenceGap { expected: 18 })
        );
    }

    #[test]
    fn epochs_fence_and_begin_again() {
        let mut producers = Producers::default();
        record(&mut producers, claim(1, 3, 0), result(0, 5, 0));
        assert_eq!(
            verdict(&mut producers, claim(1, 2, 5), 1),
            Err(AppendRefusal::ProducerFenced { epoch: 3 })
        );
        assert_eq!(
            verdict(&mut producers, claim(1, 4, 5), 1),
            Err(AppendRefusal::SequenceGap { expected: 0 })
        );
        assert_eq!(verdict(&mut producers, claim(1, 4, 0), 1), Ok(None));
        record(&mut producers, claim(1, 4, 0), result(5, 1, 0));
        assert_eq!(
            verdict(&mut producers, claim(1, 3, 5), 1),
            Err(AppendRefusal::ProducerFenced { epoch: 4 })
        );
    }

    #[test]
    fn the_unknown_begin_at_zero_only() {
        let mut producers = Producers::default();
        assert_eq!(verdict(&mut producers, claim(1, 0, 0), 1), Ok(None));
        assert_eq!(verdict(&mut producers, claim(1, 0, 1), 1), Err(AppendRefusal::ProducerUnknown));
    }

    #[test]
    fn there_are_so_many_producers_and_the_longest_unused_go_first() {
        let mut producers = Producers::default();
        let of = |number: usize, sequence| {
            let id = ProducerId((number as u128).to_be_bytes());
            ProducerSequence { id, epoch: 0, sequence }
        };
        let mut use_at = |number, sequence, ts| {
            record(&mut producers, of(number, sequence), result(0, 1, ts));
            producers.len()
        };
        for number in 0..PRODUCERS_PER_SHARD {
            assert_eq!(use_at(number, 0, number as i64), number + 1);
        }
        // The first is used again, so the second is the longest unused.
        let later = 2 * USE_GRAIN_US;
        assert_eq!(use_at(0, 1, later), PRODUCERS_PER_SHARD);
        for number in [PRODUCERS_PER_SHARD, PRODUCERS_PER_SHARD + 1] {
            assert_eq!(use_at(number, 0, later), PRODUCERS_PER_SHARD);
        }
        let known = |number| producers.states.contains_key(&(STREAM, of(number, 0).id));
        let known: Vec<_> = [0, 1, 2, 3, PRODUCERS_PER_SHARD + 1].into_iter().map(known).collect();
        assert_eq!(known, [true, false, false, true, true]);
        assert_eq!(producers.by_use.len(), PRODUCERS_PER_SHARD);
    }

    #[test]
    fn the_unused_are_forgotten_after_seven_days_of_log_time() {
        let mut producers = Producers::default();
        record(&mut producers, claim(1, 0, 0), result(0, 1, 0));
        record(&mut producers, claim(2, 0, 0), result(1, 1, 5 * USE_GRAIN_US));
        let later = PRODUCER_TTL_US + 5 * USE_GRAIN_US;
        record(&mut producers, claim(3, 0, 0), result(2, 1, later));
        assert_eq!(producers.len(), 2, "producer 1 is forgotten, 2 is just in time");
        assert_eq!(verdict(&mut producers, claim(1, 0, 1), 1), Err(AppendRefusal::ProducerUnknown));
        producers.release_stream(STREAM);
        assert_eq!((producers.states.len(), producers.by_use.len()), (0, 0));
    }
}
