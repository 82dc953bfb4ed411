//! How lanes leave. One that nobody holds does so when nothing of it waits or is un-answered: its
//! alias is freed on the wire, and the server forgets the producer on its stream, unless a copy of
//! something may still come there (PQ-1). Where the server goes on knowing the producer, what it knows
//! is kept for the next lane of that stream.

use railgun_proto::{WireError, v1};
use railgun_types::Retry;
use railgun_types::limits::UNBIND_ALIASES;
use tokio::time::Instant;

use super::{LaneId, Machine};
use crate::publish::error::ProtocolError;
use crate::publish::lane::Binding;

/// Streams without a lane on which the server goes on knowing the producer. With one more, the
/// publisher goes on under another producer id.
pub(super) const LEFT_MAX: usize = 4_096;

/// The UnbindStreams frame that is not answered.
#[derive(Debug)]
pub(super) struct Unbinding {
    pub(super) lanes: Vec<LaneId>,
    /// Whether the server was asked to forget the producer on their streams.
    pub(super) forget: bool,
}

impl Machine {
    /// The answer to an `UnbindStreams`.
    pub(crate) fn on_unbound(
        &mut self,
        unbound: &v1::StreamsUnbound,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let Some(Unbinding { lanes, forget }) = self.unbinding.take() else {
            return Err(ProtocolError::UnaskedUnbound);
        };
        self.on_answer(now);
        let error = unbound.error.clone().map(WireError::from);
        // What may be tried again was not done: the producer stays known there, and what the next
        // lane must know of it is kept.
        let refused = error.as_ref().is_some_and(|error| error.retry != Retry::Never);
        // Else the server may forget it there at any later time: it must not be in use then.
        self.tainted |= forget && error.is_some() && !refused;
        for id in lanes {
            if forget && !refused {
                self.lane(id).forgotten();
            }
            self.let_go(id);
        }
        self.sweep();
        Ok(())
    }

    /// Aliases to free. One frame at a time, so that many lanes which leave one by one cost the
    /// server one log entry for all that came while it made the last durable.
    pub(super) fn next_unbind(&mut self) -> Option<v1::UnbindStreams> {
        if self.closing || self.unbinding.is_some() {
            return None;
        }
        let (mut lanes, mut forget) = (Vec::new(), false);
        while lanes.len() < UNBIND_ALIASES {
            let Some(id) = self.to_unbind.pop_front() else { break };
            let slot = self.lanes.slot(id);
            if !slot.may_leave() {
                // Somebody has bound the stream again.
                slot.noted = false;
                continue;
            }
            let forgets = slot.lane.may_be_forgotten();
            if forget != forgets && !lanes.is_empty() {
                self.to_unbind.push_front(id);
                break;
            }
            forget = forgets;
            slot.noted = false;
            slot.lane.binding = Binding::Leaving;
            lanes.push(id);
        }
        if lanes.is_empty() {
            return None;
        }
        let aliases = lanes.iter().map(|id| id.0).collect();
        self.unbinding = Some(Unbinding { lanes, forget });
        Some(v1::UnbindStreams { aliases, forget })
    }

    /// Notes a lane that may have become ready to leave.
    pub(super) fn note(&mut self, id: LaneId) {
        if self.lanes.slot(id).begins_to_leave() {
            self.leaving.push(id);
        }
    }

    /// Lets those go that the server need not hear of, and has the others tell it.
    pub(super) fn sweep(&mut self) {
        while let Some(id) = self.leaving.pop() {
            let slot = self.lanes.slot(id);
            slot.noted = false;
            if !slot.may_leave() {
                continue;
            }
            match slot.lane.binding {
                Binding::Wanted { .. } => self.let_go(id),
                Binding::Bound => {
                    slot.noted = true;
                    self.to_unbind.push_back(id);
                }
                // Its answer comes first.
                Binding::Asked { .. } | Binding::Leaving => {}
            }
        }
    }

    /// Frees the number of a lane. It is in no list of lanes that leave any more.
    fn let_go(&mut self, id: LaneId) {
        let Some(mut slot) = self.lanes.remove(id) else { return };
        if slot.lane.queued {
            self.ready.retain(|other| *other != id);
        }
        self.rewinding.retain(|other| *other != id);
        if let Some(turn) = slot.bind_turn {
            self.unbound.remove(&turn);
        }
        // Once the producer is to be left, nothing new is sent under it.
        if let Some(left) = slot.lane.take_left()
            && !self.tainted
        {
            self.left_repeated |= left.repeated;
            self.left.insert(slot.lane.name().clone(), left);
            self.tainted = self.left.len() > LEFT_MAX;
        }
        if let Some(next) = slot.next {
            self.lanes.slot(next).held = false;
            self.admit(next);
            self.note(next);
        }
    }

    /// Has a new lane bound.
    pub(super) fn admit(&mut self, id: LaneId) {
        let lane = &mut self.lanes.slot(id).lane;
        let left = self.left.remove(lane.name());
        lane.follow(left);
        self.queue_bind(id);
    }
}
