//! Record batches written byte by byte from the protocol's page, so that each byte can be a lie.

use bytes::Bytes;
use railgun_proto::v1;
use railgun_types::batch::RecordBatch;
use railgun_types::{crc32c, crc32c_append};

/// Where the fields of a batch header lie.
pub(crate) const COUNT: usize = 8;
pub(crate) const TABLE_BYTES: usize = 12;
pub(crate) const BODY_BYTES: usize = 16;
const CRC: usize = 20;
pub(crate) const HEADER: usize = 24;

/// A record and its table entry.
#[derive(Clone, Default)]
pub(crate) struct Record {
    pub(crate) bytes: Vec<u8>,
    pub(crate) id: Option<Vec<u8>>,
}

impl Record {
    /// Any bytes as a record.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), id: None }
    }

    /// A value and nothing else.
    pub(crate) fn value(value: &[u8]) -> Self {
        Self::raw([&[0], value].concat())
    }

    /// Headers, then the value `v`.
    pub(crate) fn with_headers(headers: &[(&[u8], &[u8])]) -> Self {
        let mut bytes = vec![2];
        put_varint(&mut bytes, headers.len());
        for (key, value) in headers {
            for part in [key, value] {
                put_varint(&mut bytes, part.len());
                bytes.extend_from_slice(part);
            }
        }
        bytes.push(b'v');
        Self::raw(bytes)
    }

    /// With an id of any length, and a payload hash that is none.
    pub(crate) fn with_id(self, id: &[u8]) -> Self {
        Self { id: Some(id.to_vec()), ..self }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A batch whose lengths, counts and checksums are true.
pub(crate) fn of(records: &[Record]) -> Vec<u8> {
    let (mut table, mut body) = (Vec::new(), Vec::new());
    for record in records {
        table.extend_from_slice(&(record.bytes.len() as u32).to_le_bytes());
        table.extend_from_slice(&crc32c(&record.bytes).to_le_bytes());
        match &record.id {
            None => table.push(0),
            Some(id) => {
                table.extend_from_slice(&[1, id.len() as u8]);
                table.extend_from_slice(id);
                table.extend_from_slice(&[0; 16]);
            }
        }
        body.extend_from_slice(&record.bytes);
    }
    let mut batch = b"RGB1\0\0\0\0".to_vec();
    for length in [records.len(), table.len(), body.len(), 0] {
        batch.extend_from_slice(&(length as u32).to_le_bytes());
    }
    batch.extend_from_slice(&table);
    batch.extend_from_slice(&body);
    reseal(&mut batch);
    batch
}

/// A batch of plain values.
pub(crate) fn of_values(values: &[&[u8]]) -> Vec<u8> {
    of(&values.iter().map(|value| Record::value(value)).collect::<Vec<_>>())
}

/// Makes the header's checksum true again after a change, as far as the table is there.
pub(crate) fn reseal(batch: &mut [u8]) {
    let table = HEADER.saturating_add(field(batch, TABLE_BYTES) as usize).min(batch.len());
    let crc = crc32c_append(crc32c(&batch[..CRC]), &batch[HEADER..table]);
    batch[CRC..HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// The field of a header.
pub(crate) fn field(batch: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(batch[at..at + 4].try_into().expect("four bytes"))
}

/// Changes a field of a header and makes its checksum true again.
pub(crate) fn set_field(batch: &mut [u8], at: usize, value: u32) {
    batch[at..at + 4].copy_from_slice(&value.to_le_bytes());
    reseal(batch);
}

/// What a delivery brings: offsets and values. Verifies everything.
pub(crate) fn values(deliver: &v1::Deliver, blob: Bytes) -> Vec<(u64, Bytes)> {
    let batch = RecordBatch::verify(blob.clone()).expect("whole batches only");
    let wanted = batch.records().enumerate().skip(deliver.skip as usize);
    wanted
        .take(deliver.count as usize)
        .map(|(i, record)| {
            let value = record.content().expect("canonical").value;
            (deliver.base_offset + i as u64, blob.slice_ref(value))
        })
        .collect()
}
