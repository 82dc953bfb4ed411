//! A subscription's QUIC stream: records out, credit in.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use railgun_net::{FrameWriter, Held, Member, ReadError, crowded_time};
use railgun_proto::convert::{SubscribeRequest, Uid};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::{ErrorCode, Offset, Retry, StartPosition, Timestamp};
use tokio::time::{Instant, sleep_until};

use super::sent::{Sent, flush};
use super::{QuicStream, SessionEnd, carried, going_away, overdue};
use crate::reader::{Delivery, ReadFailure, Step, StreamReader, wire_source};
use crate::streams::{Place, Resolved, Start};
use crate::wire_error;

/// How long records that were read wait for credit. Then they are given up, to be read again when
/// there is credit: a client that gives none does not hold memory.
pub(crate) const HELD_TIME: Duration = Duration::from_secs(1);

/// After this a damaged replica may have been replaced.
const DAMAGED_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn serve(
    stream: &mut QuicStream,
    subscribe: v1::Subscribe,
) -> Result<(), SessionEnd> {
    let request = SubscribeRequest::try_from(subscribe.clone())?;
    let found = stream.context.streams.resolve_meant(&request.name, request.stream).await?;
    if let Place::Elsewhere(shard) = found.shard
        && !stream.is_carried
    {
        return carried::subscription(stream, shard, &subscribe).await;
    }
    let mut credit = i64::try_from(request.credit_bytes).unwrap_or(i64::MAX);
    let begin = (request.start, request.until_end);
    let start = start_of(stream, &found, begin, &mut credit).await?;
    let subscribed = v1::Subscribed {
        stream_uid: found.stream.to_wire(),
        resumed_at: start.start.0,
        head: 0,
        next_offset: start.next.0,
    };
    stream.answer(&subscribed).await?;
    let until = match (request.until_offset, request.until_end) {
        (Some(until), true) => Some(until.min(start.next)),
        (None, true) => Some(start.next),
        (until, false) => until,
    };
    let id = found.shard.id();
    let (shard, uid) = (found.shard.here()?.clone(), found.stream);
    let memory = stream.record_memory.as_ref().map(Member::of_stream);
    let from = stream.context.streams.sources(shard, stream.read_places.clone(), memory.clone());
    let reader = StreamReader::new(from, uid, start.start);
    let subscription = Subscription {
        stream,
        memory,
        next: reader.next_offset(),
        reader,
        ready: VecDeque::new(),
        held: None,
        read_at: Instant::now(),
        sent: None,
        until,
        until_time: request.until_time,
        credit,
        held_until: Instant::now(),
        damaged: None,
    };
    let Some(rest) = subscription.run().await? else { return Ok(()) };
    let rest = v1::Subscribe { stream: request.name.to_string(), ..rest };
    tracing::warn!(shard = %id, stream = %request.name, "another node serves what is damaged here");
    carried::rest(stream, id, &rest).await
}

/// Where it begins. That may take the bucket its time, in which the client gives credit, or leaves.
async fn start_of(
    stream: &mut QuicStream,
    found: &Resolved,
    (start, end_is_wanted): (StartPosition, bool),
    credit: &mut i64,
) -> Result<Start, SessionEnd> {
    let QuicStream { context, writer, reader, read_places, stopping, .. } = stream;
    let mut start = pin!(context.streams.start_of(found, start, end_is_wanted, read_places));
    loop {
        tokio::select! {
            biased;
            start = &mut start => return Ok(start?),
            () = stopping.cancelled() => return Err(going_away()),
            frame = reader.next() => on_frame(writer, credit, frame)?,
        }
    }
}

struct Subscription<'s> {
    stream: &'s mut QuicStream,
    /// The connection's part of the memory for records, for this stream of it.
    memory: Option<Member>,
    reader: StreamReader,
    /// Read, wanted, and not sent for lack of credit: at most what one step brought.
    ready: VecDeque<Delivery>,
    /// The memory for that.
    held: Option<Arc<Held>>,
    /// When it was read.
    read_at: Instant,
    /// What the client has not taken.
    sent: Option<Sent>,
    /// The offset after the last record sent.
    next: Offset,
    /// Stop before this offset.
    until: Option<Offset>,
    /// Stop before the first record at or after this log time. Becomes an offset when it is met.
    until_time: Option<Timestamp>,
    /// Batch bytes that may still be sent. The last batch may overdraw it, so that none is too large
    /// for ever.
    credit: i64,
    /// When what was read and may not be sent is given up.
    held_until: Instant,
    /// Why the next records cannot be read here.
    damaged: Option<ReadFailure>,
}

