//! Raft's messages between replicas, in bytes.
//!
//! ```text
//! message    version u8 = 1 ‖ kind u8 ‖ content
//! vote       term u64 ‖ replica u64 ‖ committed u8
//! id?        0, or 1 ‖ term u64 ‖ index u64
//!
//!  1 vote          vote ‖ last id? ‖ by transfer u8
//!  2 pre-vote      likewise
//!  3 append        vote ‖ previous id? ‖ committed id? ‖ entries varint
//!                  ‖ per entry: term u64 ‖ index u64 ‖ kind u8 ‖ payload length varint
//!                  (body: the payloads; without entries it is a heartbeat)
//!  4 transfer      the leader's vote ‖ to replica u64 ‖ last id?
//!  5 snapshot      vote ‖ last id? ‖ bytes of the file u64 ‖ length varint ‖ stored membership
//!  6 chunk         nothing (body: bytes of the file)
//!  7 file's end    CRC-32C of the file u32
//! 17 voted         vote ‖ last id? ‖ granted u8
//! 18 appended      0 ‖ matching id?, or 1 ‖ conflicting id?, or 2 ‖ vote
//! 19 transferred   0, or 1 ‖ expected vote ‖ actual vote, or 2 ‖ expected id? ‖ actual id?
//! 20 installed     vote
//! 21 taken         nothing
//! ```
//!
//! Integers are little-endian, nothing follows: one encoding per message. What is received is
//! checked so far that openraft can take it: entries follow one another and their terms never fall. A term
//! is 2^48 at the most, so that there are always higher ones: an election each millisecond has none such in
//! thousands of years.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use railgun_log::{Entry, MAX_PAYLOAD_BYTES, Payload};
use railgun_types::{ByteCursor, EntryId, Malformed, ReplicaId, put_varint};

use crate::entry;
use crate::membership::{self, InvalidMembership};
use crate::peers::PeerMessage;
use crate::raft_types::{LogId, RaftVote, SnapshotMeta, Types, to_entry_id, to_log_id};

const VERSION: u8 = 1;

const VOTE: u8 = 1;
const PRE_VOTE: u8 = 2;
const APPEND: u8 = 3;
const TRANSFER: u8 = 4;
const SNAPSHOT: u8 = 5;
const CHUNK: u8 = 6;
const FILE_END: u8 = 7;
const VOTED: u8 = 17;
const APPENDED: u8 = 18;
const TRANSFERRED: u8 = 19;
const INSTALLED: u8 = 20;
const TAKEN: u8 = 21;

const TERM_MAX: u64 = 1 << 48;

pub(crate) type Append = AppendEntriesRequest<Types>;
pub(crate) type Appended = StreamAppendResult<Types>;
pub(crate) type Transfer = TransferLeaderRequest<Types>;
pub(crate) type Transferred = TransferLeaderResponse<Types>;

/// Bytes of another replica that are not the message expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// The bytes end early or hold a number in a longer form than needed.
    #[error("the message is malformed")]
    Malformed(#[from] Malformed),
    /// Written by another version of railgun.
    #[error("the message has the unknown version {0}")]
    Version(u8),
    /// Unknown, or not what belongs here.
    #[error("a message of kind {0} is not expected here")]
    Kind(u8),
    /// A choice that is none of those there are.
    #[error("the message has the unknown flag {0}")]
    Flag(u8),
    /// More bytes than the message.
    #[error("{0} bytes follow the message")]
    TrailingBytes(usize),
    /// A membership that is none.
    #[error("the message holds no membership")]
    Membership(#[from] InvalidMembership),
    /// An entry of a kind this version does not know, or whose content is not of its kind.
    #[error("{reason}")]
    Entry {
        /// Which, and what is wrong with it.
        reason: String,
    },
    /// What cannot be.
    #[error("the message contradicts itself: {0}")]
    Inconsistent(&'static str),
}

/// What is asked for in a call.
#[derive(Debug)]
pub(crate) enum Request {
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Heartbeat(Append),
    Transfer(Transfer),
}

impl Request {
    /// Whoever asks: the candidate, or the leader.
    pub(crate) fn speaker(&self) -> ReplicaId {
        let vote = match self {
            Self::Vote(request) | Self::PreVote(request) => &request.vote,
            Self::Heartbeat(append) => &append.vote,
            Self::Transfer(transfer) => transfer.from_leader(),
        };
        ReplicaId(vote.leader_id.voted_for)
    }
}

/// What comes first on a snapshot's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    pub(crate) vote: RaftVote,
    pub(crate) meta: SnapshotMeta,
    /// Of the file.
    pub(crate) bytes: u64,
}

/// What follows on a snapshot's stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SnapshotPart {
    Chunk(Bytes),
    End { crc: u32 },
}

