//! Encoding one write batch, and writing it without concatenating payloads.

use std::io::{self, IoSlice};

use bytes::Bytes;
use crc32c::crc32c_append;

use crate::Entry;
use crate::block_writer::BlockWriter;
use crate::format::aligned;
use crate::format::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::format::frame::{self, FRAME_BYTES, FrameSeed, Record};

/// Shorter parts are copied between the frame headers: a slice of their own costs more.
const COPIED_PART_BYTES: usize = 1024;

/// Padding of a batch.
const PADDING: [u8; 8] = [0; 8];

/// What a batch changes once it is durable, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// The entry `index` is at `position`, counted from the batch's first byte.
    Entry { index: u64, position: u64 },
    /// The log was cut; `next` is the next index.
    Truncate { next: u64 },
    /// The log goes on at `next`, behind indices it never held.
    Jump { next: u64 },
}

/// A batch in the making. Its buffers are reused from batch to batch.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Batch header, frame headers and short parts.
    bytes: Vec<u8>,
    /// Long parts, each with the length of `bytes` before which it belongs.
    parts: Vec<(usize, Bytes)>,
    seed: FrameSeed,
    frames: u32,
    length: u64,
    frames_crc: u32,
    mark: bool,
    pub(crate) changes: Vec<Change>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            parts: Vec::new(),
            seed: FrameSeed::new(&[0; 16]),
            frames: 0,
            length: 0,
            frames_crc: 0,
            mark: true,
            changes: Vec::new(),
        };
        batch.clear(batch.seed);
        batch
    }

    /// Begins an empty batch for the file that `seed` stands for.
    pub(crate) fn clear(&mut self, seed: FrameSeed) {
        self.bytes.clear();
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
        self.parts.clear();
        self.changes.clear();
        self.seed = seed;
        self.frames = 0;
        self.length = 0;
        self.frames_crc = 0;
        self.mark = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Whether losing it loses nothing: it says only what was synced, and perhaps what is committed.
    pub(crate) fn is_mark(&self) -> bool {
        self.mark
    }

    /// Bytes of the frames.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of the file it takes up.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes_with(0)
    }

    /// Bytes of the file it would take up with `more` bytes of frames.
    pub(crate) fn file_bytes_with(&self, more: u64) -> u64 {
        aligned(BATCH_HEADER_BYTES as u64 + self.length + more)
    }

    /// Adds an entry, summing its payload.
    pub(crate) fn push_entry(&mut self, entry: &Entry) {
        let position = BATCH_HEADER_BYTES as u64 + self.length;
        self.changes.push(Change::Entry { index: entry.id.index, position });
        let len = entry.payload.len();
        // `ShardLog::append` has refused payloads beyond MAX_PAYLOAD_BYTES, far below 2^32.
        let record = Record::Entry { id: entry.id, kind: entry.kind, len: len as u32 };
        self.push(&record, entry.payload.parts());
        for part in entry.payload.parts() {
            if part.len() < COPIED_PART_BYTES {
                self.bytes.extend_from_slice(part);
            } else {
                self.parts.push((self.bytes.len(), part.clone()));
            }
        }
        self.length += len as u64;
    }

    /// Adds a record without payload.
    pub(crate) fn push_record(&mut self, record: &Record) {
        self.push(record, &[]);
    }

    fn push(&mut self, record: &Record, payload: &[Bytes]) {
        self.mark &= matches!(record, Record::Committed(_));
        let head = frame::encode(record, payload, self.seed);
        self.frames_crc = crc32c_append(self.frames_crc, frame::crc_bytes(&head));
        self.bytes.extend_from_slice(&head);
        self.frames += 1;
        self.length += FRAME_BYTES as u64;
    }

    /// Fills in the header; gives its CRC. `header` needs no length, frames and sum of frames.
    pub(crate) fn seal(&mut self, header: BatchHeader) -> u32 {
        let header = BatchHeader {
            length: self.length,
            frames: self.frames,
            frames_crc: self.frames_crc,
            ..header
        };
        let (bytes, crc) = header.encode();
        self.bytes[..BATCH_HEADER_BYTES].copy_from_slice(&bytes);
        crc
    }

    /// Writes the sealed batch. May be repeated at the same position after a failure.
    pub(crate) fn write(&self, file: &mut BlockWriter, position: u64) -> io::Result<()> {
        let mut slices = Vec::with_capacity(2 * self.parts.len() + 2);
        let mut from = 0;
        for (to, part) in &self.parts {
            slices.push(IoSlice::new(&self.bytes[from..*to]));
            slices.push(IoSlice::new(part));
            from = *to;
        }
        slices.push(IoSlice::new(&self.bytes[from..]));
        let used = BATCH_HEADER_BYTES as u64 + self.length;
        slices.push(IoSlice::new(&PADDING[..(self.file_bytes() - used) as usize]));
        file.append(&mut slices, position)
    }

    /// Lets go of the payloads, once they are durable.
    pub(crate) fn release(&mut self) {
        self.parts.clear();
    }
}
