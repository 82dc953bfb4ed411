//! `railgun serve`: one node, from its settings to its exit code.
//!
//! `run` reads top-down: check the data directory, answer health checks, start the broker, wait
//! for a reason to stop, stop in order. Each step has its own file.

mod announce;
mod awake;
mod data_dir;
mod discovery;
mod error;
mod figures;
mod logging;
mod node;
mod runtimes;
mod stop;
mod tls;

use std::{sync::Arc, time::Duration};

use railgun_broker::{Broker, DRAIN_TIMEOUT, NodeFailure};
use railgun_http::{HttpServer, Readiness};
use tokio::{runtime::Handle, sync::watch, task::JoinSet, time::timeout};

pub(crate) use self::logging::init as init_logging;
use self::{error::ServeError, figures::NodeFigures, runtimes::Runtimes, stop::StopSignals};
use crate::{
    config::{self, ClusterConfig, Settings, SettingsArgs},
    exit::CommandResult,
};

/// Beyond [`DRAIN_TIMEOUT`] the broker gets this long to stop Raft, mark the log and return; then the
/// process leaves without it.
const SHUTDOWN_SLACK: Duration = Duration::from_secs(2);

/// Run a node
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Runs a node until it is told to stop (SIGTERM, SIGINT) or cannot go on.
///
/// # Errors
///
/// A `Failure` made of a [`ServeError`] when the node could not start, or failed while running.
/// Being told to stop is none.
pub(crate) fn run(args: ServeArgs) -> CommandResult {
    Ok(run_node(&args)?)
}

/// Must not be called inside a runtime: it makes its own.
fn run_node(args: &ServeArgs) -> Result<(), ServeError> {
    let settings = config::load(&args.settings)?;
    logging::init(settings.log_format.value, &settings.log_filter.value);
    let cluster = settings.cluster()?;
    let of_cluster = cluster.as_ref().map(ClusterConfig::warnings).unwrap_or_default();
    for warning in config::misspelt_variables().into_iter().chain(of_cluster) {
        tracing::warn!("{warning}");
    }
    if let Some(cluster) = &cluster {
        tracing::info!(
            listen = %cluster.peer_listen,
            advertise = cluster.peer_advertise,
            expect = cluster.bootstrap_expect,
            peers = cluster.peers.join(","),
            "a node of several"
        );
    }
    data_dir::prepare(&settings.data_dir.value)?;
    let runtimes = Runtimes::start().map_err(|source| ServeError::Runtime { source })?;
    let outcome = runtimes.block_on(serve(&settings, cluster, runtimes.background()));
    runtimes.abandon();
    outcome
}

async fn serve(
    settings: &Settings,
    cluster: Option<ClusterConfig>,
    background: Handle,
) -> Result<(), ServeError> {
    // First, so that a stop during a long start is heard.
    let mut signals = StopSignals::install().map_err(|source| ServeError::Signals { source })?;
    let http = HttpServer::bind(settings.http.value).await?;
    let http_addr = http.local_addr();
    let (readiness, watched) = watch::channel(Readiness::not_ready("starting"));
    let (broker_figures, figures) = NodeFigures::new();
    // Dropped last, which ends it: health is answered until the node is gone.
    let mut http_task = JoinSet::new();
    http_task.spawn(http.run(watched, Arc::new(figures)));

    let tls = tls::material(settings)?;
    let started = tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::info!(signal, "told to stop while starting");
            return Ok(());
        }
        started = node::start(settings, cluster, tls.server, background) => started,
    };
    let broker = Arc::new(started?);
    broker_figures.send_replace(Some(Arc::clone(&broker)));
    announce::started(settings, &broker, http_addr, tls.ca.as_ref())?;
    let mut awake = JoinSet::new();
    if settings.keep_awake.value {
        awake.spawn(awake::while_records_come(Arc::clone(&broker)));
    }

    let failure = run_until_stopped(&broker, &readiness, &mut signals).await;
    readiness.send_replace(Readiness::not_ready("shutting down"));
    drop(awake);
    // Whoever starts a node again that has failed should not wait.
    let drain = if failure.is_none() { DRAIN_TIMEOUT } else { Duration::ZERO };
    shut_down(&broker, drain, signals).await;
    match failure {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// Keeps `/readyz` true. Returns why the node must stop, or `None` when it was told to.
async fn run_until_stopped(
    broker: &Broker,
    readiness: &watch::Sender<Readiness>,
    signals: &mut StopSignals,
) -> Option<ServeError> {
    let mut ready = broker.ready();
    loop {
        readiness.send_replace(if *ready.borrow_and_update() {
            Readiness::Ready
        } else {
            Readiness::not_ready("the broker does not accept requests")
        });
        tokio::select! {
            biased;
            signal = signals.next() => {
                tracing::info!(signal, "told to stop; a second signal exits at once");
                return None;
            }
            failure = broker.failed() => {
                tracing::error!(%failure, "the node cannot go on");
                let reason = failure.to_string();
                return Some(match failure {
                    NodeFailure::IdentityConflict { .. } => ServeError::Copied { reason },
                    NodeFailure::WrongBucket(_) => ServeError::WrongBucket { reason },
                    _ => ServeError::Failed { reason },
                });
            }
            changed = ready.changed() => {
                if changed.is_err() {
                    let reason = "the broker ended without saying why".to_owned();
                    return Some(ServeError::Failed { reason });
                }
            }
        }
    }
}

/// Gives the broker its time, unless a second signal says not to.
async fn shut_down(broker: &Broker, drain: Duration, mut signals: StopSignals) {
    tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::warn!(signal, "told again to stop: leaving at once");
            stop::exit_now();
        }
        done = timeout(drain + SHUTDOWN_SLACK, broker.shutdown(drain)) => {
            match done {
                Ok(()) => tracing::info!("stopped"),
                Err(_) => tracing::warn!("leaving a broker behind that did not stop in time"),
            }
        }
    }
}
