//! The handle of one shard's log, and the state it shares with the writer.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::vec;

use crate::error::{LogError, ReadError};
use crate::files::{FileInfo, FileSet};
use crate::format::frame::FRAME_BYTES;
use crate::guarded::Guarded;
use crate::hub::Hub;
use crate::image::{Image, Purge};
use crate::ring::Ring;
use crate::{Entry, EntryId, MAX_PAYLOAD_BYTES, Vote, reader};

/// Runs on the log thread when what it was given with is durable, or never will be.
pub type Flushed = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// What is known of a log at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The vote saved last.
    pub vote: Option<Vote>,
    /// min(saved, last).
    pub committed: Option<EntryId>,
    /// Where Raft's view begins: this id and all before are purged.
    pub last_purged: Option<EntryId>,
    /// The last entry; of an empty log, `last_purged`.
    pub last: Option<EntryId>,
    /// Everything up to this index is fsynced.
    pub durable: Option<u64>,
    /// Preallocating the next file has failed: what is left is for what must still be written, new
    /// work should be refused before it reaches the log. Ends when the disk has space again.
    pub disk_full: bool,
}

/// Work for the writer, in the order it was asked for.
pub(crate) enum Op {
    Append { entries: vec::IntoIter<Entry>, done: Flushed },
    Vote { vote: Vote, done: Flushed },
    Truncate { kept: Option<EntryId> },
    Purge { upto: EntryId },
    Retire { upto: u64, done: Flushed },
    Roll { done: Flushed },
    Mark { done: Flushed },
    Close { done: Flushed },
}

impl Op {
    pub(crate) fn into_done(self) -> Option<Flushed> {
        match self {
            Self::Append { done, .. }
            | Self::Vote { done, .. }
            | Self::Retire { done, .. }
            | Self::Roll { done }
            | Self::Close { done }
            | Self::Mark { done } => Some(done),
            Self::Truncate { .. } | Self::Purge { .. } => None,
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { entries, .. } => write!(f, "Append({} entries)", entries.len()),
            Self::Vote { vote, .. } => write!(f, "Vote({vote:?})"),
            Self::Truncate { kept } => write!(f, "Truncate({kept:?})"),
            Self::Purge { upto } => write!(f, "Purge({upto})"),
            Self::Retire { upto, .. } => write!(f, "Retire({upto})"),
            Self::Roll { .. } => f.write_str("Roll"),
            Self::Mark { .. } => f.write_str("Mark"),
            Self::Close { .. } => f.write_str("Close"),
        }
    }
}

/// What handles and the writer share.
#[derive(Debug)]
pub(crate) struct Inner {
    /// As asked for, not as written.
    pub(crate) image: Image,
    pub(crate) ring: Ring,
    pub(crate) files: FileSet,
    /// Length to which the newest of them is preallocated.
    pub(crate) file_bytes: u64,
    pub(crate) queue: VecDeque<Op>,
    /// Cuts that are queued or being written: what becomes durable meanwhile counts only below them.
    pub(crate) cuts: VecDeque<u64>,
    /// Grows with each cut, so that a reader notices one.
    pub(crate) generation: u64,
    pub(crate) committed_dirty: bool,
    /// The writer will write a mark without being told.
    pub(crate) mark_planned: bool,
    pub(crate) durable: Option<u64>,
    pub(crate) applied: Option<u64>,
    /// Bytes of frames accepted and not yet durable.
    pub(crate) queued_bytes: u64,
    /// Set once the log takes no more changes.
    pub(crate) failed: Option<LogError>,
    /// The first entry that somebody wanted to read and whose bytes are not those that were written.
    pub(crate) damaged: Option<u64>,
}

impl Inner {
    pub(crate) fn new(image: Image, files: FileSet, file_bytes: u64, ring_bytes: usize) -> Self {
        Self {
            durable: image.next_index().checked_sub(1),
            image,
            ring: Ring::new(ring_bytes),
            files,
            file_bytes,
            queue: VecDeque::new(),
            cuts: VecDeque::new(),
            generation: 0,
            committed_dirty: false,
            mark_planned: false,
            applied: None,
            queued_bytes: 0,
            failed: None,
            damaged: None,
        }
    }

