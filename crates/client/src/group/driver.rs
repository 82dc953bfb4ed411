//! The task of a member: owns its QUIC stream, sends what the machine has to say, feeds it what comes.
//! Inputs: [`Shared::work`], frames. Outputs: frames, messages for the application. A connection that is
//! lost is made again, and what the member has is presented on it (G-14). Ends when nobody is there who could
//! settle anything, and when the member has lost its place.

use std::sync::Arc;
use std::time::Duration;

use railgun_net::{FrameReader, FrameWriter, WriteError};
use railgun_proto::convert::{GroupEnsured, JoinGroupRequest, Uid, group_mode_of};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::batch::RecordBatch;
use railgun_types::{ErrorCode, GroupId, Offset, Retry, StreamUid, Timestamp};
use tokio::time::Instant;

use super::error::GroupError;
use super::machine::{Fault, Joined, Machine, Run, Tag, Transmit};
use super::shared::Shared;
use super::subscription::{Facts, GroupSubscription};
use crate::backoff::Backoff;
use crate::client::ClientInner;
use crate::connect_error::{ConnectError, StreamLost};
use crate::options::ANSWER_TIMEOUT_MIN;
use crate::session::{Session, SessionStream, Waiting, expect, left_by};
use crate::subscribe::{RecordRun, Source};

/// Time for what was said to be answered, once nobody is there who could say more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the frame in which a server says why it reads no further.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// A place that was kept for so long is no sign that the next one will be lost at once.
const CALM: Duration = Duration::from_secs(1);

pub(super) struct Driver {
    client: Arc<ClientInner>,
    shared: Arc<Shared>,
    request: JoinGroupRequest,
    give_up_after: Duration,
    joined: Option<Joined>,
    backoff: Backoff,
    /// When to give up. None while all is well.
    give_up_at: Option<Instant>,
    /// The session that is not to be used any more.
    after: Option<u64>,
    not_before: Instant,
}

/// The QUIC stream of a member.
struct Place {
    stream: SessionStream,
    session: Arc<Session>,
    /// Messages are owed for as long as it lives: where there are none, the server is still heard.
    _waiting: Waiting,
    since: Instant,
}

/// Why the work on one QUIC stream ended.
enum Ended {
    /// Nobody is there any more.
    Closed,
    Lost(StreamLost),
    Failed(GroupError),
}

/// An attempt that gave no place.
enum Refusal {
    Final(GroupError),
    Again(StreamLost),
}

impl From<StreamLost> for Ended {
    fn from(lost: StreamLost) -> Self {
        Self::Lost(lost)
    }
}

impl Driver {
    /// Joins, and goes on in a task of its own.
    pub(super) async fn open(
        client: Arc<ClientInner>,
        request: JoinGroupRequest,
        give_up_after: Duration,
        ensured: Option<GroupEnsured>,
    ) -> Result<GroupSubscription, GroupError> {
        let machine = Machine::new(request.credit_messages, request.credit_bytes);
        let machine = if request.fetches { machine.pulling() } else { machine };
        let shared = Shared::new(machine, request.stream.clone(), request.group.clone());
        let mut driver = Self {
            client,
            shared: Arc::clone(&shared),
            request,
            give_up_after,
            joined: None,
            backoff: Backoff::of_requests(),
            give_up_at: None,
            after: None,
            not_before: Instant::now(),
        };
        let (place, joined) = driver.join().await?;
        let mode = group_mode_of(joined.mode).map_err(|error| driver.protocol(error))?;
        // Both were parsed when the member joined.
        let Joined { stream_uid, group } = driver.joined.unwrap_or(Joined {
            stream_uid: StreamUid::default(),
            group: GroupId(joined.group_id),
        });
        let facts = Facts {
            stream_uid,
            group,
            mode,
            floor: Offset(joined.floor),
            bounds: (Offset(joined.head), Offset(joined.next_offset)),
            ack_wait: Duration::from_millis(joined.ack_wait_ms),
            ensured,
        };
        let subscription = GroupSubscription::new(shared, facts);
        tokio::spawn(driver.run(place));
        Ok(subscription)
    }

