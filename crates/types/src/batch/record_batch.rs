//! A batch that was received or read back.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::builder::{BatchParts, check_headers};
use super::content::Content;
use super::error::BatchError;
use super::{
    CHECKED_HEADER_BYTES, CODEC_NONE, ENTRY_BYTES, HAS_ID, HEADER_BYTES, MAGIC, PAYLOAD_HASH_BYTES,
};
use crate::cursor::ByteCursor;
use crate::limits::{Limits, MESSAGE_ID_BYTES};
use crate::{crc32c, crc32c_append};

/// A batch in its wire form. Cheap to clone: records are slices of one buffer.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBatch {
    bytes: Bytes,
    count: u32,
    table_bytes: u32,
}

impl RecordBatch {
    /// Accepts a batch from a client: walks it once and checks everything: lengths, counts, all
    /// checksums, canonical encoding, header rules, and that no record has more than
    /// `message_bytes_max` bytes.
    ///
    /// # Errors
    /// [`BatchError`] with the index of the first record that breaks a rule.
    pub fn validate(
        bytes: Bytes,
        limits: &Limits,
        message_bytes_max: usize,
    ) -> Result<Self, BatchError> {
        if bytes.len() > limits.batch_bytes {
            return Err(BatchError::TooLarge { records: 0, bytes: bytes.len() });
        }
        let batch = Self::open(bytes)?;
        batch.check(limits, message_bytes_max)?;
        Ok(batch)
    }

