//! Where in the log the records of a stream are. Derived from apply, never replicated by itself.

use std::collections::VecDeque;

use railgun_types::batch::RecordBatch;
use railgun_types::{Offset, StreamUid, Timestamp};

use crate::command::{Append, PartsCursor};

/// One batch of a stream in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexPoint {
    /// Offset of its first record.
    pub base: Offset,
    /// Its records.
    pub count: u32,
    /// Byte position of the item within the entry's payload.
    pub position: u32,
    /// The entry.
    pub log_index: u64,
    /// Log time of the records.
    pub ts: Timestamp,
}

impl IndexPoint {
    /// The batch that it names, out of the entry that `cursor` walks through; `None` if that is
    /// not there. The cursor goes forward cheaply, and starts over for what lies behind it.
    #[must_use]
    pub fn find(&self, cursor: &mut PartsCursor<'_>, stream: StreamUid) -> Option<RecordBatch> {
        cursor.seek(u64::from(self.position)).ok()?;
        let item = Append::decode(cursor).ok()?;
        let is_meant = item.stream == stream && item.batch.count() == self.count as usize;
        is_meant.then_some(item.batch)
    }

    /// The offset after the last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.base.plus(u64::from(self.count))
    }
}

/// The batches of one stream that the local log still holds, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HotIndex {
    pub(super) points: VecDeque<IndexPoint>,
}

impl HotIndex {
    pub(super) fn push(&mut self, point: IndexPoint) {
        debug_assert!(self.points.back().is_none_or(|last| last.end() == point.base));
        self.points.push_back(point);
    }

    /// Forgets batches in entries below `log_index`: their log file is gone.
    pub(super) fn trim_below(&mut self, log_index: u64) {
        while self.points.front().is_some_and(|point| point.log_index < log_index) {
            self.points.pop_front();
        }
        if self.points.capacity() > 64 && self.points.len() * 4 < self.points.capacity() {
            self.points.shrink_to(self.points.len() * 2);
        }
    }

    /// The first offset that the local log holds, if any.
    #[must_use]
    pub fn first(&self) -> Option<Offset> {
        self.points.front().map(|point| point.base)
    }

    /// The batches from the one that holds `offset` on; empty if the log does not hold it.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = &IndexPoint> {
        let first = self.points.partition_point(|point| point.end() <= offset);
        let held = self.points.get(first).is_some_and(|point| point.base <= offset);
        self.points.range(if held { first.. } else { self.points.len().. })
    }

    /// The offset of the first record at or after `ts` in the log, if there is one.
    #[must_use]
    pub fn at_time(&self, ts: Timestamp) -> Option<Offset> {
        let first = self.points.partition_point(|point| point.ts < ts);
        self.points.get(first).map(|point| point.base)
    }

    /// Batches held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether the log holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(base: u64, count: u32, log_index: u64) -> IndexPoint {
        IndexPoint {
            base: Offset(base),
            count,
            position: 0,
            log_index,
            ts: Timestamp(log_index as i64),
        }
    }

    #[test]
    fn finds_the_batch_that_holds_an_offset() {
        let mut index = HotIndex::default();
        [point(0, 3, 1), point(3, 1, 1), point(4, 6, 5)].into_iter().for_each(|p| index.push(p));
        let bases = |index: &HotIndex, offset| {
            index.from(Offset(offset)).map(|p| p.base.0).collect::<Vec<_>>()
        };
        assert_eq!(bases(&index, 2), [0, 3, 4]);
        assert_eq!(bases(&index, 3), [3, 4]);
        assert_eq!(bases(&index, 9), [4]);
        assert_eq!(bases(&index, 10), []);
        assert_eq!(index.at_time(Timestamp(2)), Some(Offset(4)));
        assert_eq!(index.at_time(Timestamp(6)), None);
        index.trim_below(5);
        assert_eq!(bases(&index, 2), [], "no longer in the log");
        assert_eq!(index.first(), Some(Offset(4)));
    }
}
