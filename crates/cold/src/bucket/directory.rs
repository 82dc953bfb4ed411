//! A bucket in a local directory: [`LocalFileSystem`], but for how an object is written.
//!
//! A directory bucket often shares its disk with the log. What is dirty when an object is synced
//! goes to the device in one go, and the log's own sync waits behind it: so an object is written in
//! pieces, and no more than one of them is ever dirty. Only then does it get its name, so that an
//! object is there as a whole or not at all, through a crash as well.
//!
//! Until then it lies in [`STAGING`] under a name no listing shows, locked by whoever writes it. What
//! a crash left there nobody has locked: the next one to open the directory removes it.
//!
//! A name that can be seen may still be lost with the power: whoever gave it died, or failed, or hangs
//! between that and the sync of a folder. So whether an object was written or was there already, its
//! name and those of all folders above it are synced before anybody is told. Nor is anybody told that an
//! object is gone before its folder is synced.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};

/// Folder of objects in the making.
const STAGING: &str = ".staging";
/// How their names begin. They end in `#` and a number, which `LocalFileSystem` never lists.
const STAGED: &str = "put-";
/// Most bytes that are dirty at a time: a few milliseconds of a disk.
const PIECE_BYTES: usize = 4 << 20;
/// What errors call the store.
const STORE: &str = "directory";

/// The store. Blocking work runs on the blocking threads of the runtime that asks for it.
#[derive(Debug)]
pub(super) struct DirectoryStore {
    files: LocalFileSystem,
    staging: Arc<Staging>,
}

/// Where objects are before they have their names.
#[derive(Debug)]
struct Staging {
    /// The directory of the whole bucket.
    root: PathBuf,
    folder: PathBuf,
    device: Box<dyn Device>,
    /// Tells the files of this store from those of other processes on the same directory.
    tag: u64,
    next: AtomicU64,
}

/// What could not be done in the directory.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {}", path.display())]
struct DirectoryError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What makes things durable. A seam, because no test of this crate can cut the power.
trait Device: fmt::Debug + Send + Sync + 'static {
    /// Returns when the file or folder `at`, opened as `file`, is on the device with all its content.
    fn sync(&self, at: &FilePath, file: &File) -> io::Result<()>;
}

/// That of the operating system.
#[derive(Debug)]
struct RealDevice;

impl Device for RealDevice {
    fn sync(&self, _: &FilePath, file: &File) -> io::Result<()> {
        file.sync_all()
    }
}

impl DirectoryStore {
    /// The directory `root`, which must exist: see [`make_root`]. `tag` is a random number. Removes
    /// what writers that are no more have left behind.
    pub(super) fn open(root: &FilePath, tag: u64) -> Result<Self> {
        Self::open_on(root, tag, Box::new(RealDevice))
    }

    fn open_on(root: &FilePath, tag: u64, device: Box<dyn Device>) -> Result<Self> {
        let files = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
        // So the paths of objects begin.
        let root = fs::canonicalize(root).map_err(failed("find", root))?;
        let folder = root.join(STAGING);
        let staging = Staging { root, folder, device, tag, next: AtomicU64::new(1) };
        staging.clean();
        Ok(Self { files, staging: Arc::new(staging) })
    }
}

/// Makes the directory `root` and those above it that are missing, durably.
pub(super) fn make_root(root: &FilePath) -> io::Result<()> {
    make_root_on(&RealDevice, root)
}

fn make_root_on(device: &dyn Device, root: &FilePath) -> io::Result<()> {
    let made = std::path::absolute(root)?.ancestors().take_while(|dir| !dir.exists()).count();
    fs::create_dir_all(root)?;
    // Its own name even if it was there: who made it may have died before it was synced.
    for above in fs::canonicalize(root)?.ancestors().skip(1).take(made.max(1)) {
        match File::open(above).and_then(|folder| device.sync(above, &folder)) {
            // An operator made the directory, in a place that is not ours to read.
            Err(_) if made == 0 => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

impl fmt::Display for DirectoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.files, f)
    }
}

#[async_trait]
// A method that is not passed on would silently be a slower or weaker one.
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for DirectoryStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() {
            let operation = "a put with a precondition or attributes".to_owned();
            return Err(Error::NotImplemented { operation, implementer: STORE.to_owned() });
        }
        let to = self.files.path_to_filesystem(location)?;
        let staging = self.staging.clone();
        // Runs to its end even if the caller goes: the object is then there, or nothing is.
        let work = move || staging.put(&to, &payload, &options.mode);
        #[expect(
            clippy::disallowed_methods,
            reason = "as every store on files; a simulation has others"
        )]
        let written = tokio::task::spawn_blocking(work);
        written.await??;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (files, staging) = (self.files.clone(), Arc::clone(&self.staging));
        let delete = move |location: Path| {
            let (files, staging) = (files.clone(), Arc::clone(&staging));
            async move {
                let deleted = files.delete(&location).await;
                // What is not there may be so for a moment only: whoever removed it died before the sync.
                if matches!(deleted, Ok(()) | Err(Error::NotFound { .. })) {
                    let gone = files.path_to_filesystem(&location)?;
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "as every store on files; a simulation has others"
                    )]
                    let synced = tokio::task::spawn_blocking(move || staging.sync_removal(&gone));
                    synced.await??;
                }
                deleted.map(|()| location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.files.list_with_delimiter(prefix).await?;
        found.common_prefixes.retain(|folder| folder.as_ref() != STAGING);
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.files.rename_opts(from, to, options).await
    }
}

