//! The handles that messages are given to.

use std::sync::Arc;

use railgun_proto::convert::ExpectedEnd;
use railgun_types::StreamName;
use railgun_types::batch::RecordDraft;
use railgun_types::limits::{ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS};

use super::batch::BatchOptions;
use super::builder::OpenError;
use super::error::{PublishError, SendError};
use super::lane::BindStatus;
use super::machine::LaneId;
use super::outcome::{AtomicTicket, Ticket};
use super::shared::Shared;
use crate::message::{Message, draft_bytes};

/// A publisher to many streams over one QUIC stream: a frame carries batches of all that wait, so
/// ten thousand slow streams cost no more round trips than one. Cheap to clone.
///
/// When the last handle of it (this, and every [`Publisher`] bound on it) is dropped, what was
/// given to it is still sent, in the background, while the runtime lives; call
/// [`close`](Publisher::close) to know how that ends.
#[derive(Clone, Debug)]
pub struct MultiPublisher {
    handle: Arc<Handle>,
}

/// Says when nobody can give messages any more.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    async fn close(&self) {
        self.shared.lock().close();
        self.shared.work.notify_one();
        self.shared.ended.cancelled().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().close();
        self.shared.work.notify_one();
    }
}

/// Says when nobody can give messages to a lane any more.
#[derive(Debug)]
struct LaneHandle {
    shared: Arc<Shared>,
    id: LaneId,
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.shared.lock().release(self.id);
        self.shared.work.notify_one();
        // Its place may be free.
        self.shared.places.notify_waiters();
    }
}

impl MultiPublisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// A handle for one of its streams, which must exist. Binding a stream that is bound gives another
    /// handle of it, as cloning the first would: they share its order and its failures.
    ///
    /// A publisher is bound to [`PUBLISHER_STREAMS`](crate::limits::PUBLISHER_STREAMS) streams at a
    /// time. A stream is given up when its last handle is dropped and everything taken for it has
    /// ended, in the background; where all places are taken, `bind` waits for one that is to be free.
    ///
    /// Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// [`OpenError`]; what the server calls temporary is tried again for `give_up_after`.
    pub async fn bind(&self, stream: StreamName) -> Result<Publisher, OpenError> {
        let shared = &self.handle.shared;
        // From here on it is given back by whoever drops it, this call included.
        let lane = self.lane(&stream).await?;
        shared.work.notify_one();
        let bind_ended = shared.lock().lane(lane.id).bind_ended();
        loop {
            // Registered before the look, so that no change falls between.
            let mut ended = std::pin::pin!(bind_ended.notified());
            ended.as_mut().enable();
            let status = shared.lock().lane(lane.id).bind_status();
            match status {
                BindStatus::Bound => {
                    let (lane, handle) = (Arc::new(lane), Arc::clone(&self.handle));
                    return Ok(Publisher { lane, handle, stream });
                }
                BindStatus::Pending if shared.ended.is_cancelled() => return Err(closed(stream)),
                BindStatus::Pending => {}
                BindStatus::Refused(error) => return Err(OpenError::Refused { stream, error }),
                BindStatus::Unreachable(reason) => {
                    return Err(OpenError::Unreachable { stream, reason });
                }
            }
            tokio::select! {
                biased;
                () = ended => {}
                () = shared.ended.cancelled() => {}
            }
        }
    }

    /// The stream's lane, old or new.
    async fn lane(&self, stream: &StreamName) -> Result<LaneHandle, OpenError> {
        let shared = &self.handle.shared;
        loop {
            let mut progress = std::pin::pin!(shared.progress.notified());
            let mut places = std::pin::pin!(shared.places.notified());
            progress.as_mut().enable();
            places.as_mut().enable();
            if shared.ended.is_cancelled() {
                return Err(closed(stream.clone()));
            }
            let (lane, wait) = {
                let mut machine = shared.lock();
                (machine.add_lane(stream), machine.awaits_places())
            };
            match lane {
                Some(id) => return Ok(LaneHandle { shared: Arc::clone(shared), id }),
                None if wait => {}
                None => return Err(OpenError::TooManyStreams { stream: stream.clone() }),
            }
            tokio::select! {
                biased;
                () = progress => {}
                () = places => {}
                () = shared.ended.cancelled() => {}
            }
        }
    }

    /// Waits until everything taken so far, for all its streams, has ended. What failed is told by
    /// the tickets, and by `flush` of each handle.
    ///
    /// Cancel-safe.
    pub async fn flush(&self) {
        let outcomes = self.handle.shared.lock().outcomes();
        for outcome in outcomes {
            outcome.wait().await;
        }
    }

    /// Ends the publisher, for all its handles: waits until everything has ended, and lets the
    /// server forget the producer, at once or, where something had to be repeated, by age. What
    /// failed is told by the tickets, and by `flush` of each handle.
    ///
    /// Cancelled, it goes on in the background.
    pub async fn close(self) {
        self.handle.close().await;
    }
}

