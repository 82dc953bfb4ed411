//! Reading records back: footers and row groups by ranged GET, small objects whole, cached, and each
//! asked for once however many wait for it. What goes into the cache was checked against its checksum;
//! what is decoded from it is checked once more, record by record (I9).
//!
//! Fetching is asynchronous ([`ColdReader::fetch`]); decoding is not ([`RowGroup::batches`]), so
//! that it can run on a pool and never delays other work.

mod decode;
mod error;
mod footers;
mod part;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use foyer::{Cache, CacheBuilder};
use railgun_types::{Offset, Timestamp, crc32c};

pub use decode::{BATCH_BYTES, ColdBatch, ColdBatches, RowGroup};
pub use error::ColdReadError;
pub use part::{ColdPart, ObjectRef};

use crate::bucket::Bucket;
use crate::segment::RowGroupPlace;
use footers::{CachedFooter, Footers};

/// How much memory reading may keep.
#[derive(Clone, Debug)]
pub struct ReaderOptions {
    /// Bytes of row groups, as they are in the bucket.
    pub cache_bytes: usize,
    /// Bytes of parsed footers.
    pub footer_bytes: usize,
    /// Objects up to this size, in bytes, are fetched whole on their first use: one round trip
    /// instead of two, for bytes that are a row group or little more. Bundles are mostly such.
    pub whole_bytes: u64,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, footer_bytes: 16 << 20, whole_bytes: 4 << 20 }
    }
}

/// Reads objects of a bucket. Cheap to clone; clones share their caches.
#[derive(Clone, Debug)]
pub struct ColdReader {
    bucket: Bucket,
    footers: Footers,
    row_groups: Cache<RowGroupKey, Bytes>,
}

/// Where the first record at or after a time is.
#[derive(Debug)]
pub enum Sought {
    /// At this offset.
    At(Offset),
    /// In this row group, or behind it: see [`RowGroup::seek_time`].
    In(RowGroup),
}

/// Object keys name their content, so a cached row group never grows stale.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RowGroupKey {
    object: Arc<str>,
    number: usize,
}

impl ColdReader {
    /// A reader with empty caches.
    #[must_use]
    pub fn new(bucket: Bucket, options: &ReaderOptions) -> Self {
        /// A shard of the cache must hold several row groups.
        const SHARD_BYTES: usize = 64 << 20;
        let row_groups = CacheBuilder::new(options.cache_bytes)
            .with_name("cold row groups")
            .with_shards((options.cache_bytes / SHARD_BYTES).clamp(1, 8))
            .with_weighter(|_: &RowGroupKey, bytes: &Bytes| bytes.len())
            .build();
        let footers = Footers::new(bucket.clone(), options, row_groups.clone());
        Self { bucket, footers, row_groups }
    }

    /// Fetches the row group that holds offset `from` of `part`. Cancel safe: a fetch that was
    /// begun goes on into the cache.
    ///
    /// Must run inside a tokio runtime, which the fetches are spawned on.
    ///
    /// # Errors
    /// [`ColdReadError`].
    pub async fn fetch(&self, part: &ColdPart, from: Offset) -> Result<RowGroup, ColdReadError> {
        self.fetch_with(part, from, &()).await
    }

