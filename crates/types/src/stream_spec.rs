//! What a user asks a stream to be, and how a wish differs from what is (SEMANTICS §8).

use crate::dedup_spec::{DedupPatch, DedupSpec};
use crate::group_spec::{Comparison, DlqPatch, DlqSpec, check_owner};
use crate::limits::{MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_HARD};

/// The kinds of stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// Replicated, acked, kept.
    #[default]
    Persistent = 1,
    /// Topics, at most once, nothing stored.
    Ephemeral = 2,
}

impl StreamKind {
    /// The kind of this number.
    #[must_use]
    pub fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Persistent),
            2 => Some(Self::Ephemeral),
            _ => None,
        }
    }

    /// As users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// The effective settings of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// What kind of stream it is; fixed at creation.
    pub kind: StreamKind,
    /// Largest message in bytes: 1 … [`MESSAGE_BYTES_HARD`].
    pub max_message_bytes: u32,
    /// Who manages the stream; `apply --prune` deletes only what carries its own label. May be empty;
    /// at most 128 bytes, none of them a control character: it is shown on terminals.
    pub owner: String,
    /// What holds for the dead letters of a new group that does not say otherwise.
    pub dlq: DlqSpec,
    /// For how long ids keep messages from being appended again.
    pub dedup: DedupSpec,
}

impl Default for StreamSpec {
    fn default() -> Self {
        Self {
            kind: StreamKind::Persistent,
            max_message_bytes: MESSAGE_BYTES_DEFAULT as u32,
            owner: String::new(),
            dlq: DlqSpec::default(),
            dedup: DedupSpec::default(),
        }
    }
}

/// The settings a user names; what is absent is "don't care" (EN-2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecPatch {
    /// See [`StreamSpec::kind`].
    pub kind: Option<StreamKind>,
    /// See [`StreamSpec::max_message_bytes`].
    pub max_message_bytes: Option<u32>,
    /// See [`StreamSpec::owner`].
    pub owner: Option<String>,
    /// See [`StreamSpec::dlq`].
    pub dlq: DlqPatch,
    /// See [`StreamSpec::dedup`].
    pub dedup: DedupPatch,
}

/// What `ensure` does when the stream exists and differs (EN-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum EnsureMode {
    /// Report the difference as an error; create nothing.
    Check = 1,
    /// Create if absent; report a difference, change nothing.
    #[default]
    Warn = 2,
    /// Create if absent; make it so.
    Overwrite = 3,
}

impl EnsureMode {
    /// The mode of this number.
    #[must_use]
    pub fn from_u8(mode: u8) -> Option<Self> {
        match mode {
            1 => Some(Self::Check),
            2 => Some(Self::Warn),
            3 => Some(Self::Overwrite),
            _ => None,
        }
    }
}

/// How a change of a field is treated (EN-3, EN-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChangeClass {
    /// Takes effect at once.
    Live = 1,
    /// Never possible.
    Immutable = 2,
    /// Only if the caller allows it.
    Destructive = 3,
}

impl ChangeClass {
    /// The class of this number.
    #[must_use]
    pub fn from_u8(class: u8) -> Option<Self> {
        match class {
            1 => Some(Self::Live),
            2 => Some(Self::Immutable),
            3 => Some(Self::Destructive),
            _ => None,
        }
    }
}

/// One field that is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDiff {
    /// The field's path in the specification.
    pub path: String,
    /// What it is.
    pub actual: String,
    /// What was asked for.
    pub wanted: String,
    /// How such a change is treated.
    pub class: ChangeClass,
}

/// A specification that no stream can have (EN-5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct InvalidSpec {
    /// The field.
    pub path: &'static str,
    /// What is wrong with its value.
    pub reason: String,
}

