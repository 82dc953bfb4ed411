//! Ids that were appended one after another: an immutable part of a time box, but for its last one.

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

/// Ids in the order of their messages, and a table to find them by their hashes.
///
/// The table has two places of 4 bytes for each id there is room for, and room grows by a quarter: an id
/// takes 40 + 8 bytes in a closed slice, and a quarter more at most in an open one.
#[derive(Clone, Debug, Default)]
pub(in crate::shard) struct Slice {
    ids: Vec<HeldId>,
    /// Positions in `ids`, by the hash, or the next free place behind it.
    table: Vec<u32>,
    /// Mixed into the place of a hash. It is the log time at which the table was made, so that nobody can
    /// collect ids beforehand which would all lie in one place.
    salt: u64,
}

const FREE: u32 = u32::MAX;
/// Room that a slice begins with.
const ROOM_MIN: usize = 8;

impl Slice {
    /// A closed one.
    pub(in crate::shard) fn closed(ids: Vec<HeldId>) -> Self {
        let mut slice = Self { ids, table: Vec::new(), salt: 0 };
        slice.close();
        slice
    }

    pub(in crate::shard) fn ids(&self) -> &[HeldId] {
        &self.ids
    }

    /// Appends an id, which is not in the slice or counts no more there.
    pub(super) fn push(&mut self, id: HeldId) {
        if self.table.len() < 2 * (self.ids.len() + 1) {
            let room = (self.ids.len() + self.ids.len() / 4).max(self.ids.len() + ROOM_MIN);
            self.make_table(room, id.ts);
        }
        self.ids.push(id);
        self.place(self.ids.len() - 1);
    }

    /// Gives back the room for more.
    pub(super) fn close(&mut self) {
        let last = self.ids.last().map_or(Timestamp(0), |last| last.ts);
        self.ids.shrink_to_fit();
        self.make_table(self.ids.len(), last);
    }

    /// The position of the id that has come last under this hash.
    pub(super) fn find(&self, hash: IdHash) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let mut place = self.first_place(hash);
        loop {
            let at = self.table[place];
            if at == FREE {
                return None;
            }
            if self.ids[at as usize].hash == hash {
                return Some(at as usize);
            }
            place = (place + 1) % self.table.len();
        }
    }

    fn make_table(&mut self, room: usize, now: Timestamp) {
        self.ids.reserve_exact(room - self.ids.len());
        self.table = vec![FREE; 2 * room];
        self.salt = now.0 as u64;
        (0..self.ids.len()).for_each(|at| self.place(at));
    }

    /// Enters the id at this position: in the place of an earlier one with its hash, or in a free one,
    /// of which there always are some.
    fn place(&mut self, at: usize) {
        let hash = self.ids[at].hash;
        let mut place = self.first_place(hash);
        while self.table[place] != FREE && self.ids[self.table[place] as usize].hash != hash {
            place = (place + 1) % self.table.len();
        }
        self.table[place] = at as u32;
    }

    fn first_place(&self, hash: IdHash) -> usize {
        const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
        let [low, high] = hash.words();
        let product = u128::from(low ^ self.salt) * u128::from(high ^ MIX);
        let mixed = (product as u64) ^ (product >> 64) as u64;
        ((u128::from(mixed) * self.table.len() as u128) >> 64) as usize
    }
}

/// Where an id lies in the table depends on when the table was made, and does not count.
impl PartialEq for Slice {
    fn eq(&self, other: &Self) -> bool {
        self.ids == other.ids
    }
}

impl Eq for Slice {}

#[cfg(test)]
mod tests {
    use railgun_types::StreamUid;

    use super::*;

    fn held(id: u32, offset: u64) -> HeldId {
        let hash = IdHash::new(StreamUid([1; 16]), &id.to_le_bytes());
        HeldId { hash, offset: Offset(offset), ts: Timestamp(offset as i64 / 10), payload: 0 }
    }

    #[test]
    fn each_id_is_found_where_it_came_last_however_full_the_slice_is() {
        let mut slice = Slice::default();
        for n in 0..5_000u32 {
            assert_eq!(slice.find(held(n, 0).hash), None);
            slice.push(held(n, n.into()));
            assert_eq!(slice.find(held(n, 0).hash), Some(n as usize));
        }
        // Once more: the earlier one counts no longer.
        slice.push(held(7, 9_000));
        for slice in [slice.clone(), Slice::closed(slice.ids().to_vec())] {
            for n in 0..5_000u32 {
                let at = if n == 7 { 5_000 } else { n as usize };
                assert_eq!(slice.find(held(n, 0).hash), Some(at));
            }
            assert_eq!(slice.find(held(5_000, 0).hash), None);
        }
    }

    #[test]
    fn an_id_takes_at_most_64_bytes() {
        // DD-5
        let bytes = |slice: &Slice| {
            slice.ids.capacity() * size_of::<HeldId>() + slice.table.capacity() * size_of::<u32>()
        };
        let mut slice = Slice::default();
        for n in 0..100_000u32 {
            slice.push(held(n, n.into()));
            let ids = slice.ids().len();
            assert!(ids < 100 || bytes(&slice) <= ids * 64, "{} for {ids}", bytes(&slice));
        }
        slice.close();
        assert_eq!(bytes(&slice), 100_000 * 48);
    }
}
