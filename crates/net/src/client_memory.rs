//! Bounds the memory that the clients of a node take together, and that of one connection within it.
//!
//! A [`MemoryPool`] is bytes that all clients of a node share. Each connection is a [`Member`]: it has
//! a small part of its own, which no other can take, and takes the rest from what is shared, first
//! come, first served, up to a bound. What is too much waits, which stops the client by flow control.
//! Nobody who holds bytes of a pool waits for more of it, so that there is always somebody who goes on.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use railgun_types::limits::BATCH_BYTES_HARD;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The largest frame: what a connection may have of a pool at least, or it could never come whole.
const FRAME_BYTES: usize = BATCH_BYTES_HARD + (1 << 20);
/// Bytes of a pool that one connection may have at most. Several of the largest frames fit.
const MEMBER_BYTES_MAX: usize = 64 << 20;
/// The part of what is shared that one connection may have.
const MEMBER_PART: usize = 8;
/// What a connection has of a pool for itself: at most, and where there are as many connections as
/// [`ClientMemory::connections_max`] says. With less it would serve no frame above the first datagrams
/// of a stream, which take no memory at all.
const OWN_BYTES_MAX: usize = 64 << 10;
const OWN_BYTES_MIN: usize = 16 << 10;
/// Bytes that all clients may take together, at least: for frames and for records the largest
/// frame must fit.
const BYTES_MIN: usize = 64 << 20;
/// How long a client may take for bytes whose memory others wait for, besides what a line of
/// `CROWDED_LINE_BYTES` a second takes for them.
const CROWDED_TIME: Duration = Duration::from_secs(5);
const CROWDED_LINE_BYTES: usize = 1 << 20;
/// How often whoever holds shared memory looks whether others have begun to wait.
pub const CROWD_CHECK: Duration = Duration::from_secs(1);

/// How long a client may take to send or to take so many bytes while others wait for their memory.
#[must_use]
pub fn crowded_time(bytes: usize) -> Duration {
    CROWDED_TIME + Duration::from_secs((bytes / CROWDED_LINE_BYTES) as u64)
}

/// The memory of a node's clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientMemory {
    frames: MemoryPool,
    records: MemoryPool,
    bytes: usize,
}

/// What clients take, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFigures {
    /// For frames that come in.
    pub frames: PoolFigures,
    /// For records that are read.
    pub records: PoolFigures,
}

/// What is taken of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Bytes that all share.
    pub bytes_max: usize,
    /// Those of them that are taken.
    pub bytes: usize,
    /// Streams that wait for some.
    pub waiting: usize,
}

impl ClientMemory {
    /// Of so many bytes, half of them for frames and half for records, where so many connections
    /// may be made. Of either half, half is divided among the connections, and the rest is shared.
    /// Less than 64 MiB counts as 64 MiB.
    #[must_use]
    pub fn new(bytes: usize, connections_max: usize) -> Self {
        let bytes = bytes.max(BYTES_MIN);
        let quarter = bytes / 4;
        let pool = || MemoryPool::new(quarter, quarter / connections_max.max(1));
        Self { frames: pool(), records: pool(), bytes }
    }

    /// So many connections, at most, have a part of so many bytes that serves small frames and small
    /// reads whatever others do.
    #[must_use]
    pub fn connections_max(bytes: usize) -> usize {
        bytes / 4 / OWN_BYTES_MIN
    }

    /// The memory with which so many connections may be made: the reverse.
    #[must_use]
    pub fn bytes_for(connections: usize) -> usize {
        connections.saturating_mul(4 * OWN_BYTES_MIN)
    }

    /// What is taken now.
    #[must_use]
    pub fn figures(&self) -> MemoryFigures {
        MemoryFigures { frames: self.frames.figures(), records: self.records.figures() }
    }

    /// A part of the memory for records, as each connection has one: for readers without a connection.
    #[must_use]
    pub fn reader(&self) -> Member {
        self.records.member()
    }

