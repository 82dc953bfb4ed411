//! The configuration file.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::layer::{KEYS, Layer, nearest_key};
use crate::exit::Exit;

/// A configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Invalid { path: PathBuf, line: usize, message: String },
    #[error("{}:{line}: unknown key `{key}`{}", path.display(), suggestion(*nearest))]
    UnknownKey { path: PathBuf, line: usize, key: String, nearest: Option<&'static str> },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|known| format!(", did you mean `{known}`?")).unwrap_or_default()
}

impl FileError {
    /// How a command ends that needs the file.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreadable { source, .. } => Exit::of_io(source),
            Self::Invalid { .. } | Self::UnknownKey { .. } => Exit::Usage,
        }
    }
}

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// [`FileError`], with the line where there is one.
pub(crate) fn read(path: &Path) -> Result<Layer, FileError> {
    let text = fs::read_to_string(path)
        .map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Layer, FileError> {
    let invalid = |error: toml::de::Error| FileError::Invalid {
        path: path.to_owned(),
        line: line_of(text, error.span()),
        message: error.message().to_owned(),
    };
    let document = DeTable::parse(text).map_err(invalid)?;
    // Before serde sees it, which would list every key it expected instead of the one meant.
    if let Some((key, span)) = unknown_key(document.get_ref(), "") {
        let nearest = nearest_key(&key);
        let line = line_of(text, Some(span));
        return Err(FileError::UnknownKey { path: path.to_owned(), line, key, nearest });
    }
    toml::from_str(text).map_err(invalid)
}

/// The first key, in file order, that is neither known nor a section of known ones.
fn unknown_key(table: &DeTable<'_>, section: &str) -> Option<(String, Range<usize>)> {
    let unknown = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key = format!("{section}{}", name.get_ref());
        if KEYS.contains(&key.as_str()) {
            return None;
        }
        let prefix = format!("{key}.");
        match value.get_ref() {
            DeValue::Table(inner) if KEYS.iter().any(|known| known.starts_with(&prefix)) => {
                unknown_key(inner, &prefix)
            }
            // A whole section that is not ours: name what is in it, that says more.
            DeValue::Table(inner) if !inner.is_empty() => unknown_key(inner, &prefix),
            _ => Some((key, name.span())),
        }
    };
    table.iter().filter_map(unknown).min_by_key(|(_, span)| span.start)
}

/// 1-based line of a span's start.
fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(Path::new("node.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_known_key_is_one_that_a_file_may_hold() {
        let layer = parse(
            Path::new("node.toml"),
            r#"
            data_dir = "/var/lib/railgun"
            bucket = "s3://logs/prod"
            listen = "0.0.0.0:7410"
            advertise = "a:7410"
            http = "127.0.0.1:7411"
            tls = { ca = "ca.pem", cert = "node.pem", key = "node.key" }
            auth = { tokens = [], admin_tokens = [] }
            [hot]
            max_bytes = "10GiB"
            file_bytes = "64MiB"
            [shards]
            count = 4
            replicas = 3
            [cluster]
            bootstrap_expect = 3
            peers = ["a:7412", "b:7412"]
            srv = "railgun.example"
            dns_server = "127.0.0.1:53"
            peer_listen = "0.0.0.0:7412"
            peer_advertise = "a:7412"
            ca_dir = "ca"
            [streams]
            max_count = 100000
            [clients]
            max_connections = 10000
            max_bytes = "1GiB"
            [cold]
            max_time_to_cold = "10m"
            [cpu]
            keep_awake = true
            [log]
            format = "json"
            filter = "info,railgun_broker=debug"
            "#,
        )
        .unwrap();
        // Every field is there, so KEYS has no name that serde does not know, and none is missing.
        assert!(layer.data_dir.is_some() && layer.bucket.is_some());
        assert!(layer.listen.is_some() && layer.http.is_some());
        assert!(layer.tls.ca.is_some() && layer.advertise.is_some());
        assert!(layer.cluster.srv.is_some() && layer.cluster.dns_server.is_some());
        assert!(layer.cluster.ca_dir.is_some() && layer.shards.replicas.is_some());
        assert!(layer.cluster.bootstrap_expect.is_some() && layer.cluster.peers.is_some());
        assert!(layer.cluster.peer_listen.is_some() && layer.cluster.peer_advertise.is_some());
        assert!(layer.tls.cert.is_some() && layer.tls.key.is_some());
        assert!(layer.auth.tokens.is_some() && layer.auth.admin_tokens.is_some());
        assert!(layer.hot.max_bytes.is_some());
        assert!(layer.hot.file_bytes.is_some() && layer.streams.max_count.is_some());
        assert!(layer.clients.max_connections.is_some() && layer.clients.max_bytes.is_some());
        assert!(layer.shards.count.is_some() && layer.cold.max_time_to_cold.is_some());
        assert!(layer.cpu.keep_awake.is_some());
        assert!(layer.log.format.is_some() && layer.log.filter.is_some());
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_nearest_known_key() {
        assert_eq!(
            refused("listen = \"127.0.0.1:1\"\n\n[hot]\nmax_byte = 5\n"),
            "node.toml:4: unknown key `hot.max_byte`, did you mean `hot.max_bytes`?"
        );
        assert_eq!(
            refused("[hott]\nmax_bytes = 5\n"),
            "node.toml:2: unknown key `hott.max_bytes`, did you mean `hot.max_bytes`?"
        );
        assert_eq!(refused("[kafka]\n"), "node.toml:1: unknown key `kafka`");
        assert_eq!(
            refused("zebra = 1\n[auth]\nusers = []\n"),
            "node.toml:1: unknown key `zebra`",
            "the first in the file is named"
        );
    }

    #[test]
    fn wrong_values_and_broken_syntax_are_refused_with_their_line() {
        for (text, line, needle) in [
            ("listen = \"localhost\"\n", 1, "socket address"),
            ("\n[hot]\nmax_bytes = \"lots\"\n", 3, "`lots` is not a size"),
            ("[cold]\nmax_time_to_cold = 600\n", 2, "expected a string"),
            ("[log]\nformat = \"xml\"\n", 2, "unknown variant `xml`"),
            ("[shards]\ncount = -1\n", 2, "-1"),
            ("hot = 5\n", 1, "hot"),
            ("[auth]\ntokens = [\"hunter2\"]\n", 2, "hash-token"),
            ("[auth]\nadmin_tokens = [\"hunter2\"]\n", 2, "hash-token"),
            ("listen = \n", 1, ""),
        ] {
            let message = refused(text);
            assert!(message.starts_with(&format!("node.toml:{line}: ")), "{text:?}: {message}");
            assert!(message.contains(needle), "{text:?}: {message}");
            assert!(!message.contains("hunter2"), "a secret is not repeated: {message}");
        }
    }
}
