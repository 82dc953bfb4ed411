//! An even pace: messages per second as people write them, and waiting for each one's turn.

use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

/// Messages per second: from one in eleven days to more than any clock tells apart. Beyond that a
/// due time is no time any more.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Rate(f64);

const RATE_MIN: f64 = 1e-6;
const RATE_MAX: f64 = 1e9;

/// The text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write messages per second from 0.000001 to 1000000000, such as 20 or 0.5; leave --rate out \
     for as fast as possible"
)]
pub(crate) struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rate: f64 = text.parse().map_err(|_| RateError)?;
        // Neither infinity nor what is not a number lies within.
        (RATE_MIN..=RATE_MAX).contains(&rate).then_some(Self(rate)).ok_or(RateError)
    }
}

impl Rate {
    /// How long after the first message number `number` is due.
    pub(crate) fn due_after(self, number: u64) -> Duration {
        let seconds = Duration::try_from_secs_f64(number as f64 / self.0);
        seconds.unwrap_or(NEVER).min(NEVER)
    }
}

/// Message n is due n intervals after the first, however long one takes.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    rate: Rate,
    sent: u64,
}

/// Longer than any process runs; adding it to the present is no overflow.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Pace {
    /// Begins now.
    pub(crate) fn new(rate: Rate) -> Self {
        Self { began: Instant::now(), rate, sent: 0 }
    }

    /// Waits until the next message is due.
    pub(crate) async fn wait(&mut self) {
        let due = self.began + self.rate.due_after(self.sent);
        self.sent += 1;
        tokio::time::sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_are_none_are_refused() {
        for text in ["20", "0.5", "1e-6", "1e9"] {
            text.parse::<Rate>().unwrap();
        }
        for text in ["", "0", "-1", "1e-30", "1e10", "inf", "NaN", "fast"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
    }

    #[test]
    fn the_slowest_pace_has_due_times_for_any_number_of_messages() {
        let pace = Pace::new("1e-6".parse().unwrap());
        assert_eq!(pace.rate.due_after(1), Duration::from_secs(1_000_000));
        assert_eq!(pace.rate.due_after(u64::MAX), NEVER);
        let _due = pace.began + NEVER;
    }
}