    /// The second half of [`Self::validate`], for a batch that was opened a moment ago: checks all that
    /// header and table do not tell.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, limits: &Limits, message_bytes_max: usize) -> Result<(), BatchError> {
        if self.len() > limits.batch_bytes || self.count() > limits.batch_records {
            return Err(BatchError::TooLarge { records: self.count(), bytes: self.len() });
        }
        self.walk(|index, record| {
            if record.bytes.len() > message_bytes_max {
                let (bytes, limit) = (record.bytes.len(), message_bytes_max);
                return Err(BatchError::MessageTooLarge { index, bytes, limit });
            }
            let content =
                Content::decode(record.bytes).map_err(|_| BatchError::NonCanonical { index })?;
            check_headers(content.headers)
                .map_err(|reason| BatchError::InvalidHeader { index, reason })
        })
    }

    /// Takes back a batch that was validated when it came in: checks lengths and all checksums, so
    /// that no wrong byte is served.
    ///
    /// # Errors
    /// [`BatchError`] where a length or a checksum does not hold.
    pub fn verify(bytes: Bytes) -> Result<Self, BatchError> {
        Self::open(bytes)?.verified()
    }

    /// The second half of [`Self::verify`], for a batch that was opened a moment ago: checks the
    /// records, not header and table once more.
    ///
    /// # Errors
    /// [`BatchError`] where a length or a checksum does not hold.
    pub fn verified(self) -> Result<Self, BatchError> {
        self.walk(|_, _| Ok(()))?;
        Ok(self)
    }

    /// Reads header and table of a batch whose bytes are known to be whole, because they were
    /// validated in this process or lie under a checksum that was just verified.
    ///
    /// # Errors
    /// [`BatchError`] where header or table do not hold. Records are not looked at.
    pub fn open(bytes: Bytes) -> Result<Self, BatchError> {
        let len = bytes.len();
        let mut header = ByteCursor::new(&bytes);
        let short = |_| BatchError::Length { len };
        if header.array().map_err(short)? != MAGIC {
            return Err(BatchError::Unknown { field: "magic number or version" });
        }
        if header.u8().map_err(short)? != CODEC_NONE {
            return Err(BatchError::Unknown { field: "codec" });
        }
        if header.array().map_err(short)? != [0u8; 3] {
            return Err(BatchError::Unknown { field: "flag" });
        }
        let count = header.u32().map_err(short)?;
        let table_bytes = header.u32().map_err(short)?;
        let body_bytes = header.u32().map_err(short)?;
        let crc = header.u32().map_err(short)?;
        let total = HEADER_BYTES as u64 + u64::from(table_bytes) + u64::from(body_bytes);
        if total != len as u64 {
            return Err(BatchError::Length { len });
        }
        if count == 0 {
            return Err(BatchError::Empty);
        }
        if u64::from(count) * ENTRY_BYTES as u64 > u64::from(table_bytes) {
            return Err(BatchError::Table { index: 0 });
        }
        let table = &bytes[HEADER_BYTES..HEADER_BYTES + table_bytes as usize];
        if crc32c_append(crc32c(&bytes[..CHECKED_HEADER_BYTES]), table) != crc {
            return Err(BatchError::HeaderChecksum);
        }
        Ok(Self { bytes, count, table_bytes })
    }

    /// Where the record begins that is `count` records behind `from`, or the batch ends. `None` where there are
    /// not as many.
    #[must_use]
    pub fn place(&self, from: RecordPlace, count: usize) -> Option<RecordPlace> {
        let mut records = self.records_from(from)?;
        for _ in 0..count {
            records.next()?;
        }
        Some(RecordPlace {
            records: from.records + count,
            table: self.table_bytes as usize - records.table.remaining(),
            body: self.body_bytes() - records.body.remaining(),
        })
    }

    /// A batch that holds some of the records: `count` from `from` on, which is a place in this batch. Header
    /// and table are made anew; the records are a slice of these. `None` where there are not as many, or `count`
    /// is 0.
    #[must_use]
    pub fn cut(&self, from: RecordPlace, count: usize) -> Option<BatchParts> {
        let end = self.place(from, count).filter(|_| count > 0)?;
        let table_end = HEADER_BYTES + self.table_bytes as usize;
        if count == self.count() {
            let mut body = self.bytes.clone();
            let head = body.split_to(table_end);
            return Some(BatchParts { head, body });
        }
        let table = &self.bytes[HEADER_BYTES + from.table..HEADER_BYTES + end.table];
        let body = self.bytes.slice(table_end + from.body..table_end + end.body);
        let mut head = BytesMut::with_capacity(HEADER_BYTES + table.len());
        // Each fits where the whole did.
        put_header(&mut head, count as u32, table, body.len() as u32);
        head.put_slice(table);
        Some(BatchParts { head: head.freeze(), body })
    }

    /// Copies `batches` of `bytes` bytes together out of the `held` bytes that they are slices of,
    /// where they would keep more than `times_max` times as much in memory as they are: for those
    /// that outlive a buffer that is much larger. The copies share one allocation.
    pub fn copy_out<'b>(
        batches: impl Iterator<Item = &'b mut Self>,
        bytes: usize,
        held: usize,
        times_max: usize,
    ) {
        if bytes.saturating_mul(times_max) >= held {
            return;
        }
        let mut copies = BytesMut::with_capacity(bytes);
        for batch in batches {
            copies.extend_from_slice(&batch.bytes);
            batch.bytes = copies.split().freeze();
        }
    }

    /// Walks table and body together; calls `check` with each record whose checksum holds.
    fn walk(
        &self,
        mut check: impl FnMut(usize, RecordEntry<'_>) -> Result<(), BatchError>,
    ) -> Result<(), BatchError> {
        let mut records = self.records();
        for index in 0..self.count() {
            let record = records.next().ok_or(BatchError::Table { index })?;
            if crc32c(record.bytes) != record.crc {
                return Err(BatchError::RecordChecksum { index });
            }
            check(index, record)?;
        }
        if records.table.remaining() > 0 || records.body.remaining() > 0 {
            return Err(BatchError::Table { index: self.count() });
        }
        Ok(())
    }

    /// Records in the batch; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes of the whole batch.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The table and the records.
    fn halves(&self) -> (&[u8], &[u8]) {
        self.bytes[HEADER_BYTES..].split_at(self.table_bytes as usize)
    }

    fn records_from(&self, from: RecordPlace) -> Option<Records<'_>> {
        let (table, body) = self.halves();
        Some(Records {
            table: ByteCursor::new(table.get(from.table..)?),
            body: ByteCursor::new(body.get(from.body..)?),
            left: self.count.checked_sub(u32::try_from(from.records).ok()?)?,
        })
    }

    /// Bytes of the records alone.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES - self.table_bytes as usize
    }

    /// Bytes that the ids of its records take, with what belongs to them; 0 if no record has one.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        self.table_bytes as usize - self.count as usize * ENTRY_BYTES
    }

    /// The batch in its wire form.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Some of its records as a batch of their own: `kept`, which are ranges of indices in ascending
    /// order. Table entries and records are copied as they are. `None` where a record is not there, or
    /// none is kept.
    #[must_use]
    pub fn select(&self, kept: impl Iterator<Item = Range<u32>>) -> Option<Self> {
        let (table, body) = self.halves();
        let (mut count, mut last) = (0, RecordPlace::default());
        let mut cuts = Vec::new();
        let mut place = |to: u32| {
            last = self.place(last, (to as usize).checked_sub(last.records)?)?;
            Some(last)
        };
        for run in kept {
            count += run.end.checked_sub(run.start)?;
            cuts.push((place(run.start)?, place(run.end)?));
        }
        let table_bytes: usize = cuts.iter().map(|(from, to)| to.table - from.table).sum();
        let body_bytes: usize = cuts.iter().map(|(from, to)| to.body - from.body).sum();
        if count == 0 {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + table_bytes + body_bytes);
        bytes.put_slice(&MAGIC);
        bytes.put_u8(CODEC_NONE);
        bytes.put_bytes(0, 3);
        bytes.put_u32_le(count);
        bytes.put_u32_le(table_bytes as u32);
        bytes.put_u32_le(body_bytes as u32);
        bytes.put_u32_le(0);
        cuts.iter().for_each(|(from, to)| bytes.put_slice(&table[from.table..to.table]));
        let crc = crc32c_append(crc32c(&bytes[..CHECKED_HEADER_BYTES]), &bytes[HEADER_BYTES..]);
        bytes[CHECKED_HEADER_BYTES..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        cuts.iter().for_each(|(from, to)| bytes.put_slice(&body[from.body..to.body]));
        Some(Self { bytes: bytes.freeze(), count, table_bytes: table_bytes as u32 })
    }

    /// The records in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        let (table, body) = self.halves();
        Records { table: ByteCursor::new(table), body: ByteCursor::new(body), left: self.count }
    }
}

