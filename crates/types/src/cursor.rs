//! Reading and writing the primitive values of our binary formats: little-endian integers and
//! minimal LEB128 varints. Reads are bounds-checked: any bytes in, a value or `Malformed` out.

use bytes::{BufMut, BytesMut};

/// The bytes are no value: they end before it does, are not its one encoding, or say what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is cut short or malformed")]
pub struct Malformed;

/// A position in a byte slice that never passes its end.
#[derive(Clone, Debug)]
pub struct ByteCursor<'a> {
    rest: &'a [u8],
}

macro_rules! read_int {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Malformed`] if fewer bytes remain.
        pub fn $name(&mut self) -> Result<$int, Malformed> {
            let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
            self.rest = rest;
            Ok(<$int>::from_le_bytes(*head))
        }
    };
}

impl<'a> ByteCursor<'a> {
    /// Nothing to read.
    pub const EMPTY: Self = Self { rest: &[] };

    /// Starts at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// All bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer remain.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes by value.
    ///
    /// # Errors
    /// [`Malformed`] if fewer remain.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    read_int!(
        /// One byte.
        u8, u8
    );
    read_int!(
        /// A little-endian `u16`.
        u16, u16
    );
    read_int!(
        /// A little-endian `u32`.
        u32, u32
    );
    read_int!(
        /// A little-endian `u64`.
        u64, u64
    );
    read_int!(
        /// A little-endian `i64`.
        i64, i64
    );

    /// A minimal LEB128 varint.
    ///
    /// # Errors
    /// [`Malformed`] if it is cut short, longer than needed, or above `u64::MAX`.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte of zero means that a shorter encoding exists.
                return if byte == 0 && shift > 0 { Err(Malformed) } else { Ok(value) };
            }
        }
        Err(Malformed)
    }

    /// A varint length followed by that many bytes.
    ///
    /// # Errors
    /// [`Malformed`] as for [`Self::varint`] and [`Self::take`].
    pub fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        self.take(len)
    }
}

/// Appends `value` as a minimal LEB128 varint.
pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Bytes that [`put_varint`] writes for `value`.
#[must_use]
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Maps a signed value to an unsigned one with small magnitudes first.
#[must_use]
pub fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The inverse of [`zigzag`].
#[must_use]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip_in_their_length(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut cursor = ByteCursor::new(&out);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert_eq!(cursor.remaining(), 0);
        }

        #[test]
        fn zigzag_round_trips(value: i64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }

        #[test]
        fn a_varint_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut cursor = ByteCursor::new(&bytes);
            if let Ok(value) = cursor.varint() {
                let mut again = BytesMut::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&bytes[..bytes.len() - cursor.remaining()], &again[..]);
            }
        }
    }
}
