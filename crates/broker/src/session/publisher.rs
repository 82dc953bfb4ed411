//! A publisher's QUIC stream: batches in, results out, in the order of the frames. Owns the aliases
//! and what is un-answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use railgun_core::command::{
    Append, AppendMode, CommandBody, ExpectedEnd, ProducerSequence, StreamCommand,
};
use railgun_core::shard::{AppendRefusal, Appended};
use railgun_proto::convert::Uid;
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::batch::RecordBatch;
use railgun_types::limits::{ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS};
use railgun_types::{ErrorCode, ProducerId, StreamName, StreamUid};
use tokio::sync::oneshot;

use super::{QuicStream, SessionEnd, failure};
use crate::shard::{AppendResult, ProposeFailure, ShardHandle};

/// Most streams one publisher may bind.
const ALIASES_MAX: usize = 65_536;
/// Most items of one frame: their results, each with an error, fit into a frame too.
const ITEMS_MAX: usize = 8_192;
/// Batch bytes a publisher may have un-answered: the whole window of the largest frames, told to the
/// client so that it can bound its memory. QUIC flow control is what enforces it.
const CREDIT_BYTES: u64 = 16 << 20;

pub(super) async fn serve(stream: &mut QuicStream, first: &Frame) -> Result<(), SessionEnd> {
    let open: v1::OpenPublisher = first.decode()?;
    let producer = match open.producer_id.is_empty() {
        true => None,
        false => Some(ProducerId::from_wire("producer_id", &open.producer_id)?),
    };
    if open.ordered && producer.is_none() {
        let message = "an ordered publisher needs a producer id";
        return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
    }
    stream.writer.send(Frame::new(&v1::PublisherOpened { credit_bytes: CREDIT_BYTES })).await?;
    let session = stream.session_number();
    let publisher = Publisher {
        stream,
        session,
        producer,
        epoch: open.epoch,
        aliases: BTreeMap::new(),
        unanswered: VecDeque::new(),
        closing: false,
        released: false,
    };
    publisher.run().await
}

struct Publisher<'s> {
    stream: &'s mut QuicStream,
    session: u64,
    producer: Option<ProducerId>,
    epoch: u32,
    aliases: BTreeMap<u32, Bound>,
    unanswered: VecDeque<Unanswered>,
    /// Nothing more comes.
    closing: bool,
    /// The client said that the producer will not come back.
    released: bool,
}

/// A stream bound to an alias.
#[derive(Debug)]
struct Bound {
    shard: ShardHandle,
    stream: StreamUid,
    message_bytes_max: usize,
    /// A batch was refused, and none was appended since: what comes after it has broken order.
    broken: bool,
}

/// A frame whose results have not all come.
struct Unanswered {
    /// One per item, in order.
    items: Vec<ItemState>,
    /// Requests to shards, with the items each answers.
    waiting: VecDeque<(oneshot::Receiver<AppendResult>, Vec<usize>)>,
}

struct ItemState {
    alias: u32,
    result: Option<Result<Appended, WireError>>,
}

