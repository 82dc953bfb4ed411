//! What administrative calls take and give.

use railgun_proto::convert::Uid;
use railgun_proto::v1;
use railgun_types::{EnsureMode, Offset, ShardId, StreamName, StreamSpec, StreamUid, Timestamp};

use super::error::AdminError;

/// How to ensure a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnsureOptions {
    /// What to do if the stream exists and differs (EN-3). Default: create if absent, report a
    /// difference.
    pub mode: EnsureMode,
    /// Change only if the stream has this revision (EN-6).
    pub if_revision: Option<u64>,
    /// Whether a change may lose data (EN-4).
    pub allow_destructive: bool,
}

/// What a stream is and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDescription {
    /// Its name.
    pub name: StreamName,
    /// Its identity.
    pub uid: StreamUid,
    /// Its settings.
    pub spec: StreamSpec,
    /// Changes with every change of the settings.
    pub revision: u64,
    /// The shard it is placed on.
    pub shard: ShardId,
    /// When it was made.
    pub created: Timestamp,
    /// First offset it still has.
    pub head: Offset,
    /// Offset that the next record will get.
    pub next_offset: Offset,
    /// Encoded record bytes, both tiers.
    pub record_bytes: u64,
    /// Offset after the last record that is in the bucket.
    pub cold_end: Offset,
    /// Record bytes that are not in the bucket yet.
    pub pending_bytes: u64,
    /// Log time of the oldest record that is not in the bucket.
    pub pending_since: Option<Timestamp>,
    /// Log time of the last record.
    pub last_ts: Option<Timestamp>,
    /// Objects that hold records of the stream.
    pub cold_ranges: u64,
    /// Last failure to upload, if it has not succeeded since.
    pub offload_error: Option<String>,
    /// Message ids that its ID time box holds.
    pub dedup_ids: u64,
    /// How far back an id is known, in ms of log time: the window, or less where ids were forgotten before
    /// their time (DD-5).
    pub dedup_effective_window_ms: u64,
    /// Ids that were forgotten before their time, ever.
    pub dedup_evicted: u64,
}

/// Some streams, in order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPage {
    /// The streams.
    pub streams: Vec<StreamDescription>,
    /// Whether there are others behind the last one.
    pub more: bool,
}

/// How far a stream is in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Offset after the last record that is in the bucket.
    pub cold_end: Offset,
    /// Log files that were freed.
    pub files_retired: u32,
}

/// The objects that hold a stream's records, in order of offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentList {
    /// The stream.
    pub stream_uid: StreamUid,
    /// URL of bucket and prefix, without credentials.
    pub bucket: String,
    /// The ranges.
    pub segments: Vec<Segment>,
}

/// Some of the objects that hold a stream's records, in order of offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPage {
    /// The ranges, with stream and bucket.
    pub list: SegmentList,
    /// Whether there are others behind the last one.
    pub more: bool,
}

/// Consecutive records of a stream in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the first.
    pub base_offset: Offset,
    /// Number of records.
    pub count: u64,
    /// Log time of the first.
    pub min_ts: Timestamp,
    /// Log time of the last.
    pub max_ts: Timestamp,
    /// Encoded record bytes.
    pub record_bytes: u64,
    /// The object's key in the bucket.
    pub key: String,
    /// The object's size in bytes.
    pub object_bytes: u64,
    /// Whether the object holds other streams too.
    pub bundle: bool,
}

impl Segment {
    /// Offset of the last record; the base where there is none.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.count.saturating_sub(1))
    }
}

impl TryFrom<v1::StreamDescription> for StreamDescription {
    type Error = AdminError;

    fn try_from(message: v1::StreamDescription) -> Result<Self, Self::Error> {
        // Zero stands for "none" in these.
        let instant = |us: i64| (us != 0).then_some(Timestamp(us));
        let text = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self {
            name: StreamName::parse_any(&message.name).map_err(AdminError::protocol)?,
            uid: StreamUid::from_wire("stream_uid", &message.stream_uid)
                .map_err(AdminError::protocol)?,
            spec: StreamSpec::try_from(message.spec.unwrap_or_default())
                .map_err(AdminError::protocol)?,
            revision: message.revision,
            shard: ShardId(message.shard),
            created: Timestamp(message.created_us),
            head: Offset(message.head),
            next_offset: Offset(message.next_offset),
            record_bytes: message.record_bytes,
            cold_end: Offset(message.cold_end),
            pending_bytes: message.pending_bytes,
            pending_since: instant(message.pending_since_us),
            last_ts: instant(message.last_ts_us),
            cold_ranges: message.cold_ranges,
            offload_error: text(message.offload_error),
            dedup_ids: message.dedup_ids,
            dedup_effective_window_ms: message.dedup_effective_window_ms,
            dedup_evicted: message.dedup_evicted,
        })
    }
}

impl TryFrom<v1::StreamList> for StreamPage {
    type Error = AdminError;

    fn try_from(message: v1::StreamList) -> Result<Self, Self::Error> {
        let streams = message.streams.into_iter().map(StreamDescription::try_from);
        Ok(Self { streams: streams.collect::<Result<_, _>>()?, more: message.more })
    }
}

impl From<v1::StreamSealed> for Sealed {
    fn from(message: v1::StreamSealed) -> Self {
        Self { cold_end: Offset(message.cold_end), files_retired: message.files_retired }
    }
}

impl TryFrom<v1::SegmentList> for SegmentPage {
    type Error = AdminError;

    fn try_from(message: v1::SegmentList) -> Result<Self, Self::Error> {
        let stream_uid = StreamUid::from_wire("stream_uid", &message.stream_uid)
            .map_err(AdminError::protocol)?;
        let segments = message.segments.into_iter().map(Segment::from).collect();
        let list = SegmentList { stream_uid, bucket: message.bucket, segments };
        Ok(Self { list, more: message.more })
    }
}

impl From<v1::Segment> for Segment {
    fn from(message: v1::Segment) -> Self {
        Self {
            base_offset: Offset(message.base_offset),
            count: message.count,
            min_ts: Timestamp(message.min_ts_us),
            max_ts: Timestamp(message.max_ts_us),
            record_bytes: message.record_bytes,
            key: message.key,
            object_bytes: message.object_bytes,
            bundle: message.bundle,
        }
    }
}
