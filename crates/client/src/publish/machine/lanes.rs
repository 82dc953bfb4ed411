//! The lanes of a publisher by their numbers, which are their aliases on the wire: who holds them,
//! which of them goes on for a stream, and which numbers are free.

use std::collections::{BTreeMap, BTreeSet};

use railgun_types::StreamName;
use railgun_types::limits::PUBLISHER_STREAMS;

use crate::publish::lane::Lane;

/// Number of a stream on this publisher; its alias on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneId(pub(super) u32);

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) lane: Lane,
    /// Those that may give it messages.
    handles: usize,
    /// Whether it is in one of the machine's lists of lanes that leave.
    pub(super) noted: bool,
    /// Its turn among those to be bound.
    pub(super) bind_turn: Option<u64>,
    /// It waits until the lane before it on its stream is gone.
    pub(super) held: bool,
    /// The lane that waits for this one.
    pub(super) next: Option<LaneId>,
}

impl Slot {
    /// Whether nobody holds it, and nothing of it waits or is un-answered.
    pub(super) fn may_leave(&self) -> bool {
        self.handles == 0 && !self.held && self.lane.is_idle()
    }

    /// Whether it is to be put into the queue of lanes that send. It is told once.
    pub(super) fn becomes_ready(&mut self) -> bool {
        let ready = !self.lane.queued && self.lane.is_sendable();
        self.lane.queued |= ready;
        ready
    }

    /// Whether it is to be noted as a lane that leaves. It is told once.
    pub(super) fn begins_to_leave(&mut self) -> bool {
        let leaves = !self.noted && self.may_leave();
        self.noted |= leaves;
        leaves
    }

    /// Whether another handle may be given out for it. Nobody could `resume` a lane that was
    /// abandoned when it broke.
    fn may_be_shared(&self) -> bool {
        self.lane.is_alive() && (self.handles > 0 || !self.lane.is_broken())
    }
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    slots: Vec<Option<Slot>>,
    /// Slots without a lane. The lowest is used first, so that numbers stay small: the server looks
    /// up small ones in a table.
    free: BTreeSet<u32>,
    /// The lane that was made last for each stream.
    names: BTreeMap<StreamName, LaneId>,
    /// Lanes that nobody holds.
    orphans: usize,
}

impl Lanes {
    /// Another handle for the lane of this stream, if there is one that goes on.
    pub(super) fn share(&mut self, stream: &StreamName) -> Option<LaneId> {
        let id = self.of_stream(stream)?;
        let slot = self.slot(id);
        if !slot.may_be_shared() {
            return None;
        }
        slot.handles += 1;
        if slot.handles == 1 {
            // Who might have been told is gone.
            slot.lane.failure = None;
            self.orphans -= 1;
        }
        Some(id)
    }

    /// The lane that was made last for this stream and is not gone.
    pub(super) fn of_stream(&self, stream: &StreamName) -> Option<LaneId> {
        self.names.get(stream).copied()
    }

    /// A new lane with one handle; it goes on for its stream. `None`: there are as many as a
    /// publisher may have.
    pub(super) fn insert(&mut self, lane: Lane) -> Option<LaneId> {
        let number = match self.free.pop_first() {
            Some(number) => number,
            None if self.slots.len() >= PUBLISHER_STREAMS => return None,
            None => {
                self.slots.push(None);
                self.slots.len() as u32 - 1
            }
        };
        let id = LaneId(number);
        self.names.insert(lane.name().clone(), id);
        let slot =
            Slot { lane, handles: 1, noted: false, bind_turn: None, held: false, next: None };
        self.slots[number as usize] = Some(slot);
        Some(id)
    }

    /// One handle fewer.
    pub(super) fn release(&mut self, id: LaneId) {
        let slot = self.slot(id);
        slot.handles -= 1;
        if slot.handles == 0 {
            self.orphans += 1;
        }
    }

    /// Takes out a lane that nobody holds; its number is free.
    pub(super) fn remove(&mut self, id: LaneId) -> Option<Slot> {
        let slot = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.insert(id.0);
        self.orphans -= 1;
        if self.of_stream(slot.lane.name()) == Some(id) {
            self.names.remove(slot.lane.name());
        }
        Some(slot)
    }

    pub(super) fn slot(&mut self, id: LaneId) -> &mut Slot {
        let slot = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut);
        // A handle keeps its lane, a lane leaves every queue before it goes, and numbers from the
        // wire are looked up with `find`.
        slot.expect("the lane is there")
    }

    /// The lane of a number from the wire, if there is one.
    pub(super) fn find(&self, alias: u32) -> Option<LaneId> {
        self.slots.get(alias as usize)?.as_ref().map(|_| LaneId(alias))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.slots.iter().flatten().map(|slot| &slot.lane)
    }

    /// The numbers of all of them, lowest first.
    pub(super) fn ids(&self) -> Vec<LaneId> {
        let numbers = (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some());
        numbers.map(|(number, _)| LaneId(number)).collect()
    }

    /// Whether some of them will give up their numbers.
    pub(super) fn any_orphan(&self) -> bool {
        self.orphans > 0
    }

    /// Places taken, and lanes in them.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        assert_eq!(self.slots.len() - self.free.len(), self.iter().count());
        assert!(self.names.len() <= self.iter().count());
        (self.slots.len(), self.iter().count())
    }
}
