//! How a member of a group can fail.

use railgun_proto::WireError;
use railgun_types::batch::BatchError;
use railgun_types::{GroupName, Offset, OffsetRange, Retry, StreamName};

use super::event::StaleReason;
use crate::admin::AdminError;
use crate::connect_error::ConnectError;

/// Why a member has no place in its group any more, or why what it said of a message changed nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GroupError {
    /// There is no such group, and it was not to be made.
    #[error(
        "stream '{stream}' has no group '{group}': make it with `Admin::ensure_group`, or have it made \
         with `create` of the builder"
    )]
    NotFound {
        /// The stream.
        stream: StreamName,
        /// The group.
        group: GroupName,
    },
    /// The group was deleted while this was a member of it; there may be another one of its name.
    #[error("group '{group}' of stream '{stream}' was deleted while it was read")]
    Deleted {
        /// The stream.
        stream: StreamName,
        /// The group.
        group: GroupName,
    },
    /// It could not be made, or is not known to have been made.
    #[error("group '{group}' of stream '{stream}' cannot be made: {error}")]
    NotMade {
        /// The stream.
        stream: StreamName,
        /// The group.
        group: GroupName,
        /// What came of it.
        error: Box<AdminError>,
    },
    /// The server does not take the member: the stream does not exist or was deleted, the group is of the
    /// other mode.
    #[error("cannot join group '{group}' of stream '{stream}': {error}")]
    Refused {
        /// The stream.
        stream: StreamName,
        /// The group.
        group: GroupName,
        /// What the server said.
        error: Box<WireError>,
    },
    /// The connection was lost, or the server unable, for longer than the client is patient.
    #[error("cannot read group '{group}' of stream '{stream}': {error}")]
    Disconnected {
        /// The stream.
        stream: StreamName,
        /// The group.
        group: GroupName,
        /// What happened.
        error: Box<ConnectError>,
    },
    /// As many QUIC streams are in use as the connection of a client may have. A member takes one.
    #[error("cannot join group '{group}': all {streams} streams of the connection are in use")]
    TooManyStreams {
        /// The group.
        group: GroupName,
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
    /// The server sent what the protocol does not allow.
    #[error("the server broke the protocol while group '{group}' was read: {reason}")]
    Protocol {
        /// The group.
        group: GroupName,
        /// What it sent.
        reason: String,
    },
    /// What was said of a message changed nothing (G-7). The member goes on.
    #[error("message {range} could not be settled: {}", reason.text())]
    Stale {
        /// The message, or those of a batch of which this is true.
        range: OffsetRange,
        /// Why.
        reason: StaleReason,
    },
    /// The subscription was closed before the server had confirmed what was said of a message: whether
    /// it counts is not known.
    #[error("the subscription is closed")]
    Closed,
}

impl GroupError {
    /// Whether joining again, or settling again, may help, and when.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotMade { error, .. } => error.retry(),
            Self::Refused { error, .. } => error.retry,
            Self::Disconnected { error, .. } => error.retry(),
            Self::TooManyStreams { .. } => Retry::Now,
            Self::NotFound { .. }
            | Self::Deleted { .. }
            | Self::Damaged { .. }
            | Self::Protocol { .. }
            | Self::Stale { .. }
            | Self::Closed => Retry::Never,
        }
    }
}
