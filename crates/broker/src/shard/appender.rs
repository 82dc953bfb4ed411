//! What waits to be appended, gathered into log entries (DESIGN §4.4).

use std::collections::{BTreeMap, VecDeque};

use railgun_core::command::Append;
use railgun_core::shard::{AppendRefusal, Appended};
use railgun_types::limits::ENTRY_BYTES;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::replica::ProposeFailure;

/// Entries in flight: enough to keep the log writing while results travel.
const ENTRIES_IN_FLIGHT: usize = 8;

/// The part of the log's present file that may be in flight. A file is half full when there turns out to
/// be no room for the next one; then so much is still on its way, and what followed what has just been
/// written. What is left is for the entries that bring records to the bucket, and so free space: if
/// they waited behind others for room, there would never be any.
const IN_FLIGHT_PART: usize = 8;

/// Bytes one session may put into an entry before the next one gets its turn.
const QUANTUM_BYTES: usize = 256 << 10;

/// What became of the batches of one request, in order.
pub(crate) type AppendResult = Result<Vec<Result<Appended, AppendRefusal>>, RequestFailure>;

/// Why a shard did not do what a client wants, or nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestFailure {
    /// See [`ProposeFailure`].
    #[error(transparent)]
    Proposal(#[from] ProposeFailure),
    /// The hot budget is spent, because the bucket does not take data.
    #[error("the hot tier is full: the bucket does not take data fast enough")]
    HotTierFull,
    /// The disk has no room for another log file.
    #[error("the disk is full: free space or add some")]
    DiskFull,
    /// The batches came from another node otherwise than that had validated them. Nothing is appended.
    #[error("the batches were damaged on their way between two nodes: send them again")]
    Damaged,
}

/// Batches of one publisher for streams of this shard.
#[derive(Debug)]
pub(crate) struct AppendRequest {
    /// The session it comes from: sessions take turns.
    pub(crate) session: u64,
    pub(crate) items: Vec<Append>,
    pub(crate) bytes: usize,
    pub(crate) reply: oneshot::Sender<AppendResult>,
    /// Given back when the request has ended.
    pub(crate) room: Room,
}

/// Bytes of what a session may have in queues, and of the shard's queue.
#[derive(Debug)]
pub(crate) struct Room {
    pub(super) _session: OwnedSemaphorePermit,
    pub(super) _queue: OwnedSemaphorePermit,
}

/// The requests that one entry was made of.
#[derive(Debug)]
pub(crate) struct EntryReplies {
    requests: Vec<RequestReply>,
    bytes: usize,
}

#[derive(Debug)]
struct RequestReply {
    items: usize,
    reply: oneshot::Sender<AppendResult>,
    _room: Room,
}

impl EntryReplies {
    /// Answers every request with its share of the entry's results.
    pub(crate) fn applied(self, results: Vec<Result<Appended, AppendRefusal>>) {
        let mut results = results.into_iter();
        for request in self.requests {
            // A closed reply: the session is gone.
            drop(request.reply.send(Ok(results.by_ref().take(request.items).collect())));
        }
    }

    /// Answers every request that nobody knows; the entry may still come to be.
    pub(crate) fn leave(&mut self) {
        for request in self.requests.drain(..) {
            drop(request.reply.send(Err(ProposeFailure::Unknown.into())));
        }
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_left(&self) -> bool {
        self.requests.is_empty()
    }

    /// Requests in it.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn failed(self, failure: RequestFailure) {
        for request in self.requests {
            drop(request.reply.send(Err(failure)));
        }
    }
}

/// Requests by session, in order within each; sessions take turns, each with a quantum, so that
/// one with a long queue does not starve the rest. No turn is carried over: what one request takes
/// beyond the quantum is not made up for.
#[derive(Debug, Default)]
pub(crate) struct Appender {
    queues: BTreeMap<u64, VecDeque<AppendRequest>>,
    /// Sessions with requests, the next one first.
    turns: VecDeque<u64>,
    entries_in_flight: usize,
    bytes_in_flight: usize,
}

impl Appender {
    pub(crate) fn push(&mut self, request: AppendRequest) {
        let queue = self.queues.entry(request.session).or_default();
        if queue.is_empty() {
            self.turns.push_back(request.session);
        }
        queue.push_back(request);
    }

    /// Whether an entry could go out now, to a log file of so many bytes.
    pub(crate) fn has_entry(&self, file_bytes: impl FnOnce() -> u64) -> bool {
        let first = self.turns.front().and_then(|session| self.queues.get(session)?.front());
        let has_room = |first: &AppendRequest| first.bytes <= self.room(file_bytes());
        self.entries_in_flight < ENTRIES_IN_FLIGHT
            && first.is_some_and(|first| self.entries_in_flight == 0 || has_room(first))
    }

    /// Bytes that may still go out, but for a single request.
    fn room(&self, file_bytes: u64) -> usize {
        let bytes_max = usize::try_from(file_bytes).unwrap_or(usize::MAX) / IN_FLIGHT_PART;
        bytes_max.saturating_sub(self.bytes_in_flight)
    }

