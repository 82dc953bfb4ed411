//! What can go wrong with a bucket, and whether to try again.

use std::error::Error as _;
use std::sync::Arc;

/// What a failure says about another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// The store or the way to it failed for the moment.
    Transient,
    /// The store asks for fewer requests: wait longer.
    Throttled,
    /// Another attempt gives the same answer until somebody changes something.
    Permanent,
}

/// Why a request to the bucket failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BucketError {
    /// No object under this key.
    #[error("object {key} does not exist")]
    NotFound {
        /// The key.
        key: Arc<str>,
    },
    /// Credentials are missing, wrong, or not allowed to do this.
    #[error("access to object {key} was denied: {reason}")]
    Denied {
        /// The key.
        key: Arc<str>,
        /// The store's words.
        reason: Arc<str>,
    },
    /// The store did not answer, or answered with a failure that passes; attempts are used up.
    #[error("object {key} is out of reach after {attempts} attempts: {reason}")]
    Unavailable {
        /// The key.
        key: Arc<str>,
        /// Attempts made.
        attempts: u32,
        /// How the last of them ended.
        reason: Arc<str>,
        /// What the last of them says about another.
        class: RetryClass,
    },
    /// Something else lies under a key that is ours alone. Never overwritten.
    #[error("object {key} exists with another content")]
    Conflict {
        /// The key.
        key: Arc<str>,
    },
    /// The object is shorter than the range asked for.
    #[error("object {key} ends before byte {end}")]
    OutOfRange {
        /// The key.
        key: Arc<str>,
        /// End of the range, exclusive.
        end: u64,
    },
    /// The object is larger than any that railgun writes under such a key. It was not fetched.
    #[error("object {key} has {bytes} bytes, more than the {bytes_max} it may have")]
    TooLarge {
        /// The key.
        key: Arc<str>,
        /// Its size.
        bytes: u64,
        /// The most it may have.
        bytes_max: u64,
    },
    /// A listing passed the bound of [`LIST_KEYS_MAX`](super::LIST_KEYS_MAX) keys.
    #[error("more than {} keys lie under {key}", super::LIST_KEYS_MAX)]
    TooManyKeys {
        /// The prefix.
        key: Arc<str>,
    },
    /// The store refuses the request as such.
    #[error("the request for object {key} was refused: {reason}")]
    Refused {
        /// The key.
        key: Arc<str>,
        /// The store's words.
        reason: Arc<str>,
    },
}

impl BucketError {
    /// What the failure says about another attempt.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::Unavailable { class, .. } => *class,
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Conflict { .. }
            | Self::OutOfRange { .. }
            | Self::TooLarge { .. }
            | Self::TooManyKeys { .. }
            | Self::Refused { .. } => RetryClass::Permanent,
        }
    }
}

/// How one attempt failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) reason: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    Transient,
    Throttled,
    NotFound,
    NoSuchBucket,
    AlreadyExists,
    Denied,
    Range,
    Unsupported,
    Refused,
}

impl Failure {
    pub(super) fn stalled(seconds: u64) -> Self {
        let reason = format!("no answer within {seconds} s").into();
        Self { kind: FailureKind::Transient, reason }
    }

    /// Whether another attempt may help, and how.
    pub(super) fn retry_class(&self) -> RetryClass {
        match self.kind {
            FailureKind::Transient => RetryClass::Transient,
            FailureKind::Throttled => RetryClass::Throttled,
            FailureKind::NotFound
            | FailureKind::NoSuchBucket
            | FailureKind::AlreadyExists
            | FailureKind::Denied
            | FailureKind::Range
            | FailureKind::Unsupported
            | FailureKind::Refused => RetryClass::Permanent,
        }
    }

