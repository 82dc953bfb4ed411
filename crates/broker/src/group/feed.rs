//! Reads messages of a group: what was read from one position on, and the read under way behind it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use railgun_types::batch::{RecordBatch, RecordPlace};
use railgun_types::{Offset, StreamUid};
use tokio::time::sleep;

use crate::reader::{Delivery, ReadFailure, ReadSources, Step, StreamReader};

/// How long after a read that failed the next one begins.
const PAUSE: Duration = Duration::from_secs(1);

type Reading = Pin<Box<dyn Future<Output = (StreamReader, Result<Step, ReadFailure>)> + Send>>;

/// See the module. Holds what one step of a reader brings, and reads no further until something else is wanted.
pub(super) struct Feed {
    from: ReadSources,
    stream: StreamUid,
    /// Whether what lies before a position is kept: the next one may be anywhere.
    goes_back: bool,
    reader: Option<StreamReader>,
    reading: Option<Reading>,
    /// Where the read under way has begun.
    reads_at: Offset,
    /// What was wanted last.
    run: Option<Run>,
    ready: VecDeque<Delivery>,
    /// The last read has failed.
    failed: bool,
}

/// Consecutive records of one batch, from one of them on.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) delivery: Delivery,
    /// Encoded bytes of each record.
    sizes: Vec<u32>,
    /// Where the first of all is in the batch.
    begin: RecordPlace,
    /// Records that are passed by, and where the first one behind these is.
    at: usize,
    place: RecordPlace,
}

/// What a read has brought.
#[derive(Debug)]
pub(super) enum Fed {
    /// Something, or nothing yet.
    Records,
    /// It failed, and begins again in a while.
    Failed(ReadFailure),
    /// The stream is gone.
    Deleted,
}

impl Run {
    pub(super) fn new(delivery: Delivery) -> Self {
        let (skip, count) = (delivery.skip as usize, delivery.count as usize);
        let entries = delivery.batch.records().skip(skip).take(count);
        // No record is larger than a batch may be.
        let sizes = entries.map(|entry| entry.bytes.len() as u32).collect();
        let begin = behind(&delivery.batch, RecordPlace::default(), skip);
        Self { delivery, sizes, begin, at: 0, place: begin }
    }

    fn start(&self) -> Offset {
        self.delivery.base.plus(self.delivery.skip.into())
    }

    /// The offset of the first record that is left.
    pub(super) fn first(&self) -> Offset {
        self.start().plus(self.at as u64)
    }

    /// Where that is in the batch, and which record of it.
    pub(super) fn place(&self) -> RecordPlace {
        self.place
    }

    pub(super) fn index(&self) -> usize {
        self.delivery.skip as usize + self.at
    }

    /// Encoded bytes of each record that is left.
    pub(super) fn sizes(&self) -> &[u32] {
        &self.sizes[self.at..]
    }

    /// Encoded bytes of `count` records, of those that are left and behind the first `skip`.
    pub(super) fn bytes(&self, skip: usize, count: usize) -> usize {
        self.sizes().iter().skip(skip).take(count).map(|size| *size as usize).sum()
    }

    /// Leaves out the first records.
    pub(super) fn advance(&mut self, count: usize) {
        let count = count.min(self.sizes.len() - self.at);
        self.place = behind(&self.delivery.batch, self.place, count);
        self.at += count;
    }

    /// Goes to a record that it has, if it has it.
    fn seek(&mut self, offset: Offset) -> bool {
        let Some(to) = offset.0.checked_sub(self.start().0) else { return false };
        let to = usize::try_from(to).unwrap_or(usize::MAX);
        if to >= self.sizes.len() {
            return false;
        }
        if to < self.at {
            (self.at, self.place) = (0, self.begin);
        }
        self.advance(to - self.at);
        true
    }
}

/// The place of the record that is `count` behind another one, in a batch that has as many.
pub(super) fn behind(batch: &RecordBatch, place: RecordPlace, count: usize) -> RecordPlace {
    batch.place(place, count).expect("records of the batch")
}

impl Feed {
    /// Of messages that are wanted in their order.
    pub(super) fn forward(from: ReadSources, stream: StreamUid) -> Self {
        Self::new(from, stream, false)
    }

    /// Of messages that are wanted in any order.
    pub(super) fn scattered(from: ReadSources, stream: StreamUid) -> Self {
        Self::new(from, stream, true)
    }

