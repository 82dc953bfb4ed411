//! Frames going out on one stream.

use std::fmt;

use bytes::{Bytes, BytesMut};
use railgun_proto::{Frame, FrameError, WireCode};
use railgun_types::ErrorCode;

use crate::close_code;
use crate::connection::ConnectionLost;
use crate::memory::PipeWriter;

/// A part of a blob up to this size is copied behind the head, rather than sent as a piece of its
/// own, which costs more.
const COPIED_BYTES: usize = 4 << 10;

/// Why a frame was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The frame is over the limits of its kind. The stream lives on.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer reads no further.
    #[error("the peer stopped reading the stream{}", close_code::suffix(code))]
    Stopped {
        /// Why, if it said so.
        code: Option<WireCode>,
    },
    /// The stream was finished or reset by this side.
    #[error("the stream was finished by this side")]
    Finished,
    /// The connection is no more.
    #[error(transparent)]
    ConnectionLost(#[from] ConnectionLost),
}

/// The sending side of a stream.
///
/// Dropping it finishes the stream; if a frame was sent only in part, because a call was cancelled,
/// it resets the stream instead.
pub struct FrameWriter {
    raw: RawWriter,
    /// Headers, heads and small blobs of the frames that are being queued.
    gathered: BytesMut,
    /// Bytes on their way, in order; those before `sent` are gone.
    queue: Vec<Bytes>,
    sent: usize,
    /// Bytes of all that the transport has taken.
    taken: u64,
    /// Finished or reset.
    ended: bool,
}

impl FrameWriter {
    pub(crate) fn new(raw: RawWriter) -> Self {
        Self { raw, gathered: BytesMut::new(), queue: Vec::new(), sent: 0, taken: 0, ended: false }
    }

