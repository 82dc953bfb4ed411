//! What becomes of a batch, and the tickets that wait for it.
//!
//! All tickets of a batch share one slot: a message costs a reference count, not a channel.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use railgun_proto::{WireError, v1};
use railgun_types::{Offset, Timestamp};
use tokio::sync::SetOnce;

use super::error::PublishError;

/// A message that is in the stream (PS-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its position.
    pub offset: Offset,
    /// Log time of the entry that holds it.
    pub ts: Timestamp,
    /// Whether it was there already, under the same id (DD-2).
    pub duplicate: bool,
}

/// What becomes of a message that is in the stream already, under the same id (DD-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// It is published: its ticket tells where it is, and that it was there.
    #[default]
    Report,
    /// It fails with [`PublishError::Duplicate`], and those behind it do not.
    Error,
}

impl OnDuplicate {
    pub(crate) fn to_wire(self) -> v1::DuplicateHandling {
        match self {
            Self::Report => v1::DuplicateHandling::DuplicateReport,
            Self::Error => v1::DuplicateHandling::DuplicateError,
        }
    }
}

/// Where an atomic batch lies (PS-4): `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedRange {
    /// Position of its first message.
    pub first: Offset,
    /// Position of its last message.
    pub last: Offset,
    /// Log time of all of them.
    pub ts: Timestamp,
}

/// The result of a whole batch: of its records the first `published` are in the stream, the one
/// behind them failed with `error`, those behind that with `rest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchResult {
    pub(crate) base: Offset,
    pub(crate) ts: Timestamp,
    pub(crate) published: u32,
    /// Records that were in the stream already: index, offset and time of the first.
    pub(crate) duplicates: Vec<(u32, Offset, Timestamp)>,
    pub(crate) on_duplicate: OnDuplicate,
    pub(crate) failure: Option<BatchFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchFailure {
    pub(crate) error: PublishError,
    pub(crate) rest: PublishError,
}

impl BatchFailure {
    /// One message is to blame, and those behind it were refused for its sake.
    pub(crate) fn of_one(error: WireError) -> Self {
        Self { error: PublishError::refused(error), rest: PublishError::OrderBroken }
    }
}

impl BatchResult {
    /// All records failed with the same error.
    pub(crate) fn failed(error: PublishError) -> Self {
        Self {
            base: Offset(0),
            ts: Timestamp(0),
            published: 0,
            duplicates: Vec::new(),
            on_duplicate: OnDuplicate::default(),
            failure: Some(BatchFailure { rest: error.clone(), error }),
        }
    }

    /// The result of one record.
    pub(crate) fn record(&self, index: u32) -> Result<Published, PublishError> {
        if index >= self.published {
            return match &self.failure {
                Some(failure) if index == self.published => Err(failure.error.clone()),
                Some(failure) => Err(failure.rest.clone()),
                // Excluded where results are accepted: without error all are published.
                None => Err(PublishError::Unknown { reason: "the result names no error".into() }),
            };
        }
        // Duplicates take no offset of this batch. Sorted by index, and almost always none.
        let before = self.duplicates.partition_point(|(record, ..)| *record < index);
        match self.duplicates.get(before) {
            Some(&(record, offset, ts)) if record == index => match self.on_duplicate {
                OnDuplicate::Report => Ok(Published { offset, ts, duplicate: true }),
                OnDuplicate::Error => Err(PublishError::Duplicate { offset, ts }),
            },
            _ => Ok(Published {
                offset: self.base.plus(u64::from(index) - before as u64),
                ts: self.ts,
                duplicate: false,
            }),
        }
    }
}

/// The slot that the tickets of a batch share.
pub(crate) type BatchOutcome = Arc<SetOnce<BatchResult>>;

/// Waits for what becomes of one message. A future; dropping it changes nothing about the message.
///
/// Tickets of one batch become ready together; one that is ready costs no lock to read.
#[must_use = "a message may fail: await the ticket, or call `flush`"]
pub struct Ticket {
    outcome: BatchOutcome,
    index: u32,
    /// Made when the ticket is polled before its batch is answered.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Ticket {
    pub(crate) fn new(outcome: BatchOutcome, index: u32) -> Self {
        Self { outcome, index, waiting: None }
    }

    /// The result, if it is there.
    #[must_use]
    pub fn try_result(&self) -> Option<Result<Published, PublishError>> {
        self.outcome.get().map(|result| result.record(self.index))
    }
}

impl Future for Ticket {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(result) = self.try_result() {
                return Poll::Ready(result);
            }
            let outcome = &self.outcome;
            let wait = {
                let outcome = Arc::clone(outcome);
                move || {
                    Box::pin(async move {
                        outcome.wait().await;
                    }) as Pin<Box<dyn Future<Output = ()> + Send + Sync>>
                }
            };
            match self.waiting.get_or_insert_with(wait).as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => self.waiting = None,
            }
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("index", &self.index)
            .field("result", &self.try_result())
            .finish()
    }
}

/// Waits for what becomes of an atomic batch: all of its messages, or none.
#[derive(Debug)]
#[must_use = "the batch may fail: await the ticket, or call `flush`"]
pub struct AtomicTicket {
    first: Ticket,
    records: u32,
}

impl AtomicTicket {
    pub(crate) fn new(outcome: BatchOutcome, records: u32) -> Self {
        Self { first: Ticket::new(outcome, 0), records }
    }
}

impl Future for AtomicTicket {
    type Output = Result<PublishedRange, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.first).poll(context).map_ok(|first| PublishedRange {
            first: first.offset,
            last: first.offset.plus(u64::from(self.records) - 1),
            ts: first.ts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_find_their_place_among_duplicates_and_failures() {
        let error = PublishError::NotSent { reason: "full".into() };
        let result = BatchResult {
            base: Offset(100),
            ts: Timestamp(7),
            published: 4,
            duplicates: vec![(1, Offset(5), Timestamp(2))],
            on_duplicate: OnDuplicate::Report,
            failure: Some(BatchFailure { error: error.clone(), rest: PublishError::OrderBroken }),
        };
        let at = |index| result.record(index).map(|p| (p.offset.0, p.ts.0, p.duplicate));
        assert_eq!(at(0), Ok((100, 7, false)));
        assert_eq!(at(1), Ok((5, 2, true)));
        assert_eq!(at(2), Ok((101, 7, false)));
        assert_eq!(at(3), Ok((102, 7, false)));
        assert_eq!(at(4), Err(error));
        assert_eq!(at(5), Err(PublishError::OrderBroken));
        // DD-2
        let strict = BatchResult { on_duplicate: OnDuplicate::Error, ..result.clone() };
        let duplicate = PublishError::Duplicate { offset: Offset(5), ts: Timestamp(2) };
        assert_eq!(strict.record(1), Err(duplicate));
        assert_eq!(strict.record(2), result.record(2));
    }

    #[tokio::test]
    async fn a_ticket_wakes_when_its_batch_is_answered() {
        let outcome = BatchOutcome::default();
        let mut ticket = Ticket::new(Arc::clone(&outcome), 1);
        let waiting = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut ticket).poll(cx))).await;
        assert_eq!(waiting, Poll::Pending);
        let result = BatchResult {
            base: Offset(3),
            ts: Timestamp(9),
            published: 2,
            duplicates: Vec::new(),
            on_duplicate: OnDuplicate::Report,
            failure: None,
        };
        outcome.set(result).expect("set once");
        let published = Published { offset: Offset(4), ts: Timestamp(9), duplicate: false };
        assert_eq!(ticket.await, Ok(published));
    }
}
