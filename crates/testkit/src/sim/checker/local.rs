//! What the logs on the disk would hold after a power failure now.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use railgun_core::command::{Command, CommandBody, SegmentCommand, UploadAttempt};
use railgun_core::manifest::ObjectId;
use railgun_core::shard::Attempt;
use railgun_log::{CrashPlan, Disk, Entry, LogWriter, ReadError, ShardLog, SimDisk, Vote};
use railgun_types::{EntryId, ReplicaId, ShardId};

use super::super::history::{History, MessageId};
use super::super::node::SimNode;

/// Bytes of entries decoded at a time.
const READ_BYTES: usize = 4 << 20;
/// Raft's kind of an entry that carries a command.
const COMMAND: u8 = 1;

/// What one shard's log says, in its order.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Entries that carry records.
    pub(super) appends: Vec<Appends>,
    /// Every entry, by its index: the term, if it is a seal.
    pub(super) seals: BTreeMap<u64, Option<u64>>,
    /// The upload of an object that was named last.
    pub(super) attempts: BTreeMap<ObjectId, Attempt>,
    /// Commits by the upload that was the last then, by their entries.
    pub(super) commits: Vec<(u64, ObjectId, Attempt)>,
    /// The first entry there may be; `None` without a file.
    pub(super) first: Option<u64>,
    /// Term and index of the last entry.
    pub(super) last: Option<(u64, u64)>,
    /// The last entry that Raft has given up.
    pub(super) purged: Option<u64>,
    /// Bytes above what Raft has given up.
    pub(super) unpurged_bytes: u64,
}

/// An entry that carries records.
#[derive(Debug, Default)]
pub(super) struct Appends {
    pub(super) index: u64,
    pub(super) bytes: u64,
    pub(super) messages: Vec<MessageId>,
}

/// What every log says that is durable.
pub(super) fn told(node: &SimNode, history: &History) -> BTreeMap<ShardId, Told> {
    let disk = durable(node);
    let mut found = BTreeMap::new();
    with_logs(node, &disk, |shard, log| match log {
        Ok(log) => drop(found.insert(shard, read_all(&log, history))),
        Err(error) => history.violated("torn/rot", format_args!("a durable log: {error}")),
    });
    found
}

/// The same of a disk that was lost or damaged: what cannot be read of it, it does not have.
pub(super) fn told_by_hurt(node: &SimNode, history: &History) -> BTreeMap<ShardId, Told> {
    let disk = durable(node);
    let mut found = BTreeMap::new();
    with_logs(node, &disk, |shard, log| {
        if let Ok(log) = log {
            found.insert(shard, read_while_whole(&log, history).0);
        }
    });
    found
}

/// Opens every log on a copy of the disk.
fn with_logs(
    node: &SimNode,
    disk: &SimDisk,
    mut each: impl FnMut(ShardId, Result<ShardLog, railgun_log::OpenError>),
) {
    let mut writer = writer_of(disk);
    for (shard, dir) in (0..).map(ShardId).zip(node.newest_log_dirs(disk)) {
        if disk.list(&dir).is_ok() {
            let opened = writer.opener().open_shard(&dir, node.log_options());
            each(shard, opened.map(|(log, _)| log));
            writer.step(Duration::ZERO);
        }
    }
}

fn writer_of(disk: &SimDisk) -> LogWriter {
    let mut next = 0u128;
    let uuids = move || {
        next += 1;
        next.to_le_bytes()
    };
    let writer = LogWriter::new(Arc::new(disk.clone()), Box::new(uuids));
    writer.expect("nobody else has this copy of the disk")
}

/// How far a replica has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) vote: Option<Vote>,
    pub(super) last: Option<EntryId>,
}

/// What the files of these replicas say that is durable. One that cannot be opened is left out: who looks
/// at all logs tells.
pub(super) fn marks(node: &SimNode, replicas: &[(ShardId, ReplicaId)]) -> BTreeMap<ShardId, Mark> {
    let disk = durable(node);
    let mut writer = writer_of(&disk);
    let mut marks = BTreeMap::new();
    for &(shard, replica) in replicas {
        let home = SimNode::replica_dir(shard, replica.incarnation());
        let opened = writer.opener().open_shard(&home.join("log"), node.log_options());
        if let Ok((log, _)) = opened {
            let state = log.state();
            let last = state.last.max(snapshot(&disk, &home));
            marks.insert(shard, Mark { vote: state.vote, last });
        }
        writer.step(Duration::ZERO);
    }
    marks
}

