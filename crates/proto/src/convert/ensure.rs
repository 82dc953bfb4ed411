//! Ensuring a stream: the wish, the answer, and the differences between them (SEMANTICS §8).

use railgun_types::{
    ChangeClass, EnsureMode, FieldDiff, InvalidSpec, RequestId, SpecPatch, StreamKind, StreamName,
    StreamSpec, StreamUid,
};

use super::{InvalidMessage, Uid, invalid};
use crate::v1;

/// A parsed [`v1::EnsureStream`]. Its values are possible ones (EN-5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsureRequest {
    /// The stream's name.
    pub name: StreamName,
    /// The settings that are asked for.
    pub patch: SpecPatch,
    /// What to do if the stream exists and differs (EN-3).
    pub mode: EnsureMode,
    /// Change only if the stream has this revision (EN-6).
    pub if_revision: Option<u64>,
    /// Whether changes may lose data (EN-4).
    pub allow_destructive: bool,
    /// Which request it is, however often it is sent.
    pub request: Option<RequestId>,
}

/// A parsed [`v1::StreamEnsured`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// What was done.
    pub outcome: EnsureOutcome,
    /// The stream.
    pub stream_uid: StreamUid,
    /// Its revision now.
    pub revision: u64,
}

/// What an ensure did (EN-1 … EN-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnsureOutcome {
    /// The stream was made.
    Created,
    /// It is as wanted.
    Unchanged,
    /// It differs, and was left so.
    Drift(Vec<FieldDiff>),
    /// It differed, and is now as wanted.
    Updated(Vec<FieldDiff>),
}

impl TryFrom<v1::EnsureStream> for EnsureRequest {
    type Error = InvalidMessage;

    fn try_from(message: v1::EnsureStream) -> Result<Self, Self::Error> {
        let mode = match message.mode() {
            v1::EnsureMode::EnsureCheck => EnsureMode::Check,
            v1::EnsureMode::EnsureWarn => EnsureMode::Warn,
            v1::EnsureMode::EnsureOverwrite => EnsureMode::Overwrite,
            v1::EnsureMode::EnsureUnspecified => {
                return Err(unknown_number("mode", message.mode));
            }
        };
        let patch = message.spec.unwrap_or_default().try_into()?;
        let request = RequestId::from_wire_if_any("request_id", &message.request_id)?;
        if request == Some(RequestId([0; 16])) {
            // Not drawn: another request would have the same.
            return Err(invalid("request_id", "is to be random, and is only zeros"));
        }
        Ok(Self {
            name: StreamName::new(&message.name)?,
            patch,
            mode,
            if_revision: message.if_revision,
            allow_destructive: message.allow_destructive,
            request,
        })
    }
}

