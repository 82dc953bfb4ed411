//! A publisher's QUIC stream: batches in, results out, in the order of the frames. Owns the aliases
//! and what is un-answered.

mod results;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, MaybeDone, join_all, maybe_done};
use railgun_core::command::{
    Append, AppendMode, CommandBody, ExpectedNext, ProducerSequence, StreamCommand,
};
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::convert::{ExpectedEnd, Uid};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::batch::{PAYLOAD_HASH_BYTES, RecordBatch};
use railgun_types::limits::{
    ATOMIC_BATCH_BYTES, ATOMIC_BATCH_RECORDS, BATCH_BYTES_HARD, PUBLISH_ITEMS, PUBLISHER_STREAMS,
    UNBIND_ALIASES,
};
use railgun_types::{ErrorCode, ProducerId, ShardId, StreamName, StreamUid};
use tokio::sync::OwnedSemaphorePermit;

use super::aliases::{Aliases, Bound};
use super::hints::Hints;
use super::{QuicStream, SessionEnd, end, going_away};
use crate::builtin_bug::BuiltinBug;
use crate::relay::ShardLink;
use crate::replica::ProposeFailure;
use crate::routing::Routing;
use crate::shard::{RequestFailure, SESSION_BYTES, SESSION_ITEMS};
use crate::wire_error;
use results::{BatchOutcome, Invalid, ItemState, Results, Waiting};

/// Batch bytes a publisher may have un-answered, told to the client so that it can bound its memory:
/// as many as all publishers of its connection have room for in the queues of shards. What is more
/// waits there, and QUIC flow control in front of it.
const CREDIT_BYTES: u64 = SESSION_BYTES as u64;
/// A shard keeps the batches of a frame in memory for a while, and with any of them the whole frame.
/// Where they are less than this part of it they are copied instead, so that what is kept alive is
/// at most so many times what is kept. A half would copy every second share of a frame that two
/// shards divide evenly.
const PINNED_MAX: usize = 3;
/// Fewest bytes that an id takes in a batch: its length, itself, the hash of the message.
const ID_BYTES_MIN: usize = 2 + PAYLOAD_HASH_BYTES;
/// Duplicates that take about as much memory as the results of a few batches.
const DUPLICATES_PER_ITEM: usize = 8;
// A frame of the most ids finds room among the results of its connection: beside it a record takes 10 bytes.
const _: () = assert!(
    PUBLISH_ITEMS + BATCH_BYTES_HARD / (ID_BYTES_MIN + 10) / DUPLICATES_PER_ITEM <= SESSION_ITEMS
);
/// Streams on which a producer is forgotten by one log entry.
const RELEASED_MAX: usize = 8_192;

