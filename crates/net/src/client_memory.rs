//! Bounds the memory that the clients of a node take together, and that of one connection within it.
//!
//! A [`MemoryPool`] is bytes that all clients of a node share. Each connection is a [`Member`]: it has
//! a small part of its own, which no other can take, and takes the rest from what is shared, first
//! come, first served, up to a bound. What is too much waits, which stops the client by flow control.
//! Nobody who holds bytes of a pool waits for more of it, so that there is always somebody who goes on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use railgun_types::limits::BATCH_BYTES_HARD;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::quic::CONNECTION_WINDOW_BYTES;

/// The largest frame: what a connection may have of a pool at least, or it could never come whole.
const FRAME_BYTES: usize = BATCH_BYTES_HARD + (1 << 20);
/// Bytes of a pool that one connection may have at most. Several of the largest frames fit.
const MEMBER_BYTES_MAX: usize = 64 << 20;
/// The part of what is shared that one connection may have.
const MEMBER_PART: usize = 8;
/// What a connection has for itself at most.
const OWN_BYTES_MAX: usize = 64 << 10;
/// Bytes of all that clients may take together, at least: for frames and for records the largest
/// frame must fit.
const BYTES_MIN: usize = 64 << 20;
/// What a connection may send before it is read: at most, and where there are so many connections
/// that each has a small part of the memory only.
const WINDOW_BYTES_MAX: usize = CONNECTION_WINDOW_BYTES as usize;
const WINDOW_BYTES_MIN: usize = 64 << 10;
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
    guests: Arc<Guests>,
}

/// What clients take, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFigures {
    /// Connections, those included that have not said who they are.
    pub connections: usize,
    /// Connections that have not said who they are.
    pub strangers: usize,
    /// Clients that were refused because there were too many, since the node started.
    pub refused_total: usize,
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
        let half = bytes.max(BYTES_MIN) / 2;
        let pool = || MemoryPool::new(half / 2, half / 2 / connections_max.max(1));
        let guests = Guests {
            connections: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            windows_bytes: half,
            window: watch::channel(window(half, 1)).0,
        };
        Self { frames: pool(), records: pool(), guests: Arc::new(guests) }
    }

    /// What is taken now.
    #[must_use]
    pub fn figures(&self) -> ClientFigures {
        ClientFigures {
            connections: self.guests.connections.load(Ordering::Relaxed),
            strangers: self.strangers(),
            refused_total: self.guests.refused.load(Ordering::Relaxed),
            frames: self.frames.figures(),
            records: self.records.figures(),
        }
    }

    pub(crate) fn strangers(&self) -> usize {
        self.guests.strangers.load(Ordering::Relaxed)
    }

    pub(crate) fn note_refused(&self) {
        self.guests.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The parts of a connection that was just made.
    pub(crate) fn join(&self) -> ConnectionMemory {
        let guest = Guest::new(Arc::clone(&self.guests));
        ConnectionMemory(Some(Arc::new(Parts {
            frames: self.frames.member(),
            records: self.records.member(),
            guest,
        })))
    }
}

/// The parts of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionMemory(Option<Arc<Parts>>);

#[derive(Debug)]
struct Parts {
    frames: Member,
    records: Member,
    guest: Guest,
}

impl ConnectionMemory {
    /// For a connection we made: what comes is what we asked for.
    pub(crate) fn unbounded() -> Self {
        Self(None)
    }

    pub(crate) fn frames(&self) -> Option<Member> {
        self.0.as_ref().map(|parts| parts.frames.clone())
    }

    pub(crate) fn records(&self) -> Option<Member> {
        self.0.as_ref().map(|parts| parts.records.clone())
    }

    /// It has said who it is.
    pub(crate) fn admit(&self) {
        if let Some(parts) = &self.0 {
            parts.guest.admit();
        }
    }

    /// Follows how many bytes the connection may send before they are read.
    pub(crate) fn window(&self) -> Option<watch::Receiver<u32>> {
        self.0.as_ref().map(|parts| parts.guest.guests.window.subscribe())
    }
}