impl From<&EnsureRequest> for v1::EnsureStream {
    fn from(request: &EnsureRequest) -> Self {
        let mode = match request.mode {
            EnsureMode::Check => v1::EnsureMode::EnsureCheck,
            EnsureMode::Warn => v1::EnsureMode::EnsureWarn,
            EnsureMode::Overwrite => v1::EnsureMode::EnsureOverwrite,
        };
        Self {
            name: request.name.to_string(),
            spec: Some((&request.patch).into()),
            mode: mode.into(),
            if_revision: request.if_revision,
            allow_destructive: request.allow_destructive,
            request_id: request.request.map(|id| id.to_wire()).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::StreamPatch> for SpecPatch {
    type Error = InvalidMessage;

    fn try_from(message: v1::StreamPatch) -> Result<Self, Self::Error> {
        let patch = Self {
            kind: message.kind.map(stream_kind).transpose()?,
            max_message_bytes: message.max_message_bytes,
            owner: message.owner,
            ..Self::default()
        };
        patch.validate()?;
        Ok(patch)
    }
}

impl From<&SpecPatch> for v1::StreamPatch {
    fn from(patch: &SpecPatch) -> Self {
        Self {
            kind: patch.kind.map(|kind| wire_kind(kind).into()),
            max_message_bytes: patch.max_message_bytes,
            owner: patch.owner.clone(),
        }
    }
}

impl TryFrom<v1::StreamPatch> for StreamSpec {
    type Error = InvalidMessage;

    /// A patch in which every field is present, as a server describes a stream. What an older
    /// server does not send has its default.
    fn try_from(message: v1::StreamPatch) -> Result<Self, Self::Error> {
        Ok(SpecPatch::try_from(message)?.over_defaults())
    }
}

impl From<&StreamSpec> for v1::StreamPatch {
    fn from(spec: &StreamSpec) -> Self {
        Self {
            kind: Some(wire_kind(spec.kind).into()),
            max_message_bytes: Some(spec.max_message_bytes),
            owner: Some(spec.owner.clone()),
        }
    }
}

impl TryFrom<v1::StreamEnsured> for Ensured {
    type Error = InvalidMessage;

    fn try_from(message: v1::StreamEnsured) -> Result<Self, Self::Error> {
        let outcome = message.outcome();
        let diff = message.diff.into_iter().map(FieldDiff::try_from).collect::<Result<_, _>>()?;
        let outcome = match outcome {
            v1::EnsureOutcome::EnsureCreated => EnsureOutcome::Created,
            v1::EnsureOutcome::EnsureUnchanged => EnsureOutcome::Unchanged,
            v1::EnsureOutcome::EnsureDrift => EnsureOutcome::Drift(diff),
            v1::EnsureOutcome::EnsureUpdated => EnsureOutcome::Updated(diff),
            v1::EnsureOutcome::Unspecified => {
                return Err(unknown_number("outcome", message.outcome));
            }
        };
        let stream_uid = StreamUid::from_wire("stream_uid", &message.stream_uid)?;
        Ok(Self { outcome, stream_uid, revision: message.revision })
    }
}

impl From<&Ensured> for v1::StreamEnsured {
    fn from(ensured: &Ensured) -> Self {
        let (outcome, diff) = match &ensured.outcome {
            EnsureOutcome::Created => (v1::EnsureOutcome::EnsureCreated, [].as_slice()),
            EnsureOutcome::Unchanged => (v1::EnsureOutcome::EnsureUnchanged, [].as_slice()),
            EnsureOutcome::Drift(diff) => (v1::EnsureOutcome::EnsureDrift, diff.as_slice()),
            EnsureOutcome::Updated(diff) => (v1::EnsureOutcome::EnsureUpdated, diff.as_slice()),
        };
        Self {
            outcome: outcome.into(),
            stream_uid: ensured.stream_uid.to_wire(),
            revision: ensured.revision,
            diff: diff.iter().map(v1::FieldDiff::from).collect(),
        }
    }
}

impl TryFrom<v1::FieldDiff> for FieldDiff {
    type Error = InvalidMessage;

    fn try_from(message: v1::FieldDiff) -> Result<Self, Self::Error> {
        let class = match message.class() {
            v1::ChangeClass::ChangeLive => ChangeClass::Live,
            v1::ChangeClass::ChangeImmutable => ChangeClass::Immutable,
            v1::ChangeClass::ChangeDestructive => ChangeClass::Destructive,
            v1::ChangeClass::Unspecified => {
                return Err(unknown_number("diff.class", message.class));
            }
        };
        Ok(Self { path: message.path, actual: message.actual, wanted: message.wanted, class })
    }
}

impl From<&FieldDiff> for v1::FieldDiff {
    fn from(diff: &FieldDiff) -> Self {
        let class = match diff.class {
            ChangeClass::Live => v1::ChangeClass::ChangeLive,
            ChangeClass::Immutable => v1::ChangeClass::ChangeImmutable,
            ChangeClass::Destructive => v1::ChangeClass::ChangeDestructive,
        };
        Self {
            path: diff.path.clone(),
            actual: diff.actual.clone(),
            wanted: diff.wanted.clone(),
            class: class.into(),
        }
    }
}

fn stream_kind(number: i32) -> Result<StreamKind, InvalidSpec> {
    match v1::StreamKind::try_from(number) {
        Ok(v1::StreamKind::StreamPersistent) => Ok(StreamKind::Persistent),
        Ok(v1::StreamKind::StreamEphemeral) => Ok(StreamKind::Ephemeral),
        Ok(v1::StreamKind::Unspecified) | Err(_) => {
            Err(InvalidSpec { path: "kind", reason: format!("{number} is no kind of stream") })
        }
    }
}

fn wire_kind(kind: StreamKind) -> v1::StreamKind {
    match kind {
        StreamKind::Persistent => v1::StreamKind::StreamPersistent,
        StreamKind::Ephemeral => v1::StreamKind::StreamEphemeral,
    }
}

/// An enum field that is unset or of a newer version.
fn unknown_number(field: &'static str, number: i32) -> InvalidMessage {
    invalid(field, format!("has the unknown value {number}"))
}
