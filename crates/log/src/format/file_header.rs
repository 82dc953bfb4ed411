//! File headers. Layout in [`super`].

use super::batch::BATCH_HEADER_BYTES;
use super::fields::{Fields, Parse};
use super::{Damage, FileUuid, aligned};
use crate::image::{Image, TermRun, TermTable};
use crate::{EntryId, Vote};

/// First bytes of each log file.
pub(crate) const FILE_MAGIC: [u8; 8] = *b"rgunlog\n";

/// Version written, and the newest that is read.
pub(crate) const VERSION: u16 = 3;

/// Most term runs a header holds.
pub(crate) const TERM_RUNS_MAX: usize = 4096;

/// Bytes before the term runs.
pub(crate) const FIXED_BYTES: usize = 152;

/// Longest header there is.
pub(crate) const HEADER_BYTES_MAX: usize = FIXED_BYTES + 16 * TERM_RUNS_MAX + 8;

const VOTE: u16 = 1;
const VOTE_COMMITTED: u16 = 2;
const COMMITTED: u16 = 4;
const PURGED: u16 = 8;
const PREVIOUS: u16 = 16;
const KNOWN_FLAGS: u16 = VOTE | VOTE_COMMITTED | COMMITTED | PURGED | PREVIOUS;

/// Where the file before this one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PreviousFile {
    pub(crate) uuid: FileUuid,
    /// Length of its valid part in bytes.
    pub(crate) end: u64,
}

/// What a file says about itself and all that was before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) uuid: FileUuid,
    pub(crate) sequence: u64,
    pub(crate) first_index: u64,
    pub(crate) incarnation: u64,
    pub(crate) previous: Option<PreviousFile>,
    pub(crate) first_batch: u64,
    /// Header CRC of the batch before the first one.
    pub(crate) previous_crc: u32,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<EntryId>,
    pub(crate) purged: Option<EntryId>,
    /// Length of the file when it was begun. It is never shorter.
    pub(crate) file_bytes: u64,
    pub(crate) terms: TermTable,
}

/// Why a header was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged(Damage),
    Version(u16),
}

impl FileHeader {
    /// Makes the file at least so long, and long enough for the header of a batch behind this one: what
    /// says that there was a batch is never beyond the length that the file is known to have.
    pub(crate) fn with_file_bytes(self, file_bytes: u64) -> Self {
        let least = encoded_bytes(self.runs()) + BATCH_HEADER_BYTES;
        Self { file_bytes: file_bytes.max(least as u64), ..self }
    }

    /// Those that the header holds.
    fn runs(&self) -> &[TermRun] {
        let runs = self.terms.runs();
        &runs[runs.len().saturating_sub(TERM_RUNS_MAX)..]
    }

    /// The header's bytes; their number is a multiple of 8.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let runs = self.runs();
        let length = encoded_bytes(runs);
        let vote = self.vote.unwrap_or_default();
        let committed = self.committed.unwrap_or(EntryId::new(0, 0));
        let purged = self.purged.unwrap_or(EntryId::new(0, 0));
        let previous = self.previous.unwrap_or(PreviousFile { uuid: [0; 16], end: 0 });
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let flags = flag(self.vote.is_some(), VOTE)
            | flag(vote.committed, VOTE_COMMITTED)
            | flag(self.committed.is_some(), COMMITTED)
            | flag(self.purged.is_some(), PURGED)
            | flag(self.previous.is_some(), PREVIOUS);
        let mut bytes = Vec::with_capacity(length);
        let mut fields = Fields(&mut bytes);
        fields.bytes(&FILE_MAGIC).u16(VERSION).u16(flags).u32(length as u32);
        fields.bytes(&self.uuid).u64(self.sequence).u64(self.first_index).u64(self.incarnation);
        fields.bytes(&previous.uuid).u64(previous.end);
        fields.u64(self.first_batch).u32(self.previous_crc).u32(runs.len() as u32);
        fields.u64(vote.term).u64(vote.node);
        fields.u64(committed.term).u64(committed.index).u64(purged.term).u64(purged.index);
        fields.u64(self.file_bytes);
        for run in runs {
            fields.u64(run.term).u64(run.first);
        }
        bytes.resize(length - 4, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Length that the header beginning with `start` says it has, within bounds.
    pub(crate) fn length(start: &[u8; FIXED_BYTES]) -> Result<usize, HeaderError> {
        let mut parse = Parse(start);
        let magic: Option<[u8; 8]> = parse.array();
        if magic != Some(FILE_MAGIC) {
            return Err(HeaderError::Damaged("no log file header"));
        }
        // Version and flags.
        parse.u32();
        let length = parse.u32().unwrap_or(0) as usize;
        if !(FIXED_BYTES + 8..=HEADER_BYTES_MAX).contains(&length) || !length.is_multiple_of(8) {
            return Err(HeaderError::Damaged("impossible header length"));
        }
        Ok(length)
    }

    /// Reads a whole header of the length it says it has.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let damaged = HeaderError::Damaged;
        let (summed, crc) = bytes.split_last_chunk::<4>().ok_or(damaged("header is cut short"))?;
        if crc32c::crc32c(summed) != u32::from_le_bytes(*crc) {
            return Err(damaged("file header checksum does not match"));
        }
        let mut parse = Parse(summed);
        parse.array::<8>();
        match parse.u16() {
            Some(VERSION) => Self::parse(summed).ok_or(damaged("impossible file header")),
            version => Err(HeaderError::Version(version.unwrap_or(0))),
        }
    }

    fn parse(summed: &[u8]) -> Option<Self> {
        let mut parse = Parse(summed);
        parse.array::<10>()?;
        let flags = parse.u16()?;
        if flags & !KNOWN_FLAGS != 0 {
            return None;
        }
        let set = |bit| flags & bit != 0;
        parse.u32()?;
        let uuid = parse.array()?;
        let (sequence, first_index, incarnation) = (parse.u64()?, parse.u64()?, parse.u64()?);
        let previous = PreviousFile { uuid: parse.array()?, end: parse.u64()? };
        let (first_batch, previous_crc, runs) = (parse.u64()?, parse.u32()?, parse.u32()?);
        let vote = Vote { term: parse.u64()?, node: parse.u64()?, committed: set(VOTE_COMMITTED) };
        let committed = EntryId { term: parse.u64()?, index: parse.u64()? };
        let purged = EntryId { term: parse.u64()?, index: parse.u64()? };
        let file_bytes = parse.u64()?;
        if runs as usize > parse.0.len() / 16 {
            return None;
        }
        let mut terms = TermTable::default();
        for _ in 0..runs {
            terms.push_run(parse.u64()?, parse.u64()?)?;
        }
        Some(Self {
            uuid,
            sequence,
            first_index,
            incarnation,
            previous: set(PREVIOUS).then_some(previous),
            first_batch,
            previous_crc,
            vote: set(VOTE).then_some(vote),
            committed: set(COMMITTED).then_some(committed),
            purged: set(PURGED).then_some(purged),
            file_bytes,
            terms,
        })
    }

    /// The state of the log when the file was begun.
    pub(crate) fn image(&self) -> Image {
        Image::restore(self)
    }
}

/// Length of a header that holds these runs.
fn encoded_bytes(runs: &[TermRun]) -> usize {
    aligned((FIXED_BYTES + 16 * runs.len() + 4) as u64) as usize
}
