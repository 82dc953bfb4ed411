//! A batch on its way to the server, and the one that is still open.

use railgun_proto::convert::ExpectedEnd;
use railgun_types::batch::{BatchBuilder, BatchParts, RecordDraft, RecordRefused};
use tokio::time::Instant;

use super::outcome::{BatchOutcome, BatchResult};

/// How a batch is to be appended. Batches with other than the default are never coalesced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchOptions {
    pub(crate) atomic: bool,
    pub(crate) expected_end: Option<ExpectedEnd>,
}

/// The batch that messages are packed into.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    builder: BatchBuilder,
    outcome: BatchOutcome,
    /// Byte permits that its messages hold.
    permits: usize,
    options: BatchOptions,
}

impl OpenBatch {
    pub(crate) fn new(builder: BatchBuilder, options: BatchOptions) -> Self {
        Self { builder, outcome: BatchOutcome::default(), permits: 0, options }
    }

    /// Appends a record; its index.
    pub(crate) fn push(
        &mut self,
        draft: &RecordDraft<'_>,
        permits: usize,
    ) -> Result<u32, RecordRefused> {
        let index = self.builder.count() as u32;
        self.builder.push(draft)?;
        self.permits += permits;
        Ok(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.builder.len()
    }

    pub(crate) fn count(&self) -> usize {
        self.builder.count()
    }

    pub(crate) fn outcome(&self) -> &BatchOutcome {
        &self.outcome
    }

    /// Nothing more will be added.
    pub(crate) fn close(self, order: u64) -> ClosedBatch {
        ClosedBatch {
            count: self.builder.count() as u32,
            parts: self.builder.into_parts(),
            permits: self.permits,
            options: self.options,
            outcome: self.outcome,
            order,
            sequence: None,
            ambiguous: false,
            sent_at: None,
            trying_since: None,
        }
    }
}

/// A closed batch that is not answered for good.
#[derive(Debug)]
pub(crate) struct ClosedBatch {
    pub(crate) parts: BatchParts,
    pub(crate) count: u32,
    pub(crate) permits: usize,
    pub(crate) options: BatchOptions,
    pub(crate) outcome: BatchOutcome,
    /// Position among all batches of its stream.
    pub(crate) order: u64,
    /// The producer sequence it was last sent with (PQ-1).
    pub(crate) sequence: Option<u64>,
    /// Whether it was sent and what became of it is not known: a copy may have been appended, or
    /// may yet be. It can only be repeated under its own sequence.
    pub(crate) ambiguous: bool,
    /// When it was last sent.
    pub(crate) sent_at: Option<Instant>,
    /// Since when it has failed to get through: the first refusal, or the silence that came before
    /// its connection was first given up.
    pub(crate) trying_since: Option<Instant>,
}

impl ClosedBatch {
    /// Ends it.
    pub(crate) fn complete(self, result: BatchResult) -> Completion {
        Completion { outcome: self.outcome, result, permits: self.permits }
    }
}

/// A batch that has ended: its tickets are to be told, its byte permits given back.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) outcome: BatchOutcome,
    pub(crate) result: BatchResult,
    pub(crate) permits: usize,
}
