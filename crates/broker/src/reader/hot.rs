//! Records that are in the log: in the ring of recent entries, or in a file.

use std::sync::Arc;

use railgun_core::command::PartsCursor;
use railgun_core::shard::{InLog, IndexPoint};
use railgun_log::{Entry, ReadError as LogReadError};
use railgun_raft::run_on;

use super::places::{Place, Work};
use super::{Delivery, Found, ReadFailure, Source, Step, StreamReader};
use crate::builtin_bug::BuiltinBug;

/// Bytes that one step keeps in memory, at most, but one batch.
const HOT_BYTES: usize = 2 << 20;

/// Where entries may be read.
enum Reads {
    Ring,
    /// In files as well, with this place or one that is waited for.
    Files(Option<Arc<Place>>),
}

impl StreamReader {
    /// The batches of the points.
    pub(super) async fn read_hot(
        &mut self,
        points: &[IndexPoint],
        from_bucket: bool,
    ) -> Result<Step, ReadFailure> {
        let (found, room) = match self.room.take() {
            // Who waited for memory waits for the node's own disk at most.
            Some(room) => (self.gather(points, room.bytes, Reads::Files(None)).await?, Some(room)),
            // What is in the ring costs nothing to look at: it asks for no more than it takes.
            None => match self.gather(points, HOT_BYTES, Reads::Ring).await? {
                Some(found) => (Some(found), None),
                None => {
                    let place = self.from.places.take(Work::File).await?;
                    let Some(room) = self.room(HOT_BYTES) else {
                        drop(place);
                        return Ok(self.wait_for_room(HOT_BYTES).await);
                    };
                    let files = Reads::Files(Some(Arc::new(place)));
                    (self.gather(points, room.bytes, files).await?, Some(room))
                }
            },
        };
        match found {
            Some(mut found) => {
                if from_bucket && self.from.planted.is(BuiltinBug::GapBetweenTiers) {
                    found.lose_first();
                }
                Ok(self.keep(found, room).await)
            }
            // The file was given up between the answer and the read: the bucket has it. The index
            // forgets a file before it goes, so this happens once, or the index is wrong.
            None if self.retired_at.replace(self.next) == Some(self.next) => {
                let (shard, stream) = (self.from.shard.id(), self.stream);
                Err(ReadFailure::Index { shard, stream, offset: self.next })
            }
            None => Ok(Step::Records(Vec::new())),
        }
    }

    /// Reads the entries that the points lie in, as far as their batches keep at most `room` bytes in
    /// memory, and the first batch in any case. `None`: it is not there (any more).
    async fn gather(
        &mut self,
        points: &[IndexPoint],
        room: usize,
        mut reads: Reads,
    ) -> Result<Option<Found>, ReadFailure> {
        let mut found = Found::default();
        let mut rest = points;
        while let Some(first) = rest.first() {
            // A run of consecutive entries is one read.
            let mut last = first.log_index;
            let run = rest
                .iter()
                .take_while(|point| {
                    let joins = point.log_index <= last + 1;
                    last = last.max(if joins { point.log_index } else { last });
                    joins
                })
                .count();
            let left = room.saturating_sub(found.pinned());
            let read = self.read_entries(first.log_index, last + 1, left, &mut reads).await;
            let (entries, source) = match read {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(ReadFailure::Log { source: LogReadError::Retired { .. }, .. }) => break,
                // Told to who reads on from here.
                Err(_) if !found.is_empty() => break,
                Err(failure) => return Err(failure),
            };
            let read_to = entries.last().map_or(first.log_index, |entry| entry.id.index + 1);
            let here = rest[..run].iter().take_while(|point| point.log_index < read_to).count();
            // The one walk through the entry that the last point was in.
            let mut walk = None;
            let mut read: usize = entries.iter().map(|entry| entry.payload.len()).sum();
            let sliced = rest[..here]
                .chunk_by(IndexPoint::is_of_batch_of)
                .map(|runs| {
                    let (delivery, copied) =
                        self.slice(&entries, first.log_index, runs, source, &mut walk)?;
                    read += copied;
                    Ok(delivery)
                })
                .collect::<Result<Vec<_>, ReadFailure>>()?;
            let before = found.pinned();
            if here == 0 || !found.add(sliced, read, room) {
                break;
            }
            // Less room than one of these entries took on average: the next would mostly be read for nothing.
            let each = (found.pinned() - before) / entries.len();
            if room.saturating_sub(found.pinned()) < each.max(1) {
                break;
            }
            rest = &rest[here..];
        }
        Ok((!found.is_empty()).then_some(found))
    }

    /// Consecutive entries from `start`, of so many bytes but at least one; from memory if they are
    /// there.
    async fn read_entries(
        &mut self,
        start: u64,
        end: u64,
        bytes_max: usize,
        reads: &mut Reads,
    ) -> Result<Option<(Vec<Entry>, Source)>, ReadFailure> {
        if let Some(entries) = self.from.shard.log().read_ring(start, end, bytes_max)
            && !entries.is_empty()
        {
            return Ok(Some((entries, Source::Ring)));
        }
        let Reads::Files(place) = reads else { return Ok(None) };
        let place = match place {
            Some(place) => place,
            None => place.insert(Arc::new(self.from.places.take(Work::File).await?)),
        };
        let (log, place) = (self.from.shard.log().clone(), Arc::clone(place));
        let read = move || {
            let _place = place;
            match log.read(start, end, bytes_max) {
                // What lies before the damage is whole.
                Err(LogReadError::Corrupt { index, .. }) if index > start => {
                    log.read(start, index, bytes_max)
                }
                read => read,
            }
        };
        let read = run_on(&*self.from.pool, read).await;
        let entries = read?;
        let shard = self.from.shard.id();
        entries
            .map(|entries| Some((entries, Source::Hot)))
            .map_err(|source| ReadFailure::Log { shard, source })
    }

    /// Takes the records of one batch out of the entries read, and checks that they are those the index
    /// means. Says how many bytes were copied for them: where some of the batch were duplicates.
    /// `walk` is where it stands in the entry that it was called for last.
    fn slice<'e>(
        &self,
        entries: &'e [Entry],
        first_index: u64,
        runs: &[IndexPoint],
        source: Source,
        walk: &mut Option<(u64, PartsCursor<'e>)>,
    ) -> Result<(Delivery, usize), ReadFailure> {
        let [point, ..] = *runs else {
            let (stream, offset) = (self.stream, self.next);
            return Err(ReadFailure::Missing { stream, offset });
        };
        let misplaced = || ReadFailure::Index {
            shard: self.from.shard.id(),
            stream: self.stream,
            offset: point.base,
        };
        let at = usize::try_from(point.log_index - first_index).map_err(|_| misplaced())?;
        let entry = entries.get(at).filter(|entry| entry.id.index == point.log_index);
        let parts = entry.ok_or_else(misplaced)?.payload.parts();
        let begun = walk.take().filter(|(index, _)| *index == point.log_index);
        let (_, cursor) = walk.insert(begun.unwrap_or((point.log_index, PartsCursor::new(parts))));
        let found = IndexPoint::find(runs, cursor, self.stream).ok_or_else(misplaced)?;
        let InLog { batch, is_copy } = found;
        let skip = u32::try_from(self.next.0.saturating_sub(point.base.0)).unwrap_or(0);
        let count = runs.iter().map(|run| run.count).sum::<u32>() - skip;
        let copied = if is_copy { batch.len() } else { 0 };
        let (base, ts) = (point.base, point.ts);
        Ok((Delivery { base, skip, count, ts, source, batch }, copied))
    }
}
