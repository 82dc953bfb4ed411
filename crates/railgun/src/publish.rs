//! `railgun pub`: publishes one message, or the lines of a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use railgun_client::{Client, PublishError, Published, Publisher, RecordDraft, StreamName, Ticket};
use railgun_types::limits::MESSAGE_BYTES_HARD;

use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::lines::{LineError, LineReader};
use crate::output::progress;
use crate::output::table::print;
use crate::rate::{Pace, Rate};
use crate::server::{LeaderArgs, ServerArgs};

/// How long a lost connection or a full server is met with trying again.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// What to do about a file that cannot be published.
const OTHER_FILE: &str = "pass another --file, or - for standard input";

/// Publish a message, or each line of a file
///
/// In a file or standard input a message ends at LF, which is removed. CR stays; an empty line is
/// an empty message; a last line without LF is a message.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun pub orders 'one coffee' --key table-4
  railgun pub orders 'one coffee' --id order-17
  railgun pub orders --file orders.ndjson
  tail -f app.log | railgun pub logs
  railgun pub orders tick --count 100 --rate 10")]
pub(crate) struct PubArgs {
    /// The stream; it must exist
    stream: StreamName,
    /// The message; without it, the lines of --file or of standard input
    #[arg(conflicts_with = "file")]
    message: Option<String>,
    /// Publish the lines of this file; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Key of every message
    #[arg(long)]
    key: Option<String>,
    /// Header of every message; may be repeated
    #[arg(long = "header", value_name = "KEY=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Message id: where the stream has an ID time box, a message that comes again with its id is
    /// appended once
    #[arg(long, requires = "message")]
    id: Option<String>,
    /// Publish the message this many times
    #[arg(long, value_name = "N", requires = "message", default_value_t = 1)]
    count: u64,
    /// Messages per second at most
    #[arg(long, value_name = "N")]
    rate: Option<Rate>,
    #[command(flatten)]
    leaders: LeaderArgs,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Sends messages as fast as allowed, and remembers the first and the last.
struct Sender<'a> {
    publisher: &'a Publisher,
    key: Option<&'a [u8]>,
    headers: Vec<(&'a str, &'a [u8])>,
    id: Option<&'a [u8]>,
    pace: Option<Pace>,
    first: Option<Ticket>,
    last: Option<Ticket>,
}

impl Sender<'_> {
    async fn send(&mut self, value: &[u8]) -> Result<(), Failure> {
        if let Some(pace) = &mut self.pace {
            pace.wait().await;
        }
        let headers = &self.headers;
        let draft = RecordDraft { key: self.key, headers, producer_ts: None, value, id: self.id };
        let ticket = match self.publisher.send_record(&draft).await {
            Ok(ticket) => ticket,
            Err(error) => return Err(explain::send(&error)),
        };
        if self.first.is_none() {
            self.first = Some(ticket);
        } else {
            self.last = Some(ticket);
        }
        Ok(())
    }
}

/// Runs `railgun pub`.
pub(crate) async fn run(args: PubArgs, server: &ServerArgs) -> CommandResult {
    // Before connecting: a file that is not there is the cheaper mistake to find.
    let input = match &args.message {
        Some(_) => None,
        None => Some(Input::open(args.file.as_ref())?),
    };
    server
        .following(&args.leaders)
        .with_client(async |client| publish(args, input, client).await)
        .await
}

async fn publish(args: PubArgs, input: Option<Input>, client: &Client) -> CommandResult {
    let publisher = client.publisher(args.stream.clone()).give_up_after(GIVE_UP_AFTER).open();
    let publisher = publisher.await.map_err(|error| explain::open(&error))?;
    let headers = args.headers.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let mut sender = Sender {
        publisher: &publisher,
        key: args.key.as_deref().map(str::as_bytes),
        headers: headers.collect(),
        id: args.id.as_deref().map(str::as_bytes),
        pace: args.rate.map(Pace::new),
        first: None,
        last: None,
    };
    let sent = match (input, &args.message) {
        (Some(input), _) => input.send_all(&mut sender).await,
        (None, message) => {
            let value = message.as_deref().unwrap_or_default().as_bytes();
            let mut sent = Ok(());
            for _ in 0..args.count {
                sent = sender.send(value).await;
                if sent.is_err() {
                    break;
                }
            }
            sent
        }
    };
    let (first, last) = (sender.first, sender.last);
    // What was given away is settled in any case, and its failure explains that of `send`.
    let settled = publisher.clone().close().await;
    let published = publisher.progress().published;
    if let Err(error) = settled {
        return Err(explain(&error, &args, published));
    }
    sent.map_err(|failure| finished(failure, &args, published))?;
    let first = ended(first).await;
    let last = ended(last).await.or(first);
    let stream = &args.stream;
    print(&match (first, last) {
        (Some(first), Some(last)) if first.offset == last.offset => {
            let known = if first.duplicate { ", published before under the same id" } else { "" };
            format!("{stream}: offset {}{known}\n", first.offset)
        }
        (Some(first), Some(last)) => {
            format!("{stream}: {published} messages, offsets {} to {}\n", first.offset, last.offset)
        }
        _ => format!("{stream}: no messages\n"),
    })
}

async fn ended(ticket: Option<Ticket>) -> Option<Published> {
    ticket?.await.ok()
}

fn after(stream: &StreamName, published: u64) -> String {
    format!("stream '{stream}', after {published} published messages")
}

