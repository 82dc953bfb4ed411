//! Snapshots on their way from one replica to another: read from the sender's store, received beside
//! the checkpoints of the receiver's, and made one of them.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use railgun_core::checkpoint::{CheckpointError, WithoutIndex, without_index};
use railgun_log::{Disk, DiskFile, read_full_at, write_all_vectored_at};
use railgun_raft::{BlockingPool, Snapshot, SnapshotError, SnapshotFile, SnapshotSink, run_on};
use tokio::sync::{mpsc, oneshot};

use super::store::content;
use super::{Check, CheckpointStore};
use crate::replica::Installer;

/// What the name of a file that is being received begins with.
const RECEIVED: &str = "received-";

/// The name of the n-th file that a store has received in this life.
pub(super) fn received_name(number: u64) -> String {
    format!("{RECEIVED}{number}.new")
}

/// Whether a file was being received: of an earlier life it is of no use.
pub(super) fn is_received(name: &str) -> bool {
    name.starts_with(RECEIVED)
}

/// A snapshot that is sent: without what only this replica can use.
pub(super) struct Sent {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// What is left of the beginning.
    header: Bytes,
    /// What is left of the file.
    rest: Range<u64>,
    bytes: u64,
}

impl Sent {
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, SnapshotError> {
        let file = disk.open(path).map_err(|source| failed(path, source))?;
        let WithoutIndex { header, sections } = without_index(|at, bytes| some(&*file, at, bytes))
            .map_err(|source| failed(path, source))?
            .map_err(|source| SnapshotError::Damaged {
                path: path.to_owned(),
                source: source.into(),
            })?;
        let bytes = header.len() as u64 + (sections.end - sections.start);
        Ok(Self { path: path.to_owned(), file, header, rest: sections, bytes })
    }
}

impl SnapshotFile for Sent {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, max: usize) -> Result<Bytes, SnapshotError> {
        if !self.header.is_empty() {
            return Ok(self.header.split_to(max.min(self.header.len())));
        }
        let left = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX);
        let chunk = some(&*self.file, self.rest.start, max.min(left));
        let chunk = chunk.map_err(|source| failed(&self.path, source))?;
        self.rest.start += chunk.len() as u64;
        Ok(chunk.into())
    }
}

/// So many bytes of a file, or as many as it has there.
fn some(file: &dyn DiskFile, at: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut some = vec![0; bytes];
    let read = read_full_at(file, &mut some, at)?;
    some.truncate(read);
    Ok(some)
}

/// A snapshot that is received.
pub(super) struct Received {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) check: Check,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) position: u64,
}

impl SnapshotSink for Received {
    fn write(&mut self, chunk: &Bytes) -> Result<(), SnapshotError> {
        let written = write_all_vectored_at(&*self.file, &mut [IoSlice::new(chunk)], self.position);
        written.map_err(|source| failed(&self.path, source))?;
        self.position += chunk.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<PathBuf, SnapshotError> {
        self.file.sync_data().map_err(|source| failed(&self.path, source))?;
        // Its checksum says that it is what was sent. Where that was not what had once been written, it is
        // refused here: once it is handed on, it must be a state.
        let bytes = content(&*self.file).map_err(|source| failed(&self.path, source))?;
        (self.check)(&bytes).map_err(|source| SnapshotError::Damaged {
            path: self.path.clone(),
            source: source.into(),
        })?;
        Ok(self.path.clone())
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // Gone, where it was made one of the checkpoints; what else stays goes at the next start.
        self.disk.remove(&self.path).ok();
    }
}

pub(super) fn failed(path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { path: path.to_owned(), source }
}

/// Takes what a received snapshot holds.
type Decode<T> = Arc<dyn Fn(&[u8]) -> Result<T, CheckpointError> + Send + Sync>;

/// Installs snapshots of other replicas: makes them one of the store's, and hands what they hold to the
/// owner of the state.
pub(crate) struct Install<T, M> {
    pub(crate) store: Arc<CheckpointStore>,
    pub(crate) pool: Arc<dyn BlockingPool>,
    pub(crate) decode: Decode<T>,
    pub(crate) to: mpsc::Sender<M>,
    pub(crate) wrap: fn(T, u64, oneshot::Sender<()>) -> M,
}

impl<T: Send + 'static, M: Send + 'static> Installer for Install<T, M> {
    fn install<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> futures::future::BoxFuture<'a, Result<(), SnapshotError>> {
        Box::pin(async move {
            let (store, decode) = (Arc::clone(&self.store), Arc::clone(&self.decode));
            let received = snapshot.clone();
            let install = move || store.install(&received, &*decode);
            let installed = run_on(&*self.pool, install).await;
            let (restored, bytes) = installed
                .map_err(|stopped| failed(&snapshot.path, io::Error::other(stopped)))??;
            let (reply, taken) = oneshot::channel();
            let owner_ended =
                || failed(&snapshot.path, io::Error::other("the owner of the state has ended"));
            let message = (self.wrap)(restored, bytes, reply);
            self.to.send(message).await.map_err(|_| owner_ended())?;
            taken.await.map_err(|_| owner_ended())
        })
    }
}
