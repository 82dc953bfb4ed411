//! Packing records into a batch.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::content::{self, Content, payload_hash};
use super::record_batch::put_header;
use super::{ENTRY_BYTES, HAS_ID, HEADER_BYTES};
use crate::crc32c;
use crate::limits::{self, MESSAGE_ID_BYTES};

/// Records that there is room for in the table where no number was foreseen.
const RECORDS_USUAL: usize = 4;

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

/// Packs records into a batch, in one piece of memory: the table at its front, the records behind the
/// room that the table is foreseen to need.
#[derive(Debug)]
pub struct BatchBuilder {
    /// Header and table, room for more of the table, records.
    memory: BytesMut,
    /// Bytes of header and table.
    head: usize,
    /// Where the records begin.
    body_at: usize,
    count: u32,
    message_bytes_max: usize,
    system: bool,
}

impl BatchBuilder {
    /// An empty batch whose messages have at most `message_bytes_max` encoded bytes.
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        Self::with_capacity(message_bytes_max, RECORDS_USUAL, 0)
    }

    /// As [`Self::new`], with room for `records` records of together `body_bytes` encoded bytes, so
    /// that a batch whose size is known is packed without growing.
    #[must_use]
    pub fn with_capacity(message_bytes_max: usize, records: usize, body_bytes: usize) -> Self {
        Self::with_room(message_bytes_max, HEADER_BYTES + records * ENTRY_BYTES, body_bytes)
    }

    fn with_room(message_bytes_max: usize, body_at: usize, body_bytes: usize) -> Self {
        let memory = new_memory(body_at, body_bytes);
        Self { memory, head: HEADER_BYTES, body_at, count: 0, message_bytes_max, system: false }
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
        self.head + self.body_bytes()
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
        let start = self.memory.len();
        let headers = draft.headers.iter().copied();
        content::encode(&mut self.memory, draft.key, headers, draft.producer_ts, draft.value);
        let bytes = self.memory.len() - start;
        if bytes > self.message_bytes_max {
            self.memory.truncate(start);
            return Err(RecordRefused::TooLarge { bytes, limit: self.message_bytes_max });
        }
        let record = &self.memory[start..];
        let crc = crc32c(record);
        let hash = match draft.id.map(|_| Content::decode(record)) {
            None => None,
            Some(Ok(decoded)) => Some(payload_hash(&decoded)),
            Some(Err(_)) => {
                self.memory.truncate(start);
                return Err(RecordRefused::Header {
                    reason: "a header list that cannot be read back",
                });
            }
        };
        let id = draft.id.zip(hash);
        let mut entry =
            self.table_entry(ENTRY_BYTES + id.map_or(0, |(id, hash)| 1 + id.len() + hash.len()));
        entry.put_u32_le(bytes as u32);
        entry.put_u32_le(crc);
        match id {
            Some((id, hash)) => {
                entry.put_u8(HAS_ID);
                entry.put_u8(id.len() as u8);
                entry.put_slice(id);
                entry.put_slice(&hash);
            }
            None => entry.put_u8(0),
        }
        self.count += 1;
        Ok(())
    }

    fn body_bytes(&self) -> usize {
        self.memory.len() - self.body_at
    }

    /// Room for the next entry of the table.
    fn table_entry(&mut self, bytes: usize) -> &mut [u8] {
        let at = self.head;
        self.head += bytes;
        if self.head > self.body_at {
            // Twice as much of everything, so that the records are moved a few times at most.
            let body_at = 2 * self.head;
            let mut memory = new_memory(body_at, 2 * self.body_bytes());
            memory[..at].copy_from_slice(&self.memory[..at]);
            memory.put_slice(&self.memory[self.body_at..]);
            (self.memory, self.body_at) = (memory, body_at);
        }
        &mut self.memory[at..self.head]
    }

    /// Closes the batch and begins the next one, which keeps the settings of this one and has room
    /// for a little more.
    #[must_use]
    pub fn finish(&mut self) -> BatchParts {
        let more = |bytes| bytes + bytes / 8;
        let (body_at, body_bytes) = (more(self.head), more(self.body_bytes()));
        let next = Self::with_room(self.message_bytes_max, body_at, body_bytes);
        std::mem::replace(self, Self { system: self.system, ..next }).into_parts()
    }

    /// Closes the batch, and there is no next one.
    #[must_use]
    pub fn into_parts(mut self) -> BatchParts {
        let body_bytes = self.body_bytes() as u32;
        let (header, table) = self.memory[..self.head].split_at_mut(HEADER_BYTES);
        put_header(&mut &mut *header, self.count, table, body_bytes);
        let mut body = self.memory.freeze();
        let head = body.split_to(self.head);
        body.advance(self.body_at - self.head);
        BatchParts { head, body }
    }
}

/// Memory with `body_at` bytes of zeros, and room for as many more as are foreseen.
fn new_memory(body_at: usize, body_bytes: usize) -> BytesMut {
    let mut memory = BytesMut::with_capacity(body_at + body_bytes);
    memory.put_bytes(0, body_at);
    memory
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_the_size_that_was_foreseen_does_not_grow() {
        let draft = RecordDraft { value: &[7; 1_000], ..RecordDraft::default() };
        let mut foreseen = BatchBuilder::with_capacity(1 << 20, 2, 2 * 1_001);
        let rooms = |builder: &BatchBuilder| (builder.body_at, builder.memory.capacity());
        let before = rooms(&foreseen);
        let mut grown = BatchBuilder::new(1 << 20);
        for _ in 0..2 {
            foreseen.push(&draft).expect("within the limits");
            grown.push(&draft).expect("within the limits");
        }
        assert_eq!(rooms(&foreseen), before);
        assert_eq!(foreseen.into_parts().concat(), grown.finish().concat());
    }
}