impl Subscription<'_> {
    /// What is left for another node where the log of this one is damaged.
    async fn run(mut self) -> Result<Option<v1::Subscribe>, SessionEnd> {
        loop {
            if self.until.is_some_and(|until| self.next >= until) {
                return self.end().await.map(|()| None);
            }
            if let Some(failure) = self.damaged.take() {
                return self.hand_over(&failure).map(Some);
            }
            if self.is_overdue() {
                self.let_go();
            }
            if self.credit <= 0 {
                self.wait_for_credit().await?;
                continue;
            }
            if !self.ready.is_empty() {
                self.deliver()?;
                continue;
            }
            match self.step().await? {
                Step::Records(deliveries) => {
                    self.held = self.reader.take_held();
                    self.read_at = Instant::now();
                    self.keep_wanted(deliveries);
                    if self.ready.is_empty() {
                        self.held = None;
                    }
                }
                Step::End => {}
                Step::Deleted => {
                    let message = "the stream was deleted while it was read";
                    return Err(WireError::new(ErrorCode::StreamDeleted, message).into());
                }
            }
        }
    }

    /// Waits for a frame of the client; what it has no credit for waits with it, but not for long.
    async fn wait_for_credit(&mut self) -> Result<(), SessionEnd> {
        let holds = !self.ready.is_empty() || self.reader.holds_records();
        let QuicStream { writer, reader, stopping, .. } = &mut *self.stream;
        let is_flushed = writer.is_flushed();
        tokio::select! {
            biased;
            () = stopping.cancelled() => return Err(going_away()),
            () = sleep_until(self.held_until), if holds => self.let_go(),
            sent = flush(writer, &mut self.sent, self.memory.as_ref(), false), if !is_flushed => sent?,
            frame = reader.next() => on_frame(writer, &mut self.credit, frame)?,
        }
        Ok(())
    }

    /// Whether what was read is held for too long while others wait for its memory, however much of it
    /// was delivered meanwhile: credit that trickles is no reason to have all of it.
    fn is_overdue(&self) -> bool {
        let (Some(held), Some(memory)) = (&self.held, &self.memory) else {
            return self.reader.is_overdue();
        };
        let is_late = || self.read_at.elapsed() >= crowded_time(held.bytes());
        held.is_shared() && memory.is_wanted() && is_late() || self.reader.is_overdue()
    }

    /// Gives up what was read and not delivered, to read it again.
    fn let_go(&mut self) {
        self.ready = VecDeque::new();
        self.held = None;
        self.reader.rewind(self.next);
    }

    /// The next records; without an end in sight, those that are not published yet. They are read
    /// while the ones before them are on their way to the client, and returned when those are gone; so
    /// is a failure to read, which is told with nothing in front of it that nobody would count.
    ///
    /// Credit that comes meanwhile is noted and does not disturb the read: begun anew for each frame,
    /// it would cost the client a few bytes and the node a row group.
    async fn step(&mut self) -> Result<Step, SessionEnd> {
        let mut read = {
            let Self { stream, memory, reader, credit, sent, .. } = self;
            let QuicStream { writer, reader: line, stopping, .. } = &mut **stream;
            let mut step = pin!(reader.step(true));
            loop {
                let is_flushed = writer.is_flushed();
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return Err(going_away()),
                    sent = flush(writer, sent, memory.as_ref(), false), if !is_flushed => sent?,
                    frame = line.next() => on_frame(writer, credit, frame)?,
                    read = &mut step => break read.map(Some),
                }
            }
        };
        let held_until = Instant::now() + HELD_TIME;
        while !self.stream.writer.is_flushed() {
            let Self { stream, memory, credit, sent, .. } = self;
            let QuicStream { writer, reader: line, stopping, .. } = &mut **stream;
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(going_away()),
                sent = flush(writer, sent, memory.as_ref(), false) => sent?,
                () = sleep_until(held_until), if matches!(read, Ok(Some(_))) => {
                    read = Ok(None);
                    self.let_go();
                }
                frame = line.next() => on_frame(writer, credit, frame)?,
            }
        }
        let read = match read {
            Err(failed) if failed.is_damage() => {
                self.damaged = Some(failed);
                None
            }
            read => read.map_err(|failed| wire_error::read_failure(&failed))?,
        };
        Ok(read.unwrap_or(Step::Records(Vec::new())))
    }

    /// The rest of the subscription, for a node that has another replica. All that was read is on its way to
    /// the client, and there is credit: without any, nothing is read.
    fn hand_over(mut self, failure: &ReadFailure) -> Result<v1::Subscribe, SessionEnd> {
        let error = wire_error::read_failure(failure);
        if self.stream.is_carried {
            // The node between, or its client, asks again, until another replica is in the place of this one.
            return Err(error.with_retry(Retry::After(DAMAGED_PAUSE)).into());
        }
        if self.stream.context.streams.routing().others.is_none() {
            return Err(error.into());
        }
        self.let_go();
        Ok(v1::Subscribe {
            start: Some(v1::subscribe::Start::Offset(self.next.0)),
            until_offset: self.until.map(|until| until.0),
            until_time_us: self.until_time.map(|until| until.0),
            credit_bytes: self.credit.try_into().unwrap_or(0),
            stream_uid: self.reader.stream().to_wire(),
            ..v1::Subscribe::default()
        })
    }

    /// Keeps the records before the end of the subscription.
    fn keep_wanted(&mut self, deliveries: Vec<Delivery>) {
        for mut delivery in deliveries {
            let first = delivery.base.plus(delivery.skip.into());
            if self.until_time.is_some_and(|until| delivery.ts >= until) {
                // Log time never falls: nothing behind this is wanted either.
                self.until = Some(self.until.map_or(first, |until| until.min(first)));
            }
            if let Some(until) = self.until {
                let wanted = until.0.saturating_sub(first.0);
                delivery.count = delivery.count.min(u32::try_from(wanted).unwrap_or(u32::MAX));
            }
            if delivery.count == 0 {
                return;
            }
            self.ready.push_back(delivery);
        }
    }

    /// Queues what is ready for sending, as far as the credit goes.
    fn deliver(&mut self) -> Result<(), SessionEnd> {
        let mut frames = Vec::with_capacity(self.ready.len());
        let mut bytes = 0;
        while self.credit > 0
            && let Some(delivery) = self.ready.pop_front()
        {
            bytes += delivery.batch.len();
            self.credit -= delivery.batch.len() as i64;
            self.next = delivery.end();
            frames.push(deliver_frame(&delivery));
        }
        self.held_until = Instant::now() + HELD_TIME;
        if let Some(held) = self.held.clone() {
            Sent::note(&mut self.sent, &self.stream.writer).add(held, bytes);
        }
        if self.ready.is_empty() {
            self.held = None;
        }
        Ok(self.stream.writer.queue_all(frames)?)
    }

    /// Says that all has come, when it is gone. Whoever takes that takes as long as it likes: it holds
    /// no memory.
    async fn end(mut self) -> Result<(), SessionEnd> {
        self.let_go();
        let QuicStream { writer, stopping, .. } = &mut *self.stream;
        let told = async {
            flush(writer, &mut self.sent, self.memory.as_ref(), false).await?;
            let end = v1::End { next_offset: self.next.0 };
            Ok(writer.send(Frame::new(&end)).await?)
        };
        tokio::select! {
            biased;
            told = told => told,
            () = overdue(stopping) => Err(SessionEnd::ClientLeft),
        }
    }
}

