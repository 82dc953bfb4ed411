//! One frame: an 8-byte header, a message, and for some kinds a blob of raw bytes.

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::ErrorCode;

use crate::kind::{FrameKind, Message};

/// Bytes of a frame's header: kind u8 │ head bytes u24 LE │ blob bytes u32 LE.
pub const HEADER_BYTES: usize = 8;

/// Bytes that are not a frame, or a frame that is not what was expected or allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("a frame has the unknown kind {number}")]
    UnknownKind {
        /// The kind's number.
        number: u8,
    },
    /// A head over the limit of its kind.
    #[error("the head of a {kind} frame has {bytes} bytes; the limit is {limit}")]
    HeadTooLarge {
        /// The frame's kind.
        kind: FrameKind,
        /// Bytes of the head.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A blob over the limit of its kind, or on a kind that has none.
    #[error("the blob of a {kind} frame has {bytes} bytes; the limit is {limit}")]
    BlobTooLarge {
        /// The frame's kind.
        kind: FrameKind,
        /// Bytes of the blob.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A head that is not a message of its kind.
    #[error("the head of a {kind} frame is not a {kind} message: {source}")]
    Malformed {
        /// The frame's kind.
        kind: FrameKind,
        /// What the decoder found.
        source: prost::DecodeError,
    },
    /// A frame of another kind than the protocol allows here.
    #[error("a frame of kind {found} came where {expected} belongs")]
    Unexpected {
        /// What should have come.
        expected: FrameKind,
        /// What came.
        found: FrameKind,
    },
}

impl FrameError {
    /// The number this error has on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::HeadTooLarge { .. } | Self::BlobTooLarge { .. } => ErrorCode::FrameTooLarge,
            Self::UnknownKind { .. } | Self::Malformed { .. } | Self::Unexpected { .. } => {
                ErrorCode::ProtocolViolation
            }
        }
    }
}

/// The first 8 bytes of a frame. One that exists is within the limits of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    kind: FrameKind,
    head_bytes: usize,
    blob_bytes: usize,
}

