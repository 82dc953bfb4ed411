use super::*;
use crate::disk::{make_dir, write_all_vectored_at};

fn disk() -> SimDisk {
    SimDisk::new(SimDiskOptions { page_bytes: 4, ..SimDiskOptions::default() })
}

fn write(file: &dyn DiskFile, bytes: &[u8], position: u64) {
    write_all_vectored_at(file, &mut [IoSlice::new(bytes)], position).expect("writes");
}

#[test]
fn a_crash_keeps_the_chosen_pages_of_what_was_not_synced() {
    for (pages, expected) in [(0b00, b"aaaaaaaa"), (0b01, b"bbbbaaaa"), (0b10, b"aaaabbbb")] {
        let disk = disk();
        let file = disk.create("file".as_ref(), 8).expect("creates");
        write(&*file, b"aaaaaaaa", 0);
        file.sync_data().expect("syncs");
        disk.sync_dir("".as_ref()).expect("syncs");
        write(&*file, b"bbbbbbbb", 0);
        assert_eq!(disk.at_stake(), (2, 0));
        disk.crash(&CrashPlan::Explicit { pages, names: 0 });
        assert_eq!(disk.contents("file").expect("is there"), expected);
        assert!(file.sync_data().is_err(), "a handle of before the crash is dead");
    }
}

#[test]
fn a_crash_keeps_a_prefix_of_what_happened_to_names() {
    let disk = disk();
    disk.create("one".as_ref(), 0).expect("creates");
    disk.sync_dir("".as_ref()).expect("syncs");
    disk.rename("one".as_ref(), "two".as_ref()).expect("renames");
    disk.create("three".as_ref(), 0).expect("creates");
    for (names, expected) in [(0, vec!["one"]), (1, vec!["two"]), (2, vec!["three", "two"])] {
        let fork = disk.fork();
        fork.crash(&CrashPlan::Explicit { pages: 0, names });
        assert_eq!(fork.list("".as_ref()).expect("lists"), expected);
    }
}

#[test]
fn a_directory_is_lost_with_all_that_is_in_it_unless_its_own_name_is_synced() {
    let disk = disk();
    let (outer, inner) = (Path::new("outer"), Path::new("outer/inner"));
    disk.create_dir_all(inner).expect("makes");
    let file = disk.create(&inner.join("file"), 4).expect("creates");
    write(&*file, b"aaaa", 0);
    file.sync_data().expect("syncs");
    disk.sync_dir(inner).expect("syncs");
    let left = |disk: &SimDisk| {
        let fork = disk.fork();
        fork.crash(&CrashPlan::LoseAll);
        (fork.contents("outer/inner/file").is_some(), fork.list(inner).is_ok())
    };
    assert_eq!(left(&disk), (false, false), "its parents' names are not there");
    disk.sync_dir(outer).expect("syncs");
    assert_eq!(left(&disk), (false, false), "nor is the outer one's");
    disk.sync_dir("".as_ref()).expect("syncs");
    assert_eq!(left(&disk), (true, true));

    let disk = self::disk();
    make_dir(&disk, inner).expect("makes");
    disk.crash(&CrashPlan::LoseAll);
    assert!(disk.list(inner).is_ok());
}

#[test]
fn a_killed_process_loses_nothing_and_saves_nothing() {
    let disk = disk();
    let file = disk.create("file".as_ref(), 4).expect("creates");
    write(&*file, b"aaaa", 0);
    disk.crash(&CrashPlan::ProcessOnly);
    assert_eq!(disk.contents("file").expect("is there"), b"aaaa");
    disk.crash(&CrashPlan::LoseAll);
    assert_eq!(disk.contents("file"), None);
}

