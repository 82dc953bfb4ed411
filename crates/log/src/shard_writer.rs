//! The writer's half of one log: turns queued work into batches, files and callbacks.
//!
//! The writer drives it in this order, once per step: [`write`](ShardWriter::write) for every log, then
//! [`sync`](ShardWriter::sync) for those that wrote, then [`prepare`](ShardWriter::prepare). A log has one
//! batch at a time between the two.

mod files;
mod fill;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Batch, Change};
use crate::block_writer::BlockWriter;
use crate::disk::DiskFile;
use crate::error::{Attempt, DiskFailure, LogError};
use crate::files::{FileSet, LogFile};
use crate::hub::Hub;
use crate::image::Image;
use crate::options::{BuiltinBug, LogOptions};
use crate::shard::{Inner, Op, Shared};
use crate::{EntryId, Flushed, ShardLog};

/// A preallocated file.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u64,
}

/// Where recovery found the log to end.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) files: FileSet,
    pub(crate) image: Image,
    pub(crate) next_batch: u64,
    pub(crate) last_crc: u32,
    pub(crate) unmarked: bool,
    /// Preallocated length of the newest file.
    pub(crate) file_bytes: u64,
    pub(crate) spare: Option<Spare>,
}

/// What [`ShardWriter::write`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// There was nothing to do, or no space to do it.
    Nothing,
    /// Work that needs no batch was done and called back.
    Chore,
    /// A batch was written and must be synced.
    Batch,
}

/// The batch between being filled and being durable.
#[derive(Default)]
struct Pending {
    /// Sealed: it has its number and place, and may have been written in part.
    sealed: Option<u32>,
    dones: Vec<Flushed>,
    /// Cuts in it.
    cuts: usize,
    /// Bytes that were counted when its work was queued.
    queued_bytes: u64,
}

/// One log, as the writer sees it.
pub(crate) struct ShardWriter {
    shared: Arc<Shared>,
    dir: PathBuf,
    options: LogOptions,
    current: Arc<LogFile>,
    block_writer: BlockWriter,
    /// End of the current file's valid part.
    position: u64,
    /// Length to which the current file is preallocated.
    file_bytes: u64,
    /// State of the log as written.
    image: Image,
    /// Purge point as synced.
    purged: Option<EntryId>,
    /// Saved in memory, not yet in a batch.
    committed: Option<EntryId>,
    next_batch: u64,
    last_crc: u32,
    /// The last batch is synced, and nothing on disk says so.
    unmarked: bool,
    mark_at: Option<Duration>,
    backlog: VecDeque<Op>,
    /// Files to be freed, for which the disk had no room: until it is looked at again.
    put_off: VecDeque<Op>,
    batch: Batch,
    pending: Pending,
    spare: Option<Spare>,
    /// The disk was full: no attempt at more space before.
    space_retry_at: Option<Duration>,
    /// The front of the backlog waits for space.
    stalled: bool,
    /// The log is to end.
    closing: Option<Flushed>,
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardWriter")
            .field("dir", &self.dir)
            .field("position", &self.position)
            .field("next_batch", &self.next_batch)
            .finish_non_exhaustive()
    }
}

impl ShardWriter {
    pub(crate) fn new(
        hub: &Arc<Hub>,
        dir: &Path,
        options: LogOptions,
        recovered: Recovered,
    ) -> Self {
        let Recovered { files, image, next_batch, last_crc, unmarked, file_bytes, spare } =
            recovered;
        let newest = files.newest();
        let (current, position) = (Arc::clone(&newest.file), newest.extent.end);
        let inner = Inner::new(image.clone(), files, file_bytes, options.ring_bytes);
        let shared = Shared::new(inner, hub);
        let writer = Self {
            shared: Arc::new(shared),
            dir: dir.to_owned(),
            options,
            block_writer: BlockWriter::new(Arc::clone(&current.file)),
            current,
            position,
            file_bytes,
            purged: image.purged,
            image,
            committed: None,
            next_batch,
            last_crc,
            unmarked,
            mark_at: None,
            backlog: VecDeque::new(),
            put_off: VecDeque::new(),
            batch: Batch::new(),
            pending: Pending::default(),
            spare,
            space_retry_at: None,
            stalled: false,
            closing: None,
        };
        writer.publish_full(false);
        writer
    }

    pub(crate) fn handle(&self) -> ShardLog {
        ShardLog { shared: Arc::clone(&self.shared) }
    }