    async fn run(mut self, place: Place) {
        let shared = Arc::clone(&self.shared);
        let late = async {
            shared.closing.cancelled().await;
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        let ended = tokio::select! {
            biased;
            ended = self.work(place) => ended,
            () = late => None,
        };
        if let Some(error) = &ended {
            tracing::debug!(stream = %shared.stream, group = %shared.group, %error, "a member ends");
        }
        shared.lock().end(ended);
        shared.wake();
        shared.ended.cancel();
    }

    /// Works until nobody is there any more, or the place is lost for good.
    async fn work(&mut self, mut place: Place) -> Option<GroupError> {
        loop {
            let ended = self.serve(&mut place).await;
            let lost = match ended {
                Ended::Closed => {
                    place.stream.writer.finish();
                    return None;
                }
                Ended::Failed(error) => return Some(error),
                Ended::Lost(lost) => lost,
            };
            self.shared.lock().on_disconnected();
            if let StreamLost::Refused(error) = &lost {
                if error.retry == Retry::Never {
                    return Some(self.refused(error.clone()));
                }
                place.session.told(Err(error));
            }
            tracing::debug!(stream = %self.request.stream, group = %self.request.group, %lost,
                "a member lost its stream");
            if place.since.elapsed() >= CALM {
                self.all_is_well();
            }
            self.after = left_by(&lost, &place.session);
            // What the server has not read of it is said again elsewhere.
            drop(place);
            let joined = match self.await_retry(lost) {
                Ok(()) => self.join().await,
                Err(error) => Err(error),
            };
            match joined {
                Ok((next, _)) => place = next,
                Err(error) => return Some(error),
            }
        }
    }

    // ---- joining

    /// Takes a place, trying for as long as that may help.
    async fn join(&mut self) -> Result<(Place, v1::GroupJoined), GroupError> {
        loop {
            tokio::time::sleep_until(self.not_before).await;
            let give_up_at = *self.give_up_at.get_or_insert(Instant::now() + self.give_up_after);
            match self.attempt(give_up_at).await {
                Ok((place, joined)) => {
                    let exclusive = joined.mode() == v1::GroupMode::GroupExclusive;
                    self.shared.lock().on_joined(exclusive);
                    return Ok((place, joined));
                }
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Again(lost)) => self.await_retry(lost)?,
            }
        }
    }

    async fn attempt(&mut self, give_up_at: Instant) -> Result<(Place, v1::GroupJoined), Refusal> {
        let session = self.client.link.session(self.after, give_up_at).await;
        let session = session.map_err(|error| Refusal::Final(self.disconnected(error)))?;
        self.request.held = self.shared.lock().hold();
        self.request.stream_uid = self.joined.map(|joined| joined.stream_uid);
        self.request.group_id = self.joined.map(|joined| joined.group);
        let request = v1::JoinGroup::from(&self.request);
        let opening = async {
            let mut stream = session.open(&request).await?;
            let joined: v1::GroupJoined = expect(&mut stream.reader).await?;
            Ok((stream, joined))
        };
        let waiting = session.waiting();
        waiting.set(true);
        let began = Instant::now();
        let deadline = give_up_at.max(began + ANSWER_TIMEOUT_MIN);
        let (stream, joined) = match tokio::time::timeout_at(deadline, opening).await {
            Ok(Ok(joined)) => joined,
            Ok(Err(StreamLost::Refused(error))) if error.retry == Retry::Never => {
                return Err(Refusal::Final(self.refused(error)));
            }
            // One that had its place finds another when others make room.
            Ok(Err(StreamLost::AllInUse { streams })) if self.joined.is_none() => {
                let group = self.request.group.clone();
                return Err(Refusal::Final(GroupError::TooManyStreams { group, streams }));
            }
            Ok(Err(lost)) => {
                if let StreamLost::Refused(error) = &lost {
                    session.told(Err(error));
                }
                self.after = left_by(&lost, &session).or(self.after);
                return Err(Refusal::Again(lost));
            }
            Err(_) => {
                let after = deadline.duration_since(began);
                return Err(Refusal::Again(StreamLost::NoAnswer { after }));
            }
        };
        session.told(Ok(()));
        let stream_uid = StreamUid::from_wire("stream_uid", &joined.stream_uid)
            .map_err(|error| Refusal::Final(self.protocol(error)))?;
        let now = Joined { stream_uid, group: GroupId(joined.group_id) };
        if *self.joined.get_or_insert(now) != now {
            return Err(Refusal::Final(self.deleted()));
        }
        let since = Instant::now();
        Ok((Place { stream, session, _waiting: waiting, since }, joined))
    }