    /// What all clients may send before it is read, but for a little of each: as much as frames, or
    /// records, may take.
    pub(crate) fn windows_bytes(&self) -> usize {
        self.bytes / 2
    }

    /// The parts of a connection that was just made.
    pub(crate) fn join(&self) -> ConnectionMemory {
        ConnectionMemory {
            frames: Some(self.frames.member()),
            records: Some(self.records.member()),
        }
    }
}

/// The parts of one connection; none for a connection we made, on which comes what we asked for. Cheap
/// to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionMemory {
    pub(crate) frames: Option<Member>,
    pub(crate) records: Option<Member>,
}

/// Bytes that all clients of a node share.
#[derive(Clone)]
struct MemoryPool(Arc<Pool>);

struct Pool {
    shared: Arc<Store>,
    shared_bytes: usize,
    own_bytes: usize,
    member_bytes: usize,
    waiting: AtomicUsize,
}

/// Bytes to be taken and given back.
struct Store {
    free: Semaphore,
    /// How often some were given back.
    returns: AtomicU64,
}

impl Store {
    fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(bytes), returns: AtomicU64::new(0) })
    }

    fn left(&self) -> usize {
        self.free.available_permits()
    }

    fn try_take(self: &Arc<Self>, bytes: u32) -> Option<Taken> {
        self.free.try_acquire_many(bytes).ok()?.forget();
        Some(Taken { from: Arc::clone(self), bytes })
    }

    /// Waits in a queue, for as long as others give some back: `None` when they have not for so long.
    async fn take(self: &Arc<Self>, bytes: u32, patience: Duration) -> Option<Taken> {
        let mut acquiring = pin!(self.free.acquire_many(bytes));
        loop {
            let before = self.returns.load(Ordering::Relaxed);
            match timeout(patience, &mut acquiring).await {
                Ok(acquired) => {
                    // It is never closed.
                    acquired.ok()?.forget();
                    return Some(Taken { from: Arc::clone(self), bytes });
                }
                Err(_) if self.returns.load(Ordering::Relaxed) == before => return None,
                Err(_) => {}
            }
        }
    }
}

/// Some of them, given back when dropped.
struct Taken {
    from: Arc<Store>,
    bytes: u32,
}

impl Taken {
    fn split(&mut self, bytes: usize) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Self { from: Arc::clone(&self.from), bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.returns.fetch_add(1, Ordering::Relaxed);
        self.from.free.add_permits(self.bytes as usize);
    }
}

impl MemoryPool {
    fn new(shared_bytes: usize, own_bytes: usize) -> Self {
        let shared_bytes = shared_bytes.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Pool {
            shared: Store::new(shared_bytes),
            shared_bytes,
            own_bytes: own_bytes.min(OWN_BYTES_MAX),
            member_bytes: (shared_bytes / MEMBER_PART).clamp(FRAME_BYTES, MEMBER_BYTES_MAX),
            waiting: AtomicUsize::new(0),
        }))
    }

    fn member(&self) -> Member {
        Member {
            pool: self.clone(),
            own: Store::new(self.0.own_bytes),
            part: Store::new(self.0.member_bytes),
            waiting: Arc::default(),
            stream: None,
        }
    }

    fn figures(&self) -> PoolFigures {
        let bytes_max = self.0.shared_bytes;
        PoolFigures {
            bytes_max,
            bytes: bytes_max - self.0.shared.left(),
            waiting: self.0.waiting.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for MemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.figures().fmt(f)
    }
}

/// One connection's part of a pool. Cheap to clone.
#[derive(Clone)]
pub struct Member {
    pool: MemoryPool,
    /// What no other connection can take.
    own: Arc<Store>,
    /// How much of what is shared it may take.
    part: Arc<Store>,
    /// Its own streams that wait for that.
    waiting: Arc<AtomicUsize>,
    /// Where it is one of these: what this one waits for.
    stream: Option<Arc<OfStream>>,
}

