//! Filling a batch from the backlog, and sealing it.

use super::{Op, ShardWriter};
use crate::batch::{Batch, Change};
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::format::frame::{FRAME_BYTES, Record};
use crate::image::Purge;
use crate::options::BuiltinBug;

/// Bytes at the end of each file that only marks and purges may use, so that space can be freed, and a
/// clean shutdown be told, also where the disk is full. The last of them are for the seal.
const RESERVE_BYTES: u64 = 1024;

/// What a batch may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Bytes left in the file.
    file: u64,
    /// Bytes of frames.
    frames: u64,
    /// The file has no batch yet: a single piece of any length is taken, and lengthens the file.
    fresh: bool,
}

impl Bounds {
    fn fit(&self, batch: &Batch, more: u64) -> bool {
        if batch.is_empty() {
            return self.fresh || batch.file_bytes_with(more) <= self.file;
        }
        batch.length() + more <= self.frames && batch.file_bytes_with(more) <= self.file
    }
}

impl ShardWriter {
    /// Bytes kept free at the end of the current file.
    fn reserve(&self) -> u64 {
        RESERVE_BYTES.min(self.options.file_bytes / 16)
    }

    /// Bytes left in the current file for ordinary batches.
    pub(super) fn left(&self) -> u64 {
        self.file_bytes.saturating_sub(self.position + self.reserve())
    }

    /// Bytes left in the current file for marks and purges.
    pub(super) fn left_for_marks(&self) -> u64 {
        self.file_bytes.saturating_sub(self.position + BATCH_HEADER_BYTES as u64)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            file: self.left(),
            frames: self.options.write_bytes_max as u64,
            fresh: self.position == self.current.header_bytes,
        }
    }

    /// Empties the batch and fills it: with work, or, for a mark, with no more than what is committed.
    /// False if the file has no room for the first piece.
    pub(super) fn fill(&mut self, mark: bool) -> bool {
        self.batch.clear(self.current.seed);
        if mark {
            return self.fill_mark();
        }
        let bounds = self.bounds();
        while let Some(op) = self.backlog.front_mut() {
            let record = match op {
                Op::Append { entries, .. } => {
                    while let Some(entry) = entries.as_slice().first() {
                        let bytes = (FRAME_BYTES + entry.payload.len()) as u64;
                        if !bounds.fit(&self.batch, bytes) {
                            return !self.batch.is_empty();
                        }
                        self.batch.push_entry(entry);
                        let appended = self.image.append(entry.id);
                        debug_assert_eq!(appended, Ok(()), "the handle has checked the order");
                        self.pending.queued_bytes += bytes;
                        entries.next();
                    }
                    None
                }
                Op::Vote { .. } if self.options.has_bug(BuiltinBug::VoteNotWritten) => None,
                Op::Vote { vote, .. } => Some(Record::Vote(*vote)),
                Op::Truncate { kept } => Some(Record::Truncate(*kept)),
                Op::Purge { upto } => Some(Record::Purged(*upto)),
                Op::Retire { .. } | Op::Roll { .. } | Op::Mark { .. } | Op::Close { .. } => break,
            };
            let is_alone = matches!(record, Some(Record::Vote(_)))
                && self.options.has_bug(BuiltinBug::VoteOvertakes);
            if let Some(record) = record {
                if !bounds.fit(&self.batch, FRAME_BYTES as u64) {
                    return !self.batch.is_empty();
                }
                self.push_record(record);
                self.pending.queued_bytes += FRAME_BYTES as u64;
            }
            self.pending.dones.extend(self.backlog.pop_front().and_then(Op::into_done));
            if is_alone {
                break;
            }
        }
        if bounds.fit(&self.batch, FRAME_BYTES as u64) {
            self.push_committed();
        }
        true
    }

    /// Adds a record to the batch and to the state as written.
    pub(super) fn push_record(&mut self, record: Record) {
        self.batch.push_record(&record);
        match record {
            Record::Vote(vote) => self.image.vote = Some(vote),
            Record::Committed(id) => self.image.committed = Some(id),
            Record::Purged(upto) => {
                if self.image.purge(upto) == Purge::Jump {
                    self.batch.changes.push(Change::Jump { next: self.image.next_index() });
                }
            }
            Record::Truncate(kept) => {
                let next = self.image.cut_at(kept);
                self.image.truncate(next);
                self.batch.changes.push(Change::Truncate { next });
                self.pending.cuts += 1;
            }
            Record::Entry { .. } => {}
        }
    }

    fn push_committed(&mut self) {
        if let Some(id) = self.committed.take() {
            self.push_record(Record::Committed(id));
        }
    }

    fn fill_mark(&mut self) -> bool {
        let free = self.left_for_marks();
        if self.batch.file_bytes_with(FRAME_BYTES as u64) > free {
            return false;
        }
        self.push_committed();
        if matches!(self.backlog.front(), Some(Op::Mark { .. })) {
            self.pending.dones.extend(self.backlog.pop_front().and_then(Op::into_done));
        }
        true
    }

    /// Gives the batch its number, its place in the chain, and what is known to be synced.
    pub(super) fn seal(&mut self) {
        let header = BatchHeader {
            uuid: self.current.uuid,
            number: self.next_batch,
            // One batch is un-synced at a time, and it is this one.
            synced_through: self.next_batch - 1,
            previous_crc: self.last_crc,
            length: 0,
            frames: 0,
            frames_crc: 0,
        };
        self.pending.sealed = Some(self.batch.seal(header));
    }
}
