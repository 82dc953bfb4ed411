//! `railgun group`: make, list, describe, change and delete consumer groups.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use railgun_client::{
    Admin, AdminError, Client, EnsureOptions, EnsureOutcome, ErrorCode, GroupDescription,
    GroupMode, GroupName, GroupPatch, PauseReason, StreamName, Timestamp, WireCode,
};
use serde_json::Value;

use crate::dlq_patch::DlqPatchArgs;
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::on_drift::OnDrift;
use crate::output::format::{rfc3339, safe};
use crate::output::table::{Fields, Listing, Table, confirmed, print};
use crate::position::Start;
use crate::server::ServerArgs;
use crate::span::Span;
use crate::stream::differences;

/// Make, list, describe, reset, pause and delete consumer groups
///
/// The members of a group share the messages of a stream out, and settle each of them: railgun sub --group.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun group ensure orders billing --start earliest
  railgun group ls orders
  railgun group info orders billing -o json
  railgun group reset orders billing --to 15m")]
pub(crate) struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, clap::Subcommand)]
enum GroupCommand {
    /// Make a group, or check that it is as wished; safe to repeat
    ///
    /// Only the settings that are named are looked at. --mode is how the group shares its messages out; what
    /// to do about a difference is said by --on-drift.
    #[command(after_help = "Examples:
  railgun group ensure orders billing --start earliest
  railgun group ensure orders projector --mode exclusive
  railgun group ensure orders billing --ack-wait 2m --backoff 0s,5s,1m --on-drift overwrite
  railgun group ensure orders billing --max-attempts 10 --max-distance off --on-drift check")]
    Ensure(Box<EnsureArgs>),
    /// List the groups of a stream
    #[command(after_help = "Examples:
  railgun group ls orders
  railgun group ls orders -o json")]
    Ls {
        /// The stream
        stream: StreamName,
        #[command(flatten)]
        listing: Listing,
    },
    /// Describe a group: its settings, how far it is, what failed
    #[command(after_help = "Examples:
  railgun group info orders billing
  railgun group info orders billing -o json")]
    Info {
        #[command(flatten)]
        group: GroupRef,
        #[command(flatten)]
        listing: Listing,
    },
    /// Have a group begin elsewhere
    ///
    /// All in front of the position counts as settled, all behind it as never delivered. What members have
    /// cannot be settled any more.
    #[command(after_help = "Examples:
  railgun group reset orders billing --to earliest
  railgun group reset orders billing --to 2026-01-31T12:00:00Z
  railgun group reset orders billing --to last:100 --force")]
    Reset {
        #[command(flatten)]
        group: GroupRef,
        /// Where: earliest, latest, an offset, a time (RFC 3339), an age (15m) or last:N
        #[arg(long, value_name = "WHERE")]
        to: Start,
        /// Also while members are connected, and where messages that fail or are parked are given up
        #[arg(long)]
        force: bool,
    },
    /// Have a group hand out nothing; members may settle what they have
    #[command(after_help = "Examples:
  railgun group pause orders billing")]
    Pause {
        #[command(flatten)]
        group: GroupRef,
    },
    /// Have a group go on that is paused
    #[command(after_help = "Examples:
  railgun group resume orders billing")]
    Resume {
        #[command(flatten)]
        group: GroupRef,
    },
    /// Have another member of an exclusive group be the active one
    ///
    /// The active one gets nothing more, and gives way when it has settled what it has, or after 30 s.
    #[command(after_help = "Examples:
  railgun group hand-over orders projector")]
    HandOver {
        #[command(flatten)]
        group: GroupRef,
    },
    /// Delete a group; its dead letters can still be read
    #[command(after_help = "Examples:
  railgun group rm orders billing
  railgun group rm orders billing --yes")]
    Rm {
        #[command(flatten)]
        group: GroupRef,
        /// Do not ask; nobody is asked where standard input is no terminal
        #[arg(short, long)]
        yes: bool,
    },
}

/// A group of a stream.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GroupRef {
    /// The stream
    pub(crate) stream: StreamName,
    /// The group
    pub(crate) group: GroupName,
}

