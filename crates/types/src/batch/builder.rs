//! Packing records into a batch.

use bytes::{BufMut, Bytes, BytesMut};

use super::content::{self, Content, payload_hash};
use super::{CHECKED_HEADER_BYTES, CODEC_NONE, ENTRY_BYTES, HAS_ID, HEADER_BYTES, MAGIC};
use crate::limits::{self, MESSAGE_ID_BYTES};
use crate::{crc32c, crc32c_append};

/// A message to be packed. Borrowed: packing is the only copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordDraft<'a> {
    /// Absent is not the same as empty.
    pub key: Option<&'a [u8]>,
    /// In order; repeats allowed.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Microseconds since the epoch by the producer's clock.
    pub producer_ts: Option<i64>,
    /// The payload.
    pub value: &'a [u8],
    /// The message id, for the ID time box (DD-1).
    pub id: Option<&'a [u8]>,
}

/// A message that no batch can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordRefused {
    /// The encoded message is over the limit.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Encoded bytes.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The id is empty or too long.
    #[error("a message id has 1 to {MESSAGE_ID_BYTES} bytes, not {bytes}")]
    Id {
        /// Bytes of the id.
        bytes: usize,
    },
    /// Headers that break a rule (SEMANTICS §0).
    #[error("{reason}")]
    Header {
        /// The rule.
        reason: &'static str,
    },
}

/// The two contiguous parts of a finished batch: sent one after the other, they are the batch.
#[derive(Clone, Debug)]
pub struct BatchParts {
    /// Header and table.
    pub head: Bytes,
    /// The records.
    pub body: Bytes,
}

impl BatchParts {
    /// Bytes of the whole batch.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a finished batch is never empty")]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// The batch as one piece: copies both parts.
    #[must_use]
    pub fn concat(&self) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.len());
        whole.put_slice(&self.head);
        whole.put_slice(&self.body);
        whole.freeze()
    }
}

/// Packs records into a batch. Bytes are copied once, into the body.
#[derive(Debug)]
pub struct BatchBuilder {
    table: BytesMut,
    body: BytesMut,
    count: u32,
    message_bytes_max: usize,
    system: bool,
}

impl BatchBuilder {
    /// An empty batch whose messages have at most `message_bytes_max` encoded bytes.
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        let mut table = BytesMut::new();
        table.put_bytes(0, HEADER_BYTES);
        Self { table, body: BytesMut::new(), count: 0, message_bytes_max, system: false }
    }

    /// As [`Self::new`], for the server itself: `rg-` headers are allowed, the message limit is the
    /// hard one. Used to rebuild batches from object storage.
    #[must_use]
    pub fn system() -> Self {
        let hard = limits::BATCH_BYTES_HARD;
        Self { system: true, ..Self::new(hard) }
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch if it were finished now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() + self.body.len()
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`RecordRefused`] if the record breaks a limit; the batch is unchanged then.
    pub fn push(&mut self, draft: &RecordDraft<'_>) -> Result<(), RecordRefused> {
        if let Some(id) = draft.id
            && !(1..=MESSAGE_ID_BYTES).contains(&id.len())
        {
            return Err(RecordRefused::Id { bytes: id.len() });
        }
        if !self.system {
            check_headers(draft.headers.iter().copied())
                .map_err(|reason| RecordRefused::Header { reason })?;
        }
        let start = self.body.len();
        let headers = draft.headers.iter().copied();
        content::encode(&mut self.body, draft.key, headers, draft.producer_ts, draft.value);
        let bytes = self.body.len() - start;
        if bytes > self.message_bytes_max {
            self.body.truncate(start);
            return Err(RecordRefused::TooLarge { bytes, limit: self.message_bytes_max });
        }
        let record = &self.body[start..];
        self.table.reserve(ENTRY_BYTES);
        self.table.put_u32_le(bytes as u32);
        self.table.put_u32_le(crc32c(record));
        match draft.id {
            Some(id) => {
                self.table.put_u8(HAS_ID);
                self.table.put_u8(id.len() as u8);
                self.table.put_slice(id);
                let decoded = Content::decode(record).map_err(|_| RecordRefused::Header {
                    reason: "a header list that cannot be read back",
                })?;
                self.table.put_slice(&payload_hash(&decoded));
            }
            None => self.table.put_u8(0),
        }
        self.count += 1;
        Ok(())
    }

    /// Closes the batch and begins the next one, which keeps the settings of this one.
    #[must_use]
    pub fn finish(&mut self) -> BatchParts {
        let mut next = BytesMut::with_capacity(self.table.len());
        next.put_bytes(0, HEADER_BYTES);
        let mut head = std::mem::replace(&mut self.table, next);
        let body_capacity = self.body.len();
        let body = std::mem::replace(&mut self.body, BytesMut::with_capacity(body_capacity));
        let table_bytes = (head.len() - HEADER_BYTES) as u32;
        let mut header = &mut head[..HEADER_BYTES];
        header.put_slice(&MAGIC);
        header.put_u8(CODEC_NONE);
        header.put_bytes(0, 3);
        header.put_u32_le(self.count);
        header.put_u32_le(table_bytes);
        header.put_u32_le(body.len() as u32);
        let crc = crc32c_append(crc32c(&head[..CHECKED_HEADER_BYTES]), &head[HEADER_BYTES..]);
        head[CHECKED_HEADER_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        self.count = 0;
        BatchParts { head: head.freeze(), body: body.freeze() }
    }
}

/// The rules for a publisher's headers (SEMANTICS §0).
pub(super) fn check_headers<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), &'static str> {
    let (mut count, mut bytes) = (0, 0);
    for (key, value) in headers {
        count += 1;
        bytes += key.len() + value.len();
        if key.is_empty() {
            return Err("a header key is empty");
        }
        if key.len() > limits::HEADER_KEY_BYTES {
            return Err("a header key is longer than 128 bytes");
        }
        if !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a header key has a character that is not printable ASCII");
        }
        if key.len() >= 3 && key.as_bytes()[..3].eq_ignore_ascii_case(b"rg-") {
            return Err("header keys that begin with 'rg-' are the server's");
        }
    }
    if count > limits::HEADERS {
        return Err("there are more than 64 headers");
    }
    if bytes > limits::HEADER_BYTES {
        return Err("the headers have more than 16 KiB together");
    }
    Ok(())
}
