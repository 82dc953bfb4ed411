//! Snapshots on their way from one replica to another: read from the sender's store, received beside
//! the checkpoints of the receiver's, and made one of them.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use railgun_core::checkpoint::CheckpointError;
use railgun_log::{Disk, DiskFile, read_full_at, write_all_vectored_at};
use railgun_raft::{BlockingPool, Snapshot, SnapshotError, SnapshotFile, SnapshotSink, run_on};
use tokio::sync::{mpsc, oneshot};

use super::CheckpointStore;
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

/// A snapshot that is sent.
pub(super) struct Sent {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u64,
    pub(super) position: u64,
}

impl SnapshotFile for Sent {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, max: usize) -> Result<Bytes, SnapshotError> {
        let left = usize::try_from(self.bytes - self.position).unwrap_or(usize::MAX);
        let mut chunk = vec![0; max.min(left)];
        let read = read_full_at(&*self.file, &mut chunk, self.position);
        chunk.truncate(read.map_err(|source| failed(&self.path, source))?);
        self.position += chunk.len() as u64;
        Ok(chunk.into())
    }
}

/// A snapshot that is received.
pub(super) struct Received {
    pub(super) disk: Arc<dyn Disk>,
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
