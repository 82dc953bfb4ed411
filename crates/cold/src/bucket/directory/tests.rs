use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use tokio::sync::watch;

use super::*;
use crate::bucket::{Bucket, BucketError, BucketOptions, BucketUrl, Put, RetryPolicy};

fn open(root: &FilePath) -> DirectoryStore {
    DirectoryStore::open(root, 7).unwrap()
}

fn staged(root: &FilePath) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join(STAGING)) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

async fn listed(store: &DirectoryStore) -> Vec<String> {
    let listed: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
    listed.into_iter().map(|meta| meta.location.to_string()).collect()
}

fn content(len: usize) -> Bytes {
    (0..len).map(|n| (n / 7) as u8).collect()
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

/// What a disk sees: the most that was ever dirty, and all of it.
#[derive(Default)]
struct Recorded {
    bytes: Vec<u8>,
    dirty: usize,
    dirty_max: usize,
}

impl Pieces for Recorded {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(piece);
        self.dirty += piece.len();
        self.dirty_max = self.dirty_max.max(self.dirty);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.dirty = 0;
        Ok(())
    }
}

#[test]
fn no_more_than_a_piece_is_dirty_however_the_payload_is_cut() {
    let whole = content(2 * PIECE_BYTES + 12_345);
    for chunk in [whole.len(), PIECE_BYTES, PIECE_BYTES - 1, PIECE_BYTES + 1, 100_000] {
        let chunks = whole.chunks(chunk).map(Bytes::copy_from_slice);
        let mut disk = Recorded::default();
        write_in_pieces(&mut disk, &PutPayload::from_iter(chunks)).unwrap();
        assert!(disk.bytes == whole, "{chunk}");
        assert_eq!((disk.dirty_max, disk.dirty), (PIECE_BYTES, 12_345), "{chunk}");
    }
}

#[tokio::test]
async fn an_object_is_created_once_and_leaves_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let key = Path::from("a/b=1/c");
    let large = content(PIECE_BYTES + 1);
    store.put_opts(&key, large.clone().into(), create()).await.unwrap();
    let second = store.put_opts(&key, content(3).into(), create()).await;
    assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
    assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), large);
    assert_eq!(staged(directory.path()), [] as [PathBuf; 0]);

    store.put(&key, content(3).into()).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), content(3));
    assert_eq!(staged(directory.path()), [] as [PathBuf; 0]);
    assert_eq!(listed(&store).await, ["a/b=1/c"]);
}

/// The look before the write spares work; the link decides who was first.
#[tokio::test]
async fn of_two_at_the_same_time_one_creates() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let key = Path::from("k");
    let puts = (0..16_u8).map(|n| store.put_opts(&key, vec![n; 1000].into(), create()));
    let answers = futures::future::join_all(puts).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let winner = answers.iter().position(|answer| answer.is_ok()).unwrap();
    let there = store.get(&key).await.unwrap().bytes().await.unwrap();
    assert_eq!(there, vec![winner as u8; 1000]);

    let (file, path) = store.staging.create().unwrap();
    drop(file);
    let late = name(&path, &directory.path().join("k"), &PutMode::Create);
    assert!(matches!(late, Err(Error::AlreadyExists { .. })), "{late:?}");
}

#[tokio::test]
async fn a_put_that_fails_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.put(&Path::from("file"), content(1).into()).await.unwrap();
    let below = store.put_opts(&Path::from("file/below"), content(1).into(), create()).await;
    let Err(Error::Generic { source, .. }) = &below else { panic!("{below:?}") };
    assert!(source.to_string().contains("could not make"), "{source}");
    assert_eq!(staged(directory.path()), [] as [PathBuf; 0]);
}

