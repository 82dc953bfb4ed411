//! The files of one log that are on disk, oldest first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::extent::Extent;
use crate::format::FileUuid;
use crate::format::frame::FrameSeed;

/// One file, open for reading.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) uuid: FileUuid,
    pub(crate) seed: FrameSeed,
    pub(crate) sequence: u64,
    pub(crate) header_bytes: u64,
}

impl LogFile {
    /// Path of the position index beside it.
    pub(crate) fn positions_path(&self) -> PathBuf {
        self.path.with_extension("pos")
    }
}

/// A file of a log, for metrics and tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Path relative to the disk's root.
    pub path: PathBuf,
    /// Place in the chain of files, counted from 1 over the log's life.
    pub sequence: u64,
    /// First index held.
    pub first_index: u64,
    /// Index after the last one held; equal to `first_index` for a file without entries.
    pub next_index: u64,
    /// Length of the valid part in bytes.
    pub bytes: u64,
    /// Whether it takes no more entries.
    pub closed: bool,
}

/// What is known of one file.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) file: Arc<LogFile>,
    pub(crate) extent: Extent,
}

/// All files; the last one is written to. Never empty.
#[derive(Debug)]
pub(crate) struct FileSet {
    files: Vec<Held>,
    /// First index that can be read, whether or not there is an entry.
    floor: u64,
}

impl FileSet {
    /// `files` in order, each with the extent its own bytes give.
    pub(crate) fn new(files: Vec<Held>) -> Self {
        let mut set = Self { files, floor: 0 };
        let mut next = u64::MAX;
        for held in set.files.iter_mut().rev() {
            held.extent.clip(next);
            next = held.extent.start;
        }
        set.refloor();
        set
    }

    fn refloor(&mut self) {
        let oldest = self.files.iter().rposition(|held| held.extent.severed).unwrap_or(0);
        self.floor = self.files[oldest].extent.start;
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) fn push(&mut self, held: Held) {
        self.files.push(held);
        self.refloor();
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Held> + ExactSizeIterator {
        self.files.iter()
    }

    pub(crate) fn newest(&self) -> &Held {
        &self.files[self.files.len() - 1]
    }

    fn newest_mut(&mut self) -> &mut Extent {
        let newest = self.files.len() - 1;
        &mut self.files[newest].extent
    }

    /// An entry was made durable at `position` of the newest file.
    pub(crate) fn entry(&mut self, index: u64, position: u64) {
        let jumps = index != self.newest().extent.next;
        self.newest_mut().entry(index, position);
        if jumps {
            self.refloor();
        }
    }

    /// A cut was made durable.
    pub(crate) fn truncate(&mut self, next: u64) {
        let closed = self.files.len() - 1;
        for held in &mut self.files[..closed] {
            held.extent.clip(next);
        }
        self.newest_mut().truncate(next);
        self.refloor();
    }

    /// A purge beyond the last entry was made durable.
    pub(crate) fn jump(&mut self, next: u64) {
        self.newest_mut().jump(next);
        self.refloor();
    }

    /// The newest file's valid part ends at `end`.
    pub(crate) fn set_end(&mut self, end: u64) {
        self.newest_mut().end = end;
    }

    /// The file that holds `index`, and what else it holds.
    pub(crate) fn locate(&self, index: u64) -> Option<(&Arc<LogFile>, &Extent)> {
        if index < self.floor {
            return None;
        }
        // Live ranges ascend and do not overlap; files without any may repeat a start.
        let after = self.files.partition_point(|held| held.extent.start <= index);
        let held = self.files[..after].iter().rev().find(|held| !held.extent.is_empty())?;
        held.extent.contains(index).then_some((&held.file, &held.extent))
    }

    /// The oldest file, if it is closed and holds nothing above `bound`.
    pub(crate) fn retirable(&self, bound: u64) -> Option<Arc<LogFile>> {
        let oldest = self.files.first().filter(|_| self.files.len() > 1)?;
        (oldest.extent.next <= bound.saturating_add(1)).then(|| Arc::clone(&oldest.file))
    }

    /// Forgets the oldest file.
    pub(crate) fn retire(&mut self) {
        self.files.remove(0);
        self.refloor();
    }

    /// Whether the file is still part of the log.
    pub(crate) fn holds(&self, sequence: u64) -> bool {
        self.files.iter().any(|held| held.file.sequence == sequence)
    }

    /// File bytes at indices above `index`, to within one step of the sparse index.
    pub(crate) fn bytes_above(&self, index: u64) -> u64 {
        let from = index.saturating_add(1);
        self.files.iter().map(|held| held.extent.bytes_from(from, held.file.header_bytes)).sum()
    }

    pub(crate) fn infos(&self) -> Vec<FileInfo> {
        let newest = self.newest().file.sequence;
        let info = |held: &Held| FileInfo {
            path: held.file.path.clone(),
            sequence: held.file.sequence,
            first_index: held.extent.start,
            next_index: held.extent.next,
            bytes: held.extent.end,
            closed: held.file.sequence != newest,
        };
        self.files.iter().map(info).collect()
    }

    /// Directory of the log.
    pub(crate) fn dir(&self) -> &Path {
        self.newest().file.path.parent().unwrap_or(Path::new(""))
    }
}
