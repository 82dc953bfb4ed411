//! The real binary, as users run it: killed, told to stop, without bucket, without disk or with one
//! that fails. Each test has directories and ports of its own, and ends the processes it started.

mod bucket_lost;
mod commands;
mod disk_failed;
mod disk_full;
mod durable;
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

use std::io::Write as _;
use std::time::Duration;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Says that a test cannot run here, past the harness, which keeps what passing tests print to itself.
/// Fails where `CI` is set, as the test would silently be none.
fn not_tested(what: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot be tested here: {what}: {reason}");
    writeln!(std::io::stderr(), "NOT TESTED: {what}: {reason}").ok();
}

/// Looks until `look` finds something; panics when it has not within `limit`.
async fn eventually<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(limit, looking).await;
    found.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
}
