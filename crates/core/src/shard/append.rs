//! What becomes of the batches of an entry, and of each of their records.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use railgun_types::batch::RecordBatch;
use railgun_types::{DedupSpec, EntryId, Offset, Timestamp};

use super::dedup::{Dedup, HeldId, IdHash, SortedHashes};
use super::producers::Claim;
use super::{IndexPoint, Outcome, ShardState};
use crate::command::{Append, AppendMode, Command};

/// What a batch became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record that it added.
    pub base: Offset,
    /// Its first records that are in the stream: those it added, at dense offsets, and duplicates.
    pub count: u32,
    /// Log time of those it added.
    pub ts: Timestamp,
    /// Whether it was appended by an earlier attempt already (PQ-1).
    pub repeated: bool,
    /// What became of records that were not added; `None`: all were.
    pub verdicts: Option<Arc<Verdicts>>,
}

/// Records of a batch that were not added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Those that had been appended before, in ascending order (DD-2).
    pub duplicates: Vec<Duplicate>,
    /// Why the first record behind the `count` was refused, and with it all that follow (PS-2).
    pub refused: Option<AppendRefusal>,
}

/// A record whose message had been appended before, under the same id (DD-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// Its index in the batch.
    pub record: u32,
    /// Where the message is.
    pub offset: Offset,
    /// Its log time.
    pub ts: Timestamp,
}

impl Appended {
    /// Those of its records that had been appended before, in ascending order.
    #[must_use]
    pub fn duplicates(&self) -> &[Duplicate] {
        self.verdicts.as_ref().map_or(&[], |verdicts| &verdicts.duplicates)
    }

    /// Why its records from the `count`-th on were refused.
    #[must_use]
    pub fn refused(&self) -> Option<AppendRefusal> {
        self.verdicts.as_ref()?.refused
    }
}

/// Why a batch, or its records from one on, were not appended. All but `ForgottenSequence` are definite: they
/// never will be by this attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefusal {
    /// The shard has no such stream.
    #[error("the stream does not exist")]
    StreamNotFound,
    /// The stream was deleted.
    #[error("the stream was deleted")]
    StreamDeleted,
    /// A newer epoch of the producer was seen.
    #[error("the producer was fenced by epoch {epoch}")]
    ProducerFenced {
        /// The newest epoch.
        epoch: u32,
    },
    /// No state for a producer that says it has sent before.
    #[error("the server has forgotten this producer, or never knew it")]
    ProducerUnknown,
    /// Earlier records of the producer are missing.
    #[error("records of this producer before the batch are missing; expected sequence {expected}")]
    SequenceGap {
        /// The sequence that must come next.
        expected: u64,
    },
    /// The stream does not end where the publisher expected.
    #[error("the stream's next offset is {actual}")]
    ExpectedEnd {
        /// The offset the next record gets.
        actual: Offset,
    },
    /// A repeated batch whose result is no longer kept: it was appended, nobody can say where.
    #[error("the batch at sequence {sequence} was appended too long ago to tell its offset")]
    ForgottenSequence {
        /// The batch's sequence.
        sequence: u64,
    },
    /// The stream takes only messages with an id.
    #[error("record {record} has no id, and the stream takes only messages that have one")]
    IdRequired {
        /// Index of the record in the batch.
        record: u32,
    },
    /// Another message has come with the id (DD-2).
    #[error("the id of record {record} was used for another message, at offset {original}")]
    IdConflict {
        /// Index of the record in the batch.
        record: u32,
        /// Where the other message is.
        original: Offset,
    },
    /// No more ids can be held (DD-5).
    #[error("record {record} finds no room for its id: as many are held as may be")]
    IdsFull {
        /// Index of the record in the batch.
        record: u32,
    },
    /// A record of an atomic batch had been appended before (PS-4).
    #[error("record {record} of the atomic batch was appended before, at offset {original}")]
    Duplicate {
        /// Index of the record in the batch.
        record: u32,
        /// Where its message is.
        original: Offset,
    },
    /// The stream is a group's companion, which takes dead letters only.
    #[error("the stream takes the dead letters of a group only")]
    Companion,
    /// It is no dead letter that a group awaits: it was written before, or the message is settled.
    #[error("the group does not await this dead letter")]
    NotDying,
}

