//! A set of offsets, kept as its runs.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::BytesMut;
use railgun_types::{ByteCursor, Malformed, Offset, OffsetRange};

use crate::codec::{self, list, put_list};

/// Offsets as disjoint runs that do not touch. What is done with a run costs O(log n) of the number of
/// runs, and for each run that goes away by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetSet {
    /// Ends by starts.
    runs: BTreeMap<Offset, Offset>,
    /// Offsets in all runs.
    len: u64,
}

/// Fewest bytes of a run.
const RUN_BYTES_MIN: usize = 2;

impl OffsetSet {
    /// Offsets in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Its runs.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Its runs, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = OffsetRange> {
        self.runs.iter().map(|(start, end)| OffsetRange::new(*start, *end))
    }

    /// The run that begins first.
    #[must_use]
    pub fn first(&self) -> Option<OffsetRange> {
        self.runs.first_key_value().map(|(start, end)| OffsetRange::new(*start, *end))
    }

    /// Whether `offset` is in it.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.run_of(offset).is_some()
    }

    /// The run that `offset` is in.
    #[must_use]
    pub fn run_of(&self, offset: Offset) -> Option<OffsetRange> {
        let (start, end) = self.runs.range(..=offset).next_back()?;
        Some(OffsetRange::new(*start, *end)).filter(|run| run.contains(offset))
    }

    /// The first run that begins at or behind `offset`.
    #[must_use]
    pub fn run_from(&self, offset: Offset) -> Option<OffsetRange> {
        let (start, end) = self.runs.range(offset..).next()?;
        Some(OffsetRange::new(*start, *end))
    }

    /// The first offset at or behind `from` that is not in it.
    #[must_use]
    pub fn first_gap(&self, from: Offset) -> Offset {
        self.run_of(from).map_or(from, |run| run.end)
    }

    /// What is both in it and in `range`, in order.
    pub fn within(&self, range: OffsetRange) -> impl Iterator<Item = OffsetRange> {
        let first = self.run_of(range.start).map_or(range.start, |run| run.start);
        let end = if range.is_empty() { first } else { range.end.max(first) };
        let runs = self.runs.range(first..end);
        runs.map(move |(start, end)| OffsetRange::new(*start, *end).and(range))
    }

    /// What is in `range` and not in it, in order.
    pub fn missing(&self, range: OffsetRange) -> impl Iterator<Item = OffsetRange> {
        let mut from = range.start;
        let end = OffsetRange::new(range.end, range.end);
        let runs = self.within(range).chain((!range.is_empty()).then_some(end));
        runs.filter_map(move |run| {
            let gap = OffsetRange::new(from, run.start);
            from = run.end;
            Some(gap).filter(|gap| !gap.is_empty())
        })
    }

    /// Adds all of `range`; how many were not in it.
    pub fn insert(&mut self, range: OffsetRange) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end, mut had) = (range.start, range.end, 0);
        // The last run that begins before the range may reach into it, or touch it.
        if let Some((&before, reaches)) = self.runs.range_mut(..=start).next_back()
            && *reaches >= start
        {
            if *reaches >= end {
                return 0;
            }
            had = reaches.0 - start.0;
            start = before;
        }
        while let Some((&next, &reaches)) =
            self.runs.range((Bound::Excluded(start), Bound::Included(end))).next()
        {
            had += reaches.min(range.end).0 - next.0.min(range.end.0);
            end = end.max(reaches);
            self.runs.remove(&next);
        }
        self.runs.insert(start, end);
        let added = range.len() - had;
        self.len += added;
        added
    }

    /// Takes all of `range` out; how many were in it.
    pub fn remove(&mut self, range: OffsetRange) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let mut removed = 0;
        if let Some((_, reaches)) = self.runs.range_mut(..range.start).next_back()
            && *reaches > range.start
        {
            let end = std::mem::replace(reaches, range.start);
            removed += end.min(range.end).0 - range.start.0;
            if end > range.end {
                self.runs.insert(range.end, end);
            }
        }
        while let Some((&start, &end)) = self.runs.range(range.start..range.end).next() {
            self.runs.remove(&start);
            removed += end.min(range.end).0 - start.0;
            if end > range.end {
                self.runs.insert(range.end, end);
            }
        }
        self.len -= removed;
        removed
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the run that begins first out.
    pub fn pop_first(&mut self) -> Option<OffsetRange> {
        let (start, end) = self.runs.pop_first()?;
        let run = OffsetRange::new(start, end);
        self.len -= run.len();
        Some(run)
    }

    /// Writes the runs, each as its distance from the end of the one before, and its length.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let mut end = 0;
        put_list(out, self.runs.iter(), |out, (from, to)| {
            codec::put_varints(out, [from.0.wrapping_sub(end), to.0.wrapping_sub(from.0)]);
            end = to.0;
        });
    }

    /// Reads runs that are not empty and do not touch.
    pub(crate) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let (mut before, mut total) = (None, 0);
        let runs = list(cursor, RUN_BYTES_MIN, |cursor| {
            let (gap, len) = (cursor.varint()?, cursor.varint()?);
            let start = before.unwrap_or(0_u64).checked_add(gap).ok_or(Malformed)?;
            let end = start.checked_add(len).ok_or(Malformed)?;
            if len == 0 || (gap == 0 && before.is_some()) {
                return Err(Malformed);
            }
            (before, total) = (Some(end), total + len);
            Ok((Offset(start), Offset(end)))
        })?;
        Ok(Self { runs: runs.into_iter().collect(), len: total })
    }
}

