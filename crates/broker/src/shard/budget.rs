//! What the hot budget allows: free publishing below the soft mark, slowed above it, none above the
//! hard mark. What makes room is never held up by it (DESIGN §1.7): see `replica::relief`.

use std::time::Duration;

/// From here on publishers are slowed, in hundredths of the budget.
const SOFT_PERCENT: u64 = 70;
/// From here on they are refused; the rest is for what makes room.
const HARD_PERCENT: u64 = 90;
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

/// Judges by the log bytes that are spent.
pub(super) fn admission(used: u64, max: u64) -> Admission {
    let mark = |percent: u64| max / 100 * percent + max % 100 * percent / 100;
    let (soft, hard) = (mark(SOFT_PERCENT), mark(HARD_PERCENT));
    if used >= hard {
        return Admission::Refused;
    }
    if used < soft {
        return Admission::Free;
    }
    // Squared, so that the first bytes above the mark cost next to nothing.
    let above = (used - soft) as f64 / (hard - soft) as f64;
    Admission::Slowed(PAUSE_MAX.mul_f64(above * above))
}

#[cfg(test)]
mod tests {
    use super::*;

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
