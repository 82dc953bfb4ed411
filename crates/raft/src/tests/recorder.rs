//! A state machine that records what it is given, writes a checkpoint after each batch, and reports
//! each command.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use railgun_types::{ByteCursor, EntryId};
use tokio::sync::mpsc;

use crate::machine::{
    Applied, ApplyError, ApplyItem, Snapshot, SnapshotError, SnapshotFile, SnapshotSink,
    SnapshotSource, StateMachine,
};

/// A command of this content cannot be applied.
pub(super) const POISON: &[u8] = b"poison";
/// A command of this content makes the machine panic.
pub(super) const PANIC: &[u8] = b"panic";

/// A command as it was applied.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: EntryId,
    pub(super) bytes: Bytes,
    pub(super) ticket: Option<u64>,
    /// The companion, if it was a `u64`.
    pub(super) companion: Option<u64>,
}

pub(super) struct Recorder {
    checkpoints: Checkpoints,
    state: State,
    restored: Option<Applied>,
    seen: mpsc::Sender<Seen>,
}

/// All commands so far, and where they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) applied: Applied,
    pub(super) commands: Vec<(EntryId, Bytes)>,
}

impl Default for State {
    fn default() -> Self {
        let id = EntryId { term: 0, index: 0 };
        Self { applied: Applied { id, membership: Bytes::new() }, commands: Vec::new() }
    }
}

/// A directory with a file per checkpoint, named after its index, and the file `current`.
#[derive(Clone, Debug)]
pub(super) struct Checkpoints {
    dir: PathBuf,
}

impl Recorder {
    /// Starts empty, whatever checkpoints there are.
    pub(super) fn empty(dir: &Path) -> (Box<Self>, mpsc::Receiver<Seen>) {
        let (seen, events) = mpsc::channel(1 << 16);
        let checkpoints = Checkpoints::new(dir);
        let state = State::default();
        (Box::new(Self { checkpoints, state, restored: None, seen }), events)
    }

    /// Starts with the newest checkpoint.
    pub(super) fn restored(dir: &Path) -> (Box<Self>, mpsc::Receiver<Seen>) {
        let (mut recorder, events) = Self::empty(dir);
        let newest = recorder.checkpoints.newest(u64::MAX).expect("a checkpoint");
        recorder.state = State::read(&newest).expect("readable");
        recorder.restored = Some(recorder.state.applied.clone());
        (recorder, events)
    }
}

impl StateMachine for Recorder {
    fn restored(&mut self) -> Option<Applied> {
        self.restored.take()
    }

    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        let mut all_seen = Vec::new();
        for item in items.drain(..) {
            self.state.applied.id = item.id();
            match item {
                ApplyItem::Blank { .. } => {}
                ApplyItem::Membership { membership, .. } => {
                    self.state.applied.membership = membership;
                }
                ApplyItem::Command { id, payload, proposed } => {
                    let bytes = payload.to_bytes();
                    if bytes == POISON {
                        return Err(ApplyError { id, source: "poison".into() });
                    }
                    assert!(bytes != PANIC, "a command that panics, on purpose");
                    self.state.commands.push((id, bytes.clone()));
                    let (ticket, companion) = proposed.map_or((None, None), |proposed| {
                        let companion = proposed.companion.and_then(|any| any.downcast().ok());
                        (Some(proposed.ticket), companion.map(|number| *number))
                    });
                    all_seen.push(Seen { id, bytes, ticket, companion });
                }
            }
        }
        self.checkpoints.write(&self.state);
        for seen in all_seen {
            // A test that does not listen has dropped the receiver.
            drop(self.seen.try_send(seen));
        }
        Ok(())
    }

    fn install<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(async {
            self.state = State::read(&snapshot.path)?;
            if snapshot.path != self.checkpoints.current_path() {
                self.checkpoints.link_current(&snapshot.path)?;
            }
            self.checkpoints.write(&self.state);
            Ok(())
        })
    }
}

impl Checkpoints {
    pub(super) fn new(dir: &Path) -> Self {
        let dir = dir.join("checkpoints");
        fs::create_dir_all(&dir).expect("a directory");
        Self { dir }
    }

    pub(super) fn current_path(&self) -> PathBuf {
        self.dir.join("current")
    }

    pub(super) fn write(&self, state: &State) {
        let path = self.dir.join(format!("{:020}", state.applied.id.index));
        fs::write(path, state.encode()).expect("a checkpoint");
    }

    fn newest(&self, upto: u64) -> Option<PathBuf> {
        let index = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
        let files = fs::read_dir(&self.dir).expect("a directory");
        let paths = files.map(|file| file.expect("an entry").path());
        paths.filter(|path| index(path).is_some_and(|index| index <= upto)).max()
    }

