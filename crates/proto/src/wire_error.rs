//! An error as it travels: a code that may be newer than this build, a text, and what to do.

use std::fmt;
use std::time::Duration;

use railgun_types::{ErrorCode, Retry};

use crate::frame::FrameError;
use crate::v1;

/// Longest text of an error that is sent, in bytes.
const MESSAGE_BYTES: usize = 1 << 10;

/// The number of an error, named where this build knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireCode {
    /// A code of this version.
    Known(ErrorCode),
    /// A code of a newer version. The hint beside it says what to do.
    Unknown(u32),
}

impl WireCode {
    /// The code of this number.
    #[must_use]
    pub fn from_u32(number: u32) -> Self {
        ErrorCode::from_u32(number).map_or(Self::Unknown(number), Self::Known)
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Known(code) => code as u32,
            Self::Unknown(number) => number,
        }
    }
}

impl From<ErrorCode> for WireCode {
    fn from(code: ErrorCode) -> Self {
        Self::Known(code)
    }
}

impl PartialEq<ErrorCode> for WireCode {
    fn eq(&self, other: &ErrorCode) -> bool {
        *self == Self::Known(*other)
    }
}

impl fmt::Display for WireCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(code) => code.fmt(f),
            Self::Unknown(number) => write!(f, "error {number}"),
        }
    }
}

/// An error that a peer sent or will be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    /// What kind of failure it is.
    pub code: WireCode,
    /// What happened to which thing, for people. At most 1 KiB is sent.
    pub message: String,
    /// What the receiver may do.
    pub retry: Retry,
    /// The record of the batch that this is about.
    pub record: Option<u32>,
    /// `SequenceGap`: the sequence expected. `ExpectedOffsetMismatch`: the stream's next offset.
    /// `MessageTooLarge`: the limit. `RevisionConflict`: the actual revision.
    pub actual: Option<u64>,
    /// `NotLeader`: the address of the leader; empty if it is not known.
    pub leader: String,
}

impl WireError {
    /// An error with the code's usual hint and no details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retry: code.retry(),
            record: None,
            actual: None,
            leader: String::new(),
        }
    }

    /// With a more exact hint.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// With the value that [`Self::actual`] documents for its code.
    #[must_use]
    pub fn with_actual(self, actual: u64) -> Self {
        Self { actual: Some(actual), ..self }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return self.code.fmt(f);
        }
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for WireError {}

impl From<&WireError> for v1::Error {
    fn from(error: &WireError) -> Self {
        let (retry, retry_after) = match error.retry {
            Retry::Never => (v1::Retry::Never, Duration::ZERO),
            Retry::Now => (v1::Retry::Now, Duration::ZERO),
            Retry::After(after) => (v1::Retry::After, after),
            Retry::OnNewLeader => (v1::Retry::OnNewLeader, Duration::ZERO),
        };
        // Rounded up: a client must not come back early.
        let retry_after_ms = retry_after.as_micros().div_ceil(1_000);
        let end = error.message.floor_char_boundary(MESSAGE_BYTES);
        Self {
            code: error.code.number(),
            message: error.message[..end].to_owned(),
            retry: retry.into(),
            retry_after_ms: u32::try_from(retry_after_ms).unwrap_or(u32::MAX),
            record: error.record,
            actual: error.actual,
            leader: error.leader.clone(),
        }
    }
}

impl From<WireError> for v1::Error {
    fn from(error: WireError) -> Self {
        Self::from(&error)
    }
}

impl From<FrameError> for WireError {
    fn from(error: FrameError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<v1::Error> for WireError {
    /// A hint that this version does not know is taken as "never", the one that cannot do harm.
    fn from(error: v1::Error) -> Self {
        let retry = match error.retry() {
            v1::Retry::Never => Retry::Never,
            v1::Retry::Now => Retry::Now,
            v1::Retry::After => Retry::After(Duration::from_millis(error.retry_after_ms.into())),
            v1::Retry::OnNewLeader => Retry::OnNewLeader,
        };
        Self {
            code: WireCode::from_u32(error.code),
            message: error.message,
            retry,
            record: error.record,
            actual: error.actual,
            leader: error.leader,
        }
    }
}
