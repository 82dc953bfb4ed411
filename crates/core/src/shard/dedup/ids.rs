//! A list of ids that grows at its end, and whose clones share all but the last piece of it.

use std::sync::Arc;

use railgun_types::{Offset, Timestamp};

use super::IdHash;

/// What is held of a message with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct HeldId {
    pub(in crate::shard) hash: IdHash,
    pub(in crate::shard) offset: Offset,
    pub(in crate::shard) ts: Timestamp,
    /// Half of the publisher's payload hash: it tells honest repeats from mistakes, nothing more.
    pub(in crate::shard) payload: u64,
}

/// Ids of a piece.
const PIECE: usize = 1_024;
/// For how many more there is room in a piece when it is full, at least, and when the list has others.
const ROOM_MIN: usize = 8;
const ROOM: usize = PIECE / 4;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::shard) struct Ids {
    /// All but the last are full.
    pieces: Vec<Arc<Vec<HeldId>>>,
}

impl Ids {
    pub(in crate::shard) fn len(&self) -> usize {
        let full = self.pieces.len().saturating_sub(1) * PIECE;
        full + self.pieces.last().map_or(0, |last| last.len())
    }

    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(in crate::shard) fn first(&self) -> Option<&HeldId> {
        self.pieces.first()?.first()
    }

    pub(in crate::shard) fn last(&self) -> Option<&HeldId> {
        self.pieces.last()?.last()
    }

    /// The one at this position, which is below its length.
    pub(in crate::shard) fn get(&self, at: usize) -> &HeldId {
        &self.pieces[at / PIECE][at % PIECE]
    }

    pub(in crate::shard) fn iter(&self) -> impl ExactSizeIterator<Item = &HeldId> {
        (0..self.len()).map(|at| self.get(at))
    }

    pub(super) fn push(&mut self, id: HeldId) {
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            let room = if self.pieces.is_empty() { ROOM_MIN } else { ROOM };
            self.pieces.push(Arc::new(Vec::with_capacity(room)));
        }
        let Some(last) = self.pieces.last_mut() else { return };
        let last = Arc::make_mut(last);
        if last.len() == last.capacity() {
            let more = (last.len() / 4).max(ROOM_MIN).min(PIECE - last.len());
            last.reserve_exact(more);
        }
        last.push(id);
    }

    /// Gives back the room for more.
    pub(super) fn shrink(&mut self) {
        if let Some(last) = self.pieces.last_mut() {
            Arc::make_mut(last).shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.pieces.iter().map(|piece| piece.capacity()).sum()
    }
}

impl FromIterator<HeldId> for Ids {
    fn from_iter<I: IntoIterator<Item = HeldId>>(ids: I) -> Self {
        let mut all = Self::default();
        ids.into_iter().for_each(|id| all.push(id));
        all
    }
}