/// What becomes of the records of one batch that is judged by its ids.
#[derive(Debug, Default)]
struct Judged {
    /// Records to be added, in runs.
    runs: Vec<Range<u32>>,
    /// Their ids.
    ids: Vec<HeldId>,
    /// Their bytes, and those of their ids.
    bytes: u64,
    id_bytes: u64,
    /// Records that are in the stream then.
    count: u32,
    verdicts: Verdicts,
}

impl Judged {
    /// Every record of the batch is added; nothing is held of it.
    fn all(batch: &RecordBatch) -> Self {
        let count = batch.count() as u32;
        let (bytes, id_bytes) = (batch.body_bytes() as u64, batch.id_bytes() as u64);
        let runs = std::iter::once(0..count).collect();
        Self { runs, bytes, id_bytes, count, ..Self::default() }
    }

    /// Judges record by record, as if each came by itself behind those before it (DD-1). The first one
    /// that is refused takes with it all behind it (PS-2).
    fn by_ids(dedup: &Dedup, spec: &DedupSpec, item: &Append, next: Offset, ts: Timestamp) -> Self {
        let mut judged = Self::default();
        let (window, room) = (dedup.window(item.stream), dedup.room(item.stream, spec));
        let wanted = SortedHashes::new(hashes(spec, item));
        let held = window.map_or_else(Vec::new, |window| window.find_all(&wanted));
        judged.ids.reserve(wanted.hashes.len());
        let (mut ids, mut held) = (wanted.hashes.iter().enumerate(), held.into_iter().peekable());
        // Ids of this batch, by their place in `ids`, if one comes more than once.
        let mut own = wanted.has_repeats().then(BTreeMap::new);
        let mut added = 0;
        let mut records = item.batch.records();
        for record in 0..item.batch.count() as u32 {
            let Some(entry) = records.next() else { break };
            let id = entry.id.filter(|_| spec.is_on()).and_then(|_| ids.next());
            let verdict = match id.zip(entry.payload_hash) {
                None if spec.require_id && entry.id.is_none() => {
                    Err(AppendRefusal::IdRequired { record })
                }
                Some(((index, &hash), payload)) => {
                    let [a, b, c, d, e, f, g, h, ..] = *payload;
                    let payload = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                    let offset = next.plus(added);
                    let id = HeldId { hash, offset, ts, payload };
                    let of_batch = own.as_ref().and_then(|own| own.get(&hash));
                    let of_batch = of_batch.map(|place: &usize| judged.ids[*place]);
                    let first = held.next_if(|(it, _)| *it == index).map(|(_, held)| held);
                    let first = first.or(of_batch);
                    match first {
                        Some(HeldId { offset, ts, payload: of_first, .. }) => {
                            if of_first == payload {
                                Ok(Some(Duplicate { record, offset, ts }))
                            } else {
                                Err(AppendRefusal::IdConflict { record, original: offset })
                            }
                        }
                        None if (judged.ids.len() as u64) < room => {
                            if let Some(own) = &mut own {
                                own.insert(hash, judged.ids.len());
                            }
                            judged.ids.push(id);
                            Ok(None)
                        }
                        None => Err(AppendRefusal::IdsFull { record }),
                    }
                }
                None => Ok(None),
            };
            match verdict {
                Ok(None) => {
                    match judged.runs.last_mut() {
                        Some(run) if run.end == record => run.end += 1,
                        _ => judged.runs.push(record..record + 1),
                    }
                    judged.bytes += entry.bytes.len() as u64;
                    judged.id_bytes += entry.id_bytes() as u64;
                    added += 1;
                }
                Ok(Some(duplicate)) => judged.verdicts.duplicates.push(duplicate),
                Err(refusal) => {
                    judged.verdicts.refused = Some(refusal);
                    return judged;
                }
            }
            judged.count += 1;
        }
        judged
    }