impl Staging {
    /// Writes `payload` and gives it the name `to`, durably. With [`PutMode::Create`] and an object
    /// that is there, [`Error::AlreadyExists`] says that this one is durable.
    fn put(&self, to: &FilePath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        // Spares the write where the answer is known; the link below decides.
        if *mode == PutMode::Create && to.exists() {
            self.settle(to)?;
            return Err(exists(to, ErrorKind::AlreadyExists.into()));
        }
        // Locked until it has its name.
        let (mut file, staged) = self.create()?;
        let named = self.fill(&mut file, &staged, payload).and_then(|()| name(&staged, to, mode));
        // A second name of the object by now, or a piece of one. After a rename there is none.
        if named.is_err() || *mode == PutMode::Create {
            let _ = fs::remove_file(&staged);
        }
        match named {
            Ok(()) => self.sync_folders(to),
            Err(error @ Error::AlreadyExists { .. }) => self.settle(to).and(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// Fills the file, durably.
    fn fill(&self, file: &mut File, path: &FilePath, payload: &PutPayload) -> Result<()> {
        write_in_pieces(file, payload).map_err(failed("write", path))?;
        self.device.sync(path, file).map_err(failed("sync", path))
    }

    /// Makes an object durable that is there already. Its content was on the device before it got its
    /// name, if it came from here; what a crash or a sync that failed leaves open is the name.
    fn settle(&self, object: &FilePath) -> Result<()> {
        let opened = File::open(object).map_err(failed("open", object))?;
        self.device.sync(object, &opened).map_err(failed("sync", object))?;
        self.sync_folders(object)
    }

    /// Makes the name of `object` durable, and those of all folders on the way to it: a folder that
    /// is there may have been made by someone who died before it was synced.
    fn sync_folders(&self, object: &FilePath) -> Result<()> {
        for folder in object.ancestors().skip(1) {
            let synced = File::open(folder).and_then(|opened| self.device.sync(folder, &opened));
            synced.map_err(failed("sync", folder))?;
            // Its own name was seen to when it was opened.
            if folder == self.root {
                break;
            }
        }
        Ok(())
    }

    /// Makes durable that `object` is gone.
    fn sync_removal(&self, object: &FilePath) -> Result<()> {
        let Some(folder) = object.parent() else { return Ok(()) };
        match File::open(folder).and_then(|opened| self.device.sync(folder, &opened)) {
            // Nothing was ever there.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(failed("sync", folder)),
        }
    }

    /// A new file, locked against [`Self::clean`] until it is closed.
    fn create(&self) -> Result<(File, PathBuf)> {
        fs::create_dir_all(&self.folder).map_err(failed("make", &self.folder))?;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(format!("{STAGED}{:016x}#{number}", self.tag));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => match file.try_lock() {
                    // Someone who opens the directory takes it for a leftover and removes it.
                    Err(TryLockError::WouldBlock) => {}
                    // Without locks nobody can tell a leftover, and nobody removes any.
                    Ok(()) | Err(TryLockError::Error(_)) => return Ok((file, path)),
                },
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("make", &path)(error)),
            }
        }
    }

    /// Removes what nobody writes any more. Best effort: leftovers cost space, nothing else, and a
    /// reader may not be allowed to remove them.
    fn clean(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if !is_staged(&path) {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() && fs::remove_file(&path).is_ok() {
                tracing::info!(path = %path.display(), "removed what is left of an upload");
            }
        }
    }
}

fn is_staged(path: &FilePath) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix(STAGED)?.split_once('#'))
        .is_some_and(|(_, number)| number.parse::<u64>().is_ok())
}

/// A file in the making, as far as [`write_in_pieces`] sees it.
trait Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<()>;
    /// Returns when everything written is on the device.
    fn sync(&mut self) -> io::Result<()>;
}

impl Pieces for File {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.write_all(piece)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()?;
        // Objects are read long after, if ever: the memory goes to the next piece.
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&*self, 0, None, rustix::fs::Advice::DontNeed).ok();
        Ok(())
    }
}

/// Writes the whole payload; what is dirty never exceeds a piece, whatever the chunks are.
fn write_in_pieces(file: &mut impl Pieces, payload: &PutPayload) -> io::Result<()> {
    let mut dirty = 0;
    for chunk in payload {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(PIECE_BYTES - dirty));
            file.write(piece)?;
            dirty += piece.len();
            rest = behind;
            if dirty == PIECE_BYTES {
                file.sync()?;
                dirty = 0;
            }
        }
    }
    Ok(())
}

/// Gives a filled file its name; whether that is durable is seen to later. The staged name is gone
/// after an overwrite only.
fn name(staged: &FilePath, to: &FilePath, mode: &PutMode) -> Result<()> {
    let Some(folder) = to.parent() else {
        return Err(failed("name", to)(ErrorKind::InvalidInput.into()));
    };
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    match mode {
        PutMode::Create => fs::hard_link(staged, to).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => exists(to, error),
            _ => failed("name", to)(error),
        }),
        PutMode::Overwrite | PutMode::Update(_) => {
            fs::rename(staged, to).map_err(failed("name", to))
        }
    }
}

fn failed(what: &'static str, path: &FilePath) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| {
        let error = DirectoryError { what, path, source };
        Error::Generic { store: STORE, source: Box::new(error) }
    }
}

fn exists(path: &FilePath, source: io::Error) -> Error {
    Error::AlreadyExists { path: path.display().to_string(), source: Box::new(source) }
}

#[cfg(test)]
mod tests;
