//! `railgun stream`: ensure, list, describe and delete streams.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use railgun_client::{
    AdminError, ChangeClass, Client, DedupFull, DedupPatch, EnsureOptions, EnsureOutcome,
    ErrorCode, FieldDiff, SpecPatch, StreamDescription, StreamName,
};
use serde_json::Value;

use crate::dlq_patch::DlqPatchArgs;
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::on_drift::OnDrift;
use crate::output::format::{rfc3339, safe};
use crate::output::table::{Fields, Listing, Table, confirmed, print};
use crate::server::ServerArgs;
use crate::span::Span;

/// Make, list, describe and delete streams
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun stream ensure orders
  railgun stream ensure orders --max-message-bytes 4194304 --mode overwrite
  railgun stream ls -o json
  railgun stream info orders")]
pub(crate) struct StreamArgs {
    #[command(subcommand)]
    command: StreamCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StreamCommand {
    /// Make a stream, or check that it is as wished; safe to repeat
    ///
    /// Only the settings that are named are looked at.
    #[command(after_help = "Examples:
  railgun stream ensure orders
  railgun stream ensure orders --owner shop --mode check
  railgun stream ensure orders --dedup-window 2m
  railgun stream ensure orders --max-attempts 10 --max-age 1h
  railgun stream ensure orders --max-message-bytes 4194304 --mode overwrite --if-revision 1")]
    Ensure(EnsureArgs),
    /// List streams
    #[command(after_help = "Examples:
  railgun stream ls
  railgun stream ls shop. -o json")]
    Ls {
        /// Only names that begin so
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        listing: Listing,
    },
    /// Describe a stream: its settings, what it holds, how much of it is in the bucket
    #[command(after_help = "Examples:
  railgun stream info orders
  railgun stream info orders -o json")]
    Info {
        /// The stream
        #[arg(value_parser = StreamName::parse_any)]
        name: StreamName,
        #[command(flatten)]
        listing: Listing,
    },
    /// Delete a stream and free its name
    #[command(after_help = "Examples:
  railgun stream rm orders
  railgun stream rm orders --yes")]
    Rm {
        /// The stream
        name: StreamName,
        /// Do not ask; nobody is asked where standard input is no terminal
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct EnsureArgs {
    /// The stream
    name: StreamName,
    /// Largest message in bytes [default of a new stream: 1048576]
    #[arg(long, value_name = "N")]
    max_message_bytes: Option<u32>,
    /// Label of who manages the stream
    #[arg(long, value_name = "LABEL")]
    owner: Option<String>,
    #[command(flatten)]
    dedup: DedupArgs,
    /// What to do if the stream exists and differs
    #[arg(long, value_enum, default_value = "warn")]
    mode: OnDrift,
    /// Change only if the stream has this revision
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    /// Allow changes that lose data
    #[arg(long)]
    allow_destructive: bool,
    #[command(flatten)]
    dlq: StreamDlqArgs,
}

/// The ID time box: a message that comes again with its id in this time is appended once.
#[derive(Debug, clap::Args)]
struct DedupArgs {
    /// How long the id of a message is held: 1s to 7d, or off [default of a new stream: off]
    #[arg(long, value_name = "SPAN", value_parser = parse_window)]
    dedup_window: Option<Window>,
    /// Refuse messages without an id, or with =false take them [default of a new stream: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    require_id: Option<bool>,
    /// Most ids held [default of a new stream: 1000000]
    #[arg(long, value_name = "N")]
    dedup_max_ids: Option<u64>,
    /// What becomes of a new id when so many are held [default of a new stream: reject]
    #[arg(long, value_enum)]
    dedup_full: Option<Full>,
}

/// Dead letters of the groups that do not say otherwise.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Of the stream's groups that are made without saying otherwise")]
struct StreamDlqArgs {
    #[command(flatten)]
    patch: DlqPatchArgs,
}

/// How long ids are held, in ms; 0 is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window(u64);

fn parse_window(text: &str) -> Result<Window, String> {
    if text == "off" {
        return Ok(Window(0));
    }
    let Span(span) = text.parse().map_err(|error: crate::span::SpanError| error.to_string())?;
    u64::try_from(span.as_millis()).map(Window).map_err(|error| error.to_string())
}

/// What becomes of a new id when as many are held as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Full {
    /// Its message is refused until one has gone
    Reject,
    /// The oldest id is forgotten before its time
    EvictOldest,
}

impl From<DedupArgs> for DedupPatch {
    fn from(args: DedupArgs) -> Self {
        Self {
            window_ms: args.dedup_window.map(|Window(ms)| ms),
            require_id: args.require_id,
            max_ids: args.dedup_max_ids,
            full: args.dedup_full.map(|full| match full {
                Full::Reject => DedupFull::Reject,
                Full::EvictOldest => DedupFull::EvictOldest,
            }),
        }
    }
}

/// Runs `railgun stream …`.
pub(crate) async fn run(args: StreamArgs, server: &ServerArgs) -> CommandResult {
    let answer = async |client: &Client| match args.command {
        StreamCommand::Ensure(args) => ensure(client, args).await,
        StreamCommand::Ls { prefix, listing } => list(client, &prefix, listing).await,
        StreamCommand::Info { name, listing } => info(client, &name, listing).await,
        StreamCommand::Rm { name, yes } => remove(client, &name, yes).await,
    };
    server.with_client(answer).await
}

async fn ensure(client: &Client, args: EnsureArgs) -> CommandResult {
    let patch = SpecPatch {
        max_message_bytes: args.max_message_bytes,
        owner: args.owner,
        dedup: args.dedup.into(),
        dlq: (&args.dlq.patch).into(),
        ..SpecPatch::default()
    };
    let options = EnsureOptions {
        mode: args.mode.into(),
        if_revision: args.if_revision,
        allow_destructive: args.allow_destructive,
    };
    let name = &args.name;
    let ensured = client.admin().ensure_stream(name, patch, options).await;
    let ensured = ensured.map_err(|error| match &error {
        // Only `--mode check` does not make what is absent.
        AdminError::Refused(refused) if refused.code == ErrorCode::StreamNotFound => {
            explain::admin(&error, Some(name)).next(format!("railgun stream ensure {name}"))
        }
        _ => explain::admin(&error, Some(name)),
    })?;
    let revision = ensured.revision;
    match ensured.outcome {
        EnsureOutcome::Created => print(&format!("{name}: created, revision {revision}\n")),
        EnsureOutcome::Unchanged => print(&format!("{name}: unchanged, revision {revision}\n")),
        EnsureOutcome::Updated(diff) => {
            print(&format!("{name}: updated, revision {revision}\n{}", differences(&diff)))
        }
        EnsureOutcome::Drift(diff) if args.mode == OnDrift::Check => {
            let text = format!("stream '{name}' differs\n{}", differences(&diff).trim_end());
            Err(Failure::new(Exit::Refused, text)
                .next("the same with --mode overwrite, to make it so"))
        }
        EnsureOutcome::Drift(diff) => {
            eprint!("warning: stream '{name}' differs and was left so\n{}", differences(&diff));
            print(&format!("{name}: drift, revision {revision}\n"))
        }
    }
}

pub(crate) fn differences(diff: &[FieldDiff]) -> String {
    let line = |field: &FieldDiff| {
        let class = match field.class {
            ChangeClass::Live => "",
            ChangeClass::Immutable => " (cannot be changed)",
            ChangeClass::Destructive => " (loses data)",
        };
        let (path, actual, wanted) = (safe(&field.path), safe(&field.actual), safe(&field.wanted));
        format!("  {path}: is '{actual}', wanted '{wanted}'{class}\n")
    };
    diff.iter().map(line).collect()
}

async fn list(client: &Client, prefix: &str, listing: Listing) -> CommandResult {
    let streams = client.admin().list_all_streams(prefix).await;
    let streams = streams.map_err(|error| explain::admin(&error, None))?;
    let columns = ["name", "records", "bytes", "head", "next", "cold end", "pending bytes"];
    let mut table = Table::new(&columns);
    for stream in &streams {
        table.row([
            Value::from(stream.name.as_str()),
            records(stream).into(),
            stream.record_bytes.into(),
            stream.head.0.into(),
            stream.next_offset.0.into(),
            stream.cold_end.0.into(),
            stream.pending_bytes.into(),
        ]);
    }
    listing.print(&table)
}

fn records(stream: &StreamDescription) -> u64 {
    stream.next_offset.0.saturating_sub(stream.head.0)
}

async fn info(client: &Client, name: &StreamName, listing: Listing) -> CommandResult {
    let described = client.admin().describe_stream(name).await;
    let stream = described.map_err(|error| explain::admin(&error, Some(name)))?;
    let time = |time: Option<railgun_client::Timestamp>| time.map(|time| rfc3339(time.0));
    let dedup = stream.spec.dedup;
    let of_box = |value: u64| dedup.is_on().then_some(value);
    let fields = Fields::default()
        .field("name", stream.name.as_str())
        .field("uid", stream.uid.to_string())
        .field("kind", stream.spec.kind.name())
        .field("max_message_bytes", stream.spec.max_message_bytes)
        .field("owner", Some(stream.spec.owner.as_str()).filter(|owner| !owner.is_empty()))
        .field("dedup_window_ms", dedup.window_ms)
        .field("dedup_effective_window_ms", of_box(stream.dedup_effective_window_ms))
        .field("dedup_ids", of_box(stream.dedup_ids))
        .field("dedup_max_ids", of_box(dedup.max_ids))
        .field("dedup_full", dedup.is_on().then(|| dedup.full.name()))
        .field("dedup_evicted", of_box(stream.dedup_evicted))
        .field("require_id", dedup.require_id)
        .field("dlq.enabled", stream.spec.dlq.enabled)
        .field("dlq.max_attempts", stream.spec.dlq.max_attempts)
        .field("dlq.max_distance", stream.spec.dlq.max_distance)
        .field("dlq.max_age_ms", stream.spec.dlq.max_age_ms)
        .field("dlq.min_attempts", stream.spec.dlq.min_attempts)
        .field("revision", stream.revision)
        .field("shard", stream.shard.0)
        .field("created", rfc3339(stream.created.0))
        .field("head", stream.head.0)
        .field("next_offset", stream.next_offset.0)
        .field("records", records(&stream))
        .field("record_bytes", stream.record_bytes)
        .field("last_record", time(stream.last_ts))
        .field("cold_end", stream.cold_end.0)
        .field("cold_ranges", stream.cold_ranges)
        .field("pending_bytes", stream.pending_bytes)
        .field("pending_since", time(stream.pending_since))
        .field("offload_error", stream.offload_error);
    listing.print_one(&fields)
}

async fn remove(client: &Client, name: &StreamName, yes: bool) -> CommandResult {
    let admin = client.admin();
    if !yes && io::stdin().is_terminal() {
        let described = admin.describe_stream(name).await;
        let stream = described.map_err(|error| explain::admin(&error, Some(name)))?;
        let question = format!("delete stream '{name}' with {} records?", records(&stream));
        if !confirmed(&question) {
            return Err(Failure::new(Exit::Refused, format!("stream '{name}' was not deleted"))
                .next(format!("railgun stream rm {name} --yes")));
        }
    }
    let deleted = admin.delete_stream(name).await;
    let uid = deleted.map_err(|error| not_deleted(&error, name))?;
    print(&format!("{name}: deleted (uid {uid})\n"))
}

fn not_deleted(error: &AdminError, name: &StreamName) -> Failure {
    let failure = explain::admin(error, Some(name));
    match error {
        // Nobody finds the stream any more: there is nothing left to look at.
        AdminError::Refused(refused) if refused.code == ErrorCode::Timeout => failure.next(format!(
            "nothing: it goes on by itself; railgun stream ensure {name} --mode check says whether \
             it is done"
        )),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use railgun_client::WireError;

    use super::*;

    #[test]
    fn a_deletion_that_goes_on_later_asks_for_nothing() {
        let name = StreamName::new("orders").unwrap();
        let text = |code| {
            let error = AdminError::Refused(WireError::new(code, "later"));
            not_deleted(&error, &name).to_string()
        };
        let later = text(ErrorCode::Timeout);
        assert!(
            later.contains(
                "\n next: nothing: it goes on by itself; railgun stream ensure orders --mode check"
            ),
            "{later}"
        );
        assert!(text(ErrorCode::StreamNotFound).contains("railgun stream ls"));
    }

    #[test]
    fn a_window_is_a_span_of_time_or_off() {
        assert_eq!(parse_window("2m"), Ok(Window(120_000)));
        assert_eq!(parse_window("off"), Ok(Window(0)));
        assert!(parse_window("two minutes").is_err_and(|error| error.contains("`90s`")));
    }

    #[test]
    fn a_difference_is_one_line_whatever_the_values_are() {
        let actual = "a\u{1b}[2J\n  kind: is 'x'".to_owned();
        let (path, wanted) = ("owner".to_owned(), "b".to_owned());
        let diff = FieldDiff { path, actual, wanted, class: ChangeClass::Live };
        let text = differences(&[diff]);
        assert_eq!(text, "  owner: is 'a\\u{1b}[2J\\n  kind: is 'x'', wanted 'b'\n");
    }
}
