//! How an administrative call can fail.

use std::time::Duration;

use railgun_proto::WireError;
use railgun_proto::convert::InvalidMessage;

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
    /// The connection broke each time; asking again does no harm.
    #[error("{call} was not answered: {reason}")]
    Lost {
        /// The call.
        call: &'static str,
        /// What happened last.
        reason: String,
    },
    /// It may or may not have been done: the server did not answer in time, or the connection was
    /// lost before it did.
    #[error("it is not known whether {call} was done: no answer within {waited:?}")]
    Unknown {
        /// The call.
        call: &'static str,
        /// The time it was given.
        waited: Duration,
    },
    /// The server sent what the protocol does not allow.
    #[error("the server broke the protocol: {reason}")]
    Protocol {
        /// What it sent.
        reason: String,
    },
}

impl From<InvalidMessage> for AdminError {
    fn from(invalid: InvalidMessage) -> Self {
        Self::Protocol { reason: invalid.to_string() }
    }
}

impl From<railgun_types::InvalidName> for AdminError {
    fn from(invalid: railgun_types::InvalidName) -> Self {
        Self::Protocol { reason: invalid.to_string() }
    }
}