impl GroupRef {
    /// A failed call, with what to do about this group.
    pub(crate) fn explain(&self, error: &AdminError) -> Failure {
        let Self { stream, group } = self;
        let failure = explain::admin(error, Some(stream));
        let info = format!("railgun group info {stream} {group}");
        match error {
            AdminError::Refused(refused) => match refused.code {
                WireCode::Known(ErrorCode::InvalidSpec) => {
                    failure.next("railgun group ensure --help")
                }
                WireCode::Known(
                    ErrorCode::RevisionConflict
                    | ErrorCode::OffsetOutOfRange
                    | ErrorCode::Timeout
                    | ErrorCode::OutcomeUnknown,
                ) => failure.next(info),
                // Of what is done to a group; a setting that is changed is refused in its own way.
                WireCode::Known(ErrorCode::DestructiveChange | ErrorCode::GroupInUse) => failure
                    .next("the same with --force (group ensure: --allow-destructive), if it may"),
                _ => failure,
            },
            AdminError::Unknown { .. } => {
                failure.next(format!("{info}, which shows whether it was done"))
            }
            _ => failure,
        }
    }
}

#[derive(Debug, clap::Args)]
struct EnsureArgs {
    #[command(flatten)]
    group: GroupRef,
    /// Where it begins, if it is made: earliest, latest, an offset, a time (RFC 3339), an age (15m) or last:N
    #[arg(long, value_name = "WHERE", default_value = "latest")]
    start: Start,
    /// How it shares its messages out [default of a new group: balanced]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How long a member may take over a message [default of a new group: 30s]
    #[arg(long, value_name = "SPAN")]
    ack_wait: Option<Span>,
    /// Most messages that members have un-settled [default of a new group: 1000]
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u32>,
    /// Most bytes of them [default of a new group: 67108864]
    #[arg(long, value_name = "N")]
    max_in_flight_bytes: Option<u64>,
    /// Most messages that are handed out, wait for another attempt, or were parked [default of a new group:
    /// 10000]
    #[arg(long, value_name = "N")]
    max_unsettled: Option<u32>,
    /// How far beyond the first un-settled message others are handed out [default of a new group: 1000000]
    #[arg(long, value_name = "N")]
    window: Option<u64>,
    /// How long a message waits after its first failure, its second, and so on; the last one repeats [default
    /// of a new group: 0s,1s,5s,30s]
    #[arg(long, value_name = "SPAN,…", value_delimiter = ',')]
    backoff: Option<Vec<Span>>,
    /// Whether retention leaves what the group has not settled [default of a new group: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pin_retention: Option<bool>,
    /// Label of who manages the group
    #[arg(long, value_name = "LABEL")]
    owner: Option<String>,
    #[command(flatten)]
    dlq: DlqPatchArgs,
    /// What to do if the group exists and differs
    #[arg(long, value_enum, default_value = "warn", value_name = "WHAT")]
    on_drift: OnDrift,
    /// Change only if the group has this revision
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    /// Allow changes that lose data, such as another mode
    #[arg(long)]
    allow_destructive: bool,
}

/// How a group shares its messages out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Each message to one of the members
    Balanced,
    /// All messages to one member, in order; another one takes over from it
    Exclusive,
}

impl EnsureArgs {
    fn patch(&self) -> GroupPatch {
        GroupPatch {
            mode: self.mode.map(|mode| match mode {
                Mode::Balanced => GroupMode::Balanced,
                Mode::Exclusive => GroupMode::Exclusive,
            }),
            ack_wait_ms: self.ack_wait.map(Span::ms),
            max_in_flight: self.max_in_flight,
            max_in_flight_bytes: self.max_in_flight_bytes,
            max_unsettled: self.max_unsettled,
            window: self.window,
            backoff_ms: self
                .backoff
                .as_ref()
                .map(|spans| spans.iter().copied().map(Span::ms).collect()),
            pin_retention: self.pin_retention,
            owner: self.owner.clone(),
            dlq: (&self.dlq).into(),
        }
    }
}

/// Runs `railgun group …`.
pub(crate) async fn run(args: GroupArgs, server: &ServerArgs) -> CommandResult {
    let answer = async |client: &Client| {
        let admin = client.admin();
        match args.command {
            GroupCommand::Ensure(args) => ensure(&admin, &args).await,
            GroupCommand::Ls { stream, listing } => list(&admin, &stream, listing).await,
            GroupCommand::Info { group, listing } => info(&admin, &group, listing).await,
            GroupCommand::Reset { group, to, force } => reset(&admin, &group, to, force).await,
            GroupCommand::Pause { group } => {
                let paused = admin.pause_group(&group.stream, &group.group).await;
                paused.map_err(|error| group.explain(&error))?;
                print(&format!("{}/{}: paused\n", group.stream, group.group))
            }
            GroupCommand::Resume { group } => {
                let resumed = admin.resume_group(&group.stream, &group.group).await;
                resumed.map_err(|error| group.explain(&error))?;
                print(&format!("{}/{}: resumed\n", group.stream, group.group))
            }
            GroupCommand::HandOver { group } => {
                let begun = admin.hand_over_group(&group.stream, &group.group).await;
                let begun = begun.map_err(|error| group.explain(&error))?;
                let left = match begun.messages {
                    0 => "another member takes over".to_owned(),
                    left => format!("another member takes over when {left} messages are settled"),
                };
                print(&format!("{}/{}: {left}\n", group.stream, group.group))
            }
            GroupCommand::Rm { group, yes } => remove(&admin, &group, yes).await,
        }
    };
    server.with_client(answer).await
}

