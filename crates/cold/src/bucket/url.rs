//! Where a bucket is, as users write it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of a bucket: `file:///dir`, `s3://bucket/prefix` or `memory://`. Holds no credentials:
/// a text that carries some is refused, so that no address ever shows them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BucketUrl {
    /// A local directory.
    File {
        /// Its absolute path.
        root: PathBuf,
    },
    /// A bucket of an S3-compatible store; endpoint and credentials come from the environment.
    S3 {
        /// The bucket.
        bucket: String,
        /// Key prefix without slashes at its ends; may be empty.
        prefix: String,
    },
    /// The memory of this process, for tests.
    Memory,
}

/// A text that is not the address of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bucket address {reason}; it is file:///DIRECTORY, s3://BUCKET/PREFIX or memory://")]
pub struct InvalidBucketUrl {
    /// What is wrong. Never quotes the text, which may hold a secret.
    reason: &'static str,
}

impl FromStr for BucketUrl {
    type Err = InvalidBucketUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| InvalidBucketUrl { reason };
        let url = url::Url::parse(text).map_err(|_| refuse("is not a URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse(
                "carries credentials (they belong into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("has a query or a fragment"));
        }
        match url.scheme() {
            "file" if url.host_str().is_some_and(|host| !host.is_empty()) => {
                Err(refuse("names a host, so write three slashes"))
            }
            "file" => {
                let root = url.to_file_path().map_err(|()| refuse("names no local directory"))?;
                Ok(Self::File { root })
            }
            "s3" => {
                let bucket = url.host_str().unwrap_or_default();
                if bucket.is_empty() {
                    return Err(refuse("names no bucket"));
                }
                if url.port().is_some() {
                    return Err(refuse("has a port (endpoints belong into AWS_ENDPOINT_URL)"));
                }
                let prefix = url.path().trim_matches('/');
                if prefix.contains('%')
                    || prefix.split('/').any(|part| part.is_empty()) && !prefix.is_empty()
                {
                    return Err(refuse(
                        "has a prefix with empty parts or characters that need escapes",
                    ));
                }
                Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            "memory" => Ok(Self::Memory),
            _ => Err(refuse("has an unknown scheme")),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Escaped, so that it reads back as the same directory whatever its name is. Only a
            // relative path has no URL, and is none that was parsed.
            Self::File { root } => match url::Url::from_file_path(root) {
                Ok(url) => f.write_str(url.as_str()),
                Err(()) => write!(f, "file://{}", root.display()),
            },
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Memory => f.write_str("memory://"),
        }
    }
}

impl BucketUrl {
    /// Where an engine such as DuckDB finds `key`: a file path or an `s3://` URL.
    #[must_use]
    pub fn locate(&self, key: &str) -> String {
        match self {
            Self::File { root } => Path::join(root, key).display().to_string(),
            Self::Memory => format!("memory://{key}"),
            Self::S3 { .. } => format!("{self}/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in ["file:///var/lib/cold", "s3://logs", "s3://logs/a/b", "memory://"] {
            let url: BucketUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
        }
        let slashed: BucketUrl = "s3://logs/a/".parse().unwrap();
        assert_eq!(slashed.locate("k/v"), "s3://logs/a/k/v");
        let spaced: BucketUrl = "file:///a%20b".parse().unwrap();
        assert_eq!(spaced.locate("k"), "/a b/k");
    }

    #[test]
    fn a_directory_of_any_name_reads_back_from_plain_text() {
        for name in ["a b", "a\"b", "a\\b", "a#b", "a?b", "a%41", "हि", "é"] {
            let url = BucketUrl::File { root: Path::new("/cold").join(name) };
            let text = url.to_string();
            assert!(text.is_ascii() && !text.contains(['"', '\\', ' ']), "{text}");
            assert_eq!(text.parse(), Ok(url), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_without_being_quoted() {
        for text in [
            "",
            "/tmp",
            "file://host/dir",
            "s3://",
            "s3:///x",
            "s3://b/x//y",
            "s3://b:9000/x",
            "http://h/b",
            "s3://hidden:hidden@b/x",
            "s3://b/x?secret=hidden",
        ] {
            let error = text.parse::<BucketUrl>().unwrap_err().to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
