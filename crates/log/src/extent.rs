//! Which entries a file holds, and where: a sparse index with a point every few KiB.

/// Least distance of two points in bytes.
pub(crate) const POINT_EVERY: u64 = 4 << 10;

/// Place of an entry's frame: its index relative to the extent's start, and its position in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) index: u32,
    pub(crate) position: u32,
}

/// Live entries `[start, next)` of one file.
///
/// Walking the frames from a point gives ascending indices up to the next *break*: a place at which
/// the log was cut and went on with an index it had had before. Each break has a point of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) next: u64,
    /// Nothing in earlier files is part of the log: it went on behind indices it never held.
    pub(crate) severed: bool,
    /// End of the file's valid bytes.
    pub(crate) end: u64,
    pub(crate) points: Vec<Point>,
    /// Indices, relative to `start`, at which a walk must jump to the point of that index.
    pub(crate) breaks: Vec<u32>,
    /// The next entry begins behind a cut.
    cut: bool,
}

/// Where to walk for an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Position of a frame.
    pub(crate) position: u64,
    /// Index of that frame.
    pub(crate) index: u64,
    /// The walk gives indices below this.
    pub(crate) until: u64,
    /// Position that no frame of the walk passes.
    pub(crate) end: u64,
}

impl Extent {
    /// Of a file that was begun when `first` was the next index, and whose header ends at `end`.
    pub(crate) fn new(first: u64, end: u64) -> Self {
        Self { start: first, next: first, end, ..Self::default() }
    }

