//! A writer that is stepped by hand, with one log.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;

use crate::{
    Entry, EntryId, Flushed, LogError, LogOptions, LogWriter, OpenError, Payload, RecoveryReport,
    ShardLog, SimDisk, SimDiskOptions, Step,
};

/// Directory of the one log.
pub(super) const DIR: &str = "shards/1/log";

/// Options that make small logs of many files.
pub(super) fn small() -> LogOptions {
    LogOptions { file_bytes: 4096, ring_bytes: 0, write_bytes_max: 1024, ..LogOptions::default() }
}

/// Pages small enough to have many in a batch.
pub(super) fn small_pages() -> SimDisk {
    SimDisk::new(SimDiskOptions { page_bytes: 512, ..SimDiskOptions::default() })
}

/// An entry whose content follows from its id, so that any reader can check it.
pub(super) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let id = EntryId::new(term, index);
    let seed = (term.wrapping_mul(31) ^ index.wrapping_mul(7)) as u8;
    let content: Vec<u8> = (0..bytes).map(|at| seed.wrapping_add(at as u8) | 1).collect();
    // Two parts, to go through the vectored path.
    let (head, rest) = content.split_at(bytes / 3);
    let parts = vec![Bytes::copy_from_slice(head), Bytes::copy_from_slice(rest)];
    Entry { id, kind: (index % 3) as u8, payload: Payload::new(parts) }
}

/// Results of callbacks, in the order in which they ran.
#[derive(Debug)]
pub(super) struct Callbacks {
    sender: SyncSender<(u64, Result<(), LogError>)>,
    receiver: Receiver<(u64, Result<(), LogError>)>,
}

impl Callbacks {
    pub(super) fn new() -> Self {
        let (sender, receiver) = sync_channel(1000);
        Self { sender, receiver }
    }

    /// A callback that reports under `tag`.
    pub(super) fn tagged(&self, tag: u64) -> Flushed {
        let sender = self.sender.clone();
        Box::new(move |outcome| sender.send((tag, outcome)).expect("the test holds the receiver"))
    }

    pub(super) fn take(&self) -> Vec<(u64, Result<(), LogError>)> {
        self.receiver.try_iter().collect()
    }

    /// Tags of callbacks, all of which succeeded.
    pub(super) fn take_ok(&self) -> Vec<u64> {
        let tag = |(tag, outcome): (u64, Result<(), LogError>)| {
            outcome.expect("callback reports success");
            tag
        };
        self.take().into_iter().map(tag).collect()
    }
}

/// One disk, one writer, one log.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) writer: LogWriter,
    pub(super) log: ShardLog,
    pub(super) report: RecoveryReport,
    pub(super) callbacks: Callbacks,
    pub(super) now: Duration,
}

impl Rig {
    pub(super) fn open(disk: &SimDisk, options: LogOptions) -> Result<Self, OpenError> {
        // Every life of a writer on this disk draws other uuids than those before.
        let mut next = u128::from(disk.operations()) << 64 | 0x5EED;
        let uuids = move || {
            next += 1;
            next.to_be_bytes()
        };
        let writer = LogWriter::new(Arc::new(disk.clone()), Box::new(uuids)).expect("disk is free");
        let (log, report) = writer.opener().open_shard(Path::new(DIR), options)?;
        let (callbacks, now) = (Callbacks::new(), Duration::from_secs(100));
        Ok(Self { disk: disk.clone(), writer, log, report, callbacks, now })
    }

    pub(super) fn new(disk: &SimDisk, options: LogOptions) -> Self {
        Self::open(disk, options).expect("log opens")
    }

    /// Steps until there is nothing to do now.
    pub(super) fn drive(&mut self) {
        while self.writer.step(self.now) == Step::Progressed {}
    }

    /// Lets time pass, then drives.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.drive();
    }

    /// Appends entries of `bytes` bytes, driven to the disk; their indices are the tags.
    pub(super) fn append(&mut self, term: u64, indices: std::ops::Range<u64>, bytes: usize) {
        for index in indices {
            let done = self.callbacks.tagged(index);
            self.log.append(vec![entry(term, index, bytes)], done).expect("log takes the entry");
        }
        self.drive();
    }

    /// A callback nobody looks at.
    pub(super) fn ignored(&self) -> Flushed {
        Box::new(|_| {})
    }

    /// Ends the writer and opens the log again on the same disk, as after a clean exit.
    pub(super) fn reopen(self, options: LogOptions) -> Self {
        let Self { disk, writer, log, .. } = self;
        drop((writer, log));
        Self::new(&disk, options)
    }
}
