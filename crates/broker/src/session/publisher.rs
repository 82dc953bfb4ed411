//! A publisher's QUIC stream: batches in, results out, in the order of the frames. Owns the aliases
//! and what is un-answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use railgun_core::command::{
    Append, AppendMode, CommandBody, ExpectedNext, ProducerSequence, StreamCommand,
};
use railgun_core::shard::{AppendRefusal, Appended};
use railgun_proto::convert::{ExpectedEnd, Uid};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::batch::{BatchError, RecordBatch};
use railgun_types::limits::{
    ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS, PUBLISH_ITEMS, PUBLISHER_STREAMS, UNBIND_ALIASES,
};
use railgun_types::{ErrorCode, ProducerId, StreamName, StreamUid};
use tokio::sync::oneshot;

use super::aliases::{Aliases, Bound};
use super::{QuicStream, SessionEnd, going_away};
use crate::builtin_bug::BuiltinBug;
use crate::replica::ProposeFailure;
use crate::shard::{AppendFailure, AppendResult, ShardHandle};
use crate::wire_error;

/// Batch bytes a publisher may have un-answered: the whole window of the largest frames, told to the
/// client so that it can bound its memory. QUIC flow control is what enforces it.
const CREDIT_BYTES: u64 = 16 << 20;
/// A shard keeps the batches of a frame in memory for a while, and with any of them the whole frame.
/// Where they are less than this part of it they are copied instead, so that what is kept alive is
/// at most so many times what is kept. A half would copy every second share of a frame that two
/// shards divide evenly.
const PINNED_MAX: usize = 3;
/// Streams on which a publisher is forgotten by one log entry.
const RELEASED_MAX: usize = 8_192;

pub(super) async fn serve(
    stream: &mut QuicStream,
    open: v1::OpenPublisher,
) -> Result<(), SessionEnd> {
    let producer = match open.producer_id.is_empty() {
        true => None,
        false => Some(ProducerId::from_wire("producer_id", &open.producer_id)?),
    };
    if open.ordered && producer.is_none() {
        let message = "an ordered publisher needs a producer id";
        return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
    }
    stream.answer(&v1::PublisherOpened { credit_bytes: CREDIT_BYTES }).await?;
    let publisher = Publisher {
        stream,
        producer,
        epoch: open.epoch,
        aliases: Aliases::default(),
        shards: Vec::new(),
        unanswered: VecDeque::new(),
        unanswered_items: 0,
        closing: false,
        released: false,
    };
    publisher.run().await
}

struct Publisher<'s> {
    stream: &'s mut QuicStream,
    producer: Option<ProducerId>,
    epoch: u32,
    aliases: Aliases,
    /// The shards of all streams that were bound.
    shards: Vec<ShardHandle>,
    unanswered: VecDeque<Unanswered>,
    /// Items of all of them.
    unanswered_items: usize,
    /// Nothing more comes.
    closing: bool,
    /// The client said that the producer will not come back.
    released: bool,
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
    outcome: BatchOutcome,
}

// Of a client that takes no results, this is kept.
const _: () = assert!(size_of::<ItemState>() <= 48);

/// What became of one batch. Made into words when it is told, not before: most are appended, and the
/// words of one that is refused are many times as long as what was sent.
enum BatchOutcome {
    /// Nothing has come, and if nothing does, nobody knows.
    Unknown,
    Appended(Appended),
    /// Never reached its shard.
    Invalid(Invalid),
    Refused(AppendRefusal),
    Failed(AppendFailure),
}

/// Why a batch never reached its shard.
enum Invalid {
    /// No stream is bound to its alias.
    Unbound,
    Batch(BatchError),
    /// Over the limits of an atomic batch.
    AtomicTooLarge,
    /// No stream ever ends at the offset that was expected.
    NoSuchEnd(i64),
}

impl Invalid {
    /// As the client is told.
    fn told(&self, alias: u32) -> WireError {
        let (code, message) = match self {
            Self::Batch(error) => return wire_error::batch_error(error),
            Self::Unbound => {
                (ErrorCode::ProtocolViolation, format!("no stream is bound to alias {alias}"))
            }
            Self::AtomicTooLarge => {
                let message = format!(
                    "an atomic batch has at most {ATOMIC_BATCH_RECORDS} messages and \
                     {ATOMIC_BATCH_BYTES} bytes"
                );
                (ErrorCode::BatchTooLarge, message)
            }
            Self::NoSuchEnd(last) => {
                let message = format!("no stream ends at offset {last}; -1 is an empty one");
                (ErrorCode::ProtocolViolation, message)
            }
        };
        WireError::new(code, message)
    }
}