/// What comes back on a snapshot's stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SnapshotAnswer {
    /// A piece is written, or the follower is at work.
    Taken,
    /// The last.
    Installed(SnapshotResponse<Types>),
}

pub(crate) fn encode_vote(request: &VoteRequest<Types>) -> Bytes {
    ballot(VOTE, request)
}

pub(crate) fn encode_pre_vote(request: &VoteRequest<Types>) -> Bytes {
    ballot(PRE_VOTE, request)
}

fn ballot(kind: u8, request: &VoteRequest<Types>) -> Bytes {
    let mut out = begin(kind);
    put_vote(&mut out, &request.vote);
    put_id(&mut out, request.last_log_id.as_ref());
    out.put_u8(request.leadership_transfer.into());
    out.freeze()
}

/// Payloads stay where they are.
pub(crate) fn encode_append(request: Append) -> PeerMessage {
    let mut head = begin(APPEND);
    put_vote(&mut head, &request.vote);
    put_id(&mut head, request.prev_log_id.as_ref());
    put_id(&mut head, request.leader_commit.as_ref());
    put_varint(&mut head, request.entries.len() as u64);
    let mut body = Vec::new();
    for entry in request.entries {
        let Entry { id, kind, payload } = entry::to_log(entry);
        head.put_u64_le(id.term);
        head.put_u64_le(id.index);
        head.put_u8(kind);
        put_varint(&mut head, payload.len() as u64);
        body.extend(payload.parts().iter().filter(|part| !part.is_empty()).cloned());
    }
    PeerMessage { head: head.freeze(), body }
}

pub(crate) fn encode_transfer(request: &Transfer) -> Bytes {
    let mut out = begin(TRANSFER);
    put_vote(&mut out, request.from_leader());
    out.put_u64_le(*request.to_node_id());
    put_id(&mut out, request.last_log_id());
    out.freeze()
}

pub(crate) fn encode_snapshot(head: &SnapshotHead) -> PeerMessage {
    let mut out = begin(SNAPSHOT);
    put_vote(&mut out, &head.vote);
    put_id(&mut out, head.meta.last_log_id.as_ref());
    out.put_u64_le(head.bytes);
    let membership = membership::encode_stored(&head.meta.last_membership);
    put_varint(&mut out, membership.len() as u64);
    out.put_slice(&membership);
    PeerMessage { head: out.freeze(), body: Vec::new() }
}

pub(crate) fn encode_chunk(chunk: Bytes) -> PeerMessage {
    PeerMessage { head: begin(CHUNK).freeze(), body: vec![chunk] }
}

pub(crate) fn encode_file_end(crc: u32) -> PeerMessage {
    let mut out = begin(FILE_END);
    out.put_u32_le(crc);
    PeerMessage { head: out.freeze(), body: Vec::new() }
}

pub(crate) fn encode_voted(answer: &VoteResponse<Types>) -> Bytes {
    let mut out = begin(VOTED);
    put_vote(&mut out, &answer.vote);
    put_id(&mut out, answer.last_log_id.as_ref());
    out.put_u8(answer.vote_granted.into());
    out.freeze()
}

pub(crate) fn encode_appended(answer: &Appended) -> Bytes {
    let mut out = begin(APPENDED);
    match answer {
        Ok(matching) => {
            out.put_u8(0);
            put_id(&mut out, matching.as_ref());
        }
        Err(StreamAppendError::Conflict(id)) => {
            out.put_u8(1);
            put_id(&mut out, Some(id));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            put_vote(&mut out, vote);
        }
    }
    out.freeze()
}

pub(crate) fn encode_transferred(answer: &Transferred) -> Bytes {
    let mut out = begin(TRANSFERRED);
    match answer {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            put_vote(&mut out, expected);
            put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            put_id(&mut out, expected.as_ref());
            put_id(&mut out, actual.as_ref());
        }
    }
    out.freeze()
}

pub(crate) fn encode_snapshot_answer(answer: &SnapshotAnswer) -> PeerMessage {
    let head = match answer {
        SnapshotAnswer::Taken => begin(TAKEN),
        SnapshotAnswer::Installed(answer) => {
            let mut out = begin(INSTALLED);
            put_vote(&mut out, &answer.vote);
            out
        }
    };
    PeerMessage { head: head.freeze(), body: Vec::new() }
}

