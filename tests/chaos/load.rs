//! Clients at work during a round: publishers whose window is always full, and readers on every node.
//! Everything they are told goes into the history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use railgun_client::{
    Client, Event, Offset, PublishError, Publisher, Retry, SendError, StartPosition, StreamName,
    StreamUid, SubscribeError, Subscription, Ticket,
};
use railgun_testkit::sim::{End, History, LaneId, MessageId, Random, Said};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::STREAMS;
use crate::cluster::{Cluster, NODES};

/// Messages of a publisher without an answer: more in number than the batches that it has on their way.
const WINDOW: usize = 256;
/// Bytes of a value.
const VALUE_BYTES: std::ops::Range<u64> = 16..400;
/// One message in so many is long.
const LONG_EVERY: u64 = 500;
const LONG_BYTES: usize = 40_000;
/// Between two messages of a stream that has consumer groups: each of these is looked at by itself.
const PAUSE: Duration = Duration::from_millis(1);
/// How long it may take until everything is answered once nothing is wrong any more, and until every
/// reader has it.
const ENDED_LIMIT: Duration = Duration::from_secs(20);
/// A reader that was told to try again does so after this.
const AGAIN: Duration = Duration::from_millis(100);

/// A stream of a round.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) name: StreamName,
    pub(crate) uid: StreamUid,
}

/// What clients noticed besides the history.
#[derive(Debug, Default)]
pub(crate) struct Noticed {
    /// The longest time between two acks of one publisher.
    pub(crate) gap: Duration,
    /// What failed without breaking a rule.
    pub(crate) failures: Vec<String>,
}

/// Everybody at work.
#[derive(Debug)]
pub(crate) struct Load {
    history: History,
    publishers: JoinSet<Noticed>,
    readers: JoinSet<Vec<String>>,
    /// Acks of each publisher.
    acks: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    /// Where each stream ended, once nobody publishes any more.
    ends: watch::Sender<Option<Vec<Offset>>>,
    streams: Vec<Stream>,
}

impl Load {
    /// Two publishers of the first stream, of which one stays with the server that it has and so goes by relays,
    /// one of each other, and a reader of each on each node. Streams behind the first `STREAMS` get few messages.
    pub(crate) async fn start(
        cluster: &Cluster,
        streams: &[Stream],
        history: &History,
        random: &mut Random,
    ) -> Self {
        let mut load = Self {
            history: history.clone(),
            publishers: JoinSet::new(),
            readers: JoinSet::new(),
            acks: Vec::new(),
            stop: Arc::default(),
            ends: watch::channel(None).0,
            streams: streams.to_vec(),
        };
        for (at, stream) in streams.iter().take(1).chain(streams).enumerate() {
            let mut options = cluster.options(&[0, 1, 2]);
            options.follow_leaders = at > 0;
            let client = Cluster::connected(options, ENDED_LIMIT).await;
            let opened = client.publisher(stream.name.clone()).open().await;
            let acks = Arc::<AtomicU64>::default();
            load.acks.push(Arc::clone(&acks));
            let lane = Lane {
                publisher: opened.expect("nothing is wrong yet"),
                _client: client,
                stream: stream.uid,
                lane: history.lane(true),
                history: history.clone(),
                random: random.fork(),
                open: VecDeque::new(),
                acks,
                pause: if at > STREAMS { PAUSE } else { Duration::ZERO },
                acked_at: Instant::now(),
                noticed: Noticed::default(),
            };
            load.publishers.spawn(lane.run(Arc::clone(&load.stop)));
        }
        for node in 0..NODES {
            let client = cluster.client(&[node], ENDED_LIMIT).await;
            for (index, stream) in streams.iter().enumerate() {
                let reader = Reader {
                    name: format!("the reader of node {}", node + 1),
                    client: client.clone(),
                    stream: stream.clone(),
                    next: Offset(0),
                    history: history.clone(),
                    failures: Vec::new(),
                };
                load.readers.spawn(reader.run(index, load.ends.subscribe()));
            }
        }
        load
    }

    /// Acks of each publisher so far.
    pub(crate) fn acks(&self) -> Vec<u64> {
        self.acks.iter().map(|acks| acks.load(Ordering::Relaxed)).collect()
    }

    /// Nothing more is published; waits until everything is answered and every reader has read it.
    pub(crate) async fn end(mut self) -> Noticed {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Noticed::default();
        let answered = async {
            while let Some(ended) = self.publishers.join_next().await {
                let Noticed { gap, failures } = ended.expect("a publisher does not panic");
                all.gap = all.gap.max(gap);
                all.failures.extend(failures);
            }
        };
        if tokio::time::timeout(ENDED_LIMIT, answered).await.is_err() {
            let left = self.publishers.len();
            let how = format_args!("{left} publishers wait for answers after {ENDED_LIMIT:?}");
            self.history.violated("liveness", how);
        }
        let end = |stream: &Stream| self.history.acked_end(stream.uid);
        self.ends.send_replace(Some(self.streams.iter().map(end).collect()));
        let read = async {
            while let Some(failures) = self.readers.join_next().await {
                all.failures.extend(failures.expect("a reader does not panic"));
            }
        };
        if tokio::time::timeout(ENDED_LIMIT, read).await.is_err() {
            let left = self.readers.len();
            let how = format_args!("{left} readers are not at the end after {ENDED_LIMIT:?}");
            self.history.violated("liveness", how);
        }
        all
    }
}

/// A publisher's messages.
struct Lane {
    publisher: Publisher,
    // Lives as long as the publisher.
    _client: Client,
    stream: StreamUid,
    lane: LaneId,
    history: History,
    random: Random,
    open: VecDeque<(MessageId, Ticket)>,
    acks: Arc<AtomicU64>,
    /// Between two messages.
    pause: Duration,
    acked_at: Instant,
    noticed: Noticed,
}

