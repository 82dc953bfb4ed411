//! What the logs on the disk would hold after a power failure now.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use railgun_core::command::{Command, CommandBody};
use railgun_log::{CrashPlan, Disk, LogWriter, ShardLog, SimDisk};

use super::super::history::{History, MessageId};
use super::super::node::SimNode;

/// Bytes of entries decoded at a time.
const READ_BYTES: usize = 4 << 20;
/// Raft's kind of an entry that carries a command.
const COMMAND: u8 = 1;

/// Every message in an entry that is durable.
pub(super) fn messages(node: &SimNode, history: &History) -> Vec<MessageId> {
    let disk = node.disk.fork();
    disk.set_capacity(u64::MAX);
    disk.crash(&CrashPlan::LoseAll);
    let mut found = Vec::new();
    with_logs(node, &disk, |log| match log {
        Ok(log) => read_all(&log, history, &mut found),
        Err(error) => history.violated("torn/rot", format_args!("a durable log: {error}")),
    });
    found
}

/// Opens the logs of all data shards on a copy of the disk.
pub(super) fn with_logs(
    node: &SimNode,
    disk: &SimDisk,
    mut each: impl FnMut(Result<ShardLog, railgun_log::OpenError>),
) {
    let mut next = 0u128;
    let uuids = move || {
        next += 1;
        next.to_le_bytes()
    };
    let writer = LogWriter::new(Arc::new(disk.clone()), Box::new(uuids));
    let mut writer = writer.expect("nobody else has this copy of the disk");
    for dir in node.log_dirs() {
        if disk.list(&dir).is_ok() {
            each(writer.opener().open_shard(&dir, node.log_options()).map(|(log, _)| log));
            writer.step(Duration::ZERO);
        }
    }
}

fn read_all(log: &ShardLog, history: &History, found: &mut Vec<MessageId>) {
    let Some(mut next) = log.first_file_index() else { return };
    loop {
        let entries = match log.read(next, u64::MAX, READ_BYTES) {
            Ok(entries) if entries.is_empty() => return,
            Ok(entries) => entries,
            Err(error) => {
                return history.violated("torn/rot", format_args!("a durable entry: {error}"));
            }
        };
        for entry in entries {
            next = entry.id.index + 1;
            if entry.kind != COMMAND {
                continue;
            }
            match Command::decode(entry.payload.parts()) {
                Ok(Command { body: CommandBody::Append(items), .. }) => {
                    for item in items {
                        for record in item.batch.records() {
                            let value = record.content().map_or(&[][..], |content| content.value);
                            match history.identify(item.stream, value) {
                                Some(id) => found.push(id),
                                None => {
                                    let index = entry.id.index;
                                    let how = format_args!("entry {index} holds unknown bytes");
                                    history.violated("I9", how);
                                }
                            }
                        }
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    let how = format_args!("entry {} is no command: {error}", entry.id.index);
                    history.violated("torn/rot", how);
                }
            }
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
