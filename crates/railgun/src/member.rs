//! `railgun sub --group`: takes messages as a member of a consumer group, and settles them.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::pin::pin;
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use railgun_client::{
    Client, Delivery, EnsureOutcome, GroupBuilder, GroupEnsured, GroupError, GroupEvent, GroupName,
    GroupPatch, GroupSubscription, PauseReason, StreamName,
};
use tokio::sync::{mpsc, oneshot};

use crate::config::ByteSize;
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::format::{Shown, rfc3339, safe};
use crate::output::records::{RecordFormat, RecordPrinter};
use crate::output::table::or_closed;
use crate::position::Start;
use crate::span::Span;
use crate::stream::differences;

/// Messages that wait for a command that takes them one by one: others may be quicker with them.
const CREDIT_EXEC: u32 = 8;
/// Messages that are printed before they are acked together.
const PRINTED_MAX: usize = 1_000;
/// The end of a command's standard error that is looked at for the reason of its failure.
const REASON_BYTES_MAX: usize = 1 << 10;
/// Most bytes of its lines.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// What is said of messages before they come.
const EARLY_MAX: usize = 1_000;
/// Lines of standard input that wait.
const LINES_MAX: usize = 64;

/// How to take messages as a member of a group.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "As a member of a consumer group")]
pub(crate) struct MemberArgs {
    /// Take messages as a member of this group, which its members share out
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<GroupName>,
    /// Only if the group is an exclusive one: all messages to one member, in order
    #[arg(long, requires = "group")]
    exclusive: bool,
    /// When a message is settled [default: auto]
    #[arg(long, value_enum, requires = "group", value_name = "WHEN")]
    ack: Option<Ack>,
    /// Run this for each message, with its value on standard input and RAILGUN_OFFSET, RAILGUN_ATTEMPT,
    /// RAILGUN_KEY and RAILGUN_FENCING_TOKEN; the message is acked if it succeeds and nacked if it fails, with
    /// the last line of its standard error as the reason
    #[arg(long, value_name = "COMMAND", requires = "group", conflicts_with_all = ["ack", "raw", "format"])]
    exec: Option<String>,
    /// Most messages to have at a time [default: 1000; with --exec 8]
    #[arg(long, value_name = "N", requires = "group", value_parser = clap::value_parser!(u32).range(1..))]
    credit: Option<u32>,
    /// Fetch up to this many messages, once, and end with what has come
    #[arg(long, value_name = "N", requires = "group", conflicts_with = "limit",
          value_parser = clap::value_parser!(u32).range(1..))]
    fetch: Option<u32>,
    /// How long --fetch waits for all of them; 0s: not at all [default: 5s]
    #[arg(long, value_name = "TIME", requires = "fetch")]
    wait: Option<Span>,
    /// Most bytes that --fetch brings; a message that is larger comes alone [default: 16MiB]
    #[arg(long, value_name = "SIZE", requires = "fetch")]
    max_bytes: Option<ByteSize>,
    /// Make the group if it is absent, from --from on
    #[arg(long, requires = "group")]
    pub(crate) create: bool,
}

/// When a message is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// Acked once it is printed
    Auto,
    /// As lines of standard input say: ack OFFSET, nack OFFSET, nack OFFSET DELAY or reject OFFSET REASON
    Manual,
    /// Never: it is delivered again
    None,
}

/// A member, as the command line says.
pub(crate) struct Member {
    pub(crate) stream: StreamName,
    pub(crate) group: GroupName,
    pub(crate) from: Start,
    pub(crate) limit: Option<u64>,
    pub(crate) format: RecordFormat,
    pub(crate) args: MemberArgs,
}

