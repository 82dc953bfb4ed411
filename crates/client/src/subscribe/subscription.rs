//! A subscription: one QUIC stream at a time, and the position from which the next one goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use railgun_net::WriteError;
use railgun_proto::convert::{SubscribeRequest, Uid};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::batch::RecordBatch;
use railgun_types::{ErrorCode, Offset, Retry, StartPosition, StreamName, StreamUid, Timestamp};
use tokio::time::Instant;

use super::error::SubscribeError;
use super::records::{Event, Record, RecordRun, Removed, RemovedReason, Source};
use crate::backoff::Backoff;
use crate::client::ClientInner;
use crate::connect_error::{ConnectError, StreamLost};
use crate::options::ANSWER_TIMEOUT_MIN;
use crate::session::{Session, SessionStream, Waiting, expect, left_by};

/// Reads a stream from one position on, in order, each record once.
///
/// A lost connection is made again and the subscription goes on at the next offset; the caller sees
/// nothing of it. Read either batches ([`next_batch`](Self::next_batch)) or records
/// ([`next`](Self::next)). A batch is paid for, in credit, when the one after it is asked for: a
/// reader that stops asking stops the server.
#[derive(Debug)]
pub struct Subscription {
    client: Arc<ClientInner>,
    request: SubscribeRequest,
    give_up_after: Duration,
    uid: StreamUid,
    /// First offset the stream had, and the one after its last, when the subscription opened.
    bounds: (Offset, Offset),
    /// Offset of the next record.
    position: Offset,
    /// Where `until_end` ends.
    end: Option<Offset>,
    state: State,
    /// Whether the server ever served it.
    was_open: bool,
    /// Bytes consumed for which no credit was returned.
    owed_bytes: u64,
    /// Found when the subscription was opened again.
    removed: Option<Removed>,
    /// Records of the batch that `next` is in.
    records: VecDeque<Record>,
    backoff: Backoff,
    /// When to give up. None while all is well: a record came, or there was none to come.
    give_up_at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Reading(Box<Reading>),
    /// To be opened again: on another session than `after`, not before the instant.
    Lost {
        after: Option<u64>,
        not_before: Instant,
    },
    Finished,
}

/// The QUIC stream of a subscription.
#[derive(Debug)]
struct Reading {
    stream: SessionStream,
    /// The session it belongs to.
    session: Arc<Session>,
    /// Records are owed for as long as it lives: where there are none, the server is still heard.
    _waiting: Waiting,
}

/// An attempt that did not open the subscription.
enum Refusal {
    Final(SubscribeError),
    /// Also the session to be left, if so.
    Again(StreamLost, Option<u64>),
}

impl Subscription {
    pub(crate) async fn open(
        client: Arc<ClientInner>,
        request: SubscribeRequest,
        give_up_after: Duration,
    ) -> Result<Self, SubscribeError> {
        let start = request.start;
        let mut subscription = Self {
            client,
            request,
            give_up_after,
            uid: StreamUid::default(),
            bounds: (Offset(0), Offset(0)),
            position: Offset(0),
            end: None,
            state: State::Lost { after: None, not_before: Instant::now() },
            was_open: false,
            owed_bytes: 0,
            removed: None,
            records: VecDeque::new(),
            backoff: Backoff::of_requests(),
            give_up_at: None,
        };
        let opened = subscription.subscribe(start).await?;
        subscription.uid = subscription.uid_of(&opened)?;
        subscription.bounds = (Offset(opened.head), Offset(opened.next_offset));
        subscription.position = Offset(opened.resumed_at);
        subscription.end = subscription.request.until_end.then_some(Offset(opened.next_offset));
        Ok(subscription)
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.request.name
    }

    /// The stream's identity.
    #[must_use]
    pub fn stream_uid(&self) -> StreamUid {
        self.uid
    }

    /// Offset of the next record that will be handed out by `next_batch`.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }

    /// First offset the stream had, and the offset after its last, when the subscription opened.
    #[must_use]
    pub fn bounds_at_open(&self) -> (Offset, Offset) {
        self.bounds
    }