    pub(crate) fn evict(&mut self) {
        self.ring.evict(self.applied.min(self.durable));
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let mut expected = self.image.expected();
        let mut bytes = 0;
        for entry in entries {
            let (id, len) = (entry.id, entry.payload.len());
            if len > MAX_PAYLOAD_BYTES {
                return Err(LogError::EntryTooLarge { id, bytes: len, max: MAX_PAYLOAD_BYTES });
            }
            match expected {
                Some(expected) if expected != id.index => {
                    return Err(LogError::Gap { expected, found: id });
                }
                _ if id.index == u64::MAX => return Err(LogError::Gap { expected: 0, found: id }),
                _ => expected = Some(id.index + 1),
            }
            bytes += (FRAME_BYTES + len) as u64;
        }
        for entry in entries {
            self.image
                .append(entry.id)
                .map_err(|expected| LogError::Gap { expected, found: entry.id })?;
            self.ring.push(entry.clone());
        }
        self.queued_bytes += bytes;
        Ok(())
    }
}

/// What one shard's handles and its half of the writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inner: Guarded<Inner>,
    /// Asked for each entry, so kept beside the lock.
    pub(crate) disk_full: AtomicBool,
    pub(crate) hub: Arc<Hub>,
}

impl Shared {
    pub(crate) fn new(inner: Inner, hub: &Arc<Hub>) -> Self {
        let disk_full = AtomicBool::new(false);
        Self { inner: Guarded::new(inner), disk_full, hub: Arc::clone(hub) }
    }
}

/// Cheap-clone handle of one shard's log. All methods may be called from any thread; only
/// [`read`](Self::read) touches the disk.
///
/// Where a method that takes a callback returns an error, nothing was queued, and the callback has
/// been called with the same error.
#[derive(Clone, Debug)]
pub struct ShardLog {
    pub(crate) shared: Arc<Shared>,
}

impl ShardLog {
    /// Enqueues entries. They are visible to every reader when this returns; `on_flushed` runs on the
    /// log thread after an fdatasync that covers them and everything before. Never blocks on the disk.
    ///
    /// What is queued and not yet durable is held in memory; bounding it is up to the caller
    /// ([`queued_bytes`](Self::queued_bytes)). On a full disk it waits for room: a caller that can refuse
    /// work looks at [`disk_full`](Self::disk_full) first.
    ///
    /// # Errors
    /// [`LogError::Gap`] unless the first entry follows the last of the log and each the one before (a log
    /// that never held anything may begin at any index), [`LogError::EntryTooLarge`],
    /// [`LogError::Failed`], [`LogError::Closed`].
    pub fn append(&self, entries: Vec<Entry>, on_flushed: Flushed) -> Result<(), LogError> {
        self.enqueue(Some(on_flushed), |inner, done| {
            inner.append(&entries)?;
            Ok(done.take().map(|done| Op::Append { entries: entries.into_iter(), done }))
        })
    }

    /// Saves the vote, ordered after everything enqueued before.
    pub fn save_vote(&self, vote: Vote, on_flushed: Flushed) -> Result<(), LogError> {
        self.enqueue(Some(on_flushed), |inner, done| {
            inner.image.vote = Some(vote);
            inner.queued_bytes += FRAME_BYTES as u64;
            Ok(done.take().map(|done| Op::Vote { vote, done }))
        })
    }

    /// Remembers what is committed: in memory at once, on disk with the next batch or mark.
    pub fn save_committed(&self, id: EntryId) {
        let mut inner = self.shared.inner.lock();
        if inner.image.committed != Some(id) {
            inner.image.committed = Some(id);
            inner.committed_dirty = true;
            // Left to the next batch or mark; where none is due, the writer has to plan one.
            let unplanned = !std::mem::replace(&mut inner.mark_planned, true);
            let idle = inner.queue.is_empty();
            drop(inner);
            if idle && unplanned {
                self.shared.hub.signal();
            }
        }
    }

