//! Frames coming in on one stream.

use std::fmt;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use railgun_proto::{Frame, FrameDecoder, FrameError, HEADER_BYTES, Message, WireCode};
use railgun_types::ErrorCode;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::client_memory::{CROWD_CHECK, Held, Member, crowded_time};
use crate::close_code;
use crate::connection::ConnectionLost;
use crate::memory::PipeReader;
use crate::quic::PACKET_BYTES;

/// Pieces taken from the transport at a time. One is what a datagram brought, 1.4 to 6.5 KB.
const PIECES: usize = 32;
/// Those of them at a time before a client's frame has memory, and at its end: what lies behind it has
/// none.
const FIRST_PIECES: usize = 4;
/// Bytes of it that may come before: one that has only been announced takes nothing from others.
const FIRST_BYTES: usize = 8 << 10;
/// How long the bytes of a frame may be waited for in all, on a connection that a client made,
/// besides what the slowest line takes for its size. Without it, streams with frames that never end
/// would be held as long as their connection lives.
const FRAME_TIME: Duration = Duration::from_secs(30);
/// The slowest line, in bytes per second.
const LINE_BYTES: usize = 64 << 10;
/// How long a frame waits for memory of which nobody gives any back. What waits is not read, and may
/// fill the window that frames of the same connection need which have theirs: it must end.
const ROOM_TIME: Duration = Duration::from_secs(15);

/// Why no further frame can be read from a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended in the middle of a frame.
    #[error("the stream ended inside a frame")]
    CutShort,
    /// There was no memory for the frame, and for a while none was given back.
    #[error(
        "a frame of {bytes} bytes found no room: the frames of this connection, or of all, take \
         the memory that there is for them"
    )]
    NoRoom {
        /// Its size as announced.
        bytes: usize,
    },
    /// A frame began and did not come whole in time.
    #[error("a frame of {bytes} bytes was waited for too long")]
    Stalled {
        /// Its size as announced; 0 if not even its header came.
        bytes: usize,
    },
    /// The peer gave the stream up.
    #[error("the stream was reset by the peer{}", close_code::suffix(code))]
    Reset {
        /// Why, if it said so.
        code: Option<WireCode>,
    },
    /// The connection is no more.
    #[error(transparent)]
    ConnectionLost(#[from] ConnectionLost),
}

impl ReadError {
    /// What to tell the peer, if it is at fault and can still be told.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Frame(error) => Some(error.code()),
            Self::CutShort => Some(ErrorCode::ProtocolViolation),
            Self::NoRoom { .. } => Some(ErrorCode::QuotaExceeded),
            Self::Stalled { .. } => Some(ErrorCode::Timeout),
            Self::Reset { .. } | Self::ConnectionLost(_) => None,
        }
    }
}

/// The receiving side of a stream. Dropping it tells the peer to stop sending, without error.
pub struct FrameReader {
    raw: RawReader,
    /// The client's part of the node's memory; `None`: the peer is trusted with ours.
    member: Option<Member>,
    /// What the frame under way, or the one that was returned last, takes of it.
    held: Option<Held>,
    /// The place in the queue for it, which a call that is cancelled does not lose.
    queued: Option<Queued>,
    decoder: FrameDecoder,
    /// What was taken from the transport; those from `next` to `filled` are still to be decoded.
    pieces: Vec<Bytes>,
    next: usize,
    filled: usize,
    /// Bytes taken from the transport behind the last frame.
    taken: usize,
    /// How long the frame under way was waited for. Time in which nobody reads is not the peer's.
    waited: Duration,
    alarm: Alarm,
    failed: Option<ReadError>,
}

/// A wait for memory; `None` when it was given up.
type Queued = Pin<Box<dyn Future<Output = Option<Held>> + Send + Sync>>;

impl FrameReader {
    pub(crate) fn new(raw: RawReader, member: Option<Member>) -> Self {
        Self {
            raw,
            member,
            held: None,
            queued: None,
            decoder: FrameDecoder::new(),
            pieces: vec![Bytes::new(); PIECES],
            next: 0,
            filled: 0,
            taken: 0,
            waited: Duration::ZERO,
            alarm: Alarm::default(),
            failed: None,
        }
    }

    /// From here on frames take this part of the memory, as those of a client do: for a stream of another
    /// node, whose frames are for that client.
    pub fn charge(&mut self, member: Member) {
        self.member = Some(member);
    }

