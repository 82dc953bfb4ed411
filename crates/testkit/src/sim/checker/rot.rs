//! Whether recovery tells rot from a torn write: damages a copy of the disk where everything is known
//! to be durable, and looks at what it makes of that (DESIGN §3 "Recovery").

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use railgun_log::{CrashPlan, Disk, LogOptions, LogWriter, SimDisk, Step};

use super::super::history::History;
use super::super::node::SimNode;
use super::super::options::Bug;
use super::super::random::Random;

/// Flips a byte of one log, which is marked as synced before; its entries must all be there, or the
/// log must refuse to open.
pub(super) fn check(node: &SimNode, history: &History, random: &mut Random) {
    let disk = node.disk.fork();
    disk.set_capacity(u64::MAX);
    disk.crash(&CrashPlan::LoseAll);
    let dirs = node.log_dirs();
    let dir = random.pick(&dirs);
    let Some((last, _)) = open(&disk, dir, node.log_options(), true) else { return };
    let names = disk.list(dir).unwrap_or_default();
    let logs: Vec<_> = names.iter().filter(|name| name.ends_with(".log")).collect();
    if logs.is_empty() {
        return;
    }
    let path = dir.join(random.pick(&logs));
    let content = disk.contents(&path).unwrap_or_default();
    let Some(end) = content.iter().rposition(|byte| *byte != 0) else { return };
    let position = random.within(0..end as u64 + 1) as usize;
    disk.flip(&path, position, 1 << random.within(0..8));
    let mut options = node.log_options();
    options.builtin_bug = node.bug.and_then(Bug::of_log);
    if let Some((found, cut)) = open(&disk, dir, options, false)
        && found < last
    {
        let how = format_args!(
            "byte {position} of {} was damaged after it was durable; recovery cut the log from \
             entry {last:?} to {found:?} ({cut}; files {logs:?})",
            path.display()
        );
        history.violated("torn/rot", how);
    }
}

/// The last entry of a log as recovery finds it, and its report; `None` if it refuses the log.
fn open(
    disk: &SimDisk,
    dir: &Path,
    options: LogOptions,
    mark: bool,
) -> Option<(Option<u64>, String)> {
    let mut next = 1u128 << 64;
    let uuids = move || {
        next += 1;
        next.to_le_bytes()
    };
    let writer = LogWriter::new(Arc::new(disk.clone()), Box::new(uuids));
    let mut writer = writer.expect("nobody else has this copy of the disk");
    disk.list(dir).ok()?;
    let (log, report) = writer.opener().open_shard(dir, options).ok()?;
    if mark {
        let (done, mut marked) = tokio::sync::oneshot::channel();
        log.sync_mark(Box::new(move |result| drop(done.send(result)))).ok()?;
        while writer.step(Duration::ZERO) == Step::Progressed {}
        marked.try_recv().ok()?.ok()?;
    }
    Some((log.state().last.map(|last| last.index), format!("{report:?}")))
}