impl Member {
    /// Takes messages until there are enough, and leaves when all that was said of them is committed.
    pub(crate) async fn run(self, client: &Client) -> CommandResult {
        let Self { stream, group, args, .. } = &self;
        let mut builder = client.subscribe(stream.clone()).group(group.clone());
        if args.exclusive {
            builder = builder.exclusive();
        }
        if args.create {
            let start = self.from.start(jiff::Timestamp::now());
            builder = builder.start(start).create(GroupPatch::default());
        }
        if let Some(messages) = args.fetch {
            let builder = builder.credit(args.credit.unwrap_or(messages));
            return self.fetch(builder, messages as usize).await;
        }
        if let Some(credit) = args.credit.or(args.exec.is_some().then_some(CREDIT_EXEC)) {
            builder = builder.credit(credit);
        }
        let mut member = builder.open().await.map_err(|error| self.failed(&error))?;
        tell_made(member.ensured());
        match (&args.exec, args.ack.unwrap_or(Ack::Auto)) {
            (Some(command), _) => self.execute(command, &mut member).await?,
            (None, Ack::Manual) => return self.obey(member).await,
            (None, Ack::Auto) => self.print(&mut member, Delivery::ack).await?,
            (None, Ack::None) => {
                self.print(&mut member, drop).await?;
                return member.close().await.map_err(|error| self.failed(&error));
            }
        }
        member.drain().await.map_err(|error| self.failed(&error))
    }

    /// Fetches once, and settles what comes.
    async fn fetch(&self, builder: GroupBuilder, messages: usize) -> CommandResult {
        let args = &self.args;
        let failed = |error: GroupError| self.failed(&error);
        if args.ack == Some(Ack::Manual) {
            let text = "--fetch ends with what has come, and says nothing of it later";
            return Err(Failure::new(Exit::Usage, text).next("the same with --limit"));
        }
        let mut member = builder.pull().await.map_err(failed)?;
        tell_made(member.ensured());
        let mut fetch = member.fetch(messages);
        if let Some(wait) = args.wait {
            fetch = fetch.wait(wait.0);
        }
        if let Some(bytes) = args.max_bytes {
            fetch = fetch.max_bytes(bytes.0);
        }
        let fetched = fetch.await.map_err(failed)?;
        while let Some(news) = member.news() {
            tell(&news);
        }
        if let Some(command) = &args.exec {
            let extend_every = extend_every(member.ack_wait());
            let mut fetched = VecDeque::from(fetched);
            while let Some(delivery) = fetched.pop_front() {
                // Those behind it wait for as long as it takes.
                let behind = fetched.make_contiguous();
                behind.iter().for_each(Delivery::extend);
                self.run_for(command, delivery, behind, extend_every).await?;
            }
            return member.drain().await.map_err(failed);
        }
        let mut printer = self.printer();
        for delivery in &fetched {
            if let Err(error) = printer.print(&Shown::from(&delivery.record)) {
                return or_closed(Err(error));
            }
        }
        if let written @ Err(_) = printer.flush() {
            return or_closed(written);
        }
        if args.ack == Some(Ack::None) {
            drop(fetched);
            return member.close().await.map_err(failed);
        }
        fetched.into_iter().for_each(Delivery::ack);
        member.drain().await.map_err(failed)
    }

    fn failed(&self, error: &GroupError) -> Failure {
        explain::group(error, &self.stream, &self.group)
    }

    fn printer(&self) -> RecordPrinter<io::Stdout> {
        RecordPrinter::new(io::stdout(), self.format.clone(), self.limit)
    }