impl FrameHeader {
    /// Checks the sizes against the limits of `kind`.
    ///
    /// # Errors
    /// [`FrameError::HeadTooLarge`], [`FrameError::BlobTooLarge`].
    pub fn new(kind: FrameKind, head_bytes: usize, blob_bytes: usize) -> Result<Self, FrameError> {
        let limit = kind.head_bytes_max();
        if head_bytes > limit {
            return Err(FrameError::HeadTooLarge { kind, bytes: head_bytes, limit });
        }
        let limit = kind.blob_bytes_max();
        if blob_bytes > limit {
            return Err(FrameError::BlobTooLarge { kind, bytes: blob_bytes, limit });
        }
        Ok(Self { kind, head_bytes, blob_bytes })
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::UnknownKind`], or as [`Self::new`].
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [number, h0, h1, h2, b0, b1, b2, b3] = bytes;
        let kind = FrameKind::from_u8(number).ok_or(FrameError::UnknownKind { number })?;
        let head_bytes = u32::from_le_bytes([h0, h1, h2, 0]);
        let blob_bytes = u32::from_le_bytes([b0, b1, b2, b3]);
        Self::new(kind, head_bytes as usize, blob_bytes as usize)
    }

    /// The header as it is sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        // No narrowing loses bits: the limits of every kind are far below.
        let [h0, h1, h2, _] = (self.head_bytes as u32).to_le_bytes();
        let [b0, b1, b2, b3] = (self.blob_bytes as u32).to_le_bytes();
        [self.kind as u8, h0, h1, h2, b0, b1, b2, b3]
    }

    /// The frame's kind.
    #[must_use]
    pub fn kind(self) -> FrameKind {
        self.kind
    }

    /// Bytes of the head.
    #[must_use]
    pub fn head_bytes(self) -> usize {
        self.head_bytes
    }

    /// Bytes of the blob.
    #[must_use]
    pub fn blob_bytes(self) -> usize {
        self.blob_bytes
    }
}

/// A message on its way, with the blob that belongs to it. Cheap to clone. Frames are equal if their
/// bytes on the wire are.
#[derive(Clone)]
pub struct Frame {
    kind: FrameKind,
    head: Bytes,
    blob: Vec<Bytes>,
}

impl Frame {
    /// A frame without blob.
    #[must_use]
    pub fn new<M: Message>(message: &M) -> Self {
        Self::with_blob(message, Vec::new())
    }

    /// A frame whose blob is `parts`, one behind the other. They are not copied.
    #[must_use]
    pub fn with_blob<M: Message>(message: &M, parts: Vec<Bytes>) -> Self {
        Self { kind: M::KIND, head: message.encode_to_vec().into(), blob: parts }
    }

    /// A frame as it was received.
    pub(crate) fn from_parts(kind: FrameKind, head: Bytes, blob: Vec<Bytes>) -> Self {
        Self { kind, head, blob }
    }

    /// What the frame carries.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The message. Its bytes fields are slices of the head, and keep it alive.
    ///
    /// # Errors
    /// [`FrameError::Unexpected`] for a frame of another kind, [`FrameError::Malformed`] for a head
    /// that is not an `M`.
    pub fn decode<M: Message>(&self) -> Result<M, FrameError> {
        if self.kind != M::KIND {
            return Err(FrameError::Unexpected { expected: M::KIND, found: self.kind });
        }
        M::decode(self.head.clone())
            .map_err(|source| FrameError::Malformed { kind: self.kind, source })
    }

    /// The blob in one piece; empty for most kinds. Copies only if it was made of several parts,
    /// which a received one never is.
    #[must_use]
    pub fn blob(&self) -> Bytes {
        match self.blob.as_slice() {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            parts => parts.concat().into(),
        }
    }

    /// Bytes of the blob.
    #[must_use]
    pub fn blob_bytes(&self) -> usize {
        self.blob.iter().map(Bytes::len).sum()
    }

    /// Bytes of the whole frame on the wire.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.head.len() + self.blob_bytes()
    }

    /// Writes header and head behind `out` and gives back the parts of the blob, which follow them
    /// on the wire. So a sender can gather many small frames in one buffer, and hand over blobs
    /// without copying them.
    ///
    /// # Errors
    /// [`FrameError::HeadTooLarge`] or [`FrameError::BlobTooLarge`] for a frame that no receiver
    /// would take. `out` is unchanged then.
    pub fn write_to(self, out: &mut BytesMut) -> Result<Vec<Bytes>, FrameError> {
        let header = FrameHeader::new(self.kind, self.head.len(), self.blob_bytes())?;
        out.reserve(HEADER_BYTES + self.head.len());
        out.put_slice(&header.to_bytes());
        out.put_slice(&self.head);
        Ok(self.blob)
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        // What the parts of the blob are is the sender's business.
        self.kind == other.kind && self.head == other.head && self.blob() == other.blob()
    }
}

impl Eq for Frame {}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("kind", &self.kind)
            .field("head_bytes", &self.head.len())
            .field("blob_bytes", &self.blob_bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use railgun_types::limits::BATCH_BYTES_HARD;

    use super::*;
    use crate::v1;

    #[test]
    fn sizes_are_held_to_the_limits_of_the_kind() {
        let head = |bytes: [u8; 3]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) as usize;
        for &kind in FrameKind::ALL {
            let (head_max, blob_max) = (kind.head_bytes_max(), kind.blob_bytes_max());
            let header = FrameHeader::new(kind, head_max, blob_max).unwrap();
            let bytes = header.to_bytes();
            assert_eq!(FrameHeader::parse(bytes), Ok(header));
            assert_eq!(head([bytes[1], bytes[2], bytes[3]]), head_max);
            for (head, blob) in [(head_max + 1, 0), (0, blob_max + 1)] {
                let error = FrameHeader::new(kind, head, blob).unwrap_err();
                assert_eq!(error.code(), ErrorCode::FrameTooLarge, "{error}");
            }
            // What a header can say at most.
            let lie = [kind as u8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
            assert_eq!(FrameHeader::parse(lie).unwrap_err().code(), ErrorCode::FrameTooLarge);
        }
        assert_eq!(FrameKind::Publish.blob_bytes_max(), BATCH_BYTES_HARD);
    }

    #[test]
    fn a_frame_too_large_to_be_read_is_not_written() {
        let mut out = BytesMut::from("before");
        let big = v1::Error { message: "x".repeat(1 << 20), ..v1::Error::default() };
        assert!(matches!(
            Frame::new(&big).write_to(&mut out),
            Err(FrameError::HeadTooLarge { kind: FrameKind::Error, .. })
        ));
        let part = Bytes::from(vec![0; BATCH_BYTES_HARD]);
        let parts = vec![part, Bytes::from_static(b"x")];
        assert!(matches!(
            Frame::with_blob(&v1::Publish::default(), parts).write_to(&mut out),
            Err(FrameError::BlobTooLarge { .. })
        ));
        let misplaced = Frame::with_blob(&v1::Credit::default(), vec![Bytes::from_static(b"x")]);
        assert!(misplaced.write_to(&mut out).is_err());
        assert_eq!(out, "before");
    }

    #[test]
    fn a_frame_decodes_as_its_own_kind_only() {
        let frame = Frame::new(&v1::End { next_offset: 5 });
        assert_eq!(frame.decode::<v1::End>(), Ok(v1::End { next_offset: 5 }));
        let error = frame.decode::<v1::Credit>().unwrap_err();
        assert_eq!(error.to_string(), "a frame of kind End came where Credit belongs");
        assert_eq!(error.code(), ErrorCode::ProtocolViolation);
    }

    #[test]
    fn unknown_kinds_are_refused() {
        let known = |number| FrameKind::ALL.iter().any(|&kind| kind as u8 == number);
        for number in 0..=u8::MAX {
            let parsed = FrameHeader::parse([number, 0, 0, 0, 0, 0, 0, 0]);
            match FrameKind::from_u8(number) {
                Some(kind) => assert!(known(number) && kind as u8 == number),
                None => assert_eq!(parsed, Err(FrameError::UnknownKind { number })),
            }
        }
    }

    #[test]
    fn a_blob_of_several_parts_is_one() {
        let parts = vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")];
        let frame = Frame::with_blob(&v1::Publish::default(), parts);
        assert_eq!(frame.blob(), "abc");
        let whole = Frame::with_blob(&v1::Publish::default(), vec![Bytes::from_static(b"abc")]);
        assert_eq!(frame, whole);
        let other = Frame::with_blob(&v1::Publish::default(), vec![Bytes::from_static(b"abd")]);
        assert_ne!(frame, other);
    }
}
