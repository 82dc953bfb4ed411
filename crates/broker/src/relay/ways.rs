//! What all relays from this node to another one share: streams, and the window behind which the other
//! reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use railgun_net::peer::{PEER_STREAMS_MAX, PEER_WINDOW_BYTES};
use railgun_types::ShardId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

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

    /// Waits until this many bytes may go to the shard. Cancel safe.
    pub(super) async fn room(&self, shard: ShardId, bytes: usize) -> WayRoom {
        let mut changes = self.in_flight.subscribe();
        loop {
            let mut taken = false;
            self.in_flight.send_if_modified(|in_flight| {
                taken = in_flight.try_take(shard, bytes);
                // Nobody waits for this.
                false
            });
            if taken {
                return WayRoom { shard, bytes, in_flight: self.in_flight.clone() };
            }
            // Its sender is here.
            changes.changed().await.ok();
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
    in_flight: watch::Sender<InFlight>,
}

impl Drop for WayRoom {
    fn drop(&mut self) {
        self.in_flight.send_modify(|in_flight| in_flight.give_back(self.shard, self.bytes));
    }
}

/// Bytes that were sent and are not answered.
#[derive(Debug, Default)]
struct InFlight {
    bytes: usize,
    of: BTreeMap<ShardId, usize>,
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

    fn give_back(&mut self, shard: ShardId, bytes: usize) {
        self.bytes -= bytes;
        if let Some(own) = self.of.get_mut(&shard) {
            *own -= bytes;
            if *own == 0 {
                self.of.remove(&shard);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const FRAME: usize = 256 << 10;

    #[tokio::test]
    async fn shards_that_take_nothing_leave_room_to_all_others() {
        let ways = Ways::default();
        let (way, mut stuck) = (ways.to("n2:7412"), Vec::new());
        for shard in 1..=16 {
            let before = stuck.len();
            while let Some(room) = way.room(ShardId(shard), FRAME).now_or_never() {
                stuck.push(room);
            }
            assert!(stuck.len() - before >= 3, "shard {shard} has a part");
        }
        let taken = stuck.len() * FRAME;
        assert!(taken < BYTES_MAX, "{taken}");
        // One that goes on has several frames on their way, however often.
        for _ in 0..100 {
            let room = (0..3).map(|_| way.room(ShardId(17), FRAME).now_or_never());
            assert!(room.collect::<Vec<_>>().iter().all(Option::is_some));
        }
        // A shard that waits goes on when its own has gone, and not before; another node is another way.
        let mut waiting = Box::pin(way.room(ShardId(1), FRAME));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(ways.to("n3:7412").room(ShardId(1), FRAME).now_or_never().is_some());
        stuck.drain(..40);
        assert!((&mut waiting).now_or_never().is_some());
        // The largest frame is not too large where nothing else of its shard is on its way.
        assert!(ways.to("n2:7412").room(ShardId(18), 2 * BYTES_MAX).now_or_never().is_some());
        drop(stuck);
        assert_eq!(way.in_flight.borrow().bytes, 0);
        assert!(way.in_flight.borrow().of.is_empty());
    }
}
