//! One stream of a publisher: what waits, in which order, under which sequence (PQ-1).
//!
//! A batch moves `open` → `closed` → `flying` → ended. One that was refused for now, or lost its
//! connection, goes to `retry`, which is sent before `closed`.
//!
//! While a refused batch waits to be repeated the lane is *rewinding*: it sends nothing, and
//! collects the batches behind it, which the server refuses because of the gap. When none is in
//! flight it goes on from the sequence the server expects.

mod answers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use railgun_proto::WireError;
use railgun_types::batch::{BatchBuilder, RecordDraft};
use railgun_types::limits::{BATCH_BYTES_DEFAULT, BATCH_RECORDS};
use railgun_types::{ErrorCode, Retry, StreamName, StreamUid};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::{BatchOptions, ClosedBatch, Completion, OpenBatch};
use super::error::{PublishError, SendError};
use super::machine::Settings;
use super::outcome::{BatchOutcome, BatchResult, OnDuplicate};
use crate::backoff::{Backoff, Bits};

/// Batches up to this size get room for one more record than the one before had.
const SMALL_BATCH_BYTES: usize = 16 << 10;

/// What a lane may do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// Sends nothing until all in flight is answered and `until` has come.
    Rewinding {
        until: Instant,
    },
    /// A message failed and order is kept: takes and sends nothing until it is resumed.
    Broken,
    /// The stream is gone.
    Dead(WireError),
}

/// Whether the stream has its alias on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// To be asked for, not before this instant.
    Wanted {
        since: Option<Instant>,
        not_before: Option<Instant>,
    },
    Asked {
        since: Option<Instant>,
    },
    Bound,
    /// The server was asked to free it.
    Leaving,
}

/// What a lane leaves behind where the server goes on knowing the producer: a later lane of the same
/// stream goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    uid: StreamUid,
    next_sequence: u64,
    pub(crate) repeated: bool,
}

/// What there is to tell to who waits for a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BindStatus {
    Pending,
    Bound,
    Refused(WireError),
    Unreachable(String),
}

#[derive(Debug)]
pub(crate) struct Lane {
    name: StreamName,
    ordered: bool,
    give_up_after: Duration,
    on_duplicate: OnDuplicate,
    /// The stream as first bound. Another uid later is another stream.
    uid: Option<StreamUid>,
    /// It was never bound, because there was no connection in time.
    unreachable: Option<String>,
    message_bytes_max: usize,
    /// Wakes who waits for what [`Self::bind_status`] tells.
    bind_ended: Arc<Notify>,
    pub(crate) binding: Binding,
    phase: Phase,
    open: Option<OpenBatch>,
    closed: VecDeque<ClosedBatch>,
    /// In order.
    retry: VecDeque<ClosedBatch>,
    /// Sent on this connection and not answered, in the order they were sent in.
    flying: VecDeque<ClosedBatch>,
    /// Sequence of the next batch that is sent for the first time.
    next_sequence: u64,
    /// Sequence after the last batch that is known to be appended.
    server_next: u64,
    next_order: u64,
    /// A batch ended as `Unknown`: its sequence may be in use. Until the publisher has another
    /// producer id, the lane sends only what is ambiguous itself.
    pub(crate) tainted: bool,
    /// A batch whose fate was unknown was sent again under this producer id, or is to be: an earlier
    /// copy of it may reach the log at any time, however it ended.
    pub(crate) repeated: bool,
    /// Something was sent under this producer id: the server may know it on this stream.
    used: bool,
    /// What an earlier lane of this name has left, until it is known to be the same stream.
    left: Option<Left>,
    /// The waits since the server last took something.
    backoff: Backoff,
    /// What they are drawn from.
    bits: Bits,
    /// Records and body bytes of the last batch.
    last_batch: (usize, usize),
    /// Whether the machine has it in its queue of lanes with something to send.
    pub(crate) queued: bool,
    /// First failure that `flush` has not told.
    pub(crate) failure: Option<PublishError>,
    /// Bytes of `open`, `closed` and `retry`.
    waiting_bytes: usize,
    pub(crate) sent_records: u64,
    pub(crate) published_records: u64,
}

