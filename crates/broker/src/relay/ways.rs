//! What all relays from this node to another one share: streams, and the window behind which the other
//! reads them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use railgun_net::peer::{PEER_STREAMS_MAX, PEER_WINDOW_BYTES};
use railgun_types::ShardId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Relays to one node at a time: half of what a connection between nodes carries.
const RELAYS_MAX: usize = PEER_STREAMS_MAX as usize / 2;
/// Bytes that relays to one node may have un-answered: where their shards take nothing, these are all in the
/// connection's window. The rest of it is for what goes over.
const BYTES_MAX: usize = PEER_WINDOW_BYTES as usize / 4 * 3;
/// The part of what is free that the relays to one shard may have. Sixteen shards that take nothing leave a
/// seventh of all to the others.
const SHARD_PART: usize = 8;

/// The ways to all nodes, by their addresses. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways(watch::Sender<BTreeMap<String, Way>>);

impl Ways {
    pub(crate) fn to(&self, address: &str) -> Way {
        if let Some(way) = self.0.borrow().get(address) {
            return way.clone();
        }
        let new = Way::default();
        let mut way = new.clone();
        // Another relay may have been faster.
        self.0.send_modify(|ways| way = ways.entry(address.to_owned()).or_insert(new).clone());
        way
    }
}

/// The way to one node. Clones are handles of the same.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    streams: Arc<Semaphore>,
    in_flight: watch::Sender<InFlight>,
}

impl Default for Way {
    fn default() -> Self {
        Self { streams: Arc::new(Semaphore::new(RELAYS_MAX)), in_flight: watch::Sender::default() }
    }
}

impl Way {
    /// A place for one more relay; waits for its turn. Cancel safe.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).acquire_owned().await.ok()
    }

    /// Whether somebody may wait for a place.
    pub(super) fn is_short(&self) -> bool {
        self.streams.available_permits() == 0
    }

    /// Gets room for so many bytes to the shard when their turn has come: those to one shard have it in
    /// the order of these calls. Whoever drops the receiver gives up its turn.
    pub(super) fn room(&self, shard: ShardId, bytes: usize) -> oneshot::Receiver<WayRoom> {
        let (to, room) = oneshot::channel();
        self.change(|in_flight| {
            in_flight.waiting.entry(shard).or_default().push_back(Waiting { bytes, to });
            in_flight.has_turn(shard).into_iter().collect()
        });
        room
    }

    /// Makes a change, and gives those room whose turn it brings.
    fn change(&self, change: impl FnOnce(&mut InFlight) -> Vec<(ShardId, Waiting)>) {
        let mut turns = Vec::new();
        self.in_flight.send_if_modified(|in_flight| {
            turns = change(in_flight);
            // Nobody waits for this.
            false
        });
        for (shard, Waiting { bytes, to }) in turns {
            // Given back where it has given up.
            drop(to.send(WayRoom { shard, bytes, way: self.clone() }));
        }
    }

    /// For tests: relays that there may still be.
    #[cfg(test)]
    pub(crate) fn places(&self) -> &Arc<Semaphore> {
        &self.streams
    }
}

/// Bytes on their way; they are no more when this is dropped.
#[derive(Debug)]
pub(super) struct WayRoom {
    shard: ShardId,
    bytes: usize,
    way: Way,
}

impl Drop for WayRoom {
    fn drop(&mut self) {
        self.way.change(|in_flight| in_flight.give_back(self.shard, self.bytes));
    }
}

/// Bytes that were sent and are not answered.
#[derive(Debug, Default)]
struct InFlight {
    bytes: usize,
    of: BTreeMap<ShardId, usize>,
    /// Those without room, the first ones first.
    waiting: BTreeMap<ShardId, VecDeque<Waiting>>,
    /// The shard that has had a turn last.
    last: ShardId,
}

#[derive(Debug)]
struct Waiting {
    bytes: usize,
    to: oneshot::Sender<WayRoom>,
}

impl InFlight {
    /// A shard without any may send always; the last that is sent may be as large as it is: so nothing waits
    /// for ever.
    fn try_take(&mut self, shard: ShardId, bytes: usize) -> bool {
        let own = self.of.get(&shard).copied().unwrap_or(0);
        let part = BYTES_MAX.saturating_sub(self.bytes) / SHARD_PART;
        if own > 0 && own >= part {
            return false;
        }
        self.bytes += bytes;
        *self.of.entry(shard).or_default() += bytes;
        true
    }