    /// The next record; `None` at the end of what was asked for.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`SubscribeError`]; the subscription is over then.
    pub async fn next(&mut self) -> Result<Option<Event<Record>>, SubscribeError> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(Event::Data(record)));
            }
            match self.next_batch().await? {
                Some(Event::Data(run)) => self.records = run.take_records().into(),
                Some(Event::Removed(removed)) => return Ok(Some(Event::Removed(removed))),
                None => return Ok(None),
            }
        }
    }

    /// The next batch of records; `None` at the end of what was asked for.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`SubscribeError`]; the subscription is over then.
    pub async fn next_batch(&mut self) -> Result<Option<Event<RecordRun>>, SubscribeError> {
        let result = self.read().await;
        if result.is_err() {
            self.state = State::Finished;
        }
        result
    }

    async fn read(&mut self) -> Result<Option<Event<RecordRun>>, SubscribeError> {
        loop {
            match &mut self.state {
                State::Finished => return Ok(None),
                State::Lost { .. } => {
                    if self.end.is_some_and(|end| self.position >= end) {
                        self.state = State::Finished;
                        return Ok(None);
                    }
                    self.resume().await?;
                    if let Some(removed) = self.removed.take() {
                        return Ok(Some(Event::Removed(removed)));
                    }
                }
                State::Reading(reading) => {
                    let quarter = self.request.credit_bytes / 4;
                    match reading.next_frame(&mut self.owed_bytes, quarter).await {
                        Ok(frame) => {
                            if let Some(event) = self.on_frame(&frame)? {
                                return Ok(Some(event));
                            }
                        }
                        Err(lost) => self.on_lost(lost)?,
                    }
                }
            }
        }
    }

    fn on_frame(&mut self, frame: &Frame) -> Result<Option<Event<RecordRun>>, SubscribeError> {
        match frame.kind() {
            FrameKind::Deliver => self.on_deliver(frame).map(|run| Some(Event::Data(run))),
            FrameKind::Removed => {
                let removed: v1::Removed = self.decode(frame)?;
                self.on_removed(&removed).map(|removed| Some(Event::Removed(removed)))
            }
            FrameKind::End => {
                let end: v1::End = self.decode(frame)?;
                self.on_end(Offset(end.next_offset))?;
                self.state = State::Finished;
                Ok(None)
            }
            FrameKind::Error => {
                let error: v1::Error = self.decode(frame)?;
                self.on_lost(StreamLost::Refused(error.into()))?;
                Ok(None)
            }
            other => Err(self.protocol(format!("it sent a {other} frame"))),
        }
    }

    fn on_deliver(&mut self, frame: &Frame) -> Result<RecordRun, SubscribeError> {
        let deliver: v1::Deliver = self.decode(frame)?;
        let blob = frame.blob();
        self.owed_bytes += blob.len() as u64;
        let first = Offset(deliver.base_offset).plus(deliver.skip.into());
        if first != self.position {
            let position = self.position;
            return Err(self.protocol(format!("record {first} came where {position} belongs")));
        }
        let batch = RecordBatch::verify(blob).map_err(|error| SubscribeError::Damaged {
            stream: self.request.name.clone(),
            offset: first,
            error,
        })?;
        let source = Source::from(deliver.source());
        let (skip, count) = (deliver.skip as usize, deliver.count as usize);
        let ts = Timestamp(deliver.ts_us);
        let run = RecordRun::new(batch, skip, count, first, ts, source)
            .ok_or_else(|| self.protocol(format!("the batch at {first} is not as announced")))?;
        self.position = run.next_offset();
        self.all_is_well();
        Ok(run)
    }

    fn on_removed(&mut self, removed: &v1::Removed) -> Result<Removed, SubscribeError> {
        let reason = match removed.reason() {
            v1::RemovedReason::RemovedRetention => RemovedReason::Retention,
            v1::RemovedReason::RemovedPurge => RemovedReason::Purge,
            v1::RemovedReason::RemovedErased => RemovedReason::Erased,
            v1::RemovedReason::RemovedLost => RemovedReason::Lost,
            v1::RemovedReason::RemovedUnknown => RemovedReason::Unknown,
        };
        let (from, to) = (Offset(removed.from), Offset(removed.to));
        if from != self.position || to <= from {
            let position = self.position;
            return Err(self.protocol(format!("it removed {from} to {to} at {position}")));
        }
        self.position = to;
        self.all_is_well();
        Ok(Removed { from, to, reason })
    }

    /// What was asked for has come, or the server has left something out without a word.
    fn on_end(&self, next: Offset) -> Result<(), SubscribeError> {
        let position = self.position;
        if next != position {
            return Err(self.protocol(format!("it ended at {next}, not at {position}")));
        }
        let asked = self.request.until_offset.into_iter().chain(self.end).min();
        match asked.filter(|_| self.request.until_time.is_none()) {
            Some(asked) if position < asked => {
                Err(self.protocol(format!("it ended at {position}, in front of {asked}")))
            }
            _ => Ok(()),
        }
    }

    /// The next failure is the first again.
    fn all_is_well(&mut self) {
        self.backoff.reset();
        self.give_up_at = None;
    }

    fn decode<M: railgun_proto::Message>(&self, frame: &Frame) -> Result<M, SubscribeError> {
        frame.decode().map_err(|error| self.protocol(error.to_string()))
    }

    fn protocol(&self, reason: String) -> SubscribeError {
        SubscribeError::Protocol { stream: self.request.name.clone(), reason }
    }

    /// The QUIC stream ended too early. Fails where going on cannot help.
    fn on_lost(&mut self, lost: StreamLost) -> Result<(), SubscribeError> {
        if let StreamLost::Refused(error) = &lost
            && error.retry == Retry::Never
        {
            return Err(self.refused(error.clone()));
        }
        tracing::debug!(stream = %self.request.name, %lost, "a subscription lost its stream");
        if let (StreamLost::Refused(error), State::Reading(reading)) = (&lost, &self.state) {
            reading.session.told(Err(error));
        }
        let after = match &self.state {
            State::Reading(reading) => left_by(&lost, &reading.session),
            State::Lost { after, .. } => *after,
            State::Finished => None,
        };
        self.await_retry(lost, after)
    }

    /// Decides when to open the subscription again. Fails when it has been tried for long enough
    /// and brought nothing: a stream that opens and then fails each time is not worth more patience
    /// than one that does not open.
    fn await_retry(&mut self, lost: StreamLost, after: Option<u64>) -> Result<(), SubscribeError> {
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
        let not_before = (now + wait.max(pause)).min(give_up_at);
        self.state = State::Lost { after, not_before };
        Ok(())
    }

    fn gave_up(&self, lost: StreamLost) -> SubscribeError {
        match lost {
            StreamLost::Refused(error) => self.refused(error),
            lost => SubscribeError::Disconnected {
                stream: self.request.name.clone(),
                error: Box::new(ConnectError::GaveUp {
                    servers: self.client.options.servers.join(","),
                    waited: self.give_up_after,
                    last: lost.to_string(),
                }),
            },
        }
    }

    fn refused(&self, error: WireError) -> SubscribeError {
        SubscribeError::Refused { stream: self.request.name.clone(), error }
    }

    /// Opens the subscription again where it was. Cancel-safe.
    async fn resume(&mut self) -> Result<(), SubscribeError> {
        let opened = self.subscribe(StartPosition::Offset(self.position)).await?;
        if self.uid_of(&opened)? != self.uid {
            let text = "it was deleted and made again while it was read";
            return Err(self.refused(WireError::new(ErrorCode::StreamDeleted, text)));
        }
        let resumed_at = Offset(opened.resumed_at);
        if resumed_at < self.position {
            let position = self.position;
            return Err(self.protocol(format!("it resumed at {resumed_at}, not at {position}")));
        }
        if resumed_at > self.position {
            let (from, reason) = (self.position, RemovedReason::Unknown);
            self.removed = Some(Removed { from, to: resumed_at, reason });
            self.position = resumed_at;
        }
        Ok(())
    }

    fn uid_of(&self, opened: &v1::Subscribed) -> Result<StreamUid, SubscribeError> {
        StreamUid::from_wire("stream_uid", &opened.stream_uid)
            .map_err(|error| self.protocol(error.to_string()))
    }

    /// Opens a QUIC stream for the subscription, trying for as long as that may help.
    async fn subscribe(&mut self, start: StartPosition) -> Result<v1::Subscribed, SubscribeError> {
        loop {
            let State::Lost { after, not_before } = self.state else {
                return Err(self.protocol("the subscription is not lost".into()));
            };
            tokio::time::sleep_until(not_before).await;
            let give_up_at = *self.give_up_at.get_or_insert(Instant::now() + self.give_up_after);
            match self.attempt(start, after, give_up_at).await {
                Ok(opened) => return Ok(opened),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Again(lost, left)) => self.await_retry(lost, left.or(after))?,
            }
        }
    }

    async fn attempt(
        &mut self,
        start: StartPosition,
        after: Option<u64>,
        give_up_at: Instant,
    ) -> Result<v1::Subscribed, Refusal> {
        let session = self.client.link.session(after, give_up_at).await.map_err(|error| {
            let stream = self.request.name.clone();
            Refusal::Final(SubscribeError::Disconnected { stream, error: Box::new(error) })
        })?;
        let mut request = v1::Subscribe::from(&self.request);
        request.start = Some(start.into());
        if self.was_open {
            // A server that lags behind may know an earlier stream of this name.
            request.stream_uid = self.uid.to_wire();
        }
        if let Some(end) = self.end {
            // What the end was is decided once.
            request.until_end = false;
            let until = request.until_offset.map_or(end.0, |until| until.min(end.0));
            request.until_offset = Some(until);
        }
        let opening = async {
            let mut stream = session.open(&request).await?;
            let opened: v1::Subscribed = expect(&mut stream.reader).await?;
            Ok((stream, opened))
        };
        let waiting = session.waiting();
        waiting.set(true);
        let began = Instant::now();
        let deadline = give_up_at.max(began + ANSWER_TIMEOUT_MIN);
        let (stream, opened) = match tokio::time::timeout_at(deadline, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(StreamLost::Refused(error))) if error.retry == Retry::Never => {
                return Err(Refusal::Final(self.refused(error)));
            }
            // One that was open before had its place, and finds another when others make room.
            Ok(Err(StreamLost::AllInUse { streams })) if !self.was_open => {
                let stream = self.request.name.clone();
                return Err(Refusal::Final(SubscribeError::TooManyStreams { stream, streams }));
            }
            Ok(Err(lost)) => {
                let left = left_by(&lost, &session);
                return Err(Refusal::Again(lost, left));
            }
            Err(_) => {
                let after = deadline.duration_since(began);
                return Err(Refusal::Again(StreamLost::NoAnswer { after }, None));
            }
        };
        self.was_open = true;
        if opened.resumed_at >= opened.next_offset {
            // Nothing waits to be read: silence is no failure.
            self.all_is_well();
        }
        self.owed_bytes = 0;
        self.state = State::Reading(Box::new(Reading { stream, session, _waiting: waiting }));
        Ok(opened)
    }
}

impl Reading {
    /// Returns credit once a quarter is owed, then waits for a frame. Cancel-safe: what a cancelled
    /// call took from `owed_bytes` goes out with the next one.
    async fn next_frame(
        &mut self,
        owed_bytes: &mut u64,
        quarter: u64,
    ) -> Result<Frame, StreamLost> {
        let written = if *owed_bytes >= quarter {
            let credit = v1::Credit { bytes: std::mem::take(owed_bytes) };
            self.stream.writer.send(Frame::new(&credit)).await
        } else {
            self.stream.writer.flush().await
        };
        match written {
            // A server that has sent everything reads no further; what it sent is still to come.
            Ok(()) | Err(WriteError::Stopped { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.stream.reader.next().await?.ok_or(StreamLost::Ended)
    }
}
