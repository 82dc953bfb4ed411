//! Names of simulated files: what is durable, what is current, and the operations between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub(super) enum NameOp {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) -> io::Result<()> {
        match self {
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to) => {
                let inode = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
                names.insert(to.clone(), inode);
            }
            Self::Unlink(path) => {
                names.remove(path).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(())
    }

    fn dir(&self) -> &Path {
        let (Self::Link(path, _) | Self::Rename(path, _) | Self::Unlink(path)) = self;
        path.parent().unwrap_or(Path::new(""))
    }
}

/// Renames stay inside one directory; directories are durable at once (the log makes them once, before
/// anything depends on them).
#[derive(Clone, Debug, Default)]
pub(super) struct Namespace {
    durable: BTreeMap<PathBuf, usize>,
    current: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    pub(super) pending: Vec<NameOp>,
}

impl Namespace {
    pub(super) fn make_dir(&mut self, dir: &Path) {
        self.dirs.extend(dir.ancestors().map(Path::to_owned));
    }

    pub(super) fn lookup(&self, path: &Path) -> Option<usize> {
        self.current.get(path).copied()
    }

    /// Files that have a name now.
    pub(super) fn inodes(&self) -> BTreeSet<usize> {
        self.current.values().copied().collect()
    }

    pub(super) fn record(&mut self, op: NameOp) -> io::Result<()> {
        let dir = op.dir();
        if !dir.as_os_str().is_empty() && !self.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        op.apply(&mut self.current)?;
        self.pending.push(op);
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !dir.as_os_str().is_empty() && !self.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.current.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    pub(super) fn sync(&mut self, dir: &Path) {
        let Self { durable, pending, .. } = self;
        pending.retain(|op| {
            // What applied to the current names applies to the durable ones, which have the same past in
            // this directory.
            op.dir() != dir || op.apply(durable).is_err()
        });
    }

    /// Keeps the first `kept` operations that were not synced.
    pub(super) fn crash(&mut self, kept: usize) {
        for op in self.pending.drain(..).take(kept) {
            // As in `sync`: what applied once applies again, in the same order.
            let _ = op.apply(&mut self.durable);
        }
        self.current.clone_from(&self.durable);
    }
}
