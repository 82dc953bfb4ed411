//! Records on their way to a member.

use std::sync::Arc;

use bytes::Bytes;
use railgun_net::Held;
use railgun_proto::{Frame, v1};
use railgun_types::batch::{BatchParts, RecordBatch, RecordPlace};
use railgun_types::{Offset, Timestamp};

use crate::reader::{Source, wire_source};

/// Records that wait for a member keep no more than so many times as much in memory as they are.
const KEPT_TIMES_MAX: usize = 4;

/// Consecutive records of one batch for a member.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(super) records: Piece,
    /// The memory that they take.
    pub(super) held: Option<Arc<Held>>,
    pub(super) count: usize,
    pub(super) base: Offset,
    pub(super) ts: Timestamp,
    pub(super) source: Source,
    pub(super) lease: u64,
    pub(super) attempt: u32,
    pub(super) epoch: u32,
    pub(super) generation: u32,
}

/// Some records of a batch.
#[derive(Debug)]
pub(super) enum Piece {
    /// Of one that is kept as a whole.
    Of { batch: RecordBatch, place: RecordPlace },
    /// Few enough of it that they are kept for themselves.
    Own(BatchParts),
}

impl Piece {
    pub(super) fn new(batch: &RecordBatch, place: RecordPlace, count: usize, bytes: usize) -> Self {
        if bytes * KEPT_TIMES_MAX >= batch.len() {
            return Self::Of { batch: batch.clone(), place };
        }
        let BatchParts { head, body } = cut(batch, place, count);
        Self::Own(BatchParts { head, body: Bytes::copy_from_slice(&body) })
    }
}

fn cut(batch: &RecordBatch, place: RecordPlace, count: usize) -> BatchParts {
    batch.cut(place, count).expect("records of the batch")
}

impl Delivered {
    /// The lease, what was delivered, which attempt it is, and where it came from.
    #[cfg(test)]
    pub(crate) fn told(&self) -> (u64, railgun_types::OffsetRange, u32, Source) {
        let end = self.base.plus(self.count as u64);
        (self.lease, railgun_types::OffsetRange::new(self.base, end), self.attempt, self.source)
    }

    /// A frame that holds just these records, and the memory that they take.
    pub(crate) fn frame(self) -> (Frame, Option<Arc<Held>>) {
        let head = v1::GroupDeliver {
            base_offset: self.base.0,
            // No more than a batch has.
            count: self.count as u32,
            ts_us: self.ts.0,
            source: wire_source(self.source).into(),
            lease: self.lease,
            attempt: self.attempt,
            epoch: self.epoch,
            redrive_generation: self.generation,
        };
        let parts = match self.records {
            Piece::Of { batch, place } => cut(&batch, place, self.count),
            Piece::Own(parts) => parts,
        };
        (Frame::with_blob(&head, vec![parts.head, parts.body]), self.held)
    }
}
