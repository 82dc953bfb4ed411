//! `railgun apply`: makes streams and groups what a file says.

mod file;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use railgun_client::{
    Admin, AdminError, Client, EnsureMode, EnsureOptions, EnsureOutcome, ErrorCode, FieldDiff,
    GroupName, StreamName, WireCode,
};

use self::file::{Wanted, WantedGroup, WantedStream};
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::on_drift::OnDrift;
use crate::output::format::safe;
use crate::output::table::print;
use crate::server::ServerArgs;

/// Make streams and groups what a file says
///
/// Safe to repeat: a line begins with + for what is made, ~ for what is changed, - for what is deleted, and =
/// for what is as wished. Only the settings that are named are looked at.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  railgun apply -f streams.toml --dry-run
  railgun apply -f streams.toml
  railgun apply -f streams.toml --mode check
  railgun apply -f streams.toml --prune

A file:
  owner = \"shop\"
  [streams.orders]
  dedup.window = \"2m\"
  [streams.orders.groups.billing]
  start = \"earliest\"
  dlq.max_attempts = 10")]
pub(crate) struct ApplyArgs {
    /// The file (TOML); - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Also delete streams and groups that have the file's owner and are not in it
    #[arg(long)]
    prune: bool,
    /// What to do about what is absent or differs
    #[arg(long, value_enum, default_value = "overwrite")]
    mode: OnDrift,
    /// Allow changes that lose data, such as another mode of a group
    #[arg(long)]
    allow_destructive: bool,
}

/// Runs `railgun apply`.
pub(crate) async fn run(args: ApplyArgs, server: &ServerArgs) -> CommandResult {
    let text = read(&args.file).map_err(|error| {
        let file = args.file.display();
        Failure::new(Exit::Usage, format!("cannot read {file}: {error}"))
            .next(format!("ls -l {file}"))
    })?;
    let wanted = Wanted::parse(&text).map_err(|error| {
        let text = format!("{} cannot be applied: {error}", args.file.display());
        Failure::new(Exit::Usage, text).next("mend the file; railgun apply --help shows one")
    })?;
    if args.prune && wanted.owner.is_none() {
        let text = "--prune deletes what has the file's owner, and the file names none";
        return Err(
            Failure::new(Exit::Usage, text).next("owner = \"LABEL\" at the top of the file")
        );
    }
    server.with_client(async |client| apply(client, &args, &wanted).await).await
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}

/// What was found or done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    made: usize,
    changed: usize,
    deleted: usize,
    as_wished: usize,
    /// Of those that differ, how many were left so.
    left: usize,
}

struct Applying<'a> {
    admin: Admin,
    args: &'a ApplyArgs,
    tally: Tally,
}

async fn apply(client: &Client, args: &ApplyArgs, wanted: &Wanted) -> CommandResult {
    let mut applying = Applying { admin: client.admin(), args, tally: Tally::default() };
    for (name, stream) in &wanted.streams {
        applying.stream(name, stream).await?;
    }
    if args.prune {
        applying.prune(wanted).await?;
    }
    let Tally { made, changed, deleted, as_wished, left } = applying.tally;
    let differs = made + changed + deleted > 0;
    let (would, changed) =
        if applying.only_looks() { ("to be ", changed) } else { ("", changed - left) };
    eprintln!(
        "{would}made {made}, {would}changed {changed}, {would}deleted {deleted}, as wished {as_wished}"
    );
    if args.mode == OnDrift::Check && differs {
        return Err(Failure::new(Exit::Refused, "what there is differs from the file")
            .next(format!("railgun apply -f {}", args.file.display())));
    }
    if left > 0 && !args.dry_run {
        eprintln!("warning: {left} differ and were left so; --mode overwrite makes them so");
    }
    Ok(())
}

