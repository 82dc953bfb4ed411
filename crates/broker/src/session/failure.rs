//! Why a QUIC stream or a session ends, and how the client is told. The one place where failures
//! become error codes.

use railgun_cold::reader::ColdReadError;
use railgun_core::shard::{AppendRefusal, EnsureRefused};
use railgun_net::{ConnectionLost, FrameWriter, ReadError, WriteError};
use railgun_proto::convert::InvalidMessage;
use railgun_proto::{Frame, FrameError, FrameKind, WireError, v1};
use railgun_types::batch::BatchError;
use railgun_types::{ErrorCode, Retry};

use crate::reader::ReadFailure;
use crate::replica::{NodeStopping, ProposeFailure};
use crate::shard::AppendFailure;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionEnd {
    /// The client is told why.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// Nobody is left to be told.
    #[error("the client left")]
    ClientLeft,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Lost(#[from] ConnectionLost),
}

impl SessionEnd {
    pub(crate) fn unexpected(kind: FrameKind) -> Self {
        let message = format!("a {} frame is not allowed here", kind.name());
        WireError::new(ErrorCode::ProtocolViolation, message).into()
    }

    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(error) => match error.code {
                railgun_proto::WireCode::Known(code) => code,
                railgun_proto::WireCode::Unknown(_) => ErrorCode::Internal,
            },
            Self::Read(error) => error.code().unwrap_or(ErrorCode::ProtocolViolation),
            Self::ClientLeft | Self::Write(_) | Self::Lost(_) => ErrorCode::ProtocolViolation,
        }
    }
}

impl From<FrameError> for SessionEnd {
    fn from(error: FrameError) -> Self {
        WireError::new(error.code(), error.to_string()).into()
    }
}

impl From<InvalidMessage> for SessionEnd {
    fn from(error: InvalidMessage) -> Self {
        WireError::from(error).into()
    }
}

impl From<NodeStopping> for SessionEnd {
    fn from(error: NodeStopping) -> Self {
        WireError::new(ErrorCode::GoingAway, error.to_string()).into()
    }
}

/// Tells the client why the stream ends, if somebody is there, and finishes it.
pub(super) async fn tell(writer: &mut FrameWriter, end: &SessionEnd) {
    let error = match end {
        SessionEnd::Refused(error) => error.clone(),
        SessionEnd::Read(error) => match error.code() {
            Some(code) => WireError::new(code, error.to_string()),
            None => return writer.finish(),
        },
        SessionEnd::Write(WriteError::Frame(error)) => {
            WireError::new(ErrorCode::Internal, format!("an answer cannot be sent: {error}"))
        }
        SessionEnd::ClientLeft | SessionEnd::Write(_) | SessionEnd::Lost(_) => {
            return writer.finish();
        }
    };
    if writer.send(Frame::new(&v1::Error::from(error))).await.is_ok() {
        writer.finish();
    }
}

/// A refused batch, as the client is told.
pub(crate) fn append_refusal(refusal: AppendRefusal) -> WireError {
    let (code, actual) = match refusal {
        AppendRefusal::StreamNotFound => (ErrorCode::StreamNotFound, None),
        AppendRefusal::StreamDeleted => (ErrorCode::StreamDeleted, None),
        AppendRefusal::ProducerFenced { epoch } => (ErrorCode::ProducerFenced, Some(epoch.into())),
        AppendRefusal::ProducerUnknown => (ErrorCode::ProducerUnknown, None),
        AppendRefusal::SequenceGap { expected } => (ErrorCode::SequenceGap, Some(expected)),
        AppendRefusal::ExpectedEnd { actual } => {
            (ErrorCode::ExpectedOffsetMismatch, Some(actual.0))
        }
        AppendRefusal::ForgottenSequence { .. } => (ErrorCode::Unknown, None),
    };
    WireError { actual, ..WireError::new(code, refusal.to_string()) }
}

/// A request that was not appended as a whole, as the client is told.
pub(crate) fn append_failure(failure: AppendFailure) -> WireError {
    match failure {
        AppendFailure::Proposal(failure) => propose_failure(failure),
        AppendFailure::HotTierFull | AppendFailure::DiskFull => {
            WireError::new(ErrorCode::HotTierFull, failure.to_string())
        }
    }
}

pub(crate) fn propose_failure(failure: ProposeFailure) -> WireError {
    let code = match failure {
        ProposeFailure::NotLeading | ProposeFailure::Busy => ErrorCode::Unavailable,
        ProposeFailure::Unknown => ErrorCode::Unknown,
    };
    WireError::new(code, failure.to_string())
}

pub(crate) fn batch_error(error: &BatchError) -> WireError {
    let (record, actual) = match *error {
        BatchError::Table { index }
        | BatchError::RecordChecksum { index }
        | BatchError::NonCanonical { index }
        | BatchError::InvalidHeader { index, .. } => (Some(index), None),
        BatchError::MessageTooLarge { index, limit, .. } => (Some(index), Some(limit as u64)),
        _ => (None, None),
    };
    let record = record.and_then(|index| u32::try_from(index).ok());
    WireError { record, actual, ..WireError::new(error.code(), error.to_string()) }
}

pub(crate) fn ensure_refused(refused: &EnsureRefused) -> WireError {
    let (code, actual) = match refused {
        EnsureRefused::Deleted => (ErrorCode::StreamDeleted, None),
        EnsureRefused::Kind => (ErrorCode::KindMismatch, None),
        EnsureRefused::Immutable { .. } => (ErrorCode::ImmutableField, None),
        EnsureRefused::Destructive { .. } => (ErrorCode::DestructiveChange, None),
        EnsureRefused::Revision { actual } => (ErrorCode::RevisionConflict, Some(*actual)),
    };
    WireError { actual, ..WireError::new(code, refused.to_string()) }
}

pub(crate) fn read_failure(failure: &ReadFailure) -> WireError {
    let message = failure.to_string();
    match failure {
        ReadFailure::NodeStopping(_) | ReadFailure::Stopped(_) => {
            WireError::new(ErrorCode::GoingAway, message)
        }
        ReadFailure::Log { .. } | ReadFailure::Index { .. } | ReadFailure::Missing { .. } => {
            WireError::new(ErrorCode::Internal, message)
        }
        ReadFailure::Cold(ColdReadError::Unavailable { retry_after, .. }) => {
            WireError::new(ErrorCode::ColdUnavailable, message)
                .with_retry(Retry::After(*retry_after))
        }
        ReadFailure::Cold(_) => WireError::new(ErrorCode::ColdCorrupt, message),
    }
}