    pub(super) fn into_error(self, key: &str, attempts: u32) -> BucketError {
        let key: Arc<str> = key.into();
        let reason = self.reason;
        match self.kind {
            FailureKind::NotFound => BucketError::NotFound { key },
            FailureKind::AlreadyExists => BucketError::Conflict { key },
            FailureKind::Denied => BucketError::Denied { key, reason },
            FailureKind::Transient => {
                BucketError::Unavailable { key, attempts, reason, class: RetryClass::Transient }
            }
            FailureKind::Throttled => {
                BucketError::Unavailable { key, attempts, reason, class: RetryClass::Throttled }
            }
            FailureKind::NoSuchBucket
            | FailureKind::Range
            | FailureKind::Unsupported
            | FailureKind::Refused => BucketError::Refused { key, reason },
        }
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        let text = error.to_string();
        let kind = match &error {
            E::NotFound { .. } => kind_of_missing(&text),
            // With `If-None-Match: *` a 409 says that another request for the key is under way.
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
                FailureKind::AlreadyExists
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => FailureKind::Denied,
            E::NotSupported { .. } | E::NotImplemented { .. } => FailureKind::Unsupported,
            E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => FailureKind::Refused,
            _ => kind_of_text(&text),
        };
        Self { kind, reason: reason(&error, &text) }
    }
}

/// A bucket that does not exist and an object that does not are both 404.
fn kind_of_missing(text: &str) -> FailureKind {
    if text.contains("NoSuchBucket") { FailureKind::NoSuchBucket } else { FailureKind::NotFound }
}

/// What the words of an untyped failure tell; a listing has no other. The error type with the HTTP status is private to
/// `object_store`, so its text is all there is; what is not recognised counts as transient.
fn kind_of_text(text: &str) -> FailureKind {
    const STATUS: &str = "non-2xx status code: ";
    if text.contains("SlowDown") {
        return FailureKind::Throttled;
    }
    if text.contains("range was invalid") || text.contains("Invalid range") {
        return FailureKind::Range;
    }
    let status = text.split_once(STATUS).and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    match status {
        Some(429 | 503) => FailureKind::Throttled,
        Some(401 | 403) => FailureKind::Denied,
        Some(404) => kind_of_missing(text),
        Some(416) => FailureKind::Range,
        Some(501) => FailureKind::Unsupported,
        Some(408) => FailureKind::Transient,
        // S3 answers 400 when a request body was too slow or cut short on its way.
        Some(400) if text.contains("RequestTimeout") || text.contains("IncompleteBody") => {
            FailureKind::Transient
        }
        Some(300..=499) => FailureKind::Refused,
        _ => FailureKind::Transient,
    }
}

/// The error's text with its innermost cause, which transports hide.
fn reason(error: &object_store::Error, text: &str) -> Arc<str> {
    /// Stores may answer with whole pages.
    const REASON_CHARS: usize = 400;
    let mut innermost = None;
    let mut next = error.source();
    while let Some(cause) = next {
        innermost = Some(cause.to_string());
        next = cause.source();
    }
    let full = match innermost {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text.to_owned(),
    };
    full.chars().take(REASON_CHARS).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_in_the_text_decides() {
        let answer = |status: &str| format!("Server returned non-2xx status code: {status}: body");
        for (text, kind) in [
            (answer("503 Service Unavailable"), FailureKind::Throttled),
            (answer("500 Internal Server Error"), FailureKind::Transient),
            (answer("416 Range Not Satisfiable"), FailureKind::Range),
            (answer("501 Not Implemented"), FailureKind::Unsupported),
            (answer("400 Bad Request"), FailureKind::Refused),
            (answer("403 Forbidden"), FailureKind::Denied),
            (answer("404 Not Found"), FailureKind::NotFound),
            (answer("404 Not Found") + "<Code>NoSuchBucket</Code>", FailureKind::NoSuchBucket),
            (answer("400 Bad Request") + "RequestTimeout", FailureKind::Transient),
            ("HTTP error: connection closed".to_owned(), FailureKind::Transient),
        ] {
            assert_eq!(kind_of_text(&text), kind, "{text}");
        }
    }
}
