//! Failures of shards, catalog and readers, as the client is told of them. What a session itself
//! refuses, it says where it does.

use railgun_cold::reader::ColdReadError;
use railgun_core::dispatcher::HandOverRefused;
use railgun_core::shard::{AppendRefusal, EnsureRefused, Outcome};
use railgun_proto::WireError;
use railgun_types::batch::BatchError;
use railgun_types::{ErrorCode, GroupName, Retry, StreamName};

use crate::catalog::ChangeFailure;
use crate::offload::ReclaimError;
use crate::reader::ReadFailure;
use crate::replica::{NodeStopping, ProposeFailure};
use crate::shard::RequestFailure;

/// A refused batch, as the client is told.
pub(crate) fn append_refusal(refusal: AppendRefusal) -> WireError {
    let mut record = None;
    let (code, actual) = match refusal {
        AppendRefusal::StreamNotFound => (ErrorCode::StreamNotFound, None),
        AppendRefusal::StreamDeleted => (ErrorCode::StreamDeleted, None),
        AppendRefusal::ProducerFenced { epoch } => (ErrorCode::ProducerFenced, Some(epoch.into())),
        AppendRefusal::ProducerUnknown => (ErrorCode::ProducerUnknown, None),
        AppendRefusal::SequenceGap { expected } => (ErrorCode::SequenceGap, Some(expected)),
        AppendRefusal::ExpectedEnd { actual } => {
            (ErrorCode::ExpectedOffsetMismatch, Some(actual.0))
        }
        AppendRefusal::ForgottenSequence { .. } => (ErrorCode::OutcomeUnknown, None),
        // No name that a client can give leads there, and nobody relays a dead letter.
        AppendRefusal::Companion | AppendRefusal::NotDying => (ErrorCode::StreamNotFound, None),
        AppendRefusal::IdRequired { record: at } => {
            record = Some(at);
            (ErrorCode::IdRequired, None)
        }
        AppendRefusal::IdConflict { record: at, original } => {
            record = Some(at);
            (ErrorCode::DuplicateIdConflict, Some(original.0))
        }
        AppendRefusal::IdsFull { record: at } => {
            record = Some(at);
            (ErrorCode::DedupIndexFull, None)
        }
        AppendRefusal::Duplicate { record: at, original } => {
            record = Some(at);
            (ErrorCode::Duplicate, Some(original.0))
        }
    };
    WireError { record, actual, ..WireError::new(code, refusal.to_string()) }
}

/// A request that a shard refused as a whole, as the client is told.
pub(crate) fn request_failure(failure: RequestFailure) -> WireError {
    match failure {
        RequestFailure::Proposal(failure) => propose_failure(failure),
        RequestFailure::HotTierFull | RequestFailure::DiskFull => {
            WireError::new(ErrorCode::HotTierFull, failure.to_string())
        }
        RequestFailure::Damaged => WireError::new(ErrorCode::Unavailable, failure.to_string()),
    }
}

pub(crate) fn change_failure(failure: ChangeFailure) -> WireError {
    match failure {
        ChangeFailure::Proposal(failure) => propose_failure(failure),
        ChangeFailure::TooManyStreams { .. } => {
            // No time makes room for it.
            WireError::new(ErrorCode::QuotaExceeded, failure.to_string()).with_retry(Retry::Never)
        }
        ChangeFailure::DiskFull => WireError::new(ErrorCode::HotTierFull, failure.to_string()),
    }
}

pub(crate) fn propose_failure(failure: ProposeFailure) -> WireError {
    let code = match failure {
        ProposeFailure::NotLeading | ProposeFailure::Busy => ErrorCode::Unavailable,
        ProposeFailure::Unknown => ErrorCode::OutcomeUnknown,
    };
    WireError::new(code, failure.to_string())
}

/// Why log files could not be freed, as whoever asked for it is told.
pub(crate) fn reclaim_failure(failed: &ReclaimError) -> WireError {
    let code = match failed {
        ReclaimError::NodeStopping(_) => ErrorCode::GoingAway,
        // By itself, or when it is asked again.
        _ if failed.is_full() => ErrorCode::HotTierFull,
        ReclaimError::Stopped
        | ReclaimError::Checkpoint(_)
        | ReclaimError::Promote(_)
        | ReclaimError::Log(_) => ErrorCode::Internal,
    };
    WireError::new(code, failed.to_string())
}