#[test]
fn pages_of_a_failed_sync_are_never_written() {
    let disk = disk();
    let file = disk.create("file".as_ref(), 4).expect("creates");
    disk.sync_dir("".as_ref()).expect("syncs");
    write(&*file, b"aaaa", 0);
    disk.fail(Fault { op: SimOp::Sync, after: 0, kind: io::ErrorKind::Other });
    assert!(file.sync_data().is_err());
    file.sync_data().expect("the second one succeeds");
    disk.crash(&CrashPlan::KeepAll);
    assert_eq!(disk.contents("file").expect("is there"), [0; 4]);
}

#[test]
fn the_capacity_bounds_what_is_reserved() {
    let disk = disk();
    disk.set_capacity(10);
    let file = disk.create("file".as_ref(), 6).expect("creates");
    let refused = disk.create("more".as_ref(), 5).expect_err("is full");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(disk.list("".as_ref()).expect("lists") == ["file"]);
    assert!(file.allocate(11).is_err());
    file.allocate(10).expect("fits");
}

#[test]
fn the_same_seed_crashes_in_the_same_way() {
    let disk = disk();
    let file = disk.create("file".as_ref(), 64).expect("creates");
    disk.sync_dir("".as_ref()).expect("syncs");
    write(&*file, &[7; 64], 0);
    let after = |seed| {
        let fork = disk.fork();
        fork.crash(&CrashPlan::Seeded(seed));
        fork.contents("file")
    };
    assert_eq!(after(1), after(1));
    assert!((2..9).any(|seed| after(seed) != after(1)));
}

#[test]
fn what_a_failed_sync_drops_is_in_memory_until_memory_is_short_and_is_on_the_disk_when_written_again()
 {
    let disk = disk();
    let file = disk.create("file".as_ref(), 8).expect("creates");
    disk.sync_dir("".as_ref()).expect("syncs");
    write(&*file, b"aaaaaaaa", 0);
    disk.fail(Fault { op: SimOp::Sync, after: 0, kind: io::ErrorKind::Other });
    file.sync_data().expect_err("is planned");
    write(&*file, b"aaaa", 4);
    file.sync_data().expect("syncs");
    let mut bytes = [0; 8];
    disk.short_of_memory_after(1);
    for expected in [b"aaaaaaaa", b"\0\0\0\0aaaa"] {
        file.read_at(&mut bytes, 0).expect("reads");
        assert_eq!(&bytes, expected);
    }
    disk.crash(&CrashPlan::LoseAll);
    assert_eq!(disk.contents("file").expect("is there"), b"\0\0\0\0aaaa");
}

#[test]
fn what_is_lost_or_cut_does_not_come_back() {
    let disk = disk();
    make_dir(&disk, "a/b".as_ref()).expect("made");
    make_dir(&disk, "ab".as_ref()).expect("made");
    for path in ["a/b/one", "ab/two"] {
        let file = disk.create(path.as_ref(), 8).expect("creates");
        write(&*file, b"aaaaaaaa", 0);
        file.sync_data().expect("syncs");
    }
    disk.sync_dir("a/b".as_ref()).expect("syncs");
    disk.sync_dir("ab".as_ref()).expect("syncs");
    disk.lose("a");
    assert!(disk.cut("ab/two", 3));
    assert!(!disk.cut("ab/two", 3), "it is no longer than that");
    for _ in 0..2 {
        assert!(disk.list("a/b".as_ref()).is_err());
        assert_eq!(disk.contents("a/b/one"), None);
        assert_eq!(disk.contents("ab/two").expect("is there"), b"aaa");
        disk.crash(&CrashPlan::KeepAll);
    }
    assert!(disk.put("ab/two", b"bbbbbb".to_vec()));
    assert!(!disk.put("a/b/one", Vec::new()), "it is not there");
    disk.crash(&CrashPlan::LoseAll);
    assert_eq!(disk.contents("ab/two").expect("is there"), b"bbbbbb");
    make_dir(&disk, "a/b".as_ref()).expect("made again");
    assert_eq!(disk.list("a/b".as_ref()).expect("lists"), [""; 0]);
}
