//! The streams that a publisher has bound, by the numbers its client gave them.

use std::collections::BTreeMap;

use railgun_types::StreamUid;
use railgun_types::limits::PUBLISHER_STREAMS;
use tokio::sync::OwnedSemaphorePermit;

/// The table may have this many places for each bound stream, and as many to begin with: a client
/// that binds its streams in any order finds them all in it, and one that leaves wide gaps pays
/// with slow look-ups, not we with memory.
const PLACES_PER_STREAM: usize = 8;
/// A table with so many places for each bound stream is made smaller.
const PLACES_MAX: usize = 2 * PLACES_PER_STREAM;

/// A stream bound to an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// The place of its shard in the publisher's list.
    pub(super) shard: usize,
    pub(super) stream: StreamUid,
    pub(super) message_bytes_max: u32,
    /// A batch was refused, and none was appended since: what comes after it has broken order.
    pub(super) broken: bool,
    /// Nothing more comes for it. It is freed when what is under way is answered.
    pub(super) leaving: bool,
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
    /// Room for them among all that the connection binds.
    places: Option<OwnedSemaphorePermit>,
}

impl Aliases {
    /// What it stands for, for what comes.
    pub(super) fn get(&self, alias: u32) -> Option<&Bound> {
        let bound = match self.table.get(alias as usize) {
            Some(Some(bound)) => Some(bound),
            _ => self.rest.get(&alias),
        };
        bound.filter(|bound| !bound.leaving)
    }

    /// Whether it stands for something, were it only for what is under way.
    pub(super) fn is_taken(&self, alias: u32) -> bool {
        matches!(self.table.get(alias as usize), Some(Some(_))) || self.rest.contains_key(&alias)
    }

    /// From now on it stands for nothing that comes; what it stood for.
    pub(super) fn leave(&mut self, alias: u32) -> Option<Bound> {
        let bound = self.get_mut(alias).filter(|bound| !bound.leaving)?;
        bound.leaving = true;
        Some(bound.clone())
    }

    /// What it stands for, for what is under way.
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
        drop(self.places.as_mut().and_then(|places| places.split(1)));
        if self.table.len() > PLACES_MAX * self.count {
            // One that was once large is not kept for few.
            let kept = (PLACES_PER_STREAM * self.count).min(self.table.len());
            let beyond = self.table.drain(kept..).zip(kept as u32..);
            self.rest.extend(beyond.filter_map(|(bound, alias)| Some((alias, bound?))));
            self.table.shrink_to_fit();
        }
        Some(removed)
    }

    /// Replaces what the alias stood for, in a place of its own.
    pub(super) fn insert(&mut self, alias: u32, bound: Bound, place: OwnedSemaphorePermit) {
        self.remove(alias);
        self.count += 1;
        match &mut self.places {
            Some(places) => places.merge(place),
            None => self.places = Some(place),
        }
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
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn bound(shard: usize) -> Bound {
        let (stream, message_bytes_max) = (StreamUid([1; 16]), 10);
        Bound { shard, stream, message_bytes_max, broken: false, leaving: false }
    }

    /// As the connection has for all its publishers.
    struct Places(Arc<Semaphore>);

    impl Places {
        fn new() -> Self {
            Self(Arc::new(Semaphore::new(PUBLISHER_STREAMS)))
        }

        fn take(&self) -> OwnedSemaphorePermit {
            Arc::clone(&self.0).try_acquire_owned().unwrap()
        }

        fn taken(&self) -> usize {
            PUBLISHER_STREAMS - self.0.available_permits()
        }
    }

    #[test]
    fn any_alias_stands_for_what_was_bound_last() {
        // Backwards, forwards and far apart; a map tells what is right.
        let mut model = BTreeMap::new();
        let (mut aliases, places) = (Aliases::default(), Places::new());
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
                aliases.insert(alias, bound(step as usize), places.take());
                model.insert(alias, bound(step as usize));
            }
            assert_eq!((aliases.count, places.taken()), (model.len(), model.len()));
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
        let (mut aliases, places) = (Aliases::default(), Places::new());
        for alias in (0..1_024).map(|number| number << 22) {
            aliases.insert(alias, bound(0), places.take());
        }
        assert_eq!(aliases.count, 1_024);
        assert!(aliases.table.len() <= PLACES_PER_STREAM * aliases.count);
        // A client that counts has all in the table.
        let (mut aliases, places) = (Aliases::default(), Places::new());
        (0..1_000).for_each(|alias| aliases.insert(alias, bound(0), places.take()));
        assert!(aliases.rest.is_empty());
    }

    #[test]
    fn what_was_freed_takes_no_memory() {
        // One stream at a time, under numbers that never come again.
        let (mut aliases, places) = (Aliases::default(), Places::new());
        for alias in 0..200_000 {
            aliases.insert(alias, bound(0), places.take());
            assert_eq!(aliases.remove(alias), Some(bound(0)));
            assert_eq!(aliases.remove(alias), None);
        }
        assert_eq!((aliases.count, aliases.table.capacity(), aliases.rest.len()), (0, 0, 0));
        // Many, of which few are left.
        for alias in 0..10_000 {
            aliases.insert(alias, bound(alias as usize), places.take());
        }
        for alias in (0..10_000).filter(|alias| alias % 100 != 99) {
            assert_eq!(aliases.remove(alias), Some(bound(alias as usize)));
        }
        for alias in 0..10_000 {
            let left = (alias % 100 == 99).then(|| bound(alias as usize));
            assert_eq!(aliases.get(alias), left.as_ref(), "{alias}");
        }
        assert!(aliases.table.capacity() <= PLACES_MAX * aliases.count, "{}", aliases.count);
        drop(aliases);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn an_alias_that_leaves_stands_for_what_is_under_way() {
        let (mut aliases, places) = (Aliases::default(), Places::new());
        assert_eq!(aliases.leave(7), None);
        aliases.insert(7, bound(1), places.take());
        assert!(aliases.leave(7).is_some());
        assert_eq!((aliases.leave(7), aliases.get(7)), (None, None));
        assert!(aliases.is_taken(7) && aliases.get_mut(7).is_some());
        aliases.remove(7);
        assert!(!aliases.is_taken(7) && aliases.get_mut(7).is_none());
    }
}
