//! Panics in the thread of a run. Whoever waits for a task that panicked may take that for an answer that
//! did not come, and nobody waits for many: that a task panics breaks a rule, whatever becomes of it.

use std::cell::Cell;
use std::panic::{self, PanicHookInfo};
use std::sync::Once;

/// The rule that says so.
const RULE: &str = "panic";
/// The same, where Raft itself says that what it was told cannot be.
const RULE_OF_RAFT: &str = "openraft";

/// A panic: the rule that it breaks, and how.
pub(super) type Panic = (&'static str, String);

/// In a thread, since a run began there.
#[derive(Debug, Default)]
struct Noted {
    all: Vec<Panic>,
    /// Of these, so many were asked for.
    told: usize,
}

thread_local! {
    static NOTED: Cell<Noted> = Cell::default();
}

/// A run begins in this thread.
pub(super) fn begin() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            with_noted(|noted| noted.all.push(read(info)));
            before(info);
        }));
    });
    NOTED.set(Noted::default());
}

/// Those in this thread that nobody has asked for.
pub(super) fn fresh() -> Vec<Panic> {
    with_noted(|noted| {
        let fresh = noted.all[noted.told..].to_vec();
        noted.told = noted.all.len();
        fresh
    })
}

/// Every panic in this thread since a run began there, as broken rules: for whoever runs one that panics
/// itself.
#[must_use]
pub fn panics() -> Vec<String> {
    let all = with_noted(|noted| noted.all.clone());
    all.into_iter().map(|(rule, how)| format!("{rule}: {how}")).collect()
}

fn with_noted<T>(work: impl FnOnce(&mut Noted) -> T) -> T {
    let mut noted = NOTED.take();
    let result = work(&mut noted);
    NOTED.set(noted);
    result
}

fn read(info: &PanicHookInfo<'_>) -> Panic {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = info.location().map(|at| format!("{}:{}", of_crate(at.file()), at.line()));
    let place = place.unwrap_or_default();
    let rule = if place.starts_with("openraft") { RULE_OF_RAFT } else { RULE };
    (rule, format!("panicked at {place}: {}", text.unwrap_or("no message")))
}

/// The path of a file from the directory of its crate on, where the crate comes from a registry.
fn of_crate(path: &str) -> &str {
    let from_registry =
        path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    from_registry.map_or(path, |(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::super::trace::Trace;
    use super::super::world::in_virtual_time;
    use super::*;

    #[test]
    fn a_task_that_panics_breaks_a_rule_though_nobody_waits_for_it() {
        let violations = in_virtual_time(1, async {
            let history = History::new(Trace::begin());
            assert!(history.is_sound());
            tokio::spawn(async { panic!("nobody waits for this task") });
            tokio::task::yield_now().await;
            assert!(!history.is_sound());
            history.violations()
        });
        let [violation] = &violations[..] else { panic!("{violations:?}") };
        assert!(violation.starts_with("panic: panicked at crates/testkit/"), "{violation}");
        assert!(violation.ends_with(": nobody waits for this task"), "{violation}");
        assert_eq!(panics(), violations);
        in_virtual_time(2, async { assert!(History::new(Trace::begin()).is_sound()) });
    }

    #[test]
    fn what_raft_says_of_itself_has_a_rule_of_its_own() {
        let of = |path| of_crate(path).starts_with("openraft");
        assert!(of("cargo/registry/src/a-registry/openraft-0.10.0/src/a.rs"));
        assert!(!of("crates/raft/src/openraft.rs"));
    }
}