pub(crate) fn batch_error(error: &BatchError) -> WireError {
    let (record, actual) = match *error {
        BatchError::Table { index }
        | BatchError::RecordChecksum { index }
        | BatchError::NonCanonical { index }
        | BatchError::InvalidHeader { index, .. } => (Some(index), None),
        BatchError::MessageTooLarge { index, limit, .. } => (Some(index), Some(limit as u64)),
        _ => (None, None),
    };
    let record = record.and_then(|index| u32::try_from(index).ok());
    WireError { record, actual, ..WireError::new(error.code(), error.to_string()) }
}

pub(crate) fn ensure_refused(refused: &EnsureRefused) -> WireError {
    let (code, actual) = match refused {
        EnsureRefused::Deleted => (ErrorCode::StreamDeleted, None),
        EnsureRefused::Kind => (ErrorCode::KindMismatch, None),
        EnsureRefused::Immutable { .. } => (ErrorCode::ImmutableField, None),
        EnsureRefused::Destructive { .. } => (ErrorCode::DestructiveChange, None),
        EnsureRefused::Revision { actual } => (ErrorCode::RevisionConflict, Some(*actual)),
        EnsureRefused::StreamNotFound => (ErrorCode::StreamNotFound, None),
        EnsureRefused::GroupNotFound => (ErrorCode::GroupNotFound, None),
        EnsureRefused::TooManyGroups { .. } => {
            // No time makes room for it.
            let error = WireError::new(ErrorCode::QuotaExceeded, refused.to_string());
            return error.with_retry(Retry::Never);
        }
    };
    WireError { actual, ..WireError::new(code, refused.to_string()) }
}

pub(crate) fn read_failure(failure: &ReadFailure) -> WireError {
    let message = failure.to_string();
    match failure {
        ReadFailure::NodeStopping(_) | ReadFailure::Stopped(_) => {
            WireError::new(ErrorCode::GoingAway, message)
        }
        damaged if damaged.is_damage() => {
            tracing::error!(error = message, "records cannot be read");
            WireError::new(ErrorCode::HotCorrupt, message)
        }
        ReadFailure::Log { .. } | ReadFailure::Index { .. } | ReadFailure::Missing { .. } => {
            // Whoever keeps the node must hear of it, not only who happened to read there.
            tracing::error!(error = message, "records cannot be read");
            WireError::new(ErrorCode::Internal, message)
        }
        ReadFailure::Cold(ColdReadError::Unavailable { retry_after, .. }) => {
            WireError::new(ErrorCode::ColdUnavailable, message)
                .with_retry(Retry::After(*retry_after))
        }
        ReadFailure::Cold(_) => WireError::new(ErrorCode::ColdCorrupt, message),
    }
}

pub(crate) fn not_found(name: &StreamName) -> WireError {
    let message = format!("there is no stream '{name}'");
    WireError::new(ErrorCode::StreamNotFound, message)
}

pub(crate) fn group_not_found(group: &GroupName) -> WireError {
    WireError::new(ErrorCode::GroupNotFound, format!("the stream has no group '{group}'"))
}

pub(crate) fn another_group(group: &GroupName) -> WireError {
    let message = format!("group '{group}' was deleted, and another made in its place");
    WireError::new(ErrorCode::GroupNotFound, message)
}

/// More wants to be said in a group than it can take now.
pub(crate) fn group_busy() -> WireError {
    WireError::new(ErrorCode::Unavailable, "the group has too much to do now: ask again")
}

/// An exclusive group stays with the member that has it.
pub(crate) fn not_handed_over(group: &GroupName, refused: HandOverRefused) -> WireError {
    let code = match refused {
        HandOverRefused::NotExclusive => ErrorCode::GroupModeMismatch,
        HandOverRefused::NobodyElse => ErrorCode::NoOtherMember,
        HandOverRefused::NobodyActive => ErrorCode::Unavailable,
    };
    WireError::new(code, format!("group '{group}' cannot be handed over: {refused}"))
}

pub(crate) fn stopping(gone: &NodeStopping) -> WireError {
    WireError::new(ErrorCode::GoingAway, gone.to_string())
}

pub(crate) fn unexpected(outcome: &Outcome) -> WireError {
    WireError::new(ErrorCode::Internal, format!("the shard answered {outcome:?}"))
}
