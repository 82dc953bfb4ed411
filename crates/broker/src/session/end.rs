//! Why a QUIC stream or a session ends, and how the client is told.

use std::time::Duration;

use railgun_net::{ConnectionLost, FrameWriter, ReadError, WriteError};
use railgun_proto::convert::InvalidMessage;
use railgun_proto::{Frame, FrameError, FrameKind, WireError, v1};
use railgun_types::ErrorCode;

use tokio::time::timeout;

use crate::replica::NodeStopping;
use crate::wire_error;

/// How long a client may take for an answer, besides what a line of `LINE_BYTES` a second takes for
/// it. What serves the stream is kept meanwhile, and a client need not let go of it by itself. Long
/// enough for one on a slow line that has asked for records, too: they may be in front of it.
const ANSWER_TIME: Duration = Duration::from_secs(30);
const LINE_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionEnd {
    /// The client is told why.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// Nobody is left to be told.
    #[error("the client left")]
    ClientLeft,
    /// The stream was reset.
    #[error("the client did not take an answer in time")]
    NotTaken,
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

    /// What the client is told; `None` where nobody is left, or it was told.
    pub(super) fn told(&self) -> Option<WireError> {
        match self {
            Self::Refused(error) => Some(error.clone()),
            Self::Read(error) => error.code().map(|code| WireError::new(code, error.to_string())),
            Self::Write(WriteError::Frame(error)) => {
                let message = format!("an answer cannot be sent: {error}");
                Some(WireError::new(ErrorCode::Internal, message))
            }
            Self::ClientLeft | Self::NotTaken | Self::Write(_) | Self::Lost(_) => None,
        }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(error) => match error.code {
                railgun_proto::WireCode::Known(code) => code,
                railgun_proto::WireCode::Unknown(_) => ErrorCode::Internal,
            },
            Self::Read(error) => error.code().unwrap_or(ErrorCode::ProtocolViolation),
            Self::NotTaken => ErrorCode::Timeout,
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

/// Sends an answer. A client that does not take it in time loses the stream.
/// Cancel safe: [`rest`] goes on with it.
pub(super) async fn answer(writer: &mut FrameWriter, answer: Frame) -> Result<(), SessionEnd> {
    let patience = patience(&answer);
    let queued = writer.queue_all([answer]).map_err(WriteError::from);
    taken(writer, patience).await?;
    Ok(queued?)
}

/// Sends what is left of an answer.
pub(super) async fn rest(writer: &mut FrameWriter) -> Result<(), SessionEnd> {
    taken(writer, ANSWER_TIME).await
}

async fn taken(writer: &mut FrameWriter, patience: Duration) -> Result<(), SessionEnd> {
    match timeout(patience, writer.flush()).await {
        Ok(sent) => Ok(sent?),
        Err(_) => {
            writer.reset(ErrorCode::Timeout);
            Err(SessionEnd::NotTaken)
        }
    }
}

/// Tells the client why the stream ends, if somebody is there, and finishes it. Whoever does not take
/// that in time is told by the code of a reset.
pub(super) async fn tell(writer: &mut FrameWriter, end: &SessionEnd) {
    let Some(error) = end.told() else { return writer.finish() };
    let frame = Frame::new(&v1::Error::from(error));
    match timeout(patience(&frame), writer.send(frame)).await {
        Ok(Ok(())) => writer.finish(),
        Ok(Err(_)) => {}
        Err(_) => writer.reset(end.code()),
    }
}

fn patience(answer: &Frame) -> Duration {
    ANSWER_TIME + Duration::from_secs((answer.wire_bytes() / LINE_BYTES) as u64)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use railgun_net::ReadError;
    use railgun_net::memory::MemoryNetwork;
    use railgun_proto::WireCode;
    use tokio::time::Instant;

    use super::*;

    /// Records for which nobody has asked, and which are not read.
    fn records() -> Frame {
        Frame::with_blob(&v1::Deliver::default(), vec![vec![7; 1 << 20].into()])
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_a_slow_line_and_not_for_ever() {
        for is_told in [false, true] {
            let network = MemoryNetwork::new();
            let endpoint = network.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
            let near = network.connect(endpoint.local_addr()).await.unwrap();
            let far = endpoint.accept().await.unwrap();
            let (mut asks, mut answers) = near.open().await.unwrap();
            asks.send(Frame::new(&v1::Credit { bytes: 1 })).await.unwrap();
            let (mut writer, _reader) = far.accept().await.unwrap();
            let begin = Instant::now();
            let (code, least) = if is_told {
                writer.queue_all([records()]).unwrap();
                tell(&mut writer, &SessionEnd::unexpected(FrameKind::Hello)).await;
                (ErrorCode::ProtocolViolation, 30)
            } else {
                let answered = answer(&mut writer, records()).await;
                assert!(matches!(answered, Err(SessionEnd::NotTaken)), "{answered:?}");
                (ErrorCode::Timeout, 30 + 16)
            };
            assert_eq!(begin.elapsed().as_secs(), least);
            let code = Some(WireCode::Known(code));
            assert_eq!(answers.next().await, Err(ReadError::Reset { code }));
        }
    }
}