pub(crate) fn decode_request(bytes: &Bytes) -> Result<Request, InvalidMessage> {
    let (kind, mut cursor) = kind(bytes)?;
    let request = match kind {
        VOTE => Request::Vote(read_ballot(&mut cursor)?),
        PRE_VOTE => Request::PreVote(read_ballot(&mut cursor)?),
        APPEND => {
            let append = read_append(&mut cursor, Bytes::new())?;
            if !append.entries.is_empty() {
                return Err(InvalidMessage::Inconsistent("entries in a call"));
            }
            Request::Heartbeat(append)
        }
        TRANSFER => {
            let from = read_vote(&mut cursor)?;
            let to = cursor.u64()?;
            Request::Transfer(Transfer::new(from, to, read_id(&mut cursor)?))
        }
        kind => return Err(InvalidMessage::Kind(kind)),
    };
    end(&cursor)?;
    Ok(request)
}

pub(crate) fn decode_append(message: PeerMessage) -> Result<Append, InvalidMessage> {
    let body = only_part(message.body)?;
    let mut cursor = expect(&message.head, APPEND)?;
    let append = read_append(&mut cursor, body)?;
    end(&cursor)?;
    Ok(append)
}

pub(crate) fn decode_snapshot(message: PeerMessage) -> Result<SnapshotHead, InvalidMessage> {
    no_body(&message)?;
    let mut cursor = expect(&message.head, SNAPSHOT)?;
    let vote = read_vote(&mut cursor)?;
    let last_log_id = read_id(&mut cursor)?;
    if last_log_id.is_none() {
        return Err(InvalidMessage::Inconsistent("a snapshot of nothing"));
    }
    let bytes = cursor.u64()?;
    let last_membership = membership::decode_stored(cursor.sized()?)?;
    end(&cursor)?;
    Ok(SnapshotHead { vote, meta: SnapshotMeta { last_log_id, last_membership }, bytes })
}

pub(crate) fn decode_snapshot_part(message: PeerMessage) -> Result<SnapshotPart, InvalidMessage> {
    let (kind, mut cursor) = kind(&message.head)?;
    let part = match kind {
        CHUNK => SnapshotPart::Chunk(only_part(message.body)?),
        FILE_END => {
            no_body(&message)?;
            SnapshotPart::End { crc: cursor.u32()? }
        }
        kind => return Err(InvalidMessage::Kind(kind)),
    };
    end(&cursor)?;
    Ok(part)
}

pub(crate) fn decode_voted(bytes: &Bytes) -> Result<VoteResponse<Types>, InvalidMessage> {
    let mut cursor = expect(bytes, VOTED)?;
    let vote = read_vote(&mut cursor)?;
    let last_log_id = read_id(&mut cursor)?;
    let vote_granted = flag(&mut cursor)?;
    end(&cursor)?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

pub(crate) fn decode_appended(bytes: &Bytes) -> Result<Appended, InvalidMessage> {
    let mut cursor = expect(bytes, APPENDED)?;
    let answer = match cursor.u8()? {
        0 => Ok(read_id(&mut cursor)?),
        1 => {
            let id = read_id(&mut cursor)?;
            let id = id.ok_or(InvalidMessage::Inconsistent("a conflict with nothing"))?;
            Err(StreamAppendError::Conflict(id))
        }
        2 => Err(StreamAppendError::HigherVote(read_vote(&mut cursor)?)),
        flag => return Err(InvalidMessage::Flag(flag)),
    };
    end(&cursor)?;
    Ok(answer)
}

pub(crate) fn decode_transferred(bytes: &Bytes) -> Result<Transferred, InvalidMessage> {
    let mut cursor = expect(bytes, TRANSFERRED)?;
    let answer = match cursor.u8()? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged {
            expected: read_vote(&mut cursor)?,
            actual: read_vote(&mut cursor)?,
        }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: read_id(&mut cursor)?,
            actual: read_id(&mut cursor)?,
        }),
        flag => return Err(InvalidMessage::Flag(flag)),
    };
    end(&cursor)?;
    Ok(answer)
}

pub(crate) fn decode_snapshot_answer(bytes: &Bytes) -> Result<SnapshotAnswer, InvalidMessage> {
    let (kind, mut cursor) = kind(bytes)?;
    let answer = match kind {
        TAKEN => SnapshotAnswer::Taken,
        INSTALLED => SnapshotAnswer::Installed(SnapshotResponse { vote: read_vote(&mut cursor)? }),
        kind => return Err(InvalidMessage::Kind(kind)),
    };
    end(&cursor)?;
    Ok(answer)
}

fn begin(kind: u8) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out
}

fn put_vote(out: &mut BytesMut, vote: &RaftVote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(vote.committed.into());
}

fn put_id(out: &mut BytesMut, id: Option<&LogId>) {
    match id.map(to_entry_id) {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64_le(id.term);
            out.put_u64_le(id.index);
        }
    }
}

fn kind(bytes: &[u8]) -> Result<(u8, ByteCursor<'_>), InvalidMessage> {
    let mut cursor = ByteCursor::new(bytes);
    match cursor.u8()? {
        VERSION => Ok((cursor.u8()?, cursor)),
        version => Err(InvalidMessage::Version(version)),
    }
}

