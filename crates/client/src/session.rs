//! One connection after its handshake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use railgun_net::{Connection, FrameReader, FrameWriter, QUIC_STREAMS_MAX};
use railgun_proto::convert::Uid;
use railgun_proto::{Frame, FrameKind, Message, VERSION, WireError, v1};
use railgun_types::{ClusterUid, ErrorCode};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SetOnce};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect_error::{ConnectError, StreamLost};
use crate::dial::{Dial, Target};
use crate::options::ClientOptions;

/// Streams of a connection beside the first.
const STREAMS_BESIDE_CONTROL: usize = QUIC_STREAMS_MAX as usize - 1;
/// Time for a server that goes away to answer what is in flight, if it names none, and the bounds of
/// what it may name.
const LEAVING_USUAL: Duration = Duration::from_secs(10);
const LEAVING_MIN: Duration = Duration::from_secs(1);
const LEAVING_MAX: Duration = Duration::from_secs(60);
/// How long a server may answer that nobody leads, before another is sought: longer than an election takes.
/// It may be cut off from the others.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);
/// The same of a node that was gone to because it leads: the link's server finds who leads instead of it.
pub(crate) const LEADERLESS_LEADER_MAX: Duration = Duration::from_millis(500);
/// Other servers that one may name when it goes away.
const ALTERNATIVES_MAX: usize = 16;

/// A connection on which the server said Welcome.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) target: Target,
    /// Counts the sessions of a client's link; 0 beside it.
    pub(crate) number: u64,
    pub(crate) cluster_uid: ClusterUid,
    /// The node that serves it.
    pub(crate) node_id: u32,
    pub(crate) unanswered_max: usize,
    /// The server stops: finish what is in flight, begin nothing.
    pub(crate) going_away: CancellationToken,
    /// Where it says to go instead. Set before [`Self::going_away`], if at all.
    alternatives: SetOnce<Vec<String>>,
    owed: Arc<Owed>,
    /// Since when the server answers that nobody leads: milliseconds of the session's life, or 0.
    leaderless_since: AtomicU64,
    begun: Instant,
    /// How long that is borne. `None`: the client knows no other server.
    pub(crate) leaderless_max: Option<Duration>,
    /// Streams that may still be opened. Beyond them QUIC would wait, for as long as no other ends.
    slots: Arc<Semaphore>,
}

/// Who waits for an answer on a session.
#[derive(Debug, Default)]
struct Owed {
    waiting: AtomicUsize,
    begun: Notify,
}

/// One who may wait for an answer. Dropped, it waits no more.
#[derive(Debug)]
pub(crate) struct Waiting {
    owed: Arc<Owed>,
    waits: AtomicBool,
}

impl Waiting {
    /// Whether an answer is owed to it now.
    pub(crate) fn set(&self, waits: bool) {
        if self.waits.swap(waits, Ordering::Relaxed) == waits {
            return;
        }
        if !waits {
            self.owed.waiting.fetch_sub(1, Ordering::Relaxed);
        } else if self.owed.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.owed.begun.notify_one();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// A QUIC stream of a session.
#[derive(Debug)]
pub(crate) struct SessionStream {
    pub(crate) writer: FrameWriter,
    pub(crate) reader: FrameReader,
    /// Its place among those that a connection may have open.
    _slot: OwnedSemaphorePermit,
}

/// The first stream of a connection. The session lives while it is open.
#[derive(Debug)]
pub(crate) struct ControlStream {
    _writer: FrameWriter,
    reader: FrameReader,
    /// Nothing more comes on it.
    ended: bool,
}

impl Session {
    /// Dials, and introduces this client. Cancelled, the connection is closed.
    pub(crate) async fn begin(
        dial: &dyn Dial,
        target: Target,
        options: &ClientOptions,
        number: u64,
    ) -> Result<(Self, ControlStream), ConnectError> {
        let connection = dial.dial(&target).await?;
        let server = || target.server.clone();
        let handshake = |reason| ConnectError::Handshake { server: server(), reason };
        let greeting = tokio::time::timeout(options.connect_timeout, greet(&connection, options));
        let (welcome, control) = match greeting.await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(StreamLost::Refused(error))) => {
                return Err(ConnectError::Refused { server: server(), error });
            }
            Ok(Err(lost)) => return Err(handshake(lost.to_string())),
            Err(_) => return Err(handshake(no_answer(options.connect_timeout))),
        };
        let cluster_uid = ClusterUid::from_wire("cluster_uid", &welcome.cluster_uid)
            .map_err(|invalid| handshake(invalid.to_string()))?;
        if welcome.version != VERSION {
            let text = format!("the server chose version {}", welcome.version);
            let error = WireError::new(ErrorCode::UnsupportedVersion, text);
            return Err(ConnectError::Refused { server: server(), error });
        }
        let session = Self {
            connection,
            target,
            number,
            cluster_uid,
            node_id: welcome.node_id,
            unanswered_max: welcome.unanswered_max.max(1) as usize,
            going_away: CancellationToken::new(),
            alternatives: SetOnce::new(),
            owed: Arc::default(),
            leaderless_since: AtomicU64::new(0),
            begun: Instant::now(),
            leaderless_max: (options.servers.len() > 1).then_some(LEADERLESS_MAX),
            slots: Arc::new(Semaphore::new(STREAMS_BESIDE_CONTROL)),
        };
        Ok((session, control))
    }

