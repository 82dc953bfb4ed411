//! Whether recovery tells rot from a torn write: harms a copy of the disk where everything is known to be
//! durable, and looks at what it makes of that (DESIGN §3 "Recovery").

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use railgun_log::{
    CrashPlan, Disk, EntryId, LogOptions, LogWriter, OpenError, ReadError, ShardLog, SimDisk, Step,
    Vote,
};
use railgun_types::ShardId;

use super::super::history::History;
use super::super::node::SimNode;
use super::super::options::Bug;
use super::super::random::Random;

/// Bytes of entries read at a time.
const READ_BYTES: usize = 4 << 20;
/// Attempts to find harm that a log cannot be opened with.
const DRAWN_MAX: usize = 10;

/// What may befall a file while nobody looks.
#[derive(Clone, Debug)]
pub(in super::super) enum Harm {
    /// One byte is another, by exclusive or with `mask`: `becomes`. In what was not yet marked as synced a
    /// log cannot tell that from a torn write.
    Flip { path: PathBuf, position: usize, mask: u8, becomes: u8 },
    /// Behind its first bytes. A log always tells.
    Cut { path: PathBuf, bytes: usize },
    /// It is not there. A log that has others tells, unless a crash came just when it was begun.
    Gone { path: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flip,
    Cut,
    Gone,
}

impl Kind {
    fn draw(random: &mut Random) -> Self {
        match random.within(0..5) {
            0 | 1 => Self::Flip,
            2 | 3 => Self::Cut,
            _ => Self::Gone,
        }
    }
}

impl Harm {
    pub(in super::super) fn path(&self) -> &Path {
        let (Self::Flip { path, .. } | Self::Cut { path, .. } | Self::Gone { path }) = self;
        path
    }

    /// Whose file it is in: `shards/<shard>`, or `shards/<shard>.<incarnation>`.
    pub(in super::super) fn shard(&self) -> ShardId {
        let home = self.path().iter().nth(1).and_then(|home| home.to_str());
        let shard = home.and_then(|home| home.split('.').next()?.parse().ok());
        ShardId(shard.expect("harm is done to what replicas have"))
    }

    pub(in super::super) fn strike(&self, disk: &SimDisk) {
        match self {
            Self::Flip { path, position, mask, .. } => drop(disk.flip(path, *position, *mask)),
            Self::Cut { path, bytes } => drop(disk.cut(path, *bytes)),
            Self::Gone { path } => disk.lose(path),
        }
    }

    /// Whether a log of these directories, or a checkpoint beside it, still has a byte that was flipped:
    /// nobody has read it yet, or who did goes on without.
    pub(in super::super) fn lies_in(&self, logs: &[PathBuf], disk: &SimDisk) -> bool {
        let Self::Flip { path, position, becomes, .. } = self else { return false };
        let is_in = |dir: &Path| path.parent() == Some(dir);
        logs.iter().any(|log| is_in(log) || is_in(&log.with_file_name("checkpoints")))
            && disk.contents(path).is_some_and(|now| now.get(*position) == Some(becomes))
    }

