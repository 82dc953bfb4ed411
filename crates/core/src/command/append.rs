//! The command that carries records.

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::batch::RecordBatch;
use railgun_types::{ByteCursor, GroupId, Malformed, Offset, ProducerId, StreamUid, crc32c};

use super::PartsCursor;

/// One batch for one stream.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where to.
    pub stream: StreamUid,
    /// From whom, for exactly-once append of retries (PQ-1).
    pub producer: Option<ProducerSequence>,
    /// Whether the batch is one unit.
    pub mode: AppendMode,
    /// Append only if the stream ends there.
    pub expected_end: Option<ExpectedNext>,
    /// Which message of a group it is the dead letter of; the stream is the group's companion.
    pub dead_letter: Option<DeadLetterOf>,
    /// The records.
    pub batch: RecordBatch,
}

/// A producer's claim about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The publisher handle.
    pub id: ProducerId,
    /// A greater one fences a smaller one.
    pub epoch: u32,
    /// Records this producer has sent to this stream before.
    pub sequence: u64,
}

/// How a batch is appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendMode {
    /// Each message by itself, in order.
    #[default]
    Each,
    /// All messages at consecutive offsets, or none (PS-4).
    Atomic,
}

/// The offset that the publisher expects the first record of its batch to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedNext(pub u64);

/// A message that a group has given up, of which the one record of a batch is the dead letter (DL-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterOf {
    /// The group.
    pub group: GroupId,
    /// The message.
    pub offset: Offset,
    /// How often it was made pending again before.
    pub generation: u32,
}

const FLAG_PRODUCER: u8 = 1;
const FLAG_EXPECTED: u8 = 2;
const FLAG_ATOMIC: u8 = 4;
const FLAG_DEAD_LETTER: u8 = 8;

/// Encodes all item headers into one buffer and interleaves its slices with the batches.
pub(super) fn encode(mut meta: BytesMut, items: &[Append]) -> Vec<Bytes> {
    let mut cuts = Vec::with_capacity(items.len());
    for item in items {
        let start = meta.len();
        meta.put_slice(&item.stream.0);
        meta.put_u32_le(item.batch.len() as u32);
        let atomic = item.mode == AppendMode::Atomic;
        meta.put_u8(
            if item.producer.is_some() { FLAG_PRODUCER } else { 0 }
                | if item.expected_end.is_some() { FLAG_EXPECTED } else { 0 }
                | if atomic { FLAG_ATOMIC } else { 0 }
                | if item.dead_letter.is_some() { FLAG_DEAD_LETTER } else { 0 },
        );
        if let Some(producer) = item.producer {
            meta.put_slice(&producer.id.0);
            meta.put_u32_le(producer.epoch);
            meta.put_u64_le(producer.sequence);
        }
        if let Some(ExpectedNext(next)) = item.expected_end {
            meta.put_u64_le(next);
        }
        if let Some(DeadLetterOf { group, offset, generation }) = item.dead_letter {
            meta.put_u64_le(group.0);
            meta.put_u64_le(offset.0);
            meta.put_u32_le(generation);
        }
        let crc = crc32c(&meta[start..]);
        meta.put_u32_le(crc);
        cuts.push(meta.len());
    }
    let meta = meta.freeze();
    let mut parts = Vec::with_capacity(items.len() * 2);
    let mut from = 0;
    for (item, cut) in items.iter().zip(cuts) {
        parts.push(meta.slice(from..cut));
        parts.push(item.batch.as_bytes().clone());
        from = cut;
    }
    parts
}

/// Reads items up to the end of the entry.
pub(super) fn decode(cursor: &mut PartsCursor<'_>) -> Result<Vec<Append>, Malformed> {
    let mut items = Vec::new();
    while !cursor.peek().is_empty() {
        items.push(Append::decode(cursor)?);
    }
    Ok(items)
}

impl Append {
    /// Bytes of the item in its entry, batch included.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let producer = if self.producer.is_some() { 28 } else { 0 };
        let expected = if self.expected_end.is_some() { 8 } else { 0 };
        let dead_letter = if self.dead_letter.is_some() { 20 } else { 0 };
        25 + producer + expected + dead_letter + self.batch.len()
    }

    /// Reads one item where the cursor stands. The item's header is checked; the batch is opened.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes are no item.
    pub fn decode(cursor: &mut PartsCursor<'_>) -> Result<Self, Malformed> {
        let bytes = cursor.peek();
        let mut fields = ByteCursor::new(bytes);
        let stream = StreamUid(fields.array()?);
        let batch_bytes = fields.u32()? as usize;
        let flags = fields.u8()?;
        if flags & !(FLAG_PRODUCER | FLAG_EXPECTED | FLAG_ATOMIC | FLAG_DEAD_LETTER) != 0 {
            return Err(Malformed);
        }
        let producer = if flags & FLAG_PRODUCER != 0 {
            let id = ProducerId(fields.array()?);
            Some(ProducerSequence { id, epoch: fields.u32()?, sequence: fields.u64()? })
        } else {
            None
        };
        let expected_end =
            if flags & FLAG_EXPECTED != 0 { Some(ExpectedNext(fields.u64()?)) } else { None };
        let dead_letter = if flags & FLAG_DEAD_LETTER != 0 {
            let (group, offset) = (GroupId(fields.u64()?), Offset(fields.u64()?));
            Some(DeadLetterOf { group, offset, generation: fields.u32()? })
        } else {
            None
        };
        let header_bytes = bytes.len() - fields.remaining();
        if crc32c(&bytes[..header_bytes]) != fields.u32()? {
            return Err(Malformed);
        }
        cursor.take(header_bytes + 4)?;
        let batch = RecordBatch::open(cursor.take(batch_bytes)?).map_err(|_| Malformed)?;
        let mode = if flags & FLAG_ATOMIC != 0 { AppendMode::Atomic } else { AppendMode::Each };
        Ok(Self { stream, producer, mode, expected_end, dead_letter, batch })
    }
}
