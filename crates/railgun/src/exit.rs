//! How a command ends: the exit codes, and what a person is told when it fails.

use std::process::ExitCode;
use std::{fmt, io};

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
    /// No connection to the server or the bucket, or it was lost and did not come back.
    CannotConnect = 3,
    /// The stream, node, context, file or directory does not exist.
    NotFound = 4,
    /// The server refused; nothing was changed. Also a drift found by `--mode check`.
    Refused = 5,
    /// It is not known whether the server did it.
    OutcomeUnknown = 6,
    /// The command did what it was asked, and the cluster is not well: of `cluster status`, a shard has
    /// no leader or has lost its majority.
    Unavailable = 7,
    /// Ctrl-C, as a shell counts a process that ended by it. Of `serve`: a second one.
    Interrupted = 130,
    /// SIGTERM, likewise.
    Terminated = 143,
}

impl Exit {
    /// For a file or directory that cannot be used.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::Failed,
        }
    }

    /// Every code with its meaning, as `railgun --help` shows them.
    pub(crate) const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "done, or the reader of the output went away"),
        (Self::Failed, "failed"),
        (Self::Usage, "wrong command line or configuration"),
        (Self::CannotConnect, "no connection to the server or the bucket"),
        (Self::NotFound, "no such stream, group, dead letter, node, context, file or directory"),
        (Self::Refused, "refused by the server, or drift found; nothing changed"),
        (Self::OutcomeUnknown, "not known whether it was done"),
        (Self::Unavailable, "of cluster status: a shard has no leader, or no majority"),
        (
            Self::Interrupted,
            "ended by Ctrl-C; of serve, which stops in order first: by a second one",
        ),
        (Self::Terminated, "ended by SIGTERM; serve stops in order and ends with 0"),
    ];

    /// The table of exit codes for the end of a help page.
    pub(crate) fn table() -> String {
        let mut table = String::from("Exit codes:\n");
        for (exit, meaning) in Self::ALL {
            table.push_str(&format!("  {:<3}  {meaning}\n", *exit as u8));
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

    /// The same in other words.
    pub(crate) fn about(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// Where it happened: a server, a file, a bucket.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// As [`Self::at`], where nobody said anything more exact.
    pub(crate) fn or_at(mut self, place: &str) -> Self {
        self.place.get_or_insert_with(|| place.to_owned());
        self
    }

    /// What to do next, usually a command that can be run as it stands.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// As [`Self::next`], where nobody said anything more exact.
    pub(crate) fn or_next(mut self, next: impl FnOnce() -> String) -> Self {
        self.next.get_or_insert_with(next);
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
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 130, 143]);
        assert!(Exit::table().contains("\n  130  ended by Ctrl-C"), "{}", Exit::table());
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