    fn link_current(&self, path: &Path) -> Result<(), SnapshotError> {
        let failed = |source| SnapshotError::Io { path: path.to_owned(), source };
        let next = self.dir.join("next");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::hard_link(path, &next).map_err(failed)?;
        fs::rename(next, self.current_path()).map_err(failed)
    }
}

impl SnapshotSource for Checkpoints {
    fn current(&self, _from: u64) -> Result<Option<Snapshot>, SnapshotError> {
        let path = self.current_path();
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(Snapshot { applied: State::read(&path)?.applied, path }))
    }

    fn promote(&self, from: u64, upto: u64) -> Result<Snapshot, SnapshotError> {
        let current = self.current(from)?;
        let newest = self.newest(upto);
        match (newest, current) {
            (None, None) => Err(SnapshotError::NoCheckpoint { upto }),
            (Some(newest), None) => {
                self.link_current(&newest)?;
                self.promote(from, upto)
            }
            (Some(newest), Some(current))
                if State::read(&newest)?.applied.id > current.applied.id =>
            {
                self.link_current(&newest)?;
                self.promote(from, upto)
            }
            (_, Some(current)) => Ok(current),
        }
    }

    fn stand_in(&self, upto: u64) -> Result<Snapshot, SnapshotError> {
        let path = self.newest(upto).ok_or(SnapshotError::NoCheckpoint { upto })?;
        Ok(Snapshot { applied: State::read(&path)?.applied, path })
    }

    fn open(&self, path: &Path) -> Result<Box<dyn SnapshotFile>, SnapshotError> {
        let failed = |source| SnapshotError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Box::new(SentFile { path: path.to_owned(), file, bytes }))
    }

    fn receive(&self, _bytes: u64) -> Result<Box<dyn SnapshotSink>, SnapshotError> {
        static RECEIVED: AtomicU64 = AtomicU64::new(0);
        let number = RECEIVED.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("received-{number}"));
        let file = File::create(&path);
        let file = file.map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        Ok(Box::new(ReceivedFile { path, file }))
    }
}

struct SentFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl SnapshotFile for SentFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, max: usize) -> Result<Bytes, SnapshotError> {
        let mut chunk = vec![0; max];
        let read = self.file.read(&mut chunk);
        let read = read.map_err(|source| SnapshotError::Io { path: self.path.clone(), source })?;
        chunk.truncate(read);
        Ok(chunk.into())
    }
}

/// A file of this name is removed when this is dropped.
struct ReceivedFile {
    path: PathBuf,
    file: File,
}

impl ReceivedFile {
    fn failed(&self) -> impl Fn(io::Error) -> SnapshotError {
        |source| SnapshotError::Io { path: self.path.clone(), source }
    }
}

impl SnapshotSink for ReceivedFile {
    fn write(&mut self, chunk: &Bytes) -> Result<(), SnapshotError> {
        self.file.write_all(chunk).map_err(self.failed())
    }

    fn finish(&mut self) -> Result<PathBuf, SnapshotError> {
        self.file.sync_data().map_err(self.failed())?;
        Ok(self.path.clone())
    }
}

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

impl State {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_block(&mut out, self.applied.id, &self.applied.membership);
        for (id, bytes) in &self.commands {
            put_block(&mut out, *id, bytes);
        }
        out.to_vec()
    }

    fn read(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Io { path: path.to_owned(), source };
        let bytes = fs::read(path).map_err(failed)?;
        let damaged = || SnapshotError::Damaged { path: path.to_owned(), source: "short".into() };
        Self::decode(&bytes).ok_or_else(damaged)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut cursor = ByteCursor::new(bytes);
        let mut block = || {
            let id = EntryId { term: cursor.u64().ok()?, index: cursor.u64().ok()? };
            let len = cursor.u32().ok()? as usize;
            Some((id, Bytes::copy_from_slice(cursor.take(len).ok()?)))
        };
        let (id, membership) = block()?;
        let commands = std::iter::from_fn(block).collect();
        Some(Self { applied: Applied { id, membership }, commands })
    }

    /// The state in the newest checkpoint of `dir`.
    pub(super) fn newest(dir: &Path) -> Self {
        let newest = Checkpoints::new(dir).newest(u64::MAX).expect("a checkpoint");
        Self::read(&newest).expect("readable")
    }

    pub(super) fn commands(&self) -> &[(EntryId, Bytes)] {
        &self.commands
    }
}

fn put_block(out: &mut BytesMut, id: EntryId, bytes: &[u8]) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.index);
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}
