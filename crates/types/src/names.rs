//! Names that users give. Parsed once at the edge; what holds a `StreamName` needs no further check.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::STREAM_NAME_BYTES;

/// A stream's name: words of `[A-Za-z0-9_-]` joined by `.`, at most 128 bytes (SEMANTICS §0). Cheap
/// to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

/// A text that is not a valid name, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "stream name '{name}' {reason}; names are words of letters, digits, '_' and '-' joined by '.', \
     at most {STREAM_NAME_BYTES} bytes"
)]
pub struct InvalidName {
    name: String,
    reason: &'static str,
}

impl StreamName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidName`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let refuse = |reason| {
            Err(InvalidName { name: name.chars().take(STREAM_NAME_BYTES).collect(), reason })
        };
        if name.is_empty() {
            return refuse("is empty");
        }
        if name.len() > STREAM_NAME_BYTES {
            return refuse("is too long");
        }
        if name.contains('$') {
            return refuse("contains '$', which is reserved for the system");
        }
        if name.split('.').any(str::is_empty) {
            return refuse("has an empty word");
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if !name.bytes().all(allowed) {
            return refuse("has a character that is not allowed");
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

/// In maps, names are found by their text and by what they begin with.
impl Borrow<str> for StreamName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for good in ["orders", "a.b-c.D_9", "-", &"x".repeat(128)] {
            assert_eq!(StreamName::new(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in
            ["", ".", "a.", ".a", "a..b", "a b", "a/b", "ä", "$sys", "a$b", "a\0", &"x".repeat(129)]
        {
            assert!(StreamName::new(bad).is_err(), "{bad:?}");
        }
    }
}