/// The batches of one frame that belong to one shard.
#[derive(Default)]
struct Share {
    appends: Vec<Append>,
    /// Their places in the frame.
    items: Vec<usize>,
    bytes: usize,
}

impl Share {
    fn push(&mut self, item: usize, append: Append, expected: usize) {
        if self.appends.is_empty() {
            self.appends.reserve(expected);
            self.items.reserve(expected);
        }
        self.bytes += append.batch.len();
        self.appends.push(append);
        self.items.push(item);
    }

    /// Takes the batches out of the frame, if they are too small a part of it.
    fn copy_out_of(&mut self, frame_bytes: usize) {
        let batches = self.appends.iter_mut().map(|append| &mut append.batch);
        RecordBatch::copy_out(batches, self.bytes, frame_bytes, PINNED_MAX);
    }
}

impl Publisher<'_> {
    async fn run(mut self) -> Result<(), SessionEnd> {
        let window = self.stream.context.limits.unanswered_batches;
        let stopping = self.stream.stopping.clone();
        loop {
            // An item that is refused takes more memory than the bytes it came with.
            let has_room = self.unanswered.len() < window && self.unanswered_items < PUBLISH_ITEMS;
            let reading = has_room && !self.closing && !stopping.is_cancelled();
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
            FrameKind::UnbindStreams => self.on_unbind(&frame).await,
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
        self.answer_all().await?;
        // An alias that is bound again stands for the new stream, or for none.
        self.aliases.remove(bind.alias);
        if self.aliases.is_full() {
            let message = format!("a publisher binds at most {PUBLISHER_STREAMS} streams");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let bound = match self.bind(&bind.stream).await {
            Ok(bound) => {
                let answer = v1::StreamBound {
                    alias: bind.alias,
                    stream_uid: bound.stream.to_wire(),
                    message_bytes_max: bound.message_bytes_max,
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

    /// Frees aliases, and lets their shards forget the producer where the client says that nothing
    /// of it can come late (PQ-1).
    async fn on_unbind(&mut self, frame: &Frame) -> Result<(), SessionEnd> {
        let unbind: v1::UnbindStreams = frame.decode()?;
        // What is under way still needs them, and must be in the log before the producer is
        // forgotten.
        self.answer_all().await?;
        if unbind.aliases.len() > UNBIND_ALIASES {
            let message = format!("a frame frees at most {UNBIND_ALIASES} aliases");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let mut freed = Vec::with_capacity(unbind.aliases.len());
        for alias in unbind.aliases {
            let bound = self.aliases.remove(alias);
            freed.push(bound.ok_or_else(|| Invalid::Unbound.told(alias))?);
        }
        let forgotten = match unbind.forget {
            true => self.forget(freed.iter()).await,
            false => Ok(()),
        };
        let error = forgotten.err().map(|failed| wire_error::propose_failure(failed).into());
        self.stream.writer.send(Frame::new(&v1::StreamsUnbound { error })).await?;
        Ok(())
    }

    async fn bind(&mut self, name: &str) -> Result<Bound, WireError> {
        let name = StreamName::new(name)
            .map_err(|error| WireError::new(ErrorCode::InvalidName, error.to_string()))?;
        let found = self.stream.context.streams.resolve(&name).await?;
        let known = self.shards.iter().position(|shard| shard.id() == found.shard.id());
        let shard = known.unwrap_or_else(|| {
            self.shards.push(found.shard);
            self.shards.len() - 1
        });
        Ok(Bound {
            shard,
            stream: found.stream,
            message_bytes_max: found.facts.spec.max_message_bytes,
            broken: false,
            appended: false,
        })
    }

    /// Checks every batch once and hands them to their shards. What is refused here never reaches a
    /// log; the producer sequence makes what follows it in order fail too.
    async fn on_publish(&mut self, frame: &Frame) -> Result<(), SessionEnd> {
        let publish: v1::Publish = frame.decode()?;
        if publish.items.len() > PUBLISH_ITEMS {
            let message = format!("a publish frame has at most {PUBLISH_ITEMS} items");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let mut blob = frame.blob();
        let frame_bytes = blob.len();
        let items = publish.items.len();
        let mut unanswered =
            Unanswered { items: Vec::with_capacity(items), waiting: VecDeque::new() };
        let mut shares: Vec<Share> = Vec::new();
        shares.resize_with(self.shards.len(), Share::default);
        // An even share, and some more.
        let expected = (items / self.shards.len().max(1) * 9 / 8 + 1).min(items);
        for (at, item) in publish.items.iter().enumerate() {
            let len = item.batch_bytes as usize;
            if len > blob.len() {
                let message = "the batches of a publish frame are shorter than its items say";
                return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
            }
            let bytes = blob.split_to(len);
            let outcome = match self.check(item, bytes) {
                Ok((shard, append)) => {
                    shares[shard].push(at, append, expected);
                    BatchOutcome::Unknown
                }
                Err(invalid) => BatchOutcome::Invalid(invalid),
            };
            unanswered.items.push(ItemState { alias: item.alias, outcome });
        }
        if !blob.is_empty() {
            let message = "the batches of a publish frame are longer than its items say";
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        // There may be a long wait for room.
        drop(publish);
        for (shard, mut share) in self.shards.iter().zip(shares) {
            if !share.appends.is_empty() {
                share.copy_out_of(frame_bytes);
                let result = shard.append(&self.stream.queueing, share.appends).await?;
                unanswered.waiting.push_back((result, share.items));
            }
        }
        // The shards' queues hold the batches, and bound them.
        self.stream.reader.release();
        self.unanswered_items += items;
        self.unanswered.push_back(unanswered);
        Ok(())
    }

    /// The batch as its shard takes it, and the shard's place.
    fn check(&self, item: &v1::PublishItem, bytes: Bytes) -> Result<(usize, Append), Invalid> {
        let bound = self.aliases.get(item.alias).ok_or(Invalid::Unbound)?;
        let limits = &self.stream.context.limits;
        let batch = RecordBatch::validate(bytes, limits, bound.message_bytes_max as usize)
            .map_err(Invalid::Batch)?;
        let mode = match item.mode() {
            v1::PublishMode::PublishEach => AppendMode::Each,
            v1::PublishMode::PublishAtomic => AppendMode::Atomic,
        };
        let over = batch.count() > ATOMIC_BATCH_RECORDS || batch.len() > ATOMIC_BATCH_BYTES;
        if mode == AppendMode::Atomic && over {
            return Err(Invalid::AtomicTooLarge);
        }
        let expected_end = match item.expected_last_offset {
            None => None,
            Some(last) => {
                let end = ExpectedEnd::from_wire(last).ok_or(Invalid::NoSuchEnd(last))?;
                Some(ExpectedNext(end.next_offset().0))
            }
        };
        let repeats_are_new = self.stream.context.planted.is(BuiltinBug::RepeatsAreNew);
        let producer = self.producer.filter(|_| !repeats_are_new).map(|id| ProducerSequence {
            id,
            epoch: self.epoch,
            sequence: item.sequence,
        });
        let append = Append { stream: bound.stream, producer, mode, expected_end, batch };
        Ok((bound.shard, append))
    }

    /// Answers every frame that was read.
    async fn answer_all(&mut self) -> Result<(), SessionEnd> {
        while !self.unanswered.is_empty() {
            let answered = next_answer(&mut self.unanswered).await;
            self.answer(answered).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, answered: Unanswered) -> Result<(), SessionEnd> {
        self.unanswered_items -= answered.items.len();
        let items = answered.items.into_iter().map(|item| self.item_result(item)).collect();
        // While the client takes it, there is the frame and not what it was made of.
        let frame = Frame::new(&v1::PublishResult { items });
        let QuicStream { writer, reader, .. } = &mut *self.stream;
        reader.meanwhile(writer.send(frame)).await??;
        Ok(())
    }

    fn item_result(&mut self, item: ItemState) -> v1::ItemResult {
        let bound = self.aliases.get_mut(item.alias);
        let error = match item.outcome {
            BatchOutcome::Appended(appended) => {
                if let Some(bound) = bound {
                    bound.broken = false;
                    bound.appended = true;
                }
                return v1::ItemResult {
                    base_offset: appended.base.0,
                    ts_us: appended.ts.0,
                    published: appended.count,
                    ..Default::default()
                };
            }
            BatchOutcome::Unknown => wire_error::propose_failure(ProposeFailure::Unknown),
            BatchOutcome::Invalid(invalid) => invalid.told(item.alias),
            BatchOutcome::Refused(refusal) => wire_error::append_refusal(refusal),
            BatchOutcome::Failed(failed) => wire_error::append_failure(failed),
        };
        v1::ItemResult { error: Some(after_broken(bound, error).into()), ..Default::default() }
    }

    async fn end(self) -> Result<(), SessionEnd> {
        if !self.closing {
            return Err(going_away());
        }
        if self.released {
            // Everything it sent is answered, so nothing can come behind this (PQ-1). What fails is
            // forgotten by age.
            self.forget(self.aliases.values().filter(|bound| bound.appended)).await.ok();
        }
        Ok(())
    }

    /// Forgets the producer on the streams of these bindings. A failure leaves open where it is
    /// forgotten.
    async fn forget(&self, bindings: impl Iterator<Item = &Bound>) -> Result<(), ProposeFailure> {
        let Some(producer) = self.producer else { return Ok(()) };
        let mut by_shard: BTreeMap<usize, BTreeSet<StreamUid>> = BTreeMap::new();
        for bound in bindings {
            by_shard.entry(bound.shard).or_default().insert(bound.stream);
        }
        let mut forgotten = Ok(());
        for (shard, streams) in by_shard {
            let streams: Vec<_> = streams.into_iter().collect();
            for streams in streams.chunks(RELEASED_MAX) {
                let streams = streams.to_vec();
                let release = StreamCommand::ReleaseProducer { producer, streams };
                let released = self.shards[shard].command(CommandBody::Stream(release)).await;
                forgotten = forgotten.and(released.map(drop));
            }
        }
        forgotten
    }
}

/// A failed batch as its publisher is told. What follows a refused batch is refused for its sake
/// (PS-2); if that was the producer's first, the shard has not heard of the producer.
fn after_broken(bound: Option<&mut Bound>, mut error: WireError) -> WireError {
    let Some(bound) = bound else { return error };
    let unknown = error.code == ErrorCode::ProducerUnknown;
    if bound.broken && (unknown || error.code == ErrorCode::SequenceGap) {
        error.code = ErrorCode::OrderBroken.into();
        error.message = "an earlier batch of this publisher was refused".to_owned();
    }
    // A producer that was forgotten says nothing definite about what follows: it may have been
    // appended by an earlier attempt.
    bound.broken |= !unknown;
    bound.appended |= error.code == ErrorCode::OutcomeUnknown;
    error
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
    // Otherwise they stay as they are: not known.
    let Ok(outcome) = outcome else { return };
    match outcome {
        Ok(results) => {
            for (&item, result) in items.iter().zip(results) {
                states[item].outcome = match result {
                    Ok(appended) => BatchOutcome::Appended(appended),
                    Err(refusal) => BatchOutcome::Refused(refusal),
                };
            }
        }
        Err(failed) => {
            for &item in items {
                states[item].outcome = BatchOutcome::Failed(failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use railgun_types::batch::{BatchBuilder, RecordDraft};

    use super::*;

    fn batch(value: &[u8]) -> Bytes {
        let mut builder = BatchBuilder::new(1 << 20);
        builder.push(&RecordDraft { value, ..RecordDraft::default() }).unwrap();
        builder.finish().concat()
    }

    /// The share of the first `own` batches of a frame, and the frame's blob.
    fn share(batches: &[Bytes], own: usize) -> (Share, Bytes) {
        let blob = Bytes::from(batches.concat());
        let (mut share, mut rest) = (Share::default(), blob.clone());
        for (at, batch) in batches.iter().take(own).enumerate() {
            let batch = RecordBatch::open(rest.split_to(batch.len())).unwrap();
            let (stream, mode) = (StreamUid([1; 16]), AppendMode::Each);
            let append = Append { stream, producer: None, mode, expected_end: None, batch };
            share.push(at, append, own);
        }
        (share, blob)
    }

    #[test]
    fn a_small_share_does_not_keep_its_frame_alive() {
        let batches = [batch(b"few"), batch(b""), batch(&[7; 500])];
        let (mut small, blob) = share(&batches, 2);
        small.copy_out_of(blob.len());
        assert!(blob.is_unique(), "the share still holds the frame");
        for (append, sent) in small.appends.iter().zip(&batches) {
            assert_eq!(append.batch.as_bytes(), sent);
            assert!(RecordBatch::verify(append.batch.as_bytes().clone()).is_ok());
        }
        // All batches of a frame stay the memory that was received.
        let (mut whole, blob) = share(&batches, 3);
        whole.copy_out_of(blob.len());
        assert_eq!(whole.appends[0].batch.as_bytes().as_ptr(), blob.as_ptr());
    }

    #[test]
    fn refused_bytes_count_as_the_frame() {
        // A valid batch in front of what its client knows to be refused.
        let (mut share, blob) = share(&[batch(b"x"), Bytes::from(vec![7; 1 << 20])], 1);
        share.copy_out_of(blob.len());
        assert!(blob.is_unique());
    }
}
