//! Commands about one stream of a data shard.

use bytes::{BufMut, BytesMut};
use railgun_types::{
    ByteCursor, EnsureMode, Malformed, ProducerId, RequestId, SpecPatch, StreamName, StreamUid,
};

use crate::codec::{self, list, put_list};

/// Creates, changes or deletes a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamCommand {
    /// Make the stream what the patch says, as the mode allows (SEMANTICS §8).
    Ensure(EnsureStream),
    /// Leave a tombstone; records are gone for readers at once.
    Delete {
        /// The stream.
        stream: StreamUid,
    },
    /// Forget a producer whose handle was closed cleanly (PQ-1), on all streams at once: a producer
    /// may have written to very many, and an entry for each would hold up everybody else.
    ReleaseProducer {
        /// The producer.
        producer: ProducerId,
        /// Of which epoch the handle was: what a newer one has written stays known.
        epoch: u32,
        /// The streams.
        streams: Vec<StreamUid>,
    },
}

/// See [`StreamCommand::Ensure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsureStream {
    /// The uid that the catalog holds for the name.
    pub stream: StreamUid,
    /// The name, for object keys.
    pub name: StreamName,
    /// The fields the user named.
    pub patch: SpecPatch,
    /// What to do about a difference.
    pub mode: EnsureMode,
    /// Change only this revision.
    pub if_revision: Option<u64>,
    /// Changes that lose data are wanted.
    pub allow_destructive: bool,
    /// Which request it is: what it has changed already is not in its own way.
    pub request: Option<RequestId>,
}

/// Bytes of a stream's uid.
const UID_BYTES: usize = 16;

const ENSURE: u8 = 1;
const DELETE: u8 = 2;
const RELEASE_PRODUCER: u8 = 4;
/// As [`ENSURE`], and which request it is at the end.
const ENSURE_OF_REQUEST: u8 = 5;

impl StreamCommand {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Ensure(ensure) => {
                out.put_u8(if ensure.request.is_some() { ENSURE_OF_REQUEST } else { ENSURE });
                out.put_slice(&ensure.stream.0);
                codec::put_text(out, ensure.name.as_str());
                codec::put_patch(out, &ensure.patch);
                out.put_u8(ensure.mode as u8);
                codec::put_option(out, ensure.if_revision, |out, r| out.put_u64_le(r));
                codec::put_bool(out, ensure.allow_destructive);
                if let Some(request) = ensure.request {
                    out.put_slice(&request.0);
                }
            }
            Self::Delete { stream } => {
                out.put_u8(DELETE);
                out.put_slice(&stream.0);
            }
            Self::ReleaseProducer { producer, epoch, streams } => {
                out.put_u8(RELEASE_PRODUCER);
                out.put_slice(&producer.0);
                out.put_u32_le(*epoch);
                put_list(out, streams.iter(), |out, stream| out.put_slice(&stream.0));
            }
        }
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        match cursor.u8()? {
            kind @ (ENSURE | ENSURE_OF_REQUEST) => Ok(Self::Ensure(EnsureStream {
                stream: StreamUid(cursor.array()?),
                name: codec::name(cursor)?,
                patch: codec::patch(cursor)?,
                mode: codec::ensure_mode(cursor)?,
                if_revision: codec::option(cursor, ByteCursor::u64)?,
                allow_destructive: codec::bool(cursor)?,
                request: match kind {
                    ENSURE => None,
                    _ => Some(RequestId(cursor.array()?)),
                },
            })),
            DELETE => Ok(Self::Delete { stream: StreamUid(cursor.array()?) }),
            RELEASE_PRODUCER => Ok(Self::ReleaseProducer {
                producer: ProducerId(cursor.array()?),
                epoch: cursor.u32()?,
                streams: list(cursor, UID_BYTES, |cursor| Ok(StreamUid(cursor.array()?)))?,
            }),
            _ => Err(Malformed),
        }
    }
}
