//! `railgun sub`: reads a stream through a server.

use std::io;
use std::pin::pin;
use std::task::Poll;

use railgun_client::{Client, Event, RecordRun, Removed, RemovedReason, StreamName};

use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::member::{Member, MemberArgs};
use crate::output::format::Shown;
use crate::output::progress;
use crate::output::records::{Printed, RecordFormat, RecordPrinter};
use crate::output::table::or_closed;
use crate::position::{End, Start, Until};
use crate::server::ServerArgs;

/// Read a stream
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun sub orders                                       follow what comes from now on
  railgun sub orders --from earliest --until-end --raw     everything there is, values only
  railgun sub orders --from 15m --format '{ts} {key} {value}'
  railgun sub orders --from last:10 --limit 10
  railgun sub orders --group billing                       as a member of a group; acks what it prints
  railgun sub orders --group billing --exec './bill.sh'    acks what the command does, nacks what fails
  railgun sub orders --group billing --fetch 10 --wait 2s  up to 10 messages, once")]
pub(crate) struct SubArgs {
    /// The stream
    #[arg(value_parser = StreamName::parse_any)]
    stream: StreamName,
    /// Where to begin: earliest, latest, an offset, a time (RFC 3339), an age (15m) or last:N; of a group, only
    /// with --create [default: latest]
    #[arg(long, value_name = "WHERE")]
    from: Option<Start>,
    /// Where to end, exclusive: an offset, a time or an age
    #[arg(long, value_name = "WHERE", conflicts_with = "group")]
    until: Option<Until>,
    /// End at the last record there is now, instead of following
    #[arg(long, conflicts_with = "group")]
    until_end: bool,
    /// End after this many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    format: RecordFormat,
    #[command(flatten)]
    member: MemberArgs,
}

/// Runs `railgun sub`.
pub(crate) async fn run(args: SubArgs, server: &ServerArgs) -> CommandResult {
    let Some(group) = args.member.group.clone() else {
        return server.with_client(async |client| read(args, client).await).await;
    };
    if args.from.is_some() && !args.member.create {
        let text = "--from says where a group begins that is made, and none is to be made";
        return Err(Failure::new(Exit::Usage, text).next(format!(
            "railgun group reset {} {group} --to WHERE, or add --create",
            args.stream
        )));
    }
    let SubArgs { stream, from, limit, format, member: args, .. } = args;
    let member = Member { stream, group, from: from.unwrap_or(Start::Latest), limit, format, args };
    server.with_client(async |client| member.run(client).await).await
}

async fn read(args: SubArgs, client: &Client) -> CommandResult {
    let now = jiff::Timestamp::now();
    let mut builder = client.subscribe(args.stream);
    builder = builder.start(args.from.unwrap_or(Start::Latest).start(now));
    match args.until.map(|until| until.end(now)) {
        Some(End::Offset(offset)) => builder = builder.until_offset(offset),
        Some(End::Time(time)) => builder = builder.until_time(time),
        None => {}
    }
    if args.until_end {
        builder = builder.until_end();
    }
    let mut subscription = builder.open().await.map_err(|error| explain::subscribe(&error))?;
    let progress = progress::records();
    let mut printer = RecordPrinter::new(io::stdout().lock(), args.format, args.limit);
    while !printer.is_full() {
        let event = {
            let mut next = pin!(subscription.next_batch());
            match futures::poll!(next.as_mut()) {
                Poll::Ready(event) => event,
                // Nothing more is here now: what was printed is not kept from the reader.
                Poll::Pending => {
                    if let written @ Err(_) = printer.flush() {
                        return or_closed(written);
                    }
                    next.await
                }
            }
        };
        let printed = match event {
            Ok(Some(Event::Data(run))) => {
                progress.inc(run.len() as u64);
                print(&mut printer, &run)
            }
            Ok(Some(Event::Removed(removed))) => {
                progress.suspend(|| warn(&removed));
                Ok(())
            }
            Ok(None) => break,
            Err(error) => {
                or_closed(printer.flush())?;
                return Err(explain::subscribe(&error));
            }
        };
        if printed.is_err() {
            return or_closed(printed);
        }
    }
    or_closed(printer.flush())
}

fn print<W: io::Write>(printer: &mut RecordPrinter<W>, run: &RecordRun) -> io::Result<()> {
    for record in run.records() {
        let shown = Shown {
            offset: record.offset.0,
            ts_us: record.ts.0,
            source: record.source.name(),
            key: record.key,
            headers: record.headers.into(),
            value: record.value,
            id: record.id,
        };
        if printer.print(&shown)? == Printed::Enough {
            break;
        }
    }
    Ok(())
}

fn warn(removed: &Removed) {
    let reason = match removed.reason {
        RemovedReason::Retention => "retention",
        RemovedReason::Purge => "purged",
        RemovedReason::Erased => "erased",
        RemovedReason::Lost => "lost in a disaster",
        RemovedReason::Unknown => "no reason given",
    };
    eprintln!("warning: offsets {} up to {} are gone ({reason})", removed.from, removed.to);
}
