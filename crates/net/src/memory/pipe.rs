//! One direction of a stream: a bounded queue of bytes.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{VarInt, Written};
use railgun_proto::WireCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::link::{Hold, View};
use super::route::Stamp;
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
    Finished(Option<Stamp>),
    Reset(VarInt, Option<Stamp>),
}

/// The word that the reader wants no more.
#[derive(Clone, Copy, Debug)]
struct Stop {
    code: VarInt,
    sent: Option<Stamp>,
}

/// Bytes with their share of the window, which is given back when they are read.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    sent: Option<Stamp>,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(crate) struct PipeWriter {
    /// `None` once finished or reset.
    pieces: Option<mpsc::Sender<Piece>>,
    window: Arc<Semaphore>,
    end: watch::Sender<End>,
    stopped: watch::Receiver<Option<Stop>>,
    /// What was sent last.
    last: Option<Stamp>,
    view: View,
    hold: Option<Arc<Hold>>,
}

#[derive(Debug)]
pub(crate) struct PipeReader {
    pieces: mpsc::Receiver<Piece>,
    /// The next of them, while it is on its way.
    next: Option<Piece>,
    end: watch::Receiver<End>,
    /// The same, to look at while it is waited for.
    ended: watch::Receiver<End>,
    stop: watch::Sender<Option<Stop>>,
    view: View,
    hold: Option<Arc<Hold>>,
}

pub(super) fn pipe(writer: View, reader: View) -> (PipeWriter, PipeReader) {
    let (sender, receiver) = mpsc::channel(WINDOW_PIECES);
    let (end, ended) = watch::channel(End::Open);
    let (stop, stopped) = watch::channel(None);
    let window = Arc::new(Semaphore::new(WINDOW_BYTES));
    (
        PipeWriter {
            pieces: Some(sender),
            window,
            end,
            stopped,
            last: None,
            view: writer,
            hold: None,
        },
        PipeReader {
            pieces: receiver,
            next: None,
            end: ended.clone(),
            ended,
            stop,
            view: reader,
            hold: None,
        },
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
            code = stop_code(&mut self.stopped, &self.view) => {
                Err(WriteError::Stopped { code: close_code::from_wire(code) })
            }
            // The reader says why before it goes; the window is never closed.
            Some((room, slot)) = room => {
                self.last = self.view.depart_behind(self.last);
                slot.send(Piece { bytes: front.split_to(len), sent: self.last, _room: room });
                Ok(Written { bytes: len, chunks: usize::from(front.is_empty()) })
            }
        }
    }

    pub(crate) fn finish(&mut self) {
        self.last = self.view.depart_behind(self.last);
        self.end_with(End::Finished(self.last));
    }

    pub(crate) fn reset(&mut self, code: VarInt) {
        // It overtakes what was sent before.
        self.end_with(End::Reset(code, self.view.depart_behind(None)));
    }

    /// The reader that finds no further piece finds the reason, too.
    fn end_with(&mut self, end: End) {
        if self.pieces.is_some() {
            self.end.send_replace(end);
            self.pieces = None;
        }
    }

    pub(crate) async fn stopped(&mut self) -> Result<Option<WireCode>, ConnectionLost> {
        let end = *self.end.borrow();
        let (view, peer) = (&self.view, self.view.other());
        let arrived = async {
            match end {
                End::Open => std::future::pending().await,
                End::Finished(sent) | End::Reset(_, sent) => peer.arrival(sent).await,
            }
            // And so has the word that it has.
            view.arrival(peer.depart_behind(None)).await;
        };
        tokio::select! {
            biased;
            code = stop_code(&mut self.stopped, &self.view) => Ok(close_code::from_wire(code)),
            // What was written before is in the peer's hands then.
            () = arrived => Ok(None),
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
        let view = &self.view;
        let piece = tokio::select! {
            biased;
            code = reset_code(&mut self.end, view) => {
                return Err(ReadError::Reset { code: close_code::from_wire(code) });
            }
            piece = next_piece(&mut self.pieces, &mut self.next, &self.ended, view) => piece,
            lost = view.lost() => return Err(lost.into()),
        };
        let Some(piece) = piece else { return Ok(None) };
        let mut next = Some(piece);
        let mut filled = 0;
        for buf in bufs {
            let Some(piece) = next.take().or_else(|| self.try_next()) else { break };
            *buf = piece.bytes;
            filled += 1;
        }
        Ok(Some(filled))
    }

    /// The next piece, if it is there.
    fn try_next(&mut self) -> Option<Piece> {
        let piece = self.next.take().or_else(|| self.pieces.try_recv().ok())?;
        if self.view.has_arrived(piece.sent) {
            return Some(piece);
        }
        self.next = Some(piece);
        None
    }

    pub(crate) fn stop(&mut self, code: VarInt) {
        let view = &self.view;
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert_with(|| Stop { code, sent: view.depart_behind(None) });
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
async fn stop_code(stopped: &mut watch::Receiver<Option<Stop>>, view: &View) -> VarInt {
    // The reader stops before it goes.
    let stop = stopped.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
    let Some(Stop { code, sent }) = stop else { return VarInt::from_u32(0) };
    view.arrival(sent).await;
    code
}

/// Waits until the writer resets the stream; for ever if it finishes it.
async fn reset_code(end: &mut watch::Receiver<End>, view: &View) -> VarInt {
    let reset = end.wait_for(|end| matches!(end, End::Reset(..))).await.map(|end| *end);
    match reset {
        Ok(End::Reset(code, sent)) => {
            view.arrival(sent).await;
            code
        }
        _ => std::future::pending().await,
    }
}

/// Waits for the next piece, `None` at the end of the stream; for ever if it was reset. Cancel-safe.
async fn next_piece(
    pieces: &mut mpsc::Receiver<Piece>,
    next: &mut Option<Piece>,
    ended: &watch::Receiver<End>,
    view: &View,
) -> Option<Piece> {
    if next.is_none() {
        *next = pieces.recv().await;
    }
    match next {
        Some(piece) => view.arrival(piece.sent).await,
        None => {
            let end = *ended.borrow();
            match end {
                End::Finished(sent) => view.arrival(sent).await,
                // Its reset is on its way.
                End::Reset(..) => std::future::pending().await,
                End::Open => {}
            }
        }
    }
    next.take()
}
