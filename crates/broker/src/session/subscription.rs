//! A subscription's QUIC stream: records out, credit in.

use railgun_proto::convert::{SubscribeRequest, Uid};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::{ErrorCode, Offset, Timestamp};

use super::{QuicStream, SessionEnd, failure};
use crate::reader::{Delivery, Source, Step, StreamReader};
use crate::streams::Resolved;

pub(super) async fn serve(stream: &mut QuicStream, first: &Frame) -> Result<(), SessionEnd> {
    let request = SubscribeRequest::try_from(first.decode::<v1::Subscribe>()?)?;
    let found = stream.context.streams.resolve(&request.name).await?;
    let start = stream.context.streams.start_of(&found, request.start).await?;
    let subscribed = v1::Subscribed {
        stream_uid: found.stream.to_wire(),
        resumed_at: start.start.0,
        head: 0,
        next_offset: start.next.0,
    };
    stream.writer.send(Frame::new(&subscribed)).await?;
    let until = match (request.until_offset, request.until_end) {
        (Some(until), true) => Some(until.min(start.next)),
        (None, true) => Some(start.next),
        (until, false) => until,
    };
    let Resolved { shard, stream: uid, .. } = found;
    let streams = &stream.context.streams;
    let reader = StreamReader::new(shard, streams.cold(), streams.pool(), uid, start.start);
    let credit = i64::try_from(request.credit_bytes).unwrap_or(i64::MAX);
    let subscription =
        Subscription { stream, reader, until, until_time: request.until_time, credit };
    subscription.run().await
}

struct Subscription<'s> {
    stream: &'s mut QuicStream,
    reader: StreamReader,
    /// Stop before this offset.
    until: Option<Offset>,
    /// Stop before the first record at or after this log time.
    until_time: Option<Timestamp>,
    /// Batch bytes that may still be sent. One step's records may overdraw it, so that no batch is
    /// too large for ever.
    credit: i64,
}

impl Subscription<'_> {
    async fn run(mut self) -> Result<(), SessionEnd> {
        let stopping = self.stream.stopping.clone();
        loop {
            if self.until.is_some_and(|until| self.reader.next_offset() >= until) {
                return self.end().await;
            }
            if self.credit <= 0 {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return Err(going_away()),
                    frame = self.stream.reader.next() => self.on_frame(frame?)?,
                }
                continue;
            }
            // Without an end in sight, wait for what is not published yet.
            let step = tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(going_away()),
                frame = self.stream.reader.next() => {
                    self.on_frame(frame?)?;
                    continue;
                }
                step = self.reader.step(true) => step,
            };
            match step.map_err(|failed| failure::read_failure(&failed))? {
                Step::Records(deliveries) => {
                    if self.deliver(deliveries).await? {
                        return self.end().await;
                    }
                }
                Step::End => {}
                Step::Deleted => {
                    let message = "the stream was deleted while it was read";
                    return Err(WireError::new(ErrorCode::StreamDeleted, message).into());
                }
            }
        }
    }

    fn on_frame(&mut self, frame: Option<Frame>) -> Result<(), SessionEnd> {
        let Some(frame) = frame else { return Err(SessionEnd::ClientLeft) };
        if frame.kind() != FrameKind::Credit {
            return Err(SessionEnd::unexpected(frame.kind()));
        }
        let credit: v1::Credit = frame.decode()?;
        self.credit = self.credit.saturating_add_unsigned(credit.bytes);
        Ok(())
    }

    /// Sends records as far as the subscription wants them; `true` at its end. Credit may be
    /// overdrawn by one step's records, which is bounded.
    async fn deliver(&mut self, deliveries: Vec<Delivery>) -> Result<bool, SessionEnd> {
        let mut frames = Vec::with_capacity(deliveries.len());
        let mut ended = false;
        for mut delivery in deliveries {
            if self.until_time.is_some_and(|until| delivery.ts >= until) {
                ended = true;
                break;
            }
            if let Some(until) = self.until {
                let first = delivery.base.plus(delivery.skip.into());
                let wanted = until.0.saturating_sub(first.0);
                delivery.count = delivery.count.min(u32::try_from(wanted).unwrap_or(u32::MAX));
                if delivery.count == 0 {
                    ended = true;
                    break;
                }
            }
            self.credit -= delivery.batch.len() as i64;
            frames.push(deliver_frame(&delivery));
        }
        self.stream.writer.send_all(frames).await?;
        Ok(ended)
    }

    async fn end(self) -> Result<(), SessionEnd> {
        let next_offset = match self.until {
            Some(until) => until.min(self.reader.next_offset()),
            None => self.reader.next_offset(),
        };
        self.stream.writer.send(Frame::new(&v1::End { next_offset: next_offset.0 })).await?;
        Ok(())
    }
}

fn deliver_frame(delivery: &Delivery) -> Frame {
    let source = match delivery.source {
        Source::Ring => v1::Source::Ring,
        Source::Hot => v1::Source::Hot,
        Source::Cold => v1::Source::Cold,
    };
    let head = v1::Deliver {
        base_offset: delivery.base.0,
        skip: delivery.skip,
        count: delivery.count,
        ts_us: delivery.ts.0,
        source: source.into(),
    };
    Frame::with_blob(&head, vec![delivery.batch.as_bytes().clone()])
}

fn going_away() -> SessionEnd {
    WireError::new(ErrorCode::GoingAway, "the node is stopping").into()
}
