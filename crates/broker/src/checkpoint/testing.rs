//! A log without Raft and a folder of checkpoints, on one simulated disk.

use std::sync::Arc;

use bytes::Bytes;
use railgun_log::{LogOptions, LogWriter, ShardLog, SimDisk};

use super::CheckpointStore;

/// The writer is stepped by whoever needs it to go on. Any bytes are a checkpoint.
pub(crate) fn log_and_checkpoints() -> (LogWriter, ShardLog, Arc<CheckpointStore>) {
    let disk: Arc<SimDisk> = Arc::default();
    let mut drawn = 0;
    let uuids = move || {
        drawn += 1;
        [drawn; 16]
    };
    let writer = LogWriter::new(Arc::clone(&disk) as _, Box::new(uuids)).expect("a disk");
    let opened = writer.opener().open_shard("log".as_ref(), LogOptions::default());
    let (log, _) = opened.expect("a log");
    let check = Arc::new(|bytes: &[u8]| Ok(Bytes::copy_from_slice(bytes)));
    let store = CheckpointStore::open(disk, "checkpoints".into(), u64::MAX, check);
    (writer, log, Arc::new(store.expect("opened")))
}
