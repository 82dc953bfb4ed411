//! A reader that follows a stream, and leaves it to the history to judge what comes: the SDK hands nothing
//! on that is out of its place.

use std::time::Duration;

use railgun_client::{Offset, Source, StreamName, StreamUid, Timestamp};
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::batch::RecordBatch;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::super::dial::SimDial;
use super::super::history::History;
use super::line::{Line, expect, text};

/// What a reader takes at a time, and how long for each batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    credit_bytes: u64,
    pause: Duration,
}

impl Pace {
    /// A batch at a time: it falls behind, and comes from tier to tier.
    pub(super) const SLOW: Self = Self { credit_bytes: 1, pause: Duration::from_millis(300) };
    /// All that there is.
    pub(super) const FAST: Self = Self { credit_bytes: 1 << 20, pause: Duration::ZERO };
}

/// See the module. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    task: JoinSet<Result<(), String>>,
    next: watch::Receiver<Offset>,
}

impl Follower {
    /// Reads the stream from its beginning on.
    pub(super) async fn start(
        dial: &SimDial,
        history: &History,
        (stream, uid): (&StreamName, StreamUid),
        pace: Pace,
    ) -> Result<Self, String> {
        let line = Line::open(dial).await?;
        let subscribe = v1::Subscribe {
            stream: stream.to_string(),
            start: Some(v1::subscribe::Start::Earliest(true)),
            credit_bytes: pace.credit_bytes,
            ..Default::default()
        };
        let (writer, mut reader) = line.begin(&subscribe).await?;
        let subscribed: v1::Subscribed = expect(&mut reader).await?;
        let (told, next) = watch::channel(Offset(subscribed.resumed_at));
        let (history, mut task) = (history.clone(), JoinSet::new());
        task.spawn(async move {
            let pause = pace.pause;
            let reading = Reading { _line: line, writer, reader, history, uid, pause, told };
            reading.run().await
        });
        Ok(Self { task, next })
    }

    /// Resolves when everything before `end` was read, or nothing more is.
    pub(super) async fn come_to(mut self, end: Offset) -> Result<(), String> {
        tokio::select! {
            biased;
            ended = self.task.join_next() => match ended {
                Some(Ok(Err(error))) => Err(format!("the follower: {error}")),
                _ => Err("the follower ended".to_owned()),
            },
            next = self.next.wait_for(|next| *next >= end) => next.map(drop).map_err(text),
        }
    }
}

struct Reading {
    _line: Line,
    writer: FrameWriter,
    reader: FrameReader,
    history: History,
    uid: StreamUid,
    pause: Duration,
    told: watch::Sender<Offset>,
}

impl Reading {
    async fn run(mut self) -> Result<(), String> {
        loop {
            let frame = self.reader.next().await.map_err(text)?.ok_or("it came to an end")?;
            match frame.kind() {
                FrameKind::Deliver => {
                    let bytes = self.take(&frame)?;
                    tokio::time::sleep(self.pause).await;
                    let credit = Frame::new(&v1::Credit { bytes });
                    self.writer.send(credit).await.map_err(text)?;
                }
                FrameKind::Error => {
                    let error: v1::Error = frame.decode().map_err(text)?;
                    return Err(WireError::from(error).to_string());
                }
                FrameKind::Removed => {
                    let how = format_args!("nothing of {} was removed, and it is told", self.uid);
                    self.history.violated("PS-5", how);
                }
                other => return Err(format!("a {other} frame")),
            }
        }
    }

    /// Takes the records of a batch; returns its size.
    fn take(&self, frame: &Frame) -> Result<u64, String> {
        let deliver: v1::Deliver = frame.decode().map_err(text)?;
        let bytes = frame.blob().len() as u64;
        let batch = RecordBatch::verify(frame.blob()).map_err(text)?;
        let (ts, source) = (Timestamp(deliver.ts_us), source(&deliver));
        let mut next = *self.told.borrow();
        let records = batch.records().enumerate();
        for (at, record) in records.skip(deliver.skip as usize).take(deliver.count as usize) {
            let offset = Offset(deliver.base_offset).plus(at as u64);
            self.history.follows("I7", self.uid, &mut next, offset);
            self.history.read(self.uid, offset, ts, &record.into(), "the follower");
            self.history.read_from(source);
        }
        self.told.send_replace(next);
        Ok(bytes)
    }
}

fn source(deliver: &v1::Deliver) -> Source {
    match deliver.source() {
        v1::Source::Ring => Source::Ring,
        v1::Source::Hot => Source::Hot,
        v1::Source::Cold => Source::Cold,
        v1::Source::Unknown => Source::Unknown,
    }
}