    /// Why nothing of the batch is appended, if nothing is.
    fn refusal(&self, mode: AppendMode) -> Option<AppendRefusal> {
        let Verdicts { duplicates, refused } = &self.verdicts;
        match (mode, duplicates.first()) {
            (AppendMode::Atomic, Some(first)) => {
                // Whichever of its records is to blame first.
                let Duplicate { record, offset: original, .. } = *first;
                Some(AppendRefusal::Duplicate { record, original })
            }
            (AppendMode::Atomic, None) => *refused,
            (AppendMode::Each, _) => refused.filter(|_| self.count == 0),
        }
    }
}

/// What the ids of the records are held as, of those that have one; of none where the stream holds none.
fn hashes(spec: &DedupSpec, item: &Append) -> Vec<IdHash> {
    let ids = item.batch.records().filter_map(|entry| entry.id.filter(|_| spec.is_on()));
    ids.map(|id| IdHash::new(item.stream, id)).collect()
}

impl ShardState {
    pub(super) fn append(&mut self, at: EntryId, items: &[Append]) -> Outcome {
        let mut position = Command::ITEMS_AT;
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            results.push(self.append_item(at, position, item));
            position += item.encoded_len() as u32;
        }
        Outcome::Appended(results)
    }

    /// The order of the checks is a rule (PQ-1): the producer's sequence, the end that is expected, ids.
    fn append_item(
        &mut self,
        at: EntryId,
        position: u32,
        item: &Append,
    ) -> Result<Appended, AppendRefusal> {
        if let Some(of) = item.dead_letter {
            return self.append_dead_letter(at, position, item, of);
        }
        let ts = self.log_time;
        let uid = item.stream;
        let stream = self.streams.get_mut(&uid).ok_or(AppendRefusal::StreamNotFound)?;
        if stream.is_deleted() {
            return Err(AppendRefusal::StreamDeleted);
        }
        if stream.parent.is_some() {
            return Err(AppendRefusal::Companion);
        }
        let slot = match item.producer {
            None => None,
            Some(claim) => match self.producers.claim(uid, claim, item.batch.count() as u32)? {
                Claim::Repeated(first) => return Ok(first),
                Claim::Fresh(slot) => Some(slot),
            },
        };
        let base = stream.next_offset();
        if let Some(expected) = item.expected_end
            && expected.0 != base.0
        {
            return Err(AppendRefusal::ExpectedEnd { actual: base });
        }
        let spec = stream.spec.dedup;
        let judged = if spec.is_on() || spec.require_id {
            self.dedup.expire(uid, ts, &spec);
            Judged::by_ids(&self.dedup, &spec, item, base, ts)
        } else {
            Judged::all(&item.batch)
        };
        if let Some(refusal) = judged.refusal(item.mode) {
            return Err(refusal);
        }
        let Judged { runs, ids, bytes, id_bytes, count, verdicts } = judged;
        let mut next = base;
        let points = runs.into_iter().map(|Range { start: skip, end }| {
            let count = end - skip;
            let point = IndexPoint { base: next, skip, count, position, log_index: at.index, ts };
            next = point.end();
            point
        });
        stream.append(points, bytes, id_bytes, &mut self.floor, &mut self.waiting);
        self.dedup.hold(uid, &spec, &ids);
        let is_plain = verdicts == Verdicts::default();
        let verdicts = (!is_plain).then(|| Arc::new(verdicts));
        let appended = Appended { base, count, ts, repeated: false, verdicts };
        if let Some(slot) = slot {
            let used = slot.record(item.batch.count() as u32, &appended);
            self.producers.note(used);
        }
        Ok(appended)
    }
}
