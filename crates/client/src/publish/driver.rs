//! The task of a publisher: owns its QUIC stream, sends what the machine has, feeds it the answers.
//! Inputs: [`Shared::work`], frames. Outputs: frames, completed batches. Ends when the publisher is
//! closed or dropped and everything has ended. A server that owes an answer for too long is given
//! up like a connection that was lost. Where a server names the node that leads all its streams, the
//! publisher goes on there (CL-4): it sends nothing until all it has sent is answered, and the rest over
//! a session with that node, so that neither order nor sequences know of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_net::{FrameReader, FrameWriter, WriteError};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::{ErrorCode, Retry};
use tokio::sync::watch;
use tokio::time::Instant;

use super::batch::Completion;
use super::error::ProtocolError;
use super::hints::Hints;
use super::machine::{Machine, Settings, Transmit};
use super::shared::Shared;
use crate::backoff::Backoff;
use crate::client::ClientInner;
use crate::connect_error::{ConnectError, StreamLost};
use crate::leaders::{Direct, LedAt, Pace};
use crate::session::{Session, SessionStream, Waiting, expect};

/// Most frames handed to the transport at a time.
const FRAMES_AT_ONCE: usize = 16;
/// Time for the server to confirm that it has forgotten a producer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the answers that are owed before a publisher goes elsewhere. They hold up what is behind them.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the frame in which a server says why it reads no further.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Driver {
    pub(crate) client: Arc<ClientInner>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
}

/// Why the work on one QUIC stream ended.
enum Ended {
    /// The user is done.
    Closed {
        /// Whether the server is to forget the producer.
        forget: bool,
    },
    /// The machine wants another producer id; the server is to remember the old one.
    NewProducer,
    /// All is answered, and the rest goes another way.
    Moved(Way),
    Lost(StreamLost),
}

/// Over which session a publisher goes on.
enum Way {
    Link,
    /// Straight to the node that leads its streams.
    Leader(Direct),
}

impl From<StreamLost> for Ended {
    fn from(lost: StreamLost) -> Self {
        Self::Lost(lost)
    }
}

impl Driver {
    pub(crate) async fn run(self) {
        let mut producer_id = self.client.randomness.identifier();
        let mut backoff = Backoff::of_requests();
        let mut after = None;
        let (mut ever_open, mut way, mut pace) = (false, Way::Link, Pace::new());
        let give_up_after = self.settings.give_up_after;
        let mut give_up_at = Instant::now() + give_up_after;
        loop {
            let direct = match std::mem::replace(&mut way, Way::Link) {
                Way::Leader(direct) => Some(direct),
                Way::Link => None,
            };
            let session = match &direct {
                Some(direct) => Ok(Arc::clone(&direct.session)),
                None => self.client.link.session(after, give_up_at).await,
            };
            let session = match session {
                Ok(session) => session,
                Err(error) => {
                    self.fail_all(&error.to_string());
                    if self.is_over(&error) {
                        break;
                    }
                    give_up_at = Instant::now() + give_up_after;
                    continue;
                }
            };
            if self.shared.lock().wants_new_producer() {
                producer_id = self.client.randomness.identifier();
                self.shared.lock().on_new_producer();
            }
            let (ended, was_open) =
                self.serve(&session, direct.is_some(), producer_id, &mut pace).await;
            if was_open {
                ever_open = true;
                backoff.reset();
                give_up_at = Instant::now() + give_up_after;
            }
            match ended {
                Ended::Closed { .. } => break,
                Ended::NewProducer => {
                    // What is bound is bound to the old producer's QUIC stream.
                    self.input(|machine, now, out| machine.on_disconnected(now, out));
                    // A session with a leader may be kept.
                    way = direct.map_or(Way::Link, Way::Leader);
                    continue;
                }
                Ended::Moved(other) => {
                    self.input(|machine, now, out| machine.on_disconnected(now, out));
                    (way, after) = (other, None);
                    continue;
                }
                Ended::Lost(lost) => {
                    tracing::debug!(%lost, "a publisher lost its stream");
                    self.input(|machine, now, out| machine.on_disconnected(now, out));
                    if let StreamLost::Refused(error) = &lost
                        && error.retry == Retry::Never
                    {
                        self.input(|machine, _, out| machine.refused(error, out));
                        break;
                    }
                    // What was sent has its own time. This is for what never is, because no
                    // publisher opens, again and again. A new one that finds no room for itself on
                    // the connection says so at once.
                    let no_room = !ever_open && matches!(lost, StreamLost::AllInUse { .. });
                    if no_room || Instant::now() >= give_up_at {
                        self.fail_all(&lost.to_string());
                        give_up_at = Instant::now() + give_up_after;
                    }
                    if lost.is_going_away() {
                        session.going_away.cancel();
                    }
                    let gone = lost.is_connection();
                    let leaving = session.going_away.is_cancelled();
                    after = (gone || leaving).then_some(session.number);
                    if direct.is_some() {
                        // The link leads on, and its server may name the next leader.
                        after = None;
                        pace.moved(&self.client.randomness);
                    }
                }
            }
            if self.shared.lock().is_closing() && self.shared.lock().is_idle() {
                break;
            }
            tokio::time::sleep(backoff.next(self.client.randomness.next())).await;
        }
        self.shared.lock().close();
        self.shared.close_permits();
        self.fail_all("the publisher is closed");
        self.shared.ended.cancel();
    }

