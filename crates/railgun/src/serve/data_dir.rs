//! The data directory before the broker opens it: that it exists, and that the disk under it
//! keeps what it says it keeps.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use tokio::time::Instant;

use super::ServeError;

/// Probe writes, each with its own fdatasync.
const PROBES: usize = 16;
const PROBE_BYTES: usize = 4096;
/// No path to a device is faster: a system call, a journal and a bus round trip are in it, even
/// before a cache that survives power loss.
const PLAUSIBLE_FSYNC: Duration = Duration::from_micros(10);

/// Creates the directory (mode 0700) where it does not exist, and warns where an fsync there
/// cannot mean much.
///
/// # Errors
///
/// [`ServeError::DataDir`] when it cannot be created or written to.
pub(crate) fn prepare(dir: &Path) -> Result<(), ServeError> {
    let unusable = |source| ServeError::DataDir { path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let measured = match median_fsync(dir) {
        // No reason not to start: it is the node that moves its records to the bucket.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            tracing::warn!(data_dir = %dir.display(), "the disk is full");
            return Ok(());
        }
        measured => measured.map_err(unusable)?,
    };
    if let Some(reason) = suspicion(in_memory(dir), measured) {
        tracing::warn!(
            data_dir = %dir.display(),
            median_fsync = ?measured,
            "{reason}: acknowledged messages may not survive a power failure"
        );
    }
    Ok(())
}

/// Why an fsync may not be one, if so.
fn suspicion(in_memory: bool, median_fsync: Duration) -> Option<&'static str> {
    if in_memory {
        Some("the data directory is in memory (tmpfs)")
    } else if median_fsync < PLAUSIBLE_FSYNC {
        Some("the disk's fsync is faster than a disk can be")
    } else {
        None
    }
}

#[cfg(target_os = "linux")]
fn in_memory(dir: &Path) -> bool {
    // statfs(2): TMPFS_MAGIC and RAMFS_MAGIC.
    rustix::fs::statfs(dir).is_ok_and(|stats| matches!(stats.f_type, 0x0102_1994 | 0x8584_58f6))
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_dir: &Path) -> bool {
    false
}

/// Median time of writing 4 KiB and making it durable in `dir`.
fn median_fsync(dir: &Path) -> io::Result<Duration> {
    let probe = ProbeFile::create(dir)?;
    let page = [0x5a; PROBE_BYTES];
    let mut times = [Duration::ZERO; PROBES];
    for (time, index) in times.iter_mut().zip(0u64..) {
        let begun = Instant::now();
        probe.file.write_all_at(&page, index * PROBE_BYTES as u64)?;
        probe.file.sync_data()?;
        *time = begun.elapsed();
    }
    times.sort_unstable();
    Ok(times[PROBES / 2])
}

/// A file that goes with the value. Named after the process, as another node may be probing the
/// same directory on its way to being refused.
struct ProbeFile {
    file: File,
    path: PathBuf,
}

impl ProbeFile {
    fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!(".fsync-probe-{}", process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        Ok(Self { file, path })
    }
}

impl Drop for ProbeFile {
    fn drop(&mut self) {
        // A probe left behind is 64 KiB of nothing; the next process of that id reuses it.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_impossibly_fast_disks_are_suspect() {
        assert!(suspicion(true, Duration::from_millis(1)).is_some_and(|why| why.contains("tmpfs")));
        assert!(
            suspicion(false, Duration::from_micros(2)).is_some_and(|why| why.contains("fsync"))
        );
        assert_eq!(suspicion(false, Duration::from_micros(200)), None);
    }

    #[test]
    fn preparing_makes_a_private_directory_and_leaves_nothing_in_it() {
        use std::os::unix::fs::PermissionsExt;

        let parent = std::env::temp_dir().join(format!("railgun-data-dir-{}", process::id()));
        let dir = parent.join("deep/data");
        prepare(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        prepare(&dir).unwrap();

        let file = parent.join("file");
        fs::write(&file, "").unwrap();
        let error = prepare(&file).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        fs::remove_dir_all(parent).unwrap();
    }
}
