//! The operating system's files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, pwritev};

use super::{DirectFile, Disk, DiskFile, DiskLock, LockError};

/// Written where the file system cannot reserve space.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// Works below `root`, which is made if it is not there, durably: nothing in a directory outlives
    /// a power cut that its own name does not outlive.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let made = std::path::absolute(&root)?.ancestors().take_while(|dir| !dir.exists()).count();
        fs::create_dir_all(&root)?;
        // Its own name even if it was there: who made it may have died before it was synced.
        for parent in fs::canonicalize(&root)?.ancestors().skip(1).take(made.max(1)) {
            match File::open(parent).and_then(|parent| parent.sync_all()) {
                // An operator made the directory, in a place that is not ours to read.
                Err(_) if made == 0 => {}
                outcome => outcome?,
            }
        }
        Ok(Self { root })
    }

    /// The directory all paths are relative to.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(self.root.join(dir))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.root.join(path);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let file = RealFile::new(file);
        if let Err(error) = file.allocate(bytes) {
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.root.join(path))?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for item in fs::read_dir(self.root.join(dir))? {
            let item = item?;
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (item.file_type()?.is_file(), item.file_name().into_string())
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn DiskLock>, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.root.join(path))
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { path: self.root.join(path) }),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}

/// `flock` is given back when the file is closed.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The same, opened for direct reads and writes when first asked for; `None` where there are none.
    direct: OnceLock<Option<Arc<RealDirectFile>>>,
}

impl RealFile {
    fn new(file: File) -> Self {
        Self { file, direct: OnceLock::new() }
    }

    /// Reserves the space by writing it, as the file system knows no other way.
    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        let mut position = from;
        while position < to {
            let some = ZEROS.len().min((to - position).try_into().unwrap_or(usize::MAX));
            self.file.write_all_at(&ZEROS[..some], position)?;
            position += some as u64;
        }
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn write_vectored_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        Ok(pwritev(&self.file, parts, position)?)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let before = self.size()?;
        let allocated = loop {
            match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break self.write_zeros(before, bytes),
                done => break done.map_err(Into::into),
            }
        };
        if allocated.is_err() {
            // It keeps what it got, which may be all the room that there was for others.
            self.file.set_len(before).ok();
        }
        allocated
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn direct(&self) -> Option<Arc<dyn DirectFile>> {
        let open = || Some(Arc::new(RealDirectFile { file: open_direct(&self.file)? }));
        self.direct.get_or_init(open).clone().map(|file| file as Arc<dyn DirectFile>)
    }
}

#[cfg(target_os = "linux")]
fn open_direct(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    // Through its descriptor: the name may have changed since it was opened.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(again).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &File) -> Option<File> {
    None
}

/// Opened with `O_DIRECT`.
#[derive(Debug)]
struct RealDirectFile {
    file: File,
}

impl DirectFile for RealDirectFile {
    /// What nearly every disk and file system is content with.
    fn block_bytes(&self) -> usize {
        4096
    }

    fn write_blocks_at(&self, blocks: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(blocks, position)
    }

    fn read_blocks_at(&self, blocks: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, blocks, position)
    }
}
