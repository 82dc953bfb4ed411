//! A disk in memory that loses what is not synced, and fails on demand.
//!
//! The model: a file is its *durable* bytes and its *current* bytes; the pages in which they may
//! differ are *dirty*. `sync_data` makes a file's dirty pages and length durable. Names have a durable
//! and a current map, and the operations between the two, in order. A crash keeps any subset of the
//! dirty pages, and any prefix of the operations on names since the last `sync_dir` (a journal keeps
//! their order); what lies in a directory that is lost is lost with it. Every disk operation is counted, so that a test can stop the world after any of them.

mod crash;
mod file;
mod namespace;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DirectFile, Disk, DiskFile, DiskLock, LockError};
use crate::guarded::Guarded;

pub use crash::CrashPlan;
use file::Inode;
use namespace::{NameOp, Namespace};

/// Shape of a simulated disk.
#[derive(Clone, Debug)]
pub struct SimDiskOptions {
    /// Bytes of a page: the unit that a crash keeps or loses.
    pub page_bytes: usize,
    /// Bytes all files together may have.
    pub capacity: u64,
    /// Longest single write; longer ones are partial.
    pub write_bytes_max: usize,
    /// Whether files can be written directly, in blocks of a page.
    pub direct: bool,
}

impl Default for SimDiskOptions {
    fn default() -> Self {
        Self { page_bytes: 4096, capacity: u64::MAX, write_bytes_max: usize::MAX, direct: false }
    }
}