    /// Sends one frame: returns when the transport has taken it, which it does while the peer reads
    /// and the window has room. That says nothing about its arrival.
    ///
    /// Cancel-safe: what is left of the frame goes out with the next call.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn send(&mut self, frame: Frame) -> Result<(), WriteError> {
        self.send_all([frame]).await
    }

    /// Sends frames in order, as [`send`](Self::send). Small ones are gathered into one piece,
    /// blobs are handed over without copying. Cancel-safe in the same way: all of them are taken.
    ///
    /// # Errors
    /// [`WriteError`]. With [`WriteError::Frame`], the frames before the one that is over a limit
    /// were sent, and none from it on.
    pub async fn send_all(
        &mut self,
        frames: impl IntoIterator<Item = Frame>,
    ) -> Result<(), WriteError> {
        let queued = self.queue_all(frames);
        self.flush().await?;
        Ok(queued?)
    }

    /// Takes frames as [`send_all`](Self::send_all) does, and leaves the sending to
    /// [`flush`](Self::flush), so that the caller can do other work meanwhile. They stay in memory
    /// until then: the caller bounds them.
    ///
    /// # Errors
    /// The frames before the one that is over a limit were taken, and none from it on.
    pub fn queue_all(&mut self, frames: impl IntoIterator<Item = Frame>) -> Result<(), FrameError> {
        let queued = frames.into_iter().try_for_each(|frame| self.queue(frame));
        self.gather();
        queued
    }

    /// Sends what was queued, or what a cancelled call left. Cancel-safe.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn flush(&mut self) -> Result<(), WriteError> {
        while self.sent < self.queue.len() {
            match self.raw.write(&mut self.queue[self.sent..]).await {
                Ok(gone) => {
                    self.sent += gone.chunks;
                    self.taken += gone.bytes as u64;
                }
                Err(error) => {
                    // No later call can do better: nothing of it is kept.
                    self.clear();
                    return Err(error);
                }
            }
        }
        self.clear();
        Ok(())
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.sent = 0;
    }

    fn queue(&mut self, frame: Frame) -> Result<(), FrameError> {
        let parts = frame.write_to(&mut self.gathered)?;
        // A frame of a thousand small batches would regrow the buffer up to a megabyte.
        let copied = parts.iter().map(Bytes::len).filter(|bytes| *bytes <= COPIED_BYTES);
        self.gathered.reserve(copied.sum());
        for part in parts {
            if part.len() <= COPIED_BYTES {
                self.gathered.extend_from_slice(&part);
            } else {
                self.gather();
                self.queue.push(part);
            }
        }
        Ok(())
    }

    fn gather(&mut self) {
        if !self.gathered.is_empty() {
            self.queue.push(self.gathered.split().freeze());
        }
    }

    /// Sends bytes that need not be a frame.
    #[cfg(test)]
    pub(crate) async fn send_raw(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.queue.push(bytes);
        self.flush().await
    }

    /// Whether nothing waits for [`flush`](Self::flush).
    pub fn is_flushed(&self) -> bool {
        self.sent == self.queue.len()
    }

    /// Bytes that the transport has taken so far: whether a peer that is slow takes anything at all.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Says that no further frame comes. The peer gets all that was sent. If a cancelled call left
    /// something unsent, the stream is reset instead: half a frame is no message.
    pub fn finish(&mut self) {
        if !self.is_flushed() {
            return self.reset_with(None);
        }
        self.ended = true;
        match &mut self.raw {
            // Fails only for a stream that has ended already.
            RawWriter::Quic(stream) => drop(stream.finish()),
            RawWriter::Memory(pipe) => pipe.finish(),
        }
    }

    /// Gives the stream up: the peer's reader fails with this code, even for frames that were sent
    /// and not yet read. No effect after [`finish`](Self::finish).
    pub fn reset(&mut self, code: ErrorCode) {
        self.reset_with(Some(code));
    }

    fn reset_with(&mut self, code: Option<ErrorCode>) {
        self.clear();
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let code = close_code::to_wire(code);
        match &mut self.raw {
            // Fails only for a stream that has ended already.
            RawWriter::Quic(stream) => drop(stream.reset(code)),
            RawWriter::Memory(pipe) => pipe.reset(code),
        }
    }

    /// Waits until the peer reads no further: with its reason if it stopped the stream; with `None`
    /// after [`finish`](Self::finish), when all has arrived at the peer (its machine, not its
    /// application). Cancel-safe.
    ///
    /// # Errors
    /// [`ConnectionLost`].
    pub async fn stopped(&mut self) -> Result<Option<WireCode>, ConnectionLost> {
        match &mut self.raw {
            RawWriter::Quic(stream) => match stream.stopped().await {
                Ok(code) => Ok(code.and_then(close_code::from_wire)),
                Err(quinn::StoppedError::ConnectionLost(error)) => Err(error.into()),
                Err(error @ quinn::StoppedError::ZeroRttRejected) => {
                    Err(ConnectionLost::Failed { reason: error.to_string() })
                }
            },
            RawWriter::Memory(pipe) => pipe.stopped().await,
        }
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.is_flushed() {
            self.reset_with(None);
        }
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// The bytes of a stream, as the transport takes them.
pub(crate) enum RawWriter {
    Quic(quinn::SendStream),
    /// Boxed, as it is larger than the one that nodes have.
    Memory(Box<PipeWriter>),
}

impl RawWriter {
    /// Takes some bytes from the front of `queue`, and tells how many, and how many of its pieces are
    /// gone as a whole. Cancel-safe.
    async fn write(&mut self, queue: &mut [Bytes]) -> Result<quinn::Written, WriteError> {
        match self {
            Self::Quic(stream) => Ok(stream.write_chunks(queue).await?),
            Self::Memory(pipe) => pipe.write(queue).await,
        }
    }
}

impl From<quinn::WriteError> for WriteError {
    fn from(error: quinn::WriteError) -> Self {
        use quinn::WriteError as E;
        match error {
            E::Stopped(code) => Self::Stopped { code: close_code::from_wire(code) },
            E::ConnectionLost(error) => Self::ConnectionLost(error.into()),
            E::ClosedStream => Self::Finished,
            E::ZeroRttRejected => {
                Self::ConnectionLost(ConnectionLost::Failed { reason: error.to_string() })
            }
        }
    }
}