impl Lane {
    /// `seed`: for the waits before something is repeated.
    pub(crate) fn new(name: StreamName, settings: &Settings, seed: u64) -> Self {
        let Settings { ordered, give_up_after, on_duplicate, .. } = *settings;
        Self {
            name,
            ordered,
            give_up_after,
            on_duplicate,
            uid: None,
            unreachable: None,
            message_bytes_max: 0,
            bind_ended: Arc::default(),
            binding: Binding::Wanted { since: None, not_before: None },
            phase: Phase::Flowing,
            open: None,
            closed: VecDeque::new(),
            retry: VecDeque::new(),
            flying: VecDeque::new(),
            next_sequence: 0,
            server_next: 0,
            next_order: 0,
            tainted: false,
            repeated: false,
            used: false,
            left: None,
            backoff: Backoff::of_requests(),
            bits: Bits::new(seed),
            last_batch: (0, 0),
            queued: false,
            failure: None,
            waiting_bytes: 0,
            sent_records: 0,
            published_records: 0,
        }
    }

    pub(crate) fn name(&self) -> &StreamName {
        &self.name
    }

    /// The stream that it was bound to, once it was.
    pub(crate) fn uid(&self) -> Option<StreamUid> {
        self.uid
    }

    /// Bytes that wait to be sent.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    // ---- binding

    /// The stream has its alias. Fails for good if it is not the stream it was before.
    pub(crate) fn bound(
        &mut self,
        uid: StreamUid,
        message_bytes_max: usize,
        out: &mut Vec<Completion>,
    ) {
        self.binding = Binding::Bound;
        if *self.uid.get_or_insert(uid) != uid {
            let text = format!("stream '{}' was deleted and made again", self.name);
            return self.die(WireError::new(ErrorCode::StreamDeleted, text), out);
        }
        self.message_bytes_max = message_bytes_max;
        self.bind_ended.notify_waiters();
        // That of a stream which was deleted since went with it.
        if let Some(left) = self.left.take().filter(|left| left.uid == uid) {
            (self.next_sequence, self.server_next) = (left.next_sequence, left.next_sequence);
            (self.used, self.repeated) = (true, left.repeated);
        }
    }

    /// The server did not bind the stream. Tried again if that may help; else the lane is dead.
    pub(crate) fn bind_refused(
        &mut self,
        error: WireError,
        now: Instant,
        out: &mut Vec<Completion>,
    ) {
        let Binding::Asked { since } = self.binding else { return };
        let since = since.unwrap_or(now);
        if error.retry == Retry::Never || now.duration_since(since) >= self.give_up_after {
            // It is answered: a second answer is one too many.
            self.binding = Binding::Wanted { since: None, not_before: None };
            self.die(error, out);
        } else {
            let not_before = Some(now + self.next_wait(error.retry));
            self.binding = Binding::Wanted { since: Some(since), not_before };
        }
    }

    /// Told when [`Self::bind_status`] is another one.
    pub(crate) fn bind_ended(&self) -> Arc<Notify> {
        Arc::clone(&self.bind_ended)
    }

    /// How far the first binding is.
    pub(crate) fn bind_status(&self) -> BindStatus {
        match (&self.phase, &self.unreachable, self.uid) {
            (_, Some(reason), _) => BindStatus::Unreachable(reason.clone()),
            (Phase::Dead(error), ..) => BindStatus::Refused(error.clone()),
            (_, _, Some(_)) => BindStatus::Bound,
            (_, _, None) => BindStatus::Pending,
        }
    }

    /// Why nothing can be published any more, if so.
    pub(crate) fn dead(&self) -> Option<&WireError> {
        match &self.phase {
            Phase::Dead(error) => Some(error),
            _ => None,
        }
    }

    // ---- leaving

    /// Whether it takes messages, and its stream keeps its alias.
    pub(crate) fn is_alive(&self) -> bool {
        self.dead().is_none() && self.binding != Binding::Leaving
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.phase == Phase::Broken
    }