    /// Prints messages, and says `then` of each once it is where it goes.
    async fn print(&self, member: &mut GroupSubscription, then: fn(Delivery)) -> CommandResult {
        let mut printer = self.printer();
        let mut printed: Vec<Delivery> = Vec::new();
        while !printer.is_full() {
            let event = {
                let mut next = pin!(member.next());
                match futures::poll!(next.as_mut()) {
                    Poll::Ready(event) if printed.len() < PRINTED_MAX => event,
                    Poll::Ready(event) => {
                        or_closed(printer.flush())?;
                        printed.drain(..).for_each(then);
                        event
                    }
                    // Nothing more is here now: what was printed is not kept from the reader.
                    Poll::Pending => {
                        if let written @ Err(_) = printer.flush() {
                            return or_closed(written);
                        }
                        printed.drain(..).for_each(then);
                        next.await
                    }
                }
            };
            match event.map_err(|error| self.failed(&error))? {
                Some(GroupEvent::Delivery(delivery)) => {
                    if let Err(error) = printer.print(&Shown::from(&delivery.record)) {
                        return or_closed(Err(error));
                    }
                    printed.push(delivery);
                }
                Some(news) => tell(&news),
                None => break,
            }
        }
        if let written @ Err(_) = printer.flush() {
            return or_closed(written);
        }
        printed.into_iter().for_each(then);
        Ok(())
    }

    /// Prints messages, and says of them what standard input says.
    async fn obey(&self, mut member: GroupSubscription) -> CommandResult {
        let mut printer = self.printer();
        let mut lines = lines_of_stdin();
        let (mut words, mut is_over) = (Words::default(), false);
        // Once nobody says anything more, what nothing was said of is delivered again.
        while !(printer.is_full() || is_over && words.early.is_empty()) || words.waits(is_over) {
            let is_full = printer.is_full();
            tokio::select! {
                biased;
                line = lines.recv(), if !is_over => match line {
                    Some(line) => match line.parse() {
                        Ok(word) => words.say(word),
                        Err(error) => eprintln!("warning: {error}"),
                    },
                    None => is_over = true,
                },
                event = member.next(), if !is_full => {
                    match event.map_err(|error| self.failed(&error))? {
                        Some(GroupEvent::Delivery(delivery)) => {
                            let printed = printer.print(&Shown::from(&delivery.record));
                            if let Err(error) = printed.and_then(|_| printer.flush()) {
                                return or_closed(Err(error));
                            }
                            words.hold(delivery);
                        }
                        Some(news) => tell(&news),
                        None => break,
                    }
                }
            }
        }
        member.close().await.map_err(|error| self.failed(&error))
    }

    /// Runs a command for each message.
    async fn execute(&self, command: &str, member: &mut GroupSubscription) -> CommandResult {
        let mut left = self.limit.unwrap_or(u64::MAX);
        let extend_every = extend_every(member.ack_wait());
        while left > 0 {
            match member.next().await.map_err(|error| self.failed(&error))? {
                Some(GroupEvent::Delivery(delivery)) => {
                    left -= 1;
                    self.run_for(command, delivery, &[], extend_every).await?;
                }
                Some(news) => tell(&news),
                None => break,
            }
        }
        Ok(())
    }

    /// Runs a command for a message, and settles it; `behind` wait for it.
    async fn run_for(
        &self,
        command: &str,
        delivery: Delivery,
        behind: &[Delivery],
        extend_every: Duration,
    ) -> CommandResult {
        let ran = start(command, &delivery).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot run a command: {error}"))
                .at("sh -c")
                .next("the same where there is a shell")
        })?;
        match finished(ran, &delivery, behind, extend_every).await {
            Ok(()) => delivery.ack(),
            Err(reason) => {
                eprintln!("warning: message {} failed: {}", delivery.offset(), safe(&reason));
                delivery.nack_because(&reason, None);
            }
        }
        Ok(())
    }
}

/// How often more time is asked for.
fn extend_every(ack_wait: Duration) -> Duration {
    (ack_wait / 3).max(Duration::from_millis(10))
}

fn tell_made(made: Option<&GroupEnsured>) {
    let Some(made) = made else { return };
    made.warnings.iter().for_each(|warning| eprintln!("warning: {}", safe(warning)));
    if let EnsureOutcome::Drift(diff) = &made.outcome {
        eprint!("warning: the group differs and was left so\n{}", differences(diff));
    }
}

type Ran = oneshot::Receiver<(io::Result<ExitStatus>, String)>;