/// Waits of one stream.
#[derive(Default)]
struct OfStream {
    part: AtomicUsize,
    shared: AtomicUsize,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, part) = (self.own.left(), self.part.left());
        f.debug_struct("Member").field("own_free", &own).field("part_free", &part).finish()
    }
}

/// Bytes of a pool, given back when dropped.
pub struct Held(Permits);

enum Permits {
    Own(Taken),
    Shared { part: Taken, shared: Taken },
}

impl Held {
    /// Whether others may wait for it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Permits::Shared { .. })
    }

    /// How many.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let (Permits::Own(taken) | Permits::Shared { shared: taken, .. }) = &self.0;
        taken.bytes as usize
    }

    /// Takes so many of them out of it; `None` if it has fewer.
    pub fn split(&mut self, bytes: usize) -> Option<Self> {
        Some(Self(match &mut self.0 {
            Permits::Own(own) => Permits::Own(own.split(bytes)?),
            Permits::Shared { part, shared } => {
                Permits::Shared { part: part.split(bytes)?, shared: shared.split(bytes)? }
            }
        }))
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, is_shared) = (self.bytes(), self.is_shared());
        f.debug_struct("Held").field("bytes", &bytes).field("is_shared", &is_shared).finish()
    }
}

impl Member {
    /// The same part, for one stream of the connection: [`is_crowded`](Self::is_crowded) and
    /// [`is_wanted`](Self::is_wanted) leave out what it waits for itself.
    #[must_use]
    pub fn of_stream(&self) -> Self {
        Self { stream: Some(Arc::default()), ..self.clone() }
    }

    /// Takes so many bytes, if they are free. More than a connection may have counts as that.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<Held> {
        if bytes <= self.pool.0.own_bytes
            && let Some(own) = self.own.try_take(permits(bytes))
        {
            return Some(Held(Permits::Own(own)));
        }
        let bytes = self.counted(bytes);
        let part = self.part.try_take(bytes)?;
        let shared = self.pool.0.shared.try_take(bytes)?;
        Some(Held(Permits::Shared { part, shared }))
    }

    /// Takes so many bytes, and waits for them: for those of its own or those of all, whatever comes
    /// first. Must not be called by who holds bytes that only this call would make it give back.
    /// Cancel-safe; whoever begins anew is the last in the queue.
    pub async fn take(&self, bytes: usize) -> Held {
        match self.take_within(bytes, Duration::MAX).await {
            Some(held) => held,
            None => std::future::pending().await,
        }
    }

    /// As [`take`](Self::take), but not for ever: `None` when nobody has given back any of what is
    /// waited for, its own part or that of all, for so long.
    pub(crate) async fn take_within(&self, bytes: usize, patience: Duration) -> Option<Held> {
        if let Some(held) = self.try_take(bytes) {
            return Some(held);
        }
        let is_small = bytes <= self.pool.0.own_bytes;
        tokio::select! {
            biased;
            own = self.own.take(permits(bytes), Duration::MAX), if is_small => {
                own.map(Permits::Own).map(Held)
            }
            held = self.take_shared(self.counted(bytes), patience) => held,
        }
    }

    async fn take_shared(&self, bytes: u32, patience: Duration) -> Option<Held> {
        let part = {
            let _waiting = self.part_waits().enter();
            self.part.take(bytes, patience).await?
        };
        let _waiting = self.shared_waits().enter();
        let shared = self.pool.0.shared.take(bytes, patience).await?;
        Some(Held(Permits::Shared { part, shared }))
    }

    /// How much of what is shared it may have at most.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.pool.0.member_bytes
    }

    /// What it has of its own.
    #[must_use]
    pub fn own_bytes_max(&self) -> usize {
        self.pool.0.own_bytes
    }

    /// What there is of its own now: so many bytes can be taken whatever others do.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        self.own.left()
    }

    /// Whether it is others who have taken what is shared, so that there are not so many bytes left.
    #[must_use]
    pub fn is_short(&self, bytes: usize) -> bool {
        self.pool.0.shared.left() < self.counted(bytes) as usize
    }

    /// Whether others wait for what is shared.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.shared_waits().are_of_others()
    }

    /// The same, or other streams of this connection for its part.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_crowded() || self.part_waits().are_of_others()
    }

    fn part_waits(&self) -> Waits<'_> {
        Waits { all: &self.waiting, own: self.stream.as_ref().map(|stream| &stream.part) }
    }

    fn shared_waits(&self) -> Waits<'_> {
        let own = self.stream.as_ref().map(|stream| &stream.shared);
        Waits { all: &self.pool.0.waiting, own }
    }

    fn counted(&self, bytes: usize) -> u32 {
        permits(bytes.min(self.pool.0.member_bytes))
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// How many wait for something, and how many of them are one and the same stream.
#[derive(Clone, Copy)]
struct Waits<'a> {
    all: &'a AtomicUsize,
    own: Option<&'a AtomicUsize>,
}