    /// The next frame; `None` when the peer finished the stream behind a whole frame. At most one
    /// frame is held, and of a client four datagrams behind it; while this is not called, flow control
    /// stops the peer, and so it does while a client's frame waits for memory. The memory counts as
    /// taken until this is called again, or [`release`](Self::release).
    ///
    /// Cancel-safe: what has come of a frame is kept for the next call.
    ///
    /// # Errors
    /// [`ReadError`]; each later call gives the same one.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.read().await;
        result.map_err(|error| self.fail(error))
    }

    /// Nothing of the frame under way is kept while the peer is told.
    fn fail(&mut self, error: ReadError) -> ReadError {
        self.failed = Some(error.clone());
        self.decoder = FrameDecoder::new();
        self.pieces = Vec::new();
        self.queued = None;
        self.held = None;
        error
    }

    /// The message of the next frame, which must be an `M`: a frame of another kind is refused by
    /// its header, before anything of it is kept. `None` and cancellation as with
    /// [`next`](Self::next).
    ///
    /// # Errors
    /// [`ReadError`]. A frame that is no `M` leaves the stream unreadable.
    pub async fn next_of<M: Message>(&mut self) -> Result<Option<M>, ReadError> {
        self.decoder.allow_only(Some(M::KIND));
        let frame = self.next().await;
        self.decoder.allow_only(None);
        frame?.map(|frame| frame.decode().map_err(ReadError::from)).transpose()
    }

    /// The frame that was returned last takes no memory any more, or is accounted for elsewhere.
    pub fn release(&mut self) {
        if self.decoder.at_border() {
            self.held = None;
        }
    }

    async fn read(&mut self) -> Result<Option<Frame>, ReadError> {
        self.release();
        loop {
            while self.next < self.filled {
                let piece = &mut self.pieces[self.next];
                let frame = self.decoder.feed(piece)?;
                if piece.is_empty() {
                    // An empty slice would still pin the datagram it is of.
                    *piece = Bytes::new();
                    self.next += 1;
                }
                if frame.is_some() {
                    self.taken = bytes_of(&self.pieces[self.next..self.filled]);
                    self.waited = Duration::ZERO;
                    return Ok(frame);
                }
            }
            self.take_room().await?;
            match self.read_pieces().await? {
                Some(filled) => {
                    (self.next, self.filled) = (0, filled);
                    self.taken += bytes_of(&self.pieces[..filled]);
                }
                None if self.decoder.at_border() => return Ok(None),
                None => return Err(ReadError::CutShort),
            }
        }
    }

    /// Takes memory for the frame under way, for all of it once a little has come: it can then come
    /// whole, and never waits for others.
    async fn take_room(&mut self) -> Result<(), ReadError> {
        let bytes = self.decoder.announced();
        let needs_room = bytes > 0 && self.held.is_none() && self.taken >= FIRST_BYTES;
        let Some(member) = self.member.as_ref().filter(|_| needs_room) else { return Ok(()) };
        if self.queued.is_none() {
            self.held = member.try_take(bytes);
            if self.held.is_some() {
                return Ok(());
            }
        }
        let queued = self.queued.get_or_insert_with(|| {
            let member = member.clone();
            Box::pin(async move { member.take_within(bytes, ROOM_TIME).await })
        });
        let room = queued.await;
        self.queued = None;
        self.held = Some(room.ok_or(ReadError::NoRoom { bytes })?);
        Ok(())
    }

    /// Takes from the transport what has come: how many pieces, `None` at the end of the stream.
    async fn read_pieces(&mut self) -> Result<Option<usize>, ReadError> {
        let Some(member) = &self.member else { return self.raw.read(&mut self.pieces).await };
        let bytes = self.decoder.announced();
        let pieces = match self.held {
            Some(_) => {
                let missing = (HEADER_BYTES + bytes).saturating_sub(self.taken);
                (missing / PACKET_BYTES as usize).clamp(FIRST_PIECES, PIECES)
            }
            None => FIRST_PIECES,
        };
        let reading = self.raw.read(&mut self.pieces[..pieces]);
        if self.decoder.at_border() {
            return reading.await;
        }
        let is_shared = self.held.as_ref().is_some_and(Held::is_shared);
        let allowed = || match is_shared && member.is_crowded() {
            true => crowded_time(bytes),
            false => FRAME_TIME + Duration::from_secs((bytes / LINE_BYTES) as u64),
        };
        let look = if is_shared { CROWD_CHECK } else { Duration::MAX };
        let read = self.alarm.patiently(reading, &mut self.waited, allowed, look).await;
        read.unwrap_or(Err(ReadError::Stalled { bytes }))
    }

    /// Waits for something else than the next frame, such as that the peer takes an answer. A frame
    /// of a client that is under way keeps its memory meanwhile, but for so long only if others wait
    /// for that. Cancel-safe if `other` is.
    ///
    /// # Errors
    /// [`ReadError`], and `other` was not done; each later call of [`next`](Self::next) gives the same.
    pub async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> Result<T, ReadError> {
        let result = self.wait_for(other).await;
        result.map_err(|error| self.fail(error))
    }

    async fn wait_for<T>(&mut self, other: impl Future<Output = T>) -> Result<T, ReadError> {
        let bytes = self.decoder.announced();
        let mut other = pin!(other);
        if let Some(queued) = &mut self.queued {
            tokio::select! {
                biased;
                done = &mut other => return Ok(done),
                room = queued => self.held = Some(room.ok_or(ReadError::NoRoom { bytes })?),
            }
            self.queued = None;
        }
        let is_shared = self.held.as_ref().is_some_and(Held::is_shared);
        let Some(member) = self.member.as_ref().filter(|_| is_shared) else {
            return Ok(other.await);
        };
        let allowed = || if member.is_crowded() { crowded_time(bytes) } else { Duration::MAX };
        // Its own time: without others, the frame has none while it is not read.
        let mut waited = Duration::ZERO;
        let done = self.alarm.patiently(other, &mut waited, allowed, CROWD_CHECK).await;
        done.ok_or(ReadError::Stalled { bytes })
    }

    /// Tells the peer to stop sending, and why. What it sent is discarded.
    pub fn stop(mut self, code: ErrorCode) {
        let code = close_code::to_wire(Some(code));
        match &mut self.raw {
            // Fails only for a stream that has ended already.
            RawReader::Quic(stream) => drop(stream.stop(code)),
            RawReader::Memory(pipe) => pipe.stop(code),
        }
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader").field("failed", &self.failed).finish_non_exhaustive()
    }
}

