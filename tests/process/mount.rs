//! File systems of their own, in memory: one of a size, and one on a device that can be broken.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};
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

/// Bytes of a block of the device's file system.
const BLOCK_BYTES: u64 = 4096;
const DEVICE_BYTES: u64 = 96 << 20;

/// An ext4 file system on a device that is a file of a tmpfs. Mounted until dropped.
#[derive(Debug)]
pub(crate) struct Device {
    // Before what it lies on.
    files: Mount,
    image: PathBuf,
    memory: Mount,
}

impl Device {
    /// In good health. `None` where this process may not mount, as for [`Mount::new`].
    pub(crate) fn new() -> Option<Self> {
        let memory = Mount::new("100m")?;
        let image = memory.path().join("device");
        match Self::mount(&image) {
            Ok(files) => Some(Self { files, image, memory }),
            Err(reason) => {
                crate::not_tested("a device that loses writes", &reason);
                None
            }
        }
    }

    fn mount(image: &Path) -> Result<Mount, String> {
        let file = File::create(image).expect("a file");
        file.set_len(DEVICE_BYTES).expect("in memory");
        let block = BLOCK_BYTES.to_string();
        let made = ["-q", "-F", "-b", &block, "-E", "nodiscard"];
        run(Command::new("mkfs.ext4").args(made).arg(image))?;
        // Whatever is written has its place, until it is taken away.
        fallocate(&file, FallocateFlags::empty(), 0, DEVICE_BYTES).expect("room in memory");
        let dir = tempfile::tempdir().expect("a temporary directory");
        run(Command::new("mount").args(["-o", "loop,nodiscard"]).arg(image).arg(dir.path()))?;
        Ok(Mount { dir })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.files.path()
    }

    /// From now on nothing becomes durable that the file system has to note in its journal: there is
    /// no memory left under that.
    pub(crate) fn lose_journal(&self) {
        let blocks = Command::new("debugfs").args(["-R", "blocks <8>"]).arg(&self.image).output();
        let blocks = String::from_utf8(blocks.expect("debugfs runs").stdout).expect("text");
        let image = File::options().write(true).open(&self.image).expect("the device");
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let mut punched = 0;
        for block in blocks.split_ascii_whitespace() {
            let block: u64 = block.parse().expect("the number of a block");
            fallocate(&image, hole, block * BLOCK_BYTES, BLOCK_BYTES).expect("a hole");
            punched += 1;
        }
        assert!(punched > 0, "the file system has no journal");
        self.memory.fill();
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    run(Command::new("mount").args(arguments).arg(at))
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("cannot run {}: {error}", command.get_program().display())),
    }
}