    /// The first one that waits for room to the shard, if there is room for it.
    fn has_turn(&mut self, shard: ShardId) -> Option<(ShardId, Waiting)> {
        let bytes = self.waiting.get(&shard)?.front()?.bytes;
        if !self.try_take(shard, bytes) {
            return None;
        }
        let waiting = self.waiting.get_mut(&shard)?;
        let first = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&shard);
        }
        Some((shard, first?))
    }

    /// Who has a turn now; the shards have theirs one after the other.
    fn give_back(&mut self, shard: ShardId, bytes: usize) -> Vec<(ShardId, Waiting)> {
        self.bytes -= bytes;
        if let Some(own) = self.of.get_mut(&shard) {
            *own -= bytes;
            if *own == 0 {
                self.of.remove(&shard);
            }
        }
        let behind = (Bound::Excluded(self.last), Bound::Unbounded);
        let shards = self.waiting.range(behind).chain(self.waiting.range(..=self.last));
        let shards: Vec<_> = shards.map(|(shard, _)| *shard).collect();
        let mut turns = Vec::new();
        for shard in shards {
            while let Some(turn) = self.has_turn(shard) {
                self.last = shard;
                turns.push(turn);
            }
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 256 << 10;

    #[tokio::test]
    async fn shards_that_take_nothing_leave_room_to_all_others() {
        let ways = Ways::default();
        let (way, mut stuck) = (ways.to("n2:7412"), Vec::new());
        for shard in 1..=16 {
            let before = stuck.len();
            while let Ok(room) = way.room(ShardId(shard), FRAME).try_recv() {
                stuck.push(room);
            }
            assert!(stuck.len() - before >= 3, "shard {shard} has a part");
        }
        let taken = stuck.len() * FRAME;
        assert!(taken < BYTES_MAX, "{taken}");
        // One that goes on has several frames on their way, however often.
        for _ in 0..100 {
            let room = (0..3).map(|_| way.room(ShardId(17), FRAME).try_recv());
            assert!(room.collect::<Vec<_>>().iter().all(Result::is_ok));
        }
        // A shard that waits goes on when its own has gone, and not before; another node is another way.
        let mut waiting = way.room(ShardId(1), FRAME);
        assert!(waiting.try_recv().is_err());
        assert!(ways.to("n3:7412").room(ShardId(1), FRAME).try_recv().is_ok());
        stuck.drain(..40);
        assert!(waiting.try_recv().is_ok());
        // The largest frame is not too large where nothing else of its shard is on its way.
        assert!(ways.to("n2:7412").room(ShardId(18), 2 * BYTES_MAX).try_recv().is_ok());
        drop(stuck);
        assert_eq!(way.in_flight.borrow().bytes, 0);
        assert!(way.in_flight.borrow().of.is_empty());
    }

    #[tokio::test]
    async fn those_that_wait_have_their_turn_one_after_the_other() {
        let way = Way::default();
        let mut sent: Vec<_> =
            std::iter::from_fn(|| way.room(ShardId(1), FRAME).try_recv().ok()).collect();
        let mut waiting: Vec<_> = (0..3).map(|_| way.room(ShardId(1), FRAME)).collect();
        let given_up = waiting.remove(1);
        drop(given_up);
        // As often as there is room, and never the second before the first.
        for first in 0..2 {
            assert!(waiting.iter_mut().all(|room| room.try_recv().is_err()));
            sent.pop();
            sent.push(
                waiting.remove(0).try_recv().unwrap_or_else(|_| panic!("{first} has its turn")),
            );
        }
        // One shard that waits keeps no other from its turn.
        let mut held: Vec<_> =
            std::iter::from_fn(|| way.room(ShardId(2), FRAME).try_recv().ok()).collect();
        let mut behind = [way.room(ShardId(1), FRAME), way.room(ShardId(2), FRAME)];
        held.clear();
        assert!(behind[1].try_recv().is_ok());
        sent.clear();
        assert!(behind[0].try_recv().is_ok());
        drop(behind);
        assert_eq!(way.in_flight.borrow().bytes, 0);
        assert!(way.in_flight.borrow().waiting.is_empty());
    }
}