fn closed(stream: StreamName) -> OpenError {
    OpenError::Closed { stream }
}

/// How far a publisher is, in messages of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Taken by `send`.
    pub taken: u64,
    /// Known to be in the stream. With `ordered`, these are the first ones taken.
    pub published: u64,
}

/// Publishes to one stream. Cheap to clone; all clones share one order.
///
/// Messages are packed into batches as they come. A message goes out at once while few frames are
/// un-answered; else it joins what waits. Nothing waits for a timer. Every message carries a
/// producer sequence (PQ-1), so what is sent again after a lost connection is appended once.
///
/// **When a message fails** and the publisher keeps order (the default), everything behind it on
/// the same stream fails with [`PublishError::OrderBroken`], and `send` refuses new messages with
/// [`SendError::OrderBroken`], until [`resume`](Self::resume) is called. So the messages that are
/// in the stream are always a prefix of those that were sent, and the caller decides what to do
/// about the first that is not: `resume`, then send again from that one.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// Dropped first: the stream is given up, then the publisher.
    lane: Arc<LaneHandle>,
    handle: Arc<Handle>,
    stream: StreamName,
}

impl Publisher {
    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// Takes a message, waiting while the buffer is full. The ticket tells what becomes of it.
    ///
    /// Cancel-safe: a cancelled call has not taken the message.
    ///
    /// # Errors
    /// [`SendError`]: the message was not taken.
    pub async fn send(&self, message: Message) -> Result<Ticket, SendError> {
        self.send_expecting(message, None).await
    }

    /// As [`Self::send`], appended only if the stream then ends as expected; else the message fails
    /// with `ExpectedOffsetMismatch`. Such a message is a batch by itself. Cancel-safe likewise.
    ///
    /// # Errors
    /// [`SendError`]: the message was not taken.
    pub async fn send_expecting(
        &self,
        message: Message,
        expected_end: impl Into<Option<ExpectedEnd>>,
    ) -> Result<Ticket, SendError> {
        let options = BatchOptions { atomic: false, expected_end: expected_end.into() };
        let headers = message.header_slices();
        let draft = message.draft(&headers);
        let bytes = draft_bytes(&draft);
        let permits = self.take_permits(bytes).await?;
        self.push(&draft, bytes, permits, options)
    }

    /// As [`Self::send`], for a message that is borrowed: its bytes are copied once, into the
    /// batch. Cancel-safe likewise.
    ///
    /// # Errors
    /// [`SendError`]: the message was not taken.
    pub async fn send_record(&self, draft: &RecordDraft<'_>) -> Result<Ticket, SendError> {
        let bytes = draft_bytes(draft);
        let permits = self.take_permits(bytes).await?;
        self.push(draft, bytes, permits, BatchOptions::default())
    }

    /// As [`Self::send`], without waiting.
    ///
    /// # Errors
    /// [`SendError::Full`] where `send` would wait; else as there.
    pub fn try_send(&self, message: &Message) -> Result<Ticket, SendError> {
        message.with_draft(|draft| {
            let bytes = draft_bytes(draft);
            let permits = self.shared().permits_of(bytes);
            match self.shared().try_take_permits(permits) {
                Some(true) => self.push(draft, bytes, permits, BatchOptions::default()),
                Some(false) => Err(SendError::Full),
                None => Err(SendError::Closed),
            }
        })
    }