impl Lane {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Noticed {
        while !stop.load(Ordering::Relaxed) && self.history.is_sound() {
            self.send().await;
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
            while self.open.len() >= WINDOW {
                self.settle_first().await;
            }
        }
        while !self.open.is_empty() {
            self.settle_first().await;
        }
        self.noticed
    }

    async fn send(&mut self) {
        let bytes = match self.random.below(LONG_EVERY) {
            0 => LONG_BYTES,
            _ => self.random.within(VALUE_BYTES) as usize,
        };
        let (id, message) = self.history.message(self.stream, self.lane, bytes);
        match self.publisher.send(message).await {
            Ok(ticket) => self.open.push_back((id, ticket)),
            Err(error) => {
                self.history.ended(id, End::Refused);
                let is_broken = matches!(error, SendError::OrderBroken { .. });
                self.failed(error.to_string(), !is_broken).await;
            }
        }
    }

    async fn settle_first(&mut self) {
        let Some((id, ticket)) = self.open.pop_front() else { return };
        match ticket.await {
            Ok(published) => {
                self.history.ended(id, End::Published(published.offset, published.ts));
                self.acks.fetch_add(1, Ordering::Relaxed);
                let now = Instant::now();
                self.noticed.gap = self.noticed.gap.max(now - self.acked_at);
                self.acked_at = now;
            }
            Err(error) => {
                let end = if error.is_definite() { End::Refused } else { End::Unknown };
                self.history.ended(id, end);
                // No fault lasts as long as the publisher is patient.
                if !is_excused(&error) {
                    let how = format_args!("a publisher was told: {error}");
                    self.history.violated("PQ-1", how);
                }
                self.failed(error.to_string(), !matches!(error, PublishError::OrderBroken)).await;
            }
        }
    }

    /// What is behind what failed fails with it, and what is in one batch with it; then it begins again.
    /// `is_cause`: that is no consequence itself.
    async fn failed(&mut self, how: String, mut is_cause: bool) {
        for (id, ticket) in std::mem::take(&mut self.open) {
            let end = match ticket.await {
                Ok(published) => End::Published(published.offset, published.ts),
                Err(error) => {
                    is_cause |= !matches!(error, PublishError::OrderBroken);
                    if error.is_definite() { End::Refused } else { End::Unknown }
                }
            };
            self.history.ended(id, end);
        }
        if !is_cause {
            let how = format_args!("nothing has failed, and a publisher was told: {how}");
            self.history.violated("PS-2", how);
        }
        self.noticed.failures.push(how);
        self.publisher.resume().await;
        self.lane = self.history.lane(true);
    }
}

/// Whether a publisher that does nothing wrong may be told this.
fn is_excused(error: &PublishError) -> bool {
    match error {
        PublishError::Refused(error) => error.retry != Retry::Never,
        PublishError::OrderBroken => true,
        PublishError::NotSent { .. } | PublishError::Unknown { .. } => false,
        // Its messages have no ids.
        PublishError::IdConflict { .. } | PublishError::Duplicate { .. } => false,
    }
}

/// Follows a stream.
struct Reader {
    name: String,
    client: Client,
    stream: Stream,
    next: Offset,
    history: History,
    failures: Vec<String>,
}

impl Reader {
    /// Until everything that was acked is read. Returns what failed.
    async fn run(
        mut self,
        index: usize,
        mut ends: watch::Receiver<Option<Vec<Offset>>>,
    ) -> Vec<String> {
        while self.history.is_sound() {
            match self.follow(index, &mut ends).await {
                Ok(()) => break,
                Err(error) => self.judge(&error).await,
            }
        }
        self.failures
    }

    async fn follow(
        &mut self,
        index: usize,
        ends: &mut watch::Receiver<Option<Vec<Offset>>>,
    ) -> Result<(), SubscribeError> {
        let subscribe = self.client.subscribe(self.stream.name.clone());
        let mut following = subscribe.start(StartPosition::Offset(self.next)).open().await?;
        loop {
            let end = ends.borrow_and_update().as_ref().map(|ends| ends[index]);
            if end.is_some_and(|end| self.next >= end) {
                return Ok(());
            }
            tokio::select! {
                biased;
                Ok(()) = ends.changed() => {}
                read = self.read_some(&mut following) => read?,
            }
        }
    }

    /// Cancel-safe.
    async fn read_some(&mut self, following: &mut Subscription) -> Result<(), SubscribeError> {
        match following.next_batch().await? {
            Some(Event::Data(batch)) => {
                for record in batch.records() {
                    let at = (record.offset, record.ts);
                    self.history.follows("PS-5", self.stream.uid, &mut self.next, at.0);
                    let said = Said::from(record);
                    self.history.read(self.stream.uid, at.0, at.1, &said, &self.name);
                }
            }
            Some(Event::Removed(removed)) => {
                let how =
                    format_args!("nothing was removed, and {} is told {removed:?}", self.name);
                self.history.violated("PS-5", how);
            }
            None => {
                let how = format_args!("{} follows, and is told of an end", self.name);
                self.history.violated("PS-5", how);
            }
        }
        Ok(())
    }

    async fn judge(&mut self, error: &SubscribeError) {
        if error.retry() == Retry::Never {
            let how = format_args!("{} was told: {error}", self.name);
            return self.history.violated("PS-5", how);
        }
        self.failures.push(format!("{}: {error}", self.name));
        tokio::time::sleep(AGAIN).await;
    }
}
