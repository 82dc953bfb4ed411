//! Footers, fetched once and kept parsed.

use std::sync::Arc;

use foyer::{Cache, CacheBuilder};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::statistics::Statistics;
use railgun_types::Timestamp;

use super::error::ColdReadError;
use super::part::ObjectRef;
use crate::bucket::Bucket;
use crate::segment::Footer;
use crate::segment::schema::{self, column};

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
}

impl Footers {
    pub(super) fn new(bucket: Bucket, bytes: usize) -> Self {
        let cache = CacheBuilder::new(bytes)
            .with_name("cold footers")
            .with_shards(1)
            .with_weighter(|_: &Arc<str>, footer: &Arc<CachedFooter>| footer.weight)
            .build();
        Self { bucket, cache }
    }

    /// The object's footer. Those who ask for the same at once share one request.
    pub(super) async fn get(&self, object: &ObjectRef) -> Result<Arc<CachedFooter>, ColdReadError> {
        let fetch = {
            let (bucket, object) = (self.bucket.clone(), object.clone());
            move || async move { fetch(&bucket, &object).await.map(Arc::new) }
        };
        match self.cache.get_or_fetch(&object.key, fetch).await {
            Ok(entry) => Ok(entry.value().clone()),
            Err(error) => Err(super::typed(&object.key, &error)),
        }
    }
}

async fn fetch(bucket: &Bucket, object: &ObjectRef) -> Result<CachedFooter, ColdReadError> {
    let key = &object.key;
    let start = object
        .bytes
        .checked_sub(u64::from(object.footer_bytes))
        .ok_or_else(|| ColdReadError::corrupt(key, "its footer is larger than itself"))?;
    let tail = bucket
        .get_range(key, start..object.bytes)
        .await
        .map_err(|error| ColdReadError::from_bucket(key, &error))?;
    let (footer, meta) = Footer::parse(&tail, object.bytes)
        .map_err(|error| ColdReadError::corrupt(key, error.to_string()))?;
    if (footer.cluster, footer.shard) != (object.cluster, object.shard) {
        return Err(ColdReadError::corrupt(key, "it is of another cluster or shard"));
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
