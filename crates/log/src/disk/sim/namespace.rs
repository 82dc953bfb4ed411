//! Names of simulated files: what is durable, what is current, and the operations between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub(super) enum NameOp {
    MakeDir(PathBuf),
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl NameOp {
    /// The directory whose entries it changes.
    fn dir(&self) -> &Path {
        let (Self::MakeDir(path)
        | Self::Link(path, _)
        | Self::Rename(path, _)
        | Self::Unlink(path)) = self;
        parent(path)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Names of files and directories. The root needs none.
#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
}

impl Names {
    fn apply(&mut self, op: &NameOp) -> io::Result<()> {
        match op {
            NameOp::MakeDir(dir) => {
                self.dirs.insert(dir.clone());
            }
            NameOp::Link(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            NameOp::Rename(from, to) => {
                let inode = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
                self.files.insert(to.clone(), inode);
            }
            NameOp::Unlink(path) => {
                self.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(())
    }

    fn has_dir(&self, dir: &Path) -> bool {
        dir.as_os_str().is_empty() || self.dirs.contains(dir)
    }

    /// Forgets what lies in directories that are not there.
    fn drop_unreachable(&mut self) {
        // Parents come before what is in them.
        let mut reachable = Self::default();
        for dir in std::mem::take(&mut self.dirs) {
            if reachable.has_dir(parent(&dir)) {
                reachable.dirs.insert(dir);
            }
        }
        self.files.retain(|path, _| reachable.has_dir(parent(path)));
        self.dirs = reachable.dirs;
    }
}

/// Renames stay inside one directory. A directory is durable when its parent is synced, whatever is
/// synced in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespace {
    durable: Names,
    current: Names,
    pub(super) pending: Vec<NameOp>,
}

impl Namespace {
    /// Makes a directory and its parents.
    pub(super) fn make_dir(&mut self, dir: &Path) -> io::Result<()> {
        let missing = dir.ancestors().filter(|dir| !self.current.has_dir(dir));
        let missing: Vec<_> = missing.map(Path::to_owned).collect();
        missing.into_iter().rev().try_for_each(|dir| self.record(NameOp::MakeDir(dir)))
    }

    pub(super) fn lookup(&self, path: &Path) -> Option<usize> {
        self.current.files.get(path).copied()
    }

    /// Files that have a name now.
    pub(super) fn inodes(&self) -> BTreeSet<usize> {
        self.current.files.values().copied().collect()
    }

    pub(super) fn record(&mut self, op: NameOp) -> io::Result<()> {
        if !self.current.has_dir(op.dir()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.current.apply(&op)?;
        self.pending.push(op);
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.current.has_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.current.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    pub(super) fn sync(&mut self, dir: &Path) {
        let Self { durable, pending, .. } = self;
        pending.retain(|op| {
            // What applied to the current names applies to the durable ones, which have the same past in
            // this directory.
            op.dir() != dir || durable.apply(op).is_err()
        });
    }

    /// Forgets what lies below a directory, and the directory.
    pub(super) fn lose(&mut self, dir: &Path) {
        self.pending.retain(|op| !op.dir().starts_with(dir));
        for names in [&mut self.durable, &mut self.current] {
            names.files.retain(|path, _| !path.starts_with(dir));
            names.dirs.retain(|path| !path.starts_with(dir));
        }
    }

    /// Keeps the first `kept` operations that were not synced.
    pub(super) fn crash(&mut self, kept: usize) {
        for op in self.pending.drain(..).take(kept) {
            // As in `sync`: what applied once applies again, in the same order.
            let _ = self.durable.apply(&op);
        }
        self.durable.drop_unreachable();
        self.current.clone_from(&self.durable);
    }
}
