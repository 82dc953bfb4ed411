//! A file system of its own size, in memory.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Mounted until dropped.
#[derive(Debug)]
pub(crate) struct Mount {
    dir: TempDir,
}

impl Mount {
    /// A tmpfs of this size. `None` where this process may not mount: fails where `CI` is set, as
    /// the test would silently be none.
    pub(crate) fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = format!("size={size},mode=700");
        let mounted = mount(&["-t", "tmpfs", "-o", &options, "railgun-test"], dir.path());
        match mounted {
            Ok(()) => Some(Self { dir }),
            Err(reason) => {
                crate::not_tested("a full disk", &format!("a tmpfs needs root: {reason}"));
                None
            }
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Writes a file that leaves not a byte of room.
    pub(crate) fn fill(&self) {
        let mut filler = File::create(self.dir.path().join("filler")).expect("a file");
        let page = [0x55; 4096];
        let full = std::iter::repeat_with(|| filler.write_all(&page)).find_map(Result::err);
        let full = full.expect("it has a size").kind();
        assert_eq!(full, std::io::ErrorKind::StorageFull);
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        mount(&["-o", &options], self.dir.path()).expect("mounted by this process");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: what still has a file open there must not keep the mount.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.dir.path().display());
        }
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(at).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("cannot run mount: {error}")),
    }
}
