//! The file that says which streams and groups there are to be.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use railgun_client::{
    DedupFull, DedupPatch, DlqPatch, GroupMode, GroupName, GroupPatch, SpecPatch, StreamName,
};
use serde::Deserialize;

use crate::position::Start;
use crate::span::Span;

/// All that the file wants, in the order of names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// The label of what the file manages.
    pub(super) owner: Option<String>,
    pub(super) streams: BTreeMap<StreamName, WantedStream>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WantedStream {
    pub(super) patch: SpecPatch,
    pub(super) groups: BTreeMap<GroupName, WantedGroup>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct WantedGroup {
    pub(super) patch: GroupPatch,
    pub(super) start: Start,
}

/// The text is no file of this kind; the message says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct FileError(String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    owner: Option<String>,
    #[serde(default)]
    streams: BTreeMap<String, StreamTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamTable {
    max_message_bytes: Option<u32>,
    owner: Option<String>,
    #[serde(default)]
    dedup: DedupTable,
    #[serde(default)]
    dlq: DlqTable,
    #[serde(default)]
    groups: BTreeMap<String, GroupTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DedupTable {
    window: Option<SpanOrOff>,
    require_id: Option<bool>,
    max_ids: Option<u64>,
    full: Option<Full>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Full {
    Reject,
    EvictOldest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DlqTable {
    enabled: Option<bool>,
    max_attempts: Option<u32>,
    max_distance: Option<NumberOrOff>,
    max_age: Option<SpanOrOff>,
    min_attempts: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupTable {
    mode: Option<Mode>,
    start: Option<String>,
    ack_wait: Option<Span>,
    max_in_flight: Option<u32>,
    max_in_flight_bytes: Option<u64>,
    max_unsettled: Option<u32>,
    window: Option<u64>,
    backoff: Option<Vec<Span>>,
    pin_retention: Option<bool>,
    owner: Option<String>,
    #[serde(default)]
    dlq: DlqTable,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Balanced,
    Exclusive,
}

/// A span in ms; 0 is off.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct SpanOrOff(u64);

impl TryFrom<String> for SpanOrOff {
    type Error = crate::span::SpanError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "off" => Ok(Self(0)),
            span => Span::from_str(span).map(|span| Self(span.ms())),
        }
    }
}

/// A number, or `"off"`, which is 0.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "a number or \"off\"")]
enum NumberOrOff {
    Number(u64),
    Off(Off),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Off {
    Off,
}

impl NumberOrOff {
    fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Off(Off::Off) => 0,
        }
    }
}

impl Wanted {
    /// Reads the file.
    pub(super) fn parse(text: &str) -> Result<Self, FileError> {
        let File { owner, streams } = toml::from_str(text)
            .map_err(|error| FileError(error.to_string().trim_end().to_owned()))?;
        let mut wanted = Self { owner, streams: BTreeMap::new() };
        for (name, table) in streams {
            let stream = StreamName::new(&name).map_err(|error| FileError(error.to_string()))?;
            let table = table.wanted(wanted.owner.as_deref());
            let table = table
                .map_err(|FileError(error)| FileError(format!("stream '{stream}': {error}")))?;
            wanted.streams.insert(stream, table);
        }
        Ok(wanted)
    }
}

impl StreamTable {
    fn wanted(self, owner: Option<&str>) -> Result<WantedStream, FileError> {
        let Self { max_message_bytes, owner: own, dedup, dlq, groups } = self;
        let patch = SpecPatch {
            max_message_bytes,
            owner: own.or_else(|| owner.map(str::to_owned)),
            dedup: dedup.patch(),
            dlq: dlq.patch(),
            ..SpecPatch::default()
        };
        patch.validate().map_err(|error| FileError(error.to_string()))?;
        let mut wanted = WantedStream { patch, groups: BTreeMap::new() };
        for (name, table) in groups {
            let group = GroupName::new(&name).map_err(|error| FileError(error.to_string()))?;
            let table = table.wanted(owner);
            let table =
                table.map_err(|FileError(error)| FileError(format!("group '{group}': {error}")))?;
            wanted.groups.insert(group, table);
        }
        Ok(wanted)
    }
}

impl GroupTable {
    fn wanted(self, owner: Option<&str>) -> Result<WantedGroup, FileError> {
        let patch = GroupPatch {
            mode: self.mode.map(|mode| match mode {
                Mode::Balanced => GroupMode::Balanced,
                Mode::Exclusive => GroupMode::Exclusive,
            }),
            ack_wait_ms: self.ack_wait.map(Span::ms),
            max_in_flight: self.max_in_flight,
            max_in_flight_bytes: self.max_in_flight_bytes,
            max_unsettled: self.max_unsettled,
            window: self.window,
            backoff_ms: self.backoff.map(|spans| spans.into_iter().map(Span::ms).collect()),
            pin_retention: self.pin_retention,
            owner: self.owner.or_else(|| owner.map(str::to_owned)),
            dlq: self.dlq.patch(),
        };
        patch.validate().map_err(|error| FileError(error.to_string()))?;
        let start = self.start.as_deref().unwrap_or("latest");
        let start =
            start.parse().map_err(|error| FileError(format!("start: '{start}': {error}")))?;
        Ok(WantedGroup { patch, start })
    }
}

impl DedupTable {
    fn patch(&self) -> DedupPatch {
        DedupPatch {
            window_ms: self.window.map(|SpanOrOff(ms)| ms),
            require_id: self.require_id,
            max_ids: self.max_ids,
            full: self.full.as_ref().map(|full| match full {
                Full::Reject => DedupFull::Reject,
                Full::EvictOldest => DedupFull::EvictOldest,
            }),
        }
    }
}

impl DlqTable {
    fn patch(&self) -> DlqPatch {
        DlqPatch {
            enabled: self.enabled,
            max_attempts: self.max_attempts,
            max_distance: self.max_distance.map(NumberOrOff::number),
            max_age_ms: self.max_age.map(|SpanOrOff(ms)| ms),
            min_attempts: self.min_attempts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_there_is_to_be() {
        let wanted = Wanted::parse(
            r#"
            owner = "shop"
            [streams.orders]
            max_message_bytes = 4096
            dedup = { window = "2m", full = "evict-oldest" }
            dlq.max_attempts = 3
            [streams.orders.groups.billing]
            mode = "exclusive"
            start = "earliest"
            backoff = ["0s", "1s"]
            dlq = { max_distance = "off", max_age = "1h" }
            [streams."a.b"]
            owner = "other"
            "#,
        );
        let wanted = wanted.expect("it is one");
        let orders = &wanted.streams[&StreamName::new("orders").unwrap()];
        assert_eq!(orders.patch.owner.as_deref(), Some("shop"));
        assert_eq!(orders.patch.dedup.window_ms, Some(120_000));
        assert_eq!(orders.patch.dlq.max_attempts, Some(3));
        let billing = &orders.groups[&GroupName::new("billing").unwrap()];
        assert_eq!(billing.patch.mode, Some(GroupMode::Exclusive));
        assert_eq!(billing.patch.backoff_ms, Some(vec![0, 1_000]));
        let dlq = billing.patch.dlq;
        assert_eq!(
            (dlq.max_distance, dlq.max_age_ms, dlq.enabled),
            (Some(0), Some(3_600_000), None)
        );
        assert_eq!(billing.patch.owner.as_deref(), Some("shop"));
        let other = &wanted.streams[&StreamName::new("a.b").unwrap()];
        assert_eq!(other.patch.owner.as_deref(), Some("other"));
    }

    #[test]
    fn what_is_not_known_is_named() {
        // EN-5
        let error = |text: &str| Wanted::parse(text).expect_err(text).to_string();
        for (text, named) in [
            ("colour = 1", "colour"),
            ("[streams.a]\nmax_bytes = 1", "max_bytes"),
            ("[streams.a.groups.g]\nmode = \"shared\"", "shared"),
            ("[streams.a.groups.g]\nack_wait = \"10 parsecs\"", "parsecs"),
            ("[streams.a.groups.g]\nack_wait = \"1ms\"", "group 'g': ack_wait_ms"),
            ("[streams.a.groups.g]\nstart = \"noon\"", "noon"),
            ("[streams.a]\ndedup.window = \"8d\"", "stream 'a': dedup.window"),
            ("[streams.\"a b\"]", "a b"),
            ("[streams.a.dlq]\nmax_distance = \"far\"", "a number or \"off\""),
        ] {
            assert!(error(text).contains(named), "{text}: {}", error(text));
        }
    }
}
