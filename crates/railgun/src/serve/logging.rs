//! Where log lines go and how they look.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::LogFormat;

/// Sends log lines to standard error; standard output is for what commands answer.
pub(crate) fn init(format: LogFormat, filter: &str) {
    let filter = EnvFilter::new(filter);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Pretty => lines.with_ansi(io::stderr().is_terminal()).boxed(),
    };
    // Fails where a subscriber exists already, whose lines then do as well.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}