async fn ensure(admin: &Admin, args: &EnsureArgs) -> CommandResult {
    let options = EnsureOptions {
        mode: args.on_drift.into(),
        if_revision: args.if_revision,
        allow_destructive: args.allow_destructive,
    };
    let GroupRef { stream, group } = &args.group;
    let start = args.start.start(jiff::Timestamp::now());
    let ensured = admin.ensure_group(stream, group, args.patch(), start, options).await;
    let ensured = ensured.map_err(|error| match &error {
        // Only `--on-drift check` does not make what is absent.
        AdminError::Refused(refused) if refused.code == ErrorCode::GroupNotFound => {
            args.group.explain(&error).next(format!("railgun group ensure {stream} {group}"))
        }
        _ => args.group.explain(&error),
    })?;
    for warning in &ensured.warnings {
        eprintln!("warning: {}", safe(warning));
    }
    let (name, revision) = (format!("{stream}/{group}"), ensured.revision);
    match ensured.outcome {
        EnsureOutcome::Created => print(&format!("{name}: created, revision {revision}\n")),
        EnsureOutcome::Unchanged => print(&format!("{name}: unchanged, revision {revision}\n")),
        EnsureOutcome::Updated(diff) => {
            print(&format!("{name}: updated, revision {revision}\n{}", differences(&diff)))
        }
        EnsureOutcome::Drift(diff) if args.on_drift == OnDrift::Check => {
            let text = format!("group '{name}' differs\n{}", differences(&diff).trim_end());
            Err(Failure::new(Exit::Refused, text)
                .next("the same with --on-drift overwrite, to make it so"))
        }
        EnsureOutcome::Drift(diff) => {
            eprint!("warning: group '{name}' differs and was left so\n{}", differences(&diff));
            print(&format!("{name}: drift, revision {revision}\n"))
        }
    }
}

async fn list(admin: &Admin, stream: &StreamName, listing: Listing) -> CommandResult {
    let groups = admin.list_groups(stream).await;
    let groups = groups.map_err(|error| explain::admin(&error, Some(stream)))?;
    let columns = [
        "group", "mode", "members", "lag", "floor", "leased", "delayed", "parked", "dead", "paused",
    ];
    let mut table = Table::new(&columns);
    for group in &groups {
        table.row([
            Value::from(group.name.as_str()),
            group.spec.mode.name().into(),
            group.members.into(),
            group.lag.into(),
            group.floor.0.into(),
            group.leased.into(),
            group.delayed.into(),
            group.parked.into(),
            group.dead.into(),
            group.paused.map(paused).into(),
        ]);
    }
    listing.print(&table)
}

fn paused(reason: PauseReason) -> &'static str {
    match reason {
        PauseReason::Operator => "by an operator",
        PauseReason::Breaker => "too many dead letters",
        PauseReason::Until(_) => "until a retry is due",
        PauseReason::Unknown => "yes",
    }
}

async fn info(admin: &Admin, group: &GroupRef, listing: Listing) -> CommandResult {
    let described = admin.describe_group(&group.stream, &group.group).await;
    let described = described.map_err(|error| group.explain(&error))?;
    listing.print_one(&fields(&group.stream, described))
}

