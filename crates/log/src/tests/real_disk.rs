//! The log on real files, driven by its thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::rig::entry;
use crate::{
    Disk, EntryId, LockError, LogOptions, LogThread, RealDisk, SpawnError, Vote,
    write_all_vectored_at,
};

fn real(dir: &tempfile::TempDir) -> Arc<RealDisk> {
    Arc::new(RealDisk::open(dir.path()).expect("opens"))
}

#[test]
fn many_threads_append_to_many_logs_and_all_is_there_again() {
    let dir = tempfile::tempdir().expect("makes a directory");
    let options =
        LogOptions { file_bytes: 256 << 10, ring_bytes: 8 << 10, ..LogOptions::default() };
    let log_thread = LogThread::spawn(real(&dir)).expect("starts");
    let logs: Vec<_> = (0..3)
        .map(|shard| {
            let dir = format!("shards/{shard}/log");
            log_thread.open_shard(Path::new(&dir), options.clone()).expect("opens").0
        })
        .collect();
    thread::scope(|scope| {
        for log in &logs {
            scope.spawn(move || {
                let (sender, receiver) = sync_channel(1000);
                for index in 0..400 {
                    let sender = sender.clone();
                    let done =
                        Box::new(move |told| sender.send((index, told)).expect("is awaited"));
                    log.append(vec![entry(1, index, 3000)], done).expect("queues");
                    log.set_applied(index);
                }
                for index in 0..400 {
                    let (told, outcome) = receiver.recv().expect("is called back");
                    assert_eq!(told, index, "callbacks run in order");
                    outcome.expect("is durable");
                    assert!(log.durable_index() >= Some(index));
                }
                let read = log.read(0, 400, usize::MAX).expect("reads");
                assert!(
                    read.iter().enumerate().all(|(at, read)| *read == entry(1, at as u64, 3000))
                );
                let (sender, receiver) = sync_channel(2);
                let marked = sender.clone();
                let vote = Vote { term: 4, node: 1, committed: false };
                log.save_vote(vote, Box::new(move |told| sender.send(told).expect("is awaited")))
                    .expect("queues");
                log.sync_mark(Box::new(move |told| marked.send(told).expect("is awaited")))
                    .expect("queues");
                receiver.recv().expect("is called back").expect("vote is durable");
                receiver.recv().expect("is called back").expect("mark is durable");
            });
        }
    });
    log_thread.shutdown();

    let log_thread = LogThread::spawn(real(&dir)).expect("starts again");
    for shard in 0..3 {
        let dir = format!("shards/{shard}/log");
        let (log, report) = log_thread.open_shard(Path::new(&dir), options.clone()).expect("opens");
        assert_eq!((report.scanned, report.torn.clone()), (1, None), "{report:?}");
        assert!(report.files > 3);
        assert_eq!(log.state().last, Some(EntryId::new(1, 399)));
        let mut next = 0;
        while next < 400 {
            for read in log.read(next, 400, 50_000).expect("reads") {
                assert_eq!(read, entry(1, next, 3000));
                next += 1;
            }
        }
    }
}

#[test]
fn a_second_writer_on_the_directory_is_refused() {
    let dir = tempfile::tempdir().expect("makes a directory");
    let first = LogThread::spawn(real(&dir)).expect("starts");
    let second = LogThread::spawn(real(&dir));
    let error = second.expect_err("is refused");
    assert!(matches!(error, SpawnError::Lock(LockError::Held { .. })));
    assert!(error.to_string().starts_with("data directory is in use: "), "{error}");
    first.shutdown();
    LogThread::spawn(real(&dir)).expect("starts when the first is gone");
}

#[test]
fn the_real_disk_does_what_the_simulated_one_does() {
    let dir = tempfile::tempdir().expect("makes a directory");
    let sim = crate::SimDisk::default();
    let disks: [&dyn Disk; 2] = [&*real(&dir), &sim];
    for disk in disks {
        disk.create_dir_all("a/b".as_ref()).expect("makes");
        let path = Path::new("a/b/one");
        let file = disk.create(path, 10_000).expect("creates");
        assert_eq!(file.size().expect("has a size"), 10_000);
        assert_eq!(
            disk.create(path, 1).expect_err("is taken").kind(),
            std::io::ErrorKind::AlreadyExists
        );
        // More slices than one call takes, and one that is empty.
        let bytes: Vec<Vec<u8>> = (0..3000_usize).map(|at| vec![at as u8; at % 3]).collect();
        let mut slices: Vec<_> = bytes.iter().map(|part| std::io::IoSlice::new(part)).collect();
        write_all_vectored_at(&*file, &mut slices, 9_000).expect("writes");
        let mut read = vec![0; 3000];
        assert_eq!(crate::read_full_at(&*file, &mut read, 9_000).expect("reads"), 3000);
        assert_eq!(read, bytes.concat());
        file.allocate(20_000).expect("extends");
        assert_eq!(file.size().expect("has a size"), 20_000);
        file.sync_data().expect("syncs");
        disk.rename(path, "a/b/two".as_ref()).expect("renames");
        disk.sync_dir("a/b".as_ref()).expect("syncs");
        assert_eq!(disk.list("a/b".as_ref()).expect("lists"), ["two"]);
        assert_eq!(disk.list("a".as_ref()).expect("lists"), Vec::<String>::new());
        assert_eq!(disk.open(path).expect_err("is gone").kind(), std::io::ErrorKind::NotFound);
        disk.remove("a/b/two".as_ref()).expect("removes");
        assert_eq!(disk.remove(path).expect_err("is gone").kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn long_entries_are_read_back_around_the_page_cache_and_short_ranges_through_it() {
    let dir = tempfile::tempdir().expect("makes a directory");
    let options = LogOptions { file_bytes: 8 << 20, ring_bytes: 0, ..LogOptions::default() };
    let log_thread = LogThread::spawn(real(&dir)).expect("starts");
    let (log, _) = log_thread.open_shard(Path::new("log"), options).expect("opens");
    // Lengths on both sides of what is read at once, at all distances from the ends of blocks.
    let bytes = |index: u64| (index * index * 7919 % (3 << 19)) as usize;
    let (sender, receiver) = sync_channel(1);
    for index in 0..40 {
        let sender = sender.clone();
        let done = Box::new(move |told| sender.send(told).expect("is awaited"));
        log.append(vec![entry(1, index, bytes(index))], done).expect("queues");
        log.set_applied(index);
        receiver.recv().expect("is called back").expect("is durable");
    }
    for bytes_max in [1, 100 << 10, 700 << 10, 5 << 20, usize::MAX] {
        let mut from = 0;
        while from < 40 {
            let read = log.read(from, 40, bytes_max).expect("reads");
            assert!(!read.is_empty(), "nothing at {from}");
            for found in &read {
                assert!(*found == entry(1, from, bytes(from)), "entry {from} by {bytes_max}");
                from += 1;
            }
        }
    }
    for index in 0..40 {
        let read = log.read(index, index + 1, usize::MAX).expect("reads");
        assert!(read == [entry(1, index, bytes(index))], "entry {index} alone");
    }
}
