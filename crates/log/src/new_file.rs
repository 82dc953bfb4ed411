//! Making the files of a log: the spare, the next log file, the position index of a closed one.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, read_full_at, write_all_vectored_at};
use crate::error::{Attempt, DiskFailure};
use crate::extent::Extent;
use crate::files::LogFile;
use crate::format::batch::BatchHeader;
use crate::format::file_header::{FileHeader, PreviousFile};
use crate::format::frame::FrameSeed;
use crate::format::positions::{self, Identity};

/// Name of the preallocated next file in a log's directory.
pub(crate) const SPARE: &str = "spare";

/// Preallocates the next file.
pub(crate) fn create_spare(
    disk: &dyn Disk,
    dir: &Path,
    bytes: u64,
) -> Result<Arc<dyn DiskFile>, DiskFailure> {
    let path = dir.join(SPARE);
    disk.create(&path, bytes).attempt("preallocate", &path)
}

/// The path for a file whose first index is `first`, not among `taken`.
fn free_path<'a>(dir: &Path, first: u64, taken: impl Iterator<Item = &'a Path> + Clone) -> PathBuf {
    let path = dir.join(format!("{first:020}.log"));
    let others = (1..).map(|n: u64| dir.join(format!("{first:020}.{n}.log")));
    let is_free = |path: &PathBuf| taken.clone().all(|other| other != path);
    // The range does not end before u64::MAX names are taken.
    if is_free(&path) { path } else { others.into_iter().find(is_free).unwrap_or(path) }
}

/// Turns the spare into the log file that `header` describes. Everything the header speaks of must be
/// synced. Durable, name and all, when this returns; on an error the spare is still the spare, unless
/// the sync of the directory was what failed.
pub(crate) fn begin<'a>(
    disk: &dyn Disk,
    dir: &Path,
    spare: &Arc<dyn DiskFile>,
    header: &FileHeader,
    taken: impl Iterator<Item = &'a Path> + Clone,
) -> Result<LogFile, DiskFailure> {
    let path = dir.join(SPARE);
    let bytes = header.encode();
    if spare.size().attempt("read", &path)? < header.file_bytes {
        spare.allocate(header.file_bytes).attempt("extend", &path)?;
    }
    write_all_vectored_at(&**spare, &mut [IoSlice::new(&bytes)], 0).attempt("write", &path)?;
    spare.sync_data().attempt("sync", &path)?;
    let named = free_path(dir, header.first_index, taken);
    disk.rename(&path, &named).attempt("rename", &path)?;
    disk.sync_dir(dir).attempt("sync", dir)?;
    Ok(LogFile {
        path: named,
        file: Arc::clone(spare),
        uuid: header.uuid,
        seed: FrameSeed::new(&header.uuid),
        sequence: header.sequence,
        header_bytes: bytes.len() as u64,
    })
}

/// Says at the end of a closed file, durably, that another was begun, which `next` describes. Not before
/// that one is durable, name and all.
pub(crate) fn seal(closed: &LogFile, next: &FileHeader) -> Result<(), DiskFailure> {
    let Some(PreviousFile { uuid, end }) = next.previous else { return Ok(()) };
    let (seal, _) = BatchHeader::seal(uuid, next.first_batch, next.previous_crc).encode();
    let (file, path) = (&*closed.file, &closed.path);
    let sealed = write_all_vectored_at(file, &mut [IoSlice::new(&seal)], end).attempt("seal", path);
    match sealed.and_then(|()| file.sync_data().attempt("sync", path)) {
        // It has room in the file, but a file system that never writes in place may have none.
        Err(failure) if failure.is_full() => {
            tracing::warn!(error = %failure, "if the next log file goes missing, nothing tells");
            Ok(())
        }
        sealed => sealed,
    }
}

/// Writes the position index beside a closed file. Derived data, so neither synced nor insisted on.
pub(crate) fn save_positions(disk: &dyn Disk, file: &LogFile, last_crc: u32, extent: &Extent) {
    let identity = Identity { uuid: file.uuid, end: extent.end, last_crc };
    let path = file.positions_path();
    if let Err(error) = replace(disk, &path, &positions::encode(&identity, extent)) {
        tracing::warn!(file = %path.display(), %error, "position index not written, the log file will be scanned");
    }
}

fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(path, bytes.len() as u64)?;
    write_all_vectored_at(&*file, &mut [IoSlice::new(bytes)], 0)
}

/// Reads the position index beside a closed file, if there is one and it is the file's.
pub(crate) fn load_positions(
    disk: &dyn Disk,
    path: &Path,
    identity: &Identity,
) -> Result<Option<Extent>, DiskFailure> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.attempt("open", path)?,
    };
    let size = file.size().attempt("read", path)?;
    if size > positions::bytes_max(identity.end) {
        return Ok(None);
    }
    let mut bytes = vec![0; size as usize];
    let read = read_full_at(&*file, &mut bytes, 0).attempt("read", path)?;
    Ok(positions::decode(&bytes[..read], identity))
}
