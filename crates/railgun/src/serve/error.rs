//! Why a node did not run.

use std::{io, path::PathBuf};

use railgun_broker::{IdentityError, StartError};
use railgun_cold::bucket::OpenBucketError;
use railgun_http::BindError;
use railgun_log::SpawnError;
use railgun_net::tls::TlsError;

use super::{node::StartNodeError, tls::MaterialError};
use crate::{
    cluster,
    config::SettingsError,
    context::ContextError,
    exit::{Exit, Failure},
};

/// For a node that another process is, too.
const IDENTITY_NEXT: &str = "pass an empty directory with --data-dir, to join as a new node; or, where this one was moved here, stop the other process first";

/// For a node whose bucket is not its cluster's.
const BUCKET_NEXT: &str = "give every node of a cluster the same --bucket, a directory only where all share it; where the bucket was emptied or replaced, bring its objects back";

/// `serve` ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot use {} as data directory: {source}", path.display())]
    DataDir { path: PathBuf, source: io::Error },
    #[error("cannot start the runtime: {source}")]
    Runtime { source: io::Error },
    #[error("cannot handle signals: {source}")]
    Signals { source: io::Error },
    #[error(transparent)]
    Http(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] MaterialError),
    #[error("cannot start the broker: {0}")]
    Start(#[from] StartNodeError),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error("the node stopped: {reason}")]
    Failed { reason: String },
    #[error("the node stopped: {reason}")]
    Copied { reason: String },
    #[error("the node stopped: {reason}")]
    WrongBucket { reason: String },
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let what = error.to_string();
        let failed = |next: &str| Self::new(Exit::Failed, what.clone()).next(next);
        match error {
            ServeError::Settings(error) => error.into(),
            ServeError::Context(error) => error.into(),
            ServeError::Http(_) => {
                failed("pass another address, such as --http 127.0.0.1:0 for any free port")
            }
            ServeError::DataDir { .. } => failed("pass another directory with --data-dir"),
            ServeError::Tls(error) => tls(&error, what),
            ServeError::Start(error) => start(&error, what),
            ServeError::Runtime { .. } | ServeError::Signals { .. } => {
                failed("ulimit -a, which shows what the system allows a process")
            }
            ServeError::Copied { .. } => failed(IDENTITY_NEXT),
            ServeError::WrongBucket { .. } => Self::new(Exit::Usage, what).next(BUCKET_NEXT),
            ServeError::Failed { .. } => failed(
                "start it again, which recovers from the log; dmesg shows whether the disk failed",
            ),
        }
    }
}

fn tls(error: &MaterialError, what: String) -> Failure {
    let next = "correct `tls.cert` and `tls.key`, or leave both out on a loopback address";
    match error {
        MaterialError::Configured(TlsError::Read { source, .. }) => {
            Failure::new(Exit::of_io(source), what).next(next)
        }
        MaterialError::Configured(_) => Failure::new(Exit::Usage, what).next(next),
        MaterialError::OwnCa(_) => Failure::new(Exit::Failed, what)
            .next("move ca/ out of the data directory; clients then need the new ca/ca.pem"),
    }
}

/// What keeps a node from starting, by what somebody can do about it.
fn start(error: &StartNodeError, what: String) -> Failure {
    let (exit, next) = match error {
        StartNodeError::NodeTls(_) => (
            Exit::Usage,
            "correct `tls.ca`, `tls.cert` and `tls.key`: railgun cluster issue-node makes them",
        ),
        StartNodeError::Authority { dir, source } => {
            return cluster::explain_authority(source, dir, what);
        }
        StartNodeError::Dns(_) => (
            Exit::Failed,
            "set `cluster.dns_server` to the address of a DNS server; /etc/resolv.conf names the machine's",
        ),
        StartNodeError::DataDir(_) => (Exit::Failed, "pass another directory with --data-dir"),
        StartNodeError::Bucket(OpenBucketError::Directory { .. }) => {
            (Exit::Failed, "pass another directory with --bucket file:///DIRECTORY")
        }
        StartNodeError::Bucket(_) => {
            (Exit::Usage, "railgun config show, and check --bucket and the AWS_* variables")
        }
        StartNodeError::Broker(error) => match error {
            StartError::Log(SpawnError::Lock(_)) => {
                (Exit::Failed, "stop the other process, or pass another directory with --data-dir")
            }
            StartError::Bind(_) => (
                Exit::Failed,
                "pass another address, such as --listen 127.0.0.1:0 for any free port",
            ),
            StartError::Probe(_) | StartError::Owner(_) => (
                Exit::CannotConnect,
                "railgun config show, and check --bucket and the AWS_* variables",
            ),
            StartError::Identity(IdentityError::BucketMismatch { .. }) => (
                Exit::Usage,
                "pass the former with --bucket, or an empty directory with --data-dir",
            ),
            StartError::WrongBucket(_) => (Exit::Usage, BUCKET_NEXT),
            StartError::OpenLog { .. } | StartError::Restore { .. } | StartError::Identity(_) => (
                Exit::Failed,
                "keep a copy of the data directory, and check its disk; what the bucket holds: railgun replay URL --stream NAME",
            ),
            StartError::IdentityConflict { .. } => (Exit::Failed, IDENTITY_NEXT),
            _ => (Exit::Failed, "RAILGUN_LOG_FILTER=debug railgun serve …, which says more"),
        },
    };
    Failure::new(exit, what).next(next)
}
