//! Where in the log the records of a stream are. Derived from apply, never replicated by itself.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::{Buf, BytesMut};
use railgun_types::batch::RecordBatch;
use railgun_types::{ByteCursor, Malformed, Offset, StreamUid, Timestamp};

use crate::codec::put_varints;
use crate::command::{Append, PartsCursor};

/// Records of one batch of a stream in the log, which lie one behind the other there as well: the whole batch,
/// or one run of those records that were not left out of it as duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexPoint {
    /// Offset of the first record.
    pub base: Offset,
    /// Records of the batch before it.
    pub skip: u32,
    /// Its records.
    pub count: u32,
    /// Byte position of the item within the entry's payload.
    pub position: u32,
    /// The entry.
    pub log_index: u64,
    /// Log time of the records.
    pub ts: Timestamp,
}

/// Records that were found in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InLog {
    /// As a batch, in which all of them lie.
    pub batch: RecordBatch,
    /// Whether it has memory of its own, and is no slice of the entry.
    pub is_copy: bool,
}

impl IndexPoint {
    /// The records that consecutive runs of one batch name, as a batch, out of the entry that `cursor`
    /// walks through; `None` if they are not there. The cursor goes forward cheaply, and starts over for
    /// what lies behind it.
    ///
    /// It is the batch as it lies there, unless that holds others, too: then they are copied out of it.
    #[must_use]
    pub fn find(runs: &[Self], cursor: &mut PartsCursor<'_>, stream: StreamUid) -> Option<InLog> {
        let first = runs.first()?;
        cursor.seek(u64::from(first.position)).ok()?;
        let item = Append::decode(cursor).ok().filter(|item| item.stream == stream)?;
        if first.skip == 0 && first.count as usize == item.batch.count() {
            return Some(InLog { batch: item.batch, is_copy: false });
        }
        let batch = item.batch.select(runs.iter().map(|run| run.skip..run.skip + run.count))?;
        Some(InLog { batch, is_copy: true })
    }

    /// Whether this run and the next one are of the same batch.
    #[must_use]
    pub fn is_of_batch_of(&self, next: &Self) -> bool {
        (self.log_index, self.position) == (next.log_index, next.position)
    }

    /// The offset after the last record.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.base.plus(u64::from(self.count))
    }
}

/// The batches of one stream that the local log still holds, in order.
///
/// A batch takes as few bytes as its differences to the one before need, four to eight where they are
/// small: there may be as many of them as messages in the log. They are kept in blocks, of which one
/// is decoded to find a batch.
#[derive(Clone, Default)]
pub struct HotIndex {
    blocks: VecDeque<Block>,
}

/// Batches of one block, at most: what a search decodes, and what shares one header.
const BLOCK_POINTS: u32 = 64;
/// Room that a block begins with when it gets its second batch.
const REST_BYTES_MIN: usize = 64;

/// Some consecutive batches, the first of them whole and the others encoded.
#[derive(Clone, Debug)]
struct Block {
    first: IndexPoint,
    last: IndexPoint,
    points: u32,
    /// Those behind the first, each: twice the count v, plus one if there is a skip v behind it, log index
    /// and ts above the one before v, position above the one before v in the same entry, and from 0 in
    /// another.
    rest: BytesMut,
}

impl Block {
    fn new(first: IndexPoint) -> Self {
        Self { first, last: first, points: 1, rest: BytesMut::new() }
    }

    fn push(&mut self, point: IndexPoint) {
        let last = std::mem::replace(&mut self.last, point);
        let entries = point.log_index.wrapping_sub(last.log_index);
        let position_before = if entries == 0 { last.position } else { 0 };
        let count = u64::from(point.count) << 1;
        let ts = point.ts.0.wrapping_sub(last.ts.0) as u64;
        let position = u64::from(point.position.wrapping_sub(position_before));
        if self.rest.is_empty() {
            self.rest.reserve(REST_BYTES_MIN);
        }
        if point.skip == 0 {
            put_varints(&mut self.rest, [count, entries, ts, position]);
        } else {
            put_varints(&mut self.rest, [count | 1, point.skip.into(), entries, ts, position]);
        }
        self.points += 1;
    }

    /// Forgets the batches in entries below `log_index`, which the last one is not in. Nothing is
    /// encoded anew: those that stay are told by their differences to the one before as they were.
    fn trim_below(&mut self, log_index: u64) {
        let mut rest = ByteCursor::new(&self.rest);
        let (mut first, mut gone) = (self.first, 0);
        while first.log_index < log_index
            && let Ok(next) = behind(first, &mut rest)
        {
            (first, gone) = (next, gone + 1);
        }
        let bytes = self.rest.len() - rest.remaining();
        self.rest.advance(bytes);
        (self.first, self.points) = (first, self.points - gone);
    }

