//! Every operation that fails where the process, not the machine, starts again: what was written is in
//! memory, and counts as clean though it is not on the disk.

use std::io::ErrorKind;

use super::exhaustive::{Life, recover_twice, tiny, with};
use super::naive::{Naive, recovered_prefix};
use super::rig::Rig;
use crate::{BuiltinBug, CrashPlan, Fault, LogOptions, OpenError, SimDisk, SimDiskOptions, SimOp};

const FATAL: [SimOp; 5] = [SimOp::Write, SimOp::Sync, SimOp::SyncDir, SimOp::Rename, SimOp::Create];

/// Fails each operation of a kind, one a run, and recovers in a new process: at once; after recoveries
/// that fail, too; and with memory that runs short in the middle. The first thing that is not as it must
/// be is the error; else the number of recoveries.
fn every_failure(
    options: &LogOptions,
    direct: bool,
    op: SimOp,
    script: impl Fn(&mut Life, &mut Rig),
) -> Result<u64, String> {
    let mut recoveries = 0;
    for after in 0.. {
        let options_of_disk =
            SimDiskOptions { page_bytes: 256, direct, ..SimDiskOptions::default() };
        let disk = SimDisk::new(options_of_disk);
        disk.fail(Fault { op, after, kind: ErrorKind::Other });
        let mut life = Life::default();
        if let Ok(mut rig) = Rig::open(&disk, options.clone()) {
            script(&mut life, &mut rig);
            life.drive(&mut rig);
        }
        if disk.faults_left() > 0 {
            break;
        }
        disk.crash(&CrashPlan::ProcessOnly);
        let states = Naive::prefixes(&life.asked);
        let context = |how: &str, why| format!("{op:?} {after} failed, {how}: {why}");
        recover_twice(&disk.fork(), options, &states, life.acked)
            .map_err(|why| context("then nothing", why))?;
        recoveries += 1;
        for syncs in 0.. {
            let again = disk.fork();
            again.fail(Fault { op: SimOp::Sync, after: syncs, kind: ErrorKind::Other });
            if Rig::open(&again, options.clone()).is_ok() {
                break;
            }
            again.crash(&CrashPlan::ProcessOnly);
            recover_twice(&again, options, &states, life.acked)
                .map_err(|why| context(&format!("then sync {syncs} of the recovery"), why))?;
            recoveries += 1;
        }
        for reads in 0.. {
            let again = disk.fork();
            again.short_of_memory_after(reads);
            let opened = Rig::open(&again, options.clone());
            if again.faults_left() > 0 {
                break;
            }
            let how = format!("then {reads} reads");
            let shown = match &opened {
                // What it had read was gone when it was to be made durable.
                Err(OpenError::Io(_)) => life.acked,
                // From here on all that it shows must stay.
                opened => recovered_prefix(&states, life.acked, opened)
                    .map_err(|why| context(&how, why))?,
            };
            drop(opened);
            again.crash(&CrashPlan::ProcessOnly);
            recover_twice(&again, options, &states, shown).map_err(|why| context(&how, why))?;
            recoveries += 1;
        }
    }
    Ok(recoveries)
}

#[test]
fn what_a_failed_sync_left_in_memory_is_durable_before_it_is_relied_on() {
    for direct in [false, true] {
        for op in FATAL {
            let recoveries = every_failure(&tiny(), direct, op, Life::appends).expect("recovers");
            assert!(recoveries > 10, "{op:?}: {recoveries}");
            let recoveries = every_failure(&tiny(), direct, op, Life::turnover).expect("recovers");
            assert!(recoveries > 10, "{op:?}: {recoveries}");
        }
    }
}

#[test]
fn it_is_seen_when_recovery_trusts_the_memory() {
    let trusting = with(BuiltinBug::OpenWithoutWrite);
    let caught = every_failure(&trusting, false, SimOp::Sync, Life::appends);
    assert!(caught.is_err(), "unseen through {caught:?} recoveries");
}

#[test]
fn only_the_last_batch_is_written_again() {
    let disk = SimDisk::default();
    let options = LogOptions { write_bytes_max: 4096, ..LogOptions::default() };
    let mut rig = Rig::new(&disk, options.clone());
    for index in 0..500 {
        rig.append(1, index..index + 1, 1000);
    }
    drop(rig);
    let before = disk.written_bytes();
    drop(Rig::new(&disk, options));
    let again = disk.written_bytes() - before;
    assert!((1000..2500).contains(&again), "{again} bytes are written at a start");
}
