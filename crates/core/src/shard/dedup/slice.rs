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
    /// Positions in `ids`, each by its hash, or at the next free place behind that, with some bits of the
    /// hash: whoever looks for an id that is not there, as mostly, does not look at others.
    table: Vec<u32>,
    /// Mixed into the place of a hash. It is the log time at which the table was made, so that nobody can
    /// collect ids beforehand which would all lie in one place.
    salt: u64,
}

/// Ids of a slice, at most.
pub(in crate::shard) const IDS_MAX: usize = 1 << POSITION_BITS;
const POSITION_BITS: u32 = 17;
/// Bits of a hash in a place of the table are never all set, so this is none.
const FREE: u32 = u32::MAX;
const BITS_MAX: u32 = (FREE >> POSITION_BITS) - 1;
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
        let entry = self.table[self.place_of(hash)];
        (entry != FREE).then(|| position(entry))
    }

    /// Of each hash that an id has come under: its index, and the position of the id that has come last.
    ///
    /// The table is read for all of them before any is looked at closer: a miss of the cache costs little
    /// beside the others that are under way with it.
    pub(super) fn find_all(
        &self,
        hashes: &[Option<IdHash>],
        entries: &mut Vec<u32>,
        mut found: impl FnMut(usize, usize),
    ) {
        if self.table.is_empty() {
            return;
        }
        entries.clear();
        let entry = |hash: &IdHash| self.table[self.first_place(*hash).0];
        entries.extend(hashes.iter().map(|hash| hash.as_ref().map_or(FREE, entry)));
        for (index, entry) in entries.iter().enumerate() {
            if *entry != FREE
                && let Some(at) = hashes[index].and_then(|hash| self.find(hash))
            {
                found(index, at);
            }
        }
    }

    /// Where the table has this hash, or has room for it: there is always some.
    fn place_of(&self, hash: IdHash) -> usize {
        let (mut place, bits) = self.first_place(hash);
        loop {
            let entry = self.table[place];
            let is_it = || self.ids[position(entry)].hash == hash;
            if entry == FREE || entry >> POSITION_BITS == bits && is_it() {
                return place;
            }
            place += 1;
            if place == self.table.len() {
                place = 0;
            }
        }
    }

    fn make_table(&mut self, room: usize, now: Timestamp) {
        self.ids.reserve_exact(room - self.ids.len());
        self.table = vec![FREE; 2 * room];
        self.salt = now.0 as u64;
        (0..self.ids.len()).for_each(|at| self.place(at));
    }

    /// Enters the id at this position: in the place of an earlier one with its hash, or in a free one.
    fn place(&mut self, at: usize) {
        let hash = self.ids[at].hash;
        let (_, bits) = self.first_place(hash);
        let place = self.place_of(hash);
        self.table[place] = bits << POSITION_BITS | at as u32;
    }

    /// Where to look first, and the bits of the hash that are kept there.
    fn first_place(&self, hash: IdHash) -> (usize, u32) {
        const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
        let [low, high] = hash.words();
        let product = u128::from(low ^ self.salt) * u128::from(high ^ MIX);
        let mixed = (product as u64) ^ (product >> 64) as u64;
        let place = ((u128::from(mixed) * self.table.len() as u128) >> 64) as usize;
        // The lowest bits; the place comes from the highest.
        (place, (mixed as u32 & (FREE >> POSITION_BITS)).min(BITS_MAX))
    }
}

fn position(entry: u32) -> usize {
    entry as usize % IDS_MAX
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
    fn the_last_place_of_a_full_slice_is_none_that_is_free() {
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let hash = |n: u64| IdHash(ODD.wrapping_mul(n.into()).to_le_bytes());
        let id = |n| HeldId { hash: hash(n), offset: Offset(n), ts: Timestamp(0), payload: 0 };
        let slice = Slice::closed((0..IDS_MAX as u64).map(id).collect());
        for n in 0..IDS_MAX {
            assert_eq!(slice.find(hash(n as u64)), Some(n));
        }
        let all = slice.table.iter().filter(|entry| **entry != FREE).count();
        assert_eq!(all, IDS_MAX);
        // However the bits of a hash come out.
        for last in [BITS_MAX - 1, BITS_MAX] {
            assert_ne!(last << POSITION_BITS | (IDS_MAX as u32 - 1), FREE);
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
