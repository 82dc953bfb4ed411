//! What a log holds: entries with opaque payloads, and the vote kept beside them.

use std::fmt;
use std::slice;
use std::sync::Arc;

use crate::EntryId;
use bytes::Bytes;

/// Opaque bytes in parts, so that a body received from the network goes to the disk with one
/// vectored write and is never concatenated. A clone shares the parts.
#[derive(Clone, Default)]
pub struct Payload {
    parts: Parts,
    len: usize,
}

/// One part needs no allocation of its own; several are shared, so that the ring, the write queue
/// and readers hold the same slice.
#[derive(Clone, Default)]
enum Parts {
    #[default]
    None,
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Payload {
    /// The concatenation of `parts`, without copying them.
    pub fn new(parts: Vec<Bytes>) -> Self {
        let len = parts.iter().map(Bytes::len).sum();
        let parts = match <[Bytes; 1]>::try_from(parts) {
            Ok([part]) => Parts::One(part),
            Err(parts) if parts.is_empty() => Parts::None,
            Err(parts) => Parts::Many(parts.into()),
        };
        Self { parts, len }
    }

    /// A payload of one part.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self { len: bytes.len(), parts: Parts::One(bytes) }
    }

    /// A payload of no bytes.
    pub const fn empty() -> Self {
        Self { parts: Parts::None, len: 0 }
    }

    /// The parts, in order. An entry read back from a file has one.
    pub fn parts(&self) -> &[Bytes] {
        match &self.parts {
            Parts::None => &[],
            Parts::One(part) => slice::from_ref(part),
            Parts::Many(parts) => parts,
        }
    }

    /// Bytes of all parts together.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the payload has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes in one piece: shared where there is one part, copied where there are several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.parts {
            Parts::None => Bytes::new(),
            Parts::One(part) => part.clone(),
            Parts::Many(parts) => parts.concat().into(),
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len)
    }
}

/// Equal bytes are equal payloads, however they are cut into parts.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.parts().iter().flatten().eq(other.parts().iter().flatten())
    }
}

impl Eq for Payload {}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::from_bytes(bytes)
    }
}

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Term and index.
    pub id: EntryId,
    /// Opaque to the log; the layer above tells its kinds of entries apart by it.
    pub kind: u8,
    /// The content, at most [`MAX_PAYLOAD_BYTES`](crate::MAX_PAYLOAD_BYTES) long.
    pub payload: Payload,
}

/// The vote a replica must not forget. Opaque to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Candidate voted for.
    pub node: u64,
    /// Whether the candidate is known to have won.
    pub committed: bool,
}