impl SpecPatch {
    /// Checks every value that is present.
    ///
    /// # Errors
    /// [`InvalidSpec`] names the first field that cannot be.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        if let Some(bytes) = self.max_message_bytes
            && !(1..=MESSAGE_BYTES_HARD).contains(&(bytes as usize))
        {
            let reason = format!("{bytes} bytes is outside 1 to {MESSAGE_BYTES_HARD}");
            return Err(InvalidSpec { path: "max_message_bytes", reason });
        }
        if let Some(owner) = &self.owner {
            check_owner(owner)?;
        }
        self.dlq.validate()?;
        self.dedup.validate()
    }

    /// The settings of a new stream: the given ones over the defaults.
    #[must_use]
    pub fn over_defaults(&self) -> StreamSpec {
        let mut spec = StreamSpec::default();
        self.apply_to(&mut spec);
        spec
    }

    /// Sets what is present.
    pub fn apply_to(&self, spec: &mut StreamSpec) {
        if let Some(kind) = self.kind {
            spec.kind = kind;
        }
        if let Some(bytes) = self.max_message_bytes {
            spec.max_message_bytes = bytes;
        }
        if let Some(owner) = &self.owner {
            spec.owner.clone_from(owner);
        }
        self.dlq.apply_to(&mut spec.dlq);
        self.dedup.apply_to(&mut spec.dedup);
    }

    /// The fields present here whose effective value in `actual` is another (EN-2).
    #[must_use]
    pub fn diff(&self, actual: &StreamSpec) -> Vec<FieldDiff> {
        let mut wanted = actual.clone();
        self.apply_to(&mut wanted);
        let mut found = Comparison::default();
        let kind = |spec: &StreamSpec| spec.kind.name().to_owned();
        found.field("kind", ChangeClass::Immutable, kind(actual), kind(&wanted));
        let bytes = |spec: &StreamSpec| spec.max_message_bytes.to_string();
        found.field("max_message_bytes", ChangeClass::Live, bytes(actual), bytes(&wanted));
        found.field("owner", ChangeClass::Live, actual.owner.clone(), wanted.owner);
        self.dlq.compare(&actual.dlq, &mut found);
        self.dedup.diff(&actual.dedup, &mut found.diff);
        found.diff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_present_fields_are_compared() {
        let actual = StreamSpec { max_message_bytes: 10, ..StreamSpec::default() };
        assert_eq!(SpecPatch::default().diff(&actual), []);
        let patch = SpecPatch {
            kind: Some(StreamKind::Ephemeral),
            max_message_bytes: Some(20),
            owner: Some(String::new()),
            dlq: DlqPatch { max_distance: Some(7), ..DlqPatch::default() },
            ..SpecPatch::default()
        };
        let diff = patch.diff(&actual);
        assert_eq!(
            diff.iter().map(|d| d.path.as_str()).collect::<Vec<_>>(),
            ["kind", "max_message_bytes", "dlq.max_distance"]
        );
        assert_eq!(diff[0].class, ChangeClass::Immutable);
        assert_eq!((diff[1].actual.as_str(), diff[1].wanted.as_str()), ("10", "20"));
    }

    #[test]
    fn impossible_values_are_named() {
        for bytes in [0, MESSAGE_BYTES_HARD as u32 + 1] {
            let patch = SpecPatch { max_message_bytes: Some(bytes), ..SpecPatch::default() };
            assert_eq!(patch.validate().map_err(|e| e.path), Err("max_message_bytes"));
        }
        let validated = |owner: &str| {
            let patch = SpecPatch { owner: Some(owner.to_owned()), ..SpecPatch::default() };
            patch.validate().map_err(|error| error.to_string())
        };
        for owner in ["", "shop", "Größe: L", &"x".repeat(128)] {
            assert_eq!(validated(owner), Ok(()), "{owner:?}");
        }
        assert!(validated(&"x".repeat(129)).is_err_and(|error| error.contains("129 bytes")));
        for owner in ["ab\x1b]0;x\x07", "ab\nrevision  99", "ab\u{9b}31m", "ab\x7f"] {
            let error = validated(owner).expect_err(owner);
            assert_eq!(error, "owner: there is a control character at byte 2");
        }
    }
}
