//! What a publisher sends and when, without a connection, a clock or a task.
//!
//! Commands: [`add_lane`](Machine::add_lane), [`push`](Machine::push),
//! [`push_atomic`](Machine::push_atomic), [`resume`](Machine::resume),
//! [`release`](Machine::release), [`pause`](Machine::pause), [`close`](Machine::close). Inputs:
//! [`on_connected`](Machine::on_connected), [`on_bound`](Machine::on_bound),
//! [`on_unbound`](Machine::on_unbound), [`on_result`](Machine::on_result),
//! [`on_disconnected`](Machine::on_disconnected), which is also due at
//! [`answer_due`](Machine::answer_due), [`fail_all`](Machine::fail_all). Output:
//! [`poll_transmit`](Machine::poll_transmit), until it says [`Transmit::Wait`]; and completions,
//! pushed to `out` by all of them.
//!
//! Coalescing: a message that finds few frames un-answered goes out at once; one that finds more
//! waits for an answer, or until those that wait with it are worth a frame. Nothing waits for a
//! timer.
//!
//! `lanes` holds the lanes and their numbers, `leaving` lets those go that nobody holds.

mod lanes;
mod leaving;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_types::batch::RecordDraft;
use railgun_types::limits::{BATCH_BYTES_DEFAULT, PUBLISH_ITEMS};
use railgun_types::{StreamName, StreamUid};
use tokio::time::Instant;

use super::batch::{BatchOptions, ClosedBatch, Completion};
use super::error::{ProtocolError, PublishError, SendError};
use super::lane::{Binding, Lane, Left};
use super::outcome::{BatchOutcome, OnDuplicate};
use crate::backoff::Bits;
use crate::options::ANSWER_TIMEOUT_MIN;
use lanes::Lanes;
use leaving::Unbinding;

pub(crate) use lanes::LaneId;

/// Frames that may be un-answered however little the next one would carry: one is on its way while
/// another is made durable.
const SMALL_FRAMES: usize = 2;
/// Bytes that are worth a frame of their own while more than [`SMALL_FRAMES`] are un-answered.
const FRAME_BYTES_WORTH: usize = 64 << 10;
/// Size at which a frame with batches of many streams is closed.
const FRAME_BYTES: usize = BATCH_BYTES_DEFAULT;
/// Batches of one frame that room is made for at once: as many of 1 KiB as fit.
const FRAME_ITEMS_USUAL: usize = 1_024;

/// What a publisher was asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) ordered: bool,
    pub(crate) unanswered_max: usize,
    pub(crate) give_up_after: Duration,
    pub(crate) on_duplicate: OnDuplicate,
    /// For the waits before something is repeated, so that publishers do not come back in step.
    pub(crate) seed: u64,
}

impl Settings {
    /// Time without any answer after which a server that owes one is given up.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.give_up_after.max(ANSWER_TIMEOUT_MIN)
    }
}

/// What to send next.
#[derive(Debug, PartialEq)]
pub(crate) enum Transmit {
    Bind(v1::BindStream),
    Unbind(v1::UnbindStreams),
    Publish(v1::Publish, Vec<Bytes>),
    /// Leave this producer, without having it forgotten, and begin again with a new id.
    NewProducer,
    /// Everything is answered and the user is done.
    Close {
        /// Whether the server is to forget the producer. Not while copies of what was sent twice
        /// may still be on their way to the log: it would append them again (PQ-1).
        forget: bool,
    },
    /// Nothing now; ask again after an input, or at this instant.
    Wait(Option<Instant>),
}

