//! `railgun dlq`: list, show, redrive and give up the dead letters of a group.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use railgun_client::{Admin, Client, DeadLetter, DeadLetters, Offset, OffsetRange, StreamName};
use serde_json::Value;

use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::group::GroupRef;
use crate::output::format::rfc3339;
use crate::output::progress;
use crate::output::table::{Fields, Listing, Table, confirmed, print};
use crate::server::ServerArgs;

/// How long messages that are becoming dead letters are waited for.
const DYING_TIME: Duration = Duration::from_secs(3);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(50);

/// See, redrive and give up the dead letters of a group
///
/// A message that failed too often, or that its consumer refused, is copied into the stream
/// STREAM$dlq.GROUP, and the group goes on behind it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun dlq ls orders billing
  railgun dlq show orders billing 12345
  railgun dlq redrive orders billing
  railgun dlq purge orders billing --offset 12345")]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DlqCommand {
    /// List the dead letters of a group, and the messages that it has parked
    #[command(after_help = "Examples:
  railgun dlq ls orders billing
  railgun dlq ls orders billing -o json")]
    Ls {
        #[command(flatten)]
        group: GroupRef,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one dead letter: why it died, and the message
    #[command(after_help = "Examples:
  railgun dlq show orders billing 12345
  railgun dlq show orders billing 12345 -o json")]
    Show {
        #[command(flatten)]
        group: GroupRef,
        /// Its offset in the stream
        offset: u64,
        #[command(flatten)]
        listing: Listing,
    },
    /// Deliver dead letters again, to this group alone, as if they had never failed
    ///
    /// With --to they are published into another stream instead, under ids by which none is in it twice, and
    /// given up here.
    #[command(after_help = "Examples:
  railgun dlq redrive orders billing
  railgun dlq redrive orders billing --to orders-retry
  railgun dlq redrive orders billing --offset 12345 --offset 12399")]
    Redrive {
        #[command(flatten)]
        group: GroupRef,
        /// Only this one; may be repeated [default: all]
        #[arg(long = "offset", value_name = "N")]
        offsets: Vec<u64>,
        /// Publish them into this stream, which must hold ids (--dedup-window)
        #[arg(long, value_name = "STREAM")]
        to: Option<StreamName>,
    },
    /// Give dead letters up: they cannot be redriven any more
    #[command(after_help = "Examples:
  railgun dlq purge orders billing --offset 12345
  railgun dlq purge orders billing --yes")]
    Purge {
        #[command(flatten)]
        group: GroupRef,
        /// Only this one; may be repeated [default: all]
        #[arg(long = "offset", value_name = "N")]
        offsets: Vec<u64>,
        /// Do not ask; nobody is asked where standard input is no terminal
        #[arg(short, long)]
        yes: bool,
    },
}

/// Runs `railgun dlq …`.
pub(crate) async fn run(args: DlqArgs, server: &ServerArgs) -> CommandResult {
    let answer = async |client: &Client| match args.command {
        DlqCommand::Ls { group, listing } => list(client, &group, listing).await,
        DlqCommand::Show { group, offset, listing } => {
            show(client, &group, Offset(offset), listing).await
        }
        DlqCommand::Redrive { group, offsets, to: None } => redrive(client, &group, &offsets).await,
        DlqCommand::Redrive { group, offsets, to: Some(to) } => {
            redrive_to(client, &group, &offsets, &to).await
        }
        DlqCommand::Purge { group, offsets, yes } => purge(client, &group, &offsets, yes).await,
    };
    server.with_client(answer).await
}

