//! What the hot budget allows: free publishing below the soft mark, slowed above it, none above the
//! hard mark. What frees space is never held up (DESIGN §1.7).

use std::time::Duration;

use railgun_core::command::{CommandBody, SegmentCommand, StreamCommand};

/// From here on publishers are slowed, in hundredths of the budget.
const SOFT_PERCENT: u64 = 70;
/// From here on they are refused; the rest is for what brings records to the bucket.
const HARD_PERCENT: u64 = 90;
/// The part of a log file that commands of clients may fill while they find no room.
const RELIEF_PART: u64 = 16;
/// Such a command by itself, as it is written.
const RELIEF_ENTRY_BYTES: u64 = 4 << 10;
/// So many pass however small the files are.
const RELIEF_MIN: u64 = 4;
/// Pause between two entries just below the hard mark.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Whether the next entry of records may be proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// At once.
    Free,
    /// This long after the one before.
    Slowed(Duration),
    /// Not before space is freed.
    Refused,
}

/// Judges by the log bytes that are not in the bucket yet.
pub(super) fn admission(used: u64, max: u64) -> Admission {
    let mark = |percent: u64| max / 100 * percent + max % 100 * percent / 100;
    let (soft, hard) = (mark(SOFT_PERCENT), mark(HARD_PERCENT));
    if used < soft {
        return Admission::Free;
    }
    if used >= hard {
        return Admission::Refused;
    }
    // Squared, so that the first bytes above the mark cost next to nothing.
    let above = (used - soft) as f64 / (hard - soft) as f64;
    Admission::Slowed(PAUSE_MAX.mul_f64(above * above))
}

/// What clients may still change while there is no room for what they want: only what makes room,
/// and little of it, for it takes some itself.
#[derive(Debug)]
pub(super) struct Relief {
    left: u64,
    max: u64,
}

impl Relief {
    /// `log_file_bytes`: to how many bytes the log's files are allocated.
    pub(super) fn new(log_file_bytes: u64) -> Self {
        let max = (log_file_bytes / RELIEF_PART / RELIEF_ENTRY_BYTES).max(RELIEF_MIN);
        Self { left: max, max }
    }

    /// There is room again.
    pub(super) fn renew(&mut self) {
        self.left = self.max;
    }

    /// Whether the command goes into the log all the same. It is counted.
    pub(super) fn may_pass(&mut self, body: &CommandBody) -> bool {
        let makes_room = matches!(
            body,
            CommandBody::Stream(StreamCommand::Delete { .. })
                | CommandBody::Segment(SegmentCommand::Seal(_))
        );
        let may_pass = makes_room && self.left > 0;
        self.left -= u64::from(may_pass);
        may_pass
    }
}

#[cfg(test)]
mod tests {
    use railgun_core::command::SealScope;
    use railgun_types::{ProducerId, StreamUid};

    use super::*;

    #[test]
    fn without_room_a_few_commands_pass_and_only_those_that_make_some() {
        let seal = CommandBody::Segment(SegmentCommand::Seal(SealScope::All));
        let delete = CommandBody::Stream(StreamCommand::Delete { stream: StreamUid([1; 16]) });
        let (producer, epoch, streams) = (ProducerId([1; 16]), 0, Vec::new());
        let release =
            CommandBody::Stream(StreamCommand::ReleaseProducer { producer, epoch, streams });
        for (file_bytes, max) in [(64 << 20, 1_024), (0, RELIEF_MIN)] {
            let mut relief = Relief::new(file_bytes);
            for _ in 0..2 {
                for number in 0..max {
                    assert!(!relief.may_pass(&release));
                    assert!(relief.may_pass(if number % 2 == 0 { &seal } else { &delete }));
                }
                assert!(!relief.may_pass(&seal) && !relief.may_pass(&delete));
                relief.renew();
            }
        }
    }

    #[test]
    fn pressure_grows_from_the_soft_to_the_hard_mark() {
        assert_eq!(admission(699, 1_000), Admission::Free);
        assert_eq!(admission(700, 1_000), Admission::Slowed(Duration::ZERO));
        assert_eq!(admission(800, 1_000), Admission::Slowed(PAUSE_MAX / 4));
        assert!(matches!(admission(899, 1_000), Admission::Slowed(p) if p > PAUSE_MAX * 9 / 10));
        assert_eq!(admission(900, 1_000), Admission::Refused);
        assert_eq!(admission(u64::MAX, u64::MAX), Admission::Refused);
        assert_eq!(admission(0, 0), Admission::Refused);
    }
}
