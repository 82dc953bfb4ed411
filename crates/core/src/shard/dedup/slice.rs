//! Ids that were appended one after another: an immutable part of a time box, but for its last one.

use railgun_types::Timestamp;

use super::IdHash;
use super::ids::{HeldId, Ids};

/// Ids in the order of their messages, and a table to find them by their hashes, with a filter in front of it:
/// nearly all that is looked for is in no slice.
///
/// The table has at least four places of 4 bytes for three ids, and at most twice as many, the filter half a
/// byte for each place: beside its 40 bytes an id takes 9 in a closed slice, and at most 12 in an open one.
#[derive(Clone, Debug, Default)]
pub(in crate::shard) struct Slice {
    ids: Ids,
    /// Positions in `ids`, each by its hash, or at the next free place behind that, with some bits of the
    /// hash: whoever looks for an id that is not there, as mostly, does not look at others.
    table: Vec<u32>,
    /// Three bits of each id are set, in the word of its hash; those of one in thirty others, too.
    filter: Vec<u64>,
    /// Mixed into the place of a hash. It is the log time at which the table was made, so that nobody can
    /// collect ids beforehand which would all lie in one place.
    salt: u64,
}

/// Hashes that are looked for, and their order by what the filter is asked first.
#[derive(Debug)]
pub(in crate::shard) struct SortedHashes {
    pub(in crate::shard) hashes: Vec<IdHash>,
    order: Vec<(u64, u32)>,
}

impl SortedHashes {
    pub(in crate::shard) fn new(hashes: Vec<IdHash>) -> Self {
        // Fewer than a batch has bytes.
        let order = hashes.iter().zip(0..).map(|(hash, index)| (hash.words()[0], index));
        let mut order: Vec<_> = order.collect();
        order.sort_unstable();
        Self { hashes, order }
    }

    /// Whether one comes more than once, or seems to.
    pub(in crate::shard) fn has_repeats(&self) -> bool {
        self.order.windows(2).any(|pair| pair[0].0 == pair[1].0)
    }
}

/// Ids of a slice, at most.
pub(in crate::shard) const IDS_MAX: usize = 1 << POSITION_BITS;
const POSITION_BITS: u32 = 17;
/// Bits of a hash in a place of the table are never all set, so this is none.
const FREE: u32 = u32::MAX;
const BITS_MAX: u32 = (FREE >> POSITION_BITS) - 1;
/// Places of the smallest table, and places for each word of the filter.
const PLACES_MIN: usize = 16;
const PLACES_PER_WORD: usize = 16;

impl Slice {
    /// A closed one.
    pub(in crate::shard) fn closed(ids: Vec<HeldId>) -> Self {
        let mut slice = Self { ids: ids.into_iter().collect(), ..Self::default() };
        slice.close();
        slice
    }

    /// One that is to be as large as they become: its table is made once.
    pub(super) fn with_room(now: Timestamp) -> Self {
        let mut slice = Self::default();
        slice.make_table(2 * IDS_MAX, now);
        slice
    }

    pub(in crate::shard) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Appends ids, which are not in the slice or count no more there. All places are looked for before any is
    /// taken: a miss of the cache costs little beside others that are under way with it.
    pub(super) fn extend(&mut self, ids: &[HeldId]) {
        let Some(last) = ids.last() else { return };
        let count = self.ids.len() + ids.len();
        if 4 * count > 3 * self.table.len() {
            let least = (4 * count).div_ceil(3).max(2 * self.table.len()).max(PLACES_MIN);
            self.make_table(least, last.ts);
        }
        let first: Vec<_> = ids.iter().map(|id| self.first_place(id.hash)).collect();
        let seen: Vec<_> = first.iter().map(|(place, _)| self.table[*place]).collect();
        for ((id, (place, bits)), seen) in ids.iter().zip(first).zip(seen) {
            let at = self.ids.len();
            self.ids.push(*id);
            // One of these may have taken it meanwhile.
            if seen == FREE && self.table[place] == FREE {
                self.set(place, bits, at, id.hash);
            } else {
                self.place(at);
            }
        }
    }

    /// Gives back the room for more.
    pub(super) fn close(&mut self) {
        let last = self.ids.last().map_or(Timestamp(0), |last| last.ts);
        self.ids.shrink();
        let places = 2 * self.ids.len();
        if self.table.len() != places {
            self.make_table(places, last);
        }
    }

    /// Calls `found` with the index of each hash that an id has come under, and the position of the id that has
    /// come last. Asks the filter for all of them first, from one end of it to the other.
    pub(super) fn find_all(
        &self,
        wanted: &SortedHashes,
        possible: &mut Vec<u32>,
        mut found: impl FnMut(usize, usize),
    ) {
        if self.table.is_empty() {
            return;
        }
        // Written without a branch, which would be guessed wrong now and then.
        possible.resize(wanted.hashes.len(), 0);
        let mut count = 0;
        for (_, index) in &wanted.order {
            possible[count] = *index;
            let (word, bits) = self.filter_bits(wanted.hashes[*index as usize]);
            count += usize::from(self.filter[word] & bits == bits);
        }
        for index in &possible[..count] {
            let index = *index as usize;
            if let Some(at) = self.find(wanted.hashes[index]) {
                found(index, at);
            }
        }
    }

    /// The position of the id that has come last under this hash.
    fn find(&self, hash: IdHash) -> Option<usize> {
        let entry = self.table[self.place_of(hash)];
        (entry != FREE).then(|| position(entry))
    }

