//! Consumer groups: what they are to be, and who joins one.

use railgun_types::{
    DlqPatch, DlqSpec, EnsureMode, GroupId, GroupMode, GroupName, GroupPatch, GroupSpec,
    InvalidSpec, Offset, OffsetRange, RequestId, StartPosition, StreamName, StreamUid,
};

use super::ensure::{ensure_mode, request_id, unknown_number, wire_mode};
use super::{EnsureOutcome, InvalidMessage, Uid, invalid};
use crate::v1;

/// A parsed [`v1::EnsureGroup`]. Its values are possible ones (EN-5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsureGroupRequest {
    /// The stream.
    pub stream: StreamName,
    /// The group's name.
    pub group: GroupName,
    /// The settings that are asked for.
    pub patch: GroupPatch,
    /// Where a new group begins.
    pub start: StartPosition,
    /// What to do if the group exists and differs (EN-3).
    pub mode: EnsureMode,
    /// Change only if the group has this revision (EN-6).
    pub if_revision: Option<u64>,
    /// Whether changes may lose data (EN-4).
    pub allow_destructive: bool,
    /// Which request it is, however often it is sent.
    pub request: Option<RequestId>,
}

/// A parsed [`v1::GroupEnsured`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEnsured {
    /// What was done.
    pub outcome: EnsureOutcome,
    /// The group.
    pub group: GroupId,
    /// Its revision now.
    pub revision: u64,
    /// What is likely to be a mistake, for people.
    pub warnings: Vec<String>,
}

/// A parsed [`v1::JoinGroup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinGroupRequest {
    /// The stream.
    pub stream: StreamName,
    /// The group.
    pub group: GroupName,
    /// Only this stream, not another that has got its name.
    pub stream_uid: Option<StreamUid>,
    /// Most messages that the member may have un-settled.
    pub credit_messages: u32,
    /// Most bytes of them.
    pub credit_bytes: u64,
    /// The mode that the member is made for.
    pub mode: Option<GroupMode>,
    /// What it has un-settled.
    pub held: Vec<Held>,
    /// The group that this is of.
    pub group_id: Option<GroupId>,
    /// Whether it gets only what it fetches.
    pub fetches: bool,
}

/// Part of a delivery that a member has not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The delivery.
    pub lease: u64,
    /// Which of its messages.
    pub range: OffsetRange,
    /// The attempt it was.
    pub attempt: u32,
    /// Its fencing token.
    pub epoch: u32,
    /// Whether the application has begun with them.
    pub begun: bool,
    /// How often they had been redriven.
    pub generation: u32,
    /// Encoded bytes of each, by their average.
    pub message_bytes: u32,
}

impl TryFrom<v1::EnsureGroup> for EnsureGroupRequest {
    type Error = InvalidMessage;

    fn try_from(message: v1::EnsureGroup) -> Result<Self, Self::Error> {
        let mode = ensure_mode(message.mode)?;
        Ok(Self {
            stream: StreamName::new(&message.stream)?,
            group: GroupName::new(&message.group)?,
            patch: message.spec.unwrap_or_default().try_into()?,
            start: message.start.map_or(StartPosition::Latest, Into::into),
            mode,
            if_revision: message.if_revision,
            allow_destructive: message.allow_destructive,
            request: request_id(&message.request_id)?,
        })
    }
}

