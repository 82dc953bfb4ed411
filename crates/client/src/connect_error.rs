//! Why there is no session with a server.

use std::sync::Arc;
use std::time::Duration;

use railgun_net::{ConnectionLost, ReadError, WriteError};
use railgun_proto::{FrameError, WireError};
use railgun_types::{ClusterUid, ErrorCode, Retry};

use crate::dial::Target;

/// Why a client has no session. Cheap to clone: one failure is told to everyone who waits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// One of the servers is not `host:port`.
    #[error("'{server}' is not an address: write host:port")]
    InvalidServer {
        /// What was given.
        server: String,
    },
    /// The host name has no address.
    #[error("'{server}' has no address: {reason}")]
    Unresolved {
        /// What was given.
        server: String,
        /// What the resolver says.
        reason: String,
    },
    /// No QUIC connection: nothing answers, the certificate is not trusted, or another protocol.
    #[error(transparent)]
    Transport(Arc<railgun_net::ConnectError>),
    /// The connection broke before the session began.
    #[error("the connection to {server} broke during the handshake: {reason}")]
    Handshake {
        /// The server.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The server does not want this client: a token is missing or wrong, or no common version.
    #[error("the server {server} refused the session: {error}")]
    Refused {
        /// The server.
        server: String,
        /// What it said.
        error: WireError,
    },
    /// Another cluster answers where this client was connected before. Offsets of the one mean
    /// nothing in the other, so the client does not go on.
    #[error("{server} is now cluster {found}, where it was {expected}")]
    OtherCluster {
        /// The server.
        server: String,
        /// The cluster at first.
        expected: ClusterUid,
        /// The cluster now.
        found: ClusterUid,
    },
    /// The connection was lost and did not come back in time.
    #[error("no connection to {servers} for {waited:?}{}{}", if last.is_empty() { "" } else { ": " }, last)]
    GaveUp {
        /// The servers, separated by commas.
        servers: String,
        /// How long it was tried.
        waited: Duration,
        /// The last failure.
        last: String,
    },
    /// None of several addresses gave a session.
    #[error("no session with any server: {}", told(attempts))]
    NoneReachable {
        /// What was tried, in the order of failing.
        attempts: Arc<[Attempt]>,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// The operating system gives no random bytes, so no identifier can be drawn.
    #[error("the operating system gives no random bytes: {reason}")]
    NoRandomness {
        /// What it says.
        reason: String,
    },
}

/// An address that gave no session.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The address; of a name that could not be resolved, the name.
    pub target: Target,
    /// Why.
    pub error: ConnectError,
}

/// Failures that a message names.
const TOLD_MAX: usize = 8;

fn told(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "there is no other to try".to_owned();
    }
    let one = |attempt: &Attempt| format!("{} ({})", attempt.target, attempt.error.short());
    let mut told: Vec<String> = attempts.iter().take(TOLD_MAX).map(one).collect();
    if let more @ 1.. = attempts.len().saturating_sub(TOLD_MAX) {
        told.push(format!("and {more} more"));
    }
    told.join(", ")
}

impl ConnectError {
    /// One failure is told as it is, several in a list.
    pub(crate) fn of_attempts(mut attempts: Vec<Attempt>) -> Self {
        match attempts.pop() {
            Some(only) if attempts.is_empty() => only.error,
            last => {
                attempts.extend(last);
                Self::NoneReachable { attempts: attempts.into() }
            }
        }
    }

    /// The reason alone, for a list in which the server is named.
    fn short(&self) -> String {
        use railgun_net::ConnectError as Transport;
        match self {
            Self::Unresolved { reason, .. } => format!("no address: {reason}"),
            Self::Handshake { reason, .. } => format!("lost in the handshake: {reason}"),
            Self::Refused { error, .. } => format!("refused: {error}"),
            Self::OtherCluster { found, .. } => format!("is of another cluster, {found}"),
            Self::Transport(error) => match &**error {
                Transport::Timeout { timeout, .. } => format!("no answer within {timeout:?}"),
                Transport::UntrustedCertificate { server_name, reason, .. } => {
                    format!("certificate not to be trusted for '{server_name}': {reason}")
                }
                Transport::WrongProtocol { .. } => "does not speak railgun/1".to_owned(),
                Transport::Refused { .. } => "full or stopping".to_owned(),
                Transport::Lost { source, .. } => source.to_string(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }

    /// Whether trying again may help, and when.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { error, .. } => error.retry,
            Self::NoneReachable { attempts } => {
                // One that may come back is worth trying for, whatever the others say.
                let any = attempts.iter().any(|attempt| attempt.error.retry() != Retry::Never);
                if any || attempts.is_empty() { Retry::Now } else { Retry::Never }
            }
            Self::OtherCluster { .. } | Self::Closed | Self::InvalidServer { .. } => Retry::Never,
            Self::Unresolved { .. }
            | Self::Transport(_)
            | Self::Handshake { .. }
            | Self::GaveUp { .. }
            | Self::NoRandomness { .. } => Retry::Now,
        }
    }

    /// Whether trying again cannot help.
    pub(crate) fn is_final(&self) -> bool {
        self.retry() == Retry::Never
    }
}

impl From<railgun_net::ConnectError> for ConnectError {
    fn from(error: railgun_net::ConnectError) -> Self {
        Self::Transport(Arc::new(error))
    }
}

/// Why a QUIC stream cannot be used any more. The connection may be fine.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StreamLost {
    #[error(transparent)]
    Connection(#[from] ConnectionLost),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the server ended the stream")]
    Ended,
    /// The server owes an answer; the connection is there.
    #[error("no answer for {after:?}")]
    NoAnswer { after: Duration },
    /// It was not opened, since as many are open as a connection may have.
    #[error("all {streams} streams of the connection are in use")]
    AllInUse { streams: usize },
    /// The server ended the stream with an Error frame.
    #[error(transparent)]
    Refused(WireError),
}

impl StreamLost {
    /// Whether the whole connection is gone.
    pub(crate) fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::Connection(_)
                | Self::Read(ReadError::ConnectionLost(_))
                | Self::Write(WriteError::ConnectionLost(_))
        )
    }

    /// Whether the server stops: it is to be left, though the connection is there.
    pub(crate) fn is_going_away(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code == ErrorCode::GoingAway)
    }
}
