//! How a message can fail.

use railgun_proto::WireError;
use railgun_types::batch::RecordRefused;
use railgun_types::{ErrorCode, Offset, StreamName, Timestamp};

/// How a message ended that was not published (PS-3). Every ticket ends as published, or in one of
/// these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Definite: the server did not append the message and never will. `retry` of the error says
    /// whether sending it again may help; the SDK has then already tried for `give_up_after`.
    #[error("the server refused the message: {0}")]
    Refused(WireError),
    /// Definite: not appended, because another message came with the same id before, and its time is not
    /// over (DD-2).
    #[error("not appended: the id was used for another message, at offset {original}")]
    IdConflict {
        /// Where the other message is.
        original: Offset,
    },
    /// The message is in the stream, under the same id, from an earlier time: only where the publisher was
    /// told to take that for an error (DD-2), or in an atomic batch, of which nothing was appended then.
    #[error("the message was appended before, at offset {offset}")]
    Duplicate {
        /// Where it is.
        offset: Offset,
        /// Log time of the entry that holds it; 0 where the server does not tell it.
        ts: Timestamp,
    },
    /// Definite: not appended, because an earlier message of the same publisher and stream failed
    /// and the publisher keeps order. See [`Publisher::resume`](crate::Publisher::resume).
    #[error("not appended, because an earlier message of this publisher failed")]
    OrderBroken,
    /// Definite: the message never left this process.
    #[error("the message was not sent: {reason}")]
    NotSent {
        /// Why not.
        reason: String,
    },
    /// The message may or may not have been appended. Publishing it again may append it twice,
    /// unless it carries an id and the stream has an ID time box (DD-1).
    #[error("it is not known whether the message was appended: {reason}")]
    Unknown {
        /// Why nothing more is known.
        reason: String,
    },
}

impl PublishError {
    /// What the server refused for good.
    pub(crate) fn refused(error: WireError) -> Self {
        match error.actual.map(Offset) {
            Some(original) if error.code == ErrorCode::DuplicateIdConflict => {
                Self::IdConflict { original }
            }
            Some(offset) if error.code == ErrorCode::Duplicate => {
                Self::Duplicate { offset, ts: Timestamp(0) }
            }
            _ => Self::Refused(error),
        }
    }

    /// Whether the message is certainly not in the stream.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}

/// Why a publisher did not take a message. It is not in the stream, and nothing behind it is
/// affected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The message breaks a limit of the stream or of the protocol.
    #[error(transparent)]
    Message(#[from] RecordRefused),
    /// An earlier message failed and the publisher keeps order: look at the failure, then call
    /// [`Publisher::resume`](crate::Publisher::resume).
    #[error("an earlier message to stream '{stream}' failed and the publisher keeps order")]
    OrderBroken {
        /// The stream.
        stream: StreamName,
    },
    /// The stream is gone, or this client may not publish to it any more.
    #[error("stream '{stream}' takes no more messages: {error}")]
    StreamGone {
        /// The stream.
        stream: StreamName,
        /// What the server said.
        error: WireError,
    },
    /// An atomic batch that is too large, or empty.
    #[error("an atomic batch of {records} messages and {bytes} bytes is outside the limits")]
    AtomicBatch {
        /// Messages given.
        records: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// Only from `try_send`: the bytes that wait or are un-answered have reached the bound.
    #[error("the publisher's buffer is full")]
    Full,
    /// The publisher was closed.
    #[error("the publisher is closed")]
    Closed,
}

/// What a server sent that the protocol does not allow in a publisher's stream. The connection of
/// this publisher is given up and made again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("a result came while no batch was un-answered")]
    UnaskedResult,
    #[error("{results} results came for {batches} batches")]
    ResultCount { results: usize, batches: usize },
    #[error("a result tells of {published} published records in a batch of {records}")]
    PublishedCount { published: u32, records: u32 },
    #[error("stream alias {alias} was never bound")]
    UnknownAlias { alias: u32 },
    #[error("aliases are free that nobody asked to be freed")]
    UnaskedUnbound,
    #[error("a {kind} frame does not belong in a publisher's stream")]
    UnexpectedFrame { kind: &'static str },
}