    /// Cuts the log after `last_kept`, or wholly. The ring is cut at once; callbacks of entries cut here
    /// still run. Nothing happens if the log is that short already.
    ///
    /// # Errors
    /// [`LogError::TruncateBelowPurge`], [`LogError::Failed`], [`LogError::Closed`].
    pub fn truncate_after(&self, last_kept: Option<EntryId>) -> Result<(), LogError> {
        self.enqueue(None, |inner, _| {
            if let (Some(kept), Some(purged)) = (last_kept, inner.image.purged)
                && kept.index < purged.index
            {
                return Err(LogError::TruncateBelowPurge { kept, purged });
            }
            let next = inner.image.cut_at(last_kept);
            if next >= inner.image.next_index() {
                return Ok(None);
            }
            inner.image.truncate(next);
            inner.ring.truncate(next);
            inner.durable = inner.durable.filter(|_| next > 0).map(|old| old.min(next - 1));
            inner.cuts.push_back(next);
            inner.generation += 1;
            inner.queued_bytes += FRAME_BYTES as u64;
            // The record names what is kept by its true id; a cut at the purge point keeps the purged one.
            Ok(Some(Op::Truncate { kept: inner.image.last() }))
        })
    }

    /// Purges logically, as Raft sees it: entries up to `upto` can still be read while their file exists.
    /// May exceed the last index: then the log is empty and the next entry is `upto.index + 1`.
    pub fn purge(&self, upto: EntryId) -> Result<(), LogError> {
        self.enqueue(None, |inner, _| {
            match inner.image.purge(upto) {
                Purge::Nothing => return Ok(None),
                Purge::Part => {}
                Purge::Jump => {
                    inner.ring.clear();
                    inner.generation += 1;
                }
            }
            inner.queued_bytes += FRAME_BYTES as u64;
            Ok(Some(Op::Purge { upto }))
        })
    }

    /// Frees the disk space of every closed file that holds nothing above `upto` or the purge point.
    /// `on_done` runs after the directory is synced.
    pub fn retire(&self, upto: u64, on_done: Flushed) -> Result<(), LogError> {
        self.enqueue(Some(on_done), |_, done| Ok(done.take().map(|done| Op::Retire { upto, done })))
    }

    /// Closes the current file and begins the next, so that [`retire`](Self::retire) can free it. A file
    /// without a batch is left as it is, and so is any where there is no space for another.
    pub fn roll(&self, on_done: Flushed) -> Result<(), LogError> {
        self.enqueue(Some(on_done), |_, done| Ok(done.take().map(|done| Op::Roll { done })))
    }

    /// Syncs everything and marks it as synced on disk: the last act of a clean shutdown. Does not wait
    /// for space: `on_done` gets [`LogError::Full`] where something queued before it does.
    pub fn sync_mark(&self, on_done: Flushed) -> Result<(), LogError> {
        self.enqueue(Some(on_done), |_, done| Ok(done.take().map(|done| Op::Mark { done })))
    }

    /// Ends the log, when what was queued before is done: it takes no more changes, and its directory can
    /// be opened anew, or removed. Who has handles may read on while the files are there.
    pub fn close(&self, on_done: Flushed) -> Result<(), LogError> {
        self.enqueue(Some(on_done), |_, done| Ok(done.take().map(|done| Op::Close { done })))
    }

    /// The log's state as asked for; only `durable` speaks of the disk.
    pub fn state(&self) -> LogState {
        let inner = self.shared.inner.lock();
        LogState {
            vote: inner.image.vote,
            committed: inner.image.committed(),
            last_purged: inner.image.purged,
            last: inner.image.last(),
            durable: inner.durable,
            disk_full: self.disk_full(),
        }
    }

    /// Why the log takes no more changes, if so. Nobody is called back where nothing was queued: who
    /// wants to know early has to ask.
    pub fn failure(&self) -> Option<LogError> {
        self.shared.inner.lock().failed.clone()
    }

    /// [`LogState::disk_full`], for callers that ask often.
    pub fn disk_full(&self) -> bool {
        self.shared.disk_full.load(Relaxed)
    }

    /// Bytes that are left in the current file for what is not queued yet: on a full disk, all there is.
    pub fn room(&self) -> u64 {
        let inner = self.shared.inner.lock();
        let taken = inner.files.newest().extent.end + inner.queued_bytes;
        inner.file_bytes.saturating_sub(taken)
    }

    /// Length to which the current file is preallocated: that of the options it was begun with, or what
    /// a single entry needs that is longer.
    pub fn file_bytes(&self) -> u64 {
        self.shared.inner.lock().file_bytes
    }

    /// Everything up to this index is fsynced.
    pub fn durable_index(&self) -> Option<u64> {
        self.shared.inner.lock().durable
    }