/// Starts a command for a message, in threads of its own.
fn start(command: &str, delivery: &Delivery) -> io::Result<Ran> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).stderr(Stdio::piped());
    shell.env("RAILGUN_OFFSET", delivery.offset().to_string());
    shell.env("RAILGUN_ATTEMPT", delivery.attempt().to_string());
    shell.env_remove("RAILGUN_KEY").env_remove("RAILGUN_FENCING_TOKEN");
    // No variable can hold a NUL.
    if let Some(key) = delivery.record.key.as_ref().filter(|key| !key.contains(&0)) {
        shell.env("RAILGUN_KEY", OsStr::from_bytes(key));
    }
    if let Some(token) = delivery.fencing_token() {
        shell.env("RAILGUN_FENCING_TOKEN", token.to_string());
    }
    let mut child = shell.spawn()?;
    let (done, ran) = oneshot::channel();
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let value = delivery.record.value.clone();
    // A command need not read what it is given.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&value)));
    thread::spawn(move || {
        let reason = stderr.map(|said| last_line(said, io::stderr())).unwrap_or_default();
        // Whoever waited may be gone.
        let _ = done.send((child.wait(), reason));
    });
    Ok(ran)
}

/// Passes on what a command says on standard error; its last line that is not empty.
fn last_line(stderr: impl Read, mut heard: impl io::Write) -> String {
    let mut last = Vec::new();
    let mut said = BufReader::new(stderr);
    let mut line = Vec::new();
    // Whoever says much without an end of line says several.
    while matches!(said.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line), Ok(1..)) {
        // Where nobody hears it, it is the reason of the failure all the same.
        let _ = heard.write_all(&line);
        if !line.trim_ascii().is_empty() {
            line.truncate(REASON_BYTES_MAX);
            std::mem::swap(&mut last, &mut line);
        }
        line.clear();
    }
    String::from_utf8_lossy(last.trim_ascii()).into_owned()
}

/// Waits for a command, however long it takes. Fails with the reason, for people.
async fn finished(
    mut ran: Ran,
    delivery: &Delivery,
    behind: &[Delivery],
    extend_every: Duration,
) -> Result<(), String> {
    loop {
        let (status, reason) = tokio::select! {
            biased;
            ended = &mut ran => ended.map_err(|_| "the command is lost".to_owned())?,
            () = tokio::time::sleep(extend_every) => {
                delivery.extend();
                behind.iter().for_each(Delivery::extend);
                continue;
            }
        };
        return match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) if reason.is_empty() => Err(status.to_string()),
            Ok(_) => Err(reason),
            Err(error) => Err(error.to_string()),
        };
    }
}

/// What is said of a message on standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Ack(u64),
    Nack(u64, Option<Span>),
    Reject(u64, String),
}

impl FromStr for Word {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let usage = || "write ack OFFSET, nack OFFSET [DELAY] or reject OFFSET REASON".to_owned();
        let (verb, rest) = line.trim().split_once(' ').ok_or_else(usage)?;
        let (offset, rest) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        let (offset, rest) = (offset.parse().map_err(|_| usage())?, rest.trim());
        match (verb, rest) {
            ("ack", "") => Ok(Self::Ack(offset)),
            ("nack", "") => Ok(Self::Nack(offset, None)),
            ("nack", delay) => match delay.parse() {
                Ok(span) => Ok(Self::Nack(offset, Some(span))),
                Err(error) => Err(crate::span::SpanError::to_string(&error)),
            },
            ("reject", reason) => Ok(Self::Reject(offset, reason.to_owned())),
            _ => Err(usage()),
        }
    }
}

impl Word {
    fn offset(&self) -> u64 {
        let (Self::Ack(offset) | Self::Nack(offset, _) | Self::Reject(offset, _)) = self;
        *offset
    }