    /// Decides when to try again. Fails when it has been tried for long enough and brought nothing.
    fn await_retry(&mut self, lost: StreamLost) -> Result<(), GroupError> {
        let now = Instant::now();
        let first = self.give_up_at.is_none();
        let give_up_at = *self.give_up_at.get_or_insert(now + self.give_up_after);
        if !first && now >= give_up_at {
            return Err(self.gave_up(lost));
        }
        let wait = match &lost {
            StreamLost::Refused(WireError { retry: Retry::After(after), .. }) => *after,
            _ => Duration::ZERO,
        };
        // A connection that was lost just now may come back at once.
        let pause =
            if first { Duration::ZERO } else { self.backoff.next(self.client.randomness.next()) };
        self.not_before = (now + wait.max(pause)).min(give_up_at);
        Ok(())
    }

    /// The next failure is the first again.
    fn all_is_well(&mut self) {
        self.backoff.reset();
        self.give_up_at = None;
    }

    // ---- one QUIC stream

    async fn serve(&mut self, place: &mut Place) -> Ended {
        let shared = Arc::clone(&self.shared);
        let answer_timeout = self.give_up_after.max(ANSWER_TIMEOUT_MIN);
        let SessionStream { writer, reader, .. } = &mut place.stream;
        let ended = tokio::select! {
            // Answers first: they make room for what is to be said.
            biased;
            ended = self.read(reader) => ended,
            ended = write(&shared, writer, &place.session) => ended,
            lost = silence(&shared, answer_timeout) => lost.into(),
        };
        match ended {
            Ended::Lost(StreamLost::Write(WriteError::Stopped { .. })) => {
                // A server that stops reading says why in its last frame.
                let reason = tokio::time::timeout(LAST_WORDS_TIMEOUT, self.read(reader));
                reason.await.unwrap_or(ended)
            }
            ended => ended,
        }
    }

