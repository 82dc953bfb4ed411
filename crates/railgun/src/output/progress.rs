//! How far a command is, on standard error, for whoever looks at a terminal.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a display moves by itself.
const TICK: Duration = Duration::from_millis(100);

/// A bar towards `total` bytes; nothing off a terminal, and nothing where the total is not known.
pub(crate) fn bytes(total: Option<u64>) -> ProgressBar {
    let Some(total) = total.filter(|_| io::stderr().is_terminal()) else {
        return ProgressBar::hidden();
    };
    styled(Some(total), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Records that were read so far. Only where the records themselves go elsewhere: a terminal that
/// shows them needs no count.
pub(crate) fn records() -> ProgressBar {
    if io::stdout().is_terminal() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    styled(None, "{spinner} {human_pos} records {per_sec} {elapsed}")
}

/// What is waited for, and for how long already. Needs a thread beside the one that waits.
pub(crate) fn waiting(what: String) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = styled(None, "{spinner} {msg} {elapsed}").with_message(what);
    bar.enable_steady_tick(TICK);
    bar
}

fn styled(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    // The templates are fixed; if one were wrong the default would do.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar
}