    /// The same; a clone of `guard` lives for as long as the bucket is asked for something, even where
    /// the caller does not wait for it any more.
    ///
    /// # Errors
    /// [`ColdReadError`].
    pub async fn fetch_with<G: Clone + Send + 'static>(
        &self,
        part: &ColdPart,
        from: Offset,
        guard: &G,
    ) -> Result<RowGroup, ColdReadError> {
        let object = &part.object;
        within(part, from)?;
        let footer = self.footers.get(object, guard).await?;
        let placed = placed(part, &footer, from)?;
        let key = RowGroupKey { object: object.key.clone(), number: placed.number };
        let bytes = self.row_group(&key, &footer, guard).await?;
        Ok(placed.row_group(part, footer, bytes))
    }

    /// The same, if that asks nothing of the bucket.
    ///
    /// # Errors
    /// [`ColdReadError::OutOfRange`], [`ColdReadError::Corrupt`].
    pub fn cached(&self, part: &ColdPart, from: Offset) -> Result<Option<RowGroup>, ColdReadError> {
        let object = &part.object;
        within(part, from)?;
        let Some(footer) = self.footers.cached(object) else { return Ok(None) };
        let placed = placed(part, &footer, from)?;
        let key = RowGroupKey { object: object.key.clone(), number: placed.number };
        let bytes = self.row_groups.get(&key).map(|entry| entry.value().clone());
        Ok(bytes.map(|bytes| placed.row_group(part, footer, bytes)))
    }

    /// Records from `from` on: at least one batch, at most the rest of the row group, ending with
    /// the batch that reaches `max_bytes`. Decodes where it is called, each time from the beginning
    /// of a page: who reads on keeps the iterator of [`RowGroup::batches`] instead, as all but tests do.
    #[cfg(test)]
    pub(crate) async fn read(
        &self,
        part: &ColdPart,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<ColdBatch>, ColdReadError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for batch in self.fetch(part, from).await?.batches(from, part.range.end()) {
            let batch = batch?;
            bytes += batch.batch.len();
            batches.push(batch);
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(batches)
    }

    /// The offset of the first record of `part` with a log time at or after `ts`; the end of the
    /// part if it has none. Lists nothing (T-2). Decodes where it is called.
    ///
    /// # Errors
    /// [`ColdReadError`].
    pub async fn seek_time(&self, part: &ColdPart, ts: Timestamp) -> Result<Offset, ColdReadError> {
        let mut from = part.range.base;
        loop {
            let row_group = match self.seek_with(part, from, ts, &()).await? {
                Sought::At(offset) => return Ok(offset),
                Sought::In(row_group) => row_group,
            };
            if let Some(offset) = row_group.seek_time(ts)? {
                return Ok(offset);
            }
            from = row_group.end();
        }
    }

    /// One step of that, from `from` on: up to the row group that has to be decoded. A clone of
    /// `guard` lives for as long as the bucket is asked for something, as in [`Self::fetch_with`].
    ///
    /// # Errors
    /// [`ColdReadError`].
    pub async fn seek_with<G: Clone + Send + 'static>(
        &self,
        part: &ColdPart,
        from: Offset,
        ts: Timestamp,
        guard: &G,
    ) -> Result<Sought, ColdReadError> {
        if let Some(offset) = known(part, from, ts) {
            return Ok(Sought::At(offset));
        }
        let footer = self.footers.get(&part.object, guard).await?;
        match late(part, &footer, from, ts)? {
            Some(from) => Ok(Sought::In(self.fetch_with(part, from, guard).await?)),
            None => Ok(Sought::At(part.range.end())),
        }
    }

    /// The same, if that asks nothing of the bucket.
    ///
    /// # Errors
    /// [`ColdReadError::Corrupt`].
    pub fn seek_cached(
        &self,
        part: &ColdPart,
        from: Offset,
        ts: Timestamp,
    ) -> Result<Option<Sought>, ColdReadError> {
        if let Some(offset) = known(part, from, ts) {
            return Ok(Some(Sought::At(offset)));
        }
        let Some(footer) = self.footers.cached(&part.object) else { return Ok(None) };
        match late(part, &footer, from, ts)? {
            Some(from) => Ok(self.cached(part, from)?.map(Sought::In)),
            None => Ok(Some(Sought::At(part.range.end()))),
        }
    }

    /// The bytes of a row group, checked before they are kept.
    async fn row_group<G: Clone + Send + 'static>(
        &self,
        key: &RowGroupKey,
        footer: &CachedFooter,
        guard: &G,
    ) -> Result<Bytes, ColdReadError> {
        let fetch = {
            let (bucket, key, guard) = (self.bucket.clone(), key.clone(), guard.clone());
            let place = footer.footer.row_groups[key.number].clone();
            move || async move {
                let _guard = guard;
                fetch_row_group(&bucket, &key, place).await
            }
        };
        match self.row_groups.get_or_fetch(key, fetch).await {
            Ok(entry) => Ok(entry.value().clone()),
            Err(error) => Err(typed(&key.object, &error)),
        }
    }
}

