//! The memory that objects are encoded into. It comes in chunks that are used again for the next
//! object: memory the system has just given costs a fault for each of its pages, and an object has
//! tens of thousands.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use concurrent_queue::ConcurrentQueue;

/// Bytes of a chunk: the last one of an object is filled in part.
const CHUNK_BYTES: usize = 1 << 20;

/// Keeps the chunks of objects that are done with, for those that are made next. A clone is the same
/// pool; many objects may be made at a time. The default keeps none.
#[derive(Clone, Debug, Default)]
pub struct ChunkPool {
    /// Chunks that nobody uses: as many as the queue has room for.
    kept: Option<Arc<ConcurrentQueue<Vec<u8>>>>,
}

impl ChunkPool {
    /// Keeps at most `bytes_max` of memory (one chunk of 1 MiB at least) that is not in use. What
    /// comes back beyond that is freed.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let kept = ConcurrentQueue::bounded((bytes_max / CHUNK_BYTES).max(1));
        Self { kept: Some(Arc::new(kept)) }
    }

    /// Frees what is kept.
    pub fn clear(&self) {
        self.kept.iter().for_each(|kept| kept.try_iter().for_each(drop));
    }

    /// Bytes that are kept and not in use.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.len() * CHUNK_BYTES)
    }

    fn chunk(&self) -> Chunk {
        let kept = self.kept.as_ref().and_then(|kept| kept.pop().ok());
        let memory = kept.unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES));
        Chunk { memory, home: self.clone() }
    }
}

/// Goes home when it is dropped.
#[derive(Debug)]
struct Chunk {
    memory: Vec<u8>,
    home: ChunkPool,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(kept) = &self.home.kept {
            let mut memory = std::mem::take(&mut self.memory);
            memory.clear();
            // Where there is no room for it, it is freed.
            kept.push(memory).ok();
        }
    }
}

/// What an object's writer writes to: pieces of a chunk each, then an end that is one piece.
#[derive(Debug)]
pub(super) struct Pieces {
    chunks: ChunkPool,
    /// Full ones.
    done: Vec<Chunk>,
    /// The one in the making.
    open: Option<Chunk>,
    bytes: usize,
    /// The end, once it has begun.
    end: Option<Vec<u8>>,
}

impl Pieces {
    pub(super) fn new(chunks: ChunkPool) -> Self {
        Self { chunks, done: Vec::new(), open: None, bytes: 0, end: None }
    }

    /// Bytes so far, but those of the end.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// What was written from `start` on, but the end, in pieces. `start` is at most
    /// [`Self::len`].
    pub(super) fn since(&self, start: usize) -> impl Iterator<Item = &[u8]> {
        let chunks = self.done.iter().chain(&self.open).skip(start / CHUNK_BYTES);
        let mut skip = start % CHUNK_BYTES;
        chunks.map(move |chunk| &chunk.memory[std::mem::take(&mut skip)..])
    }

    /// What is written from here on is the end.
    pub(super) fn begin_end(&mut self) {
        self.end.get_or_insert_default();
    }

    /// The pieces, and the end apart from them.
    pub(super) fn take(&mut self) -> (Vec<Bytes>, Vec<u8>) {
        let chunks = std::mem::take(&mut self.done).into_iter().chain(self.open.take());
        (chunks.map(Bytes::from_owner).collect(), self.end.take().unwrap_or_default())
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(end) = &mut self.end {
            end.extend_from_slice(bytes);
            return Ok(());
        }
        self.bytes += bytes.len();
        while !bytes.is_empty() {
            let chunk = self.open.get_or_insert_with(|| self.chunks.chunk());
            let room = CHUNK_BYTES - chunk.memory.len();
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            chunk.memory.extend_from_slice(here);
            bytes = rest;
            if chunk.memory.len() == CHUNK_BYTES {
                self.done.extend(self.open.take());
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn joined<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        pieces.flatten().copied().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn pieces_are_what_was_written(
            writes in prop::collection::vec((any::<u8>(), 0..3 * CHUNK_BYTES), 0..5),
            end in prop::collection::vec(any::<u8>(), 0..100),
            start: prop::sample::Index,
        ) {
            let (mut pieces, mut written) = (Pieces::new(ChunkPool::default()), Vec::new());
            for (byte, len) in writes {
                let bytes = vec![byte; len];
                pieces.write_all(&bytes).unwrap();
                written.extend(bytes);
                prop_assert_eq!(pieces.len(), written.len());
            }
            let start = start.index(written.len() + 1);
            prop_assert!(joined(pieces.since(start)) == written[start..]);
            pieces.begin_end();
            pieces.write_all(&end).unwrap();
            let (body, last) = pieces.take();
            prop_assert!(body.iter().all(|piece| piece.len() <= CHUNK_BYTES && !piece.is_empty()));
            prop_assert!(joined(body.iter().map(|piece| &piece[..])) == written);
            prop_assert_eq!(last, end);
        }
    }

    #[test]
    fn memory_comes_back_and_what_is_kept_of_it_is_bounded() {
        let pool = ChunkPool::new(3 * CHUNK_BYTES);
        let write = |pool: &ChunkPool, chunks: usize| {
            let mut pieces = Pieces::new(pool.clone());
            pieces.write_all(&vec![7; chunks * CHUNK_BYTES]).unwrap();
            pieces.take().0
        };
        let places = |body: &[Bytes]| {
            let mut places: Vec<_> = body.iter().map(|piece| piece.as_ptr()).collect();
            places.sort_unstable();
            places
        };
        let body = write(&pool, 2);
        let before = places(&body);
        let copy = body[0].slice(1..);
        drop(body);
        assert_eq!(pool.kept_bytes() / CHUNK_BYTES, 1, "one is still in use");
        drop(copy);
        assert_eq!(pool.kept_bytes() / CHUNK_BYTES, 2);
        // The same memory, and what an object does not need is not lost.
        let body = write(&pool, 1);
        assert_eq!(pool.kept_bytes() / CHUNK_BYTES, 1);
        assert!(before.contains(&body[0].as_ptr()));
        drop(body);
        assert_eq!(places(&write(&pool, 2)), before);
        drop(write(&pool, 5));
        assert_eq!(pool.kept_bytes() / CHUNK_BYTES, 3);
        pool.clear();
        assert_eq!(pool.kept_bytes() / CHUNK_BYTES, 0);
        // An object may outlive the pool.
        let body = write(&pool, 1);
        drop(pool);
        assert_eq!(body[0], vec![7; CHUNK_BYTES]);
    }

    #[test]
    fn new_bytes_are_written_over_old_ones() {
        let pool = ChunkPool::new(CHUNK_BYTES);
        for byte in [1, 2] {
            let mut pieces = Pieces::new(pool.clone());
            pieces.write_all(&[byte; 10]).unwrap();
            assert_eq!(pieces.take().0, [vec![byte; 10]]);
        }
    }
}