impl Publisher<'_> {
    async fn run(mut self) -> Result<(), SessionEnd> {
        let window = self.stream.context.limits.unanswered_batches;
        let stopping = self.stream.stopping.clone();
        loop {
            let reading =
                !self.closing && self.unanswered.len() < window && !stopping.is_cancelled();
            if !reading && self.unanswered.is_empty() {
                return self.end().await;
            }
            tokio::select! {
                biased;
                answered = next_answer(&mut self.unanswered), if !self.unanswered.is_empty() => {
                    self.answer(answered).await?;
                }
                () = stopping.cancelled(), if reading => {}
                frame = self.stream.reader.next(), if reading => match frame? {
                    Some(frame) => self.on_frame(frame).await?,
                    // Gone without a goodbye: it may come back and repeat what is un-answered.
                    None => self.closing = true,
                },
            }
        }
    }

    async fn on_frame(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        match frame.kind() {
            FrameKind::Publish => self.on_publish(&frame).await,
            FrameKind::BindStream => self.on_bind(&frame).await,
            FrameKind::ClosePublisher => {
                self.closing = true;
                self.released = true;
                Ok(())
            }
            other => Err(SessionEnd::unexpected(other)),
        }
    }

    async fn on_bind(&mut self, frame: &Frame) -> Result<(), SessionEnd> {
        let bind: v1::BindStream = frame.decode()?;
        // Bindings are answered in order with results.
        while !self.unanswered.is_empty() {
            let answered = next_answer(&mut self.unanswered).await;
            self.answer(answered).await?;
        }
        // An alias that is bound again stands for the new stream, or for none.
        self.aliases.remove(&bind.alias);
        if self.aliases.len() >= ALIASES_MAX {
            let message = format!("a publisher binds at most {ALIASES_MAX} streams");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let bound = match self.bind(&bind.stream).await {
            Ok(bound) => {
                let answer = v1::StreamBound {
                    alias: bind.alias,
                    stream_uid: bound.stream.to_wire(),
                    message_bytes_max: bound.message_bytes_max as u32,
                    error: None,
                };
                self.aliases.insert(bind.alias, bound);
                answer
            }
            Err(error) => v1::StreamBound {
                alias: bind.alias,
                error: Some(error.into()),
                ..Default::default()
            },
        };
        self.stream.writer.send(Frame::new(&bound)).await?;
        Ok(())
    }

    async fn bind(&self, name: &str) -> Result<Bound, WireError> {
        let name = StreamName::new(name)
            .map_err(|error| WireError::new(ErrorCode::InvalidName, error.to_string()))?;
        let found = self.stream.context.streams.resolve(&name).await?;
        Ok(Bound {
            message_bytes_max: found.facts.spec.max_message_bytes as usize,
            shard: found.shard,
            stream: found.stream,
            broken: false,
        })
    }

    /// Checks every batch once and hands them to their shards. What is refused here never reaches a
    /// log; the producer sequence makes what follows it in order fail too.
    async fn on_publish(&mut self, frame: &Frame) -> Result<(), SessionEnd> {
        let publish: v1::Publish = frame.decode()?;
        if publish.items.len() > ITEMS_MAX {
            let message = format!("a publish frame has at most {ITEMS_MAX} items");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let mut blob = frame.blob();
        let mut unanswered =
            Unanswered { items: Vec::with_capacity(publish.items.len()), waiting: VecDeque::new() };
        let mut by_shard: Vec<(ShardHandle, Vec<Append>, Vec<usize>)> = Vec::new();
        for item in &publish.items {
            let len = item.batch_bytes as usize;
            if len > blob.len() {
                let message = "the batches of a publish frame are shorter than its items say";
                return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
            }
            let bytes = blob.split_to(len);
            let at = unanswered.items.len();
            let checked = self.check(item, bytes);
            let result = checked.map(|(shard, append)| {
                match by_shard.iter_mut().find(|(known, ..)| known.id() == shard.id()) {
                    Some((_, appends, items)) => {
                        appends.push(append);
                        items.push(at);
                    }
                    None => by_shard.push((shard, vec![append], vec![at])),
                }
            });
            let result = result.err().map(Err);
            unanswered.items.push(ItemState { alias: item.alias, result });
        }
        if !blob.is_empty() {
            let message = "the batches of a publish frame are longer than its items say";
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        for (shard, appends, items) in by_shard {
            let result = shard.append(self.session, appends).await?;
            unanswered.waiting.push_back((result, items));
        }
        self.unanswered.push_back(unanswered);
        Ok(())
    }

    fn check(
        &self,
        item: &v1::PublishItem,
        bytes: Bytes,
    ) -> Result<(ShardHandle, Append), WireError> {
        let bound = self.aliases.get(&item.alias).ok_or_else(|| {
            let message = format!("no stream is bound to alias {}", item.alias);
            WireError::new(ErrorCode::ProtocolViolation, message)
        })?;
        let limits = &self.stream.context.limits;
        let batch = RecordBatch::validate(bytes, limits, bound.message_bytes_max)
            .map_err(|error| failure::batch_error(&error))?;
        let mode = match item.mode() {
            v1::PublishMode::PublishEach => AppendMode::Each,
            v1::PublishMode::PublishAtomic => AppendMode::Atomic,
        };
        let over = batch.count() > ATOMIC_BATCH_RECORDS || batch.len() > ATOMIC_BATCH_BYTES;
        if mode == AppendMode::Atomic && over {
            let message = format!(
                "an atomic batch has at most {ATOMIC_BATCH_RECORDS} messages and \
                 {ATOMIC_BATCH_BYTES} bytes"
            );
            return Err(WireError::new(ErrorCode::BatchTooLarge, message));
        }
        let expected_end = match item.expected_last_offset {
            None => None,
            Some(last) => {
                Some(ExpectedEnd(u64::try_from(last.saturating_add(1)).map_err(|_| {
                    let message = format!("no stream ends at offset {last}; -1 is an empty one");
                    WireError::new(ErrorCode::ProtocolViolation, message)
                })?))
            }
        };
        let producer = self.producer.map(|id| ProducerSequence {
            id,
            epoch: self.epoch,
            sequence: item.sequence,
        });
        let append = Append { stream: bound.stream, producer, mode, expected_end, batch };
        Ok((bound.shard.clone(), append))
    }

    async fn answer(&mut self, answered: Unanswered) -> Result<(), SessionEnd> {
        let items = answered.items.into_iter().map(|item| self.item_result(item)).collect();
        self.stream.writer.send(Frame::new(&v1::PublishResult { items })).await?;
        Ok(())
    }

    fn item_result(&mut self, item: ItemState) -> v1::ItemResult {
        let unknown = || Err(failure::propose_failure(ProposeFailure::Unknown));
        let result = item.result.unwrap_or_else(unknown);
        let broken = self.aliases.get_mut(&item.alias).map(|bound| &mut bound.broken);
        match result {
            Ok(appended) => {
                if let Some(broken) = broken {
                    *broken = false;
                }
                v1::ItemResult {
                    base_offset: appended.base.0,
                    ts_us: appended.ts.0,
                    published: appended.count,
                    ..Default::default()
                }
            }
            Err(mut error) => {
                if let Some(broken) = broken {
                    // PS-2: what follows a refused batch is refused for its sake. If that was the
                    // producer's first, the shard has not heard of the producer.
                    let unknown = error.code == ErrorCode::ProducerUnknown;
                    if *broken && (unknown || error.code == ErrorCode::SequenceGap) {
                        error.code = ErrorCode::OrderBroken.into();
                        error.message = "an earlier batch of this publisher was refused".to_owned();
                    }
                    // A producer that was forgotten says nothing definite about what follows: it
                    // may have been appended by an earlier attempt.
                    *broken |= !unknown;
                }
                v1::ItemResult { error: Some(error.into()), ..Default::default() }
            }
        }
    }

    async fn end(self) -> Result<(), SessionEnd> {
        if !self.closing {
            return Err(WireError::new(ErrorCode::GoingAway, "the node is stopping").into());
        }
        if let Some(producer) = self.producer.filter(|_| self.released) {
            // Everything it sent is answered, so nothing can come behind this (PQ-1). What fails is
            // forgotten by age.
            let release = |bound: &Bound| {
                let (shard, stream) = (bound.shard.clone(), bound.stream);
                let body = CommandBody::Stream(StreamCommand::ReleaseProducer { stream, producer });
                async move { shard.command(body).await }
            };
            futures::future::join_all(self.aliases.values().map(release)).await;
        }
        Ok(())
    }
}

/// Waits for the first frame's results. Cancel safe: what has come stays noted.
async fn next_answer(unanswered: &mut VecDeque<Unanswered>) -> Unanswered {
    if let Some(first) = unanswered.front_mut() {
        while let Some((result, items)) = first.waiting.front_mut() {
            let outcome = result.await;
            note(&mut first.items, items, outcome);
            first.waiting.pop_front();
        }
        if let Some(first) = unanswered.pop_front() {
            return first;
        }
    }
    std::future::pending().await
}

fn note(
    states: &mut [ItemState],
    items: &[usize],
    outcome: Result<AppendResult, oneshot::error::RecvError>,
) {
    let mut results = match outcome {
        Ok(Ok(results)) => results.into_iter().map(convert).collect::<Vec<_>>().into_iter(),
        Ok(Err(failed)) => vec![Err(failure::append_failure(failed)); items.len()].into_iter(),
        // Left empty: the outcome is not known.
        Err(_) => return,
    };
    for &item in items {
        if let Some(state) = states.get_mut(item) {
            state.result = results.next();
        }
    }
}

fn convert(result: Result<Appended, AppendRefusal>) -> Result<Appended, WireError> {
    result.map_err(failure::append_refusal)
}