    async fn read(&mut self, reader: &mut FrameReader) -> Ended {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return StreamLost::Ended.into(),
                Err(error) => return StreamLost::from(error).into(),
            };
            match self.on_frame(&frame) {
                Ok(()) => self.all_is_well(),
                Err(ended) => return ended,
            }
        }
    }

    fn on_frame(&self, frame: &Frame) -> Result<(), Ended> {
        let now = Instant::now();
        match frame.kind() {
            FrameKind::GroupDeliver => {
                let run = self.run_of(frame).map_err(Ended::Failed)?;
                self.shared.lock().on_delivered(run);
                self.shared.wake();
            }
            FrameKind::Settled => {
                let settled: v1::Settled = self.decode(frame)?;
                self.told(self.shared.lock().on_settled(&settled, now))?;
                // An answer makes room for the next frame.
                self.shared.work.notify_one();
                self.shared.wake();
            }
            FrameKind::GroupNotice => {
                let notice: v1::GroupNotice = self.decode(frame)?;
                self.told(self.shared.lock().on_notice(&notice))?;
                self.shared.wake();
            }
            FrameKind::Error => {
                let error: v1::Error = self.decode(frame)?;
                return Err(StreamLost::Refused(error.into()).into());
            }
            other => {
                return Err(Ended::Failed(self.protocol(format!("it sent a {other} frame"))));
            }
        }
        Ok(())
    }

    fn run_of(&self, frame: &Frame) -> Result<Run, GroupError> {
        let deliver: v1::GroupDeliver = frame.decode().map_err(|error| self.protocol(error))?;
        let first = Offset(deliver.base_offset);
        let batch = RecordBatch::verify(frame.blob()).map_err(|error| GroupError::Damaged {
            stream: self.request.stream.clone(),
            offset: first,
            error,
        })?;
        let source = Source::from(deliver.source());
        let (count, ts) = (deliver.count as usize, Timestamp(deliver.ts_us));
        let is_whole = batch.count() == count && first.0.checked_add(count as u64).is_some();
        let records = RecordRun::new(batch, 0, count, first, ts, source).filter(|_| is_whole);
        let records = records
            .ok_or_else(|| self.protocol(format!("the batch at {first} is not as announced")))?;
        let v1::GroupDeliver { lease, attempt, epoch, redrive_generation: generation, .. } =
            deliver;
        Ok(Run { tag: Tag { lease, attempt, epoch, generation }, records })
    }

    fn decode<M: railgun_proto::Message>(&self, frame: &Frame) -> Result<M, Ended> {
        frame.decode().map_err(|error| Ended::Failed(self.protocol(error)))
    }

    fn told(&self, fed: Result<(), Fault>) -> Result<(), Ended> {
        fed.map_err(|fault| Ended::Failed(self.protocol(fault)))
    }

    // ---- failures

    fn protocol(&self, reason: impl ToString) -> GroupError {
        GroupError::Protocol { group: self.request.group.clone(), reason: reason.to_string() }
    }

    fn deleted(&self) -> GroupError {
        let (stream, group) = (self.request.stream.clone(), self.request.group.clone());
        GroupError::Deleted { stream, group }
    }

    fn disconnected(&self, error: ConnectError) -> GroupError {
        let (stream, group) = (self.request.stream.clone(), self.request.group.clone());
        GroupError::Disconnected { stream, group, error: Box::new(error) }
    }

    fn refused(&self, error: WireError) -> GroupError {
        let (stream, group) = (self.request.stream.clone(), self.request.group.clone());
        match (error.code == ErrorCode::GroupNotFound, self.joined) {
            (true, None) => GroupError::NotFound { stream, group },
            (true, Some(_)) => GroupError::Deleted { stream, group },
            (false, _) => GroupError::Refused { stream, group, error: Box::new(error) },
        }
    }

    fn gave_up(&self, lost: StreamLost) -> GroupError {
        match lost {
            StreamLost::Refused(error) => self.refused(error),
            lost => self.disconnected(ConnectError::GaveUp {
                servers: self.client.options.servers.join(","),
                waited: self.give_up_after,
                last: lost.to_string(),
            }),
        }
    }
}

async fn write(shared: &Shared, writer: &mut FrameWriter, session: &Session) -> Ended {
    loop {
        let transmit = shared.lock().poll_transmit(Instant::now());
        let written = match transmit {
            Transmit::Settle(settle) => writer.send(Frame::new(&settle)).await,
            Transmit::Fetch(fetch) => writer.send(Frame::new(&fetch)).await,
            Transmit::Drain => writer.send(Frame::new(&v1::DrainMember {})).await,
            Transmit::Close => return Ended::Closed,
            Transmit::Wait => {
                tokio::select! {
                    biased;
                    () = session.going_away.cancelled() => return leave(shared).await,
                    () = shared.work.notified() => {}
                }
                continue;
            }
        };
        if let Err(error) = written {
            return StreamLost::from(error).into();
        }
    }
}

/// The server stops: waits for the answers that it still owes, sends nothing.
async fn leave(shared: &Shared) -> Ended {
    loop {
        // Registered before the look, so that no answer falls between.
        let mut progress = std::pin::pin!(shared.progress.notified());
        progress.as_mut().enable();
        if !shared.lock().is_owed() {
            return StreamLost::Ended.into();
        }
        progress.await;
    }
}

/// Ends when the server owes an answer for too long.
async fn silence(shared: &Shared, after: Duration) -> StreamLost {
    loop {
        let (now, since) = (Instant::now(), shared.lock().silent_since());
        match since.map(|since| since + after) {
            Some(due) if due <= now => return StreamLost::NoAnswer { after },
            // It may have moved on by then: one timer for thousands of answers.
            Some(due) => tokio::time::sleep_until(due).await,
            // What is sent from now on is due later than this.
            None => tokio::time::sleep_until(now + after).await,
        }
    }
}