impl From<&EnsureGroupRequest> for v1::EnsureGroup {
    fn from(request: &EnsureGroupRequest) -> Self {
        Self {
            stream: request.stream.to_string(),
            group: request.group.to_string(),
            spec: Some((&request.patch).into()),
            start: Some(request.start.into()),
            mode: wire_mode(request.mode).into(),
            if_revision: request.if_revision,
            allow_destructive: request.allow_destructive,
            request_id: request.request.map(|id| id.to_wire()).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::GroupPatch> for GroupPatch {
    type Error = InvalidMessage;

    fn try_from(message: v1::GroupPatch) -> Result<Self, Self::Error> {
        let patch = Self {
            mode: message.mode.map(group_mode).transpose()?,
            ack_wait_ms: message.ack_wait_ms,
            max_in_flight: message.max_in_flight,
            max_in_flight_bytes: message.max_in_flight_bytes,
            max_unsettled: message.max_unsettled,
            window: message.window,
            backoff_ms: message.backoff.map(|backoff| backoff.delays_ms),
            pin_retention: message.pin_retention,
            owner: message.owner,
            dlq: message.dlq.map(Into::into).unwrap_or_default(),
        };
        patch.validate()?;
        Ok(patch)
    }
}

impl From<&GroupPatch> for v1::GroupPatch {
    fn from(patch: &GroupPatch) -> Self {
        Self {
            mode: patch.mode.map(|mode| wire_group_mode(mode).into()),
            ack_wait_ms: patch.ack_wait_ms,
            max_in_flight: patch.max_in_flight,
            max_in_flight_bytes: patch.max_in_flight_bytes,
            max_unsettled: patch.max_unsettled,
            window: patch.window,
            backoff: patch.backoff_ms.clone().map(|delays_ms| v1::Backoff { delays_ms }),
            pin_retention: patch.pin_retention,
            owner: patch.owner.clone(),
            dlq: (patch.dlq != DlqPatch::default()).then(|| patch.dlq.into()),
        }
    }
}

impl From<v1::DlqPatch> for DlqPatch {
    fn from(message: v1::DlqPatch) -> Self {
        let v1::DlqPatch { enabled, max_attempts, max_distance, max_age_ms, min_attempts } =
            message;
        Self { enabled, max_attempts, max_distance, max_age_ms, min_attempts }
    }
}

impl From<DlqPatch> for v1::DlqPatch {
    fn from(patch: DlqPatch) -> Self {
        let DlqPatch { enabled, max_attempts, max_distance, max_age_ms, min_attempts } = patch;
        Self { enabled, max_attempts, max_distance, max_age_ms, min_attempts }
    }
}

impl From<&DlqSpec> for v1::DlqPatch {
    fn from(spec: &DlqSpec) -> Self {
        let DlqSpec { enabled, max_attempts, max_distance, max_age_ms, min_attempts } = *spec;
        Self {
            enabled: Some(enabled),
            max_attempts: Some(max_attempts),
            max_distance: Some(max_distance),
            max_age_ms: Some(max_age_ms),
            min_attempts: Some(min_attempts),
        }
    }
}

impl TryFrom<v1::GroupPatch> for GroupSpec {
    type Error = InvalidMessage;

    /// A patch in which every field is present, as a server describes a group. What an older server does
    /// not send has its default.
    fn try_from(message: v1::GroupPatch) -> Result<Self, Self::Error> {
        Ok(GroupPatch::try_from(message)?.over_defaults(&DlqSpec::default()))
    }
}

impl From<&GroupSpec> for v1::GroupPatch {
    fn from(spec: &GroupSpec) -> Self {
        Self {
            mode: Some(wire_group_mode(spec.mode).into()),
            ack_wait_ms: Some(spec.ack_wait_ms),
            max_in_flight: Some(spec.max_in_flight),
            max_in_flight_bytes: Some(spec.max_in_flight_bytes),
            max_unsettled: Some(spec.max_unsettled),
            window: Some(spec.window),
            backoff: Some(v1::Backoff { delays_ms: spec.backoff_ms.clone() }),
            pin_retention: Some(spec.pin_retention),
            owner: Some(spec.owner.clone()),
            dlq: Some((&spec.dlq).into()),
        }
    }
}

impl TryFrom<v1::GroupEnsured> for GroupEnsured {
    type Error = InvalidMessage;

    fn try_from(message: v1::GroupEnsured) -> Result<Self, Self::Error> {
        let outcome = EnsureOutcome::from_wire(message.outcome, message.diff)?;
        Ok(Self {
            outcome,
            group: GroupId(message.group_id),
            revision: message.revision,
            warnings: message.warnings,
        })
    }
}

impl From<&GroupEnsured> for v1::GroupEnsured {
    fn from(ensured: &GroupEnsured) -> Self {
        let (outcome, diff) = ensured.outcome.to_wire();
        Self {
            outcome: outcome.into(),
            group_id: ensured.group.0,
            revision: ensured.revision,
            diff,
            warnings: ensured.warnings.clone(),
        }
    }
}

impl TryFrom<v1::JoinGroup> for JoinGroupRequest {
    type Error = InvalidMessage;

    fn try_from(message: v1::JoinGroup) -> Result<Self, Self::Error> {
        if message.credit_messages == 0 || message.credit_bytes == 0 {
            return Err(invalid("credit_messages", "and credit_bytes are to be more than 0"));
        }
        let mode = match message.mode() {
            v1::GroupMode::Unspecified if message.mode == 0 => None,
            _ => Some(group_mode(message.mode)?),
        };
        let held = message.held.iter().map(Held::try_from).collect::<Result<_, _>>()?;
        Ok(Self {
            stream: StreamName::new(&message.stream)?,
            group: GroupName::new(&message.group)?,
            stream_uid: StreamUid::from_wire_if_any("stream_uid", &message.stream_uid)?,
            credit_messages: message.credit_messages,
            credit_bytes: message.credit_bytes,
            mode,
            held,
            group_id: (message.group_id > 0).then_some(GroupId(message.group_id)),
            fetches: message.fetches,
        })
    }
}

impl From<&JoinGroupRequest> for v1::JoinGroup {
    fn from(request: &JoinGroupRequest) -> Self {
        let mode = request.mode.map_or(v1::GroupMode::Unspecified, wire_group_mode);
        Self {
            stream: request.stream.to_string(),
            group: request.group.to_string(),
            stream_uid: request.stream_uid.as_ref().map(Uid::to_wire).unwrap_or_default(),
            credit_messages: request.credit_messages,
            credit_bytes: request.credit_bytes,
            mode: mode.into(),
            held: request.held.iter().map(v1::HeldLease::from).collect(),
            group_id: request.group_id.map_or(0, |id| id.0),
            fetches: request.fetches,
        }
    }
}

impl TryFrom<&v1::HeldLease> for Held {
    type Error = InvalidMessage;

    fn try_from(held: &v1::HeldLease) -> Result<Self, Self::Error> {
        let range = range("held", held.from, held.count)?;
        let v1::HeldLease { lease, attempt, epoch, begun, message_bytes, .. } = *held;
        let generation = held.redrive_generation;
        Ok(Self { lease, range, attempt, epoch, begun, generation, message_bytes })
    }
}

impl From<&Held> for v1::HeldLease {
    fn from(held: &Held) -> Self {
        let Held { lease, range, attempt, epoch, begun, generation, message_bytes } = *held;
        // No delivery has more messages than a batch has records.
        let count = range.len() as u32;
        let (from, redrive_generation) = (range.start.0, generation);
        Self { lease, from, count, attempt, epoch, begun, redrive_generation, message_bytes }
    }
}

/// So many offsets from one on.
///
/// # Errors
/// [`InvalidMessage`] for none, and where there are not as many.
pub fn range(field: &'static str, from: u64, count: u32) -> Result<OffsetRange, InvalidMessage> {
    let end = from.checked_add(count.into()).filter(|_| count > 0);
    let end = end.ok_or_else(|| invalid(field, format!("has {count} offsets from {from} on")))?;
    Ok(OffsetRange::new(Offset(from), Offset(end)))
}

impl TryFrom<&v1::OffsetSpan> for OffsetRange {
    type Error = InvalidMessage;

    fn try_from(span: &v1::OffsetSpan) -> Result<Self, Self::Error> {
        if span.to <= span.from {
            return Err(invalid("spans", format!("has an empty one at {}", span.from)));
        }
        Ok(Self::new(Offset(span.from), Offset(span.to)))
    }
}

impl From<OffsetRange> for v1::OffsetSpan {
    fn from(range: OffsetRange) -> Self {
        Self { from: range.start.0, to: range.end.0 }
    }
}

fn group_mode(number: i32) -> Result<GroupMode, InvalidSpec> {
    match v1::GroupMode::try_from(number) {
        Ok(v1::GroupMode::GroupBalanced) => Ok(GroupMode::Balanced),
        Ok(v1::GroupMode::GroupExclusive) => Ok(GroupMode::Exclusive),
        Ok(v1::GroupMode::Unspecified) | Err(_) => {
            Err(InvalidSpec { path: "mode", reason: format!("{number} is no mode of a group") })
        }
    }
}

/// The mode as a number of the wire.
#[must_use]
pub fn wire_group_mode(mode: GroupMode) -> v1::GroupMode {
    match mode {
        GroupMode::Balanced => v1::GroupMode::GroupBalanced,
        GroupMode::Exclusive => v1::GroupMode::GroupExclusive,
    }
}

/// The mode of a number that a server has sent.
///
/// # Errors
/// [`InvalidMessage`] for one that this version does not know.
pub fn group_mode_of(number: i32) -> Result<GroupMode, InvalidMessage> {
    group_mode(number).map_err(|_| unknown_number("mode", number))
}
