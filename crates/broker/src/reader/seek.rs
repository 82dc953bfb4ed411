//! Where records of a time begin, in the bucket.

use std::sync::Arc;

use railgun_cold::reader::{ColdPart, RowGroup, Sought};
use railgun_raft::run_on;
use railgun_types::{Offset, Timestamp};

use super::places::{Place, Work};
use super::{ReadFailure, ReadSources};

impl ReadSources {
    /// The offset of the first record of `part` with a log time at or after `ts`; the end of the part
    /// if it has none. Takes no memory, as it returns no records: what is fetched has its place until
    /// it was looked at. What is cached needs none of the bucket's. Cancel safe; a fetch that was begun
    /// goes on, with its place.
    pub(crate) async fn seek_time(
        &self,
        part: &ColdPart,
        ts: Timestamp,
    ) -> Result<Offset, ReadFailure> {
        let mut from = part.range.base;
        loop {
            // First of all: a row group that waits for its place is memory that nothing bounds.
            let decoding = self.places.take(Work::Decode).await?;
            let (sought, places) = match self.cold.seek_cached(part, from, ts)? {
                Some(sought) => (sought, (decoding, None)),
                None => {
                    drop(decoding);
                    let fetching = Arc::new(self.places.take(Work::Fetch).await?);
                    let sought = self.cold.seek_with(part, from, ts, &fetching).await?;
                    (sought, (self.places.take(Work::Decode).await?, Some(fetching)))
                }
            };
            let row_group = match sought {
                Sought::At(offset) => return Ok(offset),
                Sought::In(row_group) => row_group,
            };
            from = row_group.end();
            if let Some(offset) = self.seek_in(row_group, ts, places).await? {
                return Ok(offset);
            }
        }
    }

    async fn seek_in(
        &self,
        row_group: RowGroup,
        ts: Timestamp,
        places: (Place, Option<Arc<Place>>),
    ) -> Result<Option<Offset>, ReadFailure> {
        let work = move || {
            let _places = places;
            row_group.seek_time(ts)
        };
        let sought = run_on(&*self.pool, work).await?;
        Ok(sought?)
    }
}
