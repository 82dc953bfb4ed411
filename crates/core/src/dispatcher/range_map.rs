//! Something about each of many runs of offsets.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use railgun_types::{Offset, OffsetRange};

/// Disjoint runs with a value each. They are kept by their ends: members settle from the front, and what
/// is left of a run then stays where it is.
#[derive(Clone, Debug)]
pub(super) struct RangeMap<V> {
    by_end: BTreeMap<Offset, (Offset, V)>,
}

/// A part that was cut out of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut<V> {
    /// The run as it was.
    pub(super) run: OffsetRange,
    /// What was cut out of it.
    pub(super) part: OffsetRange,
    pub(super) value: V,
}

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self { by_end: BTreeMap::new() }
    }
}

impl<V: Clone + PartialEq> RangeMap<V> {
    /// How many runs there are.
    pub(super) fn len(&self) -> usize {
        self.by_end.len()
    }

    /// All runs, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (OffsetRange, &V)> {
        self.by_end.iter().map(|(&end, (start, value))| (OffsetRange::new(*start, end), value))
    }

    /// The run that holds `offset`, or the first one behind it.
    pub(super) fn at_or_behind(&self, offset: Offset) -> Option<(OffsetRange, &V)> {
        let (&end, (start, value)) = self.by_end.range((Excluded(offset), Unbounded)).next()?;
        Some((OffsetRange::new(*start, end), value))
    }

    /// The run that holds `offset`.
    pub(super) fn at(&self, offset: Offset) -> Option<(OffsetRange, &V)> {
        self.at_or_behind(offset).filter(|(run, _)| run.start <= offset)
    }

    /// Adds a run where there is none.
    pub(super) fn insert(&mut self, run: OffsetRange, value: V) {
        debug_assert!(!run.is_empty(), "nothing has no value");
        debug_assert!(self.at_or_behind(run.start).is_none_or(|(next, _)| run.end <= next.start));
        self.by_end.insert(run.end, (run.start, value));
    }

    /// Adds a run where there is none. It grows together with the one before it if that has the same value.
    pub(super) fn insert_joined(&mut self, run: OffsetRange, value: V) {
        let before = self.by_end.get(&run.start).filter(|(_, before)| *before == value);
        let start = before.map_or(run.start, |(start, _)| *start);
        if start < run.start {
            self.by_end.remove(&run.start);
        }
        self.insert(OffsetRange::new(start, run.end), value);
    }

    /// Cuts out the first part that lies in `range`; again and again, until nothing does.
    pub(super) fn cut_first(&mut self, range: OffsetRange) -> Option<Cut<V>> {
        let (&end, (start, value)) =
            self.by_end.range_mut((Excluded(range.start), Unbounded)).next()?;
        let run = OffsetRange::new(*start, end);
        let part = run.and(range);
        if part.is_empty() {
            return None;
        }
        let value = value.clone();
        if part.end < run.end {
            *start = part.end;
        } else {
            self.by_end.remove(&end);
        }
        if run.start < part.start {
            self.by_end.insert(part.start, (run.start, value.clone()));
        }
        Some(Cut { run, part, value })
    }

    /// Forgets what lies in `range`.
    pub(super) fn remove(&mut self, range: OffsetRange) {
        while self.cut_first(range).is_some() {}
    }

    /// Keeps only runs with such values.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&V) -> bool) {
        self.by_end.retain(|_, (_, value)| is_kept(value));
    }

    /// Forgets the first run.
    pub(super) fn pop_first(&mut self) {
        self.by_end.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end))
    }

    fn runs(map: &RangeMap<char>) -> Vec<(u64, u64, char)> {
        map.iter().map(|(run, value)| (run.start.0, run.end.0, *value)).collect()
    }

    #[test]
    fn parts_are_cut_out_of_runs_and_equal_neighbours_grow_together() {
        let mut map = RangeMap::default();
        map.insert(range(0, 10), 'a');
        map.insert_joined(range(10, 12), 'a');
        map.insert_joined(range(12, 20), 'b');
        assert_eq!(runs(&map), [(0, 12, 'a'), (12, 20, 'b')]);
        let cut = |run, part, value| Some(Cut { run, part, value });
        assert_eq!(map.cut_first(range(3, 5)), cut(range(0, 12), range(3, 5), 'a'));
        assert_eq!(runs(&map), [(0, 3, 'a'), (5, 12, 'a'), (12, 20, 'b')]);
        assert_eq!(map.cut_first(range(3, 5)), None);
        assert_eq!(map.cut_first(range(0, 6)), cut(range(0, 3), range(0, 3), 'a'));
        assert_eq!(map.cut_first(range(0, 6)), cut(range(5, 12), range(5, 6), 'a'));
        assert_eq!(map.at(Offset(5)), None);
        assert_eq!(map.at_or_behind(Offset(5)), Some((range(6, 12), &'a')));
        map.remove(range(8, 15));
        assert_eq!(runs(&map), [(6, 8, 'a'), (15, 20, 'b')]);
        map.pop_first();
        assert_eq!((runs(&map), map.len()), (vec![(15, 20, 'b')], 1));
    }
}