    /// The next entry, if one may go out now: requests up to [`ENTRY_BYTES`], at least one.
    pub(crate) fn next_entry(&mut self, file_bytes: u64) -> Option<(Vec<Append>, EntryReplies)> {
        if !self.has_entry(|| file_bytes) {
            return None;
        }
        let bytes_max = ENTRY_BYTES.min(self.room(file_bytes));
        let (mut items, mut requests, mut bytes) = (Vec::new(), Vec::new(), 0);
        while (bytes == 0 || bytes < bytes_max)
            && let Some(session) = self.turns.pop_front()
        {
            let mut quantum = QUANTUM_BYTES;
            let queue = self.queues.entry(session).or_default();
            while let Some(next) = queue.front() {
                let fits = bytes == 0 || bytes + next.bytes <= bytes_max;
                if !fits || quantum == 0 {
                    break;
                }
                let Some(request) = queue.pop_front() else { break };
                quantum = quantum.saturating_sub(request.bytes);
                bytes += request.bytes;
                requests.push(RequestReply {
                    items: request.items.len(),
                    reply: request.reply,
                    _room: request.room,
                });
                items.extend(request.items);
            }
            if queue.is_empty() {
                self.queues.remove(&session);
            } else if quantum > 0 {
                // Its next request does not fit any more: it opens the next entry.
                self.turns.push_front(session);
                break;
            } else {
                self.turns.push_back(session);
            }
        }
        self.entries_in_flight += 1;
        self.bytes_in_flight += bytes;
        Some((items, EntryReplies { requests, bytes }))
    }

    /// The entry of these has ended, well or not.
    pub(crate) fn entry_ended(&mut self, entry: &EntryReplies) {
        self.entries_in_flight -= 1;
        self.bytes_in_flight -= entry.bytes;
    }

    /// Takes out everything that waits, to be refused.
    pub(crate) fn drain(&mut self) -> EntryReplies {
        self.turns.clear();
        let queues = std::mem::take(&mut self.queues);
        let reply = |request: AppendRequest| RequestReply {
            items: request.items.len(),
            reply: request.reply,
            _room: request.room,
        };
        let requests = queues.into_values().flatten().map(reply).collect();
        EntryReplies { requests, bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn request(session: u64, bytes: usize) -> AppendRequest {
        let permit = || Arc::new(Semaphore::new(1)).try_acquire_owned().expect("free");
        let room = Room { _session: permit(), _queue: permit() };
        AppendRequest { session, items: Vec::new(), bytes, reply: oneshot::channel().0, room }
    }

    const FILE_BYTES: u64 = 64 << 20;

    fn next(appender: &mut Appender) -> Option<usize> {
        next_to(appender, FILE_BYTES)
    }

    fn next_to(appender: &mut Appender, file_bytes: u64) -> Option<usize> {
        appender.next_entry(file_bytes).map(|(_, replies)| replies.len())
    }

    #[test]
    fn an_entry_takes_what_waits_up_to_its_size() {
        let mut appender = Appender::default();
        assert_eq!(next(&mut appender), None);
        for _ in 0..3 {
            appender.push(request(1, ENTRY_BYTES / 2));
        }
        assert_eq!(next(&mut appender), Some(2));
        assert_eq!(next(&mut appender), Some(1));
        // A request larger than an entry is one by itself.
        appender.push(request(1, 1));
        appender.push(request(1, 2 * ENTRY_BYTES));
        assert_eq!(next(&mut appender), Some(1));
        assert_eq!(next(&mut appender), Some(1));
        assert_eq!(next(&mut appender), None);
    }

    #[test]
    fn sessions_take_turns() {
        let mut appender = Appender::default();
        for _ in 0..100 {
            appender.push(request(1, QUANTUM_BYTES));
        }
        appender.push(request(2, 10));
        let (_, replies) = appender.next_entry(FILE_BYTES).expect("an entry");
        // Session 1, then session 2 though 99 requests of session 1 came before it.
        assert_eq!(replies.len(), 4);
        assert!(!appender.queues.contains_key(&2));
    }

    #[test]
    fn entries_in_flight_are_bounded() {
        let mut appender = Appender::default();
        for _ in 0..20 {
            appender.push(request(1, ENTRY_BYTES));
        }
        let mut sent: Vec<_> = std::iter::from_fn(|| appender.next_entry(FILE_BYTES)).collect();
        assert_eq!(sent.len(), ENTRIES_IN_FLIGHT);
        appender.entry_ended(&sent.remove(0).1);
        assert_eq!(next(&mut appender), Some(1));
        assert_eq!(appender.drain().len(), 20 - ENTRIES_IN_FLIGHT - 1);
        assert_eq!(next(&mut appender), None);
    }

    #[test]
    fn bytes_in_flight_are_bounded_by_the_size_of_a_log_file() {
        let file_bytes = 1_u64 << 20;
        let part = file_bytes as usize / IN_FLIGHT_PART;
        let mut appender = Appender::default();
        for _ in 0..10 {
            appender.push(request(1, part / 3));
        }
        let (_, three) = appender.next_entry(file_bytes).expect("an entry");
        assert_eq!((three.len(), next_to(&mut appender, file_bytes)), (3, None));
        // Of a larger file it may be more.
        assert!(appender.has_entry(|| 2 * file_bytes));
        appender.entry_ended(&three);
        assert_eq!(next_to(&mut appender, file_bytes), Some(3));
        // One that is larger goes out alone.
        let mut appender = Appender::default();
        appender.push(request(1, 10));
        appender.push(request(1, 2 * part));
        appender.push(request(2, 10));
        let (_, small) = appender.next_entry(file_bytes).expect("an entry");
        assert_eq!((small.len(), next_to(&mut appender, file_bytes)), (1, None));
        appender.entry_ended(&small);
        let (_, large) = appender.next_entry(file_bytes).expect("an entry");
        assert_eq!((large.len(), next_to(&mut appender, file_bytes)), (1, None));
        appender.entry_ended(&large);
        assert_eq!(next_to(&mut appender, file_bytes), Some(1));
    }
}
