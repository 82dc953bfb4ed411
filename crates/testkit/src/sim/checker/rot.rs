//! Whether recovery tells rot from a torn write: damages a copy of the disk where everything is known
//! to be durable, and looks at what it makes of that (DESIGN §3 "Recovery").

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use railgun_log::{CrashPlan, Disk, LogOptions, LogWriter, OpenError, SimDisk, Step};

use super::super::history::History;
use super::super::node::SimNode;
use super::super::options::Bug;
use super::super::random::Random;

/// A byte of a log that can be damaged.
#[derive(Debug)]
pub(in super::super) struct Damage {
    pub(in super::super) path: PathBuf,
    pub(in super::super) position: usize,
    pub(in super::super) mask: u8,
}

/// Flips a byte of one log, which is marked as synced before; its entries must all be there, or the
/// log must refuse to open.
pub(super) fn check(node: &SimNode, history: &History, random: &mut Random) {
    let disk = copy(node);
    let dirs = node.log_dirs();
    let dir = random.pick(&dirs);
    let Ok((last, _)) = open(&disk, dir, node.log_options(), true) else { return };
    let Some(Damage { path, position, mask }) = draw(&disk, dir, random) else { return };
    disk.flip(&path, position, mask);
    let mut options = node.log_options();
    options.builtin_bug = node.bug.and_then(Bug::of_log);
    if let Ok((found, cut)) = open(&disk, dir, options, false)
        && found < last
    {
        let how = format_args!(
            "byte {position} of {} was damaged after it was durable; recovery cut the log from \
             entry {last:?} to {found:?} ({cut})",
            path.display()
        );
        history.violated("torn/rot", how);
    }
}

/// Damage to the disk as it is that makes a log refuse to open.
pub(super) fn find(node: &SimNode, random: &mut Random) -> Option<Damage> {
    let dirs = node.log_dirs();
    let dir = random.pick(&dirs);
    let disk = copy(node);
    let damage = draw(&disk, dir, random)?;
    disk.flip(&damage.path, damage.position, damage.mask);
    let refused = open(&disk, dir, node.log_options(), false);
    matches!(refused, Err(Some(OpenError::Rot { .. }))).then_some(damage)
}

/// Attempts to find damage that a log cannot be opened with.
const DRAWN_MAX: usize = 10;

/// Harm to one file of a node of several, which has another replica's help. To a log only such as tells
/// itself from a torn write: in what was not yet marked as synced it cannot.
#[derive(Debug)]
pub(in super::super) enum Harm {
    Flip(Damage),
    /// Behind its first bytes.
    Cut(PathBuf, usize),
}

impl Harm {
    pub(in super::super) fn strike(&self, disk: &SimDisk) {
        match self {
            Self::Flip(Damage { path, position, mask }) => disk.flip(path, *position, *mask),
            Self::Cut(path, bytes) => disk.cut(path, *bytes),
        };
    }
}

/// Harm to the disk as it is, which must be durable.
pub(super) fn find_harm(node: &SimNode, random: &mut Random) -> Option<Harm> {
    let disk = copy(node);
    let dirs = node.newest_log_dirs(&disk);
    let is_checkpoint = random.percent(40);
    for _ in 0..DRAWN_MAX {
        let log = random.pick(&dirs).clone();
        let dir = if is_checkpoint { log.with_file_name("checkpoints") } else { log.clone() };
        let Some(harm) = draw_harm(&disk, &dir, random) else { continue };
        let harmed = disk.fork();
        harm.strike(&harmed);
        let opened = open(&harmed, &log, node.log_options(), false);
        let is_told =
            matches!(opened, Err(Some(OpenError::Rot { .. } | OpenError::MissingFile { .. })));
        if is_checkpoint || is_told {
            return Some(harm);
        }
    }
    None
}

fn draw_harm(disk: &SimDisk, dir: &Path, random: &mut Random) -> Option<Harm> {
    let names = disk.list(dir).ok()?;
    let is_read = |name: &&String| [".log", ".ckpt", ".snap"].iter().any(|end| name.ends_with(end));
    let names: Vec<_> = names.iter().filter(is_read).collect();
    if names.is_empty() {
        return None;
    }
    let path = dir.join(random.pick(&names));
    let end = disk.contents(&path)?.iter().rposition(|byte| *byte != 0)?;
    let position = random.within(0..end as u64 + 1) as usize;
    Some(match random.percent(30) {
        true => Harm::Cut(path, position),
        false => Harm::Flip(Damage { path, position, mask: 1 << random.within(0..8) }),
    })
}

/// What is durable, on a disk with room.
fn copy(node: &SimNode) -> SimDisk {
    let disk = node.disk.fork();
    disk.set_capacity(u64::MAX);
    disk.crash(&CrashPlan::LoseAll);
    disk
}

fn draw(disk: &SimDisk, dir: &Path, random: &mut Random) -> Option<Damage> {
    let names = disk.list(dir).ok()?;
    let logs: Vec<_> = names.iter().filter(|name| name.ends_with(".log")).collect();
    if logs.is_empty() {
        return None;
    }
    let path = dir.join(random.pick(&logs));
    let end = disk.contents(&path)?.iter().rposition(|byte| *byte != 0)?;
    let position = random.within(0..end as u64 + 1) as usize;
    Some(Damage { path, position, mask: 1 << random.within(0..8) })
}

/// The last entry of a log as recovery finds it, and its report. An error without a cause: there is no
/// log, or it could not be marked.
fn open(
    disk: &SimDisk,
    dir: &Path,
    options: LogOptions,
    mark: bool,
) -> Result<(Option<u64>, String), Option<OpenError>> {
    let mut next = 1u128 << 64;
    let uuids = move || {
        next += 1;
        next.to_le_bytes()
    };
    let writer = LogWriter::new(Arc::new(disk.clone()), Box::new(uuids));
    let mut writer = writer.expect("nobody else has this copy of the disk");
    disk.list(dir).map_err(|_| None)?;
    let (log, report) = writer.opener().open_shard(dir, options).map_err(Some)?;
    if mark {
        let (done, mut marked) = tokio::sync::oneshot::channel();
        log.sync_mark(Box::new(move |result| drop(done.send(result)))).map_err(|_| None)?;
        while writer.step(Duration::ZERO) == Step::Progressed {}
        if !matches!(marked.try_recv(), Ok(Ok(()))) {
            return Err(None);
        }
    }
    Ok((log.state().last.map(|last| last.index), format!("{report:?}")))
}
