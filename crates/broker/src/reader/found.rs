//! What a step of a reader has found, and what that keeps in memory.

use railgun_types::batch::RecordBatch;

use super::Delivery;

/// Records that are less than this part of the memory they were read with are copied out of it: they
/// may wait for a slow consumer, and what lies around them need not.
const PINNED_MAX: usize = 4;

/// Records of consecutive batches.
#[derive(Debug, Default)]
pub(super) struct Found {
    deliveries: Vec<Delivery>,
    /// Bytes that they keep in memory.
    pinned: usize,
}

impl Found {
    /// Batches in memory of their own.
    pub(super) fn own(deliveries: Vec<Delivery>) -> Self {
        let pinned = bytes_of(&deliveries);
        Self { deliveries, pinned }
    }

    /// Adds batches that are slices of `read` bytes, as far as all together keep at most `room` bytes,
    /// and the very first one whatever it takes. Says whether these were all.
    pub(super) fn add(&mut self, mut run: Vec<Delivery>, read: usize, room: usize) -> bool {
        let is_dense = |run: &[Delivery]| bytes_of(run).saturating_mul(PINNED_MAX) >= read;
        let (left, wanted) = (room.saturating_sub(self.pinned), run.len());
        if read > left || !is_dense(&run) {
            cut(&mut run, left);
            let bytes = bytes_of(&run);
            let is_large = bytes > left;
            if is_large && !self.is_empty() {
                return false;
            }
            if is_large && is_dense(&run) {
                self.pinned += read;
            } else {
                copy(&mut run);
                self.pinned += bytes;
            }
        } else {
            self.pinned += read;
        }
        let is_whole = run.len() == wanted;
        self.deliveries.append(&mut run);
        is_whole
    }

    /// Leaves as many of the first batches as keep at most `room` bytes, but at least one.
    pub(super) fn cut_to(&mut self, room: usize) {
        if self.pinned > room {
            cut(&mut self.deliveries, room);
            copy(&mut self.deliveries);
            self.pinned = bytes_of(&self.deliveries);
        }
    }

    pub(super) fn pinned(&self) -> usize {
        self.pinned
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Bytes of the first batch.
    pub(super) fn first_bytes(&self) -> usize {
        self.deliveries.first().map_or(0, |first| first.batch.len())
    }

    pub(super) fn last(&self) -> Option<&Delivery> {
        self.deliveries.last()
    }

    /// Loses the first of several batches: a fault that tests must find.
    pub(super) fn lose_first(&mut self) {
        if self.deliveries.len() > 1 {
            self.deliveries.remove(0);
        }
    }

    pub(super) fn into_deliveries(self) -> Vec<Delivery> {
        self.deliveries
    }
}

fn bytes_of(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(|delivery| delivery.batch.len()).sum()
}

fn cut(deliveries: &mut Vec<Delivery>, room: usize) {
    let mut bytes = 0;
    let fitting = deliveries.iter().take_while(|delivery| {
        bytes += delivery.batch.len();
        bytes <= room
    });
    let fitting = fitting.count().max(1);
    deliveries.truncate(fitting);
}

/// Copies the batches out of the memory that they are slices of.
fn copy(deliveries: &mut [Delivery]) {
    let bytes = bytes_of(deliveries);
    let batches = deliveries.iter_mut().map(|delivery| &mut delivery.batch);
    RecordBatch::copy_out(batches, bytes, usize::MAX, 1);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use railgun_types::batch::{BatchBuilder, RecordDraft};
    use railgun_types::{Offset, Timestamp};

    use super::*;
    use crate::reader::Source;

    fn batch() -> Bytes {
        let mut builder = BatchBuilder::new(1 << 20);
        builder.push(&RecordDraft { value: b"x", ..RecordDraft::default() }).unwrap();
        builder.finish().concat()
    }

    /// So many batches out of one buffer, `around` bytes of which are something else.
    fn run(count: usize, around: usize) -> (Vec<Delivery>, Bytes) {
        let batch = batch();
        let buffer = Bytes::from([batch.repeat(count), vec![0; around]].concat());
        let delivery = |at: usize| Delivery {
            base: Offset(at as u64),
            skip: 0,
            count: 1,
            ts: Timestamp(0),
            source: Source::Ring,
            batch: RecordBatch::open(buffer.slice(at * batch.len()..(at + 1) * batch.len()))
                .unwrap(),
        };
        ((0..count).map(delivery).collect(), buffer)
    }

    #[test]
    fn what_is_found_keeps_no_more_memory_than_there_is_room_for_but_for_the_first_batch() {
        let bytes = batch().len();
        for (room, left) in [
            (0, 1),
            (bytes, 1),
            (bytes * 2 - 1, 1),
            (bytes * 2, 2),
            (bytes * 3 - 1, 2),
            (1 << 20, 3),
        ] {
            let (deliveries, buffer) = run(3, 0);
            let mut found = Found::default();
            assert_eq!(found.add(deliveries.clone(), buffer.len(), room), left == 3, "{room}");
            assert_eq!(found.deliveries.len(), left, "{room}");
            assert!(found.pinned() <= room.max(buffer.len()), "{room}");
            assert!(left == 1 || found.pinned() <= room, "{room}");
            // What is behind them has to fit.
            let more = found.add(run(1, 0).0, bytes, room);
            assert_eq!(more, room == 1 << 20, "{room}");

            let mut found = Found::default();
            found.add(deliveries, buffer.len(), 1 << 20);
            assert_eq!(found.pinned(), buffer.len());
            found.cut_to(room);
            assert_eq!(found.deliveries.len(), left, "{room}");
            assert_eq!(found.pinned(), left * bytes, "{room}");
        }
    }

    #[test]
    fn a_few_records_do_not_keep_what_was_read_around_them() {
        let bytes = batch().len();
        for (around, room, is_copied) in [
            (bytes * 3, 1 << 20, false),
            (bytes * 3 + 1, 1 << 20, true),
            // What they keep would be more than there is room for.
            (bytes * 3, bytes * 3, true),
        ] {
            let (deliveries, buffer) = run(1, around);
            let mut found = Found::default();
            assert!(found.add(deliveries, buffer.len(), room));
            assert_eq!(found.pinned(), if is_copied { bytes } else { buffer.len() });
            assert_eq!(buffer.is_unique(), is_copied);
            assert_eq!(found.into_deliveries()[0].batch.as_bytes(), &batch());
        }
    }
}
