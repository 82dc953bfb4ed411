//! openraft's log store on a [`ShardLog`]. Nothing here waits for the disk but `save_vote`: appends
//! are queued, visible at once, and completed by the log thread after an fdatasync that covers them.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, TryStreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{AsyncRuntime, OptionalSend, RaftLogReader};
use railgun_log::{Entry, LogError, ReadError, ShardLog};
use railgun_types::EntryId;
use tokio::sync::oneshot;

use crate::blocking_pool::{BlockingPool, run_on};
use crate::entry;
use crate::leadership::Leadership;
use crate::raft_types::{
    LogId, RaftEntry, RaftVote, Types, to_entry_id, to_log_id, to_log_vote, to_raft_vote,
};
use crate::runtime::Runtime;

/// Bytes of entries read at a time: what a replication request holds at most, and what a replay
/// holds in memory per step.
const READ_BYTES_MAX: usize = 2 << 20;

/// Between two attempts to send a follower what is damaged here.
const DAMAGED_PAUSE: Duration = Duration::from_millis(200);

/// Store and reader in one: both are handles of the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: ShardLog,
    pool: Arc<dyn BlockingPool>,
    /// Told of each vote before it is durable.
    leadership: Leadership,
}

impl LogStore {
    pub(crate) fn new(log: ShardLog, pool: Arc<dyn BlockingPool>, leadership: Leadership) -> Self {
        Self { log, pool, leadership }
    }

    /// The part of `[start, end)` that Raft may see: above the purge point, not past the end. Files
    /// below the purge point may still exist as a read cache; they are not Raft's.
    fn visible(&self, (start, end): (u64, u64)) -> (u64, u64) {
        let state = self.log.state();
        let next = |id: Option<EntryId>| id.map_or(0, |id| id.index.saturating_add(1));
        (start.max(next(state.last_purged)), end.min(next(state.last)))
    }

    /// Entries from `start` on: one, or as many as fit into [`READ_BYTES_MAX`].
    async fn read_some(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let from_memory = self.log.read_ring(start, end, READ_BYTES_MAX);
        let entries = match from_memory.filter(|entries| !entries.is_empty()) {
            Some(entries) => entries,
            None => {
                let log = self.log.clone();
                let read = move || match log.read(start, end, READ_BYTES_MAX) {
                    // What lies before the damage is whole.
                    Err(ReadError::Corrupt { index, .. }) if index > start => {
                        log.read(start, index, READ_BYTES_MAX)
                    }
                    read => read,
                };
                run_on(&*self.pool, read).await?.map_err(io::Error::other)?
            }
        };
        // What is read is applied or sent without another look at its place.
        if entries.first().is_none_or(|entry| entry.id.index != start) {
            let message = format!("the log holds no entry {start} of {start}..{end}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(entries)
    }

    /// Entries `[start, end)`, read in chunks, each when the one before is consumed.
    fn entries(
        &self,
        start: u64,
        end: u64,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + Send + use<> {
        let store = self.clone();
        let chunks = stream::try_unfold(start, move |next| {
            let store = store.clone();
            async move {
                if next >= end {
                    return Ok::<_, io::Error>(None);
                }
                let entries = store.read_some(next, end).await?;
                let next = entries.last().map_or(end, |entry| entry.id.index + 1);
                Ok(Some((stream::iter(entries.into_iter().map(entry::from_log)), next)))
            }
        });
        chunks.try_flatten()
    }

    fn entry_id(&self, index: u64) -> io::Result<EntryId> {
        let missing =
            || io::Error::other(format!("the log does not know the term of entry {index}"));
        self.log.entry_id(index).ok_or_else(missing)
    }
}

/// Whether an entry's bytes are not those that were written.
fn is_damage(error: &io::Error) -> bool {
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    matches!(source, Some(ReadError::Corrupt { .. }))
}

/// `[start, end)` of a range.
fn bounds(range: impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for LogStore {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Entries are applied from here. A start below the purge point is not moved up to it, which
        // would skip entries in silence: they are read while their file exists, or it is an error.
        let (start, end) = bounds(range);
        self.entries(start, self.visible((start, end)).1)
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Unlike the stream this gives what there is, for the callers look for gaps. A log may
        // begin at any index; in openraft's suite it does.
        let (start, end) = self.visible(bounds(range));
        let first = self.log.first_file_index().unwrap_or(start);
        self.entries(start.max(first), end).try_collect().await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        let (start, end) = self.visible((start, end));
        if start >= end {
            return Ok(Vec::new());
        }
        match self.read_some(start, end).await {
            Ok(entries) => entries.into_iter().map(entry::from_log).collect(),
            // To openraft an error is the end of this replica; nothing is no entries for now. Whoever owns
            // it sees the damage (`ShardLog::damaged`), and has another one lead. That takes a leader which
            // commits: one that was just elected may need this entry to find out where its followers are,
            // and would be in the way of a better one.
            Err(error) if is_damage(&error) && self.leadership.is_established() => {
                tracing::debug!(%error, "a follower cannot be sent what it lacks");
                Runtime::sleep(DAMAGED_PAUSE).await;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.log.state().vote.map(to_raft_vote))
    }

    /// The last entry of each term in the range, found in the term table without reading entries.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        let mut first = to_entry_id(range.start());
        let last = to_entry_id(range.end());
        let mut keys = Vec::new();
        while first.term != last.term {
            // The greatest index of `first.term`: terms never fall along the log.
            let (mut known, mut beyond) = (first.index, last.index);
            while beyond - known > 1 {
                let middle = known + (beyond - known) / 2;
                if self.entry_id(middle)?.term == first.term {
                    known = middle;
                } else {
                    beyond = middle;
                }
            }
            keys.push(to_log_id(EntryId { term: first.term, index: known }));
            first = self.entry_id(beyond)?;
        }
        keys.push(to_log_id(last));
        Ok(keys)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.last_purged.map(to_log_id),
            last_log_id: state.last.map(to_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        // The receiver lives until the answer; a failed send cannot matter.
        let flushed = Box::new(move |result| drop(tx.send(result)));
        self.leadership.set_voted(vote.leader_id.term);
        self.log.save_vote(to_log_vote(vote), flushed).map_err(io::Error::other)?;
        rx.await.unwrap_or(Err(LogError::Closed)).map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(id) = committed {
            self.log.save_committed(to_entry_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.state().committed.map(to_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().map(entry::to_log).collect();
        let flushed = move |result: Result<(), LogError>| {
            callback.io_completed(result.map_err(io::Error::other));
        };
        self.log.append(entries, Box::new(flushed)).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_kept: Option<LogId>) -> io::Result<()> {
        let last_kept = last_kept.as_ref().map(to_entry_id);
        let last = self.log.state().last;
        if last_kept.is_some_and(|kept| last.is_none_or(|last| kept.index >= last.index)) {
            return Ok(());
        }
        self.log.truncate_after(last_kept).map_err(io::Error::other)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(to_entry_id(&upto)).map_err(io::Error::other)
    }
}