    fn iter(&self) -> BlockIter<'_> {
        BlockIter { next: Some(self.first), rest: ByteCursor::new(&self.rest) }
    }

    /// Those from the one that holds `offset` on, which must lie before the end of the block.
    fn from(&self, offset: Offset) -> impl Iterator<Item = IndexPoint> {
        // Who reads at the tail asks for the last one, again and again.
        let is_last = self.last.base <= offset;
        let last = BlockIter { next: Some(self.last), rest: ByteCursor::EMPTY };
        let points = if is_last { last } else { self.iter() };
        points.skip_while(move |point| point.end() <= offset)
    }
}

/// Walks through the batches of a block.
struct BlockIter<'b> {
    next: Option<IndexPoint>,
    rest: ByteCursor<'b>,
}

impl Iterator for BlockIter<'_> {
    type Item = IndexPoint;

    fn next(&mut self) -> Option<IndexPoint> {
        let point = self.next.take()?;
        // Fails at the end only: nobody else writes a block.
        self.next = behind(point, &mut self.rest).ok();
        Some(point)
    }
}

/// The batch behind `point`.
fn behind(point: IndexPoint, rest: &mut ByteCursor<'_>) -> Result<IndexPoint, Malformed> {
    let count = rest.varint()?;
    let skip = if count & 1 == 1 { rest.varint()? as u32 } else { 0 };
    let count = (count >> 1) as u32;
    let entries = rest.varint()?;
    let ts = Timestamp(point.ts.0.wrapping_add(rest.varint()? as i64));
    let position_before = if entries == 0 { point.position } else { 0 };
    let position = position_before.wrapping_add(rest.varint()? as u32);
    let log_index = point.log_index.wrapping_add(entries);
    Ok(IndexPoint { base: point.end(), skip, count, position, log_index, ts })
}

impl HotIndex {
    pub(super) fn push(&mut self, point: IndexPoint) {
        debug_assert!(self.blocks.back().is_none_or(|block| block.last.end() == point.base));
        match self.blocks.back_mut() {
            Some(block) if block.points < BLOCK_POINTS => block.push(point),
            full => {
                match full {
                    Some(full) => full.rest = BytesMut::from(&full.rest[..]),
                    // Most streams have few batches in the log.
                    None => self.blocks.reserve_exact(1),
                }
                self.blocks.push_back(Block::new(point));
            }
        }
    }

    /// Forgets batches in entries below `log_index`: their log file is gone.
    pub(super) fn trim_below(&mut self, log_index: u64) {
        while self.blocks.front().is_some_and(|block| block.last.log_index < log_index) {
            self.blocks.pop_front();
        }
        if let Some(block) = self.blocks.front_mut() {
            block.trim_below(log_index);
        }
        if self.blocks.capacity() > 64 && self.blocks.len() * 4 < self.blocks.capacity() {
            self.blocks.shrink_to(self.blocks.len() * 2);
        }
    }

    /// The first offset that the local log holds, if any.
    #[must_use]
    pub fn first(&self) -> Option<Offset> {
        self.blocks.front().map(|block| block.first.base)
    }

    /// All batches.
    pub fn iter(&self) -> impl Iterator<Item = IndexPoint> {
        self.blocks.iter().flat_map(Block::iter)
    }

    /// The batches from the one that holds `offset` on; empty if the log does not hold it.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = IndexPoint> {
        let first = self.blocks.partition_point(|block| block.last.end() <= offset);
        let block = self.blocks.get(first).filter(|block| block.first.base <= offset);
        let begin = block.map(|block| block.from(offset));
        let rest =
            self.blocks.range(if block.is_some() { first + 1.. } else { self.blocks.len().. });
        begin.into_iter().flatten().chain(rest.flat_map(Block::iter))
    }

    /// A copy of the blocks that hold the batches from the one that holds `range.start` up to
    /// `range.end`, and with them some before and behind. It costs a copy of their bytes: whoever
    /// wants the batches decodes them elsewhere.
    #[must_use]
    pub fn around(&self, range: Range<Offset>) -> Self {
        let first = self.blocks.partition_point(|block| block.last.end() <= range.start);
        let end = self.blocks.partition_point(|block| block.first.base < range.end);
        Self { blocks: self.blocks.range(first..end.max(first)).cloned().collect() }
    }

    /// The offset of the first record at or after `ts` in the log, if there is one.
    #[must_use]
    pub fn at_time(&self, ts: Timestamp) -> Option<Offset> {
        let first = self.blocks.partition_point(|block| block.last.ts < ts);
        let mut points = self.blocks.get(first)?.iter();
        points.find(|point| point.ts >= ts).map(|point| point.base)
    }

    /// Batches held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.points as usize).sum()
    }

    /// Whether the log holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl FromIterator<IndexPoint> for HotIndex {
    fn from_iter<I: IntoIterator<Item = IndexPoint>>(points: I) -> Self {
        let mut index = Self::default();
        points.into_iter().for_each(|point| index.push(point));
        index
    }
}

