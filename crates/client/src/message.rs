//! What a publisher sends.

use bytes::Bytes;
use railgun_types::Timestamp;
use railgun_types::batch::RecordDraft;

/// A message to be published. Only the value is needed.
///
/// ```
/// use railgun_client::Message;
///
/// let message = Message::new("42.5").with_key("sensor-7").with_header("unit", "kWh");
/// assert_eq!(message.key.as_deref(), Some(&b"sensor-7"[..]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Absent is not the same as empty.
    pub key: Option<Bytes>,
    /// In order; repeats are allowed. Keys are printable ASCII of at most 128 bytes and do not begin
    /// with `rg-`; at most 64 headers and 16 KiB together.
    pub headers: Vec<(String, Bytes)>,
    /// The producer's own time, carried and not looked at.
    pub producer_ts: Option<Timestamp>,
    /// The payload.
    pub value: Bytes,
    /// Identifies the message for the ID time box (DD-1): 1 to 128 bytes.
    pub id: Option<Bytes>,
}

impl Message {
    /// A message that is only a value.
    #[must_use]
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }

    /// With this key.
    #[must_use]
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((key.into(), value.into()));
        self
    }

    /// With this id.
    #[must_use]
    pub fn with_id(self, id: impl Into<Bytes>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The headers in the borrowed form that batches are packed from. Allocates only if there are
    /// some.
    pub(crate) fn header_slices(&self) -> Vec<(&str, &[u8])> {
        self.headers.iter().map(|(key, value)| (key.as_str(), &value[..])).collect()
    }

    /// The message in borrowed form; `headers` are its [`header_slices`](Self::header_slices).
    pub(crate) fn draft<'a>(&'a self, headers: &'a [(&'a str, &'a [u8])]) -> RecordDraft<'a> {
        RecordDraft {
            key: self.key.as_deref(),
            headers,
            producer_ts: self.producer_ts.map(|ts| ts.0),
            value: &self.value,
            id: self.id.as_deref(),
        }
    }

    /// Calls `use_draft` with the borrowed form.
    pub(crate) fn with_draft<T>(&self, use_draft: impl FnOnce(&RecordDraft<'_>) -> T) -> T {
        use_draft(&self.draft(&self.header_slices()))
    }
}

impl From<Bytes> for Message {
    fn from(value: Bytes) -> Self {
        Self::new(value)
    }
}

/// Bytes that a record needs in a batch, apart from its content, at most: table entry, attributes,
/// lengths.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// Bytes that `draft` needs in a batch, at most.
pub(crate) fn draft_bytes(draft: &RecordDraft<'_>) -> usize {
    let headers: usize = draft.headers.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
    // A record with an id carries a payload hash too.
    let id = draft.id.map_or(0, |id| id.len() + railgun_types::batch::PAYLOAD_HASH_BYTES);
    draft.key.map_or(0, <[u8]>::len) + headers + id + draft.value.len() + RECORD_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_types::batch::BatchBuilder;

    #[test]
    fn the_estimate_is_never_below_what_a_batch_takes() {
        let full = Message::new(vec![0; 70_000])
            .with_key(vec![1; 300])
            .with_header("a", vec![2; 200])
            .with_header("b", "")
            .with_id(vec![3; 128]);
        let full = Message { producer_ts: Some(Timestamp(i64::MIN)), ..full };
        for message in [Message::default(), full] {
            let mut batch = BatchBuilder::new(1 << 20);
            let empty = batch.len();
            let estimate = message.with_draft(|draft| {
                batch.push(draft).expect("within the limits");
                draft_bytes(draft)
            });
            assert!(estimate >= batch.len() - empty, "{estimate} < {}", batch.len() - empty);
        }
    }
}
