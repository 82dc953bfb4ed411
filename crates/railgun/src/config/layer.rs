//! One source of settings: what a file, the environment or the flags say, and no more.

use std::{net::SocketAddr, path::PathBuf};

use railgun_broker::TokenHash;
use serde::Deserialize;

use super::{byte_size::ByteSize, token};
use crate::span::Span;

/// Every key a configuration may hold, in the order they are shown. The environment variable of a
/// key is `RAILGUN_` and the key in capitals, dots as underscores.
pub(crate) const KEYS: [&str; 28] = [
    "data_dir",
    "bucket",
    "listen",
    "advertise",
    "http",
    "tls.ca",
    "tls.cert",
    "tls.key",
    "auth.tokens",
    "auth.admin_tokens",
    "hot.max_bytes",
    "hot.file_bytes",
    "shards.count",
    "shards.replicas",
    "cluster.bootstrap_expect",
    "cluster.peers",
    "cluster.srv",
    "cluster.dns_server",
    "cluster.peer_listen",
    "cluster.peer_advertise",
    "cluster.ca_dir",
    "cpu.keep_awake",
    "streams.max_count",
    "clients.max_connections",
    "clients.max_bytes",
    "cold.max_time_to_cold",
    "log.format",
    "log.filter",
];

/// Settings of one source; absent ones are left to the next.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Layer {
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) bucket: Option<String>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) advertise: Option<String>,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) tls: TlsLayer,
    pub(crate) auth: AuthLayer,
    pub(crate) hot: HotLayer,
    pub(crate) shards: ShardsLayer,
    pub(crate) cluster: ClusterLayer,
    pub(crate) cpu: CpuLayer,
    pub(crate) streams: StreamsLayer,
    pub(crate) clients: ClientsLayer,
    pub(crate) cold: ColdLayer,
    pub(crate) log: LogLayer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsLayer {
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AuthLayer {
    #[serde(deserialize_with = "token::list")]
    pub(crate) tokens: Option<Vec<TokenHash>>,
    #[serde(deserialize_with = "token::list")]
    pub(crate) admin_tokens: Option<Vec<TokenHash>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HotLayer {
    pub(crate) max_bytes: Option<ByteSize>,
    pub(crate) file_bytes: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardsLayer {
    pub(crate) count: Option<u32>,
    pub(crate) replicas: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterLayer {
    pub(crate) bootstrap_expect: Option<u32>,
    pub(crate) peers: Option<Vec<String>>,
    pub(crate) srv: Option<String>,
    pub(crate) dns_server: Option<SocketAddr>,
    pub(crate) peer_listen: Option<SocketAddr>,
    pub(crate) peer_advertise: Option<String>,
    pub(crate) ca_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CpuLayer {
    pub(crate) keep_awake: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamsLayer {
    pub(crate) max_count: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClientsLayer {
    pub(crate) max_connections: Option<u32>,
    pub(crate) max_bytes: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ColdLayer {
    pub(crate) max_time_to_cold: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogLayer {
    pub(crate) format: Option<LogFormat>,
    pub(crate) filter: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One JSON object a line, for collectors.
    Json,
    /// For people.
    Pretty,
}

impl LogFormat {
    /// As written in a configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Pretty => "pretty",
        }
    }
}

/// The text is no log format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a log format: `json` or `pretty` is expected")]
pub(crate) struct LogFormatError {
    text: String,
}

impl std::str::FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Json, Self::Pretty]
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| LogFormatError { text: text.to_owned() })
    }
}

/// The known key nearest to `key`, where one is near enough to be what was meant.
pub(crate) fn nearest_key(key: &str) -> Option<&'static str> {
    // A key in the wrong section is as common as a misspelt one: compare the last word too.
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |known: &str| {
        let whole = strsim::damerau_levenshtein(key, known);
        let word = strsim::damerau_levenshtein(&last(key), &last(known));
        (whole.min(word + 1), whole)
    };
    let ((best, _), known) = KEYS.iter().map(|known| (distance(known), *known)).min()?;
    (best <= 3 && best < last(key).len()).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_and_misplaced_keys_find_the_one_that_was_meant() {
        for (written, meant) in [
            ("lisen", Some("listen")),
            ("data-dir", Some("data_dir")),
            ("hot.max_byte", Some("hot.max_bytes")),
            ("hott.max_bytes", Some("hot.max_bytes")),
            ("max_bytes", Some("hot.max_bytes")),
            ("cold.max_time_to_clod", Some("cold.max_time_to_cold")),
            ("tls.certificate", None),
            ("zookeeper.connect", None),
        ] {
            assert_eq!(nearest_key(written), meant, "{written}");
        }
    }
}