impl FromIterator<OffsetRange> for OffsetSet {
    fn from_iter<I: IntoIterator<Item = OffsetRange>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end))
    }

    fn runs(set: &OffsetSet) -> Vec<(u64, u64)> {
        set.iter().map(|run| (run.start.0, run.end.0)).collect()
    }

    #[test]
    fn runs_that_touch_become_one() {
        let mut set = OffsetSet::default();
        assert_eq!([range(5, 7), range(9, 10), range(3, 3)].map(|it| set.insert(it)), [2, 1, 0]);
        assert_eq!(runs(&set), [(5, 7), (9, 10)]);
        assert_eq!(set.insert(range(7, 9)), 2);
        assert_eq!(runs(&set), [(5, 10)]);
        assert_eq!(set.insert(range(6, 8)), 0);
        assert_eq!(set.insert(range(0, 20)), 15);
        assert_eq!(runs(&set), [(0, 20)]);
        assert_eq!(set.remove(range(4, 6)), 2);
        assert_eq!(runs(&set), [(0, 4), (6, 20)]);
        assert_eq!(
            (set.len(), set.first_gap(Offset(0)), set.first_gap(Offset(4))),
            (18, Offset(4), Offset(4))
        );
        // All there can be.
        assert_eq!(set.insert(range(0, u64::MAX)), u64::MAX - 18);
        assert_eq!(set.len(), u64::MAX);
    }

    #[test]
    fn a_set_has_one_encoding() {
        let decoded = |bytes: &[u8]| OffsetSet::decode(&mut ByteCursor::new(bytes));
        assert_eq!(decoded(&[2, 0, 2, 1, 3]).as_ref().map(runs), Ok(vec![(0, 2), (3, 6)]));
        // Runs that touch, an empty one, one that passes the end of the offsets.
        assert_eq!(decoded(&[2, 0, 2, 0, 3]), Err(Malformed));
        assert_eq!(decoded(&[1, 0, 0]), Err(Malformed));
        let last = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1];
        assert_eq!(decoded(&last), Err(Malformed));
    }

    fn any_range() -> impl Strategy<Value = OffsetRange> {
        (0..60_u64, 0..12_u64).prop_map(|(start, len)| range(start, start + len))
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((any::<bool>(), any_range(), any_range()), 0..60)) {
            let (mut set, mut model) = (OffsetSet::default(), BTreeSet::new());
            for (adds, changed, looked) in steps {
                if adds {
                    let new = changed.iter().filter(|offset| model.insert(*offset)).count();
                    prop_assert_eq!(set.insert(changed), new as u64);
                } else {
                    let gone = changed.iter().filter(|offset| model.remove(offset)).count();
                    prop_assert_eq!(set.remove(changed), gone as u64);
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert_eq!(set.is_empty(), model.is_empty());
                prop_assert_eq!(set.iter().flat_map(|run| run.iter()).collect::<BTreeSet<_>>(), model.clone());
                // One form of each set.
                prop_assert_eq!(&set, &model.iter().map(|offset| OffsetRange::single(*offset)).collect());
                prop_assert!(runs(&set).is_sorted_by(|a, b| a.1 < b.0));
                prop_assert_eq!(set.first().map(|run| run.start), model.first().copied());
                for offset in looked.iter() {
                    prop_assert_eq!(set.contains(offset), model.contains(&offset));
                    let gap = (offset.0..).map(Offset).find(|offset| !model.contains(offset));
                    prop_assert_eq!(Some(set.first_gap(offset)), gap);
                    let behind = set.iter().find(|run| run.start >= offset);
                    prop_assert_eq!(set.run_from(offset), behind);
                }
                let (inside, outside): (Vec<_>, Vec<_>) = looked.iter().partition(|it| model.contains(it));
                let offsets = |ranges: Vec<OffsetRange>| ranges.iter().flat_map(OffsetRange::iter).collect::<Vec<_>>();
                prop_assert_eq!(offsets(set.within(looked).collect()), inside);
                prop_assert_eq!(offsets(set.missing(looked).collect()), outside);
                prop_assert!(set.within(looked).all(|range| !range.is_empty()));
                let mut out = BytesMut::new();
                set.encode(&mut out);
                let mut cursor = ByteCursor::new(&out);
                prop_assert_eq!(OffsetSet::decode(&mut cursor), Ok(set.clone()));
                prop_assert_eq!(cursor.remaining(), 0);
            }
            if let Some(first) = set.first() {
                prop_assert_eq!(set.pop_first(), Some(first));
                prop_assert_eq!(set.len(), model.len() as u64 - first.len());
            }
        }

        #[test]
        fn any_bytes_are_an_error_or_a_set(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut cursor = ByteCursor::new(&bytes);
            if let Ok(set) = OffsetSet::decode(&mut cursor) {
                let mut out = BytesMut::new();
                set.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..bytes.len() - cursor.remaining()]);
                prop_assert_eq!(set.len(), set.iter().map(|run| run.len()).sum::<u64>());
            }
        }
    }
}
