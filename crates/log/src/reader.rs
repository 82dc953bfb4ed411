//! Reading entries from the ring and from files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use crc32c::crc32c_append;

use crate::disk::{DiskFile, read_full_at};
use crate::error::{Attempt, DiskFailure, ReadError};
use crate::extent::{POINT_EVERY, Walk};
use crate::files::LogFile;
use crate::format::batch::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader};
use crate::format::frame::{FRAME_BYTES, Record};
use crate::format::{Damage, aligned, frame};
use crate::guarded::Guarded;
use crate::shard::Inner;
use crate::{Entry, Payload};

/// Bounds of what is read from a file at once; a longer frame is read whole.
const CHUNK_BYTES_MIN: usize = 16 << 10;
const CHUNK_BYTES_MAX: usize = 2 << 20;

/// Reads from this length on go around the page cache: whoever reads that much at a time goes through
/// the log once, at the pace of the disk.
const DIRECT_BYTES_MIN: usize = 256 << 10;
/// Reads begin and end at multiples of this, if the file does.
const BLOCK_BYTES: usize = 4096;

/// What to read next, found under the lock.
enum Next {
    Done,
    Ring(Vec<Entry>),
    File(Arc<LogFile>, Walk),
}

/// See [`ShardLog::read`](crate::ShardLog::read).
pub(crate) fn read(
    shared: &Guarded<Inner>,
    start: u64,
    end: u64,
    bytes_max: usize,
) -> Result<Vec<Entry>, ReadError> {
    let mut batch = Taken { entries: Vec::new(), bytes: 0, bytes_max };
    let mut generation = None;
    loop {
        let from = batch.entries.last().map_or(start, |entry| entry.id.index + 1);
        // The lock must be free again before a file is read.
        let found = next(&shared.lock(), from, end, &batch, &mut generation)?;
        match found {
            Next::Done => return Ok(batch.entries),
            Next::Ring(entries) => {
                batch.entries.extend(entries);
                return Ok(batch.entries);
            }
            Next::File(file, walk) => match walk_file(&file, walk, from, &mut batch) {
                Ok(()) => {}
                Err(error) => {
                    let mut inner = shared.lock();
                    if inner.files.holds(file.sequence) {
                        if let ReadError::Corrupt { index, .. } = error {
                            inner.damaged.get_or_insert(index);
                        }
                        return Err(error);
                    }
                    // Recycled under our hands: what was read are bytes of its next life.
                    return Err(ReadError::Retired { first: inner.files.floor() });
                }
            },
        }
    }
}

/// Entries taken so far, within their bound.
struct Taken {
    entries: Vec<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Taken {
    fn has_room(&self, bytes: usize) -> bool {
        self.entries.is_empty() || self.bytes + bytes <= self.bytes_max
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.payload.len();
        self.entries.push(entry);
    }
}

fn next(
    inner: &Inner,
    from: u64,
    end: u64,
    taken: &Taken,
    generation: &mut Option<u64>,
) -> Result<Next, ReadError> {
    let end = end.min(inner.image.next_index());
    if from >= end || !taken.has_room(1) {
        return Ok(Next::Done);
    }
    // A cut between two looks: what follows is not what followed.
    if *generation.get_or_insert(inner.generation) != inner.generation {
        if !taken.entries.is_empty() {
            return Ok(Next::Done);
        }
        *generation = Some(inner.generation);
    }
    if let Some(mut entries) =
        inner.ring.read(from, end, taken.bytes_max - taken.bytes.min(taken.bytes_max))
    {
        if entries.first().is_some_and(|first| !taken.has_room(first.payload.len())) {
            entries.clear();
        }
        return Ok(Next::Ring(entries));
    }
    let Some((file, extent)) = inner.files.locate(from) else {
        let floor = inner.files.floor();
        // Above the first file only what a purge has jumped over is in none.
        let purged = inner.image.purged.map_or(0, |purged| purged.index + 1);
        return Err(ReadError::Retired { first: if from < floor { floor } else { purged } });
    };
    let until = end.min(inner.ring.first().unwrap_or(u64::MAX));
    // Not much more is read than may be taken: a step of the points on either side.
    let room = taken.bytes_max.saturating_sub(taken.bytes) as u64;
    let walk = extent.walk_within(from, until, room.saturating_add(2 * POINT_EVERY));
    let walk = match walk {
        None if taken.entries.is_empty() => extent.walk(from, from + 1),
        walk => walk,
    };
    Ok(walk.map_or(Next::Done, |walk| Next::File(Arc::clone(file), walk)))
}

/// Bytes of one file, read in chunks that payloads are slices of.
struct Chunks<'a> {
    file: &'a LogFile,
    end: u64,
    chunk_bytes: usize,
    chunk: Bytes,
    start: u64,
}

