//! What clients may still have done where there is no room for more: what makes room.
//!
//! It takes some itself. Of the hot budget it may take whatever it needs, which has an end by itself:
//! nobody may publish or make a stream there, each stream is deleted once, and what has been sealed
//! is not sealed again ([`ShardState::prune`]). On a full disk it may take little: what brings records
//! to the bucket needs the rest.

use railgun_core::command::{CommandBody, SegmentCommand, StreamCommand};
use railgun_core::shard::ShardState;
use railgun_log::ShardLog;

/// What of the log's present file is left to the entries that bring records to the bucket, in 16ths.
/// There are four when a disk turns out to be full, whatever is on its way then (see
/// `shard::appender`).
const KEPT_16THS: u64 = 3;
/// What a small entry takes that is written by itself.
const ENTRY_BYTES: u64 = 4 << 10;

/// Whether what a client wants makes room in this shard. The deletion of a stream that is not there
/// makes none, and could be asked for without end.
pub(crate) fn makes_room(state: &ShardState, body: &CommandBody) -> bool {
    match body {
        CommandBody::Stream(StreamCommand::Delete { stream }) => state.stream(*stream).is_some(),
        CommandBody::Segment(SegmentCommand::Seal(_)) => true,
        _ => false,
    }
}

/// Whether the disk has room for it, while so many entries are on their way to the log.
pub(crate) fn has_relief(log: &ShardLog, in_flight: usize) -> bool {
    !log.disk_full() || is_left(log.room(), log.file_bytes(), in_flight)
}

fn is_left(room: u64, file_bytes: u64, in_flight: usize) -> bool {
    room.saturating_sub((in_flight as u64 + 1) * ENTRY_BYTES) >= file_bytes / 16 * KEPT_16THS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_file_is_enough_and_what_is_in_flight_is_counted() {
        for file_bytes in [1 << 20, 64 << 20] {
            let entries = file_bytes / 16 / ENTRY_BYTES;
            assert!(is_left(file_bytes / 4, file_bytes, entries as usize - 1));
            assert!(!is_left(file_bytes / 4, file_bytes, entries as usize));
            assert!(!is_left(file_bytes / 16 * KEPT_16THS, file_bytes, 0));
            assert!(!is_left(0, file_bytes, 0));
        }
    }
}
