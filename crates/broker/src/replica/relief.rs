//! What clients may still change on a full disk: only what makes room, and little of it, for it takes
//! some itself.

use railgun_log::ShardLog;

/// What is left to the entries that bring records to the bucket, in 16ths of a log file. There are four
/// when a disk turns out to be full, whatever is on its way then (see `shard::appender`).
const KEPT_16THS: u64 = 3;
/// What a small entry takes that is written by itself.
const ENTRY_BYTES: u64 = 4 << 10;

/// Whether such a command may be written to the log, whose files have so many bytes, while so many
/// entries are on their way to it.
pub(crate) fn has_relief(log: &ShardLog, file_bytes: u64, in_flight: usize) -> bool {
    !log.disk_full() || is_left(log.room(), file_bytes, in_flight)
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