/// Where blocks begin depends on what was trimmed, and does not count.
impl PartialEq for HotIndex {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for HotIndex {}

impl fmt::Debug for HotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(base: u64, count: u32, log_index: u64) -> IndexPoint {
        IndexPoint {
            base: Offset(base),
            skip: 0,
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

    #[test]
    fn a_small_batch_takes_a_few_bytes() {
        let mut index = HotIndex::default();
        // One message each, ten to an entry, an entry each millisecond.
        for n in 0..100_000u64 {
            let (log_index, position) = (1_000 + n / 10, 21 + n as u32 % 10 * 120);
            let ts = Timestamp(1_700_000_000_000_000 + n as i64 / 10 * 1_000);
            let base = Offset(n);
            index.push(IndexPoint { base, skip: 0, count: 1, position, log_index, ts });
        }
        let bytes: usize =
            index.blocks.iter().map(|b| size_of::<Block>() + b.rest.capacity()).sum();
        assert!(bytes < 100_000 * 7, "{bytes}");
    }

    fn any_points() -> impl Strategy<Value = Vec<IndexPoint>> {
        let count = prop_oneof![3 => Just(1), 1 => 1u32..=65_536];
        let entries = prop_oneof![4 => Just(0), 4 => 1u64..3, 1 => 0u64..1 << 40];
        let us = prop_oneof![4 => 0i64..2_000, 1 => 0i64..1 << 50];
        let skip = prop_oneof![4 => Just(0), 1 => 0u32..=65_535];
        let step = (count, skip, entries, us, any::<u32>());
        let steps = proptest::collection::vec(step, 0..600);
        (0u64..1 << 40, steps).prop_map(|(mut base, steps)| {
            let (mut log_index, mut ts) = (0, 0);
            let point = |(count, skip, entries, us, position)| {
                (log_index, ts) = (log_index + entries, ts + us);
                let ts = Timestamp(ts);
                let base_is = Offset(base);
                let point = IndexPoint { base: base_is, skip, count, position, log_index, ts };
                base = point.end().0;
                point
            };
            steps.into_iter().map(point).collect()
        })
    }

    proptest! {
        #[test]
        fn it_is_a_list_of_points(points in any_points(), at in any::<prop::sample::Index>()) {
            let mut index: HotIndex = points.iter().copied().collect();
            let mut points = points;
            for _ in 0..3 {
                prop_assert_eq!(index.iter().collect::<Vec<_>>(), points.clone());
                prop_assert_eq!(index.len(), points.len());
                prop_assert_eq!(index.is_empty(), points.is_empty());
                prop_assert_eq!(index.first(), points.first().map(|point| point.base));
                let Some(&some) = points.get(at.index(points.len().max(1))) else { break };
                for offset in [some.base.0.saturating_sub(1), some.base.0, some.end().0 - 1, some.end().0] {
                    let offset = Offset(offset);
                    let holds = |point: &IndexPoint| point.base <= offset && offset < point.end();
                    let first = points.iter().position(holds).unwrap_or(points.len());
                    prop_assert_eq!(index.from(offset).collect::<Vec<_>>(), points[first..].to_vec());
                    // Elsewhere, with what only a part of the blocks holds.
                    for end in [some.end(), Offset(some.end().0 + 70)] {
                        let before = |point: &IndexPoint| point.base < end;
                        let held = points[first..].iter().copied().take_while(before);
                        let copy = index.around(offset..end);
                        let copied = copy.from(offset).take_while(before);
                        prop_assert_eq!(copied.collect::<Vec<_>>(), held.collect::<Vec<_>>());
                        prop_assert!(copy.blocks.len() <= 3 + (end.0 - offset.0) as usize / 32);
                    }
                }
                for ts in [some.ts, Timestamp(some.ts.0 + 1)] {
                    let first = points.iter().find(|point| point.ts >= ts);
                    prop_assert_eq!(index.at_time(ts), first.map(|point| point.base));
                }
                // Where it was trimmed is not seen.
                index.trim_below(some.log_index);
                points.retain(|point| point.log_index >= some.log_index);
                prop_assert_eq!(&index, &points.iter().copied().collect::<HotIndex>());
                // It goes on behind what was trimmed.
                if let Some(last) = points.last().copied() {
                    let next = IndexPoint { base: last.end(), position: last.position ^ 1, ..last };
                    index.push(next);
                    points.push(next);
                }
            }
        }
    }
}
