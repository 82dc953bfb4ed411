//! Outcomes as bytes: a node that relays a command to the leader of its shard gets the outcome back.
//!
//! ```text
//! outcome = version u8 = 1 │ kind u8 │ content, as in `shard::outcome` and `catalog::outcome`
//! ```
//!
//! Integers are little-endian, v is a minimal varint, a text is its length v and its bytes. There is one
//! encoding of each value. Kinds of a data shard are below 100, those of the catalog are not.

use bytes::{BufMut, BytesMut};
use railgun_types::{ByteCursor, Malformed};

/// Format version of outcomes.
const VERSION: u8 = 1;

/// Bytes that are no outcome of this version. The command may have been applied: what it led to is
/// unknown, as if no answer had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// A version this build does not know.
    #[error("the outcome has the unknown version {version}: a newer release wrote it")]
    UnknownVersion {
        /// Its version.
        version: u8,
    },
    /// Bytes that are cut short, or say what cannot be.
    #[error("the outcome is cut short or malformed")]
    Malformed,
}

impl From<Malformed> for OutcomeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

pub(crate) fn put_head(out: &mut BytesMut, kind: u8) {
    out.put_slice(&[VERSION, kind]);
}

/// Hands kind and content to `read`, which must take all.
pub(crate) fn decode<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(u8, &mut ByteCursor<'a>) -> Result<T, Malformed>,
) -> Result<T, OutcomeError> {
    let mut cursor = ByteCursor::new(bytes);
    let version = cursor.u8()?;
    if version != VERSION {
        return Err(OutcomeError::UnknownVersion { version });
    }
    let kind = cursor.u8()?;
    let value = read(kind, &mut cursor)?;
    if cursor.remaining() > 0 { Err(OutcomeError::Malformed) } else { Ok(value) }
}

/// What holds for the encoding of every outcome, for the tests of those who have them, and that it is as in the
/// golden file of this name.
#[cfg(test)]
pub(crate) fn check<T: PartialEq + std::fmt::Debug>(
    outcomes: &[T],
    golden: &str,
    encode: impl Fn(&T, &mut BytesMut),
    decode: impl Fn(&[u8]) -> Result<T, OutcomeError>,
) {
    let bytes_of = |outcome: &T| {
        let mut out = BytesMut::new();
        encode(outcome, &mut out);
        out
    };
    let mut all = Vec::new();
    for outcome in outcomes {
        let mut bytes = bytes_of(outcome);
        assert_eq!(decode(&bytes).as_ref(), Ok(outcome));
        all.extend_from_slice(&bytes);
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Err(OutcomeError::Malformed), "{outcome:?} at {cut}");
        }
        // Other bytes are another value, or none.
        for at in 0..bytes.len() {
            for mask in [0x01, 0x02, 0x10, 0x80, 0xff] {
                bytes[at] ^= mask;
                if let Ok(other) = decode(&bytes) {
                    assert!(bytes_of(&other) == bytes, "{outcome:?} changed at {at}: {other:?}");
                }
                bytes[at] ^= mask;
            }
        }
        bytes.put_u8(0);
        assert_eq!(decode(&bytes), Err(OutcomeError::Malformed), "one byte more: {outcome:?}");
        bytes[0] = 2;
        assert_eq!(decode(&bytes), Err(OutcomeError::UnknownVersion { version: 2 }));
        bytes[..2].copy_from_slice(&[VERSION, 99]);
        assert_eq!(decode(&bytes), Err(OutcomeError::Malformed), "an unknown kind");
    }
    let path = format!("{}/tests/golden/{golden}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("REGENERATE_GOLDEN").is_some() {
        std::fs::write(&path, &all).expect("it can be written");
    }
    let golden = std::fs::read(path).expect("golden file is there");
    assert!(all == golden, "the format of outcomes changed: {all:02x?}");
}