    pub(crate) fn from_parts(
        range: (u64, u64),
        severed: bool,
        end: u64,
        points: Vec<Point>,
        breaks: Vec<u32>,
    ) -> Self {
        Self { start: range.0, next: range.1, severed, end, points, breaks, cut: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.next
    }

    pub(crate) fn contains(&self, index: u64) -> bool {
        (self.start..self.next).contains(&index)
    }

    /// An entry was written at `position`.
    pub(crate) fn entry(&mut self, index: u64, position: u64) {
        if index != self.next {
            self.jump(index);
        }
        let relative = (index - self.start) as u32;
        let point = Point { index: relative, position: position as u32 };
        let far = |last: &Point| u64::from(last.position) + POINT_EVERY <= position;
        if self.cut || self.points.last().is_none_or(far) {
            self.points.push(point);
        }
        if self.cut && relative > 0 {
            self.breaks.push(relative);
        }
        self.cut = false;
        self.next = index + 1;
    }

    /// The log was cut: `next` is its next index.
    pub(crate) fn truncate(&mut self, next: u64) {
        if next < self.start {
            self.restart(next);
        } else {
            self.clip(next);
        }
        self.cut = true;
    }

    /// A later file holds the entries from `next` on.
    pub(crate) fn clip(&mut self, next: u64) {
        if next >= self.next {
            return;
        }
        if next <= self.start {
            // Where it began still says which of the indices are not in later files.
            self.restart(next.min(self.start));
            return;
        }
        let relative = (next - self.start) as u32;
        self.next = next;
        self.points.truncate(self.points.partition_point(|point| point.index < relative));
        self.breaks.truncate(self.breaks.partition_point(|index| *index < relative));
    }

    /// The log goes on at `next`, behind indices it never held.
    pub(crate) fn jump(&mut self, next: u64) {
        self.restart(next);
        self.severed = true;
    }

    fn restart(&mut self, next: u64) {
        self.start = next;
        self.next = next;
        self.points.clear();
        self.breaks.clear();
        self.cut = false;
    }

    /// How to reach `index`, which must be in the extent, and go on to indices below `until` at most.
    pub(crate) fn walk(&self, index: u64, until: u64) -> Option<Walk> {
        if !self.contains(index) {
            return None;
        }
        let relative = (index - self.start) as u32;
        let point = self.points.partition_point(|point| point.index <= relative).checked_sub(1)?;
        let point = self.points[point];
        let following = self.breaks.partition_point(|index| *index <= relative);
        let broken =
            self.breaks.get(following).map_or(self.next, |next| self.start + u64::from(*next));
        let until = until.min(broken);
        Some(Walk {
            position: point.position.into(),
            index: self.start + u64::from(point.index),
            until,
            end: self.end_before(until),
        })
    }

    /// The same, as far as the entries lie within `bytes` of the file, to within one step of the
    /// points; none if that is not one.
    pub(crate) fn walk_within(&self, index: u64, until: u64, bytes: u64) -> Option<Walk> {
        let walk = self.walk(index, until)?;
        let reach = walk.position.saturating_add(bytes);
        if walk.end <= reach {
            return Some(walk);
        }
        let within = self.points.partition_point(|point| u64::from(point.position) <= reach);
        let last = self.points[within.checked_sub(1)?];
        let until = walk.until.min(self.start + u64::from(last.index));
        (until > index).then(|| Walk { until, end: self.end_before(until), ..walk })
    }

    /// A position that no entry below `until` passes, to within one step of the points.
    fn end_before(&self, until: u64) -> u64 {
        let relative = until.saturating_sub(self.start);
        let behind = self.points.partition_point(|point| u64::from(point.index) < relative);
        self.points.get(behind).map_or(self.end, |point| point.position.into())
    }

    /// Bytes of the file from about the entry `index` on, to within one step of the points.
    pub(crate) fn bytes_from(&self, index: u64, header: u64) -> u64 {
        if index >= self.next {
            return 0;
        }
        match self.walk(index, u64::MAX) {
            Some(walk) => self.end - walk.position,
            None => self.end.saturating_sub(header),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Extent {
        let mut extent = Extent::new(10, 200);
        for (index, position) in [(10, 264), (11, 3000), (12, 5000), (13, 9000), (14, 9090)] {
            extent.entry(index, position);
        }
        extent.end = 9200;
        extent
    }

    #[test]
    fn points_are_sparse_and_walks_begin_at_or_before_the_index() {
        let extent = filled();
        assert_eq!(extent.points.len(), 2, "10, and 12 as the first one 4 KiB on");
        let walk = extent.walk(14, 20).expect("in range");
        assert_eq!(walk, Walk { position: 5000, index: 12, until: 15, end: 9200 });
        assert_eq!(extent.walk(15, 20), None);
        assert_eq!(extent.walk(9, 20), None);
        // What is not asked for is not read either.
        let walk = extent.walk(10, 12).expect("in range");
        assert_eq!(walk, Walk { position: 264, index: 10, until: 12, end: 5000 });
        assert_eq!(extent.walk(10, 11).expect("in range").end, 5000);
    }

    #[test]
    fn a_walk_is_no_longer_than_the_bytes_asked_for() {
        let mut extent = Extent::new(10, 200);
        for (index, position) in [(10, 1000), (11, 9000), (12, 19_000), (13, 29_000)] {
            extent.entry(index, position);
        }
        extent.end = 39_000;
        let until = |index, bytes| extent.walk_within(index, 14, bytes).map(|walk| walk.until);
        assert_eq!(until(10, 38_000), Some(14), "all of them");
        assert_eq!(until(10, 37_999), Some(13), "the last one passes the bytes by one");
        assert_eq!(until(10, 18_000), Some(12));
        assert_eq!(until(10, 17_999), Some(11));
        assert_eq!(until(10, 7_999), None, "not one fits");
        assert_eq!(until(13, 9_999), None);
        assert_eq!(extent.walk_within(10, 14, 18_000).expect("two fit").end, 19_000);
        assert_eq!(extent.walk_within(10, 11, 18_000).expect("one is wanted").until, 11);
    }

    #[test]
    fn a_cut_makes_a_break_at_which_walks_end() {
        let mut extent = filled();
        extent.truncate(12);
        extent.entry(12, 9300);
        extent.end = 9400;
        // 11 is reached from 10, but the walk must not run into the old 12.
        assert_eq!(extent.walk(11, u64::MAX).expect("in range").until, 12);
        assert_eq!(extent.walk(12, u64::MAX).expect("in range").position, 9300);
        // A second cut at the same index replaces the break.
        extent.truncate(12);
        extent.entry(12, 9500);
        assert_eq!(extent.breaks, [2]);
        assert_eq!(extent.walk(12, u64::MAX).expect("in range").position, 9500);
    }

    #[test]
    fn a_cut_below_the_file_moves_its_start() {
        let mut extent = filled();
        extent.truncate(3);
        extent.entry(3, 9300);
        assert_eq!((extent.start, extent.next, extent.severed), (3, 4, false));
        assert_eq!(extent.walk(3, u64::MAX).expect("in range").position, 9300);
    }

    #[test]
    fn a_jump_severs_what_was_before() {
        let mut extent = filled();
        extent.jump(40);
        extent.entry(40, 9300);
        assert_eq!((extent.start, extent.next, extent.severed), (40, 41, true));
    }
}