pub(super) async fn serve(
    stream: &mut QuicStream,
    open: v1::OpenPublisher,
) -> Result<(), SessionEnd> {
    let producer = ProducerId::from_wire_if_any("producer_id", &open.producer_id)?;
    if open.ordered && producer.is_none() {
        let message = "an ordered publisher needs a producer id";
        return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
    }
    stream.answer(&v1::PublisherOpened { credit_bytes: CREDIT_BYTES }).await?;
    let hints = open.leader_hints.then(|| Hints::new(stream.context.led.clone()));
    let publisher = Publisher {
        stream,
        producer,
        epoch: open.epoch,
        aliases: Aliases::default(),
        shards: Vec::new(),
        hints,
        owed: Owed::default(),
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
    shards: Vec<ShardLink>,
    /// For a client that wants some.
    hints: Option<Hints>,
    owed: Owed,
    /// Nothing more comes.
    closing: bool,
    /// The client said that the producer will not come back.
    released: bool,
}

/// A frame that is not answered.
enum Unanswered {
    /// With the room for the results among all of the connection.
    Publish(Results, OwnedSemaphorePermit),
    /// The answer is there.
    Bind(v1::StreamBound),
    Unbind {
        aliases: Vec<u32>,
        /// Where the producer is forgotten.
        streams: BTreeSet<StreamUid>,
        /// Begins when everything before it has ended: what is under way must be in the log before
        /// the producer is forgotten.
        forgotten: MaybeDone<BoxFuture<'static, Result<(), RequestFailure>>>,
    },
}

impl Unanswered {
    /// Waits until it can be answered. Cancel safe: what has come stays noted.
    async fn ended(&mut self) {
        match self {
            Self::Publish(results, _) => results.all().await,
            Self::Bind(_) => {}
            Self::Unbind { forgotten, .. } => forgotten.await,
        }
    }
}

/// The frames that are not answered, in their order.
#[derive(Default)]
struct Owed {
    frames: VecDeque<Unanswered>,
    /// Items of all of them.
    items: usize,
}

impl Owed {
    fn push(&mut self, frame: Unanswered) {
        if let Unanswered::Publish(results, _) = &frame {
            self.items += results.items.len();
        }
        self.frames.push_back(frame);
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Waits until the first of them can be answered. Cancel safe: what has come stays noted.
    async fn first_ended(&mut self) {
        match self.frames.front_mut() {
            Some(first) => first.ended().await,
            None => std::future::pending().await,
        }
    }

    /// The answer to the first, which has ended, with the room that is taken until the client has it.
    fn answer(&mut self, aliases: &mut Aliases) -> Option<(Frame, Option<OwnedSemaphorePermit>)> {
        // While the client takes it, there is the frame and not what it was made of.
        Some(match self.frames.pop_front()? {
            Unanswered::Publish(results, room) => {
                self.items -= results.items.len();
                (Frame::new(&results.told(aliases)), Some(room))
            }
            Unanswered::Bind(bound) => (Frame::new(&bound), None),
            Unanswered::Unbind { aliases: left, mut forgotten, .. } => {
                for alias in left {
                    aliases.remove(alias);
                }
                let forgotten = std::pin::Pin::new(&mut forgotten).take_output();
                let error = forgotten.and_then(Result::err);
                let error = error.map(|failed| wire_error::request_failure(failed).into());
                (Frame::new(&v1::StreamsUnbound { error }), None)
            }
        })
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
            let has_room = self.owed.frames.len() < window && self.owed.items < PUBLISH_ITEMS;
            let reading = has_room && !self.closing && !stopping.is_cancelled();
            if !reading && self.owed.is_empty() {
                return self.end().await;
            }
            tokio::select! {
                biased;
                () = self.owed.first_ended(), if !self.owed.is_empty() => {
                    self.answer_first().await?;
                }
                () = stopping.cancelled(), if reading => {}
                frame = self.stream.reader.next(), if reading => match frame? {
                    Some(frame) => self.on_frame(frame).await?,
                    // Gone without a goodbye: it may come back and repeat what is un-answered.
                    None => self.closing = true,
                },
                hint = next_hint(&mut self.hints), if !self.closing && !stopping.is_cancelled() => {
                    self.tell(Frame::new(&hint)).await?;
                }
            }
        }
    }

    async fn on_frame(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        match frame.kind() {
            FrameKind::Publish => self.on_publish(frame).await,
            FrameKind::BindStream => self.on_bind(frame).await,
            FrameKind::UnbindStreams => {
                let unbound = self.on_unbind(frame);
                if unbound.is_err() {
                    // What was sent before is answered all the same.
                    self.answer_all().await?;
                }
                unbound
            }
            FrameKind::ClosePublisher => {
                self.closing = true;
                self.released = true;
                Ok(())
            }
            other => Err(SessionEnd::unexpected(other)),
        }
    }

    async fn on_bind(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        let bind: v1::BindStream = self.stream.open(frame)?;
        // What is un-answered is told as of what the alias stands for now.
        if self.aliases.is_taken(bind.alias) || self.aliases.is_full() {
            self.answer_all().await?;
        }
        // An alias that is bound again stands for the new stream, or for none.
        self.aliases.remove(bind.alias);
        if self.aliases.is_full() {
            let message = format!("a publisher binds at most {PUBLISHER_STREAMS} streams");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let bound = match self.bind(&bind).await {
            Ok(bound) => bound,
            Err(error) => v1::StreamBound {
                alias: bind.alias,
                error: Some(error.into()),
                ..Default::default()
            },
        };
        self.owed.push(Unanswered::Bind(bound));
        Ok(())
    }

    /// Frees aliases, and lets their shards forget the producer where the client says that nothing
    /// of it can come late (PQ-1).
    fn on_unbind(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        let unbind: v1::UnbindStreams = self.stream.open(frame)?;
        if unbind.aliases.len() > UNBIND_ALIASES {
            let message = format!("a frame frees at most {UNBIND_ALIASES} aliases");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let mut freed = Vec::with_capacity(unbind.aliases.len());
        for &alias in &unbind.aliases {
            // What is under way still needs it.
            let bound = self.aliases.leave(alias);
            freed.push(bound.ok_or_else(|| Invalid::Unbound.told(alias))?);
        }
        let (mut streams, mut releases) = (BTreeSet::new(), Vec::new());
        if let Some(producer) = self.producer.filter(|_| unbind.forget) {
            streams.extend(freed.iter().map(|bound| bound.stream));
            releases = self.releases(producer, freed.iter());
        }
        self.owed.push(Unanswered::Unbind {
            aliases: unbind.aliases,
            streams,
            forgotten: maybe_done(forget(releases).boxed()),
        });
        Ok(())
    }

    async fn bind(&mut self, bind: &v1::BindStream) -> Result<v1::StreamBound, WireError> {
        let (alias, name) = (bind.alias, StreamName::new(&bind.stream));
        let name =
            name.map_err(|error| WireError::new(ErrorCode::InvalidName, error.to_string()))?;
        let meant = StreamUid::from_wire_if_any("stream_uid", &bind.stream_uid)?;
        let found = self.stream.context.streams.resolve_meant(&name, meant).await?;
        let place = self.stream.queueing.bind().ok_or_else(|| {
            let message = format!("a connection binds at most {PUBLISHER_STREAMS} streams");
            WireError::new(ErrorCode::QuotaExceeded, message)
        })?;
        let known = self.shards.iter().position(|shard| shard.id() == found.shard.id());
        let shard = known.unwrap_or_else(|| {
            let routing = self.stream.context.streams.routing().clone();
            let relays = self.stream.relays.clone();
            self.shards.push(ShardLink::new(found.shard.id(), routing, relays));
            if let Some(hints) = &mut self.hints {
                hints.add(found.shard.id());
            }
            self.shards.len() - 1
        });
        let (stream, message_bytes_max) = (found.stream, found.facts.spec.max_message_bytes);
        let bound = Bound { shard, stream, message_bytes_max, broken: false, leaving: false };
        self.aliases.insert(alias, bound, place);
        let stream_uid = stream.to_wire();
        let shard = found.shard.id().0;
        Ok(v1::StreamBound { alias, stream_uid, message_bytes_max, error: None, shard })
    }

    /// Checks every batch once and hands them to their shards. What is refused here never reaches a
    /// log; the producer sequence makes what follows it in order fail too.
    async fn on_publish(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        let mut publish: v1::Publish = frame.decode()?;
        let items = publish.items.len();
        if items > PUBLISH_ITEMS {
            let message = format!("a publish frame has at most {PUBLISH_ITEMS} items");
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        let room = match self.stream.queueing.try_count(items) {
            Some(room) => room,
            None => {
                // What is decoded is many times as long as what was sent.
                drop(publish);
                let room = self.room_for(items).await?;
                publish = frame.decode()?;
                room
            }
        };
        if self.is_being_forgotten(&publish.items) {
            // The sequence there begins again behind that.
            for before in &mut self.owed.frames {
                before.ended().await;
            }
        }
        let mut blob = frame.blob();
        let frame_bytes = blob.len();
        let mut results = Results::new(items);
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
            results.items.push(ItemState { alias: item.alias, outcome });
        }
        let ids = shares.iter().flat_map(|share| &share.appends).map(ids_max).sum::<usize>();
        let room = self.room_with_ids(room, items, ids).await?;
        if !blob.is_empty() {
            let message = "the batches of a publish frame are longer than its items say";
            return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
        }
        // There may be a long wait for room.
        drop(publish);
        let is_used = |share: &Share| !share.appends.is_empty();
        shares
            .iter_mut()
            .filter(|share| is_used(share))
            .for_each(|share| share.copy_out_of(frame_bytes));
        let (waiting, untaken) = self.queue(shares).await?;
        results.waiting = waiting;
        self.owed.push(Unanswered::Publish(results, room));
        // The shards' queues hold the batches, and bound them.
        drop((blob, frame));
        let QuicStream { writer, reader, .. } = &mut *self.stream;
        reader.release();
        if !writer.is_flushed() {
            reader.meanwhile(end::rest(writer)).await??;
        }
        drop(untaken);
        Ok(())
    }

    /// Queues the batches of a frame at their shards. While they wait for room there, the frames before
    /// it are answered; the client may still have to take the rest of such an answer, and the room of its
    /// results with it.
    async fn queue(
        &mut self,
        shares: Vec<Share>,
    ) -> Result<(Waiting, Option<OwnedSemaphorePermit>), SessionEnd> {
        let Self { stream, shards, owed, aliases, .. } = self;
        let QuicStream { queueing, writer, reader, .. } = &mut **stream;
        // Of the answer that the client takes.
        let mut untaken = None;
        let queue = async {
            let mut waiting = Waiting::new();
            for (shard, share) in shards.iter_mut().zip(shares) {
                if !share.appends.is_empty() {
                    let result = shard.append(queueing, share.appends).await?;
                    waiting.push_back((result, share.items));
                }
            }
            Ok(waiting)
        };
        let answer = async {
            loop {
                owed.first_ended().await;
                if let Some((frame, room)) = owed.answer(aliases) {
                    untaken = room;
                    // Nothing of it is lost when the other half has done first.
                    let sent = end::answer(writer, frame);
                    reader.meanwhile(sent).await??;
                }
            }
        };
        let waiting: Result<_, SessionEnd> = tokio::select! {
            biased;
            waiting = queue => waiting,
            ended = answer => ended,
        };
        Ok((waiting?, untaken))
    }

    /// Waits until the connection has room for so many results. Others of its publishers have it until
    /// the client takes theirs, or has not in time; this one must not keep any from them meanwhile.
    async fn room_for(&mut self, items: usize) -> Result<OwnedSemaphorePermit, SessionEnd> {
        self.answer_all().await?;
        let QuicStream { queueing, reader, .. } = &mut *self.stream;
        reader.meanwhile(queueing.count(items)).await?.ok_or_else(going_away)
    }

    /// Room for the results of a frame whose messages have so many ids: each may be a duplicate, of which
    /// there is something to tell. Who has the room for its batches gives it back before it waits.
    async fn room_with_ids(
        &mut self,
        room: OwnedSemaphorePermit,
        items: usize,
        ids: usize,
    ) -> Result<OwnedSemaphorePermit, SessionEnd> {
        if ids < DUPLICATES_PER_ITEM {
            return Ok(room);
        }
        drop(room);
        let items = items + ids / DUPLICATES_PER_ITEM;
        match self.stream.queueing.try_count(items) {
            Some(room) => Ok(room),
            None => self.room_for(items).await,
        }
    }

    /// Whether one of the items goes to a stream on which the producer is to be forgotten first.
    fn is_being_forgotten(&self, items: &[v1::PublishItem]) -> bool {
        let forgets = |unanswered: &Unanswered| match unanswered {
            Unanswered::Unbind { streams, .. } if !streams.is_empty() => {
                let mut bound = items.iter().filter_map(|item| self.aliases.get(item.alias));
                bound.any(|bound| streams.contains(&bound.stream))
            }
            _ => false,
        };
        self.owed.frames.iter().any(forgets)
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
        let append =
            Append { stream: bound.stream, producer, mode, expected_end, dead_letter: None, batch };
        Ok((bound.shard, append))
    }

    /// Answers every frame that was read.
    async fn answer_all(&mut self) -> Result<(), SessionEnd> {
        while !self.owed.is_empty() {
            self.owed.first_ended().await;
            self.answer_first().await?;
        }
        Ok(())
    }

    /// Answers the first frame, which has ended.
    async fn answer_first(&mut self) -> Result<(), SessionEnd> {
        let Some((frame, _room)) = self.owed.answer(&mut self.aliases) else { return Ok(()) };
        self.tell(frame).await
    }

    async fn tell(&mut self, frame: Frame) -> Result<(), SessionEnd> {
        tell(&mut self.stream.writer, &mut self.stream.reader, frame).await
    }

    async fn end(self) -> Result<(), SessionEnd> {
        if !self.closing {
            return Err(going_away());
        }
        if let Some(producer) = self.producer.filter(|_| self.released) {
            // Everything it sent is answered, so nothing can come behind this (PQ-1). What fails is
            // forgotten by age.
            forget(self.releases(producer, self.aliases.values())).await.ok();
        }
        Ok(())
    }

    /// What has the producer forgotten on the streams of these bindings.
    fn releases<'b>(
        &self,
        producer: ProducerId,
        bindings: impl Iterator<Item = &'b Bound>,
    ) -> Vec<(Routing, ShardId, CommandBody)> {
        let mut by_shard: BTreeMap<usize, BTreeSet<StreamUid>> = BTreeMap::new();
        for bound in bindings {
            by_shard.entry(bound.shard).or_default().insert(bound.stream);
        }
        let mut releases = Vec::new();
        for (shard, streams) in by_shard {
            let streams: Vec<_> = streams.into_iter().collect();
            for streams in streams.chunks(RELEASED_MAX) {
                let (epoch, streams) = (self.epoch, streams.to_vec());
                let release = StreamCommand::ReleaseProducer { producer, epoch, streams };
                let link = &self.shards[shard];
                let body = CommandBody::Stream(release);
                releases.push((link.routing().clone(), link.id(), body));
            }
        }
        releases
    }
}

/// Most ids that the messages of a batch have.
fn ids_max(append: &Append) -> usize {
    (append.batch.id_bytes() / ID_BYTES_MIN).min(append.batch.count())
}

/// Has shards forget a producer, all at the same time.
///
/// # Errors
/// What is said to have been refused was refused everywhere: nothing is forgotten, now or later.
async fn forget(releases: Vec<(Routing, ShardId, CommandBody)>) -> Result<(), RequestFailure> {
    let unknown = RequestFailure::Proposal(ProposeFailure::Unknown);
    let asked = releases.into_iter();
    let asked = asked.map(|(routing, shard, release)| async move {
        routing.request(shard, release).await.map(drop)
    });
    let ended = join_all(asked).await;
    let Some(&failed) = ended.iter().find(|ended| ended.is_err()) else { return Ok(()) };
    let is_refused =
        |ended: &Result<(), RequestFailure>| ended.is_err_and(|failure| failure != unknown);
    if ended.iter().all(is_refused) { failed } else { Err(unknown) }
}

/// What a client that wants hints is to be told next. Cancel safe.
async fn next_hint(hints: &mut Option<Hints>) -> v1::LeaderHint {
    match hints {
        Some(hints) => hints.next().await,
        None => std::future::pending().await,
    }
}

/// Sends a frame while nothing is read.
async fn tell(
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    frame: Frame,
) -> Result<(), SessionEnd> {
    reader.meanwhile(end::answer(writer, frame)).await?
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
            let append = Append {
                stream,
                producer: None,
                mode,
                expected_end: None,
                dead_letter: None,
                batch,
            };
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