/// Bytes that fail their checksum are fetched once more: they may have been damaged on the way.
async fn fetch_row_group(
    bucket: &Bucket,
    key: &RowGroupKey,
    place: RowGroupPlace,
) -> Result<Bytes, ColdReadError> {
    let RowGroupKey { object, number } = key;
    for _ in 0..2 {
        let read = bucket.get_range(object, place.start..place.start + place.bytes).await;
        let bytes = read.map_err(|error| ColdReadError::from_bucket(object, &error))?;
        if is_whole(&bytes, &place) {
            return Ok(bytes);
        }
        tracing::warn!(%object, number, "row group does not match its checksum");
    }
    let what = format!("row group {number} does not match its checksum");
    Err(ColdReadError::corrupt(object, what))
}

fn is_whole(bytes: &Bytes, place: &RowGroupPlace) -> bool {
    bytes.len() as u64 == place.bytes && crc32c(bytes) == place.crc32c
}

fn within(part: &ColdPart, from: Offset) -> Result<(), ColdReadError> {
    let (base, end) = (part.range.base, part.range.end());
    if from < base || from >= end {
        let object = part.object.key.clone();
        return Err(ColdReadError::OutOfRange { object, from, base, end });
    }
    Ok(())
}

/// Where a time is sought, from `from` on, if that needs no look into the object.
fn known(part: &ColdPart, from: Offset, ts: Timestamp) -> Option<Offset> {
    let range = &part.range;
    if ts <= range.min_ts {
        return Some(range.base);
    }
    (ts > range.max_ts || from >= range.end()).then(|| range.end())
}

/// An offset in the first row group, from the one with `from` on, that may have records of this time or
/// later. Log time never falls within a stream: the first one whose last record of the part is late enough
/// holds the answer. Statistics rule out those before it without a GET.
fn late(
    part: &ColdPart,
    footer: &CachedFooter,
    mut from: Offset,
    ts: Timestamp,
) -> Result<Option<Offset>, ColdReadError> {
    while from < part.range.end() {
        let Placed { number, rows, base } = placed(part, footer, from)?;
        if footer.latest(number).is_none_or(|latest| latest >= ts) {
            return Ok(Some(from));
        }
        from = base.plus(rows.len() as u64);
    }
    Ok(None)
}

/// The rows of a part in the row group that holds one of its offsets.
struct Placed {
    number: usize,
    /// Counted in the row group.
    rows: Range<usize>,
    /// Offset of the first of them.
    base: Offset,
}

impl Placed {
    fn row_group(self, part: &ColdPart, footer: Arc<CachedFooter>, bytes: Bytes) -> RowGroup {
        let Self { number, rows, base } = self;
        let (object, stream) = (part.object.key.clone(), part.stream);
        RowGroup { object, footer, number, bytes, stream, rows, base }
    }
}

/// Finds the row group of `from`, which lies in the part's range.
fn placed(part: &ColdPart, footer: &CachedFooter, from: Offset) -> Result<Placed, ColdReadError> {
    let range = &part.range;
    let find = || {
        let row = range.first_row.checked_add(from.0.checked_sub(range.base.0)?)?;
        let (number, row) = footer.find_row(row)?;
        let (before, after) = (footer.rows_before[number], footer.rows_before[number + 1]);
        let first = usize::try_from(range.first_row.saturating_sub(before)).ok()?;
        let last = range.first_row.checked_add(range.count)?.min(after) - before;
        let rows = first..usize::try_from(last).ok()?;
        let base = Offset(from.0 - row.checked_sub(rows.start)? as u64);
        Some(Placed { number, rows, base })
    };
    find()
        .ok_or_else(|| ColdReadError::corrupt(&part.object.key, "it has not the rows of the range"))
}

/// The error of a fetch, out of the cache's own.
fn typed(object: &Arc<str>, error: &foyer::Error) -> ColdReadError {
    error.downcast_ref::<ColdReadError>().cloned().unwrap_or_else(|| ColdReadError::Unavailable {
        object: object.clone(),
        // The task was cancelled because the runtime shuts down.
        reason: error.to_string().into(),
        retry_after: std::time::Duration::from_secs(1),
    })
}

#[cfg(test)]
mod tests;
