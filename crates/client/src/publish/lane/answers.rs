//! What answers do to a lane, and what becomes of the batches behind one that failed.

use railgun_proto::{WireError, v1};
use railgun_types::{ErrorCode, Offset, Retry, Timestamp};
use tokio::time::Instant;

use super::{Lane, Phase, asked_wait};
use crate::publish::batch::{ClosedBatch, Completion};
use crate::publish::error::{ProtocolError, PublishError};
use crate::publish::outcome::{BatchFailure, BatchResult, OnDuplicate};

impl Lane {
    /// The oldest batch in flight is answered.
    pub(crate) fn settle(
        &mut self,
        answer: v1::ItemResult,
        now: Instant,
        out: &mut Vec<Completion>,
    ) -> Result<(), ProtocolError> {
        let Some(item) = self.flying.pop_front() else { return Err(ProtocolError::UnaskedResult) };
        let (published, records) = (answer.published, item.count);
        if published > records || (published < records) == answer.error.is_none() {
            self.requeue(ClosedBatch { ambiguous: true, ..item }, now);
            return Err(ProtocolError::PublishedCount { published, records });
        }
        let Some(error) = answer.error.map(WireError::from) else {
            self.advance(&item, records);
            self.published_records += u64::from(records);
            let result = self.appended(answer.base_offset, answer.ts_us, published);
            out.push(item.complete(self.with_duplicates(result, answer.duplicates)));
            return Ok(());
        };
        if published > 0 {
            // The first ones are in the stream, so the batch as a whole is not repeated.
            self.advance(&item, published);
            self.published_records += u64::from(published);
            let result = self.appended(answer.base_offset, answer.ts_us, published);
            let result = self.with_duplicates(result, answer.duplicates);
            let failure = Some(BatchFailure::of_one(error));
            self.note_failures(&failure);
            out.push(item.complete(BatchResult { failure, ..result }));
            self.after_failure(now, out);
            return Ok(());
        }
        self.refused(item, error, now, out);
        Ok(())
    }

    /// None of the batch's records was appended by this attempt.
    fn refused(
        &mut self,
        mut item: ClosedBatch,
        error: WireError,
        now: Instant,
        out: &mut Vec<Completion>,
    ) {
        let code = error.code;
        let behind = code == ErrorCode::OrderBroken || code == ErrorCode::SequenceGap;
        if behind && matches!(self.phase, Phase::Broken | Phase::Dead(_)) {
            return self.abandon(item, out);
        }
        // Of a producer whose first batch was refused, the shard that judges this one has not heard.
        if (behind || code == ErrorCode::ProducerUnknown && item.ambiguous) && self.is_rewinding() {
            return self.requeue(item, now);
        }
        let mut repeat = error.retry != Retry::Never;
        if code == ErrorCode::OutcomeUnknown {
            (item.ambiguous, repeat) = (true, true);
        } else if code == ErrorCode::OrderBroken {
            // What it is behind was refused on this connection, and is told or repeated already.
            repeat = true;
        } else if code == ErrorCode::SequenceGap && !item.ambiguous {
            // The server counts differently, as after a batch of which a part was refused.
            (self.server_next, repeat) = (error.actual.unwrap_or(self.server_next), true);
        } else if code == ErrorCode::ProducerUnknown && !item.ambiguous {
            // Everything before is answered: begin again (PQ-1).
            (self.server_next, repeat) = (0, true);
        }
        let since = item.trying_since.unwrap_or(now);
        if repeat && !self.is_overdue(since, now) {
            self.phase = match self.phase.clone() {
                Phase::Flowing if code == ErrorCode::ProducerUnknown => {
                    Phase::Rewinding { until: now }
                }
                Phase::Flowing => Phase::Rewinding { until: now + self.next_wait(error.retry) },
                // Refused for the same cause: one wait is for all that were in flight.
                Phase::Rewinding { until } => {
                    Phase::Rewinding { until: until.max(now + asked_wait(error.retry)) }
                }
                // In flight while an earlier one failed for good.
                Phase::Broken | Phase::Dead(_) => return self.abandon(item, out),
            };
            return self.requeue(item, now);
        }
        let result = if item.ambiguous {
            BatchResult::failed(PublishError::Unknown { reason: error.to_string() })
        } else if is_of_one(&error) && !item.options.atomic {
            let failure = Some(BatchFailure::of_one(error));
            BatchResult { failure, ..self.appended(0, 0, 0) }
        } else {
            BatchResult::failed(PublishError::refused(error))
        };
        self.tainted |= item.ambiguous;
        self.note_failures(&result.failure);
        out.push(item.complete(result));
        self.after_failure(now, out);
    }