fn fields(stream: &StreamName, group: GroupDescription) -> Fields {
    let time = |time: Option<Timestamp>| time.map(|time| rfc3339(time.0));
    let spec = group.spec;
    Fields::default()
        .field("stream", stream.as_str())
        .field("group", group.name.as_str())
        .field("id", group.id.0)
        .field("mode", spec.mode.name())
        .field("revision", group.revision)
        .field("created", rfc3339(group.created.0))
        .field("owner", Some(spec.owner.as_str()).filter(|owner| !owner.is_empty()))
        .field("paused", group.paused.map(paused))
        .field("members", group.members)
        .field("fencing_token", Some(group.epoch).filter(|epoch| *epoch > 0))
        .field("floor", group.floor.0)
        .field("next_offset", group.next_offset.0)
        .field("highest_acked", group.highest_acked.map(|offset| offset.0))
        .field("lag", group.lag)
        .field("lag_bytes", group.lag_bytes)
        .field("lag_since", time(group.lag_since))
        .field("leased", group.leased)
        .field("stalled", group.is_stalled)
        .field("delayed", group.delayed)
        .field("dying", group.dying)
        .field("parked", group.parked)
        .field("dead", group.dead)
        .field("dead_letters", group.dead_letters)
        .field("companion", group.companion.as_str())
        .field("ack_wait_ms", spec.ack_wait_ms)
        .field("max_in_flight", spec.max_in_flight)
        .field("max_in_flight_bytes", spec.max_in_flight_bytes)
        .field("max_unsettled", spec.max_unsettled)
        .field("window", spec.window)
        .field("backoff_ms", spec.backoff_ms)
        .field("pin_retention", spec.pin_retention)
        .field("dlq.enabled", spec.dlq.enabled)
        .field("dlq.max_attempts", spec.dlq.max_attempts)
        .field("dlq.max_distance", spec.dlq.max_distance)
        .field("dlq.max_age_ms", spec.dlq.max_age_ms)
        .field("dlq.min_attempts", spec.dlq.min_attempts)
}

async fn reset(admin: &Admin, group: &GroupRef, to: Start, force: bool) -> CommandResult {
    let start = to.start(jiff::Timestamp::now());
    let reset = admin.reset_group(&group.stream, &group.group, start, force).await;
    let reset = reset.map_err(|error| group.explain(&error))?;
    print(&format!("{}/{}: goes on at offset {}\n", group.stream, group.group, reset.floor))
}

async fn remove(admin: &Admin, group: &GroupRef, yes: bool) -> CommandResult {
    let GroupRef { stream, group: name } = group;
    if !yes && io::stdin().is_terminal() {
        let described = admin.describe_group(stream, name).await;
        let described = described.map_err(|error| group.explain(&error))?;
        let (members, lag) = (described.members, described.lag);
        let question =
            format!("delete group '{stream}/{name}' with {members} members and lag {lag}?");
        if !confirmed(&question) {
            return Err(Failure::new(Exit::Refused, format!("group '{name}' was not deleted"))
                .next(format!("railgun group rm {stream} {name} --yes")));
        }
    }
    let deleted = admin.delete_group(stream, name).await;
    if !deleted.map_err(|error| group.explain(&error))? {
        let text = format!("stream '{stream}' has no group '{name}'");
        return Err(Failure::new(Exit::NotFound, text).next(format!("railgun group ls {stream}")));
    }
    print(&format!("{stream}/{name}: deleted\n"))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use railgun_client::DlqPatch;

    use super::*;

    fn ensure(args: &str) -> Result<EnsureArgs, clap::Error> {
        let command = EnsureArgs::augment_args(clap::Command::new("ensure"));
        let words = std::iter::once("ensure").chain(args.split(' '));
        EnsureArgs::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn only_what_is_named_is_wished_for() {
        assert_eq!(ensure("s g").unwrap().patch(), GroupPatch::default());
        let args = "s g --mode exclusive --ack-wait 2m --backoff 0s,5s --pin-retention --no-dlq \
                    --max-distance off --max-age 1h";
        let patch = ensure(args).unwrap().patch();
        let dlq = DlqPatch {
            enabled: Some(false),
            max_distance: Some(0),
            max_age_ms: Some(3_600_000),
            ..DlqPatch::default()
        };
        let wanted = GroupPatch {
            mode: Some(GroupMode::Exclusive),
            ack_wait_ms: Some(120_000),
            backoff_ms: Some(vec![0, 5_000]),
            pin_retention: Some(true),
            dlq,
            ..GroupPatch::default()
        };
        assert_eq!(patch, wanted);
        let back = ensure("s g --dlq --pin-retention=false --max-age off").unwrap().patch();
        assert_eq!((back.dlq.enabled, back.pin_retention), (Some(true), Some(false)));
        assert_eq!(back.dlq.max_age_ms, Some(0));
        for bad in ["s g --max-distance far", "s g --max-age 5", "s g --dlq --no-dlq", "s g$"] {
            assert!(ensure(bad).is_err(), "{bad}");
        }
    }
}