    /// Harm to the written part of one file of the directory.
    fn draw(disk: &SimDisk, dir: &Path, kind: Kind, random: &mut Random) -> Option<Self> {
        let names = disk.list(dir).ok()?;
        let is_read =
            |name: &&String| [".log", ".ckpt", ".snap"].iter().any(|end| name.ends_with(end));
        let names: Vec<_> = names.iter().filter(is_read).collect();
        if names.is_empty() {
            return None;
        }
        let path = dir.join(random.pick(&names));
        let content = disk.contents(&path)?;
        let end = content.iter().rposition(|byte| *byte != 0)?;
        let position = random.within(0..end as u64 + 1) as usize;
        Some(match kind {
            Kind::Flip => {
                let mask = 1 << random.within(0..8);
                Self::Flip { path, position, mask, becomes: content[position] ^ mask }
            }
            Kind::Cut => Self::Cut { path, bytes: position },
            Kind::Gone => Self::Gone { path },
        })
    }
}

/// Harms one log: what it had must all be there, or it must refuse to open. Before bytes are flipped, all of
/// it is marked as synced.
pub(super) fn check(node: &SimNode, history: &History, random: &mut Random) {
    let disk = copy(node);
    let dirs = node.newest_log_dirs(&disk);
    let dir = random.pick(&dirs);
    let kind = Kind::draw(random);
    let is_flip = kind == Kind::Flip;
    let Ok(before) = open(&disk, dir, node.log_options(), is_flip) else { return };
    let Some(harm) = Harm::draw(&disk, dir, kind, random) else { return };
    if kind == Kind::Gone && before.files == 1 {
        return;
    }
    harm.strike(&disk);
    let mut options = node.log_options();
    options.builtin_bug = node.bug.and_then(Bug::of_log);
    let Ok(after) = open(&disk, dir, options, false) else { return };
    // Flipped bytes of older files are told when they are read.
    let read = if is_flip { Ok(()) } else { read_all(&after.log) };
    let is_less = after.last < before.last || after.vote != before.vote;
    if is_less || read.is_err() {
        let how = format_args!(
            "{harm:?} came over what was durable; recovery went from {:?} and entry {:?} back to {:?} and \
             entry {:?} ({}), of which is read: {read:?}",
            before.vote, before.last, after.vote, after.last, after.report
        );
        history.violated("torn/rot", how);
    }
}

/// Harm to the disk as it is that makes a log refuse to open.
pub(super) fn find(node: &SimNode, random: &mut Random) -> Option<Harm> {
    let dirs = node.log_dirs();
    let dir = random.pick(&dirs);
    let disk = copy(node);
    let kind = if random.percent(50) { Kind::Flip } else { Kind::Cut };
    let harm = Harm::draw(&disk, dir, kind, random)?;
    harm.strike(&disk);
    let refused = open(&disk, dir, node.log_options(), false);
    matches!(refused, Err(Some(OpenError::Rot { .. }))).then_some(harm)
}

/// Harm to one file of a node of several, which has another replica's help: to the disk as it is, which
/// must be durable. A log is to tell it from a torn write.
pub(super) fn find_harm(node: &SimNode, random: &mut Random) -> Option<Harm> {
    find_some(node, random, Kind::draw)
}

/// The same of a node that runs: a byte that is another. What is durable now stays so.
pub(super) fn find_flip(node: &SimNode, random: &mut Random) -> Option<Harm> {
    find_some(node, random, |_| Kind::Flip)
}

fn find_some(
    node: &SimNode,
    random: &mut Random,
    mut draw: impl FnMut(&mut Random) -> Kind,
) -> Option<Harm> {
    let disk = copy(node);
    let dirs = node.newest_log_dirs(&disk);
    let is_checkpoint = random.percent(40);
    for _ in 0..DRAWN_MAX {
        let log = random.pick(&dirs).clone();
        let dir = if is_checkpoint { log.with_file_name("checkpoints") } else { log.clone() };
        let kind = match draw(random) {
            Kind::Gone if is_checkpoint => Kind::Cut,
            kind => kind,
        };
        let Some(harm) = Harm::draw(&disk, &dir, kind, random) else { continue };
        if is_checkpoint || kind == Kind::Cut {
            return Some(harm);
        }
        let harmed = disk.fork();
        harm.strike(&harmed);
        let is_told = match open(&harmed, &log, node.log_options(), false) {
            Ok(opened) => read_all(&opened.log).is_err(),
            Err(error) => {
                matches!(error, Some(OpenError::Rot { .. } | OpenError::MissingFile { .. }))
            }
        };
        if is_told {
            return Some(harm);
        }
    }
    None
}

/// What is durable, on a disk with room.
fn copy(node: &SimNode) -> SimDisk {
    let disk = node.disk.fork();
    disk.set_capacity(u64::MAX);
    disk.crash(&CrashPlan::LoseAll);
    disk
}

/// A log as recovery finds it.
struct Opened {
    vote: Option<Vote>,
    last: Option<EntryId>,
    files: usize,
    report: String,
    log: ShardLog,
}

/// Opens a log. An error without a cause: there is none, or it could not be marked.
fn open(
    disk: &SimDisk,
    dir: &Path,
    options: LogOptions,
    mark: bool,
) -> Result<Opened, Option<OpenError>> {
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
    let state = log.state();
    let (files, report) = (log.files().len(), format!("{report:?}"));
    Ok(Opened { vote: state.vote, last: state.last, files, report, log })
}

fn read_all(log: &ShardLog) -> Result<(), ReadError> {
    let Some(mut next) = log.first_file_index() else { return Ok(()) };
    while let Some(entry) = log.read(next, u64::MAX, READ_BYTES)?.last() {
        next = entry.id.index + 1;
    }
    Ok(())
}
