//! The memory that a step of a reader has.

use std::sync::Arc;

use railgun_net::{Held, Member};

use super::{Found, Step, StreamReader};

/// What a client has left of its own is used from here on: a step that reads a few bytes costs as much
/// as one that reads many.
const OWN_BYTES_MIN: usize = 4 << 10;

/// Memory for what is read next.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) bytes: usize,
    /// `None` for a client that has as much as it wants.
    held: Option<Held>,
}

impl StreamReader {
    /// Memory for `bytes`, if there is some now. Where others have taken it, few enough bytes find
    /// some all the same, as the client has a little of its own. Where it is the client itself that
    /// takes nothing, or not fast enough, it has to wait: a small part of what is read costs as much as
    /// all of it.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        let Some(memory) = &self.from.memory else { return Some(Room { bytes, held: None }) };
        let room = |bytes| {
            let held = Some(memory.try_take(bytes)?);
            Some(Room { bytes, held })
        };
        let own = || {
            Some(memory.own_bytes()).filter(|own| *own >= OWN_BYTES_MIN && memory.is_short(bytes))
        };
        room(bytes).or_else(|| room(own()?))
    }

    /// Waits for the memory that [`room`](Self::room) did not find: where others have taken it, for a part
    /// of the client's own, which comes back when what it was taken for is gone. All of that may never
    /// be there at once, and who waits for it keeps what comes from the client's other readers.
    pub(super) async fn wait_for_room(&mut self, bytes: usize) -> Step {
        let bytes = match &self.from.memory {
            Some(memory) if memory.is_short(bytes) => {
                (memory.own_bytes_max() / 4).max(OWN_BYTES_MIN)
            }
            _ => bytes,
        };
        self.wait_for(bytes).await
    }

    /// Waits for memory, for the next step. To be called by who holds none.
    pub(super) async fn wait_for(&mut self, bytes: usize) -> Step {
        let held = match &self.from.memory {
            Some(memory) => Some(memory.take(bytes).await),
            None => None,
        };
        self.room = Some(Room { bytes, held });
        Step::Records(Vec::new())
    }

    /// Returns what was found, with the memory that it takes: of the `room` it was read with, if there
    /// was one. Where there is not as much, a part of it, or nothing for now: it waits for memory for
    /// the first batch at least.
    pub(super) async fn keep(&mut self, mut found: Found, room: Option<Room>) -> Step {
        let Some(memory) = &self.from.memory else { return self.returned(found, None) };
        let held = match room {
            Some(Room { bytes, held: Some(mut held) }) if found.pinned() <= bytes => {
                // What was too much goes back.
                drop(held.split(held.bytes().saturating_sub(found.pinned())));
                Some(held)
            }
            room => {
                drop(room);
                take_for(memory, &mut found)
            }
        };
        match held {
            Some(held) => self.returned(found, Some(Arc::new(held))),
            None => {
                let is_short = memory.is_short(found.pinned());
                let bytes = if is_short { found.first_bytes() } else { found.pinned() };
                drop(found);
                self.wait_for(bytes).await
            }
        }
    }
}

/// Memory for all that was found, or for a small part of it as [`StreamReader::room`].
fn take_for(memory: &Member, found: &mut Found) -> Option<Held> {
    if let Some(held) = memory.try_take(found.pinned()) {
        return Some(held);
    }
    let own = memory.own_bytes();
    if !memory.is_short(found.pinned()) || found.first_bytes() > own {
        return None;
    }
    found.cut_to(own);
    memory.try_take(found.pinned())
}
