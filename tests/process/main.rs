//! The real binary, as users run it: killed, told to stop, without bucket, without disk or with one
//! that fails. Each test has directories and ports of its own, and ends the processes it started.

mod bucket_lost;
mod commands;
mod disk_failed;
mod disk_full;
mod durable;
mod examples;
mod groups;
mod joining;
mod kill_loop;
mod ledger;
mod load;
mod main_job;
mod mount;
mod readme;
mod s3_gate;
mod seed;
mod site;
mod starting;
mod stopping;
mod strace;
mod waiting;

pub(crate) use waiting::{LOOK_EVERY, eventually, not_tested};
