//! What a subscriber asks for.

use railgun_types::{Offset, StartPosition, StreamName, StreamUid, Timestamp};

use super::{InvalidMessage, Uid, invalid};
use crate::v1;

/// A parsed [`v1::Subscribe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The stream to read.
    pub name: StreamName,
    /// Where to begin.
    pub start: StartPosition,
    /// Stop before this offset.
    pub until_offset: Option<Offset>,
    /// Stop before the first record at or after this log time.
    pub until_time: Option<Timestamp>,
    /// Stop at the last record there is when the subscription begins.
    pub until_end: bool,
    /// Batch bytes that may be sent before more credit comes.
    pub credit_bytes: u64,
    /// Only this stream, not another that has got its name.
    pub stream: Option<StreamUid>,
}

impl TryFrom<v1::Subscribe> for SubscribeRequest {
    type Error = InvalidMessage;

    fn try_from(message: v1::Subscribe) -> Result<Self, Self::Error> {
        let start = message.start.ok_or_else(|| invalid("start", "is missing"))?;
        Ok(Self {
            name: StreamName::parse_any(&message.stream)?,
            start: start.into(),
            until_offset: message.until_offset.map(Offset),
            until_time: message.until_time_us.map(Timestamp),
            until_end: message.until_end,
            credit_bytes: message.credit_bytes,
            stream: StreamUid::from_wire_if_any("stream_uid", &message.stream_uid)?,
        })
    }
}

impl From<&SubscribeRequest> for v1::Subscribe {
    fn from(request: &SubscribeRequest) -> Self {
        Self {
            stream: request.name.to_string(),
            start: Some(request.start.into()),
            until_offset: request.until_offset.map(|offset| offset.0),
            until_time_us: request.until_time.map(|time| time.0),
            until_end: request.until_end,
            credit_bytes: request.credit_bytes,
            stream_uid: request.stream.as_ref().map(Uid::to_wire).unwrap_or_default(),
        }
    }
}
