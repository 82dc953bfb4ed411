//! The content of one record: key, headers, producer timestamp, value.

use bytes::{BufMut, BytesMut};
use xxhash_rust::xxh3::Xxh3Default;

use super::{ATTR_HEADERS, ATTR_KEY, ATTR_PRODUCER_TS, PAYLOAD_HASH_BYTES};
use crate::cursor::{ByteCursor, Malformed, put_varint, unzigzag, varint_len, zigzag};

/// The decoded content of a record, borrowed from its batch.
#[derive(Clone, Debug)]
pub struct Content<'a> {
    /// Absent is not the same as empty (T-2).
    pub key: Option<&'a [u8]>,
    /// In the order of the publisher, repeats included.
    pub headers: ContentHeaders<'a>,
    /// Microseconds since the epoch by the producer's clock.
    pub producer_ts: Option<i64>,
    /// The payload.
    pub value: &'a [u8],
}

/// The headers of a record. An iterator over `(key, value)`.
#[derive(Clone, Debug)]
pub struct ContentHeaders<'a> {
    left: usize,
    cursor: ByteCursor<'a>,
}

impl ContentHeaders<'_> {
    const NONE: Self = Self { left: 0, cursor: ByteCursor::EMPTY };
}

impl<'a> Iterator for ContentHeaders<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // Checked when the content was decoded.
        let key = self.cursor.sized().ok()?;
        Some((std::str::from_utf8(key).ok()?, self.cursor.sized().ok()?))
    }
}

impl<'a> Content<'a> {
    /// Decodes one record.
    ///
    /// # Errors
    /// [`Malformed`] where the bytes are not the one encoding of a content: cut short, a varint
    /// longer than needed, an unknown attribute, an empty header list, a key that is not UTF-8.
    pub fn decode(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = ByteCursor::new(record);
        let attributes = cursor.u8()?;
        if attributes & !(ATTR_KEY | ATTR_HEADERS | ATTR_PRODUCER_TS) != 0 {
            return Err(Malformed);
        }
        let key = if attributes & ATTR_KEY != 0 { Some(cursor.sized()?) } else { None };
        let mut headers = ContentHeaders::NONE;
        if attributes & ATTR_HEADERS != 0 {
            let count = usize::try_from(cursor.varint()?).map_err(|_| Malformed)?;
            if count == 0 {
                return Err(Malformed);
            }
            headers = ContentHeaders { left: count, cursor: cursor.clone() };
            for _ in 0..count {
                let key = cursor.sized()?;
                if !key.is_ascii() {
                    std::str::from_utf8(key).map_err(|_| Malformed)?;
                }
                cursor.sized()?;
            }
        }
        let producer_ts = if attributes & ATTR_PRODUCER_TS != 0 {
            Some(unzigzag(cursor.varint()?))
        } else {
            None
        };
        Ok(Self { key, headers, producer_ts, value: cursor.rest() })
    }

    /// Bytes of the encoding.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let sized = |bytes: &[u8]| varint_len(bytes.len() as u64) + bytes.len();
        let mut len = 1 + self.key.map_or(0, sized) + self.value.len();
        if self.headers.left > 0 {
            len += varint_len(self.headers.left as u64);
            len += self.headers.clone().map(|(k, v)| sized(k.as_bytes()) + sized(v)).sum::<usize>();
        }
        len + self.producer_ts.map_or(0, |ts| varint_len(zigzag(ts)))
    }
}

/// Appends the one encoding of a content. `headers` is walked once.
pub(super) fn encode<'h>(
    out: &mut BytesMut,
    key: Option<&[u8]>,
    headers: impl ExactSizeIterator<Item = (&'h str, &'h [u8])>,
    producer_ts: Option<i64>,
    value: &[u8],
) {
    let put_sized = |out: &mut BytesMut, bytes: &[u8]| {
        put_varint(out, bytes.len() as u64);
        out.put_slice(bytes);
    };
    let attributes = if key.is_some() { ATTR_KEY } else { 0 }
        | if headers.len() > 0 { ATTR_HEADERS } else { 0 }
        | if producer_ts.is_some() { ATTR_PRODUCER_TS } else { 0 };
    out.put_u8(attributes);
    if let Some(key) = key {
        put_sized(out, key);
    }
    if headers.len() > 0 {
        put_varint(out, headers.len() as u64);
        for (key, value) in headers {
            put_sized(out, key.as_bytes());
            put_sized(out, value);
        }
    }
    if let Some(ts) = producer_ts {
        put_varint(out, zigzag(ts));
    }
    out.put_slice(value);
}

/// Whether a header belongs to the transport and not to the message (DD-2).
fn is_transport_header(key: &str) -> bool {
    key.starts_with("rg-") || key == "traceparent"
}

/// The hash that tells a repeated message from another one under the same id (DD-2): XXH3-128, big
/// endian, over the key (presence byte, length u64, bytes), each header that is neither `rg-*` nor
/// `traceparent` (length u64, key, length u64, value), a zero length, and the value. Lengths are
/// little-endian. Producer timestamps do not count: a retry may carry another.
#[must_use]
pub fn payload_hash(content: &Content<'_>) -> [u8; PAYLOAD_HASH_BYTES] {
    let mut hasher = Xxh3Default::new();
    let sized = |hasher: &mut Xxh3Default, bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match content.key {
        Some(key) => {
            hasher.update(&[1]);
            sized(&mut hasher, key);
        }
        None => hasher.update(&[0]),
    }
    for (key, value) in content.headers.clone().filter(|(key, _)| !is_transport_header(key)) {
        sized(&mut hasher, key.as_bytes());
        sized(&mut hasher, value);
    }
    hasher.update(&0u64.to_le_bytes());
    hasher.update(content.value);
    hasher.digest128().to_be_bytes()
}