/// What is left of a process that was killed: never listed, removed when the directory is opened
/// again. What another process writes at that time stays.
#[tokio::test]
async fn leftovers_are_no_objects_and_go_when_the_directory_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.put(&Path::from("k"), content(1).into()).await.unwrap();
    let (_writing, live) = store.staging.create().unwrap();
    let (abandoned, dead) = store.staging.create().unwrap();
    drop(abandoned);
    let foreign = directory.path().join(STAGING).join("notes.txt");
    fs::write(&foreign, b"not ours").unwrap();

    assert_eq!(listed(&store).await, [".staging/notes.txt", "k"]);
    fs::remove_file(&foreign).unwrap();
    assert_eq!(listed(&store).await, ["k"]);
    let root = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(root.common_prefixes, []);

    fs::write(&foreign, b"not ours").unwrap();
    let again = open(directory.path());
    assert!(live.exists() && !dead.exists() && foreign.exists());
    // The number of a file that is there is not used twice.
    let (_, path) = again.staging.create().unwrap();
    assert_ne!(path, live);
}

/// A device that notes what is synced, and does what it is told to.
#[derive(Clone, Debug)]
struct Noted {
    root: PathBuf,
    synced: watch::Sender<Vec<String>>,
    /// Syncs of this folder or file fail.
    fails_at: watch::Sender<Option<&'static str>>,
}

impl Noted {
    fn on(root: &FilePath) -> Self {
        let root = fs::canonicalize(root).unwrap();
        Self { root, synced: watch::channel(Vec::new()).0, fails_at: watch::channel(None).0 }
    }

    fn store(&self) -> DirectoryStore {
        DirectoryStore::open_on(&self.root, 7, Box::new(self.clone())).unwrap()
    }

    /// What was synced since the last call, relative to the root.
    fn take(&self) -> Vec<String> {
        self.synced.send_replace(Vec::new())
    }
}

impl Device for Noted {
    fn sync(&self, at: &FilePath, file: &File) -> io::Result<()> {
        let at = at.strip_prefix(&self.root).unwrap_or(at).to_str().unwrap().to_owned();
        // What is opened is what is named.
        let there = fs::metadata(self.root.join(&at)).unwrap();
        assert_eq!(file.metadata().unwrap().is_dir(), there.is_dir(), "{at}");
        if self.fails_at.borrow().is_some_and(|fails| fails == at) {
            return Err(io::Error::other("injected"));
        }
        // A name that is not there yet is not made durable by syncing the folder.
        let named = if self.root.join(KEY).exists() { "" } else { " before" };
        self.synced.send_modify(|synced| synced.push(format!("{at}{named}")));
        Ok(())
    }
}

const KEY: &str = "a/b=1/c";
const FOLDERS: [&str; 3] = ["a/b=1", "a", ""];

fn bucket(store: DirectoryStore, retry: RetryPolicy) -> Bucket {
    let url = BucketUrl::File { root: "/the/test".into() };
    let options = BucketOptions { retry, ..BucketOptions::new(1) };
    Bucket::assemble(Arc::new(store), "", url, "test bucket".to_owned(), &options).unwrap()
}

fn hasty() -> RetryPolicy {
    RetryPolicy { attempts: 3, pause_min: Duration::from_millis(1), ..RetryPolicy::default() }
}

/// Nobody but the kernel knows what its sync does: of a pipe, which has no device, it fails.
#[test]
fn a_sync_is_one_of_the_operating_system() {
    let (_reader, writer) = io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(writer));
    assert!(RealDevice.sync(FilePath::new("pipe"), &pipe).is_err());
}

#[tokio::test]
async fn a_content_is_durable_before_its_name_and_then_all_names_above_it() {
    let directory = tempfile::tempdir().unwrap();
    let device = Noted::on(directory.path());
    let bucket = bucket(device.store(), hasty());
    assert_eq!(bucket.put_immutable(KEY, content(9)).await.unwrap(), Put::Stored);
    let staged = format!("{STAGING}/{STAGED}{:016x}#1 before", 7);
    assert_eq!(device.take(), [&staged[..], "a/b=1", "a", ""]);
    // Whoever finds it there knows nothing of that.
    assert_eq!(bucket.put_immutable(KEY, content(9)).await.unwrap(), Put::Existed);
    assert_eq!(device.take(), [KEY, "a/b=1", "a", ""]);
    let other = bucket.put_immutable(KEY, content(8)).await;
    assert!(matches!(other, Err(BucketError::Conflict { .. })), "{other:?}");
}