/// Kinds of operations that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SimOp {
    /// [`Disk::create_dir_all`].
    CreateDir,
    /// [`Disk::create`].
    Create,
    /// [`Disk::open`].
    Open,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::list`].
    List,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::write_vectored_at`].
    Write,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::sync_data`].
    Sync,
    /// [`DiskFile::allocate`] and [`DiskFile::set_len`].
    Resize,
}

impl SimOp {
    /// Reads change nothing, so a crash between two of them is the crash before both.
    const fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Read)
    }
}

/// One failure to come.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Operation that fails.
    pub op: SimOp,
    /// Operations of this kind that still succeed before it.
    pub after: u64,
    /// How it fails. A failed sync drops the dirty pages from the set of those a later sync writes,
    /// as Linux does.
    pub kind: io::ErrorKind,
}

/// The in-memory disk. A clone is another handle of the same disk; [`SimDisk::fork`] copies it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Guarded<State>>,
}

#[derive(Clone, Debug)]
struct State {
    options: SimDiskOptions,
    names: Namespace,
    inodes: Vec<Inode>,
    locks: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    /// Changing operations so far.
    operations: u64,
    /// Bytes read so far.
    read_bytes: u64,
    /// Bytes written so far.
    written_bytes: u64,
    /// Changing operations after which the disk answers nothing more.
    stop_after: Option<u64>,
    /// Reads until memory is short.
    short_after: Option<u64>,
    /// Grows at each crash: handles of before are dead.
    life: u64,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new(SimDiskOptions::default())
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new(options: SimDiskOptions) -> Self {
        Self {
            state: Arc::new(Guarded::new(State {
                options,
                names: Namespace::default(),
                inodes: Vec::new(),
                locks: BTreeSet::new(),
                faults: Vec::new(),
                operations: 0,
                read_bytes: 0,
                written_bytes: 0,
                stop_after: None,
                short_after: None,
                life: 0,
            })),
        }
    }

    /// An independent copy of the disk as it is, un-synced pages included. Open handles stay with the
    /// original; locks and planned faults are not copied.
    pub fn fork(&self) -> Self {
        let mut state = self.state.lock().clone();
        state.locks.clear();
        state.faults.clear();
        state.stop_after = None;
        state.short_after = None;
        Self { state: Arc::new(Guarded::new(state)) }
    }

    /// Ends the life of every open handle and lock, and keeps of what was not synced what `plan` says.
    pub fn crash(&self, plan: &CrashPlan) {
        self.state.lock().crash(plan);
    }

    /// Dirty pages and pending operations on names: what a [`CrashPlan`] decides about.
    pub fn at_stake(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.inodes.iter().map(|inode| inode.dirty.len()).sum(), state.names.pending.len())
    }

    /// Changing operations so far (reads, opens and listings do not count).
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Bytes that were read out of files so far.
    pub fn read_bytes(&self) -> u64 {
        self.state.lock().read_bytes
    }

    /// Bytes that were written to files so far.
    pub fn written_bytes(&self) -> u64 {
        self.state.lock().written_bytes
    }

    /// Lets `operations` changing operations succeed, counted from the disk's beginning; all later
    /// operations fail as if the machine had stopped.
    pub fn stop_after(&self, operations: Option<u64>) {
        self.state.lock().stop_after = operations;
    }

    /// Lets memory be short after so many reads: pages that count as clean are read from the disk from
    /// then on, also those whose sync has failed.
    pub fn short_of_memory_after(&self, reads: u64) {
        self.state.lock().short_after = Some(reads);
    }

    /// Plans a failure.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Failures, a shortage of memory among them, that are planned and have not come.
    pub fn faults_left(&self) -> usize {
        let state = self.state.lock();
        state.faults.len() + usize::from(state.short_after.is_some())
    }

    /// Sets the bytes all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().options.capacity = bytes;
    }

    /// Bytes all files together have.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// The current bytes of a file.
    pub fn contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let inode = state.names.lookup(path.as_ref())?;
        Some(state.inodes[inode].current.to_vec())
    }

    /// Cuts a file to this length, durably. False if it is not there or not longer.
    pub fn cut(&self, path: impl AsRef<Path>, bytes: usize) -> bool {
        let mut state = self.state.lock();
        let Some(inode) = state.names.lookup(path.as_ref()) else { return false };
        state.inodes[inode].cut(bytes)
    }

    /// Gives a file other bytes, durably. False if it is not there.
    pub fn put(&self, path: impl AsRef<Path>, bytes: Vec<u8>) -> bool {
        let mut state = self.state.lock();
        let Some(inode) = state.names.lookup(path.as_ref()) else { return false };
        state.inodes[inode].put(bytes);
        true
    }

    /// Loses everything below a directory, durably.
    pub fn lose(&self, dir: impl AsRef<Path>) {
        self.state.lock().names.lose(dir.as_ref());
    }

    /// Changes one byte of a file, durably, by exclusive or with `mask`. False if it is not there.
    pub fn flip(&self, path: impl AsRef<Path>, position: usize, mask: u8) -> bool {
        let mut state = self.state.lock();
        let Some(inode) = state.names.lookup(path.as_ref()) else { return false };
        state.inodes[inode].flip(position, mask)
    }
}

impl State {
    fn used(&self) -> u64 {
        let live = self.names.inodes();
        live.into_iter().map(|inode| self.inodes[inode].current.len() as u64).sum()
    }

    fn check_running(&self) -> io::Result<()> {
        if self.stop_after.is_some_and(|limit| self.operations >= limit) {
            return Err(io::Error::other("simulated machine has stopped"));
        }
        Ok(())
    }

    /// Counts an operation, and fails it if that is planned.
    fn begin(&mut self, op: SimOp) -> io::Result<()> {
        self.check_running()?;
        if op.changes() {
            self.operations += 1;
        }
        let mut due = None;
        for (place, fault) in self.faults.iter_mut().enumerate().filter(|(_, f)| f.op == op) {
            if fault.after == 0 {
                due = due.or(Some(place));
            } else {
                fault.after -= 1;
            }
        }
        due.map_or(Ok(()), |place| Err(self.faults.remove(place).kind.into()))
    }

    /// Counts a read, and drops from memory what may be dropped, if that is planned.
    fn count_read(&mut self) {
        self.short_after = match self.short_after {
            Some(0) => {
                let page_bytes = self.options.page_bytes;
                self.inodes.iter_mut().for_each(|inode| inode.drop_clean(page_bytes));
                None
            }
            left => left.map(|left| left - 1),
        };
    }

    fn room(&self, more: u64) -> io::Result<()> {
        if self.used().saturating_add(more) > self.options.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn crash(&mut self, plan: &CrashPlan) {
        self.life += 1;
        self.locks.clear();
        self.faults.clear();
        self.stop_after = None;
        self.short_after = None;
        if *plan == CrashPlan::ProcessOnly {
            return;
        }
        let mut choice = plan.choice();
        self.names.crash(choice.names(self.names.pending.len()));
        for inode in &mut self.inodes {
            inode.crash(self.options.page_bytes, &mut choice);
        }
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin(SimOp::CreateDir)?;
        state.names.make_dir(dir)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.begin(SimOp::Create)?;
        if state.names.lookup(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.room(bytes)?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        let page_bytes = state.options.page_bytes;
        state.inodes[inode].resize(bytes, page_bytes)?;
        state.names.record(NameOp::Link(path.to_owned(), inode))?;
        Ok(self.handle(inode, state.life))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.begin(SimOp::Open)?;
        let inode = state.names.lookup(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(inode, state.life))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin(SimOp::Rename)?;
        state.names.record(NameOp::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin(SimOp::Remove)?;
        state.names.record(NameOp::Unlink(path.to_owned()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.begin(SimOp::List)?;
        state.names.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.begin(SimOp::SyncDir)?;
        state.names.sync(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_owned()) {
            return Err(LockError::Held { path: path.to_owned() });
        }
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned(), life: state.life }))
    }
}

impl SimDisk {
    fn handle(&self, inode: usize, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode, life })
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, op: SimOp, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        self.check_life(&state)?;
        state.begin(op)?;
        run(&mut state)
    }

    fn check_life(&self, state: &State) -> io::Result<()> {
        if state.life != self.life {
            return Err(io::Error::other("file handle of before a simulated crash"));
        }
        Ok(())
    }
}

impl DirectFile for SimFile {
    fn block_bytes(&self) -> usize {
        self.disk.state.lock().options.page_bytes
    }

    fn write_blocks_at(&self, blocks: &[u8], position: u64) -> io::Result<usize> {
        let block = self.block_bytes();
        let address = blocks.as_ptr().align_offset(block);
        if address != 0
            || !blocks.len().is_multiple_of(block)
            || !position.is_multiple_of(block as u64)
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.write_vectored_at(&[IoSlice::new(blocks)], position)
    }

    fn read_blocks_at(&self, blocks: &mut [u8], position: u64) -> io::Result<usize> {
        self.read_at(blocks, position)
    }
}

impl DiskFile for SimFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.with(SimOp::Write, |state| {
            let mut bytes = Vec::new();
            for part in parts {
                let room = state.options.write_bytes_max - bytes.len();
                bytes.extend_from_slice(&part[..part.len().min(room)]);
            }
            let end = position + bytes.len() as u64;
            let size = state.inodes[self.inode].current.len() as u64;
            state.room(end.saturating_sub(size))?;
            let page_bytes = state.options.page_bytes;
            state.inodes[self.inode].write(&bytes, position, page_bytes)?;
            state.written_bytes += bytes.len() as u64;
            Ok(bytes.len())
        })
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.with(SimOp::Read, |state| {
            state.count_read();
            let read = state.inodes[self.inode].read(buffer, position);
            state.read_bytes += read as u64;
            Ok(read)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        self.check_life(&state)?;
        state.check_running()?;
        let begun = state.begin(SimOp::Sync);
        let page_bytes = state.options.page_bytes;
        let inode = &mut state.inodes[self.inode];
        if begun.is_err() {
            inode.fail_sync();
        } else {
            inode.sync(page_bytes);
        }
        begun
    }

    fn size(&self) -> io::Result<u64> {
        self.with(SimOp::Read, |state| Ok(state.inodes[self.inode].current.len() as u64))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.with(SimOp::Resize, |state| {
            let size = state.inodes[self.inode].current.len() as u64;
            state.room(bytes.saturating_sub(size))?;
            let page_bytes = state.options.page_bytes;
            state.inodes[self.inode].resize(bytes.max(size), page_bytes)
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(SimOp::Resize, |state| {
            let page_bytes = state.options.page_bytes;
            state.inodes[self.inode].resize(bytes, page_bytes)
        })
    }

    fn direct(&self) -> Option<Arc<dyn DirectFile>> {
        let file = Self { disk: self.disk.clone(), inode: self.inode, life: self.life };
        self.disk.state.lock().options.direct.then(|| Arc::new(file) as Arc<dyn DirectFile>)
    }
}