    /// As [`Self::send`], for messages that get consecutive offsets, or are not appended at all (PS-4).
    /// At most 1,000 messages and 4 MiB.
    ///
    /// Cancel-safe: a cancelled call has taken nothing.
    ///
    /// # Errors
    /// [`SendError`]: nothing was taken.
    pub async fn send_atomic(
        &self,
        messages: &[Message],
        expected_end: impl Into<Option<ExpectedEnd>>,
    ) -> Result<AtomicTicket, SendError> {
        let options = BatchOptions { atomic: true, expected_end: expected_end.into() };
        let bytes = messages.iter().map(|message| message.with_draft(draft_bytes)).sum();
        let records = messages.len();
        if records == 0 || records > ATOMIC_BATCH_RECORDS || bytes > ATOMIC_BATCH_BYTES {
            return Err(SendError::AtomicBatch { records, bytes });
        }
        let permits = self.take_permits(bytes).await?;
        let headers: Vec<Vec<(&str, &[u8])>> =
            messages.iter().map(Message::header_slices).collect();
        let drafts = messages.iter().zip(&headers).map(|(message, headers)| message.draft(headers));
        let pushed = self.shared().lock().push_atomic(self.lane.id, drafts, permits, options);
        let (outcome, count) = self.pushed(permits, pushed)?;
        Ok(AtomicTicket::new(outcome, count))
    }

    /// Waits until everything taken so far for this stream has ended, and tells the first failure that
    /// no earlier `flush` or `resume` has told.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// That failure. With `ordered`, [`resume`](Self::resume) is still needed to go on.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let outcomes = self.shared().lock().outcomes_of(self.lane.id);
        for outcome in outcomes {
            outcome.wait().await;
        }
        match self.shared().lock().lane(self.lane.id).failure.take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Goes on after a failure: waits until nothing of before is un-answered, then lets `send` take
    /// messages again. Returns the first failure that no `flush` has told.
    ///
    /// Cancel-safe.
    pub async fn resume(&self) -> Option<PublishError> {
        loop {
            let mut progress = std::pin::pin!(self.shared().progress.notified());
            progress.as_mut().enable();
            if let Some(failure) = self.shared().lock().resume(self.lane.id) {
                self.shared().work.notify_one();
                return failure;
            }
            progress.await;
        }
    }

    /// How far the publisher is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut machine = self.shared().lock();
        let lane = machine.lane(self.lane.id);
        Progress { taken: lane.sent_records, published: lane.published_records }
    }

    /// Ends the publisher, for all its handles: waits until everything has ended, and lets the
    /// server forget the producer, as [`MultiPublisher::close`] does.
    ///
    /// Cancelled, it goes on in the background.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(self) -> Result<(), PublishError> {
        self.handle.close().await;
        self.flush().await
    }

    fn shared(&self) -> &Shared {
        &self.lane.shared
    }

    async fn take_permits(&self, bytes: usize) -> Result<usize, SendError> {
        let permits = self.shared().permits_of(bytes);
        if self.shared().take_permits(permits).await { Ok(permits) } else { Err(SendError::Closed) }
    }

    fn push(
        &self,
        draft: &RecordDraft<'_>,
        bytes: usize,
        permits: usize,
        options: BatchOptions,
    ) -> Result<Ticket, SendError> {
        let pushed = self.shared().lock().push(self.lane.id, draft, bytes, permits, options);
        let (outcome, index) = self.pushed(permits, pushed)?;
        Ok(Ticket::new(outcome, index))
    }

    /// Wakes the sender of frames, or gives the permits of a message back that was not taken.
    fn pushed<T>(
        &self,
        permits: usize,
        pushed: Result<(T, u32, bool), SendError>,
    ) -> Result<(T, u32), SendError> {
        match pushed {
            Ok((outcome, number, wake)) => {
                if wake {
                    self.shared().work.notify_one();
                }
                Ok((outcome, number))
            }
            Err(error) => {
                self.shared().give_permits(permits);
                Err(error)
            }
        }
    }
}