/// Bytes that all clients of a node share.
#[derive(Clone)]
struct MemoryPool(Arc<Pool>);

struct Pool {
    shared: Arc<Semaphore>,
    shared_bytes: usize,
    own_bytes: usize,
    member_bytes: usize,
    waiting: AtomicUsize,
}

impl MemoryPool {
    fn new(shared_bytes: usize, own_bytes: usize) -> Self {
        let shared_bytes = shared_bytes.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Pool {
            shared: Arc::new(Semaphore::new(shared_bytes)),
            shared_bytes,
            own_bytes: own_bytes.min(OWN_BYTES_MAX),
            member_bytes: (shared_bytes / MEMBER_PART).clamp(FRAME_BYTES, MEMBER_BYTES_MAX),
            waiting: AtomicUsize::new(0),
        }))
    }

    fn member(&self) -> Member {
        Member {
            pool: self.clone(),
            own: Arc::new(Semaphore::new(self.0.own_bytes)),
            part: Arc::new(Semaphore::new(self.0.member_bytes)),
        }
    }

    fn figures(&self) -> PoolFigures {
        let bytes_max = self.0.shared_bytes;
        PoolFigures {
            bytes_max,
            bytes: bytes_max - self.0.shared.available_permits(),
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
#[derive(Clone, Debug)]
pub struct Member {
    pool: MemoryPool,
    /// What no other connection can take.
    own: Arc<Semaphore>,
    /// How much of what is shared it may take.
    part: Arc<Semaphore>,
}

/// Bytes of a pool, given back when dropped.
#[derive(Debug)]
pub struct Held(Permits);

#[derive(Debug)]
#[expect(dead_code, reason = "held, and given back by dropping it")]
enum Permits {
    Own(OwnedSemaphorePermit),
    Shared { part: OwnedSemaphorePermit, shared: OwnedSemaphorePermit },
}

impl Held {
    /// Whether others may wait for it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Permits::Shared { .. })
    }
}

impl Member {
    /// Takes so many bytes, if they are free. More than a connection may have counts as that.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<Held> {
        if bytes <= self.pool.0.own_bytes
            && let Ok(own) = Arc::clone(&self.own).try_acquire_many_owned(permits(bytes))
        {
            return Some(Held(Permits::Own(own)));
        }
        let bytes = self.counted(bytes);
        let part = Arc::clone(&self.part).try_acquire_many_owned(bytes).ok()?;
        let shared = Arc::clone(&self.pool.0.shared).try_acquire_many_owned(bytes).ok()?;
        Some(Held(Permits::Shared { part, shared }))
    }

    /// Takes so many bytes, and waits for them: for those of its own or those of all, whatever comes
    /// first. Must not be called by who holds bytes that only this call would make it give back.
    /// Cancel-safe; whoever begins anew is the last in the queue.
    pub async fn take(&self, bytes: usize) -> Held {
        if let Some(held) = self.try_take(bytes) {
            return held;
        }
        let is_small = bytes <= self.pool.0.own_bytes;
        tokio::select! {
            biased;
            own = acquire(&self.own, permits(bytes)), if is_small => Held(Permits::Own(own)),
            held = self.take_shared(self.counted(bytes)) => held,
        }
    }

    async fn take_shared(&self, bytes: u32) -> Held {
        let part = acquire(&self.part, bytes).await;
        let _waiting = Waiting::new(&self.pool.0.waiting);
        let shared = acquire(&self.pool.0.shared, bytes).await;
        Held(Permits::Shared { part, shared })
    }

    /// What there is of its own now: so many bytes can be taken whatever others do.
    #[must_use]
    pub fn own_bytes(&self) -> usize {
        self.own.available_permits()
    }

    /// Whether it is others who have taken what is shared, so that there are not so many bytes left.
    #[must_use]
    pub fn is_short(&self, bytes: usize) -> bool {
        self.pool.0.shared.available_permits() < self.counted(bytes) as usize
    }

    /// Whether others wait for what is shared.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.pool.0.waiting.load(Ordering::Relaxed) > 0
    }

    fn counted(&self, bytes: usize) -> u32 {
        permits(bytes.min(self.pool.0.member_bytes))
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    match Arc::clone(semaphore).acquire_many_owned(permits).await {
        Ok(permit) => permit,
        // None of these is ever closed.
        Err(_) => std::future::pending().await,
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Counts who waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections that clients have made.
#[derive(Debug)]
struct Guests {
    connections: AtomicUsize,
    strangers: AtomicUsize,
    refused: AtomicUsize,
    /// Bytes that all may send before they are read.
    windows_bytes: usize,
    window: watch::Sender<u32>,
}

/// A connection's place among them.
#[derive(Debug)]
struct Guest {
    guests: Arc<Guests>,
    /// 1 until it has said who it is.
    stranger: AtomicUsize,
}

impl Guest {
    fn new(guests: Arc<Guests>) -> Self {
        let connections = guests.connections.fetch_add(1, Ordering::Relaxed) + 1;
        guests.strangers.fetch_add(1, Ordering::Relaxed);
        let bytes = window(guests.windows_bytes, connections);
        guests.window.send_if_modified(|window| {
            let shrinks = bytes < *window;
            *window = bytes.min(*window);
            shrinks
        });
        Self { guests, stranger: AtomicUsize::new(1) }
    }

    fn admit(&self) {
        let was = self.stranger.swap(0, Ordering::Relaxed);
        self.guests.strangers.fetch_sub(was, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.admit();
        let connections = self.guests.connections.fetch_sub(1, Ordering::Relaxed) - 1;
        // Only when many have left, so that one that comes and goes does not wake all others.
        let bytes = window(self.guests.windows_bytes, connections * 4);
        self.guests.window.send_if_modified(|window| {
            let grows = bytes > *window;
            *window = bytes.max(*window);
            grows
        });
    }
}

/// What each of so many connections may send before it is read. The same between two powers of two.
fn window(bytes: usize, connections: usize) -> u32 {
    let each = bytes / connections.max(1).next_power_of_two();
    permits(each.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::tests::poll_once;

    fn small() -> ClientMemory {
        ClientMemory::new(BYTES_MIN, 512)
    }

    fn member(memory: &ClientMemory) -> Member {
        memory.join().frames().expect("a client has one")
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
        assert_eq!(taken.len(), 4);
        assert_eq!(memory.figures().frames.bytes, 32 << 20);
        let mut more = pin!(greedy.take(1 << 20));
        assert!(poll_once(more.as_mut()).is_pending());
        assert!(!greedy.is_crowded(), "nobody but itself is in its way");
        assert!(!greedy.is_short(1 << 20));
        assert!(member(&memory).try_take(8 << 20).is_some());
        // Records and frames are in nobody's way.
        assert_eq!(memory.figures().records.bytes, 0);
        drop(taken);
        drop(more.await);
        assert_eq!(memory.figures().frames.bytes, 0);
        // More than it may have waits for all of that, not for ever.
        drop(greedy.take(usize::MAX).await);
    }

    #[test]
    fn windows_follow_the_number_of_connections() {
        let memory = ClientMemory::new(1 << 30, 10_000);
        let first = memory.join();
        let window = first.window().expect("a client has one");
        assert_eq!(*window.borrow(), 32 << 20);
        let mut others: Vec<_> = (1..1_024).map(|_| memory.join()).collect();
        assert_eq!(*window.borrow(), (512 << 20) / 1_024);
        others.truncate(500);
        assert_eq!(*window.borrow(), (512 << 20) / 1_024, "not for a few that leave");
        others.clear();
        assert_eq!(*window.borrow(), 32 << 20);
        let crowd: Vec<_> = (0..100_000).map(|_| memory.join()).collect();
        assert_eq!(*window.borrow(), 64 << 10);
        assert_eq!(memory.figures().connections, crowd.len() + 1);
        crowd[0].admit();
        crowd[0].admit();
        assert_eq!(memory.figures().strangers, crowd.len());
        drop(crowd);
        assert_eq!(memory.figures().strangers, 1);
    }
}