    /// Entries `[start, end)` in order, as far as there are any, up to `bytes_max` bytes of payload but at
    /// least one. From memory where they are, else from the files, with blocking reads: call it on a pool.
    /// Every frame read from a file is checked against its checksum. Entries below the purge point are
    /// given while their file exists. A payload read from a file shares a buffer of up to 2 MiB with its
    /// neighbours.
    ///
    /// # Errors
    /// [`ReadError::Retired`] if `start` is below the first file, [`ReadError::Corrupt`],
    /// [`ReadError::Io`].
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        reader::read(&self.shared.inner, start, end, bytes_max)
    }

    /// An entry that [`read`](Self::read) has found damaged since the log was opened, if any: what is around
    /// it can be read, and the log goes on.
    pub fn damaged(&self) -> Option<u64> {
        self.shared.inner.lock().damaged
    }

    /// Reads the entry that was found damaged again, with blocking reads. What is wrong with it; `None`, and
    /// from then on it is not damaged, if nothing is, if it is purged or no longer in a file.
    pub fn check_damaged(&self) -> Option<ReadError> {
        let index = self.damaged()?;
        let is_purged = self.state().last_purged.is_some_and(|purged| index <= purged.index);
        match self.read(index, index + 1, 1) {
            Err(error @ (ReadError::Corrupt { .. } | ReadError::Io(_))) if !is_purged => {
                Some(error)
            }
            _ => {
                self.shared.inner.lock().damaged = None;
                None
            }
        }
    }

    /// As [`read`](Self::read), but from memory only: none if the first entry is not there. Stops early where
    /// memory does.
    pub fn read_ring(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let inner = self.shared.inner.lock();
        if start >= end.min(inner.image.next_index()) {
            return Some(Vec::new());
        }
        inner.ring.read(start, end, bytes_max)
    }

    /// Id of the entry `index`, at or above the purge point, without touching the disk.
    pub fn entry_id(&self, index: u64) -> Option<EntryId> {
        self.shared.inner.lock().image.entry_id(index)
    }

    /// Entries up to `index` were applied: the ring may give them up once they are durable.
    pub fn set_applied(&self, index: u64) {
        let mut inner = self.shared.inner.lock();
        inner.applied = inner.applied.max(Some(index));
        inner.evict();
    }

    /// Log bytes at indices above `index`, to within one step of the sparse index (4 KiB or one entry).
    pub fn bytes_above(&self, index: u64) -> u64 {
        let inner = self.shared.inner.lock();
        inner.files.bytes_above(index) + inner.queued_bytes
    }

    /// Log bytes at indices above the purge point, as [`bytes_above`](Self::bytes_above) counts them.
    pub fn unpurged_bytes(&self) -> u64 {
        let inner = self.shared.inner.lock();
        let purged = inner.image.purged.map_or(0, |id| id.index);
        inner.files.bytes_above(purged) + inner.queued_bytes
    }

    /// Bytes of frames accepted and not yet durable: what the caller has to bound.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.inner.lock().queued_bytes
    }

    /// First index that is still on disk; none if no file holds an entry.
    pub fn first_file_index(&self) -> Option<u64> {
        first_file_index(&self.shared.inner.lock().files)
    }

    /// The log's files, oldest first.
    pub fn files(&self) -> Vec<FileInfo> {
        self.shared.inner.lock().files.infos()
    }

    /// The log's directory, relative to the disk's root.
    pub fn dir(&self) -> Arc<Path> {
        self.shared.inner.lock().files.dir().into()
    }

    /// Changes the shared state and queues the work in one step, so that both have the same order.
    fn enqueue(
        &self,
        mut done: Option<Flushed>,
        change: impl FnOnce(&mut Inner, &mut Option<Flushed>) -> Result<Option<Op>, LogError>,
    ) -> Result<(), LogError> {
        let mut inner = self.shared.inner.lock();
        let op = match &inner.failed {
            Some(failed) => Err(failed.clone()),
            None => change(&mut inner, &mut done),
        };
        let queued = op.map(|op| {
            let idle = inner.queue.is_empty();
            let some = op.is_some();
            inner.queue.extend(op);
            idle && some
        });
        drop(inner);
        match queued {
            Ok(wake) => {
                if wake {
                    self.shared.hub.signal();
                }
                Ok(())
            }
            Err(error) => {
                if let Some(done) = done {
                    done(Err(error.clone()));
                }
                Err(error)
            }
        }
    }
}

fn first_file_index(files: &FileSet) -> Option<u64> {
    let first = files.floor();
    files.locate(first).is_some().then_some(first)
}
