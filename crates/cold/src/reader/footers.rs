//! Footers, fetched once and kept parsed.

use std::sync::Arc;

use bytes::Bytes;
use foyer::{Cache, CacheBuilder};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::statistics::Statistics;
use railgun_types::Timestamp;

use super::error::ColdReadError;
use super::part::ObjectRef;
use super::{ReaderOptions, RowGroupKey, is_whole};
use crate::bucket::Bucket;
use crate::segment::Footer;
use crate::segment::schema::{self, column};

/// Largest footer that is fetched. One tells of at most 2,048 ranges and some dozen row groups, each
/// in less than a kilobyte, and of the pages' statistics.
const FOOTER_BYTES_MAX: u32 = 64 << 20;
/// Largest row group that is fetched. They close at 8 MiB of records, which may have ids of a few
/// times that, and behind a last record of 8 MiB at most.
const ROW_GROUP_BYTES_MAX: u64 = 256 << 20;

/// A footer that passed its checksum, ready to decode with.
#[derive(Debug)]
pub(super) struct CachedFooter {
    pub(super) footer: Footer,
    pub(super) arrow: ArrowReaderMetadata,
    /// Rows before each row group, and after the last.
    pub(super) rows_before: Vec<u64>,
    /// Estimate of its memory, in bytes.
    weight: usize,
}

impl CachedFooter {
    /// The row group that holds the row with this number in the object, and its number there.
    pub(super) fn find_row(&self, row: u64) -> Option<(usize, usize)> {
        let number = self.rows_before.partition_point(|&before| before <= row).checked_sub(1)?;
        self.footer.row_groups.get(number)?;
        Some((number, usize::try_from(row - self.rows_before[number]).ok()?))
    }
}

impl CachedFooter {
    /// The latest log time of any row of a row group, if its statistics tell.
    pub(super) fn latest(&self, number: usize) -> Option<Timestamp> {
        let column = self.arrow.metadata().row_groups().get(number)?.columns().get(column::TS)?;
        match column.statistics()? {
            Statistics::Int64(times) => Some(Timestamp(*times.max_opt()?)),
            _ => None,
        }
    }
}

/// Cache of footers by object key.
#[derive(Clone, Debug)]
pub(super) struct Footers {
    bucket: Bucket,
    cache: Cache<Arc<str>, Arc<CachedFooter>>,
    /// Where row groups go that came with a footer.
    row_groups: Cache<RowGroupKey, Bytes>,
    whole_bytes: u64,
}

impl Footers {
    pub(super) fn new(
        bucket: Bucket,
        options: &ReaderOptions,
        row_groups: Cache<RowGroupKey, Bytes>,
    ) -> Self {
        let cache = CacheBuilder::new(options.footer_bytes)
            .with_name("cold footers")
            .with_shards(1)
            .with_weighter(|_: &Arc<str>, footer: &Arc<CachedFooter>| footer.weight)
            .build();
        Self { bucket, cache, row_groups, whole_bytes: options.whole_bytes }
    }

    /// The object's footer. Those who ask for the same at once share one request. Of an object that
    /// is fetched whole the row groups are in their cache afterwards, if they are not too large.
    /// A clone of `guard` lives for as long as the bucket is asked.
    pub(super) async fn get<G: Clone + Send + 'static>(
        &self,
        object: &ObjectRef,
        guard: &G,
    ) -> Result<Arc<CachedFooter>, ColdReadError> {
        let fetch = {
            let (footers, object, guard) = (self.clone(), object.clone(), guard.clone());
            move || async move {
                let _guard = guard;
                footers.fetch(&object).await.map(Arc::new)
            }
        };
        match self.cache.get_or_fetch(&object.key, fetch).await {
            Ok(entry) => Ok(entry.value().clone()),
            Err(error) => Err(super::typed(&object.key, &error)),
        }
    }

    /// The same, if it was fetched already.
    pub(super) fn cached(&self, object: &ObjectRef) -> Option<Arc<CachedFooter>> {
        self.cache.get(&object.key).map(|entry| entry.value().clone())
    }

    async fn fetch(&self, object: &ObjectRef) -> Result<CachedFooter, ColdReadError> {
        let key = &object.key;
        if object.footer_bytes > FOOTER_BYTES_MAX {
            return Err(ColdReadError::corrupt(key, "its footer is larger than any"));
        }
        let footer_start = object
            .bytes
            .checked_sub(u64::from(object.footer_bytes))
            .ok_or_else(|| ColdReadError::corrupt(key, "its footer is larger than itself"))?;
        let whole = object.bytes <= self.whole_bytes;
        let start = if whole { 0 } else { footer_start };
        let read = self
            .bucket
            .get_range(key, start..object.bytes)
            .await
            .map_err(|error| ColdReadError::from_bucket(key, &error))?;
        // The bucket hands out exactly the range, so this is the length of the footer.
        let footer = parse(object, &read[(footer_start - start) as usize..])?;
        if whole {
            self.keep_row_groups(key, &footer, &read);
        }
        Ok(footer)
    }

    /// Puts the row groups of `object`, which was fetched whole, where readers look for them; one that
    /// fails its checksum is fetched again by who wants it. Copied where there are several: the one
    /// that stays longest would keep them all in memory.
    fn keep_row_groups(&self, key: &Arc<str>, footer: &CachedFooter, object: &Bytes) {
        let places = &footer.footer.row_groups;
        for (number, place) in places.iter().enumerate() {
            // Inside the object: the footer was checked for that.
            let bytes = object.slice(place.start as usize..(place.start + place.bytes) as usize);
            if !is_whole(&bytes, place) {
                continue;
            }
            let bytes = if places.len() == 1 { bytes } else { Bytes::copy_from_slice(&bytes) };
            self.row_groups.insert(RowGroupKey { object: key.clone(), number }, bytes);
        }
    }
}

fn parse(object: &ObjectRef, tail: &[u8]) -> Result<CachedFooter, ColdReadError> {
    let key = &object.key;
    let (footer, meta) = Footer::parse(tail, object.bytes)
        .map_err(|error| ColdReadError::corrupt(key, error.to_string()))?;
    if (footer.cluster, footer.shard) != (object.cluster, object.shard) {
        return Err(ColdReadError::corrupt(key, "it is of another cluster or shard"));
    }
    if footer.row_groups.iter().any(|group| group.bytes > ROW_GROUP_BYTES_MAX) {
        return Err(ColdReadError::corrupt(key, "a row group is larger than any"));
    }
    let weight = tail.len() + meta.memory_size();
    let options = ArrowReaderOptions::new().with_schema(schema::READ.clone());
    let arrow = ArrowReaderMetadata::try_new(Arc::new(meta), options)
        .map_err(|error| ColdReadError::corrupt(key, error.to_string()))?;
    let mut rows_before = vec![0u64];
    for group in &footer.row_groups {
        let before = rows_before.last().copied().unwrap_or_default();
        rows_before.push(before.saturating_add(group.rows));
    }
    Ok(CachedFooter { footer, arrow, rows_before, weight })
}
