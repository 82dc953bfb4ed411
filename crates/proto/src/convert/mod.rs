//! From messages to types and back. A message is what a peer claims; what these functions return
//! needs no further check.

mod ensure;
mod group;
mod publish;
mod start;
mod subscribe;
mod uid;

use railgun_types::{ErrorCode, InvalidName, InvalidSpec};

use crate::wire_error::WireError;

pub use ensure::{EnsureOutcome, EnsureRequest, Ensured};
pub use group::{
    EnsureGroupRequest, GroupEnsured, Held, JoinGroupRequest, group_mode_of, range, wire_group_mode,
};
pub use publish::ExpectedEnd;
pub use subscribe::SubscribeRequest;
pub use uid::Uid;

/// A field of a message with a value it cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// A name that breaks the rules.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A specification that no stream can have (EN-5).
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
    /// A field that is missing, of the wrong length, or an enum with an unknown number.
    #[error("the field {field} {reason}")]
    Field {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl InvalidMessage {
    /// The number this error has on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Name(_) => ErrorCode::InvalidName,
            Self::Spec(_) => ErrorCode::InvalidSpec,
            Self::Field { .. } => ErrorCode::ProtocolViolation,
        }
    }
}

impl From<InvalidMessage> for WireError {
    fn from(error: InvalidMessage) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

fn invalid(field: &'static str, reason: impl Into<String>) -> InvalidMessage {
    InvalidMessage::Field { field, reason: reason.into() }
}
