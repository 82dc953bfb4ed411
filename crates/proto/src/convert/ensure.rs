//! Ensuring a stream: the wish, the answer, and the differences between them (SEMANTICS §8).

use railgun_types::{
    ChangeClass, DedupFull, DedupPatch, DedupSpec, DlqPatch, EnsureMode, FieldDiff, InvalidSpec,
    RequestId, SpecPatch, StreamKind, StreamName, StreamSpec, StreamUid,
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
        let mode = ensure_mode(message.mode)?;
        let patch = message.spec.unwrap_or_default().try_into()?;
        Ok(Self {
            name: StreamName::new(&message.name)?,
            patch,
            mode,
            if_revision: message.if_revision,
            allow_destructive: message.allow_destructive,
            request: request_id(&message.request_id)?,
        })
    }
}

impl From<&EnsureRequest> for v1::EnsureStream {
    fn from(request: &EnsureRequest) -> Self {
        Self {
            name: request.name.to_string(),
            spec: Some((&request.patch).into()),
            mode: wire_mode(request.mode).into(),
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
            dlq: message.dlq.map(Into::into).unwrap_or_default(),
            dedup: message.dedup.map(DedupPatch::try_from).transpose()?.unwrap_or_default(),
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
            dlq: (patch.dlq != DlqPatch::default()).then(|| patch.dlq.into()),
            dedup: (patch.dedup != DedupPatch::default()).then(|| (&patch.dedup).into()),
        }
    }
}

impl TryFrom<v1::StreamDedup> for DedupPatch {
    type Error = InvalidSpec;

    fn try_from(message: v1::StreamDedup) -> Result<Self, Self::Error> {
        let v1::StreamDedup { window_ms, require_id, max_ids, full } = message;
        Ok(Self { window_ms, require_id, max_ids, full: full.map(dedup_full).transpose()? })
    }
}

impl From<&DedupPatch> for v1::StreamDedup {
    fn from(patch: &DedupPatch) -> Self {
        let DedupPatch { window_ms, require_id, max_ids, full } = *patch;
        let full = full.map(|full| wire_dedup_full(full).into());
        Self { window_ms, require_id, max_ids, full }
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
            dlq: Some((&spec.dlq).into()),
            dedup: Some((&whole(spec.dedup)).into()),
        }
    }
}

impl TryFrom<v1::StreamEnsured> for Ensured {
    type Error = InvalidMessage;

    fn try_from(message: v1::StreamEnsured) -> Result<Self, Self::Error> {
        let outcome = EnsureOutcome::from_wire(message.outcome, message.diff)?;
        let stream_uid = StreamUid::from_wire("stream_uid", &message.stream_uid)?;
        Ok(Self { outcome, stream_uid, revision: message.revision })
    }
}

impl From<&Ensured> for v1::StreamEnsured {
    fn from(ensured: &Ensured) -> Self {
        let (outcome, diff) = ensured.outcome.to_wire();
        Self {
            outcome: outcome.into(),
            stream_uid: ensured.stream_uid.to_wire(),
            revision: ensured.revision,
            diff,
        }
    }
}

impl EnsureOutcome {
    pub(super) fn from_wire(
        outcome: i32,
        diff: Vec<v1::FieldDiff>,
    ) -> Result<Self, InvalidMessage> {
        let diff = diff.into_iter().map(FieldDiff::try_from).collect::<Result<_, _>>()?;
        match v1::EnsureOutcome::try_from(outcome) {
            Ok(v1::EnsureOutcome::EnsureCreated) => Ok(Self::Created),
            Ok(v1::EnsureOutcome::EnsureUnchanged) => Ok(Self::Unchanged),
            Ok(v1::EnsureOutcome::EnsureDrift) => Ok(Self::Drift(diff)),
            Ok(v1::EnsureOutcome::EnsureUpdated) => Ok(Self::Updated(diff)),
            Ok(v1::EnsureOutcome::Unspecified) | Err(_) => Err(unknown_number("outcome", outcome)),
        }
    }

    pub(super) fn to_wire(&self) -> (v1::EnsureOutcome, Vec<v1::FieldDiff>) {
        let (outcome, diff) = match self {
            Self::Created => (v1::EnsureOutcome::EnsureCreated, [].as_slice()),
            Self::Unchanged => (v1::EnsureOutcome::EnsureUnchanged, [].as_slice()),
            Self::Drift(diff) => (v1::EnsureOutcome::EnsureDrift, diff.as_slice()),
            Self::Updated(diff) => (v1::EnsureOutcome::EnsureUpdated, diff.as_slice()),
        };
        (outcome, diff.iter().map(v1::FieldDiff::from).collect())
    }
}

/// What to do about a difference, by its number.
pub(super) fn ensure_mode(number: i32) -> Result<EnsureMode, InvalidMessage> {
    match v1::EnsureMode::try_from(number) {
        Ok(v1::EnsureMode::EnsureCheck) => Ok(EnsureMode::Check),
        Ok(v1::EnsureMode::EnsureWarn) => Ok(EnsureMode::Warn),
        Ok(v1::EnsureMode::EnsureOverwrite) => Ok(EnsureMode::Overwrite),
        Ok(v1::EnsureMode::EnsureUnspecified) | Err(_) => Err(unknown_number("mode", number)),
    }
}

pub(super) fn wire_mode(mode: EnsureMode) -> v1::EnsureMode {
    match mode {
        EnsureMode::Check => v1::EnsureMode::EnsureCheck,
        EnsureMode::Warn => v1::EnsureMode::EnsureWarn,
        EnsureMode::Overwrite => v1::EnsureMode::EnsureOverwrite,
    }
}

pub(super) fn request_id(bytes: &[u8]) -> Result<Option<RequestId>, InvalidMessage> {
    let request = RequestId::from_wire_if_any("request_id", bytes)?;
    if request == Some(RequestId([0; 16])) {
        // Not drawn: another request would have the same.
        return Err(invalid("request_id", "is to be random, and is only zeros"));
    }
    Ok(request)
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

/// A patch in which every field is present.
fn whole(spec: DedupSpec) -> DedupPatch {
    let DedupSpec { window_ms, require_id, max_ids, full } = spec;
    DedupPatch {
        window_ms: Some(window_ms),
        require_id: Some(require_id),
        max_ids: Some(max_ids),
        full: Some(full),
    }
}

fn dedup_full(number: i32) -> Result<DedupFull, InvalidSpec> {
    match v1::DedupFull::try_from(number) {
        Ok(v1::DedupFull::DedupReject) => Ok(DedupFull::Reject),
        Ok(v1::DedupFull::DedupEvictOldest) => Ok(DedupFull::EvictOldest),
        Ok(v1::DedupFull::Unspecified) | Err(_) => {
            let reason = format!("{number} is no way to deal with a full box");
            Err(InvalidSpec { path: "dedup.full", reason })
        }
    }
}

fn wire_dedup_full(full: DedupFull) -> v1::DedupFull {
    match full {
        DedupFull::Reject => v1::DedupFull::DedupReject,
        DedupFull::EvictOldest => v1::DedupFull::DedupEvictOldest,
    }
}

fn wire_kind(kind: StreamKind) -> v1::StreamKind {
    match kind {
        StreamKind::Persistent => v1::StreamKind::StreamPersistent,
        StreamKind::Ephemeral => v1::StreamKind::StreamEphemeral,
    }
}

/// An enum field that is unset or of a newer version.
pub(super) fn unknown_number(field: &'static str, number: i32) -> InvalidMessage {
    invalid(field, format!("has the unknown value {number}"))
}
