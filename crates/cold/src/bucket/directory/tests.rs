use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use super::*;

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
    let late = publish(&path, &directory.path().join("k"), &PutMode::Create);
    assert!(matches!(late, Err(Error::AlreadyExists { .. })), "{late:?}");
}

#[tokio::test]
async fn a_put_that_fails_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.put(&Path::from("file"), content(1).into()).await.unwrap();
    let below = store.put_opts(&Path::from("file/below"), content(1).into(), create()).await;
    let Err(Error::Generic { source, .. }) = &below else { panic!("{below:?}") };
    assert!(source.to_string().contains("could not name"), "{source}");
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
