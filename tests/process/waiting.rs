//! Conditions with a deadline, and what cannot be tested.

use std::io::Write as _;
use std::time::Duration;

/// How often a condition is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Says that a test cannot run here, past the harness, which keeps what passing tests print to itself.
/// Fails where `CI` is set, as the test would silently be none.
pub(crate) fn not_tested(what: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "cannot be tested here: {what}: {reason}");
    writeln!(std::io::stderr(), "NOT TESTED: {what}: {reason}").ok();
}

/// Looks until `look` finds something; panics when it has not within `limit`.
pub(crate) async fn eventually<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
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