impl Chunks<'_> {
    /// `bytes` bytes at `position`; none beyond the valid part of the file.
    fn slice(&mut self, position: u64, bytes: usize) -> Result<Option<Bytes>, DiskFailure> {
        let rest = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        if bytes > rest {
            return Ok(None);
        }
        let chunk_end = self.start + self.chunk.len() as u64;
        if position < self.start || position + bytes as u64 > chunk_end {
            self.fill(position, bytes.max(self.chunk_bytes).min(rest))?;
            if position + bytes as u64 > self.start + self.chunk.len() as u64 {
                return Ok(None);
            }
        }
        let offset = (position - self.start) as usize;
        Ok(Some(self.chunk.slice(offset..offset + bytes)))
    }

    /// Makes the chunk hold `bytes` bytes at `position`, or as many as the file has. What it held of
    /// them is not read again.
    fn fill(&mut self, position: u64, bytes: usize) -> Result<(), DiskFailure> {
        let chunk_end = self.start + self.chunk.len() as u64;
        let held = match (self.start..chunk_end).contains(&position) {
            true if chunk_end.is_multiple_of(BLOCK_BYTES as u64) => {
                self.chunk.slice((position - self.start) as usize..)
            }
            _ => Bytes::new(),
        };
        let from = position + held.len() as u64;
        let from = from - from % BLOCK_BYTES as u64;
        let wanted = (position + bytes as u64 - from) as usize;
        let wanted = wanted.next_multiple_of(BLOCK_BYTES);
        // What is read lies at a multiple of the block in memory, what is held before it.
        let lead = held.len().next_multiple_of(BLOCK_BYTES);
        let mut memory = vec![0; lead + BLOCK_BYTES + wanted];
        let target = lead + memory[lead..].as_ptr().align_offset(BLOCK_BYTES);
        memory[target - held.len()..target].copy_from_slice(&held);
        let read = read_full(&*self.file.file, &mut memory[target..target + wanted], from);
        let read = read.attempt("read", &self.file.path)?;
        self.start = from - held.len() as u64;
        self.chunk = Bytes::from(memory).slice(target - held.len()..target + read);
        Ok(())
    }
}

fn read_full(file: &dyn DiskFile, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    if buffer.len() >= DIRECT_BYTES_MIN
        && let Some(direct) = file.direct().filter(|direct| direct.block_bytes() <= BLOCK_BYTES)
    {
        match direct.read_blocks_at(buffer, position) {
            Ok(read) if read == buffer.len() => return Ok(read),
            // At the end of the file, where blocks are not whole, or where direct reads are refused.
            _ => {}
        }
    }
    read_full_at(file, buffer, position)
}

fn walk_file(file: &LogFile, walk: Walk, from: u64, taken: &mut Taken) -> Result<(), ReadError> {
    let wanted = taken.bytes_max.saturating_add(CHUNK_BYTES_MIN);
    let mut chunks = Chunks {
        file,
        end: walk.end,
        chunk_bytes: wanted.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
        chunk: Bytes::new(),
        start: 0,
    };
    let mut position = walk.position;
    let mut index = walk.index;
    while index < walk.until {
        let corrupt = |what| ReadError::Corrupt { file: file.path.clone(), position, index, what };
        let (after, entry) = match step(&mut chunks, file, position)? {
            Ok(step) => step,
            Err(damage) => return Err(corrupt(damage)),
        };
        if let Some(entry) = entry {
            if entry.id.index != index {
                return Err(corrupt("another entry is in its place"));
            }
            if index >= from {
                if !taken.has_room(entry.payload.len()) {
                    taken.bytes = taken.bytes_max;
                    return Ok(());
                }
                taken.push(entry);
            }
            index += 1;
        }
        position = after;
    }
    Ok(())
}

/// Takes what is at `position`: padding, a batch header or a frame. Gives the position after it.
fn step(
    chunks: &mut Chunks<'_>,
    file: &LogFile,
    position: u64,
) -> Result<Result<(u64, Option<Entry>), Damage>, DiskFailure> {
    const ENDS: Damage = "file ends before the entry";
    let Some(magic) = chunks.slice(position, BATCH_MAGIC.len())? else { return Ok(Err(ENDS)) };
    if magic[0] == 0 {
        return Ok(Ok((aligned(position + 1), None)));
    }
    if magic[..] == BATCH_MAGIC {
        let bytes = chunks.slice(position, BATCH_HEADER_BYTES)?;
        let Some(header) = bytes.as_ref().and_then(|bytes| bytes.first_chunk()) else {
            return Ok(Err(ENDS));
        };
        let after = position + BATCH_HEADER_BYTES as u64;
        return Ok(BatchHeader::decode(header, &file.uuid).map(|_| (after, None)));
    }
    let bytes = chunks.slice(position, FRAME_BYTES)?;
    let Some(head) = bytes.as_ref().and_then(|bytes| bytes.first_chunk::<FRAME_BYTES>()) else {
        return Ok(Err(ENDS));
    };
    let header = match frame::decode(head) {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage)),
    };
    let start = position + FRAME_BYTES as u64;
    let Some(payload) = chunks.slice(start, header.record.payload_len())? else {
        return Ok(Err(ENDS));
    };
    if crc32c_append(file.seed.header_sum(head), &payload) != header.crc {
        return Ok(Err("frame checksum does not match"));
    }
    let after = start + payload.len() as u64;
    let Record::Entry { id, kind, .. } = header.record else { return Ok(Ok((after, None))) };
    Ok(Ok((after, Some(Entry { id, kind, payload: Payload::from_bytes(payload) }))))
}
