//! Many seeds of the simulation, several at a time.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use railgun_testkit::sim::{self, CLUSTER_BUGS, Counts, Options, Report};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Which seeds, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Simulates a node that is alone instead of a cluster.
    #[arg(long)]
    alone: bool,
    /// Virtual seconds in which things go wrong.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Runs at a time; as many as there are processors if absent.
    #[arg(long)]
    jobs: Option<usize>,
    /// Plants bugs, one after the other, and looks for each with as many seeds at the most.
    #[arg(long, conflicts_with_all = ["alone", "keep_going"])]
    bugs: bool,
    /// Of these only those with this in their names.
    #[arg(long, requires = "bugs")]
    only: Option<String>,
    /// Goes on after a seed that breaks a rule.
    #[arg(long)]
    keep_going: bool,
    /// Where every event of a failing seed is written to.
    #[arg(long, default_value = "target/sim-traces")]
    traces: PathBuf,
    /// What the nodes log on standard error, such as railgun_raft=debug. For one seed at a time.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    if let Some(filter) = &args.log {
        let log = tracing_subscriber::fmt().with_timer(VirtualTime::default()).with_ansi(false);
        log.with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    if args.bugs { look_for_bugs(args) } else { look_for_failures(args) }
}

/// Time as the nodes of a run have it, since they logged first.
#[derive(Default)]
struct VirtualTime(OnceLock<tokio::time::Instant>);

impl FormatTime for VirtualTime {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        let now = tokio::time::Instant::now();
        write!(to, "{:>10.6}", (now - *self.0.get_or_init(|| now)).as_secs_f64())
    }
}

fn look_for_failures(args: &Args) -> ExitCode {
    let options = Options { duration: Duration::from_secs(args.seconds), ..Options::default() };
    let (begun, mut all) = (now(), Counts::default());
    let (mut done, mut failed) = (0, Vec::new());
    run_seeds(args, &options, |report| {
        done += 1;
        all.add(&report.counts);
        tell_of(report, done, args.seeds, begun.elapsed());
        if !report.violations.is_empty() {
            tell_of_failure(report, args);
            failed.push(report.seed);
        }
        failed.is_empty() || args.keep_going
    });
    failed.sort_unstable();
    println!("{done} seeds in {:.0?}: {all:?}", begun.elapsed());
    if failed.is_empty() {
        println!("no rule was broken");
        return ExitCode::SUCCESS;
    }
    println!("seeds that break a rule: {failed:?}");
    ExitCode::FAILURE
}

#[expect(clippy::disallowed_methods, reason = "how long it takes is real time")]
fn now() -> Instant {
    Instant::now()
}

/// Each must show as what it is, with a seed with which nothing shows without it.
fn look_for_bugs(args: &Args) -> ExitCode {
    let options = Options { duration: Duration::from_secs(args.seconds), bug: None };
    let mut missed = Vec::new();
    let is_wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    for bug in CLUSTER_BUGS.into_iter().filter(|bug| is_wanted(bug.name)) {
        let mut found = None;
        run_seeds(args, &Options { bug: Some(bug.bug), ..options.clone() }, |report| {
            found = found.take().or_else(|| Some((bug.shown(&report.violations)?, report.clone())));
            found.is_none()
        });
        let name = bug.name;
        let verdict = match found {
            None => Err(format!("NOT FOUND with {} seeds from {}", args.seeds, args.start)),
            Some((shown, report)) => shown
                .and_then(|violation| {
                    let seed = report.seed;
                    let without = run_seed(seed, false, &options);
                    match without.violations.first() {
                        None => Ok(format!("found with seed {seed}: {violation}")),
                        Some(first) => Err(format!("seed {seed} shows without it: {first}")),
                    }
                })
                .inspect_err(|_| tell_of_failure(&report, args)),
        };
        match verdict {
            Ok(how) => println!("{name}: {how}"),
            Err(how) => {
                println!("{name}: {how}");
                missed.push(name);
            }
        }
    }
    if missed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("bugs that are not found as what they are: {missed:?}");
    ExitCode::FAILURE
}

/// Runs the seeds, several at a time, until `take` says that it has enough.
fn run_seeds(args: &Args, options: &Options, mut take: impl FnMut(&Report) -> bool) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let jobs = args.jobs.unwrap_or(processors).max(1);
    let next = AtomicU64::new(args.start);
    let end = args.start + args.seeds;
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::sync_channel(jobs);
        for _ in 0..jobs {
            let (tell, next) = (tell.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if tell.send(run_seed(seed, args.alone, options)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for report in told {
            if !take(&report) {
                // What is under way ends by itself.
                next.store(end, Ordering::Relaxed);
            }
        }
    });
}

/// A panic, of a check in a dependency for instance, is a finding too.
fn run_seed(seed: u64, alone: bool, options: &Options) -> Report {
    let run = if alone { sim::run } else { sim::run_cluster };
    catch_unwind(|| run(seed, options)).unwrap_or_else(|_| Report {
        seed,
        violations: sim::panics(),
        ..Report::default()
    })
}

fn tell_of(report: &Report, done: u64, of: u64, after: Duration) {
    let Report { seed, acked, sent, lives, virtual_time, trace_hash, .. } = report;
    let verdict = if report.violations.is_empty() { "ok" } else { "BROKEN" };
    println!(
        "{done}/{of} after {after:.0?}: seed {seed} {verdict}, {acked} of {sent} acked, {lives} lives, \
         {virtual_time:.0?} of virtual time, trace {trace_hash:016x}"
    );
}

fn tell_of_failure(report: &Report, args: &Args) {
    let (seed, kind) = (report.seed, if args.alone { " --alone" } else { "" });
    for violation in &report.violations {
        println!("  {violation}");
    }
    match write_trace(report, &args.traces) {
        Ok(path) => println!("  every event: {}", path.display()),
        Err(error) => println!("  the trace cannot be written: {error}"),
    }
    println!("  again: cargo xtask sim --seeds 1 --start {seed} --seconds {}{kind}", args.seconds);
}

fn write_trace(report: &Report, dir: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("seed-{}.txt", report.seed));
    std::fs::write(&path, report.trace.join("\n"))?;
    Ok(path)
}