/// A failure to send, completed with what is known once all that was sent is settled.
fn finished(failure: Failure, args: &PubArgs, published: u64) -> Failure {
    let failure = failure.or_at(&after(&args.stream, published));
    failure.or_next(|| behind(args, published))
}

/// Says which message failed, and how to go on behind those that are published.
fn explain(error: &PublishError, args: &PubArgs, published: u64) -> Failure {
    let failure = explain::publish(error, &args.stream).at(after(&args.stream, published));
    let from_file = args.file.as_deref().is_some_and(|file| file.as_os_str() != "-");
    if error.is_definite() && from_file { failure.next(behind(args, published)) } else { failure }
}

/// How to go on behind the published messages. They are the first lines of the input (PS-2). The
/// flags are left to whoever gave them: keys, headers, server and token belong to the command.
fn behind(args: &PubArgs, published: u64) -> String {
    let line = published + 1;
    match args.file.as_deref().filter(|file| file.as_os_str() != "-") {
        Some(file) => {
            let file = quoted(&file.to_string_lossy());
            format!("tail -n +{line} {file} | the same command with --file - instead of {file}")
        }
        None => format!("the same command with the input from its line {line} on"),
    }
}

/// A file's name as a shell takes it for one word and `tail` for no option.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    let name = if name.starts_with('-') { format!("./{name}") } else { name.to_owned() };
    if !name.is_empty() && name.chars().all(plain) {
        name
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

/// A file or standard input.
struct Input {
    name: String,
    read: Box<dyn Read>,
    /// Bytes in it, if it is a file.
    bytes: Option<u64>,
}

impl Input {
    fn open(path: Option<&PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            let name = "standard input".to_owned();
            return Ok(Self { name, read: Box::new(io::stdin().lock()), bytes: None });
        };
        let name = path.display().to_string();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|error| {
            Failure::new(Exit::of_io(&error), format!("cannot open the file: {error}"))
                .at(&name)
                .next(OTHER_FILE)
        })?;
        if metadata.is_dir() {
            let failure = Failure::new(Exit::Failed, "cannot read the file: it is a directory");
            return Err(failure.at(&name).next(OTHER_FILE));
        }
        let bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self { name, read: Box::new(file), bytes })
    }

    async fn send_all(self, sender: &mut Sender<'_>) -> Result<(), Failure> {
        let bar = progress::bytes(self.bytes);
        let mut lines = LineReader::new(self.read, MESSAGE_BYTES_HARD);
        loop {
            let line = lines.next().map_err(|error| unreadable(&self.name, &error))?;
            let Some(line) = line else { break };
            sender.send(line).await?;
            if !bar.is_hidden() {
                bar.set_position(lines.bytes());
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// The input does not go on.
fn unreadable(input: &str, error: &LineError) -> Failure {
    match error {
        // How many are published, and so where to go on, is known when all are settled.
        LineError::Read(_) => Failure::new(Exit::Failed, format!("{input}: {error}")),
        LineError::TooLong { .. } => Failure::new(Exit::Refused, error.to_string()).at(input).next(
            "the lines in front are published; split or leave out this one, and go on behind it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use railgun_client::{ErrorCode, WireError};

    use super::*;

    fn args(file: Option<&str>) -> PubArgs {
        PubArgs {
            stream: StreamName::new("orders").unwrap(),
            message: None,
            file: file.map(PathBuf::from),
            key: Some("K".into()),
            headers: Vec::new(),
            id: None,
            count: 1,
            rate: None,
            leaders: LeaderArgs::default(),
        }
    }

    #[test]
    fn who_failed_in_the_midst_of_a_file_is_told_where_to_go_on_with_all_flags() {
        let refused = PublishError::Refused(WireError::new(ErrorCode::Unavailable, "away"));
        let told = |file| explain(&refused, &args(Some(file)), 999).to_string();
        assert!(told("a").contains("\n   at: stream 'orders', after 999 published messages"));
        for (file, word) in [
            ("orders.ndjson", "orders.ndjson"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("-n", "./-n"),
            ("$(x)", "'$(x)'"),
        ] {
            let next = format!("tail -n +1000 {word} | the same command with --file - instead of");
            assert!(told(file).contains(&next), "{}", told(file));
        }
        // What came through a pipe is gone.
        assert!(!told("-").contains("tail"), "{}", told("-"));
    }

    /// Gives two lines, then fails as a disk does.
    struct Failing(bool);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("bad sector"));
            }
            buffer[..4].copy_from_slice(b"a\nb\n");
            Ok(4)
        }
    }

    #[test]
    fn an_input_that_fails_is_no_line_that_is_too_long() {
        let mut lines = LineReader::new(Failing(false), 10);
        let mut read = 0;
        let error = loop {
            match lines.next() {
                Ok(_) => read += 1,
                Err(error) => break unreadable("orders.ndjson", &error),
            }
        };
        assert_eq!(read, 2);
        let args = args(Some("orders.ndjson"));
        let text = finished(error, &args, 2).to_string();
        assert_eq!(
            text,
            "error: orders.ndjson: cannot read: bad sector\n   at: stream 'orders', after 2 \
             published messages\n next: tail -n +3 orders.ndjson | the same command with --file - \
             instead of orders.ndjson"
        );
    }

    #[test]
    fn a_directory_is_no_file_to_publish() {
        let Err(failure) = Input::open(Some(&PathBuf::from("/"))) else { panic!("opened") };
        assert!(failure.to_string().contains("it is a directory\n   at: /\n"), "{failure}");
    }
}
