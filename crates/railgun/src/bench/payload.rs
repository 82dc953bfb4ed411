//! Contents that say which message they are, so that a reader can check every byte.
//!
//! ```text
//! value = sequence u64 LE │ sent at, µs since the run began, u56 LE │ kind u8 │ filler
//! ```
//! The filler is a piece of a pool that every process generates alike; which piece follows from the
//! sequence.

/// Bytes in front of the filler; no message is smaller.
pub(super) const HEADER_BYTES: usize = 16;
/// The pool: larger than the window of the compression that segments get, so that a filler that
/// comes around again does not compress.
const POOL_BYTES: usize = 8 << 20;
/// Of this many bytes of compressible filler, the first quarter is random, the rest repeats.
const COMPRESSIBLE_BLOCK: usize = 256;

/// How well a filler compresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[repr(u8)]
pub(super) enum Kind {
    /// Not at all
    #[default]
    Random = 0,
    /// To about a quarter
    Compressible = 1,
}

/// A value that is not what was published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PayloadError {
    #[error("it has {bytes} bytes, fewer than a bench message")]
    Short { bytes: usize },
    #[error("it is of an unknown kind {kind}")]
    Kind { kind: u8 },
    #[error("the filler of message {sequence} differs from what was published")]
    Filler { sequence: u64 },
    #[error("message {found} follows message {previous}")]
    Order { previous: u64, found: u64 },
}

/// What a value says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) sequence: u64,
    pub(super) sent_us: u64,
}

/// Makes and checks values.
#[derive(Debug)]
pub(super) struct Payloads {
    random: Vec<u8>,
    compressible: Vec<u8>,
}

impl Payloads {
    /// Generates the pools, for values of at most `size_max` bytes.
    pub(super) fn new(size_max: usize) -> Self {
        let bytes = POOL_BYTES + size_max;
        let mut random = Vec::with_capacity(bytes + 8);
        // SplitMix64 from a fixed seed.
        let mut state = 0x7261_696c_6775_6e00_u64;
        while random.len() < bytes {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            random.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        let mut compressible = random.clone();
        for block in compressible.chunks_mut(COMPRESSIBLE_BLOCK) {
            block.iter_mut().skip(COMPRESSIBLE_BLOCK / 4).for_each(|byte| *byte = b'.');
        }
        Self { random, compressible }
    }

    /// Writes a value of `size` bytes into `out`.
    pub(super) fn write(&self, kind: Kind, size: usize, stamp: Stamp, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&stamp.sequence.to_le_bytes());
        out.extend_from_slice(&stamp.sent_us.to_le_bytes()[..7]);
        out.push(kind as u8);
        out.extend_from_slice(self.filler(kind, stamp.sequence, size - HEADER_BYTES));
    }

    /// Checks every byte of a value.
    pub(super) fn check(&self, value: &[u8]) -> Result<Stamp, PayloadError> {
        let short = PayloadError::Short { bytes: value.len() };
        let (header, filler) = value.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, t0, t1, t2, t3, t4, t5, t6, kind] = *header;
        let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sent_us = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, 0]);
        let kind = match kind {
            0 => Kind::Random,
            1 => Kind::Compressible,
            kind => return Err(PayloadError::Kind { kind }),
        };
        if self.random.len() < POOL_BYTES + filler.len()
            || self.filler(kind, sequence, filler.len()) != filler
        {
            return Err(PayloadError::Filler { sequence });
        }
        Ok(Stamp { sequence, sent_us })
    }

    fn filler(&self, kind: Kind, sequence: u64, len: usize) -> &[u8] {
        let pool = match kind {
            Kind::Random => &self.random,
            Kind::Compressible => &self.compressible,
        };
        let at = (u128::from(sequence) * len as u128 % POOL_BYTES as u128) as usize;
        &pool[at..at + len]
    }
}

/// Checks that messages of a stream come in order and none is missing. A stream may hold several
/// runs, each of which begins at 0.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    previous: Option<u64>,
}

impl Sequence {
    /// The next message of the stream.
    pub(super) fn check(&mut self, found: u64) -> Result<(), PayloadError> {
        match self.previous.replace(found) {
            Some(previous) if found != previous + 1 && found != 0 => {
                Err(PayloadError::Order { previous, found })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_checked() {
        let payloads = Payloads::new(1 << 16);
        let again = Payloads::new(1 << 10);
        for (kind, size) in [(Kind::Random, 16), (Kind::Random, 100), (Kind::Compressible, 1000)] {
            let stamp = Stamp { sequence: u64::MAX - 3, sent_us: 1 << 50 };
            let mut value = Vec::new();
            payloads.write(kind, size, stamp, &mut value);
            assert_eq!(value.len(), size);
            assert_eq!(again.check(&value), Ok(stamp));
            for at in HEADER_BYTES..size {
                let mut damaged = value.clone();
                damaged[at] ^= 1;
                assert_eq!(
                    again.check(&damaged),
                    Err(PayloadError::Filler { sequence: stamp.sequence })
                );
            }
        }
        assert_eq!(again.check(&[0; 15]), Err(PayloadError::Short { bytes: 15 }));
        assert!(again.check(&[0; 1 << 12]).is_err(), "longer than the pool allows");
    }

    #[test]
    fn gaps_and_repeats_are_found_and_new_runs_are_not() {
        let mut sequence = Sequence::default();
        for good in [5, 6, 0, 1] {
            assert_eq!(sequence.check(good), Ok(()));
        }
        assert_eq!(sequence.check(1), Err(PayloadError::Order { previous: 1, found: 1 }));
        assert_eq!(sequence.check(3), Err(PayloadError::Order { previous: 1, found: 3 }));
    }
}