/// Notes what the client sent. If it may not send that it loses the stream: at once where records are on
/// their way, which nobody would count while it is told.
fn on_frame(
    writer: &mut FrameWriter,
    credit: &mut i64,
    frame: Result<Option<Frame>, ReadError>,
) -> Result<(), SessionEnd> {
    let noted = frame.map_err(SessionEnd::from).and_then(|frame| add_credit(credit, frame));
    if let Err(end) = &noted
        && end.told().is_some()
        && !writer.is_flushed()
    {
        writer.reset(end.code());
    }
    noted
}

fn add_credit(credit: &mut i64, frame: Option<Frame>) -> Result<(), SessionEnd> {
    let Some(frame) = frame else { return Err(SessionEnd::ClientLeft) };
    if frame.kind() != FrameKind::Credit {
        return Err(SessionEnd::unexpected(frame.kind()));
    }
    let more: v1::Credit = frame.decode()?;
    *credit = credit.saturating_add_unsigned(more.bytes);
    Ok(())
}

fn deliver_frame(delivery: &Delivery) -> Frame {
    let head = v1::Deliver {
        base_offset: delivery.base.0,
        skip: delivery.skip,
        count: delivery.count,
        ts_us: delivery.ts.0,
        source: wire_source(delivery.source).into(),
    };
    Frame::with_blob(&head, vec![delivery.batch.as_bytes().clone()])
}
