//! Beginning, preallocating and freeing the files of one log, also where the disk is full.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Op, ShardWriter, Spare};
use crate::error::{Attempt, DiskFailure, LogError};
use crate::extent::Extent;
use crate::files::Held;
use crate::format::file_header::{FileHeader, PreviousFile};
use crate::format::frame::{FRAME_BYTES, Record};
use crate::new_file::{self, SPARE};

impl ShardWriter {
    /// Closes the current file, every byte of which is synced, and begins the next.
    pub(super) fn roll(&mut self) -> Result<(), DiskFailure> {
        let disk = Arc::clone(&self.shared.hub.disk);
        self.ensure_spare()?;
        let Some(spare) = &self.spare else { return Ok(()) };
        let (closed, taken) = {
            let inner = self.shared.inner.lock();
            let taken: Vec<_> = inner.files.iter().map(|held| held.file.path.clone()).collect();
            (inner.files.newest().extent.clone(), taken)
        };
        if let Some(id) = self.committed {
            self.image.committed = Some(id);
        }
        let header = FileHeader {
            uuid: self.shared.hub.draw_uuid(),
            sequence: self.current.sequence + 1,
            first_index: self.image.next_index(),
            incarnation: self.options.incarnation,
            previous: Some(PreviousFile { uuid: self.current.uuid, end: self.position }),
            first_batch: self.next_batch,
            previous_crc: self.last_crc,
            vote: self.image.vote,
            committed: self.image.committed,
            purged: self.image.purged,
            file_bytes: 0,
            terms: self.image.terms().clone(),
        }
        .with_file_bytes(spare.bytes);
        let paths = taken.iter().map(|path| path.as_path());
        let file = Arc::new(new_file::begin(&*disk, &self.dir, &spare.file, &header, paths)?);
        new_file::seal(&self.current, &header)?;
        self.file_bytes = header.file_bytes;
        self.spare = None;
        self.committed = None;
        self.unmarked = false;
        self.mark_at = None;
        self.position = file.header_bytes;
        self.block_writer.follow(Arc::clone(&file.file));
        let closed_file = std::mem::replace(&mut self.current, Arc::clone(&file));
        let extent = Extent::new(header.first_index, file.header_bytes);
        {
            let mut inner = self.shared.inner.lock();
            inner.files.push(Held { file, extent });
            inner.file_bytes = self.file_bytes;
        }
        new_file::save_positions(&*disk, &closed_file, self.last_crc, &closed);
        Ok(())
    }

    fn ensure_spare(&mut self) -> Result<(), DiskFailure> {
        if self.spare.is_none() {
            let bytes = self.options.file_bytes;
            let file = new_file::create_spare(&*self.shared.hub.disk, &self.dir, bytes)?;
            self.spare = Some(Spare { file, bytes });
        }
        Ok(())
    }

    /// Preallocates the next file once this one is half full.
    pub(crate) fn prepare(&mut self, now: Duration) -> Result<(), DiskFailure> {
        let early = self.position <= self.file_bytes / 2;
        let paused = self.space_retry_at.is_some_and(|at| now < at);
        if !paused && self.spare.is_none() && !early {
            match self.ensure_spare() {
                Err(failure) if failure.is_full() => {
                    self.note_full(now, &failure);
                    return Ok(());
                }
                outcome => outcome?,
            }
        }
        let waits = self.stalled || !self.put_off.is_empty();
        if !waits && (!paused || self.spare.is_some()) {
            self.space_retry_at = None;
        }
        self.publish_full(self.space_retry_at.is_some());
        Ok(())
    }

    /// Notes that the disk is full and when to look again.
    pub(super) fn note_full(&mut self, now: Duration, failure: &DiskFailure) {
        if self.space_retry_at.is_none() {
            tracing::warn!(log = %self.dir.display(), error = %failure, "disk is full");
        }
        self.space_retry_at = Some(now.saturating_add(self.options.space_retry_after));
        self.publish_full(true);
    }

    /// Tells the handles whether there is space for more than what is preallocated.
    pub(super) fn publish_full(&self, full: bool) {
        self.shared.disk_full.store(full, Relaxed);
    }

