//! Records as a test compares them, whichever way they were read.

use railgun_client::{Event, Record, Subscription};
use railgun_cold::reader::ColdBatch;
use railgun_cold::replay::{Replay, ReplayBound, ReplayStream};

/// Everything of a record that must be equal across the tiers (T-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its offset.
    pub offset: u64,
    /// Its log time, in microseconds.
    pub ts: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The publisher's time, in microseconds.
    pub producer_ts: Option<i64>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its id.
    pub id: Option<Vec<u8>>,
}

impl From<Record> for Told {
    fn from(record: Record) -> Self {
        Self {
            offset: record.offset.0,
            ts: record.ts.0,
            key: record.key.map(Vec::from),
            headers: record.headers.into_iter().map(|(k, v)| (k, Vec::from(v))).collect(),
            producer_ts: record.producer_ts.map(|ts| ts.0),
            value: record.value.into(),
            id: record.id.map(Vec::from),
        }
    }
}

/// What a subscription gives to its end, and from where, in order of appearance.
pub async fn drain(mut subscription: Subscription) -> (Vec<Told>, Vec<&'static str>) {
    let (mut told, mut sources) = (Vec::new(), Vec::new());
    while let Some(event) = subscription.next().await.expect("readable") {
        let Event::Data(record) = event else { panic!("a gap: {event:?}") };
        if sources.last() != Some(&record.source.name()) {
            sources.push(record.source.name());
        }
        told.push(record.into());
    }
    (told, sources)
}

/// What the bucket alone gives.
pub async fn replay(
    replay: &Replay,
    stream: ReplayStream<'_>,
    from: ReplayBound,
    until: ReplayBound,
) -> Vec<Told> {
    let mut cursor = replay.read(stream, from, until).await.expect("bounds are found");
    let mut told = Vec::new();
    while let Some(batches) = cursor.next().await {
        batches.expect("readable").iter().for_each(|batch| tell(batch, &mut told));
    }
    told
}

fn tell(batch: &ColdBatch, told: &mut Vec<Told>) {
    for (entry, offset) in batch.batch.records().zip(batch.base.0..) {
        let content = entry.content().expect("decodes");
        told.push(Told {
            offset,
            ts: batch.ts.0,
            key: content.key.map(<[u8]>::to_vec),
            headers: content.headers.map(|(k, v)| (k.to_owned(), v.to_vec())).collect(),
            producer_ts: content.producer_ts,
            value: content.value.to_vec(),
            id: entry.id.map(<[u8]>::to_vec),
        });
    }
}