/// What a process leaves that was killed between the link and the syncs: the same to see as an
/// object that is durable.
#[tokio::test]
async fn an_object_of_a_process_that_was_killed_is_synced_before_it_counts() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("a/b=1")).unwrap();
    fs::write(directory.path().join(KEY), content(9)).unwrap();
    let device = Noted::on(directory.path());
    let bucket = bucket(device.store(), hasty());
    for at in [KEY].into_iter().chain(FOLDERS) {
        device.fails_at.send_replace(Some(at));
        let put = bucket.put_immutable(KEY, content(9)).await;
        assert!(matches!(put, Err(BucketError::Unavailable { attempts: 3, .. })), "{at}: {put:?}");
    }
    device.fails_at.send_replace(None);
    device.take();
    assert_eq!(bucket.put_immutable(KEY, content(9)).await.unwrap(), Put::Existed);
    assert_eq!(device.take(), [KEY, "a/b=1", "a", ""]);
}

#[tokio::test]
async fn a_sync_that_fails_is_not_made_good_by_finding_the_object() {
    for at in FOLDERS {
        let directory = tempfile::tempdir().unwrap();
        let device = Noted::on(directory.path());
        let bucket = bucket(device.store(), hasty());
        device.fails_at.send_replace(Some(at));
        let put = bucket.put_immutable(KEY, content(9)).await;
        assert!(matches!(put, Err(BucketError::Unavailable { attempts: 3, .. })), "{at}: {put:?}");
        assert_eq!(bucket.size(KEY).await.unwrap(), Some(9), "{at}: it can be seen");
        device.fails_at.send_replace(None);
        device.take();
        assert_eq!(bucket.put_immutable(KEY, content(9)).await.unwrap(), Put::Existed);
        assert_eq!(device.take(), [KEY, "a/b=1", "a", ""], "{at}");
    }
}

/// A device that answers no sync of a folder until the sender has gone.
#[derive(Debug)]
#[expect(clippy::disallowed_types, reason = "a receiver that threads share")]
struct Hanging(std::sync::Mutex<Receiver<()>>);

impl Device for Hanging {
    fn sync(&self, _: &FilePath, file: &File) -> io::Result<()> {
        if file.metadata()?.is_dir() {
            let _gone = self.0.lock().unwrap().recv();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_sync_that_hangs_is_not_made_good_by_finding_the_object() {
    let directory = tempfile::tempdir().unwrap();
    let (hold, held) = sync_channel(0);
    let device = Box::new(Hanging(held.into()));
    let store = DirectoryStore::open_on(directory.path(), 7, device).unwrap();
    let patience = RetryPolicy { attempt_min: Duration::from_millis(50), ..hasty() };
    let put = bucket(store, patience).put_immutable(KEY, content(9)).await;
    assert!(matches!(put, Err(BucketError::Unavailable { attempts: 3, .. })), "{put:?}");
    drop(hold);
    let put = bucket(open(directory.path()), hasty()).put_immutable(KEY, content(9)).await;
    assert_eq!(put.unwrap(), Put::Existed);
}

#[test]
fn a_root_is_made_durably() {
    let directory = tempfile::tempdir().unwrap();
    let device = Noted::on(directory.path());
    let root = directory.path().join("x/y");
    make_root_on(&device, &root).unwrap();
    assert_eq!(device.take(), ["x before", " before"]);
    // Whoever made it may have died.
    make_root_on(&device, &root).unwrap();
    assert_eq!(device.take(), ["x before"]);
    // Whose folder above is not ours to sync.
    device.fails_at.send_replace(Some("x"));
    make_root_on(&device, &root).unwrap();
    assert!(make_root_on(&device, &root.with_file_name("z")).is_err());
}