    /// Whoever collects ids whose bits are set has us look at the table, as without a filter: there is no salt.
    fn filter_bits(&self, hash: IdHash) -> (usize, u64) {
        let [low, high] = hash.words();
        let word = ((u128::from(low) * self.filter.len() as u128) >> 64) as usize;
        (word, 1 << (high % 64) | 1 << (high >> 6 & 63) | 1 << (high >> 12 & 63))
    }

    /// Where the table has this hash, or has room for it: there is always some.
    fn place_of(&self, hash: IdHash) -> usize {
        let (mut place, bits) = self.first_place(hash);
        loop {
            let entry = self.table[place];
            let is_it = || self.ids.get(position(entry)).hash == hash;
            if entry == FREE || entry >> POSITION_BITS == bits && is_it() {
                return place;
            }
            place += 1;
            if place == self.table.len() {
                place = 0;
            }
        }
    }

    fn make_table(&mut self, places: usize, now: Timestamp) {
        self.table = vec![FREE; places];
        self.filter = vec![0; places.div_ceil(PLACES_PER_WORD)];
        self.salt = now.0 as u64;
        (0..self.ids.len()).for_each(|at| self.place(at));
    }

    /// Enters the id at this position: in the place of an earlier one with its hash, or in a free one.
    fn place(&mut self, at: usize) {
        let hash = self.ids.get(at).hash;
        let (_, bits) = self.first_place(hash);
        self.set(self.place_of(hash), bits, at, hash);
    }

    fn set(&mut self, place: usize, bits: u32, at: usize, hash: IdHash) {
        self.table[place] = bits << POSITION_BITS | at as u32;
        let (word, bits) = self.filter_bits(hash);
        self.filter[word] |= bits;
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
    use railgun_types::{Offset, StreamUid};

    use super::*;

    fn held(id: u32, offset: u64) -> HeldId {
        let hash = IdHash::new(StreamUid([1; 16]), &id.to_le_bytes());
        HeldId { hash, offset: Offset(offset), ts: Timestamp(offset as i64 / 10), payload: 0 }
    }

    fn find(slice: &Slice, hash: IdHash) -> Option<usize> {
        let mut found = None;
        let wanted = SortedHashes::new(vec![hash]);
        slice.find_all(&wanted, &mut Vec::new(), |index, at| found = Some((index, at)));
        found.map(|(index, at)| {
            assert_eq!(index, 0);
            at
        })
    }

    #[test]
    fn ids_that_come_together_are_found_as_those_that_come_one_by_one() {
        let all: Vec<_> = (0..5_000).map(|n| held(n, n.into())).collect();
        let (mut together, mut singly) = (Slice::default(), Slice::default());
        for some in all.chunks(700) {
            together.extend(some);
            some.iter().for_each(|id| singly.extend(&[*id]));
        }
        assert_eq!(together, singly);
        let mut hashes: Vec<_> = all.iter().map(|id| id.hash).collect();
        hashes.extend((5_000..10_000).map(|n| held(n, 0).hash));
        let wanted = SortedHashes::new(hashes);
        assert!(!wanted.has_repeats());
        for slice in [together, singly] {
            let mut found = Vec::new();
            slice.find_all(&wanted, &mut Vec::new(), |index, at| found.push((index, at)));
            found.sort_unstable();
            assert!(found.into_iter().eq((0..5_000).map(|n| (n, n))));
        }
    }

    #[test]
    fn each_id_is_found_where_it_came_last_however_full_the_slice_is() {
        let mut slice = Slice::default();
        for n in 0..5_000u32 {
            assert_eq!(find(&slice, held(n, 0).hash), None);
            slice.extend(&[held(n, n.into())]);
            assert_eq!(find(&slice, held(n, 0).hash), Some(n as usize));
        }
        // Once more: the earlier one counts no longer.
        slice.extend(&[held(7, 9_000)]);
        for slice in [slice.clone(), Slice::closed(slice.ids().iter().copied().collect())] {
            for n in 0..5_000u32 {
                let at = if n == 7 { 5_000 } else { n as usize };
                assert_eq!(find(&slice, held(n, 0).hash), Some(at));
            }
            assert_eq!(find(&slice, held(5_000, 0).hash), None);
        }
    }

    #[test]
    fn the_last_place_of_a_full_slice_is_none_that_is_free() {
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let hash = |n: u64| IdHash(ODD.wrapping_mul(n.into()).to_le_bytes());
        let id = |n| HeldId { hash: hash(n), offset: Offset(n), ts: Timestamp(0), payload: 0 };
        let slice = Slice::closed((0..IDS_MAX as u64).map(id).collect());
        for n in 0..IDS_MAX {
            assert_eq!(find(&slice, hash(n as u64)), Some(n));
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
            let index = slice.table.capacity() * size_of::<u32>()
                + slice.filter.capacity() * size_of::<u64>();
            slice.ids.capacity() * size_of::<HeldId>() + index
        };
        let mut slice = Slice::default();
        for n in 0..100_000u32 {
            slice.extend(&[held(n, n.into())]);
            let ids = slice.ids().len();
            assert!(ids < 100 || bytes(&slice) <= ids * 64, "{} for {ids}", bytes(&slice));
        }
        slice.close();
        assert_eq!(bytes(&slice), 100_000 * 49);
    }
}
