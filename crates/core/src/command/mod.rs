//! What a log entry of a shard says: the commands that change replicated state, and their bytes.
//!
//! ```text
//! command = version u8 = 1 │ kind u8 │ log time i64 (µs) │ content        integers little-endian
//! Append  = items, each: stream 16 │ batch bytes u32 │ flags u8
//!           │ if PRODUCER: id 16 │ epoch u32 │ sequence u64
//!           │ if EXPECTED: next offset u64
//!           │ if DEAD LETTER: group u64 │ offset u64 │ generation u32
//!           │ crc32c u32 over the item's header up to here │ record batch
//! others  = as in their module, closed by crc32c u32 over everything before it
//! ```
//!
//! A command is built and read in parts, so that the body of a batch received from the network is
//! handed to the disk as it is.

mod append;
mod catalog;
mod group;
mod parts;
mod segment;
mod stream;

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::{ByteCursor, Malformed, Timestamp, crc32c};

pub use append::{Append, AppendMode, DeadLetterOf, ExpectedNext, ProducerSequence};
pub use catalog::{CatalogCommand, ClusterSettings, NodeInfo, NodeState, TokenHash};
pub use group::{EnsureGroup, FailCause, GroupChange, GroupChanges, GroupCommand, GroupStart};
pub(crate) use group::{failure, put_ranges, ranges};
pub use parts::PartsCursor;
pub use segment::{CommittedPart, ObjectCommit, SealScope, SegmentCommand, UploadAttempt};
pub use stream::{EnsureStream, StreamCommand};

/// Format version of commands.
const VERSION: u8 = 1;
/// Bytes before the content: version, kind, log time.
const HEADER_BYTES: usize = 10;

/// A command with the leader's log time.
#[derive(Clone, Debug)]
pub struct Command {
    /// Log time given by the leader; apply raises it to the log time before it.
    pub ts: Timestamp,
    /// What to do.
    pub body: CommandBody,
}

/// What an entry asks the state machine to do.
#[derive(Clone, Debug)]
pub enum CommandBody {
    /// Append batches to streams.
    Append(Vec<Append>),
    /// Create, change or delete a stream of this shard.
    Stream(StreamCommand),
    /// Move ranges to object storage.
    Segment(SegmentCommand),
    /// Change the catalog (shard 0 only).
    Catalog(CatalogCommand),
    /// Create, change or delete a group of this shard, or say what became of messages.
    Group(GroupCommand),
    /// Let log time pass. Nobody proposes it yet: it is for timers that change state (SEMANTICS §0).
    Tick,
}

const KIND_APPEND: u8 = 1;
const KIND_STREAM: u8 = 2;
const KIND_SEGMENT: u8 = 3;
const KIND_CATALOG: u8 = 4;
const KIND_TICK: u8 = 5;
const KIND_GROUP: u8 = 6;

/// A committed entry that is no command of this version. The node must stop: skipping an entry would
/// let replicas diverge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A version or kind this build does not know.
    #[error("the entry has the unknown {what} {value}: a newer release wrote it")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// Its number.
        value: u8,
    },
    /// Bytes that are no command.
    #[error("the entry is malformed at byte {position}")]
    Malformed {
        /// Position in the entry's payload.
        position: u64,
    },
}

impl Command {
    /// Position of the first item of an `Append` in the entry's payload.
    pub const ITEMS_AT: u32 = HEADER_BYTES as u32;

    /// The command's bytes, in parts to be written one behind the other.
    #[must_use]
    pub fn encode(&self) -> Vec<Bytes> {
        let mut meta = BytesMut::with_capacity(256);
        meta.put_u8(VERSION);
        meta.put_u8(match &self.body {
            CommandBody::Append(_) => KIND_APPEND,
            CommandBody::Stream(_) => KIND_STREAM,
            CommandBody::Segment(_) => KIND_SEGMENT,
            CommandBody::Catalog(_) => KIND_CATALOG,
            CommandBody::Group(_) => KIND_GROUP,
            CommandBody::Tick => KIND_TICK,
        });
        meta.put_i64_le(self.ts.0);
        match &self.body {
            CommandBody::Append(items) => return append::encode(meta, items),
            CommandBody::Stream(command) => command.encode(&mut meta),
            CommandBody::Segment(command) => command.encode(&mut meta),
            CommandBody::Catalog(command) => command.encode(&mut meta),
            CommandBody::Group(command) => command.encode(&mut meta),
            CommandBody::Tick => {}
        }
        meta.put_u32_le(crc32c(&meta));
        vec![meta.freeze()]
    }

    /// Reads a command back from its parts, however they are cut between batches and their headers.
    ///
    /// # Errors
    /// [`CommandError`] where the bytes are no command of this version. Record batches are opened,
    /// not verified: the log's own checksum covers them.
    pub fn decode(parts: &[Bytes]) -> Result<Self, CommandError> {
        let mut cursor = PartsCursor::new(parts);
        let malformed = |position| move |_: Malformed| CommandError::Malformed { position };
        let header = cursor.take(HEADER_BYTES).map_err(malformed(0))?;
        let mut fields = ByteCursor::new(&header);
        let version = fields.u8().map_err(malformed(0))?;
        if version != VERSION {
            return Err(CommandError::Unknown { what: "version", value: version });
        }
        let kind = fields.u8().map_err(malformed(1))?;
        let ts = Timestamp(fields.i64().map_err(malformed(2))?);
        if kind == KIND_APPEND {
            let body = append::decode(&mut cursor)
                .map_err(|_| CommandError::Malformed { position: cursor.position() })?;
            return Ok(Self { ts, body: CommandBody::Append(body) });
        }
        let position = cursor.position();
        let rest = cursor.take(cursor.remaining()).map_err(malformed(position))?;
        let (content, crc) =
            rest.split_last_chunk::<4>().ok_or(CommandError::Malformed { position })?;
        if railgun_types::crc32c_append(crc32c(&header), content) != u32::from_le_bytes(*crc) {
            return Err(CommandError::Malformed { position });
        }
        let mut fields = ByteCursor::new(content);
        let body = match kind {
            KIND_STREAM => StreamCommand::decode(&mut fields).map(CommandBody::Stream),
            KIND_SEGMENT => SegmentCommand::decode(&mut fields).map(CommandBody::Segment),
            KIND_CATALOG => CatalogCommand::decode(&mut fields).map(CommandBody::Catalog),
            KIND_GROUP => GroupCommand::decode(&mut fields).map(CommandBody::Group),
            KIND_TICK => Ok(CommandBody::Tick),
            _ => return Err(CommandError::Unknown { what: "kind", value: kind }),
        };
        let body = body.map_err(malformed(position))?;
        if fields.remaining() > 0 {
            return Err(CommandError::Malformed { position });
        }
        Ok(Self { ts, body })
    }
}

#[cfg(test)]
mod tests;
