//! One simulated file: durable bytes, current bytes, and the pages in which they may differ.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::crash::Choice;

/// A copy shares its bytes until one of both is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    durable: Arc<Vec<u8>>,
    pub(super) current: Arc<Vec<u8>>,
    /// Numbers of pages written since the last sync.
    pub(super) dirty: BTreeSet<usize>,
    /// Pages that could not be synced: they count as clean, and are as they were written while they
    /// are in memory.
    unwritten: BTreeSet<usize>,
}

impl Inode {
    pub(super) fn read(&self, buffer: &mut [u8], position: u64) -> usize {
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(self.current.len());
        let some = buffer.len().min(self.current.len() - start);
        buffer[..some].copy_from_slice(&self.current[start..start + some]);
        some
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: u64, page_bytes: usize) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let end = at + bytes.len();
        let current = Arc::make_mut(&mut self.current);
        if end > current.len() {
            current.resize(end, 0);
        }
        current[at..end].copy_from_slice(bytes);
        for page in at / page_bytes..=(end - 1) / page_bytes {
            self.dirty.insert(page);
            self.unwritten.remove(&page);
        }
        Ok(())
    }

    /// A changed length is durable with the next sync, or with a page beyond the old one.
    pub(super) fn resize(&mut self, bytes: u64, page_bytes: usize) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        Arc::make_mut(&mut self.current).resize(bytes, 0);
        self.dirty.retain(|page| page * page_bytes < bytes);
        self.unwritten.retain(|page| page * page_bytes < bytes);
        Ok(())
    }

    /// As on Linux: the pages count as clean, and no later sync will write them.
    pub(super) fn fail_sync(&mut self) {
        self.unwritten.append(&mut self.dirty);
    }

    /// Memory is short: what counts as clean is read from the disk the next time.
    pub(super) fn drop_clean(&mut self, page_bytes: usize) {
        for page in std::mem::take(&mut self.unwritten) {
            let current = Arc::make_mut(&mut self.current);
            let start = page * page_bytes;
            for at in start..(start + page_bytes).min(current.len()) {
                current[at] = self.durable.get(at).copied().unwrap_or(0);
            }
        }
    }

    pub(super) fn sync(&mut self, page_bytes: usize) {
        Arc::make_mut(&mut self.durable).resize(self.current.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            self.keep(page, page_bytes);
        }
    }

    /// Makes one page durable.
    fn keep(&mut self, page: usize, page_bytes: usize) {
        let start = page * page_bytes;
        let end = (start + page_bytes).min(self.current.len());
        let durable = Arc::make_mut(&mut self.durable);
        if durable.len() < end {
            durable.resize(end, 0);
        }
        durable[start..end].copy_from_slice(&self.current[start..end]);
    }

    pub(super) fn crash(&mut self, page_bytes: usize, choice: &mut Choice) {
        for page in std::mem::take(&mut self.dirty) {
            if choice.page() {
                self.keep(page, page_bytes);
            }
        }
        self.unwritten.clear();
        self.current = Arc::clone(&self.durable);
    }

    pub(super) fn cut(&mut self, bytes: usize) -> bool {
        let is_longer = self.current.len() > bytes;
        Arc::make_mut(&mut self.current).truncate(bytes);
        Arc::make_mut(&mut self.durable).truncate(bytes);
        is_longer
    }

    pub(super) fn put(&mut self, bytes: Vec<u8>) {
        self.durable = Arc::new(bytes);
        self.current = Arc::clone(&self.durable);
        self.dirty.clear();
        self.unwritten.clear();
    }

    pub(super) fn flip(&mut self, position: usize, mask: u8) -> bool {
        for bytes in [&mut self.durable, &mut self.current] {
            let Some(byte) = Arc::make_mut(bytes).get_mut(position) else { return false };
            *byte ^= mask;
        }
        true
    }
}
