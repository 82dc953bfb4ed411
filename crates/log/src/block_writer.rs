//! Writing a file from its start to its end, around the page cache where the disk knows how to.
//!
//! Records are read from memory while they are young and from the bucket when they are old, and a checkpoint
//! when a node starts, so that most pages that they leave in the page cache are never looked at: they only cost
//! the copy, and push out what somebody does read.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::disk::{DirectFile, DiskFile, read_full_at, write_all_vectored_at};

/// Most bytes of one direct write: the largest usual batch.
const STAGING_BYTES_MAX: usize = 4 << 20;

/// Appends to one file. Owned by who alone writes to it.
#[derive(Debug)]
pub struct BlockWriter {
    file: Arc<dyn DiskFile>,
    direct: Option<Direct>,
    staging: Staging,
}

/// Whole blocks in the making.
#[derive(Debug)]
struct Direct {
    file: Arc<dyn DirectFile>,
    block: usize,
    /// Where the last write ended, if the block that it ended in is at the front of the staging.
    end: Option<u64>,
}

impl BlockWriter {
    /// For a file that nobody else writes to.
    #[must_use]
    pub fn new(file: Arc<dyn DiskFile>) -> Self {
        let mut writer = Self { file, direct: None, staging: Staging::default() };
        writer.open_direct();
        writer
    }

    /// Goes on with another file.
    pub(crate) fn follow(&mut self, file: Arc<dyn DiskFile>) {
        self.file = file;
        self.open_direct();
    }

    fn open_direct(&mut self) {
        let direct = self.file.direct();
        self.direct = direct.map(|file| Direct { block: file.block_bytes(), end: None, file });
    }

    /// Writes all of `parts` at `position`, at which the valid part of the file ends. What lies behind
    /// them, up to the end of a block, becomes zeros. May be repeated at the same position after a
    /// failure.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn append(&mut self, parts: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        if let Some(direct) = &mut self.direct {
            match direct.append(&*self.file, &mut self.staging, parts, position) {
                // The file system takes direct writes of other files only, or of other blocks.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    tracing::debug!(%error, "direct writes are refused: the page cache is used");
                    self.direct = None;
                }
                outcome => return outcome,
            }
        }
        write_all_vectored_at(&*self.file, parts, position)
    }
}

impl Direct {
    fn append(
        &mut self,
        file: &dyn DiskFile,
        staging: &mut Staging,
        parts: &[IoSlice<'_>],
        position: u64,
    ) -> io::Result<()> {
        let block = self.block;
        let before = (position % block as u64) as usize;
        let total: usize = parts.iter().map(|part| part.len()).sum();
        staging.reserve((before + total).min(STAGING_BYTES_MAX).next_multiple_of(block), block);
        let mut at = position - before as u64;
        if self.end.take() != Some(position)
            && read_full_at(file, &mut staging.bytes()[..before], at)? < before
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let staging = staging.bytes();
        let mut filled = before;
        for part in parts {
            let mut rest: &[u8] = part;
            while !rest.is_empty() {
                if filled == staging.len() {
                    write_blocks(&*self.file, staging, at, block)?;
                    at += filled as u64;
                    filled = 0;
                }
                let (now, later) = rest.split_at(rest.len().min(staging.len() - filled));
                staging[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                rest = later;
            }
        }
        let padded = filled.next_multiple_of(block);
        staging[filled..padded].fill(0);
        write_blocks(&*self.file, &staging[..padded], at, block)?;
        staging.copy_within(padded - if filled == padded { 0 } else { block }..padded, 0);
        self.end = Some(position + total as u64);
        Ok(())
    }
}

/// Writes whole blocks, going on after partial writes and interruptions.
fn write_blocks(
    file: &dyn DirectFile,
    mut blocks: &[u8],
    mut at: u64,
    block: usize,
) -> io::Result<()> {
    while !blocks.is_empty() {
        match file.write_blocks_at(blocks, at) {
            // What was written of a block is written again with it.
            Ok(written) if written >= block.min(blocks.len()) => {
                let whole = written / block * block;
                blocks = &blocks[whole..];
                at += whole as u64;
            }
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A buffer that begins at a multiple of the block in memory, as direct writes want it.
#[derive(Debug, Default)]
struct Staging {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Staging {
    /// Makes it at least `len` bytes long. What it held stays at its front.
    fn reserve(&mut self, len: usize, block: usize) {
        if len <= self.len {
            return;
        }
        // Powers of two, so that it grows a few times in its life.
        let len = len.next_power_of_two().max(16 * block);
        let mut memory = vec![0; len + block];
        let start = memory.as_ptr().align_offset(block);
        memory[start..start + self.len].copy_from_slice(self.bytes());
        *self = Self { memory, start, len };
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Disk, SimDisk, SimDiskOptions};

    proptest! {
        /// Whatever is appended lies there as if it had been written plainly.
        #[test]
        fn direct_appends_write_what_plain_ones_do(
            pieces in prop::collection::vec((prop::collection::vec(0_usize..700, 1..5), any::<bool>()), 1..40),
            first in 0_u64..1500,
        ) {
            let options = SimDiskOptions { page_bytes: 512, direct: true, ..SimDiskOptions::default() };
            let disk = SimDisk::new(options);
            let file = disk.create("a".as_ref(), 1 << 20).expect("room");
            let mut expected: Vec<u8> = (0..first).map(|at| at as u8 | 1).collect();
            write_all_vectored_at(&*file, &mut [IoSlice::new(&expected)], 0).expect("written");
            let mut writer = BlockWriter::new(Arc::clone(&file));
            for (seed, (lengths, anew)) in pieces.into_iter().enumerate() {
                if anew {
                    writer = BlockWriter::new(Arc::clone(&file));
                }
                let parts: Vec<Vec<u8>> =
                    lengths.into_iter().map(|len| vec![seed as u8 | 1; len]).collect();
                let slices = || parts.iter().map(|part| IoSlice::new(part)).collect::<Vec<_>>();
                let position = expected.len() as u64;
                writer.append(&mut slices(), position).expect("written");
                // As after a failure.
                writer.append(&mut slices(), position).expect("written again");
                expected.extend(parts.concat());
            }
            let mut found = vec![0; expected.len()];
            read_full_at(&*file, &mut found, 0).expect("read");
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn long_appends_go_out_in_pieces() {
        let options = SimDiskOptions { direct: true, ..SimDiskOptions::default() };
        let disk = SimDisk::new(options);
        let file = disk.create("a".as_ref(), 16 << 20).expect("room");
        let mut writer = BlockWriter::new(Arc::clone(&file));
        let long: Vec<u8> = (0..2 * STAGING_BYTES_MAX + 5000).map(|at| (at / 1000) as u8).collect();
        for position in [7, 7 + long.len() as u64] {
            writer.append(&mut [IoSlice::new(&long)], position).expect("written");
            let mut found = vec![0; long.len()];
            read_full_at(&*file, &mut found, position).expect("read");
            assert_eq!(found, long);
        }
        assert!(writer.direct.is_some());
        assert_eq!(writer.staging.len, STAGING_BYTES_MAX);
    }
}