    fn is_over(&self, error: &ConnectError) -> bool {
        error.is_final() || self.shared.lock().is_closing()
    }

    /// Feeds the machine and tells tickets what came of it.
    fn input<T>(&self, feed: impl FnOnce(&mut Machine, Instant, &mut Vec<Completion>) -> T) -> T {
        let mut out = Vec::new();
        let result = feed(&mut self.shared.lock(), Instant::now(), &mut out);
        self.shared.complete(&mut out);
        result
    }

    fn fail_all(&self, reason: &str) {
        self.input(|machine, _, out| machine.fail_all(reason, out));
    }

    /// Works on one QUIC stream until it ends; and whether the server ever opened the publisher.
    async fn serve(
        &self,
        session: &Session,
        is_direct: bool,
        producer_id: [u8; 16],
        pace: &mut Pace,
    ) -> (Ended, bool) {
        let after = self.settings.answer_timeout();
        let waiting = session.waiting();
        waiting.set(true);
        let opening = tokio::time::timeout(after, self.open(session, producer_id));
        let mut stream = match opening.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(lost)) => return (lost.into(), false),
            Err(_) => return (StreamLost::NoAnswer { after }.into(), false),
        };
        let (mut hints, leader) = Hints::new();
        let ended = tokio::select! {
            // Answers first: they make room for frames.
            biased;
            ended = self.read(&mut stream.reader, session, &waiting, &mut hints) => ended,
            ended = self.write(&mut stream.writer, session, &waiting) => ended,
            ended = self.silence() => ended,
            ended = self.follow(leader, session, is_direct, pace) => ended,
        };
        let ended = match ended {
            Ended::Lost(StreamLost::Write(WriteError::Stopped { .. })) => {
                // A server that stops reading says why in its last frame.
                let reading = self.read(&mut stream.reader, session, &waiting, &mut hints);
                let reason = tokio::time::timeout(LAST_WORDS_TIMEOUT, reading);
                reason.await.unwrap_or(ended)
            }
            ended => ended,
        };
        match &ended {
            Ended::Closed { forget: true } => {
                waiting.set(true);
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, close(stream)).await;
            }
            // A copy of what was repeated, or ended as unknown, may still be on its way to the log,
            // and a server that has forgotten the producer would append it a second time (PQ-1). It
            // forgets by age.
            // Nor may it forget one that goes on elsewhere.
            Ended::Closed { forget: false } | Ended::NewProducer | Ended::Moved(_) => {
                stream.writer.finish();
            }
            // What the server has not read of it is repeated elsewhere: it need not come late.
            Ended::Lost(StreamLost::NoAnswer { .. }) => stream.writer.reset(ErrorCode::Timeout),
            Ended::Lost(_) => {}
        }
        (ended, true)
    }

    async fn open(
        &self,
        session: &Session,
        producer_id: [u8; 16],
    ) -> Result<SessionStream, StreamLost> {
        let open = v1::OpenPublisher {
            producer_id: Bytes::copy_from_slice(&producer_id),
            epoch: 0,
            ordered: self.settings.ordered,
            leader_hints: self.client.options.follow_leaders,
        };
        let mut stream = session.open(&open).await?;
        let opened: v1::PublisherOpened = expect(&mut stream.reader).await?;
        self.shared.lock().on_connected(opened.credit_bytes, session.unanswered_max);
        Ok(stream)
    }

    async fn write(&self, writer: &mut FrameWriter, session: &Session, waiting: &Waiting) -> Ended {
        let mut frames = Vec::new();
        loop {
            let next = self.gather(&mut frames, waiting);
            if !frames.is_empty()
                && let Err(error) = writer.send_all(frames.drain(..)).await
            {
                return Ended::Lost(error.into());
            }
            let wake = match next {
                Some(Transmit::NewProducer) => return Ended::NewProducer,
                Some(Transmit::Close { forget }) => return Ended::Closed { forget },
                Some(Transmit::Wait(wake)) => wake,
                _ => continue,
            };
            tokio::select! {
                biased;
                () = session.going_away.cancelled() => return self.drain().await,
                () = self.shared.work.notified() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Frames to send now, and what the machine said when there were no more.
    fn gather(&self, frames: &mut Vec<Frame>, waiting: &Waiting) -> Option<Transmit> {
        let mut out = Vec::new();
        let now = Instant::now();
        let mut last = None;
        let mut machine = self.shared.lock();
        while frames.len() < FRAMES_AT_ONCE {
            match machine.poll_transmit(now, &mut out) {
                Transmit::Bind(bind) => frames.push(Frame::new(&bind)),
                Transmit::Unbind(unbind) => frames.push(Frame::new(&unbind)),
                Transmit::Publish(publish, blob) => frames.push(Frame::with_blob(&publish, blob)),
                other => {
                    last = Some(other);
                    break;
                }
            }
        }
        waiting.set(machine.answer_due().is_some());
        drop(machine);
        if !out.is_empty() {
            self.shared.complete(&mut out);
        }
        last
    }

    /// The server stops: waits for the answers that it still owes, sends nothing.
    async fn drain(&self) -> Ended {
        loop {
            // Registered before the look, so that no answer falls between.
            let mut progress = std::pin::pin!(self.shared.progress.notified());
            progress.as_mut().enable();
            if self.shared.lock().nothing_unanswered() {
                return Ended::Lost(StreamLost::Ended);
            }
            progress.await;
        }
    }

    /// Ends when the publisher is to go on over another session: with the node that leads all its streams.
    async fn follow(
        &self,
        mut leader: watch::Receiver<Option<LedAt>>,
        session: &Session,
        is_direct: bool,
        pace: &mut Pace,
    ) -> Ended {
        loop {
            let at = leader.borrow_and_update().clone();
            let way = tokio::select! {
                biased;
                Ok(()) = leader.changed() => continue,
                way = self.way_to(at.as_ref(), session, is_direct, pace) => way,
            };
            let is_settled = self.settle().await;
            pace.moved(&self.client.randomness);
            if is_settled {
                return Ended::Moved(way);
            }
            tracing::debug!(server = %session.target, "a publisher stays, as answers are late");
        }
    }

    /// The way to the node that leads, where that is another than the present one.
    async fn way_to(
        &self,
        at: Option<&LedAt>,
        session: &Session,
        is_direct: bool,
        pace: &Pace,
    ) -> Way {
        let Some(at) = at.filter(|at| is_direct || at.node != session.node_id) else {
            return std::future::pending().await;
        };
        pace.turn(&self.client.randomness).await;
        let link = self.client.link.until_at(at.node);
        if at.node == session.node_id {
            // Two sessions with one node would be one too many.
            link.await;
            return Way::Link;
        }
        tokio::select! {
            biased;
            () = link => Way::Link,
            direct = self.client.leaders.reach(at) => Way::Leader(direct),
        }
    }

    /// Sends nothing more, and waits for what the server owes. `false`: it took too long, and all goes on.
    async fn settle(&self) -> bool {
        self.shared.lock().pause(true);
        let settled = async {
            loop {
                // Registered before the look, so that no answer falls between.
                let mut progress = std::pin::pin!(self.shared.progress.notified());
                progress.as_mut().enable();
                if self.shared.lock().answer_due().is_none() {
                    return;
                }
                progress.await;
            }
        };
        let is_settled = tokio::time::timeout(SETTLE_TIMEOUT, settled).await.is_ok();
        if !is_settled {
            self.shared.lock().pause(false);
            self.shared.work.notify_one();
        }
        is_settled
    }

    /// Ends when the server owes an answer for too long.
    async fn silence(&self) -> Ended {
        let after = self.settings.answer_timeout();
        loop {
            let (now, due) = (Instant::now(), self.shared.lock().answer_due());
            match due {
                Some(due) if due <= now => return StreamLost::NoAnswer { after }.into(),
                // It may have moved on by then: one timer for thousands of answers.
                Some(due) => tokio::time::sleep_until(due).await,
                // What is sent from now on is due later than this.
                None => tokio::time::sleep_until(now + after).await,
            }
        }
    }

    async fn read(
        &self,
        reader: &mut FrameReader,
        session: &Session,
        waiting: &Waiting,
        hints: &mut Hints,
    ) -> Ended {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return StreamLost::Ended.into(),
                Err(error) => return StreamLost::from(error).into(),
            };
            if let Err(lost) = self.on_frame(&frame, session, hints) {
                return lost.into();
            }
            waiting.set(self.shared.lock().answer_due().is_some());
        }
    }

    fn on_frame(
        &self,
        frame: &Frame,
        session: &Session,
        hints: &mut Hints,
    ) -> Result<(), StreamLost> {
        let fed = match frame.kind() {
            FrameKind::PublishResult => {
                let result: v1::PublishResult = frame.decode()?;
                let mut errors = result.items.iter().filter_map(|item| item.error.as_ref());
                let error = errors.next().map(|error| WireError::from(error.clone()));
                session.told(error.as_ref().map_or(Ok(()), Err));
                self.input(|machine, now, out| machine.on_result(result, now, out))
            }
            FrameKind::StreamBound => {
                let bound: v1::StreamBound = frame.decode()?;
                let error = bound.error.as_ref().map(|error| WireError::from(error.clone()));
                session.told(error.as_ref().map_or(Ok(()), Err));
                hints.on_bound(&bound);
                self.input(|machine, now, out| machine.on_bound(bound, now, out))
            }
            FrameKind::LeaderHint => {
                hints.on_hint(frame.decode()?);
                return Ok(());
            }
            FrameKind::StreamsUnbound => {
                let unbound: v1::StreamsUnbound = frame.decode()?;
                self.input(|machine, now, _| machine.on_unbound(&unbound, now))
            }
            FrameKind::Error => {
                return Err(StreamLost::Refused(frame.decode::<v1::Error>()?.into()));
            }
            other => Err(ProtocolError::UnexpectedFrame { kind: other.name() }),
        };
        // An answer makes room for the next frame.
        self.shared.work.notify_one();
        fed.map_err(|error| {
            tracing::warn!(%error, "the server broke the protocol");
            let code = ErrorCode::ProtocolViolation;
            StreamLost::Refused(WireError::new(code, error.to_string()).with_retry(Retry::Now))
        })
    }
}

/// Says that the producer is done, and waits until the server has ended the stream.
async fn close(mut stream: SessionStream) {
    if stream.writer.send(Frame::new(&v1::ClosePublisher {})).await.is_ok() {
        stream.writer.finish();
        while let Ok(Some(_)) = stream.reader.next().await {}
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