    fn new(from: ReadSources, stream: StreamUid, goes_back: bool) -> Self {
        Self {
            from,
            stream,
            goes_back,
            reader: None,
            reading: None,
            reads_at: Offset(0),
            run: None,
            ready: VecDeque::new(),
            failed: false,
        }
    }

    /// What was read from this offset on. `None`: it was not read, and a read of it is under way from here on.
    pub(super) fn at(&mut self, offset: Offset) -> Option<&mut Run> {
        if !self.run.as_mut().is_some_and(|run| run.seek(offset)) {
            self.run = self.find(offset);
            if self.run.is_none() {
                self.ready.clear();
                self.read(offset);
            }
        }
        self.run.as_mut()
    }

    /// Takes what holds this offset out of what was read.
    fn find(&mut self, offset: Offset) -> Option<Run> {
        let index = self.ready.partition_point(|delivery| delivery.end() <= offset);
        let found = self.ready.get(index)?.clone();
        let mut run = Run::new(found);
        if !run.seek(offset) {
            return None;
        }
        if !self.goes_back {
            self.ready.drain(..=index);
        }
        Some(run)
    }

    /// Where the last read has begun.
    pub(super) fn reads_at(&self) -> Offset {
        self.reads_at
    }

    /// The offset after the last record that was read.
    pub(super) fn end(&self) -> Option<Offset> {
        self.ready.back().or(self.run.as_ref().map(|run| &run.delivery)).map(Delivery::end)
    }

    /// Begins a read, unless one is under way there.
    fn read(&mut self, offset: Offset) {
        if self.reading.is_some() && self.reads_at == offset {
            return;
        }
        self.reading = None;
        let mut reader = match self.reader.take() {
            Some(reader) if reader.next_offset() == offset => reader,
            Some(mut reader) => {
                reader.rewind(offset);
                reader
            }
            None => StreamReader::new(self.from.clone(), self.stream, offset),
        };
        let pause = std::mem::take(&mut self.failed);
        self.reads_at = offset;
        self.reading = Some(Box::pin(async move {
            if pause {
                sleep(PAUSE).await;
            }
            let step = reader.step(true).await;
            (reader, step)
        }));
    }

    /// What the read under way brings; never ends while there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> Fed {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let (reader, step) = reading.await;
        self.reading = None;
        self.reader = Some(reader);
        match step {
            Ok(Step::Records(deliveries)) => {
                self.ready.extend(deliveries);
                Fed::Records
            }
            Ok(Step::End) => Fed::Records,
            Ok(Step::Deleted) => Fed::Deleted,
            Err(failure) => {
                self.failed = true;
                Fed::Failed(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use railgun_types::batch::{BatchBuilder, RecordDraft};
    use railgun_types::{Timestamp, limits};

    use super::*;
    use crate::reader::Source;

    #[test]
    fn a_run_goes_to_any_of_its_records() {
        let mut builder = BatchBuilder::new(limits::MESSAGE_BYTES_DEFAULT);
        let values: Vec<_> = (0..6).map(|at| vec![b'0' + at; usize::from(at) + 1]).collect();
        for value in &values {
            builder.push(&RecordDraft { value, ..RecordDraft::default() }).expect("it is small");
        }
        let batch: bytes::Bytes = builder.into_parts().concat();
        let mut run = Run::new(Delivery {
            base: Offset(10),
            skip: 1,
            count: 4,
            ts: Timestamp(7),
            source: Source::Ring,
            batch: RecordBatch::open(batch).expect("just built"),
        });
        assert_eq!((run.first(), run.sizes().len()), (Offset(11), 4));
        for (offset, is_there) in [(13, true), (11, true), (14, true), (15, false), (10, false)] {
            assert_eq!(run.seek(Offset(offset)), is_there, "{offset}");
        }
        for at in [12, 14, 11, 13] {
            assert!(run.seek(Offset(at)));
            let parts = run.delivery.batch.cut(run.place(), 1).expect("one");
            let one = RecordBatch::open(parts.concat()).expect("a batch");
            let content = one.records().next().and_then(|record| record.content());
            let (index, value) = (run.index(), &values[(at - 10) as usize]);
            assert_eq!(content.expect("whole").value, value);
            assert_eq!((run.first(), index), (Offset(at), (at - 10) as usize));
            assert_eq!(run.sizes().len() as u64, 15 - at);
        }
        run.seek(Offset(12));
        run.advance(2);
        assert_eq!((run.first(), run.bytes(0, 1)), (Offset(14), run.sizes()[0] as usize));
        run.advance(9);
        assert_eq!((run.first(), run.sizes()), (Offset(15), &[][..]));
    }
}