impl Applying<'_> {
    /// Whether nothing is changed, whatever there is to be changed.
    fn only_looks(&self) -> bool {
        self.args.dry_run || self.args.mode == OnDrift::Check
    }

    fn options(&self) -> EnsureOptions {
        let mode = match self.args.mode {
            _ if self.only_looks() => EnsureMode::Check,
            mode => mode.into(),
        };
        EnsureOptions {
            mode,
            allow_destructive: self.args.allow_destructive,
            ..EnsureOptions::default()
        }
    }

    async fn stream(&mut self, name: &StreamName, stream: &WantedStream) -> CommandResult {
        let ensured = self.admin.ensure_stream(name, stream.patch.clone(), self.options()).await;
        let outcome = match ensured {
            Ok(ensured) => ensured.outcome,
            Err(error) if is_absent(&error, ErrorCode::StreamNotFound) => EnsureOutcome::Created,
            Err(error) => return Err(explain::admin(&error, Some(name))),
        };
        let is_absent_still = self.only_looks() && outcome == EnsureOutcome::Created;
        self.tell(&format!("stream {name}"), &outcome)?;
        for (group, wanted) in &stream.groups {
            if is_absent_still {
                self.tell(&format!("group {name}/{group}"), &EnsureOutcome::Created)?;
            } else {
                self.group(name, group, wanted).await?;
            }
        }
        Ok(())
    }

    async fn group(
        &mut self,
        stream: &StreamName,
        group: &GroupName,
        wanted: &WantedGroup,
    ) -> CommandResult {
        let start = wanted.start.start(jiff::Timestamp::now());
        let patch = wanted.patch.clone();
        let ensured = self.admin.ensure_group(stream, group, patch, start, self.options()).await;
        let outcome = match ensured {
            Ok(ensured) => {
                for warning in &ensured.warnings {
                    eprintln!("warning: group {stream}/{group}: {}", safe(warning));
                }
                ensured.outcome
            }
            Err(error) if is_absent(&error, ErrorCode::GroupNotFound) => EnsureOutcome::Created,
            Err(error) => return Err(explain::admin(&error, Some(stream))),
        };
        self.tell(&format!("group {stream}/{group}"), &outcome)
    }

    /// Deletes what has the file's label and is not in it (EN-7).
    async fn prune(&mut self, wanted: &Wanted) -> CommandResult {
        let owner = wanted.owner.as_deref();
        let streams = self.admin.list_all_streams("").await;
        for stream in streams.map_err(|error| explain::admin(&error, None))? {
            let name = &stream.name;
            let Some(known) = wanted.streams.get(name) else {
                if Some(stream.spec.owner.as_str()) == owner {
                    self.delete(&format!("stream {name}"))?;
                    if !self.only_looks() {
                        let deleted = self.admin.delete_stream(name).await;
                        deleted.map_err(|error| explain::admin(&error, Some(name)))?;
                    }
                }
                continue;
            };
            let groups = self.admin.list_groups(name).await;
            for group in groups.map_err(|error| explain::admin(&error, Some(name)))? {
                let is_ours = Some(group.spec.owner.as_str()) == owner;
                if !is_ours || known.groups.contains_key(&group.name) {
                    continue;
                }
                self.delete(&format!("group {name}/{}", group.name))?;
                if !self.only_looks() {
                    let deleted = self.admin.delete_group(name, &group.name).await;
                    deleted.map_err(|error| explain::admin(&error, Some(name)))?;
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, what: &str) -> CommandResult {
        self.tally.deleted += 1;
        print(&format!("- {what}\n"))
    }

    fn tell(&mut self, what: &str, outcome: &EnsureOutcome) -> CommandResult {
        let (sign, diff): (_, &[FieldDiff]) = match outcome {
            EnsureOutcome::Created => {
                self.tally.made += 1;
                ('+', &[])
            }
            EnsureOutcome::Unchanged => {
                self.tally.as_wished += 1;
                ('=', &[])
            }
            EnsureOutcome::Updated(diff) => {
                self.tally.changed += 1;
                ('~', diff)
            }
            EnsureOutcome::Drift(diff) => {
                self.tally.changed += 1;
                self.tally.left += 1;
                ('~', diff)
            }
        };
        let change = |field: &FieldDiff| {
            let (path, actual, wanted) =
                (safe(&field.path), safe(&field.actual), safe(&field.wanted));
            format!(" {path}: '{actual}' -> '{wanted}'")
        };
        let changes: Vec<_> = diff.iter().map(change).collect();
        print(&format!("{sign} {what}{}\n", changes.join(",")))
    }
}

/// Whether what was only looked for is not there.
fn is_absent(error: &AdminError, code: ErrorCode) -> bool {
    matches!(error, AdminError::Refused(refused) if refused.code == WireCode::Known(code))
}
