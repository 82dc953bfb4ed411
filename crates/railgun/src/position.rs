//! Where reading begins and ends, as people write it.

use std::str::FromStr;

use jiff::Timestamp as Instant;
use railgun_client::{Offset, StartPosition, Timestamp};

use crate::span::Span;

/// The value of `--from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Earliest,
    Latest,
    Offset(u64),
    Time(Instant),
    Ago(Span),
    Last(u64),
}

/// The value of `--until`, which is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Offset(u64),
    Time(Instant),
    Ago(Span),
}

/// A text that is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PositionError {
    #[error(
        "write earliest, latest, an offset (12345), a time (2026-01-31T12:00:00Z), an age (15m) or last:N"
    )]
    Start,
    #[error("write an offset (12345), a time (2026-01-31T12:00:00Z) or an age (15m)")]
    Until,
}

impl FromStr for Start {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(count) = text.strip_prefix("last:") {
            return count.parse().map(Self::Last).map_err(|_| PositionError::Start);
        }
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            text => match text.parse() {
                Ok(Until::Offset(offset)) => Ok(Self::Offset(offset)),
                Ok(Until::Time(time)) => Ok(Self::Time(time)),
                Ok(Until::Ago(span)) => Ok(Self::Ago(span)),
                Err(_) => Err(PositionError::Start),
            },
        }
    }
}

impl FromStr for Until {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A sign is no part of an offset.
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Self::Offset).map_err(|_| PositionError::Until);
        }
        if let Ok(span) = text.parse() {
            return Ok(Self::Ago(span));
        }
        text.parse().map(Self::Time).map_err(|_| PositionError::Until)
    }
}

/// The instant `span` before `now`; the epoch at the earliest.
fn ago(now: Instant, span: Span) -> Timestamp {
    let back_us = i64::try_from(span.0.as_micros()).unwrap_or(i64::MAX);
    Timestamp(now.as_microsecond().saturating_sub(back_us).max(0))
}

impl Start {
    /// As the protocol has it; ages count back from `now`.
    pub(crate) fn start(self, now: Instant) -> StartPosition {
        match self {
            Self::Earliest => StartPosition::Earliest,
            Self::Latest => StartPosition::Latest,
            Self::Offset(offset) => StartPosition::Offset(Offset(offset)),
            Self::Time(time) => StartPosition::Time(Timestamp(time.as_microsecond())),
            Self::Ago(span) => StartPosition::Time(ago(now, span)),
            Self::Last(count) => StartPosition::Last(count),
        }
    }
}

/// An end of reading, as the protocol has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Offset(Offset),
    Time(Timestamp),
}

impl Until {
    /// As the protocol has it; ages count back from `now`.
    pub(crate) fn end(self, now: Instant) -> End {
        match self {
            Self::Offset(offset) => End::Offset(Offset(offset)),
            Self::Time(time) => End::Time(Timestamp(time.as_microsecond())),
            Self::Ago(span) => End::Time(ago(now, span)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Instant {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_of_a_start() {
        let now = at("2026-01-31T12:00:00Z");
        let start = |text: &str| text.parse::<Start>().map(|from| from.start(now));
        assert_eq!(start("earliest"), Ok(StartPosition::Earliest));
        assert_eq!(start("latest"), Ok(StartPosition::Latest));
        assert_eq!(start("0"), Ok(StartPosition::Offset(Offset(0))));
        assert_eq!(start("18446744073709551615"), Ok(StartPosition::Offset(Offset(u64::MAX))));
        assert_eq!(start("last:7"), Ok(StartPosition::Last(7)));
        let noon = now.as_microsecond();
        assert_eq!(start("15m"), Ok(StartPosition::Time(Timestamp(noon - 900_000_000))));
        assert_eq!(
            start("2026-01-31T13:00:00.000001+01:00"),
            Ok(StartPosition::Time(Timestamp(noon + 1)))
        );
        assert_eq!(start("9999w"), Ok(StartPosition::Time(Timestamp(0))), "before the epoch");
        for bad in
            ["", "first", "-1", "+1", "1.5", "18446744073709551616", "last:", "last:-1", "15", "m"]
        {
            assert_eq!(start(bad).is_ok(), bad == "15", "{bad:?}");
        }
    }

    #[test]
    fn every_form_of_an_end() {
        let now = at("2026-01-31T12:00:00Z");
        let end = |text: &str| text.parse::<Until>().map(|until| until.end(now));
        assert_eq!(end("12"), Ok(End::Offset(Offset(12))));
        assert_eq!(end("1s"), Ok(End::Time(Timestamp(now.as_microsecond() - 1_000_000))));
        assert_eq!(end("2026-01-31T12:00:00Z"), Ok(End::Time(Timestamp(now.as_microsecond()))));
        for bad in ["", "earliest", "last:1", "2026-01-31"] {
            assert_eq!(end(bad), Err(PositionError::Until), "{bad:?}");
        }
    }
}
