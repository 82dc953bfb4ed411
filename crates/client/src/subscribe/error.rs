//! How reading can fail.

use railgun_proto::WireError;
use railgun_types::batch::BatchError;
use railgun_types::{Offset, Retry, StreamName};

use crate::connect_error::ConnectError;

/// Why a subscription ended before its end. What it delivered before is right.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The server will not serve it: the stream does not exist or was deleted, the start lies
    /// outside of it, a record cannot be read.
    #[error("cannot read stream '{stream}': {error}")]
    Refused {
        /// The stream.
        stream: StreamName,
        /// What the server said.
        error: WireError,
    },
    /// The connection was lost, or the server unable, for longer than the client is patient.
    #[error("cannot read stream '{stream}': {error}")]
    Disconnected {
        /// The stream.
        stream: StreamName,
        /// What happened.
        error: Box<ConnectError>,
    },
    /// As many QUIC streams are in use as the connection of a client may have. A subscription, a
    /// publisher, and a call under way take one each. Drop one, or use another client.
    #[error("cannot read stream '{stream}': all {streams} streams of the connection are in use")]
    TooManyStreams {
        /// The stream.
        stream: StreamName,
        /// How many are in use.
        streams: usize,
    },
    /// A batch whose checksums do not hold. No wrong byte was handed out.
    #[error("the batch at offset {offset} of stream '{stream}' is damaged: {error}")]
    Damaged {
        /// The stream.
        stream: StreamName,
        /// First offset of the batch.
        offset: Offset,
        /// What is wrong with it.
        error: BatchError,
    },
    /// The server sent what the protocol does not allow, such as offsets out of order.
    #[error("the server broke the protocol while stream '{stream}' was read: {reason}")]
    Protocol {
        /// The stream.
        stream: StreamName,
        /// What it sent.
        reason: String,
    },
}

impl SubscribeError {
    /// Whether subscribing again, from where this one ended, may help, and when.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { error, .. } => error.retry,
            Self::Disconnected { error, .. } => error.retry(),
            Self::TooManyStreams { .. } => Retry::Now,
            Self::Damaged { .. } | Self::Protocol { .. } => Retry::Never,
        }
    }
}
