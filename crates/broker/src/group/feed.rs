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

/// See the module. Holds what one step of a reader brings, and reads no further until that is taken.
pub(super) struct Feed {
    from: ReadSources,
    stream: StreamUid,
    reader: Option<StreamReader>,
    reading: Option<Reading>,
    /// Where the read under way has begun.
    reads_at: Offset,
    ready: VecDeque<Run>,
    /// The last read has failed.
    failed: bool,
}

/// Consecutive records of one batch.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) delivery: Delivery,
    /// Where the first of them is in the batch.
    place: RecordPlace,
    /// Encoded bytes of each of the records that are left.
    sizes: VecDeque<u32>,
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
        let place = behind(&delivery.batch, RecordPlace::default(), skip);
        Self { delivery, place, sizes }
    }

    /// Where the first record that is left is in the batch.
    pub(super) fn place(&self) -> RecordPlace {
        self.place
    }

    /// The offset of the first record that is left.
    pub(super) fn first(&self) -> Offset {
        self.delivery.base.plus(self.delivery.skip.into())
    }

    /// Encoded bytes of each record that is left.
    pub(super) fn sizes(&mut self) -> &[u32] {
        self.sizes.make_contiguous()
    }

    /// Encoded bytes of `count` records, of those that are left and behind the first `skip`.
    pub(super) fn bytes(&self, skip: usize, count: usize) -> usize {
        self.sizes.iter().skip(skip).take(count).map(|size| *size as usize).sum()
    }

    /// Leaves out the first records.
    pub(super) fn advance(&mut self, count: usize) {
        let count = count.min(self.sizes.len());
        self.sizes.drain(..count);
        self.place = behind(&self.delivery.batch, self.place, count);
        self.delivery.skip += count as u32;
        self.delivery.count -= count as u32;
    }
}

/// The place of the record that is `count` behind another one, in a batch that has as many.
pub(super) fn behind(batch: &RecordBatch, place: RecordPlace, count: usize) -> RecordPlace {
    batch.place(place, count).expect("records of the batch")
}

impl Feed {
    pub(super) fn new(from: ReadSources, stream: StreamUid) -> Self {
        Self {
            from,
            stream,
            reader: None,
            reading: None,
            reads_at: Offset(0),
            ready: VecDeque::new(),
            failed: false,
        }
    }

    /// What was read from this offset on; what lies before it is forgotten. `None`: it was not read, and a
    /// read of it is under way from here on.
    pub(super) fn at(&mut self, offset: Offset) -> Option<&mut Run> {
        while let Some(run) = self.ready.front_mut() {
            if run.delivery.end() > offset {
                break;
            }
            self.ready.pop_front();
        }
        let is_here = self.ready.front().is_some_and(|run| run.first() <= offset);
        if !is_here {
            self.ready.clear();
            self.read(offset);
            return None;
        }
        let run = self.ready.front_mut()?;
        let before = offset.0 - run.first().0;
        // Less than a batch has.
        run.advance(before as usize);
        Some(run)
    }

    /// Where the last read has begun.
    pub(super) fn reads_at(&self) -> Offset {
        self.reads_at
    }

    /// The offset after the last record that was read.
    pub(super) fn end(&self) -> Option<Offset> {
        self.ready.back().map(|run| run.delivery.end())
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
                self.ready.extend(deliveries.into_iter().map(Run::new));
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