    /// When to look again though nothing is queued.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let times = [self.mark_at, self.space_retry_at];
        times.into_iter().flatten().min()
    }

    /// Does the next piece of work: a chore, or filling and writing a batch.
    pub(crate) fn write(&mut self, now: Duration) -> Result<Wrote, DiskFailure> {
        self.refill(now);
        match self.write_next(now) {
            Err(failure) if failure.is_full() => {
                self.stalled = true;
                self.note_full(now, &failure);
                self.relieved(now)
            }
            outcome => outcome,
        }
    }

    /// What relieving did.
    fn relieved(&mut self, now: Duration) -> Result<Wrote, DiskFailure> {
        match self.relieve(now) {
            Ok(true) => Ok(Wrote::Chore),
            Ok(false) => Ok(Wrote::Nothing),
            // Freeing space may take some itself. What it has begun is gone on with later.
            Err(failure) if failure.is_full() => Ok(Wrote::Nothing),
            Err(failure) => Err(failure),
        }
    }

    /// Takes what was queued.
    fn refill(&mut self, now: Duration) {
        if self.space_retry_at.is_none_or(|at| now >= at) {
            self.backlog.append(&mut self.put_off);
        }
        let mut inner = self.shared.inner.lock();
        self.backlog.append(&mut inner.queue);
        if self.options.has_bug(BuiltinBug::VoteOvertakes) {
            bring_votes_forward(&mut self.backlog);
        }
        if std::mem::take(&mut inner.committed_dirty) {
            self.committed = inner.image.committed;
        }
        if self.mark_at.is_none() && self.needs_mark() {
            self.mark_at = Some(now + self.options.mark_after);
        }
        inner.mark_planned = self.mark_at.is_some();
    }

    fn needs_mark(&self) -> bool {
        self.unmarked || self.committed.is_some()
    }

    fn write_next(&mut self, now: Duration) -> Result<Wrote, DiskFailure> {
        if self.stalled && self.spare.is_none() && self.space_retry_at.is_some_and(|at| now < at) {
            return self.relieved(now);
        }
        if self.pending.sealed.is_none() {
            if let Some(op) = self.next_chore() {
                self.do_chore(op, now)?;
                return Ok(Wrote::Chore);
            }
            let mark = match self.backlog.front() {
                Some(op) => matches!(op, Op::Mark { .. }),
                None => self.mark_at.is_some_and(|at| at <= now),
            };
            if self.backlog.is_empty() && !mark {
                // What found no room was done without a batch.
                self.stalled = false;
                return Ok(Wrote::Nothing);
            }
            self.fill_and_seal(mark)?;
        }
        self.write_sealed()?;
        self.stalled = false;
        Ok(Wrote::Batch)
    }

    /// Takes work off the front that needs no batch.
    fn next_chore(&mut self) -> Option<Op> {
        let is_chore = match self.backlog.front()? {
            Op::Retire { .. } | Op::Roll { .. } | Op::Close { .. } => true,
            Op::Mark { .. } => !self.needs_mark(),
            _ => false,
        };
        if is_chore { self.backlog.pop_front() } else { None }
    }

    fn do_chore(&mut self, op: Op, now: Duration) -> Result<(), DiskFailure> {
        let op = match op {
            Op::Close { done } => {
                self.closing = Some(done);
                return Ok(());
            }
            op => op,
        };
        let outcome = match op {
            Op::Retire { upto, .. } => self.retire(upto),
            Op::Roll { .. } if self.position > self.current.header_bytes => match self.roll() {
                // Given up: what is queued behind it has room in the current file.
                Err(failure) if failure.is_full() => {
                    tracing::info!(log = %self.dir.display(), error = %failure, "no new file is begun");
                    Ok(())
                }
                rolled => rolled,
            },
            _ => Ok(()),
        };
        match outcome {
            Ok(()) => {
                if let Some(done) = op.into_done() {
                    done(Ok(()));
                }
                Ok(())
            }
            Err(failure) if failure.is_full() => {
                // Done later. What is queued behind it has room, or is stopped by the lack of it itself.
                self.put_off.push_back(op);
                self.note_full(now, &failure);
                Ok(())
            }
            Err(failure) => {
                // It is called back with what ends the writer.
                self.backlog.push_front(op);
                Err(failure)
            }
        }
    }

    /// Fills the batch, in the next file if this one has no room for it.
    fn fill_and_seal(&mut self, mark: bool) -> Result<(), DiskFailure> {
        if !self.fill(mark) {
            self.roll()?;
            let filled = self.fill(mark);
            debug_assert!(filled, "a fresh file takes any batch");
        }
        self.seal();
        Ok(())
    }

    /// Writes the sealed batch; again from its beginning if an attempt failed for want of space.
    fn write_sealed(&mut self) -> Result<(), DiskFailure> {
        let (file, path) = (&*self.current.file, &self.current.path);
        let end = self.position + self.batch.file_bytes();
        if end > self.file_bytes {
            file.allocate(end).attempt("extend", path)?;
            // Before there is a header that says how long the batch is: a file that ends within it was cut.
            file.sync_data().attempt("sync", path)?;
            self.file_bytes = end;
            self.shared.inner.lock().file_bytes = end;
        }
        self.batch.write(&mut self.block_writer, self.position).attempt("write", path)?;
        if self.options.has_bug(BuiltinBug::CallbackBeforeSync) {
            self.pending.dones.drain(..).for_each(|done| done(Ok(())));
        }
        Ok(())
    }

    /// Syncs the written batch and calls back.
    pub(crate) fn sync(&mut self, now: Duration) -> Result<(), DiskFailure> {
        let synced = self.current.file.sync_data().attempt("sync", &self.current.path);
        if !self.options.has_bug(BuiltinBug::SyncErrorIgnored) {
            synced?;
        }
        let Some(crc) = self.pending.sealed.take() else { return Ok(()) };
        self.unmarked = !self.batch.is_mark();
        self.last_crc = crc;
        self.next_batch += 1;
        self.purged = self.image.purged;
        self.publish(now);
        self.position += self.batch.file_bytes();
        self.batch.release();
        let pending = std::mem::take(&mut self.pending);
        pending.dones.into_iter().for_each(|done| done(Ok(())));
        if self.options.has_bug(BuiltinBug::CallbackOfLater) {
            self.backlog.iter_mut().for_each(call_back_early);
        }
        Ok(())
    }

    /// Makes what the batch changed visible as durable.
    fn publish(&mut self, now: Duration) {
        let mut inner = self.shared.inner.lock();
        for change in &self.batch.changes {
            match *change {
                Change::Entry { index, position } => {
                    inner.files.entry(index, self.position + position);
                }
                Change::Truncate { next } => inner.files.truncate(next),
                Change::Jump { next } => inner.files.jump(next),
            }
        }
        inner.files.set_end(self.position + self.batch.file_bytes());
        inner.cuts.drain(..self.pending.cuts);
        // What was cut meanwhile is not durable, though its bytes are.
        let cut = inner.cuts.iter().min().copied().unwrap_or(u64::MAX);
        let durable_before = inner.durable;
        inner.durable = self.image.next_index().min(cut).checked_sub(1);
        inner.queued_bytes -= self.pending.queued_bytes;
        // Whoever applies gives up what is in the way, in memory of its own thread. Here only what
        // was applied before it was durable, of which nobody else would think.
        if inner.applied > durable_before {
            inner.evict();
        }
        self.mark_at = (self.needs_mark() || inner.committed_dirty)
            .then(|| now.saturating_add(self.options.mark_after));
        inner.mark_planned = self.mark_at.is_some();
    }

    /// Whether the log was asked to end, and nothing of it is half done.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Ends the log as it was asked to: what was queued before is durable.
    pub(crate) fn close(mut self) {
        self.fail(&LogError::Closed);
        self.shared.hub.release(&self.dir);
        if let Some(done) = self.closing.take() {
            done(Ok(()));
        }
    }

    /// Ends the log: everything queued, and everything to come, is called back with `error`.
    pub(crate) fn fail(&mut self, error: &LogError) {
        let queued = {
            let mut inner = self.shared.inner.lock();
            inner.failed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut inner.queue)
        };
        let pending = std::mem::take(&mut self.pending);
        let put_off = std::mem::take(&mut self.put_off);
        let backlog = std::mem::take(&mut self.backlog);
        let waiting = put_off.into_iter().chain(backlog).chain(queued).filter_map(Op::into_done);
        pending.dones.into_iter().chain(waiting).for_each(|done| done(Err(error.clone())));
    }
}

/// See [`BuiltinBug::VoteOvertakes`].
fn bring_votes_forward(backlog: &mut VecDeque<Op>) {
    let is_vote = |op: &Op| matches!(op, Op::Vote { .. });
    let (votes, others): (Vec<_>, Vec<_>) = backlog.drain(..).partition(is_vote);
    backlog.extend(votes.into_iter().chain(others));
}

/// See [`BuiltinBug::CallbackOfLater`].
fn call_back_early(op: &mut Op) {
    if let Op::Append { done, .. } = op {
        std::mem::replace(done, Box::new(|_| {}))(Ok(()));
    }
}