    fn about(self, delivery: Delivery) {
        match self {
            Self::Ack(_) => delivery.ack(),
            Self::Nack(_, delay) => delivery.nack_because("", delay.map(|span| span.0)),
            Self::Reject(_, reason) => delivery.reject(&reason),
        }
    }
}

/// Messages of which nothing was said, and what was said of messages that have not come.
#[derive(Debug, Default)]
struct Words {
    held: BTreeMap<u64, Delivery>,
    early: BTreeMap<u64, Word>,
}

impl Words {
    fn say(&mut self, word: Word) {
        match self.held.remove(&word.offset()) {
            Some(delivery) => word.about(delivery),
            None if self.early.len() < EARLY_MAX => {
                self.early.insert(word.offset(), word);
            }
            None => eprintln!("warning: no message of offset {} has come", word.offset()),
        }
    }

    fn hold(&mut self, delivery: Delivery) {
        match self.early.remove(&delivery.offset().0) {
            Some(word) => word.about(delivery),
            // One that came again takes the place of the one before it.
            None => drop(self.held.insert(delivery.offset().0, delivery)),
        }
    }

    /// Whether something may still be said of what has come.
    fn waits(&self, is_over: bool) -> bool {
        !is_over && !self.held.is_empty()
    }
}

/// The lines of standard input, read by a thread of their own: it cannot be told to stop waiting.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (lines, read) = mpsc::channel(LINES_MAX);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    read
}

/// News of the group, for whoever looks at standard error.
fn tell(news: &GroupEvent) {
    match news {
        GroupEvent::Skipped(range) => {
            eprintln!("warning: the stream lost {range} before the group had settled them");
        }
        GroupEvent::Stale { range, reason } => {
            eprintln!("warning: offsets {range} could not be settled: {}", reason.text());
        }
        GroupEvent::Stalled { blocking } => {
            eprintln!("warning: nothing new comes before offset {blocking} is settled");
        }
        GroupEvent::Paused(PauseReason::Operator) => {
            eprintln!("warning: the group is paused by an operator\n next: railgun group resume");
        }
        GroupEvent::Paused(PauseReason::Breaker) => {
            eprintln!(
                "warning: the group is paused, as too many messages became dead letters\n \
                 next: railgun dlq ls, and railgun group resume when it is mended"
            );
        }
        GroupEvent::Paused(PauseReason::Until(time)) => {
            eprintln!("the next message comes no earlier than {}", rfc3339(time.0));
        }
        GroupEvent::Paused(PauseReason::Unknown) => eprintln!("warning: the group is paused"),
        GroupEvent::Active { fencing_token } => {
            eprintln!("active, with fencing token {fencing_token}");
        }
        GroupEvent::Inactive => eprintln!("another member is the active one"),
        GroupEvent::Resumed | GroupEvent::Unpaused => eprintln!("the group goes on"),
        GroupEvent::Delivery(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_came_of_a_message() {
        let word = |line: &str| line.parse::<Word>();
        assert_eq!(word("ack 5"), Ok(Word::Ack(5)));
        assert_eq!(word(" nack  7 "), Ok(Word::Nack(7, None)));
        assert_eq!(word("nack 7 5s"), Ok(Word::Nack(7, Some(Span(Duration::from_secs(5))))));
        assert_eq!(word("reject 9 not JSON at all"), Ok(Word::Reject(9, "not JSON at all".into())));
        for bad in ["", "ack", "ack x", "ack 5 6", "nack 7 soon", "drop 5"] {
            assert!(word(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_last_line_of_a_command_is_the_reason_of_its_failure() {
        let mut heard = Vec::new();
        let mut last = |said: &str| last_line(said.as_bytes(), &mut heard);
        assert_eq!(last(""), "");
        assert_eq!(last("one\ntwo \n\n  \n"), "two");
        assert_eq!(last(&"x".repeat(5_000)).len(), REASON_BYTES_MAX);
        assert_eq!(heard.len(), 13 + 5_000, "all of it is passed on");
    }
}