fn expect(bytes: &[u8], expected: u8) -> Result<ByteCursor<'_>, InvalidMessage> {
    match kind(bytes)? {
        (kind, cursor) if kind == expected => Ok(cursor),
        (kind, _) => Err(InvalidMessage::Kind(kind)),
    }
}

fn end(cursor: &ByteCursor<'_>) -> Result<(), InvalidMessage> {
    match cursor.remaining() {
        0 => Ok(()),
        bytes => Err(InvalidMessage::TrailingBytes(bytes)),
    }
}

fn only_part(mut body: Vec<Bytes>) -> Result<Bytes, InvalidMessage> {
    match body.len() {
        0 => Ok(Bytes::new()),
        1 => Ok(body.remove(0)),
        _ => Err(InvalidMessage::Inconsistent("a body in parts")),
    }
}

fn no_body(message: &PeerMessage) -> Result<(), InvalidMessage> {
    match message.body.iter().map(Bytes::len).sum() {
        0 => Ok(()),
        bytes => Err(InvalidMessage::TrailingBytes(bytes)),
    }
}

fn flag(cursor: &mut ByteCursor<'_>) -> Result<bool, InvalidMessage> {
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        flag => Err(InvalidMessage::Flag(flag)),
    }
}

fn read_vote(cursor: &mut ByteCursor<'_>) -> Result<RaftVote, InvalidMessage> {
    let leader_id = LeaderId { term: read_term(cursor)?, voted_for: cursor.u64()? };
    Ok(RaftVote { leader_id, committed: flag(cursor)? })
}

fn read_term(cursor: &mut ByteCursor<'_>) -> Result<u64, InvalidMessage> {
    match cursor.u64()? {
        term if term <= TERM_MAX => Ok(term),
        _ => Err(InvalidMessage::Inconsistent("a term that no election has led to")),
    }
}

fn read_id(cursor: &mut ByteCursor<'_>) -> Result<Option<LogId>, InvalidMessage> {
    if !flag(cursor)? {
        return Ok(None);
    }
    let id = EntryId { term: read_term(cursor)?, index: cursor.u64()? };
    if id.index == u64::MAX {
        return Err(InvalidMessage::Inconsistent("an index that nothing can follow"));
    }
    Ok(Some(to_log_id(id)))
}

fn read_ballot(cursor: &mut ByteCursor<'_>) -> Result<VoteRequest<Types>, InvalidMessage> {
    let vote = read_vote(cursor)?;
    if vote.committed {
        return Err(InvalidMessage::Inconsistent("a candidate that has won"));
    }
    let last_log_id = read_id(cursor)?;
    Ok(VoteRequest { vote, last_log_id, leadership_transfer: flag(cursor)? })
}

/// The count is not trusted: each entry is read before it takes memory.
fn read_append(cursor: &mut ByteCursor<'_>, mut body: Bytes) -> Result<Append, InvalidMessage> {
    let vote = read_vote(cursor)?;
    if !vote.committed {
        return Err(InvalidMessage::Inconsistent("entries of one who does not lead"));
    }
    let prev_log_id = read_id(cursor)?;
    let leader_commit = read_id(cursor)?;
    let mut previous = prev_log_id.as_ref().map(to_entry_id);
    let mut entries = Vec::new();
    for _ in 0..cursor.varint()? {
        let id = EntryId { term: read_term(cursor)?, index: cursor.u64()? };
        let kind = cursor.u8()?;
        let bytes = usize::try_from(cursor.varint()?).map_err(|_| Malformed)?;
        let next = previous.map_or(0, |id| id.index.saturating_add(1));
        if id.index != next || next == u64::MAX {
            return Err(InvalidMessage::Inconsistent("entries that do not follow one another"));
        }
        if id.term > vote.leader_id.term || previous.is_some_and(|previous| id.term < previous.term)
        {
            return Err(InvalidMessage::Inconsistent("an entry of a term that cannot be"));
        }
        if bytes > body.len() || bytes > MAX_PAYLOAD_BYTES {
            return Err(InvalidMessage::Inconsistent(
                "an entry longer than the body or the log's limit",
            ));
        }
        let payload = match bytes {
            0 => Payload::empty(),
            bytes => Payload::from_bytes(body.split_to(bytes)),
        };
        let entry = entry::from_log(Entry { id, kind, payload });
        entries.push(entry.map_err(|error| InvalidMessage::Entry { reason: error.to_string() })?);
        previous = Some(id);
    }
    match body.len() {
        0 => Ok(Append { vote, prev_log_id, entries, leader_commit }),
        bytes => Err(InvalidMessage::TrailingBytes(bytes)),
    }
}

#[cfg(test)]
mod tests;
