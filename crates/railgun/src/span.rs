//! Spans of time as people write them, on the command line and in the configuration alike.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

/// A span of time in whole milliseconds: `500ms`, `90s`, `1h30m`, `1h 30m`, `2d`, `1w`. Never
/// negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(pub(crate) Duration);

/// The text is no span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a span of time: write it like `500ms`, `90s`, `10m` or `1h 30m`")]
pub(crate) struct SpanError {
    text: String,
}

/// Units of a span, in milliseconds. `ms` before `m` and `s`, so that it is found first.
const UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// Adds the parts up; `None` where the text is no span or too long for 64 bits.
fn total_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, ms) = UNITS.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest[unit.len()..].trim_start();
        total = total.checked_add(number.checked_mul(ms)?)?;
    }
    Some(total)
}

impl Span {
    /// In whole ms.
    pub(crate) fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = total_ms(text).map(|ms| Self(Duration::from_millis(ms)));
        span.ok_or_else(|| SpanError { text: text.to_owned() })
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_add_their_parts_and_what_is_printed_reads_back() {
        for (text, ms, printed) in [
            ("500ms", 500, "500ms"),
            ("90s", 90_000, "1m 30s"),
            ("10m", 600_000, "10m"),
            ("1h30m5s", 5_405_000, "1h 30m 5s"),
            (" 1h 30m ", 5_400_000, "1h 30m"),
            ("2d", 172_800_000, "48h"),
            ("2w", 1_209_600_000, "336h"),
            ("0s", 0, "0s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span, Span(Duration::from_millis(ms)), "{text}");
            assert_eq!(span.to_string(), printed);
            assert_eq!(printed.parse(), Ok(span));
        }
    }

    #[test]
    fn other_texts_are_refused_and_named() {
        for bad in
            ["", " ", "5", "s", "5 s", "5x", "-5s", "5m ago", "soon", "1,5h", "99999999999999999w"]
        {
            let error = bad.parse::<Span>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{bad}` is not")), "{error}");
        }
    }
}
