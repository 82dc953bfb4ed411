//! Frames out of a stream of bytes that comes in pieces of any size.

use bytes::{Buf, Bytes};

use crate::frame::{Frame, FrameError, FrameHeader, HEADER_BYTES};
use crate::kind::FrameKind;

/// Bytes that are allocated for a part before any of it has come.
const START_BYTES: usize = 64 << 10;
/// A part that is larger grows to this many times what has come: a length that lies costs its
/// sender an eighth of what it costs us. An honest one pays with copying up to half of its bytes
/// twice, but once in the life of a stream only: see [`FrameDecoder::proven`].
const GROWTH: usize = 8;

/// Turns the bytes of one QUIC stream into frames. Sizes are checked before anything is allocated,
/// and the allocation follows what arrives or has arrived before, not what was announced.
///
/// Call [`feed`](Self::feed) with each piece until it is empty. After an error the stream cannot be
/// read further: the border of the next frame is not known.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// Bytes of a header that has not come whole.
    start: [u8; HEADER_BYTES],
    started: usize,
    /// The frame under way.
    body: Option<Body>,
    /// The one kind that may come.
    only: Option<FrameKind>,
    /// Bytes of the largest part that came whole: a sender that has sent so many is believed to do
    /// so again, and a part up to this size is allocated once and exactly.
    proven: usize,
}

/// The frame behind a header that has come whole.
#[derive(Debug)]
struct Body {
    header: FrameHeader,
    head: Part,
    blob: Part,
}

impl FrameDecoder {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes from `input` as many bytes as the frame under way needs. `None`: all of `input` is
    /// used up and the frame is not complete.
    ///
    /// # Errors
    /// [`FrameError`] for a header of an unknown kind, or with sizes over the limits of its kind.
    pub fn feed(&mut self, input: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => match self.feed_header(input)? {
                Some(header) => Body {
                    header,
                    head: Part::new(header.head_bytes(), self.proven),
                    blob: Part::new(header.blob_bytes(), self.proven),
                },
                None => return Ok(None),
            },
        };
        if !(body.head.feed(input) && body.blob.feed(input)) {
            self.body = Some(body);
            return Ok(None);
        }
        self.proven = self.proven.max(body.head.len).max(body.blob.len);
        let blob = if body.blob.len == 0 { Vec::new() } else { vec![body.blob.bytes.into()] };
        Ok(Some(Frame::from_parts(body.header.kind(), body.head.bytes.into(), blob)))
    }

    /// Refuses frames of any other kind by their headers, before anything of them is kept; `None`
    /// takes all again. For peers that are not trusted with the memory of every kind yet.
    pub fn allow_only(&mut self, kind: Option<FrameKind>) {
        self.only = kind;
    }

    /// Bytes allocated for the frame under way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.head.bytes.capacity() + body.blob.bytes.capacity())
    }

    /// Bytes of the frame under way as its header says; 0 before the header has come whole. Within
    /// the limits of the frame's kind, and not to be believed beyond that.
    #[must_use]
    pub fn announced(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.head.len + body.blob.len)
    }

    /// Whether the bytes so far end with a whole frame, so that a stream may end here.
    #[must_use]
    pub fn at_border(&self) -> bool {
        self.body.is_none() && self.started == 0
    }

    fn feed_header(&mut self, input: &mut Bytes) -> Result<Option<FrameHeader>, FrameError> {
        let missing = &mut self.start[self.started..];
        let taken = missing.len().min(input.len());
        input.copy_to_slice(&mut missing[..taken]);
        self.started += taken;
        if self.started < HEADER_BYTES {
            return Ok(None);
        }
        self.started = 0;
        let header = FrameHeader::parse(self.start)?;
        match self.only.filter(|only| *only != header.kind()) {
            Some(expected) => Err(FrameError::Unexpected { expected, found: header.kind() }),
            None => Ok(Some(header)),
        }
    }
}

/// Bytes of known length, copied once out of the pieces they come in: a piece is a slice of a
/// received datagram and must not be pinned by what lives longer.
#[derive(Debug)]
struct Part {
    len: usize,
    /// Bytes to allocate at once, if so many belong to it.
    start: usize,
    bytes: Vec<u8>,
}