impl<'a> Waits<'a> {
    /// One more, for as long as this lives.
    fn enter(self) -> Waiting<'a> {
        for count in self.counts() {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Waiting(self)
    }

    fn are_of_others(self) -> bool {
        let own = self.own.map_or(0, |own| own.load(Ordering::Relaxed));
        self.all.load(Ordering::Relaxed) > own
    }

    fn counts(self) -> impl Iterator<Item = &'a AtomicUsize> {
        std::iter::once(self.all).chain(self.own)
    }
}

struct Waiting<'a>(Waits<'a>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        for count in self.0.counts() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::tests::poll_once;

    fn small() -> ClientMemory {
        ClientMemory::new(BYTES_MIN, 512)
    }

    fn member(memory: &ClientMemory) -> Member {
        memory.join().frames.expect("a client has one")
    }

    #[test]
    fn the_parts_are_the_whole() {
        let memory = ClientMemory::new(1 << 30, 1 << 12);
        let pool = &memory.frames.0;
        assert_eq!(pool.shared_bytes, 256 << 20);
        assert_eq!(pool.own_bytes << 12, 256 << 20);
        assert_eq!(pool.member_bytes, 32 << 20);
        assert_eq!(small().frames.0.member_bytes, FRAME_BYTES, "any frame fits");
        assert!(small().frames.0.shared_bytes >= FRAME_BYTES);
    }

    #[tokio::test]
    async fn what_is_its_own_cannot_be_taken_by_others() {
        let memory = small();
        let greedy: Vec<_> = (0..20).map(|_| member(&memory)).collect();
        let taken: Vec<_> = greedy.iter().map_while(|it| it.try_take(FRAME_BYTES)).collect();
        assert!(!taken.is_empty() && taken.len() < greedy.len());
        assert!(taken.iter().all(Held::is_shared));

        let modest = member(&memory);
        let own = modest.own_bytes();
        assert_eq!(own, 32 << 10);
        let held = modest.take(own).await;
        assert!(!held.is_shared());
        // What is large waits for those in front of it.
        let mut large = pin!(modest.take(FRAME_BYTES));
        assert!(poll_once(large.as_mut()).is_pending());
        assert!(modest.is_crowded() && modest.is_short(FRAME_BYTES));
        assert_eq!(memory.figures().frames.waiting, 1);
        // What is small waits for the first that ends.
        let mut next = pin!(modest.take(own));
        assert!(poll_once(next.as_mut()).is_pending());
        drop(held);
        assert!(poll_once(next.as_mut()).is_ready());
        drop(taken);
        assert!(poll_once(large.as_mut()).is_ready());
        let figures = memory.figures().frames;
        assert_eq!(figures.waiting, 0);
    }

    #[tokio::test]
    async fn one_connection_has_its_part_and_no_more() {
        let memory = ClientMemory::new(1 << 30, 1_000);
        let greedy = member(&memory);
        let taken: Vec<_> = std::iter::from_fn(|| greedy.try_take(8 << 20)).collect();
        assert_eq!((taken.len(), greedy.bytes_max()), (4, 32 << 20));
        assert_eq!(memory.figures().frames.bytes, 32 << 20);
        let mut more = pin!(greedy.take(1 << 20));
        assert!(poll_once(more.as_mut()).is_pending());
        assert!(!greedy.is_crowded(), "nobody but itself is in its way");
        assert!(greedy.is_wanted());
        assert!(!greedy.is_short(1 << 20));
        assert!(member(&memory).try_take(8 << 20).is_some());
        // Records and frames are in nobody's way.
        assert_eq!(memory.figures().records.bytes, 0);
        drop(taken);
        drop(more.await);
        assert_eq!(memory.figures().frames.bytes, 0);
        let mut held = greedy.try_take(20 << 20).expect("there is enough");
        assert!(held.split(30 << 20).is_none());
        let some = held.split(15 << 20).expect("it has as many");
        assert_eq!((held.bytes(), some.bytes()), (5 << 20, 15 << 20));
        drop(some);
        assert_eq!(memory.figures().frames.bytes, 5 << 20);
        drop(held);
        // More than it may have waits for all of that, not for ever.
        drop(greedy.take(usize::MAX).await);
    }

    #[tokio::test]
    async fn a_stream_is_not_in_its_own_way() {
        let memory = ClientMemory::new(1 << 30, 1_000);
        let client = member(&memory);
        let [stream, other] = [client.of_stream(), client.of_stream()];
        for of_others in [false, true] {
            let crowd: Vec<_> = match of_others {
                true => (0..8).filter_map(|_| member(&memory).try_take(32 << 20)).collect(),
                false => client.try_take(32 << 20).into_iter().collect(),
            };
            let mut waits = pin!(stream.take(1 << 20));
            assert!(poll_once(waits.as_mut()).is_pending());
            assert!(!stream.is_wanted() && other.is_wanted() && client.is_wanted());
            assert_eq!((stream.is_crowded(), other.is_crowded()), (false, of_others));
            let mut more = pin!(other.take(1 << 20));
            assert!(poll_once(more.as_mut()).is_pending());
            assert!(stream.is_wanted() && other.is_wanted());
            drop(crowd);
            assert!(poll_once(waits.as_mut()).is_ready() && poll_once(more.as_mut()).is_ready());
            assert!(!stream.is_wanted() && !client.is_wanted());
        }
    }

    /// Waits for memory of the size of a frame, and uses it for ten seconds; when it had it.
    async fn use_it(member: &Member) -> Option<Instant> {
        let held = member.take_within(FRAME_BYTES, Duration::from_secs(15)).await?;
        let since = Instant::now();
        sleep(Duration::from_secs(10)).await;
        drop(held);
        Some(since)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_nobody_gives_anything_back() {
        let memory = small();
        let [a, b, c] = [(); 3].map(|()| member(&memory));
        let begin = Instant::now();
        let (a, b, c) = tokio::join!(use_it(&a), use_it(&b), use_it(&c));
        let waited = [a, b, c].map(|it| it.expect("its turn").duration_since(begin).as_secs());
        assert_eq!(waited, [0, 10, 20]);

        // What others give back is of no use to who has used up its own part.
        let memory = ClientMemory::new(1 << 30, 100);
        let [greedy, other] = [(); 2].map(|()| member(&memory));
        let held = greedy.try_take(32 << 20);
        let begin = Instant::now();
        let (refused, _) = tokio::join!(use_it(&greedy), use_it(&other));
        assert_eq!((refused, begin.elapsed().as_secs()), (None, 15));
        drop(held);
    }

    #[test]
    fn as_many_connections_as_have_a_part_of_their_own() {
        for bytes in [BYTES_MIN, 1 << 30] {
            let connections = ClientMemory::connections_max(bytes);
            let memory = ClientMemory::new(bytes, connections);
            assert_eq!(member(&memory).own_bytes(), OWN_BYTES_MIN);
            assert_eq!(ClientMemory::bytes_for(connections), bytes);
        }
    }
}
