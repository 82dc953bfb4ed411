//! What becomes of the batches of a frame, and how a publisher is told of it.

use std::collections::VecDeque;

use railgun_core::shard::{AppendRefusal, Appended, Duplicate};
use railgun_proto::{WireError, v1};
use railgun_types::ErrorCode;
use railgun_types::batch::BatchError;
use railgun_types::limits::{ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS};
use tokio::sync::oneshot;

use crate::replica::ProposeFailure;
use crate::session::aliases::{Aliases, Bound};
use crate::shard::{AppendResult, RequestFailure};
use crate::wire_error;

/// The batches of a frame, whose results come shard by shard.
pub(super) struct Results {
    /// One per batch, in order.
    pub(super) items: Vec<ItemState>,
    /// Of requests to shards.
    pub(super) waiting: Waiting,
}

/// What shards owe, and the items that each answers.
pub(super) type Waiting = VecDeque<(oneshot::Receiver<AppendResult>, Vec<usize>)>;

pub(super) struct ItemState {
    pub(super) alias: u32,
    pub(super) outcome: BatchOutcome,
}

// Of a client that takes no results, this is kept.
const _: () = assert!(size_of::<ItemState>() <= 48);

/// What became of one batch. Made into words when it is told, not before: most are appended, and the
/// words of one that is refused are many times as long as what was sent.
pub(super) enum BatchOutcome {
    /// Nothing has come, and if nothing does, nobody knows.
    Unknown,
    Appended(Appended),
    /// Never reached its shard.
    Invalid(Invalid),
    Refused(AppendRefusal),
    Failed(RequestFailure),
}

/// Why a batch never reached its shard.
pub(super) enum Invalid {
    /// No stream is bound to its alias.
    Unbound,
    Batch(BatchError),
    /// Over the limits of an atomic batch.
    AtomicTooLarge,
    /// No stream ever ends at the offset that was expected.
    NoSuchEnd(i64),
}

impl Invalid {
    /// As the client is told.
    pub(super) fn told(&self, alias: u32) -> WireError {
        let (code, message) = match self {
            Self::Batch(error) => return wire_error::batch_error(error),
            Self::Unbound => {
                (ErrorCode::ProtocolViolation, format!("no stream is bound to alias {alias}"))
            }
            Self::AtomicTooLarge => {
                let message = format!(
                    "an atomic batch has at most {ATOMIC_BATCH_RECORDS} messages and \
                     {ATOMIC_BATCH_BYTES} bytes"
                );
                (ErrorCode::BatchTooLarge, message)
            }
            Self::NoSuchEnd(last) => {
                let message = format!("no stream ends at offset {last}; -1 is an empty one");
                (ErrorCode::ProtocolViolation, message)
            }
        };
        WireError::new(code, message)
    }
}

impl Results {
    pub(super) fn new(items: usize) -> Self {
        Self { items: Vec::with_capacity(items), waiting: Waiting::new() }
    }

    /// Waits for all of them. Cancel safe: what has come stays noted.
    pub(super) async fn all(&mut self) {
        while let Some((result, items)) = self.waiting.front_mut() {
            let outcome = result.await;
            note(&mut self.items, items, outcome);
            self.waiting.pop_front();
        }
    }

    /// As the client is told; notes at the aliases what breaks order.
    pub(super) fn told(self, aliases: &mut Aliases) -> v1::PublishResult {
        let told = |item: ItemState| item.told(aliases);
        v1::PublishResult { items: self.items.into_iter().map(told).collect() }
    }
}

impl ItemState {
    fn told(self, aliases: &mut Aliases) -> v1::ItemResult {
        let mut bound = aliases.get_mut(self.alias);
        let error = match self.outcome {
            BatchOutcome::Appended(appended) => {
                if let Some(bound) = bound {
                    // What is in flight behind a part that was refused has broken order, too (PS-2).
                    bound.broken = appended.refused().is_some();
                }
                return told(&appended);
            }
            BatchOutcome::Unknown => wire_error::propose_failure(ProposeFailure::Unknown),
            BatchOutcome::Invalid(invalid) => {
                // It was of no stream, whatever is bound to its alias now.
                bound = bound.filter(|_| !matches!(invalid, Invalid::Unbound));
                invalid.told(self.alias)
            }
            BatchOutcome::Refused(refusal) => wire_error::append_refusal(refusal),
            BatchOutcome::Failed(failed) => wire_error::request_failure(failed),
        };
        v1::ItemResult { error: Some(after_broken(bound, error).into()), ..Default::default() }
    }
}

/// A batch of which some is in the stream, as its publisher is told.
fn told(appended: &Appended) -> v1::ItemResult {
    let duplicate = |duplicate: &Duplicate| v1::Duplicate {
        record: duplicate.record,
        offset: duplicate.offset.0,
        ts_us: duplicate.ts.0,
    };
    v1::ItemResult {
        base_offset: appended.base.0,
        ts_us: appended.ts.0,
        published: appended.count,
        duplicates: appended.duplicates().iter().map(duplicate).collect(),
        error: appended.refused().map(|refusal| wire_error::append_refusal(refusal).into()),
    }
}

/// A failed batch as its publisher is told. What follows a refused batch is refused for its sake
/// (PS-2); if that was the producer's first, the shard has not heard of the producer.
fn after_broken(bound: Option<&mut Bound>, mut error: WireError) -> WireError {
    let Some(bound) = bound else { return error };
    let unknown = error.code == ErrorCode::ProducerUnknown;
    if bound.broken && (unknown || error.code == ErrorCode::SequenceGap) {
        error.code = ErrorCode::OrderBroken.into();
        error.message = "an earlier batch of this publisher was refused".to_owned();
    }
    // A producer that was forgotten says nothing definite about what follows: it may have been
    // appended by an earlier attempt.
    bound.broken |= !unknown;
    error
}

fn note(
    states: &mut [ItemState],
    items: &[usize],
    outcome: Result<AppendResult, oneshot::error::RecvError>,
) {
    // Otherwise they stay as they are: not known.
    let Ok(outcome) = outcome else { return };
    match outcome {
        Ok(results) => {
            for (&item, result) in items.iter().zip(results) {
                states[item].outcome = match result {
                    Ok(appended) => BatchOutcome::Appended(appended),
                    Err(refusal) => BatchOutcome::Refused(refusal),
                };
            }
        }
        Err(failed) => {
            for &item in items {
                states[item].outcome = BatchOutcome::Failed(failed);
            }
        }
    }
}