impl Part {
    fn new(len: usize, proven: usize) -> Self {
        Self { len, start: proven.max(START_BYTES), bytes: Vec::new() }
    }

    /// Takes what is missing from `input`; whether nothing is missing any more.
    fn feed(&mut self, input: &mut Bytes) -> bool {
        let taken = (self.len - self.bytes.len()).min(input.len());
        let filled = self.bytes.len() + taken;
        if filled > self.bytes.capacity() {
            let capacity = filled.saturating_mul(GROWTH).max(self.start).min(self.len);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(&input[..taken]);
        input.advance(taken);
        filled == self.len
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use railgun_types::limits::BATCH_BYTES_HARD;

    use super::*;
    use crate::{FrameKind, v1};

    fn encode(frames: &[Frame]) -> Bytes {
        let mut bytes = BytesMut::new();
        for frame in frames {
            for part in frame.clone().write_to(&mut bytes).unwrap() {
                bytes.extend_from_slice(&part);
            }
        }
        bytes.freeze()
    }

    /// Feeds `bytes` in pieces whose sizes come from `sizes`, over and over.
    fn decode(mut bytes: Bytes, sizes: &[usize]) -> (Vec<Frame>, Result<bool, FrameError>) {
        let mut decoder = FrameDecoder::new();
        let mut frames = Vec::new();
        for &size in sizes.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let mut piece = bytes.split_to(size.min(bytes.len()));
            loop {
                match decoder.feed(&mut piece) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
            }
            assert!(piece.is_empty(), "None means that all was taken");
        }
        (frames, Ok(decoder.at_border()))
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let blob = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4);
        prop_oneof![
            any::<u64>().prop_map(|bytes| Frame::new(&v1::Credit { bytes })),
            Just(Frame::new(&v1::ClosePublisher {})),
            (any::<u64>(), blob).prop_map(|(base_offset, parts)| {
                let head = v1::Deliver { base_offset, ..v1::Deliver::default() };
                Frame::with_blob(&head, parts.into_iter().map(Bytes::from).collect())
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            frames in prop::collection::vec(any_frame(), 0..8),
            sizes in prop::collection::vec(1usize..50, 1..8),
        ) {
            let bytes = encode(&frames);
            let wire_bytes: usize = frames.iter().map(Frame::wire_bytes).sum();
            prop_assert_eq!(bytes.len(), wire_bytes);
            let (decoded, end) = decode(bytes, &sizes);
            prop_assert_eq!(decoded, frames);
            prop_assert_eq!(end, Ok(true));
        }

        #[test]
        fn a_cut_frame_is_not_at_a_border(frame in any_frame(), cut: prop::sample::Index) {
            let whole = encode(&[frame]);
            let cut = 1 + cut.index(whole.len() - 1);
            prop_assert_eq!(decode(whole.slice(..cut), &[cut]), (vec![], Ok(false)));
        }

        /// What decodes is the one encoding of what was decoded.
        #[test]
        fn any_bytes_are_frames_or_an_error(
            kind in prop_oneof![any::<u8>(), Just(FrameKind::Publish as u8)],
            lengths in prop_oneof![
                any::<[u8; 7]>(),
                (0u8..20, 0u8..20).prop_map(|(head, blob)| [head, 0, 0, blob, 0, 0, 0]),
            ],
            rest in prop::collection::vec(any::<u8>(), 0..64),
            sizes in prop::collection::vec(1usize..50, 1..8),
        ) {
            let bytes: Bytes = [&[kind][..], &lengths, &rest].concat().into();
            let (frames, end) = decode(bytes.clone(), &sizes);
            let taken = encode(&frames);
            prop_assert_eq!(&bytes[..taken.len()], &taken);
            prop_assert!(end != Ok(true) || taken.len() == bytes.len());
            for frame in frames {
                // Whatever the head is: a message or an error.
                let _ = frame.decode::<v1::Publish>();
                let _ = frame.decode::<v1::AdminRequest>();
                let _ = frame.decode::<v1::Hello>();
            }
        }
    }

    #[test]
    fn a_kind_that_is_not_allowed_is_refused_by_its_header() {
        let publish = FrameHeader::new(FrameKind::Publish, 0, BATCH_BYTES_HARD).unwrap();
        let mut decoder = FrameDecoder::new();
        decoder.allow_only(Some(FrameKind::Credit));
        let credit = Frame::new(&v1::Credit { bytes: 1 });
        assert_eq!(decoder.feed(&mut encode(std::slice::from_ref(&credit))), Ok(Some(credit)));
        let (expected, found) = (FrameKind::Credit, FrameKind::Publish);
        let refused = decoder.feed(&mut Bytes::copy_from_slice(&publish.to_bytes()));
        assert_eq!(refused, Err(FrameError::Unexpected { expected, found }));
        let mut decoder = FrameDecoder::new();
        decoder.allow_only(Some(FrameKind::Credit));
        decoder.allow_only(None);
        assert_eq!(decoder.feed(&mut Bytes::copy_from_slice(&publish.to_bytes())), Ok(None));
    }

    #[test]
    fn memory_follows_what_arrives_not_what_is_announced() {
        let header = FrameHeader::new(FrameKind::Publish, 1 << 20, BATCH_BYTES_HARD).unwrap();
        let mut decoder = FrameDecoder::new();
        let held = |decoder: &FrameDecoder| {
            let body = decoder.body.as_ref().unwrap();
            (body.head.bytes.capacity(), body.blob.bytes.capacity())
        };
        assert_eq!(decoder.feed(&mut Bytes::copy_from_slice(&header.to_bytes())), Ok(None));
        assert_eq!(held(&decoder), (0, 0));
        assert_eq!(decoder.feed(&mut Bytes::from_static(b"x")), Ok(None));
        assert_eq!(held(&decoder), (START_BYTES, 0));
        assert_eq!(decoder.feed(&mut vec![0; (1 << 20) - 1].into()), Ok(None));
        assert_eq!(held(&decoder), (1 << 20, 0));
        let piece = Bytes::from(vec![7; 50_000]);
        let mut arrived = 0;
        while arrived + piece.len() < BATCH_BYTES_HARD {
            assert_eq!(decoder.feed(&mut piece.clone()), Ok(None));
            arrived += piece.len();
            let (_, blob) = held(&decoder);
            assert!(blob <= (arrived * GROWTH).min(BATCH_BYTES_HARD), "{blob} for {arrived}");
        }
        let frame = decoder.feed(&mut piece.clone()).unwrap().unwrap();
        assert_eq!(frame.blob().len(), BATCH_BYTES_HARD);
    }

    #[test]
    fn a_part_of_known_size_is_allocated_once_and_exactly() {
        let mut part = Part::new(START_BYTES, 0);
        assert!(!part.feed(&mut Bytes::from_static(b"x")));
        assert_eq!(part.bytes.capacity(), START_BYTES);
        assert!(part.feed(&mut vec![0; START_BYTES].into()));
        assert_eq!(part.bytes.capacity(), START_BYTES);
    }

    #[test]
    fn what_came_whole_once_is_allocated_at_once() {
        let mut decoder = FrameDecoder::new();
        let header = |blob| FrameHeader::new(FrameKind::Publish, 0, blob).unwrap().to_bytes();
        let begin = |decoder: &mut FrameDecoder, blob| {
            let mut bytes = header(blob).to_vec();
            bytes.push(7);
            assert_eq!(decoder.feed(&mut bytes.into()), Ok(None));
            decoder.held()
        };
        // Not proven: it grows with what comes.
        assert_eq!(begin(&mut decoder, 1 << 20), START_BYTES);
        let rest = decoder.feed(&mut vec![7; (1 << 20) - 1].into()).unwrap();
        assert_eq!(rest.unwrap().blob_bytes(), 1 << 20);
        // Proven: exactly what is announced, or was proven.
        assert_eq!(begin(&mut decoder, 300_000), 300_000);
        assert!(decoder.feed(&mut vec![7; 299_999].into()).unwrap().is_some());
        assert_eq!(begin(&mut decoder, BATCH_BYTES_HARD), 1 << 20);
        assert_eq!(decoder.announced(), BATCH_BYTES_HARD);
    }
}
