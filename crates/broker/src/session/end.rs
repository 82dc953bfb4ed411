//! Why a QUIC stream or a session ends, and how the client is told.

use railgun_net::{ConnectionLost, FrameWriter, ReadError, WriteError};
use railgun_proto::convert::InvalidMessage;
use railgun_proto::{Frame, FrameError, FrameKind, WireError, v1};
use railgun_types::ErrorCode;

use crate::replica::NodeStopping;
use crate::wire_error;

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
        wire_error::stopping(&error).into()
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
