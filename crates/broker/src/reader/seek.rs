//! Where records of a time begin, in the bucket.

use std::sync::Arc;

use railgun_cold::reader::{ColdPart, Sought};
use railgun_raft::run_on;
use railgun_types::{Offset, Timestamp};

use super::places::Work;
use super::{ReadFailure, ReadSources};

impl ReadSources {
    /// The offset of the first record of `part` with a log time at or after `ts`; the end of the part
    /// if it has none. Takes no memory, as it returns no records: what is fetched has its place until
    /// it was looked at. Cancel safe; a fetch that was begun goes on, with its place.
    pub(crate) async fn seek_time(
        &self,
        part: &ColdPart,
        ts: Timestamp,
    ) -> Result<Offset, ReadFailure> {
        let mut from = part.range.base;
        loop {
            let fetching = Arc::new(self.places.take(Work::Fetch).await?);
            let row_group = match self.cold.seek_with(part, from, ts, &fetching).await? {
                Sought::At(offset) => return Ok(offset),
                Sought::In(row_group) => row_group,
            };
            from = row_group.end();
            let place = self.places.take(Work::Decode).await?;
            let work = move || {
                let _places = (fetching, place);
                row_group.seek_time(ts)
            };
            if let Some(offset) = run_on(&*self.pool, work).await?? {
                return Ok(offset);
            }
        }
    }
}