    /// Frees what the backlog allows to be freed while its front waits for space: purges that do not
    /// depend on the waiting work are written into what is reserved for them, then files retired. True if
    /// something was done; if not, whoever waits for a mark or a new file behind that work is let go.
    pub(super) fn relieve(&mut self, now: Duration) -> Result<bool, DiskFailure> {
        let relieved = self.purge_first(now)?;
        let (mut retires, rest): (VecDeque<Op>, VecDeque<Op>) = std::mem::take(&mut self.backlog)
            .into_iter()
            .partition(|op| matches!(op, Op::Retire { .. }));
        self.backlog = rest;
        let done = relieved || !retires.is_empty();
        while let Some(op) = retires.pop_front() {
            if let Err(failure) = self.do_chore(op, now) {
                // `do_chore` has put it back; so are those behind it.
                self.backlog.extend(retires);
                return Err(failure);
            }
        }
        if !done {
            self.let_go();
        }
        Ok(done)
    }

    /// Calls back those who would wait for space though they ask for none: marks with an error, for
    /// what was queued before them is not durable, rolls as those that find no space.
    fn let_go(&mut self) {
        let is_let_go = |op: &Op| matches!(op, Op::Mark { .. } | Op::Roll { .. });
        if !self.backlog.iter().any(is_let_go) {
            return;
        }
        let (gone, rest): (VecDeque<Op>, VecDeque<Op>) =
            std::mem::take(&mut self.backlog).into_iter().partition(is_let_go);
        self.backlog = rest;
        for op in gone {
            let outcome = if matches!(op, Op::Mark { .. }) { Err(LogError::Full) } else { Ok(()) };
            if let Some(done) = op.into_done() {
                done(outcome);
            }
        }
    }

    /// Writes and syncs the last purge that speaks of written entries only. Such a purge commutes with the
    /// appends, cuts and votes that wait before it: what is purged is neither appended nor cut again.
    fn purge_first(&mut self, now: Duration) -> Result<bool, DiskFailure> {
        let written = self.image.next_index();
        let upto = self.backlog.iter().rev().find_map(|op| match op {
            Op::Purge { upto } if upto.index < written => Some(*upto),
            _ => None,
        });
        let free = self.left_for_marks();
        let Some(upto) = upto.filter(|_| self.pending.sealed.is_none()) else { return Ok(false) };
        self.batch.clear(self.current.seed);
        if self.batch.file_bytes_with(FRAME_BYTES as u64) > free {
            return Ok(false);
        }
        let waiting = self.backlog.len();
        self.backlog.retain(|op| !matches!(op, Op::Purge { upto } if upto.index < written));
        self.pending.queued_bytes = (waiting - self.backlog.len()) as u64 * FRAME_BYTES as u64;
        self.push_record(Record::Purged(upto));
        self.seal();
        self.write_sealed()?;
        self.sync(now)?;
        Ok(true)
    }

    /// Frees every closed file that holds nothing above `upto` or the purge point, oldest first. Each
    /// removal is durable before the next, so that the files on disk are always a chain without a hole, and
    /// before a recycled file is written to: until then its old name may come back.
    pub(super) fn retire(&mut self, upto: u64) -> Result<(), DiskFailure> {
        let Some(purged) = self.purged else { return Ok(()) };
        let bound = upto.min(purged.index);
        let disk = Arc::clone(&self.shared.hub.disk);
        loop {
            let Some(file) = self.shared.inner.lock().files.retirable(bound) else { return Ok(()) };
            let positions = file.positions_path();
            match disk.remove(&positions) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome.attempt("remove", &positions)?,
            }
            let bytes = file.file.size().attempt("read", &file.path)?;
            if self.spare.is_none() && bytes == self.options.file_bytes {
                let spare = self.dir.join(SPARE);
                disk.rename(&file.path, &spare).attempt("rename", &file.path)?;
                self.spare = Some(Spare { file: Arc::clone(&file.file), bytes });
            } else {
                disk.remove(&file.path).attempt("remove", &file.path)?;
            }
            disk.sync_dir(&self.dir).attempt("sync", &self.dir)?;
            self.shared.inner.lock().files.retire();
        }
    }
}
