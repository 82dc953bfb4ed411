//! The dead letter of a message: the whole message, and what became of it (DL-4).

use bytes::Bytes;
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft, RecordRefused};
use railgun_types::{GroupName, Offset, StreamName, StreamUid, Timestamp};

use super::feed::Run;

/// What is said of a message that a group has given up.
#[derive(Clone, Debug)]
pub(super) struct Obituary<'a> {
    pub(super) stream: &'a StreamName,
    pub(super) uid: StreamUid,
    pub(super) group: &'a GroupName,
    pub(super) offset: Offset,
    /// Its number among the group's dead letters: its offset in the companion.
    pub(super) seq: Offset,
    pub(super) reason: &'static str,
    pub(super) attempts: u32,
    pub(super) error: Option<&'a str>,
    pub(super) first_failed: Timestamp,
    pub(super) died_at: Timestamp,
    pub(super) generation: u32,
}

impl Obituary<'_> {
    /// A batch that holds the dead letter of the first record of `run`.
    ///
    /// # Errors
    /// [`RecordRefused`]: the record is none that was ever taken in.
    pub(super) fn letter(&self, run: &Run) -> Result<RecordBatch, RecordRefused> {
        let delivery = &run.delivery;
        let entry = delivery.batch.records().nth(run.index());
        let content = entry.and_then(|entry| Some((entry, entry.content()?)));
        let Some((entry, content)) = content else {
            return Err(RecordRefused::Header { reason: "the message cannot be decoded" });
        };
        let said = self.headers();
        let mut headers: Vec<(&str, &[u8])> = content.headers.collect();
        headers.extend(said.iter().map(|(key, value)| (*key, value.as_bytes())));
        let mut builder = BatchBuilder::system();
        builder.push(&RecordDraft {
            key: content.key,
            headers: &headers,
            producer_ts: content.producer_ts,
            value: content.value,
            id: entry.id,
        })?;
        let batch: Bytes = builder.into_parts().concat();
        Ok(RecordBatch::open(batch).expect("just built"))
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("rg-dlq-stream", self.stream.to_string()),
            ("rg-dlq-uid", self.uid.to_string()),
            ("rg-dlq-group", self.group.to_string()),
            ("rg-dlq-offset", self.offset.to_string()),
            ("rg-dlq-seq", self.seq.to_string()),
            ("rg-dlq-reason", self.reason.to_owned()),
            ("rg-dlq-attempts", self.attempts.to_string()),
        ];
        if let Some(error) = self.error {
            headers.push(("rg-dlq-last-error", error.to_owned()));
        }
        headers.extend([
            ("rg-dlq-first-delivered", self.first_failed.0.to_string()),
            ("rg-dlq-died-at", self.died_at.0.to_string()),
            ("rg-dlq-redrive-gen", self.generation.to_string()),
        ]);
        headers
    }
}
