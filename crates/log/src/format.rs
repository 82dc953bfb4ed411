//! Bytes on disk, version 3. Little-endian throughout; CRC = CRC-32C (Castagnoli).
//!
//! A shard's log is a chain of files `<dir>/<first index, 20 digits>.log` (a second file with the same
//! first index, possible after a truncation, is `<first index>.<n>.log`). The order of the files is that
//! of the sequence number in their headers, not that of their names. `<name>.pos` beside a closed file
//! is its position index; `spare` is the preallocated next file.
//!
//! # File header
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `"rgunlog\n"` |
//! | 8 | 2 | version = 3 |
//! | 10 | 2 | flags: 1 vote, 2 vote is committed, 4 committed, 8 purged, 16 a file before this one |
//! | 12 | 4 | header length H, a multiple of 8 |
//! | 16 | 16 | uuid of this file's life: fresh random bytes each time a file is begun, also in a recycled one |
//! | 32 | 8 | sequence: 1 for the first file of a log, +1 for each next one |
//! | 40 | 8 | first index: the index the log expected next when the file was begun |
//! | 48 | 8 | incarnation of the replica |
//! | 56 | 16 | uuid of the file before, or zeros |
//! | 72 | 8 | length of the valid part of the file before, or 0 |
//! | 80 | 8 | number of the first batch of this file |
//! | 88 | 4 | header CRC of the batch before, or 0 for the first batch of a log |
//! | 92 | 4 | number R of term runs |
//! | 96 | 16 | vote: term, node |
//! | 112 | 16 | committed: term, index |
//! | 128 | 16 | last purged: term, index |
//! | 144 | 8 | length F of the file when it was begun, at least H + 64 |
//! | 152 | 16 R | term runs: term, first index; ascending in index |
//! | … | 0 or 4 | zero, so that H is a multiple of 8 |
//! | H−4 | 4 | CRC of the bytes before |
//!
//! Magic, version, header length and CRC are where they are in every version: a header that is damaged is
//! not taken for that of another one. Absent values are zeros. The term runs cover the entries above last purged; of more
//! than 4,096 runs the oldest are left out.
//!
//! # Write batch
//!
//! The first batch begins at H; each next one where the one before ends. All lengths are padded with
//! zeros to 8 bytes, so batches begin at multiples of 8. Header of 64 bytes:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `"RGW1"` |
//! | 4 | 4 | number of frames |
//! | 8 | 16 | uuid of the file |
//! | 24 | 8 | batch number: 1 for the first of a log, +1 for each next one, over all files |
//! | 32 | 8 | synced_through: every batch up to this number was fsynced before this one was written |
//! | 40 | 8 | length of the frames in bytes, without the padding |
//! | 48 | 4 | header CRC of the batch before |
//! | 52 | 4 | CRC of the frames' CRCs, one after the other |
//! | 56 | 4 | zero |
//! | 60 | 4 | header CRC: of the 60 bytes before |
//!
//! A file is not longer than F, unless its first batch is: then the file is made as long as that needs,
//! durably, before the batch is written, and takes no other. It never gets shorter.
//!
//! A batch without frames is a *mark*: it only says what was synced. A header with 2³²−1 frames, of length 0,
//! is a *seal*: it stands behind the valid part of a closed file, with the number of the next file's first
//! batch, and says that this file was begun. It is written, and synced, when the next file has its name
//! durably, and again by each recovery, as whoever began that file may have ended before.
//!
//! # Frame
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 1 | tag: 1 entry, 2 vote, 3 committed, 4 purged, 5 truncate |
//! | 1 | 1 | entry: its kind · vote: 1 if committed · truncate: 1 if an entry is kept · else 0 |
//! | 2 | 2 | zero |
//! | 4 | 4 | payload length L; 0 unless an entry |
//! | 8 | 8 | term |
//! | 16 | 8 | index (of a vote: the node) |
//! | 24 | 4 | CRC of the file's uuid, the 24 bytes before, and the payload |
//! | 28 | L | payload |
//!
//! Payload bytes are summed once, by the frame's CRC; the batch sums those sums. (Not the frame headers:
//! a CRC over bytes that end with their own CRC is the same for all such bytes.) The uuid in the frame's CRC makes bytes of a file's earlier life invalid one by one, so that a
//! reader which still holds a recycled file cannot be handed a frame of its next life.
//!
//! *Truncate* cuts the log after the entry named; the entries that follow it take those indices again.
//! *Purged* may name an entry beyond the last: the log is then empty, and continues after it.
//!
//! # Torn or rotten
//!
//! One batch of a shard is un-synced at a time: batch N is written only after N−1 was fsynced, so each
//! header with number N, wherever it is found intact, proves that all batches up to N−1 were durable once.
//! A file gets its name only after its header and every byte of the file before it are synced, so a file
//! proves the same for all files before it.
//!
//! Recovery reads on from a known place: H of the newest file, expecting its first batch. A spot p at
//! which batch N is expected but not found whole is **rot** iff some later place of the file holds an
//! intact batch header with this file's uuid and `synced_through` ≥ N; or if the file is not the newest.
//! It is also rot if the file is shorter than F, or than its first batch says that it is; and if a file that
//! is not the newest is shorter than its valid part; and if the newest file ends with a seal: there was a file
//! after it.
//! Otherwise it is **torn**: N was never acknowledged (or it is the last batch, was never marked, and was
//! damaged afterwards: the one case that cannot be told apart), and the log ends at p.
//!
//! *Rot is never taken for torn* while a later header is intact: the search looks at every multiple of 8
//! from p to the end of the file and needs no chain, only the header's own CRC.
//!
//! *Nor is a file that was cut short.* What is cut off takes with it whatever told of it, so the search
//! finds nothing; but the file is shorter than F then, which was durable before the file had its name.
//!
//! *Torn is never taken for rot.* When N is torn no later batch of this file's life was ever begun, so no
//! header with `synced_through` ≥ N and this uuid was ever made. What a payload carries cannot stand in for
//! one, not even a copy of this very file: the copy was made of batches before N, whose `synced_through`
//! is less than N.
//!
//! *What was cut stays cut.* After a cut at p recovery overwrites the 64 bytes at p with zeros and syncs
//! them before the log is used. Stale bytes behind p hold no header of this life: headers stand only where
//! a batch began, batches were written one behind the other, and the only one not proved synced is the one
//! at p. (In the undecidable case a second, torn batch may stand behind p; its header is not intact, or the
//! verdict were rot, and since the log is only ever written forward from p those bytes stay as they are
//! until they are overwritten.) New batches carry the number, the previous CRC and the uuid expected at
//! their place. Bytes of a recycled file's earlier lives have other uuids.
//!
//! *Recovery is repeatable.* It fsyncs the newest file and the directory before it hands out what it read:
//! what a killed process had written but not synced is durable before anyone relies on it. The last whole
//! batch, the only one that may not be durable, and the zeros behind it are written again before: a page
//! whose fsync failed counts as clean, and a later fsync would pass it over (`docs/adr/0008`).

pub(crate) mod batch;
mod fields;
pub(crate) mod file_header;
pub(crate) mod frame;
pub(crate) mod positions;

#[cfg(test)]
mod golden;

/// Batches begin at multiples of this.
pub(crate) const ALIGN: u64 = 8;

/// Bytes that identify one life of a file.
pub(crate) type FileUuid = [u8; 16];

/// Rounds up to where the next batch may begin.
pub(crate) const fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// Why bytes are not what they should be; shown to operators.
pub(crate) type Damage = &'static str;
