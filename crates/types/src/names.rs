//! Names that users give. Parsed once at the edge; what holds a `StreamName` needs no further check.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{COMPANION_NAME_BYTES, GROUP_NAME_BYTES, STREAM_NAME_BYTES};

/// What is between the name of a stream and that of the group whose dead letters a companion holds.
const DEAD_LETTERS: &str = "$dlq.";

/// A stream's name: words of `[A-Za-z0-9_-]` joined by `.`, at most 128 bytes (SEMANTICS §0), or that of
/// a companion, `<stream>$dlq.<group>` (DL-5). Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);

/// A group's name: as a stream's, but at most 64 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

/// A text that is not a valid name, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} name '{name}' {reason}; names are words of letters, digits, '_' and '-' joined by '.', \
     at most {bytes_max} bytes"
)]
pub struct InvalidName {
    what: &'static str,
    name: String,
    reason: &'static str,
    bytes_max: usize,
}

/// Checks a name that a user gives.
fn check(what: &'static str, name: &str, bytes_max: usize) -> Result<(), InvalidName> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > bytes_max {
        "is too long"
    } else if name.contains('$') {
        "contains '$', which is reserved for the system"
    } else if name.split('.').any(str::is_empty) {
        "has an empty word"
    } else if !name.bytes().all(allowed) {
        "has a character that is not allowed"
    } else {
        return Ok(());
    };
    Err(InvalidName { what, name: name.chars().take(bytes_max).collect(), reason, bytes_max })
}

impl StreamName {
    /// Checks `name`, which a user gives.
    ///
    /// # Errors
    /// [`InvalidName`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check("stream", name, STREAM_NAME_BYTES)?;
        Ok(Self(name.into()))
    }

    /// Checks `name`, which a user has given or the server has made: a companion's is one, too.
    ///
    /// # Errors
    /// [`InvalidName`] says which rule it breaks.
    pub fn parse_any(name: &str) -> Result<Self, InvalidName> {
        match name.split_once(DEAD_LETTERS) {
            Some((parent, group)) => {
                Ok(Self::companion(&Self::new(parent)?, &GroupName::new(group)?))
            }
            None => Self::new(name),
        }
    }

    /// The name of the stream that holds the dead letters of a group of `parent`, which is no companion
    /// itself (DL-5).
    #[must_use]
    pub fn companion(parent: &Self, group: &GroupName) -> Self {
        const {
            assert!(
                STREAM_NAME_BYTES + DEAD_LETTERS.len() + GROUP_NAME_BYTES <= COMPANION_NAME_BYTES
            )
        };
        debug_assert!(!parent.is_companion());
        Self(format!("{parent}{DEAD_LETTERS}{group}").into())
    }

    /// Whether the server made the stream for a group of another one.
    #[must_use]
    pub fn is_companion(&self) -> bool {
        self.0.contains('$')
    }

    /// The stream and the group whose dead letters are in the stream of this name; `None`: in no other
    /// stream's.
    #[must_use]
    pub fn split_companion(&self) -> Option<(Self, GroupName)> {
        let (parent, group) = self.0.split_once(DEAD_LETTERS)?;
        Some((Self(parent.into()), GroupName(group.into())))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GroupName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidName`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        check("group", name, GROUP_NAME_BYTES)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::new(name)
            }
        }

        /// In maps, names are found by their text and by what they begin with.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text!(StreamName);
text!(GroupName);

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

    #[test]
    fn a_groups_name_is_shorter() {
        for good in ["billing", "a.b-c.D_9", &"x".repeat(64)] {
            assert_eq!(GroupName::new(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a..b", "a/b", "a$b", &"x".repeat(65)] {
            let error = GroupName::new(bad).expect_err(bad).to_string();
            assert!(
                error.starts_with("group name '") && error.ends_with("at most 64 bytes"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_companion_is_named_after_its_stream_and_group() {
        // DL-5
        let (parent, group) = ("s".repeat(128), "g".repeat(64));
        let (parent, group) = (StreamName::new(&parent).unwrap(), GroupName::new(&group).unwrap());
        let companion = StreamName::companion(&parent, &group);
        assert!(companion.as_str().len() <= COMPANION_NAME_BYTES);
        assert_eq!(companion.as_str(), format!("{parent}$dlq.{group}"));
        assert_eq!(StreamName::parse_any(companion.as_str()), Ok(companion.clone()));
        assert_eq!(companion.split_companion(), Some((parent.clone(), group)));
        assert!(companion.is_companion() && !parent.is_companion());
        // Users can neither make one nor anything that looks like one.
        assert!(StreamName::new(companion.as_str()).is_err());
        assert_eq!(StreamName::parse_any("orders"), StreamName::new("orders"));
        assert_eq!(parent.split_companion(), None);
        for bad in ["a$dlq.", "$dlq.g", "a$dlq.g$dlq.h", "a$dlqg", "$sys", "a$dlq.g/h"] {
            assert!(StreamName::parse_any(bad).is_err(), "{bad}");
        }
    }
}
