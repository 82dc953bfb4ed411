//! How an administrative call can fail.

use railgun_proto::WireError;
use railgun_types::Retry;

use crate::connect_error::ConnectError;

/// Why an administrative call did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    /// The server refused; nothing was changed.
    #[error(transparent)]
    Refused(WireError),
    /// There is no connection.
    #[error(transparent)]
    Connection(#[from] ConnectError),
    /// It was not done, or asking again does no harm: the connection broke each time, or the call
    /// could not be sent.
    #[error("{call} was not answered: {reason}")]
    Lost {
        /// The call.
        call: &'static str,
        /// What happened last.
        reason: String,
    },
    /// It may or may not have been done: the server did not answer in time, or the connection was
    /// lost before it did.
    #[error("it is not known whether {call} was done: {reason}")]
    Unknown {
        /// The call.
        call: &'static str,
        /// Why nothing more is known.
        reason: String,
    },
    /// The server sent what the protocol does not allow.
    #[error("the server broke the protocol: {reason}")]
    Protocol {
        /// What it sent.
        reason: String,
    },
}

impl AdminError {
    /// Whether the same call again may help, and when. Not after [`Self::Unknown`]: look first
    /// whether it was done.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(error) => error.retry,
            Self::Connection(error) => error.retry(),
            Self::Lost { .. } => Retry::Now,
            Self::Unknown { .. } | Self::Protocol { .. } => Retry::Never,
        }
    }

    /// An answer that means nothing.
    pub(super) fn protocol(what: impl std::fmt::Display) -> Self {
        Self::Protocol { reason: what.to_string() }
    }
}