    /// For somebody who will wait for answers on this session.
    pub(crate) fn waiting(&self) -> Waiting {
        Waiting { owed: Arc::clone(&self.owed), waits: AtomicBool::new(false) }
    }

    /// Whether somebody waits for an answer.
    pub(crate) fn owes(&self) -> bool {
        self.owed.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns when somebody waits for an answer. For one task. Cancel-safe.
    pub(crate) async fn begins_to_owe(&self) {
        while !self.owes() {
            self.owed.begun.notified().await;
        }
    }

    /// Notes what a server has answered a request for a shard's leader: one that finds none for long is
    /// left, if there are others.
    pub(crate) fn told(&self, answer: Result<(), &WireError>) {
        let is_leaderless = answer.is_err_and(|error| {
            [ErrorCode::Unavailable, ErrorCode::NotLeader, ErrorCode::OutcomeUnknown]
                .iter()
                .any(|code| error.code == *code)
        });
        if !is_leaderless {
            return self.leaderless_since.store(0, Ordering::Relaxed);
        }
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let since =
            self.leaderless_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let since = since.unwrap_or_else(|since| since);
        let lasted = Duration::from_millis(now.saturating_sub(since));
        if since > 0 && self.leaderless_max.is_some_and(|max| lasted >= max) {
            tracing::debug!(server = %self.target, "the server finds no leader; another is sought");
            self.going_away.cancel();
        }
    }

    /// Where the server said to go instead.
    pub(crate) fn alternatives(&self) -> &[String] {
        self.alternatives.get().map_or(&[], Vec::as_slice)
    }

    fn go_away(&self, mut alternatives: Vec<String>) {
        alternatives.truncate(ALTERNATIVES_MAX);
        tracing::debug!(server = %self.target, ?alternatives, "the server is going away");
        let _ = self.alternatives.set(alternatives);
        self.going_away.cancel();
    }

    /// A new QUIC stream that begins with `first`.
    pub(crate) async fn open<M: Message>(&self, first: &M) -> Result<SessionStream, StreamLost> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_| StreamLost::AllInUse { streams: STREAMS_BESIDE_CONTROL })?;
        let (mut writer, reader) = self.connection.open().await?;
        writer.send(Frame::new(first)).await?;
        Ok(SessionStream { writer, reader, _slot: slot })
    }
}

fn no_answer(after: Duration) -> String {
    format!("no answer within {after:?}")
}

async fn greet(
    connection: &Connection,
    options: &ClientOptions,
) -> Result<(v1::Welcome, ControlStream), StreamLost> {
    let (mut writer, mut reader) = connection.open().await?;
    let hello = v1::Hello {
        version_min: VERSION,
        version_max: VERSION,
        client: options.name.clone(),
        token: options.token.clone().unwrap_or_default(),
    };
    writer.send(Frame::new(&hello)).await?;
    let welcome = expect(&mut reader).await?;
    Ok((welcome, ControlStream { _writer: writer, reader, ended: false }))
}

impl ControlStream {
    /// Serves the stream until the connection is no more. A server that goes away and does not close it
    /// in time is left.
    pub(crate) async fn run(mut self, session: &Session) {
        let mut patience = None;
        loop {
            tokio::select! {
                biased;
                lost = session.connection.closed() => {
                    tracing::debug!(server = %session.target, %lost, "session ended");
                    return;
                }
                () = session.going_away.cancelled(), if patience.is_none() => {
                    // Whoever learned it.
                    patience = Some(Instant::now() + LEAVING_USUAL);
                }
                () = sleep_until(patience) => {
                    session.connection.close(None, "");
                    return;
                }
                frame = self.reader.next(), if !self.ended => match frame {
                    Ok(Some(frame)) if frame.kind() == FrameKind::GoAway => {
                        let go_away = frame.decode::<v1::GoAway>().unwrap_or_default();
                        patience.get_or_insert(Instant::now() + leaving_time(go_away.deadline_ms));
                        session.go_away(go_away.alternatives);
                    }
                    // A later version may say more here than this one understands.
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => {
                        // The server has ended the session; what it owes comes before it closes.
                        self.ended = true;
                        session.going_away.cancel();
                    }
                },
            }
        }
    }
}

fn leaving_time(deadline_ms: u32) -> Duration {
    match deadline_ms {
        0 => LEAVING_USUAL,
        ms => Duration::from_millis(ms.into()).clamp(LEAVING_MIN, LEAVING_MAX),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The next frame, which must be an `M`; an Error frame ends the stream.
pub(crate) async fn expect<M: Message>(reader: &mut FrameReader) -> Result<M, StreamLost> {
    let frame = reader.next().await?.ok_or(StreamLost::Ended)?;
    if frame.kind() == FrameKind::Error {
        return Err(StreamLost::Refused(frame.decode::<v1::Error>()?.into()));
    }
    Ok(frame.decode()?)
}

/// The number of the session, if it is not to be used any more.
pub(crate) fn left_by(lost: &StreamLost, session: &Session) -> Option<u64> {
    if lost.is_going_away() {
        session.going_away.cancel();
    }
    let left = lost.is_connection() || session.going_away.is_cancelled();
    left.then_some(session.number)
}