/// One Publish frame that is not answered.
#[derive(Debug)]
struct Flight {
    /// Each has one batch in it.
    lanes: Vec<LaneId>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Machine {
    settings: Settings,
    lanes: Lanes,
    /// Lanes with something to send, in turn.
    ready: VecDeque<LaneId>,
    /// Lanes that were refused something for now.
    rewinding: Vec<LaneId>,
    /// Lanes to be bound, by their turns.
    unbound: BTreeMap<u64, LaneId>,
    /// The last turn that was given.
    bind_turn: u64,
    /// Lanes that may have become ready to leave.
    leaving: Vec<LaneId>,
    /// Those of them whose aliases are to be freed.
    to_unbind: VecDeque<LaneId>,
    unbinding: Option<Unbinding>,
    /// What lanes that are gone have left, by the names of their streams.
    left: BTreeMap<StreamName, Left>,
    /// One of them had repeated something under this producer id.
    left_repeated: bool,
    flights: VecDeque<Flight>,
    /// Bindings that are asked for and not answered.
    binds_asked: usize,
    /// Since when the server owes an answer and has given none.
    silent_since: Option<Instant>,
    flight_bytes: usize,
    waiting_bytes: usize,
    credit_bytes: usize,
    unanswered_max: usize,
    /// Whether the last `poll_transmit` found nothing to do.
    parked: bool,
    closing: bool,
    closed: bool,
    /// Nothing is sent until there is another connection, or this one is to go on.
    paused: bool,
    /// What seeds of lanes are drawn from.
    bits: Bits,
    /// A lane's sequence may be in use by a batch whose fate is unknown: drain, then begin again
    /// with another producer id.
    tainted: bool,
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            lanes: Lanes::default(),
            ready: VecDeque::new(),
            rewinding: Vec::new(),
            unbound: BTreeMap::new(),
            bind_turn: 0,
            leaving: Vec::new(),
            to_unbind: VecDeque::new(),
            unbinding: None,
            left: BTreeMap::new(),
            left_repeated: false,
            flights: VecDeque::new(),
            binds_asked: 0,
            silent_since: None,
            flight_bytes: 0,
            waiting_bytes: 0,
            credit_bytes: 0,
            unanswered_max: settings.unanswered_max,
            parked: false,
            closing: false,
            closed: false,
            paused: false,
            bits: Bits::new(settings.seed),
            tainted: false,
        }
    }

    // ---- commands

    /// A handle for a stream: another one for its lane, or for a new one, which is bound by
    /// `poll_transmit`, after what an earlier lane of the stream has under way. `None`: there are as
    /// many lanes as a publisher may have. To be given back by [`release`](Self::release).
    pub(crate) fn add_lane(&mut self, stream: &StreamName) -> Option<LaneId> {
        if let Some(id) = self.lanes.share(stream) {
            return Some(id);
        }
        let earlier = self.lanes.of_stream(stream);
        let seed = self.bits.next();
        let id = self.lanes.insert(Lane::new(stream.clone(), &self.settings, seed))?;
        let Some(earlier) = earlier else {
            self.admit(id);
            return Some(id);
        };
        let before = self.lanes.slot(earlier);
        if before.lane.dead().is_some() {
            // Nothing is sent on it any more. It may have handles, for as long as they like.
            let left = before.lane.take_left();
            self.lane(id).follow(left);
            self.queue_bind(id);
        } else {
            before.next = Some(id);
            self.lanes.slot(id).held = true;
        }
        Some(id)
    }

    /// Whether places will be free without anybody's doing.
    pub(crate) fn awaits_places(&self) -> bool {
        self.lanes.any_orphan()
    }

    /// A handle of the lane is gone. What was pushed is still sent.
    pub(crate) fn release(&mut self, id: LaneId) {
        self.lanes.release(id);
        self.note(id);
        self.sweep();
    }

    /// Takes a message. The slot of its batch, its index there, and whether the sender of frames
    /// must be woken.
    pub(crate) fn push(
        &mut self,
        id: LaneId,
        draft: &RecordDraft<'_>,
        bytes: usize,
        permits: usize,
        options: BatchOptions,
    ) -> Result<(BatchOutcome, u32, bool), SendError> {
        if self.closing {
            return Err(SendError::Closed);
        }
        let (outcome, index) = self.track(id, |lane| lane.push(draft, bytes, permits, options))?;
        Ok((outcome, index, self.must_wake()))
    }

    /// Takes messages that are one unit. The slot, their number, and whether to wake the sender.
    pub(crate) fn push_atomic<'d>(
        &mut self,
        id: LaneId,
        drafts: impl Iterator<Item = RecordDraft<'d>>,
        permits: usize,
        options: BatchOptions,
    ) -> Result<(BatchOutcome, u32, bool), SendError> {
        if self.closing {
            return Err(SendError::Closed);
        }
        let (outcome, count) = self.track(id, |lane| lane.push_atomic(drafts, permits, options))?;
        Ok((outcome, count, self.must_wake()))
    }

    /// Gives the lane's first untold failure; messages are taken again afterwards. `None` while
    /// batches of before are still un-answered: ask again after the next input.
    pub(crate) fn resume(&mut self, id: LaneId) -> Option<Option<PublishError>> {
        let lane = self.lane(id);
        if !lane.is_settled() {
            return None;
        }
        let failure = lane.resume();
        self.enqueue(id);
        Some(failure)
    }

    /// Sends nothing more on this connection: what is un-answered gets its answers, and the rest goes over
    /// another one; or, with `false`, goes on.
    pub(crate) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Nothing more will be pushed.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    // ---- inputs

    /// A connection is there, with nothing bound.
    pub(crate) fn on_connected(&mut self, credit_bytes: u64, unanswered_max: usize) {
        self.credit_bytes = usize::try_from(credit_bytes).unwrap_or(usize::MAX);
        self.unanswered_max = self.settings.unanswered_max.min(unanswered_max).max(1);
        self.paused = false;
    }

    /// The answer to a `BindStream`.
    pub(crate) fn on_bound(
        &mut self,
        bound: v1::StreamBound,
        now: Instant,
        out: &mut Vec<Completion>,
    ) -> Result<(), ProtocolError> {
        let Some(id) = self
            .lanes
            .find(bound.alias)
            .filter(|&id| matches!(self.lane(id).binding, Binding::Asked { .. }))
        else {
            return Err(ProtocolError::UnknownAlias { alias: bound.alias });
        };
        self.binds_asked -= 1;
        self.on_answer(now);
        let uid = StreamUid::from_wire("stream_uid", &bound.stream_uid);
        self.track(id, |lane| match (bound.error, uid) {
            (Some(error), _) => lane.bind_refused(error.into(), now, out),
            (None, Ok(uid)) => lane.bound(uid, bound.message_bytes_max as usize, out),
            (None, Err(invalid)) => lane.bind_refused(invalid.into(), now, out),
        });
        if matches!(self.lane(id).binding, Binding::Wanted { .. }) && self.lane(id).dead().is_none()
        {
            self.queue_bind(id);
        }
        self.sweep();
        Ok(())
    }

    /// The answer to the oldest un-answered frame.
    pub(crate) fn on_result(
        &mut self,
        result: v1::PublishResult,
        now: Instant,
        out: &mut Vec<Completion>,
    ) -> Result<(), ProtocolError> {
        let Some(front) = self.flights.front() else { return Err(ProtocolError::UnaskedResult) };
        let (results, batches) = (result.items.len(), front.lanes.len());
        if results != batches {
            return Err(ProtocolError::ResultCount { results, batches });
        }
        let Some(flight) = self.flights.pop_front() else {
            return Err(ProtocolError::UnaskedResult);
        };
        self.flight_bytes -= flight.bytes;
        self.on_answer(now);
        out.reserve(batches);
        let mut outcome = Ok(());
        for (id, answer) in flight.lanes.into_iter().zip(result.items) {
            let was_rewinding = self.lane(id).is_rewinding();
            let settled = self.track(id, |lane| lane.settle(answer, now, out));
            // The rest of the frame is still accounted for; the connection is given up after it.
            outcome = outcome.and(settled);
            if self.lane(id).is_rewinding() && !was_rewinding {
                self.rewinding.push(id);
            }
        }
        self.sweep();
        outcome
    }

    /// The server is not silent.
    fn on_answer(&mut self, now: Instant) {
        let owes = !self.flights.is_empty() || self.binds_asked > 0 || self.unbinding.is_some();
        self.silent_since = owes.then_some(now);
    }

    /// When the server must have answered something, or is to be given up as a lost connection.
    pub(crate) fn answer_due(&self) -> Option<Instant> {
        self.silent_since.map(|since| since + self.settings.answer_timeout())
    }

    /// The connection is gone. What was un-answered is repeated on the next one, under the same
    /// producer and sequence, so that it is appended once; what has been repeated for too long
    /// ends.
    pub(crate) fn on_disconnected(&mut self, now: Instant, out: &mut Vec<Completion>) {
        let silent_since = self.silent_since.take().unwrap_or(now);
        self.flights.clear();
        self.flight_bytes = 0;
        self.binds_asked = 0;
        self.ready.clear();
        self.unbound.clear();
        self.leaving.extend(self.to_unbind.drain(..));
        if let Some(Unbinding { lanes, forget }) = self.unbinding.take() {
            // The server may do it at any later time: the producer must not be in use then.
            self.tainted |= forget;
            for &id in &lanes {
                self.lanes.slot(id).noted = true;
            }
            self.leaving.extend(lanes);
        }
        for id in self.lanes.ids() {
            self.track(id, |lane| {
                lane.queued = false;
                lane.on_disconnected(silent_since, now, out);
            });
        }
        self.sweep();
        self.unbound.clear();
        for id in self.lanes.ids() {
            let slot = self.lanes.slot(id);
            if slot.lane.dead().is_none() && !slot.held {
                self.queue_bind(id);
            }
        }
    }

    /// The producer id was changed; nothing is in flight or ambiguous.
    pub(crate) fn on_new_producer(&mut self) {
        self.tainted = false;
        self.left.clear();
        self.left_repeated = false;
        for id in self.lanes.ids() {
            self.track(id, Lane::on_new_producer);
        }
    }

    /// No connection in time: everything that waits ends.
    pub(crate) fn fail_all(&mut self, reason: &str, out: &mut Vec<Completion>) {
        for id in self.lanes.ids() {
            self.track(id, |lane| lane.fail_all(reason, out));
        }
        self.sweep();
    }

    /// The server does not want this publisher: everything ends, for good.
    pub(crate) fn refused(&mut self, error: &WireError, out: &mut Vec<Completion>) {
        self.closing = true;
        for id in self.lanes.ids() {
            self.track(id, |lane| lane.die(error.clone(), out));
        }
        self.sweep();
    }

    // ---- output

    /// What to send next on a connection.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<Completion>) -> Transmit {
        self.parked = false;
        if self.paused {
            return Transmit::Wait(None);
        }
        let mut wake = None;
        if let Some(bind) = self.next_bind(now, &mut wake) {
            self.binds_asked += 1;
            self.silent_since.get_or_insert(now);
            return Transmit::Bind(bind);
        }
        self.end_rewinds(now, &mut wake);
        if let Some((publish, blob)) = self.next_publish(now, out) {
            self.silent_since.get_or_insert(now);
            return Transmit::Publish(publish, blob);
        }
        if self.is_idle() && self.closing && !self.closed {
            self.closed = true;
            let repeated = self.left_repeated || self.lanes.iter().any(|lane| lane.repeated);
            return Transmit::Close { forget: !self.tainted && !repeated };
        }
        if self.wants_new_producer() {
            return Transmit::NewProducer;
        }
        self.sweep();
        if let Some(unbind) = self.next_unbind() {
            self.silent_since.get_or_insert(now);
            return Transmit::Unbind(unbind);
        }
        self.parked = true;
        Transmit::Wait(wake)
    }

    fn next_bind(&mut self, now: Instant, wake: &mut Option<Instant>) -> Option<v1::BindStream> {
        for _ in 0..self.unbound.len() {
            let (_, id) = self.unbound.pop_first()?;
            let slot = self.lanes.slot(id);
            slot.bind_turn = None;
            let lane = &mut slot.lane;
            let Binding::Wanted { since, not_before } = lane.binding else { continue };
            if lane.dead().is_some() {
                continue;
            }
            if let Some(at) = not_before.filter(|at| *at > now) {
                *wake = Some(wake.map_or(at, |wake| wake.min(at)));
                self.queue_bind(id);
                continue;
            }
            lane.binding = Binding::Asked { since: since.or(Some(now)) };
            return Some(v1::BindStream {
                alias: id.0,
                stream: lane.name().to_string(),
                stream_uid: lane.uid().map(|uid| uid.to_wire()).unwrap_or_default(),
            });
        }
        None
    }

    /// Has a lane bound, behind all others that are to be.
    fn queue_bind(&mut self, id: LaneId) {
        self.bind_turn += 1;
        if let Some(earlier) = self.lanes.slot(id).bind_turn.replace(self.bind_turn) {
            self.unbound.remove(&earlier);
        }
        self.unbound.insert(self.bind_turn, id);
    }

    fn end_rewinds(&mut self, now: Instant, wake: &mut Option<Instant>) {
        for id in std::mem::take(&mut self.rewinding) {
            match self.lane(id).rewound_at() {
                Some(at) if at <= now => {
                    self.lane(id).rewound();
                    self.enqueue(id);
                }
                Some(at) => {
                    *wake = Some(wake.map_or(at, |wake| wake.min(at)));
                    self.rewinding.push(id);
                }
                None if self.lane(id).is_rewinding() => self.rewinding.push(id),
                None => {}
            }
        }
    }

    /// Whether a frame may go out now.
    fn may_publish(&self) -> bool {
        let unanswered = self.flights.len();
        unanswered < self.unanswered_max
            && (unanswered < SMALL_FRAMES || self.waiting_bytes >= FRAME_BYTES_WORTH)
    }

    /// Gathers a frame: one batch of each lane in turn, so that no stream starves the others, and
    /// never two, so that no stream has more un-answered than its producer state remembers (PQ-1).
    fn next_publish(
        &mut self,
        now: Instant,
        out: &mut Vec<Completion>,
    ) -> Option<(v1::Publish, Vec<Bytes>)> {
        if !self.may_publish() {
            return None;
        }
        // Before another producer id, only lanes that need the old one.
        let draining = self.tainted;
        let batches = self.ready.len().min(FRAME_ITEMS_USUAL);
        let mut lanes = Vec::with_capacity(batches);
        let mut publish = v1::Publish { items: Vec::with_capacity(batches) };
        let mut blob = Vec::with_capacity(2 * batches);
        let mut bytes = 0;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { break };
            let lane = self.lane(id);
            lane.queued = false;
            let Some(len) = lane.next_len() else { continue };
            if draining && !lane.has_ambiguous() {
                self.enqueue(id);
                continue;
            }
            let full = !lanes.is_empty() && bytes + len > FRAME_BYTES;
            // The first frame goes out whatever the credit: it is never smaller than one batch.
            let first = self.flights.is_empty() && lanes.is_empty();
            let over_credit = !first && self.flight_bytes + bytes + len > self.credit_bytes;
            if full || over_credit || lanes.len() == PUBLISH_ITEMS {
                self.lane(id).queued = true;
                self.ready.push_front(id);
                break;
            }
            let on_duplicate = self.settings.on_duplicate;
            let sent = self.track(id, |lane| {
                lane.send_next(now, out)
                    .map(|item| (wire_item(id, item, on_duplicate), item.parts.clone()))
            });
            if let Some((item, parts)) = sent {
                bytes += parts.len();
                publish.items.push(item);
                blob.extend([parts.head, parts.body]);
                lanes.push(id);
            }
        }
        if lanes.is_empty() {
            return None;
        }
        self.flight_bytes += bytes;
        self.flights.push_back(Flight { lanes, bytes });
        Some((publish, blob))
    }

    // ---- views

    /// Whether everything that was taken has ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.waiting_bytes == 0
    }

    /// Whether all that must be repeated under the present producer id has ended, and nothing else
    /// can be sent under it.
    pub(crate) fn wants_new_producer(&self) -> bool {
        self.tainted && self.flights.is_empty() && !self.lanes.iter().any(Lane::has_ambiguous)
    }

    /// Whether `close` was called.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether the server owes no answer.
    pub(crate) fn nothing_unanswered(&self) -> bool {
        self.flights.is_empty()
    }

    /// The lane of this publisher.
    pub(crate) fn lane(&mut self, id: LaneId) -> &mut Lane {
        &mut self.lanes.slot(id).lane
    }

    /// The slots of all batches of a lane that have not ended.
    pub(crate) fn outcomes_of(&mut self, id: LaneId) -> Vec<BatchOutcome> {
        self.lane(id).outcomes().cloned().collect()
    }

    /// The slots of all batches that have not ended.
    pub(crate) fn outcomes(&self) -> Vec<BatchOutcome> {
        self.lanes.iter().flat_map(Lane::outcomes).cloned().collect()
    }

    fn must_wake(&mut self) -> bool {
        let wake = self.parked && self.may_publish();
        self.parked &= !wake;
        wake
    }

    /// Changes a lane and keeps the sums over lanes true.
    fn track<T>(&mut self, id: LaneId, change: impl FnOnce(&mut Lane) -> T) -> T {
        let slot = self.lanes.slot(id);
        self.waiting_bytes -= slot.lane.waiting_bytes();
        let result = change(&mut slot.lane);
        self.waiting_bytes += slot.lane.waiting_bytes();
        self.tainted |= slot.lane.tainted;
        if slot.becomes_ready() {
            self.ready.push_back(id);
        }
        if slot.begins_to_leave() {
            self.leaving.push(id);
        }
        result
    }

    fn enqueue(&mut self, id: LaneId) {
        if self.lanes.slot(id).becomes_ready() {
            self.ready.push_back(id);
        }
    }
}

fn wire_item(id: LaneId, item: &ClosedBatch, on_duplicate: OnDuplicate) -> v1::PublishItem {
    let mode = if item.options.atomic {
        v1::PublishMode::PublishAtomic
    } else {
        v1::PublishMode::PublishEach
    };
    v1::PublishItem {
        alias: id.0,
        // A batch is far smaller than 4 GiB.
        batch_bytes: item.parts.len() as u32,
        sequence: item.sequence.unwrap_or(0),
        mode: mode.into(),
        on_duplicate: on_duplicate.to_wire().into(),
        expected_last_offset: item.options.expected_end.map(|end| end.to_wire()),
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