/// Waits a moment for messages that have just failed for the last time.
async fn until_dead(admin: &Admin, group: &GroupRef) -> CommandResult {
    let begun = tokio::time::Instant::now();
    loop {
        let described = admin.describe_group(&group.stream, &group.group).await;
        let dying = described.map_err(|error| group.explain(&error))?.dying;
        if dying == 0 {
            return Ok(());
        }
        if begun.elapsed() >= DYING_TIME {
            eprintln!("warning: {dying} more messages are about to become dead letters");
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn open(client: &Client, group: &GroupRef) -> Result<DeadLetters, Failure> {
    until_dead(&client.admin(), group).await?;
    let letters = DeadLetters::open(client, &group.stream, &group.group).await;
    letters.map_err(|error| explain::dead_letters(&error, &group.stream))
}

async fn list(client: &Client, group: &GroupRef, listing: Listing) -> CommandResult {
    let progress = progress::records();
    let mut letters = open(client, group).await?;
    let mut rows: Vec<(Offset, [Value; 8])> = Vec::new();
    let time =
        |time: Option<railgun_client::Timestamp>| Value::from(time.map(|time| rfc3339(time.0)));
    while let Some(letter) =
        letters.next().await.map_err(|error| explain::dead_letters(&error, &group.stream))?
    {
        progress.inc(1);
        let row = [
            Value::from(letter.offset.0),
            "dead".into(),
            letter.reason.into(),
            letter.attempts.into(),
            letter.redriven.into(),
            time(letter.died_at),
            letter.record.value.len().into(),
            letter.last_error.into(),
        ];
        rows.push((letter.offset, row));
    }
    progress.finish_and_clear();
    let bare = |offset: Offset, state: &str| {
        let mut row: [Value; 8] = std::array::from_fn(|_| Value::Null);
        (row[0], row[1]) = (offset.0.into(), state.into());
        (offset, row)
    };
    rows.extend(letters.without_copy().map(|offset| bare(offset, "dead, without a copy")));
    let parked = letters.offsets().parked.iter().flat_map(OffsetRange::iter);
    rows.extend(parked.map(|offset| bare(offset, "parked")));
    rows.sort_by_key(|(offset, _)| *offset);
    let columns =
        ["offset", "state", "reason", "attempts", "redriven", "died at", "bytes", "last error"];
    let mut table = Table::new(&columns);
    for (_, row) in rows {
        table.row(row);
    }
    listing.print(&table)
}

async fn show(
    client: &Client,
    group: &GroupRef,
    offset: Offset,
    listing: Listing,
) -> CommandResult {
    let mut letters = open(client, group).await?;
    while let Some(letter) =
        letters.next().await.map_err(|error| explain::dead_letters(&error, &group.stream))?
    {
        if letter.offset == offset {
            return listing.print_one(&fields(letter));
        }
    }
    let GroupRef { stream, group: name } = group;
    let is_parked = letters.offsets().parked.iter().any(|range| range.contains(offset));
    let failure = Failure::new(
        Exit::NotFound,
        format!("group '{stream}/{name}' has no dead letter of offset {offset}"),
    );
    Err(if is_parked {
        failure
            .about(format!("message {offset} is parked: the group has dead letters switched off"))
            .next(format!("railgun sub {stream} --from {offset} --limit 1"))
    } else {
        failure.next(format!("railgun dlq ls {stream} {name}"))
    })
}

fn fields(letter: DeadLetter) -> Fields {
    let time = |time: Option<railgun_client::Timestamp>| time.map(|time| rfc3339(time.0));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let DeadLetter { record, .. } = &letter;
    let headers = record.headers.iter().map(|(key, value)| (key.clone(), text(value).into()));
    Fields::default()
        .field("offset", letter.offset.0)
        .field("reason", letter.reason.as_str())
        .field("attempts", letter.attempts)
        .field("last_error", letter.last_error.as_deref())
        .field("first_delivered", time(letter.first_delivered))
        .field("died_at", time(letter.died_at))
        .field("redriven", letter.redriven)
        .field("id", record.id.as_deref().map(text))
        .field("key", record.key.as_deref().map(text))
        .field("headers", Value::Object(headers.collect()))
        .field("value", text(&record.value))
}

fn ranges(offsets: &[u64]) -> Vec<OffsetRange> {
    let mut offsets = offsets.to_vec();
    offsets.sort_unstable();
    offsets.dedup();
    let mut ranges: Vec<OffsetRange> = Vec::new();
    for offset in offsets.into_iter().map(Offset) {
        match ranges.last_mut() {
            Some(last) if last.end == offset => last.end = offset.plus(1),
            _ => ranges.push(OffsetRange::single(offset)),
        }
    }
    ranges
}

async fn redrive(client: &Client, group: &GroupRef, offsets: &[u64]) -> CommandResult {
    let (admin, GroupRef { stream, group: name }) = (client.admin(), group);
    until_dead(&admin, group).await?;
    let redriven = admin.redrive(stream, name, &ranges(offsets)).await;
    let messages = redriven.map_err(|error| group.explain(&error))?;
    tell_none(messages, group);
    print(&format!("{stream}/{name}: {messages} redriven\n"))
}

async fn redrive_to(
    client: &Client,
    group: &GroupRef,
    offsets: &[u64],
    to: &StreamName,
) -> CommandResult {
    let letters = open(client, group).await?;
    let of_these = |offset: &Offset| offsets.is_empty() || offsets.contains(&offset.0);
    let without_copy = letters.without_copy().filter(of_these).count();
    let redriven = letters.redrive_to(client, to, &ranges(offsets)).await;
    let redriven = redriven.map_err(|error| explain::redrive(&error, group, to))?;
    if without_copy > 0 {
        eprintln!("warning: {without_copy} dead letters have no copy any more, and were left");
    }
    let GroupRef { stream, group: name } = group;
    let (messages, duplicates) = (redriven.messages, redriven.duplicates);
    let before = match duplicates {
        0 => String::new(),
        some => format!(", {some} of them before"),
    };
    print(&format!("{stream}/{name}: {messages} published into {to}{before}\n"))
}

async fn purge(client: &Client, group: &GroupRef, offsets: &[u64], yes: bool) -> CommandResult {
    let (admin, GroupRef { stream, group: name }) = (client.admin(), group);
    until_dead(&admin, group).await?;
    if !yes && io::stdin().is_terminal() {
        let which = if offsets.is_empty() { "all".to_owned() } else { offsets.len().to_string() };
        let question = format!("give up {which} of the dead letters of '{stream}/{name}'?");
        if !confirmed(&question) {
            return Err(Failure::new(Exit::Refused, "no dead letter was given up")
                .next(format!("railgun dlq purge {stream} {name} --yes")));
        }
    }
    let discarded = admin.discard(stream, name, &ranges(offsets)).await;
    let messages = discarded.map_err(|error| group.explain(&error))?;
    tell_none(messages, group);
    print(&format!("{stream}/{name}: {messages} given up\n"))
}

fn tell_none(messages: u64, GroupRef { stream, group }: &GroupRef) {
    if messages == 0 {
        eprintln!(
            "warning: none of these is dead or parked\n next: railgun dlq ls {stream} {group}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_are_named_make_ascending_ranges() {
        let text = |offsets: &[u64]| {
            ranges(offsets).iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        assert_eq!(text(&[7, 3, 5, 4, 3]), "3-5,7");
        assert_eq!(text(&[]), "");
    }
}
