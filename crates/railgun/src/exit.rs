//! How a command ends: the exit codes, and what a person is told when it fails.

use std::fmt;
use std::process::ExitCode;

/// The exit codes of `railgun`. Scripts may rely on them; numbers never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The command did what it was asked, or its output was closed early by the reader.
    Ok = 0,
    /// Something failed that no other code names.
    Failed = 1,
    /// The command line or a configuration file is wrong.
    Usage = 2,
    /// No connection to the server, or it was lost and did not come back.
    CannotConnect = 3,
    /// The stream, context or file does not exist.
    NotFound = 4,
    /// The server refused; nothing was changed. Also a drift found by `--mode check`.
    Refused = 5,
    /// It is not known whether the server did it.
    OutcomeUnknown = 6,
}

impl Exit {
    /// Every code with its meaning, as `railgun --help` shows them.
    pub(crate) const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "done, or the reader of the output went away"),
        (Self::Failed, "failed"),
        (Self::Usage, "wrong command line or configuration"),
        (Self::CannotConnect, "no connection to the server"),
        (Self::NotFound, "no such stream, context or file"),
        (Self::Refused, "refused by the server, or drift found; nothing changed"),
        (Self::OutcomeUnknown, "not known whether it was done"),
    ];

    /// The table of exit codes for the end of a help page.
    pub(crate) fn table() -> String {
        let mut table = String::from("Exit codes:\n");
        for (exit, meaning) in Self::ALL {
            table.push_str(&format!("  {}  {meaning}\n", *exit as u8));
        }
        table.truncate(table.trim_end().len());
        table
    }
}

/// A failed command: what happened, to which thing, and what to try next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    place: Option<String>,
    next: Option<String>,
}

/// What every command returns.
pub(crate) type CommandResult = Result<(), Failure>;

impl Failure {
    /// A failure that says what happened to which thing.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), place: None, next: None }
    }

    /// Where it happened: a server, a file, a bucket.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// What to do next, usually a command that can be run as it stands.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// How the process ends.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n   at: {place}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n next: {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Tells the person at the terminal how the command ended, and gives the process its exit code.
pub(crate) fn report(result: CommandResult) -> ExitCode {
    let exit = match result {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_code_once_and_in_order() {
        let numbers: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| *exit as u8).collect();
        assert_eq!(numbers, (0..=Exit::OutcomeUnknown as u8).collect::<Vec<_>>());
    }

    #[test]
    fn a_failure_says_what_where_and_what_next() {
        let failure = Failure::new(Exit::NotFound, "no stream 'orders'")
            .at("127.0.0.1:4733")
            .next("railgun stream ensure orders");
        assert_eq!(
            failure.to_string(),
            "error: no stream 'orders'\n   at: 127.0.0.1:4733\n next: railgun stream ensure orders"
        );
    }
}
