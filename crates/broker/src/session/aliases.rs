//! The streams that a publisher has bound, by the numbers its client gave them.

use std::collections::BTreeMap;

use railgun_types::StreamUid;
use railgun_types::limits::PUBLISHER_STREAMS;

/// The table may have this many places for each bound stream, and as many to begin with: a client
/// that binds its streams in any order finds them all in it, and one that leaves wide gaps pays
/// with slow look-ups, not we with memory.
const PLACES_PER_STREAM: usize = 8;

/// A stream bound to an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// The place of its shard in the publisher's list.
    pub(super) shard: usize,
    pub(super) stream: StreamUid,
    pub(super) message_bytes_max: u32,
    /// A batch was refused, and none was appended since: what comes after it has broken order.
    pub(super) broken: bool,
    /// A batch was appended, or nobody knows: the shard may remember the producer.
    pub(super) appended: bool,
}

/// See the module. Each message of a publisher with many streams is looked up here, so clients that
/// count their streams from 0, as ours does, are served from a table.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    table: Vec<Option<Bound>>,
    /// Those beyond the table.
    rest: BTreeMap<u32, Bound>,
    /// Streams in both.
    count: usize,
}

impl Aliases {
    pub(super) fn get(&self, alias: u32) -> Option<&Bound> {
        match self.table.get(alias as usize) {
            Some(Some(bound)) => Some(bound),
            _ => self.rest.get(&alias),
        }
    }

    pub(super) fn get_mut(&mut self, alias: u32) -> Option<&mut Bound> {
        match self.table.get_mut(alias as usize) {
            Some(Some(bound)) => Some(bound),
            _ => self.rest.get_mut(&alias),
        }
    }

    /// What the alias stood for; from now on it stands for nothing.
    pub(super) fn remove(&mut self, alias: u32) -> Option<Bound> {
        let in_table = self.table.get_mut(alias as usize).and_then(Option::take);
        let removed = in_table.or_else(|| self.rest.remove(&alias))?;
        self.count -= 1;
        if self.count == 0 {
            // A table that was once large is not kept for nobody.
            self.table = Vec::new();
        }
        Some(removed)
    }

    /// Replaces what the alias stood for.
    pub(super) fn insert(&mut self, alias: u32, bound: Bound) {
        self.remove(alias);
        self.count += 1;
        let place = alias as usize;
        if place >= PLACES_PER_STREAM * self.count {
            self.rest.insert(alias, bound);
            return;
        }
        if place >= self.table.len() {
            self.table.resize(place + 1, None);
        }
        if let Some(free) = self.table.get_mut(place) {
            *free = Some(bound);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= PUBLISHER_STREAMS
    }

    /// All of them, in no particular order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Bound> {
        self.table.iter().flatten().chain(self.rest.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(shard: usize) -> Bound {
        let (stream, message_bytes_max) = (StreamUid([1; 16]), 10);
        Bound { shard, stream, message_bytes_max, broken: false, appended: false }
    }

    #[test]
    fn any_alias_stands_for_what_was_bound_last() {
        // Backwards, forwards and far apart; a map tells what is right.
        let mut model = BTreeMap::new();
        let mut aliases = Aliases::default();
        let mut number = 1_u32;
        for step in 0..4_000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let alias = match step % 4 {
                0 => step / 4,
                1 => 700 - step / 8,
                2 => number % 3_000,
                _ => number,
            };
            if number & 0x7000 == 0 {
                assert_eq!(aliases.remove(alias), model.remove(&alias));
            } else {
                aliases.insert(alias, bound(step as usize));
                model.insert(alias, bound(step as usize));
            }
            assert_eq!(aliases.count, model.len());
        }
        for alias in (0..4_000).chain(model.keys().copied()) {
            assert_eq!(aliases.get(alias), model.get(&alias), "{alias}");
            assert_eq!(aliases.get_mut(alias).cloned(), model.get(&alias).cloned(), "{alias}");
        }
        let mut values: Vec<_> = aliases.values().map(|bound| bound.shard).collect();
        let mut expected: Vec<_> = model.values().map(|bound| bound.shard).collect();
        values.sort_unstable();
        expected.sort_unstable();
        assert_eq!(values, expected);
    }

    #[test]
    fn gaps_take_no_memory() {
        let mut aliases = Aliases::default();
        for alias in (0..1_024).map(|number| number << 22) {
            aliases.insert(alias, bound(0));
        }
        assert_eq!(aliases.count, 1_024);
        assert!(aliases.table.len() <= PLACES_PER_STREAM * aliases.count);
        // A client that counts has all in the table.
        let mut aliases = Aliases::default();
        (0..1_000).for_each(|alias| aliases.insert(alias, bound(0)));
        assert!(aliases.rest.is_empty());
    }

    #[test]
    fn what_was_freed_takes_no_memory() {
        // One stream at a time, under numbers that never come again.
        let mut aliases = Aliases::default();
        for alias in 0..200_000 {
            aliases.insert(alias, bound(0));
            assert_eq!(aliases.remove(alias), Some(bound(0)));
            assert_eq!(aliases.remove(alias), None);
        }
        assert_eq!((aliases.count, aliases.table.capacity(), aliases.rest.len()), (0, 0, 0));
    }
}
