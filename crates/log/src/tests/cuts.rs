//! Files that were cut short, at every byte: what was durable is there, or the log does not open.

use std::path::Path;

use super::exhaustive::{Life, tiny, with};
use super::naive::{Naive, recovered_prefix};
use super::rig::{Rig, small_pages};
use crate::{BuiltinBug, CrashPlan, LogOptions, OpenError, SimDisk};

#[derive(Debug, Default)]
struct Cuts {
    refused: u64,
    harmless: u64,
}

/// Cuts every file of a finished log at every byte. Nothing says of the last batch that it was synced. The
/// first wrong answer is the error.
fn every_cut(options: &LogOptions, script: impl Fn(&mut Life, &mut Rig)) -> Result<Cuts, String> {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, options.clone());
    let mut life = Life::default();
    script(&mut life, &mut rig);
    assert_eq!(life.acked, life.asked.len());
    let files = rig.log.files();
    drop(rig);
    disk.crash(&CrashPlan::LoseAll);
    let states = Naive::prefixes(&life.asked);
    let whole = &states[states.len() - 1..];
    let mut cuts = Cuts::default();
    for file in &files {
        // Of a closed file it is known where it ends, of the newest only how long it was made.
        let least = if file.closed { file.bytes } else { u64::MAX };
        let positions = file.path.with_extension("pos");
        for (path, least) in [(&file.path, least), (&positions, 0)] {
            let bytes = disk.contents(path).map_or(0, |bytes| bytes.len());
            for length in 0..bytes {
                let cut = disk.fork();
                assert!(cut.cut(path, length));
                let is_refused = (length as u64) < least;
                judge(&cut, path, options, whole, is_refused)
                    .map_err(|why| format!("{} cut at {length}: {why}", path.display()))?;
                *(if is_refused { &mut cuts.refused } else { &mut cuts.harmless }) += 1;
            }
        }
    }
    Ok(cuts)
}

fn judge(
    disk: &SimDisk,
    path: &Path,
    options: &LogOptions,
    whole: &[Naive],
    is_refused: bool,
) -> Result<(), String> {
    let before = disk.contents(path);
    let opened = Rig::open(disk, options.clone());
    if !is_refused {
        return recovered_prefix(whole, 0, &opened).map(drop);
    }
    match opened {
        Err(OpenError::Rot { file, .. }) if file == path => {}
        opened => return Err(format!("{:?}", opened.map(|rig| rig.log.state()))),
    }
    if disk.contents(path) != before {
        return Err("it was changed".to_owned());
    }
    Ok(())
}

#[test]
fn no_file_that_was_cut_short_is_taken_for_a_torn_write() {
    for script in [Life::appends, Life::turnover, Life::long] {
        let cuts = every_cut(&tiny(), script).expect("told");
        assert!(cuts.refused > 4000 && cuts.harmless > 100, "{cuts:?}");
    }
}

#[test]
fn a_file_that_its_header_fills_is_no_exception() {
    let disk = small_pages();
    let mut rig = Rig::new(&disk, tiny());
    (0..300).for_each(|index| rig.append(index + 1, index..index + 1, 1));
    rig.log.roll(rig.ignored()).expect("queues");
    rig.append(300, 300..301, 1);
    let newest = rig.log.files().pop().expect("there is one");
    drop(rig);
    disk.crash(&CrashPlan::LoseAll);
    let bytes = disk.contents(&newest.path).expect("is there").len();
    assert!(bytes as u64 > tiny().file_bytes);
    // From within the header's last run on.
    for length in bytes - 110..bytes {
        let cut = disk.fork();
        cut.cut(&newest.path, length);
        judge(&cut, &newest.path, &tiny(), &[], true).expect("told");
    }
}

#[test]
fn the_cut_test_catches_rot_taken_for_torn() {
    every_cut(&with(BuiltinBug::RotAsTorn), Life::appends).expect_err("the bug goes unseen");
}