/// The last entry in the newest snapshot: an installed one counts for what the log has not.
fn snapshot(disk: &SimDisk, home: &Path) -> Option<EntryId> {
    let id_of = |name: String| {
        let (index, term) = name.strip_suffix(".snap")?.strip_prefix('i')?.split_once("-t")?;
        Some(EntryId { term: term.parse().ok()?, index: index.parse().ok()? })
    };
    disk.list(&home.join("checkpoints")).unwrap_or_default().into_iter().filter_map(id_of).max()
}

/// What a power failure would leave now, on a disk with room.
fn durable(node: &SimNode) -> SimDisk {
    let disk = node.disk.fork();
    disk.set_capacity(u64::MAX);
    disk.crash(&CrashPlan::LoseAll);
    disk
}

fn read_all(log: &ShardLog, history: &History) -> Told {
    let (told, error) = read_while_whole(log, history);
    if let Some(error) = error {
        history.violated("torn/rot", format_args!("a durable entry: {error}"));
    }
    told
}

/// Up to an entry that cannot be read.
fn read_while_whole(log: &ShardLog, history: &History) -> (Told, Option<ReadError>) {
    let mut told = Told {
        purged: log.state().last_purged.map(|purged| purged.index),
        unpurged_bytes: log.unpurged_bytes(),
        first: log.first_file_index(),
        last: log.state().last.map(|last| (last.term, last.index)),
        ..Told::default()
    };
    let Some(mut next) = told.first else { return (told, None) };
    loop {
        let entries = match log.read(next, u64::MAX, READ_BYTES) {
            Ok(entries) if entries.is_empty() => return (told, None),
            Ok(entries) => entries,
            Err(error) => return (told, Some(error)),
        };
        for entry in entries {
            next = entry.id.index + 1;
            read(&entry, history, &mut told);
        }
    }
}

fn read(entry: &Entry, history: &History, told: &mut Told) {
    let index = entry.id.index;
    told.seals.insert(index, None);
    if entry.kind != COMMAND {
        return;
    }
    match Command::decode(entry.payload.parts()).map(|command| command.body) {
        Ok(CommandBody::Append(items)) => {
            let bytes = entry.payload.len() as u64;
            let mut appends = Appends { index, bytes, messages: Vec::new() };
            let are_letters = items.iter().all(|item| item.dead_letter.is_some());
            for item in items {
                for record in item.batch.records() {
                    let said = record.into();
                    match history.identify(item.stream, &said) {
                        Some(id) => appends.messages.push(id),
                        None if item.dead_letter.is_some() && history.is_letter(&said) => {}
                        None => {
                            let how = format_args!("entry {index} holds unknown bytes");
                            history.violated("I9", how);
                        }
                    }
                }
            }
            // Dead letters are let in where publishers are not (DL-5).
            if !are_letters {
                told.appends.push(appends);
            }
        }
        Ok(CommandBody::Segment(SegmentCommand::Seal(_))) => {
            told.seals.insert(index, Some(entry.id.term));
        }
        Ok(CommandBody::Segment(SegmentCommand::Commit(commit))) => {
            let attempt = Attempt { index: commit.attempt, hash: commit.hash };
            if told.attempts.get(&commit.object) == Some(&attempt) {
                told.commits.push((index, commit.object, attempt));
            }
        }
        Ok(CommandBody::Segment(SegmentCommand::Attempt(UploadAttempt { object, hash }))) => {
            let attempt = Attempt { index, hash };
            let named = told.attempts.entry(object).or_insert(attempt);
            if named.hash != hash {
                *named = attempt;
            }
        }
        Ok(_) => {}
        Err(error) => {
            history.violated("torn/rot", format_args!("entry {index} is no command: {error}"));
        }
    }
}

/// Bytes in the files of a log, without what is only preallocated.
pub(super) fn log_bytes(node: &SimNode, dir: &Path) -> u64 {
    let names = node.disk.fork().list(dir).unwrap_or_default();
    let used = |name: String| {
        let content = node.disk.contents(dir.join(name))?;
        content.iter().rposition(|byte| *byte != 0).map(|last| last as u64 + 1)
    };
    names.into_iter().filter(|name| name.ends_with(".log")).filter_map(used).sum()
}
