//! Why a node did not run.

use std::{io, path::PathBuf};

use railgun_http::BindError;

use super::{node::StartNodeError, tls::MaterialError};
use crate::{
    config::SettingsError,
    context::ContextError,
    exit::{Exit, Failure},
};

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
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let what = error.to_string();
        match error {
            ServeError::Settings(error) => error.into(),
            ServeError::Http(_) => Self::new(Exit::Failed, what)
                .next("pass another address, such as --http 127.0.0.1:0 for any free port"),
            ServeError::DataDir { .. } => {
                Self::new(Exit::Failed, what).next("pass another directory with --data-dir")
            }
            _ => Self::new(Exit::Failed, what),
        }
    }
}