/// Writes the header of a batch with this table.
pub(super) fn put_header(out: &mut impl BufMut, count: u32, table: &[u8], body_bytes: u32) {
    let mut checked = [0; CHECKED_HEADER_BYTES];
    let mut rest = checked.as_mut_slice();
    rest.put_slice(&MAGIC);
    rest.put_u8(CODEC_NONE);
    rest.put_bytes(0, 3);
    rest.put_u32_le(count);
    rest.put_u32_le(table.len() as u32);
    rest.put_u32_le(body_bytes);
    out.put_slice(&checked);
    out.put_u32_le(crc32c_append(crc32c(&checked), table));
}

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordBatch")
            .field("count", &self.count)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Where a record of a batch begins, found once so that those in front of it are not walked again. The default
/// is the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordPlace {
    /// Records, bytes of the table and bytes of records in front of it.
    records: usize,
    table: usize,
    body: usize,
}

/// One record of a batch: its table entry and its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RecordEntry<'a> {
    /// The canonical content.
    pub bytes: &'a [u8],
    /// CRC-32C of `bytes`.
    pub crc: u32,
    /// Table flags.
    pub flags: u8,
    /// The message id, if it has one.
    pub id: Option<&'a [u8]>,
    /// The publisher's payload hash, where there is an id.
    pub payload_hash: Option<&'a [u8; PAYLOAD_HASH_BYTES]>,
}

impl<'a> RecordEntry<'a> {
    /// Bytes that its id takes in the table, with what belongs to it; 0 without one.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        self.id.map_or(0, |id| 1 + id.len() + PAYLOAD_HASH_BYTES)
    }

    /// Decodes the content; `None` only for bytes that were never validated.
    #[must_use]
    pub fn content(&self) -> Option<Content<'a>> {
        Content::decode(self.bytes).ok()
    }
}

/// Iterator over the records of a batch. Ends early only where table and body disagree, which
/// [`RecordBatch::validate`] and [`RecordBatch::verify`] exclude.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    table: ByteCursor<'a>,
    body: ByteCursor<'a>,
    left: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = RecordEntry<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let len = self.table.u32().ok()? as usize;
        let crc = self.table.u32().ok()?;
        let flags = self.table.u8().ok()?;
        let (mut id, mut payload_hash) = (None, None);
        match flags {
            0 => {}
            HAS_ID => {
                let id_len = usize::from(self.table.u8().ok()?);
                if !(1..=MESSAGE_ID_BYTES).contains(&id_len) {
                    return None;
                }
                id = Some(self.table.take(id_len).ok()?);
                payload_hash = self.table.take(PAYLOAD_HASH_BYTES).ok()?.first_chunk();
            }
            _ => return None,
        }
        Some(RecordEntry { bytes: self.body.take(len).ok()?, crc, flags, id, payload_hash })
    }
}

#[cfg(test)]
mod tests;