fn bytes_of(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

/// A timer that is left as it is while it rings early enough, which it does for all frames but those
/// that are waited for long: setting one for each read would cost more than the read.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Waits as long as is `allowed` in all, of which so much has been `waited` already. What is allowed
    /// may change; that is looked at so often.
    async fn patiently<T>(
        &mut self,
        work: impl Future<Output = T>,
        waited: &mut Duration,
        allowed: impl Fn() -> Duration,
        look: Duration,
    ) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let patience = allowed().saturating_sub(*waited).min(look);
            let waiting = Waiting { waited: &mut *waited, since: Instant::now() };
            tokio::select! {
                biased;
                // What is done is taken even if it is late.
                done = &mut work => return Some(done),
                () = self.rings_by(waiting.since + patience) => {}
            }
            drop(waiting);
            if *waited >= allowed() {
                return None;
            }
        }
    }

    /// Returns at that moment at the latest, maybe before.
    async fn rings_by(&mut self, at: Instant) {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.is_elapsed() || sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        sleep.await;
    }
}

/// Notes how long it lived: a wait that is cancelled counts too.
struct Waiting<'a> {
    waited: &'a mut Duration,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.waited += self.since.elapsed();
    }
}

/// The bytes of a stream, as the transport hands them out.
pub(crate) enum RawReader {
    Quic(quinn::RecvStream),
    /// Boxed, as it is larger than the one that nodes have.
    Memory(Box<PipeReader>),
}

impl RawReader {
    /// Fills the first of `pieces`, at least one, and tells how many; `None` at the end of the
    /// stream. Cancel-safe.
    async fn read(&mut self, pieces: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        match self {
            Self::Quic(stream) => Ok(stream.read_chunks(pieces).await?),
            Self::Memory(pipe) => pipe.read(pieces).await,
        }
    }
}

impl From<quinn::ReadError> for ReadError {
    fn from(error: quinn::ReadError) -> Self {
        use quinn::ReadError as E;
        match error {
            E::Reset(code) => Self::Reset { code: close_code::from_wire(code) },
            E::ConnectionLost(error) => Self::ConnectionLost(error.into()),
            // None of these can come: the reader is consumed by `stop`, reads are ordered, and
            // 0-RTT is off.
            E::ClosedStream | E::IllegalOrderedRead | E::ZeroRttRejected => {
                Self::ConnectionLost(ConnectionLost::Failed { reason: error.to_string() })
            }
        }
    }
}