    /// Whether nothing waits and nothing is un-answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_none()
            && self.closed.is_empty()
            && self.retry.is_empty()
            && self.flying.is_empty()
    }

    /// Whether the server may know the producer on this stream, and no copy can come late that it
    /// would append again if it were told to forget it (PQ-1).
    pub(crate) fn may_be_forgotten(&self) -> bool {
        self.used && !self.repeated && !self.tainted && !self.is_gone()
    }

    /// The server has forgotten the producer on this stream, or it is not used again.
    pub(crate) fn forgotten(&mut self) {
        self.used = false;
    }

    /// Whether its stream is no more, and with it what the server knew of the producer.
    fn is_gone(&self) -> bool {
        self.dead().is_some_and(|error| {
            error.code == ErrorCode::StreamNotFound || error.code == ErrorCode::StreamDeleted
        })
    }

    /// Goes on from what an earlier lane of its stream has left. Not bound yet.
    pub(crate) fn follow(&mut self, left: Option<Left>) {
        self.left = left;
    }

    /// What the next lane of its stream must know; nothing more is sent on this one.
    pub(crate) fn take_left(&mut self) -> Option<Left> {
        let left = self.left.take();
        let used = std::mem::take(&mut self.used);
        if self.is_gone() {
            return None;
        }
        let (next_sequence, repeated) = (self.server_next, self.repeated);
        match self.uid {
            Some(uid) if used => Some(Left { uid, next_sequence, repeated }),
            _ => left,
        }
    }

    // ---- taking messages

    /// Packs a message. The batch's slot, the record's index in it, and the bytes added.
    pub(crate) fn push(
        &mut self,
        draft: &RecordDraft<'_>,
        bytes: usize,
        permits: usize,
        options: BatchOptions,
    ) -> Result<(BatchOutcome, u32), SendError> {
        self.check_open_for_messages()?;
        let plain = options == BatchOptions::default();
        if let Some(open) = &self.open
            && (!plain || open.len() + bytes > BATCH_BYTES_DEFAULT || open.count() >= BATCH_RECORDS)
        {
            self.close_open();
        }
        let (records, body_bytes) = self.room_for(bytes);
        let open = self.open.get_or_insert_with(|| {
            let max = self.message_bytes_max;
            OpenBatch::new(BatchBuilder::with_capacity(max, records, body_bytes), options)
        });
        let before = if open.count() == 0 { 0 } else { open.len() };
        let index = match open.push(draft, permits) {
            Ok(index) => index,
            Err(refused) => {
                if open.count() == 0 {
                    self.open = None;
                }
                return Err(refused.into());
            }
        };
        let outcome = BatchOutcome::clone(open.outcome());
        self.waiting_bytes += open.len() - before;
        self.sent_records += 1;
        if !plain {
            self.close_open();
        }
        Ok((outcome, index))
    }

    /// Packs messages as one batch that is appended whole or not at all (PS-4).
    pub(crate) fn push_atomic<'d>(
        &mut self,
        drafts: impl Iterator<Item = RecordDraft<'d>>,
        permits: usize,
        options: BatchOptions,
    ) -> Result<(BatchOutcome, u32), SendError> {
        self.check_open_for_messages()?;
        self.close_open();
        let mut batch = OpenBatch::new(BatchBuilder::new(self.message_bytes_max), options);
        for (index, draft) in drafts.enumerate() {
            // All permits of the batch are carried by its first record.
            batch.push(&draft, if index == 0 { permits } else { 0 })?;
        }
        let count = batch.count() as u32;
        let outcome = BatchOutcome::clone(batch.outcome());
        self.waiting_bytes += batch.len();
        self.sent_records += u64::from(count);
        self.open = Some(batch);
        self.close_open();
        Ok((outcome, count))
    }

    fn check_open_for_messages(&self) -> Result<(), SendError> {
        let stream = || self.name.clone();
        match &self.phase {
            Phase::Flowing | Phase::Rewinding { .. } => Ok(()),
            Phase::Broken => Err(SendError::OrderBroken { stream: stream() }),
            Phase::Dead(error) => {
                Err(SendError::StreamGone { stream: stream(), error: error.clone() })
            }
        }
    }

    /// Room for the batch that begins with a message of `bytes`. While others are un-answered,
    /// messages gather, and the batch will be like the last. Else the message is likely to go
    /// alone, and room for more would be taken in vain, by each of ten thousand slow streams.
    fn room_for(&self, bytes: usize) -> (usize, usize) {
        let (records, body_bytes) = self.last_batch;
        match self.flying.is_empty() && self.closed.is_empty() {
            true => (1, bytes),
            // Small ones vary by a record or two, and growing costs more than a little room does.
            false if body_bytes + bytes <= SMALL_BATCH_BYTES => (records + 1, body_bytes + bytes),
            false => (records.max(1), body_bytes.max(bytes)),
        }
    }

    fn close_open(&mut self) {
        if let Some(item) = self.take_open() {
            self.closed.push_back(item);
        }
    }

    /// The open batch, closed.
    fn take_open(&mut self) -> Option<ClosedBatch> {
        let item = self.open.take()?.close(self.next_order);
        self.next_order += 1;
        self.last_batch = (item.count as usize, item.parts.body.len());
        Some(item)
    }

    // ---- sending

    /// Whether there is a batch that may be sent now.
    pub(crate) fn is_sendable(&self) -> bool {
        self.binding == Binding::Bound && self.phase == Phase::Flowing && self.has_next()
    }

    fn has_next(&self) -> bool {
        if self.tainted {
            return self.has_ambiguous();
        }
        !self.retry.is_empty() || !self.closed.is_empty() || self.open.is_some()
    }

    /// Place in `retry` of the batch to be sent next, if it is there.
    fn next_retry(&self) -> Option<usize> {
        // A new number cannot be given to anything while one may be in use by a batch whose fate
        // is unknown. Those that are ambiguous keep theirs.
        self.retry.iter().position(|item| item.ambiguous || !self.tainted)
    }

    /// Bytes of the batch that would be sent next.
    pub(crate) fn next_len(&self) -> Option<usize> {
        if !self.is_sendable() {
            return None;
        }
        let item = self.next_retry().and_then(|place| self.retry.get(place));
        let item = item.or(self.closed.front());
        item.map(|item| item.parts.len()).or(self.open.as_ref().map(OpenBatch::len))
    }

    /// Whether a batch waits whose earlier copy may be anywhere.
    pub(crate) fn has_ambiguous(&self) -> bool {
        self.retry.iter().any(|item| item.ambiguous)
    }

    /// Puts the batch in turn in flight, with its sequence. `None`: those in turn had to be given
    /// up.
    pub(crate) fn send_next(
        &mut self,
        now: Instant,
        out: &mut Vec<Completion>,
    ) -> Option<&ClosedBatch> {
        while self.is_sendable() {
            let mut item = self.pop_next()?;
            self.waiting_bytes -= item.parts.len();
            let sequence = match item.sequence {
                Some(sequence) if item.ambiguous && sequence > self.next_sequence => {
                    // Those before it were refused for good, so its number cannot be reached, and
                    // under another number an earlier copy of it would be appended beside it.
                    let reason = "its connection was lost, and a message before it was refused";
                    self.give_up(item, PublishError::Unknown { reason: reason.into() }, out);
                    continue;
                }
                Some(sequence) if item.ambiguous => sequence,
                _ => self.next_sequence,
            };
            self.used = true;
            (item.sequence, item.sent_at) = (Some(sequence), Some(now));
            self.next_sequence = self.next_sequence.max(sequence + u64::from(item.count));
            if self.flying.capacity() == 0 {
                // A slow stream never has two in flight, and there may be ten thousand of them.
                self.flying.reserve_exact(1);
            }
            self.flying.push_back(item);
            return self.flying.back();
        }
        None
    }

    fn pop_next(&mut self) -> Option<ClosedBatch> {
        if let Some(place) = self.next_retry() {
            return self.retry.remove(place);
        }
        self.closed.pop_front().or_else(|| self.take_open())
    }

    // ---- going on

    /// When a rewinding lane may go on, if only time is missing.
    pub(crate) fn rewound_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Rewinding { until } if self.flying.is_empty() => Some(until),
            _ => None,
        }
    }

    pub(crate) fn is_rewinding(&self) -> bool {
        matches!(self.phase, Phase::Rewinding { .. })
    }

    /// Goes on from what the server expects.
    pub(crate) fn rewound(&mut self) {
        self.next_sequence = self.server_next;
        self.phase = Phase::Flowing;
    }

    /// The connection was lost. `silent_since`: when the server began to owe an answer that did
    /// not come.
    pub(crate) fn on_disconnected(
        &mut self,
        silent_since: Instant,
        now: Instant,
        out: &mut Vec<Completion>,
    ) {
        for mut item in std::mem::take(&mut self.flying) {
            item.ambiguous = true;
            // Not before it was sent, and where answers came, slowly, not before the last of them.
            let since = item.sent_at.map_or(now, |sent_at| sent_at.max(silent_since));
            item.trying_since.get_or_insert(since);
            if matches!(self.phase, Phase::Broken | Phase::Dead(_)) {
                self.abandon(item, out);
            } else {
                self.requeue(item, now);
            }
        }
        let since = match self.binding {
            Binding::Bound | Binding::Leaving => None,
            Binding::Wanted { since, .. } | Binding::Asked { since } => since,
        };
        self.binding = Binding::Wanted { since, not_before: None };
        self.next_sequence = self.server_next;
        if since.is_some_and(|since| self.is_overdue(since, now)) {
            self.fail_all("its stream could not be bound in time", out);
        }
        self.end_overdue(now, out);
    }

    fn is_overdue(&self, since: Instant, now: Instant) -> bool {
        now.duration_since(since) >= self.give_up_after
    }

    /// Ends what has been repeated for long enough, without an answer.
    fn end_overdue(&mut self, now: Instant, out: &mut Vec<Completion>) {
        let overdue = |lane: &Self, item: &ClosedBatch| {
            item.ambiguous && item.trying_since.is_some_and(|since| lane.is_overdue(since, now))
        };
        while let Some(place) = self.retry.iter().position(|item| overdue(self, item)) {
            let Some(item) = self.retry.remove(place) else { return };
            self.waiting_bytes -= item.parts.len();
            let reason = format!("no answer to it in {:?}", self.give_up_after);
            self.give_up(item, PublishError::Unknown { reason }, out);
        }
    }

    /// A producer id that the server has never seen.
    pub(crate) fn on_new_producer(&mut self) {
        (self.next_sequence, self.server_next) = (0, 0);
        (self.tainted, self.repeated, self.used) = (false, false, false);
        self.left = None;
    }

    /// The connection did not come back in time: everything ends.
    pub(crate) fn fail_all(&mut self, reason: &str, out: &mut Vec<Completion>) {
        if self.uid.is_none() {
            self.unreachable.get_or_insert_with(|| reason.to_owned());
            return self.die(WireError::new(ErrorCode::Unavailable, reason), out);
        }
        if let Binding::Wanted { since, .. } | Binding::Asked { since } = &mut self.binding {
            // What is pushed from now on is given its own time.
            *since = None;
        }
        self.close_open();
        self.waiting_bytes = 0;
        let waiting: Vec<ClosedBatch> = self.retry.drain(..).chain(self.closed.drain(..)).collect();
        let any = !waiting.is_empty();
        for item in waiting {
            let reason = reason.to_owned();
            let error = if item.ambiguous {
                PublishError::Unknown { reason }
            } else {
                PublishError::NotSent { reason }
            };
            self.tainted |= item.ambiguous;
            self.note_failure(&error);
            out.push(item.complete(BatchResult::failed(error)));
        }
        if any && self.ordered && !matches!(self.phase, Phase::Dead(_)) {
            self.phase = Phase::Broken;
        }
    }

    /// Whether [`Self::resume`] can be called: nothing of before is in flight.
    pub(crate) fn is_settled(&self) -> bool {
        self.flying.is_empty()
    }

    /// The user has seen the failure: messages are taken again.
    pub(crate) fn resume(&mut self) -> Option<PublishError> {
        if self.phase == Phase::Broken {
            self.rewound();
        }
        self.failure.take()
    }

    /// The slots of all its batches that have not ended.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = &BatchOutcome> {
        let items = self.flying.iter().chain(&self.retry).chain(&self.closed);
        items.map(|item| &item.outcome).chain(self.open.as_ref().map(OpenBatch::outcome))
    }

    /// How long to wait before something is repeated: longer each time, until the server takes something,
    /// and not shorter than it asks for.
    fn next_wait(&mut self, retry: Retry) -> Duration {
        let wait = self.backoff.next(self.bits.next());
        wait.max(asked_wait(retry))
    }
}

/// How long the server asks to wait.
fn asked_wait(retry: Retry) -> Duration {
    match retry {
        Retry::Now | Retry::Never | Retry::OnNewLeader => Duration::ZERO,
        Retry::After(after) => after,
    }
}
