//! The seam to the disk: what the log asks of it, and nothing more.
//!
//! Paths are relative to the disk's root. Nothing is durable before it is synced: bytes of a file by
//! [`DiskFile::sync_data`], names by [`Disk::sync_dir`]. Log and recovery code run unchanged on
//! [`RealDisk`] and on the faulty in-memory [`SimDisk`].

mod real;
mod sim;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

pub use real::RealDisk;
pub use sim::{CrashPlan, Fault, SimDisk, SimDiskOptions, SimOp};

/// Most slices one `pwritev` takes (Linux: `UIO_MAXIOV`).
const SLICES_MAX: usize = 1024;

/// A directory tree on which logs live.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes the directory and its parents. Durable after the parents are synced.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes a file of `bytes` bytes that reads as zeros, with its space reserved. Fails with
    /// `AlreadyExists` if the name is taken and with `StorageFull` if there is no space; then there is
    /// no file.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives the file another name in one step, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the name. Open handles keep the file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Names of the files in `dir`, sorted. Subdirectories are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock that `path` stands for, without waiting. Held until the guard is
    /// dropped or the process ends.
    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, LockError>;
}

/// An open file. Usable from many threads.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Writes a prefix of the concatenated parts at `position` and returns its length, as `pwritev`.
    /// At most 1,024 parts. Use [`write_all_vectored_at`].
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize>;

    /// Reads up to `buffer.len()` bytes at `position`; 0 at the end, as `pread`.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Makes everything written, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reserves space so that the file is at least `bytes` long; what is added reads as zeros.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts or extends (sparsely) the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// A way around the page cache, if there is one. Reads through this handle see what was written
    /// so.
    fn direct(&self) -> Option<Arc<dyn DirectFile>> {
        None
    }
}

/// Reads and writes whole blocks of a file around the page cache. What is written is as durable as
/// otherwise: not before [`DiskFile::sync_data`].
pub trait DirectFile: Send + Sync + fmt::Debug {
    /// What places in the file, lengths and addresses must be multiples of: a power of two.
    fn block_bytes(&self) -> usize;

    /// Writes a prefix of `blocks` at `position` and returns its length, as `pwrite`. `InvalidInput`:
    /// the file cannot be written like this after all.
    fn write_blocks_at(&self, blocks: &[u8], position: u64) -> io::Result<usize>;

    /// Reads up to `blocks.len()` bytes at `position`, as `pread`.
    fn read_blocks_at(&self, blocks: &mut [u8], position: u64) -> io::Result<usize>;
}

/// A held lock; dropping it gives it back.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// Why a lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Someone else has it.
    #[error("data directory is in use: {} is locked by another process", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("could not lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the disk answered.
        source: io::Error,
    },
}

/// Makes the directory and its parents, durably: a directory whose name is not synced is lost in a
/// power cut with all that is in it, however well that was synced.
pub fn make_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    dir.ancestors().skip(1).try_for_each(|parent| disk.sync_dir(parent))
}

/// Writes all of `parts` at `position`: splits what is too many slices for one call, goes on after
/// partial writes and interruptions.
pub fn write_all_vectored_at(
    file: &dyn DiskFile,
    mut parts: &mut [IoSlice<'_>],
    mut position: u64,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let some = &parts[..parts.len().min(SLICES_MAX)];
        match file.write_vectored_at(some, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buffer` is full or the file ends; returns the bytes read.
pub fn read_full_at(file: &dyn DiskFile, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], position + read as u64) {
            Ok(0) => break,
            Ok(some) => read += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
