//! One direction of a stream: a bounded queue of bytes.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{VarInt, Written};
use railgun_proto::WireCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::connection::{Hold, View};
use crate::close_code;
use crate::connection::ConnectionLost;
use crate::reader::ReadError;
use crate::writer::WriteError;

/// Bytes that may be written and not yet read.
const WINDOW_BYTES: usize = 256 << 10;
/// Pieces, likewise: a bound for pieces of a few bytes.
const WINDOW_PIECES: usize = 1_024;
/// Largest piece.
const PIECE_BYTES: usize = 16 << 10;

/// How the writing side ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Finished,
    Reset(VarInt),
}

/// Bytes with their share of the window, which is given back when they are read.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(crate) struct PipeWriter {
    /// `None` once finished or reset.
    pieces: Option<mpsc::Sender<Piece>>,
    window: Arc<Semaphore>,
    end: watch::Sender<End>,
    stopped: watch::Receiver<Option<VarInt>>,
    view: View,
    hold: Option<Arc<Hold>>,
}

#[derive(Debug)]
pub(crate) struct PipeReader {
    pieces: mpsc::Receiver<Piece>,
    end: watch::Receiver<End>,
    stop: watch::Sender<Option<VarInt>>,
    view: View,
    hold: Option<Arc<Hold>>,
}

pub(super) fn pipe(writer: View, reader: View) -> (PipeWriter, PipeReader) {
    let (sender, receiver) = mpsc::channel(WINDOW_PIECES);
    let (end, ended) = watch::channel(End::Open);
    let (stop, stopped) = watch::channel(None);
    let window = Arc::new(Semaphore::new(WINDOW_BYTES));
    (
        PipeWriter { pieces: Some(sender), window, end, stopped, view: writer, hold: None },
        PipeReader { pieces: receiver, end: ended, stop, view: reader, hold: None },
    )
}

impl PipeWriter {
    /// From now on the stream keeps its side of the connection open.
    pub(super) fn hold(&mut self, hold: Arc<Hold>) {
        self.hold = Some(hold);
    }

    /// Takes one piece from the front of `queue`; tells its bytes, and how many parts are gone as a whole.
    pub(crate) async fn write(&mut self, queue: &mut [Bytes]) -> Result<Written, WriteError> {
        let pieces = self.pieces.as_ref().ok_or(WriteError::Finished)?;
        let Some(front) = queue.first_mut() else { return Ok(Written::default()) };
        let len = front.len().min(PIECE_BYTES);
        let room = async {
            let room = Arc::clone(&self.window).acquire_many_owned(len as u32).await.ok()?;
            Some((room, pieces.reserve().await.ok()?))
        };
        tokio::select! {
            biased;
            lost = self.view.lost() => Err(lost.into()),
            code = stop_code(&mut self.stopped) => {
                Err(WriteError::Stopped { code: close_code::from_wire(code) })
            }
            // The reader says why before it goes; the window is never closed.
            Some((room, slot)) = room => {
                slot.send(Piece { bytes: front.split_to(len), _room: room });
                Ok(Written { bytes: len, chunks: usize::from(front.is_empty()) })
            }
        }
    }

    pub(crate) fn finish(&mut self) {
        self.end_with(End::Finished);
    }

    pub(crate) fn reset(&mut self, code: VarInt) {
        self.end_with(End::Reset(code));
    }

    fn end_with(&mut self, end: End) {
        if self.pieces.is_some() {
            self.end.send_replace(end);
            self.pieces = None;
        }
    }

    pub(crate) async fn stopped(&mut self) -> Result<Option<WireCode>, ConnectionLost> {
        let finished = *self.end.borrow() != End::Open;
        tokio::select! {
            biased;
            code = stop_code(&mut self.stopped) => Ok(close_code::from_wire(code)),
            // What was written before is in the peer's hands already.
            () = std::future::ready(()), if finished => Ok(None),
            lost = self.view.lost() => Err(lost),
        }
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

impl PipeReader {
    /// From now on the stream keeps its side of the connection open.
    pub(super) fn hold(&mut self, hold: Arc<Hold>) {
        self.hold = Some(hold);
    }

    pub(crate) async fn read(&mut self, bufs: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        let piece = tokio::select! {
            biased;
            code = reset_code(&mut self.end) => {
                return Err(ReadError::Reset { code: close_code::from_wire(code) });
            }
            piece = self.pieces.recv() => piece,
            lost = self.view.lost() => return Err(lost.into()),
        };
        let Some(piece) = piece else { return Ok(None) };
        let mut next = Some(piece);
        let mut filled = 0;
        for buf in bufs {
            let Some(piece) = next.take().or_else(|| self.pieces.try_recv().ok()) else { break };
            *buf = piece.bytes;
            filled += 1;
        }
        Ok(Some(filled))
    }

    pub(crate) fn stop(&mut self, code: VarInt) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(code);
            first
        });
        self.pieces.close();
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.stop(VarInt::from_u32(0));
    }
}

/// Waits until the reader stops the stream.
async fn stop_code(stopped: &mut watch::Receiver<Option<VarInt>>) -> VarInt {
    // The reader stops before it goes.
    match stopped.wait_for(Option::is_some).await {
        Ok(code) => code.unwrap_or_default(),
        Err(_) => VarInt::from_u32(0),
    }
}

/// Waits until the writer resets the stream; for ever if it finishes it.
async fn reset_code(end: &mut watch::Receiver<End>) -> VarInt {
    let reset = end.wait_for(|end| matches!(end, End::Reset(_))).await.map(|end| *end);
    match reset {
        Ok(End::Reset(code)) => code,
        _ => std::future::pending().await,
    }
}
