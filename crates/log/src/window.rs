//! Buffered positioned reads of one file, for walking it from front to back.

use std::io;

use crc32c::crc32c_append;

use crate::disk::{DiskFile, read_full_at};

/// Bytes read at a time.
const WINDOW_BYTES: usize = 256 << 10;

/// A window that moves over the first `len` bytes of a file.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, len: u64) -> Self {
        Self { file, len, buffer: Vec::new(), start: 0 }
    }

    /// Bytes of the file that may be read.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What is buffered at `position`, at least one byte; empty at the end.
    pub(crate) fn at(&mut self, position: u64) -> io::Result<&[u8]> {
        let end = self.start + self.buffer.len() as u64;
        if !(self.start..end).contains(&position) {
            self.load(position)?;
        }
        Ok(&self.buffer[(position - self.start) as usize..])
    }

    /// `N` bytes at `position`; none if the file ends before.
    pub(crate) fn array<const N: usize>(&mut self, position: u64) -> io::Result<Option<[u8; N]>> {
        if position.checked_add(N as u64).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        if self.at(position)?.len() < N {
            self.load(position)?;
        }
        Ok(self.at(position)?.first_chunk::<N>().copied())
    }

    /// Appends the CRC of `bytes` bytes at `position` to `sum`; none if the file ends before.
    pub(crate) fn crc(&mut self, sum: u32, position: u64, bytes: u64) -> io::Result<Option<u32>> {
        let (mut sum, mut position, mut rest) = (sum, position, bytes);
        while rest > 0 {
            let some = self.at(position)?;
            if some.is_empty() {
                return Ok(None);
            }
            let some = &some[..some.len().min(usize::try_from(rest).unwrap_or(usize::MAX))];
            sum = crc32c_append(sum, some);
            position += some.len() as u64;
            rest -= some.len() as u64;
        }
        Ok(Some(sum))
    }

    fn load(&mut self, position: u64) -> io::Result<()> {
        let rest = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        self.start = position;
        self.buffer.resize(rest.min(WINDOW_BYTES), 0);
        let read = read_full_at(self.file, &mut self.buffer, position);
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        read.map(|_| ())
    }
}