    /// The server's sequence has passed so many of this batch's records.
    fn advance(&mut self, item: &ClosedBatch, records: u32) {
        self.backoff.reset();
        let end = item.sequence.unwrap_or(0) + u64::from(records);
        self.server_next = self.server_next.max(end);
    }

    /// A message failed for good.
    fn after_failure(&mut self, now: Instant, out: &mut Vec<Completion>) {
        match (&self.phase, self.ordered) {
            (Phase::Broken | Phase::Dead(_) | Phase::Rewinding { .. }, false) => {}
            // Those in flight are refused because of the gap; they are repeated behind it.
            (Phase::Flowing, false) => self.phase = Phase::Rewinding { until: now },
            (Phase::Dead(_), true) => {}
            (_, true) => {
                self.phase = Phase::Broken;
                self.abandon_waiting(out);
            }
        }
    }

    /// Ends everything that waits.
    pub(super) fn abandon_waiting(&mut self, out: &mut Vec<Completion>) {
        self.close_open();
        self.waiting_bytes = 0;
        let waiting: Vec<ClosedBatch> = self.retry.drain(..).chain(self.closed.drain(..)).collect();
        for item in waiting {
            self.abandon(item, out);
        }
    }

    /// Ends a batch behind one that failed.
    pub(super) fn abandon(&mut self, item: ClosedBatch, out: &mut Vec<Completion>) {
        let error = match &self.phase {
            _ if item.ambiguous => {
                let reason = "its connection was lost, and the publisher gave up".into();
                PublishError::Unknown { reason }
            }
            Phase::Dead(error) => PublishError::Refused(error.clone()),
            _ => PublishError::OrderBroken,
        };
        self.tainted |= item.ambiguous;
        self.note_failure(&error);
        out.push(item.complete(BatchResult::failed(error)));
    }

    /// Ends a batch that cannot be repeated, and what depends on it.
    pub(super) fn give_up(
        &mut self,
        item: ClosedBatch,
        error: PublishError,
        out: &mut Vec<Completion>,
    ) {
        self.tainted |= item.ambiguous;
        self.note_failure(&error);
        out.push(item.complete(BatchResult::failed(error)));
        if self.ordered {
            self.phase = Phase::Broken;
            self.abandon_waiting(out);
        }
    }

    /// The result of a batch whose first records are in the stream.
    fn appended(&self, base: u64, ts_us: i64, published: u32) -> BatchResult {
        let (base, ts, on_duplicate) = (Offset(base), Timestamp(ts_us), self.on_duplicate);
        BatchResult { base, ts, published, duplicates: Vec::new(), on_duplicate, failure: None }
    }

    /// The same with records that were there already. Where that is an error, it breaks no order.
    fn with_duplicates(&mut self, result: BatchResult, told: Vec<v1::Duplicate>) -> BatchResult {
        let known = |it: v1::Duplicate| (it.record, Offset(it.offset), Timestamp(it.ts_us));
        let mut duplicates: Vec<_> = told.into_iter().map(known).collect();
        duplicates.sort_unstable_by_key(|(record, ..)| *record);
        if let Some(&(_, offset, ts)) = duplicates.first()
            && self.on_duplicate == OnDuplicate::Error
        {
            self.note_failure(&PublishError::Duplicate { offset, ts });
        }
        BatchResult { duplicates, ..result }
    }

    fn note_failures(&mut self, failure: &Option<BatchFailure>) {
        if let Some(failure) = failure {
            self.note_failure(&failure.error);
        }
    }

    pub(super) fn note_failure(&mut self, error: &PublishError) {
        self.failure.get_or_insert_with(|| error.clone());
    }

    /// The stream is gone: everything ends, and nothing is taken any more.
    pub(crate) fn die(&mut self, error: WireError, out: &mut Vec<Completion>) {
        self.phase = Phase::Dead(error);
        self.bind_ended.notify_waiters();
        self.abandon_waiting(out);
    }

    pub(super) fn requeue(&mut self, mut item: ClosedBatch, now: Instant) {
        item.trying_since.get_or_insert(now);
        self.repeated |= item.ambiguous;
        self.waiting_bytes += item.parts.len();
        let place = self.retry.partition_point(|other| other.order < item.order);
        self.retry.insert(place, item);
    }
}

/// Whether it is about one message of a batch, the first: those behind it are not to blame.
fn is_of_one(error: &WireError) -> bool {
    let about = [ErrorCode::IdRequired, ErrorCode::DuplicateIdConflict, ErrorCode::DedupIndexFull];
    about.iter().any(|code| error.code == *code)
}
